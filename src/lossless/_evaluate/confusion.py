"""Which class is taken for which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lossless._numpy.hashing import mixed

from .rows import Integers, ScoredRows

MOST_PAIRS = 1 << 20  # pairs that are told apart, 16 MB: all of 1024 classes
MATRIX_CLASSES = 100  # the full matrix is a result up to here
LISTED = 100  # of the most confused pairs
_WAITING = 1 << 18


@dataclass(frozen=True)
class Confused:
    """Rows of class `label` that were taken for class `predicted`."""

    label: int
    predicted: int
    count: int


@dataclass(frozen=True)
class ConfusionResult:
    """Counts of pairs (label, predicted)."""

    label: Integers
    predicted: Integers
    count: Integers
    share: float  # of all pairs that were looked at; 1 but for more than 2^20 different ones

    def most(self, number: int = LISTED) -> tuple[Confused, ...]:
        """The most confused pairs, most frequent first, equal ones by their numbers."""
        wrong = np.flatnonzero(self.label != self.predicted)
        first = wrong[np.lexsort((self.predicted[wrong], self.label[wrong], -self.count[wrong]))[:number]]
        columns = (values[first].tolist() for values in (self.label, self.predicted, self.count))
        return tuple(Confused(*row) for row in zip(*columns, strict=True))

    def matrix(self, classes: int) -> Integers:
        """(classes, classes) counts by label and prediction."""
        dense = np.zeros((classes, classes), np.int64)
        dense[self.label, self.predicted] = self.count
        return dense

    def ahead(self, step: int, classes: int) -> int:
        """Rows that are predicted as the class `step` after their label, in a ring of all classes."""
        return int(self.count[(self.predicted - self.label) % classes == step % classes].sum())


class Confusion:
    """Exact counts of (label, predicted), by the pairs that occur.

    Beyond `limit` different pairs only those are kept whose hash has `level` low bits of zero, `level` being the least
    that is enough: a fair sample of the pairs, each with its exact count, that depends on the rows alone. (Part of the
    rows never needs a higher level than all of them, so a pair that belongs to the sample was never dropped.)
    """

    def __init__(self, classes: int, limit: int = MOST_PAIRS) -> None:
        self.classes, self.limit = classes, limit
        self._level = 0
        self._pair = np.zeros(0, np.int64)  # label * classes + predicted, ascending
        self._count = np.zeros(0, np.int64)
        self._waiting: list[Integers] = []
        self._rows_waiting = 0

    def update(self, rows: ScoredRows) -> None:
        self._wait([rows.label * self.classes + rows.predicted])

    def merge(self, other: Confusion) -> None:
        if len(other._pair) or other._level:
            self._level = max(self._level, other._level)
            self._join(other._pair, other._count)
        self._wait(other._waiting)

    def _wait(self, pairs: list[Integers]) -> None:
        """Count pairs together with many others."""
        self._waiting += pairs
        self._rows_waiting += sum(map(len, pairs))
        if self._rows_waiting >= max(_WAITING, len(self._pair)):
            self._settle()

    def __getstate__(self) -> dict[str, Any]:
        self._settle()
        return vars(self)

    def _settle(self) -> None:
        if self._waiting:
            waiting = np.concatenate(self._waiting)
            self._waiting, self._rows_waiting = [], 0
            if self.classes**2 <= len(waiting):  # sorting takes longer than looking at all pairs
                count = np.bincount(waiting)
                pair = np.flatnonzero(count)
                self._join(pair, count[pair])
            else:
                self._join(*np.unique(waiting, return_counts=True))

    def _join(self, pair: Integers, count: Integers) -> None:
        """Add counts of different pairs in order, and sample them further if there are too many."""
        pair, count = np.concatenate([self._pair, pair]), np.concatenate([self._count, count])
        order = np.argsort(pair, kind="stable")  # both are sorted: a merge
        self._pair, self._count = self._sampled(*_added(pair[order], count[order]))
        if len(self._pair) > self.limit:
            left = np.cumsum(np.bincount(_zeros(self._pair), minlength=65)[::-1])[::-1]  # pairs at each level
            self._level = int(np.argmax(left <= self.limit))
            self._pair, self._count = self._sampled(self._pair, self._count)

    def _sampled(self, pair: Integers, count: Integers) -> tuple[Integers, Integers]:
        if not self._level:
            return pair, count
        chosen = _zeros(pair) >= self._level
        return pair[chosen], count[chosen]

    def result(self) -> ConfusionResult:
        self._settle()
        label, predicted = np.divmod(self._pair, self.classes)
        return ConfusionResult(label, predicted, self._count, 0.5**self._level)


def _zeros(pair: Integers) -> Integers:
    """How many low bits of the hash are zero."""
    h = mixed(pair.astype(np.uint64))
    lowest = (h & (~h + np.uint64(1))).astype(np.float64)  # a power of two: exact
    return np.where(h == 0, 64, np.frexp(lowest)[1] - 1).astype(np.int64)


def _added(pair: Integers, count: Integers) -> tuple[Integers, Integers]:
    """Sorted pairs, each once, with the sum of its counts."""
    start = np.flatnonzero(np.diff(pair, prepend=-1))
    return pair[start], np.add.reduceat(count, start) if len(start) else count
