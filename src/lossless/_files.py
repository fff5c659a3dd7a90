"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
