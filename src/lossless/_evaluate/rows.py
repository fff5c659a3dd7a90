"""The numbers of a row: what one batch of scores and labels says about each of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lossless._numpy.backend import RowNumbers, label_rank, row_numbers
from lossless.errors import EvaluationError

from .text import shown

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Values = NDArray[Any] | list[Any]  # numbers, or texts and None

SUM_TOLERANCE = 1e-3  # half-precision probabilities of a thousand classes still sum to 1 within this
_BLOCK_SCORES = 1 << 20  # scores of a block of rows, which all metrics read before the next


class Kind(StrEnum):
    """What the score columns hold."""

    LOGITS = "logits"
    LOG_PROBS = "log-probs"
    PROBS = "probs"
    PREDICTIONS = "predictions"  # of a quantity


class Cells(NamedTuple):
    """What a column holds in consecutive rows."""

    values: Values  # (n,) as the file has them, or (n, k) numbers of a wide column
    null: NDArray[np.bool_]  # (n,) rows without a value


@dataclass(frozen=True)
class RawBatch:
    """Consecutive rows of one file as a reader yields them."""

    file: int
    first_row: int
    scores: Cells  # (n, C) float16, float32 or float64
    beside: tuple[Cells, ...]  # the columns that were asked for besides the scores, in their order


@dataclass(frozen=True)
class Batch:
    """The same rows with their labels."""

    file: int
    first_row: int
    scores: NDArray[Any]  # (n, C)
    labels: NDArray[Any]  # (n,) class indices, (n, C) marks (int8) or (n, k) quantities
    missing: NDArray[np.bool_]  # (n,) rows without scores or label
    unmatched: NDArray[np.bool_]  # (n,) rows whose key is not among the targets
    by: NDArray[Any] | None = None  # (n, k) values of the columns that cut the rows into slices, None for no value
    place: Integers | None = None  # (n,) which row of the targets, or of the data set, each is; None if nothing says


@dataclass(frozen=True)
class Rows:
    """Rows that could be scored: arrays with an entry for each."""

    file: int
    row: Integers  # (n,) row number in the file, from 0

    def __len__(self) -> int:
        return len(self.row)

    def take(self, keep: NDArray[Any]) -> Self:
        """The rows where `keep` is true, or of these numbers."""
        return replace(self, **{f.name: getattr(self, f.name)[keep] for f in fields(self) if f.name != "file"})


@dataclass(frozen=True)
class ScoredRows(Rows):
    """Rows of one class each, and their exact numbers in float64 (nats)."""

    label: Integers  # (n,)
    logits: NDArray[Any]  # (n, C) as stored; log p where probabilities are stored
    predicted: Integers  # (n,) the class of the largest score, the first of equals
    right: NDArray[np.bool_]  # (n,) predicted == label
    rank: Integers  # (n,) how many classes come before the label: of larger score, or equal and of smaller number
    nll: Floats  # (n,)
    miss: Floats  # (n,) 1 - p of the label, squared
    surprise: Floats  # (n,) -log p of the predicted class; tells confidences near 1 apart
    entropy: Floats  # (n,)
    confidence: Floats  # (n,) probability of the predicted class
    brier: Floats  # (n,) sum_j (p_j - [j = y])^2, in [0, 2]
    off_sum: Floats  # (n,) |log sum_j p_j| of stored probabilities; 0 for logits
    peak: Floats  # (n,) the largest logit
    hash: NDArray[np.uint64]  # (n,) of the label, the entropy and the first, last and largest logit

    @property
    def loss(self) -> Floats:
        """(n,) by which rows are ranked."""
        return self.nll

    @property
    def focal(self) -> Floats:
        """(n,) focal loss of gamma 2, (1 - p_y)^2 nll."""
        return self.miss * self.nll

    def reordered(self, order: Integers) -> ScoredRows:
        """The same rows where class j is called order[j]; their scores stay where they are."""
        return replace(self, label=order[self.label], predicted=order[self.predicted])

    def differs(self, other: ScoredRows) -> NDArray[np.bool_]:
        """(n,) whether the truth is another one there."""
        return np.asarray(self.label != other.label)

    def truth(self, i: int, names: Sequence[str]) -> str:
        """Of row i, in words."""
        return f"label '{shown(names[self.label[i]])}'"


def block_rows(classes: int) -> int:
    """How many rows make a block."""
    return max(1, _BLOCK_SCORES // classes)


def score_rows(file: int, row: Integers, scores: NDArray[Any], label: Integers, kind: Kind) -> ScoredRows:
    """Row numbers of (n, C) scores with labels in [0, C); rows without a distribution get nll = nan."""
    logits = _log(scores, row) if kind is Kind.PROBS else scores
    numbers = row_numbers(logits, label)
    predicted, rank, surprise = numbers.largest, numbers.rank, numbers.surprise
    if kind is Kind.PROBS:  # those that differ may have the same logarithm
        predicted, rank = np.argmax(scores, axis=1), label_rank(scores, label)
    right = predicted == label
    nll, miss, squares = _losses(numbers, ~right)
    return ScoredRows(
        file,
        row,
        label,
        logits,
        predicted,
        right,
        rank,
        nll,
        miss,
        surprise,
        numbers.entropy,
        confidence=np.exp(-surprise),
        brier=miss + squares,
        off_sum=np.zeros(len(label)) if kind is Kind.LOGITS else np.abs(numbers.lse),
        peak=numbers.peak,
        hash=numbers.hash,
    )


def _losses(numbers: RowNumbers, is_wrong: NDArray[np.bool_]) -> tuple[Floats, Floats, Floats]:
    """-log p_y, (1 - p_y)^2, and the sum of p_j^2 over all classes but the label y: together the Brier score."""
    surprise, squares = numbers.surprise, numbers.squares
    wrong = np.flatnonzero(is_wrong)
    with np.errstate(invalid="ignore", over="ignore"):  # nan, where there is no distribution
        nll = surprise + numbers.lead  # both >= 0, so the sum does not cancel
        left = np.maximum(squares[wrong] - np.exp(-2.0 * nll[wrong]), 0.0)
        squares[wrong] = left + np.exp(-2.0 * surprise[wrong])
    return nll, np.square(np.expm1(-nll)), squares  # p_y - 1 would cancel when the model is right


def _log(p: NDArray[Any], row: Integers) -> Floats:
    """log p, with log 0 = -inf; a negative number is no probability."""
    if (p < 0).any():
        i, j = np.argwhere(p < 0)[0].tolist()
        raise EvaluationError(
            f"row {row[i]} holds {p[i, j]!s} for class {j}, which is no probability. "
            "If the column holds logits or log-probabilities, name it by --logits or --log-probs"
        )
    with np.errstate(divide="ignore"):
        return np.log(p.astype(np.float64))
