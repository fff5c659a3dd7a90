"""Information measures of distributions, in nats or in any other base."""

from math import log
from typing import Any, Literal

from lossless._check import check_has_classes, to_int
from lossless._dispatch import select
from lossless._plan import plan_transform
from lossless.errors import ParameterError

Array = Any
Kind = Literal["probs", "logits", "log_probs"]


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
    backend, p = select("entropy", 1, p=p)
    plan = plan_transform("entropy", p.shape, p.dtype, to_int("entropy", "dim", dim))
    check_has_classes("entropy", p.shape, plan.dim, "p")
    if kind not in ("probs", "logits", "log_probs"):
        raise ParameterError(f"entropy: kind got {kind!r}, expected 'probs', 'logits' or 'log_probs'")
    if base is not None and (not base > 0 or base == 1):
        raise ParameterError(f"entropy: base got {base!r}, expected a positive number other than 1")
    if kind == "probs":
        _check_probabilities(*backend.extremes(plan, p), normalize)
    result = backend.entropy(plan, p, kind, normalize, 1.0 if base is None else log(base))
    return result.reshape((*p.shape[: plan.dim], 1, *p.shape[plan.dim + 1 :])) if keepdim else result


def _check_probabilities(low: float, high: float, normalize: bool) -> None:
    """No probability is negative, nor above 1 unless they are still to be normalized; NaN passes."""
    if low < 0.0 or (high > 1.0 and not normalize):
        raise ParameterError(
            f"entropy: p holds values from {low:.6g} to {high:.6g}, expected probabilities in [0, 1]\n"
            "Pass kind='logits' for scores, kind='log_probs' for log-probabilities, normalize=True for counts."
        )
