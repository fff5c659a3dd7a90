"""Rows that cannot be scored: why, how many, and which is the first."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lossless.errors import EvaluationError

from .accumulators import Count
from .errors import about
from .rows import Batch, Integers, ScoredRows
from .text import enumerated, shown

if TYPE_CHECKING:
    from .plan import Plan

_REASONS = ("no_value", "unmatched", "ignored", "outside", "no_distribution")


@dataclass
class Screening:
    """Rows that cannot be scored, counted by reason."""

    no_value: Count = field(default_factory=Count)  # a null in the file
    unmatched: Count = field(default_factory=Count)  # a key that is not among the targets
    ignored: Count = field(default_factory=Count)  # label == ignore_index
    outside: Count = field(default_factory=Count)  # label not in 0..C-1
    no_distribution: Count = field(default_factory=Count)  # NaN, several +inf, or nothing but -inf
    outside_label: int = 0  # the label of the first row outside
    least: int | None = None  # range of all labels but the ignored ones
    greatest: int | None = None

    def merge(self, other: Screening) -> None:
        """Join the counts of the rows that follow."""
        if not self.outside.rows:
            self.outside_label = other.outside_label
        for name in _REASONS:
            getattr(self, name).merge(getattr(other, name))
        self.least = min((v for v in (self.least, other.least) if v is not None), default=None)
        self.greatest = max((v for v in (self.greatest, other.greatest) if v is not None), default=None)

    def shift(self, rows: int) -> None:
        """Add to all row numbers."""
        for name in _REASONS:
            getattr(self, name).shift(rows)

    def present(self, batch: Batch) -> tuple[Integers, NDArray[np.bool_]]:
        """Count the rows of a batch that lack a score or a label; the row numbers, and which rows lack nothing."""
        row = batch.first_row + np.arange(len(batch.labels))
        self.no_value.add(batch.file, row, batch.missing)
        self.unmatched.add(batch.file, row, batch.unmatched)
        return row, ~(batch.missing | batch.unmatched)

    def labels(self, batch: Batch, plan: Plan) -> tuple[Integers, NDArray[np.bool_]]:
        """Count what is wrong with the labels of a batch; their class indices, and which rows can be scored."""
        row, present = self.present(batch)
        if plan.ignore_index is not None:
            ignored = present & (batch.labels == plan.ignore_index)
            self.ignored.add(batch.file, row, ignored)
            present &= ~ignored
        labels = batch.labels if present.all() else batch.labels[present]
        if len(labels):
            low, high = int(labels.min()), int(labels.max())
            self.least = low if self.least is None else min(self.least, low)
            self.greatest = high if self.greatest is None else max(self.greatest, high)
        index = class_index(batch.labels, plan.columns.class_values)
        outside = present & ((index < 0) | (index >= plan.classes))
        if outside.any():
            if not self.outside.rows:
                self.outside_label = int(batch.labels[outside][0])
            self.outside.add(batch.file, row, outside)
            present &= ~outside
        return index, present

    def distributions(self, rows: ScoredRows) -> ScoredRows:
        """Count and leave out the rows whose scores give no distribution."""
        lost = np.isnan(rows.nll)
        if not lost.any():
            return rows
        self.no_distribution.add(rows.file, rows.row, lost)
        return rows.take(~lost)


def class_index(labels: Integers, class_values: tuple[int, ...] | None) -> Integers:
    """Labels as indices of scores; -1 for one that is none of the class values."""
    if class_values is None:
        return labels
    values = np.array(class_values, np.int64)
    order = np.argsort(values)
    found = order[np.minimum(np.searchsorted(values, labels, sorter=order), len(values) - 1)]
    return np.where(values[found] == labels, found, -1)


def check_labels(plan: Plan, screening: Screening) -> None:
    """Labels that are no class number end the run, with what all rows say about them."""
    outside = screening.outside
    if not outside.rows:
        return
    low, high, classes, values = screening.least, screening.greatest, plan.classes, plan.columns.class_values
    scores, label = f"'{shown(plan.columns.scores.name)}'", f"'{shown(plan.columns.label.name)}'"
    expected = f"0..{classes - 1}"
    if values is not None:
        expected = f"those of the array 'classes' ({enumerated([str(value) for value in values])})"
        fix = "Check that 'classes' names the label of each score"
    elif low == 1 and high == classes:
        fix = "The labels look 1-based: subtract 1"
    elif high == classes and low == 0:
        fix = f"Either the labels have one class more than {scores}, or one of them is not a class"
    elif (low, high, classes) == (-1, 1, 2):
        fix = "If -1 and 1 are the two classes, write 0 and 1; if -1 marks rows to be left out, pass --ignore-index=-1"
    elif screening.outside_label < 0:
        fix = f"If {screening.outside_label} marks rows to be left out, pass --ignore-index={screening.outside_label}"
    else:
        fix = "Check that the labels number the classes of the scores from 0"
    per_row = f"{plan.width} score{'s' if plan.width > 1 else ''} per row in {scores}"
    with about(plan.paths[outside.file]):
        raise EvaluationError(
            f"label column {label} runs from {low} to {high}, expected {expected} ({per_row}): {outside.rows} of "
            f"{plan.rows} rows are outside, first {screening.outside_label} at row {outside.row}. {fix}"
        )
