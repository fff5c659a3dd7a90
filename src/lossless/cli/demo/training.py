"""Part (a): two small models on scikit-learn's data, trained in PyTorch with the losses of this library."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_diabetes, load_digits

import lossless

from .._console import Progress, figure

_SEED = 0
_BATCH = 64


@dataclass(frozen=True)
class Epoch:
    """Mean losses after an epoch, and the measure people ask for on held-out data."""

    epoch: int
    train: float
    held_out: float
    measured: float


@dataclass(frozen=True)
class Training:
    """A finished training run."""

    name: str
    loss: str
    data: str
    measure: str
    baseline: float  # the measure without a model
    epochs: tuple[Epoch, ...]

    def conclusion(self) -> str:
        """One sentence on the whole run."""
        first, last = self.epochs[0], self.epochs[-1]
        return (
            f"Training loss {figure(first.train)} to {figure(last.train)} in {last.epoch} epochs; {self.measure} "
            f"{figure(last.measured)} (without a model {figure(self.baseline)})."
        )


@dataclass(frozen=True)
class _Data:
    """Inputs and targets, and the rows to learn from and to hold out."""

    x: Any
    y: Any
    train: Any
    held_out: Any


def digits(epochs: int, *, progress: Progress | None = None) -> Training:
    """Images of handwritten digits to ten classes, by cross-entropy."""
    images, labels = load_digits(return_X_y=True)
    data = _Data(torch.tensor(images / 16.0, dtype=torch.float32), torch.tensor(labels), *_split(len(labels)))
    truth = data.y[data.held_out]
    torch.manual_seed(_SEED)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))

    def accuracy(scores: Any) -> float:
        return float((scores.argmax(1) == truth).double().mean())

    return Training(
        name="digits",
        loss="cross_entropy",
        data=f"{len(data.train)} images of digits to learn from, {len(data.held_out)} held out, 10 classes.",
        measure="held-out accuracy",
        baseline=float(torch.bincount(truth).max() / len(truth)),
        epochs=_fit(model, data, lossless.cross_entropy, accuracy, epochs, progress),
    )


def diabetes(epochs: int, *, progress: Progress | None = None) -> Training:
    """Progression of diabetes after a year from ten measurements, by mean squared error."""
    features, progression = load_diabetes(return_X_y=True)
    train, held_out = _split(len(progression))
    mean, spread = progression[train].mean(), progression[train].std()
    x = torch.tensor((features - features[train].mean(0)) / features[train].std(0), dtype=torch.float32)
    y = torch.tensor((progression - mean) / spread, dtype=torch.float32)[:, None]
    torch.manual_seed(_SEED)
    model = torch.nn.Sequential(torch.nn.Linear(10, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))

    def rmse(predicted: Any) -> float:
        """In the units of the data, by lossless.rmse_loss."""
        return float(lossless.rmse_loss(predicted.double() * spread, y[held_out].double() * spread))

    return Training(
        name="diabetes",
        loss="mse_loss",
        data=f"{len(train)} patients to learn from, {len(held_out)} held out; the target is standardised for training.",
        measure="held-out RMSE",
        baseline=rmse(torch.zeros(len(held_out), 1)),
        epochs=_fit(model, _Data(x, y, train, held_out), lossless.mse_loss, rmse, epochs, progress),
    )


def _split(rows: int) -> tuple[Any, Any]:
    """A fifth of the rows held out, the same on every machine."""
    order = np.random.default_rng(_SEED).permutation(rows)
    return order[rows // 5 :], order[: rows // 5]


def _fit(
    model: Any,
    data: _Data,
    loss: Callable[[Any, Any], Any],
    measure: Callable[[Any], float],
    epochs: int,
    progress: Progress | None,
) -> tuple[Epoch, ...]:
    """Adam over shuffled batches; the losses after each epoch."""
    x, y, train, held_out = data.x, data.y, data.train, data.held_out
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3, weight_decay=1e-4)
    shuffle = np.random.default_rng(_SEED)
    history = []
    with _one_thread():
        for epoch in range(1, epochs + 1):
            for batch in np.array_split(shuffle.permutation(train), max(1, len(train) // _BATCH)):
                optimizer.zero_grad()
                loss(model(x[batch]), y[batch]).backward()
                optimizer.step()
            with torch.no_grad():
                fitted, scores = loss(model(x[train]), y[train]), model(x[held_out])
                history.append(Epoch(epoch, float(fitted), float(loss(scores, y[held_out])), measure(scores)))
            if progress is not None:
                progress(epoch, epochs)
    return tuple(history)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Batches this small only wait for a second thread: 1.7 s against 10 on two busy cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
