"""Inputs: files, patterns that match files, and directories of files of one format."""

from __future__ import annotations

import glob
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from lossless.errors import EvaluationError

from .errors import about
from .readers import INDICES, PREDICTIONS
from .stores import FilePath, Place, RemoteFile, base, is_url, named, plain
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


def find_files(paths: Sequence[str | os.PathLike[str]]) -> tuple[list[FilePath], list[str]]:
    """The files that paths, patterns and directories stand for, those of one of them by name; and what was left out.

    A number in a name counts as one: the second part comes before the tenth. A file that is named twice is read once.
    """
    files: list[FilePath] = []
    notes: list[str] = []
    for path in map(_written, paths):
        with about(named(path)):
            place = _place(path)
            if place.is_directory:
                found, others = _of_directory(place.entries())
                files += found
                if others:
                    notes.append(f"{len(others)} other files in {named(path)} were not read: {quoted(others)}")
            elif place.is_pattern:
                files += _matches(place.matches())
            else:
                files.append(place.file)
    once = _once(files)
    if len(once) < len(files):
        notes.append(f"{len(files) - len(once)} of {len(files)} files were named before, and are read once")
    known = set(map(str, once))
    once = [file for file in once if not _is_order(file, known)]
    for file in once:
        if _sibling(file, f"{base(file)}.gz") in known:
            with about(file):
                raise EvaluationError(f"stands beside {base(file)}.gz, most likely itself: name one of them")
    return once, notes


def find_file(path: str | os.PathLike[str]) -> FilePath:
    """The one file that a path stands for."""
    path = _written(path)
    with about(named(path)):
        return _place(path).file


class _Local:
    """What a path of this machine names: a file, a directory, or a pattern that files match."""

    def __init__(self, path: str) -> None:
        self.file: FilePath = path
        self._path = path
        self.is_directory = os.path.isdir(path)
        self.is_pattern = glob.has_magic(path) and not os.path.lexists(path)

    def entries(self) -> Iterator[tuple[str, FilePath | None]]:
        """The names in a directory, with their files; None for directories in it."""
        try:
            entries = list(Path(self._path).iterdir())
        except OSError as error:
            raise EvaluationError(error.strerror or str(error)) from None
        for entry in entries:
            if entry.is_file() or entry.is_dir():
                yield entry.name, str(entry) if entry.is_file() else None

    def matches(self) -> list[FilePath]:
        """The files that match a pattern."""
        return [match for match in glob.glob(self._path, recursive=True) if os.path.isfile(match)]


def _written(path: str | os.PathLike[str]) -> str:
    return plain(os.fspath(path))


def _place(path: str) -> _Local | Place:
    return Place(path) if is_url(path) else _Local(path)


def _once(files: Sequence[FilePath]) -> list[FilePath]:
    """Each file once, whatever its names; one that cannot be found is for its reader to tell of."""
    found: dict[object, FilePath] = {}
    for file in files:
        try:
            found.setdefault(_identity(file), file)
        except OSError:
            found.setdefault(file, file)
    return list(found.values())


def _identity(file: FilePath) -> tuple[object, object]:
    if isinstance(file, RemoteFile):
        return file.fs, file.path
    status = os.stat(file)
    return status.st_dev, status.st_ino


def _is_order(file: FilePath, known: Collection[str]) -> bool:
    """Whether a file says which rows are those of another one, whose reader looks at it."""
    name = base(file)
    is_one = INDICES in name and Path(name.lower()).suffix in _FORMATS["PyTorch"]
    return is_one and _sibling(file, name.replace(INDICES, PREDICTIONS)) in known


def _sibling(file: FilePath, name: str) -> str:
    """What a file of another name in the same directory would be called."""
    whole, archive = (file, "") if isinstance(file, str) else (file.name, file.archive)
    return whole.removesuffix(base(file)) + name + archive


def _by_number(name: str) -> list[tuple[int, int, str]]:
    """What sorts names with numbers in them as a person would."""
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"([0-9]+)", name)]


def _matches(matches: Sequence[FilePath]) -> list[FilePath]:
    """Files that match; what tools write beside the data (_SUCCESS, _metadata) begins with an underscore."""
    found = [match for match in matches if not base(match).startswith(("_", "."))]
    if not found:
        raise EvaluationError("no file matches")
    return sorted(found, key=lambda match: _by_number(str(match)))


def _of_directory(entries: Iterable[tuple[str, FilePath | None]]) -> tuple[list[FilePath], list[str]]:
    """The data files of a directory, by their suffixes, and the names of the others."""
    entries = sorted(entries, key=lambda entry: _by_number(entry[0]))
    entries = [(name, file) for name, file in entries if not name.startswith(("_", "."))]
    by_format: dict[str | None, list[tuple[str, FilePath]]] = defaultdict(list)
    for name, file in entries:
        if file is not None:
            by_format[_BY_SUFFIX.get(Path(name.lower().removesuffix(".gz")).suffix)].append((name, file))
    others = [name for name, _ in by_format.pop(None, [])]
    if not by_format:
        folders = [name for name, file in entries if file is None]
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
    return [file for files in by_format.values() for _, file in files], others
