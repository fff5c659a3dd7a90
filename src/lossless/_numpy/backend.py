"""The verbs of `lossless._dispatch.Backend` on NumPy arrays."""

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossless import _check, reference
from lossless._kernels import native
from lossless._plan import RowPlan
from lossless._reduce import Reduction, reduce_rows
from lossless.reference import Statistics

Array = NDArray[Any]
silent = np.errstate(all="ignore")  # as a decorator: infinities and NaN are results here, not accidents

# ---------------------------------------------------------------- arrays in and out


def to_dtype(a: Array, dtype: Any) -> Array:
    return a.astype(dtype, copy=False)


def for_loss(a: Array) -> Array:
    """The input of a loss; NumPy has no autocast."""
    return a


def _promote(*arrays: Array | None) -> Any:
    """The dtype that holds the floating arrays among these."""
    return np.result_type(*(a.dtype for a in arrays if a is not None and a.dtype.name in _check.FLOATS))


def _memory(a: Array | None) -> Array | None:
    """C-contiguous, aligned memory as the kernels take it: bfloat16, which NumPy does not know, as its 16 bits."""
    if a is None:
        return None
    if not (a.flags.c_contiguous and a.flags.aligned):
        a = a.copy(order="C")
    return a.view(np.uint16) if a.dtype.name == "bfloat16" else a


def _accumulated(a: Array | None, dtype: Any) -> Array | None:
    """Class weights in the kernels' accumulation dtype."""
    if a is None:
        return None
    wide = np.float64 if dtype == np.float64 else np.float32
    if a.dtype == np.float64 and wide is np.float32:
        _check.check_fits_float32(a)
    return np.asarray(a, dtype=wide, order="C")


# ---------------------------------------------------------------- transforms


def softmax(plan: RowPlan, x: Array, temperature: float) -> Any:
    return _transform("softmax", reference.softmax, plan, x, temperature)


def log_softmax(plan: RowPlan, x: Array, temperature: float) -> Any:
    return _transform("log_softmax", reference.log_softmax, plan, x, temperature)


@silent
def _transform(name: str, formula: Callable[..., Array], plan: RowPlan, x: Array, temperature: float) -> Any:
    if native is not None and temperature == 1.0:
        out = np.empty(x.shape, x.dtype)
        getattr(native, name)(_memory(x), *plan.rows, _memory(out))
        return out[()]
    out = formula(_classes_last(x, plan.dim), temperature).astype(x.dtype)
    return np.ascontiguousarray(np.moveaxis(out, -1, plan.dim)).reshape(x.shape)[()]


def _classes_last(x: Array, dim: int) -> Array:
    return np.moveaxis(np.atleast_1d(x), dim, -1)


def permute(x: Array, order: tuple[int, ...]) -> Array:
    return np.transpose(x, order)


# ---------------------------------------------------------------- statistics and losses


@silent
def logsumexp(plan: RowPlan, x: Array) -> Any:
    if native is None:
        return _rounded(reference.row_statistics(_classes_last(x, plan.dim)).lse, x.dtype)
    lse = np.empty(plan.shape, x.dtype)
    outputs = None, _memory(lse), None, None, None, None
    native.row_statistics(_memory(x), *plan.rows, None, None, None, None, *outputs)
    if np.isnan(lse).any():  # NaN in the row stays; of infinities alone the largest is the limit
        lse = np.where(np.isnan(lse), x.max(plan.dim), lse)
    return lse[()]


@silent
def row_statistics(plan: RowPlan, x: Array, target: Array | None, prior: Array | None) -> Statistics:
    if target is not None:
        x, target = _pair(plan, x, target)
    if native is None:
        target = _target_last(plan, target)
        s = reference.row_statistics(_classes_last(x, plan.dim), target, prior, plan.ignore_index)
        return Statistics(*(_rounded(a, x.dtype) for a in s))
    nll, lse, entropy, prior_cost = (
        np.empty(plan.shape, x.dtype) if wanted else None
        for wanted in (target is not None, True, True, prior is not None)
    )
    correct = None if target is None else np.empty(plan.shape, np.bool_)
    bad = native.row_statistics(
        _memory(x), *plan.rows, _memory(target), None, _accumulated(prior, x.dtype), plan.ignore_index,
        _memory(nll), _memory(lse), _memory(entropy), _memory(prior_cost), correct, None,
    )  # fmt: skip
    _raise_bad(bad, plan, target)
    if plan.soft and target is not None:  # the kernels know `correct` of labels
        correct = np.asarray(x.argmax(plan.dim) == target.argmax(plan.dim))
    return Statistics(*(None if a is None else a[()] for a in (nll, lse, entropy, prior_cost, correct)))


@silent
def cross_entropy(plan: RowPlan, x: Array, target: Array, weight: Array | None) -> Any:
    x, target = _pair(plan, x, target, weight)
    if native is None:
        x_rows = _classes_last(x, plan.dim)
        link = reference.cross_entropy(x_rows, _target_last(plan, target), weight, plan.ignore_index, plan.smoothing)
        loss = link.loss(reference.row_statistics(x_rows, link.target, link.prior, plan.ignore_index))
        return _rounded(reduce_rows(loss, link.divisor, plan.reduction), x.dtype)
    loss = np.empty(plan.shape, x.dtype) if plan.reduction == "none" else None
    bad, total, divisor = native.row_loss(
        _memory(x), *plan.rows, _memory(target), _accumulated(weight, x.dtype), plan.ignore_index,
        1.0 - plan.smoothing, plan.smoothing / plan.rows.classes, _memory(loss), None,
    )  # fmt: skip
    _raise_bad(bad, plan, target)
    return _finish(loss, total, divisor, plan.reduction, x.dtype)


@silent
def nll(plan: RowPlan, x: Array, target: Array, weight: Array | None) -> Any:
    _, target = _pair(plan, x, target)
    loss, divisor = reference.nll(_classes_last(x, plan.dim), _target_last(plan, target), weight, plan.ignore_index)
    return _rounded(reduce_rows(loss, divisor, plan.reduction), x.dtype)


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
def entropy(plan: RowPlan, p: Array, kind: str, normalize: bool, unit: float) -> Any:
    if kind == "logits" or (kind == "log_probs" and normalize):
        x = p if unit == 1.0 else p.astype(np.float64)  # one rounding, after the division
        h = np.asarray(row_statistics(plan, x, None, None).entropy)
    else:
        h = reference.entropy(_classes_last(p, plan.dim), kind, normalize)
    return _rounded(h / unit, p.dtype)


def extremes(plan: RowPlan, a: Array) -> tuple[float, float]:
    return (float(a.min()), float(a.max())) if a.size else (0.0, 0.0)


# ---------------------------------------------------------------- the ends of every loss


def _pair(plan: RowPlan, x: Array, target: Array, weight: Array | None = None) -> tuple[Array, Array]:
    """Logits with int64 labels, or with probabilities, both in the dtype that holds them and the weights."""
    if plan.soft:
        dtype = _promote(x, target, weight)
        return x.astype(dtype, copy=False), target.astype(dtype, copy=False)
    if target.dtype == np.uint64:  # what only uint64 can hold stays out of range instead of wrapping to a negative
        target = np.minimum(target, np.uint64(2**63 - 1))
    return x, target.astype(np.int64, copy=False).reshape(plan.shape)


def _target_last(plan: RowPlan, target: Array | None) -> Any:
    """Checked labels, or probabilities with the classes last."""
    if target is None or plan.soft:
        return target if target is None else _classes_last(target, plan.dim)
    bad = (target < 0) | (target >= plan.rows.classes)
    if plan.ignore_index is not None:
        bad &= target != plan.ignore_index
    _raise_bad(0 if np.any(bad) else -1, plan, target)
    return target


def _raise_bad(bad: int, plan: RowPlan, labels: Array | None) -> None:
    """The error for labels that are no class, if `bad` is the number of a row."""
    if bad >= 0 and labels is not None:
        raise _check.target_index_error(plan.function, labels, plan.rows.classes, plan.ignore_index)


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
