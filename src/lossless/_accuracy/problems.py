"""Every function that is promised to be accurate, with every input it is judged on: how to call it, and the truth.

`cases(dtype)` names them, `problem(name, dtype)` makes one. A name reads `function/variant/regime`. A new function is a
generator in this file and a table in `bounds.toml`; the tests and the certificate then cover it. What is called are the
functions of `view.api`, so that any library behind the same names can be asked the same questions.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from functools import cache, lru_cache, partial
from typing import Any

import numpy as np

from . import oracle, regimes
from .libraries import View
from .oracle import Points, Truth
from .regimes import rng, rounded


@dataclasses.dataclass
class Problem:
    """One call: outputs by name, their true values, the true gradient for upstream gradients `g` (None: ones)."""

    function: str  # table of bounds.toml
    x: np.ndarray  # what is differentiated
    call: Callable[[Any, View], dict[str, Any]]
    values: Callable[[], dict[str, Truth]]
    gradient: Callable[[Points], Truth] | None = None  # where x is; at a `Line` through x, the second derivative
    g: dict[str, np.ndarray] | None = None
    gradient_name: str = "gradient"
    table: bool = True  # x is (N, C) and can be laid out otherwise
    label: np.ndarray | None = None  # those of logits, one-hot

    @property
    def dtype(self) -> str:
        return str(self.x.dtype)

    def input(self, view: View) -> Any:
        return view.table(self.x) if self.table else view(self.x)

    def upstream(self, array: np.ndarray, view: View) -> Any:
        """An upstream gradient, laid out as the output it belongs to."""
        if not self.table or array.ndim == 0:
            return view(array)
        return view.table(array) if array.ndim == 2 else view.rows(array)


# ---- cases ---------------------------------------------------------------------------------------------------------

Cases = Iterator[tuple[str, Callable[[], Problem]]]


def upstream(name: str, shape: Any, dtype: str) -> np.ndarray:
    """Upstream gradients of both signs, neither 0 nor 1."""
    draw = rng("upstream", name, dtype)
    return rounded(draw.uniform(0.5, 2, size=shape) * draw.choice([-1.0, 1.0], size=shape), dtype)


def _long(dtype: str) -> tuple[str, ...]:
    return regimes.LONG if dtype in ("float32", "float64") else ()


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


def _few(dtype: str) -> tuple[str, ...]:
    """Fewer still, for options that meet the same arithmetic."""
    return ("typical-10", *(("gap-20", "gap-80") if dtype in ("float32", "float64") else ("gap-7", "gap-20")), "mixed")


def _some(dtype: str) -> tuple[str, ...]:
    """In between: a few, and what temperature and offset make worse."""
    return (*_few(dtype), "wide-100", "offset-1e4", "near-uniform-1e-3")


def _transforms(dtype: str) -> Cases:
    for regime in (*regimes.logit_regimes(dtype), *_long(dtype)):
        for name in ("softmax", "log_softmax"):
            for cotangent in ("label", "random") if regime not in regimes.LONG else ("label",):
                yield f"{name}/{cotangent}/{regime}", partial(transform, name, cotangent, regime, dtype)
        if regime in regimes.LONG:
            continue
        yield f"logsumexp/plain/{regime}", partial(logsumexp, regime, dtype)
        yield f"nll_of_log_softmax/none/{regime}", partial(nll_of_log_softmax, regime, dtype)
    for regime in _some(dtype):
        for name in ("softmax", "log_softmax"):
            yield f"{name}/temperature/{regime}", partial(transform, name, "random", regime, dtype, 0.3)
    for regime in (*regimes.SCORES, "beyond"):
        for name in ("sigmoid", "logsigmoid"):
            yield f"{name}/plain/{regime}", partial(sigmoid, name, regime, dtype)
    for regime in ("ordinary", "close", "certain", "tiny", "near-one"):
        yield f"logit/plain/{regime}", partial(logit, regime, dtype)
        yield f"logit/eps/{regime}", partial(logit, regime, dtype, 2.0**-7)
    for regime in regimes.PROBABILITIES:
        for center in ("mean", "max", None):
            yield f"inverse_softmax/{center}/{regime}", partial(inverse_softmax, center, regime, dtype)


def transform(transform: str, cotangent: str, regime: str, dtype: str, temperature: float = 1.0) -> Problem:
    batch = regimes.logits(regime, dtype)
    g = regimes.onehot(batch) if cotangent == "label" else upstream(regime, batch.x.shape, dtype)
    value, vjp = (
        (oracle.softmax, oracle.softmax_vjp) if transform == "softmax" else (oracle.log_softmax, oracle.log_softmax_vjp)
    )
    return Problem(
        transform,
        batch.x,
        lambda x, view: {"value": getattr(view.api, transform)(x, 1, temperature=temperature)},
        lambda: {"value": value(batch.x, temperature)},
        lambda x: vjp(x, g, temperature),
        {"value": g},
        label=regimes.onehot(batch),
    )


def sigmoid(transform: str, regime: str, dtype: str) -> Problem:
    x, _ = regimes.binary_logits(regime, dtype)
    g = upstream(regime, x.shape, dtype)
    return Problem(
        transform,
        x,
        lambda x, view: {"value": getattr(view.api, transform)(x)},
        lambda: {"value": getattr(oracle, transform)(x)},
        lambda x: getattr(oracle, transform + "_vjp")(x, g),
        {"value": g},
        table=False,
    )


def logit(regime: str, dtype: str, eps: float | None = None) -> Problem:
    p, _ = regimes.binary_probabilities(regime, dtype)
    g = upstream(regime, p.shape, dtype)
    return Problem(
        "logit",
        p,
        lambda p, view: {"value": view.api.logit(p, eps)},
        lambda: {"value": oracle.logit(p, eps)},
        lambda p: oracle.logit_vjp(p, g, eps),
        {"value": g},
        table=False,
    )


def inverse_softmax(center: str | None, regime: str, dtype: str) -> Problem:
    p = regimes.probabilities(regime, dtype)
    g = upstream(regime, p.shape, dtype)
    # At 0 the slope is infinite, and where the largest are equal that of "max" is anybody's.
    tied = center == "max" and regime in ("uniform", "coin")
    return Problem(
        "inverse_softmax",
        p,
        lambda p, view: {"value": view.api.inverse_softmax(p, 1, center=center)},
        lambda: {"value": oracle.inverse_softmax(p, center)},
        None if tied or not np.all(p > 0) else lambda p: oracle.inverse_softmax_vjp(p, g, center),
        {"value": g},
    )


def logsumexp(regime: str, dtype: str) -> Problem:
    batch = regimes.logits(regime, dtype)
    g = upstream(regime, len(batch.x), dtype)
    return Problem(
        "logsumexp",
        batch.x,
        lambda x, view: {"value": view.api.logsumexp(x, 1)},
        lambda: {"value": oracle.logsumexp(batch.x)},
        lambda x: oracle.logsumexp_gradient(x, g),
        {"value": g},
        label=regimes.onehot(batch),
    )


def nll_of_log_softmax(regime: str, dtype: str) -> Problem:
    batch = regimes.logits(regime, dtype)
    targets = oracle.index_targets(batch.y, batch.x.shape[1])
    g = upstream(regime, len(batch.x), dtype)
    return Problem(
        "nll_of_log_softmax",
        batch.x,
        lambda x, view: {"value": view.api.nll_loss(view.api.log_softmax(x, 1), view.rows(batch.y), reduction="none")},
        lambda: {"value": oracle.cross_entropy(batch.x, targets, "none")},
        lambda x: oracle.cross_entropy_gradient(x, targets, "none", g),
        {"value": g},
        label=regimes.onehot(batch),
    )


def _nll_losses(dtype: str) -> Cases:
    for spread in ("1", "1e3"):
        for reduction in ("none", "sum", "mean"):
            yield f"nll_loss/{reduction}/weights-{spread}", partial(nll_loss, spread, reduction, dtype)


def nll_loss(spread: str, reduction: str, dtype: str) -> Problem:
    draw = rng("nll", spread, reduction, dtype)
    logp = rounded(-np.abs(draw.normal(scale=10, size=(6, 7))), dtype)
    y = draw.integers(7, size=6)
    y[4] = -100
    weight = None if spread == "1" else regimes.class_weights(spread, 7, dtype)
    return Problem(
        "nll_loss",
        logp,
        lambda x, view: {"value": view.api.nll_loss(x, view.rows(y), view(weight), reduction=reduction)},
        lambda: {"value": oracle.nll_loss(logp, y, weight, reduction=reduction)},
        lambda x: oracle.nll_loss_gradient(x, y, weight, reduction=reduction),
    )


def _cross_entropies(dtype: str) -> Cases:
    index = partial(partial, cross_entropy, "index")
    soft = partial(partial, cross_entropy)
    for regime in regimes.logit_regimes(dtype):
        yield f"cross_entropy/index-none/{regime}", index(regime, dtype, "none")
        if not regime.startswith("masked"):
            yield f"cross_entropy_smoothed/index/{regime}", index(regime, dtype, "none", smoothing=0.1)
        yield f"cross_entropy/soft-one-hot/{regime}", soft("one-hot", regime, dtype, "none")
    yield from ((f"cross_entropy/index-none/{r}", index(r, dtype, "none")) for r in regimes.LONG)
    yield from ((f"cross_entropy/soft-smoothed/{r}", soft("smoothed", r, dtype, "none")) for r in _long(dtype))
    for regime in _selected(dtype):
        for reduction in ("sum", "mean"):
            yield f"cross_entropy/index-{reduction}/{regime}", index(regime, dtype, reduction)
            yield f"cross_entropy/soft-{reduction}/{regime}", soft("smoothed", regime, dtype, reduction)
        for spread in ("1e3", "1e6"):
            yield f"cross_entropy/index-weights-{spread}/{regime}", index(regime, dtype, "mean", spread)
            yield f"cross_entropy/soft-weights-{spread}/{regime}", soft("random", regime, dtype, "none", spread)
            smoothed = index(regime, dtype, "none", spread, smoothing=0.1)
            yield f"cross_entropy_smoothed/index-weights-{spread}/{regime}", smoothed
        yield f"cross_entropy/index-ignored/{regime}", index(regime, dtype, "mean", "1e3", ignore=True)
        yield f"cross_entropy_smoothed/soft-weights/{regime}", soft("tail-1e-9", regime, dtype, "mean", "1e3", 0.1)
        for kind in regimes.soft_target_kinds(dtype)[1:]:
            yield f"cross_entropy/soft-{kind}/{regime}", soft(kind, regime, dtype, "none")
        yield f"cross_entropy/target-gradient/{regime}", partial(cross_entropy_target, regime, dtype)
    yield "cross_entropy/soft-optimum/masked-half", soft("optimum", "masked-half", dtype, "none")
    tail = "random" if dtype == "float16" else "tail-1e-12"
    for regime in (*_some(dtype), *(("normalised",) if dtype in ("float32", "float64") else ())):
        yield f"cross_entropy/index-z/{regime}", index(regime, dtype, "none", z_loss=1e-3)
        yield f"cross_entropy/index-sharp/{regime}", index(regime, dtype, "none", temperature=0.3)
    every = {"sampled": True, "denominator": "count", "z_loss": 1e-3, "temperature": 0.7}
    for regime in _few(dtype):
        yield f"cross_entropy/index-flat/{regime}", index(regime, dtype, "none", temperature=3.0)
        yield f"cross_entropy/index-mean-samples/{regime}", index(regime, dtype, "mean", "1e6", sampled=True)
        yield f"cross_entropy/soft-z-weights-1e6/{regime}", soft(tail, regime, dtype, "none", "1e6", z_loss=1e-3)
        yield f"cross_entropy/soft-flat/{regime}", soft(tail, regime, dtype, "none", temperature=3.0)
        yield f"cross_entropy/soft-mean-samples/{regime}", soft("random", regime, dtype, "mean", "1e6", sampled=True)
        yield f"cross_entropy_every_option/index/{regime}", index(regime, dtype, "mean", "1e6", 0.1, True, **every)
        yield f"cross_entropy_every_option/soft/{regime}", soft(tail, regime, dtype, "mean", "1e3", 0.1, **every)
        yield f"cross_entropy/sample-gradient/{regime}", partial(cross_entropy_samples, regime, dtype)
    for regime in ("typical-10", "gap-20"):
        for divisor in ("weights", "count", "batch", 7.0):
            variant = partial(partial, sampled=True, denominator=divisor)
            yield (
                f"cross_entropy/index-mean-over-{divisor}/{regime}",
                variant(cross_entropy, "index", regime, dtype, "mean", "1e3", 0.0, True),
            )
            yield (
                f"cross_entropy/soft-mean-over-{divisor}/{regime}",
                variant(cross_entropy, "random", regime, dtype, "mean", "1e3"),
            )


Divisor = str | float | None


def cross_entropy(
    kind: str,
    regime: str,
    dtype: str,
    reduction: str,
    spread: str = "1",
    smoothing: float = 0.0,
    ignore: bool = False,
    sampled: bool = False,
    denominator: Divisor = None,
    **options: float,
) -> Problem:
    """Labels ("index") or a kind of soft target; options: z_loss, temperature."""
    batch = regimes.logits(regime, dtype)
    x, target = batch.x, batch.y.copy() if kind == "index" else regimes.soft_targets(kind, batch)
    if reduction == "mean":  # over three rows: dividing by four would round nothing
        x, target = x[:3], target[:3]
    if ignore:
        target[1] = 7777  # far outside: an ignored label may be no class at all
    weight = None if spread == "1" else regimes.class_weights(spread, x.shape[1], dtype)
    samples = regimes.sample_weights(regime, len(x), dtype) if sampled else None
    targets = _targets(kind, target, x.shape[1], weight, smoothing, samples, denominator)
    g = upstream(regime, len(x) if reduction == "none" else (), dtype)

    def call(x: Any, view: View) -> dict[str, Any]:
        given = {**options, **_reducing(view, reduction, samples, denominator)}
        place = view.rows if kind == "index" else view.table
        if kind == "index":
            given["ignore_index"] = 7777
        return {"value": view.api.cross_entropy(x, place(target), view(weight), label_smoothing=smoothing, **given)}

    return Problem(
        "cross_entropy"
        + ("_every_option" if {"z_loss", "temperature"} <= set(options) else "_smoothed" * (smoothing > 0)),
        x,
        call,
        lambda: {"value": oracle.cross_entropy(x, targets, reduction, **options)},
        lambda x: oracle.cross_entropy_gradient(x, targets, reduction, g, **options),
        {"value": g},
        label=regimes.onehot(batch)[: len(x)],
    )


def _targets(
    kind: str,
    target: np.ndarray,
    classes: int,
    weight: np.ndarray | None,
    smoothing: float,
    samples: np.ndarray | None,
    denominator: Divisor,
) -> oracle.Targets:
    if kind == "index":
        return oracle.index_targets(target, classes, weight, 7777, smoothing, samples, denominator)
    return oracle.soft_targets(target, weight, smoothing, samples, denominator)


def _reducing(view: View, reduction: str, samples: np.ndarray | None, denominator: Divisor) -> dict[str, Any]:
    """The arguments about reduction that are not at their defaults; a number to divide by is given as a 0-d array."""
    given: dict[str, Any] = {"reduction": reduction}
    if samples is not None:
        given["sample_weight"] = view.rows(samples)
    if isinstance(denominator, float):
        assert samples is not None  # whose format it is given in
        given["denominator"] = view(rounded(denominator, str(samples.dtype)))
    elif denominator is not None:
        given["denominator"] = denominator
    return given


def cross_entropy_samples(regime: str, dtype: str) -> Problem:
    """The same loss as a function of the weights of its rows."""
    batch = regimes.logits(regime, dtype)
    x, y, samples = batch.x[:3], batch.y[:3], regimes.sample_weights(regime, 3, dtype)
    targets = partial(oracle.index_targets, y, x.shape[1])
    return Problem(
        "cross_entropy",
        samples,
        lambda s, view: {
            "value": view.api.cross_entropy(view(x), view(y), reduction="sum", sample_weight=s, z_loss=1e-3)
        },
        lambda: {"value": oracle.cross_entropy(x, targets(sample_weight=samples), "sum", 1e-3)},
        lambda _: oracle.cross_entropy(x, targets(), "none", 1e-3),
        gradient_name="sample_gradient",
        table=False,
    )


def cross_entropy_target(regime: str, dtype: str) -> Problem:
    """The same loss as a function of its soft target."""
    batch = regimes.logits(regime, dtype)
    x, t = batch.x[:3], regimes.soft_targets("random", batch)[:3]
    return Problem(
        "cross_entropy",
        t,
        lambda t, view: {"value": view.api.cross_entropy(view.table(x), t)},
        lambda: {"value": oracle.cross_entropy(x, oracle.soft_targets(t))},
        lambda _: oracle.cross_entropy_target_gradient(x),
        gradient_name="target_gradient",
    )


def _focal_losses(dtype: str) -> Cases:
    index = partial(partial, focal, "index")
    soft = partial(partial, focal)
    gaps = tuple(f"gap-{gap}" for gap in regimes.GAPS[dtype])
    for regime in dict.fromkeys((*_selected(dtype), *gaps, "masked-half", "masked-but-one", "size-1")):
        yield f"focal_loss/index/{regime}", index(regime, dtype)
    for regime in _some(dtype):
        yield f"focal_loss/index-gamma-0.5/{regime}", index(regime, dtype, 0.5)
        yield f"focal_loss/index-gamma-1/{regime}", index(regime, dtype, 1.0)
        yield f"focal_loss_gamma_5/index/{regime}", index(regime, dtype, 5.0)
    for regime in ("typical-2", "gap-2-classes"):
        yield f"focal_loss/index-alpha/{regime}", index(regime, dtype, alpha="number")
    for regime in _few(dtype):
        yield f"focal_loss/index-gamma-0/{regime}", index(regime, dtype, 0.0)
        yield f"focal_loss/index-mean-weights-1e6/{regime}", index(regime, dtype, 2.0, "mean", "1e6", "vector")
        for kind in ("one-hot", "smoothed", "random", "optimum", "tail-1e-12"):
            if kind in regimes.soft_target_kinds(dtype):
                yield f"focal_loss/soft-{kind}/{regime}", soft(kind, regime, dtype)
        yield f"focal_loss/soft-gamma-0.5/{regime}", soft("smoothed", regime, dtype, 0.5)
        tail = "random" if dtype == "float16" else "tail-1e-12"
        yield (
            f"focal_loss/soft-mean-weights-1e6/{regime}",
            soft(tail, regime, dtype, 2.0, "mean", "1e6", "vector", sampled=True),
        )
    yield "focal_loss/soft-optimum/masked-half", soft("optimum", "masked-half", dtype)
    for divisor in (None, "weights", "count", "batch", "positives", 7.0):
        options = {"ignore": True, "sampled": True, "denominator": divisor}
        yield f"focal_loss/index-mean-over-{divisor}/gap-20", index("gap-20", dtype, 2.0, "mean", "1e3", **options)
        options["ignore"] = False
        yield (
            f"focal_loss/soft-mean-over-{divisor}/typical-10",
            soft("random", "typical-10", dtype, 2.0, "mean", "1e3", **options),
        )


def focal(
    kind: str,
    regime: str,
    dtype: str,
    gamma: float = 2.0,
    reduction: str = "none",
    spread: str = "1",
    alpha: str | None = None,
    ignore: bool = False,
    sampled: bool = False,
    denominator: Divisor = None,
) -> Problem:
    """alpha: None, a "vector" with a number for every class, or the "number" of two classes."""
    batch = regimes.logits(regime, dtype)
    x, target = batch.x, batch.y.copy() if kind == "index" else regimes.soft_targets(kind, batch)
    if reduction == "mean":
        x, target = x[:3], target[:3]
    if ignore:
        target[1] = 7777
    weight = None if spread == "1" else regimes.class_weights(spread, x.shape[1], dtype)
    samples = regimes.sample_weights(regime, len(x), dtype) if sampled else None
    targets = _targets(kind, target, x.shape[1], weight, 0.0, samples, denominator)
    alphas = {
        None: None,
        "vector": rounded(rng("alpha", regime).uniform(0.1, 0.9, size=x.shape[1]), dtype),
        "number": np.array([0.75, 0.25]),
    }[alpha]
    g = upstream(regime, len(x) if reduction == "none" else (), dtype)

    def call(x: Any, view: View) -> dict[str, Any]:
        given = _reducing(view, reduction, samples, denominator)
        place = view.rows if kind == "index" else view.table
        if kind == "index":
            given["ignore_index"] = 7777
        given["alpha"] = 0.25 if alpha == "number" else view(alphas)
        return {"value": view.api.focal_loss(x, place(target), gamma=gamma, weight=view(weight), **given)}

    return Problem(
        "focal_loss" if gamma <= 2 else "focal_loss_gamma_5",
        x,
        call,
        lambda: {"value": oracle.focal_loss(x, targets, gamma, alphas, reduction)},
        lambda x: oracle.focal_loss_gradient(x, targets, gamma, alphas, reduction, g),
        {"value": g},
        label=regimes.onehot(batch)[: len(x)],
    )


def _categoricals(dtype: str) -> Cases:
    dense, sparse = partial(partial, categorical, False), partial(partial, categorical, True)
    for regime in ("typical", "near-one-hot", "sparse", "gap-20" if dtype != "float16" else "gap-7"):
        yield f"categorical_cross_entropy/none/{regime}", dense("soft", regime, dtype, "none")
        yield f"categorical_cross_entropy/one-hot/{regime}", dense("one-hot", regime, dtype, "sum")
        yield f"categorical_cross_entropy/smoothed/{regime}", dense("soft", regime, dtype, "mean", smoothing=0.1)
        yield f"categorical_cross_entropy/itself/{regime}", dense("itself", regime, dtype, "none")
        yield f"sparse_categorical_cross_entropy/none/{regime}", sparse("labels", regime, dtype, "none")
        yield f"sparse_categorical_cross_entropy/ignored/{regime}", sparse("labels", regime, dtype, "mean", ignore=True)
        logits = {"from_logits": True}
        yield (
            f"categorical_cross_entropy/logits/{regime}",
            dense("soft", regime, dtype, "mean", smoothing=0.1, **logits),
        )
        yield f"sparse_categorical_cross_entropy/logits/{regime}", sparse("labels", regime, dtype, "none", **logits)


def categorical(
    sparse: bool,
    kind: str,
    regime: str,
    dtype: str,
    reduction: str,
    smoothing: float = 0.0,
    ignore: bool = False,
    from_logits: bool = False,
) -> Problem:
    """q of a pair, judged by p ("soft"), by integers 0 and 1, by itself, or by labels; then `sparse`."""
    x = regimes.pair(regime, "logits" if from_logits else "probs", dtype)[1]
    rows = 3 if reduction == "mean" else 4
    p, y = regimes.pair(regime, "probs", dtype)[0], np.array([3, 8 if ignore else 0, 19, 6])[:rows]
    name = "sparse_categorical_cross_entropy" if sparse else "categorical_cross_entropy"
    if kind == "itself":
        x = p
    elif kind == "one-hot":
        p = np.eye(20, dtype=np.int64)[y]
    x, p = x[:rows], p[:rows]
    targets = oracle.index_targets(y, 20, None, 8) if sparse else oracle.soft_targets(p, None, smoothing)
    options: dict[str, Any] = {"ignore_class": 8} if sparse else {"label_smoothing": smoothing}
    value: Callable[..., Truth]
    slope: Callable[..., Truth]
    if from_logits:
        options["from_logits"], value, slope = True, oracle.cross_entropy, oracle.cross_entropy_gradient
    else:
        value, slope = oracle.categorical_cross_entropy, oracle.categorical_cross_entropy_gradient
    g = upstream(regime, rows if reduction == "none" else (), dtype)

    def call(x: Any, view: View) -> dict[str, Any]:
        target = view.rows(y) if sparse else view.table(p)
        return {"value": getattr(view.api, name)(x, target, dim=1, reduction=reduction, **options)}

    return Problem(
        name,
        x,
        call,
        lambda: {"value": value(x, targets, reduction)},
        lambda x: slope(x, targets, reduction, g),
        {"value": g},
    )


def _row_statistics(dtype: str) -> Cases:
    for regime in regimes.logit_regimes(dtype):
        yield f"row_statistics/index/{regime}", partial(statistics, "index", regime, dtype)
    for regime in _selected(dtype):
        for kind in ("none", "smoothed", "tail-1e-9", "optimum"):
            if kind == "none" or kind in regimes.soft_target_kinds(dtype):
                yield f"row_statistics/{kind}/{regime}", partial(statistics, kind, regime, dtype)
        for spread in ("1e3", "1e6"):
            yield f"row_statistics/prior-{spread}/{regime}", partial(statistics, "index", regime, dtype, spread)
        for name in ("nll", "lse", "entropy"):
            yield f"row_statistics/only-{name}/{regime}", partial(statistics, "index", regime, dtype, None, (name,))
    if dtype == "float32":
        yield f"row_statistics/index/{regimes.LONG[0]}", partial(statistics, "index", regimes.LONG[0], dtype)
    for regime in _some(dtype):
        sharp = partial(statistics, "index", regime, dtype, "1e3", temperature=0.3)
        yield f"row_statistics_temperature/index/{regime}", sharp
        flat = partial(statistics, "smoothed", regime, dtype, temperature=3.0)
        yield f"row_statistics_temperature/smoothed/{regime}", flat


def statistics(
    kind: str,
    regime: str,
    dtype: str,
    spread: str | None = None,
    names: tuple[str, ...] = ("nll", "lse", "entropy"),
    **options: float,
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
        statistics = view.api.row_statistics(x, placed, dim=1, prior=view(prior), **options)
        return {name: getattr(statistics, name) for name in names}

    def values() -> dict[str, Truth]:
        true = oracle.row_statistics(batch.x, targets, prior, **options)
        return {name: getattr(true, name) for name in names}

    return Problem(
        "row_statistics_temperature" if options else "row_statistics",
        batch.x,
        call,
        values,
        lambda x: oracle.row_statistics_gradient(x, targets, prior, g, **options),
        g,
        label=regimes.onehot(batch),
    )


def _entropies(dtype: str) -> Cases:
    for regime in (*regimes.logit_regimes(dtype), *(regimes.LONG if dtype == "float64" else ())):
        yield f"entropy/logits/{regime}", partial(entropy, "logits", regime, dtype)
    for regime in _selected(dtype):
        yield f"entropy/logits-bits/{regime}", partial(entropy, "logits", regime, dtype, base=2.0)
    for regime in regimes.PROBABILITIES:
        yield f"entropy/probs/{regime}", partial(entropy, "probs", regime, dtype)
        yield f"entropy/log_probs/{regime}", partial(entropy, "log_probs", regime, dtype)
        yield f"entropy/counts/{regime}", partial(entropy, "counts", regime, dtype)
    for kind in ("probs", "log_probs", "counts"):
        for regime in ("typical", "near-one-hot", "sparse"):
            yield f"perplexity/{kind}/{regime}", partial(entropy, kind, regime, dtype, measure="perplexity")
    for regime in (*_selected(dtype), "masked-half", "equal-10"):
        yield f"perplexity/logits/{regime}", partial(entropy, "logits", regime, dtype, measure="perplexity")


def entropy(
    kind: str, regime: str, dtype: str, base: float | None = None, measure: str = "entropy", least: int = 0
) -> Problem:
    """Counts are probabilities of any sum, at least `least`, and `normalize=True`."""
    x = regimes.logits(regime, dtype).x if kind == "logits" else regimes.probabilities(regime, dtype)
    if kind == "log_probs":
        with np.errstate(divide="ignore"):
            x = rounded(np.log(x.astype(np.float64)), dtype)
    elif kind == "counts":
        x = rounded(np.maximum(np.round(20000 * x.astype(np.float64)), least), dtype)
    options: dict[str, Any] = {"kind": "probs", "normalize": True} if kind == "counts" else {"kind": kind}
    true = {"base": base} if base is not None else {}
    g = upstream(regime, len(x), dtype)
    differentiable = base is None and (kind in ("logits", "log_probs") or bool(np.all(x > 0)))
    return Problem(
        measure,
        x,
        lambda x, view: {"value": getattr(view.api.info, measure)(x, dim=1, **options, **true)},
        lambda: {"value": getattr(oracle, measure)(x, kind, **true)},
        (lambda x: getattr(oracle, measure + "_gradient")(x, kind, g)) if differentiable else None,
        {"value": g},
        label=regimes.onehot(regimes.logits(regime, dtype)) if kind == "logits" else None,
    )


KINDS = ("probs", "log_probs", "logits")
MIXED = (("probs", "logits", "p"), ("logits", "probs", "q"), ("log_probs", "logits", "q"), ("logits", "probs", "p"))


def _measures(dtype: str) -> Cases:
    """Measures of two distributions, over p and over q."""
    pairs = regimes.PAIRS[dtype]
    close = [name for name in pairs if name[0] == "1"]
    last = close[-1]  # the two differ by so little that first order cancels
    chosen = {
        "info.cross_entropy": [name for name in pairs if name not in (*close, "gap-20")],
        "kl_divergence": pairs,
        "js_divergence": [name for name in pairs if name not in close[:-1]],
    }
    for name, regimes_of_it in chosen.items():
        variant = partial(partial, measure, name)
        for over in ("p", "q"):
            for kind in KINDS:
                for regime in regimes_of_it:
                    yield f"{name}/{kind}-over-{over}/{regime}", variant(over, kind, kind, regime, dtype)
            for regime in ("typical", "near-one-hot"):
                yield f"{name}/counts-over-{over}/{regime}", variant(over, "counts", "counts", regime, dtype)
        for p_kind, q_kind, over in MIXED:
            for regime in ("sparse", last):
                mixed = variant(over, p_kind, q_kind, regime, dtype)
                yield f"{name}/{p_kind}-{q_kind}-over-{over}/{regime}", mixed
        yield f"{name}/bits/{last}", variant("q", "logits", "logits", last, dtype, 2.0)
    for regime in regimes.log_ratios(dtype):
        for over in ("p", "q"):
            yield f"k3/over-{over}/{regime}", partial(k3, over, regime, dtype)


def measure(
    name: str, over: str, p_kind: str, q_kind: str, regime: str, dtype: str, base: float | None = None
) -> Problem:
    """Counts are 20000 times the probabilities and one, with `normalize=True`."""
    measure = name.removeprefix("info.")
    given = [regimes.pair(regime, "probs" if kind == "counts" else kind, dtype) for kind in (p_kind, q_kind)]
    p, q = given[0][0], given[1][1]
    if p_kind == "counts":
        p, q = (rounded(1 + np.round(20000 * a.astype(np.float64)), dtype) for a in (p, q))
    options: dict[str, Any] = {} if base is None else {"base": base}
    if p_kind == "counts":
        options |= {"normalize": True}
    elif p_kind == q_kind:
        options |= {"kind": p_kind}
    else:
        options |= {"p_kind": p_kind, "q_kind": q_kind}
    g = upstream(regime, len(p), dtype)
    # The slope over a probability of 0 is infinite, but where it is a cross-entropy's.
    steep = measure != "cross_entropy" and over == "p" and p_kind in ("probs", "counts") and not np.all(p > 0)

    def call(x: Any, view: View) -> dict[str, Any]:
        pair = (x, view.table(q)) if over == "p" else (view.table(p), x)
        return {"value": getattr(view.api.info, measure)(*pair, dim=1, **options)}

    def gradient(x: Points) -> Truth:
        a, b = (x, q) if over == "p" else (p, x)
        return oracle.measure_gradient(measure, over, a, b, p_kind, q_kind, g)

    return Problem(
        name,
        p if over == "p" else q,
        call,
        lambda: {"value": oracle.measure(measure, p, q, p_kind, q_kind, base)},
        None if steep or base else gradient,
        {"value": g},
    )


def k3(over: str, regime: str, dtype: str) -> Problem:
    log_p, log_q = regimes.log_probabilities(regime, dtype)
    g = upstream(regime, log_p.shape, dtype)
    return Problem(
        "k3",
        log_p if over == "p" else log_q,
        lambda x, view: {
            "value": view.api.info.k3(x, view(log_q)) if over == "p" else view.api.info.k3(view(log_p), x)
        },
        lambda: {"value": oracle.k3(log_p, log_q)},
        lambda x: oracle.k3_gradient(x if over == "p" else log_p, x if over == "q" else log_q, over, g),
        {"value": g},
        table=False,
    )


def _kl_divs(dtype: str) -> Cases:
    pairs = regimes.PAIRS[dtype]
    last = [name for name in pairs if name[0] == "1"][-1]
    for log_target in (False, True):
        kind = "log" if log_target else "plain"
        for regime in pairs:
            yield f"kl_div/{kind}-none/{regime}", partial(kl_div, log_target, "none", regime, dtype)
        for regime in ("sparse", last):
            for reduction in ("sum", "mean", "batchmean"):
                yield f"kl_div/{kind}-{reduction}/{regime}", partial(kl_div, log_target, reduction, regime, dtype)
        for regime in ("typical", last):
            yield f"kl_div/{kind}-target/{regime}", partial(kl_div, log_target, "batchmean", regime, dtype, "target")


def kl_div(log_target: bool, reduction: str, regime: str, dtype: str, over: str = "input") -> Problem:
    x = regimes.pair(regime, "log_probs", dtype)[1][:3]
    t = regimes.pair(regime, "log_probs" if log_target else "probs", dtype)[0][:3]
    g = upstream(regime, x.shape if reduction == "none" else (), dtype)

    def call(given: Any, view: View) -> dict[str, Any]:
        pair = (given, view(t)) if over == "input" else (view(x), given)
        with warnings.catch_warnings():  # PyTorch's, about "mean"
            warnings.simplefilter("ignore")
            return {"value": view.api.kl_div(*pair, reduction=reduction, log_target=log_target)}

    return Problem(
        "kl_div",
        x if over == "input" else t,
        call,
        lambda: {"value": oracle.kl_div(x, t, log_target, reduction)},
        lambda a: oracle.kl_div_gradient(
            a if over == "input" else x, a if over == "target" else t, log_target, reduction, g, over
        ),
        {"value": g},
        gradient_name="gradient" if over == "input" else "target_gradient",
        table=False,
    )


def _pointwise(dtype: str) -> Cases:
    for regime in regimes.BINARY:
        for variant in ("none", "sum", "mean", "weights"):
            yield f"binary_cross_entropy_with_logits/{variant}/{regime}", partial(binary, variant, regime, dtype)
    for regime in ("small", "right-1", "wrong-0", "half", "beyond"):
        given = partial(binary_options, "binary_cross_entropy_with_logits", regime, dtype)
        yield f"binary_cross_entropy_with_logits/smoothed/{regime}", partial(given, smoothing=0.1)
    for regime in regimes.UNIT_INTERVAL:
        given = partial(binary_options, "binary_cross_entropy", regime, dtype)
        for name, clamp in (("torch", "torch"), ("exact", None)):
            for reduction in ("none", "mean"):
                yield f"binary_cross_entropy/{name}-{reduction}/{regime}", partial(given, reduction, clamp=clamp)
            if regime in ("ordinary", "tiny", "near-one"):
                yield f"binary_cross_entropy/{name}-smoothed/{regime}", partial(given, smoothing=0.1, clamp=clamp)
    every = {"weighted": True, "ignore": True, "sampled": True}
    for function, regime in (("binary_cross_entropy_with_logits", "any"), ("binary_cross_entropy", "soft")):
        given = partial(binary_options, function, regime, dtype)
        yield f"{function}_every_option/all/{regime}", partial(given, smoothing=0.1, **every)
        for divisor in (None, "weights", "count", "batch", "positives", 7.0):
            yield (
                f"{function}_every_option/mean-over-{divisor}/{regime}",
                partial(given, "mean", denominator=divisor, **every),
            )
    for regime in regimes.BINARY:
        yield f"sigmoid_focal_loss/none/{regime}", partial(sigmoid_focal, 0.25, 2.0, "none", regime, dtype)
        yield f"sigmoid_focal_loss/no-alpha/{regime}", partial(sigmoid_focal, -1.0, 0.5, "mean", regime, dtype)
    for regime in ("small", "right-1", "wrong-1", "any"):
        yield f"sigmoid_focal_loss/sum/{regime}", partial(sigmoid_focal, 0.75, 5.0, "sum", regime, dtype)
        for gamma in (0.0, 1.0):
            yield (
                f"sigmoid_focal_loss/gamma-{gamma:g}/{regime}",
                partial(sigmoid_focal, 0.25, gamma, "none", regime, dtype),
            )
    for regime in regimes.REGRESSION[dtype]:
        for reduction in ("none", "sum", "mean"):
            yield f"mse_loss/{reduction}/{regime}", partial(mse, reduction, regime, dtype)
        yield f"rmse_loss/mean/{regime}", partial(rmse, regime, dtype)


def binary(variant: str, regime: str, dtype: str) -> Problem:
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
            "value": view.api.binary_cross_entropy_with_logits(
                x, view(t), weight=view(weights[0]), pos_weight=view(weights[1]), reduction=reduction
            )
        },
        lambda: {"value": oracle.binary_cross_entropy_with_logits(x, t, *weights, reduction)},
        lambda x: oracle.binary_cross_entropy_with_logits_gradient(x, t, *weights, reduction, g),
        {"value": g},
        table=False,
    )


def binary_options(
    function: str,
    regime: str,
    dtype: str,
    reduction: str = "none",
    smoothing: float = 0.0,
    weighted: bool = False,
    ignore: bool = False,
    sampled: bool = False,
    denominator: Divisor = None,
    **clamp: str | None,
) -> Problem:
    """Both binary losses with what PyTorch's do not have."""
    of_logits = function.endswith("logits")
    arrays = (regimes.binary_logits if of_logits else regimes.binary_probabilities)(regime, dtype)
    x, t = (a.reshape(16, 4)[:15] for a in arrays)
    if ignore:
        t = t.copy()
        t[3, 1], t[7] = -1, -1
    weight = np.abs(upstream("w" + regime, x.shape, dtype)) if weighted else None
    positive = regimes.class_weights("1e3", 4, dtype) if weighted and of_logits else None
    samples = regimes.sample_weights(regime, len(x), dtype) if sampled else None
    g = upstream(regime, x.shape if reduction == "none" else (), dtype)
    true: dict[str, Any] = {"smoothing": smoothing, "sample_weight": samples, "denominator": denominator, **clamp}
    true |= {"ignore_index": -1 if ignore else None, "weight": weight, "reduction": reduction}
    if of_logits:
        true["pos_weight"] = positive

    def call(x: Any, view: View) -> dict[str, Any]:
        given = {**clamp, "label_smoothing": smoothing, **_reducing(view, reduction, samples, denominator)}
        if ignore:
            given["ignore_index"] = -1
        if positive is not None:
            given["pos_weight"] = view(positive)
        return {"value": getattr(view.api, function)(x, view(t), view(weight), **given)}

    return Problem(
        function + "_every_option" * sampled,
        x,
        call,
        lambda: {"value": getattr(oracle, function)(x, t, **true)},
        lambda x: getattr(oracle, function + "_gradient")(x, t, g=g, **true),
        {"value": g},
        table=False,
    )


def sigmoid_focal(alpha: float, gamma: float, reduction: str, regime: str, dtype: str) -> Problem:
    x, t = (a.reshape(16, 4)[:15] for a in regimes.binary_logits(regime, dtype))
    g = upstream(regime, x.shape if reduction == "none" else (), dtype)
    return Problem(
        "sigmoid_focal_loss",
        x,
        lambda x, view: {"value": view.api.sigmoid_focal_loss(x, view(t), alpha, gamma, reduction)},
        lambda: {"value": oracle.sigmoid_focal_loss(x, t, alpha, gamma, reduction)},
        lambda x: oracle.sigmoid_focal_loss_gradient(x, t, alpha, gamma, reduction, g),
        {"value": g},
        table=False,
    )


def mse(reduction: str, regime: str, dtype: str) -> Problem:
    x, t = regimes.regression(regime, dtype)
    g = upstream(regime, x.shape if reduction == "none" else (), dtype)
    return Problem(
        "mse_loss",
        x,
        lambda x, view: {"value": view.api.mse_loss(x, view(t), reduction=reduction)},
        lambda: {"value": oracle.mse_loss(x, t, reduction)},
        lambda x: oracle.mse_loss_gradient(x, t, reduction, g),
        {"value": g},
        table=False,
    )


def rmse(regime: str, dtype: str) -> Problem:
    x, t = regimes.regression(regime, dtype)
    return Problem(
        "rmse_loss",
        x,
        lambda x, view: {"value": view.api.rmse_loss(x, view(t))},
        lambda: {"value": oracle.rmse_loss(x, t)},
        lambda x: oracle.rmse_loss_gradient(x, t),
        table=False,
    )


def _enormous(dtype: str) -> Cases:
    """A million classes: seconds a row for the oracle, so the certificate alone asks."""
    regime = regimes.ENORMOUS
    yield f"softmax/label/{regime}", partial(transform, "softmax", "label", regime, dtype)
    yield f"log_softmax/label/{regime}", partial(transform, "log_softmax", "label", regime, dtype)
    yield f"cross_entropy/index-none/{regime}", partial(cross_entropy, "index", regime, dtype, "none")
    yield f"row_statistics/index/{regime}", partial(statistics, "index", regime, dtype)


@cache
def _cases(dtype: str) -> dict[str, Callable[[], Problem]]:
    found: dict[str, Callable[[], Problem]] = {}
    families = (
        _transforms,
        _nll_losses,
        _cross_entropies,
        _focal_losses,
        _categoricals,
        _row_statistics,
        _entropies,
        _measures,
        _kl_divs,
        _pointwise,
    )
    for family in families:
        found.update(family(dtype))
    return found


def cases(dtype: str) -> list[str]:
    """The names of the problems that the tests solve."""
    return list(_cases(dtype))


def enormous_cases(dtype: str) -> list[str]:
    """Names of more."""
    return [name for name, _ in _enormous(dtype)]


@lru_cache(maxsize=64)
def problem(name: str, dtype: str) -> Problem:
    """A problem by its name."""
    known = _cases(dtype)
    return (known if name in known else dict(_enormous(dtype)))[name]()


# ---- running -------------------------------------------------------------------------------------------------------


@cache
def true_values(name: str, dtype: str) -> dict[str, Truth]:
    return problem(name, dtype).values()


@cache
def true_gradient(name: str, dtype: str) -> Truth:
    case = problem(name, dtype)
    assert case.gradient is not None
    return case.gradient(case.x)


def true(name: str, dtype: str, quantity: str) -> Truth:
    """The truth of an output, or of the gradient under its name."""
    if quantity == problem(name, dtype).gradient_name:
        return true_gradient(name, dtype)
    return true_values(name, dtype)[quantity]


def run_values(name: str, dtype: str, view: View, strict: bool = True) -> dict[str, np.ndarray]:
    """The function's outputs, as float64, in the layout of the problem; `strict`: of the format of its input."""
    case = problem(name, dtype)
    found = {}
    for output, result in case.call(case.input(view), view).items():
        given = view.library.framework.format(result)
        assert given == dtype or not strict, f"{name}: {output} has dtype {given}, not {dtype}"
        found[output] = view.back(result, true_values(name, dtype)[output].value.shape)
    return found


def run_gradient(name: str, dtype: str, view: View) -> np.ndarray:
    """The gradient that the framework gives, as float64, in the layout of the problem."""
    case = problem(name, dtype)
    g = None if case.g is None else {output: case.upstream(array, view) for output, array in case.g.items()}
    dx = view.library.framework.vjp(lambda x: case.call(x, view), case.input(view), g)
    return view.back(dx, case.x.shape)


def draw(seed: int) -> None:
    """From now on every problem has other numbers; those of seed 0 are the ones the tests look at."""
    regimes.SEED = seed
    for cached in (problem, true_values, true_gradient):
        cached.cache_clear()
