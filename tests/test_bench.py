"""`lossless bench`: what the harness computes of what it measured. Nothing here asserts how fast anything was."""

from __future__ import annotations

import gc
import importlib
import json
import math
import re
import sys
from collections import Counter

import numpy as np
import pytest
import torch

import lossless
from lossless._bench import harness, inputs, libraries, memory, shapes, tables, truth
from lossless._bench.functions import FUNCTIONS, ITEM_BYTES, USUAL, least_bytes
from lossless._bench.harness import COPY, Cell, Run, Spec, interleaved, measure
from lossless._bench.libraries import OURS, contestant
from lossless._bench.tables import Bench
from lossless._bench.threads import every, using
from lossless.cli import main

NUMPY_PEERS = ("SciPy", "scikit-learn")


class Clock:
    """Time that passes only while a call runs."""

    def __init__(self):
        self.now, self.log = 0.0, []

    def __call__(self):
        return self.now

    def call(self, name, *durations):
        """A call that takes these times in turn, the last one from then on."""
        left = list(durations)

        def run():
            assert not gc.isenabled()
            self.log.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


# ---- rounds --------------------------------------------------------------------------------------------------------


def test_every_round_runs_every_call_once_and_none_comes_after_the_same_one_each_time():
    clock = Clock()
    interleaved([clock.call(name, 1e-9) for name in "abc"], 1.0, clock)
    rounds = ["".join(clock.log[i : i + 3]) for i in range(0, len(clock.log), 3)]
    assert len(rounds) == harness.MOST_ROUNDS
    assert {"".join(sorted(each)) for each in rounds} == {"abc"}
    orders = Counter(rounds)
    assert len(orders) == 6
    assert all(0.8 < times / (len(rounds) / 6) < 1.2 for times in orders.values())
    assert gc.isenabled()


def test_medians_leave_the_warm_up_out():
    clock = Clock()
    (slow_start, steady), rounds = interleaved([clock.call("a", 100.0, 2.0), clock.call("b", 1.0)], 0.0, clock)
    assert (slow_start, steady, rounds) == (2.0, 1.0, harness.LEAST_ROUNDS)
    # Seven rounds are kept of eight: two of three kinds of time in each half leave the one in the middle.
    clock = Clock()
    (middle,), _ = interleaved([clock.call("a", 50.0, 1.0, 9.0, 2.0, 8.0, 3.0, 7.0, 4.0)], 0.0, clock)
    assert middle == 4.0


def test_rounds_go_on_for_the_time_that_is_given_and_no_longer():
    clock = Clock()
    _, rounds = interleaved([clock.call("a", 0.25), clock.call("b", 0.25)], 20.0, clock)
    assert rounds == 36  # 40 rounds of half a second; a tenth is warm-up
    clock = Clock()
    _, rounds = interleaved([clock.call("a", 1e-9)], 20.0, clock)
    assert rounds == harness.MOST_ROUNDS * 9 // 10


def test_the_collector_is_on_again_when_a_call_fails():
    def fails():
        raise KeyError

    with pytest.raises(KeyError):
        interleaved([fails], 1.0)
    assert gc.isenabled()


# ---- the table of functions ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 2, 3)])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_everybody_computes_the_same(name, shape):
    data = inputs.lay_out(name, inputs.draw(name, shapes.rows(shape), shape[1], "float64"), shape)
    peers = [peer.name for key, peer in libraries.PEERS.items() if key != "compiled" and peer.installed()]
    if shapes.rows(shape) < 10:
        assert contestant("PyTorch", name, shape) or contestant("SciPy", name, shape)
    found = {}
    for library in (OURS, *peers):
        one = contestant(library, name, shape)
        if one is not None:
            found[library] = one.framework.results(one.function, one.framework.place(data, "float64"))
    assert len(found) > 1
    value, gradient = found.pop(OURS)
    assert (gradient is None) == FUNCTIONS[name].numpy
    assert value.shape == (shape if FUNCTIONS[name].array or name.endswith("softmax") else ())
    for other_value, other_gradient in found.values():
        np.testing.assert_allclose(other_value, value, rtol=1e-12)
        if gradient is not None:
            assert gradient.shape == shape
            np.testing.assert_allclose(other_gradient, gradient, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("shape", [(128, 10), (3, 4, 5, 5)])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_ours_is_near_the_truth_also_where_the_sample_is_repeated(name, shape):
    assert 0 < inputs.sample_rows(shape) < shapes.rows(shape)
    found = truth.judge(name, shape, "float32", [contestant(OURS, name, shape)])[OURS]
    assert found.value < 8
    assert (found.gradient is None) == FUNCTIONS[name].numpy
    assert found.gradient is None or found.gradient < 8


def test_a_wrong_result_is_far_from_the_truth():
    ours = contestant(OURS, "mse_loss", (64, 10))
    wrong = libraries.Contestant("wrong", ours.framework, lambda x, t: 1.001 * lossless.mse_loss(x, t))
    found = truth.judge("mse_loss", (64, 10), "float32", [ours, wrong])
    assert found[OURS].value < 1 < 1000 < found["wrong"].value
    assert found[OURS].gradient < 1 < 1000 < found["wrong"].gradient


def test_rows_too_long_to_judge_are_not_judged():
    shape = (2, inputs.LONGEST + 1)
    assert truth.judge("softmax", shape, "float32", [contestant(OURS, "softmax", shape)]) == {}


def test_rows_are_laid_out_with_their_labels():
    data = inputs.draw("class_weights", 12, 5, "float32")
    x, (y, w) = data.x, data.rest
    placed = inputs.lay_out("class_weights", data, (4, 5, 2, 3))  # 24 rows: these twelve, twice
    assert placed.x.shape == (4, 5, 2, 3)
    assert placed.rest[0].shape == (4, 2, 3)
    assert placed.rest[1] is w
    np.testing.assert_array_equal(inputs.as_rows(placed.x, 24), np.concatenate([x, x]))
    np.testing.assert_array_equal(placed.rest[0].ravel(), np.concatenate([y, y]))
    assert inputs.lay_out("class_weights", data, (12, 5)).x is x  # nothing is copied without need


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_inputs_are_what_they_are_called(dtype):
    draw = np.random.default_rng(0)
    made = {kind: make(draw, 40, 7, np.dtype(dtype)) for kind, make in inputs.KINDS.items()}
    assert {str(a.dtype) for kind, a in made.items() if kind != "labels"} == {dtype}
    np.testing.assert_allclose(made["probs"].sum(1), 1, rtol=1e-6)
    np.testing.assert_allclose(np.exp(made["log_probs"]).sum(1), 1, rtol=1e-5)
    assert set(made["bits"].ravel()) == {0, 1}
    assert set(made["labels"]) == set(range(7))
    assert made["weights"].shape == (7,)
    assert (made["weights"] * 8 == np.round(made["weights"] * 8)).all()


@pytest.mark.parametrize("shape", [*shapes.ALL, (1, 1), (7, 3), (1000, 1000)])
def test_a_sample_divides_the_rows(shape):
    count = inputs.sample_rows(shape)
    if shape[1] > inputs.LONGEST:
        assert count == 0
    else:
        assert 1 <= count <= inputs.ROWS
        assert shapes.rows(shape) % count == 0


def test_bytes_that_must_be_moved():
    assert least_bytes("cross_entropy", (6, 5), "float32") == 2 * 6 * 5 * 4 + 6 * 8
    assert least_bytes("cross_entropy", (2, 5, 3, 4), "float16") == 2 * 120 * 2 + 24 * 8
    assert least_bytes("softmax", (6, 5), "float64") == 4 * 6 * 5 * 8


def test_shapes_have_names():
    assert [shapes.parse(text) for text in ("64x10", "8x21x5x5")] == [(64, 10), (8, 21, 5, 5)]
    assert {shapes.parse(text) for text in ("64", "", "x10", "64x", "0x3", "axb", "-1x3", "1.5x3", "²x3")} == {None}
    assert all(shapes.parse(shapes.name(shape)) == shape for shape in shapes.ALL)
    for sweep in (*shapes.SCALING.values(), *shapes.CURVES.values()):
        assert len(sweep) == len(set(sweep)) > 4


# ---- what is made of the times -------------------------------------------------------------------------------------


def cell(function, shape, *runs, dtype="float32", threads=1, sweep="", **more):
    made = Cell(Spec(function, shape, dtype, threads, sweep), **more)
    made.runs = [Run(dict(zip((COPY, OURS, "PyTorch", "compiled"), run, strict=False)), 7) for run in runs]
    return made


@pytest.fixture
def bench():
    table = [
        cell("cross_entropy", (64, 10), (1.0, 4.0, 8.0, 2.0), (2.0, 4.0, 40.0, 4.0), (1.0, 5.0, 5.0, 5.0)),
        cell(
            "softmax",
            (8, 3),
            (0.5, 2.0, 16.0),
            peaks={OURS: 3 * 2**20, "PyTorch": 2**19},
            value_ulp={OURS: 0.5, "PyTorch": 2.0**23},
            gradient_ulp={OURS: 1.25},
            notes={"compiled": "not enough memory"},
        ),
    ]
    steep = [cell("mse_loss", (n, 1000), (1.0, n / 7, n**2), sweep="N at C = 1000") for n in (10, 100, 1000)]
    curves = [cell("mse_loss", (n, 1000), (1e-6, n * 1e-6, n * 2e-6), sweep="N at C = 1000") for n in (1, 10, 100)]
    return Bench({"platform": "<here>"}, 1.5, 3, table, steep, curves)


def test_a_cell_is_the_median_of_its_runs(bench):
    first, second = bench.table
    assert first.names == [OURS, "PyTorch", "compiled"]
    assert first.seconds(COPY) == 1.0
    assert first.copies(OURS) == 4.0  # of 4, 2 and 5
    assert first.copies("PyTorch") == 8.0  # of 8, 20 and 5
    assert first.faster("PyTorch") == 2.0  # of 2, 10 and 1: ratios are taken within a run
    assert first.faster("compiled") == 1.0
    assert second.faster("compiled") is None
    assert first.rate(OURS) == least_bytes("cross_entropy", (64, 10), "float32") / 4.0


def test_means_and_slow_cells(bench):
    found = {mean.peer: mean for mean in tables.means(bench.table)}
    assert found["PyTorch"] == ("float32", 1, "PyTorch", 2, pytest.approx(4.0))  # of 2 and 8
    assert found["compiled"].cells == 1
    assert tables.slow_cells(bench.table) == []
    slower = [cell("entropy", (4, 4), (1.0, 10.0, ratio)) for ratio in (9.4, 9.6, 2.0)]
    assert [slow.times_faster for slow in tables.slow_cells(slower)] == [pytest.approx(0.2), pytest.approx(0.94)]


def test_slopes_are_those_of_the_logarithms(bench):
    found = {slope.name: slope for slope in tables.slopes(bench.scaling)}
    assert found[OURS].slope == pytest.approx(1)
    assert found["PyTorch"].slope == pytest.approx(2)
    assert found[OURS].points == 3
    assert found[OURS].sweep == "N at C = 1000"


def test_tables_say_what_was_measured(bench):
    shown = {table.title.partition(":")[0]: table for table in tables.tables(bench)}
    for table in shown.values():
        assert {len(row) for row in table.rows} == {len(table.columns)}
    times = shown["Time in copies of the logits, and times faster (x)"]
    assert times.columns[2:] == ["copy, us", OURS, "PyTorch", "compiled", "x PyTorch", "x compiled", "GB/s"]
    assert times.rows[0][3:8] == ["4.00", "8.00", "2.00", "2.00", "1.00"]
    assert times.rows[1][3:8] == ["4.00", "32.0", "not enough memory", "8.00", ""]
    assert shown["Peak memory beyond the inputs, MiB"].rows[1] == ["softmax", "8x3", "3.00", "0.500"]
    assert shown["Largest error on a sample of rows, in ulp"].rows[1][2:] == ["0.50", "lost", "1.25"]
    assert shown["How time grows from 10^6 to 10^8 elements"].rows[0][-2:] == ["1.00", "2.00"]
    assert [row[2:] for row in shown["Geometric means"].rows] == [["PyTorch", "2", "4.00"], ["compiled", "1", "1.00"]]
    page = tables.page(bench)
    assert "| softmax | 8x3 |" in page
    assert "platform <here>" in page


def test_everything_is_in_the_json(bench):
    found = json.loads(json.dumps(bench.to_json(), allow_nan=False))
    assert found["schema"] == "lossless.bench/1"
    assert set(found) == {"schema", "machine", "seconds", "repeat", "cells", "means", "slow", "scaling"}
    assert len(found["cells"]) == 2 + 3 + 3
    first = found["cells"][0]
    assert (first["function"], first["shape"], first["dtype"], first["threads"]) == (
        "cross_entropy",
        "64x10",
        "float32",
        1,
    )
    assert first["times_faster"] == {"PyTorch": 2.0, "compiled": 1.0}
    assert [run["seconds"]["PyTorch"] for run in first["runs"]] == [8.0, 40.0, 5.0]
    assert found["cells"][1]["notes"] == {"compiled": "not enough memory"}
    assert {slope["name"] for slope in found["scaling"]} == {OURS, "PyTorch"}


def test_the_chart_is_a_page_that_loads_nothing(bench):
    from lossless._bench import chart

    points = chart.points(bench.curves)
    assert {"sweep": "N at C = 1000", "size": 10, "name": "PyTorch", "time": pytest.approx(2.0)} in points
    assert {point["name"] for point in points} == {OURS, "PyTorch", COPY}
    text = chart.page(bench)
    assert text.count("<svg") == 1
    assert "mse_loss, float32, 1 thread<" in text
    assert "platform &lt;here&gt;" in text
    assert "<script" not in text
    assert "default-src 'none'" in text
    assert not re.search(r"""(?:src|href)\s*=|url\((?!#)""", text)


# ---- measuring -----------------------------------------------------------------------------------------------------

TINY = {"seconds": 0.001, "more": False}


def test_a_cell_has_everybody_in_one_run():
    specs = [Spec("focal_loss", (6, 5), "bfloat16", 1), Spec("numpy_cross_entropy", (6, 5), "float32", 1)]
    first, second = measure(specs, ["PyTorch", *NUMPY_PEERS], repeat=2, **TINY)
    assert [list(run.seconds) for run in first.runs] == [[COPY, OURS, "PyTorch"]] * 2
    assert list(second.runs[0].seconds) == [COPY, OURS, *NUMPY_PEERS]
    assert all(run.rounds >= harness.LEAST_ROUNDS for one in (first, second) for run in one.runs)
    assert all(seconds > 0 for one in (first, second) for run in one.runs for seconds in run.seconds.values())


def test_a_step_leaves_no_gradient_behind():
    one = contestant(OURS, "softmax", (6, 5))
    placed = one.framework.place(inputs.draw("softmax", 6, 5, "float32"), "float32")
    one.framework.step(one.function, placed)()
    assert placed.x.grad is None


def test_where_memory_is_missing_the_cell_says_so_and_the_rest_goes_on(monkeypatch):
    draw = inputs.draw

    def careful(name, count, *rest):
        if count == 7:
            raise MemoryError
        return draw(name, count, *rest)

    monkeypatch.setattr(inputs, "draw", careful)
    refused, fine = measure([Spec("mse_loss", (n, 3), "float32", 1) for n in (7, 8)], ["PyTorch"], **TINY)
    assert refused.notes == {OURS: "not enough memory"}
    assert refused.runs == []
    assert fine.notes == {}
    assert fine.names == [OURS, "PyTorch"]


def test_what_a_peer_cannot_do_is_noted_and_what_we_cannot_is_raised(monkeypatch):
    def fails(*_):
        raise ValueError("first line\nsecond line")

    broken = {name: libraries.Library(name, (), lambda: {"mse_loss": fails}) for name in ("PyTorch", OURS)}
    monkeypatch.setitem(libraries.LIBRARIES, "PyTorch", broken["PyTorch"])
    (found,) = measure([Spec("mse_loss", (4, 3), "float32", 1)], ["PyTorch"], **TINY)
    assert found.names == [OURS]
    assert found.notes == {"PyTorch": "ValueError: first line"}
    monkeypatch.setitem(libraries.LIBRARIES, OURS, broken[OURS])
    with pytest.raises(ValueError, match="first line"):
        measure([Spec("mse_loss", (4, 3), "float32", 1)], ["PyTorch"], **TINY)


@pytest.mark.skipif(memory.available() is None, reason="the system does not say how much memory is left")
def test_memory_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 1 << 26)
    with memory.bounded(), pytest.raises(MemoryError):
        np.empty(1 << 30, np.uint8)
    with memory.bounded(), pytest.raises(RuntimeError) as error:
        torch.empty(1 << 30, dtype=torch.uint8)
    assert memory.refused(error.value)
    assert np.empty(1 << 27, np.uint8).size == 1 << 27
    assert not memory.refused(ValueError("bad shape"))


def test_peak_memory_is_that_of_a_call():
    shape = (2048, 1024)
    found = memory.peak(OURS, "mse_loss", shape, "float32", 1)
    if found is None:
        pytest.skip("the system does not tell peak memory")
    gradient = 4 * math.prod(shape)
    assert 0.9 * gradient < found < 1.5 * gradient  # pages are counted in batches


def test_threads_are_set_for_a_while():
    before = torch.get_num_threads(), lossless.get_num_threads()
    with using(1):
        assert (torch.get_num_threads(), lossless.get_num_threads()) == (1, 1)
    assert (torch.get_num_threads(), lossless.get_num_threads()) == before
    assert every() >= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FUNCTIONS if not FUNCTIONS[name].numpy])
def test_every_function_compiles(name):
    (found,) = measure([Spec(name, (6, 5), "float32", 1)], ["compiled"], **TINY)
    assert found.notes == {}
    one = contestant("compiled", name, (6, 5))
    errors = truth.judge(name, (6, 5), "float32", [contestant(OURS, name, (6, 5)), one])
    assert errors["compiled"].value < 100


# ---- the command ---------------------------------------------------------------------------------------------------


def test_the_command(capsys, tmp_path):
    page, file = tmp_path / "page.md", tmp_path / "bench.json"
    asked = ["bench", "--function", "mse_loss", "--function", "numpy_softmax", "--shape", "6x5", "--shape", "2x3x2x2"]
    asked += ["--threads", "1", "--seconds", "0.001", "--peer", "eager", "--peer", "scipy", "--quick"]
    assert main([*asked, "--json", str(file), "--markdown", str(page)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^mse_loss +2x3x2x2 +[\d.]+ +[\d.]+ +[\d.]+ ", out, re.M)
    assert "Geometric means" in out
    found = json.loads(file.read_text())
    cells = [(c["function"], c["shape"], list(c["copies"])) for c in found["cells"]]
    assert cells == [
        ("mse_loss", "6x5", [OURS, "PyTorch"]),
        ("mse_loss", "2x3x2x2", [OURS, "PyTorch"]),
        ("numpy_softmax", "6x5", [OURS, "SciPy"]),
        ("numpy_softmax", "2x3x2x2", [OURS, "SciPy"]),
    ]
    assert {mean["peer"] for mean in found["means"]} == {"PyTorch", "SciPy"}
    assert page.read_text().startswith("# Speed, measured")
    assert main([*asked, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "lossless.bench/1"


def test_errors_and_sweeps_of_the_command(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(shapes, "SCALING", {"N at C = 1000": ((2, 1000), (4, 1000))})
    monkeypatch.setattr(shapes, "CURVES", {"C at N C = 4,000,000": ((4, 2), (2, 4))})
    monkeypatch.setattr(memory, "peak", lambda *_: 2**20)
    asked = ["bench", "--function", "softmax", "--peer", "eager", "--threads", "1", "--seconds", "0.001", "--json", "-"]
    assert main([*asked, "--shape", "6x5", "--dtype", "float64"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["cells"]
    assert found["peak_bytes"] == {OURS: 2**20, "PyTorch": 2**20}
    assert set(found["value_ulp"]) == set(found["gradient_ulp"]) == {OURS, "PyTorch"}
    page = tmp_path / "chart.html"
    assert main([*asked, "--scaling", "--chart", str(page)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [c["shape"] for c in found["cells"]] == ["2x1000", "4x1000", "4x2", "2x4"]
    assert {s["name"] for s in found["scaling"]} == {OURS, "PyTorch"}
    assert "<svg" in page.read_text()


def test_the_command_without_peers(capsys):
    asked = ["bench", "--function", "softmax", "--threads", "1", "--seconds", "0.001", "--shape", "6x5", "--quick"]
    assert main([*asked, "--no-peers"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^softmax +6x5 +[\d.]+ ", out, re.M)
    assert not re.search("peer|PyTorch|Geometric means", out)
    assert main([*asked, "--no-peers", "--json", "-"]) == 0
    (cell,) = json.loads(capsys.readouterr().out)["cells"]
    assert list(cell["copies"]) == [OURS]


def test_what_is_measured_without_being_told(monkeypatch, capsys):
    asked = []

    def measured(specs, peers, seconds, repeat, more, progress):
        asked.append((list(specs), peers))
        return [Cell(spec) for spec in specs]

    monkeypatch.setattr(harness, "measure", measured)
    assert main(["bench"]) == 0
    specs, peers = asked.pop()
    assert [s.function for s in specs if s.shape == (64, 10)] == list(USUAL)
    assert {s.shape for s in specs} == set(shapes.USUAL)
    assert {(s.dtype, s.threads) for s in specs} == {("float32", every())}
    assert {"PyTorch", "compiled"} <= set(peers)
    assert main(["bench", "--all"]) == 0
    specs, _ = asked.pop()
    assert {s.function for s in specs} == set(FUNCTIONS)
    assert {s.dtype for s in specs} == set(ITEM_BYTES)
    assert {s.threads for s in specs} == {1, every()}
    assert {s.shape for s in specs} == set(shapes.ALL)
    assert not any(FUNCTIONS[s.function].numpy and s.dtype == "bfloat16" for s in specs)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--function", "softmaxx"], "--function got softmaxx, expected one of cross_entropy, soft_targets,"),
        (["--shape", "64"], "--shape got 64, expected N x C, as 1024x32000"),
        (["--dtype", "float8"], "--dtype got float8, expected one of float32, float64, bfloat16, float16"),
        (["--peer", "numpy"], "--peer got numpy, expected one of eager, compiled, jax, scipy, sklearn"),
        (["--threads", "0"], "--threads got 0, expected at least 1"),
        (["--seconds", "0"], "--seconds got 0, expected more than 0"),
        (["--seconds", "nan"], "--seconds got nan, expected more than 0"),
        (["--repeat", "0"], "--repeat got 0, expected at least 1"),
        (["--json", "no/such/folder.json"], "--json got no/such/folder.json, expected a file in a folder"),
        (["--function", "numpy_softmax", "--dtype", "bfloat16"], "nothing to measure: NumPy has no bfloat16"),
        (["--scaling", "--shape", "64x10"], "--shape and --scaling exclude each other"),
        (["--peer", "eager", "--no-peers"], "--peer and --no-peers exclude each other"),
    ],
)
def test_misuse_is_named(given, message, capsys):
    assert main(["bench", *given]) == 2
    assert message in capsys.readouterr().err


def test_what_is_not_installed_is_named(monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr("lossless.cli.bench.find_spec", lambda name: None)
        assert main(["bench"]) == 2
        assert "this needs PyTorch, which is not installed" in capsys.readouterr().err
    monkeypatch.setattr(libraries, "find_spec", lambda name: None if name == "jax" else 1)
    assert main(["bench", "--peer", "jax"]) == 2
    assert "--peer got jax, which needs jax and optax: not installed" in capsys.readouterr().err


def test_a_missing_package_of_the_extra_is_named(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "altair", None)
    for name in ("lossless._bench.chart", "lossless._report.charts"):
        package, _, module = name.rpartition(".")
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.delattr(importlib.import_module(package), module, raising=False)
    monkeypatch.setattr(harness, "measure", None)
    assert main(["bench", "--chart", str(tmp_path / "chart.html")]) == 2
    assert "pip install 'lossless[bench]'" in capsys.readouterr().err
