"""What is said of slices, whatever the task."""

from __future__ import annotations

from lossless._evaluate import Evaluation
from lossless._evaluate.slices import Slicing

from .data import Table, count, listed, number


def slice_tables(e: Evaluation, most: int) -> list[Table]:
    """The first `most` slices of each column."""
    return [_table(slicing, most) for slicing in e.slices]


def _table(slicing: Slicing, most: int) -> Table:
    caption = f"The rows of each value of “{slicing.column}”, the largest mean loss first."
    if any(s.worse for s in slicing.slices):
        caption += " Worse are those that differ from all other rows by more than chance allows."
    caption += listed(most, len(slicing.slices), "slices")
    figures = list(slicing.slices[0].figures)
    return Table(
        title="Slices",
        caption=caption,
        columns=(slicing.column, "rows", *(name.replace("_", " ") for name in figures), ""),
        numeric=(False, True, *(True for _ in figures), False),
        rows=tuple(
            (s.name, count(s.rows), *(number(s.figures[name]) for name in figures), "worse" if s.worse else "")
            for s in slicing.slices[:most]
        ),
    )
