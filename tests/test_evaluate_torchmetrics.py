"""Figures of predictions of real classifiers and regressions against torchmetrics, where it has them."""

import math

import numpy as np
import pytest
import scipy.special
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_linnerud
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.naive_bayes import GaussianNB

import lossless

torch = pytest.importorskip("torch")
pytest.importorskip("torchmetrics")

import torchmetrics.functional as tm  # noqa: E402
import torchmetrics.functional.classification as tmc  # noqa: E402
import torchmetrics.functional.text as tmt  # noqa: E402

AVERAGES = ("macro", "weighted")
FLOAT32 = 2e-6  # torchmetrics sums in float32 whatever it is given


def near(value, rel=1e-12, **tolerance):
    return pytest.approx(np.asarray(value).tolist(), rel=rel, **tolerance)


def held_out(load, model):
    """A fitted model, and the half of the rows that it has not seen."""
    x, y = load(return_X_y=True)
    return model.fit(x[::2], y[::2]), x[1::2], y[1::2]


@pytest.fixture(scope="module", params=["logistic", "bayes"])
def digits(request):
    """Log-probabilities of ten classes, and labels: a fair model, and one that is far too sure."""
    model = {"logistic": LogisticRegression(C=1e-4, max_iter=500), "bayes": GaussianNB(var_smoothing=0.1)}
    fitted, x, y = held_out(load_digits, model[request.param])
    return fitted.predict_log_proba(x), y


@pytest.fixture(scope="module")
def cancer():
    """Log-odds of one of two classes."""
    fitted, x, y = held_out(load_breast_cancer, LogisticRegression(C=1e-4, max_iter=5000))
    return fitted.decision_function(x), y


@pytest.fixture(scope="module")
def strokes():
    """Log-odds of three questions about a digit, and the answers."""
    x, y = load_digits(return_X_y=True)
    truth = np.stack([y % 2 == 0, y >= 5, np.isin(y, (0, 6, 8, 9))], axis=1)
    odds = [LogisticRegression(C=1e-3, max_iter=500).fit(x[::2], t[::2]).decision_function(x[1::2]) for t in truth.T]
    return np.stack(odds, axis=1), truth[1::2].astype(np.int64)


def figures(path, **columns):
    np.savez(path / "p.npz", **columns)
    return lossless.evaluate(path / "p.npz")


# ---------------------------------------------------------------- one class of several


def test_counts_of_classes(tmp_path, digits):
    log_p, y = digits
    e = figures(tmp_path, log_probs=log_p, label=y)
    guess, truth = torch.tensor(log_p).exp(), torch.tensor(y)
    assert e.accuracy == near(tmc.multiclass_accuracy(guess, truth, 10, average="micro"), FLOAT32)
    for k in (2, 3, 5):
        found = tmc.multiclass_accuracy(guess, truth, 10, average="micro", top_k=k)
        assert e.top_k_accuracy(k) == near(found, FLOAT32)
    assert e.confusion_matrix == tuple(map(tuple, tmc.multiclass_confusion_matrix(guess, truth, 10).tolist()))
    for name, metric in (
        ("precision", tmc.multiclass_precision),
        ("recall", tmc.multiclass_recall),
        ("f1", tmc.multiclass_f1_score),
    ):
        assert [getattr(c, name) for c in e.classes] == near(metric(guess, truth, 10, average=None), FLOAT32)
        for average in AVERAGES:
            assert getattr(getattr(e, average), name) == near(metric(guess, truth, 10, average=average), FLOAT32)


def test_classes_that_do_not_occur_are_left_out_of_macro_averages(tmp_path):
    """Both leave out a class that is neither true nor predicted; one that is predicted alone counts as 0."""
    labels, scores = np.array([0, 0, 1, 1, 2]), 2 * np.eye(5)[[0, 1, 1, 1, 3]]
    e = figures(tmp_path, logits=scores, label=labels)
    guess, truth = torch.tensor(scores), torch.tensor(labels)
    for name, metric in (("precision", tmc.multiclass_precision), ("f1", tmc.multiclass_f1_score)):
        assert getattr(e.macro, name) == near(metric(guess, truth, 5, average="macro"), FLOAT32)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_calibration_errors(tmp_path, digits, dtype):
    log_p, y = digits
    p = np.exp(log_p).astype(dtype)
    e = figures(tmp_path, probs=p, label=y)
    guess, truth = torch.tensor(p), torch.tensor(y)
    for norm, value in (("l1", e.calibration_error), ("max", e.max_calibration_error)):
        assert value == near(tmc.multiclass_calibration_error(guess, truth, 10, n_bins=15, norm=norm), 1e-5)


def test_perplexity(tmp_path, digits):
    log_p, y = digits
    e = figures(tmp_path, logits=log_p, label=y)
    assert e.perplexity == near(tmt.perplexity(torch.tensor(log_p)[None], torch.tensor(y)[None]))


def test_probabilities_that_round_to_zero_are_none_here(tmp_path):
    """torchmetrics takes the logarithm of probabilities, which are 0 for logits that are far apart."""
    logits, labels = np.array([[0.0, 800.0], [3.0, 0.0]]), np.array([0, 0])
    assert tmt.perplexity(torch.tensor(logits)[None], torch.tensor(labels)[None]) == math.inf
    assert figures(tmp_path, logits=logits, label=labels).perplexity == near(
        math.exp((800 + math.log1p(math.exp(-3))) / 2)
    )


# ---------------------------------------------------------------- two classes


def test_two_classes(tmp_path, cancer):
    odds, y = cancer
    p = scipy.special.expit(odds)
    e = figures(tmp_path, prob=p, label=y)
    guess, truth = torch.tensor(p), torch.tensor(y)
    assert e.accuracy == near(tmc.binary_accuracy(guess, truth), FLOAT32)
    assert e.positive.auroc == near(tmc.binary_auroc(guess, truth), FLOAT32)
    assert e.positive.average_precision == near(tmc.binary_average_precision(guess, truth), FLOAT32)
    precision, recall, thresholds = tmc.binary_precision_recall_curve(guess, truth)
    f1 = 2 * precision * recall / (precision + recall)
    assert e.positive.best_f1.f1 == near(f1.max(), FLOAT32)
    assert e.positive.best_f1.probability == near(thresholds[f1[:-1].argmax()])
    assert e.positive.calibration_error == near(tmc.binary_calibration_error(guess, truth, n_bins=15), 1e-5)
    for name, metric in (
        ("precision", tmc.binary_precision),
        ("recall", tmc.binary_recall),
        ("f1", tmc.binary_f1_score),
    ):
        assert getattr(e.classes[1], name) == near(metric(guess, truth), FLOAT32)


# ---------------------------------------------------------------- any number of classes


def test_several_classes_a_row(tmp_path, strokes):
    odds, truth = strokes
    e = figures(tmp_path, logits=odds, labels=truth)
    guess, marks = torch.tensor(scipy.special.expit(odds)), torch.tensor(truth)
    assert e.exact_match == near(tmc.multilabel_exact_match(guess, marks, 3), FLOAT32)
    assert e.hamming_loss == near(tmc.multilabel_hamming_distance(guess, marks, 3, average="micro"), FLOAT32)
    for name, metric in (
        ("precision", tmc.multilabel_precision),
        ("recall", tmc.multilabel_recall),
        ("f1", tmc.multilabel_f1_score),
    ):
        assert [getattr(c, name) for c in e.classes] == near(metric(guess, marks, 3, average=None), FLOAT32)
        for average in ("micro", *AVERAGES):
            assert getattr(getattr(e, average), name) == near(metric(guess, marks, 3, average=average), FLOAT32)
    for name, metric in (("auroc", tmc.multilabel_auroc), ("average_precision", tmc.multilabel_average_precision)):
        assert [getattr(c, name) for c in e.classes] == near(metric(guess, marks, 3, average=None), FLOAT32)
        assert getattr(e, f"micro_{name}") == near(metric(guess, marks, 3, average="micro"), FLOAT32)
    assert e.macro_auroc == near(tmc.multilabel_auroc(guess, marks, 3, average="macro"), FLOAT32)
    assert e.mean_average_precision == near(tmc.multilabel_average_precision(guess, marks, 3), FLOAT32)


@pytest.mark.filterwarnings("ignore:No positive samples")
def test_classes_without_marks_count_in_macro_averages(tmp_path):
    """The second is neither true nor predicted, the third is predicted alone."""
    truth = np.array([[1, 0, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0]])
    odds = np.array([[1.0, -1, 2], [2, -1, -3], [1, -2, -1], [-1, -2, -1]])
    np.savez(tmp_path / "p.npz", logits=odds, labels=truth)
    e = lossless.evaluate(tmp_path / "p.npz", task="multilabel")
    guess, marks = torch.tensor(odds).sigmoid(), torch.tensor(truth)
    assert e.macro.precision == near(tmc.multilabel_precision(guess, marks, 3), FLOAT32)
    assert e.macro.f1 == near(tmc.multilabel_f1_score(guess, marks, 3), FLOAT32)
    assert math.isnan(e.classes[2].auroc)
    assert tmc.multilabel_auroc(guess, marks, 3, average=None)[2] == 0


# ---------------------------------------------------------------- quantities


@pytest.mark.parametrize("load", [load_diabetes, load_linnerud])
def test_quantities(tmp_path, load):
    model, x, y = held_out(load, LinearRegression())
    predictions = model.predict(x)
    e = figures(tmp_path, predictions=predictions, target=y)
    guess, truth = torch.tensor(predictions), torch.tensor(y)
    assert e.mse == near(tm.mean_squared_error(guess, truth))
    assert e.rmse == near(tm.mean_squared_error(guess, truth, squared=False))
    assert e.mae == near(tm.mean_absolute_error(guess, truth))
    assert e.r2 == near(tm.r2_score(guess, truth, multioutput="uniform_average"))
    assert e.explained_variance == near(tm.explained_variance(guess, truth, multioutput="uniform_average"))
    if y.ndim == 2:
        assert [o.mse for o in e.outputs] == near(tm.mean_squared_error(guess, truth, num_outputs=3))
        assert [o.r2 for o in e.outputs] == near(tm.r2_score(guess, truth, multioutput="raw_values"))
