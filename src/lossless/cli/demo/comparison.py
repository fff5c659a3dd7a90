"""What the training runs of part (a) say about the losses: the figures, and the words, table and curve made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

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


METHOD = (
    "Rows differ in the loss alone: the same network from the same starts, the same batches in the same order, and "
    "Adam, whose steps do not depend on a loss's scale. Figures are means over the starts, measured on held-out rows."
)


def verdicts(comparisons: Sequence[Comparison]) -> list[str]:
    """What the data are and which loss did better on them, as measured."""
    digits, rare, diabetes = comparisons
    lowest = min(t.mean.nll for t in digits.losses)
    highest = max(t.mean.accuracy for t in digits.losses)
    return [
        f"digits: {digits.about} Lowest NLL, {lowest:.4f}: {_names(digits, lambda m: m.nll <= lowest * (1 + _SAME))}. "
        f"Highest accuracy, {highest:.4f}: {_names(digits, lambda m: m.accuracy == highest)}; one image is "
        f"{1 / digits.held_out:.4f}.",
        f"rare digits: {rare.about} {_duel(rare, 'focal_loss', 'cross_entropy', 'rare recall')} "
        f"{_duel(rare, 'focal_loss, alpha', 'cross_entropy, weight', 'rare recall')}",
        f"diabetes: {diabetes.about} {_duel(diabetes, 'rmse_loss', 'mse_loss', 'RMSE')}",
    ]


def _names(comparison: Comparison, among: Callable[[Measures], bool]) -> str:
    *most, last = [t.loss for t in comparison.losses if among(t.mean)]
    return f"{', '.join(most)} and {last}" if most else last


def _duel(comparison: Comparison, one: str, other: str, measure: str) -> str:
    """Which of two losses did better, and in how many of the runs."""
    name, sign = {"rare recall": ("rare_recall", 1), "RMSE": ("rmse", -1)}[measure]
    a, b = comparison[one], comparison[other]
    x, y = getattr(a.mean, name), getattr(b.mean, name)
    better = a if sign * (x - y) > 0 else b
    pairs = [(getattr(p.measures, name), getattr(q.measures, name)) for p, q in zip(a.runs, b.runs, strict=True)]
    wins = sum(sign * (p - q) > 0 if better is a else sign * (q - p) > 0 for p, q in pairs)
    verdict = "no difference" if x == y else f"({better.loss}) was better, in {wins} of {len(pairs)} runs"
    return f"{measure[0].upper()}{measure[1:]} is {x:.4f} with ({one}) and {y:.4f} with ({other}): {verdict}."


def table(comparisons: Sequence[Comparison]) -> Table:
    """All losses by all measures."""
    return Table(
        title="Held-out figures by loss",
        caption="NLL and ECE (expected calibration error) are of the softmax of the logits, also where the loss saw "
        "sigmoids: of sigmoids of which exactly one is on, it is the distribution. Macro recall is the mean over all "
        "classes, rare recall over the rare ones; RMSE is in the units of the data.",
        columns=("data", "loss", "what it is", "accuracy", "macro recall", "rare recall", "NLL", "ECE", "RMSE"),
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
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


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
        METHOD,
        points=tuple(verdicts(comparisons)),
        tables=(table(comparisons),),
        curves=(
            Curve(
                title="Digits: held-out NLL while training",
                caption="Losses that are the same function in other clothes agree to a thousandth at every epoch, and "
                "share a line.",
                x="epoch",
                y="held-out NLL (nats)",
                series=tuple(Series(" = ".join(names), points) for names, points in lines),
            ),
        ),
    )
