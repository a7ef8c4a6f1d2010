"""Compiles what is in C++; all else is in pyproject.toml. Where that fails, crossrt is installed without it."""

import os
import platform
import sys
from pathlib import Path

from setuptools import Extension, setup

# A library is loaded only on a processor that has all that it was compiled for: see NATIVE_FLAGS in engine/backends/registry.py.
KERNELS = {"avx512": ["f", "bw", "dq", "vl"], "avx512_bf16": ["f", "bw", "dq", "vl", "vnni", "bf16"]}

# Python asks for symbols, which make a library ten times as large. Sanitizers name lines by them, and take very long to compile
# with all optimizations (scripts/sanitize).
LEVEL = ["-O1"] if "-fsanitize" in os.environ.get("CXXFLAGS", "") else ["-O3", "-g0"]

kernels = [
    Extension(
        f"crossrt.engine.kernels.native_{name}",
        sources=[f"engine/kernels/native/{name}.cpp"],
        depends=[str(header) for header in Path("engine/kernels/native").glob("*.h")],
        language="c++",
        extra_compile_args=[
            "-std=c++20",
            *LEVEL,
            "-fno-math-errno",
            "-pthread",
            "-march=x86-64",  # whatever CFLAGS say, nothing but what is named here
            "-mfma",
            *[f"-mavx512{flag}" for flag in flags],
            # GCC takes the "undefined" registers of its own headers for uninitialised ones.
            "-Wno-uninitialized",
            "-Wno-maybe-uninitialized",
        ],
        extra_link_args=["-pthread"],
        optional=True,
    )
    for name, flags in KERNELS.items()
]
# Tokenization is for every machine: nothing in it depends on the processor.
wordpiece = Extension(
    "crossrt.engine.kernels.native_wordpiece",
    sources=["engine/kernels/native/wordpiece.cpp"],
    language="c++",
    extra_compile_args=["-std=c++20", *LEVEL, "-pthread"],
    extra_link_args=["-pthread"],
    optional=True,
)
extensions = [wordpiece, *kernels] if platform.machine() in ("x86_64", "AMD64") else [wordpiece]
setup(ext_modules=[] if sys.platform == "win32" else extensions)
