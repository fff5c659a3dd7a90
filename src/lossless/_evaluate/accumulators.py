"""Mergeable metrics: `update(rows)` reads a batch, `merge(other)` joins the next partition, `result()` gives figures.

Counts are integers and sums are exact, so a result is a function of the rows alone: the same bits for any batch size,
partition plan and number of workers. A metric is added by writing one of these classes and naming it in the `metrics`
of its task.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from lossless import _kernels

from .intervals import UNDEFINED, Interval, Moments, mean_interval
from .rows import Integers, ScoredRows
from .sums import ExactSum

CALIBRATION_BINS = 15
RANKS = 10  # of the label that are told apart
# Eighths of decades from 1e-18 to 1e3 nats; what lies outside falls into an open bin at either end.
BINS_PER_DECADE = 8
LOSS_EDGES = np.array(
    [float(f"1e{d}") * 10.0 ** (k / BINS_PER_DECADE) for d in range(-18, 3) for k in range(BINS_PER_DECADE)] + [1e3]
)


class Accumulator(Protocol):
    """One metric over any number of rows."""

    def update(self, rows: Any, /) -> None:
        """Read a batch."""

    def merge(self, other: Self, /) -> None:
        """Join the accumulator of the rows that follow."""

    def result(self) -> Any:
        """The figures of all rows read."""


@runtime_checkable
class Located(Protocol):
    """An accumulator that remembers row numbers; with `merge` the rows of an `Evaluator` go on where others end."""

    def shift(self, rows: int) -> None:
        """Add to all row numbers."""


Factories = Mapping[str, Callable[[], Accumulator]]


@dataclass(frozen=True)
class MeanResult:
    """A mean over `rows` rows with its interval, and the mean over those where the number is finite."""

    rows: int
    value: float
    finite: float
    interval: Interval

    def rest(self) -> str:
        """What is to be said of the rows whose number is finite, where the mean is not."""
        return (
            "no row has a finite one"
            if math.isnan(self.finite)
            else f"the mean over the other rows is {self.finite:.6g}"
        )


class Mean:
    """Mean of one number per row, e.g. `Mean("nll")`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows = 0
        self.sum = ExactSum()
        self.squares = ExactSum()

    def update(self, rows: ScoredRows) -> None:
        values = getattr(rows, self.name)
        self.rows += len(rows)
        self.sum.add(values)
        with np.errstate(over="ignore"):
            self.squares.add(values * values)

    def merge(self, other: Mean) -> None:
        self.rows += other.rows
        self.sum.merge(other.sum)
        self.squares.merge(other.squares)

    @property
    def moments(self) -> Moments:
        """Of the finite numbers."""
        return Moments.plain(self.rows, self.sum.exactly(), self.squares.exactly())

    def elements(self, *, finite: bool = False) -> int:
        """What the sum is divided by for the mean, of all rows or those where the number is finite."""
        return self.rows - int(self.sum.infinite[0]) if finite else self.rows

    def result(self) -> MeanResult:
        return MeanResult(
            self.rows,
            self.sum.divided_by(self.elements()),
            self.sum.divided_by(self.elements(finite=True), finite=True),
            mean_interval(self.moments) if not self.squares.infinite[0] else UNDEFINED,
        )


class ElementMean(Mean):
    """Mean over the elements of all rows, e.g. classes: sum x / sum w of the sum x over a row and their number w."""

    def __init__(self, name: str, weight: str) -> None:
        super().__init__(name)
        self.weight = weight
        self.count = self.finite = self.squared = 0  # sums of w, of w where x is finite, of w^2
        self.products = ExactSum()

    def update(self, rows: Any) -> None:
        super().update(rows)
        x, w = getattr(rows, self.name), getattr(rows, self.weight)
        self.count += int(w.sum())
        self.finite += int(w[np.isfinite(x)].sum())
        self.squared += int(np.square(w).sum())
        with np.errstate(over="ignore"):
            self.products.add(x * w)

    def merge(self, other: Mean) -> None:
        super().merge(other)
        assert isinstance(other, ElementMean)
        for name in ("count", "finite", "squared"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.products.merge(other.products)

    @property
    def moments(self) -> Moments:
        return replace(super().moments, w=self.count, ww=self.squared, xw=self.products.exactly())

    def elements(self, *, finite: bool = False) -> int:
        return self.finite if finite else self.count


class Itself:
    """An accumulator whose result is the accumulator itself."""

    def result(self) -> Self:
        return self


class Accuracy:
    """Fraction of rows whose largest score (the first of equals) is their label's."""

    def __init__(self) -> None:
        self.rows = 0
        self.correct = 0

    def update(self, rows: ScoredRows) -> None:
        self.rows += len(rows)
        self.correct += int(np.count_nonzero(rows.right))

    def merge(self, other: Accuracy) -> None:
        self.rows += other.rows
        self.correct += other.correct

    def result(self) -> float:
        return self.correct / self.rows if self.rows else math.nan


def _count_each(index: Integers, counts: Integers) -> None:
    """Add to counts[i] how often i occurs."""
    if _kernels.native is not None:
        _kernels.native.count_each(np.ascontiguousarray(index), counts)
    else:
        np.add.at(counts, index, 1)


class LabelRanks:
    """Of how many rows the label has the 1st, 2nd, ..., 10th largest score (equal scores by the number of the class).

    Those of rank 1 are the right ones, and the first k together the top-k accuracy.
    """

    def __init__(self) -> None:
        self.count = np.zeros(RANKS + 1, np.int64)  # the last for all that rank lower

    def update(self, rows: ScoredRows) -> None:
        _count_each(np.minimum(rows.rank, RANKS), self.count)

    def merge(self, other: LabelRanks) -> None:
        self.count += other.count

    def result(self) -> tuple[int, ...]:
        return tuple(self.count[:RANKS].tolist())


@dataclass(frozen=True)
class CalibrationBin:
    """Rows whose confidence lies in (low, high]."""

    low: float
    high: float
    count: int
    confidence: float  # mean confidence of the bin, nan if it is empty
    accuracy: float  # fraction correct in the bin, nan if it is empty


@dataclass(frozen=True)
class CalibrationResult:
    """Expected calibration error and the diagram behind it."""

    error: float
    largest: float  # of the |accuracy - confidence| of the bins that hold rows
    bins: tuple[CalibrationBin, ...]


class Calibration:
    """Expected calibration error of Guo et al. 2017 (arXiv:1706.04599): 15 bins of equal width over (0, 1]."""

    EDGES = np.arange(CALIBRATION_BINS + 1) / CALIBRATION_BINS
    # What equals an edge but for rounding, as shares of votes often do, lies in the bin below it.
    _SCALE = CALIBRATION_BINS * (1.0 - 2.0**-40)

    def __init__(self) -> None:
        self.count = np.zeros(CALIBRATION_BINS, np.int64)
        self.correct = np.zeros(CALIBRATION_BINS, np.int64)
        self.confidence = ExactSum(CALIBRATION_BINS)

    def update(self, rows: ScoredRows) -> None:
        self.add(rows.confidence, rows.right)

    def add(self, confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> None:
        """Count (n,) predictions."""
        # A confidence of 0 lies in the first bin, and one that rounds to just above 1 in the last.
        if _kernels.native is not None:
            confidence, home = np.ascontiguousarray(confidence), np.empty(len(confidence), np.int64)
            split = np.zeros(2 * CALIBRATION_BINS, np.int64)
            _kernels.native.count_marked(self._SCALE, confidence, np.ascontiguousarray(right), home, split)
        else:
            home = np.clip(np.ceil(self._SCALE * confidence), 1, CALIBRATION_BINS).astype(np.int64) - 1
            split = np.bincount(home + CALIBRATION_BINS * right, minlength=2 * CALIBRATION_BINS)
        wrong, correct = split.reshape(2, -1)
        self.count += wrong + correct
        self.correct += correct
        self.confidence.add(confidence, home)

    def merge(self, other: Calibration) -> None:
        self.count += other.count
        self.correct += other.correct
        self.confidence.merge(other.confidence)

    def result(self) -> CalibrationResult:
        rows = int(self.count.sum())
        gaps = [abs(int(self.correct[b]) - self.confidence.total(b)) for b in range(CALIBRATION_BINS)]
        bins = tuple(
            CalibrationBin(
                low=float(self.EDGES[b]),
                high=float(self.EDGES[b + 1]),
                count=int(self.count[b]),
                confidence=self.confidence.divided_by(int(self.count[b]), b),
                accuracy=int(self.correct[b]) / int(self.count[b]) if self.count[b] else math.nan,
            )
            for b in range(CALIBRATION_BINS)
        )
        if not rows:
            return CalibrationResult(math.nan, math.nan, bins)
        largest = max(gap / count for gap, count in zip(gaps, self.count.tolist(), strict=True) if count)
        return CalibrationResult(math.fsum(gaps) / rows, largest, bins)


@dataclass(frozen=True)
class HistogramBin:
    """Rows whose loss lies in [low, high)."""

    low: float
    high: float
    count: int


class LossHistogram:
    """Counts of the row losses on a logarithmic scale: those of a good model span many orders of magnitude."""

    def __init__(self) -> None:
        self.count = np.zeros(len(LOSS_EDGES) + 1, np.int64)

    def update(self, rows: ScoredRows) -> None:
        if _kernels.native is not None:
            _kernels.native.count_between(LOSS_EDGES, np.ascontiguousarray(rows.nll), self.count)
            return
        below = np.searchsorted(np.sort(rows.nll), LOSS_EDGES, side="left")  # sorting is faster than 170 edges a row
        self.count += np.diff(below, prepend=0, append=len(rows))

    def merge(self, other: LossHistogram) -> None:
        self.count += other.count

    def result(self) -> tuple[HistogramBin, ...]:
        edges = [0.0, *LOSS_EDGES.tolist(), math.inf]
        return tuple(
            HistogramBin(low, high, count)
            for low, high, count in zip(edges[:-1], edges[1:], self.count.tolist(), strict=True)
        )


@dataclass(frozen=True)
class ClassFigures:
    """One class that occurs as a label or as a prediction."""

    index: int
    support: int
    predicted: int
    precision: float  # nan if never predicted
    recall: float  # nan if it has no rows
    f1: float
    nll: float  # mean loss of its rows, nan if it has none


class PerClass:
    """Support, predictions and mean loss of every class."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        self.support = np.zeros(classes, np.int64)
        self.missed = np.zeros(classes, np.int64)  # rows of the class that were predicted as another
        self.mistaken = np.zeros(classes, np.int64)  # rows of another that were predicted as the class
        self.nll = ExactSum(classes)

    def update(self, rows: ScoredRows) -> None:
        wrong = np.flatnonzero(~rows.right)  # few, as a rule
        _count_each(rows.label, self.support)
        _count_each(rows.label[wrong], self.missed)
        _count_each(rows.predicted[wrong], self.mistaken)
        self.nll.add(rows.nll, rows.label)

    def merge(self, other: PerClass) -> None:
        self.support += other.support
        self.missed += other.missed
        self.mistaken += other.mistaken
        self.nll.merge(other.nll)

    def result(self) -> tuple[ClassFigures, ...]:
        correct = self.support - self.missed
        predicted = correct + self.mistaken
        counts = zip(self.support.tolist(), predicted.tolist(), correct.tolist(), strict=True)
        return tuple(
            ClassFigures(
                index=index,
                support=support,
                predicted=predicted,
                precision=correct / predicted if predicted else math.nan,
                recall=correct / support if support else math.nan,
                f1=2 * correct / (support + predicted),
                nll=self.nll.divided_by(support, index),
            )
            for index, (support, predicted, correct) in enumerate(counts)
            if support or predicted
        )


class Largest:
    """Some numbers (attributes of the rows, or of a part of them: a.nll) of the `size` rows of the largest `by`.

    Equal ones go by file and row number.
    """

    def __init__(self, size: int, by: str, fields: Sequence[str]) -> None:
        self.size, self.by, self.fields = size, by, ("row", by, *fields)
        self.kept: dict[str, NDArray[Any]] = {}

    def update(self, rows: Any) -> None:
        key = attrgetter(self.by)(rows)
        near = np.flatnonzero(key >= self._bound(key))  # sort few rows, not the batch
        if len(near):
            batch = {name: attrgetter(name)(rows)[near] for name in self.fields}
            self._keep({**batch, "file": np.full(len(near), rows.file)})

    def _bound(self, key: NDArray[Any]) -> float:
        """What a number must reach to be among the largest; every row that ties with the last one may."""
        if not self.size:
            return math.inf
        if self.kept and len(self.kept["row"]) == self.size:
            return float(self.kept[self.by][-1])
        rest = len(key) - self.size
        return float(np.partition(key, rest)[rest]) if rest > 0 else -math.inf

    def merge(self, other: Largest) -> None:
        if other.kept:
            self._keep(other.kept)

    def shift(self, rows: int) -> None:
        if self.kept:
            self.kept["row"] = self.kept["row"] + rows

    def _keep(self, more: Mapping[str, NDArray[Any]]) -> None:
        every = {name: np.concatenate([self.kept[name], more[name]]) if self.kept else more[name] for name in more}
        order = np.lexsort((every["row"], every["file"], -every[self.by]))[: self.size]
        self.kept = {name: values[order] for name, values in every.items()}

    def result(self) -> list[dict[str, Any]]:
        """The rows as {name: number}, `file` among the names."""
        columns = {name: values.tolist() for name, values in self.kept.items()}
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@dataclass
class Count:
    """How many rows showed something, and the first that did."""

    rows: int = 0
    file: int = 0
    row: int = 0

    def add(self, file: int, row: Integers, found: NDArray[np.bool_]) -> None:
        """Count those of `row` (numbers in ascending order) of `file` that were found."""
        rows = int(np.count_nonzero(found))
        if rows and not self.rows:
            self.file, self.row = file, int(row[np.argmax(found)])
        self.rows += rows

    def merge(self, other: Count) -> None:
        if not self.rows:
            self.file, self.row = other.file, other.row
        self.rows += other.rows

    def shift(self, rows: int) -> None:
        """Add to the row number."""
        self.row += rows


class Peculiar(Itself):
    """Counts of scored rows that a reader of the figures should know of."""

    def __init__(self, sum_tolerance: float) -> None:
        self.sum_tolerance = sum_tolerance
        self.infinite = Count()  # the label has probability exactly 0
        self.off_sum = Count()  # stored probabilities do not sum to 1

    def update(self, rows: ScoredRows) -> None:
        self.infinite.add(rows.file, rows.row, np.isinf(rows.nll))
        self.off_sum.add(rows.file, rows.row, rows.off_sum > self.sum_tolerance)

    def merge(self, other: Peculiar) -> None:
        self.infinite.merge(other.infinite)
        self.off_sum.merge(other.off_sum)

    def shift(self, rows: int) -> None:
        self.infinite.shift(rows)
        self.off_sum.shift(rows)
