"""What people use today, asked the same questions: PyTorch, PyTorch by way of float64, SciPy, JAX with optax.

Each peer is a table of functions under our names, with the arguments it has; what it has not raises `NotOffered`. Where
a framework has no function for a loss, the entry is the line that scripts write (`# idiom`).
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .libraries import Framework, Library, NumPy, Torch

SINGLE_AND_DOUBLE = ("float32", "float64")


class NotOffered(Exception):
    """The peer has no such function, or not with these arguments."""


class Offer:
    """Functions by name; a missing one, or arguments that do not fit its signature, raise NotOffered."""

    def __init__(self, **functions: Any) -> None:
        self._functions = functions

    def __getattr__(self, name: str) -> Any:
        function = self._functions.get(name)
        if isinstance(function, Offer):
            return function
        if function is None:
            raise NotOffered(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                inspect.signature(function).bind(*args, **kwargs)
            except TypeError as error:
                raise NotOffered(f"{name}: {error}") from None
            return function(*args, **kwargs)

        return call

    def map(self, wrap: Callable[[Any], Any]) -> Offer:
        """The same functions, each wrapped."""
        return Offer(**{n: f.map(wrap) if isinstance(f, Offer) else wrap(f) for n, f in self._functions.items()})


def installed() -> list[Library]:
    """The peers that this environment has, in the order of the table's columns."""
    found = []
    if importlib.util.find_spec("torch"):
        found += [pytorch(), pytorch_in_float64()]
    if importlib.util.find_spec("scipy"):
        found.append(scipy())
    if importlib.util.find_spec("jax") and importlib.util.find_spec("optax"):
        found.append(optax())
    return found


def versions() -> dict[str, str]:
    """The versions behind the columns."""
    from importlib import metadata

    packages = ("numpy", "torch", "scipy", "jax", "optax", "python-flint")
    return {name: metadata.version(name) for name in packages if importlib.util.find_spec(name.replace("python-", ""))}


def _only(offered: bool) -> None:
    if not offered:
        raise NotOffered


def _over(x: Any, temperature: float) -> Any:
    return x if temperature == 1.0 else x / temperature


def _reduced(loss: Any, reduction: str) -> Any:
    return {"none": lambda: loss, "mean": loss.mean, "sum": loss.sum}[reduction]()


# ---- PyTorch -------------------------------------------------------------------------------------------------------


def pytorch() -> Library:
    """Eager PyTorch in the format of the data."""
    return Library("PyTorch", Torch(), _torch_offer())


def pytorch_in_float64() -> Library:
    """The usual workaround: to float64, compute, and back."""
    import torch

    def wide(value: Any) -> Any:
        return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value

    def wrap(function: Any) -> Any:
        @functools.wraps(function)  # with its signature
        def call(input: Any, *args: Any, **kwargs: Any) -> Any:
            result = function(wide(input), *map(wide, args), **{name: wide(v) for name, v in kwargs.items()})
            return result.to(input.dtype)

        return call

    return Library("PyTorch f64", Torch(), _torch_offer().map(wrap), ("float32", "float16", "bfloat16"))


def _torch_offer() -> Offer:
    import torch
    import torch.nn.functional as F
    from torch.distributions import Categorical

    def categorical(p: Any, dim: int, kind: str) -> Any:
        name = "probs" if kind == "probs" else "logits"
        return Categorical(**{name: p.movedim(dim, -1)}, validate_args=False)

    def entropy(p: Any, *, dim: int, kind: str, normalize: bool = False, base: float | None = None) -> Any:
        if kind == "logits" or normalize:
            h = categorical(p, dim, kind).entropy()
        else:  # Categorical would normalise; idiom
            h = (torch.special.entr(p) if kind == "probs" else -p.exp() * p).sum(dim)
        return h if base is None else h / math.log(base)

    def kl_divergence(p: Any, q: Any, *, dim: int, kind: str = "probs") -> Any:
        _only(kind == "logits")  # else the gradient is that of normalised numbers
        return torch.distributions.kl_divergence(categorical(p, dim, kind), categorical(q, dim, kind))

    def perplexity(p: Any, *, dim: int, kind: str, normalize: bool = False) -> Any:
        _only(kind == "logits" or normalize)
        return categorical(p, dim, kind).perplexity()

    def cross_entropy(
        input: Any,
        target: Any,
        weight: Any = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        temperature: float = 1.0,
    ) -> Any:
        x = _over(input, temperature)
        return F.cross_entropy(x, target, weight, None, ignore_index, None, reduction, label_smoothing)

    def focal_loss(  # idiom
        input: Any,
        target: Any,
        *,
        gamma: float,
        weight: None = None,
        alpha: None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
    ) -> Any:
        _only(target.ndim == 1 and weight is None and alpha is None and reduction == "none")
        nll = F.cross_entropy(input, target, reduction="none")
        return (1 - torch.exp(-nll)) ** gamma * nll

    def sigmoid_focal_loss(inputs: Any, targets: Any, alpha: float, gamma: float, reduction: str) -> Any:
        # torchvision's formula
        p = torch.sigmoid(inputs)
        nll = F.binary_cross_entropy_with_logits(inputs, targets, reduction="none")
        loss = nll * (1 - (p * targets + (1 - p) * (1 - targets))) ** gamma
        if alpha >= 0:
            loss = (alpha * targets + (1 - alpha) * (1 - targets)) * loss
        return _reduced(loss, reduction)

    def binary_cross_entropy(
        input: Any,
        target: Any,
        weight: Any = None,
        reduction: str = "mean",
        clamp: str | None = "torch",
        label_smoothing: float = 0.0,
    ) -> Any:
        _only(clamp == "torch" and label_smoothing == 0.0)
        return F.binary_cross_entropy(input, target, weight, None, None, reduction)

    def binary_cross_entropy_with_logits(
        input: Any,
        target: Any,
        weight: Any = None,
        reduction: str = "mean",
        pos_weight: Any = None,
        label_smoothing: float = 0.0,
    ) -> Any:
        _only(label_smoothing == 0.0)
        return F.binary_cross_entropy_with_logits(input, target, weight, None, None, reduction, pos_weight)

    return Offer(
        softmax=lambda input, dim, temperature=1.0: torch.softmax(_over(input, temperature), dim),
        log_softmax=lambda input, dim, temperature=1.0: torch.log_softmax(_over(input, temperature), dim),
        logsumexp=lambda input, dim: torch.logsumexp(input, dim),
        sigmoid=lambda input: torch.sigmoid(input),
        logsigmoid=lambda input: F.logsigmoid(input),
        logit=lambda input, eps=None: torch.logit(input, eps),
        nll_loss=lambda input, target, weight=None, reduction="mean": F.nll_loss(
            input, target, weight, reduction=reduction
        ),
        cross_entropy=cross_entropy,
        focal_loss=focal_loss,
        sigmoid_focal_loss=sigmoid_focal_loss,
        binary_cross_entropy=binary_cross_entropy,
        binary_cross_entropy_with_logits=binary_cross_entropy_with_logits,
        mse_loss=lambda input, target, reduction="mean": F.mse_loss(input, target, reduction=reduction),
        rmse_loss=lambda input, target: torch.sqrt(F.mse_loss(input, target)),  # idiom
        kl_div=lambda input, target, reduction="mean", log_target=False: F.kl_div(
            input, target, reduction=reduction, log_target=log_target
        ),
        info=Offer(
            entropy=entropy,
            kl_divergence=kl_divergence,
            perplexity=perplexity,
            k3=lambda log_p, log_q: torch.exp(log_q - log_p) - 1 - (log_q - log_p),  # idiom
        ),
    )


# ---- SciPy ---------------------------------------------------------------------------------------------------------


def scipy() -> Library:
    """SciPy, which has values only."""
    from scipy import special, stats

    def entropy(p: Any, *, dim: int, kind: str, normalize: bool = False, base: float | None = None) -> Any:
        _only(kind != "log_probs")
        if kind == "logits":
            p = special.softmax(p, axis=dim)
        h = stats.entropy(p, axis=dim) if normalize else special.entr(p).sum(axis=dim)
        return h if base is None else h / math.log(base)

    def kl_divergence(p: Any, q: Any, *, dim: int, kind: str = "probs") -> Any:
        _only(kind != "log_probs")
        if kind == "logits":
            p, q = special.softmax(p, axis=dim), special.softmax(q, axis=dim)
        return special.kl_div(p, q).sum(axis=dim)

    return Library(
        "SciPy",
        NumPy(),
        Offer(
            softmax=lambda input, dim, temperature=1.0: special.softmax(_over(input, temperature), axis=dim),
            log_softmax=lambda input, dim, temperature=1.0: special.log_softmax(_over(input, temperature), axis=dim),
            logsumexp=lambda input, dim: special.logsumexp(input, axis=dim),
            sigmoid=lambda input: special.expit(input),
            logsigmoid=lambda input: special.log_expit(input),
            logit=lambda input, eps=None: special.logit(input if eps is None else np.clip(input, eps, 1 - eps)),
            info=Offer(entropy=entropy, kl_divergence=kl_divergence),
        ),
        SINGLE_AND_DOUBLE,
    )


# ---- JAX and optax -------------------------------------------------------------------------------------------------


class Jax:
    """JAX on its default device."""

    differentiates = True

    def __init__(self) -> None:
        import jax

        jax.config.update("jax_enable_x64", True)  # else float64 arrays become float32

    def place(self, array: np.ndarray) -> Any:
        import jax.numpy as jnp

        return jnp.asarray(array)

    def numbers(self, result: Any) -> np.ndarray:
        return np.asarray(result).astype(np.float64)

    def format(self, result: Any) -> str:
        return str(result.dtype)

    def vjp(self, call: Any, x: Any, g: dict[str, Any] | None) -> Any:
        import jax

        outputs, pull = jax.vjp(call, x)
        return pull({k: jax.numpy.ones_like(v) for k, v in outputs.items()} if g is None else g)[0]


def optax() -> Library:
    """JAX's transforms and optax's losses, each compiled operation by operation."""
    import jax
    import jax.numpy as jnp
    import optax as losses

    framework: Framework = Jax()

    def cross_entropy(
        input: Any,
        target: Any,
        weight: None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        temperature: float = 1.0,
    ) -> Any:
        _only(weight is None and not bool((target == ignore_index).any()))
        x = _over(input, temperature)
        if target.ndim == 1 and label_smoothing == 0.0:
            return _reduced(losses.softmax_cross_entropy_with_integer_labels(x, target), reduction)
        soft = target if target.ndim > 1 else jax.nn.one_hot(target, x.shape[-1], dtype=x.dtype)
        if label_smoothing:
            soft = losses.smooth_labels(soft, label_smoothing)
        return _reduced(losses.safe_softmax_cross_entropy(x, soft), reduction)

    def binary_cross_entropy_with_logits(
        input: Any,
        target: Any,
        weight: None = None,
        reduction: str = "mean",
        pos_weight: None = None,
        label_smoothing: float = 0.0,
    ) -> Any:
        _only(weight is None and pos_weight is None and label_smoothing == 0.0)
        return _reduced(losses.sigmoid_binary_cross_entropy(input, target), reduction)

    def sigmoid_focal_loss(inputs: Any, targets: Any, alpha: float, gamma: float, reduction: str) -> Any:
        return _reduced(
            losses.sigmoid_focal_loss(inputs, targets, alpha=None if alpha < 0 else alpha, gamma=gamma), reduction
        )

    def probabilities(p: Any, kind: str) -> tuple[Any, Any]:
        """p and log p."""
        if kind == "probs":
            return p, jnp.log(p)
        logs = jax.nn.log_softmax(p) if kind == "logits" else p
        return jnp.exp(logs), logs

    def entropy(p: Any, *, dim: int, kind: str) -> Any:  # idiom
        _only(dim == 1)
        p, logs = probabilities(p, kind)
        return -(p * jnp.where(p > 0, logs, 0)).sum(-1)

    def kl_divergence(p: Any, q: Any, *, dim: int, kind: str = "probs") -> Any:
        _only(dim == 1 and kind == "logits")  # of probabilities it has another gradient
        mass, _ = probabilities(p, kind)
        return losses.kl_divergence(probabilities(q, kind)[1], mass)

    return Library(
        "optax",
        framework,
        Offer(
            softmax=lambda input, dim, temperature=1.0: jax.nn.softmax(_over(input, temperature), dim),
            log_softmax=lambda input, dim, temperature=1.0: jax.nn.log_softmax(_over(input, temperature), dim),
            logsumexp=lambda input, dim: jax.nn.logsumexp(input, dim),
            sigmoid=lambda input: jax.nn.sigmoid(input),
            logsigmoid=lambda input: jax.nn.log_sigmoid(input),
            logit=lambda input, eps=None: jax.scipy.special.logit(
                input if eps is None else jnp.clip(input, eps, 1 - eps)
            ),
            cross_entropy=cross_entropy,
            binary_cross_entropy_with_logits=binary_cross_entropy_with_logits,
            sigmoid_focal_loss=sigmoid_focal_loss,
            mse_loss=lambda input, target, reduction="mean": _reduced(losses.squared_error(input, target), reduction),
            rmse_loss=lambda input, target: jnp.sqrt(losses.squared_error(input, target).mean()),  # idiom
            info=Offer(entropy=entropy, kl_divergence=kl_divergence),
        ),
    )
