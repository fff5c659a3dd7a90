"""Canonical rows: every array of logits is seen as (outer, classes, inner), C-contiguous, and never copied to be so.

Row `r = o * inner + i`; a class dimension at the end has `inner == 1`.
"""

from collections.abc import Sequence
from math import prod
from operator import index
from typing import NamedTuple

from lossless.errors import DimensionError, ShapeError, UnsupportedArrayError


class Rows(NamedTuple):
    """How a C-contiguous array of logits falls into rows."""

    outer: int
    classes: int
    inner: int

    @property
    def number(self) -> int:
        """Of rows."""
        return self.outer * self.inner


def to_rows(shape: Sequence[int], dim: int) -> Rows:
    """The rows of an array whose classes lie along `dim` (already >= 0); a 0-d array is one row of one class."""
    if len(shape) == 2 and dim == 1:
        return Rows(shape[0], shape[1], 1)
    if not shape:
        return Rows(1, 1, 1)
    return Rows(prod(shape[:dim]), shape[dim], prod(shape[dim + 1 :]))


def without_dim(shape: Sequence[int], dim: int) -> tuple[int, ...]:
    """The shape of one number a row."""
    if dim == len(shape) - 1:
        return tuple(shape[:dim])
    return (*shape[:dim], *shape[dim + 1 :])


def class_dim(shape: Sequence[int]) -> int:
    """PyTorch's rule for losses: the classes are dimension 1, or dimension 0 of a single unbatched row."""
    return 1 if len(shape) > 1 else 0


def class_number(shape: Sequence[int], dim: int | None) -> int:
    """How many classes `shape` has along `dim`, or by PyTorch's rule; 0 where there is no such dimension."""
    dim = class_dim(shape) if dim is None else dim
    return shape[dim] if -len(shape) <= dim < len(shape) else 0


def to_dim(dim: int, ndim: int) -> int:
    """`dim` counted from the front; a 0-d array has the dimensions 0 and -1, as in PyTorch."""
    dim, size = index(dim), max(ndim, 1)
    if not -size <= dim < size:
        raise DimensionError(
            f"Dimension out of range (expected to be in range of [{-size}, {size - 1}], but got {dim})"
        )
    return dim % size


def to_dims(function: str, dim: int | Sequence[int], ndim: int) -> tuple[int, ...]:
    """One dimension or several, counted from the front, sorted, each once."""
    try:
        dims = [to_dim(d, ndim) for d in (dim if isinstance(dim, Sequence) else [dim])]
    except TypeError:
        kind = type(dim).__name__
        raise UnsupportedArrayError(
            f"{function}(): argument 'dim' must be tuple of ints, not {kind}\n{function}: dim got {dim!r}, expected an "
            "int or several"
        ) from None
    for d in dims:
        if dims.count(d) > 1:
            raise ShapeError(f"dim {d} appears multiple times in the list of dims")
    return tuple(sorted(dims))
