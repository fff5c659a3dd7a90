"""One file a task: its rows, its metrics, the evaluation that they make, and the comparison of two models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from ..roles import Task
from . import multiclass, multilabel, regression

if TYPE_CHECKING:
    from ..accumulators import Factories
    from ..plan import Plan
    from ..results import Evaluation
    from ..rows import Batch
    from ..screening import Screening
    from ..side_by_side import Both, Comparison
    from ..slices import Sliced


class TaskModule(Protocol):
    """What a task does with the rows of a plan."""

    SLICED: Sliced

    def metrics(self, plan: Plan) -> Factories:
        """The accumulators to make, by name."""

    def rows_of(self, plan: Plan, screening: Screening, batch: Batch) -> Iterator[Any]:
        """The rows of a batch that can be scored, as the metrics read them; the others are counted."""

    def evaluation(self, plan: Plan, screening: Screening, results: Mapping[str, Any]) -> Evaluation:
        """The figures of a run, from the results of the metrics."""

    def paired(self, plan: Plan) -> Mapping[str, Callable[[], Any]]:
        """The metrics of pairs of rows to make, by name."""

    def comparison(self, both: Both, rows: int, results: Mapping[str, Any]) -> Comparison:
        """The figures of two models on the rows that both have, from the results of these metrics."""


BY_TASK: Mapping[Task, TaskModule] = {
    Task.MULTICLASS: multiclass,
    Task.BINARY: multiclass,
    Task.MULTILABEL: multilabel,
    Task.REGRESSION: regression,
}
