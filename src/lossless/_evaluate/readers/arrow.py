"""What the readers by pyarrow share: scores as lists, fixed-size lists, fixed-shape tensors or one column per class."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lossless.errors import EvaluationError

from ..roles import (
    Column,
    Columns,
    Holds,
    Table,
    ValueColumn,
    WideColumn,
    class_prefix,
    promises_scores,
    promises_truth,
    truth_prefix,
)
from ..rows import Cells, RawBatch
from ..stores import FilePath
from ..text import quoted, safe, shown
from . import Part, batch_rows

FAULTS = (pa.ArrowException, OSError, ValueError, KeyError)  # what pyarrow raises for damaged files
_PART_SCORES = 1 << 22  # small units are read together up to this many scores
_NO_CLASS = {"max", "margin", "pred", "predicted", "label", "target", "entropy", "confidence"}  # prob_max, ...
_NUMBERED = re.compile(r"(|.*\D)([0-9]+)")


class ArrowReader:
    """A file that pyarrow reads as record batches.

    A format says how many rows its units have (row groups, record batches, or the file), and how they are read.
    """

    path: FilePath
    file: int
    _schema: pa.Schema

    def _sizes(self) -> Sequence[int]:
        """The rows of each unit."""
        raise NotImplementedError

    def _read(
        self, units: Sequence[int], columns: Sequence[str], rows: int, numbers: Collection[str] = ()
    ) -> Iterator[pa.RecordBatch]:
        """Columns of some units, at most so many rows at a time; `numbers` of them are read as such, whole or not."""
        raise NotImplementedError

    def _detail_rows(self, unit: int, columns: Sequence[str]) -> int:
        """How many rows of a unit to read at once for details, whose texts may be long."""
        return 256

    def parts(self, columns: Columns, classes: int) -> Sequence[Part]:
        """Consecutive units, small ones together."""
        parts: list[Part] = []
        units: list[int] = []
        first = rows = 0
        for unit, size in enumerate(self._sizes()):
            if units and (rows + size) * classes > _PART_SCORES:
                parts.append(Part(first, rows, tuple(units)))
                first, rows, units = first + rows, 0, []
            units.append(unit)
            rows += size
        if rows:
            parts.append(Part(first, rows, tuple(units)))
        return parts

    def details(self, rows: Sequence[int], columns: Sequence[str]) -> dict[int, dict[str, Any]]:
        """Read the columns again in the units that hold the rows."""
        starts = np.cumsum([0, *self._sizes()])
        by_unit: dict[int, list[int]] = defaultdict(list)
        for row in rows:
            by_unit[int(np.searchsorted(starts, row, side="right")) - 1].append(row)
        found: dict[int, dict[str, Any]] = {}
        for unit, wanted in by_unit.items():
            first = int(starts[unit])
            for batch in self._read([unit], columns, self._detail_rows(unit, columns)):
                here = [row for row in wanted if first <= row < first + batch.num_rows]
                picked = batch.take(pa.array([row - first for row in here], pa.int64()))
                by_name = {name: values_of(picked.column(name)) for name in columns}
                for i, row in enumerate(here):
                    found[row] = {name: values[i] for name, values in by_name.items()}
                first += batch.num_rows
        return found

    def width(self, column: WideColumn) -> int:
        """How many numbers a row has: by the type, the columns, or else the first row that has any."""
        storage = _storage_type(self._schema.field(column.members[0]).type)
        if len(column.members) > 1 or not is_list(storage):
            return len(column.members)
        if pa.types.is_fixed_size_list(storage):
            return int(storage.list_size)
        for batch in self._read(range(len(self._sizes())), column.members, 8):
            lengths = pc.list_value_length(_storage(batch.column(0))).drop_null()
            if len(lengths):
                return int(lengths[0].as_py())
        raise EvaluationError(f"column '{shown(column.name)}' holds no scores")

    def notes(self, columns: Columns) -> list[str]:
        """Labels in lists of one are squeezed; classes are taken from the names of columns."""
        notes = [
            f"label column '{shown(value.name)}' holds lists of one value (shape (N, 1)); they were squeezed"
            for value in columns.beside
            if isinstance(value, ValueColumn) and is_list(self._schema.field(value.name).type)
        ]
        if columns.scores.class_names is not None and len(columns.scores.members) > 1:
            notes.append(self._classes_note(columns.scores))
        return notes

    def _classes_note(self, scores: WideColumn) -> str:
        """Which classes the names of the columns gave, and which columns of the same prefix are no class."""
        classes = scores.class_names or ()
        others = [] if scores.unnamed else [n for n in self._schema.names if class_prefix(n) == scores.name]
        members = set(scores.members)
        others = [name for name in others if name not in members]
        left = f"; {quoted(others)} left out, as no class" if others else ""
        return f"{len(classes)} classes are taken from the names of the columns: {quoted(classes)}{left}"

    def batches(self, part: Part, columns: Columns, classes: int) -> Iterator[RawBatch]:
        """Scores and what is read beside them in the units of a part."""
        row = part.first_row
        asked: tuple[Column, ...] = (columns.scores, *columns.beside)
        names = list(dict.fromkeys(name for column in asked for name in column.members))
        numbers = {name for column in asked if isinstance(column, WideColumn) for name in column.members}
        for batch in self._read(part.selection, names, batch_rows(classes), numbers):
            arrays = {name: batch.column(batch.schema.get_field_index(name)) for name in names}
            scores, *beside = (
                _cells([arrays[name] for name in column.members], column, classes, row) for column in asked
            )
            yield RawBatch(self.file, row, scores, tuple(beside))
            row += batch.num_rows

    def values(self, column: Column) -> Iterator[Cells]:
        """One column of the whole file."""
        row, width = 0, 1
        numbers: Collection[str] = ()
        if isinstance(column, WideColumn):
            width, numbers = self.width(column), column.members
        for batch in self._read(range(len(self._sizes())), column.members, batch_rows(width), numbers):
            yield _cells([batch.column(batch.schema.get_field_index(n)) for n in column.members], column, width, row)
            row += batch.num_rows


def _cells(members: Sequence[pa.Array], column: Column, width: int, row: int) -> Cells:
    if isinstance(column, WideColumn):
        return _wide(members, column.name, width, row)
    return _plain(members[0], column, row)


def _wide(members: Sequence[pa.Array], name: str, width: int, row: int) -> Cells:
    """(n, width) numbers; a null inside a row is NaN."""
    if not is_list(_storage(members[0]).type):
        return Cells(np.stack([_floats(m) for m in members], axis=1), np.zeros(len(members[0]), bool))
    array = _storage(members[0])
    null = _nulls(array)
    if not (pa.types.is_fixed_size_list(array.type) and array.type.list_size == width):
        _check_lengths(array, name, width, row)
    present = _floats(array.flatten()).reshape(-1, width)
    if not null.any():
        return Cells(present, null)
    numbers = np.zeros((len(array), width), present.dtype)
    numbers[~null] = present
    return Cells(numbers, null)


def _check_lengths(array: pa.Array, name: str, width: int, row: int) -> None:
    lengths = pc.list_value_length(array).fill_null(width).to_numpy(zero_copy_only=False)
    if (lengths != width).any():
        i = int(np.flatnonzero(lengths != width)[0])
        raise EvaluationError(
            f"column '{shown(name)}' has {lengths[i]} scores at row {row + i}, expected {width} in every row"
        )


def _plain(array: pa.Array, column: ValueColumn, row: int) -> Cells:
    """(n,) values, numbers in an array and texts in a list."""
    if is_list(array.type):
        array = _squeeze(array, column.name, row)
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()  # a null may be among its values: nulls are counted after this
    null = _nulls(array)
    if column.text:
        return Cells(values_of(array), null)
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())
    if array.null_count:
        array = array.fill_null(0)
    return Cells(array.to_numpy(zero_copy_only=False), null)


@contextmanager
def faults(format: str) -> Iterator[None]:
    """What pyarrow raises for a damaged file, in one line."""
    try:
        yield
    except EvaluationError:
        raise
    except FAULTS as error:
        raise EvaluationError(f"cannot be read as {format}: {first_line(error)}") from None


def first_line(error: BaseException) -> str:
    """What pyarrow says, fit for a message."""
    return shown(str(error).partition("\n")[0])


def is_list(type: pa.DataType) -> bool:
    """Whether the values are lists, of any of the three kinds."""
    return bool(pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type))


def _storage_type(type: pa.DataType) -> pa.DataType:
    return type.storage_type if isinstance(type, pa.BaseExtensionType) else type


def _storage(array: pa.Array) -> pa.Array:
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def _nulls(array: pa.Array) -> NDArray[np.bool_]:
    if not array.null_count:
        return np.zeros(len(array), bool)
    nulls: NDArray[np.bool_] = array.is_null().to_numpy(zero_copy_only=False)
    return nulls


def values_of(array: pa.Array) -> list[Any]:
    """Python values; text that is not UTF-8 keeps its bytes as escapes."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    try:
        return list(array.to_pylist())
    except UnicodeDecodeError:
        raw = array.cast(pa.large_binary()).to_pylist()
        return [value if value is None else value.decode("utf-8", "backslashreplace") for value in raw]


def _floats(array: pa.Array) -> NDArray[Any]:
    """Values as NumPy numbers; where there are nulls, as floats with NaN."""
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.int8())  # with nulls NumPy would have objects of them
    values: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return values


def _squeeze(array: pa.Array, column: str, row: int) -> pa.Array:
    lengths = pc.list_value_length(array).fill_null(1).to_numpy(zero_copy_only=False)
    if (lengths != 1).any():
        i = int(np.flatnonzero(lengths != 1)[0])
        hint = "; a one-hot or soft target is not a label, save its argmax" if lengths[i] > 1 else ""
        raise EvaluationError(
            f"label column '{shown(column)}' has {lengths[i]} values at row {row + i}, expected one{hint}"
        )
    if array.null_count:
        return pc.list_element(array, 0)
    return array.flatten()


# ---------------------------------------------------------------- schema


def describe(schema: pa.Schema, rows: int) -> Table:
    """What a schema says about scores, labels and classes."""
    scores: list[WideColumn] = []
    values: list[ValueColumn] = []
    floats: list[str] = []
    groups: dict[str, list[tuple[int, str]]] = defaultdict(list)
    features = _features(schema)
    for field in schema:
        storage = _storage_type(field.type)
        single = pa.types.is_fixed_size_list(storage) and storage.list_size == 1
        tensor = isinstance(field.type, pa.FixedShapeTensorType)  # of rank 1 it is a list, else no column of ours
        flat = not tensor or len(field.type.shape) == 1
        if is_list(storage) and pa.types.is_floating(storage.value_type) and flat and not single:
            scores.append(WideColumn(field.name, (field.name,), str(field.type), rows))
            continue
        value = storage.value_type if is_list(storage) or pa.types.is_dictionary(storage) else storage
        values.append(
            ValueColumn(
                field.name,
                str(field.type),
                rows,
                Holds.OTHER if tensor else _holds(value),
                listed=is_list(storage),
                class_names=features.get(field.name),
            )
        )
        if pa.types.is_floating(storage):
            floats.append(field.name)
            if (match := _NUMBERED.fullmatch(field.name)) is not None:
                groups[match[1].removesuffix("_")].append((int(match[2]), field.name))
    from_one = []
    members_of_any: set[str] = set()  # of scores
    numbered_names: set[str] = set()  # that are not looked at as names of classes
    for prefix, columns in groups.items():
        columns.sort()
        numbers, members = [number for number, _ in columns], tuple(name for _, name in columns)
        if len(columns) > 1 and numbers == list(range(len(columns))):
            type = f"{len(members)} columns of {schema.field(members[0]).type}"
            name = prefix or f"{members[0]}..{members[-1]}"
            scores.append(WideColumn(name, members, type, rows, unnamed=not prefix))
            members_of_any.update(members)
            numbered_names.update(members)
        elif len(columns) > 1 and numbers == list(range(1, len(columns) + 1)):
            from_one.append(prefix or f"{members[0]}..{members[-1]}")
            numbered_names.update(members)
    values = [value for value in values if value.name not in members_of_any]
    floats = [name for name in floats if name not in numbered_names]
    scores += _named_by_class(schema, floats, rows, {column.name for column in scores})
    marks = tuple(_marks(values, rows))
    return Table(tuple(scores), tuple(values), marks, _class_names(schema), numbered_from_one=tuple(from_one))


def _marks(values: Sequence[ValueColumn], rows: int) -> Iterator[WideColumn]:
    """One column of truth per class: label_0, label_1, ..., or label_cat, label_dog, ..."""
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    for column in values:
        prefix = truth_prefix(column.name)
        if prefix is not None and column.holds in (Holds.INTEGERS, Holds.BOOLEANS, Holds.FLOATS) and not column.listed:
            groups[prefix][column.name[len(prefix) + 1 :]] = column.name
    for prefix, members in groups.items():
        if len(members) > 1:
            names = tuple(members)
            if all(name.isdecimal() for name in names):
                names = tuple(sorted(names, key=int))
            counted = names == tuple(str(i) for i in range(len(names)))
            columns = tuple(members[name] for name in names)
            yield WideColumn(prefix, columns, f"{len(names)} columns", rows, class_names=None if counted else names)


def _named_by_class(schema: pa.Schema, floats: Sequence[str], rows: int, taken: set[str]) -> Iterator[WideColumn]:
    """Columns of floats with a class name each: prob_cat, prob_dog, ..., or cat, dog, ... if nothing else is there."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name in floats:
        prefix = class_prefix(name)
        if prefix is None or not no_class(name, prefix):
            groups[prefix or ""].append(name)
    alone = groups.pop("", [])
    for prefix, members in groups.items():
        if len(members) > 1 and prefix not in taken:
            taken.add(prefix)
            classes = tuple(name[len(prefix) + 1 :] for name in members)
            yield WideColumn(prefix, tuple(members), f"{len(members)} columns", rows, class_names=classes)
    alone = [name for name in alone if not promises_truth(name)]
    if len(alone) > 1 and not taken:
        type, name = f"{len(alone)} columns of {schema.field(alone[0]).type}", f"{alone[0]}..{alone[-1]}"
        yield WideColumn(name, tuple(alone), type, rows, unnamed=True, class_names=tuple(alone))


def whole_as_floats(schema: pa.Schema) -> pa.Schema:
    """Whole numbers as floats where a column is one of several per class that hold floats or promise scores."""
    groups: dict[str, list[int]] = defaultdict(list)
    for i, field in enumerate(schema):
        prefix = numbered(field.name)
        if prefix is None:
            prefix = class_prefix(field.name)
            if prefix is not None and no_class(field.name, prefix):
                continue
        if prefix is not None and (pa.types.is_integer(field.type) or field.type in (pa.float64(), pa.null())):
            groups[prefix].append(i)
    fields = list(schema)  # a schema is copied whole for each field that is set
    for prefix, members in groups.items():
        if len(members) > 1 and (promises_scores(prefix) or any(fields[i].type == pa.float64() for i in members)):
            for i in members:
                fields[i] = fields[i].with_type(pa.float64())
    return pa.schema(fields, schema.metadata)


def number_type(type: pa.DataType) -> pa.DataType:
    """What numbers of a text are read as whose first ones have this type: whole ones may go on with others."""
    return pa.float64() if pa.types.is_integer(type) else type


def numbered(name: str) -> str | None:
    """The prefix of a name that ends in a number."""
    match = _NUMBERED.fullmatch(name)
    return None if match is None else match[1].removesuffix("_")


def no_class(name: str, prefix: str) -> bool:
    """Whether a name like prob_max says something of the whole row after its prefix, not of a class."""
    return name[len(prefix) + 1 :].lower() in _NO_CLASS


def _holds(type: pa.DataType) -> Holds:
    if pa.types.is_string(type) or pa.types.is_large_string(type) or pa.types.is_string_view(type):
        return Holds.TEXT
    if pa.types.is_boolean(type):
        return Holds.BOOLEANS
    if pa.types.is_floating(type):
        return Holds.FLOATS
    return Holds.INTEGERS if pa.types.is_integer(type) else Holds.OTHER


def _class_names(schema: pa.Schema) -> tuple[str, ...] | None:
    """Class names in score order from our own entry in the schema metadata."""
    return _names(_entry(schema, b"class_names"))


def _features(schema: pa.Schema) -> dict[str, tuple[str, ...] | None]:
    """Class names by label column from the features that Hugging Face datasets write."""
    found = _entry(schema, b"huggingface")
    for key in ("info", "features"):
        found = found.get(key) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        return {}
    labels = {k: f for k, f in found.items() if isinstance(f, dict) and f.get("_type") == "ClassLabel"}
    return {name: _names(feature.get("names")) for name, feature in labels.items()}


def _entry(schema: pa.Schema, key: bytes) -> Any:
    """A JSON value of the schema metadata; None if it is not there or no JSON: the figures do not need it."""
    try:
        return json.loads((schema.metadata or {}).get(key, b"null"))
    except (ValueError, RecursionError):
        return None


def _names(value: Any) -> tuple[str, ...] | None:
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        return None
    return tuple(safe(name) for name in value)
