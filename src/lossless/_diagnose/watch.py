"""When a call is looked at, and what becomes of what is seen: a warning, or a finding for `diagnose`.

`LOSSLESS_CHECKS=cheap`, the default, looks at a few rows of the first calls of every line of code, then of ever fewer,
and when a kernel's result is not finite; `full` at every row of every call; `off` at none.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from math import isfinite, prod
from random import Random
from sys import _getframe, maxsize
from threading import get_ident
from types import CodeType, FrameType
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from lossless import _check
from lossless._layout import without_dim
from lossless._plan import argument_names
from lossless.errors import MisuseWarning, ParameterError

from .finding import PAGE, Finding, found
from .rules import ENOUGH, FAMILIES, FEW, Case, Family, examine
from .troubles import troubles

Checks = Literal["off", "cheap", "full"]
FIRST_CALLS = 4
"""Calls of a line of code that are all looked at, at first; then once or twice as many as there were are left out."""
NUMBERS = 1 << 12
"""That a look takes at most, if that leaves a few rows."""
SEARCHED = 1 << 24
"""Numbers among which the reason of a loss that is not finite is searched for."""
ALARMS = 8
"""Losses of a line of code that are not finite and have their reason searched for."""
SITES = 4096
"""Lines of code that are remembered."""


class Sight(Protocol):
    """What a backend shows of an array."""

    def is_compiling(self) -> bool:
        """Whether torch.compile reads the code."""

    def is_traced(self) -> bool:
        """Whether even shapes are symbols now."""

    def readable(self, *arrays: Any) -> bool:
        """Whether their numbers may be looked at, without waiting for a device and unseen by anybody."""

    def take(self, a: Any, dim: int | None, rows: NDArray[np.intp] | None, /) -> NDArray[Any]:
        """Rows by their numbers, or all of them, in float64 with the classes of `dim` last; whole numbers as they are.

        For `dim` None single numbers.
        """

    def bad_rows(self, a: Any, dim: int | None, /) -> NDArray[np.intp]:
        """The numbers of rows with NaN, +inf or nothing but -inf; for `dim` None of numbers that are not finite."""

    def made_by(self, a: Any, /) -> str | None:
        """The operation that made it, past mere views and casts, as far as anybody knows."""

    def origin(self, a: Any, /) -> str | None:
        """What made its numbers that are not finite: None if nobody could know, "" if nobody found it."""


def _level() -> Checks:
    level = os.environ.get("LOSSLESS_CHECKS", "cheap")
    if level not in get_args(Checks):
        raise ParameterError(f"LOSSLESS_CHECKS is {level!r}, expected 'off', 'cheap' or 'full'")
    return level  # type: ignore[return-value]  # by the test above


level: Checks = _level()

# ---------------------------------------------------------------- which calls


class Site:
    """A line of code that calls the library, and what was seen of its calls."""

    __slots__ = ("alarms", "code", "constant", "left", "next", "ours", "proven", "steps")

    def __init__(self, code: CodeType, steps: int = 0, ours: bool = False) -> None:
        self.code = code
        "Kept, so that no other code gets its address."
        self.steps = steps
        "Frames between here and the line that is meant: of a module, or of a patch."
        self.ours = ours
        "Whether it is in one of our tools, which are looked at on request only."
        self.left = maxsize if ours else 0
        "Calls that are left out before the next look."
        self.next = 1
        "The number of the call that is looked at next."
        self.alarms = 0
        "Losses that were not finite."
        self.constant: tuple[float, ...] | None = None
        "The scores of all rows, when they were the same."
        self.proven: set[str] = set()
        "Troubles that a call of another shape has shown not to be there."


class Occasion(NamedTuple):
    """A call that is looked at."""

    site: Site
    alarmed: bool
    "Whether its loss was not finite."


_sites: dict[int, Site] = {}
"""By the address of the call in the code object."""
_chance = Random()  # of our own: the numbers that a script has seeded are its
_told: set[tuple[str, CodeType, str, int]] = set()
"""What was said already: trouble, code, file and line. (A line number alone is any line of an interpreter.)"""
_findings: ContextVar[list[Finding] | None] = ContextVar("findings", default=None)
_collectors = 0
alarm = 0
"""The thread whose last loss was not finite."""


@contextmanager
def collecting() -> Iterator[list[Finding]]:
    """Every call is looked at, all of it, and what is seen goes to this list."""
    global _collectors
    findings: list[Finding] = []
    token = _findings.set(findings)
    _collectors += 1
    try:
        yield findings
    finally:
        _collectors -= 1
        _findings.reset(token)


def sound(total: float, divisor: float) -> None:
    """A kernel's sum, and what divides it: if the loss is not finite, the call is looked at when it is done."""
    global alarm
    if not (isfinite(total + divisor) and divisor) and (level != "off" or _collectors):
        alarm = get_ident()


WRAPPERS: set[CodeType] = set()
"""Code that stands between a function of ours and its caller."""


def due(backend: Sight) -> Occasion | None:
    """The occasion, if the call of our caller is to be looked at."""
    if backend.is_compiling():
        return None
    frame = _getframe(2)
    while frame.f_code in WRAPPERS and frame.f_back is not None:
        frame = frame.f_back
    return None if passed_over(frame) else _considered(*_site(frame))


def passed_over(frame: FrameType) -> bool:
    """Whether a call from there is one of those that are not looked at."""
    if level == "off":
        return not _collectors
    site = _sites.get(id(frame.f_code) + frame.f_lasti)
    if site is not None and site.steps:
        site = _site(frame)[1]
    if site is None or not site.left or level != "cheap" or _collectors or (alarm and alarm == get_ident()):
        return False
    site.left -= 1
    return True


def heard(frame: FrameType) -> bool:
    """Whether the call from there that was just made is to be looked at, because its loss was not finite."""
    global alarm
    if not alarm or alarm != get_ident():
        return False
    site = _site(frame)[1]
    if site is not None and site.alarms >= ALARMS:
        alarm = 0
    return alarm != 0


def _site(frame: FrameType) -> tuple[FrameType, Site | None]:
    """The place that is meant by a call from there, if it is known."""
    site = _sites.get(id(frame.f_code) + frame.f_lasti)
    if site is not None and site.steps:
        for _ in range(site.steps):
            frame = frame.f_back or frame
        site = _sites.get(id(frame.f_code) + frame.f_lasti)
    return frame, site


def _considered(frame: FrameType, site: Site | None) -> Occasion | None:
    """The same for a call that may be due, from `frame` if its site is known."""
    global alarm
    alarmed = alarm == get_ident()
    if alarmed:
        alarm = 0
    asked = _findings.get() is not None
    if site is None:
        if len(_sites) > SITES:
            _sites.clear()
        meant, steps = frame, 0
        while (role := _check.role(meant.f_code.co_filename)) == "between" and meant.f_back is not None:
            meant, steps = meant.f_back, steps + 1
        if steps:
            _sites[id(frame.f_code) + frame.f_lasti] = Site(frame.f_code, steps)
        key = id(meant.f_code) + meant.f_lasti
        site = _sites.get(key) or _sites.setdefault(key, Site(meant.f_code, ours=role == "tools"))
    if site.ours and not asked:
        return None
    site.alarms += alarmed
    alarmed = alarmed and site.alarms <= ALARMS
    if site.left > 0:
        site.left -= 1
        return Occasion(site, alarmed) if asked or alarmed or level == "full" else None
    if level == "off" and not asked:
        return None
    # By chance more or fewer are left out, so that of what takes turns at one line all is looked at in the end.
    number = site.next
    site.left = 0 if number < FIRST_CALLS else _chance.randrange(number, 2 * number)
    site.next = number + 1 + site.left
    return Occasion(site, alarmed)


# ---------------------------------------------------------------- the look


def look(
    occasion: Occasion,
    backend: Sight,
    function: str,
    dim: int | None,
    input: Any,
    target: Any = None,
    **options: Any,
) -> None:
    """Apply the rules to a call of `function`, and warn of what they see, or collect it."""
    if backend.is_traced():
        return
    into = _findings.get()
    try:
        seen = list(_seen(occasion, backend, function, dim, input, target, options, into is not None))
    except Exception as error:  # a mistake of ours, which must not end a training run
        if into is not None:
            raise
        _check.warn(
            f"{function}: the search for misuse failed, the loss did not: {error!r}. LOSSLESS_CHECKS=off ends it."
        )
        return
    for name, evidence in seen:
        if into is not None:
            into.append(found(name, function, evidence))
        elif level == "full" or troubles()[name].level == "warning":
            _warn(name, function, evidence)


def _seen(
    occasion: Occasion, backend: Sight, function: str, dim: int | None, input: Any, target: Any,
    options: dict[str, Any], asked: bool,
) -> Iterator[tuple[str, str]]:  # fmt: skip
    """Each trouble once, with its evidence."""
    family = FAMILIES[function]
    if family == "probabilities" and options.get("from_logits"):
        family = "scores"
    site, ways = occasion.site, _ways(family, dim, tuple(input.shape))
    by_way: dict[str, dict[int | None, str]] = {}
    for way in ways:
        case = _case(backend, function, family, way, input, target, options, asked or level == "full", occasion)
        for name, evidence in examine(case):
            by_way.setdefault(name, {}).setdefault(way, evidence)
        site.proven |= case.proven
        site.constant = case.constant_row
    for name, evidences in by_way.items():
        if name != "kl-not-normalised" or len(evidences) == len(ways):  # else they are, along another dimension
            yield name, next(iter(evidences.values()))


def _ways(family: Family, dim: int | None, shape: tuple[int, ...]) -> list[int | None]:
    """Where the classes may lie: kl_div takes no dimension."""
    if family != "logs" or len(shape) < 2:
        return [dim]
    return [len(shape) - 1] if len(shape) == 2 else [len(shape) - 1, 1]


def _case(
    backend: Sight, function: str, family: Family, dim: int | None, input: Any, target: Any, options: dict[str, Any],
    thorough: bool, occasion: Occasion,
) -> Case:  # fmt: skip
    shape = tuple(input.shape)
    target_shape = None if target is None else tuple(target.shape)
    case = partial(
        Case, family, shape, dim, options, names=argument_names(function),
        target_shape=target_shape, made_by=backend.made_by(input), dtype=_check.dtype_name(input.dtype), asked=thorough,
        known=frozenset(occasion.site.proven), constant_before=occasion.site.constant,
    )  # fmt: skip
    if (
        0 in shape
        or (dim is not None and not shape)
        or not backend.readable(*(a for a in (input, target) if a is not None))
    ):
        return case()
    lead = shape if dim is None else without_dim(shape, dim)
    number, classes, bad, all_ignored = prod(lead), 1 if dim is None else shape[dim], None, False
    of_classes = target_shape == shape and dim is not None
    pairs = target is not None and (of_classes or target_shape == lead)
    target_dim = dim if of_classes else None
    rows = None
    if not thorough:
        most = NUMBERS if dim is None else max(min(ENOUGH, NUMBERS // classes), FEW)
        rows = np.linspace(0, number - 1, min(number, most)).astype(np.intp)
        if occasion.alarmed:
            not_finite = backend.bad_rows(input, dim)
            bad = len(not_finite)
            suspects = [not_finite, backend.bad_rows(target, target_dim)] if pairs else [not_finite]
            rows = np.unique(np.concatenate([*(numbers[:ENOUGH] for numbers in suspects), rows]))
    t = backend.take(target, target_dim, rows) if pairs else None
    if t is not None and not of_classes and "ignore_index" in options and np.all(t == options["ignore_index"]):
        all_ignored = rows is None or bool(np.all(backend.take(target, None, None) == options["ignore_index"]))
    if occasion.alarmed and rows is not None and not (all_ignored or any(map(len, suspects))):
        rows = rows if number * classes > SEARCHED else None  # what is it then? all are looked at
        t = backend.take(target, target_dim, rows) if pairs else None
    return case(
        x=backend.take(input, dim, rows),
        t=t,
        rows=rows,
        bad=bad,
        all_ignored=all_ignored,
        complete=rows is None or len(rows) == number,
        origin=partial(backend.origin, input) if _findings.get() is not None else None,
    )


# ---------------------------------------------------------------- what is said


def tell(name: str, function: str, said: Callable[[], tuple[str, str]]) -> None:
    """What PyTorch warns of as well, at every call, by its message and ours; or a finding.

    Compilers are not told: what they read holds for the sizes alone that a message names.
    """
    if _check.is_compiling():
        return
    into, (message, evidence) = _findings.get(), said()
    if into is None:
        _check.warn(f"{message}\n{function}: {evidence}")
    else:
        into.append(found(name, function, evidence))


def _warn(name: str, function: str, evidence: str) -> None:
    """Once for each line of code, whatever the numbers were."""
    frame = _check.caller()
    place = name, frame.f_code, frame.f_code.co_filename, frame.f_lineno
    if place in _told:
        return
    if len(_told) > SITES:
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
    global alarm
    alarm = 0
    _sites.clear()
    _told.clear()
