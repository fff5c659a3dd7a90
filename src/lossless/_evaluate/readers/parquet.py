"""Parquet by pyarrow."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from lossless.errors import EvaluationError

from ..text import shown
from . import batch_rows
from .arrow import FAULTS, ArrowReader, describe, faults, first_line


class ParquetReader(ArrowReader):
    """A Parquet file, read row group by row group without loading one whole."""

    format = "Parquet"

    def __init__(self, path: str, file: int) -> None:
        self.path, self.file = path, file
        with faults(self.format), pq.ParquetFile(path) as opened:
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
        try:
            # Without pre-buffering and with a small buffer for each column, chunks are read as they are decoded: memory
            # does not grow with the size of the row groups (187 MiB became 85 for one of 112 MB).
            with pq.ParquetFile(self.path, metadata=self._metadata, pre_buffer=False, buffer_size=1 << 16) as opened:
                yield from opened.iter_batches(rows, row_groups=list(units), columns=list(columns), use_threads=False)
        except FAULTS as error:
            raise EvaluationError(f"cannot read '{shown(columns[0])}': {first_line(error)}") from None
