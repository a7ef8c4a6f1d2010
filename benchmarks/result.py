"""What stands beside every figure: machine, versions, commit."""

import json
from pathlib import Path
from typing import Any

from crossrt.evaluation.facts import commit, machine, versions


def with_facts(result: dict[str, Any]) -> dict[str, Any]:
    """Put machine, versions and commit before a result."""
    return {"machine": machine(), "versions": versions(), "commit": commit()} | result


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result as JSON, with machine, versions and commit."""
    path.write_text(json.dumps(with_facts(result), indent=1) + "\n", encoding="utf-8")
