"""The losses as modules: subclasses of PyTorch's, so isinstance, state_dict and configuration keep working."""
# mypy: allow-subclassing-any

import warnings
from typing import Any

import torch
from torch import Tensor

from lossless.errors import LosslessWarning
from lossless.losses import (
    categorical_cross_entropy,
    cross_entropy,
    focal_loss,
    nll_loss,
    sparse_categorical_cross_entropy,
)
from lossless.transforms import log_softmax, softmax

# ---------------------------------------------------------------- transforms


class Softmax(torch.nn.Softmax):
    """`lossless.softmax` as a module. Without `dim` PyTorch's rule and its warning.

    Example:
        >>> Softmax(dim=1)(torch.tensor([[2.0, 0.0]]))
        tensor([[0.8808, 0.1192]])
    """

    def forward(self, input: Tensor) -> Tensor:
        return softmax(input, _implicit_dim("softmax", input) if self.dim is None else self.dim)


class LogSoftmax(torch.nn.LogSoftmax):
    """`lossless.log_softmax` as a module. Without `dim` PyTorch's rule and its warning.

    Example:
        >>> LogSoftmax(dim=1)(torch.tensor([[20.0, 0.0]])).tolist()
        [[-2.06115369216775e-09, -20.0]]
    """

    def forward(self, input: Tensor) -> Tensor:
        return log_softmax(input, _implicit_dim("log_softmax", input) if self.dim is None else self.dim)


def _implicit_dim(function: str, input: Tensor) -> int:
    warnings.warn(
        f"Implicit dimension choice for {function} has been deprecated. "
        "Change the call to include dim=X as an argument.",
        LosslessWarning,
        stacklevel=3,
    )
    return 0 if input.ndim in (0, 1, 3) else 1


# ---------------------------------------------------------------- losses over classes


class NLLLoss(torch.nn.NLLLoss):
    """`lossless.nll_loss` as a module, with PyTorch's arguments.

    Example:
        >>> NLLLoss()(torch.tensor([[-0.25, -1.5]]), torch.tensor([0])).item()
        0.25
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return nll_loss(input, target, weight=self.weight, ignore_index=self.ignore_index, reduction=self.reduction)


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """`lossless.cross_entropy` as a module: PyTorch's arguments, then those of the function by keyword.

    `sample_weight` goes with the batch: `criterion(input, target, sample_weight=...)`.

    Example:
        >>> criterion = CrossEntropyLoss()
        >>> criterion(torch.tensor([[20.0, 0.0]]), torch.tensor([0])).item()
        2.06115369216775e-09
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        *,
        dim: int | None = None,
        denominator: str | float | Tensor | None = None,
        z_loss: float = 0.0,
        temperature: float = 1.0,
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.options: dict[str, Any] = {"dim": dim, "denominator": denominator, "z_loss": z_loss, "temperature": temperature}

    def forward(self, input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
        return cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            sample_weight=sample_weight,
            **self.options,
        )


class FocalLoss(torch.nn.Module):
    """`lossless.focal_loss` as a module; `weight` and a vector `alpha` are buffers, and move with it.

    Example:
        >>> criterion = FocalLoss(gamma=2.0)
        >>> round(criterion(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).item(), 6)
        0.001804
    """

    weight: Tensor | None
    alpha: Tensor | float | None

    def __init__(
        self,
        *,
        gamma: float = 2.0,
        alpha: Tensor | float | None = None,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        dim: int | None = None,
        denominator: str | float | Tensor | None = None,
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        if isinstance(alpha, Tensor):
            self.register_buffer("alpha", alpha)
        else:
            self.alpha = alpha
        self.options: dict[str, Any] = {
            "gamma": gamma,
            "ignore_index": ignore_index,
            "reduction": reduction,
            "dim": dim,
            "denominator": denominator,
        }

    def forward(self, input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
        return focal_loss(
            input, target, alpha=self.alpha, weight=self.weight, sample_weight=sample_weight, **self.options
        )


class CategoricalCrossEntropyLoss(torch.nn.Module):
    """`lossless.categorical_cross_entropy` as a module.

    Example:
        >>> criterion = CategoricalCrossEntropyLoss()
        >>> round(criterion(torch.tensor([[0.5, 0.5]]), torch.tensor([[0, 1]])).item(), 6)
        0.693147
    """

    def __init__(
        self, *, from_logits: bool = False, dim: int = -1, label_smoothing: float = 0.0, reduction: str = "mean"
    ) -> None:
        super().__init__()
        self.options: dict[str, Any] = {
            "from_logits": from_logits,
            "dim": dim,
            "label_smoothing": label_smoothing,
            "reduction": reduction,
        }

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return categorical_cross_entropy(input, target, **self.options)


class SparseCategoricalCrossEntropyLoss(torch.nn.Module):
    """`lossless.sparse_categorical_cross_entropy` as a module.

    Example:
        >>> criterion = SparseCategoricalCrossEntropyLoss()
        >>> round(criterion(torch.tensor([[0.5, 0.5]]), torch.tensor([1])).item(), 6)
        0.693147
    """

    def __init__(
        self, *, from_logits: bool = False, dim: int = -1, ignore_class: int | None = None, reduction: str = "mean"
    ) -> None:
        super().__init__()
        self.options: dict[str, Any] = {
            "from_logits": from_logits,
            "dim": dim,
            "ignore_class": ignore_class,
            "reduction": reduction,
        }

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return sparse_categorical_cross_entropy(input, target, **self.options)
