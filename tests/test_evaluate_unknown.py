"""Marks of which it is unknown whether they are true: every figure is scikit-learn's of the known ones alone."""

import json
import math
import pickle

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import special, stats
from sklearn import metrics
from sklearn.calibration import calibration_curve

import lossless
import lossless._evaluate.readers as readers
import lossless._evaluate.rows as rows
from lossless._report import build_tables
from lossless.cli import main
from lossless.errors import EvaluationError, ParameterError

ROWS, CLASSES = 500, 4
RANDOM = np.random.default_rng(23)
MARKS = RANDOM.random((ROWS, CLASSES)) < [0.5, 0.3, 0.15, 0.4]
ODDS = 2 * MARKS - 1 + 1.5 * RANDOM.normal(size=MARKS.shape)
KNOWN = RANDOM.random((ROWS, CLASSES)) < [0.9, 0.5, 0.7, 0.2]
KNOWN[7] = False
KNOWN[[8, 9], 3] = True
SOME = KNOWN.any(axis=1)  # rows of which anything is known
AS_FLOATS = np.where(KNOWN, MARKS, np.nan)
AS_INTEGERS = np.where(KNOWN, MARKS, -100)
NONE = [[bool(m) if k else None for m, k in zip(*row, strict=True)] for row in zip(MARKS, KNOWN, strict=True)]


def saved(path, labels, odds=ODDS):
    np.savez(path, logits=odds, labels=labels)
    return path


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return lossless.evaluate(saved(tmp_path_factory.mktemp("unknown") / "p.npz", AS_INTEGERS))


def element_mean(total, count):
    """The mean over elements and its interval: that of a ratio of means, rows being drawn (by residuals, by hand)."""
    ratio = total.sum() / count.sum()
    residual = total - ratio * count
    error = math.sqrt(len(total) * (residual**2).sum() / (len(total) - 1)) / count.sum()
    return ratio, stats.norm.interval(0.95, ratio, error)


def test_figures_of_all_marks(found):
    e, flat = found, (MARKS[KNOWN], ODDS[KNOWN])
    p, guess = special.expit(ODDS), ODDS > 0
    assert (e.source.task, e.rows, e.left_out["missing"]) == ("multilabel", SOME.sum(), (~SOME).sum())
    assert e.unknown == (~KNOWN[SOME]).sum()
    assert e.bce == pytest.approx(metrics.log_loss(MARKS[KNOWN], p[KNOWN]), rel=1e-10)
    assert e.brier == pytest.approx(metrics.brier_score_loss(MARKS[KNOWN], p[KNOWN]), rel=1e-10)
    weights = KNOWN.ravel()
    assert e.hamming_loss == pytest.approx(metrics.zero_one_loss(MARKS.ravel(), guess.ravel(), sample_weight=weights))
    assert e.exact_match == np.mean(((guess == MARKS) | ~KNOWN)[SOME].all(axis=1))
    both, either = (MARKS & guess & KNOWN)[SOME].sum(1), ((MARKS & KNOWN) * 1 + (guess & KNOWN))[SOME].sum(1)
    assert e.sample_f1 == pytest.approx(np.mean(2 * both / np.maximum(either, 1)), rel=1e-12)
    assert e.micro.f1 == pytest.approx(metrics.f1_score(MARKS[KNOWN], guess[KNOWN]), rel=1e-12)
    assert e.micro_auroc == pytest.approx(metrics.roc_auc_score(*flat), rel=1e-12)
    assert e.micro_average_precision == pytest.approx(metrics.average_precision_score(*flat), rel=1e-12)
    assert e.marks_per_row == (MARKS & KNOWN).sum() / SOME.sum()
    assert e.predicted_per_row == (guess & KNOWN).sum() / SOME.sum()
    share, mean = calibration_curve(MARKS[KNOWN], p[KNOWN], n_bins=15)
    held = [b for b in e.reliability if b.count]
    assert ([b.accuracy for b in held], [b.confidence for b in held]) == (pytest.approx(share), pytest.approx(mean))


def test_figures_of_each_class(found):
    guess, p = ODDS > 0, special.expit(ODDS)
    by_class = []
    for c, figures in enumerate(found.classes):
        known = KNOWN[:, c]
        truth, said = MARKS[known, c], guess[known, c]
        assert (figures.known, figures.support, figures.predicted) == (known.sum(), truth.sum(), said.sum())
        expected = metrics.precision_recall_fscore_support(truth, said, average="binary")[:3]
        assert (figures.precision, figures.recall, figures.f1) == pytest.approx(expected, rel=1e-12)
        weighted = metrics.roc_auc_score(MARKS[:, c], ODDS[:, c], sample_weight=known)
        assert figures.auroc == pytest.approx(weighted, rel=1e-12)
        assert figures.average_precision == pytest.approx(metrics.average_precision_score(truth, ODDS[known, c]))
        precision, recall, thresholds = metrics.precision_recall_curve(truth, p[known, c])
        f1 = (2 * precision * recall / np.maximum(precision + recall, 1e-300))[:-1]
        assert figures.best_f1.f1 == pytest.approx(f1.max(), rel=1e-12)
        assert figures.best_f1.probability == pytest.approx(thresholds[len(f1) - 1 - f1[::-1].argmax()], rel=1e-9)
        assert figures.bce == pytest.approx(metrics.log_loss(MARKS[:, c], p[:, c], sample_weight=known), rel=1e-10)
        by_class.append((*expected, weighted))
    means = np.mean(by_class, axis=0)
    assert (found.macro.precision, found.macro.recall, found.macro.f1, found.macro_auroc) == pytest.approx(means)


def test_intervals(found):
    losses = np.where(KNOWN, -np.where(MARKS, special.log_expit(ODDS), special.log_expit(-ODDS)), 0)[SOME]
    squares = np.where(KNOWN, (special.expit(ODDS) - MARKS) ** 2, 0)[SOME]
    for name, values in (("bce", losses), ("brier", squares)):
        mean, ends = element_mean(values.sum(1), KNOWN[SOME].sum(1))
        assert getattr(found, name) == pytest.approx(mean, rel=1e-12)
        assert (found.intervals[name].low, found.intervals[name].high) == pytest.approx(ends, rel=1e-10)
    resampled = RANDOM.integers(0, len(losses), (2000, len(losses)))
    means = losses.sum(1)[resampled].sum(1) / KNOWN[SOME].sum(1)[resampled].sum(1)
    low, high = found.intervals["bce"].low, found.intervals["bce"].high
    assert high - low == pytest.approx(2 * 1.96 * means.std(), rel=0.1)  # as the bootstrap of rows has it


def test_the_most_surprising_rows(found):
    losses = np.where(KNOWN, -np.where(MARKS, special.log_expit(ODDS), special.log_expit(-ODDS)), np.nan)
    mean = np.full(ROWS, -np.inf)
    mean[SOME] = np.nanmean(losses[SOME], axis=1)
    assert [r.row for r in found.surprising] == np.argsort(-mean, kind="stable")[:20].tolist()
    first = found.surprising[0]
    assert first.bce == pytest.approx(mean.max(), rel=1e-12)
    assert first.true_classes == (MARKS & KNOWN)[first.row].sum()
    assert first.wrong_classes == (((ODDS > 0) != MARKS) & KNOWN)[first.row].sum()


def figures(e):
    """All of them, but for where the rows came from and how marks were written."""
    data = e.to_dict()
    del data["source"], data["notes"]
    for row in data["surprising"]:
        del row["file"], row["details"]
    return data


@pytest.mark.parametrize(
    "how", ["nan", "lists", "columns", "csv", "cells", "jsonl", "targets", "on", "255", "evaluator"]
)
def test_however_they_are_written(tmp_path, found, how):
    options = {}
    columns = {f"logit_{c}": ODDS[:, c] for c in range(CLASSES)}
    marks = {f"label_{c}": pa.array([row[c] for row in NONE]).cast(pa.int64()) for c in range(CLASSES)}
    path = tmp_path / "p.npz"
    if how == "nan":
        saved(path, AS_FLOATS.astype(np.float32))
    elif how == "lists":
        path = tmp_path / "p.parquet"
        pq.write_table(pa.table({"logits": list(ODDS), "labels": pa.array(NONE)}), path, row_group_size=64)
    elif how == "columns":
        path = tmp_path / "p.parquet"
        pq.write_table(pa.table({**columns, **marks}), path, row_group_size=64)
    elif how == "csv":
        path = tmp_path / "p.csv"
        names = ",".join([*columns, *marks])
        cells = [
            [repr(x) for x in o] + ["" if m is None else str(int(m)) for m in n]
            for o, n in zip(ODDS.tolist(), NONE, strict=True)
        ]
        path.write_text("\n".join([names, *map(",".join, cells)]))
    elif how == "cells":
        path = tmp_path / "p.csv"
        lines = [
            f'"{o}","{[None if m is None else int(m) for m in n]}"' for o, n in zip(ODDS.tolist(), NONE, strict=True)
        ]
        path.write_text("\n".join(["logits,labels", *lines]))
    elif how == "jsonl":
        path = tmp_path / "p.jsonl"
        lines = [
            {"logits": o, "labels": [m if m is None else int(m) for m in n]}
            for o, n in zip(ODDS.tolist(), NONE, strict=True)
        ]
        path.write_text("\n".join(map(json.dumps, lines)))
    elif how == "targets":
        path, options = tmp_path / "p.npy", {"targets": tmp_path / "t.npy"}
        np.save(path, ODDS)
        np.save(options["targets"], AS_FLOATS)
    elif how == "on":
        order, options = RANDOM.permutation(ROWS), {"targets": tmp_path / "t.npz", "on": "id"}
        np.savez(path, logits=ODDS, id=np.arange(ROWS))
        np.savez(options["targets"], labels=AS_INTEGERS[order], id=order)
    elif how == "255":
        saved(path, np.where(KNOWN, MARKS, 255).astype(np.uint8))
        options = {"ignore_index": 255}
    if how == "evaluator":
        parts = [lossless.Evaluator(task="multilabel") for _ in range(2)]
        for part, few in zip(parts, (slice(0, 123), slice(123, None)), strict=True):
            part.update(ODDS[few], (AS_FLOATS if few.start else AS_INTEGERS)[few])
        whole, other = (pickle.loads(pickle.dumps(part)) for part in parts)
        whole.merge(other)
        e = whole.result()
    else:
        e = lossless.evaluate(path, **options)
    expected = figures(found)
    if how == "on":
        expected["left_out"]["unmatched"] = 0
    assert figures(e) == expected
    assert any(f"{e.unknown} of {e.rows * CLASSES} marks are unknown (null, NaN or" in note for note in e.notes)


def test_any_cut_gives_the_same_bits(tmp_path, found, monkeypatch):
    monkeypatch.setattr(readers, "_BATCH_SCORES", 64)
    monkeypatch.setattr(rows, "_BLOCK_SCORES", 24)
    pq.write_table(pa.table({"logits": list(ODDS), "labels": pa.array(NONE)}), tmp_path / "p.parquet", row_group_size=9)
    assert figures(lossless.evaluate(tmp_path / "p.parquet", workers=3)) == figures(found)


def test_slices_are_of_known_marks_too(tmp_path):
    group = np.arange(ROWS) % 3
    np.savez(tmp_path / "p.npz", logits=ODDS, labels=AS_INTEGERS, group=group)
    (slicing,) = lossless.evaluate(tmp_path / "p.npz", by="group").slices
    for s in slicing.slices:
        here = KNOWN & (group == s.value)[:, None]
        assert s.rows == here.any(axis=1).sum()
        assert s.figures["bce"] == pytest.approx(metrics.log_loss(MARKS[here], special.expit(ODDS[here])), rel=1e-10)


def test_a_comparison_is_of_known_marks(tmp_path):
    other = 1.3 * ODDS + 0.5 * RANDOM.normal(size=ODDS.shape)
    a, b = saved(tmp_path / "a.npz", AS_INTEGERS), saved(tmp_path / "b.npz", AS_FLOATS, other)
    c = lossless.compare(a, b)
    count = KNOWN[SOME].sum(1)
    losses = [np.where(KNOWN, -np.where(MARKS, special.log_expit(x), special.log_expit(-x)), 0) for x in (ODDS, other)]
    wrong = [(((x > 0) != MARKS) & KNOWN).astype(float) for x in (ODDS, other)]
    for name, (ours, theirs) in (("bce", losses), ("hamming_loss", wrong)):
        f = c.figures[name]
        mean, ends = element_mean((theirs - ours)[SOME].sum(1), count)
        assert (f.a, f.b) == (getattr(c.a, name), getattr(c.b, name))
        assert (f.difference, f.low, f.high) == pytest.approx((mean, *ends), rel=1e-9)
    for k, part in enumerate(c.classes):
        d = (losses[1] - losses[0])[KNOWN[:, k], k]
        f = part.figures["bce"]
        assert (f.low, f.high) == pytest.approx(stats.norm.interval(0.95, d.mean(), stats.sem(d)), rel=1e-9)
    labels = AS_INTEGERS.copy()
    labels[8, 3] = -100
    with pytest.raises(EvaluationError, match=r"row 8 has no label \('1', '3' unknown\), and the labels '3' \('1' unk"):
        lossless.compare(a, saved(tmp_path / "c.npz", labels, other))


def test_a_class_of_which_nothing_is_known(tmp_path):
    labels = AS_INTEGERS.copy()
    labels[:, 2] = -100
    e = lossless.evaluate(saved(tmp_path / "p.npz", labels))
    figures = e.classes[2]
    assert (figures.known, figures.support, figures.predicted) == (0, 0, 0)
    assert all(math.isnan(value) for value in (figures.bce, figures.f1, figures.auroc))
    rest = np.delete(np.where(KNOWN, ODDS, np.nan), 2, axis=1)
    known = ~np.isnan(rest)
    assert e.bce == pytest.approx(metrics.log_loss(np.delete(MARKS, 2, 1)[known], special.expit(rest[known])))
    c = lossless.compare(tmp_path / "p.npz", tmp_path / "p.npz")
    assert math.isnan(c.classes[2].figures["bce"].difference)


@pytest.mark.parametrize(
    ("value", "options", "message"),
    [
        (-1, {}, "holds -1 for class 1 at row 6, expected 0 or 1 for each class, and null, NaN or -100 where that is"),
        (-1, {}, "If -1 says that it is not known whether the class is true, pass --ignore-index=-1"),
        (
            -100,
            {"ignore_index": None},
            "holds -100 for class 1 at row 6, expected 0 or 1 for each class, and null, NaN w",
        ),
        (3, {}, "If it holds quantities, pass --task regression"),
        (-100, {"ignore_index": 0}, "--ignore-index 0, but 0 says whether a class is true of a row. Expected another"),
    ],
)
def test_what_is_ambiguous_is_refused(tmp_path, value, options, message, capsys):
    labels = MARKS.astype(int)
    labels[6, 1] = value
    path = saved(tmp_path / "p.npz", labels)
    with pytest.raises(EvaluationError) as error:
        lossless.evaluate(path, task="multilabel", **options)
    assert message in str(error.value)
    if options.get("ignore_index", -100) is not None:
        given = [f"--ignore-index={n}" for n in options.values()]
        assert main(["evaluate", str(path), "--task", "multilabel", *given]) == 2
        assert message in capsys.readouterr().err


def test_minus_one_when_it_is_said_to_be_unknown(tmp_path, found):
    path = saved(tmp_path / "p.npz", np.where(KNOWN, MARKS, -1))
    assert figures(lossless.evaluate(path, ignore_index=-1)) == figures(found)
    with pytest.raises(ParameterError, match="ignore_index got 1, expected another number for a multilabel task"):
        lossless.Evaluator(task="multilabel", ignore_index=1)


def test_one_mark_a_row_is_no_one_hot_label_where_others_are_unknown(tmp_path):
    labels = np.where(np.eye(4, dtype=int)[np.arange(40) % 4] == 1, 1, -100)
    e = lossless.evaluate(saved(tmp_path / "p.npz", labels, ODDS[:40]))
    assert (e.source.task, e.unknown) == ("multilabel", 120)
    with pytest.raises(EvaluationError, match="none of the 40 rows can be scored: 40 rows have no scores or no label"):
        lossless.evaluate(saved(tmp_path / "p.npz", np.full((40, 4), -100), ODDS[:40]), task="multilabel")


@pytest.mark.parametrize("mark", [1.5, "x", np.float64(-1)])
def test_a_mark_is_a_whole_number(tmp_path, mark):
    with pytest.raises(ParameterError, match=r"^Evaluator: ignore_index got .*, expected a whole number or None"):
        lossless.Evaluator(ignore_index=mark)
    with pytest.raises(ParameterError, match=r"^evaluate: ignore_index got .*, expected a whole number or None"):
        lossless.evaluate(saved(tmp_path / "p.npz", AS_INTEGERS), ignore_index=mark)
    lossless.evaluate(tmp_path / "p.npz", ignore_index=np.int64(-100))


@pytest.mark.parametrize("value", [np.nan, -1.0])
def test_one_hot_labels_of_which_one_is_unknown_are_no_marks(tmp_path, value):
    labels = np.eye(4)[np.arange(40) % 4]
    labels[7, 2] = value
    with pytest.raises(EvaluationError, match="each row of 'labels' marks one class, as one-hot labels do"):
        lossless.evaluate(saved(tmp_path / "p.npz", labels, ODDS[:40]), ignore_index=-1)
    labels[7, :2] = 1
    assert lossless.evaluate(saved(tmp_path / "p.npz", labels, ODDS[:40]), ignore_index=-1).unknown == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full((40, 4), np.nan), "nothing is known of the first rows of 'labels': they hold null, NaN or the number"),
        (np.full((40, 4), -100), "Say what it holds by --task multilabel or --task regression, or check --ignore-i"),
        (np.where(KNOWN, MARKS, -1)[:40], "'labels' holds -1 beside 0 and 1. If that says .*, pass --ignore-index=-1"),
        (np.where(KNOWN, MARKS, 255)[:40], "'labels' holds 255 beside 0 and 1. If that says .*, pass --ignore-index=2"),
        (np.where(KNOWN, MARKS, 2)[:40], "but 'labels' holds other numbers than 0 and 1. Expected one label per row"),
    ],
)
def test_marks_that_are_not_known_are_not_taken_for_quantities(tmp_path, labels, message):
    with pytest.raises(EvaluationError, match=message):
        lossless.evaluate(saved(tmp_path / "p.npz", labels, ODDS[:40]))


def test_what_a_user_reads(found):
    (table,) = (t for t in build_tables(found, classes=9, few=3) if t.title == "Classes")
    at = table.columns.index("known")
    assert [row[at] for row in table.rows] == [str(n) for n in KNOWN.sum(axis=0)]
    assert "Known counts those of which it is known" in table.caption
    assert found.scalars()["unknown"] == found.unknown
