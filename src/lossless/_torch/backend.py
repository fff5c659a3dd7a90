"""The verbs of `lossless._dispatch.Backend` on PyTorch tensors."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lossless import _check, reference
from lossless._layout import to_rows, without_dim
from lossless._reduce import Reduction, reduce_rows
from lossless._torch import differentiable, eager
from lossless._torch.modes import check_supported, in_memory, kernels_serve, needs_grad, values_known
from lossless.reference import Statistics

NAMES = {
    **{torch.float32: "float32", torch.float64: "float64", torch.float16: "float16", torch.bfloat16: "bfloat16"},
    **{torch.int64: "int64", torch.int32: "int32", torch.int16: "int16", torch.int8: "int8", torch.uint8: "uint8"},
}

# ---------------------------------------------------------------- arrays in and out


def to_array(function: str, name: str, value: Tensor) -> Tensor:
    """The tensor itself, if it is of a kind that can be computed with."""
    check_supported(function, name, value)
    return value


def dtype_name(a: Tensor) -> str:
    return NAMES.get(a.dtype) or str(a.dtype).removeprefix("torch.")


def to_dtype(a: Tensor, dtype: torch.dtype) -> Tensor:
    return a.to(dtype)


def for_loss(a: Tensor) -> Tensor:
    """The input of a loss: float32 under autocast, as in PyTorch."""
    if a.dtype in (torch.float16, torch.bfloat16) and torch.is_autocast_enabled(a.device.type):
        return a.float()
    return a


def permute(x: Tensor, order: tuple[int, ...]) -> Tensor:
    return x.permute(order)


def _promote(*tensors: Tensor | None) -> torch.dtype:
    """The dtype that holds the floating tensors among these."""
    dtypes = [t.dtype for t in tensors if t is not None and t.dtype.is_floating_point]
    dtype = dtypes[0]
    for other in dtypes[1:]:
        dtype = torch.promote_types(dtype, other)
    return dtype


def _accumulated(a: Tensor | None, x: Tensor) -> Tensor | None:
    """Class weights in the kernels' accumulation dtype."""
    return None if a is None else in_memory(a.to(torch.float64 if x.dtype == torch.float64 else torch.float32))


def _to_labels(a: Tensor) -> Tensor:
    """Labels as int64; what only uint64 can hold stays out of range instead of wrapping to a negative."""
    if a.dtype == torch.uint64:
        a = a.to(torch.int64)
        return torch.where(a < 0, torch.iinfo(torch.int64).max, a)
    return a.to(torch.int64)


def _check_range(function: str, labels: Tensor, classes: int, ignore_index: int | None) -> None:
    """Every label is a class or ignored, where numbers may be looked at."""
    if values_known(labels):
        bad = (labels < 0) | (labels >= classes)
        if ignore_index is not None:
            bad &= labels != ignore_index
        if bad.any():
            raise _check.target_index_error(function, labels.cpu().numpy(), classes, ignore_index)


def _target_last(function: str, target: Tensor, shape: Sequence[int], dim: int, ignore_index: int | None) -> Tensor:
    """Checked labels, or probabilities with the classes last."""
    if target.is_floating_point():
        return _classes_last(target, dim)
    _check_range(function, target, shape[dim], ignore_index)
    return target


def _classes_last(x: Tensor, dim: int) -> Tensor:
    return x.movedim(dim, -1) if x.ndim else x.reshape(1)


# ---------------------------------------------------------------- transforms


def softmax(x: Tensor, dim: int, temperature: float) -> Tensor:
    return _transform(eager.softmax, differentiable.softmax, x, dim, temperature)


def log_softmax(x: Tensor, dim: int, temperature: float) -> Tensor:
    return _transform(eager.log_softmax, differentiable.log_softmax, x, dim, temperature)


def _transform(
    kernel: Callable[..., Tensor], formula: Callable[..., Tensor], x: Tensor, dim: int, temperature: float
) -> Tensor:
    if temperature == 1.0 and kernels_serve(x):
        return kernel(in_memory(x), to_rows(x.shape, dim))
    return formula(_classes_last(x, dim), temperature).movedim(-1, dim).reshape(x.shape)


# ---------------------------------------------------------------- statistics and losses


def row_statistics(
    function: str, x: Tensor, target: Tensor | None, prior: Tensor | None, dim: int, ignore_index: int | None,
    only_lse: bool,
) -> Statistics:  # fmt: skip
    labels = target is not None and not target.is_floating_point()
    if target is not None:
        x, target = (x, _to_labels(target)) if labels else _same_dtype(x, target)
    if kernels_serve(x, target, prior) and not needs_grad(target, prior):
        rows, shape = to_rows(x.shape, dim), without_dim(x.shape, dim)
        memory = None if target is None else in_memory(target)
        prior = _accumulated(prior, x)
        return eager.row_statistics(function, in_memory(x), memory, prior, rows, ignore_index, shape, only_lse)
    if target is not None:
        target = _target_last(function, target, x.shape, dim, ignore_index)
    s = differentiable.row_statistics(_classes_last(x, dim), target, prior, ignore_index)
    return Statistics(*(a if a is None or a.dtype == torch.bool else a.to(x.dtype) for a in s))


def cross_entropy(
    function: str, x: Tensor, target: Tensor, weight: Tensor | None, dim: int, ignore_index: int, smoothing: float,
    reduction: Reduction,
) -> Tensor:  # fmt: skip
    labels = not target.is_floating_point()
    x, target = (x, _to_labels(target)) if labels else _same_dtype(x, target, weight)
    if kernels_serve(x, target, weight) and not needs_grad(target, weight):
        return eager.cross_entropy(
            function, in_memory(x), in_memory(target), _accumulated(weight, x), to_rows(x.shape, dim),
            ignore_index, smoothing, reduction, without_dim(x.shape, dim),
        )  # fmt: skip
    x_rows, target = _classes_last(x, dim), _target_last(function, target, x.shape, dim, ignore_index)
    link = reference.cross_entropy(x_rows, target, weight, ignore_index, smoothing)
    loss = link.loss(differentiable.row_statistics(x_rows, link.target, link.prior, ignore_index if labels else None))
    return reduce_rows(loss, link.divisor, reduction).to(x.dtype)


def nll(
    function: str, x: Tensor, target: Tensor, weight: Tensor | None, dim: int, ignore_index: int, reduction: Reduction
) -> Tensor:
    target = _to_labels(target)
    _check_range(function, target, x.shape[dim], ignore_index)
    loss, divisor = reference.nll(_classes_last(x, dim), target, weight, ignore_index)
    return reduce_rows(loss, divisor, reduction).to(x.dtype)


def pointwise(
    kind: str, x: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None, reduction: Reduction
) -> Tensor:
    dtype = _promote(x, target)
    differentiates = (weight, pos_weight) if kind == "squared_error" else (target, weight, pos_weight)
    if kernels_serve(x, target, weight, pos_weight) and not needs_grad(*differentiates):
        inner = _promote(x, target, weight, pos_weight) if target.is_floating_point() else torch.float64
        shape = torch.broadcast_shapes(x.shape, target.shape)
        x, target, weight, pos_weight = (
            None if a is None else in_memory(a.to(inner).expand(shape)) for a in (x, target, weight, pos_weight)
        )
        return eager.pointwise(kind, x, target, weight, pos_weight, reduction).to(dtype)
    loss = reference.POINTWISE[kind][0](x, target, weight, pos_weight)
    weights = reference.wide(weight) if kind == "squared_error" and weight is not None else None
    return reduce_rows(loss, weights, reduction).to(dtype)


def root_mean_square(x: Tensor, target: Tensor, dims: tuple[int, ...], reduction: Reduction) -> Tensor:
    root = reference.root_mean_square(reference.wide(x) - reference.wide(target), dims)
    return reduce_rows(root, None, reduction).to(_promote(x, target))


def entropy(p: Tensor, dim: int, kind: str, normalize: bool, unit: float) -> Tensor:
    if kind == "logits" or (kind == "log_probs" and normalize):
        x = p if unit == 1.0 else reference.wide(p)  # one rounding, after the division
        return (row_statistics("entropy", x, None, None, dim, None, False).entropy / unit).to(p.dtype)
    return (reference.entropy(_classes_last(p, dim), kind, normalize) / unit).to(p.dtype)


def extremes(p: Tensor) -> tuple[float, float]:
    """The smallest and the largest number; (0, 0) if there are none, or they may not be looked at."""
    return (p.min().item(), p.max().item()) if p.numel() and values_known(p) else (0.0, 0.0)


def _same_dtype(x: Tensor, target: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Logits and probabilities in the dtype that holds both, and the weights."""
    if target.dtype == x.dtype and (weight is None or weight.dtype == x.dtype):
        return x, target
    dtype = _promote(x, target, weight)
    return x.to(dtype), target.to(dtype)
