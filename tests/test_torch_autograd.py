"""What PyTorch does with a function: graphs, higher derivatives, transforms, compilers, modes. Right, or an error."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import func
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import grad, jacfwd, jacrev
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import lossless
from lossless._kernels import native
from torch_functions import FUNCTIONS, T, V, X, Y, flat, leaves, numbers, same, scalar

on_both_paths = pytest.mark.usefixtures("path")


def test_the_first_call_of_all_may_be_inside_a_transform():
    code = (
        "import torch, lossless; print(torch.func.grad(lambda x: lossless.softmax(x, -1)[0])(torch.zeros(2)).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[0.25, -0.25]\n"


@pytest.mark.parametrize("classes", [10, 40, 300])
@pytest.mark.parametrize("function", [lossless.softmax, lossless.log_softmax])
def test_saved_tensors_may_be_narrowed(function, classes):
    x = torch.randn(3, classes).bfloat16().float().requires_grad_()
    g = torch.randn(3, classes)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.bfloat16(), lambda t: t.float()):
        y = function(x, -1)
    y.backward(g)
    (expected,) = torch.autograd.grad(function(x, -1), x, g)  # of its result, kept without hooks
    rounded = 2e-7 * torch.softmax(x.detach(), -1) * g.abs().amax(-1, keepdim=True)  # what differs where slopes cancel
    assert torch.all((x.grad - expected).abs() <= 2e-6 * expected.abs() + rounded)


@pytest.mark.parametrize("classes", [47, 48, 49, 100, 127, 128, 1001, 4096, 4097])
def test_the_gradient_of_a_row_does_not_hang_on_others(classes):
    x, g = torch.randn(35, classes), torch.randn(35, classes)
    x[1::4, 2] = 40.0  # confident
    x[2::4] *= 60.0  # with probabilities that are gone
    g[5::7] = 1.5  # equal slopes
    g[3::9] *= 1e30
    x.requires_grad_()
    (together,) = torch.autograd.grad(lossless.softmax(x, -1), x, g)
    for row in range(35):
        (alone,) = torch.autograd.grad(lossless.softmax(x[row : row + 1], -1), x, g[row : row + 1])
        assert torch.equal(alone[row], together[row])


@pytest.mark.skipif(native is None, reason="the reference keeps what its operations keep")
@pytest.mark.parametrize("classes", [28, 29])
def test_softmax_of_few_classes_keeps_its_logits_alone(classes):
    x, g = torch.randn(5, classes, requires_grad=True), torch.randn(5, classes)
    y = lossless.softmax(x, -1)
    (expected,) = torch.autograd.grad(y, x, g, retain_graph=True)
    kept = y.grad_fn.saved_tensors
    assert [t.data_ptr() for t in kept] == [x.data_ptr(), y.data_ptr()][: 1 + (classes > 28)]
    with torch.no_grad():
        y.zero_()
    if classes > 28:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(y, x, g)
    else:
        assert torch.equal(torch.autograd.grad(y, x, g)[0], expected)


# ---- derivatives


@on_both_paths
@pytest.mark.parametrize("name", FUNCTIONS)
def test_first_derivatives(name):
    function, _, inputs = FUNCTIONS[name]
    assert gradcheck(function, leaves(inputs), check_forward_ad=True, check_batched_grad=True)


@on_both_paths
@pytest.mark.parametrize("name", FUNCTIONS)
def test_second_derivatives(name):
    function, _, inputs = FUNCTIONS[name]
    assert gradgradcheck(function, leaves(inputs), check_fwd_over_rev=True, check_rev_over_rev=True)


@on_both_paths
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_tangent_of_an_upstream_gradient_passes_a_graph_that_was_recorded_before(name):
    function, _, inputs = FUNCTIONS[name]
    inputs = leaves(inputs)
    y = flat(function(*inputs))
    g, direction = torch.ones_like(y), torch.linspace(-1, 1, y.numel(), dtype=y.dtype)
    expected = torch.autograd.grad(y, inputs, direction, retain_graph=True)
    with forward_ad.dual_level():
        found = torch.autograd.grad(y, inputs, forward_ad.make_dual(g, direction))
        tangents = [forward_ad.unpack_dual(dx).tangent for dx in found]
    for a, b in zip(tangents, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@on_both_paths
@pytest.mark.parametrize("name", FUNCTIONS)
def test_three_derivatives_agree_with_pytorch(name):
    ours, theirs, inputs = FUNCTIONS[name]
    chains = []
    for function in (ours, theirs):
        x, *others = leaves(inputs)
        values = [flat(function(x.sin() / 2 + 0.5, *others))]
        for _ in range(3):
            (g,) = torch.autograd.grad((values[-1] * values[-1].detach().cos()).sum(), x, create_graph=True)
            values.append(g)
        chains.append(values)
    for a, b in zip(*chains, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@on_both_paths
def test_the_second_derivative_is_accurate_where_the_first_is_tiny():
    x = torch.tensor([[20.0, 0.0]], requires_grad=True)
    (g,) = torch.autograd.grad(lossless.cross_entropy(x, torch.tensor([0])), x, create_graph=True)
    (h,) = torch.autograd.grad(g[0, 0], x)
    tail = np.exp(np.float64(-20))
    np.testing.assert_allclose(h, [[tail / (1 + tail) ** 2, -tail / (1 + tail) ** 2]], rtol=1e-7)


# ---- graphs


@on_both_paths
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_graph_may_be_kept_or_not(name):
    function, _, inputs = FUNCTIONS[name]
    x, *others = leaves(inputs)
    loss = scalar(function)(x, *others)
    first = torch.autograd.grad(loss, x, retain_graph=True)[0]
    second = torch.autograd.grad(loss, x)[0]
    assert torch.equal(first, second)
    if name not in ("mse_loss", "rmse_loss"):  # PyTorch's own nodes may keep nothing that is freed
        with pytest.raises(RuntimeError, match="second time"):
            torch.autograd.grad(loss, x)


@on_both_paths
def test_gradients_arrive_from_above_and_go_on_below():
    z = X.clone().requires_grad_()
    for ours, theirs, target in (
        (lossless.cross_entropy, F.cross_entropy, Y),
        (lossless.cross_entropy, F.cross_entropy, T),
        (lossless.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits, T),
        (lossless.mse_loss, F.mse_loss, T),
    ):
        a, b = ((loss(z.tanh().t().contiguous().t() * 3, target) ** 2 * 5).sum() for loss in (ours, theirs))
        same(torch.autograd.grad(a, z)[0], torch.autograd.grad(b, z)[0])


@on_both_paths
def test_an_expanded_gradient():
    x = X.clone().requires_grad_()
    loss = lossless.cross_entropy(x, Y, reduction="none")
    (g,) = torch.autograd.grad(loss, x, torch.tensor(2.0, dtype=torch.float64).expand(4))
    same(g, 2 * torch.autograd.grad(F.cross_entropy(x, Y, reduction="sum"), x)[0])


@on_both_paths
def test_inputs_changed_after_the_call_are_noticed():
    x = X.clone().requires_grad_()
    z = x * 1
    loss = lossless.cross_entropy(z, Y)
    z.detach().add_(1)
    z.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@on_both_paths
def test_no_graph_where_none_is_wanted():
    x = X.clone().requires_grad_()
    with torch.no_grad():
        assert not lossless.cross_entropy(x, Y).requires_grad
    with torch.inference_mode():
        assert lossless.cross_entropy(x, Y).is_inference()
    assert not lossless.cross_entropy(X, Y).requires_grad
    assert lossless.cross_entropy(torch.nn.Parameter(X), Y).requires_grad


@on_both_paths
def test_gradients_are_batched_on_request():
    x = X.clone().requires_grad_()
    for ours, theirs in ((lossless.cross_entropy, F.cross_entropy), (lossless.mse_loss, F.mse_loss)):
        target = Y if ours is lossless.cross_entropy else V
        g = numbers(5, *theirs(x, target, reduction="none").shape)
        a, b = (
            torch.autograd.grad(f(x, target, reduction="none"), x, g, is_grads_batched=True)[0] for f in (ours, theirs)
        )
        same(a, b)
    jacobian = torch.autograd.functional.jacobian(lossless.softmax, X, vectorize=True)
    same(jacobian, torch.autograd.functional.jacobian(lambda x: x.softmax(-1), X))


@on_both_paths
def test_checkpoints_and_hooks():
    x = X.clone().requires_grad_()
    expected = torch.autograd.grad(F.cross_entropy(x * 2, Y), x)[0]
    for reentrant in (False, True):
        loss = checkpoint(lambda x: lossless.cross_entropy(x * 2, Y), x, use_reentrant=reentrant)
        same(torch.autograd.grad(loss, x)[0] if not reentrant else _backward(loss, x), expected)
    with torch.autograd.graph.save_on_cpu():
        same(torch.autograd.grad(lossless.cross_entropy(x * 2, Y), x)[0], expected)


def _backward(loss, x):
    x.grad = None
    loss.backward()
    return x.grad


# ---- transforms and tracers


def test_per_sample_losses():
    ours = func.vmap(lossless.cross_entropy)(X, Y)
    same(ours, F.cross_entropy(X, Y, reduction="none"))
    same(func.vmap(lambda x, y: lossless.row_statistics(x, y).nll)(X, Y), ours)


def test_a_label_that_cannot_be_looked_at_gives_nan():
    y = torch.tensor([0, 3, 1, -1])
    loss = func.vmap(lossless.cross_entropy)(X, y)
    assert loss.isnan().tolist() == [False, True, False, True]
    assert func.vmap(lossless.nll_loss)(X, y).isnan().tolist() == [False, True, False, True]
    g = func.vmap(func.grad(lossless.cross_entropy))(X, y)
    assert g.isnan().all(1).tolist() == [False, True, False, True]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_jit_trace_records_the_operations_or_refuses():
    try:
        traced = torch.jit.trace(lambda x: lossless.softmax(x), (X,))
    except RuntimeError:
        return
    same(traced(V), V.softmax(-1))


# ---- modes and kinds of tensor


@on_both_paths
def test_dispatch_modes_see_operations():
    with FlopCounterMode(display=False):
        same(lossless.cross_entropy(X, Y), F.cross_entropy(X, Y))


@on_both_paths
def test_a_default_device_changes_nothing():
    with torch.device("meta"):
        loss = lossless.cross_entropy(X.clone().requires_grad_(), Y)
    assert loss.device.type == "cpu"


@on_both_paths
def test_subclasses_stay_themselves():
    class Labelled(torch.Tensor):
        pass

    x = X.as_subclass(Labelled)
    loss = lossless.cross_entropy(x, Y)
    assert type(loss) is Labelled
    same(loss.as_subclass(torch.Tensor), F.cross_entropy(X, Y))


@on_both_paths
def test_training_on_several_threads_at_once():
    from concurrent.futures import ThreadPoolExecutor

    def step(seed):
        x = numbers(50, 7, seed=seed).requires_grad_()
        y = torch.arange(50) % 7
        return torch.autograd.grad(lossless.cross_entropy(x, y), x)[0], torch.autograd.grad(F.cross_entropy(x, y), x)[0]

    with ThreadPoolExecutor(4) as pool:
        for a, b in pool.map(step, range(20)):
            same(a, b)


@on_both_paths
def test_large_outputs():
    x = numbers(1100, 1000).float().requires_grad_()  # past the size that asks for huge pages
    y = torch.arange(1100) % 1000
    (a,) = torch.autograd.grad(lossless.cross_entropy(x, y), x)
    (b,) = torch.autograd.grad(F.cross_entropy(x.double(), y), x)
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-12)


def test_numpy_alone_never_imports_torch():
    code = (
        "import sys, numpy as np, lossless\n"
        "lossless.cross_entropy(np.zeros((2, 3)), [0, 1]); lossless.show_config()\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    "second",
    [
        lambda f: jacfwd(jacfwd(f)),
        lambda f: jacfwd(jacrev(f)),
        lambda f: jacrev(jacfwd(f)),
        lambda f: jacfwd(jacrev(jacfwd(f))),
    ],
    ids=["forward-forward", "forward-reverse", "reverse-forward", "three"],
)
@pytest.mark.parametrize("name", ["cross_entropy", "softmax", "log_softmax", "logsumexp"])
def test_nested_forward_mode_is_never_silently_zero(name, second):
    x, y = torch.randn(3, 4, dtype=torch.float64), torch.tensor([0, 1, 3])
    functions = {
        "cross_entropy": lambda library: lambda a: library.cross_entropy(a, y),
        "softmax": lambda library: lambda a: library.softmax(a, 1).square().sum(),
        "log_softmax": lambda library: lambda a: library.log_softmax(a, 1).square().sum(),
        "logsumexp": lambda library: lambda a: library.logsumexp(a, 1).square().sum(),
    }
    theirs = torch if name == "logsumexp" else F
    torch.testing.assert_close(second(functions[name](lossless))(x), second(functions[name](theirs))(x))


def test_a_bad_label_is_found_wherever_its_numbers_are_there():
    x, bad = torch.randn(4, 3), torch.tensor([0, 1, 2, 7])
    with FlopCounterMode(display=False), pytest.raises(IndexError, match="Target 7 is out of bounds"):
        lossless.cross_entropy(x, bad)
    with pytest.raises(IndexError, match="Target 7 is out of bounds"):
        grad(lambda a: lossless.cross_entropy(a, bad))(x)


def test_mse_weight_divides_as_given_before_it_broadcasts():
    x, t, w = torch.randn(4, 1), torch.randn(4, 3), torch.rand(4, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.testing.assert_close(lossless.mse_loss(x, t, weight=w), F.mse_loss(x, t, weight=w))
