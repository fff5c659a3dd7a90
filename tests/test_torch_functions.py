"""The autograd Functions of the core (`native/functions.cpp`): what comes between their steps, what they lack."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch._dynamo import compiled_autograd

import lossless
from lossless import _kernels

if _kernels.native is None:
    pytest.skip(f"no kernels were built: {_kernels.why}", allow_module_level=True)

torch.manual_seed(0)
X = 3 * torch.randn(6, 5)
Y = torch.arange(6) % 5
T = torch.softmax(torch.randn(6, 5), 1)

LOSSES = {
    "labels": lambda x: lossless.cross_entropy(x, Y),
    "binary": lambda x: lossless.binary_cross_entropy_with_logits(x, T),
    "squared": lambda x: lossless.mse_loss(x, T),
    "entropy": lambda x: lossless.info.entropy(x, kind="logits").mean(),
}
ALL = LOSSES | {
    "softmax": lambda x: (lossless.softmax(x, 1) * T).sum(),
    "log_softmax": lambda x: (lossless.log_softmax(x, 1) * T).sum(),
    "nll": lambda x: lossless.nll_loss(x, Y),
    "sigmoid": lambda x: (lossless.sigmoid(x) * T).sum(),
}


def run(script):
    """In a process of its own."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def node(loss):
    """The Function behind a loss, past a mean or a product with something."""
    fn = loss.grad_fn
    while not hasattr(fn, "_raw_saved_tensors"):
        fn = fn.next_functions[0][0]
    return fn


@pytest.mark.parametrize("name", LOSSES)
def test_a_gradient_that_is_ready_is_handed_out_once(name):
    """Also to a backward pass that begins within another, where that looks at what was saved."""
    LOSSES[name](X.clone().requires_grad_()).backward()  # the next one expects 1
    x = X.clone().requires_grad_()
    loss, inner = LOSSES[name](x), []

    def unpack(kept):
        if not inner:
            inner.append(None)
            inner[0] = torch.autograd.grad(loss, x, retain_graph=True)[0]
        return kept

    node(loss)._raw_saved_tensors[0].register_hooks(lambda t: t.detach(), unpack)
    (outer,) = torch.autograd.grad(loss, x, retain_graph=True)
    assert torch.equal(outer, inner[0])
    assert outer.data_ptr() != inner[0].data_ptr()


@pytest.mark.parametrize("name", ALL)
def test_what_was_saved_is_unpacked_once(name):
    """It may lie on a disk."""
    counts = {"packed": 0, "unpacked": 0}

    def counted(key):
        def hook(t):
            counts[key] += 1
            return t

        return hook

    for steps in range(1, 4):
        x = X.clone().requires_grad_()
        with torch.autograd.graph.saved_tensors_hooks(counted("packed"), counted("unpacked")):
            loss = ALL[name](x)
        loss.backward()
        assert counts["packed"] == counts["unpacked"] >= steps


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, ValueError])
def test_what_a_hook_raises_arrives(name, error):
    x = X.clone().requires_grad_()
    loss = ALL[name](x)

    def unpack(kept):
        raise error

    node(loss)._raw_saved_tensors[0].register_hooks(lambda t: t.detach(), unpack)
    with pytest.raises(error):
        torch.autograd.grad(loss, x, torch.ones(3), is_grads_batched=True, retain_graph=True)
    with pytest.raises(error):
        torch.autograd.grad(loss, x)


def test_the_shape_of_log_probabilities_is_all_that_their_gradient_asks_for():
    x = X.clone().requires_grad_()
    log_p = x * 1.0
    loss = lossless.nll_loss(log_p, Y)
    log_p.untyped_storage().resize_(0)
    (g,) = torch.autograd.grad(loss, x)
    assert torch.equal(g, -torch.nn.functional.one_hot(Y, 5) / torch.tensor(6.0))


def test_nobody_else_s_tensor_decides_where_a_loss_is_written():
    """Whoever empties or converts every tensor that he finds."""
    assert (
        run("""
import gc, torch, lossless
x, y = torch.zeros(2, 4), torch.tensor([0, 1])
expected = lossless.cross_entropy(x, y).item()
for change in (lambda t: torch.empty(0), lambda t: t.double(), lambda t: t.half()):
    for dtype in (torch.float32, torch.float64):
        loss = lossless.cross_entropy(x.to(dtype), y)
        for o in gc.get_objects():
            if isinstance(o, torch.Tensor) and o is not x and o is not y:
                o.data = change(o.data)
        loss = lossless.cross_entropy(x.to(dtype), y)
        assert loss.dtype is dtype and abs(loss.item() - expected) < 1e-6, loss
print("right")
""")
        == "right"
    )


def test_without_pytorch_the_core_refuses():
    assert (
        run("""
import numpy as np
from lossless import reference
from lossless._kernels import native
from lossless._plan import plan_transform
x = np.zeros((2, 3), np.float32)
calls = (
    lambda: native.functions.softmax_forward(None, x, plan_transform("softmax", (2, 3), x.dtype, 1)),
    lambda: native.tensors.elementwise(reference.Sigmoid(), x),
    lambda: native.go_straight(len, [1], (x,), {}, False),
    lambda: native.go_straight(len, [((), ())], (x,), {}, False),
)
for call in calls:
    try:
        call()
    except (RuntimeError, SystemError, TypeError, IndexError):
        print("refused")
""").split()
        == ["refused"] * 4
    )


def test_a_second_import_leaves_the_errors_of_the_first():
    assert (
        run("""
import sys, torch, lossless as first
def forget():
    for name in [name for name in sys.modules if name.split(".")[0] == "lossless"]:
        del sys.modules[name]
forget()
import lossless as second
for ours in (first, second, first):
    try:
        ours.cross_entropy(torch.zeros(2, 3), torch.tensor([0, 3]))
    except ours.errors.LosslessError:
        print("caught")
""").split()
        == ["caught"] * 3
    )


@pytest.mark.parametrize("name", [*ALL, "statistics", "root"])
def test_compiled_autograd_reads_the_gradient(name):
    """It takes the formula, made of operations that a compiler knows."""
    others = {
        "statistics": lambda x: lossless.row_statistics(x, Y).nll.sum(),
        "root": lambda x: lossless.rmse_loss(x, T),
    }
    loss, x = (ALL | others)[name], X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(x), x)
    with compiled_autograd._enable(torch.compile(backend="eager")):
        for _ in range(2):
            x.grad = None
            loss(x).backward()
    torch.testing.assert_close(x.grad, expected)


def test_upstream_gradients_of_every_kind_are_read_alike():
    loss = lambda x: lossless.cross_entropy(x, Y, reduction="none")  # noqa: E731
    g = torch.linspace(-1, 1, 6)
    x = X.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(x), x, g)
    for kind in (torch.stack([g, g], 1)[:, 0], torch._neg_view(-g)):
        assert torch.equal(torch.autograd.grad(loss(x), x, kind)[0], expected)
    (expected,) = torch.autograd.grad(loss(x).sum(), x)
    for kind in (torch.ones(()).expand(6), torch.ones(6), torch._neg_view(-torch.ones(6))):
        for _ in range(2):  # the second time it is expected
            assert torch.equal(torch.autograd.grad(loss(x), x, kind)[0], expected)
    np.testing.assert_allclose(expected.sum(1), 0, atol=1e-6)
