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
from collections.abc import Callable
from contextlib import suppress
from importlib.machinery import SourceFileLoader
from types import CodeType, ModuleType, TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lossless._torch.patch import Patch

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
    import lossless

    from ._console import Output
    from ._files import UsageError, check_outputs

    if args.json == "-":
        raise UsageError("--json got -, expected a file: stdout belongs to the script")
    check_outputs({"--json": args.json}, [] if args.module else [args.script])
    start = _module(args.script) if args.module else _script(args.script)
    sys.argv = ["-m" if args.module else args.script, *args.arguments]
    patch = lossless.patch_torch(also=args.also, skip=args.skip)  # for good: what runs at exit is routed too
    output = None if args.quiet else Output(sys.stderr)
    atexit.register(_report, patch, output, args.json, os.getpid())
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


def _report(patch: Patch, output: object, path: str | None, process: int) -> None:
    """The account, once, at the end of the process that began."""
    from lossless._torch import account

    from ._console import Output
    from ._files import write_text

    if os.getpid() != process:
        return
    calls = patch.calls
    if path is not None:
        try:
            write_text(path, json.dumps({"calls": [call._asdict() for call in calls]}, indent=2) + "\n")
        except OSError as error:
            with suppress(OSError, ValueError):
                print(f"lossless run: cannot write {path}: {error.strerror}", file=sys.stderr)
    if isinstance(output, Output):
        with suppress(OSError, ValueError):  # nobody reads stderr any more
            sentence, tables = account.summary(calls)
            output.heading(f"lossless run: {sentence}")
            for heading, rows in tables:
                output.heading(heading)
                output.table(account.COLUMNS, rows, numeric=(True, False, False, False))
