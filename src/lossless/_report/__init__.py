"""Evaluation -> one self-contained HTML page. `build_page` decides what is said, `render` draws it."""

from .data import Curve, Figure, Page, Panel, Series, build_page
from .page import render

__all__ = ["Curve", "Figure", "Page", "Panel", "Series", "build_page", "render"]
