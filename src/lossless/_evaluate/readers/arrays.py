"""Arrays in NumPy's format, which an .npy file is and an .npz file holds; pickled ones are not read."""

from __future__ import annotations

import io
import math
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from lossless.errors import EvaluationError

from ..roles import Column, Holds, ValueColumn, WideColumn
from ..rows import Cells, Values
from ..text import safe, shown

# NumPy parses the header as Python, and lets through what the parser raises
_NO_HEADER = (ValueError, KeyError, TypeError, SyntaxError, tokenize.TokenError, RecursionError, MemoryError)
_MAX_HEADER = 1 << 16  # bytes of a header; those of plain arrays have a hundred


@dataclass(frozen=True)
class Member:
    """An array, by its header."""

    name: str
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    header: int  # bytes before the data
    brain: bool = False  # stored as bfloat16, read as float32

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.shape[1:]

    @property
    def width(self) -> int:
        """How many numbers a row has."""
        return math.prod(self.row_shape)

    @property
    def row_bytes(self) -> int:
        return math.prod(self.row_shape) * self.dtype.itemsize

    @property
    def holds_scores(self) -> bool:
        return self.dtype.kind == "f" and len(self.shape) == 2 and self.shape[1] > 1

    @property
    def rows(self) -> int:
        return self.shape[0] if self.shape else 0

    @property
    def holds(self) -> Holds:
        """What it holds as a column; a one-hot array counts as integers, so that it is refused for what it is."""
        if self.dtype.kind == "U" and len(self.shape) == 1:
            return Holds.TEXT
        if not self.shape or (self.row_shape not in ((), (1,)) and (len(self.shape) != 2 or self.dtype.kind == "f")):
            return Holds.OTHER
        kinds = {"i": Holds.INTEGERS, "u": Holds.INTEGERS, "b": Holds.BOOLEANS, "f": Holds.FLOATS}
        return kinds.get(self.dtype.kind, Holds.OTHER)

    @property
    def as_scores(self) -> WideColumn:
        """As a candidate for the scores."""
        return WideColumn(self.name, (self.name,), str(self), self.rows)

    @property
    def as_values(self) -> ValueColumn:
        """As any other column."""
        return ValueColumn(self.name, str(self), self.rows, self.holds, listed=len(self.shape) > 1)

    def __str__(self) -> str:
        pickled = ", pickled and not read" if self.dtype.hasobject else ""
        return f"{self.dtype.name} of shape {self.shape}{pickled}"


def read_header(stream: IO[bytes], name: str, size: int) -> Member:
    """Shape and dtype of an array of so many bytes, without its data."""
    start = io.BytesIO(stream.read(_MAX_HEADER))  # a longer header is cut short here, and so refused unread
    try:
        version = npy.read_magic(start)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, fortran, dtype = read(start)
    except _NO_HEADER as error:
        why = str(error).partition("\n")[0]
        raise EvaluationError(f"array '{shown(name)}' has no header that can be read: {shown(why)}") from None
    member = Member(safe(name), shape, fortran, dtype, start.tell())
    if dtype.hasobject:
        # A header is enough to refuse it: unpickling runs code. Other arrays of the file stay usable.
        return member
    expected = member.header + math.prod(shape) * dtype.itemsize
    if size != expected or min(shape, default=0) < 0:
        raise EvaluationError(f"array '{shown(name)}' is cut short or damaged: {size} bytes, expected {expected}")
    return member


def check_labels(member: Member, column: Column) -> None:
    """Raise if the array of a column of one value a row has more."""
    if isinstance(column, ValueColumn) and member.row_shape not in ((), (1,)):
        raise EvaluationError(
            f"label array '{shown(member.name)}' is {member}, expected one label per row; "
            "a one-hot or soft target is not a label, save its argmax"
        )


def check_lengths(members: Sequence[Member], columns: Sequence[Column]) -> None:
    """Raise if the arrays behind the first, those of the columns, have no value for each row of scores."""
    scores = members[0]
    for member, column in zip(members[1:], columns, strict=True):
        check_labels(member, column)
        if member.rows != scores.rows:
            raise EvaluationError(
                f"'{shown(scores.name)}' is {scores} and '{shown(member.name)}' is {member}: {scores.rows} rows of "
                f"scores but {member.rows} labels"
            )


def squeezed(member: Member) -> list[str]:
    """A note, if the array holds one value a row in a dimension of its own."""
    if member.row_shape != (1,):
        return []
    return [f"label array '{shown(member.name)}' has shape {member.shape}; it was squeezed to ({member.shape[0]},)"]


def cells_of(block: NDArray[Any], column: Column) -> Cells:
    """Rows of an array, none of which is null; a wide column has rows of numbers also where they are one number."""
    wide = isinstance(column, WideColumn)
    return Cells(block.reshape(len(block), -1) if wide else values_of(block), np.zeros(len(block), bool))


def values_of(block: NDArray[Any]) -> Values:
    """(n,) numbers, or texts in a list."""
    block = block.reshape(len(block))
    return texts_of(block) if block.dtype.kind == "U" else block


def texts_of(values: NDArray[Any]) -> list[str]:
    """Strings; NumPy keeps any 32 bits as a character, Python and UTF-8 do not."""
    codes = np.ascontiguousarray(values).view(np.uint32)
    if (codes > 0x10FFFF).any():
        values = np.where(codes > 0x10FFFF, 0xFFFD, codes).astype(np.uint32).view(values.dtype)
    return [safe(text) for text in values.tolist()]


def native(values: NDArray[Any]) -> NDArray[Any]:
    """The machine's byte order; float128 does not fit the kernels and is rounded to float64."""
    if values.dtype.kind == "f" and values.dtype.itemsize > 8:
        return values.astype(np.float64)
    return values.astype(values.dtype.newbyteorder("="), copy=False)
