"""Row statistics: what each field is, for labels, probabilities and no target."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import lossless
from lossless import RowStatistics

pytestmark = pytest.mark.usefixtures("path")

X = torch.tensor(np.random.default_rng(0).normal(size=(2, 5, 3)))  # classes in the middle
Y = torch.tensor([[0, 4, 2], [1, 1, 3]])
T = X.flip(0).softmax(1)
U = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5], dtype=torch.float64)


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=1e-13)


@pytest.mark.parametrize("framework", ["torch", "numpy"])
def test_fields_of_labels(framework):
    x, y, u = (X, Y, U) if framework == "torch" else (X.numpy(), Y.numpy(), U.numpy())
    s = lossless.row_statistics(x, y, dim=1, prior=u)
    assert isinstance(s, RowStatistics)
    assert s._fields == ("nll", "lse", "entropy", "prior", "correct")
    log_p = X.log_softmax(1)
    close(s.nll, F.cross_entropy(X, Y, reduction="none"))
    close(s.lse, X.logsumexp(1))
    close(s.entropy, -(log_p.exp() * log_p).sum(1))
    close(s.prior, -(log_p * U[:, None]).sum(1))
    np.testing.assert_array_equal(s.correct, X.argmax(1) == Y)
    assert str(s.correct.dtype).endswith("bool")


@pytest.mark.parametrize("framework", ["torch", "numpy"])
def test_fields_of_probabilities(framework):
    x, t = (X, T) if framework == "torch" else (X.numpy(), T.numpy())
    s = lossless.row_statistics(x, t, dim=1)
    close(s.nll, F.cross_entropy(X, T, reduction="none"))
    np.testing.assert_array_equal(s.correct, X.argmax(1) == T.argmax(1))
    assert s.prior is None


@pytest.mark.parametrize("framework", ["torch", "numpy"])
def test_fields_without_input_are_none(framework):
    s = lossless.row_statistics(X if framework == "torch" else X.numpy(), dim=1)
    assert s.nll is None
    assert s.prior is None
    assert s.correct is None
    assert s.lse.shape == s.entropy.shape == (2, 3)


@pytest.mark.parametrize("framework", ["torch", "numpy"])
def test_ignored_rows_are_zero(framework):
    x, y, u = (X, Y, U) if framework == "torch" else (X.numpy(), Y.numpy(), U.numpy())
    s = lossless.row_statistics(x, y, dim=1, prior=u, ignore_index=1)
    ignored = (Y == 1).numpy()
    whole = lossless.row_statistics(x, np.abs(y) if framework == "numpy" else y.abs(), dim=1, prior=u)
    for a, b in zip(s, whole, strict=True):
        a, b = np.asarray(a), np.asarray(b)
        np.testing.assert_array_equal(a[ignored], 0)
        np.testing.assert_array_equal(a[~ignored], b[~ignored])


def test_the_gradient_of_every_field():
    x = X.clone().requires_grad_()
    log_p = x.log_softmax(1)
    theirs = {
        "nll": F.cross_entropy(x, Y, reduction="none"),
        "lse": x.logsumexp(1),
        "entropy": -(log_p.exp() * log_p).sum(1),
        "prior": -(log_p * U[:, None]).sum(1),
    }
    g = torch.linspace(-1, 1, 6, dtype=torch.float64).reshape(2, 3)
    for field, value in theirs.items():
        s = lossless.row_statistics(x, Y, dim=1, prior=U)
        (ours,) = torch.autograd.grad(getattr(s, field), x, g)
        (expected,) = torch.autograd.grad(value, x, g, retain_graph=True)
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-14)
    assert not lossless.row_statistics(x, Y, dim=1).correct.requires_grad


def test_a_users_own_loss_is_one_line():
    x, y = torch.tensor([[20.0, 0.0], [1.0, 2.0]], requires_grad=True), torch.tensor([0, 0])
    s = lossless.row_statistics(x, y)
    loss = ((-torch.expm1(-s.nll)) ** 2 * s.nll + 1e-4 * s.lse**2).mean()
    (grad,) = torch.autograd.grad(loss, x)
    p = x.double().softmax(1)[:, 0]
    true = ((1 - p) ** 2 * -p.log() + 1e-4 * x.double().logsumexp(1) ** 2).mean()
    (expected,) = torch.autograd.grad(true, x)
    torch.testing.assert_close(loss, true.float())
    torch.testing.assert_close(grad, expected)


def test_one_row():
    s = lossless.row_statistics(np.array([20.0, 0.0], np.float32), 0)
    assert s.nll == np.float32(2.0611537e-09)
    assert s.correct
    assert s.lse.shape == ()
