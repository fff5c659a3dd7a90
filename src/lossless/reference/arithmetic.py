"""Sums, differences and quotients that keep what rounding would lose, and small array operations that all share."""

import sys
from collections.abc import Callable
from operator import index
from typing import Any

import array_api_compat

Array = Any
"""A NumPy array or a PyTorch tensor."""


def namespace(x: Array) -> Any:
    """The array-API functions for `x`. Tensors are told apart here: torch.compile warns about the usual look-up."""
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(x, torch.Tensor):
        import array_api_compat.torch as xp

        return xp
    return array_api_compat.array_namespace(x)


def wide(x: Array) -> Array:
    """`x` in the arithmetic of this module."""
    xp = namespace(x)
    return xp.astype(x, xp.float64)


def finite_where(xp: Any, weight: Array, value: Array) -> Array:
    """`value`, or 0 where its weight is exactly 0, so that 0 * inf is 0."""
    return xp.where(weight == 0.0, 0.0, value)


def times(xp: Any, weight: Array, value: Array) -> Array:
    """weight * value with 0 * inf = 0; elsewhere `value` stays, for it is the derivative over the weight."""
    return weight * xp.where((weight == 0.0) & xp.isinf(value), 0.0, value)


def are_classes(x: Array, target: Array) -> Array:
    """Which labels are classes."""
    return (target >= 0) & (target < x.shape[-1])


def take(xp: Any, table: Array, y: Array) -> Array:
    """table[y] for labels of any shape."""
    return xp.reshape(xp.take(table, xp.reshape(y, (-1,)), axis=0), y.shape)


def of_class(xp: Any, a: Array, k: Array) -> Array:
    """a_k of every row, (*batch, 1), for classes k of that shape."""
    if hasattr(xp, "gather"):  # PyTorch's take_along_dim fixes the sizes of a compiled graph
        return xp.gather(a, -1, k)
    return xp.take_along_axis(a, k, axis=-1)


def onehot(xp: Any, k: Array, x: Array) -> Array:
    """True where the class is k, (*batch, C)."""
    return xp.arange(x.shape[-1], dtype=k.dtype, device=x.device) == k


def sums_of_classes(xp: Any, t: Array, top: Array, exact: bool) -> tuple[Array, Array, Array]:
    """(without the top class, (*batch, 1); the whole, (*batch, 1); without class j for every j)."""
    tail, lost = sum_words(xp, xp.where(top, 0.0, t), exact)
    largest = xp.sum(xp.where(top, t, 0.0), axis=-1, keepdims=True)
    whole = largest + tail
    whole = whole + (addition_rest(xp, largest, tail, whole) + lost)
    tail = tail + lost
    return tail, whole, xp.where(top, tail, whole - t)


def sum_classes(xp: Any, a: Array, exact: bool) -> Array:
    """Sum over the classes, (*batch, 1)."""
    a, lost = sum_words(xp, a, exact)
    return a + lost


def sum_words(xp: Any, a: Array, exact: bool) -> tuple[Array, Any]:
    """Sum over the classes and what it lacks. Exact: by halves, carrying what each addition rounds away."""
    if not exact:
        return xp.sum(a, axis=-1, keepdims=True), 0.0
    odd = lost = 0.0
    # A number for torch.compile too: inductor's kernels are wrong about halves of a symbol.
    n = index(a.shape[-1])
    while n > 1:
        left, right = a[..., : n // 2], a[..., n // 2 : n // 2 * 2]
        if n % 2:
            last = a[..., -1:]
            lost = lost + addition_rest(xp, last, odd, last + odd)
            odd = last + odd
        a, n = left + right, n // 2
        lost = lost + xp.sum(addition_rest(xp, left, right, a), axis=-1, keepdims=True)
    return a + odd, lost + addition_rest(xp, a, odd, a + odd)


def sum_of_others(t: Array) -> Array:
    """sum_{i != j} t_i for every j: the largest is kept apart, so that it is never subtracted from a sum it rules."""
    xp = namespace(t)
    k = xp.argmax(xp.abs(t), axis=-1, keepdims=True)
    top = onehot(xp, k, t)
    return sums_of_classes(xp, t, top, exact=True)[2]


def addition_rest(xp: Any, a: Array, b: Array, s: Array) -> Array:
    """a + b - s for s = a + b rounded, exactly (Knuth); its derivative is exactly 0. 0 where infinities meet."""
    v = s - a
    rest = (a - (s - v)) + (b - v)
    return xp.where(xp.isfinite(rest), rest, 0.0)


def divide(xp: Any, a: Array, rest: Array, divisor: Array | float) -> tuple[Array, Array]:
    """(a + rest) / divisor as a quotient and what it lacks."""
    quotient = a / divisor
    product = quotient * divisor
    lacking = (((a - product) - product_rest(quotient, divisor, product)) + rest) / divisor
    return quotient, xp.where(xp.isfinite(lacking), lacking, 0.0)  # not finite only where exp(quotient) is 0


def log_quotient(xp: Any, a: Array, b: Array, difference: Array | None = None) -> Array:
    """log(a / b) of positive numbers; where they are within a factor of 2 by their difference, which is exact there."""
    difference = a - b if difference is None else difference
    ratio = a / b
    near = (ratio >= 0.5) & (ratio <= 2.0)
    middle = ~near & (ratio > 1e-290) & (ratio < 1e290)
    far = ~near & ~middle  # where the quotient has lost digits, or is NaN
    # Every branch sees harmless numbers where it is not taken, for the sake of its derivative.
    close = xp.log1p(xp.where(near, difference, 0.0) / xp.where(near, b, 1.0))
    plain = xp.log(xp.where(middle, a, 1.0) / xp.where(middle, b, 1.0))
    apart = xp.log(xp.where(far, a, 1.0)) - xp.log(xp.where(far, b, 1.0))
    return xp.where(near, close, xp.where(middle, plain, apart))


def product_rest(a: Any, b: Any, product: Any) -> Any:
    """a b - product for product = a b rounded, exactly unless it underflows (Dekker)."""
    a_high, a_low = _split(a)
    b_high, b_low = _split(b)
    return ((a_high * b_high - product) + a_high * b_low + a_low * b_high) + a_low * b_low


def _split(a: Any) -> tuple[Any, Any]:
    """Two halves of 26 bits each (Veltkamp)."""
    c = (2.0**27 + 1.0) * a
    high = c - (c - a)
    return high, a - high


def constant(a: Array) -> Array:
    """`a` without its derivative, where the framework has derivatives."""
    return a.detach() if hasattr(a, "detach") else a


def derived_from(value: Array, formula: Callable[[], Array]) -> Array:
    """`value`, with the derivative of the same number in another form: its own would cancel. Only for autograd."""
    if not getattr(value, "requires_grad", False):
        return value
    xp, other = namespace(value), formula()
    return constant(value) + xp.where(xp.isfinite(other), other - constant(other), 0.0)


def col(a: Array) -> Array:
    """(*batch) -> (*batch, 1), to stand beside the classes."""
    return a[..., None]


def last(a: Array) -> Array:
    """(*batch, 1) -> (*batch)."""
    return a[..., 0]
