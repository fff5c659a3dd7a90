"""The same bits whatever the instruction set, run, thread count, batch, position, alignment or layout.

First the kernels, at every edge of width and value, NaN and infinities among them. Then the public functions in NumPy
and PyTorch, values and gradients, on the shipped problems: in float32 all of them, in float64 those of `served`, whose
bits the kernels make. What else is float64 takes sums from NumPy or PyTorch, in an order that is theirs to choose.
`test_hashes.py` holds the bits themselves.
"""

import dataclasses
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import lossless
from lossless._accuracy.libraries import OURS, Library, Torch, View
from lossless._accuracy.problems import Problem, cases, problem
from lossless._kernels import native, why
from lossless._numpy.gradients import asked
from test_hashes import served

if native is None:
    pytest.skip(f"no kernels, and the bits of the reference are the framework's: {why}", allow_module_level=True)

DTYPES = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
PUBLIC = ("float32", "float64")
# 16 lanes a block, and 59 classes, or with labels 64, before the view changes: both sides of each, plus one long row.
CLASSES = [1, 2, 10, 15, 16, 17, 59, 60, 64, 65, 100, 1000]
ROWS = 69  # a whole group of the kernels, and a part of the next


# Where exponentials are denormal or infinite, or are taken from another formula.
FAR = [41.0, -41.0, 40.75, -40.75, 88.0, -88.0, 104.0, -104.0, 800.0, -800.0, np.inf, -np.inf, np.nan, 0.0, -0.0]


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


LINKS = [  # and temperatures
    ((0.9, 0.0, 0.0, 0.0), 1.0),
    ((0.9, 0.01, 0.0, 0.0), 1.0),
    ((1.0, 0.0, 2.0, 0.0), 1.0),
    ((1.0, 0.0, 1.3, 0.1), 0.3),
    ((1.0, 0.02, 0.0, 0.1), 3.0),
]


def everything(x, inner_last=False, room=np.empty_like):
    """What every row kernel makes of x (rows, classes).

    `inner_last`: with the classes as the outer axis; `room` gives memory for what is like x.
    """
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
    source, empty = bits(lay(x)), lambda: room(bits(lay(x)))
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
            source, *shape, target, weight, w, -100, wide[0] if given else None, *wide[1:], None, None, 0.7
        )
        results += wide[0 if given else 1 :]
        gradient, g = empty(), np.linspace(-1, 1, rows)
        native.row_statistics_backward(
            source, *shape, target, weight, w, -100, state, g if given else None, g, g, g, gradient
        )
        results += [*outputs[0 if given else 1 :], correct, back(gradient)]
        if given:
            for link, temperature in LINKS:
                if target is t and link[2]:  # no curve over probabilities
                    continue
                of = source, *shape, target, weight, -100, link
                loss, gradient, at_once = column(), empty(), empty()
                total = native.row_loss(*of, loss, state, None, 1.0, None, temperature)
                native.row_loss_backward(*of, state, np.full(1, 0.3), total[2], gradient, temperature)
                again = native.row_loss(*of, None, None, None, 0.3, at_once, temperature)
                assert_same_bits(np.array(again), np.array(total))
                assert_same_bits(gradient, at_once, f"the gradient at once and later, {link}, {temperature}")
                results += [loss, np.array(total), back(gradient)]
    for weight in (None, w):
        loss, gradient = column(), empty()
        totals = native.nll(source, *shape, y, weight, -100, loss)
        native.nll_backward(gradient, *shape, y, weight, -100, np.linspace(-1, 1, rows), 0.7)
        results += [loss, np.array(totals), back(gradient)]
    for temperature in (1.0, 0.7):
        entropy, state, gradient, at_once = column(), np.empty((native.STATE_ROWS, rows)), empty(), empty()
        native.entropy(source, *shape, entropy, state, 0.3, at_once, temperature)
        given = source, *shape, None, None, None, None, state, None, None, np.full(rows, 0.3), None
        native.row_statistics_backward(*given, gradient, temperature)
        assert_same_bits(gradient, at_once, f"the gradient of the entropy at once and later, {temperature}")
        results += [entropy, back(gradient)]
        for kernel in (native.softmax, native.log_softmax):
            out = empty()
            kernel(source, *shape, out, temperature)
            results.append(back(out))
        for kernel in (native.softmax_backward, native.log_softmax_backward):
            out = empty()
            kernel(source, *shape, t, out, temperature)
            results.append(back(out))
    if x.dtype in (np.float32, np.float64):
        result, out = empty(), empty()
        native.softmax(source, *shape, result)
        native.softmax_backward(source, *shape, t, out, result=result)
        results.append(back(out))
    return results


@pytest.fixture(autouse=True)
def restore():
    isa, threads = native.isa(), torch.get_num_threads()
    yield
    native.use_isa(isa)
    native.set_num_threads(0)  # the default
    native.write_past_caches(native.LARGE_TRAFFIC)
    torch.set_num_threads(threads)


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
def test_kernels_and_threads(classes):
    x = logits(classes, np.float32, rows=20_000)
    native.set_num_threads(1)
    expected = everything(x)
    for threads in (2, 3, 7):
        native.set_num_threads(threads)
        for one, other in zip(everything(x), expected, strict=True):
            assert_same_bits(one, other, f"{threads} threads")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", [10, 65])
def test_kernels_and_batches(dtype, classes):
    x = logits(classes, dtype)
    together = np.empty_like(bits(x))
    native.softmax(bits(x), *x.shape, 1, together)
    g, gradients = bits(logits(classes, dtype, seed=1)), np.empty_like(bits(x))
    native.softmax_backward(bits(x), *x.shape, 1, g, gradients)
    for row in range(ROWS):
        one = slice(row, row + 1)
        alone = np.empty_like(bits(x[one]))
        native.softmax(bits(x[one]), 1, classes, 1, alone)
        assert_same_bits(alone[0], together[row])
        native.softmax_backward(bits(x[one]), 1, classes, 1, g[one], alone)
        assert_same_bits(alone[0], gradients[row])


@pytest.mark.parametrize("classes", [10, 100])
def test_kernels_and_alignment(classes):
    x = logits(classes, np.float32)
    expected = everything(x)
    for offset in range(4, 64, 4):
        for one, other in zip(everything(moved(offset)(x)), expected, strict=True):
            assert_same_bits(one, other, f"offset {offset}")


ALIKE = 4096  # addresses that are so far apart look alike to a core


class Fences:
    """Memory so many bytes beyond a multiple of 4096 (in whole numbers), between what must stay as it is."""

    def __init__(self, offset):
        self.offset = offset
        self.fences = []

    def __call__(self, like):
        size, around = like.itemsize, ALIKE // like.itemsize
        whole = np.full(like.size + 3 * around, 0x5A, f"u{size}")
        start = around + (self.offset - whole.ctypes.data) % ALIKE // size
        out = whole[start : start + like.size].view(like.dtype).reshape(like.shape)
        self.fences += [whole[:start], whole[start + like.size :]]
        return out

    def stand(self):
        return all((fence == 0x5A).all() for fence in self.fences)


def placed(a, offset):
    out = Fences(offset)(a)
    out[...] = a
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("classes", CLASSES)
def test_kernels_past_the_caches(dtype, classes):
    x = logits(classes, dtype)
    expected = everything(x)
    native.write_past_caches(1)
    for isa in native.available_isas():
        native.use_isa(isa)
        for offset, of_x in ((0, 0), (8, 0), (24, 8), (56, 2100), (128, 80)):
            for inner_last in (False, True):
                room = Fences(offset)
                for one, other in zip(everything(placed(x, of_x), inner_last, room), expected, strict=True):
                    assert_same_bits(one, other, f"{isa}, offsets {offset}, {of_x}, inner_last {inner_last}")
                assert room.stand()


@pytest.mark.parametrize("classes", [10, 100])
def test_many_rows_past_the_caches(classes):
    x = logits(classes, np.float32, rows=20_001)
    expected = everything(x)
    native.write_past_caches(1)
    for threads in (1, 3):
        native.set_num_threads(threads)
        room = Fences(20)
        for one, other in zip(everything(x, room=room), expected, strict=True):
            assert_same_bits(one, other, f"{threads} threads")
        assert room.stand()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [1, 15, 16, 17, 100_000])
def test_pointwise(dtype, size):
    rng = np.random.default_rng(size)
    x, t = (rng.normal(size=size) * 10).astype(dtype), rng.uniform(size=size).astype(dtype)
    if size > len(FAR):
        x[: len(FAR)], t[: len(FAR)] = FAR, [0.0, 1.0, 0.5] * (len(FAR) // 3)
    x, t = bits(x), bits(t)
    kinds = [("bce_with_logits", t, t), ("squared_error", t, t), ("squared_error", t, None)]
    kinds += [("sigmoid", None, None), ("log_sigmoid", None, None)]
    if dtype != np.float64:
        kinds += [("sigmoid_focal", t, None), ("kl_divergence", t, None)]
    results = []
    for isa, threads, least in itertools.product(native.available_isas(), (1, 2), (native.LARGE_TRAFFIC, 1)):
        native.use_isa(isa)
        native.set_num_threads(threads)
        native.write_past_caches(least)
        for offset in (0, x.itemsize):
            room = Fences(offset)
            for kind, target, weight in kinds:
                value, dx, at_once = room(x), room(x), room(x)
                of = kind, x, target, weight, None, (0.25, 2.0)
                total = native.pointwise(*of, value, 1.0, 2.0, at_once)
                native.pointwise_backward(*of, np.ones(1), 2.0, dx)
                assert_same_bits(dx, at_once, "the gradient at once and later")
                results.append(((kind, weight is None), total, value, dx))
            assert room.stand()
    for kind, total, value, dx in results[len(kinds) :]:
        expected = next(r for r in results if r[0] == kind)
        np.testing.assert_array_equal(total, expected[1])
        assert_same_bits(value, expected[2])
        assert_same_bits(dx, expected[3])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [8191, 8192, 20_000, 40_008])
@pytest.mark.parametrize("of_target", [48, 2096, 2000])  # slopes are kept back by 2048, 1024 and 3072 bytes for these
def test_slopes_beside_what_is_read(dtype, size, of_target):
    rng = np.random.default_rng(size)
    x, t = (bits((rng.normal(size=size) * 10).astype(dtype)) for _ in range(2))
    for kind in ("bce_with_logits", "squared_error"):
        expected, g = np.empty_like(x), 0.3
        total = native.pointwise(kind, x, t, None, None, (0.25, 2.0), None, g, 2.0, expected)
        for least in (native.LARGE_TRAFFIC, 1):
            native.write_past_caches(least)
            for over in (False, True):
                room = Fences(512)
                of_x, of_t = placed(x, 512 - 48), placed(t, 512 - of_target)
                dx = room(x)
                if over:
                    of_x = dx
                    of_x[...] = x
                assert native.pointwise(kind, of_x, of_t, None, None, (0.25, 2.0), None, g, 2.0, dx) == total
                assert_same_bits(dx, expected, f"{kind}, from {least}, over {over}")
                assert room.stand()


# ---- public functions ----------------------------------------------------------------------------------------------


def transposed(a):
    return np.ascontiguousarray(a.T).T


def sliced(a):
    wide = np.zeros((*a.shape[:-1], 2 * a.shape[-1] + 1), a.dtype)
    wide[..., 1::2] = a
    return wide[..., 1::2]


def padded(a):
    wide = np.zeros((*a.shape[:-1], a.shape[-1] + 3), a.dtype)
    wide[..., 1:-2] = a
    return wide[..., 1:-2]


def mirrored(a):
    return np.flip(np.ascontiguousarray(np.flip(a)))


def expanded(a):
    """One row in place of many, where all are equal."""
    return np.lib.stride_tricks.as_strided(a, strides=(0, *a.strides[1:])) if (a == a[0]).all() else a


def moved(offset: int):
    """`offset` bytes behind a boundary of 64."""

    def place(a):
        memory = np.empty(a.nbytes + 128, np.uint8)
        start = -memory.ctypes.data % 64 + offset
        copy = memory[start : start + a.nbytes].view(a.dtype).reshape(a.shape)
        copy[...] = a
        return copy

    place.__name__ = f"{offset} bytes further"
    return place


class InPlace(Torch):
    def place(self, array):
        return torch.from_numpy(array)


LIBRARIES = {"numpy": OURS["numpy"], "torch": Library("lossless", InPlace(), lossless)}


@dataclasses.dataclass(frozen=True)
class Placed(View):
    """A problem of other rows, in other memory: `order` picks them, `place` puts arrays somewhere."""

    order: Any = ...
    place: Callable[[np.ndarray], np.ndarray] = np.ascontiguousarray
    elements: int | None = None  # of functions of single numbers: the arrays of this length are the rows

    def __call__(self, array):
        if array is None:
            return None
        array = np.asarray(array)
        array = np.array(array[self.order] if array.ndim and len(array) == self.elements else array)
        return self.library.framework.place(self.place(array) if array.ndim else array)

    def table(self, array):
        return self(array if self.elements else array[self.order])

    rows = table


def run(case: Problem, framework: str, **how: Any) -> dict[str, np.ndarray]:
    """Values and gradient, as float64."""
    view = Placed(LIBRARIES[framework], elements=None if case.table else len(case.x), **how)
    if framework == "numpy":
        with asked():  # losses answer with (value, gradient)
            outputs = case.call(case.input(view), view)
        pairs = {name: a if type(a) is tuple else (a,) for name, a in outputs.items()}
        return {f"{name} {i}": np.asarray(a, np.float64) for name, pair in pairs.items() for i, a in enumerate(pair)}
    found = {}

    def call(x):
        outputs = case.call(x, view)
        found.update({name: view.library.framework.numbers(a) for name, a in outputs.items()})
        return outputs

    x = case.input(view)
    if case.gradient is None:
        call(x)
    else:
        g = case.g and {name: case.upstream(a, view) for name, a in case.g.items()}
        found["gradient"] = view.library.framework.numbers(view.library.framework.vjp(call, x, g))
    return found


def chosen(dtype: str) -> dict[str, str]:
    """A case of each variant of a function: the first of more than three classes."""
    names = served(dtype) if dtype == "float64" else cases(dtype)
    few_or_many = re.compile(r".*/(typical-[23]|long-\d+)$")
    return {name.rsplit("/", 1)[0]: name for name in names[::-1] if not few_or_many.match(name)}


def public_cases() -> Iterator[Any]:
    """On the reference path all variants of a kind but one are slow."""
    for dtype in PUBLIC:
        kernels, seen = set(served(dtype)), set()
        for variant, name in chosen(dtype).items():
            kind = variant if name in kernels else variant.split("-")[0]
            yield pytest.param(name, dtype, id=f"{dtype}/{name}", marks=[pytest.mark.slow] if kind in seen else [])
            seen.add(kind)


def has_rows(name: str, dtype: str) -> bool:
    """Whether every row, or number, has results of its own."""
    g = problem(name, dtype).g
    return g is not None and all(a.ndim for a in g.values())


CASES = list(public_cases())


def law(only: Callable[[str, str], bool] = lambda name, dtype: True):
    """Parametrizes a test over the public functions, as far as `only` says."""
    some = [case for case in CASES if only(*case.values)]

    def parametrized(test):
        return pytest.mark.parametrize("framework", LIBRARIES)(pytest.mark.parametrize(("name", "dtype"), some)(test))

    return parametrized


def assert_same_results(found, expected, what, order=...):
    for name, array in expected.items():
        assert_same_bits(found[name], array[order], f"{name}: {what}")


def rows_of(case: Problem, elements: int) -> np.ndarray:
    """Some row for each place of a batch of so many numbers."""
    return np.random.default_rng(0).integers(len(case.x), size=-(-elements // case.x[0].size))


@law()
def test_repeated_runs(name, dtype, framework):
    case = problem(name, dtype)
    expected = run(case, framework)
    for _ in range(20):
        assert_same_results(run(case, framework), expected, "another run")


@law()
def test_threads(name, dtype, framework):
    case = problem(name, dtype)
    order, results = rows_of(case, 70_000), []
    for threads in (1, 2, 3, 7):
        lossless.set_num_threads(threads)
        torch.set_num_threads(threads)
        results.append(run(case, framework, order=order))
        assert_same_results(results[-1], results[0], f"{threads} threads")


@law(has_rows)
def test_a_row_does_not_depend_on_its_batch(name, dtype, framework):
    case = problem(name, dtype)
    expected = run(case, framework)
    alone = [np.array([row]) for row in range(min(len(case.x), 16))]
    for order in (*alone, np.arange(len(case.x))[::-1], rows_of(case, 10_000)):
        assert_same_results(run(case, framework, order=order), expected, f"rows {order}", order)


@law()
def test_memory(name, dtype, framework):
    """Every array of the call elsewhere in memory, or with other strides."""
    case = problem(name, dtype)
    order, equal = np.arange(ROWS) % len(case.x), np.zeros(ROWS, int)
    offsets = [moved(offset) for offset in range(case.x.itemsize, 64, 8)]
    strided = [transposed, sliced, padded, *([mirrored] if framework == "numpy" else [])]  # PyTorch has no such strides
    for rows, places in ((order, [*offsets, *strided]), (equal, [expanded])):
        expected = run(case, framework, order=rows)
        for place in places:
            assert_same_results(run(case, framework, order=rows, place=place), expected, place.__name__)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_what_backward_is_told_of_each_row_is_what_it_would_find(name, dtype, classes, temperature):
    """And numbers so large or small that they are brought near 1 change no bit of the other rows."""
    x = bits(logits(classes, dtype))
    g = np.random.default_rng(classes).normal(size=x.shape)
    g[7] *= 1e30 if dtype in (np.float32, np.float64) else 1e4
    g[8] *= 1e-30 if dtype in (np.float32, np.float64) else 1e-4
    g[9] = 0.0
    g = bits(g.astype(dtype))
    out, dx, again = (np.empty_like(x) for _ in range(3))
    state = np.empty((native.STATE_ROWS, ROWS))
    getattr(native, name)(x, ROWS, classes, 1, out, temperature, state)
    backward = getattr(native, name + "_backward")
    backward(x, ROWS, classes, 1, g, dx, temperature)
    backward(x, ROWS, classes, 1, g, again, temperature, state)
    assert dx.tobytes() == again.tobytes()
    for row in range(ROWS):
        backward(x[row].copy(), 1, classes, 1, g[row].copy(), again[0], temperature)
        assert dx[row].tobytes() == again[0].tobytes()


@pytest.mark.parametrize("classes", [29, 47, 48, 60, 65, 100, 1000, 4096, 50257])
def test_the_gradient_of_softmax_where_slopes_are_near_their_mean(classes):
    """Confident rows, equal slopes, and one slope that is nearly the mean, beside ordinary rows; in both layouts."""
    rows, rng = 48 if classes < 5000 else 18, np.random.default_rng(classes)
    x, g = (rng.normal(size=(rows, classes)).astype(np.float32) for _ in range(2))
    x[1::5, 3] += np.linspace(5, 60, len(x[1::5]), dtype=np.float32)
    g[2::5] = 0.7
    g[7] = 0.0
    g[3::10] = 1 + rng.integers(0, 3, g[3::10].shape) * np.float32(2**-23)
    g[8::10] = 1e-3 * g[8::10] + 1
    x[5:7] = 0.0
    g[5] = 1.9 + np.float32(2**-22) * (np.arange(classes) % 2)
    g[6] = np.arange(classes) != 5
    g[8, 0] = 1e6
    p, dx, turned = (np.empty_like(x) for _ in range(3))
    native.softmax(x, rows, classes, 1, p)
    g[4::10, -1] = (p[4::10, :-1] * g[4::10, :-1]).sum(1) / p[4::10, :-1].sum(1)
    native.softmax_backward(x, rows, classes, 1, g, dx, result=p)
    native.softmax_backward(x.T.copy(), 1, classes, rows, g.T.copy(), turned.reshape(classes, rows), result=p.T.copy())
    np.testing.assert_array_equal(turned.reshape(classes, rows).T, dx)
    assert not dx[2::5].any()
    wide = x.astype(float)
    q = np.exp(wide - wide.max(1, keepdims=True))
    q /= q.sum(1, keepdims=True)
    for r in range(rows):
        some = np.arange(classes) if classes < 5000 else np.array([0, 1, 3, 5, classes - 1])
        terms = q[r] * (g[r, some].astype(float)[:, None] - g[r].astype(float))
        error, unit = abs(dx[r, some] - q[r, some] * terms.sum(1)), q[r, some] * abs(terms).sum(1)
        np.testing.assert_array_less(error, 6 * 2.0**-23 * unit + 2.0**-148)


@pytest.mark.parametrize("classes", CLASSES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_gradient_of_softmax_by_its_result(dtype, classes):
    """Rows whose probabilities or cotangents want it are made of their logits; each row by itself."""
    gap, reach, least = (95.0, 133.0, 2.0**-126) if dtype is np.float32 else (720.0, 754.0, 2.0**-1022)
    rng = np.random.default_rng(classes)
    x = rng.normal(size=(40, classes)).astype(dtype)
    g = rng.normal(size=x.shape).astype(dtype)
    x[3:8, 0] -= gap  # a probability that is denormal,
    g[3:6] *= 10.0  # which shows,
    g[6:8] *= 0.01  # and does not
    x[9, 0], x[12:20, -1] = -np.inf, -3e38
    g[14] = 0.0
    g[20], g[21], g[23, 0], g[24, -1] = 1e30, 1e-30 * g[21], np.nan, np.inf
    x[26, 0], x[27] = np.inf, -np.inf
    p, by_logits, by_result, alone = (np.empty_like(x) for _ in range(4))
    native.softmax(x, 40, classes, 1, p)
    native.softmax_backward(x, 40, classes, 1, g, by_logits)
    native.softmax_backward(x, 40, classes, 1, g, by_result, result=p)
    size = abs(g).max(1)
    with np.errstate(invalid="ignore"):
        lossy = ((p < least) & (x > x.max(1, keepdims=True) - reach)).any(1) & (size > 0.5)
    odd = lossy | ~((size < 2.0**40) & ((size > 2.0**-40) | (size == 0)))
    odd[23] = False  # NaN whichever way
    assert classes == 1 or odd[[3, 4, 5]].all()
    assert odd[[20, 21, 24]].all()
    assert not odd[6:8].any()
    np.testing.assert_array_equal(by_result[odd], by_logits[odd])
    # What is rounded once more: the probabilities, in each product and in their mean.
    with np.errstate(invalid="ignore"):
        means = (p * abs(g - g[np.arange(40), x.argmax(1)][:, None])).sum(1, keepdims=True)
        slack = p * 4 * np.finfo(dtype).eps * (2 * size[:, None] + means) + 2 * np.finfo(dtype).smallest_subnormal
        np.testing.assert_array_less(abs(by_result - by_logits)[np.isfinite(by_logits)], slack[np.isfinite(by_logits)])
    np.testing.assert_array_equal(np.isnan(by_result), np.isnan(by_logits))
    for row in range(40):
        native.softmax_backward(x[row].copy(), 1, classes, 1, g[row].copy(), alone[0], result=p[row].copy())
        np.testing.assert_array_equal(alone[0], by_result[row])


def test_one_number():
    for dtype in (np.float16, np.float32, np.float64):
        same = np.full((3, 4), 1.5, dtype)
        assert native.is_one_number(same)
        for i in range(same.size):
            other = same.copy()
            other.flat[i] += 1
            assert not native.is_one_number(other)
    assert native.is_one_number(np.ones(1))
    assert not native.is_one_number(np.ones(0))


@pytest.mark.skipif(native is None, reason=f"no compiled kernels: {why}")
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
def test_a_view_with_its_classes_last_in_memory_is_read_in_place(soft, forward_passes):
    """`logits.transpose(1, 2)`, as PyTorch asks for it: no transposed copy, and the bits of `dim=-1`."""
    z, y = torch.randn(3, 5, 7, requires_grad=True), torch.randint(0, 7, (3, 5))
    t = torch.rand(3, 5, 7) if soft else y
    results = []
    for _ in range(2):  # the gradient later, and at once
        view = lossless.cross_entropy(z.transpose(1, 2), t.transpose(1, 2) if soft else t, reduction="sum")
        last = lossless.cross_entropy(z, t, dim=-1, reduction="sum")
        results += [(a, torch.autograd.grad(a, z)[0]) for a in (view, last)]
    assert [x.data_ptr() for _, (_, x, *_) in forward_passes] == [z.data_ptr()] * 4
    for value, gradient in results[1:]:
        assert torch.equal(value, results[0][0])
        assert torch.equal(gradient, results[0][1])
    rows = lossless.row_statistics(z.transpose(1, 2), t.transpose(1, 2) if soft else t, dim=1)
    for a, b in zip(rows, lossless.row_statistics(z, t), strict=True):
        assert (a is b is None) or torch.equal(a, b)
