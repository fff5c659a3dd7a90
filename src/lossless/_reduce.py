"""From one number a row to the result: PyTorch's `reduction`, with its legacy spellings."""

import warnings
from math import nan, prod
from typing import Literal, get_args

from lossless.errors import LosslessWarning, ParameterError
from lossless.reference import Array, namespace

Reduction = Literal["none", "mean", "sum"]
REDUCTIONS = get_args(Reduction)


def to_reduction(reduction: str, size_average: bool | None = None, reduce: bool | None = None) -> Reduction:
    """The reduction that PyTorch would use: the legacy flags win when given."""
    if size_average is not None or reduce is not None:
        legacy: Reduction = "none" if reduce is False else "sum" if size_average is False else "mean"
        warnings.warn(
            f"size_average and reduce args will be deprecated, please use reduction='{legacy}' instead.",
            LosslessWarning,
            stacklevel=3,
        )
        return legacy
    if reduction == "elementwise_mean":
        warnings.warn(
            "reduction='elementwise_mean' is deprecated. Please use reduction='mean' instead.",
            LosslessWarning,
            stacklevel=3,
        )
        return "mean"
    if reduction not in REDUCTIONS:
        raise ParameterError(
            f"{reduction} is not a valid value for reduction\nreduction must be 'none', 'mean' or 'sum'."
        )
    return reduction  # type: ignore[return-value]  # narrowed by the membership test above


def reduce_rows(loss: Array, weights: Array | None, reduction: Reduction) -> Array:
    """(*batch) losses to the result; a mean divides by the sum of `weights`, or by the count, and by 0 is NaN."""
    if reduction == "none":
        return loss
    total = loss.sum()
    if reduction == "sum":
        return total
    if weights is None:
        return total / (float(prod(loss.shape)) or nan)
    divisor = weights.sum()
    return total / namespace(divisor).where(divisor == 0.0, nan, divisor)
