"""What all rows together say is wrong: rules over the exact counts of a run.

Each looks at a `Whole` and says what it saw, or nothing. A warning wants evidence that good predictions do not give by
chance; what may be intended is a hint. `troubles.toml` says which is which, with cause and fix.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lossless._diagnose.finding import Finding, Findings, found
from lossless._diagnose.rules import ENOUGH, written
from lossless._diagnose.troubles import troubles
from lossless.errors import ParameterError

from .accumulators import ClassFigures, Count, MeanResult
from .confusion import ConfusionResult
from .results import why_not_scored
from .rows import Integers, Kind
from .signs import SATURATED, Constant, Normalised, Repeated, Saturated, Unsoftened, most_confident
from .text import shown

if TYPE_CHECKING:
    from .plan import Plan
    from .screening import Screening
    from .slices import Slicing

LEVELS = {
    "any": ("error", "warning", "hint"),
    "hint": ("error", "warning", "hint"),
    "warning": ("error", "warning"),
    "error": ("error",),
}
"""Names that stand for the findings of a severity, and of graver ones."""
_EXPLAINING = {
    *("softmax-before-loss", "softmax-twice", "labels-off-by-one", "permuted-classes", "constant-input"),
    *("sigmoid-before-loss", "sigmoid-twice"),
}
_EXPLAINED = {"over-confident", "under-confident", "dead-class", "uniform-rows", "other-threshold"}
"""What follows from those, and need not be told beside them."""
SIGNIFICANT = 4.0  # standard errors: once in 16,000 sound evaluations
_GAP = 0.03  # of confidence and accuracy: a sound model on new rows has less, however many rows show it
_OFTEN = 0.8  # the share of a label's rows that a class takes if it is most likely the same class under another name
_RENAMED_CLASSES = 256  # a matrix of their counts is 512 KiB
FEW_ROWS = 10  # of a class, from which on it is strange that none is right
_MOST_COPIES = 16
MANY = 32  # rows, or distinct rows, of which a rule about coincidences may speak

Seen = Iterator[tuple[str, str]]
"""(name of a trouble, evidence)"""


@dataclass(frozen=True)
class Whole:
    """All rows of an input, as the rules see them."""

    plan: Plan
    screening: Screening
    results: Mapping[str, Any]

    @cached_property
    def rows(self) -> int:
        nll: MeanResult = self.results["nll"]
        return nll.rows

    @property
    def accuracy(self) -> float:
        return int(self.results["label_ranks"][0]) / self.rows

    @property
    def confidence(self) -> float:
        return float(self.results["confidence"].value)

    @property
    def classes(self) -> tuple[ClassFigures, ...]:
        """Those that occur as labels or are predicted."""
        classes: tuple[ClassFigures, ...] = self.results["classes"]
        return classes

    @property
    def scores(self) -> str:
        return f"'{shown(self.plan.columns.scores.name)}'"

    @property
    def label(self) -> str:
        return f"'{shown(self.plan.columns.label.name)}'"

    def name(self, index: int) -> str:
        """Of a class."""
        names = self.plan.columns.class_names
        return f"'{shown(names[index])}'" if names else str(index)

    def place(self, at: Count) -> str:
        return self.at(at.file, at.row)

    def at(self, file: int, row: int) -> str:
        return f"row {row} of {shown(self.plan.paths[file])}"

    def share(self, count: int) -> str:
        return f"all {count} rows" if count == self.rows else f"{count} of {self.rows} rows"

    def by_chance(self, step: int) -> float:
        """Share of rows predicted as the class `step` after their label, if the one knew nothing of the other."""
        predicted = {c.index: c.predicted for c in self.classes}
        pairs = (c.support * predicted.get((c.index + step) % self.plan.classes, 0) for c in self.classes)
        return sum(pairs) / self.rows**2

    def is_surely_off(self) -> bool:
        """Whether accuracy and confidence differ by more than calibrated probabilities would by chance."""
        gap, variance = self.confidence - self.accuracy, self.confidence * (1.0 - self.confidence)
        # The variance of a row is p (1 - p), whose mean is at most that of the mean confidence: on the safe side.
        return abs(gap) > _GAP and gap * gap * self.rows > SIGNIFICANT**2 * variance


RULES: list[Callable[[Whole], Seen]] = []


def rule(look: Callable[[Whole], Seen]) -> Callable[[Whole], Seen]:
    """Register what looks at all rows."""
    RULES.append(look)
    return look


def examine(
    plan: Plan, screening: Screening, results: Mapping[str, Any], rules: Sequence[Callable[[Whole], Seen]] = RULES
) -> tuple[Finding, ...]:
    """What the rules of a task see, the gravest first."""
    whole = Whole(plan, screening, results)
    seen = [found(name, "evaluate", evidence) for look in rules for name, evidence in look(whole)]
    if _EXPLAINING & {finding.name for finding in seen}:
        seen = [finding for finding in seen if finding.name not in _EXPLAINED]
    return tuple(Findings(seen, "evaluate"))


def known() -> tuple[str, ...]:
    """The names of what may be found."""
    return tuple(trouble.name for trouble in troubles().values() if "files" in trouble.found_in)


def check_names(names: Iterable[str]) -> None:
    """Raise for a name that is neither a finding's nor a severity's."""
    for name in names:
        if name not in LEVELS and name not in known():
            raise ParameterError(
                f"got '{shown(name)}', expected {', '.join(LEVELS)} or a finding: {', '.join(sorted(known()))}"
            )


def among(findings: Iterable[Finding], names: Iterable[str]) -> tuple[Finding, ...]:
    """The findings of these names; "warning" stands for warnings and errors, "any" and "hint" for all."""
    names = set(names)
    check_names(names)
    severities = {severity for name in names for severity in LEVELS.get(name, ())}
    return tuple(finding for finding in findings if finding.name in names or finding.severity in severities)


# ---------------------------------------------------------------- scores


@rule
def no_distribution(whole: Whole) -> Seen:
    lost = whole.screening.no_distribution
    if lost.rows:
        yield (
            "non-finite-input",
            f"{lost.rows} of {whole.plan.rows} rows {why_not_scored(whole.plan.columns.task)} and were left out "
            f"(first: {whole.place(lost)})",
        )


@rule
def off_sum(whole: Whole) -> Seen:
    off: Count = whole.results["peculiar"].off_sum
    if off.rows:
        yield (
            "unnormalised-rows",
            f"{off.rows} rows of {whole.plan.kind.value} do not sum to 1 within {whole.plan.sum_tolerance:g}; every "
            f"row is divided by its sum (first: {whole.place(off)})",
        )


@rule
def infinite(whole: Whole) -> Seen:
    nothing: Count = whole.results["peculiar"].infinite
    if nothing.rows:
        yield (
            "zero-probability" if whole.plan.kind is Kind.PROBS else "impossible-label",
            f"the loss is infinite because {nothing.rows} rows give their label probability 0 (first: "
            f"{whole.place(nothing)}); {whole.results['nll'].rest()}",
        )


@rule
def softmax(whole: Whole) -> Seen:
    if whole.plan.kind is Kind.LOGITS:
        normalised: Normalised = whole.results["normalised"]
        if 2 * normalised.found.rows > whole.rows and normalised.row is not None:
            yield (
                "softmax-before-loss",
                f"{whole.share(normalised.found.rows)} of {whole.scores} lie in [0, 1] and sum to 1, as --probs would "
                f"take them; {whole.place(normalised.found)} is {written(normalised.row)}",
            )
            return
    once: Unsoftened = whole.results["unsoftened"]
    gap = whole.accuracy - whole.confidence
    if once.impossible or once.greatest < 0.95 or gap < 0.05 or not whole.is_surely_off():
        return
    confidence = once.confidence.divided_by(whole.rows)
    if abs(whole.accuracy - confidence) <= gap / 4:
        yield (
            "softmax-twice",
            f"no probability exceeds {most_confident(whole.plan.classes):.6g}, the most that a softmax gives to "
            f"{whole.plan.classes} probabilities, and the mean confidence is {whole.confidence:.6g} at an accuracy of "
            f"{whole.accuracy:.6g}; without one softmax it would be {confidence:.6g}",
        )


@rule
def constant(whole: Whole) -> Seen:
    constant: Constant = whole.results["constant"]
    labels = sum(c.support > 0 for c in whole.classes)
    if constant.row is not None and not constant.varies and whole.rows >= ENOUGH and labels > 1:
        yield "constant-input", f"all {whole.rows} rows are {written(constant.row)}, though their labels differ"


@rule
def saturated(whole: Whole) -> Seen:
    saturated: Saturated = whole.results["saturated"]
    if whole.plan.kind is not Kind.PROBS and saturated.least > SATURATED and whole.rows >= ENOUGH:
        yield (
            "saturated-input",
            f"in all {whole.rows} rows the largest score leads by {saturated.least:.4g} or more",
        )


@rule
def uniform(whole: Whole) -> Seen:
    uniform: Count = whole.results["uniform"].found
    if uniform.rows and whole.plan.classes > 2:  # ties of two are common among votes and short numbers
        yield (
            "uniform-rows",
            f"in {whole.share(uniform.rows)} all {whole.plan.classes} scores are equal (first: {whole.place(uniform)})",
        )


@rule
def repeats(whole: Whole) -> Seen:
    """Chance does not make every row occur an even number of times; few distinct rows that occur often are common."""
    repeats: Repeated = whole.results["repeats"]
    count = repeats.count
    if len(count) < MANY:
        return
    about = "" if repeats.complete else "about "
    distinct = f"{about}{round(repeats.distinct())} distinct rows (scores and label) among {whole.rows}"
    several = np.flatnonzero(count > 1)
    if not len(several):
        return
    first = several[np.lexsort((repeats.row[several], repeats.file[several]))[0]]
    example = f"the first of them is {whole.at(int(repeats.file[first]), int(repeats.row[first]))}"
    times = max(m for m in range(1, _MOST_COPIES + 1) if np.mean(count % m == 0) >= 0.99)
    if times > 1:
        yield "duplicated-rows", f"{distinct}, each {times} times or a multiple of that; {example}"
        return
    usual = int(np.bincount(count[several]).argmax())
    alike = np.count_nonzero(count == usual)
    if whole.plan.classes > 2 and alike >= max(MANY, 0.9 * len(several)) and len(several) >= 0.05 * len(count):
        yield "repeated-rows", f"{distinct}; most of those that repeat occur {usual} times, and {example}"


# ---------------------------------------------------------------- labels


@rule
def one_label(whole: Whole) -> Seen:
    labels = [c.index for c in whole.classes if c.support]
    if len(labels) == 1 and whole.rows >= ENOUGH:
        yield "one-label", f"all {whole.rows} labels are {whole.name(labels[0])}"


@rule
def always_right(whole: Whole) -> Seen:
    if whole.accuracy == 1.0 and whole.rows >= 20:
        yield (
            "label-is-prediction",
            f"the largest score is the label's in all {whole.rows} rows; {whole.label} may hold predictions",
        )


@rule
def other_classes(whole: Whole) -> Seen:
    """Labels that are off by one, or scores in another order."""
    if whole.rows < MANY:
        return
    confusion: ConfusionResult = whole.results["confusion"]
    if confusion.share < 1.0:
        return
    chance = whole.by_chance(0)
    for step in (1, -1):
        by_chance = whole.by_chance(step)
        share = confusion.ahead(step, whole.plan.classes) / whole.rows
        agree = (share - by_chance) / (1.0 - by_chance) if by_chance < 1.0 else 0.0  # Cohen's kappa
        if whole.plan.classes > 2 and agree >= 0.4 and whole.accuracy - chance <= 0.1 * (1.0 - chance):
            yield (
                "labels-off-by-one",
                f"the accuracy is {whole.accuracy:.6g}, and {share:.6g} of the rows are predicted as the class with "
                f"the number of their label {'plus' if step > 0 else 'minus'} 1",
            )
            return
    if whole.plan.classes <= _RENAMED_CLASSES:
        yield from _permuted(whole, confusion.matrix(whole.plan.classes))


def _permuted(whole: Whole, count: Integers) -> Seen:
    """Classes that are taken for one another in a ring; `count` is by label and prediction."""
    support = count.sum(axis=1)
    home = count.argmax(axis=1)
    classes = np.arange(len(count))
    moved = (home != classes) & (support >= FEW_ROWS) & (count[classes, home] >= _OFTEN * support)
    ring = rings(home, moved)
    if ring.any():
        renamed = np.where(ring, home, classes)
        accuracy = int(count[classes, renamed].sum()) / whole.rows
        inside = np.flatnonzero(ring)
        pairs = [
            f"{whole.name(c)} is predicted as {whole.name(int(home[c]))} in {count[c, home[c]]} of {support[c]} rows"
            for c in inside[:4].tolist()
        ]
        more = f", and {len(inside) - 4} more classes as others" if len(inside) > 4 else ""
        yield (
            "permuted-classes",
            f"{', '.join(pairs)}{more}; with these classes renamed the accuracy would be {accuracy:.6g} instead of "
            f"{whole.accuracy:.6g}",
        )


def rings(home: Integers, moved: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which of those that are `moved` to a `home` go round in a ring."""
    ring, every = moved, np.arange(len(home))
    for _ in every:  # leave out what leads to none that is moved, or comes from none
        ring = moved & ring[home] & np.isin(every, home[ring])
    return ring


@rule
def dead_classes(whole: Whole) -> Seen:
    dead = sorted((-c.support, c.index) for c in whole.classes if not c.predicted and c.support >= FEW_ROWS)
    if dead:
        yield "dead-class", classes_listed(whole, dead, "has", "rows and is never predicted")
    absent = sorted((-c.predicted, c.index) for c in whole.classes if not c.support and c.predicted >= FEW_ROWS)
    if absent:
        yield "absent-class", classes_listed(whole, absent, "is predicted in", "rows and is the label of none")


def classes_listed(whole: Whole, classes: list[tuple[int, int]], before: str, behind: str) -> str:
    words = ", ".join(f"class {whole.name(index)} {before} {-count} {behind}" for count, index in classes[:4])
    return f"{words}, and so with {len(classes) - 4} more" if len(classes) > 4 else words


@rule
def worse_slices(whole: Whole) -> Seen:
    slicings: tuple[Slicing, ...] = whole.results["slices"]
    worse = [(slicing.column, s) for slicing in slicings for s in slicing.slices if s.worse]
    if worse:
        words = [
            f"where '{shown(column)}' is '{shown(s.name)}' ({s.rows} rows) "
            + " and ".join(f"{name} is {value:.6g}" for name, value in list(s.figures.items())[:2])
            for column, s in worse[:4]
        ]
        more = f", and so of {len(worse) - 4} more slices" if len(worse) > 4 else ""
        yield "weak-slice", f"{', '.join(words)}{more}: worse than in the other rows"


# ---------------------------------------------------------------- calibration


@rule
def calibration(whole: Whole) -> Seen:
    if whole.rows >= MANY and whole.is_surely_off():
        over = whole.confidence > whole.accuracy
        yield (
            "over-confident" if over else "under-confident",
            f"the mean confidence is {whole.confidence:.6g} and the accuracy {whole.accuracy:.6g} in {whole.rows} rows",
        )
