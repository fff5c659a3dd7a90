"""Every function under every transform of PyTorch: right, or an error that says so; never a silent wrong number.

`docs/transforms.md` is this matrix; LOSSLESS_RECORD=1 writes it anew.
"""

import warnings
from pathlib import Path

import pytest
import torch
from torch import func
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

import ratchet
from lossless import _kernels
from lossless._torch import kernels
from torch_functions import FUNCTIONS, scalar

PAGE = Path(__file__).parents[1] / "docs" / "transforms.md"


def penalty(f, x):
    """The gradient of a loss with a gradient penalty."""
    x = x.detach().requires_grad_()
    loss = f(x)
    (g,) = torch.autograd.grad(loss, x, create_graph=True)
    return torch.autograd.grad((g * g).sum() + loss, x)[0]


def twice(f, x):
    x = x.detach().requires_grad_()
    loss = f(x)
    return torch.autograd.grad(loss, x, retain_graph=True)[0] + torch.autograd.grad(loss, x)[0]


def batched(f, x):
    x, g = x.detach().requires_grad_(), torch.tensor([1.0, -2.0], dtype=torch.float64)
    return torch.autograd.grad(f(x), x, g, is_grads_batched=True)[0]


def checkpointed(f, x):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(checkpoint(f, x, use_reentrant=False), x)[0]


def dual(f, x):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(f(forward_ad.make_dual(x, x.cos()))).tangent


def recorded(f, x):
    return torch.fx.experimental.proxy_tensor.make_fx(f)(x.cos())(x)


def exported(f, x):
    class Model(torch.nn.Module):
        def forward(self, x):
            return f(x)

    return torch.export.export(Model(), (x.cos(),)).module()(x)


def compiled(backend, dynamic=None):
    """Value and gradient of the compiled function; the gradient by autograd."""

    def transform(f, x):
        torch.compiler.reset()
        x = x.detach().requires_grad_()
        value = torch.compile(f, backend=backend, dynamic=dynamic, fullgraph=True)(x)
        return value.detach(), torch.autograd.grad(value.sum(), x)[0]

    return transform


def in_compiled(transform):
    def inside(f, x):
        torch.compiler.reset()
        return torch.compile(lambda x: transform(f, x), backend="aot_eager", fullgraph=True)(x)

    return inside


# What is done to a scalar function at x.
TRANSFORMS = {
    "retain_graph": twice,
    "create_graph": penalty,
    "is_grads_batched": batched,
    "checkpoint": checkpointed,
    "dual_level": dual,
    "vmap": lambda f, x: func.vmap(f)(torch.stack([x, x / 2])),
    "grad": lambda f, x: func.grad_and_value(f)(x),
    "vjp": lambda f, x: func.vjp(f, x)[1](torch.tensor(2.0, dtype=torch.float64)),
    "jvp": lambda f, x: func.jvp(f, (x,), (x.cos(),)),
    "jacrev": lambda f, x: func.jacrev(f)(x),
    "jacfwd": lambda f, x: func.jacfwd(f)(x),
    "hessian": lambda f, x: func.hessian(f)(x),
    "vmap of grad": lambda f, x: func.vmap(func.grad(f))(torch.stack([x, x / 2])),
    "jvp of grad": lambda f, x: func.jvp(func.grad(f), (x,), (x.cos(),)),
    "grad of jvp": lambda f, x: func.grad(lambda x: func.jvp(f, (x,), (x.cos(),))[1])(x),
    "linearize": lambda f, x: func.linearize(f, x)[1](x.cos()),
    "functionalize": lambda f, x: func.functionalize(f)(x),
    "make_fx": recorded,
    "export": exported,
    "compile": compiled("aot_eager"),
    "compile, eager": compiled("eager"),
    "compile, dynamic": compiled("aot_eager", dynamic=True),
    "inductor": compiled("inductor"),
    "inductor, dynamic": compiled("inductor", dynamic=True),
    "compiled vmap": in_compiled(lambda f, x: func.vmap(f)(torch.stack([x, x / 2]))),
    "compiled grad": in_compiled(lambda f, x: func.grad(f)(x)),
    "compiled jvp": in_compiled(lambda f, x: func.jvp(f, (x,), (x.cos(),))),
    "vmap of compiled": lambda f, x: func.vmap(torch.compile(f, backend="aot_eager"))(torch.stack([x, x / 2])),
}


# One form of each function; the others are asked by `make test-slow`, and so are compilers of what is not at the core.
ROWS = dict(reversed({name.partition(",")[0]: name for name in reversed(FUNCTIONS)}.items()))
OTHERS = [name for name in FUNCTIONS if name not in ROWS.values()]
CORE = ("softmax", "cross_entropy", "binary_cross_entropy_with_logits", "row_statistics")


def is_slow(function, transform):
    return function not in CORE and transform != "compile" and ("compile" in transform or "inductor" in transform)


CELLS = [
    pytest.param(function, transform, marks=[pytest.mark.slow] if is_slow(function, transform) else [])
    for function in ROWS
    for transform in TRANSFORMS
]


def recorded():
    """{(function, transform): letter} of the page."""
    lines = PAGE.read_text().partition("## Table")[2].splitlines() if PAGE.exists() else []
    rows = ([cell.strip() for cell in line.strip("| ").split("|")] for line in lines if line.startswith("| `"))
    return {
        (row[0].strip("`"), transform): cell
        for row in rows
        for transform, cell in zip(TRANSFORMS, row[1:], strict=False)
    }


RECORDED = recorded()
found = {}


def on(function, others):
    return lambda x: scalar(function)(x, *others)


def agree(name, transform):
    ours, theirs, (x, *others) = FUNCTIONS[name]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Attempted to insert a get_attr Node", UserWarning)
        warnings.filterwarnings("error", "Dynamo detected", UserWarning)
        a, b = (TRANSFORMS[transform](on(f, others), x) for f in (ours, theirs))
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("function", "transform"), CELLS)
def test_transforms(function, transform, monkeypatch, forward_passes):
    served = []
    for name, kernel in vars(kernels).items():
        if callable(kernel) and kernel.__module__ == kernels.__name__ and not isinstance(kernel, type):
            monkeypatch.setattr(kernels, name, lambda *args, kernel=kernel: (served.append(kernel), kernel(*args))[1])
    agree(ROWS[function], transform)
    found[function, transform] = "K" if served or forward_passes else "F"
    if _kernels.native is not None and not ratchet.RECORDING:
        assert found[function, transform] == RECORDED[function, transform], "see docs/transforms.md"


@pytest.mark.slow
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", OTHERS)
def test_transforms_of_other_forms(name, transform):
    agree(name, transform)


def page(cells):
    """The documentation."""
    legend = "\n".join(f"{number}. {transform}" for number, transform in enumerate(TRANSFORMS, 1))
    lines = [
        "| | " + " | ".join(str(number) for number, _ in enumerate(TRANSFORMS, 1)) + " |",
        "| --- " * (len(TRANSFORMS) + 1) + "|",
        *(f"| `{row}` | " + " | ".join(cells[row, column] for column in TRANSFORMS) + " |" for row in ROWS),
    ]
    return INTRODUCTION + "\n## Transforms\n\n" + legend + "\n\n## Table\n\n" + "\n".join(lines) + "\n"


INTRODUCTION = """# Functions under PyTorch's transforms

Every cell is a test (`tests/test_torch_transforms.py`): values or derivatives of our function under the transform agree
to 1e-9, in float64, with the same made of PyTorch's operations. The letter says what computed them on the CPU: K,
compiled kernels had a part in it; F, the reference formulas alone, ordinary PyTorch operations. Both are accurate;
kernels are faster. `LOSSLESS_RECORD=1 python -m pytest tests/test_torch_transforms.py` writes this page.
"""


def test_the_page_shows_every_cell():
    if ratchet.RECORDING:
        PAGE.write_text(page(found))
        RECORDED.update(found)
    assert PAGE.read_text() == page(RECORDED)
