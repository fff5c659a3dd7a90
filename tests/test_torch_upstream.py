"""A loss that expects its upstream gradient writes its own in the forward pass: nobody can tell but by the time."""

import math

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import lossless
from lossless._kernels import native, why
from lossless._plan import RowPlan
from lossless._torch.eager import ClassLoss, Entropy

torch.manual_seed(0)
X = 3 * torch.randn(40, 12)
Y = torch.arange(40) % 12
T = torch.softmax(torch.randn(40, 12), 1)
Y[::9] = -100
BITS = (T > 0.1).float()

LOSSES = {
    "labels": lambda x: lossless.cross_entropy(x, Y),
    "labels in float64": lambda x: lossless.cross_entropy(x.double(), Y),
    "labels in bfloat16": lambda x: lossless.cross_entropy(x.bfloat16(), Y),
    "sum": lambda x: lossless.cross_entropy(x, Y, reduction="sum"),
    "weights and smoothing": lambda x: lossless.cross_entropy(x, Y, T[0].contiguous(), label_smoothing=0.1),
    "probabilities": lambda x: lossless.cross_entropy(x, T),
    "z": lambda x: lossless.cross_entropy(x, Y, z_loss=0.1),
    "denominator": lambda x: lossless.cross_entropy(x, Y, denominator=7.0),
    "focal": lambda x: lossless.focal_loss(x, Y),
    "focal, another power": lambda x: lossless.focal_loss(x, Y, gamma=1.3),
    "binary": lambda x: lossless.binary_cross_entropy_with_logits(x, BITS),
    "sigmoid focal": lambda x: lossless.sigmoid_focal_loss(x, T, reduction="mean"),
    "squared": lambda x: lossless.mse_loss(x, T),
    "entropy": lambda x: lossless.info.entropy(x, kind="logits").mean(),
    "labels, one by one": lambda x: lossless.cross_entropy(x, Y, reduction="none").mean(),
    "binary, one by one": lambda x: lossless.binary_cross_entropy_with_logits(x, BITS, reduction="none").sum(),
}
MANY = {
    "entropy": lambda x: lossless.info.entropy(x, kind="logits"),
    "labels": lambda x: lossless.cross_entropy(x, Y, reduction="none"),
    "squared": lambda x: lossless.mse_loss(x, T, reduction="none"),
}


def forget():
    if native is not None:
        native.functions.forget_plans()


@pytest.fixture(autouse=True)
def forgetful():
    forget()


@pytest.fixture
def expected(monkeypatch):
    """What each forward pass of a loss, or of the entropy, expects upstream."""
    if native is None:
        pytest.skip(f"no kernels were built, and no gradient is written ahead: {why}")
    numbers = []

    def noted(forward):
        def asked(ctx, *args):
            (plan,) = (a for a in args if isinstance(a, RowPlan))
            numbers.append(None if ctx is None else native.functions.expected(plan))
            return forward(ctx, *args)

        return staticmethod(asked)

    for function in (ClassLoss, Entropy):
        monkeypatch.setattr(function, "forward", noted(function.forward))
    return numbers


def step(loss, scale=1.0):
    x = X.clone().requires_grad_()
    value = loss(x)
    (scale * value).backward()
    return value.detach(), x.grad


@pytest.mark.parametrize("name", LOSSES)
def test_the_same_bits_whatever_was_expected(name):
    loss = LOSSES[name]
    first = dict.fromkeys((1.0, 0.25, 3.0, 0.0, -1.0))
    for scale in first:
        forget()
        first[scale] = step(loss, scale)
    for scale in (1.0, 1.0, 0.25, 3.0, 3.0, 0.0, 1.0, -1.0, -1.0, 1.0):
        value, gradient = step(loss, scale)
        assert torch.equal(value, first[scale][0])
        assert torch.equal(gradient, first[scale][1])


@pytest.mark.parametrize("name", MANY)
def test_each_number_of_many_may_get_its_own(name):
    loss = MANY[name]
    weight = torch.randn(loss(X).shape)
    alone = step(lambda x: (weight * loss(x)).sum())[1]
    for _ in range(2):
        step(lambda x: loss(x).sum())  # the next one expects the same for all
        assert torch.equal(step(lambda x: (weight * loss(x)).sum())[1], alone)


def test_many_numbers_are_as_quick_as_their_mean(expected):
    for _ in range(3):
        step(lambda x: lossless.info.entropy(x, kind="logits").mean())
    assert expected == [None, pytest.approx(1 / len(X)), pytest.approx(1 / len(X))]


def test_after_another_number_than_expected_one_must_come_twice(expected):
    for scale in (1.0, 2.0, 3.0, 4.0, 4.0, 4.0, math.nan, math.nan, math.nan):
        step(LOSSES["labels"], scale)
    assert expected == [None, 1.0, None, None, None, 4.0, 4.0, None, None]


@pytest.mark.parametrize("name", ["labels", "squared", "labels, one by one", "entropy"])
def test_signs_of_zeros_are_those_of_the_number_that_came(name):
    alone = {}
    for scale in (0.0, -0.0):
        forget()
        alone[math.copysign(1, scale)] = step(LOSSES[name], scale)[1]
    for scale in (-0.0, -0.0, 0.0, 0.0, -0.0):
        gradient = step(LOSSES[name], scale)[1]
        assert torch.equal(gradient.signbit(), alone[math.copysign(1, scale)].signbit())


@pytest.mark.parametrize("name", LOSSES)
def test_who_gets_the_gradient_may_change_it(name):
    step(LOSSES[name])
    x = X.clone().requires_grad_()
    value = LOSSES[name](x)
    (one,) = torch.autograd.grad(value, x, retain_graph=True)
    expected = one.clone()
    one.fill_(7.0)
    (other,) = torch.autograd.grad(value, x, retain_graph=True)
    assert torch.equal(other, expected)
    (twice,) = torch.autograd.grad(2.0 * value, x)
    assert torch.allclose(twice, 2.0 * expected, rtol=1e-2 if "bfloat16" in name else 1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_second_derivatives_do_not_see_it(name):
    if "bfloat16" in name:
        pytest.skip("its rounding is no derivative")
    results = []
    for _ in range(2):
        x = X.clone().requires_grad_()
        (g,) = torch.autograd.grad(LOSSES[name](x), x, create_graph=True)
        results.append((g.detach(), torch.autograd.grad((g * T).sum(), x)[0]))
        step(LOSSES[name])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", LOSSES)
def test_checkpoints_save_the_same_twice(name):
    def parts(x):
        return sum(checkpoint(LOSSES[name], 1.0 * x, use_reentrant=False) for _ in range(2))

    expected = 2.0 * step(LOSSES[name])[1]
    for _ in range(3):
        assert torch.allclose(step(parts)[1], expected, rtol=1e-2 if "bfloat16" in name else 1e-6)
        with torch.autograd.graph.save_on_cpu():
            assert torch.equal(step(LOSSES[name])[1], step(LOSSES[name])[1])


def test_what_was_changed_in_between_is_still_an_error():
    step(LOSSES["labels"])
    x = X.clone().requires_grad_()
    scores = x * 1.0
    loss = lossless.cross_entropy(scores, Y)
    with torch.no_grad():
        scores.mul_(2.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_it_is_expected_after_a_backward_pass_only(expected):
    x = X.clone().requires_grad_()
    for _ in range(3):
        lossless.cross_entropy(x, Y)  # nobody differentiates
    assert expected == [None, None, None]
    lossless.cross_entropy(x, Y).backward()
    held = [lossless.cross_entropy(x, Y) for _ in range(3)]
    assert expected[3:] == [None, 1.0, None, None]
    (sum(held) / 3).backward()
    lossless.cross_entropy(x, Y)
    assert expected[7:] == [None]  # the first of them was differentiated last, and had expected another number
    with torch.no_grad():
        lossless.cross_entropy(x, Y)
    assert expected[-1] is None


@pytest.mark.skipif(native is None, reason=f"no compiled kernels: {why}")
def test_no_more_plans_are_remembered_than_there_may_be(forward_passes):
    def last_plan():
        return next(a for a in forward_passes[-1][1] if isinstance(a, RowPlan))

    step(LOSSES["labels"])
    first = last_plan()
    assert native.functions.expected(first) == 1.0
    for n in range(1, 1100):
        torch.autograd.backward(lossless.cross_entropy(torch.zeros(n, 2, requires_grad=True), Y[:1].expand(n) * 0))
        forward_passes[:-1] = []
    assert native.functions.expected(first) is None
    assert native.functions.expected(last_plan()) == 1.0


@pytest.mark.parametrize("classes", [2, 70])
@pytest.mark.parametrize("exponent", [0, 38, 40, 59, 61, 90])
def test_a_large_upstream_gradient_meets_a_small_probability(classes, exponent):
    gap = min(133.0, 100.0 + exponent)  # a probability that is no float, times 2^exponent, which is one
    x = torch.zeros(1, classes)
    x[0, 1:] = -gap
    x.requires_grad_()
    loss = lossless.cross_entropy(x, torch.zeros(1, dtype=torch.long), reduction="none")
    loss.backward(torch.tensor([2.0**exponent]))
    truth = math.ldexp(math.exp(-gap), exponent)
    smallest = 2.0**-149
    assert abs(x.grad[0, 1].item() - truth) <= max(4 * 2.0**-24 * truth, smallest)


def test_a_large_weight_and_a_large_upstream_gradient_do_not_overflow_between():
    x = torch.tensor([[0.0, -100.0]], requires_grad=True)
    weight = torch.tensor([1.9997622966766357 * 2.0**124, 1.0])
    upstream = torch.tensor([1.0001188516616821 * 2.0**127])
    lossless.cross_entropy(x, torch.tensor([0]), weight=weight, reduction="none").backward(upstream)
    truth = weight[0].double() * upstream[0].double() * math.exp(-100)
    assert x.grad[0, 1].item() == pytest.approx(truth.item(), rel=1e-6)


def test_flushing_denormals_changes_no_normal_gradient():
    x = torch.empty(400, 80).uniform_(-86, -30, generator=torch.Generator().manual_seed(0))
    x[:, 0] = 0
    x.requires_grad_()

    def gradient():
        (dx,) = torch.autograd.grad(lossless.cross_entropy(x, torch.zeros(400, dtype=torch.long), reduction="sum"), x)
        return dx

    expected = gradient()
    if not torch.set_flush_denormal(True):
        pytest.skip("this machine cannot flush denormals")
    try:
        flushed = gradient()
    finally:
        torch.set_flush_denormal(False)
    normal = expected.abs() >= torch.finfo(torch.float32).tiny
    assert torch.equal(flushed[normal], expected[normal])


@pytest.mark.parametrize("classes", [2, 70])
@pytest.mark.parametrize(("size", "upstream"), [(1e-40, 1e30), (1e-36, 2e12), (1e30, 1e-30), (1e30, 1e7)])
def test_small_targets_meet_large_upstream_gradients(classes, size, upstream):
    x = torch.zeros(1, classes, requires_grad=True)
    t = torch.full((1, classes), size)
    t[0, 0] *= 0.3
    lossless.cross_entropy(x, t, reduction="sum").backward(torch.tensor(upstream))
    true = upstream * (t.double().mean() - t.double())
    torch.testing.assert_close(x.grad.double(), true, rtol=0.0, atol=4e-7 * upstream * size)


def test_an_upstream_gradient_near_the_end_of_float64_meets_small_differences():
    x = torch.tensor([0.0, 2.0**-30], dtype=torch.float64, requires_grad=True)
    loss = lossless.mse_loss(x, torch.zeros(2, dtype=torch.float64), reduction="none")
    loss.backward(torch.full((2,), 2.0**1023, dtype=torch.float64))
    assert x.grad.tolist() == [0.0, 2.0**994]


@pytest.mark.parametrize("name", ["entropy", "nll"])
def test_a_nan_upstream_reaches_every_class(name):
    x = torch.tensor([[0.0, -1.0, -200.0], [0.0, 1.0, 2.0]], requires_grad=True)
    statistic = getattr(lossless.row_statistics(x, torch.tensor([0, 0])), name)
    statistic.backward(torch.tensor([math.nan, 1.0]))
    assert x.grad[0].isnan().all()
    assert not x.grad[1].isnan().any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [4, 100])
@pytest.mark.parametrize("far", [-1e4, -math.inf])
def test_an_infinite_upstream_leaves_classes_without_probability_alone(classes, far, dtype):
    x = torch.full((1, classes), far, dtype=dtype)
    x[0, :2] = torch.tensor([0.0, -1.0])
    x.requires_grad_()
    lossless.info.entropy(x, kind="logits").backward(torch.tensor([math.inf], dtype=dtype))
    assert x.grad[0, :2].isnan().all()
    assert (x.grad[0, 2:] == 0).all()


@pytest.mark.parametrize("size", [1e11, 2e12, 1e30, 1e-30])
@pytest.mark.parametrize("classes", [2, 300])
def test_large_cotangents_meet_small_probabilities(size, classes):
    x = torch.full((1, classes), -90.0, requires_grad=True)
    with torch.no_grad():
        x[0, 0] = 0.0
    g = torch.zeros(1, classes)
    g[0, 1] = size
    lossless.softmax(x, -1).backward(g)
    p = torch.softmax(x.double(), -1)
    true = p * (g - (p * g).sum())
    torch.testing.assert_close(x.grad.double(), true, rtol=4e-7, atol=1e-44)
