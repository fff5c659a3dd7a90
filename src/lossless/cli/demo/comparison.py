"""What the training runs of part (a) say about the losses: the figures, and the words, table and curve made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from operator import gt, lt

from lossless._report import Curve, Panel, Series, Table

_SAME = 1e-3  # relative: curves closer than this are drawn as one line


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


def method(comparisons: Sequence[Comparison]) -> str:
    """How the figures came about."""
    return (
        f"Rows differ in the loss alone: the same network from the same {len(comparisons[0].losses[0].runs)} starts, "
        "the same batches in the same order, as many steps, and Adam, whose steps do not depend on a loss's scale. "
        "Nothing is tuned for any of them. Figures are means over the starts, measured on held-out rows."
    )


def verdicts(comparisons: Sequence[Comparison]) -> list[str]:
    """What the data are and which loss did better on them, as measured."""
    digits, rare, diabetes = comparisons
    means = [t.mean for t in digits.losses]
    nll, error = min(m.nll for m in means), min(m.calibration_error for m in means)
    accuracy = max(m.accuracy for m in means)
    plain = _duel(rare, "focal_loss", "cross_entropy", "rare_recall", gt)
    weighted = _duel(rare, "focal_loss(alpha)", "cross_entropy(weight)", "rare_recall", gt)
    return [
        f"Digits: {digits.about} Lowest NLL, {nll:.4f}: {_names(digits, lambda m: m.nll <= nll * (1 + _SAME))}. "
        f"Lowest ECE, {error:.4f}: {_names(digits, lambda m: m.calibration_error <= error * (1 + _SAME))}. "
        f"Highest accuracy, {accuracy:.4f}: {_names(digits, lambda m: m.accuracy == accuracy)}; one image is "
        f"{1 / digits.held_out:.4f}.",
        f"Rare digits: {rare.about} Rare recall: {plain}. With class weights: {weighted}.",
        f"Diabetes: {diabetes.about} RMSE: {_duel(diabetes, 'rmse_loss', 'mse_loss', 'rmse', lt)}.",
    ]


def _names(comparison: Comparison, among: Callable[[Measures], bool]) -> str:
    *most, last = [t.loss for t in comparison.losses if among(t.mean)]
    return f"{', '.join(most)} and {last}" if most else last


def _duel(comparison: Comparison, one: str, other: str, measure: str, better: Callable[[float, float], bool]) -> str:
    """Which of two losses did better; a winner is one that won every run."""
    a, b = comparison[one], comparison[other]
    pairs = [(getattr(p.measures, measure), getattr(q.measures, measure)) for p, q in zip(a.runs, b.runs, strict=True)]
    won, lost = sum(better(x, y) for x, y in pairs), sum(better(y, x) for x, y in pairs)
    figures = f"{one} {getattr(a.mean, measure):.4f}, {other} {getattr(b.mean, measure):.4f}; "
    if len(pairs) in (won, lost):
        return f"{figures}{one if won else other} was better in every run"
    return f"{figures}neither was better in every run ({one} in {won} of {len(pairs)}, {other} in {lost})"


def table(comparisons: Sequence[Comparison]) -> Table:
    """All losses by all measures."""
    return Table(
        title="Held-out figures by loss",
        caption="Recall is the mean over all classes (macro), rare that over the rare ones. NLL (by "
        "lossless.cross_entropy) and ECE, the expected calibration error, are of the softmax of the logits for every "
        "loss: where independent sigmoids were trained, that is their distribution given that exactly one is on. RMSE "
        "(by lossless.rmse_loss) is in the units of the data.",
        columns=("data", "loss", "what it is", "accuracy", "recall", "rare", "NLL", "ECE", "RMSE"),
        numeric=(False, False, False, True, True, True, True, True, True),
        rows=tuple(
            (
                c.name,
                t.loss,
                t.about,
                *(_decimals(getattr(t.mean, f.name), 2 if f.name == "rmse" else 4) for f in fields(Measures)),
            )
            for c in comparisons
            for t in c.losses
        ),
    )


def _decimals(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"


def panel(comparisons: Sequence[Comparison]) -> Panel:
    """For the page."""
    lines: list[tuple[list[str], tuple[tuple[int, float], ...]]] = []
    for loss in comparisons[0].losses:
        points = loss.curve()
        for names, drawn in lines:
            if all(math.isclose(a, b, rel_tol=_SAME) for (_, a), (_, b) in zip(points, drawn, strict=True)):
                names.append(loss.loss)
                break
        else:
            lines.append(([loss.loss], points))
    return Panel(
        "Losses compared",
        method(comparisons),
        points=tuple(verdicts(comparisons)),
        tables=(table(comparisons),),
        charts=(
            Curve(
                title="Digits: held-out NLL while training",
                caption="Losses whose figures agree to a thousandth at every epoch share a line: they are one "
                "function, written differently or shifted by a constant.",
                x="epoch",
                y="held-out NLL (nats)",
                series=tuple(Series("\n= ".join(names), points) for names, points in lines),
            ),
        ),
    )
