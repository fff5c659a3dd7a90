"""What the rules of `lossless._diagnose` may see of tensors, and what autograd's graph tells of their making."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossless._torch.modes import PLAIN, values_known


def readable(*arrays: Tensor) -> bool:
    return all(a.is_cpu and a.layout is torch.strided and values_known(a) for a in arrays)


def take(a: Tensor, dim: int | None, rows: NDArray[np.intp] | None) -> NDArray[Any]:
    a = a.detach()
    if dim is not None:
        a = a.movedim(dim, -1)
    lead = a.shape if dim is None else a.shape[:-1]
    if rows is not None:
        a = a[tuple(map(torch.from_numpy, np.unravel_index(rows, tuple(lead))))] if len(lead) else a[None]
    else:
        a = a.reshape(-1, *a.shape[len(lead) :])
    out: NDArray[Any] = (a.double() if a.is_floating_point() else a).resolve_neg().numpy()
    return out


def bad_rows(a: Tensor, dim: int | None) -> NDArray[np.intp]:
    a = a.detach()
    peaks = a if dim is None else a.amax(dim)
    numbers: NDArray[np.intp] = (~peaks.isfinite()).reshape(-1).nonzero()[:, 0].numpy()
    return numbers


# ---------------------------------------------------------------- what made a tensor

_VIEWS = re.compile(
    r"(View|UnsafeView|ReshapeAlias|Alias|AsStrided|Permute|Transpose|T|Squeeze|Unsqueeze|Movedim|Expand|Clone|ToCopy|Slice|"
    r"Select|Copy|Contiguous)(Backward|Backwards)\d*"
)
_MAKERS = {"softmax": re.compile(r"_?(Safe)?Softmax(Transforms)?Backward"), "sigmoid": re.compile(r"SigmoidBackward")}
_FAR = 3
"""Views between a loss and what made its input."""


def made_by(a: Tensor) -> str | None:
    node: Any = a.grad_fn if type(a) in PLAIN else None
    for _ in range(_FAR + 1):
        if node is None:
            return None
        name = type(node).__name__
        for maker, pattern in _MAKERS.items():
            if pattern.match(name):
                return maker
        functor = type(getattr(node, "functor", None)).__name__  # of our own elementwise functions
        if functor == "Sigmoid":
            return "sigmoid"
        if not _VIEWS.fullmatch(name):
            return None
        node = next((n for n, _ in node.next_functions if n is not None), None)
    return None


_NODES = 200
"""Of a graph that are looked at."""


def origin(a: Tensor) -> str | None:
    """The first operation of the graph that made a number which is not finite from numbers that are, or a parameter."""
    node: Any = a.grad_fn if type(a) in PLAIN else None
    return None if node is None else next(_origins(node, set()), None)


def _origins(node: Any, seen: set[int]) -> Iterator[str]:
    """Depth first, what comes before it first."""
    if id(node) in seen or len(seen) > _NODES:
        return
    seen.add(id(node))
    variable = getattr(node, "variable", None)  # a leaf
    if isinstance(variable, Tensor):
        if not _finite(variable):
            yield f"nothing in this graph: a parameter or input of shape {list(variable.shape)} holds {_odd(variable)}"
        return
    for before, _ in node.next_functions:
        if before is not None:
            yield from _origins(before, seen)
    known = dict(_saved(node))
    inputs = {k: t for k, t in known.items() if "result" not in k}
    operation = re.sub(r"Backward\d*$", "", type(node).__name__)
    if all(map(_finite, inputs.values())) and (outcome := _outcome(operation, inputs, known.get("result"))):
        yield f"{operation}, {outcome}"
    for name, t in inputs.items():
        if not _finite(t) and not t.requires_grad:
            yield f"nothing in this graph: an input of {operation} ({name}, shape {list(t.shape)}) holds {_odd(t)}"


def _saved(node: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors that an operation keeps for its backward pass."""
    for name in dir(node):
        if name.startswith("_saved_"):
            try:
                value = getattr(node, name)
            except RuntimeError:  # freed already
                continue
            if isinstance(value, Tensor) and value.is_floating_point():
                yield name.removeprefix("_saved_"), value


_FACTORS = {"Mul": ("self", "other"), "Mm": ("self", "mat2"), "Bmm": ("self", "mat2"), "Addmm": ("mat1", "mat2")}


def _outcome(operation: str, inputs: dict[str, Tensor], result: Tensor | None) -> str | None:
    """Why an operation on finite numbers has a result that is not, if it has."""
    a = inputs["self"].detach() if "self" in inputs else None
    if operation in _FACTORS and all(name in inputs for name in _FACTORS[operation]):
        one, other = (inputs[name].detach().double() for name in _FACTORS[operation])
        product = one * other if operation == "Mul" else one @ other
        dtype = next(iter(inputs.values())).dtype
        if not _finite(product.to(dtype)):
            return f"whose products reach {product.abs().max().item():.4g}, more than {_name(dtype)} holds"
    elif operation == "Div" and "other" in inputs and (inputs["other"] == 0).any():
        return f"by 0, {int((inputs['other'] == 0).sum())} times"
    elif a is not None and operation in ("Log", "Log2", "Log10", "Log1P", "Pow"):
        a = a + 1 if operation == "Log1P" else a
        if (a <= 0).any():
            return f"of numbers down to {a.min().item():.4g}"
    elif result is not None and not _finite(result):
        if operation in ("Sqrt", "Rsqrt", "Reciprocal"):
            return "of 0 or of negative numbers"
        return f"whose result is more than {_name(result.dtype)} holds"
    return None


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _finite(t: Tensor) -> bool:
    return bool(t.detach().isfinite().all())


def _odd(t: Tensor) -> str:
    return "NaN" if bool(t.detach().isnan().any()) else "infinities"
