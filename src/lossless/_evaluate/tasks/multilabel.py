"""Multilabel: any number of classes is true of a row, and each has a score of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..accumulators import Calibration, CalibrationBin, Largest, Mean
from ..intervals import Interval
from ..ranking import Bounded, RankSketch
from ..results import Evaluation, common, details_of
from ..rows import Floats, Integers, block_rows
from ..sums import ExactSum
from .odds import log_odds, losses

if TYPE_CHECKING:
    from ..engine import Factories, Partial
    from ..plan import Plan
    from ..rows import Batch
    from ..screening import Screening

_CELLS = 1 << 18  # of the sketches of all classes together
_LEAST_CELLS = 1 << 9  # of that of one class; of more classes than these allow, none is ranked by itself


@dataclass(frozen=True)
class MarkedRows:
    """Rows that could be scored: the log-odds of each class and whether it is true."""

    file: int
    row: Integers  # (n,) row number in the file, from 0
    odds: Floats  # (n, C) log p / (1 - p)
    mark: NDArray[np.bool_]  # (n, C)

    def __len__(self) -> int:
        return len(self.row)

    @cached_property
    def predicted(self) -> NDArray[np.bool_]:
        """(n, C) p > 1/2."""
        return self.odds > 0

    @cached_property
    def losses(self) -> Floats:
        """(n, C) binary cross-entropy of each class."""
        return losses(self.odds, self.mark)

    @cached_property
    def brier_scores(self) -> Floats:
        """(n, C) (p - t)^2; |p - t| is 1 - e^-loss, which does not cancel."""
        return np.square(np.expm1(-self.losses))

    @cached_property
    def bce(self) -> Floats:
        """(n,) the mean loss of the classes of a row."""
        mean: Floats = self.losses.mean(axis=1)
        return mean

    @cached_property
    def brier(self) -> Floats:
        """(n,) the mean of (p - t)^2 over the classes of a row."""
        mean: Floats = self.brier_scores.mean(axis=1)
        return mean

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
    def exact(self) -> Floats:
        """(n,) 1 where every class is right."""
        return (self.wrong_classes == 0).astype(np.float64)

    @cached_property
    def f1(self) -> Floats:
        """(n,) of the classes of a row; 0 if none is true and none predicted, as in scikit-learn."""
        both = (self.mark & self.predicted).sum(axis=1)
        either = self.true_classes + self.predicted.sum(axis=1)
        return 2 * both / np.maximum(either, 1)

    @cached_property
    def confidence(self) -> Floats:
        """(n C,) the probabilities, whose reliability is that of single marks."""
        return np.exp(-losses(self.odds, np.ones_like(self.mark))).ravel()

    @property
    def right(self) -> NDArray[np.bool_]:
        """(n C,) whether the classes are true."""
        return self.mark.ravel()


@dataclass(frozen=True)
class MarkFigures:
    """One class."""

    index: int
    support: int  # rows of which it is true
    predicted: int  # rows with p > 1/2
    precision: float  # nan if never predicted
    recall: float  # nan if it has no rows
    f1: float  # nan if it neither occurs nor is predicted
    bce: float
    auroc: Bounded  # nan unless it is true of some rows and not of others; or of very many classes
    average_precision: Bounded


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


@dataclass(frozen=True)
class MultilabelEvaluation(Evaluation):
    """Figures of classes that do not exclude one another; a class is predicted where p > 1/2.

    `bce` is the mean binary cross-entropy of all rows and classes, in nats. `calibration_error` and `reliability` are of
    the probabilities of single marks. `mean_average_precision` and `macro_auroc` are means over the classes for which
    they are defined.
    """

    bce: float
    bce_interval: Interval
    brier: float
    brier_interval: Interval
    exact_match: float  # share of the rows with every class right
    exact_match_interval: Interval
    hamming_loss: float  # share of the marks that are wrong
    sample_f1: float  # mean of the F1 of the rows
    calibration_error: float
    micro: MarkAverage
    macro: MarkAverage
    weighted: MarkAverage
    micro_auroc: Bounded
    micro_average_precision: Bounded
    macro_auroc: Bounded
    mean_average_precision: Bounded
    marks_per_row: float
    predicted_per_row: float
    reliability: tuple[CalibrationBin, ...]
    classes: tuple[MarkFigures, ...]
    surprising: tuple[WorstRow, ...]
    infinite: int  # rows with a mark of probability exactly 0


class MarkCounts:
    """Counts and losses of every class."""

    def __init__(self, classes: int) -> None:
        self.rows = 0
        self.support, self.predicted, self.correct = (np.zeros(classes, np.int64) for _ in range(3))
        self.loss = ExactSum(classes)
        self.infinite = 0

    def update(self, rows: MarkedRows) -> None:
        self.rows += len(rows)
        self.support += rows.mark.sum(axis=0)
        self.predicted += rows.predicted.sum(axis=0)
        self.correct += (rows.mark & rows.predicted).sum(axis=0)
        self.loss.add(rows.losses.ravel(), np.tile(np.arange(len(self.support)), len(rows)))
        self.infinite += int(np.isinf(rows.losses).any(axis=1).sum())

    def merge(self, other: MarkCounts) -> None:
        self.rows += other.rows
        self.infinite += other.infinite
        for name in ("support", "predicted", "correct"):
            getattr(self, name).__iadd__(getattr(other, name))
        self.loss.merge(other.loss)

    def result(self) -> MarkCounts:
        return self


class MarkRanks:
    """Rows of which a class is true, and the others, by its log-odds: all classes together, and each by itself."""

    def __init__(self, classes: int) -> None:
        cells = _CELLS // classes
        self.together = RankSketch(2)
        self.single = [RankSketch(2, cells) for _ in range(classes)] if cells >= _LEAST_CELLS else []

    def update(self, rows: MarkedRows) -> None:
        self.together.add(rows.odds.ravel(), rows.mark.ravel())
        for c, sketch in enumerate(self.single):
            sketch.add(rows.odds[:, c], rows.mark[:, c])

    def merge(self, other: MarkRanks) -> None:
        self.together.merge(other.together)
        for ours, theirs in zip(self.single, other.single, strict=True):
            ours.merge(theirs)

    def result(self) -> MarkRanks:
        return self


def metrics(plan: Plan) -> Factories:
    """What is accumulated."""
    worst = ("true_classes", "wrong_classes")
    return {
        "bce": lambda: Mean("bce"),
        "brier": lambda: Mean("brier"),
        "exact": lambda: Mean("exact"),
        "f1": lambda: Mean("f1"),
        "calibration": Calibration,
        "counts": lambda: MarkCounts(plan.classes),
        "ranks": lambda: MarkRanks(plan.classes),
        "surprising": lambda: Largest(plan.surprising, "bce", worst),
    }


def rows_of(plan: Plan, screening: Screening, batch: Batch) -> Iterator[MarkedRows]:
    """The rows of a batch that can be scored, a block at a time; the others are counted."""
    row, present = screening.present(batch)
    lost = present & np.isnan(batch.scores).any(axis=1)
    screening.no_distribution.add(batch.file, row[lost])
    kept = np.flatnonzero(present & ~lost)
    step = block_rows(plan.classes)
    for start in range(0, len(kept), step):
        block = kept[start : start + step]
        odds = log_odds(batch.scores[block], plan.kind, row[block])
        yield MarkedRows(batch.file, row[block], odds, batch.labels[block])


def evaluation(plan: Plan, partial: Partial, results: Mapping[str, Any]) -> MultilabelEvaluation:
    """The figures of a run."""
    counts: MarkCounts = results["counts"]
    ranks: MarkRanks = results["ranks"]
    together = ranks.together.ranked()
    classes = tuple(_of(c, counts, ranks) for c in range(plan.classes))
    bce, brier, exact = results["bce"], results["brier"], results["exact"]
    marks = counts.rows * plan.classes
    support, predicted, correct = (int(n.sum()) for n in (counts.support, counts.predicted, counts.correct))
    worst = results["surprising"]
    details = details_of(plan, worst)
    return MultilabelEvaluation(
        **common(plan, partial, counts.rows, "have NaN among their scores"),
        bce=bce.value,
        bce_interval=bce.interval,
        brier=brier.value,
        brier_interval=brier.interval,
        exact_match=exact.value,
        exact_match_interval=exact.interval,
        hamming_loss=(support + predicted - 2 * correct) / marks,
        sample_f1=results["f1"].value,
        calibration_error=results["calibration"].error,
        micro=MarkAverage(
            _share(correct, predicted, 0.0),
            _share(correct, support, 0.0),
            _share(2 * correct, support + predicted, 0.0),
        ),
        macro=_average(classes, [1] * len(classes)),
        weighted=_average(classes, [c.support for c in classes]),
        micro_auroc=together.auroc(),
        micro_average_precision=together.average_precision(),
        macro_auroc=_mean([c.auroc for c in classes]),
        mean_average_precision=_mean([c.average_precision for c in classes]),
        marks_per_row=support / counts.rows,
        predicted_per_row=predicted / counts.rows,
        reliability=results["calibration"].bins,
        classes=classes,
        surprising=tuple(
            WorstRow(
                file=plan.shown_path(found["file"]),
                row=found["row"],
                true_classes=found["true_classes"],
                wrong_classes=found["wrong_classes"],
                bce=found["bce"],
                details=details.get((found["file"], found["row"]), {}),
            )
            for found in worst
        ),
        infinite=counts.infinite,
    )


def _of(c: int, counts: MarkCounts, ranks: MarkRanks) -> MarkFigures:
    support, predicted, correct = int(counts.support[c]), int(counts.predicted[c]), int(counts.correct[c])
    unknown = Bounded(math.nan, math.nan)
    ranking = ranks.single[c].ranked() if ranks.single else None
    return MarkFigures(
        index=c,
        support=support,
        predicted=predicted,
        precision=_share(correct, predicted),
        recall=_share(correct, support),
        f1=_share(2 * correct, support + predicted),
        bce=counts.loss.divided_by(counts.rows, c),
        auroc=unknown if ranking is None else ranking.auroc(),
        average_precision=unknown if ranking is None else ranking.average_precision(),
    )


def _share(part: int, whole: int, undefined: float = math.nan) -> float:
    return part / whole if whole else undefined


def _average(classes: Sequence[MarkFigures], weights: Sequence[int]) -> MarkAverage:
    total = sum(weights)

    def mean(values: list[float]) -> float:
        known = (0.0 if math.isnan(value) else value for value in values)
        return math.fsum(w * v for w, v in zip(weights, known, strict=True)) / total if total else math.nan

    return MarkAverage(
        mean([c.precision for c in classes]), mean([c.recall for c in classes]), mean([c.f1 for c in classes])
    )


def _mean(figures: Sequence[Bounded]) -> Bounded:
    known = [figure for figure in figures if not math.isnan(figure.value)]
    if not known:
        return Bounded(math.nan, math.nan)
    return Bounded(
        math.fsum(figure.value for figure in known) / len(known),
        math.fsum(figure.bound for figure in known) / len(known),
    )
