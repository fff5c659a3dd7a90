"""The few exact numbers of a row of logits, from which every loss of the softmax family is one line."""

from typing import Any, NamedTuple

from lossless._check import to_int, to_temperature
from lossless._diagnose.watch import due, look
from lossless._dispatch import overridden, override, select
from lossless._plan import plan_statistics

Array = Any


class RowStatistics(NamedTuple):
    """One number for every row; None for what was not asked for. A NamedTuple, and so a pytree."""

    nll: Array | None
    "Negative log-likelihood of the target: lse - x_y, or sum_j t_j (lse - x_j)."
    lse: Array
    "log sum_j exp(x_j)."
    entropy: Array
    "-sum_j p_j log p_j, in nats."
    prior: Array | None
    "sum_j u_j (lse - x_j) for the shared class vector u."
    correct: Array | None
    "Whether the largest logit is the target's class."


def row_statistics(
    input: Array,
    target: Array | None = None,
    *,
    dim: int = -1,
    prior: Array | None = None,
    ignore_index: int | None = None,
    temperature: float = 1.0,
) -> RowStatistics:
    """Row statistics: negative log-likelihood, log-sum-exp, entropy and correctness of every row, in one pass.

        nll = lse - x_y  or  sum_j t_j (lse - x_j),   lse = log sum_j exp(x_j),   entropy = -sum_j p_j log p_j,
        prior = sum_j u_j (lse - x_j),   p = softmax(x)

    Args:
        input: (*batch, C) floating point logits, the classes along `dim`.
        target: (*batch) integer labels in [0, C), or probabilities t with the shape of `input`, or None.
        dim: the dimension of the classes.
        prior: (C,) class weights u shared by all rows; `ones / C` makes label smoothing.
        ignore_index: a label whose rows are left out: all their statistics are 0, and so is their gradient.
        temperature: > 0; the statistics are those of input / temperature.

    Returns:
        RowStatistics(nll, lse, entropy, prior, correct), each (*batch) in the dtype of `input`, twice differentiable
        in PyTorch (`correct` is boolean). Without a target nll and correct are None, without a prior so is `prior`.

    Raises:
        LogitsDtypeError, TargetDtypeError, ShapeError, DimensionError: arrays that do not fit together.
        TargetIndexError: a label outside [0, C) that is not `ignore_index`.
        ParameterError: `ignore_index` with probabilities; `temperature` is not a positive number.

    Edges:
        A target of probability 0 on a class at -inf costs nothing; a label on a class at -inf costs inf. A row with
        NaN is NaN, and so are the nll and entropy of a row of nothing but -inf.

    Example:
        >>> s = row_statistics(np.array([[20.0, 0.0], [0.0, 0.0]], np.float32), np.array([0, 1]))
        >>> s.nll
        array([2.0611537e-09, 6.9314718e-01], dtype=float32)
        >>> s.entropy
        array([4.3284228e-08, 6.9314718e-01], dtype=float32)
        >>> s.correct
        array([ True, False])
    """
    if overridden(input, target, prior):
        return override(row_statistics, locals())  # type: ignore[no-any-return]
    backend, input, target, prior = select("row_statistics", 1, input=input, target=target, prior=prior)
    plan = plan_statistics(
        "row_statistics",
        input.shape,
        input.dtype,
        None if target is None else target.shape,
        None if target is None else target.dtype,
        None if prior is None else prior.shape,
        None if prior is None else prior.dtype,
        to_int("row_statistics", "dim", dim),
        None if ignore_index is None else to_int("row_statistics", "ignore_index", ignore_index),
        to_temperature("row_statistics", temperature),
    )
    statistics = RowStatistics(*backend.row_statistics(plan, input, target, prior))
    if occasion := due(backend):
        options = {} if plan.ignore_index is None else {"ignore_index": plan.ignore_index}
        look(occasion, backend, "row_statistics", plan.dim, input, target, **options)
    return statistics
