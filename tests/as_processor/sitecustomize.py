"""Makes crossrt see the flags of a lesser processor in processes that tests start with `--processor`.

The interpreter imports this module by its name when it starts. crossrt itself is not imported before the program does it:
the program may find another copy.
"""

import os
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any


class Restriction:
    """Finds `crossrt.engine.hardware.cpus` once, by the other finders, and names the file with the flags in it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if name != "crossrt.engine.hardware.cpus":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_restrict(module: ModuleType) -> None:
                execute(module)
                module.__dict__["CPUINFO"] = Path(os.environ["CROSSRT_TESTS_CPUINFO"])

            spec.loader.exec_module = execute_and_restrict  # type: ignore[method-assign]
        return spec


if "CROSSRT_TESTS_CPUINFO" in os.environ:
    sys.meta_path.insert(0, Restriction())
