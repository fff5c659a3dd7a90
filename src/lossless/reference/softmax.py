"""The softmax of every row in pieces that do not cancel, its logarithm, and the gradients and curvatures of both."""

from typing import NamedTuple

from lossless.reference.arithmetic import (
    Array,
    addition_rest,
    divide,
    namespace,
    of_class,
    onehot,
    sum_classes,
    sum_of_others,
    sums_of_classes,
    wide,
)

HEADROOM = 2.0**64


LOG_HEADROOM = 64.0 * 0.6931471805599453


LOG_HEADROOM_REST = 64.0 * 2.3190468138462996e-17


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


def softmax_parts(x: Array, temperature: float = 1.0) -> Softmax:
    """The softmax of every row, in pieces that do not cancel."""
    xp = namespace(x)
    exact = x.dtype == xp.float64  # narrower data leave room enough for plain arithmetic
    x = wide(x)
    k = xp.argmax(x, axis=-1, keepdims=True)
    top = onehot(xp, k, x)
    m = of_class(xp, x, k)  # gathered, not `max`: its derivative must reach this class alone
    # A lone +inf is the limit of a growing logit: its class takes everything. NaN, or several +inf, or nothing but
    # -inf, has no limit: those rows become NaN by the subtraction itself.
    certain = top & (m > -xp.inf)
    d = xp.where(certain, 0.0, x - m)
    rest = addition_rest(xp, x, 0.0 - m, d) if exact else xp.zeros_like(m)
    if temperature != 1.0:
        d, rest = divide(xp, d, rest, temperature)
    unit, E = 1.0, xp.exp(d)
    if exact:  # 2^64 exp(d): the sum of the others is then a normal number, or too small to be any
        unit, raised = HEADROOM, d + LOG_HEADROOM
        E = xp.exp(raised)
        E = E + E * (rest + LOG_HEADROOM_REST + addition_rest(xp, d, LOG_HEADROOM, raised))
        E = xp.where(certain, unit, E)
    tail, S, others = sums_of_classes(xp, E, top, exact)
    z = tail / unit
    L = xp.where(z < 1e-30, z, xp.log1p(z))  # the same number, also where log1p is careless with denormals
    L = xp.where(m > -xp.inf, L, xp.nan)
    return Softmax(m / temperature, top, 0.0 - d, 0.0 - rest, L, E, others, S)


def softmax(x: Array, temperature: float = 1.0) -> Array:
    """p_j = exp(x_j / temperature) / sum_i exp(x_i / temperature)."""
    return softmax_parts(x, temperature).p


def log_softmax(x: Array, temperature: float = 1.0) -> Array:
    """log p_j = -((m - x_j) + L)."""
    return 0.0 - costs(softmax_parts(x, temperature))


def softmax_backward(x: Array, g: Array, temperature: float = 1.0) -> Array:
    """p_j [(g_j - g_k) - sum_i p_i (g_i - g_k)]: differences first, so a constant added to g changes nothing."""
    xp = namespace(x)
    s, g = softmax_parts(x, temperature), wide(g)
    g = g - xp.sum(xp.where(s.top, g, 0.0), axis=-1, keepdims=True)
    return s.E * (g - sum_classes(xp, s.E * g, exact=True) / s.S) / s.S / temperature


def log_softmax_backward(x: Array, g: Array, temperature: float = 1.0) -> Array:
    """g_j q_j - p_j sum_{i != j} g_i."""
    s, g = softmax_parts(x, temperature), wide(g)
    return (g * s.others - s.E * sum_of_others(g)) / s.S / temperature


def deviation(s: Softmax, v: Array) -> Array:
    """v_j - sum p v = v_j q_j - sum_{i != j} p_i v_i: how log p_j moves along v."""
    return (v * s.others - sum_of_others(s.E * v)) / s.S


def softmax_curvature(x: Array, g: Array, v: Array, temperature: float = 1.0) -> Array:
    """The derivative of sum_j v_j dx_j for `softmax_backward`'s dx, the covariance of v and g under p.

    With a and w the deviations of g and v it is p_j (w_j a_j - sum p w a).
    """
    s = softmax_parts(x, temperature)
    product = deviation(s, wide(g)) * deviation(s, wide(v))
    return s.E * ((product - sum_classes(namespace(x), s.E * product, exact=True) / s.S) / temperature**2) / s.S


def log_softmax_curvature(x: Array, g: Array, v: Array, temperature: float = 1.0) -> Array:
    """The same of `log_softmax_backward`: -p_j w_j sum g."""
    s = softmax_parts(x, temperature)
    total = sum_classes(namespace(x), wide(g), exact=True)
    return s.E * ((0.0 - total) * deviation(s, wide(v)) / temperature**2) / s.S


def log_softmax_forward(x: Array, v: Array, temperature: float = 1.0) -> Array:
    """How log p moves along v. The Jacobian of the softmax is symmetric: `softmax_backward` is this for it."""
    return deviation(softmax_parts(x, temperature), wide(v)) / temperature


def costs(s: Softmax) -> Array:
    """-log p_j = (m - x_j) + L, in two words where the difference was rounded."""
    return s.gap + (s.L + s.gap_rest)


def class_costs(x: Array, temperature: float = 1.0) -> Array:
    """-log p_j = lse - x_j: the cost of every class, and the derivative of a soft target's loss over the target."""
    return costs(softmax_parts(x, temperature))
