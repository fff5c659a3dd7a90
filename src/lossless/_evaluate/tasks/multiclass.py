"""Multiclass: one of several classes is true of a row, and each has a score; two classes may have one between them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..accumulators import CalibrationBin, ClassFigures, HistogramBin, MeanResult, RankedRow, standard
from ..findings import examine
from ..results import Evaluation, check_scored, details_of, left_out_of, notes_of, source_of
from ..rows import Kind, ScoredRows, block_rows, score_rows
from ..signs import signs
from ..text import safe
from .odds import log_odds
from .two_classes import Positive

if TYPE_CHECKING:
    from ..accumulators import Factories
    from ..plan import Plan
    from ..rows import Batch
    from ..screening import Screening


@dataclass(frozen=True)
class SurprisingRow:
    """One of the rows of largest loss: the first place to look for wrong labels."""

    file: str
    row: int  # from 0
    label: int
    predicted: int
    nll: float
    confidence: float  # probability of the predicted class
    details: Mapping[str, str]  # further columns of the file


@dataclass(frozen=True)
class Average:
    """Figures of the classes, averaged.

    Precision, recall and F1 over the classes that occur as a label or a prediction, where an undefined one counts as 0
    as in scikit-learn; the loss over those that occur as a label, since no other class has one.
    """

    precision: float
    recall: float
    f1: float
    nll: float


@dataclass(frozen=True)
class ClassEvaluation(Evaluation):
    """Figures of the scores of classes that exclude one another. Losses and entropies are in nats.

    `brier` is the sum over classes, in [0, 2]. `calibration_error` is the expected calibration error of 15 equal-width
    bins, those of `reliability`. Undefined figures (the precision of a class that is never predicted) are nan.
    """

    nll: float
    bits: float
    perplexity: float
    accuracy: float
    entropy: float
    confidence: float
    brier: float
    calibration_error: float
    macro: Average
    weighted: Average
    reliability: tuple[CalibrationBin, ...]
    loss_histogram: tuple[HistogramBin, ...]
    classes: tuple[ClassFigures, ...]
    surprising: tuple[SurprisingRow, ...]
    infinite: int  # rows whose label has probability exactly 0

    def worst_classes(self) -> list[ClassFigures]:
        """The classes that have rows, lowest F1 first; then those that are only predicted, most predicted first."""
        return sorted(self.classes, key=lambda c: (not c.support, c.f1, -c.predicted, c.index))


def metrics(plan: Plan) -> Factories:
    """What is accumulated."""
    positive: Factories = {"positive": Positive} if plan.classes == 2 else {}
    return {**standard(plan.classes, plan.surprising, plan.sum_tolerance), **signs(plan.classes), **positive}


def rows_of(plan: Plan, screening: Screening, batch: Batch) -> Iterator[ScoredRows]:
    """The rows of a batch that can be scored, a block at a time; the others are counted."""
    labels, usable = screening.labels(batch, plan)
    row, scores, kind = batch.first_row + np.arange(len(usable)), batch.scores, plan.kind
    if not usable.all():
        row, scores, labels = row[usable], scores[usable], labels[usable]
    if screening.outside.rows:
        row = row[:0]  # the run ends in an error: read on for its message only
    step = block_rows(plan.classes)
    for i in range(0, len(row), step):
        block = slice(i, i + step)
        x, kind = scores[block], plan.kind
        if plan.width == 1:  # softmax([0, x]) is sigmoid(x)
            x, kind = np.pad(log_odds(x, kind, row[block]), ((0, 0), (1, 0))), Kind.LOGITS
        yield screening.distributions(score_rows(batch.file, row[block], x, labels[block], kind))


def evaluation(plan: Plan, screening: Screening, results: Mapping[str, Any]) -> ClassEvaluation:
    """The figures of a run."""
    nll: MeanResult = results["nll"]
    check_scored(plan, screening, nll.rows)
    classes: tuple[ClassFigures, ...] = results["classes"]
    return ClassEvaluation(
        source=source_of(plan),
        rows=nll.rows,
        nll=nll.value,
        bits=nll.value / math.log(2.0),
        perplexity=math.exp(nll.value) if nll.value < 709.0 else math.inf,
        accuracy=results["accuracy"],
        entropy=results["entropy"].value,
        confidence=results["confidence"].value,
        brier=results["brier"].value,
        calibration_error=results["calibration"].error,
        macro=_average(classes, [1] * len(classes), _mean([c.nll for c in classes if c.support])),
        weighted=_average(classes, [c.support for c in classes], nll.value),
        reliability=results["calibration"].bins,
        loss_histogram=results["loss_histogram"],
        classes=classes,
        surprising=_surprising(plan, results["surprising"]),
        intervals={},
        bounds={},
        left_out=left_out_of(plan, screening),
        infinite=results["peculiar"].infinite.rows,
        notes=notes_of(plan, screening),
        findings=examine(plan, screening, results),
    )


def _average(classes: Sequence[ClassFigures], weights: Sequence[int], nll: float) -> Average:
    total = sum(weights)

    def mean(name: str) -> float:
        values = (getattr(c, name) for c in classes)
        return math.fsum(w * (0.0 if math.isnan(v) else v) for w, v in zip(weights, values, strict=True)) / total

    return Average(mean("precision"), mean("recall"), mean("f1"), nll)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _surprising(plan: Plan, ranked: Sequence[RankedRow]) -> tuple[SurprisingRow, ...]:
    """The rows with the values of further columns."""
    details = details_of(plan, [(r.file, r.row) for r in ranked])
    return tuple(
        SurprisingRow(
            safe(plan.paths[r.file]), r.row, r.label, r.predicted, r.nll, r.confidence, details.get((r.file, r.row), {})
        )
        for r in ranked
    )
