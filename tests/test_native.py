"""The native module by itself: it refuses what it cannot do, and survives threads and forks."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

native = pytest.importorskip("lossless._native", reason="no kernels were built: the reference path serves everything")

N, C = 6, 5


def arguments(**changes):
    """The arguments of a good `row_loss` call, with some replaced."""
    good = {
        "x": np.zeros((N, C), np.float32),
        "outer": N,
        "classes": C,
        "inner": 1,
        "target": np.zeros(N, np.int64),
        "weight": None,
        "ignore_index": -100,
        "link": (1.0, 0.0, 0.0, 0.0),
        "loss": np.empty(N, np.float32),
        "state": np.empty((native.STATE_ROWS, N)),
        "divisor": None,
        "g": 1.0,
        "dx": np.empty((N, C), np.float32),
    }
    return good | changes


def read_only(array):
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"x": np.zeros((N, C), np.int64)}, TypeError),
        ({"x": np.zeros((N, C), np.complex64)}, TypeError),
        ({"x": np.zeros((N, C), object)}, (TypeError, ValueError, BufferError)),
        ({"x": np.zeros((N, C), ">f4")}, TypeError),
        ({"x": np.zeros((C, N), np.float32).T}, (ValueError, BufferError)),
        ({"x": None}, TypeError),
        ({"x": [[0.0] * C] * N}, TypeError),
        ({"x": np.zeros((N, C + 1), np.float32)}, ValueError),
        ({"outer": N + 1}, ValueError),
        ({"outer": -N, "inner": -1}, ValueError),
        ({"classes": 0, "x": np.zeros((N, 0), np.float32)}, ValueError),
        ({"outer": 2**62 + N}, ValueError),  # the size would wrap around to the right one
        ({"outer": 2**32, "inner": 2**32, "x": np.zeros((0, C), np.float32)}, ValueError),
        ({"outer": 0, "classes": 2**60, "x": np.zeros((0, C), np.float32)}, ValueError),
        ({"target": np.zeros(N, np.int32)}, TypeError),
        ({"target": np.zeros(N + 1, np.int64)}, ValueError),
        ({"target": np.zeros((N, C), np.float64)}, TypeError),
        ({"target": None}, TypeError),
        ({"weight": np.ones(C, np.float64)}, TypeError),
        ({"weight": np.ones(C - 1, np.float32)}, ValueError),
        ({"loss": np.empty(N - 1, np.float32)}, ValueError),
        ({"loss": np.empty(N, np.float64)}, TypeError),
        ({"loss": read_only(np.empty(N, np.float32))}, (ValueError, BufferError)),
        ({"state": np.empty((native.STATE_ROWS - 1, N))}, ValueError),
        ({"state": np.empty((native.STATE_ROWS, N), np.float32)}, TypeError),
        ({"dx": np.empty((N, C - 1), np.float32)}, ValueError),
        ({"dx": np.empty((N, C))}, TypeError),
        ({"link": (1.0, 0.0, 2.0, 0.0), "target": np.zeros((N, C), np.float32)}, ValueError),
    ],
)
def test_refuses_arguments_it_cannot_use(changes, error):
    with pytest.raises(error):
        native.row_loss(**arguments(**changes))


def test_reports_the_first_index_out_of_range():
    target = np.array([0, 1, 99, 4, -1, 0])
    assert native.row_loss(**arguments(target=target))[0] == 2
    assert native.row_loss(**arguments(target=target, ignore_index=99))[0] == 4
    assert native.row_loss(**arguments(target=np.array([2**62, 0, 0, 0, 0, 0])))[0] == 0


def test_a_refused_array_is_let_go():
    memory = bytearray(8)
    with pytest.raises(TypeError):
        native.is_one_number(memoryview(memory).cast("b"))
    memory.append(0)  # raises BufferError while somebody holds on to it


def test_refuses_a_number_of_threads_no_machine_has():
    for threads in (-1, 5000):
        with pytest.raises(ValueError, match="threads"):
            native.set_num_threads(threads)


@pytest.mark.parametrize("scale", [1e-30, 1e20, 1e30])
@pytest.mark.parametrize("kernel", ["softmax_backward", "log_softmax_backward"])
@pytest.mark.parametrize("classes", [7, 100])
def test_gradients_of_any_size_pass_through(kernel, classes, scale):
    rng = np.random.default_rng(0)
    x, g = (rng.normal(size=(5, classes)).astype(np.float32) for _ in range(2))
    small, large = np.empty_like(x), np.empty_like(x)
    getattr(native, kernel)(x, 5, classes, 1, g, small)
    getattr(native, kernel)(x, 5, classes, 1, g * np.float32(scale), large)
    np.testing.assert_allclose(large / np.float32(scale), small, rtol=1e-5, atol=1e-6)


def test_labels_alone_pick_a_log_probability():
    x, dx = np.zeros((N, C), np.float32), np.empty((N, C), np.float32)
    with pytest.raises(ValueError, match="target: labels expected"):
        native.nll(x, N, C, 1, x, None, -100, None)
    with pytest.raises(ValueError, match="target: labels expected"):
        native.nll_backward(dx, N, C, 1, x, None, -100, np.ones(1), 1.0)
    assert native.nll(x, N, C, 1, np.array([0, 1, -100, C, 4, -1]), None, -100, None)[0] == 3


@pytest.mark.parametrize("classes", [1, 3, 40, 300])
@pytest.mark.parametrize("inner", [1, 7, 1000])
def test_nll_of_any_layout(classes, inner):
    """Across chunks, and with zeros wherever nothing is picked."""
    outer = 70_000 // (classes * inner) + 2
    rng = np.random.default_rng(inner)
    x = rng.normal(size=(outer, classes, inner))
    y = rng.integers(-1, classes, (outer, inner))
    w, g = rng.uniform(0.5, 2, classes), rng.normal(size=(outer, inner))
    loss, dx = np.empty((outer, inner)), np.full(x.shape, np.nan)
    bad, total, weights = native.nll(x, outer, classes, inner, y, w, -1, loss)
    native.nll_backward(dx, outer, classes, inner, y, w, -1, g, 2.0)
    expected, slopes, kept = np.zeros_like(loss), np.zeros_like(x), 0.0
    for o, i in np.ndindex(outer, inner):
        if (j := y[o, i]) >= 0:
            expected[o, i] = -w[j] * x[o, j, i]
            slopes[o, j, i] = -w[j] * (g[o, i] / 2.0)
            kept += w[j]
    np.testing.assert_array_equal(loss, expected)
    np.testing.assert_array_equal(dx, slopes)
    assert bad == -1
    assert (total, weights) == (pytest.approx(expected.sum(), rel=1e-12, abs=1e-9), pytest.approx(kept))


def test_the_result_of_softmax_is_as_precise_as_its_arithmetic():
    x, dx = np.zeros((N, C), np.float32), np.empty((N, C), np.float32)
    half = x.astype(np.float16)
    with pytest.raises(ValueError, match="result"):
        native.softmax_backward(half, N, C, 1, half, half.copy(), result=half)
    with pytest.raises(ValueError, match="result"):
        native.softmax_backward(x, N, C, 1, x, dx, 2.0, result=x)
    for wrong in (x[:-1].copy(), x.astype(np.float64)):
        with pytest.raises((ValueError, TypeError), match="result"):
            native.softmax_backward(x, N, C, 1, x, dx, result=wrong)


def test_a_gradient_is_not_written_over_what_it_is_made_of():
    x, g, result = (np.ones((N, C), np.float32) for _ in range(3))
    for over in (g, result):
        with pytest.raises(ValueError, match="dx: over"):
            native.softmax_backward(x, N, C, 1, g, over, result=result)


def test_weights_of_any_size_pass_through():
    x, t, w = (np.full(3, v, np.float32) for v in (0.5, 0.25, 1e25))
    plain, weighted, value = np.empty(3, np.float32), np.empty(3, np.float32), np.empty(3, np.float32)
    no = (-1.0, 0.0)
    native.pointwise_backward("bce_with_logits", x, t, None, None, no, np.ones(1), 1.0, plain)
    native.pointwise_backward("bce_with_logits", x, t, w, None, no, np.ones(1), 1e25, weighted)
    np.testing.assert_allclose(weighted, plain, rtol=1e-6)
    assert np.isfinite(native.pointwise("bce_with_logits", x, t, w, None, no, value, 1.0, 1.0, None))


@pytest.mark.parametrize("kind", ["sigmoid_focal", "kl_divergence"])
def test_refuses_what_a_kernel_does_not_know(kind):
    x, w = np.zeros(3, np.float32), np.ones(3, np.float32)
    for arrays in ((x.astype(np.float64), x.astype(np.float64), None), (x, x, w), (x, None, None)):
        with pytest.raises(ValueError, match=kind):
            native.pointwise(kind, *arrays, None, (0.25, 2.0), None, 1.0, 1.0, None)
    with pytest.raises(ValueError, match="sigmoid"):
        native.pointwise("sigmoid", x, x, None, None, (0.25, 2.0), None, 1.0, 1.0, None)
    for temperature in (0.0, -1.0, 2.0**-21, 2.0**21, np.inf, np.nan):
        with pytest.raises(ValueError, match="temperature"):
            native.softmax(x, 1, 3, 1, x.copy(), temperature)


def test_refuses_tensors_without_data():
    torch = pytest.importorskip("torch")
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = torch.zeros(N, C)
    for tensor in (fake, torch.zeros(N, C, device="meta"), torch.zeros(N, C).to_sparse()):
        with pytest.raises((TypeError, ValueError, RuntimeError, BufferError)):
            native.row_loss(**arguments(x=tensor))


def test_empty_rows():
    empty = {"x": np.zeros((0, C), np.float32), "outer": 0, "target": np.zeros(0, np.int64)}
    out = {
        "loss": np.empty(0, np.float32), "state": np.empty((native.STATE_ROWS, 0)), "dx": np.empty((0, C), np.float32),
    }  # fmt: skip
    assert native.row_loss(**arguments(**empty, **out)) == (-1, 0.0, 0.0)


def test_refuses_a_size_that_is_none():
    with pytest.raises(ValueError, match="least"):
        native.write_past_caches(0)


def test_unknown_instruction_set():
    with pytest.raises(ValueError, match="x86-64-v9 is not one this machine can run"):
        native.use_isa("x86-64-v9")


def test_an_instruction_set_that_cannot_be_had_is_not_replaced_by_another():
    done = subprocess.run(
        [sys.executable, "-c", "import lossless"],
        env=os.environ | {"LOSSLESS_ISA": "x86-64-v9"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "LOSSLESS_ISA=x86-64-v9: instruction set x86-64-v9 is not one this machine can run" in done.stderr


def softmax(x):
    out = np.empty_like(x)
    native.softmax(x, *x.shape, 1, out)
    return out


def test_calls_from_many_threads_at_once():
    x = np.random.default_rng(0).normal(size=(2000, 100)).astype(np.float32)
    expected = softmax(x)
    results = [None] * 8

    def work(i):
        results[i] = all(np.array_equal(softmax(x), expected) for _ in range(5))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert results == [True] * 8


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("classes", [3, 70])  # both views
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_special_rows_are_those_of_the_reference(classes, dtype, temperature):
    from lossless import reference

    inf, nan = np.inf, np.nan
    heads = [
        [inf, inf, 0],
        [0, inf, inf],
        [-inf] * 3,
        [nan, 1, 0],
        [nan, inf, 0],
        [0, inf, 1],
        [1, 1, 0],
        [-inf, nan, 0],
    ]
    x = np.full((len(heads), classes), -inf, dtype)
    x[:, :3] = heads
    for label in range(3):
        y = np.full(len(heads), label)
        nll, lse, entropy = (np.empty(len(heads), dtype) for _ in range(3))
        correct = np.empty(len(heads), bool)
        of = x, *x.shape, 1, y, None, None, None
        native.row_statistics(*of, nll, lse, entropy, None, correct, None, temperature)
        expected = reference.row_statistics(x, y, temperature=temperature)
        np.testing.assert_array_equal(correct, expected.correct)
        np.testing.assert_allclose(lse, expected.lse.astype(dtype), rtol=1e-6)
        np.testing.assert_allclose(nll, expected.nll.astype(dtype), rtol=1e-6)
        np.testing.assert_allclose(entropy, expected.entropy.astype(dtype), rtol=1e-6)
    for kernel, formula in (
        (native.softmax, reference.softmax),
        (native.log_softmax, reference.log_softmax),
    ):
        out = np.empty_like(x)
        kernel(x, *x.shape, 1, out, temperature)
        np.testing.assert_allclose(out, formula(x, temperature).astype(dtype), rtol=1e-6)


@pytest.mark.parametrize("kind", ["sigmoid", "log_sigmoid", "bce_with_logits"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_large_factors_make_nothing_of_zero(kind, dtype):
    """Far to the right a sigmoid is 1 and its slope 0, whatever multiplies it."""
    x = np.array([np.inf, 1e4, 900.0], dtype)
    if kind == "sigmoid":
        x = np.concatenate([x, -x])
    one = None if kind != "bce_with_logits" else np.ones_like(x)
    weight = None if one is None else np.full_like(x, 1e37)
    g, dx = np.full_like(x, 1e38 if weight is None else 1), np.empty_like(x)
    native.pointwise_backward(kind, x, one, weight, None, (-1.0, 0.0), g, 1.0, dx)
    np.testing.assert_array_equal(dx, 0)
    if one is not None:
        value = np.empty_like(x)
        native.pointwise(kind, x, one, weight, None, (-1.0, 0.0), value, 1.0, 1.0, None)
        np.testing.assert_array_equal(value, 0)


@pytest.mark.parametrize("gap", [20, 60, 85])
@pytest.mark.parametrize("temperature", [2.0**-20, 1e-3, 0.3, 3.0, 2.0**20])
def test_the_gradient_of_a_tempered_entropy_sums_to_zero(temperature, gap):
    x = np.array([[0.0, -gap * temperature]], np.float32)
    state, g, dx = np.empty((native.STATE_ROWS, 1)), np.ones(1, np.float32), np.empty_like(x)
    of = x, 1, 2, 1, None, None, None, None
    native.row_statistics(*of, None, None, np.empty(1, np.float32), None, None, state, temperature)
    native.row_statistics_backward(*of, state, None, None, g, None, dx, temperature)
    assert dx[0, 1] > 0
    np.testing.assert_allclose(dx[0, 0], -dx[0, 1], rtol=5e-7)


FORK = """
import os, sys, numpy as np
{setup}
import lossless
x = np.random.default_rng(0).normal(size=(5000, 100)).astype(np.float32)
before = lossless.softmax(x)
child = os.fork()
if child == 0:
    os._exit(0 if np.array_equal(lossless.softmax(x), before) else 3)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.parametrize("setup", ["", "import torch; import lossless; lossless.softmax(torch.randn(5000, 100))"])
def test_a_forked_child_can_compute(setup):
    if "torch" in setup:
        pytest.importorskip("torch")
    environment = os.environ | {"LOSSLESS_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK.format(setup=setup)], timeout=60, env=environment, check=False
    )
    assert done.returncode == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_unrounded_statistics_are_those_that_are_rounded(dtype):
    """For the losses that compute on with them; all of one call, or none."""
    rng = np.random.default_rng(0)
    x, y, u = (4 * rng.normal(size=(37, 10))).astype(dtype), rng.integers(0, 10, 37), np.ones(10, np.float32)

    def statistics(*dtypes):
        outputs = [np.empty(37, d) for d in dtypes]
        native.row_statistics(x, 37, 10, 1, y, None, u, None, *outputs, None, None)
        return outputs

    wide = statistics(*[np.float64] * 4)
    for a, b in zip(statistics(*[dtype] * 4), wide, strict=True):
        np.testing.assert_array_equal(a, b.astype(dtype))
        assert np.any(a != b)
    with pytest.raises(TypeError, match="lse: wrong dtype"):
        statistics(np.float64, dtype, np.float64, np.float64)
