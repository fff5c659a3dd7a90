"""The fast path: plain CPU tensors straight to the compiled kernels.

Old-style `autograd.Function`s, which cost a third of the ones that `torch.func` needs. Only `x` is differentiated here
(for squared error also the target); a call that needs more takes the reference path. Under `create_graph`, and where
a transform batches the incoming gradient, backward returns the reference gradient, made of differentiable operations.
All tensors arrive contiguous and of one dtype.
"""
# mypy: allow-subclassing-any

from collections.abc import Callable
from math import nan
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from lossless import _check, reference
from lossless._kernels import native
from lossless._layout import Rows
from lossless._plan import RowPlan
from lossless._reduce import Reduction
from lossless._torch import differentiable
from lossless._torch.modes import batched, in_memory, needs_grad, watched
from lossless.reference import Statistics

HUGE = 1 << 20
"""Numbers from which a fresh output is worth huge pages: its page faults cost more than the kernel."""


def _empty_like(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    if x.numel() >= HUGE:
        native.advise_huge_pages(out)
    return out


def _call(cls: Any, x: Tensor, *args: Any) -> Any:
    """`cls` with autograd, or its forward alone where no gradient is needed."""
    return _apply(cls, x, *args) if needs_grad(x) else cls.forward(None, x, *args)


def _apply(cls: Any, *args: Any) -> Any:
    """`cls.apply` without its look for transforms (a third of its time): `kernels_serve` has looked."""
    return super(Function, cls).apply(*args)


def _scalar(total: float, x: Tensor) -> Tensor:
    """`total` rounded to x's dtype; infinite where it is too large, which `scalar_tensor` refuses to do."""
    try:
        return torch.scalar_tensor(total, dtype=x.dtype, device=x.device)
    except RuntimeError:
        return torch.scalar_tensor(total, dtype=torch.float64, device=x.device).to(x.dtype)


def _rows_last(a: Tensor, rows: Rows) -> Tensor:
    """(outer, C, inner) as (outer, inner, C), the reference's order."""
    return a.reshape(rows.outer, rows.classes, rows.inner).transpose(1, 2)


def _rows_back(dx: Tensor, x: Tensor) -> Tensor:
    """(outer, inner, C) in the shape and dtype of `x`."""
    return dx.transpose(1, 2).reshape(x.shape).to(x.dtype)


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
    return _call(_Softmax, x, plan.rows)


def log_softmax(x: Tensor, plan: RowPlan) -> Tensor:
    return _call(_LogSoftmax, x, plan.rows)


class _Softmax(_KernelFunction):
    name = "softmax"
    formula = staticmethod(differentiable.softmax_gradient)

    @classmethod
    def forward(cls, ctx: Any, x: Tensor, rows: Rows) -> Tensor:
        out = _empty_like(x)
        getattr(native, cls.name)(x, *rows, out)
        if ctx is not None:
            ctx.save_for_backward(x)
            ctx.rows = rows
        return out

    @classmethod
    def by_kernel(cls, ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        dx = _empty_like(x)
        getattr(native, cls.name + "_backward")(x, *ctx.rows, in_memory(g), dx)
        return dx, None

    @classmethod
    def by_formula(cls, ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return _rows_back(cls.formula(_rows_last(x, ctx.rows), _rows_last(g, ctx.rows)), x), None


class _LogSoftmax(_Softmax):
    name = "log_softmax"
    formula = staticmethod(differentiable.log_softmax_gradient)


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
    return Statistics(*_call(_RowStatistics, x, target, weight, prior, plan, not (only_lse or for_link), for_link))


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
        nll, lse, entropy, prior_cost = (
            x.new_empty(plan.shape, dtype=torch.float64 if unrounded else x.dtype) if wanted else None
            for wanted in (target is not None, True, with_entropy, prior is not None)
        )
        correct = None if target is None else x.new_empty(plan.shape, dtype=torch.bool)
        state = None if ctx is None else _state(x, plan)
        bad = native.row_statistics(
            x, *plan.rows, target, weight, prior, plan.ignore_index, nll, lse, entropy, prior_cost, correct, state
        )
        _raise_bad(bad, target, plan)
        if ctx is not None:
            ctx.save_for_backward(x, target, weight, prior, state)
            ctx.plan = plan
            ctx.set_materialize_grads(False)
            if correct is not None:
                ctx.mark_non_differentiable(correct)
        return nll, lse, entropy, prior_cost, correct

    @staticmethod
    def by_kernel(ctx: Any, *g: Tensor | None) -> Any:
        x, target, weight, prior, state = ctx.saved_tensors
        plan, dx = ctx.plan, _empty_like(x)
        d = (None if a is None else in_memory(a) for a in g[:4])  # of nll, lse, entropy, prior; `correct` has none
        native.row_statistics_backward(x, *plan.rows, target, weight, prior, plan.ignore_index, state, *d, dx)
        return dx, *(None,) * 6

    @staticmethod
    def by_formula(ctx: Any, *g: Tensor | None) -> Any:
        x, target, weight, prior, _ = ctx.saved_tensors
        plan = ctx.plan
        d_nll, d_lse, d_entropy, d_prior = (None if a is None else _of_rows(a, plan) for a in g[:4])
        t = _target_rows(target, plan)
        t = t if weight is None or t is None else reference.wide(t) * reference.wide(weight)
        return _row_gradient(x, plan, t, prior, d_nll, d_lse, d_entropy, d_prior), *(None,) * 6


# ---------------------------------------------------------------- cross-entropy


def cross_entropy(x: Tensor, target: Tensor, weight: Tensor | None, plan: RowPlan) -> Tensor:
    """The loss, reduced and rounded."""
    return _call(_CrossEntropy, x, target, weight, plan)


class _CrossEntropy(_KernelFunction):
    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Tensor, weight: Tensor | None, plan: RowPlan) -> Tensor:
        _, _, rows, shape, _, ignore_index, smoothing, reduction = plan[:8]
        loss = x.new_empty(shape) if reduction == "none" else None
        state = None if ctx is None else _state(x, plan)
        bad, total, divisor = native.row_loss(
            x, *rows, target, weight, ignore_index, 1.0 - smoothing, smoothing / rows.classes, loss, state
        )
        if bad >= 0:
            _raise_bad(bad, target, plan)
        divisor = 1.0 if reduction != "mean" else divisor or nan
        if ctx is not None:
            ctx.save_for_backward(x, target, weight, state)
            ctx.plan, ctx.divisor = plan, divisor
        return _scalar(total / divisor, x) if loss is None else loss

    @staticmethod
    def by_kernel(ctx: Any, g: Tensor) -> Any:
        x, target, weight, state = ctx.saved_tensors
        _, _, rows, _, _, ignore_index, smoothing, _ = ctx.plan[:8]
        dx = _empty_like(x)
        native.row_loss_backward(
            x, *rows, target, weight, ignore_index, 1.0 - smoothing, smoothing / rows.classes, state,
            in_memory(g), ctx.divisor, dx,
        )  # fmt: skip
        return dx, None, None, None

    @staticmethod
    def by_formula(ctx: Any, g: Tensor) -> Any:
        x, target, weight, _ = ctx.saved_tensors
        plan = ctx.plan
        link = reference.link(
            _target_rows(target, plan), plan.rows.classes, plan.soft, weight,
            ignore_index=plan.ignore_index, smoothing=plan.smoothing,
        )  # fmt: skip
        d = reference.wide(_of_rows(g, plan)) / ctx.divisor
        d_nll = None if link.a is None else d * link.a
        d_prior = None if link.prior is None else d * link.d
        dx = _row_gradient(x, plan, link.weighted_target(), link.prior, d_nll, None, None, d_prior)
        return dx, None, None, None


# ---------------------------------------------------------------- elementwise losses


def pointwise(
    x: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None, loss: reference.Pointwise,
    reduction: Reduction, divisor: float,
) -> Tensor:  # fmt: skip
    """The loss, reduced and rounded, a mean by `divisor`; of squared error `target` may need a gradient too."""
    args = (x, target, weight, pos_weight, loss, reduction, divisor)
    return _apply(_Pointwise, *args) if needs_grad(x, target) else _Pointwise.forward(None, *args)


class _Pointwise(_KernelFunction):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, target: Tensor, weight: Any, pos_weight: Tensor | None, functor: reference.Pointwise,
        reduction: Reduction, divisor: float,
    ) -> Tensor:  # fmt: skip
        loss = _empty_like(x) if reduction == "none" else None
        total = native.pointwise(functor.kernel, x, target, weight, pos_weight, loss)
        divisor = 1.0 if reduction != "mean" else divisor or nan
        if ctx is not None:
            ctx.save_for_backward(x, target, weight, pos_weight)
            ctx.functor, ctx.divisor = functor, divisor
        return _scalar(total / divisor, x) if loss is None else loss

    @staticmethod
    def by_kernel(ctx: Any, g: Tensor) -> Any:
        x, target, weight, pos_weight = ctx.saved_tensors
        dx = _empty_like(x)
        native.pointwise_backward(ctx.functor.kernel, x, target, weight, pos_weight, in_memory(g), ctx.divisor, dx)
        return _of_both(ctx, dx)

    @staticmethod
    def by_formula(ctx: Any, g: Tensor) -> Any:
        x, target, weight, pos_weight = ctx.saved_tensors
        slope = reference.weighted(ctx.functor.slope(x, target, pos_weight), weight, None, None)
        return _of_both(ctx, (reference.wide(g) / ctx.divisor * slope).to(x.dtype))


def _of_both(ctx: Any, dx: Tensor) -> Any:
    """The gradients over `x` and `target`: only squared error asks for the second, which is the negative."""
    d_target = -dx if ctx.needs_input_grad[1] else None
    return dx if ctx.needs_input_grad[0] else None, d_target, *(None,) * 5


# ---------------------------------------------------------------- shared by the row functions


def _state(x: Tensor, plan: RowPlan) -> Tensor:
    """What backward needs to know of every row."""
    return x.new_empty((native.STATE_ROWS, plan.rows.number), dtype=torch.float64)


def _raise_bad(bad: int, target: Tensor | None, plan: RowPlan) -> None:
    """The error for labels that are no class, if `bad` is the number of a row."""
    if bad >= 0 and target is not None:
        labels = target.reshape(plan.shape).numpy()
        raise _check.target_index_error(plan.function, labels, plan.rows.classes, plan.ignore_index)


def _row_gradient(
    x: Tensor, plan: RowPlan, target: Tensor | None, prior: Tensor | None, *partials: Tensor | None
) -> Tensor:
    """The reference gradient over the rows of `x`, in the shape and dtype of `x`."""
    rows = _rows_last(x, plan.rows)
    dx = differentiable.row_gradient(rows, target, prior, plan.ignore_index, 1.0, *partials)
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
