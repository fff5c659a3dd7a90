"""True values and gradients of the loss functions, from their textbook definitions, in ball arithmetic.

Nothing here is arranged for accuracy, and nothing is shared with `src`: softmax is exp(x_j) / sum exp(x_i),
cross-entropy is log(sum exp(x)) - x_y, its gradient is p_j - [j = y]. Cancellation is paid for with digits instead:
Arb returns every number with a rigorous bound of its error, and `settle` doubles the precision until all bounds are
below 2^-112 of the result (or of the larger term, where a result crosses zero). Inputs are converted exactly.

Arrays are NumPy arrays of one of the four formats, rows first and classes last: x is (N, C). -inf logits are classes of
probability 0. NaN and +inf have no definition to evaluate, only a policy; `test_edges.py` holds its table.

Gradients come as `Truth(value, unit)`: where a gradient is the difference of two terms that can be equal, `unit` is the
larger of them, in absolute value, and the promise is in ulp of that. The terms are chosen as small as the mathematics
allows, (tau - t_j) p_j against t_j (1 - p_j) and not tau p_j against t_j, so that the unit shrinks with the gradient at
a one-hot target, and equals it there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from flint import arb, ctx

from ulp import Exact, exact

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
            values, units = formula()
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


# ---- one row -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=48)
def _exponentials(row: bytes, precision: int) -> tuple[list[arb], arb]:
    """exp(x_j) and their sum; equal logits are evaluated once."""
    known: dict[float, arb] = {-INFINITY: arb(0)}
    values = []
    for x in np.frombuffer(row).tolist():
        if x not in known:
            known[x] = arb(x).exp()
        values.append(known[x])
    return values, sum(values, arb(0))


@lru_cache(maxsize=48)
def _probabilities(row: bytes, precision: int) -> list[arb]:
    values, total = _exponentials(row, precision)
    return [e / total for e in values]


@lru_cache(maxsize=48)
def _surprises(row: bytes, precision: int) -> list[Any]:
    lse = _exponentials(row, precision)[1].log()
    return [INFINITY if x == -INFINITY else lse - arb(x) for x in np.frombuffer(row).tolist()]


class Row:
    """A row of logits at the current precision."""

    def __init__(self, x: np.ndarray) -> None:
        if not np.all(x < INFINITY):
            raise ValueError("oracle: NaN and +inf have no true value")
        self.key = x.tobytes()
        self.x = x.tolist()

    @property
    def p(self) -> list[arb]:
        return _probabilities(self.key, ctx.prec)

    @property
    def lse(self) -> arb:
        return _exponentials(self.key, ctx.prec)[1].log()

    def surprise(self) -> list[Any]:
        """-log p_j = lse - x_j; +inf for a class of probability 0."""
        return _surprises(self.key, ctx.prec)

    def entropy(self) -> arb:
        return sum((p * s for p, s in zip(self.p, self.surprise(), strict=True) if s != INFINITY), arb(0))

    def entropy_gradient(self) -> tuple[list[arb], list[arb]]:
        """dH/dx_j = p_j (-log p_j - H); its larger term is p_j max(d_j, D), d_j = max(x) - x_j, D = sum p_j d_j."""
        p, entropy = self.p, self.entropy()
        top = arb(max(self.x))
        below = [arb(0) if x == -INFINITY else top - arb(x) for x in self.x]
        mean = sum((pj * d for pj, d in zip(p, below, strict=True)), arb(0))
        slope = [arb(0) if s == INFINITY else pj * (s - entropy) for pj, s in zip(p, self.surprise(), strict=True)]
        return slope, [pj * larger(d, mean) for pj, d in zip(p, below, strict=True)]

    def cost(self, t: Sequence[arb]) -> Any:
        """sum_j t_j (lse - x_j), where 0 times infinity is 0."""
        terms = [(tj, s) for tj, s in zip(t, self.surprise(), strict=True) if tj != 0]
        if any(isinstance(s, float) for _, s in terms):
            return INFINITY
        return sum((tj * s for tj, s in terms), arb(0))

    def cost_gradient(self, t: Sequence[arb], lse: arb | None = None) -> tuple[list[arb], list[arb]]:
        """Gradient of cost(t) + b lse (b is `lse`): tau p_j - t_j + b p_j, tau = sum t; its larger term is that of
        (|b| + |tau - t_j|) p_j and |t_j| (1 - p_j).
        """
        tau, b = sum(t, arb(0)), arb(0) if lse is None else lse
        p = self.p
        slope = [tau * pj - tj + b * pj for pj, tj in zip(p, t, strict=True)]
        return slope, [larger((abs(b) + abs(tau - tj)) * pj, abs(tj) * (1 - pj)) for pj, tj in zip(p, t, strict=True)]


def larger(a: arb, b: arb) -> arb:
    return a.max(b)


def _rows(x: np.ndarray) -> list[Row]:
    return [Row(row) for row in np.ascontiguousarray(np.asarray(x).astype(np.float64))]


def _numbers(a: np.ndarray | Sequence[float]) -> list[arb]:
    return [arb(v) for v in np.asarray(a).astype(np.float64).ravel().tolist()]


def _table(a: np.ndarray) -> list[list[arb]]:
    return [_numbers(row) for row in a]


# ---- transforms ----------------------------------------------------------------------------------------------------


def softmax(x: np.ndarray) -> Truth:
    return settle(lambda: ([p for row in _rows(x) for p in row.p], None), x.shape)


def log_softmax(x: np.ndarray) -> Truth:
    def formula() -> tuple[list[Any], None]:
        return [-s for row in _rows(x) for s in row.surprise()], None

    return settle(formula, x.shape)


def logsumexp(x: np.ndarray) -> Truth:
    """The unit is that of the larger of max(x) and lse - max(x), which cancel where the result is near zero."""

    def formula() -> tuple[list[Any], list[Any]]:
        lse = [row.lse for row in _rows(x)]
        top = [arb(max(row.x)) for row in _rows(x)]
        return lse, [larger(abs(m), value - m) for value, m in zip(lse, top, strict=True)]

    return settle(formula, x.shape[:1])


def logsumexp_gradient(x: np.ndarray, g: np.ndarray) -> Truth:
    def formula() -> tuple[list[Any], None]:
        return [gr * p for row, gr in zip(_rows(x), _numbers(g), strict=True) for p in row.p], None

    return settle(formula, x.shape)


def softmax_vjp(x: np.ndarray, g: np.ndarray) -> Truth:
    """dx_j = p_j (g_j - sum_i p_i g_i); larger term p_j max(|g_j - g_k|, sum_i p_i |g_i - g_k|), k = argmax x."""

    def formula() -> tuple[list[Any], list[Any]]:
        values, units = [], []
        for row, gr in zip(_rows(x), _table(g), strict=True):
            p = row.p
            mean = sum((pi * gi for pi, gi in zip(p, gr, strict=True)), arb(0))
            top = gr[row.x.index(max(row.x))]
            spread = sum((pi * abs(gi - top) for pi, gi in zip(p, gr, strict=True)), arb(0))
            values += [pj * (gj - mean) for pj, gj in zip(p, gr, strict=True)]
            units += [pj * larger(abs(gj - top), spread) for pj, gj in zip(p, gr, strict=True)]
        return values, units

    return settle(formula, x.shape)


def log_softmax_vjp(x: np.ndarray, g: np.ndarray) -> Truth:
    """dx_j = g_j - p_j sum_i g_i; larger term of |g_j| (1 - p_j) and p_j sum of the other |g_i|."""

    def formula() -> tuple[list[Any], list[Any]]:
        values, units = [], []
        for row, gr in zip(_rows(x), _table(g), strict=True):
            total, size = sum(gr, arb(0)), sum((abs(gi) for gi in gr), arb(0))
            for pj, gj in zip(row.p, gr, strict=True):
                values.append(gj - pj * total)
                units.append(larger(abs(gj) * (1 - pj), (size - abs(gj)) * pj))
        return values, units

    return settle(formula, x.shape)


# ---- cross-entropy -------------------------------------------------------------------------------------------------


class Targets(NamedTuple):
    """Effective targets: row r costs sum_j rows()[r][j] (lse - x_j), and a mean divides by denominator()."""

    rows: Callable[[], list[list[arb]]]
    denominator: Callable[[], arb]


def index_targets(
    y: np.ndarray, classes: int, weight: np.ndarray | None = None, ignore_index: int = -100, smoothing: float = 0.0
) -> Targets:
    """(1 - e) w_y [j = y] + (e / C) w_j, nothing in ignored rows; the mean divides by the weights of the labels."""
    labels = [int(v) for v in y]

    def weights() -> list[arb]:
        return [arb(1)] * classes if weight is None else _numbers(weight)

    def rows() -> list[list[arb]]:
        w, nothing = weights(), [arb(0)] * classes
        base = [arb(smoothing) / classes * wj for wj in w] if smoothing else nothing
        return [
            nothing
            if label == ignore_index
            else [b + (1 - arb(smoothing)) * w[j] * (j == label) for j, b in enumerate(base)]
            for label in labels
        ]

    def denominator() -> arb:
        w = weights()
        return sum((w[label] for label in labels if label != ignore_index), arb(0))

    return Targets(rows, denominator)


def soft_targets(t: np.ndarray, weight: np.ndarray | None = None, smoothing: float = 0.0) -> Targets:
    """w_j ((1 - e) t_j + e / C); the mean divides by the number of rows."""

    def rows() -> list[list[arb]]:
        w = [arb(1)] * t.shape[1] if weight is None else _numbers(weight)
        keep, spread = 1 - arb(smoothing), arb(smoothing) / t.shape[1]
        return [[wj * (keep * tj + spread) for wj, tj in zip(w, row, strict=True)] for row in _table(t)]

    return Targets(rows, lambda: arb(len(t)))


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


def cross_entropy(x: np.ndarray, targets: Targets, reduction: str = "mean") -> Truth:
    def formula() -> tuple[list[Any], None]:
        values = [row.cost(t) for row, t in zip(_rows(x), targets.rows(), strict=True)]
        return _reduced(values, reduction, targets.denominator()), None

    return settle(formula, x.shape[:1] if reduction == "none" else ())


def cross_entropy_gradient(
    x: np.ndarray, targets: Targets, reduction: str = "mean", g: np.ndarray | None = None
) -> Truth:
    def formula() -> tuple[list[Any], list[Any]]:
        values, units = [], []
        factors = _factors(reduction, targets.denominator(), g, len(x))
        for row, t, factor in zip(_rows(x), targets.rows(), factors, strict=True):
            slope, unit = row.cost_gradient(t)
            values += [factor * s for s in slope]
            units += [abs(factor) * u for u in unit]
        return values, units

    return settle(formula, x.shape)


def cross_entropy_target_gradient(x: np.ndarray, reduction: str = "mean", weight: np.ndarray | None = None) -> Truth:
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
    logp: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None, ignore_index: int = -100, reduction: str = "mean"
) -> Truth:
    targets = index_targets(y, logp.shape[1], weight, ignore_index)

    def formula() -> tuple[list[Any], None]:
        factors = _factors(reduction, targets.denominator(), None, len(logp))
        return [-f * tj for f, t in zip(factors, targets.rows(), strict=True) for tj in t], None

    return settle(formula, logp.shape)


# ---- row statistics ------------------------------------------------------------------------------------------------


class RowTruth(NamedTuple):
    nll: Truth
    lse: Truth
    entropy: Truth
    prior: Truth


def row_statistics(x: np.ndarray, targets: Targets | None = None, prior: np.ndarray | None = None) -> RowTruth:
    """The four statistics of every row; `nll` needs targets, `prior` a weight vector u: sum_j u_j (lse - x_j)."""
    shape = x.shape[:1]
    nothing = [arb(0)] * x.shape[1]

    def nll() -> tuple[list[Any], None]:
        t = targets.rows() if targets else [nothing] * len(x)
        return [row.cost(tr) for row, tr in zip(_rows(x), t, strict=True)], None

    def prior_cost() -> tuple[list[Any], None]:
        u = nothing if prior is None else _numbers(prior)
        return [row.cost(u) for row in _rows(x)], None

    return RowTruth(
        settle(nll, shape),
        logsumexp(x),
        settle(lambda: ([row.entropy() for row in _rows(x)], None), shape),
        settle(prior_cost, shape),
    )


def row_statistics_gradient(
    x: np.ndarray, targets: Targets | None, prior: np.ndarray | None, g: dict[str, np.ndarray]
) -> Truth:
    """Gradient of sum_r g_nll nll + g_lse lse + g_entropy entropy + g_prior prior; the unit is its largest term."""
    zeros = np.zeros(len(x))

    def formula() -> tuple[list[Any], list[Any]]:
        values, units = [], []
        nothing = [arb(0)] * x.shape[1]
        t_rows = targets.rows() if targets else [nothing] * len(x)
        u = nothing if prior is None else _numbers(prior)
        upstream = [_numbers(g.get(name, zeros)) for name in ("nll", "lse", "entropy", "prior")]
        for row, t, a, b, c, d in zip(_rows(x), t_rows, *upstream, strict=True):
            effective = [a * tj + d * uj for tj, uj in zip(t, u, strict=True)]
            slope, unit = row.cost_gradient(effective, b)
            if c != 0:
                curve, curve_unit = row.entropy_gradient()
                slope = [s + c * e for s, e in zip(slope, curve, strict=True)]
                unit = [larger(v, abs(c) * e) for v, e in zip(unit, curve_unit, strict=True)]
            values += slope
            units += unit
        return values, units

    return settle(formula, x.shape)


# ---- pointwise losses ----------------------------------------------------------------------------------------------


def _all(a: np.ndarray | None, shape: Any, default: float = 1.0) -> list[arb]:
    return _numbers(np.broadcast_to(default if a is None else np.asarray(a).astype(np.float64), shape))


def binary_cross_entropy_with_logits(
    x: np.ndarray,
    t: np.ndarray,
    weight: np.ndarray | None = None,
    pos_weight: np.ndarray | None = None,
    reduction: str = "mean",
) -> Truth:
    """w (pos t log(1 + e^-x) + (1 - t) log(1 + e^x))."""

    def formula() -> tuple[list[Any], None]:
        columns = (_numbers(x), _all(t, x.shape), _all(weight, x.shape), _all(pos_weight, x.shape))
        values = [
            w * (pos * ti * (1 + (-xi).exp()).log() + (1 - ti) * (1 + xi.exp()).log())
            for xi, ti, w, pos in zip(*columns, strict=True)
        ]
        return _reduced(values, reduction, arb(x.size)), None

    return settle(formula, x.shape if reduction == "none" else ())


def binary_cross_entropy_with_logits_gradient(
    x: np.ndarray,
    t: np.ndarray,
    weight: np.ndarray | None = None,
    pos_weight: np.ndarray | None = None,
    reduction: str = "mean",
    g: np.ndarray | None = None,
) -> Truth:
    """w ((1 - t) sigma(x) - pos t sigma(-x)), larger term of the two."""

    def formula() -> tuple[list[Any], list[Any]]:
        columns = (_numbers(x), _all(t, x.shape), _all(weight, x.shape), _all(pos_weight, x.shape))
        values, units = [], []
        for xi, ti, w, pos, factor in zip(*columns, _factors(reduction, arb(x.size), g, x.size), strict=True):
            up, down = (1 - ti) / (1 + (-xi).exp()), pos * ti / (1 + xi.exp())
            values.append(factor * w * (up - down))
            units.append(abs(factor * w) * larger(abs(up), abs(down)))
        return values, units

    return settle(formula, x.shape)


def mse_loss(x: np.ndarray, t: np.ndarray, reduction: str = "mean") -> Truth:
    def formula() -> tuple[list[Any], None]:
        return _reduced(
            [(a - b) ** 2 for a, b in zip(_numbers(x), _numbers(t), strict=True)], reduction, arb(x.size)
        ), None

    return settle(formula, x.shape if reduction == "none" else ())


def mse_loss_gradient(x: np.ndarray, t: np.ndarray, reduction: str = "mean", g: np.ndarray | None = None) -> Truth:
    def formula() -> tuple[list[Any], None]:
        factors = _factors(reduction, arb(x.size), g, x.size)
        return [2 * f * (a - b) for f, a, b in zip(factors, _numbers(x), _numbers(t), strict=True)], None

    return settle(formula, x.shape)


def rmse_loss(x: np.ndarray, t: np.ndarray) -> Truth:
    def formula() -> tuple[list[Any], None]:
        squares = [(a - b) ** 2 for a, b in zip(_numbers(x), _numbers(t), strict=True)]
        return [(sum(squares, arb(0)) / x.size).sqrt()], None

    return settle(formula, ())


def rmse_loss_gradient(x: np.ndarray, t: np.ndarray) -> Truth:
    """d / (n RMSE); 0 where every difference is 0, the documented subgradient."""

    def formula() -> tuple[list[Any], None]:
        differences = [a - b for a, b in zip(_numbers(x), _numbers(t), strict=True)]
        rmse = (sum((d**2 for d in differences), arb(0)) / x.size).sqrt()
        return [arb(0) if d == 0 else d / (x.size * rmse) for d in differences], None

    return settle(formula, x.shape)


# ---- entropy of a distribution given four ways ----------------------------------------------------------------------


def entropy(x: np.ndarray, kind: str, base: float | None = None) -> Truth:
    """-sum p log p of every row; `x` holds p ("probs"), a multiple of p ("counts"), log p ("log_probs") or logits."""

    def formula() -> tuple[list[Any], None]:
        per = arb(1) if base is None else arb(base).log()
        return [h / per for h in _entropies(x, kind)], None

    return settle(formula, x.shape[:1])


def _entropies(x: np.ndarray, kind: str) -> list[arb]:
    if kind == "logits":
        return [row.entropy() for row in _rows(x)]
    rows = np.asarray(x).astype(np.float64).tolist()
    if kind == "log_probs":
        return [sum((-arb(v) * arb(v).exp() for v in row if v != -INFINITY), arb(0)) for row in rows]
    totals = [sum(map(arb, row), arb(0)) if kind == "counts" else arb(1) for row in rows]
    return [
        sum((-arb(v) / total * (arb(v) / total).log() for v in row if v != 0), arb(0))
        for row, total in zip(rows, totals, strict=True)
    ]


def entropy_gradient(x: np.ndarray, kind: str, g: np.ndarray) -> Truth:
    """With its larger term. logits: p (-log p - H); log_probs l: -e^l (l + 1); probs: -(log p + 1); counts of sum N:
    (-log p - H) / N.
    """

    def formula() -> tuple[list[Any], list[Any]]:
        values, units = [], []
        for row, h, gr in zip(_rows(x), _entropies(x, kind), _numbers(g), strict=True):
            if kind == "logits":
                slope, unit = row.entropy_gradient()
            elif kind == "log_probs":
                slope = [arb(0) if v == -INFINITY else -arb(v).exp() * (arb(v) + 1) for v in row.x]
                unit = [arb(0) if v == -INFINITY else arb(v).exp() * larger(abs(arb(v)), arb(1)) for v in row.x]
            elif 0 in row.x:
                raise ValueError("oracle: the slope of entropy is infinite at probability 0")
            elif kind == "probs":
                slope = [-(arb(v).log() + 1) for v in row.x]
                unit = [larger(abs(arb(v).log()), arb(1)) for v in row.x]
            else:
                total = sum(map(arb, row.x), arb(0))
                logs = [-(arb(v) / total).log() for v in row.x]
                slope = [(v - h) / total for v in logs]
                unit = [larger(v, h) / total for v in logs]
            values += [gr * s for s in slope]
            units += [abs(gr) * u for u in unit]
        return values, units

    return settle(formula, x.shape)
