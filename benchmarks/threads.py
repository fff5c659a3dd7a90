"""How much quicker two threads are than one: losses forward + backward, in rounds that run both.

`lossless bench --threads 1 --threads 2` measures the one after the other, and other work on the machine moves them
apart. Medians of interleaved rounds; run it a few times on a quiet machine: `python benchmarks/threads.py`.
"""

from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table

import lossless
from lossless._bench.harness import interleaved

SHAPES = [(65536, 10), (16384, 100), (8192, 1000)]
SECONDS = 1.0


def losses(rows: int, classes: int) -> dict[str, Callable[[], torch.Tensor]]:
    """Of the same logits, those with the most arithmetic."""
    x = (3 * torch.randn(rows, classes)).requires_grad_()
    y, p = torch.randint(classes, (rows,)), torch.randn(rows, classes).softmax(1)
    return {
        "labels": lambda: lossless.cross_entropy(x, y),
        "probabilities": lambda: lossless.cross_entropy(x, p),
        "focal": lambda: lossless.focal_loss(x, y, gamma=2.0),
        "sigmoid focal": lambda: lossless.sigmoid_focal_loss(x, p, 0.25, 2.0, "mean"),
    }


def step(loss: Callable[[], torch.Tensor], threads: int) -> Callable[[], None]:
    def call() -> None:
        torch.set_num_threads(threads)
        loss().backward()

    return call


def times_faster(loss: Callable[[], torch.Tensor]) -> float:
    (one, two), _ = interleaved([step(loss, 1), step(loss, 2)], SECONDS)
    return one / two


def main() -> None:
    cases = {f"{rows} x {classes}": losses(rows, classes) for rows, classes in SHAPES}
    table = Table("rows x classes", *cases[next(iter(cases))], title="two threads, times faster than one")
    for shape, of_shape in cases.items():
        table.add_row(shape, *(f"{times_faster(loss):.2f}" for loss in of_shape.values()))
    Console().print(table)


if __name__ == "__main__":
    main()
