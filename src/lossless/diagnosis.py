"""What is wrong with a batch, for whoever asks: the rules that otherwise warn now and then, on all of it."""

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from inspect import isclass, signature
from typing import Any

import numpy as np

from lossless import losses
from lossless._check import FLOATS, dtype_name, is_whole
from lossless._diagnose.finding import Finding, Findings, found
from lossless._diagnose.rules import FAMILIES, OF_CLASSES, looks_normalised
from lossless._diagnose.watch import Occasion, Site, collecting, look
from lossless._dispatch import Backend, select
from lossless._layout import class_dim, to_dim, without_dim
from lossless.errors import LosslessError, ParameterError, UnsupportedArrayError
from lossless.statistics import row_statistics

Array = Any

MODULES = {
    "NLLLoss": "nll_loss",
    "CrossEntropyLoss": "cross_entropy",
    "FocalLoss": "focal_loss",
    "CategoricalCrossEntropyLoss": "categorical_cross_entropy",
    "SparseCategoricalCrossEntropyLoss": "sparse_categorical_cross_entropy",
    "BCELoss": "binary_cross_entropy",
    "BCEWithLogitsLoss": "binary_cross_entropy_with_logits",
    "SigmoidFocalLoss": "sigmoid_focal_loss",
    "MSELoss": "mse_loss",
    "RMSELoss": "rmse_loss",
    "KLDivLoss": "kl_div",
}
"""Modules, PyTorch's and ours, and the functions that they call."""
KNOWN = ("from_logits", "ignore_index", "label_smoothing", "log_target")
"""Options that the rules look at, as they are given."""
OWNERS = ("lossless", "torch", "torchvision")
"""Packages whose losses have the names of ours, and their meaning."""


def diagnose(input: Array, target: Array | None = None, *, loss: Any = None) -> list[Finding]:
    """Diagnosis: everything that looks wrong with a batch and the loss it is given to.

    Runs the loss on the batch, catches what it refuses, and applies every rule behind the warnings to all rows, which
    takes several times the memory of the batch. The gravest findings come first. docs/troubleshooting.md lists what can
    be found; an empty list is no proof that all is well.

    Args:
        input: the model's output, as the loss would get it. A tensor with a graph tells most: also what made it.
        target: as the loss would get it; None for a look at `input` alone, as scores.
        loss: which loss: its name, the function (ours or PyTorch's), a `functools.partial` of it with options, or a
            module such as `nn.CrossEntropyLoss(ignore_index=-1)`, whose options are read. None for a guess by the
            target: integers are labels, rows that sum to 1 are probabilities, numbers in [0, 1] are yes or no, and
            others are truths of a regression.

    Returns:
        A list of `Finding(name, severity, evidence, cause, fix)`, which prints as text and shows as a table in a
        notebook. `severity`: "error", the loss refuses it; "warning", near-certain misuse; "hint", worth a look.

    Raises:
        ParameterError: `loss` is no loss of this library.
        UnsupportedArrayError: `input` is None.

    Edges:
        Nothing is changed, no gradient is recorded, and saved tensors that hooks guard are left alone. Of tensors on
        other devices, under transforms and in compiled code only shapes are looked at. Swapped but valid distributions
        cannot be seen.

    Example:
        >>> p = lossless.softmax(np.array([[2.0, 0.0, 1.0], [0.0, 3.0, 1.0], [0.0, 0.0, 0.5], [1.0, 2.0, 3.0]]))
        >>> diagnose(p, np.array([0, 1, 2, 2]))
        as cross_entropy (a guess), input [4, 3] and target [4]
        <BLANKLINE>
        warning: softmax-before-loss
          seen:  all 4 rows lie in [0, 1] and sum to 1; input[0] is 0.6652, 0.09003, 0.2447
          cause: The loss takes the softmax itself, and was given probabilities: a softmax of a softmax is nearly flat.
          fix:   Give cross_entropy the scores before softmax or sigmoid; log-probabilities are fine too. ...
        >>> [finding.name for finding in diagnose(np.log(p), np.array([1, 2, 3, 3]), loss="cross_entropy")]
        ['label-out-of-range']
    """
    if loss is None:
        name, options = _guess(input, target), dict[str, Any]()
    else:
        name, options = _named(loss)
    call = partial(getattr(losses, name), **options) if name != "row_statistics" else row_statistics
    shapes = " and ".join(
        f"{word} {list(a.shape) if hasattr(a, 'shape') else type(a).__name__}"
        for word, a in (("input", input), ("target", target))
        if a is not None
    )
    subject = f"{'as ' if loss is None else ''}{name}{' (a guess)' if loss is None else ''}, {shapes}"
    with collecting() as findings, _no_gradient():
        try:
            call(input, target)
        except Exception as error:
            _look_without(name, options, input, target)
            trouble, words = getattr(error, "trouble", "refused"), str(error)
            if not isinstance(error, LosslessError):
                words = f"{type(error).__name__}: {words}"
            findings.append(found(trouble, name, words, refused=True))
    return Findings(findings, subject)


def _look_without(name: str, options: dict[str, Any], input: Array, target: Array | None) -> None:
    """What the rules see of a call that is refused: of the target nothing where it does not fit."""
    try:
        backend, x, t = select(name, 1, input=input, target=target)
        dim = None
        if FAMILIES[name] in OF_CLASSES:
            given = options.get("dim")
            dim = class_dim(x.shape) if given is None else to_dim(given, len(x.shape))
        known = {k: v for k, v in options.items() if k in KNOWN}
        look(Occasion(Site(_look_without.__code__), False), backend, name, dim, x, t, **known)
    except Exception:  # arrays of a kind that nobody can look at: the error says so
        return


def _no_gradient() -> AbstractContextManager[Any]:
    torch = sys.modules.get("torch")
    return nullcontext() if torch is None else torch.no_grad()


def _named(loss: Any) -> tuple[str, dict[str, Any]]:
    """The name of a loss of ours, and its options, from whatever stands for it."""
    given: dict[str, Any] = {}
    while isinstance(loss, partial):
        if loss.args:
            raise ParameterError(
                "diagnose: loss is a partial with positional arguments, expected options by name alone"
            )
        given = {**loss.keywords, **given}
        loss = loss.func
    named = hasattr(loss, "__name__") and not isclass(loss)
    if isinstance(loss, str):
        name = MODULES.get(loss, loss)
    elif named:
        name = loss.__name__ if _is_known(loss) else ""
    else:
        kinds = (loss if isclass(loss) else type(loss)).__mro__
        name = next((MODULES[kind.__name__] for kind in kinds if kind.__name__ in MODULES and _is_known(kind)), "")
    if name not in MODULES.values():
        raise ParameterError(
            f"diagnose: loss got {loss!r}, expected None or a loss of this library: {', '.join(MODULES.values())}"
        )
    if not (isinstance(loss, str) or isclass(loss) or named):
        held = {k: getattr(loss, k) for k in signature(getattr(losses, name)).parameters if hasattr(loss, k)}
        given = {**held, **given}
    return name, given


def _is_known(owned: Any) -> bool:
    return str(owned.__module__).partition(".")[0] in OWNERS


def _guess(input: Array, target: Array | None) -> str:
    """The loss that takes such arrays."""
    try:
        backend, x, t = select("diagnose", 1, input=input, target=target)
    except UnsupportedArrayError:
        if input is None:
            raise
        return "cross_entropy"  # which says what is wrong with them
    if t is None:
        return "row_statistics"
    shape, dim = tuple(x.shape), class_dim(x.shape)
    if tuple(t.shape) != shape:
        of_rows = [_sizes(without_dim(shape, dim)), _sizes(shape[:-1])] if len(shape) > 1 and shape[dim] > 1 else []
        numbers = dtype_name(t.dtype) in FLOATS and not is_whole(x.dtype) and _sizes(t.shape) not in of_rows
        return "mse_loss" if numbers else "cross_entropy"
    if not backend.readable(x, t) or 0 in shape or not shape:
        return "cross_entropy" if len(shape) > 1 else "binary_cross_entropy_with_logits"
    return _guess_by_numbers(backend, x, t, dim)


def _guess_by_numbers(backend: Backend, x: Array, t: Array, dim: int) -> str:
    """Of arrays of one shape."""
    numbers = np.asarray(backend.take(t, None, None), np.float64)
    if not ((numbers >= 0.0) & (numbers <= 1.0)).all():
        return "mse_loss"
    if len(x.shape) > 1 and x.shape[dim] > 1:
        rows = np.asarray(backend.take(t, dim, None), np.float64)
        if looks_normalised(rows, str(t.dtype)).mean() > 0.5:
            return "categorical_cross_entropy" if is_whole(t.dtype) and _are_shares(backend, x) else "cross_entropy"
    return "binary_cross_entropy" if _are_shares(backend, x) else "binary_cross_entropy_with_logits"


def _sizes(shape: Sequence[int]) -> list[int]:
    return [size for size in shape if size != 1]


def _are_shares(backend: Backend, x: Array) -> bool:
    """Whether all numbers lie in [0, 1]."""
    numbers = np.asarray(backend.take(x, None, None), np.float64)
    return bool(((numbers >= 0.0) & (numbers <= 1.0)).all())
