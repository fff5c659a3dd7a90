"""How often the search for misuse is wrong, and what it costs: `python benchmarks/misuse.py` (five minutes).

False alarms: batches that are right, drawn at random, and how many of them are warned of. Silence: batches that are
wrong, and how many nothing is said of. Cost: calls of 64 x 10, watched and not, one after the other.
"""

import itertools
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

import lossless
from lossless._diagnose import watch
from lossless.errors import MisuseWarning

BATCHES = 2000
ROWS = 64
CALLS = 20000
Batch = Callable[[np.random.Generator, int], tuple[str, np.ndarray, np.ndarray, dict[str, object]]]


def normal(rng: np.random.Generator, classes: int, scale: float = 1.0) -> np.ndarray:
    return scale * rng.normal(size=(ROWS, classes))


def labels(rng: np.random.Generator, classes: int) -> np.ndarray:
    return rng.integers(0, classes, ROWS)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def one_hot(rng: np.random.Generator, classes: int) -> np.ndarray:
    return np.eye(classes)[labels(rng, classes)]


# batches that are right: (loss, input, target, options)
RIGHT: dict[str, Batch] = {
    "normal scores": lambda r, c: ("cross_entropy", normal(r, c), labels(r, c), {}),
    "small scores, a new layer": lambda r, c: ("cross_entropy", normal(r, c, 0.01), labels(r, c), {}),
    "large scores": lambda r, c: ("cross_entropy", normal(r, c, 10.0), labels(r, c), {}),
    "rectified scores": lambda r, c: ("cross_entropy", np.maximum(normal(r, c), 0), labels(r, c), {}),
    "uniform scores in [0, 1]": lambda r, c: ("cross_entropy", r.random((ROWS, c)), labels(r, c), {}),
    "log-probabilities": lambda r, c: ("cross_entropy", np.log(softmax(normal(r, c, 3))), labels(r, c), {}),
    "distillation": lambda r, c: ("cross_entropy", normal(r, c), softmax(normal(r, c, 3)), {"temperature": 4.0}),
    "smoothed labels": lambda r, c: ("cross_entropy", normal(r, c), 0.9 * one_hot(r, c) + 0.1 / c, {}),
    "mixed labels": lambda r, c: ("cross_entropy", normal(r, c), 0.3 * one_hot(r, c) + 0.7 * one_hot(r, c), {}),
    "nll_loss": lambda r, c: ("nll_loss", np.log(softmax(normal(r, c))), labels(r, c), {}),
    "rectified scores, binary": lambda r, c: (
        *("binary_cross_entropy_with_logits", np.maximum(normal(r, c), 0), (normal(r, c) > 1) * 1.0),
        {},
    ),
    "shares, binary": lambda r, c: ("binary_cross_entropy_with_logits", normal(r, c), r.random((ROWS, c)), {}),
    "distillation, kl_div": lambda r, c: (
        *("kl_div", np.log(softmax(normal(r, c, 3))), softmax(normal(r, c, 3))),
        {"reduction": "batchmean"},
    ),
    "regression": lambda r, c: ("mse_loss", normal(r, c), normal(r, c), {}),
}
# batches that are wrong
WRONG: dict[str, Batch] = {
    "probabilities": lambda r, c: ("cross_entropy", softmax(normal(r, c)), labels(r, c), {}),
    "sure probabilities": lambda r, c: ("cross_entropy", softmax(normal(r, c, 20)), labels(r, c), {}),
    "probabilities, then dropout": lambda r, c: (
        *("cross_entropy", softmax(normal(r, c)) * (r.random((ROWS, c)) > 0.1), labels(r, c)),
        {},
    ),
    "sigmoids": lambda r, c: ("cross_entropy", 1 / (1 + np.exp(-normal(r, c))), labels(r, c), {}),
    "probabilities in nll_loss": lambda r, c: ("nll_loss", softmax(normal(r, c)), labels(r, c), {}),
    "scores in nll_loss": lambda r, c: ("nll_loss", normal(r, c), labels(r, c), {}),
    "sigmoids, binary": lambda r, c: (
        *("binary_cross_entropy_with_logits", 1 / (1 + np.exp(-normal(r, c))), (normal(r, c) > 1) * 1.0),
        {},
    ),
    "several labels a row": lambda r, c: ("cross_entropy", normal(r, c), (r.random((ROWS, c)) < 0.5) * 1.0, {}),
    "targets of scores": lambda r, c: ("cross_entropy", normal(r, c), normal(r, c), {}),
    "target from 0 to 255": lambda r, c: (
        *("binary_cross_entropy_with_logits", normal(r, c), 255.0 * r.random((ROWS, c))),
        {},
    ),
    "probabilities in kl_div": lambda r, c: (
        *("kl_div", softmax(normal(r, c)), softmax(normal(r, c))),
        {"reduction": "batchmean"},
    ),
    "scores in kl_div": lambda r, c: ("kl_div", normal(r, c), softmax(normal(r, c)), {"reduction": "batchmean"}),
    "swapped arguments of kl_div": lambda r, c: (
        *("kl_div", np.log(softmax(normal(r, c))), softmax(normal(r, c, 3))),
        {"reduction": "batchmean"},
    ),
    "labels of another batch": lambda r, c: ("cross_entropy", 9 * one_hot(r, c), labels(r, c), {}),
}


def drawn(
    batch: Batch, rng: np.random.Generator, classes: int
) -> tuple[str, np.ndarray, np.ndarray, dict[str, object]]:
    loss, x, t, options = batch(rng, classes)
    return loss, x.astype(np.float32), t if t.dtype.kind == "i" else t.astype(np.float32), options


def warned(batch: Batch, rng: np.random.Generator, classes: int) -> bool:
    """Whether a first call warns."""
    loss, x, t, options = drawn(batch, rng, classes)
    watch.forget()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        getattr(lossless, loss)(x, t, **options)
    return any(issubclass(w.category, MisuseWarning) for w in caught)


def diagnosed(batch: Batch, rng: np.random.Generator, classes: int) -> bool:
    """Whether `diagnose` finds anything."""
    loss, x, t, options = drawn(batch, rng, classes)
    return bool(lossless.diagnose(x, t, loss=partial(getattr(lossless, loss), **options)))


def rates(batches: dict[str, Batch], title: str, noticed: Callable[..., bool], wanted: bool) -> Table:
    """The number of batches that are not noticed as wanted, by the number of classes."""
    sizes = (2, 3, 10, 100, 1000)
    table = Table("", *(f"C = {c}" for c in sizes), title=title)
    for name, batch in batches.items():
        cells = []
        for classes in sizes:
            number = BATCHES if classes <= 10 else BATCHES // 10
            rng = np.random.default_rng([classes, len(name)])
            count = sum(noticed(batch, rng, classes) != wanted for _ in range(number))
            cells.append(f"{count} of {number}")
        table.add_row(name, *cells)
    return table


def cost() -> Iterator[str]:
    """Of a call of 64 x 10, forward: what being watched adds, over the first calls of a line, looks and all."""
    x, y = torch.randn(64, 10, requires_grad=True), torch.randint(0, 10, (64,))
    module = lossless.nn.CrossEntropyLoss()
    calls: dict[str, Callable[[], object]] = {
        "cross_entropy": lambda: lossless.cross_entropy(x, y),
        "nn.CrossEntropyLoss": lambda: module(x, y),
    }
    torch.set_num_threads(1)
    for name, call in calls.items():
        for _ in range(100):
            call()
        watch.forget()
        times: dict[str, list[float]] = {"off": [], "cheap": []}
        for _, level in itertools.product(range(CALLS), times):
            watch.level = level  # type: ignore[assignment]
            begin = time.perf_counter()
            call()
            times[level].append((time.perf_counter() - begin) * 1e6)
        off, cheap = (statistics.median(t) for t in times.values())
        looks = sum(t - off for t in times["cheap"] if t > off + 60)  # a look takes longer than noise, most often
        stray = sum(t - off for t in times["off"] if t > off + 60)
        yield (
            f"{name}: {off:.2f} us; watched {cheap - off:.2f} us more, and looks {(looks - stray) / CALLS:.2f} us, "
            f"of {CALLS} calls each"
        )
    watch.level = "cheap"


if __name__ == "__main__":
    console = Console(width=120)
    for line in cost():
        console.print(line)
    console.print(rates(RIGHT, "Batches of 64 rows that are right, and warned of", warned, False))
    console.print(rates(RIGHT, "Batches of 64 rows that are right, and diagnose finds something", diagnosed, False))
    console.print(rates(WRONG, "Batches of 64 rows that are wrong, and not warned of", warned, True))
    console.print(rates(WRONG, "Batches of 64 rows that are wrong, and diagnose finds nothing", diagnosed, True))
