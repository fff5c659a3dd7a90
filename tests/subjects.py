"""Every function under test with every input it is tested on: how to call it, and what the oracle says.

`cases(dtype)` names them, `problem(name, dtype)` makes one. A name reads `function/variant/regime`. `test_accuracy.py`
runs the values in each framework, `test_gradients.py` the gradients; a new function is a generator in this file and a
table in `bounds.toml`.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Iterator
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lossless
import oracle
import regimes
from lossless import _kernels
from oracle import Truth
from regimes import rng, rounded
from ulp import errors

BOUNDS = tomllib.loads((Path(__file__).parent / "bounds.toml").read_text())
TINY = BOUNDS["tiny"]


# ---- arrays of a framework, and where the classes lie --------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class View:
    """Hands a problem's arrays to a function: as NumPy or torch, with the classes last or in the middle.

    Problems are written with rows (N, C) and classes in dimension 1. In the middle layout the same rows are
    (N/2, C, 2), so that dimension 1 is still the classes' and every other array of the problem folds likewise.
    """

    torch: bool = False
    middle: bool = False

    def __call__(self, array: np.ndarray | None) -> Any:
        """An array whose shape has nothing to do with rows: class weights, priors, elementwise inputs."""
        if array is None or not self.torch:
            return array
        if array.dtype == np.int64:
            return torch.from_numpy(np.ascontiguousarray(array))
        return torch.from_numpy(array.astype(np.float64)).to(getattr(torch, str(array.dtype)))

    def table(self, array: np.ndarray) -> Any:
        """(N, C)."""
        if self.middle:
            rows, classes = array.shape
            array = np.ascontiguousarray(array.reshape(rows // 2, 2, classes).transpose(0, 2, 1))
        return self(array)

    def rows(self, array: np.ndarray) -> Any:
        """(N,)."""
        return self(array.reshape(len(array) // 2, 2) if self.middle else array)

    def back(self, result: Any, shape: tuple[int, ...]) -> np.ndarray:
        """A result as float64 in the problem's own layout."""
        array = result.detach().double().numpy() if self.torch else np.asarray(result).astype(np.float64)
        if self.middle and array.ndim == 3:
            array = array.transpose(0, 2, 1)
        return array.reshape(shape)


@dataclasses.dataclass
class Problem:
    """One call: outputs by name, their true values, the true gradient for upstream gradients `g` (None: ones)."""

    function: str  # table of bounds.toml
    x: np.ndarray  # what is differentiated
    call: Callable[[Any, View], dict[str, Any]]
    values: Callable[[], dict[str, Truth]]
    gradient: Callable[[], Truth] | None = None
    g: dict[str, np.ndarray] | None = None
    gradient_name: str = "gradient"
    table: bool = True  # x is (N, C) and can be laid out otherwise

    @property
    def dtype(self) -> str:
        return str(self.x.dtype)

    def input(self, view: View) -> Any:
        return view.table(self.x) if self.table else view(self.x)


# ---- cases ---------------------------------------------------------------------------------------------------------

Cases = Iterator[tuple[str, Callable[[], Problem]]]


def upstream(name: str, shape: Any, dtype: str) -> np.ndarray:
    """Upstream gradients of both signs, neither 0 nor 1."""
    draw = rng("upstream", name, dtype)
    return rounded(draw.uniform(0.5, 2, size=shape) * draw.choice([-1.0, 1.0], size=shape), dtype)


def _long(dtype: str) -> tuple[str, ...]:
    return (regimes.LONG,) if dtype in ("float32", "float64") else ()


def _selected(dtype: str) -> tuple[str, ...]:
    """The few regimes on which variants of a function (weights, reductions, targets) are tried."""
    tail = ("gap-20", "gap-80") if dtype in ("float32", "float64") else ("gap-7", "gap-20")
    return (
        "typical-2",
        "typical-100",
        "wide-100",
        *tail,
        "wrong-40",
        "mixed",
        "offset-1e4",
        "near-uniform-1e-3",
        "size-129",
    )


def _transforms(dtype: str) -> Cases:
    for regime in (*regimes.logit_regimes(dtype), *_long(dtype)):
        for transform in ("softmax", "log_softmax"):
            for cotangent in ("label", "random") if regime != regimes.LONG else ("label",):
                yield f"{transform}/{cotangent}/{regime}", partial(_transform, transform, cotangent, regime, dtype)
        if regime == regimes.LONG:
            continue
        yield f"logsumexp/plain/{regime}", partial(_logsumexp, regime, dtype)
        yield f"nll_of_log_softmax/none/{regime}", partial(_nll_of_log_softmax, regime, dtype)


def _transform(transform: str, cotangent: str, regime: str, dtype: str) -> Problem:
    batch = regimes.logits(regime, dtype)
    g = regimes.onehot(batch) if cotangent == "label" else upstream(regime, batch.x.shape, dtype)
    value, vjp = (
        (oracle.softmax, oracle.softmax_vjp) if transform == "softmax" else (oracle.log_softmax, oracle.log_softmax_vjp)
    )
    return Problem(
        transform,
        batch.x,
        lambda x, view: {"value": getattr(lossless, transform)(x, 1)},
        lambda: {"value": value(batch.x)},
        lambda: vjp(batch.x, g),
        {"value": g},
    )


def _logsumexp(regime: str, dtype: str) -> Problem:
    x = regimes.logits(regime, dtype).x
    g = upstream(regime, len(x), dtype)
    return Problem(
        "logsumexp",
        x,
        lambda x, view: {"value": lossless.logsumexp(x, 1)},
        lambda: {"value": oracle.logsumexp(x)},
        lambda: oracle.logsumexp_gradient(x, g),
        {"value": g},
    )


def _nll_of_log_softmax(regime: str, dtype: str) -> Problem:
    batch = regimes.logits(regime, dtype)
    targets = oracle.index_targets(batch.y, batch.x.shape[1])
    g = upstream(regime, len(batch.x), dtype)
    return Problem(
        "nll_of_log_softmax",
        batch.x,
        lambda x, view: {"value": lossless.nll_loss(lossless.log_softmax(x, 1), view.rows(batch.y), reduction="none")},
        lambda: {"value": oracle.cross_entropy(batch.x, targets, "none")},
        lambda: oracle.cross_entropy_gradient(batch.x, targets, "none", g),
        {"value": g},
    )


def _nll_losses(dtype: str) -> Cases:
    for spread in ("1", "1e3"):
        for reduction in ("none", "sum", "mean"):
            yield f"nll_loss/{reduction}/weights-{spread}", partial(_nll_loss, spread, reduction, dtype)


def _nll_loss(spread: str, reduction: str, dtype: str) -> Problem:
    draw = rng("nll", spread, reduction, dtype)
    logp = rounded(-np.abs(draw.normal(scale=10, size=(6, 7))), dtype)
    y = draw.integers(7, size=6)
    y[4] = -100
    weight = None if spread == "1" else regimes.class_weights(spread, 7, dtype)
    return Problem(
        "nll_loss",
        logp,
        lambda x, view: {"value": lossless.nll_loss(x, view.rows(y), view(weight), reduction=reduction)},
        lambda: {"value": oracle.nll_loss(logp, y, weight, reduction=reduction)},
        lambda: oracle.nll_loss_gradient(logp, y, weight, reduction=reduction),
    )


def _cross_entropies(dtype: str) -> Cases:
    index = partial(partial, _cross_entropy_index)
    soft = partial(partial, _cross_entropy_soft)
    for regime in regimes.logit_regimes(dtype):
        yield f"cross_entropy/index-none/{regime}", index(regime, dtype, "none")
        if not regime.startswith("masked"):
            yield f"cross_entropy/index-smoothed/{regime}", index(regime, dtype, "none", smoothing=0.1)
        yield f"cross_entropy/soft-one-hot/{regime}", soft("one-hot", regime, dtype, "none")
    yield f"cross_entropy/index-none/{regimes.LONG}", index(regimes.LONG, dtype, "none")
    yield from ((f"cross_entropy/soft-smoothed/{r}", soft("smoothed", r, dtype, "none")) for r in _long(dtype))
    for regime in _selected(dtype):
        for reduction in ("sum", "mean"):
            yield f"cross_entropy/index-{reduction}/{regime}", index(regime, dtype, reduction)
            yield f"cross_entropy/soft-{reduction}/{regime}", soft("smoothed", regime, dtype, reduction)
        for spread in ("1e3", "1e6"):
            yield f"cross_entropy/index-weights-{spread}/{regime}", index(regime, dtype, "mean", spread)
            yield f"cross_entropy/soft-weights-{spread}/{regime}", soft("random", regime, dtype, "none", spread)
            smoothed = index(regime, dtype, "none", spread, smoothing=0.1)
            yield f"cross_entropy/index-weights-{spread}-smoothed/{regime}", smoothed
        yield f"cross_entropy/index-ignored/{regime}", index(regime, dtype, "mean", "1e3", ignore=True)
        yield f"cross_entropy/soft-weights-smoothed/{regime}", soft("tail-1e-9", regime, dtype, "mean", "1e3", 0.1)
        for kind in regimes.soft_target_kinds(dtype)[1:]:
            yield f"cross_entropy/soft-{kind}/{regime}", soft(kind, regime, dtype, "none")
        yield f"cross_entropy/target-gradient/{regime}", partial(_cross_entropy_target, regime, dtype)
    yield "cross_entropy/soft-optimum/masked-half", soft("optimum", "masked-half", dtype, "none")


def _cross_entropy_index(
    regime: str, dtype: str, reduction: str, spread: str = "1", ignore: bool = False, smoothing: float = 0.0
) -> Problem:
    batch = regimes.logits(regime, dtype)
    # A mean over three rows: dividing by four would round nothing.
    x, y = (batch.x[:3], batch.y[:3].copy()) if reduction == "mean" else (batch.x, batch.y.copy())
    if ignore:
        y[1] = 7777  # far outside: an ignored label may be no class at all
    weight = None if spread == "1" else regimes.class_weights(spread, x.shape[1], dtype)
    targets = oracle.index_targets(y, x.shape[1], weight, 7777, smoothing)
    g = upstream(regime, len(x) if reduction == "none" else (), dtype)
    return Problem(
        "cross_entropy",
        x,
        lambda x, view: {
            "value": lossless.cross_entropy(
                x, view.rows(y), view(weight), ignore_index=7777, reduction=reduction, label_smoothing=smoothing
            )
        },
        lambda: {"value": oracle.cross_entropy(x, targets, reduction)},
        lambda: oracle.cross_entropy_gradient(x, targets, reduction, g),
        {"value": g},
    )


def _cross_entropy_soft(
    kind: str, regime: str, dtype: str, reduction: str, spread: str = "1", smoothing: float = 0.0
) -> Problem:
    batch = regimes.logits(regime, dtype)
    x, t = batch.x, regimes.soft_targets(kind, batch)
    if reduction == "mean":
        x, t = x[:3], t[:3]
    weight = None if spread == "1" else regimes.class_weights(spread, x.shape[1], dtype)
    targets = oracle.soft_targets(t, weight, smoothing)
    g = upstream(regime, len(x) if reduction == "none" else (), dtype)
    return Problem(
        "cross_entropy",
        x,
        lambda x, view: {
            "value": lossless.cross_entropy(
                x, view.table(t), view(weight), reduction=reduction, label_smoothing=smoothing
            )
        },
        lambda: {"value": oracle.cross_entropy(x, targets, reduction)},
        lambda: oracle.cross_entropy_gradient(x, targets, reduction, g),
        {"value": g},
    )


def _cross_entropy_target(regime: str, dtype: str) -> Problem:
    """The same loss as a function of its soft target."""
    batch = regimes.logits(regime, dtype)
    x, t = batch.x[:3], regimes.soft_targets("random", batch)[:3]
    return Problem(
        "cross_entropy",
        t,
        lambda t, view: {"value": lossless.cross_entropy(view.table(x), t)},
        lambda: {"value": oracle.cross_entropy(x, oracle.soft_targets(t))},
        lambda: oracle.cross_entropy_target_gradient(x),
        gradient_name="target_gradient",
    )


def _row_statistics(dtype: str) -> Cases:
    for regime in regimes.logit_regimes(dtype):
        yield f"row_statistics/index/{regime}", partial(_statistics, "index", regime, dtype)
    for regime in _selected(dtype):
        for kind in ("none", "smoothed", "tail-1e-9", "optimum"):
            if kind == "none" or kind in regimes.soft_target_kinds(dtype):
                yield f"row_statistics/{kind}/{regime}", partial(_statistics, kind, regime, dtype)
        for spread in ("1e3", "1e6"):
            yield f"row_statistics/prior-{spread}/{regime}", partial(_statistics, "index", regime, dtype, spread)
        for name in ("nll", "lse", "entropy"):
            yield f"row_statistics/only-{name}/{regime}", partial(_statistics, "index", regime, dtype, None, (name,))
    if dtype == "float32":
        yield f"row_statistics/index/{regimes.LONG}", partial(_statistics, "index", regimes.LONG, dtype)


def _statistics(
    kind: str, regime: str, dtype: str, spread: str | None = None, names: tuple[str, ...] = ("nll", "lse", "entropy")
) -> Problem:
    batch = regimes.logits(regime, dtype)
    classes = batch.x.shape[1]
    target, targets = None, None
    if kind == "index":
        target, targets = batch.y, oracle.index_targets(batch.y, classes)
    elif kind != "none":
        target = regimes.soft_targets(kind, batch)
        targets = oracle.soft_targets(target)
    else:
        names = tuple(name for name in names if name != "nll")
    prior = None if spread is None else regimes.class_weights(spread, classes, dtype)
    if prior is not None:
        names = (*names, "prior")
    # Upstream gradients of one sign for nll, lse and prior, as in every named loss: the terms of the gradient then add.
    g = {name: np.abs(upstream(name + regime, len(batch.x), dtype)) for name in names}
    if "entropy" in g:
        g["entropy"] = -g["entropy"]

    def call(x: Any, view: View) -> dict[str, Any]:
        placed = None if target is None else view.rows(target) if target.ndim == 1 else view.table(target)
        statistics = lossless.row_statistics(x, placed, dim=1, prior=view(prior))
        return {name: getattr(statistics, name) for name in names}

    def values() -> dict[str, Truth]:
        true = oracle.row_statistics(batch.x, targets, prior)
        return {name: getattr(true, name) for name in names}

    return Problem(
        "row_statistics",
        batch.x,
        call,
        values,
        lambda: oracle.row_statistics_gradient(batch.x, targets, prior, g),
        g,
    )


def _entropies(dtype: str) -> Cases:
    for regime in (*regimes.logit_regimes(dtype), *((regimes.LONG,) if dtype == "float64" else ())):
        yield f"entropy/logits/{regime}", partial(_entropy, "logits", regime, dtype)
    for regime in _selected(dtype):
        yield f"entropy/logits-bits/{regime}", partial(_entropy, "logits", regime, dtype, base=2.0)
    for regime in regimes.PROBABILITIES:
        yield f"entropy/probs/{regime}", partial(_entropy, "probs", regime, dtype)
        yield f"entropy/log_probs/{regime}", partial(_entropy, "log_probs", regime, dtype)
        yield f"entropy/counts/{regime}", partial(_entropy, "counts", regime, dtype)


def _entropy(kind: str, regime: str, dtype: str, base: float | None = None) -> Problem:
    """Counts are probabilities of any sum, and `normalize=True`."""
    x = regimes.logits(regime, dtype).x if kind == "logits" else regimes.probabilities(regime, dtype)
    if kind == "log_probs":
        with np.errstate(divide="ignore"):
            x = rounded(np.log(x.astype(np.float64)), dtype)
    elif kind == "counts":
        x = rounded(np.round(20000 * x.astype(np.float64)), dtype)
    given, normalize = ("probs", True) if kind == "counts" else (kind, False)
    g = upstream(regime, len(x), dtype)
    differentiable = base is None and (kind in ("logits", "log_probs") or bool(np.all(x > 0)))
    return Problem(
        "entropy",
        x,
        lambda x, view: {"value": lossless.info.entropy(x, dim=1, base=base, kind=given, normalize=normalize)},
        lambda: {"value": oracle.entropy(x, kind, base)},
        (lambda: oracle.entropy_gradient(x, kind, g)) if differentiable else None,
        {"value": g},
    )


def _pointwise(dtype: str) -> Cases:
    for regime in regimes.BINARY:
        for variant in ("none", "sum", "mean", "weights"):
            yield f"binary_cross_entropy_with_logits/{variant}/{regime}", partial(_binary, variant, regime, dtype)
    for regime in regimes.REGRESSION[dtype]:
        for reduction in ("none", "sum", "mean"):
            yield f"mse_loss/{reduction}/{regime}", partial(_mse, reduction, regime, dtype)
        yield f"rmse_loss/mean/{regime}", partial(_rmse, regime, dtype)


def _binary(variant: str, regime: str, dtype: str) -> Problem:
    x, t = (a.reshape(16, 4) for a in regimes.binary_logits(regime, dtype))
    x, t = x[:15], t[:15]  # 60 elements: a mean that rounds
    weights: tuple[np.ndarray | None, np.ndarray | None] = (None, None)
    if variant == "weights":
        weights = (np.abs(upstream("w" + regime, x.shape, dtype)), regimes.class_weights("1e3", 4, dtype))
    reduction = "none" if variant == "weights" else variant
    g = upstream(regime, x.shape if reduction == "none" else (), dtype)
    return Problem(
        "binary_cross_entropy_with_logits",
        x,
        lambda x, view: {
            "value": lossless.binary_cross_entropy_with_logits(
                x, view(t), weight=view(weights[0]), pos_weight=view(weights[1]), reduction=reduction
            )
        },
        lambda: {"value": oracle.binary_cross_entropy_with_logits(x, t, *weights, reduction)},
        lambda: oracle.binary_cross_entropy_with_logits_gradient(x, t, *weights, reduction, g),
        {"value": g},
        table=False,
    )


def _mse(reduction: str, regime: str, dtype: str) -> Problem:
    x, t = regimes.regression(regime, dtype)
    g = upstream(regime, x.shape if reduction == "none" else (), dtype)
    return Problem(
        "mse_loss",
        x,
        lambda x, view: {"value": lossless.mse_loss(x, view(t), reduction=reduction)},
        lambda: {"value": oracle.mse_loss(x, t, reduction)},
        lambda: oracle.mse_loss_gradient(x, t, reduction, g),
        {"value": g},
        table=False,
    )


def _rmse(regime: str, dtype: str) -> Problem:
    x, t = regimes.regression(regime, dtype)
    return Problem(
        "rmse_loss",
        x,
        lambda x, view: {"value": lossless.rmse_loss(x, view(t))},
        lambda: {"value": oracle.rmse_loss(x, t)},
        lambda: oracle.rmse_loss_gradient(x, t),
        table=False,
    )


@cache
def _cases(dtype: str) -> dict[str, Callable[[], Problem]]:
    found: dict[str, Callable[[], Problem]] = {}
    for family in (_transforms, _nll_losses, _cross_entropies, _row_statistics, _entropies, _pointwise):
        found.update(family(dtype))
    return found


def cases(dtype: str) -> list[str]:
    return list(_cases(dtype))


@lru_cache(maxsize=64)
def problem(name: str, dtype: str) -> Problem:
    return _cases(dtype)[name]()


# ---- running and judging -------------------------------------------------------------------------------------------


@cache
def true_values(name: str, dtype: str) -> dict[str, Truth]:
    return problem(name, dtype).values()


@cache
def true_gradient(name: str, dtype: str) -> Truth:
    formula = problem(name, dtype).gradient
    assert formula is not None
    return formula()


def judge(function: str, quantity: str, dtype: str, computed: np.ndarray, truth: Truth) -> tuple[float, float, str]:
    """(worst error in ulp, worst error of a tiny result, complaint): no complaint when both are within bounds."""
    promise = BOUNDS[function][quantity]
    unit = truth.unit if promise.get("unit") == "larger term" else None
    found = errors(computed, truth.value, dtype, unit)
    normal, tiny = found.worst()
    bound = promise[dtype]
    if _kernels.native is None:
        bound = max(bound, BOUNDS["without_kernels"].get(quantity, {}).get(dtype, 0.0))
    least = TINY.get(function, {}).get(quantity, {}).get(dtype, TINY["every"])
    limit = np.where(found.tiny, least, bound)
    if np.all(found.ulp <= limit):
        return normal, tiny, ""
    excess = np.where(np.isnan(found.ulp), np.inf, found.ulp / limit)
    where = np.unravel_index(int(np.argmax(excess)), excess.shape)
    unit_name = promise.get("unit", "result")
    if unit is not None:
        unit_name = f"{unit_name} {unit.to_float64()[where]!r}"
    return (
        normal,
        tiny,
        f"{function}.{quantity} {dtype} at {tuple(map(int, where))}: computed {float(computed[where])!r}, "
        f"true {float(truth.value.to_float64()[where])!r}, {float(found.ulp[where]):.6g} ulp of the {unit_name}, "
        f"bound {float(limit[where])}; {int(np.sum(~(found.ulp <= limit)))} of {limit.size} over",
    )


def run_values(name: str, dtype: str, view: View) -> dict[str, np.ndarray]:
    """The function's outputs, as float64, in the layout of the problem."""
    case = problem(name, dtype)
    found = {}
    for output, result in case.call(case.input(view), view).items():
        assert str(result.dtype).removeprefix("torch.") == dtype, (
            f"{name}: {output} has dtype {result.dtype}, not {dtype}"
        )
        found[output] = view.back(result, true_values(name, dtype)[output].value.shape)
    return found


def run_gradient(name: str, dtype: str, view: View) -> np.ndarray:
    """The gradient autograd gives, as float64, in the layout of the problem."""
    case = problem(name, dtype)
    x = case.input(view).requires_grad_()
    outputs = case.call(x, view)
    g = []
    for output, result in outputs.items():
        if case.g is None:
            g.append(torch.ones_like(result))
        else:
            array = case.g[output]
            placed = (
                view(array)
                if not case.table or array.ndim == 0
                else view.table(array)
                if array.ndim == 2
                else view.rows(array)
            )
            g.append(placed)
    (dx,) = torch.autograd.grad(list(outputs.values()), x, g)
    assert dx.dtype == x.dtype
    assert dx.shape == x.shape
    return view.back(dx, case.x.shape)


def forget() -> None:
    """Drop every problem and truth made so far, after `regimes.SEED` was changed."""
    for cached in (problem, true_values, true_gradient):
        cached.cache_clear()
