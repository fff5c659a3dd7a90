"""Softmax, log-softmax and log-sum-exp: from scores to probabilities, and their logarithms."""

from collections.abc import Sequence
from math import inf, prod
from typing import Any

from lossless._check import (
    check_choice,
    check_floating,
    check_probabilities,
    dtype_name,
    to_flag,
    to_float,
    to_int,
    to_temperature,
)
from lossless._dispatch import overridden, override, select
from lossless._layout import to_dims
from lossless._plan import plan_transform
from lossless._straight import straight
from lossless.reference import Elementwise, Logit, LogSigmoid, Sigmoid

Array = Any


@straight
def softmax(input: Array, dim: int = -1, *, temperature: float = 1.0, dtype: Any = None) -> Array:
    """Softmax: scores to probabilities that are positive and sum to 1, large scores amplified.

        p_j = exp(x_j / temperature) / sum_i exp(x_i / temperature)

    Args:
        input: (*batch, C) floating point, the classes along `dim`; any finite values or -inf.
        dim: the dimension that sums to 1.
        temperature: > 0; below 1 sharpens, above 1 flattens.
        dtype: convert `input` to this dtype first, as in PyTorch.

    Returns:
        Probabilities, shape and dtype of `input` (or `dtype`), each within 4 ulp.

    Raises:
        LogitsDtypeError: `input` is not real floating point.
        DimensionError: `input` has no dimension `dim`.
        ParameterError: `temperature` is not a positive number.

    Edges:
        A class at -inf gets exactly 0; a lone +inf takes everything; a row with NaN, with several +inf or with
        nothing but -inf is NaN.

    Example:
        >>> softmax(np.array([2.0, 0.0, -np.inf], np.float32))
        array([0.8807971 , 0.11920292, 0.        ], dtype=float32)
        >>> softmax(np.array([2.0, 0.0]), temperature=0.5)
        array([0.98201379, 0.01798621])
    """
    if overridden(input):
        return override(softmax, locals())
    return _transform("softmax", input, dim, temperature, dtype)


@straight
def log_softmax(input: Array, dim: int = -1, *, temperature: float = 1.0, dtype: Any = None) -> Array:
    """Log-softmax: the logarithms of the softmax probabilities, accurate also where a probability rounds to 1.

        log p_j = x_j / temperature - log sum_i exp(x_i / temperature)

    Args:
        input: (*batch, C) floating point, the classes along `dim`; any finite values or -inf.
        dim: the dimension of the classes.
        temperature: > 0; below 1 sharpens, above 1 flattens.
        dtype: convert `input` to this dtype first, as in PyTorch.

    Returns:
        Log-probabilities (<= 0), shape and dtype of `input` (or `dtype`), each within 4 ulp. Their gradient is
        accurate too, so `nll_loss(log_softmax(x, 1), y)` trains exactly like `cross_entropy(x, y)`.

    Raises:
        LogitsDtypeError: `input` is not real floating point.
        DimensionError: `input` has no dimension `dim`.
        ParameterError: `temperature` is not a positive number.

    Edges:
        As for `softmax`, with -inf for probability 0.

    Example:
        >>> log_softmax(np.array([20.0, 0.0], np.float32))
        array([-2.0611537e-09, -2.0000000e+01], dtype=float32)
    """
    if overridden(input):
        return override(log_softmax, locals())
    return _transform("log_softmax", input, dim, temperature, dtype)


def logsumexp(input: Array, dim: int | Sequence[int] = -1, keepdim: bool = False) -> Array:
    """Log-sum-exp: the smooth maximum, and the logarithm of the softmax denominator.

        lse = log sum_j exp(x_j)

    Args:
        input: any values; whole numbers and flags become the framework's default floating dtype.
        dim: the dimension to sum over, or several.
        keepdim: keep the summed dimensions with size 1.

    Returns:
        `input` without `dim`, dtype of `input`.

    Raises:
        LogitsDtypeError: `input` is not real.
        DimensionError: `input` has no dimension `dim`.
        ShapeError: a dimension appears twice.

    Edges:
        -inf if all are -inf or there are none; +inf if any is +inf; NaN if any is NaN.

    Example:
        >>> logsumexp(np.array([[1000.0, 1000.0], [0.0, -np.inf]]))
        array([1000.69314718,    0.        ])
        >>> logsumexp(np.zeros((2, 3)), dim=(0, 1)).item()  # log 6
        1.79175946922805...
    """
    if overridden(input):
        return override(logsumexp, locals())
    backend, input = select("logsumexp", 1, input=input)
    input = backend.to_floating(input)
    ndim = len(input.shape)
    dims = to_dims("logsumexp", dim, ndim)
    keepdim = to_flag("logsumexp", "keepdim", keepdim)
    kept = [d for d in range(ndim) if d not in dims]
    x, axis = input, dims[0] if dims else 0
    if len(dims) != 1:  # the summed dimensions to the end, as one row
        summed = prod([input.shape[d] for d in dims])
        x, axis = backend.permute(input, (*kept, *dims)).reshape((*[input.shape[d] for d in kept], summed)), len(kept)
    plan = plan_transform("logsumexp", x.shape, x.dtype, axis)
    result = backend.logsumexp(plan, x) if plan.rows.classes else x.sum(axis) - inf
    if keepdim:
        return result.reshape(tuple(1 if d in dims else s for d, s in enumerate(input.shape)))
    return result


@straight
def sigmoid(input: Array) -> Array:
    """Sigmoid: a score to the probability of "yes", softmax's case of two classes with scores x and 0.

        p = 1 / (1 + exp(-x))

    Args:
        input: scores of any shape; whole numbers and flags become the framework's default floating dtype.

    Returns:
        Probabilities, shape and dtype of `input`, within 4 ulp. Their gradient sigma(x) sigma(-x) is exact where
        p has rounded to 1 too.

    Raises:
        LogitsDtypeError: `input` is not real.

    Edges:
        1 at +inf, 0 at -inf, NaN at NaN.

    Example:
        >>> sigmoid(np.array([2.0, 0.0, -np.inf], np.float32))
        array([0.8807971, 0.5      , 0.       ], dtype=float32)
    """
    if overridden(input):
        return override(sigmoid, locals())
    return _elementwise("sigmoid", Sigmoid(), input)


@straight
def logsigmoid(input: Array) -> Array:
    """Log-sigmoid: the logarithm of the sigmoid, accurate where the sigmoid rounds to 0 or to 1.

        log p = -log(1 + exp(-x)) = min(x, 0) - log(1 + exp(-|x|))

    Args:
        input: floating point scores of any shape.

    Returns:
        Log-probabilities (<= 0), shape and dtype of `input`, within 4 ulp; so is their gradient sigma(-x).

    Raises:
        LogitsDtypeError: `input` is not real floating point.

    Edges:
        0 at +inf, -inf at -inf, NaN at NaN.

    Example:
        >>> logsigmoid(np.array([20.0, -20.0], np.float32))
        array([-2.0611537e-09, -2.0000000e+01], dtype=float32)
    """
    if overridden(input):
        return override(logsigmoid, locals())
    return _elementwise("logsigmoid", LogSigmoid(), input)


def logit(input: Array, eps: float | None = None) -> Array:
    """Logit: a probability back to its score, the logarithm of the odds; the inverse of the sigmoid.

        x = log(p / (1 - p))

    Args:
        input: probabilities of any shape; whole numbers and flags become the framework's default floating dtype.
        eps: 0 to 0.5: clamp `input` to [eps, 1 - eps] first; None, or by PyTorch's rule a negative number, for no
            clamp. Above 0.5 it is PyTorch's too: eps for inputs below it, 1 - eps for all others.

    Returns:
        Scores, shape and dtype of `input`, within 4 ulp, near p = 1/2 too; logit(1 - p) = -logit(p) to the last bit
        where 1 - p is a number. Their gradient is 1 / (p (1 - p)), and 0 where p was clamped.

    Raises:
        LogitsDtypeError: `input` is not real.

    Edges:
        -inf at 0, inf at 1; outside [0, 1] NaN, unless `eps` is given. The clamp is of the exact 1 - eps, which
        may be no number of the dtype: logit(1) with eps=1e-8 is 18.4 in float32 too.

    Example:
        >>> logit(np.array([0.5, 0.75, 1.0]))
        array([0.        , 1.09861229,        inf])
        >>> logit(np.array([0.0, 1.0], np.float32), eps=1e-8)
        array([-18.420681,  18.420681], dtype=float32)
    """
    if overridden(input):
        return override(logit, locals())
    if eps is not None:
        eps = to_float("logit", "eps", eps)
        eps = eps if eps >= 0.0 else None
    return _elementwise("logit", Logit(eps), input)


def inverse_softmax(input: Array, dim: int = -1, *, center: str | None = "mean") -> Array:
    """Inverse softmax: logits back from probabilities, up to the constant that softmax forgets.

        x_j = log p_j - c,   softmax(x) = p

    Args:
        input: (*batch, C) floating point probabilities, the classes along `dim`; their sum does not matter.
        dim: the dimension of the classes.
        center: what the constant c is: "mean", the mean of log p over the classes that are not 0, so that those of x
            have mean 0 (the centered log-ratio); "max", so that the largest x is 0; None for log p itself.

    Returns:
        Logits, shape and dtype of `input`, within 4 ulp (with "mean", of the larger of log(p_j / max p) and its
        mean), in near-uniform rows too. Their gradient is accurate as well.

    Raises:
        LogitsDtypeError: `input` is not real floating point.
        DimensionError: `input` has no dimension `dim`.
        ParameterError: a probability below 0 or above 1; an unknown `center`.

    Edges:
        A class at 0 gets -inf and does not count for the mean; its gradient 1/p is infinite, or 0 where nothing depends
        on it, and reaches no other class. A row of zeros is NaN, and -inf with `center=None`. NaN stays in its row.

    Example:
        >>> inverse_softmax(np.array([0.25, 0.25, 0.5]))
        array([-0.23104906, -0.23104906,  0.46209812])
        >>> inverse_softmax(np.array([1.0, 0.5, 0.0]) / 1.5, center="max")
        array([ 0.        , -0.69314718,        -inf])
        >>> lossless.softmax(inverse_softmax(np.array([0.1, 0.2, 0.7])))
        array([0.1, 0.2, 0.7])

    Source:
        Aitchison 1982, The statistical analysis of compositional data (the centered log-ratio).
    """
    if overridden(input):
        return override(inverse_softmax, locals())
    backend, input = select("inverse_softmax", 1, input=input)
    plan = plan_transform("inverse_softmax", input.shape, input.dtype, to_int("inverse_softmax", "dim", dim))
    check_choice("inverse_softmax", "center", center, ("mean", "max", None))
    if not plan.rows.classes:
        return input + 0.0  # no classes, no numbers
    hint = "Log-probabilities are logits already; divide counts by their sum first."
    check_probabilities(
        "inverse_softmax", "input", *backend.extremes(plan, "input", input), hint, lambda: backend.numbers(input)
    )
    return backend.inverse_softmax(plan, input, center)


def _elementwise(function: str, functor: Elementwise, input: Array) -> Array:
    backend, input = select(function, 1, input=input)
    if function != "logsigmoid":  # of which PyTorch takes floating point alone
        input = backend.to_floating(input)
    check_floating(function, dtype_name(input.dtype))
    return backend.elementwise(function, functor, input=input)


def _transform(function: str, input: Array, dim: int, temperature: float, dtype: Any) -> Array:
    backend, input = select(function, 1, input=input)
    if dtype is not None:
        input = backend.to_dtype(function, input, dtype)
    temperature = to_temperature(function, temperature)
    plan = plan_transform(function, input.shape, input.dtype, to_int(function, "dim", dim), temperature=temperature)
    if not plan.rows.classes:
        return input + 0.0  # no classes, no numbers
    verb = backend.softmax if function == "softmax" else backend.log_softmax
    return verb(plan, input)
