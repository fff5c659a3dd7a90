"""`row_numbers`, what an evaluation asks of a row: kernels and formulas against 50 digits, and what is refused."""

import math

import mpmath
import numpy as np
import pytest

from lossless import _kernels
from lossless._numpy.backend import row_numbers

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
    found = row_numbers(x)
    assert (found.largest == x.argmax(axis=1)).all()
    expected = np.array([truth(row) for row in x])
    for column, name in enumerate(("surprise", "entropy", "squares", "lse")):
        # a sum that is taken of differences loses no more than the sum of their sizes
        size = np.abs(expected[:, column]) if name != "lse" else np.abs(x).max(axis=1, where=np.isfinite(x), initial=1)
        error = np.abs(getattr(found, name) - expected[:, column])
        assert (error <= 1e-13 * size + 1e-300).all(), name


def test_rows_without_a_distribution(path):
    nan, inf = math.nan, math.inf
    found = row_numbers(np.array([[1.0, nan], [inf, inf], [-inf, -inf], [inf, 1.0], [1.0, -inf]]))
    assert np.isnan(found.surprise[:3]).all()
    assert found.surprise[3:].tolist() == [0.0, 0.0]
    assert found.largest[3:].tolist() == [0, 0]
    assert ((found.largest >= 0) & (found.largest < 2)).all()
    assert found.squares[3:].tolist() == [0.0, 0.0]


def test_a_row_has_the_same_bits_wherever_it_lies():
    x = RNG.normal(size=(70, 33)) * 5
    whole = row_numbers(x)
    for start, stop in ((0, 1), (3, 20), (17, 70)):
        part = row_numbers(x[start:stop])
        for name in whole._fields:
            assert (getattr(part, name) == getattr(whole, name)[start:stop]).all()


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"x": np.zeros((4, 3), np.float32)}, TypeError),
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
    outputs = {name: np.empty(4) for name in ("surprise", "lse", "entropy", "squares")}
    good = {"x": np.zeros((4, 3)), "rows": 4, "classes": 3, **outputs, "largest": np.empty(4, np.int64)}
    _kernels.native.row_numbers(**good)
    with pytest.raises(error):
        _kernels.native.row_numbers(**{**good, **changes})
