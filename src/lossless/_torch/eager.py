"""The fast path: plain CPU tensors straight to the compiled kernels.

Old-style `autograd.Function`s, which cost a third of the ones that `torch.func` needs. Only `x` is differentiated here
(for squared error also the target); a call that needs more takes the reference path. Under `create_graph`, in forward
mode, and where a transform batches the incoming gradient, backward returns the reference gradient, made of
differentiable operations. All tensors arrive in one dtype; a Function's also contiguous in memory: `ordinary` ones may
be given to it straight.

What every step of a training does is in the core (`native/functions.cpp`): in small calls Python's frames are most of
the time. What is rare is here.
"""
# mypy: allow-subclassing-any

import os
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.graph import increment_version

from lossless import reference
from lossless._kernels import native
from lossless._plan import ElementPlan, RowPlan
from lossless._torch import by_formula, kernels
from lossless._torch.modes import (
    all_in_memory,
    batched,
    carry_tangents,
    in_memory,
    may_be_overwritten,
    needs_grad,
    share_memory,
    watched,
)
from lossless.reference import Statistics

_saving_hooks: Any = torch._C._autograd._top_saved_tensors_default_hooks


class _KernelFunction(Function):
    """Forward and `by_kernel` call kernels; `by_formula` is the same gradient made of differentiable operations."""

    core: str
    "What its forward and backward passes are called in the core, if they are there."
    backward: Callable[..., Any]
    by_kernel: Callable[..., Any]
    by_formula: Callable[..., Any]
    recorded: Callable[..., Any]
    "`apply` without its look for transforms, a third of its time: who calls has looked."

    def __init_subclass__(cls) -> None:
        cls.recorded = super(Function, cls).apply

        def backward(ctx: Any, *g: Any) -> Any:  # compiled autograd reads functions, and no methods
            return cls.differentiate(ctx, *g)

        cls.backward = staticmethod(backward)

    @classmethod
    def use_core(cls) -> None:
        """Takes forward and backward passes from the core."""
        cls.forward = staticmethod(getattr(native.functions, f"{cls.core}_forward"))
        # Autograd calls `apply`; PyTorch's own would ask in Python which of two names `backward` has.
        cls._backward_cls.apply = getattr(native.functions, f"{cls.core}_backward")

        def backward(ctx: Any, *g: Any) -> Any:  # for who reads it: a compiler, which sees nothing of the core
            return cls.by_formula(ctx, *g)

        cls.backward = staticmethod(backward)

    @classmethod
    def call(cls, x: Tensor, *args: Any) -> Any:
        """With autograd, or the forward alone where no gradient is needed."""
        return cls.recorded(x, *args) if needs_grad(x) else cls.forward(None, x, *args)

    @classmethod
    def differentiate(cls, ctx: Any, *g: Tensor | None) -> Any:
        """The backward pass."""
        if not (torch.is_grad_enabled() or watched() or carry_tangents()):
            try:
                return cls.by_kernel(ctx, *g)
            except RuntimeError:  # a batch in disguise has no memory to work on
                if not any(a is not None and batched(a) for a in g):
                    raise
        return cls.by_formula(ctx, *g)


# ---------------------------------------------------------------- transforms


def softmax(x: Tensor, plan: RowPlan) -> Tensor:
    return Softmax.call(in_memory(x), plan)


def log_softmax(x: Tensor, plan: RowPlan) -> Tensor:
    return LogSoftmax.call(in_memory(x), plan)


class Softmax(_KernelFunction):
    """Of (x, plan)."""

    core = "softmax"

    @classmethod
    def by_formula(cls, ctx: Any, g: Tensor) -> Any:
        x, *_ = ctx.saved_tensors
        return by_formula.transform(cls.core, x, ctx.plan, g), None


class LogSoftmax(Softmax):
    core = "log_softmax"


def elementwise(functor: reference.Elementwise, x: Tensor) -> Tensor:
    return Elementwise.call(in_memory(x), functor)


class Elementwise(_KernelFunction):
    """Of (x, functor)."""

    core = "elementwise"

    @staticmethod
    def by_formula(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return by_formula.elementwise(ctx.functor, x, g), None


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
    """Rounded; `weight` multiplies probabilities. Without the entropy for `only_lse`, and `for_link`: unrounded."""
    arrays = all_in_memory(x, target, weight, prior)
    return Statistics(*RowStatistics.call(*arrays, plan, not (only_lse or for_link), for_link))


class RowStatistics(_KernelFunction):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        target: Tensor | None,
        weight: Tensor | None,
        prior: Tensor | None,
        plan: RowPlan,
        with_entropy: bool,
        unrounded: bool,
    ) -> tuple[Tensor | None, ...]:
        state = None if ctx is None else kernels.empty_state(x, plan.rows)
        out = kernels.row_statistics(x, target, weight, prior, plan, with_entropy, unrounded, state)
        if ctx is not None:
            ctx.save_for_backward(x, target, weight, prior, state)
            ctx.plan = plan
            ctx.set_materialize_grads(False)
            if out.correct is not None:
                ctx.mark_non_differentiable(out.correct)
        return out

    @staticmethod
    def by_kernel(ctx: Any, *g: Tensor | None) -> Any:
        x, target, weight, prior, state = ctx.saved_tensors
        partials = g[:4]  # of nll, lse, entropy, prior; `correct` has none
        return kernels.row_statistics_backward(x, target, weight, prior, state, ctx.plan, *partials), *(None,) * 6

    @staticmethod
    def by_formula(ctx: Any, *g: Tensor | None) -> Any:
        x, target, weight, prior, _ = ctx.saved_tensors
        return by_formula.row_statistics(x, target, weight, prior, ctx.plan, *g[:4]), *(None,) * 6


# ---------------------------------------------------------------- losses


_overwriting = threading.Lock()


def _new_lock() -> None:
    """In a forked child, where the old one may be another thread's."""
    global _overwriting
    _overwriting = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


class _LossFunction(_KernelFunction):
    """A loss may have its gradient ready, in `ctx.ready`.

    With `inplace` it goes over the logits, when the backward pass comes and not before.
    """

    gradient: Callable[..., Any]
    "By kernels, of (ctx, the saved tensors, the upstream gradient, into what)."

    @classmethod
    def give_up(cls, ctx: Any, x: Tensor) -> None:
        """Notes whether the gradient may go over the logits: not where somebody saves them in his own way."""
        ctx.given_up, ctx.overwritten = may_be_overwritten(x) and _saving_hooks(True) is None, False

    @classmethod
    def over_logits(cls, ctx: Any, g: Tensor) -> Any:
        """The backward pass with `inplace`."""
        if ctx.overwritten:
            raise RuntimeError(
                f"{ctx.plan.function}: the first backward pass has written the gradient over the logits, as "
                "inplace=True allows: leave it out to call backward twice"
            )
        return super().differentiate(ctx, g)

    @classmethod
    def by_kernel(cls, ctx: Any, g: Tensor) -> Any:
        """Autograd is told first, so that nobody reads what an interrupted kernel has left."""
        with _overwriting:  # of two backward passes at once only one finds the logits as they were
            x, *others = saved = ctx.saved_tensors
            over = ctx.given_up and not (batched(g) or share_memory(x, g, *others))
            if over:
                increment_version(x)
                ctx.overwritten = True
        return cls.gradient(ctx, saved, g, x.detach() if over else None)


class Entropy(_LossFunction):
    """Of the softmax of each row; of (x, plan)."""

    core = "entropy"

    @staticmethod
    def by_formula(ctx: Any, g: Tensor) -> Any:
        x, _ = ctx.saved_tensors
        return by_formula.row_statistics(x, None, None, None, ctx.plan, None, None, g, None), None


def has_class_loss(plan: RowPlan) -> bool:
    return plan.has_kernel


def class_loss(x: Tensor, target: Tensor, weight: Tensor | None, plan: RowPlan, divisor: float | None) -> Tensor:
    """The loss, reduced and rounded; a mean by `divisor`, if one is given."""
    result: Tensor = ClassLoss.call(*all_in_memory(x, target, weight), plan, divisor)
    return result


class ClassLoss(_LossFunction):
    """Of (x, target, weight, plan, divisor)."""

    core = "class_loss"

    @staticmethod
    def gradient(ctx: Any, saved: Any, g: Tensor, into: Tensor | None) -> Any:
        x, target, weight, state = saved
        dx = kernels.class_loss_backward(x, target, weight, state, ctx.plan, ctx.divisor, g, into)
        return dx, None, None, None, None

    @staticmethod
    def by_formula(ctx: Any, g: Tensor) -> Any:
        x, target, weight, _ = ctx.saved_tensors
        return by_formula.class_loss(x, target, weight, ctx.plan, ctx.divisor, g), None, None, None, None


def nll(x: Tensor, target: Tensor, weight: Tensor | None, plan: RowPlan) -> Tensor:
    """Of log-probabilities, reduced and rounded."""
    result: Tensor = NLL.call(*all_in_memory(x, target, weight), plan)
    return result


class NLL(_KernelFunction):
    """Of (x, target, weight, plan)."""

    core = "nll"

    @staticmethod
    def by_formula(ctx: Any, g: Tensor) -> Any:
        x, target, weight = ctx.saved_tensors
        return by_formula.nll(x, target, weight, ctx.plan, ctx.divisor, g), None, None, None


def pointwise(
    x: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None, plan: ElementPlan,
    divisor: float | None,
) -> Tensor:  # fmt: skip
    """The loss, reduced and rounded, a mean by `divisor`, or by the number of elements.

    Of squared error `target` may need a gradient too.
    """
    args = (*all_in_memory(x, target, weight, pos_weight), plan, x.numel() if divisor is None else divisor)
    result: Tensor = PointwiseLoss.recorded(*args) if needs_grad(target) else PointwiseLoss.call(*args)
    return result


class PointwiseLoss(_LossFunction):
    """Of (x, target, weight, pos_weight, plan, divisor)."""

    core = "pointwise"

    @staticmethod
    def gradient(ctx: Any, saved: Any, g: Tensor, into: Tensor | None) -> Any:
        x, target, weight, pos_weight = saved
        dx = kernels.pointwise_backward(ctx.plan.loss, x, target, weight, pos_weight, ctx.divisor, g, into)
        return *of_difference(ctx, dx), None, None, None, None

    @staticmethod
    def by_formula(ctx: Any, g: Tensor) -> Any:
        x, target, weight, pos_weight = ctx.saved_tensors
        dx = by_formula.pointwise(ctx.plan.loss, x, target, weight, pos_weight, ctx.divisor, g)
        return *of_difference(ctx, dx), None, None, None, None


def of_difference(ctx: Any, dx: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """The gradients over `x` and `target` of what depends on x - target alone."""
    over_x, over_target, *_ = ctx.needs_input_grad
    return dx if over_x else None, -dx if over_target else None


def root_mean_square(x: Tensor, target: Tensor, plan: ElementPlan) -> Tensor:
    """Of all differences; `target` may need a gradient too."""
    args = (*all_in_memory(x, target), plan)
    return RootMeanSquare.recorded(*args) if needs_grad(target) else RootMeanSquare.call(*args)


class RootMeanSquare(_KernelFunction):
    """By the formula where squares leave float64, and where all differences are 0."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Tensor, plan: ElementPlan) -> Tensor:
        loss, root = kernels.root_mean_square(plan.loss, x, target)
        if ctx is not None:
            ctx.save_for_backward(x, target)
            ctx.plan, ctx.root = plan, root
        return loss

    @classmethod
    def by_kernel(cls, ctx: Any, g: Tensor) -> Any:
        if ctx.root is None:
            return cls.by_formula(ctx, g)
        x, target = ctx.saved_tensors
        dx = kernels.root_mean_square_backward(ctx.plan.loss, x, target, ctx.root, g)
        return *of_difference(ctx, dx), None

    @staticmethod
    def by_formula(ctx: Any, g: Tensor) -> Any:
        x, target = ctx.saved_tensors
        return *of_difference(ctx, by_formula.root_mean_square(x, target, g)), None


class _Side:
    """What the core asks of here (`native/functions.cpp`)."""

    batched = batched
    saving_hooks = _saving_hooks


IN_CORE = Softmax, LogSoftmax, Elementwise, Entropy, ClassLoss, NLL, PointwiseLoss

if native is not None:
    native.functions.set_functions(_Side)
    for function in IN_CORE:
        function.use_core()
