"""Readers: every column type people write, files that are damaged, and memory that does not grow with the file."""

import contextlib
import json
import math
import subprocess
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest

from lossless._evaluate import evaluate, readers
from lossless.errors import LosslessError

pa = pytest.importorskip("pyarrow")
feather = pytest.importorskip("pyarrow.feather")
pq = pytest.importorskip("pyarrow.parquet")

ROWS, CLASSES = 57, 5  # neither a multiple of the row groups below


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, CLASSES, ROWS)
    scores = rng.normal(size=(ROWS, CLASSES)).astype(np.float32)
    scores[np.arange(ROWS), labels] += 1
    return scores, labels


@pytest.fixture(scope="module")
def expected(data, tmp_path_factory):
    scores, labels = data
    path = tmp_path_factory.mktemp("expected") / "p.npz"
    np.savez(path, logits=scores, label=labels)
    return evaluate(path).scalars()


def fixed(scores):
    return pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), scores.shape[1])


def parquet(path, columns, metadata=None, group=20):
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata) if metadata else table, path, row_group_size=group)
    return path


SCORE_COLUMNS = {
    "fixed_size_list": lambda x: {"logits": fixed(x)},
    "list": lambda x: {"logits": pa.array(x.tolist(), pa.list_(pa.float32()))},
    "large_list": lambda x: {"logits": pa.array(x.tolist(), pa.large_list(pa.float32()))},
    "double": lambda x: {"logits": fixed(x.astype(np.float64))},
    "tensor": lambda x: {"logits": pa.FixedShapeTensorArray.from_numpy_ndarray(x)},
    "wide": lambda x: {f"logit_{j}": pa.array(x[:, j]) for j in range(CLASSES)},
    "wide, other order": lambda x: {f"logit_{j}": pa.array(x[:, j]) for j in (3, 1, 0, 4, 2)},
    "wide, no underscore": lambda x: {f"logit{j}": pa.array(x[:, j]) for j in range(CLASSES)},
}


@pytest.mark.parametrize("kind", SCORE_COLUMNS)
def test_score_columns(tmp_path, data, expected, kind):
    scores, labels = data
    path = parquet(tmp_path / "p.parquet", {"label": labels, **SCORE_COLUMNS[kind](scores)})
    assert evaluate(path, workers=2).scalars() == expected


def test_half_floats_are_computed_in_full(tmp_path, data):
    scores, labels = data
    half = scores.astype(np.float16)
    path = parquet(tmp_path / "p.parquet", {"logits": fixed(half), "label": labels})
    np.savez(tmp_path / "p.npz", logits=half.astype(np.float64), label=labels)
    assert evaluate(path).scalars() == evaluate(tmp_path / "p.npz").scalars()


LABEL_COLUMNS = {
    "int8": lambda y: pa.array(y, pa.int8()),
    "uint64": lambda y: pa.array(y, pa.uint64()),
    "whole floats": lambda y: pa.array(y.astype(float)),
    "lists of one": lambda y: pa.array([[int(v)] for v in y]),
    "fixed lists of one": lambda y: pa.FixedSizeListArray.from_arrays(pa.array(y), 1),
    "text": lambda y: pa.array([f"class {v}" for v in y]),
    # the dictionary is in order of appearance, not of the classes
    "dictionary": lambda y: pa.array([f"class {v}" for v in y]).dictionary_encode(),
}


@pytest.mark.parametrize("kind", LABEL_COLUMNS)
def test_label_columns(tmp_path, data, expected, kind):
    scores, labels = data
    names = {"class_names": json.dumps([f"class {j}" for j in range(CLASSES)])}
    path = parquet(tmp_path / "p.parquet", {"logits": fixed(scores), "label": LABEL_COLUMNS[kind](labels)}, names)
    e = evaluate(path)
    assert e.scalars() == expected
    assert e.source.class_name(2) == "class 2"
    assert any("squeezed" in note for note in e.notes) == ("lists of one" in kind)


def test_class_names_of_hugging_face_datasets(tmp_path, data):
    scores, labels = data
    features = {"label": {"names": list("abcde"), "_type": "ClassLabel"}, "text": {"dtype": "string", "_type": "Value"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    path = parquet(tmp_path / "p.parquet", {"logits": fixed(scores), "label": labels}, metadata)
    assert evaluate(path).source.class_names == ("a", "b", "c", "d", "e")


@pytest.mark.parametrize(
    "names", ['["a", "b"]', '["a", "a", "b", "c", "d"]', "not json", "7", '{"a": 1}', '"abcde"', "[0, 1, 2, 3, 4]"]
)
def test_class_names_that_do_not_fit_are_not_used(tmp_path, data, names):
    scores, labels = data
    path = parquet(tmp_path / "p.parquet", {"logits": fixed(scores), "label": labels}, {"class_names": names})
    assert evaluate(path).source.class_names is None


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npz(tmp_path, data, expected, save, order):
    scores, labels = data
    save(tmp_path / "p.npz", logits=np.asarray(scores, order=order), y_true=labels[:, None], class_names=list("abcde"))
    e = evaluate(tmp_path / "p.npz")
    assert e.scalars() == expected
    assert e.source.class_names == ("a", "b", "c", "d", "e")
    assert any("shape (57, 1)" in note and "squeezed" in note for note in e.notes)


def test_npz_byte_order_names_and_details(tmp_path, data, expected):
    scores, labels = data
    names = np.array([f"class {j}" for j in range(CLASSES)])
    ids = np.arange(1000, 1000 + ROWS)
    np.savez(tmp_path / "p.npz", logits=scores.astype(">f4"), target=names[labels], class_names=names, id=ids)
    e = evaluate(tmp_path / "p.npz")
    assert e.scalars() == expected
    assert all(r.details == {"id": str(1000 + r.row)} for r in e.surprising)


def test_class_names_of_another_column_are_not_those_of_the_label(tmp_path, data):
    scores, labels = data
    features = {"topic": {"names": list("abcde"), "_type": "ClassLabel"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    columns = {"logits": fixed(scores), "label": labels, "topic": labels}
    assert evaluate(parquet(tmp_path / "p.parquet", columns, metadata)).source.class_names is None
    e = evaluate(parquet(tmp_path / "p.parquet", {"logits": fixed(scores), "topic": labels}, metadata), label="topic")
    assert e.source.class_names == tuple("abcde")


def test_npz_arrays_of_other_shapes_are_no_details(tmp_path, data):
    scores, labels = data
    others = {"epoch": 3, "seed": np.arange(4), "matrix": np.ones((900, 2)), "id": np.arange(ROWS)}
    np.savez(tmp_path / "p.npz", logits=scores, label=labels, **others)
    e = evaluate(tmp_path / "p.npz")
    assert e.source.rows == ROWS
    assert all(r.details == {"id": str(r.row)} for r in e.surprising)


def test_details_that_a_further_file_lacks(tmp_path, data):
    scores, labels = data
    np.savez(tmp_path / "a.npz", logits=scores, label=labels, id=np.arange(ROWS))
    np.savez(tmp_path / "b.npz", logits=scores, label=labels, id=np.arange(3))
    e = evaluate([tmp_path / "a.npz", tmp_path / "b.npz"])
    assert all(bool(r.details) == r.file.endswith("a.npz") for r in e.surprising)


def test_npz_classes_are_the_label_of_each_score(tmp_path, data, expected):
    scores, labels = data
    values = np.array([30, 7, 1, 255, -4])
    np.savez(tmp_path / "p.npz", logits=scores, label=values[labels], classes=values)
    e = evaluate(tmp_path / "p.npz")
    assert e.scalars() == expected
    assert e.source.class_names == ("30", "7", "1", "255", "-4")
    np.savez(tmp_path / "p.npz", logits=scores, label=labels, classes=np.arange(CLASSES))
    assert evaluate(tmp_path / "p.npz").scalars() == expected
    assert evaluate(tmp_path / "p.npz").source.class_names is None
    ignored = values[labels]
    ignored[3] = -100
    np.savez(tmp_path / "p.npz", logits=scores, label=ignored, classes=values)
    assert evaluate(tmp_path / "p.npz").left_out["ignored"] == 1
    ignored[3] = 2
    np.savez(tmp_path / "p.npz", logits=scores, label=ignored, classes=values)
    refused(tmp_path / "p.npz", "'classes' (30, 7, 1, 255, -4)", "first 2 at row 3", "1 of 57")
    np.savez(tmp_path / "p.npz", logits=scores, label=labels, classes=values[:4])
    refused(tmp_path / "p.npz", "'classes' holds 4 labels", "5 scores per row")


def test_details_columns_of_one_name_are_left_out(tmp_path, data):
    scores, labels = data
    arrays = [fixed(scores), pa.array(labels), pa.array(labels), pa.array(labels), pa.array(labels + 1)]
    pq.write_table(pa.Table.from_arrays(arrays, ["logits", "label", "id", "id", "n"]), tmp_path / "p.parquet")
    assert all(r.details == {"n": str(r.label + 1)} for r in evaluate(tmp_path / "p.parquet").surprising)


def test_text_that_is_no_text(tmp_path, data):
    scores, labels = data
    names = np.array(["a", "\ud800", "c", "d", "e"])
    names.view(np.uint32)[2] = 0x7FFFFFFF
    path = tmp_path / "p\udce9.npz"  # as a Latin-1 name arrives
    np.savez(path, logits=scores, label=labels, class_names=names, note=names[labels])
    e = evaluate(path)
    assert e.source.class_names == ("a", "\\ud800", "\ufffd", "d", "e")
    e.to_json().encode("utf-8")
    with pytest.raises(LosslessError) as error:
        evaluate(path, label="nothing")
    str(error.value).encode("utf-8")
    raw = pa.array([b"\xff\xfe"] * ROWS, pa.binary()).view(pa.string())
    e = evaluate(parquet(tmp_path / "p.parquet", {"logits": fixed(scores), "label": labels, "text": raw}))
    assert e.surprising[0].details == {"text": "\\xff\\xfe"}


def test_details_are_read_a_few_rows_at_a_time(tmp_path, data, monkeypatch):
    scores, labels = data
    text = [f"{i} " + "long " * 20_000 for i in range(ROWS)]
    path = parquet(tmp_path / "p.parquet", {"logits": fixed(scores), "label": labels, "text": text}, group=ROWS)
    seen = []
    whole = pq.ParquetFile.iter_batches

    def watched(self, rows, *arguments, columns, **options):
        if columns == ["text"]:
            seen.append(rows)
        return whole(self, rows, *arguments, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", watched)
    monkeypatch.setattr("lossless._evaluate.readers._BATCH_BYTES", 1 << 18)
    e = evaluate(path)
    assert all(r.details["text"].startswith(f"{r.row} long") for r in e.surprising)
    assert 1 <= max(seen) <= 256
    assert readers.batch_rows(CLASSES, 1 << 17) == 2


def test_a_long_header_is_refused_unread(tmp_path, data):
    scores, labels = data
    np.savez(tmp_path / "p.npz", logits=scores, label=labels)
    length = 1 << 26
    header = b"\x93NUMPY\x02\x00" + length.to_bytes(4, "little") + b" " * length
    with zipfile.ZipFile(tmp_path / "p.npz", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb.npy", header)
    tracemalloc.start()
    refused(tmp_path / "p.npz", "'bomb' has no header that can be read")
    assert tracemalloc.get_traced_memory()[1] < 1 << 24
    tracemalloc.stop()


def test_details_of_surprising_rows(tmp_path, data):
    scores, labels = data
    columns = {
        "id": [f"row-{i}" for i in range(ROWS)],
        "logits": fixed(scores),
        "label": labels,
        "text": ["long " * 100] * ROWS,
        "tokens": [[1, 2, 3]] * ROWS,
        "weight": np.ones(ROWS),
    }
    e = evaluate(parquet(tmp_path / "p.parquet", columns), surprising=5)
    assert all(r.details == {"id": f"row-{r.row}", "text": ("long " * 100)[:200]} for r in e.surprising)
    assert len(e.surprising) == 5


def test_rows_that_cannot_be_scored_are_counted(tmp_path, data):
    scores, labels = data
    scores, labels = scores.copy(), labels.copy()
    kept = np.ones(ROWS, bool)
    scores[3, 1] = np.nan
    scores[4] = -np.inf
    scores[5, :2] = np.inf
    labels[30] = -100
    kept[[3, 4, 5, 30, 40, 41]] = False
    column = fixed(scores).to_pylist()
    column[40] = None
    label = labels.tolist()
    label[41] = None
    table = {"logits": pa.array(column, pa.list_(pa.float32(), CLASSES)), "label": pa.array(label)}
    e = evaluate(parquet(tmp_path / "p.parquet", table))
    np.savez(tmp_path / "kept.npz", logits=scores[kept], label=labels[kept])
    assert e.scalars() == evaluate(tmp_path / "kept.npz").scalars()
    assert e.left_out == {"missing": 2, "ignored": 1, "no_distribution": 3}
    (lost,) = e.failed("non-finite-input")
    assert f"3 of {ROWS} rows have scores that give no distribution" in lost.evidence
    assert "first: row 3 of" in lost.evidence
    assert e.rows == ROWS - 6


def test_null_inside_a_row_is_nan(tmp_path, data):
    scores, labels = data
    column = scores.tolist()
    column[7][2] = None
    path = parquet(tmp_path / "p.parquet", {"logits": pa.array(column, pa.list_(pa.float32())), "label": labels})
    assert evaluate(path).left_out["no_distribution"] == 1


def test_masked_classes(tmp_path):
    scores = np.array([[1.0, -np.inf, 1.0], [-np.inf, 2.0, 2.0]])
    np.savez(tmp_path / "p.npz", logits=scores, label=[0, 1])
    e = evaluate(tmp_path / "p.npz")
    assert e.nll == pytest.approx(math.log(2), rel=1e-15)
    assert e.entropy == pytest.approx(math.log(2), rel=1e-15)


# ---------------------------------------------------------------- what cannot be read


def refused(path, *parts, **options):
    with pytest.raises(LosslessError) as error:
        evaluate(path, **options)
    assert isinstance(error.value, ValueError)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize("sizes", [[57], [20, 20, 17], [3, 4, 0, 30, 2, 2, 9, 7], [0], [10] * 6, [1] * 25])
def test_batches_of_parquet_end_with_row_groups(tmp_path, data, sizes):
    scores, labels = np.resize(data[0], (sum(sizes), CLASSES)), np.resize(data[1], sum(sizes))
    table = pa.table({"logits": fixed(scores), "label": labels})
    with pq.ParquetWriter(tmp_path / "p.parquet", table.schema) as writer:
        for end, size in zip(np.cumsum(sizes).tolist(), sizes, strict=True):
            writer.write_table(table.slice(end - size, size), row_group_size=max(size, 1))
    reader = readers.open_reader(str(tmp_path / "p.parquet"), 0)
    batches = list(reader._read(range(len(reader._sizes())), ["logits", "label"], 10))
    ends = np.cumsum([0, *(batch.num_rows for batch in batches)])
    assert np.diff(ends).max(initial=0) <= 10
    assert len(batches) <= sum(-(-size // 10) for size in sizes)
    for start, size in zip(np.cumsum(sizes) - sizes, sizes, strict=True):  # a group of more rows is read by itself
        assert size <= 10 or {start, start + size} <= set(ends.tolist())
    assert [y for batch in batches for y in batch.column(1).to_pylist()] == labels.tolist()


def test_ragged_lists(tmp_path):
    ragged = pa.array([[0.5, 2.0], [1.0, 3.0], [1.0, 2.0, 3.0]], pa.list_(pa.float32()))
    path = parquet(tmp_path / "p.parquet", {"logits": ragged, "label": [0, 1, 0]})
    refused(path, "3 scores at row 2", "expected 2", "'logits'", str(path))


def test_no_rows(tmp_path):
    empty = {"logits": pa.array([], pa.list_(pa.float32(), 3)), "label": pa.array([], pa.int64())}
    refused(parquet(tmp_path / "p.parquet", empty), "holds no rows")
    np.savez(tmp_path / "p.npz", logits=np.zeros((0, 3)), label=np.zeros(0, int))
    refused(tmp_path / "p.npz", "holds no rows")


def test_nothing_to_score(tmp_path):
    np.savez(tmp_path / "p.npz", logits=np.full((4, 3), np.nan), label=[0, 1, 2, 0])
    refused(tmp_path / "p.npz", "none of the 4 rows can be scored", "NaN")


def test_files_of_other_kinds(tmp_path):
    refused(tmp_path / "missing.parquet", "No such file")
    refused(tmp_path, "a directory without a file of predictions")
    for name, content, message in (
        ("empty", b"", "is empty"),
        ("p.xls", b"\xd0\xcf\x11\xe0", "none of the formats that are read here"),
        ("p.pkl", b"\x80\x04\x95", "a pickle"),
        ("p.parquet", b"PAR1 and nothing else", "as Parquet"),
        ("p.npz", b"PK\x03\x04 and nothing else", "as NPZ"),
    ):
        (tmp_path / name).write_bytes(content)
        refused(tmp_path / name, message)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(tmp_path / "other.zip", "without NumPy arrays")


def test_pickled_arrays_are_not_read(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    np.savez(tmp_path / "p.npz", logits=np.eye(3) + 1, label=np.array([Bomb()] * 3, object))
    refused(tmp_path / "p.npz", "pickled and not read")


@pytest.mark.parametrize("cut", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("name", ["p.parquet", "p.npz", "compressed.npz"])
def test_truncated_files(tmp_path, data, name, cut):
    scores, labels = data
    parquet(tmp_path / "p.parquet", {"logits": fixed(scores), "label": labels})
    np.savez(tmp_path / "p.npz", logits=scores, label=labels)
    np.savez_compressed(tmp_path / "compressed.npz", logits=scores, label=labels)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * cut)])
    refused(tmp_path / name, name)


@pytest.mark.parametrize("name", ["p.parquet", "p.npz", "compressed.npz"])
def test_damaged_files_end_in_an_error_or_in_figures(tmp_path, data, name):
    scores, labels = data
    parquet(tmp_path / "p.parquet", {"logits": fixed(scores), "label": labels})
    np.savez(tmp_path / "p.npz", logits=scores, label=labels)
    np.savez_compressed(tmp_path / "compressed.npz", logits=scores, label=labels)
    content = (tmp_path / name).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(150):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), 3):
            damaged[position] = rng.integers(0, 256)
        (tmp_path / name).write_bytes(damaged)
        with contextlib.suppress(LosslessError):
            evaluate(tmp_path / name)


def test_header_that_lies_about_the_size(tmp_path, data):
    scores, labels = data
    np.savez(tmp_path / "p.npz", logits=scores, label=labels)
    with zipfile.ZipFile(tmp_path / "p.npz") as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    members["logits.npy"] = members["logits.npy"].replace(b"(57, 5)", b"(57, 9)")
    with zipfile.ZipFile(tmp_path / "p.npz", "w") as archive:
        for n, content in members.items():
            archive.writestr(n, content)
    refused(tmp_path / "p.npz", "cut short or damaged")


def test_columns_of_the_same_name(tmp_path, data):
    scores, labels = data
    table = pa.Table.from_arrays([fixed(scores), pa.array(labels), pa.array(labels)], ["logits", "label", "label"])
    pq.write_table(table, tmp_path / "p.parquet")
    refused(tmp_path / "p.parquet", "'label', 'label'")
    refused(tmp_path / "p.parquet", "two columns are called 'label'", label="label")


def test_names_with_dots_are_names(tmp_path, data, expected):
    scores, labels = data
    path = parquet(tmp_path / "p.parquet", {"model.logits": fixed(scores), "data.label": labels})
    assert evaluate(path, label="data.label").scalars() == expected


def test_lengths_that_differ(tmp_path, data):
    scores, labels = data
    np.savez(tmp_path / "p.npz", logits=scores, label=labels[:-1])
    refused(tmp_path / "p.npz", "57 rows of scores but 56 labels")


def test_files_that_do_not_belong_together(tmp_path, data):
    scores, labels = data
    first = parquet(tmp_path / "a.parquet", {"logits": fixed(scores), "label": labels})
    narrow = parquet(tmp_path / "b.parquet", {"logits": fixed(scores[:, :3]), "label": labels % 3})
    renamed = parquet(tmp_path / "c.parquet", {"logits": fixed(scores), "truth": labels})
    refused([first, narrow], "differs from", "number of classes")
    refused([first, renamed], "lacks the columns", "truth")
    refused([], "no file")


# VmHWM and not ru_maxrss, which a child process inherits from the one that started it
_PEAK = """
import re, sys
from lossless._evaluate import evaluate
evaluate(sys.argv[1], workers=2)
print(int(re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())[1]) / 1024)
"""


def peak(path):
    """Peak memory in MiB of evaluating a file in a fresh process."""
    return float(subprocess.run([sys.executable, "-c", _PEAK, path], check=True, capture_output=True).stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("form", ["parquet", "npz", "feather", "csv", "jsonl"])
def test_memory_does_not_grow_with_the_file(tmp_path, form):
    def write(rows):
        path = str(tmp_path / f"{rows}.{form}")
        rng = np.random.default_rng(0)
        # repeated every 50 rows, which is within deflate's window, so that it is written fast
        scores = np.tile(rng.random((50, 100), np.float32) * 5, (rows // 50, 1))
        labels = rng.integers(0, 100, rows)
        if form == "npz":
            np.savez_compressed(path, logits=scores, label=labels)
        elif form == "feather":
            feather.write_feather(pa.table({"logits": fixed(scores), "label": labels}), path, chunksize=2000)
        elif form == "csv":
            with open(path, "w") as file:
                print(*(f"logit_{j}" for j in range(100)), "label", sep=",", file=file)
                lines = [",".join(map(str, row)) for row in scores[:50].tolist()]
                file.writelines(f"{lines[i % 50]},{y}\n" for i, y in enumerate(labels))
        elif form == "jsonl":
            rows //= 3  # 19 MiB more, of 30 thousand and 10 thousand rows, since it is slow
            with open(path, "w") as file:
                lines = [f'{{"logits": {row}, "doc": "{"long " * 300}"' for row in scores[:50].tolist()]
                file.writelines(f'{lines[i % 50]}, "label": {y}}}\n' for i, y in enumerate(labels[:rows]))
        else:  # one row group: the hard case
            parquet(path, {"logits": fixed(scores), "label": labels}, group=rows)
        return path

    small, large = peak(write(30_000)), peak(write(180_000))
    # the larger file holds 57 MiB more of scores; the samples and sketches that fill up are a third of that
    assert large - small < 40
