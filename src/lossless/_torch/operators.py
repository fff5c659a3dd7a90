"""The kernels as operators in a compiler's graph: what torch.compile records on CPU tensors.

A compiler must know the shapes of results without computing them, and their gradients. Each operator has an
implementation (`kernels`), a shape rule, and a gradient: another operator, or under `create_graph` the formula
(`by_formula`). Eager mode does not pass here (`eager`: a third of the time), nor do transforms and exported programs,
which keep the formulas: a program is to run where no lossless is installed.
"""

from collections.abc import Callable
from typing import Any, Optional

import torch
from torch import Tensor

from lossless import reference
from lossless._layout import to_rows, without_dim
from lossless._plan import ElementPlan, RowPlan
from lossless._torch import by_formula, kernels
from lossless._torch.modes import all_in_memory, in_memory, needs_grad
from lossless.reference import Statistics

MaybeTensor = Optional[Tensor]  # noqa: UP045 - infer_schema reads no other form
MaybeInt = Optional[int]  # noqa: UP045 - infer_schema reads no other form

FUNCTORS: dict[str, reference.Pointwise] = {
    "bce_with_logits": reference.BinaryCrossEntropyWithLogits(),
    "squared_error": reference.SquaredError(),
}

_library = torch.library.Library("lossless", "FRAGMENT")


def _refuse(ctx: Any, *g: Any) -> Any:
    raise NotImplementedError(
        "lossless: the second derivative of a compiled function was asked for: compute it in eager mode"
    )


def _operator(
    function: Callable[..., Any],
    shapes: Callable[..., Any],
    gradient: Callable[..., Any] = _refuse,
    save: Callable[..., None] | None = None,
) -> Any:
    """`function` on CPU tensors; `shapes` on tensors without numbers; `gradient` of what `save` keeps."""
    name = function.__name__
    if hasattr(torch.ops.lossless, name):  # lossless is imported once more in this process; PyTorch's table stays
        return getattr(torch.ops.lossless, name).default
    _library.define(
        torch.library.infer_schema(function, mutates_args=(), op_name=name), tags=torch.Tag.pt2_compliant_tag
    )
    _library.impl(name, function, "CPU")
    torch.library.register_fake(f"lossless::{name}", shapes, lib=_library)
    torch.library.register_autograd(f"lossless::{name}", gradient, setup_context=save, lib=_library)
    return getattr(torch.ops.lossless, name).default


def _like(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape)


# ---------------------------------------------------------------- transforms


def softmax(x: Tensor, plan: RowPlan) -> Tensor:
    out: Tensor = _transform_op("softmax", x, plan.dim)
    return out


def log_softmax(x: Tensor, plan: RowPlan) -> Tensor:
    out: Tensor = _transform_op("log_softmax", x, plan.dim)
    return out


def transform(name: str, x: Tensor, dim: int) -> Tensor:
    return kernels.transform(name, in_memory(x), to_rows(x.shape, dim), 1.0)


def transform_backward(name: str, x: Tensor, dim: int, g: Tensor, result: MaybeTensor = None) -> Tensor:
    result = None if result is None else in_memory(result)
    return kernels.transform_backward(name, in_memory(x), to_rows(x.shape, dim), 1.0, g, None, result)


def _save_transform(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.name, x, ctx.dim = inputs
    ctx.save_for_backward(x, output if kernels.result_serves(ctx.name, x, 1.0) else None)


def _transform_gradient(ctx: Any, g: Tensor) -> Any:
    x, result = ctx.saved_tensors
    if torch.is_grad_enabled():
        return None, by_formula.transform(ctx.name, x, to_rows(x.shape, ctx.dim), 1.0, g), None
    return None, _transform_backward_op(ctx.name, x, ctx.dim, g, result), None


_transform_op = _operator(transform, lambda name, x, dim: _like(x), _transform_gradient, _save_transform)
_transform_backward_op = _operator(transform_backward, lambda name, x, dim, g, result=None: _like(x))


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
    """As `eager.row_statistics`."""
    entropy = not (only_lse or for_link)
    out = _statistics_op(
        x, target, weight, prior, plan.function, plan.dim, plan.ignore_index, entropy, for_link, needs_grad(x)
    )
    wanted = (target is not None, True, entropy, prior is not None, target is not None)
    return Statistics(*(a if there else None for a, there in zip(out, wanted, strict=False)))


def statistics(
    x: Tensor, target: MaybeTensor, weight: MaybeTensor, prior: MaybeTensor, function: str, dim: int,
    ignore_index: MaybeInt, entropy: bool, unrounded: bool, differentiated: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """nll, lse, entropy, prior, correct and what backward needs: empty where not asked for."""
    plan = _row_plan(function, x, target, dim, ignore_index)
    x, target, weight, prior = all_in_memory(x, target, weight, prior)
    state = kernels.empty_state(x, plan.rows) if differentiated else None
    out = kernels.row_statistics(x, target, weight, prior, plan, entropy, unrounded, state)
    return _none_as_empty(x, *out, state)


def _statistics_shapes(
    x: Tensor, target: Any, weight: Any, prior: Any, function: str, dim: int, ignore_index: Any, entropy: bool,
    unrounded: bool, differentiated: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    plan = _row_plan(function, x, target, dim, ignore_index)
    out = kernels.row_outputs(x, target, prior, plan, entropy, unrounded)
    return _none_as_empty(x, *out, kernels.empty_state(x, plan.rows) if differentiated else None)


def _save_statistics(ctx: Any, inputs: Any, output: Any) -> None:
    x, target, weight, prior, function, dim, ignore_index, *_ = inputs
    ctx.save_for_backward(x, target, weight, prior, output[-1])
    ctx.plan = _row_plan(function, x, target, dim, ignore_index)
    ctx.set_materialize_grads(False)


def _statistics_gradient(ctx: Any, *g: Tensor | None) -> Any:
    x, target, weight, prior, state = ctx.saved_tensors
    plan, there = ctx.plan, (target is not None, True, True, prior is not None)
    d = [a if wanted and a is not None and a.numel() else None for a, wanted in zip(g, there, strict=False)]
    if torch.is_grad_enabled():
        dx = by_formula.row_statistics(x, target, weight, prior, plan, *d)
    else:
        dx = _statistics_backward_op(x, target, weight, prior, state, *d, plan.function, plan.dim, plan.ignore_index)
    return dx, *(None,) * 9


def statistics_backward(
    x: Tensor, target: MaybeTensor, weight: MaybeTensor, prior: MaybeTensor, state: Tensor, d_nll: MaybeTensor,
    d_lse: MaybeTensor, d_entropy: MaybeTensor, d_prior: MaybeTensor, function: str, dim: int, ignore_index: MaybeInt,
) -> Tensor:  # fmt: skip
    plan = _row_plan(function, x, target, dim, ignore_index)
    x, target, weight, prior = all_in_memory(x, target, weight, prior)
    return kernels.row_statistics_backward(x, target, weight, prior, state, plan, d_nll, d_lse, d_entropy, d_prior)


_statistics_op = _operator(statistics, _statistics_shapes, _statistics_gradient, _save_statistics)
_statistics_backward_op = _operator(statistics_backward, _like)


# ---------------------------------------------------------------- cross-entropy


def has_class_loss(plan: RowPlan) -> bool:
    return plan.is_plain


def class_loss(x: Tensor, target: Tensor, weight: Tensor | None, plan: RowPlan, divisor: float | None = None) -> Tensor:
    """As `eager.class_loss`, of PyTorch's cross-entropy, for which no divisor is given."""
    loss: Tensor = _cross_entropy_op(
        x, target, weight, plan.function, plan.dim, plan.ignore_index, plan.smoothing, plan.reduction, needs_grad(x)
    )[0]
    return loss


def cross_entropy_forward(
    x: Tensor, target: Tensor, weight: MaybeTensor, function: str, dim: int, ignore_index: MaybeInt, smoothing: float,
    reduction: str, differentiated: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(loss, what a mean was divided by, what backward needs)."""
    plan = _row_plan(function, x, target, dim, ignore_index, smoothing, reduction)
    x, target, weight = all_in_memory(x, target, weight)
    state = kernels.empty_state(x, plan.rows) if differentiated else None
    loss, divisor, _ = kernels.class_loss(x, target, weight, plan, None, state)
    return _none_as_empty(x, loss, torch.scalar_tensor(divisor, dtype=torch.float64), state)


def _cross_entropy_shapes(
    x: Tensor, target: Tensor, weight: Any, function: str, dim: int, ignore_index: Any, smoothing: float,
    reduction: Any, differentiated: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    plan = _row_plan(function, x, target, dim, ignore_index, smoothing, reduction)
    loss = x.new_empty(plan.shape if reduction == "none" else ())
    state = kernels.empty_state(x, plan.rows) if differentiated else None
    return _none_as_empty(x, loss, x.new_empty((), dtype=torch.float64), state)


def _save_cross_entropy(ctx: Any, inputs: Any, output: Any) -> None:
    x, target, weight, *options, _ = inputs
    _, divisor, state = output
    ctx.save_for_backward(x, target, weight, divisor, state)
    ctx.options = options


def _cross_entropy_gradient(ctx: Any, g: Tensor, *_: None) -> Any:
    x, target, weight, divisor, state = ctx.saved_tensors
    function, *options = ctx.options
    if torch.is_grad_enabled():
        dx = by_formula.class_loss(x, target, weight, _row_plan(function, x, target, *options), divisor, g)
    else:
        dx = _cross_entropy_backward_op(x, target, weight, state, divisor, g, function, *options)
    return dx, *(None,) * 8


def cross_entropy_backward(
    x: Tensor, target: Tensor, weight: MaybeTensor, state: Tensor, divisor: Tensor, g: Tensor, function: str, dim: int,
    ignore_index: MaybeInt, smoothing: float, reduction: str,
) -> Tensor:  # fmt: skip
    plan = _row_plan(function, x, target, dim, ignore_index, smoothing, reduction)
    x, target, weight = all_in_memory(x, target, weight)
    return kernels.class_loss_backward(x, target, weight, state, plan, divisor.item(), g)


_cross_entropy_op = _operator(
    cross_entropy_forward, _cross_entropy_shapes, _cross_entropy_gradient, _save_cross_entropy
)
_cross_entropy_backward_op = _operator(cross_entropy_backward, _like)


# ---------------------------------------------------------------- elementwise losses


def pointwise(
    x: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None, plan: ElementPlan, count: int
) -> Tensor:
    """As `eager.pointwise`; `count` is that of the elements."""
    result: Tensor = _pointwise_op(x, target, weight, pos_weight, plan.loss.kernel or "", plan.reduction)
    return result


def pointwise_forward(
    x: Tensor, target: Tensor, weight: MaybeTensor, pos_weight: MaybeTensor, kernel: str, reduction: str
) -> Tensor:
    x, target, weight, pos_weight = all_in_memory(x, target, weight, pos_weight)
    functor = FUNCTORS[kernel]
    return kernels.pointwise(functor, x, target, weight, pos_weight, reduction, x.numel())[0]  # type: ignore[arg-type]


def _save_pointwise(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, ctx.kernel, ctx.reduction = inputs
    ctx.save_for_backward(*tensors)


def _pointwise_gradient(ctx: Any, g: Tensor) -> Any:
    tensors = ctx.saved_tensors
    if torch.is_grad_enabled():
        divisor = tensors[0].numel() if ctx.reduction == "mean" else 1.0
        x, target, weight, pos_weight = tensors
        dx = by_formula.pointwise(FUNCTORS[ctx.kernel], x, target, weight, pos_weight, divisor, g)
    else:
        dx = _pointwise_backward_op(*tensors, g, ctx.kernel, ctx.reduction)
    over_x, over_target = ctx.needs_input_grad[:2]
    return dx if over_x else None, -dx if over_target else None, *(None,) * 4


def pointwise_backward(
    x: Tensor, target: Tensor, weight: MaybeTensor, pos_weight: MaybeTensor, g: Tensor, kernel: str, reduction: str
) -> Tensor:
    divisor = x.numel() if reduction == "mean" else 1.0
    x, target, weight, pos_weight = all_in_memory(x, target, weight, pos_weight)
    return kernels.pointwise_backward(FUNCTORS[kernel], x, target, weight, pos_weight, divisor, g)


_pointwise_op = _operator(
    pointwise_forward,
    lambda x, target, weight, pos_weight, kernel, reduction: x.new_empty(x.shape if reduction == "none" else ()),
    _pointwise_gradient,
    _save_pointwise,
)
_pointwise_backward_op = _operator(pointwise_backward, _like)


# ---------------------------------------------------------------- shared


def _none_as_empty(x: Tensor, *outputs: Tensor | None) -> tuple[Any, ...]:
    """An operator returns tensors only."""
    return tuple(x.new_empty(0) if a is None else a for a in outputs)


def _row_plan(
    function: str, x: Tensor, target: Tensor | None, dim: int, ignore_index: int | None, smoothing: float = 0.0,
    reduction: Any = "none",
) -> RowPlan:  # fmt: skip
    """The plan again, from what an operator can be given."""
    soft = target is not None and target.is_floating_point()
    rows, shape = to_rows(x.shape, dim), without_dim(x.shape, dim)
    return RowPlan(function, dim, rows, shape, soft, ignore_index, smoothing, reduction)
