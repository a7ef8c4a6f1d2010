"""Links of the documents lead somewhere, and the files that they name are there."""

import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NAMED_FILE = re.compile(
    r"`((?:engine|integrations|export|calibration|measurement|evaluation|speed|report|server|distributed|commands|scripts|tests|benchmarks)/[\w./]+)`"
)


def without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def anchors(document: Path) -> set[str]:
    """Return the anchors that headings have on the usual sites."""
    headings = re.findall(r"^#+ (.*)$", without_code(document.read_text(encoding="utf-8")), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def broken(document: Path) -> Iterator[str]:
    for target in LINK.findall(without_code(document.read_text(encoding="utf-8"))):
        path, _, anchor = target.partition("#")
        if path.startswith(("http:", "https:", "mailto:")):
            continue
        file = (document.parent / path).resolve() if path else document
        if not file.exists() or (anchor and anchor not in anchors(file)):
            yield target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_link_leads_somewhere(document: Path) -> None:
    assert list(broken(document)) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_file_that_is_named_is_there(document: Path) -> None:
    named = set(NAMED_FILE.findall(document.read_text(encoding="utf-8")))
    assert sorted(name for name in named if not (REPOSITORY / name).exists()) == []


def test_a_broken_link_and_a_missing_anchor_are_found(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("# A page: two\n[a](page.md#a-page-two) [b](other.md) [c](#nowhere)\n```\n[d](code.md)\n```\n")
    assert list(broken(document)) == ["other.md", "#nowhere"]


def test_every_decision_has_its_date() -> None:
    for record in (REPOSITORY / "docs/decisions").glob("0*.md"):
        title, _, second, *_ = record.read_text(encoding="utf-8").splitlines()
        assert title.startswith(f"# {record.name[:4]}: ")
        assert re.match(r"2\d{3}-\d\d-\d\d\b", second), record.name


def test_what_is_called_measured_has_results() -> None:
    """Each such cell of the table of what runs where is a link, which is tested above."""
    rows = re.findall(r"^\|.*\|$", (REPOSITORY / "docs/precisions.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    cells = [cell.strip() for row in rows for cell in row.split("|")]
    measured = [cell for cell in cells if "measured" in cell]
    assert len(measured) > 20
    assert [cell for cell in measured if not cell.startswith("[measured](../benchmarks/results/")] == []


def test_the_picture_of_the_rooms_is_up_to_date(load_script: Callable[[str], ModuleType]) -> None:
    script = load_script("rooms_picture")
    drawn = script.picture(script.rooms())
    assert drawn == script.PICTURE.read_text(encoding="utf-8"), "run scripts/rooms_picture.py"


def test_documents_are_tracked() -> None:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    assert set(DOCUMENTS) <= {REPOSITORY / name for name in listed.stdout.splitlines()}
