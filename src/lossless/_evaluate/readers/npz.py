"""NPZ archives of NumPy arrays, streamed: scores and labels are read in step, compressed or not, pickles refused."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lossless.errors import EvaluationError

from ..roles import Column, Columns, Table, WideColumn, label_indices
from ..rows import Cells, RawBatch
from ..stores import FilePath, local
from ..text import shown
from . import Part, batch_rows
from .arrays import Member, cells_of, check_labels, check_lengths, native, read_header, squeezed, texts_of

_NAMES = ("class_names", "classes")
# RuntimeError: encrypted; NotImplementedError: an unknown compression; UnicodeDecodeError: names that are no text
_FAULTS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, UnicodeDecodeError)
_MAX_NAMES = 1 << 24  # bytes of class names that are read


class NpzReader:
    """An .npz file; its members cannot be entered in the middle, so it is one part."""

    format = "NPZ"

    def __init__(self, path: FilePath, file: int) -> None:
        self.path, self.file = path, file
        with self._archive() as archive:
            names = [n for n in archive.namelist() if n.endswith(".npy")]
            if not names:
                raise EvaluationError("a zip file without NumPy arrays; expected an archive by numpy.savez")
            self._members = {m.name: m for m in (_header(archive, n) for n in names)}
            class_names, class_values = self._class_names(archive), self._class_values(archive)
        self.table = Table(
            scores=tuple(m.as_scores for m in self._members.values() if m.holds_scores),
            values=tuple(m.as_values for m in self._members.values() if m.name not in _NAMES and not m.holds_scores),
            class_names=class_names,
            class_values=class_values,
        )

    def width(self, column: WideColumn) -> int:
        """How many numbers a row has."""
        return self._members[column.name].width

    def parts(self, columns: Columns, classes: int) -> Sequence[Part]:
        """The whole file."""
        rows = self._members[columns.scores.name].rows
        return [Part(0, rows)] if rows else []

    def notes(self, columns: Columns) -> list[str]:
        """(N, 1) labels are squeezed."""
        return [note for column in columns.beside for note in squeezed(self._members[column.name])]

    def batches(self, part: Part, columns: Columns, classes: int) -> Iterator[RawBatch]:
        """Scores and what is read beside them, in step."""
        asked: tuple[Column, ...] = (columns.scores, *columns.beside)
        members = [self._members[column.name] for column in asked]
        check_lengths(members, columns.beside)
        rows = batch_rows(classes, sum(member.row_bytes for member in members[1:]))
        row = part.first_row
        with self._archive() as archive:
            for blocks in zip(*(_stream(archive, member, rows) for member in members), strict=True):
                cells = [cells_of(block, column) for block, column in zip(blocks, asked, strict=True)]
                yield RawBatch(self.file, row, cells[0], tuple(cells[1:]))
                row += len(blocks[0])

    def values(self, column: Column) -> Iterator[Cells]:
        """One array."""
        member = self._members[column.name]
        check_labels(member, column)
        with self._archive() as archive:
            for block in _stream(archive, member, batch_rows(1, member.row_bytes)):
                yield cells_of(block, column)

    def details(self, rows: Sequence[int], columns: Sequence[str]) -> dict[int, dict[str, Any]]:
        """Stream the arrays again and pick the rows."""
        found: dict[int, dict[str, Any]] = {row: {} for row in rows}
        with self._archive() as archive:
            for name in columns:
                first, member = 0, self._members[name]
                for values in _stream(archive, member, batch_rows(1, member.row_bytes)):
                    here = [row for row in rows if first <= row < first + len(values)]
                    picked = values[[row - first for row in here]]
                    texts = texts_of(picked) if member.dtype.kind == "U" else picked.tolist()
                    for row, value in zip(here, texts, strict=True):
                        found[row][name] = value
                    first += len(values)
        return found

    @contextmanager
    def _archive(self) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(local(self.path)) as archive:
                yield archive
        except _FAULTS as error:
            raise EvaluationError(f"cannot be read as NPZ: {error}") from None

    def _class_names(self, archive: zipfile.ZipFile) -> tuple[str, ...] | None:
        for name in _NAMES:
            member = self._members.get(name)
            if member and member.dtype.kind == "U" and len(member.shape) == 1:
                if member.shape[0] * member.row_bytes > _MAX_NAMES:
                    return None
                return tuple(name for part in _stream(archive, member, 8192) for name in texts_of(part))
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


def _header(archive: zipfile.ZipFile, entry: str) -> Member:
    with archive.open(entry) as stream:
        return read_header(stream, entry.removesuffix(".npy"), archive.getinfo(entry).file_size)


def _stream(archive: zipfile.ZipFile, member: Member, rows: int) -> Iterator[NDArray[Any]]:
    """The array in blocks of `rows`."""
    if member.fortran and len(member.shape) > 1:
        yield from _stream_columns(archive, member, rows)
        return
    with archive.open(member.name + ".npy") as stream:
        stream.read(member.header)
        for first in range(0, member.shape[0], rows):
            count = min(rows, member.shape[0] - first)
            data = _read_exactly(stream, count * member.row_bytes, member)
            yield native(np.frombuffer(data, member.dtype).reshape(count, *member.row_shape))


def _stream_columns(archive: zipfile.ZipFile, member: Member, rows: int) -> Iterator[NDArray[Any]]:
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
            yield native(np.ascontiguousarray(mapped[first : first + rows]))


def _read_exactly(stream: IO[bytes], size: int, member: Member) -> bytes:
    """`size` bytes; a zip stream may give less at a time."""
    parts = []
    while size:
        part = stream.read(size)
        if not part:
            raise EvaluationError(f"array '{shown(member.name)}' is cut short")
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
