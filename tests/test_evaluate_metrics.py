"""Further figures against scikit-learn, SciPy and brute force: intervals, ranks, confidence, confusion, temperature."""

import json
import math
import pickle
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import confusion_matrix, roc_auc_score, top_k_accuracy_score
from sklearn.naive_bayes import GaussianNB

import lossless
from lossless._evaluate import evaluate
from lossless._evaluate.confidence import ConfidenceRanking
from lossless._evaluate.confusion import Confusion
from lossless._evaluate.intervals import Moments, mean_interval, wilson
from lossless._evaluate.rows import Kind, score_rows
from lossless._evaluate.tasks import multiclass
from lossless._evaluate.temperature import TemperatureFit

RNG = np.random.default_rng(3)


@pytest.fixture(scope="module")
def digits():
    """Logits and labels of held-out digits."""
    x, y = load_digits(return_X_y=True)
    return LogisticRegression(max_iter=300).fit(x[::2], y[::2]).decision_function(x[1::2]), y[1::2]


@pytest.fixture(scope="module")
def bayes():
    """Probabilities of an over-confident model: many round to 0 and 1."""
    x, y = load_digits(return_X_y=True)
    return GaussianNB().fit(x[::2], y[::2]).predict_proba(x[1::2]), y[1::2]


def figures(path, scores, labels, name="logits"):
    np.savez(path / "p.npz", **{name: scores, "label": labels})
    return evaluate(path / "p.npz")


def scored(scores, labels, kind=Kind.LOGITS, file=0, first=0):
    labels = np.asarray(labels)
    return score_rows(file, first + np.arange(len(labels)), np.asarray(scores, float), labels, kind)


def result(metric, *batches):
    for batch in batches:
        metric.update(batch)
    return metric.result()


# Numbers of a row


def test_surprise_tells_confidences_near_one_apart():
    s = scored([[40.0, 0.0], [40.0, 0.0], [0.0, 50.0], [math.inf, 0.0], [math.inf, 0.0]], [0, 1, 1, 0, 1])
    assert s.surprise.tolist() == pytest.approx([math.log1p(math.exp(-40))] * 2 + [math.log1p(math.exp(-50)), 0, 0])
    assert s.nll.tolist() == pytest.approx([s.surprise[0], 40.0, s.surprise[2], 0.0, math.inf])
    assert s.confidence.tolist() == [1.0] * 5


def test_row_numbers_do_not_depend_on_how_many_are_computed_at_once(digits):
    scores, y = digits
    whole = scored(scores, y)
    for step in (1, 7, 400):
        cut = [scored(scores[i : i + step], y[i : i + step]) for i in range(0, len(y), step)]
        for name in ("nll", "surprise", "entropy", "brier", "confidence", "rank"):
            found = np.concatenate([getattr(part, name) for part in cut])
            assert found.tolist() == getattr(whole, name).tolist()


def test_focal_loss_is_the_librarys(tmp_path, digits):
    logits, y = digits
    assert figures(tmp_path, logits, y).focal == pytest.approx(
        lossless.focal_loss(logits, y, gamma=2.0).item(), rel=1e-12
    )


# Ranks of the label


def test_top_k_accuracy_agrees_with_scikit_learn(tmp_path, digits):
    logits, y = digits
    e = figures(tmp_path, logits, y)
    for k in range(1, 10):
        assert e.top_k_accuracy(k) == pytest.approx(top_k_accuracy_score(y, logits, k=k), rel=1e-15)
    assert e.top_5_accuracy == e.top_k_accuracy(5)
    assert (e.top_k_accuracy(1), e.top_k_accuracy(10)) == (e.accuracy, 1.0)
    with pytest.raises(lossless.errors.ParameterError, match="k got 11"):
        e.top_k_accuracy(11)


@given(st.lists(st.tuples(st.lists(st.integers(0, 3), min_size=5, max_size=5), st.integers(0, 4)), min_size=1))
def test_ranks_of_equal_scores_go_by_the_number_of_the_class(table):
    scores, labels = np.array([s for s, _ in table], float), np.array([y for _, y in table])
    order = np.argsort(-scores, axis=1, kind="stable")
    expected = np.argmax(order == labels[:, None], axis=1)
    s = scored(scores, labels)
    assert s.rank.tolist() == expected.tolist()
    assert (s.rank == 0).tolist() == s.right.tolist() == (s.predicted == labels).tolist()


# Intervals


def test_interval_of_a_mean():
    values = RNG.exponential(size=500)
    total, squares = sum(map(Fraction, values)), sum(Fraction(v) ** 2 for v in values)
    interval = mean_interval(Moments.plain(500, total, squares))
    expected = scipy.stats.norm.interval(0.95, values.mean(), scipy.stats.sem(values))
    assert (interval.low, interval.high) == pytest.approx(expected, rel=1e-12)
    near = 1e8 + values  # the variance is lost in float64 sums of squares, not here
    exactly = [sum(map(Fraction, near)), sum(Fraction(v) ** 2 for v in near)]
    assert mean_interval(Moments.plain(500, *exactly)).high - near.mean() == pytest.approx(
        expected[1] - values.mean(), rel=1e-6
    )


def test_intervals_of_the_figures(tmp_path, digits):
    logits, y = digits
    e = figures(tmp_path, logits, y)
    loss = -scipy.special.log_softmax(logits, axis=1)[np.arange(len(y)), y]
    p = scipy.special.softmax(logits, axis=1)
    for name, values in (
        ("nll", loss),
        ("bits", loss / math.log(2)),
        ("confidence", p.max(1)),
        ("entropy", scipy.stats.entropy(p, axis=1)),
        ("brier", ((p - np.eye(10)[y]) ** 2).sum(1)),
        ("focal", (1 - np.exp(-loss)) ** 2 * loss),
    ):
        expected = scipy.stats.norm.interval(0.95, values.mean(), scipy.stats.sem(values))
        assert (e.intervals[name].low, e.intervals[name].high) == pytest.approx(expected, rel=1e-9)
    assert e.intervals["perplexity"].high == pytest.approx(math.exp(e.intervals["nll"].high))
    for name, value in e.scalars().items():
        if name in e.intervals:
            assert e.intervals[name].low < value < e.intervals[name].high


@pytest.mark.parametrize(("successes", "rows"), [(0, 7), (7, 7), (1, 1), (3, 1000), (899, 1797), (1, 2)])
def test_wilson_agrees_with_scipy(successes, rows):
    expected = scipy.stats.binomtest(successes, rows).proportion_ci(method="wilson")
    interval = wilson(successes, rows)
    assert (interval.low, interval.high) == pytest.approx((expected.low, expected.high), rel=1e-12, abs=1e-15)


def test_intervals_that_are_not_defined(tmp_path):
    e = figures(tmp_path, np.array([[2.0, 0.0]]), [0])  # one row
    assert math.isnan(e.intervals["nll"].low)
    assert e.intervals["accuracy"].high == 1.0 > e.intervals["accuracy"].low > 0.0
    e = figures(tmp_path, np.array([[1.0, 0.0], [0.5, 0.5]]), [1, 0], name="probs")  # an infinite loss
    assert math.isnan(e.intervals["nll"].high)
    assert json.loads(e.to_json())["intervals"]["nll"] == {"low": None, "high": None}
    e = figures(tmp_path, np.full((9, 3), 0.5), [0] * 9)  # all rows are the same: no width, rather than a negative one
    assert e.intervals["nll"].high - e.nll <= 1e-7


# Confidence


def brute_risk(log_confidence, right):
    """The mean of risks at every coverage, for confidences that all differ."""
    wrong = ~right[np.argsort(-log_confidence)]
    return np.cumsum(wrong) / np.arange(1, len(wrong) + 1)


def test_confidence_figures_of_real_predictions(tmp_path, digits):
    logits, y = digits
    e = figures(tmp_path, logits, y)
    key = scipy.special.log_softmax(logits, axis=1).max(1)
    right = logits.argmax(1) == y
    assert e.confidence_auroc == pytest.approx(roc_auc_score(right, key), rel=1e-13)
    assert e.bounds == {"adaptive_calibration_error": 0.0, "confidence_auroc": 0.0, "aurc": 0.0}
    risk = brute_risk(key, right)
    assert e.aurc == pytest.approx(risk.mean(), rel=1e-12)
    assert len(e.risk_coverage) <= 200
    assert e.risk_coverage[-1] == (1.0, pytest.approx(1.0 - e.accuracy))
    for coverage, r in e.risk_coverage:
        assert r == pytest.approx(risk[round(coverage * len(y)) - 1], rel=1e-12)
    p = np.exp(key)
    fraction, mean = calibration_curve(right, p, n_bins=15, strategy="quantile")
    edges = np.percentile(p, np.linspace(0, 100, 16))
    weight = np.bincount(np.searchsorted(edges[1:-1], p), minlength=15)
    weight = weight[weight > 0] / len(y)
    assert e.adaptive_calibration_error == pytest.approx((weight * abs(fraction - mean)).sum(), rel=1e-11)
    fraction, mean = calibration_curve(right, p, n_bins=15)
    assert e.max_calibration_error == pytest.approx(abs(fraction - mean).max(), rel=1e-11)


def test_confidences_that_round_to_one_are_no_ties(tmp_path, bayes):
    p, y = bayes
    e = figures(tmp_path, p, y, name="probs")
    right = p.argmax(1) == y
    others = np.sort(p, axis=1)[:, :-1].sum(1)
    assert e.confidence_auroc == pytest.approx(roc_auc_score(right, -others / p.max(1)), rel=1e-12)
    assert abs(e.confidence_auroc - roc_auc_score(right, p.max(1))) > 1e-3


@pytest.mark.parametrize("kind", ["probs", "logits"])
def test_equal_shares_of_votes_are_ties(tmp_path, kind):
    rng = np.random.default_rng(5)
    votes = rng.multinomial(50, rng.dirichlet(np.ones(6), 2000))
    votes = votes[(np.sort(votes, axis=1)[:, -1] > np.sort(votes, axis=1)[:, -2])]
    labels = np.where(rng.random(len(votes)) < votes.max(axis=1) / 50, votes.argmax(axis=1), 0)
    with np.errstate(divide="ignore"):
        scores = votes / 50 if kind == "probs" else np.log(votes) + rng.integers(-9, 9, (len(votes), 1))
    np.savez(tmp_path / "p.npz", label=labels, **{kind: scores})
    e = evaluate(tmp_path / "p.npz")
    right = votes.argmax(axis=1) == labels
    assert e.confidence_auroc == pytest.approx(roc_auc_score(right, votes.max(axis=1)), rel=1e-12)


@pytest.mark.parametrize("voters", [3, 6, 15])
def test_shares_of_votes_at_the_edges_of_bins(tmp_path, voters):
    rng = np.random.default_rng(5)
    votes = rng.multinomial(voters, rng.dirichlet(np.ones(6), 2000))
    np.savez(tmp_path / "p.npz", probs=votes / voters, label=rng.integers(0, 6, 2000))
    largest = votes.max(axis=1).tolist()
    bins = [math.ceil(Fraction(15 * n, voters)) - 1 for n in largest]
    assert [b.count for b in evaluate(tmp_path / "p.npz").reliability] == np.bincount(bins, minlength=15).tolist()


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40))
def test_equal_confidences_count_as_if_in_random_order(table):
    ranking = ConfidenceRanking()
    key, right = np.array([k for k, _ in table], float), np.array([r for _, r in table])
    ranking.sketch.add(-key, right)
    expected, above, errors = Fraction(0), 0, 0
    for k in sorted(set(key)):
        cell = right[key == k]
        wrong = int((~cell).sum())
        for j in range(1, len(cell) + 1):
            expected += (errors + Fraction(wrong * j, len(cell))) / (above + j)
        above, errors = above + len(cell), errors + wrong
    assert ranking.result().aurc.value == pytest.approx(float(expected / len(table)), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("limit", [2, 10, 100, 1000])
def test_bounds_of_confidence_figures_hold(limit):
    logits = RNG.normal(size=(4000, 3)) * 3
    labels = np.where(RNG.random(4000) < 0.7, logits.argmax(1), RNG.integers(0, 3, 4000))
    batch = scored(logits, labels)
    exact, coarse = result(ConfidenceRanking(), batch), result(ConfidenceRanking(limit), batch)
    for name in ("auroc", "aurc", "adaptive_error"):
        assert getattr(exact, name).bound == 0.0
        assert 0 < abs(getattr(coarse, name).value - getattr(exact, name).value) <= getattr(coarse, name).bound


@given(
    st.lists(st.tuples(st.floats(0, 3), st.booleans()), min_size=1, max_size=60),
    st.integers(2, 12),
)
def test_bounds_of_confidence_figures_hold_for_any_few_rows(table, limit):
    exact, coarse = ConfidenceRanking(), ConfidenceRanking(limit)
    for ranking in (exact, coarse):
        ranking.sketch.add(-np.array([s for s, _ in table]), np.array([r for _, r in table]))
    exact, coarse = exact.result(), coarse.result()
    for name in ("auroc", "aurc", "adaptive_error"):
        truth, found = getattr(exact, name).value, getattr(coarse, name)
        assert abs(found.value - truth) <= found.bound + 1e-12 or math.isnan(truth)


def test_bounds_of_many_rows_are_below_a_ten_thousandth():
    logits = RNG.normal(size=(400_000, 4)) * 3
    labels = np.where(RNG.random(len(logits)) < 0.6, logits.argmax(1), RNG.integers(0, 4, len(logits)))
    coarse = result(ConfidenceRanking(), scored(logits, labels))
    for figure in (coarse.auroc, coarse.aurc, coarse.adaptive_error):
        assert 0 < figure.bound < 1e-4


def test_all_right_all_wrong_and_all_the_same(tmp_path):
    logits = RNG.normal(size=(50, 4))
    right = figures(tmp_path, logits, logits.argmax(1))
    wrong = figures(tmp_path, logits, logits.argmin(1))
    assert math.isnan(right.confidence_auroc)
    assert math.isnan(wrong.confidence_auroc)
    assert (right.aurc, wrong.aurc) == (0.0, 1.0)
    assert (right.accuracy, wrong.accuracy) == (1.0, 0.0)
    assert wrong.adaptive_calibration_error == pytest.approx(wrong.confidence)
    same = figures(tmp_path, np.tile([2.0, 0.0], (60, 1)), [0, 0, 1] * 20)
    assert (same.confidence_auroc, same.aurc) == (0.5, pytest.approx(1 / 3))
    gap = abs(2 / 3 - same.confidence)
    assert same.adaptive_calibration_error == pytest.approx(gap)
    assert same.max_calibration_error == pytest.approx(gap)


# Confusion


def test_confusion_matrix_agrees_with_scikit_learn(tmp_path, digits):
    logits, y = digits
    e = figures(tmp_path, logits, y)
    matrix = confusion_matrix(y, logits.argmax(1))
    assert np.array(e.confusion_matrix).tolist() == matrix.tolist()
    pairs = [(-matrix[i, j], i, j) for i in range(10) for j in range(10) if i != j and matrix[i, j]]
    assert [(-c.count, c.label, c.predicted) for c in e.confused] == sorted(pairs)


def test_many_classes_have_pairs_and_no_matrix(tmp_path):
    labels = RNG.integers(0, 300, 5000)
    logits = RNG.normal(size=(5000, 300))
    e = figures(tmp_path, logits, labels)
    assert e.confusion_matrix is None
    pair, count = np.unique(labels * 300 + logits.argmax(1), return_counts=True)
    wrong = pair // 300 != pair % 300
    expected = sorted(zip(-count[wrong], pair[wrong], strict=True))[:100]
    assert [(-c.count, c.label * 300 + c.predicted) for c in e.confused] == expected


@settings(max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=80), st.randoms(), st.integers(1, 20))
def test_any_order_samples_the_same_pairs(pairs, random, limit):
    def confusion(part):
        made = Confusion(7, limit)
        for label, predicted in part:
            made.update(scored(np.eye(7)[[predicted]], [label]))
        return made

    whole = confusion(pairs)
    random.shuffle(pairs)
    cut = random.randint(0, len(pairs))
    merged = confusion(pairs[cut:])
    merged.merge(confusion(pairs[:cut]))
    kept, other = whole.result(), merged.result()
    matrix = kept.matrix(7)
    assert (other.matrix(7) == matrix).all()
    assert (other.share, other.most()) == (kept.share, kept.most())
    assert np.count_nonzero(matrix) <= limit
    for i, row in enumerate(matrix.tolist()):
        for j, count in enumerate(row):
            assert count in (0, pairs.count((i, j)))
    if len(set(pairs)) <= limit:
        assert kept.share == 1.0
        assert matrix.sum() == len(pairs)


# Temperature


def nll(logits, labels, temperature):
    return -scipy.special.log_softmax(logits / temperature, axis=1)[np.arange(len(labels)), labels].mean()


def calibration(logits, labels, temperature):
    p = scipy.special.softmax(logits / temperature, axis=1)
    fraction, mean = calibration_curve(p.argmax(1) == labels, p.max(1), n_bins=15)
    weight = np.bincount(np.searchsorted(np.linspace(0, 1, 16)[1:-1], p.max(1)), minlength=15)
    return (weight[weight > 0] / len(labels) * abs(fraction - mean)).sum()


@pytest.mark.parametrize("scale", [1e-3, 0.3, 1.0, 8.0, 1e3, 1e9])
def test_best_temperature_agrees_with_scipy(tmp_path, digits, scale):
    logits, y = digits[0] * scale, digits[1]
    best = figures(tmp_path, logits, y).temperature
    found = scipy.optimize.minimize_scalar(
        lambda b: nll(logits, y, math.exp(b)), bracket=(math.log(scale), math.log(scale) + 0.5), tol=1e-10
    )
    assert best.value == pytest.approx(math.exp(found.x), rel=1e-6)
    assert best.rows == len(y)
    assert best.nll == pytest.approx(found.fun, rel=1e-9)
    assert best.nll <= best.nll_before == pytest.approx(nll(logits, y, 1.0), rel=1e-9)
    assert best.calibration_error == pytest.approx(calibration(logits, y, best.value), rel=1e-9)
    assert best.calibration_error_before == pytest.approx(calibration(logits, y, 1.0), rel=1e-9, abs=1e-12)
    assert best.interval.low < best.value < best.interval.high


def test_interval_of_the_temperature_covers_the_truth():
    covered = 0
    for _ in range(200):
        logits = RNG.normal(size=(400, 4)) * 2
        labels = (logits + RNG.gumbel(size=logits.shape)).argmax(1)  # drawn from softmax(logits)
        interval = result(TemperatureFit(4), scored(3.0 * logits, labels)).interval
        covered += interval.low < 3.0 < interval.high
    assert 180 <= covered <= 199  # 190 expected


def test_temperature_of_logits_of_any_size():
    logits, labels = RNG.normal(size=(60, 3)), RNG.integers(0, 3, 60)
    labels[:30] = logits[:30].argmax(1)
    expected = result(TemperatureFit(3), scored(logits, labels))
    for scale in (2.0**-900, 2.0**900):
        best = result(TemperatureFit(3), scored(scale * logits, labels))
        assert best.value == pytest.approx(scale * expected.value, rel=1e-11)
        assert best.nll == pytest.approx(expected.nll, rel=1e-12)
    result(TemperatureFit(3), scored(np.sign(logits) * np.finfo(float).max, labels))  # without a warning


def test_temperatures_without_a_minimum():
    right = result(TemperatureFit(3), scored([[3.0, 0, 0], [0, 1, 0], [0, 0, 0]], [0, 1, 0]))
    assert right.value == 0.0
    assert right.nll == pytest.approx(math.log(3) / 3)  # the tie stays
    opposite = result(TemperatureFit(2), scored([[3.0, 0], [0, 1]], [1, 0]))
    assert (opposite.value, opposite.nll) == (math.inf, pytest.approx(math.log(2)))
    flat = result(TemperatureFit(2), scored([[1.0, 1], [0, 0]], [1, 0]))
    assert math.isnan(flat.value)
    assert flat.nll == flat.nll_before == pytest.approx(math.log(2))
    for best in (right, opposite, flat):
        assert math.isnan(best.interval.low)


def test_rows_of_infinite_loss_are_left_out_of_the_fit():
    logits = RNG.normal(size=(60, 3)) * 4
    labels = RNG.integers(0, 3, 60)
    expected = result(TemperatureFit(3), scored(logits, labels))
    more = np.array([[-math.inf, 0, 1], [math.inf, 0, 0], [math.inf, 0, 0]])
    best = result(TemperatureFit(3), scored(logits, labels), scored(more, [0, 0, 1], first=60))
    assert best.rows == 60
    assert best.value == pytest.approx(expected.value, rel=1e-12)
    masked = np.c_[logits, np.full(60, -math.inf)]  # a class that is impossible changes nothing
    assert result(TemperatureFit(4), scored(masked, labels)).value == pytest.approx(expected.value, rel=1e-12)
    alone = result(TemperatureFit(3), scored(more[:1], [0]))
    assert (alone.rows, math.isnan(alone.value), math.isnan(alone.nll)) == (0, True, True)


def test_the_sample_is_the_same_in_any_order():
    logits = RNG.normal(size=(900, 5))
    labels = RNG.integers(0, 5, 900)
    every = [scored(logits[i : i + 30], labels[i : i + 30], file=i // 300, first=i % 300) for i in range(0, 900, 30)]
    whole = result(TemperatureFit(5, scores=200), *every)
    assert whole.rows == 40
    for _ in range(5):
        order = RNG.permutation(len(every))
        parts = [TemperatureFit(5, scores=200) for _ in range(3)]
        for k in order:
            parts[k % 3].update(every[k])
        parts[0].merge(pickle.loads(pickle.dumps(parts[1])))
        parts[2].merge(parts[0])
        assert parts[2].result() == whole
    means = [result(TemperatureFit(5, scores=200), scored(logits, labels, file=f)).nll_before for f in range(300)]
    error = np.std([*means]) / math.sqrt(300)
    assert np.mean(means) == pytest.approx(scored(logits, labels).nll.mean(), abs=4 * error)  # a fair sample


def test_no_metric_grows_with_the_rows():
    plan = SimpleNamespace(
        rows=300_000, classes=5, width=5, surprising=20, sum_tolerance=1e-3, columns=SimpleNamespace(by=())
    )
    metrics = multiclass.metrics(plan)
    small, large = ({name: make() for name, make in metrics.items()} for _ in range(2))
    logits = RNG.normal(size=(300_000, 5))
    labels = RNG.integers(0, 5, len(logits))
    for made, n in ((small, 200_000), (large, 300_000)):
        for i in range(0, n, 10_000):
            batch = scored(logits[i : i + 10_000], labels[i : i + 10_000], first=i)
            for metric in made.values():
                metric.update(batch)
    sizes = [len(pickle.dumps(list(made.values()))) for made in (small, large)]
    assert sizes[1] < 1.1 * sizes[0] < 10 << 20


def test_of_many_rows_few_are_looked_at():
    every = scored(RNG.normal(size=(3000, 5)), RNG.integers(0, 5, 3000))
    whole = result(TemperatureFit(5, scores=200), every)
    assert result(TemperatureFit(5, 3000, scores=200), every) == whole
    assert 0 < result(TemperatureFit(5, 100_000, scores=200), every).rows < 40  # 640 of 100,000 in the mean
