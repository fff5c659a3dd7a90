"""The losses: PyTorch's names, arguments and results, accurate in every regime; `input` first, `target` second."""

from collections.abc import Sequence
from math import prod
from numbers import Real
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lossless._check import (
    FLOATS,
    broadcast_shape,
    check_choice,
    check_flags,
    check_floating,
    check_label_smoothing,
    check_not_negative,
    check_one_hot,
    check_probabilities,
    check_scalar_alpha,
    dtype_name,
    to_flag,
    to_float,
    to_int,
    to_temperature,
)
from lossless._diagnose.watch import Occasion, due, look, tell
from lossless._dispatch import Backend, overridden, override, select
from lossless._layout import class_number, to_dims
from lossless._plan import ElementPlan, RowPlan, plan_binary, plan_class_loss, plan_divergence, plan_squared
from lossless._reduce import REDUCTIONS, Reduction, to_denominator, to_reduction
from lossless._straight import straight
from lossless.errors import ParameterError, ShapeError
from lossless.reference import BinaryCrossEntropy, BinaryCrossEntropyWithLogits, SigmoidFocal

Array = Any


@straight
def cross_entropy(
    input: Array,
    target: Array,
    weight: Array | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    dim: int | None = None,
    sample_weight: Array | None = None,
    denominator: str | float | Array | None = None,
    z_loss: float = 0.0,
    temperature: float = 1.0,
    inplace: bool = False,
) -> Array:
    """Cross-entropy of logits: the price, in nats, that the model puts on the true class.

        loss = s (w_y (lse - x_y) + z lse^2)  for labels y,   s (sum_j w_j t_j (lse - x_j) + z lse^2)  for
        probabilities t,   lse = log sum_j exp(x_j)

    It is `nll_loss(log_softmax(input))` in one pass. `input` holds raw scores: never apply softmax before.

    Args:
        input: (C,), (N, C) or (N, C, d1, ...) floating point logits.
        target: integer labels in [0, C), shape of `input` without C; or probabilities, shape of `input`.
        weight: (C,) weight of each class.
        size_average: deprecated, see `reduction`.
        ignore_index: a label whose rows count for nothing, in the loss, its mean and its gradient.
        reduce: deprecated, see `reduction`.
        reduction: "mean" divides the sum by what `denominator` says; "sum"; "none" for one loss a row.
        label_smoothing: e in [0, 1]: replaces the target by (1 - e) target + e / C.
        dim: the dimension of the classes; None for PyTorch's rule, dimension 1 (or 0 of a single row).
        sample_weight: weight s of each row, shape of the labels; differentiated in PyTorch.
        denominator: what a mean divides by. None: sum s w_y of the rows not ignored (labels), or sum s
            (probabilities), as in PyTorch. "weights": sum s sum_j t_j w_j, the same for labels and their one-hot
            form. "count": the rows not ignored. "batch": all rows. Or a number, or a 0-d array: itself. So parts of
            a batch add up to it, whatever their sizes: give each the total of all parts (sum w_y, or the count), and
            on ranks whose gradients are averaged the total of all ranks divided by their number.
        z_loss: z >= 0: the share of lse^2, which keeps logits from drifting.
        temperature: > 0; the loss is that of input / temperature.
        inplace: whether PyTorch's backward pass may write the gradient over `input`, so that it takes no memory of its
            own; what is read of `input` afterwards is the gradient. It does so if a kernel computes the loss, and
            `input` was made by a matrix product, a convolution, arithmetic or a cast, or is a view of such a result.
            Else (of leaves and compiled models, with sample weights, on other devices, under transforms,
            torch.compile, create_graph and checkpoints) nothing is overwritten. Refused are a second backward pass,
            and any other that was to read `input` later.

    Returns:
        A scalar, or one loss a row for reduction="none"; dtype of `input` (with probabilities: promoted with
        `target` and `weight`). Value and gradient within 4 ulp of the exact ones (a float64 gradient within 5),
        summed in float64.

    Raises:
        LogitsDtypeError, TargetDtypeError, ShapeError: arrays that do not fit together.
        DimensionError: `input` has no dimension `dim`.
        TargetIndexError: a label outside [0, C) that is not `ignore_index`.
        ParameterError: an option out of its range, an unknown reduction or denominator, a denominator without
            reduction="mean", ignore_index >= 0 with probabilities.

    Edges:
        The mean of no rows, or of ignored rows only, is NaN, their sum 0. A class at -inf that the target does not
        touch costs nothing and gets gradient 0. One class: loss 0.

    Example:
        >>> cross_entropy(np.array([[20.0, 0.0]], np.float32), np.array([0]))  # PyTorch: 0.0
        np.float32(2.0611537e-09)
        >>> cross_entropy(np.array([[1.0, 2.0, 3.0]]), np.array([[0.0, 0.5, 0.5]])).item()
        0.90760596444438...
        >>> cross_entropy(np.array([[0.0, 0.0]]), np.array([1]), z_loss=0.1).item()  # log 2 + 0.1 (log 2)^2
        0.74119248195...

    Source:
        Label smoothing: Szegedy et al. 2016, arXiv:1512.00567; z-loss: Chowdhery et al. 2022, arXiv:2204.02311.
    """
    if overridden(input, target, weight, sample_weight, denominator):
        return override(cross_entropy, locals())
    backend, input, target, weight, sample_weight, _ = select(
        "cross_entropy", 2, input=input, target=target, weight=weight, sample_weight=sample_weight,
        denominator=_array(denominator),
    )  # fmt: skip
    reduction = to_reduction("cross_entropy", reduction, size_average, reduce)
    input = backend.for_loss(input)
    name, divisor = (
        (None, None)
        if denominator is None
        else to_denominator("cross_entropy", denominator, reduction, positives=False)
    )
    ignore_index = to_int("cross_entropy", "ignore_index", ignore_index)
    label_smoothing = to_float("cross_entropy", "label_smoothing", label_smoothing)
    z_loss, temperature = to_float("cross_entropy", "z_loss", z_loss), to_temperature("cross_entropy", temperature)
    inplace = to_flag("cross_entropy", "inplace", inplace)
    # PyTorch's, and nothing else
    if dim is sample_weight is name is None and z_loss == 0.0 and temperature == 1.0 and not inplace:
        options: dict[str, Any] = {}
    else:
        options = _row_options("cross_entropy", dim, sample_weight, name)
        check_not_negative("cross_entropy", "z_loss", z_loss)
        options |= {"z_loss": z_loss, "temperature": temperature, "inplace": inplace}
    plan = plan_class_loss(
        "cross_entropy", input.shape, input.dtype, target.shape, target.dtype, *_meta(weight), ignore_index,
        label_smoothing, reduction, **options,
    )  # fmt: skip
    loss = backend.class_loss(plan, input, target, weight, sample_weight, None, divisor)
    if occasion := due(backend):
        _look(occasion, backend, plan, input, target, dim_by_rule=dim is None, label_smoothing=label_smoothing)
    return loss


@straight
def focal_loss(
    input: Array,
    target: Array,
    *,
    gamma: float = 2.0,
    alpha: float | Array | None = None,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    dim: int | None = None,
    sample_weight: Array | None = None,
    denominator: str | float | Array | None = None,
    inplace: bool = False,
) -> Array:
    """Focal loss of softmax logits: cross-entropy that discounts rows already classified well.

        loss = s w_y alpha_y (1 - p_y)^gamma (-log p_y)  for labels y,
        loss = s sum_j w_j alpha_j t_j (1 - p_j)^gamma (-log p_j)  for probabilities t,   p = softmax(x)

    A row at p_y = 0.9 weighs 100 times less than in cross-entropy for gamma = 2, so rare and hard rows decide.
    `sigmoid_focal_loss` is the form for yes-or-no scores.

    Args:
        input: (C,), (N, C) or (N, C, d1, ...) floating point logits.
        target: integer labels in [0, C), shape of `input` without C; or probabilities, shape of `input`.
        gamma: >= 0; 0 is cross-entropy.
        alpha: (C,) factor of each class, which never enters the denominator; or a number where C = 2: class 1 gets
            alpha and class 0 gets 1 - alpha.
        weight: (C,) weight of each class, which enters the denominator as in `cross_entropy`.
        ignore_index: a label whose rows count for nothing, in the loss, its mean and its gradient.
        reduction: "mean" divides the sum by what `denominator` says; "sum"; "none" for one loss a row.
        dim: the dimension of the classes; None for PyTorch's rule, dimension 1 (or 0 of a single row).
        sample_weight: weight s of each row, shape of the labels; differentiated in PyTorch.
        denominator: what a mean divides by: as in `cross_entropy`, and "positives": max(1, sum of the target).
        inplace: whether PyTorch's backward pass may write the gradient over `input`, as in `cross_entropy`.

    Returns:
        A scalar, or one loss a row for reduction="none"; dtype of `input` (with probabilities: promoted with
        `target` and `weight`). Value and gradient within 8 ulp of the exact ones for gamma <= 2.

    Raises:
        LogitsDtypeError, TargetDtypeError, ShapeError: arrays that do not fit together.
        DimensionError: `input` has no dimension `dim`.
        TargetIndexError: a label outside [0, C) that is not `ignore_index`.
        ParameterError: gamma < 0, a number for `alpha` with more than two classes, an unknown reduction or
            denominator, a denominator without reduction="mean", ignore_index >= 0 with probabilities.

    Edges:
        The mean of no rows, or of ignored rows only, is NaN, their sum 0. At p_y = 1 loss and gradient are 0 for
        gamma > 0, also below 1. A class at -inf that the target does not touch costs nothing.

    Example:
        >>> x, y = np.array([[2.0, 0.0], [0.0, 2.0]]), np.array([0, 0])  # one easy row, one hard one
        >>> cross_entropy(x, y, reduction="none")
        array([0.12692801, 2.12692801])
        >>> focal_loss(x, y, reduction="none")
        array([0.00180356, 1.65007818])

    Source:
        Lin et al. 2017, arXiv:1708.02002, eq. (4) and (5).
    """
    if overridden(input, target, alpha, weight, sample_weight, denominator):
        return override(focal_loss, locals())
    gamma = to_float("focal_loss", "gamma", gamma)
    check_not_negative("focal_loss", "gamma", gamma)
    return _curved(
        "focal_loss", ("focal", gamma) if gamma else None, input, target, weight, alpha, ignore_index, reduction, dim,
        sample_weight, denominator, inplace,
    )  # fmt: skip


def categorical_cross_entropy(
    input: Array,
    target: Array,
    *,
    from_logits: bool = False,
    dim: int = -1,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
) -> Array:
    """Categorical cross-entropy: the cost of predicted probabilities under one-hot or soft targets.

        loss = -sum_j t_j log p_j

    The name and the arguments that Keras made common. Logits are the better input: what float32 rounds away between
    softmax and logarithm is gone, so give `from_logits=True` or use `cross_entropy` where you have them.

    Args:
        input: probabilities p, the classes along `dim`; with `from_logits`, logits. Neither clipped nor renormalised.
        target: one-hot rows (integers or booleans too) or probabilities t, shape of `input`.
        from_logits: take softmax first, in one accurate pass.
        dim: the dimension of the classes.
        label_smoothing: e in [0, 1]: replaces t by (1 - e) t + e / C.
        reduction: "mean" divides by the number of rows; "sum"; "none" for one loss a row.

    Returns:
        A scalar, or `input` without `dim` for reduction="none"; dtype of `input` promoted with `target`.

    Raises:
        LogitsDtypeError, TargetDtypeError, ShapeError, DimensionError: arrays that do not fit together; labels belong
            to `sparse_categorical_cross_entropy`.
        ParameterError: values outside [0, 1] that are to be probabilities; label_smoothing > 1, unknown reduction.

    Edges:
        p_j = 0 costs inf where t_j > 0 and nothing where t_j = 0. The mean of no rows is NaN.

    Example:
        >>> p, t = np.array([[0.7, 0.2, 0.1]]), np.array([[1, 0, 0]])
        >>> categorical_cross_entropy(p, t).item()
        0.35667494393873...
        >>> sparse_categorical_cross_entropy(p, np.array([0])).item()
        0.35667494393873...
    """
    if overridden(input, target):
        return override(categorical_cross_entropy, locals())
    function = "categorical_cross_entropy"
    backend, input, target = select(function, 2, input=input, target=target)
    reduction = to_reduction(function, reduction)
    input = backend.for_loss(input)
    check_floating(function, dtype_name(input.dtype))
    check_one_hot(function, input.shape, target.shape)
    if dtype_name(target.dtype) not in FLOATS:
        check_flags(function, dtype_name(target.dtype))
        target = backend.to_dtype(function, target, input.dtype)
    plan = plan_class_loss(
        function, input.shape, input.dtype, target.shape, target.dtype, None, None, None,
        _smoothing(function, label_smoothing), reduction, dim=to_int(function, "dim", dim),
    )  # fmt: skip
    hint = "For class numbers use sparse_categorical_cross_entropy."
    low, high = backend.extremes(plan, "target", target)
    check_probabilities(function, "target", low, high, hint, lambda: backend.numbers(target))
    return _of_probabilities_or_logits(backend, plan, input, target, from_logits)


def sparse_categorical_cross_entropy(
    input: Array,
    target: Array,
    *,
    from_logits: bool = False,
    dim: int = -1,
    ignore_class: int | None = None,
    reduction: str = "mean",
) -> Array:
    """Sparse categorical cross-entropy: the cost of predicted probabilities under integer labels.

        loss = -log p_y

    The same number as `categorical_cross_entropy` of the one-hot target, without building it.

    Args:
        input: probabilities p, the classes along `dim`; with `from_logits`, logits. Neither clipped nor renormalised.
        target: integer labels in [0, C), shape of `input` without `dim`.
        from_logits: take softmax first, in one accurate pass.
        dim: the dimension of the classes.
        ignore_class: a label whose rows count for nothing, in the loss, its mean and its gradient; None for none.
        reduction: "mean" divides by the number of rows not ignored; "sum"; "none" for one loss a row.

    Returns:
        A scalar, or `input` without `dim` for reduction="none"; dtype of `input`.

    Raises:
        LogitsDtypeError, TargetDtypeError, ShapeError, DimensionError: arrays that do not fit together.
        TargetIndexError: a label outside [0, C) that is not `ignore_class`; labels from 1 to C are recognised.
        ParameterError: values outside [0, 1] that are to be probabilities; an unknown reduction.

    Edges:
        p_y = 0 costs inf. The mean of no rows, or of ignored rows only, is NaN, their sum 0.

    Example:
        >>> sparse_categorical_cross_entropy(np.array([[2.0, 0.0]]), np.array([0]), from_logits=True).item()
        0.12692801104297...
    """
    if overridden(input, target):
        return override(sparse_categorical_cross_entropy, locals())
    function = "sparse_categorical_cross_entropy"
    backend, input, target = select(function, 2, input=input, target=target)
    reduction = to_reduction(function, reduction)
    input = backend.for_loss(input)
    plan = plan_class_loss(
        function, input.shape, input.dtype, target.shape, target.dtype, None, None,
        None if ignore_class is None else to_int(function, "ignore_class", ignore_class), 0.0, reduction,
        dim=to_int(function, "dim", dim),
    )  # fmt: skip
    return _of_probabilities_or_logits(backend, plan, input, target, from_logits)


@straight
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
    if overridden(input, target, weight):
        return override(nll_loss, locals())
    backend, input, target, weight = select("nll_loss", 2, input=input, target=target, weight=weight)
    reduction = to_reduction("nll_loss", reduction, size_average, reduce)
    input = backend.for_loss(input)
    plan = plan_class_loss(
        "nll_loss", input.shape, input.dtype, target.shape, target.dtype, *_meta(weight),
        to_int("nll_loss", "ignore_index", ignore_index), 0.0, reduction,
    )  # fmt: skip
    loss = backend.nll(plan, input, target, weight)
    if occasion := due(backend):
        _look(occasion, backend, plan, input, target, dim_by_rule=True)
    return loss


@straight
def binary_cross_entropy_with_logits(
    input: Array,
    target: Array,
    weight: Array | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    pos_weight: Array | None = None,
    *,
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    sample_weight: Array | None = None,
    denominator: str | float | Array | None = None,
    inplace: bool = False,
) -> Array:
    """Binary cross-entropy of logits: every score is its own yes-or-no question.

        loss = s w (v t softplus(-x) + (1 - t) softplus(x)),   softplus(x) = log(1 + exp(x)),   v = pos_weight

    Args:
        input: floating point logits of any shape; raw scores, not sigmoid outputs.
        target: probabilities of "yes", shape of `input`, floating point.
        weight: weight w of each element; broadcasts to the shape of `input`.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "mean" divides the sum by what `denominator` says; "sum"; "none".
        pos_weight: weight v of the positive part; broadcasts to the shape of `input`.
        label_smoothing: e in [0, 1]: replaces t by (1 - e) t + e / 2.
        ignore_index: a target whose elements count for nothing, whatever their logits are; None for none.
        sample_weight: weight s of each sample: its shape is the first dimensions of `input`, usually (N,), and it
            holds for all elements that share them; differentiated in PyTorch.
        denominator: what a mean divides by. None or "count": the elements not ignored. "weights": their sum of
            s w (v t + 1 - t). "batch": all elements. "positives": max(1, sum t) of those not ignored. Or a number,
            or a 0-d array: itself.
        inplace: whether PyTorch's backward pass may write the gradient over `input`, as in `cross_entropy`.

    Returns:
        A scalar, or the shape of `input` for reduction="none"; dtype of `input` promoted with `target`.
        Value and gradient within 4 ulp of the exact ones, summed in float64.

    Raises:
        LogitsDtypeError, TargetDtypeError, ShapeError: arrays that do not fit together.
        ParameterError: an option out of its range, an unknown reduction or denominator, a denominator without
            reduction="mean".

    Edges:
        +-inf on the right side costs 0, on the wrong side inf. The mean of no elements is NaN; so is that of
        ignored elements only, unless `denominator` is another number than theirs. Their sum is 0.

    Example:
        >>> binary_cross_entropy_with_logits(np.array([40.0], np.float32), np.array([1.0], np.float32))
        np.float32(4.248354e-18)
        >>> x, t = np.array([[2.0, -1.0], [0.5, 3.0]]), np.array([[1.0, 0.0], [-1.0, 1.0]])
        >>> binary_cross_entropy_with_logits(x, t, ignore_index=-1, reduction="none")
        array([[0.12692801, 0.31326169],
               [0.        , 0.04858735]])
    """
    if overridden(input, target, weight, pos_weight, sample_weight, denominator):
        return override(binary_cross_entropy_with_logits, locals())
    function = "binary_cross_entropy_with_logits"
    backend, input, target, weight, pos_weight, sample_weight, given = select(
        function, 2, input=input, target=target, weight=weight, pos_weight=pos_weight, sample_weight=sample_weight,
        denominator=_array(denominator),
    )  # fmt: skip
    reduction = to_reduction(function, reduction, size_average, reduce)
    input = backend.for_loss(input)
    label_smoothing, inplace = _smoothing(function, label_smoothing), to_flag(function, "inplace", inplace)
    # PyTorch's, and nothing else
    if ignore_index is sample_weight is denominator is None and label_smoothing == 0.0 and not inplace:
        parameters: tuple[float, ...] = ()
        options: dict[str, Any] = {}
        divisor = None
    else:
        denominator = denominator if given is None else given
        divisor, options = _element_options(function, ignore_index, sample_weight, denominator, reduction)
        options["inplace"], parameters = inplace, (label_smoothing,)
    plan = plan_binary(
        function, input.shape, input.dtype, target.shape, target.dtype, *_meta(weight), *_meta(pos_weight), reduction,
        BinaryCrossEntropyWithLogits, parameters, **options,
    )  # fmt: skip
    loss = backend.pointwise(plan, input, target, weight, pos_weight, sample_weight, divisor)
    if occasion := due(backend):
        _look(
            occasion,
            backend,
            plan,
            input,
            target,
            pos_weight_shape=_meta(pos_weight)[0],
            weighted=weight is not None,
        )
    return loss


def binary_cross_entropy(
    input: Array,
    target: Array,
    weight: Array | None = None,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    *,
    clamp: Literal["torch"] | None = "torch",
    label_smoothing: float = 0.0,
    ignore_index: int | None = None,
    sample_weight: Array | None = None,
    denominator: str | float | Array | None = None,
) -> Array:
    """Binary cross-entropy of probabilities: every number is the predicted probability of its own "yes".

        loss = -s w (t log p + (1 - t) log(1 - p))

    Logits are the better input: float32 rounds sigmoid(17) to 1, and what it has cost is lost. So use
    `binary_cross_entropy_with_logits` where you have them.

    Args:
        input: floating point probabilities p of any shape, 0 to 1.
        target: probabilities t of "yes", shape of `input`, floating point, 0 to 1.
        weight: weight w of each element; broadcasts to the shape of `input`.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "mean" divides the sum by what `denominator` says; "sum"; "none".
        clamp: "torch" keeps logarithms above -100 and divides the gradient by no less than 1e-12, as PyTorch does, so
            that probabilities rounded to 0 or 1 stay finite; None gives the exact values, infinite ones too.
        label_smoothing: e in [0, 1]: replaces t by (1 - e) t + e / 2.
        ignore_index: a target whose elements count for nothing, whatever their probabilities are; None for none.
        sample_weight: weight s of each sample: its shape is the first dimensions of `input`, usually (N,), and it
            holds for all elements that share them; differentiated in PyTorch.
        denominator: what a mean divides by. None or "count": the elements not ignored. "weights": their sum of s w.
            "batch": all elements. "positives": max(1, sum t) of those not ignored. Or a number, or a 0-d array:
            itself.

    Returns:
        A scalar, or the shape of `input` for reduction="none"; dtype of `input` promoted with `target`.
        Value and gradient within 4 ulp of the exact ones, summed in float64.

    Raises:
        LogitsDtypeError, TargetDtypeError, ShapeError: arrays that do not fit together.
        ParameterError: `input` or `target` holds NaN or a number outside [0, 1] (in compiled code such an input
            gives NaN instead); an option out of its range, an unknown reduction, denominator or clamp, a denominator
            without reduction="mean".

    Edges:
        0 log 0 = 0. With clamp=None, p = 0 under t > 0 costs inf and has gradient -inf; p = t = 1 has gradient -1 and
        p = t = 0 gradient 1, the limits. The mean of no elements is NaN; so is that of ignored elements only, unless
        `denominator` is another number than theirs. Their sum is 0.

    Example:
        >>> binary_cross_entropy(np.array([0.9, 0.2]), np.array([1.0, 0.0]), reduction="none")
        array([0.10536052, 0.22314355])
        >>> binary_cross_entropy(np.array([0.0]), np.array([1.0])).item()
        100.0
        >>> binary_cross_entropy(np.array([0.0]), np.array([1.0]), clamp=None).item()
        inf
    """
    if overridden(input, target, weight, sample_weight, denominator):
        return override(binary_cross_entropy, locals())
    function = "binary_cross_entropy"
    backend, input, target, weight, sample_weight, given = select(
        function, 2, input=input, target=target, weight=weight, sample_weight=sample_weight,
        denominator=_array(denominator),
    )  # fmt: skip
    reduction = to_reduction(function, reduction, size_average, reduce)
    input = backend.for_loss(input)
    check_choice(function, "clamp", clamp, ("torch", None))
    denominator = denominator if given is None else given
    divisor, options = _element_options(function, ignore_index, sample_weight, denominator, reduction)
    plan = plan_binary(
        function, input.shape, input.dtype, target.shape, target.dtype, *_meta(weight), None, None, reduction,
        BinaryCrossEntropy, (clamp == "torch", _smoothing(function, label_smoothing)), **options,
    )  # fmt: skip
    loss = backend.pointwise(plan, input, target, weight, None, sample_weight, divisor)
    if occasion := due(backend):
        _look(occasion, backend, plan, input, target)
    return loss


@straight
def sigmoid_focal_loss(
    inputs: Array, targets: Array, alpha: float = 0.25, gamma: float = 2, reduction: str = "none"
) -> Array:
    """Focal loss of yes-or-no scores: binary cross-entropy that discounts what is already right.

        loss = alpha_t q^gamma ce,   alpha_t = alpha t + (1 - alpha) (1 - t),
        ce = t softplus(-x) + (1 - t) softplus(x),
        q = t sigma(-x) + (1 - t) sigma(x), the probability of being wrong

    torchvision's function, name for name. `focal_loss` is the form for softmax.

    Args:
        inputs: floating point logits of any shape; raw scores, not sigmoid outputs.
        targets: probabilities of "yes", usually 0 or 1, shape of `inputs`, floating point.
        alpha: the share of the positives, 0 to 1; -1 for none.
        gamma: >= 0; 0 is binary cross-entropy.
        reduction: "none" for one loss an element; "mean" divides by the number of elements; "sum".

    Returns:
        The shape of `inputs`, or a scalar; dtype of `inputs` promoted with `targets`. Value and gradient within 8 ulp
        of the exact ones for gamma up to 2, summed in float64.

    Raises:
        LogitsDtypeError, TargetDtypeError, ShapeError: arrays that do not fit together.
        ParameterError: alpha outside [0, 1] and not -1, gamma < 0, an unknown reduction.

    Edges:
        +-inf on the right side costs 0, on the wrong side inf. Where q = 0 the gradient is 0, also for gamma < 1.
        The mean of no elements is NaN.

    Example:
        >>> x = np.array([8.0, 0.0, -8.0], np.float32)
        >>> sigmoid_focal_loss(x, np.ones(3, np.float32))  # easy, undecided, wrong
        array([9.4299256e-12, 4.3321699e-02, 1.9987426e+00], dtype=float32)

    Source:
        Lin et al. 2017, arXiv:1708.02002, eq. (5).
    """
    if overridden(inputs, targets):
        return override(sigmoid_focal_loss, locals())
    function = "sigmoid_focal_loss"
    backend, inputs, targets = select(function, 2, inputs=inputs, targets=targets)
    if not 0.0 <= to_float(function, "alpha", alpha) <= 1.0 and alpha != -1.0:
        raise ParameterError(f"Invalid alpha value: {alpha}. alpha must be in [0,1] or -1 for ignore.")
    gamma = to_float(function, "gamma", gamma)
    check_not_negative(function, "gamma", gamma)
    if not isinstance(reduction, str) or reduction not in REDUCTIONS:
        raise ParameterError(
            f"Invalid Value for arg 'reduction': '{reduction} \n Supported reduction modes: 'none', 'mean', 'sum'"
        )
    inputs = backend.for_loss(inputs)
    plan = plan_binary(
        function, inputs.shape, inputs.dtype, targets.shape, targets.dtype, None, None, None, None,
        to_reduction(function, reduction), SigmoidFocal, (float(alpha), gamma),
    )  # fmt: skip
    loss = backend.pointwise(plan, inputs, targets)
    if occasion := due(backend):
        _look(occasion, backend, plan, inputs, targets)
    return loss


def kl_div(
    input: Array,
    target: Array,
    size_average: bool | None = None,
    reduce: bool | None = None,
    reduction: str = "mean",
    log_target: bool = False,
) -> Array:
    """Kullback-Leibler divergence, PyTorch's: how far log-probabilities `input` are from what they should be.

        loss = t (log t - x),   or with log_target   exp(t) (t - x)

    `input` holds the *logarithms* of the model's probabilities, as `log_softmax` gives them, and comes first; summed
    over a distribution this is KL(target | model). From two plain distributions: `lossless.info.kl_divergence`.

    Args:
        input: floating point log-probabilities x of any shape.
        target: floating point probabilities t; another shape broadcasts, with a warning.
        size_average: deprecated, see `reduction`.
        reduce: deprecated, see `reduction`.
        reduction: "batchmean" divides the sum by the first dimension of `input`, as the formula in books does; "mean"
            divides by the number of elements, and PyTorch's warning says so; "sum"; "none".
        log_target: whether `target` holds logarithms too.

    Returns:
        A scalar, or one term an element for reduction="none"; dtype of `input` promoted with `target`. Terms within
        8 ulp of the larger of t log t and t x, summed in float64.

    Raises:
        LogitsDtypeError, TargetDtypeError: arrays that are not real floating point.
        ShapeError: shapes that do not broadcast.
        ParameterError: an unknown reduction.

    Edges:
        t = 0 costs 0 at every x, -inf too; t > 0 at x = -inf costs inf. The gradient over the target is
        log t + 1 - x, which is -inf at t = 0. NaN stays NaN; so is a negative target, but for `log_target`.

    Example:
        >>> log_p, q = np.log([[0.5, 0.5]]), np.array([[0.9, 0.1]])
        >>> kl_div(log_p, q, reduction="batchmean").item()
        0.36806420716849...
        >>> kl_div(np.array([[0.0, -np.inf]]), np.array([[1.0, 0.0]]), reduction="batchmean").item()
        0.0
    """
    if overridden(input, target):
        return override(kl_div, locals())
    backend, input, target = select("kl_div", 2, input=input, target=target)
    legacy = size_average is not None or reduce is not None
    word = reduction if isinstance(reduction, str) else None
    per_batch = word == "batchmean"
    to = "sum" if per_batch and not legacy else to_reduction("kl_div", reduction, size_average, reduce)
    input = backend.for_loss(input)
    log_target = to_flag("kl_div", "log_target", log_target)
    per_batch = per_batch and to != "none"
    plan = plan_divergence(
        "kl_div", input.shape, input.dtype, target.shape, target.dtype, log_target, "mean" if per_batch else to
    )
    if word == "mean" and not legacy:
        tell("kl-mean", "kl_div", lambda: _said_of_mean(input))
    if target.shape != input.shape:
        tell("broadcast", "kl_div", lambda: _said_of_broadcast("kl_div", input, target))
    divisor = None
    if per_batch:  # under the legacy flags too, as in PyTorch
        divisor = float(input.shape[0] if input.shape else 1)
        divisor *= prod(broadcast_shape("kl_div", input.shape, target.shape)) if to == "mean" else 1
    loss = backend.pointwise(plan, input, target, None, None, None, divisor)
    if occasion := due(backend):
        _look(occasion, backend, plan, input, target, log_target=log_target)
    return loss


@straight
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
        and sums are taken in float64, so a mean of narrower numbers that fits their dtype never overflows on the way.

    Raises:
        LogitsDtypeError, TargetDtypeError, ShapeError: arrays that do not fit together.
        ParameterError: an unknown reduction.

    Edges:
        The mean of no elements is NaN.

    Example:
        >>> mse_loss(np.array([1.0, 2.0, 4.0]), np.array([1.0, 2.0, 2.0])).item()
        1.333333333333333...
    """
    if overridden(input, target, weight):
        return override(mse_loss, locals())
    backend, input, target, weight = select("mse_loss", 2, input=input, target=target, weight=weight)
    reduction = to_reduction("mse_loss", reduction, size_average, reduce)
    input = backend.for_loss(input)
    plan = plan_squared("mse_loss", input.shape, input.dtype, target.shape, target.dtype, reduction)
    if not plan.as_given and target.shape != input.shape:
        tell("broadcast", "mse_loss", lambda: _said_of_broadcast("mse_loss", input, target))
    if weight is not None and weight.shape != input.shape:
        raise ShapeError(
            f"Weights and input must have the same size.\nmse_loss: weight has shape {list(weight.shape)} and input "
            f"{list(input.shape)}."
        )
    loss = backend.pointwise(plan, input, target, weight)
    if occasion := due(backend):
        _look(occasion, backend, plan, input, target)
    return loss


@straight
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
    if overridden(input, target):
        return override(rmse_loss, locals())
    backend, input, target = select("rmse_loss", 2, input=input, target=target)
    reduction = to_reduction("rmse_loss", reduction)
    input = backend.for_loss(input)
    if target.shape != input.shape:
        raise ShapeError(
            f"rmse_loss: input has shape {list(input.shape)} and target {list(target.shape)}, expected the same"
        )
    plan = plan_squared("rmse_loss", input.shape, input.dtype, target.shape, target.dtype, reduction)
    ndim = len(input.shape)
    dims = tuple(range(ndim)) if dim is None else to_dims("rmse_loss", dim, ndim)
    loss = backend.root_mean_square(plan, input, target, dims)
    if occasion := due(backend):
        _look(occasion, backend, plan, input, target)
    return loss


def _curved(
    function: str,
    curve: tuple[str, float] | None,
    input: Array,
    target: Array,
    weight: Array | None,
    alpha: float | Array | None,
    ignore_index: int,
    reduction: str,
    dim: int | None,
    sample_weight: Array | None,
    denominator: str | float | Array | None,
    inplace: bool = False,
) -> Array:
    """A loss that bends the cost of the true class by one of `reference.links.CURVES`."""
    backend, input, target, weight, vector, sample_weight, _ = select(
        function, 2, input=input, target=target, weight=weight, alpha=None if isinstance(alpha, Real) else alpha,
        sample_weight=sample_weight, denominator=_array(denominator),
    )  # fmt: skip
    to = to_reduction(function, reduction)
    input = backend.for_loss(input)
    name, divisor = to_denominator(function, denominator, to, positives=True)
    if isinstance(alpha, Real):
        share = to_float(function, "alpha", alpha)
        check_scalar_alpha(function, share, class_number(input.shape, dim))
        vector = backend.class_vector(input, (1.0 - share, share))
    alpha_shape, alpha_dtype = _meta(vector)
    plan = plan_class_loss(
        function, input.shape, input.dtype, target.shape, target.dtype, *_meta(weight),
        to_int(function, "ignore_index", ignore_index), 0.0, to, **_row_options(function, dim, sample_weight, name),
        alpha_shape=alpha_shape, alpha_dtype=alpha_dtype, curve=curve, inplace=to_flag(function, "inplace", inplace),
    )  # fmt: skip
    loss = backend.class_loss(plan, input, target, weight, sample_weight, vector, divisor)
    if occasion := due(backend):
        _look(occasion, backend, plan, input, target, dim_by_rule=dim is None)
    return loss


def _row_options(function: str, dim: Any, sample_weight: Array | None, denominator: str | None) -> dict[str, Any]:
    """The options of `plan_class_loss` that go beyond PyTorch's."""
    shape, dtype = _meta(sample_weight)
    return {
        "dim": None if dim is None else to_int(function, "dim", dim),
        "sample_weight_shape": shape,
        "sample_weight_dtype": dtype,
        "denominator": denominator,
    }


def _of_probabilities_or_logits(
    backend: Backend, plan: RowPlan, input: Array, target: Array, from_logits: bool
) -> Array:
    from_logits = to_flag(plan.function, "from_logits", from_logits)
    if from_logits:
        loss = backend.class_loss(plan, input, target, None, None, None, None)
    else:
        hint = "For scores before softmax pass from_logits=True."
        low, high = backend.extremes(plan, "input", input, target)
        check_probabilities(plan.function, "input", low, high, hint, lambda: _counted(backend, plan, input, target))
        loss = backend.probability_loss(plan, input, target)
    if occasion := due(backend):
        _look(occasion, backend, plan, input, target, from_logits=from_logits)
    return loss


def _counted(backend: Backend, plan: RowPlan, input: Array, target: Array) -> NDArray[Any]:
    """Its numbers, NaN where a row is ignored."""
    numbers = backend.numbers(input).copy()
    if plan.ignore_index is not None:
        np.moveaxis(numbers, plan.dim, -1)[backend.numbers(target).reshape(plan.shape) == plan.ignore_index] = np.nan
    return numbers


def _element_options(
    function: str, ignore_index: int | None, sample_weight: Array | None, denominator: Any, reduction: Reduction
) -> tuple[Any, dict[str, Any]]:
    """(the caller's own divisor, the options of `plan_binary` that go beyond PyTorch's)."""
    name, divisor = to_denominator(function, denominator, reduction, positives=True)
    shape, dtype = _meta(sample_weight)
    return divisor, {
        "sample_weight_shape": shape,
        "sample_weight_dtype": dtype,
        "ignore_index": None if ignore_index is None else to_int(function, "ignore_index", ignore_index),
        "denominator": name,
    }


def _smoothing(function: str, label_smoothing: float) -> float:
    """A share, 0 to 1."""
    label_smoothing = to_float(function, "label_smoothing", label_smoothing)
    check_label_smoothing(label_smoothing, strictly=True)
    return label_smoothing


def _array(denominator: Any) -> Any:
    """A denominator that is an array, which must be of the framework of the others."""
    return None if denominator is None or isinstance(denominator, str | Real) else denominator


def _said_of_mean(input: Array) -> tuple[str, str]:
    """PyTorch's warning, and what comes of it."""
    return (
        "reduction: 'mean' divides the total loss by both the batch size and the support size."
        "'batchmean' divides only by the batch size, and aligns with the KL div math definition."
        "'mean' will be changed to behave the same as 'batchmean' in the next major release.",
        f"reduction is 'mean', which divides by the {prod(input.shape)} numbers of input, expected 'batchmean'",
    )


def _said_of_broadcast(function: str, input: Array, target: Array) -> tuple[str, str]:
    """The same."""
    pairs = prod(broadcast_shape(function, input.shape, target.shape))
    return (
        f"Using a target size ({target.shape}) that is different to the input size ({input.shape}). "
        "This will likely lead to incorrect results due to broadcasting. "
        "Please ensure they have the same size.",
        f"input has shape {list(input.shape)} and target {list(target.shape)}: {prod(input.shape)} and "
        f"{prod(target.shape)} numbers make {pairs} pairs",
    )


def _look(
    occasion: Occasion,
    backend: Backend,
    plan: RowPlan | ElementPlan,
    input: Array,
    target: Array,
    **options: Any,
) -> None:
    """Whether the call looks like a mistake."""
    if plan.ignore_index is not None:
        options["ignore_index"] = plan.ignore_index
    options |= {"reduction": plan.reduction, "denominator": plan.denominator}
    look(occasion, backend, plan.function, getattr(plan, "dim", None), input, target, **options)


def _meta(array: Array | None) -> tuple[Any, Any]:
    """Shape and dtype of an optional array."""
    return (None, None) if array is None else (array.shape, array.dtype)
