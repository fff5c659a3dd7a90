"""The reference formulas by themselves: NumPy and PyTorch agree, gradients are the values' derivatives, limits hold."""

import numpy as np
import pytest
import torch

from lossless import reference

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 5)) * 3
Y = np.array([0, 4, 2, 1, 3, 0])
T = RNG.dirichlet(np.ones(5), size=6)
U = RNG.uniform(0.1, 2, size=5)


def numerical_gradient(f, x, h=1e-6):
    """Central differences of a scalar function."""
    g = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += h
        down[i] -= h
        g[i] = (f(up) - f(down)) / (2 * h)
    return g


@pytest.mark.parametrize("target", [None, Y, T], ids=["none", "labels", "probabilities"])
def test_frameworks_agree(target):
    ours = reference.row_statistics(X, target, U)
    tensors = [None if a is None else torch.from_numpy(a) for a in (X, target, U)]
    for a, b in zip(ours, reference.row_statistics(*tensors), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_allclose(a, b, rtol=1e-14)


@pytest.mark.parametrize("target", [Y, T], ids=["labels", "probabilities"])
@pytest.mark.parametrize("field", ["nll", "lse", "entropy", "prior"])
def test_gradients_are_derivatives(target, field):
    d = RNG.normal(size=6)

    def f(x):
        return float((d * getattr(reference.row_statistics(x, target, U), field)).sum())

    g = reference.row_statistics_backward(X, target, U, **{f"d_{field}": d})
    np.testing.assert_allclose(g, numerical_gradient(f, X), rtol=1e-6, atol=1e-8)
    v = RNG.normal(size=X.shape)

    def h(x):
        return float((v * reference.row_statistics_backward(x, target, U, **{f"d_{field}": d})).sum())

    curvature = reference.row_statistics_curvature(X, v, target, U, **{f"d_{field}": d})
    np.testing.assert_allclose(curvature, numerical_gradient(h, X), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_softmax_gradients_are_derivatives(temperature):
    g = RNG.normal(size=X.shape)
    for value, backward in (
        (reference.softmax, reference.softmax_backward),
        (reference.log_softmax, reference.log_softmax_backward),
    ):

        def f(x, value=value):
            return float((g * value(x, temperature)).sum())

        np.testing.assert_allclose(backward(X, g, temperature), numerical_gradient(f, X), rtol=1e-6, atol=1e-8)


def test_slopes_are_derivatives():
    p, logs, v = 1 / (1 + np.exp(-X)), np.log(T), RNG.uniform(0.5, 2, size=X.shape)
    functors = [
        (reference.BinaryCrossEntropyWithLogits(), (X, T)),
        (reference.BinaryCrossEntropyWithLogits(0.1), (X, T, v)),
        (reference.BinaryCrossEntropy(), (p, T)),
        (reference.BinaryCrossEntropy(clamped=False), (p, T)),
        (reference.BinaryCrossEntropy(clamped=False, smoothing=0.1), (p, T)),
        (reference.SigmoidFocal(), (X, T)),
        (reference.SigmoidFocal(-1.0, 0.5), (X, T)),
        (reference.KLDivergence(), (X, T)),
        (reference.KLDivergence(log_target=True), (X, logs)),
        (reference.SquaredError(), (X, T)),
        (reference.Sigmoid(), (X,)),
        (reference.LogSigmoid(), (X,)),
        (reference.Logit(), (p,)),
        (reference.Logit(0.2), (p,)),
    ]
    assert {type(functor) for functor, _ in functors} >= set(reference.Pointwise.__subclasses__())
    for functor, arrays in functors:
        for i, slope in enumerate(functor.slopes[: len(arrays)]):

            def f(a, i=i, arrays=arrays, functor=functor):
                return float(functor.value(*arrays[:i], a, *arrays[i + 1 :]).sum())

            np.testing.assert_allclose(slope(*arrays), numerical_gradient(f, arrays[i], 1e-7), rtol=1e-5, atol=1e-7)


def test_root_mean_square_slope_is_its_derivative():
    for axis in ((0, 1), (0,), (1,)):

        def f(d, axis=axis):
            return float(reference.root_mean_square(d, axis).sum())

        np.testing.assert_allclose(
            reference.root_mean_square_slope(X, axis), numerical_gradient(f, X), rtol=1e-6, atol=1e-8
        )
    np.testing.assert_array_equal(reference.root_mean_square_slope(np.zeros((2, 3)), (1,)), np.zeros((2, 3)))
    slope = reference.root_mean_square_slope(np.array([1e200, 0.0, 5e-324]), (0,))
    np.testing.assert_allclose(slope, [3**-0.5, 0, 0], rtol=1e-15, atol=1e-300)


def test_sums_of_others_lose_nothing():
    t = np.array([[1.0, 1e-30, 3e-30], [1e-30, 2e-30, 1.0], [-1.0, 1e-20, 0.0]])
    others = reference.sum_of_others(t)
    np.testing.assert_allclose(others[0], [4e-30, 1.0, 1.0], rtol=1e-15)
    np.testing.assert_allclose(others[1], [1.0, 1.0, 3e-30], rtol=1e-15)
    np.testing.assert_allclose(others[2], [1e-20, -1.0, -1.0], rtol=1e-15)


def test_labels_that_are_no_class_give_nan():
    s = reference.row_statistics(X, np.array([5, -1, 2, -100, 3, 0]), ignore_index=-100)
    np.testing.assert_array_equal(np.isnan(s.nll), [True, True, False, False, False, False])
    g = reference.row_statistics_backward(X, np.array([5, -1, 2, -100, 3, 0]), ignore_index=-100, d_nll=np.ones(6))
    np.testing.assert_array_equal(np.isnan(g).all(1), [True, True, False, False, False, False])
    np.testing.assert_array_equal(g[3], 0)


def test_bits_do_not_depend_on_the_layout():
    rows = reference.softmax(X)
    np.testing.assert_array_equal(reference.softmax(np.asfortranarray(X)), rows)
    np.testing.assert_array_equal(reference.softmax(X[2:3]), rows[2:3])
