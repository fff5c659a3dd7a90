"""Parquet by pyarrow."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from lossless.errors import EvaluationError

from ..stores import FilePath, RemoteFile, in_place
from ..text import shown
from . import batch_rows
from .arrow import FAULTS, ArrowReader, describe, faults, first_line

_BUFFER = 1 << 16  # bytes of a column that are read at once
_REMOTE_BUFFERS = 1 << 23  # of all columns: a store takes as long to answer as to send a megabyte


class ParquetReader(ArrowReader):
    """A Parquet file, read row group by row group without loading one whole."""

    format = "Parquet"

    def __init__(self, path: FilePath, file: int) -> None:
        self.path, self.file = path, file
        with faults(self.format), in_place(path) as source, pq.ParquetFile(source) as opened:
            self._metadata, self._schema = opened.metadata, opened.schema_arrow
            self.table = describe(self._schema, self._metadata.num_rows)

    def _detail_rows(self, unit: int, columns: Sequence[str]) -> int:
        """How many rows of a row group to read at once; dictionaries hide how long texts are, so never many."""
        metadata = self._metadata.row_group(unit)
        chunks = (metadata.column(i) for i in range(metadata.num_columns))
        with faults(self.format):
            size = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.partition(".")[0] in columns)
        return min(batch_rows(1, size / metadata.num_rows), 256)

    def _sizes(self) -> list[int]:
        groups = range(self._metadata.num_row_groups)
        return [self._metadata.row_group(group).num_rows for group in groups]

    def _read(
        self, units: Sequence[int], columns: Sequence[str], rows: int, numbers: Collection[str] = ()
    ) -> Iterator[pa.RecordBatch]:
        # Without pre-buffering and with a small buffer for each column, chunks are read as they are decoded: memory
        # does not grow with the size of the row groups (187 MiB became 85 for one of 112 MB).
        buffer = _BUFFER
        if isinstance(self.path, RemoteFile):
            buffer = max(_REMOTE_BUFFERS // len(columns), buffer)
        try:
            with (
                in_place(self.path) as source,
                pq.ParquetFile(source, metadata=self._metadata, pre_buffer=False, buffer_size=buffer) as opened,
            ):
                for together, size in _even(units, self._sizes(), rows):
                    yield from opened.iter_batches(size, row_groups=together, columns=list(columns), use_threads=False)
        except FAULTS as error:
            raise EvaluationError(f"cannot read '{shown(columns[0])}': {first_line(error)}") from None


def _even(units: Sequence[int], sizes: Sequence[int], rows: int) -> Iterator[tuple[list[int], int]]:
    """Row groups that are read together, and their rows at a time, at most `rows`.

    Batches that go on in the next row group take a tenth more time: groups are joined only where a batch holds them
    whole, and one that is too large is cut evenly.
    """
    together: list[int] = []
    held = 0
    for unit in units:
        if together and held + sizes[unit] > rows:
            yield together, _share(held, rows)
            together, held = [], 0
        together.append(unit)
        held += sizes[unit]
    if together:
        yield together, _share(held, rows)


def _share(held: int, rows: int) -> int:
    """About equally many at a time, no more than `rows`."""
    return math.ceil(held / math.ceil(held / rows)) if held else rows
