"""Comparison -> the page and the tables of two models side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lossless._diagnose.finding import Findings
from lossless._evaluate import ClassComparison, Comparison, Evaluation, MultilabelComparison, RegressionComparison
from lossless._evaluate.accumulators import CalibrationBin
from lossless._evaluate.paired import Compared
from lossless._evaluate.side_by_side import ComparedPart, RightComparison, interval, signed
from lossless._evaluate.summary import subject

from .data import FOOTER, ROWS, Curve, Figure, Page, Panel, Series, Table, count, listed, number, share

_HEADLINE = {
    ClassComparison: ("nll", "accuracy", "brier", "calibration_error"),
    MultilabelComparison: ("bce", "exact_match", "micro.f1", "mean_average_precision"),
    RegressionComparison: ("mse", "mae", "bias", "r2"),
}
Column = tuple[str, bool, Callable[[Any], str]]
"""Its name, whether it is numeric, and what it says of a row."""


def build_comparison_page(comparison: Comparison) -> Page:
    """The page of a comparison."""
    c = comparison
    return Page(
        title="Two models on the same rows",
        subtitle=f"A is {subject(c.a.source)}, and B is {subject(c.b.source)}. {count(c.rows)} rows, "
        f"{c.a.source.width()}.",
        findings=tuple(Findings(c.findings, "")),
        notes=(*c.notes, *(f"{name}: {note}" for name, e in (("A", c.a), ("B", c.b)) for note in e.notes)),
        figures=_headline(c),
        panels=(
            Panel("Side by side", tables=(figures_table(c), counts_table(c))),
            Panel(charts=(_chart(c),)),
            *(Panel(tables=(table,)) for table in (part_table(c, ROWS), different_table(c, len(c.different))) if table),
        ),
        footer=FOOTER,
        generator="lossless evaluate",
    )


def build_comparison_tables(comparison: Comparison, *, parts: int, few: int) -> list[Table]:
    """The tables of a comparison, with so many classes or outputs, and the first few rows."""
    c = comparison
    found = (figures_table(c), counts_table(c), part_table(c, parts), different_table(c, few))
    return [table for table in found if table is not None]


def _headline(c: Comparison) -> tuple[Figure, ...]:
    """What B has more of the figures that matter most, and whether it may be chance."""
    found = []
    for name in _HEADLINE[type(c)]:
        f, (title, _) = c.figures[name], c.a.FIGURES[name]
        between = "" if math.isnan(f.low) else f"; 95 % interval {interval(f)}"
        found.append(Figure(title, signed(f.difference, 4), f"B − A, from {f.a:.4g} to {f.b:.4g}{between}"))
    return tuple(found)


def figures_table(c: Comparison) -> Table:
    """The single figures of both."""
    return Table(
        title="Figures",
        caption="The interval is that of the mean difference of the rows, for rows drawn independently. Where it "
        "leaves out 0, chance alone hardly explains the difference. Figures that are no means over rows have none.",
        columns=("figure", "A", "B", "B − A", "95 % interval", "meaning"),
        numeric=(False, True, True, True, True, False),
        rows=tuple(
            (name, number(f.a), number(f.b), signed(f.difference), interval(f), c.a.FIGURES[name][1])
            for name, f in c.figures.items()
        ),
    )


def counts_table(c: Comparison) -> Table:
    """In which rows the models are right, or one is nearer."""
    match c:
        case RightComparison():
            columns: tuple[str, ...] = ("", "B is right", "B is wrong")
            rows: tuple[tuple[str, ...], ...] = (
                ("A is right", count(c.both_right), count(c.only_a)),
                ("A is wrong", count(c.only_b), count(c.both_wrong)),
            )
        case RegressionComparison():
            columns = ("A is nearer", "B is nearer", "both are as near")
            rows = ((count(c.nearer_a), count(c.nearer_b), count(c.equal)),)
        case _:
            raise _unknown(c)
    numeric = tuple(bool(column) for column in columns)
    return Table(title="Agreement", caption=f"{c.sentence()}.", columns=columns, numeric=numeric, rows=rows)


def part_table(c: Comparison, most: int) -> Table | None:
    """The first `most` classes or outputs; nothing where there is one, which is the whole."""
    match c:
        case MultilabelComparison():
            figures = {"bce": "BCE", "f1": "F1", "average_precision": "average precision", "auroc": "AUROC"}
            return _parts("Classes", "class", "classes", c.classes, figures, most)
        case RegressionComparison() if len(c.outputs) > 1:
            figures = {"mse": "MSE", "mae": "MAE", "bias": "bias", "r2": "R²"}
            return _parts("Outputs", "output", "outputs", c.outputs, figures, most)
        case _:
            return None


def _parts(
    title: str, one: str, several: str, parts: Sequence[ComparedPart], figures: Mapping[str, str], most: int
) -> Table:
    """The first of the figures by both models with its interval, and what the others are by B."""
    (loss, loss_title), *others = figures.items()

    def cells(found: Mapping[str, Compared]) -> tuple[str, ...]:
        f = found[loss]
        rest = (cell for name, _ in others for cell in (number(found[name].b), signed(found[name].difference, 4)))
        return number(f.a), number(f.b), signed(f.difference, 4), interval(f), *rest

    return Table(
        title=title,
        caption=f"Each {one} by itself: {loss_title} of both, and of other figures that of B and what it has more than "
        f"A.{listed(most, len(parts), several)}",
        columns=(
            *(one, f"{loss_title} of A", f"{loss_title} of B", "B − A", "95 % interval"),
            *(column for _, title in others for column in (f"{title} of B", "B − A")),
        ),
        numeric=(False, *[True] * (4 + 2 * len(others))),
        rows=tuple((part.name, *cells(part.figures)) for part in parts[:most]),
    )


def different_table(c: Comparison, most: int) -> Table | None:
    """The first `most` of the rows whose losses differ most."""
    if not c.different:
        return None
    columns = _columns(c)
    if len(c.a.source.files) > 1 or len(c.b.source.files) > 1:
        places: list[Column] = [
            ("file of A", False, lambda r: r.file_a),
            ("row", True, lambda r: str(r.row_a)),
            ("file of B", False, lambda r: r.file_b),
            ("row", True, lambda r: str(r.row_b)),
        ]
    else:
        places = [("row", True, lambda r: str(r.row_a))]
    every = [*places, *columns]
    return Table(
        title="Rows that differ most",
        caption="The rows whose losses are furthest apart. Rows count from 0.",
        columns=tuple(name for name, _, _ in every),
        numeric=tuple(numeric for _, numeric, _ in every),
        rows=tuple(tuple(say(r) for _, _, say in every) for r in c.different[:most]),
    )


def _columns(c: Comparison) -> list[Column]:
    """What is said of a row of a task."""
    match c:
        case ClassComparison():
            name = c.a.source.class_name
            return [
                ("label", False, lambda r: name(r.label)),
                ("A predicts", False, lambda r: name(r.predicted_a)),
                ("B predicts", False, lambda r: name(r.predicted_b)),
                *_losses("loss", "nll"),
            ]
        case MultilabelComparison():
            return [
                ("true classes", True, lambda r: str(r.true_classes)),
                ("wrong by A", True, lambda r: str(r.wrong_classes_a)),
                ("wrong by B", True, lambda r: str(r.wrong_classes_b)),
                *_losses("loss", "bce"),
            ]
        case RegressionComparison():
            return [
                ("target", True, lambda r: _numbers(r.target)),
                ("A predicts", True, lambda r: _numbers(r.prediction_a)),
                ("B predicts", True, lambda r: _numbers(r.prediction_b)),
                *_losses("squared error", "squared_error"),
            ]
        case _:
            raise _unknown(c)


def _losses(name: str, field: str) -> list[Column]:
    return [
        (f"{name} of A", True, lambda r: number(getattr(r, f"{field}_a"))),
        (f"{name} of B", True, lambda r: number(getattr(r, f"{field}_b"))),
        ("B − A", True, lambda r: signed(getattr(r, f"{field}_b") - getattr(r, f"{field}_a"))),
    ]


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(map(number, values))


def _chart(c: Comparison) -> Curve:
    """Both models in one chart."""
    if isinstance(c, RegressionComparison):
        return Curve(
            title="Absolute errors",
            caption="The error below which a share of the predictions lies. The lower line is the better model.",
            x="share",
            y="absolute error",
            series=tuple(
                Series(name, tuple((float(share), error) for share, error in e.error_quantiles.items()))
                for name, e in _sides(c)
            ),
            log_y=False,
        )
    error = c.figures["calibration_error"]
    of_classes = isinstance(c, MultilabelComparison)
    return Curve(
        title="Reliability",
        caption=(
            "Of the classes predicted with a probability, how many are true, in 15 bins. On the diagonal a model means "
            "what it says."
            if of_classes
            else "Of the rows predicted with a confidence, how many were right, in 15 bins. On the diagonal a model "
            "means what it says; below it is over-confident."
        )
        + f" Expected calibration error: A {share(error.a)}, B {share(error.b)}.",
        x="probability" if of_classes else "confidence",
        y="share that is true" if of_classes else "accuracy",
        series=(
            *(Series(name, _points(e.reliability)) for name, e in _sides(c)),
            Series("as it says", ((0.0, 0.0), (1.0, 1.0))),
        ),
        log_y=False,
    )


def _points(bins: Sequence[CalibrationBin]) -> tuple[tuple[float, float], ...]:
    return tuple((b.confidence, b.accuracy) for b in bins if b.count)


def _sides(c: Comparison) -> tuple[tuple[str, Any], ...]:
    """The evaluations, each of the kind that its task has."""
    sides: tuple[tuple[str, Evaluation], ...] = (("A", c.a), ("B", c.b))
    return sides


def _unknown(c: Comparison) -> TypeError:
    return TypeError(f"got {type(c).__name__}, expected the comparison of a task")
