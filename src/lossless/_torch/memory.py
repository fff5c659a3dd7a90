"""Memory for large results: recycled, because fresh memory costs more than the kernel that fills it.

The C library gives a freed array of megabytes back to the system, so that every training step pays for its page faults
again: three times what writing the numbers costs. Here the arrays that were handed out last are remembered, and handed
out again once nothing else refers to their storage, in this process or another. `LOSSLESS_RECYCLE_MB` bounds what is
remembered; 0 switches it off.
"""

import os
import sys
import threading
from typing import Any

import torch
from torch import Tensor

from lossless._kernels import native

LARGE = 1 << 20
"""Bytes from which memory is recycled."""
HUGE = 4 << 20
"""Bytes from which fresh memory is worth huge pages."""

_use_count: Any = torch._C._storage_Use_Count
_copied_on_write: Any = torch._C._is_cow_tensor


def _limit() -> int:
    text = os.environ.get("LOSSLESS_RECYCLE_MB") or "512"
    if not text.isdecimal():
        raise ValueError(f"LOSSLESS_RECYCLE_MB got {text!r}, expected a number of megabytes; 0 recycles nothing")
    return int(text) << 20


class Recycler:
    """Arrays that were handed out, the latest last, `limit` bytes of them at most, each with its address."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._arrays: list[tuple[Tensor, int]] = []
        self._lock = threading.Lock()

    def empty_like(self, x: Tensor) -> Tensor:
        """Uninitialized memory for a contiguous `x`."""
        size = x.nbytes
        if size < LARGE:
            return torch.empty_like(x)
        # Who finds it busy (another thread, or a signal handler within this one) does not wait.
        if size > self.limit or not self._lock.acquire(blocking=False):
            return _fresh(x)
        try:
            array = self._take(size)
            if array is None:
                array = _fresh(x)
            self._arrays.append((array, array.data_ptr()))
            kept = sum(a.nbytes for a, _ in self._arrays)
            while kept > self.limit:  # whoever holds the forgotten one keeps it; else it is freed
                kept -= self._arrays.pop(0)[0].nbytes
            # A tensor of its own, so that who resizes, views or frees it does nothing to the remembered one.
            out = torch.empty(0, dtype=x.dtype, device=x.device)
            return out.set_(array.untyped_storage(), 0, x.shape, x.stride())
        finally:
            self._lock.release()

    def _take(self, size: int) -> Tensor | None:
        """An array of that many bytes which nobody holds any more; those whose memory is not ours any more go."""
        for i in reversed(range(len(self._arrays))):  # the latest may still be in cache
            array, address = self._arrays[i]
            if array.nbytes == size and _references(array) == ALONE:
                del self._arrays[i]
                # Somebody may have resized its storage, or moved it to memory that another process reads.
                ours = array.data_ptr() == address and array.untyped_storage().nbytes() == size
                if ours and not array.is_shared() and not _copied_on_write(array):
                    return array
                return self._take(size)
        return None

    def forget(self) -> None:
        """In a forked child, where the lock may be another thread's."""
        self._arrays = []
        self._lock = threading.Lock()


def _references(array: Tensor) -> tuple[int, int]:
    """How many tensors, and other owners in C++ and in Python, refer to its storage."""
    storage = array.untyped_storage()
    return _use_count(storage._cdata), sys.getrefcount(storage)


def _fresh(x: Tensor) -> Tensor:
    array = torch.empty_like(x)
    if x.nbytes >= HUGE:
        native.advise_huge_pages(array)
    return array


with torch._C._DisableFuncTorch():  # this module may be imported inside a transform
    ALONE = _references(torch.empty(1))

_recycler = Recycler(_limit())
empty_like = _recycler.empty_like
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_recycler.forget)
