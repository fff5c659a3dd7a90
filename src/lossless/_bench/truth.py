"""The largest error of values and gradients on a sample of rows, in ulp of the oracle's truth.

A contestant is called as it is timed, on the whole shape, filled with the sample over and over: means are then those of
the sample, and gradients are those of the sample over the number of repetitions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from lossless._accuracy import oracle
from lossless._accuracy.oracle import Truth
from lossless._accuracy.ulp import Exact, errors

from . import inputs, memory
from .functions import ALPHA, ENTROPY_SHARE, FUNCTIONS, GAMMA, LSE_SHARE, SMOOTHING, Z_LOSS
from .inputs import Data
from .libraries import Contestant
from .shapes import Shape, rows


class Error(NamedTuple):
    """Largest errors in ulp; None: no such result, or no number of the ordinary range in it."""

    value: float | None
    gradient: float | None


def judge(name: str, shape: Shape, dtype: str, contestants: list[Contestant]) -> dict[str, Error]:
    """Every contestant's errors; nothing for shapes whose rows are too long to judge one in bounded time."""
    count = inputs.sample_rows(shape)
    if not count:
        return {}
    sample = inputs.draw(name, count, shape[1], dtype)
    rounded = _rounded(name, sample, dtype, contestants[0])
    value, gradient = _truth(name, rounded)
    repetitions = rows(shape) // count
    if name == "kl_div":  # divides by the batch alone, not by the rows
        value = _over(value, shape[0] / rows(shape))
        gradient = gradient and _over(gradient, repetitions * shape[0] / rows(shape))
    elif not FUNCTIONS[name].array and gradient is not None:
        gradient = _over(gradient, repetitions)
    data, found = inputs.lay_out(name, sample, shape), {}
    for one in contestants:
        try:
            its_value, its_gradient = one.framework.results(one.function, one.framework.place(data, dtype))
        except Exception as error:
            if not memory.refused(error):
                raise
            continue
        found[one.name] = Error(
            _worst(inputs.as_rows(its_value, count), value, dtype),
            None
            if its_gradient is None or gradient is None
            else _worst(inputs.as_rows(its_gradient, count), gradient, dtype),
        )
    return found


def _rounded(name: str, sample: Data, dtype: str, ours: Contestant) -> Data:
    """What the functions see of the sample, in float64."""
    placed = ours.framework.place(sample, dtype)
    rest = zip(placed.rest, FUNCTIONS[name].takes, strict=True)
    return Data(
        ours.framework.numbers(placed.x),
        tuple(np.asarray(a) if kind == "labels" else ours.framework.numbers(a) for a, kind in rest),
        None if placed.g is None else ours.framework.numbers(placed.g),
    )


def _worst(computed: np.ndarray, true: Truth, dtype: str) -> float | None:
    found = errors(computed, true.value, dtype, true.unit)
    return None if found.tiny.all() else found.worst()[0]


# ---- the oracle's answers ------------------------------------------------------------------------------------------

Answer = tuple[Truth, Truth | None]


def _truth(name: str, data: Data) -> Answer:
    return _ANSWERS[name.removeprefix("numpy_")](data)


def _classes(smoothing: float = 0.0, z_loss: float = 0.0) -> Callable[[Data], Answer]:
    def answer(data: Data) -> Answer:
        y, weight = data.rest if len(data.rest) > 1 else (data.rest[0], None)
        targets = oracle.index_targets(y, data.x.shape[1], weight, smoothing=smoothing)
        return (
            oracle.cross_entropy(data.x, targets, z_loss=z_loss),
            oracle.cross_entropy_gradient(data.x, targets, z_loss=z_loss),
        )

    return answer


def _soft_targets(data: Data) -> Answer:
    targets = oracle.soft_targets(*data.rest)
    return oracle.cross_entropy(data.x, targets), oracle.cross_entropy_gradient(data.x, targets)


def _focal_loss(data: Data) -> Answer:
    targets = oracle.index_targets(data.rest[0], data.x.shape[1])
    return oracle.focal_loss(data.x, targets, GAMMA), oracle.focal_loss_gradient(data.x, targets, GAMMA)


def _entropy(data: Data) -> Answer:
    ones = np.ones(len(data.x))
    gradient = oracle.entropy_gradient(data.x, "logits", ones)
    return _mean((1.0, oracle.entropy(data.x, "logits"))), _over(gradient, len(data.x))


def _row_statistics(data: Data) -> Answer:
    targets = oracle.index_targets(data.rest[0], data.x.shape[1])
    found, ones = oracle.row_statistics(data.x, targets), np.ones(len(data.x))
    shares = {"nll": ones, "lse": LSE_SHARE * ones, "entropy": -ENTROPY_SHARE * ones}
    gradient = oracle.row_statistics_gradient(data.x, targets, None, shares)
    value = _mean((1.0, found.nll), (LSE_SHARE, found.lse), (-ENTROPY_SHARE, found.entropy))
    return value, _over(gradient, len(data.x))


def _pair(name: str) -> Callable[[Data], Answer]:
    """A loss of two arrays that the oracle has under its name."""
    return lambda data: (
        getattr(oracle, name)(data.x, *data.rest),
        getattr(oracle, f"{name}_gradient")(data.x, *data.rest),
    )


def _sigmoid_focal_loss(data: Data) -> Answer:
    options = (*data.rest, ALPHA, GAMMA, "mean")
    return oracle.sigmoid_focal_loss(data.x, *options), oracle.sigmoid_focal_loss_gradient(data.x, *options)


def _kl_div(data: Data) -> Answer:
    return (
        oracle.kl_div(data.x, data.rest[0], reduction="batchmean"),
        oracle.kl_div_gradient(data.x, data.rest[0], reduction="batchmean"),
    )


def _array(name: str) -> Callable[[Data], Answer]:
    return lambda data: (
        getattr(oracle, name)(data.x),
        None if data.g is None else getattr(oracle, f"{name}_vjp")(data.x, data.g),
    )


_ANSWERS: dict[str, Callable[[Data], Answer]] = {
    "cross_entropy": _classes(),
    "soft_targets": _soft_targets,
    "label_smoothing": _classes(smoothing=SMOOTHING),
    "class_weights": _classes(),
    "z_loss": _classes(z_loss=Z_LOSS),
    "focal_loss": _focal_loss,
    "entropy": _entropy,
    "row_statistics": _row_statistics,
    "bce_with_logits": _pair("binary_cross_entropy_with_logits"),
    "sigmoid_focal_loss": _sigmoid_focal_loss,
    "mse_loss": _pair("mse_loss"),
    "rmse_loss": _pair("rmse_loss"),
    "softmax": _array("softmax"),
    "log_softmax": _array("log_softmax"),
    "nll_loss": _pair("nll_loss"),
    "kl_div": _kl_div,
}


# ---- arithmetic on true numbers ------------------------------------------------------------------------------------
# In long double: where it has 64 bits, what it rounds is below a thousandth of an ulp of float64.


def _over(truth: Truth, divisor: float) -> Truth:
    """True numbers, divided."""

    def divided(number: Exact) -> Exact:
        return _exact((np.longdouble(number.high) + number.low) / np.longdouble(divisor), number.exponent)

    return Truth(divided(truth.value), None if truth.unit is None else divided(truth.unit))


def _mean(*terms: tuple[float, Truth]) -> Truth:
    """The mean over rows of a weighted sum; its unit is the mean of the largest term, where there are several."""

    def number(exact: Exact) -> np.ndarray:
        return np.asarray(np.ldexp(np.longdouble(exact.high) + exact.low, exact.exponent))

    weighted = [w * number(truth.value) for w, truth in terms]
    value = np.asarray(np.mean(np.sum(weighted, axis=0)))
    unit = np.asarray(np.mean(np.max(np.abs(weighted), axis=0))) if len(terms) > 1 else None
    return Truth(_exact(value, np.int32(0)), None if unit is None else _exact(unit, np.int32(0)))


def _exact(number: np.ndarray, exponent: np.ndarray | np.int32) -> Exact:
    """number * 2^exponent in the oracle's form."""
    rounded = number.astype(np.float64)
    rest = (number - rounded).astype(np.float64)
    high, shift = np.frexp(rounded)
    return Exact(np.asarray(high), np.asarray(np.ldexp(rest, -shift)), np.asarray(exponent + shift, np.int32))
