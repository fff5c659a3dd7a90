"""The losses against PyTorch on ordinary inputs, over options, shapes, dtypes, layouts; and where they must differ."""

import functools
import itertools
import warnings

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F

import lossless
from lossless.errors import LosslessWarning

pytestmark = pytest.mark.usefixtures("path")

REDUCTIONS = ("none", "mean", "sum")
SHAPES = ((5,), (4, 5), (2, 5, 3), (2, 5, 3, 2), (2, 5, 1, 2, 3))
TINY = np.float32(2.0611537e-09)  # log(1 + exp(-20))


def draw(*shape, dtype=torch.float64):
    """Ordinary numbers, the same in every run."""
    generator = torch.Generator().manual_seed(hash(shape) % 2**31)
    return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)


def labels_for(shape, classes=5):
    rows = (*shape[:1], *shape[2:]) if len(shape) > 1 else ()
    return torch.arange(int(np.prod(rows))).reshape(rows) * 7 % classes


def value_and_grad(loss, x, *args, **options):
    x = x.clone().requires_grad_()
    value = loss(x, *args, **options)
    (grad,) = torch.autograd.grad(value, x, torch.linspace(0.5, 2, value.numel()).to(value).reshape(value.shape))
    return value.detach(), grad


def numpy(value):
    return None if value is None else value.numpy()


def assert_same(ours, theirs, tolerance=1e-13):
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


# ---- the reason for this library


@pytest.mark.parametrize("target", [[0], [[1.0, 0.0]]], ids=["label", "one-hot"])
def test_a_confident_right_answer_costs_what_it_costs(target):
    x = np.array([[20.0, 0.0]], np.float32)
    target = np.array(target, np.float32 if isinstance(target[0], list) else np.int64)
    loss = lossless.cross_entropy(x, target)
    assert loss == TINY
    assert type(loss) is np.float32
    value, grad = value_and_grad(lossless.cross_entropy, torch.from_numpy(x), torch.from_numpy(target))
    assert value.item() == TINY
    assert grad.tolist() == [[-TINY / 2, TINY / 2]]  # the upstream gradient of a scalar is 0.5 here


def test_log_softmax_and_nll_loss_cost_the_same():
    x = np.array([[20.0, 0.0]], np.float32)
    assert lossless.nll_loss(lossless.log_softmax(x, 1), np.array([0])) == TINY
    value, grad = value_and_grad(
        lambda x, y: lossless.nll_loss(lossless.log_softmax(x, 1), y), torch.from_numpy(x), torch.tensor([0])
    )
    assert value.item() == TINY
    assert grad.tolist() == [[-TINY / 2, TINY / 2]]


# ---- cross-entropy and nll_loss against PyTorch


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_cross_entropy_of_labels(shape, reduction):
    x, y = draw(*shape), labels_for(shape)
    for weight, ignore_index, smoothing in itertools.product((None, draw(5).abs()), (-100, 2), (0.0, 0.1, 1.0)):
        options = {
            "weight": weight,
            "ignore_index": ignore_index,
            "label_smoothing": smoothing,
            "reduction": reduction,
        }
        ours = value_and_grad(lossless.cross_entropy, x, y, **options)
        for a, b in zip(ours, value_and_grad(F.cross_entropy, x, y, **options), strict=True):
            assert_same(a, b)
        options["weight"] = numpy(weight)
        np.testing.assert_allclose(lossless.cross_entropy(x.numpy(), y.numpy(), **options), ours[0], rtol=1e-13)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_cross_entropy_of_probabilities(shape, reduction):
    x, t = draw(*shape), draw(*shape, 1)[..., 0].softmax(min(1, len(shape) - 1))
    for weight, smoothing in itertools.product((None, draw(5).abs()), (0.0, 0.1)):
        options = {"weight": weight, "label_smoothing": smoothing, "reduction": reduction}
        ours = value_and_grad(lossless.cross_entropy, x, t, **options)
        for a, b in zip(ours, value_and_grad(F.cross_entropy, x, t, **options), strict=True):
            assert_same(a, b)
        options["weight"] = numpy(weight)
        np.testing.assert_allclose(lossless.cross_entropy(x.numpy(), t.numpy(), **options), ours[0], rtol=1e-13)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nll_loss(shape, reduction):
    x, y = draw(*shape).log_softmax(min(1, len(shape) - 1)), labels_for(shape)
    for weight, ignore_index in itertools.product((None, draw(5).abs()), (-100, 2)):
        options = {"weight": weight, "ignore_index": ignore_index, "reduction": reduction}
        ours = value_and_grad(lossless.nll_loss, x, y, **options)
        for a, b in zip(ours, value_and_grad(F.nll_loss, x, y, **options), strict=True):
            assert_same(a, b)
        options["weight"] = numpy(weight)
        np.testing.assert_allclose(lossless.nll_loss(x.numpy(), y.numpy(), **options), ours[0], rtol=1e-13)


def test_soft_targets_and_weights_have_gradients():
    x, t, w = draw(4, 5), draw(4, 5, 1)[..., 0].softmax(1), draw(5).abs()
    for options in ({}, {"label_smoothing": 0.1}, {"reduction": "sum"}):
        for tensor in (t, w):
            tensor.requires_grad_()
        ours = torch.autograd.grad(lossless.cross_entropy(x, t, w, **options), (t, w))
        theirs = torch.autograd.grad(F.cross_entropy(x, t, w, **options), (t, w))
        for a, b in zip(ours, theirs, strict=True):
            assert_same(a, b)


def test_a_single_row_takes_its_label_in_a_vector():
    x = draw(5)
    for reduction in REDUCTIONS:
        ours = lossless.cross_entropy(x, torch.tensor([3]), reduction=reduction)
        assert_same(ours, F.cross_entropy(x, torch.tensor([3]), reduction=reduction))
        np.testing.assert_allclose(lossless.cross_entropy(x.numpy(), [3], reduction=reduction), ours, rtol=1e-13)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_labels_of_every_integer_dtype(dtype):
    x, y = draw(4, 5), np.array([0, 4, 2, 1])
    expected = lossless.cross_entropy(x, torch.from_numpy(y))
    assert_same(lossless.cross_entropy(x, torch.from_numpy(y.astype(dtype))), expected)
    assert_same(lossless.nll_loss(x, torch.from_numpy(y.astype(dtype))), F.nll_loss(x, torch.from_numpy(y)))
    assert lossless.cross_entropy(x.numpy(), y.astype(dtype)) == expected.item()
    assert lossless.row_statistics(x.numpy(), y.astype(dtype)).nll.mean() == pytest.approx(expected.item(), rel=1e-15)


def test_the_largest_labels_do_not_wrap_into_ignored_ones():
    y = np.array([0, 2**64 - 100], np.uint64)  # -100 as int64
    with pytest.raises(IndexError, match="out of bounds"):
        lossless.cross_entropy(np.zeros((2, 3)), y)
    with pytest.raises(IndexError, match="out of bounds"):
        lossless.cross_entropy(torch.zeros(2, 3), torch.from_numpy(y))


# ---- dtypes


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_results_have_the_dtype_of_the_logits(dtype, reduction):
    x, y = draw(4, 5, dtype=getattr(torch, dtype)), torch.tensor([0, 4, 2, 1])
    exact = F.cross_entropy(x.double(), y, reduction=reduction).to(x.dtype)
    ours, grad = value_and_grad(lossless.cross_entropy, x, y, reduction=reduction)
    assert ours.dtype is grad.dtype is x.dtype
    assert_same(ours, exact, torch.finfo(x.dtype).eps)
    array = x.double().numpy().astype(getattr(ml_dtypes, dtype) if dtype == "bfloat16" else dtype)
    result = lossless.cross_entropy(array, y.numpy(), reduction=reduction)
    assert result.dtype == array.dtype
    np.testing.assert_array_equal(np.asarray(result, np.float64), ours.double().numpy())


def test_probabilities_and_weights_promote_as_in_pytorch():
    x, t, w = draw(4, 5, dtype=torch.float32), draw(4, 5).softmax(1), draw(5).abs()
    for target, weight in ((t, None), (t.float(), w), (t.half(), None), (t.float(), w.bfloat16())):
        ours = lossless.cross_entropy(x, target, weight)
        assert ours.dtype is F.cross_entropy(x, target, weight).dtype
        exact = F.cross_entropy(x.double(), target.double(), None if weight is None else weight.double())
        assert_same(ours.double(), exact, torch.finfo(ours.dtype).eps)
    assert lossless.cross_entropy(x.numpy(), t.numpy()).dtype == np.float64
    assert lossless.cross_entropy(x.numpy(), t.float().numpy(), w.numpy()).dtype == np.float64
    assert lossless.cross_entropy(x.numpy(), t.half().numpy()).dtype == np.float32


def test_autocast_computes_losses_in_float32():
    x, y = draw(4, 5, dtype=torch.bfloat16), torch.tensor([0, 4, 2, 1])
    t = draw(4, 5).sigmoid().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        for ours, theirs, target in (
            (lossless.cross_entropy, F.cross_entropy, y),
            (lossless.nll_loss, F.nll_loss, y),
            (lossless.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits, t),
            (lossless.mse_loss, F.mse_loss, t),
            (lambda x, t: lossless.binary_cross_entropy(t, t), lambda x, t: F.binary_cross_entropy(t, t), t),
            (lambda x, t: lossless.kl_div(x, t, reduction="sum"), lambda x, t: F.kl_div(x, t, reduction="sum"), t),
        ):
            assert ours(x, target).dtype is theirs(x, target).dtype is torch.float32
            assert_same(ours(x, target), theirs(x, target), 1e-6)


# ---- reductions


@pytest.mark.parametrize("make", [torch.tensor, np.array], ids=["torch", "numpy"])
def test_the_mean_of_nothing_is_nan_and_its_sum_is_zero(make):
    ignored = make([[1.0, 2.0]]), make([-100])
    nothing = make(np.zeros((0, 2)).tolist() or [[1.0, 2.0]])[:0].reshape(0, 2), make([0])[:0]
    for x, y in (ignored, nothing):
        for loss in (lossless.cross_entropy, lossless.nll_loss):
            assert np.isnan(float(loss(x, y)))
            total = float(loss(x, y, reduction="sum"))
            assert total == 0
            assert not np.signbit(total)
            assert loss(x, y, reduction="none").shape == y.shape
    empty = make([1.0])[:0]
    for loss in (
        lossless.binary_cross_entropy_with_logits,
        lossless.binary_cross_entropy,
        lossless.mse_loss,
        functools.partial(lossless.binary_cross_entropy_with_logits, label_smoothing=0.1),
    ):
        assert np.isnan(float(loss(empty, empty)))
        assert float(loss(empty, empty, reduction="sum")) == 0
    assert np.isnan(float(lossless.rmse_loss(empty, empty)))


def test_the_mean_over_weights_that_sum_to_zero_is_nan():
    x, y, w = torch.tensor([[1.0, 2.0]]), torch.tensor([0]), torch.tensor([0.0, 1.0])
    assert torch.isnan(F.cross_entropy(x, y, w))
    assert torch.isnan(lossless.cross_entropy(x, y, w))
    assert torch.isnan(lossless.nll_loss(x, y, w))
    assert np.isnan(lossless.cross_entropy(x.numpy(), y.numpy(), w.numpy()))


def test_ignored_rows_get_gradient_zero_even_if_all_are():
    x = torch.tensor([[1.0, 2.0], [0.0, -torch.inf]], requires_grad=True)
    (grad,) = torch.autograd.grad(lossless.cross_entropy(x, torch.tensor([-100, -100])), x)
    assert grad.tolist() == [[0, 0], [0, 0]]


def test_sums_are_taken_in_float64_and_rounded_once():
    x = np.zeros((3000, 2), np.float16)
    assert lossless.cross_entropy(x, np.zeros(3000, int)) == np.float16(np.log(2))
    assert lossless.cross_entropy(x, np.zeros(3000, int), reduction="sum") == np.float16(3000 * np.log(2))
    far = np.array([300.0, 0.0], np.float16)
    assert lossless.mse_loss(far, np.zeros(2, np.float16)) == np.float16(45000)  # 300^2 is inf in float16
    assert lossless.mse_loss(torch.from_numpy(far), torch.zeros(2).half()).item() == np.float16(45000)


@pytest.mark.parametrize(
    ("legacy", "reduction"),
    [
        ({"size_average": False}, "sum"),
        ({"size_average": True}, "mean"),
        ({"reduce": False}, "none"),
        ({"reduce": True}, "mean"),
        ({"size_average": False, "reduce": True}, "sum"),
        ({"reduction": "elementwise_mean"}, "mean"),
    ],
)
def test_legacy_reductions(legacy, reduction):
    x, y, t = draw(4, 5), torch.tensor([0, 4, 2, 1]), draw(4, 5).sigmoid()
    for loss, target in (
        (lossless.cross_entropy, y),
        (lossless.nll_loss, y),
        (lossless.binary_cross_entropy_with_logits, t),
        (lossless.mse_loss, t),
    ):
        with warnings.catch_warnings(record=True) as theirs:
            warnings.simplefilter("always")
            getattr(F, loss.__name__)(x, target, **legacy)
        with pytest.warns(LosslessWarning) as ours:
            value = loss(x, target, **legacy)
        assert str(ours[0].message) == str(theirs[0].message)
        assert ours[0].filename == __file__
        assert_same(value, loss(x, target, reduction=reduction))


# ---- signs of zero


@pytest.mark.parametrize("make", [torch.tensor, np.array], ids=["torch", "numpy"])
def test_a_loss_is_never_minus_zero(make):
    one, label = make([[3.0]]), make([0])
    certain = make([[0.0, -np.inf]])
    losses = [
        lossless.cross_entropy(one, label),
        lossless.cross_entropy(one, label, reduction="sum"),
        lossless.cross_entropy(one, label, reduction="none")[0],
        lossless.cross_entropy(one, make([[1.0]]), reduction="none")[0],
        lossless.cross_entropy(certain, label),
        lossless.cross_entropy(certain, make([[1.0, 0.0]])),
        lossless.nll_loss(certain, label, reduction="none")[0],
        lossless.nll_loss(certain, label),
        lossless.mse_loss(one, one),
        lossless.rmse_loss(one, one),
        lossless.binary_cross_entropy_with_logits(make([np.inf]), make([1.0])),
        lossless.binary_cross_entropy_with_logits(make([-np.inf]), make([0.0])),
        lossless.binary_cross_entropy_with_logits(make([np.inf]), make([1.0]), sample_weight=make([1.0])),
        lossless.binary_cross_entropy(make([1.0]), make([1.0])),
        lossless.binary_cross_entropy(make([0.0]), make([0.0]), clamp=None),
        lossless.sigmoid_focal_loss(make([np.inf]), make([1.0]))[0],
        lossless.sigmoid_focal_loss(make([-np.inf]), make([0.0]), gamma=0)[0],
        lossless.kl_div(make([1.0]), make([0.0]), reduction="sum"),
        lossless.kl_div(make([1.0]), make([-np.inf]), reduction="none", log_target=True)[0],
        lossless.logsigmoid(make([np.inf]))[0],
        lossless.logit(make([0.5]))[0],
    ]
    for loss in losses:
        assert float(loss) == 0
        assert not np.signbit(float(loss))


# ---- elementwise losses


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_binary_cross_entropy_with_logits(reduction):
    x, t = draw(4, 5), draw(4, 5, 1)[..., 0].sigmoid()
    for weight, pos_weight in itertools.product(
        (None, draw(4, 5).abs(), draw(5).abs(), draw(4, 1).abs()), (None, draw(5).abs(), draw(1).abs())
    ):
        options = {"weight": weight, "pos_weight": pos_weight, "reduction": reduction}
        ours = value_and_grad(lossless.binary_cross_entropy_with_logits, x, t, **options)
        theirs = value_and_grad(F.binary_cross_entropy_with_logits, x, t, **options)
        for a, b in zip(ours, theirs, strict=True):
            assert_same(a, b)
        options.update(weight=numpy(weight), pos_weight=numpy(pos_weight))
        result = lossless.binary_cross_entropy_with_logits(x.numpy(), t.numpy(), **options)
        np.testing.assert_allclose(result, ours[0], rtol=1e-13)


def test_binary_cross_entropy_has_a_gradient_over_its_target():
    x, t = draw(4, 5), draw(4, 5, 1)[..., 0].sigmoid().requires_grad_()
    (ours,) = torch.autograd.grad(lossless.binary_cross_entropy_with_logits(x, t), t)
    (theirs,) = torch.autograd.grad(F.binary_cross_entropy_with_logits(x, t), t)
    assert_same(ours, theirs)


def test_binary_cross_entropy_at_infinity_is_the_limit():
    x, t = [np.inf, np.inf, -np.inf, -np.inf], [1.0, 0.0, 1.0, 0.0]
    loss = lossless.binary_cross_entropy_with_logits
    assert loss(np.array(x), np.array(t), reduction="none").tolist() == [0, np.inf, np.inf, 0]
    value, grad = value_and_grad(loss, torch.tensor(x), torch.tensor(t), reduction="sum")
    assert value == np.inf
    assert grad.tolist() == [0, 0.5, -0.5, 0]


# What the losses below add to PyTorch's, said with PyTorch's.


def smoothed(t, e=0.1):
    return (1 - e) * t + e / 2


def torchvisions_focal_loss(x, t, alpha=0.25, gamma=2, reduction="none"):
    p = x.sigmoid()
    loss = F.binary_cross_entropy_with_logits(x, t, reduction="none") * (p * (1 - t) + (1 - p) * t) ** gamma
    loss = loss if alpha < 0 else (alpha * t + (1 - alpha) * (1 - t)) * loss
    return loss if reduction == "none" else getattr(loss, reduction)()


def gradients(value, *inputs):
    """Over each input, of a sum with unequal weights."""
    return torch.autograd.grad(
        value, inputs, torch.linspace(0.5, 2, value.numel()).to(value).reshape(value.shape), retain_graph=True
    )


def compare(ours, theirs, x, t, *others, added=None, **options):
    """Values, and gradients over input and target; those of NumPy too. `added`: the options of `ours` alone."""
    added = added or {}
    x, t = x.clone().requires_grad_(), t.clone().requires_grad_()
    a, b = ours(x, t, *others, **options, **added), theirs(x, t, *others, **options)
    assert_same(a, b)
    for g, h in zip(gradients(a, x, t), gradients(b, x, t), strict=True):
        assert_same(g, h, 1e-12)
    arrays = [numpy(v.detach()) if isinstance(v, torch.Tensor) else v for v in (x, t, *others)]
    options = {name: numpy(v) if isinstance(v, torch.Tensor) else v for name, v in (options | added).items()}
    value, grad = lossless.value_and_grad(ours)(*arrays, **options)
    np.testing.assert_allclose(value, a.detach(), rtol=1e-13)
    np.testing.assert_allclose(grad, torch.autograd.grad(b.sum(), x)[0], rtol=1e-12, atol=1e-15)


X, T = draw(4, 5), draw(4, 5, 1)[..., 0].sigmoid()
MARKED = torch.where(T > 0.6, -1.0, T)  # -1 marks elements to leave out
W, V, S = draw(4, 5, 2)[..., 0].exp(), draw(5).exp(), draw(4).exp()


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("clamp", ["torch", None])
def test_binary_cross_entropy(reduction, clamp):
    for weight in (None, W, V, draw(4, 1).abs()):
        compare(
            lossless.binary_cross_entropy, F.binary_cross_entropy, X.sigmoid(), T, weight, reduction=reduction,
            added={"clamp": clamp},
        )  # fmt: skip


def test_binary_cross_entropy_clamps_as_pytorch_does():
    p, t = (torch.tensor(v, dtype=torch.float64) for v in ([0, 0, 1, 1, 1e-50, 1e-13], [0, 0.5, 0, 1, 1, 1]))
    ours = value_and_grad(lossless.binary_cross_entropy, p, t, reduction="none")
    for a, b in zip(ours, value_and_grad(F.binary_cross_entropy, p, t, reduction="none"), strict=True):
        assert_same(a, b, 1e-8)  # PyTorch's 1e-12 is a float32
    t.requires_grad_()
    (ours,) = torch.autograd.grad(lossless.binary_cross_entropy(p, t, reduction="sum"), t)
    (theirs,) = torch.autograd.grad(F.binary_cross_entropy(p, t, reduction="sum"), t)
    assert_same(ours, theirs)


def test_binary_cross_entropy_smoothes_labels():
    for options in ({}, {"reduction": "none"}, {"weight": W, "pos_weight": V}):
        compare(
            lossless.binary_cross_entropy_with_logits,
            lambda x, t, weight=None, pos_weight=1.0, reduction="mean": weighted_bce(
                x, smoothed(t), weight, pos_weight, 1 - smoothed(t), reduction
            ),
            X, T, **options, added={"label_smoothing": 0.1},
        )  # fmt: skip
    compare(
        lossless.binary_cross_entropy, lambda p, t: F.binary_cross_entropy(p, smoothed(t)), X.sigmoid(), T,
        added={"label_smoothing": 0.1},
    )  # fmt: skip


def weighted_bce(x, positive, weight, pos_weight, negative, reduction):
    loss = pos_weight * positive * F.softplus(-x) + negative * F.softplus(x)
    loss = loss if weight is None else weight * loss
    return loss if reduction == "none" else getattr(loss, reduction)()


@pytest.mark.parametrize("denominator", [None, "count", "weights", "batch", "positives", 7])
def test_binary_cross_entropy_of_samples_that_weigh_and_elements_that_do_not_count(denominator):
    kept, s = MARKED != -1, S[:, None].expand(4, 5)

    def mean(loss, weights, t):
        number = {"weights": (s * weights)[kept].sum(), "batch": 20, "positives": t[kept].sum().clamp(min=1), 7: 7}
        return torch.where(kept, loss * s, 0.0).sum() / number.get(denominator, kept.sum())

    def of_logits(x, t, w):
        loss = F.binary_cross_entropy_with_logits(x, t.clamp(min=0), w, pos_weight=V, reduction="none")
        return mean(loss, w * (V * t + 1 - t), t)

    def of_probabilities(p, t, w):
        return mean(F.binary_cross_entropy(p, t.clamp(min=0), w, reduction="none"), w, t)

    options = {"ignore_index": -1, "sample_weight": S, "denominator": denominator}
    compare(lossless.binary_cross_entropy_with_logits, of_logits, X, MARKED, W, added={"pos_weight": V, **options})
    compare(lossless.binary_cross_entropy, of_probabilities, X.sigmoid(), MARKED, W, added=options)


def test_sample_weights_cover_any_leading_dimensions_and_have_gradients():
    for shape in ((), (4,), (4, 5)):
        s = draw(*shape).exp().requires_grad_()
        wide = s.reshape(*shape, *(1,) * (2 - len(shape)))
        for options in ({}, {"denominator": "weights"}):
            ours = lossless.binary_cross_entropy_with_logits(X, T, sample_weight=s, **options)
            theirs = (wide * F.binary_cross_entropy_with_logits(X, T, reduction="none")).sum()
            theirs = theirs / (wide.expand(4, 5).sum() if options else 20)
            assert_same(ours, theirs)
            assert_same(torch.autograd.grad(ours, s)[0], torch.autograd.grad(theirs, s)[0])
    flags = torch.tensor([True, False, True, True])
    ours = lossless.binary_cross_entropy_with_logits(X, T, sample_weight=flags, denominator="weights")
    assert_same(ours, F.binary_cross_entropy_with_logits(X[flags], T[flags]))


def test_binary_denominators_may_be_arrays():
    n = torch.tensor(3.0, requires_grad=True)
    loss = lossless.binary_cross_entropy_with_logits(X, T, denominator=n)
    total = F.binary_cross_entropy_with_logits(X, T, reduction="sum")
    assert_same(loss, total / 3)
    assert_same(torch.autograd.grad(loss, n)[0], (-total / 9).float(), 1e-6)
    assert lossless.binary_cross_entropy(X.sigmoid().numpy(), T.numpy(), denominator=np.array(3)) == pytest.approx(
        total.item() / 3
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2), (-1, 2), (0.6, 1.5), (1, 0), (0, 5), (-1, 0.5)])
def test_sigmoid_focal_loss(alpha, gamma, reduction):
    for t in (T, (T > 0.5).double()):
        compare(lossless.sigmoid_focal_loss, torchvisions_focal_loss, X, t, alpha, gamma, reduction)


@pytest.mark.parametrize("reduction", [*REDUCTIONS, "batchmean"])
@pytest.mark.parametrize("log_target", [False, True])
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
def test_kl_div(reduction, log_target):
    x, t = X.log_softmax(1), T.log() if log_target else T
    options = {"reduction": reduction, "log_target": log_target}
    compare(lossless.kl_div, F.kl_div, x, t, **options)
    compare(lossless.kl_div, F.kl_div, x[0, 0], t[0, 0], **options)


@pytest.mark.filterwarnings("ignore:Using a target size")
def test_kl_div_broadcasts_with_a_warning():
    for x, t in ((X, T[0]), (X[0], T), (X, T[:, :1]), (X[0, 0], T)):
        for reduction in ("none", "sum", "batchmean"):
            compare(lossless.kl_div, F.kl_div, x, t, reduction=reduction)
    with pytest.warns(LosslessWarning, match="target size") as record:
        lossless.kl_div(X, T[0], reduction="sum")
    assert record[0].filename == __file__


def test_kl_div_warns_of_its_mean_as_pytorch_does():
    with pytest.warns(UserWarning, match="batchmean") as theirs:
        F.kl_div(X, T)
    with pytest.warns(LosslessWarning) as ours:
        lossless.kl_div(X, T)
    assert str(ours[0].message).splitlines()[0] == str(theirs[0].message)
    assert ours[0].filename == __file__
    for legacy, reduction in (({"size_average": False}, "sum"), ({"reduce": False}, "none")):
        with pytest.warns(LosslessWarning, match=f"reduction='{reduction}' instead"):
            assert_same(lossless.kl_div(X, T, **legacy), F.kl_div(X, T, reduction=reduction))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_elementwise_results_have_the_dtype_of_the_input(dtype):
    x, t = draw(4, 5, dtype=getattr(torch, dtype)), draw(4, 5, 1)[..., 0].sigmoid().to(getattr(torch, dtype))
    for ours, theirs, a, options in (
        (lossless.binary_cross_entropy, F.binary_cross_entropy, x.sigmoid(), {}),
        (lossless.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits, x, {}),
        (lossless.sigmoid_focal_loss, torchvisions_focal_loss, x, {"reduction": "mean"}),
        (lossless.kl_div, F.kl_div, x, {"reduction": "batchmean"}),
    ):
        exact, slope = (v.to(x.dtype) for v in value_and_grad(theirs, a.double(), t.double(), **options))
        value, grad = value_and_grad(ours, a, t, **options)
        assert value.dtype is grad.dtype is x.dtype
        assert_same(value, exact, torch.finfo(x.dtype).eps)
        assert_same(grad, slope, torch.finfo(x.dtype).eps)
        kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
        arrays = (v.double().numpy().astype(kind) for v in (a, t))
        result, dx = lossless.value_and_grad(ours)(*arrays, **options)
        assert result.dtype == dx.dtype == kind
        np.testing.assert_allclose(np.asarray(result, np.float64), value.double(), rtol=1e-15)


def test_elementwise_losses_promote_input_and_target():
    for ours in (lossless.binary_cross_entropy, lossless.sigmoid_focal_loss, lossless.kl_div):
        options = {"reduction": "sum"}
        assert ours(X.sigmoid().float(), T, **options).dtype is torch.float64
        assert ours(X.sigmoid().half(), T.float(), **options).dtype is torch.float32
        assert ours(X.sigmoid().float().numpy(), T.numpy(), **options).dtype == np.float64


def test_numpy_gradients_of_squared_errors():
    for options in ({}, {"reduction": "none"}, {"weight": W}, {"weight": W, "reduction": "sum"}):
        compare(lossless.mse_loss, F.mse_loss, X, T, **options)
    for options in ({}, {"dim": 0}, {"dim": 1, "reduction": "sum"}, {"dim": 1, "reduction": "none"}):
        value, grad = lossless.value_and_grad(lossless.rmse_loss)(X.numpy(), T.numpy(), **options)
        x = X.clone().requires_grad_()
        loss = lossless.rmse_loss(x, T, **options)
        np.testing.assert_allclose(value, loss.detach(), rtol=1e-13)
        np.testing.assert_allclose(grad, torch.autograd.grad(loss.sum(), x)[0], rtol=1e-12)
    with pytest.warns(LosslessWarning, match="target size"):
        value, grad = lossless.value_and_grad(lossless.mse_loss)(X[:1].numpy(), T.numpy())
    np.testing.assert_allclose(grad, 2 * (X[:1] - T).sum(0, keepdim=True) / 20, rtol=1e-12)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_mse_loss(reduction):
    x, t = draw(4, 5), draw(4, 5, 1)[..., 0]
    for weight in (None, draw(4, 5).abs()):
        ours = value_and_grad(lossless.mse_loss, x, t, weight=weight, reduction=reduction)
        theirs = value_and_grad(F.mse_loss, x, t, weight=weight, reduction=reduction)
        for a, b in zip(ours, theirs, strict=True):
            assert_same(a, b)
        result = lossless.mse_loss(x.numpy(), t.numpy(), weight=numpy(weight), reduction=reduction)
        np.testing.assert_allclose(result, ours[0], rtol=1e-13)


def test_mse_loss_of_both_sides_has_both_gradients():
    x, t = draw(4, 5).requires_grad_(), draw(4, 5, 1)[..., 0].requires_grad_()
    for a, b in zip(
        torch.autograd.grad(lossless.mse_loss(x, t), (x, t)), torch.autograd.grad(F.mse_loss(x, t), (x, t)), strict=True
    ):
        assert_same(a, b)


def test_mse_loss_broadcasts_with_pytorchs_warning():
    x, t = draw(4, 5), draw(5)
    with pytest.warns(UserWarning, match="target size") as theirs:
        expected = value_and_grad(F.mse_loss, x, t)
    with pytest.warns(LosslessWarning) as ours:
        result = value_and_grad(lossless.mse_loss, x, t)
    assert str(ours[0].message).splitlines()[0] == str(theirs[0].message)
    for a, b in zip(result, expected, strict=True):
        assert_same(a, b)


def test_mse_loss_takes_whole_number_targets():
    x, t = draw(4, dtype=torch.float32), torch.tensor([1, 2, 3, 2**24 + 1])
    exact = ((x.double() - t.double()) ** 2).mean().float()
    assert lossless.mse_loss(x, t) == exact
    assert lossless.mse_loss(x.numpy(), t.numpy()) == exact.item()


def test_rmse_loss():
    x, t = draw(4, 5), draw(4, 5, 1)[..., 0]
    error = (x - t) ** 2
    for dim in (None, 0, -1, (0, 1)):
        dims = tuple(range(2)) if dim is None else dim
        expected = error.mean(dims).sqrt()
        for reduction in REDUCTIONS:
            reduced = expected if reduction == "none" else getattr(expected, reduction)()
            assert_same(lossless.rmse_loss(x, t, dim=dim, reduction=reduction), reduced)
            result = lossless.rmse_loss(x.numpy(), t.numpy(), dim=dim, reduction=reduction)
            np.testing.assert_allclose(result, reduced, rtol=1e-13)


def test_rmse_loss_has_no_gradient_where_it_is_zero_and_finite_ones_elsewhere():
    for x, loss, gradient in (
        ([1.0, 2.0], 0, [0, 0]),
        ([1e200, 2.0], 1e200 / 2**0.5, [0.5**0.5, 0]),
        ([1 + 1e-15, 2.0], 1.1102230246251565e-15 / 2**0.5, [0.5**0.5, 0]),
    ):
        x = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        value = lossless.rmse_loss(x, torch.tensor([1.0, 2.0], dtype=torch.float64))
        assert value.item() == pytest.approx(loss)
        (grad,) = torch.autograd.grad(value, x)
        assert grad.tolist() == pytest.approx(gradient)


# ---- layouts and kinds of array


def layouts(a):
    """The same numbers in memory of every kind."""
    yield "transposed", np.ascontiguousarray(a.T).T
    yield "reversed", np.ascontiguousarray(a[::-1, ::-1])[::-1, ::-1]
    yield "strided", np.repeat(np.repeat(a, 2, 0), 3, 1)[::2, ::3]
    yield "read-only", np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape)
    yield "byte-swapped", a.astype(a.dtype.newbyteorder())
    buffer = np.zeros(a.nbytes + 1, np.uint8)
    misaligned = buffer[1:].view(a.dtype).reshape(a.shape)
    misaligned[...] = a
    yield "misaligned", misaligned
    yield "list", a.tolist()


def test_every_layout_gives_the_same_bits_and_stays_as_it_was():
    x, y, t = draw(6, 5).numpy(), np.array([0, 4, 2, 1, 3, 0]), draw(6, 5).softmax(1).numpy()
    losses = {
        "labels": (lossless.cross_entropy, lambda a: (a, y)),
        "probabilities": (lossless.cross_entropy, lambda a: (x, a)),
        "nll": (lossless.nll_loss, lambda a: (a, y)),
        "bce": (lossless.binary_cross_entropy_with_logits, lambda a: (x, a)),
        "mse": (lossless.mse_loss, lambda a: (a, t)),
        "rmse": (lossless.rmse_loss, lambda a: (a, t)),
    }
    for name, (loss, arguments) in losses.items():
        array = t if name in ("probabilities", "bce") else x
        expected = loss(*arguments(array), reduction="none")
        for layout, other in layouts(array):
            before = np.array(other).tobytes()
            np.testing.assert_array_equal(
                loss(*arguments(other), reduction="none"), expected, err_msg=f"{name} {layout}"
            )
            assert np.array(other).tobytes() == before
            if layout in ("transposed", "strided"):
                tensors = [torch.from_numpy(a) for a in arguments(other)]
                np.testing.assert_allclose(loss(*tensors, reduction="none").numpy(), expected, rtol=1e-15)


def test_labels_may_be_strided_and_expanded():
    x = draw(6, 5)
    y = torch.tensor([0, 4, 2, 1, 3, 0])
    assert_same(lossless.cross_entropy(x, y.repeat_interleave(2)[::2]), F.cross_entropy(x, y))
    assert_same(lossless.cross_entropy(x, torch.tensor(3).expand(6)), F.cross_entropy(x, torch.full((6,), 3)))


def test_channels_last_images():
    x = draw(2, 5, 3, 4).to(memory_format=torch.channels_last)
    y = labels_for(x.shape)
    for a, b in zip(value_and_grad(lossless.cross_entropy, x, y), value_and_grad(F.cross_entropy, x, y), strict=True):
        assert_same(a, b)


def test_pending_negation_is_carried_out():
    z = torch.complex(draw(4, 5), draw(4, 5, 1)[..., 0])
    x = z.conj().imag
    assert x.is_neg()
    y = torch.tensor([0, 4, 2, 1])
    assert_same(lossless.cross_entropy(x, y), F.cross_entropy(x, y))
    assert_same(lossless.softmax(x), x.softmax(-1))


def test_numbers_and_lists_are_numpy_arrays():
    assert lossless.mse_loss(3.0, 1.0) == 4
    assert lossless.cross_entropy([[20.0, 0.0]], [0]) == pytest.approx(2.061153620314381e-09, rel=1e-15)
    assert type(lossless.mse_loss(3.0, 1.0)) is np.float64
