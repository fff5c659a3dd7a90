"""Parquet by pyarrow: scores as lists, fixed-size lists, fixed-shape tensors or one column per class."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lossless.errors import EvaluationError

from ..roles import Columns, Holds, ScoreColumn, Table, ValueColumn, label_indices, name_indices
from ..rows import RawBatch
from ..text import safe, shown
from . import Part, batch_rows

_NUMBERED = re.compile(r"(|.*\D)([0-9]+)")
_FAULTS = (pa.ArrowException, OSError, ValueError, KeyError)  # what pyarrow raises for damaged files
_PART_SCORES = 1 << 22  # small row groups are read together up to this many scores


class ParquetReader:
    """A Parquet file, read row group by row group without loading one whole."""

    format = "Parquet"

    def __init__(self, path: str, file: int) -> None:
        self.path, self.file = path, file
        try:
            # Without pre-buffering and with a small buffer for each column, chunks are read as they are decoded: memory
            # does not grow with the size of the row groups (187 MiB became 85 for one of 112 MB).
            self._parquet = pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 16)
            self._schema: pa.Schema = self._parquet.schema_arrow
            self.table = _describe(self._schema, self._parquet.metadata.num_rows)
        except _FAULTS as error:
            raise EvaluationError(f"cannot be read as Parquet: {_first_line(error)}") from None

    def classes(self, scores: ScoreColumn) -> int:
        """Number of scores per row: of the type, the columns, or else of the first row that has scores."""
        if len(scores.members) > 1:
            return len(scores.members)
        storage = _storage_type(self._schema.field(scores.name).type)
        if pa.types.is_fixed_size_list(storage):
            return int(storage.list_size)
        for batch in self._read(range(self._groups), scores.members, 8):
            lengths = pc.list_value_length(_storage(batch.column(0))).drop_null()
            if len(lengths):
                return int(lengths[0].as_py())
        raise EvaluationError(f"column '{shown(scores.name)}' holds no scores")

    def parts(self, columns: Columns, classes: int) -> Sequence[Part]:
        """Consecutive row groups, small ones together."""
        parts: list[Part] = []
        groups: list[int] = []
        first = rows = 0
        for group in range(self._groups):
            size = self._parquet.metadata.row_group(group).num_rows
            if groups and (rows + size) * classes > _PART_SCORES:
                parts.append(Part(first, rows, tuple(groups)))
                first, rows, groups = first + rows, 0, []
            groups.append(group)
            rows += size
        if rows:
            parts.append(Part(first, rows, tuple(groups)))
        return parts

    def notes(self, columns: Columns) -> list[str]:
        """Labels in lists of one are squeezed."""
        if _is_list(self._schema.field(columns.label.name).type):
            name = shown(columns.label.name)
            return [f"label column '{name}' holds lists of one value (shape (N, 1)); they were squeezed"]
        return []

    def batches(self, part: Part, columns: Columns, classes: int) -> Iterator[RawBatch]:
        """Scores and labels of the row groups of a part."""
        row = part.first_row
        names = [*columns.scores.members, columns.label.name]
        for batch in self._read(part.selection, names, batch_rows(classes)):
            by_name = {name: batch.column(batch.schema.get_field_index(name)) for name in names}
            scores, no_scores = self._scores([by_name[m] for m in columns.scores.members], columns, classes, row)
            labels, no_label = self._labels(by_name[columns.label.name], columns, row)
            missing = no_scores | no_label
            yield RawBatch(self.file, row, scores, labels, missing if missing.any() else None)
            row += batch.num_rows

    def details(self, rows: Sequence[int], columns: Sequence[str]) -> dict[int, dict[str, Any]]:
        """Read the columns again in the row groups that hold the rows."""
        starts = np.cumsum([0, *(self._parquet.metadata.row_group(g).num_rows for g in range(self._groups))])
        by_group: dict[int, list[int]] = defaultdict(list)
        for row in rows:
            by_group[int(np.searchsorted(starts, row, side="right")) - 1].append(row)
        found: dict[int, dict[str, Any]] = {}
        for group, wanted in by_group.items():
            first = int(starts[group])
            for batch in self._read([group], columns, self._detail_rows(group, columns)):
                here = [row for row in wanted if first <= row < first + batch.num_rows]
                picked = batch.take(pa.array([row - first for row in here], pa.int64()))
                by_name = {name: _values(picked.column(name)) for name in columns}
                for i, row in enumerate(here):
                    found[row] = {name: values[i] for name, values in by_name.items()}
                first += batch.num_rows
        return found

    def _detail_rows(self, group: int, columns: Sequence[str]) -> int:
        """How many rows of a row group to read at once; dictionaries hide how long texts are, so never many."""
        metadata = self._parquet.metadata.row_group(group)
        chunks = (metadata.column(i) for i in range(metadata.num_columns))
        try:
            size = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.partition(".")[0] in columns)
        except _FAULTS as error:
            raise EvaluationError(f"cannot be read as Parquet: {_first_line(error)}") from None
        return min(batch_rows(1, size / metadata.num_rows), 256)

    @property
    def _groups(self) -> int:
        return int(self._parquet.num_row_groups)

    def _read(self, groups: Sequence[int], columns: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._parquet.iter_batches(
                rows, row_groups=list(groups), columns=list(columns), use_threads=False
            )
        except _FAULTS as error:
            raise EvaluationError(f"cannot read '{shown(columns[0])}': {_first_line(error)}") from None

    def _scores(
        self, members: Sequence[pa.Array], columns: Columns, classes: int, row: int
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """(n, C) scores, and which rows have none; a null inside a row is NaN."""
        if len(members) > 1:
            return np.stack([_floats(m) for m in members], axis=1), np.zeros(len(members[0]), bool)
        array = _storage(members[0])
        missing = _nulls(array)
        lengths = pc.list_value_length(array).fill_null(classes).to_numpy(zero_copy_only=False)
        if (lengths != classes).any():
            i = int(np.flatnonzero(lengths != classes)[0])
            raise EvaluationError(
                f"column '{shown(columns.scores.name)}' has {lengths[i]} scores at row {row + i}, "
                f"expected {classes} in every row"
            )
        present = _floats(array.flatten()).reshape(-1, classes)
        if not missing.any():
            return present, missing
        scores = np.zeros((len(array), classes), present.dtype)
        scores[~missing] = present
        return scores, missing

    def _labels(self, array: pa.Array, columns: Columns, row: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(n,) labels, and which rows have none."""
        name = columns.label.name
        if _is_list(array.type):
            array = _squeeze(array, name, row)
        missing = _nulls(array)
        if pa.types.is_dictionary(array.type):
            array = array.dictionary_decode()
        if columns.label.text:
            return name_indices(_values(array), name, row, columns.class_names)
        if pa.types.is_boolean(array.type):
            array = array.cast(pa.int8())
        if array.null_count:
            array = array.fill_null(0)
        labels, undefined = label_indices(array.to_numpy(zero_copy_only=False), name, row)
        return labels, missing | undefined


def _first_line(error: BaseException) -> str:
    return shown(str(error).partition("\n")[0])


def _is_list(type: pa.DataType) -> bool:
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


def _values(array: pa.Array) -> list[Any]:
    """Python values; text that is not UTF-8 keeps its bytes as escapes."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    try:
        return list(array.to_pylist())
    except UnicodeDecodeError:
        raw = array.cast(pa.large_binary()).to_pylist()
        return [value if value is None else value.decode("utf-8", "backslashreplace") for value in raw]


def _floats(array: pa.Array) -> NDArray[Any]:
    """Values as NumPy floats; nulls become NaN."""
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


def _describe(schema: pa.Schema, rows: int) -> Table:
    scores: list[ScoreColumn] = []
    values: list[ValueColumn] = []
    numbered: dict[str, list[tuple[int, str]]] = defaultdict(list)
    features = _features(schema)
    for field in schema:
        storage = _storage_type(field.type)
        single = pa.types.is_fixed_size_list(storage) and storage.list_size == 1
        tensor = isinstance(field.type, pa.FixedShapeTensorType)  # of rank 1 it is a list, else no column of ours
        flat = not tensor or len(field.type.shape) == 1
        if _is_list(storage) and pa.types.is_floating(storage.value_type) and flat and not single:
            scores.append(ScoreColumn(field.name, (field.name,), str(field.type), rows))
            continue
        value = storage.value_type if _is_list(storage) or pa.types.is_dictionary(storage) else storage
        values.append(
            ValueColumn(
                field.name,
                str(field.type),
                rows,
                Holds.OTHER if tensor else _holds(value),
                listed=_is_list(storage),
                class_names=features.get(field.name),
            )
        )
        if pa.types.is_floating(storage) and (match := _NUMBERED.fullmatch(field.name)):
            numbered[match[1].removesuffix("_")].append((int(match[2]), field.name))
    from_one = []
    for prefix, columns in numbered.items():
        columns.sort()
        numbers, members = [number for number, _ in columns], tuple(name for _, name in columns)
        if len(columns) > 1 and numbers == list(range(len(columns))):
            type = f"{len(members)} columns of {schema.field(members[0]).type}"
            name = prefix or f"{members[0]}..{members[-1]}"
            scores.append(ScoreColumn(name, members, type, rows, unnamed=not prefix))
            values = [v for v in values if v.name not in members]
        elif len(columns) > 1 and numbers == list(range(1, len(columns) + 1)):
            from_one.append(prefix or f"{members[0]}..{members[-1]}")
    return Table(tuple(scores), tuple(values), _class_names(schema), numbered_from_one=tuple(from_one))


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
