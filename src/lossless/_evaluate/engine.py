"""Runs a plan: partitions on any executor, merged in their order, so that engines and workers give the same bits."""

from __future__ import annotations

import itertools
import os
import platform
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from lossless._check import warn
from lossless._config import get_num_threads, set_num_threads
from lossless.errors import EvaluationError, LosslessError

from .accumulators import Accumulator, Count, standard
from .errors import about
from .plan import Partition, Plan
from .readers import open_reader
from .rows import Batch, Integers, ScoredRows, block_rows, score_rows
from .targets import labelled
from .text import printable

Factories = Mapping[str, Callable[[], Accumulator]]
Progress = Callable[[int, int], None]

WORKERS_ELSEWHERE = 32
"""That an executor is taken to have, whose number is not known."""


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
        self.no_value.add(batch.file, row[batch.missing])
        self.unmatched.add(batch.file, row[batch.unmatched])
        present = ~(batch.missing | batch.unmatched)
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

    def update(self, plan: Plan, batch: Batch) -> None:
        """Score the rows of a batch that can be scored, and accumulate."""
        labels, usable = self.screening.labels(batch, plan)
        row, scores = batch.first_row + np.arange(len(usable)), batch.scores
        if not usable.all():
            row, scores, labels = row[usable], scores[usable], labels[usable]
        if self.screening.outside.rows:
            row = row[:0]  # the run ends in an error: read on for its message only
        step = block_rows(plan.classes)
        for i in range(0, len(row), step):
            block = slice(i, i + step)
            scored = self.screening.distributions(
                score_rows(batch.file, row[block], scores[block], labels[block], plan.kind)
            )
            for metric in self.metrics.values():
                metric.update(scored)

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


def begin(plan: Plan, extra: Factories | None = None) -> Partial:
    """The metrics of a plan before the first row."""
    factories = {**standard(plan.classes, plan.surprising, plan.sum_tolerance), **(extra or {})}
    return Partial(Screening(), {name: make() for name, make in factories.items()})


def _nothing(rows: int) -> None:
    """No progress to tell of."""


@dataclass(frozen=True)
class Task:
    """A partition, and what a process in any folder needs to run it: a few kilobytes, which pickle."""

    plan: Plan  # without what it says about the other partitions
    partition: Partition
    path: str  # of its file, from the root
    extra: Factories

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that is read."""
        targets = self.plan.columns.targets
        return (self.path,) if targets is None else (self.path, targets.path)

    def run(self, tick: Callable[[int], None] = _nothing) -> Partial:
        """Read, score and accumulate; `tick(rows)` is called after each batch and may raise `Cancelled`."""
        plan, partition = self.plan, self.partition
        partial = begin(plan, self.extra)
        reader = open_reader(self.path, partition.file)
        with about(partition.path):
            for batch in labelled(reader.batches(partition.part, plan.columns, plan.width), plan.columns):
                partial.update(plan, batch)
                tick(len(batch.labels))
        return partial


def make_tasks(plan: Plan, extra: Factories) -> list[Task]:
    """The tasks of a run, in the order in which they are merged."""
    columns, targets = plan.columns, plan.columns.targets
    if targets is not None:
        columns = replace(columns, targets=replace(targets, path=os.path.abspath(targets.path)))
    needed = replace(plan, columns=columns, paths=(), partitions=(), notes=(), findings=())
    return [Task(needed, p, os.path.abspath(p.path), extra) for p in plan.partitions]


def run_task(task: Task, tick: Callable[[int], None] = _nothing) -> Partial | LosslessError:
    """Run a task on one native thread. An error of the data is a result: an engine would log it, or try again."""
    try:
        with one_native_thread:
            return task.run(tick)
    except LosslessError as error:
        return error


def run_elsewhere(task: Task, sizes: Mapping[str, int]) -> Partial | LosslessError:
    """`run_task` in a process that may have other files under these paths, or none; `sizes` are those of the plan."""
    for path, size in sizes.items():
        try:
            with open(path, "rb") as stream:
                found = os.fstat(stream.fileno()).st_size
        except OSError as error:
            why = error.strerror or str(error)
        else:
            if found == size:
                continue
            why = f"it holds {found} bytes there, and {size} here"
        return EvaluationError(
            f"{printable(path)}: a worker on {platform.node()} does not see this file: {why}. Workers need the files "
            "under the same paths, as in a folder that all machines share; threads need no workers"
        )
    return run_task(task)


def run(
    plan: Plan,
    *,
    workers: int | None = None,
    executor: Executor | None = None,
    extra: Factories | None = None,
    progress: Progress | None = None,
) -> Partial:
    """Run every partition and merge them in order; `extra` adds metrics by name, `progress(done, all)` counts rows.

    On `workers` threads, or on those of an executor, which may be processes here or on other machines.
    """
    clock = _Clock(plan.rows, progress)
    tasks = make_tasks(plan, extra or {})
    partials = _on_threads(tasks, workers, clock) if executor is None else _on(executor, tasks, workers, clock)
    total = begin(plan, extra)
    with closing(partials):
        for partial in partials:
            total.merge(partial)
    return total


def _on_threads(tasks: Sequence[Task], workers: int | None, clock: _Clock) -> Generator[Partial]:
    """The partials of tasks, in order; progress after each batch."""
    workers = min(workers or default_workers(), len(tasks))
    if workers == 1:  # here, and on as many native threads as there are
        yield from (task.run(clock.tick) for task in tasks)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="lossless") as pool:
        try:
            yield from _in_order(lambda task: pool.submit(run_task, task, clock.tick), tasks, workers)
        finally:
            clock.stopped.set()


def _on(executor: Executor, tasks: Sequence[Task], workers: int | None, clock: _Clock) -> Generator[Partial]:
    """The partials of tasks, in order; progress after each of them. What a broken executor leaves is run on threads."""

    def submit(task: Task) -> Future[Partial | LosslessError]:
        return executor.submit(run_elsewhere, task, {path: os.path.getsize(path) for path in task.files})

    done = 0
    try:
        for partial in _in_order(submit, tasks, workers or WORKERS_ELSEWHERE):
            clock.tick(tasks[done].partition.part.rows)
            done += 1
            yield partial
        return
    except BrokenExecutor as error:
        why = error
    except LosslessError:
        raise
    except Exception as error:
        raise EvaluationError(f"the executor could not run a partition: {type(error).__name__}: {error}") from error
    warn(
        f"evaluate: the executor broke down ({why}). The {len(tasks) - done} of {len(tasks)} partitions that were not "
        "done are run on threads of this process, so the figures are complete"
    )
    yield from _on_threads(tasks[done:], None, clock)


def _in_order(
    submit: Callable[[Task], Future[Partial | LosslessError]], tasks: Iterable[Task], workers: int
) -> Generator[Partial]:
    """Submit tasks and yield what they give in their order; whatever ends this cancels the others."""
    waiting: deque[Future[Partial | LosslessError]] = deque()
    ahead = iter(tasks)
    try:
        # At most two tasks per worker are in flight, so finished ones do not pile up behind a slow one.
        waiting.extend(map(submit, itertools.islice(ahead, 2 * workers)))
        while waiting:
            result = waiting[0].result()
            waiting.popleft()
            if isinstance(result, LosslessError):
                raise result
            waiting.extend(map(submit, itertools.islice(ahead, 1)))
            yield result
    finally:
        for future in waiting:
            future.cancel()


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
