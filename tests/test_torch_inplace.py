"""`inplace=True`: the backward pass writes the gradient over the logits, and nobody reads a wrong number for it."""

import threading

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

import lossless
from lossless._kernels import native, why
from lossless._torch import kernels
from lossless.errors import TargetIndexError, UnsupportedArrayError

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
    _, x = logits()
    first = lossless.cross_entropy(x, torch.arange(6), inplace=True)
    second = lossless.cross_entropy(x, torch.arange(6), inplace=True)
    others = x.square().sum()
    second.backward(retain_graph=True)
    for loss in (first, others):
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward(retain_graph=True)


class Detached(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.detach()

    @staticmethod
    def backward(ctx, g):
        return g


def in_compiled(h):
    """Logits of a compiled model, which saved them where no version is counted."""
    made = torch.compile(lambda h: (h @ WEIGHT).tanh().view(-1, 5), backend="aot_eager")
    return made(h)


WEIGHT = torch.linspace(-1, 1, 25).reshape(5, 5)
NOT_GIVEN_UP = {
    "leaf": lambda h: h,
    "view of a leaf": lambda h: h.view(3, 10).view(6, 5),
    "part of a leaf": lambda h: h[:6],
    "leaf on a tensor without gradient": lambda h: h.detach()[:6].requires_grad_(),
    "tanh": torch.tanh,
    "view of tanh": lambda h: torch.tanh(h).view(3, 10).view(6, 5),
    "softmax": lambda h: h.softmax(1),
    "compiled": in_compiled,
    "Function": Detached.apply,
    "unsafe view of a leaf": lambda h: torch.ops.aten._unsafe_view(h, [6, 5]),
    "dropout of nothing": lambda h: torch.nn.functional.dropout(h, 0.0),
}


@pytest.mark.parametrize("make", NOT_GIVEN_UP.values(), ids=NOT_GIVEN_UP)
def test_what_autograd_does_not_vouch_for_is_left_alone(make):
    for name in ("cross_entropy", "binary"):
        loss, options = LOSSES[name]
        gradients = []
        for inplace in (False, True):
            h = torch.linspace(-2, 2, 30).reshape(6, 5).requires_grad_()
            x = make(h)
            before = x.detach().clone()
            loss(x, targets(loss, x, False), **options, inplace=inplace).backward()
            assert torch.equal(x, before)
            gradients.append(x.grad if x.is_leaf else h.grad)
        assert torch.equal(*gradients)


MADE = {
    "linear": lambda h: torch.nn.functional.linear(h, WEIGHT),
    "linear with bias, of sequences": lambda h: torch.nn.functional.linear(h.view(2, 3, 5), WEIGHT, WEIGHT[0]).view(
        -1, 5
    ),
    "product of sequences": lambda h: (h.view(2, 3, 5) @ WEIGHT).view(6, 5),
    "sum": lambda h: h + 1.0,
    "cast": lambda h: h.double(),
    "shifted": lambda h: torch.nn.functional.linear(h, WEIGHT)[1:].contiguous(),
    "convolution": lambda h: torch.nn.functional.conv1d(h.t()[None], WEIGHT[:, :, None])[0].t().contiguous(),
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_what_layers_make_is_written_over(make):
    gradients = []
    for inplace in (False, True):
        h = torch.linspace(-2, 2, 30).reshape(6, 5).requires_grad_()
        x = make(h)
        before = x.detach().clone()
        lossless.cross_entropy(x, torch.arange(len(x)) % 5, inplace=inplace).backward()
        assert torch.equal(x, before) != inplace
        gradients.append(h.grad)
    assert torch.equal(*gradients)


def test_what_overlaps_the_logits_is_not_overwritten():
    def upstream(x, inplace):
        loss = lossless.cross_entropy(x, torch.arange(6), reduction="none", inplace=inplace)
        return loss, x.detach().view(-1)[:6]

    def probabilities(x, inplace):
        t = x.detach().view(-1)[:200].view(5, 40)
        return lossless.cross_entropy(x[1:], t, inplace=inplace), None

    def weights(x, inplace):
        t, w = torch.full((5, 40), 0.25), x.detach()[:-1]
        return lossless.binary_cross_entropy_with_logits(x[1:], t, w, inplace=inplace), None

    for call in (upstream, probabilities, weights):
        gradients = []
        for inplace in (False, True):
            hidden, x = logits()
            loss, g = call(x, inplace)
            loss.backward(g)
            gradients.append(hidden.grad)
        assert torch.equal(*gradients)


def test_an_interrupted_backward_pass_leaves_no_logits_to_read(monkeypatch):
    def interrupted(*args):
        args[-1].zero_()
        raise KeyboardInterrupt

    _, x = logits()
    loss = lossless.cross_entropy(x, torch.arange(6), inplace=True)
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "class_loss_backward", interrupted)
        with pytest.raises(KeyboardInterrupt):
            loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="as inplace=True allows"):
        loss.backward()


def test_of_backward_passes_at_once_one_overwrites():
    y = torch.arange(600) % 40
    for _ in range(20):
        hidden, x = logits(rows=600)
        losses = [lossless.cross_entropy(x, y, inplace=True) for _ in range(2)]
        found = []

        def work(loss, hidden=hidden, found=found):
            try:
                found.append(torch.autograd.grad(loss, hidden, retain_graph=True)[0])
            except RuntimeError as error:
                found.append(str(error))

        threads = [threading.Thread(target=work, args=(loss,)) for loss in losses]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        refused, gradient = sorted(found, key=torch.is_tensor)
        assert "modified by an inplace operation" in refused
        other, z = logits(rows=600)
        assert torch.equal(gradient, torch.autograd.grad(lossless.cross_entropy(z, y), other)[0])


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
    criterion = torch.compile(lossless.nn.CrossEntropyLoss(inplace=True), backend="aot_eager", fullgraph=True)
    hidden, made = logits(6, 5)
    criterion(made.view(2, 3, 5).view(-1, 5), y).backward()
    other, z = logits(6, 5)
    assert torch.equal(hidden.grad, torch.autograd.grad(lossless.cross_entropy(z, y), other)[0])
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
