"""Evaluation of saved predictions: readers -> row numbers -> mergeable metrics -> `Evaluation`."""

from .evaluation import Evaluation, evaluate

__all__ = ["Evaluation", "evaluate"]
