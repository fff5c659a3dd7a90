"""Rows that come batch by batch: the figures of a file, bit for bit, whatever the cuts, arrays and ranks."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, log_loss

import lossless
from lossless.errors import EvaluationError, LogitsDtypeError, ParameterError, ShapeError, TargetDtypeError

RNG = np.random.default_rng(11)
SCORES = RNG.normal(size=(600, 7)).astype(np.float32)
LABELS = RNG.integers(0, 7, 600)
SCORES[np.arange(600), LABELS] += 1.5
LABELS[5::50] = -100
SCORES[17] = np.nan
SCORES[101:104] = SCORES[100]  # equal losses, which only row numbers tell apart
LABELS[100:104] = LABELS[100]


def of(*batches, **options):
    evaluator = lossless.Evaluator(**options)
    for scores, labels in batches:
        evaluator.update(scores, labels)
    return evaluator


def without_places(figures):
    """What does not say where the rows were."""
    figures = {name: value for name, value in figures.items() if name not in ("source", "notes", "findings")}
    figures["surprising"] = [{**row, "file": None} for row in figures["surprising"]]
    return figures


WHOLE = of((SCORES, LABELS)).result()


def test_the_figures_are_those_of_a_file(tmp_path):
    np.savez(tmp_path / "p.npz", logits=SCORES, label=LABELS)
    assert without_places(WHOLE.to_dict()) == without_places(lossless.evaluate(tmp_path / "p.npz").to_dict())


MARKS = RNG.integers(0, 2, (600, 7))
MARKS[RNG.random((600, 7)) < 0.5] = 0
TASKS = {
    "binary": (SCORES[:, 0], LABELS % 2, {"logits": SCORES[:, 0], "label": LABELS % 2}),
    "multilabel": (SCORES, MARKS, {"logits": SCORES, "label": MARKS}),
    "regression": (SCORES, SCORES + 1.5 * MARKS, {"predictions": SCORES, "target": SCORES + 1.5 * MARKS}),
}


@pytest.mark.parametrize("task", TASKS)
def test_other_tasks(tmp_path, task):
    scores, labels, arrays = TASKS[task]
    np.savez(tmp_path / "p.npz", **arrays)
    e = lossless.evaluate(tmp_path / "p.npz")
    assert e.source.task == task
    updates, file = of((scores, labels), task=task).result().to_dict(), e.to_dict()
    assert without_places(updates) == without_places(file)
    ranks = [of(batch, task=task) for batch in zip(np.split(scores, [3, 250]), np.split(labels, [3, 250]), strict=True)]
    for rank in ranks[1:]:
        ranks[0].merge(rank)
    assert without_places(ranks[0].result().to_dict()) == without_places(updates)


def test_other_tasks_agree_with_pytorch():
    torch = pytest.importorskip("torch")
    x, y = SCORES[20:100], MARKS[20:100].astype(np.float64)
    bce = torch.nn.functional.binary_cross_entropy_with_logits(torch.from_numpy(x).double(), torch.from_numpy(y))
    assert of((x, y), task="multilabel").result().bce == pytest.approx(bce.item(), rel=1e-12)
    binary = of((x, y), task="binary").result()  # each number is a row
    assert (binary.rows, binary.nll) == (560, pytest.approx(bce.item(), rel=1e-12))
    assert of((x[:, 0], y[:, 0]), task="regression").result().mse == pytest.approx(((x - y)[:, 0] ** 2).mean())


def test_agrees_with_scikit_learn():
    kept = (LABELS >= 0) & np.isfinite(SCORES).all(1)
    p = np.exp(SCORES[kept].astype(np.float64))
    p /= p.sum(1, keepdims=True)
    assert WHOLE.rows == kept.sum()
    assert WHOLE.nll == pytest.approx(log_loss(LABELS[kept], p, labels=range(7)), rel=1e-12)
    assert WHOLE.accuracy == accuracy_score(LABELS[kept], p.argmax(1))
    assert WHOLE.left_out == {"missing": 0, "ignored": int((LABELS < 0).sum()), "no_distribution": 1}


@pytest.mark.parametrize("cuts", [[1], [599], [0, 600], [3, 4, 103, 350], list(range(0, 600, 37))])
def test_same_bits_however_the_rows_are_cut(cuts):
    batches = list(zip(np.split(SCORES, cuts), np.split(LABELS, cuts), strict=True))
    assert of(*batches).result().to_dict() == WHOLE.to_dict()


@pytest.mark.parametrize("cuts", [[1], [599], [0, 101], [3, 102, 350], list(range(0, 600, 37))])
def test_ranks_merge_to_the_figures_of_all_rows(cuts):
    ranks = [of(batch) for batch in zip(np.split(SCORES, cuts), np.split(LABELS, cuts), strict=True)]
    sent = [pickle.loads(pickle.dumps(rank)) for rank in ranks]  # as torch.distributed.all_gather_object does
    before = [rank.result().to_dict() for rank in sent[1:] if rank.rows]
    total = sent[0]
    for rank in sent[1:]:
        total.merge(rank)
    assert total.rows == 600
    assert total.result().to_dict() == WHOLE.to_dict()
    assert [rank.result().to_dict() for rank in sent[1:] if rank.rows] == before  # the others stay as they were


def test_merge_in_a_tree_and_updates_after_it():
    a, b, c = (of((SCORES[i : i + 150], LABELS[i : i + 150])) for i in (0, 150, 300))
    b.merge(c)
    a.merge(b)
    a.update(SCORES[450:], LABELS[450:])
    assert a.result().to_dict() == WHOLE.to_dict()


@pytest.fixture
def threads():
    """Sets the number of threads for one test."""
    before = lossless.get_num_threads()
    yield lossless.set_num_threads
    lossless.set_num_threads(before)


@pytest.mark.parametrize("task", ["multiclass", *TASKS])
def test_same_bits_on_any_number_of_threads(threads, monkeypatch, task):
    monkeypatch.setattr("lossless._evaluate.evaluator.block_rows", lambda scores: 64)  # ten blocks
    scores, labels, _ = TASKS.get(task, (SCORES, LABELS, None))
    found = set()
    for count in (1, 2, 3, 16):
        threads(count)
        found.add(of((scores, labels), (scores[:100], labels[:100]), task=task).result().to_json())
        assert lossless.get_num_threads() in (count, 1)
    assert len(found) == 1


def test_threads_report_the_first_of_several_errors(threads, monkeypatch):
    monkeypatch.setattr("lossless._evaluate.evaluator.block_rows", lambda scores: 64)
    p = lossless.softmax(np.where(np.isnan(SCORES), 0.0, SCORES))
    p[[150, 550], 2] = -0.5
    threads(4)
    with pytest.raises(EvaluationError, match=r"row 150 holds -0\.5 for class 2"):
        of((p, LABELS), kind="probs")
    assert lossless.get_num_threads() in (4, 1)


def test_findings_name_rows_of_all_updates():
    evaluator = of((SCORES[:10], LABELS[:10]), (SCORES[10:30], LABELS[10:30]))
    assert any("first: row 17 of updates" in finding.evidence for finding in evaluator.result().findings)


def test_ranks_of_more_rows_together_than_a_sample():
    x, y = RNG.normal(size=(400_000, 2)), RNG.integers(0, 2, 400_000)
    x[np.arange(400_000), y] += 1
    batches = list(zip(np.split(x, [200_000, 300_000]), np.split(y, [200_000, 300_000]), strict=True))
    first, *others = (of(batch) for batch in batches)
    for other in others:
        first.merge(other)
    assert first.result().to_dict() == of(*batches).result().to_dict()


def test_a_sample_of_a_rank_that_left_rows_out_stays_fair():
    x, y = RNG.normal(size=(600_000, 2)), RNG.integers(0, 2, 600_000)
    x[np.arange(600_000), y] += 1
    first, second = (of((x[i::2], y[i::2])) for i in range(2))
    whole = of((x[::2], y[::2]), (x[1::2], y[1::2])).result().to_dict()
    first.merge(second)
    merged = first.result().to_dict()
    fitted, expected = merged.pop("temperature"), whole.pop("temperature")
    assert fitted["value"] == pytest.approx(expected["value"], rel=1e-2)
    assert merged == whole


def test_images_flatten_as_cross_entropy_does():
    torch = pytest.importorskip("torch")
    x, y = RNG.normal(size=(3, 4, 5, 2)), RNG.integers(0, 4, (3, 5, 2))
    e = of((x, y)).result()
    assert e.rows == 30
    assert e.nll == pytest.approx(torch.nn.functional.cross_entropy(*map(torch.from_numpy, (x, y))).item(), rel=1e-12)
    rows = np.moveaxis(x, 1, -1).reshape(-1, 4), y.reshape(-1)
    assert of(rows).result().to_dict() == e.to_dict()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_tensors_of_any_dtype(dtype):
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(SCORES).to(getattr(torch, dtype)).requires_grad_()
    y = torch.from_numpy(LABELS)
    expected = of((x.detach().double().numpy(), LABELS)).result().to_dict()
    assert of((x * 1, y)).result().to_dict() == expected
    assert of((x.detach()[::2], y[::2].int()), (x[1::2], y.numpy()[1::2])).result().rows == WHOLE.rows


def test_lists_and_probabilities():
    e = of(([[0.5, 0.25, 0.25], [0.0, 1.0, 0.0]], [0, 2]), kind="probs").result()
    assert (e.rows, e.accuracy, e.infinite) == (2, 0.5, 1)
    assert e.source.kind == "probs"
    assert of(([[2.0, 0.0]], [True])).result().accuracy == 0.0


def test_class_names_ignored_labels_and_surprising():
    evaluator = of((SCORES, np.where(LABELS < 0, 3, LABELS)), class_names=list("abcdefg"), ignore_index=3, surprising=2)
    e = evaluator.result()
    assert e.source.class_name(6) == "g"
    assert e.left_out["ignored"] == np.isin(LABELS, (3, -100)).sum()
    assert len(e.surprising) == 2


def test_reset():
    evaluator = of((SCORES[:, :3], LABELS.clip(0, 2)))
    evaluator.reset()
    evaluator.update(SCORES, LABELS)
    assert evaluator.result().to_dict() == WHOLE.to_dict()


def test_nothing_yet():
    evaluator = lossless.Evaluator()
    with pytest.raises(EvaluationError, match="no rows yet"):
        evaluator.result()
    evaluator.merge(lossless.Evaluator())
    evaluator.update(np.zeros((0, 4)), np.zeros(0, int))
    with pytest.raises(EvaluationError, match="none of the 0 rows"):
        evaluator.result()


X, Y = np.zeros((4, 3)), np.zeros(4, int)


@pytest.mark.parametrize(
    ("scores", "labels", "error", "message"),
    [
        (np.zeros(3), 0, ShapeError, r"scores has shape \[3\], expected \(rows, classes\)"),
        (np.zeros((4, 1)), Y, ShapeError, "with 2 or more classes"),
        (np.zeros((4, 5)), Y, ShapeError, "scores has 5 classes .* expected 3"),
        (X, np.zeros(3, int), ShapeError, r"labels has shape \[3\], expected \[4\]"),
        (X, np.zeros((4, 1), int), ShapeError, r"labels has shape \[4, 1\], expected \[4\]"),
        (X, np.zeros((4, 3), int), ShapeError, "argmax over dimension 1"),
        (X, np.zeros(4), TargetDtypeError, "labels has dtype float64, expected whole numbers"),
        (X.astype(int), Y, LogitsDtypeError, "scores has dtype int64"),
        (X, [0, 1, 2, 3], EvaluationError, r"runs from 0 to 3, expected 0\.\.2 .* first 3 at row 7"),
        (X, [1, 2, 3, 1], EvaluationError, "look 1-based"),
        (X, [0, 1, -1, 0], EvaluationError, "-1"),
        (None, Y, TypeError, "scores"),
        (X, None, TypeError, "labels"),
        ([[1.0, 2.0], [3.0]], [0, 0], ShapeError, "rows differ in length"),
    ],
)
def test_errors_leave_the_evaluator_as_it_was(scores, labels, error, message):
    evaluator = of((X, Y))
    before = pickle.dumps(evaluator)
    with pytest.raises(error, match=message):
        evaluator.update(scores, labels)
    assert pickle.dumps(evaluator) == before


@pytest.mark.parametrize(
    ("task", "labels", "error", "message"),
    [
        ("binary", Y, ShapeError, r"labels has shape \[4\], expected \[4, 3\]: one for each score"),
        ("binary", X + 2, EvaluationError, r"expected 0\.\.1"),
        ("multilabel", X + 0.5, EvaluationError, "expected 0 or 1 for each class"),
        ("multilabel", Y, ShapeError, r"expected \[4, 3\]"),
        ("regression", X[:, :1], ShapeError, r"labels has shape \[4, 1\], expected \[4, 3\]"),
        ("regression", X * 1j, TargetDtypeError, "expected real numbers"),
    ],
)
def test_labels_that_do_not_fit_the_task(task, labels, error, message):
    with pytest.raises(error, match=message):
        of((X, labels), task=task)


def test_a_negative_probability_leaves_no_rows_behind():
    p = np.full((100_000, 4), 0.25)  # several blocks, of which only the last is bad
    p[-1, 2] = -0.25
    evaluator = lossless.Evaluator("probs")
    with pytest.raises(EvaluationError, match=r"row 99999 holds -0\.25 for class 2"):
        evaluator.update(p, np.zeros(100_000, int))
    assert evaluator.rows == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "softmax"}, "kind got 'softmax', expected one of 'logits', 'probs', 'log-probs'"),
        ({"classes": 1}, "classes got 1, expected 2 or more"),
        ({"task": "ranking"}, "task got 'ranking', expected one of 'multiclass', 'binary', 'multilabel', 'regression'"),
        ({"task": "binary", "classes": 3}, "classes got 3, expected 2"),
        ({"task": "regression", "kind": "logits"}, "kind got 'logits', expected None for a regression"),
        ({"class_names": ["a", "a"]}, r"2 names \(1 different\), expected 2"),
        ({"class_names": ["a", "b"], "classes": 3}, "expected 3"),
        ({"surprising": -1}, "surprising got -1"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ParameterError, match=message):
        lossless.Evaluator(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "probs"}, "kind is logits here and probs there"),
        ({"task": "multilabel"}, "task is multiclass here and multilabel there"),
        ({"ignore_index": -1}, "ignore_index is -100 here and -1 there"),
        ({"classes": 4}, "classes is 3 here and 4 there"),
        ({"surprising": 3}, "surprising is 20 here and 3 there"),
        ({"class_names": "abc"}, "class_names is None here"),
    ],
)
def test_evaluators_of_other_settings_do_not_merge(options, message):
    evaluator = of((X, Y))
    with pytest.raises(ParameterError, match=message):
        evaluator.merge(lossless.Evaluator(**options))
    with pytest.raises(ParameterError, match="got dict, expected an Evaluator"):
        evaluator.merge({})


def test_imports_no_torch():
    code = """
import sys, lossless
evaluator = lossless.Evaluator()
evaluator.update([[1.0, 2.0]], [0])
evaluator.result()
print("torch" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
