"""The kinds of processor that the native kernels are compiled for, and the precisions that each kind computes.

This one table decides how the libraries are compiled and where they are loaded. setup.py runs this file by its path, so it
imports nothing of crossrt. Instruction sets have the names of /proc/cpuinfo.
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessorKind:
    """A kind of processor: a set of instructions. Each kind has its own library, `native_NAME`, compiled from native/NAME.cpp.

    - `machines`: the names that `platform.machine()` gives the architecture.
    - `baseline`: the compiler's name of the base architecture, to which `instructions` are added.
    - `instructions`: what the compiler may use anywhere. The library is loaded only on a processor that has all of them.
    - `precisions`: the precisions that the kind computes. For each precision, the further instructions that the processor must
      have. The library uses those through inline assembly.
    - `int8`: the arithmetic of INT8. `exact` sums the products of 8-bit activations and weights without error, so all such
      kinds give the same sums. `narrow` has 7-bit activations, and its accuracy is judged separately.
    - `tried`: whether the library has run as machine code, on such a processor or in an emulator of one. If it has not, the
      kind is used only when it is named.
    - `measured`: whether its speed is known. If it is not, `auto` takes another installed backend.
    """

    name: str
    machines: tuple[str, ...]
    baseline: str
    instructions: tuple[str, ...]
    precisions: Mapping[str, tuple[str, ...]]
    int8: str = "exact"
    tried: bool = True
    measured: bool = True

    @property
    def library(self) -> str:
        """The name of the compiled library."""
        return f"native_{self.name}"

    @property
    def source(self) -> Path:
        """The file that is compiled, relative to the root of the sources."""
        return Path("engine/kernels/native") / f"{self.name}.cpp"

    def lacking(self, precision: str, present: Set[str]) -> tuple[str, ...]:
        """Return the instructions that a precision needs and a processor with the instructions `present` lacks."""
        return tuple(name for name in (*self.instructions, *self.precisions[precision]) if name not in present)

    @property
    def compiler_flags(self) -> list[str]:
        """The flags of GCC and Clang, such as `-mavx512vnni` for `avx512_vnni`, or `-march=armv8.2-a+dotprod` for `asimddp`."""
        if self.machines == AARCH64:
            return ["-march=" + "+".join([self.baseline, *(AARCH64_EXTENSIONS[name] for name in self.instructions)])]
        names = (name.replace("_", "-" if name.startswith("amx") else "") for name in self.instructions)
        return [f"-march={self.baseline}", *(f"-m{name}" for name in names)]


AARCH64 = ("aarch64", "arm64")
"""The architecture's names on Linux and macOS."""
AARCH64_EXTENSIONS = {"asimd": "simd", "asimddp": "dotprod", "i8mm": "i8mm", "bf16": "bf16"}
"""The compiler's names of the instructions."""
NEON_DOT = ("asimd", "asimddp")

X86 = ("x86_64", "AMD64")
AVX2 = ("fma", "avx2", "f16c")
AVX512 = ("fma", "avx512f", "avx512bw", "avx512dq", "avx512vl")
AVX512_BF16 = (*AVX512, "avx512_vnni", "avx512_bf16")

PROCESSOR_KINDS = (
    ProcessorKind(
        name="amx",
        machines=X86,
        baseline="x86-64",
        instructions=(*AVX512_BF16, "amx_tile", "amx_int8", "amx_bf16"),
        precisions={"fp32": (), "int8": (), "bf16": ()},
        tried=False,
        measured=False,
    ),
    # INT8 keeps the queries, keys and values of attention in BF16, so it gains from these instructions too.
    ProcessorKind(
        name="avx512_bf16",
        machines=X86,
        baseline="x86-64",
        instructions=AVX512_BF16,
        precisions={"fp32": (), "int8": (), "bf16": ()},
    ),
    ProcessorKind(
        name="avx512",
        machines=X86,
        baseline="x86-64",
        instructions=AVX512,
        precisions={"fp32": (), "int8": ("avx512_vnni",)},
    ),
    ProcessorKind(
        name="avx2_vnni",
        machines=X86,
        baseline="x86-64",
        instructions=(*AVX2, "avx_vnni"),
        precisions={"fp32": (), "int8": ()},
    ),
    ProcessorKind(
        name="avx2",
        machines=X86,
        baseline="x86-64",
        instructions=AVX2,
        precisions={"fp32": (), "int8": ()},
        int8="narrow",
    ),
    # armv8.2-a also allows atomics and other extensions. Every processor with the dot product has them. Processors with I8MM
    # also have BF16: both are part of Armv8.6.
    ProcessorKind(
        name="neon_bf16",
        machines=AARCH64,
        baseline="armv8.2-a",
        instructions=(*NEON_DOT, "i8mm", "bf16"),
        precisions={"fp32": (), "int8": (), "bf16": ()},
        measured=False,
    ),
    ProcessorKind(
        name="neon_dot",
        machines=AARCH64,
        baseline="armv8.2-a",
        instructions=NEON_DOT,
        precisions={"fp32": (), "int8": ()},
        measured=False,
    ),
    ProcessorKind(
        name="neon",
        machines=AARCH64,
        baseline="armv8-a",
        instructions=("asimd",),
        precisions={"fp32": (), "int8": ()},
        measured=False,
    ),
)
"""The fastest kind of an architecture comes first. A precision is computed by the first kind that supports it and whose
instructions the processor has."""
