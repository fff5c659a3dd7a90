"""Evaluation -> one self-contained HTML page. `data` decides what is said, and `page.render` draws it.

The terminal prints the tables of `data` too, so `page`, with all that it needs for drawing, is imported by itself.
"""

from .data import (
    Curve,
    Figure,
    Page,
    Panel,
    Series,
    Table,
    build_page,
    class_table,
    confused_table,
    interval_text,
    slice_table,
    surprising_table,
)

__all__ = [
    "Curve",
    "Figure",
    "Page",
    "Panel",
    "Series",
    "Table",
    "build_page",
    "class_table",
    "confused_table",
    "interval_text",
    "slice_table",
    "surprising_table",
]
