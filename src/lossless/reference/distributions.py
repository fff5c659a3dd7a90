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
    last,
    log_quotient,
    namespace,
    onehot,
    product_rest,
    sum_classes,
    sum_words,
    sums_of_classes,
    wide,
)
from lossless.reference.softmax import HEADROOM, LOG_HEADROOM, LOG_HEADROOM_REST, softmax_parts


class Distribution(NamedTuple):
    """What the measures below need of one distribution: (*batch, C) unless said otherwise."""

    form: str
    given: Array
    "In float64; counts are scaled to where their sums and products are normal numbers."
    p: Array
    "Probabilities, times `up`."
    up: float
    "A power of two, with which tiny probabilities of float64 data keep their digits."
    zero: Array
    "Where the probability is 0, and not only too small to be told from it."
    log: Array
    "log p, finite: 0 stands where p is 0."
    log_rest: Array
    "What rounding left out of `log`."
    top: Array
    "True at the largest class, once a row."
    others: Array | None = None
    "1 - p, times `up`; None of forms that need not add up to 1."
    whole: Array | None = None
    "What counts add up to, as given, (*batch, 1)."
    total: tuple[Array, Array] | None = None
    "What counts add up to, scaled, in two words."


def distribution(x: Array, form: str) -> Distribution:
    """`x` in any of the four forms."""
    xp = namespace(x)
    exact = x.dtype == xp.float64
    if form == "logits":
        return _from_logits(xp, x, exact)
    x = wide(x)
    if form == "counts":
        return _from_counts(xp, x, exact)
    up = HEADROOM if exact else 1.0
    top = onehot(xp, xp.argmax(x, axis=-1, keepdims=True), x)
    if form == "probs":
        zero = x == 0.0
        log = xp.log(xp.where(zero, 1.0, x))
        return Distribution(form, x, x * up, up, zero, log, xp.zeros_like(x), top)
    zero = x == -xp.inf
    log = xp.where(zero, 0.0, x)
    p = xp.exp(log)
    if exact:
        raised = log + LOG_HEADROOM
        p = xp.exp(raised)
        p = p + p * (LOG_HEADROOM_REST + addition_rest(xp, log, LOG_HEADROOM, raised))
    return Distribution(form, x, xp.where(zero, 0.0, p), up, zero, log, xp.zeros_like(x), top)


def _from_logits(xp: Any, x: Array, exact: bool) -> Distribution:
    s = softmax_parts(x)
    up = HEADROOM if exact else 1.0
    scale = s.S / up
    zero = s.gap == xp.inf
    gap = xp.where(zero, 0.0, s.gap)
    cost = gap + s.L
    rest = addition_rest(xp, gap, s.L, cost) + s.gap_rest
    log, log_rest = (xp.where(zero, 0.0, 0.0 - v) for v in (cost, rest))
    return Distribution("logits", wide(x), s.E / scale, up, zero, log, log_rest, s.top, s.others / scale)


def _from_counts(xp: Any, x: Array, exact: bool) -> Distribution:
    """The largest class has log p_k = -log1p(rest / p_k): its share of the whole may round to 1."""
    up = HEADROOM if exact else 1.0
    top = onehot(xp, xp.argmax(x, axis=-1, keepdims=True), x)
    largest = xp.sum(xp.where(top, x, 0.0), axis=-1, keepdims=True)
    down, lift = largest > 2.0**300, largest < 2.0**-300
    scale = xp.where(down, 2.0**-600, xp.where(lift, 2.0**600, 1.0))
    shift = xp.where(down, -600.0, xp.where(lift, 600.0, 0.0)) * 0.6931471805599453
    zero = x == 0.0
    a = x * scale
    tail, whole, others = sums_of_classes(xp, a, top, exact)
    some = xp.where(zero | top, 1.0, a)
    quotient = xp.where(zero | top, 1.0, whole) / some
    vanished = ~xp.isfinite(quotient) | (some < 1e-290)  # beside the largest class
    log = 0.0 - xp.log(xp.where(vanished, 1.0, quotient))
    log = xp.where(vanished, xp.log(xp.where(vanished, x, 1.0)) + shift - xp.log(whole), log)
    log = xp.where(top, 0.0 - xp.log1p(tail / (largest * scale)), xp.where(zero, 0.0, log))
    return Distribution(
        "counts",
        a,
        a * up / whole,
        up,
        zero,
        log,
        xp.zeros_like(a),
        top,
        others * up / whole,
        whole / scale,
        sum_words(xp, a, exact),
    )


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
    """exp(H) = 1 / p_k exp((1 - sum p) log p_k + sum p log(p_k / p)), k the largest class: no long logarithm is rounded."""
    xp = namespace(p)
    exact = p.dtype == xp.float64
    d = distribution(p, form)
    distance, rest = _distance_to_top(xp, d)
    spread, lost = sum_words(xp, d.p * distance + d.p * rest, exact)
    log_k, p_k = (xp.sum(xp.where(d.top, v, 0.0), axis=-1, keepdims=True) for v in (d.log, d.p))
    missing = xp.zeros_like(p_k)
    if d.others is None:
        total, more = sum_words(xp, d.p, exact)
        missing = (d.up - total) - more
    return last(d.up / p_k * xp.exp((missing * log_k + (spread + lost)) / d.up))


def _distance_to_top(xp: Any, d: Distribution) -> tuple[Array, Array]:
    """log(p_k / p_j) >= 0 of the largest class k, and what rounding left out of it; 0 where p_j is 0."""
    if d.form in ("probs", "counts"):
        largest = xp.sum(xp.where(d.top, d.given, 0.0), axis=-1, keepdims=True)
        some = xp.where(d.zero, 1.0, d.given)
        distance = log_quotient(xp, xp.where(d.zero, 1.0, largest), some)
        return distance, xp.zeros_like(distance)
    log_k, rest_k = (xp.sum(xp.where(d.top, v, 0.0), axis=-1, keepdims=True) for v in (d.log, d.log_rest))
    distance = log_k - d.log
    rest = addition_rest(xp, log_k, 0.0 - d.log, distance) + (rest_k - d.log_rest)
    return xp.where(d.zero, 0.0, distance), xp.where(d.zero, 0.0, rest)


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
