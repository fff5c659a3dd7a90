"""How many threads compute."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager

from lossless import _kernels


def every() -> int:
    """All that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def using(count: int) -> Iterator[None]:
    """In the block PyTorch and our kernels use so many; SciPy always uses one."""
    before = None
    if importlib.util.find_spec("torch"):
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(count)
    if _kernels.native is not None:
        _kernels.native.set_num_threads(count)
    try:
        yield
    finally:
        if before is not None:
            torch.set_num_threads(before)
        if _kernels.native is not None:
            _kernels.native.set_num_threads(0)  # as before: no number of our own
