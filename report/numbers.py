"""Numbers as text, with as many digits as are significant."""

import math


def rate(value: float) -> str:
    """Format a number with three significant digits, or as a whole number with commas: 0.812, 42.9, 1,240."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(decimals, 6)}f}"


def percent(share: float) -> str:
    """Format a share in percent, with one decimal."""
    return f"{100 * share:.1f}"


def error(value: float) -> str:
    """Format a difference of logits with two digits: 0, 0.17, 5.2e-06."""
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.2g}"


def quality(value: float) -> str:
    """Format a measure with four decimals."""
    return f"{value:.4f}"


def signed(value: float) -> str:
    """Format a difference of measures with its sign. Minus is U+2212, which is as wide as a plus."""
    return f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")
