"""Imports go one way: each room imports only those before it, and no files import one another in a circle."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]

ROOMS = (
    "engine",  # errors, precision, activations, labels, options, sentence-transformers' keywords
    "engine.files",
    "engine.process",
    "engine.hardware",
    "engine.text",
    "engine.store",
    "engine.bundle",
    "engine.kernels",
    "engine.batching",
    "engine.cuda",
    "engine.backends",
    "engine.selection",
    "engine.runtime",
    "engine, the top",  # what users hold
    "integrations",
    "integrations.triton",
    "calibration",
    "export.checkpoint",
    "export.bundle",
    "export.graph",
    "export.precision",
    "export.parity",
    "export.steps",
    "export.tensorrt",
    "export.existing",
    "export",
    "measurement",
    "evaluation",
    "speed.result",
    "speed.ceiling",
    "speed",
    "report",
    "report.charts",
    "report.page",
    "server.dialects",
    "server.http",
    "server.models",
    "server",
    "distributed",
    "commands.shared",
    "commands",
)
"""The rooms of the package in the order in which data passes. A module may import what stands before its room, and its room."""
TOP = ("engine.attributes", "engine.token_model", "engine.cross_encoder", "engine.auto_model", "engine.cascade")
"""Modules of `engine` that stand after all of its rooms."""


def modules(root: Path) -> dict[str, Path]:
    """Return the package's modules, but the packages' own files, by dotted name."""
    folders = dict.fromkeys(room.partition(".")[0].partition(",")[0] for room in ROOMS)
    return {
        ".".join(file.relative_to(root).with_suffix("").parts): file
        for folder in folders
        for file in sorted((root / folder).rglob("*.py"))
        if file.name != "__init__.py"
    }


def room_of(module: str) -> str:
    return "engine, the top" if module in TOP else module.rpartition(".")[0]


def imports(module: str, file: Path, known: dict[str, Path]) -> Iterator[tuple[str, int]]:
    """Yield the modules of the package that a module imports, wherever it does so, with the line."""
    package = module.split(".")[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            source = ".".join(filter(None, base))
            for name in [source] if source in known else [f"{source}.{alias.name}" for alias in node.names]:
                if name in known:
                    yield name, node.lineno


def against_the_order(root: Path) -> list[str]:
    """Return each import of a later room, as `file:line imports module`."""
    known = modules(root)
    strangers = {room_of(module) for module in known} - set(ROOMS)
    assert not strangers, f"no rooms in the list: {sorted(strangers)}"
    return [
        f"{file.relative_to(root)}:{line} imports {target}"
        for module, file in known.items()
        for target, line in imports(module, file, known)
        if ROOMS.index(room_of(target)) > ROOMS.index(room_of(module))
    ]


def circles(root: Path) -> list[str]:
    """Return the circles of files that import one another."""
    known = modules(root)
    after = {module: {target for target, _ in imports(module, file, known)} for module, file in known.items()}
    found, done = [], set()

    def visit(module: str, way: list[str]) -> None:
        if module in way:
            found.append(" > ".join([*way[way.index(module) :], module]))
        elif module not in done:
            for target in sorted(after[module]):
                visit(target, [*way, module])
            done.add(module)

    for module in known:
        visit(module, [])
    return found


def test_each_room_imports_only_those_before_it() -> None:
    assert against_the_order(REPOSITORY) == []


def test_no_files_import_one_another_in_a_circle() -> None:
    assert circles(REPOSITORY) == []


def test_no_room_has_more_files_than_can_be_overlooked() -> None:
    counts = {room: sum(1 for module in modules(REPOSITORY) if room_of(module) == room) for room in ROOMS}
    assert {room: count for room, count in counts.items() if count > 18} == {}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    for name, text in {
        "engine/errors.py": "",
        "engine/text/words.py": "from ..errors import E\n",
        "engine/bundle/bundle.py": "from ..text import words\n",
        "export/export.py": "from ..engine.bundle.bundle import B\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def test_an_import_against_the_order_is_named_with_its_line(package: Path) -> None:
    assert against_the_order(package) == circles(package) == []
    (package / "engine/errors.py").write_text("x = 1\ndef f():\n    from .text import words\n")
    assert against_the_order(package) == ["engine/errors.py:3 imports engine.text.words"]
    assert circles(package) == ["engine.text.words > engine.errors > engine.text.words"]
