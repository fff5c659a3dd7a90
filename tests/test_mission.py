"""The rows of the mission, one test a section of docs/scores-to-losses.md and named after it.

Expected values are computed here, by mpmath from the definition or in closed form; `test_accuracy.py` has the oracle
for every regime. Each test runs in NumPy and in torch.
"""

import itertools
import math
import re
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch

import lossless

mpmath.mp.dps = 50
PAGE = Path(__file__).parent.parent / "docs" / "scores-to-losses.md"


def as_torch(array):
    return torch.from_numpy(np.ascontiguousarray(array))


frameworks = pytest.mark.parametrize("make", [np.asarray, as_torch], ids=["numpy", "torch"])

# Ordinary, confident (the float32 probability of class 0 is 1), hopeless (class 1 underflows), and wide.
ROWS = np.array([[1.0, 2.0, 4.0], [20.0, 0.0, -1.0], [0.0, -104.0, -300.0], [-7.5, 3.25, 30.0]])
LABELS = np.array([2, 0, 1, 0])


def array(result):
    return np.asarray(result.detach() if isinstance(result, torch.Tensor) else result)


def softmax(row):
    """Definition, in 50 digits."""
    exponentials = [mpmath.exp(mpmath.mpf(float(v))) for v in row]
    return [e / mpmath.fsum(exponentials) for e in exponentials]


def log_softmax(row):
    """With as many digits as it takes to see that p is not 1."""
    with mpmath.workdps(400):
        return [mpmath.log(p) for p in softmax(row)]


def table(function, rows):
    return np.array([[float(v) for v in function(row)] for row in rows])


def value_and_grad(loss, x, *args, **options):
    value, grad = lossless.value_and_grad(loss)(x, *args, **options)
    return array(value), array(grad)


def close(found, expected, ulp=4):
    """Within `ulp` of the numbers expected, in the dtype that was found; zeros and infinities exactly."""
    found, expected = array(found), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    step = np.spacing(np.abs(expected.astype(found.dtype))).astype(np.float64)
    with np.errstate(invalid="ignore"):
        error = np.where(found == expected.astype(found.dtype), 0.0, np.abs(found.astype(np.float64) - expected) / step)
    assert np.all(error <= ulp), f"{error.max()} ulp: {found} for {expected}"


@frameworks
def test_softmax_sums_to_1_and_amplifies(make):
    p = array(lossless.softmax(make(ROWS)))
    close(p, table(softmax, ROWS))
    assert np.all((p >= 0) & (p <= 1))
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=0, atol=4 * 2**-53)
    # Amplified: one score more is a factor of e, and the largest gets more than its share of the scores.
    close(p[0, 1:] / p[0, :-1], [math.e, math.e**2], ulp=8)
    assert p[0, 2] > 4 / 7 > 1 / 3
    assert p[0, 0] < 1 / 7
    close(lossless.softmax(make(ROWS), temperature=0.5), table(softmax, 2 * ROWS))


@frameworks
def test_inverse_softmax_and_logit_undo_it(make):
    x = np.array([[1.0, 2.0, 4.0], [-0.5, 0.25, 3.0], [5.0, -5.0, 0.0]])
    p = lossless.softmax(make(x))
    centred = x - x.mean(axis=1, keepdims=True)
    # Each log p is off by the rounding of p, 4 ulp, in absolute terms.
    np.testing.assert_allclose(array(lossless.inverse_softmax(p)), centred, rtol=0, atol=2.0**-48)
    np.testing.assert_allclose(array(lossless.softmax(lossless.inverse_softmax(p))), array(p), rtol=2.0**-48)
    np.testing.assert_allclose(
        array(lossless.inverse_softmax(p, center="max")), x - x.max(axis=1, keepdims=True), rtol=0, atol=2.0**-48
    )
    close(lossless.inverse_softmax(p, center=None), [[float(mpmath.log(float(v))) for v in row] for row in array(p)])
    p = np.array([0.5, 0.75, 0.9, 1e-300])
    close(lossless.logit(make(p)), [float(mpmath.log(mpmath.mpf(v) / (1 - mpmath.mpf(v)))) for v in p.tolist()])
    np.testing.assert_allclose(array(lossless.sigmoid(lossless.logit(make(p)))), p, rtol=1e-13)  # 690 u at 1e-300


@frameworks
def test_sigmoid_is_two_class_softmax(make):
    x = np.array([-800.0, -40.0, -3.0, 0.0, 2.0, 40.0, 800.0])
    pairs = np.stack([x, np.zeros_like(x)], axis=1)
    close(lossless.sigmoid(make(x)), table(softmax, pairs)[:, 0])
    close(lossless.softmax(make(pairs)), table(softmax, pairs))
    close(lossless.logsigmoid(make(x)), array(lossless.log_softmax(make(pairs)))[:, 0])
    yes = np.array([0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    binary = value_and_grad(lossless.binary_cross_entropy_with_logits, make(x), make(yes), reduction="none")
    classes = value_and_grad(lossless.cross_entropy, make(pairs), make(1 - yes.astype(int)), reduction="none")
    close(binary[0], classes[0])
    close(binary[1], classes[1][:, 0])


@frameworks
def test_log_softmax_x_is_not_log_softmax_x(make):
    """log(softmax(x)) in float32: two ulp off in ordinary rows, all digits lost in sure ones, -inf in hopeless ones."""
    x = np.random.default_rng(0).normal(size=(1000, 10)).astype(np.float32)
    for lead, worst, zeros in ((0, 2, 0), (5, 132, 0), (10, 24_148, 0), (15, 2_455_896, 0), (20, 16_776_668, 756)):
        rows = x + np.float32(lead) * np.eye(1, 10, dtype=np.float32)
        shifted = rows - rows.max(axis=1, keepdims=True)
        e = np.exp(shifted.astype(np.float64)).astype(np.float32)  # every step rounded as well as it can be
        p = e / e.sum(axis=1, keepdims=True, dtype=np.float64).astype(np.float32)
        naive = np.log(p.astype(np.float64)).astype(np.float32)
        others = np.exp(np.sort(rows.astype(np.longdouble) - rows.max(axis=1, keepdims=True), axis=1)[:, :-1])
        exact = (rows.astype(np.longdouble) - rows.max(axis=1, keepdims=True)) - np.log1p(
            others.sum(axis=1, keepdims=True)
        )
        step = np.spacing(np.abs(exact.astype(np.float32))).astype(np.longdouble)
        assert np.max(np.abs(naive - exact) / step) == pytest.approx(worst, abs=0.5 + 1e-7 * worst)
        assert np.count_nonzero(naive == 0) == zeros
        assert np.mean(naive != exact.astype(np.float32)) > 0.1
        found = array(lossless.log_softmax(make(rows)))
        assert np.max(np.abs(found - exact) / step) <= 4
        assert not np.any(found == 0)
    hopeless = np.array([[0.0, -104.0]], np.float32)
    close(lossless.log_softmax(make(hopeless)), table(log_softmax, hopeless))
    with np.errstate(divide="ignore"):
        assert np.log(np.exp(hopeless) / np.exp(hopeless).sum())[0, 1] == -np.inf


def test_log_softmax_x_where_log_of_softmax_is_nan():
    masked = torch.tensor([0.0, 1.0, -math.inf], requires_grad=True)
    (theirs,) = torch.autograd.grad(torch.softmax(masked, 0).log()[0], masked)
    (ours,) = torch.autograd.grad(lossless.log_softmax(masked)[0], masked)
    assert torch.all(torch.isnan(theirs))
    p = torch.tensor(1 / (1 + math.exp(-1)))
    close(ours, [p, -p, 0])
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        e = np.exp(np.array([100.0, 0.0], np.float32))
        assert np.isnan(np.log(e / e.sum())[0])


@frameworks
def test_cross_entropy_is_log_softmax_and_nll_loss(make):
    x, y = make(ROWS), make(LABELS)
    expected = -table(log_softmax, ROWS)[np.arange(4), LABELS]
    close(lossless.cross_entropy(x, y, reduction="none"), expected)
    close(lossless.nll_loss(lossless.log_softmax(x, 1), y, reduction="none"), expected)
    close(lossless.cross_entropy(x, y), expected.mean())
    close(lossless.nll_loss(lossless.log_softmax(x, 1), y), expected.mean())
    # The gradient over the scores is p - truth: exact in the class of the truth too, where p is 1 to float64.
    p = [softmax(row) for row in ROWS]
    slopes = np.array([[float(p[r][j] - int(j == y)) for j in range(3)] for r, y in enumerate(LABELS)])
    close(value_and_grad(lossless.cross_entropy, x, y, reduction="sum")[1], slopes)
    if make is as_torch:
        leaf = x.clone().requires_grad_()
        loss = lossless.nll_loss(lossless.log_softmax(leaf, 1), y, reduction="sum")
        close(torch.autograd.grad(loss, leaf)[0], slopes)


@frameworks
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_log_probabilities_fed_again_are_harmless_probabilities_are_not(dtype, make):
    rows = ROWS[:2].astype(dtype)
    y = make(LABELS[:2])
    expected = -table(log_softmax, rows)[np.arange(2), LABELS[:2]]
    once = lossless.log_softmax(make(rows))
    twice = lossless.log_softmax(once)
    # A log-probability l is rounded by |l| u, which changes its exp, and so T of a sure class, by that share.
    unit = float(np.finfo(dtype).eps) / 2
    allowed = 8 * unit + unit * np.abs(array(once)).max(axis=1, keepdims=True)
    assert np.all(np.abs(array(twice) - array(once)) <= allowed * np.abs(array(once)))
    loss = array(lossless.cross_entropy(once, y, reduction="none"))
    assert np.all(np.abs(loss - expected) <= allowed[:, 0] * expected)
    # A perfect prediction, fed as probabilities, costs log(1 + (C - 1) / e) for ever.
    for classes in (2, 10, 1000):
        floor = lossless.cross_entropy(make(np.eye(1, classes, dtype=dtype)), make(np.array([0])))
        close(floor, math.log1p((classes - 1) / math.e))
    p = lossless.softmax(make(rows))
    mistaken = array(lossless.cross_entropy(p, y, reduction="none"))
    close(mistaken, -table(log_softmax, array(p))[np.arange(2), LABELS[:2]])
    assert np.all(mistaken > 0.55)  # log(1 + 2 / e), where the sure row should cost 2.8e-9
    assert expected[1] < 3e-9


@frameworks
def test_mean_squared_error(make):
    x, t = np.array([3.0, 0.0, 1.0, 1.0]), np.array([0.0, 4.0, 1.0, 1.0])
    value, grad = value_and_grad(lossless.mse_loss, make(x), make(t))
    assert value == 6.25
    assert grad.tolist() == [1.5, -2, 0, 0]  # 2 (x - t) / n
    assert array(lossless.mse_loss(make(x), make(t), reduction="none")).tolist() == [9, 16, 0, 0]
    assert lossless.mse_loss(make(2 * x), make(2 * t)) == 4 * 6.25


@frameworks
def test_root_mean_squared_error_has_gradient_0_at_0(make):
    x, t = np.array([3.0, 0.0, 1.0, 1.0]), np.array([0.0, 4.0, 1.0, 1.0])
    value, grad = value_and_grad(lossless.rmse_loss, make(x), make(t))
    assert value == 2.5
    close(grad, [0.3, -0.4, 0, 0])  # (x - t) / (n rmse)
    value, grad = value_and_grad(lossless.rmse_loss, make(t), make(t))
    assert value == 0
    assert grad.tolist() == [0, 0, 0, 0]
    leaf = torch.ones(3, requires_grad=True)
    torch.nn.functional.mse_loss(leaf, torch.ones(3)).sqrt().backward()
    assert torch.all(torch.isnan(leaf.grad))  # what it avoids


@frameworks
def test_binary_cross_entropy_takes_flat_predictions(make):
    p, yes = np.array([[0.9], [0.2], [0.6]]), np.array([1.0, 0.0, 1.0])
    flat = make(p.reshape(-1))
    exact = [mpmath.log(v if t else 1 - mpmath.mpf(v)) for v, t in zip(p[:, 0].tolist(), yes, strict=True)]
    close(lossless.binary_cross_entropy(flat, make(yes), reduction="none"), [-float(v) for v in exact])
    value, grad = value_and_grad(lossless.binary_cross_entropy, flat, make(yes))
    close(value, -float(mpmath.fsum(exact) / 3))
    close(grad, [-1 / 0.9 / 3, 1 / (1 - 0.2) / 3, -1 / 0.6 / 3])
    with pytest.raises(lossless.errors.ShapeError):
        lossless.binary_cross_entropy(make(p), make(yes))
    score, one = make(np.array([20.0], np.float32)), make(np.ones(1, np.float32))
    assert lossless.binary_cross_entropy(lossless.sigmoid(score), one) == 0
    close(lossless.binary_cross_entropy_with_logits(score, one), float(mpmath.log1p(mpmath.exp(-20))))


@frameworks
def test_categorical_equals_sparse_categorical(make):
    p, y = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]), np.array([0, 2])
    expected = [-float(mpmath.log(0.7)), -float(mpmath.log(0.6))]
    for dtype in (np.int64, np.bool_, np.float64):
        categorical = lossless.categorical_cross_entropy(make(p), make(np.eye(3)[y].astype(dtype)), reduction="none")
        close(categorical, expected)
    close(lossless.sparse_categorical_cross_entropy(make(p), make(y), reduction="none"), expected)
    for x, truth in ((ROWS, LABELS), (ROWS[:, ::-1].copy(), 2 - LABELS)):
        onehot, labels, options = make(np.eye(3)[truth]), make(truth), {"from_logits": True, "reduction": "none"}
        dense = value_and_grad(lossless.categorical_cross_entropy, make(x), onehot, **options)
        sparse = value_and_grad(lossless.sparse_categorical_cross_entropy, make(x), labels, **options)
        np.testing.assert_array_equal(dense[0], sparse[0])
        np.testing.assert_array_equal(dense[1], sparse[1])
        close(sparse[0], -table(log_softmax, x)[np.arange(4), truth])


@frameworks
def test_labels_count_from_0(make):
    x, y = np.random.default_rng(1).normal(size=(4, 3)), np.array([1, 2, 3, 1])
    p = array(lossless.softmax(make(x)))
    calls = {
        "cross_entropy": lambda y: lossless.cross_entropy(make(x), y),
        "nll_loss": lambda y: lossless.nll_loss(make(np.log(p)), y),
        "focal_loss": lambda y: lossless.focal_loss(make(x), y, gamma=0.0),
        "sparse_categorical_cross_entropy": lambda y: lossless.sparse_categorical_cross_entropy(make(p), y),
        "row_statistics": lambda y: lossless.row_statistics(make(x), y).nll.mean(),
    }
    expected = -table(log_softmax, x)[np.arange(4), y - 1].mean()
    for name, call in calls.items():
        with pytest.raises(lossless.errors.TargetIndexError, match="Target 3 is out of bounds") as caught:
            call(make(y))
        assert f"{name}: target[2] is 3, but input has 3 classes" in str(caught.value)
        assert "1-based (1 to 3): subtract 1" in str(caught.value)
        np.testing.assert_allclose(array(call(make(y - 1))), expected, rtol=1e-15)


@frameworks
def test_focal_loss_down_weights_easy_rows(make):
    p_true = [0.9, 0.5, 0.1]
    x, y = make(np.log([[v, 1 - v] for v in p_true])), make(np.zeros(3, np.int64))
    ce, focal = (array(f(x, y, reduction="none")) for f in (lossless.cross_entropy, lossless.focal_loss))
    np.testing.assert_allclose(focal, [-((1 - v) ** 2) * math.log(v) for v in p_true], rtol=1e-14)
    np.testing.assert_allclose(ce / focal, [100, 4, 1 / 0.81], rtol=1e-14)
    for rows, labels in ((make(ROWS), make(LABELS)), (x, y)):
        plain = value_and_grad(lossless.cross_entropy, rows, labels, reduction="none")
        zero = value_and_grad(lossless.focal_loss, rows, labels, gamma=0.0, reduction="none")
        np.testing.assert_array_equal(zero[0], plain[0])
        np.testing.assert_array_equal(zero[1], plain[1])
    # An easy row in which 1 - p would be 0: (1 - p)^2 (-log p) = e^-40 e^-20, to first order.
    sure = make(np.array([[40.0, 0.0]])), make(np.array([0]))
    close(lossless.focal_loss(*sure), math.exp(-40) ** 3, ulp=8)


@frameworks
def test_a_coin_is_1_bit_a_die_log2_6(make):
    entropy = lossless.info.entropy
    assert entropy(make(np.array([0.5, 0.5])), base=2) == 1
    close(entropy(make(np.full(6, 1 / 6)), base=2), math.log2(6))
    close(entropy(make(np.zeros(6)), base=2, kind="logits"), math.log2(6))
    close(entropy(make(np.full(6, 1 / 6))), math.log(6))
    assert entropy(make(np.array([1.0, 0.0])), base=2) == 0
    close(entropy(make(np.array([0.9, 0.1])), base=2), float(-0.9 * mpmath.log(0.9, 2) - 0.1 * mpmath.log(0.1, 2)))
    assert lossless.info.perplexity(make(np.full(8, 0.125))) == 8
    close(lossless.info.perplexity(make(np.full(6, 1 / 6))), 6)


@frameworks
def test_cross_entropy_is_entropy_plus_divergence(make):
    draw = np.random.default_rng(2)
    p, q = draw.dirichlet(np.ones(5), size=(2, 20))
    info = lossless.info
    cross, entropy, divergence = (
        array(f)
        for f in (info.cross_entropy(make(p), make(q)), info.entropy(make(p)), info.kl_divergence(make(p), make(q)))
    )
    exact = [
        float(-mpmath.fsum(mpmath.mpf(a) * mpmath.log(b) for a, b in zip(u, v, strict=True)))
        for u, v in zip(p.tolist(), q.tolist(), strict=True)
    ]
    close(cross, exact)
    np.testing.assert_allclose(entropy + divergence, cross, rtol=8 * 2.0**-53)
    assert np.all(divergence > 0)
    assert np.all(array(info.kl_divergence(make(p), make(p))) == 0)
    # A classifier's loss is the divergence from a certain truth, or from a soft one and its entropy on top.
    close(lossless.cross_entropy(make(np.log(q)), make(p), reduction="none"), exact, ulp=16)  # log q is rounded
    np.testing.assert_allclose(
        array(lossless.kl_div(make(np.log(q)), make(p), reduction="batchmean")), divergence.mean(), rtol=1e-14
    )
    onehot = np.eye(5)[draw.integers(5, size=20)]
    np.testing.assert_allclose(
        array(info.kl_divergence(make(onehot), make(q))),
        array(lossless.categorical_cross_entropy(make(q), make(onehot), reduction="none")),
        rtol=1e-14,
    )


def clouds():
    labels = np.arange(150) % 3
    centres = np.array([[0.0, 4.0], [-4.0, -2.0], [4.0, -2.0]])
    return centres[labels] + np.random.default_rng(0).normal(size=(150, 2)), labels


@frameworks
def test_training_moves_the_weights_until_the_loss_is_small(make):
    points, labels = clouds()
    losses = []
    if make is np.asarray:
        weights, bias = np.zeros((2, 3)), np.zeros(3)
        step = lossless.value_and_grad(lossless.cross_entropy)
        for _ in range(301):
            loss, grad = step(points @ weights + bias, labels)
            losses.append(float(loss))
            weights -= 0.5 * points.T @ grad
            bias -= 0.5 * grad.sum(axis=0)
        scores = points @ weights + bias
    else:
        model = torch.nn.Linear(2, 3, dtype=torch.float64)
        torch.nn.init.zeros_(model.weight)
        torch.nn.init.zeros_(model.bias)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for _ in range(301):
            optimizer.zero_grad()
            loss = lossless.cross_entropy(model(make(points)), make(labels))
            loss.backward()
            losses.append(loss.item())
            optimizer.step()
        weights, scores = array(model.weight).T, array(model(make(points)))
    assert losses[0] == pytest.approx(math.log(3), rel=1e-15)
    assert losses[-1] < 0.002
    assert losses[-1] == pytest.approx(0.0013006, rel=1e-3)
    assert all(later < earlier for earlier, later in itertools.pairwise(losses[10:]))
    assert np.abs(weights).max() > 1
    assert np.all(scores.argmax(axis=1) == labels)


def test_every_section_has_its_test():
    sections = re.findall(r"^## (.*)$", PAGE.read_text(), re.MULTILINE)
    names = {"test_" + re.sub(r"\W+", "_", section.lower()).strip("_") for section in sections}
    assert len(sections) == len(names) == 15
    assert sorted(name for name in names if name not in globals()) == []
