"""The rows of largest loss, whatever the task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lossless._evaluate import Evaluation

from .data import Table

Column = tuple[str, bool, Callable[[Any], str]]
"""Its name, whether it is numeric, and what it says of a row."""


def row_table(
    e: Evaluation, rows: Sequence[Any], title: str, caption: str, columns: Sequence[Column], most: int
) -> Table | None:
    """The first `most` rows, with the details that any of them has; nothing if there are none."""
    if not rows:
        return None
    details = list(dict.fromkeys(name for r in rows for name in r.details))
    file: list[Column] = [("file", False, lambda r: r.file)] if len(e.source.files) > 1 else []
    every: list[Column] = [("row", True, lambda r: str(r.row)), *file, *columns]
    return Table(
        title=title,
        caption=f"{caption} Rows count from 0.",
        columns=(*(name for name, _, _ in every), *details),
        numeric=(*(numeric for _, numeric, _ in every), *(False for _ in details)),
        rows=tuple(
            (*(say(r) for _, _, say in every), *(r.details.get(name, "") for name in details)) for r in rows[:most]
        ),
    )
