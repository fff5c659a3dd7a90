"""The `lossless` command. Each command is one module with `SUMMARY`, `add_arguments` and `run`.

Commands raise; this module alone turns an error into a line on stderr and an exit code: 0 done, 1 what the command
checks does not hold, 2 misuse (of the command or of a file), 130 interrupted, 141 nobody reads stdout any more (as a
shell says of SIGPIPE). What `run` gives back instead of a code is called last, outside of all that: the errors of a
script are its own.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from lossless import __version__
from lossless.errors import LosslessError, MissingExtraError

COMMANDS = ("evaluate", "demo", "bench", "accuracy", "run", "info")
_EXTRAS = {
    **dict.fromkeys(("pyarrow", "rich", "jinja2", "markupsafe", "altair", "vl_convert"), "evaluate"),
    **dict.fromkeys(("sklearn", "py3langid", "django"), "demo"),
    **dict.fromkeys(("flint", "ml_dtypes"), "accuracy"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="lossless", description="Loss functions that lose nothing, and what they say about saved predictions."
    )
    parser.add_argument("--version", action="version", version=f"lossless {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = import_module(f"{__name__}.{name}")
        command = commands.add_parser(name, help=module.SUMMARY, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    args = parser.parse_args(argv)
    for stream in (sys.stdout, sys.stderr) if args.command != "run" else ():  # a script's streams are its own
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # class names may be in any script, terminals are not
    try:
        code = args.run(args)
        sys.stdout.flush()
    except LosslessError as error:
        return _fail(args.command, str(error))
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            raise
        if args.command == "bench":
            extra = "bench"  # which has all that the command may need
        return _fail(args.command, str(MissingExtraError(str(error.name), extra)))
    except BrokenPipeError:  # the reader of a pipe has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except MemoryError:
        return _fail(args.command, "not enough memory: the input has too many scores per row")
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except OSError as error:
        return _fail(args.command, f"cannot write {error.filename}: {error.strerror}" if error.filename else str(error))
    return code() if callable(code) else code or 0


def _fail(command: str, message: str) -> int:
    from lossless._evaluate.text import printable

    lines = [printable(line) for line in message.split("\n")]
    print(f"lossless {command}:", "\n".join(lines), file=sys.stderr)
    return 2
