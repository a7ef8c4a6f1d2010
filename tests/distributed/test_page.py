"""The examples of docs/distributed.md, as they stand there."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("ray.serve", reason="crossrt[ray] is not installed")

from .conftest import REPOSITORY

PAGE = (REPOSITORY / "docs/distributed.md").read_text(encoding="utf-8")
BEGIN = 120
"""Seconds within which Ray and the application have started."""


def blocks(heading: str) -> list[str]:
    """Return the code and the output under a heading of the page."""
    section = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```\w+\n(.*?)```", section, flags=re.DOTALL)


@pytest.fixture
def checkout(tmp_path: Path, demo_bundle: Path) -> Iterator[Path]:
    """Return a folder with the demo and its bundle, as a checkout after scripts/quickstart, and `crossrt` on the path."""
    (tmp_path / "demo").symlink_to(REPOSITORY / "demo")
    (tmp_path / "demo-bundle").symlink_to(demo_bundle)
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin/crossrt"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -W ignore -m crossrt "$@"\n')
    command.chmod(0o755)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{command.parent}:{before}"
    yield tmp_path
    os.environ["PATH"] = before


def ran(folder: Path, *command: str) -> str:
    child = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr
    return child.stdout + child.stderr


def test_a_job_on_one_machine(checkout: Path) -> None:
    commands, said, code, printed = blocks("On one machine")
    assert said in ran(checkout, "bash", "-ec", commands)
    first = (checkout / "demo.trec").read_bytes()
    assert len(first.splitlines()) == 10_000
    assert ran(checkout, sys.executable, "-W", "ignore", "-c", code).endswith(printed)  # the parts are there
    assert (checkout / "demo.trec").read_bytes() == first


def test_the_application_of_ray_serve(checkout: Path) -> None:
    code, request, expected = blocks("Ray Serve")
    (checkout / "app.py").write_text(code)
    log = checkout / "app.log"
    with log.open("w") as file:
        app = subprocess.Popen(
            [sys.executable, "app.py"], cwd=checkout, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        end = time.monotonic() + BEGIN
        while "is ready at" not in log.read_text():
            assert app.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        found = json.loads(ran(checkout, "bash", "-ec", request))
    finally:
        app.send_signal(signal.SIGTERM)
        app.wait(60)
    wanted = json.loads(expected)
    assert [each["index"] for each in found] == [each["index"] for each in wanted]
    assert [each["score"] for each in found] == pytest.approx([each["score"] for each in wanted], abs=1e-5)
