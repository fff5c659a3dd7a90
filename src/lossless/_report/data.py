"""What the page says, as plain data: nothing here knows HTML, and tests read it without parsing any."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from lossless import __version__
from lossless._diagnose.finding import Finding, Findings
from lossless._evaluate import Evaluation
from lossless._evaluate.accumulators import BINS_PER_DECADE, CalibrationBin, HistogramBin
from lossless._evaluate.intervals import Interval
from lossless._evaluate.slices import Slicing
from lossless._evaluate.text import enumerated

CLASSES_IN_ORDER = 20  # a table of more classes starts with the worst
CLASS_ROWS = 500  # classes listed on the page; all of them are in the JSON output
CONFUSED_ROWS = 10
_MOST_BARS = 60
# log p rounds to 0 where p = exp(-loss) rounds to 1 in float32: losses below 2^-25.
FLOAT32_LIMIT = 2.0**-25


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
class Panel:
    """A part of the page that its maker adds: a few sentences and points, figures, tables and curves."""

    title: str
    text: str
    figures: tuple[Figure, ...] = ()
    curves: tuple[Curve, ...] = ()
    points: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class LossBin:
    """A bar of the loss histogram."""

    low: float
    high: float
    count: int
    below_float32: bool
    label: str


@dataclass(frozen=True)
class Page:
    """A page from top to bottom."""

    title: str
    subtitle: str
    findings: tuple[Finding, ...]  # gravest first
    notes: tuple[str, ...]
    figures: tuple[Figure, ...]
    panels: tuple[Panel, ...]
    reliability: tuple[CalibrationBin, ...]
    reliability_caption: str
    losses: tuple[LossBin, ...]
    losses_caption: str
    slices: tuple[Table, ...]
    classes: Table
    surprising: Table | None
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


def build_page(
    evaluation: Evaluation,
    *,
    title: str | None = None,
    panels: Sequence[Panel] = (),
    generator: str = "lossless evaluate",
) -> Page:
    """The page of an evaluation, with further `panels` after the headline figures."""
    e, source = evaluation, evaluation.source
    rows = f"{count(e.rows)} rows" if e.rows == source.rows else f"{count(e.rows)} of {count(source.rows)} rows"
    return Page(
        title=title or enumerated(source.files),
        subtitle=(
            f"{rows}, {count(source.classes)} classes. Column “{source.scores}” read as {source.kind} "
            f"({source.kind_reason}), labels from “{source.label}”."
        ),
        findings=tuple(Findings(e.findings, "")),
        notes=e.notes,
        figures=_headline(e),
        panels=(*panels, _confidence(e)),
        reliability=e.reliability,
        reliability_caption=(
            "Of the rows predicted with a confidence, how many were right. On the diagonal the model means what it "
            "says; an orange line shows how far off it is, and below the diagonal it is over-confident. "
            f"Mean confidence {share(e.confidence)}, accuracy {share(e.accuracy)}, expected calibration error "
            f"{share(e.calibration_error)} in {len(e.reliability)} bins."
        ),
        losses=_losses(e.loss_histogram),
        losses_caption=_losses_caption(e),
        slices=tuple(slice_table(slicing, CLASS_ROWS) for slicing in e.slices),
        classes=class_table(e, CLASS_ROWS),
        surprising=surprising_table(e, len(e.surprising)),
        footer=f"Written by lossless {__version__}. Losses are natural logarithms (nats), computed in float64 without "
        "cancellation; every mean is exact before its one rounding.",
        generator=generator,
    )


def _headline(e: Evaluation) -> tuple[Figure, ...]:
    def meaning(text: str, field: str) -> str:
        return f"{text}; 95 % interval {interval_text(e.intervals[field])}"

    bits = f"nats a row (cross-entropy); {number(e.bits)} bits, perplexity {number(e.perplexity)}"
    return (
        Figure("NLL", number(e.nll), meaning(bits, "nll")),
        Figure("Accuracy", share(e.accuracy), meaning("largest score is the true class", "accuracy")),
        Figure("Calibration error", share(e.calibration_error), "expected |accuracy − confidence|"),
        Figure("Confidence", share(e.confidence), meaning("mean probability of the predicted class", "confidence")),
        Figure("Brier", share(e.brier), meaning("squared error of the probabilities, 0 to 2", "brier")),
        Figure("Entropy", number(e.entropy), meaning("nats, mean over rows", "entropy")),
        Figure("Macro F1", share(e.macro.f1), "mean over the classes that occur or are predicted"),
    )


def _confidence(e: Evaluation) -> Panel:
    """Whether the confidence is worth something, and the temperature that would mend it."""
    best, confused = e.temperature, confused_table(e, CONFUSED_ROWS)
    risk = Curve(
        title="Risk and coverage",
        caption="The error rate among the surest rows, by the share of all rows that they are. A confidence that tells "
        "right from wrong starts low and rises at the end.",
        x="coverage",
        y="error rate",
        series=(Series("error rate", e.risk_coverage),),
        log_y=False,
    )
    return Panel(
        title="Confidence",
        text="How well the confidence tells right predictions from wrong ones, and what a temperature would gain: "
        "softmax(logits / T) has the same predictions and another confidence.",
        figures=(
            Figure(
                "AUROC",
                share(e.confidence_auroc),
                f"a right prediction is surer than a wrong one; 95 % interval {interval_text(e.intervals['confidence_auroc'])}",
            ),
            Figure("AURC", share(e.aurc), "error rate of the surest rows, mean over their share"),
            Figure("Adaptive calibration error", share(e.adaptive_calibration_error), "bins of equally many rows"),
            Figure("Largest gap", share(e.max_calibration_error), "|accuracy − confidence| of a bin of the diagram"),
            Figure(
                "Best temperature",
                number(best.value),
                f"95 % interval {interval_text(best.interval)}; NLL {number(best.nll_before)} → {number(best.nll)}, "
                f"calibration error {share(best.calibration_error_before)} → {share(best.calibration_error)} on "
                f"{count(best.rows)} rows",
            ),
        ),
        curves=(risk,),
        tables=(confused,) if confused else (),
    )


def _losses(histogram: Sequence[HistogramBin]) -> tuple[LossBin, ...]:
    """The bins from the first to the last that hold rows, joined to half decades where they are many."""
    held = [i for i, b in enumerate(histogram) if b.count]
    width = 1 if held[-1] - held[0] < _MOST_BARS else BINS_PER_DECADE // 2
    # The first bin is open, so bins 1 + k * width begin a half decade.
    starts = [0, *range(1, len(histogram) - 1, width), len(histogram) - 1]
    bins = []
    for start, stop in pairwise([*starts, len(histogram)]):
        if start <= held[-1] and stop > held[0]:
            group = histogram[start:stop]
            bins.append(_loss_bin(group[0].low, group[-1].high, sum(b.count for b in group), width))
    return tuple(bins)


def _loss_bin(low: float, high: float, rows: int, width: int) -> LossBin:
    """A bar; the open bins are drawn as wide as the others."""
    ratio = 10.0 ** (width / BINS_PER_DECADE)
    below = high <= FLOAT32_LIMIT
    if low == 0.0:
        return LossBin(high / ratio, high, rows, below, f"under {high:.2g}")
    if math.isinf(high):
        return LossBin(low, low * ratio, rows, below, f"{low:.2g} or more")
    return LossBin(low, high, rows, below, f"{low:.2g} to {high:.2g}")


def _losses_caption(e: Evaluation) -> str:
    lost = [b for b in e.loss_histogram if b.high <= FLOAT32_LIMIT]
    below = sum(b.count for b in lost)
    text = (
        "How many rows have which loss. The height of a bar is the square root of its rows, so that few are seen too."
    )
    if below:
        text += (
            f" {count(below)} rows ({below / e.rows:.1%}) lie below {lost[-1].high:.2g}, where −log(softmax(x)) in "
            "float32 is exactly 0: the loss and its gradient vanish there, the figures on this page do not."
        )
    return text


def class_table(e: Evaluation, most: int) -> Table:
    """At most `most` classes: all in order if they are few, else the worst first."""
    listed = e.classes if len(e.classes) <= CLASSES_IN_ORDER else e.worst_classes()[:most]
    caption = "Support counts the rows of a class, predicted the rows given to it; the mean loss is over its own rows,"
    caption += " and its macro average over the classes that have any."
    if len(e.classes) > CLASSES_IN_ORDER:
        caption += " Lowest F1 first, classes without rows last."
    if len(listed) < len(e.classes):
        caption += f" {count(len(listed))} of {count(len(e.classes))} classes are listed; the JSON output has all."
    absent = e.source.classes - len(e.classes)
    if absent:
        caption += f" {count(absent)} classes neither occur nor are predicted."
    return Table(
        title="Classes",
        caption=caption,
        columns=("class", "precision", "recall", "F1", "support", "predicted", "mean loss"),
        numeric=(False, True, True, True, True, True, True),
        rows=tuple(
            (
                e.source.class_name(c.index),
                share(c.precision),
                share(c.recall),
                share(c.f1),
                count(c.support),
                count(c.predicted),
                number(c.nll),
            )
            for c in listed
        ),
        footer=tuple(
            (f"{name} average", share(a.precision), share(a.recall), share(a.f1), count(e.rows), "", number(a.nll))
            for name, a in (("macro", e.macro), ("weighted", e.weighted))
        ),
    )


def confused_table(e: Evaluation, most: int) -> Table | None:
    """The `most` most frequent confusions."""
    if not e.confused:
        return None
    support = {c.index: c.support for c in e.classes}
    return Table(
        title="Confusions",
        caption="The wrong predictions that are most frequent, and their share of the rows of that label.",
        columns=("label", "predicted", "rows", "share"),
        numeric=(False, False, True, True),
        rows=tuple(
            (
                e.source.class_name(c.label),
                e.source.class_name(c.predicted),
                count(c.count),
                share(c.count / support[c.label]),
            )
            for c in e.confused[:most]
        ),
    )


def slice_table(slicing: Slicing, most: int) -> Table:
    """The first `most` slices of a column."""
    caption = f"The rows of each value of “{slicing.column}”, the largest mean loss first."
    if any(s.worse for s in slicing.slices):
        caption += " Worse are those that differ from all other rows by more than chance allows."
    if len(slicing.slices) > most:
        caption += f" {count(most)} of {count(len(slicing.slices))} slices are listed; the JSON output has all."
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


def surprising_table(e: Evaluation, most: int) -> Table | None:
    """The first `most` of the most surprising rows, with the details that any of them has."""
    if not e.surprising:
        return None
    details = list(dict.fromkeys(name for r in e.surprising for name in r.details))
    files = ["file"] if len(e.source.files) > 1 else []
    return Table(
        title="Most surprising rows",
        caption="The rows of largest loss, where the model is surest and the label disagrees: look here first for "
        "wrong labels. Rows count from 0.",
        columns=("row", *files, "label", "predicted", "loss", "confidence", *details),
        numeric=(True, *(False for _ in files), False, False, True, True, *(False for _ in details)),
        rows=tuple(
            (
                str(r.row),
                *([r.file] if files else []),
                e.source.class_name(r.label),
                e.source.class_name(r.predicted),
                number(r.nll),
                share(r.confidence),
                *(r.details.get(name, "") for name in details),
            )
            for r in e.surprising[:most]
        ),
    )
