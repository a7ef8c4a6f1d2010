"""`write_result` writes a result as JSON, with date, machine, versions and commit."""

import json
from datetime import date
from pathlib import Path
from typing import Any

from crossrt.engine.files.publish import published_file
from crossrt.measurement.environment import commit, machine, versions


def with_facts(result: dict[str, Any]) -> dict[str, Any]:
    """Return the result with date, machine, versions and commit in front."""
    facts = {"date": date.today().isoformat(), "machine": machine(), "versions": versions(), "commit": commit()}
    return facts | result


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a result as JSON, with date, machine, versions and commit."""
    with published_file(path) as file:
        file.write(json.dumps(with_facts(result), indent=1) + "\n")
