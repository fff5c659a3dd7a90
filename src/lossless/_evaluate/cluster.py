"""Partitions on a Dask cluster: one that is there, or worker processes of this machine for the time of a run."""

from __future__ import annotations

import asyncio
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager
from functools import cached_property
from multiprocessing import resource_tracker
from typing import Any

from lossless.errors import EvaluationError, MissingExtraError

from .engine import default_workers
from .text import printable, shown

_SECONDS = 10  # that a scheduler or a worker may take to answer
_RETRIES = 2  # of a job that met an error of the cluster; one whose worker died is run again anyway


class DaskExecutor(Executor):
    """What is submitted runs on the workers of the scheduler at `address`, or else on `workers` processes started here.

    Nothing is started or connected before the first job. At the end what was started here is stopped.
    """

    def __init__(self, address: str | None = None, workers: int | None = None) -> None:
        try:
            import distributed
        except ModuleNotFoundError as error:
            raise MissingExtraError(error.name or "distributed", "dask") from None
        self._distributed: Any = distributed
        self._address, self._workers = address, workers
        self._open = ExitStack()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run a function on some worker."""
        future: Future[Any] = self._executor.submit(fn, *args, **kwargs)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Leave the cluster, and stop it if it was started here."""
        with _interrupts_held():
            self._open.close()

    @cached_property
    def _executor(self) -> Any:
        client = self._started() if self._address is None else self._connected(self._address)
        return client.get_executor(pure=False, retries=_RETRIES)

    def _started(self) -> Any:
        """The client of a cluster on the loopback interface, which only this machine reaches."""
        import dask

        # Else half a minute passes before the results of a worker that has died are computed again.
        self._open.enter_context(dask.config.set({"distributed.comm.timeouts.connect": f"{_SECONDS}s"}))
        workers = self._workers or default_workers()
        with _interrupts_held():
            cluster = self._open.enter_context(
                self._distributed.LocalCluster(
                    n_workers=workers,
                    threads_per_worker=1,
                    host="127.0.0.1",
                    memory_limit=None,  # a job holds a few batches, however large the file
                    silence_logs=logging.CRITICAL,
                    dashboard_address="127.0.0.1:0",  # a free port; without it a fixed one is tried, with a warning
                    scheduler_kwargs={"dashboard": False},
                )
            )
            cluster.adapt(minimum=workers, maximum=workers)  # the keeper of a worker may go with it: start others
            return self._open.enter_context(self._distributed.Client(cluster, set_as_default=False))

    def _connected(self, address: str) -> Any:
        try:
            asyncio.run(self._greet(address))
            client = self._open.enter_context(self._distributed.Client(address, timeout=_SECONDS, set_as_default=False))
        except (OSError, ValueError) as error:
            raise EvaluationError(
                f"no Dask scheduler answers at {shown(address)} ({printable(str(error)) or 'no greeting'}). Expected "
                "an address like tcp://127.0.0.1:8786, as `dask scheduler` prints it"
            ) from None
        try:
            client.wait_for_workers(1, timeout=_SECONDS)
        except TimeoutError:
            raise EvaluationError(
                f"the Dask scheduler at {shown(address)} has no workers: start some by `dask worker {shown(address)}`"
            ) from None
        return client

    async def _greet(self, address: str) -> None:
        """Raise in time if no scheduler answers: a client waits for ever for the greeting of an HTTP server."""
        security = self._distributed.Security().get_connection_args("client")
        comm = await asyncio.wait_for(self._distributed.comm.connect(address, _SECONDS / 2, **security), _SECONDS)
        comm.abort()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Ctrl-C waits until the block has ended, and never reaches the processes that are started in it.

    They are for this one to stop; and a cluster that is half started, or half stopped, could not be.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # which would lift the block when it starts with the first process
    held: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, frame: held.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # which new threads and processes inherit
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, handler)
        if held:
            signal.raise_signal(signal.SIGINT)
