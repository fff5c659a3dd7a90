"""The fast path: plain CPU tensors straight to the compiled kernels.

Old-style `autograd.Function`s, which cost a third of the ones that `torch.func` needs. Only `x` is differentiated here
(for squared error also the target); a call that needs more takes the reference path. Under `create_graph`, and where
a transform batches the incoming gradient, backward returns the reference gradient, made of differentiable operations.
All tensors arrive in one dtype.
"""
# mypy: allow-subclassing-any

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from lossless import reference
from lossless._layout import Rows
from lossless._plan import RowPlan
from lossless._reduce import Reduction
from lossless._torch import by_formula, kernels
from lossless._torch.modes import all_in_memory, batched, in_memory, needs_grad, watched
from lossless.reference import Statistics


def _call(cls: Any, x: Tensor, *args: Any) -> Any:
    """`cls` with autograd, or its forward alone where no gradient is needed."""
    return _apply(cls, x, *args) if needs_grad(x) else cls.forward(None, x, *args)


def _apply(cls: Any, *args: Any) -> Any:
    """`cls.apply` without its look for transforms (a third of its time): `kernels_serve` has looked."""
    return super(Function, cls).apply(*args)


class _KernelFunction(Function):
    """Forward and `by_kernel` call kernels; `by_formula` is the same gradient made of differentiable operations."""

    by_kernel: Callable[..., Any]
    by_formula: Callable[..., Any]

    @classmethod
    def backward(cls, ctx: Any, *g: Tensor | None) -> Any:
        if not (torch.is_grad_enabled() or watched()):
            try:
                return cls.by_kernel(ctx, *g)
            except RuntimeError:  # a batch in disguise has no memory to work on
                if not any(a is not None and batched(a) for a in g):
                    raise
        return cls.by_formula(ctx, *g)


# ---------------------------------------------------------------- transforms


def softmax(x: Tensor, plan: RowPlan) -> Tensor:
    return _call(_Softmax, in_memory(x), plan.rows)


def log_softmax(x: Tensor, plan: RowPlan) -> Tensor:
    return _call(_LogSoftmax, in_memory(x), plan.rows)


class _Softmax(_KernelFunction):
    name = "softmax"

    @classmethod
    def forward(cls, ctx: Any, x: Tensor, rows: Rows) -> Tensor:
        if ctx is not None:
            ctx.save_for_backward(x)
            ctx.rows = rows
        return kernels.transform(cls.name, x, rows)

    @classmethod
    def by_kernel(cls, ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return kernels.transform_backward(cls.name, x, ctx.rows, g), None

    @classmethod
    def by_formula(cls, ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return by_formula.transform(cls.name, x, ctx.rows, g), None


class _LogSoftmax(_Softmax):
    name = "log_softmax"


# ---------------------------------------------------------------- row statistics


def row_statistics(
    x: Tensor,
    target: Tensor | None,
    weight: Tensor | None,
    prior: Tensor | None,
    plan: RowPlan,
    *,
    only_lse: bool = False,
    for_link: bool = False,
) -> Statistics:
    """Rounded; `weight` multiplies probabilities. Without the entropy for `only_lse`, and `for_link`: unrounded."""
    arrays = all_in_memory(x, target, weight, prior)
    return Statistics(*_call(_RowStatistics, *arrays, plan, not (only_lse or for_link), for_link))


class _RowStatistics(_KernelFunction):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        target: Tensor | None,
        weight: Tensor | None,
        prior: Tensor | None,
        plan: RowPlan,
        with_entropy: bool,
        unrounded: bool,
    ) -> tuple[Tensor | None, ...]:
        state = None if ctx is None else kernels.empty_state(x, plan.rows)
        out = kernels.row_statistics(x, target, weight, prior, plan, with_entropy, unrounded, state)
        if ctx is not None:
            ctx.save_for_backward(x, target, weight, prior, state)
            ctx.plan = plan
            ctx.set_materialize_grads(False)
            if out.correct is not None:
                ctx.mark_non_differentiable(out.correct)
        return out

    @staticmethod
    def by_kernel(ctx: Any, *g: Tensor | None) -> Any:
        x, target, weight, prior, state = ctx.saved_tensors
        partials = g[:4]  # of nll, lse, entropy, prior; `correct` has none
        return kernels.row_statistics_backward(x, target, weight, prior, state, ctx.plan, *partials), *(None,) * 6

    @staticmethod
    def by_formula(ctx: Any, *g: Tensor | None) -> Any:
        x, target, weight, prior, _ = ctx.saved_tensors
        return by_formula.row_statistics(x, target, weight, prior, ctx.plan, *g[:4]), *(None,) * 6


# ---------------------------------------------------------------- cross-entropy


def cross_entropy(x: Tensor, target: Tensor, weight: Tensor | None, plan: RowPlan) -> Tensor:
    """The loss, reduced and rounded."""
    return _call(_CrossEntropy, *all_in_memory(x, target, weight), plan)


class _CrossEntropy(_KernelFunction):
    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Tensor, weight: Tensor | None, plan: RowPlan) -> Tensor:
        state = None if ctx is None else kernels.empty_state(x, plan.rows)
        loss, divisor = kernels.cross_entropy(x, target, weight, plan, state)
        if ctx is not None:
            ctx.save_for_backward(x, target, weight, state)
            ctx.plan, ctx.divisor = plan, divisor
        return loss

    @staticmethod
    def by_kernel(ctx: Any, g: Tensor) -> Any:
        x, target, weight, state = ctx.saved_tensors
        return kernels.cross_entropy_backward(x, target, weight, state, ctx.plan, ctx.divisor, g), None, None, None

    @staticmethod
    def by_formula(ctx: Any, g: Tensor) -> Any:
        x, target, weight, _ = ctx.saved_tensors
        return by_formula.cross_entropy(x, target, weight, ctx.plan, ctx.divisor, g), None, None, None


# ---------------------------------------------------------------- elementwise losses


def pointwise(
    x: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None, loss: reference.Pointwise,
    reduction: Reduction, divisor: float,
) -> Tensor:  # fmt: skip
    """The loss, reduced and rounded, a mean by `divisor`; of squared error `target` may need a gradient too."""
    args = (*all_in_memory(x, target, weight, pos_weight), loss, reduction, divisor)
    return _apply(_Pointwise, *args) if needs_grad(x, target) else _Pointwise.forward(None, *args)


class _Pointwise(_KernelFunction):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, target: Tensor, weight: Any, pos_weight: Tensor | None, functor: reference.Pointwise,
        reduction: Reduction, divisor: float,
    ) -> Tensor:  # fmt: skip
        loss, divisor = kernels.pointwise(functor.kernel or "", x, target, weight, pos_weight, reduction, divisor)
        if ctx is not None:
            ctx.save_for_backward(x, target, weight, pos_weight)
            ctx.functor, ctx.divisor = functor, divisor
        return loss

    @staticmethod
    def by_kernel(ctx: Any, g: Tensor) -> Any:
        x, target, weight, pos_weight = ctx.saved_tensors
        return _of_both(
            ctx, kernels.pointwise_backward(ctx.functor.kernel, x, target, weight, pos_weight, ctx.divisor, g)
        )

    @staticmethod
    def by_formula(ctx: Any, g: Tensor) -> Any:
        x, target, weight, pos_weight = ctx.saved_tensors
        return _of_both(ctx, by_formula.pointwise(ctx.functor, x, target, weight, pos_weight, ctx.divisor, g))


def _of_both(ctx: Any, dx: Tensor) -> Any:
    """The gradients over `x` and `target`: only squared error asks for the second, which is the negative."""
    d_target = -dx if ctx.needs_input_grad[1] else None
    return dx if ctx.needs_input_grad[0] else None, d_target, *(None,) * 5
