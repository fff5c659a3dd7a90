"""Ranked figures without keeping the rows: a sketch of sorted keys that any order of updates builds alike."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, starmap
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lossless import _kernels

from .intervals import UNDEFINED, Interval, Z

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Keys = NDArray[np.uint64]
Points = tuple[tuple[float, float], ...]  # of a curve

LIMIT = 1 << 17  # cells of a sketch: 3 MB with two groups, and areas of 2 million rows are bounded to 1e-5
CURVE_POINTS = 200
_PARTS = 32  # joined at once
_BLOCK = 1 << 14  # cells whose numbers stay in the second cache: fresh memory for all of them costs more than a figure
_SIGN = np.uint64(1 << 63)
_LOWEST = np.int64(-(1 << 63))  # the same bit
_ONE = np.uint64(1)
_BOTH = -1  # two groups whose keys all end in a bit of 0: it says the group instead, so that one sort serves both


@dataclass(frozen=True)
class Bounded:
    """A figure of a sketch, and how far the figure of the rows themselves may be from it; 0 where it is exact."""

    value: float
    bound: float


class Cells(NamedTuple):
    """What a sketch holds, in ascending order."""

    key: Keys  # (cells,) the least key of each
    several: NDArray[np.bool_]  # (cells,) whether it holds more than one key
    counts: Integers  # (groups, cells) rows


class RankSketch:
    """How many rows of each group have which key, in at most `limit` cells: mergeable and independent of order.

    Float64 keys are counted by their bits, as unsigned integers in the same order. As long as no more than `limit`
    keys differ, every cell holds one key and all figures are exact. Beyond that the lowest `level` bits are dropped,
    where `level` is the least for which no more than `limit` of the shortened keys differ. Part of the rows never
    needs a higher level than all of them do, and a cell that was cut too fine is joined later as well as sooner: so
    the sketch is a function of the rows alone, whatever the batches, the partitions and the order of merging.

    A dropped bit is one of relative precision: keys near zero stay apart, keys near 1 do not. So rank probabilities by
    their logarithm or by the log-odds.
    """

    def __init__(self, groups: int = 2, limit: int = LIMIT) -> None:
        if limit < 2:  # the sign is never dropped
            raise ValueError(f"RankSketch: limit got {limit}, expected 2 or more")
        self.groups, self.limit = groups, limit
        self._level = 0
        self._parts: list[Cells] = []
        self._waiting: list[tuple[Keys, int]] = []  # keys and their group or _BOTH, not yet in cells
        self._rows_waiting = 0

    def add(self, keys: Floats, group: NDArray[Any] | None = None) -> None:
        """Count (n,) keys, infinite ones too, each in group[i] (an integer or boolean; by default in group 0)."""
        bits = _ordered(keys)
        if group is None:
            waiting = [(bits, 0)]
        elif self.groups == 2 and not np.bitwise_or.reduce(keys.view(np.uint64)) & _ONE:
            waiting = [(bits & ~_ONE | np.asarray(group, np.uint64), _BOTH)]
        else:
            waiting = [(bits[group == g], g) for g in range(self.groups)]
        self._wait(waiting, len(keys))

    def merge(self, other: RankSketch) -> None:
        """Count the rows of `other`, a sketch of as many groups and the same limit."""
        self._level = max(self._level, other._level)
        self._parts += other._parts
        self._wait(other._waiting, other._rows_waiting)

    def ranked(self) -> Ranking:
        """The cells in ascending order of their keys."""
        cells = self._settled()
        low = _number(cells.key)
        high, several = low, np.flatnonzero(cells.several)
        if len(several):
            high = low.copy()
            # The last key that the cell could hold; beyond infinity there are only NaNs.
            last = cells.key[several] | ((_ONE << np.uint64(self._level)) - _ONE)
            high[several] = _number(np.minimum(last, _ordered(np.array([np.inf]))))
        return Ranking(low, high, cells.several, cells.counts)

    def __getstate__(self) -> dict[str, Any]:
        cells = self._settled()
        small = cells.counts.astype(np.min_scalar_type(cells.counts.max(initial=0)))
        return {**vars(self), "_parts": [cells._replace(counts=small)]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._parts = [part._replace(counts=part.counts.astype(np.int64)) for part in self._parts]

    def _wait(self, keys: list[tuple[Keys, int]], rows: int) -> None:
        """Keep keys; settle once so much has come together that joining the cells is shared by many rows."""
        self._waiting += keys
        self._rows_waiting += rows
        cells = sum(len(part.key) for part in self._parts)
        if self._rows_waiting >= 2 * self.limit or len(self._parts) >= _PARTS or cells >= 3 * self.limit:
            self._settled()

    def _sorted_waiting(self) -> list[Cells]:
        """The waiting keys in cells, for each group or for both."""
        parts = []
        for home in sorted({home for _, home in self._waiting}):
            keys = np.concatenate([k for k, h in self._waiting if h == home])
            keys.sort()
            apart = _apart(keys)
            if home == _BOTH:
                apart[0] = apart[1]  # the last bit is no part of the keys
            self._level = max(self._level, _level(apart, self.limit))
            cells = int(apart[self._level])
            parts.append(_cells_of_both(keys, self._level, cells) if home == _BOTH else self._cells_of(keys, home))
        return parts

    def _cells_of(self, keys: Keys, group: int) -> Cells:
        """Cells of the sorted keys of a group."""
        start, last = _runs(keys, self._level)
        counts = np.zeros((self.groups, len(start)), np.int64)
        counts[group] = last - start + 1
        return Cells(keys[start], keys[start] != keys[last], counts)

    def _settled(self) -> Cells:
        """Join all parts, at the least level that is enough."""
        if self._waiting:
            self._parts += self._sorted_waiting()
        self._waiting, self._rows_waiting = [], 0
        if len(self._parts) != 1 or len(self._parts[0].key) > self.limit:
            self._parts = [self._joined(self._parts)]
        return self._parts[0]

    def _joined(self, parts: list[Cells]) -> Cells:
        """All cells in one ascending order, those of a key together."""
        key = np.concatenate([np.zeros(0, np.uint64), *(part.key for part in parts)])
        order = np.argsort(key, kind="stable")  # the parts are sorted already: a merge
        key = key[order]
        apart = _apart(key)
        self._level = max(self._level, _level(apart, self.limit))
        several = np.concatenate([np.zeros(0, bool), *(part.several for part in parts)])
        counts = np.concatenate([np.zeros((self.groups, 0), np.int64), *(part.counts for part in parts)], axis=1)
        if _kernels.native is not None:
            cells = _no_rows(self.groups, int(apart[self._level]))
            _kernels.native.join_cells(_bits(key), order, several, counts, self._level, *_memory(cells))
            return cells
        start, last = _runs(key, self._level)
        several = np.logical_or.reduceat(several[order], start) | (key[start] != key[last])
        return Cells(key[start], several, np.add.reduceat(counts[:, order], start, axis=1))


def _no_rows(groups: int, cells: int) -> Cells:
    """So many cells before their rows are counted."""
    return Cells(np.zeros(cells, np.uint64), np.zeros(cells, bool), np.zeros((groups, cells), np.int64))


def _bits(keys: Keys) -> Integers:
    """The same memory, as kernels take it."""
    return keys.view(np.int64)


def _memory(cells: Cells) -> tuple[Integers, NDArray[np.bool_], Integers]:
    """Theirs, to be written."""
    return _bits(cells.key), cells.several, cells.counts


def _cells_of_both(keys: Keys, level: int, cells: int) -> Cells:
    """Cells of sorted keys whose last bit says the group, of which there are so many."""
    level = max(level, 1)
    if _kernels.native is not None:
        made = _no_rows(2, cells)
        _kernels.native.cells_of_both(_bits(keys), level, *_memory(made))
        return made
    start, last = _runs(keys, level)
    first = keys[start]
    counts = np.empty((2, len(start)), np.int64)
    counts[1] = np.diff(np.cumsum((keys & _ONE).view(np.int64))[last], prepend=0)
    counts[0] = last - start + 1 - counts[1]
    # The order of negative numbers is that of their complements, which end in 1.
    return Cells(first & ~_ONE | (first < _SIGN), (first ^ keys[last]) > _ONE, counts)


def _ordered(values: Floats) -> Keys:
    """Float64 numbers as unsigned integers in the same order; both zeros are one."""
    if np.isnan(values).any():
        raise ValueError("RankSketch orders numbers; leave NaN out and count it")
    signed = (values + 0.0).view(np.int64)
    flipped = signed >> 63  # all bits of a negative number
    flipped |= _LOWEST
    flipped ^= signed
    return flipped.view(np.uint64)


def _number(keys: Keys) -> Floats:
    """The inverse of `_ordered`."""
    signed = keys.view(np.int64)
    flipped = ~signed
    flipped >>= 63
    flipped |= _LOWEST
    flipped ^= signed
    return flipped.view(np.float64)


def _runs(key: Keys, level: int) -> tuple[Integers, Integers]:
    """The first and the last index of each cell of sorted keys."""
    cell = key >> np.uint64(level)
    change = np.flatnonzero(cell[1:] != cell[:-1])
    ends = np.array([len(key) - 1] if len(key) else [], np.int64)
    return np.concatenate([ends * 0, change + 1]), np.concatenate([change, ends])


def _apart(key: Keys) -> Integers:
    """(65,) how many cells sorted keys are in when so many low bits are dropped.

    Neighbours that first differ in bit b (the lowest is 1) are one cell from level b on.
    """
    if _kernels.native is not None:
        changes = np.zeros(65, np.int64)
        _kernels.native.count_changes(_bits(key), changes)
    else:
        differ = key[1:] ^ key[:-1]
        # Without the bit after the first one the conversion cannot round up to the next power of two.
        _, first = np.frexp((differ & ~(differ >> _ONE)).astype(np.float64))
        changes = np.bincount(first, minlength=65)
    return len(key) - np.cumsum(changes)


def _level(apart: Integers, limit: int) -> int:
    """The least number of dropped bits that leaves no more than `limit` cells."""
    return int(np.argmax(apart <= limit))


@dataclass(frozen=True)
class Ranking:
    """The cells of a sketch in ascending order. Of two groups, group 1 are the positives and high keys stand for them.

    Bounds hold for any way in which the rows of a cell with several keys could be ordered.
    """

    low: Floats  # (cells,) the least key of the cell
    high: Floats  # (cells,) no key of the cell is above
    several: NDArray[np.bool_]  # (cells,) more than one key; otherwise low == high
    count: Integers  # (groups, cells)

    @cached_property
    def held(self) -> Integers:
        """(cells,) rows of each cell."""
        first, *others = self.count  # by hand: a sum over this axis is ten times slower
        held: Integers = sum(others, start=first)
        return held

    @cached_property
    def upto(self) -> Integers:
        """(groups, cells) rows of each group in the cell and all below."""
        upto: Integers = np.cumsum(self.count, axis=1)
        return upto

    @cached_property
    def held_upto(self) -> Integers:
        """(cells,) rows in the cell and all below."""
        first, *others = self.upto
        held: Integers = sum(others, start=first)
        return held

    def blocks(self) -> Iterator[slice]:
        """The cells, some that follow one another at a time."""
        return (slice(i, i + _BLOCK) for i in range(0, len(self.low), _BLOCK))

    @cached_property
    def rows(self) -> int:
        """How many rows were counted."""
        return int(self.held.sum())

    def quantile(self, q: float) -> Bounded:
        """The key of sorted row floor(q (n - 1)), NumPy's method "lower"; nan without rows."""
        if not self.rows:
            return Bounded(math.nan, math.nan)
        i = int(np.searchsorted(self.held_upto, math.floor(q * (self.rows - 1)), side="right"))
        low, high = float(self.low[i]), float(self.high[i])
        return Bounded(low, high - low if self.several[i] else 0.0)

    def equal_mass(self, bins: int) -> Iterator[slice]:
        """The cells of each of `bins` that hold about as many rows each.

        A bin ends with sorted row floor(k (n - 1) / bins) and all rows of the same key, as in scikit-learn's
        `calibration_curve(strategy="quantile")`; bins that many equal keys would fill stay empty.
        """
        ends = np.arange(1, bins) * (self.rows - 1) // bins
        first = np.searchsorted(self.held_upto - self.held, ends, side="right")  # cells of the bins that follow
        return starmap(slice, pairwise([0, *first.tolist(), len(self.held)]))

    @cached_property
    def auroc(self) -> Bounded:
        """Area under the ROC curve: how often a positive has a higher key than a negative, equal keys counting half.

        The pairs within a cell of several keys count half as well, which is wrong by half of them at most. nan unless
        both groups have rows.
        """
        negative, positive = self.count
        pairs = int(negative.sum()) * int(positive.sum())
        if not pairs:
            return Bounded(math.nan, math.nan)
        unsure = np.flatnonzero(self.several)
        twice_below = 2 * _dot(positive, self.upto[0]) - _dot(positive, negative)
        return Bounded(twice_below / (2 * pairs), _dot(positive[unsure], negative[unsure]) / (2 * pairs))

    def auroc_interval(self) -> Interval:
        """DeLong's interval of the area (DeLong et al. 1988, doi:10.2307/2531595), equal keys counting half.

        Undefined with fewer than two rows in a group, and where no pair is out of order: the variance is 0 there.
        """
        negative, positive = self.count
        n, p = int(negative.sum()), int(positive.sum())
        if min(n, p) < 2:
            return UNDEFINED
        area = self.auroc.value
        of_positives: list[float] = []
        of_negatives: list[float] = []
        for part in self.blocks():
            negative, positive = self.count[:, part].astype(np.float64)
            # For every positive the share of negatives below it, for every negative the share of positives above it.
            below = self.upto[0, part] - negative / 2
            above = positive / 2
            above += p - self.upto[1, part]
            for share, others, rows, sums in ((below, n, positive, of_positives), (above, p, negative, of_negatives)):
                share /= others  # in its place, as fresh memory costs more
                share -= area
                share *= share
                share *= rows
                sums.append(np.sum(share))
        variance = math.fsum(of_positives) / (p - 1) / p + math.fsum(of_negatives) / (n - 1) / n
        if area in (0.0, 1.0) or not variance:
            return UNDEFINED
        half = Z * math.sqrt(variance)
        return Interval(max(area - half, 0.0), min(area + half, 1.0))

    def average_precision(self) -> Bounded:
        """sum_k (R_k - R_(k-1)) P_k over the keys in descending order, as scikit-learn has it; nan without positives.

        In a cell of several keys, with t positives and f negatives above it, the j-th of its p positives has a
        precision of at least (t + j) / (t + j + f + n), and none has more than (t + p) / (t + p + f). The sum of the
        former is at least p times the mean of its first and last term, for it is concave in j.
        """
        negative, positive = self.count[:, ::-1].astype(np.float64)
        held = positive > 0
        several, n, p = self.several[::-1][held], negative[held], positive[held]
        if not len(p):
            return Bounded(math.nan, math.nan)
        f = np.cumsum(negative)[held]  # with the negatives of the cell
        t = np.cumsum(positive)[held]  # with the positives of the cell
        least = np.where(several, ((t - p + 1) / (t - p + 1 + f) + t / (t + f)) / 2, t / (t + f))
        most = np.where(several, t / (t + f - n), least)
        total = float(np.sum(p))
        return Bounded(float(np.sum(p * (least + most))) / (2 * total), float(np.sum(p * (most - least))) / (2 * total))

    def roc_curve(self, points: int = CURVE_POINTS) -> Points:
        """At most `points` (false positive rate, true positive rate), from (0, 0) to (1, 1)."""
        negative, positive = self._from_above()
        if not (negative[-1] and positive[-1]):
            return ()
        false, true = negative / negative[-1], positive / positive[-1]
        keep = thinned(false + true, points)
        return tuple(zip(false[keep].tolist(), true[keep].tolist(), strict=True))

    def precision_recall_curve(self, points: int = CURVE_POINTS) -> Points:
        """At most `points` (recall, precision), by ascending recall; the first is that of the highest key."""
        negative, positive = self._from_above()
        if not positive[-1]:
            return ()
        recall, precision = positive[1:] / positive[-1], positive[1:] / (positive[1:] + negative[1:])
        keep = thinned(recall, points)
        return tuple(zip(recall[keep].tolist(), precision[keep].tolist(), strict=True))

    def _from_above(self) -> Integers:
        """(groups, cells + 1) rows of each group in the highest 0, 1, 2, ... cells."""
        return np.pad(np.cumsum(self.count[:, ::-1], axis=1), ((0, 0), (1, 0)))


def thinned(position: Floats, points: int) -> Integers:
    """At most `points` indices of a curve, the first and last among them, evenly by a `position` that never falls."""
    if len(position) <= points:
        return np.arange(len(position))
    wanted = np.linspace(position[0], position[-1], points - 1)
    found = np.searchsorted(position, wanted[1:-1], side="left")
    return np.unique(np.concatenate([[0], found, [len(position) - 1]]))


def _dot(a: Integers, b: Integers) -> int:
    """sum_i a_i b_i of numbers >= 0, exact: in Python's integers where int64 might overflow."""
    if int(a.sum()) * int(b.max(initial=0)) < 1 << 63:
        return int(np.dot(a, b))
    return sum(x * y for x, y in zip(a.tolist(), b.tolist(), strict=True))
