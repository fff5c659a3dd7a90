"""Tables for notebooks, whose own style sheet gives them its colours, light or dark."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from html import escape
from itertools import starmap


def table(titles: Iterable[str], rows: Iterable[Iterable[str]], *, numbers: Collection[int] = ()) -> str:
    """A table of text, which is escaped; the columns `numbers` are set right."""

    def line(tag: str, cells: Iterable[str]) -> str:
        def cell(column: int, text: str) -> str:
            side = "right" if column in numbers else "left"
            return f'<{tag} style="text-align: {side}">{escape(text)}</{tag}>'

        return f"<tr>{''.join(starmap(cell, enumerate(cells)))}</tr>"

    return f"<table>{line('th', titles)}{''.join(line('td', row) for row in rows)}</table>"


def heading(text: str) -> str:
    """The line above a table."""
    return f"<p><b>{escape(text)}</b></p>"
