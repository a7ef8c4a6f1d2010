"""A vulnerability fails the check, and a service that is not there does not."""

import json
import subprocess
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest

FOUND = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2.0"]}
GOOD: dict[str, Any] = {"name": "good", "version": "1.0", "vulns": []}
BAD: dict[str, Any] = {"name": "bad", "version": "1.0", "vulns": [FOUND]}
UNKNOWN: dict[str, Any] = {"name": "unknown", "skip_reason": "Dependency not found on PyPI"}


def listed(*packages: dict[str, Any]) -> str:
    return json.dumps({"dependencies": packages, "fixes": []})


@pytest.mark.parametrize(
    ("status", "written", "code", "said"),
    [
        (0, listed(GOOD, UNKNOWN), 0, "no known vulnerability in 1 packages; 1 are not known"),
        (1, listed(GOOD, BAD), 1, "bad 1.0: PYSEC-1, CVE-1; mended in 2.0"),
        (0, listed(UNKNOWN), 0, "nothing was checked: this index has no advisories for any of 1 packages"),
        (1, "", 0, "nothing was checked: the advisory service cannot be reached (ConnectionError: no route)"),
    ],
)
def test_a_vulnerability_fails_the_check_and_a_missing_service_does_not(
    status: int,
    written: str,
    code: int,
    said: str,
    load_script: Callable[[str], ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    audit = load_script("audit")
    child = subprocess.CompletedProcess([], status, written, "Traceback\nConnectionError: no route\n")
    monkeypatch.setattr(audit.subprocess, "run", lambda *_, **__: child)
    assert audit.main() == code
    assert said in capsys.readouterr().out


def test_a_service_that_never_answers_does_not_fail_it(
    load_script: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wait(*_: Any, **__: Any) -> None:
        raise subprocess.TimeoutExpired([], 600)

    audit = load_script("audit")
    monkeypatch.setattr(audit.subprocess, "run", wait)
    assert audit.main() == 0
    assert "nothing was checked" in capsys.readouterr().out
