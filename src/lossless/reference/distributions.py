"""One distribution, given in one of four forms: its entropy and perplexity, and the logits behind its probabilities.

"probs"      p_j
"log_probs"  log p_j
"counts"     p_j times anything
"logits"     log p_j plus anything
"""

from typing import Any, NamedTuple

from lossless.reference.arithmetic import (
    Array,
    addition_rest,
    col,
    divide,
    last,
    log_quotient,
    namespace,
    onehot,
    sum_classes,
    sum_words,
    sums_of_classes,
    times,
    wide,
)
from lossless.reference.softmax import HEADROOM, LOG_HEADROOM, LOG_HEADROOM_REST, softmax_parts

Words = tuple[Array, Array]
"""A number in two words, the second at most half an ulp of the first."""

NORMALIZED = ("logits", "counts")
"""The forms whose probabilities add up to 1 whatever the numbers."""

LOG_2 = 0.6931471805599453
LOG_2_REST = 2.3190468138462996e-17


class Distribution(NamedTuple):
    """What the measures below need of one distribution: (*batch, C) unless said otherwise."""

    form: str
    p: Array
    "Probabilities, times `scale`. Divide by it last: a tiny probability would have lost digits."
    scale: Any
    "(*batch, 1) or a number: the sum of all `p` in forms that are normalized."
    zero: Array
    "Where the probability is 0, and not only too small to be told from it."
    log: Array
    "log p; where p is 0, 0 stands instead."
    log_rest: Array
    "What rounding left out of `log`."
    top: Array
    "True at the largest class, once a row."
    given: Array
    "Logits or log-probabilities; otherwise `p`."
    exact: bool
    "Whether the data are float64, to which plain arithmetic does not do justice."
    others: Array | None = None
    "1 - p, times `scale`; None in forms that need not add up to 1."
    total: Words | None = None
    "`scale` of counts in two words."
    factor: Any = 1.0
    "The power of two by which counts were multiplied."


def distribution(x: Array, form: str) -> Distribution:
    """`x` in any of the four forms."""
    xp = namespace(x)
    exact = x.dtype == xp.float64
    if form == "logits":
        return _from_logits(xp, x, exact)
    x = wide(x)
    if form == "counts":
        return _from_counts(xp, x)
    scale = HEADROOM if exact else 1.0
    top = onehot(xp, xp.argmax(x, axis=-1, keepdims=True), x)
    nothing = xp.zeros_like(x)
    if form == "probs":
        zero = x == 0.0
        log, p = xp.log(xp.where(zero, 1.0, x)), x * scale
        return Distribution(form, p, scale, zero, log, nothing, top, p, exact)
    zero = x == -xp.inf
    log = xp.where(zero, 0.0, x)
    p = xp.exp(log)
    if exact:
        raised = log + LOG_HEADROOM
        p = xp.exp(raised)
        p = p + p * (LOG_HEADROOM_REST + addition_rest(xp, log, LOG_HEADROOM, raised))
    return Distribution(form, xp.where(zero, 0.0, p), scale, zero, log, nothing, top, x, exact)


def _from_logits(xp: Any, x: Array, exact: bool) -> Distribution:
    s = softmax_parts(x)
    zero = s.gap == xp.inf
    gap = xp.where(zero, 0.0, s.gap)
    cost = gap + s.L
    rest = addition_rest(xp, gap, s.L, cost) + s.gap_rest
    log, log_rest = (xp.where(zero, 0.0, 0.0 - v) for v in (cost, rest))
    return Distribution("logits", s.E, s.S, zero, log, log_rest, s.top, wide(x), exact, s.others)


def _from_counts(xp: Any, x: Array) -> Distribution:
    """The largest class has log p_k = -log1p(rest / p_k): its share of the whole may round to 1.

    Always exact: of sums of any data, a small difference may be all that counts.
    """
    top = onehot(xp, xp.argmax(x, axis=-1, keepdims=True), x)
    largest = at(xp, top, x)
    factor, log_factor = xp.ones_like(largest), xp.zeros_like(largest)
    for bound in range(-1074, 1000, 200):  # to around 2^350, where products of counts and sums are normal numbers
        power, reached = min(224 - bound, 950), largest >= 2.0**bound
        factor = xp.where(reached, 2.0**power, factor)
        log_factor = xp.where(reached, power * LOG_2, log_factor)
    zero = x == 0.0
    p = x * factor
    tail, whole, others = sums_of_classes(xp, p, top, exact=True)
    ordinary = ~(zero | top)
    quotient = xp.where(ordinary, whole, 1.0) / xp.where(ordinary, p, 1.0)
    vanishing = quotient > 1e290
    log = 0.0 - xp.log(xp.where(vanishing, 1.0, quotient))
    log = xp.where(vanishing, xp.log(xp.where(vanishing, x, 1.0)) + log_factor - xp.log(whole), log)
    log = xp.where(top, 0.0 - xp.log1p(tail / at(xp, top, p)), xp.where(zero, 0.0, log))
    total, nothing = sum_words(xp, p, exact=True), xp.zeros_like(p)
    return Distribution("counts", p, whole, zero, log, nothing, top, p, True, others, total, factor)


# ---- measures of one distribution


def entropy(p: Array, kind: str, normalize: bool) -> Array:
    """-sum p log p of probabilities or log-probabilities, from terms that are never negative.

    Normalized, the largest class contributes p_k / S log1p(rest / p_k): its share of the whole may round to 1.
    """
    xp = namespace(p)
    p = wide(p)
    if kind == "log_probs":
        none = p == -xp.inf
        log_p = xp.where(none, 0.0, p)
        return 0.0 - xp.sum(xp.where(none, 0.0, xp.exp(log_p) * log_p), axis=-1)
    if not normalize:
        return 0.0 + xp.sum(_minus_p_log_p(xp, p), axis=-1)
    top = onehot(xp, xp.argmax(p, axis=-1, keepdims=True), p)
    largest = xp.sum(xp.where(top, p, 0.0), axis=-1)
    rest = xp.sum(xp.where(top, 0.0, p), axis=-1)
    whole = largest + rest
    others = _minus_p_log_p(xp, xp.where(top, 1.0, p / col(whole)))  # -1 log 1 = 0, smoothly
    return xp.sum(others, axis=-1) + largest / whole * xp.log1p(rest / largest)


def _minus_p_log_p(xp: Any, p: Array) -> Array:
    """-p log p, 0 at 0. The derivative at 0 is +inf, so a square root stands there: 0 with the same derivative."""
    zero = p == 0.0
    some = xp.where(zero, 1.0, p)
    return xp.where(zero, xp.sqrt(xp.where(zero, p, 1.0)), 0.0 - some * xp.log(some))


def perplexity(p: Array, form: str) -> Array:
    """exp(H) = 1 / p_k exp((1 - sum p) log p_k + sum p log(p_k / p)), k the largest class.

    What log p_k would lose to rounding is as much as the result's own ulp, several times over.
    """
    xp = namespace(p)
    d = distribution(p, form)
    away, rest = distance(xp, d, d.top)
    spread = sum_classes(xp, d.p * away + d.p * rest, d.exact)
    log_k, p_k = at(xp, d.top, d.log), at(xp, d.top, d.p)
    if d.others is None:
        total, more = sum_words(xp, d.p, d.exact)
        spread = spread + ((d.scale - total) - more) * log_k
    exponent = spread / d.scale
    one, lost = divide(xp, d.scale, 0.0, p_k)
    near = xp.abs(exponent) < 0.5  # where 1 / p_k and what the other factor changes are added in full
    return last(xp.where(near, one + (lost + one * xp.expm1(exponent)), one * xp.exp(exponent)))


def entropy_backward(p: Array, form: str, g: Array) -> Array:
    """g times the gradient over p as it is given: d/dp = -(log p + 1), infinite at 0."""
    xp = namespace(p)
    d = distribution(p, form)
    if form in NORMALIZED:
        high, low = distance(xp, d, d.top)
        return project(xp, d, (xp.where(d.zero, xp.inf, high), low), g)
    return weigh(xp, d, xp.where(d.zero, xp.inf, 0.0 - (d.log + 1.0)), g)


def perplexity_backward(p: Array, form: str, g: Array) -> Array:
    """g exp(H) times the gradient of H."""
    return entropy_backward(p, form, g * perplexity(p, form))


def distance(xp: Any, d: Distribution, top: Array) -> Words:
    """log(p_k / p_j) for the class k that `top` marks, in two words; 0 where p_j is 0, anything if p_k is."""
    if d.form in ("probs", "counts"):
        p_k = at(xp, top, d.given)
        away = log_quotient(xp, xp.where(d.zero | (p_k == 0.0), 1.0, p_k), xp.where(d.zero, 1.0, d.given))
        return away, xp.zeros_like(away)
    away, rest = difference(xp, at(xp, top, d.log), d.log, at(xp, top, d.log_rest) - d.log_rest)
    return xp.where(d.zero, 0.0, away), xp.where(d.zero, 0.0, rest)


def difference(xp: Any, a: Array, b: Array, rest: Array | float = 0.0) -> Words:
    """a - b + rest in two words, the second at most half an ulp of the first."""
    d = a - b
    rest = addition_rest(xp, a, 0.0 - b, d) + rest
    whole = d + rest
    return whole, addition_rest(xp, d, rest, whole)


def at(xp: Any, top: Array, v: Array) -> Array:
    """Its number at the one class that `top` marks, (*batch, 1)."""
    return xp.sum(xp.where(top, v, 0.0), axis=-1, keepdims=True)


# ---- from derivatives over probabilities to the gradient over what was given


def weigh(xp: Any, d: Distribution, u: Array, g: Array) -> Array:
    """g u_j over probs, g p_j u_j over log_probs."""
    if d.form == "probs":
        return times(xp, col(g), u)
    return col(g) * (d.p * xp.where(d.zero, 0.0, u)) / d.scale


def project(xp: Any, d: Distribution, w: Words, g: Array) -> Array:
    """g p_j (u_j - sum p u) over logits, over counts of sum N divided by p_j N; given w_j = u_j - u_k, k the top class.

    Differences come first, so that a constant in u changes nothing. An infinite w where p is not 0 takes everything.
    """
    endless = ~xp.isfinite(w[0]) & ~xp.isnan(w[0])
    high, low = (xp.where(endless | d.top, 0.0, v) for v in w)  # 0 at k in any case: it has no derivative either
    mean = sum_classes(xp, d.p * high + d.p * low, d.exact)
    centred = (high - mean / d.scale) + low
    if d.exact:  # once more, from smaller numbers: k may lie far from the mean
        more = sum_classes(xp, d.p * xp.where(endless, 0.0, centred), d.exact)
        centred = centred - more / d.scale
    taken = xp.any(endless & ~d.zero, axis=-1, keepdims=True)
    if d.form == "logits":
        slope = xp.where(d.top, 0.0 - d.p / d.scale * mean, d.p * centred)  # the mean may be tiny, where p is not
        slope = xp.where(taken & (d.p > 0.0), xp.where(endless, xp.inf, -xp.inf), slope)
        return col(g) * slope / d.scale
    slope = centred / sum_of_counts(d)
    return times(xp, col(g), xp.where(endless, w[0], xp.where(taken, -xp.inf, slope)))


def sum_of_counts(d: Distribution) -> Array:
    """(*batch, 1)."""
    return d.scale / d.factor


# ---- from probabilities to logits


def inverse_softmax(p: Array, center: str | None) -> Array:
    """log p_j less the mean over the classes that are not 0, less the largest, or less nothing; -inf at 0.

    By distances to the largest class k, whose digits near-uniform rows would lose in log p_j.
    """
    xp = namespace(p)
    exact = p.dtype == xp.float64
    p = wide(p)
    zero = p == 0.0
    if center is None:
        return xp.where(zero, -xp.inf, xp.log(xp.where(zero, 1.0, p)))
    largest = xp.max(p, axis=-1, keepdims=True)
    nothing = largest == 0.0  # a row of zeros is no distribution
    log = log_quotient(xp, xp.where(zero, 1.0, p), xp.where(zero | nothing, 1.0, largest))
    if center == "mean":
        count = xp.sum(wide(~zero), axis=-1, keepdims=True)
        log = log - sum_classes(xp, log, exact) / xp.where(count == 0.0, 1.0, count)
    return xp.where(nothing, xp.nan, xp.where(zero, -xp.inf, 0.0 + log))


def inverse_softmax_backward(p: Array, g: Array, center: str | None) -> Array:
    """(g_j - m) / p_j, m the mean of g over the classes that are not 0, or at the largest class sum g, or 0.

    Where p_j = 0 the derivative of log p_j is infinite, and 0 * inf is 0.
    """
    xp = namespace(p)
    p, g = wide(p), wide(g)
    zero = p == 0.0
    some = xp.where(zero, 1.0, p)
    kept = xp.where(zero, 0.0, g)
    slope = kept
    if center == "mean":
        count = xp.sum(wide(~zero), axis=-1, keepdims=True)
        slope = kept - sum_classes(xp, kept, exact=True) / xp.where(count == 0.0, 1.0, count)
    elif center == "max":
        top = onehot(xp, xp.argmax(p, axis=-1, keepdims=True), p)
        slope = xp.where(top, 0.0 - sums_of_classes(xp, kept, top, exact=True)[0], kept)
    return xp.where(zero, xp.where(g == 0.0, 0.0, g / xp.abs(p)), slope / some)


def inverse_softmax_forward(p: Array, v: Array, center: str | None) -> Array:
    """The change of the result along v: v_j / p_j less its mean, or less that of the largest class, or less nothing."""
    xp = namespace(p)
    p, v = wide(p), wide(v)
    zero = p == 0.0
    change = xp.where(zero, 0.0, v / xp.where(zero, 1.0, p))
    less: Any = 0.0
    if center == "mean":
        count = xp.sum(wide(~zero), axis=-1, keepdims=True)
        less = sum_classes(xp, change, exact=True) / xp.where(count == 0.0, 1.0, count)
    elif center == "max":
        less = at(xp, onehot(xp, xp.argmax(p, axis=-1, keepdims=True), p), change)
    return xp.where(zero, xp.where(v == 0.0, 0.0, v / xp.abs(p)), change - less)
