"""Evaluation of saved predictions: readers -> row numbers -> mergeable metrics -> `Evaluation`."""

from .evaluation import Evaluation, evaluate
from .evaluator import Evaluator

__all__ = ["Evaluation", "Evaluator", "evaluate"]
