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

    def worst(self, dtype: str) -> dict[tuple[str, str, str], Cell]:
        """By (library, function, quantity), over all regimes."""
        totals: dict[tuple[str, str, str], Cell] = {}
        for key, cell in self.cells.items():
            if key.dtype == dtype:
                totals.setdefault(key[:3], Cell()).add(cell)
        return totals

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
    seed_before = regimes.SEED
    try:
        while True:
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
            if certificate.rows >= rows or certificate.rows == before:  # none: only elementwise functions are wanted
                break
    finally:
        problems.draw(seed_before)
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
    _, variant, regime = name.split("/")
    seed = certificate.seed + certificate.rounds
    for library in (*ours, *peers):
        if dtype not in library.formats:
            continue
        mine = library in ours
        try:
            answers = _answers(name, dtype, library, mine)
        except Exception as error:  # an answer nobody can judge is no reason to lose the others
            if not mine:
                raise
            certificate.broken.append(f"{name}@{seed}: {type(error).__name__}: {error}")
            continue
        for quantity, computed in answers.items():
            verdict = promises.judge(case.function, quantity, dtype, computed, problems.true(name, dtype, quantity))
            key = Key(library.name, case.function, quantity, dtype, regime)
            # NumPy and torch are asked the same rows of ours.
            counted = 0 if library is ours[0] and len(ours) > 1 else size
            certificate.add(key, Cell(counted, verdict.normal, verdict.tiny, f"{variant}/{regime}@{seed}"))
            if mine and verdict.complaint:
                certificate.broken.append(f"{name}@{seed}: {verdict.complaint}")


def _answers(name: str, dtype: str, library: Library, strict: bool) -> dict[str, np.ndarray]:
    """Results by quantity, of what the library has; a peer's kernel may also lack a format."""
    view, case = View(library), problems.problem(name, dtype)
    found: dict[str, np.ndarray] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found |= problems.run_values(name, dtype, view, strict)
            if case.gradient is not None and library.framework.differentiates:
                found[case.gradient_name] = problems.run_gradient(name, dtype, view)
        except NotOffered:
            pass
        except (RuntimeError, NotImplementedError) as error:
            if strict or "not implemented" not in str(error):
                raise
    return found
