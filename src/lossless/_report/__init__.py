"""Evaluation -> one self-contained HTML page. `data` has what a page consists of, one file a task what is said of it,
and `page.render` draws it.

The terminal prints the tables too, so `page`, with all that it needs for drawing, is imported by itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from lossless._evaluate import Comparison, Evaluation
from lossless._evaluate.tasks.multiclass import ClassEvaluation
from lossless._evaluate.tasks.multilabel import MultilabelEvaluation
from lossless._evaluate.tasks.regression import RegressionEvaluation
from lossless._files import write_text
from lossless.errors import MissingExtraError, ParameterError

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
    "renderer",
    "save_page",
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


def save_page(result: Evaluation | Comparison, path: str | os.PathLike[str]) -> None:
    """Write what `evaluate` or `compare` found as one HTML page: charts with tooltips, tables that sort by their heads.

    The page needs no network and no other file, and loads nothing. It is what `lossless evaluate --out` writes.

    Args:
        result: an `Evaluation`, or a `Comparison`.
        path: the file. One that is there is replaced when the page is complete, so it is never half written.

    Returns:
        None.

    Raises:
        ParameterError: a ValueError; `result` is neither.
        MissingExtraError: an ImportError; a package that draws the page is not installed.
        OSError: the file cannot be written.

    Edges:
        Tables have 500 rows at most, those that matter most; `to_json()` has all. Whatever text comes from the data is
        escaped.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from lossless import evaluate
        >>> folder = tempfile.mkdtemp()
        >>> np.savez(folder + "/pets.npz", logits=[[2.0, 0.0], [0.0, 1.0]], label=[0, 0])
        >>> save_page(evaluate(folder + "/pets.npz"), folder + "/report.html")
        >>> with open(folder + "/report.html", encoding="utf-8") as page:
        ...     page.read(15)
        '<!DOCTYPE html>'
    """
    if not isinstance(result, Evaluation | Comparison):
        raise ParameterError(
            f"save_page: result got {type(result).__name__}, expected an Evaluation or a Comparison, as evaluate, "
            "compare and Evaluator.result give them"
        )
    page = build_comparison_page(result) if isinstance(result, Comparison) else build_page(result)
    write_text(path, renderer()(page))


def renderer() -> Callable[[Page], str]:
    """What draws a page as HTML; raises if a package that it needs is not installed."""
    try:
        from .page import render
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or "altair", "evaluate") from None
    return render
