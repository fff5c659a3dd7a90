"""An .npy file: one array, mapped into memory. Scores want a file of targets, and one of labels may be that."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossless.errors import EvaluationError

from ..roles import Columns, ScoreColumn, Table, ValueColumn
from ..rows import RawBatch, Values
from ..text import shown
from . import Part, batch_rows
from .arrays import check_labels, native, read_header, values_of

_PART_SCORES = 1 << 22  # scores that are read by one task


class NpyReader:
    """One array, called like the file but for the number at its end; any rows of it can be read apart."""

    format = "NPY"

    def __init__(self, path: str, file: int) -> None:
        self.path, self.file = path, file
        name = Path(path).name.removesuffix(".npy")
        try:
            with Path(path).open("rb") as stream:
                self._array = read_header(stream, re.sub(r"(?<=.)[-_.]?[0-9]+$", "", name), Path(path).stat().st_size)
        except OSError as error:
            raise EvaluationError(error.strerror or str(error)) from None
        if self._array.holds_scores:
            self.table = Table(scores=(replace(self._array.as_scores, unnamed=True),), values=())
        else:
            self.table = Table(scores=(), values=(self._array.as_values,))

    def classes(self, scores: ScoreColumn) -> int:
        """Number of scores per row."""
        return self._array.shape[1]

    def parts(self, columns: Columns, classes: int) -> Sequence[Part]:
        """Ranges of rows."""
        rows, step = self._array.rows, max(1, _PART_SCORES // classes)
        return [Part(first, min(step, rows - first)) for first in range(0, rows, step)]

    def notes(self, columns: Columns) -> list[str]:
        """Nothing."""
        return []

    def batches(self, part: Part, columns: Columns, classes: int) -> Iterator[RawBatch]:
        """Scores alone."""
        for row, block in self._blocks(part.first_row, part.first_row + part.rows, batch_rows(classes)):
            yield RawBatch(self.file, row, block, [])

    def values(self, column: ValueColumn) -> Iterator[tuple[Values, NDArray[np.bool_]]]:
        """The array."""
        check_labels(self._array)
        for _, block in self._blocks(0, self._array.rows, batch_rows(1, self._array.row_bytes)):
            yield values_of(block), np.zeros(len(block), bool)

    def details(self, rows: Sequence[int], columns: Sequence[str]) -> dict[int, dict[str, Any]]:
        """There is nothing else."""
        return {}

    def _blocks(self, first: int, end: int, step: int) -> Iterator[tuple[int, NDArray[Any]]]:
        array = self._array
        if array.dtype.hasobject:
            raise EvaluationError(f"array '{shown(array.name)}' is {array}")
        if not array.rows * array.row_bytes:
            return
        order = "F" if array.fortran else "C"
        try:
            mapped = np.memmap(self.path, array.dtype, "r", array.header, array.shape, order)  # type: ignore[call-overload]
        except (OSError, ValueError) as error:
            raise EvaluationError(f"cannot be read as NPY: {shown(error)}") from None
        for row in range(first, end, step):
            yield row, native(np.ascontiguousarray(mapped[row : min(row + step, end)]))
