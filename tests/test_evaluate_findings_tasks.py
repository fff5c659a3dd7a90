"""What all rows of several labels or of quantities say is wrong: found where it is, and not in ordinary data."""

import numpy as np
import pytest
import scipy.special
from sklearn.datasets import load_diabetes, make_friedman1
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.metrics import f1_score, r2_score
from sklearn.multioutput import MultiOutputClassifier, MultiOutputRegressor
from sklearn.neighbors import KNeighborsRegressor

import lossless
import lossless._evaluate.readers as readers
import lossless._evaluate.rows as rows
from lossless._diagnose.troubles import troubles

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

ROWS = 800
RNG = np.random.default_rng(31)


def marks_of(odds, seed=0):
    """Labels drawn from their own probabilities."""
    return np.random.default_rng(seed).random(odds.shape) < scipy.special.expit(odds)


@pytest.fixture
def evaluate(tmp_path):
    """Write scores and truth, and evaluate them as they are named."""

    def run(name, scores, truth):
        np.savez(tmp_path / "p.npz", **{name: scores, "target" if name == "predictions" else "labels": truth})
        task = "regression" if name == "predictions" else "multilabel"
        return lossless.evaluate(tmp_path / "p.npz", task=task, **{name: name})

    return run


def put(array, where, value):
    array = array.copy()
    array[where] = value
    return array


ODDS = RNG.normal(size=(ROWS, 4)) * 3 - [0, 1, 2, 0]
MARKS = marks_of(ODDS).astype(int)
P = scipy.special.expit(ODDS)
TWICE = scipy.special.expit(P)
TARGET = RNG.normal(size=(ROWS, 3)) * [1, 50, 5] + [3, 1000, 0]
GUESS = TARGET + RNG.normal(size=TARGET.shape) * [0.5, 20, 2]
ONE, ONE_GUESS = TARGET[:, 1], GUESS[:, 1]
STANDARD = (ONE_GUESS - ONE_GUESS.mean()) / ONE_GUESS.std()
OFFSET = ONE_GUESS + 35
OFF = OFFSET - ONE
HALF = 1.959964 * OFF.std() / ROWS**0.5
SHUFFLED = RNG.permutation(ONE_GUESS)
SHIFTED = ODDS - 4
BEST = max(f1_score(MARKS[:, 0], SHIFTED[:, 0] >= t) for t in SHIFTED[:, 0])

FOUND = {
    ("sigmoid-before-loss", "P as logits"): (
        ("logits", P, MARKS),
        f"all of 'logits' lie in [0, 1], as --probs would take them: they run from {P.min():.6g} to {P.max():.6g}",
    ),
    ("sigmoid-twice", "sigmoid of P"): (
        ("probs", TWICE, MARKS),
        f"all probabilities lie between {TWICE.min():.6g} and {TWICE.max():.6g}",
        f"their mean is {TWICE.mean():.6g} where {MARKS.mean():.6g} of the marks are true",
    ),
    ("constant-input", "several labels"): (
        ("logits", np.tile(ODDS[:1], (ROWS, 1)), MARKS),
        "all 800 rows have the same scores, though their labels differ",
    ),
    ("dead-class", "several labels"): (
        ("logits", put(ODDS, (slice(None), 2), -9.0), MARKS),
        f"class 2 is true of {MARKS[:, 2].sum()} rows and is never predicted",
    ),
    ("absent-class", "several labels"): (
        ("logits", ODDS, put(MARKS, (slice(None), 1), 0)),
        "class 1 is true of none of 800 rows",
    ),
    ("other-threshold", "shifted"): (
        ("logits", SHIFTED, MARKS),
        f"F1 of class 0 is {f1_score(MARKS[:, 0], SHIFTED[:, 0] > 0):.3g}, and {BEST:.3g} if it is predicted from p = ",
    ),
    ("constant-input", "quantity"): (("predictions", 0 * ONE + 2.5, ONE), "all 800 predictions are 2.5, though"),
    ("constant-input", "an output"): (
        ("predictions", put(GUESS, (slice(None), 2), 7.0), TARGET),
        "all 800 predictions of '2' are 7, though their targets differ",
    ),
    ("other-scale", "standardised"): (
        ("predictions", STANDARD, ONE),
        f"predictions have a standard deviation of 1 and their targets of {ONE.std():.6g}, at a correlation of "
        f"{np.corrcoef(STANDARD, ONE)[0, 1]:.3g}",
        f"have an R² of {r2_score(ONE, STANDARD):.3g}",
    ),
    ("other-scale", "another sign"): (("predictions", -GUESS + 2 * TARGET.mean(0), TARGET), "correlation of -0.9"),
    ("other-scale", "raw against standardised targets"): (
        ("predictions", ONE_GUESS, (ONE - ONE.mean()) / ONE.std()),
        "and their targets of 1, at a correlation of ",
    ),
    ("biased-prediction", "an offset"): (
        ("predictions", OFFSET, ONE),
        f"the mean error is {OFF.mean():.6g} (95 % interval {OFF.mean() - HALF:.4g} to {OFF.mean() + HALF:.4g}), at an "
        f"RMSE of {np.sqrt(np.mean(OFF**2)):.6g}",
    ),
    ("worse-than-mean", "rows in another order"): (
        ("predictions", SHUFFLED, ONE),
        f"R² is {r2_score(ONE, SHUFFLED):.3g} in 800 rows",
        f"and {ONE.std():.6g} if the answer is always {ONE.mean():.6g}",
    ),
    ("swapped-outputs", "two of three"): (
        ("predictions", GUESS[:, [1, 0, 2]], TARGET),
        f"predictions of '0' go with the targets of '1' (correlation {np.corrcoef(GUESS[:, 1], ONE)[0, 1]:.3g}, and ",
        "predictions of '1' go with the targets of '0'",
    ),
    ("swapped-outputs", "all in a ring"): (
        ("predictions", GUESS[:, [1, 2, 0]], TARGET),
        "predictions of '2' go with the targets of '0'",
    ),
}


@pytest.mark.parametrize("case", FOUND, ids=", ".join)
def test_found(evaluate, case):
    columns, *parts = FOUND[case]
    e = evaluate(*columns)
    name = case[0]
    (finding,) = e.failed(name)
    assert finding.severity == troubles()[name].level
    for part in parts:
        assert part in finding.evidence
    assert "{" not in finding.sentence()
    alone = {"sigmoid-before-loss", "sigmoid-twice", "swapped-outputs", "other-scale", "biased-prediction"}
    if name in alone:  # what they explain is not said beside them
        assert [f.name for f in e.findings] == [name]


@pytest.mark.parametrize("case", FOUND, ids=", ".join)
def test_the_same_findings_for_any_cuts(tmp_path, monkeypatch, case):
    (name, scores, truth), *_ = FOUND[case]

    def run(group, workers):
        columns = {name: list(scores), "target" if name == "predictions" else "labels": list(truth)}
        pq.write_table(pa.table(columns), tmp_path / "p.parquet", row_group_size=group)
        task = "regression" if name == "predictions" else "multilabel"
        return lossless.evaluate(tmp_path / "p.parquet", task=task, workers=workers, **{name: name}).findings

    whole = run(1000, 1)
    assert case[0] in [f.name for f in whole]
    monkeypatch.setattr(readers, "_BATCH_SCORES", 150)
    monkeypatch.setattr(rows, "_BLOCK_SCORES", 70)
    assert run(301, 3) == whole


def test_an_evaluator_finds_the_same(evaluate):
    parts = [lossless.Evaluator(task="regression") for _ in range(2)]
    for part, where in zip(parts, (slice(0, 300), slice(300, None)), strict=True):
        part.update(GUESS[where][:, [1, 0, 2]], TARGET[where])
    parts[0].merge(parts[1])
    found = [(f.name, f.evidence) for f in parts[0].result().findings]
    assert found == [(f.name, f.evidence) for f in evaluate("predictions", GUESS[:, [1, 0, 2]], TARGET).findings]


def test_unknown_marks_are_no_absent_class(evaluate):
    labels = put(MARKS, (slice(None), 1), -100)
    assert not evaluate("logits", ODDS, labels).findings
    labels[:5, 1] = 0  # too few to tell
    assert not evaluate("logits", ODDS, labels).findings


FEW = {
    "one row": (GUESS[:1] + 100, TARGET[:1]),
    "few rows": (RNG.permutation(GUESS[:31]), TARGET[:31]),
    "alike and right": (np.full(50, 2.0), np.full(50, 2.0)),
    "alike and a constant off": (np.full(50, 2.0), np.full(50, 2.0001)),
    "the same outputs": (GUESS[:, [1, 1]], TARGET[:, [1, 1]]),
    "outputs that hang together": (np.stack([ONE_GUESS, GUESS[:, 1] + GUESS[:, 0]], 1), np.stack([ONE, ONE + 1], 1)),
    "exact": (TARGET, TARGET),
    "exact but for an offset that means nothing": (TARGET + 1e-6, TARGET),
    "the median of skewed targets": (np.full(ROWS, np.log(2.0)) + 1e-3 * ODDS[:, 0], RNG.exponential(size=ROWS)),
    "nothing to be known": (1e-2 * ODDS[:, 0], RNG.normal(size=ROWS)),
    "huge": (GUESS * 1e160, TARGET * 1e160),
}


@pytest.mark.parametrize("name", FEW)
def test_nothing_is_said_of_quantities_that_are_fine(evaluate, name):
    found = {f.name for f in evaluate("predictions", *FEW[name]).findings}
    assert found == ({"biased-prediction"} if "constant off" in name else set())


def test_few_rows_of_many_that_no_sample_holds(evaluate):
    for row in range(6):
        guess = np.full(100_000, np.nan)
        guess[row] = 1.5
        e = evaluate("predictions", guess, np.ones(100_000))
        assert (e.rows, e.mse, [f.name for f in e.findings]) == (1, 0.25, ["non-finite-input"])


@pytest.mark.parametrize("data", ["diabetes", "friedman", "outputs"])
@pytest.mark.parametrize(
    "model",
    [
        LinearRegression(),
        Ridge(1.0),
        RandomForestRegressor(20, random_state=0),
        GradientBoostingRegressor(n_estimators=60, random_state=0),
        KNeighborsRegressor(),
    ],
    ids=lambda model: type(model).__name__,
)
def test_real_regressions_raise_no_alarm(evaluate, data, model):
    x, y = load_diabetes(return_X_y=True) if data == "diabetes" else make_friedman1(500, noise=2, random_state=0)
    if data == "outputs":  # one that is alike, one with another sign, and one that nothing tells
        y = np.stack([y, y + 3 * RNG.normal(size=len(y)), -y, RNG.normal(size=len(y))], axis=1)
        model = MultiOutputRegressor(model)
    order = np.random.default_rng(0).permutation(len(y))
    train, test = order[::2], order[1::2]
    assert evaluate("predictions", model.fit(x[train], y[train]).predict(x[test]), y[test]).findings == ()


@pytest.mark.parametrize("spread", [0.5, 1, 3])
@pytest.mark.parametrize("size", [60, 1000])
def test_calibrated_labels_raise_no_alarm(evaluate, spread, size):
    for seed in range(4):
        random = np.random.default_rng(seed)
        odds = random.uniform(-3, 1, 6) + spread * random.normal(size=(size, 6))
        marks = marks_of(odds, seed).astype(int)
        for e in (
            evaluate("logits", odds.astype(np.float32), marks),
            evaluate("probs", scipy.special.expit(odds), marks),
        ):
            assert e.failed("warning") == ()
            assert {f.name for f in e.findings} <= {"dead-class", "other-threshold", "absent-class"}  # of rare classes


def test_classes_that_are_not_rare_are_fine(evaluate):
    for seed in range(6):
        odds = 2 * np.random.default_rng(seed).normal(size=(500, 5))
        assert evaluate("logits", odds, marks_of(odds, seed).astype(int)).findings == ()


def test_probabilities_of_a_likely_class_are_no_sigmoid_of_a_sigmoid(evaluate):
    odds = RNG.uniform(0, 1, (ROWS, 3))  # and they are right
    assert evaluate("probs", scipy.special.expit(odds), marks_of(odds).astype(int)).findings == ()


def test_real_labels_raise_no_alarm(evaluate):
    x, y = make_friedman1(800, random_state=2)
    truth = np.stack([y > np.quantile(y, q) for q in (0.3, 0.5, 0.7)], axis=1).astype(int)
    model = MultiOutputClassifier(LogisticRegression(max_iter=500)).fit(x[::2], truth[::2])
    probs = np.stack([p[:, 1] for p in model.predict_proba(x[1::2])], axis=1)
    assert evaluate("probs", probs, truth[1::2]).findings == ()


def test_names_stay_in_their_place(tmp_path):
    names = np.array(["<b>", "cat\x1b[2J", "\u202eow"])
    np.savez(tmp_path / "p.npz", predictions=GUESS[:, [1, 0, 2]], target=TARGET, class_names=names)
    (finding,) = lossless.evaluate(tmp_path / "p.npz").findings
    assert "predictions of 'cat\\x1b[2J' go with the targets of '<b>'" in finding.evidence
    assert "\x1b" not in finding.evidence
