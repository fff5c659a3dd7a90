"""The plan of a run: every decision, taken once before any row is scored."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossless.errors import EvaluationError

from .errors import about
from .inputs import find_file, find_files
from .readers import INDICES, Part, Reader, open_reader, stamp
from .roles import (
    SAMPLE_ROWS,
    Column,
    Columns,
    Holds,
    Request,
    Targets,
    Task,
    ValueColumn,
    WideColumn,
    choose_columns,
    choose_label,
    choose_scores,
    unknown_marks,
)
from .rows import SUM_TOLERANCE, Kind, Values
from .slices import slice_columns
from .stores import FilePath, copies
from .targets import key_column, labelled, load_labels
from .tasks.choice import choose_task, kind_of
from .text import enumerated, quoted, safe, shown

MOST_CLASSES = 1 << 24  # a row of float64 numbers is then 128 MiB, and a run holds several


@dataclass(frozen=True)
class Partition:
    """What one task reads; partitions are merged in the order of the plan."""

    file: int
    path: FilePath
    part: Part


@dataclass(frozen=True)
class Plan:
    """Input, columns and metrics of a run; small and picklable, so that any executor can carry it."""

    paths: tuple[str, ...]
    format: str
    rows: int
    columns: Columns
    kind: Kind
    kind_reason: str
    task_reason: str
    width: int  # scores of a row
    classes: int
    partitions: tuple[Partition, ...]
    notes: tuple[str, ...]
    ignore_index: int | None = -100
    surprising: int = 20
    sum_tolerance: float = SUM_TOLERANCE


def make_plan(
    paths: Sequence[str | os.PathLike[str]],
    request: Request,
    *,
    targets: str | os.PathLike[str] | None = None,
    on: str | None = None,
    by: Sequence[str] = (),
    class_names: Sequence[str] | None = None,
    ignore_index: int | None = -100,
    surprising: int = 20,
) -> Plan:
    """Open the files, choose the columns, decide what the scores are, and cut the input into partitions."""
    if not paths:
        raise EvaluationError("no file to evaluate")
    files, skipped = find_files(paths)
    readers = [_opened(path, number) for number, path in enumerate(files)]
    first = readers[0]
    truth = None if targets is None else _opened(find_file(targets), 0)
    with about(first.path):
        if truth is None and on is not None:
            raise EvaluationError("--on names the column that joins scores and --targets, which are not given")
        scores = choose_scores(first.table, request)
    label = _label(truth or first, scores, request)
    with about(first.path):
        columns = choose_columns(first.table, scores, label, request, own=truth is None)
    slicing, of_truth = slice_columns(first, by, truth)
    columns = replace(columns, by=slicing)
    if truth is not None:
        columns = _joined(first, truth, columns, on, of_truth)
    rows = [_rows(first, reader, columns) for reader in readers]
    kept = _kept(readers, rows)
    filled = next((reader for reader, held in zip(readers, rows, strict=True) if held), None)
    if filled is None:
        with about(first.path):
            raise EvaluationError("holds no rows")
    with about(filled.path):
        width = filled.width(columns.scores)
    with about((truth or filled).path):
        task, task_reason = choose_task(
            columns,
            width,
            lambda: _known(_first_values(truth or filled, columns.label), ignore_index),
            lambda: _first_values(filled, columns.scores),
            request,
        )
        unknown = ignore_index if task is Task.MULTILABEL else None
        if unknown in (0, 1):
            raise EvaluationError(
                f"--ignore-index {unknown}, but {unknown} says whether a class is true of a row. Expected another "
                "number, which marks the classes of which that is unknown"
            )
        columns = replace(columns, task=task, label=_quantity(columns.label, task), unknown=unknown)
        _check_width(truth or filled, columns, width)
    with about(filled.path):
        classes = max(width, 2) if task is Task.BINARY else width
        _check_classes(columns, classes)
    for reader, held in zip(readers[1:], rows[1:], strict=True):
        _check_alike(first, reader, columns, width if held else None, given_names=class_names is not None)
    if kept != rows:
        skipped.append(f"{sum(rows) - sum(kept)} rows that a sampler gave to several processes are read once")
        rows = kept
    notes = skipped + list(dict.fromkeys(note for reader in readers for note in reader.notes(columns)))
    given = None if class_names is None else tuple(safe(name) for name in class_names)
    names = _names(first, truth, columns) if given is None else given
    if names is not None and (len(names) != classes or len(set(names)) != classes):
        what = f"{len(names)} class names ({len(set(names))} different) for {classes} scores per row"
        if given is not None or columns.label.text:
            with about(first.path):
                raise EvaluationError(f"got {what}, expected one for each")
        notes.append(f"the file has {what}; its names are not used")
        names = None
    columns = replace(columns, class_names=names)
    if truth is not None:
        load_labels(columns)  # so that what is wrong with them is told of their file alone
        columns = _by_order(readers, truth, columns, rows) if columns.key is None else columns
        how = "by the order of the rows" if columns.key is None else f"by '{shown(columns.key.name)}'"
        notes = [f"labels are '{shown(columns.label.name)}' of {shown(truth.path)}, joined {how}", *notes]
    sample = _sample(readers, columns, width)
    with about(filled.path):
        kind, reason = kind_of(columns, width, sample, request)
    return Plan(
        paths=tuple(str(reader.path) for reader in readers),
        format=first.format,
        rows=sum(rows),
        columns=columns,
        kind=kind,
        kind_reason=reason,
        task_reason=task_reason,
        width=width,
        classes=classes,
        partitions=tuple(
            Partition(reader.file, reader.path, part)
            for reader, held in zip(readers, rows, strict=True)
            for part in _parts(reader, columns, width, held)
        ),
        notes=tuple(notes),
        ignore_index=ignore_index,
        surprising=surprising,
    )


def _opened(path: FilePath, file: int) -> Reader:
    """A reader that has looked at its columns."""
    reader = open_reader(path, file)
    with about(path):
        _ = reader.table
    return reader


def _kept(readers: Sequence[Reader], rows: list[int]) -> list[int]:
    """The rows of each file but for those at its end that others have too: a sampler adds them to make all as long."""
    columns = [reader.table.row_number for reader in readers]
    if not any(columns):
        return rows
    numbers = []
    for reader, column in zip(readers, columns, strict=True):
        if column is None:
            with about(reader.path):
                raise EvaluationError(f"has no {INDICES} beside it, as other files have: expected all or none")
        numbers += [np.zeros(0, np.int64), *(cells.values for cells in reader.values(column))]
    _, at, times = np.unique(np.concatenate(numbers), return_inverse=True, return_counts=True)
    kept = []
    for found in np.split(at, np.cumsum(rows)[:-1]):
        end = len(found)
        while end and times[found[end - 1]] > 1:
            end -= 1
            times[found[end]] -= 1
        kept.append(end)
    return kept


def _parts(reader: Reader, columns: Columns, width: int, rows: int) -> Sequence[Part]:
    """The parts of the first rows of a file; one of all, where each process that reads a part has to fetch the file."""
    parts = reader.parts(columns, width)
    if reader.table.row_number is not None:
        parts = [replace(p, rows=min(p.rows, rows - p.first_row)) for p in parts if p.first_row < rows]
    if not parts or not copies.hold(reader.path):
        return parts
    return [Part(0, sum(part.rows for part in parts), tuple(itertools.chain(*(part.selection for part in parts))))]


def _label(truth: Reader, scores: WideColumn, request: Request) -> Column:
    """The column of truth; the array of an .npy file has no name but the file's."""
    with about(truth.path):
        every: list[Column] = [*truth.table.values, *truth.table.scores]
        if truth.format == "NPY" and request.label is None and every[0] != scores:
            request = replace(request, label=every[0].name)
        label = choose_label(truth.table, request, scores)
        if isinstance(label, ValueColumn) and label.listed and truth.width(label.widened) > 1:
            return label.widened
        return label


def _first_values(reader: Reader, column: Column) -> Values:
    """The first values of a column that are not null, nor NaN alone."""
    for values, null in reader.values(column):
        if isinstance(values, list):
            return [value for value in values if value is not None]
        if values.dtype.kind == "f":
            null = null | np.isnan(values).reshape(len(null), -1).all(axis=1)
        if not null.all():
            return values[~null]
    return np.zeros(0)


def _known(labels: Values, ignore_index: int | None) -> Values:
    """Labels but for those that mean that there is none; of several a row, these are NaN."""
    if isinstance(labels, list):
        return labels
    if labels.ndim == 1:
        return np.asarray(labels[labels != ignore_index])
    unknown = unknown_marks(labels, ignore_index)
    return np.where(unknown, np.nan, labels)[~unknown.all(axis=1)] if unknown.any() else labels


def _quantity(label: Column, task: Task) -> Column:
    """The label, read as a number where it is one: whole ones may go on with others."""
    if task is not Task.REGRESSION or not isinstance(label, ValueColumn) or label.listed:
        return label
    return label.widened if label.holds in (Holds.INTEGERS, Holds.FLOATS) else label


def _check_width(truth: Reader, columns: Columns, width: int) -> None:
    """Raise if the truth of a row has another number of values than its scores."""
    label = columns.label
    theirs = truth.width(label) if isinstance(label, WideColumn) else 1
    if theirs != width and (columns.task is Task.REGRESSION or isinstance(label, WideColumn)):
        raise EvaluationError(
            f"'{shown(columns.scores.name)}' has {width} numbers per row and '{shown(label.name)}' has {theirs}, "
            "expected as many"
        )


def _joined(first: Reader, truth: Reader, columns: Columns, on: str | None, by: tuple[ValueColumn, ...]) -> Columns:
    """The columns with the targets, the key if there is one, and those of the targets that make slices."""
    there, key = None, first.table.row_number
    if on is not None:
        with about(first.path):
            key = key_column(first.table, on)
        with about(truth.path):
            there = key_column(truth.table, on)
            if there.text != key.text:
                raise EvaluationError(
                    f"'{shown(on)}' holds {shown(there.type)} here and {shown(key.type)} in {shown(first.path)}, "
                    "expected texts in both or whole numbers in both"
                )
            if on in columns.label.members:
                raise EvaluationError(f"'{shown(on)}' is both the label and the key")
    return replace(columns, targets=Targets(truth.path, stamp(truth.path), there, by=by), key=key)


def _names(first: Reader, truth: Reader | None, columns: Columns) -> tuple[str, ...] | None:
    """Names of the classes, of the file of scores or else of that of targets."""
    names, label = first.table.names_of(columns.scores, columns.label), columns.label
    theirs = label.class_names if truth is None else label.class_names or truth.table.class_names
    with about(first.path if truth is None else truth.path):
        if names is not None and theirs is not None and names != theirs and not label.text:
            raise EvaluationError(
                f"label column '{shown(label.name)}' numbers the classes {enumerated(theirs)}, but the scores are in "
                f"the order {enumerated(names)}. Bring the scores into the order of the labels, or save their names"
            )
        if names is not None and _boolean(label) and [n.lower() for n in names] == ["true", "false"]:
            raise EvaluationError(
                f"label column '{shown(label.name)}' holds booleans, which count as 0 and 1, but the scores are in the "
                f"order {enumerated(names)}. Bring the scores into the order False, True"
            )
    return names if names is not None else theirs


def _by_order(readers: Sequence[Reader], truth: Reader, columns: Columns, rows: Sequence[int]) -> Columns:
    """The targets, whose rows are those of the files of scores one after another."""
    assert columns.targets is not None
    labels = len(load_labels(columns).labels)
    if labels != sum(rows):
        with about(truth.path):
            raise EvaluationError(
                f"{labels} labels for {sum(rows)} rows of scores in {shown(readers[0].path)}"
                f"{f' and {len(readers) - 1} more' if len(readers) > 1 else ''}, expected one for each. "
                "If both files have a column that says which row is which, name it by --on"
            )
    starts = tuple(itertools.accumulate(rows, initial=0))
    return replace(columns, targets=replace(columns.targets, starts=starts))


def _rows(first: Reader, other: Reader, columns: Columns) -> int:
    """The rows of a file that has the columns of the first one."""
    asked: tuple[Column, ...] = (columns.scores, *columns.beside)
    scores, *beside = (other.table.like(column) for column in asked)
    if scores is None or None in beside:
        with about(other.path):
            raise EvaluationError(
                f"lacks the columns of {shown(first.path)} ({quoted([column.name for column in asked])}). "
                f"It has: {other.table.describe()}"
            )
    return scores.rows


def _boolean(label: Column | None) -> bool:
    return isinstance(label, ValueColumn) and label.holds is Holds.BOOLEANS


def _check_classes(columns: Columns, classes: int) -> None:
    """Raise if there is no telling what so many scores per row are."""
    scores, label = f"'{shown(columns.scores.name)}'", f"'{shown(columns.label.name)}'"
    if classes > MOST_CLASSES:
        raise EvaluationError(f"{scores} has {classes} scores per row, expected at most {MOST_CLASSES}")
    if _boolean(columns.label) and classes > 2:
        raise EvaluationError(
            f"label column {label} holds booleans, but {scores} has {classes} classes. If it says whether the model "
            "was right, it is not the truth: name the column of true labels by --label"
        )
    values = columns.class_values
    if values is not None and (len(values) != classes or len(set(values)) != classes):
        raise EvaluationError(
            f"array 'classes' holds {len(values)} labels ({len(set(values))} different) for {classes} scores per row, "
            "expected one for each"
        )


def _check_alike(first: Reader, other: Reader, columns: Columns, width: int | None, *, given_names: bool) -> None:
    """Raise if the columns of another file mean something else; `width` is None if it has no rows."""
    scores = other.table.wide(columns.scores.name)
    label = other.table.like(columns.label) if columns.targets is None else None
    assert scores is not None
    ours = first.table.names_of(columns.scores, columns.label)
    theirs = other.table.names_of(scores, columns.label if label is None else label)
    unnamed = not columns.label.text and (ours is None or theirs is None)
    alike = (
        scores.members == columns.scores.members
        and all(_same_type(column, other.table.like(column)) for column in columns.beside)
        and all(_boolean(column) is _boolean(other.table.like(column)) for column in columns.own_by)
        and (width is None or other.width(scores) == width)
        and (given_names or unnamed or theirs == ours)
        and other.table.class_values == columns.class_values
    )
    if not alike:
        with about(other.path):
            raise EvaluationError(
                f"differs from {shown(first.path)} in the number of classes, their names or the type of the label or "
                "slice; evaluate them one by one"
            )


def _same_type(column: Column, other: Column | None) -> bool:
    """Whether a column means the same as one of another file."""
    if isinstance(column, WideColumn):
        return other is not None and len(other.members) == len(column.members)
    return isinstance(other, ValueColumn) and other.text == column.text and other.holds is not Holds.OTHER


def _sample(readers: Sequence[Reader], columns: Columns, width: int) -> NDArray[Any]:
    """The scores of the first rows of the input that have any."""
    for reader in readers:
        with about(reader.path):
            for part in reader.parts(columns, width):
                for batch in labelled(reader.batches(part, columns, width), columns):
                    scores = batch.scores[~(batch.missing | batch.unmatched)]
                    if len(scores):
                        return scores[:SAMPLE_ROWS]
    return np.zeros((0, width))
