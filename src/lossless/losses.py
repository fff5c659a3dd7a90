"""The losses: PyTorch's names, arguments and results, accurate in every regime; `input` first, `target` second."""

import warnings
from collections.abc import Sequence
from typing import Any

from lossless._check import to_float, to_int
from lossless._dispatch import select
from lossless._layout import to_dims
from lossless._plan import plan_binary, plan_class_loss, plan_squared
from lossless._reduce import to_reduction
from lossless.errors import LosslessWarning, ShapeError

Array = Any


def cross_entropy(
    input: Array,
    target: Array,
    weight: Array | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Array:
    """Cross-entropy of logits: the price, in nats, that the model puts on the true class.

        loss = w_y (lse - x_y)  for labels y,   sum_j w_j t_j (lse - x_j)  for probabilities t,
        lse = log sum_j exp(x_j)

    It is `nll_loss(log_softmax(input))` in one pass. `input` holds raw scores: never apply softmax before.

    Args:
        input: (C,), (N, C) or (N, C, d1, ...) floating point logits.
        target: integer labels in [0, C), shape of `input` without C; or probabilities, shape of `input`.
        weight: (C,) weight of each class.
        size_average: deprecated, see `reduction`.
        ignore_index: a label whose rows count for nothing, in the loss, its mean and its gradient.
        reduce: deprecated, see `reduction`.
        reduction: "mean" divides the sum by sum w_y of the rows not ignored (labels) or by the number of rows
            (probabilities); "sum"; "none" for one loss a row.
        label_smoothing: e in [0, 1]: replaces the target by (1 - e) target + e / C.

    Returns:
        A scalar, or one loss a row for reduction="none"; dtype of `input` (with probabilities: promoted with
        `target` and `weight`). Value and gradient within 4 ulp of the exact ones, summed in float64.

    Raises:
        LogitsDtypeError, TargetDtypeError, ShapeError: arrays that do not fit together.
        TargetIndexError: a label outside [0, C) that is not `ignore_index`.
        ParameterError: label_smoothing > 1, an unknown reduction, ignore_index >= 0 with probabilities.

    Edges:
        The mean of no rows, or of ignored rows only, is NaN, their sum 0. A class at -inf that the target does not
        touch costs nothing and gets gradient 0. One class: loss 0.

    Example:
        >>> cross_entropy(np.array([[20.0, 0.0]], np.float32), np.array([0]))  # PyTorch: 0.0
        np.float32(2.0611537e-09)
        >>> cross_entropy(np.array([[1.0, 2.0, 3.0]]), np.array([[0.0, 0.5, 0.5]])).item()
        0.90760596444438...
    """
    backend, input, target, weight = select("cross_entropy", 2, input=input, target=target, weight=weight)
    reduction = to_reduction(reduction, size_average, reduce)
    input = backend.for_loss(input)
    plan = plan_class_loss(
        "cross_entropy", input.shape, input.dtype, target.shape, target.dtype, *_meta(weight),
        to_int("cross_entropy", "ignore_index", ignore_index),
        to_float("cross_entropy", "label_smoothing", label_smoothing), reduction,
    )  # fmt: skip
    return backend.cross_entropy(plan, input, target, weight)


def nll_loss(
    input: Array,
    target: Array,
    weight: Array | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
) -> Array:
    """Negative log-likelihood of log-probabilities: the second half of cross-entropy.

        loss = -w_y log p_y

    Args:
        input: (C,), (N, C) or (N, C, d1, ...) log-probabilities, as `log_softmax` gives them; not probabilities.
        target: integer labels in [0, C), shape of `input` without C.
        weight: (C,) weight of each class.
        size_average: deprecated, see `reduction`.
        ignore_index: a label whose rows count for nothing.
        reduce: deprecated, see `reduction`.
        reduction: "mean" divides the sum by sum w_y of the rows not ignored; "sum"; "none".

    Returns:
        A scalar, or one loss a row for reduction="none"; dtype of `input`, summed in float64.

    Raises:
        LogitsDtypeError, TargetDtypeError, ShapeError: arrays that do not fit together.
        TargetIndexError: a label outside [0, C) that is not `ignore_index`.
        ParameterError: an unknown reduction.

    Edges:
        The mean of no rows, or of ignored rows only, is NaN, their sum 0.

    Example:
        >>> log_p = lossless.log_softmax(np.array([[20.0, 0.0]], np.float32), 1)
        >>> nll_loss(log_p, np.array([0]))
        np.float32(2.0611537e-09)
    """
    backend, input, target, weight = select("nll_loss", 2, input=input, target=target, weight=weight)
    reduction = to_reduction(reduction, size_average, reduce)
    input = backend.for_loss(input)
    plan = plan_class_loss(
        "nll_loss", input.shape, input.dtype, target.shape, target.dtype, *_meta(weight),
        to_int("nll_loss", "ignore_index", ignore_index), 0.0, reduction,
    )  # fmt: skip
    return backend.nll(plan, input, target, weight)


def binary_cross_entropy_with_logits(
    input: Array,
    target: Array,
    weight: Array | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Array | None = None,
) -> Array:
    """Binary cross-entropy of logits: every score is its own yes-or-no question.

        loss = w (v t softplus(-x) + (1 - t) softplus(x)),   softplus(x) = log(1 + exp(x)),   v = pos_weight

    Args:
        input: floating point logits of any shape; raw scores, not sigmoid outputs.
        target: probabilities of "yes", shape of `input`, floating point.
        weight: weight w of each element; broadcasts to the shape of `input`.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "mean" divides by the number of elements; "sum"; "none".
        pos_weight: weight v of the positive part; broadcasts to the shape of `input`.

    Returns:
        A scalar, or the shape of `input` for reduction="none"; dtype of `input` promoted with `target`.
        Value and gradient within 4 ulp of the exact ones, summed in float64.

    Raises:
        LogitsDtypeError, TargetDtypeError, ShapeError: arrays that do not fit together.
        ParameterError: an unknown reduction.

    Edges:
        +-inf on the right side costs 0, on the wrong side inf. The mean of no elements is NaN.

    Example:
        >>> binary_cross_entropy_with_logits(np.array([40.0], np.float32), np.array([1.0], np.float32))
        np.float32(4.248354e-18)
    """
    function = "binary_cross_entropy_with_logits"
    backend, input, target, weight, pos_weight = select(
        function, 2, input=input, target=target, weight=weight, pos_weight=pos_weight
    )
    reduction = to_reduction(reduction, size_average, reduce)
    input = backend.for_loss(input)
    plan_binary(function, input.shape, input.dtype, target.shape, target.dtype, *_meta(weight), *_meta(pos_weight))
    return backend.pointwise(function, "bce_with_logits", input, target, weight, pos_weight, reduction)


def mse_loss(
    input: Array,
    target: Array,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    weight: Array | None = None,
) -> Array:
    """Mean squared error: the squared distance between prediction and truth.

        loss = w (x - t)^2

    Args:
        input: floating point predictions of any shape.
        target: truth, shape of `input`; another shape broadcasts, with a warning, as in PyTorch.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "mean" divides by the number of elements, or by sum w; "sum"; "none".
        weight: weight w of each element, exactly the shape of `input`.

    Returns:
        A scalar, or one loss an element for reduction="none"; dtype of `input` promoted with `target`. Differences
        and sums are taken in float64, so a mean that fits the dtype never overflows on the way.

    Raises:
        LogitsDtypeError, TargetDtypeError, ShapeError: arrays that do not fit together.
        ParameterError: an unknown reduction.

    Edges:
        The mean of no elements is NaN.

    Example:
        >>> mse_loss(np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 2.0])).item()
        1.333333333333333...
    """
    backend, input, target, weight = select("mse_loss", 2, input=input, target=target, weight=weight)
    reduction = to_reduction(reduction, size_average, reduce)
    input = backend.for_loss(input)
    plan_squared("mse_loss", input.shape, input.dtype, target.shape, target.dtype)
    if target.shape != input.shape:
        warnings.warn(
            f"Using a target size ({target.shape}) that is different to the input size ({input.shape}). "
            "This will likely lead to incorrect results due to broadcasting. "
            "Please ensure they have the same size.",
            LosslessWarning,
            stacklevel=2,
        )
    if weight is not None and weight.shape != input.shape:
        raise ShapeError(
            f"Weights and input must have the same size.\nmse_loss: weight has shape {list(weight.shape)} and input "
            f"{list(input.shape)}."
        )
    return backend.pointwise("mse_loss", "squared_error", input, target, weight, None, reduction)


def rmse_loss(input: Array, target: Array, *, reduction: str = "mean", dim: int | Sequence[int] | None = None) -> Array:
    """Root mean squared error: the typical size of a mistake, in the units of the data.

        loss = sqrt(mean (x - t)^2)

    Args:
        input: floating point predictions of any shape.
        target: truth, shape of `input`.
        reduction: how to combine what is left when `dim` does not cover everything: "mean", "sum" or "none".
        dim: the dimension or dimensions that the root mean square is taken over; None for all.

    Returns:
        A scalar, or for reduction="none" `input` without `dim`; dtype of `input` promoted with `target`.

    Raises:
        LogitsDtypeError, TargetDtypeError: not numbers.
        ShapeError: the shapes differ; nothing is broadcast.
        DimensionError: `input` has no dimension `dim`.
        ParameterError: an unknown reduction.

    Edges:
        Where all differences are 0 the loss is 0 and so is its gradient. No difference is too large or too small to
        be squared. Of no elements it is NaN.

    Example:
        >>> rmse_loss(np.array([3.0, 0.0]), np.array([0.0, 4.0])).item()
        3.535533905932737...
        >>> rmse_loss(np.array([1e200, 0.0]), np.array([0.0, 0.0])).item()
        7.07106781186547...e+199
    """
    backend, input, target = select("rmse_loss", 2, input=input, target=target)
    reduction = to_reduction(reduction)
    input = backend.for_loss(input)
    if target.shape != input.shape:
        raise ShapeError(
            f"rmse_loss: input has shape {list(input.shape)} and target {list(target.shape)}, expected the same"
        )
    plan_squared("rmse_loss", input.shape, input.dtype, target.shape, target.dtype)
    ndim = len(input.shape)
    dims = tuple(range(ndim)) if dim is None else to_dims(dim, ndim)
    return backend.root_mean_square("rmse_loss", input, target, dims, reduction)


def _meta(array: Array | None) -> tuple[Any, Any]:
    """Shape and dtype of an optional array."""
    return (None, None) if array is None else (array.shape, array.dtype)
