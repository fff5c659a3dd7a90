"""Cross-entropy forward + backward on torch CPU tensors: ours against PyTorch eager, in copies of the logits.

A copy is `dst.copy_(src)` of one logits tensor into an existing one, the least that any function with an output of that
size can take. Medians of interleaved rounds in one run; run it on a quiet machine. `make bench`.
"""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import track
from rich.table import Table

import lossless

SHAPES = [(64, 10), (65536, 10), (16384, 100), (8192, 1000), (1024, 32000), (256, 128256)]
SECONDS_A_SHAPE = 6.0


def seconds(calls: list[Callable[[], object]]) -> list[float]:
    """Median seconds of each call, over rounds that run them one after the other."""
    started, times = time.perf_counter(), [[] for _ in calls]
    while not times[0] or (time.perf_counter() - started < SECONDS_A_SHAPE and len(times[0]) < 3000):
        for call, taken in zip(calls, times, strict=True):
            begin = time.perf_counter()
            call()
            taken.append(time.perf_counter() - begin)
    return [statistics.median(taken[len(taken) // 10 :]) for taken in times]


def step(loss: Callable[..., torch.Tensor], x: torch.Tensor, y: torch.Tensor) -> Callable[[], None]:
    """One training step's worth of the loss."""

    def call() -> None:
        x.grad = None
        loss(x, y).backward()

    return call


def main() -> None:
    """Print the table."""
    table = Table("rows x classes", "copy, us", "PyTorch eager, copies", "lossless, copies", "times faster")
    ratios = []
    for rows, classes in track(SHAPES, console=Console(stderr=True), transient=True):
        x = (3 * torch.randn(rows, classes)).requires_grad_()
        y, copy = torch.randint(0, classes, (rows,)), torch.empty(rows, classes)
        unit, eager, ours = seconds(
            [
                lambda x=x, copy=copy: copy.copy_(x.detach()),
                step(F.cross_entropy, x, y),
                step(lossless.cross_entropy, x, y),
            ]
        )
        ratios.append(eager / ours)
        table.add_row(
            f"{rows} x {classes}",
            f"{unit * 1e6:.1f}",
            f"{eager / unit:.1f}",
            f"{ours / unit:.1f}",
            f"{eager / ours:.2f}",
        )
    Console().print(table)
    print(f"geometric mean: {statistics.geometric_mean(ratios):.2f} times faster, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
