"""Which instructions the native kernels are compiled with, and which a precision needs.

The names are those of /proc/cpuinfo. setup.py runs this file by its path to get the compiler's flags, so it imports nothing.
"""

AVX512 = ("fma", "avx512f", "avx512bw", "avx512dq", "avx512vl")
AVX512_BF16 = (*AVX512, "avx512_vnni", "avx512_bf16")

LIBRARIES = {"native_avx512": AVX512, "native_avx512_bf16": AVX512_BF16}
"""By compiled library: what its compiler may use anywhere. It is loaded only on a processor that has all of it."""

PRECISIONS = {"fp32": AVX512, "int8": (*AVX512, "avx512_vnni"), "bf16": AVX512_BF16}
"""By precision: what a processor must have. `native_avx512` has INT8 too, whose VNNI instructions are inline assembly."""


def compiler_flags(instructions: tuple[str, ...]) -> list[str]:
    """Return the flags of GCC and Clang for instructions, such as `-mavx512vnni` for `avx512_vnni`."""
    return [f"-m{name.replace('_', '')}" for name in instructions]
