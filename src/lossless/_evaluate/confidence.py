"""How well the confidence of a classifier tells its right predictions from its wrong ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .accumulators import CALIBRATION_BINS
from .intervals import Interval
from .ranking import CURVE_POINTS, LIMIT, Bounded, Floats, Integers, Points, Ranking, RankSketch, thinned
from .rows import ScoredRows

_DROPPED = 53 - 36  # bits of a log-confidence, which is then off by 1e-11 of itself at most
_NORMAL = 2.0**52
_FIRST = np.concatenate([[0.0], np.cumsum(1.0 / np.arange(1, 33))])  # harmonic numbers
_FAR = 1e5  # from here on 1 / (120 k^4) rounds away beside 1 / (2 k)


@dataclass(frozen=True)
class ConfidenceResult:
    """Ranked figures of the confidence."""

    auroc: Bounded
    auroc_interval: Interval
    aurc: Bounded
    risk_coverage: Points
    adaptive_error: Bounded


class ConfidenceRanking:
    """Right and wrong predictions by log-confidence, which tells confidences near 1 apart."""

    def __init__(self, limit: int = 2 * LIMIT) -> None:  # the calibration error of few rows a bin asks for more
        self.sketch = RankSketch(2, limit)

    def update(self, rows: ScoredRows) -> None:
        self.sketch.add(_rounded(-rows.surprise), rows.right)

    def merge(self, other: ConfidenceRanking) -> None:
        self.sketch.merge(other.sketch)

    def result(self) -> ConfidenceResult:
        ranking = self.sketch.ranked()
        return ConfidenceResult(
            auroc=ranking.auroc,
            auroc_interval=ranking.auroc_interval(),
            aurc=aurc(ranking),
            risk_coverage=risk_coverage(ranking),
            adaptive_error=adaptive_calibration_error(ranking),
        )


def _rounded(keys: Floats) -> Floats:
    """To 36 bits: equal probabilities, as votes are, differ in the last ones by the order in which rows are summed.

    Half to even, by their own bits: a carry goes on into the exponent. The least are brought among the normal numbers
    for it, where all have a first bit; none is larger than the logarithm of the number of classes.
    """
    rounded = keys * _NORMAL
    bits, half = rounded.view(np.int64), 1 << (_DROPPED - 1)
    bits += half - 1 + ((bits >> _DROPPED) & 1)
    bits &= -2 * half
    rounded /= _NORMAL
    return rounded


def risk_coverage(ranking: Ranking) -> Points:
    """Points (coverage, risk): the error rate among the surest rows, by the share of all rows that they are."""
    if not ranking.rows:
        return ()
    covered = ranking.rows - (ranking.held_upto - ranking.held)[::-1]
    coverage = covered / ranking.rows
    keep = thinned(coverage, CURVE_POINTS)
    cell = len(covered) - 1 - keep
    wrong = ranking.upto[0, -1] - (ranking.upto[0, cell] - ranking.count[0, cell])
    return tuple(zip(coverage[keep].tolist(), (wrong / covered[keep]).tolist(), strict=True))


def aurc(ranking: Ranking) -> Bounded:
    """Area under the risk-coverage curve, (1/n) sum_k (errors among the k surest rows) / k.

    Geifman et al. 2019 (arXiv:1805.08206), over Geifman and El-Yaniv 2017 (arXiv:1705.08500). Rows of equal confidence
    count as if in random order: with e errors in the a rows above a cell of m rows, w of them wrong, the mean risk at
    its j-th row is (e + w j / m) / (a + j), and these add up to w + (e - w a / m) (H(a + m) - H(a)) by harmonic
    numbers H. Any other order of the cell moves the errors above its j-th row by at most w (m - w) / m, and by
    w (m - w) / 2 in all.
    """
    if not ranking.rows:
        return Bounded(math.nan, math.nan)
    areas, bounds = [], []
    for part in ranking.blocks():
        wrong, rows = ranking.count[0, part].astype(np.float64), ranking.held[part].astype(np.float64)
        above = np.subtract(ranking.rows, ranking.held_upto[part], dtype=np.float64)
        harmonic = above + 1.0
        np.divide(1.0, harmonic, out=harmonic)
        if (shared := np.flatnonzero(rows > 1.0)).size:
            harmonic[shared] = _harmonic(above[shared], above[shared] + rows[shared])
        area = wrong * above  # in its place, as fresh memory costs more
        area /= rows
        np.subtract(ranking.upto[0, -1] - ranking.upto[0, part], area, out=area)
        area *= harmonic
        area += wrong
        areas.append(np.sum(area))
        if (unsure := np.flatnonzero(ranking.several[part])).size:
            wrong, rows, above, harmonic = (numbers[unsure] for numbers in (wrong, rows, above, harmonic))
            bounds.append(np.sum(wrong * (rows - wrong) * np.minimum(harmonic / rows, 0.5 / (above + 1.0))))
    return Bounded(math.fsum(areas) / ranking.rows, math.fsum(bounds) / ranking.rows)


def _harmonic(start: Floats, stop: Floats) -> Floats:
    """sum of 1/k for start < k <= stop: up to 32 by addition, beyond by Euler-Maclaurin (next term below 1e-16)."""
    a, b = np.maximum(start, 32), np.maximum(stop, 32)
    harmonic: Floats = np.log1p((b - a) / a) + (_correction(b) - _correction(a))
    near = np.flatnonzero(start < 32)
    harmonic[near] += _FIRST[np.minimum(stop[near], 32).astype(np.int64)] - _FIRST[start[near].astype(np.int64)]
    return harmonic


def _correction(k: Floats) -> Floats:
    """H(k) - log k - Euler's constant."""
    correction: Floats = 1 / (2 * k) - 1 / (12 * k**2)
    near = np.flatnonzero(k < _FAR)
    k = k[near]
    correction[near] = correction[near] + 1 / (120 * k**4) - 1 / (252 * k**6) + 1 / (240 * k**8)
    return correction


def adaptive_calibration_error(ranking: Ranking) -> Bounded:
    """Calibration error of bins that hold equally many rows (Nguyen and O'Connor 2015, arXiv:1508.05154).

    In a cell of several keys the mean confidence is known to half the cell's width, and where a bin ends in it, the
    rows that would go to the next bin move two sums by no more than |right - confidence| adds up to.
    """
    n = ranking.rows
    if not n:
        return Bounded(math.nan, math.nan)
    gaps, unsure = [], []
    for part in ranking.equal_mass(CALIBRATION_BINS):
        rows, confidence = ranking.held[part], np.exp(ranking.low[part])
        wide = np.flatnonzero(ranking.several[part])
        width = np.exp(ranking.high[part][wide]) - confidence[wide]
        confidence[wide] += width / 2
        gaps.append(abs(float(np.sum(ranking.count[1, part] - rows * confidence))))
        unsure.append(float(np.sum(rows[wide] * width)) / 2)
    last = _cells_of_ends(ranking, CALIBRATION_BINS)
    last = last[ranking.several[last]]
    rows, right = ranking.held[last], ranking.count[1, last]
    moved = np.maximum(right * (1.0 - np.exp(ranking.low[last])), (rows - right) * np.exp(ranking.high[last]))
    return Bounded(math.fsum(gaps) / n, (math.fsum(unsure) + 2.0 * float(np.sum(moved))) / n)


def _cells_of_ends(ranking: Ranking, bins: int) -> Integers:
    """The cells in which bins of equal mass end, each once."""
    ends = np.arange(1, bins) * (ranking.rows - 1) // bins
    found: Integers = np.searchsorted(ranking.held_upto, ends, side="right")
    return np.unique(found)
