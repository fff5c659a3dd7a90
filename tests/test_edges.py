"""Inputs that arithmetic leaves open, in depth for softmax and cross-entropy: neighbours, widths, empty layouts, signs.

docs/special-values.md says what every function makes of them, and `test_special_values.py` tests that, line by line.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import lossless
from lossless._accuracy import regimes
from lossless._accuracy.libraries import OURS, View

INF, NAN = math.inf, math.nan
TORCH = View(OURS["torch"])

# p of [0, 1, -inf] and [1, 0, 2]: any format holds them to the tolerance below.
P01 = [1 / (1 + math.e), math.e / (1 + math.e)]
P102 = [v / (1 + math.e + math.e**2) for v in (math.e, 1, math.e**2)]
NLL02 = math.log1p(math.e + math.e**2) - 1  # label 0 of [1, 0, 2]

formats = pytest.mark.parametrize("dtype", regimes.DTYPES)
frameworks = pytest.mark.parametrize("framework", ["numpy", "torch"])


def rows(values, dtype: str) -> np.ndarray:
    return regimes.rounded(np.array(values, np.float64), dtype)


def call(function, dtype: str, framework: str, x, *arrays, **options) -> np.ndarray:
    """function(x, *arrays) in the framework, as float64."""
    view = View(OURS[framework])
    placed = [view(np.asarray(a)) for a in arrays]
    result = function(view(rows(x, dtype)), *placed, **options)
    assert view.library.framework.format(result) == dtype
    return view.library.framework.numbers(result)


def gradient(dtype: str, x, target, **options) -> np.ndarray:
    leaf = TORCH(rows(x, dtype)).requires_grad_()
    loss = lossless.cross_entropy(leaf, TORCH(np.asarray(target)), **options)
    return torch.autograd.grad(loss, leaf, torch.ones_like(loss))[0].double().numpy()


def agree(found: np.ndarray, expected) -> None:
    """Equal to the format's coarsest rounding; NaN, infinities and zeros exactly."""
    expected = np.array(expected, np.float64)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=2.0**-8, atol=0, equal_nan=True)


# x, softmax, log_softmax
TRANSFORMS = {
    "nan": ([0, NAN, 1], [NAN] * 3, [NAN] * 3),
    "nan and a mask": ([-INF, NAN, 1], [NAN] * 3, [NAN] * 3),
    "a mask": ([0, 1, -INF], [*P01, 0], [math.log(P01[0]), math.log(P01[1]), -INF]),
    "all but one masked": ([-INF, 3, -INF], [0, 1, 0], [-INF, 0, -INF]),
    "all masked": ([-INF] * 3, [NAN] * 3, [NAN] * 3),
    "one certain": ([0, INF, 5], [0, 1, 0], [-INF, 0, -INF]),
    "one certain, the others masked": ([-INF, INF, -INF], [0, 1, 0], [-INF, 0, -INF]),
    "two certain": ([INF, INF, 0], [NAN] * 3, [NAN] * 3),
    "ordinary": ([1, 0, 2], P102, [math.log(p) for p in P102]),
}

# x, label, loss, gradient
LOSSES = {
    "nan": ([0, NAN, 1], 0, NAN, [NAN] * 3),
    "a mask": ([0, 1, -INF], 0, -math.log(P01[0]), [-P01[1], P01[1], 0]),
    "label masked": ([1, -INF, 0], 1, INF, [P01[1], -1, P01[0]]),
    "all but the label masked": ([-INF, 3, -INF], 1, 0, [0, 0, 0]),
    "all masked": ([-INF] * 3, 0, NAN, [NAN] * 3),
    "label certain": ([0, INF, 5], 1, 0, [0, 0, 0]),
    "another certain": ([0, INF, 5], 0, INF, [-1, 1, 0]),
    "two certain": ([INF, INF, 0], 0, NAN, [NAN] * 3),
    "ordinary": ([1, 0, 2], 0, NLL02, [P102[0] - 1, P102[1], P102[2]]),
}


@formats
@frameworks
@pytest.mark.parametrize("neighbour", [[1, 0, 2], [NAN, NAN, NAN], [-INF, -INF, -INF]])
@pytest.mark.parametrize("case", TRANSFORMS)
def test_softmax_and_log_softmax(case, neighbour, framework, dtype):
    x, p, logp = TRANSFORMS[case]
    for function, expected, ordinary in ((lossless.softmax, p, P102), (lossless.log_softmax, logp, np.log(P102))):
        found = call(function, dtype, framework, [x, neighbour, [1, 0, 2]])
        agree(found[0], expected)
        agree(found[1], ordinary if neighbour == [1, 0, 2] else [NAN] * 3)
        agree(found[2], ordinary)


@formats
@frameworks
@pytest.mark.parametrize("case", LOSSES)
def test_cross_entropy(case, framework, dtype):
    x, label, loss, _ = LOSSES[case]
    found = call(lossless.cross_entropy, dtype, framework, [x, [1, 0, 2]], [label, 0], reduction="none")
    agree(found, [loss, NLL02])
    assert not np.any(np.signbit(found[found == 0]))
    composed = call(
        lambda x, y: lossless.nll_loss(lossless.log_softmax(x, 1), y, reduction="none"),
        dtype,
        framework,
        [x, [1, 0, 2]],
        [label, 0],
    )
    agree(composed, [loss, NLL02])


@formats
@pytest.mark.parametrize("case", LOSSES)
def test_gradient_of_cross_entropy(case, dtype):
    x, label, _, slope = LOSSES[case]
    found = gradient(dtype, [x, [1, 0, 2]], [label, 0], reduction="none")
    agree(found[0], slope)
    agree(found[1], LOSSES["ordinary"][3])


@formats
@frameworks
def test_zero_times_infinity_in_a_soft_target_is_zero(framework, dtype):
    x, t = [[0, 1, -INF]], rows([[0.25, 0.75, 0.0]], dtype)
    loss = -0.25 * math.log(P01[0]) - 0.75 * math.log(P01[1])
    agree(call(lossless.cross_entropy, dtype, framework, x, t, reduction="none"), [loss])
    if framework == "torch":
        slope = gradient(dtype, x, t)
        agree(slope, [[P01[0] - 0.25, P01[1] - 0.75, 0]])
        assert not np.signbit(slope[0, 2])


@formats
@pytest.mark.parametrize("classes", [3, 17, 40, 1000])
def test_masked_classes_get_a_gradient_of_exactly_positive_zero(classes, dtype):
    x = np.zeros((2, classes))
    x[:, 1::2] = -INF
    slope = gradient(dtype, x, [0, 2])
    assert np.all(slope[:, 1::2] == 0)
    assert not np.any(np.signbit(slope[:, 1::2]))
    assert not np.any(np.isnan(slope))


@formats
@frameworks
@pytest.mark.parametrize("inner", [1, 3])
def test_nothing_to_average_is_nan_and_nothing_to_add_is_zero(inner, framework, dtype):
    shape = (0, 3) if inner == 1 else (0, 3, inner)
    x, y = np.zeros(shape), np.zeros((0, *shape[2:]), np.int64)
    assert math.isnan(call(lossless.cross_entropy, dtype, framework, x, y))
    assert call(lossless.cross_entropy, dtype, framework, x, y, reduction="sum") == 0
    assert call(lossless.cross_entropy, dtype, framework, x, y, reduction="none").shape == y.shape
    ignored = [[1, 0, 2], [0, 1, NAN]]
    assert math.isnan(call(lossless.cross_entropy, dtype, framework, ignored, [-100, -100]))
    assert call(lossless.cross_entropy, dtype, framework, ignored, [-100, -100], reduction="sum") == 0
    agree(call(lossless.cross_entropy, dtype, framework, ignored, [-100, -100], reduction="none"), [0, 0])
    assert call(lossless.softmax, dtype, framework, x, dim=1).shape == shape
    assert call(lossless.log_softmax, dtype, framework, x, dim=1).shape == shape


@formats
def test_gradients_of_nothing(dtype):
    assert gradient(dtype, np.zeros((0, 3)), np.zeros(0, np.int64), reduction="sum").shape == (0, 3)
    assert gradient(dtype, np.zeros((0, 3)), np.zeros(0, np.int64)).shape == (0, 3)
    slope = gradient(dtype, [[1, 0, 2], [0, 1, NAN]], [-100, -100], reduction="sum")
    assert np.all(slope == 0)


@formats
@frameworks
def test_an_ignored_row_adds_nothing_whatever_it_holds(framework, dtype):
    x = [[1, 0, 2], [NAN, INF, -INF], [1, 0, 2]]
    agree(call(lossless.cross_entropy, dtype, framework, x, [0, -100, 0]), NLL02)
    if framework == "torch":
        slope = gradient(dtype, x, [0, -100, 0])
        agree(slope, [[v / 2 for v in LOSSES["ordinary"][3]], [0, 0, 0], [v / 2 for v in LOSSES["ordinary"][3]]])


# x, t, value, slope over x, slope over t: the limits where arithmetic has none
LOG2 = math.log(2)
WITH_LOGITS = [
    (INF, 1, 0, 0, -INF), (-INF, 0, 0, 0, INF), (INF, 0, INF, 1, -INF), (-INF, 1, INF, -1, INF), (NAN, 1, *[NAN] * 3),
    (INF, 0.25, INF, 0.75, -INF), (0, 1, LOG2, -0.5, 0), (1000, 1, 0, 0, -1000), (1000, 0, 1000, 1, -1000),
]  # fmt: skip
PROBABILITIES = [
    (0, 0, 0, 1, INF), (1, 1, 0, -1, -INF), (0, 1, INF, -INF, INF), (1, 0, INF, INF, -INF), (0, 0.5, INF, -INF, INF),
    (1, 0.5, INF, INF, -INF), (0.5, 0, LOG2, 2, 0), (0.5, 0.5, LOG2, 0, 0),
]  # fmt: skip
CLAMPED = [
    (0, 0, 0, 0, INF), (1, 1, 0, 0, -INF), (0, 1, 100, -1e12, INF), (1, 0, 100, 1e12, -INF), (0, 0.5, 50, -5e11, INF),
]  # fmt: skip
FOCAL = [
    (INF, 1, 0, 0, -INF), (-INF, 0, 0, 0, INF), (INF, 0, INF, 1, -INF), (-INF, 1, INF, -1, INF), (NAN, 1, *[NAN] * 3),
    (INF, 0.5, INF, 0.125, -INF), (1000, 1, 0, 0, 0), (-1000, 1, 1000, -1, 3000),
]  # fmt: skip
DIVERGENCE = [
    (-1, 0, 0, 0, -INF), (-INF, 0, 0, 0, INF), (-INF, 0.5, INF, -0.5, INF), (0, 1, 0, -1, 1), (NAN, 1, NAN, -1, NAN),
    (-1, NAN, NAN, NAN, NAN), (-1, -1, NAN, 1, NAN), (1, 0, 0, 0, -INF),
]  # fmt: skip
LOG_DIVERGENCE = [
    (-1, -INF, 0, 0, 0), (-INF, -INF, 0, 0, 0), (-INF, -1, INF, -math.exp(-1), INF), (0, 0, 0, -1, 1),
    (NAN, -INF, NAN, 0, NAN), (-1, NAN, NAN, NAN, NAN), (-INF, -1000, INF, 0, INF),
]  # fmt: skip
ELEMENTWISE = {
    "with logits": (lossless.binary_cross_entropy_with_logits, {}, WITH_LOGITS),
    "with logits, formula": (lossless.binary_cross_entropy_with_logits, {"ignore_index": -100}, WITH_LOGITS),
    "probabilities": (lossless.binary_cross_entropy, {"clamp": None}, PROBABILITIES),
    "probabilities, clamped": (lossless.binary_cross_entropy, {}, CLAMPED),
    "focal": (lossless.sigmoid_focal_loss, {"alpha": -1}, FOCAL),
    "divergence": (lossless.kl_div, {}, DIVERGENCE),
    "divergence of logarithms": (lossless.kl_div, {"log_target": True}, LOG_DIVERGENCE),
}


@formats
@frameworks
@pytest.mark.parametrize("case", ELEMENTWISE)
def test_elementwise_losses_take_their_limits(case, framework, dtype):
    function, options, table = ELEMENTWISE[case]
    x, t, loss, slope, target_slope = np.array(table, np.float64).T
    found = call(function, dtype, framework, x, rows(t, dtype), reduction="none", **options)
    with np.errstate(over="ignore"):
        agree(found, rows(loss, dtype).astype(np.float64))
        assert not np.any(np.signbit(found[found == 0]))
        if framework == "torch":
            leaves = [TORCH(rows(a, dtype)).requires_grad_() for a in (x, t)]
            grads = torch.autograd.grad(function(*leaves, reduction="sum", **options), leaves)
            for grad, expected in zip(grads, (slope, target_slope), strict=True):
                agree(grad.double().numpy(), rows(expected, dtype).astype(np.float64))
        else:
            call_with_gradient = lossless.value_and_grad(function)
            grad = call_with_gradient(rows(x, dtype), rows(t, dtype), reduction="none", **options)[1]
            agree(grad.astype(np.float64), rows(slope, dtype).astype(np.float64))


@pytest.mark.parametrize("gamma", [0, 0.25, 0.5, 1, 2])
@pytest.mark.parametrize("far", [INF, 1e300, 745.0, 720.0, 700.0, 40.0])
def test_focal_loss_has_no_slope_where_it_is_sure(gamma, far):
    """q^(gamma - 1) is infinite at q = 0 for gamma < 1; the slope is not, nor is its derivative."""
    for x, t in ((far, 1.0), (-far, 0.0)):
        leaf = torch.tensor(x, dtype=torch.float64, requires_grad=True)
        loss = lossless.sigmoid_focal_loss(leaf, torch.tensor(t, dtype=torch.float64), -1, gamma)
        (slope,) = torch.autograd.grad(loss, leaf, create_graph=True)
        (bend,) = torch.autograd.grad(slope, leaf)
        q = math.exp(-abs(x))
        expected = math.copysign((gamma + 1) * q ** (gamma + 1), -x)
        assert slope.item() == pytest.approx(expected, rel=1e-12, abs=1e-300)
        assert bend.item() == pytest.approx((gamma + 1) * abs(expected), rel=1e-12, abs=1e-300)


@formats
@frameworks
@pytest.mark.parametrize(
    ("function", "x"),
    [
        (lossless.binary_cross_entropy_with_logits, [0, NAN, INF]),
        (lossless.binary_cross_entropy, [0.5, NAN, 7]),
    ],
)
def test_an_ignored_element_adds_nothing_whatever_it_holds(function, x, framework, dtype):
    t, gone = rows([1, -1, -1], dtype), rows([-1, -1, -1], dtype)
    agree(call(function, dtype, framework, x, t, ignore_index=-1), LOG2)
    agree(call(function, dtype, framework, x, t, ignore_index=-1, denominator="batch"), LOG2 / 3)
    agree(call(function, dtype, framework, x, t, ignore_index=-1, reduction="none"), [LOG2, 0, 0])
    assert math.isnan(call(function, dtype, framework, x, gone, ignore_index=-1))
    assert call(function, dtype, framework, x, gone, ignore_index=-1, reduction="sum") == 0
    assert call(function, dtype, framework, x, gone, ignore_index=-1, denominator=5) == 0
    slope = -0.5 if function is lossless.binary_cross_entropy_with_logits else -2
    for target, expected in ((t, [slope, 0, 0]), (gone, [0, 0, 0])):
        if framework == "torch":
            leaf = TORCH(rows(x, dtype)).requires_grad_()
            function(leaf, TORCH(target), ignore_index=-1).backward()
            agree(leaf.grad.double().numpy(), expected)
        else:
            agree(lossless.value_and_grad(function)(rows(x, dtype), target, ignore_index=-1)[1].astype(float), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("alpha", "target"), [(1.0, 0.0), (0.0, 1.0), (0.25, 1.0)])
def test_a_balance_of_nothing_hides_no_nan(dtype, alpha, target):
    x, t = np.array([np.nan, 1.0], dtype), np.full(2, target, dtype)
    assert np.isnan(lossless.sigmoid_focal_loss(x, t, alpha, 0)).tolist() == [True, False]
