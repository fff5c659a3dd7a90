"""Evaluation -> one self-contained HTML page. `data` has what a page consists of, one file a task what is said of it,
and `page.render` draws it.

The terminal prints the tables too, so `page`, with all that it needs for drawing, is imported by itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from lossless._evaluate import Evaluation
from lossless._evaluate.tasks.multiclass import ClassEvaluation
from lossless._evaluate.tasks.multilabel import MultilabelEvaluation
from lossless._evaluate.tasks.regression import RegressionEvaluation

from . import multiclass, multilabel, regression
from .comparison import build_comparison_page, build_comparison_tables
from .data import ROWS, Curve, Figure, Page, Panel, Series, Table, exactness, interval_text, page_of

__all__ = [
    "Curve",
    "Figure",
    "Page",
    "Panel",
    "Series",
    "Table",
    "build_comparison_page",
    "build_comparison_tables",
    "build_page",
    "build_tables",
    "exactness",
    "interval_text",
]


def build_page(
    evaluation: Evaluation,
    *,
    title: str | None = None,
    panels: Sequence[Panel] = (),
    generator: str = "lossless evaluate",
) -> Page:
    """The page of an evaluation, with further `panels` after the first charts."""
    match evaluation:
        case ClassEvaluation():
            parts = multiclass.panels(evaluation, panels, ROWS)
        case MultilabelEvaluation():
            parts = multilabel.panels(evaluation, panels, ROWS)
        case RegressionEvaluation():
            parts = regression.panels(evaluation, panels, ROWS)
        case _:
            raise TypeError(f"build_page: got {type(evaluation).__name__}, expected the evaluation of a task")
    return page_of(evaluation, parts, title=title, generator=generator)


def build_tables(evaluation: Evaluation, *, classes: int, few: int) -> list[Table]:
    """The tables of an evaluation, with so many classes and the first few of other lists."""
    match evaluation:
        case ClassEvaluation():
            return multiclass.tables(evaluation, classes, few)
        case MultilabelEvaluation():
            return multilabel.tables(evaluation, classes, few)
        case RegressionEvaluation():
            return regression.tables(evaluation, classes, few)
        case _:
            raise TypeError(f"build_tables: got {type(evaluation).__name__}, expected the evaluation of a task")
