"""NPZ archives of NumPy arrays, streamed: scores and labels are read in step, compressed or not, pickles refused."""

from __future__ import annotations

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

from ..roles import Columns, ScoreColumn, Table, ValueColumn, label_indices, name_indices
from ..rows import RawBatch
from . import Part, batch_rows

_NAMES = ("class_names", "classes")
_MAX_NAMES = 1 << 24  # bytes of class names that are read


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
    def is_one_hot(self) -> bool:
        return self.dtype.kind in "iub" and len(self.shape) == 2

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
            class_names = self._class_names(archive)
        self.table = Table(
            scores=tuple(ScoreColumn(m.name, (m.name,), str(m)) for m in self._members.values() if m.holds_scores),
            values=tuple(
                ValueColumn(
                    m.name,
                    str(m),
                    integral=m.is_one_hot or (m.dtype.kind in "iubf" and m.row_shape in ((), (1,))),
                    text=m.dtype.kind == "U" and len(m.shape) == 1,
                    listed=len(m.shape) > 1,
                )
                for m in self._members.values()
                if m.name not in _NAMES and not m.holds_scores
            ),
            class_names=class_names,
        )
        # Every candidate has the same length in a sound file; `batches` checks the two that were chosen.
        self.rows = max((self._members[c.name].shape[0] for c in self.table.scores), default=0)

    def classes(self, scores: ScoreColumn) -> int:
        """Number of scores per row."""
        return self._members[scores.name].shape[1]

    def parts(self, classes: int) -> Sequence[Part]:
        """The whole file."""
        return [Part(0, self.rows)] if self.rows else []

    def notes(self, columns: Columns) -> list[str]:
        """(N, 1) labels are squeezed."""
        label = self._members[columns.label.name]
        if label.row_shape == (1,):
            return [f"label array '{label.name}' has shape {label.shape}; it was squeezed to ({label.shape[0]},)"]
        return []

    def batches(self, part: Part, columns: Columns, classes: int) -> Iterator[RawBatch]:
        """Scores and labels in step."""
        scores, label = self._members[columns.scores.name], self._members[columns.label.name]
        if label.row_shape not in ((), (1,)):
            raise EvaluationError(
                f"label array '{label.name}' is {label}, expected one label per row; "
                "a one-hot or soft target is not a label, save its argmax"
            )
        if label.shape[0] != scores.shape[0]:
            raise EvaluationError(
                f"'{scores.name}' is {scores} and '{label.name}' is {label}: {scores.shape[0]} rows of scores "
                f"but {label.shape[0]} labels"
            )
        rows = batch_rows(classes)
        with self._archive() as archive:
            streams = zip(_stream(archive, scores, rows), _stream(archive, label, rows), strict=True)
            row = part.first_row
            for x, y in streams:
                y = y.reshape(len(y))
                if columns.label.text:
                    labels = name_indices(y.tolist(), label.name, row, columns.class_names)
                else:
                    labels = label_indices(y, label.name, row)
                yield RawBatch(self.file, row, x, labels)
                row += len(x)

    def details(self, rows: Sequence[int], columns: Sequence[str]) -> dict[int, dict[str, Any]]:
        """Stream the arrays again and pick the rows."""
        found: dict[int, dict[str, Any]] = {row: {} for row in rows}
        with self._archive() as archive:
            for name in columns:
                first = 0
                for values in _stream(archive, self._members[name], 8192):
                    for row in rows:
                        if first <= row < first + len(values):
                            found[row][name] = values[row - first].item()
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
                return tuple(str(n) for part in _stream(archive, member, 8192) for n in part.tolist())
        return None


def _header(archive: zipfile.ZipFile, entry: str) -> _Member:
    """Shape and dtype of an array, without its data."""
    name = entry.removesuffix(".npy")
    with archive.open(entry) as stream:
        try:
            version = npy.read_magic(stream)
            read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
            shape, fortran, dtype = read(stream)
        except (ValueError, KeyError) as error:
            raise EvaluationError(f"array '{name}' has no header that can be read: {error}") from None
        member = _Member(name, shape, fortran, dtype, stream.tell())
    if dtype.hasobject:
        # A header is enough to refuse it: unpickling runs code. Other arrays of the file stay usable.
        return member
    expected = member.header + math.prod(shape) * dtype.itemsize
    if archive.getinfo(entry).file_size != expected or min(shape, default=0) < 0:
        raise EvaluationError(
            f"array '{name}' is cut short or damaged: {archive.getinfo(entry).file_size} bytes, expected {expected}"
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
            raise EvaluationError(f"array '{member.name}' is cut short")
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _native(values: NDArray[Any]) -> NDArray[Any]:
    """The machine's byte order; float128 does not fit the kernels and is rounded to float64."""
    if values.dtype.kind == "f" and values.dtype.itemsize > 8:
        return values.astype(np.float64)
    return values.astype(values.dtype.newbyteorder("="), copy=False)
