"""The verbs of `lossless._dispatch.Backend` on NumPy arrays."""

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossless import _check, reference
from lossless._kernels import native
from lossless._layout import to_rows, without_dim
from lossless._reduce import Reduction, reduce_rows
from lossless.errors import UnsupportedArrayError
from lossless.reference import Statistics

Array = NDArray[Any]
silent = np.errstate(all="ignore")  # as a decorator: infinities and NaN are results here, not accidents

# ---------------------------------------------------------------- arrays in and out


def to_array(function: str, name: str, value: Any) -> Array:
    """Any array-like of numbers as an ndarray in native byte order; never a copy of a fit array."""
    if isinstance(value, np.ma.MaskedArray):
        raise UnsupportedArrayError(
            f"{function}: {name} is a masked array, whose mask would be lost: fill it, and mark labels to leave out "
            "with ignore_index"
        )
    if not isinstance(value, np.ndarray | np.generic) and hasattr(value, "__dlpack__"):
        raise UnsupportedArrayError(
            f"{function}: {name} is a {type(value).__module__}.{type(value).__qualname__}; "
            "supported are NumPy arrays, lists of numbers and torch tensors"
        )
    array = np.asarray(value)
    if array.dtype.hasobject:
        raise UnsupportedArrayError(
            f"{function}: {name} is an array of Python objects (dtype {array.dtype}), expected numbers: "
            f"build it with a numeric dtype, e.g. np.array({name}, dtype=np.float32)"
        )
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def dtype_name(a: Array) -> str:
    return a.dtype.name


def to_dtype(a: Array, dtype: Any) -> Array:
    return a.astype(dtype, copy=False)


def for_loss(a: Array) -> Array:
    """The input of a loss; NumPy has no autocast."""
    return a


def _promote(*arrays: Array | None) -> Any:
    """The dtype that holds the floating arrays among these."""
    return np.result_type(*(a.dtype for a in arrays if a is not None and a.dtype.name in _check.FLOATS))


def _memory(a: Array | None) -> Array | None:
    """C-contiguous memory as the kernels take it: bfloat16, which NumPy does not know, as its 16 bits."""
    if a is None:
        return None
    a = np.asarray(a, order="C")
    return a.view(np.uint16) if a.dtype.name == "bfloat16" else a


def _accumulated(a: Array | None, dtype: Any) -> Array | None:
    """Class weights in the kernels' accumulation dtype."""
    if a is None:
        return None
    return np.asarray(a, dtype=np.float64 if dtype == np.float64 else np.float32, order="C")


def _to_labels(a: Array) -> Array:
    """Labels as int64; what only uint64 can hold stays out of range instead of wrapping to a negative."""
    if a.dtype == np.uint64:
        a = np.minimum(a, np.uint64(2**63 - 1))
    return a.astype(np.int64, order="C", copy=False)


# ---------------------------------------------------------------- transforms


def softmax(x: Array, dim: int, temperature: float) -> Any:
    return _transform("softmax", reference.softmax, x, dim, temperature)


def log_softmax(x: Array, dim: int, temperature: float) -> Any:
    return _transform("log_softmax", reference.log_softmax, x, dim, temperature)


@silent
def _transform(name: str, formula: Callable[..., Array], x: Array, dim: int, temperature: float) -> Any:
    if native is not None and temperature == 1.0:
        rows, out = to_rows(x.shape, dim), np.empty(x.shape, x.dtype)
        getattr(native, name)(_memory(x), rows.outer, rows.classes, rows.inner, _memory(out))
        return out[()]
    out = formula(_classes_last(x, dim), temperature).astype(x.dtype)
    return np.ascontiguousarray(np.moveaxis(out, -1, dim)).reshape(x.shape)[()]


def _classes_last(x: Array, dim: int) -> Array:
    return np.moveaxis(np.atleast_1d(x), dim, -1)


def permute(x: Array, order: tuple[int, ...]) -> Array:
    return np.transpose(x, order)


# ---------------------------------------------------------------- statistics and losses


@silent
def row_statistics(
    function: str, x: Array, target: Array | None, prior: Array | None, dim: int, ignore_index: int | None,
    only_lse: bool,
) -> Statistics:  # fmt: skip
    if target is not None:
        x, target = _pair(x, target)
    if native is None:
        if target is not None:
            target = _target_last(function, target, x.shape, dim, ignore_index)
        s = reference.row_statistics(_classes_last(x, dim), target, prior, ignore_index)
        return Statistics(*(_rounded(a, x.dtype) for a in s))
    shape, rows = without_dim(x.shape, dim), to_rows(x.shape, dim)
    nll, lse, entropy, prior_cost = (
        np.empty(shape, x.dtype) if wanted else None
        for wanted in (target is not None, True, not only_lse, prior is not None)
    )
    correct = None if target is None else np.empty(shape, np.bool_)
    bad = native.row_statistics(
        _memory(x), rows.outer, rows.classes, rows.inner, _memory(target), None, _accumulated(prior, x.dtype),
        ignore_index, _memory(nll), _memory(lse), _memory(entropy), _memory(prior_cost), correct, None,
    )  # fmt: skip
    _raise_bad(bad, function, target, rows.classes, ignore_index)
    return Statistics(*(None if a is None else a[()] for a in (nll, lse, entropy, prior_cost, correct)))


@silent
def cross_entropy(
    function: str, x: Array, target: Array, weight: Array | None, dim: int, ignore_index: int, smoothing: float,
    reduction: Reduction,
) -> Any:  # fmt: skip
    x, target = _pair(x, target, weight)
    if native is None:
        target = _target_last(function, target, x.shape, dim, ignore_index)
        x_rows = _classes_last(x, dim)
        link = reference.cross_entropy(x_rows, target, weight, ignore_index, smoothing)
        loss = link.loss(reference.row_statistics(x_rows, link.target, link.prior, ignore_index))
        return _rounded(reduce_rows(loss, link.divisor, reduction), x.dtype)
    rows = to_rows(x.shape, dim)
    loss = np.empty(without_dim(x.shape, dim), x.dtype) if reduction == "none" else None
    ignored = ignore_index if target.ndim < x.ndim else None
    bad, total, divisor = native.row_loss(
        _memory(x), rows.outer, rows.classes, rows.inner, _memory(target), _accumulated(weight, x.dtype),
        ignored, 1.0 - smoothing, smoothing / rows.classes, _memory(loss), None,
    )  # fmt: skip
    _raise_bad(bad, function, target, rows.classes, ignored)
    return _finish(loss, total, divisor, reduction, x.dtype)


@silent
def nll(
    function: str, x: Array, target: Array, weight: Array | None, dim: int, ignore_index: int, reduction: Reduction
) -> Any:
    target = _target_last(function, _to_labels(target), x.shape, dim, ignore_index)
    loss, divisor = reference.nll(_classes_last(x, dim), target, weight, ignore_index)
    return _rounded(reduce_rows(loss, divisor, reduction), x.dtype)


@silent
def pointwise(
    function: str, kind: str, x: Array, target: Array, weight: Array | None, pos_weight: Array | None,
    reduction: Reduction,
) -> Any:  # fmt: skip
    """`x` and `target` broadcast to the shape of the result, weights to that of `x`."""
    dtype = _promote(x, target)
    divisor = weight if kind == "squared_error" else None  # by which a mean is weighted
    if native is None:
        loss = reference.POINTWISE[kind][0](x, target, weight, pos_weight)
        return _rounded(reduce_rows(loss, None if divisor is None else reference.wide(divisor), reduction), dtype)
    inner = _promote(x, target, weight, pos_weight) if target.dtype.name in _check.FLOATS else np.dtype("float64")
    shape = np.broadcast_shapes(x.shape, target.shape)
    arrays = (
        None if a is None else _memory(np.broadcast_to(a.astype(inner, copy=False), shape))
        for a in (x, target, weight, pos_weight)
    )
    loss = np.empty(shape, inner) if reduction == "none" else None
    total = native.pointwise(kind, *arrays, _memory(loss))
    count = prod(shape) if divisor is None else float(divisor.sum(dtype=np.float64))
    return _finish(None if loss is None else loss.astype(dtype, copy=False), total, count, reduction, dtype)


@silent
def root_mean_square(function: str, x: Array, target: Array, dims: tuple[int, ...], reduction: Reduction) -> Any:
    root = reference.root_mean_square(reference.wide(x) - reference.wide(target), dims)
    return _rounded(reduce_rows(root, None, reduction), _promote(x, target))


@silent
def entropy(function: str, p: Array, dim: int, kind: str, normalize: bool, unit: float) -> Any:
    if kind == "logits" or (kind == "log_probs" and normalize):
        x = p if unit == 1.0 else p.astype(np.float64)  # one rounding, after the division
        h = np.asarray(row_statistics(function, x, None, None, dim, None, False).entropy)
    else:
        h = reference.entropy(_classes_last(p, dim), kind, normalize)
    return _rounded(h / unit, p.dtype)


def extremes(a: Array) -> tuple[float, float]:
    return (float(a.min()), float(a.max())) if a.size else (0.0, 0.0)


# ---------------------------------------------------------------- the ends of every loss


def _pair(x: Array, target: Array, weight: Array | None = None) -> tuple[Array, Array]:
    """Logits with int64 labels, or with probabilities, both in the dtype that holds them and the weights."""
    if target.ndim < x.ndim:
        return x, _to_labels(target)
    dtype = _promote(x, target, weight)
    return x.astype(dtype, copy=False), target.astype(dtype, copy=False)


def _target_last(function: str, target: Array, shape: tuple[int, ...], dim: int, ignore_index: int | None) -> Array:
    """Checked labels, or probabilities with the classes last."""
    if target.ndim == len(shape):
        return _classes_last(target, dim)
    bad = (target < 0) | (target >= shape[dim])
    if ignore_index is not None:
        bad &= target != ignore_index
    _raise_bad(0 if np.any(bad) else -1, function, target, shape[dim], ignore_index)
    return target


def _raise_bad(bad: int, function: str, labels: Array | None, classes: int, ignore_index: int | None) -> None:
    """The error for labels that are no class, if `bad` is the number of a row."""
    if bad >= 0 and labels is not None:
        raise _check.target_index_error(function, labels, classes, ignore_index)


def _rounded(a: Array | None, dtype: Any) -> Any:
    """The one rounding at the end of the reference path; flags keep their dtype, 0-d arrays leave as scalars."""
    if a is None:
        return None
    a = np.asarray(a)
    return (a if a.dtype == np.bool_ else a.astype(dtype))[()]


def _finish(loss: Array | None, total: float, divisor: float, reduction: Reduction, dtype: Any) -> Any:
    """The result from a kernel's rows, or from its unrounded sum and what the mean divides by."""
    if loss is not None:
        return loss[()]
    if reduction == "mean":
        total = total / divisor if divisor else np.nan
    return np.asarray(total).astype(dtype)[()]
