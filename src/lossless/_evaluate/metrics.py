"""The metrics of an evaluation, by name."""

from __future__ import annotations

from collections.abc import Callable

from .accumulators import (
    Accumulator,
    Accuracy,
    Calibration,
    LabelRanks,
    LossHistogram,
    Mean,
    MostSurprising,
    Peculiar,
    PerClass,
)
from .confidence import ConfidenceRanking
from .confusion import Confusion
from .temperature import RowSample


def standard(classes: int, surprising: int, sum_tolerance: float) -> dict[str, Callable[[], Accumulator]]:
    """The metrics of a multiclass evaluation."""
    return {
        "nll": lambda: Mean("nll"),
        "entropy": lambda: Mean("entropy"),
        "brier": lambda: Mean("brier"),
        "focal": lambda: Mean("focal"),
        "confidence": lambda: Mean("confidence"),
        "accuracy": Accuracy,
        "label_ranks": LabelRanks,
        "calibration": Calibration,
        "confidence_ranking": ConfidenceRanking,
        "confusion": lambda: Confusion(classes),
        "temperature": lambda: RowSample(classes),
        "loss_histogram": LossHistogram,
        "classes": lambda: PerClass(classes),
        "surprising": lambda: MostSurprising(surprising),
        "peculiar": lambda: Peculiar(sum_tolerance),
    }
