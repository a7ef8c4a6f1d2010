"""The kinds of processor that the tests can run as, and how one process, with its children, is made to see a lesser one.

`python tests/processors.py` prints the lesser kinds that this machine can run as, `python tests/processors.py --others`
the kinds that it cannot: `scripts/test` asks for both.

What is restricted: crossrt reads the processor's flags from `crossrt.engine.hardware.cpus.CPUINFO`, which becomes a file with
fewer of them, in children too (`as_processor/sitecustomize.py`). OpenVINO detects instructions by itself; it obeys
OV_CPU_MAX_ISA (since 2026.4; it decides whether OpenVINO has BF16) and ONEDNN_MAX_CPU_ISA (which PyTorch's copy of oneDNN
obeys too). An older OpenVINO lists BF16 whatever `--processor` says, so a test that needs to know asks OpenVINO.
What is not restricted: ONNX Runtime and the rest of PyTorch, which have no such setting, and OpenVINO on ARM.
"""

import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path

DESCRIBED = Path("/proc/cpuinfo")
X86 = platform.machine() in ("x86_64", "AMD64") and DESCRIBED.exists()
"""Whether the kinds below are kinds of this machine, and their flags can be hidden."""
HOOK = Path(__file__).parent / "as_processor"
"""On the path of child processes, whose interpreters import `sitecustomize` from it."""
OPTIONAL = re.compile(
    r"avx\w*|amx_\w+|fma|fma4|f16c|vaes|vpclmulqdq|gfni"  # of x86-64
    r"|asimd|asimddp|i8mm|bf16|sve\w*|sme\w*"  # of ARM
)
"""Flags that a kind lacks unless it names them. Others, such as SSE4.2, every x86-64 processor that OpenVINO supports has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of processor: the optional flags that it has, and which kernels compute FP32 and INT8 there.

    `fp32` and `int8` are names of the native kernels' kinds; None where there are none. `onednn` is oneDNN's name for the kind,
    which those of ARM do not need.
    """

    name: str
    flags: frozenset[str]
    fp32: str | None
    int8: str | None
    onednn: str = ""


AVX2 = frozenset({"avx", "avx2", "fma", "f16c"})
AVX512 = AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}
VNNI = AVX512 | {"avx512_vnni"}
BF16 = VNNI | {"avx512_bf16"}
AMX = BF16 | {"avx_vnni", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"}
NEON_DOT = frozenset({"asimd", "asimddp"})
KINDS = {
    kind.name: kind
    for kind in (
        # Also what a processor of another architecture is.
        Kind(name="generic", flags=frozenset(), onednn="SSE41", fp32=None, int8=None),
        Kind(name="avx2", flags=AVX2, onednn="AVX2", fp32="avx2", int8="avx2"),
        Kind(name="avx2_vnni", flags=AVX2 | {"avx_vnni"}, onednn="AVX2_VNNI", fp32="avx2_vnni", int8="avx2_vnni"),
        Kind(name="avx512", flags=AVX512, onednn="AVX512_CORE", fp32="avx512", int8="avx2"),
        Kind(name="avx512_vnni", flags=VNNI, onednn="AVX512_CORE_VNNI", fp32="avx512", int8="avx512"),
        Kind(name="avx512_bf16", flags=BF16, onednn="AVX512_CORE_BF16", fp32="avx512_bf16", int8="avx512_bf16"),
        # The kernels for AMX are taken only where they are named, and OpenVINO may compute INT8.
        Kind(name="amx", flags=AMX, onednn="AVX512_CORE_AMX", fp32="avx512_bf16", int8="avx512_bf16"),
        Kind(name="neon", flags=frozenset({"asimd"}), fp32="neon", int8="neon"),
        Kind(name="neon_dot", flags=NEON_DOT, fp32="neon_dot", int8="neon_dot"),
        Kind(name="neon_bf16", flags=NEON_DOT | {"i8mm", "bf16"}, fp32="neon_bf16", int8="neon_bf16"),
    )
}
"""From the least to the most capable: those of x86-64, then those of ARM."""


def flags_of(described: str) -> frozenset[str]:
    """Return the flags that every processor of a description like /proc/cpuinfo has; empty where it has none."""
    sets = [frozenset(flags.split()) for flags in re.findall(r"^(?:flags|Features)\s*:(.*)$", described, re.MULTILINE)]
    return frozenset.intersection(*sets) if sets else frozenset()


def executable(flags: frozenset[str]) -> list[str]:
    """Return the kinds that a processor with these flags can run as, the most capable last."""
    return [kind.name for kind in KINDS.values() if kind.flags <= flags]


def restricted(described: str, kind: str) -> str:
    """Return a description without the flags that a kind lacks."""
    kept = KINDS[kind].flags

    def without(line: re.Match[str]) -> str:
        flags = (flag for flag in line[2].split() if flag in kept or not OPTIONAL.fullmatch(flag))
        return f"{line[1]} {' '.join(flags)}"

    return re.sub(r"^((?:flags|Features)\s*:)(.*)$", without, described, flags=re.MULTILINE)


def lacking(kind: str) -> str:
    """Say why this machine cannot run as a kind of processor; empty when it can."""
    flags = flags_of(_described())
    lacks = sorted(KINDS[kind].flags - flags)
    if not lacks:
        return ""
    return f"this machine lacks {', '.join(lacks)}; it can run as {', '.join(executable(flags))}"


def run_as(kind: str, folder: Path) -> None:
    """Make this process and its children see only what a kind has. `folder` gets a file that must outlive them.

    Call it before torch or OpenVINO is imported: both read their setting once.
    """
    from crossrt.engine.hardware import cpus

    file = folder / "cpuinfo"
    file.write_text(restricted(_described(), kind))
    cpus.CPUINFO = file
    os.environ["CROSSRT_TESTS_CPUINFO"] = str(file)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HOOK), os.environ.get("PYTHONPATH"))))
    if platform.machine() in ("x86_64", "AMD64"):
        os.environ["OV_CPU_MAX_ISA"] = os.environ["ONEDNN_MAX_CPU_ISA"] = KINDS[kind].onednn


def openvino_has_bf16() -> bool:
    """Tell whether OpenVINO finds BF16 in this processor, or in what `--processor` has left of it."""
    import openvino

    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _described() -> str:
    return DESCRIBED.read_text(encoding="utf-8") if DESCRIBED.exists() else ""


if __name__ == "__main__":
    able = executable(flags_of(_described()))
    print(*([kind for kind in KINDS if kind not in able] if "--others" in sys.argv else able[:-1]), sep="\n")
