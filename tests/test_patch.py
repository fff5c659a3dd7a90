"""`patch_torch`: PyTorch's names lead to ours for a while, every call is accounted for, and everything is restored."""

import contextlib
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import types
import warnings
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402
from torch.func import grad, vmap  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import lossless  # noqa: E402
from lossless._torch import patch  # noqa: E402

X, Y = torch.tensor([[20.0, 0.0], [0.5, 0.25]]), torch.tensor([0, 1])
T, P = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.75, 0.25], [0.5, 0.5]])
LOST = 2.06115369216775e-09  # the loss of a row [20, 0], which PyTorch calls 0
SURE = X[:1], Y[:1]
NAMESPACES = {"functional": F, "torch": torch, "special": torch.special, "tensor": torch.Tensor}


ATTRIBUTES = {name for name in vars(F) if name.endswith("_loss")} | {site.attribute for site in patch.SITES}


def attributes():
    return {(place, name): vars(owner).get(name) for place, owner in NAMESPACES.items() for name in ATTRIBUTES}


@pytest.fixture(autouse=True)
def nothing_stays():
    """Every attribute is the same object after a test as before."""
    before = attributes()
    yield
    assert not patch._active
    assert not any(finder is patch._awaited for finder in sys.meta_path)
    after = attributes()
    assert [place for place in before if before[place] is not after[place]] == []


def run(program, *arguments, **options):
    """A program in a process of its own: (stdout, stderr), and it has ended well."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


# ---------------------------------------------------------------- what is routed


# what a script writes: (PyTorch's spelling, ours)
SPELLINGS = {
    "F.cross_entropy": (
        lambda: F.cross_entropy(X, Y, label_smoothing=0.1),
        lambda: lossless.cross_entropy(X, Y, label_smoothing=0.1),
    ),
    "F.cross_entropy, keywords": (lambda: F.cross_entropy(target=Y, input=X), lambda: lossless.cross_entropy(X, Y)),
    "F.nll_loss": (lambda: F.nll_loss(X, Y, reduction="sum"), lambda: lossless.nll_loss(X, Y, reduction="sum")),
    "F.binary_cross_entropy_with_logits": (
        lambda: F.binary_cross_entropy_with_logits(X, T, pos_weight=P[0]),
        lambda: lossless.binary_cross_entropy_with_logits(X, T, pos_weight=P[0]),
    ),
    "F.kl_div": (
        lambda: F.kl_div(P.log(), T, None, None, "batchmean"),
        lambda: lossless.kl_div(P.log(), T, reduction="batchmean"),
    ),
    "F.mse_loss": (lambda: F.mse_loss(X, T), lambda: lossless.mse_loss(X, T)),
    "F.log_softmax": (lambda: F.log_softmax(X, dim=1), lambda: lossless.log_softmax(X, 1)),
    "F.log_softmax, dtype": (
        lambda: F.log_softmax(Y, 0, dtype=torch.float64),
        lambda: lossless.log_softmax(Y, 0, dtype=torch.float64),
    ),
    "torch.log_softmax": (lambda: torch.log_softmax(X, 0), lambda: lossless.log_softmax(X, 0)),
    "torch.log_softmax, dtype": (
        lambda: torch.log_softmax(X, -1, torch.float64),
        lambda: lossless.log_softmax(X, -1, dtype=torch.float64),
    ),
    "torch.special.log_softmax": (lambda: torch.special.log_softmax(X, 1), lambda: lossless.log_softmax(X, 1)),
    "x.log_softmax": (lambda: X.log_softmax(dim=-1), lambda: lossless.log_softmax(X)),
    "torch.logsumexp": (lambda: torch.logsumexp(X, (0, 1)), lambda: lossless.logsumexp(X, (0, 1))),
    "torch.special.logsumexp": (lambda: torch.special.logsumexp(X, 1), lambda: lossless.logsumexp(X, 1)),
    "x.logsumexp": (lambda: X.logsumexp(1, keepdim=True), lambda: lossless.logsumexp(X, 1, keepdim=True)),
    "nn.CrossEntropyLoss": (lambda: torch.nn.CrossEntropyLoss()(X, Y), lambda: lossless.cross_entropy(X, Y)),
    "nn.LogSoftmax": (lambda: torch.nn.LogSoftmax(1)(X), lambda: lossless.log_softmax(X, 1)),
    "nn.MSELoss": (lambda: torch.nn.MSELoss()(X, T), lambda: lossless.mse_loss(X, T)),
}
# only if asked for
MORE = {
    "softmax": (lambda: F.softmax(X, 1), lambda: lossless.softmax(X, 1)),
    "softmax, method": (lambda: X.softmax(1), lambda: lossless.softmax(X, 1)),
    "softmax, torch": (lambda: torch.softmax(X, 0), lambda: lossless.softmax(X, 0)),
    "binary_cross_entropy": (lambda: F.binary_cross_entropy(P, T), lambda: lossless.binary_cross_entropy(P, T)),
    "sigmoid": (lambda: X.sigmoid(), lambda: lossless.sigmoid(X)),
    "sigmoid, expit": (lambda: torch.special.expit(X), lambda: lossless.sigmoid(X)),
    "logsigmoid": (lambda: F.logsigmoid(X), lambda: lossless.logsigmoid(X)),
    "logit": (lambda: torch.logit(P, eps=0.1), lambda: lossless.logit(P, eps=0.1)),
}


@pytest.mark.parametrize("name", SPELLINGS)
def test_routed(name):
    theirs, ours = SPELLINGS[name]
    with lossless.patch_torch() as routed:
        found = theirs()
    assert torch.equal(found, ours())
    (call,) = routed.calls
    assert (call.calls, call.traces, call.routed, call.reason) == (1, 0, True, "")
    assert call.file == __file__
    assert call.within.startswith("<lambda>")


@pytest.mark.parametrize("name", MORE)
def test_routed_if_asked_for(name):
    theirs, ours = MORE[name]
    function = name.partition(",")[0]
    with lossless.patch_torch() as routed:
        assert torch.equal(theirs(), theirs())
    if function in patch.UNWATCHED:
        assert routed.calls == []
    else:
        assert {(call.calls, call.routed, call.reason) for call in routed.calls} == {(2, False, patch.LEFT[function])}
    with lossless.patch_torch(also=[function]) as routed:
        assert torch.equal(theirs(), ours())
    assert [(call.calls, call.routed) for call in routed.calls] == [(1, True)]


def test_every_function_of_the_library_that_pytorch_has_is_known():
    theirs = {n for n in lossless.__all__ if any(hasattr(owner, n) for owner in (F, torch))} - {"nn", "errors"}
    assert theirs - set(patch.NAMES) == {"get_num_threads", "set_num_threads"}


def test_gradients_are_ours():
    x = X[:1].clone().requires_grad_()
    with lossless.patch_torch():
        F.nll_loss(F.log_softmax(x, 1), Y[:1]).backward()
    assert x.grad.tolist() == [[-LOST, LOST]]


def test_in_effect_from_the_call_until_restore():
    routed = lossless.patch_torch()
    try:
        assert F.cross_entropy(*SURE).item() == LOST
    finally:
        routed.restore()
    assert F.cross_entropy(*SURE).item() == 0.0
    routed.restore()  # twice does no harm
    with routed:  # and again
        assert F.cross_entropy(*SURE).item() == LOST
    assert sum(call.calls for call in routed.calls) == 2


def test_as_a_decorator():
    routed = lossless.patch_torch()

    @routed
    def loss(again=False):
        """A docstring."""
        return loss() if again else F.cross_entropy(*SURE).item()

    assert F.cross_entropy(*SURE).item() == 0.0
    assert (loss(), loss(again=True), loss.__doc__) == (LOST, LOST, "A docstring.")
    assert F.cross_entropy(*SURE).item() == 0.0
    assert [call.calls for call in routed.calls] == [2]


def test_an_exception_restores():
    with pytest.raises(TypeError), lossless.patch_torch():
        F.cross_entropy(*SURE, SURE)
    assert F.cross_entropy(*SURE).item() == 0.0


def test_the_innermost_patch_decides_and_each_has_its_account():
    with lossless.patch_torch() as outer:
        assert F.cross_entropy(*SURE).item() == LOST
        with lossless.patch_torch(skip=["cross_entropy"], also="softmax") as inner:
            assert F.cross_entropy(*SURE).item() == 0.0
            F.softmax(X, 1)
        assert F.cross_entropy(*SURE).item() == LOST
        F.softmax(X, 1)
    shown = [(c.function.rpartition(".")[2], c.calls, c.routed) for c in inner.calls]
    assert shown == [("softmax", 1, True), ("cross_entropy", 1, False)]
    assert inner.calls[1].reason == "you asked for PyTorch's"
    assert sum(c.calls for c in outer.calls) == 5


def test_patches_may_end_in_any_order():
    first, second = lossless.patch_torch(skip="mse_loss"), lossless.patch_torch()
    first.restore()
    assert F.cross_entropy(*SURE).item() == LOST
    second.restore()
    assert F.cross_entropy(*SURE).item() == 0.0


def test_unknown_names_are_refused():
    with pytest.raises(lossless.errors.ParameterError, match="also got 'huber', expected one of cross_entropy, "):
        lossless.patch_torch(also=["huber"])
    with pytest.raises(lossless.errors.ParameterError, match="skip got 'l1_loss'"):
        lossless.patch_torch(skip="l1_loss")


# ---------------------------------------------------------------- names bound elsewhere


def module(name, **names):
    made = types.ModuleType(name)
    vars(made).update(names)
    return made


def test_names_bound_earlier_follow_and_names_bound_meanwhile_return(monkeypatch):
    early, late = module("early", ce=F.cross_entropy, ls=torch.log_softmax), module("late")
    monkeypatch.setitem(sys.modules, "early", early)
    monkeypatch.setitem(sys.modules, "late", late)
    ce, ls = F.cross_entropy, torch.log_softmax
    with lossless.patch_torch():
        late.ce = F.cross_entropy
        assert early.ce(*SURE).item() == LOST
        assert early.ls(X, 1)[0, 0].item() == -LOST
    assert early.ce is late.ce is ce
    assert early.ls is ls


def test_a_replacement_that_somebody_kept_is_pytorchs_again():
    with lossless.patch_torch() as routed:
        kept = F.cross_entropy
    assert kept(*SURE).item() == 0.0
    assert routed.calls == []
    with lossless.patch_torch():
        assert kept(*SURE).item() == LOST


def test_what_others_have_put_in_place_stays(monkeypatch):
    def theirs(input, target):
        return torch.tensor(7.0)

    monkeypatch.setattr(F, "mse_loss", theirs)
    with lossless.patch_torch():
        assert F.mse_loss(X, T).item() == 7.0
        kept, F.kl_div = F.kl_div, theirs
        assert kept is not theirs
    assert F.kl_div is theirs
    F.kl_div = patch._routes["torch.nn.functional.kl_div"].original
    with lossless.patch_torch():
        assert F.mse_loss(X, T).item() == 7.0


def test_a_replacement_pickles_as_pytorchs():
    with lossless.patch_torch():
        data = pickle.dumps(F.cross_entropy)
    assert pickle.loads(data) is F.cross_entropy


def test_a_replacement_looks_like_what_it_replaces():
    doc = F.cross_entropy.__doc__
    with lossless.patch_torch():
        assert (F.cross_entropy.__name__, F.cross_entropy.__module__) == ("cross_entropy", "torch.nn.functional")
        assert F.cross_entropy.__doc__ == doc
        assert torch.logsumexp.__name__ == "logsumexp"


def test_ours_call_pytorchs_own():
    """Nothing in our sources reaches PyTorch by a name that a patch replaces: it would come back to us."""
    root = Path(lossless.__file__).parent
    attributes = {site.attribute for site in patch.SITES}
    for file in (*root.glob("_torch/*.py"), *root.glob("reference/*.py")):
        if file.name != "patch.py":
            words = {f"{owner}.{a}(" for owner in ("torch", "functional", "F", "xp") for a in attributes}
            assert [word for word in words if word in file.read_text().replace("xp.sigmoid(xp)", "")] == [], file


def test_torchvisions_loss_is_routed_whenever_it_is_imported(tmp_path):
    ops = tmp_path / "torchvision" / "ops"
    ops.mkdir(parents=True)
    (ops.parent / "__init__.py").write_text("")
    (ops / "__init__.py").write_text("from .focal_loss import sigmoid_focal_loss\n")
    (ops / "focal_loss.py").write_text(
        "def sigmoid_focal_loss(inputs, targets, alpha=0.25, gamma=2, reduction='none'):\n    return 'theirs'\n"
    )
    program = """
        import torch, lossless
        def loss():
            return torchvision.ops.sigmoid_focal_loss(torch.tensor([8.0]), torch.tensor([1.0]))
        with lossless.patch_torch() as routed:
            import torchvision.ops
            print(loss().item())
        print(loss(), torchvision.ops.focal_loss.sigmoid_focal_loss(0, 0))
        with lossless.patch_torch():
            print(loss().item())
        print(loss(), [call.function for call in routed.calls])
    """
    lines = run(program, env={**os.environ, "PYTHONPATH": str(tmp_path)})[0].splitlines()
    ours = str(lossless.sigmoid_focal_loss(torch.tensor([8.0]), torch.tensor([1.0])).item())
    assert lines == [ours, "theirs theirs", ours, "theirs ['torchvision.ops.sigmoid_focal_loss']"]


# ---------------------------------------------------------------- what ours refuse


class Labelled(torch.Tensor):
    """A tensor class with PyTorch's default behaviour."""


class Logged(torch.Tensor):
    seen = ()

    @classmethod
    def __torch_function__(cls, function, kinds, args=(), kwargs=None):
        Logged.seen = (*Logged.seen, function.__name__)
        return super().__torch_function__(function, kinds, args, kwargs or {})


def left(act):
    """(result, reasons) of calls that PyTorch answers under the patch."""
    with lossless.patch_torch() as routed:
        result = act()
    assert not any(call.routed for call in routed.calls)
    return result, [(call.calls, call.reason) for call in routed.calls]


def test_what_ours_refuse_pytorch_answers():
    out = torch.empty(2, 2)
    result, reasons = left(lambda: torch.log_softmax(X, 1, out=out))
    assert result is out
    assert torch.equal(out, torch.log_softmax(X, 1))
    assert reasons[0][0] == 1
    assert "unexpected keyword argument 'out'" in reasons[0][1]
    z = torch.complex(X, X)
    result, reasons = left(lambda: z.logsumexp(1))
    assert torch.equal(result, z.logsumexp(1))
    assert "complex" in reasons[0][1]


def test_what_both_refuse_is_our_error_of_pytorchs_type():
    with pytest.raises(IndexError) as theirs:
        F.cross_entropy(X, torch.tensor([0, 5]))
    with lossless.patch_torch() as routed, pytest.raises(IndexError) as ours:
        F.cross_entropy(X, torch.tensor([0, 5]))
    assert str(ours.value).splitlines()[0] == str(theirs.value)
    assert "labels 0 to 1" in str(ours.value)
    assert routed.calls == []
    for misuse in (
        lambda: F.cross_entropy(X),
        lambda: F.cross_entropy(),
        lambda: F.cross_entropy(X, Y, reduction="median"),
        lambda: F.cross_entropy(X.numpy(), Y.numpy()),
        lambda: F.cross_entropy(X, Y.numpy()),
        lambda: F.cross_entropy(X, Y, weights=None),
        lambda: torch.log_softmax(X),
        lambda: torch.log_softmax(X, 5),
        lambda: X.logsumexp(5),
        lambda: F.mse_loss(X, torch.zeros(3)),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(Exception) as theirs:  # noqa: PT011
                misuse()
            with lossless.patch_torch(), pytest.raises(theirs.type):
                misuse()


def test_tensors_of_other_classes_are_pytorchs():
    x = X.as_subclass(Labelled)
    result, reasons = left(lambda: F.cross_entropy(x, Y))
    assert type(result) is Labelled
    assert reasons == [(1, f"{__name__}.Labelled is no plain tensor")]
    x = X.as_subclass(Logged)
    assert left(lambda: x.log_softmax(1))[1] == [(1, f"{__name__}.Logged is no plain tensor")]
    assert Logged.seen.count("log_softmax") == 1
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode() as mode:
        x, y = mode.from_tensor(X), mode.from_tensor(Y)
        result, reasons = left(lambda: F.cross_entropy(x, y))
    assert result.shape == ()
    assert reasons == [(1, "torch._subclasses.fake_tensor.FakeTensor is no plain tensor")]


def test_parameters_and_modes_are_routed():
    from torch.overrides import TorchFunctionMode

    class Watch(TorchFunctionMode):
        seen = ()

        def __torch_function__(self, function, kinds, args=(), kwargs=None):
            self.seen = (*self.seen, function)
            return function(*args, **(kwargs or {}))

    x = torch.nn.Parameter(SURE[0])
    with lossless.patch_torch() as routed, Watch() as watch:
        assert F.cross_entropy(x, target=SURE[1]).item() == LOST
        assert watch.seen[0] is F.cross_entropy
    assert [call.calls for call in routed.calls] == [1]
    with lossless.patch_torch() as routed, torch.device("cpu"):
        assert F.cross_entropy(*SURE).item() == LOST
    assert [(call.calls, call.file) for call in routed.calls] == [(1, __file__)]


def test_symbolic_trace_sees_pytorchs_function():
    with lossless.patch_torch():
        traced = torch.fx.symbolic_trace(Loss())
    assert "cross_entropy" in traced.code
    assert traced(X, Y) == F.cross_entropy(X, Y)


def test_softmax_without_dim_keeps_pytorchs_rule_and_its_warning():
    cubes = torch.randn(2, 3, 4)
    for x, dim in ((X, 1), (cubes, 0)):
        with warnings.catch_warnings(record=True) as seen, lossless.patch_torch(also=["softmax"]):
            warnings.simplefilter("always")
            for function, ours in ((F.log_softmax, lossless.log_softmax), (F.softmax, lossless.softmax)):
                assert torch.equal(function(x), ours(x, dim))
        assert [(w.filename, w.category) for w in seen] == [(__file__, UserWarning)] * 2
        assert "Implicit dimension choice for log_softmax" in str(seen[0].message)


def test_warnings_name_the_line_of_the_caller():
    def seen():
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            F.mse_loss(X, T[0])
            torch.nn.KLDivLoss()(X, T)
        return [(w.filename, w.lineno, str(w.message).splitlines()[0]) for w in found]

    theirs = seen()
    with lossless.patch_torch():
        ours = seen()
    assert ours[0] == theirs[0]
    assert [text for *_, text in ours] == [text for *_, text in theirs]
    assert {name for name, *_ in ours} == {__file__}  # of a module PyTorch names a line of its own


# ---------------------------------------------------------------- transforms and compilers


def test_autocast_gives_pytorchs_dtypes():
    half = X.bfloat16()
    calls = (
        lambda: F.cross_entropy(half, Y),
        lambda: F.nll_loss(half, Y),
        lambda: F.log_softmax(half, 1),
        lambda: half.logsumexp(1),
        lambda: F.binary_cross_entropy_with_logits(half, half.sigmoid()),
        lambda: F.mse_loss(half, half),
        lambda: F.kl_div(half, half.sigmoid(), reduction="sum"),
    )
    with torch.autocast("cpu", torch.bfloat16):
        theirs = [call().dtype for call in calls]
        with lossless.patch_torch():
            assert [call().dtype for call in calls] == theirs
    theirs = [call().dtype for call in calls]
    with lossless.patch_torch():
        assert [call().dtype for call in calls] == theirs


def test_transforms_and_checkpoints():
    def loss(x, y):
        return F.cross_entropy(x, y)

    x = X.clone().requires_grad_()
    with lossless.patch_torch() as routed:
        assert vmap(loss)(X, Y)[0].item() == LOST
        assert grad(loss)(X[0], Y[0]).tolist() == [-LOST, LOST]
        checkpoint(loss, x, Y, use_reentrant=False).backward()
    assert x.grad[0, 0] != 0.0
    assert sum(call.calls for call in routed.calls) == 3  # the second computation of a checkpoint ends inside ours


def test_threads_are_counted_to_the_last_call():
    def work():
        for _ in range(200):
            F.cross_entropy(X, Y)

    threads = [threading.Thread(target=work) for _ in range(8)]
    with lossless.patch_torch() as routed:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [call.calls for call in routed.calls] == [1600]


def test_a_forked_child_is_patched_too():
    with lossless.patch_torch():
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            child = os.fork()
        if child == 0:
            with contextlib.suppress(BaseException):
                os.write(writer, str(F.cross_entropy(*SURE).item()).encode())
            os._exit(0)
        os.waitpid(child, 0)
    assert float(os.read(reader, 100)) == LOST


COMPILED = """
    import sys, torch, lossless
    import torch.nn.functional as F
    x, y = torch.tensor([[20.0, 0.0]], requires_grad=True), torch.tensor([0])
    def loss(x, y):
        return F.cross_entropy(x, y) + F.softmax(x, 1)[0, 1]
    def methods(x):
        return x.log_softmax(-1)[0, 0] - torch.logsumexp(x, 1) * 0
    if sys.argv[1] == "compiler first":
        before = torch.compile(loss, fullgraph=True, backend="aot_eager")
        print(before(x, y).item())
    with lossless.patch_torch() as routed:
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
        compiled(x, y).backward()
        compiled(x, y)
        print(x.grad[0, 0].item() != 0, torch.compile(methods, fullgraph=True, backend="aot_eager")(x).item())
        print(torch.compile(torch.nn.CrossEntropyLoss(), fullgraph=True, backend="aot_eager")(x, y).item())
        if sys.argv[1] == "compiler first":
            before(x, y)
    for call in routed.calls:
        print(call.function, call.line, call.within, call.calls, call.traces > 0, call.routed)
    x.grad = None
    compiled(x, y).backward()
    print(x.grad[0, 0].item() == lossless.softmax(x, 1).prod().neg().item())
"""


@pytest.mark.parametrize("order", ["compiler first", "patch first"])
def test_compiled_code_is_routed_without_a_break(order, tmp_path):
    script = tmp_path / "compiled.py"
    script.write_text(textwrap.dedent(COMPILED).lstrip())
    done = subprocess.run([sys.executable, script, order], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    first = order == "compiler first"
    if first:
        assert float(lines.pop(0)) == pytest.approx(LOST)
    assert lines[0] == "True 0.0"
    assert float(lines[1]) == LOST
    assert "torch.nn.functional.softmax 5 loss 0 True False" in lines
    assert set(lines[2:5]) == {
        "torch.nn.functional.cross_entropy 5 loss 0 True True",
        "torch.logsumexp 7 methods 0 True True",
    } | {line for line in lines[2:5] if " forward " in line}
    assert "torch.Tensor.log_softmax 7 methods 0 True False" in lines


class Loss(torch.nn.Module):
    def forward(self, x, y):
        return F.cross_entropy(x, y)


@pytest.mark.parametrize("strict", [False, True])
def test_exported_programs_are_routed(strict):
    with lossless.patch_torch() as routed:
        program = torch.export.export(Loss(), SURE, strict=strict)
    assert program.module()(*SURE).item() == LOST
    assert [(call.line, call.calls, call.traces > 0) for call in routed.calls] == [
        (Loss.forward.__code__.co_firstlineno + 1, 0, True)
    ]


@pytest.mark.parametrize("inside", [False, True], ids=["compiled before", "compiled inside"])
def test_methods_stay_pytorchs_in_compiled_code(inside):
    torch.compiler.reset()
    cost = torch.compile(lambda x: -x.log_softmax(1)[0, 0], backend="aot_eager")
    x, before = SURE[0].detach(), None if inside else cost(SURE[0].detach()).item()
    with lossless.patch_torch() as routed:
        assert cost(x).item() == 0.0
    assert cost(x).item() == 0.0
    assert before in (None, 0.0)
    assert [(call.routed, "torch.log_softmax" in call.reason) for call in routed.calls] == [(False, True)] * inside


def test_replaced_functions_are_pickled_by_name():
    functions = "F.cross_entropy", "F.softmax", "torch.softmax", "torch.special.logsumexp", "torch.Tensor.log_softmax"
    with lossless.patch_torch():
        pickled = [pickle.dumps(eval(name)) for name in functions]
        assert [pickle.loads(p) for p in pickled] == [eval(name) for name in functions]
    assert [pickle.loads(p) for p in pickled] == [eval(name) for name in functions]


def test_script_compiles_pytorchs_own():
    with lossless.patch_torch(also=["softmax"]):

        def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return F.cross_entropy(x, y, label_smoothing=0.1) + torch.log_softmax(x, 1).sum() + F.softmax(x, 1).sum()

        scripted = torch.jit.script(loss)
        module = torch.jit.script(torch.nn.CrossEntropyLoss())
        found = scripted(X, Y), module(X, Y)
    assert found == (loss(X, Y), F.cross_entropy(X, Y))


# ---------------------------------------------------------------- the account


def test_the_account_names_every_line_and_why_not():
    def other():
        F.cross_entropy(X, Y)
        F.cross_entropy(X, Y)

    with lossless.patch_torch() as routed:
        for _ in range(3):
            other()
        torch.nn.CrossEntropyLoss()(X, Y)
        F.softmax(X, 1)
        F.l1_loss(X, T)
    start = other.__code__.co_firstlineno
    here = sys._getframe().f_code
    shown = [(c.function.rpartition(".")[2], c.line - start, c.within, c.calls, c.routed) for c in routed.calls]
    assert shown == [
        ("cross_entropy", 1, f"{here.co_qualname}.<locals>.other", 3, True),
        ("cross_entropy", 2, f"{here.co_qualname}.<locals>.other", 3, True),
        ("cross_entropy", 7, here.co_qualname, 1, True),
        ("softmax", 8, here.co_qualname, 1, False),
        ("l1_loss", 9, here.co_qualname, 1, False),
    ]
    text = str(routed)
    assert text.startswith(
        "7 calls of 1 function went to lossless\n\nrouted to lossless\n  3  torch.nn.functional.cross"
    )
    assert "left to PyTorch: lossless has no such loss\n  1  torch.nn.functional.l1_loss" in text
    with lossless.patch_torch() as routed:
        pass
    assert str(routed) == "no call of a loss was seen"


def test_without_pytorch_the_error_says_so():
    program = """
        import sys
        sys.modules["torch"] = None
        import lossless
        try:
            lossless.patch_torch()
        except lossless.errors.MissingTorchError as error:
            print(error)
    """
    assert "this needs PyTorch, which is not installed" in run(program)[0]
