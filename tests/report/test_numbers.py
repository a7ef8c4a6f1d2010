"""Numbers have as many digits as are significant."""

import pytest

from crossrt.report.numbers import error, percent, quality, rate, signed


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.8123, "0.812"),
        (42.94, "42.9"),
        (1240.4, "1,240"),
        (1_234_567.0, "1,234,567"),
        (-3.456, "-3.46"),
        (1e-9, "0.000000"),
        (0, "0"),
        (float("inf"), "inf"),
    ],
)
def test_a_rate_has_three_digits(value: float, text: str) -> None:
    assert rate(value) == text


def test_differences_shares_and_measures_have_digits_of_their_own() -> None:
    assert [error(value) for value in (0, 0.1749, 0.0123, 5.23e-6)] == ["0", "0.17", "0.012", "5.2e-06"]
    assert [percent(share) for share in (0, 0.01849, 1)] == ["0.0", "1.8", "100.0"]
    assert quality(0.74306) == "0.7431"
    assert [signed(value) for value in (0.0125, -0.0125)] == ["+0.0125", "\N{MINUS SIGN}0.0125"]
