"""The fast path: plain CPU tensors straight to the compiled kernels.

Old-style `autograd.Function`s, which cost a third of the ones that `torch.func` needs. Only `x` is differentiated here
(for squared error also the target); a call that needs more takes the reference path. Under `create_graph`, and where
a transform batches the incoming gradient, backward returns the reference gradient, made of differentiable operations.
All tensors arrive in one dtype; a Function's also contiguous in memory: `ordinary` ones may be given to it straight.
"""
# mypy: allow-subclassing-any

import os
import threading
from collections.abc import Callable
from math import copysign, nan
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.graph import increment_version

from lossless import reference
from lossless._layout import Rows
from lossless._plan import ElementPlan, RowPlan
from lossless._torch import by_formula, kernels
from lossless._torch.modes import (
    all_in_memory,
    batched,
    in_memory,
    may_be_overwritten,
    needs_grad,
    share_memory,
    watched,
)
from lossless.reference import Statistics


class _KernelFunction(Function):
    """Forward and `by_kernel` call kernels; `by_formula` is the same gradient made of differentiable operations."""

    by_kernel: Callable[..., Any]
    by_formula: Callable[..., Any]
    recorded: Callable[..., Any]
    "`apply` without its look for transforms, a third of its time: who calls has looked."

    def __init_subclass__(cls) -> None:
        cls.recorded = super(Function, cls).apply

    @classmethod
    def call(cls, x: Tensor, *args: Any) -> Any:
        """With autograd, or the forward alone where no gradient is needed."""
        return cls.recorded(x, *args) if needs_grad(x) else cls.forward(None, x, *args)

    @classmethod
    def way(cls, arrays: int, *rest: Any) -> Callable[..., Any]:
        """`call`, of so many first arguments and `rest`."""
        recorded, forward, enabled = cls.recorded, cls.forward, torch.is_grad_enabled

        # Written out: taking the first arguments off a tuple costs a hundredth of a small call.
        def of_one(x: Tensor, *_: Any, **__: Any) -> Any:
            return recorded(x, *rest) if x.requires_grad and enabled() else forward(None, x, *rest)

        def of_two(x: Tensor, t: Tensor, *_: Any, **__: Any) -> Any:
            return recorded(x, t, *rest) if x.requires_grad and enabled() else forward(None, x, t, *rest)

        def of_three(x: Tensor, t: Tensor, w: Tensor, *_: Any, **__: Any) -> Any:
            return recorded(x, t, w, *rest) if x.requires_grad and enabled() else forward(None, x, t, w, *rest)

        return (of_one, of_two, of_three)[arrays - 1]

    @classmethod
    def backward(cls, ctx: Any, *g: Tensor | None) -> Any:
        if not (torch.is_grad_enabled() or watched()):
            try:
                return cls.by_kernel(ctx, *g)
            except RuntimeError:  # a batch in disguise has no memory to work on
                if not any(a is not None and batched(a) for a in g):
                    raise
        return cls.by_formula(ctx, *g)


# ---------------------------------------------------------------- transforms


MANY_CLASSES = 256
"""From which on backward is quicker if it is told of each row what the forward pass found."""


def softmax(x: Tensor, plan: RowPlan) -> Tensor:
    return Softmax.call(in_memory(x), plan.rows, plan.temperature)


def log_softmax(x: Tensor, plan: RowPlan) -> Tensor:
    return LogSoftmax.call(in_memory(x), plan.rows, plan.temperature)


class Softmax(_KernelFunction):
    name = "softmax"

    @classmethod
    def forward(cls, ctx: Any, x: Tensor, rows: Rows, temperature: float) -> Tensor:
        if ctx is None:
            return kernels.transform(cls.name, x, rows, temperature)
        alone = _is_counted()
        by_result = kernels.result_serves(cls.name, x, temperature) and not alone
        state = kernels.empty_state(x, rows) if rows.classes >= MANY_CLASSES and not (alone or by_result) else None
        out = kernels.transform(cls.name, x, rows, temperature, state)
        ctx.save_for_backward(x, state, out if by_result else None)
        ctx.rows, ctx.temperature = rows, temperature
        return out

    @classmethod
    def by_kernel(cls, ctx: Any, g: Tensor) -> Any:
        x, state, result = ctx.saved_tensors
        return kernels.transform_backward(cls.name, x, ctx.rows, ctx.temperature, g, state, result), None, None

    @classmethod
    def by_formula(cls, ctx: Any, g: Tensor) -> Any:
        x, *_ = ctx.saved_tensors
        return by_formula.transform(cls.name, x, ctx.rows, ctx.temperature, g), None, None


class LogSoftmax(Softmax):
    name = "log_softmax"


def elementwise(functor: reference.Elementwise, x: Tensor) -> Tensor:
    return Elementwise.call(in_memory(x), functor)


class Elementwise(_KernelFunction):
    @staticmethod
    def forward(ctx: Any, x: Tensor, functor: reference.Elementwise) -> Tensor:
        if ctx is not None:
            ctx.save_for_backward(x)
            ctx.functor = functor
        return kernels.elementwise(functor, x)

    @staticmethod
    def by_kernel(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return kernels.pointwise_backward(ctx.functor, x, None, None, None, 1.0, g), None

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


class _Expected(NamedTuple):
    """What came upstream to the loss of a plan the last time."""

    plan: RowPlan | ElementPlan
    "Kept, so that its address stays its own."
    g: float
    missed: bool
    "Whether it must come once more to be expected."


class _Upstream:
    """The gradient that came upstream to the loss of a plan, in its last backward pass: most often 1, step after step.

    To a loss of many numbers too, where the same came to all of them, as from their mean. A forward pass that expects
    it writes the gradient while the rows are in cache; if another comes, that is computed, and nothing is expected
    until one has come twice. The same bits either way. What was expected once is expected again after a backward pass
    only: a loss which nobody differentiates writes no gradient, and of losses that wait for one backward pass only the
    first does.
    """

    def __init__(self) -> None:
        self._last: dict[int, _Expected] = {}

    def take(self, plan: RowPlan | ElementPlan) -> _Expected | None:
        """What is expected."""
        last = self._last.get(id(plan))
        if last is None or last.missed or _is_counted():
            return None
        self._last.pop(id(plan), None)
        return last

    def confirm(self, expected: _Expected) -> None:
        """It came."""
        self._last[id(expected.plan)] = expected

    def came(self, plan: RowPlan | ElementPlan, g: float) -> None:
        last = self._last.get(id(plan))
        self._note(plan, g, last is not None and last.missed and not _alike(g, last.g))

    def missed(self, expected: _Expected) -> None:
        """Another came."""
        self._note(expected.plan, nan, True)

    def _note(self, plan: RowPlan | ElementPlan, g: float, missed: bool) -> None:
        if len(self._last) > 1024:
            self._last.clear()
        self._last[id(plan)] = _Expected(plan, g, missed)


def _alike(a: float, b: float) -> bool:
    """Whether the bits are, but of NaN, which nothing is like."""
    return a == b and (a != 0.0 or copysign(1.0, a) == copysign(1.0, b))


_upstream = _Upstream()
_saving_hooks: Any = torch._C._autograd._top_saved_tensors_default_hooks


_overwriting = threading.Lock()


def _new_lock() -> None:
    """In a forked child, where the old one may be another thread's."""
    global _overwriting
    _overwriting = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_lock)


def _is_counted() -> bool:
    """Whether somebody saves tensors in his own way (checkpoints, offloading): more than there must be defeats him."""
    return _saving_hooks(True) is not None


class _LossFunction(_KernelFunction):
    """A loss may have its gradient ready: in `ctx.ready`, with what was expected upstream.

    With `inplace` it goes over the logits, when the backward pass comes and not before.
    """

    gradient: Callable[..., Any]
    "By kernels: of (ctx, the saved tensors, the upstream gradient, the number that it is all over or None, into what)."
    of_inputs: Callable[..., Any]
    "What backward returns: of (ctx, that gradient)."

    @classmethod
    def backward(cls, ctx: Any, *g: Any) -> Any:
        """The gradient that is ready, if it is for this `g`."""
        if ctx.ready and not (torch.is_grad_enabled() or watched()):
            _ = ctx.saved_tensors  # raises if they were changed since, or let go
            try:
                number = kernels.shared(g[0])
                expected, dx = ctx.ready.pop()  # once, whatever thread: who got it may change it
            except (RuntimeError, IndexError):  # a batch in disguise; somebody was quicker
                pass
            else:
                if number is not None and _alike(number, expected.g):
                    _upstream.confirm(expected)
                    return cls.of_inputs(ctx, dx)
                _upstream.missed(expected)
        if ctx.plan.inplace and ctx.overwritten:
            raise RuntimeError(
                f"{ctx.plan.function}: the first backward pass has written the gradient over the logits, as "
                "inplace=True allows: leave it out to call backward twice"
            )
        return super().backward(ctx, *g)

    @classmethod
    def by_kernel(cls, ctx: Any, g: Tensor) -> Any:
        if ctx.plan.inplace:
            return cls.of_inputs(ctx, cls._over_logits(ctx, g))
        saved, number = ctx.saved_tensors, kernels.shared(g)
        if number is not None:
            _upstream.came(ctx.plan, number)
        return cls.of_inputs(ctx, cls.gradient(ctx, saved, g, number, None))

    @classmethod
    def give_up(cls, ctx: Any, x: Tensor, plan: RowPlan | ElementPlan) -> None:
        """Notes whether the gradient may go over the logits: not where somebody saves them in his own way."""
        if plan.inplace:
            ctx.given_up, ctx.overwritten = may_be_overwritten(x) and not _is_counted(), False

    @classmethod
    def _over_logits(cls, ctx: Any, g: Tensor) -> Tensor:
        """Autograd is told first, so that nobody reads what an interrupted kernel has left."""
        with _overwriting:  # of two backward passes at once only one finds the logits as they were
            x, *others = saved = ctx.saved_tensors
            over = ctx.given_up and not (batched(g) or share_memory(x, g, *others))
            if over:
                increment_version(x)
                ctx.overwritten = True
        return cls.gradient(ctx, saved, g, None, x.detach() if over else None)


class Entropy(_LossFunction):
    """Of the softmax of each row."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, plan: RowPlan) -> Tensor:
        if ctx is None:
            return kernels.entropy(x, plan, None, None)[0]
        expected = _upstream.take(plan)
        state = kernels.empty_state(x, plan.rows) if expected is None else None
        out, dx = kernels.entropy(x, plan, state, expected and expected.g)
        ctx.save_for_backward(x, state)
        ctx.plan, ctx.ready = plan, expected and [(expected, dx)]
        return out

    @staticmethod
    def gradient(ctx: Any, saved: Any, g: Tensor, _: float | None, __: None) -> Tensor:
        x, state = saved
        if state is None:
            state = kernels.empty_state(x, ctx.plan.rows)
            kernels.entropy(x, ctx.plan, state, None)
        return kernels.row_statistics_backward(x, None, None, None, state, ctx.plan, None, None, g, None)

    @staticmethod
    def of_inputs(ctx: Any, dx: Tensor) -> Any:
        return dx, None

    @classmethod
    def by_formula(cls, ctx: Any, g: Tensor) -> Any:
        x, _ = ctx.saved_tensors
        return cls.of_inputs(ctx, by_formula.row_statistics(x, None, None, None, ctx.plan, None, None, g, None))


def has_class_loss(plan: RowPlan) -> bool:
    return plan.has_kernel


def class_loss(x: Tensor, target: Tensor, weight: Tensor | None, plan: RowPlan, divisor: float | None) -> Tensor:
    """The loss, reduced and rounded; a mean by `divisor`, if one is given."""
    return ClassLoss.call(*all_in_memory(x, target, weight), plan, divisor)


class ClassLoss(_LossFunction):
    @classmethod
    def forward(
        cls, ctx: Any, x: Tensor, target: Tensor, weight: Tensor | None, plan: RowPlan, divisor: float | None
    ) -> Tensor:
        if ctx is None:
            return kernels.class_loss(x, target, weight, plan, divisor, None)[0]
        expected = _upstream.take(plan)
        state = kernels.empty_state(x, plan.rows) if expected is None else None
        loss, ctx.divisor, dx = kernels.class_loss(x, target, weight, plan, divisor, state, expected and expected.g)
        ctx.save_for_backward(x, target, weight, state)
        ctx.plan, ctx.ready = plan, expected and [(expected, dx)]
        cls.give_up(ctx, x, plan)
        return loss

    @staticmethod
    def gradient(ctx: Any, saved: Any, g: Tensor, number: float | None, into: Tensor | None) -> Tensor | None:
        x, target, weight, state = saved
        if state is None:
            if number is not None:
                return kernels.class_loss(x, target, weight, ctx.plan, ctx.divisor, None, number)[2]
            state = kernels.empty_state(x, ctx.plan.rows)
            kernels.class_loss(x, target, weight, ctx.plan, ctx.divisor, state)
        return kernels.class_loss_backward(x, target, weight, state, ctx.plan, ctx.divisor, g, into)

    @staticmethod
    def of_inputs(ctx: Any, dx: Tensor) -> Any:
        return dx, None, None, None, None

    @classmethod
    def by_formula(cls, ctx: Any, g: Tensor) -> Any:
        x, target, weight, _ = ctx.saved_tensors
        return cls.of_inputs(ctx, by_formula.class_loss(x, target, weight, ctx.plan, ctx.divisor, g))


def nll(x: Tensor, target: Tensor, weight: Tensor | None, plan: RowPlan) -> Tensor:
    """Of log-probabilities, reduced and rounded."""
    result: Tensor = NLL.call(*all_in_memory(x, target, weight), plan)
    return result


class NLL(_KernelFunction):
    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Tensor, weight: Tensor | None, plan: RowPlan) -> Tensor:
        loss, divisor = kernels.nll(x, target, weight, plan)
        if ctx is not None:
            ctx.save_for_backward(x, target, weight)
            ctx.plan, ctx.divisor = plan, divisor
        return loss

    @staticmethod
    def by_kernel(ctx: Any, g: Tensor) -> Any:
        x, target, weight = ctx.saved_tensors
        return kernels.nll_backward(x, target, weight, ctx.plan, ctx.divisor, g), None, None, None

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
    return PointwiseLoss.recorded(*args) if needs_grad(target) else PointwiseLoss.call(*args)


class PointwiseLoss(_LossFunction):
    @classmethod
    def forward(
        cls, ctx: Any, x: Tensor, target: Tensor, weight: Tensor | None, pos_weight: Tensor | None, plan: ElementPlan,
        divisor: float,
    ) -> Tensor:  # fmt: skip
        expected = ctx and _upstream.take(plan)
        loss, divisor, dx = kernels.pointwise(
            plan.loss, x, target, weight, pos_weight, plan.reduction, divisor, expected and expected.g
        )
        if ctx is not None:
            ctx.save_for_backward(x, target, weight, pos_weight)
            ctx.plan, ctx.divisor, ctx.ready = plan, divisor, expected and [(expected, dx)]
            cls.give_up(ctx, x, plan)
        return loss

    @staticmethod
    def gradient(ctx: Any, saved: Any, g: Tensor, _: float | None, into: Tensor | None) -> Tensor:
        x, target, weight, pos_weight = saved
        return kernels.pointwise_backward(ctx.plan.loss, x, target, weight, pos_weight, ctx.divisor, g, into)

    @staticmethod
    def of_inputs(ctx: Any, dx: Tensor) -> Any:
        """Over `x` and `target`: only squared error asks for the second."""
        return *of_difference(ctx, dx), None, None, None, None

    @classmethod
    def by_formula(cls, ctx: Any, g: Tensor) -> Any:
        x, target, weight, pos_weight = ctx.saved_tensors
        dx = by_formula.pointwise(ctx.plan.loss, x, target, weight, pos_weight, ctx.divisor, g)
        return cls.of_inputs(ctx, dx)


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
