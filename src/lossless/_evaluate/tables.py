"""A table of text, which commands print and pages show."""

from __future__ import annotations

from typing import NamedTuple


class Table(NamedTuple):
    """Columns and rows of text; the first `names` columns are not numbers."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    names: int


def section(table: Table) -> str:
    """The table in Markdown, under its title."""
    rule = ["---" if i < table.names else "---:" for i in range(len(table.columns))]
    lines = ("| " + " | ".join(row) + " |" for row in (table.columns, rule, *table.rows))
    return f"## {table.title}\n\n" + "\n".join(lines)
