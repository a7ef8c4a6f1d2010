"""Finds and loads crossrt's compiled libraries. They are in engine/kernels/; an installation may lack them."""

import ctypes
import logging
import platform
import struct
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from .errors import BackendError
from .native_functions import FUNCTIONS

FOLDER = Path(__file__).with_name("kernels")
WHEEL_SUFFIXES = (".so", ".dylib", ".dll")
"""Suffixes that scripts/wheels.py gives the libraries. They do not depend on Python, so one wheel serves all Python versions."""
ELF_HEADER = struct.Struct("<6s12xH20xQ10xHH2x")
"""The header of a 64-bit ELF file: its first bytes, the architecture, and the offset of the section table with the size and
number of its entries."""
ELF_64 = b"\x7fELF\x02\x01"
ELF_MACHINES = {62: "x86_64", 183: "aarch64"}
"""Number of an architecture in that header -> its name in `platform.machine()`."""

logger = logging.getLogger("crossrt")


def native_library(name: str) -> Path | None:
    """Return the file of a compiled library, such as `native_avx512`, or None if this installation does not have it.

    A library that was compiled during an installation from source takes precedence. It has the suffix of this Python's
    extensions.
    """
    suffixes = dict.fromkeys((*EXTENSION_SUFFIXES, *WHEEL_SUFFIXES))
    return next((file for suffix in suffixes if (file := FOLDER / f"{name}{suffix}").is_file()), None)


def open_library(file: Path, function: str, interface: int) -> ctypes.CDLL:
    """Load a compiled library, and declare its functions (`FUNCTIONS`).

    Raises BackendError, saying why, for a file that cannot be loaded, such as a damaged one or one for another machine. Also
    raises it for a library of another version of crossrt, since calls to it would read garbage. Such a library lacks functions,
    or its `function` does not return `interface`.
    """
    try:
        if _is_cut_off(file):
            raise OSError("it is shorter than its header says")
        library = ctypes.CDLL(str(file))
    except OSError as error:
        why = _other_machine(file) or str(error).removeprefix(f"{file}: ")
        raise BackendError(f"{file} cannot be loaded ({why}); install crossrt again") from error
    try:
        found = getattr(library, function)()
    except AttributeError:
        found = "none"
    if found != interface:
        raise BackendError(
            f"{file} was compiled for another version of crossrt (interface {found}, expected {interface}); install crossrt "
            "again"
        )
    for name, (result, arguments) in FUNCTIONS[function].items():
        try:
            declared = getattr(library, name)
        except AttributeError as error:
            raise BackendError(f"{file} lacks the function {name}; install crossrt again") from error
        declared.restype, declared.argtypes = result, arguments
    return library


def load_library(file: Path, function: str, interface: int) -> ctypes.CDLL | None:
    """Load a compiled library that crossrt can do without. Returns None, with a warning, if `open_library` raises an error."""
    try:
        return open_library(file, function, interface)
    except BackendError as error:
        logger.warning("%s. It is not used", error)
        return None


def _is_cut_off(file: Path) -> bool:
    """Tell whether the end of a library for Linux is missing, as after an interrupted copy.

    The loader would not notice: it maps the file, and SIGBUS ends the process when it reads the missing part. GCC's and Zig's
    linkers write the section table last, so a file that ends before the end of that table is cut off.
    """
    kind, _, sections, size, count = _elf_header(file)
    return kind == ELF_64 and sections + size * count > file.stat().st_size


def _other_machine(file: Path) -> str:
    """Return a message if a library for Linux is of another architecture, otherwise an empty string.

    The loader only says that it cannot open the file.
    """
    kind, number, *_ = _elf_header(file)
    machine = ELF_MACHINES.get(number, f"architecture {number}")
    if kind != ELF_64 or machine == platform.machine():
        return ""
    return f"it is for {machine}, and this is {platform.machine()}"


def _elf_header(file: Path) -> tuple[bytes, int, int, int, int]:
    """Return the fields of `ELF_HEADER`; zeros for a file that has no header or cannot be read."""
    try:
        with file.open("rb") as opened:
            found: tuple[bytes, int, int, int, int] = ELF_HEADER.unpack(opened.read(ELF_HEADER.size))
            return found
    except (OSError, struct.error):
        return b"", 0, 0, 0, 0
