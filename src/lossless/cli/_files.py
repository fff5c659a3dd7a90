"""Result files: whole or not at all, and never in the place of an input or of one another."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from lossless.errors import LosslessError


class UsageError(LosslessError, ValueError):
    """Arguments that do not go together."""


def check_outputs(outputs: Mapping[str, str | None], inputs: Sequence[str]) -> None:
    """Raise before the work what writing its results, {flag: path}, would raise after it."""
    taken: dict[str, str] = {}
    for flag, path in outputs.items():
        if path is None:
            continue
        target = Path(path)
        if target.is_dir() or not target.parent.is_dir():
            raise UsageError(f"{flag} got {path}, expected a file in a folder that exists")
        if target.exists() and any(target.samefile(name) for name in inputs if os.path.exists(name)):
            raise UsageError(f"{flag} got {path}, which is an input and would be overwritten")
        other = taken.setdefault(os.path.realpath(path), flag)
        if other != flag:
            raise UsageError(f"{other} and {flag} both got {path}, expected two files")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A file to write, which takes the place of `path` when the block has ended well."""
    if (os.path.exists(path) and not os.path.isfile(path)) or os.path.abspath(path).startswith("/dev/"):
        yield Path(path)  # a device or a pipe cannot be replaced, nor can the file that stdout was sent to
        return
    target = Path(os.path.realpath(path))  # a link stays, and what it points to is written
    part = target.with_name(f".{target.name[:100]}.{os.getpid()}.part")
    try:
        yield part
        if target.exists():
            shutil.copymode(target, part)
        os.replace(part, target)
    except OSError as error:
        raise type(error)(error.errno, error.strerror or str(error), os.fspath(path)) from None
    finally:
        part.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a result file in UTF-8."""
    with replacing(path) as part:
        part.write_text(text, "utf-8")
