"""What the core asks PyTorch's libraries is what PyTorch's functions answer, and it does without them."""

import subprocess
import sys
import threading
import warnings
from contextlib import nullcontext

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import BaseTorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import lossless
from lossless._kernels import native, why

if native is None:
    pytest.skip(f"no kernels were built, and nothing is asked: {why}", allow_module_level=True)

from lossless._torch.modes import watched

linux = pytest.mark.skipif(sys.platform != "linux", reason="the keys of a thread are found on Linux alone")


def both():
    """What the keys say, and what the functions."""
    return native.has_usual_keys(), watched()


class Looking(TorchDispatchMode):
    def __init__(self, seen):
        super().__init__()
        self.seen = seen

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.seen.append(both())  # the mode itself does not see this
        return operation(*args, **(kwargs or {}))


class Squared(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        SEEN.append(both())
        return x * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, g):
        SEEN.append(both())
        return 2 * g * ctx.saved_tensors[0]

    @staticmethod
    def jvp(ctx, d):
        return d


SEEN = []


def look(x):
    SEEN.append(both())
    return Squared.apply(x).sum()


def under_a_mode(x):
    with Looking(SEEN):
        look(x)


def traced(x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(look, x)


STATES = {
    "vmap": lambda x: torch.vmap(look)(x),
    "grad": lambda x: torch.func.grad(look)(x),
    "grad of grad": lambda x: torch.func.grad(lambda y: torch.func.grad(look)(y).sum())(x),
    "vmap of grad": lambda x: torch.vmap(torch.func.grad(look))(x),
    "jvp": lambda x: torch.func.jvp(lambda y: SEEN.append(both()) or torch.sin(y), (x,), (x,)),
    "functionalize": lambda x: torch.func.functionalize(lambda y: SEEN.append(both()) or y + 1)(x),
    "a dispatch mode": under_a_mode,
    "fake tensors": lambda x: make_fx(look, tracing_mode="fake")(x),
    "proxies": lambda x: make_fx(look)(x),
    "a tracer": traced,
    "backward": lambda x: look(x.clone().requires_grad_()).backward(),
    "create_graph": lambda x: torch.autograd.grad(look(y := x.clone().requires_grad_()), y, create_graph=True),
}
CONTEXTS = {
    "nothing": nullcontext,
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "a function mode": BaseTorchFunctionMode,
    "a device": lambda: torch.device("meta"),
    "saved on the CPU": torch.autograd.graph.save_on_cpu,
}


@pytest.mark.parametrize("state", STATES)
def test_keys_are_usual_only_where_nothing_follows(state):
    SEEN.clear()
    STATES[state](torch.arange(6.0).reshape(2, 3))
    assert SEEN
    assert not any(usual and follows for usual, follows in SEEN)
    assert not watched()


@linux
@pytest.mark.parametrize("context", CONTEXTS)
def test_keys_of_contexts(context):
    with CONTEXTS[context]():
        assert both() == (context not in ("inference_mode", "autocast"), False)


@pytest.mark.parametrize("context", CONTEXTS)
def test_results_in_contexts(context):
    x = torch.randn(3, 4)
    expected = lossless.softmax(x, -1)
    for _ in range(2):
        with CONTEXTS[context]():
            y = lossless.softmax(x, -1)
        assert (y.device, y.dtype) == (x.device, x.dtype)
        assert torch.equal(y, expected)
        assert y.is_inference() == (context == "inference_mode")


@linux
def test_each_thread_has_keys_of_its_own():
    seen = []
    with Looking([]):
        thread = threading.Thread(target=lambda: seen.append(both()))
        thread.start()
        thread.join()
        seen.append(both())
    seen.append(both())
    assert seen == [(True, False), (False, True), (True, False)]


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (0, 0, 3), (2, 0, 3), (4, 5), (1, 2, 1, 2, 1, 2, 1, 2, 3)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_results_are_tensors_like_others(dtype, shape):
    x = torch.zeros(shape, dtype=dtype)
    like, y = torch.empty_like(x), lossless.softmax(x, -1)
    for tensor in (y, lossless.softmax(x, -1)):  # the second goes straight
        assert (tensor.dtype, tensor.shape, tensor.stride()) == (dtype, x.shape, like.stride())
        assert (tensor.device, tensor.requires_grad, tensor.is_leaf) == (like.device, False, True)
        assert tensor.untyped_storage().nbytes() == like.untyped_storage().nbytes()
        assert tensor.untyped_storage().resizable()
        counts = [torch._C._storage_Use_Count(t.untyped_storage()._cdata) for t in (tensor, like)]
        assert counts[0] == counts[1]


CALLS = """
x = torch.tensor([[1.0, 2.0, 4.0], [0.5, 0.25, 0.0]], requires_grad=True)
y = torch.tensor([0, 1])
found = []
for function, *options in ((lossless.softmax, -1), (lossless.cross_entropy, y), (lossless.mse_loss, torch.zeros(2, 3))):
    for _ in range(3):
        result = function(x, *options)
        found += [*result.detach().flatten().tolist(), *torch.autograd.grad(result.sum(), x)[0].flatten().tolist()]
    with torch.no_grad():
        found += function(x, *options).flatten().tolist()
found += torch.vmap(lambda row: lossless.softmax(row, -1))(x).flatten().tolist()
print(found)
"""
LACKING = {
    "all": "",
    "libraries": "import ctypes\ndef missing(*_, **__): raise OSError\nctypes.CDLL = missing",
    "a tracer to try": "del torch._C._create_graph_by_tracing",
    "keys": "f = torch._C._functorch; f._grad_increment_nesting = f._grad_decrement_nesting = int",
}


def output_without(what):
    code = f"import torch\n{LACKING[what]}\nimport lossless{CALLS}from lossless._kernels import native\n"
    code += "print(native.has_usual_keys())"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


@linux
def test_the_core_does_without():
    found, usual = output_without("all")
    assert usual == "True"
    for what in list(LACKING)[1:]:
        assert output_without(what) == [found, "False"]
