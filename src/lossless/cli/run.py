"""Run an unmodified PyTorch script, or with -m a module, on our losses, and say which of its calls went where.

The script sees what `python script.py` would show it: its arguments, its streams, its exit code, its tracebacks. The
account of its calls goes to stderr when it has ended.
"""

from __future__ import annotations

import argparse
import atexit
import builtins
import json
import os
import runpy
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib.machinery import SourceFileLoader
from pathlib import Path
from secrets import token_hex
from shutil import rmtree
from tempfile import gettempdir
from types import CodeType, ModuleType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lossless._torch.patch import Patch

    from ._console import Output

SUMMARY = "an unmodified PyTorch script on our losses"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to route, where the account goes, and the script; everything after the script is its own."""
    parser.add_argument(
        "--also", metavar="NAME", action="append", default=[], help="route this function too, such as softmax"
    )
    parser.add_argument("--skip", metavar="NAME", action="append", default=[], help="leave this function to PyTorch")
    parser.add_argument("--quiet", action="store_true", help="print no account")
    parser.add_argument("--json", metavar="FILE", help="write the account as JSON")
    parser.add_argument(
        "-m", dest="module", action="store_true", help="SCRIPT is the name of a module, as in python -m"
    )
    parser.add_argument("script", metavar="SCRIPT", help="a Python file, or a folder or zip file with a __main__.py")
    parser.add_argument("arguments", metavar="ARGS", nargs=argparse.REMAINDER, help="the arguments of the script")


def run(args: argparse.Namespace) -> Callable[[], int]:
    """Patch PyTorch, and give back what runs the script: its errors are its own."""
    from ._console import Output
    from ._files import UsageError, check_outputs

    if args.json == "-":
        raise UsageError("--json got -, expected a file: stdout belongs to the script")
    check_outputs({"--json": args.json}, [] if args.module else [args.script])
    start = _module(args.script) if args.module else _script(args.script)
    sys.argv = ["-m" if args.module else args.script, *args.arguments]
    output = None if args.quiet else Output(sys.stderr)
    account = _Account(output, args.json)
    atexit.register(account.show)  # before anything else does: it comes last, when threads and children have ended
    try:
        account.patch = _begin(args.also, args.skip, account.folder)
    except BaseException:
        atexit.unregister(account.show)
        raise
    return lambda: _run(start)


def _module(name: str) -> Callable[[], object]:
    """As `python -m name`."""
    _first_on_path(os.getcwd())
    return lambda: runpy._run_module_as_main(name)  # type: ignore[attr-defined]


def _script(path: str) -> Callable[[], object]:
    """As `python path`."""
    from zipfile import is_zipfile

    from ._files import UsageError

    if not os.path.exists(path):
        raise UsageError(f"{path}: No such file")
    if os.path.isdir(path) or is_zipfile(path):
        _first_on_path(os.path.abspath(path))
        return lambda: runpy._run_module_as_main("__main__", alter_argv=False)  # type: ignore[attr-defined]
    _first_on_path(os.path.dirname(os.path.realpath(path)))
    file = os.path.abspath(path)
    loader = SourceFileLoader("__main__", file)
    data = loader.get_data(file)

    def start() -> None:
        code: CodeType = compile(data, file, "exec", dont_inherit=True)
        names = vars(sys.modules["__main__"])
        names.update(__file__=file, __cached__=None, __loader__=loader)
        exec(code, names)

    return start


def _first_on_path(folder: str) -> None:
    if not sys.flags.safe_path:
        sys.path[0] = folder


def _run(start: Callable[[], object]) -> int:
    """The script in a fresh `__main__`, until it ends or raises; tracebacks begin with its own frames."""
    main = ModuleType("__main__")
    vars(main).update(__builtins__=builtins, __annotations__={})
    sys.modules["__main__"] = main
    try:
        start()
    except BaseException:
        hook, own = sys.excepthook, sys._getframe().f_code

        def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
            inner = trace
            while inner is not None and inner.tb_frame.f_code is not own:
                inner = inner.tb_next
            if inner is not None:
                trace = inner.tb_next and inner.tb_next.tb_next  # ours, and `start`
                error.__traceback__ = trace
            hook(kind, error, trace)

        sys.excepthook = show
        raise
    return 0


# ---------------------------------------------------------------- the account, of all processes


class _Account:
    """What is shown in the end."""

    def __init__(self, output: Output | None, path: str | None) -> None:
        self.output, self.path, self.process = output, path, os.getpid()
        self.folder = os.path.join(gettempdir(), f"lossless-run-{token_hex(16)}")
        self.patch: Patch | None = None

    def show(self) -> None:
        from lossless._files import write_text
        from lossless._torch import account

        if self.patch is None or os.getpid() != self.process:
            return
        children = self.children()
        calls = account.merged([*self.patch.calls, *(account.Call(**call) for child in children for call in child)])
        if self.path is not None:
            try:
                write_text(self.path, json.dumps({"calls": [call._asdict() for call in calls]}, indent=2) + "\n")
            except OSError as error:
                with suppress(OSError, ValueError):
                    print(f"lossless run: cannot write {self.path}: {error.strerror}", file=sys.stderr)
        if self.output is not None:
            with suppress(OSError, ValueError):  # nobody reads stderr any more
                sentence, tables = account.summary(calls)
                processes = sum(map(bool, children))
                more = f", {processes} of the processes that it started among them" if processes else ""
                self.output.heading(f"lossless run: {sentence}{more}")
                for heading, rows in tables:
                    self.output.heading(heading)
                    self.output.table(account.COLUMNS, rows, numeric=(True, False, False, False))

    def children(self) -> list[list[dict[str, Any]]]:
        """The calls of each process that has handed them in."""
        found = []
        for file in sorted(Path(self.folder).glob("*.json")):
            with suppress(OSError, ValueError):  # one that was ended while it wrote
                found.append(json.loads(file.read_text()))
        rmtree(self.folder, ignore_errors=True)
        return found


def _begin(also: Sequence[str], skip: Sequence[str], folder: str) -> Patch:
    """Patch this process for good, and those that it starts with multiprocessing, which hand in their calls."""
    import lossless

    patch = lossless.patch_torch(also=also, skip=skip)
    from multiprocessing import spawn, util

    prepare = spawn.get_preparation_data

    def get_preparation_data(name: str) -> dict[str, object]:
        return {**prepare(name), "lossless": _Begin(also, skip, folder)}

    spawn.get_preparation_data = get_preparation_data
    util.register_after_fork(patch, partial(_hand_in_at_exit, folder=folder, begun=os.getpid()))
    return patch


class _Begin:
    """Patches the process that unpickles it."""

    def __init__(self, *args: Any) -> None:
        self.args = args

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return _begin_child, self.args


def _begin_child(also: Sequence[str], skip: Sequence[str], folder: str) -> None:
    _hand_in_at_exit(_begin(also, skip, folder), folder, os.getpid())


def _hand_in_at_exit(patch: Patch, folder: str, begun: int) -> None:
    """What this process has called, when it ends: since it was forked, or all, if it began by itself."""
    from multiprocessing import util

    from lossless._torch import account

    baseline = {} if os.getpid() == begun else account.totals()

    def hand_in() -> None:
        calls = account.calls(account.since(baseline))
        with suppress(OSError):
            os.makedirs(folder, mode=0o700, exist_ok=True)
            Path(folder, f"{os.getpid()}.json").write_text(json.dumps([call._asdict() for call in calls]))

    util.Finalize(None, hand_in, exitpriority=0)
