#!/usr/bin/env python3
"""Print the requirements of crossrt with some extras, one per line:  scripts/requirements.py export,cpu.

`scripts/environment` uses it to install packages while crossrt itself is compiled.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import tomllib


def requirements(extras: str) -> list[str]:
    """Return the requirements of crossrt and of extras, given as names separated by commas."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def needed(names: str) -> Iterator[str]:
        for name in names.split(","):
            for line in project["optional-dependencies"][name]:
                own = re.fullmatch(r"crossrt\[(.+)\]", line)
                yield from needed(own[1]) if own else [line]

    return list(dict.fromkeys([*project["dependencies"], *needed(extras)]))


if __name__ == "__main__":
    print(*requirements(sys.argv[1]), sep="\n")
