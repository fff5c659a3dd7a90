"""What is said of predicted quantities."""

from __future__ import annotations

from collections.abc import Sequence

from lossless._evaluate.tasks.regression import RegressionEvaluation

from .data import Histogram, Panel, Scatter, Table, card, count, number, share
from .rows import row_table
from .slices import slice_tables


def tables(e: RegressionEvaluation, classes: int, few: int) -> list[Table]:
    """So many outputs at most, the quantiles, and the first few of the worst rows."""
    worst = worst_table(e, few)
    several = [output_table(e, classes)] if len(e.outputs) > 1 else []
    return [*slice_tables(e, classes), quantile_table(e), *several, *([] if worst is None else [worst])]


def panels(e: RegressionEvaluation, added: Sequence[Panel], most: int) -> list[Panel]:
    """The parts of the page, those that its maker adds after the first charts; tables have `most` rows."""
    worst = worst_table(e, len(e.surprising))
    of = "" if len(e.outputs) == 1 else f" of output {e.outputs[0].name}"
    drawn = f"{count(len(e.residual_plot))} rows, chosen by chance" if len(e.residual_plot) < e.rows else "all rows"
    residuals = Scatter(
        "Residuals",
        f"How far predictions{of} are off, in {drawn}. A cloud that bends or widens shows where the model is wrong.",
        "prediction",
        "prediction − target",
        tuple((point.prediction, point.residual) for point in e.residual_plot),
    )
    spread = Histogram(
        "Errors",
        "How many predictions are off by how much. The first and the last bar hold all that lies beyond.",
        "prediction − target",
        e.residual_histogram,
    )
    rest = tuple(card(figure) for figure in e.figures() if figure.name not in e.MAIN)
    return [
        Panel(charts=(residuals, spread)),
        *added,
        Panel("More figures", figures=rest, tables=(quantile_table(e),)),
        *([Panel(tables=(output_table(e, most),))] if len(e.outputs) > 1 else []),
        *(Panel(tables=(table,)) for table in slice_tables(e, most)),
        *([] if worst is None else [Panel(tables=(worst,))]),
    ]


def quantile_table(e: RegressionEvaluation) -> Table:
    """How large the errors are."""
    return Table(
        title="Absolute errors",
        caption="The error below which a share of the predictions lies.",
        columns=("share", "error"),
        numeric=(True, True),
        rows=tuple((name, number(value)) for name, value in e.error_quantiles.items()),
    )


def output_table(e: RegressionEvaluation, most: int) -> Table:
    """The first `most` outputs, in order."""
    return Table(
        title="Outputs",
        caption="The predicted quantities one by one.",
        columns=("output", "MSE", "RMSE", "MAE", "bias", "R²", "largest error", "target mean", "target deviation"),
        numeric=(False, *[True] * 8),
        rows=tuple(
            (
                o.name,
                *(number(v) for v in (o.mse, o.rmse, o.mae, o.bias)),
                share(o.r2),
                *(number(v) for v in (o.largest_error, o.target_mean, o.target_deviation)),
            )
            for o in e.outputs[:most]
        ),
    )


def worst_table(e: RegressionEvaluation, most: int) -> Table | None:
    """The first `most` of the rows of largest error."""
    return row_table(
        e,
        e.surprising,
        "Largest errors",
        "The rows whose prediction is furthest off: look here first for wrong targets.",
        (
            ("target", True, lambda r: ", ".join(map(number, r.target))),
            ("prediction", True, lambda r: ", ".join(map(number, r.prediction))),
            ("squared error", True, lambda r: number(r.squared_error)),
        ),
        most,
    )
