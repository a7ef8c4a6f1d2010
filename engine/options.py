"""`whole` and `check_flag`: check options that are whole numbers, and those that are True or False."""

from typing import Any

import numpy as np

from .errors import OptionError


def whole(name: str, value: Any, *, minimum: int | None = None, hint: str = "") -> int:
    """Return an option's value as an int of at least `minimum`, if that is given.

    NumPy integers are accepted; `True` and `"128"` are not. Raises OptionError, naming the option, for anything else. `hint` is
    appended to its message.
    """
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or (minimum is not None and value < minimum):
        limit = "" if minimum is None else f" from {minimum}"
        raise OptionError(f"{name}={value!r}: give a whole number{limit}{hint}")
    return int(value)


def check_flag(name: str, value: Any) -> None:
    """Raise OptionError, naming the option, unless its value is True, False or None. A text would count as true: also "false"."""
    if value is not None and not isinstance(value, (bool, np.bool_)):
        raise OptionError(f"{name}={value!r}: give True or False")
