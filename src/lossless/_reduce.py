"""From one number a row to the result: PyTorch's `reduction`, with its legacy spellings, and a mean's `denominator`."""

from math import nan, prod
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np

from lossless._check import FLOATS, INTEGERS, check_positive, dtype_name, to_flag, to_float, warn
from lossless.errors import ParameterError
from lossless.reference import Array, namespace

Reduction = Literal["none", "mean", "sum"]
REDUCTIONS = get_args(Reduction)
Denominator = Literal["weights", "count", "batch", "positives", "given"]
"""What a mean divides by, if not by PyTorch's rule; "given": a number of the caller's."""


def to_reduction(
    function: str, reduction: str, size_average: bool | None = None, reduce: bool | None = None
) -> Reduction:
    """The reduction that PyTorch would use: the legacy flags win when given."""
    if size_average is not None or reduce is not None:
        whole = True if reduce is None else to_flag(function, "reduce", reduce)
        average = True if size_average is None else to_flag(function, "size_average", size_average)
        legacy: Reduction = "none" if not whole else "mean" if average else "sum"
        warn(f"size_average and reduce args will be deprecated, please use reduction='{legacy}' instead.")
        return legacy
    if isinstance(reduction, str) and reduction == "elementwise_mean":
        warn("reduction='elementwise_mean' is deprecated. Please use reduction='mean' instead.")
        return "mean"
    if not isinstance(reduction, str) or reduction not in REDUCTIONS:
        raise ParameterError(
            f"{reduction} is not a valid value for reduction\nreduction must be 'none', 'mean' or 'sum'."
        )
    return reduction  # type: ignore[return-value]  # narrowed by the membership test above


def reduce_rows(loss: Array, divisor: Array | float | None, reduction: Reduction) -> Array:
    """(*batch) losses to the result; a mean divides by `divisor`, by default the count, and by 0 is NaN."""
    if reduction == "none":
        return loss
    total = loss.sum()
    if reduction == "sum":
        return total
    if divisor is None:
        divisor = float(prod(loss.shape))
    if isinstance(divisor, Real):
        return total / (divisor or nan)
    return total / namespace(divisor).where(divisor == 0.0, nan, divisor)


def to_denominator(function: str, denominator: Any, reduction: Reduction, positives: bool) -> tuple[Any, Any]:
    """`denominator=` as (its name or None, the number if one is given); `positives`: whether the loss has them."""
    if denominator is None:
        return None, None
    if reduction != "mean":
        raise ParameterError(
            f"{function}: denominator got {denominator!r} with reduction={reduction!r}, expected reduction='mean': "
            "nothing else divides"
        )
    if isinstance(denominator, str):
        names = ("weights", "count", "batch", *(("positives",) if positives else ()))
        if denominator not in names:
            hint = " ('positives' belongs to focal and binary losses)" if denominator == "positives" else ""
            raise ParameterError(
                f"{function}: denominator got {denominator!r}{hint}, expected None, "
                f"{', '.join(map(repr, names))}, a positive number or a 0-d array"
            )
        return denominator, None
    dtype = dtype_name(getattr(denominator, "dtype", type(denominator).__name__))
    if isinstance(denominator, np.ndarray) and denominator.shape == () and dtype in FLOATS | INTEGERS:
        denominator = float(denominator)
    if isinstance(denominator, Real) and not isinstance(denominator, bool):
        number = to_float(function, "denominator", denominator)
        check_positive(function, "denominator", number)
        return "given", number
    shape = getattr(denominator, "shape", None)
    if shape != () or dtype not in FLOATS | INTEGERS:
        seen = type(denominator).__name__ + ("" if shape is None else f" of shape {list(shape)} and dtype {dtype}")
        raise ParameterError(f"{function}: denominator got {seen}, expected a name, a positive number or a 0-d array")
    return "given", denominator
