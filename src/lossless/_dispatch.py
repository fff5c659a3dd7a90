"""Which backend computes a call: decided by the types of its arrays, without importing any framework.

A framework is imported only if one of its arrays arrived, which means that the user has imported it already.
"""

import sys
from collections.abc import Callable
from typing import Any, Protocol

from numpy.typing import NDArray

from lossless._diagnose.watch import Sight
from lossless._numpy.arrays import to_array
from lossless._plan import ElementPlan, RowPlan
from lossless.errors import UnsupportedArrayError
from lossless.reference import Elementwise, Statistics

Array = Any


class Backend(Sight, Protocol):
    """What the public functions ask of a framework, after checks and plan."""

    def to_dtype(self, function: str, a: Array, dtype: Any, /) -> Array:
        """In a dtype of the caller's."""

    def to_floating(self, a: Array, /) -> Array:
        """Whole numbers and flags in the framework's default floating dtype; all else as it is."""

    def for_loss(self, a: Array, /) -> Array:
        """The first argument of a loss, in the precision that autocast asks for."""

    def permute(self, a: Array, order: tuple[int, ...], /) -> Array: ...

    def extremes(self, plan: RowPlan, name: str, a: Array, labels: Array | None = None, /) -> tuple[float, float]:
        """Of the argument `name` the smallest and largest number, or (0, 0) if none may be looked at.

        But for NaN and ignored labels.
        """

    def numbers(self, a: Array, dtype: str = ..., /) -> NDArray[Any]:
        """All of them, to be read only; in float64, or else the dtype."""

    def softmax(self, plan: RowPlan, x: Array, /) -> Array: ...

    def log_softmax(self, plan: RowPlan, x: Array, /) -> Array: ...

    def logsumexp(self, plan: RowPlan, x: Array, /) -> Array: ...

    def row_statistics(self, plan: RowPlan, x: Array, target: Array | None, prior: Array | None, /) -> Statistics:
        """Rounded."""

    def class_loss(
        self, plan: RowPlan, x: Array, target: Array, weight: Array | None, sample_weight: Array | None,
        alpha: Array | None, divisor: Array | float | None, /,
    ) -> Array:  # fmt: skip
        """A loss of the softmax family; `divisor` is the caller's own, for the denominator "given"."""

    def class_vector(self, x: Array, numbers: tuple[float, ...], /) -> Array:
        """One number a class, unrounded, where `x` is."""

    def probability_loss(self, plan: RowPlan, p: Array, target: Array, /) -> Array:
        """The cost -log p of given probabilities."""

    def nll(self, plan: RowPlan, x: Array, target: Array, weight: Array | None, /) -> Array: ...

    def elementwise(self, function: str, functor: Elementwise, /, **arrays: Array) -> Array:
        """A function of single numbers, rounded."""

    def pointwise(
        self, plan: ElementPlan, x: Array, target: Array, weight: Array | None = None,
        pos_weight: Array | None = None, sample_weight: Array | None = None, divisor: Array | float | None = None, /,
    ) -> Array:  # fmt: skip
        """A loss of single numbers and their targets; `divisor` is the caller's own, for a mean."""

    def root_mean_square(self, plan: ElementPlan, x: Array, target: Array, dims: tuple[int, ...], /) -> Array: ...

    def entropy(self, plan: RowPlan, p: Array, kind: str, normalize: bool, unit: float, /) -> Array:
        """In units of `unit` nats."""

    def perplexity(self, plan: RowPlan, p: Array, form: str, /) -> Array: ...

    def measure(self, plan: RowPlan, p: Array, q: Array, p_form: str, q_form: str, unit: float, /) -> Array:
        """The measure of two distributions that `plan.function` names in `reference.MEASURES`."""

    def inverse_softmax(self, plan: RowPlan, p: Array, center: str | None, /) -> Array: ...


_backends: dict[str, Backend] = {}


def _backend(framework: str) -> Backend:
    """The backend's module, imported when the first of its arrays arrives (by a statement: torch.compile reads it)."""
    if framework in _backends:
        return _backends[framework]
    if framework == "torch":
        from lossless._torch import backend as torch_backend

        if not torch_backend.is_compiling():  # what changes `_backends` there makes it compile anew
            _backends[framework] = torch_backend
        return torch_backend
    from lossless._numpy import backend as numpy_backend

    _backends[framework] = numpy_backend
    return numpy_backend


def with_gradient(loss: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
    """(value, gradient over the first argument) of a loss of NumPy arrays."""
    from lossless._numpy import gradients

    with gradients.asked():
        return loss(*args, **options)


def overridden(*arrays: Array) -> bool:
    """Whether one of them, or a mode around the call, has its own version of the functions (`__torch_function__`)."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.overrides.has_torch_function_variadic(*arrays)


def override(function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
    """Their version of a public function, called as PyTorch does: what has a default by name."""
    inner = getattr(function, "__wrapped__", function)
    code, defaults = inner.__code__, inner.__defaults__ or ()
    required = code.co_varnames[: code.co_argcount - len(defaults)]
    by_name = {name: value for name, value in arguments.items() if name not in required}
    handle = sys.modules["torch"].overrides.handle_torch_function
    return handle(function, tuple(arguments.values()), *(arguments[name] for name in required), **by_name)


def select(function: str, required: int, /, **arrays: Array) -> tuple[Backend, *tuple[Any, ...]]:
    """(backend, *arrays as the backend's arrays); None stays None, but for the first `required`.

    All arrays must be of one framework.
    """
    torch = sys.modules.get("torch")
    tensor: Any = getattr(torch, "Tensor", ())
    tensors = others = False
    for position, array in enumerate(arrays.values()):
        if array is None:
            if position < required:
                name = list(arrays)[position]
                raise UnsupportedArrayError(
                    f"{function}(): argument '{name}' (position {position + 1}) must be Tensor, not NoneType\n"
                    f"{function}: {name} is None, expected an array."
                )
        elif isinstance(array, tensor):
            tensors = True
        else:
            others = True
    if tensors and others:
        raise _mixed(function, arrays, tensor)
    if tensors:
        return (_backend("torch"), *arrays.values())
    return (_backend("numpy"), *[None if a is None else to_array(function, name, a) for name, a in arrays.items()])


def _mixed(function: str, arrays: dict[str, Array], tensor: type) -> UnsupportedArrayError:
    """The error for tensors and other arrays in one call: PyTorch's first line, then both."""
    names = list(arrays)
    odd = next(n for n in names if arrays[n] is not None and not isinstance(arrays[n], tensor))
    other = next(n for n in names if isinstance(arrays[n], tensor))
    kind = _type_name(arrays[odd])
    return UnsupportedArrayError(
        f"{function}(): argument '{odd}' (position {names.index(odd) + 1}) must be Tensor, not {kind}\n"
        f"{function}: {other} is a torch.Tensor and {odd} is a {kind}; all arrays of a call must be of one framework: "
        f"convert one, e.g. torch.as_tensor({odd}) or {other}.numpy()."
    )


def _type_name(value: Any) -> str:
    module = type(value).__module__
    return type(value).__qualname__ if module == "builtins" else f"{module}.{type(value).__qualname__}"
