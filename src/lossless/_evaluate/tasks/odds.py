"""Scores with two sides: log-odds of p, and the losses of either side."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossless.errors import EvaluationError
from lossless.transforms import logsigmoid

from ..rows import Floats, Integers, Kind


def log_odds(scores: NDArray[Any], kind: Kind, row: Integers) -> Floats:
    """log p / (1 - p) of (n, k) scores, infinite where p is 0 or 1; `row` are their numbers, for messages."""
    x: Floats = scores.astype(np.float64)
    if kind is Kind.LOGITS:
        return x
    unfit = (x < 0) | (x > 1) if kind is Kind.PROBS else x > 0
    if unfit.any():
        i, j = np.argwhere(unfit)[0].tolist()
        of = f" for class {j}" if scores.shape[1] > 1 else ""
        what = "probability" if kind is Kind.PROBS else "logarithm of a probability"
        raise EvaluationError(
            f"row {row[i]} holds {scores[i, j]!s}{of}, which is no {what}. If the column holds something else, name it "
            "by --logits, --probs, --log-probs or --predictions"
        )
    with np.errstate(divide="ignore"):
        if kind is Kind.PROBS:
            return np.log(x) - np.log1p(-x)
        # log(1 - e^x), by Maechler's two forms: each keeps the digits that the other one loses
        complement = np.where(x > -np.log(2.0), np.log(-np.expm1(x)), np.log1p(-np.exp(x)))
        return x - complement


def losses(odds: Floats, mark: NDArray[np.bool_]) -> Floats:
    """-log p where the mark is set and -log(1 - p) elsewhere: log(1 + e^-odds) and log(1 + e^odds)."""
    side: Floats = np.where(mark, odds, -odds)
    loss: Floats = np.abs(logsigmoid(side))
    return loss
