"""Losses of one number and its target: value and slopes, and what a sum over elements is divided by."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, prod, sqrt
from typing import Any, ClassVar, NamedTuple

from lossless.reference.arithmetic import (
    Array,
    addition_rest,
    constant,
    derived_from,
    divide,
    namespace,
    product_rest,
    times,
    wide,
)
from lossless.reference.sigmoid import Elementwise, Logit, Sides, sides

TINY = 2.0**-1000


class Pointwise(Elementwise):
    """A loss: `value` and its derivatives over the input, the target and, where there is one, `pos_weight`."""

    of_probabilities: ClassVar[bool] = False
    "Whether input and target must lie in [0, 1]."

    def kernel_takes(self, dtype: str, weighted: bool) -> bool:
        """Whether the kernel computes with numbers of this dtype, and with weights if there are any."""
        return True

    def target_slope(self, x: Array, t: Array, v: Array | None = None, /) -> Array:
        raise NotImplementedError

    @property
    def slopes(self) -> tuple[Callable[..., Array], ...]:
        return self.slope, self.target_slope


@dataclass(frozen=True)
class BinaryCrossEntropyWithLogits(Pointwise):
    """v t softplus(-x) + (1 - t) softplus(x) with v = pos_weight, from terms that are never negative.

    With smoothing e the target t becomes (1 - e) t + e / 2, and 1 - t becomes (1 - e) (1 - t) + e / 2.
    """

    smoothing: float = 0.0

    @property
    def kernel(self) -> str | None:
        return None if self.smoothing else "bce_with_logits"

    @property
    def slopes(self) -> tuple[Callable[..., Array], ...]:
        return self.slope, self.target_slope, self.pos_weight_slope

    def value(self, x: Array, t: Array, v: Array | None = None, /) -> Array:
        xp = namespace(x)
        yes, no = sides(xp, wide(x)).softplus(xp, wide(x))
        positive, negative = self._shares(t, v)
        return times(xp, positive, yes) + times(xp, negative, no)

    def slope(self, x: Array, t: Array, v: Array | None = None, /) -> Array:
        """(1 - t) sigma(x) - v t sigma(-x)."""
        xp = namespace(x)
        right, e = sides(xp, wide(x))
        positive, negative = self._shares(t, v)
        return (negative * xp.where(right, 1.0, e) - positive * xp.where(right, e, 1.0)) / (1.0 + e)

    def target_slope(self, x: Array, t: Array, v: Array | None = None, /) -> Array:
        """v softplus(-x) - softplus(x), which is -x where v = 1."""
        xp = namespace(x)
        x = wide(x)
        if v is None:
            return (1.0 - self.smoothing) * (0.0 - x)
        yes, no = sides(xp, x).softplus(xp, x)
        return (1.0 - self.smoothing) * (times(xp, wide(v), yes) - no)

    def pos_weight_slope(self, x: Array, t: Array, v: Array | None = None, /) -> Array:
        """t softplus(-x)."""
        xp = namespace(x)
        return times(xp, self._shares(t, None)[0], sides(xp, wide(x)).softplus(xp, wide(x))[0])

    def _shares(self, t: Array, v: Array | None) -> tuple[Array, Array]:
        positive, negative = shares(wide(t), self.smoothing)
        return positive if v is None else wide(v) * positive, negative


@dataclass(frozen=True)
class BinaryCrossEntropy(Pointwise):
    """-(t log p + (1 - t) log(1 - p)) of probabilities, smoothed as above.

    `clamped`, as in PyTorch: no logarithm below -100, and a slope that is divided by 1e-12 at least.
    """

    clamped: bool = True
    smoothing: float = 0.0
    of_probabilities: ClassVar[bool] = True

    def value(self, p: Array, t: Array, /, *_: Any) -> Array:
        xp = namespace(p)
        p = wide(p)
        positive, negative = shares(wide(t), self.smoothing)
        yes, no = xp.log(p), xp.log1p(0.0 - p)
        if self.clamped:
            yes, no = (xp.where(log < -100.0, -100.0, log) for log in (yes, no))
        return times(xp, positive, 0.0 - yes) + times(xp, negative, 0.0 - no)

    def slope(self, p: Array, t: Array, /, *_: Any) -> Array:
        """(p - t) / (p (1 - p)), which is -1 / p where t = 1 and 1 / (1 - p) where t = 0."""
        xp = namespace(p)
        p, t = wide(p), wide(t)
        positive, negative = shares(t, self.smoothing)
        q = 1.0 - p
        if self.clamped:
            difference, close = negative * p - positive * q if self.smoothing else p - t, p * q < 1e-12
            slope = difference / xp.where(close, 1e-12, p * q)
            some_p, some_q = xp.where(close, 0.5, p), xp.where(close, 0.5, q)
            return derived_from(slope, lambda: xp.where(close, slope, negative / some_q - positive / some_p))
        some_p = xp.where((p == 0.0) & (positive == 0.0), 1.0, p)
        some_q = xp.where((q == 0.0) & (negative == 0.0), 1.0, q)
        slope = negative / some_q - positive / some_p
        if self.smoothing:
            return slope
        # Near p = t the terms cancel, and p - t has all digits; only its number is taken, the derivatives are theirs.
        both = (positive > 0.0) & (negative > 0.0) & xp.isfinite(slope)
        return slope + constant(xp.where(both, (p - t) / (some_p * some_q) - slope, 0.0))

    def target_slope(self, p: Array, t: Array, /, *_: Any) -> Array:
        """log(1 - p) - log p, without a clamp: PyTorch has none here."""
        return (self.smoothing - 1.0) * Logit().value(p)


@dataclass(frozen=True)
class SigmoidFocal(Pointwise):
    """alpha_t q^gamma ce: binary cross-entropy that discounts what is already right.

    q = t sigma(-x) + (1 - t) sigma(x), the probability of being wrong; ce = t softplus(-x) + (1 - t) softplus(x);
    alpha_t = alpha t + (1 - alpha) (1 - t), or 1 if alpha < 0.
    """

    alpha: float = 0.25
    gamma: float = 2.0

    @property
    def kernel(self) -> str | None:
        return "sigmoid_focal"

    @property
    def kernel_parameters(self) -> tuple[float, float]:
        return self.alpha, self.gamma

    def kernel_takes(self, dtype: str, weighted: bool) -> bool:
        return dtype != "float64" and not weighted

    def value(self, x: Array, t: Array, /, *_: Any) -> Array:
        xp = namespace(x)
        s = self._parts(xp, x, t)
        return times(xp, s.balance * s.power, s.cost)

    def slope(self, x: Array, t: Array, /, *_: Any) -> Array:
        """alpha_t q^gamma (gamma ce q' / q + ce'), with q' / q = (1 - 2 t) sigma(x) sigma(-x) / q without its q."""
        xp = namespace(x)
        s, t = self._parts(xp, x, t, finite=True), wide(t)
        right, e = s.side
        sure = xp.abs(s.wrong) < TINY  # t is 0 or 1 there, and the quotient e / e
        growth = (1.0 - 2.0 * t) * xp.where(sure, 1.0, e / xp.where(sure, 1.0, s.wrong)) / (1.0 + e)
        rise = ((1.0 - t) * xp.where(right, 1.0, e) - t * xp.where(right, e, 1.0)) / (1.0 + e)
        return s.balance * s.power * (self.gamma * growth * s.cost + rise)

    def target_slope(self, x: Array, t: Array, /, *_: Any) -> Array:
        """(2 alpha - 1) q^gamma ce + alpha_t q^gamma (gamma (sigma(-x) - sigma(x)) ce / q - x)."""
        xp = namespace(x)
        s = self._parts(xp, x, t, finite=True)
        right, e = s.side
        sure = xp.abs(s.wrong) < TINY  # the quotient's limit
        ratio = xp.where(sure, 1.0, s.cost / xp.where(sure, 1.0, s.q))
        turn = xp.where(right, e - 1.0, 1.0 - e) / (1.0 + e)
        slope = s.balance * s.power * (self.gamma * turn * ratio - s.x)
        if self.alpha >= 0.0:
            slope = slope + (2.0 * self.alpha - 1.0) * s.power * s.cost
        return xp.where(xp.isinf(x), 0.0 - wide(x), slope)

    def _parts(self, xp: Any, x: Array, t: Array, finite: bool = False) -> "FocalParts":
        """`finite`: with 10000 for infinity, which has the same slopes over x, and makes no 0 * inf."""
        exact = xp.float64 in (x.dtype, t.dtype)  # narrower data leave room enough for plain arithmetic
        x, t = wide(x), wide(t)
        if finite:
            x = xp.where(xp.isinf(x), xp.where(x > 0.0, 10000.0, -10000.0), x)
        yes, no = t, 1.0 - t
        right, e = side = sides(xp, x)
        whole = 1.0 + e
        far = xp.where(right, yes, no) * e
        near = xp.where(right, no, yes)
        wrong = far + near
        q = wrong / whole
        # No derivative where q vanishes: the loss has none there, and q^(gamma - 1) may be infinite.
        tiny = xp.abs(q) < TINY
        some = xp.where(tiny, 1.0, q)
        power = xp.where(tiny, constant(q) ** self.gamma, some**self.gamma)
        if exact:  # what rounding has changed in q comes back gamma times in its power
            of_no = addition_rest(xp, 1.0, 0.0 - t, no)
            rest = addition_rest(xp, far, near, wrong) + product_rest(xp.where(right, yes, no), e, far)
            rest = rest + xp.where(right, of_no, of_no * e) - q * addition_rest(xp, 1.0, e, whole)
            power = power * (1.0 + constant(self.gamma * divide(xp, wrong, rest, whole)[1] / some))
        to_yes, to_no = side.softplus(xp, x)
        cost = times(xp, yes, to_yes) + times(xp, no, to_no)
        balance = 1.0 if self.alpha < 0.0 else self.alpha * yes + (1.0 - self.alpha) * no
        return FocalParts(x, side, wrong, q, power, cost, balance)


class FocalParts(NamedTuple):
    """What value and slopes share."""

    x: Array
    side: Sides
    wrong: Array
    "q (1 + e)."
    q: Array
    power: Array
    "q^gamma."
    cost: Array
    "ce."
    balance: Array | float
    "alpha_t."


@dataclass(frozen=True)
class KLDivergence(Pointwise):
    """t (log t - x), and 0 where t = 0; or e^t (t - x) of the logarithm of a target."""

    log_target: bool = False

    @property
    def kernel(self) -> str | None:
        return None if self.log_target else "kl_divergence"

    def kernel_takes(self, dtype: str, weighted: bool) -> bool:
        return dtype != "float64" and not weighted

    def value(self, x: Array, t: Array, /, *_: Any) -> Array:
        xp = namespace(x)
        x, t = wide(x), wide(t)
        if self.log_target:
            return self._share_times(xp, t, t - x, x)
        gap = xp.log(xp.where(t == 0.0, 1.0, t)) - x
        return times(xp, t, gap) + 0.0

    def slope(self, x: Array, t: Array, /, *_: Any) -> Array:
        """-t."""
        t = wide(t)
        return 0.0 - (namespace(t).exp(t) if self.log_target else t)

    def target_slope(self, x: Array, t: Array, /, *_: Any) -> Array:
        """log t - x + 1, or e^t (t - x + 1)."""
        xp = namespace(x)
        x, t = wide(x), wide(t)
        if self.log_target:
            return self._share_times(xp, t, (t - x) + 1.0, x)
        return xp.where((t == 0.0) & (x == -xp.inf), xp.inf, (xp.log(t) - x) + 1.0)

    def _share_times(self, xp: Any, t: Array, gap: Array, x: Array) -> Array:
        """e^t gap: 0 where e^t is, infinite only where x is; e^t in two factors where it would round as a denormal."""
        none, endless = t == -xp.inf, xp.isinf(x) & ~xp.isnan(t)
        t = xp.where(none, 0.0, t)
        small = t < -600.0
        root = xp.exp(xp.where(small, 0.5 * t, t))
        share = root * (xp.where(small, root, 1.0) * xp.where(none | endless, 1.0, gap))
        return xp.where(none, xp.where(xp.isnan(x), xp.nan, 0.0), xp.where(endless, 0.0 - x, share))


@dataclass(frozen=True)
class SquaredError(Pointwise):
    """(x - t)^2."""

    @property
    def kernel(self) -> str | None:
        return "squared_error"

    def value(self, x: Array, t: Array, /, *_: Any) -> Array:
        d = wide(x) - wide(t)
        return d * d

    def slope(self, x: Array, t: Array, /, *_: Any) -> Array:
        return 2.0 * (wide(x) - wide(t))

    def target_slope(self, x: Array, t: Array, /, *_: Any) -> Array:
        return 2.0 * (wide(t) - wide(x))


def shares(t: Array, smoothing: float) -> tuple[Array, Array]:
    """(t, 1 - t) of a smoothed target; each made of its own terms, since 1 - ((1 - e) t + e / 2) has lost digits."""
    if not smoothing:
        return t, 1.0 - t
    return (1.0 - smoothing) * t + 0.5 * smoothing, (1.0 - smoothing) * (1.0 - t) + 0.5 * smoothing


def weighted(loss: Array, weight: Array | None, sample_weight: Array | None, kept: Array | None) -> Array:
    """Losses (or their slopes) times what weighs them, 0 where they are not kept."""
    xp = namespace(loss)
    if weight is not None:
        loss = times(xp, wide(weight), loss)
    if sample_weight is not None:
        loss = times(xp, leading(sample_weight, loss), loss)
    return loss if kept is None else xp.where(kept, loss, 0.0)


def leading(sample_weight: Array, loss: Array) -> Array:
    """One number for all elements that share their first dimensions, beside those elements."""
    shape = tuple(sample_weight.shape)
    return wide(namespace(loss).reshape(sample_weight, shape + (1,) * (loss.ndim - len(shape))))


def elements(
    denominator: str | None,
    t: Array,
    weight: Array | None,
    pos_weight: Array | None,
    sample_weight: Array | None,
    kept: Array | None,
) -> Array | float:
    """What a mean over elements with targets t divides by, by the name in `_reduce.Denominator`."""
    xp = namespace(t)
    t = wide(t)
    number = float(prod(t.shape))
    if denominator == "batch" or (kept is None and denominator in (None, "count")):
        return number
    if denominator == "positives":
        positives = xp.sum(weighted(t, None, None, kept))
        return xp.where(positives < 1.0, 1.0, positives)
    one = xp.ones_like(t)
    if denominator == "weights":
        if pos_weight is not None:
            one = wide(pos_weight) * t + (1.0 - t)
        return xp.sum(weighted(one, weight, sample_weight, kept))
    return xp.sum(weighted(one, None, None, kept))


def root_mean_square(d: Array, axis: tuple[int, ...]) -> Array:
    """sqrt(mean d^2), scaled by the largest |d| so that no square overflows or vanishes; its gradient at 0 is 0."""
    xp = namespace(d)
    count = prod([d.shape[a] for a in axis])
    if not count:
        return xp.sum(d, axis=axis) + xp.nan
    s = constant(xp.max(xp.abs(d), axis=axis, keepdims=True))
    s = xp.where((s > 0.0) & (s < xp.inf), s, 1.0)
    r = d / s
    mean = xp.sum(r * r, axis=axis, keepdims=True) / count
    zero = mean == 0.0
    root = xp.where(zero, 0.0, s * xp.sqrt(xp.where(zero, 1.0, mean)))
    return xp.squeeze(root, axis=axis)


def root_of_mean(total: float, count: int) -> float | None:
    """The same of a sum of squares in float64; None where it is 0 or infinite, or squares may have vanished."""
    return sqrt(total / count) if 1e-270 < total < inf else None


def root_mean_square_slope(d: Array, axis: tuple[int, ...]) -> Array:
    """d / (count root), its derivative over d."""
    xp = namespace(d)
    count = prod([d.shape[a] for a in axis])
    if not count:
        return d
    s = constant(xp.max(xp.abs(d), axis=axis, keepdims=True))
    r = d / xp.where((s > 0.0) & (s < xp.inf), s, 1.0)
    mean = xp.sum(r * r, axis=axis, keepdims=True) / count
    zero = mean == 0.0
    return xp.where(zero, 0.0, r / (count * xp.sqrt(xp.where(zero, 1.0, mean))))
