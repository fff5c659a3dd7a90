"""The compiled kernels on tensors: outputs allocated, labels that are no class named. No autograd, no dispatch.

`operators` puts them into a compiler's graph. All tensors arrive contiguous in memory and, but for labels, of one dtype
(class weights and priors: the kernels' accumulation dtype). Those that small calls ask for are written in the core
(`native/tensors.cpp`), where `eager` calls them without a frame of Python.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from lossless import reference
from lossless._diagnose import watch
from lossless._kernels import native
from lossless._layout import Rows
from lossless._plan import RowPlan
from lossless._reduce import Reduction
from lossless._torch.memory import recycler
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


def transform(name: str, x: Tensor, plan: RowPlan) -> Tensor:
    """`name`: "softmax" or "log_softmax"."""
    return native.tensors.transform(name, x, plan)


def result_serves(name: str, x: Tensor, temperature: float) -> bool:
    """Whether `transform_backward` may look at the result: softmax's, if it is as precise as the arithmetic."""
    return name == "softmax" and temperature == 1.0 and x.dtype not in HALVES


def transform_backward(name: str, x: Tensor, plan: RowPlan, g: Tensor, result: Tensor | None) -> Tensor:
    return native.tensors.transform_backward(name, x, plan, g, result)


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
    if bad >= 0:
        raise plan.index_error(target)
    return out


def row_statistics_backward(
    x: Tensor, target: Tensor | None, weight: Tensor | None, prior: Tensor | None, state: Tensor, plan: RowPlan,
    *partials: Tensor | None,
) -> Tensor:  # fmt: skip
    """`partials`: of nll, lse, entropy and prior."""
    dx = recycler.empty_like(x)
    d = (None if a is None else in_memory(a) for a in partials)
    native.row_statistics_backward(
        x, *plan.rows, target, weight, prior, plan.ignore_index, state, *d, dx, plan.temperature
    )
    return dx


def class_loss(
    x: Tensor, target: Tensor, weight: Tensor | None, plan: RowPlan, state: Tensor | None
) -> tuple[Tensor, float]:
    """(the loss, reduced and rounded; what a mean was divided by)."""
    loss, divisor = native.tensors.class_loss(x, target, weight, plan, state)
    return loss, divisor


def class_loss_backward(
    x: Tensor, target: Tensor, weight: Tensor | None, state: Tensor, plan: RowPlan, divisor: float, g: Tensor,
    dx: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Into `dx`, which may have the memory of `x`."""
    return native.tensors.class_loss_backward(x, target, weight, state, plan, divisor, g, dx)


def nll(x: Tensor, target: Tensor, weight: Tensor | None, plan: RowPlan) -> tuple[Tensor, float]:
    """(of log-probabilities the loss, reduced and rounded; what a mean was divided by)."""
    loss, divisor = native.tensors.nll(x, target, weight, plan)
    return loss, divisor


def nll_backward(x: Tensor, target: Tensor, weight: Tensor | None, plan: RowPlan, divisor: float, g: Tensor) -> Tensor:
    return native.tensors.nll_backward(x, target, weight, plan, divisor, g)


# ---------------------------------------------------------------- elementwise losses


def pointwise(
    functor: Pointwise, x: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None,
    reduction: Reduction, divisor: float,
) -> Tensor:  # fmt: skip
    """The loss, reduced and rounded; `divisor` is that of a mean."""
    return native.tensors.pointwise(functor, x, target, weight, pos_weight, reduction, divisor)


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
    return native.tensors.elementwise(functor, x)


def pointwise_backward(
    functor: Elementwise, x: Tensor, target: Tensor | None, weight: Tensor | None, pos_weight: Tensor | None,
    divisor: float, g: Tensor, dx: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Into `dx`, which may have the memory of `x`."""
    return native.tensors.pointwise_backward(functor, x, target, weight, pos_weight, divisor, g, dx)


class _Side:
    """What the core asks of here (`native/tensors.h`)."""

    recycler = recycler
    empty_state = empty_state
    in_memory = in_memory
    scalar = scalar
    shared = shared
    sound = watch.sound


if native is not None:
    native.tensors.set_kernels(_Side)
