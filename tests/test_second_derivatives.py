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

import numpy as np
import pytest
import torch

from lossless._accuracy import oracle, problems, regimes
from lossless._accuracy.libraries import OURS, View
from lossless._accuracy.problems import Problem, upstream
from lossless._accuracy.promises import judge

VIEW = View(OURS["torch"])
Cases = Iterator[tuple[str, Callable[[], Problem]]]


def wide_format(dtype: str) -> bool:
    return dtype in ("float32", "float64")


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
                yield f"{name}/{cotangent}/{regime}", partial(problems.transform, name, cotangent, regime, dtype)
        yield f"logsumexp/plain/{regime}", partial(problems.logsumexp, regime, dtype)
        yield f"nll_of_log_softmax/plain/{regime}", partial(problems.nll_of_log_softmax, regime, dtype)
    for regime in few_regimes(dtype):
        for name in ("softmax", "log_softmax"):
            yield f"{name}/sharp/{regime}", partial(problems.transform, name, "random", regime, dtype, 0.3)


def cross_entropies(dtype: str) -> Cases:
    index, soft = partial(partial, problems.cross_entropy, "index"), partial(partial, problems.cross_entropy)
    for regime in row_regimes(dtype):
        yield f"cross_entropy/index/{regime}", index(regime, dtype, "none")
        yield f"cross_entropy/soft/{regime}", soft("random", regime, dtype, "none")
        if regime != "masked-half":
            yield f"cross_entropy_smoothed/index/{regime}", index(regime, dtype, "none", smoothing=0.1)
    for regime in few_regimes(dtype):
        yield f"cross_entropy/sum/{regime}", index(regime, dtype, "sum")
        yield f"cross_entropy/mean-weights/{regime}", index(regime, dtype, "mean", "1e3")
        yield f"cross_entropy/soft-mean-weights/{regime}", soft("sparse", regime, dtype, "mean", "1e3")
        yield f"cross_entropy/sharp/{regime}", index(regime, dtype, "none", temperature=0.3)
        if wide_format(dtype):
            yield f"cross_entropy/z/{regime}", index(regime, dtype, "none", z_loss=1e-3)
            every = soft("random", regime, dtype, "mean", "1e3", 0.1, z_loss=1e-3, temperature=0.7)
            yield f"cross_entropy_every_option/soft/{regime}", every


def focal_losses(dtype: str) -> Cases:
    for regime in row_regimes(dtype) if wide_format(dtype) else ():
        for gamma in (2.0, 0.5) if (regime, dtype) != ("wide-100", "float64") else ():
            yield f"focal_loss/index-{gamma}/{regime}", partial(problems.focal, "index", regime, dtype, gamma)
    for regime in few_regimes(dtype):
        for gamma in (2.0, 0.5):
            yield f"focal_loss/soft-{gamma}/{regime}", partial(problems.focal, "smoothed", regime, dtype, gamma)


def statistics(dtype: str) -> Cases:
    for regime in row_regimes(dtype):
        yield f"row_statistics/index/{regime}", partial(problems.statistics, "index", regime, dtype, "1e3")
        yield f"entropy/logits/{regime}", partial(problems.entropy, "logits", regime, dtype)
    for regime in few_regimes(dtype):
        yield f"row_statistics/smoothed/{regime}", partial(problems.statistics, "smoothed", regime, dtype, "1e3")
        sharp = partial(problems.statistics, "index", regime, dtype, "1e3", temperature=0.3)
        yield f"row_statistics_temperature/index/{regime}", sharp
        yield f"perplexity/logits/{regime}", partial(problems.entropy, "logits", regime, dtype, measure="perplexity")


def distributions(dtype: str) -> Cases:
    for regime in ("typical", "near-one-hot", "near-uniform"):
        for name in ("entropy", "perplexity"):
            for kind in ("probs", "log_probs", "counts"):
                yield f"{name}/{kind}/{regime}", partial(problems.entropy, kind, regime, dtype, measure=name, least=1)
        for center in ("mean", "max", None):
            yield f"inverse_softmax/{center}/{regime}", partial(problems.inverse_softmax, center, regime, dtype)
    for regime in ("typical", "near-one-hot", "gap-20" if dtype != "float16" else "gap-7"):
        dense = partial(problems.categorical, False, "soft", regime, dtype, "none")
        yield f"categorical_cross_entropy/plain/{regime}", dense
        sparse = partial(problems.categorical, True, "labels", regime, dtype, "none")
        yield f"sparse_categorical_cross_entropy/plain/{regime}", sparse


def measures(dtype: str) -> Cases:
    far = ("near-one-hot", "gap-20", "gap-80") if wide_format(dtype) else ("near-one-hot",)
    close = "1e-2" if dtype != "bfloat16" else "1e-1"
    for name in ("info.cross_entropy", "kl_divergence", "js_divergence"):
        variant = partial(partial, problems.measure, name)
        for over in ("p", "q"):
            for kind in ("probs", "log_probs", "logits", "counts"):
                if name == "info.cross_entropy" and (over, kind) in (("p", "probs"), ("q", "log_probs")):
                    continue  # linear
                for regime in ("typical", close, *(() if kind == "counts" else far)):
                    yield f"{name}/{kind}-over-{over}/{regime}", variant(over, kind, kind, regime, dtype)
        for p_kind, q_kind, over in (("probs", "logits", "q"), ("logits", "probs", "p"), ("log_probs", "logits", "q")):
            yield f"{name}/{p_kind}-{q_kind}-over-{over}/typical", variant(over, p_kind, q_kind, "typical", dtype)
    for regime in ("1e-4", "1", "50"):
        for over in ("p", "q"):
            yield f"k3/over-{over}/{regime}", partial(problems.k3, over, regime, dtype)
    for regime in ("typical", "near-one-hot"):  # over the target: over the input it is linear
        for log_target in (False, True):
            variant = partial(problems.kl_div, log_target, "batchmean", regime, dtype, "target")
            yield f"kl_div/{'log-target' if log_target else 'target'}/{regime}", variant


def elementwise(dtype: str) -> Cases:
    for regime in ("small", "right-1", "right-0", "any", "beyond"):
        for name in ("sigmoid", "logsigmoid"):
            yield f"{name}/plain/{regime}", partial(problems.sigmoid, name, regime, dtype)
    for regime in ("ordinary", "close", "tiny", "near-one"):
        yield f"logit/plain/{regime}", partial(problems.logit, regime, dtype)
    for regime in ("small", "right-1", "wrong-1", "wrong-0", "any"):
        for variant in ("mean", "weights"):
            yield (
                f"binary_cross_entropy_with_logits/{variant}/{regime}",
                partial(problems.binary, variant, regime, dtype),
            )
        for alpha, gamma in ((0.25, 2.0), (-1.0, 0.5)):
            yield (
                f"sigmoid_focal_loss/{gamma}/{regime}",
                partial(problems.sigmoid_focal, alpha, gamma, "none", regime, dtype),
            )
    for regime in ("ordinary", "soft", "close", "tiny", "near-one"):
        for clamp in ("torch", None):
            yield (
                f"binary_cross_entropy/{clamp}/{regime}",
                partial(problems.binary_options, "binary_cross_entropy", regime, dtype, clamp=clamp),
            )
    for regime in ("typical", "close", "one-large", "tiny"):
        yield f"mse_loss/mean/{regime}", partial(problems.mse, "mean", regime, dtype)
        yield f"rmse_loss/mean/{regime}", partial(problems.rmse, regime, dtype)


@cache
def cases(dtype: str) -> dict[str, Callable[[], Problem]]:
    families = transforms, cross_entropies, focal_losses, statistics, distributions, measures, elementwise
    return dict(case for family in families for case in family(dtype))


@cache
def case(name: str, dtype: str) -> Problem:
    return cases(dtype)[name]()


def directions(name: str, dtype: str) -> dict[str, np.ndarray]:
    x, label = case(name, dtype).x, case(name, dtype).label
    random = {"random": upstream("direction" + name, x.shape, dtype)}
    return random if label is None else {"label": label, **random}


@cache
def truth(name: str, dtype: str, direction: str) -> oracle.Truth:
    gradient = case(name, dtype).gradient
    assert gradient is not None
    return gradient(oracle.Line(case(name, dtype).x, directions(name, dtype)[direction]))


def run(name: str, dtype: str, v: np.ndarray) -> np.ndarray:
    problem = case(name, dtype)
    x = problem.input(VIEW).requires_grad_()
    outputs = problem.call(x, VIEW)
    g = [torch.ones_like(a) if problem.g is None else VIEW(problem.g[key]) for key, a in outputs.items()]
    (gradient,) = torch.autograd.grad(list(outputs.values()), x, g, create_graph=True)
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
