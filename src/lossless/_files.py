"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lossless.errors import ParameterError


@contextmanager
def replacing(path: str | bytes | os.PathLike[str]) -> Iterator[Path]:
    """A file to write, which takes the place of `path` when the block has ended well."""
    try:
        path = os.fsdecode(path)
    except TypeError:
        raise ParameterError(f"got {path!r} for a file to write, expected a path") from None
    if (os.path.exists(path) and not os.path.isfile(path)) or os.path.abspath(path).startswith("/dev/"):
        yield Path(path)  # a device or a pipe cannot be replaced, nor can the file that stdout was sent to
        return
    target = Path(os.path.realpath(path))  # a link stays, and what it points to is written
    name = os.fsencode(target.name)[:100].decode("utf-8", "ignore")  # systems count bytes
    part = target.with_name(f".{name}.{os.getpid()}.part")
    try:
        yield part
        if target.exists():
            shutil.copymode(target, part)
        os.replace(part, target)
    except OSError as error:
        raise type(error)(error.errno, error.strerror or str(error), path) from None
    finally:
        with suppress(OSError):  # where nothing could be written, there is nothing to remove
            part.unlink()


def write_text(path: str | bytes | os.PathLike[str], text: str) -> None:
    """Write a result file in UTF-8."""
    with replacing(path) as part:
        part.write_text(text, "utf-8")
