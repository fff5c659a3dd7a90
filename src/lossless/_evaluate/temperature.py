"""The temperature that would serve the predictions best, fitted on a sample of rows that any order gives alike."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossless._numpy.backend import Tempered, tempered

from .accumulators import Calibration
from .intervals import UNDEFINED, Interval, Z
from .ranking import Floats
from .sample import RowSample
from .sums import SignedSum

SAMPLE_SCORES = 1 << 19  # 2 MB of float32: 5,242 rows of 100 classes
_SURE = 1e-6  # a slope that no rounding makes: it is a mean of differences of numbers below 2
_LEAST, _GREATEST = 2.0**-20, 2.0**40  # inverse temperatures that are searched, for logits of a range from 1 to 2


@dataclass(frozen=True)
class BestTemperature:
    """The T > 0 for which softmax(logits / T) has the least mean nll, and what it would gain, on `rows` rows.

    `value` is 0 where the mean falls as long as T does (every largest score is the label's), inf where it falls
    as long as T grows (the scores tell nothing or the opposite), nan where T changes nothing. Rows whose loss is
    infinite at every T are left out of the fit and of its figures.
    """

    value: float
    interval: Interval
    rows: int
    nll: float
    nll_before: float
    calibration_error: float
    calibration_error_before: float


class TemperatureFit(RowSample):
    """A sample of the rows that holds as many as `scores` scores."""

    def __init__(self, classes: int, rows: int = 0, scores: int = SAMPLE_SCORES) -> None:
        super().__init__(max(scores // classes, 1), ("logits", "label", "right"), rows)

    def result(self) -> BestTemperature:
        """The best temperature of the sample."""
        rows = self.rows()
        if not rows:
            return best_temperature(np.zeros((0, 1)), np.zeros(0, np.int64), np.zeros(0, bool))
        return best_temperature(rows["logits"], rows["label"], rows["right"])


def best_temperature(logits: NDArray[Any], label: NDArray[np.int64], right: NDArray[np.bool_]) -> BestTemperature:
    """Of (n, C) logits, labels in [0, C), and whether the label is predicted.

    With b = 1 / T and d_j = x_j - max_k x_k the mean nll is f(b) = mean(log sum_j exp(b d_j) - b d_y), which is convex:
    f' = mean(E_p d - d_y) and f'' = mean(Var_p d), p = softmax(b d). Newton's steps to f' = 0, kept within a bracket.
    """
    curve = _Curve.of(logits, label, right)
    beta = curve.least()
    nll, calibration_error = curve.figures(curve.unit if math.isnan(beta) else beta)
    nll_before, calibration_error_before = curve.figures(curve.unit)
    return BestTemperature(
        value=math.inf if beta == 0.0 else curve.unit / beta,
        interval=curve.interval(beta),
        rows=len(curve.label),
        nll=nll,
        nll_before=nll_before,
        calibration_error=calibration_error,
        calibration_error_before=calibration_error_before,
    )


@dataclass(frozen=True)
class _Curve:
    """The mean nll of some rows as a function of the inverse temperature, for logits divided by `unit`."""

    below: Floats  # (n, C) d, in (-2, 0]; or -inf: probability 0 at every temperature
    label: Floats  # (n,) d_y, finite
    right: NDArray[np.bool_]  # (n,)
    unit: float  # a power of two: dividing by it rounds nothing
    known: dict[float, Tempered] = field(default_factory=dict)  # the sums of two inverse temperatures, see `at`

    @classmethod
    def of(cls, logits: NDArray[Any], label: NDArray[np.int64], right: NDArray[np.bool_]) -> _Curve:
        below = logits.astype(np.float64)
        with np.errstate(invalid="ignore", over="ignore"):
            below -= logits.max(axis=1, initial=-np.inf)[:, None]
        own = below[np.arange(len(below)), label]
        usable = np.isfinite(own)
        if not usable.all():
            below, own, right = below[usable], own[usable], right[usable]
        least = below.min(initial=0.0)
        if least == -np.inf:
            least = below.min(initial=0.0, where=below > -np.inf)
        unit = 2.0 ** (math.frexp(-least)[1] - 1)
        below /= unit
        return cls(below, own / unit, right, unit)

    def at(self, beta: float) -> Tempered:
        """The sums of the rows. Those of the first inverse temperature and of the last are asked for again."""
        if beta not in self.known:
            if len(self.known) == 2:
                self.known.popitem()
            self.known[beta] = tempered(self.below, beta)
        return self.known[beta]

    def least(self) -> float:
        """The inverse temperature of least mean nll; 0, inf or nan (see BestTemperature) if there is none."""
        if self.all_right:
            return math.inf if (np.isfinite(self.below) & (self.below < 0.0)).any() else math.nan
        low, high, beta = _LEAST, _GREATEST, min(max(self.unit, _LEAST), _GREATEST)
        slope, _ = self._slopes(beta)  # which never falls: a sure sign here is that of one end
        if not slope > _SURE and self._slopes(_GREATEST)[0] <= 0.0:
            return math.inf
        if not slope < -_SURE and self._slopes(_LEAST)[0] >= 0.0:
            return 0.0
        for _ in range(100):
            first, second = self._slopes(beta)
            low, high = (beta, high) if first < 0.0 else (low, beta)
            step = beta - first / second if second > 0.0 else math.inf
            if abs(step - beta) <= 1e-9 * beta:  # what is left to go is about the square of a step
                return step
            beta = step if low < step < high else math.sqrt(low * high)
        return beta

    @property
    def all_right(self) -> bool:
        return not self.label.any()

    def _slopes(self, beta: float) -> tuple[float, float]:
        """The first two derivatives of the mean nll."""
        first, second = self.row_slopes(beta)
        return _mean(first), _mean(second)

    def row_slopes(self, beta: float) -> tuple[Floats, Floats]:
        """The first two derivatives of every row's nll."""
        _, mean, square = self.at(beta)
        return mean - self.label, np.maximum(square - mean * mean, 0.0)

    def interval(self, beta: float) -> Interval:
        """Of the temperature, by the sandwich variance of 1 / T: sum f'_i^2 / (sum f''_i)^2 (Huber 1967)."""
        if not 0.0 < beta < math.inf or len(self.label) < 2:
            return UNDEFINED
        first, second = self.row_slopes(beta)
        curvature = float(np.sum(second))
        if not curvature:  # all probabilities but one are 0 in float64
            return UNDEFINED
        half = Z * math.sqrt(float(np.sum(first**2))) / curvature
        return Interval(self.unit / (beta + half), self.unit / (beta - half) if half < beta else math.inf)

    def figures(self, beta: float) -> tuple[float, float]:
        """Mean nll and expected calibration error."""
        if not len(self.label):
            return math.nan, math.nan
        total = self._total(beta)
        lost = np.where(self.label, beta, 0.0) * self.label  # not inf * 0
        calibration = Calibration()
        calibration.add(1.0 / total, self.right)
        return _mean(np.log(total) - lost), calibration.result().error

    def _total(self, beta: float) -> Floats:
        """sum_j exp(beta d_j), whose largest term is 1; at the ends of the range of beta its limits."""
        if 0.0 < beta < math.inf:
            return self.at(beta).total
        terms = self.below > -np.inf if beta == 0.0 else self.below == 0.0
        total: Floats = terms.sum(axis=1, dtype=np.float64)
        return total


def _mean(values: Floats) -> float:
    """The exact mean, rounded once: rows in another order give the same figures."""
    if not np.isfinite(values).all():  # logits near the ends of the range of floats
        return math.nan
    total = SignedSum()
    total.add(values)
    return float(total.exactly() / len(values))
