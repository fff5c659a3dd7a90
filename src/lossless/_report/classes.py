"""What is said of a class, whether or not the classes exclude one another."""

from __future__ import annotations

from lossless._evaluate.accumulators import ClassFigures
from lossless._evaluate.results import Source
from lossless._evaluate.tasks.multiclass import Average
from lossless._evaluate.tasks.multilabel import MarkAverage, MarkFigures

from .data import count, share

CLASS_COLUMNS = ("class", "precision", "recall", "F1", "support", "predicted")


def class_cells(source: Source, c: ClassFigures | MarkFigures) -> tuple[str, ...]:
    """What stands in `CLASS_COLUMNS`."""
    return (source.class_name(c.index), *_shares(c), count(c.support), count(c.predicted))


def average_cells(name: str, average: Average | MarkAverage) -> tuple[str, ...]:
    """What stands in the columns up to F1."""
    return (f"{name} average", *_shares(average))


def _shares(of: ClassFigures | MarkFigures | Average | MarkAverage) -> tuple[str, ...]:
    return share(of.precision), share(of.recall), share(of.f1)
