"""Evaluation of saved predictions: readers -> rows of a task -> mergeable metrics -> `Evaluation`."""

from .evaluation import evaluate
from .evaluator import Evaluator
from .results import Evaluation

__all__ = ["Evaluation", "Evaluator", "evaluate"]
