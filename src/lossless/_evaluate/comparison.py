"""`lossless.compare`: two models' predictions of the same rows, side by side, row by row."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossless.errors import EvaluationError

from .errors import about
from .evaluation import Paths, evaluate, evaluate_plan, plan_of
from .paired import Pairs
from .plan import Plan
from .readers import open_reader
from .roles import Task
from .rows import Integers
from .screening import Screening
from .side_by_side import Both, Comparison
from .stores import copies
from .targets import labelled, load_labels
from .tasks import BY_TASK
from .text import quoted, shown


def compare(
    a: Paths,
    b: Paths,
    *,
    workers: int | None = None,
    executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Comparison:
    """Two models' predictions of the same rows: figures side by side, and intervals of their differences.

        difference = mean_i (b_i - a_i),   interval = difference +- 1.96 s / sqrt(n),   s = std_i (b_i - a_i)

    The interval is that of the paired t-test with the normal quantile, as for n of some hundred rows or more it should
    be. It is far narrower than those of the two figures, since an easy row is easy for both.

    Args:
        a, b: the files of each model, as in `evaluate`: the same rows in the same order, cut into files as they like.
            The classes (or outputs) may be in another order, if both have names for them.
        workers, executor: as in `evaluate`. They score A and B on their own; the rows are then read again in pairs, by
            this thread.
        progress: called with the numbers of rows done and to do.
        options: further arguments of `evaluate`, which hold for both: `label`, `targets`, `by`, `ignore_index`, ... .
            `surprising` is also how many of the rows are kept whose losses differ most.

    Returns:
        Comparison: a `ClassComparison`, a `MultilabelComparison` or a `RegressionComparison`, by the task; `a` and `b`
        are the evaluations of each, of all its rows. Every mean and its difference is exact before its one rounding.

    Raises:
        EvaluationError: a ValueError; inputs that cannot be evaluated, of other tasks, of different numbers of rows or
            other classes, or whose keys, labels or targets differ, where the first such row is named. Targets may
            differ by the rounding of float32: one part in a million.
        ParameterError: a ValueError, as in `evaluate`.

    Edges:
        Rows that only one of the inputs has a score or a label for are left out, and counted in `notes`. Where a loss
        is infinite, its mean and the difference are too, or nan if both are, and there is no interval. Figures that are
        no means over rows (calibration errors, areas, F1 of all rows, RMSE, R^2) have differences without one.

    Source:
        McNemar 1947 (doi:10.1007/BF02295996); mid-p: Fagerland, Lydersen and Laake 2013 (doi:10.1186/1471-2288-13-91).

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> np.savez(folder + "/a.npz", logits=[[2.0, 0.0], [0.0, 1.0], [1.0, 0.0]], label=[0, 0, 0])
        >>> np.savez(folder + "/b.npz", logits=[[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]], label=[0, 0, 0])
        >>> c = compare(folder + "/a.npz", folder + "/b.npz")
        >>> c.only_a, c.only_b, round(c.figures["nll"].difference, 6)
        (0, 1, -0.421558)
    """
    allowed = signature(evaluate).parameters
    for name in options:
        if name not in allowed or name == "files":
            raise TypeError(f"compare() got an unexpected keyword argument '{name}'")
    with copies:
        plans = plan_of(a, **options), plan_of(b, **options)
        _check_alike(*plans)
        clock = _Clock(progress, (plans[0].rows, plans[1].rows, plans[0].rows))
        of_a, of_b = (
            evaluate_plan(plan, workers=workers, executor=executor, progress=clock.lap())[0] for plan in plans
        )
        starts_a, starts_b = map(_starts, plans)
        return _compared(Both(*plans, of_a, of_b, starts_a, starts_b), clock.lap())


class _Clock:
    """One progress over several runs."""

    def __init__(self, progress: Callable[[int, int], None] | None, laps: Sequence[int]) -> None:
        self.progress, self.laps, self.run = progress, laps, 0

    def lap(self) -> Callable[[int, int], None] | None:
        """The progress of the next run."""
        progress, before, total = self.progress, sum(self.laps[: self.run]), sum(self.laps)
        self.run += 1
        return None if progress is None else lambda done, _: progress(before + done, total)


def _check_alike(a: Plan, b: Plan) -> None:
    """Raise if the inputs cannot hold the same rows."""
    with about(b.paths[0]):
        ours, theirs = a.columns.task, b.columns.task
        if BY_TASK[ours] is not BY_TASK[theirs]:
            raise EvaluationError(
                f"holds a {theirs.value} task, and {shown(a.paths[0])} a {ours.value} task: expected the same. "
                "Say what both are by --task"
            )
        if a.rows != b.rows:
            raise EvaluationError(
                f"{b.rows} rows, and {a.rows} in {shown(a.paths[0])}: expected the same rows in the same order in both"
            )
        if a.classes != b.classes:
            what = "outputs" if theirs is Task.REGRESSION else "classes"
            raise EvaluationError(f"{b.classes} {what}, and {a.classes} in {shown(a.paths[0])}: expected the same")
        names, others = _names(a), _names(b)
        if names is not None and others is not None and set(names) != set(others):
            raise EvaluationError(
                f"lacks the classes {quoted(sorted(set(names) - set(others)))} of {shown(a.paths[0])}, and has "
                f"{quoted(sorted(set(others) - set(names)))}: expected the same, in any order"
            )


def _names(plan: Plan) -> tuple[str, ...] | None:
    """What the classes are called, in score order; None if they are numbers from 0."""
    values = plan.columns.class_values
    return plan.columns.class_names or (None if values is None else tuple(map(str, values)))


def _order(a: Plan, b: Plan) -> Integers | None:
    """The class of A that each class of B is; None if they are in the same order."""
    numbers = tuple(map(str, range(a.classes)))
    ours, theirs = _names(a) or numbers, _names(b) or numbers
    if ours == theirs or set(ours) != set(theirs):  # one of them has no names
        return None
    place = {name: index for index, name in enumerate(ours)}
    return np.array([place[name] for name in theirs])


@dataclass(frozen=True)
class _Block:
    """Rows that can be scored, and which row of the targets or the data set each is, if something says so."""

    rows: Any
    place: Integers | None

    def take(self, which: NDArray[Any]) -> _Block:
        """The rows where `which` is true, or of these numbers."""
        return _Block(self.rows.take(which), None if self.place is None else self.place[which])


def _scored(plan: Plan) -> Iterator[tuple[int, _Block]]:
    """The rows of all files that can be scored, numbered through, in blocks; and where each block ends."""
    screening, starts, task = Screening(), _starts(plan), BY_TASK[plan.columns.task]
    for partition in plan.partitions:
        reader = open_reader(partition.path, partition.file)
        with about(partition.path):
            columns = replace(plan.columns, by=(), key=plan.columns.key or reader.table.row_number)
            for batch in labelled(reader.batches(partition.part, columns, plan.width), columns):
                for scored in task.rows_of(plan, screening, batch):
                    if len(scored):
                        place = None if batch.place is None else batch.place[scored.row - batch.first_row]
                        row = scored.row + starts[batch.file]
                        yield int(row[-1]) + 1, _Block(replace(scored, row=row), place)


def _in_step(a: Plan, b: Plan) -> Iterator[tuple[int, _Block, _Block]]:
    """Both inputs cut where either has a block that ends: the row they are cut at, and the rows up to there."""
    streams = _scored(a), _scored(b)
    none = math.inf, None
    (stop_a, block_a), (stop_b, block_b) = (next(stream, none) for stream in streams)
    while block_a is not None and block_b is not None:
        stop = int(min(stop_a, stop_b))
        in_a, in_b = (block.rows.row < stop for block in (block_a, block_b))
        yield stop, block_a.take(in_a), block_b.take(in_b)
        block_a, block_b = block_a.take(~in_a), block_b.take(~in_b)
        if stop_a == stop:
            stop_a, block_a = next(streams[0], none)
        if stop_b == stop:
            stop_b, block_b = next(streams[1], none)


def _pairs(both: Both) -> Iterator[tuple[int, Pairs]]:
    """The rows that both inputs have, with the same truth."""
    order = _order(both.a, both.b)
    for stop, ours, theirs in _in_step(both.a, both.b):
        _, here, there = np.intersect1d(ours.rows.row, theirs.rows.row, assume_unique=True, return_indices=True)
        ours, theirs = ours.take(here), theirs.take(there)
        _check_places(both, ours, theirs)
        pairs = Pairs(ours.rows, theirs.rows if order is None else theirs.rows.reordered(order))
        _check_truth(both, pairs)
        yield stop, pairs


def _check_places(both: Both, ours: _Block, theirs: _Block) -> None:
    """Raise at the first row that has another key, or another place in the data set."""
    if ours.place is None or theirs.place is None:
        return
    differ = np.flatnonzero(ours.place != theirs.place)
    if not len(differ):
        return
    i = int(differ[0])
    here, there = (
        (block.rows.row[i] - starts[block.rows.file], _place(plan, int(block.place[i])))
        for plan, block, starts in ((both.a, ours, both.starts_a), (both.b, theirs, both.starts_b))
        if block.place is not None
    )
    targets = both.a.columns.targets
    on = None if targets is None or targets.key is None else f"'{shown(targets.key.name)}'"
    fix = "Save both with the same number of processes" if on is None else f"Sort both by {on}"
    with about(both.b.paths[theirs.rows.file]):
        raise EvaluationError(
            f"row {there[0]} {there[1]}, and row {here[0]} of {shown(both.a.paths[ours.rows.file])} {here[1]}: "
            f"expected the same rows in the same order in both. {fix}"
        )


def _place(plan: Plan, row: int) -> str:
    """Which row of the targets, or of the data set, a row is, in words."""
    targets = plan.columns.targets
    if targets is None or targets.key is None:
        return f"is row {row} of the data set"
    return f"has the '{shown(targets.key.name)}' '{shown(load_labels(plan.columns).key_of(row))}'"


def _check_truth(both: Both, pairs: Pairs) -> None:
    """Raise at the first row whose truth differs."""
    ours, theirs = pairs.a, pairs.b
    differ = np.flatnonzero(ours.differs(theirs))
    if not len(differ):
        return
    i, names = int(differ[0]), _names(both.a) or tuple(map(str, range(both.a.classes)))
    here, there = (
        (rows.row[i] - starts[rows.file], rows.truth(i, names))
        for rows, starts in ((ours, both.starts_a), (theirs, both.starts_b))
    )
    with about(both.b.paths[theirs.file]):
        raise EvaluationError(
            f"row {there[0]} has {there[1]}, and {here[1]} in row {here[0]} of {shown(both.a.paths[ours.file])}: "
            "expected the same rows in the same order in both. Sort both by the same column"
        )


def _starts(plan: Plan) -> list[int]:
    """The number of the first row of each file, through all files."""
    rows = [0] * len(plan.paths)
    for partition in plan.partitions:
        rows[partition.file] += partition.part.rows
    return list(itertools.accumulate(rows, initial=0))


def _compared(both: Both, progress: Callable[[int, int], None] | None) -> Comparison:
    """Read both in pairs."""
    task = BY_TASK[both.a.columns.task]
    metrics = {name: make() for name, make in task.paired(both.a).items()}
    rows = 0
    for stop, pairs in _pairs(both):
        rows += len(pairs)
        for metric in metrics.values():
            metric.update(pairs)
        if progress is not None:
            progress(stop, both.a.rows)
    if not rows:
        raise EvaluationError(f"none of the {both.a.rows} rows has scores and a label in both inputs")
    return task.comparison(both, rows, {name: metric.result() for name, metric in metrics.items()})
