"""An evaluation in short: its headline figures, what is wrong, and what to know, in a terminal and in a notebook."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lossless._diagnose import notebook
from lossless._diagnose.finding import Findings

from .text import enumerated, printable

if TYPE_CHECKING:
    from .results import Evaluation, Source

HEADLINE = {
    "nll": "nats, mean -log p of the true class (the cross-entropy loss)",
    "accuracy": "largest score is the true class",
    "confidence": "mean probability of the predicted class",
    "calibration_error": "expected |accuracy - confidence|",
    "brier": "squared error of the probabilities, summed over classes",
    "entropy": "nats, mean over rows",
}
"The figures that say most, by their names in an `Evaluation`."


def subject(source: Source) -> str:
    """The files, as many as fit in a line."""
    return printable(enumerated(source.files[:3]) + (", ..." if len(source.files) > 3 else ""))


def text(e: Evaluation) -> str:
    """For a terminal."""
    width = max(map(len, HEADLINE))
    figures = (f"  {name:{width}}  {getattr(e, name):<12.6g}  {meaning}" for name, meaning in HEADLINE.items())
    findings = (f"  {finding.severity}: {finding.name}" for finding in Findings(e.findings, ""))
    return "\n".join([_head(e), *figures, *findings, *(f"  note: {printable(note)}" for note in e.notes)])


def html(e: Evaluation) -> str:
    """For a notebook."""
    figures = [(name, f"{getattr(e, name):.6g}", meaning) for name, meaning in HEADLINE.items()]
    parts = [notebook.heading(_head(e)), notebook.table(("figure", "value", "meaning"), figures, numbers={1})]
    if e.findings:
        parts.append(Findings(e.findings, "Findings")._repr_html_())
    if e.notes:
        parts.append(notebook.table(("note",), ([printable(note)] for note in e.notes)))
    return "".join(parts)


def _head(e: Evaluation) -> str:
    return f"Evaluation of {subject(e.source)}: {e.rows} of {e.source.rows} rows, {e.source.classes} classes"
