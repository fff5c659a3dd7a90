"""The accurate formulas, written once in array-API operations, for NumPy, for PyTorch on any device, and for reading.

This is what the compiled kernels are compared with, and what runs where there is none. Classes are the last axis;
arithmetic is float64, and the caller rounds the result once. Values never contain a rounded `1 + tail` inside a
logarithm, and gradients never a `p - 1`:

    k = argmax x,   m = x_k,   E_j = exp(x_j - m),   tail = sum_{j != k} E_j,   L = log1p(tail)
    lse = m + L,   -log p_j = (m - x_j) + L,   p_j = E_j / (1 + tail),   q_j = 1 - p_j = sum_{i != j} E_i / (1 + tail)

Where the top class does not enter a sum, nothing is left of it to cancel. All functions are made of differentiable
operations, so differentiating a gradient once more gives the second derivative.
"""

import sys
from math import prod
from typing import Any, NamedTuple

import array_api_compat

Array = Any
"""A NumPy array or a PyTorch tensor."""

HEADROOM = 2.0**64
LOG_HEADROOM = 64.0 * 0.6931471805599453
LOG_HEADROOM_REST = 64.0 * 2.3190468138462996e-17
"""The logarithm of HEADROOM in two words: 64 ln 2."""


class Statistics(NamedTuple):
    """One number a row, unrounded; None where there was nothing to compute it from."""

    nll: Array
    lse: Array
    entropy: Array
    prior: Array
    correct: Array


class Softmax(NamedTuple):
    """What every formula below needs of `x`: (*batch, C) unless said otherwise."""

    m: Array
    "The largest logit, (*batch, 1)."
    top: Array
    "True at its class, once a row."
    gap: Array
    "m - x_j >= 0, rounded."
    gap_rest: Array
    "What rounding left out of `gap`."
    L: Array
    "lse - m, (*batch, 1)."
    E: Array
    "exp(x_j - m), times a power of two that S shares."
    others: Array
    "sum_{i != j} E_i."
    S: Array
    "sum E, (*batch, 1). Divide by it last: a product with a tiny E / S would have lost digits."

    @property
    def p(self) -> Array:
        return self.E / self.S


def namespace(x: Array) -> Any:
    """The array-API functions for `x`. Tensors are told apart here: torch.compile warns about the usual look-up."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        import array_api_compat.torch as xp

        return xp
    return array_api_compat.array_namespace(x)


def wide(x: Array) -> Array:
    """`x` in the arithmetic of this module."""
    xp = namespace(x)
    return xp.astype(x, xp.float64)


def softmax_parts(x: Array, temperature: float = 1.0) -> Softmax:
    """The softmax of every row, in pieces that do not cancel."""
    xp = namespace(x)
    exact = x.dtype == xp.float64  # narrower data leave room enough for plain arithmetic
    x = wide(x)
    k = xp.argmax(x, axis=-1, keepdims=True)
    top = _onehot(xp, k, x)
    m = xp.take_along_axis(x, k, axis=-1)  # gathered, not `max`: its derivative must reach this class alone
    # A lone +inf is the limit of a growing logit: its class takes everything. NaN, or several +inf, or nothing but
    # -inf, has no limit: those rows become NaN by the subtraction itself.
    certain = top & (m > -xp.inf)
    d = xp.where(certain, 0.0, x - m)
    rest = _addition_rest(xp, x, 0.0 - m, d) if exact else xp.zeros_like(m)
    if temperature != 1.0:
        d, rest = _divide(xp, d, rest, temperature)
    unit, E = 1.0, xp.exp(d)
    if exact:  # 2^64 exp(d): the sum of the others is then a normal number, or too small to be any
        unit, raised = HEADROOM, d + LOG_HEADROOM
        E = xp.exp(raised)
        E = E + E * (rest + LOG_HEADROOM_REST + _addition_rest(xp, d, LOG_HEADROOM, raised))
        E = xp.where(certain, unit, E)
    tail, S, others = _sums(xp, E, top, exact)
    z = tail / unit
    L = xp.where(z < 1e-30, z, xp.log1p(z))  # the same number, also where log1p is careless with denormals
    L = xp.where(m > -xp.inf, L, xp.nan)
    return Softmax(m / temperature, top, 0.0 - d, 0.0 - rest, L, E, others, S)


def softmax(x: Array, temperature: float = 1.0) -> Array:
    """p_j = exp(x_j / temperature) / sum_i exp(x_i / temperature)."""
    return softmax_parts(x, temperature).p


def log_softmax(x: Array, temperature: float = 1.0) -> Array:
    """log p_j = -((m - x_j) + L)."""
    return 0.0 - _cost(softmax_parts(x, temperature))


def softmax_backward(x: Array, g: Array, temperature: float = 1.0) -> Array:
    """p_j [(g_j - g_k) - sum_i p_i (g_i - g_k)]: differences first, so a constant added to g changes nothing."""
    xp = namespace(x)
    s, g = softmax_parts(x, temperature), wide(g)
    g = g - xp.sum(xp.where(s.top, g, 0.0), axis=-1, keepdims=True)
    return s.E * (g - _sum(xp, s.E * g, exact=True) / s.S) / s.S / temperature


def log_softmax_backward(x: Array, g: Array, temperature: float = 1.0) -> Array:
    """g_j q_j - p_j sum_{i != j} g_i."""
    s, g = softmax_parts(x, temperature), wide(g)
    return (g * s.others - s.E * sum_of_others(g)) / s.S / temperature


def row_statistics(
    x: Array, target: Array | None = None, prior: Array | None = None, ignore_index: int | None = None
) -> Statistics:
    """Negative log-likelihood, log-sum-exp, entropy, prior cost and correctness of every row.

    `target`: (*batch) labels or (*batch, C) target weights t; `prior`: (C,) weights u shared by all rows.
    A label that is no class gives NaN.
    """
    xp = namespace(x)
    s = softmax_parts(x)
    exact = x.dtype == xp.float64
    cost = _cost(s)
    lse = _last(xp.where(xp.isinf(s.m), s.m, s.m + s.L))
    # p = 0 where the gap is infinite; 0 * inf is 0 here, as the limit says.
    entropy = _last(s.L + _sum(xp, s.E * _finite_where(xp, s.E, s.gap), exact) / s.S)
    prior_cost = None if prior is None else _last(_weighted_cost(xp, s, wide(prior), exact))
    nll: Any = None
    correct: Any = None
    labels = target is not None and target.ndim < x.ndim
    if target is not None and not labels:
        nll = _last(_weighted_cost(xp, s, wide(target), exact))
        correct = (xp.argmax(x, axis=-1) == xp.argmax(target, axis=-1)) & ~_last(xp.isnan(s.m))
    elif labels:
        valid = _valid(x, target)
        y = xp.where(valid, target, 0)[..., None]
        nll = xp.where(valid, _last(xp.take_along_axis(cost, y, axis=-1)), xp.nan)
        correct = (xp.argmax(x, axis=-1) == target) & ~_last(xp.isnan(s.m))
    if labels and ignore_index is not None:
        kept = target != ignore_index
        nll, lse, entropy = (xp.where(kept, v, 0.0) for v in (nll, lse, entropy))
        prior_cost = None if prior_cost is None else xp.where(kept, prior_cost, 0.0)
        correct = correct & kept
    return Statistics(nll, lse, entropy, prior_cost, correct)


def row_statistics_backward(
    x: Array,
    target: Array | None = None,
    prior: Array | None = None,
    ignore_index: int | None = None,
    *,
    d_nll: Array | None = None,
    d_lse: Array | None = None,
    d_entropy: Array | None = None,
    d_prior: Array | None = None,
) -> Array:
    """The gradient over the logits, given the partial derivatives over each statistic, (*batch) or None.

    With t_j the effective target (d_nll at the label, or d_nll t_j, plus d_prior u_j) and D = sum p (m - x):

        g_j = (sum_{i != j} t_i) p_j - t_j q_j + d_lse p_j + d_entropy p_j ((m - x_j) - D)
    """
    xp = namespace(x)
    s = softmax_parts(x)
    exact = x.dtype == xp.float64
    labels = target is not None and target.ndim < x.ndim
    g = xp.zeros_like(s.E)
    if labels and d_nll is not None:
        g = _col(d_nll) * xp.where(_onehot(xp, _col(target), s.E), 0.0 - s.others, s.E)
    elif target is not None and d_nll is not None:
        t = wide(target)
        g = _col(d_nll) * (sum_of_others(t) * s.E - t * s.others)
    if prior is not None and d_prior is not None:
        u = wide(prior)
        g = g + _col(d_prior) * (sum_of_others(u) * s.E - u * s.others)
    if d_lse is not None:
        g = g + _col(d_lse) * s.E
    if d_entropy is not None:
        gap = _finite_where(xp, s.E, s.gap)
        g = g + _col(d_entropy) * (s.E * (gap - _sum(xp, s.E * gap, exact) / s.S))
    return masked(g / s.S, x, target, ignore_index)


class Link(NamedTuple):
    """A loss as an expression in the statistics of its rows: a nll + d prior, and what its mean divides by."""

    target: Array
    prior: Array | None
    a: Array
    d: float
    divisor: Array

    def loss(self, s: Statistics) -> Array:
        """(*batch) losses."""
        loss = self.a * s.nll
        return loss if self.prior is None else loss + self.d * s.prior


def cross_entropy(x: Array, target: Array, weight: Array | None, ignore_index: int | None, smoothing: float) -> Link:
    """The link of cross-entropy with class weights w and label smoothing e.

    Labels: (1 - e) w_y nll + (e / C) sum_j w_j (lse - x_j), and a mean divides by the sum of w_y.
    Probabilities: target weights w_j ((1 - e) t_j + e / C), and a mean divides by the number of rows.
    """
    xp = namespace(x)
    share = smoothing / x.shape[-1]
    w = None if weight is None else wide(weight)
    if target.ndim == x.ndim:
        t = (1.0 - smoothing) * wide(target) + share if smoothing else wide(target)
        one = xp.ones_like(t[..., 0])
        return Link(t if w is None else w * t, None, one, 0.0, one)
    prior = None
    if smoothing:
        prior = xp.ones(x.shape[-1], dtype=wide(x).dtype, device=x.device) if w is None else w
    kept = _valid(x, target) if ignore_index is None else _valid(x, target) & (target != ignore_index)
    w_y = wide(kept) if w is None else xp.where(kept, _take(xp, w, xp.where(kept, target, 0)), 0.0)
    return Link(target, prior, (1.0 - smoothing) * w_y, share, w_y)


def nll(log_p: Array, target: Array, weight: Array | None, ignore_index: int | None) -> tuple[Array, Array]:
    """(-w_y log p_y, w_y) of every row; (0, 0) where the label is ignored, NaN where it is no class."""
    xp = namespace(log_p)
    valid = _valid(log_p, target)
    y = xp.where(valid, target, 0)
    picked = wide(_last(xp.take_along_axis(log_p, _col(y), axis=-1)))
    w_y = xp.ones_like(picked) if weight is None else _take(xp, wide(weight), y)
    loss = xp.where(valid, 0.0 - w_y * picked, xp.nan)
    if ignore_index is None:
        return loss, w_y
    kept = target != ignore_index
    return xp.where(kept, loss, 0.0), xp.where(kept, w_y, 0.0)


def row_statistics_curvature(
    x: Array,
    v: Array,
    target: Array | None = None,
    prior: Array | None = None,
    ignore_index: int | None = None,
    *,
    d_nll: Array | None = None,
    d_lse: Array | None = None,
    d_entropy: Array | None = None,
    d_prior: Array | None = None,
) -> Array:
    """The Hessian over the logits times v: the derivative of sum_j v_j g_j for `row_statistics_backward`'s g.

    Everything but the entropy is a multiple of softmax in its gradient, so its Hessian is a multiple of softmax's
    Jacobian. With w = v - sum p v, h = (m - x) - D and W = sum p w h the entropy adds p_j (w_j (h_j - 1) - W).
    """
    xp = namespace(x)
    labels = target is not None and target.ndim < x.ndim
    scale = 0.0
    if d_nll is not None:
        scale = d_nll if labels else d_nll * _last(_sum(xp, wide(target), exact=True))
    if d_lse is not None:
        scale = scale + d_lse
    if prior is not None and d_prior is not None:
        scale = scale + d_prior * _last(_sum(xp, wide(prior), exact=True))
    s, v = softmax_parts(x), wide(v)
    h = _col(scale + xp.zeros_like(v[..., 0])) * softmax_backward(x, v)
    if d_entropy is not None:
        gap = _finite_where(xp, s.E, s.gap)
        gap = gap - _sum(xp, s.E * gap, exact=True) / s.S
        w = v - xp.sum(xp.where(s.top, v, 0.0), axis=-1, keepdims=True)
        w = w - _sum(xp, s.E * w, exact=True) / s.S
        h = h + _col(d_entropy) * (s.E * (w * (gap - 1.0) - _sum(xp, s.E * w * gap, exact=True) / s.S)) / s.S
    return masked(h, x, target, ignore_index)


def masked(a: Array, x: Array, target: Array | None, ignore_index: int | None) -> Array:
    """(*batch, C) numbers of rows with labels: NaN where a label is no class, 0 where it is ignored."""
    xp = namespace(x)
    if target is None or target.ndim == x.ndim:
        return a
    a = xp.where(_col(_valid(x, target)), a, xp.nan)
    return a if ignore_index is None else xp.where(_col(target != ignore_index), a, 0.0)


def class_costs(x: Array) -> Array:
    """-log p_j = lse - x_j: the cost of every class, and the derivative of a soft target's loss over the target."""
    return _cost(softmax_parts(x))


def sum_of_others(t: Array) -> Array:
    """sum_{i != j} t_i for every j: the largest is kept apart, so that it is never subtracted from a sum it rules."""
    xp = namespace(t)
    k = xp.argmax(xp.abs(t), axis=-1, keepdims=True)
    top = _onehot(xp, k, t)
    return _sums(xp, t, top, exact=True)[2]


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
    top = _onehot(xp, xp.argmax(p, axis=-1, keepdims=True), p)
    largest = xp.sum(xp.where(top, p, 0.0), axis=-1)
    rest = xp.sum(xp.where(top, 0.0, p), axis=-1)
    whole = largest + rest
    others = _minus_p_log_p(xp, xp.where(top, 1.0, p / _col(whole)))  # -1 log 1 = 0, smoothly
    return xp.sum(others, axis=-1) + largest / whole * xp.log1p(rest / largest)


def _minus_p_log_p(xp: Any, p: Array) -> Array:
    """-p log p, 0 at 0. The derivative at 0 is +inf, so a square root stands there: 0 with the same derivative."""
    zero = p == 0.0
    some = xp.where(zero, 1.0, p)
    return xp.where(zero, xp.sqrt(xp.where(zero, p, 1.0)), 0.0 - some * xp.log(some))


def bce_with_logits(x: Array, target: Array, weight: Array | None = None, pos_weight: Array | None = None) -> Array:
    """weight (pos_weight t softplus(-x) + (1 - t) softplus(x)), from terms that are never negative.

    Differentiable as it stands: each branch of `where` is analytic, so derivatives are right at 0 too.
    """
    xp = namespace(x)
    x, t = wide(x), wide(target)
    right = x >= 0.0
    tail = xp.log1p(xp.exp(xp.where(right, 0.0 - x, x)))
    positive = t if pos_weight is None else wide(pos_weight) * t
    loss = _times(xp, positive, xp.where(right, 0.0, 0.0 - x) + tail)
    loss = loss + _times(xp, 1.0 - t, xp.where(right, x, 0.0) + tail)
    return loss if weight is None else _times(xp, wide(weight), loss)


def squared_error(x: Array, target: Array, weight: Array | None = None, pos_weight: None = None) -> Array:
    """weight (x - t)^2; nothing is positive or negative here, so there is no `pos_weight`."""
    d = wide(x) - wide(target)
    return d * d if weight is None else wide(weight) * (d * d)


def bce_with_logits_slope(x: Array, target: Array, weight: Array | None, pos_weight: Array | None) -> Array:
    """weight ((1 - t) sigma(x) - pos_weight t sigma(-x)): its derivative over x."""
    xp = namespace(x)
    x, t = wide(x), wide(target)
    right = x >= 0.0
    e = xp.exp(xp.where(right, 0.0 - x, x))
    positive = t if pos_weight is None else wide(pos_weight) * t
    slope = ((1.0 - t) * xp.where(right, 1.0, e) - positive * xp.where(right, e, 1.0)) / (1.0 + e)
    return slope if weight is None else wide(weight) * slope


def squared_error_slope(x: Array, target: Array, weight: Array | None, pos_weight: None) -> Array:
    """2 weight (x - t)."""
    d = 2.0 * (wide(x) - wide(target))
    return d if weight is None else wide(weight) * d


POINTWISE = {
    "bce_with_logits": (bce_with_logits, bce_with_logits_slope),
    "squared_error": (squared_error, squared_error_slope),
}
"""The elementwise losses: value and slope."""


def root_mean_square(d: Array, axis: tuple[int, ...]) -> Array:
    """sqrt(mean d^2), scaled by the largest |d| so that no square overflows or vanishes; its gradient at 0 is 0."""
    xp = namespace(d)
    count = prod([d.shape[a] for a in axis])
    if not count:
        return xp.sum(d, axis=axis) + xp.nan
    s = _constant(xp.max(xp.abs(d), axis=axis, keepdims=True))
    s = xp.where((s > 0.0) & (s < xp.inf), s, 1.0)
    r = d / s
    mean = xp.sum(r * r, axis=axis, keepdims=True) / count
    zero = mean == 0.0
    root = xp.where(zero, 0.0, s * xp.sqrt(xp.where(zero, 1.0, mean)))
    return xp.squeeze(root, axis=axis)


def _cost(s: Softmax) -> Array:
    """-log p_j = (m - x_j) + L, in two words where the difference was rounded."""
    return s.gap + (s.L + s.gap_rest)


def _weighted_cost(xp: Any, s: Softmax, t: Array, exact: bool) -> Array:
    """sum_j t_j (lse - x_j), (*batch, 1): gaps and L apart, so a target on the top class costs L and no more."""
    gaps = _sum(xp, t * _finite_where(xp, t, s.gap + s.gap_rest), exact)
    return gaps + _sum(xp, t, exact) * s.L


def _finite_where(xp: Any, weight: Array, value: Array) -> Array:
    """`value`, or 0 where its weight is exactly 0, so that 0 * inf is 0."""
    return xp.where(weight == 0.0, 0.0, value)


def _times(xp: Any, weight: Array, value: Array) -> Array:
    """weight * value with 0 * inf = 0; elsewhere `value` stays, for it is the derivative over the weight."""
    return weight * xp.where((weight == 0.0) & xp.isinf(value), 0.0, value)


def _valid(x: Array, target: Array) -> Array:
    """Which labels are classes."""
    return (target >= 0) & (target < x.shape[-1])


def _take(xp: Any, table: Array, y: Array) -> Array:
    """table[y] for labels of any shape."""
    return xp.reshape(xp.take(table, xp.reshape(y, (-1,)), axis=0), y.shape)


def _onehot(xp: Any, k: Array, x: Array) -> Array:
    """True where the class is k, (*batch, C)."""
    return xp.arange(x.shape[-1], dtype=k.dtype, device=x.device) == k


def _sums(xp: Any, t: Array, top: Array, exact: bool) -> tuple[Array, Array, Array]:
    """(without the top class, (*batch, 1); the whole, (*batch, 1); without class j for every j)."""
    tail, lost = _sum_words(xp, xp.where(top, 0.0, t), exact)
    largest = xp.sum(xp.where(top, t, 0.0), axis=-1, keepdims=True)
    whole = largest + tail
    whole = whole + (_addition_rest(xp, largest, tail, whole) + lost)
    tail = tail + lost
    return tail, whole, xp.where(top, tail, whole - t)


def _sum(xp: Any, a: Array, exact: bool) -> Array:
    """Sum over the classes, (*batch, 1)."""
    a, lost = _sum_words(xp, a, exact)
    return a + lost


def _sum_words(xp: Any, a: Array, exact: bool) -> tuple[Array, Any]:
    """Sum over the classes and what it lacks. Exact: by halves, carrying what each addition rounds away."""
    if not exact:
        return xp.sum(a, axis=-1, keepdims=True), 0.0
    odd = lost = 0.0
    while (n := a.shape[-1]) > 1:
        left, right = a[..., : n // 2], a[..., n // 2 : n // 2 * 2]
        if n % 2:
            last = a[..., -1:]
            lost = lost + _addition_rest(xp, last, odd, last + odd)
            odd = last + odd
        a = left + right
        lost = lost + xp.sum(_addition_rest(xp, left, right, a), axis=-1, keepdims=True)
    return a + odd, lost + _addition_rest(xp, a, odd, a + odd)


def _addition_rest(xp: Any, a: Array, b: Array, s: Array) -> Array:
    """a + b - s for s = a + b rounded, exactly (Knuth); its derivative is exactly 0. 0 where infinities meet."""
    v = s - a
    rest = (a - (s - v)) + (b - v)
    return xp.where(xp.isfinite(rest), rest, 0.0)


def _divide(xp: Any, a: Array, rest: Array, divisor: float) -> tuple[Array, Array]:
    """(a + rest) / divisor as a quotient and what it lacks, by Dekker's exact product."""
    quotient = a / divisor
    high, low = _split(quotient)
    d_high, d_low = _split(divisor)
    product = quotient * divisor
    error = ((high * d_high - product) + high * d_low + low * d_high) + low * d_low
    lacking = (((a - product) - error) + rest) / divisor
    return quotient, xp.where(xp.isfinite(lacking), lacking, 0.0)  # not finite only where exp(quotient) is 0


def _split(a: Any) -> tuple[Any, Any]:
    """Two halves of 26 bits each (Veltkamp)."""
    c = (2.0**27 + 1.0) * a
    high = c - (c - a)
    return high, a - high


def _constant(a: Array) -> Array:
    """`a` without its derivative, where the framework has derivatives."""
    return a.detach() if hasattr(a, "detach") else a


def _col(a: Array) -> Array:
    """(*batch) -> (*batch, 1), to stand beside the classes."""
    return a[..., None]


def _last(a: Array) -> Array:
    """(*batch, 1) -> (*batch)."""
    return a[..., 0]
