"""Two classes: what the score of the second one, the positive class, tells."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lossless.transforms import sigmoid

from ..accumulators import Calibration, CalibrationBin
from ..intervals import Interval
from ..ranking import Points, Ranking, RankSketch
from ..rows import ScoredRows


@dataclass(frozen=True)
class Threshold:
    """A probability from which on a row counts as positive, and what comes of it."""

    probability: float
    precision: float
    recall: float
    f1: float


NO_THRESHOLD = Threshold(math.nan, math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class PositiveFigures:
    """Figures of the probability of class 1."""

    auroc: float
    average_precision: float
    best_f1: Threshold  # nan without positive rows
    calibration_error: float
    reliability: tuple[CalibrationBin, ...]
    roc_curve: Points  # (false positive rate, true positive rate)
    precision_recall_curve: Points  # (recall, precision)


@dataclass(frozen=True)
class PositiveResult:
    """The figures, and their intervals and bounds by the names that they have in an evaluation."""

    figures: PositiveFigures
    intervals: Mapping[str, Interval]
    bounds: Mapping[str, float]


class Positive:
    """Rows of class 1 and of class 0 by log-odds, and the reliability of p."""

    def __init__(self) -> None:
        self.sketch, self.calibration = RankSketch(2), Calibration()

    def update(self, rows: ScoredRows) -> None:
        positive = rows.label == 1
        odds = rows.logits[:, 1].astype(np.float64) - rows.logits[:, 0].astype(np.float64)
        self.sketch.add(odds, positive)
        self.calibration.add(sigmoid(odds), positive)

    def merge(self, other: Positive) -> None:
        self.sketch.merge(other.sketch)
        self.calibration.merge(other.calibration)

    def result(self) -> PositiveResult:
        ranking, reliability = self.sketch.ranked(), self.calibration.result()
        auroc, average_precision = ranking.auroc, ranking.average_precision()
        return PositiveResult(
            figures=PositiveFigures(
                auroc=auroc.value,
                average_precision=average_precision.value,
                best_f1=best_f1(ranking),
                calibration_error=reliability.error,
                reliability=reliability.bins,
                roc_curve=ranking.roc_curve(),
                precision_recall_curve=ranking.precision_recall_curve(),
            ),
            intervals={"positive.auroc": ranking.auroc_interval()},
            bounds={"positive.auroc": auroc.bound, "positive.average_precision": average_precision.bound},
        )


def best_f1(ranking: Ranking) -> Threshold:
    """The threshold of the best F1, the highest of equally good ones; it is the least key of a cell."""
    negative, positive = np.cumsum(ranking.count[:, ::-1], axis=1)
    if not len(positive) or not positive[-1]:
        return NO_THRESHOLD
    f1 = 2 * positive / (positive + negative + positive[-1])
    i = int(np.argmax(f1))
    found = int(positive[i]), int(negative[i])
    odds = float(ranking.low[::-1][i])
    return Threshold(
        probability=float(sigmoid(np.array([odds]))[0]),
        precision=found[0] / sum(found),
        recall=found[0] / int(positive[-1]),
        f1=float(f1[i]),
    )
