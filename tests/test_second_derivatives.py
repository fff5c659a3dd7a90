"""Double backward of every function, in ulp of the oracle's truth: the Hessian of the loss times a direction.

A direction is the one-hot label of a row, which singles out one column of the Hessian, or random numbers. `bounds.toml`
promises `second_derivative`; what is not in these tables is not promised:

- a bent cost (z-loss, focal loss of labels) in float16 and bfloat16. Its second derivative reaches x on two ways,
  through the cost and past it, and autograd adds what each has rounded: up to 1.5 ulp, where one rounding costs 0.5.
- the focal loss of labels at costs above 45 in float64: e^-L of a rounded L has lost digits.
- derivatives by anything but x: targets, weights. Differences look after them in `test_gradients.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import lossless
from lossless._accuracy import oracle, regimes
from lossless._accuracy.libraries import OURS, View
from lossless._accuracy.problems import upstream
from lossless._accuracy.promises import judge

VIEW = View(OURS["torch"])


class Case(NamedTuple):
    """A function of x, its upstream gradients, and the oracle's gradient formula."""

    function: str  # table of bounds.toml
    x: np.ndarray
    call: Callable[[torch.Tensor], Any]
    gradient: Callable[[oracle.Points], oracle.Truth]
    g: Any = None  # an array, or one for each output; None: 1
    label: np.ndarray | None = None  # the one-hot direction; None: rows have no label, directions are random


Cases = Iterator[tuple[str, Callable[[], Case]]]


def wide_format(dtype: str) -> bool:
    return dtype in ("float32", "float64")


# ---- functions of logits


def row_regimes(dtype: str) -> tuple[str, ...]:
    if not wide_format(dtype):
        return "typical-10", "gap-7"
    return (
        "typical-10", "wide-100", "gap-10", "gap-20", "gap-40", "gap-80", "wrong-40", "mixed", "offset-1e4",
        "masked-half", "near-uniform-1e-3", "equal-10",
    )  # fmt: skip


def few_regimes(dtype: str) -> tuple[str, ...]:
    return ("typical-10", "gap-20", "gap-80", "wide-100") if wide_format(dtype) else ("typical-10", "gap-7")


def transforms(dtype: str) -> Cases:
    for regime in row_regimes(dtype):
        for name in ("softmax", "log_softmax"):
            for cotangent in ("label", "random"):
                yield f"{name}/{cotangent}/{regime}", partial(transform, name, cotangent, regime, dtype)
        yield f"logsumexp/plain/{regime}", partial(logsumexp, regime, dtype)
        yield f"nll_of_log_softmax/plain/{regime}", partial(nll_of_log_softmax, regime, dtype)
    for regime in few_regimes(dtype):
        for name in ("softmax", "log_softmax"):
            yield f"{name}/sharp/{regime}", partial(transform, name, "random", regime, dtype, 0.3)


def transform(name: str, cotangent: str, regime: str, dtype: str, temperature: float = 1.0) -> Case:
    batch = regimes.logits(regime, dtype)
    one = regimes.onehot(batch)
    g = one if cotangent == "label" else upstream(regime, one.shape, dtype)
    formula = {"softmax": oracle.softmax_vjp, "log_softmax": oracle.log_softmax_vjp}[name]
    return Case(
        name,
        batch.x,
        lambda x: getattr(lossless, name)(x, 1, temperature=temperature),
        lambda x: formula(x, g, temperature),
        g,
        one,
    )


def logsumexp(regime: str, dtype: str) -> Case:
    batch = regimes.logits(regime, dtype)
    g = upstream(regime, len(batch.x), dtype)
    return Case(
        "logsumexp",
        batch.x,
        lambda x: lossless.logsumexp(x, 1),
        lambda x: oracle.logsumexp_gradient(x, g),
        g,
        regimes.onehot(batch),
    )


def nll_of_log_softmax(regime: str, dtype: str) -> Case:
    batch = regimes.logits(regime, dtype)
    targets = oracle.index_targets(batch.y, batch.x.shape[1])
    g = upstream(regime, len(batch.x), dtype)
    return Case(
        "nll_of_log_softmax",
        batch.x,
        lambda x: lossless.nll_loss(lossless.log_softmax(x, 1), VIEW(batch.y), reduction="none"),
        lambda x: oracle.cross_entropy_gradient(x, targets, "none", g),
        g,
        regimes.onehot(batch),
    )


def cross_entropies(dtype: str) -> Cases:
    index, soft = partial(partial, cross_entropy, "index"), partial(partial, cross_entropy)
    for regime in row_regimes(dtype):
        yield f"cross_entropy/index/{regime}", index(regime, dtype)
        yield f"cross_entropy/soft/{regime}", soft("random", regime, dtype)
        if regime != "masked-half":
            yield f"cross_entropy/smoothed/{regime}", index(regime, dtype, smoothing=0.1)
    for regime in few_regimes(dtype):
        yield f"cross_entropy/sum/{regime}", index(regime, dtype, "sum")
        yield f"cross_entropy/mean-weights/{regime}", index(regime, dtype, "mean", "1e3")
        yield f"cross_entropy/soft-mean-weights/{regime}", soft("sparse", regime, dtype, "mean", "1e3")
        yield f"cross_entropy/sharp/{regime}", index(regime, dtype, temperature=0.3)
        if wide_format(dtype):
            yield f"cross_entropy/z/{regime}", index(regime, dtype, z_loss=1e-3)
            every = soft("random", regime, dtype, "mean", "1e3", 0.1, z_loss=1e-3, temperature=0.7)
            yield f"cross_entropy_every_option/soft/{regime}", every


def cross_entropy(
    kind: str,
    regime: str,
    dtype: str,
    reduction: str = "none",
    spread: str = "1",
    smoothing: float = 0.0,
    **options: float,
) -> Case:
    batch = regimes.logits(regime, dtype)
    x, one = batch.x[:3], regimes.onehot(batch)[:3]  # a mean over three rows rounds
    target = batch.y[:3] if kind == "index" else regimes.soft_targets(kind, batch)[:3]
    weight = None if spread == "1" else regimes.class_weights(spread, x.shape[1], dtype)
    targets = (
        oracle.index_targets(target, x.shape[1], weight, smoothing=smoothing)
        if kind == "index"
        else oracle.soft_targets(target, weight, smoothing)
    )
    g = upstream(regime, len(x) if reduction == "none" else (), dtype)
    return Case(
        "cross_entropy_every_option" if {"z_loss", "temperature"} <= set(options) else "cross_entropy",
        x,
        lambda x: lossless.cross_entropy(
            x, VIEW(target), VIEW(weight), reduction=reduction, label_smoothing=smoothing, **options
        ),
        lambda x: oracle.cross_entropy_gradient(x, targets, reduction, g, **options),
        g,
        one,
    )


def focal_losses(dtype: str) -> Cases:
    for regime in row_regimes(dtype) if wide_format(dtype) else ():
        for gamma in (2.0, 0.5) if (regime, dtype) != ("wide-100", "float64") else ():
            yield f"focal_loss/index-{gamma}/{regime}", partial(focal_loss, "index", regime, dtype, gamma)
    for regime in few_regimes(dtype):
        for gamma in (2.0, 0.5):
            yield f"focal_loss/soft-{gamma}/{regime}", partial(focal_loss, "smoothed", regime, dtype, gamma)


def focal_loss(kind: str, regime: str, dtype: str, gamma: float) -> Case:
    batch = regimes.logits(regime, dtype)
    target = batch.y if kind == "index" else regimes.soft_targets(kind, batch)
    targets = oracle.index_targets(target, batch.x.shape[1]) if kind == "index" else oracle.soft_targets(target)
    g = upstream(regime, len(batch.x), dtype)
    return Case(
        "focal_loss",
        batch.x,
        lambda x: lossless.focal_loss(x, VIEW(target), gamma=gamma, reduction="none"),
        lambda x: oracle.focal_loss_gradient(x, targets, gamma, None, "none", g),
        g,
        regimes.onehot(batch),
    )


def statistics(dtype: str) -> Cases:
    for regime in row_regimes(dtype):
        yield f"row_statistics/index/{regime}", partial(row_statistics, "index", regime, dtype)
        yield f"entropy/logits/{regime}", partial(entropy_of_logits, "entropy", regime, dtype)
    for regime in few_regimes(dtype):
        yield f"row_statistics/smoothed/{regime}", partial(row_statistics, "smoothed", regime, dtype)
        sharp = partial(row_statistics, "index", regime, dtype, temperature=0.3)
        yield f"row_statistics_temperature/index/{regime}", sharp
        yield f"perplexity/logits/{regime}", partial(entropy_of_logits, "perplexity", regime, dtype)


def row_statistics(kind: str, regime: str, dtype: str, **options: float) -> Case:
    batch = regimes.logits(regime, dtype)
    target = batch.y if kind == "index" else regimes.soft_targets(kind, batch)
    targets = oracle.index_targets(target, batch.x.shape[1]) if kind == "index" else oracle.soft_targets(target)
    prior = regimes.class_weights("1e3", batch.x.shape[1], dtype)
    names = ("nll", "lse", "entropy", "prior")
    g = {name: np.abs(upstream(name + regime, len(batch.x), dtype)) for name in names}
    g["entropy"] = -g["entropy"]
    return Case(
        "row_statistics_temperature" if options else "row_statistics",
        batch.x,
        lambda x: lossless.row_statistics(x, VIEW(target), dim=1, prior=VIEW(prior), **options)[:4],
        lambda x: oracle.row_statistics_gradient(x, targets, prior, g, **options),
        [g[name] for name in names],
        regimes.onehot(batch),
    )


def entropy_of_logits(name: str, regime: str, dtype: str) -> Case:
    batch = regimes.logits(regime, dtype)
    g = upstream(regime, len(batch.x), dtype)
    return Case(
        name,
        batch.x,
        lambda x: getattr(lossless.info, name)(x, dim=1, kind="logits"),
        lambda x: getattr(oracle, name + "_gradient")(x, "logits", g),
        g,
        regimes.onehot(batch),
    )


# ---- functions of probabilities


def distributions(dtype: str) -> Cases:
    for regime in ("typical", "near-one-hot", "near-uniform"):
        for name in ("entropy", "perplexity"):
            for kind in ("probs", "log_probs", "counts"):
                yield f"{name}/{kind}/{regime}", partial(entropy, name, kind, regime, dtype)
        for center in ("mean", "max", None):
            yield f"inverse_softmax/{center}/{regime}", partial(inverse_softmax, center, regime, dtype)
        for name in ("categorical_cross_entropy", "sparse_categorical_cross_entropy"):
            yield f"{name}/plain/{regime}", partial(categorical_cross_entropy, name, regime, dtype)


def entropy(name: str, kind: str, regime: str, dtype: str) -> Case:
    x = regimes.probabilities(regime, dtype).astype(np.float64)
    x = {"probs": lambda: x, "log_probs": lambda: np.log(x), "counts": lambda: 1 + np.round(20000 * x)}[kind]()
    x = regimes.rounded(x, dtype)
    g = upstream(regime, len(x), dtype)
    options: dict[str, Any] = {"normalize": True} if kind == "counts" else {"kind": kind}
    return Case(
        name,
        x,
        lambda x: getattr(lossless.info, name)(x, dim=1, **options),
        lambda x: getattr(oracle, name + "_gradient")(x, kind, g),
        g,
    )


def inverse_softmax(center: str | None, regime: str, dtype: str) -> Case:
    p = regimes.probabilities(regime, dtype)
    g = upstream(regime, p.shape, dtype)
    return Case(
        "inverse_softmax",
        p,
        lambda p: lossless.inverse_softmax(p, 1, center=center),
        lambda p: oracle.inverse_softmax_vjp(p, g, center),
        g,
    )


def categorical_cross_entropy(name: str, regime: str, dtype: str) -> Case:
    p, y = regimes.probabilities(regime, dtype), np.array([3, 0, 19, 6])
    t = regimes.pair("typical", "probs", dtype)[0]
    sparse = name.startswith("sparse")
    targets = oracle.index_targets(y, 20) if sparse else oracle.soft_targets(t)
    g = upstream(regime, len(p), dtype)
    return Case(
        name,
        p,
        lambda p: getattr(lossless, name)(p, VIEW(y if sparse else t), dim=1, reduction="none"),
        lambda p: oracle.categorical_cross_entropy_gradient(p, targets, "none", g),
        g,
    )


def measures(dtype: str) -> Cases:
    far = ("near-one-hot", "gap-20", "gap-80") if wide_format(dtype) else ("near-one-hot",)
    for name in ("info.cross_entropy", "kl_divergence", "js_divergence"):
        for over in ("p", "q"):
            for kind in ("probs", "log_probs", "logits", "counts"):
                if name == "info.cross_entropy" and (over, kind) in (("p", "probs"), ("q", "log_probs")):
                    continue  # linear
                for regime in (
                    "typical",
                    "1e-2" if dtype != "bfloat16" else "1e-1",
                    *(() if kind == "counts" else far),
                ):
                    yield f"{name}/{kind}-over-{over}/{regime}", partial(measure, name, over, kind, kind, regime, dtype)
        for p_kind, q_kind, over in (("probs", "logits", "q"), ("logits", "probs", "p"), ("log_probs", "logits", "q")):
            mixed = partial(measure, name, over, p_kind, q_kind, "typical", dtype)
            yield f"{name}/{p_kind}-{q_kind}-over-{over}/typical", mixed


def measure(name: str, over: str, p_kind: str, q_kind: str, regime: str, dtype: str) -> Case:
    short = name.removeprefix("info.")
    p, q = (
        regimes.pair(regime, "probs" if kind == "counts" else kind, dtype)[i] for i, kind in enumerate((p_kind, q_kind))
    )
    if p_kind == "counts":
        p, q = (regimes.rounded(1 + np.round(20000 * a.astype(np.float64)), dtype) for a in (p, q))
    options: dict[str, Any] = {"normalize": True} if p_kind == "counts" else {"p_kind": p_kind, "q_kind": q_kind}
    g = upstream(regime, len(p), dtype)

    def call(x: torch.Tensor) -> torch.Tensor:
        pair = (x, VIEW(q)) if over == "p" else (VIEW(p), x)
        return getattr(lossless.info, short)(*pair, dim=1, **options)

    def gradient(x: oracle.Points) -> oracle.Truth:
        pair = (x, q) if over == "p" else (p, x)
        return oracle.measure_gradient(short, over, *pair, p_kind, q_kind, g)

    return Case(name, p if over == "p" else q, call, gradient, g)


def draws(dtype: str) -> Cases:
    for regime in ("1e-4", "1", "50"):
        for over in ("p", "q"):
            yield f"k3/over-{over}/{regime}", partial(k3, over, regime, dtype)
    for regime in ("typical", "near-one-hot"):
        for log_target in (False, True):
            kind = "log-target" if log_target else "target"
            yield f"kl_div/{kind}/{regime}", partial(kl_div, log_target, regime, dtype)


def k3(over: str, regime: str, dtype: str) -> Case:
    p, q = regimes.log_probabilities(regime, dtype)
    g = upstream(regime, p.shape, dtype)
    return Case(
        "k3",
        p if over == "p" else q,
        lambda x: lossless.info.k3(x, VIEW(q)) if over == "p" else lossless.info.k3(VIEW(p), x),
        lambda x: oracle.k3_gradient(x, q, over, g) if over == "p" else oracle.k3_gradient(p, x, over, g),
        g,
    )


def kl_div(log_target: bool, regime: str, dtype: str) -> Case:
    """Over the target: over the input it is linear."""
    x = regimes.pair(regime, "log_probs", dtype)[1]
    t = regimes.pair(regime, "log_probs" if log_target else "probs", dtype)[0]
    g = upstream(regime, (), dtype)
    return Case(
        "kl_div",
        t,
        lambda t: lossless.kl_div(VIEW(x), t, reduction="batchmean", log_target=log_target),
        lambda t: oracle.kl_div_gradient(x, t, log_target, "batchmean", g, "target"),
        g,
    )


# ---- elementwise functions


def elementwise(dtype: str) -> Cases:
    for regime in ("small", "right-1", "right-0", "any", "beyond"):
        for name in ("sigmoid", "logsigmoid"):
            yield f"{name}/plain/{regime}", partial(sigmoid, name, regime, dtype)
    for regime in ("ordinary", "close", "tiny", "near-one"):
        yield f"logit/plain/{regime}", partial(logit, regime, dtype)
    for regime in ("small", "right-1", "wrong-1", "wrong-0", "any"):
        for name in ("plain", "pos-weight"):
            variant = partial(binary_cross_entropy_with_logits, name, regime, dtype)
            yield f"binary_cross_entropy_with_logits/{name}/{regime}", variant
        for alpha, gamma in ((0.25, 2.0), (-1.0, 0.5)):
            yield f"sigmoid_focal_loss/{gamma}/{regime}", partial(sigmoid_focal_loss, alpha, gamma, regime, dtype)
    for regime in ("ordinary", "soft", "close", "tiny", "near-one"):
        for clamp in ("torch", None):
            yield f"binary_cross_entropy/{clamp}/{regime}", partial(binary_cross_entropy, clamp, regime, dtype)
    for regime in ("typical", "close", "one-large", "tiny"):
        yield f"mse_loss/mean/{regime}", partial(mse_loss, regime, dtype)
        yield f"rmse_loss/mean/{regime}", partial(rmse_loss, regime, dtype)


def sigmoid(name: str, regime: str, dtype: str) -> Case:
    x, _ = regimes.binary_logits(regime, dtype)
    g = upstream(regime, x.shape, dtype)
    return Case(name, x, getattr(lossless, name), lambda x: getattr(oracle, name + "_vjp")(x, g), g)


def logit(regime: str, dtype: str) -> Case:
    p, _ = regimes.binary_probabilities(regime, dtype)
    g = upstream(regime, p.shape, dtype)
    return Case("logit", p, lossless.logit, lambda p: oracle.logit_vjp(p, g), g)


def binary_cross_entropy_with_logits(name: str, regime: str, dtype: str) -> Case:
    x, t = (a.reshape(16, 4)[:15] for a in regimes.binary_logits(regime, dtype))
    weight = regimes.class_weights("1e3", 4, dtype) if name == "pos-weight" else None
    g = upstream(regime, (), dtype)
    return Case(
        "binary_cross_entropy_with_logits",
        x,
        lambda x: lossless.binary_cross_entropy_with_logits(x, VIEW(t), pos_weight=VIEW(weight)),
        lambda x: oracle.binary_cross_entropy_with_logits_gradient(x, t, None, weight, "mean", g),
        g,
    )


def binary_cross_entropy(clamp: str | None, regime: str, dtype: str) -> Case:
    p, t = regimes.binary_probabilities(regime, dtype)
    g = upstream(regime, p.shape, dtype)
    return Case(
        "binary_cross_entropy",
        p,
        lambda p: lossless.binary_cross_entropy(p, VIEW(t), reduction="none", clamp=clamp),
        lambda p: oracle.binary_cross_entropy_gradient(p, t, None, "none", g, clamp),
        g,
    )


def sigmoid_focal_loss(alpha: float, gamma: float, regime: str, dtype: str) -> Case:
    x, t = regimes.binary_logits(regime, dtype)
    g = upstream(regime, x.shape, dtype)
    return Case(
        "sigmoid_focal_loss",
        x,
        lambda x: lossless.sigmoid_focal_loss(x, VIEW(t), alpha, gamma),
        lambda x: oracle.sigmoid_focal_loss_gradient(x, t, alpha, gamma, "none", g),
        g,
    )


def mse_loss(regime: str, dtype: str) -> Case:
    x, t = regimes.regression(regime, dtype)
    g = upstream(regime, (), dtype)
    return Case(
        "mse_loss", x, lambda x: lossless.mse_loss(x, VIEW(t)), lambda x: oracle.mse_loss_gradient(x, t, "mean", g), g
    )


def rmse_loss(regime: str, dtype: str) -> Case:
    x, t = regimes.regression(regime, dtype)
    return Case("rmse_loss", x, lambda x: lossless.rmse_loss(x, VIEW(t)), lambda x: oracle.rmse_loss_gradient(x, t))


# ---- every case


@cache
def cases(dtype: str) -> dict[str, Callable[[], Case]]:
    families = transforms, cross_entropies, focal_losses, statistics, distributions, measures, draws, elementwise
    return dict(case for family in families for case in family(dtype))


@cache
def case(name: str, dtype: str) -> Case:
    return cases(dtype)[name]()


def directions(name: str, dtype: str) -> dict[str, np.ndarray]:
    x, label = case(name, dtype).x, case(name, dtype).label
    random = {"random": upstream("direction" + name, x.shape, dtype)}
    return random if label is None else {"label": label, **random}


@cache
def truth(name: str, dtype: str, direction: str) -> oracle.Truth:
    line = oracle.Line(case(name, dtype).x, directions(name, dtype)[direction])
    return case(name, dtype).gradient(line)


def run(name: str, dtype: str, v: np.ndarray) -> np.ndarray:
    _, x_given, call, _, g, _ = case(name, dtype)
    x = VIEW(x_given).requires_grad_()
    outputs = call(x)
    if isinstance(outputs, torch.Tensor):
        outputs, g = [outputs], [np.ones((), dtype=x_given.dtype) if g is None else g]
    (gradient,) = torch.autograd.grad(outputs, x, [VIEW(a) for a in g], create_graph=True)
    (second,) = torch.autograd.grad(gradient, x, VIEW(v))
    assert second.dtype == x.dtype
    return VIEW.back(second, v.shape)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [pytest.param(name, dtype, id=f"{dtype}/{name}") for dtype in regimes.DTYPES for name in cases(dtype)],
)
def test_second_derivatives(name, dtype, path):
    for direction, v in directions(name, dtype).items():
        complaint = judge(
            case(name, dtype).function, "second_derivative", dtype, run(name, dtype, v), truth(name, dtype, direction)
        )[2]
        assert not complaint, f"{direction}: {complaint}"
