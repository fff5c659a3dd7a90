"""The measurement: every problem, drawn anew round after round, asked of our functions and of every peer."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import numpy as np

from lossless._config import config

from . import problems, promises, regimes
from .libraries import OURS, Library, View
from .peers import NotOffered, installed, versions
from .problems import Problem


class Key(NamedTuple):
    """What a worst error is the worst of."""

    library: str
    function: str
    quantity: str
    dtype: str
    regime: str


@dataclasses.dataclass
class Cell:
    """The worst error over so many rows: in ulp of normal results, in smallest denormals of results below those."""

    rows: int = 0
    ulp: float = 0.0
    denormals: float = 0.0
    worst: str = ""  # variant/regime@seed, which draws it again

    def add(self, other: Cell) -> None:
        """Take in what else was measured."""
        self.rows += other.rows
        self.denormals = max(self.denormals, other.denormals)
        if other.ulp > self.ulp or not self.worst:
            self.ulp, self.worst = other.ulp, other.worst


@dataclasses.dataclass
class Certificate:
    """What was measured, on what, and which promises were broken."""

    seed: int
    machine: dict[str, str]
    libraries: list[str]
    rounds: int = 0
    rows: int = 0  # of problems with a class dimension
    long_rows: int = 0  # of those, rows of 131,072 classes and more
    elements: int = 0  # of elementwise problems
    cells: dict[Key, Cell] = dataclasses.field(default_factory=dict)
    broken: list[str] = dataclasses.field(default_factory=list)

    def add(self, key: Key, found: Cell) -> None:
        """Take in the errors of a case."""
        self.cells.setdefault(key, Cell()).add(found)

    def worst(self, library: str, function: str, quantity: str, dtype: str) -> Cell:
        """Over all regimes; without rows where the library has no such function."""
        total = Cell()
        for key, cell in self.cells.items():
            if key[:4] == (library, function, quantity, dtype):
                total.add(cell)
        return total

    def quantities(self, dtype: str) -> Iterator[tuple[str, str]]:
        """(function, quantity) of what was measured in a format, in the order of the promises."""
        measured = {(key.function, key.quantity) for key in self.cells if key.dtype == dtype}
        for function, quantities in promises.FUNCTIONS.items():
            yield from ((function, quantity) for quantity in quantities if (function, quantity) in measured)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "cells"}
        return {
            **own,
            "promises": {
                f"{function}.{quantity}": {
                    dtype: promises.promise(function, quantity, dtype).ulp for dtype in regimes.DTYPES
                }
                for function, quantities in promises.FUNCTIONS.items()
                for quantity in quantities
            },
            "exceptions": [list(exception) for exception in promises.exceptions()],
            "results": [{**key._asdict(), **dataclasses.asdict(cell)} for key, cell in self.cells.items()],
        }


def measure(
    rows: int,
    seed: int,
    functions: Collection[str] = (),
    dtypes: Collection[str] = regimes.DTYPES,
    peers: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Certificate:
    """Draw every problem from `seed`, `seed` + 1, ... until so many rows were judged; `functions` empty: all.

    The longest rows come in the first round only, where they take as long as all others together, and not at all when
    fewer than a thousand rows are asked for.
    """
    ours = list(OURS.values()) if "torch" in versions() else [OURS["numpy"]]
    others = installed() if peers else []
    libraries = list(dict.fromkeys(library.name for library in (*ours, *others)))
    settings = config()
    machine = {key: settings[key] for key in ("platform", "cpu path")} | versions()
    certificate = Certificate(seed, machine, libraries)
    before_all = regimes.SEED
    try:
        while certificate.rows + certificate.elements == 0 or certificate.rows < rows:
            problems.draw(seed + certificate.rounds)
            drawn = [
                (name, dtype)
                for dtype in dtypes
                for name in _names(dtype, long=certificate.rounds == 0 and rows >= 1000)
                if not functions or name.split("/")[0] in functions
            ]
            before = certificate.rows
            for done, (name, dtype) in enumerate(drawn):
                _take(certificate, name, dtype, ours, others)
                if progress is not None:
                    progress(round(1000 * _share(certificate.rows, rows, done / len(drawn))), 1000)
            certificate.rounds += 1
            if certificate.rows == before:  # only elementwise functions were asked for
                break
    finally:
        problems.draw(before_all)
    return certificate


def _names(dtype: str, long: bool) -> list[str]:
    if long:
        return problems.cases(dtype) + problems.enormous_cases(dtype)
    return [name for name in problems.cases(dtype) if "/long-" not in name]


def _share(rows: int, wanted: int, of_round: float) -> float:
    return max(of_round / 100, min(rows / max(wanted, 1), 1.0))


def _take(certificate: Certificate, name: str, dtype: str, ours: list[Library], peers: list[Library]) -> None:
    """Judge one problem, ours against the promise too."""
    case = problems.problem(name, dtype)
    size = len(case.x) if case.table else case.x.size
    if case.table:
        certificate.rows += size
        certificate.long_rows += size if case.x.shape[1] >= 131_072 else 0
    else:
        certificate.elements += size
    for library in (*ours, *peers):
        if dtype not in library.formats:
            continue
        try:
            answers = dict(_answers(name, dtype, library, strict=library in ours))
        except Exception as error:  # an answer nobody can judge is no reason to lose the others
            if library not in ours:
                raise
            certificate.broken.append(
                f"{name}@{certificate.seed + certificate.rounds}: {type(error).__name__}: {error}"
            )
            continue
        for quantity, computed in answers.items():
            truth = problems.true(name, dtype, quantity)
            verdict = promises.judge(case.function, quantity, dtype, computed, truth)
            _, variant, regime = name.split("/")
            label = f"{variant}/{regime}@{certificate.seed + certificate.rounds}"
            key = Key(library.name, case.function, quantity, dtype, regime)
            # NumPy and torch are asked the same rows of ours.
            counted = 0 if library is ours[0] and len(ours) > 1 else size
            certificate.add(key, Cell(counted, verdict.normal, verdict.tiny, label))
            if library in ours and verdict.complaint:
                certificate.broken.append(f"{name}@{certificate.seed + certificate.rounds}: {verdict.complaint}")


def _answers(name: str, dtype: str, library: Library, strict: bool) -> Iterator[tuple[str, np.ndarray]]:
    """(quantity, results) of what the library has; a peer's kernel may also lack a format."""
    view = View(library)
    case: Problem = problems.problem(name, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield from problems.run_values(name, dtype, view, strict).items()
            if case.gradient is not None and library.framework.differentiates:
                yield case.gradient_name, problems.run_gradient(name, dtype, view)
        except NotOffered:
            return
        except (RuntimeError, NotImplementedError) as error:
            if strict or "not implemented" not in str(error):
                raise
