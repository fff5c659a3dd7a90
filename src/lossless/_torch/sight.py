"""What the rules of `lossless._diagnose` may see of tensors, and what autograd's graph tells of their making."""

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lossless._torch.modes import PLAIN, seen_by_modes, tracing, values_known


def is_traced() -> bool:
    return tracing()


def readable(*arrays: Tensor) -> bool:
    return not seen_by_modes() and all(a.is_cpu and a.layout is torch.strided and values_known(a) for a in arrays)


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
        if type(getattr(node, "functor", None)).__name__ == "Sigmoid":  # one of our own elementwise functions
            return "sigmoid"
        if not _VIEWS.fullmatch(name):
            return None
        node = next((n for n, _ in node.next_functions if n is not None), None)
    return None


_NODES = 300
"""Of a graph that are looked at."""


def origin(a: Tensor) -> str | None:
    """The first operation of the graph that made a number which is not finite of numbers that are, or a parameter."""
    node: Any = a.grad_fn if type(a) in PLAIN else None
    if node is None or seen_by_modes():
        return None
    with torch.no_grad():
        for before in _in_order(node):
            if (made := _made_here(before)) is not None:
                return made
    return ""


def _in_order(last: Any) -> list[Any]:
    """The nodes of a graph, each after what comes before it; of a large one those near its end."""
    order: list[Any] = []
    entered: set[Any] = set()
    stack = [(last, False)]
    while stack:
        node, left = stack.pop()
        if left:
            order.append(node)
        elif node not in entered and len(entered) < _NODES:
            entered.add(node)
            stack.append((node, True))
            stack += [(before, False) for before, _ in reversed(node.next_functions) if before is not None]
    return order


def _made_here(node: Any) -> str | None:
    """What is not finite from this node on, if it is not known to come from before."""
    operation = re.sub(r"Backward\d*$", "", type(node).__name__)
    if operation == "AccumulateGrad":
        leaf = node.variable
        return None if _finite(leaf) else f"no operation: a leaf of shape {list(leaf.shape)} holds {_odd(leaf)}"
    saved = dict(_saved(node))
    result = saved.pop("result", None)
    for name, t in saved.items():
        if not _finite(t):
            if t.requires_grad:
                return None  # it was made before, and nobody saw how
            return f"no operation: what {operation} is given ({name}, of shape {list(t.shape)}) holds {_odd(t)}"
    return _outcome(operation, node, saved, result)


def _saved(node: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors that an operation keeps for its backward pass, but for those that somebody else keeps for it."""
    for name in dir(node):
        if name.startswith("_raw_saved_"):
            raw = getattr(node, name)
            if isinstance(raw, torch._C._autograd.SavedTensor) and raw.unpack_hook is None:
                try:
                    value = getattr(node, name.removeprefix("_raw"))
                except RuntimeError:  # it was freed, or changed since: then it tells nothing
                    continue
                if isinstance(value, Tensor) and value.is_floating_point() and value.layout is torch.strided:
                    yield name.removeprefix("_raw_saved_"), value


_FACTORS = {"Mul": ("self", "other"), "Mm": ("self", "mat2"), "Bmm": ("self", "mat2"), "Addmm": ("mat1", "mat2")}
_LOGARITHMS = {"Log": 0.0, "Log2": 0.0, "Log10": 0.0, "Log1P": -1.0}
"""Logarithms, and where they end."""


def _outcome(operation: str, node: Any, saved: dict[str, Tensor], result: Tensor | None) -> str | None:
    """Why an operation on numbers that are finite, as far as known, has a result that is not, if it has."""
    if operation in _FACTORS and all(name in saved for name in _FACTORS[operation]):
        one, other = (saved[name] for name in _FACTORS[operation])
        product = one * other if operation == "Mul" else one @ other
        if not _finite(product):
            return f"{operation}, of numbers up to {_most(one)} and {_most(other)}: more than {_name(product)} holds"
    elif operation == "Div" and "other" in saved:
        if zeros := int((saved["other"] == 0).sum()):
            return f"Div, by {zeros} zeros" if zeros > 1 else "Div, by 0"
    elif operation in _LOGARITHMS and "self" in saved:
        if saved["self"].numel() and saved["self"].min() <= _LOGARITHMS[operation]:
            return f"{operation}, of numbers down to {saved['self'].min().item():.4g}"
    elif (
        operation == "Pow"
        and "self" in saved
        and isinstance(exponent := getattr(node, "_saved_exponent", None), float | int)
    ):
        if not _finite(saved["self"].pow(exponent)):
            low = saved["self"].min().item()
            return f"Pow, of numbers from {low:.4g} to {saved['self'].max().item():.4g} to the power of {exponent:.4g}"
    elif result is not None and not _finite(result):
        if operation in ("Sqrt", "Rsqrt", "Reciprocal"):
            return f"{operation}, of 0 or of negative numbers"
        if operation in ("Softmax", "LogSoftmax", "SafeSoftmax"):
            return f"{operation}, of a row of nothing but -inf, or with NaN or inf"
        if result.isnan().any():
            return f"{operation}, which gave NaN"
        return f"{operation}, whose result is more than {_name(result)} holds"
    return None


def _finite(t: Tensor) -> bool:
    return t.layout is not torch.strided or t.is_meta or bool(t.isfinite().all())


def _odd(t: Tensor) -> str:
    return "NaN" if bool(t.isnan().any()) else "infinities"


def _most(t: Tensor) -> str:
    return f"{t.abs().max().item():.4g}"


def _name(t: Tensor) -> str:
    return str(t.dtype).removeprefix("torch.")
