"""Links of the documents lead somewhere, and the files that they name are there."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = [*sorted(REPOSITORY.glob("*.md")), *sorted((REPOSITORY / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
NAMED_FILE = re.compile(
    r"`((?:engine|export|calibration|evaluation|speed|report|commands|scripts|tests|benchmarks)/[\w./]+)`"
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


def test_documents_are_tracked() -> None:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    assert set(DOCUMENTS) <= {REPOSITORY / name for name in listed.stdout.splitlines()}
