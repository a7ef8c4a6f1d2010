#!/usr/bin/env python3
"""Draw the rooms of the code, in the order of tests/test_rooms.py, for docs/architecture.md.

    scripts/rooms_picture.py            # write docs/rooms.svg
    scripts/rooms_picture.py --check    # exit 1 if it is out of date

A room is a folder of code. The picture is narrow enough to be read on a phone. It has its own background, so that it looks the
same on light and dark pages.
"""

import argparse
import ast
import re
import sys
from html import escape
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs/rooms.svg"

HOLDS = {
    "engine": "errors, precisions, options, labels",
    "engine.files": "cache, locks, atomic writes, TREC",
    "engine.process": "child processes, forks, telemetry",
    "engine.hardware": "which processors and GPUs there are",
    "engine.text": "from text to token ids",
    "engine.store": "prepared passages",
    "engine.bundle": "bundles, and how one is found",
    "engine.kernels": "C++ and CUDA, and how it is loaded",
    "engine.batching": "how a request is cut into batches",
    "engine.cuda": "CUDA calls, cuBLAS",
    "engine.backends": "one module for each runtime",
    "engine.selection": "chooses a backend and a precision",
    "engine.runtime": "runs requests, which take turns",
    "engine, the top": "what users hold",
    "integrations": "rerankers for frameworks",
    "integrations.triton": "models for Triton",
    "calibration": "8-bit ranges, ranking measures",
    "export.checkpoint": "checkpoints, PyTorch's scores",
    "export.bundle": "manifest, files for other libraries",
    "export.graph": "writes the ONNX graph",
    "export.precision": "FP16, BF16, INT8, native weights",
    "export.parity": "compares with PyTorch",
    "export.steps": "the steps of an export",
    "export.tensorrt": "builds engines",
    "export.existing": "bundles from others' ONNX files",
    "export": "the export of a checkpoint",
    "measurement": "what evaluation and speed share",
    "evaluation": "ranking quality",
    "speed.result": "stored, printed, compared",
    "speed.ceiling": "what the machine reaches at most",
    "speed": "crossrt bench",
    "report": "results that are read for a page",
    "report.charts": "SVG charts",
    "report.page": "sections, and HTML",
    "server.dialects": "what other servers' clients send",
    "server.http": "sockets, bodies, keys",
    "server.models": "queues, health, scoring",
    "server": "crossrt serve",
    "distributed": "reranking and serving on Ray",
    "commands.shared": "options, arguments, output",
    "commands": "the command line",
}
"""What each room holds, in up to 36 characters."""
CALL = ("engine, the top", "engine.text", "engine.batching", "engine.runtime", "engine.backends", "engine.kernels")
"""The rooms that `predict` passes through on a CPU, in order. The picture numbers them."""
COLOURS = {"engine": "#dbe9f6", "calibration": "#e6e0f3", "export": "#fbe6cf"}
MEASURING = "#e0efdc"
WIDTH, ROW, GAP = 430, 26, 10


def main() -> None:
    """Write the picture, or check it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing")
    drawn = picture(rooms())
    if not parser.parse_args().check:
        PICTURE.write_text(drawn, encoding="utf-8")
    elif drawn != PICTURE.read_text(encoding="utf-8"):
        sys.exit(f"{PICTURE.relative_to(ROOT)} is out of date; run scripts/rooms_picture.py")


def rooms() -> tuple[str, ...]:
    """Return the rooms in the order of the test. Raises ValueError if `HOLDS` does not describe exactly these."""
    tree = ast.parse((ROOT / "tests/test_rooms.py").read_text(encoding="utf-8"))
    values = (
        node.value for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ROOMS"
    )
    found: tuple[str, ...] = ast.literal_eval(next(values))
    if set(found) != set(HOLDS):
        raise ValueError(f"HOLDS and tests/test_rooms.py differ in {sorted(set(found) ^ set(HOLDS))}")
    return found


def half_of(room: str) -> str:
    """Return the folder at the root that a room belongs to."""
    return re.split("[.,]", room)[0]


def picture(order: tuple[str, ...]) -> str:
    """Return the drawing as SVG: a row for each room, the first on top, with a gap between folders at the root."""
    parts: list[str] = []
    top = 44
    for half, group in groupby(order, half_of):
        for room in group:
            parts.append(row(room, top, COLOURS.get(half, MEASURING)))
            top += ROW
        top += GAP
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + 30}" font-family="sans-serif" font-size="12">',
            f'<rect width="{WIDTH}" height="{top + 30}" fill="#ffffff"/>',
            '<text x="12" y="22" font-weight="bold">A room imports only itself and the rooms above it</text>',
            *parts,
            f'<circle cx="21" cy="{top + 10}" r="8" fill="#1f4e79"/>',
            f'<text x="21" y="{top + 14}" fill="#ffffff" font-size="11" text-anchor="middle">1</text>',
            f'<text x="36" y="{top + 14}">the way of one predict() on a CPU, from text to score</text>',
            "</svg>\n",
        ]
    )


def row(room: str, top: int, colour: str) -> str:
    """Return one room as SVG: its path, what it holds and its number in `CALL`."""
    path = "engine/*.py" if room == "engine" else f"{room.split(',')[0].replace('.', '/')}/"
    path = "engine/cross_encoder.py" if room == "engine, the top" else "export/export.py" if room == "export" else path
    number = ""
    if room in CALL:
        number = (
            f'<circle cx="21" cy="{top + 12}" r="8" fill="#1f4e79"/>'
            f'<text x="21" y="{top + 16}" fill="#ffffff" font-size="11" text-anchor="middle">{CALL.index(room) + 1}</text>'
        )
    return (
        f'<rect x="8" y="{top}" width="{WIDTH - 16}" height="{ROW - 3}" rx="3" fill="{colour}"/>{number}'
        f'<text x="38" y="{top + 16}" font-family="monospace" font-size="11.5">{escape(path)}</text>'
        f'<text x="204" y="{top + 16}">{escape(HOLDS[room])}</text>'
    )


if __name__ == "__main__":
    main()
