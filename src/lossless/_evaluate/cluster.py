"""Partitions on a Dask cluster: one that is there, or worker processes of this machine for the time of a run."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any

from lossless.errors import EvaluationError, MissingExtraError

from .engine import default_workers
from .text import shown

_SECONDS = 20  # that a scheduler may take to answer, and to have a worker
_RETRIES = 2  # of a task that met an error of the cluster; one whose worker died is run again by Dask anyway


class DaskExecutor(Executor):
    """What is submitted runs on the workers of the scheduler at `address`, or else on `workers` processes started here.

    Nothing is started or connected before the first task. At the end what was started here is stopped.
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
        self._open.close()

    @cached_property
    def _executor(self) -> Any:
        client = self._started() if self._address is None else self._connected(self._address)
        return client.get_executor(pure=False, retries=_RETRIES)

    def _started(self) -> Any:
        """The client of a cluster on the loopback interface; only processes of this machine reach it."""
        with _interrupts_ignored():
            cluster = self._open.enter_context(
                self._distributed.LocalCluster(
                    n_workers=self._workers or default_workers(),
                    threads_per_worker=1,
                    host="127.0.0.1",
                    memory_limit=None,  # a task holds a few batches, whatever the file: nothing to stop it for
                    silence_logs=logging.CRITICAL,
                    dashboard_address="127.0.0.1:0",  # any free port, where nothing but health is served:
                    scheduler_kwargs={"dashboard": False},
                )
            )
        return self._open.enter_context(self._distributed.Client(cluster, set_as_default=False))

    def _connected(self, address: str) -> Any:
        try:
            client = self._open.enter_context(self._distributed.Client(address, timeout=_SECONDS, set_as_default=False))
        except (OSError, ValueError, TimeoutError) as error:
            raise EvaluationError(
                f"no Dask scheduler answers at {shown(address)}: {shown(error)}. Expected an address such as "
                "tcp://127.0.0.1:8786, which `dask scheduler` prints"
            ) from None
        try:
            client.wait_for_workers(1, timeout=_SECONDS)
        except TimeoutError:
            raise EvaluationError(
                f"the Dask scheduler at {shown(address)} has no workers: start some by `dask worker {shown(address)}`"
            ) from None
        return client


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    """Ctrl-C is for this process, which stops the others: those that are started in the block do not see it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
