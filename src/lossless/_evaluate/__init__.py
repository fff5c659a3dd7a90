"""Evaluation of saved predictions: readers -> row numbers -> mergeable metrics -> `Evaluation`."""

from .comparison import Comparison, compare
from .evaluation import Evaluation, evaluate

__all__ = ["Comparison", "Evaluation", "compare", "evaluate"]
