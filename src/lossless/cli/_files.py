"""Result files, which never take the place of an input or of one another."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
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
        if "://" in path:
            from lossless._evaluate.stores import named  # which hides passwords

            raise UsageError(f"{flag} got {named(path)}, expected a path of this machine, no URL")
        target = Path(path)
        if target.is_dir() or not target.parent.is_dir():
            raise UsageError(f"{flag} got {path}, expected a file in a folder that exists")
        if target.exists() and any(target.samefile(name) for name in inputs if os.path.exists(name)):
            raise UsageError(f"{flag} got {path}, which is an input and would be overwritten")
        other = taken.setdefault(os.path.realpath(path), flag)
        if other != flag:
            raise UsageError(f"{other} and {flag} both got {path}, expected two files")
