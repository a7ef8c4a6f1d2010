"""`rounded` formats figures with no more digits than were measured."""

import math

from .speeds import Spread

FEW = 3
"""Least number of repeats for which a spread says something."""


def rounded(value: float, width: float) -> str:
    """Return a value with one to three significant digits, as its spread justifies. `width` is the spread as a share."""
    digits = 3 if width <= 0 else min(3, max(1, math.floor(-math.log10(width)) + 1))
    if value == 0 or not math.isfinite(value):
        return f"{value:.0f}"
    places = digits - 1 - math.floor(math.log10(abs(value)))
    return f"{round(value, places):,.{max(0, places)}f}"


def width_of(found: Spread, noise: float) -> float:
    """Return the uncertainty of a median as a share: its spread, or with few repeats at least the machine's noise."""
    return found.width if found.repeats >= FEW else max(found.width, noise)
