"""Losses of one number and its target: value and slope."""

from math import prod

from lossless.reference.arithmetic import Array, constant, namespace, times, wide



def bce_with_logits(x: Array, target: Array, weight: Array | None = None, pos_weight: Array | None = None) -> Array:
    """weight (pos_weight t softplus(-x) + (1 - t) softplus(x)), from terms that are never negative.

    Differentiable as it stands: each branch of `where` is analytic, so derivatives are right at 0 too.
    """
    xp = namespace(x)
    x, t = wide(x), wide(target)
    right = x >= 0.0
    tail = xp.log1p(xp.exp(xp.where(right, 0.0 - x, x)))
    positive = t if pos_weight is None else wide(pos_weight) * t
    loss = times(xp, positive, xp.where(right, 0.0, 0.0 - x) + tail)
    loss = loss + times(xp, 1.0 - t, xp.where(right, x, 0.0) + tail)
    return loss if weight is None else times(xp, wide(weight), loss)


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


def root_mean_square(d: Array, axis: tuple[int, ...]) -> Array:
    """sqrt(mean d^2), scaled by the largest |d| so that no square overflows or vanishes; its gradient at 0 is 0."""
    xp = namespace(d)
    count = prod([d.shape[a] for a in axis])
    if not count:
        return xp.sum(d, axis=axis) + xp.nan
    s = constant(xp.max(xp.abs(d), axis=axis, keepdims=True))
    s = xp.where((s > 0.0) & (s < xp.inf), s, 1.0)
    r = d / s
    mean = xp.sum(r * r, axis=axis, keepdims=True) / count
    zero = mean == 0.0
    root = xp.where(zero, 0.0, s * xp.sqrt(xp.where(zero, 1.0, mean)))
    return xp.squeeze(root, axis=axis)
