"""Softmax, log-softmax and log-sum-exp: options, dimensions, infinities; their digits are test_accuracy's subject."""

import math

import mpmath
import numpy as np
import pytest
import torch

import lossless
from lossless.errors import LogitsDtypeError, ParameterError

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


@pytest.mark.parametrize("make", [torch.tensor, np.array], ids=["torch", "numpy"])
@pytest.mark.parametrize("classes", [3, 5, 7, 16, 20, 64, 100, 1000])
def test_logsumexp_of_equal_log_probabilities_has_all_digits(make, classes):
    """What log C leaves of its rounded negative, to the last digit: no exponential has an error of its own here."""
    x = np.full((3, classes), -math.log(classes), np.float32)
    lse = lossless.logsumexp(make(x), 1)
    np.testing.assert_allclose(lse, np.full(3, math.log(classes) + float(x[0, 0])), rtol=2e-7, atol=1e-15)


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


BINARY = {"sigmoid": torch.sigmoid, "logsigmoid": torch.nn.functional.logsigmoid, "logit": torch.logit}


@pytest.mark.parametrize("make", BOTH, ids=["torch", "numpy"])
@pytest.mark.parametrize("name", BINARY)
def test_sigmoid_and_its_kin(make, name):
    x = numbers(3, 4, 5)
    x = 1 / (1 + np.exp(-x)) if name == "logit" else x
    for shape in ((3, 4, 5), (60,), (0, 2)):
        a = x[:0, :2, 0] if 0 in shape else x.reshape(shape)
        np.testing.assert_allclose(getattr(lossless, name)(make(a)), BINARY[name](torch.tensor(a)), rtol=1e-13)
    np.testing.assert_allclose(
        getattr(lossless, name)(make(x)[::2, :, 1:]), BINARY[name](torch.tensor(x[::2, :, 1:])), 1e-13
    )
    assert getattr(lossless, name)(make(0.25)).shape == ()
    leaves = [torch.tensor(x, requires_grad=True) for _ in range(2)]
    a, b = getattr(lossless, name)(leaves[0]), BINARY[name](leaves[1])
    g, h = (torch.autograd.grad(v.square().sum(), leaf)[0] for v, leaf in zip((a, b), leaves, strict=True))
    torch.testing.assert_close(g, h, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("make", BOTH, ids=["torch", "numpy"])
def test_sigmoid_and_its_kin_at_the_ends(make):
    x = make([INF, -INF, NAN, 0.0, -0.0])
    np.testing.assert_array_equal(lossless.sigmoid(x), [1, 0, NAN, 0.5, 0.5])
    np.testing.assert_array_equal(lossless.logsigmoid(x), [0, -INF, NAN, *[-math.log(2)] * 2])
    p = make([0.0, -0.0, 1.0, 0.5, NAN, -0.1, 1.1, INF])
    np.testing.assert_array_equal(lossless.logit(p), [-INF, -INF, INF, 0, NAN, NAN, NAN, NAN])
    end = math.log(3)
    np.testing.assert_allclose(lossless.logit(p, eps=0.25), [-end, -end, end, 0, NAN, -end, end, end], rtol=1e-15)
    np.testing.assert_array_equal(lossless.logit(p, eps=0.0), [-INF, -INF, INF, 0, NAN, -INF, INF, INF])


@pytest.mark.parametrize("eps", [None, 0.0, 1e-6, 0.25, 0.5])
def test_logit_clamps_as_pytorch_does(eps):
    p = [0.0, 0.1, 0.25, 0.3, 0.5, 0.75, 0.9, 1.0, -1.0, 2.0, NAN]
    for ours, theirs in zip(*(_value_and_slope(f, p, eps) for f in (lossless.logit, torch.logit)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=0, equal_nan=True)


def _value_and_slope(function, p, eps):
    p = torch.tensor(p, dtype=torch.float64, requires_grad=True)
    value = function(p, eps=eps)
    return value.detach(), torch.autograd.grad(value.sum(), p)[0]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_the_clamp_of_logit_is_not_rounded(dtype):
    p = torch.tensor([0.0, 1.0], dtype=getattr(torch, dtype))
    expected = torch.tensor([-1.0, 1.0], dtype=torch.float64) * math.log(1e9 - 1)
    assert torch.equal(lossless.logit(p, eps=1e-9), expected.to(p.dtype))


def test_a_confident_sigmoid_keeps_its_slope():
    x = torch.tensor([-90.0, -20.0, 20.0, 90.0], requires_grad=True)
    tail = [np.float32(np.exp(-90.0)), np.float32(2.0611536e-9)]
    (slope,) = torch.autograd.grad(lossless.sigmoid(x).sum(), x)
    assert slope.tolist() == [tail[0], tail[1], tail[1], tail[0]]
    (slope,) = torch.autograd.grad(lossless.logsigmoid(x).sum(), x)
    assert slope.tolist() == [1, 1, tail[1], tail[0]]
    assert lossless.logsigmoid(x)[2:].tolist() == [-tail[1], -tail[0]]


@pytest.mark.parametrize("make", BOTH, ids=["torch", "numpy"])
def test_logit_is_antisymmetric_and_exact_around_one_half(make):
    p = 1 - (0.5 + np.array([0.0, 2.0**-53, 2.0**-52, 1e-9, 0.1, 0.25, 0.4999]))  # 1 - p is a number
    np.testing.assert_array_equal(lossless.logit(make(1 - p)), -np.asarray(lossless.logit(make(p))))
    with mpmath.workprec(300):
        expected = [mpmath.log(mpmath.mpf(v) / (1 - mpmath.mpf(v))) for v in p.tolist()]
        np.testing.assert_allclose(lossless.logit(make(p)), np.array(expected, float), rtol=4e-16)


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


# ---- back from probabilities


@pytest.mark.parametrize("make", BOTH, ids=["torch", "numpy"])
@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_inverse_softmax_centers(make, dim):
    p = torch.tensor(numbers(3, 4, 5)).softmax(dim)
    log = p.log()
    for center, expected in (
        ("mean", log - log.mean(dim, keepdim=True)),
        ("max", log - log.amax(dim, keepdim=True)),
        (None, log),
    ):
        found = lossless.inverse_softmax(make(p.numpy()), dim, center=center)
        np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-15)
        np.testing.assert_allclose(lossless.softmax(found, dim), p, rtol=1e-14)
    found = lossless.inverse_softmax(make(p.numpy()), dim)
    np.testing.assert_array_equal(found, lossless.inverse_softmax(make(p.numpy()), dim, center="mean"))


@pytest.mark.parametrize("make", BOTH, ids=["torch", "numpy"])
@pytest.mark.parametrize("step", [1e-3, 1e-8, 1e-14])
def test_inverse_softmax_of_nearly_uniform_rows_keeps_its_digits(make, step):
    p = 0.1 * (1 + step * numbers(4, 10))
    found = np.asarray(lossless.inverse_softmax(make(p)))
    for r in range(4):
        with mpmath.workprec(300):
            log = [mpmath.log(float(v)) for v in p[r]]
            mean = mpmath.fsum(log) / 10
            expected = [float(v - mean) for v in log]
        np.testing.assert_allclose(found[r], expected, rtol=1e-15, atol=4 * np.spacing(np.abs(expected).max()))


@pytest.mark.parametrize("make", BOTH, ids=["torch", "numpy"])
def test_inverse_softmax_of_zeros(make):
    p = make([[0.25, 0.0, 0.75], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [NAN, 0.5, 0.5], [1e-320, 0.5, 0.5]])
    half = np.log(3) / 2
    for center, first, last in (
        ("mean", [-half, -INF, half], None),
        ("max", [-np.log(3), -INF, 0], [np.log(1e-320 / 0.5), 0, 0]),
        (None, [np.log(0.25), -INF, np.log(0.75)], [np.log(1e-320), np.log(0.5), np.log(0.5)]),
    ):
        found = np.asarray(lossless.inverse_softmax(p, center=center))
        np.testing.assert_allclose(found[0], first, rtol=1e-15)
        np.testing.assert_array_equal(found[1], [-INF, 0, -INF])
        assert not np.signbit(found[1, 1])
        np.testing.assert_array_equal(found[2], [-INF] * 3 if center is None else [NAN] * 3)
        assert np.isnan(found[3, 0])
        if last:
            np.testing.assert_allclose(found[4], last, rtol=1e-15)
    np.testing.assert_allclose(lossless.softmax(lossless.inverse_softmax(p))[:2], p[:2], rtol=1e-15)


@pytest.mark.parametrize("center", ["mean", "max", None])
def test_inverse_softmax_gradient_at_zero_stays_there(center):
    p = torch.tensor([0.25, 0.0, 0.75], dtype=torch.float64, requires_grad=True)
    x = lossless.inverse_softmax(p, center=center)
    (g,) = torch.autograd.grad(x, p, torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64), retain_graph=True)
    expected = {"mean": [1.0, -INF, -1 / 3], "max": [4.0, -INF, -4 / 3], None: [4.0, -INF, 2 / 3]}[center]
    np.testing.assert_allclose(g, expected, rtol=1e-15)
    (g,) = torch.autograd.grad(lossless.softmax(x)[0], p)  # of which nothing depends on the class at 0
    np.testing.assert_allclose(g, [0.75, 0, -0.25], rtol=1e-14)


def test_inverse_softmax_refuses_what_softmax_cannot_give():
    for make in BOTH:
        for p in ([-0.5, 1.5], [1.5, 0.5], [NAN, -1.0]):
            with pytest.raises(ParameterError, match=r"inverse_softmax: input holds values from .* expected prob"):
                lossless.inverse_softmax(make(p))
        with pytest.raises(ParameterError, match="center got 'median', expected 'mean', 'max' or None"):
            lossless.inverse_softmax(make([1.0]), center="median")
    with pytest.raises(LogitsDtypeError, match="dtype int64"):
        lossless.inverse_softmax(np.array([1, 0]))
    assert lossless.inverse_softmax(np.float32(1.0)) == 0
    assert lossless.inverse_softmax(np.zeros((2, 0))).shape == (2, 0)
    assert lossless.inverse_softmax(torch.zeros(0, 3)).shape == (0, 3)
    for dtype in ("float16", "float32", "float64"):
        p = np.array([0.25, 0.75], dtype)
        assert lossless.inverse_softmax(p).dtype == dtype
        assert lossless.inverse_softmax(torch.from_numpy(p)).dtype is getattr(torch, dtype)
