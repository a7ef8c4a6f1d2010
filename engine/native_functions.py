"""The functions of the compiled libraries that Python calls, with their signatures.

This table defines what a library must export. `open_library` refuses a library that lacks a function, and scripts/wheels.py
refuses to pack one. scripts/wheels.py runs this file by its path, so this file imports nothing from crossrt.
"""

from collections.abc import Mapping
from ctypes import c_bool, c_char_p, c_int32, c_int64, c_uint8, c_uint32, c_void_p
from typing import Any

Signature = tuple[type[Any] | None, tuple[type[Any], ...]]
"""The return type of a function, and its argument types."""

FUNCTIONS: Mapping[str, Mapping[str, Signature]] = {
    "crossrt_interface": {
        "crossrt_open": (c_int32, (c_void_p, c_void_p, c_int64, c_void_p)),
        "crossrt_close": (None, (c_void_p,)),
        "crossrt_new_workspace": (c_void_p, (c_void_p, c_int32)),
        "crossrt_free_workspace": (None, (c_void_p,)),
        "crossrt_score": (c_int32, (c_void_p, c_void_p, c_int64, *[c_void_p] * 5)),
    },
    "crossrt_wordpiece_interface": {
        "crossrt_wordpiece_open": (c_void_p, (c_char_p, c_int64, c_int64, c_int32, c_int32)),
        "crossrt_wordpiece_close": (None, (c_void_p,)),
        "crossrt_wordpiece_largest_id": (c_int32, (c_void_p,)),
        "crossrt_wordpiece_add_token": (c_bool, (c_void_p, c_char_p, c_int64)),
        "crossrt_wordpiece_knows": (c_bool, (c_void_p, c_uint32)),
        "crossrt_wordpiece_add": (c_bool, (c_void_p, c_uint32, c_uint8, c_char_p, c_int32, c_int32)),
        "crossrt_wordpiece_tokens": (
            c_int64,
            (c_void_p, c_char_p, c_void_p, c_int64, c_int64, c_int32, c_void_p, c_void_p),
        ),
    },
    "crossrt_processor_interface": {
        "crossrt_processor_instructions": (None, (c_char_p, c_int32)),
    },
}
"""Name of the function that returns the version of a library's interface -> the library's other functions."""
