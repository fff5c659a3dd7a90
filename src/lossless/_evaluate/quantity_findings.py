"""What all rows of a regression together say is wrong: of each output the first reason that holds.

Correlations are those of a sample of rows, which is enough for what is as far off as these; the rest is exact.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from lossless._diagnose.rules import ENOUGH

from .findings import MANY, SIGNIFICANT, Seen, Whole, rings
from .intervals import Z
from .rows import Floats
from .text import shown

if TYPE_CHECKING:
    from .tasks.regression import OutputFigures, Residuals

# Of the RMSE, where a model that is right for the median of skewed targets has some 0.3; and of the targets' deviation.
_BIASED, _MATTERS = 0.5, 0.05
_SCALES = 0.5, 2.0  # of the slope of targets by predictions, which is 1 if these are means of the targets
_LINE, _GAIN = 0.5, 0.2  # the least share of the variance that a line explains, and how much more it must be
_UNSURE = 6.0  # R^2 of a model that is as good as the mean has a standard error of about 1.5 / sqrt(n)
_SWAPPED, _APART = 0.5, 0.2  # the least correlation with another target, and how much more it must be


@dataclass(frozen=True)
class _Output:
    """An output, and what the sample says of it."""

    figures: OutputFigures
    named: str  # " of 'price'", if there are several
    rows: int
    low: float  # range of its predictions
    high: float
    correlation: float
    deviation: float  # standard deviations of the predictions and targets of the sample
    target_deviation: float

    @property
    def slope(self) -> float:
        """Of the line through targets by predictions."""
        return self.correlation * self.target_deviation / self.deviation if self.deviation else math.nan


def quantities(whole: Whole) -> Seen:
    """Constant, swapped, of another scale, biased, or worse than the mean."""
    sums: Residuals = whole.results["residuals"]
    outputs: Sequence[OutputFigures] = whole.results["outputs"]
    prediction, target = whole.results["plot"].predictions_and_targets(len(outputs))
    related = _correlations(prediction, target)
    swapped = _swapped(related, len(prediction))
    words: dict[str, list[str]] = defaultdict(list)
    for k, figures in enumerate(outputs):
        if k in swapped:
            name, other = shown(figures.name), swapped[k]
            words["swapped-outputs"].append(
                f"predictions of '{name}' go with the targets of '{shown(outputs[other].name)}' (correlation "
                f"{related[k, other]:.3g}, and {related[k, k]:.3g} with their own)"
            )
            continue
        output = _Output(
            figures=figures,
            named=f" of '{shown(figures.name)}'" if len(outputs) > 1 else "",
            rows=sums.rows,
            low=float(sums.low[k]),
            high=float(sums.high[k]),
            correlation=float(related[k, k]),
            deviation=_deviation(prediction[:, k]),
            target_deviation=_deviation(target[:, k]),
        )
        for trouble, evidence in _first(output):
            words[trouble].append(evidence)
    for trouble, several in words.items():
        more = f", and so of {len(several) - 4} more outputs" if len(several) > 4 else ""
        yield trouble, ", ".join(several[:4]) + more


def _first(o: _Output) -> Iterator[tuple[str, str]]:
    """What is wrong with an output, if anything: what explains the others alone."""
    f = o.figures
    if o.low == o.high and o.rows >= ENOUGH and f.target_deviation > 0:
        yield "constant-input", f"all {o.rows} predictions{o.named} are {o.low:.6g}, though their targets differ"
    elif o.rows >= MANY and _of_other_scale(o):
        yield (
            "other-scale",
            f"predictions{o.named} have a standard deviation of {o.deviation:.6g} and their targets of "
            f"{o.target_deviation:.6g}, at a correlation of {o.correlation:.3g}: a line through them would explain "
            f"{o.correlation**2:.3g} of the variance, and the predictions as they are have an R² of {f.r2:.3g}",
        )
    elif o.rows >= MANY and _is_biased(o):
        half = Z * math.sqrt(max(f.mse - f.bias**2, 0.0) / o.rows)
        yield (
            "biased-prediction",
            f"the mean error{o.named} is {f.bias:.6g} (95 % interval {f.bias - half:.4g} to {f.bias + half:.4g}), at "
            f"an RMSE of {f.rmse:.6g}",
        )
    elif o.rows >= MANY and f.r2 < -_UNSURE / math.sqrt(o.rows):
        yield (
            "worse-than-mean",
            f"R²{o.named} is {f.r2:.3g} in {o.rows} rows: the RMSE is {f.rmse:.6g}, and {f.target_deviation:.6g} if "
            f"the answer is always {f.target_mean:.6g}",
        )


def _of_other_scale(o: _Output) -> bool:
    low, high = _SCALES
    explained = o.correlation**2
    return not low <= o.slope <= high and explained >= _LINE and o.figures.r2 < explained - _GAIN


def _is_biased(o: _Output) -> bool:
    f = o.figures
    least = max(_BIASED * f.rmse, _MATTERS * f.target_deviation)
    if not math.isfinite(f.mse) or not f.bias or abs(f.bias) < least:
        return False
    return f.bias**2 * o.rows > SIGNIFICANT**2 * (f.mse - f.bias**2)


def _deviation(x: Floats) -> float:
    with np.errstate(over="ignore"):
        return float(x.std()) if len(x) else 0.0


def _correlations(prediction: Floats, target: Floats) -> Floats:
    """(k, k) of predictions with targets; 0 where one of them is constant."""

    def standard(x: Floats) -> Floats:
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            x = x - x.sum(axis=0) / max(len(x), 1)
            found: Floats = np.nan_to_num(x / np.sqrt(np.square(x).sum(axis=0)), posinf=0.0, neginf=0.0)
        return found

    return standard(prediction).T @ standard(target)


def _swapped(related: Floats, rows: int) -> dict[int, int]:
    """Outputs that go with another target, in a ring: two that are swapped, or more that are in another order."""
    if rows < MANY or len(related) < 2:
        return {}
    home = related.argmax(axis=1)
    outputs = np.arange(len(related))
    best, own = related[outputs, home], related.diagonal()
    ring = rings(home, (best >= _SWAPPED) & (best - own >= _APART))
    return {k: int(home[k]) for k in np.flatnonzero(ring).tolist()}
