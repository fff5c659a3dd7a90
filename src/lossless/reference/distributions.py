"""Information measures of distributions."""

from typing import Any

from lossless.reference.arithmetic import Array, col, namespace, onehot, wide



def entropy(p: Array, kind: str, normalize: bool) -> Array:
    """-sum p log p of probabilities or log-probabilities, from terms that are never negative.

    Normalized, the largest class contributes p_k / S log1p(rest / p_k): its share of the whole may round to 1.
    """
    xp = namespace(p)
    p = wide(p)
    if kind == "log_probs":
        none = p == -xp.inf
        log_p = xp.where(none, 0.0, p)
        return 0.0 - xp.sum(xp.where(none, 0.0, xp.exp(log_p) * log_p), axis=-1)
    if not normalize:
        return 0.0 + xp.sum(_minus_p_log_p(xp, p), axis=-1)
    top = onehot(xp, xp.argmax(p, axis=-1, keepdims=True), p)
    largest = xp.sum(xp.where(top, p, 0.0), axis=-1)
    rest = xp.sum(xp.where(top, 0.0, p), axis=-1)
    whole = largest + rest
    others = _minus_p_log_p(xp, xp.where(top, 1.0, p / col(whole)))  # -1 log 1 = 0, smoothly
    return xp.sum(others, axis=-1) + largest / whole * xp.log1p(rest / largest)


def _minus_p_log_p(xp: Any, p: Array) -> Array:
    """-p log p, 0 at 0. The derivative at 0 is +inf, so a square root stands there: 0 with the same derivative."""
    zero = p == 0.0
    some = xp.where(zero, 1.0, p)
    return xp.where(zero, xp.sqrt(xp.where(zero, p, 1.0)), 0.0 - some * xp.log(some))
