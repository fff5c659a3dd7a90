"""What can be wrong with a call, found from shapes, dtype names and numbers alone; no framework is imported.

A `check_*` function returns None or raises. The first line of a message is PyTorch's where PyTorch has one.
"""

from math import inf
from numbers import Real
from operator import index
from typing import Any

import numpy as np

from lossless._layout import without_dim
from lossless.errors import (
    LogitsDtypeError,
    ParameterError,
    ShapeError,
    TargetDtypeError,
    TargetIndexError,
    UnsupportedArrayError,
)

Shape = tuple[int, ...]

FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
INTEGERS = frozenset({"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"})

TORCH_NAMES = {
    **{"float16": "Half", "bfloat16": "BFloat16", "float32": "Float", "float64": "Double", "bool": "Bool"},
    **{"int8": "Char", "int16": "Short", "int32": "Int", "int64": "Long"},
    **{"uint8": "Byte", "uint16": "UInt16", "uint32": "UInt32", "uint64": "UInt64"},
    **{"complex64": "ComplexFloat", "complex128": "ComplexDouble"},
}
"""The names that PyTorch's messages use for dtypes."""


def dtype_name(dtype: Any) -> str:
    """NumPy's name of a dtype, whatever the framework."""
    return str(dtype).removeprefix("torch.")


def check_floating(function: str, dtype: str, name: str = "input") -> None:
    """The array that is differentiated must be of real floating point numbers."""
    if dtype not in FLOATS:
        fix = "take its real part" if dtype.startswith("complex") else f"convert it, e.g. to float32 ({name} * 1.0)"
        raise LogitsDtypeError(
            f"\"{function}\" not implemented for '{_torch_name(dtype)}'\n"
            f"{function}: {name} has dtype {dtype}, expected float16, bfloat16, float32 or float64: {fix}."
        )


def check_real(function: str, dtype: str, name: str) -> None:
    """Real numbers, whole or not."""
    if dtype not in FLOATS and dtype not in INTEGERS:
        raise TargetDtypeError(f"{function}: {name} has dtype {dtype}, expected real numbers")


def check_soft_target(function: str, dtype: str) -> None:
    """A target with the shape of the input holds probabilities."""
    if dtype not in FLOATS:
        raise TargetDtypeError(
            f"Expected floating point type for target with class probabilities, got {_torch_name(dtype)}\n"
            f"{function}: target has the shape of input, so it is read as probabilities, but its dtype is {dtype}. "
            "If it is one-hot, convert it to the dtype of input, or pass the class numbers (argmax over the classes)."
        )


def check_labels(function: str, shape: Shape, dim: int, target_shape: Shape, target_dtype: str) -> None:
    """Labels are integers, one for every row."""
    if target_shape != without_dim(shape, dim) and not (len(shape) == 1 and target_shape == (1,)):
        raise _labels_shape_error(function, shape, dim, target_shape)
    if target_dtype not in INTEGERS:
        fix = "convert it to int64" if target_dtype in FLOATS else "labels are integers"
        raise TargetDtypeError(
            f"expected target dtype to be Long or Byte, but got {_torch_name(target_dtype)}\n"
            f"{function}: target has dtype {target_dtype} and one number a row, so it is read as labels: {fix}. "
            f"Probabilities have the shape of input, {_list(shape)}."
        )


def check_class_target(function: str, shape: Shape, dim: int, target_shape: Shape, target_dtype: str) -> bool:
    """Whether the target holds probabilities, by PyTorch's rule: it does if it has the shape of the input."""
    if target_shape == shape:
        check_soft_target(function, target_dtype)
        return True
    check_labels(function, shape, dim, target_shape, target_dtype)
    return False


def _labels_shape_error(function: str, shape: Shape, dim: int, target_shape: Shape) -> ShapeError:
    """PyTorch's message for labels that do not match the rows, then what would match."""
    expected = without_dim(shape, dim)
    got = target_shape
    if len(shape) == 1:
        first = (
            f"For 1D input, 1D target must have size 1, but got target size: {got[0]}"
            if len(got) == 1
            else "0D or 1D target tensor expected, multi-target not supported"
        )
    elif len(shape) == 2 and len(got) > 1:
        first = "0D or 1D target tensor expected, multi-target not supported"
    elif (got[0] if got else 0) != shape[0]:
        first = f"Expected input batch_size ({shape[0]}) to match target batch_size ({got[0] if got else 0})."
    elif len(shape) == 4 and len(got) != 3:
        first = f"only batches of spatial targets supported (3D tensors) but got targets of dimension: {len(got)}"
    elif len(shape) == 4:
        first = f"size mismatch (got input: {_list(shape)} , target: {_list(got)}"
    else:
        first = f"Expected target size {_list(expected)}, got {_list(got)}"
    fix = ""
    if tuple(s for s in got if s != 1) == tuple(s for s in expected if s != 1):
        fix = f"\nRemove the dimensions of size 1: target.reshape({expected})."
    elif dim != len(shape) - 1 and got == shape[:-1]:
        fix = "\nThe classes seem to be the last dimension of input: move them, e.g. input.swapaxes(1, -1)."
    return ShapeError(
        f"{first}\n{function}: input has shape {_list(shape)} with its classes in dimension {dim}, so target must have "
        f"shape {_list(expected)} (labels) or {_list(shape)} (probabilities), but it has shape {_list(got)}.{fix}"
    )


def check_has_classes(function: str, shape: Shape, dim: int, name: str = "input") -> None:
    """A loss over classes needs a class dimension, and a class in it."""
    if not shape:
        raise ShapeError(
            f"Expected 1 or more dimensions (got 0)\n{function}: {name} is a single number; "
            "it must have a class dimension, e.g. shape [C] or [N, C]."
        )
    if not shape[dim]:
        raise ShapeError(f"{function}: {name} has shape {_list(shape)}: no classes in dimension {dim}")


def check_class_vector(
    function: str, shape: Shape, dtype: str, classes: int, name: str = "weight", dtypes: frozenset[str] = FLOATS
) -> None:
    """A vector with one number for every class, of one of `dtypes`."""
    if shape != (classes,):
        raise ShapeError(
            f"{name} tensor should be defined either for all {classes} classes or no classes but got {name} tensor of "
            f"shape: {_list(shape)}\n{function}: {name} must have shape [{classes}]."
        )
    if dtype not in dtypes:
        raise TargetDtypeError(
            f"expected scalar type {' or '.join(sorted(map(_torch_name, dtypes)))} but found {_torch_name(dtype)}\n"
            f"{function}: {name} has dtype {dtype}: convert it to {' or '.join(sorted(dtypes))}."
        )


def check_ignore_index(function: str, ignore_index: int, soft: bool) -> None:
    """A label; labels are ignored, probabilities are not."""
    if soft and ignore_index >= 0:
        raise ParameterError(
            "ignore_index is not supported for floating point target\n"
            f"{function}: target has the shape of input, so it is read as probabilities, and ignore_index is "
            f"{ignore_index}: leave it out, or pass labels."
        )


def check_fits_float32(weight: Any) -> None:
    """float64 class weights of float32 logits: none may vanish or overflow when rounded."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = weight.astype(np.float32)
    lost = ((rounded == 0) != (weight == 0)) | (np.isinf(rounded) != np.isinf(weight))
    if lost.any():
        raise ParameterError(
            f"weight holds {weight[lost][0]}, which float32 cannot: scale the weights, or pass float64 logits"
        )


def to_int(function: str, name: str, value: Any) -> int:
    """An option as an int, by PyTorch's rule: whatever has an index, and fits 64 bits."""
    try:
        value = index(value)
    except TypeError:
        raise UnsupportedArrayError(
            f"{function}(): argument '{name}' must be int, not {type(value).__name__}"
        ) from None
    if not -(2**63) <= value < 2**63:
        raise ParameterError(f"{function}(): argument '{name}' got {value}, which is no 64-bit integer")
    return value  # type: ignore[no-any-return]


def to_float(function: str, name: str, value: Any) -> float:
    """An option as a float; not an array, through which no gradient would flow."""
    if isinstance(value, Real):
        return float(value)
    raise UnsupportedArrayError(f"{function}(): argument '{name}' must be float, not {type(value).__name__}")


def check_label_smoothing(label_smoothing: float) -> None:
    """A share, 0 to 1; PyTorch ignores negative ones, so they pass here and change nothing."""
    if not label_smoothing <= 1.0:
        raise ParameterError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")


def check_temperature(function: str, temperature: float) -> None:
    """A positive number; not an array, through which no gradient would flow."""
    if not isinstance(temperature, Real) or not 0 < temperature < inf:
        raise ParameterError(f"{function}: temperature got {temperature!r}, expected a positive number")


def check_same_shape(target_shape: Shape, shape: Shape) -> None:
    """Elementwise classification pairs every logit with its own target."""
    if target_shape != shape:
        raise ShapeError(f"Target size ({target_shape}) must be the same as input size ({shape})")


def check_elementwise_target(function: str, dtype: str, input_dtype: str) -> None:
    """Targets of elementwise classification are probabilities."""
    if dtype not in FLOATS:
        raise TargetDtypeError(
            f"result type {_torch_name(input_dtype)} can't be cast to the desired output type {_torch_name(dtype)}\n"
            f"{function}: target has dtype {dtype}, expected probabilities in floating point: convert it to "
            f"{input_dtype}."
        )


def check_broadcasts(function: str, name: str, shape: Shape, to: Shape, dtype: str) -> None:
    """`shape` can be broadcast to `to`, and not the other way round."""
    pairs = list(zip(reversed(shape), reversed(to), strict=False))
    for i, (size, expected) in enumerate(pairs, start=1):
        if size not in (1, expected):
            raise ShapeError(
                f"The size of tensor a ({expected}) must match the size of tensor b ({size}) at non-singleton "
                f"dimension {len(to) - i}\n{function}: {name} has shape {_list(shape)}, which does not broadcast to "
                f"the shape of input, {_list(to)}."
            )
    if len(shape) > len(to):
        raise ShapeError(
            f"output with shape {_list(to)} doesn't match the broadcast shape {_list(shape)}\n"
            f"{function}: {name} has more dimensions than input."
        )
    check_real(function, dtype, name)


def broadcast_shape(function: str, a: Shape, b: Shape) -> tuple[int, ...]:
    """The shape of `a - b`."""
    try:
        return np.broadcast_shapes(a, b)
    except ValueError:
        n = min(len(a), len(b))
        i = next(i for i in range(1, n + 1) if a[-i] != b[-i] and 1 not in (a[-i], b[-i]))
        raise ShapeError(
            f"The size of tensor a ({a[-i]}) must match the size of tensor b ({b[-i]}) at non-singleton dimension "
            f"{max(len(a), len(b)) - i}\n{function}: input has shape {_list(a)} and target {_list(b)}."
        ) from None


def target_index_error(
    function: str, labels: np.ndarray[Any, Any], classes: int, ignore_index: int | None
) -> Exception:
    """The error for labels of which at least one is no class: which, where, how many, and the likely reason."""
    labels = np.asarray(labels)
    counted = labels if ignore_index is None else labels[labels != ignore_index]
    bad = (labels < 0) | (labels >= classes)
    if ignore_index is not None:
        bad &= labels != ignore_index
    where = np.argwhere(bad)
    if not len(where):  # labels changed under our feet: another thread wrote to them during the call
        return TargetIndexError(f"{function}: a label was out of range during the call and is not any more")
    first = tuple(map(int, where[0]))
    value = labels[first]
    place = f"target[{', '.join(map(str, first))}]" if first else "target"
    message = (
        f"Target {value} is out of bounds.\n{function}: {place} is {value}, but input has {classes} classes "
        f"(labels 0 to {classes - 1}); {len(where)} of {labels.size} labels are out of range."
    )
    if counted.min() >= 1 and counted.max() == classes:
        message += f"\nThe labels look 1-based (1 to {classes}): subtract 1."
    elif len(set(labels[bad].tolist())) == 1 and value in (-1, 255):
        message += f"\nIf {value} marks rows to leave out, pass ignore_index={value}."
    return TargetIndexError(message)


def _torch_name(dtype: str) -> str:
    return TORCH_NAMES.get(dtype, dtype)


def _list(shape: Shape) -> str:
    """A shape as PyTorch's messages print it."""
    return str(list(shape))
