"""A call like one before goes straight to its kernel: in small calls the checks are most of the time.

What checks and plans find depends on the types, dtypes and shapes of arrays and on options, never on numbers. So where
one kernel computed a call, from tensors as they lie, and nothing was warned of, its way is remembered with the form of
the call, and a call of the same form takes that way. All others, and those that something follows, take the long one.
"""

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
        if not looked_at:
            return way(*args, **kwargs)  # type: ignore[no-any-return]
        caller = sys._getframe(1)
        if watch.passed_over(caller):
            result: T = way(*args, **kwargs)
            if not (watch.alarm and watch.heard(caller)):
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
            form = _kernels.native.call_form(args, kwargs, arrays)
            from_arguments = _from_arguments(way, arrays, args, kwargs)
            if form is not None and from_arguments is not None:
                del ways[FORMS - 1 :]
                ways.insert(0, (form, from_arguments))
        return result
    finally:
        _call.found = outer


def _from_arguments(
    way: Callable[..., Any], arrays: tuple[Any, ...], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[..., Any] | None:
    """`way` of the arguments of a call like this one, if its first array is the first of them; others may be named."""
    given = 0
    while given < min(len(args), len(arrays)) and args[given] is arrays[given]:
        given += 1
    if given == len(arrays):
        return way
    names = [name for array in arrays[given:] for name, a in kwargs.items() if a is array]
    if not given or len(names) != len(arrays) - given:
        return None
    return lambda *args, **kwargs: way(*args[:given], *(kwargs[name] for name in names))


watch.WRAPPERS.add(_long_way.__code__)
