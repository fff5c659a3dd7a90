"""Random inputs: drawn as rows, then laid out in the shape that is measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from .functions import FUNCTIONS
from .shapes import Shape, rows

ROWS, ELEMENTS, LONGEST = 64, 2**15, 200_000  # a sample to be judged: that many at most, or one row that is not longer


@dataclasses.dataclass(frozen=True)
class Data:
    """What a function is given: the logits, what it takes beside them, and the upstream gradient of an array."""

    x: Any
    rest: tuple[Any, ...] = ()
    g: Any = None


def _logits(draw: np.random.Generator, rows: int, classes: int, dtype: Any) -> np.ndarray:
    x = draw.standard_normal((rows, classes), dtype)
    x *= 3
    return x


def _log_probs(draw: np.random.Generator, rows: int, classes: int, dtype: Any) -> np.ndarray:
    x = _logits(draw, rows, classes, dtype)
    x -= np.log(np.exp(x).sum(1, keepdims=True))
    return x


def _probs(draw: np.random.Generator, rows: int, classes: int, dtype: Any) -> np.ndarray:
    p = draw.standard_normal((rows, classes), dtype)
    np.exp(p, out=p)
    p /= p.sum(1, keepdims=True)
    return p


# By name: an array of (rows, C), of (rows,) for labels, of (C,) for weights.
KINDS: dict[str, Callable[[np.random.Generator, int, int, Any], np.ndarray]] = {
    "logits": _logits,
    "log_probs": _log_probs,
    "probs": _probs,
    "reals": lambda draw, rows, classes, dtype: draw.standard_normal((rows, classes), dtype),
    "bits": lambda draw, rows, classes, dtype: draw.integers(0, 2, (rows, classes), np.uint8).astype(dtype),
    "labels": lambda draw, rows, classes, dtype: draw.integers(0, classes, rows),
    "weights": lambda draw, rows, classes, dtype: (draw.integers(4, 17, classes) / 8).astype(dtype),
}


def sample_rows(shape: Shape) -> int:
    """How many rows are judged: the most that divide those of the shape, so that means over both are the same; or 0."""
    if shape[1] > LONGEST:
        return 0
    most = min(ROWS, max(1, ELEMENTS // shape[1]))
    return next(n for n in range(most, 0, -1) if rows(shape) % n == 0)


def draw(name: str, count: int, classes: int, dtype: str, seed: int = 0) -> Data:
    """So many rows, in float64 for that format and else in float32, from which they are rounded."""
    function, generator = FUNCTIONS[name], np.random.default_rng([seed, *name.encode()])
    wide = np.float64 if dtype == "float64" else np.float32
    arrays = [KINDS[kind](generator, count, classes, wide) for kind in (function.x, *function.takes)]
    g = KINDS["reals"](generator, count, classes, wide) if function.array else None
    return Data(arrays[0], tuple(arrays[1:]), g)


def lay_out(name: str, data: Data, shape: Shape) -> Data:
    """Rows in a shape, over and over until it is full."""
    batch, classes, *inner = shape
    count = rows(shape)

    def place(array: np.ndarray, kind: str) -> np.ndarray:
        if kind == "weights":
            return array
        if len(array) != count:
            array = array[np.arange(count) % len(array)]
        if not inner:
            return array
        if kind == "labels":
            return array.reshape(batch, *inner)
        return np.ascontiguousarray(np.moveaxis(array.reshape(batch, *inner, classes), -1, 1))

    rest = (place(a, kind) for a, kind in zip(data.rest, FUNCTIONS[name].takes, strict=True))
    return Data(place(data.x, "logits"), tuple(rest), None if data.g is None else place(data.g, "logits"))


def as_rows(array: np.ndarray, count: int) -> np.ndarray:
    """The first rows of an array with the classes in dimension 1."""
    if array.ndim < 2:
        return array
    return np.moveaxis(array, 1, -1).reshape(-1, array.shape[1])[:count]
