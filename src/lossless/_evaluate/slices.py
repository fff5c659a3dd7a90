"""Figures of the rows of each value of a column: `--by`.

Slices are a partition of the rows, so each of them is compared with all others: a slice is worse if chance, were the
rows the same everywhere, would make any slice so bad once in a hundred evaluations at most.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lossless.errors import EvaluationError

from .accumulators import Accumulator, CalibrationResult, Factories, MeanResult
from .errors import about
from .roles import Holds, ValueColumn, label_indices
from .rows import Cells, Integers
from .text import safe, shown

if TYPE_CHECKING:
    from .readers import Reader

MOST_SLICES = 1000
_WAITING_ROWS = 1 << 17  # rows that are sorted by value at once: some 10 MB, and enough for each of many values
_CHANCE = 0.01  # that any slice at all is called worse where none is
_FEW_LOSSES = 100  # rows whose mean loss is about normal
_LESS_ACCURATE, _MORE_LOSS = 0.01, 1.05  # differences that are of account

Value = str | int | bool | None


@dataclass(frozen=True)
class Slice:
    """The rows of one value."""

    value: Value  # None for rows without one
    rows: int
    figures: Mapping[str, float]
    worse: bool  # than the other rows, by more than chance

    @property
    def name(self) -> str:
        """The value in words."""
        if self.value is None or self.value == "":
            return "(missing)" if self.value is None else "(empty)"
        return str(self.value).lower() if isinstance(self.value, bool) else str(self.value)


@dataclass(frozen=True)
class Slicing:
    """All slices of a column, the largest loss first."""

    column: str
    slices: tuple[Slice, ...]


def slice_columns(
    scores: Reader, names: Sequence[str], targets: Reader | None = None
) -> tuple[tuple[ValueColumn, ...], tuple[ValueColumn, ...]]:
    """The columns that cut the rows into slices, and those of them that the targets have and the scores do not."""
    found, theirs = {}, []
    for name in names:
        column = _usable(scores, name)
        if column is None and targets is not None:
            column = _usable(targets, name)
            theirs += [] if column is None or name in found else [column]
        if column is None:
            others = "" if targets is None else f". Of the targets: {targets.table.describe()}"
            with about(scores.path):
                raise EvaluationError(
                    f"--by names '{shown(name)}', expected a column of texts, whole numbers or booleans beside the "
                    f"scores{'' if targets is None else ' or the targets'}. Columns: {scores.table.describe()}{others}"
                )
        found[name] = column
    return tuple(found.values()), tuple(theirs)


def _usable(reader: Reader, name: str) -> ValueColumn | None:
    """The column of this name, if it can cut rows into slices."""
    called = [c for c in reader.table.values if c.name == name]
    if len(called) > 1:
        with about(reader.path):
            raise EvaluationError(f"two columns are called '{shown(name)}'; write the file with different names")
    return next((c for c in called if c.holds is not Holds.OTHER and not c.listed), None)


def slice_values(cells: Cells, column: ValueColumn, first_row: int) -> NDArray[Any]:
    """(n,) values of a column, None where a row has none."""
    values, null = cells
    found = np.empty(len(null), object)
    if isinstance(values, list):
        found[:] = values
    else:
        numbers, undefined = label_indices(np.asarray(values), column.name, first_row, "slice")
        found[:] = numbers.astype(bool) if column.holds is Holds.BOOLEANS else numbers
        null = null | undefined
    found[null] = None
    return found


@dataclass(frozen=True)
class Sliced:
    """What a task tells of a slice."""

    numbers: tuple[str, ...]  # of a row, which the metrics read
    loss: str  # the metric, a `Mean`, by which slices are ordered
    metrics: Factories


class _Numbers:
    """The numbers of rows that the metrics of a slice read, and the values that say whose they are."""

    def __init__(self, by: NDArray[Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        self.by, self.arrays = by, arrays
        vars(self).update(arrays)

    def __len__(self) -> int:
        return len(self.by)

    def take(self, which: Integers) -> _Numbers:
        return _Numbers(self.by[which], {name: values[which] for name, values in self.arrays.items()})


class Slices:
    """The metrics of a task for each value of each column."""

    def __init__(self, columns: Sequence[str], sliced: Sliced, most: int = MOST_SLICES) -> None:
        self.columns, self.sliced, self.most = tuple(columns), sliced, most
        self.parts: tuple[dict[Value, dict[str, Accumulator]], ...] = tuple({} for _ in columns)
        self.waiting: list[_Numbers] = []

    def update(self, rows: Any, by: NDArray[Any]) -> None:
        """Read the rows of a task, and the (n, k) values of the k columns for them."""
        if len(rows):
            self._wait(_Numbers(by, {name: getattr(rows, name) for name in self.sliced.numbers}))

    def merge(self, other: Slices) -> None:
        self._wait(*other.waiting)
        for mine, theirs in zip(self.parts, other.parts, strict=True):
            for value, metrics in theirs.items():
                if value not in mine:
                    mine[value] = metrics
                else:
                    for name, metric in metrics.items():
                        mine[value][name].merge(metric)
        self._check()

    def _wait(self, *rows: _Numbers) -> None:
        self.waiting.extend(rows)
        if sum(map(len, self.waiting)) >= _WAITING_ROWS:
            self._sort()

    def _sort(self) -> None:
        """Hand the waiting rows to the metrics of their values."""
        if not self.waiting:
            return
        rows = _Numbers(
            np.concatenate([block.by for block in self.waiting]),
            {name: np.concatenate([getattr(block, name) for block in self.waiting]) for name in self.sliced.numbers},
        )
        self.waiting = []
        for column, parts in zip(rows.by.T, self.parts, strict=True):
            codes: dict[Value, int] = {}
            code = np.fromiter((codes.setdefault(value, len(codes)) for value in column), np.int64, len(column))
            order = np.argsort(code, kind="stable")
            for value, group in zip(codes, np.split(order, np.cumsum(np.bincount(code))[:-1]), strict=True):
                if value not in parts:
                    parts[value] = {name: make() for name, make in self.sliced.metrics.items()}
                    self._check()
                of_value = rows.take(group)
                for metric in parts[value].values():
                    metric.update(of_value)

    def _check(self) -> None:
        for column, parts in zip(self.columns, self.parts, strict=True):
            if len(parts) > self.most:
                raise EvaluationError(
                    f"--by {shown(column)}: the column holds more than {self.most} different values, expected a few "
                    "that many rows share. Write a column that groups them, such as ranges or the first letters"
                )

    def result(self) -> tuple[Slicing, ...]:
        self._sort()
        number = sum(map(len, self.parts))
        return tuple(
            _slicing(name, parts, self.sliced, number) for name, parts in zip(self.columns, self.parts, strict=True)
        )


def _slicing(column: str, parts: Mapping[Value, dict[str, Any]], sliced: Sliced, number: int) -> Slicing:
    """The slices of a column, of `number` slices in all."""
    every: dict[str, Any] = {name: make() for name, make in sliced.metrics.items()}
    for metrics in parts.values():
        for name, metric in metrics.items():
            every[name].merge(metric)
    slices = [
        Slice(
            safe(value) if isinstance(value, str) else value,
            metrics[sliced.loss].rows,
            {name: _figure(metric.result()) for name, metric in metrics.items()},
            _is_worse(metrics, every, sliced.loss, number),
        )
        for value, metrics in parts.items()
    ]
    order = sorted(slices, key=lambda s: (-s.figures[sliced.loss], -s.rows, s.value is None, s.name))
    return Slicing(column, tuple(order))


def _figure(result: float | MeanResult | CalibrationResult) -> float:
    if isinstance(result, MeanResult):
        return result.value
    return result.error if isinstance(result, CalibrationResult) else result


def _is_worse(here: Mapping[str, Any], every: Mapping[str, Any], loss: str, number: int) -> bool:
    """Whether the rows of a slice are worse than the others, by Bonferroni over all slices.

    Chance gives more evidence e than this with a probability below exp(-e): for a normal number e is z^2 / 2, for
    right and wrong answers the logarithm of the ratio of likelihoods, which few answers do not mislead.
    """
    wanted = math.log(number / _CHANCE)
    mine, whole = here[loss], every[loss]
    rows, others = mine.rows, whole.rows - mine.rows
    if not others:
        return False
    if "accuracy" in here:
        right, others_right = here["accuracy"].correct, every["accuracy"].correct - here["accuracy"].correct
        p, q, pooled = right / rows, others_right / others, (right + others_right) / (rows + others)
        evidence = rows * _divergence(p, pooled) + others * _divergence(q, pooled)
        if p < q - _LESS_ACCURATE and evidence > wanted:
            return True
    if min(rows, others) < _FEW_LOSSES or whole.squares.infinite[0]:
        return False
    rest = whole.moments - mine.moments
    more = mine.moments.mean - rest.mean
    error = mine.moments.variance + rest.variance  # of the difference, squared (Welch)
    return bool(more > (Fraction(_MORE_LOSS) - 1) * rest.mean and more**2 > 2 * Fraction(wanted) * error)


def _divergence(p: float, q: float) -> float:
    """Kullback-Leibler divergence of two answers, yes or no, in nats."""
    return sum(a * math.log(a / b) for a, b in ((p, q), (1.0 - p, 1.0 - q)) if a > 0.0)
