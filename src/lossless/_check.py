"""What can be wrong with a call, found from shapes, dtype names and numbers alone; no framework is imported.

A `check_*` function returns None or raises. The first line of a message is PyTorch's where PyTorch has one.
"""

import os
import sys
import warnings
from collections.abc import Callable
from math import inf
from numbers import Integral, Real
from operator import index
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

from lossless._layout import without_dim
from lossless.errors import (
    LogitsDtypeError,
    LosslessWarning,
    ParameterError,
    ShapeError,
    TargetDtypeError,
    TargetIndexError,
    UnsupportedArrayError,
)

Shape = tuple[int, ...]

FLOATS = frozenset({"float16", "bfloat16", "float32", "float64"})
INTEGERS = frozenset({"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"})

OF_LABELS = ("nll_loss", "sparse_categorical_cross_entropy")
"""The losses that take no probabilities for a target."""

TORCH_NAMES = {
    **{"float16": "Half", "bfloat16": "BFloat16", "float32": "Float", "float64": "Double", "bool": "Bool"},
    **{"int8": "Char", "int16": "Short", "int32": "Int", "int64": "Long"},
    **{"uint8": "Byte", "uint16": "UInt16", "uint32": "UInt32", "uint64": "UInt64"},
    **{"complex64": "ComplexFloat", "complex128": "ComplexDouble"},
}
"""The names that PyTorch's messages use for dtypes."""


_PACKAGE = str(Path(__file__).parent) + os.sep
_TOOLS = tuple(_PACKAGE + room for room in ("_evaluate", "_report", "_accuracy", "_bench", "cli"))
_roles: dict[str, str] = {}


def role(filename: str) -> str:
    """Whose code a file holds: "user"; "between" who calls and us, as PyTorch's modules are; or one of our "tools"."""
    known = _roles.get(filename)
    if known is None:
        between = filename.startswith(_PACKAGE) or os.path.join("torch", "nn", "modules", "") in filename
        known = "tools" if filename.startswith(_TOOLS) else "between" if between else "user"
        if len(_roles) > 4096:
            _roles.clear()
        _roles[filename] = known
    return known


def caller() -> FrameType:
    """Where somebody called the library."""
    frame = sys._getframe(1)
    while frame.f_back is not None and role(frame.f_code.co_filename) != "user":
        frame = frame.f_back
    return frame


def is_compiling() -> bool:
    """Whether torch.compile reads the code, which can trace no warning."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.compiler.is_compiling()


_warnings_given = 0


def warnings_given() -> int:
    """How many, in this process."""
    return _warnings_given


def warn(message: str, category: type[LosslessWarning] = LosslessWarning) -> None:
    """A warning at the line that called the library; none in code that torch.compile reads."""
    global _warnings_given
    if is_compiling():
        return
    _warnings_given += 1
    frame = caller()
    warnings.warn_explicit(
        message, category, frame.f_code.co_filename, frame.f_lineno, frame.f_globals.get("__name__", "<unknown>"),
        frame.f_globals.setdefault("__warningregistry__", {}),
    )  # fmt: skip


def dtype_name(dtype: Any) -> str:
    """NumPy's name of a dtype, whatever the framework."""
    return str(dtype).removeprefix("torch.")


def is_whole(dtype: Any) -> bool:
    """Whether the dtype is of whole numbers or flags."""
    name = dtype_name(dtype)
    return name in INTEGERS or name == "bool"


def check_floating(function: str, dtype: str, name: str = "input", *, target_dtype: str = "") -> None:
    """The array that is differentiated must be of real floating point numbers."""
    if is_whole(dtype) and target_dtype in FLOATS:
        raise LogitsDtypeError(
            f"\"{function}\" not implemented for '{_torch_name(dtype)}'\n{function}: {name} has dtype {dtype} and the "
            f"second argument {target_dtype}: they seem to be swapped: the model's output is the first argument. "
            f"If they are not, convert {name} to float32."
        ).about("swapped-arguments")
    if dtype not in FLOATS:
        fix = "take its real part" if dtype.startswith("complex") else f"convert it, e.g. to float32 ({name} * 1.0)"
        raise LogitsDtypeError(
            f"\"{function}\" not implemented for '{_torch_name(dtype)}'\n"
            f"{function}: {name} has dtype {dtype}, expected float16, bfloat16, float32 or float64: {fix}."
        )


def check_real(function: str, dtype: str, name: str) -> None:
    """Real numbers, whole or not, or flags."""
    if dtype not in FLOATS and not is_whole(dtype):
        raise TargetDtypeError(f"{function}: {name} has dtype {dtype}, expected real numbers")


def check_soft_target(function: str, dtype: str) -> None:
    """A target with the shape of the input holds probabilities."""
    if dtype not in FLOATS:
        raise TargetDtypeError(
            f"Expected floating point type for target with class probabilities, got {_torch_name(dtype)}\n"
            f"{function}: target has the shape of input, so it is read as probabilities, but its dtype is {dtype}. "
            "If it is one-hot, convert it to the dtype of input, or pass the class numbers (argmax over the classes)."
        ).about("one-hot-integers")


def check_one_hot(function: str, shape: Shape, target_shape: Shape) -> None:
    """Targets of the categorical form have the shape of the input."""
    if target_shape != shape:
        raise ShapeError(
            f"{function}: target has shape {_list(target_shape)}, expected that of input, {_list(shape)}: one number a "
            "class\nFor labels use sparse_categorical_cross_entropy."
        )


def check_flags(function: str, dtype: str) -> None:
    """One-hot targets may be whole numbers or flags."""
    if not is_whole(dtype):
        raise TargetDtypeError(f"{function}: target has dtype {dtype}, expected one-hot rows or probabilities")


def check_labels(function: str, shape: Shape, dim: int, target_shape: Shape, target_dtype: str) -> None:
    """Labels are integers, one for every row."""
    if target_shape != without_dim(shape, dim) and not (len(shape) == 1 and target_shape == (1,)):
        raise _labels_shape_error(function, shape, dim, target_shape)
    if target_dtype not in INTEGERS:
        fix = "labels are integers"
        if target_dtype in FLOATS:
            fix = "convert it to int64, target.long() in PyTorch, target.astype(int) in NumPy"
        raise TargetDtypeError(
            f"expected target dtype to be Long or Byte, but got {_torch_name(target_dtype)}\n"
            f"{function}: target has dtype {target_dtype} and one number a row, so it is read as labels: {fix}. "
            f"Probabilities have the shape of input, {_list(shape)}."
        ).about("float-labels" if target_dtype in FLOATS else "refused")


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
        how = "move them, e.g. input.swapaxes(1, -1)" if function == "nll_loss" else "pass dim=-1"
        fix = f"\nThe classes seem to be the last dimension of input: {how}."
    soft = "" if function in OF_LABELS else f" or {_list(shape)} (probabilities)"
    if function == "sparse_categorical_cross_entropy" and got == shape:
        fix = "\nOne-hot rows and probabilities are for categorical_cross_entropy."
    return ShapeError(
        f"{first}\n{function}: input has shape {_list(shape)} with its classes in dimension {dim}, so target must have "
        f"shape {_list(expected)} (labels){soft}, but it has shape {_list(got)}.{fix}"
    ).about("shape-mismatch")


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
    function: str, shape: Shape, dtype: str, classes: int, name: str = "weight", *, whole: bool = False
) -> None:
    """A vector with one number for every class, or, with `whole`, a whole number or a flag."""
    if shape != (classes,):
        raise ShapeError(
            f"{name} tensor should be defined either for all {classes} classes or no classes but got {name} tensor of "
            f"shape: {_list(shape)}\n{function}: {name} must have shape [{classes}]."
        ).about("class-weight-shape")
    if dtype not in FLOATS and not (whole and is_whole(dtype)):
        raise TargetDtypeError(
            f"expected scalar type {' or '.join(sorted(map(_torch_name, FLOATS)))} but found {_torch_name(dtype)}\n"
            f"{function}: {name} has dtype {dtype}: convert it to {' or '.join(sorted(FLOATS))}."
        )


def check_sample_weight(function: str, shape: Shape, dtype: str, rows: Shape) -> None:
    """One number for every row, or a flag."""
    if shape != rows:
        raise ShapeError(
            f"{function}: sample_weight has shape {_list(shape)}, expected one number a row: {_list(rows)}\n"
            "A weight for every class is `weight`."
        )
    check_real(function, dtype, "sample_weight")


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
    """An option as a float; by PyTorch's rule a 0-d array is one, unless a gradient would be lost."""
    if type(value) is float:
        return value
    if isinstance(value, Real) or (getattr(value, "shape", None) == () and not getattr(value, "requires_grad", False)):
        try:
            return float(value)
        except OverflowError:
            raise ParameterError(
                f"{function}: {name} is a number too large for a float, expected at most 1e308"
            ) from None
        except (TypeError, ValueError):
            pass
    detached = ", which would get no gradient: pass a number" if getattr(value, "requires_grad", False) else ""
    raise UnsupportedArrayError(f"{function}(): argument '{name}' must be float, not {type(value).__name__}{detached}")


def to_flag(function: str, name: str, value: Any) -> bool:
    """An option as a bool: a flag or a whole number; no string, and no array of several."""
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral | np.bool_) or getattr(value, "shape", None) == ():
        return bool(value)
    raise UnsupportedArrayError(f"{function}(): argument '{name}' must be bool, not {type(value).__name__}")


def check_choice(function: str, name: str, value: Any, choices: tuple[str | None, ...]) -> None:
    """One of a few words, or None."""
    if not (value is None or isinstance(value, str)) or value not in choices:
        *most, last = map(repr, choices)
        raise ParameterError(f"{function}: {name} got {value!r}, expected {', '.join(most)} or {last}")


def check_label_smoothing(label_smoothing: float, *, strictly: bool = False) -> None:
    """At most 1, as in PyTorch, which ignores negative ones and NaN; a share, 0 to 1, if `strictly`."""
    if label_smoothing > 1.0 or (strictly and not label_smoothing >= 0.0):
        raise ParameterError(
            f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}\n"
            f"label_smoothing got {label_smoothing!r}, a share of the target, expected 0.0 to 1.0"
        )


def check_positive(function: str, name: str, value: float) -> None:
    """A finite number > 0."""
    if not 0.0 < value < inf:
        raise ParameterError(f"{function}: {name} got {value!r}, expected a positive number")


def check_not_negative(function: str, name: str, value: float) -> None:
    """A finite number >= 0."""
    if not 0.0 <= value < inf:
        raise ParameterError(f"{function}: {name} got {value!r}, expected a number >= 0")


def check_scalar_alpha(function: str, alpha: float, classes: int) -> None:
    """One number can only mean the share of the positive class, and only where there are two."""
    if classes != 2:
        raise ParameterError(
            f"{function}: alpha got the number {alpha!r} for {classes} classes, expected a vector of {classes}\n"
            "Libraries disagree on what a number means here: (1) every class times alpha: scale the loss yourself; "
            "(2) class 0 times 1 - alpha, all others times alpha; (3) one-versus-rest, which is sigmoid_focal_loss. "
            "Say which by a vector, e.g. for (2) [1 - alpha, alpha, alpha, ...]."
        )
    if not 0.0 <= alpha <= 1.0:
        raise ParameterError(f"{function}: alpha got {alpha!r}, expected a number in [0, 1]")


def check_probabilities(
    function: str,
    name: str,
    low: float,
    high: float,
    hint: str,
    numbers: Callable[[], np.ndarray[Any, Any]],
    most: float = 1.0,
) -> None:
    """The smallest and largest of what should be probabilities, which `numbers` has all; NaN passes, and gives NaN."""
    if low < 0.0 or high > most:
        values = numbers()
        raise ParameterError(
            f"{function}: {name} holds values from {low:.6g} to {high:.6g}, expected probabilities in [0, 1]; "
            f"{_first(name, values, (values < 0.0) | (values > most), 'outside')}\n{hint}"
        ).about("logits-to-probabilities-loss")


def _first(name: str, values: np.ndarray[Any, Any], bad: np.ndarray[Any, Any], what: str) -> str:
    """The first of some numbers, where it is, and how many are `what`."""
    where = np.argwhere(bad)
    if not len(where):  # changed under our feet
        return "they are not any more"
    first = tuple(map(int, where[0]))
    place = f"{name}[{', '.join(map(str, first))}]" if first else name
    return f"{place} is {values[first]:.6g}, {len(where)} of {values.size} are {what}"


def to_temperature(function: str, temperature: Any) -> float:
    """A positive number."""
    number = to_float(function, "temperature", temperature)
    check_positive(function, "temperature", number)
    return number


def check_same_shape(function: str, target_shape: Shape, shape: Shape) -> None:
    """Elementwise classification pairs every logit with its own target."""
    if target_shape == shape:
        return
    if function == "binary_cross_entropy":
        raise ShapeError(
            f"Using a target size ({target_shape}) that is different to the input size ({shape}) is deprecated. "
            f"Please ensure they have the same size.\n{_pairing(function, target_shape, shape)}"
        ).about("elementwise-shape")
    raise ShapeError(
        f"Target size ({target_shape}) must be the same as input size ({shape})\n"
        f"{_pairing(function, target_shape, shape)}"
    ).about("elementwise-shape")


def _pairing(function: str, target_shape: Shape, shape: Shape) -> str:
    """What is wrong with the shapes of scores and of their targets, and what makes it right."""
    fix = ""
    if tuple(s for s in target_shape if s != 1) == tuple(s for s in shape if s != 1):
        fix = f" Give both the same: target.reshape({tuple(shape)})."
    return f"{function}: every score has a target of its own, so both have one shape; nothing is broadcast.{fix}"


def check_shapes_equal(function: str, name: str, shape: Shape, other: str, other_shape: Shape) -> None:
    """Two arrays that stand for the same things; nothing is broadcast."""
    if shape != other_shape:
        raise ShapeError(
            f"{function}: {name} has shape {_list(shape)} and {other} has shape {_list(other_shape)}, expected the same"
        )


def check_elementwise_target(function: str, dtype: str, input_dtype: str, name: str = "target") -> None:
    """Targets of elementwise classification are probabilities."""
    if dtype not in FLOATS:
        first = (
            f"Found dtype {_torch_name(dtype)} but expected {_torch_name(input_dtype)}"
            if function == "binary_cross_entropy"
            else f"result type {_torch_name(input_dtype)} can't be cast to the desired output type {_torch_name(dtype)}"
        )
        raise TargetDtypeError(
            f"{first}\n{function}: {name} has dtype {dtype}, expected probabilities in floating point: convert it to "
            f"{input_dtype}."
        ).about("integer-target")


def check_broadcasts(function: str, name: str, shape: Shape, to: Shape, dtype: str) -> None:
    """`shape` can be broadcast to `to`, and not the other way round."""
    pairs = list(zip(reversed(shape), reversed(to), strict=False))
    for i, (size, expected) in enumerate(pairs, start=1):
        if size not in (1, expected):
            first = (
                f"The size of tensor a ({expected}) must match the size of tensor b ({size}) at non-singleton "
                f"dimension {len(to) - i}"
            )
            if function == "binary_cross_entropy":
                first = (
                    f"Attempting to broadcast a dimension of length {size} at {-i}! Mismatching argument at index 1 "
                    f"had {shape}; but expected shape should be broadcastable to {_list(to)}"
                )
            raise ShapeError(
                f"{first}\n{function}: {name} has shape {_list(shape)}, which does not broadcast to "
                f"the shape of input, {_list(to)}.{_advice(name, shape, to)}"
            ).about("weight-shape")
    if len(shape) > len(to):
        result = shape[: len(shape) - len(to)] + to
        raise ShapeError(
            f"output with shape {_list(to)} doesn't match the broadcast shape {_list(result)}\n"
            f"{function}: {name} has more dimensions than input."
        ).about("weight-shape")
    check_real(function, dtype, name)


def _advice(name: str, shape: Shape, to: Shape) -> str:
    """What a vector seems to weigh."""
    if len(shape) != 1 or len(to) < 2:
        return ""
    if shape[0] == to[1]:
        sizes = ", ".join(map(str, (to[1], *[1] * (len(to) - 2))))
        return f"\nFor a number a class of dimension 1 pass {name}.reshape({sizes})."
    return "\nA weight for every row is `sample_weight`." if name == "weight" and shape[0] == to[0] else ""


def check_leading_weight(function: str, shape: Shape, dtype: str, to: Shape) -> None:
    """One number, or a flag, for all elements that share their first dimensions."""
    if shape != to[: len(shape)]:
        raise ShapeError(
            f"{function}: sample_weight has shape {_list(shape)}, expected the first dimensions of input, "
            f"{_list(to)}: one number a sample, {_list(to[:1])}, or as many as there are dimensions"
        )
    check_real(function, dtype, "sample_weight")


def check_divergence_dtype(function: str, dtype: str, target_dtype: str) -> None:
    """Log-probabilities and probabilities are real floating point."""
    for error, name, found in ((LogitsDtypeError, "input", dtype), (TargetDtypeError, "target", target_dtype)):
        if found not in FLOATS:
            kind = "Complex" if found.startswith("complex") else "Integral"
            raise error(
                f"{function}: {kind} inputs not supported.\n"
                f"{function}: {name} has dtype {found}, expected float16, bfloat16, float32 or float64."
            )


def probability_error(
    function: str, name: str, values: np.ndarray[Any, Any], kept: np.ndarray[Any, Any] | None
) -> Exception:
    """The error for numbers of which some are outside [0, 1] or NaN: which, how many, and what they may be instead."""
    counted = values if kept is None else values[kept]
    numbers = counted[~np.isnan(counted)]
    bad = (values < 0.0) | (values > 1.0)
    bad = bad if kept is None else bad & kept
    outside = values[bad]
    seen = f"values from {numbers.min():.6g} to {numbers.max():.6g}" if numbers.size else "no numbers"
    message = (
        f"all elements of {name} should be between 0 and 1\n{function}: {name} holds {seen}, expected probabilities; "
    )
    if outside.size:
        message += _first(name, values, bad, "outside [0, 1]")
    else:
        message += _first(name, values, np.isnan(values) if kept is None else np.isnan(values) & kept, "NaN")
    if name == "input" and outside.size:
        message += "\nFor logits use binary_cross_entropy_with_logits, which needs no sigmoid and keeps more digits."
    elif outside.size and np.all(outside == outside[0]) and outside[0] == np.rint(outside[0]):
        message += f"\nIf {outside[0]:.0f} marks elements to leave out, pass ignore_index={outside[0]:.0f}."
    return ParameterError(message).about("logits-to-probabilities-loss" if name == "input" else "target-outside-unit")


def broadcast_shape(function: str, a: Shape, b: Shape) -> tuple[int, ...]:
    """The shape of `a - b`; kl_div subtracts the other way round."""
    try:
        return np.broadcast_shapes(a, b)
    except ValueError:
        n = min(len(a), len(b))
        i = next(i for i in range(1, n + 1) if a[-i] != b[-i] and 1 not in (a[-i], b[-i]))
        first, second = (b[-i], a[-i]) if function == "kl_div" else (a[-i], b[-i])
        raise ShapeError(
            f"The size of tensor a ({first}) must match the size of tensor b ({second}) at non-singleton dimension "
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
