"""The table of functions: what each is given, and what it must move at least. `libraries` has who computes them.

A function is a scalar loss, differentiated by the logits; or an array of their size, whose gradient is that of a given
upstream one; or a NumPy function, of which the value alone is computed.
"""

from __future__ import annotations

import math
from typing import NamedTuple


class Function(NamedTuple):
    """A row of the table."""

    takes: tuple[str, ...]  # beside the logits: names of `inputs.KINDS`
    moves: int  # arrays of the logits' size that must be read or written, if nothing is touched twice
    x: str = "logits"  # or "log_probs"
    array: bool = False  # the result has the size of the logits: an upstream gradient is given
    numpy: bool = False  # of NumPy arrays, forward only


FUNCTIONS = {
    "cross_entropy": Function(("labels",), 2),
    "soft_targets": Function(("probs",), 3),
    "label_smoothing": Function(("labels",), 2),
    "class_weights": Function(("labels", "weights"), 2),
    "z_loss": Function(("labels",), 2),
    "focal_loss": Function(("labels",), 2),
    "entropy": Function((), 2),
    "row_statistics": Function(("labels",), 2),
    "bce_with_logits": Function(("bits",), 3),
    "sigmoid_focal_loss": Function(("bits",), 3),
    "mse_loss": Function(("reals",), 3),
    "rmse_loss": Function(("reals",), 3),
    "softmax": Function((), 4, array=True),
    "log_softmax": Function((), 4, array=True),
    "nll_loss": Function(("labels",), 1, x="log_probs"),
    "kl_div": Function(("probs",), 3, x="log_probs"),
    "numpy_cross_entropy": Function(("labels",), 1, numpy=True),
    "numpy_softmax": Function((), 2, numpy=True),
    "numpy_log_softmax": Function((), 2, numpy=True),
    "numpy_entropy": Function((), 1, numpy=True),
}

# What `lossless bench` measures without being told.
USUAL = (
    "cross_entropy",
    "soft_targets",
    "focal_loss",
    "entropy",
    "bce_with_logits",
    "sigmoid_focal_loss",
    "softmax",
    "mse_loss",
)

SMOOTHING, Z_LOSS, GAMMA, ALPHA = 0.1, 2.0**-13, 2.0, 0.25
LSE_SHARE, ENTROPY_SHARE = 0.5, 0.25  # row_statistics: mean(nll + lse / 2 - entropy / 4)


ITEM_BYTES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}


def least_bytes(name: str, shape: tuple[int, ...], dtype: str) -> int:
    """What must be read and written at least: whole arrays, and a label of 8 bytes for every row."""
    function, elements = FUNCTIONS[name], math.prod(shape)
    labels = 8 * elements // shape[1] if "labels" in function.takes else 0
    return function.moves * elements * ITEM_BYTES[dtype] + labels
