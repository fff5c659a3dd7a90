"""NPZ archives of NumPy arrays, streamed: scores and labels are read in step, compressed or not, pickles refused."""

from __future__ import annotations

import io
import math
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from lossless.errors import EvaluationError

from ..roles import Columns, Holds, ScoreColumn, Table, ValueColumn, label_indices, name_indices
from ..rows import RawBatch
from ..text import safe, shown
from . import Part, batch_rows

_NAMES = ("class_names", "classes")
_MAX_NAMES = 1 << 24  # bytes of class names that are read
_MAX_HEADER = 1 << 16  # bytes of a header; those of plain arrays have a hundred


@dataclass(frozen=True)
class _Member:
    """An array of the archive, by its header."""

    name: str
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    header: int  # bytes before the data

    @property
    def row_shape(self) -> tuple[int, ...]:
        return self.shape[1:]

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

    def __str__(self) -> str:
        pickled = ", pickled and not read" if self.dtype.hasobject else ""
        return f"{self.dtype.name} of shape {self.shape}{pickled}"


class NpzReader:
    """An .npz file; its members cannot be entered in the middle, so it is one part."""

    format = "NPZ"

    def __init__(self, path: str, file: int) -> None:
        self.path, self.file = path, file
        with self._archive() as archive:
            names = [n for n in archive.namelist() if n.endswith(".npy")]
            if not names:
                raise EvaluationError("a zip file without NumPy arrays; expected an archive by numpy.savez")
            self._members = {m.name: m for m in (_header(archive, n) for n in names)}
            class_names, class_values = self._class_names(archive), self._class_values(archive)
        self.table = Table(
            scores=tuple(
                ScoreColumn(m.name, (m.name,), str(m), m.rows) for m in self._members.values() if m.holds_scores
            ),
            values=tuple(
                ValueColumn(m.name, str(m), m.rows, m.holds, listed=len(m.shape) > 1)
                for m in self._members.values()
                if m.name not in _NAMES and not m.holds_scores
            ),
            class_names=class_names,
            class_values=class_values,
        )

    def classes(self, scores: ScoreColumn) -> int:
        """Number of scores per row."""
        return self._members[scores.name].shape[1]

    def parts(self, columns: Columns, classes: int) -> Sequence[Part]:
        """The whole file."""
        rows = self._members[columns.scores.name].rows
        return [Part(0, rows)] if rows else []

    def notes(self, columns: Columns) -> list[str]:
        """(N, 1) labels are squeezed."""
        label = self._members[columns.label.name]
        if label.row_shape == (1,):
            return [
                f"label array '{shown(label.name)}' has shape {label.shape}; it was squeezed to ({label.shape[0]},)"
            ]
        return []

    def batches(self, part: Part, columns: Columns, classes: int) -> Iterator[RawBatch]:
        """Scores and labels in step."""
        scores, label = self._members[columns.scores.name], self._members[columns.label.name]
        if label.row_shape not in ((), (1,)):
            raise EvaluationError(
                f"label array '{shown(label.name)}' is {label}, expected one label per row; "
                "a one-hot or soft target is not a label, save its argmax"
            )
        if label.rows != scores.rows:
            raise EvaluationError(
                f"'{shown(scores.name)}' is {scores} and '{shown(label.name)}' is {label}: {scores.rows} rows of "
                f"scores but {label.rows} labels"
            )
        rows = batch_rows(classes, label.row_bytes)
        with self._archive() as archive:
            streams = zip(_stream(archive, scores, rows), _stream(archive, label, rows), strict=True)
            row = part.first_row
            for x, y in streams:
                y = y.reshape(len(y))
                if columns.label.text:
                    labels, missing = name_indices(_texts(y), label.name, row, columns.class_names)
                else:
                    labels, missing = label_indices(y, label.name, row)
                yield RawBatch(self.file, row, x, labels, missing if missing.any() else None)
                row += len(x)

    def details(self, rows: Sequence[int], columns: Sequence[str]) -> dict[int, dict[str, Any]]:
        """Stream the arrays again and pick the rows."""
        found: dict[int, dict[str, Any]] = {row: {} for row in rows}
        with self._archive() as archive:
            for name in columns:
                first, member = 0, self._members[name]
                for values in _stream(archive, member, batch_rows(1, member.row_bytes)):
                    here = [row for row in rows if first <= row < first + len(values)]
                    picked = values[[row - first for row in here]]
                    texts = _texts(picked) if member.dtype.kind == "U" else picked.tolist()
                    for row, value in zip(here, texts, strict=True):
                        found[row][name] = value
                    first += len(values)
        return found

    @contextmanager
    def _archive(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(self.path) as archive:
                yield archive
        # RuntimeError: encrypted; NotImplementedError: an unknown compression
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
            raise EvaluationError(f"cannot be read as NPZ: {error}") from None

    def _class_names(self, archive: zipfile.ZipFile) -> tuple[str, ...] | None:
        for name in _NAMES:
            member = self._members.get(name)
            if member and member.dtype.kind == "U" and len(member.shape) == 1:
                if member.shape[0] * member.row_bytes > _MAX_NAMES:
                    return None
                return tuple(name for part in _stream(archive, member, 8192) for name in _texts(part))
        return None

    def _class_values(self, archive: zipfile.ZipFile) -> tuple[int, ...] | None:
        """Labels in score order: `classes` as scikit-learn's models have it, numbers and not names."""
        member = self._members.get("classes")
        if not member or member.dtype.kind not in "iufb" or len(member.shape) != 1:
            return None
        if member.rows * member.row_bytes > _MAX_NAMES:
            raise EvaluationError(f"array 'classes' is {member}, expected the label of each score")
        found: list[int] = []
        for part in _stream(archive, member, 8192):
            values, missing = label_indices(part, "classes", len(found))
            if missing.any():
                raise EvaluationError("array 'classes' holds nan, expected the label of each score")
            found += values.tolist()
        return None if found == list(range(len(found))) else tuple(found)


def _header(archive: zipfile.ZipFile, entry: str) -> _Member:
    """Shape and dtype of an array, without its data."""
    name = entry.removesuffix(".npy")
    with archive.open(entry) as stream:
        start = io.BytesIO(stream.read(_MAX_HEADER))  # a longer header is cut short here, and so refused unread
    try:
        version = npy.read_magic(start)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, fortran, dtype = read(start)
    except (ValueError, KeyError, RecursionError, MemoryError) as error:
        why = str(error).partition("\n")[0]
        raise EvaluationError(f"array '{shown(name)}' has no header that can be read: {shown(why)}") from None
    member = _Member(safe(name), shape, fortran, dtype, start.tell())
    if dtype.hasobject:
        # A header is enough to refuse it: unpickling runs code. Other arrays of the file stay usable.
        return member
    expected = member.header + math.prod(shape) * dtype.itemsize
    if archive.getinfo(entry).file_size != expected or min(shape, default=0) < 0:
        raise EvaluationError(
            f"array '{shown(name)}' is cut short or damaged: {archive.getinfo(entry).file_size} bytes, "
            f"expected {expected}"
        )
    return member


def _stream(archive: zipfile.ZipFile, member: _Member, rows: int) -> Iterator[NDArray[Any]]:
    """The array in blocks of `rows`."""
    if member.fortran and len(member.shape) > 1:
        yield from _stream_columns(archive, member, rows)
        return
    with archive.open(member.name + ".npy") as stream:
        stream.read(member.header)
        for first in range(0, member.shape[0], rows):
            count = min(rows, member.shape[0] - first)
            data = _read_exactly(stream, count * member.row_bytes, member)
            yield _native(np.frombuffer(data, member.dtype).reshape(count, *member.row_shape))


def _stream_columns(archive: zipfile.ZipFile, member: _Member, rows: int) -> Iterator[NDArray[Any]]:
    """An array stored column by column: rows are far apart, so it is unpacked to a temporary file first."""
    with tempfile.TemporaryFile() as unpacked:
        with archive.open(member.name + ".npy") as stream:
            stream.read(member.header)
            shutil.copyfileobj(stream, unpacked, 1 << 20)
        unpacked.flush()
        if 0 in member.shape:
            return
        mapped = np.memmap(unpacked, member.dtype, "r", shape=member.shape, order="F")
        for first in range(0, member.shape[0], rows):
            yield _native(np.ascontiguousarray(mapped[first : first + rows]))


def _read_exactly(stream: IO[bytes], size: int, member: _Member) -> bytes:
    """`size` bytes; a zip stream may give less at a time."""
    parts = []
    while size:
        part = stream.read(size)
        if not part:
            raise EvaluationError(f"array '{shown(member.name)}' is cut short")
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _texts(values: NDArray[Any]) -> list[str]:
    """Strings; NumPy keeps any 32 bits as a character, Python and UTF-8 do not."""
    codes = np.ascontiguousarray(values).view(np.uint32)
    if (codes > 0x10FFFF).any():
        values = np.where(codes > 0x10FFFF, 0xFFFD, codes).astype(np.uint32).view(values.dtype)
    return [safe(text) for text in values.tolist()]


def _native(values: NDArray[Any]) -> NDArray[Any]:
    """The machine's byte order; float128 does not fit the kernels and is rounded to float64."""
    if values.dtype.kind == "f" and values.dtype.itemsize > 8:
        return values.astype(np.float64)
    return values.astype(values.dtype.newbyteorder("="), copy=False)
