"""JSON lines, plain or packed by gzip: an object a row, among them the samples that lm-eval writes."""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from lossless.errors import EvaluationError

from ..roles import Columns, Table, WideColumn, promises_scores
from ..rows import RawBatch
from ..stores import FilePath, local
from ..text import safe, shown
from . import Part, stamp
from .arrow import ArrowReader, describe, faults, number_type, whole_as_floats

_LONGEST = 1 << 26  # bytes of a line
_FIRST = 256  # rows that say what the columns hold
_FIRST_BYTES = 1 << 24  # of them at most
_CHOICES = "filtered_resps"  # lm-eval: log-likelihood of each choice, and whether it is the greedy one, in texts
_WHOLE = re.compile(r"-?[0-9]{1,18}")
_OBJECT, _FLOATS = pa.struct([]), pa.list_(pa.float64())


class JsonLinesReader(ArrowReader):
    """A text with a JSON object in each line: one unit. Types are those of the first rows."""

    format = "JSON lines"

    def __init__(self, path: FilePath, file: int) -> None:
        self.path, self.file = path, file
        self._label: str | None = None
        columns: dict[str, list[Any]] = {}
        for _, row in islice(_rows(path, _FIRST_BYTES), _FIRST):
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
        self._has_choices = _CHOICES in columns and _type(_CHOICES, columns[_CHOICES]) == _FLOATS
        if self._has_choices and any(map(_is_doubled, columns.get("arguments", []))):
            raise EvaluationError(
                f"'{_CHOICES}' holds each choice twice, with its question and without it, as for acc_mutual_info. "
                "Expected each once: log the samples of a task without that metric"
            )
        if self._has_choices:  # lm-eval writes the number of the right choice as a text
            columns = {name: _numbers(values) for name, values in columns.items()}
        with faults(self.format):
            types = [(safe(name), _type(name, values)) for name, values in columns.items()]
            self._schema = whole_as_floats(pa.schema(types))

    @cached_property
    def table(self) -> Table:
        """The columns; counting the rows reads the file once."""
        with faults(self.format):
            return describe(self._schema, sum(self._sizes()))

    def width(self, column: WideColumn) -> int:
        """How many numbers a row has; where it differs by row, as in lm-eval's choices, the most."""
        if column.name == _CHOICES and self._has_choices:
            return self._choices()[1]
        return super().width(column)

    def batches(self, part: Part, columns: Columns, classes: int) -> Iterator[RawBatch]:
        """Scores and what is read beside them; a label that is none of its row's own choices is an error."""
        self._label = None if columns.targets is not None else columns.label.name
        return super().batches(part, columns, classes)

    def notes(self, columns: Columns) -> list[str]:
        """Choices that a row lacks."""
        notes = super().notes(columns)
        if columns.scores.name == _CHOICES and self._has_choices:
            least, most = self._choices()
            if least < most:
                notes.append(f"rows have {least} to {most} choices; one that a row lacks has probability 0 there")
        return notes

    def details(self, rows: Sequence[int], columns: Sequence[str]) -> dict[int, dict[str, Any]]:
        """Values of any type."""
        wanted = set(rows)
        return {
            number: {name: row.get(name) for name in columns} for number, row in _rows(self.path) if number in wanted
        }

    def _sizes(self) -> list[int]:
        return [_count(self.path, stamp(self.path))]

    def _choices(self) -> tuple[int, int]:
        return _least_and_most_choices(self.path, stamp(self.path))

    def _read(
        self, units: Sequence[int], columns: Sequence[str], rows: int, numbers: Collection[str] = ()
    ) -> Iterator[pa.RecordBatch]:
        most = self._choices()[1] if self._has_choices and _CHOICES in columns else None
        kept = {name: self._schema.field(name).type for name in columns}
        types = [(name, number_type(type) if name in numbers else type) for name, type in kept.items()]
        # What else a line holds is let go at once: documents are longer than scores. Python's numbers take 4 times the
        # memory of an array's.
        wanted = ((number, [row.get(name) for name in columns]) for number, row in _rows(self.path))
        while block := list(islice(wanted, max(1, rows // 4))):
            arrays = []
            for i, (name, type) in enumerate(types):
                values = [row[i] for _, row in block]
                if most is not None and name != _CHOICES and pa.types.is_integer(type):
                    values = _numbers(values)
                    if name == self._label:
                        _check_choices(values, [row[columns.index(_CHOICES)] for _, row in block], name, block[0][0])
                elif name == _CHOICES and most is not None:
                    values = [_padded(value, most, number) for value, (number, _) in zip(values, block, strict=True)]
                arrays.append(_array(values, type, name, block[0][0]))
            yield pa.RecordBatch.from_arrays(arrays, list(columns))


# ---------------------------------------------------------------- the file


def _rows(path: FilePath, most: float = math.inf) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects and their numbers from 0, of so many bytes at most; empty lines are none."""
    for number, (line, text) in enumerate(_lines(path)):
        if (most := most - len(text)) < 0 and number:
            return
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            if not number and text == b"{":
                raise EvaluationError(
                    f"line {line} is no JSON but the beginning of an object over several lines. Expected an object in "
                    "each line, as DataFrame.to_json(path, orient='records', lines=True) writes them"
                ) from None
            raise EvaluationError(f"line {line} is no JSON: {shown(error)}") from None
        if not isinstance(row, dict):
            raise EvaluationError(f"line {line} holds '{shown(text.decode('utf-8', 'replace'))}', expected an object")
        yield number, row


def _lines(path: FilePath) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty and their numbers from 1."""
    try:
        with _open(path) as stream:
            number = 0
            while text := stream.readline(_LONGEST + 1):
                number += 1
                if len(text) > _LONGEST:
                    raise EvaluationError(f"line {number} is longer than {_LONGEST} bytes")
                if number == 1:
                    text = text.removeprefix(b"\xef\xbb\xbf")
                if not text.isspace():
                    yield number, text.strip()
    except (OSError, EOFError, zlib.error) as error:
        raise EvaluationError(f"cannot be read as JSON lines: {shown(error)}") from None


def _open(path: FilePath) -> IO[bytes]:
    file = Path(local(path))
    with file.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    return gzip.open(file) if packed else file.open("rb")  # type: ignore[return-value]


@lru_cache(maxsize=4096)
def _count(path: FilePath, _stamp: tuple[int, int]) -> int:
    return sum(1 for _ in _lines(path))


@lru_cache(maxsize=4096)
def _least_and_most_choices(path: FilePath, _stamp: tuple[int, int]) -> tuple[int, int]:
    lengths = {len(value) for _, row in _rows(path) if isinstance(value := row.get(_CHOICES), list)}
    return min(lengths, default=0), max(lengths, default=0)


# ---------------------------------------------------------------- its columns


def _type(name: str, values: Sequence[Any]) -> pa.DataType:
    """The type of a column by some of its values."""
    values = [value for value in values if value is not None]
    if values and all(isinstance(value, list) for value in values):
        if name == _CHOICES and all(map(_is_choice, values[0])):
            return _FLOATS
        kinds = {type(item) for value in values for item in value if item is not None}
        if kinds <= {int, float} and (float in kinds or promises_scores(name)):
            return _FLOATS
        return pa.list_(pa.int64() if kinds == {int} else pa.null())
    kinds = {type(value) for value in values}
    if kinds == {int, float}:
        return pa.float64()
    known = {int: pa.int64(), float: pa.float64(), str: pa.string(), bool: pa.bool_()}
    return known.get(next(iter(kinds)), _OBJECT) if len(kinds) == 1 else _OBJECT


def _numbers(values: Sequence[Any]) -> list[Any]:
    """Whole numbers in texts as numbers, if all of them are."""
    texts = [value for value in values if value is not None]
    if not texts or not all(isinstance(value, str) and _WHOLE.fullmatch(value) for value in texts):
        return list(values)
    return [None if value is None else int(value) for value in values]


def _is_doubled(arguments: Any) -> bool:
    """Whether the second half of what the model was asked are choices without their question."""
    asked = list(arguments.values()) if isinstance(arguments, dict) else arguments
    if not isinstance(asked, list) or len(asked) < 2 or len(asked) % 2:
        return False
    contexts = [a.get("arg_0") if isinstance(a, dict) else a[0] if isinstance(a, list) and a else None for a in asked]
    half = len(contexts) // 2
    return not any(contexts[half:]) and all(contexts[:half])


def _check_choices(labels: Sequence[Any], choices: Sequence[Any], name: str, first_row: int) -> None:
    """Raise if a label is none of the choices that its own row has."""
    for row, (label, own) in enumerate(zip(labels, choices, strict=True), first_row):
        if isinstance(label, int) and isinstance(own, list) and label >= len(own):
            raise EvaluationError(
                f"label column '{shown(name)}' holds {label} at row {row}, which has {len(own)} choices, from 0"
            )


def _is_choice(choice: Any) -> bool:
    try:
        return isinstance(choice, list) and len(choice) == 2 and not math.isnan(float(choice[0]))
    except (TypeError, ValueError):
        return False


def _padded(choices: Any, most: int, row: int) -> list[float] | None:
    """The log-likelihoods of a row; of choices that it lacks, that of probability 0."""
    if choices is None:
        return None
    if not isinstance(choices, list) or not all(map(_is_choice, choices)):
        raise EvaluationError(
            f"'{_CHOICES}' holds '{shown(choices)}' at row {row}, expected [log-likelihood, flag] pairs"
        )
    return [float(choice[0]) for choice in choices] + [-math.inf] * (most - len(choices))


def _array(values: list[Any], type: pa.DataType, column: str, first_row: int) -> pa.Array:
    """The values as their type has it, or an error about the first that does not fit."""
    bad = (pa.ArrowException, TypeError, ValueError, OverflowError)
    try:
        return pa.array(_sound(values), type)
    except bad:
        for row, value in enumerate(values, first_row):
            try:
                pa.array(_sound([value]), type)
            except bad:
                raise EvaluationError(
                    f"column '{shown(column)}' holds '{shown(value)}' at row {row}, expected {type} as before"
                ) from None
        raise


def _sound(values: list[Any]) -> list[Any]:
    """Texts that can be encoded."""
    return [safe(value) if isinstance(value, str) else value for value in values]
