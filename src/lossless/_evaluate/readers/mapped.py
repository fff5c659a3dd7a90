"""Files of plain arrays that are mapped into memory: an .npy file, and safetensors."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossless.errors import EvaluationError

from ..roles import Column, Columns, Table, WideColumn
from ..rows import Cells, RawBatch
from ..stores import FilePath, local
from ..text import safe, shown
from . import Part, batch_rows
from .arrays import Member, cells_of, check_labels, check_lengths, native, read_header, squeezed, values_of

_PART_SCORES = 1 << 22  # scores that are read by one task
_MAX_HEADER = 1 << 24  # bytes of the table of contents of safetensors
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",  # NumPy has no such type: made float32 when read
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U64": "<u8",
    "U32": "<u4",
    "U16": "<u2",
    "U8": "<u1",
    "BOOL": "?",
}


class MappedReader:
    """Arrays at known places of a file; any rows of them can be read apart."""

    format: str

    def __init__(self, path: FilePath, file: int) -> None:
        self.path, self.file = path, file
        try:
            members = self._contents(Path(local(path)))
        except OSError as error:
            raise EvaluationError(error.strerror or str(error)) from None
        self._members = {m.name: m for m in members}
        lone = len(members) == 1
        self.table = Table(
            scores=tuple(replace(m.as_scores, unnamed=lone) for m in members if m.holds_scores),
            values=tuple(m.as_values for m in members if not m.holds_scores),
        )

    def _contents(self, path: Path) -> list[Member]:
        raise NotImplementedError

    def width(self, column: WideColumn) -> int:
        """How many numbers a row has."""
        return self._members[column.name].width

    def parts(self, columns: Columns, classes: int) -> Sequence[Part]:
        """Ranges of rows."""
        rows, step = self._members[columns.scores.name].rows, max(1, _PART_SCORES // classes)
        return [Part(first, min(step, rows - first)) for first in range(0, rows, step)]

    def notes(self, columns: Columns) -> list[str]:
        """(N, 1) labels are squeezed."""
        return [note for column in columns.beside for note in squeezed(self._members[column.name])]

    def batches(self, part: Part, columns: Columns, classes: int) -> Iterator[RawBatch]:
        """Slices of the arrays."""
        asked: tuple[Column, ...] = (columns.scores, *columns.beside)
        members = [self._members[column.name] for column in asked]
        check_lengths(members, columns.beside)
        for first in range(part.first_row, part.first_row + part.rows, batch_rows(classes)):
            end = min(first + batch_rows(classes), part.first_row + part.rows)
            blocks = (self._slice(member, first, end) for member in members)
            cells = [cells_of(block, column) for block, column in zip(blocks, asked, strict=True)]
            yield RawBatch(self.file, first, cells[0], tuple(cells[1:]))

    def values(self, column: Column) -> Iterator[Cells]:
        """One array."""
        member = self._members[column.name]
        check_labels(member, column)
        step = batch_rows(1, member.row_bytes)
        for first in range(0, member.rows, step):
            end = min(first + step, member.rows)
            yield cells_of(self._slice(member, first, end), column)

    def details(self, rows: Sequence[int], columns: Sequence[str]) -> dict[int, dict[str, Any]]:
        """Single rows of the arrays."""
        found: dict[int, dict[str, Any]] = {row: {} for row in rows}
        for name in columns:
            for row in rows:
                found[row][name] = values_of(self._slice(self._members[name], row, row + 1))[0]
        return found

    def _slice(self, member: Member, first: int, end: int) -> NDArray[Any]:
        if member.dtype.hasobject:
            raise EvaluationError(f"array '{shown(member.name)}' is {member}")
        stored = np.dtype("<u2") if member.brain else member.dtype
        if not (end - first) * member.row_bytes:
            return np.zeros((end - first, *member.row_shape), member.dtype)
        order = "F" if member.fortran else "C"
        try:
            path = local(self.path)
            mapped: Any = np.memmap(path, stored, "r", member.header, member.shape, order)  # type: ignore[call-overload]
        except (OSError, ValueError) as error:
            raise EvaluationError(f"cannot be read as {self.format}: {shown(error)}") from None
        block = np.ascontiguousarray(mapped[first:end])
        return (block.astype("u4") << 16).view("f4") if member.brain else native(block)


def name_of(path: Path) -> str:
    """What the one array of a file is called: like the file, but for the number at its end."""
    return re.sub(r"(?<=.)[-_.]?[0-9]+$", "", path.stem)


class NpyReader(MappedReader):
    """One array."""

    format = "NPY"

    def _contents(self, path: Path) -> list[Member]:
        with path.open("rb") as stream:
            return [read_header(stream, name_of(path), path.stat().st_size)]


class SafetensorsReader(MappedReader):
    """Arrays by name behind a table of contents in JSON."""

    format = "safetensors"

    def _contents(self, path: Path) -> list[Member]:
        size = path.stat().st_size
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > min(_MAX_HEADER, size - 8):
                raise EvaluationError(f"cut short or damaged: {size} bytes, and a table of contents of {length}")
            try:
                contents = json.loads(stream.read(length))
                entries = {safe(name): entry for name, entry in contents.items() if name != "__metadata__"}
                return [_tensor(name, entry, 8 + length, size) for name, entry in entries.items()]
            except EvaluationError:
                raise
            except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
                raise EvaluationError(f"has no table of contents that can be read: {shown(error)}") from None


def _tensor(name: str, entry: dict[str, Any], data: int, size: int) -> Member:
    """An array of safetensors; of an unknown type, it is no column of ours."""
    shape, (begin, end), brain = tuple(entry["shape"]), entry["data_offsets"], entry["dtype"] == "BF16"
    if not all(type(n) is int and n >= 0 for n in (*shape, begin, end)):
        raise EvaluationError(f"array '{shown(name)}' has the shape '{shown(entry['shape'])}', expected numbers")
    if entry["dtype"] not in _DTYPES:
        return Member(name, (), False, np.dtype("V1"), data)
    stored = np.dtype(_DTYPES[entry["dtype"]])
    member = Member(name, shape, False, np.dtype("f4") if brain else stored, data + begin, brain)
    count = 1
    for n in shape:
        count *= n
    if end - begin != count * stored.itemsize or data + end > size:
        raise EvaluationError(
            f"array '{shown(name)}' is cut short or damaged: {min(end, size - data) - begin} bytes, expected "
            f"{count * stored.itemsize}"
        )
    return member
