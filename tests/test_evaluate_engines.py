"""Engines: the same bits on threads, processes and a Dask cluster; what dies, fails or is interrupted on the way."""

import contextlib
import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

import lossless
from lossless._config import get_num_threads, set_num_threads
from lossless._evaluate.engine import begin, make_jobs, run_job
from lossless._evaluate.evaluation import evaluate_plan
from lossless._evaluate.plan import make_plan
from lossless._evaluate.readers import arrow, mapped
from lossless._evaluate.roles import Request
from lossless._evaluate.temperature import SAMPLE_SCORES
from lossless.cli import main
from lossless.errors import EvaluationError, LosslessWarning, MissingExtraError, MissingTorchError, ParameterError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

RNG = np.random.default_rng(5)
ROWS, CLASSES = 3000, 6
SCORES = RNG.normal(size=(ROWS, CLASSES)).astype(np.float32)
LABELS = RNG.integers(0, CLASSES, ROWS)
SCORES[np.arange(ROWS), LABELS] += 2
SCORES[::100] = SCORES[0]  # equal losses in all partitions
LABELS[::100] = LABELS[0]
SPAWN = multiprocessing.get_context("spawn")


def write(path, scores=SCORES, labels=LABELS, name="logits"):
    column = pa.FixedSizeListArray.from_arrays(pa.array(scores.ravel()), scores.shape[1])
    row = np.arange(len(labels))
    table = pa.table({name: column, "label": labels, "id": row, "group": row % 7})
    pq.write_table(table, path, row_group_size=100)
    return path


@pytest.fixture(autouse=True)
def small_partitions(monkeypatch):
    monkeypatch.setattr(arrow, "_PART_SCORES", 100 * CLASSES)
    monkeypatch.setattr(mapped, "_PART_SCORES", 130 * CLASSES)


@pytest.fixture(params=["groups", "files", "npz", "npy", "targets", "slices", "binary", "multilabel", "regression"])
def inputs(request, tmp_path, monkeypatch):
    """Arguments of `evaluate`: relative paths, which processes in other folders do not know."""
    monkeypatch.chdir(tmp_path)
    match request.param:
        case "groups":
            return {"files": write("p.parquet")}
        case "files":
            return {"files": [write(f"{i}.parquet", SCORES[i::3], LABELS[i::3]) for i in range(3)]}
        case "npz":
            np.savez("p.npz", logits=SCORES, label=LABELS)
            return {"files": "p.npz"}
        case "npy":
            np.save("logits.npy", SCORES)
            np.save("y.npy", LABELS)
            return {"files": "logits.npy", "targets": "y.npy"}
        case "slices":
            write("p.parquet")
            return {"files": "p.parquet", "by": ["group"]}
        case "binary":
            np.savez("p.npz", logits=SCORES[:, 0], label=LABELS % 2)
            return {"files": "p.npz"}
        case "multilabel":
            np.savez("p.npz", logits=SCORES, label=RNG.integers(0, 2, SCORES.shape))
            return {"files": "p.npz"}
        case "regression":
            np.savez("p.npz", predictions=SCORES, target=SCORES + RNG.normal(size=SCORES.shape))
            return {"files": "p.npz"}
        case "targets":
            order = RNG.permutation(ROWS)
            np.savez("truth.npz", id=order, label=LABELS[order])
            pq.write_table(pq.read_table(write("p.parquet")).drop_columns("label"), "p.parquet", row_group_size=100)
            return {"files": "p.parquet", "targets": "truth.npz", "on": "id"}


@pytest.fixture
def plan(tmp_path):
    return make_plan([write(tmp_path / "p.parquet")], Request())


def settle():
    """In another folder, with two native threads."""
    os.chdir("/")
    set_num_threads(2)


@pytest.fixture(scope="module")
def processes():
    """Two processes that start from nothing."""
    with ProcessPoolExecutor(2, mp_context=SPAWN, initializer=settle) as pool:
        yield pool


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    import dask

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "3s"}),
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            host="127.0.0.1",
            memory_limit="1GiB",
            silence_logs=50,
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
        ) as local,
    ):
        local.adapt(minimum=2, maximum=2)
        yield local


@pytest.fixture(scope="module")
def client(cluster):
    import distributed

    with distributed.Client(cluster, set_as_default=False) as found:
        yield found


@pytest.fixture
def dask(client):
    return client.get_executor(pure=False, retries=2)


class Waits(Executor):
    """Runs a job when somebody waits for it; `backwards`, after all that were submitted later."""

    def __init__(self, *, backwards=False, before=lambda: None):
        self.futures, self.most, self.backwards, self.before = [], 0, backwards, before

    def submit(self, fn, /, *args):
        executor = self

        class Lazy(Future):
            def run(self):
                executor.before()
                self.set_result(fn(*args))

            def result(self, timeout=None):
                for future in reversed(executor.futures) if executor.backwards else [self]:
                    if not future.done():
                        future.run()
                executor.futures.remove(self)
                return super().result()

        self.futures.append(Lazy())
        self.most = max(self.most, len(self.futures))
        return self.futures[-1]


# ---------------------------------------------------------------- the same bits


def test_threads_processes_and_any_order_give_the_same_bits(inputs, processes):
    expected = lossless.evaluate(**inputs, workers=1).to_dict()
    assert lossless.evaluate(**inputs, workers=3).to_dict() == expected
    assert lossless.evaluate(**inputs, executor=processes).to_dict() == expected
    with ThreadPoolExecutor(2) as threads:
        assert lossless.evaluate(**inputs, executor=threads).to_dict() == expected
    backwards = Waits(backwards=True)
    assert lossless.evaluate(**inputs, executor=backwards, workers=4).to_dict() == expected
    assert 1 <= backwards.most <= 8


def test_dask_gives_the_same_bits(inputs, dask):
    assert lossless.evaluate(**inputs, executor=dask).to_dict() == lossless.evaluate(**inputs).to_dict()


def test_loky(tmp_path):
    loky = pytest.importorskip("joblib.externals.loky")
    write(tmp_path / "p.parquet")
    with loky.ProcessPoolExecutor(1) as executor:
        e = lossless.evaluate(tmp_path / "p.parquet", executor=executor)
    assert e.to_dict() == lossless.evaluate(tmp_path / "p.parquet").to_dict()


# ---------------------------------------------------------------- who dies, and when


class Dies:
    """A metric whose first update in any other process than `home` is the end of that process."""

    def __init__(self, flag, home):
        self.flag, self.home, self.rows = flag, home, 0

    def __call__(self):  # each of them makes the metrics too
        return Dies(self.flag, self.home)

    def update(self, rows):
        if os.getpid() != self.home and rows.row[0] >= 1000:
            try:
                os.close(os.open(self.flag, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                pass
            else:
                os._exit(1)
        self.rows += len(rows)

    def merge(self, other):
        self.rows += other.rows

    def result(self):
        return self.rows


@pytest.mark.slow  # Dask may take its time to notice
def test_a_worker_of_dask_that_dies_changes_nothing(plan, dask, tmp_path):
    dies = Dies(str(tmp_path / "died"), os.getpid())
    e, extra = evaluate_plan(plan, executor=dask, extra={"dies": dies})
    assert (tmp_path / "died").exists()
    assert extra == {"dies": ROWS}
    assert e.to_dict() == evaluate_plan(plan)[0].to_dict()


@pytest.mark.slow  # Dask may take its time to notice
def test_a_worker_of_dask_that_is_killed_changes_nothing(plan, client):
    seen = []

    def progress(done, rows):
        if not seen:
            os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
        seen.append(done)

    e, _ = evaluate_plan(plan, executor=client.get_executor(pure=False), workers=2, progress=progress)
    assert seen == list(range(100, ROWS + 1, 100))
    assert e.to_dict() == evaluate_plan(plan)[0].to_dict()


def test_what_a_broken_pool_leaves_is_run_here(plan, tmp_path):
    dies = Dies(str(tmp_path / "died"), os.getpid())
    seen = []
    with ProcessPoolExecutor(1, mp_context=SPAWN) as pool, pytest.warns(LosslessWarning, match="broke down") as warned:
        e, extra = evaluate_plan(
            plan, executor=pool, extra={"dies": dies}, progress=lambda done, rows: seen.append((done, rows))
        )
    assert (tmp_path / "died").exists()
    assert warned[0].filename == __file__
    assert extra == {"dies": ROWS}
    assert seen[-1] == (ROWS, ROWS)
    assert e.to_dict() == evaluate_plan(plan)[0].to_dict()


def test_an_executor_that_fails_once_is_asked_again(plan):
    class Fails(Waits):
        failed = 0

        def submit(self, fn, /, *args):
            future = super().submit(fn, *args)
            if len(self.futures) == 3 and not self.failed:
                self.failed = 1
                future.set_exception(TypeError("cannot unpack"))
            return future

    executor = Fails()
    assert evaluate_plan(plan, executor=executor)[0].to_dict() == evaluate_plan(plan)[0].to_dict()
    assert executor.failed


def test_an_executor_that_takes_nothing_more(plan):
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(EvaluationError, match=r"could not run a partition: RuntimeError: .*after shutdown"):
        evaluate_plan(plan, executor=pool)


# ---------------------------------------------------------------- errors


@pytest.fixture
def bad(tmp_path):
    """Negative probabilities in several partitions."""
    p = np.full((ROWS, CLASSES), 1 / CLASSES)
    p[[1234, 2345], 3] = -0.5
    return write(tmp_path / "bad.parquet", p, name="probs")


def test_the_first_error_arrives_as_it_is(bad, processes, dask):
    messages = set()
    for executor in (None, Waits(backwards=True), processes, dask):
        with pytest.raises(EvaluationError, match=r"row 1234 holds -0\.5 for class 3") as raised:
            lossless.evaluate(bad, executor=executor)
        messages.add(str(raised.value))
    assert len(messages) == 1
    assert processes.submit(abs, -1).result() == 1  # it is the caller's, who may go on with it


def test_an_error_cancels_what_waits(bad):
    executor = Waits()
    with pytest.raises(EvaluationError):
        lossless.evaluate(bad, executor=executor, workers=2)
    assert [future.cancelled() for future in executor.futures] == [True] * 3


def test_labels_outside_are_told_as_by_threads(tmp_path, processes):
    labels = LABELS + 1
    write(tmp_path / "p.parquet", labels=labels)
    messages = set()
    for executor in (None, processes):
        with pytest.raises(EvaluationError, match="look 1-based") as raised:
            lossless.evaluate(tmp_path / "p.parquet", executor=executor)
        messages.add(str(raised.value))
    assert len(messages) == 1


def test_workers_that_see_no_file_or_another_one(tmp_path):
    path = write(tmp_path / "p.parquet")
    with pytest.raises(EvaluationError, match=r"p\.parquet: a worker on .* does not see this file: it holds 9 bytes"):
        lossless.evaluate(path, executor=Waits(before=lambda: path.write_bytes(b"something")))
    write(path)
    with pytest.raises(EvaluationError, match=r"p\.parquet: a worker on .* does not see this file: No such file"):
        lossless.evaluate(path, executor=Waits(before=lambda: path.unlink(missing_ok=True)))


def test_not_an_executor(tmp_path):
    with pytest.raises(ParameterError, match=r"executor got dict, expected a concurrent\.futures\.Executor"):
        lossless.evaluate(write(tmp_path / "p.parquet"), executor={})


def test_what_cannot_be_sent_is_said(plan, processes):
    with pytest.raises(EvaluationError, match=r"could not run a partition: .*pickle"):
        evaluate_plan(plan, executor=processes, extra={"here": lambda: Dies("", os.getpid())})


@pytest.mark.parametrize("error", [MissingExtraError("pyarrow", "evaluate"), MissingTorchError(), EvaluationError("x")])
def test_errors_travel(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)


class Stop(BaseException):
    """As KeyboardInterrupt, which pytest keeps for itself."""


@pytest.mark.parametrize("workers", [1, 3])
def test_an_interrupt_leaves_no_thread(plan, workers):
    def progress(done, rows):
        raise Stop

    with pytest.raises(Stop):
        evaluate_plan(plan, workers=workers, progress=progress)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lossless")]


@pytest.mark.parametrize("error", [Stop, OSError])
def test_an_interrupt_cancels_what_waits(plan, error):
    def progress(done, rows):
        if done == 500:
            raise error

    executor = Waits()
    with pytest.raises(error):
        evaluate_plan(plan, executor=executor, workers=2, progress=progress)
    assert [future.cancelled() for future in executor.futures] == [True] * 4


# ---------------------------------------------------------------- progress, threads, sizes


@pytest.mark.parametrize("engine", ["threads", "processes"])
def test_progress_counts_rows(plan, engine, request):
    seen = []
    executor = None if engine == "threads" else request.getfixturevalue(engine)
    evaluate_plan(plan, executor=executor, progress=lambda done, rows: seen.append((done, rows)))
    assert [rows for _, rows in seen] == [ROWS] * len(seen)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1][0] == ROWS
    assert len(seen) == 30


class Threads:
    """The most native threads that a job had."""

    def __init__(self):
        self.most = 0

    def update(self, rows):
        self.most = max(self.most, get_num_threads())

    def merge(self, other):
        self.most = max(self.most, other.most)

    def result(self):
        return self.most


def test_a_job_has_one_native_thread_and_gives_the_others_back(plan, processes):
    pytest.importorskip("lossless._native")
    before = get_num_threads()
    set_num_threads(3)
    try:
        with ThreadPoolExecutor(2) as threads:
            for executor in (None, threads):
                assert evaluate_plan(plan, executor=executor, workers=2, extra={"n": Threads})[1] == {"n": 1}
                assert get_num_threads() == 3
    finally:
        set_num_threads(before)
    assert evaluate_plan(plan, executor=processes, extra={"n": Threads})[1] == {"n": 1}
    assert processes.submit(get_num_threads).result() == 2


def test_what_travels_is_small(tmp_path, monkeypatch):
    plan = make_plan([write(tmp_path / "p.parquet")], Request())
    jobs = make_jobs(plan, {})
    assert len(jobs) == 30
    assert max(len(pickle.dumps(job)) for job in jobs) < 8_000
    monkeypatch.undo()  # partitions as they are
    scores, labels = RNG.normal(size=(2000, 1000)).astype(np.float32), RNG.integers(0, 1000, 2000)
    plan = make_plan([write(tmp_path / "q.parquet", scores, labels)], Request())
    (job,) = make_jobs(plan, {})
    sample = 4 * SAMPLE_SCORES  # float32 that the temperature is fitted on; the rest is a few numbers a class
    assert len(pickle.dumps(run_job(job))) < sample + 500_000
    assert len(pickle.dumps(begin(plan))) < 50_000


# ---------------------------------------------------------------- the command


def test_the_command_at_a_scheduler(cluster, tmp_path, capsys):
    path = str(write(tmp_path / "p.parquet"))
    assert main(["evaluate", path, "--json", "-"]) == 0
    expected = capsys.readouterr().out
    assert main(["evaluate", path, "--json", "-", "--engine", "dask", "--address", cluster.scheduler_address]) == 0
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == (json.loads(expected), "")
    assert len(cluster.scheduler_info["workers"]) == 2  # which is left as it was


def processes_of(command):
    """Those that a command has started, itself left out."""
    psutil = pytest.importorskip("psutil")
    found = []
    for process in psutil.process_iter(["status"]):
        with contextlib.suppress(ProcessLookupError):
            if os.getsid(process.pid) == command.pid != process.pid and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


@pytest.mark.parametrize("interrupted", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_command_starts_and_stops_its_own_workers(tmp_path, interrupted):
    path = str(write(tmp_path / "p.parquet"))
    command = subprocess.Popen(
        [sys.executable, "-m", "lossless", "evaluate", path, "--json", "-", "--engine", "dask", "--workers", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    if interrupted:
        while not processes_of(command):
            assert command.poll() is None
            time.sleep(0.05)
        os.killpg(command.pid, signal.SIGINT)  # as Ctrl-C does, to workers that are being started too
    out, err = command.communicate(timeout=60)
    assert (command.returncode, err) == ((130, b"\n") if interrupted else (0, b""))
    assert interrupted or json.loads(out) == json.loads(lossless.evaluate(path).to_json())
    for _ in range(100):  # one that is ending has five seconds for it
        if not processes_of(command):
            return
        time.sleep(0.05)
    pytest.fail(f"still there: {processes_of(command)}")


def test_misuse_of_the_engine(tmp_path, capsys, monkeypatch):
    path = str(write(tmp_path / "p.parquet"))
    assert main(["evaluate", path, "--address", "tcp://127.0.0.1:1"]) == 2
    assert "add --engine dask" in capsys.readouterr().err
    assert main(["evaluate", path, "--engine", "dask", "--address", "nonsense"]) == 2
    assert "no Dask scheduler answers at nonsense" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert main(["evaluate", path, "--engine", "dask"]) == 2
    assert "pip install 'lossless[dask]'" in capsys.readouterr().err
