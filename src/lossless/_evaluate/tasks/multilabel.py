"""Multilabel: any number of classes is true of a row, and each has a score of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from lossless.transforms import sigmoid

from ..accumulators import Calibration, CalibrationBin, Count, ElementMean, Itself, Largest, Mean, MeanResult
from ..findings import examine, no_distribution, worse_slices
from ..intervals import wilson
from ..mark_findings import constant_scores, dead_classes, sigmoids, thresholds
from ..paired import Agreement, Compared, PairedElementMean, PairedMean, Sides
from ..ranking import Bounded, RankSketch
from ..results import Evaluation, check_scored, first_of, left_out_of, notes_of, source_of, worst_rows
from ..roles import UNKNOWN
from ..rows import Floats, Integers, Rows, block_rows
from ..side_by_side import ComparedPart, RightComparison, RowOfBoth
from ..slices import Sliced
from ..sums import ExactSum
from ..text import quoted
from .averages import weighted_mean
from .odds import log_odds, losses
from .two_classes import NO_THRESHOLD, Threshold, best_f1

if TYPE_CHECKING:
    from ..accumulators import Factories
    from ..plan import Plan
    from ..rows import Batch
    from ..screening import Screening
    from ..side_by_side import Both

_CELLS = 1 << 18  # of the sketches of all classes together
_LEAST_CELLS = 1 << 9  # of that of one class; of more classes than these allow, none is ranked by itself


@dataclass(frozen=True)
class MarkedRows(Rows):
    """Rows that could be scored: the log-odds of each class and whether it is true, as far as that is known."""

    odds: Floats  # (n, C) log p / (1 - p)
    mark: NDArray[np.bool_]  # (n, C) true; not where it is unknown
    known: NDArray[np.bool_]  # (n, C) whether that is known, of one class of a row at least

    def reordered(self, order: Integers) -> MarkedRows:
        """The same rows where class j stands at order[j]."""
        back = np.argsort(order)
        return replace(self, odds=self.odds[:, back], mark=self.mark[:, back], known=self.known[:, back])

    def differs(self, other: MarkedRows) -> NDArray[np.bool_]:
        """(n,) whether the truth is another one there."""
        return np.asarray(((self.mark != other.mark) | (self.known != other.known)).any(axis=1))

    def truth(self, i: int, names: Sequence[str]) -> str:
        """Of row i, in words."""
        true, unknown = ([names[c] for c in np.flatnonzero(which).tolist()] for which in (self.mark[i], ~self.known[i]))
        left_out = f" ({quoted(unknown)} unknown)" if unknown else ""
        return (f"the labels {quoted(true)}" if true else "no label") + left_out

    @cached_property
    def complete(self) -> bool:
        """Whether every class of every row is known."""
        return bool(self.known.all())

    def where_known(self, values: NDArray[Any]) -> NDArray[Any]:
        """(n, C) values as one row of those of known classes."""
        return values.ravel() if self.complete else values[self.known]

    def _sum(self, values: Floats) -> Floats:
        """(n,) of (n, C) values that are nan where a class is unknown; the same bits for a row whatever the others."""
        total: Floats = values.sum(axis=1) if self.complete else np.nansum(values, axis=1)
        return total

    @property
    def class_of_known(self) -> Integers:
        """The class of each of these values."""
        return self.where_known(np.broadcast_to(np.arange(self.known.shape[1]), self.known.shape))

    @cached_property
    def predicted(self) -> NDArray[np.bool_]:
        """(n, C) p > 1/2; not where it is unknown whether that is right."""
        return (self.odds > 0) & self.known

    @cached_property
    def losses(self) -> Floats:
        """(n, C) binary cross-entropy of each class; nan where it is unknown."""
        every = losses(self.odds, self.mark)
        return every if self.complete else np.where(self.known, every, np.nan)

    @cached_property
    def classes(self) -> Integers:
        """(n,) how many are known."""
        count: Integers = self.known.sum(axis=1)
        return count

    @cached_property
    def losses_sum(self) -> Floats:
        """(n,) of the known classes of a row."""
        return self._sum(self.losses)

    @cached_property
    def bce(self) -> Floats:
        """(n,) the mean loss of the known classes of a row."""
        mean: Floats = self.losses_sum / self.classes
        return mean

    @property
    def loss(self) -> Floats:
        """(n,) by which rows are ranked."""
        return self.bce

    @cached_property
    def squares_sum(self) -> Floats:
        """(n,) of (p - t)^2 over the known classes of a row; |p - t| is 1 - e^-loss, which does not cancel."""
        return self._sum(np.square(np.expm1(-self.losses)))

    @cached_property
    def true_classes(self) -> Integers:
        """(n,) how many classes are true."""
        count: Integers = self.mark.sum(axis=1)
        return count

    @cached_property
    def wrong_classes(self) -> Integers:
        """(n,) how many classes are predicted and not true, or true and not predicted."""
        count: Integers = (self.mark != self.predicted).sum(axis=1)
        return count

    @cached_property
    def predicted_classes(self) -> Integers:
        """(n,) how many classes are predicted."""
        count: Integers = self.predicted.sum(axis=1)
        return count

    @cached_property
    def exact(self) -> Floats:
        """(n,) 1 where every known class is right."""
        exact: Floats = (self.wrong_classes == 0).astype(np.float64)
        return exact

    @cached_property
    def f1(self) -> Floats:
        """(n,) of the classes of a row; 0 if none is true and none predicted, as in scikit-learn."""
        both = (self.mark & self.predicted).sum(axis=1)
        either = self.true_classes + self.predicted_classes
        f1: Floats = 2 * both / np.maximum(either, 1)
        return f1

    @cached_property
    def confidence(self) -> Floats:
        """The probabilities of known classes, whose reliability is that of single marks."""
        p: Floats = sigmoid(self.where_known(self.odds))
        return p

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether these classes are true."""
        return self.where_known(self.mark)


@dataclass(frozen=True)
class MarkFigures:
    """One class."""

    index: int
    known: int  # rows of which it is known whether it is true: all figures are of these
    support: int  # rows of which it is true
    predicted: int  # rows with p > 1/2
    precision: float  # nan if never predicted
    recall: float  # nan if it has no rows
    f1: float  # nan if it neither occurs nor is predicted
    bce: float
    auroc: float  # nan unless it is true of some rows and not of others; and if there are more than 512 classes
    average_precision: float
    best_f1: Threshold  # as these two


@dataclass(frozen=True)
class MarkAverage:
    """Figures of the classes, averaged; undefined ones count as 0, as in scikit-learn."""

    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class WorstRow:
    """One of the rows of largest loss: the first place to look for wrong labels."""

    file: str
    row: int  # from 0
    true_classes: int
    wrong_classes: int
    bce: float
    details: Mapping[str, str]


@dataclass(frozen=True, repr=False)
class MultilabelEvaluation(Evaluation):
    """Figures of classes that do not exclude one another; a class is predicted where p > 1/2.

    `bce` is the mean binary cross-entropy of all rows and classes, in nats. Where it is not known whether a class is
    true of a row, that mark is left out of every figure, and counted in `unknown`. `calibration_error` and
    `reliability` are those of the probabilities of single classes. `mean_average_precision` and `macro_auroc` are means
    over the classes for which they are defined.
    """

    FIGURES: ClassVar[Mapping[str, tuple[str, str]]] = {
        "bce": ("BCE", "nats, mean binary cross-entropy of a row and class"),
        "brier": ("Brier", "squared error of the probabilities, mean over rows and classes"),
        "exact_match": ("Exact match", "share of the rows with every class right"),
        "hamming_loss": ("Hamming loss", "share of the classes that are wrong"),
        "sample_f1": ("F1 of a row", "mean over rows"),
        "micro.f1": ("Micro F1", "of all rows and classes together"),
        "macro.f1": ("Macro F1", "mean over the classes"),
        "mean_average_precision": ("Mean average precision", "mean over the classes"),
        "macro_auroc": ("Macro AUROC", "mean over the classes"),
        "micro_average_precision": ("Micro average precision", "of all rows and classes together"),
        "micro_auroc": ("Micro AUROC", "of all rows and classes together"),
        "calibration_error": ("Calibration error", "expected |share that is true - p|, 15 bins"),
        "marks_per_row": ("True classes", "of a row, mean"),
        "predicted_per_row": ("Predicted classes", "of a row, mean"),
    }
    MAIN: ClassVar[tuple[str, ...]] = (
        "bce",
        "exact_match",
        "micro.f1",
        "macro.f1",
        "mean_average_precision",
        "calibration_error",
        "hamming_loss",
    )

    bce: float
    brier: float
    exact_match: float
    hamming_loss: float
    sample_f1: float
    micro: MarkAverage
    macro: MarkAverage
    weighted: MarkAverage
    mean_average_precision: float
    macro_auroc: float
    micro_average_precision: float
    micro_auroc: float
    calibration_error: float
    marks_per_row: float
    predicted_per_row: float
    reliability: tuple[CalibrationBin, ...]
    classes: tuple[MarkFigures, ...]
    surprising: tuple[WorstRow, ...]
    infinite: int  # rows with a class whose truth has probability exactly 0
    unknown: int  # marks of which it is not known whether they are true, left out of every figure of their class


@dataclass(frozen=True)
class DifferentRow(RowOfBoth):
    """One of the rows whose losses differ most."""

    true_classes: int
    wrong_classes_a: int
    wrong_classes_b: int
    bce_a: float
    bce_b: float


@dataclass(frozen=True, repr=False)
class MultilabelComparison(RightComparison):
    """Two models of classes that do not exclude one another; one that has every class of a row right is right there.

    `classes` has the figures of each class, in A's order: those of its loss have intervals.
    """

    classes: tuple[ComparedPart, ...]

    def sentence(self) -> str:
        return f"{super().sentence()}. A row is right if all its classes are"


class MarkCounts(Itself):
    """Counts and losses of every class."""

    def __init__(self, classes: int) -> None:
        self.rows = 0
        self.known, self.support, self.predicted, self.correct = (np.zeros(classes, np.int64) for _ in range(4))
        self.loss = ExactSum(classes)
        self.infinite = Count()

    def update(self, rows: MarkedRows) -> None:
        self.rows += len(rows)
        self.known += rows.known.sum(axis=0)
        self.support += rows.mark.sum(axis=0)
        self.predicted += rows.predicted.sum(axis=0)
        self.correct += (rows.mark & rows.predicted).sum(axis=0)
        self.loss.add(rows.where_known(rows.losses), rows.class_of_known)
        self.infinite.add(rows.file, rows.row, np.asarray(np.isinf(rows.losses).any(axis=1)))

    def merge(self, other: MarkCounts) -> None:
        self.rows += other.rows
        self.infinite.merge(other.infinite)
        for name in ("known", "support", "predicted", "correct"):
            getattr(self, name).__iadd__(getattr(other, name))
        self.loss.merge(other.loss)

    def shift(self, rows: int) -> None:
        self.infinite.shift(rows)


class MarkRanks(Itself):
    """Rows of which a class is true, and the others, by its log-odds: all classes together, and each by itself."""

    def __init__(self, classes: int) -> None:
        cells = _CELLS // classes
        self.together = RankSketch(2)
        self.single = [RankSketch(2, cells) for _ in range(classes)] if cells >= _LEAST_CELLS else []

    def update(self, rows: MarkedRows) -> None:
        self.together.add(rows.where_known(rows.odds), rows.where_known(rows.mark))
        for c, sketch in enumerate(self.single):
            known = rows.known[:, c]
            sketch.add(rows.odds[known, c], rows.mark[known, c])

    def merge(self, other: MarkRanks) -> None:
        self.together.merge(other.together)
        for ours, theirs in zip(self.single, other.single, strict=True):
            ours.merge(theirs)


SLICED = Sliced(
    ("losses_sum", "squares_sum", "classes", "exact", "f1"),
    "bce",
    {
        "bce": partial(ElementMean, "losses_sum", "classes"),
        "brier": partial(ElementMean, "squares_sum", "classes"),
        "exact_match": partial(Mean, "exact"),
        "sample_f1": partial(Mean, "f1"),
    },
)

_RULES = (no_distribution, constant_scores, sigmoids, dead_classes, thresholds, worse_slices)
_DIFFERENT = ("file_b", "both.true_classes", "a.wrong_classes", "b.wrong_classes", "a.bce", "b.bce")


def metrics(plan: Plan) -> Factories:
    """What is accumulated."""
    worst = ("true_classes", "wrong_classes")
    return {
        **SLICED.metrics,
        "calibration": Calibration,
        "counts": lambda: MarkCounts(plan.classes),
        "ranks": lambda: MarkRanks(plan.classes),
        "surprising": lambda: Largest(plan.surprising, "bce", worst),
    }


def paired(plan: Plan) -> Mapping[str, Callable[[], Any]]:
    """What is accumulated of two models."""
    single = metrics(plan)
    return {
        "bce": partial(PairedElementMean, "losses_sum", "classes"),
        "brier": partial(PairedElementMean, "squares_sum", "classes"),
        "exact_match": partial(PairedMean, "exact"),
        "hamming_loss": partial(PairedElementMean, "wrong_classes", "classes"),
        "sample_f1": partial(PairedMean, "f1"),
        "predicted_per_row": partial(PairedMean, "predicted_classes"),
        "losses": partial(PairedMean, "losses", plan.classes),
        **{name: partial(Sides, single[name]) for name in ("calibration", "counts", "ranks")},
        "agreement": partial(Agreement, "exact"),
        "different": partial(Largest, plan.surprising, "apart", _DIFFERENT),
    }


def rows_of(plan: Plan, screening: Screening, batch: Batch) -> Iterator[MarkedRows]:
    """The rows of a batch that can be scored, a block at a time; the others are counted."""
    row, present = screening.present(batch)
    lost = present & np.isnan(batch.scores).any(axis=1)
    screening.no_distribution.add(batch.file, row, lost)
    kept = np.flatnonzero(present & ~lost)
    step = block_rows(plan.classes)
    for start in range(0, len(kept), step):
        block = kept[start : start + step]
        odds = log_odds(batch.scores[block], plan.kind, row[block])
        marks = batch.labels[block]
        yield MarkedRows(batch.file, row[block], odds, marks == 1, marks != UNKNOWN)


def evaluation(plan: Plan, screening: Screening, results: Mapping[str, Any]) -> MultilabelEvaluation:
    """The figures of a run."""
    counts: MarkCounts = results["counts"]
    check_scored(plan, screening, counts.rows)
    marks = Marks(counts, results["ranks"])
    bce, brier, exact, f1 = (results[name] for name in SLICED.metrics)
    return MultilabelEvaluation(
        source=source_of(plan),
        rows=counts.rows,
        intervals={
            "bce": bce.interval,
            "brier": brier.interval,
            "sample_f1": f1.interval,
            "exact_match": wilson(round(exact.value * counts.rows), counts.rows),
        },
        bounds={name: figure.bound for name, figure in marks.ranked.items()},
        left_out=left_out_of(plan, screening),
        notes=(*notes_of(plan, screening), *_notes(plan, counts, marks.unknown, bce, bool(results["ranks"].single))),
        findings=examine(plan, screening, {**results, "marks": marks}, _RULES),
        slices=results["slices"],
        bce=bce.value,
        brier=brier.value,
        exact_match=exact.value,
        hamming_loss=marks.hamming_loss,
        sample_f1=f1.value,
        micro=marks.micro,
        macro=marks.macro,
        weighted=_average(marks.classes, [c.support for c in marks.classes]),
        **{name: figure.value for name, figure in marks.ranked.items()},
        calibration_error=results["calibration"].error,
        marks_per_row=marks.support / counts.rows,
        predicted_per_row=marks.predicted / counts.rows,
        reliability=results["calibration"].bins,
        classes=marks.classes,
        surprising=worst_rows(plan, results["surprising"], WorstRow),
        infinite=counts.infinite.rows,
        unknown=marks.unknown,
    )


class Marks:
    """The figures that come of counts and ranks."""

    def __init__(self, counts: MarkCounts, ranks: MarkRanks) -> None:
        together, single = ranks.together.ranked(), [sketch.ranked() for sketch in ranks.single]
        areas, precisions = [r.auroc for r in single], [r.average_precision() for r in single]
        best = [best_f1(r) for r in single]
        self.classes = tuple(_of(c, counts, areas, precisions, best) for c in range(len(counts.support)))
        self.rows = counts.rows
        self.low, self.high = (float(end) for end in (together.low[0], together.high[-1]))  # of all log-odds
        self.constant = bool(single) and all(len(r.low) <= 1 and not r.several.any() for r in single)
        self.ranked = {
            "mean_average_precision": _mean(precisions),
            "macro_auroc": _mean(areas),
            "micro_average_precision": together.average_precision(),
            "micro_auroc": together.auroc,
        }
        self.support, self.predicted = int(counts.support.sum()), int(counts.predicted.sum())
        correct, known = int(counts.correct.sum()), int(counts.known.sum())
        self.unknown = counts.rows * len(self.classes) - known
        self.hamming_loss = (self.support + self.predicted - 2 * correct) / known
        self.micro = MarkAverage(
            precision=_share(correct, self.predicted, 0.0),
            recall=_share(correct, self.support, 0.0),
            f1=_share(2 * correct, self.support + self.predicted, 0.0),
        )
        self.macro = _average(self.classes, [1] * len(self.classes))


def comparison(both: Both, rows: int, results: Mapping[str, Any]) -> MultilabelComparison:
    """The figures of two models on the rows that both have."""
    a, b = (Marks(*of) for of in zip(results["counts"], results["ranks"], strict=True))
    found = {name: Compared.alone(a.ranked[name].value, b.ranked[name].value) for name in a.ranked}
    found |= {
        name: Compared.alone(a_value, b_value)
        for name, a_value, b_value in (
            ("micro.f1", a.micro.f1, b.micro.f1),
            ("macro.f1", a.macro.f1, b.macro.f1),
            ("calibration_error", *(calibration.error for calibration in results["calibration"])),
        )
    }
    figures = {
        name: found[name] if name in found else results[name][0]
        for name in MultilabelEvaluation.FIGURES
        if name != "marks_per_row"  # which is that of the truth
    }
    names = [both.of_a.source.class_name(c) for c in range(both.a.classes)]
    return MultilabelComparison(
        **both.common(rows, figures, results["different"], DifferentRow),
        **results["agreement"],
        classes=tuple(
            ComparedPart(
                name,
                {"bce": loss}
                | {
                    figure: Compared.alone(getattr(of_a, figure), getattr(of_b, figure))
                    for figure in ("precision", "recall", "f1", "auroc", "average_precision")
                },
            )
            for name, loss, of_a, of_b in zip(names, results["losses"], a.classes, b.classes, strict=True)
        ),
    )


def _notes(plan: Plan, counts: MarkCounts, unknown: int, bce: MeanResult, ranked: bool) -> list[str]:
    notes = []
    if unknown:
        stands = "" if plan.ignore_index is None else f" or {plan.ignore_index}"
        notes.append(
            f"{unknown} of {counts.rows * plan.classes} marks are unknown (null, NaN{stands}) and left out of every "
            "figure of their class"
        )
    if counts.infinite.rows:
        notes.append(
            f"the loss is infinite because {counts.infinite.rows} rows give the truth of a class probability 0 "
            f"({first_of(plan, counts.infinite)}); {bce.rest()}"
        )
    if not ranked:
        notes.append(
            f"no class is ranked by itself: there are {plan.classes}, and {_CELLS // _LEAST_CELLS} at most are, so "
            "mean average precision and macro AUROC are undefined"
        )
    return notes


def _of(
    c: int,
    counts: MarkCounts,
    areas: Sequence[Bounded],
    precisions: Sequence[Bounded],
    best: Sequence[Threshold],
) -> MarkFigures:
    support, predicted, correct = int(counts.support[c]), int(counts.predicted[c]), int(counts.correct[c])
    return MarkFigures(
        index=c,
        known=int(counts.known[c]),
        support=support,
        predicted=predicted,
        precision=_share(correct, predicted),
        recall=_share(correct, support),
        f1=_share(2 * correct, support + predicted),
        bce=counts.loss.divided_by(int(counts.known[c]), c),
        auroc=areas[c].value if areas else math.nan,
        average_precision=precisions[c].value if precisions else math.nan,
        best_f1=best[c] if best else NO_THRESHOLD,
    )


def _share(part: int, whole: int, undefined: float = math.nan) -> float:
    return part / whole if whole else undefined


def _average(classes: Sequence[MarkFigures], weights: Sequence[int]) -> MarkAverage:
    precision, recall, f1 = (
        weighted_mean((getattr(c, name) for c in classes), weights) for name in ("precision", "recall", "f1")
    )
    return MarkAverage(precision, recall, f1)


def _mean(figures: Sequence[Bounded]) -> Bounded:
    known = [figure for figure in figures if not math.isnan(figure.value)]
    if not known:
        return Bounded(math.nan, math.nan)
    return Bounded(fmean(figure.value for figure in known), fmean(figure.bound for figure in known))
