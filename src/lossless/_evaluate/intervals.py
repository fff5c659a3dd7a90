"""Confidence intervals of the headline figures, for rows drawn independently."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist

Z = NormalDist().inv_cdf(0.975)  # normal quantile of a two-sided 95 %


@dataclass(frozen=True)
class Interval:
    """A 95 % confidence interval; nan where none is defined."""

    low: float
    high: float

    def mapped(self, function: Callable[[float], float]) -> Interval:
        """The interval of an increasing function of the figure."""
        return Interval(function(self.low), function(self.high))


UNDEFINED = Interval(math.nan, math.nan)


def mean_interval(rows: int, total: Fraction, squares: Fraction) -> Interval:
    """Of the mean of numbers >= 0: mean +- margin, not below 0."""
    half = margin(rows, total, squares)
    if math.isnan(half):
        return UNDEFINED
    mean = float(total / rows)
    return Interval(max(mean - half, 0.0), mean + half)


def margin(rows: int, total: Fraction, squares: Fraction) -> float:
    """Of the mean of numbers by the normal approximation, z sqrt(variance / n); nan where it is undefined.

    The sums are exact, so that their difference does not cancel where the numbers are nearly equal.
    """
    if rows < 2:
        return math.nan
    variance = max((squares - total * total / rows) / (rows - 1), Fraction(0))  # below 0 by the rounding of squares
    try:
        return Z * math.sqrt(variance / rows)
    except OverflowError:  # a variance beyond 1.8e308
        return math.nan


def wilson(successes: int, rows: int) -> Interval:
    """Of a fraction (Wilson 1927, doi:10.2307/2276774): it stays in [0, 1], and has a width at 0 and 1 too."""
    if not rows:
        return UNDEFINED
    share, square = successes / rows, Z * Z / rows
    middle = share + square / 2
    half = math.sqrt(share * (1.0 - share) * square + square * square / 4)
    # At the ends the formula gives 0 and 1 but for rounding.
    low = 0.0 if successes == 0 else (middle - half) / (1.0 + square)
    high = 1.0 if successes == rows else (middle + half) / (1.0 + square)
    return Interval(low, high)
