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
from dataclasses import dataclass, replace
from typing import Protocol

from lossless._check import warn
from lossless._config import get_num_threads, set_num_threads
from lossless.errors import EvaluationError, LosslessError

from .accumulators import Accumulator, Factories, Located
from .errors import about
from .plan import Partition, Plan
from .readers import open_reader
from .results import Evaluation
from .rows import Batch
from .screening import Screening, check_labels
from .slices import Slices
from .stores import FilePath, copies, size_now
from .targets import labelled
from .tasks import BY_TASK
from .text import printable

Progress = Callable[[int, int], None]

WORKERS_ELSEWHERE = 32
"""That an executor is taken to have, whose number is not known."""


@dataclass
class Partial:
    """What a partition contributes."""

    screening: Screening
    metrics: dict[str, Accumulator]
    slices: Slices

    def update(self, plan: Plan, batch: Batch) -> None:
        """Score the rows of a batch that can be scored, and accumulate."""
        for rows in BY_TASK[plan.columns.task].rows_of(plan, self.screening, batch):
            for metric in self.metrics.values():
                metric.update(rows)
            if batch.by is not None:
                self.slices.update(rows, batch.by[rows.row - batch.first_row])

    def merge(self, other: Partial) -> None:
        """Join the partition that follows."""
        self.screening.merge(other.screening)
        for name, metric in self.metrics.items():
            metric.merge(other.metrics[name])
        self.slices.merge(other.slices)

    def evaluation(self, plan: Plan) -> Evaluation:
        """The figures of all rows."""
        check_labels(plan, self.screening)
        with ThreadPoolExecutor(get_num_threads(), thread_name_prefix="lossless") as pool:
            found = pool.map(lambda metric: metric.result(), self.metrics.values())
            results = dict(zip(self.metrics, found, strict=True))
        results["slices"] = self.slices.result()
        return BY_TASK[plan.columns.task].evaluation(plan, self.screening, results)

    def shift(self, rows: int) -> None:
        """Add to all row numbers."""
        self.screening.shift(rows)
        for metric in self.metrics.values():
            if isinstance(metric, Located):
                metric.shift(rows)


class Cancelled(Exception):
    """The run has ended elsewhere."""


def begin(plan: Plan, extra: Factories | None = None) -> Partial:
    """The metrics of a plan before the first row."""
    task = BY_TASK[plan.columns.task]
    factories = {**task.metrics(plan), **(extra or {})}
    slices = Slices([column.name for column in plan.columns.by], task.SLICED)
    return Partial(Screening(), {name: make() for name, make in factories.items()}, slices)


def _nothing(rows: int) -> None:
    """No progress to tell of."""


@dataclass(frozen=True)
class Job:
    """A partition, and what a process in any folder needs to run it: a few kilobytes, which pickle."""

    plan: Plan  # without what it says about the other partitions
    partition: Partition
    path: FilePath  # of its file, from the root
    extra: Factories

    @property
    def files(self) -> tuple[FilePath, ...]:
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


def make_jobs(plan: Plan, extra: Factories) -> list[Job]:
    """The jobs of a run, in the order in which they are merged."""
    columns, targets = plan.columns, plan.columns.targets
    if targets is not None:
        columns = replace(columns, targets=replace(targets, path=_absolute(targets.path)))
    needed = replace(plan, columns=columns, paths=(), partitions=(), notes=())
    return [Job(needed, p, _absolute(p.path), extra) for p in plan.partitions]


def _absolute(path: FilePath) -> FilePath:
    """A path that means the same in any folder."""
    return os.path.abspath(path) if isinstance(path, str) else path


def run_job(job: Job, tick: Callable[[int], None] = _nothing) -> Partial | LosslessError:
    """Run a job on one native thread. An error of the data is a result: an engine would log it, or try again."""
    try:
        with one_native_thread:
            return job.run(tick)
    except LosslessError as error:
        return error


def run_elsewhere(job: Job, sizes: Mapping[FilePath, int | None]) -> Partial | LosslessError:
    """`run_job` in a process that may have other files under these paths, or none; `sizes` are those of the plan."""
    for path, size in sizes.items():
        try:
            found = size_now(path)
        except OSError as error:
            why = error.strerror or str(error)
        except EvaluationError as error:
            why = str(error)
        else:
            if size in (found, None):
                continue
            why = f"it holds {found} bytes there, and {size} here"
        return EvaluationError(
            f"{printable(str(path))}: a worker on {platform.node()} does not see this file: {why}. Workers need the "
            "files under the same paths, as in a folder or store that all machines share; threads need no workers"
        )
    with copies:
        return run_job(job)


def on_native_threads(read: Callable[[range], Partial], blocks: range) -> Partial:
    """What all blocks of rows contribute: `read` is given some that follow one another, on each of our threads."""
    threads = max(min(get_num_threads(), len(blocks)), 1)
    if threads == 1:
        return read(blocks)
    ends = [len(blocks) * k // threads for k in range(threads + 1)]
    with one_native_thread, ThreadPoolExecutor(threads, thread_name_prefix="lossless") as pool:
        first, *others = pool.map(read, [blocks[i:j] for i, j in itertools.pairwise(ends)])
        for other in others:
            first.merge(other)
    return first


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
    jobs = make_jobs(plan, extra or {})
    partials = _on_threads(jobs, workers, clock) if executor is None else _on(executor, jobs, workers)
    total = begin(plan, extra)
    with closing(partials):
        for job, partial in zip(jobs, partials, strict=True):
            total.merge(partial)
            if executor is not None:  # whose batches are not seen
                clock.tick(job.partition.part.rows)
    return total


def _on_threads(jobs: Sequence[Job], workers: int | None, clock: _Clock) -> Generator[Partial]:
    """The partials of jobs, in their order."""
    workers = min(workers or default_workers(), len(jobs))
    if workers == 1:  # here, and on as many native threads as there are
        yield from (job.run(clock.tick) for job in jobs)
        return
    with ThreadPoolExecutor(workers, thread_name_prefix="lossless") as pool:
        try:
            yield from _in_order(lambda job: pool.submit(run_job, job, clock.tick), jobs, workers)
        finally:
            clock.stopped.set()


def _on(executor: Executor, jobs: Sequence[Job], workers: int | None) -> Generator[Partial]:
    """The partials of jobs, in their order. What an executor leaves that breaks is run on threads."""

    def submit(job: Job) -> _Twice:
        sizes = {path: os.path.getsize(path) if isinstance(path, str) else path.size for path in job.files}
        return _Twice(lambda: executor.submit(run_elsewhere, job, sizes))

    done = 0
    try:
        for partial in _in_order(submit, jobs, workers or WORKERS_ELSEWHERE):
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
        f"evaluate: the executor broke down ({why}). The {len(jobs) - done} of {len(jobs)} partitions that were not "
        "done are run on threads of this process, so the figures are complete"
    )
    yield from _on_threads(jobs[done:], None, _Clock(0, None))


class _Twice:
    """A job that is submitted once more if its executor fails: one that has lost a worker may say so in any way."""

    def __init__(self, submit: Callable[[], Future[Partial | LosslessError]]) -> None:
        self.submit = submit
        self.future = submit()

    def result(self) -> Partial | LosslessError:
        try:
            return self.future.result()
        except BrokenExecutor:
            raise
        except Exception:
            self.future = self.submit()
        return self.future.result()

    def cancel(self) -> bool:
        return self.future.cancel()


class _Pending(Protocol):
    """What is used of a future."""

    def result(self) -> Partial | LosslessError: ...

    def cancel(self) -> bool: ...


def _in_order(submit: Callable[[Job], _Pending], jobs: Iterable[Job], workers: int) -> Generator[Partial]:
    """Submit jobs and yield what they give in their order; whatever ends this cancels the others."""
    waiting: deque[_Pending] = deque()
    ahead = iter(jobs)
    try:
        # At most two jobs per worker are in flight, so finished ones do not pile up behind a slow one.
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
    """Counts rows for the progress display, and ends the other jobs when one has failed."""

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
