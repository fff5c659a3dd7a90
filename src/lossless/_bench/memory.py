"""Memory: what a machine has left, and the most that a call takes beyond its inputs.

Tensors are not counted, pages are: a call runs once in a process of its own, where the kernel's high-water mark of
resident memory is reset before it and read after it. A process of its own has nothing left over from earlier calls,
such as buffers that wait to be used again. The system counts pages in batches: a tenth of a MiB is noise.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from . import inputs
from .libraries import contestant
from .shapes import Shape
from .threads import using

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_CGROUP = Path("/sys/fs/cgroup")


def peak(library: str, function: str, shape: Shape, dtype: str, threads: int) -> int | None:
    """The most bytes that were resident during a call, its inputs not counted; None where that cannot be told."""
    if not _RESET.exists():
        return None
    context = multiprocessing.get_context("forkserver")
    # What every child needs is imported once; nothing there computes, so the children may start threads.
    context.set_forkserver_preload(["torch", "lossless._bench.libraries"])
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(send, library, function, shape, dtype, threads))
    child.start()
    send.close()
    try:
        found: int | None = receive.recv()
    except EOFError:  # it was killed, for memory most likely
        found = None
    finally:
        child.join()
        receive.close()
    return found


def _child(send: Any, *what: Any) -> None:
    found = None
    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = _peak(*what)
    send.send(found)
    send.close()


def _peak(library: str, function: str, shape: Shape, dtype: str, threads: int) -> int | None:
    chosen = contestant(library, function, shape)
    if chosen is None:
        return None

    def prepared(shape: Shape) -> Any:
        count = max(1, inputs.sample_rows(shape))
        data = inputs.lay_out(function, inputs.draw(function, count, shape[1], dtype), shape)
        return chosen.framework.step(chosen.function, chosen.framework.place(data, dtype))

    with using(threads), bounded():
        # What a first call imports is not memory of the call; what compiles must meet the shape itself.
        prepared(shape if chosen.compiles else (1, *shape[1:2], *(1 for _ in shape[2:])))()
        call = prepared(shape)
        _give_back()
        try:
            _RESET.write_text("5")
        except OSError:
            return None
        before = _status("VmRSS")
        call()
        after = _status("VmHWM")
    return None if before is None or after is None else max(0, after - before)


def _give_back() -> None:
    """Return what was freed to the system: a call that reuses it would seem to need nothing."""
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)


def _status(name: str) -> int | None:
    """A figure of this process in bytes."""
    with suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            key, _, value = line.partition(":")
            if key == name:
                return int(value.split()[0]) * 1024
    return None


def available() -> int | None:
    """Bytes that may still be taken, by the machine and by the group of processes that this one is in."""
    found = []
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    with suppress(OSError, ValueError):
        found.append(int((_CGROUP / "memory.max").read_text()) - int((_CGROUP / "memory.current").read_text()))
    return min(found) if found else None


@contextmanager
def bounded() -> Iterator[None]:
    """In the block memory that is not there is refused, where the system else would end some process for it."""
    left, used = available(), _status("VmSize")
    if left is None or used is None or os.name != "posix":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = used + left * 9 // 10
    limit = limit if soft == resource.RLIM_INFINITY else min(limit, soft)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def refused(error: BaseException) -> bool:
    """Whether an error says that memory was not there."""
    text = str(error).lower()
    words = ("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory", "bad_alloc")
    return isinstance(error, MemoryError) or any(word in text for word in words) or "resource_exhausted" in text
