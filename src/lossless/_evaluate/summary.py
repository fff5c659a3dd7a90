"""An evaluation in short: its headline figures, what is wrong, and what to know, in a terminal and in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lossless._diagnose import notebook
from lossless._diagnose.finding import Findings

from .text import enumerated, printable

if TYPE_CHECKING:
    from .results import Evaluation, Source


def subject(source: Source) -> str:
    """The files, as many as fit in a line."""
    return printable(enumerated(source.files[:3]) + (", ..." if len(source.files) > 3 else ""))


def text(e: Evaluation) -> str:
    """For a terminal."""
    headline = e.headline()
    width = max(len(figure.name) for figure in headline)
    figures = (f"  {f.name:{width}}  {f.value:<12.6g}  {f.meaning}" for f in headline)
    findings = (f"  {finding.severity}: {finding.name}" for finding in Findings(e.findings, ""))
    return "\n".join([_head(e), *figures, *findings, *(f"  note: {printable(note)}" for note in e.notes)])


def html(e: Evaluation) -> str:
    """For a notebook."""
    figures = [(f.name, f"{f.value:.6g}", f.meaning) for f in e.headline()]
    parts = [notebook.heading(_head(e)), notebook.table(("figure", "value", "meaning"), figures, numbers={1})]
    if e.findings:
        parts.append(Findings(e.findings, "Findings")._repr_html_())
    if e.notes:
        parts.append(notebook.table(("note",), ([printable(note)] for note in e.notes)))
    return "".join(parts)


def _head(e: Evaluation) -> str:
    source = e.source
    return f"Evaluation of {subject(source)}: {source.task}, {e.rows} of {source.rows} rows, {source.width()}"
