"""True values and gradients of the loss functions, from their textbook definitions, in ball arithmetic.

Nothing here is arranged for accuracy, and nothing is shared with `src`: softmax is exp(x_j) / sum exp(x_i),
cross-entropy is log(sum exp(x)) - x_y, its gradient is p_j - [j = y]. Cancellation is paid for with digits instead:
Arb returns every number with a rigorous bound of its error, and `settle` doubles the precision until all bounds are
below 2^-112 of the result (or of the larger term, where a result crosses zero). Inputs are converted exactly.

Arrays are NumPy arrays of one of the four formats, rows first and classes last: x is (N, C). -inf logits are classes of
probability 0. NaN and +inf have no definition to evaluate, only a policy; `docs/special-values.md` has its table.

Gradients come as `Truth(value, unit)`: where a gradient is the difference of two terms that can be equal, `unit` is the
larger of them, in absolute value, and the promise is in ulp of that. The terms are chosen as small as the mathematics
allows, (tau - t_j) p_j against t_j (1 - p_j) and not tau p_j against t_j, so that the unit shrinks with the gradient at
a one-hot target, and equals it there. A value has a unit for the same reason, where its own formula subtracts.

Second derivatives come from the same formulas: a gradient at a `Line(x, v)`, in place of x, is its own derivative along
v, the product of the Hessian and v.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, reduce
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from flint import arb, ctx

from .ulp import Exact, exact

GOOD_BITS = 112  # six more than `Exact` keeps
FIRST_PRECISION = 192
LAST_PRECISION = 1 << 15
NOTHING = arb(2) ** -1400  # an error this small cannot be seen in any format, nor in 2^-300 of its denormals
INFINITY = float("inf")


class Truth(NamedTuple):
    """True numbers and, where they can cross zero, the larger of the two terms (None: a number is its own unit)."""

    value: Exact
    unit: Exact | None = None


def settle(formula: Callable[[], tuple[list[Any], list[Any] | None]], shape: Any) -> Truth:
    """Evaluate formula() -> (values, units or None) at growing precision until every value is known to `GOOD_BITS`."""
    precision = FIRST_PRECISION
    while True:
        with ctx.workprec(precision):
            values, units = _slopes(*formula())
            if all(map(_known, values, units or [None] * len(values))):
                values = [arb(0) if isinstance(v, arb) and v.contains(0) else v for v in values]
                return Truth(exact(values, shape), None if units is None else exact(units, shape))
        precision *= 2
        if precision > LAST_PRECISION:
            raise ArithmeticError(
                f"oracle: not settled with {LAST_PRECISION} bits; is a result exactly zero by cancellation?"
            )


def _known(value: Any, unit: Any) -> bool:
    if isinstance(value, float):
        return True
    if value.rel_accuracy_bits() >= GOOD_BITS:
        return True
    radius = value.rad()
    return bool(radius < NOTHING) or (unit is not None and bool(radius < abs(unit) * arb(2) ** -GOOD_BITS))


# ---- along a line --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Line:
    """The points x + h v: gradients that are given it for x return their derivatives by h, at h = 0.

    Not those that do not depend on x: they cannot tell, and return themselves.
    """

    x: np.ndarray
    v: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.x.shape

    @property
    def size(self) -> int:
        return self.x.size

    def __len__(self) -> int:
        return len(self.x)

    def __iter__(self) -> Iterator[Line]:
        return map(Line, self.x, self.v)


Points = np.ndarray | Line


class Jet:
    """A number on a line and its derivative, each with the larger term: what one rounding a step would make of it.

    A unit is what the units of the operands move the result by, in first order, or the result itself if that is more.
    A given number is exact, its unit is 0, so that a difference of two of them is its own unit. A softmax, and what
    `Row` makes of it, has the units of the entries of its Jacobian: none of them cancels.
    """

    def __init__(self, value: arb, unit: arb, slope: arb, slope_unit: arb) -> None:
        self.value, self.unit, self.slope, self.slope_unit = value, unit, slope, slope_unit

    @staticmethod
    def of(a: Any) -> Jet:
        return a if isinstance(a, Jet) else Jet(arb(a), arb(0), arb(0), arb(0))

    def _through(self, value: arb, first: arb, second: arb) -> Jet:
        """f(self), given f, f' and f'' there."""
        return _jet(
            value,
            abs(first) * self.unit,
            first * self.slope,
            larger(abs(first) * self.slope_unit, abs(second * self.slope) * self.unit),
        )

    def __add__(self, other: Any) -> Jet:
        b = Jet.of(other)
        return _jet(
            self.value + b.value,
            larger(self.unit, b.unit),
            self.slope + b.slope,
            larger(self.slope_unit, b.slope_unit),
        )

    def __mul__(self, other: Any) -> Jet:
        b = Jet.of(other)
        left, right = self.slope * b.value, self.value * b.slope
        units = (
            self.slope_unit * abs(b.value),
            abs(self.slope) * b.unit,
            self.unit * abs(b.slope),
            abs(self.value) * b.slope_unit,
        )
        return _jet(
            self.value * b.value,
            larger(self.unit * abs(b.value), abs(self.value) * b.unit),
            left + right,
            larger(larger(*units[:2]), larger(*units[2:])),
        )

    def __neg__(self) -> Jet:
        return Jet(-self.value, self.unit, -self.slope, self.slope_unit)

    def __sub__(self, other: Any) -> Jet:
        return self + -Jet.of(other)

    def __rsub__(self, other: Any) -> Jet:
        return -self + Jet.of(other)

    def __truediv__(self, other: Any) -> Jet:
        return self * Jet.of(other)._inverse()

    def __rtruediv__(self, other: Any) -> Jet:
        return Jet.of(other) * self._inverse()

    def _inverse(self) -> Jet:
        over = 1 / self.value
        return self._through(over, -(over**2), 2 * over**3)

    def __pow__(self, exponent: int) -> Jet:
        assert exponent == 2
        return self * self

    __radd__, __rmul__ = __add__, __mul__

    def exp(self) -> Jet:
        return self._through(*[self.value.exp()] * 3)

    def log(self) -> Jet:
        over = 1 / self.value
        return self._through(self.value.log(), over, -(over**2))

    def sqrt(self) -> Jet:
        root = self.value.sqrt()
        return self._through(root, 1 / (2 * root), -1 / (4 * root**3))

    def __abs__(self) -> Jet:
        return -self if self < 0 else self

    def max(self, other: Any) -> Jet:
        return Jet.of(other) if self < other else self

    def min(self, other: Any) -> Jet:
        return Jet.of(other) if self > other else self

    def __eq__(self, other: object) -> bool:
        return bool(self.value == (other.value if isinstance(other, Jet) else other))

    def __lt__(self, other: Any) -> bool:
        return bool(self.value < (other.value if isinstance(other, Jet) else other))

    def __gt__(self, other: Any) -> bool:
        return bool(self.value > (other.value if isinstance(other, Jet) else other))

    def __float__(self) -> float:
        return float(self.value)


def _jet(value: arb, unit: arb, slope: arb, slope_unit: arb) -> Jet:
    return Jet(value, larger(abs(value), unit), slope, larger(abs(slope), slope_unit))


def _slopes(values: list[Any], units: list[Any] | None) -> tuple[list[Any], list[Any] | None]:
    """Numbers with their units as they are; of jets the slopes with theirs."""
    if not any(isinstance(v, Jet) for v in values):
        return values, units
    jets = [Jet.of(v) for v in values]
    return [jet.slope for jet in jets], [jet.slope_unit for jet in jets]


# ---- one row -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=48)
def _exponentials(row: bytes, temperature: float, precision: int) -> tuple[list[arb], arb]:
    """exp(x_j / T) and their sum; equal logits are evaluated once."""
    known: dict[float, arb] = {-INFINITY: arb(0)}
    values = []
    for x in np.frombuffer(row).tolist():
        if x not in known:
            known[x] = (arb(x) / temperature).exp()
        values.append(known[x])
    return values, sum(values, arb(0))


@lru_cache(maxsize=48)
def _probabilities(row: bytes, temperature: float, precision: int) -> list[arb]:
    values, total = _exponentials(row, temperature, precision)
    return [e / total for e in values]


@lru_cache(maxsize=48)
def _surprises(row: bytes, temperature: float, precision: int) -> list[Any]:
    lse = _exponentials(row, temperature, precision)[1].log()
    return [INFINITY if x == -INFINITY else lse - arb(x) / temperature for x in np.frombuffer(row).tolist()]


class Row:
    """A row of logits, over the temperature, at the current precision. Gradients here are those by x / temperature.

    On a line through them its numbers are jets. With w_j = v_j - sum p v: p' = p w, lse' = sum p v, and their larger
    terms are those of v_j (1 - p_j) and p_k v_k for the others.
    """

    def __init__(self, x: np.ndarray, temperature: float = 1.0, v: np.ndarray | None = None) -> None:
        if not np.all(x < INFINITY):
            raise ValueError("oracle: NaN and +inf have no true value")
        self.x = x.tolist()
        self.temperature = temperature
        self._key = x.tobytes(), temperature
        self._v = v

    @property
    def _p(self) -> list[arb]:
        return _probabilities(*self._key, ctx.prec)

    def _moved(self) -> tuple[arb, arb, list[tuple[arb, arb]]]:
        """lse' and its larger term, and every w_j with its."""
        v = [arb(vj) / self.temperature for vj in self._v] if self._v is not None else []
        mean = sum((pj * vj for pj, vj in zip(self._p, v, strict=True)), arb(0))
        sizes = [pj * abs(vj) for pj, vj in zip(self._p, v, strict=True)]
        others = _of_others(sizes, larger)
        moves = [
            (vj - mean, larger((1 - pj) * abs(vj), other)) for pj, vj, other in zip(self._p, v, others, strict=True)
        ]
        return mean, reduce(larger, sizes), moves

    @property
    def p(self) -> list[Any]:
        if self._v is None:
            return self._p
        return [Jet(p, p, p * w, p * u) for p, (w, u) in zip(self._p, self._moved()[2], strict=True)]

    @property
    def q(self) -> list[Any]:
        """1 - p, exactly 0 where no other class has a part."""
        alone = sum(v > -INFINITY for v in self.x) == 1
        q = [arb(0) if alone and v > -INFINITY else 1 - p for p, v in zip(self._p, self.x, strict=True)]
        if self._v is None:
            return q
        return [Jet(q, q, -p.slope, p.slope_unit) for q, p in zip(q, self.p, strict=True)]

    @property
    def lse(self) -> Any:
        lse = _exponentials(*self._key, ctx.prec)[1].log()
        return lse if self._v is None else Jet(lse, larger(abs(self.top), lse - self.top), *self._moved()[:2])

    @property
    def numbers(self) -> list[Any]:
        """x as it is given."""
        return _numbers(self.x if self._v is None else Line(np.array(self.x), self._v))

    @property
    def top(self) -> arb:
        return arb(max(self.x)) / self.temperature

    @property
    def lse_unit(self) -> arb:
        """The larger of max(x) and lse - max(x), which cancel where lse is near zero."""
        return larger(abs(self.top), self.lse - self.top)

    def surprise(self) -> list[Any]:
        """-log p_j = lse - x_j; +inf for a class of probability 0."""
        costs = _surprises(*self._key, ctx.prec)
        if self._v is None:
            return costs
        moves = self._moved()[2]
        return [s if s == INFINITY else Jet(s, s, -w, u) for s, (w, u) in zip(costs, moves, strict=True)]

    def entropy(self) -> arb:
        return sum((p * s for p, s in zip(self.p, self.surprise(), strict=True) if s != INFINITY), arb(0))

    def entropy_gradient(self) -> tuple[list[arb], list[arb]]:
        """dH/dx_j = p_j (-log p_j - H); its larger term is p_j max(d_j, D), d_j = max(x) - x_j, D = sum p_j d_j."""
        p, entropy = self.p, self.entropy()
        top = self.top
        below = [arb(0) if x == -INFINITY else top - arb(x) / self.temperature for x in self.x]
        mean = sum((pj * d for pj, d in zip(p, below, strict=True)), arb(0))
        slope = [arb(0) if s == INFINITY else pj * (s - entropy) for pj, s in zip(p, self.surprise(), strict=True)]
        return slope, [pj * larger(d, mean) for pj, d in zip(p, below, strict=True)]

    def cost(self, t: Sequence[arb]) -> Any:
        """sum_j t_j (lse - x_j), where 0 times infinity is 0."""
        terms = [(tj, s) for tj, s in zip(t, self.surprise(), strict=True) if tj != 0]
        if any(isinstance(s, float) for _, s in terms):
            return INFINITY
        return sum((tj * s for tj, s in terms), arb(0))

    def cost_gradient(
        self, t: Sequence[arb], lse: arb | None = None, lse_unit: arb | None = None
    ) -> tuple[list[arb], list[arb]]:
        """Gradient of cost(t) + b lse (b is `lse`): tau p_j - t_j + b p_j, tau = sum t; its larger term is that of
        (|b| + |tau - t_j|) p_j and |t_j| (1 - p_j). Where b crosses zero itself, `lse_unit` stands for |b|.
        """
        b = arb(0) if lse is None else lse
        b_unit = abs(b) if lse_unit is None else lse_unit
        columns = list(zip(self.p, self.q, t, _of_others(t, operator.add), strict=True))
        slope = [others * pj - tj * qj + b * pj for pj, qj, tj, others in columns]
        return slope, [larger((b_unit + abs(others)) * pj, abs(tj) * qj) for pj, qj, tj, others in columns]


def larger(a: Any, b: Any) -> Any:
    return b.max(a) if isinstance(b, Jet) else a.max(b)


def _of_others(values: Sequence[Any], join: Callable[[Any, Any], Any]) -> list[Any]:
    """For every number the sum, or the largest, of the others: nothing has to be taken away again."""
    before = accumulate(values[:-1], join, initial=arb(0))
    after = list(accumulate(values[:0:-1], join, initial=arb(0)))[::-1]
    return [join(a, b) for a, b in zip(before, after, strict=True)]


def _float64(a: Any) -> np.ndarray:
    return np.asarray(a).astype(np.float64)


def _rows(x: Points, temperature: float = 1.0) -> list[Row]:
    if isinstance(x, Line):
        return [Row(row, temperature, v) for row, v in zip(_float64(x.x), _float64(x.v), strict=True)]
    return [Row(row, temperature) for row in np.ascontiguousarray(_float64(x))]


def _numbers(a: Points | Sequence[float]) -> list[Any]:
    if isinstance(a, Line):
        return [Jet(x, arb(0), v, arb(0)) for x, v in zip(_numbers(a.x), _numbers(a.v), strict=True)]
    return [arb(v) for v in _float64(a).ravel().tolist()]


def _table(a: Points) -> list[list[Any]]:
    return [_numbers(row) for row in a]


# ---- transforms ----------------------------------------------------------------------------------------------------


def softmax(x: np.ndarray, temperature: float = 1.0) -> Truth:
    return settle(lambda: ([p for row in _rows(x, temperature) for p in row.p], None), x.shape)


def log_softmax(x: np.ndarray, temperature: float = 1.0) -> Truth:
    def formula() -> tuple[list[Any], None]:
        return [-s for row in _rows(x, temperature) for s in row.surprise()], None

    return settle(formula, x.shape)


def logsumexp(x: np.ndarray, temperature: float = 1.0) -> Truth:
    """The unit is that of the larger of max(x) and lse - max(x), which cancel where the result is near zero."""

    def formula() -> tuple[list[Any], list[Any]]:
        rows = _rows(x, temperature)
        return [row.lse for row in rows], [row.lse_unit for row in rows]

    return settle(formula, x.shape[:1])


def logsumexp_gradient(x: Points, g: np.ndarray) -> Truth:
    def formula() -> tuple[list[Any], None]:
        return [gr * p for row, gr in zip(_rows(x), _numbers(g), strict=True) for p in row.p], None

    return settle(formula, x.shape)


def softmax_vjp(x: Points, g: np.ndarray, temperature: float = 1.0) -> Truth:
    """dx_j = p_j (g_j - sum_i p_i g_i); larger term p_j max(|g_j - g_k|, sum_i p_i |g_i - g_k|), k = argmax x."""

    def formula() -> tuple[list[Any], list[Any]]:
        values, units = [], []
        for row, gr in zip(_rows(x, temperature), _table(g), strict=True):
            p = row.p
            mean = sum((pi * gi for pi, gi in zip(p, gr, strict=True)), arb(0))
            top = gr[row.x.index(max(row.x))]
            spread = sum((pi * abs(gi - top) for pi, gi in zip(p, gr, strict=True)), arb(0))
            values += [pj * (gj - mean) / temperature for pj, gj in zip(p, gr, strict=True)]
            units += [pj * larger(abs(gj - top), spread) / temperature for pj, gj in zip(p, gr, strict=True)]
        return values, units

    return settle(formula, x.shape)


def log_softmax_vjp(x: Points, g: np.ndarray, temperature: float = 1.0) -> Truth:
    """dx_j = g_j - p_j sum_i g_i; larger term of |g_j| (1 - p_j) and p_j sum of the other |g_i|."""

    def formula() -> tuple[list[Any], list[Any]]:
        values, units = [], []
        for row, gr in zip(_rows(x, temperature), _table(g), strict=True):
            others, sizes = _of_others(gr, operator.add), _of_others([abs(gi) for gi in gr], operator.add)
            for pj, qj, gj, other, size in zip(row.p, row.q, gr, others, sizes, strict=True):
                values.append((gj * qj - pj * other) / temperature)
                units.append(larger(abs(gj) * qj, size * pj) / temperature)
        return values, units

    return settle(formula, x.shape)


def sigmoid(x: np.ndarray) -> Truth:
    return settle(lambda: ([1 / (1 + (-v).exp()) for v in _numbers(x)], None), x.shape)


def sigmoid_vjp(x: Points, g: np.ndarray) -> Truth:
    def formula() -> tuple[list[Any], None]:
        return [gi / ((1 + (-v).exp()) * (1 + v.exp())) for v, gi in zip(_numbers(x), _numbers(g), strict=True)], None

    return settle(formula, x.shape)


def logsigmoid(x: np.ndarray) -> Truth:
    return settle(lambda: ([-(1 + (-v).exp()).log() for v in _numbers(x)], None), x.shape)


def logsigmoid_vjp(x: Points, g: np.ndarray) -> Truth:
    def formula() -> tuple[list[Any], None]:
        return [gi / (1 + v.exp()) for v, gi in zip(_numbers(x), _numbers(g), strict=True)], None

    return settle(formula, x.shape)


def logit(p: np.ndarray, eps: float | None = None) -> Truth:
    """log(p / (1 - p)) of p clamped to [eps, 1 - eps]. Its own unit, also where it crosses zero: 2 p - 1 is exact."""

    def formula() -> tuple[list[Any], None]:
        values: list[Any] = []
        for v in _numbers(p):
            if eps is not None:
                v = v.max(arb(eps)).min(1 - arb(eps))
            values.append(-INFINITY if v == 0 else INFINITY if v == 1 else (v / (1 - v)).log())
        return values, None

    return settle(formula, p.shape)


def logit_vjp(p: Points, g: np.ndarray, eps: float | None = None) -> Truth:
    """g / (p (1 - p)), 0 where p was clamped."""

    def formula() -> tuple[list[Any], None]:
        values: list[Any] = []
        for v, gi in zip(_numbers(p), _numbers(g), strict=True):
            if eps is not None and (v < arb(eps) or v > 1 - arb(eps)):
                values.append(arb(0))
            else:
                values.append(_times(gi, _over(arb(1), v * (1 - v))))
        return values, None

    return settle(formula, p.shape)


def inverse_softmax(p: np.ndarray, center: str | None = "mean") -> Truth:
    """log p_j less the mean of the logarithms of what is not 0, less the largest, or less nothing.

    The unit for "mean" is the larger of log(p_j / p_k) and their mean, k the largest class: log p_k cancels.
    """

    def formula() -> tuple[list[Any], list[Any] | None]:
        values, units = [], []
        for row in _table(p):
            top = row[_largest(row)]
            ratios = [None if v == 0 else (v / top).log() for v in row]
            some = [r for r in ratios if r is not None]
            mean = sum(some, arb(0)) / len(some)
            for r in ratios:
                if r is None:
                    values.append(-INFINITY)
                    units.append(arb(0))
                    continue
                values.append(r - mean if center == "mean" else r if center == "max" else r + top.log())
                units.append(larger(abs(r), abs(mean)))
        return values, units if center == "mean" else None

    return settle(formula, p.shape)


def inverse_softmax_vjp(p: Points, g: np.ndarray, center: str | None = "mean") -> Truth:
    """Rows without zeros: (g_j - m) / p_j, where m is the mean of g, or sum g at the largest class, or 0.

    Its larger term is that of |g_j| and the sum of the other |g_i|, each with its coefficient.
    """

    def formula() -> tuple[list[Any], list[Any]]:
        values, units = [], []
        for row, gr in zip(_table(p), _table(g), strict=True):
            total, size, top = sum(gr, arb(0)), sum((abs(gi) for gi in gr), arb(0)), _largest(row)
            for j, (pj, gj) in enumerate(zip(row, gr, strict=True)):
                share = arb(1) / len(row) if center == "mean" else arb(int(center == "max" and j == top))
                values.append(gj / pj - share * total / pj)
                units.append(larger(abs(gj) * (1 - share), share * (size - abs(gj))) / pj)
        return values, units

    return settle(formula, p.shape)


def _largest(row: list[arb]) -> int:
    """The first of the largest numbers, which are exact."""
    return max(range(len(row)), key=lambda j: float(row[j]))


def _over(a: arb, b: arb) -> Any:
    """a / b for a, b >= 0, where 0 / 0 is 0."""
    return arb(0) if a == 0 else INFINITY if b == 0 else a / b


def _times(factor: arb, value: Any) -> Any:
    """factor * value, where value may be infinite and factor not 0."""
    return math.copysign(value, float(factor) * value) if isinstance(value, float) else factor * value


# ---- cross-entropy -------------------------------------------------------------------------------------------------


class Targets(NamedTuple):
    """Effective targets: row r costs sum_j rows()[r][j] (lse - x_j) and z-loss is multiplied by samples()[r], both 0 if
    it is ignored; a mean divides by denominator().
    """

    rows: Callable[[], list[list[arb]]]
    samples: Callable[[], list[arb]]
    denominator: Callable[[], arb]


Denominator = str | float | None


def index_targets(
    y: np.ndarray,
    classes: int,
    weight: np.ndarray | None = None,
    ignore_index: int = -100,
    smoothing: float = 0.0,
    sample_weight: np.ndarray | None = None,
    denominator: Denominator = None,
) -> Targets:
    """(1 - e) w_y [j = y] + (e / C) w_j, nothing in ignored rows; the mean divides by the weights of the labels."""
    labels = [int(v) for v in y]
    kept = [label != ignore_index for label in labels]

    def weights() -> list[arb]:
        return [arb(1)] * classes if weight is None else _numbers(weight)

    def samples() -> list[arb]:
        return [s * k for s, k in zip(_all(sample_weight, len(labels)), kept, strict=True)]

    def rows() -> list[list[arb]]:
        w = weights()
        base = [arb(smoothing) / classes * wj if smoothing else arb(0) for wj in w]
        return [
            [s * (b + (1 - arb(smoothing)) * w[j] * (j == label)) if keep else arb(0) for j, b in enumerate(base)]
            for label, keep, s in zip(labels, kept, samples(), strict=True)
        ]

    def divisor() -> arb:
        w = weights()
        masses = [s * w[label] if keep else arb(0) for label, keep, s in zip(labels, kept, samples(), strict=True)]
        return _divisor(denominator or "weights", sum(masses, arb(0)), sum(kept), len(kept), arb(sum(kept)))

    return Targets(rows, samples, divisor)


def soft_targets(
    t: np.ndarray,
    weight: np.ndarray | None = None,
    smoothing: float = 0.0,
    sample_weight: np.ndarray | None = None,
    denominator: Denominator = None,
) -> Targets:
    """w_j ((1 - e) t_j + e / C); the mean divides by the number of rows, each with its weight."""

    def weights() -> list[arb]:
        return [arb(1)] * t.shape[1] if weight is None else _numbers(weight)

    def samples() -> list[arb]:
        return _all(sample_weight, len(t))

    def rows() -> list[list[arb]]:
        w, keep, spread = weights(), 1 - arb(smoothing), arb(smoothing) / t.shape[1]
        return [
            [s * wj * (keep * tj + spread) for wj, tj in zip(w, row, strict=True)]
            for row, s in zip(_table(t), samples(), strict=True)
        ]

    def divisor() -> arb:
        if denominator is None:
            return sum(samples(), arb(0))
        w = weights()
        masses = [
            s * wj * tj for row, s in zip(_table(t), samples(), strict=True) for wj, tj in zip(w, row, strict=True)
        ]
        return _divisor(denominator, sum(masses, arb(0)), len(t), len(t), sum(_numbers(t), arb(0)))

    return Targets(rows, samples, divisor)


def _divisor(denominator: str | float, weights: arb, count: int, batch: int, positives: arb) -> arb:
    """What a mean divides by: one of the sums that have a name, or the number that is given."""
    named = {"weights": weights, "count": arb(count), "batch": arb(batch), "positives": larger(arb(1), positives)}
    return named[denominator] if isinstance(denominator, str) else arb(float(denominator))


def _factors(reduction: str, denominator: arb, g: np.ndarray | None, rows: int) -> list[arb]:
    """What multiplies each row's gradient: the upstream gradient (1 by default), over the denominator of a mean."""
    upstream = [arb(1)] * rows if g is None else _numbers(g)
    upstream = upstream * rows if len(upstream) == 1 else upstream
    return [u / denominator for u in upstream] if reduction == "mean" else upstream


def _reduced(values: list[Any], reduction: str, denominator: arb) -> list[Any]:
    if reduction == "none":
        return values
    if INFINITY in values:
        return [INFINITY]
    total = sum(values, arb(0))
    return [total / denominator if reduction == "mean" else total]


def cross_entropy(
    x: np.ndarray, targets: Targets, reduction: str = "mean", z_loss: float = 0.0, temperature: float = 1.0
) -> Truth:
    """cost + z lse^2. With z, its larger term is that of itself and z |lse| u, where u is the unit of lse."""

    def formula() -> tuple[list[Any], list[Any] | None]:
        values, units = [], []
        for row, t, s in zip(_rows(x, temperature), targets.rows(), targets.samples(), strict=True):
            values.append(row.cost(t))
            if z_loss:
                values[-1] += s * z_loss * row.lse**2
                units.append(s * z_loss * abs(row.lse) * row.lse_unit)
        divisor = targets.denominator()
        return _reduced(values, reduction, divisor), _reduced(units, reduction, divisor) if z_loss else None

    return settle(formula, x.shape[:1] if reduction == "none" else ())


def cross_entropy_gradient(
    x: Points,
    targets: Targets,
    reduction: str = "mean",
    g: np.ndarray | None = None,
    z_loss: float = 0.0,
    temperature: float = 1.0,
) -> Truth:
    def formula() -> tuple[list[Any], list[Any]]:
        values, units = [], []
        factors = _factors(reduction, targets.denominator(), g, len(x))
        for row, t, s, factor in zip(_rows(x, temperature), targets.rows(), targets.samples(), factors, strict=True):
            if z_loss:
                z = 2 * s * z_loss
                slope, unit = row.cost_gradient(t, z * row.lse, z * larger(abs(row.lse), row.lse_unit))
            else:
                slope, unit = row.cost_gradient(t)
            values += [factor * v / temperature for v in slope]
            units += [abs(factor) * u / temperature for u in unit]
        return values, units

    return settle(formula, x.shape)


def cross_entropy_target_gradient(x: Points, reduction: str = "mean", weight: np.ndarray | None = None) -> Truth:
    """d loss/dt_j = w_j (lse - x_j) of a soft target."""

    def formula() -> tuple[list[Any], None]:
        w = [arb(1)] * x.shape[1] if weight is None else _numbers(weight)
        factors = _factors(reduction, arb(len(x)), None, len(x))
        return [
            f * wj * s
            for row, f in zip(_rows(x), factors, strict=True)
            for wj, s in zip(w, row.surprise(), strict=True)
        ], None

    return settle(formula, x.shape)


def nll_loss(
    logp: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None, ignore_index: int = -100, reduction: str = "mean"
) -> Truth:
    """-w_y logp_y of given log-probabilities."""
    targets = index_targets(y, logp.shape[1], weight, ignore_index)

    def formula() -> tuple[list[Any], None]:
        values: list[Any] = []
        for row, t in zip(np.asarray(logp).astype(np.float64).tolist(), targets.rows(), strict=True):
            chosen = [(tj, v) for tj, v in zip(t, row, strict=True) if tj != 0]
            values.append(
                INFINITY if any(v == -INFINITY for _, v in chosen) else sum((-tj * arb(v) for tj, v in chosen), arb(0))
            )
        return _reduced(values, reduction, targets.denominator()), None

    return settle(formula, logp.shape[:1] if reduction == "none" else ())


def nll_loss_gradient(
    logp: Points, y: np.ndarray, weight: np.ndarray | None = None, ignore_index: int = -100, reduction: str = "mean"
) -> Truth:
    targets = index_targets(y, logp.shape[1], weight, ignore_index)

    def formula() -> tuple[list[Any], None]:
        factors = _factors(reduction, targets.denominator(), None, len(logp))
        return [-f * tj for f, t in zip(factors, targets.rows(), strict=True) for tj in t], None

    return settle(formula, logp.shape)


def categorical_cross_entropy(p: np.ndarray, targets: Targets, reduction: str = "mean") -> Truth:
    """-sum_j t_j log p_j of given probabilities; labels are targets as well, those of the sparse loss."""

    def formula() -> tuple[list[Any], None]:
        values: list[Any] = []
        for row, t in zip(_table(p), targets.rows(), strict=True):
            terms = [INFINITY if pj == 0 else -tj * pj.log() for pj, tj in zip(row, t, strict=True) if tj != 0]
            values.append(INFINITY if INFINITY in terms else sum(terms, arb(0)))
        return _reduced(values, reduction, targets.denominator()), None

    return settle(formula, p.shape[:1] if reduction == "none" else ())


def categorical_cross_entropy_gradient(
    p: Points, targets: Targets, reduction: str = "mean", g: np.ndarray | None = None
) -> Truth:
    """-t_j / p_j, 0 where t_j is 0."""

    def formula() -> tuple[list[Any], None]:
        factors = _factors(reduction, targets.denominator(), g, len(p))
        return [
            _times(-f, _over(tj, pj))
            for row, t, f in zip(_table(p), targets.rows(), factors, strict=True)
            for pj, tj in zip(row, t, strict=True)
        ], None

    return settle(formula, p.shape)


# ---- focal loss ----------------------------------------------------------------------------------------------------


def focal_loss(
    x: np.ndarray, targets: Targets, gamma: float = 2.0, alpha: np.ndarray | None = None, reduction: str = "mean"
) -> Truth:
    """sum_c t_c alpha_c (1 - p_c)^gamma (-log p_c); the targets hold the class weights, and alpha divides nothing."""

    def formula() -> tuple[list[Any], None]:
        values = []
        for row, t in zip(_rows(x), targets.rows(), strict=True):
            discounts = [_power(q, gamma) for q in row.q]
            values.append(row.cost([tc * a * d for tc, a, d in zip(t, _all(alpha, len(t)), discounts, strict=True)]))
        return _reduced(values, reduction, targets.denominator()), None

    return settle(formula, x.shape[:1] if reduction == "none" else ())


def focal_loss_gradient(
    x: Points,
    targets: Targets,
    gamma: float = 2.0,
    alpha: np.ndarray | None = None,
    reduction: str = "mean",
    g: np.ndarray | None = None,
) -> Truth:
    """By the chain rule that of a cross-entropy: class c costs q^gamma L, and d/dL of it is q^gamma + gamma q^(gamma-1)
    p L, never negative.
    """

    def formula() -> tuple[list[Any], list[Any]]:
        values, units = [], []
        factors = _factors(reduction, targets.denominator(), g, len(x))
        for row, t, factor in zip(_rows(x), targets.rows(), factors, strict=True):
            effective = []
            for tc, a, p, q, cost in zip(t, _all(alpha, len(t)), row.p, row.q, row.surprise(), strict=True):
                steep = arb(0)
                if tc != 0 and q != 0:
                    steep = _power(q, gamma) + gamma * _power(q, gamma - 1) * p * cost
                effective.append(tc * a * steep)
            slope, unit = row.cost_gradient(effective)
            values += [factor * v for v in slope]
            units += [abs(factor) * u for u in unit]
        return values, units

    return settle(formula, x.shape)


def _power(q: Any, exponent: float) -> Any:
    """q^exponent, where 0^0 is 1."""
    return arb(1) if exponent == 0 else q if q == 0 else (exponent * q.log()).exp()


# ---- row statistics ------------------------------------------------------------------------------------------------


class RowTruth(NamedTuple):
    nll: Truth
    lse: Truth
    entropy: Truth
    prior: Truth


def row_statistics(
    x: np.ndarray, targets: Targets | None = None, prior: np.ndarray | None = None, temperature: float = 1.0
) -> RowTruth:
    """The four statistics of every row; `nll` needs targets, `prior` a weight vector u: sum_j u_j (lse - x_j)."""
    shape = x.shape[:1]
    nothing = [arb(0)] * x.shape[1]

    def nll() -> tuple[list[Any], None]:
        t = targets.rows() if targets else [nothing] * len(x)
        return [row.cost(tr) for row, tr in zip(_rows(x, temperature), t, strict=True)], None

    def prior_cost() -> tuple[list[Any], None]:
        u = nothing if prior is None else _numbers(prior)
        return [row.cost(u) for row in _rows(x, temperature)], None

    return RowTruth(
        settle(nll, shape),
        logsumexp(x, temperature),
        settle(lambda: ([row.entropy() for row in _rows(x, temperature)], None), shape),
        settle(prior_cost, shape),
    )


def row_statistics_gradient(
    x: Points,
    targets: Targets | None,
    prior: np.ndarray | None,
    g: dict[str, np.ndarray],
    temperature: float = 1.0,
) -> Truth:
    """Gradient of sum_r g_nll nll + g_lse lse + g_entropy entropy + g_prior prior; the unit is its largest term."""
    zeros = np.zeros(len(x))

    def formula() -> tuple[list[Any], list[Any]]:
        values, units = [], []
        nothing = [arb(0)] * x.shape[1]
        t_rows = targets.rows() if targets else [nothing] * len(x)
        u = nothing if prior is None else _numbers(prior)
        upstream = [_numbers(g.get(name, zeros)) for name in ("nll", "lse", "entropy", "prior")]
        for row, t, a, b, c, d in zip(_rows(x, temperature), t_rows, *upstream, strict=True):
            effective = [a * tj + d * uj for tj, uj in zip(t, u, strict=True)]
            slope, unit = row.cost_gradient(effective, b)
            if c != 0:
                curve, curve_unit = row.entropy_gradient()
                slope = [s + c * e for s, e in zip(slope, curve, strict=True)]
                unit = [larger(v, abs(c) * e) for v, e in zip(unit, curve_unit, strict=True)]
            values += [v / temperature for v in slope]
            units += [u / temperature for u in unit]
        return values, units

    return settle(formula, x.shape)


# ---- pointwise losses ----------------------------------------------------------------------------------------------


def _all(a: np.ndarray | None, shape: Any, default: float = 1.0) -> list[arb]:
    return _numbers(np.broadcast_to(default if a is None else np.asarray(a).astype(np.float64), shape))


class Bits(NamedTuple):
    """Every element costs yes (-log p) + no (-log(1 - p)); a mean divides by `denominator`."""

    yes: list[arb]
    no: list[arb]
    denominator: arb


def _bits(
    t: np.ndarray,
    weight: np.ndarray | None,
    pos_weight: np.ndarray | None,
    smoothing: float = 0.0,
    ignore_index: float | None = None,
    sample_weight: np.ndarray | None = None,
    denominator: Denominator = None,
) -> Bits:
    """yes = s w pos t', no = s w (1 - t'), t' = (1 - e) t + e / 2; both 0 where t is `ignore_index`."""
    if sample_weight is not None:
        sample_weight = sample_weight.reshape(sample_weight.shape + (1,) * (t.ndim - sample_weight.ndim))
    e = arb(smoothing)
    yes, no, masses, positives, count = [], [], arb(0), arb(0), 0
    for ti, w, pos, s in zip(
        _numbers(t), _all(weight, t.shape), _all(pos_weight, t.shape), _all(sample_weight, t.shape), strict=True
    ):
        if ignore_index is not None and ti == ignore_index:
            yes.append(arb(0))
            no.append(arb(0))
            continue
        yes.append(s * w * pos * ((1 - e) * ti + e / 2))
        no.append(s * w * ((1 - e) * (1 - ti) + e / 2))
        masses += s * w * (pos * ti + 1 - ti)
        positives += ti
        count += 1
    return Bits(yes, no, _divisor("count" if denominator is None else denominator, masses, count, t.size, positives))


def binary_cross_entropy_with_logits(
    x: np.ndarray,
    t: np.ndarray,
    weight: np.ndarray | None = None,
    pos_weight: np.ndarray | None = None,
    reduction: str = "mean",
    **options: Any,
) -> Truth:
    """w (pos t log(1 + e^-x) + (1 - t) log(1 + e^x)); options: those of `_bits`."""

    def formula() -> tuple[list[Any], None]:
        bits = _bits(t, weight, pos_weight, **options)
        values = [
            yes * (1 + (-xi).exp()).log() + no * (1 + xi.exp()).log()
            for xi, yes, no in zip(_numbers(x), bits.yes, bits.no, strict=True)
        ]
        return _reduced(values, reduction, bits.denominator), None

    return settle(formula, x.shape if reduction == "none" else ())


def binary_cross_entropy_with_logits_gradient(
    x: Points,
    t: np.ndarray,
    weight: np.ndarray | None = None,
    pos_weight: np.ndarray | None = None,
    reduction: str = "mean",
    g: np.ndarray | None = None,
    **options: Any,
) -> Truth:
    """w ((1 - t) sigma(x) - pos t sigma(-x)), larger term of the two."""

    def formula() -> tuple[list[Any], list[Any]]:
        bits = _bits(t, weight, pos_weight, **options)
        values, units = [], []
        factors = _factors(reduction, bits.denominator, g, x.size)
        for xi, yes, no, factor in zip(_numbers(x), bits.yes, bits.no, factors, strict=True):
            up, down = no / (1 + (-xi).exp()), yes / (1 + xi.exp())
            values.append(factor * (up - down))
            units.append(abs(factor) * larger(abs(up), abs(down)))
        return values, units

    return settle(formula, x.shape)


def binary_cross_entropy(
    p: np.ndarray,
    t: np.ndarray,
    weight: np.ndarray | None = None,
    reduction: str = "mean",
    clamp: str | None = "torch",
    **options: Any,
) -> Truth:
    """-w (t log p + (1 - t) log(1 - p)), where 0 log 0 is 0; PyTorch's clamp keeps every logarithm at -100 or above."""

    def surprise(probability: arb) -> Any:
        cost = INFINITY if probability == 0 else -probability.log()
        return arb(100) if clamp and (isinstance(cost, float) or cost > 100) else cost

    def formula() -> tuple[list[Any], None]:
        bits = _bits(t, weight, None, **options)
        values: list[Any] = []
        for v, yes, no in zip(_numbers(p), bits.yes, bits.no, strict=True):
            terms = [_times(share, surprise(q)) for share, q in ((yes, v), (no, 1 - v)) if share != 0]
            values.append(INFINITY if INFINITY in terms else sum(terms, arb(0)))
        return _reduced(values, reduction, bits.denominator), None

    return settle(formula, p.shape if reduction == "none" else ())


def binary_cross_entropy_gradient(
    p: Points,
    t: np.ndarray,
    weight: np.ndarray | None = None,
    reduction: str = "mean",
    g: np.ndarray | None = None,
    clamp: str | None = "torch",
    **options: Any,
) -> Truth:
    """w ((1 - t) / (1 - p) - t / p), 0 / 0 = 0, or with PyTorch's clamp w (p - t) / max(p (1 - p), 1e-12).

    It is its own unit, p - t being exact, but with smoothing: then the larger of w (1 - t) p and w t (1 - p), likewise
    divided.
    """

    def formula() -> tuple[list[Any], list[Any] | None]:
        bits = _bits(t, weight, None, **options)
        values, units = [], []
        factors = _factors(reduction, bits.denominator, g, p.size)
        for v, yes, no, factor in zip(_numbers(p), bits.yes, bits.no, factors, strict=True):
            if clamp and v * (1 - v) < 1e-12:
                up, down = no * v / arb(1e-12), yes * (1 - v) / arb(1e-12)
            else:
                up, down = _over(no, 1 - v), _over(yes, v)
            infinite = isinstance(up, float) or isinstance(down, float)
            slope = (INFINITY if isinstance(up, float) else -INFINITY) if infinite else up - down
            values.append(_times(factor, slope))
            units.append(arb(0) if infinite else abs(factor) * larger(abs(up), abs(down)))
        return values, units if options.get("smoothing") else None

    return settle(formula, p.shape)


def sigmoid_focal_loss(
    x: np.ndarray, t: np.ndarray, alpha: float = 0.25, gamma: float = 2.0, reduction: str = "none"
) -> Truth:
    """alpha_t r^gamma ce: r = t sigma(-x) + (1 - t) sigma(x), ce = t log(1 + e^-x) + (1 - t) log(1 + e^x)."""

    def formula() -> tuple[list[Any], None]:
        values = [
            a * _power(ti * low + (1 - ti) * high, gamma) * (-ti * high.log() - (1 - ti) * low.log())
            for a, ti, high, low in _sigmoid_focal(x, t, alpha)
        ]
        return _reduced(values, reduction, arb(x.size)), None

    return settle(formula, x.shape if reduction == "none" else ())


def sigmoid_focal_loss_gradient(
    x: Points,
    t: np.ndarray,
    alpha: float = 0.25,
    gamma: float = 2.0,
    reduction: str = "none",
    g: np.ndarray | None = None,
) -> Truth:
    """alpha_t (gamma r^(gamma-1) r' ce + r^gamma ((1 - t) sigma(x) - t sigma(-x))), r' = (1 - 2 t) sigma(x) sigma(-x);
    the unit is the largest of the three terms.
    """

    def formula() -> tuple[list[Any], list[Any]]:
        values, units = [], []
        factors = _factors(reduction, arb(x.size), g, x.size)
        for (a, ti, high, low), factor in zip(_sigmoid_focal(x, t, alpha), factors, strict=True):
            r, ce = ti * low + (1 - ti) * high, -ti * high.log() - (1 - ti) * low.log()
            bend = gamma * _power(r, gamma - 1) * (1 - 2 * ti) * high * low * ce if gamma else arb(0)
            up, down = _power(r, gamma) * (1 - ti) * high, _power(r, gamma) * ti * low
            values.append(factor * a * (bend + up - down))
            units.append(abs(factor * a) * larger(larger(abs(bend), up), down))
        return values, units

    return settle(formula, x.shape)


def _sigmoid_focal(x: Points, t: np.ndarray, alpha: float) -> list[tuple[arb, arb, arb, arb]]:
    """(alpha_t, t, sigma(x), sigma(-x)) of every element; a negative alpha is none."""
    return [
        (
            arb(alpha) * ti + (1 - arb(alpha)) * (1 - ti) if alpha >= 0 else arb(1),
            ti,
            1 / (1 + (-xi).exp()),
            1 / (1 + xi.exp()),
        )
        for xi, ti in zip(_numbers(x), _numbers(t), strict=True)
    ]


def mse_loss(x: np.ndarray, t: np.ndarray, reduction: str = "mean") -> Truth:
    def formula() -> tuple[list[Any], None]:
        return _reduced(
            [(a - b) ** 2 for a, b in zip(_numbers(x), _numbers(t), strict=True)], reduction, arb(x.size)
        ), None

    return settle(formula, x.shape if reduction == "none" else ())


def mse_loss_gradient(x: Points, t: np.ndarray, reduction: str = "mean", g: np.ndarray | None = None) -> Truth:
    def formula() -> tuple[list[Any], None]:
        factors = _factors(reduction, arb(x.size), g, x.size)
        return [2 * f * (a - b) for f, a, b in zip(factors, _numbers(x), _numbers(t), strict=True)], None

    return settle(formula, x.shape)


def rmse_loss(x: np.ndarray, t: np.ndarray) -> Truth:
    def formula() -> tuple[list[Any], None]:
        squares = [(a - b) ** 2 for a, b in zip(_numbers(x), _numbers(t), strict=True)]
        return [(sum(squares, arb(0)) / x.size).sqrt()], None

    return settle(formula, ())


def rmse_loss_gradient(x: Points, t: np.ndarray) -> Truth:
    """d / (n RMSE); 0 where every difference is 0, the documented subgradient."""

    def formula() -> tuple[list[Any], None]:
        differences = [a - b for a, b in zip(_numbers(x), _numbers(t), strict=True)]
        rmse = (sum((d**2 for d in differences), arb(0)) / x.size).sqrt()
        return [arb(0) if rmse == 0 else d / (x.size * rmse) for d in differences], None

    return settle(formula, x.shape)


# ---- distributions given four ways ---------------------------------------------------------------------------------


class Distribution(NamedTuple):
    """A row at the current precision: p, log p (-inf at 0), and what the numbers given add up to if they are counts."""

    p: list[Any]
    log: list[Any]
    total: Any


def _distributions(x: Points, kind: str) -> list[Distribution]:
    """`x` holds p ("probs"), a multiple of p ("counts"), log p ("log_probs") or logits."""
    if kind == "logits":
        return [Distribution(row.p, [-s for s in row.surprise()], arb(1)) for row in _rows(x)]
    found = []
    for row in _table(x):
        total = sum(row, arb(0)) if kind == "counts" else arb(1)
        if kind == "log_probs":
            p = [arb(0) if v == -INFINITY else v.exp() for v in row]
            found.append(Distribution(p, [-INFINITY if v == -INFINITY else v for v in row], total))
        else:
            p = [v / total for v in row]
            found.append(Distribution(p, [-INFINITY if v == 0 else (v / total).log() for v in row], total))
    return found


def entropy(x: np.ndarray, kind: str, base: float | None = None) -> Truth:
    """-sum p log p of every row."""

    def formula() -> tuple[list[Any], None]:
        return [h / _per(base) for h in _entropies(x, kind)], None

    return settle(formula, x.shape[:1])


def perplexity(x: np.ndarray, kind: str) -> Truth:
    """exp(entropy)."""
    return settle(lambda: ([h.exp() for h in _entropies(x, kind)], None), x.shape[:1])


def _per(base: float | None) -> arb:
    return arb(1) if base is None else arb(base).log()


def _entropies(x: Points, kind: str) -> list[arb]:
    return [
        sum((-p * log for p, log in zip(row.p, row.log, strict=True) if log != -INFINITY), arb(0))
        for row in _distributions(x, kind)
    ]


def entropy_gradient(x: Points, kind: str, g: np.ndarray) -> Truth:
    """With its larger term. logits: p (-log p - H); log_probs l: -e^l (l + 1); probs: -(log p + 1); counts of sum N:
    (-log p - H) / N.
    """
    return settle(lambda: _entropy_slopes(x, kind, _numbers(g)), x.shape)


def perplexity_gradient(x: Points, kind: str, g: np.ndarray) -> Truth:
    """exp(H) times that of the entropy H."""

    def formula() -> tuple[list[Any], list[Any]]:
        factors = [h.exp() * gr for h, gr in zip(_entropies(x, kind), _numbers(g), strict=True)]
        return _entropy_slopes(x, kind, factors)

    return settle(formula, x.shape)


def _entropy_slopes(x: Points, kind: str, factors: list[arb]) -> tuple[list[Any], list[Any]]:
    values, units = [], []
    for row, h, factor in zip(_rows(x), _entropies(x, kind), factors, strict=True):
        if kind == "logits":
            slope, unit = row.entropy_gradient()
        elif kind == "log_probs":
            slope = [arb(0) if v == -INFINITY else -v.exp() * (v + 1) for v in row.numbers]
            unit = [arb(0) if v == -INFINITY else v.exp() * larger(abs(v), arb(1)) for v in row.numbers]
        elif 0 in row.x:
            raise ValueError("oracle: the slope of entropy is infinite at probability 0")
        elif kind == "probs":
            slope = [-(v.log() + 1) for v in row.numbers]
            unit = [larger(abs(v.log()), arb(1)) for v in row.numbers]
        else:
            total = sum(row.numbers, arb(0))
            logs = [-(v / total).log() for v in row.numbers]
            slope = [(v - h) / total for v in logs]
            unit = [larger(v, h) / total for v in logs]
        values += [factor * s for s in slope]
        units += [abs(factor) * u for u in unit]
    return values, units


# ---- two distributions ---------------------------------------------------------------------------------------------


class Part(NamedTuple):
    """What one class adds to a measure of p and q, and the partial derivatives of that by p_j and q_j.

    `doubt` is how much the sum moves, in first order, when log p and log q do by their own size.
    """

    cost: Any
    by_p: Any
    by_q: Any
    doubt: arb


def _cross_entropy_part(p: arb, log_p: Any, q: arb, log_q: Any) -> Part:
    """-p log q."""
    if log_q == -INFINITY:
        return Part(arb(0) if p == 0 else INFINITY, INFINITY, arb(0) if p == 0 else -INFINITY, arb(0))
    return Part(-p * log_q, -log_q, -p / q, arb(0))


def _kl_part(p: arb, log_p: Any, q: arb, log_q: Any) -> Part:
    """p log(p / q) - p + q: its sum is the divergence if p and q add up to the same, and is 0 only where they agree."""
    if log_p == -INFINITY:
        return Part(q, arb(0) if q == 0 else -INFINITY, arb(1), arb(0))
    if log_q == -INFINITY:
        return Part(INFINITY, INFINITY, -INFINITY, arb(0))
    return Part(p * (log_p - log_q) - p + q, log_p - log_q, 1 - p / q, abs(q - p) * larger(abs(log_p), abs(log_q)))


def _js_part(p: arb, log_p: Any, q: arb, log_q: Any) -> Part:
    """(p log(p / m) + q log(q / m)) / 2, m = (p + q) / 2."""
    m = (p + q) / 2
    by_p, by_q = (
        arb(0) if m == 0 else -INFINITY if log == -INFINITY else (log - m.log()) / 2 for log in (log_p, log_q)
    )
    both = [v * slope for v, slope in ((p, by_p), (q, by_q)) if v != 0]
    doubt = arb(0)
    if p != 0 and q != 0:
        doubt = sum(map(abs, both), arb(0)) * larger(abs(log_p), abs(log_q))
    return Part(sum(both, arb(0)), by_p, by_q, doubt)


MEASURES = {"cross_entropy": _cross_entropy_part, "kl_divergence": _kl_part, "js_divergence": _js_part}


def _parts(measure: str, p: Distribution, q: Distribution) -> list[Part]:
    return [MEASURES[measure](*numbers) for numbers in zip(p.p, p.log, q.p, q.log, strict=True)]


def measure(
    name: str, p: np.ndarray, q: np.ndarray, p_kind: str, q_kind: str | None = None, base: float | None = None
) -> Truth:
    """One of `MEASURES` of every pair of rows.

    Of p and q given the same way it is its own unit: what they share cancels before any logarithm. Given in two ways,
    log p and log q are rounded apart, and the larger term is the error that this makes of the sum.
    """
    q_kind = q_kind or p_kind

    def formula() -> tuple[list[Any], list[Any] | None]:
        values, units = [], []
        for pr, qr in zip(_distributions(p, p_kind), _distributions(q, q_kind), strict=True):
            parts = _parts(name, pr, qr)
            costs = [part.cost for part in parts]
            values.append(INFINITY if INFINITY in costs else sum(costs, arb(0)) / _per(base))
            units.append(sum((part.doubt for part in parts), arb(0)) / _per(base))
        return values, None if p_kind == q_kind else units

    return settle(formula, p.shape[:1])


def measure_gradient(
    name: str, over: str, p: Points, q: Points, p_kind: str, q_kind: str | None = None, g: Any = None
) -> Truth:
    """The gradient over p or over q ("p", "q") as it is given: with s = d/dp_j, that of probs is s_j, of log_probs
    p_j s_j, of logits p_j (s_j - sum p s), of counts the same over their sum instead of times p_j.

    Larger terms. Of logits, k their largest: p_j max(|s_j - s_k|, sum_i p_i |s_i - s_k|), as for any function of a
    softmax; but of the js_divergence, whose slopes are bounded, p_j max(|s_j|, sum_i p_i |s_i|), of cross-entropy over
    q that of (tau - p_j) q_j and p_j (1 - q_j), tau = sum p, and of the divergence over q (t = log(q / p))
    p_j max(|t_j - t_k|, sum_i p_i |t_i - t_k|), k the largest of p. Of two kinds, |s| is replaced by the larger of the
    terms it is the difference of.
    """
    mixed = q_kind not in (None, p_kind)
    kinds = {"p": p_kind, "q": q_kind or p_kind}

    def formula() -> tuple[list[Any], list[Any]]:
        values, units = [], []
        rows = zip(_distributions(p, kinds["p"]), _distributions(q, kinds["q"]), _numbers(g), strict=True)
        for pr, qr, factor in rows:
            parts = _parts(name, pr, qr)
            slopes = [part.by_p if over == "p" else part.by_q for part in parts]
            sizes = [abs(s) for s in slopes]
            if mixed:
                sizes = [_slope_size(name, over, *numbers) for numbers in zip(slopes, *pr[:2], *qr[:2], strict=True)]
            own, kind = pr if over == "p" else qr, kinds[over]
            if kind == "probs":
                slope, unit = slopes, sizes
            elif kind == "log_probs":
                slope, unit = _weighted(own.p, slopes), _weighted(own.p, sizes)
            else:
                slope, unit = _centred(own, slopes, sizes if mixed or name == "js_divergence" else None)
                if over == "q" and name != "js_divergence":
                    unit = _q_logits_unit(name, mixed, pr, qr)
                if kind == "counts":
                    slope, unit = ([v / w / own.total for v, w in zip(a, own.p, strict=True)] for a in (slope, unit))
            values += [_times(factor, v) for v in slope]
            units += [abs(factor) * (arb(0) if isinstance(u, float) else u) for u in unit]
        return values, units

    return settle(formula, (p if over == "p" else q).shape)


def _weighted(p: list[arb], values: list[Any]) -> list[arb]:
    """p_j v_j, 0 where p_j is 0."""
    return [arb(0) if pj == 0 else pj * v for pj, v in zip(p, values, strict=True)]


def _centred(own: Distribution, slopes: list[Any], sizes: list[Any] | None) -> tuple[list[arb], list[arb]]:
    """p_j (s_j - sum p s) and its larger term, from the distances to s at the largest p, or from the given sizes."""
    top = slopes[_largest(own.p)]
    sizes = sizes or [arb(0) if pj == 0 else abs(s - top) for pj, s in zip(own.p, slopes, strict=True)]
    mean, spread = sum(_weighted(own.p, slopes), arb(0)), sum(_weighted(own.p, sizes), arb(0))
    return (
        [arb(0) if pj == 0 else pj * (s - mean) for pj, s in zip(own.p, slopes, strict=True)],
        [arb(0) if pj == 0 else pj * larger(s, spread) for pj, s in zip(own.p, sizes, strict=True)],
    )


def _q_logits_unit(name: str, mixed: bool, p: Distribution, q: Distribution) -> list[arb]:
    """The larger terms of tau q_j - p_j, or, where p and q are both logits, of p_j (e^t_j - 1)."""
    if name == "cross_entropy" or mixed:
        tau = sum(p.p, arb(0))
        return [larger((tau - pj) * qj, pj * (1 - qj)) for pj, qj in zip(p.p, q.p, strict=True)]
    t = [arb(0) if pj == 0 else b - a for pj, a, b in zip(p.p, p.log, q.log, strict=True)]
    distances = [abs(tj - t[_largest(p.p)]) for tj in t]
    spread = sum(_weighted(p.p, distances), arb(0))
    return [pj * larger(d, spread) for pj, d in zip(p.p, distances, strict=True)]


def _slope_size(name: str, over: str, slope: Any, p: arb, log_p: Any, q: arb, log_q: Any) -> Any:
    """The larger of the terms that a slope is the difference of, where log p and log q are rounded apart."""
    if name == "cross_entropy":
        return abs(slope)
    if name == "kl_divergence" and over == "q":
        return larger(arb(1), p / q)
    return larger(abs(log_p), abs(log_q)) if p != 0 and q != 0 else abs(slope)


def k3(log_p: np.ndarray, log_q: np.ndarray) -> Truth:
    """e^d - d - 1, d = log q - log p."""

    def formula() -> tuple[list[Any], None]:
        differences = [b - a for a, b in zip(_numbers(log_p), _numbers(log_q), strict=True)]
        return [d.exp() - d - 1 for d in differences], None

    return settle(formula, log_p.shape)


def k3_gradient(log_p: Points, log_q: Points, over: str, g: np.ndarray) -> Truth:
    """e^d - 1 over log q, 1 - e^d over log p."""
    sign = 1 if over == "q" else -1

    def formula() -> tuple[list[Any], None]:
        columns = zip(_numbers(log_p), _numbers(log_q), _numbers(g), strict=True)
        return [sign * gi * ((b - a).exp() - 1) for a, b, gi in columns], None

    return settle(formula, log_p.shape)


def kl_div(x: np.ndarray, t: np.ndarray, log_target: bool = False, reduction: str = "mean") -> Truth:
    """t (log t - x), or e^t (t - x); 0 where t (e^t) is 0.

    Larger terms: t log t and t x, each summed where the result is reduced. With log_target the difference is exact, so
    that an element is its own unit, and a sum has that of its positive and its negative part.
    """

    def formula() -> tuple[list[Any], list[Any] | None]:
        values: list[Any] = []
        parts = []
        for xi, ti in zip(*(np.asarray(a).astype(np.float64).ravel().tolist() for a in (x, t)), strict=True):
            if ti == (-INFINITY if log_target else 0):
                values.append(arb(0))
                parts.append((arb(0), arb(0)))
            elif xi == -INFINITY:
                values.append(INFINITY)
                parts.append((arb(0), arb(0)))
            elif log_target:
                values.append(arb(ti).exp() * (arb(ti) - arb(xi)))
                parts.append((values[-1].max(arb(0)), (-values[-1]).max(arb(0))))
            else:
                values.append(arb(ti) * (arb(ti).log() - arb(xi)))
                parts.append((abs(arb(ti) * arb(ti).log()), abs(arb(ti) * arb(xi))))
        how, divisor = ("mean", arb(len(x))) if reduction == "batchmean" else (reduction, arb(x.size))
        if how == "none":
            return values, None if log_target else [larger(*part) for part in parts]
        totals = (_reduced(list(column), how, divisor)[0] for column in zip(*parts, strict=True))
        return _reduced(values, how, divisor), [larger(*totals)]

    return settle(formula, x.shape if reduction == "none" else ())


def kl_div_gradient(
    x: Points,
    t: Points,
    log_target: bool = False,
    reduction: str = "mean",
    g: np.ndarray | None = None,
    over: str = "input",
) -> Truth:
    """Over `input`: -t, or -e^t. Over `target`: log t + 1 - x, or e^t (t + 1 - x); the unit is the largest term."""

    def formula() -> tuple[list[Any], list[Any]]:
        values, units = [], []
        how, divisor = ("mean", arb(len(x))) if reduction == "batchmean" else (reduction, arb(x.size))
        rows = zip(_numbers(x), _numbers(t), _factors(how, divisor, g, x.size), strict=True)
        for xi, ti, factor in rows:
            mass, log = (ti.exp(), ti) if log_target else (ti, ti.log() if ti != 0 else arb(0))
            if over == "input":
                values.append(-factor * mass)
                units.append(arb(0))
            else:
                scale = abs(factor) * (mass if log_target else 1)
                values.append(factor * (mass if log_target else 1) * (log + 1 - xi))
                units.append(scale * larger(larger(abs(log), abs(xi)), arb(1)))
        return values, units

    return settle(formula, x.shape)
