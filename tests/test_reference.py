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
    w, v = RNG.uniform(0.5, 2, size=X.shape), RNG.uniform(0.5, 2, size=5)
    for name, (value, slope) in reference.POINTWISE.items():
        pos_weight = v if name == "bce_with_logits" else None

        def f(x, value=value, pos_weight=pos_weight):
            return float(value(x, T, w, pos_weight).sum())

        np.testing.assert_allclose(slope(X, T, w, pos_weight), numerical_gradient(f, X), rtol=1e-6, atol=1e-8)


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
