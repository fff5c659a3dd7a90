"""Which columns hold the scores and the label, and what the scores are.

Decided once for the whole input, by name and type, and said; a flag overrides each decision. Where a guess could give
a silently wrong number (a predicted label taken for the truth, probabilities taken for logits, the top k
probabilities taken for all of them) it is an error that asks for the flag.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lossless.errors import EvaluationError, ParameterError

from .rows import SUM_TOLERANCE, Kind, Values
from .stores import FilePath
from .text import enumerated, quoted, shown

SAMPLE_ROWS = 1024
UNKNOWN = -1  # a mark that is neither 0 nor 1
_SAMPLE_SUM_TOLERANCE = 1e-2
_RANKED_ROWS = 20  # so many rows in falling order are no accident from three classes on


class Task(StrEnum):
    """What the scores are for."""

    MULTICLASS = "multiclass"  # one of several classes, a score for each
    BINARY = "binary"  # one of two classes, one score
    MULTILABEL = "multilabel"  # any of several classes, a score for each
    REGRESSION = "regression"  # a quantity, or several


TaskName = Literal["multiclass", "binary", "multilabel", "regression"]
"""The same for those who call."""


class Holds(StrEnum):
    """What a column of one value per row holds."""

    INTEGERS = "integers"
    BOOLEANS = "booleans"
    FLOATS = "floats"
    TEXT = "text"
    OTHER = "other"  # nothing that could be a label


_NUMBERS = (Holds.INTEGERS, Holds.BOOLEANS, Holds.FLOATS)


@dataclass(frozen=True)
class WideColumn:
    """Several numbers a row, as scores are: one column of lists (or a 2-d array), or one column per class."""

    name: str  # the column, or the prefix of `members`
    members: tuple[str, ...]  # columns to read, in class order
    type: str  # as the file says it, for messages
    rows: int
    unnamed: bool = False  # columns called 0, 1, ... or after their classes, and nothing else
    class_names: tuple[str, ...] | None = None  # in score order, if the columns are called after them

    @property
    def text(self) -> bool:
        """Whether the values are class names: never."""
        return False


@dataclass(frozen=True)
class ValueColumn:
    """Any other column."""

    name: str
    type: str
    rows: int
    holds: Holds
    listed: bool = False  # each row holds a list, or a row of an (N, k) array
    class_names: tuple[str, ...] | None = None  # what the file says about the classes of this column

    @property
    def text(self) -> bool:
        """Whether the values are class names and not indices."""
        return self.holds is Holds.TEXT

    @property
    def members(self) -> tuple[str, ...]:
        """Columns to read."""
        return (self.name,)

    @property
    def widened(self) -> WideColumn:
        """The same column read as one of numbers."""
        return WideColumn(self.name, (self.name,), self.type, self.rows, class_names=self.class_names)


Column = WideColumn | ValueColumn


@dataclass(frozen=True)
class Table:
    """What a reader says about its file."""

    scores: tuple[WideColumn, ...]
    values: tuple[ValueColumn, ...]
    marks: tuple[WideColumn, ...] = ()  # one column of truth per class: label_0, label_1, ... or label_cat, ...
    class_names: tuple[str, ...] | None = None  # in score order
    class_values: tuple[int, ...] | None = None  # the label of each score, where they are not 0..C-1
    numbered_from_one: tuple[str, ...] = ()  # prefixes of columns that would be scores if they began at 0
    row_number: ValueColumn | None = None  # says which row of the data set each row is, where the order does not

    def describe(self) -> str:
        """The columns, for messages."""
        columns: list[Column] = [*self.scores, *self.values]
        return enumerated([f"{shown(c.name)} ({shown(c.type)})" for c in columns]) or "none"

    def wide(self, name: str) -> WideColumn | None:
        """The column of numbers that has a name, of one number a row if it has to be."""
        single = (c.widened for c in self.values if c.holds in _NUMBERS)
        return next((column for column in (*self.scores, *self.marks, *single) if column.name == name), None)

    def like(self, column: Column) -> Column | None:
        """The column of this file that stands for one of another file."""
        if isinstance(column, WideColumn):
            return self.wide(column.name)
        return next((other for other in self.values if other.name == column.name), None)

    def names_of(self, scores: WideColumn, label: Column) -> tuple[str, ...] | None:
        """Names of the classes in score order, if the file has them."""
        if scores.class_names is not None:
            return scores.class_names
        if self.class_names is None and label.class_names is None and self.class_values is not None:
            return tuple(str(value) for value in self.class_values)
        return self.class_names or label.class_names


@dataclass(frozen=True)
class Request:
    """What the user said about the columns (flags, or arguments of `evaluate`)."""

    logits: str | None = None
    probs: str | None = None
    log_probs: str | None = None
    label: str | None = None
    predictions: str | None = None
    task: Task | None = None

    def scores(self) -> tuple[str, Kind] | None:
        """The score column named by the user, and its kind."""
        by_kind = {
            Kind.LOGITS: self.logits,
            Kind.PROBS: self.probs,
            Kind.LOG_PROBS: self.log_probs,
            Kind.PREDICTIONS: self.predictions,
        }
        named = [(name, kind) for kind, name in by_kind.items() if name is not None]
        if len(named) > 1:
            raise EvaluationError("give one of --logits, --probs, --log-probs and --predictions, not several")
        return named[0] if named else None


@dataclass(frozen=True)
class Targets:
    """A file of labels, and how its rows are joined to those of the scores."""

    path: FilePath
    stamp: tuple[int, int]  # size and time of change
    key: ValueColumn | None = None  # its column of keys
    starts: tuple[int, ...] = ()  # without keys: its row for the first row of each file of scores
    by: tuple[ValueColumn, ...] = ()  # its columns that cut the rows into slices


@dataclass(frozen=True)
class Columns:
    """The columns that were chosen."""

    scores: WideColumn
    label: Column  # of the targets, if there are any
    details: tuple[str, ...] = ()  # shown with the most surprising rows
    class_names: tuple[str, ...] | None = None  # in score order
    class_values: tuple[int, ...] | None = None  # the label of each score; None for 0..C-1
    task: Task = Task.MULTICLASS
    unknown: int | None = None  # the mark of a class of which it is not known whether it is true; NaN is one, too
    targets: Targets | None = None
    key: ValueColumn | None = None  # what is read beside the scores and says which row each is, as of the targets
    by: tuple[ValueColumn, ...] = ()  # columns whose values cut the rows into slices, of the scores or of the targets

    @property
    def own_by(self) -> tuple[ValueColumn, ...]:
        """Those of them that are beside the scores."""
        return self.by if self.targets is None else tuple(c for c in self.by if c not in self.targets.by)

    @property
    def beside(self) -> tuple[Column, ...]:
        """What is read of a file of scores besides them: its own label, the key, if there is one, and the slices."""
        own = [self.label] if self.targets is None else []
        return (*own, *([] if self.key is None else [self.key]), *self.own_by)


def check_ignore_index(function: str, ignore_index: object) -> None:
    """Raise if no label could be that mark."""
    if ignore_index is not None and not hasattr(ignore_index, "__index__"):
        raise ParameterError(
            f"{function}: ignore_index got {shown(repr(ignore_index))}, expected a whole number or None"
        )


# ---------------------------------------------------------------- scores

_LOG_PROBS = r"log_?(probs?|probabilit(y|ies)|proba|softmax|likelihoods?)"
_KIND_NAMES = {  # tried in this order, since log_probs are also something_probs
    Kind.LOG_PROBS: re.compile(rf"(\w+_)?{_LOG_PROBS}(_\w+)?"),
    Kind.LOGITS: re.compile(r"(\w+_)?(logits?|raw_?scores?|decision_function)(_\w+)?"),
    Kind.PROBS: re.compile(r"(\w+_)?(probs?|probabilit(y|ies)|proba|softmax)"),
}
_NEUTRAL_NAMES = re.compile(r"(\w+_)?(scores?|outputs?|predictions?|preds?)|filtered_resps")  # the last is lm-eval's

_PREDICTED = re.compile(r"(\w+_)?(predicted|predictions?|preds?|y_?hat|forecasts?|estimates?)")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def kind_by_name(name: str) -> Kind | None:
    """The kind that a column name promises, if any."""
    plain = _plain(name)
    for kind, pattern in _KIND_NAMES.items():
        if pattern.fullmatch(plain):
            return kind
    return None


def class_prefix(name: str) -> str | None:
    """The beginning of a name like prob_cat that says what the column holds of a class."""
    return next(
        (name[: m.start()] for m in re.finditer(r"[^a-zA-Z0-9]", name[:-1]) if kind_by_name(name[: m.start()])), None
    )


def choose_scores(table: Table, request: Request) -> WideColumn:
    """The score column: the one named, else the only candidate with the name of scores."""
    named = request.scores()
    if named is not None:
        name, kind = named
        column = table.wide(name) or table.wide(name.removesuffix("_"))
        if column is not None:
            return column
        raise EvaluationError(
            f"--{kind.value} names '{shown(name)}', expected a column of numbers, of lists of them, or one column per "
            f"class ({shown(name)}_0, {shown(name)}_1, ...)."
            f"{_no_scores(table, lambda other: other in (name, name + '_'))} Columns: {table.describe()}"
        )
    known = [c for c in table.scores if promises_scores(c.name) and not c.unnamed]
    known = known or [c for c in table.scores if c.unnamed and c.class_names is None]
    if not known and not table.numbered_from_one:
        known = [c.widened for c in table.values if c.holds is Holds.FLOATS and _promises_a_score(c.name)]
    # Columns of any name come last: beside a prediction they are features of the row.
    known = known or [c for c in table.scores if c.unnamed]
    if len(known) == 1:
        return known[0]
    fix = "name it by --logits, --probs, --log-probs or --predictions"
    if not known:
        raise EvaluationError(
            f"found no column named like scores (logits, log_probs, probs, predictions, ...) that holds floats; {fix}."
            f"{_no_scores(table, promises_scores)} Columns: {table.describe()}"
        )
    raise EvaluationError(f"several columns are named like scores: {quoted([c.name for c in known])}; {fix}")


def promises_scores(name: str) -> bool:
    """Whether a column of this name should hold scores."""
    return kind_by_name(name) is not None or _NEUTRAL_NAMES.fullmatch(_plain(name)) is not None


def _promises_a_score(name: str) -> bool:
    """Whether a column of one number a row should hold a score or a prediction."""
    return promises_scores(name) or promises_a_quantity(name)


def promises_a_quantity(name: str) -> bool:
    """Whether a column of this name should hold what a model predicts, and no score."""
    return _PREDICTED.fullmatch(_plain(name)) is not None


def _no_scores(table: Table, meant: Callable[[str], bool]) -> str:
    """Why the columns that were meant are no scores, as sentences for the end of a message."""
    why = []
    for prefix in table.numbered_from_one:
        if meant(prefix) or prefix[0].isdigit():
            why.append(f" The columns '{shown(prefix)}' are numbered from 1, expected from 0")
    for column in table.values:
        if meant(column.name):
            why.append(f" '{shown(column.name)}' holds {shown(column.type)}, expected floats, one per class")
    return "".join(f"{sentence}." for sentence in why[:3])


def decide_kind(column: WideColumn, sample: NDArray[Any], request: Request) -> tuple[Kind, str]:
    """What the scores are, and how that was decided; `sample` is (n, C) rows from the start of the input."""
    named = request.scores()
    if named is not None:
        return named[1], f"by --{named[1].value}"
    x = sample[(sample < np.inf).all(axis=1)].astype(np.float64)  # -inf is a masked class; NaN and +inf say nothing
    name, kind = shown(column.name), kind_by_name(column.name)
    if not len(x):
        if kind is None:
            raise EvaluationError(
                f"the first rows of '{name}' hold no number; say what it holds by --logits or --probs"
            )
        return kind, "by its name"
    if _look_ranked(x):
        raise EvaluationError(
            f"every row of '{name}' falls from left to right, as the k largest scores do that some tools write. "
            "Expected one score per class in class order; if they are, say so by --logits, --probs or --log-probs"
        )
    if kind is Kind.LOGITS and _look_like_probs(x):
        raise EvaluationError(
            f"'{name}' is named like logits, but its rows lie in [0, 1] and sum to 1, as probabilities do. "
            f"Say which: --probs {name} or --logits {name}"
        )
    if kind is Kind.PROBS and not _look_like_probs(x):
        raise EvaluationError(
            f"'{name}' is named like probabilities, but {_why_not_probs(x)}. "
            f"Say what they are: --logits {name}, --log-probs {name}, or --probs {name} (each row is then divided by "
            "its sum)"
        )
    if kind is Kind.LOG_PROBS and (x > SUM_TOLERANCE).any():
        raise EvaluationError(
            f"'{name}' is named like log-probabilities, but holds {x.max():.6g}, and the logarithm of a probability "
            f"is at most 0. Say what they are: --logits {name} or --log-probs {name}"
        )
    if kind is not None:
        return kind, "by its name"
    if _look_like_probs(x):
        return Kind.PROBS, "because its rows lie in [0, 1] and sum to 1"
    if x.min() >= 0 and x.max() <= 1:
        raise EvaluationError(
            f"'{name}' lies in [0, 1], but {_why_not_probs(x)}. Say what it holds: --logits {name} or --probs {name}"
        )
    if _look_like_log_probs(x):
        return Kind.LOG_PROBS, "because the exponentials of its rows sum to 1"
    if column.class_names is not None:
        # Nothing but its type says that each of these columns is a class: one that is none would go unnoticed.
        raise EvaluationError(
            f"'{name}' are columns without a name for scores ({quoted(column.class_names)}), and {_why_not_probs(x)}. "
            f"If each of them is the score of a class, say what they hold: --logits {name}; or leave out the others"
        )
    return Kind.LOGITS, "by its values"


def _look_like_probs(x: NDArray[np.float64]) -> bool:
    return bool(
        x.min() >= 0 and x.max() <= 1 + SUM_TOLERANCE and np.abs(x.sum(axis=1) - 1).max() <= _SAMPLE_SUM_TOLERANCE
    )


def _look_like_log_probs(x: NDArray[np.float64]) -> bool:
    return bool(x.max() <= SUM_TOLERANCE and np.abs(np.exp(x).sum(axis=1) - 1).max() <= _SAMPLE_SUM_TOLERANCE)


def _why_not_probs(x: NDArray[np.float64]) -> str:
    if x.min() < 0 or x.max() > 1 + SUM_TOLERANCE:
        return f"its values run from {x.min():.6g} to {x.max():.6g}"
    sums = x.sum(axis=1)
    return f"its rows do not sum to 1 (for example {sums[np.abs(sums - 1).argmax()]:.6g})"


def _look_ranked(x: NDArray[np.float64]) -> bool:
    # Rows that are all alike are a constant model's, not a ranking.
    return bool(x.shape[1] >= 3 and len(x) >= _RANKED_ROWS and (x[:, 1:] <= x[:, :-1]).all() and (x != x[0]).any())


# ---------------------------------------------------------------- label

# A bare `correct` says whether the model was right; with a noun behind it, it is the truth.
_NOUN, _NUMBER = "(y|label|target|class|answer)s?", "(_?(ids?|idx|index))?"
_TRUTH = re.compile(
    rf"(true|gold|gt|actual|ground_?truth)(_?{_NOUN})?{_NUMBER}"
    rf"|correct_?{_NOUN}{_NUMBER}"
    r"|(y|label|target|class|truth)s?(_?(true|gold|gt|ids?|idx|index|test))?"
)


def choose_label(table: Table, request: Request, scores: WideColumn) -> Column:
    """The column of true labels: the one named, else the only column with the name of a truth.

    Names of predictions (pred, y_pred, argmax, ...) do not match, whatever their type.
    """
    usable: list[Column] = [c for c in table.values if c.holds is not Holds.OTHER]
    usable += [c for c in table.scores if c.name != scores.name]
    if request.label is not None:
        for column in (*usable, *table.marks):
            if request.label in (column.name, f"{column.name}_"):
                return _in_order(column, scores)
        raise EvaluationError(
            f"--label names '{shown(request.label)}', expected a column of one integer (or class name) per row, or one "
            "number per class for labels that do not exclude one another."
            f"{_no_label(table, lambda name: name == request.label)} Columns: {table.describe()}"
        )
    known = [c for c in (*usable, *(c for c in table.marks if _marks_all(c, scores))) if promises_truth(c.name)]
    if not known:
        raise EvaluationError(
            "found no column named like a true label (label, target, y_true, ...); name it by --label, never a "
            "column of predictions, or give the file that has it by --targets."
            f"{_no_label(table, promises_truth)} Columns: {table.describe()}"
        )
    if len(known) > 1:
        names = quoted([c.name for c in known])
        raise EvaluationError(f"several columns are named like a true label: {names}; name the truth by --label")
    column = _in_order(known[0], scores)
    if column.name == "label" and _looks_written_by_timm(table):
        raise EvaluationError(
            "columns 'filename', 'label' and 'prob' or 'logit' are what timm's inference.py writes, and its 'label' is "
            "the model's prediction, not the truth. Add a column with the true class and name it by --label "
            "(or pass --label label if it is the truth)"
        )
    return column


def _marks_all(marks: WideColumn, scores: WideColumn) -> bool:
    """Whether columns that begin like a truth are one for each class: no target_weight, target_count and the like."""
    if marks.class_names is not None and scores.class_names is not None:
        return set(marks.class_names) == set(scores.class_names)
    return marks.class_names is None and len(scores.members) in (1, len(marks.members))


def _in_order(label: Column, scores: WideColumn) -> Column:
    """One column of truth per class, in the order of the scores where both are called after their classes."""
    theirs, ours = scores.class_names, label.class_names
    if not isinstance(label, WideColumn) or theirs is None or ours is None or sorted(theirs) != sorted(ours):
        return label
    return replace(label, members=tuple(label.members[ours.index(name)] for name in theirs), class_names=theirs)


def truth_prefix(name: str) -> str | None:
    """The beginning of a name like label_cat that says what the column holds of a class."""
    if promises_truth(name):
        return None
    ends = [m.start() for m in re.finditer(r"[^a-zA-Z0-9]", name[:-1])]
    return next((name[:end] for end in reversed(ends) if promises_truth(name[:end])), None)


def promises_truth(name: str) -> bool:
    """Whether a column of this name should hold true labels."""
    return _TRUTH.fullmatch(_plain(name)) is not None


def _no_label(table: Table, meant: Callable[[str], bool]) -> str:
    every: list[Column] = [*table.scores, *table.values]
    columns = [c for c in every if meant(c.name)]
    return "".join(
        f" '{shown(c.name)}' holds {shown(c.type)}, expected one integer or class name per row." for c in columns[:3]
    )


def _looks_written_by_timm(table: Table) -> bool:
    names = {c.name for c in table.values}
    return "filename" in names and any(c.name in ("prob", "logit") for c in table.scores)


def choose_columns(
    table: Table, scores: WideColumn, label: Column, request: Request, *, own: bool = True, details: int = 3
) -> Columns:
    """The columns to read; `details` other columns of text or integers go with the most surprising rows.

    The label is one of this table (its `own`), or of another file.
    """
    names = Counter([*(c.name for c in table.scores if len(c.members) == 1), *(c.name for c in table.values)])
    for name in (*scores.members, *(label.members if own else ())):
        if names[name] > 1:
            raise EvaluationError(f"two columns are called '{shown(name)}'; write the file with different names")
    if scores.class_names is not None and isinstance(label, ValueColumn) and not label.text and not request.scores():
        raise EvaluationError(
            f"the columns of '{shown(scores.name)}' are called after their classes ({quoted(scores.class_names)}), and "
            f"label column '{shown(label.name)}' holds {shown(label.type)}: nothing says which number is which class. "
            f"If the labels count these columns from 0, name them by --logits, --probs or --log-probs"
        )
    taken = label.members if own else ()
    others = [name for name in detail_columns(table, scores.rows) if names[name] == 1 and name not in taken]
    return Columns(scores, label, tuple(others[:details]), class_values=table.class_values)


def detail_columns(table: Table, rows: int) -> list[str]:
    """Columns with something to show about each of the `rows` rows."""
    return [c.name for c in table.values if c.holds in (Holds.TEXT, Holds.INTEGERS) and not c.listed and c.rows == rows]


# ---------------------------------------------------------------- values of the label column


def truth(values: Values, columns: Columns, first_row: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """The truth of consecutive rows as the task has it, and which rows have none.

    (n,) indices of classes, (n, C) marks (1, 0 or UNKNOWN), or (n, k) quantities.
    """
    label = columns.label
    if columns.task is Task.REGRESSION:
        return quantities(values, label.name, first_row)
    if isinstance(label, WideColumn):
        return marks(np.asarray(values), label.name, first_row, columns.unknown)
    return indices(values, label, first_row, columns.class_names)


def quantities(values: Values, column: str, first_row: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(n, k) numbers; a row with NaN has none."""
    if isinstance(values, list):
        raise EvaluationError(f"target column '{shown(column)}' holds text, expected numbers to predict")
    numbers: NDArray[np.float64] = values.reshape(len(values), -1).astype(np.float64)
    return numbers, np.asarray(np.isnan(numbers).any(axis=1))


def marks(
    values: NDArray[Any], column: str, first_row: int, unknown: int | None
) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """(n, C) marks; a row of which no class is known has none."""
    left_out = unknown_marks(values, unknown)
    unfit = (values != 0) & (values != 1) & ~left_out
    if unfit.any():
        i, j = np.argwhere(unfit)[0].tolist()
        value = values[i, j]
        fix = "If it holds quantities, pass --task regression"
        if value == np.rint(value) and (value < 0 or value == 255):
            fix = f"If {value:g} says that it is not known whether the class is true, pass --ignore-index={value:g}"
        raise EvaluationError(
            f"label column '{shown(column)}' holds {value!s} for class {j} at row {first_row + i}, expected 0 or 1 for "
            f"each class, and null, NaN{'' if unknown is None else f' or {unknown}'} where that is unknown. {fix}"
        )
    return np.where(left_out, UNKNOWN, values == 1).astype(np.int8), np.asarray(left_out.all(axis=1))


def unknown_marks(values: NDArray[Any], unknown: int | None) -> NDArray[np.bool_]:
    """(n, C) where it is not known whether a class is true: NaN, and what stands for it."""
    left_out = np.isnan(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
    return left_out if unknown is None else np.asarray(left_out | (values == unknown))


def indices(
    values: Values, column: ValueColumn, first_row: int, class_names: tuple[str, ...] | None
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Labels as a reader yields them as indices, and which are missing."""
    if column.text:
        return name_indices(list(values), column.name, first_row, class_names)
    return label_indices(np.asarray(values), column.name, first_row)


def label_indices(
    values: NDArray[Any], column: str, first_row: int, role: str = "label"
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Integer labels as int64, and which are missing; floats are taken if they are whole numbers, NaN is no label."""
    missing = np.zeros(len(values), bool)
    unfit = missing
    if values.dtype.kind == "f":
        missing = np.isnan(values)
        unfit = ~missing & ~((values == np.rint(values)) & (np.abs(values) < 2**53))
        values = np.where(missing, 0, values)
    elif values.dtype == np.uint64:
        unfit = values > np.iinfo(np.int64).max
    if unfit.any():
        i = int(np.flatnonzero(unfit)[0])
        expected = "whole numbers 0..C-1. If it holds quantities to predict, pass --task regression"
        raise EvaluationError(
            f"{role} column '{shown(column)}' holds {values[i]!s} at row {first_row + i}, expected "
            f"{expected if role == 'label' else 'whole numbers'}"
        )
    return values.astype(np.int64), missing


def name_indices(
    names: Sequence[str | None], column: str, first_row: int, class_names: tuple[str, ...] | None
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Labels given as class names as indices, and which are missing."""
    if class_names is None:
        raise EvaluationError(
            f"label column '{shown(column)}' holds text, and the file does not say which class is which score. "
            "Name the classes in score order by --class-names, or in the file (Parquet: schema metadata "
            '"class_names", a JSON list; NPZ: an array class_names), or save integer labels. A text label that a tool '
            "wrote may be its prediction, not the truth"
        )
    index: dict[str | None, int] = {name: i for i, name in enumerate(class_names)}
    index[None] = 0
    for i, name in enumerate(names):
        if name not in index:
            raise EvaluationError(
                f"label column '{shown(column)}' holds '{shown(name)}' at row {first_row + i}, which is none of the "
                f"{len(class_names)} class names ('{shown(class_names[0])}', '{shown(class_names[-1])}', ...)"
            )
    return (
        np.fromiter((index[name] for name in names), np.int64, len(names)),
        np.fromiter((name is None for name in names), bool, len(names)),
    )
