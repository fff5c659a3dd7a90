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


@dataclass(frozen=True)
class Moments:
    """Exact sums over rows of a number x and a weight w: what the mean m = sum x / sum w and its error need.

    They are exact, so that their difference does not cancel where the numbers are nearly equal.
    """

    rows: int
    x: Fraction
    xx: Fraction
    w: int
    ww: int
    xw: Fraction

    @classmethod
    def plain(cls, rows: int, x: Fraction, xx: Fraction) -> Moments:
        """Of rows that weigh 1 each."""
        return cls(rows, x, xx, rows, rows, x)

    def __sub__(self, part: Moments) -> Moments:
        """Of the rows that are not in a part of them."""
        return Moments(
            self.rows - part.rows,
            self.x - part.x,
            self.xx - part.xx,
            self.w - part.w,
            self.ww - part.ww,
            self.xw - part.xw,
        )

    @property
    def mean(self) -> Fraction:
        """m, of one row or more."""
        return self.x / self.w

    @property
    def variance(self) -> Fraction:
        """Of the mean, of two rows or more: n / (n - 1) sum (x - m w)^2 / (sum w)^2, which is s^2 / n if all w are 1.

        For other weights it is that of a ratio of means, to first order (Cochran 1977, Sampling Techniques, 2.11).
        """
        off = self.xx - 2 * self.mean * self.xw + self.mean**2 * self.ww
        return max(self.rows * off / ((self.rows - 1) * self.w**2), Fraction(0))  # below 0 by the rounding of squares


def mean_interval(moments: Moments) -> Interval:
    """Of the mean of numbers >= 0: mean +- margin, not below 0."""
    half = margin(moments)
    if math.isnan(half):
        return UNDEFINED
    mean = float(moments.mean)
    return Interval(max(mean - half, 0.0), mean + half)


def margin(moments: Moments) -> float:
    """Of the mean of numbers by the normal approximation, z sqrt(variance); nan where it is undefined."""
    if moments.rows < 2:
        return math.nan
    try:
        return Z * math.sqrt(moments.variance)
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
