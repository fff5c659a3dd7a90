"""Entropy: of probabilities, logits and log-probabilities, in any base."""

import mpmath
import numpy as np
import pytest
import torch

from lossless.errors import ParameterError
from lossless.info import entropy

pytestmark = pytest.mark.usefixtures("path")


def tensor(a):
    return torch.tensor(a, dtype=torch.float64)


BOTH = [tensor, np.array]


@pytest.mark.parametrize("make", BOTH, ids=["torch", "numpy"])
def test_a_coin_is_one_bit_and_a_die_log2_of_six(make):
    assert entropy(make([0.5, 0.5]), base=2).item() == 1
    assert entropy(make(np.full(6, 1 / 6)), base=2).item() == np.log2(6)
    assert entropy(make([1.0, 0.0]), base=2).item() == 0
    assert entropy(make([3.0, 3.0]), kind="logits", base=2).item() == 1
    assert entropy(make([7.0, 7.0]), normalize=True, base=2).item() == 1


@pytest.mark.parametrize("make", BOTH, ids=["torch", "numpy"])
@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("keepdim", [False, True])
def test_every_kind_and_dimension(make, dim, keepdim):
    x = np.random.default_rng(0).normal(size=(3, 4, 5))
    p = torch.tensor(x).softmax(dim)
    expected = -(p * p.log()).sum(dim, keepdim=keepdim)
    for kind, array in (("logits", x), ("probs", p.numpy()), ("log_probs", p.log().numpy())):
        for base, unit in ((None, 1), (2, np.log(2)), (10, np.log(10))):
            h = entropy(make(array), dim=dim, base=base, kind=kind, keepdim=keepdim)
            assert h.shape == expected.shape
            np.testing.assert_allclose(h, expected / unit, rtol=1e-13)
    np.testing.assert_allclose(entropy(make(3 * p.numpy()), dim=dim, normalize=True, keepdim=keepdim), expected)
    shifted = make((p.log() + 2).numpy())
    np.testing.assert_allclose(entropy(shifted, dim=dim, kind="log_probs", normalize=True, keepdim=keepdim), expected)


@pytest.mark.parametrize("counts", [[1e20, 1.0], [1.0, 1e-12, 3e-15], [5.0, 0.0, 5.0], [1e300, 1e300]])
def test_counts_keep_their_small_shares(counts):
    with mpmath.workprec(300):
        whole = mpmath.fsum(counts)
        true = float(-mpmath.fsum(c / whole * mpmath.log(c / whole) for c in map(mpmath.mpf, counts) if c))
    for make in BOTH:
        assert entropy(make(counts), normalize=True).item() == pytest.approx(true, rel=1e-15)


@pytest.mark.parametrize("make", BOTH, ids=["torch", "numpy"])
def test_impossible_outcomes_change_nothing(make):
    assert entropy(make([0.5, 0.5, 0.0])).item() == np.log(2)
    assert entropy(make([0.0, 0.0, -np.inf]), kind="logits").item() == np.log(2)
    assert entropy(make([np.log(0.5), np.log(0.5), -np.inf]), kind="log_probs").item() == pytest.approx(np.log(2))
    h = entropy(make([[1.0, 0.0], [np.nan, 0.0]]))
    assert h[0] == 0
    assert not np.signbit(float(h[0]))
    assert np.isnan(float(h[1]))


def test_the_derivative_at_probability_zero_is_infinite():
    p = torch.tensor([0.5, 0.5, 0.0], requires_grad=True)
    (grad,) = torch.autograd.grad(entropy(p), p)
    assert grad.tolist() == pytest.approx([np.log(2) - 1, np.log(2) - 1, np.inf], rel=1e-6)


@pytest.mark.parametrize("make", BOTH, ids=["torch", "numpy"])
def test_what_is_no_distribution_is_refused(make):
    with pytest.raises(ParameterError, match=r"values from -1 to 2, .*\n.*kind='logits'"):
        entropy(make([2.0, -1.0]))
    with pytest.raises(ParameterError, match="values from 0 to 3"):
        entropy(make([3.0, 0.0]))
    with pytest.raises(ParameterError, match="values from -1 to 3"):
        entropy(make([3.0, -1.0]), normalize=True)
    with pytest.raises(ParameterError, match="kind got 'prob'"):
        entropy(make([1.0]), kind="prob")
    for base in (0, 1, -2, np.nan):
        with pytest.raises(ParameterError, match="base got"):
            entropy(make([1.0]), base=base)


def test_the_dtype_stays():
    for dtype in ("float16", "float32", "float64"):
        p = np.full(4, 0.25, dtype)
        assert entropy(p, base=2).dtype == dtype
        assert entropy(torch.from_numpy(p)).dtype is getattr(torch, dtype)
