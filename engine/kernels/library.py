"""Compiled libraries of crossrt's own, which an installation may lack."""

import ctypes
import logging
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

logger = logging.getLogger("crossrt")


def native_library(name: str) -> Path | None:
    """Return a compiled library by its name, if this installation has it."""
    files = (Path(__file__).with_name(f"{name}{suffix}") for suffix in EXTENSION_SUFFIXES)
    return next((file for file in files if file.is_file()), None)


def loaded(file: Path, function: str, interface: int) -> ctypes.CDLL | None:
    """Load a compiled library. None for one of another machine, and, with a warning, for one that was compiled for another
    version of crossrt: its `function` gives another number than `interface`, or is not there, and calls would read garbage."""
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
