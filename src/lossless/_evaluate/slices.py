"""Figures of the rows of each value of a column: `--by`.

Slices are a partition of the rows, so each of them is compared with all others: a slice is worse if chance, were the
rows the same everywhere, would make any slice so bad once in a hundred evaluations at most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossless.errors import EvaluationError

from .accumulators import Accumulator, Accuracy, Calibration, Mean
from .roles import Holds, Table, ValueColumn, label_indices
from .rows import Cells, ScoredRows
from .text import safe, shown

MOST_SLICES = 1000
_WAITING_ROWS = 1 << 17  # rows that are sorted by value at once: some 10 MB, and enough for each of many values
_CHANCE = 0.01  # that any slice at all is called worse where none is
_FEW_LOSSES = 100  # rows whose mean loss is about normal
_LESS_ACCURATE, _MORE_LOSS = 0.01, 1.05  # differences that are of account

Value = str | int | bool | None
Metrics = Mapping[str, Callable[[], Accumulator]]


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


def slice_columns(table: Table, names: Sequence[str]) -> tuple[ValueColumn, ...]:
    """The columns that cut the rows into slices."""
    usable = {c.name: c for c in table.values if c.holds is not Holds.OTHER and not c.listed}
    every = [c.name for c in table.values]
    for name in names:
        if every.count(name) > 1:
            raise EvaluationError(f"two columns are called '{shown(name)}'; write the file with different names")
        if name not in usable:
            raise EvaluationError(
                f"--by names '{shown(name)}', expected a column of texts, whole numbers or booleans beside the scores. "
                f"Columns: {table.describe()}"
            )
    return tuple(usable[name] for name in dict.fromkeys(names))


def slice_values(cells: Sequence[Cells], columns: Sequence[ValueColumn], first_row: int) -> NDArray[Any]:
    """(n, k) values of the k columns, None where a row has none."""
    found = np.empty((len(cells[0].null), len(columns)), object)
    for k, ((values, null), column) in enumerate(zip(cells, columns, strict=True)):
        if isinstance(values, list):
            found[:, k] = values
        else:
            numbers, undefined = label_indices(np.asarray(values), column.name, first_row, "slice")
            found[:, k] = numbers.astype(bool) if column.holds is Holds.BOOLEANS else numbers
            null = null | undefined
        found[null, k] = None
    return found


METRICS: Metrics = {
    "losses": partial(Mean, "nll"),
    "accuracy": Accuracy,
    "confidence": partial(Mean, "confidence"),
    "calibration": Calibration,
}


class Slices:
    """A few metrics for each value of each column: such as need the numbers of a row, not its scores or its file."""

    def __init__(self, columns: Sequence[str], metrics: Metrics = METRICS, most: int = MOST_SLICES) -> None:
        self.columns, self.metrics, self.most = tuple(columns), metrics, most
        self.parts: tuple[dict[Value, dict[str, Accumulator]], ...] = tuple({} for _ in columns)
        self.waiting: list[ScoredRows] = []

    def update(self, rows: ScoredRows) -> None:
        if len(rows):
            self._wait(replace(rows, logits=np.empty((len(rows), 0))))

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

    def _wait(self, *rows: ScoredRows) -> None:
        self.waiting.extend(rows)
        if sum(map(len, self.waiting)) >= _WAITING_ROWS:
            self._sort()

    def _sort(self) -> None:
        """Hand the waiting rows to the metrics of their values."""
        if not self.waiting:
            return
        arrays: dict[str, Any] = {
            name: np.concatenate([getattr(block, name) for block in self.waiting])
            for name, value in vars(self.waiting[0]).items()
            if isinstance(value, np.ndarray)
        }
        rows = replace(self.waiting[0], **arrays)
        self.waiting = []
        assert rows.by is not None
        for column, parts in zip(rows.by.T, self.parts, strict=True):
            codes: dict[Value, int] = {}
            code = np.fromiter((codes.setdefault(value, len(codes)) for value in column), np.int64, len(column))
            order = np.argsort(code, kind="stable")
            for value, group in zip(codes, np.split(order, np.cumsum(np.bincount(code))[:-1]), strict=True):
                if value not in parts:
                    parts[value] = {name: make() for name, make in self.metrics.items()}
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
        return tuple(_slicing(name, parts, number) for name, parts in zip(self.columns, self.parts, strict=True))


def _slicing(column: str, parts: Mapping[Value, Mapping[str, Any]], number: int) -> Slicing:
    """The slices of a column, of `number` slices in all."""
    every: dict[str, Any] = {"losses": Mean("nll"), "accuracy": Accuracy()}
    for metrics in parts.values():
        for name, metric in every.items():
            metric.merge(metrics[name])
    slices = [
        Slice(
            safe(value) if isinstance(value, str) else value,
            metrics["losses"].rows,
            {
                "nll": metrics["losses"].result().value,
                "accuracy": metrics["accuracy"].result(),
                "confidence": metrics["confidence"].result().value,
                "calibration_error": metrics["calibration"].result().error,
            },
            _is_worse(metrics, every, number),
        )
        for value, metrics in parts.items()
    ]
    return Slicing(column, tuple(sorted(slices, key=lambda s: (-s.figures["nll"], -s.rows, s.value is None, s.name))))


def _is_worse(here: Mapping[str, Any], every: Mapping[str, Any], number: int) -> bool:
    """Whether the rows of a slice are worse than the others, by Bonferroni over all slices.

    A probability below exp(-evidence) is below the level: for a normal number z^2 / 2 bounds it, for counts the
    logarithm of the ratio of likelihoods, which few counts do not mislead as they would the normal distribution.
    """
    wanted = math.log(number / _CHANCE)
    right, rows = here["accuracy"].correct, here["accuracy"].rows
    others_right, others = every["accuracy"].correct - right, every["accuracy"].rows - rows
    if not others:
        return False
    if right / rows < others_right / others - _LESS_ACCURATE:
        pooled = (right + others_right) / (rows + others)
        if rows * _divergence(right / rows, pooled) + others * _divergence(others_right / others, pooled) > wanted:
            return True
    losses, whole = here["losses"], every["losses"]
    if min(rows, others) < _FEW_LOSSES or not math.isfinite(whole.squares.total()):
        return False
    mean, rest = losses.sum.divided_by(rows), (whole.sum.total() - losses.sum.total()) / others
    variance = losses.squares.total() / rows - mean**2
    variance_of_rest = (whole.squares.total() - losses.squares.total()) / others - rest**2
    error = max(variance, 0.0) / rows + max(variance_of_rest, 0.0) / others  # of the difference, squared (Welch)
    return bool(mean > _MORE_LOSS * rest and (mean - rest) ** 2 > 2.0 * wanted * error)


def _divergence(p: float, q: float) -> float:
    """Kullback-Leibler divergence of two answers, yes or no, in nats."""
    return sum(a * math.log(a / b) for a, b in ((p, q), (1.0 - p, 1.0 - q)) if a > 0.0)
