"""Information measures of distributions, in nats or in any other base."""

from math import inf, log
from numbers import Real
from typing import Any, Literal, get_args

from lossless._check import (
    check_choice,
    check_floating,
    check_has_classes,
    check_probabilities,
    check_shapes_equal,
    dtype_name,
    to_flag,
    to_int,
)
from lossless._dispatch import Backend, overridden, override, select
from lossless._plan import RowPlan, plan_pair, plan_transform
from lossless.errors import ParameterError
from lossless.reference import K3

Array = Any
Kind = Literal["probs", "logits", "log_probs"]
KINDS = get_args(Kind)


def entropy(
    p: Array,
    *,
    dim: int = -1,
    base: float | None = None,
    kind: Kind = "probs",
    normalize: bool = False,
    keepdim: bool = False,
) -> Array:
    """Entropy: how much news a draw from the distribution brings on average.

        H = -sum_j p_j log p_j

    Args:
        p: (*batch, C) floating point, the outcomes along `dim`.
        dim: the dimension of the outcomes.
        base: of the logarithm; None for nats, 2 for bits.
        kind: what `p` holds: probabilities, logits (softmax is part of the function), or log-probabilities.
        normalize: divide by the sum first, so that counts do; logits always are.
        keepdim: keep `dim` with size 1.

    Returns:
        `p` without `dim`, dtype of `p`.

    Raises:
        LogitsDtypeError: `p` is not real floating point.
        DimensionError: `p` has no dimension `dim`.
        ParameterError: a probability below 0, or above 1 without `normalize`; an unknown kind; a base <= 0 or 1.

    Edges:
        0 log 0 = 0, so impossible outcomes change nothing; NaN stays NaN.

    Example:
        >>> entropy(np.array([0.5, 0.5]), base=2).item()  # a fair coin
        1.0
        >>> entropy(np.full(6, 1 / 6), base=2).item()  # a die: log2 6
        2.58496250072115...
        >>> entropy(np.array([20.0, 0.0], np.float32), kind="logits")
        np.float32(4.3284228e-08)
    """
    if overridden(p):
        return override(entropy, locals())
    backend, p = select("entropy", 1, p=p)
    plan = plan_transform("entropy", p.shape, p.dtype, to_int("entropy", "dim", dim), "p")
    check_has_classes("entropy", p.shape, plan.dim, "p")
    check_choice("entropy", "kind", kind, KINDS)
    normalize, keepdim = _flags("entropy", normalize, keepdim)
    unit = _unit("entropy", base)
    _check_numbers("entropy", "p", kind, normalize, backend, plan, p)
    return _with_dim(backend.entropy(plan, p, kind, normalize, unit), plan.dim, p.shape, keepdim)


def perplexity(
    p: Array, *, dim: int = -1, kind: Kind = "probs", normalize: bool = False, keepdim: bool = False
) -> Array:
    """Perplexity: how many outcomes, all equally likely, would be as hard to guess.

        exp(H),   H = -sum_j p_j log p_j

    Args:
        p: (*batch, C) floating point, the outcomes along `dim`.
        dim: the dimension of the outcomes.
        kind: what `p` holds: "probs", "logits" (softmax is part of the function), or "log_probs".
        normalize: divide by the sum first, so that counts do; logits always are.
        keepdim: keep `dim` with size 1.

    Returns:
        `p` without `dim`, dtype of `p`; between 1 and C, within 4 ulp: rounding H first would cost H ulp.

    Raises:
        LogitsDtypeError: `p` is not real floating point.
        DimensionError: `p` has no dimension `dim`.
        ParameterError: a probability below 0, or above 1 without `normalize`; an unknown kind.

    Edges:
        Those of `entropy`.

    Example:
        >>> perplexity(np.full(6, 1 / 6)).item()  # a die
        6.0
        >>> perplexity(np.array([0.5, 0.25, 0.25])).item()
        2.82842712474619...
        >>> perplexity(np.array([3.0, 1.0]), normalize=True).item()  # counts
        1.7547653506033...

    Source:
        Jelinek et al. 1977, Perplexity - a measure of the difficulty of speech recognition tasks, doi:10.1121/1.2016299
    """
    if overridden(p):
        return override(perplexity, locals())
    backend, p = select("perplexity", 1, p=p)
    plan = plan_transform("perplexity", p.shape, p.dtype, to_int("perplexity", "dim", dim), "p")
    check_has_classes("perplexity", p.shape, plan.dim, "p")
    check_choice("perplexity", "kind", kind, KINDS)
    normalize, keepdim = _flags("perplexity", normalize, keepdim)
    _check_numbers("perplexity", "p", kind, normalize, backend, plan, p)
    return _with_dim(backend.perplexity(plan, p, _form(kind, normalize)), plan.dim, p.shape, keepdim)


def cross_entropy(
    p: Array,
    q: Array,
    *,
    dim: int = -1,
    base: float | None = None,
    kind: Kind = "probs",
    p_kind: Kind | None = None,
    q_kind: Kind | None = None,
    normalize: bool = False,
    keepdim: bool = False,
) -> Array:
    """Cross-entropy: how much news a draw from `p` brings on average to who expects `q`.

        H(p, q) = -sum_j p_j log q_j = H(p) + KL(p || q)

    Args:
        p: (*batch, C) floating point, the true distribution, the outcomes along `dim`.
        q: the expected distribution, shape of `p`.
        dim: the dimension of the outcomes.
        base: of the logarithm; None for nats, 2 for bits.
        kind: what `p` and `q` hold: "probs", "logits" (softmax is part of the function), or "log_probs".
        p_kind, q_kind: the same for one of them, if they differ.
        normalize: divide by the sums first, so that counts do; logits always are.
        keepdim: keep `dim` with size 1.

    Returns:
        `p` without `dim`, in the dtype that holds both, differentiable over both.

    Raises:
        LogitsDtypeError: `p` or `q` is not real floating point.
        DimensionError: `p` has no dimension `dim`.
        ShapeError: `p` and `q` have different shapes.
        ParameterError: a probability below 0, or above 1 without `normalize`; an unknown kind; a base <= 0 or 1.

    Edges:
        p = 0 adds nothing, also where q = 0; p > 0 where q = 0 is infinite. NaN stays in its row. The gradient over p
        is the cost -log q, infinite where q = 0; over logits of p an infinite cost takes the whole row: inf there,
        -inf for other possible outcomes.

    Example:
        >>> p, q = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.5, 0.25])
        >>> lossless.info.cross_entropy(p, q, base=2).item()
        1.5
        >>> lossless.info.cross_entropy(p, np.log(q), q_kind="logits", base=2).item()
        1.5
    """
    if overridden(p, q):
        return override(cross_entropy, locals())
    return _measure("cross_entropy", p, q, dim, base, kind, p_kind, q_kind, normalize, keepdim)


def kl_divergence(
    p: Array,
    q: Array,
    *,
    dim: int = -1,
    base: float | None = None,
    kind: Kind = "probs",
    p_kind: Kind | None = None,
    q_kind: Kind | None = None,
    normalize: bool = False,
    keepdim: bool = False,
) -> Array:
    """Kullback-Leibler divergence: how much more news a draw from `p` brings to who expects `q` than to who knows `p`.

        KL(p || q) = sum_j p_j log(p_j / q_j) - p_j + q_j

    Without the last two terms, which add up to 0 for distributions, rounded probabilities would have negative
    divergences. With them no class has.

    Args:
        p: (*batch, C) floating point, the true distribution, the outcomes along `dim`.
        q: the expected distribution, shape of `p`.
        dim: the dimension of the outcomes.
        base: of the logarithm; None for nats, 2 for bits.
        kind: what `p` and `q` hold: "probs", "logits" (softmax is part of the function), or "log_probs".
        p_kind, q_kind: the same for one of them, if they differ.
        normalize: divide by the sums first, so that counts do; logits always are.
        keepdim: keep `dim` with size 1.

    Returns:
        `p` without `dim`, in the dtype that holds both; within 8 ulp, never negative, and 0 only for equal
        distributions (or a divergence too small for the dtype), also where the two are all but equal. The gradients
        over both are accurate there as well. Distributions of two kinds promise less in float64: log p and log q are
        rounded before they are compared, so that equal ones may differ by 1e-16, and diverge by 1e-32.

    Raises:
        LogitsDtypeError: `p` or `q` is not real floating point.
        DimensionError: `p` has no dimension `dim`.
        ShapeError: `p` and `q` have different shapes.
        ParameterError: a probability below 0, or above 1 without `normalize`; an unknown kind; a base <= 0 or 1.

    Edges:
        p = 0 adds q; p > 0 where q = 0 is infinite; p = q = 0 adds nothing. NaN stays in its row. Gradients are those
        of the terms: over p log(p / q), which is -inf where p = 0 < q, inf where q = 0 < p and 0 where both are 0;
        over q 1 - p / q, which is 1 where p = 0. Over logits a probability of 0 has gradient 0 (a q of 0: -p), and
        over those of p an infinite term takes the whole row: inf there, -inf for other possible outcomes.

    Example:
        >>> p, q = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.5, 0.25])
        >>> kl_divergence(p, q, base=2).item()
        0.5
        >>> x = np.array([2.0, 0.0, -1.0], np.float32)
        >>> kl_divergence(x, x + np.array([1e-4, 0, 0], np.float32), kind="logits")
        np.float32(6.5765904e-10)
        >>> kl_divergence(x, x + 1, kind="logits")  # the same distribution
        np.float32(0.0)

    Source:
        Kullback and Leibler 1951, On information and sufficiency, doi:10.1214/aoms/1177729694
    """
    if overridden(p, q):
        return override(kl_divergence, locals())
    return _measure("kl_divergence", p, q, dim, base, kind, p_kind, q_kind, normalize, keepdim)


def js_divergence(
    p: Array,
    q: Array,
    *,
    dim: int = -1,
    base: float | None = None,
    kind: Kind = "probs",
    p_kind: Kind | None = None,
    q_kind: Kind | None = None,
    normalize: bool = False,
    keepdim: bool = False,
) -> Array:
    """Jensen-Shannon divergence: how much a draw from either tells about which of the two it came from.

        JS(p, q) = KL(p || m) / 2 + KL(q || m) / 2,   m = (p + q) / 2

    Args:
        p: (*batch, C) floating point, a distribution, the outcomes along `dim`.
        q: another, shape of `p`; the two may be exchanged.
        dim: the dimension of the outcomes.
        base: of the logarithm; None for nats, 2 for bits.
        kind: what `p` and `q` hold: "probs", "logits" (softmax is part of the function), or "log_probs".
        p_kind, q_kind: the same for one of them, if they differ.
        normalize: divide by the sums first, so that counts do; logits always are.
        keepdim: keep `dim` with size 1.

    Returns:
        `p` without `dim`, in the dtype that holds both; between 0 and log 2 (1 bit), within 8 ulp, never negative, and
        0 only for equal distributions (or a divergence too small for the dtype). Its square root is a metric. For
        float64 distributions of two kinds see `kl_divergence`.

    Raises:
        LogitsDtypeError: `p` or `q` is not real floating point.
        DimensionError: `p` has no dimension `dim`.
        ShapeError: `p` and `q` have different shapes.
        ParameterError: a probability below 0, or above 1 without `normalize`; an unknown kind; a base <= 0 or 1.

    Edges:
        Always finite: where one is 0 the other adds half of itself times log 2. NaN stays in its row. The gradient
        over p is log(p / m) / 2: -inf where p = 0 < q, and 0 where both are 0. Over logits a probability of 0 has
        gradient 0.

    Example:
        >>> js_divergence(np.array([1.0, 0.0]), np.array([0.0, 1.0]), base=2).item()
        1.0
        >>> js_divergence(np.array([0.5, 0.5]), np.array([0.25, 0.75])).item()
        0.0338...

    Source:
        Lin 1991, Divergence measures based on the Shannon entropy, doi:10.1109/18.61115
    """
    if overridden(p, q):
        return override(js_divergence, locals())
    return _measure("js_divergence", p, q, dim, base, kind, p_kind, q_kind, normalize, keepdim)


def k3(logp: Array, logq: Array) -> Array:
    """The k3 estimator: the Kullback-Leibler divergence KL(p || q) from single draws of p, never negative.

        k3 = e^d - 1 - d,   d = log q - log p

    Its mean over draws from p is the divergence, as that of -d is, with less variance and without negative values.
    Reinforcement learning from human feedback uses it: p is the policy that was sampled from, q the reference.

    Args:
        logp: floating point, log-probabilities of the draws in the distribution they came from; any shape.
        logq: those of the same draws in the other distribution, shape of `logp`.

    Returns:
        One number a draw, in the dtype that holds both, within 8 ulp, and 0 only where the two are equal. The
        gradient is e^d - 1 over `logq`, and minus that over `logp`.

    Raises:
        LogitsDtypeError: `logp` or `logq` is not real floating point.
        ShapeError: `logp` and `logq` have different shapes; nothing is broadcast.

    Edges:
        inf where one of the two is -inf, 0 where both are; NaN at NaN.

    Example:
        >>> k3(np.array([-1.0, -2.0, -3.0]), np.array([-1.0, -2.0 - 1e-8, -2.0]))
        array([0.00000000e+00, 4.99999992e-17, 7.18281828e-01])

    Source:
        Schulman 2020, Approximating KL divergence, http://joschu.net/blog/kl-approx.html
    """
    if overridden(logp, logq):
        return override(k3, locals())
    backend, logp, logq = select("k3", 2, logp=logp, logq=logq)
    for name, array in (("logp", logp), ("logq", logq)):
        check_floating("k3", dtype_name(array.dtype), name)
    check_shapes_equal("k3", "logp", logp.shape, "logq", logq.shape)
    return backend.elementwise("k3", K3(), logp=logp, logq=logq)


# ---- shared


def _measure(
    function: str,
    p: Array,
    q: Array,
    dim: int,
    base: float | None,
    kind: Kind,
    p_kind: Kind | None,
    q_kind: Kind | None,
    normalize: bool,
    keepdim: bool,
) -> Array:
    backend, p, q = select(function, 2, p=p, q=q)
    plan = plan_pair(function, p.shape, p.dtype, q.shape, q.dtype, to_int(function, "dim", dim))
    unit = _unit(function, base)
    normalize, keepdim = _flags(function, normalize, keepdim)
    forms: list[str] = []
    for name, array, own in (("p", p, p_kind), ("q", q, q_kind)):
        chosen = kind if own is None else own
        check_choice(function, "kind" if own is None else f"{name}_kind", chosen, KINDS)
        _check_numbers(function, name, chosen, normalize, backend, plan, array)
        forms.append(_form(chosen, normalize))
    return _with_dim(backend.measure(plan, p, q, forms[0], forms[1], unit), plan.dim, p.shape, keepdim)


def _form(kind: Kind, normalize: bool) -> str:
    """As `lossless.reference` calls it: normalized probabilities are counts, normalized log-probabilities logits."""
    return {"probs": "counts", "log_probs": "logits"}.get(kind, kind) if normalize else kind


def _flags(function: str, normalize: Any, keepdim: Any) -> tuple[bool, bool]:
    return to_flag(function, "normalize", normalize), to_flag(function, "keepdim", keepdim)


def _unit(function: str, base: float | None) -> float:
    """The nats in one unit."""
    if base is not None and not (isinstance(base, Real) and 0 < base < inf and base != 1):
        raise ParameterError(f"{function}: base got {base!r}, expected a positive number other than 1")
    return 1.0 if base is None else log(base)


def _check_numbers(
    function: str, name: str, kind: str, normalize: bool, backend: Backend, plan: RowPlan, array: Array
) -> None:
    """No probability is negative, nor above 1 unless they are still to be normalized; NaN passes."""
    if kind == "probs":
        hint = "Pass kind='logits' for scores, kind='log_probs' for log-probabilities, normalize=True for counts."
        low, high = backend.extremes(plan, name, array)
        most = inf if normalize else 1.0
        check_probabilities(function, name, low, high, hint, lambda: backend.numbers(array), most)


def _with_dim(result: Array, dim: int, shape: tuple[int, ...], keepdim: bool) -> Array:
    return result.reshape((*shape[:dim], 1, *shape[dim + 1 :])) if keepdim else result
