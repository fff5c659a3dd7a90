"""The rules: each looks at a `Case` and says what it saw, or nothing.

A rule of numbers wants enough rows before it warns, since a handful of rows can look like anything. Who asks for a
diagnosis is told of fewer.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lossless._layout import without_dim

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Seen = Iterator[tuple[str, str]]
"""(name of a trouble, evidence)"""
Family = Literal[
    "scores", "log-probabilities", "probabilities", "binary scores", "binary probabilities", "numbers", "logs"
]
"""What a loss takes its first argument for; "logs" are those of kl_div."""
FAMILIES: dict[str, Family] = {
    **dict.fromkeys(("cross_entropy", "focal_loss", "row_statistics"), "scores"),
    **dict.fromkeys(("categorical_cross_entropy", "sparse_categorical_cross_entropy"), "probabilities"),
    **dict.fromkeys(("binary_cross_entropy_with_logits", "sigmoid_focal_loss"), "binary scores"),
    **dict.fromkeys(("mse_loss", "rmse_loss"), "numbers"),
    "nll_loss": "log-probabilities",
    "binary_cross_entropy": "binary probabilities",
    "kl_div": "logs",
}
"""That of each function; `from_logits` makes scores of probabilities."""

ENOUGH = 16
"""Rows of which a warning may speak."""
FEW = 4
"""Rows that suffice where a single row is a coincidence already."""
OFF = 1e-2
"""How far from 1 a target may sum: bfloat16 probabilities of a thousand classes do by as much."""


@dataclass(frozen=True)
class Case:
    """What the rules may see of a call."""

    family: Family
    shape: tuple[int, ...]
    "Of the first argument."
    dim: int | None
    "Where its classes lie; None for a loss of single numbers."
    options: dict[str, Any]
    names: tuple[str, str] = ("input", "target")
    "Of the two arrays."
    target_shape: tuple[int, ...] | None = None
    made_by: str | None = None
    "The operation that made the first argument, as far as anybody knows."
    dtype: str = "float64"
    "Of the first argument."
    x: Floats | None = None
    "(n, C) rows of the first argument, or (n,) numbers; None where they may not be looked at."
    t: NDArray[Any] | None = None
    "Their (n,) labels, (n, C) probabilities or (n,) numbers."
    rows: NDArray[np.intp] | None = None
    "(n,) their numbers among all rows."
    bad: int | None = None
    "How many of all rows are not finite, if somebody counted."
    all_ignored: bool = False
    "Whether all labels are the ignored one, those not seen too."
    complete: bool = False
    "Whether these are all rows there are."
    asked: bool = False
    "Whether somebody asked for a diagnosis."
    known: frozenset[str] = frozenset()
    "Troubles that other calls of this line have shown not to be there."
    constant_before: tuple[float, ...] | None = None
    "What all rows were when this line was looked at before, if they were the same."
    origin: Callable[[], str | None] | None = None
    "What made the numbers that are not finite: None if nobody could know, an empty word if nobody found it."
    proven: set[str] = field(default_factory=set)
    "Troubles that this call shows not to be there."

    @property
    def what(self) -> str:
        """The loss is a sum over."""
        return "elements" if self.dim is None else "rows"

    @property
    def total(self) -> int:
        """Of rows, seen or not."""
        return prod(self.shape) if self.dim is None else prod(without_dim(self.shape, self.dim))

    @property
    def number(self) -> int:
        """Of the rows that are seen."""
        return 0 if self.x is None else len(self.x)

    def enough(self, rows: int = ENOUGH) -> bool:
        """Whether so many rows were there; of many classes a look takes fewer."""
        return self.number >= (1 if self.asked else rows if self.total < rows else min(rows, FEW))

    @property
    def kept(self) -> Flags:
        """Which of them count: not those whose target is the ignored one."""
        ignored = self.options.get("ignore_index")
        if self.t is None or self.t.ndim > 1 or ignored is None:
            return np.ones(self.number, bool)
        kept: Flags = np.asarray(self.t != ignored)
        return kept

    @property
    def constant_row(self) -> tuple[float, ...] | None:
        """What all rows are, if they are the same."""
        x = self.x
        if x is None or len(x) < ENOUGH or not np.all(x == x[0]):
            return None
        return tuple(np.atleast_1d(x[0]).tolist())

    def place(self, row: int, name: str | None = None) -> str:
        """How the caller would index this row, counted among those seen."""
        lead = list(self.shape)
        if self.dim is not None and lead:
            del lead[self.dim]
        number = row if self.rows is None else int(self.rows[row])
        index: list[Any] = list(map(int, np.unravel_index(number, lead))) if lead else []
        of_classes = name != self.names[1] or (self.t is not None and self.t.ndim > 1)
        if self.dim is not None and lead and of_classes:
            index.insert(self.dim, ":")
            while index and index[-1] == ":":
                index.pop()
        return f"{name or self.names[0]}[{', '.join(map(str, index))}]" if index else str(name or self.names[0])

    def share(self, which: Flags) -> str:
        """How many of the rows seen, in words."""
        return f"{np.count_nonzero(which)} of {self.number} {self.what}{'' if self.complete else ' looked at'}"

    @property
    def seen(self) -> str:
        """Which rows were looked at, in words."""
        return f"all {self.number} {self.what}{'' if self.complete else ' looked at'}"

    @property
    def first(self) -> str:
        """The first of the rows that are seen."""
        assert self.x is not None
        return f"{self.place(0)} is {written(self.x[0])}"


class Rule(NamedTuple):
    families: tuple[Family, ...]
    look: Callable[[Case], Seen]
    of_numbers: bool
    "Whether it needs any."
    hint: bool
    "Whether it is for those alone who ask."


RULES: list[Rule] = []

OF_CLASSES: tuple[Family, ...] = ("scores", "log-probabilities", "probabilities")
ALL: tuple[Family, ...] = (*OF_CLASSES, "binary scores", "binary probabilities", "numbers", "logs")


def rule(*families: Family, of_numbers: bool = True, hint: bool = False) -> Callable[[Any], Any]:
    """Register what looks at cases of these families."""

    def register(look: Callable[[Case], Seen]) -> Any:
        RULES.append(Rule(families, look, of_numbers, hint))
        return look

    return register


def examine(case: Case) -> Seen:
    """Everything that the rules see."""
    with np.errstate(all="ignore"):
        for families, look, of_numbers, hint in RULES:
            if case.family in families and (case.number or not of_numbers) and (case.asked or not hint):
                yield from look(case)


# ---------------------------------------------------------------- what numbers look like


def looks_normalised(x: Floats, dtype: str) -> Flags:
    """(n,) whether a row is one of probabilities, as far as its dtype could say."""
    inside = np.all((x >= 0.0) & (x <= 1.0 + 1e-6), axis=1)
    near = OFF if dtype in ("float16", "bfloat16") else 1e-3
    normalised: Flags = inside & (np.abs(x.sum(axis=1) - 1.0) <= near)
    return normalised


def written(row: Floats) -> str:
    """The first numbers of a row."""
    shown = ", ".join(f"{v:.4g}" for v in np.atleast_1d(row)[:4])
    return f"{shown}, ..." if np.size(row) > 4 else shown


def span(a: Floats) -> str:
    """The smallest and the largest of some numbers, in words."""
    low, high = a.min(), a.max()
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


# ---------------------------------------------------------------- shapes and options


@rule(*OF_CLASSES, of_numbers=False)
def one_class(case: Case) -> Seen:
    if case.dim is not None and case.shape and case.shape[case.dim] == 1:
        yield "one-class", f"input has shape {list(case.shape)}: one class in dimension {case.dim}"


@rule("scores", "log-probabilities", of_numbers=False)
def classes_last(case: Case) -> Seen:
    shape = case.shape
    if len(shape) < 3 or not case.options.get("dim_by_rule") or case.target_shape != (shape[0], *shape[2:]):
        return
    if case.target_shape != shape[:-1]:  # calls of another shape say where the classes are
        case.proven.add("classes-last")
    elif shape[-1] > 1 and "classes-last" not in case.known:
        yield (
            "classes-last",
            f"input has shape {list(shape)} and target {list(case.target_shape)}: dimension 1 holds the classes, "
            f"as in PyTorch, or dimension {len(shape) - 1}",
        )


@rule("scores", of_numbers=False)
def negative_smoothing(case: Case) -> Seen:
    if case.options.get("label_smoothing", 0.0) < 0.0:
        yield "negative-smoothing", f"label_smoothing is {case.options['label_smoothing']}"


@rule("binary scores", of_numbers=False)
def pos_weight_dimension(case: Case) -> Seen:
    shape, weights = case.shape, case.options.get("pos_weight_shape")
    if len(shape) < 3 or weights is None or len(weights) != 1 or weights[0] < 2:
        return
    if weights[0] != shape[1]:  # it can only mean the last dimension
        case.proven.add("pos-weight-dimension")
    elif weights[0] == shape[-1] and "pos-weight-dimension" not in case.known:
        yield "pos-weight-dimension", f"pos_weight has shape {list(weights)} and input {list(shape)}"


BEFORE: dict[Family, str] = {
    "scores": "softmax-before-loss",
    "log-probabilities": "probabilities-in-nll-loss",
    "binary scores": "sigmoid-before-loss",
    "logs": "kl-of-probabilities",
}
"""What it is called where probabilities are given for something else."""


@rule(*BEFORE, of_numbers=False)
def made_of_probabilities(case: Case) -> Seen:
    if case.made_by is not None:
        yield BEFORE[case.family], f"{case.names[0]} is the output of a {case.made_by}"


# ---------------------------------------------------------------- numbers that are none


@rule(*ALL)
def not_finite(case: Case) -> Seen:
    x = case.x
    assert x is not None
    if case.family == "logs":
        bad = (np.isnan(x) | (x == np.inf)).reshape(len(x), -1).any(axis=1)
    elif x.ndim > 1:
        bad = ~np.isfinite(x.max(axis=1, initial=-np.inf))
    elif case.family in ("binary scores", "binary probabilities"):
        bad = np.isnan(x)
        if case.family == "binary scores" and case.t is not None:  # infinite on the right side costs nothing
            bad |= ((x == np.inf) & (case.t < 1.0)) | ((x == -np.inf) & (case.t > 0.0))
    else:
        bad = ~np.isfinite(x)
    bad &= case.kept
    if not bad.any():
        return
    first = int(np.argmax(bad))
    row = np.atleast_1d(x[first])
    if x.ndim == 1:
        what = f"is {row[0]}"
    elif np.all(row == -np.inf):
        what = "is -inf throughout"
    else:
        kind = "nan" if np.isnan(row).any() else "inf"
        what = f"holds {kind} for class {int(np.argmax(np.isnan(row) if kind == 'nan' else row == np.inf))}"
    share = case.share(bad) if case.bad is None else f"{case.bad} of {case.total} {case.what}"
    evidence = f"{case.place(first)} {what}; as in {share}"
    if case.dtype == "float16" and np.isinf(x[bad]).any():
        evidence += ". float16 ends at 65504: larger numbers became infinite"
    made = case.origin() if case.origin is not None else None
    if made:
        evidence += f". What made it: {made}"
    elif case.origin is not None and made is None and bad.all() and case.number > 1:
        evidence += ". All of them at once: most likely the weights of the model are not finite any more"
    yield "non-finite-input", evidence


@rule(*ALL)
def target_not_finite(case: Case) -> Seen:
    if case.t is not None and case.t.dtype.kind == "f":
        t = case.t if case.t.ndim > 1 else case.t[:, None]
        bad = (np.isnan(t) if case.family == "logs" else ~np.isfinite(t)).any(axis=1) & case.kept
        if bad.any():
            first = int(np.argmax(bad))
            value = t[first][~np.isfinite(t[first])][0]
            yield "non-finite-target", f"{case.place(first, case.names[1])} holds {value}; as in {case.share(bad)}"


@rule("scores", "log-probabilities")
def impossible_label(case: Case) -> Seen:
    x, t = case.x, case.t
    if x is None or t is None or x.ndim < 2:
        return
    whole = np.isfinite(x.max(axis=1, initial=-np.inf)) & case.kept
    if t.ndim > 1:
        bad = whole & ((t > 0.0) & (x == -np.inf)).any(axis=1)
    else:
        inside = (t >= 0) & (t < x.shape[1])
        score = np.take_along_axis(x, np.where(inside, t, 0).astype(np.intp)[:, None], axis=1)[:, 0]
        bad = whole & inside & (score == -np.inf)
    if bad.any():
        first = int(np.argmax(bad))
        label = f"class {int(t[first])}" if t.ndim == 1 else "a class of positive probability"
        yield "impossible-label", f"{case.place(first)} is -inf for {label}, the target; as in {case.share(bad)}"


@rule("scores", "log-probabilities", "binary scores", "binary probabilities", "numbers", "logs", of_numbers=False)
def nothing_counts(case: Case) -> Seen:
    if case.options.get("reduction") != "mean" or case.options.get("denominator") is not None:
        return
    if 0 in case.shape:
        yield "all-ignored", f"{case.names[0]} has shape {list(case.shape)}: no elements, so the mean is NaN"
    elif case.all_ignored and case.enough():
        ignored = case.options["ignore_index"]
        yield "all-ignored", f"all {case.total} targets are {ignored}, the ignored one: the mean is NaN"


# ---------------------------------------------------------------- rows of scores


@rule("scores", "log-probabilities", "logs")
def looks_like_probabilities(case: Case) -> Seen:
    if case.made_by is None and are_probabilities(case) and not _is_swapped(case):
        yield BEFORE[case.family], f"{case.seen} lie in [0, 1] and sum to 1; {case.first}"


def are_probabilities(case: Case) -> bool:
    """Whether every row sums to 1, which scores do by chance once in thousands of rows of two classes."""
    x = case.x
    if x is None or x.ndim < 2 or x.shape[1] < 2 or not case.enough(FEW):
        return False
    return bool(np.all(looks_normalised(x, case.dtype)))


@rule("log-probabilities", hint=True)
def scores_for_logs(case: Case) -> Seen:
    x = case.x
    if x is None or x.ndim < 2 or case.made_by is not None or are_probabilities(case):
        return
    total = np.exp(x).sum(axis=1)
    off = np.abs(total - 1.0) > OFF
    if off.mean() > 0.5:
        yield "scores-in-nll-loss", f"exp of the rows sums to {span(total[off])} in {case.share(off)}"


@rule("probabilities")
def unnormalised(case: Case) -> Seen:
    x = case.x
    if x is None or x.ndim < 2 or not case.enough():
        return
    total = x.sum(axis=1)
    off = ~(np.abs(total - 1.0) <= OFF) & ~np.isnan(total)
    if off.mean() > 0.5:
        first = int(np.argmax(off))
        yield "unnormalised-probabilities", f"{case.place(first)} sums to {total[first]:.4g}; as in {case.share(off)}"


@rule(*OF_CLASSES, "binary scores")
def constant(case: Case) -> Seen:
    row, t = case.constant_row, case.t
    if row is None or t is None or not np.isfinite(row).all() or np.all(t == t[0]):
        return
    if case.dim is not None and len(row) < 2:
        return
    # A last layer of zeros is no trouble before the first step; one that has moved, and is still the same, is.
    if case.asked or (case.constant_before is not None and case.constant_before != row):
        yield "constant-input", f"{case.seen} are {written(np.array(row))}, though their targets differ"


@rule("scores", hint=True)
def saturated_rows(case: Case) -> Seen:
    x = case.x
    if x is None or x.ndim < 2 or x.shape[1] < 2 or case.number < ENOUGH:
        return
    top = np.partition(x, -2, axis=1)[:, -2:]
    gap = top[:, 1] - top[:, 0]
    if np.all(np.isfinite(top)) and gap.min() > 30.0:
        yield "saturated-input", f"in {case.seen} the largest score leads by {gap.min():.4g} or more"


@rule("binary scores", hint=True)
def saturated_scores(case: Case) -> Seen:
    x = case.x
    if x is not None and case.number >= ENOUGH and np.isfinite(x).all() and np.abs(x).min() > 30.0:
        yield "saturated-input", f"{case.seen} are at least {np.abs(x).min():.4g} away from 0"


@rule(*OF_CLASSES, hint=True)
def one_label(case: Case) -> Seen:
    t = case.t
    if t is not None and t.ndim == 1 and case.complete:
        labels = t[case.kept]
        if len(labels) >= ENOUGH and np.all(labels == labels[0]) and case.shape[case.dim or 0] > 1:
            yield "one-label", f"all {len(labels)} labels are {int(labels[0])}"


# ---------------------------------------------------------------- soft targets


@rule("scores", "probabilities")
def off_the_simplex(case: Case) -> Seen:
    t = case.t
    if t is None or t.ndim < 2 or t.shape[1] < 2 or not np.isfinite(t).all():
        return
    total, name = t.sum(axis=1), case.names[1]
    if np.all((t == 0.0) | (t == 1.0)) and total.max() > 1.5 and case.enough(FEW):
        several = total > 1.5
        first = int(np.argmax(several))
        marks = f"{case.place(first, name)} marks {int(total[first])} classes"
        yield "multi-hot-target", f"{marks}; {case.share(several)} mark several"
        return
    outside = (t < -1e-6) | (t > 1.0 + 1e-6)
    off = (np.abs(total - 1.0) > OFF) | outside.any(axis=1)
    off &= (t != 0.0).any(axis=1)  # a row of zeros is left out by whoever made it
    if off.any() and case.enough():
        first = int(np.argmax(off))
        what = f"holds {t[first][outside[first]][0]:.4g}" if outside[first].any() else f"sums to {total[first]:.4g}"
        yield "not-a-distribution", f"{case.place(first, name)} {what}; as in {case.share(off)}"


# ---------------------------------------------------------------- yes or no


@rule("binary scores")
def binary_target(case: Case) -> Seen:
    if case.t is None or not case.enough(FEW):
        return
    t = case.t[case.kept]
    t = t[np.isfinite(t)]
    outside = (t < -1e-6) | (t > 1.0 + 1e-6)
    if not outside.any():
        return
    values, marks = np.unique(t), np.unique(t[outside])
    if len(marks) == 1 and (case.options.get("weighted") or case.options.get("reduction") == "none"):
        return  # a mark, of elements that a weight or a mask leaves out
    seen = f"{case.names[1]} holds {span(t)}; {np.count_nonzero(outside)} of {t.size} numbers are outside [0, 1]"
    if values[0] == 0.0 and 2 < len(values) == values[-1] + 1 <= 200 and np.all(values == np.rint(values)):
        yield "class-ids-in-binary-loss", f"{seen}, all of them whole, without a gap"
    else:
        yield "target-outside-unit", seen + (f", all of them {marks[0]:.4g}" if len(marks) == 1 else "")


@rule("binary scores", hint=True)
def probabilities_as_binary_scores(case: Case) -> Seen:
    x = case.x
    if case.made_by is not None or x is None or case.number < 256:
        return
    if x.min() > 0.0 and 0.5 < x.max() <= 1.0:
        yield "probabilities-in-logits-loss", f"{case.seen} lie in [{x.min():.4g}, {x.max():.4g}], none is 0"


@rule("binary probabilities")
def hard_probabilities(case: Case) -> Seen:
    x = case.x
    if x is not None and case.number >= ENOUGH:
        ones, hard = x == 1.0, (x == 0.0) | (x == 1.0)
        if hard.mean() > 0.5 and ones.mean() > 0.1:  # zeros alone come of a mask
            yield "saturated-probabilities", f"exactly 0 or 1 are {case.share(hard)}"


# ---------------------------------------------------------------- divergences


def _is_swapped(case: Case) -> bool:
    """Whether kl_div has the target's probabilities first and the model's logarithms second."""
    t = case.t
    return (
        case.family == "logs"
        and not case.options.get("log_target")
        and t is not None
        and t.ndim > 1
        and are_probabilities(case)
        and bool(np.all(np.abs(np.exp(t).sum(axis=1) - 1.0) <= OFF))
    )


@rule("logs")
def swapped(case: Case) -> Seen:
    if _is_swapped(case):
        yield "kl-swapped", f"the rows of input sum to 1, and the exponentials of those of target; {case.first}"


@rule("logs")
def logs_of_scores(case: Case) -> Seen:
    x = case.x
    if x is None or not case.enough(FEW) or case.made_by is not None or are_probabilities(case):
        return
    if (positive := x > 0.1).any():
        first = int(np.argmax(positive.reshape(len(x), -1).any(axis=1)))
        numbers = f"{np.count_nonzero(positive)} of {x.size} numbers are positive"
        yield "kl-of-scores", f"{case.place(first)} holds {np.max(x[first]):.4g}; {numbers}"
    elif x.ndim > 1 and case.complete and case.asked:
        yield from _not_normalised(np.exp(x), case, "exp(input)", case.names[0])


@rule("logs")
def target_of_what(case: Case) -> Seen:
    t = case.t
    if t is None or t.size == 0 or not case.enough(FEW) or _is_swapped(case):
        return
    normalised = t.ndim > 1 and t.shape[1] > 1 and bool(np.all(looks_normalised(t, "bfloat16")))
    if case.options.get("log_target"):
        if normalised:
            first = f"{case.place(0, 'target')} is {written(t[0])}"
            yield "kl-log-target-of-probabilities", f"log_target=True, and {case.seen} of target sum to 1; {first}"
        elif t.ndim > 1 and case.complete and case.asked:
            yield from _not_normalised(np.exp(t), case, "exp(target)", "target")
    elif (negative := t < -1e-6).any():
        numbers = f"target holds {span(t)}; {np.count_nonzero(negative)} of {t.size} numbers are negative"
        yield ("kl-target-of-scores" if (t > 0.1).any() else "kl-target-of-logs"), numbers
    elif t.ndim > 1 and case.complete and case.asked and not normalised:
        yield from _not_normalised(t, case, "target", "target")


def _not_normalised(p: Floats, case: Case, what: str, name: str) -> Seen:
    total = p.sum(axis=1)
    off = (np.abs(total - 1.0) > OFF) & (p != 0.0).any(axis=1)  # a row of zeros is left out by whoever made it
    if off.any():
        first = int(np.argmax(off))
        yield (
            "kl-not-normalised",
            f"{what} sums to {total[first]:.4g} in {case.place(first, name)}; as in {case.share(off)}",
        )
