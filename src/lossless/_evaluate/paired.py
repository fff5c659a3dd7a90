"""Metrics of pairs of rows: what two models say about the same ones. Exact sums, as for one model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .intervals import margin
from .rows import Floats, Integers, ScoredRows
from .sums import ExactSum


@dataclass(frozen=True)
class Pairs:
    """The same rows by A and by B: numbers through all files, labels and predictions in the order of A's classes."""

    a: ScoredRows
    b: ScoredRows

    def __len__(self) -> int:
        return len(self.a)

    @property
    def file(self) -> int:
        """Of A."""
        return self.a.file

    @property
    def row(self) -> Integers:
        """(n,)"""
        return self.a.row

    @cached_property
    def apart(self) -> Floats:
        """(n,) how far the losses are apart; 0 also where both are infinite."""
        with np.errstate(invalid="ignore"):
            return np.where(self.a.nll == self.b.nll, 0.0, np.abs(self.b.nll - self.a.nll))

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


class PairedMean:
    """The mean of one number per row, and of its differences."""

    def __init__(self) -> None:
        self.rows = 0
        self.a, self.b, self.squares = ExactSum(), ExactSum(), ExactSum()

    def update(self, a: Floats, b: Floats) -> None:
        """Read (n,) numbers >= 0 of each."""
        self.rows += len(a)
        self.a.add(a)
        self.b.add(b)
        finite = np.isfinite(a) & np.isfinite(b)
        with np.errstate(over="ignore"):
            self.squares.add(np.square(b[finite] - a[finite]))

    def result(self) -> Compared:
        """The means are exact before their one rounding, and so is their difference; squares are rounded by row."""
        a, b = self.a.divided_by(self.rows), self.b.divided_by(self.rows)
        if math.isinf(a) or math.isinf(b) or self.squares.infinite[0]:
            return Compared(a, b, b - a, math.nan, math.nan)
        total = self.b.exactly() - self.a.exactly()
        mean, half = float(total / self.rows), margin(self.rows, total, self.squares.exactly())
        return Compared(a, b, mean, mean - half, mean + half)


class Agreement:
    """How many rows both models get right, one alone, or none."""

    def __init__(self) -> None:
        self.count = np.zeros(4, np.int64)

    def update(self, a: NDArray[np.bool_], b: NDArray[np.bool_]) -> None:
        """Read of (n,) rows whether each model is right."""
        self.count += np.bincount(2 * a + b, minlength=4)

    def result(self) -> tuple[int, int, int, int]:
        """Rows that both get right, A alone, B alone, none."""
        none, only_b, only_a, both = self.count.tolist()
        return both, only_a, only_b, none


def mid_p(only_a: int, only_b: int) -> float:
    """McNemar's test: the two-sided mid-p value of counts that a fair coin would give, to 8 digits.

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
