"""Formats: the same numbers give the same figures whatever file holds them, and no file makes a reader fail badly."""

import contextlib
import csv
import gzip
import io
import json
import pickle
import sys
import time
import zlib

import numpy as np
import pytest

from lossless._evaluate import evaluate
from lossless._evaluate.readers import csv as csv_reader
from lossless.cli import main
from lossless.errors import EvaluationError, LosslessError

pa = pytest.importorskip("pyarrow")
feather = pytest.importorskip("pyarrow.feather")
pq = pytest.importorskip("pyarrow.parquet")
arrow_reader = pytest.importorskip("lossless._evaluate.readers.arrow")

ROWS, CLASSES = 157, 4  # rows that no batch size divides
NAMES = ("cat", "dog", "owl", "yak")
RNG = np.random.default_rng(5)
LABELS = RNG.integers(0, CLASSES, ROWS)
SCORES = RNG.normal(size=(ROWS, CLASSES)) * 3
PROBS = np.exp(SCORES) / np.exp(SCORES).sum(1, keepdims=True)
TEXTS = [f'row {i}, "so"' for i in range(ROWS)]


def fixed(scores):
    return pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), scores.shape[1])


def table(scores=SCORES, labels=LABELS):
    return pa.table({"logits": fixed(scores), "label": labels, "text": TEXTS})


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The evaluation of the same data in Parquet."""
    path = tmp_path_factory.mktemp("expected") / "p.parquet"
    pq.write_table(table(), path)
    return evaluate(path)


def same(found, expected):
    assert found.scalars() == expected.scalars()
    assert [(r.row, r.nll, r.details) for r in found.surprising] == [
        (r.row, r.nll, r.details) for r in expected.surprising
    ]


def refused(path, *parts, **options):
    with pytest.raises(EvaluationError) as error:
        evaluate(path, **options)
    for part in parts:
        assert part in str(error.value)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------- Arrow


def arrow_file(path, data, rows=20, **options):
    with pa.ipc.new_file(path, data.schema, **options) as writer:
        writer.write_table(data, max_chunksize=rows)
    return path


def arrow_stream(path, data, rows=20, **options):
    with pa.ipc.new_stream(path, data.schema, **options) as writer:
        writer.write_table(data, max_chunksize=rows)
    return path


def write_feather(path, data, rows=20, compression="lz4"):
    feather.write_feather(data, str(path), chunksize=rows, compression=compression)
    return path


ARROW = {
    "file": arrow_file,
    "stream": arrow_stream,
    "feather": write_feather,
    "feather, zstd": lambda path, data: write_feather(path, data, compression="zstd"),
    "one batch": lambda path, data: arrow_file(path, data, 10_000),
}


@pytest.mark.parametrize("form", ARROW)
@pytest.mark.parametrize("workers", [1, 2])
def test_arrow(tmp_path, expected, form, workers, monkeypatch):
    monkeypatch.setattr("lossless._evaluate.readers.arrow._PART_SCORES", 50 * CLASSES)
    found = evaluate(ARROW[form](tmp_path / "p", table()), workers=workers)
    same(found, expected)
    assert found.source.format == ("Arrow stream" if form == "stream" else "Arrow")


@pytest.mark.parametrize("form", ["file", "stream"])
def test_arrow_columns(tmp_path, expected, form):
    names = {"class_names": json.dumps(NAMES)}
    columns = {
        "prob": pa.array(PROBS.tolist(), pa.large_list(pa.float64())),
        "text": pa.array(TEXTS).dictionary_encode(),
        "label": pa.array(NAMES).take(pa.array(LABELS)).dictionary_encode(),
    }
    data = pa.table(columns).replace_schema_metadata(names)
    pq.write_table(data, tmp_path / "p.parquet")
    found = evaluate(ARROW[form](tmp_path / "p.arrow", data))
    same(found, evaluate(tmp_path / "p.parquet"))
    assert found.source.class_names == NAMES
    wide = pa.table({"label": LABELS, "text": TEXTS, **{f"logit_{j}": SCORES[:, j] for j in range(CLASSES)}})
    same(evaluate(ARROW[form](tmp_path / "w.arrow", wide)), expected)


def test_nulls_in_arrow_files_are_left_out(tmp_path):
    scores, labels = SCORES.tolist(), LABELS.tolist()
    scores[30], labels[31] = None, None
    data = pa.table({"logits": pa.array(scores, pa.list_(pa.float64(), CLASSES)), "label": labels})
    for form in ("file", "stream"):
        assert evaluate(ARROW[form](tmp_path / "p.arrow", data)).left_out["missing"] == 2


def test_a_stream_without_an_end_is_said_to_be(tmp_path, expected):
    path = arrow_stream(tmp_path / "p.arrow", table())
    assert not evaluate(path).notes
    path.write_bytes(path.read_bytes()[:-8])
    found = evaluate(path)
    assert any("p.arrow lacks the mark at the end" in note for note in found.notes)
    same(found, expected)


def test_offsets_that_lie_are_noticed(tmp_path):
    offsets = pa.array(np.arange(ROWS + 1, dtype=np.int32) * CLASSES)
    column = pa.ListArray.from_arrays(offsets, pa.array(SCORES.ravel()))
    path = arrow_file(tmp_path / "p.arrow", pa.table({"logits": column, "label": LABELS}), 1000)
    content = path.read_bytes()
    assert content.count(np.array([8, 12, 16, 20], np.int32).tobytes()) == 1
    lie = np.array([8, 12, 1 << 30, 20], np.int32).tobytes()
    path.write_bytes(content.replace(np.array([8, 12, 16, 20], np.int32).tobytes(), lie))
    refused(path, "p.arrow: cannot be read as Arrow")


def test_feather_of_old(tmp_path):
    (tmp_path / "p.feather").write_bytes(b"FEA1" + bytes(100))
    refused(tmp_path / "p.feather", "Feather of version 1", "write_feather")


# ---------------------------------------------------------------- CSV


def numbers(scores):
    return [[repr(float(x)) for x in row] for row in scores]


def write_csv(path, header, rows, delimiter=",", **options):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n", **options)
    writer.writerow(header)
    writer.writerows(rows)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


def columns(scores=SCORES, labels=LABELS):
    """One column per class, a label and a text."""
    return [[*row, y, text] for row, y, text in zip(numbers(scores), labels, TEXTS, strict=True)]


WIDE = [*(f"logit_{j}" for j in range(CLASSES)), "label", "text"]


@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
@pytest.mark.parametrize("name", ["p.csv", "p.csv.gz"])
def test_csv(tmp_path, expected, delimiter, name, monkeypatch):
    path = write_csv(tmp_path / name, WIDE, columns(), delimiter)
    same(evaluate(path), expected)
    assert evaluate(path).source.format == "CSV"
    monkeypatch.setattr(csv_reader, "_BLOCKS", (4096,))  # several blocks
    same(evaluate([path]), expected)


def cells(separator, opened="[", closed="]"):
    return [opened + separator.join(row) + closed for row in numbers(SCORES)]


CELLS = {
    "JSON": [json.dumps(row.tolist()) for row in SCORES],
    "NumPy": cells(" "),
    "lines": cells("\n  ", "[ ", " ]"),
    "1 x C": cells(", ", "[[", "]]"),
}


@pytest.mark.parametrize("form", CELLS)
@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_cells_of_lists(tmp_path, expected, form, delimiter):
    rows = zip(TEXTS, CELLS[form], LABELS, strict=True)
    same(evaluate(write_csv(tmp_path / "p.csv", ["text", "logits", "label"], rows, delimiter)), expected)


def test_what_numpy_prints_is_read(tmp_path):
    with np.printoptions(linewidth=40, precision=17, floatmode="maxprec"):
        rows = [(str(row), y) for row, y in zip(PROBS, LABELS, strict=True)]
    assert "\n" in rows[0][0]
    found = evaluate(write_csv(tmp_path / "p.csv", ["prob", "label"], rows))
    np.savez(tmp_path / "p.npz", prob=PROBS, label=LABELS)
    assert found.nll == pytest.approx(evaluate(tmp_path / "p.npz").nll, rel=1e-12)
    rows[3] = ("[0.1 0.2 ... 0.3 0.4]", 0)
    write_csv(tmp_path / "p.csv", ["prob", "label"], rows)
    refused(tmp_path / "p.csv", "at row 3", "NumPy has left out the middle", "numpy.savez")


def test_lists_that_are_none(tmp_path):
    rows = list(zip(CELLS["JSON"], LABELS, strict=True))
    for cell, message in (
        ("[1, 2, 3]", "3 scores at row 70"),
        ("nothing", "'nothing' at row 70"),
        ("[1.5, x, 2, 3]", "'[1.5, x, 2, 3]' at row 70"),
        ("[1.5, ., 2, 3]", "'[1.5, ., 2, 3]' at row 70"),
        ("[]", "'[]' at row 70"),
    ):
        refused(
            write_csv(tmp_path / "p.csv", ["logits", "label"], [*rows[:70], (cell, 0), *rows[70:]]), "p.csv", message
        )
    for cell, reason in (
        ("", "missing"),
        ("[1, NaN, 2, 3]", "no_distribution"),
        ("[1, null, 2, 3]", "no_distribution"),
    ):
        path = write_csv(tmp_path / "p.csv", ["logits", "label"], [*rows[:70], (cell, 0), *rows[70:]])
        assert evaluate(path).left_out[reason] == 1


def test_names_of_classes_in_the_header(tmp_path):
    np.savez(tmp_path / "p.npz", prob=PROBS, label=LABELS)
    plain = evaluate(tmp_path / "p.npz").scalars()
    text = [[i, *row, NAMES[y]] for i, (row, y) in enumerate(zip(numbers(PROBS), LABELS, strict=True))]
    for header in (["id", *NAMES, "label"], ["id", *(f"prob_{n}" for n in NAMES), "label"]):
        found = evaluate(write_csv(tmp_path / "p.csv", header, text))
        assert found.scalars() == plain
        assert found.source.class_names == NAMES
        assert found.surprising[0].details == {"id": str(found.surprising[0].row)}
    number = [[i, *row, y] for i, (row, y) in enumerate(zip(numbers(PROBS), LABELS, strict=True))]
    path = write_csv(tmp_path / "p.csv", ["id", *NAMES, "label"], number)
    refused(path, "called after their classes", "nothing says which number is which class", "--probs")
    found = evaluate(path, probs="cat..yak")
    assert (found.scalars(), found.source.class_names) == (plain, NAMES)
    other = write_csv(tmp_path / "p.csv", ["id", "x", "y1", "z", "w", "label"], text)
    refused(other, "none of the 4 class names")


def test_a_column_that_is_no_class_is_not_taken_for_one(tmp_path):
    rows = [[*row, "1.25", NAMES[y]] for row, y in zip(numbers(PROBS), LABELS, strict=True)]
    refused(write_csv(tmp_path / "p.csv", [*NAMES, "loss", "label"], rows), "'loss'", "--logits cat..loss")
    rows = [[*row, NAMES[y]] for row, y in zip(numbers(SCORES), LABELS, strict=True)]
    path = write_csv(tmp_path / "p.csv", [*NAMES, "label"], rows)
    refused(path, "columns without a name for scores", "--logits cat..yak")
    assert evaluate(path, logits="cat..yak").source.class_names == NAMES


def test_whole_numbers_may_be_scores(tmp_path, monkeypatch):
    scores = np.rint(SCORES)
    scores[100:] = SCORES[100:]
    np.savez(tmp_path / "p.npz", logits=scores, label=LABELS)
    rows = [
        [*(repr(x) if i >= 100 else int(x) for x in row.tolist()), y]
        for i, (row, y) in enumerate(zip(scores, LABELS, strict=True))
    ]
    path = write_csv(tmp_path / "p.csv", WIDE[:-1], rows)
    monkeypatch.setattr(csv_reader, "_BLOCKS", (512,))  # the first rows alone look whole
    assert evaluate(path).scalars() == evaluate(tmp_path / "p.npz").scalars()


def test_details_whose_first_values_are_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_reader, "_BLOCKS", (512,))
    rows = [[*row, y, i if i < 50 else f"x{i}"] for i, (row, y) in enumerate(zip(numbers(SCORES), LABELS, strict=True))]
    found = evaluate(write_csv(tmp_path / "p.csv", [*WIDE[:-1], "id"], rows), surprising=ROWS)
    assert all(r.details == {"id": str(r.row) if r.row < 50 else f"x{r.row}"} for r in found.surprising)


def test_missing_and_infinite_values(tmp_path):
    rows = columns()
    rows[3][1], rows[4][1], rows[5][1], rows[6][4] = "", "nan", "-inf", ""
    found = evaluate(write_csv(tmp_path / "p.csv", WIDE, rows))
    assert (found.left_out["missing"], found.left_out["no_distribution"]) == (1, 2)
    rows = [[*row, NAMES[y] if i else ""] for i, (row, y) in enumerate(zip(numbers(SCORES), LABELS, strict=True))]
    assert evaluate(write_csv(tmp_path / "p.csv", WIDE[:-1], rows), class_names=NAMES).left_out["missing"] == 1


def test_what_timm_writes_as_csv_is_its_prediction(tmp_path):
    rows = [(f"{i}.jpg", NAMES[y], str(p)) for i, (y, p) in enumerate(zip(PROBS.argmax(1), PROBS, strict=True))]
    refused(write_csv(tmp_path / "p.csv", ["filename", "label", "prob"], rows), "timm", "prediction")


def test_byte_order_marks_and_line_ends(tmp_path, expected):
    path = write_csv(tmp_path / "p.csv", WIDE, columns())
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    same(evaluate(path), expected)


def test_long_rows(tmp_path, expected, monkeypatch):
    monkeypatch.setattr(csv_reader, "_BLOCKS", (64, 128, 4096))
    rows = columns()
    same(evaluate(write_csv(tmp_path / "p.csv", WIDE, rows)), expected)
    rows[100][-1] = "long" * 4000
    refused(write_csv(tmp_path / "q.csv", WIDE, rows), "q.csv: holds a row of more than 128 bytes", "not closed")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello world\nagain\n", "without a comma, tab or semicolon in its first line"),
        (b"hello\nworld\n", "no column named like scores"),
        (b"\n\n", "without a comma"),
        (b"logit_0,logit_1,label", "p.csv"),
        (b"logit_0,logit_1,label\n", "holds no rows"),
        (b"0.5,0.5,1\n0.1,0.9,0\n", "first line of the table holds numbers"),
        (b"logit_0,logit_1,label\n0.5,1.5,0\n0.5,1\n", "Expected 3 columns, got 2"),
        (b"logit_0,logit_1,label\n0.5,1.5,0\n0.5,x,1\n", "p.csv"),
        (b"logit_0,logit_1,label\n0.5,1.5,0.5\n", "expected whole numbers"),
        (b"logit_0,logit_0,label\n0.5,1.5,0\n", "p.csv"),
        (b"logit_0,logit_1,label,label\n0.5,1.5,0,1\n", "label"),
        (b'logit_0,logit_1,label\n0.5,1.5,"0\n', "p.csv"),
        ("logit_0,label\n".encode("utf-16"), "UTF-16"),
        (b"a,b\x00\n", "none of the formats"),
        (gzip.compress(b"\x00\x01\x02", mtime=0), "Unpack it first"),
        (b"\x1f\x8bnothing", "compressed by gzip"),
        (b"id,a,b\n1,0.5,0.5\n", "no column named like a true label"),
    ],
)
def test_tables_that_are_none(tmp_path, content, message, capsys):
    (tmp_path / "p.csv").write_bytes(content)
    refused(tmp_path / "p.csv", "p.csv: ", message)
    assert main(["evaluate", str(tmp_path / "p.csv")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


GOOD = [f"{i % 2},0.{9 - i % 2 * 8},0.{1 + i % 2 * 8},t{i}" for i in range(20)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("block", [None, 64])
@pytest.mark.parametrize("name", ["p.csv", "p.csv.gz"])
@pytest.mark.parametrize("cell", ['"abc', '"ab""c', 'a"bc'])
def test_a_quotation_mark_that_is_not_closed(tmp_path, monkeypatch, end, block, name, cell):
    if block:
        monkeypatch.setattr(csv_reader, "_BLOCKS", (block, 4096))
        monkeypatch.setattr(csv_reader, "_PIECE", 5)
    path = tmp_path / name
    for before in (0, 1, 7, 20):
        rows = [*GOOD[:before], f"0,0.9,0.1,{cell}", *GOOD[before:]]
        text = end.join(["label,prob_0,prob_1,t", *rows, ""]).encode()
        path.write_bytes(gzip.compress(text, mtime=0) if name.endswith("gz") else text)
        refused(path, name, "a quotation mark is not closed", f"from line {before + 2} on", "Close it")


def test_a_quotation_mark_that_is_not_closed_far_from_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_reader, "_BLOCKS", (64, 128))
    path = tmp_path / "p.csv"
    path.write_text("\n".join(["label,prob_0,prob_1,t", '0,0.9,0.1,"abc', *GOOD]))
    refused(path, "a quotation mark is not closed", "from line 2 on")
    path.write_text("\n".join(["label,prob_0,prob_1,t", *GOOD, '0,0.9,0.1,"abc', "0,0.9", *GOOD[:3]]))
    refused(path, "a quotation mark is not closed", "from line 22 on")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("piece", [1, 7, 1 << 18])
def test_lines_that_quotation_marks_join_are_said(tmp_path, monkeypatch, end, piece):
    monkeypatch.setattr(csv_reader, "_PIECE", piece)
    path = tmp_path / "p.csv"
    rows = [*GOOD[:3], '0,0.9,0.1,"abc', *GOOD[3:7], '0,0.9,0.1,x"', *GOOD[7:]]
    path.write_bytes(end.join(["label,prob_0,prob_1,t", *rows]).encode())
    found = evaluate(path)
    assert found.rows == 17
    assert any("22 lines make 17 rows: cells hold line ends between quotation marks" in note for note in found.notes)
    path.write_bytes(end.join(["label,prob_0,prob_1,t", "", *GOOD, "", '0,0.9,0.1,"a ""b"""', ""]).encode())
    found = evaluate(path)
    assert found.rows == 21
    assert not any("lines make" in note for note in found.notes)


def test_many_columns(tmp_path):
    header = ["label", *(f"prob_{j}" for j in range(20_000))]
    path = write_csv(tmp_path / "p.csv", header, [[0, 1, *[0] * 19_999]] * 3)
    start = time.perf_counter()
    assert evaluate(path).source.classes == 20_000
    assert time.perf_counter() - start < 20  # 100 and more if each column were compared with all others
    pq.write_table(
        pa.table({name: [0] if name == "label" else [1 / 20_000] for name in header}), tmp_path / "p.parquet"
    )
    start = time.perf_counter()
    with pq.ParquetFile(tmp_path / "p.parquet") as opened:
        assert len(arrow_reader.describe(opened.schema_arrow, 1).values) == 1
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize("form", ["file", "stream"])
def test_a_null_among_the_values_of_a_dictionary(tmp_path, form):
    for values in ([2, None, 1], ["owl", None, "dog"]):
        label = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, 0], pa.int8()), pa.array(values))
        data = pa.table({"logits": fixed(SCORES[:4]), "label": label})
        found = evaluate(ARROW[form](tmp_path / "p.arrow", data), class_names=NAMES)
        assert found.left_out["missing"] == 1
        plain = pa.table({"logits": fixed(SCORES[[0, 2, 3]]), "label": [2, 1, 2]})
        pq.write_table(plain, tmp_path / "p.parquet")
        assert found.nll == evaluate(tmp_path / "p.parquet").nll


def test_a_class_whose_first_scores_are_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(csv_reader, "_BLOCKS", (512,))
    rows = [["0.25", "0.75", 0, i, 0 if i < 50 else 300, ("cat", "dog")[i % 2]] for i in range(100)]
    rows += [["0.25", "0", "0.75", i, 300, "owl"] for i in range(100, 157)]
    header = ["cat", "dog", "owl", "id", "length", "label"]
    found = evaluate(write_csv(tmp_path / "p.csv", header, rows))
    assert found.source.class_names == ("cat", "dog", "owl")
    plain = np.array([[float(x) for x in row[:3]] for row in rows])
    np.savez(tmp_path / "p.npz", prob=plain, label=[("cat", "dog", "owl").index(row[-1]) for row in rows])
    assert found.scalars() == evaluate(tmp_path / "p.npz").scalars()
    assert any("3 classes are taken from the names of the columns: 'cat', 'dog', 'owl'" in n for n in found.notes)
    for row in rows:  # a number above 1, or 1 where others have all, is no probability
        row[4] = 1
    header[4] = "seen"
    assert evaluate(write_csv(tmp_path / "p.csv", header, rows)).source.class_names == ("cat", "dog", "owl")
    rows = [["0.5", "1.5", 2 if i < 50 else "2.5", i, 1, "cat"] for i in range(100)]
    refused(write_csv(tmp_path / "p.csv", header, rows), "'cat', 'dog', 'owl', 'seen'", "leave out the others")


@pytest.mark.parametrize(("name", "classes"), [("squid", 3), ("no", 3), ("", 2), ("image_id", 2), ("y_pred", 2)])
def test_which_whole_numbers_may_be_scores(tmp_path, name, classes):
    rows = [["0.25", "0.75", 0, ("cat", "dog")[i % 2]] for i in range(50)]
    found = evaluate(write_csv(tmp_path / "p.csv", ["cat", "dog", name, "label"], rows))
    assert found.source.class_names == ("cat", "dog", name)[:classes]


def test_whole_numbers_beside_scores_stay_whole(tmp_path):
    keys = [2**53 + 1 + 2 * i for i in range(ROWS)]
    header = ["logits", "label", "account", "weight", "height"]
    rows = [*zip(CELLS["JSON"], LABELS, keys, ["0.5"] * ROWS, ["1.5"] * ROWS, strict=True)]
    found = evaluate(write_csv(tmp_path / "p.csv", header, rows))
    assert found.surprising[0].details == {"account": str(keys[found.surprising[0].row])}


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("other", ["max", "Margin", "pred", "predicted", "label", "target", "ENTROPY"])
def test_suffixes_that_are_no_class(tmp_path, form, other):
    names = [*(f"prob_{n}" for n in NAMES), f"prob_{other}", "label"]
    for value in (0.25, 1):
        if form == "csv":
            rows = [[*row, str(value), NAMES[y]] for row, y in zip(numbers(PROBS), LABELS, strict=True)]
            path = write_csv(tmp_path / "p.csv", names, rows)
        else:
            data = [*PROBS.T, np.full(ROWS, value, float), [NAMES[y] for y in LABELS]]
            path = tmp_path / "p.parquet"
            pq.write_table(pa.table(dict(zip(names, data, strict=True))), path)
        found = evaluate(path)
        assert found.source.class_names == NAMES
        said = f"from the names of the columns: 'cat', 'dog', 'owl', 'yak'; 'prob_{other}' left out, as no class"
        assert any(said in note for note in found.notes)


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz"])
def test_targets_of_one_column(tmp_path, expected, name):
    data = table().drop_columns(["label"])
    pq.write_table(data, tmp_path / "p.parquet")
    targets = write_csv(tmp_path / name, ["label"], [[y] for y in LABELS])
    same(evaluate(tmp_path / "p.parquet", targets=targets), expected)


# ---------------------------------------------------------------- JSON lines


def write_jsonl(path, rows):
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    return path


def objects():
    return [{"logits": x.tolist(), "label": int(y), "text": t} for x, y, t in zip(SCORES, LABELS, TEXTS, strict=True)]


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.gz"])
def test_json_lines(tmp_path, expected, name):
    path = write_jsonl(tmp_path / name, objects())
    same(evaluate(path), expected)
    assert evaluate(path).source.format == "JSON lines"
    other = [{f"logit_{j}": v for j, v in enumerate(row.pop("logits"))} | row | {"extra": {}} for row in objects()]
    same(evaluate(write_jsonl(tmp_path / name, other)), expected)
    text = write_jsonl(tmp_path / "q.jsonl", objects()).read_text()
    (tmp_path / "q.jsonl").write_text("\ufeff\r\n" + text.replace("\n", "\r\n\n").rstrip())
    same(evaluate(tmp_path / "q.jsonl"), expected)


def test_json_values_of_all_kinds(tmp_path):
    rows = objects()
    rows[0]["logits"] = [1, 2, 3, 4]  # whole numbers may be scores
    rows[1]["logits"] = None
    rows[2].pop("label")
    rows[3]["logits"] = [1.0, float("nan"), 0.0, 0.0]
    rows[4]["logits"] = [1.0, float("-inf"), 0.0, 0.0]
    rows[5]["logits"][2] = None
    rows[6]["text"] = {"not": "text"}
    rows[7]["text"] = "\ud800"
    found = evaluate(write_jsonl(tmp_path / "p.jsonl", rows), surprising=ROWS)
    assert (found.left_out["missing"], found.left_out["no_distribution"]) == (2, 2)
    details = {r.row: r.details for r in found.surprising}
    assert len(details) == ROWS - 4
    found.to_json().encode()
    named = [row | {"label": NAMES[row["label"]]} for row in objects()]
    assert evaluate(write_jsonl(tmp_path / "p.jsonl", named), class_names=NAMES).rows == ROWS


def samples(least=2):
    """What lm-eval writes: log-likelihoods as texts, and a number of choices that differs by row."""
    for i, (row, y) in enumerate(zip(SCORES, LABELS, strict=True)):
        choices = [[repr(float(x) - 20), str(x == row.max())] for x in row[: max(least, int(y) + 1)]]
        yield {"doc_id": i, "doc": {"query": TEXTS[i]}, "target": int(y), "filtered_resps": choices, "acc": 1.0}


def test_samples_of_lm_eval(tmp_path):
    path = write_jsonl(tmp_path / "samples_task.jsonl", samples())
    found = evaluate(path)
    scores = np.full_like(SCORES, -np.inf)
    for i, y in enumerate(LABELS):
        scores[i, : max(2, y + 1)] = SCORES[i, : max(2, y + 1)] - 20
    np.savez(tmp_path / "p.npz", logits=scores, label=LABELS)
    assert found.scalars() == evaluate(tmp_path / "p.npz").scalars()
    assert found.source.scores == "filtered_resps"
    assert any("rows have 2 to 4 choices" in note for note in found.notes)
    assert not evaluate(write_jsonl(path, samples(4))).notes
    rows = list(samples())
    rows[30]["filtered_resps"] = [["x", "False"]]
    refused(write_jsonl(path, rows), "at row 30", "log-likelihood")
    texts = [row | {"filtered_resps": ["yes"]} for row in samples()]
    refused(write_jsonl(path, texts), "'filtered_resps' holds list")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[1, 2]", "a JSON array"),
        (b"{\n", "line 1 is no JSON"),
        (b'{"logits": [1.5, 2.5], "label": 0}\n7\n', "line 2 holds '7', expected an object"),
        (b'{"logits": [1.5, 2.5], "label": 0}\n\n{"logits": [1.5, 2', "line 3 is no JSON"),
        (b'{"logits": [1.5, 2.5], "label": 0}\n{"logits": [1.5], "label": 0}', "1 scores at row 1, expected 2"),
        (b'{"logits": [1.5, 2.5], "label": 0}\n{"logits": [1.5, "a"], "label": 0}', "holds list"),
        (b'{"logits": [1.5, 2.5], "label": 123456789012345678901234567890}', "at row 0"),
        (
            b'{"logits": [1.5, 2.5], "label": 0}' + b'\n{"logits": [1.5, 2.5], "label": 0}' * 300 + b'\n{"label": "x"}',
            "at row 301",
        ),
        (b'{"logits": ' + b"[" * 100000, "line 1 is no JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "line 1 is no JSON"),
        (b"{}\n", "no column named like scores"),
        (b'{"logits": [], "label": 0}', "p.jsonl: "),
        (b'{"logits": [1.5, 2.5], "pred": 0}', "no column named like a true label"),
        (gzip.compress(b'{"logits": [1.5, 2.5], "label": 0}' * 9, mtime=0)[:-9], "p.jsonl: "),
    ],
)
def test_json_lines_that_are_none(tmp_path, content, message, capsys):
    (tmp_path / "p.jsonl").write_bytes(content)
    refused(tmp_path / "p.jsonl", "p.jsonl: ", message)
    assert main(["evaluate", str(tmp_path / "p.jsonl")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# ---------------------------------------------------------------- NPY, and targets of their own


def npy(path, array, order="C"):
    np.save(path, np.asarray(array, order=order))
    return path


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("name", ["logits.npy", "x.npy", "predictions_3.npy"])
def test_npy(tmp_path, expected, order, name, monkeypatch):
    monkeypatch.setattr("lossless._evaluate.readers.mapped._PART_SCORES", 50 * CLASSES)
    path, labels = npy(tmp_path / name, SCORES, order), npy(tmp_path / "y.npy", LABELS[:, None])
    found = evaluate(path, targets=labels, workers=2)
    assert found.scalars() == expected.scalars()
    assert found.source.format == "NPY"
    assert any("joined by the order of the rows" in note for note in found.notes)
    (tmp_path / "big").mkdir()
    big = npy(tmp_path / "big" / name, SCORES.astype(">f8")), npy(tmp_path / "big" / "y.npy", LABELS.astype(">i2"))
    assert evaluate(big[0], targets=big[1]).scalars() == expected.scalars()


def test_several_files_and_their_targets(tmp_path, expected):
    npy(tmp_path / "logits_0.npy", SCORES[:60])
    npy(tmp_path / "logits_1.npy", SCORES[60:])
    pq.write_table(pa.table({"id": TEXTS, "y_true": LABELS}), tmp_path / "targets.parquet")
    for workers in (1, 2):
        found = evaluate(f"{tmp_path}/logits_?.npy", targets=tmp_path / "targets.parquet", workers=workers)
        assert found.scalars() == expected.scalars()
    npy(tmp_path / "names.npy", np.array(NAMES)[LABELS])
    found = evaluate(f"{tmp_path}/logits_?.npy", targets=tmp_path / "names.npy", class_names=NAMES)
    assert found.scalars() == expected.scalars()


def test_npy_that_cannot_be_used(tmp_path):
    path, labels = npy(tmp_path / "logits.npy", SCORES), npy(tmp_path / "y.npy", LABELS)
    refused(path, "logits.npy: ", "--targets")
    refused(npy(tmp_path / "fewer.npy", SCORES[1:]), "y.npy: 157 labels for 156 rows", "--on", targets=labels)
    for type in (float, int):
        targets = npy(tmp_path / "one_hot.npy", np.eye(4, dtype=type)[LABELS])
        refused(path, "one_hot.npy: each row of 'one_hot' marks one class", "argmax", targets=targets)
    refused(path, "missing.npy: No such file", targets=tmp_path / "missing.npy")
    refused(path, "expected whole numbers", targets=npy(tmp_path / "half.npy", LABELS + 0.5))
    refused(path, "--on names 'id'", targets=labels, on="id")
    refused(path, "--on", "--targets", on="id")
    np.save(tmp_path / "objects.npy", np.array([{}] * ROWS), allow_pickle=True)
    refused(path, "pickled", targets=tmp_path / "objects.npy")
    refused(tmp_path / "objects.npy", "pickled", targets=labels)
    path.write_bytes(path.read_bytes()[:-1])
    refused(path, "cut short or damaged", targets=labels)


def test_names_in_an_archive_that_are_no_text(tmp_path):
    np.savez(tmp_path / "p.npz", logits=SCORES, label=LABELS, **{"\u00e9": LABELS})
    content = (tmp_path / "p.npz").read_bytes()
    (tmp_path / "p.npz").write_bytes(content.replace("\u00e9".encode(), b"\xff\xff"))
    refused(tmp_path / "p.npz", "p.npz: cannot be read as NPZ")


@pytest.mark.parametrize("header", [b"(157, 4  ", b"(157, 4]", b"(1 7, 4)", b"(True, 4)"])
def test_headers_that_are_no_python(tmp_path, header):
    path, labels = npy(tmp_path / "logits.npy", SCORES), npy(tmp_path / "y.npy", LABELS)
    path.write_bytes(path.read_bytes().replace(b"(157, 4)", header[:8]))
    refused(path, "logits.npy: array 'logits'", targets=labels)


KEYS = {"texts": [f"id-{i}" for i in range(ROWS)], "numbers": np.arange(ROWS) * 7 - 300}
SHUFFLED = RNG.permutation(ROWS)


def joined(folder, kind, keep=SHUFFLED):
    """Scores with keys, and targets in another order."""
    keys = pa.array(KEYS[kind])
    data = {"id": keys, "logits": fixed(SCORES), "label": (LABELS + 1) % CLASSES, "text": TEXTS}
    pq.write_table(pa.table(data), folder / "p.parquet", row_group_size=50)
    rows = list(zip(keys.take(pa.array(keep)).to_pylist(), LABELS[keep], strict=True))
    return folder / "p.parquet", write_csv(folder / "targets.csv", ["id", "target"], rows)


@pytest.mark.parametrize("kind", KEYS)
def test_targets_joined_by_a_key(tmp_path, expected, kind, monkeypatch):
    path, targets = joined(tmp_path, kind)
    found = evaluate(path, targets=targets, on="id", workers=2)
    assert found.scalars() == expected.scalars()
    assert [r.row for r in found.surprising] == [r.row for r in expected.surprising]
    assert found.source.label == "target"
    assert any("'target' of" in note and "joined by 'id'" in note for note in found.notes)
    assert found.left_out["unmatched"] == 0
    monkeypatch.setattr(csv_reader, "_BLOCKS", (256,))
    assert evaluate(path, targets=str(targets), on="id").scalars() == expected.scalars()


@pytest.mark.parametrize("kind", KEYS)
def test_keys_that_are_missing(tmp_path, kind):
    path, targets = joined(tmp_path, kind, SHUFFLED[:100])
    found = evaluate(path, targets=targets, on="id")
    np.savez(tmp_path / "kept.npz", logits=SCORES[np.sort(SHUFFLED[:100])], label=LABELS[np.sort(SHUFFLED[:100])])
    assert found.scalars() == evaluate(tmp_path / "kept.npz").scalars()
    assert (found.left_out["unmatched"], found.left_out["missing"]) == (57, 0)
    assert any("57 rows have a key that is not among the targets" in note for note in found.notes)


def test_targets_without_scores_are_counted(tmp_path):
    path, targets = joined(tmp_path, "numbers")
    pq.write_table(pq.read_table(path).slice(0, 100), path)
    assert any(
        "at least 57 of the 157 targets have no scores" in n for n in evaluate(path, targets=targets, on="id").notes
    )


def test_nulls_among_the_keys(tmp_path):
    path, targets = joined(tmp_path, "texts")
    keys = [None, *KEYS["texts"][1:]]
    pq.write_table(pa.table({"id": keys, "logits": fixed(SCORES)}), path)
    found = evaluate(path, targets=targets, on="id")
    assert (found.left_out["missing"], found.left_out["unmatched"], found.rows) == (1, 0, ROWS - 1)


@pytest.mark.parametrize("kind", KEYS)
def test_keys_that_cannot_be_used(tmp_path, kind):
    path, targets = joined(tmp_path, kind, np.append(SHUFFLED, SHUFFLED[3]))
    refused(
        path, f"targets.csv: column 'id' holds '{KEYS[kind][SHUFFLED[3]]}' at rows 3 and 157", targets=targets, on="id"
    )
    refused(path, "targets.csv: --on names 'text'", targets=targets, on="text")
    refused(path, "p.parquet: --on names 'target'", targets=targets, on="target")
    path, targets = joined(tmp_path, kind)
    write_csv(targets, ["id", "target"], [(i if kind == "texts" else f"x{i}", 0) for i in range(ROWS)])
    refused(path, "'id' holds", "expected texts in both or whole numbers in both", targets=targets, on="id")
    write_csv(targets, ["id", "target"], [(f"y{i}" if kind == "texts" else 9**6 + i, 0) for i in range(ROWS)])
    refused(path, "none of the 157 rows can be scored: 157 rows have a key", targets=targets, on="id")
    write_csv(targets, ["id", "pred"], [(i, 0) for i in range(ROWS)])
    refused(path, "targets.csv: found no column named like a true label", targets=targets, on="id")


def test_targets_of_a_competition(tmp_path):
    """Scores by class name in one file, the names of the true classes in another."""
    rows = [[i, *row] for i, row in enumerate(numbers(PROBS))]
    path = write_csv(tmp_path / "submission.csv", ["id", *NAMES], rows)
    targets = write_csv(tmp_path / "truth.csv", ["id", "label"], [(i, NAMES[LABELS[i]]) for i in SHUFFLED])
    found = evaluate(path, targets=targets, on="id")
    np.savez(tmp_path / "p.npz", prob=PROBS, label=LABELS)
    assert found.scalars() == evaluate(tmp_path / "p.npz").scalars()
    assert found.source.class_names == NAMES


def test_targets_on_the_command_line(tmp_path, capsys):
    path, targets = joined(tmp_path, "texts")
    assert main(["evaluate", str(path), "--targets", str(targets), "--on", "id"]) == 0
    assert "joined by 'id'" in capsys.readouterr().out
    assert main(["evaluate", str(path), "--targets", str(targets), "--on", "id", "--json", str(targets)]) == 2
    assert "is an input" in capsys.readouterr().err


# ---------------------------------------------------------------- patterns and directories


def halves(folder, write, suffix):
    folder.mkdir(exist_ok=True)
    for name, rows in (("part-1", slice(80, None)), ("part-0", slice(None, 80))):
        data = table().slice(rows.start or 0, (rows.stop or ROWS) - (rows.start or 0))
        write(folder / (name + suffix), data)
    return folder


def test_patterns_and_directories(tmp_path, expected):
    folder = halves(tmp_path / "d", lambda path, data: pq.write_table(data, path), ".parquet")
    for name in ("_SUCCESS", ".part-0.parquet.crc", "_metadata"):
        (folder / name).write_bytes(b"")
    for given in (folder, str(folder) + "/", f"{folder}/*", str(folder / "part-*.parquet"), f"{tmp_path}/**/*.parquet"):
        found = evaluate(given)
        assert found.scalars() == expected.scalars()
        assert not found.notes
        assert [f[-14:] for f in found.source.files] == ["part-0.parquet", "part-1.parquet"]
    (folder / "state.json").write_text("{}")
    assert any("1 other files" in n and "'state.json'" in n for n in evaluate(folder).notes)


def test_a_name_that_looks_like_a_pattern_is_a_name(tmp_path, expected):
    path = tmp_path / "p[1].parquet"
    pq.write_table(table(), path)
    same(evaluate(path), expected)


def test_patterns_and_directories_without_data(tmp_path):
    refused(f"{tmp_path}/*.parquet", "*.parquet: no file matches")
    (tmp_path / "epoch=1").mkdir()
    (tmp_path / "notes.txt").write_text("")
    refused(tmp_path, "a directory without a file of predictions", "'notes.txt'", "'epoch=1'", "**/*.parquet", "*.csv")
    halves(tmp_path, arrow_file, ".arrow")
    write_csv(tmp_path / "p.csv", WIDE, columns())
    refused(tmp_path, "a directory of several formats (2 of Arrow, 1 of CSV), expected one", "'*.csv'")
    refused([tmp_path / "p.csv", f"{tmp_path}/*.npz"], "*.npz: no file matches")


def test_files_of_several_formats_are_taken_together(tmp_path, expected):
    pq.write_table(table().slice(0, 50), tmp_path / "a.parquet")
    arrow_file(tmp_path / "b.arrow", table().slice(50, 40))
    np.savez(tmp_path / "c.npz", logits=SCORES[90:], label=LABELS[90:], text=TEXTS[90:])
    same_figures = evaluate([tmp_path / "a.parquet", tmp_path / "b.arrow", tmp_path / "c.npz"])
    assert same_figures.scalars() == expected.scalars()


def test_more_files_than_may_be_open(tmp_path, expected):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    for i in range(ROWS):
        ARROW["file"](tmp_path / f"{i:03}.arrow", table().slice(i, 1))
        pq.write_table(table().slice(i, 1), tmp_path / f"{i:03}.parquet")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (120, limits[1]))
        for suffix in ("arrow", "parquet"):
            assert evaluate(f"{tmp_path}/*.{suffix}").scalars() == expected.scalars()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_a_result_does_not_take_the_place_of_an_input(tmp_path, capsys):
    pq.write_table(table(), tmp_path / "a.parquet")
    pattern = str(tmp_path / "*.parquet")
    assert main(["evaluate", pattern, "--json", str(tmp_path / "a.parquet")]) == 2
    assert "is an input and would be overwritten" in capsys.readouterr().err
    assert main(["evaluate", pattern, "--json", str(tmp_path / "e.json")]) == 0


# ---------------------------------------------------------------- safetensors


def write_safetensors(path, entries, metadata=None):
    """Entries by name: (dtype, array)."""
    contents, data = {} if metadata is None else {"__metadata__": metadata}, b""
    for name, (dtype, array) in entries.items():
        content = np.ascontiguousarray(array).tobytes()
        contents[name] = {"dtype": dtype, "shape": array.shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    header = json.dumps(contents).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def tensors(labels=LABELS):
    return {"logits": ("F64", SCORES), "label": ("I64", labels), "id": ("I32", np.arange(ROWS, dtype=np.int32))}


def test_safetensors(tmp_path, expected, monkeypatch):
    monkeypatch.setattr("lossless._evaluate.readers.mapped._PART_SCORES", 50 * CLASSES)
    path = write_safetensors(tmp_path / "p.safetensors", tensors(), {"format": "pt"})
    for workers in (1, 2):
        found = evaluate(path, workers=workers)
        assert found.scalars() == expected.scalars()
        assert all(r.details == {"id": str(r.row)} for r in found.surprising)
    assert found.source.format == "safetensors"
    found = evaluate(write_safetensors(path, tensors(LABELS[:, None]) | {"odd": ("F8_E4M3", LABELS)}))
    assert found.scalars() == expected.scalars()
    assert any("squeezed" in note for note in found.notes)
    alone = write_safetensors(tmp_path / "s.safetensors", {"tensor": ("F64", SCORES)})
    assert evaluate(alone, targets=npy(tmp_path / "y.npy", LABELS)).scalars() == expected.scalars()


def test_brain_floats_are_float32(tmp_path):
    bits = (SCORES.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    path = write_safetensors(
        tmp_path / "p.safetensors", {"logits": ("BF16", bits), "label": ("U8", LABELS.astype("u1"))}
    )
    np.savez(tmp_path / "p.npz", logits=(bits.astype(np.uint32) << 16).view(np.float32), label=LABELS)
    assert evaluate(path).scalars() == evaluate(tmp_path / "p.npz").scalars()


def test_safetensors_that_lie(tmp_path):
    path = write_safetensors(tmp_path / "p.safetensors", tensors() | {"label": ("I64", LABELS[1:])})
    refused(path, "157 rows of scores but 156 labels")
    good = write_safetensors(path, tensors()).read_bytes()
    for old, new, message in (
        (b"[157, 4]", b"[157, 5]", "'logits' is cut short or damaged"),
        (b"[157, 4]", b"[-57, 4]", "'logits' has the shape"),
        (b"[157, 4]", b"[1e9, 4]", "'logits' has the shape"),
        (b'"dtype"', b'"dtypo"', "no table of contents that can be read"),
        (b'"logits": {', b'"logits": [', "no table of contents that can be read"),
    ):
        path.write_bytes(good.replace(old, new))
        refused(path, "p.safetensors: ", message)
    path.write_bytes(b"\0\0\0\1\0\0\0\0{" + good[9:])
    refused(path, "cut short or damaged")


# ---------------------------------------------------------------- what torch.save writes


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("unpickled",)


def write_pt(path, found):
    torch = pytest.importorskip("torch")
    torch.save(found, path)
    return path


def batches(names=("logits", "label")):
    torch = pytest.importorskip("torch")
    parts = [slice(i, i + 40) for i in range(0, ROWS, 40)]
    return [{n: torch.tensor(a[part]) for n, a in zip(names, (SCORES, LABELS), strict=True)} for part in parts]


def test_batches_that_torch_saved(tmp_path, expected, monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr("lossless._evaluate.readers.mapped._PART_SCORES", 50 * CLASSES)
    path = write_pt(tmp_path / "predictions.pt", batches())
    for workers in (1, 2):
        assert evaluate(path, workers=workers).scalars() == expected.scalars()
    assert evaluate(path).source.format == "PyTorch"
    labels = npy(tmp_path / "y.npy", LABELS)
    for found in ([b["logits"] for b in batches()], torch.tensor(SCORES), {"p": torch.tensor(SCORES).requires_grad_()}):
        assert evaluate(write_pt(path, found), targets=labels).scalars() == expected.scalars()
    whole = {"logits": torch.tensor(SCORES).T.contiguous().T, "label": torch.tensor(LABELS)[:, None].to(torch.uint8)}
    assert evaluate(write_pt(path, whole)).scalars() == expected.scalars()
    brain = torch.tensor(SCORES).bfloat16()
    np.savez(tmp_path / "p.npz", logits=brain.double().numpy(), label=LABELS)
    found = evaluate(write_pt(path, {"logits": brain, "label": torch.tensor(LABELS)}))
    assert found.scalars() == evaluate(tmp_path / "p.npz").scalars()


def test_what_torch_saved_and_cannot_be_used(tmp_path):
    torch = pytest.importorskip("torch")
    path, labels = tmp_path / "p.pt", npy(tmp_path / "y.npy", LABELS)
    for found, message in (
        ({"logits": Bomb()}, "nothing but tensors"),
        ([], "no column named like scores"),
        ([[torch.tensor(SCORES)]], "holds a list of length 1 with a list of length 1, expected a tensor"),
        ({"logits": 3}, "'logits' is a int, expected a tensor"),
        ([torch.zeros(3, 4), torch.zeros(3, 5)], "differ"),
        ([batches()[0], {"logits": torch.zeros(3, 4)}], "with a dict of length 1"),
        (torch.zeros(1, 4).expand(10**12, 4), "bytes, in a file of"),
        (torch.eye(4).to_sparse(), "expected a dense one"),
        (torch.tensor(1.5), "no column named like scores"),
    ):
        refused(write_pt(path, found), "p.pt: ", message, targets=labels)


def test_torch_is_imported_for_nothing_else(tmp_path, monkeypatch, expected):
    pq.write_table(table(), tmp_path / "p.parquet")
    path = write_pt(tmp_path / "p.pt", batches())
    monkeypatch.setitem(sys.modules, "torch", None)
    assert evaluate(tmp_path / "p.parquet").scalars() == expected.scalars()
    refused(path, "written by torch.save, and PyTorch is not installed", "numpy.savez")


# ---------------------------------------------------------------- pickles


@pytest.mark.parametrize("name", ["p.pkl", "p.pickle", "p.joblib", "p.pt", "p"])
@pytest.mark.parametrize("protocol", [0, 2, 5])
@pytest.mark.parametrize("packed", [bytes, gzip.compress, zlib.compress])
def test_pickles_are_refused(tmp_path, name, protocol, packed, capsys):
    path = tmp_path / name
    path.write_bytes(packed(pickle.dumps({"logits": Bomb()}, protocol)))
    if name in ("p.pt", "p") and (protocol == 0 or packed is not bytes):
        refused(path, name)
    else:
        refused(path, "a pickle", "numpy.savez('predictions.npz', logits=..., label=...)")
    assert main(["evaluate", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


# ---------------------------------------------------------------- damage

WRITERS = {
    "pt": lambda path: write_pt(path, batches()),
    "safetensors": lambda path: write_safetensors(path, tensors()),
    "jsonl": lambda path: write_jsonl(path, objects()),
    "jsonl.gz": lambda path: write_jsonl(path.with_suffix(".gz"), objects()),
    "samples": lambda path: write_jsonl(path, samples()),
    "npy": lambda path: npy(path.with_suffix(".npy"), SCORES),
    "arrow": lambda path: arrow_file(path, table()),
    "stream": lambda path: arrow_stream(path, table()),
    "feather": lambda path: write_feather(path, table()),
    "csv": lambda path: write_csv(path, WIDE, columns()),
    "csv.gz": lambda path: write_csv(path.with_suffix(".gz"), WIDE, columns()),
    "cells": lambda path: write_csv(path, ["logits", "label", "text"], zip(CELLS["NumPy"], LABELS, TEXTS, strict=True)),
}


@pytest.mark.parametrize("form", WRITERS)
def test_files_cut_short(tmp_path, form):
    targets = npy(tmp_path / "y.npy", LABELS) if form == "npy" else None
    path = WRITERS[form](tmp_path / "p")
    content = path.read_bytes()
    for size in [*range(1, 40), *np.linspace(40, len(content) - 1, 40).astype(int)]:
        path.write_bytes(content[:size])
        try:
            found = evaluate(path, targets=targets)
        except LosslessError:
            continue
        # a text may end at any line, and a stream at any record batch
        assert form in ("csv", "cells", "jsonl", "samples", "stream")
        assert found.source.rows < ROWS or form == "stream" or size > len(content) - len(TEXTS[0])


@pytest.mark.parametrize("form", WRITERS)
def test_damaged_files_end_in_an_error_or_in_figures(tmp_path, form):
    path = WRITERS[form](tmp_path / "p")
    targets = npy(tmp_path / "y.npy", LABELS) if form == "npy" else None
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    started = time.monotonic()
    for _ in range(100):
        damaged = bytearray(content)
        for position in rng.integers(0, len(content), rng.integers(1, 4)):
            damaged[position] = rng.integers(0, 256)
        path.write_bytes(damaged)
        with contextlib.suppress(EvaluationError):
            evaluate(path, targets=targets)
    assert time.monotonic() - started < 60


@pytest.mark.parametrize(
    "magic",
    [
        b"",
        b"ARROW1\0\0",
        b"\x93NUMPY\1\0",
        b"\xff\xff\xff\xff",
        b"a,label\n",
        b"{",
        b"\x40\0\0\0\0\0\0\0{",
        b"\x1f\x8b\x08\0",
    ],
)
def test_noise_is_refused(tmp_path, magic):
    rng = np.random.default_rng(1)
    for size in rng.integers(1, 3000, 60):
        (tmp_path / "p").write_bytes(magic + rng.bytes(int(size)))
        with pytest.raises(EvaluationError):
            evaluate(tmp_path / "p")
