"""Arrow's own formats by pyarrow: files (Feather among them) and streams, which Hugging Face datasets are kept in."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..roles import Columns, Table
from ..stores import FilePath, local
from ..text import shown
from .arrow import ArrowReader, describe, faults

_END = b"\xff\xff\xff\xff\x00\x00\x00\x00"


class IpcReader(ArrowReader):
    """A file of record batches, memory-mapped; each can be read apart, and is the least that can be read of it."""

    format = "Arrow"

    def __init__(self, path: FilePath, file: int) -> None:
        self.path, self.file = path, file
        with self._open() as batches:
            self._schema = batches.schema

    @cached_property
    def table(self) -> Table:
        """The columns; counting the rows reads one of them."""
        with faults(self.format):
            return describe(self._schema, sum(self._sizes()))

    @cached_property
    def _counted(self) -> list[int]:
        fields = list(self._schema)
        if not fields:
            return []
        cheap = next((i for i, field in enumerate(fields) if pa.types.is_primitive(field.type)), 0)
        with self._open([cheap]) as batches:
            return self._count(batches)

    def _sizes(self) -> list[int]:
        return self._counted

    def _count(self, batches: Any) -> list[int]:
        return [batches.get_batch(i).num_rows for i in range(batches.num_record_batches)]

    def _batches(self, batches: Any, units: Sequence[int]) -> Iterator[pa.RecordBatch]:
        return (batches.get_batch(i) for i in units)

    def _read(
        self, units: Sequence[int], columns: Sequence[str], rows: int, numbers: Collection[str] = ()
    ) -> Iterator[pa.RecordBatch]:
        with self._open([self._schema.get_field_index(name) for name in columns]) as batches:
            for batch in self._batches(batches, units):
                # Offsets of lists and indices of dictionaries are data, and pyarrow believes them if not asked.
                batch.validate(full=True)
                for first in range(0, batch.num_rows, rows):
                    yield batch.slice(first, rows)

    @contextmanager
    def _open(self, fields: Sequence[int] = ()) -> Iterator[Any]:
        options = pa.ipc.IpcReadOptions(included_fields=sorted(fields), use_threads=False)
        with faults(self.format), pa.memory_map(local(self.path)) as source, self._opened(source, options) as batches:
            yield batches

    def _opened(self, source: pa.NativeFile, options: pa.ipc.IpcReadOptions) -> Any:
        return pa.ipc.open_file(source, options=options)


class IpcStreamReader(IpcReader):
    """A stream of record batches, which has no table of contents: one unit."""

    format = "Arrow stream"

    def notes(self, columns: Columns) -> list[str]:
        """A stream that was cut between two record batches looks whole but for its end."""
        path = Path(local(self.path))
        with path.open("rb") as stream:
            stream.seek(-min(len(_END), path.stat().st_size), 2)
            ended = stream.read() == _END
        unended = [f"{shown(self.path)} lacks the mark at the end of an Arrow stream: rows may be missing"]
        return super().notes(columns) + ([] if ended else unended)

    def _count(self, batches: Any) -> list[int]:
        return [sum(batch.num_rows for batch in batches)]

    def _batches(self, batches: Any, units: Sequence[int]) -> Iterator[pa.RecordBatch]:
        return iter(batches)

    def _opened(self, source: pa.NativeFile, options: pa.ipc.IpcReadOptions) -> Any:
        return pa.ipc.open_stream(source, options=options)
