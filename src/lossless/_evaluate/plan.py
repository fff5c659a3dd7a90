"""The plan of a run: every decision, taken once before any row is scored."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from lossless._diagnose.finding import Finding, found
from lossless._diagnose.rules import Case, examine
from lossless.errors import EvaluationError

from .errors import about
from .inputs import find_files
from .readers import Part, Reader, open_reader
from .roles import SAMPLE_ROWS, Columns, Holds, Request, choose_columns, decide_kind
from .rows import SUM_TOLERANCE, Kind, RawBatch
from .text import safe, shown

MOST_CLASSES = 1 << 24  # a row of float64 numbers is then 128 MiB, and a run holds several


@dataclass(frozen=True)
class Partition:
    """What one task reads; partitions are merged in the order of the plan."""

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
    findings: tuple[Finding, ...]
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
    files, skipped = find_files(paths)
    readers = [_opened(path, number) for number, path in enumerate(files)]
    first = readers[0]
    with about(first.path):
        columns = choose_columns(first.table, request)
    rows = [_rows(first, reader, columns) for reader in readers]
    filled = next((reader for reader, held in zip(readers, rows, strict=True) if held), None)
    if filled is None:
        with about(first.path):
            raise EvaluationError("holds no rows")
    with about(filled.path):
        classes = filled.classes(columns.scores)
        _check_classes(columns, classes)
    for reader, held in zip(readers[1:], rows[1:], strict=True):
        _check_alike(first, reader, columns, classes if held else None, given_names=class_names is not None)
    notes = skipped + list(dict.fromkeys(note for reader in readers for note in reader.notes(columns)))
    given = None if class_names is None else tuple(safe(name) for name in class_names)
    names = first.table.names_of(columns.scores, columns.label) if given is None else given
    if names is not None and (len(names) != classes or len(set(names)) != classes):
        what = f"{len(names)} class names ({len(set(names))} different) for {classes} scores per row"
        if given is not None or columns.label.text:
            with about(first.path):
                raise EvaluationError(f"got {what}, expected one for each")
        notes.append(f"the file has {what}; its names are not used")
        names = None
    columns = replace(columns, class_names=names)
    sample = _sample(readers, columns, classes)
    with about(filled.path):
        kind, reason = decide_kind(columns.scores, sample.scores, request)
    return Plan(
        paths=tuple(reader.path for reader in readers),
        format=first.format,
        rows=sum(rows),
        columns=columns,
        kind=kind,
        kind_reason=reason,
        classes=classes,
        partitions=tuple(
            Partition(reader.file, reader.path, part) for reader in readers for part in reader.parts(columns, classes)
        ),
        notes=tuple(notes),
        findings=tuple(_findings(columns, kind, sample, ignore_index)),
        ignore_index=ignore_index,
        surprising=surprising,
    )


def _opened(path: str, file: int) -> Reader:
    """A reader that has looked at its columns."""
    reader = open_reader(path, file)
    with about(path):
        _ = reader.table
    return reader


def _rows(first: Reader, other: Reader, columns: Columns) -> int:
    """The rows of a file that has the columns of the first one."""
    scores = {c.name: c for c in other.table.scores}
    values = {c.name for c in other.table.values}
    if columns.scores.name not in scores or columns.label.name not in values:
        with about(other.path):
            raise EvaluationError(
                f"lacks the columns of {shown(first.path)} ('{shown(columns.scores.name)}', "
                f"'{shown(columns.label.name)}'). It has: {other.table.describe()}"
            )
    return scores[columns.scores.name].rows


def _check_classes(columns: Columns, classes: int) -> None:
    """Raise if there is no telling what so many scores per row are."""
    scores, label = f"'{shown(columns.scores.name)}'", f"'{shown(columns.label.name)}'"
    if classes < 2:
        raise EvaluationError(
            f"{scores} has {classes} score per row, expected one per class. "
            "For a two-class model with one probability p, save the two columns 1 - p and p"
        )
    if classes > MOST_CLASSES:
        raise EvaluationError(f"{scores} has {classes} scores per row, expected at most {MOST_CLASSES}")
    if columns.label.holds is Holds.BOOLEANS and classes > 2:
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


def _check_alike(first: Reader, other: Reader, columns: Columns, classes: int | None, *, given_names: bool) -> None:
    """Raise if the columns of another file mean something else; `classes` is None if it has no rows."""
    scores = {c.name: c for c in other.table.scores}[columns.scores.name]
    label = {c.name: c for c in other.table.values}[columns.label.name]
    by_name = columns.label.text and not given_names
    alike = (
        scores.members == columns.scores.members
        and label.text == columns.label.text
        and label.holds is not Holds.OTHER
        and (classes is None or other.classes(scores) == classes)
        and (not by_name or other.table.names_of(scores, label) == first.table.names_of(columns.scores, columns.label))
        and other.table.class_values == columns.class_values
    )
    if not alike:
        with about(other.path):
            raise EvaluationError(
                f"differs from {shown(first.path)} in the number of classes, their names or the type of the label; "
                "evaluate them one by one"
            )


def _sample(readers: Sequence[Reader], columns: Columns, classes: int) -> RawBatch:
    """The first rows of the input, those without scores left out."""
    for reader in readers:
        with about(reader.path):
            for part in reader.parts(columns, classes):
                for batch in reader.batches(part, columns, classes):
                    kept = slice(None) if batch.missing is None else ~batch.missing
                    scores, labels = batch.scores[kept][:SAMPLE_ROWS], batch.labels[kept][:SAMPLE_ROWS]
                    if len(scores):
                        return RawBatch(batch.file, batch.first_row, scores, labels)
    return RawBatch(0, 0, np.zeros((0, classes)), np.zeros(0, np.int64))


_SAID_ELSEWHERE = {"unnormalised-probabilities", "non-finite-input", "impossible-label", "one-label"}
"""Troubles that the figures of the whole input tell of, or that the order of a file may look like."""


def _findings(columns: Columns, kind: Kind, sample: RawBatch, ignore_index: int | None) -> Iterator[Finding]:
    """What the rules of `lossless.diagnose` see in the first rows."""
    case = Case(
        "evaluate",
        "probabilities" if kind is Kind.PROBS else "scores",
        sample.scores.shape,
        1,
        {"ignore_index": ignore_index},
        names=(shown(columns.scores.name), shown(columns.label.name)),
        dtype=sample.scores.dtype.name,
        x=sample.scores.astype(np.float64),
        t=sample.labels,
        complete=True,
        asked=True,
    )
    for name, evidence in examine(case):
        if name not in _SAID_ELSEWHERE:
            yield found(name, "evaluate", f"{evidence} (the first {case.number} rows)")
