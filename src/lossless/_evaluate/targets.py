"""Labels from a file of their own, joined to the scores by a key or by the order of the rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossless.errors import EvaluationError

from .errors import about
from .readers import Reader, open_reader
from .roles import Columns, Holds, Table, ValueColumn, WideColumn, label_indices, truth
from .rows import Batch, Integers, RawBatch, Values
from .slices import slice_values
from .text import shown

NO_SCORES = WideColumn("", (), "", 0)


def key_column(table: Table, name: str) -> ValueColumn:
    """The column that rows are joined by."""
    for column in table.values:
        if column.name == name and not column.listed and column.holds in (Holds.TEXT, Holds.INTEGERS, Holds.FLOATS):
            return column
    raise EvaluationError(
        f"--on names '{shown(name)}', expected a column of texts or whole numbers. Columns: {table.describe()}"
    )


@dataclass(frozen=True)
class Labels:
    """The labels of a file of targets, in memory: 8 bytes a row, their keys, and the values of slices."""

    labels: NDArray[Any]  # (n,) class indices, (n, C) marks or (n, k) quantities
    missing: NDArray[np.bool_]
    by: tuple[NDArray[Any], ...]  # of each column that cuts the rows into slices, (n + 1,) values, the last one None
    numbers: Integers  # keys in order, if they are numbers
    order: Integers  # and their rows
    texts: dict[str | None, int] | None  # rows by key, if they are texts

    def rows_of(self, values: Values, column: str, first_row: int) -> Integers:
        """The row of each key; -1 for one that is not there."""
        if self.texts is not None:
            return np.fromiter((self.texts.get(key, -1) for key in values), np.int64, len(values))
        keys, undefined = label_indices(np.asarray(values), column, first_row, "key")
        if not len(self.numbers):
            return np.full(len(keys), -1)
        at = np.minimum(np.searchsorted(self.numbers, keys), len(self.numbers) - 1)
        return np.where((self.numbers[at] == keys) & ~undefined, self.order[at], -1)

    def key_of(self, row: int) -> object:
        """The key of a row; its number, if there are no others."""
        if self.texts is not None:
            return next(key for key, at in self.texts.items() if at == row)
        return int(self.numbers[self.order == row][0])

    def by_of(self, rows: Integers) -> list[NDArray[Any]]:
        """The values of slices at these rows, None at -1."""
        return [values[rows] for values in self.by]


def load_labels(columns: Columns) -> Labels:
    """The labels of the file of targets."""
    wanted = replace(columns, scores=NO_SCORES, details=(), key=None, by=())  # what they depend on
    if wanted.targets is not None:
        wanted = replace(wanted, targets=replace(wanted.targets, starts=()))
    return _load(wanted)


@lru_cache(maxsize=2)
def _load(columns: Columns) -> Labels:
    targets = columns.targets
    assert targets is not None
    reader = open_reader(targets.path, 0)
    none = np.zeros(0, np.int64)
    labels, missing = [], [none.astype(bool)]
    row = 0
    with about(targets.path):
        for values, null in reader.values(columns.label):
            found, undefined = truth(values, columns, row)
            labels.append(found)
            missing.append(null | undefined)
            row += len(found)
        by = tuple(_slice_values(reader, column, row) for column in targets.by)
        whole = np.concatenate(labels or [none]), np.concatenate(missing), by
        if targets.key is None:
            rows = np.arange(len(whole[0]))  # which the scores may name
            return Labels(*whole, rows, rows, None)
        if targets.key.text:
            return Labels(*whole, none, none, _texts(reader.values(targets.key), targets.key.name))
        return Labels(*whole, *_numbers(reader.values(targets.key), targets.key.name), None)


def _slice_values(reader: Reader, column: ValueColumn, rows: int) -> NDArray[Any]:
    """(rows + 1,) values of a column of the targets, of which equal ones are one object, and None."""
    found: list[NDArray[Any]] = []
    known: dict[Any, Any] = {}
    row = 0
    for cells in reader.values(column):
        values = slice_values(cells, column, row)
        found.append(np.array([known.setdefault(value, value) for value in values], object))
        row += len(values)
    if row != rows:
        raise EvaluationError(f"'{shown(column.name)}' has {row} values for {rows} labels, expected one for each")
    return np.concatenate([*found, np.array([None], object)])


def _texts(blocks: Iterable[tuple[Values, NDArray[np.bool_]]], name: str) -> dict[str | None, int]:
    found: dict[str | None, int] = {}
    for row, key in enumerate(itertools.chain.from_iterable(values for values, _ in blocks)):
        if key is not None and found.setdefault(key, row) != row:
            raise _twice(name, key, found[key], row)
    return found


def _numbers(blocks: Iterable[tuple[Values, NDArray[np.bool_]]], name: str) -> tuple[Integers, Integers]:
    keys, rows = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    row = 0
    for values, null in blocks:
        found, undefined = label_indices(np.asarray(values), name, row, "key")
        present = ~(null | undefined)
        keys.append(found[present])
        rows.append(row + np.flatnonzero(present))
        row += len(found)
    numbers, order = np.concatenate(keys), np.concatenate(rows)
    by_key = np.argsort(numbers, kind="stable")
    numbers, order = numbers[by_key], order[by_key]
    again = np.flatnonzero(numbers[1:] == numbers[:-1])
    if len(again):
        i = int(again[0])
        raise _twice(name, numbers[i], order[i], order[i + 1])
    return numbers, order


def _twice(name: str, key: object, first: int, second: int) -> EvaluationError:
    return EvaluationError(
        f"column '{shown(name)}' holds '{shown(key)}' at rows {first} and {second}, expected each key once"
    )


def labelled(batches: Iterable[RawBatch], columns: Columns) -> Iterator[Batch]:
    """Batches with the labels of their rows."""
    targets = columns.targets
    known = None if targets is None else load_labels(columns)
    for batch in batches:
        scores, beside = batch.scores, batch.beside
        missing, unmatched = scores.null, np.zeros(len(scores.null), bool)
        if known is None or targets is None:
            label, *by = beside
            labels, undefined = truth(label.values, columns, batch.first_row)
            missing = missing | label.null | undefined
            rows = None
            if columns.key is not None:
                key, *by = by
                rows, _ = label_indices(np.asarray(key.values), columns.key.name, batch.first_row, "key")
        else:
            if columns.key is None:
                by = list(beside)
                rows = targets.starts[batch.file] + batch.first_row + np.arange(len(missing))
            else:
                key, *by = beside
                missing = missing | key.null
                rows = known.rows_of(key.values, columns.key.name, batch.first_row)
            unmatched = (rows < 0) & ~missing
            if len(known.labels):
                labels = known.labels[rows]
                missing = missing | (known.missing[rows] & (rows >= 0))
            else:
                labels = np.zeros((len(rows), *known.labels.shape[1:]), known.labels.dtype)
            labels[rows < 0] = 0
        own = [slice_values(cells, column, batch.first_row) for cells, column in zip(by, columns.own_by, strict=True)]
        yield Batch(
            batch.file,
            batch.first_row,
            np.asarray(scores.values),
            labels,
            missing,
            unmatched,
            _by(columns, own, [] if known is None or rows is None else known.by_of(rows)),
            rows,
        )


def _by(columns: Columns, own: Sequence[NDArray[Any]], theirs: Sequence[NDArray[Any]]) -> NDArray[Any] | None:
    """(n, k) values of the columns that make slices, in their order, of those beside the scores and of the targets."""
    if not columns.by:
        return None
    of_targets = () if columns.targets is None else columns.targets.by
    named = dict(zip((*columns.own_by, *of_targets), (*own, *theirs), strict=True))
    return np.stack([named[column] for column in columns.by], axis=1)
