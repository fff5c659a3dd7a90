"""The gradients of the kernels' functions made of differentiable operations, with the kernels' arguments.

For `create_graph`, and for incoming gradients that have no memory of their own.
"""

from typing import Any

import torch
from torch import Tensor

from lossless import reference
from lossless._layout import Rows
from lossless._plan import RowPlan
from lossless._torch import differentiable

TRANSFORMS = {"softmax": differentiable.softmax_gradient, "log_softmax": differentiable.log_softmax_gradient}


def transform(name: str, x: Tensor, plan: RowPlan, g: Tensor) -> Tensor:
    return _rows_back(TRANSFORMS[name](_rows_last(x, plan.rows), _rows_last(g, plan.rows), plan.temperature), x)


def elementwise(functor: reference.Elementwise, x: Tensor, g: Tensor) -> Tensor:
    return (reference.wide(g) * functor.slope(x)).to(x.dtype)


def row_statistics(
    x: Tensor, target: Tensor | None, weight: Tensor | None, prior: Tensor | None, plan: RowPlan,
    *partials: Tensor | None,
) -> Tensor:  # fmt: skip
    d = (None if a is None else _of_rows(a, plan) for a in partials)
    t = _target_rows(target, plan)
    t = t if weight is None or t is None else reference.wide(t) * reference.wide(weight)
    return _row_gradient(x, plan, t, prior, *d)


def class_loss(x: Tensor, target: Tensor, weight: Tensor | None, plan: RowPlan, divisor: Any, g: Tensor) -> Tensor:
    link = reference.link(
        _target_rows(target, plan), plan.rows.classes, plan.soft, weight,
        ignore_index=plan.ignore_index, smoothing=plan.smoothing, z_loss=plan.z_loss, curve=plan.curve,
    )  # fmt: skip
    t = link.weighted_target()
    s = None
    if not link.is_linear:
        s = differentiable.row_statistics(_rows_last(x, plan.rows), t, link.prior, plan.ignore_index, plan.temperature)
    d = reference.wide(_of_rows(g, plan)) / divisor
    slopes = {name: d * slope for name, slope in link.slopes(s).items()}
    d_nll, d_lse, d_prior = (slopes.get(name) for name in ("d_nll", "d_lse", "d_prior"))
    return _row_gradient(x, plan, t, link.prior, d_nll, d_lse, None, d_prior)


def nll(x: Tensor, target: Tensor, weight: Tensor | None, plan: RowPlan, divisor: float, g: Tensor) -> Tensor:
    y, g = target.reshape(plan.shape), reference.wide(g)
    kept = y != plan.ignore_index
    y = torch.where(kept, y, 0)
    slope = 0.0 - (g if weight is None else g * reference.wide(weight)[y]) / divisor
    slope = torch.where(kept, slope, 0.0).unsqueeze(plan.dim)
    nothing = torch.zeros((), dtype=slope.dtype).expand(x.shape)
    return nothing.scatter(plan.dim, y.unsqueeze(plan.dim), slope).to(x.dtype)


def pointwise(
    functor: reference.Pointwise, x: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None,
    divisor: Any, g: Tensor,
) -> Tensor:  # fmt: skip
    slope = reference.weighted(functor.slope(x, target, pos_weight), weight, None, None)
    return (reference.wide(g) / divisor * slope).to(x.dtype)


def root_mean_square(x: Tensor, target: Tensor, g: Tensor) -> Tensor:
    d = reference.wide(x) - reference.wide(target)
    return (reference.wide(g) * reference.root_mean_square_slope(d, tuple(range(d.ndim)))).to(x.dtype)


def _row_gradient(
    x: Tensor, plan: RowPlan, target: Tensor | None, prior: Tensor | None, *partials: Tensor | None
) -> Tensor:
    """The reference gradient over the rows of `x`, in the shape and dtype of `x`."""
    rows = _rows_last(x, plan.rows)
    dx = differentiable.row_gradient(rows, target, prior, plan.ignore_index, plan.temperature, *partials)
    return _rows_back(dx, x)


def _of_rows(a: Tensor, plan: RowPlan) -> Tensor:
    """One number a row, or one for all rows, as (outer, inner)."""
    shape = plan.rows.outer, plan.rows.inner
    return a.reshape(shape) if a.numel() == plan.rows.number else a.expand(shape)


def _target_rows(target: Tensor | None, plan: RowPlan) -> Tensor | None:
    """A target in the reference's order: labels (outer, inner), probabilities (outer, inner, C)."""
    if target is None:
        return None
    return _rows_last(target, plan.rows) if target.is_floating_point() else _of_rows(target, plan)


def _rows_last(a: Tensor, rows: Rows) -> Tensor:
    """(outer, C, inner) as (outer, inner, C), the reference's order."""
    return a.reshape(rows.outer, rows.classes, rows.inner).transpose(1, 2)


def _rows_back(dx: Tensor, x: Tensor) -> Tensor:
    """(outer, inner, C) in the shape and dtype of `x`."""
    return dx.transpose(1, 2).reshape(x.shape).to(x.dtype)
