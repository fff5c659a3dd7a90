"""Readers: one class per file format, chosen by the first bytes of the file.

A reader describes its columns, cuts itself into partitions that can be read apart, and yields batches of rows in
bounded memory. A format is added by writing a `Reader` and naming it in `_FORMATS`.
"""

from __future__ import annotations

import re
import stat
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from lossless.errors import EvaluationError, MissingExtraError

from ..errors import about
from ..roles import Column, Columns, Table, WideColumn
from ..rows import Cells, RawBatch
from ..stores import FilePath, RemoteFile, base, head


@dataclass(frozen=True)
class Part:
    """Rows of one file that are read together: `selection` is the reader's own (row groups, a range, all)."""

    first_row: int
    rows: int
    selection: tuple[int, ...] = ()


class Reader(Protocol):
    """One open file of predictions."""

    format: str
    path: FilePath
    file: int  # number of the file in the input
    table: Table

    def width(self, column: WideColumn) -> int:
        """How many numbers a row has."""

    def parts(self, columns: Columns, classes: int) -> Sequence[Part]:
        """The rows of these columns cut into parts, the same whoever asks."""

    def notes(self, columns: Columns) -> list[str]:
        """What the reader does to these columns that their owner should know."""

    def batches(self, part: Part, columns: Columns, classes: int) -> Iterator[RawBatch]:
        """The rows of a part, in order, a few megabytes at a time."""

    def values(self, column: Column) -> Iterator[Cells]:
        """One column of the whole file in blocks."""

    def details(self, rows: Sequence[int], columns: Sequence[str]) -> dict[int, dict[str, Any]]:
        """Values of further columns for a few rows: {row: {column: value}}."""


# What Lightning's writers save for each process: its predictions, and which rows of the data set they are of. The names
# are alike but for these words.
PREDICTIONS, INDICES = "predictions", "batch_indices"

_BATCH_SCORES = 1 << 20  # scores per batch: 4 MB in float32
_BATCH_BYTES = 1 << 22  # of other columns, whose rows may be long texts

_HEAD = 1 << 16  # bytes of a file that say what it is

# (first bytes, module, class); text is told apart by `_text_format`
_FORMATS = (
    (b"PAR1", "parquet", "ParquetReader"),
    (b"ARROW1", "ipc", "IpcReader"),
    (b"\xff\xff\xff\xff", "ipc", "IpcStreamReader"),
    (b"PK\x03\x04", "npz", "NpzReader"),
    (b"PK\x05\x06", "npz", "NpzReader"),
    (b"\x93NUMPY", "mapped", "NpyReader"),
)
_SAVE = "numpy.savez('predictions.npz', logits=..., label=...)"
_PICKLE = "a pickle, and reading a pickle runs what is in it. Load it where you trust it and save arrays: " + _SAVE
_PICKLES = (".pkl", ".pickle", ".joblib")  # they may be packed, or text
_REFUSED = (
    (b"\x80", _PICKLE),
    (b"FEA1", "Feather of version 1. Write it anew by pyarrow.feather.write_feather(pyarrow.feather.read_table(...))"),
    (b"\xff\xfe", "text in UTF-16, expected UTF-8"),
    (b"\xfe\xff", "text in UTF-16, expected UTF-8"),
    (b"\x1f\x8b", "compressed by gzip, which is read here if CSV or JSON lines are inside. Unpack it first"),
)
_SAFETENSORS = re.compile(rb"[\s\S]{5}\0{3}\{")  # the length of a table of contents in 8 bytes, and the table
_NAME = 1 << 10  # bytes that hold the first name in a zip file
_GZIP = b"\x1f\x8b"
_NO_TEXT = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def batch_rows(classes: int, other_bytes: float = 0) -> int:
    """How many rows a reader reads at once: of so many scores, and of other columns that take so many bytes a row."""
    return int(max(1, min(_BATCH_SCORES // max(classes, 1), _BATCH_BYTES // max(other_bytes, 1))))


def stamp(path: FilePath) -> tuple[int, int]:
    """Size and time of change of a file, which tell a copy in memory from another file of that name."""
    if isinstance(path, RemoteFile):
        return path.size or 0, path.found
    status = Path(path).stat()
    return status.st_size, status.st_mtime_ns


def open_reader(path: FilePath, file: int) -> Reader:
    """The reader of a file, by its first bytes; `file` is its number in the input."""
    with about(path):
        try:
            if isinstance(path, str) and not stat.S_ISREG(Path(path).stat().st_mode) and not Path(path).is_dir():
                raise EvaluationError("is no file but a pipe or a device, which cannot be read twice. Save it first")
            begins = head(path, _HEAD)
        except OSError as error:
            raise EvaluationError(error.strerror or str(error)) from None
        if not begins:
            raise EvaluationError("the file is empty")
        if begins.startswith(b"PK") and b"/data.pkl" in begins[:_NAME]:
            return _reader("pt", "PtReader", path, file)
        for magic, module, name in _FORMATS:
            if begins.startswith(magic):
                return _reader(module, name, path, file)
        if _SAFETENSORS.match(begins):
            return _reader("mapped", "SafetensorsReader", path, file)
        if Path(base(path).lower().removesuffix(".gz")).suffix in _PICKLES:
            raise EvaluationError(_PICKLE)
        text = _unpacked(begins) if begins.startswith(_GZIP) else begins
        if text and not _NO_TEXT.search(text):
            return _reader(*_text_format(text), path, file)
        for magic, why in _REFUSED:
            if begins.startswith(magic):
                raise EvaluationError(why)
        raise EvaluationError(
            "none of the formats that are read here: Parquet, Arrow or Feather, CSV or TSV, JSON lines, NPZ, NPY, "
            "safetensors, .pt. "
            f"Convert it, e.g. by DataFrame.to_parquet('predictions.parquet') or {_SAVE}"
        )


def _reader(module: str, name: str, path: FilePath, file: int) -> Reader:
    try:
        reader = getattr(import_module(f"{__name__}.{module}"), name)
    except ModuleNotFoundError as error:
        raise MissingExtraError(error.name or module, "evaluate") from None
    opened: Reader = reader(path, file)
    return opened


def _unpacked(head: bytes) -> bytes:
    """The beginning of what gzip packed, as far as there is any."""
    try:
        return zlib.decompressobj(wbits=31).decompress(head, _HEAD)
    except zlib.error:
        return b""


def _text_format(text: bytes) -> tuple[str, str]:
    begins = text.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    if begins == b"[":
        raise EvaluationError(
            "a JSON array, which cannot be read row by row. Expected JSON lines: an object in each, by jq -c '.[]'"
        )
    return ("jsonl", "JsonLinesReader") if begins == b"{" else ("csv", "CsvReader")
