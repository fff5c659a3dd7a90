"""What all rows of a multilabel task together say is wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from lossless._diagnose.rules import ENOUGH
from lossless.transforms import sigmoid

from .accumulators import CalibrationBin
from .findings import FEW_ROWS, MANY, Seen, Whole, classes_listed
from .rows import Kind

if TYPE_CHECKING:
    from .tasks.multilabel import Marks

_SPREAD = 0.25, 0.75  # probabilities reach below the one and above the other, or say too little
_ROUNDING = 1e-3  # of the largest log-odds, which is known to a cell of the sketch
_POSITIVES = 30  # of a class, from which on the best threshold of these rows is about that of others
_FAR = 0.2  # of the best threshold from 1/2
_GAIN, _INFORMED = 0.2, 0.1  # of F1 over that at 1/2, and over that of predicting the class always


def constant_scores(whole: Whole) -> Seen:
    """Every class has one score."""
    marks: Marks = whole.results["marks"]
    if marks.constant and marks.rows >= ENOUGH and any(0 < c.support < c.known for c in marks.classes):
        yield "constant-input", f"all {marks.rows} rows have the same scores, though their labels differ"


def sigmoids(whole: Whole) -> Seen:
    """Log-odds that all lie in [0, 1] were probabilities: sigmoid is still to be taken, or was taken twice."""
    marks: Marks = whole.results["marks"]
    if marks.rows < MANY or not 0.0 <= marks.low <= _SPREAD[0] or not _SPREAD[1] <= marks.high <= 1.0 + _ROUNDING:
        return
    share, said, once = _means(whole.results["calibration"].bins)
    if whole.plan.kind is Kind.LOGITS:
        yield (
            "sigmoid-before-loss",
            f"all of {whole.scores} lie in [0, 1], as --probs would take them: they run from {marks.low:.6g} to "
            f"{marks.high:.6g}, so that no class has a probability below 1/2",
        )
    elif abs(share - once) <= abs(share - said) / 4:
        low, high = sigmoid(np.array([marks.low, marks.high])).tolist()
        yield (
            "sigmoid-twice",
            f"all probabilities lie between {low:.6g} and {high:.6g}, as those of a sigmoid of probabilities do, and "
            f"their mean is {said:.6g} where {share:.6g} of the marks are true; without one sigmoid it would be "
            f"{once:.6g}",
        )


def _means(bins: Sequence[CalibrationBin]) -> tuple[float, float, float]:
    """Of all marks: the share that is true, the mean p, and about the mean log-odds, where these lie in [0, 1]."""
    held = [b for b in bins if b.count]
    rows = sum(b.count for b in held)
    means = ((b.accuracy, b.confidence, math.log(b.confidence) - math.log1p(-b.confidence)) for b in held)
    share, said, once = (
        math.fsum(b.count * m / rows for b, m in zip(held, column, strict=True)) for column in zip(*means, strict=True)
    )
    return share, said, once


def dead_classes(whole: Whole) -> Seen:
    """Classes that are never predicted, or never true."""
    marks: Marks = whole.results["marks"]
    dead = sorted((-c.support, c.index) for c in marks.classes if not c.predicted and c.support >= FEW_ROWS)
    if dead:
        yield "dead-class", classes_listed(whole, dead, "is true of", "rows and is never predicted")
    absent = sorted((-c.known, c.index) for c in marks.classes if not c.support and c.known >= MANY)
    if absent:
        yield "absent-class", classes_listed(whole, absent, "is true of none of", "rows")


def thresholds(whole: Whole) -> Seen:
    """Classes whose best F1 is far better than that at 1/2, and by far."""
    marks: Marks = whole.results["marks"]
    found = []
    for c in marks.classes:
        best, f1 = c.best_f1, c.f1
        every = 2 * c.support / (c.support + c.known) if c.known else math.nan  # F1 of predicting it always
        gains = best.f1 - f1 >= _GAIN and best.f1 - every >= _INFORMED
        if c.support >= _POSITIVES and gains and abs(best.probability - 0.5) >= _FAR:
            found.append(
                f"F1 of class {whole.name(c.index)} is {f1:.3g}, and {best.f1:.3g} if it is predicted from p = "
                f"{best.probability:.3g} on"
            )
    if found:
        more = f", and so of {len(found) - 4} more classes" if len(found) > 4 else ""
        yield "other-threshold", ", ".join(found[:4]) + more
