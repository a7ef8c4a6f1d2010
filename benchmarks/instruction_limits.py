"""`limits` returns the environment in which other runtimes see only the instructions of a kind of processor."""

import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ARCH_PRCTL, ARCH_SET_CPUID = 158, 0x1012
"""Linux's system call arch_prctl(2) on x86-64, and its code for CPUID faulting. The argument 0 makes CPUID fault."""
SOURCE = Path(__file__).with_name("hide_instructions.c")
BITS = {
    "avx512f": (7, 0, 1, 16),
    "avx512dq": (7, 0, 1, 17),
    "avx512ifma": (7, 0, 1, 21),
    "avx512cd": (7, 0, 1, 28),
    "avx512bw": (7, 0, 1, 30),
    "avx512vl": (7, 0, 1, 31),
    "avx512vbmi": (7, 0, 2, 1),
    "avx512_vbmi2": (7, 0, 2, 6),
    "avx512_vnni": (7, 0, 2, 11),
    "avx512_bitalg": (7, 0, 2, 12),
    "avx512_vpopcntdq": (7, 0, 2, 14),
    "avx512_vp2intersect": (7, 0, 3, 8),
    "amx_bf16": (7, 0, 3, 22),
    "avx512_fp16": (7, 0, 3, 23),
    "amx_tile": (7, 0, 3, 24),
    "amx_int8": (7, 0, 3, 25),
    "avx_vnni": (7, 1, 0, 4),
    "avx512_bf16": (7, 1, 0, 5),
    "amx_fp16": (7, 1, 0, 21),
    "avx_ifma": (7, 1, 0, 23),
    "avx_vnni_int8": (7, 1, 3, 4),
    "avx_ne_convert": (7, 1, 3, 5),
    "avx_vnni_int16": (7, 1, 3, 10),
    "avx10": (7, 1, 3, 19),
}
"""CPUID's flag for each instruction set: leaf, subleaf, register (EAX 0 to EDX 3), bit. From the Intel SDM, volume 2A."""
AMX = {"amx_tile", "amx_int8", "amx_bf16", "amx_fp16"}
CASCADE_LAKE = {"avx512f", "avx512dq", "avx512cd", "avx512bw", "avx512vl", "avx512_vnni"}
SEEN = {
    "avx2": set(),
    "avx2_vnni": {"avx_vnni"},
    "avx512": CASCADE_LAKE,
    "avx512_bf16": {*BITS} - AMX,
    "amx": {*BITS},
}
"""The instruction sets of `BITS` that stay visible, by kind of kernels."""
VARIABLES = {
    "avx2": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "avx2_vnni": {"ONEDNN_MAX_CPU_ISA": "AVX2_VNNI", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"},
    "avx512_bf16": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
    "amx": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"},
}
"""Settings of oneDNN, PyTorch and MKL that limit their instructions, by kind of kernels. OpenVINO's and ONNX Runtime's products
in FP32 obey none of them."""


def hides() -> bool:
    """Tell whether CPUID can fault here, so that instructions can be hidden from every library."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return False
    # The argument 1 lets CPUID run without faults, which is the default, so this changes nothing. Processors and sandboxes
    # without CPUID faulting return an error.
    return bool(ctypes.CDLL(None).syscall(ARCH_PRCTL, ARCH_SET_CPUID, 1) == 0)


def limits(kind: str, folder: Path) -> Mapping[str, str]:
    """Return environment variables that limit a process's libraries to the instructions of a kind of kernels.

    Where instructions can be hidden, the library that hides them is compiled into `folder`. Elsewhere only the runtimes' own
    settings are returned, which OpenVINO and ONNX Runtime obey in part or not at all.
    """
    own = {**VARIABLES[kind]}
    if "ONEDNN_MAX_CPU_ISA" in own:
        own |= dict.fromkeys(("DNNL_MAX_CPU_ISA", "OV_CPU_MAX_ISA"), own["ONEDNN_MAX_CPU_ISA"])
    if not hides():
        return own
    library = folder / "hide_instructions.so"
    if not library.exists():
        compiler = os.environ.get("CC", "cc")
        subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE)], check=True)
    hidden = [".".join(map(str, place)) for name, place in BITS.items() if name not in SEEN[kind]]
    return {**own, "LD_PRELOAD": str(library), "CROSSRT_HIDDEN_CPUID": " ".join(hidden)}
