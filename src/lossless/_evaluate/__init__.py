"""Evaluation of saved predictions: readers -> rows of a task -> mergeable metrics -> `Evaluation`."""

from .comparison import Comparison, compare
from .evaluation import evaluate
from .evaluator import Evaluator
from .results import Evaluation

__all__ = ["Comparison", "Evaluation", "Evaluator", "compare", "evaluate"]
