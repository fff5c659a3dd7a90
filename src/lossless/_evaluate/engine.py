"""Runs a plan: partitions on threads, merged in their order, so that any number of workers gives the same bits."""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lossless._config import get_num_threads, set_num_threads

from .accumulators import Accumulator, Count
from .errors import about
from .metrics import standard
from .plan import Partition, Plan
from .readers import open_reader
from .rows import Batch, Integers, ScoredRows, block_rows, score_rows
from .targets import labelled

Factories = Mapping[str, Callable[[], Accumulator]]
Progress = Callable[[int, int], None]


@dataclass
class Screening:
    """Rows that cannot be scored, counted by reason."""

    no_value: Count = field(default_factory=Count)  # a null in the file
    unmatched: Count = field(default_factory=Count)  # a key that is not among the targets
    ignored: Count = field(default_factory=Count)  # label == ignore_index
    outside: Count = field(default_factory=Count)  # label not in 0..C-1
    no_distribution: Count = field(default_factory=Count)  # NaN, several +inf, or nothing but -inf
    outside_label: int = 0  # the label of the first row outside
    least: int | None = None  # range of all labels but the ignored ones
    greatest: int | None = None

    def merge(self, other: Screening) -> None:
        """Join the counts of the rows that follow."""
        if not self.outside.rows:
            self.outside_label = other.outside_label
        for name in ("no_value", "unmatched", "ignored", "outside", "no_distribution"):
            getattr(self, name).merge(getattr(other, name))
        self.least = min((v for v in (self.least, other.least) if v is not None), default=None)
        self.greatest = max((v for v in (self.greatest, other.greatest) if v is not None), default=None)

    def labels(self, batch: Batch, plan: Plan) -> tuple[Integers, NDArray[np.bool_]]:
        """Count what is wrong with the labels of a batch; their class indices, and which rows can be scored."""
        row = batch.first_row + np.arange(len(batch.labels))
        present = np.ones(len(row), bool) if batch.missing is None else ~batch.missing
        self.no_value.add(batch.file, row[~present])
        if batch.unmatched is not None:
            self.unmatched.add(batch.file, row[batch.unmatched])
            present &= ~batch.unmatched
        if plan.ignore_index is not None:
            ignored = present & (batch.labels == plan.ignore_index)
            self.ignored.add(batch.file, row[ignored])
            present &= ~ignored
        labels = batch.labels[present]
        if len(labels):
            low, high = int(labels.min()), int(labels.max())
            self.least = low if self.least is None else min(self.least, low)
            self.greatest = high if self.greatest is None else max(self.greatest, high)
        index = class_index(batch.labels, plan.columns.class_values)
        outside = present & ((index < 0) | (index >= plan.classes))
        if outside.any():
            if not self.outside.rows:
                self.outside_label = int(batch.labels[outside][0])
            self.outside.add(batch.file, row[outside])
            present &= ~outside
        return index, present

    def distributions(self, rows: ScoredRows) -> ScoredRows:
        """Count and leave out the rows whose scores give no distribution."""
        lost = np.isnan(rows.nll)
        if not lost.any():
            return rows
        self.no_distribution.add(rows.file, rows.row[lost])
        return rows.take(~lost)


@dataclass
class Partial:
    """What a partition contributes."""

    screening: Screening
    metrics: dict[str, Accumulator]

    def merge(self, other: Partial) -> None:
        """Join the partition that follows."""
        self.screening.merge(other.screening)
        for name, metric in self.metrics.items():
            metric.merge(other.metrics[name])


def class_index(labels: Integers, class_values: tuple[int, ...] | None) -> Integers:
    """Labels as indices of scores; -1 for one that is none of the class values."""
    if class_values is None:
        return labels
    values = np.array(class_values, np.int64)
    order = np.argsort(values)
    found = order[np.minimum(np.searchsorted(values, labels, sorter=order), len(values) - 1)]
    return np.where(values[found] == labels, found, -1)


class Cancelled(Exception):
    """The run has ended elsewhere."""


def _empty(plan: Plan, extra: Factories) -> Partial:
    factories = {**standard(plan.classes, plan.surprising, plan.sum_tolerance), **extra}
    return Partial(Screening(), {name: make() for name, make in factories.items()})


def run_partition(plan: Plan, partition: Partition, extra: Factories, tick: Callable[[int], None]) -> Partial:
    """Read, score and accumulate one partition; `tick(rows)` is called after each batch and may raise `Cancelled`."""
    partial = _empty(plan, extra)
    screening = partial.screening
    step = block_rows(plan.classes)
    reader = open_reader(partition.path, partition.file)
    with about(partition.path):
        for batch in labelled(reader.batches(partition.part, plan.columns, plan.classes), plan.columns):
            labels, usable = screening.labels(batch, plan)
            row, scores = batch.first_row + np.arange(len(usable)), batch.scores
            if not usable.all():
                row, scores, labels = row[usable], scores[usable], labels[usable]
            if screening.outside.rows:
                row = row[:0]  # the run ends in an error: read on for its message only
            for i in range(0, len(row), step):
                block = slice(i, i + step)
                scored = screening.distributions(
                    score_rows(batch.file, row[block], scores[block], labels[block], plan.kind)
                )
                for metric in partial.metrics.values():
                    metric.update(scored)
            tick(len(usable))
    return partial


def run(
    plan: Plan, *, workers: int | None = None, extra: Factories | None = None, progress: Progress | None = None
) -> Partial:
    """Run every partition and merge them in order; `extra` adds metrics by name, `progress(done, all)` counts rows."""
    extra = extra or {}
    workers = min(workers or default_workers(), len(plan.partitions))
    clock = _Clock(plan.rows, progress)
    total = _empty(plan, extra)
    if workers == 1:
        for partition in plan.partitions:
            total.merge(run_partition(plan, partition, extra, clock.tick))
        return total
    with one_native_thread, ThreadPoolExecutor(workers, thread_name_prefix="lossless") as pool:
        waiting: deque[Future[Partial]] = deque()
        partitions = iter(plan.partitions)
        try:
            # At most two partitions per worker are in flight, so finished ones do not pile up behind a slow one.
            for partition in itertools.islice(partitions, 2 * workers):
                waiting.append(pool.submit(run_partition, plan, partition, extra, clock.tick))
            while waiting:
                total.merge(waiting.popleft().result())
                for partition in itertools.islice(partitions, 1):
                    waiting.append(pool.submit(run_partition, plan, partition, extra, clock.tick))
        finally:
            clock.stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
    return total


class _Clock:
    """Counts rows for the progress display, and ends the other tasks when one has failed."""

    def __init__(self, rows: int, progress: Progress | None) -> None:
        self.rows, self.done, self.progress = rows, 0, progress
        self.lock, self.stopped = threading.Lock(), threading.Event()

    def tick(self, rows: int) -> None:
        if self.stopped.is_set():
            raise Cancelled
        with self.lock:
            self.done += rows
            if self.progress is not None:
                self.progress(self.done, self.rows)


def default_workers() -> int:
    """The processors this process may use, at most 8: more would outrun one disk."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 8)


class _OneNativeThread:
    """Partitions are the parallelism here; kernels that split rows as well would only get in each other's way.

    The number of kernel threads is one for the whole process: the first run to enter sets it, the last to leave
    sets it back.
    """

    def __init__(self) -> None:
        self.lock, self.inside, self.before = threading.Lock(), 0, 1

    def __enter__(self) -> None:
        with self.lock:
            if not self.inside:
                self.before = get_num_threads()
                set_num_threads(1)
            self.inside += 1

    def __exit__(self, *_: object) -> None:
        with self.lock:
            self.inside -= 1
            if not self.inside:
                set_num_threads(self.before)


one_native_thread = _OneNativeThread()
