"""Two models of several labels, or of quantities: figures and intervals by NumPy, SciPy and scikit-learn."""

import itertools
import json
import math
from operator import attrgetter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import special, stats
from sklearn import metrics

import lossless
from lossless._report import build_comparison_page
from lossless.cli import main
from lossless.errors import EvaluationError

ROWS, CLASSES, OUTPUTS = 600, 4, 3
RANDOM = np.random.default_rng(17)
MARKS = RANDOM.random((ROWS, CLASSES)) < [0.5, 0.3, 0.1, 0.4]
ODDS_A = 2 * MARKS - 1 + RANDOM.normal(size=MARKS.shape)
ODDS_B = 1.4 * ODDS_A + 0.7 * RANDOM.normal(size=MARKS.shape)
TARGET = RANDOM.normal(size=(ROWS, OUTPUTS)) * [1, 10, 100]
GUESS_A = TARGET + RANDOM.normal(size=TARGET.shape) * [0.3, 4, 20]
GUESS_B = 0.5 * (GUESS_A + TARGET) + RANDOM.normal(size=TARGET.shape) * [0.3, 3, 25] + [0.1, 0, 2]
KEPT = np.ones(ROWS, bool)  # rows that both have
KEPT[[4, 9, 10, ROWS - 1]] = False


@pytest.fixture
def marked(tmp_path):
    paths = tmp_path / "a.npz", tmp_path / "b.npz"
    for path, odds in zip(paths, (ODDS_A, ODDS_B), strict=True):
        np.savez(path, logits=odds, labels=MARKS.astype(int))
    return paths


@pytest.fixture
def predicted(tmp_path):
    paths = tmp_path / "a.npz", tmp_path / "b.npz"
    for path, guess in zip(paths, (GUESS_A, GUESS_B), strict=True):
        np.savez(path, predictions=guess, target=TARGET)
    return paths


def with_gaps(paths, name, truth, a, b):
    """The same files, where rows of either have no number."""
    for path, scores, gaps in zip(paths, (a, b), ([4, 9], [10, ROWS - 1]), strict=True):
        scores = scores.copy()
        scores[gaps] = np.nan
        np.savez(path, **{name: scores, "labels" if name == "logits" else "target": truth})


def check_paired(f, a, b):
    """Against the paired t-test with the normal quantile, of one number a row."""
    d = b - a
    assert (f.a, f.b, f.difference) == pytest.approx((a.mean(), b.mean(), d.mean()), rel=1e-9, abs=1e-12)
    error = math.sqrt(((d - d.mean()) ** 2).sum() / (len(d) - 1) / len(d))
    assert error == pytest.approx(d.mean() / stats.ttest_rel(b, a).statistic, rel=1e-9)
    assert (f.low, f.high) == pytest.approx(stats.norm.interval(0.95, loc=d.mean(), scale=error), rel=1e-8, abs=1e-12)


def check_alone(f, a, b):
    assert (f.a, f.b) == pytest.approx((a, b), rel=1e-9)
    assert f.difference == f.b - f.a
    assert math.isnan(f.low)
    assert math.isnan(f.high)


def mid_p(k, n):
    return 2 * stats.binom.cdf(k, n, 0.5) - stats.binom.pmf(k, n, 0.5)


# ---------------------------------------------------------------- several labels


def of_rows(odds, marks):
    """What each row has, by the formulas."""
    losses = -np.where(marks, special.log_expit(odds), special.log_expit(-odds))
    wrong = (odds > 0) != marks
    either = (odds > 0).sum(1) + marks.sum(1)
    return {
        "bce": losses.mean(1),
        "brier": ((special.expit(odds) - marks) ** 2).mean(1),
        "exact_match": (~wrong.any(1)).astype(float),
        "hamming_loss": wrong.mean(1),
        "sample_f1": 2 * ((odds > 0) & marks).sum(1) / np.maximum(either, 1),
        "predicted_per_row": (odds > 0).sum(1).astype(float),
    }


def of_all_rows(odds, marks):
    guess, flat = odds > 0, (marks.ravel(), odds.ravel())
    columns = [(marks[:, c], odds[:, c]) for c in range(CLASSES)]
    return {
        "micro.f1": metrics.f1_score(marks, guess, average="micro"),
        "macro.f1": metrics.f1_score(marks, guess, average="macro"),
        "mean_average_precision": np.mean([metrics.average_precision_score(*c) for c in columns]),
        "macro_auroc": np.mean([metrics.roc_auc_score(*c) for c in columns]),
        "micro_average_precision": metrics.average_precision_score(*flat),
        "micro_auroc": metrics.roc_auc_score(*flat),
    }


@pytest.mark.parametrize("gaps", [False, True])
def test_several_labels(marked, gaps):
    kept = KEPT if gaps else slice(None)
    if gaps:
        with_gaps(marked, "logits", MARKS.astype(int), ODDS_A, ODDS_B)
    c = lossless.compare(*marked)
    marks, a, b = MARKS[kept], ODDS_A[kept], ODDS_B[kept]
    assert isinstance(c, lossless.MultilabelComparison)
    assert c.rows == len(marks)
    rows_a, rows_b = of_rows(a, marks), of_rows(b, marks)
    for name, numbers in rows_a.items():
        check_paired(c.figures[name], numbers, rows_b[name])
    whole_a, whole_b = of_all_rows(a, marks), of_all_rows(b, marks)
    for name, value in whole_a.items():
        check_alone(c.figures[name], value, whole_b[name])
    assert set(c.figures) - set(rows_a) - set(whole_a) == {"calibration_error"}
    for k, part in enumerate(c.classes):
        assert part.name == str(k)
        losses = [-np.where(marks[:, k], special.log_expit(x[:, k]), special.log_expit(-x[:, k])) for x in (a, b)]
        check_paired(part.figures["bce"], *losses)
        for name, score in (("f1", metrics.f1_score), ("precision", metrics.precision_score)):
            check_alone(part.figures[name], *(score(marks[:, k], x[:, k] > 0) for x in (a, b)))
        check_alone(part.figures["auroc"], *(metrics.roc_auc_score(marks[:, k], x[:, k]) for x in (a, b)))
    right = rows_a["exact_match"] == 1, rows_b["exact_match"] == 1
    only_a, only_b = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum())
    assert (c.only_a, c.only_b, c.both_right) == (only_a, only_b, (right[0] & right[1]).sum())
    assert c.both_right + c.only_a + c.only_b + c.both_wrong == c.rows
    assert c.p_value == pytest.approx(mid_p(min(only_a, only_b), only_a + only_b), rel=1e-9)
    apart = np.abs(rows_b["bce"] - rows_a["bce"])
    expected = np.flatnonzero(KEPT)[np.argsort(-apart)[:20]] if gaps else np.argsort(-apart)[:20]
    assert [r.row_a for r in c.different] == [r.row_b for r in c.different] == expected.tolist()
    first = c.different[0]
    assert first.true_classes == MARKS[expected[0]].sum()
    assert first.wrong_classes_b == ((ODDS_B[expected[0]] > 0) != MARKS[expected[0]]).sum()
    assert first.bce_a == pytest.approx(rows_a["bce"][np.argmax(apart)])


def test_classes_in_another_order(tmp_path, marked):
    names, order = np.array(["ape", "bee", "cat", "dog"]), [2, 0, 3, 1]
    a, b = tmp_path / "named.npz", tmp_path / "other.npz"
    np.savez(a, logits=ODDS_A, labels=MARKS.astype(int), class_names=names)
    np.savez(b, logits=ODDS_B[:, order], labels=MARKS[:, order].astype(int), class_names=names[order])
    c, plain = lossless.compare(a, b), lossless.compare(*marked)
    assert [part.name for part in c.classes] == names.tolist()
    for ours, theirs in zip(c.classes, plain.classes, strict=True):
        assert repr(ours.figures) == repr(theirs.figures)
    assert c.figures["exact_match"] == plain.figures["exact_match"]
    assert [r.row_a for r in c.different] == [r.row_a for r in plain.different]


# ---------------------------------------------------------------- quantities


@pytest.mark.parametrize("gaps", [False, True])
def test_quantities(predicted, gaps):
    kept = KEPT if gaps else slice(None)
    if gaps:
        with_gaps(predicted, "predictions", TARGET, GUESS_A, GUESS_B)
    c = lossless.compare(*predicted)
    target, a, b = TARGET[kept], GUESS_A[kept], GUESS_B[kept]
    assert isinstance(c, lossless.RegressionComparison)
    assert c.rows == len(target)
    check_paired(c.figures["mse"], ((a - target) ** 2).mean(1), ((b - target) ** 2).mean(1))
    check_paired(c.figures["mae"], np.abs(a - target).mean(1), np.abs(b - target).mean(1))
    check_paired(c.figures["bias"], (a - target).mean(1), (b - target).mean(1))
    check_alone(c.figures["rmse"], *(math.sqrt(metrics.mean_squared_error(target, x)) for x in (a, b)))
    check_alone(c.figures["r2"], *(metrics.r2_score(target, x) for x in (a, b)))
    check_alone(c.figures["explained_variance"], *(metrics.explained_variance_score(target, x) for x in (a, b)))
    check_alone(c.figures["largest_error"], *(np.abs(x - target).max() for x in (a, b)))
    errors = [np.sort(np.abs(x - target).ravel()) for x in (a, b)]
    check_alone(c.figures["median_absolute_error"], *(e[(len(e) - 1) // 2] for e in errors))
    assert set(c.figures) == set(lossless.RegressionEvaluation.FIGURES)
    for k, part in enumerate(c.outputs):
        here = a[:, k] - target[:, k], b[:, k] - target[:, k]
        check_paired(part.figures["mse"], *(e**2 for e in here))
        check_paired(part.figures["mae"], *map(np.abs, here))
        check_paired(part.figures["bias"], *here)
        check_alone(part.figures["r2"], *(metrics.r2_score(target[:, k], x[:, k]) for x in (a, b)))
        check_alone(part.figures["rmse"], *(math.sqrt(np.mean(e**2)) for e in here))
    squared = [((x - target) ** 2).mean(1) for x in (a, b)]
    nearer_a, nearer_b = int((squared[0] < squared[1]).sum()), int((squared[1] < squared[0]).sum())
    assert (c.nearer_a, c.nearer_b, c.equal) == (nearer_a, nearer_b, 0)
    assert c.p_value == pytest.approx(mid_p(min(nearer_a, nearer_b), c.rows), rel=1e-9)
    expected = np.arange(ROWS)[kept][np.argsort(-np.abs(squared[1] - squared[0]))[:20]]
    assert [r.row_b for r in c.different] == expected.tolist()
    assert c.different[0].target == tuple(TARGET[expected[0]])
    assert c.different[0].prediction_b == tuple(GUESS_B[expected[0]])


def test_one_output_and_targets_saved_with_fewer_digits(tmp_path):
    target, guess = 1e3 * TARGET[:, 0], 1e3 * GUESS_A[:, 0]
    pq.write_table(pa.table({"prediction": guess, "target": target.astype(np.float32)}), tmp_path / "a.parquet")
    lines = [f"{x!r},{t:.9g}" for x, t in zip(guess.tolist(), target.tolist(), strict=True)]
    (tmp_path / "b.csv").write_text("\n".join(["prediction,target", *lines]))
    c = lossless.compare(tmp_path / "a.parquet", tmp_path / "b.csv")
    assert abs(c.figures["mse"].difference) < 1e-4 * c.figures["mse"].a
    other = target.copy()
    other[5] *= 1.001
    pq.write_table(pa.table({"prediction": guess, "target": other}), tmp_path / "c.parquet")
    with pytest.raises(EvaluationError) as error:
        lossless.compare(tmp_path / "a.parquet", tmp_path / "c.parquet")
    assert f"c.parquet: row 5 has target {other[5]:.9g}, and target {np.float32(target[5]):.9g} in row 5 of" in str(
        error.value
    )


# ---------------------------------------------------------------- both


def parquet(folder, cuts, group, **columns):
    folder.mkdir()
    for i, (low, high) in enumerate(itertools.pairwise([0, *cuts, ROWS])):
        table = pa.table({name: list(values[low:high]) for name, values in columns.items()})
        pq.write_table(table, folder / f"part-{i}.parquet", row_group_size=group)
    return folder


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_the_same_bits_however_the_files_are_cut(request, tmp_path, task, monkeypatch):
    from lossless._evaluate.tasks import multilabel

    whole = lossless.compare(*request.getfixturevalue("marked" if task == "multilabel" else "predicted"))
    scores = ("logits", ODDS_A, ODDS_B) if task == "multilabel" else ("predictions", GUESS_A, GUESS_B)
    truth = {"labels": MARKS.astype(int)} if task == "multilabel" else {"target": TARGET}
    a = parquet(tmp_path / "a", [100, 101, 350], 37, **{scores[0]: scores[1]}, **truth)
    b = parquet(tmp_path / "b", [333], 64, **{scores[0]: scores[2]}, **truth)
    steps = itertools.cycle([31, 7])
    monkeypatch.setattr(multilabel, "block_rows", lambda classes: next(steps))
    cut = lossless.compare(a, b, workers=3)
    assert repr(cut.scalars()) == repr(whole.scalars())
    for name in ("classes", "outputs"):
        assert repr(getattr(cut, name, ())) == repr(getattr(whole, name, ()))
    for name in whole.figures:  # and they are those of the two evaluations, to the bit
        assert (whole.figures[name].a, whole.figures[name].b) == tuple(attrgetter(name)(e) for e in (whole.a, whole.b))


def test_the_other_way_round(predicted):
    ours, theirs = lossless.compare(*predicted), lossless.compare(*reversed(predicted))
    for name, f in ours.figures.items():
        g = theirs.figures[name]
        assert (f.a, f.b, f.difference) == (g.b, g.a, -g.difference)
        assert (f.low, f.high) == pytest.approx((-g.high, -g.low), nan_ok=True)
    assert (ours.nearer_a, ours.p_value) == (theirs.nearer_b, theirs.p_value)
    same = lossless.compare(predicted[0], predicted[0])
    assert (same.equal, same.p_value, same.different) == (ROWS, 1.0, ())
    assert same.figures["mse"].low == same.figures["mse"].high == 0.0


def test_an_infinite_loss_has_no_interval(tmp_path):
    paths = tmp_path / "a.npz", tmp_path / "b.npz"
    p = np.full((30, 2), 0.4)
    for path, first in zip(paths, (0.4, 0.0), strict=True):
        p[0, 0] = first
        np.savez(path, probs=p, labels=np.stack([np.ones(30, int), np.arange(30) % 2], axis=1))
    c = lossless.compare(*paths)
    f, part = c.figures["bce"], c.classes[0].figures["bce"]
    assert (f.b, f.difference) == (part.b, part.difference) == (math.inf, math.inf)
    assert math.isnan(f.low)
    assert math.isnan(part.low)
    assert math.isfinite(c.classes[1].figures["bce"].high)
    assert [r.row_a for r in c.different] == [0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.roll(MARKS, 1, axis=0).astype(int)}, "b.npz: row {row} has {other}, and {ours} in row {row} of"),
        ({"logits": ODDS_B[:, :3], "labels": MARKS[:, :3].astype(int)}, "b.npz: 3 classes, and 4 in"),
        (
            {"predictions": GUESS_A, "target": TARGET},
            "b.npz: holds a regression task, and {a} a multilabel task: expected the same. Say what both are by --task",
        ),
    ],
)
def test_inputs_that_do_not_belong_together(marked, change, message, capsys):
    members = change if "predictions" in change else {"logits": ODDS_B, "labels": MARKS.astype(int)} | change
    np.savez(marked[1], **members)
    row = int(np.flatnonzero((np.roll(MARKS, 1, axis=0) != MARKS).any(1))[0])

    def said(marks):
        return f"the labels {', '.join(repr(str(c)) for c in np.flatnonzero(marks))}" if marks.any() else "no label"

    expected = message.format(row=row, ours=said(MARKS[row]), other=said(MARKS[row - 1]), a=marked[0])
    assert main(["evaluate", str(marked[0]), "--compare", str(marked[1])]) == 2
    printed = capsys.readouterr()
    assert expected in printed.err
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_what_a_user_reads(request, tmp_path, task, capsys):
    a, b = map(str, request.getfixturevalue("marked" if task == "multilabel" else "predicted"))
    page, data = tmp_path / "page.html", tmp_path / "figures.json"
    assert main(["evaluate", a, "--compare", b, "--out", str(page), "--json", str(data)]) == 0
    printed, html = capsys.readouterr().out, page.read_text("utf-8")
    c = lossless.compare(a, b)
    assert json.loads(data.read_text()) == c.to_dict()
    figure, part = ("hamming_loss", c.classes[0]) if task == "multilabel" else ("mae", c.outputs[0])
    differences = (f"{c.figures[figure].difference:+.6g}", f"{next(iter(part.figures.values())).difference:+.4g}")
    for text in (*differences, f"p = {c.p_value:.3g}"):
        assert text in printed
        assert text.replace("'", "&#39;") in html
    for text in (repr(c), c._repr_html_()):
        assert differences[0] in text
        assert f"p = {c.p_value:.3g}" in text
    assert c.scalars()[f"{figure}_low"] == c.figures[figure].low
    assert not any("." in name for name in c.scalars())
    titles = [table.title for panel in build_comparison_page(c).panels for table in panel.tables]
    assert titles == ["Figures", "Agreement", "Classes" if task == "multilabel" else "Outputs", "Rows that differ most"]
