"""Libraries that compute losses, each behind lossless's own names: a framework's arrays and an API."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

import lossless

from .regimes import DTYPES

Call = Callable[[Any], dict[str, Any]]


class Framework(Protocol):
    """Arrays of one framework, exchanged with NumPy's without loss."""

    differentiates: bool

    def place(self, array: np.ndarray) -> Any:
        """The framework's array of the same numbers in the same format."""

    def numbers(self, result: Any) -> np.ndarray:
        """A result as float64."""

    def format(self, result: Any) -> str:
        """The name of a result's dtype, as NumPy spells it."""

    def vjp(self, call: Call, x: Any, g: dict[str, Any] | None) -> Any:
        """The gradient by x of the sum of call(x)'s outputs, each times its upstream gradient (None: ones)."""


class NumPy:
    """NumPy, which has no gradients of its own."""

    differentiates = False

    def place(self, array: np.ndarray) -> Any:
        return array

    def numbers(self, result: Any) -> np.ndarray:
        return np.asarray(result).astype(np.float64)

    def format(self, result: Any) -> str:
        return str(result.dtype)

    def vjp(self, call: Call, x: Any, g: dict[str, Any] | None) -> Any:
        raise NotImplementedError("NumPy has no gradients")


class Torch:
    """PyTorch on the CPU, in eager mode."""

    differentiates = True

    def place(self, array: np.ndarray) -> Any:
        import torch

        if array.dtype == np.int64:
            return torch.from_numpy(np.ascontiguousarray(array))
        return torch.from_numpy(array.astype(np.float64)).to(getattr(torch, str(array.dtype)))

    def numbers(self, result: Any) -> np.ndarray:
        return np.asarray(result.detach().double().numpy())

    def format(self, result: Any) -> str:
        return str(result.dtype).removeprefix("torch.")

    def vjp(self, call: Call, x: Any, g: dict[str, Any] | None) -> Any:
        import torch

        x = x.requires_grad_()
        outputs = call(x)
        cotangents = [torch.ones_like(v) if g is None else g[name] for name, v in outputs.items()]
        (dx,) = torch.autograd.grad(list(outputs.values()), x, cotangents)
        assert dx.dtype == x.dtype
        assert dx.shape == x.shape
        return dx


@dataclasses.dataclass(frozen=True)
class Library:
    """A library: its name in tables, its arrays, its functions under our names and arguments, its formats."""

    name: str
    framework: Framework
    api: Any
    formats: tuple[str, ...] = DTYPES


OURS = {"numpy": Library("lossless", NumPy(), lossless), "torch": Library("lossless", Torch(), lossless)}


@dataclasses.dataclass(frozen=True)
class View:
    """Hands a problem's arrays to a library, with the classes last or in the middle.

    Problems are written with rows (N, C) and classes in dimension 1. In the middle layout the same rows are
    (N/2, C, 2), so that dimension 1 is still the classes' and every other array of the problem folds likewise.
    """

    library: Library
    middle: bool = False

    @property
    def api(self) -> Any:
        """The functions to call."""
        return self.library.api

    def __call__(self, array: np.ndarray | None) -> Any:
        """An array whose shape has nothing to do with rows: class weights, priors, elementwise inputs."""
        return None if array is None else self.library.framework.place(array)

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
        array = self.library.framework.numbers(result)
        if self.middle and array.ndim == 3:
            array = array.transpose(0, 2, 1)
        return array.reshape(shape)
