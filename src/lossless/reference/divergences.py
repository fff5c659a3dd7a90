"""Measures of two distributions: cross-entropy, Kullback-Leibler and Jensen-Shannon divergence, and their gradients.

All are made of t = log(q / p), class by class, found without rounding what p and q share:

    logits            t_j = c_j - D,  c_j = (b_j - a_j) - (b_k - a_k),  D = log(p_k / q_k) = log1p(sum p (e^c - 1))
    probs, counts     t_j = log1p((q_j - p_j) / p_j), where the difference is exact
    log_probs         t_j = b_j - a_j
    two forms         t_j = log q_j - log p_j, which has lost what the two share

    KL = sum p h(t),            h(t) = e^t - 1 - t >= 0
    JS = sum (p + q) / 4 phi(s),  s = (q - p) / (p + q) = tanh(t / 2),  phi(s) = (1-s) log(1-s) + (1+s) log(1+s) >= 0

Sums of terms that are never negative: neither divergence is, and both are 0 where all t are. An error in D moves all t
alike, and the sum only in second order.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from lossless.reference.arithmetic import (
    Array,
    addition_rest,
    col,
    last,
    log_quotient,
    namespace,
    onehot,
    product_rest,
    sum_classes,
    sum_of_others,
    times,
    wide,
)
from lossless.reference.distributions import Distribution, distribution

LOG_2 = 0.6931471805599453


class Pair(NamedTuple):
    """Two distributions, (*batch, C)."""

    p: Distribution
    q: Distribution
    t: Array
    "log(q / p): infinite where one of them is 0, 0 where both are."
    rest: Array
    "What rounding left out of t."
    c: Array
    "t, but for a constant of the row that rounding would have spoilt."
    c_rest: Array
    excess: Array
    "q - p, times `up`."

    @property
    def up(self) -> float:
        return self.p.up

    @property
    def finite(self) -> Array:
        """Where neither is 0."""
        return ~(self.p.zero | self.q.zero)


def pair(a: Array, b: Array, p_form: str, q_form: str) -> Pair:
    """Both in the same dtype."""
    xp = namespace(a)
    p, q = distribution(a, p_form), distribution(b, q_form)
    finite = ~(p.zero | q.zero)
    small: Any = None
    if p_form == q_form == "logits":
        c, c_rest, D, small = _differences_of_logits(xp, p, q, finite)
        t = c - D
        rest = addition_rest(xp, c, 0.0 - D, t) + c_rest
    elif p_form == q_form and p_form != "log_probs":
        t = c = _log_ratio(xp, p, q, finite)
        rest = c_rest = xp.zeros_like(t)
    else:
        t = c = q.log - p.log
        rest = c_rest = addition_rest(xp, q.log, 0.0 - p.log, t) + (q.log_rest - p.log_rest)
    rest, c_rest = xp.where(finite, rest, 0.0), xp.where(finite, c_rest, 0.0)
    one_sided = xp.where(p.zero, xp.where(q.zero, 0.0, xp.inf), -xp.inf)
    t, c = xp.where(finite, t, one_sided), xp.where(finite, c, one_sided)
    return Pair(p, q, t, rest, c, c_rest, _excess(xp, p, q, t, rest, finite, small))


def _excess(xp: Any, p: Distribution, q: Distribution, t: Array, rest: Array, finite: Array, small: Any) -> Array:
    """q - p = p (e^t - 1), times `up`; the difference itself where it is as good, or all there is."""
    if p.form == q.form == "probs":
        return q.p - p.p
    near = finite & (t <= 1.0)
    some = xp.where(near, t, 0.0)
    excess = xp.where(near, p.p * _exponential_less_one(xp, some, rest), q.p - p.p)
    return excess if small is None else xp.where(small[0], small[1], excess)


def _exponential_less_one(xp: Any, t: Array, rest: Array) -> Array:
    """e^(t + rest) - 1."""
    return xp.expm1(t) + xp.exp(t) * rest


# ---- log(q / p) of two distributions given in the same form


def _differences_of_logits(
    xp: Any, p: Distribution, q: Distribution, finite: Array
) -> tuple[Array, Array, Array, tuple[Array, Array]]:
    """c, what rounding left out of it, D, and (where, q - p) at the class k if D is so small that it lost digits.

    k is the likeliest class of p that q has too. 1 + sum p (e^c - 1) = p_k / q_k whatever k is.
    """
    exact = p.up != 1.0
    a, b = (xp.where(finite, _settled(xp, d), 0.0) for d in (p, q))
    d = b - a
    rest = addition_rest(xp, b, 0.0 - a, d)
    k = xp.argmax(xp.where(finite, p.p, -1.0), axis=-1, keepdims=True)
    top = onehot(xp, k, d) & finite
    d_k, rest_k = (_at(xp, top, v) for v in (d, rest))
    c = d - d_k
    c_rest = addition_rest(xp, d, 0.0 - d_k, c) + (rest - rest_k)
    c, c_rest = xp.where(finite, c, 0.0), xp.where(finite, c_rest, 0.0)

    p_k, q_k, log_p, log_q = (_at(xp, top, v) for v in (p.p, q.p, p.log, q.log))
    whole = (p_k > 1e-270) & (q_k > 1e-270)
    ratio = xp.where(whole, p_k, 1.0) / xp.where(whole, q_k, 1.0)
    grown = ~finite | (c > 1.0)
    less = p.p * _exponential_less_one(xp, xp.where(grown, 0.0, c), c_rest)
    w = xp.where(grown, q.p * ratio - p.p, less)
    W = sum_classes(xp, w, exact)
    z = W / p.up
    near = whole & (xp.abs(z) <= 0.5)
    some = xp.where(near, z, 0.0)
    D = xp.where(near, xp.where(xp.abs(some) < 1e-30, some, xp.log1p(some)), xp.log(ratio))
    D = xp.where(whole | ~xp.any(top, axis=-1, keepdims=True), D, log_p - log_q)
    small = top & near & (xp.abs(z) < 1e-250)
    return c, c_rest, D, (small, 0.0 - (p.p / p.up) * W)


def _settled(xp: Any, d: Distribution) -> Array:
    """Its logits; beside a lone +inf, which takes everything, nothing else has any."""
    return xp.where(d.top & (d.given == xp.inf), 0.0, d.given)


def _at(xp: Any, top: Array, v: Array) -> Array:
    """Its number at the one class, (*batch, 1)."""
    return xp.sum(xp.where(top, v, 0.0), axis=-1, keepdims=True)


def _log_ratio(xp: Any, p: Distribution, q: Distribution, finite: Array) -> Array:
    """t of probabilities, or of counts a, b with sums A, B: log(b_j A / (a_j B)), the products in two words."""
    a, b = (xp.where(finite, v.given, 1.0) for v in (p, q))
    if p.total is None or q.total is None:
        return log_quotient(xp, b, a)
    (A, A_rest), (B, B_rest) = p.total, q.total
    left, right = b * A, a * B
    difference = left - right
    if p.up != 1.0:
        left_rest, right_rest = product_rest(b, A, left) + b * A_rest, product_rest(a, B, right) + a * B_rest
        difference = (difference + addition_rest(xp, left, 0.0 - right, difference)) + (left_rest - right_rest)
    lost = ~((left > 1e-290) & (right > 1e-290))
    t = log_quotient(xp, xp.where(lost, 1.0, left), xp.where(lost, 1.0, right), xp.where(lost, 0.0, difference))
    return xp.where(lost, q.log - p.log, t)


# ---- terms that are never negative


def h(t: Array, rest: Array | None = None) -> Array:
    """e^t - 1 - t, of t in one word or two."""
    xp = namespace(t)
    near = xp.abs(t) <= 1.0
    small = xp.where(near, t, 0.0)
    series = small * small * _horner(small, _H)
    large = xp.where(near, 0.0, t)
    value = xp.where(near, series, xp.expm1(large) - large)
    return value if rest is None else value + xp.expm1(t) * rest


def phi(s: Array, l_minus: Array, l_plus: Array) -> Array:
    """(1 - s) log(1 - s) + (1 + s) log(1 + s), from s and the two logarithms."""
    xp = namespace(s)
    near = xp.abs(s) <= 0.5
    square = xp.where(near, s * s, 0.0)
    far = (1.0 - s) * l_minus + (1.0 + s) * l_plus
    return xp.where(near, square * _horner(square, _PHI), far)


def _series(coefficients: list[float]) -> tuple[float, ...]:
    return tuple(reversed(coefficients))


def _factorials(n: int) -> list[float]:
    found = [1.0]
    for i in range(2, n + 1):
        found.append(found[-1] * i)
    return found


_H = _series([1.0 / f for f in _factorials(19)[1:]])
"h(t) = t^2 (1/2 + t/3! + t^2/4! + ...), for |t| <= 1."
_PHI = _series([1.0 / (n * (2 * n - 1)) for n in range(1, 26)])
"phi(s) = s^2 (1 + s^2/6 + s^4/15 + ...), for |s| <= 1/2."


def _horner(x: Array, coefficients: tuple[float, ...]) -> Array:
    """The polynomial, its highest power first."""
    value = x * 0.0 + coefficients[0]
    for coefficient in coefficients[1:]:
        value = value * x + coefficient
    return value


def k3(log_p: Array, log_q: Array) -> Array:
    """h(log q - log p); 0 where both are the same infinity."""
    d, rest = _log_difference(log_p, log_q)
    return 0.0 + h(d, rest)


def k3_slope(log_p: Array, log_q: Array) -> Array:
    """e^d - 1: the derivative over log q, and minus that over log p."""
    d, rest = _log_difference(log_p, log_q)
    return _exponential_less_one(namespace(d), d, rest)


def _log_difference(log_p: Array, log_q: Array) -> tuple[Array, Array]:
    xp = namespace(log_p)
    a, b = wide(log_p), wide(log_q)
    same = xp.isinf(a) & (a == b)
    a, b = xp.where(same, 0.0, a), xp.where(same, 0.0, b)
    d = b - a
    return d, addition_rest(xp, b, 0.0 - a, d)


# ---- measures


def cross_entropy(a: Array, b: Array, p_form: str, q_form: str) -> Array:
    """sum p (-log q), (*batch)."""
    xp = namespace(a)
    p, q = distribution(a, p_form), distribution(b, q_form)
    exact = p.up != 1.0
    # L of logits enters once, by the sum of p, so that a class that is all but certain costs L and no more.
    terms = 0.0 - p.p * (q.log + q.log_rest)
    terms = xp.where(q.zero, xp.where(p.zero, 0.0, xp.inf + 0.0 * p.p), terms)
    return 0.0 + last(sum_classes(xp, terms, exact)) / p.up


def kl_divergence(a: Array, b: Array, p_form: str, q_form: str) -> Array:
    """sum p h(t), (*batch)."""
    xp = namespace(a)
    v = pair(a, b, p_form, q_form)
    far = ~(v.t <= 4.0)
    some = xp.where(v.finite, v.t, 0.0)
    near = v.p.p * h(xp.where(far, 0.0, some), v.rest)
    terms = xp.where(far, v.q.p - v.p.p * (1.0 + (some + v.rest)), near)
    terms = xp.where(v.t == -xp.inf, xp.inf + 0.0 * v.p.p, terms)
    return 0.0 + last(sum_classes(xp, terms, v.up != 1.0)) / v.up


def js_divergence(a: Array, b: Array, p_form: str, q_form: str) -> Array:
    """sum (p + q) / 4 phi(s), (*batch)."""
    xp = namespace(a)
    v = pair(a, b, p_form, q_form)
    s, l_minus, l_plus = _contrast(xp, v)
    near = xp.abs(s) <= 0.5
    square = xp.where(near, s * s, 0.0)
    far = 0.5 * (times(xp, v.p.p, l_minus) + times(xp, v.q.p, l_plus))
    terms = xp.where(near, 0.25 * (v.p.p + v.q.p) * (square * _horner(square, _PHI)), far)
    return 0.0 + last(sum_classes(xp, terms, v.up != 1.0)) / v.up
