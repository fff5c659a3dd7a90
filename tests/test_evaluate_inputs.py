"""Which files, in which order, and which row belongs to which: where a slip gives a wrong number without a word."""

import json
import math
import os
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lossless import evaluate
from lossless._evaluate.inputs import find_files
from lossless.errors import EvaluationError

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(3)
LABELS = RNG.integers(0, 3, 55)
SCORES = np.eye(3)[LABELS] * 5 + RNG.normal(size=(55, 3)) * 0.1


@pytest.fixture
def parts(tmp_path):
    """Eleven parts of five rows, numbered as tools number them, and the labels of all."""
    folder = tmp_path / "preds"
    folder.mkdir()
    for part in range(11):
        np.save(folder / f"preds_{part}.npy", SCORES[5 * part : 5 * part + 5])
    np.save(tmp_path / "labels.npy", LABELS)
    return folder


def test_the_second_part_comes_before_the_tenth(parts):
    for paths in ([parts], [f"{parts}/preds_*.npy"], [parts / f"preds_{i}.npy" for i in range(11)]):
        files, _ = find_files(paths)
        assert [os.path.basename(f) for f in files] == [f"preds_{i}.npy" for i in range(11)]
        e = evaluate(paths, targets=parts.parent / "labels.npy", logits="preds")
        assert (e.rows, e.accuracy) == (55, 1.0)


def test_a_file_is_read_once_whatever_its_names(parts):
    os.symlink(parts, parts / "loop")
    os.link(parts / "preds_0.npy", parts / "same.npy")
    files, notes = find_files([parts / "preds_0.npy", f"{parts}/*.npy", f"{parts}/./preds_1.npy", f"{parts}/**/*.npy"])
    assert len(files) == 11
    assert "are read once" in notes[-1]


def test_a_file_and_its_packed_copy(tmp_path):
    for name in ("e.csv", "e.csv.gz"):
        (tmp_path / name).write_text("label,prob_0,prob_1\n0,0.9,0.1\n")
    with pytest.raises(EvaluationError, match=r"stands beside e\.csv\.gz, most likely itself: name one of them"):
        find_files([tmp_path])


def test_paths_without_a_name(tmp_path):
    np.save(tmp_path / "p.npy", SCORES)
    for path, message in (("", "No such file"), (f"{tmp_path}/p.npy/", "Not a directory")):
        with pytest.raises(EvaluationError, match=message):
            evaluate(path)


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(EvaluationError, match="is no file but a pipe or a device"):
        evaluate(tmp_path / "pipe.csv")


def test_a_key_of_nan_is_no_key(tmp_path):
    np.savez(tmp_path / "k.npz", logits=SCORES[:4], id=[0.0, math.nan, 2.0, math.nan])
    np.savez(tmp_path / "t.npz", label=LABELS[:3], id=[0, 1, 2])
    e = evaluate(tmp_path / "k.npz", targets=tmp_path / "t.npz", on="id")
    assert e.rows == 2


def test_targets_without_a_label_have_scores(tmp_path):
    np.savez(tmp_path / "s.npz", logits=SCORES[:5], id=np.arange(5))
    pq.write_table(pa.table({"label": [0, None, 2, None, 1], "id": range(5)}), tmp_path / "t.parquet")
    notes = evaluate(tmp_path / "s.npz", targets=tmp_path / "t.parquet", on="id").notes
    assert not any("targets have no scores" in note for note in notes)
    pq.write_table(pa.table({"label": [0, None, 2, None, 1, 1], "id": range(6)}), tmp_path / "t.parquet")
    notes = evaluate(tmp_path / "s.npz", targets=tmp_path / "t.parquet", on="id").notes
    assert "at least 1 of the 6 targets have no scores" in notes


def test_no_targets_at_all(tmp_path):
    np.savez(tmp_path / "s.npz", logits=SCORES[:5], id=np.arange(5))
    pq.write_table(
        pa.table({"label": pa.array([], pa.int64()), "id": pa.array([], pa.int64())}), tmp_path / "t.parquet"
    )
    with pytest.raises(EvaluationError, match=r"scored: 5 rows have a key that is not among the targets and w[^;]*$"):
        evaluate(tmp_path / "s.npz", targets=tmp_path / "t.parquet", on="id")


def test_messages_name_the_file_of_the_targets(tmp_path):
    np.savez(tmp_path / "s.npz", logits=SCORES[:5], id=np.arange(5))
    (tmp_path / "twice.csv").write_text("id,label,g,g\n" + "".join(f"{i},0,1,2\n" for i in range(5)))
    np.savez(tmp_path / "odd.npz", label=LABELS[:5], id=np.arange(5), g=np.arange(5) + 0.5)
    np.savez(tmp_path / "bad.npz", label=LABELS[:5] + 0.5, id=np.arange(5), g=np.arange(5))
    for name, by in (("twice.csv", "g"), ("odd.npz", "g"), ("bad.npz", ())):
        with pytest.raises(EvaluationError) as error:
            evaluate(tmp_path / "s.npz", targets=tmp_path / name, on="id", by=by)
        assert str(error.value).startswith(f"{tmp_path / name}: ")
        assert "s.npz" not in str(error.value)


def table(path, names, **columns):
    arrays = {k: pa.array(list(v)) if np.ndim(v) == 2 else pa.array(v) for k, v in columns.items()}
    pq.write_table(pa.table(arrays).replace_schema_metadata({"class_names": json.dumps(names)}), path)


def features(names):
    return {"huggingface": json.dumps({"info": {"features": {"label": {"_type": "ClassLabel", "names": names}}}})}


def test_class_names_that_files_contradict_are_refused(tmp_path):
    names = np.array(["a", "b", "c"])
    for label in (LABELS[:9], names[LABELS[:9]]):
        table(tmp_path / "m1.parquet", ["a", "b", "c"], logits=SCORES[:9], label=label, id=np.arange(9))
        table(tmp_path / "m2.parquet", ["b", "a", "c"], logits=SCORES[:9], label=label, id=np.arange(9) + 9)
        with pytest.raises(EvaluationError, match=r"differs from .* in the number of classes, their names"):
            evaluate([tmp_path / "m1.parquet", tmp_path / "m2.parquet"])
    pq.write_table(pa.table({"label": names[LABELS[:18]], "id": np.arange(18)}), tmp_path / "t.parquet")
    with pytest.raises(EvaluationError, match=r"differs from .* in the number of classes, their names"):
        evaluate([tmp_path / "m1.parquet", tmp_path / "m2.parquet"], targets=tmp_path / "t.parquet", on="id")


def test_scores_in_another_order_than_the_labels_are_refused(tmp_path):
    columns = {f"prob_{n}": p for n, p in zip("cab", np.exp(SCORES[:9]).T / np.exp(SCORES[:9]).sum(1), strict=True)}
    labelled = pa.table({**columns, "label": LABELS[:9]}).replace_schema_metadata(features(["a", "b", "c"]))
    pq.write_table(labelled, tmp_path / "hf.parquet")
    with pytest.raises(EvaluationError, match=r"numbers the classes a, b, c, but the scores are in the order c, a"):
        evaluate(tmp_path / "hf.parquet", probs="prob")
    table(tmp_path / "s.parquet", ["c", "a", "b"], logits=SCORES[:9])
    targets = pa.table({"label": LABELS[:9]}).replace_schema_metadata(features(["a", "b", "c"]))
    pq.write_table(targets, tmp_path / "t.parquet")
    with pytest.raises(EvaluationError, match="Bring the scores into the order of the labels"):
        evaluate(tmp_path / "s.parquet", targets=tmp_path / "t.parquet")


def test_booleans_beside_columns_of_true_and_false(tmp_path):
    (tmp_path / "b.csv").write_text("label,prob_True,prob_False\nTrue,0.9,0.1\nFalse,0.2,0.8\n")
    with pytest.raises(EvaluationError, match="holds booleans, which count as 0 and 1, but the scores are in the"):
        evaluate(tmp_path / "b.csv", probs="prob")
    (tmp_path / "b.csv").write_text("label,prob_False,prob_True\nTrue,0.1,0.9\nFalse,0.8,0.2\n")
    assert evaluate(tmp_path / "b.csv", probs="prob").accuracy == 1.0


def samples(path, rows, **more):
    """As lm-eval writes them: the right choice is a text."""
    lines = [
        {"doc_id": i, "target": str(label), "filtered_resps": [[str(s), "False"] for s in scores], **more}
        for i, (label, scores) in enumerate(rows)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_samples_of_lm_eval(tmp_path):
    ragged = [(1, [-3.0, -1.0]), (2, [-2.0, -4.0, -0.5]), (0, [-0.1, -7.0, -9.0, -2.0])]
    samples(tmp_path / "s.jsonl", ragged)
    e = evaluate(tmp_path / "s.jsonl", label="target")
    truth = [-row[label] + math.log(sum(map(math.exp, row))) for label, row in ragged]
    assert e.nll == pytest.approx(math.fsum(truth) / 3, rel=1e-15)
    assert e.accuracy == 1.0


def test_a_choice_that_a_row_lacks_is_no_label(tmp_path):
    samples(tmp_path / "s.jsonl", [(0, [-1.0, -2.0, -3.0, -4.0]), (3, [-1.0, -2.0, -3.0])])
    with pytest.raises(EvaluationError, match="label column 'target' holds 3 at row 1, which has 3 choices, from 0"):
        evaluate(tmp_path / "s.jsonl", label="target")


@pytest.mark.parametrize("as_dict", [False, True])
def test_choices_without_their_questions_are_no_choices(tmp_path, as_dict):
    asked = [["Is it?", " yes"], ["Is it?", " no"], ["", " yes"], ["", " no"]]
    if as_dict:
        asked = {f"gen_args_{i}": {"arg_0": a, "arg_1": b} for i, (a, b) in enumerate(asked)}
    samples(tmp_path / "s.jsonl", [(0, [-1.0, -2.0, -3.0, -4.0])], arguments=asked)
    with pytest.raises(EvaluationError, match="holds each choice twice"):
        evaluate(tmp_path / "s.jsonl", label="target")


def test_a_zip_file_of_any_time_is_an_npz(tmp_path):
    np.savez(tmp_path / "a.npz", logits=SCORES, label=LABELS)
    with zipfile.ZipFile(tmp_path / "a.npz") as a, zipfile.ZipFile(tmp_path / "b.npz", "w") as b:
        for name in a.namelist():
            b.writestr(zipfile.ZipInfo(name, date_time=(2026, 11, 1, 10, 3, 54)), a.read(name))
    assert evaluate(tmp_path / "b.npz").nll == evaluate(tmp_path / "a.npz").nll


def test_tensors_that_are_no_batches(tmp_path):
    x = torch.from_numpy(SCORES)
    np.save(tmp_path / "labels.npy", np.tile(LABELS, 2))
    torch.save((x, x), tmp_path / "two.pt")
    with pytest.raises(EvaluationError, match="expected a tensor, a dict of tensors, or a list of batches"):
        evaluate(tmp_path / "two.pt", targets=tmp_path / "labels.npy")
    torch.save({0: x, "0": x}, tmp_path / "names.pt")
    with pytest.raises(EvaluationError, match="two tensors of one name"):
        evaluate(tmp_path / "names.pt", targets=tmp_path / "labels.npy")


def test_the_first_rows_are_bounded_by_their_bytes(tmp_path, monkeypatch):
    from lossless._evaluate.readers import jsonl

    kept = []
    rows = jsonl._rows
    monkeypatch.setattr(jsonl, "_FIRST_BYTES", 1 << 12)
    monkeypatch.setattr(jsonl, "_rows", lambda *a: (kept.append(r) or r for r in rows(*a)))
    lines = [{"text": "x" * 1000, "logits": [0.0, 1.0], "label": 1}] * 100
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    jsonl.JsonLinesReader(str(tmp_path / "long.jsonl"), 0)
    assert len(kept) == 3
