"""Exact sums: the mean is the true mean rounded once, whatever the order."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lossless import _kernels
from lossless._evaluate.sums import ExactSum

numbers = st.floats(min_value=0.0, allow_nan=False, allow_infinity=False, width=64)


def exactly(values):
    return sum((Fraction(v) for v in values), Fraction(0))


def rounded(value):
    try:
        return value.numerator / value.denominator
    except OverflowError:
        return float("inf")


@given(st.lists(numbers, min_size=1, max_size=30), st.integers(0, 30))
def test_any_split_gives_the_rounded_exact_mean(values, cut):
    whole, first, second = ExactSum(), ExactSum(), ExactSum()
    whole.add(np.array(values))
    first.add(np.array(values[:cut]))
    second.add(np.array(values[cut:]))
    second.merge(first)
    expected = rounded(exactly(values) / len(values))
    assert whole.divided_by(len(values)) == second.divided_by(len(values)) == expected


@pytest.mark.parametrize("scale", [1e-300, 1e-12, 1.0, 1e9, 1e300])
def test_grouped_sums(path, scale):
    rng = np.random.default_rng(0)
    values, group = rng.exponential(size=5000) ** 4 * scale, rng.integers(0, 7, 5000)
    sums = ExactSum(7)
    for start in range(0, 5000, 611):
        sums.add(values[start : start + 611], group[start : start + 611])
    for g in range(7):
        assert sums.total(g) == rounded(exactly(values[group == g]))


@pytest.mark.parametrize("grouped", [False, True])
def test_numbers_of_every_size(path, grouped):
    rng = np.random.default_rng(1)
    values = rng.exponential(size=4001) * 2.0 ** rng.integers(-1074, 1000, 4001)
    values[::7] = rng.exponential(size=len(values[::7]))  # the kernel adds some, and leaves others
    ends = [0.0, -0.0, 5e-324, 2.0**31, 2.0**31 - 2.0**-22, 2.0**-32, 0.5, 2.0**52 + 1.0]
    values[1000 : 1000 + len(ends)] = ends
    values[2000:3000] = rng.random(1000)
    group = rng.integers(0, 3, len(values))
    for start, stop in ((0, 4001), (997, 1013), (2000, 3000)):
        sums = ExactSum(3)
        sums.add(values[start:stop], group[start:stop] if grouped else None)
        for g in range(3 if grouped else 1):
            mine = (group[start:stop] == g) | (not grouped)
            assert sums.exactly(g) == exactly(values[start:stop][mine])


def test_what_the_kernel_refuses():
    if _kernels.native is None:
        pytest.skip(f"no compiled kernels: {_kernels.why}")
    good = {"limbs": np.zeros((2, 3), np.int64), "groups": 3, "values": np.ones(4), "group": np.array([0, 1, 2, 0])}
    add = _kernels.native.add_exactly
    assert add(**good) == 4
    assert good["limbs"].tolist() == [[2, 1, 1], [0, 0, 0]]
    assert add(**{**good, "values": np.array([0.0, 0.0, 2.0**-33, 0.0])}) == 0  # needs a third limb
    assert add(**{**good, "values": np.zeros(0), "group": None}) == 0
    refused = (
        ({"group": np.array([0, 1, 3, 0])}, ValueError, "group: not in"),
        ({"group": np.array([0, 1, -1, 0])}, ValueError, "group: not in"),
        ({"group": np.zeros(3, np.int64)}, ValueError, "group: wrong number"),
        ({"groups": 0}, ValueError, "groups >= 1"),
        ({"groups": 4}, ValueError, "limbs: wrong number"),
        ({"limbs": np.zeros((2, 3))}, TypeError, "limbs: wrong dtype"),
        ({"limbs": None}, TypeError, "incompatible"),
        ({"values": np.ones(4, np.float32)}, TypeError, "values: wrong dtype"),
    )
    for changes, error, message in refused:
        with pytest.raises(error, match=message):
            add(**{**good, **changes})


def test_many_merges_carry():
    # 2^33 units of the last limb would overflow 32 bits many times over without carries.
    total = ExactSum()
    for _ in range(1000):
        part = ExactSum()
        part.add(np.full(64, 1.0 - 2.0**-33))
        total.merge(part)
    assert total.total() == rounded(Fraction(64000) * (1 - Fraction(1, 2**33)))


def test_limbs_are_never_full():
    total = ExactSum()
    total.add(np.full(64, 2.0**-33))
    for _ in range(80):  # 2^80 times as many
        total.merge(total)
    assert total.total() == 2.0 ** (80 + 6 - 33)


def test_infinite_numbers_are_counted_apart():
    sums = ExactSum(2)
    sums.add(np.array([1.0, np.inf, 0.5]), np.array([0, 0, 1]))
    assert sums.total(0) == np.inf
    assert sums.divided_by(1, 0, finite=True) == 1.0
    assert sums.total(1) == 0.5
    assert np.isnan(ExactSum().divided_by(0))


@pytest.mark.parametrize("bad", [np.nan, -1.0, -5e-324])
def test_refuses_what_it_cannot_add(path, bad):
    with pytest.raises(ValueError, match="numbers >= 0"):
        ExactSum().add(np.array([1.0, bad]))
