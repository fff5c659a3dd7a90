"""Ranked figures: the sketch against scikit-learn on all rows, and the same cells however the rows are cut."""

import bisect
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from lossless._evaluate.ranking import RankSketch, _ordered, thinned

RNG = np.random.default_rng(8)


def sketch(keys, group=None, limit=1 << 18, **options):
    made = RankSketch(limit=limit, **options)
    made.add(np.asarray(keys, float), None if group is None else np.asarray(group))
    return made


def arrays(made):
    r = made.ranked()
    return [a.tolist() for a in (r.low, r.high, r.several, r.count)]


def scores(n, ties=False):
    """Log-confidences like those of a classifier: from 1e-12 below 0 to a few nats."""
    right = RNG.random(n) < 0.8
    keys = -np.exp(RNG.normal(np.where(right, -6, -1), 3))
    return (np.round(keys, 2) if ties else keys), right


floats = st.one_of(
    st.floats(allow_nan=False),
    st.sampled_from([0.0, -0.0, 1.0, math.nextafter(1.0, 2.0), 1.5, 2.0, -1.0, math.inf, -math.inf, 5e-324]),
)


def test_pairs_of_very_many_rows_do_not_overflow():
    made = sketch([1.0, 2.0, 3.0], [0, 1, 0])
    for _ in range(33):  # 2^33 times as many
        made.merge(made)
    assert made.ranked().rows == 3 << 33
    assert made.ranked().auroc.value == 0.5


@settings(max_examples=200)
@given(
    st.lists(st.tuples(floats, st.booleans()), max_size=60),
    st.lists(st.integers(0, 60), max_size=5),
    st.randoms(),
    st.integers(2, 12),
)
def test_any_order_and_any_split_build_the_same_cells(rows, cuts, random, limit):
    whole = RankSketch(limit=limit)
    whole.add(np.array([k for k, _ in rows], float), np.array([g for _, g in rows], bool))
    random.shuffle(rows)
    parts = []
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), len(rows)], strict=True):
        part = RankSketch(limit=limit)
        for key, group in rows[start:stop]:
            part.add(np.array([key]), np.array([group]))
            if random.random() < 0.1:
                part.ranked()  # looking at it changes nothing
        parts.append(part)
    random.shuffle(parts)
    while len(parts) > 1:  # merged as a tree of any shape
        parts[0].merge(parts.pop())
        random.shuffle(parts)
    assert arrays(parts[0]) == arrays(whole)


@settings(max_examples=200)
@given(
    st.lists(st.tuples(floats, st.booleans()), max_size=60),
    st.lists(st.integers(0, 60), max_size=5),
    st.integers(2, 12),
)
def test_groups_that_wait_in_the_last_bit_are_counted_alike(rows, cuts, limit):
    keys = np.array([k for k, _ in rows], float)
    even = (keys.view(np.uint64) & ~np.uint64(1)).view(float)
    keys[: len(keys) // 2] = even[: len(keys) // 2]
    group = np.array([g for _, g in rows], bool)
    parts, one_by_one = RankSketch(limit=limit), RankSketch(limit=limit)
    for start, stop in zip([0, *sorted(cuts)], [*sorted(cuts), len(rows)], strict=True):
        part = RankSketch(limit=limit)
        part.add(keys[start:stop], group[start:stop])
        parts.merge(pickle.loads(pickle.dumps(part)) if start % 2 else part)
    for g in (0, 1):  # each group by itself, whatever its keys end in
        for key in keys[group == g].tolist():
            one_by_one._wait([(_ordered(np.array([key])), g)], 1)
    assert arrays(parts) == arrays(one_by_one)
    low, _, _, counts = arrays(parts)
    for g in (0, 1):
        homes = [bisect.bisect(low, key) - 1 for key in keys[group == g].tolist()]
        assert [homes.count(cell) for cell in range(len(low))] == counts[g]


@given(st.lists(floats, max_size=60), st.integers(2, 12))
def test_the_level_is_the_least_that_is_enough(keys, limit):
    made = sketch(keys, groups=1, limit=limit)
    bits = np.array(keys, float) + 0.0
    bits = bits.view(np.int64).tolist()
    places = {b if b >= 0 else -(b & ~(1 << 63)) - 1 for b in bits}  # the order of the numbers, as integers

    def cells(level):
        return len({p >> level for p in places})

    level = next(n for n in range(65) if cells(n) <= limit)
    ranking = made.ranked()
    assert len(ranking.low) == cells(level)
    assert ranking.rows == len(keys)
    assert ranking.several.sum() == sum(
        len([p for p in places if p >> level == c]) > 1 for c in {p >> level for p in places}
    )
    assert (ranking.high[:-1] <= ranking.low[1:]).all()
    for key in keys:
        assert ((ranking.low <= key) & (key <= ranking.high)).any()


def test_few_keys_are_counted_exactly():
    made = sketch([2.0, -1.0, 2.0, 0.0, -0.0, math.inf], [0, 1, 1, 0, 1, 1])
    assert arrays(made) == [
        [-1.0, 0.0, 2.0, math.inf],
        [-1.0, 0.0, 2.0, math.inf],
        [False] * 4,
        [[0, 1, 1, 0], [1, 1, 1, 1]],
    ]


@pytest.mark.parametrize("ties", [False, True])
def test_exact_figures_agree_with_scikit_learn(ties):
    keys, right = scores(5000, ties)
    ranking = sketch(keys, right).ranked()
    assert (ranking.auroc.bound, ranking.average_precision().bound) == (0.0, 0.0)
    assert ranking.auroc.value == pytest.approx(roc_auc_score(right, keys), rel=1e-13)
    assert ranking.average_precision().value == pytest.approx(average_precision_score(right, keys), rel=1e-13)


@pytest.mark.parametrize("limit", [2, 5, 40, 300])
@pytest.mark.parametrize("ties", [False, True])
def test_bounds_hold(limit, ties):
    for swap in (False, True):
        keys, right = scores(3000, ties)
        right = right != swap
        ranking = sketch(keys, right, limit=limit).ranked()
        for figure, truth in (
            (ranking.auroc, roc_auc_score(right, keys)),
            (ranking.average_precision(), average_precision_score(right, keys)),
        ):
            assert abs(figure.value - truth) <= figure.bound + 1e-12
            assert 0 < figure.bound < 1


@given(
    st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=2, max_size=40).filter(
        lambda rows: {g for _, g in rows} == {True, False}
    ),
    st.integers(2, 8),
)
def test_bounds_hold_for_any_few_rows(rows, limit):
    keys, right = np.array([k for k, _ in rows], float), np.array([g for _, g in rows])
    ranking = sketch(keys, right, limit=limit).ranked()
    for figure, truth in (
        (ranking.auroc, roc_auc_score(right, keys)),
        (ranking.average_precision(), average_precision_score(right, keys)),
    ):
        assert abs(figure.value - truth) <= figure.bound + 1e-12


def test_bounds_of_many_rows_are_below_a_ten_thousandth():
    keys, right = scores(600_000)
    ranking = sketch(keys, right, limit=1 << 16).ranked()
    area, precision = ranking.auroc, ranking.average_precision()
    assert 0 < area.bound < 1e-4
    assert 0 < precision.bound < 1e-4
    assert abs(area.value - roc_auc_score(right, keys)) <= area.bound
    assert abs(precision.value - average_precision_score(right, keys)) <= precision.bound


def test_one_group_alone_has_no_area():
    for group in (0, 1):
        ranking = sketch([1.0, 2.0, 3.0], [group] * 3).ranked()
        assert math.isnan(ranking.auroc.value)
        assert math.isnan(ranking.auroc_interval().low)
        assert ranking.roc_curve() == ()
        assert math.isnan(ranking.average_precision().value) == (group == 0)
    nothing = RankSketch().ranked()
    assert math.isnan(nothing.auroc.value)
    assert math.isnan(nothing.quantile(0.5).value)
    assert nothing.precision_recall_curve() == ()


def delong(keys, right):
    """The variance by its definition: all pairs."""
    x, y = keys[right][:, None], keys[~right][None, :]
    won = (x > y) + 0.5 * (x == y)
    return won.mean(), won.mean(1).var(ddof=1) / len(x) + won.mean(0).var(ddof=1) / y.size


@pytest.mark.parametrize("ties", [False, True])
def test_interval_of_the_area_is_delongs(ties):
    keys, right = scores(700, ties)
    area, variance = delong(keys, right)
    interval = sketch(keys, right).ranked().auroc_interval()
    assert interval.low == pytest.approx(area - 1.959963984540054 * math.sqrt(variance), rel=1e-12)
    assert interval.high == pytest.approx(area + 1.959963984540054 * math.sqrt(variance), rel=1e-12)


def test_an_area_without_variance_has_no_interval():
    for right in ([0, 0, 1, 1], [1, 1, 0, 0]):  # in order, and in the opposite order
        assert math.isnan(sketch([1.0, 2.0, 3.0, 4.0], right).ranked().auroc_interval().low)
    assert math.isnan(sketch([1.0] * 4, [0, 1, 0, 1]).ranked().auroc_interval().low)


def test_curves_are_those_of_scikit_learn():
    keys, right = scores(150)
    ranking = sketch(keys, right).ranked()
    false, true, _ = roc_curve(right, keys, drop_intermediate=False)
    assert np.array(ranking.roc_curve()) == pytest.approx(np.array([false, true]).T)
    precision, recall, _ = precision_recall_curve(right, keys)
    expected = np.array([recall, precision]).T[-2::-1]  # without the end point (0, 1), which no key has
    assert np.array(ranking.precision_recall_curve()) == pytest.approx(expected)


def test_curves_of_many_rows_are_thinned_evenly():
    keys, right = scores(20_000)
    ranking = sketch(keys, right).ranked()
    false, true, _ = roc_curve(right, keys, drop_intermediate=False)
    points = ranking.roc_curve()
    assert 150 < len(points) <= 200
    assert set(points) <= set(zip(false.tolist(), true.tolist(), strict=True))
    assert (points[0], points[-1]) == ((0.0, 0.0), (1.0, 1.0))
    x, y = np.array(points).T
    assert (np.abs(np.diff(x)) + np.abs(np.diff(y))).max() < 0.03
    assert len(ranking.precision_recall_curve(50)) <= 50
    assert thinned(np.zeros(10), 3).tolist() == [0, 9]


@pytest.mark.parametrize("q", [0.0, 0.01, 0.5, 0.993, 1.0])
def test_quantiles(q):
    keys, _ = scores(4001)
    exact = sketch(keys, groups=1).ranked().quantile(q)
    assert (exact.value, exact.bound) == (np.quantile(keys, q, method="lower"), 0.0)
    coarse = sketch(keys, groups=1, limit=500).ranked().quantile(q)
    assert coarse.value <= exact.value <= coarse.value + coarse.bound
    assert coarse.bound <= 0.2 * abs(coarse.value)


def test_bins_of_equal_mass():
    keys, _ = scores(1000)
    for values in (keys, np.round(keys, 1)):
        ranking = sketch(values, groups=1).ranked()
        bins = list(ranking.equal_mass(15))
        edges = np.percentile(values, np.linspace(0, 100, 16))  # as scikit-learn cuts them
        home = np.repeat(np.arange(15), [part.stop - part.start for part in bins])
        assert home.tolist() == np.searchsorted(edges[1:-1], ranking.low).tolist()
    ranking = sketch(keys, groups=1).ranked()
    held = [ranking.held[part].sum() for part in ranking.equal_mass(15)]
    assert max(held) - min(held) <= 1


def test_sketches_travel_between_processes():
    keys, right = scores(3000)
    made = sketch(keys, right)
    packed = pickle.dumps(made)
    assert len(packed) < 3000 * 12
    copy = pickle.loads(packed)
    copy.add(keys, right)
    made.add(keys, right)
    assert arrays(copy) == arrays(made)


def test_refuses_nan():
    with pytest.raises(ValueError, match="orders numbers"):
        RankSketch().add(np.array([1.0, math.nan]))
