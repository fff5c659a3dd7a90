"""Figures of classes, averaged."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence


def weighted_mean(values: Iterable[float], weights: Sequence[int]) -> float:
    """sum_i w_i v_i / sum_i w_i, where an undefined v_i counts as 0, as in scikit-learn; nan if all weights are 0."""
    total = sum(weights)
    if not total:
        return math.nan
    return math.fsum(w * (0.0 if math.isnan(v) else v) for w, v in zip(weights, values, strict=True)) / total
