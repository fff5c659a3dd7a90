"""The kernels as operators in a compiler's graph: what torch.compile records on CPU tensors.

A compiler must know the shapes of results without computing them, and their gradients. Each operator has an
implementation (`kernels`), a shape rule, and a gradient: another operator, or under `create_graph` the formula
(`by_formula`). Eager mode does not pass here (`eager`: a third of the time), nor do transforms and exported programs,
which keep the formulas: a program is to run where no lossless is installed.
"""

from collections.abc import Callable
from dataclasses import astuple
from typing import Any, Optional

import torch
from torch import Tensor

from lossless import reference
from lossless._layout import to_rows, without_dim
from lossless._plan import ElementPlan, RowPlan
from lossless._torch import by_formula, kernels
from lossless._torch.eager import of_difference
from lossless._torch.modes import all_in_memory, in_memory, needs_grad
from lossless.reference import Statistics

MaybeTensor = Optional[Tensor]  # noqa: UP045 - infer_schema reads no other form
MaybeInt = Optional[int]  # noqa: UP045 - infer_schema reads no other form
MaybeFloat = Optional[float]  # noqa: UP045 - infer_schema reads no other form

FUNCTORS: dict[str, Any] = {
    "bce_with_logits": reference.BinaryCrossEntropyWithLogits,
    "squared_error": reference.SquaredError,
    "sigmoid_focal": reference.SigmoidFocal,
    "kl_divergence": reference.KLDivergence,
    "sigmoid": reference.Sigmoid,
    "log_sigmoid": reference.LogSigmoid,
}
"""By the names of their kernels; an operator is told the fields of the one it computes, in their order."""

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
    out: Tensor = _transform_op("softmax", x, plan.dim, _told(plan.temperature))
    return out


def log_softmax(x: Tensor, plan: RowPlan) -> Tensor:
    out: Tensor = _transform_op("log_softmax", x, plan.dim, _told(plan.temperature))
    return out


def transform(name: str, x: Tensor, dim: int, temperature: MaybeTensor) -> Tensor:
    return kernels.transform(name, in_memory(x), _row_plan(name, x, None, temperature, dim, None))


def transform_backward(
    name: str, x: Tensor, dim: int, temperature: MaybeTensor, g: Tensor, result: MaybeTensor = None
) -> Tensor:
    plan, result = _row_plan(name, x, None, temperature, dim, None), None if result is None else in_memory(result)
    return kernels.transform_backward(name, in_memory(x), plan, g, result)


def _save_transform(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.name, x, ctx.dim, temperature = inputs
    by_result = temperature is None and kernels.result_serves(ctx.name, x, 1.0)
    ctx.save_for_backward(x, temperature, output if by_result else None)


def _transform_gradient(ctx: Any, g: Tensor) -> Any:
    x, temperature, result = ctx.saved_tensors
    if torch.is_grad_enabled():
        dx = by_formula.transform(ctx.name, x, _row_plan(ctx.name, x, None, temperature, ctx.dim, None), g)
    else:
        dx = _transform_backward_op(ctx.name, x, ctx.dim, temperature, g, result)
    return None, dx, None, None


_transform_op = _operator(transform, lambda name, x, dim, temperature: _like(x), _transform_gradient, _save_transform)
_transform_backward_op = _operator(transform_backward, lambda name, x, dim, temperature, g, result=None: _like(x))


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
        x, target, weight, prior, _told(plan.temperature), plan.function, plan.dim, plan.ignore_index, entropy,
        for_link, needs_grad(x),
    )  # fmt: skip
    wanted = (target is not None, True, entropy, prior is not None, target is not None)
    return Statistics(*(a if there else None for a, there in zip(out, wanted, strict=False)))


def statistics(
    x: Tensor, target: MaybeTensor, weight: MaybeTensor, prior: MaybeTensor, temperature: MaybeTensor, function: str,
    dim: int, ignore_index: MaybeInt, entropy: bool, unrounded: bool, differentiated: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """nll, lse, entropy, prior, correct and what backward needs: empty where not asked for."""
    plan = _row_plan(function, x, target, temperature, dim, ignore_index)
    x, target, weight, prior = all_in_memory(x, target, weight, prior)
    state = kernels.empty_state(x, plan.rows) if differentiated else None
    out = kernels.row_statistics(x, target, weight, prior, plan, entropy, unrounded, state)
    return _none_as_empty(x, *out, state)


def _statistics_shapes(
    x: Tensor, target: Any, weight: Any, prior: Any, temperature: Any, function: str, dim: int, ignore_index: Any,
    entropy: bool, unrounded: bool, differentiated: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    plan = _row_plan(function, x, target, None, dim, ignore_index)
    out = kernels.row_outputs(x, target, prior, plan, entropy, unrounded)
    return _none_as_empty(x, *out, kernels.empty_state(x, plan.rows) if differentiated else None)


def _save_statistics(ctx: Any, inputs: Any, output: Any) -> None:
    x, target, weight, prior, temperature, *ctx.options, _, _, _ = inputs
    ctx.save_for_backward(x, target, weight, prior, temperature, output[-1])
    ctx.set_materialize_grads(False)


def _statistics_gradient(ctx: Any, *g: Tensor | None) -> Any:
    x, target, weight, prior, temperature, state = ctx.saved_tensors
    there = target is not None, True, True, prior is not None
    d = [a if wanted and a is not None and a.numel() else None for a, wanted in zip(g, there, strict=False)]
    if torch.is_grad_enabled():
        function, *options = ctx.options
        plan = _row_plan(function, x, target, temperature, *options)
        dx = by_formula.row_statistics(x, target, weight, prior, plan, *d)
    else:
        dx = _statistics_backward_op(x, target, weight, prior, temperature, state, *d, *ctx.options)
    return dx, *(None,) * 10


def statistics_backward(
    x: Tensor, target: MaybeTensor, weight: MaybeTensor, prior: MaybeTensor, temperature: MaybeTensor, state: Tensor,
    d_nll: MaybeTensor, d_lse: MaybeTensor, d_entropy: MaybeTensor, d_prior: MaybeTensor, function: str, dim: int,
    ignore_index: MaybeInt,
) -> Tensor:  # fmt: skip
    plan = _row_plan(function, x, target, temperature, dim, ignore_index)
    x, target, weight, prior = all_in_memory(x, target, weight, prior)
    return kernels.row_statistics_backward(x, target, weight, prior, state, plan, d_nll, d_lse, d_entropy, d_prior)


_statistics_op = _operator(statistics, _statistics_shapes, _statistics_gradient, _save_statistics)
_statistics_backward_op = _operator(statistics_backward, _like)


# ---------------------------------------------------------------- losses over classes


def has_class_loss(plan: RowPlan) -> bool:
    """No divisor of the caller's is known to the compiler."""
    return plan.has_kernel and plan.denominator is None


def class_loss(x: Tensor, target: Tensor, weight: Tensor | None, plan: RowPlan, divisor: float | None = None) -> Tensor:
    """As `eager.class_loss`, without a divisor of the caller's."""
    gamma = plan.curve[1] if plan.curve else None
    loss: Tensor = _class_loss_op(
        x, target, weight, _told(plan.temperature), plan.function, plan.dim, plan.ignore_index, plan.smoothing,
        plan.reduction, plan.z_loss, gamma, needs_grad(x),
    )[0]  # fmt: skip
    return loss


def class_loss_forward(
    x: Tensor, target: Tensor, weight: MaybeTensor, temperature: MaybeTensor, function: str, dim: int,
    ignore_index: MaybeInt, smoothing: float, reduction: str, z_loss: float, gamma: MaybeFloat, differentiated: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """(loss, what a mean was divided by, what backward needs)."""
    plan = _row_plan(function, x, target, temperature, dim, ignore_index, smoothing, reduction, z_loss, gamma)
    x, target, weight = all_in_memory(x, target, weight)
    state = kernels.empty_state(x, plan.rows) if differentiated else None
    loss, divisor = kernels.class_loss(x, target, weight, plan, state)
    return _none_as_empty(x, loss, torch.scalar_tensor(divisor, dtype=torch.float64), state)


def _class_loss_shapes(
    x: Tensor, target: Tensor, weight: Any, temperature: Any, function: str, dim: int, ignore_index: Any,
    smoothing: float, reduction: Any, z_loss: float, gamma: Any, differentiated: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    plan = _row_plan(function, x, target, None, dim, ignore_index, smoothing, reduction)
    loss = x.new_empty(plan.shape if reduction == "none" else ())
    state = kernels.empty_state(x, plan.rows) if differentiated else None
    return _none_as_empty(x, loss, x.new_empty((), dtype=torch.float64), state)


def _save_class_loss(ctx: Any, inputs: Any, output: Any) -> None:
    x, target, weight, temperature, *ctx.options, _ = inputs
    ctx.save_for_backward(x, target, weight, temperature, *output[1:])


def _class_loss_gradient(ctx: Any, g: Tensor, *_: None) -> Any:
    x, target, weight, temperature, divisor, state = ctx.saved_tensors
    if torch.is_grad_enabled():
        function, *options = ctx.options
        plan = _row_plan(function, x, target, temperature, *options)
        dx = by_formula.class_loss(x, target, weight, plan, divisor, g)
    else:
        dx = _class_loss_backward_op(x, target, weight, temperature, state, divisor, g, *ctx.options)
    return dx, *(None,) * 11


def class_loss_backward(
    x: Tensor, target: Tensor, weight: MaybeTensor, temperature: MaybeTensor, state: Tensor, divisor: Tensor, g: Tensor,
    function: str, dim: int, ignore_index: MaybeInt, smoothing: float, reduction: str, z_loss: float,
    gamma: MaybeFloat,
) -> Tensor:  # fmt: skip
    plan = _row_plan(function, x, target, temperature, dim, ignore_index, smoothing, reduction, z_loss, gamma)
    x, target, weight = all_in_memory(x, target, weight)
    return kernels.class_loss_backward(x, target, weight, state, plan, divisor.item(), g)


_class_loss_op = _operator(class_loss_forward, _class_loss_shapes, _class_loss_gradient, _save_class_loss)
_class_loss_backward_op = _operator(class_loss_backward, _like)


def nll(x: Tensor, target: Tensor, weight: Tensor | None, plan: RowPlan) -> Tensor:
    """As `eager.nll`."""
    loss: Tensor = _nll_op(x, target, weight, plan.function, plan.dim, plan.ignore_index, plan.reduction)[0]
    return loss


def nll_forward(
    x: Tensor, target: Tensor, weight: MaybeTensor, function: str, dim: int, ignore_index: MaybeInt, reduction: str
) -> tuple[Tensor, Tensor]:
    """(loss, what a mean was divided by)."""
    plan = _row_plan(function, x, target, None, dim, ignore_index, reduction=reduction)
    x, target, weight = all_in_memory(x, target, weight)
    loss, divisor = kernels.nll(x, target, weight, plan)
    return loss, torch.scalar_tensor(divisor, dtype=torch.float64)


def _nll_shapes(
    x: Tensor, target: Any, weight: Any, function: str, dim: int, ignore_index: Any, reduction: str
) -> tuple[Tensor, Tensor]:
    shape = without_dim(x.shape, dim) if reduction == "none" else ()
    return x.new_empty(shape), x.new_empty((), dtype=torch.float64)


def _save_nll(ctx: Any, inputs: Any, output: Any) -> None:
    x, target, weight, *ctx.options = inputs
    ctx.save_for_backward(x, target, weight, output[1])


def _nll_gradient(ctx: Any, g: Tensor, _: None) -> Any:
    x, target, weight, divisor = ctx.saved_tensors
    if torch.is_grad_enabled():
        function, dim, ignore_index, reduction = ctx.options
        plan = _row_plan(function, x, target, None, dim, ignore_index, reduction=reduction)
        dx = by_formula.nll(x, target, weight, plan, divisor, g)
    else:
        dx = _nll_backward_op(x, target, weight, divisor, g, *ctx.options)
    return dx, *(None,) * 6


def nll_backward(
    x: Tensor, target: Tensor, weight: MaybeTensor, divisor: Tensor, g: Tensor, function: str, dim: int,
    ignore_index: MaybeInt, reduction: str,
) -> Tensor:  # fmt: skip
    plan = _row_plan(function, x, target, None, dim, ignore_index, reduction=reduction)
    x, target, weight = all_in_memory(x, target, weight)
    return kernels.nll_backward(x, target, weight, plan, divisor.item(), g)


_nll_op = _operator(nll_forward, _nll_shapes, _nll_gradient, _save_nll)
_nll_backward_op = _operator(nll_backward, _like)


# ---------------------------------------------------------------- single numbers


def pointwise(
    x: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None, plan: ElementPlan,
    divisor: float | None,
) -> Tensor:  # fmt: skip
    """As `eager.pointwise`."""
    by = None if divisor is None else _tensor(divisor)
    result: Tensor = _pointwise_op(x, target, weight, pos_weight, by, *_named(plan.loss), plan.reduction)
    return result


def elementwise(functor: reference.Elementwise, x: Tensor) -> Tensor:
    """As `eager.elementwise`."""
    result: Tensor = _pointwise_op(x, None, None, None, None, *_named(functor), "none")
    return result


def _named(functor: Any) -> tuple[str, list[float]]:
    """What an operator is told of it."""
    return functor.kernel, [float(value) for value in astuple(functor)]


def pointwise_forward(
    x: Tensor, target: MaybeTensor, weight: MaybeTensor, pos_weight: MaybeTensor, divisor: MaybeTensor, kernel: str,
    fields: list[float], reduction: str,
) -> Tensor:  # fmt: skip
    """Of a loss, or without a target of a function of x alone."""
    x, target, weight, pos_weight = all_in_memory(x, target, weight, pos_weight)
    functor = FUNCTORS[kernel](*fields)
    if target is None:
        return kernels.elementwise(functor, x)
    by = _count(x, divisor)
    return kernels.pointwise(functor, x, target, weight, pos_weight, reduction, by)  # type: ignore[arg-type]


def _count(x: Tensor, divisor: Tensor | None) -> float:
    return float(x.numel() if divisor is None else divisor.item())


def _save_pointwise(ctx: Any, inputs: Any, output: Any) -> None:
    *tensors, ctx.kernel, ctx.fields, ctx.reduction = inputs
    ctx.save_for_backward(*tensors)


def _pointwise_gradient(ctx: Any, g: Tensor) -> Any:
    x, target, weight, pos_weight, divisor = ctx.saved_tensors
    if torch.is_grad_enabled():
        functor, by = FUNCTORS[ctx.kernel](*ctx.fields), x.numel() if divisor is None else divisor
        dx = by_formula.pointwise(functor, x, target, weight, pos_weight, by if ctx.reduction == "mean" else 1.0, g)
    else:
        options = ctx.kernel, ctx.fields, ctx.reduction
        dx = _pointwise_backward_op(x, target, weight, pos_weight, divisor, g, *options)
    return *of_difference(ctx, dx), *(None,) * 6


def pointwise_backward(
    x: Tensor, target: MaybeTensor, weight: MaybeTensor, pos_weight: MaybeTensor, divisor: MaybeTensor, g: Tensor,
    kernel: str, fields: list[float], reduction: str,
) -> Tensor:  # fmt: skip
    by = _count(x, divisor) if reduction == "mean" else 1.0
    x, target, weight, pos_weight = all_in_memory(x, target, weight, pos_weight)
    return kernels.pointwise_backward(FUNCTORS[kernel](*fields), x, target, weight, pos_weight, by, g)


_pointwise_op = _operator(
    pointwise_forward,
    lambda x, target, weight, pos_weight, divisor, kernel, fields, reduction: x.new_empty(
        x.shape if reduction == "none" else ()
    ),
    _pointwise_gradient,
    _save_pointwise,
)
_pointwise_backward_op = _operator(pointwise_backward, _like)


SQUARES = reference.SquaredError()
BY_FORMULA = -1.0
"""The root of what no kernel can square."""


def root_mean_square(x: Tensor, target: Tensor, plan: ElementPlan) -> Tensor:
    """As `eager.root_mean_square`."""
    loss: Tensor = _root_mean_square_op(x, target)[0]
    return loss


def root_mean_square_forward(x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(rounded, unrounded or `BY_FORMULA`)."""
    loss, root = kernels.root_mean_square(SQUARES, *all_in_memory(x, target))
    return loss, torch.scalar_tensor(BY_FORMULA if root is None else root, dtype=torch.float64)


def _save_root_mean_square(ctx: Any, inputs: Any, output: Any) -> None:
    ctx.save_for_backward(*inputs, output[1])


def _root_mean_square_gradient(ctx: Any, g: Tensor, _: None) -> Any:
    x, target, root = ctx.saved_tensors
    if torch.is_grad_enabled():
        dx = by_formula.root_mean_square(x, target, g)
    else:
        dx = _root_mean_square_backward_op(x, target, root, g)
    return of_difference(ctx, dx)


def root_mean_square_backward(x: Tensor, target: Tensor, root: Tensor, g: Tensor) -> Tensor:
    if root.item() == BY_FORMULA:
        return by_formula.root_mean_square(x, target, g)
    x, target = all_in_memory(x, target)
    return kernels.root_mean_square_backward(SQUARES, x, target, root.item(), g)


_root_mean_square_op = _operator(
    root_mean_square_forward,
    lambda x, target: (x.new_empty(()), x.new_empty((), dtype=torch.float64)),
    _root_mean_square_gradient,
    _save_root_mean_square,
)
_root_mean_square_backward_op = _operator(root_mean_square_backward, _like)


# ---------------------------------------------------------------- shared


def _none_as_empty(x: Tensor, *outputs: Tensor | None) -> tuple[Any, ...]:
    """An operator returns tensors only."""
    return tuple(x.new_empty(0) if a is None else a for a in outputs)


def _tensor(number: float) -> Tensor:
    """Of a number that may change from call to call: a float is a constant to a compiler, which compiles anew.

    But it takes a factor of a tensor for a tensor.
    """
    return torch.ones((), dtype=torch.float64) * number


def _told(temperature: float) -> Tensor | None:
    return None if temperature == 1.0 else _tensor(temperature)


def _number(temperature: Tensor | None) -> float:
    return 1.0 if temperature is None else temperature.item()


def _row_plan(
    function: str, x: Tensor, target: Tensor | None, temperature: Tensor | None, dim: int, ignore_index: int | None,
    smoothing: float = 0.0, reduction: Any = "none", z_loss: float = 0.0, gamma: float | None = None,
) -> RowPlan:  # fmt: skip
    """The plan again, from what an operator can be given."""
    soft = target is not None and target.is_floating_point()
    rows, shape = to_rows(x.shape, dim), without_dim(x.shape, dim)
    curve = None if gamma is None else ("focal", gamma)
    return RowPlan(
        function, dim, rows, shape, soft, ignore_index, smoothing, reduction, None, z_loss, _number(temperature), curve
    ).linked()
