"""`lossless.compare`: two models' predictions of the same rows, side by side, row by row."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from lossless._diagnose import notebook
from lossless._diagnose.finding import Finding
from lossless.errors import EvaluationError

from . import summary
from .accumulators import Calibration, Largest
from .errors import about
from .evaluation import Paths, evaluate_plan, plan_of
from .findings import among
from .paired import Agreement, Compared, PairedMean, Pairs, mid_p
from .plan import Plan
from .readers import open_reader
from .roles import Task
from .rows import Integers, ScoredRows
from .screening import Screening
from .stores import copies
from .strict_json import dumps, plain
from .targets import labelled
from .tasks import multiclass
from .tasks.multiclass import ClassEvaluation
from .text import quoted, safe, shown

SCHEMA = "lossless.comparison/1"
_MEANS = ("nll", "confidence", "brier", "entropy")
_PAIRED = ("file_b", "a.label", "a.predicted", "b.predicted", "a.nll", "b.nll")  # of the rows that differ most
_SHOWN = ("nll", "accuracy", "confidence", "calibration_error", "brier", "entropy")


@dataclass(frozen=True)
class DifferentRow:
    """One of the rows whose losses differ most."""

    file_a: str
    row_a: int  # of its file, from 0
    file_b: str
    row_b: int
    label: int  # classes are numbered as A's
    predicted_a: int
    predicted_b: int
    nll_a: float
    nll_b: float


@dataclass(frozen=True)
class Comparison:
    """Figures of two models on the rows that both have scores for; plain data, unrounded.

    `figures` has the headline figures by name. `p_value` is that of McNemar's test, mid-p: how likely models of the
    same accuracy are to disagree about so many rows as unevenly as `only_a` and `only_b`, or more.
    """

    a: ClassEvaluation  # of all rows of A
    b: ClassEvaluation
    rows: int  # rows compared
    figures: Mapping[str, Compared]
    both_right: int
    only_a: int  # rows that A alone gets right
    only_b: int
    both_wrong: int
    p_value: float
    different: tuple[DifferentRow, ...]  # the rows whose losses differ most
    notes: tuple[str, ...]

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What looks like misuse in either of them."""
        return tuple(
            replace(finding, evidence=f"{name}: {finding.evidence}")
            for name, e in (("A", self.a), ("B", self.b))
            for finding in e.findings
        )

    def failed(self, names: str | Sequence[str] = "any") -> tuple[Finding, ...]:
        """The findings of these names or severities, as in `Evaluation.failed`."""
        return among(self.findings, [names] if isinstance(names, str) else names)

    def scalars(self) -> dict[str, float]:
        """The single figures as a flat {name: float}, for experiment trackers."""
        flat = {
            f"{name}_{field.name}": getattr(figure, field.name)
            for name, figure in self.figures.items()
            for field in fields(figure)
        }
        counts = ("rows", "both_right", "only_a", "only_b", "both_wrong", "p_value")
        return flat | {name: getattr(self, name) for name in counts}

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values: NaN is None, infinities are the strings "Infinity" and "-Infinity"."""
        data: dict[str, Any] = plain(self)
        return {"schema": SCHEMA, **data, "a": self.a.to_dict(), "b": self.b.to_dict()}

    def to_json(self) -> str:
        """`to_dict` as strict JSON text."""
        return dumps(self.to_dict())

    def sentence(self) -> str:
        """What the rows say about the two accuracies."""
        return (
            f"A alone is right in {self.only_a} rows and B alone in {self.only_b}; both are right in {self.both_right} "
            f"and wrong in {self.both_wrong} (McNemar's test, mid-p: p = {self.p_value:.3g})"
        )

    def __repr__(self) -> str:
        width = max(map(len, self.figures))
        lines = [f"Comparison of {self.rows} rows", *(f"  {line}" for line in self._models())]
        lines.append(f"  {'':{width}}  {'A':>12}  {'B':>12}  {'B - A':>12}  95 % interval")
        for name, f in self.figures.items():
            lines.append(f"  {name:{width}}  {f.a:>12.6g}  {f.b:>12.6g}  {signed(f.difference):>12}  {interval(f)}")
        return "\n".join([*lines, f"  {self.sentence()}", *(f"  note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        rows = [
            (name, f"{f.a:.6g}", f"{f.b:.6g}", signed(f.difference), interval(f)) for name, f in self.figures.items()
        ]
        table = notebook.table(("figure", "A", "B", "B − A", "95 % interval"), rows, numbers={1, 2, 3, 4})
        head = notebook.heading(f"Comparison of {self.rows} rows")
        lines = notebook.table(("",), ([line] for line in (*self._models(), self.sentence(), *self.notes)))
        return head + table + lines

    def _models(self) -> tuple[str, str]:
        return f"A: {summary.subject(self.a.source)}", f"B: {summary.subject(self.b.source)}"


def signed(value: float, digits: int = 6) -> str:
    """A difference, in short."""
    return "-" if math.isnan(value) else f"{value:+.{digits}g}" if value else "0"


def interval(figure: Compared) -> str:
    """The interval of a difference, in short."""
    return "-" if math.isnan(figure.low) else f"{signed(figure.low, 4)} to {signed(figure.high, 4)}"


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

    A row has one class (a multiclass or binary task); other tasks cannot be compared so far.

    Args:
        a, b: the files of each model, as in `evaluate`: the same rows in the same order, cut into files as they like.
            The classes may be in another order, if both have names for them.
        workers, executor: as in `evaluate`. They score A and B on their own; the rows are then read again in pairs, by
            this thread.
        progress: called with the numbers of rows done and to do.
        options: further arguments of `evaluate`, which hold for both: `label`, `targets`, `by`, `ignore_index`, ... .
            `surprising` is also how many of the rows are kept whose losses differ most.

    Returns:
        Comparison: with a `ClassEvaluation` of each, of all its rows. Every mean and its difference is exact before its
        one rounding.

    Raises:
        EvaluationError: a ValueError; inputs that cannot be evaluated, of other tasks, of different numbers of rows or
            other classes, or whose labels differ, where the first such row is named.
        ParameterError: a ValueError, as in `evaluate`.

    Edges:
        Rows that only one of the inputs has a score or a label for are left out, and counted in `notes`. Where a loss
        is infinite, its mean and the difference are too, or nan if both are, and there is no interval. The calibration
        error is no mean, so its difference has none either.

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
    with copies:
        plans = plan_of(a, **options), plan_of(b, **options)
        _check_alike(*plans)
        clock = _Clock(progress, (plans[0].rows, plans[1].rows, plans[0].rows))
        of_a, of_b = (evaluate_plan(p, workers=workers, executor=executor, progress=clock.lap())[0] for p in plans)
        assert isinstance(of_a, ClassEvaluation)  # by the task
        assert isinstance(of_b, ClassEvaluation)
        return _compared(*plans, of_a, of_b, clock.lap())


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
    for plan in (a, b):
        if plan.columns.task not in (Task.MULTICLASS, Task.BINARY):
            with about(plan.paths[0]):
                raise EvaluationError(f"holds a {plan.columns.task.value} task; only classes are compared so far")
    with about(b.paths[0]):
        if a.rows != b.rows:
            raise EvaluationError(
                f"{b.rows} rows, and {a.rows} in {shown(a.paths[0])}: expected the same rows in the same order in both"
            )
        if a.classes != b.classes:
            raise EvaluationError(f"{b.classes} classes, and {a.classes} in {shown(a.paths[0])}: expected the same")
        ours, theirs = _names(a), _names(b)
        if ours is not None and theirs is not None and set(ours) != set(theirs):
            raise EvaluationError(
                f"lacks the classes {quoted(sorted(set(ours) - set(theirs)))} of {shown(a.paths[0])}, and has "
                f"{quoted(sorted(set(theirs) - set(ours)))}: expected the same, in any order"
            )


def _names(plan: Plan) -> tuple[str, ...] | None:
    """What the classes are called, in score order; None if they are numbers from 0."""
    values = plan.columns.class_values
    return plan.columns.class_names or (None if values is None else tuple(map(str, values)))


def _order(a: Plan, b: Plan) -> Integers | None:
    """The class of A that each class of B is; None if they are in the same order."""
    ours, theirs = _names(a), _names(b)
    if ours is None or theirs is None or ours == theirs:
        return None
    place = {name: index for index, name in enumerate(ours)}
    return np.array([place[name] for name in theirs])


def _scored(plan: Plan) -> Iterator[tuple[int, ScoredRows]]:
    """The rows of all files that can be scored, numbered through, in blocks; and where each block ends."""
    screening, starts = Screening(), _starts(plan)
    for partition in plan.partitions:
        reader = open_reader(partition.path, partition.file)
        with about(partition.path):
            for batch in labelled(reader.batches(partition.part, plan.columns, plan.width), plan.columns):
                for scored in multiclass.rows_of(plan, screening, batch):
                    if len(scored):
                        row = scored.row + starts[batch.file]
                        yield int(row[-1]) + 1, replace(scored, row=row)


def _in_step(a: Plan, b: Plan) -> Iterator[tuple[int, ScoredRows, ScoredRows]]:
    """Both inputs cut where either has a block that ends: the row they are cut at, and the rows up to there."""
    streams = _scored(a), _scored(b)
    none = math.inf, None
    (stop_a, rows_a), (stop_b, rows_b) = (next(stream, none) for stream in streams)
    while rows_a is not None and rows_b is not None:
        stop = int(min(stop_a, stop_b))
        yield stop, rows_a.take(rows_a.row < stop), rows_b.take(rows_b.row < stop)
        rows_a, rows_b = rows_a.take(rows_a.row >= stop), rows_b.take(rows_b.row >= stop)
        if stop_a == stop:
            stop_a, rows_a = next(streams[0], none)
        if stop_b == stop:
            stop_b, rows_b = next(streams[1], none)


def _pairs(a: Plan, b: Plan) -> Iterator[tuple[int, Pairs]]:
    """The rows that both inputs have, with the same labels."""
    order = _order(a, b)
    for stop, ours, theirs in _in_step(a, b):
        _, here, there = np.intersect1d(ours.row, theirs.row, assume_unique=True, return_indices=True)
        ours, theirs = ours.take(here), theirs.take(there)
        if order is not None:
            theirs = replace(theirs, label=order[theirs.label], predicted=order[theirs.predicted])
        _check_labels(a, b, ours, theirs)
        yield stop, Pairs(ours, theirs)


def _check_labels(a: Plan, b: Plan, ours: ScoredRows, theirs: ScoredRows) -> None:
    """Raise at the first row whose labels differ."""
    differ = np.flatnonzero(ours.label != theirs.label)
    if not len(differ):
        return
    i, names = int(differ[0]), _names(a)
    label, other = (names[rows.label[i]] if names else str(rows.label[i]) for rows in (ours, theirs))
    with about(b.paths[theirs.file]):
        raise EvaluationError(
            f"row {theirs.row[i] - _starts(b)[theirs.file]} has label '{shown(other)}', and '{shown(label)}' in row "
            f"{ours.row[i] - _starts(a)[ours.file]} of {shown(a.paths[ours.file])}: expected the same rows in the same "
            "order in both. Sort both by the same column"
        )


def _starts(plan: Plan) -> list[int]:
    """The number of the first row of each file, through all files."""
    rows = [0] * len(plan.paths)
    for partition in plan.partitions:
        rows[partition.file] += partition.part.rows
    return list(itertools.accumulate(rows, initial=0))


def _compared(
    a: Plan, b: Plan, of_a: ClassEvaluation, of_b: ClassEvaluation, progress: Callable[[int, int], None] | None
) -> Comparison:
    """Read both in pairs."""
    means = {name: PairedMean() for name in (*_MEANS, "accuracy")}
    calibration = Calibration(), Calibration()
    agreement, different = Agreement(), Largest(a.surprising, "apart", _PAIRED)
    for stop, pairs in _pairs(a, b):
        right = pairs.a.right, pairs.b.right
        for name in _MEANS:
            means[name].update(getattr(pairs.a, name), getattr(pairs.b, name))
        means["accuracy"].update(*(r.astype(np.float64) for r in right))
        calibration[0].update(pairs.a)
        calibration[1].update(pairs.b)
        agreement.update(*right)
        different.update(pairs)
        if progress is not None:
            progress(stop, a.rows)
    rows = means["nll"].rows
    if not rows:
        raise EvaluationError(f"none of the {a.rows} rows has scores and a label in both inputs")
    figures = {name: mean.result() for name, mean in means.items()}
    error_a, error_b = (model.result().error for model in calibration)
    figures["calibration_error"] = Compared(error_a, error_b, error_b - error_a, math.nan, math.nan)
    both, only_a, only_b, none = agreement.result()
    return Comparison(
        a=of_a,
        b=of_b,
        rows=rows,
        figures={name: figures[name] for name in _SHOWN},
        both_right=both,
        only_a=only_a,
        only_b=only_b,
        both_wrong=none,
        p_value=mid_p(only_a, only_b),
        different=_different(a, b, different.result()),
        notes=tuple(
            f"{e.rows - rows} rows that only {name} has scores and labels for are not compared"
            for name, e in (("A", of_a), ("B", of_b))
            if e.rows > rows
        ),
    )


def _different(a: Plan, b: Plan, ranked: Sequence[Mapping[str, Any]]) -> tuple[DifferentRow, ...]:
    starts_a, starts_b = _starts(a), _starts(b)
    return tuple(
        DifferentRow(
            file_a=safe(a.paths[r["file"]]),
            row_a=r["row"] - starts_a[r["file"]],
            file_b=safe(b.paths[r["file_b"]]),
            row_b=r["row"] - starts_b[r["file_b"]],
            label=r["a.label"],
            predicted_a=r["a.predicted"],
            predicted_b=r["b.predicted"],
            nll_a=r["a.nll"],
            nll_b=r["b.nll"],
        )
        for r in ranked
        if r["apart"] > 0.0
    )
