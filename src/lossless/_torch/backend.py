"""The verbs of `lossless._dispatch.Backend` on PyTorch tensors."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lossless import _check, reference
from lossless._layout import to_rows, without_dim
from lossless._reduce import Reduction, reduce_rows
from lossless._torch import differentiable, eager
from lossless._torch.modes import check_supported, in_memory, kernels_serve, needs_grad, values_known, watched
from lossless.reference import Statistics

NAMES = {
    **{torch.float32: "float32", torch.float64: "float64", torch.float16: "float16", torch.bfloat16: "bfloat16"},
    **{torch.int64: "int64", torch.int32: "int32", torch.int16: "int16", torch.int8: "int8", torch.uint8: "uint8"},
}
HALVES = (torch.float16, torch.bfloat16)

# ---------------------------------------------------------------- tensors


def dtype_name(a: Tensor) -> str:
    return NAMES.get(a.dtype) or str(a.dtype).removeprefix("torch.")


def to_dtype(a: Tensor, dtype: torch.dtype) -> Tensor:
    return a.to(dtype)


def for_loss(a: Tensor) -> Tensor:
    """Float32 under autocast, as in PyTorch."""
    return a.float() if a.dtype in HALVES and torch.is_autocast_enabled(a.device.type) else a


def permute(x: Tensor, order: tuple[int, ...]) -> Tensor:
    return x.permute(order)


def _promote(x: Tensor, *others: Tensor | None) -> torch.dtype:
    """The dtype that holds x and the floating tensors among the others."""
    dtype = x.dtype
    for t in others:
        if t is not None and t.dtype is not dtype and t.is_floating_point():
            dtype = torch.promote_types(dtype, t.dtype)
    return dtype


def _accumulated(a: Tensor, x: Tensor) -> Tensor:
    """Class weights in the kernels' accumulation dtype."""
    return in_memory(a.to(torch.float64 if x.dtype is torch.float64 else torch.float32))


def _pair(x: Tensor, target: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Logits with int64 labels, or with probabilities, both in the dtype that holds them and the weights."""
    if target.is_floating_point():
        dtype = _promote(x, target, weight)
        return x.to(dtype), target.to(dtype)
    if target.dtype is torch.uint64:  # what only uint64 can hold stays out of range instead of wrapping to a negative
        target = target.to(torch.int64)
        return x, torch.where(target < 0, torch.iinfo(torch.int64).max, target)
    return x, target if target.dtype is torch.int64 else target.to(torch.int64)


def _classes_last(x: Tensor, dim: int) -> Tensor:
    return x.movedim(dim, -1) if x.ndim else x.reshape(1)


def _target_last(function: str, target: Tensor, shape: Sequence[int], dim: int, ignore_index: int | None) -> Tensor:
    """Labels, checked where numbers may be looked at, or probabilities with the classes last."""
    if target.is_floating_point():
        return _classes_last(target, dim)
    if values_known(target):
        bad = (target < 0) | (target >= shape[dim])
        if ignore_index is not None:
            bad &= target != ignore_index
        if bad.any():
            raise _check.target_index_error(function, target.cpu().numpy(), shape[dim], ignore_index)
    return target


# ---------------------------------------------------------------- transforms


def softmax(x: Tensor, dim: int, temperature: float) -> Tensor:
    return _transform("softmax", eager.softmax, differentiable.softmax, x, dim, temperature)


def log_softmax(x: Tensor, dim: int, temperature: float) -> Tensor:
    return _transform("log_softmax", eager.log_softmax, differentiable.log_softmax, x, dim, temperature)


def _transform(
    function: str,
    kernel: Callable[..., Tensor],
    formula: Callable[..., Tensor],
    x: Tensor,
    dim: int,
    temperature: float,
) -> Tensor:
    if temperature == 1.0 and kernels_serve(x):
        return kernel(in_memory(x), to_rows(x.shape, dim))
    check_supported(function, input=x)
    return formula(_classes_last(x, dim), temperature).movedim(-1, dim).reshape(x.shape)


# ---------------------------------------------------------------- statistics and losses


def row_statistics(
    function: str, x: Tensor, target: Tensor | None, prior: Tensor | None, dim: int, ignore_index: int | None,
    only_lse: bool,
) -> Statistics:  # fmt: skip
    if target is not None:
        x, target = _pair(x, target)
    if kernels_serve(x, target, prior) and not needs_grad(target, prior):
        target = None if target is None else in_memory(target)
        prior = None if prior is None else _accumulated(prior, x)
        call = eager.RowsCall(function, to_rows(x.shape, dim), without_dim(x.shape, dim), ignore_index)
        return eager.row_statistics(in_memory(x), target, prior, call, only_lse)
    check_supported(function, input=x, target=target, prior=prior)
    if target is not None:
        target = _target_last(function, target, x.shape, dim, ignore_index)
    s = differentiable.row_statistics(_classes_last(x, dim), target, prior, ignore_index)
    return Statistics(*(a if a is None or a.dtype is torch.bool else a.to(x.dtype) for a in s))


def cross_entropy(
    function: str, x: Tensor, target: Tensor, weight: Tensor | None, dim: int, ignore_index: int, smoothing: float,
    reduction: Reduction,
) -> Tensor:  # fmt: skip
    x, target = _pair(x, target, weight)
    if kernels_serve(x, target, weight) and not needs_grad(target, weight):
        ignored = None if target.is_floating_point() else ignore_index
        call = eager.RowsCall(function, to_rows(x.shape, dim), without_dim(x.shape, dim), ignored, smoothing, reduction)
        weight = None if weight is None else _accumulated(weight, x)
        return eager.cross_entropy(in_memory(x), in_memory(target), weight, call)
    check_supported(function, input=x, target=target, weight=weight)
    target = _target_last(function, target, x.shape, dim, ignore_index)
    x_rows = _classes_last(x, dim)
    link = reference.cross_entropy(x_rows, target, weight, ignore_index, smoothing)
    loss = link.loss(differentiable.row_statistics(x_rows, link.target, link.prior, ignore_index))
    return reduce_rows(loss, link.divisor, reduction).to(x.dtype)


def nll(
    function: str, x: Tensor, target: Tensor, weight: Tensor | None, dim: int, ignore_index: int, reduction: Reduction
) -> Tensor:
    """Outside of transforms PyTorch's own gather, whose gradients are exact; its sums are taken here, in float64."""
    _, target = _pair(x, target)
    check_supported(function, input=x, target=target, weight=weight)
    if watched() or x.is_meta:
        loss, divisor = reference.nll(_classes_last(x, dim), target, weight, ignore_index)
        return reduce_rows(loss, divisor, reduction).to(x.dtype)
    weight = None if weight is None else weight.to(x.dtype)
    try:
        loss = functional.nll_loss(x, target, weight, ignore_index=ignore_index, reduction="none") + 0.0  # no -0.0
    except IndexError:
        raise _check.target_index_error(function, target.cpu().numpy(), x.shape[dim], ignore_index) from None
    if reduction == "none":
        return loss
    total = loss.sum(dtype=torch.float64)
    if reduction == "mean":
        kept = target != ignore_index
        w_y = kept if weight is None else torch.where(kept, weight[torch.where(kept, target, 0)], 0.0)
        total = total / w_y.sum(dtype=torch.float64)
    return total.to(x.dtype)


def pointwise(
    function: str, kind: str, x: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None,
    reduction: Reduction,
) -> Tensor:  # fmt: skip
    dtype = _promote(x, target)
    differentiates = (weight, pos_weight) if kind == "squared_error" else (target, weight, pos_weight)
    if kernels_serve(x, target, weight, pos_weight) and not needs_grad(*differentiates):
        inner = _promote(x, target, weight, pos_weight) if target.is_floating_point() else torch.float64
        shape = x.shape if target.shape == x.shape else torch.broadcast_shapes(x.shape, target.shape)
        x, target = _as(x, inner, shape), _as(target, inner, shape)
        weight = None if weight is None else _as(weight, inner, shape)
        pos_weight = None if pos_weight is None else _as(pos_weight, inner, shape)
        loss = eager.pointwise(x, target, weight, pos_weight, kind, reduction)
        return loss if inner is dtype else loss.to(dtype)
    check_supported(function, input=x, target=target, weight=weight, pos_weight=pos_weight)
    loss = reference.POINTWISE[kind][0](x, target, weight, pos_weight)
    weights = reference.wide(weight) if kind == "squared_error" and weight is not None else None
    return reduce_rows(loss, weights, reduction).to(dtype)


def _as(a: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """In contiguous memory of this dtype and shape."""
    a = a if a.dtype is dtype else a.to(dtype)
    return in_memory(a if a.shape == shape else a.expand(shape))


def root_mean_square(function: str, x: Tensor, target: Tensor, dims: tuple[int, ...], reduction: Reduction) -> Tensor:
    check_supported(function, input=x, target=target)
    root = reference.root_mean_square(reference.wide(x) - reference.wide(target), dims)
    return reduce_rows(root, None, reduction).to(_promote(x, target))


def entropy(function: str, p: Tensor, dim: int, kind: str, normalize: bool, unit: float) -> Tensor:
    if kind == "logits" or (kind == "log_probs" and normalize):
        x = p if unit == 1.0 else reference.wide(p)  # one rounding, after the division
        return (row_statistics(function, x, None, None, dim, None, False).entropy / unit).to(p.dtype)
    check_supported(function, p=p)
    return (reference.entropy(_classes_last(p, dim), kind, normalize) / unit).to(p.dtype)


def extremes(a: Tensor) -> tuple[float, float]:
    return (a.min().item(), a.max().item()) if a.numel() and values_known(a) else (0.0, 0.0)
