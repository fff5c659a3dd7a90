"""Who computes the functions of the table: ours, and each peer's way. What a peer lacks is the line that scripts write.

`_accuracy/peers.py` asks the same libraries about any option; here calls are plain, so that nothing but them is timed
and compilers can read them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np

import lossless

from .functions import ALPHA, ENTROPY_SHARE, FUNCTIONS, GAMMA, LSE_SHARE, SMOOTHING, Z_LOSS
from .inputs import Data
from .threads import every

Call = Callable[[], Any]
Table = dict[str, Callable[..., Any]]
OURS = "lossless"


# ---- frameworks ----------------------------------------------------------------------------------------------------


class Torch:
    """PyTorch on the CPU: forward and backward, and the gradient is let go, as a training step does."""

    def place(self, data: Data, dtype: str) -> Data:
        import torch

        def tensor(array: np.ndarray) -> Any:
            found = torch.from_numpy(array)
            return found.to(getattr(torch, dtype)) if found.is_floating_point() else found

        x = tensor(data.x).requires_grad_()
        return Data(x, tuple(map(tensor, data.rest)), None if data.g is None else tensor(data.g))

    def step(self, function: Callable[..., Any], data: Data) -> Call:
        x, rest, g = data.x, data.rest, data.g

        def call() -> None:
            function(x, *rest).backward(g)
            x.grad = None

        return call

    def copy(self, data: Data) -> Call:
        """The unit of time."""
        import torch

        x = data.x.detach()
        target = torch.empty_like(x)
        return lambda: target.copy_(x)

    def results(self, function: Callable[..., Any], data: Data) -> tuple[np.ndarray, np.ndarray | None]:
        value = function(data.x, *data.rest)
        value.backward(data.g)
        gradient, data.x.grad = data.x.grad, None
        return self.numbers(value), self.numbers(gradient)

    def numbers(self, array: Any) -> np.ndarray:
        return np.asarray(array.detach().double().numpy())


class NumPy:
    """NumPy: forward only."""

    def place(self, data: Data, dtype: str) -> Data:
        def typed(array: np.ndarray) -> np.ndarray:
            return array.astype(dtype, copy=False) if array.dtype.kind == "f" else array

        return Data(typed(data.x), tuple(map(typed, data.rest)), None if data.g is None else typed(data.g))

    def step(self, function: Callable[..., Any], data: Data) -> Call:
        x, rest = data.x, data.rest
        return lambda: function(x, *rest)

    def copy(self, data: Data) -> Call:
        x, target = data.x, np.empty_like(data.x)
        return lambda: np.copyto(target, x)

    def results(self, function: Callable[..., Any], data: Data) -> tuple[np.ndarray, np.ndarray | None]:
        return self.numbers(function(data.x, *data.rest)), None

    def numbers(self, array: Any) -> np.ndarray:
        return np.asarray(array, np.float64)


class Jax:
    """JAX on its default device: value and gradient in one compiled function."""

    def place(self, data: Data, dtype: str) -> Data:
        import jax

        jax.config.update("jax_enable_x64", True)  # else float64 arrays become float32

        def array(a: np.ndarray) -> Any:
            return jax.numpy.asarray(a, dtype if a.dtype.kind == "f" else None)

        return Data(array(data.x), tuple(map(array, data.rest)), None if data.g is None else array(data.g))

    def step(self, function: Callable[..., Any], data: Data) -> Call:
        x, rest, g = data.x, data.rest, data.g

        def call() -> None:
            for array in function(x, g, *rest):
                array.block_until_ready()

        return call

    def copy(self, data: Data) -> Call:
        raise NotImplementedError("arrays of JAX cannot be written")

    def results(self, function: Callable[..., Any], data: Data) -> tuple[np.ndarray, np.ndarray | None]:
        value, gradient = function(data.x, data.g, *data.rest)
        return self.numbers(value), self.numbers(gradient)

    def numbers(self, array: Any) -> np.ndarray:
        return np.asarray(array).astype(np.float64)


# ---- ours ----------------------------------------------------------------------------------------------------------


def _ours() -> Table:
    def row_statistics(x: Any, y: Any) -> Any:
        s = lossless.row_statistics(x, y, dim=1)
        return (s.nll + LSE_SHARE * s.lse - ENTROPY_SHARE * s.entropy).mean()

    def entropy(x: Any) -> Any:
        return lossless.info.entropy(x, dim=1, kind="logits").mean()

    return {
        "cross_entropy": lossless.cross_entropy,
        "soft_targets": lossless.cross_entropy,
        "label_smoothing": lambda x, y: lossless.cross_entropy(x, y, label_smoothing=SMOOTHING),
        "class_weights": lossless.cross_entropy,
        "z_loss": lambda x, y: lossless.cross_entropy(x, y, z_loss=Z_LOSS),
        "focal_loss": lambda x, y: lossless.focal_loss(x, y, gamma=GAMMA),
        "entropy": entropy,
        "row_statistics": row_statistics,
        "bce_with_logits": lossless.binary_cross_entropy_with_logits,
        "sigmoid_focal_loss": lambda x, t: lossless.sigmoid_focal_loss(x, t, ALPHA, GAMMA, "mean"),
        "mse_loss": lossless.mse_loss,
        "rmse_loss": lossless.rmse_loss,
        "softmax": lambda x: lossless.softmax(x, 1),
        "log_softmax": lambda x: lossless.log_softmax(x, 1),
        "nll_loss": lossless.nll_loss,
        "kl_div": lambda x, t: lossless.kl_div(x, t, reduction="batchmean"),
        "numpy_cross_entropy": lossless.cross_entropy,
        "numpy_softmax": lambda x: lossless.softmax(x, 1),
        "numpy_log_softmax": lambda x: lossless.log_softmax(x, 1),
        "numpy_entropy": entropy,
    }


# ---- PyTorch -------------------------------------------------------------------------------------------------------


def _eager() -> Table:
    import torch
    import torch.nn.functional as F

    def z_loss(x: Any, y: Any) -> Any:
        return F.cross_entropy(x, y) + Z_LOSS * (torch.logsumexp(x, 1) ** 2).mean()

    def focal_loss(x: Any, y: Any) -> Any:
        log_p = F.log_softmax(x, 1).gather(1, y.unsqueeze(1))
        return (-((1 - log_p.exp()) ** GAMMA) * log_p).mean()

    def entropy(x: Any) -> Any:
        log_p = F.log_softmax(x, 1)
        return -(log_p.exp() * log_p).sum(1).mean()

    def row_statistics(x: Any, y: Any) -> Any:
        log_p = F.log_softmax(x, 1)
        nll = F.nll_loss(log_p, y, reduction="none")
        entropy = -(log_p.exp() * log_p).sum(1)
        return (nll + LSE_SHARE * torch.logsumexp(x, 1) - ENTROPY_SHARE * entropy).mean()

    def sigmoid_focal_loss(x: Any, t: Any) -> Any:  # as torchvision has it
        p = torch.sigmoid(x)
        cost = F.binary_cross_entropy_with_logits(x, t, reduction="none")
        missed = 1 - (p * t + (1 - p) * (1 - t))
        share = ALPHA * t + (1 - ALPHA) * (1 - t)
        return (share * (cost * missed**GAMMA)).mean()

    return {
        "cross_entropy": F.cross_entropy,
        "soft_targets": F.cross_entropy,
        "label_smoothing": lambda x, y: F.cross_entropy(x, y, label_smoothing=SMOOTHING),
        "class_weights": F.cross_entropy,
        "z_loss": z_loss,
        "focal_loss": focal_loss,
        "entropy": entropy,
        "row_statistics": row_statistics,
        "bce_with_logits": F.binary_cross_entropy_with_logits,
        "sigmoid_focal_loss": sigmoid_focal_loss,
        "mse_loss": F.mse_loss,
        "rmse_loss": lambda x, t: torch.sqrt(F.mse_loss(x, t)),
        "softmax": lambda x: torch.softmax(x, 1),
        "log_softmax": lambda x: torch.log_softmax(x, 1),
        "nll_loss": F.nll_loss,
        "kl_div": lambda x, t: F.kl_div(x, t, reduction="batchmean"),
    }


def _compiled() -> Table:
    import torch

    def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
        # A frame of its own for each: the compiler does not enter PyTorch's functions by themselves.
        found: Callable[..., Any] = torch.compile(lambda x, *rest: function(x, *rest), dynamic=False, fullgraph=True)
        return found

    return {name: compiled(function) for name, function in _eager().items()}


# ---- JAX and optax -------------------------------------------------------------------------------------------------


def _jax() -> Table:
    import jax
    import jax.numpy as jnp
    import optax

    def last(x: Any) -> Any:
        return jnp.moveaxis(x, 1, -1)

    def labels(x: Any, y: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(last(x), y)

    def label_smoothing(x: Any, y: Any) -> Any:
        hot = jax.nn.one_hot(y, x.shape[1], dtype=x.dtype)
        return optax.softmax_cross_entropy(last(x), optax.smooth_labels(hot, SMOOTHING)).mean()

    def focal_loss(x: Any, y: Any) -> Any:
        log_p = -labels(x, y)
        return (-((1 - jnp.exp(log_p)) ** GAMMA) * log_p).mean()

    def entropies(x: Any) -> Any:
        log_p = jax.nn.log_softmax(x, 1)
        return -(jnp.exp(log_p) * log_p).sum(1)

    def row_statistics(x: Any, y: Any) -> Any:
        return (labels(x, y) + LSE_SHARE * jax.nn.logsumexp(x, 1) - ENTROPY_SHARE * entropies(x)).mean()

    def class_weights(x: Any, y: Any, w: Any) -> Any:
        return (w[y] * labels(x, y)).sum() / w[y].sum()

    def nll_loss(x: Any, y: Any) -> Any:
        return -jnp.take_along_axis(x, jnp.expand_dims(y, 1), 1).mean()

    table: Table = {
        "cross_entropy": lambda x, y: labels(x, y).mean(),
        "soft_targets": lambda x, t: optax.softmax_cross_entropy(last(x), last(t)).mean(),
        "label_smoothing": label_smoothing,
        "class_weights": class_weights,
        "z_loss": lambda x, y: (labels(x, y) + Z_LOSS * jax.nn.logsumexp(x, 1) ** 2).mean(),
        "focal_loss": focal_loss,
        "entropy": lambda x: entropies(x).mean(),
        "row_statistics": row_statistics,
        "bce_with_logits": lambda x, t: optax.sigmoid_binary_cross_entropy(x, t).mean(),
        "sigmoid_focal_loss": lambda x, t: optax.sigmoid_focal_loss(x, t, alpha=ALPHA, gamma=GAMMA).mean(),
        "mse_loss": lambda x, t: optax.squared_error(x, t).mean(),
        "rmse_loss": lambda x, t: jnp.sqrt(optax.squared_error(x, t).mean()),
        "softmax": lambda x: jax.nn.softmax(x, 1),
        "log_softmax": lambda x: jax.nn.log_softmax(x, 1),
        "nll_loss": nll_loss,
        "kl_div": lambda x, t: optax.kl_divergence(last(x), last(t)).sum() / x.shape[0],
    }

    def both(function: Callable[..., Any]) -> Callable[..., Any]:
        def value_and_gradient(x: Any, g: Any, *rest: Any) -> tuple[Any, Any]:
            value, pull = jax.vjp(lambda x: function(x, *rest), x)
            return value, pull(jnp.ones_like(value) if g is None else g)[0]

        compiled: Callable[..., Any] = jax.jit(value_and_gradient)
        return compiled

    return {name: both(function) for name, function in table.items()}


# ---- SciPy and scikit-learn ----------------------------------------------------------------------------------------


def _scipy() -> Table:
    from scipy import special

    def cross_entropy(x: Any, y: Any) -> Any:
        return (special.logsumexp(x, axis=1) - np.take_along_axis(x, np.expand_dims(y, 1), 1).squeeze(1)).mean()

    return {
        "numpy_cross_entropy": cross_entropy,
        "numpy_softmax": lambda x: special.softmax(x, axis=1),
        "numpy_log_softmax": lambda x: special.log_softmax(x, axis=1),
        "numpy_entropy": lambda x: special.entr(special.softmax(x, axis=1)).sum(1).mean(),
    }


def _sklearn() -> Table:
    from scipy import special
    from sklearn.metrics import log_loss

    def cross_entropy(x: Any, y: Any) -> Any:
        return log_loss(y, special.softmax(x, axis=1), labels=np.arange(x.shape[1]))

    return {"numpy_cross_entropy": cross_entropy}


# ---- who is asked --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Library:
    """Its name in tables, what must be installed, its functions by the names of the table."""

    name: str
    packages: tuple[str, ...]
    table: Callable[[], Table]
    compiles: bool = False  # a first call at a shape makes code for it

    def installed(self) -> bool:
        return all(find_spec(package) is not None for package in self.packages)


OUR_LIBRARY = Library(OURS, (), _ours)
PEERS = {
    "eager": Library("PyTorch", ("torch",), _eager),
    "compiled": Library("compiled", ("torch",), _compiled, compiles=True),
    "jax": Library("JAX", ("jax", "optax"), _jax, compiles=True),
    "scipy": Library("SciPy", ("scipy",), _scipy),
    "sklearn": Library("scikit-learn", ("sklearn", "scipy"), _sklearn),
}
LIBRARIES = {library.name: library for library in (OUR_LIBRARY, *PEERS.values())}


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One library's version of a function."""

    name: str
    framework: Torch | NumPy | Jax
    function: Callable[..., Any]
    compiles: bool = False


def contestant(library: str, function: str, shape: tuple[int, ...]) -> Contestant | None:
    """That library's version of a function, or None where it has none."""
    found = LIBRARIES[library]
    if library != OURS and FUNCTIONS[function].numpy != (library in ("SciPy", "scikit-learn")):
        return None
    if library == "scikit-learn" and len(shape) > 2:
        return None
    call = found.table().get(function)
    if call is None:
        return None
    framework = NumPy() if FUNCTIONS[function].numpy else Jax() if library == "JAX" else Torch()
    return Contestant(library, framework, call, found.compiles)


def versions() -> dict[str, str]:
    """What was measured on: the machine, and the versions of who is asked."""
    from importlib import metadata

    from lossless._config import config

    settings = config()
    machine: dict[str, str] = {key: settings[key] for key in ("python", "platform", "cpu path") if key in settings}
    packages = ("lossless", "numpy", "torch", "jax", "optax", "scipy", "scikit-learn")
    present = {distribution.name for distribution in metadata.distributions()}
    machine |= {"cores": str(every())}
    return machine | {name: metadata.version(name) for name in packages if name in present}
