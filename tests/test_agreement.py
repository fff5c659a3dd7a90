"""The same bits whatever the instruction set, thread count, batch split, alignment or layout."""

import ml_dtypes
import numpy as np
import pytest

native = pytest.importorskip("lossless._native", reason="no kernels were built: the reference path serves everything")

DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
# 16 lanes a block and 64 classes before the view changes: both edges, plus one long row.
CLASSES = [1, 2, 10, 15, 16, 17, 63, 64, 65, 100, 1000]
ROWS = 37  # two groups of 16 and a part


def bits(array):
    return array.view(np.uint16) if array.dtype == ml_dtypes.bfloat16 else array


def logits(classes, dtype, rows=ROWS, seed=0):
    rng = np.random.default_rng([seed, classes])
    x = rng.normal(size=(rows, classes)) * 4
    x[1] *= 20  # confident
    x[2] = -np.inf
    x[2, 0] = 3.0
    x[3, classes // 2] = np.nan
    x[4, classes // 2] = np.inf
    x[5] = 1.0
    x[6] += 20000
    return x.astype(dtype)


def everything(x, inner_last=False):
    """What every row kernel makes of x (rows, classes); `inner_last`: with the classes as the outer axis."""
    rows, classes = x.shape
    shape = (1, classes, rows) if inner_last else (rows, classes, 1)
    lay = (lambda a: np.ascontiguousarray(a.T)) if inner_last else np.ascontiguousarray
    back = (lambda a: np.ascontiguousarray(a.T)) if inner_last else (lambda a: a)
    compute = np.float64 if x.dtype == np.float64 else np.float32
    rng = np.random.default_rng(classes)
    y = rng.integers(0, classes, rows)
    y[7 % rows] = -100
    t = bits(lay(rng.dirichlet(np.ones(classes), rows).astype(x.dtype)))
    w = rng.uniform(0.5, 2, classes).astype(compute)
    source, empty = bits(lay(x)), lambda: np.empty_like(bits(lay(x)))
    column = lambda: np.empty(rows, source.dtype)  # noqa: E731
    results = []
    for target, weight in ((None, None), (y, None), (t, w)):
        outputs = [column() for _ in range(4)]
        correct, state = np.empty(rows, np.uint8), np.empty((native.STATE_ROWS, rows))
        given = target is not None
        bad = native.row_statistics(
            source, *shape, target, weight, w, -100, outputs[0] if given else None, *outputs[1:], correct, state
        )
        assert bad == -1
        wide = [np.empty(rows) for _ in range(4)]
        native.row_statistics(
            source, *shape, target, weight, w, -100, wide[0] if given else None, *wide[1:], None, None
        )
        results += wide[0 if given else 1 :]
        gradient, g = empty(), np.linspace(-1, 1, rows)
        native.row_statistics_backward(
            source, *shape, target, weight, w, -100, state, g if given else None, g, g, g, gradient
        )
        results += [*outputs[0 if given else 1 :], correct, back(gradient)]
        if given:
            for prior_scale in (0.0, 0.01):
                loss = column()
                total = native.row_loss(source, *shape, target, weight, -100, 0.9, prior_scale, loss, state)
                gradient = empty()
                native.row_loss_backward(
                    source, *shape, target, weight, -100, 0.9, prior_scale, state, np.ones(1), rows, gradient
                )
                results += [loss, np.array(total), back(gradient)]
    for kernel in (native.softmax, native.log_softmax):
        out = empty()
        kernel(source, *shape, out)
        results.append(back(out))
    for kernel in (native.softmax_backward, native.log_softmax_backward):
        out = empty()
        kernel(source, *shape, t, out)
        results.append(back(out))
    return results


@pytest.fixture(autouse=True)
def restore():
    isa = native.isa()
    yield
    native.use_isa(isa)
    native.set_num_threads(0)  # the default


def assert_same_bits(one, other, what=""):
    """Also -0 is not +0, and a NaN keeps its payload."""
    assert one.dtype == other.dtype
    np.testing.assert_array_equal(one.view(f"u{one.itemsize}"), other.view(f"u{one.itemsize}"), err_msg=what)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", CLASSES)
def test_instruction_sets(dtype, classes):
    x = logits(classes, dtype)
    expected = everything(x)
    for isa in native.available_isas():
        native.use_isa(isa)
        for one, other in zip(everything(x), expected, strict=True):
            assert_same_bits(one, other, isa)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", CLASSES)
def test_class_dimension_first_or_last(dtype, classes):
    x = logits(classes, dtype)
    for one, other in zip(everything(x), everything(x, inner_last=True), strict=True):
        assert_same_bits(one, other)


@pytest.mark.parametrize("classes", [10, 100])
def test_thread_counts(classes):
    x = logits(classes, np.float32, rows=20_000)
    native.set_num_threads(1)
    expected = everything(x)
    for threads in (2, 3, 7):
        native.set_num_threads(threads)
        for one, other in zip(everything(x), expected, strict=True):
            assert_same_bits(one, other, f"{threads} threads")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [10, 65])
def test_a_row_does_not_depend_on_its_batch(dtype, classes):
    x = logits(classes, dtype)
    together = np.empty_like(bits(x))
    native.softmax(bits(x), *x.shape, 1, together)
    for row in range(ROWS):
        alone = np.empty_like(bits(x[row : row + 1]))
        native.softmax(bits(x[row : row + 1]), 1, classes, 1, alone)
        assert_same_bits(alone[0], together[row])


@pytest.mark.parametrize("classes", [10, 100])
def test_alignment(classes):
    x = logits(classes, np.float32)
    expected = everything(x)
    for offset in range(4, 64, 4):
        memory = np.empty(x.nbytes + 64, np.uint8)
        moved = memory[offset : offset + x.nbytes].view(np.float32).reshape(x.shape)
        moved[:] = x
        for one, other in zip(everything(moved), expected, strict=True):
            assert_same_bits(one, other, f"offset {offset}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 15, 16, 17, 100_000])
def test_pointwise(dtype, size):
    rng = np.random.default_rng(size)
    x, t = bits((rng.normal(size=size) * 10).astype(dtype)), bits(rng.uniform(size=size).astype(dtype))
    results = []
    for isa in native.available_isas():
        native.use_isa(isa)
        for threads in (1, 2):
            native.set_num_threads(threads)
            for kind in ("bce_with_logits", "squared_error"):
                value, dx = np.empty_like(x), np.empty_like(x)
                total = native.pointwise(kind, x, t, t, None, value)
                native.pointwise_backward(kind, x, t, t, None, np.ones(1), 2.0, dx)
                results.append((kind, total, value, dx))
    for kind, total, value, dx in results[2:]:
        expected = next(r for r in results if r[0] == kind)
        assert total == expected[1]
        assert_same_bits(value, expected[2])
        assert_same_bits(dx, expected[3])
