"""The verbs of `lossless._dispatch.Backend` on NumPy arrays."""

from collections.abc import Callable
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lossless import _check, reference
from lossless._diagnose import watch
from lossless._kernels import native
from lossless._numpy.gradients import answer, asking
from lossless._numpy.hashing import mixed
from lossless._numpy.sight import bad_rows as bad_rows
from lossless._numpy.sight import is_compiling as is_compiling
from lossless._numpy.sight import is_traced as is_traced
from lossless._numpy.sight import made_by as made_by
from lossless._numpy.sight import origin as origin
from lossless._numpy.sight import readable as readable
from lossless._numpy.sight import take as take
from lossless._plan import ElementPlan, RowPlan
from lossless._reduce import Reduction, reduce_rows
from lossless.errors import UnsupportedArrayError
from lossless.reference import Statistics

Array = NDArray[Any]
silent = np.errstate(all="ignore")  # as a decorator: infinities and NaN are results here, not accidents

# ---------------------------------------------------------------- arrays in and out


def to_dtype(function: str, a: Array, dtype: Any) -> Array:
    try:
        dtype = np.dtype(dtype)
    except TypeError:
        raise UnsupportedArrayError(
            f"{function}(): argument 'dtype' must be a NumPy dtype\n"
            f"{function}: dtype got {dtype!r}, expected e.g. np.float32"
        ) from None
    return a.astype(dtype, copy=False)


def to_floating(a: Array) -> Array:
    return a.astype(np.float64) if _check.is_whole(a.dtype) else a


def for_loss(a: Array) -> Array:
    """The input of a loss; NumPy has no autocast."""
    return a


def _promote(*arrays: Array | None) -> Any:
    """The dtype that holds the floating arrays among these."""
    dtypes = {a.dtype for a in arrays if a is not None and a.dtype.name in _check.FLOATS}
    halves = {d for d in dtypes if d.itemsize == 2}
    if len(halves) > 1:  # float16 and bfloat16, of which neither holds the other
        dtypes = (dtypes - halves) | {np.dtype(np.float32)}
    return np.result_type(*dtypes)


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


def softmax(plan: RowPlan, x: Array) -> Any:
    return _transform("softmax", reference.softmax, plan, x)


def log_softmax(plan: RowPlan, x: Array) -> Any:
    return _transform("log_softmax", reference.log_softmax, plan, x)


@silent
def _transform(name: str, formula: Callable[..., Array], plan: RowPlan, x: Array) -> Any:
    if native is not None and plan.is_moderate:
        out = np.empty(x.shape, x.dtype)
        getattr(native, name)(_memory(x), *plan.rows, _memory(out), plan.temperature)
        return out[()]
    out = formula(_classes_last(x, plan.dim), plan.temperature).astype(x.dtype)
    return np.ascontiguousarray(np.moveaxis(out, -1, plan.dim)).reshape(x.shape)[()]


def _classes_last(x: Array, dim: int) -> Array:
    return np.moveaxis(np.atleast_1d(x), dim, -1)


def permute(x: Array, order: tuple[int, ...]) -> Array:
    return np.transpose(x, order)


@silent
def elementwise(function: str, functor: reference.Elementwise, /, **arrays: Array) -> Any:
    dtype = _promote(*arrays.values())
    if native is None or functor.kernel is None:
        return _rounded(functor.value(*arrays.values()), dtype)
    (x,) = arrays.values()
    out = np.empty(x.shape, dtype)
    native.pointwise(
        functor.kernel, _memory(x), None, None, None, functor.kernel_parameters, _memory(out), 1.0, 1.0, None
    )
    return out[()]


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
    if native is None or not plan.is_moderate:
        target = _target_last(plan, target)
        s = reference.row_statistics(_classes_last(x, plan.dim), target, prior, plan.ignore_index, plan.temperature)
        return Statistics(*(_rounded(a, x.dtype) for a in s))
    nll, lse, entropy, prior_cost = (
        np.empty(plan.shape, x.dtype) if wanted else None
        for wanted in (target is not None, True, True, prior is not None)
    )
    correct = None if target is None else np.empty(plan.shape, np.bool_)
    bad = native.row_statistics(
        _memory(x), *plan.rows, _memory(target), None, _accumulated(prior, x.dtype), plan.ignore_index,
        _memory(nll), _memory(lse), _memory(entropy), _memory(prior_cost), correct, None, plan.temperature,
    )  # fmt: skip
    _raise_bad(bad, plan, target)
    if plan.soft and target is not None:  # the kernels know `correct` of labels
        correct = np.asarray(x.argmax(plan.dim) == target.argmax(plan.dim))
    return Statistics(*(None if a is None else a[()] for a in (nll, lse, entropy, prior_cost, correct)))


class RowNumbers(NamedTuple):
    """What an evaluation asks of rows of logits and their labels, in float64."""

    largest: Array  # (n,) the class of the largest logit, the first of equals; any where there is a NaN
    surprise: Array  # (n,) -log p of that class
    entropy: Array  # (n,)
    squares: Array  # (n,) sum of p^2 over all other classes
    lse: Array  # (n,)
    lead: Array  # (n,) by how much that logit exceeds the label's
    rank: Array  # (n,) see `label_rank`
    peak: Array  # (n,) that logit
    hash: Array  # (n,) 64 bits, of the numbers that tell most rows apart


@silent
def row_numbers(x: Array, label: Array) -> RowNumbers:
    """Numbers of (n, C) logits of any dtype, in one pass; a row without a distribution has the surprise NaN."""
    if native is not None:
        largest, rank, bits = (np.empty(len(x), np.int64) for _ in range(3))
        surprise, entropy, squares, lse, lead, peak = (np.empty(len(x)) for _ in range(6))
        native.row_numbers(
            _memory(x), *x.shape, _memory(label), surprise, lse, entropy, squares, largest, lead, rank, peak, bits
        )
        largest = np.maximum(largest, 0)
        return RowNumbers(largest, surprise, entropy, squares, lse, lead, rank, peak, bits.view(np.uint64))
    x = x.astype(np.float64, copy=False)
    every, largest = np.arange(len(x)), np.argmax(x, axis=1)
    s = reference.row_statistics(x, largest, None, None, 1.0)
    p = reference.softmax(x, 1.0)
    p[every, largest] = 0.0
    peak = x[every, largest]
    lead = np.where(largest == label, 0.0, peak - x[every, label])  # not inf - inf
    h = np.zeros(len(x), np.uint64)
    for number in (label, x[:, 0], x[:, -1], peak, s.entropy):
        h = mixed(h ^ number.astype(np.float64).view(np.uint64))
    return RowNumbers(largest, s.nll, s.entropy, np.vecdot(p, p), s.lse, lead, label_rank(x, label), peak, h)


class Tempered(NamedTuple):
    """Means over the classes of rows, under p = e / sum e with e = exp(beta d)."""

    total: Array  # (n,) sum of e
    mean: Array  # (n,) of d
    square: Array  # (n,) of d^2


@silent
def tempered(d: Array, beta: float) -> Tempered:
    """For (n, C) float64 differences d <= 0 to the largest logit of a row; where d = -inf there is no mass."""
    if native is not None:
        total, mean, square = (np.empty(len(d)) for _ in range(3))
        native.temper(_memory(d), *d.shape, beta, total, mean, square)
        return Tempered(total, mean, square)
    e = np.exp(beta * d)
    total, d = e.sum(axis=1), np.where(e == 0.0, 0.0, d)
    return Tempered(total, np.vecdot(e, d) / total, np.vecdot(e, d * d) / total)


def label_rank(scores: Array, label: Array) -> Array:
    """How many classes come before the label when the scores are sorted, equal ones by their number."""
    own = scores[np.arange(len(label)), label][:, None]
    before = np.arange(scores.shape[1]) < label[:, None]
    rank: Array = np.count_nonzero((scores > own) | (before & (scores == own)), axis=1)
    return rank


@silent
def class_loss(
    plan: RowPlan, x: Array, target: Array, weight: Array | None, sample_weight: Array | None, alpha: Array | None,
    divisor: Any,
) -> Any:  # fmt: skip
    x, target = _pair(plan, x, target, weight)
    if native is not None and plan.has_kernel and sample_weight is None and alpha is None:
        return _kernel_loss(plan, x, target, weight, divisor)
    soft_curve = plan.soft and plan.curve is not None
    kernels = native is not None and plan.is_moderate and not soft_curve
    link = reference.link(
        target if kernels and not plan.soft else _target_last(plan, target), plan.rows.classes, plan.soft,
        weight, sample_weight, alpha, ignore_index=plan.ignore_index, smoothing=plan.smoothing,
        z_loss=plan.z_loss, curve=None if soft_curve else plan.curve,
    )  # fmt: skip
    if kernels:
        s, backward = _kernel_rows(plan, x, target, link)
    else:
        s, backward = _reference_rows(plan, x, link)
    if plan.reduction == "mean" and divisor is None:
        divisor = link.divisor(plan.denominator)
    value = _rounded(reduce_rows(link.loss(s), divisor, plan.reduction), x.dtype)

    def gradient() -> Array:
        return backward(**{name: _shared(d, divisor, plan.reduction) for name, d in link.slopes(s).items()})

    return answer(value, gradient)


def _shared(slope: Array, divisor: Any, reduction: Reduction) -> Array:
    """A slope over what a mean divides by: NaN of nothing, but for ignored rows."""
    return slope / divisor if reduction == "mean" else slope


def _kernel_loss(plan: RowPlan, x: Array, target: Array, weight: Array | None, divisor: Any) -> Any:
    """The loss by one kernel, with its gradient if that is asked for."""
    loss = np.empty(plan.shape, x.dtype) if plan.reduction == "none" else None
    dx = np.empty(x.shape, x.dtype) if asking() else None
    over = 1.0 if plan.reduction != "mean" else None if divisor is None else float(divisor)
    bad, total, over = native.row_loss(
        _memory(x), *plan.rows, _memory(target), _accumulated(weight, x.dtype), plan.ignore_index, plan.kernel_link,
        _memory(loss), None, over, 1.0, _memory(dx), plan.temperature,
    )  # fmt: skip
    _raise_bad(bad, plan, target)
    watch.sound(total, over)
    return answer(_finish(loss, total, over, plan.reduction, x.dtype), lambda: dx)


def _kernel_rows(
    plan: RowPlan, x: Array, target: Array, link: reference.Link
) -> tuple[Statistics, Callable[..., Array]]:
    """The statistics that a link asks for, unrounded, and their backward pass."""
    of = (
        _memory(x), *plan.rows, _memory(target), _accumulated(link.weight, x.dtype), _accumulated(link.prior, x.dtype),
        plan.ignore_index,
    )  # fmt: skip
    nll, lse, prior = np.empty(plan.shape), np.empty(plan.shape), None if link.prior is None else np.empty(plan.shape)
    state = _state(plan) if asking() else None
    _raise_bad(native.row_statistics(*of, nll, lse, None, prior, None, state, plan.temperature), plan, target)

    def backward(d_nll: Any = None, d_lse: Any = None, d_prior: Any = None) -> Array:
        dx = np.empty(x.shape, x.dtype)
        d_nll, d_lse, d_prior = (None if d is None else np.ascontiguousarray(d) for d in (d_nll, d_lse, d_prior))
        native.row_statistics_backward(*of, state, d_nll, d_lse, None, d_prior, _memory(dx), plan.temperature)
        return dx

    return Statistics(nll, lse, None, prior, None), backward


def _reference_rows(plan: RowPlan, x: Array, link: reference.Link) -> tuple[Statistics, Callable[..., Array]]:
    """The same by the reference, and for a curve over every class of a soft target."""
    x_rows, t = _classes_last(x, plan.dim), link.weighted_target()
    if plan.soft and plan.curve is not None:
        curve, nll = plan.curve, reference.soft_curve(x_rows, t, plan.curve)

        def backward_of_curve(d_nll: Array) -> Array:
            return _rows_back(plan, x, reference.soft_curve_backward(x_rows, t, d_nll, curve))

        return Statistics(nll, None, None, None, None), backward_of_curve
    of = x_rows, t, link.prior, plan.ignore_index, plan.temperature

    def backward(**slopes: Any) -> Array:
        return _rows_back(plan, x, reference.row_statistics_backward(*of, **slopes))

    return reference.row_statistics(*of), backward


def _state(plan: RowPlan) -> Array:
    """What backward needs to know of every row."""
    return np.empty((native.STATE_ROWS, plan.rows.number))


def _rows_back(plan: RowPlan, x: Array, dx: Array) -> Array:
    """A gradient with the classes last, in the shape and dtype of `x`."""
    return np.ascontiguousarray(np.moveaxis(dx, -1, plan.dim)).reshape(x.shape).astype(x.dtype)


def class_vector(x: Array, numbers: tuple[float, ...]) -> Array:
    return np.array(numbers)


@silent
def probability_loss(plan: RowPlan, p: Array, target: Array) -> Any:
    p, target = _pair(plan, p, target)
    p_rows, target, classes = _classes_last(p, plan.dim), _target_last(plan, target), plan.rows.classes
    target = reference.smoothed(target, classes, plan.smoothing) if plan.soft else target
    loss = reference.probability_cost(p_rows, target, plan.ignore_index)
    divisor = reference.link(target, classes, plan.soft, ignore_index=plan.ignore_index).divisor(None)

    def gradient() -> Array:
        slope = reference.probability_cost_backward(p_rows, target, plan.ignore_index)
        nothing = (slope == 0.0) & (not plan.soft)  # at the other classes, and in ignored rows
        return _rows_back(plan, p, np.where(nothing, 0.0, _shared(slope, divisor, plan.reduction)))

    return answer(_rounded(reduce_rows(loss, divisor, plan.reduction), p.dtype), gradient)


@silent
def nll(plan: RowPlan, x: Array, target: Array, weight: Array | None) -> Any:
    _, target = _pair(plan, x, target)
    if native is not None:
        return _nll_kernel(plan, x, target, weight)
    labels = _target_last(plan, target)
    loss, w_y = reference.nll(_classes_last(x, plan.dim), labels, weight, plan.ignore_index)
    divisor = w_y.sum()

    def gradient() -> Array:
        dx = np.zeros(_classes_last(x, plan.dim).shape)
        kept = labels != plan.ignore_index
        slope = np.where(kept, _shared(0.0 - w_y, divisor, plan.reduction), 0.0)
        np.put_along_axis(dx, np.where(kept, labels, 0)[..., None], slope[..., None], -1)
        return _rows_back(plan, x, dx)

    return answer(_rounded(reduce_rows(loss, divisor, plan.reduction), x.dtype), gradient)


def _nll_kernel(plan: RowPlan, x: Array, target: Array, weight: Array | None) -> Any:
    loss = np.empty(plan.shape, x.dtype) if plan.reduction == "none" else None
    of = *plan.rows, _memory(target), _accumulated(weight, x.dtype), plan.ignore_index
    bad, total, weights = native.nll(_memory(x), *of, _memory(loss))
    _raise_bad(bad, plan, target)
    over = 1.0 if plan.reduction != "mean" else weights or np.nan
    watch.sound(total, over)

    def gradient() -> Array:
        dx = np.empty(x.shape, x.dtype)
        native.nll_backward(_memory(dx), *of, np.ones(1), over)
        return dx

    return answer(_finish(loss, total, over, plan.reduction, x.dtype), gradient)


@silent
def pointwise(
    plan: ElementPlan, x: Array, target: Array, weight: Array | None = None, pos_weight: Array | None = None,
    sample_weight: Array | None = None, divisor: Any = None,
) -> Any:  # fmt: skip
    """`x` and `target` broadcast to the shape of the result, weights to that of `x`."""
    squared, mean, shape = isinstance(plan.loss, reference.SquaredError), plan.reduction == "mean", x.shape
    dtype = _promote(x, target, weight if squared else None)
    if native is not None and sample_weight is None and plan.has_kernel(dtype, weight is not None):
        return _pointwise_kernel(plan, x, target, weight, pos_weight, dtype, divisor)
    a, t = np.broadcast_arrays(x, target)
    kept = None
    if plan.ignore_index is not None:
        a, t = reference.wide(a), reference.wide(t)
        kept = t != plan.ignore_index
        a, t = np.where(kept, a, 0.5), np.where(kept, t, 0.0)
    if plan.loss.of_probabilities:
        _check_probabilities(plan.function, kept, input=a, target=t)
    if mean and divisor is None:
        if not squared:
            divisor = reference.elements(plan.denominator, t, weight, pos_weight, sample_weight, kept)
        elif weight is not None:
            divisor = reference.wide(weight).sum()
    loss = reference.weighted(plan.loss.value(a, t, pos_weight), weight, sample_weight, kept)

    def gradient() -> Any:
        slope = reference.weighted(plan.loss.slope(a, t, pos_weight), weight, sample_weight, kept)
        if mean:
            count = float(slope.size) if divisor is None else divisor
            slope = slope / np.where(count == 0.0, np.nan, count)
            slope = slope if kept is None else np.where(kept, slope, 0.0)
        return _rounded(_sum_to(slope, shape), x.dtype)

    return answer(_rounded(reduce_rows(loss, divisor, plan.reduction), dtype), gradient)


def _pointwise_kernel(
    plan: ElementPlan, x: Array, target: Array, weight: Array | None, pos_weight: Array | None, dtype: Any, divisor: Any
) -> Any:
    whole = _check.is_whole(x.dtype) or _check.is_whole(target.dtype)
    inner = np.dtype(np.float64) if whole else _promote(x, target, weight, pos_weight)
    shape = np.broadcast_shapes(x.shape, target.shape)
    count = float(prod(shape) if divisor is None else divisor)
    if weight is not None and isinstance(plan.loss, reference.SquaredError):  # as given, before it is expanded
        count = float(weight.sum(dtype=np.float64))
    arrays = [
        None if a is None else _memory(np.broadcast_to(a.astype(inner, copy=False), shape))
        for a in (x, target, weight, pos_weight)
    ]
    loss = np.empty(shape, inner) if plan.reduction == "none" else None
    dx = np.empty(shape, inner) if asking() and x.shape == shape else None
    over = 1.0 if plan.reduction != "mean" else count or np.nan
    total = native.pointwise(
        plan.loss.kernel, *arrays, plan.loss.kernel_parameters, _memory(loss), 1.0, over, _memory(dx)
    )
    watch.sound(total, over)
    loss = None if loss is None else loss.astype(dtype, copy=False)

    def gradient() -> Any:
        if dx is None:
            slope = reference.weighted(plan.loss.slope(x, target, pos_weight), weight, None, None)
            return _rounded(_sum_to(slope / over, x.shape), x.dtype)
        return _rounded(dx, x.dtype)

    return answer(_finish(loss, total, count, plan.reduction, dtype), gradient)


def _check_probabilities(function: str, kept: Array | None, **arrays: Array) -> None:
    """Every number is in [0, 1]."""
    for name, a in arrays.items():
        if a.size and not (a.min() >= 0.0 and a.max() <= 1.0):
            raise _check.probability_error(function, name, a.astype(np.float64), kept)


def _sum_to(a: Array, shape: tuple[int, ...]) -> Array:
    """The sum over what was broadcast from `shape`."""
    if a.shape == shape:
        return a
    extra = a.ndim - len(shape)
    axes = (*range(extra), *(extra + i for i, size in enumerate(shape) if size == 1))
    return np.asarray(a.sum(axes)).reshape(shape)


@silent
def root_mean_square(plan: ElementPlan, x: Array, target: Array, dims: tuple[int, ...]) -> Any:
    if native is not None and plan.as_given and len(dims) == x.ndim:
        answered = _root_mean_square_kernel(plan, x, target)
        if answered is not None:
            return answered
    d = reference.wide(x) - reference.wide(target)
    root = reference.root_mean_square(d, dims)

    def gradient() -> Any:
        slope = reference.root_mean_square_slope(d, dims)
        return _rounded(slope / root.size if plan.reduction == "mean" else slope, x.dtype)

    return answer(_rounded(reduce_rows(root, None, plan.reduction), _promote(x, target)), gradient)


def _root_mean_square_kernel(plan: ElementPlan, x: Array, target: Array) -> Any:
    """Of all differences; None where their squares leave float64."""
    arrays = _memory(x), _memory(target), None, None
    kernel = plan.loss.kernel, *arrays, plan.loss.kernel_parameters
    total = native.pointwise(*kernel, None, 1.0, 1.0, None)
    watch.sound(total, x.size)
    root = reference.root_of_mean(total, x.size)
    if root is None:
        return None

    def gradient() -> Any:
        dx = np.empty(x.shape, x.dtype)
        native.pointwise_backward(*kernel, np.ones(1), 2.0 * root * x.size, _memory(dx))
        return dx

    return answer(_rounded(np.asarray(root), x.dtype), gradient)


@silent
def entropy(plan: RowPlan, p: Array, kind: str, normalize: bool, unit: float) -> Any:
    if kind == "logits" or (kind == "log_probs" and normalize):
        x = p if unit == 1.0 else p.astype(np.float64)  # one rounding, after the division
        h = np.asarray(row_statistics(plan, x, None, None).entropy)
    else:
        h = reference.entropy(_classes_last(p, plan.dim), kind, normalize)
    return _rounded(h / unit, p.dtype)


@silent
def perplexity(plan: RowPlan, p: Array, form: str) -> Any:
    return _rounded(reference.perplexity(_classes_last(p, plan.dim), form), p.dtype)


@silent
def measure(plan: RowPlan, p: Array, q: Array, p_form: str, q_form: str, unit: float) -> Any:
    dtype = _promote(p, q)
    p, q = p.astype(dtype, copy=False), q.astype(dtype, copy=False)
    if plan.function == "cross_entropy" and (p_form, q_form) == ("probs", "logits"):
        p, q = (p, q) if unit == 1.0 else (reference.wide(p), reference.wide(q))  # one rounding, after the division
        rows = np.asarray(row_statistics(plan._replace(soft=True), q, p, None).nll)
    else:
        value = reference.MEASURES[plan.function].value
        rows = value(_classes_last(p, plan.dim), _classes_last(q, plan.dim), p_form, q_form)
    return _rounded(rows / unit + 0.0, dtype)


@silent
def inverse_softmax(plan: RowPlan, p: Array, center: str | None) -> Any:
    x = reference.inverse_softmax(_classes_last(p, plan.dim), center).astype(p.dtype)
    return np.ascontiguousarray(np.moveaxis(x, -1, plan.dim)).reshape(p.shape)[()]


def numbers(a: Array, dtype: str = "float64") -> Array:
    return a.astype(dtype, copy=False)


@silent
def extremes(plan: RowPlan, name: str, a: Array, labels: Array | None = None) -> tuple[float, float]:
    if labels is not None and plan.ignore_index is not None:
        a = _classes_last(a, plan.dim)[labels.reshape(plan.shape) != plan.ignore_index]
    if not a.size:
        return 0.0, 0.0
    low, high = float(a.min()), float(a.max())
    return extremes(plan, name, a[~np.isnan(a)]) if low != low else (low, high)


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
        raise plan.index_error(labels)


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
