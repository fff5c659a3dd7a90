"""A call like one before goes straight to its kernel: in small calls the checks are most of the time.

What checks and plans find depends on the types, dtypes and shapes of arrays and on options, never on numbers. So where
one kernel computed a call, from tensors as they lie, and nothing was warned of, its way is remembered with the form of
the call, and a call of the same form takes that way. All others, and those that something follows, take the long one.
"""

import operator
import sys
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from lossless import _check, _kernels
from lossless._diagnose import watch
from lossless._diagnose.rules import FAMILIES

P = ParamSpec("P")
T = TypeVar("T")

FORMS = 16
"""Of a function's calls that are remembered."""


class _Call(threading.local):
    """The one under way on the long way."""

    found: list[tuple[Callable[..., Any], tuple[Any, ...]]] | None = None


_call = _Call()


def found(way: Callable[..., Any], *arrays: Any) -> None:
    """Said by a backend: `way` is all there is to do, with these arrays."""
    if _call.found is not None:
        _call.found.append((way, arrays))


def straight(function: Callable[P, T]) -> Callable[P, T]:
    """`function`, which remembers its ways."""
    ways: list[Any] = []
    looked_at = function.__name__ in FAMILIES

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        torch, native = sys.modules.get("torch"), _kernels.native
        if torch is None or native is None or torch.compiler.is_compiling():
            return function(*args, **kwargs)
        way = native.find_call(ways, args, kwargs)
        if way is None:
            return _long_way(function, ways, args, kwargs)
        if not looked_at or watch.passed_over(sys._getframe(1)):
            result: T = way(*args)
            if not (looked_at and watch.heard(sys._getframe(1))):
                return result
        return function(*args, **kwargs)

    watch.WRAPPERS.add(call.__code__)
    return wraps(function)(call)


def _long_way(function: Callable[..., T], ways: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    """`function`; what it found is remembered, if it gave no warning."""
    outer, _call.found, said = _call.found, [], _check.warnings_given()
    try:
        result = function(*args, **kwargs)
        if len(_call.found) == 1 and _check.warnings_given() == said:
            ((way, arrays),) = _call.found
            given = args[: len(arrays)]
            form = _kernels.native.call_form(args, kwargs, len(arrays))
            if form is not None and len(given) == len(arrays) and all(map(operator.is_, given, arrays)):
                del ways[FORMS - 1 :]
                ways.insert(0, (form, way))
        return result
    finally:
        _call.found = outer


watch.WRAPPERS.add(_long_way.__code__)
