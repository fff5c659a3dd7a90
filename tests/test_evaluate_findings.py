"""What all rows together say is wrong: found where it is, not found where it only looks like it, whatever the cuts."""

import json

import numpy as np
import pytest
import scipy.special
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB

import lossless
import lossless._evaluate.readers as readers
import lossless._evaluate.rows as rows
from lossless._diagnose.troubles import troubles
from lossless._evaluate.findings import known
from lossless._evaluate.rows import Kind, ScoredRows, score_rows
from lossless._evaluate.signs import Normalised, Repeats, Uniform
from lossless.cli import main
from lossless.errors import ParameterError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ROWS = 600


@pytest.fixture
def evaluate(tmp_path):
    """Write columns as they are named, and evaluate them."""

    def run(label, **scores):
        ((name, values),) = scores.items()
        np.savez(tmp_path / "p.npz", **{name: values, "label": label})
        return lossless.evaluate(tmp_path / "p.npz", **{name: name})

    return run


def calibrated(classes, scale=3.0, seed=0, size=ROWS):
    """Scores, and labels drawn from their own probabilities."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, classes)) * scale
    p = scipy.special.softmax(x, axis=1)
    return x, (p.cumsum(axis=1) > rng.random((size, 1))).argmax(axis=1)


X, Y = calibrated(5)
P = scipy.special.softmax(X, axis=1)
SURE = scipy.special.softmax(10 * X, axis=1)
SURE_LABEL = np.where(np.arange(ROWS) % 20 == 0, (SURE.argmax(1) + 2) % 5, SURE.argmax(1))  # 95% right
FLAT = scipy.special.softmax(SURE, axis=1)


def put(array, where, value):
    array = array.copy()
    array[where] = value
    return array


FOUND = {
    "non-finite-input": (
        {"logits": put(X, [7, 9], np.nan), "label": Y},
        "2 of 600 rows have scores that give no distribution",
        "first: row 7 of ",
    ),
    "unnormalised-rows": ({"probs": put(P, 11, P[11] / 2), "label": Y}, "1 rows of probs", "first: row 11 of "),
    "zero-probability": (
        {"probs": put(P, 3, np.eye(5)[(Y[3] + 1) % 5]), "label": Y},
        "1 rows give their label probability 0 (first: row 3 of ",
    ),
    "impossible-label": (
        {"logits": put(X, (4, Y[4]), -np.inf), "label": Y},
        "1 rows give their label probability 0 (first: row 4 of ",
    ),
    "softmax-before-loss": (
        {"logits": SURE, "label": SURE_LABEL},
        "all 600 rows of 'logits' lie in [0, 1] and sum to 1",
        "row 0 of ",
    ),
    "softmax-twice": (
        {"probs": FLAT, "label": SURE_LABEL},
        f"no probability exceeds {np.e / (np.e + 4):.6g}",
        f"mean confidence is {FLAT.max(1).mean():.6g} at an accuracy of 0.95",
        f"without one softmax it would be {SURE.max(1).mean():.6g}",
    ),
    "constant-input": ({"logits": np.tile(X[:1], (ROWS, 1)), "label": Y}, "all 600 rows are ", "their labels differ"),
    "uniform-rows": ({"logits": put(X, [70, 80], 1.5), "label": Y}, "in 2 of 600 rows", "first: row 70 of "),
    "duplicated-rows": (
        {"logits": np.tile(X[:200], (3, 1)), "label": np.tile(Y[:200], 3)},
        "200 distinct rows (scores and label) among 600, each 3 times",
        "the first of them is row 0 of ",
    ),
    "repeated-rows": (
        {"logits": np.concatenate([X[:500], X[400:500]]), "label": np.concatenate([Y[:500], Y[400:500]])},
        "500 distinct rows (scores and label) among 600",
        "occur 2 times, and the first of them is row 400 of ",
    ),
    "one-label": ({"logits": put(X, (slice(None), 3), 9.0), "label": 0 * Y + 3}, "all 600 labels are 3"),
    "label-is-prediction": ({"logits": X, "label": X.argmax(1)}, "in all 600 rows; 'label' may hold predictions"),
    "labels-off-by-one": (
        {"logits": X, "label": (Y + 1) % 5},
        f"the accuracy is {np.mean(X.argmax(1) == (Y + 1) % 5):.6g}",
        f"and {np.mean(X.argmax(1) == Y):.6g} of the rows are predicted as the class with the number of their label "
        "minus 1",
    ),
    "permuted-classes": (
        {"logits": X[:, [0, 3, 2, 1, 4]] * 4, "label": SURE_LABEL},
        "1 is predicted as 3 in ",
        f"renamed the accuracy would be 0.95 instead of {np.mean(X[:, [0, 3, 2, 1, 4]].argmax(1) == SURE_LABEL):.6g}",
    ),
    "dead-class": (
        {"logits": put(X, (slice(None), 2), -20.0), "label": Y},
        f"class 2 has {np.sum(Y == 2)} rows and is never predicted",
    ),
    "absent-class": (
        {"logits": np.append(X, np.full((ROWS, 1), 5.0), axis=1), "label": Y},
        f"class 5 is predicted in {np.sum(X.max(1) < 5)} rows and is the label of none",
    ),
    "over-confident": (
        {"logits": 3 * X, "label": Y},
        f"the mean confidence is {scipy.special.softmax(3 * X, 1).max(1).mean():.6g} and the accuracy "
        f"{np.mean(X.argmax(1) == Y):.6g} in 600 rows",
    ),
    "under-confident": ({"logits": X / 3, "label": Y}, "the mean confidence is ", "in 600 rows"),
    "saturated-input": (
        {"logits": 100 * np.eye(5)[SURE_LABEL], "label": SURE_LABEL},
        "in all 600 rows the largest score leads by 100 or more",
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_found(evaluate, name):
    columns, *parts = FOUND[name]
    e = evaluate(**columns)
    (finding,) = e.failed(name)
    assert finding.severity == troubles()[name].level
    for part in parts:
        assert part in finding.evidence
    assert "{" not in finding.sentence()
    assert {"name": name, "severity": finding.severity, "evidence": finding.evidence}.items() <= {
        k: v for f in json.loads(e.to_json())["findings"] if f["name"] == name for k, v in f.items()
    }.items()


def test_every_finding_is_tested():
    elsewhere = {"weak-slice"}  # in test_evaluate_slices.py
    elsewhere |= {"sigmoid-before-loss", "sigmoid-twice", "other-threshold"}  # in test_evaluate_findings_tasks.py
    elsewhere |= {"swapped-outputs", "other-scale", "biased-prediction", "worse-than-mean"}
    assert set(FOUND) | elsewhere == set(known())
    assert set(known()) >= {t.name for t in troubles().values() if "calls" not in t.found_in}


TWO = calibrated(2)
TREE = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])[np.arange(ROWS) * 7919 % ROWS * 3 // ROWS]
TREE_LABEL = (TREE.cumsum(axis=1) > np.random.default_rng(5).random((ROWS, 1))).argmax(axis=1)
FOLLOWS = {"label-is-prediction", "under-confident"}  # of labels that were made of the scores
FINE = {
    "calibrated": {"logits": X, "label": Y},
    "half precision": {"logits": X.astype(np.float16), "label": Y},
    "probabilities of half precision": {"probs": P.astype(np.float16), "label": Y},
    "log-probabilities as logits": {"logits": np.log(P), "label": Y},
    # below the bound of a second softmax, and right not to be sure
    "flat and calibrated": dict(zip(("logits", "label"), calibrated(5, 0.3), strict=True)),
    "masked classes": {"logits": put(X, (slice(None), 4), -np.inf), "label": X[:, :4].argmax(1)},
    "a few logits that look like probabilities": {"logits": put(X, slice(0, 40), P[:40]), "label": Y},
    "one wrong row": {"logits": 9 * X, "label": put(X.argmax(1), 0, (X[0].argmax() + 1) % 5)},
    "few leaves of a tree": {"probs": TREE, "label": TREE_LABEL},
    "ties of two": {"logits": put(TWO[0], slice(0, 50), 0.0), "label": put(TWO[1], slice(0, 50), np.arange(50) % 2)},
    "a class of nine rows": {
        "logits": put(np.append(X, X[:, :1] - 40, 1), slice(0, 9), [0.0, 1, 0, 0, 0, 0]),
        "label": put(Y, slice(0, 9), 5),
    },
}


@pytest.mark.parametrize("name", FINE)
def test_nothing_is_said_of_what_is_fine(evaluate, name):
    found = {f.name for f in evaluate(**FINE[name]).findings}
    assert found == (FOLLOWS if name == "masked classes" else set())


@pytest.mark.parametrize("classes", [2, 3, 10, 100])
def test_calibrated_scores_raise_no_alarm(evaluate, classes):
    for seed, scale in enumerate([0.1, 0.5, 1, 2, 5]):
        x, y = calibrated(classes, scale, seed, 2000)
        for e in (evaluate(logits=x.astype(np.float32), label=y), evaluate(probs=scipy.special.softmax(x, 1), label=y)):
            assert e.failed("warning") == ()
            assert {f.name for f in e.findings} <= {"dead-class"}


@pytest.mark.filterwarnings("ignore:lbfgs")
@pytest.mark.parametrize("load", [load_digits, load_wine, load_breast_cancer, load_iris])
@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (LogisticRegression(max_iter=300), set()),
        (LogisticRegression(C=1e-4), set()),  # far too smooth: under-confident, which is a hint
        (RandomForestClassifier(30, random_state=0), set()),
        (GaussianNB(), {"over-confident"}),  # naive: it is
    ],
)
def test_real_classifiers_raise_no_alarm(evaluate, load, model, expected):
    x, y = load(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    train, test = order[::2], order[1::2]
    x = x / np.abs(x).max(axis=0).clip(1)
    e = evaluate(probs=model.fit(x[train], y[train]).predict_proba(x[test]), label=y[test])
    assert {f.name for f in e.failed("warning")} <= expected


@pytest.fixture(scope="module", params=[LogisticRegression(max_iter=300), RandomForestClassifier(random_state=0)])
def held_out(request):
    """Real probabilities and labels of three classes."""
    x, y = load_wine(return_X_y=True)
    x = x / np.abs(x).max(axis=0)
    return request.param.fit(x[::2], y[::2]).predict_proba(x[1::2]), y[1::2]


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (lambda p, y: {"probs": p, "label": y}, None),
        (lambda p, y: {"logits": p, "label": y}, "softmax-before-loss"),
        (lambda p, y: {"logits": scipy.special.softmax(p, axis=1), "label": y}, "softmax-before-loss"),
        (lambda p, y: {"probs": p, "label": (y + 1) % 3}, "labels-off-by-one"),
        (lambda p, y: {"probs": np.insert(p, 0, 0.0, axis=1), "label": y}, "labels-off-by-one"),
        (lambda p, y: {"probs": p[:, ::-1], "label": y}, "permuted-classes"),
        (lambda p, y: {"probs": np.concatenate([p, p]), "label": np.concatenate([y, y])}, "duplicated-rows"),
    ],
)
def test_faults_in_real_predictions(evaluate, held_out, fault, name):
    assert [f.name for f in evaluate(**fault(*held_out)).failed("warning")] == ([] if name is None else [name])


def test_softmax_twice_is_not_weak_or_smooth(evaluate):
    # two classes, all of them under the bound 0.73, and under-confident: smoothed, not softened twice
    x, y = calibrated(2, 3)
    smooth = np.clip(x / 6, -0.45, 0.45)
    e = evaluate(logits=smooth, label=y)
    assert [f.name for f in e.findings] == ["under-confident"]


def test_swapped_classes_of_two(evaluate):
    (finding,) = evaluate(logits=X[:, 1::-1] * 5, label=(X[:, 0] < X[:, 1]).astype(int)).failed("permuted-classes")
    assert "0 is predicted as 1 in" in finding.evidence
    assert "the accuracy would be 1 instead of 0" in finding.evidence


def test_a_class_that_is_taken_for_another_is_not_permuted(evaluate):
    # 1 -> 3 and nothing comes back
    label = put(SURE_LABEL, SURE_LABEL == 3, 1)
    assert not evaluate(probs=SURE, label=label).failed("permuted-classes")


def cut(path, group, columns):
    name, label = next(n for n in columns if n != "label"), columns["label"]
    column = pa.FixedSizeListArray.from_arrays(pa.array(columns[name].ravel()), columns[name].shape[1])
    pq.write_table(pa.table({name: column, "label": pa.array(label)}), path, row_group_size=group)
    return lossless.evaluate(path, **{name: name}, workers=1 + group % 3).to_dict()


@pytest.mark.parametrize("name", FOUND)
def test_the_same_findings_for_any_cuts(tmp_path, monkeypatch, name):
    columns = FOUND[name][0]
    whole = cut(tmp_path / "p.parquet", 1000, columns)
    assert name in [f["name"] for f in whole["findings"]]
    assert cut(tmp_path / "p.parquet", 64, columns) == whole
    monkeypatch.setattr(readers, "_BATCH_SCORES", 35)
    monkeypatch.setattr(rows, "_BLOCK_SCORES", 15)
    assert cut(tmp_path / "p.parquet", 101, columns) == whole


def test_counts_of_repeats_are_exact_whatever_is_kept():
    gen = np.random.default_rng(3)
    x = gen.normal(size=(4000, 3))[gen.integers(0, 4000, 6000)]
    y = np.zeros(6000, int)
    unique, count = np.unique(x, axis=0, return_counts=True)
    multiplicity = {tuple(row): n for row, n in zip(unique.tolist(), count.tolist(), strict=True)}
    scored = score_rows(0, np.arange(6000), x, y, Kind.LOGITS)
    kept = Repeats(256)
    for start in range(0, 6000, 700):
        part = Repeats(256)
        for i in range(start, min(start + 700, 6000), 97):
            part.update(take(scored, slice(i, min(i + 97, start + 700))))
        kept.merge(part)
    kept = kept.result()
    once = Repeats(256)
    once.update(scored)
    once = once.result()
    assert [kept.hashes.tolist(), kept.count.tolist(), kept.row.tolist()] == [
        once.hashes.tolist(),
        once.count.tolist(),
        once.row.tolist(),
    ]
    assert [multiplicity[tuple(x[row])] for row in kept.row] == kept.count.tolist()
    assert [np.flatnonzero((x == x[row]).all(axis=1))[0] for row in kept.row] == kept.row.tolist()
    assert kept.distinct() == pytest.approx(len(unique), rel=4 / 256**0.5)
    everything = Repeats(10_000)
    everything.update(scored)
    assert everything.result().distinct() == len(unique)


@pytest.mark.parametrize("sign", [Uniform, Normalised, Repeats])
def test_rows_that_come_after_others(sign):
    # an evaluator of another process counts its own rows from 0
    x = np.concatenate([X[:20], np.full((5, 5), 0.2), X[10:30], np.full((5, 5), 0.2), X[40:]])
    first, second, both = sign(), sign(), sign()
    for part, where in ((first, slice(0, 15)), (second, slice(15, None)), (both, slice(None))):
        part.update(score_rows(0, np.arange(len(x[where])), x[where], np.zeros(len(x[where]), int), Kind.LOGITS))
    second.shift(15)
    first.merge(second)
    if sign is Repeats:
        first, both = first.result(), both.result()
        assert (first.row.tolist(), first.count.tolist()) == (both.row.tolist(), both.count.tolist())
    else:
        assert first.found == both.found
        assert first.found.row == 20


def take(scored: ScoredRows, where):
    keep = np.zeros(len(scored), bool)
    keep[where] = True
    return scored.take(keep)


# ---------------------------------------------------------------- failing


def test_exit_code_after_the_outputs(tmp_path, capsys):
    path, out = str(tmp_path / "p.npz"), tmp_path / "e.json"
    np.savez(path, logits=put(3 * X, 7, np.nan), label=Y)
    for names in ("over-confident", "any", "warning", "hint", "dead-class,non-finite-input", "any,error"):
        assert main(["evaluate", path, "--fail-on", names, "--json", str(out)]) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("lossless evaluate: found ")
        assert captured.err.count("\n") == 1
        assert ("over-confident" in captured.err) == (names != "dead-class,non-finite-input")
        assert "calibration error" in captured.out
        assert len(json.loads(out.read_text())["findings"]) == 2
        out.unlink()
    for names in ("error", "dead-class", "constant-input , softmax-twice"):
        assert main(["evaluate", path, "--fail-on", names]) == 0
        assert capsys.readouterr().err == ""
    assert main(["evaluate", path, "--fail-on", "dead-class", "--fail-on", "over-confident"]) == 2
    assert main(["evaluate", path]) == 0


def test_names_that_are_none(tmp_path, capsys, evaluate):
    with pytest.raises(SystemExit) as exit:
        main(["evaluate", "nowhere.npz", "--fail-on", "any,overconfident\x1b[2J"])
    assert exit.value.code == 2
    err = capsys.readouterr().err
    assert "got 'overconfident\\x1b[2J', expected any, hint, warning, error or a finding: absent-class, " in err
    assert all(name in err for name in known())
    e = evaluate(logits=3 * X, label=Y)
    with pytest.raises(ParameterError, match="got 'label-dtype', expected any"):
        e.failed("label-dtype")
    assert [f.name for f in e.failed()] == [f.name for f in e.failed(["warning"])] == ["over-confident"]
    assert e.failed("error") == e.failed([]) == ()


def test_names_of_classes_and_files_stay_in_their_place(tmp_path):
    path = tmp_path / "a\x1b[31m.npz"
    names = ["<b>", "cat\x1b[2J", "\u202eow", "d", "e"]
    np.savez(path, logits=put(put(X, (slice(None), 1), -20.0), 3, np.nan), label=Y, class_names=names)
    text = " ".join(f.evidence for f in lossless.evaluate(path).findings)
    assert "class 'cat\\x1b[2J' has " in text
    assert "row 3 of " in text
    assert "\x1b" not in text
