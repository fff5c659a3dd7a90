"""A call like one before goes straight to its kernel: in small calls the checks are most of the time.

What checks and plans find depends on the types, dtypes and shapes of arrays and on options, never on numbers. So where
one kernel computed a call, from tensors as they lie, and nothing was warned of, its way is remembered with the form of
the call, and a call of the same form takes that way. All others, and those that something follows, take the long one.
"""

import sys
import threading
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, Protocol, TypeVar

from lossless import _check, _kernels
from lossless._diagnose import watch
from lossless._diagnose.rules import FAMILIES

P = ParamSpec("P")
T = TypeVar("T")

FORMS = 16
"""Of a function's calls that are remembered."""


class Kernel(Protocol):
    """A Function that computes a call."""

    @staticmethod
    def recorded(*args: Any) -> Any:
        """So that autograd knows."""

    @staticmethod
    def forward(ctx: None, *args: Any) -> Any:
        """Without autograd."""


class _Call(threading.local):
    """The one under way on the long way."""

    found: list[tuple[type[Kernel], tuple[Any, ...], tuple[Any, ...]]] | None = None


_call = _Call()


def found(kernel: type[Kernel], arrays: tuple[Any, ...], rest: tuple[Any, ...]) -> None:
    """Said by a backend: `kernel` of these arrays, and of the rest, is all there is to do."""
    if _call.found is not None:
        _call.found.append((kernel, arrays, rest))


def _closed() -> bool:
    """Whether nothing goes straight: there is no PyTorch, or torch.compile reads the code; it cannot read the core."""
    torch = sys.modules.get("torch")
    return torch is None or torch.compiler.is_dynamo_compiling()


closed: Callable[[], bool] = _closed
"""Once PyTorch's backend is there, the question for the compiler alone: PyTorch's own function."""


def straight(function: Callable[P, T]) -> Callable[P, T]:
    """`function`, which remembers its ways."""
    native = _kernels.native
    if native is None:
        return function
    ways: list[Any] = []
    looker = watch if function.__name__ in FAMILIES else False

    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        if closed():
            return function(*args, **kwargs)
        result = native.go_straight(function, ways, args, kwargs, looker)
        if result is NotImplemented:
            return _long_way(function, ways, args, kwargs)
        return result  # type: ignore[no-any-return]

    watch.WRAPPERS.add(call.__code__)
    return wraps(function)(call)


def _long_way(function: Callable[..., T], ways: list[Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> T:
    """`function`; what it found is remembered, if it gave no warning."""
    outer, _call.found, said = _call.found, [], _check.warnings_given()
    try:
        result = function(*args, **kwargs)
        if len(_call.found) == 1 and _check.warnings_given() == said:
            ((kernel, arrays, rest),) = _call.found
            form, places = _kernels.native.call_form(args, kwargs, arrays), _places(arrays, args, kwargs)
            if form is not None and places is not None:
                del ways[FORMS - 1 :]
                ways.insert(0, (form, (kernel, places, rest)))
        return result
    finally:
        _call.found = outer


def _places(arrays: tuple[Any, ...], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int | str, ...] | None:
    """Where the arrays are among the arguments, if the first is the first of them; others may be named."""
    given = 0
    while given < min(len(args), len(arrays)) and args[given] is arrays[given]:
        given += 1
    names = [name for array in arrays[given:] for name, a in kwargs.items() if a is array]
    return (*range(given), *names) if given and len(names) == len(arrays) - given else None


watch.WRAPPERS.add(_long_way.__code__)
