"""How a NumPy loss gives its gradient too: asked for by `value_and_grad`, and computed only then."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_asked = ContextVar("asked", default=False)


@contextmanager
def asked() -> Iterator[None]:
    """While this is open, losses of NumPy arrays answer with (value, gradient over the input)."""
    token = _asked.set(True)
    try:
        yield
    finally:
        _asked.reset(token)


def asking() -> bool:
    """Whether gradients are asked for now."""
    return _asked.get()


def answer(value: Any, gradient: Callable[[], Any]) -> Any:
    """What a loss returns: its value, or (value, gradient) to who asks; of a loss that is not reduced, of its sum."""
    return (value, gradient()) if asking() else value
