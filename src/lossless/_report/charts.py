"""Vega-Lite specifications by altair. Colours come from the page's style sheet, so that dark mode is CSS alone."""

from __future__ import annotations

import math
from typing import Any

import altair as alt

from .data import Chart, Curve, Heat, Histogram, Losses, Reliability, Scatter

MAIN, WARN = "#4c7fd9", "#e0813a"  # readable on white and on black, like the others of LINES
LINES = (MAIN, WARN, "#5fa04e", "#b06fd0", "#d9546b", "#2fa39b", "#a08a5b")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3])  # lines are told apart without colour, too
_HEIGHT, _COUNTS = 260, 70
_CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "currentColor",
        "titleColor": "currentColor",
        "domainColor": "currentColor",
        "tickColor": "currentColor",
        "gridColor": "currentColor",
        "gridOpacity": 0.12,
        "domainOpacity": 0.4,
        "tickOpacity": 0.4,
        "titleFontWeight": "normal",
    },
    "legend": {"labelColor": "currentColor", "titleColor": "currentColor", "orient": "top", "title": None},
}


def draw(chart: Chart) -> dict[str, Any]:
    """The specification of a chart."""
    match chart:
        case Reliability():
            return reliability(chart)
        case Losses():
            return losses(chart)
        case Histogram():
            return histogram(chart)
        case Scatter():
            return scatter(chart)
        case Heat():
            return heat(chart)
        case Curve():
            return curve(chart)


def specification(chart: Any) -> dict[str, Any]:
    """A chart as Vega-Lite, in the look of all of them."""
    spec: dict[str, Any] = chart.to_dict()
    spec["config"] = _CONFIG
    return spec


def reliability(data: Reliability) -> dict[str, Any]:
    """Accuracy against confidence, bin by bin, over the number of rows in each bin."""
    bins = data.bins
    values = [
        {
            "low": b.low,
            "high": b.high,
            "count": b.count,
            "accuracy": b.accuracy if b.count else None,
            "confidence": b.confidence if b.count else None,
            "gap": b.accuracy - b.confidence if b.count else None,
        }
        for b in bins
    ]
    held = alt.InlineData(values=[v for v in values if v["count"]])
    unit = alt.Scale(domain=[0, 1])
    x = alt.X("low:Q", scale=unit, title=None)
    tooltip = [
        alt.Tooltip("low:Q", format=".3f", title=f"{data.x} above"),
        alt.Tooltip("high:Q", format=".3f", title="up to"),
        alt.Tooltip("count:Q", format=",", title=data.counted),
        alt.Tooltip("confidence:Q", format=".4f", title=f"mean {data.x}"),
        alt.Tooltip("accuracy:Q", format=".4f", title=data.y),
        alt.Tooltip("gap:Q", format="+.4f", title=f"{data.y} − {data.x}"),
    ]
    y = alt.Y("accuracy:Q", scale=unit, title=data.y)
    bars = (
        alt.Chart(held).mark_rect(color=MAIN, opacity=0.75).encode(x, y, x2="high:Q", y2=alt.datum(0), tooltip=tooltip)
    )
    gaps = (
        alt.Chart(held)
        .mark_rule(color=WARN, strokeWidth=3)
        .encode(alt.X("confidence:Q", scale=unit), alt.Y("accuracy:Q", scale=unit), y2="confidence:Q", tooltip=tooltip)
    )
    diagonal = (
        alt.Chart(alt.InlineData(values=[{"low": 0, "accuracy": 0}, {"low": 1, "accuracy": 1}]))
        .mark_line(strokeDash=[4, 4], color="currentColor", opacity=0.6)
        .encode(x, y)
    )
    most = alt.Axis(values=[0, max(b.count for b in bins)], format=",d")
    counts = (
        alt.Chart(alt.InlineData(values=values))
        .mark_rect(color="currentColor", opacity=0.35)
        .encode(
            alt.X("low:Q", scale=unit, title=data.x),
            # symlog: nearly all rows of a good model are in the last bin
            alt.Y("count:Q", title=data.counted, scale=alt.Scale(type="symlog", nice=False), axis=most),
            x2="high:Q",
            y2=alt.datum(0),
            tooltip=tooltip[:3],
        )
        .properties(width="container", height=_COUNTS)
    )
    top = alt.layer(bars, diagonal, gaps).properties(width="container", height=_HEIGHT)
    return specification(alt.vconcat(top, counts, spacing=12))


def losses(data: Losses) -> dict[str, Any]:
    """Row losses on a logarithmic axis; those that float32 would lose in another colour."""
    bins = data.bins
    seen, lost = "seen in float32", "exactly 0 in float32"
    values = [
        {"low": b.low, "high": b.high, "count": b.count, "loss": b.label, "kind": lost if b.below_float32 else seen}
        for b in bins
    ]
    legend = alt.Legend(values=[seen, lost]) if any(b.below_float32 and b.count for b in bins) else None
    low, high = bins[0].low, bins[-1].high
    scale = alt.Scale(type="log", domain=[low, high], nice=False)
    decades = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    form = "~g" if low > 1e-5 else "~e"  # one notation from end to end
    axis = alt.Axis(format=form, values=[float(f"1e{d}") for d in decades][:: 1 + len(decades) // 12])
    chart = (
        alt.Chart(alt.InlineData(values=values))
        .mark_rect(opacity=0.85, stroke="transparent", strokeWidth=1)
        .encode(
            alt.X("low:Q", scale=scale, title="loss of a row (nats)", axis=axis),
            # square roots: one full bin would flatten the others
            alt.Y("count:Q", title="rows", scale=alt.Scale(type="sqrt"), axis=alt.Axis(format=",d", tickCount=6)),
            x2="high:Q",
            y2=alt.datum(0),
            color=alt.Color("kind:N", scale=alt.Scale(domain=[seen, lost], range=[MAIN, WARN]), legend=legend),
            tooltip=[alt.Tooltip("loss:N"), alt.Tooltip("count:Q", format=",", title="rows")],
        )
        .properties(width="container", height=_HEIGHT + _COUNTS)
    )
    return specification(chart)


def histogram(data: Histogram) -> dict[str, Any]:
    """Bars; the outermost are drawn as wide as their neighbours, however far they reach."""
    low, high = data.bins[0].high, data.bins[-1].low
    width = (high - low) / max(len(data.bins) - 2, 1)
    values = [
        {
            "low": max(b.low, low - width) if len(data.bins) > 2 else b.low,
            "high": min(b.high, high + width) if len(data.bins) > 2 else b.high,
            "from": b.low,
            "to": b.high,
            "count": b.count,
        }
        for b in data.bins
    ]
    chart = (
        alt.Chart(alt.InlineData(values=values))
        .mark_rect(color=MAIN, opacity=0.85, stroke="transparent", strokeWidth=1)
        .encode(
            alt.X("low:Q", title=data.x, scale=alt.Scale(zero=False, nice=False)),
            alt.Y("count:Q", title="rows", axis=alt.Axis(format=",d", tickCount=6)),
            x2="high:Q",
            y2=alt.datum(0),
            tooltip=[
                alt.Tooltip("from:Q", format=".4g"),
                alt.Tooltip("to:Q", format=".4g"),
                alt.Tooltip("count:Q", format=",", title="rows"),
            ],
        )
        .properties(width="container", height=_HEIGHT)
    )
    return specification(chart)


def scatter(data: Scatter) -> dict[str, Any]:
    """Points over the line y = 0."""
    points = (
        alt.Chart(alt.InlineData(values=[{"x": x, "y": y} for x, y in data.points]))
        .mark_circle(color=MAIN, opacity=0.45, size=22)
        .encode(
            alt.X("x:Q", title=data.x, scale=alt.Scale(zero=False)),
            alt.Y("y:Q", title=data.y, axis=alt.Axis(tickCount=6)),
            tooltip=[
                alt.Tooltip("x:Q", format=".6g", title=data.x),
                alt.Tooltip("y:Q", format=".6g", title=data.y),
            ],
        )
    )
    line = alt.Chart(alt.InlineData(values=[{"y": 0}])).mark_rule(color="currentColor", opacity=0.6).encode(y="y:Q")
    return specification(alt.layer(points, line).properties(width="container", height=_HEIGHT))


def heat(data: Heat) -> dict[str, Any]:
    """A square a pair, as strong as its share of the row.

    In the order of the numbers: an order by names would put text from data into Vega's expressions.
    """
    values = [
        {
            "r": row,
            "c": column,
            "row": data.names[row],
            "column": data.names[column],
            "count": count,
            "share": count / max(sum(counts), 1),
        }
        for row, counts in enumerate(data.counts)
        for column, count in enumerate(counts)
        if count
    ]
    chart = (
        alt.Chart(alt.InlineData(values=values))
        .mark_rect(color=MAIN)
        .encode(
            alt.X(
                "column:N", sort=alt.EncodingSortField("c", op="min"), title=data.column, axis=alt.Axis(labelLimit=90)
            ),
            alt.Y("row:N", sort=alt.EncodingSortField("r", op="min"), title=data.row, axis=alt.Axis(labelLimit=90)),
            opacity=alt.Opacity("share:Q", scale=alt.Scale(domain=[0, 1], range=[0.08, 1]), legend=None),
            tooltip=[
                alt.Tooltip("row:N", title=data.row),
                alt.Tooltip("column:N", title=data.column),
                alt.Tooltip("count:Q", format=",", title="rows"),
                alt.Tooltip("share:Q", format=".2%", title="of the row"),
            ],
        )
        .properties(width="container", height=max(_HEIGHT, 16 * len(data.names)))
    )
    return specification(chart)


def curve(data: Curve) -> dict[str, Any]:
    """Lines by name over a common axis, as wide as their place on the page."""
    values = [{"x": x, "y": y, "name": s.name} for s in data.series for x, y in s.points]
    names = [s.name for s in data.series]
    at = sorted({x for s in data.series for x, _ in s.points})
    whole = all(float(x).is_integer() for x in at)
    x_axis = alt.Axis(values=at[:: 1 + len(at) // 12], format="d") if whole else alt.Axis()
    y_scale = alt.Scale(type="log", nice=False) if data.log_y else alt.Scale(zero=False)
    legend = alt.Legend(
        columns=1,
        labelLimit=0,
        labelExpr="split(datum.label, '\\n')",  # a name of several lines stays whole on a narrow page
        symbolType="stroke",
        symbolSize=600,
        symbolStrokeWidth=2,
    )
    colors = [LINES[i % len(LINES)] for i in range(len(names))]
    dashes = [DASHES[i % len(DASHES)] for i in range(len(names))]
    chart = (
        alt.Chart(alt.InlineData(values=values))
        .mark_line(point=alt.OverlayMarkDef(size=22), strokeWidth=2)
        .encode(
            alt.X("x:Q", title=data.x, scale=alt.Scale(zero=False, nice=False), axis=x_axis),
            alt.Y(
                "y:Q",
                title=data.y,
                axis=alt.Axis(tickCount=6),
                scale=y_scale,
            ),
            color=alt.Color("name:N", scale=alt.Scale(domain=names, range=colors), legend=legend),
            strokeDash=alt.StrokeDash("name:N", scale=alt.Scale(domain=names, range=dashes), legend=legend),
            tooltip=[
                alt.Tooltip("name:N", title="line"),
                alt.Tooltip("x:Q", title=data.x),
                alt.Tooltip("y:Q", format=".6g", title=data.y),
            ],
        )
        .properties(width="container", height=_HEIGHT)
    )
    return specification(chart)
