"""Binary, multilabel and regression, inferred or asked for: figures against scikit-learn, same bits for any cut."""

import json
import math

import numpy as np
import pytest
import scipy.special
from sklearn import metrics
from sklearn.calibration import calibration_curve
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from sklearn.linear_model import LinearRegression, LogisticRegression

import lossless
import lossless._evaluate.readers as readers
import lossless._evaluate.rows as rows
from lossless._evaluate import evaluate
from lossless._evaluate.sums import SquareSum
from lossless._report import build_page
from lossless._report.page import render
from lossless.errors import EvaluationError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

RNG = np.random.default_rng(8)


def write(path, group=50, **columns):
    arrays = {
        name: pa.FixedSizeListArray.from_arrays(pa.array(np.ravel(v)), v.shape[1]) if np.ndim(v) == 2 else pa.array(v)
        for name, v in columns.items()
    }
    pq.write_table(pa.table(arrays), path, row_group_size=group)
    return path


@pytest.fixture(scope="module")
def cancer():
    """Log-odds, and labels of held-out tumours."""
    x, y = load_breast_cancer(return_X_y=True)
    model = LogisticRegression(max_iter=5000, C=1e-3).fit(x[::2], y[::2])
    return model.decision_function(x[1::2]), y[1::2].astype(np.int64)


@pytest.fixture(scope="module")
def strokes():
    """Log-odds of three questions about digits that do not exclude one another, and the answers."""
    x, y = load_digits(return_X_y=True)
    truth = np.stack([y % 2 == 0, y >= 5, np.isin(y, (0, 6, 8, 9)), y == 11], axis=1)
    odds = [LogisticRegression(max_iter=500).fit(x[::2], t[::2]).decision_function(x[1::2]) for t in truth.T[:3]]
    return np.stack([*odds, np.full(len(odds[0]), -5.0)], axis=1), truth[1::2]


@pytest.fixture(scope="module")
def diabetes():
    x, y = load_diabetes(return_X_y=True)
    return LinearRegression().fit(x[::2], y[::2]).predict(x[1::2]), y[1::2]


# ---------------------------------------------------------------- binary


@pytest.mark.parametrize("kind", ["logit", "prob", "log_prob"])
def test_binary_agrees_with_scikit_learn(tmp_path, cancer, kind):
    odds, y = cancer
    p = scipy.special.expit(odds)
    scores = {"logit": odds, "prob": p, "log_prob": scipy.special.log_expit(odds)}[kind]
    e = evaluate(write(tmp_path / "p.parquet", label=y, **{kind: scores}))
    assert (e.source.task, e.source.classes, e.rows) == ("binary", 2, len(y))
    assert e.nll == pytest.approx(metrics.log_loss(y, p), rel=1e-10)
    assert e.accuracy == metrics.accuracy_score(y, odds > 0)
    assert e.brier == pytest.approx(2 * metrics.brier_score_loss(y, p), rel=1e-10)
    assert e.positive.auroc == pytest.approx(metrics.roc_auc_score(y, odds), rel=1e-12)
    assert e.positive.average_precision == pytest.approx(metrics.average_precision_score(y, odds), rel=1e-12)
    assert e.bounds["positive.auroc"] == 0.0
    precision, recall, thresholds = metrics.precision_recall_curve(y, p)
    f1 = 2 * precision * recall / (precision + recall)
    assert e.positive.best_f1.f1 == pytest.approx(f1.max(), rel=1e-12)
    assert e.positive.best_f1.probability == pytest.approx(thresholds[f1[:-1].argmax()], rel=1e-9)
    share, mean = calibration_curve(y, p, n_bins=15)
    held = [b for b in e.positive.reliability if b.count]
    assert [b.accuracy for b in held] == pytest.approx(share)
    assert [b.confidence for b in held] == pytest.approx(mean)
    found = metrics.precision_recall_fscore_support(y, odds > 0)
    assert [c.f1 for c in e.classes] == pytest.approx(found[2])


def test_one_score_and_two_are_the_same(tmp_path, cancer):
    odds, y = cancer
    one = evaluate(write(tmp_path / "one.parquet", logit=odds, label=y)).to_dict()
    two = evaluate(write(tmp_path / "two.parquet", logits=np.stack([0 * odds, odds], axis=1), label=y)).to_dict()
    for row in (*one["surprising"], *two["surprising"]):
        del row["file"]
    del one["source"], two["source"]
    assert one == two


def test_confident_binary_losses_are_not_zero(tmp_path):
    e = evaluate(write(tmp_path / "p.parquet", logit=np.array([40.0, -50.0], np.float32), label=[1, 0]))
    assert e.nll == pytest.approx((math.exp(-40) + math.exp(-50)) / 2, rel=1e-12)
    p = np.array([1.0, 0.0, 1e-30])
    e = evaluate(write(tmp_path / "p.parquet", prob=p, label=[1, 0, 0]))
    assert e.nll == pytest.approx(1e-30 / 3, rel=1e-12)


def test_binary_labels_of_any_kind(tmp_path, cancer):
    odds, y = cancer
    expected = evaluate(write(tmp_path / "p.parquet", logit=odds, label=y)).nll
    assert evaluate(write(tmp_path / "p.parquet", logit=odds, label=y.astype(bool))).nll == expected
    assert evaluate(write(tmp_path / "p.parquet", logit=odds, label=y.astype(float))).nll == expected
    names = np.array(["bad", "good"])[y].tolist()
    e = evaluate(write(tmp_path / "p.parquet", logit=odds, label=names), class_names=["bad", "good"])
    assert (e.nll, e.source.class_name(1)) == (expected, "good")
    np.savez(tmp_path / "p.npz", logit=odds[:, None], label=y)
    assert evaluate(tmp_path / "p.npz").nll == expected
    header = "logit,label\n"
    (tmp_path / "p.csv").write_text(header + "".join(f"{x!r},{t}\n" for x, t in zip(odds.tolist(), y, strict=True)))
    assert evaluate(tmp_path / "p.csv").nll == expected


def test_names_that_promise_nothing_are_told_by_values(tmp_path, cancer):
    odds, y = cancer
    with pytest.raises(EvaluationError, match=r"quantity, or a score of class 1\? Name it by --probs"):
        evaluate(write(tmp_path / "p.parquet", y_pred=odds, y_true=y))
    e = evaluate(write(tmp_path / "p.parquet", y_pred=odds, y_true=y), logits="y_pred")
    assert (e.source.task, e.source.kind) == ("binary", "logits")
    e = evaluate(write(tmp_path / "p.parquet", y_pred=odds, y_true=y), predictions="y_pred")
    assert (e.source.task, e.mse) == ("regression", pytest.approx(metrics.mean_squared_error(y, odds)))
    e = evaluate(write(tmp_path / "p.parquet", score=odds, y_true=y), task="binary")
    assert e.source.kind == "logits"


def test_scores_that_are_no_probability_of_class_1(tmp_path):
    y = RNG.integers(0, 2, 60)
    top = RNG.uniform(0.5, 1, 60)
    for name, values, message in (
        ("prob", top, "at least 0.5, as the probability of the predicted class is"),
        ("prob", top * 4, "its values run from"),
        ("logit", top - 0.5, "named like logits, but its values lie in [0, 1]"),
        ("log_prob", top, "the logarithm of a probability is at most 0"),
    ):
        with pytest.raises(EvaluationError) as error:
            evaluate(write(tmp_path / "p.parquet", label=y, **{name: values}))
        assert message in str(error.value)
    assert evaluate(write(tmp_path / "p.parquet", prob=top, label=y), probs="prob").rows == 60
    with pytest.raises(EvaluationError, match="holds 0 and 1 alone, as decisions do"):
        evaluate(write(tmp_path / "p.parquet", score=y.astype(float), label=y), task="binary")
    late = np.r_[np.full(2000, 0.25), 1.5]
    with pytest.raises(EvaluationError, match=r"row 2000 holds 1\.5, which is no probability"):
        evaluate(write(tmp_path / "p.parquet", prob=late, label=np.zeros(2001, int)))


def test_one_score_for_many_classes(tmp_path):
    with pytest.raises(EvaluationError, match=r"one score per row, and 'label' holds [0-9], .*Expected one score per"):
        evaluate(write(tmp_path / "p.parquet", prob=RNG.uniform(size=30), label=RNG.integers(0, 5, 30)))


def test_one_class_alone(tmp_path):
    e = evaluate(write(tmp_path / "p.parquet", prob=RNG.uniform(size=30), label=np.zeros(30, int)))
    assert math.isnan(e.positive.auroc)
    assert math.isnan(e.positive.best_f1.f1)


# ---------------------------------------------------------------- multilabel


@pytest.mark.parametrize("kind", ["logits", "probs"])
def test_multilabel_agrees_with_scikit_learn(tmp_path, strokes, kind):
    odds, truth = strokes
    p = scipy.special.expit(odds)
    e = evaluate(write(tmp_path / "p.parquet", labels=truth, **{kind: odds if kind == "logits" else p}))
    guess = odds > 0
    assert (e.source.task, e.source.classes, e.rows) == ("multilabel", 4, len(truth))
    assert e.bce == pytest.approx(metrics.log_loss(truth.ravel(), p.ravel()), rel=1e-10)
    assert e.brier == pytest.approx(np.mean((p - truth) ** 2), rel=1e-10)
    assert e.exact_match == metrics.accuracy_score(truth, guess)
    assert e.hamming_loss == pytest.approx(metrics.hamming_loss(truth, guess), rel=1e-14)
    assert e.sample_f1 == pytest.approx(metrics.f1_score(truth, guess, average="samples", zero_division=0), rel=1e-13)
    for name in ("micro", "macro", "weighted"):
        found = metrics.precision_recall_fscore_support(truth, guess, average=name, zero_division=0)[:3]
        average = getattr(e, name)
        assert (average.precision, average.recall, average.f1) == pytest.approx(found, rel=1e-13)
    areas = [metrics.roc_auc_score(truth[:, c], odds[:, c]) for c in range(3)]
    precisions = [metrics.average_precision_score(truth[:, c], odds[:, c]) for c in range(3)]
    assert [c.auroc for c in e.classes[:3]] == pytest.approx(areas, rel=1e-12)
    assert math.isnan(e.classes[3].auroc)  # true of no row
    assert e.macro_auroc == pytest.approx(np.mean(areas), rel=1e-12)
    assert e.mean_average_precision == pytest.approx(np.mean(precisions), rel=1e-12)
    assert e.micro_auroc == pytest.approx(metrics.roc_auc_score(truth.ravel(), odds.ravel()), rel=1e-12)
    losses = [metrics.log_loss(truth[:, c], p[:, c], labels=[False, True]) for c in range(4)]
    assert [c.bce for c in e.classes] == pytest.approx(losses, rel=1e-9)
    share, mean = calibration_curve(truth.ravel(), p.ravel(), n_bins=15)
    held = [b for b in e.reliability if b.count]
    assert ([b.accuracy for b in held], [b.confidence for b in held]) == (pytest.approx(share), pytest.approx(mean))
    by_row = -np.where(truth, scipy.special.log_expit(odds), scipy.special.log_expit(-odds)).mean(axis=1)
    assert [r.row for r in e.surprising] == np.argsort(-by_row, kind="stable")[:20].tolist()
    assert e.surprising[0].wrong_classes == (truth[e.surprising[0].row] != guess[e.surprising[0].row]).sum()


def test_marks_in_columns_of_their_own(tmp_path, strokes):
    odds, truth = strokes
    expected = evaluate(write(tmp_path / "p.parquet", logits=odds, labels=truth))
    names = ("even", "large", "round", "none")
    columns = {f"logit_{name}": odds[:, i] for i, name in enumerate(names)}
    shuffled = {f"label_{names[i]}": truth[:, i].astype(int) for i in (2, 0, 3, 1)}
    e = evaluate(write(tmp_path / "named.parquet", **shuffled, **columns))
    assert e.source.class_names == names
    assert (e.bce, e.macro) == (expected.bce, expected.macro)
    numbered = {f"logit_{i}": odds[:, i] for i in range(4)} | {f"label_{i}": truth[:, i] for i in range(4)}
    assert evaluate(write(tmp_path / "numbered.parquet", **numbered)).bce == expected.bce
    np.savez(tmp_path / "p.npz", logits=odds, labels=truth)
    assert evaluate(tmp_path / "p.npz").bce == expected.bce
    np.save(tmp_path / "logits.npy", odds)
    np.save(tmp_path / "marks.npy", truth.astype(np.uint8))
    assert evaluate(tmp_path / "logits.npy", targets=tmp_path / "marks.npy").bce == expected.bce


def test_marks_joined_by_a_key(tmp_path, strokes):
    odds, truth = strokes
    order = RNG.permutation(len(odds))
    scores = write(tmp_path / "p.parquet", logits=odds, id=np.arange(len(odds)))
    targets = write(tmp_path / "t.parquet", labels=truth[order].astype(int), id=order)
    expected = evaluate(write(tmp_path / "own.parquet", logits=odds, labels=truth))
    assert evaluate(scores, targets=targets, on="id").bce == expected.bce


def test_one_hot_labels_are_no_multilabel_by_themselves(tmp_path):
    logits, one_hot = RNG.normal(size=(40, 3)), np.eye(3, dtype=int)[RNG.integers(0, 3, 40)]
    path = write(tmp_path / "p.parquet", logits=logits, label=one_hot)
    with pytest.raises(EvaluationError, match=r"marks one class, as one-hot labels do.*argmax.*--task multilabel"):
        evaluate(path)
    assert evaluate(path, task="multilabel").source.task == "multilabel"
    with pytest.raises(EvaluationError, match="several values per row, expected one class per row"):
        evaluate(path, task="multiclass")
    soft = write(tmp_path / "s.parquet", logits=logits, label=RNG.dirichlet(np.ones(3), 40))
    with pytest.raises(EvaluationError, match="sum to 1, as probabilities do"):
        evaluate(soft)


def test_marks_that_are_none(tmp_path):
    logits, marks = RNG.normal(size=(3000, 3)), RNG.integers(0, 2, (3000, 3)).astype(float)
    marks[2500, 1] = 2
    with pytest.raises(EvaluationError, match=r"holds 2\.0 for class 1 at row 2500, expected 0 or 1"):
        evaluate(write(tmp_path / "p.parquet", logits=logits, labels=marks), task="multilabel")
    marks[2500] = np.nan
    e = evaluate(write(tmp_path / "p.parquet", logits=logits, labels=marks))
    assert (e.rows, e.left_out["missing"]) == (2999, 1)
    with pytest.raises(EvaluationError, match="'logits' has 3 numbers per row and 'labels' has 4, expected as many"):
        evaluate(write(tmp_path / "p.parquet", logits=logits, labels=np.ones((3000, 4), int)), task="multilabel")


def test_numbers_beside_a_label_are_no_marks(tmp_path):
    logits, y = RNG.normal(size=(40, 2)), RNG.integers(0, 2, 40)
    columns = {"target_weight": RNG.uniform(size=40), "target_count": RNG.integers(0, 2, 40)}
    assert evaluate(write(tmp_path / "p.parquet", logits=logits, label=y, **columns)).source.label == "label"


def test_very_many_classes_are_ranked_together(tmp_path):
    logits, marks = RNG.normal(size=(30, 600)), RNG.integers(0, 2, (30, 600))
    e = evaluate(write(tmp_path / "p.parquet", logits=logits, labels=marks))
    assert math.isnan(e.mean_average_precision)
    assert e.micro_auroc == pytest.approx(metrics.roc_auc_score(marks.ravel(), logits.ravel()), rel=1e-12)


# ---------------------------------------------------------------- regression


def test_regression_agrees_with_scikit_learn(tmp_path, diabetes):
    guess, y = diabetes
    e = evaluate(write(tmp_path / "p.parquet", prediction=guess, target=y))
    assert (e.source.task, e.source.kind, e.rows) == ("regression", "predictions", len(y))
    assert e.mse == pytest.approx(metrics.mean_squared_error(y, guess), rel=1e-13)
    assert e.rmse == pytest.approx(metrics.root_mean_squared_error(y, guess), rel=1e-13)
    assert e.mae == pytest.approx(metrics.mean_absolute_error(y, guess), rel=1e-13)
    assert e.r2 == pytest.approx(metrics.r2_score(y, guess), rel=1e-13)
    assert e.explained_variance == pytest.approx(metrics.explained_variance_score(y, guess), rel=1e-13)
    assert e.largest_error == metrics.max_error(y, guess)
    errors = np.sort(np.abs(guess - y))
    assert e.median_absolute_error == errors[(len(y) - 1) // 2]
    assert e.error_quantiles["0.9"] == np.quantile(errors, 0.9, method="lower")
    assert e.bias == pytest.approx(np.mean(guess - y), rel=1e-12)
    squared = (guess - y) ** 2
    half = 1.959963984540054 * squared.std(ddof=1) / math.sqrt(len(y))
    assert e.intervals["mse"].high == pytest.approx(e.mse + half, rel=1e-12)
    assert [r.row for r in e.surprising] == np.argsort(-squared, kind="stable")[:20].tolist()
    assert e.surprising[0].target == (y[e.surprising[0].row],)
    assert sum(b.count for b in e.residual_histogram) == len(y)
    for b in e.residual_histogram[1:-1]:
        assert b.count == np.sum((guess - y >= b.low) & (guess - y < b.high))
    assert sorted(p.residual for p in e.residual_plot) == sorted(guess - y)


def test_several_outputs_agree_with_scikit_learn(tmp_path):
    y = RNG.normal(size=(90, 3)) * [1, 10, 100] + [0, 5, -7]
    guess = y + RNG.normal(size=y.shape) * [0.5, 1, 30]
    e = evaluate(write(tmp_path / "p.parquet", predictions=guess, targets=y))
    assert (e.source.task, e.source.classes) == ("regression", 3)
    assert e.mse == pytest.approx(metrics.mean_squared_error(y, guess), rel=1e-13)
    assert e.r2 == pytest.approx(metrics.r2_score(y, guess), rel=1e-13)
    assert [o.r2 for o in e.outputs] == pytest.approx(metrics.r2_score(y, guess, multioutput="raw_values"), rel=1e-13)
    assert [o.mae for o in e.outputs] == pytest.approx(np.abs(guess - y).mean(axis=0), rel=1e-13)
    assert [o.target_deviation for o in e.outputs] == pytest.approx(y.std(axis=0), rel=1e-13)


def test_variance_beside_a_large_mean(tmp_path):
    y = 1e9 + RNG.normal(size=200)
    guess = y + RNG.normal(size=200) / 2
    e = evaluate(write(tmp_path / "p.parquet", prediction=guess, target=y))
    shifted = (guess - 1e9, y - 1e9)  # exact
    assert e.r2 == pytest.approx(metrics.r2_score(shifted[1], shifted[0]), rel=1e-9)
    assert e.outputs[0].target_deviation == pytest.approx(shifted[1].std(), rel=1e-12)


def test_squares_are_summed_exactly():
    from fractions import Fraction

    values = np.r_[RNG.normal(size=50) * 10.0 ** RNG.integers(-30, 30, 50), 0.0, -1e140]
    total = SquareSum()
    total.add(values)
    assert total.exactly() == sum(Fraction(v) ** 2 for v in values.tolist())
    total.add(np.array([1e200]))
    assert total.overflows()


def test_quantities_that_cannot_be_used(tmp_path):
    y, guess = RNG.normal(size=30), RNG.normal(size=30)
    guess[3], y[5], guess[7] = np.nan, np.nan, np.inf
    e = evaluate(write(tmp_path / "p.parquet", prediction=guess, target=y))
    assert (e.rows, e.left_out["missing"], e.left_out["no_distribution"]) == (27, 1, 2)
    constant = evaluate(write(tmp_path / "p.parquet", prediction=np.zeros(9), target=np.full(9, 2.5)))
    assert math.isnan(constant.r2)
    assert constant.bias == -2.5
    with pytest.raises(EvaluationError, match="none of the 3 rows can be scored"):
        evaluate(write(tmp_path / "p.parquet", prediction=np.full(3, np.nan), target=np.zeros(3) + 0.5))
    with pytest.raises(EvaluationError, match="'prediction' has 1 numbers per row and 'target' has 2"):
        evaluate(write(tmp_path / "p.parquet", prediction=np.zeros(4), target=np.ones((4, 2)) / 3))
    huge = evaluate(write(tmp_path / "p.parquet", prediction=np.array([1e200, 0.5]), target=np.array([0.5, 0.25])))
    assert huge.mse == math.inf


def test_targets_at_the_ends_of_float64(tmp_path):
    y = np.array([1.5e308, 1.0, 2.0, 4.5])
    e = evaluate(write(tmp_path / "p.parquet", prediction=np.array([-1.2e308, 1.0, 2.0, 3.5]), target=y))
    assert (e.rows, e.left_out["no_distribution"], e.mse) == (3, 1, pytest.approx(1 / 3))
    [lost] = e.findings
    assert "1 of 4 rows have a prediction or a target that is NaN or infinite, or too far apart" in lost.evidence
    assert render(build_page(e))
    far = np.array([1.5e308, -1.5e308] * 2)
    e = evaluate(write(tmp_path / "p.parquet", prediction=np.zeros(4), target=far), predictions="prediction")
    assert (e.mae, e.mse, e.outputs[0].target_deviation) == (1.5e308, math.inf, math.inf)
    assert [(b.low, b.high, b.count) for b in e.residual_histogram] == [(-1.5e308, 1.5e308, 4)]


def test_class_numbers_are_not_taken_for_quantities_where_scores_are_named(tmp_path):
    with pytest.raises(EvaluationError, match=r"expected whole numbers 0\.\.C-1\. If it holds quantities"):
        evaluate(write(tmp_path / "p.parquet", logits=RNG.normal(size=(20, 3)), label=RNG.uniform(size=20)))


@pytest.mark.parametrize(
    ("truth", "name", "scores", "message"),
    [
        ([0, 1, 2, 1], "y_pred", [0.0, 2.0, 2.0, 1.0], "hold whole numbers alone, as class numbers are"),
        ([0.0, 1.0, 2.0, 1.0], "prediction", [0.0, 2.0, 2.0, 1.0], "hold whole numbers alone"),
        ([0, 1, 2, 1], "pred", [0.9, 0.4, 0.8, 0.5], r"'pred' lies in \[0, 1\] and 'label' does not"),
        ([0, 7, 2, 1], "score", [9.5, 4.4, 8.5, 5.0], "'score' has one number for each label"),
        ([-1, 1, 1, -1], "pred", [0.3, -2.0, 1.5, 0.2], "'label' holds -1, 1 alone, as labels of two classes do"),
        ([1, 2, 2, 1], "pred", [0.3, 0.2, 1.0, 0.2], "'label' holds 1, 2 alone"),
        ([-1, 1, 1, -1], "prob", [0.3, 0.2, 1.0, 0.2], "'prob' has one score per row, and 'label' holds -1, 1. Exp"),
        ([math.nan] * 4, "prob", [0.3, 0.2, 1.0, 0.2], "'label' has no value"),
    ],
)
def test_what_may_be_classes_is_no_regression_unless_it_is_said(tmp_path, truth, name, scores, message):
    path = write(tmp_path / "p.parquet", label=truth, **{name: scores})
    with pytest.raises(EvaluationError, match=message):
        evaluate(path)
    if not math.isnan(truth[0]):
        said = evaluate(path, predictions=name)
        assert said.mse == pytest.approx(metrics.mean_squared_error(truth, scores))


def test_labels_of_minus_one_are_no_class_numbers(tmp_path):
    path = write(tmp_path / "p.parquet", label=[-1, 1, 1, -1], prob=[0.3, 0.2, 1.0, 0.2])
    with pytest.raises(
        EvaluationError, match=r"\(1 score per row in 'prob'\): 2 of 4 .* If -1 and 1 are the two classes"
    ):
        evaluate(path, task="binary")


def test_marks_that_lack_a_value(tmp_path):
    marks = {"label_0": [None, True, False], "label_1": [True, True, False]}
    e = evaluate(write(tmp_path / "p.parquet", prob_0=[0.2, 0.7, 0.1], prob_1=[0.3, 0.8, 0.2], **marks))
    assert (e.source.task, e.rows, e.unknown) == ("multilabel", 3, 1)


def test_marks_of_minus_one_are_no_quantities(tmp_path):
    path = write(tmp_path / "p.parquet", labels=np.sign(RNG.normal(size=(9, 3))), predictions=RNG.normal(size=(9, 3)))
    with pytest.raises(EvaluationError, match="'labels' holds -1, 1 alone"):
        evaluate(path)


@pytest.mark.parametrize("form", ["csv", "jsonl"])
@pytest.mark.parametrize("apart", [False, True])
def test_quantities_that_begin_whole(tmp_path, form, apart):
    n = {"csv": 200_000, "jsonl": 500}[form]  # beyond the rows that say what the columns hold
    y, guess = [3] * n + [1.25], [4] * n + [2.5]
    files = [tmp_path / f"{name}.{form}" for name in ("p", "y")]
    for path, columns in zip(
        files, [{"pred": guess}, {"y": y}] if apart else [{"pred": guess, "y": y}, {}], strict=True
    ):
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        text = [",".join(columns), *(",".join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(text if form == "csv" else map(json.dumps, rows)) + "\n")
    e = evaluate(files[0], predictions="pred", targets=files[1] if apart else None)
    assert (e.rows, e.mse, e.largest_error) == (n + 1, (n + 1.5625) / (n + 1), 1.25)


def test_counts_are_quantities(tmp_path):
    path = write(tmp_path / "p.parquet", label=[3, 1, 4, 1, 5], predictions=[2.5, 0.5, 4.0, 2.0, 3.0])
    assert evaluate(path).mse == pytest.approx(1.1)


def test_labels_that_are_left_out_do_not_hide_two_classes(tmp_path):
    e = evaluate(write(tmp_path / "p.parquet", label=[-100, 0, 1, 1], prob=[0.5, 0.2, 0.7, 0.9]))
    assert (e.source.task, e.rows) == ("binary", 3)


def test_class_values_of_one_score(tmp_path):
    np.savez(tmp_path / "p.npz", classes=[-1, 1], label=[-1, 1, 1], probs=[0.2, 0.7, 0.9])
    e = evaluate(tmp_path / "p.npz")
    assert (e.source.task, e.nll) == ("binary", pytest.approx(metrics.log_loss([0, 1, 1], [0.2, 0.7, 0.9])))


def test_other_numbers_beside_a_prediction_are_no_scores(tmp_path):
    weight = [1.0, 2.0, 0.5]
    path = write(tmp_path / "p.parquet", target=[1.5, 2.0, 0.1], prediction=[1.0, 2.5, 0.2], target_weight=weight)
    assert (evaluate(path).source.scores, evaluate(path).source.label) == ("prediction", "target")
    both = write(tmp_path / "b.parquet", label=[0, 1, 1], prediction=[0.0, 1.0, 1.0], prob=[0.2, 0.7, 0.9])
    with pytest.raises(EvaluationError, match="several columns are named like scores: 'prediction', 'prob'"):
        evaluate(both)


def test_tasks_that_do_not_fit(tmp_path):
    one = write(tmp_path / "one.parquet", prob=RNG.uniform(size=30), label=RNG.integers(0, 2, 30))
    many = write(tmp_path / "many.parquet", logits=RNG.normal(size=(30, 3)), label=RNG.integers(0, 3, 30))
    for path, options, message in (
        (one, {"task": "multiclass"}, "expected one per class"),
        (one, {"task": "multilabel"}, "one value per row, expected 0 or 1 for each class"),
        (many, {"task": "binary"}, "has 3 scores per row, expected one, or two"),
        (many, {"task": "regression"}, "3 numbers per row and 'label' has 1"),
        (one, {"task": "binary", "predictions": "prob"}, "--predictions names quantities"),
    ):
        with pytest.raises(EvaluationError) as error:
            evaluate(path, **options)
        assert message in str(error.value)
    with pytest.raises(ValueError, match="task got 'ranking', expected one of"):
        evaluate(one, task="ranking")


# ---------------------------------------------------------------- all of them


def test_any_cut_gives_the_same_bits(tmp_path, monkeypatch, cancer, strokes, diabetes):
    n = min(len(cancer[1]), len(strokes[1]), len(diabetes[1]))
    files = {
        "binary": {"logit": cancer[0][:n], "label": cancer[1][:n]},
        "multilabel": {"logits": strokes[0][:n], "labels": strokes[1][:n]},
        "regression": {"prediction": diabetes[0][:n], "target": diabetes[1][:n]},
    }
    for task, columns in files.items():
        path = tmp_path / f"{task}.parquet"
        whole = evaluate(write(path, **columns, group=n), workers=1)
        assert whole.source.task == task
        monkeypatch.setattr(readers, "_BATCH_SCORES", 64)
        monkeypatch.setattr(rows, "_BLOCK_SCORES", 32)
        assert evaluate(write(path, **columns, group=7), workers=2).to_dict() == whole.to_dict()
        monkeypatch.undo()


def test_what_a_user_reads(tmp_path, cancer, strokes, diabetes):
    for columns in (
        {"logit": cancer[0], "label": cancer[1]},
        {"logits": strokes[0], "labels": strokes[1]},
        {"prediction": diabetes[0], "target": diabetes[1]},
    ):
        e = evaluate(write(tmp_path / "p.parquet", **columns))
        for figure in e.headline():
            assert f"{figure.value:.6g}" in repr(e)
            assert f"{figure.value:.6g}" in e._repr_html_()
        assert all(isinstance(v, int | float) for v in e.scalars().values())
        assert e.to_json().startswith('{\n  "schema": "lossless.evaluation/1"')
    assert lossless.evaluate is evaluate
