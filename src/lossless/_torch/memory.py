"""Memory for large results: recycled, because fresh memory costs more than the kernel that fills it.

The C library gives a freed array of megabytes back to the system, so that every training step pays for its page faults
again: three times what writing the numbers costs. Here the arrays that were handed out last are remembered, and handed
out again once nothing else refers to their storage, in this process or another. `LOSSLESS_RECYCLE_MB` bounds what is
remembered; 0 switches it off. The remembering is done in the core (`native/recycler.h`).
"""

import os
from typing import Any

import torch
from torch import Tensor

from lossless._kernels import native

LARGE = 1 << 20
"""Bytes from which memory is recycled."""


def _limit() -> int:
    text = os.environ.get("LOSSLESS_RECYCLE_MB") or "512"
    if not text.isdecimal():
        raise ValueError(f"LOSSLESS_RECYCLE_MB got {text!r}, expected a number of megabytes; 0 recycles nothing")
    return int(text) << 20


def _in_storage(storage: torch.UntypedStorage, x: Tensor) -> Tensor:
    """A tensor like `x` in this storage, where PyTorch's libraries do not make one."""
    return torch.empty(0, dtype=x.dtype, device=x.device).set_(storage, 0, x.shape, x.stride())


class _Side:
    """What the core asks of here (`native/recycler.h`)."""

    LARGE = LARGE
    HUGE = 4 << 20  # bytes from which fresh memory is worth huge pages
    empty_like: Any = torch.empty_like
    use_count: Any = torch._C._storage_Use_Count
    in_storage = _in_storage


def recycler_of(limit: int) -> Any:
    """One that remembers so many bytes at most."""
    return native.tensors.Recycler(limit, _Side)


recycler: Any = None if native is None else recycler_of(_limit())
if recycler is not None and hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=recycler.forget)
