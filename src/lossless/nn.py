"""The losses as modules: subclasses of PyTorch's, so isinstance, state_dict and configuration keep working."""
# mypy: allow-subclassing-any

import torch
from torch import Tensor

from lossless.losses import cross_entropy


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """`lossless.cross_entropy` as a module, with PyTorch's arguments.

    Example:
        >>> criterion = CrossEntropyLoss()
        >>> criterion(torch.tensor([[20.0, 0.0]]), torch.tensor([0])).item()
        2.06115369216775e-09
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )
