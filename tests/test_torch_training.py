"""What training loops do around a loss: the same steps as with PyTorch's, and one mean however a batch is cut."""

import copy
import inspect
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

import lossless
from lossless import nn

HERE = Path(__file__)


def numbers(*shape, seed=0):
    return torch.tensor(np.random.default_rng([seed, *shape]).normal(size=shape), dtype=torch.float32)


X, Y = numbers(16, 5), torch.arange(16) % 5
T = numbers(16, 5, seed=1).sigmoid()
BITS = (T > 0.5).float()

# name: (ours, PyTorch's), losses of scores of shape (16, 5)
LOSSES = {
    "cross_entropy": (lambda x: lossless.cross_entropy(x, Y), lambda x: F.cross_entropy(x, Y)),
    "soft targets": (
        lambda x: lossless.cross_entropy(x, T.softmax(1), label_smoothing=0.1),
        lambda x: F.cross_entropy(x, T.softmax(1), label_smoothing=0.1),
    ),
    "nll_loss": (
        lambda x: lossless.nll_loss(lossless.log_softmax(x, 1), Y),
        lambda x: F.nll_loss(F.log_softmax(x, 1), Y),
    ),
    "binary_cross_entropy_with_logits": (
        lambda x: lossless.binary_cross_entropy_with_logits(x, BITS),
        lambda x: F.binary_cross_entropy_with_logits(x, BITS),
    ),
    "mse_loss": (lambda x: lossless.mse_loss(x, T), lambda x: F.mse_loss(x, T)),
    "kl_div": (
        lambda x: lossless.kl_div(lossless.log_softmax(x, 1), T.softmax(1), reduction="batchmean"),
        lambda x: F.kl_div(F.log_softmax(x, 1), T.softmax(1), reduction="batchmean"),
    ),
}


def model(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(8, 12), torch.nn.Tanh(), torch.nn.Linear(12, 5))


INPUTS = numbers(16, 8)

# ---- steps


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("name", LOSSES)
def test_a_few_steps(name, optimizer, path):
    trained = []
    for loss in LOSSES[name]:
        m = model()
        steps = optimizer(m.parameters(), lr=0.05)
        for _ in range(5):
            steps.zero_grad()
            loss(m(INPUTS)).backward()
            steps.step()
        trained.append(torch.nn.utils.parameters_to_vector(m.parameters()))
    torch.testing.assert_close(*trained, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LOSSES)
def test_steps_under_autocast(name, dtype):
    grads = []
    for loss in LOSSES[name]:
        m = model()
        with torch.autocast("cpu", dtype=dtype):
            scores = m(INPUTS)
            value = loss(scores)
        assert scores.dtype is dtype
        assert value.dtype is torch.float32
        value.backward()
        grads.append(torch.nn.utils.parameters_to_vector([p.grad for p in m.parameters()]))
    torch.testing.assert_close(*grads, rtol=0.02, atol=0.02 * grads[1].abs().max().item())


# what autocast leaves in a narrow dtype or widens, and what stays float64
AUTOCAST = {
    "softmax": (lossless.softmax, torch.softmax, ()),
    "log_softmax": (lossless.log_softmax, torch.log_softmax, ()),
    "logsumexp": (lossless.logsumexp, torch.logsumexp, ()),
    "cross_entropy": (lossless.cross_entropy, F.cross_entropy, (Y,)),
    "soft targets": (lossless.cross_entropy, F.cross_entropy, (T,)),
    "nll_loss": (lossless.nll_loss, F.nll_loss, (Y,)),
    "mse_loss": (lossless.mse_loss, F.mse_loss, (T,)),
    "mse_loss of whole numbers": (lossless.mse_loss, F.mse_loss, (BITS.long(),)),
    "kl_div": (lossless.kl_div, F.kl_div, (T,)),
    "binary_cross_entropy_with_logits": (
        lossless.binary_cross_entropy_with_logits,
        F.binary_cross_entropy_with_logits,
        (T,),
    ),
}


@pytest.mark.filterwarnings("ignore:reduction")
@pytest.mark.parametrize("name", AUTOCAST)
def test_dtypes_under_autocast(name):
    ours, theirs, rest = AUTOCAST[name]
    rest = rest or (1,)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype=dtype):
            for x in (X, X.bfloat16(), X.half(), X.double()):
                halves = [[a.to(t) if isinstance(a, torch.Tensor) and a.is_floating_point() else a for a in rest]
                          for t in (torch.float32, dtype, torch.float64)]  # fmt: skip
                for others in halves:
                    if name.startswith("binary") and others[0].dtype.itemsize < x.dtype.itemsize == 8:
                        continue  # PyTorch's result has the dtype of the target, ours the wider one
                    assert ours(x, *others).dtype is theirs(x, *others).dtype, (x.dtype, others[0])


@pytest.mark.parametrize("name", LOSSES)
def test_a_gradient_scaler_scales_and_skips(name):
    trained = []
    for loss in LOSSES[name]:
        m, scaler = model(), torch.amp.GradScaler("cpu", init_scale=2.0**12, growth_interval=2)
        steps = torch.optim.SGD(m.parameters(), lr=0.1)
        for factor in (1.0, torch.inf, 1.0):  # the second step overflows
            steps.zero_grad()
            scaler.scale(loss(m(INPUTS)) * factor).backward()
            scaler.step(steps)
            scaler.update()
        assert scaler.get_scale() == 2.0**11
        trained.append(torch.nn.utils.parameters_to_vector(m.parameters()))
    torch.testing.assert_close(*trained, rtol=1e-4, atol=1e-5)


def test_deterministic_algorithms():
    torch.use_deterministic_algorithms(True)
    try:
        for ours, theirs in LOSSES.values():
            a, b = (torch.autograd.grad(f(x), x)[0] for f in (ours, theirs) for x in [X.clone().requires_grad_()])
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    finally:
        torch.use_deterministic_algorithms(False)


def test_gradients_have_the_strides_of_their_leaves():
    image = numbers(2, 3, 4, 5).to(memory_format=torch.channels_last).requires_grad_()
    column = numbers(3, 4).t().requires_grad_()
    shared = numbers(1, 3).requires_grad_()
    lossless.cross_entropy(image, torch.zeros(2, 4, 5, dtype=torch.long)).backward()
    lossless.cross_entropy(column, Y[:4] % 3).backward()
    lossless.cross_entropy(shared.expand(4, 3), Y[:4] % 3).backward()
    assert image.grad.stride() == image.stride()
    assert column.grad.stride() == column.stride()
    torch.testing.assert_close(
        shared.grad, torch.autograd.grad(F.cross_entropy(shared.expand(4, 3), Y[:4] % 3), shared)[0]
    )


# ---- one mean, however the batch is cut

WEIGHT = torch.tensor([0.5, 1.0, 2.0, 0.1, 3.0])
MARKED = torch.where(torch.arange(16) % 4 == 1, -100, Y)
MARKED[5:8] = -100  # of which one part below has nothing left
PARTS = (slice(0, 5), slice(5, 8), slice(8, 15), slice(15, 16))


def gradient(loss):
    x = X.clone().double().requires_grad_()
    loss(x)
    return x.grad


def accumulated(loss):
    """The gradient, a part at a time."""

    def parts(x):
        for part in PARTS:
            loss(x[part], part).backward()

    return gradient(parts)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_parts_of_unequal_size_add_up_to_the_batch(smoothing, path):
    whole = gradient(lambda x: F.cross_entropy(x, MARKED, WEIGHT.double(), label_smoothing=smoothing).backward())
    total = WEIGHT[MARKED[MARKED != -100]].sum()
    parts = accumulated(
        lambda x, part: lossless.cross_entropy(x, MARKED[part], WEIGHT, label_smoothing=smoothing, denominator=total)
    )
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-8)
    criterion = nn.CrossEntropyLoss(WEIGHT, label_smoothing=smoothing, denominator=total)
    torch.testing.assert_close(accumulated(lambda x, part: criterion(x, MARKED[part])), parts, rtol=0, atol=0)


def test_parts_of_a_batch_whose_samples_weigh(path):
    s = numbers(16, seed=3).exp()
    whole = gradient(lambda x: lossless.cross_entropy(x, MARKED, sample_weight=s).backward())
    total = s[MARKED != -100].sum()
    parts = accumulated(
        lambda x, part: lossless.cross_entropy(x, MARKED[part], sample_weight=s[part], denominator=total)
    )
    torch.testing.assert_close(parts, whole, rtol=1e-6, atol=1e-8)


def test_parts_of_binary_targets(path):
    bits = torch.where(T > 0.8, -1.0, BITS).double()
    options = {"ignore_index": -1, "pos_weight": WEIGHT.double()}
    whole = gradient(lambda x: lossless.binary_cross_entropy_with_logits(x, bits, **options).backward())
    total = (bits != -1).sum()
    parts = accumulated(
        lambda x, part: lossless.binary_cross_entropy_with_logits(x, bits[part], **options, denominator=total)
    )
    torch.testing.assert_close(parts, whole, rtol=1e-9, atol=1e-12)


RANK = """
import os
import sys
from datetime import timedelta
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
import lossless
sys.path.insert(0, sys.argv[4])
from test_torch_training import INPUTS, MARKED, WEIGHT, F, copy, model

rank, world = int(sys.argv[1]), int(sys.argv[2])
dist.init_process_group("gloo", init_method="file://" + sys.argv[3], rank=rank, world_size=world,
                        timeout=timedelta(seconds=30))
part = slice(0, 9) if rank == 0 else slice(9, 16)
alone = model()
shared = DistributedDataParallel(copy.deepcopy(alone))
labels = MARKED[part]
total = WEIGHT[labels[labels != -100]].sum()
dist.all_reduce(total)
loss = lossless.cross_entropy(shared(INPUTS[part]), labels, WEIGHT, denominator=total / world)
loss.backward()
F.cross_entropy(alone(INPUTS), MARKED, WEIGHT).backward()
for a, b in zip(shared.parameters(), alone.parameters(), strict=True):
    torch.testing.assert_close(a.grad, b.grad, rtol=1e-5, atol=1e-7)
value = loss.detach() / world
dist.all_reduce(value)
torch.testing.assert_close(value, F.cross_entropy(alone(INPUTS), MARKED, WEIGHT).detach())
dist.destroy_process_group()
os._exit(0)  # threads of gloo may outlive the group, and abort an interpreter that is on its way out (pytorch#179291)
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this PyTorch has no torch.distributed")
def test_ranks_of_unequal_size_average_to_the_batch(tmp_path):
    environment = {**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), "2", str(tmp_path / "store"), str(HERE.parent)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    try:
        for process in ranks:
            said, _ = process.communicate(timeout=90)
            assert process.returncode == 0, said
    finally:
        for process in ranks:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()


# ---- workers


class Losses(torch.utils.data.Dataset):
    """Of rows, computed where they are loaded."""

    def __init__(self):
        self.x, self.y = numbers(400, 1000), torch.arange(400) % 1000

    def __len__(self):
        return 4

    def __getitem__(self, i):
        rows = slice(100 * i, 100 * i + 100)
        x = self.x[rows].clone().requires_grad_()
        loss = lossless.cross_entropy(x, self.y[rows])
        (g,) = torch.autograd.grad(loss, x)
        return loss.detach(), g, torch.tensor(lossless.cross_entropy(self.x[rows].numpy(), self.y[rows].numpy()))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_workers_forked_from_a_parent_with_threads():
    data = Losses()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        x = data.x.clone().requires_grad_()
        lossless.cross_entropy(x, data.y).backward()
        lossless.cross_entropy(data.x.numpy(), data.y.numpy())
        here = [data[i] for i in range(4)]
        loader = torch.utils.data.DataLoader(
            data, batch_size=None, num_workers=2, timeout=30, multiprocessing_context="fork"
        )
        for there, expected in zip(loader, here, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(there, expected, strict=True))
    finally:
        torch.set_num_threads(threads)


# ---- objects and modes with functions of their own


class Foreign:
    """Not a tensor, but asked what a function of it is."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        return function, types, args, kwargs or {}


def functions():
    from lossless import info, losses, statistics, transforms

    for module in (losses, statistics, transforms, info):
        for name, function in vars(module).items():
            if inspect.isfunction(function) and function.__module__ == module.__name__ and not name.startswith("_"):
                yield pytest.param(function, id=f"{module.__name__.removeprefix('lossless.')}.{name}")


@pytest.mark.parametrize("function", list(functions()))
def test_an_object_may_have_its_own_version_of_a_function(function):
    parameters = list(inspect.signature(function).parameters.values())
    required = [p.name for p in parameters if p.default is p.empty]
    for odd in required:
        given = {name: Foreign() if name == odd else X for name in required}
        found, types, args, options = function(**given)
        assert found is function
        assert Foreign in types
        assert all(a is b for a, b in zip(args, given.values(), strict=True))
        assert options == {p.name: p.default for p in parameters if p.default is not p.empty}


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("cross_entropy", {"weight": WEIGHT, "label_smoothing": 0.1}),
        ("nll_loss", {"ignore_index": 3}),
        ("binary_cross_entropy", {"reduction": "sum"}),
        ("binary_cross_entropy_with_logits", {"pos_weight": WEIGHT}),
        ("kl_div", {"log_target": True}),
        ("mse_loss", {}),
    ],
)
def test_it_is_called_as_by_pytorch(name, given):
    x = Foreign()
    _, types, args, options = getattr(lossless, name)(x, Y, **given)
    _, their_types, their_args, theirs = getattr(F, name)(x, Y, **given)
    assert (set(types), args) == (set(their_types), their_args)
    assert theirs.items() <= options.items()


def test_an_object_in_any_place():
    assert lossless.cross_entropy(X, Y, Foreign())[0] is lossless.cross_entropy
    assert lossless.cross_entropy(X, Y, sample_weight=Foreign())[0] is lossless.cross_entropy
    assert nn.BCEWithLogitsLoss()(X, Foreign())[0] is lossless.binary_cross_entropy_with_logits


def test_a_subclass_with_a_function_of_its_own():
    seen = []

    class Watched(torch.Tensor):
        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            seen.append(function)
            return super().__torch_function__(function, types, args, kwargs or {})

    x = torch.tensor([[20.0, 0.0]]).as_subclass(Watched)
    loss = lossless.cross_entropy(x, torch.tensor([0]))
    assert seen[0] is lossless.cross_entropy
    assert type(loss) is Watched
    assert loss.as_subclass(torch.Tensor).item() == np.float32(2.0611537e-09)


def test_a_mode_sees_our_functions():
    class Seen(TorchFunctionMode):
        def __init__(self):
            super().__init__()
            self.functions = []

        def __torch_function__(self, function, types, args=(), kwargs=None):
            self.functions.append(function)
            return function(*args, **(kwargs or {}))

    with Seen() as seen:
        loss = lossless.cross_entropy(X, Y)
    assert seen.functions[0] is lossless.cross_entropy
    assert torch.equal(loss, lossless.cross_entropy(X, Y))


def test_models_with_losses_are_copied():
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.criterion = model(), nn.CrossEntropyLoss(WEIGHT, denominator=torch.tensor(16.0))

        def forward(self, x, y):
            return self.criterion(self.body(x), y)

    one = Model()
    other = copy.deepcopy(one).double()
    assert other.criterion.denominator.dtype is torch.float64
    torch.testing.assert_close(other(INPUTS.double(), Y), one(INPUTS, Y).double(), rtol=1e-5, atol=1e-6)
