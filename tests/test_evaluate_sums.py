"""Exact sums: the mean is the true mean rounded once, whatever the order."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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
def test_grouped_sums(scale):
    rng = np.random.default_rng(0)
    values, group = rng.exponential(size=5000) ** 4 * scale, rng.integers(0, 7, 5000)
    sums = ExactSum(7)
    for start in range(0, 5000, 611):
        sums.add(values[start : start + 611], group[start : start + 611])
    for g in range(7):
        assert sums.total(g) == rounded(exactly(values[group == g]))


def test_many_merges_carry():
    # 2^33 units of the last limb would overflow 32 bits many times over without carries.
    total = ExactSum()
    for _ in range(1000):
        part = ExactSum()
        part.add(np.full(64, 1.0 - 2.0**-33))
        total.merge(part)
    assert total.total() == rounded(Fraction(64000) * (1 - Fraction(1, 2**33)))


def test_infinite_numbers_are_counted_apart():
    sums = ExactSum(2)
    sums.add(np.array([1.0, np.inf, 0.5]), np.array([0, 0, 1]))
    assert sums.total(0) == np.inf
    assert sums.divided_by(1, 0, finite=True) == 1.0
    assert sums.total(1) == 0.5
    assert np.isnan(ExactSum().divided_by(0))


@pytest.mark.parametrize("bad", [np.nan, -1.0])
def test_refuses_what_it_cannot_add(bad):
    with pytest.raises(ValueError, match="numbers >= 0"):
        ExactSum().add(np.array([1.0, bad]))
