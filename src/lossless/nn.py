"""The losses as modules: subclasses of PyTorch's, so isinstance, state_dict and configuration keep working."""
# mypy: allow-subclassing-any

import inspect
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.modules.loss import _Loss, _WeightedLoss

from lossless._check import warn
from lossless.losses import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    categorical_cross_entropy,
    cross_entropy,
    focal_loss,
    kl_div,
    mse_loss,
    nll_loss,
    rmse_loss,
    sigmoid_focal_loss,
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
    warn(
        f"Implicit dimension choice for {function} has been deprecated. "
        "Change the call to include dim=X as an argument."
    )
    return 0 if input.ndim in (0, 1, 3) else 1


# ---------------------------------------------------------------- what losses share


class _Options(torch.nn.Module):
    """Options are attributes by their names, a tensor among them a buffer; `repr` shows those that were chosen."""

    def extra_repr(self) -> str:
        options = inspect.signature(type(self)).parameters
        values = {name: getattr(self, name, option.default) for name, option in options.items()}
        return ", ".join(
            f"{name}={value!r}"
            for name, value in values.items()
            if not isinstance(value, Tensor) and value != options[name].default
        )

    def _keep(self, name: str, value: Any) -> None:
        """Not in the state_dict, which stays PyTorch's."""
        if isinstance(value, Tensor):
            self.register_buffer(name, value, persistent=False)
        else:
            setattr(self, name, value)


# ---------------------------------------------------------------- losses over classes


class NLLLoss(torch.nn.NLLLoss):
    """`lossless.nll_loss` as a module, with PyTorch's arguments.

    Example:
        >>> NLLLoss()(torch.tensor([[-0.25, -1.5]]), torch.tensor([0])).item()
        0.25
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return nll_loss(input, target, weight=self.weight, ignore_index=self.ignore_index, reduction=self.reduction)


class CrossEntropyLoss(_Options, torch.nn.CrossEntropyLoss):
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
        inplace: bool = False,
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.dim, self.z_loss, self.temperature, self.inplace = dim, z_loss, temperature, inplace
        self._keep("denominator", denominator)

    def forward(self, input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
        return cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
            dim=self.dim,
            sample_weight=sample_weight,
            denominator=self.denominator,
            z_loss=self.z_loss,
            temperature=self.temperature,
            inplace=self.inplace,
        )


class FocalLoss(_Options, _WeightedLoss):
    """`lossless.focal_loss` as a module; `weight` and a vector `alpha` are buffers, and move with it.

    Example:
        >>> criterion = FocalLoss(gamma=2.0)
        >>> round(criterion(torch.tensor([[2.0, 0.0]]), torch.tensor([0])).item(), 6)
        0.001804
    """

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
        inplace: bool = False,
    ) -> None:
        super().__init__(weight, reduction=reduction)
        self.gamma, self.ignore_index, self.dim, self.inplace = gamma, ignore_index, dim, inplace
        if isinstance(alpha, Tensor):
            self.register_buffer("alpha", alpha)
        else:
            self.alpha = alpha
        self._keep("denominator", denominator)

    def forward(self, input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
        return focal_loss(
            input,
            target,
            gamma=self.gamma,
            alpha=self.alpha,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            dim=self.dim,
            sample_weight=sample_weight,
            denominator=self.denominator,
            inplace=self.inplace,
        )


class CategoricalCrossEntropyLoss(_Options, _Loss):
    """`lossless.categorical_cross_entropy` as a module.

    Example:
        >>> criterion = CategoricalCrossEntropyLoss()
        >>> round(criterion(torch.tensor([[0.5, 0.5]]), torch.tensor([[0, 1]])).item(), 6)
        0.693147
    """

    def __init__(
        self, *, from_logits: bool = False, dim: int = -1, label_smoothing: float = 0.0, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction=reduction)
        self.from_logits, self.dim, self.label_smoothing = from_logits, dim, label_smoothing

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return categorical_cross_entropy(
            input,
            target,
            from_logits=self.from_logits,
            dim=self.dim,
            label_smoothing=self.label_smoothing,
            reduction=self.reduction,
        )


class SparseCategoricalCrossEntropyLoss(_Options, _Loss):
    """`lossless.sparse_categorical_cross_entropy` as a module.

    Example:
        >>> criterion = SparseCategoricalCrossEntropyLoss()
        >>> round(criterion(torch.tensor([[0.5, 0.5]]), torch.tensor([1])).item(), 6)
        0.693147
    """

    def __init__(
        self, *, from_logits: bool = False, dim: int = -1, ignore_class: int | None = None, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction=reduction)
        self.from_logits, self.dim, self.ignore_class = from_logits, dim, ignore_class

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return sparse_categorical_cross_entropy(
            input,
            target,
            from_logits=self.from_logits,
            dim=self.dim,
            ignore_class=self.ignore_class,
            reduction=self.reduction,
        )


# ---------------------------------------------------------------- losses of single numbers


class BCELoss(_Options, torch.nn.BCELoss):
    """`lossless.binary_cross_entropy` as a module: PyTorch's arguments, then those of the function by keyword.

    `sample_weight` goes with the batch: `criterion(input, target, sample_weight=...)`.

    Example:
        >>> round(BCELoss()(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])).item(), 6)
        0.693147
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        *,
        clamp: Literal["torch"] | None = "torch",
        label_smoothing: float = 0.0,
        ignore_index: int | None = None,
        denominator: str | float | Tensor | None = None,
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction)
        self.clamp, self.label_smoothing, self.ignore_index = clamp, label_smoothing, ignore_index
        self._keep("denominator", denominator)

    def forward(self, input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
        return binary_cross_entropy(
            input,
            target,
            self.weight,
            reduction=self.reduction,
            clamp=self.clamp,
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
            sample_weight=sample_weight,
            denominator=self.denominator,
        )


class BCEWithLogitsLoss(_Options, torch.nn.BCEWithLogitsLoss):
    """`lossless.binary_cross_entropy_with_logits` as a module: PyTorch's arguments, then the function's by keyword.

    `sample_weight` goes with the batch: `criterion(input, target, sample_weight=...)`.

    Example:
        >>> BCEWithLogitsLoss()(torch.tensor([20.0]), torch.tensor([1.0])).item()
        2.06115369216775e-09
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        reduce: bool | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
        *,
        label_smoothing: float = 0.0,
        ignore_index: int | None = None,
        denominator: str | float | Tensor | None = None,
        inplace: bool = False,
    ) -> None:
        super().__init__(weight, size_average, reduce, reduction, pos_weight)
        self.label_smoothing, self.ignore_index, self.inplace = label_smoothing, ignore_index, inplace
        self._keep("denominator", denominator)

    def forward(self, input: Tensor, target: Tensor, *, sample_weight: Tensor | None = None) -> Tensor:
        return binary_cross_entropy_with_logits(
            input,
            target,
            self.weight,
            reduction=self.reduction,
            pos_weight=self.pos_weight,
            label_smoothing=self.label_smoothing,
            ignore_index=self.ignore_index,
            sample_weight=sample_weight,
            denominator=self.denominator,
            inplace=self.inplace,
        )


class SigmoidFocalLoss(_Options, _Loss):
    """`lossless.sigmoid_focal_loss` as a module.

    Example:
        >>> SigmoidFocalLoss(alpha=-1, gamma=0)(torch.tensor([20.0]), torch.tensor([1.0])).tolist()
        [2.06115369216775e-09]
    """

    def __init__(self, alpha: float = 0.25, gamma: float = 2, reduction: str = "none") -> None:
        super().__init__(reduction=reduction)
        self.alpha, self.gamma = alpha, gamma

    def forward(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return sigmoid_focal_loss(inputs, targets, self.alpha, self.gamma, self.reduction)


class MSELoss(torch.nn.MSELoss):
    """`lossless.mse_loss` as a module, with PyTorch's arguments.

    Example:
        >>> MSELoss()(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])).item()
        12.5
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return mse_loss(input, target, reduction=self.reduction)


class RMSELoss(_Options, _Loss):
    """`lossless.rmse_loss` as a module.

    Example:
        >>> round(RMSELoss()(torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])).item(), 6)
        3.535534
    """

    def __init__(self, *, reduction: str = "mean", dim: int | Sequence[int] | None = None) -> None:
        super().__init__(reduction=reduction)
        self.dim = dim

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return rmse_loss(input, target, reduction=self.reduction, dim=self.dim)


class KLDivLoss(torch.nn.KLDivLoss):
    """`lossless.kl_div` as a module, with PyTorch's arguments and its warning for reduction="mean".

    Example:
        >>> criterion = KLDivLoss(reduction="batchmean")
        >>> round(criterion(torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.9, 0.1]])).item(), 6)
        0.368064
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return kl_div(input, target, reduction=self.reduction, log_target=self.log_target)
