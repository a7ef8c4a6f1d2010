"""Checks of option values that several callers share."""

from typing import Any

import numpy as np

from .errors import OptionError


def whole(name: str, value: Any, *, least: int, hint: str = "") -> int:
    """Return an option's value as an int of at least `least`. NumPy's integers count, `True` and `"128"` do not.

    Raises OptionError, naming the option; `hint` ends its message.
    """
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        raise OptionError(f"{name}={value!r}: give a whole number from {least}{hint}")
    return int(value)
