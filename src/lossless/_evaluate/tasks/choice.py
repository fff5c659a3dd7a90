"""What the scores are for, and what they are where a row has one or where classes do not exclude one another.

Inferred from the columns and their first rows, and said; `--task` overrides it. Where two tasks are as likely it is an
error that asks for the flag.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossless.errors import EvaluationError

from ..roles import Columns, Holds, Request, Task, WideColumn, decide_kind, kind_by_name, promises_a_quantity
from ..rows import Floats, Kind, Values
from ..text import shown

_TOP_ROWS = 20  # so many probabilities of at least 1/2 are no accident
_EXAMPLES = 1024  # values that are looked at for some that differ
_ONE = 1e-2  # soft targets sum to 1 within this


def choose_task(
    columns: Columns, width: int, labels: Callable[[], Values], scores: Callable[[], Values], request: Request
) -> tuple[Task, str]:
    """The task, and how it was decided; `labels` and `scores` read the first values of their columns."""
    wide = isinstance(columns.label, WideColumn)
    if width < 1:
        raise EvaluationError(f"'{shown(columns.scores.name)}' has no scores in a row, expected one per class")
    task = request.task
    if task is None and request.predictions is not None:
        task, reason = Task.REGRESSION, "by --predictions"
    elif task is None:
        task, reason = _infer(columns, width, labels, scores, request)
    else:
        reason = "by --task"
    column, label = f"'{shown(columns.scores.name)}'", f"'{shown(columns.label.name)}'"
    if task is Task.MULTICLASS and width < 2:
        raise EvaluationError(
            f"{column} has {width} score per row, expected one per class. For two classes and one score pass --task "
            "binary, for a quantity --task regression"
        )
    if task is Task.BINARY and width > 2:
        raise EvaluationError(f"--task binary, but {column} has {width} scores per row, expected one, or two")
    if task is Task.MULTILABEL and not wide:
        raise EvaluationError(f"--task multilabel, but {label} has one value per row, expected 0 or 1 for each class")
    if task in (Task.MULTICLASS, Task.BINARY) and wide:
        raise EvaluationError(
            f"label column {label} has several values per row, expected one class per row; a one-hot or soft target is "
            "not a label, save its argmax. For classes that do not exclude one another pass --task multilabel"
        )
    if task is not Task.REGRESSION and request.predictions is not None:
        raise EvaluationError(f"--predictions names quantities, and --task {task.value} has classes")
    return task, reason


def _infer(
    columns: Columns, width: int, labels: Callable[[], Values], scores: Callable[[], Values], request: Request
) -> tuple[Task, str]:
    label = columns.label
    if width > 1 and not isinstance(label, WideColumn):
        return Task.MULTICLASS, f"because a row has {width} scores and one label"
    values = labels()
    if isinstance(label, WideColumn):
        return _infer_wide(columns, np.asarray(values), scores, request)
    column, shown_label = f"'{shown(columns.scores.name)}'", f"'{shown(label.name)}'"
    if isinstance(values, list) or label.holds is Holds.BOOLEANS:
        return Task.BINARY, f"because {column} has one score per row and the label is a class"
    classes = columns.class_values or (0, 1)
    two = len(classes) == 2 and bool(np.isin(values, classes).all()) and len(values) > 0
    if two and (_promises_classes(columns, request) or columns.class_values is not None):
        return Task.BINARY, f"because a row has one score and the labels are {classes[0]} and {classes[1]}"
    if _promises_classes(columns, request):
        found = f"holds {_examples(values)}" if len(values) else "has no value"
        raise EvaluationError(
            f"{column} has one score per row, and {shown_label} {found}. Expected one score per class, or labels 0 and "
            "1; for a quantity name it by --predictions"
        )
    if two:
        raise EvaluationError(
            f"{column} has one number per row and {shown_label} holds 0 and 1: a quantity, or a score of class 1? "
            "Name it by --probs, --logits or --predictions"
        )
    _check_quantities(columns, values, np.asarray(scores()))
    return Task.REGRESSION, f"because {column} has one number per row and {shown_label} holds quantities"


def _promises_classes(columns: Columns, request: Request) -> bool:
    """Whether the scores were said to be those of classes, by a flag or by their name."""
    return request.scores() is not None or kind_by_name(columns.scores.name) is not None


def _examples(values: NDArray[Any]) -> str:
    """The first different values, as they are."""
    different = list(dict.fromkeys(values[:_EXAMPLES].tolist()))
    return ", ".join(f"{value:g}" for value in different[:4]) + (", ..." if len(different) > 4 else "")


def _check_quantities(columns: Columns, truth: NDArray[Any], x: NDArray[Any]) -> None:
    """Raise where nothing tells quantities from class numbers: figures of the one would be nonsense of the other."""
    truth, x = truth[np.isfinite(truth)], x[np.isfinite(x)]
    if not (len(truth) and len(x) and _whole(truth)):
        return
    column, label = f"'{shown(columns.scores.name)}'", f"'{shown(columns.label.name)}'"
    if _whole(x):
        why = f"{column} and {label} hold whole numbers alone, as class numbers are"
    elif len(truth) > 2 and len(np.unique(truth)) == 2:
        why = f"{label} holds {_examples(np.unique(truth))} alone, as labels of two classes do"
    elif x.min() >= 0 and x.max() <= 1 and truth.max() > 1:
        why = f"{column} lies in [0, 1] and {label} does not, as the probability of a predicted class and labels do"
    elif not promises_a_quantity(columns.scores.name):
        why = f"{column} has one number for each label, and {label} holds whole numbers, as class numbers are"
    else:
        return
    raise EvaluationError(
        f"{why}. If they are quantities, pass --predictions {shown(columns.scores.name)}; for classes, expected the "
        "score of each class, or for two classes that of class 1 and labels 0 and 1"
    )


def _whole(values: NDArray[Any]) -> bool:
    return bool((values == np.rint(values)).all())


def _infer_wide(
    columns: Columns, truth: NDArray[Any], scores: Callable[[], Values], request: Request
) -> tuple[Task, str]:
    label, unknown = f"'{shown(columns.label.name)}'", np.isnan(truth)
    if not truth.size:
        raise EvaluationError(
            f"nothing is known of the first rows of {label}: they hold null, NaN or the number of --ignore-index "
            "alone. Say what it holds by --task multilabel or --task regression, or check --ignore-index"
        )
    marks = bool((np.isin(truth, (0, 1)) | unknown).all())
    if marks and _one_each(truth, unknown):
        raise EvaluationError(
            f"each row of {label} marks one class, as one-hot labels do. A one-hot or soft target is not a label, save "
            "its argmax; if the classes do not exclude one another, pass --task multilabel"
        )
    if marks:
        return Task.MULTILABEL, f"because {label} marks any number of classes"
    truth = truth[~unknown.any(axis=1)] if unknown.any() else truth
    if truth.dtype.kind == "f" and truth.size and truth.min() >= 0 and (np.abs(truth.sum(axis=1) - 1) < _ONE).all():
        raise EvaluationError(
            f"the rows of {label} sum to 1, as probabilities do. A one-hot or soft target is not a label, save its "
            "argmax; if they are quantities, pass --task regression"
        )
    if _promises_classes(columns, request):
        others = np.setdiff1d(truth, (0, 1))
        if len(others) == 1 and (others[0] < 0 or others[0] == 255) and _whole(others):
            raise EvaluationError(
                f"{label} holds {others[0]:g} beside 0 and 1. If that says that it is not known whether a class is "
                f"true, pass --ignore-index={others[0]:g}; for quantities pass --task regression"
            )
        raise EvaluationError(
            f"'{shown(columns.scores.name)}' is named like scores of classes, but {label} holds other numbers than 0 "
            "and 1. Expected one label per row, or 0 and 1 for each class; for quantities pass --task regression"
        )
    _check_quantities(columns, truth, np.asarray(scores()))
    return Task.REGRESSION, f"because {label} holds quantities"


def _one_each(truth: NDArray[Any], unknown: NDArray[np.bool_]) -> bool:
    """Whether marks may be one-hot labels: one in each complete row, which most are, and no more in the others."""
    found, complete = np.nansum(truth, axis=1), ~unknown.any(axis=1)
    return bool(complete.mean() > 0.5 and (found[complete] == 1).all() and (found <= 1).all())


def kind_of(columns: Columns, width: int, sample: NDArray[Any], request: Request) -> tuple[Kind, str]:
    """What the scores are, and how that was decided; `sample` is (n, width) rows from the start of the input."""
    if columns.task is Task.REGRESSION:
        return Kind.PREDICTIONS, "by --predictions" if request.predictions is not None else "for a quantity"
    if columns.task is Task.MULTICLASS or (columns.task is Task.BINARY and width == 2):
        return decide_kind(columns.scores, sample, request)
    return _kind_of_each(columns, sample, request)


def _kind_of_each(columns: Columns, sample: NDArray[Any], request: Request) -> tuple[Kind, str]:
    """The same for scores each of which has two sides: p and 1 - p."""
    named = request.scores()
    if named is not None:
        return named[1], f"by --{named[1].value}"
    x: Floats = sample[np.isfinite(sample).all(axis=1)].astype(np.float64)
    name, kind = shown(columns.scores.name), kind_by_name(columns.scores.name)
    if not len(x):
        if kind is None:
            raise EvaluationError(
                f"the first rows of '{name}' hold no number; say what it holds by --logits or --probs"
            )
        return kind, "by its name"
    within = bool(x.min() >= 0 and x.max() <= 1)
    runs = f"its values run from {x.min():.6g} to {x.max():.6g}"
    if within and kind is not Kind.LOG_PROBS and columns.task is Task.BINARY and x.min() >= 0.5 and len(x) >= _TOP_ROWS:
        raise EvaluationError(
            f"every value of '{name}' is at least 0.5, as the probability of the predicted class is. Expected that of "
            f"class 1; if it is, say so: --probs {name}"
        )
    if kind is Kind.LOGITS and within:
        raise EvaluationError(
            f"'{name}' is named like logits, but its values lie in [0, 1], as probabilities do. "
            f"Say which: --probs {name} or --logits {name}"
        )
    if kind is Kind.PROBS and not within:
        raise EvaluationError(
            f"'{name}' is named like probabilities, but {runs}. "
            f"Say what they are: --logits {name} or --log-probs {name}"
        )
    if kind is Kind.LOG_PROBS and x.max() > 0:
        raise EvaluationError(
            f"'{name}' is named like log-probabilities, but {runs}, and the logarithm of a probability is at most 0. "
            f"Say what they are: --logits {name} or --probs {name}"
        )
    if kind is not None:
        return kind, "by its name"
    if within and np.isin(x, (0, 1)).all():
        raise EvaluationError(
            f"'{name}' holds 0 and 1 alone, as decisions do. Expected scores: save probabilities or logits"
        )
    return (Kind.PROBS, "because its values lie in [0, 1]") if within else (Kind.LOGITS, "by its values")
