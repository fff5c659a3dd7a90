"""What an evaluation is whatever its task, and what all tasks say of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from lossless._diagnose.finding import Finding
from lossless.errors import EvaluationError

from . import summary
from .errors import about
from .intervals import Interval
from .readers import open_reader
from .roles import Task, detail_columns
from .strict_json import dumps, plain
from .targets import load_labels
from .text import safe, shown

if TYPE_CHECKING:
    from .accumulators import Count
    from .plan import Plan
    from .screening import Screening
    from .slices import Slicing

Row = TypeVar("Row")

SCHEMA = "lossless.evaluation/1"
_MAX_DETAIL = 200  # characters of a detail value that are kept


@dataclass(frozen=True)
class Source:
    """Where the rows came from and how the columns were read."""

    files: tuple[str, ...]
    format: str
    scores: str
    task: str  # "multiclass", "binary", "multilabel" or "regression"
    task_reason: str
    kind: str  # "logits", "log-probs", "probs" or "predictions"
    kind_reason: str
    label: str
    classes: int  # or outputs of a regression
    class_names: tuple[str, ...] | None
    rows: int  # rows of the files, scored or not

    def width(self) -> str:
        """How many classes or outputs there are, in words."""
        one, several = ("output", "outputs") if self.task == "regression" else ("class", "classes")
        return f"{self.classes} {one if self.classes == 1 else several}"

    def class_name(self, index: int) -> str:
        """The name of a class, or its number."""
        return self.class_names[index] if self.class_names else str(index)


@dataclass(frozen=True)
class Figure:
    """A single number with what is known of its uncertainty."""

    name: str  # of the field of the evaluation; macro.f1 is one of a part
    title: str
    value: float
    meaning: str
    interval: Interval | None  # 95 %, for rows drawn independently
    bound: float  # how far a ranked figure may be off


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Figures of saved predictions; plain data, unrounded. Each task has its own kind of it.

    `intervals` has the 95 % confidence intervals of figures by their name, for rows drawn independently: the normal
    approximation for means, Wilson's for shares of rows, DeLong's for areas under ROC curves. `bounds` says by how much
    ranked figures may be off: they come from a sketch, and are exact up to some 100,000 different scores.
    """

    FIGURES: ClassVar[Mapping[str, tuple[str, str]]] = {}
    """Title and meaning of the single figures, by name, in the order in which they are shown."""
    MAIN: ClassVar[tuple[str, ...]] = ()
    """Names of those that say most."""

    source: Source
    rows: int  # rows scored
    intervals: Mapping[str, Interval]
    bounds: Mapping[str, float]
    left_out: Mapping[str, int]  # rows that were not scored, by reason
    notes: tuple[str, ...]
    findings: tuple[Finding, ...]  # what looks wrong, the gravest first
    slices: tuple[Slicing, ...]  # one for each column that `by` names

    def __repr__(self) -> str:
        return summary.text(self)

    def _repr_html_(self) -> str:
        return summary.html(self)

    def figures(self) -> tuple[Figure, ...]:
        """The single figures with what is known of them."""
        return tuple(self.figure(name, *said) for name, said in self.FIGURES.items())

    def figure(self, name: str, title: str, meaning: str) -> Figure:
        """One of them."""
        value: float = attrgetter(name)(self)
        return Figure(name, title, value, meaning, self.intervals.get(name), self.bounds.get(name, 0.0))

    def headline(self) -> tuple[Figure, ...]:
        """The figures that say most."""
        by_name = {figure.name: figure for figure in self.figures()}
        return tuple(by_name[name] for name in self.MAIN)

    def failed(self, names: str | Sequence[str] = "any") -> tuple[Finding, ...]:
        """The findings of these names or severities: "error", "warning" (and graver), "hint" or "any" (all of them).

        Raises:
            ParameterError: a name that is no finding's.
        """
        from .findings import among

        return among(self.findings, [names] if isinstance(names, str) else names)

    def scalars(self) -> dict[str, float]:
        """The single figures as a flat {name: float}, for experiment trackers."""
        flat: dict[str, float] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int | float):
                flat[field.name] = value
            elif is_dataclass(value) and field.name != "source":
                inner = vars(value).items()
                flat |= {f"{field.name}_{name}": number for name, number in inner if isinstance(number, int | float)}
        return flat

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values: NaN is None, infinities are the strings "Infinity" and "-Infinity"."""
        data: dict[str, Any] = plain(self)
        return {"schema": SCHEMA, **data}

    def to_json(self) -> str:
        """`to_dict` as strict JSON text."""
        return dumps(self.to_dict())


# ---------------------------------------------------------------- what all tasks say


def source_of(plan: Plan) -> Source:
    """Where the rows of a plan come from."""
    return Source(
        files=tuple(safe(path) for path in plan.paths),
        format=plan.format,
        scores=plan.columns.scores.name,
        task=plan.columns.task.value,
        task_reason=plan.task_reason,
        kind=plan.kind.value,
        kind_reason=plan.kind_reason,
        label=plan.columns.label.name,
        classes=plan.classes,
        class_names=plan.columns.class_names,
        rows=plan.rows,
    )


def left_out_of(plan: Plan, screening: Screening) -> dict[str, int]:
    """Rows that were not scored, by reason."""
    return {
        "missing": screening.no_value.rows,
        **({} if plan.columns.key is None else {"unmatched": screening.unmatched.rows}),
        "ignored": screening.ignored.rows,
        "no_distribution": screening.no_distribution.rows,
    }


def check_scored(plan: Plan, screening: Screening, rows: int) -> None:
    """Raise if no row is left."""
    if not rows:
        reasons = left_out_notes(plan, screening, ("no_value", "unmatched", "ignored", "no_distribution"))
        raise EvaluationError(f"none of the {plan.rows} rows can be scored: {'; '.join(reasons) or 'there are none'}")


def notes_of(plan: Plan, screening: Screening) -> tuple[str, ...]:
    """What a reader of the figures should know, in sentences."""
    left_out = left_out_notes(plan, screening, ("no_value", "unmatched", "ignored"))
    return (*plan.notes, *left_out, *_unused_targets(plan, screening))


def first_of(plan: Plan, count: Count) -> str:
    """Where a count began."""
    return f"first: row {count.row} of {shown(plan.paths[count.file])}"


def why_not_scored(task: Task) -> str:
    """What rows have that have scores and a label, and yet no loss."""
    if task is Task.REGRESSION:
        return "have a prediction or a target that is NaN or infinite, or too far apart for float64"
    if task is Task.MULTILABEL:
        return "have a score that is NaN"
    return "have scores that give no distribution (NaN, several +inf, or nothing but -inf)"


def left_out_notes(plan: Plan, screening: Screening, which: Sequence[str]) -> list[str]:
    """How many rows were left out, and why."""
    reasons = {
        "no_value": "have no scores or no label",
        "unmatched": "have a key that is not among the targets",
        "ignored": f"have the ignored label {plan.ignore_index}",
        "no_distribution": why_not_scored(plan.columns.task),
    }
    counts = ((getattr(screening, name), reasons[name]) for name in which)
    return [
        f"{count.rows} rows {reason} and were left out ({first_of(plan, count)})"
        for count, reason in counts
        if count.rows
    ]


def _unused_targets(plan: Plan, screening: Screening) -> list[str]:
    """How many targets have no scores; more, if several rows have the same key."""
    columns = plan.columns
    if columns.targets is None or columns.key is None:
        return []
    known = load_labels(columns)
    targets, found = len(known.labels), plan.rows - screening.unmatched.rows
    # Rows without a value lack a score or a key, or they were found and their target has no label.
    unused = targets - min(found, found - screening.no_value.rows + int(known.missing.sum()))
    return [f"at least {unused} of the {targets} targets have no scores"] if unused > 0 else []


def worst_rows(plan: Plan, ranked: Sequence[Mapping[str, Any]], make: Callable[..., Row]) -> tuple[Row, ...]:
    """The rows of largest loss, made of their numbers and the values of further columns."""
    details = _details(plan, [(r["file"], r["row"]) for r in ranked])
    return tuple(
        make(
            **{name: tuple(value) if isinstance(value, list) else value for name, value in r.items() if name != "file"},
            file=safe(plan.paths[r["file"]]),
            details=details.get((r["file"], r["row"]), {}),
        )
        for r in ranked
    )


def _details(plan: Plan, places: Iterable[tuple[int, int]]) -> dict[tuple[int, int], dict[str, str]]:
    """Further columns of a few rows, {(file, row): {column: value}}, which are read again for these alone."""
    found: dict[tuple[int, int], dict[str, str]] = {}
    if not plan.columns.details:
        return found
    places = list(places)
    paths = {partition.file: partition.path for partition in plan.partitions}
    for file in {file for file, _ in places}:
        reader = open_reader(paths[file], file)
        with about(reader.path):
            scores = reader.table.wide(plan.columns.scores.name)
            rows = 0 if scores is None else scores.rows
            here = [name for name in plan.columns.details if name in detail_columns(reader.table, rows)]
            values = reader.details(sorted(row for f, row in places if f == file), here) if here else {}
        for row, cells in values.items():
            found[file, row] = {name: safe(str(value)[:_MAX_DETAIL]) for name, value in cells.items()}
    return found
