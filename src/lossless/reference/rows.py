"""The statistics of every row of logits, their gradient and their curvature."""

from typing import Any, NamedTuple

from lossless.reference.arithmetic import (
    Array,
    are_classes,
    col,
    finite_where,
    last,
    namespace,
    of_class,
    onehot,
    sum_classes,
    sum_of_others,
    wide,
)
from lossless.reference.softmax import Softmax, costs, deviation, softmax_parts


class Statistics(NamedTuple):
    """One number a row, unrounded; None where there was nothing to compute it from."""

    nll: Array
    lse: Array
    entropy: Array
    prior: Array
    correct: Array


def row_statistics(
    x: Array,
    target: Array | None = None,
    prior: Array | None = None,
    ignore_index: int | None = None,
    temperature: float = 1.0,
) -> Statistics:
    """Negative log-likelihood, log-sum-exp, entropy, prior cost and correctness of every row of x / temperature.

    `target`: (*batch) labels or (*batch, C) target weights t; `prior`: (C,) weights u shared by all rows.
    A label that is no class gives NaN.
    """
    xp = namespace(x)
    s = softmax_parts(x, temperature)
    exact = x.dtype == xp.float64
    cost = costs(s)
    lse = last(xp.where(xp.isinf(s.m), s.m, s.m + s.L))
    # p = 0 where the gap is infinite; 0 * inf is 0 here, as the limit says.
    entropy = last(s.L + sum_classes(xp, s.E * finite_where(xp, s.E, s.gap), exact) / s.S)
    prior_cost = None if prior is None else last(_weighted_cost(xp, s, wide(prior), exact))
    nll: Any = None
    correct: Any = None
    labels = target is not None and target.ndim < x.ndim
    if target is not None and not labels:
        nll = last(_weighted_cost(xp, s, wide(target), exact))
        correct = (xp.argmax(x, axis=-1) == xp.argmax(target, axis=-1)) & ~last(xp.isnan(s.m))
    elif labels:
        valid = are_classes(x, target)
        y = xp.where(valid, target, 0)[..., None]
        nll = xp.where(valid, last(of_class(xp, cost, y)), xp.nan)
        correct = (xp.argmax(x, axis=-1) == target) & ~last(xp.isnan(s.m))
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
    temperature: float = 1.0,
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
    s = softmax_parts(x, temperature)
    exact = x.dtype == xp.float64
    labels = target is not None and target.ndim < x.ndim
    g = xp.zeros_like(s.E)
    if labels and d_nll is not None:
        g = col(d_nll) * xp.where(onehot(xp, col(target), s.E), 0.0 - s.others, s.E)
    elif target is not None and d_nll is not None:
        t = wide(target)
        g = col(d_nll) * (sum_of_others(t) * s.E - t * s.others)
    if prior is not None and d_prior is not None:
        u = wide(prior)
        g = g + col(d_prior) * (sum_of_others(u) * s.E - u * s.others)
    if d_lse is not None:
        g = g + col(d_lse) * s.E
    if d_entropy is not None:
        gap = finite_where(xp, s.E, s.gap)
        g = g + col(d_entropy) * (s.E * (gap - sum_classes(xp, s.E * gap, exact) / s.S))
    return masked(g / s.S / temperature, x, target, ignore_index)


def row_statistics_curvature(
    x: Array,
    v: Array,
    target: Array | None = None,
    prior: Array | None = None,
    ignore_index: int | None = None,
    temperature: float = 1.0,
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
        scale = wide(d_nll) if labels else wide(d_nll) * last(sum_classes(xp, wide(target), exact=True))
    if d_lse is not None:
        scale = scale + wide(d_lse)
    if prior is not None and d_prior is not None:
        scale = scale + wide(d_prior) * last(sum_classes(xp, wide(prior), exact=True))
    s, v = softmax_parts(x, temperature), wide(v)
    w = deviation(s, v)
    bend = col(scale + xp.zeros_like(v[..., 0])) * w
    if d_entropy is not None:
        gap = finite_where(xp, s.E, s.gap)
        gap = gap - sum_classes(xp, s.E * gap, exact=True) / s.S
        bend = bend + col(d_entropy) * (w * (gap - 1.0) - sum_classes(xp, s.E * w * gap, exact=True) / s.S)
    return masked(s.E * (bend / temperature**2) / s.S, x, target, ignore_index)


def masked(a: Array, x: Array, target: Array | None, ignore_index: int | None) -> Array:
    """(*batch, C) numbers of rows with labels: NaN where a label is no class, 0 where it is ignored."""
    xp = namespace(x)
    if target is None or target.ndim == x.ndim:
        return a
    a = xp.where(col(are_classes(x, target)), a, xp.nan)
    return a if ignore_index is None else xp.where(col(target != ignore_index), a, 0.0)


def _weighted_cost(xp: Any, s: Softmax, t: Array, exact: bool) -> Array:
    """sum_j t_j (lse - x_j), (*batch, 1): gaps and L apart, so a target on the top class costs L and no more."""
    gaps = sum_classes(xp, t * finite_where(xp, t, s.gap + s.gap_rest), exact)
    return gaps + sum_classes(xp, t, exact) * s.L
