"""The fast path: plain CPU tensors straight to the compiled kernels.

Old-style `autograd.Function`s, which cost a third of the ones that `torch.func` needs. Only `x` is differentiated here
(for squared error also the target); a call that needs more takes the reference path. Under `create_graph`, and where
a transform batches the incoming gradient, backward returns the reference gradient, made of differentiable operations.
All tensors arrive contiguous and of one dtype; `rows` is a `_layout.Rows`.
"""
# mypy: allow-subclassing-any

from math import nan
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function

from lossless import _check, reference
from lossless._kernels import native
from lossless._layout import Rows
from lossless._reduce import Reduction
from lossless._torch import differentiable
from lossless._torch.modes import batched, in_memory, needs_grad, watched
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


def _rows_back(dx: Tensor, x: Tensor) -> Tensor:
    """(outer, inner, C) in the shape and dtype of `x`."""
    return dx.transpose(1, 2).reshape(x.shape).to(x.dtype)


def _differentiable(g: Tensor) -> bool:
    """Whether backward must be made of differentiable operations."""
    return torch.is_grad_enabled() or watched() or batched(g)


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
        getattr(native, cls.kernel)(x, *rows, out)
        if ctx is not None:
            ctx.save_for_backward(x)
            ctx.rows = rows
        return out

    @classmethod
    def backward(cls, ctx: Any, g: Tensor) -> Any:
        (x,), rows = ctx.saved_tensors, ctx.rows
        if _differentiable(g):
            return _rows_back(cls.formula(_rows_last(x, rows), _rows_last(g, rows)), x), None
        dx = _empty_like(x)
        getattr(native, cls.kernel_backward)(x, *rows, in_memory(g), dx)
        return dx, None


class _LogSoftmax(_Softmax):
    kernel, kernel_backward, formula = (
        "log_softmax",
        "log_softmax_backward",
        staticmethod(reference.log_softmax_backward),
    )


# ---------------------------------------------------------------- row statistics


class RowsCall(NamedTuple):
    """What a call over rows is, beside its tensors."""

    function: str
    rows: Rows
    shape: tuple[int, ...]  # of one number a row
    ignore_index: int | None  # of labels
    smoothing: float = 0.0
    reduction: Reduction = "none"


def row_statistics(
    x: Tensor, target: Tensor | None, prior: Tensor | None, call: RowsCall, only_lse: bool
) -> Statistics:
    """Rounded; without the entropy for `only_lse`."""
    return Statistics(*_call(_RowStatistics, x, target, prior, call, only_lse))


class _RowStatistics(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, target: Tensor | None, prior: Tensor | None, call: RowsCall, only_lse: bool
    ) -> tuple[Tensor | None, ...]:
        nll, lse, entropy, prior_cost = (
            x.new_empty(call.shape) if wanted else None
            for wanted in (target is not None, True, not only_lse, prior is not None)
        )
        correct = None if target is None else x.new_empty(call.shape, dtype=torch.bool)
        state = None if ctx is None else _state(call)
        bad = native.row_statistics(
            x, *call.rows, target, None, prior, call.ignore_index, nll, lse, entropy, prior_cost, correct, state
        )
        _raise_bad(bad, target, call)
        if ctx is not None:
            ctx.save_for_backward(x, target, prior, state)
            ctx.call = call
            ctx.set_materialize_grads(False)
            if correct is not None:
                ctx.mark_non_differentiable(correct)
        return nll, lse, entropy, prior_cost, correct

    @staticmethod
    def backward(ctx: Any, *g: Tensor | None) -> Any:
        x, target, prior, state = ctx.saved_tensors
        call, d = ctx.call, g[:4]  # of nll, lse, entropy, prior; `correct` has none
        if any(a is not None and _differentiable(a) for a in d):
            partials = (None if a is None else _of_rows(a, call) for a in d)
            dx = _row_gradient(x, call, _target_rows(target, call), prior, *partials)
        else:
            dx = _empty_like(x)
            d_rows = (None if a is None else in_memory(a) for a in d)
            native.row_statistics_backward(x, *call.rows, target, None, prior, call.ignore_index, state, *d_rows, dx)
        return dx, None, None, None, None


# ---------------------------------------------------------------- cross-entropy


def cross_entropy(x: Tensor, target: Tensor, weight: Tensor | None, call: RowsCall) -> Tensor:
    """The loss, reduced and rounded."""
    return _call(_CrossEntropy, x, target, weight, call)  # type: ignore[no-any-return]


class _CrossEntropy(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Tensor, weight: Tensor | None, call: RowsCall) -> Tensor:
        _, rows, shape, ignore_index, smoothing, reduction = call
        loss = x.new_empty(shape) if reduction == "none" else None
        state = None if ctx is None else _state(call)
        bad, total, divisor = native.row_loss(
            x, *rows, target, weight, ignore_index, 1.0 - smoothing, smoothing / rows.classes, loss, state
        )
        if bad >= 0:
            _raise_bad(bad, target, call)
        scale = 1.0
        if reduction == "mean":
            scale, total = (1.0 / divisor, total / divisor) if divisor else (nan, nan)
        if ctx is not None:
            ctx.save_for_backward(x, target, weight, state)
            ctx.call, ctx.scale = call, scale
        return torch.scalar_tensor(total, dtype=x.dtype) if loss is None else loss

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, target, weight, state = ctx.saved_tensors
        call, scale = ctx.call, ctx.scale
        _, rows, _, ignore_index, smoothing, _ = call
        if _differentiable(g):
            t = _target_rows(target, call)
            link = reference.cross_entropy(_rows_last(x, rows), t, weight, ignore_index, smoothing)
            g = reference.wide(_of_rows(g, call)) * scale
            d_prior = None if link.prior is None else g * link.d
            return _row_gradient(x, call, link.target, link.prior, g * link.a, None, None, d_prior), None, None, None
        dx = _empty_like(x)
        native.row_loss_backward(
            x, *rows, target, weight, ignore_index, 1.0 - smoothing, smoothing / rows.classes, state,
            in_memory(g), scale, dx,
        )  # fmt: skip
        return dx, None, None, None


# ---------------------------------------------------------------- elementwise losses


def pointwise(
    x: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None, kind: str, reduction: Reduction
) -> Tensor:
    """The loss, reduced and rounded; of squared error `target` may need a gradient too."""
    args = (x, target, weight, pos_weight, kind, reduction)
    return _Pointwise.apply(*args) if needs_grad(x, target) else _Pointwise.forward(None, *args)


class _Pointwise(Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, target: Tensor, weight: Any, pos_weight: Tensor | None, kind: str, reduction: Reduction
    ) -> Tensor:
        loss = _empty_like(x) if reduction == "none" else None
        total, scale = native.pointwise(kind, x, target, weight, pos_weight, loss), 1.0
        if reduction == "mean":
            by_weight = weight is not None and kind == "squared_error"
            divisor = weight.sum(dtype=torch.float64).item() if by_weight else x.numel()
            scale, total = (1.0 / divisor, total / divisor) if divisor else (nan, nan)
        if ctx is not None:
            ctx.save_for_backward(x, target, weight, pos_weight)
            ctx.kind, ctx.scale = kind, scale
        return torch.scalar_tensor(total, dtype=x.dtype) if loss is None else loss

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, target, weight, pos_weight = ctx.saved_tensors
        if _differentiable(g):
            slope = reference.POINTWISE[ctx.kind][1](x, target, weight, pos_weight)
            dx = (reference.wide(g) * ctx.scale * slope).to(x.dtype)
        else:
            dx = _empty_like(x)
            native.pointwise_backward(ctx.kind, x, target, weight, pos_weight, in_memory(g), ctx.scale, dx)
        d_target = -dx if ctx.needs_input_grad[1] else None
        return dx if ctx.needs_input_grad[0] else None, d_target, None, None, None, None


# ---------------------------------------------------------------- shared by the row functions


def _state(call: RowsCall) -> Tensor:
    """What backward needs to know of every row."""
    return torch.empty((native.STATE_ROWS, call.rows.count), dtype=torch.float64)


def _raise_bad(bad: int, target: Tensor | None, call: RowsCall) -> None:
    """The error for labels that are no class, if `bad` is the number of a row."""
    if bad >= 0 and target is not None:
        labels = target.reshape(call.shape).numpy()
        raise _check.target_index_error(call.function, labels, call.rows.classes, call.ignore_index)


def _row_gradient(
    x: Tensor, call: RowsCall, target: Tensor | None, prior: Tensor | None, *partials: Tensor | None
) -> Tensor:
    """The reference gradient over the rows of `x`, in the shape and dtype of `x`."""
    rows = _rows_last(x, call.rows)
    dx = differentiable.row_gradient(rows, target, prior, call.ignore_index, *partials)
    return _rows_back(dx, x)


def _of_rows(a: Tensor, call: RowsCall) -> Tensor:
    """One number a row, or one for all rows, as (outer, inner)."""
    shape = call.rows.outer, call.rows.inner
    return a.reshape(shape) if a.numel() == call.rows.count else a.expand(shape)


def _target_rows(target: Tensor | None, call: RowsCall) -> Tensor | None:
    """A target in the reference's order: labels (outer, inner), probabilities (outer, inner, C)."""
    if target is None:
        return None
    return _rows_last(target, call.rows) if target.is_floating_point() else _of_rows(target, call)
