"""Every figure against scikit-learn and SciPy on real predictions, and the same bits however the work is cut."""

import contextlib
import json
import math
import pickle

import numpy as np
import pytest
import scipy.special
import scipy.stats
from sklearn.calibration import calibration_curve
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, precision_recall_fscore_support
from sklearn.naive_bayes import GaussianNB

import lossless._evaluate.readers as readers
import lossless._evaluate.rows as rows
from lossless._config import get_num_threads, set_num_threads
from lossless._evaluate import evaluate
from lossless._evaluate.accumulators import Largest
from lossless._evaluate.engine import one_native_thread
from lossless._evaluate.rows import Kind, score_rows

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.fixture(scope="module")
def digits():
    """Logits and labels of held-out digits."""
    x, y = load_digits(return_X_y=True)
    model = LogisticRegression(max_iter=300).fit(x[::2], y[::2])
    return model.decision_function(x[1::2]), y[1::2]


def write(path, scores, labels, name="logits", group=100):
    scores = np.asarray(scores)
    column = pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), scores.shape[1])
    pq.write_table(pa.table({name: column, "label": pa.array(labels)}), path, row_group_size=group)
    return path


def test_agrees_with_scikit_learn_and_scipy(tmp_path, digits):
    logits, y = digits
    p = scipy.special.softmax(logits, axis=1)
    e = evaluate(write(tmp_path / "p.parquet", logits, y))
    assert e.rows == len(y)
    assert e.nll == pytest.approx(log_loss(y, p), rel=1e-12)
    assert e.bits == pytest.approx(log_loss(y, p) / math.log(2), rel=1e-12)
    assert e.perplexity == pytest.approx(math.exp(log_loss(y, p)), rel=1e-12)
    assert e.accuracy == accuracy_score(y, p.argmax(1))
    assert e.entropy == pytest.approx(scipy.stats.entropy(p, axis=1).mean(), rel=1e-11)
    assert e.confidence == pytest.approx(p.max(1).mean(), rel=1e-12)
    # ours is Brier's own sum over the classes; scikit-learn halves it only if asked to
    assert e.brier == pytest.approx(brier_score_loss(y, p, scale_by_half=False), rel=1e-12)


def test_classes_agree_with_scikit_learn(tmp_path, digits):
    logits, y = digits
    guess = logits.argmax(1)
    e = evaluate(write(tmp_path / "p.parquet", logits, y))
    precision, recall, f1, support = precision_recall_fscore_support(y, guess)
    row_loss = -scipy.special.log_softmax(logits, axis=1)[np.arange(len(y)), y]
    for c in e.classes:
        assert (c.precision, c.recall) == (precision[c.index], recall[c.index])
        assert c.f1 == pytest.approx(f1[c.index], rel=1e-15)
        assert (c.support, c.predicted) == (support[c.index], np.sum(guess == c.index))
        assert c.nll == pytest.approx(row_loss[y == c.index].mean(), rel=1e-11)
    for name, average in (("macro", e.macro), ("weighted", e.weighted)):
        expected = precision_recall_fscore_support(y, guess, average=name)[:3]
        assert (average.precision, average.recall, average.f1) == pytest.approx(expected, rel=1e-14)


def test_undefined_figures_of_a_class(tmp_path):
    # class 1 has rows but is never predicted, class 2 is predicted but has none, class 3 does not occur
    scores = np.array([[3.0, 0, 0, 0], [3, 0, 0, 0], [0, 0, 3, 0]])
    e = evaluate(write(tmp_path / "p.parquet", scores, [0, 1, 0]))
    assert [c.index for c in e.classes] == [0, 1, 2]
    assert math.isnan(e.classes[1].precision)
    assert math.isnan(e.classes[2].recall)
    assert math.isnan(e.classes[2].nll)
    expected = precision_recall_fscore_support([0, 1, 0], [0, 0, 2], average="macro", zero_division=0)[:3]
    assert (e.macro.precision, e.macro.recall, e.macro.f1) == pytest.approx(expected)
    # a loss have only the classes that occur as labels
    assert e.macro.nll == pytest.approx((e.classes[0].nll + e.classes[1].nll) / 2, rel=1e-15)
    assert e.weighted.nll == e.nll != e.macro.nll


def test_reliability_bins(tmp_path, digits):
    logits, y = digits
    p = scipy.special.softmax(logits / 8, axis=1)  # softened, so that many bins hold rows
    hit, confidence = p.argmax(1) == y, p.max(1)
    e = evaluate(write(tmp_path / "p.parquet", logits / 8, y))
    accuracy, mean_confidence = calibration_curve(hit, confidence, n_bins=15)
    held = [b for b in e.reliability if b.count]
    assert [b.accuracy for b in held] == pytest.approx(accuracy, rel=1e-14)
    assert [b.confidence for b in held] == pytest.approx(mean_confidence, rel=1e-13)
    assert sum(b.count for b in held) == len(y)
    weight = np.array([b.count for b in held]) / len(y)
    assert e.calibration_error == pytest.approx((weight * np.abs(accuracy - mean_confidence)).sum(), rel=1e-12)


def test_confidence_on_an_edge_belongs_to_the_lower_bin(tmp_path):
    p = np.array([[0.6, 0.4], [0.8, 0.2], [1.0, 0.0]])
    e = evaluate(write(tmp_path / "p.parquet", p, [0, 0, 0], name="probs"))
    # 0.6 is 9/15 and 0.8 is 12/15, give or take a rounding of log and softmax; 1 is in the last bin
    assert e.reliability[14].count == 1
    assert sum(b.count for b in e.reliability) == 3


def test_loss_histogram(tmp_path, digits):
    logits, y = digits
    row_loss = -scipy.special.log_softmax(logits, axis=1)[np.arange(len(y)), y]
    e = evaluate(write(tmp_path / "p.parquet", logits, y))
    assert sum(b.count for b in e.loss_histogram) == len(y)
    for b in e.loss_histogram[60:]:  # above 1e-11, where SciPy's losses are good enough to count
        assert b.count == np.sum((row_loss >= b.low) & (row_loss < b.high))


def test_most_surprising_rows(tmp_path, digits):
    logits, y = digits
    row_loss = -scipy.special.log_softmax(logits, axis=1)[np.arange(len(y)), y]
    e = evaluate(write(tmp_path / "p.parquet", logits, y), surprising=7)
    assert [r.row for r in e.surprising] == np.argsort(-row_loss, kind="stable")[:7].tolist()
    assert e.surprising[0].nll == pytest.approx(row_loss.max())
    assert e.surprising[0].confidence == pytest.approx(scipy.special.softmax(logits, axis=1)[e.surprising[0].row].max())


def test_equally_surprising_rows_come_in_row_order(tmp_path):
    scores = np.tile([[0.0, 2.0]], (300, 1))
    e = evaluate(write(tmp_path / "p.parquet", scores, np.zeros(300, int), group=17), surprising=5, workers=2)
    assert [r.row for r in e.surprising] == [0, 1, 2, 3, 4]
    assert evaluate(tmp_path / "p.parquet", surprising=0).surprising == ()


def test_confident_rows_keep_their_loss(tmp_path):
    # the README's example: float32 gives exactly 0 here
    e = evaluate(write(tmp_path / "p.parquet", np.array([[20.0, 0.0]] * 4, np.float32), [0] * 4))
    assert e.nll == pytest.approx(2.0611536181902037e-09, rel=1e-15)
    assert e.brier == pytest.approx(2 * 2.0611536160661e-09**2, rel=1e-9)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_probabilities_and_log_probabilities_say_what_logits_say(tmp_path, digits, dtype):
    logits, y = digits
    logits = (logits / 4).astype(dtype).astype(np.float64)
    p, log_p = scipy.special.softmax(logits, axis=1), scipy.special.log_softmax(logits, axis=1)
    from_logits = evaluate(write(tmp_path / "a.parquet", logits.astype(dtype), y))
    from_probs = evaluate(write(tmp_path / "b.parquet", p.astype(dtype), y, name="probs"))
    from_logs = evaluate(write(tmp_path / "c.parquet", log_p.astype(dtype), y, name="log_probs"))
    tolerance = {np.float16: 2e-2, np.float32: 1e-5, np.float64: 1e-12}[dtype]
    assert (from_logits.source.kind, from_probs.source.kind, from_logs.source.kind) == ("logits", "probs", "log-probs")
    for other in (from_probs, from_logs):
        assert other.nll == pytest.approx(from_logits.nll, rel=tolerance)
        assert other.calibration_error == pytest.approx(from_logits.calibration_error, abs=tolerance)


def test_no_row_has_a_finite_loss(tmp_path):
    np.savez(tmp_path / "p.npz", probs=[[1.0, 0.0], [0.0, 1.0]], label=[1, 0])
    (finding,) = (f for f in evaluate(tmp_path / "p.npz").findings if f.name == "zero-probability")
    assert finding.evidence.endswith("; no row has a finite one")
    np.savez(tmp_path / "m.npz", probs=[[1.0, 0.0], [0.0, 1.0]], labels=[[0, 1], [1, 0]])
    notes = evaluate(tmp_path / "m.npz", task="multilabel").notes
    assert any(note.endswith("; no row has a finite one") for note in notes)


def test_probability_zero_for_the_label_is_an_infinite_loss_and_said(tmp_path):
    p = np.array([[1.0, 0.0], [0.5, 0.5], [1.0, 0.0]])
    e = evaluate(write(tmp_path / "p.parquet", p, [1, 0, 0], name="probs"))
    assert e.nll == math.inf
    assert e.perplexity == math.inf
    assert e.infinite == 1
    assert [f.name for f in e.findings] == ["zero-probability"]
    assert "1 rows give their label probability 0" in e.findings[0].evidence
    assert "0.346574" in e.findings[0].evidence
    assert e.surprising[0].nll == math.inf
    assert json.loads(e.to_json())["nll"] == "Infinity"


def test_same_bits_for_any_workers_batches_and_partitions(tmp_path, digits, monkeypatch):
    logits, y = digits
    reference = evaluate(write(tmp_path / "p.parquet", logits, y, group=64), workers=1).to_dict()
    assert evaluate(tmp_path / "p.parquet", workers=2).to_dict() == reference
    assert evaluate(tmp_path / "p.parquet", workers=5).to_dict() == reference
    write(tmp_path / "p.parquet", logits, y, group=1000)
    assert evaluate(tmp_path / "p.parquet").to_dict() == reference
    for scores in (10, 70, 1010, 4097):  # one row at a time, and sizes that do not divide the rows
        monkeypatch.setattr(readers, "_BATCH_SCORES", scores)
        monkeypatch.setattr(rows, "_BLOCK_SCORES", max(10, scores // 3))
        assert evaluate(tmp_path / "p.parquet", workers=2).to_dict() == reference


def test_the_number_of_threads_comes_back_when_the_last_run_leaves():
    before = get_num_threads()
    set_num_threads(3)
    try:
        with one_native_thread:
            with one_native_thread:
                assert get_num_threads() == 1
            assert get_num_threads() == 1
            first = contextlib.ExitStack()
            first.enter_context(one_native_thread)
        assert get_num_threads() == 1  # the first to enter has left, another has not
        first.close()
        assert get_num_threads() == 3
    finally:
        set_num_threads(before)


def test_several_files_are_one_input(tmp_path, digits):
    logits, y = digits
    whole = evaluate(write(tmp_path / "all.parquet", logits, y))
    parts = [write(tmp_path / f"{i}.parquet", logits[i::3], y[i::3]) for i in range(3)]
    e = evaluate(parts, workers=2)
    assert e.scalars() == whole.scalars()
    assert {r.file for r in e.surprising} <= {str(p) for p in parts}


def test_accumulators_travel_between_processes(digits):
    logits, y = digits
    scored = score_rows(0, np.arange(len(y)), logits, y, Kind.LOGITS)
    kept = Largest(3, "nll", ("label", "confidence"))
    kept.update(scored)
    assert pickle.loads(pickle.dumps(kept)).result() == kept.result()


def test_scalars_are_flat_numbers(tmp_path, digits):
    scalars = evaluate(write(tmp_path / "p.parquet", *digits)).scalars()
    assert all(isinstance(v, int | float) for v in scalars.values())
    assert {"nll", "accuracy", "brier", "calibration_error", "macro_f1"} <= set(scalars)


def test_fortran_ordered_probabilities_of_a_real_model(tmp_path):
    # GaussianNB returns its probabilities column by column
    x, y = load_digits(return_X_y=True)
    p = GaussianNB().fit(x[::2], y[::2]).predict_proba(x[1::2])
    assert p.flags.f_contiguous
    np.savez(tmp_path / "p.npz", probs=p, label=y[1::2])
    e = evaluate(tmp_path / "p.npz")
    assert e.accuracy == accuracy_score(y[1::2], p.argmax(1))
    assert e.nll == pytest.approx(log_loss(y[1::2], p), rel=1e-12) or e.nll == math.inf
