"""Losses as expressions in the statistics of their rows."""

from typing import Any, NamedTuple

from lossless.reference.arithmetic import Array, are_classes, col, last, namespace, take, wide
from lossless.reference.rows import Statistics



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
    kept = are_classes(x, target) if ignore_index is None else are_classes(x, target) & (target != ignore_index)
    w_y = wide(kept) if w is None else xp.where(kept, take(xp, w, xp.where(kept, target, 0)), 0.0)
    return Link(target, prior, (1.0 - smoothing) * w_y, share, w_y)


def nll(log_p: Array, target: Array, weight: Array | None, ignore_index: int | None) -> tuple[Array, Array]:
    """(-w_y log p_y, w_y) of every row; (0, 0) where the label is ignored, NaN where it is no class."""
    xp = namespace(log_p)
    valid = are_classes(log_p, target)
    y = xp.where(valid, target, 0)
    picked = wide(last(xp.take_along_axis(log_p, col(y), axis=-1)))
    w_y = xp.ones_like(picked) if weight is None else take(xp, wide(weight), y)
    loss = xp.where(valid, 0.0 - w_y * picked, xp.nan)
    if ignore_index is None:
        return loss, w_y
    kept = target != ignore_index
    return xp.where(kept, loss, 0.0), xp.where(kept, w_y, 0.0)
