"""`inplace=True`: the backward pass writes the gradient over the logits, and nobody reads a wrong number for it."""

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

import lossless
from lossless._kernels import native, why
from lossless.errors import ParameterError, TargetIndexError, UnsupportedArrayError

if native is None:
    pytest.skip(f"no kernels were built, and without them nothing is overwritten: {why}", allow_module_level=True)

LOSSES = {
    "cross_entropy": (lossless.cross_entropy, {}),
    "smoothing": (lossless.cross_entropy, {"label_smoothing": 0.1, "z_loss": 0.01, "temperature": 1.5}),
    "focal": (lossless.focal_loss, {"gamma": 1.5}),
    "binary": (lossless.binary_cross_entropy_with_logits, {}),
}
DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def logits(rows=6, classes=40, dtype=torch.float32):
    """(a parameter, what a linear layer makes of it)."""
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(rows, 8, generator=generator).to(dtype).requires_grad_()
    return hidden, torch.nn.functional.linear(hidden, torch.randn(classes, 8, generator=generator).to(dtype))


def targets(loss, x, soft):
    generator = torch.Generator().manual_seed(4)
    if soft or loss is lossless.binary_cross_entropy_with_logits:
        return torch.softmax(torch.randn(x.shape, generator=generator), 1).to(x.dtype)
    return torch.randint(x.shape[1], x.shape[:1], generator=generator)


def step(loss, options, rows, classes, dtype, soft, g=1.0):
    """(loss, the gradient over the parameter, whether the gradient over the logits came in their memory)."""
    hidden, x = logits(rows, classes, dtype)
    addresses = []
    x.register_hook(lambda dx: addresses.append(dx.data_ptr()))
    value = loss(x, targets(loss, x, soft), **options)
    before = x.detach().clone()
    assert torch.equal(x, before)
    value.backward(torch.full_like(value, g))
    return value.detach(), hidden.grad, addresses == [x.data_ptr()]


@pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_the_same_and_takes_no_memory(name, dtype, soft):
    loss, options = LOSSES[name]
    written = not (loss is lossless.focal_loss and soft)  # that is no kernel's
    for reduction in ("mean", "sum", "none"):
        for shape in ((6, 40), (40, 5), (1, 1), (33, 700)):
            given = (options | {"reduction": reduction}, *shape, dtype, soft, 0.75)
            for _ in range(3):  # the third would have found the gradient ready
                value, gradient, over = step(loss, *given)
                mine, mine_gradient, mine_over = step(loss, given[0] | {"inplace": True}, *given[1:])
                assert torch.equal(value, mine)
                assert torch.equal(gradient, mine_gradient)
                assert (over, mine_over) == (False, written)


def test_a_view_with_the_classes_last_in_memory_is_written_in_place():
    hidden, x = logits(6, 40)
    y = torch.arange(6).reshape(2, 3)
    x.register_hook(lambda dx: addresses.append(dx.data_ptr()))
    addresses = []
    lossless.cross_entropy(x.reshape(2, 3, 40).transpose(1, 2), y, inplace=True).backward()
    other, z = logits(6, 40)
    lossless.cross_entropy(z, y.flatten()).backward()
    assert torch.equal(hidden.grad, other.grad)
    assert addresses == [x.data_ptr()]


def test_nothing_is_written_before_the_backward_pass_or_without_one():
    _, x = logits()
    before = x.detach().clone()
    loss = lossless.cross_entropy(x, torch.arange(6), inplace=True)
    with torch.no_grad():
        lossless.cross_entropy(x, torch.arange(6), inplace=True)
    with pytest.raises(TargetIndexError):
        lossless.cross_entropy(x, torch.arange(6) + 40, inplace=True)
    assert torch.equal(x, before)
    loss.backward()
    assert not torch.equal(x, before)


def test_who_needs_the_logits_afterwards_is_told():
    hidden = torch.randn(6, 5, requires_grad=True)
    loss = lossless.cross_entropy(torch.tanh(hidden), torch.arange(6) % 5, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    hidden, x = logits()
    first = lossless.cross_entropy(x, torch.arange(6), inplace=True)
    second = lossless.cross_entropy(x, torch.arange(6), inplace=True)
    second.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        first.backward()


def test_the_loss_whose_backward_pass_comes_last_may_overwrite():
    hidden, x = logits()
    y = torch.arange(6)
    (lossless.cross_entropy(x, y, inplace=True) + x.square().sum()).backward()
    other, z = logits()
    (lossless.cross_entropy(z, y) + z.square().sum()).backward()
    torch.testing.assert_close(hidden.grad, other.grad)


@pytest.mark.parametrize("name", LOSSES)
def test_a_second_backward_pass_is_refused(name):
    loss, options = LOSSES[name]
    _, x = logits()
    value = loss(x, targets(loss, x, False), **options, inplace=True)
    value.backward(retain_graph=True)
    gradient = x.detach().clone()
    with pytest.raises(RuntimeError, match="has written the gradient over the logits, as inplace=True allows"):
        value.backward()
    assert torch.equal(x, gradient)


@pytest.mark.parametrize("of", [lambda x: x, lambda x: x.view(5, 6), lambda x: x[:2]], ids=["leaf", "view", "part"])
@pytest.mark.parametrize("name", LOSSES)
def test_a_leaf_is_refused(name, of):
    loss, options = LOSSES[name]
    x = of(torch.randn(6, 5, requires_grad=True))
    with pytest.raises(ParameterError, match="inplace=True would write the gradient over the numbers of a leaf"):
        loss(x, targets(loss, x, False), **options, inplace=True)
    with torch.no_grad():
        assert loss(x, targets(loss, x, False), **options, inplace=True).isfinite()
    array = torch.randn(6, 5)
    with pytest.raises(ParameterError, match="of a leaf"):
        lossless.value_and_grad(loss)(array, targets(loss, array, False), inplace=True)


@pytest.mark.parametrize("name", LOSSES)
def test_second_derivatives_leave_the_logits(name):
    loss, options = LOSSES[name]
    found = []
    for inplace in (False, True):
        hidden, x = logits(dtype=torch.float64)
        before = x.detach().clone()
        value = loss(x, targets(loss, x, False), **options, inplace=inplace)
        (dx,) = torch.autograd.grad(value, x, create_graph=True)
        assert torch.equal(x, before)
        found.append(torch.autograd.grad(dx.square().sum(), hidden)[0])
    assert torch.equal(*found)


def test_checkpoints_leave_the_logits():
    gradients = []
    for inplace in (False, True):
        hidden, _ = logits()
        weight = torch.linspace(-1, 1, 320).reshape(40, 8)

        def part(h, weight=weight, inplace=inplace):
            return lossless.cross_entropy(torch.nn.functional.linear(h, weight), torch.arange(6), inplace=inplace)

        loss = checkpoint(part, hidden, use_reentrant=False)
        loss.backward(retain_graph=True)
        loss.backward()
        gradients.append(hidden.grad)
    assert torch.equal(*gradients)


def test_transforms_and_compilers_leave_the_logits():
    x, y = torch.randn(6, 5), torch.arange(6) % 5

    def loss(x, inplace):
        return lossless.cross_entropy(1.0 * x, y, inplace=inplace)

    assert torch.equal(*(torch.func.grad(loss)(x, inplace) for inplace in (False, True)))
    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    gradients = []
    for inplace in (False, True):
        leaf = x.clone().requires_grad_()
        compiled(leaf, inplace).backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


def test_a_batch_of_gradients_leaves_the_logits():
    found = []
    for inplace in (False, True):
        hidden, x = logits()
        loss = lossless.cross_entropy(x, torch.arange(6), reduction="none", inplace=inplace)
        found.append(torch.autograd.grad(loss, hidden, torch.eye(6), is_grads_batched=True)[0])
    assert torch.equal(*found)


def test_numpy_is_left_alone():
    x, y = np.random.default_rng(0).normal(size=(6, 5)), np.arange(6) % 5
    before = x.copy()
    value, gradient = lossless.value_and_grad(lossless.cross_entropy)(x, y, inplace=True)
    plain, plain_gradient = lossless.value_and_grad(lossless.cross_entropy)(x, y)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(gradient, plain_gradient)
    assert value == plain


def test_the_option_is_a_flag():
    with pytest.raises(UnsupportedArrayError, match="argument 'inplace' must be bool, not str"):
        lossless.cross_entropy(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64), inplace="yes")


@pytest.mark.parametrize("module", ["CrossEntropyLoss", "FocalLoss", "BCEWithLogitsLoss"])
def test_modules_have_it(module):
    criterion = getattr(lossless.nn, module)(inplace=True)
    assert "inplace=True" in repr(criterion)
    _, x = logits()
    y = targets(lossless.binary_cross_entropy_with_logits, x, True) if module[0] == "B" else torch.arange(6)
    criterion(x, y).backward()
    assert x._version == 1
