"""What the page says, as plain data: nothing here knows HTML, and tests read it without parsing any."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from lossless import __version__
from lossless._diagnose.finding import Finding, Findings
from lossless._evaluate import Evaluation, results
from lossless._evaluate.accumulators import CalibrationBin, HistogramBin
from lossless._evaluate.intervals import Interval
from lossless._evaluate.text import enumerated

ROWS = 500  # of a table on the page; the JSON output has all
FOOTER = (
    f"Written by lossless {__version__}. Losses of probabilities are natural logarithms (nats), computed in float64 "
    "without cancellation; every mean is exact before its one rounding."
)


@dataclass(frozen=True)
class Figure:
    """A headline number."""

    name: str
    value: str
    meaning: str


@dataclass(frozen=True)
class Table:
    """A table; `numeric` columns are set right."""

    title: str
    caption: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]
    footer: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Series:
    """One line of a curve; its name may have several lines."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Curve:
    """Lines over a common x axis, such as the loss of a training run by epoch."""

    title: str
    caption: str
    x: str
    y: str
    series: tuple[Series, ...]
    log_y: bool = True


@dataclass(frozen=True)
class Reliability:
    """How often rows of a confidence are right, over how many there are."""

    title: str
    caption: str
    bins: tuple[CalibrationBin, ...]
    x: str = "confidence"
    y: str = "accuracy"
    counted: str = "rows"


@dataclass(frozen=True)
class LossBin:
    """A bar of the loss histogram."""

    low: float
    high: float
    count: int
    below_float32: bool
    label: str


@dataclass(frozen=True)
class Losses:
    """How many rows have which loss."""

    title: str
    caption: str
    bins: tuple[LossBin, ...]


@dataclass(frozen=True)
class Histogram:
    """How many rows have which value, in bars of one width."""

    title: str
    caption: str
    x: str
    bins: tuple[HistogramBin, ...]


@dataclass(frozen=True)
class Scatter:
    """One point a row, over a line at y = 0."""

    title: str
    caption: str
    x: str
    y: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Heat:
    """Counts by row and column, each a share of its row."""

    title: str
    caption: str
    row: str
    column: str
    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


Chart = Reliability | Losses | Histogram | Scatter | Heat | Curve


@dataclass(frozen=True)
class Panel:
    """A part of the page: a few sentences and points, figures, charts and tables. A title is one for all of them."""

    title: str = ""
    text: str = ""
    figures: tuple[Figure, ...] = ()
    charts: tuple[Chart, ...] = ()
    points: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Page:
    """A page from top to bottom."""

    title: str
    subtitle: str
    findings: tuple[Finding, ...]  # gravest first
    notes: tuple[str, ...]
    figures: tuple[Figure, ...]
    panels: tuple[Panel, ...]
    footer: str
    generator: str  # the command that wrote the page


def number(value: float) -> str:
    """Six significant digits; a dash for what is undefined."""
    return "-" if math.isnan(value) else f"{value:.6g}"


def share(value: float) -> str:
    """Four decimals."""
    return "-" if math.isnan(value) else f"{value:.4f}"


def count(value: int) -> str:
    """Thousands set apart."""
    return f"{value:,}"


def interval_text(interval: Interval | None) -> str:
    """Four digits of each end; a dash where none is defined, nothing where there is none."""
    if interval is None:
        return ""
    return "-" if math.isnan(interval.low) else f"{interval.low:.4g} to {interval.high:.4g}"


def exactness(figure: results.Figure) -> str:
    """How far the figure may be off; nothing if it is exact."""
    return f"; exact to {figure.bound:.1g}" if figure.bound > 0 else ""


def listed(shown: int, all_of_them: int, what: str) -> str:
    """The sentence of a caption on rows that its table leaves out; nothing if it has all."""
    if shown >= all_of_them:
        return ""
    return f" {count(shown)} of {count(all_of_them)} {what} are listed; the JSON output has all."


def card(figure: results.Figure) -> Figure:
    """A headline number with its meaning and what is known of its uncertainty."""
    between = "" if figure.interval is None else f"; 95 % interval {interval_text(figure.interval)}"
    return Figure(figure.title, number(figure.value), figure.meaning + between + exactness(figure))


def page_of(
    e: Evaluation,
    panels: Sequence[Panel],
    *,
    title: str | None = None,
    generator: str = "lossless evaluate",
) -> Page:
    """The page of an evaluation, which consists of `panels` below its headline figures."""
    source = e.source
    rows = f"{count(e.rows)} rows" if e.rows == source.rows else f"{count(e.rows)} of {count(source.rows)} rows"
    return Page(
        title=title or enumerated(source.files),
        subtitle=(
            f"{rows}, {source.width()}, {source.task} ({source.task_reason}). Column “{source.scores}” read as "
            f"{source.kind} ({source.kind_reason}), labels from “{source.label}”."
        ),
        findings=tuple(Findings(e.findings, "")),
        notes=e.notes,
        figures=tuple(card(figure) for figure in e.headline()),
        panels=tuple(panels),
        footer=FOOTER,
        generator=generator,
    )
