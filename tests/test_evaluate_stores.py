"""Files of object stores: found, read and told of as local ones are; what is secret in a URL is shown nowhere."""

import errno
import gzip
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

import lossless
from lossless import evaluate
from lossless._evaluate import stores
from lossless._evaluate.inputs import find_files
from lossless._evaluate.plan import make_plan
from lossless._evaluate.roles import Request
from lossless._report import build_page
from lossless.cli import main
from lossless.errors import EvaluationError

fsspec = pytest.importorskip("fsspec")
memory = pytest.importorskip("fsspec.implementations.memory")
torch = pytest.importorskip("torch")

ROWS, CLASSES = 157, 4
RNG = np.random.default_rng(8)
LABELS = RNG.integers(0, CLASSES, ROWS)
SCORES = RNG.normal(size=(ROWS, CLASSES)) * 3
TEXTS = [f"row {i}" for i in range(ROWS)]


GIVEN = []  # (path, bytes) of what was read
REFUSED = {
    "forbidden": PermissionError("Access Denied for https://host/forbidden?X-Sig=hush1"),
    "broken": RuntimeError("https://me:hush2@host/broken?sig=hush3 failed\nat line 3"),
    "refused": FileNotFoundError("refused?token=hush4"),
}
REFUSED["refused"].__cause__ = ConnectionError("Cannot connect to /refused?token=hush5")


class Shop(memory.MemoryFileSystem):
    """A store that notes the bytes it gives, and refuses some files as stores do."""

    protocol = "shop"
    store, pseudo_dirs = {}, [""]

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("shop://"))

    def _check(self, path):
        for name, error in REFUSED.items():
            if name in path:
                raise error

    def info(self, path, **kwargs):
        self._check(path)
        return super().info(path, **kwargs)

    def _open(self, path, mode="rb", **kwargs):
        stream = super()._open(path, mode, **kwargs)
        if mode != "rb":
            return stream
        self._check(path)
        return Noting(io.BytesIO(stream.getvalue()), path)  # the other is everybody's, with one position


class Noting:
    """A file that notes how much is read of it."""

    def __init__(self, stream, path):
        self.stream, self.path, self.closed = stream, path, False

    def read(self, size=-1):
        data = self.stream.read(size)
        GIVEN.append((self.path, len(data)))
        return data

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.closed = True

    def __getattr__(self, name):
        return getattr(self.stream, name)


fsspec.register_implementation("shop", Shop, clobber=True)


@pytest.fixture(params=["memory", "shop"])
def store(request):
    """A store that is empty; files are put there by their names."""
    fs = fsspec.filesystem(request.param)
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    GIVEN.clear()


@pytest.fixture
def shop():
    fs = fsspec.filesystem("shop")
    yield fs
    fs.store.clear()
    fs.pseudo_dirs[:] = [""]
    GIVEN.clear()


def url(store, path=""):
    return f"{store.protocol}://{path}"


def table():
    lists = pa.FixedSizeListArray.from_arrays(pa.array(SCORES.ravel()), CLASSES)
    return pa.table({"logits": lists, "label": LABELS, "text": TEXTS})


def write_ipc(path, new):
    with new(path, table().schema) as writer:
        writer.write_table(table(), max_chunksize=20)


def write_csv(path, opened=open):
    with opened(path, "wt") as stream:
        stream.write(",".join([*(f"logit_{j}" for j in range(CLASSES)), "label", "text"]) + "\n")
        for row in zip(SCORES.tolist(), LABELS, TEXTS, strict=True):
            stream.write(",".join([*map(repr, row[0]), str(row[1]), row[2]]) + "\n")


def write_jsonl(path):
    rows = zip(SCORES.tolist(), LABELS.tolist(), TEXTS, strict=True)
    path.write_text("".join(json.dumps({"logits": s, "label": y, "text": t}) + "\n" for s, y, t in rows))


def write_safetensors(path):
    header = {
        "logits": {"dtype": "F64", "shape": SCORES.shape, "data_offsets": (0, SCORES.nbytes)},
        "label": {"dtype": "I64", "shape": LABELS.shape, "data_offsets": (SCORES.nbytes, SCORES.nbytes + 8 * ROWS)},
    }
    head = json.dumps(header).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + SCORES.tobytes() + LABELS.tobytes())


FORMATS = {
    "p.parquet": lambda path: pq.write_table(table(), path, row_group_size=20),
    "p.arrow": lambda path: write_ipc(path, pa.ipc.new_file),
    "s.arrow": lambda path: write_ipc(path, pa.ipc.new_stream),
    "p.feather": lambda path: feather.write_feather(table(), str(path)),
    "p.csv": write_csv,
    "p.csv.gz": lambda path: write_csv(path, gzip.open),
    "p.jsonl": write_jsonl,
    "p.npz": lambda path: np.savez(path, logits=SCORES, label=LABELS, text=TEXTS),
    "fortran.npz": lambda path: np.savez(path, logits=np.asfortranarray(SCORES), label=LABELS, text=TEXTS),
    "p.safetensors": write_safetensors,
    "p.pt": lambda path: torch.save({"logits": torch.tensor(SCORES), "label": torch.tensor(LABELS)}, path),
}


def put(store, path, name):
    """A file of this machine under a name of the store."""
    with store.open(name, "wb") as stream:
        stream.write(Path(path).read_bytes())


def same(found, expected):
    """Everything but the names of files, and of how many bytes they are."""
    theirs = expected.to_dict()
    ours = found.to_dict()
    ours["source"]["files"] = theirs["source"]["files"]
    for row, other in zip(ours["surprising"], theirs["surprising"], strict=True):
        row["file"] = other["file"]
    assert ours == theirs


# ---------------------------------------------------------------- formats


@pytest.mark.parametrize("name", FORMATS)
def test_formats(store, tmp_path, name, monkeypatch):
    for module in ("arrow", "mapped"):
        monkeypatch.setattr(f"lossless._evaluate.readers.{module}._PART_SCORES", 50 * CLASSES)
    FORMATS[name](tmp_path / name)
    put(store, tmp_path / name, f"bucket/{name}")
    found = evaluate(url(store, f"bucket/{name}"), workers=3)
    same(found, evaluate(tmp_path / name, workers=1))
    assert found.source.files == (url(store, f"bucket/{name}"),)


def test_readers_of_a_file_in_memory_have_positions_of_their_own(tmp_path):
    fs = fsspec.filesystem("memory")
    try:
        fs.pipe_file("/bucket/file.bin", bytes(range(100)))
        file = stores.Place("memory://bucket/file.bin").file
        with stores.in_place(file) as one, stores.in_place(file) as other:
            one.seek(40)
            assert stores.head(file, 3) == b"\x00\x01\x02"
            other.seek(7)
            assert (one.read(2), other.read(2)) == (b"\x28\x29", b"\x07\x08")
            with stores.copies:
                assert Path(stores.local(file)).read_bytes() == bytes(range(100))
            assert one.read(1) == b"\x2a"
    finally:
        fs.store.clear()
        fs.pseudo_dirs[:] = [""]


def test_arrays_and_their_targets(store, tmp_path):
    for part in range(3):
        np.save(tmp_path / f"logits_{part}.npy", SCORES[60 * part : 60 * part + 60])
        put(store, tmp_path / f"logits_{part}.npy", f"b/logits_{part}.npy")
    np.save(tmp_path / "labels.npy", LABELS)
    put(store, tmp_path / "labels.npy", "b/labels.npy")
    expected = evaluate(f"{tmp_path}/logits_*.npy", targets=tmp_path / "labels.npy")
    for targets in (url(store, "b/labels.npy"), tmp_path / "labels.npy", (tmp_path / "labels.npy").as_uri()):
        found = evaluate(url(store, "b/logits_?.npy"), targets=targets)
        assert found.scalars() == expected.scalars()
        assert found.source.scores == expected.source.scores == "logits"  # by the name of the file, copied or not
    with pytest.raises(EvaluationError, match=r"//b/none\.npy: No such file or directory$"):
        evaluate(url(store, "b/logits_?.npy"), targets=url(store, "b/none.npy"))
    with pytest.raises(EvaluationError, match=r"//b: Is a directory$"):
        evaluate(url(store, "b/logits_?.npy"), targets=url(store, "b"))


def test_two_inputs_are_compared(store, tmp_path):
    FORMATS["p.npz"](tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", logits=SCORES / 2, label=LABELS, text=TEXTS)
    for name in ("a.npz", "b.npz"):
        put(store, tmp_path / name, f"b/{name}")
    found = lossless.compare(url(store, "b/a.npz"), url(store, "b/b.npz"))
    expected = lossless.compare(tmp_path / "a.npz", tmp_path / "b.npz")
    assert found.scalars() == expected.scalars()
    assert found.different[0].file_b == url(store, "b/b.npz")


def test_a_file_that_has_changed_is_read_anew(store, tmp_path):
    for scale in (1, 2):
        np.savez(tmp_path / "p.npz", logits=scale * SCORES)
        np.save(tmp_path / "labels.npy", (LABELS + scale) % CLASSES)
        for name in ("p.npz", "labels.npy"):
            put(store, tmp_path / name, name)
        found = evaluate(url(store, "p.npz"), targets=url(store, "labels.npy"))
        assert found.nll == evaluate(tmp_path / "p.npz", targets=tmp_path / "labels.npy").nll


# ---------------------------------------------------------------- what is fetched


def test_of_parquet_only_the_columns_are_fetched(shop, tmp_path):
    photos = pa.array([RNG.bytes(9000) for _ in range(ROWS)])
    pq.write_table(table().append_column("photo", photos), tmp_path / "p.parquet", row_group_size=40)
    for part in range(2):
        put(shop, tmp_path / "p.parquet", f"run/{part}.parquet")
    assert evaluate("shop://run/*.parquet").rows == 2 * ROWS
    fetched, size = sum(size for _, size in GIVEN), 2 * (tmp_path / "p.parquet").stat().st_size
    assert size > 2_800_000
    assert fetched < size / 3  # and much of that are the first bytes and the last, which say what is where


@pytest.mark.parametrize("workers", [1, 4])
def test_other_formats_are_fetched_once_and_removed(shop, tmp_path, workers, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    names = ("p.jsonl", "p.npz", "p.arrow", "p.feather")
    for name in names:
        FORMATS[name](tmp_path / name)
        put(shop, tmp_path / name, f"run/{name}")
    np.save(tmp_path / "labels.npy", np.tile(LABELS, 4))
    put(shop, tmp_path / "labels.npy", "run/labels.npy")
    left = []

    def progress(done, rows):
        left.append(sorted(path.name for path in (tmp_path / "temporary").rglob("*.*")))

    files = [f"shop://run/{name}" for name in names]
    evaluate(files, targets="shop://run/labels.npy", workers=workers, progress=progress)
    assert left[0] == left[-1] == sorted(["labels.npy", *names])
    assert list((tmp_path / "temporary").iterdir()) == []
    for name in (*names, "labels.npy"):
        whole = [size for path, size in GIVEN if path == f"/run/{name}"]
        assert sum(whole) <= (tmp_path / name).stat().st_size + (1 << 16)  # and the head, by which a format is told


def test_copies_are_removed_when_a_run_fails(shop, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    np.savez(tmp_path / "p.npz", p=np.full((5, 3), -1.0), label=[0] * 5)
    put(shop, tmp_path / "p.npz", "p.npz")
    with pytest.raises(EvaluationError, match=r"^shop://p\.npz: row 0 holds"):
        evaluate("shop://p.npz", probs="p")
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_server_that_gives_no_ranges(shop, tmp_path, monkeypatch):
    def seek(self, offset, whence=0):
        raise ValueError("The HTTP server doesn't appear to support range requests")

    FORMATS["p.parquet"](tmp_path / "p.parquet")
    put(shop, tmp_path / "p.parquet", "p.parquet")
    monkeypatch.setattr(Noting, "seek", seek, raising=False)
    same(evaluate("shop://p.parquet"), evaluate(tmp_path / "p.parquet"))


def test_a_copy_that_is_cut_short_is_noticed(shop, tmp_path, monkeypatch):
    FORMATS["p.csv"](tmp_path / "p.csv")
    put(shop, tmp_path / "p.csv", "p.csv")
    monkeypatch.setattr(Shop, "get_file", lambda self, path, local, **_: Path(local).write_text("logit_0,logit_1\n"))
    with pytest.raises(EvaluationError, match=r"^shop://p\.csv: cut short while it was copied: 16 bytes of \d+$"):
        evaluate("shop://p.csv")


# ---------------------------------------------------------------- which files


TREE = (
    *(f"t/part-{i}.npy" for i in range(11)),
    *("t/_SUCCESS.npy", "t/.part.npy", "t/_metadata", "t/notes.txt", "t/README"),
    *("t/a/x.npy", "t/a/b/y.npy", "t/.hidden/z.npy", "t/_temporary/w.npy"),
    *("two/a.csv", "two/b.npy", "deep/a/x.csv", "none/notes.txt", "packed/e.csv", "packed/e.csv.gz"),
    "odd/part[1].csv",
)
ASKED = ("t", "t/", "t/*.npy", "t/part-1?.npy", "t/*/*.npy", "t/**/*.npy", "t/part-[0-3].npy", "t/*.csv", "t/none.npy")
ASKED += ("two", "two/*", "deep", "none", "nowhere/*.npy", "nowhere", "packed", "odd/part[1].csv", "t/.hidden/*.npy")


@pytest.mark.parametrize("asked", ASKED)
def test_files_are_found_as_local_ones_are(store, tmp_path, asked):
    for name in TREE:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
        put(store, tmp_path / name, name)
    root = url(store)

    def outcome(start):
        try:
            files, notes = find_files([start + asked])
            if isinstance(files[0], str):
                os.stat(files[0])  # a store is asked at once, and this machine when the file is opened
            return [[str(file).replace(start, "") for file in files], [n.replace(start, "") for n in notes]]
        except OSError as error:
            return f"{asked}: {os.strerror(error.errno)}"
        except EvaluationError as error:
            return str(error).replace(start, "")

    assert outcome(root) == outcome(f"{tmp_path}/")


def test_a_file_is_read_once_whatever_its_names(store, tmp_path):
    np.save(tmp_path / "a.npy", SCORES)
    put(store, tmp_path / "a.npy", "b/a.npy")
    files, notes = find_files([url(store, "b/a.npy"), url(store, "b"), url(store, "b/*.npy"), tmp_path / "a.npy"])
    assert [str(file) for file in files] == [url(store, "b/a.npy"), str(tmp_path / "a.npy")]
    assert notes == ["2 of 4 files were named before, and are read once"]


def test_file_urls_are_local_paths(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fsspec", None)
    folder = tmp_path / "a folder #1"
    folder.mkdir()
    FORMATS["p.npz"](folder / "p 1.npz")
    found = evaluate((folder / "p 1.npz").as_uri())
    assert found.to_dict() == evaluate(folder / "p 1.npz").to_dict()
    monkeypatch.chdir(folder)
    local = folder.as_uri().removeprefix("file://")
    for asked in (
        f"FILE://{local}/*.npz",
        f"file://localhost{local}/*.npz",
        f"{folder.as_uri()}/*.npz",
        f"file://{folder}/p ?.npz",
        "file://p 1.npz",
    ):
        assert [os.path.abspath(file) for file in find_files([asked])[0]] == [str(folder / "p 1.npz")]


# ---------------------------------------------------------------- secrets


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("s3://bucket/run=1/part-?.parquet", "s3://bucket/run=1/part-?.parquet"),
        ("s3://key:hush@bucket/x.csv", "s3://bucket/x.csv"),
        ("https://host/x.csv?X-Amz-Signature=hush&y=1", "https://host/x.csv"),
        ("https://host/x.csv?hush", "https://host/x.csv"),
        ("https://host/x.csv#hush", "https://host/x.csv"),
        ("HTTPS://hush@host:8080/x.csv", "HTTPS://host:8080/x.csv"),
        ("https://host/npm/pkg@1.0/x.csv", "https://host/npm/pkg@1.0/x.csv"),
        ("http://me:hu@sh@host/x.csv", "http://host/x.csv"),
        ("ftp://me:hush@host/a:b/x.csv", "ftp://host/a:b/x.csv"),
        # Where a password may go on behind a slash, a part of the path is hidden rather than one of the password shown.
        ("s3://AKIA:abc/hush@bucket/key.npz", "s3://…@bucket/key.npz"),
        ("s3://AKIA:hu::sh@bucket/key.npz", "s3://bucket/key.npz"),
        ("s3://AKIA:hu?sh=x@bucket/key.npz", "s3://…"),
        ("ftp://me:hush::s3://hush@host/x", "ftp://…@host/x"),
        ("ftp://u:p/hush@host/x", "ftp://…@host/x"),
        ("ftp://me:hush@host/a:b@c/x.csv", "ftp://…@c/x.csv"),
        ("http://u:p@ss/hush@host/x", "http://…@host/x"),
        ("http://hush@host:8080/x@y.csv", "http://…@y.csv"),
        ("http://u:p?hush@host/x", "http://…"),
        ("http://[::1]:8000/x.csv?token=hush", "http://[::1]:8000/x.csv"),
        ("https://h/x.csv?sig=a::hush", "https://h/x.csv"),
        ("https://h/x.csv?sig=a b 'hush", "https://h/x.csv"),
        ("memory://x.csv?sig=a b hush", "memory://x.csv"),
        ("zip://in/a.npz::memory://u:hush@x/z.zip", "zip://in/a.npz::memory://x/z.zip"),
        ("zip://in/a.npz::s3://u:hu/sh@x/z.zip", "zip://in/a.npz::s3://…@x/z.zip"),
        ("zip://in/a::b.npz::z.zip", "zip://in/a::b.npz::z.zip"),
        ("s3://bucket/t=10:30/run@2/x.csv", "s3://bucket/t=10:30/run@2/x.csv"),
        ("memory://r/run-?-lr=0.1/*.npz", "memory://r/run-?-lr=0.1/*.npz"),
        ("abfs://container@account.dfs.core.windows.net/x.csv", "abfs://container@account.dfs.core.windows.net/x.csv"),
        ("abfs://c@account/x.csv?sv=1&sig=hush", "abfs://c@account/x.csv"),
        (
            "zip://a.csv::simplecache::https://u:hush@host/x.zip?sig=hush",
            "zip://a.csv::simplecache::https://host/x.zip",
        ),
        ("/a/local::path?x=1", "/a/local::path?x=1"),
    ],
)
def test_names_of_urls(given, shown):
    assert stores.named(given) == shown


def test_secrets_are_shown_nowhere(tmp_path, capsys, shop):
    FORMATS["p.npz"](tmp_path / "p.npz")
    given = "shop://me:hush@host/p.npz?sig=hush"
    put(shop, tmp_path / "p.npz", given)
    plan = make_plan([given], Request())
    assert plan.paths == ("shop://host/p.npz",)
    assert "hush" not in repr(plan)
    e = evaluate(given)
    page = repr(build_page(e))
    assert main(["evaluate", given]) == 0
    for text in (e.to_json(), repr(e), e._repr_html_(), page, *capsys.readouterr()):
        assert "hush" not in text
    assert "shop://host/p.npz" in page
    for wrong in ("none.npz?sig=hush", "*.csv?sig=hush", "forbidden?sig=hush", "broken", "refused"):
        assert main(["evaluate", f"shop://me:hush@host/{wrong}"]) == 2
        assert "hush" not in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("shop://AKIA:abc/hush@bucket/broken.npz", "Invalid bucket name 'AKIA:abc', and key hush@bucket/broken.npz"),
        ("shop://me:hush@host/broken.npz", "login of me with hush failed"),
        ("shop://host/broken.npz?sig=a b hush", "shop://host/broken.npz?sig=a b hush failed"),
        ("shop://host/broken.npz?sig=a'\"hush", "'shop://host/broken.npz?sig=a\\'\"hush' failed"),
        ("shop://host/broken.npz?sig=a::hush", "Protocol not known: hush"),
    ],
)
def test_stores_tell_no_secrets_in_their_own_way(shop, given, told, capsys, monkeypatch):
    monkeypatch.setitem(REFUSED, "broken", RuntimeError(told))
    assert main(["evaluate", given]) == 2
    said = capsys.readouterr().err
    assert "RuntimeError: " in said or "Protocol" in told
    assert not any(word in said for word in ("hush", "AKIA", "abc"))


def test_results_go_to_no_store(tmp_path, capsys):
    FORMATS["p.npz"](tmp_path / "p.npz")
    for flag in ("--json", "--out"):
        assert main(["evaluate", str(tmp_path / "p.npz"), flag, "s3://me:hush@bucket/results"]) == 2
        said = capsys.readouterr().err
        assert f"{flag} got s3://bucket/results, expected a path of this machine" in said


def test_a_wildcard_before_an_equals_sign(store, tmp_path):
    FORMATS["p.npz"](tmp_path / "p.npz")
    for run in "ab":
        put(store, tmp_path / "p.npz", f"r/run-{run}-lr=0.1/p.npz")
    for asked in ("r/run-?-lr=0.1/*.npz", "r/run-?-lr=0.1/p.npz"):
        assert evaluate(url(store, asked)).source.files == (
            url(store, "r/run-a-lr=0.1/p.npz"),
            url(store, "r/run-b-lr=0.1/p.npz"),
        )


def test_files_of_archives_are_called_after_them(store, tmp_path):
    FORMATS["p.npz"](tmp_path / "p.npz")
    np.save(tmp_path / "p.npy", SCORES)
    np.save(tmp_path / "labels.npy", np.tile(LABELS, 2))
    for archive in ("z", "z2"):
        with zipfile.ZipFile(tmp_path / f"{archive}.zip", "w") as packed:
            packed.write(tmp_path / "p.npz", "in/a.npz")
            packed.write(tmp_path / "p.npy", "logits_0.npy")
            packed.write(tmp_path / "p.npy", "_SUCCESS.npy")
        put(store, tmp_path / f"{archive}.zip", f"b/{archive}.zip")
    for root in (url(store, "b"), str(tmp_path)):
        files = [f"zip://in/*.npz::{root}/z.zip", f"zip://in/a.npz::{root}/z2.zip"]
        e = evaluate(files)
        assert e.source.files == (f"zip://in/a.npz::{root}/z.zip", files[1])
        e = evaluate([f"zip://*.npy::{root}/{archive}.zip" for archive in ("z", "z2")], targets=tmp_path / "labels.npy")
        assert (e.rows, e.source.scores) == (2 * ROWS, "logits")
    with pytest.raises(EvaluationError, match=r"^zip://none\.npz::.*z2\.zip: No such file"):
        evaluate(f"zip://none.npz::{url(store, 'b/z2.zip')}")


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("shop://b/none.csv", "shop://b/none.csv: No such file or directory"),
        ("shop://b/*.csv", "shop://b/*.csv: no file matches"),
        ("shop://b/forbidden.csv", "shop://b/forbidden.csv: PermissionError: Access Denied for https://host/forbidden"),
        ("shop://b/broken.csv", "shop://b/broken.csv: RuntimeError: https://host/broken failed"),
        ("shop://b/refused.csv", "shop://b/refused.csv: ConnectionError: Cannot connect to /refused"),
        ("shop://b/refused/*.csv", "shop://b/refused/*.csv: ConnectionError: Cannot connect to /refused"),
        ("nosuch://b/x.csv", "nosuch://b/x.csv: ValueError: Protocol not known: nosuch"),
    ],
)
def test_what_a_store_refuses(shop, path, message, capsys):
    assert main(["evaluate", path]) == 2
    assert capsys.readouterr().err == f"lossless evaluate: {message}\n"


def test_a_store_that_fails_while_it_is_read(shop, tmp_path):
    FORMATS["p.parquet"](tmp_path / "p.parquet")
    put(shop, tmp_path / "p.parquet", "p.parquet")

    def read(self, size=-1):
        if size > 1 and self.tell() + size < 5000:  # not the first bytes, by which the format is told, nor the last
            raise RuntimeError("https://host/p.parquet?sig=hush went away")
        return self.stream.read(size)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Noting, "read", read)
        with pytest.raises(EvaluationError, match=r"^shop://p\.parquet: .*RuntimeError: https://host/p\.parquet went"):
            evaluate("shop://p.parquet")


def test_what_is_not_installed_is_named(monkeypatch, capsys):
    why = "Install nostore to access what it stores"
    fsspec.register_implementation("nostore", "no_such_package.Store", clobber=True, errtxt=why)
    assert main(["evaluate", "nostore://bucket/x.parquet"]) == 2
    assert capsys.readouterr().err == f"lossless evaluate: nostore://bucket/x.parquet: {why}\n"
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert main(["evaluate", "s3://bucket/x.parquet"]) == 2
    assert "this needs fsspec, which is not installed: pip install 'lossless[remote]'" in capsys.readouterr().err


def test_local_files_need_no_fsspec(tmp_path):
    FORMATS["p.npz"](tmp_path / "p.npz")
    FORMATS["p.parquet"](tmp_path / "p.parquet")
    script = (
        "import sys, lossless; sys.modules['fsspec'] = None; "
        f"print(*(lossless.evaluate(f'{tmp_path}/p.{{x}}').rows for x in ('npz', 'parquet')))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(ROWS)] * 2


# ---------------------------------------------------------------- other processes


class Pickling(Executor):
    """What is submitted and given back goes through pickles, as to another process."""

    def submit(self, fn, /, *args):
        future = Future()
        fn, args = pickle.loads(pickle.dumps((fn, args)))
        future.set_result(pickle.loads(pickle.dumps(fn(*args))))
        return future


def test_workers_open_the_store_themselves(tmp_path):
    """`local` is a store of fsspec that other processes see too."""
    FORMATS["p.parquet"](tmp_path / "p.parquet")
    FORMATS["p.npz"](tmp_path / "p.npz")
    np.save(tmp_path / "labels.npy", np.tile(LABELS, 2))
    files, targets = ["p.parquet", "p.npz"], tmp_path / "labels.npy"
    expected = evaluate([tmp_path / f for f in files], targets=targets)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        found = evaluate([f"local://{tmp_path}/{f}" for f in files], targets=f"local://{targets}", executor=pool)
    assert found.scalars() == expected.scalars()


@pytest.mark.parametrize("name", ["p.parquet", "p.npz"])
def test_a_worker_that_does_not_reach_the_store(shop, tmp_path, name, monkeypatch):
    class Elsewhere(Pickling):
        def submit(self, fn, /, *args):
            with monkeypatch.context() as patch:
                patch.setitem(REFUSED, name, PermissionError(errno.EACCES, "Access Denied"))
                return super().submit(fn, *args)

    FORMATS[name](tmp_path / name)
    put(shop, tmp_path / name, name)
    assert evaluate(f"shop://{name}", executor=Pickling()).to_dict() == evaluate(f"shop://{name}").to_dict()
    with pytest.raises(EvaluationError, match=rf"^shop://{name}: a worker on .* does not see this file: PermissionErr"):
        evaluate(f"shop://{name}", executor=Elsewhere())
