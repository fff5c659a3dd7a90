"""Comparison -> the page and the tables of two models side by side."""

from __future__ import annotations

import math

from lossless._diagnose.finding import Findings
from lossless._evaluate import Comparison
from lossless._evaluate.comparison import interval, signed
from lossless._evaluate.summary import subject
from lossless._evaluate.tasks.multiclass import ClassEvaluation

from .data import FOOTER, Curve, Figure, Page, Panel, Series, Table, count, number, share


def build_comparison_page(comparison: Comparison) -> Page:
    """The page of a comparison."""
    c, different = comparison, different_table(comparison, len(comparison.different))
    return Page(
        title="Two models on the same rows",
        subtitle=f"A is {subject(c.a.source)}, and B is {subject(c.b.source)}. {count(c.rows)} rows, "
        f"{count(c.a.source.classes)} classes.",
        findings=tuple(Findings(c.findings, "")),
        notes=(*c.notes, *(f"{name}: {note}" for name, e in (("A", c.a), ("B", c.b)) for note in e.notes)),
        figures=_headline(c),
        panels=(
            Panel("Side by side", tables=(figures_table(c), agreement_table(c))),
            Panel(charts=(_reliability(c),)),
            *([] if different is None else [Panel(tables=(different,))]),
        ),
        footer=FOOTER,
        generator="lossless evaluate",
    )


def _headline(c: Comparison) -> tuple[Figure, ...]:
    """What B has more of the figures that matter most, and whether it may be chance."""
    found = []
    for name in ("nll", "accuracy", "brier", "calibration_error"):
        f, (title, _) = c.figures[name], ClassEvaluation.FIGURES[name]
        between = "" if math.isnan(f.low) else f"; 95 % interval {interval(f)}"
        found.append(Figure(title, signed(f.difference, 4), f"B − A, from {f.a:.4g} to {f.b:.4g}{between}"))
    return tuple(found)


def figures_table(c: Comparison) -> Table:
    """The headline figures of both."""
    return Table(
        title="Figures",
        caption="The interval is that of the mean difference of the rows, for rows drawn independently. Where it "
        "leaves out 0, chance alone hardly explains the difference. The calibration error is no mean over rows, and "
        "has none.",
        columns=("figure", "A", "B", "B − A", "95 % interval", "meaning"),
        numeric=(False, True, True, True, True, False),
        rows=tuple(
            (name, number(f.a), number(f.b), signed(f.difference), interval(f), ClassEvaluation.FIGURES[name][1])
            for name, f in c.figures.items()
        ),
    )


def agreement_table(c: Comparison) -> Table:
    """Which rows the models get right."""
    rows = (
        ("A is right", c.both_right, c.only_a),
        ("A is wrong", c.only_b, c.both_wrong),
    )
    return Table(
        title="Agreement",
        caption=f"{c.sentence()}.",
        columns=("", "B is right", "B is wrong"),
        numeric=(False, True, True),
        rows=tuple((name, count(right), count(wrong)) for name, right, wrong in rows),
    )


def different_table(c: Comparison, most: int) -> Table | None:
    """The first `most` of the rows whose losses differ most."""
    if not c.different:
        return None
    files = len(c.a.source.files) > 1 or len(c.b.source.files) > 1
    name = c.a.source.class_name
    return Table(
        title="Rows that differ most",
        caption="The rows whose losses are furthest apart. Rows count from 0.",
        columns=(
            *(("file of A", "row", "file of B", "row") if files else ("row",)),
            *("label", "A predicts", "B predicts", "loss of A", "loss of B", "B − A"),
        ),
        numeric=(*((False, True, False, True) if files else (True,)), False, False, False, True, True, True),
        rows=tuple(
            (
                *((r.file_a, str(r.row_a), r.file_b, str(r.row_b)) if files else (str(r.row_a),)),
                name(r.label),
                name(r.predicted_a),
                name(r.predicted_b),
                number(r.nll_a),
                number(r.nll_b),
                signed(r.nll_b - r.nll_a),
            )
            for r in c.different[:most]
        ),
    )


def _reliability(c: Comparison) -> Curve:
    def series(name: str, e: ClassEvaluation) -> Series:
        return Series(name, tuple((b.confidence, b.accuracy) for b in e.reliability if b.count))

    error, as_it_says = c.figures["calibration_error"], Series("as it says", ((0.0, 0.0), (1.0, 1.0)))
    lines = series("A", c.a), series("B", c.b), as_it_says
    return Curve(
        title="Reliability",
        caption="Of the rows predicted with a confidence, how many were right, in 15 bins. On the diagonal a model "
        "means what it says; below it is over-confident. Expected calibration error: "
        f"A {share(error.a)}, B {share(error.b)}.",
        x="confidence",
        y="accuracy",
        series=lines,
        log_y=False,
    )
