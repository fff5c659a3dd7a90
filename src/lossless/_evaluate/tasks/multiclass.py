"""One class of several is true of a row, and each has a score; two classes may have one score between them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lossless.errors import ParameterError

from ..accumulators import (
    Accuracy,
    Calibration,
    CalibrationBin,
    ClassFigures,
    HistogramBin,
    LabelRanks,
    Largest,
    LossHistogram,
    Mean,
    MeanResult,
    Peculiar,
    PerClass,
)
from ..confidence import ConfidenceRanking, ConfidenceResult
from ..confusion import MATRIX_CLASSES, Confused, Confusion, ConfusionResult
from ..findings import examine
from ..intervals import Interval, wilson
from ..paired import Agreement, Compared, PairedMean, Sides
from ..ranking import Points
from ..results import Evaluation, Figure, check_scored, left_out_of, notes_of, source_of, worst_rows
from ..rows import Kind, ScoredRows, block_rows, score_rows
from ..side_by_side import RightComparison, RowOfBoth
from ..signs import signs
from ..slices import Sliced
from ..temperature import BestTemperature, TemperatureFit
from .averages import weighted_mean
from .odds import log_odds
from .two_classes import Positive, PositiveFigures, PositiveResult

if TYPE_CHECKING:
    from ..accumulators import Factories
    from ..plan import Plan
    from ..rows import Batch
    from ..screening import Screening
    from ..side_by_side import Both


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


@dataclass(frozen=True, repr=False)
class ClassEvaluation(Evaluation):
    """Figures of the scores of classes that exclude one another. Losses and entropies are in nats.

    `brier` is the sum over classes, in [0, 2], and `focal` the focal loss of gamma 2. `calibration_error` is the
    expected calibration error of 15 equal-width bins, those of `reliability`; `max_calibration_error` the largest of
    their gaps, and `adaptive_calibration_error` that of 15 bins of equally many rows. `confidence_auroc` is how often a
    right prediction has more confidence than a wrong one, equal ones counting half; `aurc` the area under
    `risk_coverage`, whose points are the error rate among the surest rows by the share of all rows that these are.
    Undefined figures (the precision of a class that is never predicted) are nan. `positive` has what the probability
    of class 1 tells, where there are two classes.
    """

    FIGURES: ClassVar[Mapping[str, tuple[str, str]]] = {
        "nll": ("NLL", "nats, mean -log p of the true class (the cross-entropy loss)"),
        "bits": ("Bits", "the same in bits"),
        "perplexity": ("Perplexity", "exp(nll)"),
        "focal": ("Focal loss", "of gamma 2, mean (1 - p)^2 (-log p)"),
        "brier": ("Brier", "squared error of the probabilities, summed over classes (0 to 2)"),
        "accuracy": ("Accuracy", "largest score is the true class"),
        "top_5_accuracy": ("Top-5 accuracy", "the true class is among the 5 largest scores"),
        "macro.f1": ("Macro F1", "mean over the classes that occur or are predicted"),
        "confidence": ("Confidence", "mean probability of the predicted class"),
        "entropy": ("Entropy", "nats, mean over rows"),
        "calibration_error": ("Calibration error", "expected |accuracy - confidence|, 15 bins"),
        "adaptive_calibration_error": ("Adaptive calibration error", "the same in bins of equally many rows"),
        "max_calibration_error": ("Largest gap", "|accuracy - confidence| of one of the 15 bins"),
        "confidence_auroc": ("AUROC of confidence", "a right prediction is surer than a wrong one"),
        "aurc": ("AURC", "error rate of the surest rows, mean over their share"),
    }
    MAIN: ClassVar[tuple[str, ...]] = (
        "nll",
        "accuracy",
        "calibration_error",
        "confidence",
        "brier",
        "entropy",
        "macro.f1",
    )
    POSITIVE: ClassVar[Mapping[str, tuple[str, str]]] = {
        "positive.auroc": ("AUROC", "a row of class 1 has a higher p than one of class 0"),
        "positive.average_precision": ("Average precision", "area under precision and recall of class 1"),
        "positive.best_f1.f1": ("Best F1", "of class 1, at the best threshold"),
        "positive.best_f1.probability": ("Its threshold", "probability of class 1 from which on a row is positive"),
        "positive.calibration_error": ("Calibration error of p", "expected |share of class 1 - p|, 15 bins"),
    }

    nll: float
    bits: float
    perplexity: float
    accuracy: float
    top_5_accuracy: float  # 1 where there are no more than 5 classes
    entropy: float
    confidence: float
    brier: float
    focal: float
    calibration_error: float
    adaptive_calibration_error: float
    max_calibration_error: float
    confidence_auroc: float
    aurc: float
    temperature: BestTemperature
    positive: PositiveFigures | None
    macro: Average
    weighted: Average
    reliability: tuple[CalibrationBin, ...]
    loss_histogram: tuple[HistogramBin, ...]
    risk_coverage: Points  # at most 200
    label_ranks: tuple[int, ...]  # rows whose label has the 1st, 2nd, ..., 10th largest score, the first of equals
    classes: tuple[ClassFigures, ...]
    confused: tuple[Confused, ...]  # the most frequent confusions, at most 100
    confusion_matrix: tuple[tuple[int, ...], ...] | None  # [label][predicted], of at most 100 classes
    surprising: tuple[SurprisingRow, ...]
    infinite: int  # rows whose label has probability exactly 0

    def figures(self) -> tuple[Figure, ...]:
        """The single figures with what is known of them."""
        described = self.FIGURES if self.positive is None else {**self.FIGURES, **self.POSITIVE}
        best = self.temperature
        gain = (
            f"would make nll {best.nll:.6g} of {best.nll_before:.6g} and calibration error "
            f"{best.calibration_error:.6g} of {best.calibration_error_before:.6g}, on {best.rows} rows"
        )
        few = self.source.classes <= 5
        return (
            *(self.figure(name, *said) for name, said in described.items() if not (few and name == "top_5_accuracy")),
            Figure("temperature.value", "Best temperature", best.value, gain, best.interval, 0.0),
        )

    def headline(self) -> tuple[Figure, ...]:
        """The figures that say most."""
        area = "positive.auroc"
        ours = [] if self.positive is None else [self.figure(area, *self.POSITIVE[area])]
        first, second, *others = super().headline()
        return (first, second, *ours, *others)

    def worst_classes(self) -> list[ClassFigures]:
        """The classes that have rows, lowest F1 first; then those that are only predicted, most predicted first."""
        return sorted(self.classes, key=lambda c: (not c.support, c.f1, -c.predicted, c.index))

    def top_k_accuracy(self, k: int) -> float:
        """Share of the rows whose label is among the k largest scores, the first of equals; k from 1 to 10."""
        if not 1 <= k <= len(self.label_ranks):
            raise ParameterError(f"top_k_accuracy: k got {k}, expected 1 to {len(self.label_ranks)}")
        return sum(self.label_ranks[:k]) / self.rows


@dataclass(frozen=True)
class DifferentRow(RowOfBoth):
    """One of the rows whose losses differ most."""

    label: int  # classes are numbered as A's
    predicted_a: int
    predicted_b: int
    nll_a: float
    nll_b: float


@dataclass(frozen=True, repr=False)
class ClassComparison(RightComparison):
    """Two models of classes that exclude one another, side by side."""


_DIFFERENT = ("file_b", "both.label", "a.predicted", "b.predicted", "a.nll", "b.nll")  # of the rows that differ most
_COMPARED = ("nll", "accuracy", "confidence", "calibration_error", "brier", "entropy")
_MEANS = ("nll", "entropy", "brier", "focal", "confidence")  # of numbers of a row

SLICED = Sliced(
    ("nll", "right", "confidence"),
    "nll",
    {
        "nll": partial(Mean, "nll"),
        "accuracy": Accuracy,
        "confidence": partial(Mean, "confidence"),
        "calibration_error": Calibration,
    },
)


def metrics(plan: Plan) -> Factories:
    """What is accumulated."""
    positive: Factories = {"positive": Positive} if plan.classes == 2 else {}
    return {
        **{name: partial(Mean, name) for name in _MEANS},
        "label_ranks": LabelRanks,
        "calibration": Calibration,
        "confidence_ranking": ConfidenceRanking,
        "confusion": lambda: Confusion(plan.classes),
        "temperature": lambda: TemperatureFit(plan.classes, plan.rows),
        "loss_histogram": LossHistogram,
        "classes": lambda: PerClass(plan.classes),
        "surprising": lambda: Largest(plan.surprising, "nll", ("label", "predicted", "confidence")),
        "peculiar": lambda: Peculiar(plan.sum_tolerance),
        **positive,
        **signs(),
    }


def paired(plan: Plan) -> Mapping[str, Callable[[], Any]]:
    """What is accumulated of two models."""
    return {
        **{name: partial(PairedMean, name) for name in ("nll", "confidence", "brier", "entropy")},
        "accuracy": partial(PairedMean, "right"),
        "calibration": partial(Sides, Calibration),
        "agreement": partial(Agreement, "right"),
        "different": partial(Largest, plan.surprising, "apart", _DIFFERENT),
    }


def rows_of(plan: Plan, screening: Screening, batch: Batch) -> Iterator[ScoredRows]:
    """The rows of a batch that can be scored, a block at a time; the others are counted."""
    labels, usable = screening.labels(batch, plan)
    row, scores = batch.first_row + np.arange(len(usable)), batch.scores
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
    confidence: ConfidenceResult = results["confidence_ranking"]
    confusion: ConfusionResult = results["confusion"]
    positive: PositiveResult | None = results.get("positive")
    ranks: tuple[int, ...] = results["label_ranks"]
    few = plan.classes <= MATRIX_CLASSES
    return ClassEvaluation(
        source=source_of(plan),
        rows=nll.rows,
        intervals={**_intervals(results), **(positive.intervals if positive else {})},
        bounds={
            "adaptive_calibration_error": confidence.adaptive_error.bound,
            "confidence_auroc": confidence.auroc.bound,
            "aurc": confidence.aurc.bound,
            **(positive.bounds if positive else {}),
        },
        left_out=left_out_of(plan, screening),
        notes=(*notes_of(plan, screening), *_notes(confusion)),
        findings=examine(plan, screening, results),
        slices=results["slices"],
        nll=nll.value,
        bits=nll.value / math.log(2.0),
        perplexity=_perplexity(nll.value),
        accuracy=ranks[0] / nll.rows,
        top_5_accuracy=sum(ranks[:5]) / nll.rows,
        entropy=results["entropy"].value,
        confidence=results["confidence"].value,
        brier=results["brier"].value,
        focal=results["focal"].value,
        calibration_error=results["calibration"].error,
        adaptive_calibration_error=confidence.adaptive_error.value,
        max_calibration_error=results["calibration"].largest,
        confidence_auroc=confidence.auroc.value,
        aurc=confidence.aurc.value,
        temperature=results["temperature"],
        positive=positive.figures if positive else None,
        macro=_average(classes, [1] * len(classes), fmean(c.nll for c in classes if c.support)),
        weighted=_average(classes, [c.support for c in classes], nll.value),
        reliability=results["calibration"].bins,
        loss_histogram=results["loss_histogram"],
        risk_coverage=confidence.risk_coverage,
        label_ranks=ranks,
        classes=classes,
        confused=confusion.most(),
        confusion_matrix=tuple(map(tuple, confusion.matrix(plan.classes).tolist())) if few else None,
        surprising=worst_rows(plan, results["surprising"], SurprisingRow),
        infinite=results["peculiar"].infinite.rows,
    )


def comparison(both: Both, rows: int, results: Mapping[str, Any]) -> ClassComparison:
    """The figures of two models on the rows that both have."""
    errors = Compared.alone(*(calibration.error for calibration in results["calibration"]))
    figures = {name: errors if name == "calibration_error" else results[name][0] for name in _COMPARED}
    return ClassComparison(**both.common(rows, figures, results["different"], DifferentRow), **results["agreement"])


def _perplexity(nll: float) -> float:
    return math.inf if nll > 709.0 else math.exp(nll)


def _intervals(results: Mapping[str, Any]) -> dict[str, Interval]:
    """95 % confidence intervals by the names of the figures."""
    means = {name: results[name].interval for name in ("nll", "entropy", "confidence", "brier", "focal")}
    ranks, rows = results["label_ranks"], results["nll"].rows
    return {
        **means,
        "bits": means["nll"].mapped(lambda nll: nll / math.log(2.0)),
        "perplexity": means["nll"].mapped(_perplexity),
        "accuracy": wilson(ranks[0], rows),
        "top_5_accuracy": wilson(sum(ranks[:5]), rows),
        "confidence_auroc": results["confidence_ranking"].auroc_interval,
    }


def _notes(confusion: ConfusionResult) -> list[str]:
    if confusion.share == 1.0:
        return []
    return [
        f"there are over a million different confusions: those listed come from a fair sample of 1 in "
        f"{1 / confusion.share:g}, each with its exact count"
    ]


def _average(classes: Sequence[ClassFigures], weights: Sequence[int], nll: float) -> Average:
    precision, recall, f1 = (
        weighted_mean((getattr(c, name) for c in classes), weights) for name in ("precision", "recall", "f1")
    )
    return Average(precision, recall, f1, nll)
