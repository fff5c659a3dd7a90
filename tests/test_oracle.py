"""The judge is judged: the metric on hand-made numbers, the oracle against mpmath formulas of another shape."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from flint import arb, ctx

from lossless._accuracy import oracle, regimes
from lossless._accuracy.ulp import FORMATS, Exact, errors, exact


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


def sums(values: list[mpmath.mpf], g: np.ndarray) -> mpmath.mpf:
    return sum(v * mpmath.mpf(float(a)) for v, a in zip(values, g.ravel(), strict=True))


P, Q = np.array([[0.5, 0.25, 0.125, 0.0625]]), np.array([[0.125, 0.5, 0.25, 0.1875]])
T = np.array([[0.125, 0.25, 0.5, 0.125]])
G = np.array([[0.25, -2.0, 1.5, 0.75]])
X, Y = np.array([[0.5, -1.25, 17.0, 2.0]]), np.array([[2.5, 0.25, 16.0, -2.0]])
BIT_LOGITS, BIT_PROBABILITIES = np.array([-3.0, 0.5, 20.0, 1.0]), np.array([0.0625, 0.5, 0.875, 0.125])
BITS_GIVEN, BIT_WEIGHTS = np.array([1.0, 0.25, 0.0, 7.0]), np.array([2.0, 0.5, 4.0, 8.0])


def test_gradients_of_transforms_are_their_derivatives():
    p, b, g = P[0].tolist(), BIT_LOGITS.tolist(), G[0]
    with mpmath.workprec(400):
        close(oracle.sigmoid_vjp(BIT_LOGITS, g), numeric_gradient(lambda v: sums([logistic(a) for a in v], g), b))
        log = numeric_gradient(lambda v: sums([mpmath.log(logistic(a)) for a in v], g), b)
        close(oracle.logsigmoid_vjp(BIT_LOGITS, g), log)
        log_odds = numeric_gradient(lambda v: sums([2 * mpmath.atanh(2 * a - 1) for a in v], g), p)
        close(oracle.logit_vjp(P, G), log_odds)
        close(oracle.logit_vjp(P, G, 0.1875), [0 if a < 0.1875 else d for a, d in zip(p, log_odds, strict=True)])

        def centred(v, center):
            logs = [mpmath.log(a) for a in v]
            middle = {"mean": sum(logs) / 4, "max": logs[0], None: 0}[center]
            return [a - middle for a in logs]

        sharp = numeric_gradient(lambda v: sums(soft([a / 0.25 for a in v]), G), X[0].tolist())
        close(oracle.softmax(X, 0.25), soft([a / 0.25 for a in X[0]]))
        close(oracle.softmax_vjp(X, G, 0.25), sharp)
        flat = numeric_gradient(lambda v: sums([a / 4 - lse([b / 4 for b in v]) for a in v], G), X[0].tolist())
        close(oracle.log_softmax(X, 4.0), [mpmath.log(a) for a in soft([a / 4 for a in X[0]])])
        close(oracle.log_softmax_vjp(X, G, 4.0), flat)
        for center in ("mean", "max", None):
            close(oracle.inverse_softmax(P, center), centred(P[0].tolist(), center))
            slopes = numeric_gradient(lambda v, center=center: sums(centred(v, center), G), p)
            close(oracle.inverse_softmax_vjp(P, G, center), slopes)


def logistic(x: mpmath.mpf) -> mpmath.mpf:
    return (1 + mpmath.tanh(x / 2)) / 2


def test_values_and_gradients_of_cross_entropy_with_options():
    """Rows twice over: sample weights and ignored rows multiply the row losses, and one number divides the sum."""
    x, y, w = np.concatenate([X, Y, X]), np.array([1, 3, 0]), np.array([0.5, 3.0, 1e-3, 40.0])
    s, t = np.array([2.0, 0.25, 8.0]), np.concatenate([T, Q, P])
    z, temperature, e = 0.5, 0.75, 0.125
    divisors = {
        None: (2 * w[1] + 0.25 * w[3], 10.25),
        "weights": (2 * w[1] + 0.25 * w[3], float(np.sum(s[:, None] * t * w))),
        "count": (2, 3),
        "batch": (3, 3),
        "positives": (2, float(np.sum(t))),
        7.0: (7, 7),
    }

    def loss(v, target, gamma):
        total = 0
        for r in range(3):
            row = [a / mpmath.mpf(temperature) for a in v[4 * r : 4 * r + 4]]
            if gamma is None:
                cost = sum(mpmath.mpf(a) * (lse(row) - b) for a, b in zip(target[r], row, strict=True))
                total += s[r] * (cost + (r != 2 or target is soft_rows) * z * lse(row) ** 2)
            else:
                cost = sum(
                    mpmath.mpf(a) * (1 - mpmath.exp(b - lse(row))) ** gamma * (lse(row) - b)
                    for a, b in zip(target[r], row, strict=True)
                )
                total += s[r] * cost
        return total

    label_rows = [[w[j] * ((1 - e) * (j == y[r]) + e / 4) * (r != 2) for j in range(4)] for r in range(3)]
    soft_rows = [[w[j] * t[r, j] for j in range(4)] for r in range(3)]
    with mpmath.workprec(400):
        for denominator, (by_labels, by_rows) in divisors.items():
            index = oracle.index_targets(y, 4, w, 0, e, s, denominator)
            close(
                oracle.cross_entropy(x, index, "mean", z, temperature), [loss(x.ravel(), label_rows, None) / by_labels]
            )
            soft_target = oracle.soft_targets(t, w, 0.0, s, denominator)
            value = loss(x.ravel(), soft_rows, None) / by_rows
            close(oracle.cross_entropy(x, soft_target, "mean", z, temperature), [value])
        slopes = numeric_gradient(lambda v: loss(v, label_rows, None) / 7, x.ravel().tolist())
        close(oracle.cross_entropy_gradient(x, index, "mean", None, z, temperature), slopes)
        slopes = numeric_gradient(lambda v: loss(v, soft_rows, None) / 7, x.ravel().tolist())
        close(oracle.cross_entropy_gradient(x, soft_target, "mean", None, z, temperature), slopes)

        temperature, a = 1.0, np.array([0.5, 0.25, 2.0, 1.0])
        label_rows = [[a[j] * w[j] * (j == y[r]) * (r != 2) for j in range(4)] for r in range(3)]
        soft_rows = [[a[j] * w[j] * t[r, j] for j in range(4)] for r in range(3)]
        index = oracle.index_targets(y, 4, w, 0, sample_weight=s)
        for gamma in (0.0, 0.5, 2.0):
            for targets, rows, divisor in ((index, label_rows, divisors[None][0]), (soft_target, soft_rows, 7)):
                close(oracle.focal_loss(x, targets, gamma, a), [loss(x.ravel(), rows, gamma) / divisor])
                slopes = numeric_gradient(
                    lambda v, rows=rows, gamma=gamma, divisor=divisor: loss(v, rows, gamma) / divisor,
                    x.ravel().tolist(),
                )
                close(oracle.focal_loss_gradient(x, targets, gamma, a), slopes)

        one = np.ones(1)
        combined = oracle.row_statistics_gradient(X, None, w, {"lse": 3 * one, "entropy": -one, "prior": one}, 0.75)

        def statistics(v):
            row = [b / mpmath.mpf(0.75) for b in v]
            uncertainty = -sum(p * mpmath.log(p) for p in soft(row))
            return 3 * lse(row) - uncertainty + sum(mpmath.mpf(c) * (lse(row) - b) for c, b in zip(w, row, strict=True))

        close(combined, numeric_gradient(statistics, X[0].tolist()))


def test_values_and_gradients_of_binary_and_categorical_losses_with_options():
    t, w, e = BITS_GIVEN, BIT_WEIGHTS, 0.25
    seen = [0, 1, 2]  # the target of the last is to be ignored
    options = {"smoothing": e, "ignore_index": 7.0, "sample_weight": np.array([2.0, 0.5, 3.0, 9.0])}
    s = options["sample_weight"]
    divisors = {None: 3, "count": 3, "batch": 4, "positives": 1.25, 0.5: 0.5}
    divisors["weights"] = float(sum(s[i] * w[i] * (3 * t[i] + 1 - t[i]) for i in seen))

    def loss(v, pos, yes, no):
        terms = [pos * (1 - e) * t[i] * yes(v[i]) + (1 - e) * (1 - t[i]) * no(v[i]) for i in seen]
        terms = [a + e / 2 * (pos * yes(v[i]) + no(v[i])) for a, i in zip(terms, seen, strict=True)]
        return sum(mpmath.mpf(s[i] * w[i]) * a for a, i in zip(terms, seen, strict=True))

    def of_logits(v):
        return loss(v, 3, lambda a: mpmath.log1p(mpmath.exp(-a)), lambda a: mpmath.log1p(mpmath.exp(a)))

    def of_probabilities(v):
        return loss(v, 1, lambda a: -mpmath.log(a), lambda a: -mpmath.log1p(-a))

    x, p, three = BIT_LOGITS, BIT_PROBABILITIES, np.array([3.0])
    with mpmath.workprec(400):
        for name, divisor in divisors.items():
            value = oracle.binary_cross_entropy_with_logits(x, t, w, three, denominator=name, **options)
            close(value, [of_logits(x.tolist()) / divisor])
            if name != "weights":
                value = oracle.binary_cross_entropy(p, t, w, denominator=name, **options)
                close(value, [of_probabilities(p.tolist()) / divisor])
        slopes = numeric_gradient(lambda v: of_logits(v) / 3, x.tolist())
        close(oracle.binary_cross_entropy_with_logits_gradient(x, t, w, three, **options), slopes)
        slopes = numeric_gradient(lambda v: of_probabilities(v) / 3, p.tolist())
        for clamp in (None, "torch"):
            close(oracle.binary_cross_entropy_gradient(p, t, w, clamp=clamp, **options), slopes)

        b, c = np.array([-3.0, 0.5, 2.0]), np.array([1.0, 0.25, 0.0])
        for alpha, gamma in ((0.25, 2.0), (-1.0, 0.5), (0.75, 0.0)):

            def focal(v, alpha=alpha, gamma=gamma):
                total = 0
                for a, ti in zip(v, c, strict=True):
                    ce = ti * mpmath.log1p(mpmath.exp(-a)) + (1 - ti) * mpmath.log1p(mpmath.exp(a))
                    p_t = logistic(a) * ti + (1 - logistic(a)) * (1 - ti)
                    total += (alpha * ti + (1 - alpha) * (1 - ti) if alpha >= 0 else 1) * (1 - p_t) ** gamma * ce
                return total / 3

            close(oracle.sigmoid_focal_loss(b, c, alpha, gamma, "mean"), [focal(b.tolist())])
            slopes = numeric_gradient(focal, b.tolist())
            close(oracle.sigmoid_focal_loss_gradient(b, c, alpha, gamma, "mean"), slopes)

        def categorical(v):
            return -sum(mpmath.mpf((1 - e) * a + e / 4) * mpmath.log(b) for a, b in zip(T[0], v, strict=True))

        target = oracle.soft_targets(T, smoothing=e)
        close(oracle.categorical_cross_entropy(P, target), [categorical(P[0])])
        close(oracle.categorical_cross_entropy_gradient(P, target), numeric_gradient(categorical, P[0].tolist()))
        label = oracle.index_targets(np.array([2, -1]), 4, ignore_index=-1)
        close(oracle.categorical_cross_entropy(np.concatenate([P, Q]), label), [mpmath.log(8)])
        slopes = oracle.categorical_cross_entropy_gradient(np.concatenate([P, Q]), label)
        assert slopes.value.to_float64().tolist() == [[0, 0, -8, 0], [0, 0, 0, 0]]


def given(kind: str, v: list[mpmath.mpf]) -> list[mpmath.mpf]:
    """Probabilities given in some way."""
    if kind == "logits":
        return soft(v)
    return [mpmath.exp(a) for a in v] if kind == "log_probs" else [a / (sum(v) if kind == "counts" else 1) for a in v]


MEASURES = {
    "cross_entropy": lambda p, q: -sum(a * mpmath.log(b) for a, b in zip(p, q, strict=True)),
    "kl_divergence": lambda p, q: sum(a * mpmath.log(a / b) - a + b for a, b in zip(p, q, strict=True)),
    "js_divergence": lambda p, q: sum(
        (a * mpmath.log(2 * a / (a + b)) + b * mpmath.log(2 * b / (a + b))) / 2 for a, b in zip(p, q, strict=True)
    ),
}
GIVEN = {"probs": (P, Q), "counts": (16 * P, 16 * Q), "log_probs": (np.log(P), np.log(Q)), "logits": (X, Y)}


@pytest.mark.parametrize("name", MEASURES)
@pytest.mark.parametrize("p_kind", GIVEN)
@pytest.mark.parametrize("q_kind", GIVEN)
def test_measures_of_two_distributions_agree_with_other_formulas(name, p_kind, q_kind):
    p, q = GIVEN[p_kind][0], GIVEN[q_kind][1]
    with mpmath.workprec(400):

        def value(v, w):
            return MEASURES[name](given(p_kind, v), given(q_kind, w))

        one, two = ([mpmath.mpf(a) for a in row[0]] for row in (p, q))
        close(oracle.measure(name, p, q, p_kind, q_kind), [value(one, two)])
        close(oracle.measure(name, p, q, p_kind, q_kind, 2.0), [value(one, two) / mpmath.log(2)])
        over_p = numeric_gradient(lambda v: -2 * value(v, two), p[0].tolist())
        over_q = numeric_gradient(lambda v: -2 * value(one, v), q[0].tolist())
    g = np.array([-2.0])
    close(oracle.measure_gradient(name, "p", p, q, p_kind, q_kind, g), over_p)
    close(oracle.measure_gradient(name, "q", p, q, p_kind, q_kind, g), over_q)


# ---- second derivatives

V = np.array([[1.0, -0.5, 0.25, 3.0]])
ONE, LABEL = np.array([1.5]), oracle.index_targets(np.array([3]), 4, np.array([0.5, 3.0, 2.0, 8.0]), smoothing=0.25)
SOFT = oracle.soft_targets(T)
CURVED = {
    "softmax": (X, lambda x: oracle.softmax_vjp(x, G, 0.5)),
    "log_softmax": (X, lambda x: oracle.log_softmax_vjp(x, G, 0.5)),
    "logsumexp": (X, lambda x: oracle.logsumexp_gradient(x, ONE)),
    "cross_entropy": (X, lambda x: oracle.cross_entropy_gradient(x, LABEL, "mean", ONE, 0.5, 2.0)),
    "focal_loss": (X, lambda x: oracle.focal_loss_gradient(x, LABEL, 2.0, None, "none", ONE)),
    "soft focal_loss": (X, lambda x: oracle.focal_loss_gradient(x, SOFT, 0.5, None, "none", ONE)),
    "row_statistics": (
        X,
        lambda x: oracle.row_statistics_gradient(x, SOFT, T[0], dict.fromkeys(("nll", "lse", "entropy", "prior"), ONE)),
    ),
    "sigmoid": (X, lambda x: oracle.sigmoid_vjp(x, G)),
    "logsigmoid": (X, lambda x: oracle.logsigmoid_vjp(x, G)),
    "logit": (P, lambda p: oracle.logit_vjp(p, G, 2.0**-10)),
    "with logits": (X, lambda x: oracle.binary_cross_entropy_with_logits_gradient(x, T, G, None, "sum")),
    "binary": (P, lambda p: oracle.binary_cross_entropy_gradient(p, T, G, smoothing=0.25)),
    "clamped": (P * 2.0**-60, lambda p: oracle.binary_cross_entropy_gradient(p, T, G)),
    "sigmoid_focal_loss": (X, lambda x: oracle.sigmoid_focal_loss_gradient(x, T, 0.25, 1.5, "mean", ONE)),
    "mse_loss": (X, lambda x: oracle.mse_loss_gradient(x, T, "mean", ONE)),
    "rmse_loss": (X, lambda x: oracle.rmse_loss_gradient(x, T)),
    "categorical": (P, lambda p: oracle.categorical_cross_entropy_gradient(p, SOFT, "none", ONE)),
    **{
        f"inverse_softmax {center}": (P, lambda p, center=center: oracle.inverse_softmax_vjp(p, G, center))
        for center in ("mean", "max", None)
    },
    "k3": (np.log(P), lambda x: oracle.k3_gradient(x, np.log(Q), "p", G)),
    "kl_div": (P, lambda p: oracle.kl_div_gradient(np.log(Q), p, False, "sum", ONE, "target")),
    "kl_div log_target": (np.log(P), lambda p: oracle.kl_div_gradient(np.log(Q), p, True, "sum", ONE, "target")),
    **{
        f"{formula.__name__} {kind}": (x, lambda x, formula=formula, kind=kind: formula(x, kind, ONE))
        for formula in (oracle.entropy_gradient, oracle.perplexity_gradient)
        for kind, (x, _) in GIVEN.items()
    },
    **{
        f"{name} {kind} over p": (
            p,
            lambda x, name=name, kind=kind, q=q: oracle.measure_gradient(name, "p", x, q, kind, kind, ONE),
        )
        for name in MEASURES
        for kind, (p, q) in GIVEN.items()
        if (name, kind) != ("cross_entropy", "probs")  # linear
    },
    **{
        f"{name} {kind} over q": (
            q,
            lambda x, name=name, kind=kind, p=p: oracle.measure_gradient(name, "q", p, x, kind, kind, ONE),
        )
        for name in MEASURES
        for kind, (p, q) in GIVEN.items()
        if (name, kind) != ("cross_entropy", "log_probs")
    },
}


@pytest.mark.parametrize("name", CURVED)
def test_a_gradient_along_a_line_is_its_own_derivative(name):
    """Against a central difference of the gradient, at points that float64 holds; their truths have 106 bits."""
    x, gradient = CURVED[name]
    scale = 2.0 ** np.floor(np.log2(np.abs(x).max()))
    x, v, step = np.round(x / scale * 2**12) / 2**12 * scale, V * min(scale, 1.0), 2.0**-30
    assert np.all((x + step * v) - x == step * v)
    ahead, behind = gradient(x + step * v).value, gradient(x - step * v).value
    found = gradient(oracle.Line(x, v))
    for i in np.ndindex(x.shape):
        with mpmath.workprec(200):
            up, down = (
                mpmath.ldexp(mpmath.mpf(float(a.high[i])) + mpmath.mpf(float(a.low[i])), int(a.exponent[i]))
                for a in (ahead, behind)
            )
            slope, lost = (up - down) / (2 * step), abs(up) * mpmath.ldexp(1, -100) / step
        value, unit = (a.to_float64()[i] for a in found)
        assert abs(value - slope) <= 1e-12 * unit + lost
        assert unit >= abs(value) * (1 - 1e-15)


@pytest.mark.parametrize("regime", ["typical-10", "wide-100", "gap-80", "wrong-40", "masked-half"])
def test_a_column_of_the_hessian_of_cross_entropy_is_its_own_unit(regime):
    """It is a column of softmax's Jacobian, as far into the tail as there is one."""
    batch = regimes.logits(regime, "float64")
    v = regimes.onehot(batch)
    targets = oracle.index_targets(batch.y, batch.x.shape[1])
    found, jacobian = (
        oracle.cross_entropy_gradient(oracle.Line(batch.x, v), targets, "sum"),
        oracle.softmax_vjp(batch.x, v),
    )
    for numbers in (found.value, found.unit):
        for a, b in zip(numbers.to_float64().ravel(), jacobian.value.to_float64().ravel(), strict=True):
            assert abs(abs(a) - abs(b)) <= 1e-15 * abs(b)


def test_units_of_jets_are_the_terms_they_are_made_of():
    """p - 1/2 is exact and its own unit; of log p - log p^2 the second counts, and p^2 has been rounded before."""
    p = oracle.Jet(arb(0.75), arb(0), arb(1), arb(0))
    assert (p - arb(0.5)).unit == 0.25
    difference = p.log() - (p * p).log()
    assert float(difference.unit) == pytest.approx(1)
    assert float(difference.slope_unit) == pytest.approx(2 / 0.75)
    assert float(difference.slope) == pytest.approx(-1 / 0.75)


def test_other_measures_agree_with_other_formulas():
    with mpmath.workprec(400):
        for kind, (p, _) in GIVEN.items():

            def perplexity(v, kind=kind):
                return mpmath.exp(-sum(a * mpmath.log(a) for a in given(kind, v)))

            close(oracle.perplexity(p, kind), [perplexity([mpmath.mpf(a) for a in p[0]])])
            close(oracle.perplexity_gradient(p, kind, np.ones(1)), numeric_gradient(perplexity, p[0].tolist()))
        a, b = np.array([-1.0, -3.0, -1e-10]), np.array([-1.5, -3 + 2.0**-20, -2e-10])
        d = [mpmath.mpf(v) - mpmath.mpf(u) for u, v in zip(a, b, strict=True)]
        series = [mpmath.nsum(lambda k, v=v: v**k / mpmath.factorial(k), [2, mpmath.inf]) for v in d]
        close(oracle.k3(a, b), series)
        close(oracle.k3_gradient(a, b, "q", np.ones(3)), [mpmath.expm1(v) for v in d])
        close(oracle.k3_gradient(a, b, "p", np.ones(3)), [-mpmath.expm1(v) for v in d])

        x, t = np.log(Q), T

        def divergence(v, w, log_target):
            if log_target:
                return sum(mpmath.exp(b) * (b - mpmath.mpf(a)) for a, b in zip(v, w, strict=True))
            return sum(b * (mpmath.log(b) - mpmath.mpf(a)) for a, b in zip(v, w, strict=True))

        for log_target in (False, True):
            target = np.log(t) if log_target else t
            point = [mpmath.mpf(a) for a in target[0]]
            value = divergence(x[0], point, log_target)
            for reduction, divisor in (("sum", 1), ("batchmean", 1), ("mean", 4)):
                close(oracle.kl_div(x, target, log_target, reduction), [value / divisor])
            over_input = numeric_gradient(lambda v, w=point, k=log_target: divergence(v, w, k) / 4, x[0].tolist())
            over_target = numeric_gradient(lambda w, k=log_target: divergence(x[0], w, k) / 4, target[0].tolist())
            close(oracle.kl_div_gradient(x, target, log_target), over_input)
            close(oracle.kl_div_gradient(x, target, log_target, over="target"), over_target)


def test_definitions_are_those_of_torch_and_scipy():
    """Formulas above are ours; these are the field's, to the accuracy they have on ordinary numbers."""
    torch, special = pytest.importorskip("torch"), pytest.importorskip("scipy.special")
    functional = torch.nn.functional
    draw = regimes.rng("oracle", "field")
    x, t = draw.normal(size=(5, 4)), draw.random((5, 4))
    p, q = special.softmax(x, axis=1), special.softmax(draw.normal(size=(5, 4)), axis=1)

    def same(truth, theirs, rtol=1e-12):
        np.testing.assert_allclose(truth.value.to_float64(), np.asarray(theirs), rtol, atol=1e-15)

    def both(truth, slope, function, point, rtol=1e-12):
        point = torch.tensor(point, requires_grad=True)
        value = function(point)
        value.sum().backward()
        same(truth, value.detach())
        same(slope, point.grad, rtol)

    one = np.ones_like(x)
    both(oracle.sigmoid(x), oracle.sigmoid_vjp(x, one), torch.sigmoid, x)
    both(oracle.logsigmoid(x), oracle.logsigmoid_vjp(x, one), functional.logsigmoid, x)
    both(oracle.logit(p, 0.25), oracle.logit_vjp(p, one, 0.25), lambda v: torch.logit(v, 0.25), p)
    edges = np.array([0.0, 1e-60, 0.25, 1 - 2.0**-53, 1.0, 0.0, 1.0, 1e-20])
    targets = np.array([1.0, 1.0, 0.25, 0.0, 0.0, 0.0, 1.0, 0.5])
    both(
        oracle.binary_cross_entropy(edges, targets, reduction="none"),
        oracle.binary_cross_entropy_gradient(edges, targets, reduction="none"),
        lambda v: functional.binary_cross_entropy(v, torch.tensor(targets), reduction="none"),
        edges,
        1e-8,  # PyTorch's 1e-12 is that of float32, also in float64
    )
    for log_target in (False, True):
        target = np.log(p) if log_target else p
        for reduction in ("none", "sum", "batchmean"):
            both(
                oracle.kl_div(np.log(q), target, log_target, reduction),
                oracle.kl_div_gradient(np.log(q), target, log_target, reduction),
                lambda v, t=target, k=log_target, r=reduction: functional.kl_div(
                    v, torch.tensor(t), reduction=r, log_target=k
                ),
                np.log(q),
            )
    same(oracle.measure("kl_divergence", p, q, "probs"), special.kl_div(p, q).sum(axis=1))
    middle = (p + q) / 2
    halves = (special.rel_entr(p, middle) + special.rel_entr(q, middle)).sum(axis=1) / 2
    same(oracle.measure("js_divergence", p, q, "probs"), halves)
    same(oracle.measure("cross_entropy", x, q, "logits", "probs"), -(p * np.log(q)).sum(axis=1))
    hard = (t > 0.5).astype(np.float64)
    alpha_t = 0.25 * hard + 0.75 * (1 - hard)
    ce = functional.binary_cross_entropy_with_logits(torch.tensor(x), torch.tensor(hard), reduction="none").numpy()
    p_t = special.expit(x) * hard + special.expit(-x) * (1 - hard)
    same(oracle.sigmoid_focal_loss(x, hard), alpha_t * ce * (1 - p_t) ** 2)  # torchvision's lines


def test_what_is_infinite_and_what_is_nothing():
    inf = math.inf
    zero, one = np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]])
    g = np.array([-1.0])
    assert oracle.logit(np.array([0.0, 0.5, 1.0])).value.to_float64().tolist() == [-inf, 0, inf]
    assert oracle.logit_vjp(np.array([0.0, 1.0]), np.array([-1.0, 2.0])).value.to_float64().tolist() == [-inf, inf]
    assert oracle.inverse_softmax(np.array([[0.25, 0.0, 0.25]])).value.to_float64().tolist() == [[0, -inf, 0]]
    bits = (np.array([0.0, 0.0, 1.0, 1.0]), np.array([0.0, 1.0, 0.0, 1.0]))
    exact_bits = oracle.binary_cross_entropy(*bits, reduction="none", clamp=None)
    assert exact_bits.value.to_float64().tolist() == [0, inf, inf, 0]
    slope = oracle.binary_cross_entropy_gradient(*bits, reduction="none", clamp=None)
    assert slope.value.to_float64().tolist() == [1, -inf, inf, -1]
    assert oracle.binary_cross_entropy(*bits).value.to_float64() == 50
    right, wrong = oracle.soft_targets(zero), oracle.soft_targets(one)
    assert oracle.categorical_cross_entropy(zero, right).value.to_float64() == 0
    assert oracle.categorical_cross_entropy(zero, wrong).value.to_float64() == inf
    assert oracle.categorical_cross_entropy_gradient(zero, right).value.to_float64().tolist() == [[0, -1]]
    assert oracle.categorical_cross_entropy_gradient(zero, wrong).value.to_float64().tolist() == [[-inf, 0]]
    for name, apart in (("cross_entropy", inf), ("kl_divergence", inf), ("js_divergence", math.log(2))):
        assert oracle.measure(name, zero, one, "probs").value.to_float64().tolist() == [apart]
        assert oracle.measure(name, zero, zero, "probs").value.to_float64().tolist() == [0]
    half = np.array([[0.5, 0.5]])
    assert oracle.measure("kl_divergence", zero, half, "probs").value.to_float64().tolist() == [math.log(2)]
    assert oracle.measure("kl_divergence", X, X, "logits").value.to_float64().tolist() == [0]
    over_q = oracle.measure_gradient("kl_divergence", "q", zero, half, "probs", None, g)
    assert over_q.value.to_float64().tolist() == [[-1, 1]]
    masked = oracle.measure_gradient("kl_divergence", "p", np.array([[-inf, 0.0]]), half, "logits", "probs", g)
    assert masked.value.to_float64().tolist() == [[0, 0]]
    assert oracle.kl_div(np.array([-inf, -inf]), np.array([0.0, 0.5]), reduction="none").value.high.tolist() == [0, inf]
    single = oracle.index_targets(np.array([0]), 1)
    for gamma in (0.0, 0.5, 2.0):
        assert oracle.focal_loss(np.array([[3.0]]), single, gamma).value.high == 0
        assert oracle.focal_loss_gradient(np.array([[3.0]]), single, gamma).value.high.tolist() == [[0]]


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
    for name in regimes.PAIRS[dtype]:
        for kind in ("logits", "log_probs", "probs"):
            p, q = (a.astype(np.float64) for a in regimes.pair(name, kind, dtype))
            zeros = p == (0 if kind == "probs" else -np.inf)
            assert zeros.any() == (name == "sparse")
            assert np.all(q > 0 if kind == "probs" else np.isfinite(q))
            assert not np.any(np.all(p == q, axis=1))
            if kind != "logits":
                sums = np.sum(p if kind == "probs" else np.exp(p), axis=1)
                assert np.all(np.abs(sums - 1) <= 0.05)
    for name in regimes.UNIT_INTERVAL:
        p, t = (a.astype(np.float64) for a in regimes.binary_probabilities(name, dtype))
        assert np.all((p >= 0) & (p <= 1) & (t >= 0) & (t <= 1))
        assert np.any((p == 0) | (p == 1)) == (name == "certain")
        assert np.max(np.abs(p - t)) < 0.06 or name != "close"
    for name in regimes.log_ratios(dtype):
        d = np.subtract(*(a.astype(np.float64) for a in regimes.log_probabilities(name, dtype)))
        assert d.min() < 0 < d.max()
        assert name == "neighbours" or np.max(np.abs(d)) <= 1.02 * float(name)
    for name in regimes.REGRESSION[dtype]:
        x, t = (a.astype(np.float64) for a in regimes.regression(name, dtype))
        assert np.array_equal(x, t) == (name == "equal")
        if name[0] == "1":
            assert np.max(np.abs(x - t)) == float(regimes.rounded(np.array(float(name)), dtype))
