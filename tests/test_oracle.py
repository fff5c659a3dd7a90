"""The judge is judged: the metric on hand-made numbers, the oracle against mpmath formulas of another shape."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from flint import arb, ctx

import oracle
import regimes
from ulp import FORMATS, Exact, errors, exact


def only(values: list[float], dtype: str, true: list[object], unit: list[object] | None = None) -> list[float]:
    found = errors(np.array(values), exact(true), dtype, None if unit is None else exact(unit))
    return found.ulp.tolist()


@pytest.mark.parametrize("dtype", regimes.DTYPES)
def test_rounding_to_nearest_costs_half_an_ulp_at_most(dtype):
    draw = regimes.rng("ulp", dtype)
    least = 2.0 ** (FORMATS[dtype].least + 20)
    true = [Fraction(float(a)) + Fraction(float(b)) / 2**53 for a, b in draw.normal(size=(500, 2))]
    true += [t * Fraction(least) for t in true]
    computed = regimes.rounded(np.array([float(t) for t in true]), dtype)
    found = errors(computed, exact(true), dtype)
    assert not found.tiny.any()
    assert 0.45 < found.ulp.max() <= 0.5 + 2.0**-25  # computed is rounded twice
    upwards = np.nextafter(computed, np.array(np.inf, computed.dtype))
    assert np.all(errors(upwards, exact(true), dtype).ulp >= 0.5 - 2.0**-25)


@pytest.mark.parametrize("dtype", regimes.DTYPES)
def test_one_step_of_the_format_is_one_ulp_down_to_the_smallest_denormal(dtype):
    form = FORMATS[dtype]
    tiniest = Fraction(2) ** (form.least - form.precision)
    smallest_normal = Fraction(2) ** (form.least - 1)
    assert float(regimes.rounded(np.array(float(tiniest)), dtype)) == tiniest > 0
    for true in (tiniest, 3 * tiniest, smallest_normal - tiniest, smallest_normal, smallest_normal + tiniest):
        found = errors(np.array([float(true + tiniest)]), exact([true]), dtype)
        assert found.ulp.tolist() == [1.0]
        assert found.tiny.tolist() == [true < smallest_normal]
    found = errors(np.array([0.0, -0.0, float(tiniest), 0.0]), exact([0, 0, 0, Fraction(1, 2**4000)]), dtype)
    assert found.ulp[:3].tolist() == [0.0, 0.0, 1.0]
    assert 0 <= found.ulp[3] < 1e-100
    assert found.tiny.all()


@pytest.mark.parametrize("dtype", regimes.DTYPES)
def test_infinity_nan_and_overflow(dtype):
    form = FORMATS[dtype]
    inf, nan = math.inf, math.nan
    assert only([inf, -inf, nan], dtype, [inf, -inf, nan]) == [0, 0, 0]
    assert only([-inf, 1.0, nan, 1.0, nan, inf], dtype, [inf, inf, inf, nan, 1.0, nan]) == [inf] * 6
    largest = Fraction(2) ** form.greatest * (1 - Fraction(1, 2**form.precision))
    assert only([inf, float(largest)], dtype, [largest, largest]) == [1, 0]
    assert only([inf, -inf, float(largest)], dtype, [2**form.greatest, 2**form.greatest, 2**form.greatest]) == [
        0,
        inf,
        inf,
    ]
    assert only([inf], dtype, [Fraction(2) ** 5000]) == [0]


def test_a_returned_zero_is_as_wrong_as_it_is():
    assert only([0.0], "float32", [Fraction(2) ** -29]) == [2.0**23]
    assert only([0.0], "float64", [Fraction(2) ** -29]) == [2.0**52]
    assert only([-1.0, 1.0], "float32", [1, Fraction(2) ** -120])[0] == 2.0**24
    assert only([1.0, 0.0], "float64", [Fraction(1, 2**4000), 1])[0] > 1e300


def test_unit_of_the_larger_term():
    # 1 ulp of 1 is 2^-23; the true value 2^-40 is the difference of two such terms.
    assert only([2.0**-23], "float32", [Fraction(2) ** -40], [1.0]) == [1 - 2.0**-17]
    assert only([3.0], "float32", [2.0], [0.5]) == [2.0**22]  # a unit below the result itself does not count
    assert only([0.25], "float32", [0], [1.0]) == [2.0**21]


def test_exact_keeps_what_it_is_given():
    third = exact([Fraction(1, 3), -Fraction(1, 3), mpmath.mpf(1) / 4, 5, 0.0, Fraction(10) ** -3000])
    parts = [
        (Fraction(h) + Fraction(low)) * Fraction(2) ** int(e)
        for h, low, e in zip(third.high, third.low, third.exponent, strict=True)
    ]
    assert abs(parts[0] - Fraction(1, 3)) < Fraction(1, 2**105)
    assert abs(parts[1] + Fraction(1, 3)) < Fraction(1, 2**105)
    assert parts[2:5] == [Fraction(1, 4), 5, 0]
    assert abs(parts[5] * 10**3000 - 1) < Fraction(1, 2**104)


def test_packing_in_bulk_is_packing_one_by_one():
    with ctx.workprec(300):
        numbers = [(arb(k) / 7 - 90).exp() / 3 * (-1) ** k for k in range(1500)]
        numbers += [arb(0), arb(2) ** -4000, -(arb(2) ** 3000) / 3, arb(1) - arb(2) ** -200]
    bulk, one = exact(numbers), [exact([v]) for v in numbers]
    for i, number in enumerate(one):
        exponent = int(number.exponent[0])
        value = Fraction(number.high[0]) + Fraction(number.low[0])
        other = Fraction(bulk.high[i]) + Fraction(bulk.low[i])
        assert abs(value - other * Fraction(2) ** (int(bulk.exponent[i]) - exponent)) <= Fraction(1, 2**104)


# ---- the oracle against mpmath -------------------------------------------------------------------------------------

BITS = 1600


def agree(truth: Exact, other: list[mpmath.mpf]) -> None:
    """Equal to 2^-100 of the larger of 2^-1000 and the number itself."""
    for h, low, e, value in zip(truth.high.ravel(), truth.low.ravel(), truth.exponent.ravel(), other, strict=True):
        ours = mpmath.ldexp(mpmath.mpf(float(h)) + mpmath.mpf(float(low)), int(e))
        assert abs(ours - value) <= mpmath.ldexp(1, -100) * max(abs(value), mpmath.ldexp(1, -1000))


def shifted_exponentials(row: list[float]) -> list[mpmath.mpf]:
    return [mpmath.exp(mpmath.mpf(v) - mpmath.mpf(max(row))) if v != -math.inf else mpmath.mpf(0) for v in row]


def tail_loss(row: list[float], label: int) -> mpmath.mpf:
    """log1p(sum of the others / the label's): no formula of the oracle."""
    e = shifted_exponentials(row)
    return mpmath.log1p(sum(v for j, v in enumerate(e) if j != label) / e[label])


REGIMES = [
    *(
        ("float32", name)
        for name in ("typical-10", "wide-100", "gap-80", "offset-1e8", "masked-half", "equal-10", "size-1")
    ),
    *(("float64", name) for name in ("typical-10", "gap-20", "gap-700", "mixed", "near-uniform-1e-5")),
    ("bfloat16", "gap-10"),
    ("float16", "wrong-40"),
]


@pytest.mark.parametrize(("dtype", "name"), REGIMES)
def test_softmax_family_agrees_with_other_formulas(dtype, name):
    batch = regimes.logits(name, dtype)
    rows = batch.x.astype(np.float64).tolist()
    classes = batch.x.shape[1]
    with mpmath.workprec(BITS):
        weights = [shifted_exponentials(row) for row in rows]
        p = [[v / sum(row) for v in row] for row in weights]
        flat = [v for row in p for v in row]
        agree(oracle.softmax(batch.x).value, flat)
        log = oracle.log_softmax(batch.x).value
        finite = np.isfinite(log.high).ravel()
        agree(log.reshape(-1)[finite], [mpmath.log(v) for v in flat if v != 0])
        agree(
            oracle.logsumexp(batch.x).value,
            [mpmath.log(sum(w)) + max(row) for w, row in zip(weights, rows, strict=True)],
        )
        targets = oracle.index_targets(batch.y, classes)
        losses = [tail_loss(row, label) for row, label in zip(rows, batch.y, strict=True)]
        agree(oracle.cross_entropy(batch.x, targets, "none").value, losses)
        agree(oracle.cross_entropy(batch.x, targets, "mean").value, [sum(losses) / len(losses)])
        slopes = [
            -sum(v for i, v in enumerate(row) if i != label) if j == label else pj
            for row, label in zip(p, batch.y, strict=True)
            for j, pj in enumerate(row)
        ]
        agree(oracle.cross_entropy_gradient(batch.x, targets, "sum").value, slopes)
        agree(oracle.cross_entropy_gradient(batch.x, targets, "mean").value, [s / len(rows) for s in slopes])
        entropies = [-sum(v * mpmath.log(v) for v in row if v != 0) for row in p]
        agree(oracle.entropy(batch.x, "logits").value, entropies)


def numeric_gradient(loss, point: list[float]) -> list[mpmath.mpf]:
    """Partial derivatives of a function of many variables by mpmath's differences, at 400 bits."""
    return [
        mpmath.diff(lambda v, j=j: loss([v if i == j else mpmath.mpf(a) for i, a in enumerate(point)]), point[j])
        for j in range(len(point))
    ]


def close(truth: oracle.Truth, other: list[mpmath.mpf]) -> None:
    for ours, value in zip(truth.value.to_float64().ravel().tolist(), other, strict=True):
        assert abs(ours - value) <= 1e-14 * abs(value) + 1e-40


def lse(row: list[mpmath.mpf]) -> mpmath.mpf:
    return mpmath.log(sum(mpmath.exp(v) for v in row))


def soft(row: list[mpmath.mpf]) -> list[mpmath.mpf]:
    return [mpmath.exp(v - lse(row)) for v in row]


def test_gradients_are_derivatives_of_the_definitions():
    """Every gradient formula of the oracle against numerical differentiation of the value's own definition."""
    x = np.array([[0.5, -1.25, 17.0, 2.0]])
    u, g = np.array([0.5, 3.0, 1e-3, 40.0]), np.array([[0.25, -2.0, 1.5, 0.75]])
    t = np.array([[0.125, 0.25, 0.5, 0.0]])
    one = np.ones(1)
    row = x[0].tolist()
    with mpmath.workprec(400):

        def smoothed(v):
            return sum(
                (mpmath.mpf(0.9) * (j == 1) + mpmath.mpf(1 - 0.9) / 4) * mpmath.mpf(u[j]) * (lse(v) - v[j])
                for j in range(4)
            )

        def weighted(v):
            return sum(mpmath.mpf(t[0, j]) * mpmath.mpf(u[j]) * (lse(v) - v[j]) for j in range(4))

        def uncertainty(v):
            return -sum(p * mpmath.log(p) for p in soft(v))

        def dot(v):
            return sum(p * mpmath.mpf(a) for p, a in zip(soft(v), g[0], strict=True))

        def log_dot(v):
            return sum(mpmath.log(p) * mpmath.mpf(a) for p, a in zip(soft(v), g[0], strict=True))

        def statistics(v):
            return (
                2 * (lse(v) - v[2])
                + 3 * lse(v)
                - uncertainty(v)
                + sum(mpmath.mpf(a) * (lse(v) - b) for a, b in zip(u, v, strict=True))
            )

        index = oracle.index_targets(np.array([1]), 4, u, smoothing=1 - 0.9)
        close(oracle.cross_entropy_gradient(x, index, "sum"), numeric_gradient(smoothed, row))
        close(oracle.cross_entropy_gradient(x, oracle.soft_targets(t, u), "sum"), numeric_gradient(weighted, row))
        close(oracle.entropy_gradient(x, "logits", one), numeric_gradient(uncertainty, row))
        close(oracle.softmax_vjp(x, g), numeric_gradient(dot, row))
        close(oracle.log_softmax_vjp(x, g), numeric_gradient(log_dot, row))
        close(oracle.logsumexp_gradient(x, 2 * one), [2 * v for v in numeric_gradient(lse, row)])
        combined = oracle.row_statistics_gradient(
            x,
            oracle.index_targets(np.array([2]), 4),
            u,
            {"nll": 2 * one, "lse": 3 * one, "entropy": -one, "prior": one},
        )
        close(combined, numeric_gradient(statistics, row))

        p = [0.5, 0.25, 0.125, 0.0625]
        surprise = numeric_gradient(lambda v: -sum(a * mpmath.log(a) for a in v), p)
        close(oracle.entropy_gradient(np.array([p]), "probs", one), surprise)
        counts = [7.0, 2.0, 1.0, 30.0]

        def counted(v):
            return -sum(a / sum(v) * mpmath.log(a / sum(v)) for a in v)

        close(oracle.entropy_gradient(np.array([counts]), "counts", one), numeric_gradient(counted, counts))
        logs = numeric_gradient(lambda v: -sum(a * mpmath.exp(a) for a in v), [-0.5, -2.0, -30.0])
        close(oracle.entropy_gradient(np.array([[-0.5, -2.0, -30.0]]), "log_probs", one), logs)

        b, s = np.array([-3.0, 0.5, 20.0]), np.array([1.0, 0.25, 1.0])

        def binary(v):
            return sum(
                3 * mpmath.mpf(a) * mpmath.log1p(mpmath.exp(-w)) + (1 - mpmath.mpf(a)) * mpmath.log1p(mpmath.exp(w))
                for w, a in zip(v, s, strict=True)
            )

        bce = oracle.binary_cross_entropy_with_logits_gradient(b, s, None, np.array([3.0]), "sum")
        close(bce, numeric_gradient(binary, b.tolist()))

        def squares(v):
            return sum((w - mpmath.mpf(a)) ** 2 for w, a in zip(v, s, strict=True)) / 3

        close(oracle.mse_loss_gradient(b, s), numeric_gradient(squares, b.tolist()))
        close(oracle.rmse_loss_gradient(b, s), numeric_gradient(lambda v: mpmath.sqrt(squares(v)), b.tolist()))


def test_known_values():
    x, targets = np.array([[20.0, 0.0]], np.float32), oracle.index_targets(np.array([0]), 2)
    assert np.float32(oracle.cross_entropy(x, targets).value.to_float64()) == np.float32(2.0611537e-09)
    assert oracle.cross_entropy(np.array([[3.0]]), oracle.index_targets(np.array([0]), 1)).value.high == 0
    assert oracle.entropy(np.zeros((1, 6)), "logits", base=2.0).value.to_float64() == math.log2(6)
    assert oracle.cross_entropy_gradient(x, oracle.index_targets(np.array([-100]), 2), "sum").value.high.tolist() == [
        [0, 0]
    ]
    with pytest.raises(ValueError, match="no true value"):
        oracle.softmax(np.array([[math.nan, 0.0]]))


@pytest.mark.parametrize("dtype", regimes.DTYPES)
def test_regimes_are_what_their_names_say(dtype):
    for name in regimes.logit_regimes(dtype):
        batch = regimes.logits(name, dtype)
        again = regimes.logits(name, dtype)
        assert batch.dtype == dtype
        assert np.array_equal(batch.x, again.x)
        assert np.array_equal(batch.y, again.y)
        x = batch.x.astype(np.float64)
        rows = np.arange(len(x))
        assert x.shape[0] == 4
        assert np.all(x < np.inf)
        assert not np.any(np.isnan(x))
        assert np.all(np.isfinite(x[rows, batch.y]))
        if name.startswith("gap-") and not name.endswith("classes"):
            rest = x.copy()
            rest[rows, batch.y] = -np.inf
            gap = x[rows, batch.y] - rest.max(axis=1)
            assert np.all(np.abs(gap - float(name[4:])) <= 2.0**-7 * float(name[4:]) + 0.01)
        if name == "normalised":
            assert np.all(np.abs(oracle.logsumexp(batch.x).value.to_float64()) < 1e-5)
        if name == "masked-but-one":
            assert np.all(np.isfinite(x).sum(axis=1) == 1)
    for name in regimes.REGRESSION[dtype]:
        x, t = (a.astype(np.float64) for a in regimes.regression(name, dtype))
        assert np.array_equal(x, t) == (name == "equal")
        if name[0] == "1":
            assert np.max(np.abs(x - t)) == float(regimes.rounded(np.array(float(name)), dtype))
