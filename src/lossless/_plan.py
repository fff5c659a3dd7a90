"""Check, then plan: everything about a call that shapes, dtypes and options decide, before its numbers are looked at.

Plans are pure and cached, so a training loop pays for its checks once.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple, ParamSpec, TypeVar

import numpy as np

from lossless import _check, reference
from lossless._check import Shape
from lossless._layout import Rows, class_dim, to_dim, to_rows, without_dim
from lossless._reduce import Reduction

P = ParamSpec("P")
T = TypeVar("T")


def cached(plan: Callable[P, T]) -> Callable[P, T]:
    """Keep the plans of recent calls, except while torch.compile reads the code: it keeps its own, and warns."""
    remembered = lru_cache(maxsize=1024)(plan)

    def planned(*args: P.args, **kwargs: P.kwargs) -> T:
        if not _check.is_compiling():
            try:
                return remembered(*args, **kwargs)  # type: ignore[arg-type]  # shapes, dtypes and options can be hashed
            except TypeError as error:  # but not a size that stands for any number, as tracers have it
                if "unhashable" not in str(error):
                    raise
        return plan(*args, **kwargs)

    return planned


def argument_names(function: str) -> tuple[str, str]:
    """What a loss calls its two arrays."""
    return ("inputs", "targets") if function == "sigmoid_focal_loss" else ("input", "target")


class RowPlan(NamedTuple):
    """A call over rows of logits, without its arrays."""

    function: str
    dim: int
    "Where the classes lie, from the front."
    rows: Rows
    shape: tuple[int, ...]
    "Of one number a row."
    soft: bool = False
    "Whether the target holds probabilities."
    ignore_index: int | None = None
    "Of labels."
    smoothing: float = 0.0
    reduction: Reduction = "none"
    denominator: str | None = None
    "What a mean divides by: a name, or None for PyTorch's rule."
    z_loss: float = 0.0
    temperature: float = 1.0
    curve: tuple[str, float] | None = None
    "What becomes of the cost of the true class: a name in `reference.links.CURVES`, and its parameter."
    inplace: bool = False
    "Whether the gradient may be written over `input`."
    as_given: bool = False
    "Whether one kernel computes the loss from `input`, `target` and `weight` as they come, and nothing else."
    kernel_link: Any = None
    "Of `linked` plans what a kernel makes of the statistics: factors of nll and of the prior, the focal gamma, and z."

    @property
    def is_moderate(self) -> bool:
        """Whether the kernels divide by the temperature: a float holds two parts of the inverse of no extreme one."""
        return 2.0**-20 <= self.temperature <= 2.0**20

    def linked(self) -> "RowPlan":
        """With `kernel_link`, which every call of a kernel asks for."""
        e = self.smoothing
        link = 1.0 - e, e / self.rows.classes if e else 0.0, self.curve[1] if self.curve else 0.0, self.z_loss
        return self._replace(kernel_link=link)

    def index_error(self, target: Any) -> Exception:
        """For labels of which one is no class."""
        labels = np.asarray(target).reshape(self.shape)
        return _check.target_index_error(self.function, labels, self.rows.classes, self.ignore_index)

    @property
    def has_kernel(self) -> bool:
        """Whether one kernel computes the loss: of all links but a curve over every class of a soft target."""
        return self.is_moderate and self.denominator in (None, "given") and not (self.soft and self.curve)


class ElementPlan(NamedTuple):
    """A call over single numbers and their targets, without its arrays."""

    function: str
    loss: reference.Pointwise
    reduction: Reduction
    ignore_index: int | None = None
    "A target whose elements count for nothing."
    denominator: str | None = None
    "What a mean divides by: a name, or None for PyTorch's rule."
    inplace: bool = False
    "Whether the gradient may be written over `input`."
    as_given: bool = False
    "Whether one kernel computes the loss from `input` and `target` as they come, and nothing else."

    @property
    def names(self) -> tuple[str, str]:
        """Of the two arrays."""
        return argument_names(self.function)

    def has_kernel(self, dtype: Any, weighted: bool) -> bool:
        """Whether one kernel computes all of it, of numbers of this dtype, and with weights if there are any."""
        if self.loss.kernel is None or self.ignore_index is not None or self.denominator is not None:
            return False
        return self.loss.kernel_takes(_check.dtype_name(dtype), weighted)

    def of_pair(self, shape: Shape, dtype: Any, target_shape: Shape, target_dtype: Any) -> "ElementPlan":
        """The plan for two arrays and nothing else."""
        alike = target_shape == shape and target_dtype == dtype
        return self._replace(as_given=alike and self.has_kernel(dtype, weighted=False))


@cached
def classes_last(plan: RowPlan) -> RowPlan:
    """The same call over an array whose classes were moved to the end."""
    return plan._replace(dim=len(plan.shape), rows=Rows(plan.rows.number, plan.rows.classes, 1))


@cached
def plan_transform(
    function: str, shape: Shape, dtype: Any, dim: int, name: str = "input", temperature: float = 1.0
) -> RowPlan:
    """Softmax and its kin: an array and its class dimension."""
    _check.check_floating(function, _check.dtype_name(dtype), name)
    dim = to_dim(dim, len(shape))
    return RowPlan(function, dim, to_rows(shape, dim), without_dim(shape, dim), temperature=temperature)


@cached
def plan_class_loss(
    function: str,
    shape: Shape,
    dtype: Any,
    target_shape: Shape,
    target_dtype: Any,
    weight_shape: Shape | None,
    weight_dtype: Any,
    ignore_index: int | None,
    smoothing: float = 0.0,
    reduction: Reduction = "mean",
    *,
    dim: int | None = None,
    sample_weight_shape: Shape | None = None,
    sample_weight_dtype: Any = None,
    alpha_shape: Shape | None = None,
    alpha_dtype: Any = None,
    denominator: str | None = None,
    z_loss: float = 0.0,
    temperature: float = 1.0,
    curve: tuple[str, float] | None = None,
    inplace: bool = False,
) -> RowPlan:
    """Losses over classes: along `dim`, or by PyTorch's rule in dimension 1, or 0 of a single row."""
    _check.check_floating(function, _check.dtype_name(dtype), target_dtype=_check.dtype_name(target_dtype))
    dim = class_dim(shape) if dim is None else to_dim(dim, len(shape))
    _check.check_has_classes(function, shape, dim)
    names = _check.dtype_name(target_dtype)
    soft = function not in _check.OF_LABELS and _check.check_class_target(function, shape, dim, target_shape, names)
    if not soft:
        _check.check_labels(function, shape, dim, target_shape, names)
    if ignore_index is not None:
        _check.check_ignore_index(function, ignore_index, soft)
    _check.check_label_smoothing(smoothing)
    if weight_shape is not None:
        _check.check_class_vector(function, weight_shape, _check.dtype_name(weight_dtype), shape[dim], whole=soft)
    if alpha_shape is not None:
        _check.check_class_vector(function, alpha_shape, _check.dtype_name(alpha_dtype), shape[dim], "alpha")
    if sample_weight_shape is not None:
        _check.check_sample_weight(
            function, sample_weight_shape, _check.dtype_name(sample_weight_dtype), without_dim(shape, dim)
        )
    plan = RowPlan(
        function,
        dim,
        to_rows(shape, dim),
        without_dim(shape, dim),
        soft,
        None if soft else ignore_index,
        smoothing if smoothing > 0.0 else 0.0,
        reduction,
        denominator,
        z_loss,
        temperature,
        curve,
        inplace,
    )
    fits = target_dtype == dtype if soft else names == "int64" and target_shape == plan.shape
    if weight_shape is not None:
        fits = fits and weight_dtype == dtype and _check.dtype_name(dtype) in ("float32", "float64")
    nothing_else = sample_weight_shape is None and alpha_shape is None and not inplace
    return plan._replace(as_given=plan.has_kernel and fits and nothing_else).linked()


@cached
def plan_statistics(
    function: str,
    shape: Shape,
    dtype: Any,
    target_shape: Shape | None,
    target_dtype: Any,
    prior_shape: Shape | None,
    prior_dtype: Any,
    dim: int,
    ignore_index: int | None,
    temperature: float,
) -> RowPlan:
    """Row statistics: classes in any dimension, and a target or none."""
    _check.check_floating(function, _check.dtype_name(dtype))
    dim = to_dim(dim, len(shape))
    _check.check_has_classes(function, shape, dim)
    soft = False
    if target_shape is not None:
        soft = _check.check_class_target(function, shape, dim, target_shape, _check.dtype_name(target_dtype))
        if ignore_index is not None:
            _check.check_ignore_index(function, ignore_index, soft)
    if prior_shape is not None:
        _check.check_class_vector(function, prior_shape, _check.dtype_name(prior_dtype), shape[dim], "prior")
    ignored = None if ignore_index is None or soft or target_shape is None else int(ignore_index)
    rows, one_a_row = to_rows(shape, dim), without_dim(shape, dim)
    return RowPlan(function, dim, rows, one_a_row, soft, ignored, temperature=temperature)


@cached
def plan_pair(function: str, shape: Shape, dtype: Any, q_shape: Shape, q_dtype: Any, dim: int) -> RowPlan:
    """Two distributions over the same outcomes."""
    _check.check_floating(function, _check.dtype_name(dtype), "p")
    _check.check_floating(function, _check.dtype_name(q_dtype), "q")
    _check.check_shapes_equal(function, "p", shape, "q", q_shape)
    dim = to_dim(dim, len(shape))
    _check.check_has_classes(function, shape, dim, "p")
    return RowPlan(function, dim, to_rows(shape, dim), without_dim(shape, dim))


@cached
def plan_binary(
    function: str,
    shape: Shape,
    dtype: Any,
    target_shape: Shape,
    target_dtype: Any,
    weight_shape: Shape | None,
    weight_dtype: Any,
    pos_weight_shape: Shape | None,
    pos_weight_dtype: Any,
    reduction: Reduction,
    loss: type[reference.Pointwise],
    parameters: tuple[float, ...] = (),
    *,
    sample_weight_shape: Shape | None = None,
    sample_weight_dtype: Any = None,
    ignore_index: int | None = None,
    denominator: str | None = None,
    inplace: bool = False,
) -> ElementPlan:
    """Elementwise classification: every score, or probability, with its own target; `loss` and its parameters."""
    plan = ElementPlan(function, loss(*parameters), reduction, ignore_index, denominator, inplace)
    name = _check.dtype_name(dtype)
    _check.check_floating(function, name, plan.names[0], target_dtype=_check.dtype_name(target_dtype))
    _check.check_same_shape(function, target_shape, shape)
    _check.check_elementwise_target(function, _check.dtype_name(target_dtype), name, plan.names[1])
    if weight_shape is not None:
        _check.check_broadcasts(function, "weight", weight_shape, shape, _check.dtype_name(weight_dtype))
    if pos_weight_shape is not None:
        _check.check_broadcasts(function, "pos_weight", pos_weight_shape, shape, _check.dtype_name(pos_weight_dtype))
    if sample_weight_shape is not None:
        _check.check_leading_weight(function, sample_weight_shape, _check.dtype_name(sample_weight_dtype), shape)
    if weight_shape is None and pos_weight_shape is None and sample_weight_shape is None and not inplace:
        return plan.of_pair(shape, dtype, target_shape, target_dtype)
    return plan


@cached
def plan_squared(
    function: str, shape: Shape, dtype: Any, target_shape: Shape, target_dtype: Any, reduction: Reduction
) -> ElementPlan:
    """Squared error: numbers that broadcast, at least one side of them floating."""
    if not (_check.is_whole(dtype) and _check.dtype_name(target_dtype) in _check.FLOATS):
        _check.check_floating(function, _check.dtype_name(dtype))
    _check.check_real(function, _check.dtype_name(target_dtype), "target")
    _check.broadcast_shape(function, shape, target_shape)
    plan = ElementPlan(function, reference.SquaredError(), reduction)
    return plan.of_pair(shape, dtype, target_shape, target_dtype)


@cached
def plan_divergence(
    function: str,
    shape: Shape,
    dtype: Any,
    target_shape: Shape,
    target_dtype: Any,
    log_target: bool,
    reduction: Reduction,
) -> ElementPlan:
    """Log-probabilities and what they should be, which broadcast."""
    _check.check_divergence_dtype(function, _check.dtype_name(dtype), _check.dtype_name(target_dtype))
    _check.broadcast_shape(function, shape, target_shape)
    return ElementPlan(function, reference.KLDivergence(log_target), reduction)
