"""Files of object stores and web servers, which fsspec finds and reads. Local files never import it.

Parquet is read in place, by ranges of bytes. A file of another format is copied to a temporary folder first, which
lasts as long as the run.
"""

from __future__ import annotations

import errno
import io
import os
import re
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from glob import has_magic
from typing import Any
from urllib.parse import quote
from urllib.request import url2pathname

from lossless.errors import EvaluationError, MissingExtraError

from .text import printable

_URL = re.compile(r"([a-z][a-z0-9+.-]+::)*[a-z][a-z0-9+.-]+://", re.IGNORECASE)  # C:// is a drive
_URLS = re.compile(rf"{_URL.pattern}[^\s'\"<>]+", re.IGNORECASE)
_WEB, _FILE = re.compile("https?://", re.IGNORECASE), re.compile("file://(localhost(?=/))?", re.IGNORECASE)
# What another URL may follow: a protocol alone, or a path in an archive, a folder or a cache.
_HOLDER = re.compile(r"[a-z][a-z0-9+.-]*$|(zip|tar|libarchive|dir|cached|(simple|file|block)cache)://", re.IGNORECASE)
_WEB_QUERY, _QUERY = re.compile("[?#]"), re.compile(r"\?[a-zA-Z0-9%][^/]*=")
_VALUES = re.compile(r"\?[^/\s]*=\S*")


@dataclass(frozen=True)
class RemoteFile:
    """A file that fsspec reads. Its name is for all to see; what may be secret is only in what opens it."""

    name: str  # its URL without passwords and queries
    fs: Any = field(repr=False)
    path: str = field(repr=False)  # as `fs` calls it
    size: int | None  # in bytes, if a listing tells
    found: int = field(repr=False, compare=False)  # when: what is kept of it in memory is of one run
    archive: str = ""  # with two colons before it, where the file is in one
    secrets: Sequence[str] = field(default=(), repr=False, compare=False)  # of its URL

    def __str__(self) -> str:
        return self.name + self.archive


FilePath = str | RemoteFile


def is_url(path: str) -> bool:
    """Whether a path is one that fsspec reads."""
    return _URL.match(path) is not None


def plain(path: str) -> str:
    """A file:// URL as the path of this machine that it is; any other path as it stands."""
    start = _FILE.match(path)
    return path if start is None else url2pathname(path[start.end() :])


def named(url: str) -> str:
    """A URL without what may be secret: user and password, and the query of a web address."""
    return "::".join(shown for shown, _, _ in map(_parted, _links(url)))


def _links(url: str) -> list[str]:
    """The URLs of a chain: a file of an archive, and the archive. Others may have two colons in them."""
    for colons in re.finditer("::", url):
        head, tail = url[: colons.start()], url[colons.end() :]
        inside = _WEB.match(head) or ":" in head.partition("://")[2]  # a query or a password
        if _HOLDER.match(head) or (_URL.match(tail) and not inside):
            return [head, *_links(tail)]
    return [url]


def _parted(link: str) -> tuple[str, str, str]:
    """What of a URL may be shown, what may be a user and a password, and what may be a query.

    Passwords may hold slashes and question marks, so more is hidden than need be rather than less.
    """
    scheme, separator, rest = link.partition("://")
    if not separator:
        return link, "", ""
    web = _WEB.match(link) is not None
    # In other URLs a question mark may stand for any character of a name.
    asked = (_WEB_QUERY if web else _QUERY).search(rest)
    whole, query = (rest, "") if asked is None else (rest[: asked.start()], rest[asked.start() :])
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    # The container of an Azure account stands before an @ too, and is no secret.
    if not (":" in authority or (web and "@" in authority)) or "@" not in rest:
        return f"{scheme}://{whole}", "", query
    if "@" in query:
        return f"{scheme}://…", rest.rpartition("@")[0], query
    user, _, bare = whole.rpartition("@")
    return f"{scheme}://{'…@' if '/' in user else ''}{bare}", user, query


def _sought(path: str) -> str:
    """What of a path of a store may be a pattern: of a web address neither host nor query."""
    return _WEB_QUERY.split(path)[0].split("/", 3)[-1] if _WEB.match(path) else path


def _secrets(url: str) -> list[str]:
    """What a message may not hold, in all ways in which it may be written; the longest first."""
    found = set()
    for _, user, query in map(_parted, _links(url)):
        values = [part.partition("=")[2] or part for part in re.split("[?&#]", query)]
        found |= {user, query, *values}
        found |= {part for text in (user, *values) for part in re.split(r"[/:@=\s]+", text)}
    # Shorter ones are in many words.
    written = {way for text in found if len(text) > 2 for way in (text, repr(text)[1:-1], quote(text))}
    return sorted(written, key=len, reverse=True)


class Place:
    """What a URL names: a file, a directory, or a pattern that files match."""

    def __init__(self, url: str) -> None:
        try:
            import fsspec
        except ModuleNotFoundError:
            raise MissingExtraError("fsspec", "remote") from None
        self._secrets = _secrets(url)
        with _told(self._secrets):
            self._fs, self._path = fsspec.url_to_fs(url)
            self._fs.invalidate_cache()  # a listing may be of an earlier run
            self._info = self._look()
        links = _links(url)
        at = next((i for i, link in enumerate(links) if "://" in link), 0)
        whole, end = links[at].rstrip("/"), self._path.rstrip("/")
        self._before = "".join(f"{link}::" for link in links[:at])
        self._start = whole.removesuffix(end) if whole.endswith(end) else None
        self._archive = "".join(f"::{named(link)}" for link in links[at + 1 :])
        # Web servers know files alone, and show a directory by the slash.
        kind = None if self._info is None else "directory" if self._path.endswith("/") else self._info["type"]
        self.is_directory = kind == "directory"
        self.is_pattern = kind is None and has_magic(_sought(self._path))

    def _look(self) -> dict[str, Any] | None:
        """What the store says about it; None if it is not there."""
        try:
            info: dict[str, Any] = self._fs.info(self._path)
        except FileNotFoundError as error:
            if _refusal(error) is not None:
                raise
            return None
        return info

    @property
    def file(self) -> RemoteFile:
        """The file."""
        if self._info is None or self.is_directory:
            raise EvaluationError(os.strerror(errno.EISDIR if self.is_directory else errno.ENOENT))
        return self._file(self._path, self._info)

    def entries(self) -> list[tuple[str, RemoteFile | None]]:
        """The names in a directory, with their files; None for directories in it."""
        with _told(self._secrets):
            found = self._fs.ls(self._path, detail=True)
        entries = []
        for info in found:
            path = info["name"].rstrip("/")
            if path != self._path.rstrip("/"):  # some stores keep an empty object for the directory itself
                folder = info["type"] == "directory" or path != info["name"]
                entries.append((path.rpartition("/")[2], None if folder else self._file(path, info)))
        return entries

    def matches(self) -> list[RemoteFile]:
        """The files that match a pattern; like the shell, a wildcard leaves hidden directories out."""
        with _told(self._secrets):
            found = self._fs.glob(self._path, detail=True)
        given = set(self._path.split("/"))
        return [
            self._file(path, info)
            for path, info in found.items()
            if info["type"] == "file"
            and not path.endswith("/")
            and not any(part.startswith(".") for part in path.split("/") if part not in given)
        ]

    def _file(self, path: str, info: dict[str, Any]) -> RemoteFile:
        url = self._before + (self._fs.unstrip_protocol(path) if self._start is None else self._start + path)
        return RemoteFile(named(url), self._fs, path, info.get("size"), time.time_ns(), self._archive, self._secrets)


# ---------------------------------------------------------------- reading


@contextmanager
def in_place(path: FilePath) -> Iterator[Any]:
    """What pyarrow opens to read parts of a file: the path, or a stream that asks the store for ranges of bytes."""
    if isinstance(path, str) or copies.hold(path):
        yield local(path)
        return
    with _Ranges(path) as stream:
        if stream.can_seek():
            yield stream
            return
    yield local(path)  # of a server that gives files from the beginning only


def head(path: FilePath, size: int) -> bytes:
    """The first bytes of a file."""
    if isinstance(path, str):
        with open(path, "rb") as stream:
            return stream.read(size)
    with _Ranges(path) as stream:
        return stream.read(size)


def size_now(path: FilePath) -> int | None:
    """The bytes of a file that this process can read; None if its store does not tell."""
    if isinstance(path, str):
        with open(path, "rb") as stream:
            return os.fstat(stream.fileno()).st_size
    with _told(path.secrets):
        size: int | None = path.fs.info(path.path)["size"]
    return size


def beside(path: FilePath, name: str) -> FilePath | None:
    """The file that is called so in the directory of another, if there is one."""
    if isinstance(path, str):
        other = os.path.join(os.path.dirname(path), name)
        return other if os.path.isfile(other) else None
    other = path.path.rpartition("/")[0] + "/" + name
    with _told(path.secrets):
        there = path.fs.isfile(other)
    return replace(path, name=os.path.dirname(path.name) + "/" + name, path=other, size=None) if there else None


def base(path: FilePath) -> str:
    """The name of a file in its directory."""
    return os.path.basename(path if isinstance(path, str) else path.name)


def local(path: FilePath) -> str:
    """The path of a file on this machine: its own, or that of a copy."""
    return path if isinstance(path, str) else copies.of(path)


def _held(file: RemoteFile) -> bytes | None:
    """All of a file in fsspec's own memory, without a copy; None of any other.

    It is one stream there, with one position for all who read it at once.
    """
    from fsspec.implementations.memory import MemoryFileSystem

    if type(file.fs) is not MemoryFileSystem:
        return None
    data: bytes = file.fs.open(file.path, "rb").getvalue()
    return data


class _Ranges(io.RawIOBase):
    """A remote file, read without reading ahead: pyarrow asks for as much as it needs."""

    def __init__(self, file: RemoteFile) -> None:
        self._secrets = file.secrets
        with _told(self._secrets):
            held = _held(file)
            self._stream = file.fs.open(file.path, "rb", cache_type="none") if held is None else io.BytesIO(held)

    def can_seek(self) -> bool:
        """Whether a range can be read, which some web servers refuse."""
        try:
            self.seek(-1, io.SEEK_END)
            return len(self.read(1)) == 1
        except EvaluationError:
            return False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        with _told(self._secrets):
            return int(self._stream.seek(offset, whence))

    def tell(self) -> int:
        return int(self._stream.tell())

    def read(self, size: int = -1) -> bytes:
        with _told(self._secrets):
            return bytes(self._stream.read(size))

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()


class _Copies:
    """Copies of remote files on this machine; the last run to leave removes them."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0
        self._begin()

    def _begin(self) -> None:
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._fetching: dict[RemoteFile, threading.Lock] = {}
        self._paths: dict[RemoteFile, str] = {}

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._folder is not None:
                self._folder.cleanup()
                self._begin()

    def hold(self, path: FilePath) -> bool:
        """Whether there is a copy of a file."""
        return path in self._paths

    def of(self, file: RemoteFile) -> str:
        """The path of the copy of a file, which is fetched first if need be."""
        with self._lock:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="lossless-", ignore_cleanup_errors=True)
            folder = self._folder.name
            one = self._fetching.setdefault(file, threading.Lock())
        with one:
            if file not in self._paths:
                self._paths[file] = _fetched(file, folder)
            return self._paths[file]


copies = _Copies()


def _fetched(file: RemoteFile, folder: str) -> str:
    """The path of a new copy, called like the file: some columns are named after theirs."""
    with _told(file.secrets):
        path = os.path.join(tempfile.mkdtemp(dir=folder), base(file) or "file")
        held = _held(file)
        if held is None:
            file.fs.get_file(file.path, path)
        else:
            with open(path, "wb") as copy:
                copy.write(held)
        size = os.path.getsize(path)
    if file.size not in (None, size):
        raise EvaluationError(f"cut short while it was copied: {size} bytes of {file.size}")
    return path


# ---------------------------------------------------------------- errors


@contextmanager
def _told(secrets: Sequence[str]) -> Iterator[None]:
    """Whatever a store raises, in one line and without secrets; stores have many libraries, and each its own errors."""
    try:
        yield
    except EvaluationError:
        raise
    except FileNotFoundError as error:
        why = _refusal(error)
        raise EvaluationError(os.strerror(errno.ENOENT) if why is None else _first_line(why, secrets)) from None
    except Exception as error:
        raise EvaluationError(_first_line(error, secrets)) from None


def _refusal(error: FileNotFoundError) -> BaseException | None:
    """What is behind an error, if a file may be there all the same: with web servers, fsspec calls everything so."""
    why = error.__cause__
    return why if isinstance(why, OSError) or getattr(why, "status", 404) != 404 else None


def _first_line(error: BaseException, secrets: Sequence[str]) -> str:
    kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "  # Install s3fs to access S3
    text = str(error)
    for secret in secrets:
        text = text.replace(secret, "" if secret.startswith("?") else "…")
    text = _URLS.sub(lambda url: named(url[0]), text.partition("\n")[0])
    return printable(kind + _VALUES.sub("", text))
