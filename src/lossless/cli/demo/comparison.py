"""What the training runs of part (a) say about the losses: the figures, and the words, table and curve made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from lossless._report import Curve, Panel, Series, Table


@dataclass(frozen=True)
class Measures:
    """Figures of held-out rows; nan where a measure does not apply."""

    accuracy: float = math.nan
    macro_recall: float = math.nan
    rare_recall: float = math.nan
    nll: float = math.nan
    calibration_error: float = math.nan
    rmse: float = math.nan


@dataclass(frozen=True)
class Epoch:
    """After an epoch: the loss trained with, over the training rows, and held-out NLL (or RMSE)."""

    epoch: int
    train: float
    held_out: float


@dataclass(frozen=True)
class Run:
    """A finished training run."""

    seed: int
    measures: Measures
    epochs: tuple[Epoch, ...]


@dataclass(frozen=True)
class Trained:
    """The runs of one loss, one per seed, and the mean of their figures."""

    loss: str
    about: str
    mean: Measures
    runs: tuple[Run, ...]

    def curve(self) -> tuple[tuple[int, float], ...]:
        """Mean held-out figure by epoch."""
        return tuple(
            (at[0].epoch, math.fsum(e.held_out for e in at) / len(at))
            for at in zip(*(r.epochs for r in self.runs), strict=True)
        )


@dataclass(frozen=True)
class Comparison:
    """The losses on one set of data."""

    name: str
    about: str
    held_out: int  # rows
    losses: tuple[Trained, ...]

    def __getitem__(self, loss: str) -> Trained:
        return next(t for t in self.losses if t.loss == loss)


def mean(measures: Sequence[Measures]) -> Measures:
    """Figure by figure."""
    return Measures(
        **{f.name: math.fsum(getattr(m, f.name) for m in measures) / len(measures) for f in fields(Measures)}
    )
