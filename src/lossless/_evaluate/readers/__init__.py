"""Readers: one class per file format, chosen by the first bytes of the file.

A reader describes its columns, cuts itself into partitions that can be read apart, and yields batches of rows in
bounded memory. A format is added by writing a `Reader` and naming it in `_FORMATS`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from lossless.errors import EvaluationError, MissingExtraError

from ..errors import about
from ..roles import Columns, ScoreColumn, Table
from ..rows import RawBatch


@dataclass(frozen=True)
class Part:
    """Rows of one file that are read together: `selection` is the reader's own (row groups, a range, all)."""

    first_row: int
    rows: int
    selection: tuple[int, ...] = ()


class Reader(Protocol):
    """One open file of predictions."""

    format: str
    path: str
    file: int  # number of the file in the input
    table: Table

    def classes(self, scores: ScoreColumn) -> int:
        """Number of scores per row."""

    def parts(self, columns: Columns, classes: int) -> Sequence[Part]:
        """The rows of these columns cut into parts, the same whoever asks."""

    def notes(self, columns: Columns) -> list[str]:
        """What the reader does to these columns that their owner should know."""

    def batches(self, part: Part, columns: Columns, classes: int) -> Iterator[RawBatch]:
        """The rows of a part, in order, a few megabytes at a time."""

    def details(self, rows: Sequence[int], columns: Sequence[str]) -> dict[int, dict[str, Any]]:
        """Values of further columns for a few rows: {row: {column: value}}."""


_BATCH_SCORES = 1 << 20  # scores per batch: 4 MB in float32
_BATCH_BYTES = 1 << 22  # of other columns, whose rows may be long texts

# (first bytes, module, class)
_FORMATS = (
    (b"PAR1", "parquet", "ParquetReader"),
    (b"PK", "npz", "NpzReader"),
)
_PICKLE = b"\x80"


def batch_rows(classes: int, other_bytes: float = 0) -> int:
    """How many rows a reader reads at once: of so many scores, and of other columns that take so many bytes a row."""
    return int(max(1, min(_BATCH_SCORES // max(classes, 1), _BATCH_BYTES // max(other_bytes, 1))))


def open_reader(path: str, file: int) -> Reader:
    """The reader of a file, by its first bytes; `file` is its number in the input."""
    with about(path):
        try:
            with Path(path).open("rb") as stream:
                head = stream.read(8)
        except OSError as error:
            raise EvaluationError(error.strerror or str(error)) from None
        for magic, module, name in _FORMATS:
            if head.startswith(magic):
                try:
                    reader = getattr(import_module(f"{__name__}.{module}"), name)
                except ModuleNotFoundError as error:
                    raise MissingExtraError(error.name or module, "evaluate") from None
                opened: Reader = reader(path, file)
                return opened
        if not head:
            raise EvaluationError("the file is empty")
        if head.startswith(_PICKLE):
            raise EvaluationError(
                "a pickle, and reading a pickle runs what is in it. Load it where you trust it and save arrays: "
                "numpy.savez('predictions.npz', logits=..., label=...)"
            )
        raise EvaluationError(
            "neither Parquet nor NPZ. Convert it, e.g. by pandas.read_csv(...).to_parquet('predictions.parquet') "
            "or numpy.savez('predictions.npz', logits=..., label=...)"
        )
