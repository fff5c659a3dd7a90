"""What is said of one class among several: the panels of the page, and tables that the terminal prints too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from lossless._evaluate.accumulators import BINS_PER_DECADE, HistogramBin
from lossless._evaluate.tasks.multiclass import ClassEvaluation
from lossless._evaluate.tasks.two_classes import PositiveFigures
from lossless._evaluate.text import printable

from .classes import CLASS_COLUMNS, average_cells, class_cells
from .data import Curve, Heat, LossBin, Losses, Panel, Reliability, Series, Table, card, count, listed, number, share
from .rows import row_table
from .slices import slice_tables

CLASSES_IN_ORDER = 20  # a table of more classes starts with the worst
_HEAT_CLASSES = 30  # a matrix of more is not to be read
_MOST_BARS = 60
# log p rounds to 0 where p = exp(-loss) rounds to 1 in float32: losses below 2^-25.
FLOAT32_LIMIT = 2.0**-25


def tables(e: ClassEvaluation, classes: int, few: int) -> list[Table]:
    """So many classes and slices at most, and the first few of the other lists."""
    found = [
        *slice_tables(e, classes),
        class_table(e, classes),
        confused_table(e, few),
        surprising_table(e, few),
    ]
    return [table for table in found if table is not None]


def panels(e: ClassEvaluation, added: Sequence[Panel], most: int) -> list[Panel]:
    """The parts of the page, those that its maker adds after the first charts; tables have `most` rows."""
    confused, surprising = confused_table(e, len(e.confused)), surprising_table(e, len(e.surprising))
    reliability = Reliability(
        "Reliability",
        "Of the rows predicted with a confidence, how many were right. On the diagonal the model means what it says; "
        "an orange line shows how far off it is, and below the diagonal it is over-confident. "
        f"Mean confidence {share(e.confidence)}, accuracy {share(e.accuracy)}, expected calibration error "
        f"{share(e.calibration_error)} in {len(e.reliability)} bins.",
        e.reliability,
    )
    return [
        Panel(charts=(reliability, Losses("Losses", _losses_caption(e), _losses(e.loss_histogram)))),
        *added,
        *([] if e.positive is None else [_positive(e, e.positive)]),
        _confidence(e),
        *([] if confused is None else [_confusion(e, confused)]),
        *(Panel(tables=(table,)) for table in slice_tables(e, most)),
        *([] if surprising is None else [Panel(tables=(surprising,))]),
        Panel(tables=(class_table(e, most),)),
    ]


def _positive(e: ClassEvaluation, positive: PositiveFigures) -> Panel:
    """What the probability of class 1 tells."""
    name = printable(e.source.class_name(1))
    roc = Curve(
        "ROC",
        "The share of the other class that lies above a threshold, and that of class 1. The better the score, the "
        "nearer the curve to the upper left corner.",
        "false positive rate",
        "true positive rate",
        (Series(f"class {name}", positive.roc_curve), Series("by chance", ((0.0, 0.0), (1.0, 1.0)))),
        log_y=False,
    )
    precision = Curve(
        "Precision and recall",
        "Of the rows above a threshold, the share that is of class 1, by the share of class 1 that lies there.",
        "recall",
        "precision",
        (Series(f"class {name}", positive.precision_recall_curve),),
        log_y=False,
    )
    reliability = Reliability(
        "Reliability of p",
        "Of the rows with a probability of class 1, how many are of it.",
        positive.reliability,
        "probability",
        "share of class 1",
    )
    curves = (roc, precision) if positive.roc_curve else ()
    return Panel(
        title=f"Class {name}",
        text="How well the score tells this class from the other, whatever the threshold.",
        figures=tuple(card(figure) for figure in e.figures() if figure.name.startswith("positive.")),
        charts=(*curves, reliability),
    )


def _confidence(e: ClassEvaluation) -> Panel:
    """Whether the confidence is worth something, and the temperature that would mend it."""
    risk = Curve(
        title="Risk and coverage",
        caption="The error rate among the surest rows, by the share of all rows that they are. A confidence that tells "
        "right from wrong starts low and rises at the end.",
        x="coverage",
        y="error rate",
        series=(Series("error rate", e.risk_coverage),),
        log_y=False,
    )
    shown = {*e.MAIN, *e.POSITIVE}
    return Panel(
        title="More figures",
        text="AUROC and AURC say how well the confidence tells right predictions from wrong ones. A temperature "
        "leaves the predictions as they are and changes the confidence: softmax(logits / T).",
        figures=tuple(card(figure) for figure in e.figures() if figure.name not in shown),
        charts=(risk,),
    )


def _confusion(e: ClassEvaluation, table: Table) -> Panel:
    """Which class is taken for which."""
    charts: tuple[Heat, ...] = ()
    if e.confusion_matrix is not None and 2 < e.source.classes <= _HEAT_CLASSES:
        names = tuple(printable(e.source.class_name(i)) for i in range(e.source.classes))
        caption = "The rows of each label by what was predicted; the darker, the larger the share of the label's rows."
        charts = (Heat("Confusion matrix", caption, "label", "predicted", names, e.confusion_matrix),)
    return Panel(charts=charts, tables=(table,))


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


def _losses_caption(e: ClassEvaluation) -> str:
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


def class_table(e: ClassEvaluation, most: int) -> Table:
    """At most `most` classes: all in order if they are few, else the worst first."""
    few = e.classes if len(e.classes) <= CLASSES_IN_ORDER else e.worst_classes()[:most]
    caption = "Support counts the rows of a class, predicted the rows given to it; the mean loss is over its own rows,"
    caption += " and its macro average over the classes that have any."
    if len(e.classes) > CLASSES_IN_ORDER:
        caption += " Lowest F1 first, classes without rows last."
    caption += listed(len(few), len(e.classes), "classes")
    absent = e.source.classes - len(e.classes)
    if absent:
        caption += f" {count(absent)} classes neither occur nor are predicted."
    return Table(
        title="Classes",
        caption=caption,
        columns=(*CLASS_COLUMNS, "mean loss"),
        numeric=(False, *[True] * 6),
        rows=tuple((*class_cells(e.source, c), number(c.nll)) for c in few),
        footer=tuple(
            (*average_cells(name, a), count(e.rows), "", number(a.nll))
            for name, a in (("macro", e.macro), ("weighted", e.weighted))
        ),
    )


def confused_table(e: ClassEvaluation, most: int) -> Table | None:
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


def surprising_table(e: ClassEvaluation, most: int) -> Table | None:
    """The first `most` of the most surprising rows."""
    return row_table(
        e,
        e.surprising,
        "Most surprising rows",
        "The rows of largest loss, where the model is surest and the label disagrees: look here first for wrong "
        "labels.",
        (
            ("label", False, lambda r: e.source.class_name(r.label)),
            ("predicted", False, lambda r: e.source.class_name(r.predicted)),
            ("loss", True, lambda r: number(r.nll)),
            ("confidence", True, lambda r: share(r.confidence)),
        ),
        most,
    )
