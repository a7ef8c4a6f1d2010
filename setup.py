"""Compiles the C++ libraries; everything else is in pyproject.toml. Where compiling fails, crossrt is installed without them."""

import os
import platform
import runpy
import sys
from pathlib import Path

from setuptools import Extension, setup

SOURCES = Path("engine/kernels/native")
# The flags of each library, from the table that decides at run time where it is loaded.
INSTRUCTION_SETS = runpy.run_path("engine/kernels/instruction_sets.py")

# -g0, because Python's own flags ask for debugging symbols, which make a library ten times as large. Sanitizers name lines by
# these symbols, and take very long to compile with all optimizations (scripts/sanitize).
OPTIMIZATION = ["-O1"] if "-fsanitize" in os.environ.get("CXXFLAGS", "") else ["-O3", "-g0"]

kernels = [
    Extension(
        f"crossrt.engine.kernels.{library}",
        sources=[str(SOURCES / f"{library.removeprefix('native_')}.cpp")],
        depends=[str(header) for header in sorted(SOURCES.glob("*.h"))],
        language="c++",
        extra_compile_args=[
            "-std=c++20",
            *OPTIMIZATION,
            "-fno-math-errno",
            "-pthread",
            "-march=x86-64",  # overrides a -march in CFLAGS: only the instructions that are named here
            *INSTRUCTION_SETS["compiler_flags"](instructions),
            # False alarms of GCC 12: its AVX512 headers use uninitialized registers on purpose.
            "-Wno-uninitialized",
            "-Wno-maybe-uninitialized",
        ],
        extra_link_args=["-pthread"],
        optional=True,
    )
    for library, instructions in INSTRUCTION_SETS["LIBRARIES"].items()
]
# Tokenization depends on no instructions, so every machine gets it.
wordpiece = Extension(
    "crossrt.engine.kernels.native_wordpiece",
    sources=[str(SOURCES / "wordpiece.cpp")],
    language="c++",
    extra_compile_args=["-std=c++20", *OPTIMIZATION, "-pthread"],
    extra_link_args=["-pthread"],
    optional=True,
)
extensions = [wordpiece, *kernels] if platform.machine() in ("x86_64", "AMD64") else [wordpiece]
setup(ext_modules=[] if sys.platform == "win32" else extensions)
