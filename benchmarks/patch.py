"""What `patch_torch` costs: a call, the patch itself, and each function's forward + backward, ours against PyTorch's.

Medians of interleaved rounds in one run; run it on a quiet machine: `python benchmarks/patch.py`.
"""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

import lossless

SHAPES = [(64, 10), (2048, 1000), (8, 12, 128, 128)]
SECONDS = 0.7
torch.set_num_threads(1)  # the pools of two libraries on one machine would measure each other


def seconds(calls: list[Callable[[], object]], repeat: int = 1, limit: float = SECONDS) -> list[float]:
    """Median seconds of each call, over rounds that run them one after the other."""
    started, times = time.perf_counter(), [[] for _ in calls]
    while len(times[0]) < 5 or (time.perf_counter() - started < limit and len(times[0]) < 3000):
        for call, taken in zip(calls, times, strict=True):
            begin = time.perf_counter()
            for _ in range(repeat):
                call()
            taken.append((time.perf_counter() - begin) / repeat)
    return [statistics.median(taken[len(taken) // 10 :]) for taken in times]


def calls() -> None:
    """What one replaced call costs more than the function that it leads to."""
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 0])
    theirs = {"routed": lossless.cross_entropy, "left to PyTorch": F.l1_loss}
    with lossless.patch_torch():
        for name, args in {"routed": (x, y), "left to PyTorch": (x, x)}.items():
            replaced = F.cross_entropy if name == "routed" else F.l1_loss
            more = seconds([lambda f=replaced, a=args: f(*a), lambda f=theirs[name], a=args: f(*a)], 500, 4.0)
            print(f"a call {name}: {1e6 * (more[0] - more[1]):.2f} us more than {1e6 * more[1]:.1f} us")

    def patch() -> None:
        with lossless.patch_torch():
            pass

    print(f"the patch, there and back: {1e3 * seconds([patch])[0]:.1f} ms")


def functions() -> None:
    """Forward + backward of each function, in microseconds."""
    table = Table("function", *(f"{'x'.join(map(str, shape))}: PyTorch, ours, times slower" for shape in SHAPES))
    rows: dict[str, list[str]] = {}
    for shape in SHAPES:
        x = torch.randn(shape)
        y, t, p = torch.randint(0, shape[1], (shape[0], *shape[2:])), torch.rand(shape), torch.softmax(x, 1)
        cases = {
            "cross_entropy": (F.cross_entropy, x, (y,)),
            "nll_loss": (F.nll_loss, x.log_softmax(1), (y,)),
            "binary_cross_entropy_with_logits": (F.binary_cross_entropy_with_logits, x, (t,)),
            "mse_loss": (F.mse_loss, x, (t,)),
            "kl_div": (lambda x, t: F.kl_div(x, t, reduction="sum"), x.log_softmax(1), (p,)),
            "log_softmax": (torch.log_softmax, x, (1,)),
            "logsumexp": (torch.logsumexp, x, (1,)),
            "binary_cross_entropy": (F.binary_cross_entropy, p, (t,)),
            "softmax": (torch.softmax, x, (1,)),
            "logsigmoid": (F.logsigmoid, x, ()),
            "sigmoid": (torch.sigmoid, x, ()),
            "logit": (torch.logit, p, ()),
        }
        for name, (theirs, x, args) in cases.items():
            ours = getattr(lossless, name)
            if name == "kl_div":
                ours = lambda x, t: lossless.kl_div(x, t, reduction="sum")  # noqa: E731
            x = x.detach().requires_grad_()

            def step(f: Callable[..., torch.Tensor], x: torch.Tensor = x, args: tuple[object, ...] = args) -> None:
                x.grad = None
                f(x, *args).sum().backward()

            a, b = seconds([lambda f=theirs, step=step: step(f), lambda f=ours, step=step: step(f)])
            rows.setdefault(name, []).append(f"{1e6 * a:.0f}, {1e6 * b:.0f}, {b / a:.1f}")
    for name, cells in rows.items():
        table.add_row(name, *cells)
    Console(width=140).print(table)


if __name__ == "__main__":
    calls()
    functions()
