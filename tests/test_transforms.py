"""Softmax, log-softmax and log-sum-exp: options, dimensions, infinities; their digits are test_accuracy's subject."""

import math

import mpmath
import numpy as np
import pytest
import torch

import lossless

pytestmark = pytest.mark.usefixtures("path")

INF, NAN = np.inf, np.nan


def tensor(a):
    return torch.tensor(a, dtype=torch.float64)


BOTH = [tensor, np.array]


def numbers(*shape):
    return np.random.default_rng(len(shape)).normal(size=shape)


def listed(result):
    return (result.detach().numpy() if isinstance(result, torch.Tensor) else np.asarray(result)).tolist()


@pytest.mark.parametrize("make", BOTH, ids=["torch", "numpy"])
@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("dim", [0, 1, 2, -1, -3])
def test_every_dimension(make, name, dim):
    x = numbers(3, 4, 5)
    ours = getattr(lossless, name)(make(x), dim)
    np.testing.assert_allclose(ours, getattr(torch, name)(torch.tensor(x), dim), rtol=1e-14)


@pytest.mark.parametrize("make", BOTH, ids=["torch", "numpy"])
def test_the_default_dimension_is_the_last(make):
    x = make(numbers(3, 4))
    np.testing.assert_array_equal(lossless.softmax(x), lossless.softmax(x, 1))
    np.testing.assert_array_equal(lossless.log_softmax(x), lossless.log_softmax(x, 1))
    np.testing.assert_array_equal(lossless.logsumexp(x), lossless.logsumexp(x, 1))


@pytest.mark.parametrize("make", BOTH, ids=["torch", "numpy"])
@pytest.mark.parametrize("dim", [0, 1, -1, (0,), (0, 1), (1, 2), (0, 2), (2, 0), (0, 1, 2), (-1, 0)])
@pytest.mark.parametrize("keepdim", [False, True])
def test_logsumexp_over_dimensions(make, dim, keepdim):
    x = numbers(3, 4, 5)
    ours = lossless.logsumexp(make(x), dim, keepdim)
    theirs = torch.logsumexp(torch.tensor(x), dim, keepdim)
    assert ours.shape == theirs.shape
    np.testing.assert_allclose(ours, theirs, rtol=1e-14)


@pytest.mark.parametrize("make", BOTH, ids=["torch", "numpy"])
def test_logsumexp_of_infinities_is_the_limit(make):
    rows = [[-INF, -INF], [INF, 0], [INF, INF], [INF, -INF], [-INF, 3], [NAN, 0], [NAN, INF]]
    np.testing.assert_array_equal(lossless.logsumexp(make(rows)), [-INF, INF, INF, INF, 3, NAN, NAN])
    assert lossless.logsumexp(make(rows)[:, :0]).tolist() == [-INF] * 7
    assert lossless.logsumexp(make(rows)[:0]).shape == (0,)
    assert lossless.logsumexp(make(rows)[:0], 0).tolist() == [-INF] * 2
    assert lossless.logsumexp(make(rows)[:0], (0, 1)).item() == -INF


@pytest.mark.parametrize("make", BOTH, ids=["torch", "numpy"])
def test_infinities(make):
    rows = [[0, -INF], [INF, 0], [INF, INF], [-INF, -INF], [NAN, 0]]
    p = [[1, 0], [1, 0], [NAN, NAN], [NAN, NAN], [NAN, NAN]]
    log_p = [[0, -INF], [0, -INF], [NAN, NAN], [NAN, NAN], [NAN, NAN]]
    np.testing.assert_array_equal(lossless.softmax(make(rows)), p)
    np.testing.assert_array_equal(lossless.log_softmax(make(rows)), log_p)


@pytest.mark.parametrize("make", BOTH, ids=["torch", "numpy"])
def test_single_numbers_and_nothing(make):
    one, nothing = make(3.0), make(np.zeros((2, 0)).tolist())
    assert lossless.softmax(one).item() == 1
    assert lossless.log_softmax(one, 0).item() == 0
    assert lossless.logsumexp(one).item() == 3
    assert lossless.logsumexp(one, ()).item() == 3
    for transform in (lossless.softmax, lossless.log_softmax):
        assert transform(nothing).shape == (2, 0)
        assert transform(make(np.zeros((2, 3)))[:0]).shape == (0, 3)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_dtype_stays(dtype):
    x = numbers(3, 4).astype(dtype)
    for transform in (lossless.softmax, lossless.log_softmax, lossless.logsumexp):
        assert transform(x).dtype == dtype
        assert transform(torch.from_numpy(x)).dtype is getattr(torch, dtype)


def test_dtype_converts_first():
    half, whole = numbers(3, 4).astype(np.float16), np.arange(3)
    assert lossless.softmax(half, dtype=np.float32).dtype == np.float32
    np.testing.assert_array_equal(
        lossless.log_softmax(half, dtype=np.float64), lossless.log_softmax(half.astype(float))
    )
    np.testing.assert_array_equal(lossless.softmax(whole, dtype="float64"), lossless.softmax(whole * 1.0))
    x = torch.from_numpy(half)
    assert lossless.softmax(x, 1, dtype=torch.float64).dtype is torch.float64
    assert torch.equal(lossless.softmax(x, 1, dtype=torch.float32), lossless.softmax(x.float(), 1))


def true_softmax(x, temperature):
    """Probabilities and their logarithms, in 1200 bits."""
    with mpmath.workprec(1200):
        e = [mpmath.exp(mpmath.mpf(float(v)) / mpmath.mpf(temperature)) for v in x]
        p = [v / sum(e) for v in e]
        return np.array(p, float), np.array([mpmath.log(v) for v in p], float)


@pytest.mark.parametrize("make", BOTH, ids=["torch", "numpy"])
@pytest.mark.parametrize("temperature", [0.01, 0.7, 1 / 3, 2, 3.7, 1e3, 1e300, 5e-324])
def test_temperature_loses_nothing(make, temperature):
    for x in ([1.5, -0.25, 0.1, 3.0], [1e8, 1e8 - 3, 1e8 + 1, 0.0], [0.0, -300.0, -2.0, 1.0], [5e-324, 0.0, 0.0, 0.0]):
        p, log_p = true_softmax(x, temperature)
        np.testing.assert_allclose(lossless.softmax(make(x), temperature=temperature), p, rtol=9e-16, atol=5e-324)
        ours = lossless.log_softmax(make(x), temperature=temperature)
        np.testing.assert_allclose(ours, log_p, rtol=9e-16, atol=5e-324)


def test_temperature_in_the_gradient():
    x = torch.tensor(numbers(3, 4), requires_grad=True)
    for temperature in (0.5, 3.0):
        for ours, theirs in ((lossless.softmax, torch.softmax), (lossless.log_softmax, torch.log_softmax)):
            g = torch.tensor(numbers(3, 4))
            (a,) = torch.autograd.grad(ours(x, 1, temperature=temperature), x, g)
            (b,) = torch.autograd.grad(theirs(x / temperature, 1), x, g)
            torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-15)


def test_log_softmax_of_one_class_is_plus_zero():
    for x in (np.array([[3.0]]), torch.tensor([[3.0]])):
        assert math.copysign(1, lossless.log_softmax(x).item()) == 1
