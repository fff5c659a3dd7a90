"""Measuring: rounds that run every contestant once, one after the other, and what is made of their times."""

from __future__ import annotations

import dataclasses
import gc
import importlib.util
import random
import statistics
import time
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any, NamedTuple

from . import inputs, memory, shapes
from .functions import FUNCTIONS, least_bytes
from .libraries import OURS, Call, Contestant, contestant
from .shapes import Shape
from .threads import every, using

LEAST_ROUNDS, MOST_ROUNDS = 7, 3000
COPY = "copy"
SLOW = 0.95  # a cell below that share of a peer's speed is named


class Spec(NamedTuple):
    """What a cell measures."""

    function: str
    shape: Shape
    dtype: str
    threads: int
    sweep: str = ""  # the curve that the cell is a point of


@dataclasses.dataclass(frozen=True)
class Run:
    """Median seconds by contestant, of rounds that were interleaved; `copy` is one of them."""

    seconds: dict[str, float]
    rounds: int


@dataclasses.dataclass
class Cell:
    """What was found about a function at a shape."""

    spec: Spec
    runs: list[Run] = dataclasses.field(default_factory=list)
    peaks: dict[str, int] = dataclasses.field(default_factory=dict)  # bytes beyond the inputs
    value_ulp: dict[str, float] = dataclasses.field(default_factory=dict)
    gradient_ulp: dict[str, float] = dataclasses.field(default_factory=dict)
    notes: dict[str, str] = dataclasses.field(default_factory=dict)  # why a contestant has no time

    @property
    def names(self) -> list[str]:
        """The contestants that were measured, ours first."""
        return [name for name in (self.runs[0].seconds if self.runs else ()) if name != COPY]

    def _median(self, figure: Callable[[dict[str, float]], float | None]) -> float | None:
        found = [value for run in self.runs if (value := figure(run.seconds)) is not None]
        return statistics.median(found) if found else None

    def seconds(self, name: str) -> float | None:
        """The median of the runs."""
        return self._median(lambda s: s.get(name))

    def copies(self, name: str) -> float | None:
        """The time in copies of the logits; with several runs, the median of what each found."""
        return self._median(lambda s: s[name] / s[COPY] if {name, COPY} <= s.keys() else None)

    def faster(self, peer: str) -> float | None:
        """How many times faster ours is than a peer."""
        return self._median(lambda s: s[peer] / s[OURS] if {peer, OURS} <= s.keys() else None)

    def rate(self, name: str) -> float | None:
        """Bytes a second, of those that must be moved at least."""
        seconds = self.seconds(name)
        return None if seconds is None else least_bytes(self.spec.function, self.spec.shape, self.spec.dtype) / seconds


def interleaved(
    calls: Sequence[Call], seconds: float, clock: Callable[[], float] = time.perf_counter
) -> tuple[list[float], int]:
    """Median time of each call over rounds that run them all, each in an order of its own, and how many rounds.

    A small call takes a twentieth more or less by what ran before it: over many rounds each comes after every other.
    The first tenth of the rounds is warm-up, and left out.
    """
    taken: list[list[float]] = [[] for _ in calls]
    order, shuffle = list(range(len(calls))), random.Random(0).shuffle
    collects = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        started, rounds, warm_up = clock(), 0, 1
        while rounds - warm_up < LEAST_ROUNDS or (clock() - started < seconds and rounds < MOST_ROUNDS):
            shuffle(order)
            for k in order:
                call = calls[k]
                begin = clock()
                call()
                taken[k].append(clock() - begin)
            rounds += 1
            warm_up = max(1, rounds // 10)
    finally:
        if collects:
            gc.enable()
    return [statistics.median(times[warm_up:]) for times in taken], rounds - warm_up


def measure(
    specs: Sequence[Spec],
    peers: Collection[str],
    seconds: float,
    repeat: int = 1,
    more: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> list[Cell]:
    """Every cell in every run; `more`: memory and errors too, once and of the table alone."""
    cells = [Cell(spec) for spec in specs]
    judged = more and importlib.util.find_spec("flint") is not None
    for run in range(repeat):
        for done, cell in enumerate(cells):
            if progress is not None:
                progress(run * len(cells) + done, repeat * len(cells))
            extra = run == 0 and more and not cell.spec.sweep
            with warnings.catch_warnings(), using(cell.spec.threads):
                warnings.simplefilter("ignore")
                _take(cell, peers, seconds, extra, extra and judged)
    return cells


def _take(cell: Cell, peers: Collection[str], seconds: float, peaks: bool, ulps: bool) -> None:
    """One run of a cell; what memory does not allow is noted, and so is what a peer cannot do."""
    spec = cell.spec
    try:
        with memory.bounded():
            contestants = _time(cell, peers, seconds)
    except Exception as error:
        if not memory.refused(error):
            raise
        cell.notes[OURS] = "not enough memory"
        return
    if ulps and contestants:
        _judge(cell, contestants)
    for one in contestants if peaks else ():
        found = memory.peak(one.name, spec.function, spec.shape, spec.dtype, spec.threads)
        if found is not None:
            cell.peaks[one.name] = found


def _time(cell: Cell, peers: Collection[str], seconds: float) -> list[Contestant]:
    """Time a cell's contestants and return those that could be."""
    spec = cell.spec
    data = inputs.draw(spec.function, shapes.rows(spec.shape), spec.shape[1], spec.dtype)
    data = inputs.lay_out(spec.function, data, spec.shape)
    placed: dict[type, Any] = {}
    entered, calls = [], {}
    for one in _contestants(spec, peers):
        try:
            framework = type(one.framework)
            if framework not in placed:
                placed[framework] = one.framework.place(data, spec.dtype)
            call = one.framework.step(one.function, placed[framework])
            call()  # what a first call imports or compiles
        except Exception as error:
            if one.name == OURS and not memory.refused(error):
                raise
            cell.notes[one.name] = "not enough memory" if memory.refused(error) else _first_line(error)
            continue
        entered.append(one)
        calls[one.name] = call
    if not entered:
        return []
    own = entered[0].framework
    unit = own.copy(placed[type(own)])
    medians, rounds = interleaved([unit, *calls.values()], seconds)
    cell.runs.append(Run(dict(zip((COPY, *calls), medians, strict=True)), rounds))
    return entered


def _contestants(spec: Spec, peers: Collection[str]) -> Iterator[Contestant]:
    if "compiled" in peers and not FUNCTIONS[spec.function].numpy:
        import torch

        torch.compiler.reset()  # a function is compiled for one shape, not for the shapes seen so far
    for name in (OURS, *peers):
        found = contestant(name, spec.function, spec.shape)
        # JAX cannot be told how many threads to use.
        if found is not None and (name != "JAX" or spec.threads == every()):
            yield found


def _judge(cell: Cell, contestants: list[Contestant]) -> None:
    from . import truth

    spec = cell.spec
    with memory.bounded():
        found = truth.judge(spec.function, spec.shape, spec.dtype, contestants)
    for name, error in found.items():
        if error.value is not None:
            cell.value_ulp[name] = error.value
        if error.gradient is not None:
            cell.gradient_ulp[name] = error.gradient


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:100]}"
