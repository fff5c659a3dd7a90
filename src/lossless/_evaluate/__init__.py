"""Evaluation of saved predictions: readers -> rows of a task -> mergeable metrics -> `Evaluation`."""

from .comparison import compare
from .evaluation import evaluate
from .evaluator import Evaluator
from .results import Evaluation
from .side_by_side import Comparison
from .tasks.multiclass import ClassComparison, ClassEvaluation
from .tasks.multilabel import MultilabelComparison, MultilabelEvaluation
from .tasks.regression import RegressionComparison, RegressionEvaluation

__all__ = [
    "ClassComparison",
    "ClassEvaluation",
    "Comparison",
    "Evaluation",
    "Evaluator",
    "MultilabelComparison",
    "MultilabelEvaluation",
    "RegressionComparison",
    "RegressionEvaluation",
    "compare",
    "evaluate",
]
