"""An estimate with its 95 % interval: of a share of studies, or of how many among some studies match.

Intervals are Wilson's (1927), which stay within 0 and 1 and remain honest for few studies and for shares near the
ends. A share with another variance than that of independent draws has the effective number of studies  p (1 - p) / var.
"""

from dataclasses import dataclass
from math import ceil, floor, sqrt

#: 97.5 % quantile of the normal distribution.
Z = 1.959963984540054


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


def share_estimate(count: int, of: int) -> Estimate | None:
    """Return the share `count / of` with Wilson's interval; None of no studies."""
    return Estimate(count / of, *wilson(count / of, of)) if of else None


def count_estimate(share: float, studies: int, effective: float, certain: int = 0) -> Estimate:
    """Return how many studies match, if a share of `studies` does, and `certain` others are known to.

    The ends of the interval are whole numbers, because the number of matches is one: those nearest, with the value
    between them.

    Args:
        share: the estimated share, 0 to 1.
        studies: how many studies it is of.
        effective: the effective number of studies that its error, as a forecast for these studies, is worth.
        certain: matches that are known.
    """
    if not studies:
        return Estimate(float(certain), float(certain), float(certain))
    low, high = wilson(share, effective)
    value = share * studies
    low_count = min(ceil(low * studies - 0.5), floor(value))
    high_count = max(floor(high * studies + 0.5), ceil(value))
    return Estimate(certain + value, float(certain + low_count), float(certain + high_count))


def wilson(share: float, studies: float) -> tuple[float, float]:
    """Return Wilson's interval of a share of so many studies, which need not be a whole number."""
    centre = (share + Z**2 / (2 * studies)) / (1 + Z**2 / studies)
    reach = Z / (1 + Z**2 / studies) * sqrt(share * (1 - share) / studies + (Z / (2 * studies)) ** 2)
    return max(min(centre - reach, share), 0.0), min(max(centre + reach, share), 1.0)
