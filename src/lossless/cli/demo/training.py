"""Part (a): small models on scikit-learn's data, trained in PyTorch with every loss of this library that fits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_diabetes, load_digits

import lossless
from lossless._evaluate.accumulators import Accuracy, Calibration, PerClass
from lossless._evaluate.rows import Kind, score_rows

from .._console import Progress
from .comparison import Comparison, Epoch, Measures, Run, Trained, mean

SEEDS = (0, 1, 2)
_BATCH = 64
_CLASSES = 10
RARE = (5, 6, 7, 8, 9)
_KEPT = 30  # of the rare digits, one training row in so many


@dataclass(frozen=True)
class Loss:
    """A loss as the loop calls it: `call(scores, targets)`."""

    name: str
    call: Callable[[Any, Any], Any]
    about: str


@dataclass(frozen=True)
class Task:
    """Data, a model for it, what to train with, and what to measure of the held-out scores."""

    name: str
    about: str
    x: Any
    y: Any
    train: Any  # row numbers
    held_out: Any
    model: Callable[[], Any]
    losses: tuple[Loss, ...]
    curve: Callable[[Any], float]  # measured after every epoch
    measure: Callable[[Any], Measures]  # after the last one


def _one_hot(labels: Any) -> Any:
    return torch.nn.functional.one_hot(labels, _CLASSES).float()


def _nll(x: Any, y: Any) -> Any:
    return lossless.nll_loss(lossless.log_softmax(x), y)


def _sparse(x: Any, y: Any) -> Any:
    return lossless.sparse_categorical_cross_entropy(lossless.softmax(x), y)


def _categorical(x: Any, y: Any) -> Any:
    return lossless.categorical_cross_entropy(x, _one_hot(y), from_logits=True)


def _kl(x: Any, y: Any) -> Any:
    return lossless.kl_div(lossless.log_softmax(x), 0.9 * _one_hot(y) + 0.1 / _CLASSES, reduction="batchmean")


def _bce_with_logits(x: Any, y: Any) -> Any:
    return lossless.binary_cross_entropy_with_logits(x, _one_hot(y))


def _bce(x: Any, y: Any) -> Any:
    return lossless.binary_cross_entropy(lossless.sigmoid(x), _one_hot(y))


def _sigmoid_focal(x: Any, y: Any) -> Any:
    return lossless.sigmoid_focal_loss(x, _one_hot(y), reduction="mean")


CLASSIFICATION = (
    Loss("cross_entropy", lossless.cross_entropy, "Softmax, from logits and labels."),
    Loss("nll_loss", _nll, "The same from log_softmax."),
    Loss("categorical_cross_entropy", _categorical, "The same from logits and one-hot labels."),
    Loss("sparse_categorical_cross_entropy", _sparse, "The same from softmax probabilities and labels."),
    Loss(
        "cross_entropy(label_smoothing=0.1)",
        partial(lossless.cross_entropy, label_smoothing=0.1),
        "A tenth of the target over all classes.",
    ),
    Loss("kl_div", _kl, "To that target from log_softmax; less by a constant."),
    Loss("focal_loss", lossless.focal_loss, "Times (1 − p)²: easy rows count less."),
    Loss("binary_cross_entropy_with_logits", _bce_with_logits, "A sigmoid a class, each against the rest."),
    Loss("binary_cross_entropy", _bce, "The same from sigmoid probabilities."),
    Loss("sigmoid_focal_loss", _sigmoid_focal, "Its focal form; alpha 0.25, gamma 2."),
)
REGRESSION = (
    Loss("mse_loss", lossless.mse_loss, "Mean squared error."),
    Loss("rmse_loss", lossless.rmse_loss, "Its root."),
)


def _imbalanced(weight: Any) -> tuple[Loss, ...]:
    return (
        Loss("cross_entropy", lossless.cross_entropy, "Every row counts alike."),
        Loss("focal_loss", lossless.focal_loss, "Easy rows count less."),
        Loss(
            "cross_entropy(weight)",
            partial(lossless.cross_entropy, weight=weight),
            "Each class weighs n / (C n_c).",
        ),
        Loss("focal_loss(alpha)", partial(lossless.focal_loss, alpha=weight), "Both; alpha is that weight."),
    )


def compare(epochs: int, *, progress: Progress | None = None) -> tuple[Comparison, ...]:
    """Train every loss of every task from every seed, for as many steps as `epochs` of all digits have."""
    tasks = (digits(), rare_digits(), diabetes())
    steps = epochs * _batches(tasks[0])
    runs, done, compared = sum(len(t.losses) for t in tasks) * len(SEEDS), 0, []
    with _one_thread():
        for task in tasks:
            trained = []
            for loss in task.losses:
                results = []
                for seed in SEEDS:
                    results.append(_fit(task, loss.call, seed, round(steps / _batches(task))))
                    done += 1
                    if progress is not None:
                        progress(done, runs)
                trained.append(Trained(loss.name, loss.about, mean([r.measures for r in results]), tuple(results)))
            compared.append(Comparison(task.name, task.about, len(task.held_out), tuple(trained)))
    return tuple(compared)


def digits() -> Task:
    """Images of handwritten digits to ten classes, with every classification loss."""
    _, labels, train, held_out = _digits()
    commonest = np.bincount(labels[train]).argmax()
    about = (
        f"{len(train)} images of ten handwritten digits to learn from, {len(held_out)} held out; always answering "
        f"{commonest} has accuracy {np.mean(labels[held_out] == commonest):.4f}."
    )
    return _classification("digits", about, train, CLASSIFICATION, rare=())


def rare_digits() -> Task:
    """The same with few examples of half the digits, with and without class weights."""
    _, labels, train, held_out = _digits()
    kept = np.isin(labels[train], RARE, invert=True)
    for digit in RARE:
        kept[np.flatnonzero(labels[train] == digit)[::_KEPT]] = True
    train = train[kept]
    support = np.bincount(labels[train], minlength=_CLASSES)
    weight = torch.tensor(len(train) / (_CLASSES * support), dtype=torch.float32)
    about = (
        f"The digits {RARE[0]} to {RARE[-1]} keep one training image in {_KEPT}: {support[list(RARE)].sum()} of "
        f"{len(train)}. The held-out images stay as they are, {np.isin(labels[held_out], RARE).sum()} of "
        f"{len(held_out)} of them of rare digits."
    )
    return _classification("rare digits", about, train, _imbalanced(weight), rare=RARE)


def diabetes() -> Task:
    """Progression of diabetes after a year from ten measurements, with either regression loss."""
    features, progression = load_diabetes(return_X_y=True)
    train, held_out = _split(len(progression))
    center, spread = progression[train].mean(), progression[train].std()
    x = torch.tensor((features - features[train].mean(0)) / features[train].std(0), dtype=torch.float32)
    y = torch.tensor((progression - center) / spread, dtype=torch.float32)[:, None]

    def rmse(predicted: Any) -> float:
        """In the units of the data."""
        return float(lossless.rmse_loss(predicted.double() * spread, y[held_out].double() * spread))

    return Task(
        name="diabetes",
        about=f"{len(train)} patients to learn from, {len(held_out)} held out; the target is standardised. "
        f"Always answering the mean has RMSE {rmse(torch.zeros(len(held_out), 1)):.2f}.",
        x=x,
        y=y,
        train=train,
        held_out=held_out,
        model=lambda: torch.nn.Sequential(torch.nn.Linear(10, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1)),
        losses=REGRESSION,
        curve=rmse,
        measure=lambda predicted: Measures(rmse=rmse(predicted)),
    )


@cache
def _digits() -> tuple[Any, Any, Any, Any]:
    """Images, labels, rows to learn from, rows held out."""
    images, labels = load_digits(return_X_y=True)
    return images, labels, *_split(len(labels))


def _classification(name: str, about: str, train: Any, losses: tuple[Loss, ...], *, rare: tuple[int, ...]) -> Task:
    images, labels, _, held_out = _digits()
    x, y = torch.tensor(images / 16.0, dtype=torch.float32), torch.tensor(labels)

    def nll(scores: Any) -> float:
        return float(lossless.cross_entropy(scores.double(), y[held_out]))

    def measure(scores: Any) -> Measures:
        rows = score_rows(0, np.arange(len(held_out)), scores.double().numpy(), labels[held_out], Kind.LOGITS)
        accuracy, calibration, classes = Accuracy(), Calibration(), PerClass(_CLASSES)
        for accumulator in (accuracy, calibration, classes):
            accumulator.update(rows)
        recall = {c.index: c.recall for c in classes.result()}
        return Measures(
            accuracy=accuracy.result(),
            macro_recall=float(np.mean(list(recall.values()))),
            rare_recall=float(np.mean([recall[c] for c in rare])) if rare else float("nan"),
            nll=nll(scores),
            calibration_error=calibration.result().error,
        )

    return Task(
        name=name,
        about=about,
        x=x,
        y=y,
        train=train,
        held_out=held_out,
        model=lambda: torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, _CLASSES)),
        losses=losses,
        curve=nll,
        measure=measure,
    )


def _split(rows: int) -> tuple[Any, Any]:
    """A fifth of the rows held out, the same on every machine."""
    order = np.random.default_rng(0).permutation(rows)
    return order[rows // 5 :], order[: rows // 5]


def _batches(task: Task) -> int:
    """In an epoch."""
    return len(task.train) // _BATCH


def _fit(task: Task, loss: Callable[[Any, Any], Any], seed: int, epochs: int) -> Run:
    """Adam over shuffled batches: its steps do not depend on a loss's scale, so none has an advantage by that."""
    x, y, train, held_out = task.x, task.y, task.train, task.held_out
    torch.manual_seed(seed)
    model = task.model()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    shuffle = np.random.default_rng(seed)
    history = []
    for epoch in range(1, epochs + 1):
        for batch in np.array_split(shuffle.permutation(train), _batches(task)):
            optimizer.zero_grad()
            loss(model(x[batch]), y[batch]).backward()
            optimizer.step()
        with torch.no_grad():
            fitted, scores = float(loss(model(x[train]), y[train])), model(x[held_out])
            history.append(Epoch(epoch, fitted, task.curve(scores)))
    return Run(seed, task.measure(scores), tuple(history))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Batches this small only wait for a second thread: 1.7 s against 10 on two busy cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
