"""Compiled libraries of crossrt's own, which an installation may lack."""

import ctypes
import logging
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

logger = logging.getLogger("crossrt")


def native_library(name: str) -> Path | None:
    """Return the file of a compiled library, such as `native_avx512`, or None if this installation does not have it."""
    files = (Path(__file__).with_name(f"{name}{suffix}") for suffix in EXTENSION_SUFFIXES)
    return next((file for file in files if file.is_file()), None)


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
