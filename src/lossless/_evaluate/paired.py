"""Metrics of pairs of rows: what two models say about the same ones. Exact sums, as for one model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .intervals import Z
from .rows import Floats, ScoredRows
from .sums import ExactSum


@dataclass(frozen=True)
class Pairs:
    """The same rows by A and by B: numbers through all files, labels and predictions in the order of A's classes."""

    a: ScoredRows
    b: ScoredRows


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
        mean = float(total / self.rows)
        if self.rows < 2:
            return Compared(a, b, mean, math.nan, math.nan)
        variance = max((self.squares.exactly() - total * total / self.rows) / (self.rows - 1), Fraction(0))
        half = Z * math.sqrt(variance / self.rows)
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


@dataclass(frozen=True)
class RankedPair:
    """A row among those whose losses differ most; classes in the order of A's."""

    row: int  # through all files
    file_a: int
    file_b: int
    label: int
    predicted_a: int
    predicted_b: int
    nll_a: float
    nll_b: float


class MostDifferent:
    """The `size` rows whose losses differ most, equal ones by row number."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.kept: dict[str, NDArray[Any]] = {}

    def update(self, pairs: Pairs) -> None:
        """Read a block."""
        a, b = pairs.a, pairs.b
        more = {
            "row": a.row,
            "file_a": np.full(len(a), a.file),
            "file_b": np.full(len(b), b.file),
            "label": a.label,
            "predicted_a": a.predicted,
            "predicted_b": b.predicted,
            "nll_a": a.nll,
            "nll_b": b.nll,
        }
        every = {name: np.concatenate([self.kept[name], more[name]]) if self.kept else more[name] for name in more}
        equal = every["nll_a"] == every["nll_b"]  # also where both are infinite
        with np.errstate(invalid="ignore"):
            apart = np.where(equal, 0.0, np.abs(every["nll_b"] - every["nll_a"]))
        order = np.lexsort((every["row"], -apart))[: self.size]
        order = order[apart[order] > 0.0]
        self.kept = {name: values[order] for name, values in every.items()}

    def result(self) -> tuple[RankedPair, ...]:
        """The rows, those that differ most first."""
        columns = {name: values.tolist() for name, values in self.kept.items()}
        return tuple(RankedPair(**dict(zip(columns, row, strict=True))) for row in zip(*columns.values(), strict=True))
