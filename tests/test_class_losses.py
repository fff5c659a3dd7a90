"""What cross-entropy and its relatives offer beyond PyTorch: options, denominators, dimensions, focal, Keras's names.

Expected values are the definitions written out in float64 NumPy; `test_accuracy.py` judges the digits.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import lossless
from lossless import errors

pytestmark = pytest.mark.usefixtures("path")

RNG = np.random.default_rng(0)
N, C = 6, 4
X = RNG.normal(size=(N, C)) * 2
Y = np.array([0, 1, -100, 3, 2, 1])
T = RNG.dirichlet(np.ones(C), size=N)
W, A, S = RNG.uniform(0.5, 2, C), RNG.uniform(0.1, 1, C), RNG.uniform(0.5, 2, N)
P = RNG.dirichlet(np.ones(C), size=N)

frameworks = pytest.mark.parametrize("place", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
targets = pytest.mark.parametrize("soft", [False, True], ids=["labels", "probabilities"])


def place_all(place, options):
    return {name: place(v) if isinstance(v, np.ndarray) else v for name, v in options.items()}


def definition(
    soft, *, weight=None, sample_weight=None, smoothing=0.0, z_loss=0.0, temperature=1.0, gamma=0.0, alpha=None
):
    """(row losses with ignored rows 0, and the denominators by name), as product definitions read."""
    x = X / temperature
    lse = np.log(np.exp(x).sum(1))
    costs = lse[:, None] - x
    w = np.ones(C) if weight is None else weight
    s = np.ones(N) if sample_weight is None else sample_weight
    kept = np.ones(N, bool) if soft else Y >= 0
    t = T if soft else np.eye(C)[np.where(kept, Y, 0)]
    factor = np.ones(C) if alpha is None else alpha
    f = (1 - np.exp(-costs)) ** gamma * costs
    smooth = (1 - smoothing) * t @ np.diag(w * factor) + smoothing / C * w
    if not soft:  # the label's weight, and every class's own in the smooth part
        smooth = (1 - smoothing) * t * (t @ (w * factor))[:, None] + smoothing / C * w
    rows = s * ((smooth * f).sum(1) + z_loss * lse**2)
    divisors = {
        None: (s * (np.ones(N) if soft else t @ w))[kept].sum(),
        "weights": (s * (t @ w))[kept].sum(),
        "count": kept.sum(),
        "batch": N,
        "positives": max(1.0, t[kept].sum()),
        7.0: 7.0,
    }
    return np.where(kept, rows, 0.0), divisors


OPTIONS = {
    "nothing": {},
    "weight": {"weight": W},
    "smoothing": {"label_smoothing": 0.1},
    "smoothing and weight": {"label_smoothing": 0.3, "weight": W},
    "sample weight": {"sample_weight": S},
    "z-loss": {"z_loss": 0.1},
    "temperature": {"temperature": 1.7},
    "all": {"weight": W, "label_smoothing": 0.2, "sample_weight": S, "z_loss": 0.05, "temperature": 0.6},
}


@frameworks
@targets
@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_cross_entropy(name, soft, place):
    options = OPTIONS[name]
    renamed = {("smoothing" if k == "label_smoothing" else k): v for k, v in options.items()}
    rows, divisors = definition(soft, **renamed)
    given = place_all(place, options)
    x, target = place(X), place(T if soft else Y)
    np.testing.assert_allclose(lossless.cross_entropy(x, target, reduction="none", **given), rows, rtol=1e-12)
    np.testing.assert_allclose(lossless.cross_entropy(x, target, reduction="sum", **given), rows.sum(), rtol=1e-12)
    for denominator in (None, "weights", "count", "batch", 7.0):
        mean = lossless.cross_entropy(x, target, denominator=denominator, **given)
        np.testing.assert_allclose(mean, rows.sum() / divisors[denominator], rtol=1e-12)
    mean = lossless.cross_entropy(x, target, denominator=place(np.array(7.0)), **given)
    np.testing.assert_allclose(mean, rows.sum() / 7.0, rtol=1e-12)


@frameworks
@targets
@pytest.mark.parametrize("gamma", [0, 0.5, 2.0])
@pytest.mark.parametrize("extras", [{}, {"weight": W}, {"alpha": A}, {"weight": W, "alpha": A, "sample_weight": S}])
def test_focal_loss(extras, gamma, soft, place):
    rows, divisors = definition(soft, gamma=gamma, **extras)
    given = {"gamma": gamma, **place_all(place, extras)}
    x, target = place(X), place(T if soft else Y)
    np.testing.assert_allclose(lossless.focal_loss(x, target, reduction="none", **given), rows, rtol=1e-12)
    for denominator in (None, "weights", "count", "batch", "positives", 7.0):
        mean = lossless.focal_loss(x, target, denominator=denominator, **given)
        np.testing.assert_allclose(mean, rows.sum() / divisors[denominator], rtol=1e-12)


@frameworks
def test_a_number_for_alpha_is_the_share_of_class_one(place):
    x, y = place(X[:, :2].copy()), place(np.array([0, 1, 1, 0, 1, 0]))
    vector = lossless.focal_loss(x, y, alpha=place(np.array([0.75, 0.25])))
    np.testing.assert_allclose(lossless.focal_loss(x, y, alpha=0.25), vector, rtol=1e-15)
    sigmoid = lossless.sigmoid_focal_loss(x[:, 1] - x[:, 0], place(np.array([0.0, 1, 1, 0, 1, 0])), reduction="mean")
    np.testing.assert_allclose(lossless.focal_loss(x, y, alpha=0.25), sigmoid, rtol=1e-12)


@frameworks
def test_labels_and_their_one_hot_form_agree_over_weights(place):
    kept = Y >= 0
    one_hot = np.eye(C)[Y[kept]]
    for options in ({}, {"label_smoothing": 0.2}, {"sample_weight": S[kept]}):
        given = place_all(place, {**options, "weight": W, "denominator": "weights"})
        by_label = lossless.cross_entropy(place(X[kept]), place(Y[kept]), **given)
        by_class = lossless.cross_entropy(place(X[kept]), place(one_hot), **given)
        np.testing.assert_allclose(by_class, by_label, rtol=1e-13)


@frameworks
def test_micro_batches_with_the_whole_count_add_up_to_the_batch(place):
    whole = lossless.cross_entropy(place(X), place(Y), denominator="count")
    count = place(np.array(float((Y >= 0).sum())))
    parts = [lossless.cross_entropy(place(X[i : i + 2]), place(Y[i : i + 2]), denominator=count) for i in (0, 2, 4)]
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-14)


@pytest.mark.parametrize("classes", [5, 100], ids=["few classes", "many classes"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_classes_in_any_dimension_give_the_same_bits(classes, dtype):
    x, y = torch.randn(2, 3, 4, classes, dtype=dtype), torch.randint(classes, (2, 3, 4))
    t, s = x.softmax(-1), torch.rand(2, 3, 4, dtype=dtype)
    weight = torch.rand(classes, dtype=dtype)
    for loss, target, options in (
        (lossless.cross_entropy, y, {"z_loss": 0.1}),
        (lossless.cross_entropy, y, {"weight": weight}),
        (lossless.cross_entropy, t, {"label_smoothing": 0.1}),
        (lossless.focal_loss, y, {"alpha": weight}),
        (lossless.focal_loss, t, {}),
    ):
        leaf = x.clone().requires_grad_()
        last = loss(leaf, target, dim=-1, sample_weight=s, reduction="none", **options)
        (slope,) = torch.autograd.grad(last.sum(), leaf)
        for dim in range(4):
            moved = x.movedim(-1, dim).contiguous().requires_grad_()
            aligned = target.movedim(-1, dim) if target.is_floating_point() else target
            found = loss(moved, aligned, dim=dim, sample_weight=s, reduction="none", **options)
            assert torch.equal(found, last)
            (found_slope,) = torch.autograd.grad(found.sum(), moved)
            assert torch.equal(found_slope.movedim(dim, -1), slope)
    np.testing.assert_array_equal(
        lossless.cross_entropy(x.numpy(), y.numpy(), dim=3, reduction="none"),
        lossless.cross_entropy(x.movedim(-1, 1).numpy(), y.numpy(), reduction="none"),
    )


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"])
def test_labels_of_any_integer_dtype(dtype):
    y = np.array([0, 1, 3, 3, 2, 1])
    for loss in (
        lossless.cross_entropy,
        lossless.focal_loss,
        lambda x, y: lossless.sparse_categorical_cross_entropy(x, y, from_logits=True),
        lambda x, y: lossless.row_statistics(x, y).nll,
        lambda x, y: lossless.nll_loss(lossless.log_softmax(x, 1), y),
    ):
        np.testing.assert_array_equal(loss(X, y.astype(dtype)), loss(X, y))
        x, labels = torch.from_numpy(X), torch.from_numpy(y)
        assert torch.equal(loss(x, labels.to(getattr(torch, dtype))), loss(x, labels))


@frameworks
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_categorical_and_sparse(reduction, place):
    y = np.where(Y < 0, 0, Y)
    one_hot = np.eye(C)[y]
    rows = -np.log(P[np.arange(N), y])
    expected = {"none": rows, "sum": rows.sum(), "mean": rows.mean()}[reduction]
    for target in (one_hot, one_hot.astype(int), one_hot.astype(bool), one_hot.astype(np.uint8)):
        found = lossless.categorical_cross_entropy(place(P), place(target), reduction=reduction)
        np.testing.assert_allclose(found, expected, rtol=1e-14)
    found = lossless.sparse_categorical_cross_entropy(place(P), place(y), reduction=reduction)
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    middle = P.reshape(2, 3, C).transpose(0, 2, 1).copy()
    found = lossless.sparse_categorical_cross_entropy(place(middle), place(y.reshape(2, 3)), dim=1, reduction=reduction)
    np.testing.assert_allclose(found, expected.reshape(2, 3) if reduction == "none" else expected, rtol=1e-14)
    for smoothing in (0.0, 0.2):
        options = {"label_smoothing": smoothing, "reduction": reduction}
        t = (1 - smoothing) * T + smoothing / C
        rows = -(t * np.log(P)).sum(1)
        found = lossless.categorical_cross_entropy(place(P), place(T), **options)
        np.testing.assert_allclose(found, {"none": rows, "sum": rows.sum(), "mean": rows.mean()}[reduction], rtol=1e-13)
        logits = lossless.categorical_cross_entropy(place(X), place(T), from_logits=True, **options)
        np.testing.assert_array_equal(logits, lossless.cross_entropy(place(X), place(T), **options))


@frameworks
def test_an_ignored_class_leaves_the_mean(place):
    rows = -np.log(P[np.arange(N), np.where(Y < 0, 0, Y)])[Y >= 0]
    found = lossless.sparse_categorical_cross_entropy(place(P), place(Y), ignore_class=-100)
    np.testing.assert_allclose(found, rows.mean(), rtol=1e-14)
    logits = lossless.sparse_categorical_cross_entropy(place(X), place(Y), ignore_class=-100, from_logits=True)
    np.testing.assert_array_equal(logits, lossless.cross_entropy(place(X), place(Y)))


def test_the_gradient_reaches_sample_weights_and_a_given_denominator():
    s, d = torch.tensor(S, requires_grad=True), torch.tensor(7.0, dtype=torch.float64, requires_grad=True)
    x, y = torch.tensor(X), torch.tensor(Y)
    loss = lossless.cross_entropy(x, y, sample_weight=s, denominator=d)
    loss.backward()
    rows = F.cross_entropy(x, y, reduction="none")
    torch.testing.assert_close(s.grad, rows / 7)
    torch.testing.assert_close(d.grad, -(rows * s.detach()).sum() / 49)


def test_flags_serve_as_sample_weights():
    kept = np.array([True, True, False, False, True, True])
    expected = lossless.cross_entropy(X[kept], Y[kept])
    np.testing.assert_allclose(lossless.cross_entropy(X, Y, sample_weight=kept), expected, rtol=1e-14)


def test_an_ignored_row_counts_for_nothing_whatever_its_weight():
    s = np.where(Y < 0, np.inf, 1.0)
    for loss in (lossless.cross_entropy, lossless.focal_loss):
        np.testing.assert_array_equal(loss(X, Y, sample_weight=s), loss(X, Y, sample_weight=np.ones(N)))
        x = torch.tensor(X, requires_grad=True)
        (slope,) = torch.autograd.grad(loss(x, torch.tensor(Y), sample_weight=torch.tensor(s)), x)
        assert slope[2].tolist() == [0] * C
        assert not slope.isnan().any()


def test_half_precision_rounds_once():
    x, y = torch.tensor(X).bfloat16(), torch.tensor(Y)
    for loss in (
        lambda x, **o: lossless.cross_entropy(x, y, z_loss=0.1, **o),
        lambda x, **o: lossless.focal_loss(x, y, **o),
        lambda x, **o: lossless.cross_entropy(x, y, temperature=3.0, **o),
    ):
        half, wide = x.clone().requires_grad_(), x.double().requires_grad_()
        assert torch.equal(loss(half, reduction="none"), loss(wide, reduction="none").bfloat16())
        (slope,) = torch.autograd.grad(loss(half), half)
        (expected,) = torch.autograd.grad(loss(wide), wide)
        torch.testing.assert_close(slope, expected.bfloat16(), rtol=2**-8, atol=0)


REFUSED = {
    "denominator without mean": (
        lambda: lossless.cross_entropy(X, Y, reduction="sum", denominator="count"),
        "denominator got 'count' with reduction='sum'",
    ),
    "positives of cross-entropy": (
        lambda: lossless.cross_entropy(X, Y, denominator="positives"),
        "'positives' belongs to focal and binary losses",
    ),
    "unknown denominator": (lambda: lossless.focal_loss(X, Y, denominator="rows"), "denominator got 'rows', expected"),
    "denominator that is a flag": (
        lambda: lossless.focal_loss(X, Y, denominator=True),
        "denominator got bool, expected",
    ),
    "negative array denominator": (
        lambda: lossless.cross_entropy(X, Y, denominator=np.array(-1.0)),
        "denominator got -1.0, expected a positive",
    ),
    "negative tensor denominator": (
        lambda: lossless.cross_entropy(torch.tensor(X), torch.tensor(Y), denominator=torch.tensor(-1.0)),
        "denominator got -1.0, expected a positive",
    ),
    "complex denominator": (
        lambda: lossless.cross_entropy(torch.tensor(X), torch.tensor(Y), denominator=torch.tensor(1j)),
        "denominator got Tensor of shape .* and dtype complex64, expected",
    ),
    "denominator of zero": (
        lambda: lossless.focal_loss(X, Y, denominator=0),
        "denominator got 0.0, expected a positive",
    ),
    "vector denominator": (
        lambda: lossless.focal_loss(X, Y, denominator=S),
        r"of shape \[6\] and dtype float64, expected a name",
    ),
    "sample weights of another shape": (
        lambda: lossless.cross_entropy(X, Y, sample_weight=W),
        r"sample_weight has shape \[4\], expected one number a row: \[6\]",
    ),
    "negative z-loss": (lambda: lossless.cross_entropy(X, Y, z_loss=-1.0), "z_loss got -1.0, expected a number >= 0"),
    "temperature of zero": (lambda: lossless.cross_entropy(X, Y, temperature=0.0), "temperature got 0.0"),
    "negative gamma": (lambda: lossless.focal_loss(X, Y, gamma=-1), "gamma got -1.0, expected a number >= 0"),
    "gamma that is no number": (lambda: lossless.focal_loss(X, Y, gamma=np.nan), "gamma got nan"),
    "one alpha for four classes": (
        lambda: lossless.focal_loss(X, Y, alpha=0.25),
        r"alpha got the number 0.25 for 4 classes(.|\n)*\(1\).*\(2\).*\(3\).*sigmoid_focal_loss",
    ),
    "alpha of another length": (lambda: lossless.focal_loss(X, Y, alpha=S), r"alpha must have shape \[4\]"),
    "alpha above one": (
        lambda: lossless.focal_loss(X[:, :2], Y % 2, alpha=1.5),
        r"alpha got 1.5, expected .* \[0, 1\]",
    ),
    "no such dimension": (lambda: lossless.cross_entropy(X, Y, dim=2), "Dimension out of range"),
    "labels for the categorical form": (
        lambda: lossless.categorical_cross_entropy(P, Y),
        r"target has shape \[6\], expected that of input, \[6, 4\].*\n.*sparse_categorical_cross_entropy",
    ),
    "logits taken for probabilities": (
        lambda: lossless.categorical_cross_entropy(X, T),
        r"input holds values from -.*probabilities in \[0, 1\]; input\[\d, \d\] is .*outside\n.*from_logits=True",
    ),
    "logits taken for probabilities, sparse": (
        lambda: lossless.sparse_categorical_cross_entropy(X, np.abs(Y) % C),
        "pass from_logits=True",
    ),
    "labels from one": (
        lambda: lossless.sparse_categorical_cross_entropy(P, np.array([1, 2, 3, 4, 4, 1])),
        r"The labels look 1-based \(1 to 4\): subtract 1",
    ),
    "one-hot for the sparse form": (
        lambda: lossless.sparse_categorical_cross_entropy(P, np.eye(C)[np.abs(Y) % C]),
        r"target must have shape \[6\] \(labels\), but(.|\n)*are for categorical_cross_entropy",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name):
    call, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as info:
        call()
    assert isinstance(info.value, errors.LosslessError)


def test_a_mix_of_frameworks_in_the_options():
    with pytest.raises(TypeError, match=r"argument 'sample_weight' .* must be Tensor, not numpy.ndarray"):
        lossless.cross_entropy(torch.tensor(X), torch.tensor(Y), sample_weight=S)
    with pytest.raises(TypeError, match=r"argument 'input' .* must be Tensor, not numpy.ndarray"):
        lossless.cross_entropy(X, Y, denominator=torch.tensor(3.0))
    with pytest.raises(TypeError, match=r"argument 'alpha' .* must be Tensor, not list"):
        lossless.focal_loss(torch.tensor(X), torch.tensor(Y), alpha=[0.1, 0.2, 0.3, 0.4])


def test_targets_of_the_categorical_form_are_probabilities():
    for target in (np.array([[5.0, -3.0]]), np.array([[0, 3]])):
        with pytest.raises(ValueError, match=r"target holds values from .*\n.*sparse_categorical_cross_entropy"):
            lossless.categorical_cross_entropy(np.array([[0.5, 0.5]]), target)
