"""Numbers in words, as the page writes them: with fixed digits, a minus sign, and a dash for what is not known."""

from collections.abc import Sequence

from vl_model.report.report_content import Json

_DASH, MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


def number(value: float | None, digits: int = 3, sign: bool = False) -> str:
    """Format with fixed digits and a minus sign; None, which could not be measured, is a dash."""
    if value is None:
        return _DASH
    value = round(value, digits) + 0.0  # never minus zero
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", MINUS)


def share(value: float) -> str:
    r"""Return a share in percent with one digit.

    >>> share(0.9016).replace("\N{NO-BREAK SPACE}", " ")
    '90.2 %'
    """
    return f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


def times(value: float) -> str:
    r"""Return how many times as probable something is, with two digits or as a whole number.

    >>> times(1.234), times(34.4), times(12345.6).replace("\N{NO-BREAK SPACE}", " ")
    ('1.2', '34', '12 346')
    """
    return f"{value:.1f}" if value < 10 else f"{value:,.0f}".replace(",", "\N{NO-BREAK SPACE}")


def span(bounds: Sequence[float]) -> str:
    """Return two values, or one if they are equal, with no more digits than they need.

    >>> span([0.5, 0.78125]), span([4.0, 4.0])
    ('0.5 to 0.781', '4')
    """
    low, high = (f"{bound:.3g}" for bound in bounds)
    return low if low == high else f"{low} to {high}"


def known(value: float | None, digits: int = 3) -> str:
    """Return a number in a sentence."""
    return "not known" if value is None else number(value, digits)


def interval_words(bounds: Sequence[float | None], digits: int = 3) -> str:
    """Return an interval in a sentence."""
    if bounds[0] is None or bounds[1] is None:
        return "without an interval"
    return f"95 % interval {number(bounds[0], digits)} to {number(bounds[1], digits)}"


def area_words(figure: Json) -> str:
    """Return an AUC in a sentence."""
    value = known(figure["value"], 2)
    return value if figure["interval"][0] is None else f"{value} ({interval_words(figure['interval'], 2)})"
