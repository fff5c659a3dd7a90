"""What a comparison of two models is whatever their task, and what all tasks say of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, TypeVar

from lossless._diagnose import notebook
from lossless._diagnose.finding import Finding

from . import summary
from .findings import among
from .paired import Compared
from .results import Evaluation
from .strict_json import dumps, plain
from .text import safe

if TYPE_CHECKING:
    from .plan import Plan

Row = TypeVar("Row")

SCHEMA = "lossless.comparison/1"


@dataclass(frozen=True, repr=False)
class Comparison:
    """Figures of two models on the rows that both have scores for; plain data, unrounded. Each task has its own kind.

    `figures` has the single figures by the names that they have in an evaluation. `p_value` is how likely models that
    are equally good are to differ in so many rows as unevenly, or more: by a mid-p test of the two counts of rows in
    which one of them alone is right, or nearer.
    """

    a: Evaluation  # of all rows of A
    b: Evaluation
    rows: int  # rows compared
    figures: Mapping[str, Compared]
    p_value: float
    different: tuple[Any, ...]  # the rows whose losses differ most
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
            f"{name}_{field.name}".replace(".", "_"): getattr(figure, field.name)
            for name, figure in self.figures.items()
            for field in fields(figure)
        }
        single = {field.name: getattr(self, field.name) for field in fields(self)}
        return flat | {name: value for name, value in single.items() if isinstance(value, int | float)}

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON values: NaN is None, infinities are the strings "Infinity" and "-Infinity"."""
        data: dict[str, Any] = plain(self)
        return {"schema": SCHEMA, **data, "a": self.a.to_dict(), "b": self.b.to_dict()}

    def to_json(self) -> str:
        """`to_dict` as strict JSON text."""
        return dumps(self.to_dict())

    def sentence(self) -> str:
        """What the rows say about which model is the better one."""
        raise NotImplementedError

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


@dataclass(frozen=True, repr=False)
class RightComparison(Comparison):
    """A comparison of models that are right or wrong in a row; `p_value` is that of McNemar's test of the counts."""

    both_right: int
    only_a: int  # rows that A alone gets right
    only_b: int
    both_wrong: int

    def sentence(self) -> str:
        return (
            f"A alone is right in {self.only_a} rows and B alone in {self.only_b}; both are right in {self.both_right} "
            f"and wrong in {self.both_wrong} (McNemar's test, mid-p: p = {self.p_value:.3g})"
        )


@dataclass(frozen=True)
class RowOfBoth:
    """Where a row is in either input."""

    file_a: str
    row_a: int  # of its file, from 0
    file_b: str
    row_b: int


@dataclass(frozen=True)
class ComparedPart:
    """A class, or an output of a regression."""

    name: str
    figures: Mapping[str, Compared]


@dataclass(frozen=True)
class Both:
    """Two inputs of the same rows, and the evaluation of each."""

    a: Plan
    b: Plan
    of_a: Evaluation
    of_b: Evaluation
    starts_a: Sequence[int]  # the number of the first row of each file, through all files
    starts_b: Sequence[int]

    def common(
        self, rows: int, figures: Mapping[str, Compared], ranked: Sequence[Mapping[str, Any]], make: Callable[..., Row]
    ) -> dict[str, Any]:
        """What a comparison of any task has; `make` makes the rows that differ most of places and numbers."""
        return {
            "a": self.of_a,
            "b": self.of_b,
            "rows": rows,
            "figures": figures,
            "different": tuple(make(**self._place(r), **_numbers(r)) for r in ranked if r["apart"] > 0.0),
            "notes": tuple(
                f"{e.rows - rows} rows that only {name} has scores and labels for are not compared"
                for name, e in (("A", self.of_a), ("B", self.of_b))
                if e.rows > rows
            ),
        }

    def _place(self, r: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "file_a": safe(self.a.paths[r["file"]]),
            "row_a": r["row"] - self.starts_a[r["file"]],
            "file_b": safe(self.b.paths[r["file_b"]]),
            "row_b": r["row"] - self.starts_b[r["file_b"]],
        }


def _numbers(r: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of a row of pairs, with the names of its fields: nll_a for a.nll, and label for both.label."""
    found = {}
    for name, value in r.items():
        side, dot, number = name.partition(".")
        if dot:
            found[number if side == "both" else f"{number}_{side}"] = tuple(value) if isinstance(value, list) else value
    return found


def signed(value: float, digits: int = 6) -> str:
    """A difference, in short."""
    return "-" if math.isnan(value) else f"{value:+.{digits}g}" if value else "0"


def interval(figure: Compared) -> str:
    """The interval of a difference, in short."""
    return "-" if math.isnan(figure.low) else f"{signed(figure.low, 4)} to {signed(figure.high, 4)}"
