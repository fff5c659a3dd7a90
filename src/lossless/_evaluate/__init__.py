"""Evaluation of saved predictions: readers -> rows of a task -> mergeable metrics -> `Evaluation`."""

from .comparison import Comparison, compare
from .evaluation import evaluate
from .evaluator import Evaluator
from .results import Evaluation
from .tasks.multiclass import ClassEvaluation
from .tasks.multilabel import MultilabelEvaluation
from .tasks.regression import RegressionEvaluation

__all__ = [
    "ClassEvaluation",
    "Comparison",
    "Evaluation",
    "Evaluator",
    "MultilabelEvaluation",
    "RegressionEvaluation",
    "compare",
    "evaluate",
]
