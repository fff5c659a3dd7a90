"""When a call is looked at, and what becomes of what is seen: a warning, or a finding for `diagnose`.

`LOSSLESS_CHECKS=cheap`, the default, looks at a few rows of the first calls of every line of code, then of ever fewer,
and when a kernel's result is not finite; `full` at every row of every call; `off` at none.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from math import isfinite, prod
from random import Random
from sys import _getframe
from types import FrameType
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from lossless import _check
from lossless._layout import without_dim
from lossless.errors import MisuseWarning, ParameterError

from .finding import PAGE, Finding, found
from .rules import ENOUGH, FEW, Case, Family, examine
from .troubles import troubles

Checks = Literal["off", "cheap", "full"]
FIRST_CALLS = 4
"""Calls of a line of code that are all looked at, at first; then once or twice as many as there were are left out."""
PATIENCE = 64
"""Calls after which a model should have learnt something."""
NUMBERS = 1 << 12
"""That a look takes at most, if that leaves a few rows."""
SEARCHED = 1 << 24
"""Numbers among which the reason of a loss that is not finite is searched for."""
ALARMS = 8
"""Losses of a line of code that are not finite and have their reason searched for."""


class Sight(Protocol):
    """What a backend shows of an array."""

    def is_compiling(self) -> bool:
        """Whether torch.compile reads the code."""

    def readable(self, *arrays: Any) -> bool:
        """Whether their numbers may be looked at, without waiting for a device."""

    def take(self, a: Any, dim: int | None, rows: NDArray[np.intp] | None, /) -> NDArray[Any]:
        """Rows by their numbers, or all of them, in float64 with the classes of `dim` last; whole numbers as they are.

        For `dim` None single numbers.
        """

    def bad_rows(self, a: Any, dim: int | None, /) -> NDArray[np.intp]:
        """The numbers of rows with NaN, +inf or nothing but -inf; for `dim` None of numbers that are not finite."""

    def made_by(self, a: Any, /) -> str | None:
        """The operation that made it, past mere views and casts, as far as anybody knows."""

    def origin(self, a: Any, /) -> str | None:
        """What made its numbers that are not finite, as far as anybody knows."""


def _level() -> Checks:
    level = os.environ.get("LOSSLESS_CHECKS", "cheap")
    if level not in get_args(Checks):
        raise ParameterError(f"LOSSLESS_CHECKS is {level!r}, expected 'off', 'cheap' or 'full'")
    return level  # type: ignore[return-value]  # by the test above


level: Checks = _level()

_chance = Random()  # of our own: the numbers that a script has seeded are its

_findings: ContextVar[list[Finding] | None] = ContextVar("findings", default=None)
_left: dict[int, int] = {}
"""By the address of a call: how many of its calls are left out before the next look; below 0 in a go-between."""
_next: dict[int, tuple[int, int]] = {}
"""By the same: how many looks there were, and the number of the call that is looked at next."""
_alarms: dict[int, int] = {}
"""By the same: how many losses were not finite."""
_told: set[tuple[str, str, int]] = set()
"""What was said already: trouble, file and line."""
_alarmed = False
_stirred = 0
"""Whether every call is to be considered: while somebody collects, and after an alarm."""


@contextmanager
def collecting() -> Iterator[list[Finding]]:
    """Every call is looked at, all of it, and what is seen goes to this list."""
    global _stirred
    findings: list[Finding] = []
    token = _findings.set(findings)
    _stirred += 1
    try:
        yield findings
    finally:
        _stirred -= 1
        _findings.reset(token)


def sound(total: float, divisor: float) -> None:
    """A kernel's sum, and what divides it: if the loss is not finite, the call is looked at when it is done."""
    global _alarmed
    if not (isfinite(total + divisor) and divisor):
        _alarmed = True


def due(backend: Sight) -> int:
    """If the call of our caller is to be looked at: how many calls its line of code has made; else 0."""
    if backend.is_compiling() or (level == "off" and not _stirred):
        return 0
    frame = _getframe(2)
    site = id(frame.f_code) + frame.f_lasti  # an address inside of the code object
    left = _left.get(site, 0)
    if left < 0 and frame.f_back is not None:  # a patch has one line for all, a module one for all of its kind
        frame = frame.f_back
        site = id(frame.f_code) + frame.f_lasti
        left = _left.get(site, 0)
    if left > 0 and level == "cheap" and not (_alarmed or _stirred):
        _left[site] = left - 1
        return 0
    return _considered(frame, site, left)


def _considered(frame: FrameType, site: int, left: int) -> int:
    """The same for a call that may be due."""
    global _alarmed
    whose = _check.role(frame.f_code.co_filename)
    if whose == "between" and left == 0 and frame.f_back is not None:
        _left[site] = -1
        frame = frame.f_back
        whose = _check.role(frame.f_code.co_filename)
        site = id(frame.f_code) + frame.f_lasti
        left = max(_left.get(site, 0), 0)
    asked = _findings.get() is not None
    if not asked and (whose == "tools" or level == "off"):
        _alarmed = False
        return 0
    if len(_next) > 4096:
        for memory in (_left, _next, _alarms):
            memory.clear()
    looks, number = _next.get(site, (0, 1))
    number -= left
    if left > 0:
        _left[site] = left - 1
        alarming = _alarmed and _alarms.get(site, 0) < ALARMS
        _alarms[site] = _alarms.get(site, 0) + _alarmed
        _alarmed = alarming
        return number if asked or alarming or level == "full" else 0
    # By chance more or fewer are left out, so that of what takes turns at one line all is looked at in the end.
    gap = 0 if looks + 1 < FIRST_CALLS else _chance.randrange(number, 2 * number)
    _left[site] = gap
    _next[site] = looks + 1, number + 1 + gap
    return number


def look(
    calls: int,
    backend: Sight,
    function: str,
    family: Family,
    dim: int | None,
    input: Any,
    target: Any = None,
    **options: Any,
) -> None:
    """Apply the rules to the last of so many calls of `function`, and warn of what they see, or collect it."""
    global _alarmed
    alarmed, _alarmed = _alarmed, False
    into = _findings.get()
    everything = into is not None or level == "full"
    seen: dict[str, str] = {}
    for way in _ways(family, dim, input.shape):
        case = _case(backend, function, family, way, input, target, options, everything, alarmed, calls > PATIENCE)
        for name, evidence in examine(case):
            seen.setdefault(name, evidence)
    for name, evidence in seen.items():
        if into is not None:
            into.append(found(name, function, evidence))
        elif level == "full" or troubles()[name].level == "warning":
            _warn(name, function, evidence)


def _ways(family: Family, dim: int | None, shape: tuple[int, ...]) -> list[int | None]:
    """Where the classes may lie: kl_div takes no dimension."""
    if family != "logs" or len(shape) < 2:
        return [dim]
    return [len(shape) - 1] if len(shape) == 2 else [len(shape) - 1, 1]


def _case(
    backend: Sight, function: str, family: Family, dim: int | None, input: Any, target: Any, options: dict[str, Any],
    everything: bool, alarmed: bool, patient: bool,
) -> Case:  # fmt: skip
    shape = tuple(input.shape)
    target_shape = None if target is None else tuple(target.shape)
    case = partial(
        Case, function, family, shape, dim, options,
        target_shape=target_shape, made_by=backend.made_by(input), dtype=_check.dtype_name(input.dtype),
        patient=patient, names=("inputs", "targets") if function == "sigmoid_focal_loss" else ("input", "target"),
    )  # fmt: skip
    arrays = [input] if target is None else [input, target]
    if not backend.readable(*arrays) or 0 in shape or (dim is not None and not shape):
        return case()
    lead = shape if dim is None else without_dim(shape, dim)
    number, classes, bad = prod(lead), 1 if dim is None else shape[dim], None
    of_classes = target_shape == shape and dim is not None
    pairs = target is not None and (of_classes or target_shape == lead)
    rows = None
    if not everything:
        most = NUMBERS if dim is None else max(min(ENOUGH, NUMBERS // classes), FEW)
        rows = np.linspace(0, number - 1, min(number, most)).astype(np.intp)
        if alarmed:
            not_finite = backend.bad_rows(input, dim)
            bad = len(not_finite)
            suspects = [not_finite, backend.bad_rows(target, dim if of_classes else None)] if pairs else [not_finite]
            rows = np.unique(np.concatenate([*(numbers[:ENOUGH] for numbers in suspects), rows]))
            if not any(map(len, suspects)) and number * classes <= SEARCHED:
                rows = None
    t = backend.take(target, dim if of_classes else None, rows) if pairs else None
    if t is not None and not of_classes and rows is not None and np.all(t == options.get("ignore_index")):
        whole = backend.take(target, None, None)  # all of these are ignored: are all of all?
        rows, t = (None, whole) if np.all(whole == options["ignore_index"]) else (rows, t)
    return case(
        x=backend.take(input, dim, rows),
        t=t,
        rows=rows,
        bad=bad,
        complete=rows is None or len(rows) == number,
        asked=everything,
        origin=partial(backend.origin, input),
    )


def tell(name: str, function: str, message: str, evidence: str) -> None:
    """What PyTorch warns of as well, at every call, by its message and ours; or a finding."""
    into = None if _check.is_compiling() else _findings.get()
    if into is None:
        _check.warn(f"{message}\n{function}: {evidence}")
    else:
        into.append(found(name, function, evidence))


def _warn(name: str, function: str, evidence: str) -> None:
    """Once for each line of code, whatever the numbers were."""
    frame = _check.caller()
    place = name, frame.f_code.co_filename, frame.f_lineno
    if place in _told:
        return
    if len(_told) > 4096:
        _told.clear()
    _told.add(place)
    finding = found(name, function, evidence)
    _check.warn(
        f"{function}: {evidence}\nCause: {finding.cause}\nFix: {finding.fix}\n"
        f"({PAGE}#{name}; LOSSLESS_CHECKS=off looks for nothing)",
        MisuseWarning,
    )


def forget() -> None:
    """As if no call had been made: for tests."""
    global _alarmed
    _alarmed = False
    for memory in (_left, _next, _alarms, _told):
        memory.clear()
