"""`lossless.Evaluator`: the figures of batches as they come, and of all ranks together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from math import prod
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from lossless._check import check_floating, check_real, dtype_name, is_whole
from lossless._dispatch import Backend, select
from lossless._layout import without_dim
from lossless.errors import EvaluationError, ParameterError, ShapeError, TargetDtypeError

from .engine import Partial, begin, on_native_threads
from .plan import Plan
from .results import Evaluation
from .roles import Columns, Holds, Task, TaskName, ValueColumn, WideColumn, check_ignore_index, truth
from .rows import Batch, Kind, block_rows
from .screening import check_labels
from .text import quoted, safe, shown

Array = Any
KindName = Literal["logits", "probs", "log-probs"]

_UPDATE = "Evaluator.update"
_PLACE = "updates"  # where messages and figures say that a row is


@dataclass(frozen=True)
class _Settings:
    """What evaluators must have in common to be merged."""

    task: Task
    kind: Kind
    classes: int | None  # None until scores tell
    class_names: tuple[str, ...] | None
    ignore_index: int | None
    surprising: int

    def plan(self, rows: int) -> Plan:
        """The plan of a file with so many such rows."""
        assert self.classes is not None
        one = self.task in (Task.MULTICLASS, Task.BINARY)
        wide = WideColumn("scores", ("scores",), "array", rows)
        return Plan(
            paths=(_PLACE,),
            format="arrays",
            rows=rows,
            columns=Columns(
                wide,
                ValueColumn("labels", "array", rows, Holds.INTEGERS) if one else replace(wide, name="labels"),
                class_names=self.class_names,
                task=self.task,
                unknown=self.ignore_index if self.task is Task.MULTILABEL else None,
            ),
            kind=self.kind,
            kind_reason="as given",
            task_reason="as given",
            width=1 if self.task is Task.BINARY else self.classes,
            classes=self.classes,
            partitions=(),
            notes=(),
            ignore_index=self.ignore_index,
            surprising=self.surprising,
        )


class Evaluator:
    """The figures of `lossless.evaluate` for rows that come batch by batch, as in a training loop.

        one class of C:        nll = mean_i -log p_i[y_i],    p = softmax(logits), or sigmoid(logit) of class 1
        any of C classes:      bce = mean_ij -(t_ij log p_ij + (1 - t_ij) log(1 - p_ij)),    p = sigmoid(logits)
        quantities:            mse = mean_ij (x_ij - t_ij)^2

    Memory does not grow with the rows. Of several processes each has its own; evaluators pickle, so that one process
    can gather them (`torch.distributed.all_gather_object`) and merge them in the order of the ranks. The figures have
    the same bits however the rows were cut into updates and spread over evaluators. What comes of a sample of the rows
    has them as long as no evaluator that is merged into another saw more rows than the sample holds: the best
    temperature (2^19 / C rows), and of a regression the points of `residual_plot` and the correlations that findings
    tell of (1000).

    Args:
        kind: what the scores are: "logits" (the default), "probs" (those of several classes are divided by their sum)
            or "log-probs"; nothing for a regression.
        task: "multiclass" (one class of several), "binary" (one score, of class 1), "multilabel" (any of several
            classes) or "regression" (quantities).
        classes: how many, or outputs of a regression; by default as many as the first scores have.
        class_names: names of the classes in score order.
        ignore_index: rows of one class with this label are left out. Of several labels, a class with this mark is
            unknown, as one with NaN, and is left out of every figure of that class. None if no label means that.
        surprising: how many of the rows of largest loss to keep. Rows are counted from 0 over all updates.

    Raises:
        ParameterError: a ValueError; an unknown kind or task, too few classes, names that are not one for each class,
            an `ignore_index` that is no whole number, or a mark of several labels, or `surprising` below 0.

    Edges:
        There are no slices: make an evaluator for each. Of a row left out or of large loss, `file` is "updates" and
        `row` its number over all updates.

    Example:
        >>> evaluator = lossless.Evaluator()
        >>> evaluator.update([[2.0, 0.0], [0.0, 1.0]], [0, 0])
        >>> other = lossless.Evaluator()
        >>> other.update([[0.0, 3.0]], [1])
        >>> evaluator.merge(other)
        >>> e = evaluator.result()
        >>> e.rows, round(e.accuracy, 9), round(e.nll, 9)
        (3, 0.666666667, 0.496259017)
    """

    def __init__(
        self,
        kind: KindName | None = None,
        *,
        task: TaskName = "multiclass",
        classes: int | None = None,
        class_names: Sequence[str] | None = None,
        ignore_index: int | None = -100,
        surprising: int = 20,
    ) -> None:
        if task not in get_args(TaskName):
            raise ParameterError(f"Evaluator: task got {task!r}, expected one of {quoted(get_args(TaskName))}")
        if kind is not None and (kind not in get_args(KindName) or task == "regression"):
            expected = "None for a regression" if task == "regression" else f"one of {quoted(get_args(KindName))}"
            raise ParameterError(f"Evaluator: kind got {kind!r}, expected {expected}")
        if surprising < 0:
            raise ParameterError(f"Evaluator: surprising got {surprising}, expected 0 or more")
        check_ignore_index("Evaluator", ignore_index)
        names = None if class_names is None else tuple(safe(name) for name in class_names)
        if classes is None:
            classes = 2 if task == "binary" else None if names is None else len(names)
        if names is not None and (len(set(names)) != classes or len(names) != classes):
            raise ParameterError(
                f"Evaluator: class_names has {len(names)} names ({len(set(names))} different), expected {classes}"
            )
        if classes is not None and (classes < _least(Task(task)) or (task == "binary" and classes > 2)):
            least = "2" if task == "binary" else f"{_least(Task(task))} or more"
            raise ParameterError(f"Evaluator: classes got {classes}, expected {least}")
        if task == "multilabel" and ignore_index in (0, 1):
            raise ParameterError(
                f"Evaluator: ignore_index got {ignore_index}, expected another number for a multilabel task, where 0 "
                "and 1 say whether a class is true"
            )
        of = Kind.PREDICTIONS if task == "regression" else Kind(kind or "logits")
        self._settings = self._asked = _Settings(Task(task), of, classes, names, ignore_index, surprising)
        self._total: Partial | None = None
        self.rows = 0
        "Rows of all updates, scored or left out."

    def __repr__(self) -> str:
        task, classes = self._settings.task.value, self._settings.classes
        return f"Evaluator({self._settings.kind.value!r}, task={task!r}, classes={classes}, rows={self.rows})"

    def update(self, scores: Array, labels: Array) -> None:
        """Add rows: scores and labels as the loss of the task takes them.

        Multiclass: (N, C) or (N, C, d1, ...) and (N) or (N, d1, ...). Binary: any shape and the same, each element a
        row. Multilabel and regression: (N, C) or (N, C, d1, ...) and the same; a regression also (N) and (N).
        Arrays, lists or tensors, of any floating dtype and on any device; no graph is kept or recorded. After an error
        the evaluator is as it was before.

        Raises:
            LogitsDtypeError: a TypeError; the scores are not real floating point.
            TargetDtypeError: a TypeError; the labels are not real numbers, or those of several classes not whole.
            ShapeError: a ValueError; the labels do not fit the scores, or there are other classes than before.
            EvaluationError: a ValueError; a label that is no class, or a score that is no probability.
        """
        ours, x = select(_UPDATE, 1, scores=scores)
        theirs, y = select(_UPDATE, 1, labels=labels)
        shape = tuple(x.shape)
        check_floating(_UPDATE, dtype_name(x.dtype), "scores", target_dtype=dtype_name(y.dtype))
        settings = replace(self._settings, classes=_classes(shape, self._settings))
        _check_labels(settings.task, shape, tuple(y.shape), dtype_name(y.dtype))
        plan = settings.plan(prod(shape) // settings.plan(0).width)

        def read(blocks: range) -> Partial:
            partial = begin(plan)
            for batch in _batches(plan, self.rows, (ours, x), (theirs, y), blocks):
                partial.update(plan, batch)
            return partial

        partial = on_native_threads(read, range(0, shape[0], block_rows(max(prod(shape[1:]), 1))))
        check_labels(plan, partial.screening)
        self._add(settings, partial, plan.rows)

    def merge(self, other: Evaluator) -> None:
        """Add the rows of another evaluator after the rows of this one; the other stays as it is.

        Raises:
            ParameterError: a ValueError; the two were made with different arguments, or saw different classes.
        """
        if not isinstance(other, Evaluator):
            raise ParameterError(f"Evaluator.merge: got {type(other).__name__}, expected an Evaluator")
        known = other._settings.classes if self._settings.classes is None else self._settings.classes
        ours, theirs = (replace(e._settings, classes=e._settings.classes or known) for e in (self, other))
        for field in fields(_Settings):
            one, two = getattr(ours, field.name), getattr(theirs, field.name)
            if one != two:
                raise ParameterError(
                    f"Evaluator.merge: {field.name} is {shown(one)} here and {shown(two)} there, expected the same"
                )
        if other._total is not None:
            more = deepcopy(other._total)
            more.shift(self.rows)
            self._add(ours, more, other.rows)

    def result(self) -> Evaluation:
        """The figures of all rows so far; more may follow.

        Raises:
            EvaluationError: a ValueError; there is no row with figures.
        """
        if self._total is None:
            raise EvaluationError("Evaluator.result: there are no rows yet, expected an update before")
        return self._total.evaluation(self._settings.plan(self.rows))

    def reset(self) -> None:
        """Forget all rows."""
        self._settings, self._total, self.rows = self._asked, None, 0

    def _add(self, settings: _Settings, partial: Partial, rows: int) -> None:
        if self._total is None:
            self._total = partial
        else:
            self._total.merge(partial)
        self._settings = settings
        self.rows += rows


def _batches(
    plan: Plan, before: int, scores: tuple[Backend, Array], labels: tuple[Backend, Array], blocks: range
) -> Iterator[Batch]:
    """The rows of arrays, and of the backends that know them, a few megabytes at a time: `blocks` has their starts."""
    (ours, x), (theirs, y) = scores, labels
    stored = "float64" if dtype_name(x.dtype) == "float64" else "float32"  # which holds the narrower ones
    wide = isinstance(plan.columns.label, WideColumn)
    for i in blocks:
        part = slice(i, i + blocks.step)
        first = before + i * (plan.rows // x.shape[0])
        block = _as_rows(ours.numbers(x[part], stored), plan.width)
        values = theirs.numbers(y[part])
        label, missing = truth(_as_rows(values, plan.width) if wide else values.reshape(-1), plan.columns, first)
        yield Batch(0, first, block, label, missing, np.zeros(len(block), bool))


def _least(task: Task) -> int:
    """How many classes there must be."""
    return 2 if task in (Task.MULTICLASS, Task.BINARY) else 1


def _as_rows(numbers: NDArray[Any], width: int) -> NDArray[Any]:
    """(rows, width), of which dimension 1 has the width."""
    return (np.moveaxis(numbers, 1, -1) if width > 1 else numbers).reshape(-1, width)


def _classes(shape: tuple[int, ...], settings: _Settings) -> int:
    """The classes of scores of this shape."""
    if settings.task is Task.BINARY and shape:
        return 2
    least, known = _least(settings.task), settings.classes
    quantity = settings.task is Task.REGRESSION and len(shape) == 1
    if (len(shape) < 2 or shape[1] < least) and not quantity:
        raise ShapeError(
            f"{_UPDATE}: scores has shape {list(shape)}, expected (rows, classes) or (rows, classes, ...) with {least} "
            "or more classes"
        )
    classes = 1 if quantity else shape[1]
    if known is not None and classes != known:
        raise ShapeError(f"{_UPDATE}: scores has {classes} classes (shape {list(shape)}), expected {known}")
    return classes


def _check_labels(task: Task, shape: tuple[int, ...], labels: tuple[int, ...], dtype: str) -> None:
    """Labels are one whole number for each row, or one number for each score."""
    expected = without_dim(shape, 1) if task is Task.MULTICLASS else shape
    if labels != expected:
        fix = ". If they are one-hot, pass their argmax over dimension 1" if labels == shape else ""
        one = "row of scores" if task is Task.MULTICLASS else "score"
        raise ShapeError(
            f"{_UPDATE}: labels has shape {list(labels)}, expected {list(expected)}: one for each {one}, whose shape "
            f"is {list(shape)}{fix}"
        )
    if task is Task.MULTICLASS and not is_whole(dtype):
        raise TargetDtypeError(f"{_UPDATE}: labels has dtype {dtype}, expected whole numbers: the index of the class")
    check_real(_UPDATE, dtype, "labels")
