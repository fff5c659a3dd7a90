"""How much quicker two threads are than one: losses forward + backward, in rounds that run both.

`lossless bench --threads 1 --threads 2` measures the one after the other, and other work on the machine moves them
apart. Medians of interleaved rounds; run it a few times on a quiet machine: `python benchmarks/threads.py`.
"""

from rich.console import Console
from rich.table import Table

from lossless._bench import inputs
from lossless._bench.harness import interleaved
from lossless._bench.libraries import OURS, Call, contestant
from lossless._bench.shapes import Shape
from lossless._bench.threads import using

FUNCTIONS = ["cross_entropy", "soft_targets", "focal_loss", "sigmoid_focal_loss"]  # those with the most arithmetic
SHAPES = [(65536, 10), (16384, 100), (8192, 1000)]
SECONDS = 1.0


def on(threads: int, call: Call) -> Call:
    def there() -> None:
        with using(threads):
            call()

    return there


def times_faster(function: str, shape: Shape) -> float:
    ours = contestant(OURS, function, shape)
    data = ours.framework.place(inputs.draw(function, *shape, "float32"), "float32")
    call = ours.framework.step(ours.function, data)
    (one, two), _ = interleaved([on(1, call), on(2, call)], SECONDS)
    return one / two


def main() -> None:
    table = Table("two threads, times faster than one", *("x".join(map(str, shape)) for shape in SHAPES))
    for function in FUNCTIONS:
        table.add_row(function, *(f"{times_faster(function, shape):.2f}" for shape in SHAPES))
    Console().print(table)


if __name__ == "__main__":
    main()
