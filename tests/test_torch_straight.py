"""A call like one before skips the checks, and nobody can tell but by the time."""

import _thread
import threading
import time
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, jvp, vmap
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import lossless
from lossless import losses
from lossless._diagnose import watch
from lossless._kernels import native, why

if native is None:
    pytest.skip(f"no kernels were built, and nothing goes straight to them: {why}", allow_module_level=True)

torch.manual_seed(0)
X = 3 * torch.randn(6, 5)
Y = torch.arange(6) % 5
T = torch.softmax(torch.randn(6, 5), 1)
BITS = (T > 0.2).float()

CALLS = {
    "cross_entropy": (lossless.cross_entropy, F.cross_entropy, (Y,), {}),
    "probabilities": (lossless.cross_entropy, F.cross_entropy, (T,), {}),
    "smoothing": (lossless.cross_entropy, F.cross_entropy, (Y,), {"label_smoothing": 0.1, "reduction": "sum"}),
    "binary": (lossless.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits, (BITS,), {}),
    "squared": (lossless.mse_loss, F.mse_loss, (T,), {"reduction": "none"}),
    "softmax": (lossless.softmax, F.softmax, (1,), {}),
    "log_softmax": (lossless.log_softmax, F.log_softmax, (1,), {}),
    "sigmoid": (lossless.sigmoid, torch.sigmoid, (), {}),
    "logsigmoid": (lossless.logsigmoid, F.logsigmoid, (), {}),
}


@pytest.fixture(autouse=True)
def nothing_is_looked_at(monkeypatch):
    """Calls that are looked at take the long way."""
    monkeypatch.setattr(watch, "level", "off")


@pytest.fixture
def no_plans(monkeypatch):
    """After it was called, only a straight way leads to a result."""

    def forbid():
        def plan(*args, **options):
            raise AssertionError("the long way")

        for module, name in (
            (losses, "plan_class_loss"),
            (losses, "plan_binary"),
            (losses, "plan_squared"),
            (lossless.transforms, "plan_transform"),
            (lossless.transforms, "_elementwise"),
        ):
            monkeypatch.setattr(module, name, plan)

    return forbid


@pytest.mark.parametrize("name", CALLS)
def test_the_same_form_goes_straight(name, no_plans):
    ours, theirs, rest, options = CALLS[name]
    ours(X, *rest, **options)
    no_plans()
    for x in (2 * X, X.clone().requires_grad_()):
        torch.testing.assert_close(ours(x, *rest, **options), theirs(x, *rest, **options))
    with torch.no_grad():
        assert not ours(X.clone().requires_grad_(), *rest, **options).requires_grad


@pytest.mark.parametrize("name", CALLS)
def test_gradients_are_those_of_the_long_way(name):
    ours, _, rest, options = CALLS[name]
    gradients = []
    for length in (6, 6, 6):
        x = X[:length].clone().requires_grad_()
        ours(x, *rest, **options).sum().backward()
        (second,) = torch.autograd.grad((_first(ours, x, rest, options) * T).sum(), x)
        gradients.append((x.grad, second))
    for one, other in gradients[1:]:
        assert torch.equal(one, gradients[0][0])
        assert torch.equal(other, gradients[0][1])


def _first(ours, x, rest, options):
    return torch.autograd.grad(ours(x, *rest, **options).sum(), x, create_graph=True)[0]


def long_way(call):
    with pytest.raises(AssertionError, match="the long way"):
        call()


def test_any_other_form_does_not(no_plans):
    lossless.cross_entropy(X, Y, ignore_index=1)
    lossless.mse_loss(X, T)
    lossless.softmax(X, 1)
    no_plans()
    lossless.cross_entropy(X, Y, ignore_index=1)
    for call in (
        lambda: lossless.cross_entropy(X, Y, ignore_index=True),
        lambda: lossless.cross_entropy(X, Y, ignore_index=2),
        lambda: lossless.cross_entropy(X, Y, ignore_index=1, dim=1),
        lambda: lossless.cross_entropy(X[:5], Y[:5], ignore_index=1),
        lambda: lossless.cross_entropy(X, Y.int(), ignore_index=1),
        lambda: lossless.cross_entropy(X.double(), Y, ignore_index=1),
        lambda: lossless.mse_loss(X, T.clone().requires_grad_()),
        lambda: lossless.mse_loss(X, T.t().contiguous().t()),
        lambda: lossless.mse_loss(torch._neg_view(X), T),
        lambda: lossless.mse_loss(T, X, weight=T),
        lambda: lossless.softmax(X, 0),
        lambda: lossless.softmax(X.to("meta"), 1),
        lambda: lossless.softmax(X.numpy(), 1),
    ):
        long_way(call)


@pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
def test_class_weights_go_straight_by_name_or_position(soft, no_plans):
    target, other = (T, T.roll(1, 0)) if soft else (Y, Y.roll(1, 0))
    w, changed = torch.linspace(0.5, 2.0, 5), torch.linspace(3.0, 0.25, 5)
    lossless.cross_entropy(X, target, w)
    lossless.cross_entropy(X, target, weight=w)
    lossless.cross_entropy(X, weight=w, target=target)
    if not soft:
        lossless.nll_loss(X, target, weight=w, reduction="sum")
    no_plans()
    expected = F.cross_entropy(2 * X, other, changed)
    torch.testing.assert_close(lossless.cross_entropy(2 * X, other, changed), expected)
    torch.testing.assert_close(lossless.cross_entropy(2 * X, other, weight=changed), expected)
    torch.testing.assert_close(lossless.cross_entropy(2 * X, weight=changed, target=other), expected)
    if not soft:
        sums = (f.nll_loss(X, other, weight=changed, reduction="sum") for f in (lossless, F))
        torch.testing.assert_close(*sums)
    for weight in (w.double(), w.clone().requires_grad_(), torch.ones(10)[::2]):
        long_way(lambda weight=weight: lossless.cross_entropy(X, target, weight=weight))
    long_way(lambda: lossless.cross_entropy(input=X, target=target))


def test_a_tensor_given_twice_is_no_puzzle():
    p = torch.softmax(X, 1)
    for _ in range(3):
        assert lossless.mse_loss(p, p) == 0
        assert lossless.mse_loss(p, target=p) == 0
        torch.testing.assert_close(lossless.mse_loss(p, target=p + 1), torch.tensor(1.0))
        row = p[0].contiguous()
        torch.testing.assert_close(lossless.cross_entropy(p, p, row), F.cross_entropy(p, p, row))


def test_mistakes_are_found_as_before():
    for _ in range(3):
        lossless.cross_entropy(X, Y)
        lossless.cross_entropy(X, Y, ignore_index=-100)
        with pytest.raises(IndexError, match="Target 5 is out of bounds"):
            lossless.cross_entropy(X, Y + 1)
        with pytest.raises(TypeError, match="'ignore_index' must be int, not float"):
            lossless.cross_entropy(X, Y, ignore_index=-100.0)
        with pytest.raises(ValueError, match="target must have shape"):
            lossless.cross_entropy(X, Y[:5])
        with pytest.raises(TypeError, match="all arrays of a call must be of one framework"):
            lossless.cross_entropy(X, Y.numpy())


def test_options_that_are_arrays_are_read_at_every_call():
    for smoothing in (0.0, 0.5, 0.25):
        expected = F.cross_entropy(X, Y, label_smoothing=smoothing)
        torch.testing.assert_close(lossless.cross_entropy(X, Y, label_smoothing=torch.tensor(smoothing)), expected)
    for divisor in (1.0, 4.0):
        torch.testing.assert_close(
            lossless.cross_entropy(X, Y, denominator=torch.tensor(divisor)),
            F.cross_entropy(X, Y, reduction="sum") / divisor,
        )


def test_warnings_come_at_every_call():
    for _ in range(3):
        with pytest.warns(lossless.errors.LosslessWarning, match="size_average and reduce args"):
            lossless.cross_entropy(X, Y, size_average=True)


def test_a_loss_that_is_not_finite_is_looked_at(monkeypatch):
    monkeypatch.setattr(watch, "level", "cheap")
    watch.forget()
    for i in range(400):
        x = X.clone()
        if i == 399:
            x[2, 1] = float("nan")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            lossless.cross_entropy(x, Y)
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_a_loss_that_is_never_finite_is_computed_again_a_few_times_only(monkeypatch, forward_passes):
    monkeypatch.setattr(watch, "level", "cheap")
    watch.forget()
    x = X.clone()
    x[0] = torch.nan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(200):
            lossless.cross_entropy(x, Y)
    assert 200 <= len(forward_passes) < 240


def test_an_alarm_of_another_thread_stops_nobody(monkeypatch, no_plans):
    monkeypatch.setattr(watch, "level", "cheap")
    watch.forget()
    calls = [lambda: lossless.cross_entropy(X, Y)] * 2
    for call in calls:
        call()
    for site in watch._sites.values():
        site.left = 100
    monkeypatch.setattr(watch, "alarm", -1)
    no_plans()
    calls[0]()


def test_a_thread_may_begin_with_a_call(monkeypatch):
    errors, before = [], _thread._count()
    monkeypatch.setattr(watch, "level", "cheap")
    monkeypatch.setattr("sys.unraisablehook", errors.append)
    for _ in range(3):
        lossless.cross_entropy(X, Y)
        _thread.start_new_thread(lossless.cross_entropy, (X, Y))
        while _thread._count() > before:
            time.sleep(0.001)
    assert not errors


def test_who_follows_the_operations_sees_them():
    class Functions(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    class Operations(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    class Ours(torch.Tensor):
        pass

    expected = lossless.cross_entropy(X, Y)
    seen = []
    with Functions():
        loss = lossless.cross_entropy(X, Y)
    assert torch.equal(loss, expected)
    assert seen == [lossless.cross_entropy]
    with Operations():
        torch.testing.assert_close(lossless.cross_entropy(X, Y), expected)
    assert len(seen) > 1
    assert type(lossless.cross_entropy(X.as_subclass(Ours), Y)) is Ours


def test_transforms_see_it_too():
    lossless.mse_loss(X, T)
    lossless.mse_loss(X[0], T[0])
    torch.testing.assert_close(vmap(lossless.mse_loss)(X, T), vmap(F.mse_loss)(X, T))
    torch.testing.assert_close(grad(lossless.mse_loss)(X, T), grad(F.mse_loss)(X, T))
    ours, theirs = (jvp(lambda x, f=f: f(x, T), (X,), (T,)) for f in (lossless.mse_loss, F.mse_loss))
    torch.testing.assert_close(ours, theirs)
    compiled = torch.compile(lambda x: lossless.mse_loss(x, T), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(X), F.mse_loss(X, T))


def test_autocast_is_asked_at_every_call():
    x = X.bfloat16()
    for _ in range(2):
        assert lossless.cross_entropy(x, Y).dtype is torch.bfloat16
        with torch.autocast("cpu", torch.bfloat16):
            assert lossless.cross_entropy(x, Y).dtype is torch.float32


def test_threads_share_the_ways():
    def work(rows):
        for _ in range(50):
            for n in range(1, rows):
                got.append((lossless.cross_entropy(X[:n], Y[:n]), F.cross_entropy(X[:n], Y[:n])))

    got = []
    threads = [threading.Thread(target=work, args=(rows,)) for rows in (3, 4, 5, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ours, theirs in got:
        torch.testing.assert_close(ours, theirs)


def test_few_forms_are_remembered_and_no_array(no_plans):
    long = torch.randn(60, 3)
    for n in range(1, 60):
        lossless.softmax(long[:n].clone(), 1)
    no_plans()
    lossless.softmax(long[:59].clone(), 1)
    long_way(lambda: lossless.softmax(long[:2].clone(), 1))
