"""The plan of a run: every decision, taken once before any row is scored."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from lossless.errors import EvaluationError

from .errors import about
from .readers import Part, Reader, open_reader
from .roles import SAMPLE_ROWS, Columns, Request, choose_columns, decide_kind
from .rows import SUM_TOLERANCE, Kind


@dataclass(frozen=True)
class Partition:
    """What one task reads; partitions are merged in the order of `number`."""

    number: int
    file: int
    path: str
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
    class_names: Sequence[str] | None = None,
    ignore_index: int | None = -100,
    surprising: int = 20,
) -> Plan:
    """Open the files, choose the columns, decide what the scores are, and cut the input into partitions."""
    if not paths:
        raise EvaluationError("no file to evaluate")
    readers = [open_reader(os.fspath(path), number) for number, path in enumerate(paths)]
    first = readers[0]
    with about(first.path):
        columns = choose_columns(first.table, request)
    rows = sum(reader.rows for reader in readers)
    if not rows:
        raise EvaluationError(f"{first.path}: holds no rows")
    filled = next(reader for reader in readers if reader.rows)
    with about(filled.path):
        classes = filled.classes(columns.scores)
    if classes < 2:
        raise EvaluationError(
            f"{filled.path}: '{columns.scores.name}' has {classes} score per row, expected one per class. "
            "For a two-class model with one probability p, save the two columns 1 - p and p"
        )
    for reader in readers[1:]:
        _check_alike(first, reader, columns, classes, given_names=class_names is not None)
    notes = list(dict.fromkeys(note for reader in readers for note in reader.notes(columns)))
    names = tuple(class_names) if class_names is not None else first.table.class_names
    if names is not None and (len(names) != classes or len(set(names)) != classes):
        what = f"{len(names)} class names ({len(set(names))} different) for {classes} scores per row"
        if class_names is not None or columns.label.text:
            raise EvaluationError(f"{first.path}: got {what}, expected one for each")
        notes.append(f"the file has {what}; its names are not used")
        names = None
    columns = replace(columns, class_names=names)
    sample = _sample(readers, columns, classes)
    with about(filled.path):
        kind, reason = decide_kind(columns.scores, sample, request)
    numbers = itertools.count()
    return Plan(
        paths=tuple(reader.path for reader in readers),
        format=first.format,
        rows=rows,
        columns=columns,
        kind=kind,
        kind_reason=reason,
        classes=classes,
        partitions=tuple(
            Partition(next(numbers), reader.file, reader.path, part)
            for reader in readers
            for part in reader.parts(classes)
        ),
        notes=tuple(notes),
        ignore_index=ignore_index,
        surprising=surprising,
    )


def _check_alike(first: Reader, other: Reader, columns: Columns, classes: int, *, given_names: bool) -> None:
    """Every file has the columns of the first one."""
    scores = {c.name: c for c in other.table.scores}
    values = {c.name: c for c in other.table.values}
    if columns.scores.name not in scores or columns.label.name not in values:
        raise EvaluationError(
            f"{other.path}: lacks the columns of {first.path} ('{columns.scores.name}', '{columns.label.name}'). "
            f"It has: {other.table.describe()}"
        )
    label = values[columns.label.name]
    alike = (
        scores[columns.scores.name].members == columns.scores.members
        and label.text == columns.label.text
        and (not other.rows or other.classes(scores[columns.scores.name]) == classes)
        and (given_names or not columns.label.text or other.table.class_names == first.table.class_names)
    )
    if not alike:
        raise EvaluationError(
            f"{other.path}: differs from {first.path} in the number of classes, their names or the type of the label; "
            "evaluate them one by one"
        )


def _sample(readers: Sequence[Reader], columns: Columns, classes: int) -> np.ndarray:
    """Scores of the first rows of the input, those without scores left out."""
    for reader in readers:
        with about(reader.path):
            for part in reader.parts(classes):
                for batch in reader.batches(part, columns, classes):
                    scores = batch.scores if batch.missing is None else batch.scores[~batch.missing]
                    if len(scores):
                        return scores[:SAMPLE_ROWS]
    return np.zeros((0, classes))
