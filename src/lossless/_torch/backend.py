"""The verbs of `lossless._dispatch.Backend` on PyTorch tensors."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.compiler import is_compiling as is_compiling  # `_dispatch` asks it here
from torch.nn.functional import nll_loss as torch_nll_loss  # bound now: `patch_torch` replaces it

from lossless import _check, _straight, reference
from lossless._plan import ElementPlan, RowPlan, classes_last
from lossless._reduce import reduce_rows
from lossless._torch import differentiable, eager, operators
from lossless._torch.modes import HALVES as HALVES
from lossless._torch.modes import (
    check_supported,
    kernels_serve,
    needs_grad,
    operators_serve,
    ordinary,
    values_known,
    watched,
)
from lossless._torch.sight import bad_rows as bad_rows
from lossless._torch.sight import is_traced as is_traced
from lossless._torch.sight import made_by as made_by
from lossless._torch.sight import origin as origin
from lossless._torch.sight import readable as readable
from lossless._torch.sight import take as take
from lossless.errors import UnsupportedArrayError
from lossless.reference import Statistics

_straight.closed = torch.compiler.is_dynamo_compiling

# ---------------------------------------------------------------- tensors


def to_dtype(function: str, a: Tensor, dtype: Any) -> Tensor:
    if not isinstance(dtype, torch.dtype) and dtype not in (float, int, bool, complex):
        raise UnsupportedArrayError(
            f"{function}(): argument 'dtype' must be torch.dtype, not {type(dtype).__name__}\n"
            f"{function}: dtype got {dtype!r}, expected e.g. torch.float32"
        )
    return a.to(dtype)


def to_floating(a: Tensor) -> Tensor:
    return a.to(torch.get_default_dtype()) if _check.is_whole(a.dtype) else a


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


def _kernels_for(*tensors: Tensor | None) -> Any:
    """What runs the kernels on these tensors: a module with their functions, or None where formulas serve them."""
    if kernels_serve(*tensors):
        return eager
    return operators if operators_serve(*tensors) else None


def _row_kernels(plan: RowPlan, *tensors: Tensor | None) -> Any:
    """The same for rows of the plan's temperature."""
    return _kernels_for(*tensors) if plan.is_moderate else None


def _by_one_kernel(kernel: Any, arrays: tuple[Tensor | None, ...], *rest: Any) -> Tensor:
    """What one kernel makes of arrays as they lie; the last may be missing.

    The way is said, but for halves: autocast may convert them.
    """
    x, *others = (a for a in arrays if a is not None)
    if x.dtype not in HALVES:
        _straight.found(kernel, (x, *others), (*arrays[1 + len(others) :], *rest))
    result: Tensor = kernel.call(*arrays, *rest)
    return result


def _accumulated(a: Tensor, x: Tensor) -> Tensor:
    """Class weights in the kernels' accumulation dtype."""
    wide = torch.float64 if x.dtype is torch.float64 else torch.float32
    if a.dtype is torch.float64 and wide is torch.float32 and values_known(a):
        _check.check_fits_float32(a.detach().numpy())
    return a.to(wide)


def _pair(plan: RowPlan, x: Tensor, target: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Logits with int64 labels, or with probabilities, both in the dtype that holds them and the weights."""
    if plan.soft:
        dtype = _promote(x, target, weight)
        return (x, target) if x.dtype is dtype is target.dtype else (x.to(dtype), target.to(dtype))
    if target.dtype is not torch.int64:
        wraps = target.dtype is torch.uint64  # what only uint64 can hold must not become a negative label
        target = target.to(torch.int64)
        target = torch.where(target < 0, torch.iinfo(torch.int64).max, target) if wraps else target
    return x, target if target.shape == plan.shape else target.reshape(plan.shape)


def _classes_last(x: Tensor, dim: int) -> Tensor:
    return x.movedim(dim, -1) if x.ndim else x.reshape(1)


def _as_it_lies(plan: RowPlan, x: Tensor, target: Tensor | None) -> tuple[RowPlan, Tensor, Tensor | None]:
    """The same rows, read in place where the classes are last in memory and not in the view: no transposed copy."""
    if plan.rows.inner == 1 or x.is_contiguous() or not (moved := x.movedim(plan.dim, -1)).is_contiguous():
        return plan, x, target
    if target is not None and plan.soft:
        target = target.movedim(plan.dim, -1)
    return classes_last(plan), moved, target


def _target_last(plan: RowPlan, target: Tensor) -> Tensor:
    """Labels, checked where numbers may be looked at, or probabilities with the classes last."""
    if plan.soft:
        return _classes_last(target, plan.dim)
    if values_known(target):
        bad = (target < 0) | (target >= plan.rows.classes)
        if plan.ignore_index is not None:
            bad = bad & (target != plan.ignore_index)
        if bad.any():
            raise plan.index_error(target.tolist())
    return target


# ---------------------------------------------------------------- transforms


def softmax(plan: RowPlan, x: Tensor) -> Tensor:
    if plan.is_moderate and ordinary(x):
        return _by_one_kernel(eager.Softmax, (x,), plan)
    kernels = _row_kernels(plan, x)
    return kernels.softmax(x, plan) if kernels else _transform(differentiable.softmax, plan, x)


def log_softmax(plan: RowPlan, x: Tensor) -> Tensor:
    if plan.is_moderate and ordinary(x):
        return _by_one_kernel(eager.LogSoftmax, (x,), plan)
    kernels = _row_kernels(plan, x)
    return kernels.log_softmax(x, plan) if kernels else _transform(differentiable.log_softmax, plan, x)


def _transform(formula: Callable[..., Tensor], plan: RowPlan, x: Tensor) -> Tensor:
    check_supported(plan.function, input=x)
    return formula(_classes_last(x, plan.dim), plan.temperature).movedim(-1, plan.dim).reshape(x.shape)


def elementwise(function: str, functor: reference.Elementwise, /, **arrays: Tensor) -> Tensor:
    if functor.kernel is not None:
        (x,) = arrays.values()
        if ordinary(x):
            return _by_one_kernel(eager.Elementwise, (x,), functor)
        if kernels := _kernels_for(x):
            result: Tensor = kernels.elementwise(functor, x)
            return result
    check_supported(function, **arrays)
    return differentiable.elementwise(functor, *arrays.values()).to(_promote(*arrays.values()))


# ---------------------------------------------------------------- statistics and losses


def logsumexp(plan: RowPlan, x: Tensor) -> Tensor:
    if kernels := _kernels_for(x):
        lse: Tensor = kernels.row_statistics(x, None, None, None, plan, only_lse=True).lse
        if kernels is operators or lse.isnan().any():  # NaN in the row stays; of infinities the largest is the limit
            lse = torch.where(lse.isnan(), x.amax(plan.dim), lse)
        return lse
    check_supported(plan.function, input=x)
    return differentiable.row_statistics(_classes_last(x, plan.dim), None, None, None).lse.to(x.dtype)


def row_statistics(plan: RowPlan, x: Tensor, target: Tensor | None, prior: Tensor | None) -> Statistics:
    if target is prior is None and plan.is_moderate and ordinary(x):
        return Statistics(*eager.RowStatistics.call(x, None, None, None, plan, True, False))
    if target is not None:
        x, target = _pair(plan, x, target)
    kernels = _row_kernels(plan, x, target, prior)
    if kernels and not needs_grad(target, prior):
        if kernels is eager:
            plan, x, target = _as_it_lies(plan, x, target)
        prior = None if prior is None else _accumulated(prior, x)
        s: Statistics = kernels.row_statistics(x, target, None, prior, plan)
        if plan.soft and target is not None:  # the kernels know `correct` of labels
            s = s._replace(correct=x.argmax(plan.dim) == target.argmax(plan.dim))
        return s
    check_supported(plan.function, input=x, target=target, prior=prior)
    if target is not None:
        target = _target_last(plan, target)
    s = differentiable.row_statistics(_classes_last(x, plan.dim), target, prior, plan.ignore_index, plan.temperature)
    return Statistics(*(a if a is None or a.dtype is torch.bool else a.to(x.dtype) for a in s))


def class_loss(
    plan: RowPlan, x: Tensor, target: Tensor, weight: Tensor | None, sample_weight: Tensor | None, alpha: Tensor | None,
    divisor: Tensor | float | None,
) -> Tensor:  # fmt: skip
    if plan.as_given and divisor is None and ordinary(x, target, weight):
        return _by_one_kernel(eager.ClassLoss, (x, target, weight), plan, None)
    _check_divisor(plan.function, divisor)
    x, target = _pair(plan, x, target, weight)
    soft_curve = plan.curve if plan.soft else None
    kernels = None
    if soft_curve is None and not needs_grad(target, weight):
        kernels = _row_kernels(plan, x, target, weight, sample_weight, alpha)
    if kernels is eager:
        plan, x, target = _as_it_lies(plan, x, target)
    differentiated = isinstance(divisor, Tensor) and needs_grad(divisor)
    if kernels and kernels.has_class_loss(plan) and sample_weight is alpha is None and not differentiated:
        weight = None if weight is None else _accumulated(weight, x)
        loss: Tensor = kernels.class_loss(x, target, weight, plan, None if divisor is None else float(divisor))
        return loss
    check_supported(plan.function, input=x, target=target, weight=weight, sample_weight=sample_weight, alpha=alpha)
    link = reference.link(
        target if kernels and not plan.soft else _target_last(plan, target), plan.rows.classes, plan.soft, weight,
        sample_weight, alpha, ignore_index=plan.ignore_index, smoothing=plan.smoothing, z_loss=plan.z_loss,
        curve=None if soft_curve else plan.curve,
    )  # fmt: skip
    if kernels:
        weight, prior = (None if w is None else _accumulated(w, x) for w in (link.weight, link.prior))
        s: Statistics = kernels.row_statistics(x, target, weight, prior, plan, for_link=True)
    elif soft_curve is not None:
        nll = differentiable.soft_curve(_classes_last(x, plan.dim), link.weighted_target(), soft_curve)
        s = Statistics(nll, None, None, None, None)
    else:
        x_rows = _classes_last(x, plan.dim)
        s = differentiable.row_statistics(
            x_rows, link.weighted_target(), link.prior, plan.ignore_index, plan.temperature
        )
    if plan.reduction == "mean" and divisor is None:
        divisor = link.divisor(plan.denominator)
    loss = link.loss(s)
    if link.a is None and needs_grad(target):  # smoothed away: it has a gradient, and that is 0
        loss = loss + 0.0 * link.target.sum(-1)
    return reduce_rows(loss, divisor, plan.reduction).to(x.dtype)


def _check_divisor(function: str, divisor: Any) -> None:
    """A caller's own divisor is positive, where looking costs no wait for a device."""
    if isinstance(divisor, Tensor) and divisor.is_cpu and values_known(divisor):
        _check.check_positive(function, "denominator", divisor.item())


def class_vector(x: Tensor, numbers: tuple[float, ...]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64, device=x.device)


def probability_loss(plan: RowPlan, p: Tensor, target: Tensor) -> Tensor:
    p, target = _pair(plan, p, target)
    check_supported(plan.function, target=target)
    target, classes = _target_last(plan, target), plan.rows.classes
    target = reference.smoothed(target, classes, plan.smoothing) if plan.soft else target
    loss = reference.probability_cost(_classes_last(p, plan.dim), target, plan.ignore_index)
    divisor = reference.link(target, classes, plan.soft, ignore_index=plan.ignore_index).divisor(None)
    return reduce_rows(loss, divisor, plan.reduction).to(p.dtype)


def nll(plan: RowPlan, x: Tensor, target: Tensor, weight: Tensor | None) -> Tensor:
    """Where no kernel serves: PyTorch's own gather, unless something watches, and sums in float64."""
    if plan.as_given and ordinary(x, target, weight):
        return _by_one_kernel(eager.NLL, (x, target, weight), plan)
    _, target = _pair(plan, x, target)
    kernels = None if needs_grad(weight) else _kernels_for(x, target, weight)
    if kernels is eager:
        plan, x, target = _as_it_lies(plan, x, target)
    if kernels:
        result: Tensor = kernels.nll(x, target, None if weight is None else _accumulated(weight, x), plan)
        return result
    check_supported(plan.function, input=x, target=target, weight=weight)
    if watched() or x.is_meta:
        loss, w_y = reference.nll(_classes_last(x, plan.dim), target, weight, plan.ignore_index)
        return reduce_rows(loss, w_y.sum(), plan.reduction).to(x.dtype)
    dtype, x = x.dtype, x.float() if x.dtype in HALVES else x  # so that a half's gradient is rounded once
    weight = None if weight is None else weight.to(x.dtype)
    ignored = -100 if plan.ignore_index is None else plan.ignore_index
    try:
        loss = torch_nll_loss(x, target, weight, ignore_index=ignored, reduction="none") + 0.0  # no -0.0
    except IndexError:
        raise plan.index_error(target.tolist()) from None
    if plan.reduction == "none":
        return loss.to(dtype)
    total = loss.sum(dtype=torch.float64)
    if plan.reduction == "mean":
        kept = target != ignored
        w_y = kept if weight is None else torch.where(kept, weight[torch.where(kept, target, 0)], 0.0)
        divisor = w_y.sum(dtype=torch.float64)
        total = total / torch.where(divisor == 0.0, torch.nan, divisor)
    return total.to(dtype)


def pointwise(
    plan: ElementPlan, x: Tensor, target: Tensor, weight: Tensor | None = None, pos_weight: Tensor | None = None,
    sample_weight: Tensor | None = None, divisor: Tensor | float | None = None,
) -> Tensor:  # fmt: skip
    if plan.as_given and weight is None and ordinary(x, target):
        return _by_one_kernel(eager.PointwiseLoss, (x, target), None, None, plan, x.numel())
    squared = isinstance(plan.loss, reference.SquaredError)
    dtype = _promote(x, target, weight if squared else None)
    kernels = None
    of_a_number = divisor is None or isinstance(divisor, float)
    if sample_weight is None and of_a_number and plan.has_kernel(dtype, weight is not None):
        kernels = _kernels_for(x, target, weight, pos_weight)
    if kernels is operators and squared and weight is not None:
        kernels = None  # the sum of the weights is not known to the compiler
    if kernels and not needs_grad(weight, pos_weight, None if squared else target):
        floating = x.is_floating_point() and target.is_floating_point()
        inner = _promote(x, target, weight, pos_weight) if floating else torch.float64
        shape = x.shape if target.shape == x.shape else torch.broadcast_shapes(x.shape, target.shape)
        x, target = _as(x, inner, shape), _as(target, inner, shape)
        count = divisor  # else that of the elements
        if count is None and squared and weight is not None:
            count = weight.sum(dtype=torch.float64).item()  # as given, before it is expanded
        weight = None if weight is None else _as(weight, inner, shape)
        pos_weight = None if pos_weight is None else _as(pos_weight, inner, shape)
        loss = kernels.pointwise(x, target, weight, pos_weight, plan, count)
        return loss if inner is dtype else loss.to(dtype)
    named = dict(zip(plan.names, (x, target), strict=True))
    check_supported(plan.function, **named, weight=weight, pos_weight=pos_weight, sample_weight=sample_weight)
    _check_divisor(plan.function, divisor)
    kept = None
    if target.shape != x.shape:
        x, target = torch.broadcast_tensors(x, target)
    if plan.ignore_index is not None:
        kept = reference.wide(target) != float(plan.ignore_index)
        x, target = torch.where(kept, x, 0.5), torch.where(kept, target, 0.0)
    if plan.loss.of_probabilities:
        _check_probabilities(plan.function, kept, input=x, target=target)
    if plan.reduction == "mean" and divisor is None:
        if not squared:
            divisor = reference.elements(plan.denominator, target, weight, pos_weight, sample_weight, kept)
        elif weight is not None:
            divisor = reference.wide(weight).sum()
    arrays = (x, target) if pos_weight is None else (x, target, pos_weight.expand(x.shape))
    loss = differentiable.elementwise(plan.loss, *arrays)
    loss = reference.weighted(loss, weight, sample_weight, kept)
    return reduce_rows(loss, divisor, plan.reduction).to(dtype)


def _check_probabilities(function: str, kept: Tensor | None, **tensors: Tensor) -> None:
    """Every number is in [0, 1], wherever numbers may be looked at."""
    for name, a in tensors.items():
        if values_known(a) and a.numel():
            low, high = a.detach().aminmax()
            if not (low >= 0.0 and high <= 1.0):
                raise _check.probability_error(function, name, numbers(a), _mask(kept))


def _mask(kept: Tensor | None) -> Any:
    return None if kept is None else kept.cpu().numpy()


def _as(a: Tensor, dtype: torch.dtype, shape: Sequence[int]) -> Tensor:
    """Of this dtype and shape."""
    a = a if a.dtype is dtype else a.to(dtype)
    return a if a.shape == shape else a.expand(shape)


def root_mean_square(plan: ElementPlan, x: Tensor, target: Tensor, dims: tuple[int, ...]) -> Tensor:
    if plan.as_given and len(dims) == x.ndim:
        if ordinary(x, target):
            return _by_one_kernel(eager.RootMeanSquare, (x, target), plan)
        if kernels := _kernels_for(x, target):
            result: Tensor = kernels.root_mean_square(x, target, plan)
            return result
    check_supported(plan.function, input=x, target=target)
    root = reference.root_mean_square(reference.wide(x) - reference.wide(target), dims)
    return reduce_rows(root, None, plan.reduction).to(_promote(x, target))


def entropy(plan: RowPlan, p: Tensor, kind: str, normalize: bool, unit: float) -> Tensor:
    if kind == "logits" or (kind == "log_probs" and normalize):
        if unit == 1.0:
            if plan.is_moderate and ordinary(p):
                return _by_one_kernel(eager.Entropy, (p,), plan)
            return row_statistics(plan, p, None, None).entropy
        return (row_statistics(plan, reference.wide(p), None, None).entropy / unit).to(p.dtype)  # one rounding
    check_supported(plan.function, p=p)
    return (reference.entropy(_classes_last(p, plan.dim), kind, normalize) / unit).to(p.dtype)


def perplexity(plan: RowPlan, p: Tensor, form: str) -> Tensor:
    """exp of the entropy, but of float64, whose entropy would have been rounded, by itself."""
    if p.dtype is torch.float64:
        check_supported(plan.function, p=p)
        return differentiable.perplexity(_classes_last(p, plan.dim), form)
    kind, normalize = ("probs" if form in ("probs", "counts") else "log_probs"), form in ("counts", "logits")
    return entropy(plan, reference.wide(p), kind, normalize, 1.0).exp().to(p.dtype)


def measure(plan: RowPlan, p: Tensor, q: Tensor, p_form: str, q_form: str, unit: float) -> Tensor:
    check_supported(plan.function, p=p, q=q)
    dtype = _promote(p, q)
    p, q = p.to(dtype), q.to(dtype)
    if plan.function == "cross_entropy" and (p_form, q_form) == ("probs", "logits"):
        p, q = (p, q) if unit == 1.0 else (reference.wide(p), reference.wide(q))  # one rounding, after the division
        rows = row_statistics(plan._replace(soft=True), q, p, None).nll
    else:
        rows = differentiable.measure(
            plan.function, _classes_last(p, plan.dim), _classes_last(q, plan.dim), p_form, q_form
        )
    return (rows / unit + 0.0).to(dtype)


def inverse_softmax(plan: RowPlan, p: Tensor, center: str | None) -> Tensor:
    check_supported(plan.function, input=p)
    return differentiable.inverse_softmax(_classes_last(p, plan.dim), center).movedim(-1, plan.dim).reshape(p.shape)


def numbers(a: Tensor, dtype: str = "float64") -> NDArray[Any]:
    found: NDArray[Any] = a.detach().resolve_neg().cpu().to(getattr(torch, dtype)).numpy()
    return found


def extremes(plan: RowPlan, name: str, a: Tensor, labels: Tensor | None = None) -> tuple[float, float]:
    check_supported(plan.function, **{name: a})
    if not a.numel() or not values_known(a):
        return 0.0, 0.0
    if labels is not None and plan.ignore_index is not None:
        if not values_known(labels):
            return 0.0, 0.0
        kept = labels.reshape(plan.shape) != plan.ignore_index
        if not kept.any():
            return 0.0, 0.0
        a = _classes_last(a, plan.dim)[kept]
    low, high = a.min().item(), a.max().item()
    return extremes(plan, name, a[~a.isnan()]) if low != low else (low, high)
