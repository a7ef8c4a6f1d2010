"""Compiled libraries of crossrt's own, which an installation may lack. All lie in engine/kernels/."""

import ctypes
import logging
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

FOLDER = Path(__file__).with_name("kernels")
WHEEL_SUFFIXES = (".so", ".dylib", ".dll")
"""What scripts/wheels calls the libraries: they need no Python, so one wheel is for all versions of Python."""

logger = logging.getLogger("crossrt")


def native_library(name: str) -> Path | None:
    """Return the file of a compiled library, such as `native_avx512`, or None if this installation does not have it.

    A library that was compiled by an installation from source has the suffix of this Python's extensions, and comes first.
    """
    suffixes = dict.fromkeys((*EXTENSION_SUFFIXES, *WHEEL_SUFFIXES))
    return next((file for suffix in suffixes if (file := FOLDER / f"{name}{suffix}").is_file()), None)


def load_library(file: Path, function: str, interface: int) -> ctypes.CDLL | None:
    """Load a compiled library.

    Returns None, with a warning, for a file that cannot be loaded, such as another machine's, and for one that was compiled for
    another version of crossrt: its `function` does not return `interface`, and calls to it would read garbage.
    """
    try:
        library = ctypes.CDLL(str(file))
    except OSError as error:
        logger.warning("%s is not used: it cannot be loaded (%s)", file, error)
        return None
    try:
        found = getattr(library, function)()
    except AttributeError:
        found = "none"
    if found != interface:
        logger.warning(
            "%s is not used: it was compiled for another version of crossrt (interface %s, expected %d); install crossrt again",
            file,
            found,
            interface,
        )
        return None
    return library
