"""Measures of two distributions: cross-entropy, Kullback-Leibler and Jensen-Shannon divergence, and their gradients.

All but the first are made of t = log(q / p), class by class, found without rounding what p and q share:

    logits            t_j = c_j - D,  c_j = (b_j - a_j) - (b_k - a_k),  D = log(p_k / q_k) = log1p(sum p (e^c - 1))
    probs, counts     t_j = log1p((q_j - p_j) / p_j), where the difference is exact
    log_probs         t_j = b_j - a_j
    two forms         t_j = log q_j - log p_j, which has lost what the two share

    KL = sum p h(t),              h(t) = e^t - 1 - t >= 0
    JS = sum (p + q) / 4 phi(s),  s = (q - p) / (p + q) = tanh(t / 2),  phi(s) = (1-s) log(1-s) + (1+s) log(1+s) >= 0

Sums of terms that are never negative: neither divergence is, and both are 0 where all t are. An error in D moves all t
alike, and KL only in second order. Gradients over logits are made of the differences between classes, where a constant
in t cancels before it is rounded.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from lossless.reference.arithmetic import (
    Array,
    col,
    constant,
    derived_from,
    last,
    log_quotient,
    namespace,
    onehot,
    product_rest,
    sum_classes,
    sum_of_others,
    sum_words,
    times,
    wide,
)
from lossless.reference.distributions import (
    LOG_2,
    LOG_2_REST,
    NORMALIZED,
    Distribution,
    Words,
    at,
    difference,
    distance,
    distribution,
    project,
    sum_of_counts,
    weigh,
)
from lossless.reference.sigmoid import Elementwise
from lossless.reference.softmax import HEADROOM


class Pair(NamedTuple):
    """Two distributions, (*batch, C)."""

    p: Distribution
    q: Distribution
    q_p: Array
    "q, times the scale of p."
    t: Words
    "log(q / p): infinite where one of them is 0, 0 where both are."
    c: Words
    "t, but for a constant of the row that rounding would have spoilt."

    @property
    def finite(self) -> Array:
        """Where neither is 0."""
        return ~(self.p.zero | self.q.zero)


def pair(a: Array, b: Array, p_form: str, q_form: str) -> Pair:
    """Both in the same dtype."""
    xp = namespace(a)
    p, q = distribution(a, p_form), distribution(b, q_form)
    finite = ~(p.zero | q.zero)
    q_p = q.p * (p.scale / q.scale)
    if p_form == q_form == "logits":
        c, D = _differences_of_logits(xp, p, q, finite)
        t = difference(xp, c[0], D[0], c[1] - D[1])
    elif p_form == q_form and p_form != "log_probs":
        t = c = _log_ratio(xp, p, q, finite, _totals(xp, p, q), q.log - p.log)
    else:
        t = c = difference(xp, q.log, p.log, q.log_rest - p.log_rest)
    one_sided = xp.where(p.zero, xp.where(q.zero, 0.0, xp.inf), -xp.inf + 0.0 * p.p)
    t, c = ((xp.where(finite, high, one_sided), xp.where(finite, low, 0.0)) for high, low in (t, c))
    return Pair(p, q, q_p, t, c)


def _excess(xp: Any, v: Pair) -> Array:
    """q - p, times the scale of p: p (e^t - 1), or the difference itself where that is as good, or all there is."""
    p, q, apart = v.p, v.q, v.q_p - v.p.p
    if p.form != q.form or p.form == "probs":  # t of two forms is not as good, and of probabilities no better
        return apart
    (t, rest), near = v.t, v.finite & (v.t[0] <= 1.0)
    excess = xp.where(near, p.p * _exponential_less_one(xp, xp.where(near, t, 0.0), rest), apart)
    if p.form not in NORMALIZED:
        return excess
    # What a class with more than half of p loses, all others gain: of its own t little may be left.
    gained = sum_classes(xp, xp.where(p.top, 0.0, excess), p.exact)
    return xp.where(p.top & (p.p > 0.5 * p.scale), 0.0 - gained, excess)


# ---- log(q / p) of two distributions given in the same form


def _differences_of_logits(xp: Any, p: Distribution, q: Distribution, finite: Array) -> tuple[Words, Words]:
    """c and D, which refer to the class k that both like best: 1 + sum p (e^c - 1) = p_k / q_k whatever k is."""
    a, b = (xp.where(finite, _settled(xp, d), 0.0) for d in (p, q))
    d, rest = difference(xp, b, a)
    k = xp.argmax(xp.where(finite, p.log + q.log, -xp.inf), axis=-1, keepdims=True)
    top = onehot(xp, k, d) & finite
    c, c_rest = difference(xp, d, at(xp, top, d), rest - at(xp, top, rest))
    c, c_rest = xp.where(finite, c, 0.0), xp.where(finite, c_rest, 0.0)

    p_k, q_k = at(xp, top, p.p), at(xp, top, q.p)
    normal = (p_k > 1e-270) & (q_k > 1e-270)
    ratio = xp.where(normal, p_k, 1.0) / xp.where(normal, q_k, 1.0)
    grown = ~finite | (c > 1.0)
    less = p.p * _exponential_less_one(xp, xp.where(grown, 0.0, c), c_rest)
    w = sum_classes(xp, xp.where(grown, q.p * ratio - p.p, less), p.exact) / p.scale
    near = normal & (xp.abs(w) <= 0.5)
    some = xp.where(near, w, 0.0)
    close = xp.where(xp.abs(some) < 1e-30, some, xp.log1p(some))
    ratio = xp.where(normal, ratio * (q.scale / p.scale), 1.0)
    plain = xp.log(ratio)
    plain_rest = ratio * xp.exp(0.0 - plain) - 1.0
    far, far_rest = difference(xp, at(xp, top, p.log), at(xp, top, q.log), at(xp, top, p.log_rest - q.log_rest))
    D = xp.where(near, close, xp.where(normal, plain, far))
    return (c, c_rest), (D, xp.where(near, 0.0, xp.where(normal, plain_rest, far_rest)))


def _settled(xp: Any, d: Distribution) -> Array:
    """Its logits; beside a lone +inf, which takes everything, nothing else has any."""
    return xp.where(d.top & (d.given == xp.inf), 0.0, d.given)


class Totals(NamedTuple):
    """What counts a and b are divided by, (*batch, 1)."""

    A: Array
    B: Array
    A_rest: Array
    "What A lacks, or if the two are similar, what A lacks less what B lacks."
    B_rest: Array
    "What B lacks."
    similar: Array


def _totals(xp: Any, p: Distribution, q: Distribution) -> Totals | None:
    """The sums; what rounding leaves out of two similar ones differs by what is left of the sum of differences."""
    if p.total is None or q.total is None:
        return None
    (A, A_rest), (B, B_rest) = p.total, q.total
    d, d_rest = difference(xp, p.p, q.p)
    total, lost = sum_words(xp, d, exact=True)
    apart = (total - (A - B)) + (lost + sum_classes(xp, d_rest, exact=True))
    similar = (A <= 2.0 * B) & (B <= 2.0 * A)
    return Totals(A, B, xp.where(similar, apart, A_rest), B_rest, similar)


def _log_ratio(
    xp: Any, p: Distribution, q: Distribution, finite: Array, totals: Totals | None, instead: Array
) -> Words:
    """log(b_j A / (a_j B)) of counts a, b, whose products are taken in two words; without totals log(b_j / a_j).

    `instead` is the same by logarithms: it stands where the products are too small, and for the derivative.
    """
    a, b = (xp.where(finite, v.given, 1.0) for v in (p, q))
    if totals is None:
        return log_quotient(xp, b, a), xp.zeros_like(a)
    a, b, (A, B, A_rest, B_rest, similar) = constant(a), constant(b), map(constant, totals)
    left, right = b * A, a * B
    rest = b * A_rest - xp.where(similar, a - b, a) * B_rest
    rest = (product_rest(b, A, left) - product_rest(a, B, right)) + rest
    apart = difference(xp, left, right, rest)[0]
    fit = finite & (left > 1e-290) & (right > 1e-290)
    left, right, apart = xp.where(fit, left, 1.0), xp.where(fit, right, 1.0), xp.where(fit, apart, 0.0)
    t = log_quotient(xp, left, right, apart)
    far = (xp.abs(t) > 1.0) & (xp.abs(t) < 600.0)  # where the rounding of t is more than one of e^t
    rest = xp.where(far, left / right, 1.0) * xp.exp(0.0 - xp.where(far, t, 0.0)) - 1.0
    same = xp.where(fit, instead, 0.0)
    return xp.where(fit, t + (same - constant(same)), instead), rest


def _relative(xp: Any, v: Pair, top: Array) -> Words:
    """t_j - t_k for the class k that `top` marks; not finite where one of the four probabilities is 0."""
    high, low = difference(xp, v.c[0], at(xp, top, v.c[0]), v.c[1] - at(xp, top, v.c[1]))
    if v.p.form != "counts" or v.q.form != "counts":
        return high, low
    a_k, b_k = at(xp, top, v.p.p), at(xp, top, v.q.p)
    finite, nothing = v.finite & (a_k > 0.0) & (b_k > 0.0), xp.zeros_like(a_k)
    return _log_ratio(xp, v.p, v.q, finite, Totals(a_k, b_k, nothing, nothing, finite), high)


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
    series = small * small * _polynomial(small, H)
    value = xp.where(near, series, xp.expm1(large) - xp.where(large == xp.inf, 0.0, large))
    slope = xp.expm1(t)
    return value + xp.where(xp.isfinite(slope), slope, 0.0) * rest


def _exponential_less_one(xp: Any, t: Array, rest: Array) -> Array:
    """e^(t + rest) - 1; autograd makes e^t of it by adding 1 again."""
    slope = xp.exp(t)
    slope = xp.where(xp.isfinite(slope), slope, 0.0)
    return derived_from(xp.expm1(t), lambda: slope) + slope * rest


# ---- measures: (*batch) values, and the gradients over p or q as they are given, from that over the value


def cross_entropy(a: Array, b: Array, p_form: str, q_form: str) -> Array:
    """sum p (-log q)."""
    xp = namespace(a)
    p, q = distribution(a, p_form), distribution(b, q_form)
    terms = p.p * (0.0 - (q.log + q.log_rest))
    return _sum(xp, p, xp.where(q.zero, xp.where(p.zero, 0.0, _infinite(xp, p)), terms))


def cross_entropy_backward(a: Array, b: Array, p_form: str, q_form: str, g: Array, over: str) -> Array:
    """d/dp = -log q, d/dq = -p / q."""
    xp = namespace(a)
    p, q = distribution(a, p_form), distribution(b, q_form)
    if over == "p" and p_form in NORMALIZED:
        high, low = distance(xp, q, p.top)
        return project(xp, p, (xp.where(q.zero, xp.inf, high), low), g)
    if over == "p":
        return weigh(xp, p, xp.where(q.zero, xp.inf, 0.0 - (q.log + q.log_rest)), g)
    if q_form in NORMALIZED:
        return _over_normalized_q(xp, p, q, g)
    if q_form == "log_probs":
        return col(g) * (0.0 - p.p) / p.scale
    quotient = col(g) * p.p * (q.scale / p.scale) / xp.where(q.zero, 1.0, q.p)
    return 0.0 - xp.where(p.zero, 0.0, xp.where(q.zero, _endless(xp, p, q, g), quotient))


def kl_divergence(a: Array, b: Array, p_form: str, q_form: str) -> Array:
    """sum p h(t); beside a much larger q, q - p (1 + t)."""
    xp = namespace(a)
    v = pair(a, b, p_form, q_form)
    (t, rest), p = v.t, v.p
    far = ~(t <= 4.0)
    some = xp.where(v.finite, t, 0.0)
    near = p.p * _h(xp, xp.where(far, 0.0, some), rest)
    terms = xp.where(far, v.q_p - p.p * (1.0 + (some + rest)), near)
    return _sum(xp, p, xp.where(t == -xp.inf, _infinite(xp, p), terms))


def kl_divergence_backward(a: Array, b: Array, p_form: str, q_form: str, g: Array, over: str) -> Array:
    """d/dp = -t, d/dq = 1 - p / q."""
    xp = namespace(a)
    v = pair(a, b, p_form, q_form)
    p, q = v.p, v.q
    if over == "p" and p_form in NORMALIZED:
        high, low = _relative(xp, v, p.top)
        one_sided = xp.where(xp.isinf(v.t[0]), 0.0 - v.t[0], at(xp, p.top, v.t[0]))  # 0 - u_k where both are 0
        return project(xp, p, (xp.where(v.finite, 0.0 - high, one_sided), 0.0 - low), g)
    if over == "p":
        return weigh(xp, p, 0.0 - (v.t[0] + v.t[1]), g)
    if q_form in NORMALIZED and p_form != q_form:
        return _over_normalized_q(xp, p, q, g)
    once = _excess(xp, v)
    excess = col(g) * once
    if q_form == "logits":
        return _derived(excess / p.scale, g, lambda: once / p.scale, lambda: _over_logits(xp, p, q))
    if q_form == "log_probs":
        return excess / p.scale
    if q_form == "counts":
        return _over_counts(xp, excess, p.scale, p, q, 1.0, g)
    some = xp.where(q.zero, 1.0, v.q_p)
    slope = _derived(excess / some, g, lambda: once / some, lambda: 0.0 - p.p / some)
    return xp.where(p.zero, col(g), xp.where(q.zero, 0.0 - _endless(xp, p, q, g), slope))


def js_divergence(a: Array, b: Array, p_form: str, q_form: str) -> Array:
    """sum (p + q) / 4 phi(s), or where s is not small (p log(1 - s) + q log(1 + s)) / 2."""
    xp = namespace(a)
    v = pair(a, b, p_form, q_form)
    s = _contrast(xp, v.t)
    near = xp.abs(s) <= 0.5
    square = xp.where(near, s * s, 0.0)
    terms = 0.25 * (v.p.p + v.q_p) * (square * _polynomial(square, PHI))
    less, more = (_log_share(xp, s * sign, (v.t[0] * sign, v.t[1] * sign))[0] for sign in (1.0, -1.0))
    far = 0.5 * (v.p.p * xp.where(v.p.zero, 0.0, less) + v.q_p * xp.where(v.q.zero, 0.0, more))
    return _sum(xp, v.p, xp.where(near, terms, far))


def js_divergence_backward(a: Array, b: Array, p_form: str, q_form: str, g: Array, over: str) -> Array:
    """d/dp = log(1 - s) / 2, d/dq = log(1 + s) / 2.

    From class k to class j the first changes by -1/2 log1p(q_k / (p_k + q_k) (e^(t_j - t_k) - 1)), the second by the
    same with p for q and -t for t.
    """
    xp = namespace(a)
    v = pair(a, b, p_form, q_form)
    own, sign = (v.p, 1.0) if over == "p" else (v.q, -1.0)
    t = sign * v.t[0], sign * v.t[1]
    high, low = _log_share(xp, _contrast(xp, t), t)
    if own.form not in NORMALIZED:
        return weigh(xp, own, 0.5 * (high + low), g)
    apart, apart_rest = _relative(xp, v, own.top)
    near = (xp.abs(apart) <= 1.0) & (xp.abs(apart) < xp.abs(t[0]))  # elsewhere nothing cancels
    step = _exponential_less_one(xp, sign * xp.where(near, apart, 0.0), sign * apart_rest)
    far = difference(xp, high, at(xp, own.top, high), low - at(xp, own.top, low))
    share = _sigmoid(xp, (at(xp, own.top, t[0]), at(xp, own.top, t[1])))
    w = xp.where(near, 0.0 - xp.log1p(share * step), far[0]), xp.where(near, 0.0, far[1])
    return project(xp, own, (0.5 * w[0], 0.5 * w[1]), g)


class Measure(NamedTuple):
    """A measure of two distributions, each in one of the four forms, both in the same dtype."""

    value: Callable[[Array, Array, str, str], Array]
    "Of p, q, the form of p and the form of q."
    backward: Callable[[Array, Array, str, str, Array, str], Array]
    "Of the same, the gradient over the value, and which of the two."


MEASURES = {
    "cross_entropy": Measure(cross_entropy, cross_entropy_backward),
    "kl_divergence": Measure(kl_divergence, kl_divergence_backward),
    "js_divergence": Measure(js_divergence, js_divergence_backward),
}


def _sum(xp: Any, p: Distribution, terms: Array) -> Array:
    return 0.0 + last(sum_classes(xp, terms, p.exact) / p.scale)


def _infinite(xp: Any, p: Distribution) -> Array:
    """Infinity, but NaN where p is."""
    return xp.inf + 0.0 * p.p


def _contrast(xp: Any, t: Words) -> Array:
    """s = (q - p) / (p + q)."""
    s = xp.tanh(0.5 * t[0])
    return s + 0.5 * (1.0 - s * s) * t[1]


def _log_share(xp: Any, s: Array, t: Words) -> Words:
    """log(1 - s) = log(2 p / (p + q)) = log 2 - log(1 + e^t): where that is near log 2, what it lacks is kept apart."""
    near = xp.abs(t[0]) <= 1.0
    close = xp.log1p(0.0 - xp.where(near, s, 0.0))
    some, rest = xp.where(near, 1.0, t[0]), xp.where(near, 0.0, t[1])
    softplus = xp.where(some > 0.0, some, 0.0) + xp.log1p(xp.exp(0.0 - xp.abs(some)))
    softplus = softplus + _sigmoid(xp, (some, 0.0)) * rest
    far, far_rest = difference(xp, LOG_2 * xp.ones_like(s), softplus, LOG_2_REST)
    return xp.where(near, close, far), xp.where(near, 0.0, far_rest)


def _sigmoid(xp: Any, t: tuple[Array, Array | float]) -> Array:
    """q / (p + q)."""
    e = xp.exp(0.0 - xp.abs(t[0]))
    sigmoid = xp.where(t[0] > 0.0, 1.0, e) / (1.0 + e)
    return sigmoid + sigmoid * (1.0 - sigmoid) * t[1]


def _over_normalized_q(xp: Any, p: Distribution, q: Distribution, g: Array) -> Array:
    """g ((tau - p_j) q_j - p_j (1 - q_j)), tau = sum p, over logits; over counts, divided by them."""
    others = sum_of_others(p.p) if p.others is None else p.others
    gain, loss = others * q.p, p.p * q.others
    apart = gain - loss
    if p.exact:
        apart = apart + (product_rest(others, q.p, gain) - product_rest(p.p, q.others, loss))
    slope = col(g) * (apart / p.scale)
    if q.form == "logits":
        return _derived(slope / q.scale, g, lambda: apart / p.scale / q.scale, lambda: _over_logits(xp, p, q))
    return _over_counts(xp, slope, q.scale, p, q, others / p.scale, g)


def _derived(slope: Array, g: Array, once: Callable[[], Array], form: Callable[[], Array]) -> Array:
    """g times `once`, with the derivatives of g times `form` over p and q, and `once` over g."""
    return derived_from(slope, lambda: col(g) * derived_from(once(), form))


def _over_logits(xp: Any, p: Distribution, q: Distribution) -> Array:
    """tau q_j - p_j for its derivatives: the top class has what others lack, so autograd starts from differences."""
    p_j = p.p / p.scale
    rest = xp.where(q.top, 0.0, xp.sum(p_j, axis=-1, keepdims=True) * q.p / q.scale - p_j)
    return xp.where(q.top, 0.0 - xp.sum(rest, axis=-1, keepdims=True), rest)


def _over_counts(xp: Any, v: Array, scale: Any, p: Distribution, q: Distribution, absent: Any, g: Array) -> Array:
    """v / (scale counts), each step as large as the digits need; without counts -inf, or g absent / N if p is 0 too."""
    some = v * HEADROOM / scale * (q.factor / HEADROOM) / xp.where(q.zero, 1.0, q.p)
    none = xp.where(p.zero, col(g) * absent / sum_of_counts(q), 0.0 - _endless(xp, p, q, g))
    return xp.where(q.zero, none, some)


def _endless(xp: Any, p: Distribution, q: Distribution, g: Array) -> Array:
    """g times infinity where q is 0 and p is not, with 0 * inf = 0."""
    return times(xp, col(g), xp.where(q.zero & ~p.zero, _infinite(xp, p), 0.0))


# ---- one draw


@dataclass(frozen=True)
class K3(Elementwise):
    """h(d), d = log q - log p; its slope over log q is e^d - 1, and minus that over log p."""

    @property
    def slopes(self) -> tuple[Callable[..., Array], ...]:
        return self.slope, self.slope_of_q

    def value(self, log_p: Array, log_q: Array, /) -> Array:
        return 0.0 + _h(namespace(log_p), *_log_difference(log_p, log_q))

    def slope(self, log_p: Array, log_q: Array, /) -> Array:
        return 0.0 - self.slope_of_q(log_p, log_q)

    def slope_of_q(self, log_p: Array, log_q: Array, /) -> Array:
        return _exponential_less_one(namespace(log_p), *_log_difference(log_p, log_q))


def _log_difference(log_p: Array, log_q: Array) -> Words:
    """log q - log p; 0 where both are the same infinity."""
    xp = namespace(log_p)
    a, b = wide(log_p), wide(log_q)
    same = xp.isinf(a) & (a == b)
    return difference(xp, xp.where(same, 0.0, b), xp.where(same, 0.0, a))
