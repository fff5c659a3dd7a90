"""Losses of the softmax family as expressions in the statistics of their rows."""

from collections.abc import Callable
from math import inf
from typing import Any, NamedTuple

from lossless.reference.arithmetic import (
    Array,
    are_classes,
    col,
    last,
    namespace,
    of_class,
    onehot,
    sum_classes,
    sum_of_others,
    take,
    wide,
)
from lossless.reference.rows import Statistics
from lossless.reference.softmax import costs, deviation, softmax_parts


class Curve(NamedTuple):
    """What a loss makes of the cost -log p of the true class: a function and its derivatives."""

    value: Callable[[Array], Array]
    slope: Callable[[Array], Array]
    bend: Callable[[Array, Array], Array]
    "Of L and e^-L, of which a rounded L has lost digits."


def _focal(gamma: float) -> Curve:
    """f(L) = q^gamma L, q = 1 - e^-L;  f'(L) = q^gamma (1 + gamma p L / q), p = e^-L;

    f''(L) = gamma p q^gamma (2 - L + (gamma - 1) p L / q) / q. The ends are their limits: f = f' = 0 at L = 0, where
    q^(gamma - 1) may be infinite (f'' is 0 there too, by convention), and f' = 1, f'' = 0 at L = inf.
    """

    def value(L: Array) -> Array:
        xp = namespace(L)
        end = (L == 0.0) | xp.isinf(L)
        some = xp.where(end, 1.0, L)
        return xp.where(end, xp.where(L == 0.0, 0.0 * some, L), _complement(xp, some) ** gamma * some)

    def slope(L: Array) -> Array:
        xp = namespace(L)
        end = (L == 0.0) | xp.isinf(L)
        some = xp.where(end, 1.0, L)
        q = _complement(xp, some)
        return xp.where(end, xp.where(L == 0.0, 0.0, 1.0), q**gamma * (1.0 + gamma * xp.exp(0.0 - some) * some / q))

    def bend(L: Array, p: Array) -> Array:
        xp = namespace(L)
        end = (L == 0.0) | xp.isinf(L)
        some = xp.where(end, 1.0, L)
        q = _complement(xp, some)
        return xp.where(end, 0.0, gamma * p * q**gamma * ((2.0 - some) + (gamma - 1.0) * p * some / q) / q)

    return Curve(value, slope, bend)


def _complement(xp: Any, L: Array) -> Array:
    """1 - e^-L, in the form whose derivative e^-L is accurate too: autograd makes 1 - q of expm1's."""
    small = L < 1.0
    return xp.where(small, 0.0 - xp.expm1(0.0 - xp.where(small, L, 0.5)), 1.0 - xp.exp(0.0 - L))


CURVES = {"focal": _focal}
"""Curves by name, each a function of its parameter: a plan holds (name, parameter), which can be hashed."""


def bent(curve: tuple[str, float]) -> Curve:
    """The curve that a plan names."""
    name, parameter = curve
    return CURVES[name](parameter)


class Link(NamedTuple):
    """A loss of the softmax family:  s (a f(nll) + d prior + z lse^2)  of every row, s its sample weight.

    `nll` is of the target, with probabilities times the class weights; `prior` of the class vector u.
    """

    target: Array
    "Labels (*batch) or probabilities (*batch, C)."
    weight: Array | None
    "(C,) weights of the classes, that multiply probabilities before the statistics are taken."
    prior: Array | None
    a: Any
    "(*batch) or one number; None: no part of it."
    d: float
    z: float
    curve: Curve | None
    sample_weight: Array | None
    row_weight: Array
    "(*batch): by the sum of it PyTorch's mean divides, sample weights left out; 0 where the row is ignored."
    kept: Array | None
    "(*batch) of labels: whether the row is not ignored."
    class_weight: Array | None
    "(C,) weights, without those that never divide."

    def weighted_target(self) -> Array:
        """The target as `row_statistics` of this package takes it."""
        return self.target if self.weight is None else wide(self.target) * wide(self.weight)

    def loss(self, s: Statistics) -> Array:
        """(*batch) losses."""
        loss = 0.0
        if self.a is not None:
            loss = self.a * (s.nll if self.curve is None else self.curve.value(s.nll))
        if self.prior is not None:
            loss = loss + self.d * s.prior
        if self.z:
            loss = loss + self.z * (s.lse * s.lse)
        return self._of_samples(loss)

    @property
    def is_linear(self) -> bool:
        """Whether its slopes are the same whatever the statistics."""
        return self.curve is None and not self.z

    def slopes(self, s: Statistics | None) -> dict[str, Array]:
        """Its partial derivatives over the statistics, as the backward pass of the rows takes them.

        A linear link needs no statistics.
        """
        slopes = {}
        one = namespace(self.row_weight).ones_like(self.row_weight)
        if self.a is not None:
            slopes["d_nll"] = self.a * (one if s is None or self.curve is None else self.curve.slope(s.nll))
        if self.prior is not None:
            slopes["d_prior"] = self.d * one
        if self.z and s is not None:
            slopes["d_lse"] = 2.0 * self.z * s.lse
        return {name: self._of_samples(slope) for name, slope in slopes.items()}

    def _of_samples(self, a: Array) -> Array:
        """Times the sample weight; 0 in an ignored row, whatever its weight."""
        if self.sample_weight is not None:
            a = a * self.sample_weight
        return a if self.kept is None else namespace(a).where(self.kept, a, 0.0)

    def divisor(self, denominator: str | None) -> Any:
        """What a mean divides by, a number or a 0-d array."""
        if denominator == "batch":
            return float(self.row_weight.reshape(-1).shape[0])
        if denominator == "count":
            return float(self.row_weight.reshape(-1).shape[0]) if self.kept is None else wide(self.kept).sum()
        if denominator == "positives":
            positives = wide(self.target if self.kept is None else self.kept).sum()
            return namespace(positives).where(positives < 1.0, 1.0, positives)
        weights = self.row_weight
        if denominator == "weights" and self.kept is None:
            xp = namespace(self.target)
            t = wide(self.target)
            weights = last(sum_classes(xp, t if self.class_weight is None else t * wide(self.class_weight), exact=True))
        return (weights if self.sample_weight is None else self._of_samples(weights)).sum()


def link(
    target: Array,
    classes: int,
    soft: bool,
    weight: Array | None = None,
    sample_weight: Array | None = None,
    alpha: Array | None = None,
    *,
    ignore_index: int | None = None,
    smoothing: float = 0.0,
    z_loss: float = 0.0,
    curve: tuple[str, float] | None = None,
) -> Link:
    """The link of cross-entropy with class weights w, label smoothing e and a curve f.

    Labels: (1 - e) w_y alpha_y f(nll) + (e / C) sum_j w_j (lse - x_j). Probabilities: target weights
    w_j alpha_j ((1 - e) t_j + e / C). alpha is never part of what a mean divides by.
    """
    xp = namespace(target)
    w = None if weight is None else wide(weight)
    factor = w if alpha is None else wide(alpha) if w is None else w * wide(alpha)
    prior = None
    if smoothing:
        prior = xp.ones(classes, dtype=xp.float64, device=target.device) if w is None else w
    samples = None if sample_weight is None else wide(sample_weight)
    bend = None if curve is None else bent(curve)
    keep, share = 1.0 - smoothing if smoothing < 1.0 else None, smoothing / classes
    if soft:
        one = xp.ones_like(wide(target)[..., 0])
        return Link(target, factor, prior, keep, share, z_loss, bend, samples, one, None, w)
    kept = (target >= 0) & (target < classes)
    if ignore_index is not None:
        kept = kept & (target != ignore_index)
    y = xp.where(kept, target, 0)
    w_y = wide(kept) if w is None else xp.where(kept, take(xp, w, y), 0.0)
    a = w_y if alpha is None else xp.where(kept, take(xp, factor, y), 0.0)
    return Link(
        target, None, prior, None if keep is None else keep * a, share, z_loss, bend, samples, w_y,
        _not(xp, target, ignore_index), w,
    )  # fmt: skip


def _not(xp: Any, target: Array, ignore_index: int | None) -> Array:
    """Which labels are not the ignored one; a label that is no class counts, and makes its row NaN."""
    return xp.ones_like(target, dtype=xp.bool) if ignore_index is None else target != ignore_index


def nll(log_p: Array, target: Array, weight: Array | None, ignore_index: int | None) -> tuple[Array, Array]:
    """(-w_y log p_y, w_y) of every row; (0, 0) where the label is ignored, NaN where it is no class."""
    xp = namespace(log_p)
    valid = are_classes(log_p, target)
    y = xp.where(valid, target, 0)
    picked = wide(last(of_class(xp, log_p, col(y))))
    w_y = xp.ones_like(picked) if weight is None else take(xp, wide(weight), y)
    loss = xp.where(valid, 0.0 - w_y * picked, xp.nan)
    if ignore_index is None:
        return loss, w_y
    kept = target != ignore_index
    return xp.where(kept, loss, 0.0), xp.where(kept, w_y, 0.0)


def soft_curve(x: Array, target: Array, curve: tuple[str, float]) -> Array:
    """sum_j t_j f(-log p_j), (*batch): a curve over every class of a soft target."""
    xp = namespace(x)
    cost, t = costs(softmax_parts(x)), wide(target)
    value = bent(curve).value(xp.where((t == 0.0) & (cost == inf), 0.0, cost))
    return last(sum_classes(xp, t * value, exact=x.dtype == xp.float64))


def soft_curve_backward(x: Array, target: Array, g: Array, curve: tuple[str, float]) -> Array:
    """The gradient over the logits, for (*batch) g: that of a soft target t_j f'(-log p_j)."""
    s, t = softmax_parts(x), wide(target)
    t = t * bent(curve).slope(costs(s))
    return col(g) * (sum_of_others(t) * s.E - t * s.others) / s.S


def soft_curve_curvature(x: Array, target: Array, g: Array, v: Array, curve: tuple[str, float]) -> Array:
    """The derivative of sum_j v_j g_j for the gradient g_j above.

    Along v the costs move by -w, w = v - sum p v, and with them f': this is the gradient of a soft target
    -t_j f''(-log p_j) w_j, and that of softmax times sum t f'.
    """
    xp = namespace(x)
    s, t = softmax_parts(x), wide(target)
    w, cost, f = deviation(s, wide(v)), costs(s), bent(curve)
    turn = 0.0 - t * f.bend(cost, s.p) * w
    total = sum_classes(xp, t * f.slope(cost), exact=True)
    return col(g) * (sum_of_others(turn) * s.E - turn * s.others + total * (s.E * w)) / s.S


def soft_curve_costs(x: Array, curve: tuple[str, float]) -> Array:
    """f(-log p_j) of every class: the derivative over a soft target."""
    return bent(curve).value(costs(softmax_parts(x)))


def soft_curve_costs_forward(x: Array, v: Array, curve: tuple[str, float]) -> Array:
    """How they move along v: -f' w."""
    s = softmax_parts(x)
    return 0.0 - bent(curve).slope(costs(s)) * deviation(s, wide(v))


def smoothed(target: Array, classes: int, smoothing: float) -> Array:
    """(1 - e) t + e / C of probabilities t."""
    return (1.0 - smoothing) * wide(target) + smoothing / classes if smoothing else target


def probability_cost(p: Array, target: Array, ignore_index: int | None) -> Array:
    """-log p_y, or sum_j t_j (-log p_j), of given probabilities, (*batch).

    0 where a label is ignored, NaN where it is no class.
    """
    xp = namespace(p)
    p = wide(p)
    if target.ndim == p.ndim:
        t = wide(target)
        return 0.0 - last(sum_classes(xp, t * xp.log(xp.where((t == 0.0) & (p == 0.0), 1.0, p)), exact=True))
    valid, kept = are_classes(p, target), _not(xp, target, ignore_index)
    picked = last(of_class(xp, p, col(xp.where(valid, target, 0))))
    return 0.0 - xp.where(valid & kept, xp.log(xp.where(valid & kept, picked, 1.0)), xp.where(kept, xp.nan, 0.0))


def probability_cost_backward(p: Array, target: Array, ignore_index: int | None) -> Array:
    """-[j = y] / p_j, or -t_j / p_j."""
    xp = namespace(p)
    t = wide(target)
    if target.ndim < p.ndim:
        t = wide(onehot(xp, col(target), p) & col(_not(xp, target, ignore_index)))
    p = wide(p)
    nothing = (t == 0.0) & ((p == 0.0) | (target.ndim < p.ndim))
    return 0.0 - xp.where(nothing, 0.0, t / xp.where(nothing, 1.0, p))
