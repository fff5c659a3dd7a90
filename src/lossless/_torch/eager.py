"""The fast path: plain CPU tensors straight to the compiled kernels.

Old-style `autograd.Function`s, which cost a third of the ones that `torch.func` needs. Only `x` is differentiated here
(for squared error also the target); a call that needs more takes the reference path. Under `create_graph`, and where
a transform batches the incoming gradient, backward returns the reference gradient, made of differentiable operations.
All tensors arrive contiguous and of one dtype; `rows` is a `_layout.Rows`.
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
from lossless._reduce import Reduction, count
from lossless._torch import differentiable
from lossless._torch.modes import batched, in_memory, kernels_serve, needs_grad
from lossless.reference import Statistics

HUGE = 4 << 20
"""Bytes from which a fresh output is worth huge pages: its page faults cost more than the kernel."""


def _empty_like(x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    if x.nbytes >= HUGE:
        native.advise_huge_pages(out)
    return out


def _call(cls: Any, x: Tensor, *args: Any) -> Any:
    """`cls` with autograd, or its forward alone where no gradient is needed."""
    return cls.apply(x, *args) if needs_grad(x) else cls.forward(None, x, *args)


def _rows_last(a: Tensor, rows: Rows) -> Tensor:
    """(outer, C, inner) as (outer, inner, C), the reference's order."""
    return a.reshape(rows.outer, rows.classes, rows.inner).transpose(1, 2)


def _reference(formula: Callable[..., Tensor], x: Tensor, rows: Rows, *args: Any, **kwargs: Any) -> Tensor:
    """A reference gradient over the rows of `x`, in the shape and dtype of `x`."""
    return formula(_rows_last(x, rows), *args, **kwargs).transpose(1, 2).reshape(x.shape).to(x.dtype)


def _differentiable(g: Tensor) -> bool:
    """Whether backward must be made of differentiable operations."""
    return torch.is_grad_enabled() or not kernels_serve(g) or batched(g)


# ---------------------------------------------------------------- transforms


def softmax(x: Tensor, rows: Rows) -> Tensor:
    return _call(_Softmax, x, rows)


def log_softmax(x: Tensor, rows: Rows) -> Tensor:
    return _call(_LogSoftmax, x, rows)


class _Softmax(Function):
    kernel, kernel_backward, formula = "softmax", "softmax_backward", staticmethod(reference.softmax_backward)

    @classmethod
    def forward(cls, ctx: Any, x: Tensor, rows: Rows) -> Tensor:
        out = _empty_like(x)
        getattr(native, cls.kernel)(x, rows.outer, rows.classes, rows.inner, out)
        if ctx is not None:
            ctx.save_for_backward(x)
            ctx.rows = rows
        return out

    @classmethod
    def backward(cls, ctx: Any, g: Tensor) -> Any:
        (x,), rows = ctx.saved_tensors, ctx.rows
        if _differentiable(g):
            return _reference(cls.formula, x, rows, _rows_last(g, rows)), None
        dx = _empty_like(x)
        getattr(native, cls.kernel_backward)(x, rows.outer, rows.classes, rows.inner, in_memory(g), dx)
        return dx, None


class _LogSoftmax(_Softmax):
    kernel, kernel_backward, formula = (
        "log_softmax",
        "log_softmax_backward",
        staticmethod(reference.log_softmax_backward),
    )


# ---------------------------------------------------------------- row statistics


def row_statistics(
    function: str, x: Tensor, target: Tensor | None, prior: Tensor | None, rows: Rows, ignore_index: int | None,
    shape: tuple[int, ...], only_lse: bool,
) -> Statistics:  # fmt: skip
    """Each of `shape`; without the entropy for `only_lse`."""
    return Statistics(*_call(_RowStatistics, x, target, prior, rows, ignore_index, function, shape, only_lse))


class _RowStatistics(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, target: Tensor | None, prior: Tensor | None, rows: Rows, ignore_index: int | None,
        function: str, shape: tuple[int, ...], only_lse: bool,
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        nll, lse, entropy, prior_cost = (
            x.new_empty(shape) if wanted else None
            for wanted in (target is not None, True, not only_lse, prior is not None)
        )
        correct = None if target is None else x.new_empty(shape, dtype=torch.bool)
        state = None if ctx is None else _state(rows)
        bad = native.row_statistics(
            x, rows.outer, rows.classes, rows.inner, target, None, prior, ignore_index,
            nll, lse, entropy, prior_cost, correct, state,
        )  # fmt: skip
        _raise_bad(bad, function, target, rows, ignore_index, shape)
        if ctx is not None:
            ctx.save_for_backward(x, target, prior, state)
            ctx.options = rows, ignore_index
            ctx.set_materialize_grads(False)
            if correct is not None:
                ctx.mark_non_differentiable(correct)
        return nll, lse, entropy, prior_cost, correct

    @staticmethod
    def backward(ctx: Any, *g: Tensor | None) -> Any:
        d = g[:4]  # nll, lse, entropy, prior; `correct` has none
        x, target, prior, state = ctx.saved_tensors
        rows, ignore_index = ctx.options
        if any(_differentiable(a) for a in d if a is not None):
            names = ("d_nll", "d_lse", "d_entropy", "d_prior")
            partials = {n: _of_rows(a, rows) for n, a in zip(names, d, strict=True) if a is not None}
            t = _target_rows(target, x, rows)
            dx = _reference(differentiable.row_gradient, x, rows, t, prior, ignore_index, **partials)
        else:
            dx = _empty_like(x)
            native.row_statistics_backward(
                x, rows.outer, rows.classes, rows.inner, target, None, prior, ignore_index, state,
                *(None if a is None else in_memory(a) for a in d), dx,
            )  # fmt: skip
        return dx, *(None,) * 7


# ---------------------------------------------------------------- cross-entropy


def cross_entropy(
    function: str, x: Tensor, target: Tensor, weight: Tensor | None, rows: Rows, ignore_index: int, smoothing: float,
    reduction: Reduction, shape: tuple[int, ...],
) -> Tensor:  # fmt: skip
    return _call(_CrossEntropy, x, target, weight, rows, ignore_index, smoothing, reduction, function, shape)


class _CrossEntropy(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, target: Tensor, weight: Tensor | None, rows: Rows, ignore_index: int, smoothing: float,
        reduction: Reduction, function: str, shape: tuple[int, ...],
    ) -> Tensor:  # fmt: skip
        loss = x.new_empty(shape) if reduction == "none" else None
        state = None if ctx is None else _state(rows)
        ignored = None if target.is_floating_point() else ignore_index
        prior_scale = smoothing / rows.classes if smoothing else 0.0
        bad, total, divisor = native.row_loss(
            x, rows.outer, rows.classes, rows.inner, target, weight, ignored, 1.0 - smoothing, prior_scale, loss, state
        )
        _raise_bad(bad, function, target, rows, ignored, shape)
        scale = 1.0 if reduction != "mean" else 1.0 / divisor if divisor else nan
        if ctx is not None:
            ctx.save_for_backward(x, target, weight, state)
            ctx.options = rows, ignore_index, smoothing, scale
            ctx.prior_scale = prior_scale
        if loss is not None:
            return loss
        return torch.scalar_tensor(total if reduction == "sum" else total / divisor if divisor else nan, dtype=x.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, target, weight, state = ctx.saved_tensors
        rows, ignore_index, smoothing, scale = ctx.options
        if _differentiable(g):
            x_rows = _rows_last(x, rows)
            link = reference.cross_entropy(x_rows, _target_rows(target, x, rows), weight, ignore_index, smoothing)
            g_rows = reference.wide(_of_rows(g, rows)) * scale
            dx = _reference(
                differentiable.row_gradient, x, rows, link.target, link.prior, ignore_index,
                d_nll=g_rows * link.a, d_prior=None if link.prior is None else g_rows * link.d,
            )  # fmt: skip
        else:
            dx = _empty_like(x)
            ignored = None if target.is_floating_point() else ignore_index
            native.row_loss_backward(
                x, rows.outer, rows.classes, rows.inner, target, weight, ignored, 1.0 - smoothing, ctx.prior_scale,
                state, in_memory(g), scale, dx,
            )  # fmt: skip
        return dx, *(None,) * 8


# ---------------------------------------------------------------- elementwise losses


def pointwise(
    kind: str, x: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None, reduction: Reduction
) -> Tensor:
    call = _Pointwise.apply if needs_grad(x, target) else lambda *args: _Pointwise.forward(None, *args)
    return call(x, target, weight, pos_weight, kind, reduction)


class _Pointwise(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, target: Tensor, weight: Any, pos_weight: Tensor | None, kind: str,
        reduction: Reduction,
    ) -> Tensor:  # fmt: skip
        value = _empty_like(x) if reduction == "none" else None
        total = native.pointwise(kind, x, target, weight, pos_weight, value)
        scale = 1.0
        if reduction == "mean":
            by_weight = weight is not None and kind == "squared_error"
            divisor = weight.sum(dtype=torch.float64).item() if by_weight else count(x.shape)
            scale = 1.0 / divisor if divisor else nan
            total = total / divisor if divisor else nan
        if ctx is not None:
            ctx.save_for_backward(x, target, weight, pos_weight)
            ctx.options = kind, scale
        return torch.scalar_tensor(total, dtype=x.dtype) if value is None else value

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, target, weight, pos_weight = ctx.saved_tensors
        kind, scale = ctx.options
        if _differentiable(g):
            slope = reference.POINTWISE[kind][1](x, target, weight, pos_weight)
            dx = (reference.wide(g) * scale * slope).to(x.dtype)
        else:
            dx = _empty_like(x)
            native.pointwise_backward(kind, x, target, weight, pos_weight, in_memory(g), scale, dx)
        d_target = -dx if ctx.needs_input_grad[1] else None  # only squared error comes here with such a target
        return dx if ctx.needs_input_grad[0] else None, d_target, None, None, None, None


# ---------------------------------------------------------------- shared by the row functions


def _state(rows: Rows) -> Tensor:
    """What backward needs to know of every row."""
    return torch.empty((native.STATE_ROWS, rows.count), dtype=torch.float64)


def _raise_bad(
    bad: int, function: str, target: Tensor | None, rows: Rows, ignore_index: int | None, shape: tuple[int, ...]
) -> None:
    if bad >= 0 and target is not None:
        raise _check.target_index_error(function, target.reshape(shape).numpy(), rows.classes, ignore_index)


def _of_rows(a: Tensor, rows: Rows) -> Tensor:
    """One number a row, or one for all rows, as (outer, inner)."""
    return a.reshape(rows.outer, rows.inner) if a.ndim else a.expand(rows.outer, rows.inner)


def _target_rows(target: Tensor | None, x: Tensor, rows: Rows) -> Tensor | None:
    """A target in the reference's order: labels (outer, inner), probabilities (outer, inner, C)."""
    if target is None:
        return None
    return _rows_last(target, rows) if target.is_floating_point() else _of_rows(target, rows)
