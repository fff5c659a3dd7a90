"""What is said of classes that do not exclude one another."""

from __future__ import annotations

from collections.abc import Sequence

from lossless._evaluate.tasks.multilabel import MultilabelEvaluation

from .classes import CLASS_COLUMNS, average_cells, class_cells
from .data import Panel, Reliability, Table, card, count, listed, number, share
from .rows import row_table
from .slices import slice_tables


def tables(e: MultilabelEvaluation, classes: int, few: int) -> list[Table]:
    """So many classes at most, and the first few of the surprising rows."""
    surprising = surprising_table(e, few)
    return [*slice_tables(e, classes), class_table(e, classes), *([] if surprising is None else [surprising])]


def panels(e: MultilabelEvaluation, added: Sequence[Panel], most: int) -> list[Panel]:
    """The parts of the page, those that its maker adds after the first chart; tables have `most` rows."""
    surprising = surprising_table(e, len(e.surprising))
    reliability = Reliability(
        "Reliability",
        "Of the classes predicted with a probability, how many are true. On the diagonal the model means what it "
        f"says. Expected calibration error {share(e.calibration_error)} in {len(e.reliability)} bins.",
        e.reliability,
        "probability",
        "share that is true",
        "rows and classes",
    )
    rest = tuple(card(figure) for figure in e.figures() if figure.name not in e.MAIN)
    return [
        Panel(charts=(reliability,)),
        *added,
        Panel("More figures", figures=rest),
        *(Panel(tables=(table,)) for table in slice_tables(e, most)),
        *([] if surprising is None else [Panel(tables=(surprising,))]),
        Panel(tables=(class_table(e, most),)),
    ]


def class_table(e: MultilabelEvaluation, most: int) -> Table:
    """The first `most` classes, in order."""
    caption = (
        "A class is predicted where its probability is above 1/2. Support counts the rows of which it is true. Best is "
        "the F1 of the threshold p that suits these rows best."
    )
    if e.unknown:
        caption += " Known counts those of which it is known whether it is true: the figures are of these."
    caption += listed(most, len(e.classes), "classes")
    known = e.unknown > 0
    return Table(
        title="Classes",
        caption=caption,
        columns=(
            *CLASS_COLUMNS,
            *(["known"] if known else []),
            "best F1",
            "from p",
            "AUROC",
            "average precision",
            "BCE",
        ),
        numeric=(False, *[True] * (10 + known)),
        rows=tuple(
            (
                *class_cells(e.source, c),
                *([count(c.known)] if known else []),
                *(share(c.best_f1.f1), share(c.best_f1.probability)),
                *(share(c.auroc), share(c.average_precision), number(c.bce)),
            )
            for c in e.classes[:most]
        ),
        footer=tuple(
            (*average_cells(name, a), *[""] * (7 + known))
            for name, a in (("micro", e.micro), ("macro", e.macro), ("weighted", e.weighted))
        ),
    )


def surprising_table(e: MultilabelEvaluation, most: int) -> Table | None:
    """The first `most` of the most surprising rows."""
    return row_table(
        e,
        e.surprising,
        "Most surprising rows",
        "The rows of largest loss: look here first for wrong labels.",
        (
            ("true classes", True, lambda r: str(r.true_classes)),
            ("wrong", True, lambda r: str(r.wrong_classes)),
            ("loss", True, lambda r: number(r.bce)),
        ),
        most,
    )
