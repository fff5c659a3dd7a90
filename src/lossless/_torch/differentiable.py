"""The reference formulas as differentiable operations, with their own gradients, under every PyTorch transform.

Values and gradients are those of `lossless.reference`; a gradient is itself made of differentiable operations, which
makes every higher derivative right. Each function has two classes: one with a forward-mode rule and a vmap rule for
`torch.func` and dual numbers, and its plain parent for `torch.compile`, which accepts no forward-mode rule.
"""
# mypy: allow-subclassing-any

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from lossless import reference
from lossless._torch.modes import carry_tangents, needs_grad, rules_fail, watched
from lossless.reference import Statistics

PARTIALS = ("d_nll", "d_lse", "d_entropy", "d_prior")


def elementwise(functor: reference.Elementwise, *arrays: Tensor | None) -> Tensor:
    """Its value at every element of arrays of one shape, unrounded, differentiable over each of them."""
    return _apply(_Elementwise, _ElementwiseTransforms, functor, *arrays)


def softmax(x: Tensor, temperature: float) -> Tensor:
    """(*batch, C) in x's dtype."""
    return _apply(_Softmax, _SoftmaxTransforms, x, temperature)


def log_softmax(x: Tensor, temperature: float) -> Tensor:
    """(*batch, C) in x's dtype."""
    return _apply(_LogSoftmax, _LogSoftmaxTransforms, x, temperature)


def row_statistics(
    x: Tensor, target: Tensor | None, prior: Tensor | None, ignore_index: int | None, temperature: float = 1.0
) -> Statistics:
    """(*batch) each, unrounded, differentiable over `x`, a soft `target` and `prior`."""
    outputs = iter(_apply(_RowStatistics, _RowStatisticsTransforms, x, target, prior, ignore_index, temperature))
    lse, entropy = next(outputs), next(outputs)
    nll, correct = (None, None) if target is None else (next(outputs), next(outputs))
    return Statistics(nll, lse, entropy, None if prior is None else next(outputs), correct)


def row_gradient(
    x: Tensor,
    target: Tensor | None,
    prior: Tensor | None,
    ignore_index: int | None,
    temperature: float,
    *partials: Tensor | None,
) -> Tensor:
    """`reference.row_statistics_backward`, unrounded; in eager mode its own derivative does not cancel either."""
    if not _curved():
        named = dict(zip(PARTIALS, partials, strict=True))
        return reference.row_statistics_backward(x, target, prior, ignore_index, temperature, **named)
    return _RowGradient.apply(x, target, prior, ignore_index, temperature, *partials)


def softmax_gradient(x: Tensor, g: Tensor, temperature: float = 1.0) -> Tensor:
    """`reference.softmax_backward`, unrounded; its own derivative does not cancel in eager mode, as above."""
    if _curved():
        return _SoftmaxGradient.apply(x, g, temperature)
    return reference.softmax_backward(x, g, temperature)


def log_softmax_gradient(x: Tensor, g: Tensor, temperature: float = 1.0) -> Tensor:
    """`reference.log_softmax_backward`, likewise."""
    if _curved():
        return _LogSoftmaxGradient.apply(x, g, temperature)
    return reference.log_softmax_backward(x, g, temperature)


def _curved() -> bool:
    """Whether a gradient is recorded for one more derivative, and by autograd alone: no transform looks on."""
    return torch.is_grad_enabled() and not (watched() or carry_tangents())


def soft_curve(x: Tensor, target: Tensor, curve: tuple[str, float]) -> Tensor:
    """`reference.soft_curve`, unrounded, differentiable over `x` and `target`."""
    return _apply(_SoftCurve, _SoftCurveTransforms, x, target, *curve)


def measure(name: str, p: Tensor, q: Tensor, p_form: str, q_form: str) -> Tensor:
    """(*batch), unrounded."""
    return _apply(_Measure, _MeasureTransforms, p, q, name, p_form, q_form)


def perplexity(p: Tensor, form: str) -> Tensor:
    """(*batch), unrounded."""
    return _apply(_Perplexity, _PerplexityTransforms, p, form)


def inverse_softmax(p: Tensor, center: str | None) -> Tensor:
    """(*batch, C) in p's dtype."""
    return _apply(_InverseSoftmax, _InverseSoftmaxTransforms, p, center)


class _RowGradient(Function):
    """Its derivatives are made of plain operations: the third is theirs by autograd."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        target: Tensor | None,
        prior: Tensor | None,
        ignore_index: int | None,
        temperature: float,
        *d: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(x, target, prior, *d)
        ctx.options = ignore_index, temperature
        partials = dict(zip(PARTIALS, d, strict=True))
        return reference.row_statistics_backward(x, target, prior, ignore_index, temperature, **partials)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        x, target, prior, *d = ctx.saved_tensors
        ignore_index, temperature = ctx.options
        of = x, target, prior, ignore_index, temperature
        needed = ctx.needs_input_grad
        partials = dict(zip(PARTIALS, d, strict=True))
        dx = d_target = d_prior = None
        if needed[0]:
            dx = reference.row_statistics_curvature(x, v, target, prior, *ctx.options, **partials).to(x.dtype)
        if needed[1] or needed[2]:  # d (t_j) gives (sum p v) - v_j
            moved = ((reference.softmax(x, temperature) * v).sum(-1, keepdim=True) - v) / temperature
            if needed[1]:
                d_target = (partials["d_nll"][..., None] * moved).to(target.dtype)
            if needed[2]:
                moved = reference.masked(partials["d_prior"][..., None] * moved, x, target, ignore_index)
                d_prior = moved.reshape(-1, moved.shape[-1]).sum(0).to(prior.dtype)
        one = torch.ones_like(v[..., 0])
        slopes = (
            (v * reference.row_statistics_backward(*of, **{name: one})).sum(-1).to(partial.dtype) if wanted else None
            for name, partial, wanted in zip(PARTIALS, d, needed[5:], strict=True)
        )
        return dx, d_target, d_prior, None, None, *slopes


class _SoftmaxGradient(Function):
    """What is differentiated, over x and over g; again the third derivative is by autograd."""

    gradient: Callable[..., Tensor] = staticmethod(reference.softmax_backward)
    curvature: Callable[..., Tensor] = staticmethod(reference.softmax_curvature)
    along: Callable[..., Tensor] = staticmethod(reference.softmax_backward)

    @classmethod
    def forward(cls, ctx: Any, x: Tensor, g: Tensor, temperature: float) -> Tensor:
        ctx.save_for_backward(x, g)
        ctx.temperature = temperature
        return cls.gradient(x, g, temperature)

    @classmethod
    def backward(cls, ctx: Any, v: Tensor) -> Any:
        x, g = ctx.saved_tensors
        over_x, over_g = ctx.needs_input_grad[:2]
        dx = cls.curvature(x, g, v, ctx.temperature).to(x.dtype) if over_x else None
        return dx, cls.along(x, v, ctx.temperature).to(g.dtype) if over_g else None, None


class _LogSoftmaxGradient(_SoftmaxGradient):
    gradient = staticmethod(reference.log_softmax_backward)
    curvature = staticmethod(reference.log_softmax_curvature)
    along = staticmethod(reference.log_softmax_forward)


class _SoftCurveGradient(Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, target: Tensor, g: Tensor, curve: tuple[str, float]) -> Tensor:
        ctx.save_for_backward(x, target, g)
        ctx.curve = curve
        return reference.soft_curve_backward(x, target, g, curve)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> Any:
        x, target, g = ctx.saved_tensors
        over_x, over_target, over_g = ctx.needs_input_grad[:3]
        dx = d_target = dg = None
        if over_x:
            dx = reference.soft_curve_curvature(x, target, g, v, ctx.curve).to(x.dtype)
        if over_target:
            d_target = (g[..., None] * reference.soft_curve_costs_forward(x, v, ctx.curve)).to(target.dtype)
        if over_g:
            one = torch.ones_like(reference.wide(g))
            dg = (v * reference.soft_curve_backward(x, target, one, ctx.curve)).sum(-1).to(g.dtype)
        return dx, d_target, dg, None


def _apply(plain: Any, transforms: Any, *args: Any) -> Any:
    if torch.compiler.is_compiling():  # which takes the first argument of a Function without gradients for its context
        recorded = needs_grad(*(a for a in args if isinstance(a, Tensor)))
        return plain.apply(*args) if recorded else plain.forward(*args)
    if rules_fail():
        return plain.forward(*args)
    return transforms.apply(*args)


class _Softmax(Function):
    @staticmethod
    def forward(x: Tensor, temperature: float) -> Tensor:
        return reference.softmax(x, temperature).to(x.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, ctx.temperature = inputs
        ctx.save_for_backward(x)
        ctx.save_for_forward(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return softmax_gradient(x, g, ctx.temperature).to(x.dtype), None


class _SoftmaxTransforms(_Softmax):
    generate_vmap_rule = True

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, _: None) -> Tensor:
        (x,) = ctx.saved_tensors
        return reference.softmax_backward(x, dx, ctx.temperature).to(x.dtype)  # the Jacobian is symmetric


class _LogSoftmax(_Softmax):
    @staticmethod
    def forward(x: Tensor, temperature: float) -> Tensor:
        return reference.log_softmax(x, temperature).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return log_softmax_gradient(x, g, ctx.temperature).to(x.dtype), None


class _LogSoftmaxTransforms(_LogSoftmax):
    generate_vmap_rule = True

    @staticmethod
    def jvp(ctx: Any, dx: Tensor, _: None) -> Tensor:
        (x,) = ctx.saved_tensors
        return reference.log_softmax_forward(x, dx, ctx.temperature).to(x.dtype)


class _RowStatistics(Function):
    """Outputs: lse, entropy, then nll and correct with a target, then the prior cost with a prior."""

    @staticmethod
    def forward(
        x: Tensor, target: Tensor | None, prior: Tensor | None, ignore_index: int | None, temperature: float
    ) -> tuple[Tensor, ...]:
        s = reference.row_statistics(x, target, prior, ignore_index, temperature)
        return tuple(a for a in (s.lse, s.entropy, s.nll, s.correct, s.prior) if a is not None)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, target, prior, *ctx.options = inputs
        if target is not None:
            ctx.mark_non_differentiable(output[3])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, target, prior)
        ctx.save_for_forward(x, target, prior)

    @staticmethod
    def backward(ctx: Any, *g: Tensor | None) -> Any:
        x, target, prior = ctx.saved_tensors
        ignore_index, temperature = ctx.options
        d_lse, d_entropy, d_nll, d_prior = _by_name(target, prior, g)
        dx = row_gradient(x, target, prior, *ctx.options, d_nll, d_lse, d_entropy, d_prior).to(x.dtype)
        d_target = d_u = None
        if ctx.needs_input_grad[1] and d_nll is not None:
            d_target = (d_nll[..., None] * reference.class_costs(x, temperature)).to(target.dtype)
        if ctx.needs_input_grad[2] and d_prior is not None:
            costs = reference.class_costs(x, temperature)
            costs = reference.masked(d_prior[..., None] * costs, x, target, ignore_index)
            d_u = costs.reshape(-1, costs.shape[-1]).sum(0).to(prior.dtype)
        return dx, d_target, d_u, None, None


class _RowStatisticsTransforms(_RowStatistics):
    generate_vmap_rule = True

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, d_target: Tensor | None, d_u: Tensor | None, *_: None) -> Any:
        x, target, prior = ctx.saved_tensors
        ignore_index, temperature = ctx.options
        one = torch.ones_like(reference.wide(x)[..., 0])

        def along(**partial: Tensor) -> Tensor:
            """The change of one statistic along dx."""
            if dx is None:
                return torch.zeros_like(one)
            return (reference.row_statistics_backward(x, target, prior, *ctx.options, **partial) * dx).sum(-1)

        tangents: list[Tensor | None] = [along(d_lse=one), along(d_entropy=one)]
        if target is not None:
            nll = along(d_nll=one)
            if d_target is not None:
                nll = nll + (reference.class_costs(x, temperature) * d_target).sum(-1)
            tangents += [nll, None]
        if prior is not None:
            cost = along(d_prior=one)
            if d_u is not None:
                change = reference.masked(reference.class_costs(x, temperature) * d_u, x, target, ignore_index)
                cost = cost + change.sum(-1)
            tangents.append(cost)
        return tuple(tangents)


class _SoftCurve(Function):
    @staticmethod
    def forward(x: Tensor, target: Tensor, name: str, parameter: float) -> Tensor:
        return reference.soft_curve(x, target, (name, parameter))

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        x, target, *curve = inputs
        ctx.curve = tuple(curve)
        ctx.save_for_backward(x, target)
        ctx.save_for_forward(x, target)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x, target = ctx.saved_tensors
        if _curved():
            dx = _SoftCurveGradient.apply(x, target, g, ctx.curve).to(x.dtype)
        else:
            dx = reference.soft_curve_backward(x, target, g, ctx.curve).to(x.dtype)
        d_target = None
        if ctx.needs_input_grad[1]:
            d_target = (g[..., None] * reference.soft_curve_costs(x, ctx.curve)).to(target.dtype)
        return dx, d_target, None, None


class _SoftCurveTransforms(_SoftCurve):
    generate_vmap_rule = True

    @staticmethod
    def jvp(ctx: Any, dx: Tensor | None, d_target: Tensor | None, *_: None) -> Any:
        x, target = ctx.saved_tensors
        change = torch.zeros_like(reference.wide(x)[..., 0])
        if dx is not None:
            change = change + (reference.soft_curve_backward(x, target, change + 1.0, ctx.curve) * dx).sum(-1)
        if d_target is not None:
            change = change + (reference.soft_curve_costs(x, ctx.curve) * d_target).sum(-1)
        return change


class _Elementwise(Function):
    """A functor of `reference` over tensors of one shape; an infinite derivative times a cotangent of 0 is 0."""

    @staticmethod
    def forward(functor: reference.Elementwise, *arrays: Tensor | None) -> Tensor:
        return functor.value(*arrays)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.functor, *arrays = inputs
        ctx.save_for_backward(*arrays)
        ctx.save_for_forward(*arrays)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        arrays = ctx.saved_tensors
        slopes = ctx.functor.slopes[: len(arrays)]
        return None, *(
            reference.weighted(slope(*arrays), g, None, None).to(a.dtype) if wanted else None
            for a, wanted, slope in zip(arrays, ctx.needs_input_grad[1:], slopes, strict=True)
        )


class _ElementwiseTransforms(_Elementwise):
    generate_vmap_rule = True

    @staticmethod
    def jvp(ctx: Any, _: None, *tangents: Tensor | None) -> Any:
        arrays = ctx.saved_tensors
        slopes = ctx.functor.slopes[: len(arrays)]
        changes = [
            reference.weighted(slope(*arrays), d, None, None)
            for d, slope in zip(tangents, slopes, strict=True)
            if d is not None
        ]
        return sum(changes[1:], changes[0])


class _Measure(Function):
    """A measure of two distributions, by its name in `reference.MEASURES`."""

    @staticmethod
    def forward(p: Tensor, q: Tensor, name: str, p_form: str, q_form: str) -> Tensor:
        return reference.MEASURES[name].value(p, q, p_form, q_form)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        p, q, *ctx.of = inputs
        ctx.save_for_backward(p, q)
        ctx.save_for_forward(p, q)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (p, q), (name, p_form, q_form) = ctx.saved_tensors, ctx.of
        wide = (reference.wide(p), reference.wide(q)) if _curved() else (p, q)  # of many terms one rounding, not many
        backward = reference.MEASURES[name].backward
        dp, dq = (
            backward(*wide, p_form, q_form, g, side).to(a.dtype) if wanted else None
            for side, a, wanted in zip("pq", (p, q), ctx.needs_input_grad[:2], strict=True)
        )
        return dp, dq, None, None, None


class _MeasureTransforms(_Measure):
    generate_vmap_rule = True

    @staticmethod
    def jvp(ctx: Any, dp: Tensor | None, dq: Tensor | None, *_: None) -> Tensor:
        (p, q), (name, p_form, q_form) = ctx.saved_tensors, ctx.of
        one = torch.ones_like(reference.wide(p)[..., 0])
        change = torch.zeros_like(one)
        for side, d in (("p", dp), ("q", dq)):
            if d is not None:
                slope = reference.MEASURES[name].backward(p, q, p_form, q_form, one, side)
                change = change + reference.weighted(slope, d, None, None).sum(-1)
        return change


class _Perplexity(Function):
    @staticmethod
    def forward(p: Tensor, form: str) -> Tensor:
        return reference.perplexity(p, form)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        p, ctx.form = inputs
        ctx.save_for_backward(p)
        ctx.save_for_forward(p)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (p,) = ctx.saved_tensors
        return reference.perplexity_backward(p, ctx.form, g).to(p.dtype), None


class _PerplexityTransforms(_Perplexity):
    generate_vmap_rule = True

    @staticmethod
    def jvp(ctx: Any, dp: Tensor, _: None) -> Tensor:
        (p,) = ctx.saved_tensors
        one = torch.ones_like(reference.wide(p)[..., 0])
        return reference.weighted(reference.perplexity_backward(p, ctx.form, one), dp, None, None).sum(-1)


class _InverseSoftmax(Function):
    @staticmethod
    def forward(p: Tensor, center: str | None) -> Tensor:
        return reference.inverse_softmax(p, center).to(p.dtype)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        p, ctx.center = inputs
        ctx.save_for_backward(p)
        ctx.save_for_forward(p)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (p,) = ctx.saved_tensors
        return reference.inverse_softmax_backward(p, g, ctx.center).to(p.dtype), None


class _InverseSoftmaxTransforms(_InverseSoftmax):
    generate_vmap_rule = True

    @staticmethod
    def jvp(ctx: Any, dp: Tensor, _: None) -> Tensor:
        (p,) = ctx.saved_tensors
        return reference.inverse_softmax_forward(p, dp, ctx.center).to(p.dtype)


def _by_name(target: Any, prior: Any, g: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    """(d_lse, d_entropy, d_nll, d_prior) of what the outputs were."""
    return g[0], g[1], None if target is None else g[2], None if prior is None else g[-1]
