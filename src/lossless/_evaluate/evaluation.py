"""`lossless.evaluate`: from files of predictions to figures."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import fields
from typing import Any, get_args

from lossless.errors import ParameterError

from .accumulators import Factories
from .engine import run
from .plan import Plan, make_plan
from .results import Evaluation
from .roles import Request, Task, TaskName, check_ignore_index
from .stores import copies
from .text import quoted

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]


def evaluate(
    files: Paths,
    *,
    logits: str | None = None,
    probs: str | None = None,
    log_probs: str | None = None,
    predictions: str | None = None,
    label: str | None = None,
    task: TaskName | None = None,
    targets: str | os.PathLike[str] | None = None,
    on: str | None = None,
    by: str | Sequence[str] = (),
    class_names: Sequence[str] | None = None,
    ignore_index: int | None = -100,
    surprising: int = 20,
    workers: int | None = None,
    executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """The figures of saved predictions, larger than memory or not: one class a row, any number of them, or quantities.

        one class of C:        nll = mean_i -log p_i[y_i],    p = softmax(logits), or sigmoid(logit) of class 1
        any of C classes:      bce = mean_ij -(t_ij log p_ij + (1 - t_ij) log(1 - p_ij)),    p = sigmoid(logits)
        quantities:            mse = mean_ij (x_ij - t_ij)^2

    and many more, which `docs/evaluation-json.md` defines; `docs/evaluating.md` says how to read them.

    Args:
        files: a path, or several whose rows are taken together: Parquet, Arrow or Feather, CSV, TSV or JSON lines (also
            packed by gzip), NPZ, NPY, safetensors, or tensors by torch.save. A pattern (`preds/*.parquet`) or a
            directory stands for its files, by name. Paths may be URLs of what fsspec reads (`s3://bucket/run/*.parquet`,
            `https://...`): Parquet is read in place, and files of other formats are copied for the time of the run.
        logits, probs, log_probs: the column of scores, which also says what they are. By default it is found by name
            and checked against its values. In tables a column of lists, or one column per class: their common prefix
            (prob for prob_0, prob_1, ... or prob_cat, prob_dog, ...), or the first and last of columns that are called
            after their classes (cat..owl).
        predictions: the column of predicted quantities, one or several a row, which makes it a regression.
        label: the column of the truth. Of one class a row: 0..C-1, class names, or the values of an NPZ array
            `classes`, one for each score, as scikit-learn's models have it. Of several: 0 or 1 for each class, in
            lists, a 2-d array, or one column per class; NaN or null where it is unknown. Of a regression: as many
            quantities as predictions.
        task: "multiclass" (one class a row, a score for each), "binary" (one of two classes; one score, of class 1, or
            two), "multilabel" (any number of classes a row) or "regression". By default inferred from the number of
            scores a row and the first values; where two are as likely, it is an error that asks.
        targets: a file with the truth, where it is not beside the scores: of any format, or an .npy array. It is held
            in memory.
        on: the column of texts or whole numbers by which `targets` are joined to the scores; by default its rows are
            those of the files, in their order.
        by: a column, or several, whose values cut the rows into slices with figures of their own: texts, whole numbers
            or booleans, at most 1000 different ones; beside the scores, or where it is not there, in `targets`.
        class_names: names of the classes (or outputs) in score order.
        ignore_index: rows with this label are left out, where a row has one class. Where it has several, a class with
            this mark is unknown, as one with NaN or null: it is left out of every figure of that class. None if no
            label means that.
        surprising: how many of the rows of largest loss to keep.
        workers: threads; by default one per processor, at most 8. With an executor, how many partitions of the files
            it runs at once (default 32): at most twice as many are in flight.
        executor: where partitions are run instead: any `concurrent.futures.Executor`, such as a ProcessPoolExecutor or
            that of a Dask client, `client.get_executor(pure=False)`. Its processes must see the files under the same
            paths. It is not shut down. If it breaks, the partitions that are left run on threads, with a warning.
        progress: called with the numbers of rows done and to do.

    Returns:
        Evaluation: a `ClassEvaluation` of a multiclass or binary task, a `MultilabelEvaluation` or a
        `RegressionEvaluation`; `source.task` and `source.task_reason` say which and why. Every mean is the exact mean
        of the rows' float64 numbers, rounded once, so it has the same bits for any number of workers. Ranked figures,
        such as areas under curves, come from a sketch; `bounds` says how far they may be off.

    Raises:
        EvaluationError: a ValueError; columns, labels or values that cannot be evaluated as they are, or more than
            2^24 classes.
        ParameterError: a ValueError; an unknown `task`, an `ignore_index` that is no whole number, `surprising` below
            0, `workers` below 1, or an `executor` that is none.
        MissingExtraError: an ImportError; the package that reads the format, or the store, is not installed.

    Edges:
        Probabilities of several classes are divided by their row's sum, and a sum that is far from 1 is a finding. A
        truth of probability 0 gives loss inf. Rows with a missing value or the ignored label (of several labels, all of
        them unknown), with scores that give no distribution (NaN, several +inf, or nothing but -inf), or with
        predictions or targets that are not finite are left out and counted in `left_out`; if no row is left, it is an
        error. What is undefined (the precision of a class that is never predicted, R^2 of a constant target) is nan.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> np.savez(folder + "/classes.npz", logits=[[2.0, 0.0], [0.0, 1.0]], label=[0, 0])
        >>> e = evaluate(folder + "/classes.npz")
        >>> e.source.task, round(e.nll, 9), e.accuracy
        ('multiclass', 0.720094849, 0.5)
        >>> np.savez(folder + "/tags.npz", probs=[[0.9, 0.2, 0.6], [0.1, 0.7, 0.4]], labels=[[1, 0, 0], [0, 1, 1]])
        >>> e = evaluate(folder + "/tags.npz")
        >>> e.source.task, round(e.bce, 9), e.exact_match
        ('multilabel', 0.437186832, 0.0)
        >>> np.savez(folder + "/quantities.npz", predictions=[2.5, 0.0, 2.0], target=[3.0, -0.5, 2.0])
        >>> e = evaluate(folder + "/quantities.npz")
        >>> e.source.task, round(e.mse, 9), round(e.r2, 9)
        ('regression', 0.166666667, 0.923076923)
    """
    with copies:
        plan = plan_of(
            files,
            logits=logits,
            probs=probs,
            log_probs=log_probs,
            predictions=predictions,
            label=label,
            task=task,
            targets=targets,
            on=on,
            by=by,
            class_names=class_names,
            ignore_index=ignore_index,
            surprising=surprising,
        )
        return evaluate_plan(plan, workers=workers, executor=executor, progress=progress)[0]


def plan_of(files: Paths, *, task: str | None = None, by: str | Sequence[str] = (), **options: Any) -> Plan:
    """The plan that arguments of `evaluate` ask for."""
    if task is not None and task not in get_args(TaskName):
        raise ParameterError(f"evaluate: task got {task!r}, expected one of {quoted(get_args(TaskName))}")
    check_ignore_index("evaluate", options.get("ignore_index"))
    columns = {field.name: options.pop(field.name) for field in fields(Request) if field.name in options}
    return make_plan(
        [files] if isinstance(files, str | os.PathLike) else list(files),
        Request(**columns, task=None if task is None else Task(task)),
        by=[by] if isinstance(by, str) else by,
        **options,
    )


def evaluate_plan(
    plan: Plan,
    *,
    workers: int | None = None,
    executor: Executor | None = None,
    extra: Factories | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Evaluation, dict[str, Any]]:
    """Run a plan; the results of the `extra` metrics come beside the evaluation."""
    if plan.surprising < 0:
        raise ParameterError(f"evaluate: surprising got {plan.surprising}, expected 0 or more")
    if workers is not None and workers < 1:
        raise ParameterError(f"evaluate: workers got {workers}, expected 1 or more")
    if executor is not None and not callable(getattr(executor, "submit", None)):
        raise ParameterError(
            f"evaluate: executor got {type(executor).__name__}, expected a concurrent.futures.Executor"
        )
    partial = run(plan, workers=workers, executor=executor, extra=extra, progress=progress)
    return partial.evaluation(plan), {name: partial.metrics[name].result() for name in extra or {}}
