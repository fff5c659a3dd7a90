"""What was measured as tables, as JSON and as a page of Markdown."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from lossless._evaluate.tables import Table, section

from . import shapes
from .functions import least_bytes
from .harness import COPY, SLOW, Cell
from .libraries import OURS

SCHEMA = "lossless.bench/1"
_DIGITS = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}


@dataclasses.dataclass
class Bench:
    """Everything that a run of the command measured, and on what."""

    machine: dict[str, str]
    seconds: float
    repeat: int
    table: list[Cell]
    scaling: list[Cell] = dataclasses.field(default_factory=list)
    curves: list[Cell] = dataclasses.field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain data; times in seconds, memory in bytes."""
        return {
            "schema": SCHEMA,
            "machine": self.machine,
            "seconds": self.seconds,
            "repeat": self.repeat,
            "cells": [as_json(cell) for cell in (*self.table, *self.scaling, *self.curves)],
            "means": [mean._asdict() for mean in means(self.table)],
            "slow": [slow._asdict() for slow in slow_cells(self.table)],
            "scaling": [slope._asdict() for slope in slopes(self.scaling)],
        }


def as_json(cell: Cell) -> dict[str, Any]:
    """One cell."""
    spec, names = cell.spec, cell.names
    return {
        "function": spec.function,
        "shape": shapes.name(spec.shape),
        "dtype": spec.dtype,
        "threads": spec.threads,
        "sweep": spec.sweep,
        "copy_seconds": cell.seconds(COPY),
        "seconds": {name: cell.seconds(name) for name in names},
        "copies": {name: cell.copies(name) for name in names},
        "times_faster": {name: cell.faster(name) for name in names if name != OURS},
        "least_bytes": least_bytes(spec.function, spec.shape, spec.dtype),
        "bytes_per_second": {name: cell.rate(name) for name in names},
        "peak_bytes": cell.peaks,
        "value_ulp": cell.value_ulp,
        "gradient_ulp": cell.gradient_ulp,
        "notes": cell.notes,
        "runs": [{"rounds": run.rounds, "seconds": run.seconds} for run in cell.runs],
    }


# ---- what the cells say together -----------------------------------------------------------------------------------


class Mean(NamedTuple):
    """The geometric mean of how many times faster ours is than a peer, over so many cells."""

    dtype: str
    threads: int
    peer: str
    cells: int
    times_faster: float


class Slow(NamedTuple):
    """A cell in which ours is slower than a peer."""

    function: str
    shape: str
    dtype: str
    threads: int
    peer: str
    times_faster: float


class Slope(NamedTuple):
    """How the time grows along a sweep: time ~ size^slope."""

    function: str
    dtype: str
    threads: int
    sweep: str
    name: str
    points: int
    slope: float


def means(cells: Iterable[Cell]) -> list[Mean]:
    """Against each peer, in each format and number of threads."""
    found: dict[tuple[str, int, str], list[float]] = {}
    for cell in cells:
        for peer in cell.names[1:]:
            ratio = cell.faster(peer)
            if ratio is not None:
                found.setdefault((cell.spec.dtype, cell.spec.threads, peer), []).append(ratio)
    return [Mean(*key, len(ratios), statistics.geometric_mean(ratios)) for key, ratios in found.items()]


def slow_cells(cells: Iterable[Cell]) -> list[Slow]:
    """The cells below `SLOW`, the slowest first."""
    found = []
    for cell in cells:
        spec = cell.spec
        for peer in cell.names[1:]:
            ratio = cell.faster(peer)
            if ratio is not None and ratio < SLOW:
                found.append(Slow(spec.function, shapes.name(spec.shape), spec.dtype, spec.threads, peer, ratio))
    return sorted(found, key=lambda slow: slow.times_faster)


def slopes(cells: Iterable[Cell]) -> list[Slope]:
    """Of every contestant along every sweep, by least squares of the logarithms."""
    points: dict[tuple[str, str, int, str, str], list[tuple[float, float]]] = {}
    for cell in cells:
        spec = cell.spec
        for name in cell.names:
            seconds = cell.seconds(name)
            if seconds is not None:
                key = (spec.function, spec.dtype, spec.threads, spec.sweep, name)
                points.setdefault(key, []).append((math.log(math.prod(spec.shape)), math.log(seconds)))
    return [
        Slope(*key, len(pairs), float(np.polyfit([size for size, _ in pairs], [time for _, time in pairs], 1)[0]))
        for key, pairs in points.items()
        if len(pairs) > 1
    ]


# ---- tables --------------------------------------------------------------------------------------------------------


def tables(bench: Bench) -> list[Table]:
    """All tables, in the order of reading: times, memory, errors, slopes, means, slow cells."""
    found = []
    for dtype, threads in dict.fromkeys((c.spec.dtype, c.spec.threads) for c in bench.table):
        cells = [c for c in bench.table if (c.spec.dtype, c.spec.threads) == (dtype, threads)]
        where = f"{dtype}, {threads} thread{'s' * (threads != 1)}"
        found.append(_times(where, cells))
        found += [_peaks(where, cells)] if any(c.peaks for c in cells) else []
        found += [_errors(where, dtype, cells)] if any(c.value_ulp for c in cells) else []
    found += [_slopes(bench.scaling)] if bench.scaling else []
    found += [_means(bench.table)] if means(bench.table) else []
    found += [_slow(bench.table)] if slow_cells(bench.table) else []
    return found


def _names(cells: Iterable[Cell]) -> list[str]:
    """All contestants, ours first."""
    return list(dict.fromkeys((OURS, *(name for c in cells for name in (*c.names, *c.notes)))))


def _title(cell: Cell) -> list[str]:
    return [cell.spec.function, shapes.name(cell.spec.shape)]


def _figure(value: float | None, digits: int = 3) -> str:
    """So many significant digits, and no exponent."""
    if value is None:
        return ""
    return f"{value:.{max(0, digits - 1 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


def _times(where: str, cells: Sequence[Cell]) -> Table:
    names = _names(cells)
    rows = []
    for cell in cells:
        copy = cell.seconds(COPY)
        copies = [cell.notes[name] if name in cell.notes else _figure(cell.copies(name)) for name in names]
        rate = cell.rate(OURS)
        rows.append(
            [
                *_title(cell),
                _figure(None if copy is None else 1e6 * copy),
                *copies,
                *(_figure(cell.faster(peer)) for peer in names[1:]),
                _figure(None if rate is None else rate / 1e9),
            ]
        )
    faster = [f"x {peer}" for peer in names[1:]]
    title = f"Time in copies of the logits, and times faster (x): {where}"
    return Table(title, ["function", "shape", "copy, us", *names, *faster, "GB/s"], rows, names=2)


def _peaks(where: str, cells: Sequence[Cell]) -> Table:
    names = [name for name in _names(cells) if any(name in c.peaks for c in cells)]

    def shown(peak: int | None) -> str:
        return "" if peak is None else _figure(peak / 2**20)

    rows = [[*_title(c), *(shown(c.peaks.get(name)) for name in names)] for c in cells]
    return Table(f"Peak memory beyond the inputs, MiB: {where}", ["function", "shape", *names], rows, names=2)


def _errors(where: str, dtype: str, cells: Sequence[Cell]) -> Table:
    values = [name for name in _names(cells) if any(name in c.value_ulp for c in cells)]
    gradients = [name for name in values if any(name in c.gradient_ulp for c in cells)]

    def shown(error: float | None) -> str:
        if error is None:
            return ""
        return "lost" if error >= 2.0 ** (_DIGITS[dtype] - 2) else f"{error:.2f}" if error < 1e4 else f"{error:.1e}"

    rows = [
        [
            *_title(c),
            *(shown(c.value_ulp.get(name)) for name in values),
            *(shown(c.gradient_ulp.get(name)) for name in gradients),
        ]
        for c in cells
    ]
    columns = [*(f"value, {name}" for name in values), *(f"gradient, {name}" for name in gradients)]
    title = f"Largest error on a sample of rows, in ulp: {where}"
    return Table(title, ["function", "shape", *columns], rows, names=2)


def _slopes(cells: Sequence[Cell]) -> Table:
    names, found = _names(cells), {slope[:5]: slope.slope for slope in slopes(cells)}
    keys = dict.fromkeys((c.spec.function, c.spec.dtype, c.spec.threads, c.spec.sweep) for c in cells)
    rows = []
    for key in keys:
        function, dtype, threads, sweep = key
        slope = (found.get((*key, name)) for name in names)
        rows.append([function, dtype, str(threads), sweep, *("" if s is None else f"{s:.2f}" for s in slope)])
    title = "How time grows from 10^6 to 10^8 elements: time ~ size^slope"
    return Table(title, ["function", "dtype", "threads", "growing", *names], rows, names=4)


def _means(cells: Sequence[Cell]) -> Table:
    rows = [[m.dtype, str(m.threads), m.peer, str(m.cells), _figure(m.times_faster)] for m in means(cells)]
    columns = ["dtype", "threads", "against", "cells", "times faster"]
    return Table("Geometric means", columns, rows, names=3)


def _slow(cells: Sequence[Cell]) -> Table:
    rows = [[s.function, s.shape, s.dtype, str(s.threads), s.peer, _figure(s.times_faster)] for s in slow_cells(cells)]
    columns = ["function", "shape", "dtype", "threads", "against", "times faster"]
    return Table(f"Below {SLOW} of a peer's speed", columns, rows, names=5)


def page(bench: Bench) -> str:
    """Everything in Markdown."""
    machine = ", ".join(f"{name} {value}" for name, value in bench.machine.items())
    parts = [
        "# Speed, measured",
        "Forward and backward by the logits, medians of rounds that run every library once, in one run on one machine. "
        "A copy is `dst.copy_(src)` of the logits into an existing tensor, the least that a result of their size can "
        "take; GB/s counts the bytes that must be read and written at least. Peak memory is what becomes resident "
        "during a call beyond its inputs, the gradient included. Errors are in units in the last place of the oracle's "
        "truth, of the larger term where a result crosses zero. `numpy_` functions are forward only.",
        f"Measured on: {machine}.",
        *(section(table) for table in tables(bench)),
    ]
    return "\n\n".join(parts) + "\n"
