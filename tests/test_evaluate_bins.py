"""Counting in kernels: against counts by hand, and the same where there are no kernels."""

import bisect
import math
from collections import Counter
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from lossless import _kernels
from lossless._evaluate.accumulators import CALIBRATION_BINS, LOSS_EDGES, Calibration, LabelRanks, LossHistogram
from lossless._evaluate.confidence import _FAR, _correction, _rounded
from lossless._evaluate.confusion import Confusion
from lossless._evaluate.ranking import RankSketch, _ordered

RNG = np.random.default_rng(17)
LEAST = 5e-324


def around(numbers):
    """Numbers, and their neighbours on either side."""
    return np.concatenate([np.nextafter(numbers, 0.0), numbers, np.nextafter(numbers, math.inf)])


class Losses(SimpleNamespace):
    """Rows of which nothing else is asked."""

    def __len__(self):
        return len(self.nll)


def test_losses_are_counted_between_the_edges(path):
    ends = [0.0, LEAST, 1e-320, 2.0**-1022, 1e300, math.inf]
    values = np.concatenate([around(LOSS_EDGES), np.exp(RNG.normal(-5, 8, 20_000)), ends])
    made = LossHistogram()
    for part in np.array_split(values, 7):
        made.update(Losses(nll=part))
    homes = Counter(bisect.bisect_right(LOSS_EDGES.tolist(), value) for value in values.tolist())
    assert made.count.tolist() == [homes[i] for i in range(len(LOSS_EDGES) + 1)]


def test_confidences_are_counted_in_bins(path):
    ends = [0.0, LEAST, 1.0, 1.0 + 2.0**-52]
    values = np.concatenate([around(Calibration.EDGES[1:]), 1.0 - RNG.random(5000) ** 6, ends])
    right = RNG.random(len(values)) < 0.7
    made = Calibration()
    made.add(values[::2], right[::2])  # not contiguous
    made.add(values[1::2], right[1::2])
    scale = Fraction(CALIBRATION_BINS) * (1 - Fraction(1, 2**40))
    homes = [min(max(math.ceil(float(scale * Fraction(v))), 1), CALIBRATION_BINS) - 1 for v in values.tolist()]
    for b in range(CALIBRATION_BINS):
        mine = [i for i, home in enumerate(homes) if home == b]
        assert (made.count[b], made.correct[b]) == (len(mine), right[mine].sum())
        assert made.confidence.exactly(b) == sum((Fraction(values[i].item()) for i in mine), Fraction(0))


def test_ranks_beyond_the_last_are_counted_together(path):
    rank = RNG.integers(0, 40, 1000)
    made = LabelRanks()
    made.update(SimpleNamespace(rank=rank))
    assert made.result() == tuple(Counter(rank.tolist())[i] for i in range(10))
    assert made.count[10] == (rank >= 10).sum()


def cells_by_hand(keys, group, level):
    """[least key, whether there are others, rows by group] of each cell."""
    cells = {}
    for key, g in zip(_ordered(keys).tolist(), group.tolist(), strict=True):
        held, counts = cells.setdefault(key >> level, (set(), [0, 0]))
        held.add(key)
        counts[g] += 1
    return [[min(held), len(held) > 1, *counts] for _, (held, counts) in sorted(cells.items())]


@pytest.mark.parametrize("limit", [2, 40, 700, 10_000])
@pytest.mark.parametrize("even", [True, False], ids=["even", "odd"])
def test_cells_hold_what_falls_into_them(path, limit, even):
    keys = np.concatenate([RNG.normal(size=1500) * 10.0 ** RNG.integers(-300, 300, 1500), RNG.integers(-9, 9, 1500)])
    keys = np.concatenate([keys, [math.inf, -math.inf, 0.0, -0.0]])
    if even:  # the group then waits in the last bit
        keys = (keys.view(np.int64) & ~1).view(float)
    group = RNG.integers(0, 2, len(keys))
    sketch = RankSketch(limit=limit)
    for k, g in zip(np.array_split(keys, 5), np.array_split(group, 5), strict=True):
        part = RankSketch(limit=limit)
        part.add(k, g)
        if g[0]:
            part.ranked()  # some parts are in cells already when they are joined
        sketch.merge(part)
    cells = sketch._settled()
    found = [cells.key.tolist(), cells.several.tolist(), *cells.counts.tolist()]
    assert list(map(list, zip(*found, strict=True))) == cells_by_hand(keys, group, sketch._level)
    assert len(cells.key) <= limit
    assert not sketch._level or len(cells_by_hand(keys, group, sketch._level - 1)) > limit


def test_confusions_of_few_classes_and_of_many():
    for classes in (3, 200):
        label, predicted = RNG.integers(0, classes, (2, 5000))
        made = Confusion(classes)
        made.update(SimpleNamespace(label=label, predicted=predicted))
        found = made.result()
        pairs = zip(found.label.tolist(), found.predicted.tolist(), strict=True)
        expected = Counter(zip(label.tolist(), predicted.tolist(), strict=True))
        assert dict(zip(pairs, found.count.tolist(), strict=True)) == expected


def test_log_confidences_are_rounded_to_36_bits():
    halves = (RNG.integers(2**35, 2**36, 500) + 0.5) * 2.0 ** RNG.integers(-1074, -40, 500)
    small = RNG.integers(1, 1 << 50, 500).view(float)
    values = -np.concatenate([halves, small, np.exp(RNG.normal(-9, 20, 500)), [0.0, LEAST, 2.0**-1022, 30.0]])
    for value, found in zip(values.tolist(), _rounded(values).tolist(), strict=True):
        mantissa, exponent = math.frexp(value)
        assert found == math.ldexp(round(math.ldexp(mantissa, 36)), exponent - 36)  # round() goes half to even


def test_terms_of_harmonic_numbers_that_are_left_out_round_away():
    k = np.concatenate([_FAR + np.arange(20_000.0), np.floor(_FAR * 10.0 ** RNG.uniform(0, 9, 20_000))])
    whole = 1 / (2 * k) - 1 / (12 * k**2) + 1 / (120 * k**4) - 1 / (252 * k**6) + 1 / (240 * k**8)
    assert (_correction(k) == whole).all()


KEY, ORDER = np.array([2, 2, 5, 8]), np.array([0, 2, 1, 3])


def cells(number, groups=2):
    return np.zeros(number, np.int64), np.zeros(number, bool), np.zeros((groups, number), np.int64)


@pytest.mark.parametrize(
    ("kernel", "arguments", "error"),
    [
        ("count_changes", (KEY, np.zeros(64, np.int64)), ValueError),
        ("count_changes", (KEY.astype(float), np.zeros(65, np.int64)), TypeError),
        ("cells_of_both", (KEY, 1, *cells(2)), ValueError),  # too few cells
        ("cells_of_both", (KEY, 1, *cells(4)), ValueError),  # too many
        ("cells_of_both", (KEY, 64, *cells(3)), ValueError),
        ("cells_of_both", (KEY, 1, *cells(3, 1)), ValueError),
        ("join_cells", (KEY, ORDER, *cells(4)[1:], 0, *cells(2)), ValueError),
        ("join_cells", (KEY, ORDER + 1, *cells(4)[1:], 0, *cells(3)), ValueError),
        ("join_cells", (KEY, ORDER - 1, *cells(4)[1:], 0, *cells(3)), ValueError),
        ("join_cells", (KEY, ORDER, *cells(3)[1:], 0, *cells(3)), ValueError),
        ("join_cells", (KEY, ORDER, *cells(4)[1:], 0, *cells(3, 3)), ValueError),
        ("join_cells", (KEY, ORDER, *cells(4)[1:], -1, *cells(3)), ValueError),
        ("count_between", (LOSS_EDGES, np.ones(3), np.zeros(3, np.int64)), ValueError),
        ("count_between", (LOSS_EDGES, np.ones(3, np.float32), np.zeros(len(LOSS_EDGES) + 1, np.int64)), TypeError),
        ("count_marked", (1.0, np.ones(3), np.ones(2, bool), ORDER[:3], np.zeros(4, np.int64)), ValueError),
        ("count_marked", (1.0, np.ones(3), np.ones(3, bool), ORDER[:2], np.zeros(4, np.int64)), ValueError),
        ("count_marked", (1.0, np.ones(3), np.ones(3, bool), ORDER[:3], np.zeros(0, np.int64)), ValueError),
        ("count_each", (np.array([0, 3]), np.zeros(3, np.int64)), ValueError),
        ("count_each", (np.array([0, -1]), np.zeros(3, np.int64)), ValueError),
        ("count_each", (None, np.zeros(3, np.int64)), TypeError),
    ],
)
def test_what_the_kernels_refuse(kernel, arguments, error):
    if _kernels.native is None:
        pytest.skip(f"no compiled kernels: {_kernels.why}")
    with pytest.raises(error):
        getattr(_kernels.native, kernel)(*(a.copy() if isinstance(a, np.ndarray) else a for a in arguments))
