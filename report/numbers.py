"""Numbers as text, with as many digits as are significant."""

import math


def rate(value: float) -> str:
    """Three digits, with commas: 0.812, 42.9, 1,240."""
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(decimals, 6)}f}"


def percent(share: float) -> str:
    """A share in percent, with one decimal."""
    return f"{100 * share:.1f}"


def error(value: float) -> str:
    """A difference of logits, with two digits: 0, 0.17, 5.2e-06."""
    return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:.2g}"


def quality(value: float) -> str:
    """A measure, with four decimals."""
    return f"{value:.4f}"


def signed(value: float) -> str:
    """A difference of measures with its sign; U+2212 for minus, which is as wide as a plus."""
    return f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")
