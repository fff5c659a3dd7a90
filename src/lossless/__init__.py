"""Loss functions that lose nothing: accurate to a few ulp in every regime, fused, and clear about misuse.

PyTorch tensors in give PyTorch tensors out, with gradients; NumPy arrays or lists give NumPy out.
"""

from typing import TYPE_CHECKING

from lossless import errors, info
from lossless._config import get_num_threads, set_num_threads, show_config
from lossless._diagnose.finding import Finding
from lossless.diagnosis import diagnose
from lossless.gradients import value_and_grad
from lossless.losses import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    categorical_cross_entropy,
    cross_entropy,
    focal_loss,
    kl_div,
    mse_loss,
    nll_loss,
    rmse_loss,
    sigmoid_focal_loss,
    sparse_categorical_cross_entropy,
)
from lossless.routing import patch_torch
from lossless.statistics import RowStatistics, row_statistics
from lossless.transforms import inverse_softmax, log_softmax, logit, logsigmoid, logsumexp, sigmoid, softmax

if TYPE_CHECKING:
    from lossless import nn as nn
    from lossless._evaluate import (
        ClassComparison,
        ClassEvaluation,
        Comparison,
        Evaluation,
        Evaluator,
        MultilabelComparison,
        MultilabelEvaluation,
        RegressionComparison,
        RegressionEvaluation,
        compare,
        evaluate,
    )
    from lossless._report import save_page

__version__ = "0.1.0"

__all__ = [
    "ClassComparison",
    "ClassEvaluation",
    "Comparison",
    "Evaluation",
    "Evaluator",
    "Finding",
    "MultilabelComparison",
    "MultilabelEvaluation",
    "RegressionComparison",
    "RegressionEvaluation",
    "RowStatistics",
    "binary_cross_entropy",
    "binary_cross_entropy_with_logits",
    "categorical_cross_entropy",
    "compare",
    "cross_entropy",
    "diagnose",
    "errors",
    "evaluate",
    "focal_loss",
    "get_num_threads",
    "info",
    "inverse_softmax",
    "kl_div",
    "log_softmax",
    "logit",
    "logsigmoid",
    "logsumexp",
    "mse_loss",
    "nll_loss",
    "patch_torch",
    "rmse_loss",
    "row_statistics",
    "save_page",
    "set_num_threads",
    "show_config",
    "sigmoid",
    "sigmoid_focal_loss",
    "softmax",
    "sparse_categorical_cross_entropy",
    "value_and_grad",
]


def __getattr__(name: str) -> object:
    """`lossless.nn` imports PyTorch, and evaluation is rarely needed: they wait until somebody asks for them."""
    from importlib import import_module

    if name == "nn":
        return import_module("lossless.nn")
    if name in __all__:
        return getattr(import_module("lossless._report" if name == "save_page" else "lossless._evaluate"), name)
    raise AttributeError(f"module 'lossless' has no attribute {name!r}")
