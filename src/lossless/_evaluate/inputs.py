"""Inputs: files, patterns that match files, and directories of files of one format."""

from __future__ import annotations

import glob
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from lossless.errors import EvaluationError

from .errors import about
from .text import quoted

_FORMATS = {
    "Parquet": (".parquet", ".pq"),
    "Arrow": (".arrow", ".feather", ".ipc"),
    "CSV": (".csv", ".tsv"),
    "JSON lines": (".jsonl", ".ndjson"),
    "NPZ": (".npz",),
    "NPY": (".npy",),
    "safetensors": (".safetensors",),
    "PyTorch": (".pt", ".pth"),
}
_BY_SUFFIX = {suffix: format for format, suffixes in _FORMATS.items() for suffix in suffixes}


def find_files(paths: Sequence[str | os.PathLike[str]]) -> tuple[list[str], list[str]]:
    """The files that paths, patterns and directories stand for, those of one of them by name; and what was left out.

    A number in a name counts as one: the second part comes before the tenth. A file that is named twice is read once.
    """
    files: list[str] = []
    notes: list[str] = []
    for path in [os.fspath(path) for path in paths]:
        with about(path):
            if os.path.isdir(path):
                found, others = _of_directory(path)
                files += found
                if others:
                    notes.append(f"{len(others)} other files in {path} were not read: {quoted(others)}")
            elif glob.has_magic(path) and not os.path.lexists(path):
                files += _matches(path)
            else:
                files.append(path)
    once = _once(files)
    if len(once) < len(files):
        notes.append(f"{len(files) - len(once)} of {len(files)} files were named before, and are read once")
    known = set(once)
    for path in once:
        if f"{path}.gz" in known:
            with about(path):
                raise EvaluationError(
                    f"stands beside {os.path.basename(path)}.gz, most likely itself: name one of them"
                )
    return once, notes


def _once(files: Sequence[str]) -> list[str]:
    """Each file once, whatever its names; one that cannot be found is for its reader to tell of."""
    found: dict[object, str] = {}
    for path in files:
        try:
            status = os.stat(path)
        except OSError:
            found.setdefault(path, path)
        else:
            found.setdefault((status.st_dev, status.st_ino), path)
    return list(found.values())


def _by_number(name: str) -> list[tuple[int, int, str]]:
    """What sorts names with numbers in them as a person would."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"([0-9]+)", name)]


def _matches(pattern: str) -> list[str]:
    """Files that match; what tools write beside the data (_SUCCESS, _metadata) begins with an underscore."""
    matches = [m for m in glob.glob(pattern, recursive=True) if os.path.isfile(m)]
    found = sorted((m for m in matches if not os.path.basename(m).startswith(("_", "."))), key=_by_number)
    if not found:
        raise EvaluationError("no file matches")
    return found


def _of_directory(path: str) -> tuple[list[str], list[str]]:
    """The data files of a directory, by their suffixes, and the names of the others."""
    try:
        entries = sorted(Path(path).iterdir(), key=lambda entry: _by_number(entry.name))
    except OSError as error:
        raise EvaluationError(error.strerror or str(error)) from None
    entries = [entry for entry in entries if not entry.name.startswith(("_", "."))]
    by_format: dict[str | None, list[Path]] = defaultdict(list)
    for entry in entries:
        if entry.is_file():
            by_format[_BY_SUFFIX.get(Path(entry.name.lower().removesuffix(".gz")).suffix)].append(entry)
    others = [entry.name for entry in by_format.pop(None, [])]
    if not by_format:
        folders = [entry.name for entry in entries if entry.is_dir()]
        fix = (
            f"Its folders ({quoted(folders)}) are not searched: give them, or '**/*.parquet' behind it. "
            if folders
            else ""
        )
        held = f"; it holds {quoted(others)}" if others else ""
        raise EvaluationError(
            f"a directory without a file of predictions{held}. {fix}Expected files called *{', *'.join(_BY_SUFFIX)}"
        )
    if len(by_format) > 1:
        counts = ", ".join(f"{len(files)} of {format}" for format, files in sorted(by_format.items(), key=str))
        raise EvaluationError(f"a directory of several formats ({counts}), expected one. Choose by a pattern: '*.csv'")
    return [str(file) for files in by_format.values() for file in files], others
