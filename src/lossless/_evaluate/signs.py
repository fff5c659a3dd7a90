"""Signs of trouble that only all rows together show: mergeable counts, which `findings` reads.

Most rows of a sound file are passed over by numbers that were computed already (the confidence, the entropy, the
largest score), so these cost next to nothing beside the scoring. Those that remember rows can `shift` their numbers,
for rows that come after others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lossless._diagnose.rules import looks_normalised

from .accumulators import Count, Factories, Itself
from .rows import Floats, Integers, ScoredRows
from .sums import ExactSum

REPEATS_SIZE = 1024  # distinct rows that are kept: their number is then known to 3%
SATURATED = 30.0  # e^-30 is 1e-13
_ALL = np.uint64(2**64 - 1)
_LOG_TOLERANCE = 1e-2  # of log-probabilities in half precision

Hashes = NDArray[np.uint64]


class Constant(Itself):
    """Whether all rows have the same scores."""

    def __init__(self) -> None:
        self.row: NDArray[np.float64] | None = None  # the first one
        self.varies = False

    def update(self, rows: ScoredRows) -> None:
        if self.varies or not len(rows):
            return
        if self.row is None:
            self.row = rows.logits[0].astype(np.float64)
        # The last row differs in most files; only where it does not, all are looked at.
        self.varies = any(bool((x != self.row).any()) for x in (rows.logits[-1], rows.logits))

    def merge(self, other: Constant) -> None:
        if self.row is None:
            self.row, self.varies = other.row, other.varies
        elif other.row is not None:
            self.varies |= other.varies or bool((self.row != other.row).any())


class Uniform(Itself):
    """Rows whose scores are all equal."""

    def __init__(self) -> None:
        self.found = Count()

    def update(self, rows: ScoredRows) -> None:
        classes = rows.logits.shape[1]
        near = np.flatnonzero(rows.confidence <= (1.0 + 1e-9) / classes)
        if len(near):
            x = rows.logits[near]
            self.found.add(rows.file, rows.row[near], (x == x[:, :1]).all(axis=1))

    def merge(self, other: Uniform) -> None:
        self.found.merge(other.found)

    def shift(self, rows: int) -> None:
        self.found.shift(rows)


class Saturated(Itself):
    """The least lead of the largest score over the next, if softmax is 0 or 1 to the last digit in all rows; else 0."""

    def __init__(self) -> None:
        self.least = math.inf

    def update(self, rows: ScoredRows) -> None:
        classes = rows.logits.shape[1]
        if self.least <= SATURATED or not len(rows):
            return
        if rows.confidence.min() < 1.0 - 1e-12 * classes:
            self.least = 0.0
            return
        top = np.partition(rows.logits.astype(np.float64), -2, axis=1)[:, -2:]
        lead = top[:, 1] - top[:, 0]
        self.least = min(self.least, float(lead.min()) if np.isfinite(top).all() else 0.0)

    def merge(self, other: Saturated) -> None:
        self.least = min(self.least, other.least)


class Normalised(Itself):
    """Rows of logits that lie in [0, 1] and sum to 1."""

    def __init__(self) -> None:
        self.found = Count()
        self.row: Floats | None = None  # the first one

    def update(self, rows: ScoredRows) -> None:
        near = np.flatnonzero((rows.peak > 0.0) & (rows.peak <= 1.0 + 1e-6))
        if not len(near):
            return
        x = rows.logits[near].astype(np.float64)
        alike = looks_normalised(x, rows.logits.dtype.name)
        if self.row is None and alike.any():
            self.row = x[np.argmax(alike)]
        self.found.add(rows.file, rows.row[near], alike)

    def merge(self, other: Normalised) -> None:
        self.row = other.row if self.row is None else self.row
        self.found.merge(other.found)

    def shift(self, rows: int) -> None:
        self.found.shift(rows)


class Unsoftened(Itself):
    """What the probabilities would be without their last softmax, if all rows can be a softmax of probabilities.

    p = softmax(q) gives q_j = log p_j + c, and sum_j q_j = 1 gives c = (1 - sum_j log p_j) / C. So p is the softmax of
    a probability vector if and only if log p_j + c >= 0 for every j.
    """

    def __init__(self) -> None:
        self.impossible = False
        self.confidence = ExactSum()
        self.greatest = 0.0

    def update(self, rows: ScoredRows) -> None:
        if self.impossible:
            return
        classes = rows.logits.shape[1]
        # The largest probability is at most e / (e + C - 1), which few models stay below.
        if rows.confidence.max(initial=0.0) > most_confident(classes) * (1.0 + _LOG_TOLERANCE):
            self.impossible = True
            return
        with np.errstate(invalid="ignore"):
            x = rows.logits.astype(np.float64)
            q = x - x.mean(axis=1, keepdims=True) + 1.0 / classes
        if not (q >= -_LOG_TOLERANCE).all():  # of a row with -inf, too
            self.impossible = True
            return
        top = q[np.arange(len(rows)), rows.predicted]
        self.confidence.add(top)
        self.greatest = max(self.greatest, float(top.max(initial=0.0)))

    def merge(self, other: Unsoftened) -> None:
        self.impossible |= other.impossible
        self.confidence.merge(other.confidence)
        self.greatest = max(self.greatest, other.greatest)


def most_confident(classes: int) -> float:
    """The largest probability that softmax gives to a row of probabilities: e / (e + C - 1)."""
    return math.e / (math.e + classes - 1)


class _Distinct(NamedTuple):
    """Rows by their hash."""

    hash: Hashes
    times: Integers
    file: Integers  # of the first row that has it
    row: Integers

    def take(self, keep: Integers) -> _Distinct:
        """Those of these numbers."""
        return _Distinct(self.hash[keep], self.times[keep], self.file[keep], self.row[keep])


@dataclass(frozen=True)
class Repeated:
    """Distinct rows, by ascending hash."""

    hashes: Hashes
    count: Integers
    file: Integers  # of the first row that has it
    row: Integers
    complete: bool  # these are all distinct rows

    def distinct(self) -> float:
        """The number of distinct rows: exact if complete, else by how dense the smallest hashes lie."""
        seen = len(self.hashes)
        return seen if self.complete else (seen - 1) / (float(self.hashes[-1]) / 2.0**64)


class Repeats:
    """How often distinct rows (scores and label) occur, of a fair sample of them: those of the smallest hashes.

    A hash among the smallest of all rows is among the smallest of any part of them, so each count is exact whatever
    the cuts, and the memory is bounded.
    """

    def __init__(self, size: int = REPEATS_SIZE) -> None:
        self.size = size
        none = np.zeros(0, np.int64)
        self._kept = _Distinct(none.astype(np.uint64), none, none, none)
        self._bound = _ALL  # no larger hash is wanted
        self._waiting: list[_Distinct] = []  # rows that follow, not yet joined
        self._rows_waiting = 0

    def update(self, rows: ScoredRows) -> None:
        near = np.flatnonzero(rows.hash <= self._bound)
        if len(near) > 2 * self.size:
            near = near[self._smallest(rows.hash[near])]
        file, once = np.full(len(near), rows.file), np.ones(len(near), np.int64)
        self._wait([_Distinct(rows.hash[near], once, file, rows.row[near])])

    def merge(self, other: Repeats) -> None:
        self._wait([part.take(np.flatnonzero(part.hash <= self._bound)) for part in (other._kept, *other._waiting)])

    def shift(self, rows: int) -> None:
        self._kept, *self._waiting = (part._replace(row=part.row + rows) for part in (self._kept, *self._waiting))

    def result(self) -> Repeated:
        self._settle()
        return Repeated(*self._kept, complete=len(self._kept.hash) < self.size)

    def __getstate__(self) -> dict[str, Any]:
        self._settle()
        return vars(self)

    def _wait(self, parts: list[_Distinct]) -> None:
        self._waiting += parts
        self._rows_waiting += sum(len(part.hash) for part in parts)
        if self._rows_waiting >= 4 * self.size:
            self._settle()

    def _smallest(self, hashes: Hashes) -> Integers:
        """Which are among the `size` smallest different ones; where there are more, no larger one is wanted again."""
        ordered = np.sort(hashes)
        ends = np.flatnonzero(ordered[1:] != ordered[:-1])
        if len(ends) >= self.size:
            self._bound = min(self._bound, ordered[ends[self.size - 1]])
        return np.flatnonzero(hashes <= self._bound)

    def _settle(self) -> None:
        """Join all rows, of which the first of a hash is where it was seen."""
        hashes, count, file, row = map(np.concatenate, zip(self._kept, *self._waiting, strict=True))
        self._waiting, self._rows_waiting = [], 0
        if not len(hashes):
            return
        near = self._smallest(hashes)
        distinct, first, home = np.unique(hashes[near], return_index=True, return_inverse=True)
        total = np.zeros(len(distinct), np.int64)
        np.add.at(total, home, count[near])
        self._kept = _Distinct(distinct, total, file[near[first]], row[near[first]])


def signs() -> Factories:
    """The signs that are looked for."""
    return {
        "constant": Constant,
        "uniform": Uniform,
        "saturated": Saturated,
        "normalised": Normalised,
        "unsoftened": Unsoftened,
        "repeats": Repeats,
    }
