"""Metrics of pairs of rows: what two models say about the same ones. Exact sums, as for one model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from .accumulators import Accumulator
from .intervals import Moments, margin
from .rows import Floats, Integers
from .sums import ExactSum, SignedSum


@dataclass(frozen=True)
class Pairs:
    """The same rows of a task by A and by B: numbers through all files, the classes in the order of A's."""

    a: Any
    b: Any

    def __len__(self) -> int:
        return len(self.a)

    @property
    def both(self) -> Any:
        """What has the truth, which is the same by either."""
        return self.a

    @property
    def file(self) -> int:
        """Of A."""
        return int(self.a.file)

    @property
    def row(self) -> Integers:
        """(n,)"""
        row: Integers = self.a.row
        return row

    @cached_property
    def apart(self) -> Floats:
        """(n,) how far the losses are apart; 0 also where both are infinite."""
        a, b = self.a.loss, self.b.loss
        with np.errstate(invalid="ignore"):
            return np.where(a == b, 0.0, np.abs(b - a))

    @property
    def file_b(self) -> Integers:
        """(n,) the file of B, the same for all rows."""
        return np.full(len(self), self.b.file)


@dataclass(frozen=True)
class Compared:
    """A figure of both models, and what B has more, with the 95 % interval of that; nan where there is none."""

    a: float
    b: float
    difference: float
    low: float
    high: float

    @classmethod
    def alone(cls, a: float, b: float) -> Compared:
        """Figures that are no means of rows, and whose difference has no interval."""
        return cls(a, b, b - a, math.nan, math.nan)


class PairedMean:
    """The mean of one number per row, and of its differences; with parts, of (n, parts) numbers, nan where unknown."""

    def __init__(self, name: str, parts: int = 1) -> None:
        self.name = name
        self.rows = np.zeros(parts, np.int64)
        self.a, self.b, self.squares = SignedSum(parts), SignedSum(parts), ExactSum(parts)

    def update(self, pairs: Pairs) -> None:
        """Read the rows."""
        a, b = (np.asarray(getattr(rows, self.name), np.float64) for rows in (pairs.a, pairs.b))
        part = None
        if a.ndim > 1:
            known = ~np.isnan(a)
            a, b, part = a[known], b[known], np.nonzero(known)[1]
        self.rows += len(a) if part is None else np.bincount(part, minlength=len(self.rows))
        self.a.add(a, part)
        self.b.add(b, part)
        finite = np.isfinite(a) & np.isfinite(b)
        with np.errstate(over="ignore"):
            self.squares.add(np.square(b[finite] - a[finite]), None if part is None else part[finite])

    def moments(self, part: int) -> Moments:
        """Of the differences."""
        total = self.b.exactly(part) - self.a.exactly(part)
        return Moments.plain(int(self.rows[part]), total, self.squares.exactly(part))

    def result(self) -> tuple[Compared, ...]:
        """Of each part."""
        return tuple(map(self._compared, range(len(self.rows))))

    def _compared(self, part: int) -> Compared:
        """The means are exact before their one rounding, and so is their difference; squares are rounded by row."""
        moments = self.moments(part)
        if not moments.w:
            return Compared.alone(math.nan, math.nan)
        a, b = (total.divided_by(moments.w, part) for total in (self.a, self.b))
        if math.isinf(a) or math.isinf(b) or self.squares.infinite[part]:
            return Compared.alone(a, b)
        mean, half = float(moments.mean), margin(moments)
        return Compared(a, b, mean, mean - half, mean + half)


class PairedElementMean(PairedMean):
    """The same as `ElementMean` of a number and a weight."""

    def __init__(self, name: str, weight: str) -> None:
        super().__init__(name)
        self.weight = weight
        self.count = self.squared = 0
        self.products = SignedSum()

    def update(self, pairs: Pairs) -> None:
        super().update(pairs)
        a, b, w = getattr(pairs.a, self.name), getattr(pairs.b, self.name), getattr(pairs.a, self.weight)
        self.count += int(w.sum())
        self.squared += int(np.square(w).sum())
        with np.errstate(over="ignore", invalid="ignore"):
            difference = (b - a) * w
        self.products.add(difference[np.isfinite(difference)])

    def moments(self, part: int) -> Moments:
        return replace(super().moments(part), w=self.count, ww=self.squared, xw=self.products.exactly())


class Sides:
    """A metric of each model's rows, for figures that are no means of rows."""

    def __init__(self, make: Callable[[], Accumulator]) -> None:
        self.a, self.b = make(), make()

    def update(self, pairs: Pairs) -> None:
        """Read the rows."""
        self.a.update(pairs.a)
        self.b.update(pairs.b)

    def result(self) -> tuple[Any, Any]:
        """Of A and of B."""
        return self.a.result(), self.b.result()


class Agreement:
    """How many rows both models get right, one alone, or none."""

    def __init__(self, right: str) -> None:
        self.right = right
        self.count = np.zeros(4, np.int64)

    def update(self, pairs: Pairs) -> None:
        """Read the rows."""
        a, b = (np.asarray(getattr(rows, self.right), bool) for rows in (pairs.a, pairs.b))
        self.count += np.bincount(2 * a + b, minlength=4)

    def result(self) -> dict[str, Any]:
        """What a `RightComparison` has of them."""
        none, only_b, only_a, both = self.count.tolist()
        return {
            "both_right": both,
            "only_a": only_a,
            "only_b": only_b,
            "both_wrong": none,
            "p_value": mid_p(only_a, only_b),
        }


class Nearer:
    """How many rows have the smaller loss by A, by B, or the same."""

    def __init__(self) -> None:
        self.count = np.zeros(3, np.int64)

    def update(self, pairs: Pairs) -> None:
        """Read the rows."""
        a, b = pairs.a.loss, pairs.b.loss
        self.count += [np.count_nonzero(a < b), np.count_nonzero(b < a), np.count_nonzero(a == b)]

    def result(self) -> dict[str, Any]:
        """What a comparison has of them."""
        nearer_a, nearer_b, equal = self.count.tolist()
        return {"nearer_a": nearer_a, "nearer_b": nearer_b, "equal": equal, "p_value": mid_p(nearer_a, nearer_b)}


def mid_p(only_a: int, only_b: int) -> float:
    """McNemar's test, or the sign test: the two-sided mid-p value of counts that a fair coin would give, to 8 digits.

        p = 2 P(X < k) + P(X = k),   k = min(only_a, only_b),   X ~ Binomial(only_a + only_b, 1/2)

    The terms P(X = i) fall from i = k on, by the quotient of binomial coefficients, and are added until they vanish.
    """
    n, k = only_a + only_b, min(only_a, only_b)
    first = math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2.0))
    below, term = 0.0, 1.0
    for i in range(k, 0, -1):
        term *= i / (n - i + 1)
        below += term
        if term < 1e-17:
            break
    return min(first * (1.0 + 2.0 * below), 1.0)
