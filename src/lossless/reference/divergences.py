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
        t, rest = _difference(xp, c, D, c_rest)
    elif p_form == q_form and p_form != "log_probs":
        t = c = _log_ratio(xp, p, q, finite)
        rest = c_rest = xp.zeros_like(t)
    else:
        t, rest = c, c_rest = _difference(xp, q.log, p.log, q.log_rest - p.log_rest)
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


# ---- log(q / p) of two distributions given in the same form


def _differences_of_logits(
    xp: Any, p: Distribution, q: Distribution, finite: Array
) -> tuple[Array, Array, Array, tuple[Array, Array]]:
    """c, what rounding left out of it, D, and (where, q - p) at the class k if D is so small that it lost digits.

    k is the likeliest class of p that q has too. 1 + sum p (e^c - 1) = p_k / q_k whatever k is.
    """
    exact = p.up != 1.0
    a, b = (xp.where(finite, _settled(xp, d), 0.0) for d in (p, q))
    d, rest = _difference(xp, b, a)
    k = xp.argmax(xp.where(finite, p.p, -1.0), axis=-1, keepdims=True)
    top = onehot(xp, k, d) & finite
    d_k, rest_k = (_at(xp, top, v) for v in (d, rest))
    c, c_rest = _difference(xp, d, d_k, rest - rest_k)
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


def _difference(xp: Any, a: Array, b: Array, rest: Array | float = 0.0) -> tuple[Array, Array]:
    """a - b + rest in two words, of which the second is at most half an ulp of the first."""
    d = a - b
    rest = addition_rest(xp, a, 0.0 - b, d) + rest
    whole = d + rest
    return whole, addition_rest(xp, d, rest, whole)


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


def _inverse_factorials(n: int) -> list[float]:
    """1/2!, 1/3!, ..., 1/n!."""
    found, product = [], 1.0
    for i in range(2, n + 1):
        product *= i
        found.append(1.0 / product)
    return found


H = _inverse_factorials(19)
"h(t) = t^2 (1/2! + t/3! + t^2/4! + ...), for |t| <= 1."
PHI = [1.0 / (n * (2 * n - 1)) for n in range(1, 26)]
"phi(s) = s^2 (1 + s^2/6 + s^4/15 + ...), for |s| <= 1/2."


def _polynomial(x: Array, coefficients: list[float]) -> Array:
    """Its constant first (Horner)."""
    value = coefficients[-1] + 0.0 * x
    for coefficient in reversed(coefficients[:-1]):
        value = value * x + coefficient
    return value


def _h(xp: Any, t: Array, rest: Array) -> Array:
    """h(t + rest) = e^t - 1 - t."""
    near = xp.abs(t) <= 1.0
    small, large = xp.where(near, t, 0.0), xp.where(near, 0.0, t)
    value = xp.where(near, small * small * _polynomial(small, H), xp.expm1(large) - large)
    slope = xp.expm1(t)
    return value + xp.where(xp.isfinite(slope), slope, 0.0) * rest


def _exponential_less_one(xp: Any, t: Array, rest: Array) -> Array:
    """e^(t + rest) - 1."""
    slope = xp.exp(t)
    return xp.expm1(t) + xp.where(xp.isfinite(slope), slope, 0.0) * rest


# ---- measures: (*batch) values, and the gradients over both, given that over the value


def cross_entropy(a: Array, b: Array, p_form: str, q_form: str) -> Array:
    """sum p (-log q)."""
    xp = namespace(a)
    p, q = distribution(a, p_form), distribution(b, q_form)
    terms = p.p * (0.0 - (q.log + q.log_rest))
    terms = xp.where(q.zero, xp.where(p.zero, 0.0, _infinite(xp, p)), terms)
    return _sum(xp, terms, p.up)


def cross_entropy_backward(a: Array, b: Array, p_form: str, q_form: str, g: Array, over: str) -> Array:
    xp = namespace(a)
    p, q = distribution(a, p_form), distribution(b, q_form)
    if over == "p":
        cost = xp.where(q.zero, xp.inf, 0.0 - q.log)
        return _chain(xp, p, cost, 0.0 - q.log_rest, g)
    if q_form in ("logits", "counts"):
        return _over_normalised_q(xp, p, q, g)
    if q_form == "log_probs":
        return col(g) * (0.0 - p.p) / p.up
    return times(xp, col(g), 0.0 - _quotient(xp, p, q))


def kl_divergence(a: Array, b: Array, p_form: str, q_form: str) -> Array:
    """sum p h(t); beside a much larger q, q - p (1 + t)."""
    xp = namespace(a)
    p, q, t, rest, *_ = v = pair(a, b, p_form, q_form)
    far = ~(t <= 4.0)
    some = xp.where(v.finite, t, 0.0)
    near = p.p * _h(xp, xp.where(far, 0.0, some), rest)
    terms = xp.where(far, q.p - p.p * (1.0 + (some + rest)), near)
    return _sum(xp, xp.where(t == -xp.inf, _infinite(xp, p), terms), v.up)


def kl_divergence_backward(a: Array, b: Array, p_form: str, q_form: str, g: Array, over: str) -> Array:
    """d/dp = -t, d/dq = 1 - p / q."""
    xp = namespace(a)
    v = pair(a, b, p_form, q_form)
    p, q = v.p, v.q
    if over == "p":
        u, rest = (v.c, v.c_rest) if p_form in ("logits", "counts") else (v.t, v.rest)
        return _chain(xp, p, 0.0 - u, 0.0 - rest, g)
    if q_form in ("logits", "counts") and p_form != q_form:
        return _over_normalised_q(xp, p, q, g)
    if q_form in ("logits", "log_probs"):
        return col(g) * v.excess / v.up
    slope = v.excess / xp.where(q.zero, 1.0, q.p)
    slope = xp.where(p.zero, 1.0, xp.where(q.zero, -xp.inf, slope))
    return times(xp, col(g), slope if q.whole is None else slope / q.whole)


def js_divergence(a: Array, b: Array, p_form: str, q_form: str) -> Array:
    """sum (p + q) / 4 phi(s), or where s is not small (p log(1 - s) + q log(1 + s)) / 2."""
    xp = namespace(a)
    v = pair(a, b, p_form, q_form)
    s, log_less, log_more = _contrast(xp, v)
    near = xp.abs(s) <= 0.5
    square = xp.where(near, s * s, 0.0)
    terms = 0.25 * (v.p.p + v.q.p) * (square * _polynomial(square, PHI))
    far = 0.5 * (v.p.p * xp.where(v.p.zero, 0.0, log_less) + v.q.p * xp.where(v.q.zero, 0.0, log_more))
    return _sum(xp, xp.where(near, terms, far), v.up)


def js_divergence_backward(a: Array, b: Array, p_form: str, q_form: str, g: Array, over: str) -> Array:
    """d/dp = log(1 - s) / 2, d/dq = log(1 + s) / 2."""
    xp = namespace(a)
    v = pair(a, b, p_form, q_form)
    _, log_less, log_more = _contrast(xp, v)
    own, slope = (v.p, log_less) if over == "p" else (v.q, log_more)
    return _chain(xp, own, 0.5 * slope, xp.zeros_like(slope), g)


class Measure(NamedTuple):
    """A measure of two distributions, each in one of the four forms, both in the same dtype."""

    value: Callable[[Array, Array, str, str], Array]
    "(p, q, form of p, form of q)"
    backward: Callable[[Array, Array, str, str, Array, str], Array]
    "(..., the gradient over the value, which of them)"


MEASURES = {
    "cross_entropy": Measure(cross_entropy, cross_entropy_backward),
    "kl_divergence": Measure(kl_divergence, kl_divergence_backward),
    "js_divergence": Measure(js_divergence, js_divergence_backward),
}


def _sum(xp: Any, terms: Array, up: float) -> Array:
    return 0.0 + last(sum_classes(xp, terms, up != 1.0)) / up


def _infinite(xp: Any, p: Distribution) -> Array:
    """Infinity, but NaN where p is."""
    return xp.inf + 0.0 * p.p


def _contrast(xp: Any, v: Pair) -> tuple[Array, Array, Array]:
    """s = (q - p) / (p + q), log(1 - s) = log(p / m) and log(1 + s) = log(q / m), m = (p + q) / 2."""
    s = xp.tanh(0.5 * v.t)
    s = s + 0.5 * (1.0 - s * s) * v.rest
    logs = []
    for contrast, t in ((s, v.t), (0.0 - s, 0.0 - v.t)):
        near = contrast <= 0.5
        far = LOG_2 - xp.where(near, 1.0, t) - xp.log1p(xp.exp(0.0 - xp.where(near, 1.0, t)))
        logs.append(xp.where(near, xp.log1p(0.0 - xp.where(near, contrast, 0.0)), far))
    return s, logs[0], logs[1]


def _chain(xp: Any, d: Distribution, u: Array, rest: Array, g: Array) -> Array:
    """The gradient over what was given, from the derivatives u over the probabilities: g times

        u_j,   p_j u_j,   p_j (u_j - sum p u)   or   (u_j - sum p u) / sum of counts

    for probs, log_probs, logits and counts. Differences to u at the top class come first, so that a constant in u changes
    nothing. Where u is infinite and p is not 0, its class takes everything.
    """
    if d.form == "probs":
        return times(xp, col(g), u + rest)
    endless = xp.isinf(u)
    some = xp.where(endless, 0.0, u)
    if d.form == "log_probs":
        slope = xp.where(d.zero, 0.0, d.p * (xp.where(endless, u, some) + rest))
        return col(g) * slope / d.up
    kept = xp.where(d.zero, 0.0, some)
    kept_rest = xp.where(d.zero | endless, 0.0, rest)
    u_k, rest_k = _at(xp, d.top, kept), _at(xp, d.top, kept_rest)
    w, w_rest = _difference(xp, kept, u_k, kept_rest - rest_k)
    w, w_rest = xp.where(d.zero, 0.0, w), xp.where(d.zero, 0.0, w_rest)
    mean = sum_classes(xp, d.p * w + d.p * w_rest, d.up != 1.0)
    taken = xp.any(endless & ~d.zero, axis=-1, keepdims=True)
    if d.whole is None:
        slope = d.p * w + (d.p * w_rest - d.p / d.up * mean)
        slope = xp.where(taken & (d.p > 0.0), xp.where(endless, xp.inf, -xp.inf), slope)
        return col(g) * slope / d.up
    w = xp.where(d.zero, some - u_k, w)
    slope = ((w - mean / d.up) + w_rest) / d.whole
    slope = xp.where(taken, -xp.inf, slope)
    return times(xp, col(g), xp.where(endless, u, slope))


def _over_normalised_q(xp: Any, p: Distribution, q: Distribution, g: Array) -> Array:
    """(tau - p_j) q_j - p_j (1 - q_j), tau = sum p, over logits; over counts, divided by them."""
    others = sum_of_others(p.p) if p.others is None else p.others
    if q.whole is None:
        return col(g) * ((others * q.p - p.p * q.others) / p.up) / p.up
    slope = (others - _quotient(xp, p, q) * q.others) / p.up / q.whole
    return times(xp, col(g), slope)


def _quotient(xp: Any, p: Distribution, q: Distribution) -> Array:
    """p / q, 0 where p is 0."""
    quotient = p.p / xp.where(q.zero, 1.0, q.p)
    return xp.where(p.zero, 0.0, xp.where(q.zero, xp.inf, quotient))


# ---- one draw


def k3(log_p: Array, log_q: Array) -> Array:
    """h(log q - log p)."""
    return 0.0 + _h(namespace(log_p), *_log_difference(log_p, log_q))


def k3_slope(log_p: Array, log_q: Array) -> Array:
    """Its derivative over log q, and minus that over log p."""
    return _exponential_less_one(namespace(log_p), *_log_difference(log_p, log_q))


def _log_difference(log_p: Array, log_q: Array) -> tuple[Array, Array]:
    """log q - log p in two words; 0 where both are the same infinity."""
    xp = namespace(log_p)
    a, b = wide(log_p), wide(log_q)
    same = xp.isinf(a) & (a == b)
    a, b = xp.where(same, 0.0, a), xp.where(same, 0.0, b)
    return _difference(xp, b, a)
