"""The kernels as operators of a compiler's graph: what PyTorch asks of an operator, and what its users see."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import lossless
import lossless._torch.backend  # where the operators are registered
from lossless import _kernels
from torch_functions import BITS, FUNCTIONS, IMAGE, PIXELS, P, T, V, W, X, Y, same

TWO = torch.tensor(2.0, dtype=torch.float64)
needs_kernels = pytest.mark.skipif(_kernels.native is None, reason=f"no compiled kernels: {_kernels.why}")


def graph_of(function, *inputs):
    """The operators that a compiler records for a call, forward and backward."""
    seen = []

    def backend(graph, _):
        seen.extend(str(node.target) for node in graph.graph.nodes if node.op == "call_function")
        return graph

    torch.compiler.reset()
    torch.compile(function, backend=backend, fullgraph=True)(*inputs)
    return seen


# What is served by kernels in eager mode, and with which arguments.
CALLS = {
    "softmax": lambda x: lossless.softmax(x, 0),
    "softmax, temperature": lambda x: lossless.softmax(x, 1, temperature=3.0),
    "log_softmax": lossless.log_softmax,
    "log_softmax, temperature": lambda x: lossless.log_softmax(x, 1, temperature=0.4),
    "sigmoid": lossless.sigmoid,
    "logsigmoid": lossless.logsigmoid,
    "logsumexp": lossless.logsumexp,
    "cross_entropy": lambda x: lossless.cross_entropy(x, Y, W, ignore_index=2, label_smoothing=0.1),
    "cross_entropy, none": lambda x: lossless.cross_entropy(x, Y, reduction="none"),
    "cross_entropy, soft": lambda x: lossless.cross_entropy(x, T),
    "cross_entropy, temperature": lambda x: lossless.cross_entropy(x, Y, z_loss=0.1, temperature=2.0),
    "cross_entropy, link": lambda x: lossless.cross_entropy(x, Y, z_loss=0.1, sample_weight=V[:, 0].exp()),
    "focal_loss": lambda x: lossless.focal_loss(x, Y, weight=W, gamma=1.5),
    "focal_loss, link": lambda x: lossless.focal_loss(x, Y, alpha=P),
    "nll_loss": lambda x: lossless.nll_loss(x, Y, W, ignore_index=2),
    "nll_loss, none": lambda x: lossless.nll_loss(x, Y, reduction="none"),
    "row_statistics": lambda x: lossless.row_statistics(x, Y, prior=P).nll,
    "row_statistics, temperature": lambda x: lossless.row_statistics(x, Y, temperature=0.5).entropy,
    "entropy": lambda x: lossless.info.entropy(x, kind="logits"),
    "binary_cross_entropy_with_logits": lambda x: lossless.binary_cross_entropy_with_logits(x, BITS, W, pos_weight=P),
    "mse_loss": lambda x: lossless.mse_loss(x, V),
    "mse_loss, none": lambda x: lossless.mse_loss(x, V, reduction="none"),
    "rmse_loss": lambda x: lossless.rmse_loss(x, V),
    "sigmoid_focal_loss": lambda x: lossless.sigmoid_focal_loss(x, BITS, 0.3, 1.5),
    "kl_div": lambda x: lossless.kl_div(x, T, reduction="batchmean"),
}


@needs_kernels
@pytest.mark.parametrize("name", CALLS)
def test_compiled_code_has_the_bits_of_eager_mode(name):
    function, x = CALLS[name], X.float().requires_grad_()
    to_float = {k: v.float() for k, v in globals().items() if isinstance(v, torch.Tensor) and v.is_floating_point()}
    with pytest.MonkeyPatch.context() as patch:
        for k, v in to_float.items():
            patch.setitem(globals(), k, v)
        assert any("lossless" in op for op in graph_of(function, x))
        values = [function(x), torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=True)(x)]
    gradients = [torch.autograd.grad(v, x, torch.ones_like(v))[0] for v in values]
    if "link" not in name:  # their last steps are the compiler's
        assert torch.equal(*values)
        assert torch.equal(*gradients)
    torch.testing.assert_close(*values, rtol=1e-6, atol=0)
    torch.testing.assert_close(*gradients, rtol=1e-6, atol=1e-9)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "image", "empty"])
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])
def test_opcheck(dtype, layout, soft):
    ops = torch.ops.lossless
    x, y, dim = {
        "contiguous": (X, Y, 1),
        "transposed": (X.t().contiguous().t(), Y, 1),
        "image": (IMAGE, PIXELS, 1),
        "empty": (X[:0], Y[:0], 1),
    }[layout]
    x = x.to(dtype)
    wide = torch.float64 if dtype is torch.float64 else torch.float32
    target, ignored = (x.softmax(dim), None) if soft else (y, -100)
    weight, prior = W.to(wide), P.to(wide)
    g = x.detach().cos()
    leaf = x.detach().requires_grad_()
    rows = ("row_statistics", dim, ignored)
    for reduction in ("sum", "none", "mean")[: 2 if layout == "empty" else 3]:  # NaN is no equal of NaN to opcheck
        for z, temperature, gamma in ((0.0, None, None), (0.1, TWO, None if soft else 1.5)):
            given = (target, weight, temperature)
            options = ("cross_entropy", dim, ignored, 0.1, reduction, z, gamma)
            _check(ops.class_loss_forward, (leaf, *given, *options, True))
            loss, divisor, state = ops.class_loss_forward(x, *given, *options, True)
            _check(ops.class_loss_backward, (x, *given, state, divisor, loss, *options))
        if not soft:
            options = ("nll_loss", dim, ignored, reduction)
            _check(ops.nll_forward, (leaf, target, weight, *options))
            loss, divisor = ops.nll_forward(x, target, weight, *options)
            _check(ops.nll_backward, (x, target, weight, divisor, loss, *options))
        for kernel, fields, t, w in (
            ("bce_with_logits", [0.0], g.sigmoid(), g.exp()),
            ("squared_error", [], g, g.exp()),
            ("sigmoid_focal", [0.25, 2.0], g.sigmoid(), None),
            ("kl_divergence", [0.0], g.sigmoid(), None),
            ("sigmoid", [], None, None),
            ("log_sigmoid", [], None, None),
        ):
            if dtype is torch.float64 and kernel in ("sigmoid_focal", "kl_divergence"):  # no kernel takes those
                continue
            options = (kernel, fields, reduction if t is not None else "none")
            by = torch.tensor(7.0, dtype=torch.float64) if kernel == "kl_divergence" else None
            _check(ops.pointwise_forward, (leaf, t, w, None, by, *options))
            loss = ops.pointwise_forward(x, t, w, None, by, *options)
            _check(ops.pointwise_backward, (x, t, w, None, by, loss, *options))
    if layout != "empty":
        _check(ops.root_mean_square_forward, (leaf, g))
        loss, root = ops.root_mean_square_forward(x, g)
        _check(ops.root_mean_square_backward, (x, g, root, loss))
    for entropy, unrounded in ((True, False), (False, True)):
        arguments = (target, weight if soft else None, prior, TWO if entropy else None, *rows, entropy, unrounded)
        _check(ops.statistics, (leaf, *arguments, True))
        *outputs, _, state = ops.statistics(x, *arguments, True)
        d = [a if a.numel() or layout == "empty" else None for a in outputs]
        if unrounded:
            d[2] = None
        _check(ops.statistics_backward, (x, *arguments[:4], state, *d, *rows))
    for name in ("softmax", "log_softmax"):
        _check(ops.transform, (name, leaf, dim, None))
        _check(ops.transform, (name, leaf, dim, TWO))
        result = x.softmax(dim) if name == "softmax" and dtype in (torch.float32, torch.float64) else None
        _check(ops.transform_backward, (name, x, dim, None, g, result))
        _check(ops.transform_backward, (name, x, dim, TWO, g, None))


def _check(operator, arguments):
    """With memory that nobody wrote filled with NaN, which is no equal of itself."""
    torch.use_deterministic_algorithms(True)
    try:
        torch.library.opcheck(operator.default, arguments)
    finally:
        torch.use_deterministic_algorithms(False)


@needs_kernels
def test_a_bad_label_is_an_error_in_compiled_code():
    torch.compiler.reset()
    for backend in ("aot_eager", "inductor"):
        for ours, theirs in ((lossless.cross_entropy, F.cross_entropy), (lossless.nll_loss, F.nll_loss)):
            loss = torch.compile(ours, backend=backend, fullgraph=True)
            same(loss(X, Y), theirs(X, Y))
            with pytest.raises(IndexError, match="Target 7 is out of bounds"):
                loss(X, Y + 7)
            same(loss(X, Y), theirs(X, Y))


def test_a_bad_label_that_formulas_meet_in_compiled_code_gives_nan():
    torch.compiler.reset()
    loss = torch.compile(lambda x, y: lossless.cross_entropy(x, y, temperature=1e-9), backend="aot_eager")
    assert loss(X, Y + 5).isnan()


@needs_kernels
def test_a_root_that_no_kernel_can_square_keeps_its_gradient():
    torch.compiler.reset()
    loss = torch.compile(lossless.rmse_loss, backend="aot_eager", fullgraph=True)
    for scale in (1e-300, 0.0, 1.0, 1e300):
        x = (scale * X).requires_grad_()
        gradients = [torch.autograd.grad(f(x, torch.zeros_like(X)), x)[0] for f in (loss, lossless.rmse_loss)]
        assert torch.equal(*gradients)


def test_compile_keeps_the_digits_and_takes_any_size():
    torch.compiler.reset()
    loss = torch.compile(lossless.cross_entropy, backend="aot_eager", fullgraph=True, dynamic=True)
    for rows in (1, 3, 5):
        x = torch.tensor([[20.0, 0.0]] * rows, requires_grad=True)
        value = loss(x, torch.zeros(rows, dtype=torch.long))
        assert value.item() == np.float32(2.0611537e-09)
        (g,) = torch.autograd.grad(value * rows, x)
        assert g.tolist() == [[-np.float32(2.0611537e-09), np.float32(2.0611537e-09)]] * rows


ANY_SIZE = {
    "softmax": (lossless.softmax, lambda x, y, t: (x,)),
    "cross_entropy": (lossless.cross_entropy, lambda x, y, t: (x, y)),
    "cross_entropy, soft": (lossless.cross_entropy, lambda x, y, t: (x, t)),
    "focal_loss": (lossless.focal_loss, lambda x, y, t: (x, y)),
    "nll_loss": (lossless.nll_loss, lambda x, y, t: (x, y)),
    "row_statistics": (lambda x, y: lossless.row_statistics(x, y).entropy, lambda x, y, t: (x, y)),
    "binary_cross_entropy_with_logits": (lossless.binary_cross_entropy_with_logits, lambda x, y, t: (x, t)),
    "mse_loss": (lossless.mse_loss, lambda x, y, t: (x, t)),
    "rmse_loss": (lossless.rmse_loss, lambda x, y, t: (x, t)),
    "softmax, temperature": (lambda x: lossless.softmax(x, temperature=2.0), lambda x, y, t: (x,)),
    "cross_entropy, temperature": (
        lambda x, y: lossless.cross_entropy(x, y, label_smoothing=0.1, z_loss=0.01, temperature=2.0),
        lambda x, y, t: (x, y),
    ),
    "sigmoid": (lossless.sigmoid, lambda x, y, t: (x,)),
    "sigmoid_focal_loss": (lambda x, t: lossless.sigmoid_focal_loss(x, t, 0.3, 1.5), lambda x, y, t: (x, t)),
    "kl_div": (lambda x, t: lossless.kl_div(x, t, reduction="batchmean"), lambda x, y, t: (x, t)),
}


@pytest.mark.parametrize("name", ANY_SIZE)
def test_one_graph_serves_every_size(name):
    function, choose = ANY_SIZE[name]
    lossless.softmax(X)  # so that no later call is the first in eager mode
    torch.compiler.reset()
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True, dynamic=True)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for rows, classes in ((4, 3), (5, 7), (2, 40)):
            x = torch.linspace(-2, 2, rows * classes).reshape(rows, classes).requires_grad_()
            inputs = choose(x, torch.arange(rows) % 3, x.detach().cos().softmax(1))
            ours, judge = compiled(*inputs), function(*inputs)
            torch.testing.assert_close(ours, judge)
            ours, judge = (torch.autograd.grad(a.sum(), x)[0] for a in (ours, judge))
            torch.testing.assert_close(ours, judge)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, y, t: lossless.cross_entropy(x, y, temperature=t),
        lambda x, y, t: lossless.softmax(x, temperature=t),
        lambda x, y, t: lossless.log_softmax(x, 1, temperature=t),
        lambda x, y, t: lossless.row_statistics(x, y, temperature=t).entropy,
        lambda x, y, t: lossless.cross_entropy(x, y, sample_weight=y.float(), temperature=t),
    ],
    ids=["cross_entropy", "softmax", "log_softmax", "row_statistics", "link"],
)
def test_one_graph_serves_every_temperature(function):
    counters = torch._dynamo.utils.counters
    torch.compiler.reset()
    counters.clear()
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    for t in (1.5, 2.0, 0.7, 3.25, 1.1):
        torch.testing.assert_close(compiled(X, Y, t), function(X, Y, t))
    assert counters["stats"]["unique_graphs"] <= 2  # of the first, and of any


@pytest.mark.parametrize(
    "function",
    [
        lambda x: lossless.kl_div(x, x.detach().exp()),
        lambda x: lossless.kl_div(x, T[0]),
        lambda x: lossless.mse_loss(x, V[0]),
    ],
    ids=["kl_div", "kl_div, broadcast", "mse_loss, broadcast"],
)
def test_warnings_that_name_a_size_do_not_fix_it(function):
    torch.compiler.reset()
    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    for rows in (3, 5, 8):
        x = torch.linspace(-3, 0, rows * len(T[0]), dtype=T.dtype).reshape(rows, -1)
        torch._dynamo.mark_dynamic(x, 0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.testing.assert_close(compiled(x), function(x))


def test_the_first_call_of_a_process_may_be_compiled():
    code = (
        "import torch, lossless\n"
        "f = torch.compile(lossless.cross_entropy, backend='eager', fullgraph=True)\n"
        "with torch._dynamo.config.patch(error_on_recompile=True):\n"
        "    for _ in range(2):\n"
        "        assert f(torch.tensor([[20.0, 0.0]]), torch.tensor([0])).item() == 2.06115369216775e-09"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_lossless_may_be_imported_again():
    code = (
        "import gc, sys, torch\n"
        "for _ in range(3):\n"
        "    import lossless\n"
        "    f = torch.compile(lossless.cross_entropy, backend='eager', fullgraph=True)\n"
        "    assert f(torch.tensor([[20.0, 0.0]]), torch.tensor([0])).item() == 2.06115369216775e-09\n"
        "    for name in [name for name in sys.modules if name.split('.')[0] == 'lossless' and 'native' not in name]:\n"
        "        del sys.modules[name]\n"
        "    del lossless, f\n"
        "    torch.compiler.reset(); gc.collect()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_compile_without_gradients(name):
    function, _, inputs = FUNCTIONS[name]
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(function, backend="eager", fullgraph=True)(*inputs), function(*inputs))


def test_warnings_are_left_out_of_compiled_code():
    log_p = X.log_softmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled = torch.compile(lossless.kl_div, backend="eager", fullgraph=True)(log_p, T)
    with pytest.warns(lossless.errors.LosslessWarning, match="mean"):
        same(compiled, lossless.kl_div(log_p, T))


@needs_kernels
def test_what_is_recorded_to_run_elsewhere_needs_no_lossless():
    class Model(torch.nn.Module):
        def forward(self, x, y):
            return lossless.cross_entropy(lossless.log_softmax(x), y)

    for strict in (False, True):
        program = torch.export.export(Model(), (X, Y), strict=strict)
        assert "lossless" not in " ".join(str(node.target) for node in program.graph.nodes)
    assert "lossless" not in make_fx(Model())(X, Y).code


@needs_kernels
def test_no_second_derivative_is_silently_wrong():
    x = X.clone().requires_grad_()
    torch.compiler.reset()
    f = torch.compile(lossless.cross_entropy, backend="aot_eager", fullgraph=True)
    (g,) = torch.autograd.grad(f(x, Y), x, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        torch.autograd.grad(g.sum(), x)
    g = torch.ops.lossless.transform_backward("softmax", x, 1, None, X)
    with pytest.raises(NotImplementedError, match="eager mode"):
        torch.autograd.grad(g.sum(), x)


@needs_kernels
def test_shapes_are_known_without_numbers():
    half = X.bfloat16()
    with FakeTensorMode() as mode:
        x, y = (mode.from_tensor(a) for a in (half, Y))
        loss, divisor, state = torch.ops.lossless.class_loss_forward(
            x, y, None, None, "cross_entropy", 1, None, 0.0, "none", 0.0, None, True
        )
    assert (loss.shape, loss.dtype, divisor.dtype) == (Y.shape, torch.bfloat16, torch.float64)
    assert state.shape == (_kernels.native.STATE_ROWS, len(Y))
