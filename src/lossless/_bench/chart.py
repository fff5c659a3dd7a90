"""A page of charts: time per element against the length and the number of rows, ours and the peers'."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import vl_convert

from lossless._report.charts import DASHES, LINES, specification

from . import shapes
from .harness import COPY, Cell
from .tables import Bench

_WIDTH, _HEIGHT = 400, 260
# Drawings, not scripts: the page opens offline and can load nothing.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>lossless bench</title>
<style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif; }}
body {{ max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }}
svg {{ max-width: 100%; height: auto; }}
</style>
<h1>Time per element</h1>
<p>Forward and backward by the logits, nanoseconds over the number of logits, lower is better; a copy of the logits is
the least that a result of their size can take. Both axes are logarithmic.</p>
<p>Measured on: {machine}.</p>
{charts}
</html>
"""


def page(bench: Bench) -> str:
    """One HTML file, with a row of charts for every function, format and number of threads."""
    charts = []
    for key in dict.fromkeys(_setting(cell) for cell in bench.curves):
        cells = [cell for cell in bench.curves if _setting(cell) == key]
        function, dtype, threads = key
        title = html.escape(f"{function}, {dtype}, {threads} thread{'s' * (threads != 1)}")
        charts.append(f"<h2>{title}</h2>\n{vl_convert.vegalite_to_svg(curves(cells))}")
    machine = html.escape(", ".join(f"{name} {value}" for name, value in bench.machine.items()))
    return _PAGE.format(machine=machine, charts="\n".join(charts))


def _setting(cell: Cell) -> tuple[str, str, int]:
    return cell.spec.function, cell.spec.dtype, cell.spec.threads


def points(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """What is drawn: nanoseconds an element of every contestant, and of a copy, by sweep and size."""
    found = []
    for cell in cells:
        batch, classes = cell.spec.shape
        size = classes if cell.spec.sweep.startswith("C") else batch
        for name in (*cell.names, *([COPY] if cell.runs else [])):
            seconds = cell.seconds(name)
            if seconds is not None:
                time = 1e9 * seconds / math.prod(cell.spec.shape)
                found.append({"sweep": cell.spec.sweep, "size": size, "name": name, "time": time})
    return found


def curves(cells: Sequence[Cell]) -> dict[str, Any]:
    """A function's charts, side by side over one scale of time."""
    values = points(cells)
    names = list(dict.fromkeys(value["name"] for value in values))
    colors = [LINES[i % len(LINES)] for i in range(len(names))]
    dashes = [DASHES[i % len(DASHES)] for i in range(len(names))]

    def decades(numbers: Sequence[float]) -> list[float]:
        low, high = (math.log10(end(numbers)) for end in (min, max))
        return [10.0**k for k in range(math.floor(low), math.ceil(high) + 1)]

    def axis(numbers: Sequence[float], form: str) -> Any:
        return alt.Axis(values=decades(numbers), format=form)

    def chart(sweep: str) -> Any:
        sizes = axis([value["size"] for value in values if value["sweep"] == sweep], "~s")
        return (
            alt.Chart(alt.InlineData(values=[value for value in values if value["sweep"] == sweep]))
            .mark_line(point=alt.OverlayMarkDef(size=22), strokeWidth=2)
            .encode(
                alt.X("size:Q", title=sweep, scale=alt.Scale(type="log"), axis=sizes),
                alt.Y("time:Q", title="ns an element", scale=alt.Scale(type="log"), axis=times),
                color=alt.Color("name:N", scale=alt.Scale(domain=names, range=colors)),
                strokeDash=alt.StrokeDash("name:N", scale=alt.Scale(domain=names, range=dashes)),
            )
            .properties(width=_WIDTH, height=_HEIGHT)
        )

    times = axis([value["time"] for value in values], "~g")
    sweeps = [sweep for sweep in shapes.CURVES if any(value["sweep"] == sweep for value in values)]
    return specification(alt.hconcat(*map(chart, sweeps)).resolve_scale(y="shared"))
