"""Bad input: an error each, of PyTorch's type and with its first line, that says what was seen, where, and the fix."""

import inspect
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import lossless
from lossless import errors

pytestmark = pytest.mark.usefixtures("path")

X, Y = torch.zeros(4, 3), torch.tensor([0, 1, 2, 0])
T = torch.full((4, 3), 0.5)
PIXELS, VOLUME = torch.zeros(2, 4, 3, 3), torch.zeros(2, 4, 3, 3, 3)


def long(*shape):
    return torch.zeros(shape, dtype=torch.long)


# Calls that PyTorch rejects too: function, arguments, what our message adds (empty: the first line says it all).
REJECTED = {
    "label too large": ("cross_entropy", (X, torch.tensor([0, 5, 2, 0])), r"target\[1\] is 5, but input has 3 classes"),
    "label negative": ("cross_entropy", (X, torch.tensor([0, 1, -7, 0])), r"target\[2\] is -7.*1 of 4 labels"),
    "nll label": ("nll_loss", (X, torch.tensor([0, 5, 2, 0])), r"target\[1\] is 5"),
    "pixel label": ("cross_entropy", (PIXELS, long(2, 3, 3) + 4), r"target\[0, 0, 0\] is 4.*18 of 18"),
    "boolean labels": ("cross_entropy", (X, Y.bool()), "has dtype bool"),
    "float labels": ("cross_entropy", (X, Y.float()), "convert it to int64"),
    "nll float labels": ("nll_loss", (X, Y.float()), "convert it to int64"),
    "one-hot integers": ("cross_entropy", (X, F.one_hot(Y, 3)), "one-hot.*or pass the class numbers"),
    "one-hot booleans": ("cross_entropy", (X, F.one_hot(Y, 3).bool()), "one-hot"),
    "labels in the shape of scores": ("cross_entropy", (torch.zeros(4), Y), "read as probabilities"),
    "column of labels": ("cross_entropy", (X, Y[:, None]), r"must have shape \[4\].*\n.*reshape\(\(4,\)\)"),
    "nll column of labels": ("nll_loss", (X, Y[:, None]), r"reshape\(\(4,\)\)"),
    "nll probabilities": ("nll_loss", (X, T), r"must have shape \[4\]"),
    "fewer labels": ("cross_entropy", (X, Y[:3]), r"must have shape \[4\]"),
    "one label for a batch": ("cross_entropy", (X, torch.tensor(0)), r"has shape \[\]"),
    "two labels for a row": ("cross_entropy", (torch.zeros(3), Y[:2]), r"must have shape \[\]"),
    "sequence": ("cross_entropy", (torch.zeros(2, 4, 3), long(2, 5)), r"must have shape \[2, 3\]"),
    "classes last": ("cross_entropy", (torch.zeros(2, 3, 5), long(2, 3)), "the last dimension of input: pass dim=-1"),
    "sequence rank": ("cross_entropy", (torch.zeros(2, 4, 3), long(2)), r"must have shape \[2, 3\]"),
    "image rank": ("cross_entropy", (PIXELS, long(2, 3)), r"must have shape \[2, 3, 3\]"),
    "image rank 4": ("cross_entropy", (PIXELS, long(2, 1, 3, 3)), r"reshape\(\(2, 3, 3\)\)"),
    "image size": ("cross_entropy", (PIXELS, long(2, 3, 4)), r"must have shape \[2, 3, 3\]"),
    "volume size": ("cross_entropy", (VOLUME, long(2, 3, 3, 4)), r"must have shape \[2, 3, 3, 3\]"),
    "volume rank": ("cross_entropy", (VOLUME, long(2, 3, 3)), r"must have shape \[2, 3, 3, 3\]"),
    "weight length": ("cross_entropy", (X, Y, torch.ones(4)), r"weight must have shape \[3\]"),
    "weight rank": ("cross_entropy", (X, Y, torch.ones(1, 3)), r"weight must have shape \[3\]"),
    "nll weight": ("nll_loss", (X, Y, torch.ones(4)), r"weight must have shape \[3\]"),
    "ignored probabilities": ("cross_entropy", (X, T, None, None, 0), "ignore_index is 0"),
    "smoothing": ("cross_entropy", (X, Y, None, None, -100, None, "mean", 1.5), ""),
    "reduction": ("cross_entropy", (X, Y, None, None, -100, None, "max"), "'none', 'mean' or 'sum'"),
    "no reduction": ("mse_loss", (X, T, None, None, None), "'none', 'mean' or 'sum'"),
    "bce shape": ("binary_cross_entropy_with_logits", (X, T[:2]), ""),
    "bce integers": ("binary_cross_entropy_with_logits", (X, long(4, 3)), "convert it to float32"),
    "bce weight": ("binary_cross_entropy_with_logits", (X, T, torch.ones(5)), r"weight has shape \[5\]"),
    "bce weight rank": ("binary_cross_entropy_with_logits", (X, T, torch.ones(2, 4, 3)), "more dimensions"),
    "bce probabilities shape": ("binary_cross_entropy", (T, T[:2]), ""),
    "bce probabilities integers": ("binary_cross_entropy", (T, long(4, 3)), "convert it to float32"),
    "bce probabilities weight": ("binary_cross_entropy", (T, T, torch.ones(5)), r"weight has shape \[5\]"),
    "bce probabilities weights": ("binary_cross_entropy", (T, T, torch.ones(2, 3)), r"weight has shape \[2, 3\]"),
    "bce probabilities weight rank": ("binary_cross_entropy", (T, T, torch.ones(2, 1, 3)), "more dimensions"),
    "bce of logits": (
        "binary_cross_entropy",
        (4 * T - 3, T),
        r"from -1 to -1, .*input\[0, 0\] is -1, 12 of 12 are outside.*with_logits",
    ),
    "bce of a marked target": (
        "binary_cross_entropy",
        (T, torch.eye(4, 3) * -2 + 1),
        r"target\[0, 0\] is -1, 3 of 12 are outside.*ignore_index=-1",
    ),
    "bce target": ("binary_cross_entropy", (T, 3 * T), "from 1.5 to 1.5"),
    "bce reduction": ("binary_cross_entropy", (T, T, None, None, None, "batchmean"), "'none', 'mean' or 'sum'"),
    "kl integers": ("kl_div", (X.long(), T), "input has dtype int64"),
    "kl target integers": ("kl_div", (X, T.long()), "target has dtype int64"),
    "kl booleans": ("kl_div", (X, T.bool()), "target has dtype bool"),
    "kl complex": ("kl_div", (X.cfloat(), T), "input has dtype complex64"),
    "kl shape": ("kl_div", (X, T[:2]), r"input has shape \[4, 3\] and target \[2, 3\]"),
    "kl reduction": ("kl_div", (X, T, None, None, "max"), "'none', 'mean' or 'sum'"),
    "mse shape": ("mse_loss", (X, T[:2]), r"input has shape \[4, 3\] and target \[2, 3\]"),
    "mse weight": ("mse_loss", (X, T, None, None, "mean", torch.ones(3)), r"weight has shape \[3\]"),
    "no dimension": ("softmax", (X, 2), ""),
}


def raised(call):
    with pytest.raises(Exception) as info:  # noqa: PT011 - which one is compared by the caller
        call()
    return info.value


@pytest.mark.parametrize("name", REJECTED)
@pytest.mark.parametrize("framework", ["torch", "numpy"])
def test_pytorch_rejects_it_too(name, framework):
    function, arguments, addition = REJECTED[name]
    theirs = raised(lambda: getattr(F, function)(*arguments))
    if framework == "numpy":
        arguments = tuple(a.numpy() if isinstance(a, torch.Tensor) else a for a in arguments)
    before = [a.tobytes() if isinstance(a, np.ndarray) else a.clone() if isinstance(a, torch.Tensor) else a
              for a in arguments]  # fmt: skip
    ours = raised(lambda: getattr(lossless, function)(*arguments))
    assert isinstance(ours, type(theirs))
    assert isinstance(ours, errors.LosslessError)
    first = str(ours).splitlines()[0]
    expected = str(theirs).splitlines()[0].removeprefix("cross_entropy: ")
    if framework == "numpy":
        expected = re.sub(r"torch\.Size\(\[(\d+)\]\)", r"(\1,)", expected)
        expected = re.sub(r"torch\.Size\(\[(.*?)\]\)", r"(\1)", expected)
    assert first == expected
    assert not addition or _matches(addition, str(ours).partition("\n")[2])
    for a, b in zip(arguments, before, strict=True):
        assert (a.tobytes() == b) if isinstance(a, np.ndarray) else a is b or torch.equal(a, b)


def _matches(pattern, text):
    return re.search(pattern, text, re.DOTALL) is not None


@pytest.mark.parametrize("make", [torch.tensor, np.array], ids=["torch", "numpy"])
@pytest.mark.parametrize("function", ["cross_entropy", "nll_loss", "row_statistics"])
def test_labels_that_start_at_one(make, function):
    call = getattr(lossless, function)
    with pytest.raises(IndexError, match=r"Target 3 is out of bounds.*\n.*\nThe labels look 1-based.*subtract 1"):
        call(make([[0.0, 1, 2]] * 3), make([1, 2, 3]))
    with pytest.raises(errors.TargetIndexError, match=r"(?s)^((?!1-based).)*$"):
        call(make([[0.0, 1, 2]] * 3), make([0, 2, 3]))


@pytest.mark.parametrize("marker", [-1, 255])
def test_labels_that_mark_rows_to_leave_out(marker):
    with pytest.raises(ValueError, match=f"pass ignore_index={marker}"):
        lossless.cross_entropy(np.zeros((3, 3)), np.array([0, marker, 1]))


def test_errors_have_the_bases_of_both_worlds():
    assert issubclass(errors.TargetIndexError, (IndexError, ValueError))
    for error in vars(errors).values():
        if inspect.isclass(error) and issubclass(error, errors.LosslessError) and error is not errors.LosslessError:
            assert any(base.__module__ == "builtins" for base in error.__bases__), error


@pytest.mark.parametrize("dtype", [torch.long, torch.bool, torch.int32, torch.complex64])
@pytest.mark.parametrize(
    "call",
    [
        lambda x: lossless.cross_entropy(x, x[:, 0]),
        lambda x: lossless.nll_loss(x, x[:, 0]),
        lambda x: lossless.binary_cross_entropy_with_logits(x, x),
        lambda x: lossless.binary_cross_entropy(x, x),
        lambda x: lossless.sigmoid_focal_loss(x, x),
        lambda x: lossless.logsigmoid(x),
        lambda x: lossless.mse_loss(x, x),
        lambda x: lossless.rmse_loss(x, x),
        lambda x: lossless.softmax(x),
        lambda x: lossless.log_softmax(x),
        lambda x: lossless.row_statistics(x),
        lambda x: lossless.info.entropy(x),
    ],
)
def test_logits_must_be_real_floating_point(dtype, call):
    x = torch.ones(4, 3).to(dtype)
    for array in (x, x.numpy()):
        error = raised(lambda array=array: call(array))
        assert isinstance(error, NotImplementedError)
        assert isinstance(error, TypeError)
        assert "not implemented for '" in str(error).splitlines()[0]
        assert f"has dtype {str(dtype).removeprefix('torch.')}" in str(error)


@pytest.mark.parametrize("call", [lossless.sigmoid, lossless.logit, lossless.logsumexp])
def test_scores_must_be_real(call):
    for array in (X.cfloat(), X.cfloat().numpy()):
        with pytest.raises(NotImplementedError, match=r"not implemented for 'ComplexFloat'\n.*take its real part"):
            call(array)


MIXES = {
    "numpy target": ("cross_entropy", (X, Y.numpy()), "target", 2, "numpy.ndarray"),
    "list target": ("cross_entropy", (X, Y.tolist()), "target", 2, "list"),
    "numpy input": ("cross_entropy", (X.numpy(), Y), "input", 1, "numpy.ndarray"),
    "list input": ("nll_loss", (X.tolist(), Y), "input", 1, "list"),
    "numpy weight": ("cross_entropy", (X, Y, np.ones(3)), "weight", 3, "numpy.ndarray"),
    "number": ("mse_loss", (X, 0.0), "target", 2, "float"),
    "numpy in bce": ("binary_cross_entropy_with_logits", (X, T.numpy()), "target", 2, "numpy.ndarray"),
    "numpy in focal": ("sigmoid_focal_loss", (X, T.numpy()), "targets", 2, "numpy.ndarray"),
    "numpy in kl": ("kl_div", (X.numpy(), T), "input", 1, "numpy.ndarray"),
    "numpy in rmse": ("rmse_loss", (X, T.numpy()), "target", 2, "numpy.ndarray"),
    "numpy in statistics": ("row_statistics", (X.numpy(), Y), "input", 1, "numpy.ndarray"),
}


@pytest.mark.parametrize("name", MIXES)
def test_a_mix_of_frameworks_names_both(name):
    function, arguments, odd, position, kind = MIXES[name]
    with pytest.raises(TypeError) as info:
        getattr(lossless, function)(*arguments)
    first, second = str(info.value).splitlines()
    assert first == f"{function}(): argument '{odd}' (position {position}) must be Tensor, not {kind}"
    assert "torch.Tensor" in second
    assert kind in second


def test_arrays_that_hold_no_numbers():
    for array in (np.array([[1.0, None]]), np.array([[1.0, 2.0]], dtype=object)):
        with pytest.raises(TypeError, match="array of Python objects"):
            lossless.softmax(array)
        with pytest.raises(TypeError, match="array of Python objects"):
            lossless.mse_loss(np.zeros((1, 2)), array)
    with pytest.raises(TypeError, match="mask would be lost"):
        lossless.softmax(np.ma.masked_array([1.0, 2.0], [True, False]))
    with pytest.raises(TypeError, match="has dtype <U1"):
        lossless.softmax(np.array(["a", "b"]))
    with pytest.raises(TypeError, match="has dtype datetime64"):
        lossless.mse_loss(np.zeros(1), np.array(["2020-01-01"], "datetime64[D]"))
    with pytest.raises(errors.ShapeError, match="input is no array: its rows differ in length"):
        lossless.softmax([[1.0], [1.0, 2.0]])
    with pytest.raises(errors.ShapeError, match="target is no array: its rows differ in length"):
        lossless.cross_entropy(np.zeros((2, 2)), [[1.0], [1.0, 2.0]])


def test_arrays_of_other_frameworks():
    class Foreign:
        __module__ = "elsewhere"

        def __dlpack__(self):
            raise AssertionError("nobody may look inside")

    with pytest.raises(TypeError, match=r"input is a elsewhere.*Foreign; supported are NumPy arrays"):
        lossless.softmax(Foreign())


def test_tensors_without_numbers():
    def trace(call):
        return make_fx(lambda x: call(x), tracing_mode="symbolic")(X)

    with FakeTensorMode(), pytest.raises(TypeError, match="FakeTensor"):
        lossless.cross_entropy(torch.zeros(4, 3), torch.zeros(4, dtype=torch.long))
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(X)
    for call in (lossless.softmax, lossless.row_statistics, lambda x: lossless.mse_loss(x, x), lossless.info.entropy):
        with pytest.raises(TypeError, match="FakeTensor"):
            call(fake)
        with pytest.raises(TypeError, match="FakeTensor"):  # whose sizes are symbols, and cannot be hashed
            trace(call)
    with pytest.raises(TypeError, match="target is a FakeTensor"):
        lossless.cross_entropy(X, mode.from_tensor(Y))
    with pytest.raises(TypeError, match=r"input has layout torch.sparse_coo.*to_dense"):
        lossless.cross_entropy(X.to_sparse(), Y)


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda s: lossless.sigmoid_focal_loss(s, T), "inputs"),
        (lambda s: lossless.sigmoid_focal_loss(T, s), "targets"),
        (lambda s: lossless.categorical_cross_entropy(s, T), "input"),
        (lambda s: lossless.categorical_cross_entropy(T, s), "target"),
        (lambda s: lossless.inverse_softmax(s), "input"),
        (lambda s: lossless.info.entropy(s), "p"),
        (lambda s: lossless.info.js_divergence(T, s), "q"),
        (lambda s: lossless.info.k3(T, s), "logq"),
    ],
)
def test_errors_name_the_argument(call, name):
    with pytest.raises(TypeError, match=f": {name} has layout torch.sparse_coo"):
        call(T.to_sparse())
    with pytest.raises((TypeError, ValueError), match=f"{name}( has dtype| holds values)"):
        call(-X.long() - 1 if name == "target" else X.cfloat())


def test_meta_tensors_have_shapes_only():
    loss = lossless.cross_entropy(X.to("meta"), Y.to("meta"), reduction="none")
    assert loss.is_meta
    assert loss.shape == (4,)
    assert lossless.nll_loss(X.to("meta"), Y.to("meta")).is_meta
    assert lossless.mse_loss(X.to("meta"), X.to("meta")).is_meta


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: lossless.cross_entropy(np.float64(1.0), np.int64(0)), "Expected 1 or more dimensions"),
        (lambda: lossless.nll_loss(torch.tensor(1.0), torch.tensor(0)), "Expected 1 or more dimensions"),
        (lambda: lossless.cross_entropy(np.zeros((4, 0)), np.zeros(4, int)), "no classes in dimension 1"),
        (lambda: lossless.row_statistics(torch.zeros(4, 0)), "no classes in dimension 1"),
        (lambda: lossless.row_statistics(X, Y, dim=2), "Dimension out of range"),
        (lambda: lossless.row_statistics(X, Y, dim=0), r"must have\s+shape \[3\]"),
        (lambda: lossless.row_statistics(X, prior=torch.ones(4)), "prior tensor should be defined"),
        (lambda: lossless.row_statistics(X, T, ignore_index=0), "ignore_index is not supported"),
        (lambda: lossless.logsumexp(X, (0, -2)), "appears multiple times"),
        (lambda: lossless.softmax(X, temperature=0.0), "temperature got 0.0, expected a positive number"),
        (lambda: lossless.softmax(X, temperature=float("nan")), "temperature got nan"),
        (lambda: lossless.log_softmax(X, temperature=torch.tensor(-2.0)), "temperature got -2.0"),
        (lambda: lossless.log_softmax(X, temperature=10**400), "temperature is a number too large for a float"),
        (lambda: lossless.cross_entropy(X, Y, denominator=10**400), "denominator is a number too large for a float"),
        (lambda: lossless.focal_loss(X, Y, gamma=10**400), "gamma is a number too large for a float"),
        (lambda: lossless.inverse_softmax(T, center=np.array(["mean", "max"])), "center got array.*, expected 'mean'"),
        (lambda: lossless.info.entropy(T, kind=np.array(["probs"])), "kind got array.*, expected 'probs', 'logits' or"),
        (lambda: BCE(T, T, clamp=np.array([0.0, 1.0])), "clamp got array.*, expected 'torch' or None"),
        (lambda: LOGITS(T, T, reduction=np.array(["none", "sum"])), "is not a valid value for reduction"),
        (lambda: lossless.sigmoid_focal_loss(X, T, reduction=np.array(["none"])), "Invalid Value for arg 'reduction'"),
        (lambda: lossless.rmse_loss(X, T[0]), r"input has shape \[4, 3\] and target \[3\], expected the same"),
        (lambda: lossless.rmse_loss(X, T, reduction="max"), "not a valid value for reduction"),
        (lambda: lossless.set_num_threads(0), "expected at least 1"),
    ],
)
def test_calls_that_have_no_meaning(call, match):
    with pytest.raises(ValueError, match=match):
        call()


BCE, LOGITS = lossless.binary_cross_entropy, lossless.binary_cross_entropy_with_logits
NONSENSE = {
    "smoothing": (lambda: LOGITS(X, T, label_smoothing=1.5), r"must be between 0.0 and 1.0. Got: 1.5"),
    "negative smoothing": (lambda: BCE(T, T, label_smoothing=-0.1), r"must be between 0.0 and 1.0. Got: -0.1"),
    "clamp": (lambda: BCE(T, T, clamp=1e-7), "clamp got 1e-07, expected 'torch' or None"),
    "NaN": (lambda: BCE(T / 0 - torch.inf, T), "(?s)input should be between 0 and 1.*no numbers, .*12 of 12 are NaN"),
    "sample weight": (
        lambda: LOGITS(X, T, sample_weight=torch.ones(3)),
        r"sample_weight has shape \[3\].*sample, \[4\]",
    ),
    "sample weight rank": (
        lambda: BCE(T, T, sample_weight=torch.ones(4, 3, 1)),
        r"sample_weight has shape \[4, 3, 1\]",
    ),
    "denominator": (lambda: LOGITS(X, T, denominator="rows"), "denominator got 'rows', expected None, 'weights'"),
    "denominator of a sum": (lambda: BCE(T, T, reduction="sum", denominator="count"), "expected reduction='mean'"),
    "denominator zero": (lambda: LOGITS(X, T, denominator=0), "expected a positive number"),
    "denominators": (lambda: LOGITS(X, T, denominator=torch.ones(2)), r"Tensor of shape \[2\]"),
    "alpha": (lambda: lossless.sigmoid_focal_loss(X, T, alpha=1.5), "Invalid alpha value: 1.5. alpha must be in"),
    "negative alpha": (lambda: lossless.sigmoid_focal_loss(X, T, -0.5), "Invalid alpha value: -0.5"),
    "gamma": (lambda: lossless.sigmoid_focal_loss(X, T, gamma=-1), "gamma got -1.0, expected a number >= 0"),
    "focal reduction": (
        lambda: lossless.sigmoid_focal_loss(X, T, reduction="max"),
        "Invalid Value for arg 'reduction': 'max \n Supported reduction modes: 'none', 'mean', 'sum'",
    ),
    "focal shape": (lambda: lossless.sigmoid_focal_loss(X, T[:2]), "must be the same as input size"),
    "focal integers": (
        lambda: lossless.sigmoid_focal_loss(X, T.long()),
        "can't be cast to the desired output type Long",
    ),
    "eps": (lambda: lossless.logit(T, "0.1"), r"logit\(\): argument 'eps' must be float, not str"),
    "dtype": (lambda: lossless.softmax(X, dtype="abc"), r"argument 'dtype' must be torch.dtype, not str\n.*'abc'"),
    "dtype of NumPy": (lambda: lossless.softmax(X, dtype=np.float32), "argument 'dtype' must be torch.dtype, not type"),
    "dtype in NumPy": (lambda: lossless.log_softmax(X.numpy(), dtype="abc"), "'dtype' must be a NumPy dtype\n.*'abc'"),
    "dim": (lambda: lossless.rmse_loss(X, T, dim="abc"), "argument 'dim' must be tuple of ints, not str\n.*'abc'"),
    "dims": (lambda: lossless.logsumexp(X, (0, 1.5)), r"logsumexp\(\): argument 'dim' must be tuple of ints"),
    "array of flags": (
        lambda: lossless.kl_div(X, T, log_target=np.array([True, False])),
        "argument 'log_target' must be bool, not ndarray",
    ),
    "keepdim": (lambda: lossless.logsumexp(X, 1, torch.ones(2)), "argument 'keepdim' must be bool, not Tensor"),
    "from_logits": (
        lambda: lossless.categorical_cross_entropy(T, T, from_logits="no"),
        "argument 'from_logits' must be bool, not str",
    ),
    "normalize": (lambda: lossless.info.entropy(T, normalize=[1]), "argument 'normalize' must be bool, not list"),
    "size_average": (lambda: LOGITS(X, T, size_average=np.ones(2)), "argument 'size_average' must be bool"),
}


@pytest.mark.parametrize("name", NONSENSE)
def test_options_of_elementwise_functions_that_have_no_meaning(name):
    call, match = NONSENSE[name]
    with pytest.raises((ValueError, TypeError), match=match):
        call()


def test_probabilities_of_ignored_elements_may_be_anything():
    p, t = torch.tensor([0.5, 7.0, torch.nan]), torch.tensor([1.0, -1.0, -1.0])
    assert lossless.binary_cross_entropy(p, t, ignore_index=-1).item() == pytest.approx(np.log(2))
    assert lossless.binary_cross_entropy(p.numpy(), t.numpy(), ignore_index=-1) == pytest.approx(np.log(2))
    with pytest.raises(RuntimeError, match="all elements of input should be between 0 and 1"):
        lossless.binary_cross_entropy(p, t, ignore_index=-100)


def test_options_of_another_framework():
    with pytest.raises(TypeError, match="argument 'denominator'"):
        lossless.binary_cross_entropy_with_logits(X, T, denominator=np.array(3.0))
    with pytest.raises(TypeError, match="argument 'sample_weight'"):
        lossless.binary_cross_entropy(T, T, sample_weight=np.ones(4))


def test_ignore_index_is_a_label():
    with pytest.raises(TypeError, match="argument 'ignore_index' must be int, not float"):
        lossless.cross_entropy(X, Y, ignore_index=1.5)


def test_class_weights_of_another_precision():
    with pytest.raises(RuntimeError, match=r"expected scalar type .* but found Long"):
        lossless.cross_entropy(X, Y, torch.ones(3, dtype=torch.long))


def test_tensors_on_different_devices():
    with pytest.raises(RuntimeError, match=r"device|meta"):
        lossless.cross_entropy(X, Y.to("meta"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ignore_index": 1.0}, "argument 'ignore_index' must be int, not float"),
        ({"ignore_index": [1]}, "argument 'ignore_index' must be int, not list"),
        ({"ignore_index": 2**70}, "no 64-bit integer"),
        ({"label_smoothing": None}, "argument 'label_smoothing' must be float, not NoneType"),
        ({"label_smoothing": torch.ones(1)}, "argument 'label_smoothing' must be float, not Tensor"),
        ({"label_smoothing": torch.tensor(0.1, requires_grad=True)}, "not Tensor, which would get no gradient"),
        ({"temperature": torch.tensor(2.0, requires_grad=True)}, "argument 'temperature' must be float, not Tensor"),
    ],
)
def test_options_of_the_wrong_kind(options, message):
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    lossless.cross_entropy(x, y, ignore_index=1, label_smoothing=0.1)  # a cached plan must not let the next one pass
    with pytest.raises((TypeError, ValueError), match=message):
        lossless.cross_entropy(x, y, **options)


def test_a_missing_array_is_named():
    for x in (torch.randn(4, 3), np.zeros((4, 3))):
        with pytest.raises(TypeError, match=r"argument 'target' \(position 2\) must be Tensor, not NoneType"):
            lossless.cross_entropy(x, None)


def test_weights_that_float32_cannot_hold(path):
    x, y, w = torch.randn(4, 3), torch.tensor([0, 1, 2, 1]), torch.full((3,), 1e-50, dtype=torch.float64)
    if path == "reference":  # computes in float64
        torch.testing.assert_close(lossless.cross_entropy(x, y, w), F.cross_entropy(x, y))
    else:
        with pytest.raises(ValueError, match="1e-50, which float32 cannot"):
            lossless.cross_entropy(x, y, w)
