"""The sigmoid, its logarithm and its inverse: value and slope, and the pieces that binary losses are made of.

With e = exp(-|x|) nothing cancels on either side: sigma(|x|) = 1 / (1 + e), sigma(-|x|) = e / (1 + e), and
softplus(x) = log(1 + exp(x)) = max(x, 0) + log1p(e).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from lossless.reference.arithmetic import Array, namespace, wide


class Sides(NamedTuple):
    """What both tails of the sigmoid are made of."""

    right: Array
    "Whether x >= 0."
    e: Array
    "exp(-|x|)."

    def sigmoid(self, xp: Any) -> Array:
        """sigma(x)."""
        return xp.where(self.right, 1.0, self.e) / (1.0 + self.e)

    def complement(self, xp: Any) -> Array:
        """1 - sigma(x) = sigma(-x)."""
        return xp.where(self.right, self.e, 1.0) / (1.0 + self.e)

    def softplus(self, xp: Any, x: Array) -> tuple[Array, Array]:
        """(softplus(-x), softplus(x)): what "yes" and "no" cost."""
        tail = xp.where(self.e < 1e-30, self.e, xp.log1p(self.e))  # where log1p is careless with denormals
        return xp.where(self.right, 0.0, 0.0 - x) + tail, xp.where(self.right, x, 0.0) + tail


def sides(xp: Any, x: Array) -> Sides:
    """Each branch of `where` is analytic, so derivatives are right at 0 too."""
    right = x >= 0.0
    return Sides(right, xp.exp(xp.where(right, 0.0 - x, x)))


class Elementwise:
    """A function of one number, and perhaps of others that stand beside it: value and slope."""

    def value(self, x: Array, /, *others: Any) -> Array:
        raise NotImplementedError

    def slope(self, x: Array, /, *others: Any) -> Array:
        """The derivative over x, made of differentiable operations."""
        raise NotImplementedError

    @property
    def kernel(self) -> str | None:
        """The name of the kernel that computes it, if there is one."""
        return None

    @property
    def kernel_parameters(self) -> tuple[float, float]:
        """The balance and the exponent that the kernel is told."""
        return -1.0, 0.0

    @property
    def slopes(self) -> tuple[Callable[..., Array], ...]:
        """The derivatives over each argument."""
        return (self.slope,)


@dataclass(frozen=True)
class Sigmoid(Elementwise):
    """1 / (1 + exp(-x)); its slope is sigma(x) sigma(-x)."""

    @property
    def kernel(self) -> str | None:
        return "sigmoid"

    def value(self, x: Array, /, *_: Any) -> Array:
        xp = namespace(x)
        return sides(xp, wide(x)).sigmoid(xp)

    def slope(self, x: Array, /, *_: Any) -> Array:
        xp = namespace(x)
        e = sides(xp, wide(x)).e
        return e / ((1.0 + e) * (1.0 + e))


@dataclass(frozen=True)
class LogSigmoid(Elementwise):
    """log sigma(x) = -softplus(-x); its slope is sigma(-x)."""

    @property
    def kernel(self) -> str | None:
        return "log_sigmoid"

    def value(self, x: Array, /, *_: Any) -> Array:
        xp = namespace(x)
        return 0.0 - sides(xp, wide(x)).softplus(xp, wide(x))[0]

    def slope(self, x: Array, /, *_: Any) -> Array:
        xp = namespace(x)
        return sides(xp, wide(x)).complement(xp)


@dataclass(frozen=True)
class Logit(Elementwise):
    """log(p / (1 - p)) of p clamped to [eps, 1 - eps]; its slope is 1 / p + 1 / (1 - p), or 0 where p was clamped.

    The smaller of p and 1 - p is a number without rounding: s, clamped to eps without rounding too. Then
    logit = -+log(s / (1 - s)), or log1p((2 s - 1) / (1 - s)) where the quotient is near 1: 2 s - 1 is exact there.
    """

    eps: float | None = None

    def value(self, p: Array, /, *_: Any) -> Array:
        xp = namespace(p)
        upper, s, _ = self._smaller(xp, wide(p))
        near = s > 0.25
        other = 1.0 - s
        difference = xp.log1p((2.0 * xp.where(near, s, 0.5) - 1.0) / other)
        log_odds = xp.where(near, difference, xp.log(xp.where(near, 0.25, s) / other))
        return xp.where(upper, 0.0 - log_odds, log_odds)

    def slope(self, p: Array, /, *_: Any) -> Array:
        xp = namespace(p)
        _, s, clamped = self._smaller(xp, wide(p))
        return xp.where(clamped, xp.nan if self.eps is None else 0.0, 1.0 / s + 1.0 / (1.0 - s))

    def _smaller(self, xp: Any, p: Array) -> tuple[Array, Array, Array]:
        """(whether p > 1/2, the smaller of p and 1 - p as clamped, whether p was out of bounds)."""
        upper = p > 0.5
        s = xp.where(upper, 1.0 - p, p) + 0.0  # no -0.0, whose slope would be -inf
        if self.eps is None:
            return upper, s, s < 0.0
        if self.eps > 0.5:  # the bounds are in the wrong order: PyTorch looks at the lower one first
            return p < self.eps, xp.where(xp.isnan(p), p, 1.0 - self.eps), ~xp.isnan(p)
        clamped = s < self.eps
        return upper, xp.where(clamped, self.eps, s), clamped
