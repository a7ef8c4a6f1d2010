"""Compiles the C++ libraries; everything else is in pyproject.toml. If compiling fails, crossrt is installed without them."""

import os
import platform
import runpy
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = Path("engine/kernels/native")
# The table that also decides at run time where each library is loaded.
PROCESSOR_KINDS = runpy.run_path("engine/kernels/instruction_sets.py")["PROCESSOR_KINDS"]

# -g0, because Python's own flags ask for debugging symbols, which make a library ten times as large. Sanitizers need these
# symbols to report lines, and take very long to compile with all optimizations (scripts/sanitize).
OPTIMIZATION = ["-O1"] if "-fsanitize" in os.environ.get("CXXFLAGS", "") else ["-O3", "-g0"]


class BuildLibraries(build_ext):
    """Compiles as many libraries at once as there are processors. A library that does not compile leaves no older file behind."""

    def finalize_options(self) -> None:
        """Enable parallel compilation."""
        super().finalize_options()
        self.parallel = True

    def build_extension(self, ext: Extension) -> None:
        """Compile one library. If that fails, remove the file of an earlier build, which an editable install would load."""
        try:
            super().build_extension(ext)
        except Exception:
            (SOURCES.parent / Path(self.get_ext_filename(ext.name)).name).unlink(missing_ok=True)
            raise


kernels = [
    Extension(
        f"crossrt.engine.kernels.{kind.library}",
        sources=[str(kind.source)],
        depends=[str(header) for header in sorted(SOURCES.rglob("*.h"))],
        language="c++",
        extra_compile_args=[
            "-std=c++20",
            *OPTIMIZATION,
            "-fno-math-errno",
            "-pthread",
            *kind.compiler_flags,  # its -march overrides one in CFLAGS, which could allow other instructions
            # False alarms of GCC 12: its AVX512 headers use uninitialized registers on purpose.
            "-Wno-uninitialized",
            "-Wno-maybe-uninitialized",
        ],
        extra_link_args=["-pthread"],
        optional=True,
    )
    for kind in PROCESSOR_KINDS
    if platform.machine() in kind.machines
]
# These two libraries need no special instructions, so every machine gets them: tokenization and the processor's instructions.
plain = [
    Extension(
        f"crossrt.engine.kernels.native_{name}",
        sources=[str(SOURCES / f"{name}.cpp")],
        language="c++",
        extra_compile_args=["-std=c++20", *OPTIMIZATION, "-pthread"],
        extra_link_args=["-pthread"],
        optional=True,
    )
    for name in ("wordpiece", "processor")
]
# Microsoft's compiler does not know these flags. The wheel for Windows has the libraries (scripts/wheels).
setup(
    ext_modules=[] if sys.platform == "win32" else [*plain, *kernels],
    cmdclass={"build_ext": BuildLibraries},
)
