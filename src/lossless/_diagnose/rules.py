"""The rules: each looks at a `Case` and says what it saw, or nothing.

A rule of numbers wants enough rows before it warns, since a handful of rows can look like anything. Who asks for a
diagnosis is told of fewer.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lossless._layout import without_dim

Floats = NDArray[np.float64]
Family = Literal[
    "scores", "log-probabilities", "probabilities", "binary scores", "binary probabilities", "numbers", "logs"
]
"""What a loss takes its first argument for; "logs" are those of kl_div."""

ENOUGH = 16
"""Rows of which a warning may speak."""
FEW = 4
"""Rows that suffice where a single row is a coincidence already."""


@dataclass(frozen=True)
class Case:
    """What the rules may see of a call."""

    function: str
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
    complete: bool = False
    "Whether these are all rows there are."
    asked: bool = False
    "Whether somebody asked for a diagnosis."
    patient: bool = False
    "Whether a model has had time to change since the first call."
    origin: Callable[[], str | None] = lambda: None
    "What made the numbers that are not finite."

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
    def kept(self) -> NDArray[np.bool_]:
        """Which of them count: not those whose target is the ignored one."""
        ignored = self.options.get("ignore_index")
        if self.t is None or self.t.ndim > 1 or ignored is None:
            return np.ones(self.number, bool)
        kept: NDArray[np.bool_] = np.asarray(self.t != ignored)
        return kept

    def place(self, row: int, name: str | None = None) -> str:
        """How the caller would index this row, counted among those seen."""
        lead = list(self.shape)
        if self.dim is not None and lead:
            del lead[self.dim]
        number = row if self.rows is None else int(self.rows[row])
        index: list[Any] = list(map(int, np.unravel_index(number, lead))) if lead else []
        if self.dim is not None and lead and name != self.names[1]:
            index.insert(self.dim, ":")
            while index and index[-1] == ":":
                index.pop()
        return f"{name or self.names[0]}[{', '.join(map(str, index))}]" if index else str(name or self.names[0])

    @property
    def seen(self) -> str:
        """Which rows were looked at, in words."""
        return f"all {self.number} {self.what}{'' if self.complete else ' looked at'}"


class Rule(NamedTuple):
    families: tuple[Family, ...]
    look: Callable[[Case], Iterator[tuple[str, str]]]
    of_numbers: bool
    "Whether it needs any."
    hint: bool
    "Whether it is for those alone who ask."


RULES: list[Rule] = []

SCORES: tuple[Family, ...] = ("scores",)
OF_CLASSES: tuple[Family, ...] = ("scores", "log-probabilities", "probabilities")
ALL: tuple[Family, ...] = (*OF_CLASSES, "binary scores", "binary probabilities", "numbers", "logs")


def rule(*families: Family, of_numbers: bool = True, hint: bool = False) -> Callable[[Any], Any]:
    """Register a generator of (name of a trouble, evidence) for cases of these families."""

    def register(look: Callable[[Case], Iterator[tuple[str, str]]]) -> Any:
        RULES.append(Rule(families, look, of_numbers, hint))
        return look

    return register


def examine(case: Case) -> Iterator[tuple[str, str]]:
    """(name of a trouble, evidence) of everything that the rules see."""
    with np.errstate(all="ignore"):
        for families, look, of_numbers, hint in RULES:
            if case.family in families and (case.number or not of_numbers) and (case.asked or not hint):
                yield from look(case)


# ---------------------------------------------------------------- what numbers look like


def looks_normalised(x: Floats, dtype: str) -> NDArray[np.bool_]:
    """(n,) whether a row is one of probabilities, as far as its dtype could say."""
    inside = np.all((x >= 0.0) & (x <= 1.0 + 1e-6), axis=1)
    normalised: NDArray[np.bool_] = inside & (np.abs(x.sum(axis=1) - 1.0) <= tolerance(dtype))
    return normalised


def tolerance(dtype: str) -> float:
    """Of a sum of probabilities."""
    return 1e-2 if dtype in ("float16", "bfloat16") else 1e-3


def written(row: Floats) -> str:
    """The first numbers of a row."""
    shown = ", ".join(f"{v:.4g}" for v in np.atleast_1d(row)[:4])
    return f"{shown}, ..." if np.size(row) > 4 else shown


# ---------------------------------------------------------------- shapes and options


@rule(*OF_CLASSES, of_numbers=False)
def one_class(case: Case) -> Iterator[tuple[str, str]]:
    if case.dim is not None and case.shape and case.shape[case.dim] == 1:
        yield "one-class", f"input has shape {list(case.shape)}: one class in dimension {case.dim}"


@rule("scores", "log-probabilities", of_numbers=False)
def classes_last(case: Case) -> Iterator[tuple[str, str]]:
    shape = case.shape
    if len(shape) < 3 or shape[-1] < 2 or not case.options.get("dim_by_rule"):
        return
    if shape[:-1] == case.target_shape == (shape[0], *shape[2:]):
        yield (
            "classes-last",
            (
                f"input has shape {list(shape)} and target {list(case.target_shape)}: classes in dimension 1, as "
                f"PyTorch has it, or {len(shape) - 1}"
            ),
        )


@rule("scores", of_numbers=False)
def negative_smoothing(case: Case) -> Iterator[tuple[str, str]]:
    if case.options.get("label_smoothing", 0.0) < 0.0:
        yield "negative-smoothing", f"label_smoothing is {case.options['label_smoothing']}"


@rule("binary scores", of_numbers=False)
def pos_weight_dimension(case: Case) -> Iterator[tuple[str, str]]:
    shape, weights = case.shape, case.options.get("pos_weight_shape")
    if len(shape) < 3 or weights is None or len(weights) != 1 or weights[0] < 2:
        return
    if weights[0] == shape[1] == shape[-1]:
        yield "pos-weight-dimension", f"pos_weight has shape {list(weights)} and input {list(shape)}"


@rule("scores", of_numbers=False)
def softmax_before(case: Case) -> Iterator[tuple[str, str]]:
    if case.made_by in ("softmax", "sigmoid"):
        yield "softmax-before-loss", f"input is the output of a {case.made_by}"


@rule("log-probabilities", of_numbers=False)
def softmax_before_nll(case: Case) -> Iterator[tuple[str, str]]:
    if case.made_by in ("softmax", "sigmoid"):
        yield "probabilities-in-nll-loss", f"input is the output of a {case.made_by}"


@rule("logs", of_numbers=False)
def softmax_before_kl(case: Case) -> Iterator[tuple[str, str]]:
    if case.made_by in ("softmax", "sigmoid"):
        yield "kl-of-probabilities", f"input is the output of a {case.made_by}"


@rule("binary scores", of_numbers=False)
def sigmoid_before(case: Case) -> Iterator[tuple[str, str]]:
    if case.made_by in ("softmax", "sigmoid"):
        yield "sigmoid-before-loss", f"{case.names[0]} is the output of a {case.made_by}"


# ---------------------------------------------------------------- numbers that are none


@rule(*ALL)
def not_finite(case: Case) -> Iterator[tuple[str, str]]:
    x = case.x
    assert x is not None
    if x.ndim > 1:
        peak = x.max(axis=1, initial=-np.inf)
        bad = ~np.isfinite(peak)
    else:
        bad = np.isnan(x) if case.family in ("binary scores", "binary probabilities", "logs") else ~np.isfinite(x)
        if case.family == "binary scores" and case.t is not None:  # infinite on the right side costs nothing
            bad |= ((x == np.inf) & (case.t < 1.0)) | ((x == -np.inf) & (case.t > 0.0))
    bad &= case.kept
    if bad.any():
        first = int(np.argmax(bad))
        row = np.atleast_1d(x[first])
        if np.all(row == -np.inf):
            what = "is -inf throughout"
        else:
            kind = "nan" if np.isnan(row).any() else "inf"
            at = int(np.argmax(np.isnan(row) if kind == "nan" else row == np.inf))
            what = f"is {row[0]}" if x.ndim == 1 else f"holds {kind} for class {at}"
        share = _share(bad, case) if case.bad is None else f"{case.bad} of {case.total} {case.what}"
        evidence = f"{case.place(first)} {what}; as in {share}"
        if case.dtype == "float16" and np.isinf(x[bad]).any():
            evidence += ". float16 ends at 65504: larger numbers became infinite"
        if (made := case.origin()) is not None:
            evidence += f". What made it: {made}"
        elif bad.all() and case.number > 1:
            evidence += ". All of them at once: most likely the weights of the model are not finite any more"
        yield "non-finite-input", evidence


@rule(*ALL)
def target_not_finite(case: Case) -> Iterator[tuple[str, str]]:
    if case.t is not None and case.t.dtype.kind == "f":
        t = case.t if case.t.ndim > 1 else case.t[:, None]
        bad = (np.isnan(t) if case.family == "logs" else ~np.isfinite(t)).any(axis=1) & case.kept
        if bad.any():
            first = int(np.argmax(bad))
            value = t[first][~np.isfinite(t[first])][0]
            yield (
                "non-finite-target",
                f"{case.place(first, case.names[1])} holds {value}; as in {_share(bad, case)}",
            )


@rule("scores", "log-probabilities")
def impossible_label(case: Case) -> Iterator[tuple[str, str]]:
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
        yield (
            "impossible-label",
            f"{case.place(first)} is -inf for {label}, the target; as in {_share(bad, case)}",
        )


def _share(bad: NDArray[np.bool_], case: Case) -> str:
    return f"{np.count_nonzero(bad)} of {case.number} {case.what}{'' if case.complete else ' looked at'}"


@rule("scores", "log-probabilities", "binary scores", "binary probabilities")
def all_ignored(case: Case) -> Iterator[tuple[str, str]]:
    if case.options.get("reduction") == "mean" and case.options.get("denominator") is None:
        kept = case.kept
        if case.t is not None and case.t.ndim == 1 and case.enough() and not kept.any() and case.complete:
            ignored = case.options["ignore_index"]
            yield "all-ignored", f"all {case.number} targets are {ignored}, the ignored one: the mean is NaN"


@rule("scores", "log-probabilities", "binary scores", "binary probabilities", "numbers", "logs", of_numbers=False)
def empty(case: Case) -> Iterator[tuple[str, str]]:
    if case.options.get("reduction") == "mean" and case.options.get("denominator") is None and 0 in case.shape:
        yield "all-ignored", f"{case.names[0]} has shape {list(case.shape)}: no elements, so the mean is NaN"


# ---------------------------------------------------------------- rows of scores


@rule("scores")
def probabilities_as_scores(case: Case) -> Iterator[tuple[str, str]]:
    if case.made_by in ("softmax", "sigmoid") or not _are_probabilities(case):
        return
    yield "softmax-before-loss", _as_probabilities(case)


@rule("log-probabilities")
def probabilities_as_logs(case: Case) -> Iterator[tuple[str, str]]:
    if case.made_by in ("softmax", "sigmoid"):
        return
    if _are_probabilities(case):
        yield "probabilities-in-nll-loss", _as_probabilities(case)
    elif case.enough() and case.x is not None:
        total = np.exp(case.x).sum(axis=1)
        off = np.abs(total - 1.0) > 1e-2
        if off.mean() > 0.5:
            yield (
                "scores-in-nll-loss",
                (f"exp of the rows sums to {total[off].min():.4g} to {total[off].max():.4g} in {_share(off, case)}"),
            )


def _are_probabilities(case: Case) -> bool:
    """Whether every row sums to 1, which scores do by chance once in thousands of rows of two classes."""
    x = case.x
    return (
        x is not None
        and x.ndim > 1
        and x.shape[1] > 1
        and case.enough(FEW)
        and bool(np.all(looks_normalised(x, case.dtype)))
    )


def _as_probabilities(case: Case) -> str:
    assert case.x is not None
    return f"{case.seen} lie in [0, 1] and sum to 1; {case.place(0)} is {written(case.x[0])}"


@rule("probabilities")
def unnormalised(case: Case) -> Iterator[tuple[str, str]]:
    x = case.x
    if x is None or not case.enough():
        return
    total = x.sum(axis=1)
    off = ~(np.abs(total - 1.0) <= 10 * tolerance(case.dtype)) & ~np.isnan(total)
    if off.mean() > 0.5:
        first = int(np.argmax(off))
        yield (
            "unnormalised-probabilities",
            f"{case.place(first)} sums to {total[first]:.4g}; as in {_share(off, case)}",
        )


@rule(*OF_CLASSES)
def constant_rows(case: Case) -> Iterator[tuple[str, str]]:
    x = case.x
    if x is None or x.shape[1] < 2 or case.number < ENOUGH or not (case.asked or case.patient):
        return
    if not np.isfinite(x).all() or not np.all(x == x[0]) or (case.t is not None and np.all(case.t == case.t[0])):
        return
    yield "constant-input", f"{case.seen} are {written(x[0])}, though their targets differ"


@rule("binary scores")
def constant_scores(case: Case) -> Iterator[tuple[str, str]]:
    x, t = case.x, case.t
    if x is None or t is None or case.number < ENOUGH or not (case.asked or case.patient):
        return
    if np.all(x == x[0]) and np.isfinite(x[0]) and not np.all(t == t[0]):
        yield "constant-input", f"{case.seen} are {x[0]:.4g}, though their targets differ"


@rule("scores", hint=True)
def saturated_rows(case: Case) -> Iterator[tuple[str, str]]:
    x = case.x
    if x is None or x.shape[1] < 2 or case.number < ENOUGH:
        return
    top = np.partition(x, -2, axis=1)[:, -2:]
    gap = top[:, 1] - top[:, 0]
    if np.all(np.isfinite(top)) and gap.min() > 30.0:
        yield "saturated-input", f"in {case.seen} the largest score leads by {gap.min():.4g} or more"


@rule("binary scores", hint=True)
def saturated_scores(case: Case) -> Iterator[tuple[str, str]]:
    x = case.x
    if x is not None and case.number >= ENOUGH and np.isfinite(x).all() and np.abs(x).min() > 30.0:
        yield "saturated-input", f"{case.seen} are at least {np.abs(x).min():.4g} away from 0"


@rule("scores", "probabilities", "log-probabilities", hint=True)
def one_label(case: Case) -> Iterator[tuple[str, str]]:
    t = case.t
    if t is not None and t.ndim == 1 and case.complete:
        labels = t[case.kept]
        if len(labels) >= ENOUGH and np.all(labels == labels[0]) and case.shape[case.dim or 0] > 1:
            yield "one-label", f"all {len(labels)} labels are {int(labels[0])}"


# ---------------------------------------------------------------- soft targets


@rule("scores", "probabilities")
def off_the_simplex(case: Case) -> Iterator[tuple[str, str]]:
    t = case.t
    if t is None or t.ndim < 2 or t.shape[1] < 2 or not np.isfinite(t).all():
        return
    total = t.sum(axis=1)
    flags = np.all((t == 0.0) | (t == 1.0))
    if flags and total.max() > 1.5 and case.enough(FEW):
        first = int(np.argmax(total))
        several = total > 1.5
        yield (
            "multi-hot-target",
            (f"{case.place(first, 'target')} marks {int(total[first])} classes; {_share(several, case)} mark several"),
        )
        return
    dtype = str(case.options.get("target_dtype", case.dtype))
    outside = (t < -1e-6) | (t > 1.0 + 1e-6)
    off = (np.abs(total - 1.0) > tolerance(dtype)) | outside.any(axis=1)
    if off.any() and case.enough():
        first = int(np.argmax(off))
        what = f"holds {t[first][outside[first]][0]:.4g}" if outside[first].any() else f"sums to {total[first]:.4g}"
        yield "not-a-distribution", f"{case.place(first, 'target')} {what}; as in {_share(off, case)}"


# ---------------------------------------------------------------- yes or no


@rule("binary scores")
def binary_target(case: Case) -> Iterator[tuple[str, str]]:
    t = case.t
    if t is None:
        return
    t = t[case.kept]
    outside = (t < -1e-6) | (t > 1.0 + 1e-6)
    if not outside.any() or not case.enough(FEW):
        return
    values = np.unique(t)
    seen = (
        f"{case.names[1]} holds numbers from {t.min():.4g} to {t.max():.4g}, {np.count_nonzero(outside)} of {t.size} "
        "outside [0, 1]"
    )
    if t.min() >= 0.0 and len(values) <= 1000 and np.array_equal(values, np.arange(values.max() + 1)):
        yield "class-ids-in-binary-loss", f"{seen}, all of them whole, without a gap"
    else:
        marks = np.unique(t[outside])
        yield "target-outside-unit", seen + (f", all of them {marks[0]:.4g}" if len(marks) == 1 else "")


@rule("binary scores", hint=True)
def probabilities_as_binary_scores(case: Case) -> Iterator[tuple[str, str]]:
    x = case.x
    if case.made_by in ("softmax", "sigmoid") or x is None or case.number < 256:
        return
    if x.min() > 0.0 and x.max() <= 1.0 and x.max() > 0.5:
        yield "probabilities-in-logits-loss", f"{case.seen} lie in [{x.min():.4g}, {x.max():.4g}], none is 0"


@rule("binary probabilities")
def hard_probabilities(case: Case) -> Iterator[tuple[str, str]]:
    x = case.x
    if x is not None and case.number >= ENOUGH:
        hard = (x == 0.0) | (x == 1.0)
        if hard.mean() > 0.5:
            yield "saturated-probabilities", f"exactly 0 or 1 are {_share(hard, case)}"


# ---------------------------------------------------------------- divergences


@rule("logs")
def logs_of_what(case: Case) -> Iterator[tuple[str, str]]:
    x = case.x
    if x is None or not case.enough(FEW):
        return
    if _are_probabilities(case):
        if case.made_by not in ("softmax", "sigmoid"):
            yield "kl-of-probabilities", _as_probabilities(case)
    elif (positive := x > 10 * tolerance(case.dtype)).any():
        first = int(np.argmax(positive.reshape(len(x), -1).any(axis=1)))
        yield (
            "kl-of-scores",
            (
                f"{case.place(first)} holds {np.max(x[first]):.4g}; {np.count_nonzero(positive)} of {x.size} numbers "
                "are positive"
            ),
        )
    elif x.ndim > 1 and case.complete:
        yield from _not_normalised(np.exp(x), case, "exp(input)", "input")


@rule("logs")
def target_of_what(case: Case) -> Iterator[tuple[str, str]]:
    t = case.t
    if t is None or t.size == 0 or not case.enough(FEW):
        return
    dtype = str(case.options.get("target_dtype", case.dtype))
    normalised = t.ndim > 1 and t.shape[1] > 1 and bool(np.all(looks_normalised(t, dtype)))
    if case.options.get("log_target"):
        if normalised:
            yield (
                "kl-log-target-of-probabilities",
                (f"log_target=True, and {case.seen} of target sum to 1; {case.place(0, 'target')} is {written(t[0])}"),
            )
        elif t.ndim > 1 and case.complete:
            yield from _not_normalised(np.exp(t), case, "exp(target)", "target")
    elif (t < -1e-6).any():
        negative = t < -1e-6
        yield (
            "kl-target-of-logs",
            f"target holds {t.min():.4g}; {np.count_nonzero(negative)} of {t.size} numbers are negative",
        )
    elif t.ndim > 1 and case.complete and not normalised:
        yield from _not_normalised(t, case, "target", "target")


def _not_normalised(p: Floats, case: Case, what: str, name: str) -> Iterator[tuple[str, str]]:
    total = p.sum(axis=1)
    off = np.abs(total - 1.0) > 1e-2
    if off.any():
        first = int(np.argmax(off))
        yield (
            "kl-not-normalised",
            f"{what} sums to {total[first]:.4g} in {case.place(first, name)}; as in {_share(off, case)}",
        )
