"""`row_numbers`, what an evaluation asks of a row: kernels and formulas against 50 digits, and what is refused."""

import math
import struct

import mpmath
import numpy as np
import pytest

from lossless import _kernels
from lossless._numpy.backend import row_numbers, tempered

RNG = np.random.default_rng(11)


def truth(row):
    """Surprise, entropy, sum of the other p^2, lse."""
    with mpmath.workdps(50):
        x = [mpmath.mpf(float(v)) for v in row]
        m = max(x)
        e = [mpmath.exp(v - m) for v in x]
        top = int(np.argmax(row))
        others = sum(v for j, v in enumerate(e) if j != top)
        total = 1 + others
        entropy = mpmath.log1p(others) + sum(v * (m - w) for v, w in zip(e, x, strict=True) if v) / total
        squares = sum(v * v for j, v in enumerate(e) if j != top) / total**2
        return [float(v) for v in (mpmath.log1p(others), entropy, squares, m + mpmath.log1p(others))]


@pytest.mark.parametrize("classes", [2, 3, 15, 16, 17, 70, 300])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 20.0, 300.0])
def test_agrees_with_high_precision(path, classes, scale):
    x = scale * RNG.normal(size=(37, classes))
    x[5, classes // 2 :] = -math.inf
    x[6] = 0.5
    x[7, -1] = x[7].max()
    found = row_numbers(x, np.zeros(37, np.int64))
    assert (found.largest == x.argmax(axis=1)).all()
    expected = np.array([truth(row) for row in x])
    for column, name in enumerate(("surprise", "entropy", "squares", "lse")):
        # a sum that is taken of differences loses no more than the sum of their sizes
        size = np.abs(expected[:, column]) if name != "lse" else np.abs(x).max(axis=1, where=np.isfinite(x), initial=1)
        error = np.abs(getattr(found, name) - expected[:, column])
        assert (error <= 1e-13 * size + 1e-300).all(), name


def test_rows_without_a_distribution(path):
    nan, inf = math.nan, math.inf
    x = np.array([[1.0, nan], [inf, inf], [-inf, -inf], [inf, 1.0], [1.0, -inf]])
    found = row_numbers(x, np.array([0, 1, 0, 1, 1]))
    assert np.isnan(found.surprise[:3]).all()
    assert found.surprise[3:].tolist() == [0.0, 0.0]
    assert found.largest[3:].tolist() == [0, 0]
    assert ((found.largest >= 0) & (found.largest < 2)).all()
    assert found.squares[3:].tolist() == [0.0, 0.0]
    assert found.lead[3:].tolist() == [inf, inf]
    assert found.rank[3:].tolist() == [1, 1]


@pytest.mark.parametrize("classes", [1, 2, 63, 64, 65, 100, 5000])
def test_rows_of_nothing_but_nan_have_a_class(path, classes):
    x = np.full((3, classes), math.nan)
    x[1] = math.inf
    found = row_numbers(x, np.full(3, classes - 1))
    assert ((found.largest >= 0) & (found.largest < classes)).all()
    assert np.isnan(found.surprise[[0, 2]]).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("classes", [1, 2, 15, 33, 64, 100, 257, 5000])
def test_lead_and_rank_agree_with_sorting(path, dtype, classes):
    x = np.round(4 * RNG.normal(size=(33, classes))).astype(dtype)  # many are equal
    x[3], x[4, classes // 2], x[5, -1] = 0.0, math.inf, -math.inf
    label = RNG.integers(0, classes, 33)
    label[[4, 5]] = classes // 2, classes - 1
    found = row_numbers(x, label)
    for i, row in enumerate(x.tolist()):
        order = sorted(range(classes), key=lambda j: (-row[j], j))
        assert found.peak[i] == row[order[0]]
        assert found.rank[i] == order.index(label[i])
        assert found.lead[i] == (0.0 if order[0] == label[i] else row[order[0]] - row[label[i]])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("classes", [2, 31, 100, 5000])
def test_narrow_logits_give_the_numbers_of_their_float64(path, dtype, classes):
    x = (5 * RNG.normal(size=(53, classes))).astype(dtype)
    label = RNG.integers(0, classes, 53)
    for narrow, wide in zip(row_numbers(x, label), row_numbers(x.astype(np.float64), label), strict=True):
        assert narrow.tolist() == wide.tolist()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_hash_is_of_numbers_of_the_row(path, dtype):
    x, label = RNG.normal(size=(9, 70)).astype(dtype), np.arange(9)
    x[8], label[8] = x[7], 7  # the same row, label and all
    found = row_numbers(x, label)
    assert len(set(found.hash.tolist())) == 8
    assert found.hash[7] == found.hash[8]
    for i, row in enumerate(x.astype(float)):
        h = 0
        for number in (label[i], row[0], row[-1], row.max(), found.entropy[i]):
            (bits,) = struct.unpack("<Q", struct.pack("<d", number))
            h = ((h ^ bits) * 0x9E3779B97F4A7C15) % 2**64  # splitmix64
            h = ((h ^ h >> 30) * 0xBF58476D1CE4E5B9) % 2**64
            h = ((h ^ h >> 27) * 0x94D049BB133111EB) % 2**64
            h ^= h >> 31
        assert int(found.hash[i]) == h


def test_the_hash_changes_with_the_label(path):
    x = np.zeros((5, 5))
    assert len(set(row_numbers(x, np.arange(5)).hash.tolist())) == 5


def test_a_row_has_the_same_bits_wherever_it_lies():
    x = RNG.normal(size=(70, 33)) * 5
    label = RNG.integers(0, 33, 70)
    whole = row_numbers(x, label)
    for start, stop in ((0, 1), (3, 20), (17, 70)):
        part = row_numbers(x[start:stop], label[start:stop])
        for name in whole._fields:
            assert (getattr(part, name) == getattr(whole, name)[start:stop]).all()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"x": np.zeros((4, 3), np.int64)}, TypeError),
        ({"label": None}, TypeError),
        ({"label": np.array([0, 1, 2, 3])}, ValueError),
        ({"label": np.array([0, 1, -1, 0])}, ValueError),
        ({"label": np.zeros(4)}, TypeError),
        ({"rank": np.empty(5, np.int64)}, ValueError),
        ({"hash": np.empty(4)}, TypeError),
        ({"peak": np.empty(3)}, ValueError),
        ({"x": np.zeros((4, 2))}, ValueError),
        ({"surprise": None}, TypeError),
        ({"squares": np.empty(4, np.float32)}, TypeError),
        ({"entropy": np.empty(5)}, ValueError),
        ({"largest": np.empty(4, np.int32)}, TypeError),
        ({"rows": -1}, ValueError),
    ],
)
def test_what_the_kernel_refuses(changes, error):
    if _kernels.native is None:
        pytest.skip(f"no compiled kernels: {_kernels.why}")
    outputs = {name: np.empty(4) for name in ("surprise", "lse", "entropy", "squares", "lead", "peak")}
    outputs |= {name: np.empty(4, np.int64) for name in ("largest", "rank", "hash")}
    good = {"x": np.zeros((4, 3)), "rows": 4, "classes": 3, "label": np.zeros(4, np.int64), **outputs}
    _kernels.native.row_numbers(**good)
    with pytest.raises(error):
        _kernels.native.row_numbers(**{**good, **changes})


@pytest.mark.parametrize("classes", [1, 2, 15, 16, 17, 100])
@pytest.mark.parametrize("beta", [2.0**-20, 0.3, 1.0, 40.0, 2.0**40])
def test_tempered_rows_agree_with_high_precision(path, classes, beta):
    d = -2.0 * RNG.random((7, classes))
    d[:, 0] = 0.0
    d[3, classes // 2 + 1 :] = -math.inf
    found = tempered(d, beta)
    for i, row in enumerate(d[np.arange(7)[:, None], np.argsort(-d, axis=1)]):
        with mpmath.workdps(50):
            finite = [mpmath.mpf(float(v)) for v in row if v > -math.inf]
            e = [mpmath.exp(beta * v) for v in finite]
            moments = [sum(w * v**k for w, v in zip(e, finite, strict=True)) for k in range(3)]
            total, mean, square = (float(v) for v in (moments[0], moments[1] / moments[0], moments[2] / moments[0]))
        assert found.total[i] == pytest.approx(total, rel=1e-14)
        assert found.mean[i] == pytest.approx(mean, rel=1e-12, abs=1e-300)
        assert found.square[i] == pytest.approx(square, rel=1e-12, abs=1e-300)
    part = tempered(d[2:5], beta)
    for name in part._fields:
        assert getattr(part, name).tolist() == getattr(found, name)[2:5].tolist()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"d": np.zeros((4, 3), np.float32)}, TypeError),
        ({"rows": 5}, ValueError),
        ({"total": None}, TypeError),
        ({"mean": np.empty(5)}, ValueError),
        ({"square": np.empty(4, np.float32)}, TypeError),
    ],
)
def test_what_the_tempering_kernel_refuses(changes, error):
    if _kernels.native is None:
        pytest.skip(f"no compiled kernels: {_kernels.why}")
    good = {"d": np.zeros((4, 3)), "rows": 4, "classes": 3, "beta": 1.0}
    good |= {name: np.empty(4) for name in ("total", "mean", "square")}
    _kernels.native.temper(**good)
    with pytest.raises(error):
        _kernels.native.temper(**{**good, **changes})
