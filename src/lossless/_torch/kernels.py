"""The compiled kernels on tensors: outputs allocated, labels that are no class named. No autograd, no dispatch.

`eager` calls them straight, `operators` puts them into a compiler's graph. All tensors arrive contiguous in memory and,
but for labels, of one dtype (class weights and priors: the kernels' accumulation dtype).
"""

from math import nan
from typing import NamedTuple

import torch
from torch import Tensor

from lossless import _check, reference
from lossless._diagnose import watch
from lossless._kernels import native
from lossless._layout import Rows
from lossless._plan import RowPlan
from lossless._reduce import Reduction
from lossless._torch.memory import empty_like
from lossless._torch.modes import HALVES, in_memory
from lossless.reference import Elementwise, Pointwise

CPU = torch.device("cpu")


def scalar(total: float, x: Tensor) -> Tensor:
    """`total` rounded to x's dtype; infinite where it is too large, which `scalar_tensor` refuses to do."""
    try:
        return torch.scalar_tensor(total, dtype=x.dtype, device=CPU)
    except RuntimeError:
        return torch.scalar_tensor(total, dtype=torch.float64, device=CPU).to(x.dtype)


def empty_state(x: Tensor, rows: Rows) -> Tensor:
    """What backward needs to know of every row."""
    return x.new_empty((native.STATE_ROWS, rows.number), dtype=torch.float64)


def shared(g: Tensor) -> float | None:
    """The number that all of an upstream gradient share, as it comes from a sum or a mean."""
    if g.ndim:
        if not g.numel() or (any(g.stride()) and not (g.is_contiguous() and native.is_one_number(g))):
            return None
        g = g[(0,) * g.ndim]
    return g.item()  # type: ignore[no-any-return]


# ---------------------------------------------------------------- transforms


def transform(name: str, x: Tensor, rows: Rows, temperature: float, state: Tensor | None = None) -> Tensor:
    """`name`: "softmax" or "log_softmax"; a state is written for `transform_backward`."""
    out = empty_like(x)
    getattr(native, name)(x, *rows, out, temperature, state)
    return out


def result_serves(name: str, x: Tensor, temperature: float) -> bool:
    """Whether `transform_backward` is quicker with the result: softmax's, if it is as precise as the arithmetic."""
    return name == "softmax" and temperature == 1.0 and x.dtype not in HALVES


def transform_backward(
    name: str, x: Tensor, rows: Rows, temperature: float, g: Tensor, state: Tensor | None = None,
    result: Tensor | None = None,
) -> Tensor:  # fmt: skip
    dx = empty_like(x)
    extra = (state,) if result is None else (state, result)
    getattr(native, name + "_backward")(x, *rows, in_memory(g), dx, temperature, *extra)
    return dx


# ---------------------------------------------------------------- rows


class RowOutputs(NamedTuple):
    """Rounded to x's dtype, or float64; None for what was not asked for."""

    nll: Tensor | None
    lse: Tensor
    entropy: Tensor | None
    prior: Tensor | None
    correct: Tensor | None


def row_outputs(
    x: Tensor, target: Tensor | None, prior: Tensor | None, plan: RowPlan, entropy: bool, unrounded: bool
) -> RowOutputs:
    """Their memory: one number a row each."""
    dtype = torch.float64 if unrounded else x.dtype
    return RowOutputs(
        None if target is None else x.new_empty(plan.shape, dtype=dtype),
        x.new_empty(plan.shape, dtype=dtype),
        x.new_empty(plan.shape, dtype=dtype) if entropy else None,
        None if prior is None else x.new_empty(plan.shape, dtype=dtype),
        None if target is None else x.new_empty(plan.shape, dtype=torch.bool),
    )


def row_statistics(
    x: Tensor, target: Tensor | None, weight: Tensor | None, prior: Tensor | None, plan: RowPlan, entropy: bool,
    unrounded: bool, state: Tensor | None,
) -> RowOutputs:  # fmt: skip
    out = row_outputs(x, target, prior, plan, entropy, unrounded)
    bad = native.row_statistics(x, *plan.rows, target, weight, prior, plan.ignore_index, *out, state, plan.temperature)
    _raise_bad(bad, target, plan)
    return out


def row_statistics_backward(
    x: Tensor, target: Tensor | None, weight: Tensor | None, prior: Tensor | None, state: Tensor, plan: RowPlan,
    *partials: Tensor | None,
) -> Tensor:  # fmt: skip
    """`partials`: of nll, lse, entropy and prior."""
    dx = empty_like(x)
    d = (None if a is None else in_memory(a) for a in partials)
    native.row_statistics_backward(
        x, *plan.rows, target, weight, prior, plan.ignore_index, state, *d, dx, plan.temperature
    )
    return dx


def entropy(x: Tensor, plan: RowPlan, state: Tensor | None, g: float | None) -> tuple[Tensor, Tensor | None]:
    """(of each row; for an upstream gradient `g` of all rows the gradient)."""
    out, dx = x.new_empty(plan.shape), None if g is None else empty_like(x)
    native.entropy(x, *plan.rows, out, state, 1.0 if g is None else g, dx, plan.temperature)
    return out, dx


def class_loss(
    x: Tensor, target: Tensor, weight: Tensor | None, plan: RowPlan, divisor: float | None, state: Tensor | None,
    g: float | None = None,
) -> tuple[Tensor, float, Tensor | None]:  # fmt: skip
    """(the loss, reduced and rounded; what a mean was divided by; for an upstream gradient `g` the gradient)."""
    reduction = plan.reduction
    loss = x.new_empty(plan.shape) if reduction == "none" else None
    dx = None if g is None else empty_like(x)
    bad, total, divisor = native.row_loss(
        x, *plan.rows, target, weight, plan.ignore_index, plan.kernel_link, loss, state,
        divisor if reduction == "mean" else 1.0, 1.0 if g is None else g, dx, plan.temperature,
    )  # fmt: skip
    if bad >= 0:
        _raise_bad(bad, target, plan)
    divisor = divisor or nan
    watch.sound(total, divisor)
    return scalar(total / divisor, x) if loss is None else loss, divisor, dx


def class_loss_backward(
    x: Tensor, target: Tensor, weight: Tensor | None, state: Tensor, plan: RowPlan, divisor: float, g: Tensor,
    dx: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Into `dx`, which may have the memory of `x`."""
    dx = empty_like(x) if dx is None else dx
    native.row_loss_backward(
        x, *plan.rows, target, weight, plan.ignore_index, plan.kernel_link, state, in_memory(g), divisor, dx,
        plan.temperature,
    )  # fmt: skip
    return dx


def nll(x: Tensor, target: Tensor, weight: Tensor | None, plan: RowPlan) -> tuple[Tensor, float]:
    """(of log-probabilities the loss, reduced and rounded; what a mean was divided by)."""
    loss = x.new_empty(plan.shape) if plan.reduction == "none" else None
    bad, total, weights = native.nll(x, *plan.rows, target, weight, plan.ignore_index, loss)
    if bad >= 0:
        _raise_bad(bad, target, plan)
    divisor = 1.0 if plan.reduction != "mean" else weights or nan
    watch.sound(total, divisor)
    return scalar(total / divisor, x) if loss is None else loss, divisor


def nll_backward(x: Tensor, target: Tensor, weight: Tensor | None, plan: RowPlan, divisor: float, g: Tensor) -> Tensor:
    dx = empty_like(x)
    native.nll_backward(dx, *plan.rows, target, weight, plan.ignore_index, in_memory(g), divisor)
    return dx


def _raise_bad(bad: int, target: Tensor | None, plan: RowPlan) -> None:
    """The error for labels that are no class, if `bad` is the number of a row."""
    if bad >= 0 and target is not None:
        labels = target.reshape(plan.shape).numpy()
        raise _check.target_index_error(plan.function, labels, plan.rows.classes, plan.ignore_index)


# ---------------------------------------------------------------- elementwise losses


def pointwise(
    functor: Pointwise, x: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None,
    reduction: Reduction, divisor: float, g: float | None = None,
) -> tuple[Tensor, float, Tensor | None]:  # fmt: skip
    """(the loss, reduced and rounded; what it was divided by; for an upstream gradient `g` the gradient).

    `divisor` is that of a mean.
    """
    loss = empty_like(x) if reduction == "none" else None
    dx = None if g is None else empty_like(x)
    divisor = 1.0 if reduction != "mean" else divisor or nan
    total = native.pointwise(
        functor.kernel, x, target, weight, pos_weight, functor.kernel_parameters, loss, 1.0 if g is None else g,
        divisor, dx,
    )  # fmt: skip
    watch.sound(total, divisor)
    return scalar(total / divisor, x) if loss is None else loss, divisor, dx


def root_mean_square(squares: Pointwise, x: Tensor, target: Tensor) -> tuple[Tensor, float | None]:
    """(of all differences, rounded; unrounded, or None where their squares leave float64: by the formula then)."""
    total = native.pointwise(squares.kernel, x, target, None, None, squares.kernel_parameters, None, 1.0, 1.0, None)
    watch.sound(total, x.numel())
    root = reference.root_of_mean(total, x.numel())
    if root is not None:
        return scalar(root, x), root
    d = reference.wide(x) - reference.wide(target)
    return scalar(reference.root_mean_square(d, tuple(range(d.ndim))).item(), x), None


def root_mean_square_backward(squares: Pointwise, x: Tensor, target: Tensor, root: float, g: Tensor) -> Tensor:
    """Over `x`, of an unrounded root."""
    return pointwise_backward(squares, x, target, None, None, 2.0 * root * x.numel(), g)


def elementwise(functor: Elementwise, x: Tensor) -> Tensor:
    out = empty_like(x)
    native.pointwise(functor.kernel, x, None, None, None, functor.kernel_parameters, out, 1.0, 1.0, None)
    return out


def pointwise_backward(
    functor: Elementwise, x: Tensor, target: Tensor | None, weight: Tensor | None, pos_weight: Tensor | None,
    divisor: float, g: Tensor, dx: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Into `dx`, which may have the memory of `x`."""
    dx = empty_like(x) if dx is None else dx
    native.pointwise_backward(
        functor.kernel, x, target, weight, pos_weight, functor.kernel_parameters, in_memory(g), divisor, dx
    )
    return dx
