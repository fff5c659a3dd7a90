"""Gradients of NumPy losses: those of PyTorch's autograd, for every loss and option."""

from functools import partial

import numpy as np
import pytest
import torch

import lossless
from lossless import losses, value_and_grad
from lossless._kernels import native

pytestmark = pytest.mark.usefixtures("path")

RNG = np.random.default_rng(0)
N, C = 7, 5
X, P = RNG.normal(size=(N, C)) * 3, RNG.dirichlet(np.ones(C), size=N)
Y, T = np.array([0, 1, -100, 3, 2, 4, 1]), RNG.dirichlet(np.ones(C), size=N)
ONE_HOT = np.eye(C)[np.where(Y < 0, 0, Y)]
W, S, V = RNG.uniform(0.5, 2, C), RNG.uniform(0.5, 2, N), RNG.uniform(0.5, 2, (N, C))

CASES = {
    "cross_entropy": (X, Y, {}),
    "cross_entropy, weight and smoothing": (X, Y, {"weight": W, "label_smoothing": 0.1}),
    "cross_entropy, probabilities": (X, T, {"weight": W}),
    "cross_entropy, every option": (
        X, Y, {"weight": W, "sample_weight": S, "z_loss": 0.1, "temperature": 1.5, "denominator": "count"},
    ),
    "cross_entropy, z-loss": (X, T, {"z_loss": 0.1, "sample_weight": S, "label_smoothing": 0.2}),
    "focal_loss": (X, Y, {"gamma": 1.5, "alpha": W, "sample_weight": S}),
    "focal_loss, probabilities": (X, T, {"gamma": 0.5, "weight": W}),
    "nll_loss": (np.log(P), Y, {"weight": W}),
    "categorical_cross_entropy": (P, ONE_HOT, {"label_smoothing": 0.1}),
    "categorical_cross_entropy, logits": (X, T, {"from_logits": True}),
    "sparse_categorical_cross_entropy": (P, Y, {"ignore_class": -100}),
    "sparse_categorical_cross_entropy, logits": (X, Y, {"from_logits": True, "ignore_class": -100}),
    "binary_cross_entropy": (P, T, {"weight": V}),
    "binary_cross_entropy, exact": (P, ONE_HOT, {"clamp": None, "label_smoothing": 0.1, "sample_weight": S}),
    "binary_cross_entropy_with_logits": (X, T, {"weight": V, "pos_weight": W}),
    "binary_cross_entropy_with_logits, options": (X, ONE_HOT, {"label_smoothing": 0.1, "ignore_index": 0}),
    "sigmoid_focal_loss": (X, ONE_HOT, {"gamma": 1.5}),
    "mse_loss": (X, T, {}),
    "mse_loss, weight": (X, T, {"weight": V}),
    "rmse_loss": (X, T, {}),
    "rmse_loss, rows": (X, T, {"dim": 1}),
    "kl_div": (np.log(P), T, {}),
    "kl_div, log_target": (np.log(P), np.log(T), {"log_target": True}),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_autograd(name, dtype, reduction):
    loss = getattr(losses, name.partition(",")[0])
    x, target, options = CASES[name]
    options = {k: v for k, v in options.items() if k != "denominator" or reduction == "mean"} | {"reduction": reduction}
    x, target, *arrays = (
        a.astype(dtype) if isinstance(a, np.ndarray) and a.dtype == np.float64 else a
        for a in (x, target, *options.values())
    )
    options = dict(zip(options, arrays, strict=True))
    value, grad = value_and_grad(loss)(x, target, **options)
    placed = {k: torch.from_numpy(v) if isinstance(v, np.ndarray) else v for k, v in options.items()}
    leaf = torch.from_numpy(x).requires_grad_()
    expected = loss(leaf, torch.from_numpy(target), **placed)
    slope = torch.autograd.grad(expected.sum(), leaf)[0].numpy()
    rtol = 4 * np.finfo(dtype).eps
    assert grad.dtype == x.dtype
    np.testing.assert_allclose(value, expected.detach(), rtol=rtol)
    np.testing.assert_allclose(grad, slope, rtol=rtol, atol=np.abs(slope).max() * np.finfo(dtype).eps)
    np.testing.assert_array_equal(loss(x, target, **options), value)


def test_every_loss_is_covered():
    public = {n for n in lossless.__all__ if getattr(losses, n, None) is getattr(lossless, n) and n in vars(losses)}
    assert {name.partition(",")[0] for name in CASES} == {n for n in public if callable(getattr(losses, n))}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(dtype):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = X.astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16)
    for loss in (lossless.cross_entropy, partial(lossless.cross_entropy, z_loss=0.1), lossless.focal_loss):
        value, grad = value_and_grad(loss)(x, Y)
        wide = value_and_grad(loss)(x.astype(np.float64), Y)
        assert grad.dtype == value.dtype == x.dtype
        assert value == wide[0].astype(x.dtype)
        rtol = 2**-8 if dtype == "bfloat16" else 2**-10
        np.testing.assert_allclose(grad.astype(float), wide[1], rtol=rtol, atol=1e-7)


def test_classes_anywhere_lists_and_single_rows():
    x = RNG.normal(size=(2, 4, 3))
    y = RNG.integers(4, size=(2, 3))
    _, middle = value_and_grad(lossless.cross_entropy)(x, y)
    _, last = value_and_grad(lossless.cross_entropy)(np.moveaxis(x, 1, -1), y, dim=-1)
    np.testing.assert_allclose(np.moveaxis(middle, 1, -1), last, rtol=1e-15)
    for loss in (lossless.cross_entropy, lossless.focal_loss):
        value, grad = value_and_grad(loss)([2.0, 0.0], 0)
        _, batched = value_and_grad(loss)([[2.0, 0.0]], [0])
        assert np.shape(value) == ()
        np.testing.assert_array_equal(grad, batched[0])


def test_nothing_to_average():
    for loss in (lossless.cross_entropy, lossless.focal_loss, lossless.nll_loss):
        value, grad = value_and_grad(loss)(X, np.full(N, -100))
        assert np.isnan(value)
        assert grad.shape == X.shape
        value, grad = value_and_grad(loss)(X, np.full(N, -100), reduction="sum")
        assert value == 0
        assert not grad.any()
        value, grad = value_and_grad(loss)(X[:0], Y[:0])
        assert np.isnan(value)
        assert grad.shape == (0, C)


def test_arguments_by_name():
    value, grad = value_and_grad(lossless.sigmoid_focal_loss)(targets=ONE_HOT, inputs=X, reduction="sum")
    expected = value_and_grad(lossless.sigmoid_focal_loss)(X, ONE_HOT, reduction="sum")
    np.testing.assert_array_equal(value, expected[0])
    np.testing.assert_array_equal(grad, expected[1])
    with pytest.raises(TypeError, match=r"argument 'input' .* must be Tensor, not NoneType"):
        value_and_grad(lossless.cross_entropy)(target=Y)


def test_tensors_come_back_detached():
    x = torch.tensor(X, requires_grad=True)
    with torch.no_grad():
        value, grad = value_and_grad(lossless.cross_entropy)(x, torch.tensor(Y))
    assert not value.requires_grad
    assert x.grad is None
    torch.testing.assert_close(grad, torch.autograd.grad(lossless.cross_entropy(x, torch.tensor(Y)), x)[0])


def test_a_training_loop_in_numpy():
    x, y = RNG.normal(size=(60, 3)), np.repeat([0, 1, 2], 20)
    x[np.arange(60), y] += 3.0
    weights, step = np.zeros((3, 3)), value_and_grad(lossless.cross_entropy)
    first = step(x @ weights, y)[0]
    for _ in range(200):
        weights -= 0.5 * (x.T @ step(x @ weights, y)[1])
    assert first == pytest.approx(np.log(3))
    assert step(x @ weights, y)[0] < 0.3


def test_only_losses_of_this_library():
    of_ours = lambda x, t: lossless.mse_loss(x, t)  # noqa: E731
    for function in (np.mean, of_ours, lossless.softmax, losses.to_int, None, "cross_entropy"):
        with pytest.raises(TypeError, match="expected a loss of this library"):
            value_and_grad(function)
    value, _ = value_and_grad(partial(partial(lossless.focal_loss, gamma=0.0), reduction="sum"))(X, Y)
    rtol = 0 if native is not None else 1e-15
    np.testing.assert_allclose(value, lossless.cross_entropy(X, Y, reduction="sum"), rtol=rtol)


def test_an_error_leaves_nothing_behind():
    with pytest.raises(IndexError):
        value_and_grad(lossless.cross_entropy)(X, Y + 3)
    assert np.ndim(lossless.cross_entropy(X, Y)) == 0


def test_integers_are_refused_by_the_loss():
    for x in (np.ones((2, 3), int), torch.ones(2, 3, dtype=torch.long)):
        with pytest.raises(TypeError, match="input has dtype int64, expected float16"):
            value_and_grad(lossless.cross_entropy)(x, x[:, 0])
