"""PyTorch's own test inputs, given to our functions and modules: the numbers, dtypes, derivatives and errors are its.

The judge of a number is PyTorch in float64, on the inputs as they were rounded, so that only its error there is allowed
for; what we promise is measured elsewhere, against an oracle.
"""

import inspect
import re
import warnings
from functools import cache
from math import prod

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import ModuleErrorEnum, module_db
from torch.utils._pytree import tree_map_only

import lossless
from lossless import nn
from lossless.errors import LosslessError

FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]
NAMES = [
    *("nn.functional.cross_entropy", "nn.functional.nll_loss", "nn.functional.kl_div", "nn.functional.mse_loss"),
    *("nn.functional.binary_cross_entropy", "nn.functional.binary_cross_entropy_with_logits"),
    *("softmax", "log_softmax", "logsumexp", "sigmoid", "logit", "nn.functional.logsigmoid"),
]
OPS = {op.formatted_name: op for op in op_db if op.name in NAMES}
MODULES = {info.name.removeprefix("nn."): info for info in module_db if hasattr(nn, info.name.removeprefix("nn."))}

pytestmark = pytest.mark.filterwarnings("ignore")


def ours_of(op):
    return getattr(lossless, op.name.removeprefix("nn.functional."))


# ---- what is different on purpose

INF = torch.inf
LABELS, SURE = torch.tensor([0, 1]), torch.tensor([[20.0, 0.0], [0.0, 20.0]])


def of(*numbers, **options):
    return torch.tensor(numbers, **options)


def slope(call, x):
    """The gradient at x."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(call(x).sum(), x)[0]


# name: (samples of the suites, why)
SAMPLES = {
    "complex numbers": (
        lambda op, dtype, sample: dtype.is_complex and "dtype" not in sample.kwargs,
        "scores are real: LogitsDtypeError says to take the real part",
    ),
}

# module: (our message for PyTorch's bad inputs, why it is another)
ERRORS = {
    "NLLLoss": (
        "no classes in dimension 1",
        "weights of another precision are converted; no row has a class",
    ),
}

# name: (a call of a namespace, what it gives with PyTorch and what with ours, why)
CALLS = {
    "a confident label": (
        lambda f: f.cross_entropy(SURE, LABELS, reduction="none"),
        "PyTorch's cost of a right answer is 0 from a margin of 17 on; it is exp(-20)",
    ),
    "gradient of a confident label": (
        lambda f: slope(lambda x: f.cross_entropy(x, LABELS), SURE).diagonal(),
        "likewise: nothing more is learnt from it",
    ),
    "gradient of a confident score": (
        lambda f: slope(lambda x: f.binary_cross_entropy_with_logits(x, torch.ones(1)), of(20.0)),
        "likewise",
    ),
    "log-probability of a confident class": (lambda f: f.log_softmax(SURE, dim=1).diagonal(), "likewise"),
    "a masked class that the target does not touch": (
        lambda f: f.cross_entropy(of([0.0, -INF]), of([1.0, 0.0])),
        "the limit, 0, where PyTorch multiplies 0 by infinity",
    ),
    "a score at infinity on the right side": (
        lambda f: f.binary_cross_entropy_with_logits(of(INF, -INF), of(1.0, 0.0), reduction="sum"),
        "likewise",
    ),
    "an impossible class that is not expected": (
        lambda f: f.kl_div(of(-INF, 0.0), of(-INF, 0.0), reduction="sum", log_target=True),
        "likewise",
    ),
    "smoothing over a class at -inf, of which nothing is left": (
        lambda f: f.cross_entropy(of([0.0, -INF]), of(0), weight=of(1.0, 0.0), label_smoothing=0.1),
        "likewise",
    ),
    "a lone infinity": (lambda f: f.softmax(of(INF, 0.0), dim=0), "the limit, where PyTorch subtracts infinities"),
    "gradient over a target of 0": (
        lambda f: slope(lambda t: f.kl_div(of(-1.0), t, reduction="sum"), of(0.0)),
        "the limit, -inf",
    ),
    "squares that overflow float16 but whose mean does not": (
        lambda f: f.mse_loss(of(300.0, 0.0, dtype=torch.float16), torch.zeros(2, dtype=torch.float16)),
        "sums are taken in float64",
    ),
    "the complement of a target in a narrower dtype": (
        lambda f: f.binary_cross_entropy_with_logits(of(3.0, dtype=torch.float64), of(0.1)),
        "PyTorch rounds (1 - t) x to the target's dtype, inside a result of the logits'",
    ),
    "no classes": (
        lambda f: f.cross_entropy(torch.zeros(1, 0), of(-100), reduction="sum"),
        "an error; PyTorch's is one too as soon as a label counts",
    ),
    "narrow labels": (
        lambda f: f.cross_entropy(SURE / 20, LABELS.to(torch.int16)),
        "labels of any integer dtype",
    ),
    "class weights of another precision": (
        lambda f: f.cross_entropy(SURE / 20, LABELS, of(1.0, 2.0, dtype=torch.float64)),
        "they are converted",
    ),
    "gradient over class weights": (
        lambda f: slope(lambda w: f.cross_entropy(SURE / 20, LABELS, w, reduction="sum"), of(1.0, 2.0)),
        "it exists; PyTorch refuses it for labels",
    ),
    "gradient over binary weights": (
        lambda f: slope(lambda w: f.binary_cross_entropy(of(0.3, 0.4), of(0.0, 1.0), w), of(1.0, 2.0)),
        "likewise",
    ),
    "binary targets of another precision": (
        lambda f: f.binary_cross_entropy(of(0.3, dtype=torch.float64), of(1.0)),
        "they are promoted, as binary_cross_entropy_with_logits does in PyTorch too",
    ),
    "a broadcast kl_div": (
        lambda f: warned(lambda: f.kl_div(torch.zeros(2, 2), torch.ones(2), reduction="sum")),
        "it warns, as mse_loss does in PyTorch too",
    ),
}


def warned(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in caught]


def outcome(call):
    """A list of numbers, or the error."""
    try:
        result = call()
    except Exception as error:
        return error
    return result.tolist() if isinstance(result, torch.Tensor) else result


@pytest.mark.parametrize("name", CALLS)
def test_what_is_different_on_purpose(name):
    call, why = CALLS[name]
    ours, theirs = outcome(lambda: call(lossless)), outcome(lambda: call(F))
    assert repr(ours) != repr(theirs), why
    if isinstance(ours, Exception):
        assert isinstance(ours, LosslessError)
        assert not isinstance(theirs, Exception)


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_that_are_refused_on_purpose(name):
    chosen, why = SAMPLES[name]
    samples = [
        (ours_of(op), s)
        for name, op in OPS.items()
        for dtype in op.dtypes
        for s in samples_of(name, dtype)
        if chosen(op, dtype, s)
    ]
    assert samples, why
    for ours, sample in samples:
        with pytest.raises(LosslessError):
            ours(sample.input, *sample.args, **sample.kwargs)


# ---- functions


def same(ours, exact, dtype, scale=1.0, rtol=0.0):
    """Four roundings of `dtype`, and a few of the judge: of its sums, which are of terms up to `scale`."""
    if not isinstance(ours, torch.Tensor):
        assert ours is exact
        return
    assert ours.shape == exact.shape
    rtol, atol = max(4 * torch.finfo(dtype).eps, rtol), 2**-45 * scale + torch.finfo(dtype).tiny
    close = {"rtol": rtol, "atol": atol, "equal_nan": True}
    if not torch.allclose(ours.double(), exact.double(), **close):
        torch.testing.assert_close(ours.double(), exact.double(), **close)


def same_gradient(ours, exact, dtype, scale):
    """Also one rounding of the largest component: with any cotangent the terms of a small one cancel."""
    largest = exact.nan_to_num(0, 0, 0).abs().max().item() if exact.numel() else 0.0
    same(ours, exact, dtype, scale + 2**45 * torch.finfo(dtype).eps * largest)


def double(a):
    """The same numbers, for the judge; numbers that are not floating stay."""
    return tree_map_only(torch.Tensor, lambda t: t.detach().double() if t.is_floating_point() else t, a)


def size(*arrays):
    """The largest finite number in `arrays`, times how many they may add up."""
    numbers = [a.detach().double().nan_to_num(0, 0, 0).abs() for a in arrays if isinstance(a, torch.Tensor)]
    return max([1.0, *(n.max().item() * n.numel() for n in numbers if n.numel() and not n.is_complex())])


@cache
def samples_of(name, dtype):
    torch.manual_seed(0)
    return list(OPS[name].sample_inputs("cpu", dtype, requires_grad=False))


def calls(op, dtype):
    """(the arrays, the options) of every sample that is not different on purpose."""
    for sample in samples_of(op.formatted_name, dtype):
        if not any(chosen(op, dtype, sample) for chosen, _ in SAMPLES.values()):
            yield (sample.input, *sample.args), sample.kwargs


@pytest.mark.parametrize("name", OPS)
def test_values(name, path):
    op = OPS[name]
    for dtype in sorted(op.dtypes, key=str):
        n = 0
        for args, options in calls(op, dtype):
            theirs, ours = op.op(*args, **options), ours_of(op)(*args, **options)
            assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
            floating = dtype.is_floating_point
            exact = op.op(*double(args), **double(options)) if floating else op.op(*args, **options)
            same(ours, exact, ours.dtype if floating else torch.float32, size(*args, *options.values()))
            n += 1
        assert n or dtype.is_complex


def differentiated(op, args, options):
    """The places of the tensors that PyTorch differentiates: numbers of args, names of options."""
    places = [*enumerate(args), *options.items()]
    tensors = [k for k, a in places if isinstance(a, torch.Tensor) and a.is_floating_point()]
    kind = op.name, *tensors
    if kind not in DIFFERENTIATED:
        DIFFERENTIATED[kind] = [k for k in tensors if derivatives(op.op, args, options, [k]) is not None]
    return DIFFERENTIATED[kind]


DIFFERENTIATED = {}
"""What was found, by the function and the places of its floating tensors."""


def placed(args, options, places, tensors):
    """The call with other tensors at these places."""
    args, options = list(args), dict(options)
    for k, t in zip(places, tensors, strict=True):
        (args if isinstance(k, int) else options)[k] = t
    return args, options


def derivatives(function, args, options, places, second=False):
    """The gradients over the tensors at `places`, for a fixed cotangent, and with `second` theirs; None if refused."""
    given = [args[k] if isinstance(k, int) else options[k] for k in places]
    leaves = [t.detach().clone(memory_format=torch.preserve_format).requires_grad_() for t in given]
    args, options = placed(args, options, places, leaves)
    try:
        value = function(*args, **options)
        g = (
            torch.linspace(1.0, 2.0, value.numel())
            .bfloat16()
            .to(value.dtype)
            .reshape(value.shape)
            .requires_grad_(second)
        )
        grads = torch.autograd.grad(value, leaves, g, create_graph=second)
        if not second:
            return grads
        v = [torch.linspace(-1.0, 2.0, t.numel()).to(t.dtype).reshape(t.shape) for t in grads]
        kept = [(t, d) for t, d in zip(grads, v, strict=True) if t.requires_grad]
        ts, ds = zip(*kept, strict=True) if kept else ((), ())
        wanted = [*leaves, g]
        if not ts:
            return [torch.zeros_like(a) for a in wanted]
        found = torch.autograd.grad(ts, wanted, ds, allow_unused=True)
        return [torch.zeros_like(a) if d is None else d for a, d in zip(wanted, found, strict=True)]
    except RuntimeError as error:
        if isinstance(error, LosslessError) or "differentiable" in str(error) or "not implemented" in str(error):
            return None
        raise


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", OPS)
def test_gradients(name, dtype, path):
    op = OPS[name]
    for args, options in calls(op, dtype):
        places = differentiated(op, double(args), double(options))
        assert places
        ours = derivatives(ours_of(op), args, options, places)
        exact = derivatives(op.op, double(args), double(options), places)
        for a, b in zip(ours, exact, strict=True):
            same_gradient(a, b, dtype, size(*args, *options.values(), *exact))


@pytest.mark.parametrize("name", OPS)
def test_second_derivatives(name, path):
    op = OPS[name]
    for args, options in calls(op, torch.float64):
        places = differentiated(op, args, options)
        exact = derivatives(op.op, args, options, places, second=True)
        ours = derivatives(ours_of(op), args, options, places, second=True)
        for a, b in zip(ours, exact, strict=True):
            rtol = 1e-9 if op.name == "nn.functional.binary_cross_entropy" else 0.0  # which adds 1e-12 to p (1 - p)
            same(a, b, torch.float64, 16 * size(*args, *options.values(), *exact), rtol)


@pytest.mark.parametrize("name", OPS)
def test_forward_mode(name):
    op = OPS[name]
    for args, options in calls(op, torch.float64):
        places = differentiated(op, args, options)
        given = [args[k] if isinstance(k, int) else options[k] for k in places]
        with forward_ad.dual_level():
            v = [torch.linspace(-1.0, 2.0, t.numel(), dtype=t.dtype).reshape(t.shape) for t in given]
            duals = [forward_ad.make_dual(t, d) for t, d in zip(given, v, strict=True)]
            ours, theirs = (
                forward_ad.unpack_dual(f(*a, **o)).tangent
                for f in (ours_of(op), op.op)
                for a, o in [placed(args, options, places, duals)]
            )
        same(ours, theirs, torch.float64, size(*args, *options.values(), theirs))


@pytest.mark.parametrize("name", [name for name, op in OPS.items() if op.ref])
def test_reference_inputs_in_numpy(name):
    """PyTorch's NumPy references, for our NumPy."""
    op = OPS[name]
    samples = list(op.reference_inputs("cpu", torch.float64, requires_grad=False))
    assert len(samples) > 5
    for sample in samples:
        args = [a.numpy() if isinstance(a, torch.Tensor) else a for a in (sample.input, *sample.args)]
        if op.name == "logit" and args[1:]:  # SciPy's has no eps
            expected = op.ref(args[0].clip(args[1], 1 - args[1]))
        else:
            expected = op.ref(*args, **sample.kwargs)
        np.testing.assert_allclose(ours_of(op)(*args, **sample.kwargs), expected, rtol=1e-13, atol=1e-300)


# ---- what PyTorch accepts and the samples do not have

SCORES, PROBABILITIES, WHOLE = SURE / 20, of([0.2, 0.8], [0.7, 0.3]), of([1, 0], [0, 3])

ACCEPTED = {
    "whole numbers against numbers": lambda f: f.mse_loss(WHOLE, SCORES),
    "numbers against flags": lambda f: f.mse_loss(SCORES, WHOLE.bool()),
    "gradient over a target of whole numbers": lambda f: slope(lambda t: f.mse_loss(WHOLE, t), SCORES),
    "squares weighed by flags": lambda f: f.mse_loss(SCORES, SURE, weight=WHOLE.bool()),
    "squares weighed in float64": lambda f: f.mse_loss(SCORES, SURE, weight=WHOLE.double() + 1),
    "mean of a broadcast": lambda f: f.mse_loss(SCORES, SURE[:, :1]),
    "whole class weights of probabilities": lambda f: f.cross_entropy(SCORES, PROBABILITIES, of(1, 2)),
    "flags as class weights of probabilities": lambda f: f.cross_entropy(SCORES, PROBABILITIES, of(True, False)),
    "flags as binary weights": lambda f: f.binary_cross_entropy_with_logits(SCORES, PROBABILITIES, WHOLE.bool()),
    "whole binary weights": lambda f: f.binary_cross_entropy(PROBABILITIES, PROBABILITIES, WHOLE),
    "smoothing by a tensor": lambda f: f.cross_entropy(SCORES, LABELS, label_smoothing=torch.tensor(0.1)),
    "negative smoothing": lambda f: f.cross_entropy(SCORES, LABELS, label_smoothing=-0.1),
    "smoothing by NaN": lambda f: f.cross_entropy(SCORES, LABELS, label_smoothing=torch.nan),
    "gradient over a target that is smoothed away": lambda f: slope(
        lambda t: f.cross_entropy(SCORES, t, label_smoothing=1.0), PROBABILITIES
    ),
    "size_average=0": lambda f: f.mse_loss(SCORES, SURE, size_average=0),
    "reduce=0": lambda f: f.mse_loss(SCORES, SURE, reduce=0),
    "size_average=True, reduce=False": lambda f: f.nll_loss(SCORES, LABELS, size_average=True, reduce=False),
    "the sum of batchmean": lambda f: f.kl_div(SCORES, PROBABILITIES, size_average=False, reduction="batchmean"),
    "the mean of batchmean": lambda f: f.kl_div(SCORES, PROBABILITIES, size_average=True, reduction="batchmean"),
    "batchmean of a number": lambda f: f.kl_div(of(-1.0)[0], of(0.5)[0], reduction="batchmean"),
    "elementwise_mean": lambda f: f.cross_entropy(SCORES, LABELS, reduction="elementwise_mean"),
    "a float dtype of Python": lambda f: f.softmax(SCORES, dim=1, dtype=float),
    "whole numbers converted": lambda f: f.log_softmax(WHOLE, dim=1, dtype=torch.float32),
    "a dimension in a tensor": lambda f: f.softmax(SCORES, dim=torch.tensor(1)),
    "a label to ignore in a tensor": lambda f: f.cross_entropy(SCORES, LABELS, ignore_index=torch.tensor(1)),
    "no rows": lambda f: f.cross_entropy(SCORES[:0], LABELS[:0]),
    "no rows, added": lambda f: f.nll_loss(SCORES[:0], LABELS[:0], reduction="sum"),
    "no rows of a batch mean": lambda f: f.kl_div(SCORES[:0], SCORES[:0], reduction="batchmean"),
    "labels of uint8": lambda f: f.cross_entropy(SCORES, LABELS.byte()),
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_what_pytorch_accepts(name, path):
    ours, theirs = ACCEPTED[name](lossless), ACCEPTED[name](F)
    assert ours.dtype is theirs.dtype
    torch.testing.assert_close(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("eps", [None, 0.0, 0.1, 0.5, 0.7, 1.0, 1.5, -1.0])
def test_any_eps_of_logit(eps):
    p = of(-0.1, 0.0, 0.05, 0.3, 0.5, 0.6, 0.85, 1.0, 1.1, torch.nan, dtype=torch.float64)
    ours, theirs = lossless.logit(p, eps), torch.logit(p, eps)
    torch.testing.assert_close(ours, theirs, equal_nan=True)
    torch.testing.assert_close(
        slope(lambda p: lossless.logit(p, eps), p), slope(lambda p: torch.logit(p, eps), p), equal_nan=True
    )
    torch.testing.assert_close(torch.tensor(lossless.logit(p.numpy(), eps)), theirs, equal_nan=True)


# ---- modules


def module_calls(info, dtype):
    torch.manual_seed(0)
    inputs = [
        (m.constructor_input, m.forward_input, m.reference_fn)
        for m in info.module_inputs_func(info, device="cpu", dtype=dtype, requires_grad=False, training=True)
    ]
    for built, _, _ in inputs:  # PyTorch draws weights of both signs, whose sum, by which a mean divides, cancels
        tree_map_only(torch.Tensor, torch.Tensor.abs_, (built.args, built.kwargs))
    return inputs


def test_every_module_that_pytorch_tests():
    ours = {n for n, c in vars(nn).items() if inspect.isclass(c) and issubclass(c, torch.nn.Module)}
    assert set(MODULES) == ours & {n for n in dir(torch.nn) if not n.startswith("_")} - {"Module"}


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("name", MODULES)
def test_modules(name, dtype, path):
    info = MODULES[name]
    if dtype not in info.dtypes:
        pytest.skip(f"PyTorch has no inputs of {dtype}")
    for built, given, reference in module_calls(info, dtype):
        make = getattr(nn, name)
        ours, theirs = make(*built.args, **built.kwargs), info.module_cls(*built.args, **built.kwargs)
        assert isinstance(ours, info.module_cls)
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        value, expected = ours(*given.args, **given.kwargs), theirs(*given.args, **given.kwargs)
        assert (value.dtype, value.shape) == (expected.dtype, expected.shape)
        exact = info.module_cls(*double(built.args), **double(built.kwargs)).double()
        scale = size(*given.args) * prod(max(1, s) for s in value.shape)
        same(value, exact(*double(given.args), **double(given.kwargs)), dtype, scale)
        if reference is not None and dtype is torch.float64:
            same(value, reference(ours, *given.args, **given.kwargs), dtype, scale)
        x, *rest = given.args
        (a,) = derivatives(ours, [x, *rest], given.kwargs, [0])
        (b,) = derivatives(exact, double([x, *rest]), double(given.kwargs), [0])
        same_gradient(a, b, dtype, scale)


@pytest.mark.parametrize("name", [name for name, info in MODULES.items() if info.module_error_inputs_func])
def test_module_errors(name):
    info = MODULES[name]
    make = getattr(nn, name)
    bad = info.module_error_inputs_func(info, device="cpu", dtype=torch.float32, requires_grad=False, training=True)
    assert bad
    for case in bad:
        built, given = case.module_error_input.constructor_input, case.module_error_input.forward_input
        if case.error_on == ModuleErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(case.error_type, match=case.error_regex):
                make(*built.args, **built.kwargs)
        else:
            pattern = ERRORS.get(name, (case.error_regex,))[0]
            with pytest.raises(case.error_type, match=pattern):
                make(*built.args, **built.kwargs)(*given.args, **given.kwargs)
            assert (re.search(case.error_regex, pattern) is None) == (name in ERRORS)
