"""`lossless.evaluate`: from files of predictions to figures."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, fields
from typing import Any

from lossless._diagnose.finding import Finding
from lossless.errors import EvaluationError, ParameterError

from . import summary
from .accumulators import CalibrationBin, ClassFigures, Count, HistogramBin, MeanResult, RankedRow
from .engine import Factories, Partial, Screening, run
from .errors import about
from .plan import Plan, make_plan
from .readers import open_reader
from .roles import Request, detail_columns
from .rows import Kind
from .strict_json import dumps, plain
from .targets import load_labels
from .text import enumerated, safe, shown

SCHEMA = "lossless.evaluation/1"
_MAX_DETAIL = 200  # characters of a detail value that are kept


@dataclass(frozen=True)
class Source:
    """Where the rows came from and how the columns were read."""

    files: tuple[str, ...]
    format: str
    scores: str
    kind: str  # "logits", "log-probs" or "probs"
    kind_reason: str
    label: str
    classes: int
    class_names: tuple[str, ...] | None
    rows: int  # rows of the files, scored or not

    def class_name(self, index: int) -> str:
        """The name of a class, or its number."""
        return self.class_names[index] if self.class_names else str(index)


@dataclass(frozen=True)
class SurprisingRow:
    """One of the rows of largest loss: the first place to look for wrong labels."""

    file: str
    row: int  # from 0
    label: int
    predicted: int
    nll: float
    confidence: float  # probability of the predicted class
    details: Mapping[str, str]  # further columns of the file


@dataclass(frozen=True)
class Average:
    """Figures of the classes, averaged.

    Precision, recall and F1 over the classes that occur as a label or a prediction, where an undefined one counts as 0
    as in scikit-learn; the loss over those that occur as a label, since no other class has one.
    """

    precision: float
    recall: float
    f1: float
    nll: float


@dataclass(frozen=True)
class Evaluation:
    """Figures of saved predictions; plain data, unrounded. Losses and entropies are in nats.

    `brier` is the sum over classes, in [0, 2]. `calibration_error` is the expected calibration error of 15 equal-width
    bins, those of `reliability`. Undefined figures (the precision of a class that is never predicted) are nan.
    """

    source: Source
    rows: int  # rows scored
    nll: float
    bits: float
    perplexity: float
    accuracy: float
    entropy: float
    confidence: float
    brier: float
    calibration_error: float
    macro: Average
    weighted: Average
    reliability: tuple[CalibrationBin, ...]
    loss_histogram: tuple[HistogramBin, ...]
    classes: tuple[ClassFigures, ...]
    surprising: tuple[SurprisingRow, ...]
    left_out: Mapping[str, int]  # rows that were not scored, by reason
    infinite: int  # rows whose label has probability exactly 0
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]  # what looks like misuse, in the first rows

    def __repr__(self) -> str:
        return summary.text(self)

    def _repr_html_(self) -> str:
        return summary.html(self)

    def worst_classes(self) -> list[ClassFigures]:
        """The classes that have rows, lowest F1 first; then those that are only predicted, most predicted first."""
        return sorted(self.classes, key=lambda c: (not c.support, c.f1, -c.predicted, c.index))

    def scalars(self) -> dict[str, float]:
        """The single figures as a flat {name: float}, for experiment trackers."""
        flat: dict[str, float] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float):
                flat[field.name] = value
            elif isinstance(value, Average):
                flat |= {f"{name}_{field.name}": number for name, number in vars(value).items()}
        return flat

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values: NaN is None, infinities are the strings "Infinity" and "-Infinity"."""
        data: dict[str, Any] = plain(self)
        return {"schema": SCHEMA, **data}

    def to_json(self) -> str:
        """`to_dict` as strict JSON text."""
        return dumps(self.to_dict())


def evaluate(
    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    *,
    logits: str | None = None,
    probs: str | None = None,
    log_probs: str | None = None,
    label: str | None = None,
    targets: str | os.PathLike[str] | None = None,
    on: str | None = None,
    class_names: Sequence[str] | None = None,
    ignore_index: int | None = -100,
    surprising: int = 20,
    workers: int | None = None,
    executor: Executor | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Loss, accuracy, entropy and calibration of saved predictions, larger than memory or not.

        nll = mean_i -log p_i[y_i],   brier = mean_i sum_j (p_ij - [j = y_i])^2,   p = softmax(logits)

    Args:
        files: a path, or several whose rows are taken together: Parquet, Arrow or Feather, CSV, TSV or JSON lines (also
            packed by gzip), NPZ, NPY, safetensors, or tensors by torch.save. A pattern (`preds/*.parquet`) or a
            directory stands for its files, by name.
        logits, probs, log_probs: the column of scores, which also says what they are. By default it is found by name
            and checked against its values. In tables a column of lists, or one column per class: their common prefix
            (prob for prob_0, prob_1, ... or prob_cat, prob_dog, ...), or the first and last of columns that are called
            after their classes (cat..owl).
        label: the column of true classes: 0..C-1, class names, or the values of an NPZ array `classes`, one for each
            score, as scikit-learn's models have it.
        targets: a file with the labels, where they are not beside the scores: of any format, or an .npy array. They are
            held in memory.
        on: the column of texts or whole numbers by which `targets` are joined to the scores; by default its rows are
            those of the files, in their order.
        class_names: names of the classes in score order.
        ignore_index: rows with this label are left out; None if no label means that.
        surprising: how many of the rows of largest loss to keep.
        workers: threads; by default one per processor, at most 8. With an executor, how many partitions of the files
            it runs at once (default 32): at most twice as many are in flight.
        executor: where partitions are run instead: any `concurrent.futures.Executor`, such as a ProcessPoolExecutor or
            that of a Dask client, `client.get_executor(pure=False)`. Its processes must see the files under the same
            paths. It is not shut down. If it breaks, the partitions that are left run on threads, with a warning.
        progress: called with the numbers of rows done and to do.

    Returns:
        Evaluation: every mean is the exact mean of the rows' float64 numbers, rounded once, so it has the same bits
        for any number of workers.

    Raises:
        EvaluationError: a ValueError; columns, labels or values that cannot be evaluated as they are, or more than
            2^24 classes.
        ParameterError: a ValueError; `surprising` below 0 or `workers` below 1.
        MissingExtraError: an ImportError; the package that reads the format is not installed.

    Edges:
        Probabilities are divided by their row's sum; probability 0 for the label gives loss inf. Rows with NaN, a
        missing value or the ignored label are left out and counted in `left_out`.

    Example:
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/predictions.npz"
        >>> np.savez(path, logits=[[2.0, 0.0], [0.0, 1.0]], label=[0, 0])
        >>> e = evaluate(path)
        >>> round(e.nll, 9), e.accuracy
        (0.720094849, 0.5)
    """
    paths = [files] if isinstance(files, str | os.PathLike) else list(files)
    request = Request(logits, probs, log_probs, label)
    plan = make_plan(
        paths,
        request,
        targets=targets,
        on=on,
        class_names=class_names,
        ignore_index=ignore_index,
        surprising=surprising,
    )
    return evaluate_plan(plan, workers=workers, executor=executor, progress=progress)[0]


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
    check_labels(plan, partial.screening)
    results = {name: metric.result() for name, metric in partial.metrics.items()}
    return figures(plan, partial, results), {name: results[name] for name in extra or {}}


def check_labels(plan: Plan, screening: Screening) -> None:
    """Labels that are no class number end the run, with what all rows say about them."""
    outside = screening.outside
    if not outside.rows:
        return
    low, high, classes, values = screening.least, screening.greatest, plan.classes, plan.columns.class_values
    scores, label = f"'{shown(plan.columns.scores.name)}'", f"'{shown(plan.columns.label.name)}'"
    expected = f"0..{classes - 1}"
    if values is not None:
        expected = f"those of the array 'classes' ({enumerated([str(value) for value in values])})"
        fix = "Check that 'classes' names the label of each score"
    elif low == 1 and high == classes:
        fix = "The labels look 1-based: subtract 1"
    elif high == classes and low == 0:
        fix = f"Either the labels have one class more than {scores}, or one of them is not a class"
    elif screening.outside_label < 0:
        fix = f"If {screening.outside_label} marks rows to be left out, pass --ignore-index={screening.outside_label}"
    else:
        fix = "Check that the labels number the classes of the scores from 0"
    with about(plan.paths[outside.file]):
        raise EvaluationError(
            f"label column {label} runs from {low} to {high}, expected {expected} ({classes} scores per row in "
            f"{scores}): {outside.rows} of {plan.rows} rows are outside, first {screening.outside_label} at row "
            f"{outside.row}. {fix}"
        )


def figures(plan: Plan, partial: Partial, results: Mapping[str, Any]) -> Evaluation:
    """The evaluation that the results of all metrics make."""
    nll: MeanResult = results["nll"]
    left_out = _left_out_notes(plan, partial.screening)
    if not nll.rows:
        raise EvaluationError(f"none of the {plan.rows} rows can be scored: {'; '.join(left_out)}")
    classes: tuple[ClassFigures, ...] = results["classes"]
    return Evaluation(
        source=Source(
            files=tuple(safe(path) for path in plan.paths),
            format=plan.format,
            scores=plan.columns.scores.name,
            kind=plan.kind.value,
            kind_reason=plan.kind_reason,
            label=plan.columns.label.name,
            classes=plan.classes,
            class_names=plan.columns.class_names,
            rows=plan.rows,
        ),
        rows=nll.rows,
        nll=nll.value,
        bits=nll.value / math.log(2.0),
        perplexity=math.exp(nll.value) if nll.value < 709.0 else math.inf,
        accuracy=results["accuracy"],
        entropy=results["entropy"].value,
        confidence=results["confidence"].value,
        brier=results["brier"].value,
        calibration_error=results["calibration"].error,
        macro=_average(classes, [1] * len(classes), _mean([c.nll for c in classes if c.support])),
        weighted=_average(classes, [c.support for c in classes], nll.value),
        reliability=results["calibration"].bins,
        loss_histogram=results["loss_histogram"],
        classes=classes,
        surprising=_with_details(plan, results["surprising"]),
        left_out={
            "missing": partial.screening.no_value.rows,
            **({} if plan.columns.key is None else {"unmatched": partial.screening.unmatched.rows}),
            "ignored": partial.screening.ignored.rows,
            "no_distribution": partial.screening.no_distribution.rows,
        },
        infinite=results["peculiar"].infinite.rows,
        notes=(*plan.notes, *left_out, *_unused_targets(plan, partial.screening), *_notes(plan, results)),
        findings=plan.findings,
    )


def _average(classes: Sequence[ClassFigures], weights: Sequence[int], nll: float) -> Average:
    total = sum(weights)

    def mean(name: str) -> float:
        values = (getattr(c, name) for c in classes)
        return math.fsum(w * (0.0 if math.isnan(v) else v) for w, v in zip(weights, values, strict=True)) / total

    return Average(mean("precision"), mean("recall"), mean("f1"), nll)


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _first(plan: Plan, count: Count) -> str:
    return f"first: row {count.row} of {shown(plan.paths[count.file])}"


def _left_out_notes(plan: Plan, screening: Screening) -> list[str]:
    reasons = (
        (screening.no_value, "have no scores or no label"),
        (screening.unmatched, "have a key that is not among the targets"),
        (screening.ignored, f"have the ignored label {plan.ignore_index}"),
        (screening.no_distribution, "have scores that give no distribution (NaN, several +inf, or nothing but -inf)"),
    )
    return [
        f"{count.rows} rows {reason} and were left out ({_first(plan, count)})"
        for count, reason in reasons
        if count.rows
    ]


def _unused_targets(plan: Plan, screening: Screening) -> list[str]:
    """How many targets have no scores; more, if several rows have the same key."""
    columns = plan.columns
    if columns.targets is None or columns.key is None:
        return []
    targets = len(load_labels(columns).labels)
    unused = targets - (plan.rows - screening.no_value.rows - screening.unmatched.rows)
    return [f"at least {unused} of the {targets} targets have no scores"] if unused > 0 else []


def _notes(plan: Plan, results: Mapping[str, Any]) -> list[str]:
    """What a reader of the figures should know, in sentences."""
    notes = []
    nll: MeanResult = results["nll"]
    infinite, off_sum = results["peculiar"].infinite, results["peculiar"].off_sum
    if infinite.rows:
        why = " (probabilities stored as 0 were rounded; logits would tell)" if plan.kind is Kind.PROBS else ""
        notes.append(
            f"the loss is infinite because {infinite.rows} rows give their label probability 0{why} "
            f"({_first(plan, infinite)}); the mean over the other rows is {nll.finite:.6g}"
        )
    if off_sum.rows:
        notes.append(
            f"{off_sum.rows} rows of {plan.kind.value} do not sum to 1 within {plan.sum_tolerance:g}; every row is "
            f"divided by its sum ({_first(plan, off_sum)})"
        )
    if results["accuracy"] == 1.0 and nll.rows >= 20:
        notes.append(
            f"the label is the largest score in every row; if '{shown(plan.columns.label.name)}' holds predictions, "
            "name the column of true labels by --label"
        )
    return notes


def _with_details(plan: Plan, ranked: Sequence[RankedRow]) -> tuple[SurprisingRow, ...]:
    """The rows with the values of further columns, which are read again for these rows alone."""
    details: dict[tuple[int, int], dict[str, str]] = {}
    if plan.columns.details:
        for file in {r.file for r in ranked}:
            reader = open_reader(plan.paths[file], file)
            with about(reader.path):
                scores = reader.table.wide(plan.columns.scores.name)
                rows = 0 if scores is None else scores.rows
                here = [name for name in plan.columns.details if name in detail_columns(reader.table, rows)]
                values = reader.details(sorted(r.row for r in ranked if r.file == file), here) if here else {}
            for row, found in values.items():
                details[file, row] = {name: safe(str(value)[:_MAX_DETAIL]) for name, value in found.items()}
    return tuple(
        SurprisingRow(
            safe(plan.paths[r.file]), r.row, r.label, r.predicted, r.nll, r.confidence, details.get((r.file, r.row), {})
        )
        for r in ranked
    )
