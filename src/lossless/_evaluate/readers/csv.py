"""CSV and TSV by pyarrow, plain or packed by gzip: one column per class, or cells that hold lists."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from lossless.errors import EvaluationError

from ..roles import Columns, Table, class_prefix, promises_truth
from ..stores import FilePath, local
from ..text import shown
from . import stamp
from .arrow import ArrowReader, describe, faults, is_list, number_type, numbered, values_of, whole_as_floats

_BLOCKS = (1 << 20, 1 << 22, 1 << 24, 1 << 26)  # bytes that are parsed at once: the least that hold a row
_DELIMITERS = ",\t;"
_PIECE = 1 << 18  # bytes that are searched for quotation marks at once
_SURE = 1e-2  # what other classes may have beside a probability of 1, as it is rounded
_CELLS = 64  # of a column of text, that say whether it holds lists
_LIST = re.compile(r"^\s*\[(\s*\[)?([-+0-9.,eE\s]|nan|NaN|null|None|inf|Infinity)*\](\s*\])?\s*$")
_NOT_WHOLE = re.compile(r"[.eEnN]")
_MEASURED = re.compile(r"\s*[-+]?([0-9]+\.[0-9]*|\.[0-9]+)(e[-+]?[0-9]+)?\s*", re.IGNORECASE)
_WORD = re.compile(r"[^\W\d]\w*")
# Whole numbers of these names are no scores: they number or group the rows, or say what was predicted.
_NO_SCORES = re.compile(
    r"|unnamed.*|(.*[^a-z])?(ids?|idx|index|row|count|length|fold|split|epoch|step|seed)|level_\d+|n_.*|num_.*"
    r"|(example|image|item|question|row|sample|user)id"
    r"|(.*[^a-z])?(preds?|predicted|predictions?|argmax|y_?hat|top_?1)([^a-z].*)?",
    re.IGNORECASE,
)


class CsvReader(ArrowReader):
    """A text table with names in its first line: one unit, since a line may begin anywhere.

    Types are those of the first block. Scores are read as float64: a column whose first values look whole may go on
    with others.
    """

    format = "CSV"

    def __init__(self, path: FilePath, file: int) -> None:
        self.path, self.file = path, file
        self._delimiter = _delimiter(path)
        try:
            names, first = self._first_block()
        except EvaluationError:
            _lines(path)  # a mark that is not closed is the likely reason, and easier to put right
            raise
        if first is None:
            types = [pa.float64()] * len(names)
        else:
            types = [_list_type(array) if pa.types.is_string(array.type) else array.type for array in first.columns]
        self._schema = whole_as_floats(pa.schema(list(zip(names, types, strict=True))))
        scores = describe(self._schema, 0).scores
        if first is not None and scores and all(column.unnamed and column.class_names for column in scores):
            for i in _whole_scores(names, first):
                types[i] = pa.float64()
            self._schema = whole_as_floats(pa.schema(list(zip(names, types, strict=True))))

    def _first_block(self) -> tuple[list[str], pa.RecordBatch | None]:
        """The names of the columns, and the first rows; blocks are as large as a row of them needs."""
        for self._block in _BLOCKS:
            try:
                with self._open({}) as blocks:
                    return blocks.schema.names, next(iter(blocks), None)
            except _LongRow:
                if self._block == _BLOCKS[-1]:
                    raise
        raise AssertionError("no block")

    @cached_property
    def table(self) -> Table:
        """The columns; counting the rows reads the file once."""
        with faults(self.format):
            return describe(self._schema, sum(self._sizes()))

    def _sizes(self) -> list[int]:
        return [self._counted()[0]]

    def _counted(self) -> tuple[int, int]:
        first = self._schema.names[0]
        return _count(self.path, self._delimiter, self._block, first, stamp(self.path))

    def notes(self, columns: Columns) -> list[str]:
        """A quotation mark may join lines to a row, on purpose or not."""
        notes = super().notes(columns)
        rows, lines = self._counted()
        if rows < lines:
            notes.append(
                f"{shown(self.path)}: {lines} lines make {rows} rows: cells hold line ends between quotation marks"
            )
        return notes

    def _open(self, types: Mapping[str, pa.DataType]) -> AbstractContextManager[Any]:
        return _open(self.path, self._delimiter, self._block, types)

    def _read(
        self, units: Sequence[int], columns: Sequence[str], rows: int, numbers: Collection[str] = ()
    ) -> Iterator[pa.RecordBatch]:
        types = {name: self._schema.field(name).type for name in columns}
        types |= {name: number_type(types[name]) for name in numbers}
        row = 0
        with self._open({n: pa.string() if is_list(t) else t for n, t in types.items()}) as blocks:
            for block in blocks:
                arrays = [
                    _typed(array, type, name, row)
                    for array, (name, type) in zip(block.columns, types.items(), strict=True)
                ]
                whole = pa.RecordBatch.from_arrays(arrays, list(types))
                for first in range(0, whole.num_rows, rows):
                    yield whole.slice(first, rows)
                row += block.num_rows

    def details(self, rows: Sequence[int], columns: Sequence[str]) -> dict[int, dict[str, Any]]:
        """Texts as they stand: a column whose first values are numbers may go on with others."""
        found: dict[int, dict[str, Any]] = {}
        first = 0
        with self._open(dict.fromkeys(columns, pa.string())) as blocks:
            for block in blocks:
                here = [row for row in rows if first <= row < first + block.num_rows]
                picked = block.take(pa.array([row - first for row in here], pa.int64()))
                texts = [values_of(array) for array in picked.columns]
                for i, row in enumerate(here):
                    found[row] = {name: values[i] for name, values in zip(columns, texts, strict=True)}
                first += block.num_rows
        return found


# ---------------------------------------------------------------- the file


class _LongRow(EvaluationError):
    """A row that a block does not hold."""


def _lines(path: FilePath) -> int:
    """The lines that are not empty; raises if a quotation mark is not closed.

    The file is read apart from pyarrow, which reads in threads of its own: Python code that these call may end the
    process when the interpreter shuts down.
    """
    lines = ends = quotes = 0
    even = 0  # lines up to the last end with an even number of quotation marks before it
    last = ord("\n")
    with faults("CSV"), _stream(path) as stream:
        while piece := stream.read(_PIECE):
            text = np.frombuffer(piece, np.uint8)
            before = np.concatenate([[np.uint8(last)], text[:-1]])
            feeds, returns = text == ord("\n"), text == ord("\r")
            after_return = before == ord("\r")
            lines += int(((feeds | returns) & ~after_return & (before != ord("\n"))).sum())
            ended, marks = np.flatnonzero(returns | (feeds & ~after_return)), np.flatnonzero(text == ord('"'))
            closed = np.flatnonzero((quotes + np.searchsorted(marks, ended)) % 2 == 0)
            even = ends + int(closed[-1]) + 1 if len(closed) else even
            ends += len(ended)
            quotes += len(marks)
            last = piece[-1]
    if quotes % 2:
        raise EvaluationError(
            f"a quotation mark is not closed: {quotes} of them in the file, and from line {even + 1} on their number "
            "stays odd, expected an even number. Close it there or before, or write a mark that belongs to a text "
            "twice, in a cell between quotation marks"
        )
    return lines + (last not in b"\r\n")


@contextmanager
def _open(path: FilePath, delimiter: str, block: int, types: Mapping[str, pa.DataType]) -> Iterator[Any]:
    """The blocks, with columns of these types; without any, all columns with the types that they seem to have."""
    with (
        faults("CSV"),
        _long_rows(block),
        _stream(path) as stream,
        pacsv.open_csv(
            stream,
            pacsv.ReadOptions(use_threads=False, block_size=block),
            pacsv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            pacsv.ConvertOptions(column_types=types, include_columns=list(types), check_utf8=not types),
        ) as blocks,
    ):
        yield blocks


@contextmanager
def _long_rows(block: int) -> Iterator[None]:
    try:
        yield
    except pa.ArrowInvalid as error:
        if "straddl" not in str(error):
            raise
        raise _LongRow(
            f"holds a row of more than {block} bytes, more than those before it, or a quotation mark that is not closed"
        ) from None


def _stream(path: FilePath) -> pa.NativeFile:
    source = pa.OSFile(local(path))
    packed = source.read(2) == b"\x1f\x8b"
    source.seek(0)
    return pa.CompressedInputStream(source, "gzip") if packed else source


def _delimiter(path: FilePath) -> str:
    """The one that cuts the first line into most names."""
    with faults("CSV"), _stream(path) as stream:
        head: bytes = stream.read(_BLOCKS[0])
    line = io.StringIO(head.decode("utf-8-sig", "replace").lstrip("\r\n"), newline=None).readline().rstrip("\r\n")
    cut = {delimiter: _cut(line, delimiter) for delimiter in _DELIMITERS}
    delimiter = max(cut, key=lambda delimiter: len(cut[delimiter]))
    if len(cut[delimiter]) == 1 and _WORD.fullmatch(cut[delimiter][0]):
        return delimiter  # one column, as a file of labels may have
    if len(cut[delimiter]) < 2:
        raise EvaluationError(
            "text without a comma, tab or semicolon in its first line, expected CSV or TSV that begins with the names "
            "of its columns"
        )
    if any(_MEASURED.fullmatch(name) for name in cut[delimiter]):
        raise EvaluationError(
            f"the first line of the table holds numbers ('{shown(line)}'), expected the names of its columns"
        )
    return delimiter


def _cut(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter), [])
    except csv.Error:  # a name of more than 128 KiB
        return []


@lru_cache(maxsize=4096)
def _count(path: FilePath, delimiter: str, block: int, column: str, _stamp: tuple[int, int]) -> tuple[int, int]:
    """The rows of a file, and its lines after the first; of this size and time of change, it is not read again."""
    lines = _lines(path)
    with _open(path, delimiter, block, {column: pa.string()}) as blocks:
        return sum(block.num_rows for block in blocks), lines - 1


# ---------------------------------------------------------------- its columns


def _whole_scores(names: Sequence[str], first: pa.RecordBatch) -> list[int]:
    """Columns of whole numbers that may be scores, where columns of floats are called after their classes alone.

    Their first values may be whole by chance: 0, where a class is rare. A probability is between 0 and 1, and one
    of 1 leaves nothing to the others.
    """
    series = Counter(numbered(name) for name in names)  # x_1, x_2, ... are no names of classes
    bare = [
        i
        for i, name in enumerate(names)
        if (numbered(name) is None or series[numbered(name)] == 1)
        and class_prefix(name) is None
        and not promises_truth(name)
    ]
    floats = [i for i in bare if pa.types.is_floating(first.column(i).type)]
    whole = [
        i for i in bare if pa.types.is_integer(first.column(i).type) and not _NO_SCORES.fullmatch(names[i].strip())
    ]
    if not floats or not whole:
        return []
    sums = np.zeros(first.num_rows)
    for i in floats:
        values = np.nan_to_num(first.column(i).to_numpy(zero_copy_only=False))
        if ((values < 0) | (values > 1)).any():
            return whole  # no probabilities: any number may be a score
        sums += values
    found = []
    for i in whole:
        values = first.column(i).fill_null(0).to_numpy(zero_copy_only=False)
        if ((values == 0) | ((values == 1) & (sums < _SURE))).all():
            found.append(i)
    return found


def _list_type(array: pa.StringArray) -> pa.DataType:
    """Lists, if the first cells of text are lists of numbers, of floats if one is not whole."""
    cells = [cell for cell in array[:_CELLS].to_pylist() if cell]
    if not cells or not all(_LIST.fullmatch(cell) for cell in cells):
        return array.type
    return pa.list_(pa.float64() if any(_NOT_WHOLE.search(cell) for cell in cells) else pa.int64())


def _typed(array: pa.Array, type: pa.DataType, column: str, row: int) -> pa.Array:
    """A column as its type has it; an empty cell is no list and no name."""
    if not pa.types.is_string(array.type):
        return array
    array = pc.if_else(pc.equal(array, ""), pa.scalar(None, pa.string()), array)
    return _lists(array, type, column, row) if is_list(type) else array


def _lists(cells: pa.StringArray, type: pa.DataType, column: str, row: int) -> pa.ListArray:
    """Cells as NumPy and JSON write lists: [0.1 0.9] or [0.1, 0.9]."""
    items = pc.split_pattern_regex(pc.utf8_trim(cells, characters="[] \t\r\n"), r"[\s,]+")
    values = pc.replace_substring_regex(items.values, "^(null|None)$", "nan")
    try:
        if not pc.all(pc.match_substring_regex(cells, _LIST.pattern), min_count=0).as_py():
            raise pa.ArrowInvalid("no list")
        numbers = values.cast(type.value_type)
    except pa.ArrowInvalid:
        raise EvaluationError(_why_no_list(cells, type, column, row)) from None
    return pa.ListArray.from_arrays(items.offsets, numbers, mask=items.is_null())


def _why_no_list(cells: pa.StringArray, type: pa.DataType, column: str, row: int) -> str:
    """The first cell that is no list of numbers of the type."""
    whole = pa.types.is_integer(type.value_type)
    for i, cell in enumerate(values_of(cells)):
        if cell is None:
            continue
        items = re.split(r"[\s,]+", cell.strip("[] \t\r\n"))
        if not _LIST.fullmatch(cell) or not all(_number(item) for item in items) or (whole and _NOT_WHOLE.search(cell)):
            cut = ". NumPy has left out the middle: save arrays, by numpy.savez" if "..." in cell else ""
            kind = "whole numbers" if whole else "numbers"
            return f"column '{shown(column)}' holds '{shown(cell)}' at row {row + i}, expected a list of {kind}{cut}"
    return f"column '{shown(column)}' holds a cell from row {row} that is no list of numbers"


def _number(text: str) -> bool:
    try:
        float(text.replace("null", "nan").replace("None", "nan"))
    except ValueError:
        return False
    return True
