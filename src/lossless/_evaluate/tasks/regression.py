"""Regression: how far predictions are from quantities, one or several a row."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, partial
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ..accumulators import HistogramBin, Itself, Largest, Mean, MeanResult
from ..findings import examine, no_distribution, worse_slices
from ..paired import Compared, Nearer, PairedMean, Sides
from ..quantity_findings import quantities
from ..ranking import Ranking, RankSketch
from ..results import Evaluation, check_scored, left_out_of, notes_of, source_of, worst_rows
from ..rows import Floats, Integers, Rows
from ..sample import RowSample
from ..side_by_side import ComparedPart, Comparison, RowOfBoth
from ..slices import Sliced
from ..sums import ExactSum, SignedSum, SquareSum
from ..text import enumerated

if TYPE_CHECKING:
    from ..accumulators import Factories
    from ..plan import Plan
    from ..rows import Batch
    from ..screening import Screening
    from ..side_by_side import Both

_ROUNDING = 1e-6  # of targets that were saved as float32 or in decimals
_BARS = 60  # of the histogram of residuals
_POINTS = 1000  # rows of the plot of residuals
_QUANTILES = (0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
_TAIL = 1e-3  # share of the rows at either end that the histogram leaves to its first and last bar


@dataclass(frozen=True)
class PredictedRows(Rows):
    """Rows with finite residuals, and so with finite predictions and targets."""

    prediction: Floats  # (n, k)
    target: Floats  # (n, k)

    def reordered(self, order: Integers) -> PredictedRows:
        """The same rows where output j stands at order[j]."""
        back = np.argsort(order)
        return replace(self, prediction=self.prediction[:, back], target=self.target[:, back])

    def differs(self, other: PredictedRows) -> NDArray[np.bool_]:
        """(n,) whether the target is another one there, by more than rounding."""
        size = np.maximum(np.abs(self.target), np.abs(other.target))
        with np.errstate(over="ignore"):
            return np.asarray((np.abs(self.target - other.target) > _ROUNDING * size).any(axis=1))

    def truth(self, i: int, names: Sequence[str]) -> str:
        """Of row i, in words."""
        return f"target {enumerated([f'{value:.9g}' for value in self.target[i]])}"

    @cached_property
    def residual(self) -> Floats:
        """(n, k) prediction - target."""
        return self.prediction - self.target

    @cached_property
    def squared_errors(self) -> Floats:
        """(n, k)"""
        with np.errstate(over="ignore"):
            return np.square(self.residual)

    @cached_property
    def absolute_errors(self) -> Floats:
        """(n, k)"""
        return np.abs(self.residual)

    @cached_property
    def squared_error(self) -> Floats:
        """(n,) the mean over the outputs of a row."""
        with np.errstate(over="ignore"):
            mean: Floats = self.squared_errors.mean(axis=1)
        return mean

    @property
    def loss(self) -> Floats:
        """(n,) by which rows are ranked."""
        return self.squared_error

    @cached_property
    def absolute_error(self) -> Floats:
        """(n,) the mean over the outputs of a row."""
        mean: Floats = self.absolute_errors.mean(axis=1)
        return mean

    @cached_property
    def bias(self) -> Floats:
        """(n,) the mean residual over the outputs of a row."""
        mean: Floats = self.residual.mean(axis=1)
        return mean


@dataclass(frozen=True)
class OutputFigures:
    """One of the predicted quantities. Residuals are prediction - target."""

    name: str
    mse: float
    rmse: float
    mae: float
    bias: float  # mean residual
    r2: float  # 1 - sum of squared residuals / sum of squared deviations of the target; nan if it is constant
    explained_variance: float  # the same without the bias
    largest_error: float
    target_mean: float
    target_deviation: float


@dataclass(frozen=True)
class ResidualPoint:
    """A row of the plot of residuals."""

    prediction: float
    residual: float


@dataclass(frozen=True)
class WorstRow:
    """One of the rows of largest squared error."""

    file: str
    row: int  # from 0
    target: tuple[float, ...]
    prediction: tuple[float, ...]
    squared_error: float
    details: Mapping[str, str]


@dataclass(frozen=True, repr=False)
class RegressionEvaluation(Evaluation):
    """Figures of predicted quantities, in the units of the target.

    The outputs of a row count as so many elements, as in `mse_loss`; `bias`, `r2` and `explained_variance` are their
    means over the outputs, as in scikit-learn. `error_quantiles` are those of the absolute error of an element.
    """

    FIGURES: ClassVar[Mapping[str, tuple[str, str]]] = {
        "mse": ("MSE", "mean squared error"),
        "rmse": ("RMSE", "its square root, in the units of the target"),
        "mae": ("MAE", "mean absolute error"),
        "median_absolute_error": ("Median absolute error", "half of the errors are smaller"),
        "largest_error": ("Largest error", "of all rows"),
        "bias": ("Bias", "mean prediction - target"),
        "r2": ("R²", "share of the target's variance that is predicted"),
        "explained_variance": ("Explained variance", "the same without the bias"),
    }
    MAIN: ClassVar[tuple[str, ...]] = ("mse", "rmse", "mae", "median_absolute_error", "bias", "r2")

    mse: float
    rmse: float
    mae: float
    median_absolute_error: float
    largest_error: float
    bias: float
    r2: float
    explained_variance: float
    error_quantiles: Mapping[str, float]
    outputs: tuple[OutputFigures, ...]
    residual_histogram: tuple[HistogramBin, ...]
    residual_plot: tuple[ResidualPoint, ...]  # of the first output, of at most 1000 rows chosen by a hash
    surprising: tuple[WorstRow, ...]


@dataclass(frozen=True)
class DifferentRow(RowOfBoth):
    """One of the rows whose squared errors differ most."""

    target: tuple[float, ...]
    prediction_a: tuple[float, ...]
    prediction_b: tuple[float, ...]
    squared_error_a: float
    squared_error_b: float


@dataclass(frozen=True, repr=False)
class RegressionComparison(Comparison):
    """Two models of the same quantities; `p_value` is that of the sign test of the rows in which one is nearer.

    `outputs` has the figures of each output, in A's order.
    """

    nearer_a: int  # rows whose squared error is smaller by A
    nearer_b: int
    equal: int
    outputs: tuple[ComparedPart, ...]

    def sentence(self) -> str:
        return (
            f"A is nearer in {self.nearer_a} rows and B in {self.nearer_b}; in {self.equal} both are as near "
            f"(sign test, mid-p: p = {self.p_value:.3g})"
        )


class Residuals(Itself):
    """Exact sums of errors, targets and their squares, by output."""

    _SUMS = ("squared", "absolute", "residual", "target", "target_squared")

    def __init__(self, outputs: int) -> None:
        self.outputs, self.rows = outputs, 0
        self.squared, self.absolute = SquareSum(outputs), ExactSum(outputs)
        self.residual, self.target, self.target_squared = SignedSum(outputs), SignedSum(outputs), SquareSum(outputs)
        self.largest = np.zeros(outputs)
        self.low, self.high = np.full(outputs, np.inf), np.full(outputs, -np.inf)  # of the predictions

    def update(self, rows: PredictedRows) -> None:
        if not len(rows):
            return
        self.rows += len(rows)
        output = np.tile(np.arange(self.outputs), len(rows))
        residual, target = rows.residual.ravel(), rows.target.ravel()
        self.squared.add(residual, output)
        self.absolute.add(np.abs(residual), output)
        self.residual.add(residual, output)
        self.target.add(target, output)
        self.target_squared.add(target, output)
        self.largest = np.maximum(self.largest, np.abs(rows.residual).max(axis=0))
        self.low = np.minimum(self.low, rows.prediction.min(axis=0))
        self.high = np.maximum(self.high, rows.prediction.max(axis=0))

    def merge(self, other: Residuals) -> None:
        self.rows += other.rows
        for name in self._SUMS:
            getattr(self, name).merge(getattr(other, name))
        self.largest = np.maximum(self.largest, other.largest)
        self.low, self.high = np.minimum(self.low, other.low), np.maximum(self.high, other.high)

    def figures(self, k: int, name: str) -> OutputFigures:
        """The figures of output k."""
        n = max(self.rows, 1)
        squared, residual, target = self.squared.exactly(k), self.residual.exactly(k), self.target.exactly(k)
        deviations = self.target_squared.exactly(k) - target * target / n
        mse = math.inf if self.squared.overflows(k) else _float(squared / n)
        varies_too_much = self.target_squared.overflows(k)
        known = not self.squared.overflows(k) and not varies_too_much and deviations > 0
        return OutputFigures(
            name=name,
            mse=mse,
            rmse=math.sqrt(mse),
            mae=self.absolute.divided_by(n, k),
            bias=_float(residual / n),
            r2=_float(1 - squared / deviations) if known else math.nan,
            explained_variance=_float(1 - (squared - residual * residual / n) / deviations) if known else math.nan,
            largest_error=float(self.largest[k]),
            target_mean=_float(target / n),
            target_deviation=math.inf if varies_too_much else math.sqrt(max(_float(deviations / n), 0.0)),
        )


def _float(value: Fraction) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


class ResidualRanks:
    """Residuals of all elements in order, and their sizes."""

    def __init__(self) -> None:
        self.signed, self.size = RankSketch(1), RankSketch(1)

    def update(self, rows: PredictedRows) -> None:
        self.signed.add(rows.residual.ravel())
        self.size.add(np.abs(rows.residual).ravel())

    def merge(self, other: ResidualRanks) -> None:
        self.signed.merge(other.signed)
        self.size.merge(other.size)

    def result(self) -> tuple[Ranking, Ranking]:
        return self.signed.ranked(), self.size.ranked()


class ResidualSample(RowSample, Itself):
    """Some rows for the plot of residuals, and for what needs no more of them."""

    def __init__(self, rows: int) -> None:
        super().__init__(_POINTS, ("prediction", "residual"), rows)

    def points(self) -> tuple[ResidualPoint, ...]:
        """The points of their first output."""
        rows = self.rows()
        pairs = zip(rows["prediction"][:, 0].tolist(), rows["residual"][:, 0].tolist(), strict=True) if rows else ()
        return tuple(ResidualPoint(prediction, residual) for prediction, residual in pairs)

    def predictions_and_targets(self, outputs: int) -> tuple[Floats, Floats]:
        """(n, outputs) of each."""
        rows = self.rows()
        if not rows:
            return np.zeros((0, outputs)), np.zeros((0, outputs))
        return rows["prediction"], rows["prediction"] - rows["residual"]


SLICED = Sliced(
    ("squared_error", "absolute_error"),
    "mse",
    {"mse": partial(Mean, "squared_error"), "mae": partial(Mean, "absolute_error")},
)

_RULES = (no_distribution, quantities, worse_slices)
_PAIRED = {"mse": "squared_error", "mae": "absolute_error", "bias": "bias"}  # means over rows: their numbers
_PAIRED_OUTPUTS = {"mse": "squared_errors", "mae": "absolute_errors", "bias": "residual"}
_DIFFERENT = ("file_b", "both.target", "a.prediction", "b.prediction", "a.squared_error", "b.squared_error")


def metrics(plan: Plan) -> Factories:
    """What is accumulated."""
    return {
        **{name: partial(Mean, name) for name in SLICED.numbers},
        "residuals": lambda: Residuals(plan.width),
        "ranks": ResidualRanks,
        "plot": lambda: ResidualSample(plan.rows),
        "surprising": lambda: Largest(plan.surprising, "squared_error", ("target", "prediction")),
    }


def paired(plan: Plan) -> Mapping[str, Callable[[], Any]]:
    """What is accumulated of two models."""
    single = metrics(plan)
    return {
        **{name: partial(PairedMean, number) for name, number in _PAIRED.items()},
        **{f"outputs.{name}": partial(PairedMean, number, plan.width) for name, number in _PAIRED_OUTPUTS.items()},
        **{name: partial(Sides, single[name]) for name in ("residuals", "ranks")},
        "nearer": Nearer,
        "different": partial(Largest, plan.surprising, "apart", _DIFFERENT),
    }


def rows_of(plan: Plan, screening: Screening, batch: Batch) -> Iterator[PredictedRows]:
    """The rows of a batch that can be scored; the others are counted."""
    row, present = screening.present(batch)
    prediction = batch.scores.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        finite = np.isfinite(prediction - batch.labels).all(axis=1)
    screening.no_distribution.add(batch.file, row, present & ~finite)
    kept = present & finite
    yield PredictedRows(batch.file, row[kept], prediction[kept], batch.labels[kept])


def evaluation(plan: Plan, screening: Screening, results: Mapping[str, Any]) -> RegressionEvaluation:
    """The figures of a run."""
    squared: MeanResult = results["squared_error"]
    absolute: MeanResult = results["absolute_error"]
    check_scored(plan, screening, squared.rows)
    sums: Residuals = results["residuals"]
    signed, size = results["ranks"]
    outputs = _outputs(plan, sums)
    median = size.quantile(0.5)
    return RegressionEvaluation(
        source=source_of(plan),
        rows=squared.rows,
        intervals={
            "mse": squared.interval,
            "rmse": squared.interval.mapped(math.sqrt),
            "mae": absolute.interval,
        },
        bounds={"median_absolute_error": median.bound},
        left_out=left_out_of(plan, screening),
        notes=notes_of(plan, screening),
        findings=examine(plan, screening, {**results, "outputs": outputs}, _RULES),
        slices=results["slices"],
        mse=squared.value,
        rmse=math.sqrt(squared.value),
        mae=absolute.value,
        median_absolute_error=median.value,
        **_of_outputs(outputs),
        error_quantiles={f"{q:g}": size.quantile(q).value for q in _QUANTILES},
        outputs=outputs,
        residual_histogram=_histogram(signed),
        residual_plot=results["plot"].points(),
        surprising=worst_rows(plan, results["surprising"], WorstRow),
    )


def _outputs(plan: Plan, sums: Residuals) -> tuple[OutputFigures, ...]:
    names = plan.columns.class_names or tuple(str(k) for k in range(plan.width))
    return tuple(sums.figures(k, names[k]) for k in range(plan.width))


def _of_outputs(outputs: Sequence[OutputFigures]) -> dict[str, float]:
    """The figures of all outputs that come of those of each."""
    return {
        "largest_error": max(o.largest_error for o in outputs),
        "bias": fmean(o.bias for o in outputs),
        "r2": fmean(o.r2 for o in outputs),
        "explained_variance": fmean(o.explained_variance for o in outputs),
    }


def comparison(both: Both, rows: int, results: Mapping[str, Any]) -> RegressionComparison:
    """The figures of two models on the rows that both have."""
    of_a, of_b = (_outputs(both.a, sums) for sums in results["residuals"])
    medians = (size.quantile(0.5).value for _, size in results["ranks"])
    whole_a, whole_b = _of_outputs(of_a), _of_outputs(of_b)
    found = {name: Compared.alone(value, whole_b[name]) for name, value in whole_a.items()}
    found["median_absolute_error"] = Compared.alone(*medians)
    found |= {name: results[name][0] for name in _PAIRED}
    found["bias"] = replace(found["bias"], a=whole_a["bias"], b=whole_b["bias"])  # rounded as in an evaluation
    found["rmse"] = Compared.alone(math.sqrt(found["mse"].a), math.sqrt(found["mse"].b))
    return RegressionComparison(
        **both.common(
            rows, {name: found[name] for name in RegressionEvaluation.FIGURES}, results["different"], DifferentRow
        ),
        **results["nearer"],
        outputs=tuple(
            ComparedPart(
                a.name,
                {name: results[f"outputs.{name}"][k] for name in _PAIRED_OUTPUTS}
                | {name: Compared.alone(getattr(a, name), getattr(b, name)) for name in ("rmse", "r2")},
            )
            for k, (a, b) in enumerate(zip(of_a, of_b, strict=True))
        ),
    )


def _histogram(ranking: Ranking) -> tuple[HistogramBin, ...]:
    """Residuals in bars of one width; the first and the last reach to the ends."""
    if not ranking.rows:
        return ()
    low, high = ranking.quantile(_TAIL).value, ranking.quantile(1 - _TAIL).value
    edges = np.unique(np.linspace(low, high, _BARS + 1)) if math.isfinite(high - low) else np.zeros(0)
    if len(edges) < 2:
        return (HistogramBin(float(ranking.low[0]), float(ranking.high[-1]), ranking.rows),)
    edges[0], edges[-1] = ranking.low[0], ranking.high[-1]
    home = np.clip(np.searchsorted(edges, ranking.low, side="right") - 1, 0, len(edges) - 2)
    counts = np.bincount(home, weights=ranking.count[0], minlength=len(edges) - 1).astype(np.int64)
    return tuple(
        HistogramBin(a, b, n) for a, b, n in zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
    )
