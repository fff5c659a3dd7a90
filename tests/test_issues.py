"""What users of other libraries filed as issues, and the answer here: one test a complaint, named after its first one.

Truth is mpmath, a closed form or SciPy. Where PyTorch or another library still shows the problem, the test says so.
"""

import math
import os
import subprocess
import sys
import warnings

import mpmath
import numpy as np
import pytest
import scipy.special
import scipy.stats
import sklearn.metrics
import torch
import torch.nn.functional as F

import lossless
from lossless import _kernels
from lossless._diagnose import watch
from lossless.errors import MisuseWarning

INF, as_torch = math.inf, torch.from_numpy
needs_kernels = pytest.mark.skipif(_kernels.native is None, reason=f"no compiled kernels: {_kernels.why}")


@pytest.fixture(autouse=True)
def forgetful(monkeypatch):
    """No warning was given before."""
    watch.forget()
    monkeypatch.setattr(watch, "level", "cheap")


@pytest.fixture(params=[np.asarray, as_torch], ids=["numpy", "torch"])
def make(request):
    return request.param


def array(result):
    return np.asarray(result.detach() if isinstance(result, torch.Tensor) else result)


def value_and_grad(loss, x, *args, **options):
    """Of tensors by autograd, as in training; of arrays by `lossless.value_and_grad`."""
    if not isinstance(x, torch.Tensor):
        return lossless.value_and_grad(loss)(x, *args, **options)
    leaf = x.detach().clone().requires_grad_()
    value = loss(leaf, *args, **options)
    return array(value), array(torch.autograd.grad(value.sum(), leaf)[0])


def theirs(loss, *arrays, **options):
    return value_and_grad(loss, *map(as_torch, arrays), **options)


def close(found, expected, ulp=4, of=None):
    """Within `ulp` of the numbers expected, or of numbers as large as `of`; NaN, zeros and infinities exactly."""
    found, expected = array(found), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    rounded = expected.astype(found.dtype)
    step = np.spacing(np.abs(rounded) if of is None else found.dtype.type(of)).astype(np.float64)
    same = (found == rounded) | (np.isnan(found) & np.isnan(rounded))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0, np.abs(found.astype(np.float64) - expected) / step)
    assert np.all(error <= ulp), f"{error.max()} ulp: {found} for {expected}"


def gives(make, loss, arrays, value, grad, ulp=4, of=None, **options):
    """`loss` has this value, and this gradient over the first array; both as found."""
    found = value_and_grad(loss, *map(make, arrays), **options)
    close(found[0], value, ulp)
    close(found[1], grad, ulp, of)
    return found


@mpmath.workdps(200)
def exact(rows, targets, gamma=0):
    """Cross-entropies of rows under labels or probabilities, and gradients; with gamma, focal losses of labels."""
    losses, grads = [], []
    for row, target in zip(rows.tolist(), targets, strict=True):
        t = (np.eye(len(row))[target] if np.ndim(target) == 0 else target).tolist()
        classes = [(a, v, mpmath.exp(v)) for a, v in zip(t, row, strict=True)]
        total = mpmath.fsum(e for _, _, e in classes)
        nll, factor, slope = mpmath.fsum(a * (mpmath.log(total) - v) for a, v, _ in classes if a), 1, 1
        if gamma:
            q = mpmath.fsum(e for a, _, e in classes if not a) / total
            factor, slope = q**gamma, q**gamma + gamma * q ** (gamma - 1) * (1 - q) * nll
        losses.append(float(factor * nll))
        grads.append([float(slope * (e / total - a)) for a, _, e in classes])
    return np.array(losses), np.array(grads)


def exact_binary(x, t, gamma=0):
    """The same of yes-or-no scores: class 0 of the rows [x, 0] is yes."""
    losses, grads = exact(np.stack([x, np.zeros_like(x)], axis=1), np.stack([t, 1 - t], axis=1), gamma)
    return losses, grads[:, 0]


def test_pytorch_195678_small_gradients_of_float64(make):
    """A gradient that float64 can hold is 0, and its row does not sum to 0: pytorch#195678, #195677, #195529."""
    x, y = np.array([[37.42994775023705, 0.0]]), np.array([0])
    losses, grads = exact(x, y)
    assert gives(make, lossless.cross_entropy, (x, y), losses[0], grads)[1].sum() == 0
    assert theirs(F.cross_entropy, x, y)[1][0, 0] == 0
    x, t = np.array([37.42994775023705, -37.42994775023705, 40.0, -40.0]), np.array([1.0, 0.0, 1.0, 0.0])
    gives(make, lossless.binary_cross_entropy_with_logits, (x, t), *exact_binary(x, t), reduction="none")
    loss, grad = theirs(F.binary_cross_entropy_with_logits, x, t, reduction="none")
    assert loss[3] == grad[0] == grad[2] == 0


def test_mlx_4188_a_shared_offset(make):
    """Equal logits of 1e8 cost 0 instead of log C, a perfect prediction: mlx#4188, pytorch#11752, optax PR#1792."""
    y = np.array([1])
    for offset in (1.0, 1e4, 1e6, 1e8):
        for classes in (2, 3):
            x = np.full((1, classes), offset, np.float32)
            gives(make, lossless.cross_entropy, (x, y), math.log(classes), [1 / classes - np.eye(classes)[1]])
            close(lossless.row_statistics(make(x), make(y)).nll, [math.log(classes)])
    for offset in (0, 1e4, 1e6):
        x = np.array([[-1 + offset, 2 + offset]], np.float32)
        close(lossless.cross_entropy(make(x), make(y)), math.log1p(math.exp(-3)))
    loss, grad = theirs(lambda x: torch.logsumexp(x, 1) - x[:, 1], np.full((1, 2), 1e8, np.float32))
    assert (loss, grad.tolist()) == (0, [[1, 0]])


def test_pytorch_103316_binary_cross_entropy_in_the_tails(make):
    """Sure sigmoids lose their gradient, and clamped scores their cost: pytorch#103316, #24933, PR#163975."""
    x = np.array([-50.0, -10, -5, -2, 0, 2, 5, 10, 20, -200], np.float32)
    ones, expected = np.ones_like(x), exact_binary(x, np.ones_like(x))
    loss, grad = gives(make, lossless.binary_cross_entropy_with_logits, (x, ones), *expected, reduction="none")
    assert (loss[-1], grad[0], grad[-1]) == (200, -1, -1)
    assert theirs(F.binary_cross_entropy_with_logits, x, ones, reduction="none")[1][-2] == 0
    p = scipy.special.expit(x[:1])  # float32 loses no digits of a small probability
    gives(make, lossless.binary_cross_entropy, (p, ones[:1]), 50, -1 / p.astype(np.float64), clamp=None)
    assert theirs(lambda x: lossless.binary_cross_entropy(x.sigmoid(), torch.ones(1), clamp=None), x[:1])[1] == -1
    assert abs(theirs(lambda x: F.binary_cross_entropy(x.sigmoid(), torch.ones(1)), x[:1])[1]) < 1e-9


def test_keras_17634_probabilities_are_not_clipped(make):
    """Clipping at 1e-7 changes losses and kills gradients: keras#17634, #9664, #9247, #15249, tensorflow PR#41595."""
    x, onehot, y = np.array([[14.4, 50.1, 3.5]]), np.array([[1.0, 0, 0]]), np.array([0])
    losses, grads = exact(x, y)
    gives(make, lossless.categorical_cross_entropy, (x, onehot), losses[0], grads, from_logits=True)
    p = scipy.special.softmax(x, axis=1)
    for loss, target in ((lossless.categorical_cross_entropy, onehot), (lossless.sparse_categorical_cross_entropy, y)):
        gives(make, loss, (p, target), losses[0], [[-1 / p[0, 0], 0, 0]])
    loss, grad = theirs(lambda p: -p.clamp(1e-7, 1 - 1e-7).log()[:, 0], p)
    assert (loss < 17, grad.any()) == (True, False)
    p, t = np.array([0.9999999, 0.9999999, 1e-7, 0, 1], np.float32), np.array([0, 1, 0, 1, 1], np.float32)
    wide = p.astype(np.float64)
    losses = [-math.log1p(-wide[0]), -math.log(wide[1]), -math.log1p(-wide[2]), INF, 0]
    grads = [1 / (1 - wide[0]), -1 / wide[1], 1 / (1 - wide[2]), -INF, -1]
    gives(make, lossless.binary_cross_entropy, (p, t), losses, grads, clamp=None, reduction="none")


def test_keras_4744_negative_probabilities(make):
    """Negative predictions are clipped and cost a plausible number, for days: keras#4744."""
    p, onehot = np.array([[-0.2, 1.2]]), np.array([[0.0, 1.0]])
    assert torch.isfinite(F.binary_cross_entropy(as_torch(p).clamp(1e-7, 1 - 1e-7), as_torch(onehot)))
    for name, target in (("binary", onehot), ("categorical", onehot), ("sparse_categorical", np.array([1]))):
        with pytest.raises(ValueError, match=r"input holds values from -0\.2 to 1\.2, .*expected probabilities"):
            getattr(lossless, f"{name}_cross_entropy")(make(p), make(target))


def test_pytorch_31829_masked_classes_cost_nothing(make):
    """Classes masked with -inf make loss or gradient NaN: pytorch#31829, #11551, optax#896, PR#1762."""
    x = np.array([[0.0, 1.0, -INF]], np.float32)
    for target in (np.array([1]), np.array([[0.75, 0.25, 0]], np.float32)):
        losses, grads = exact(x, target)
        assert gives(make, lossless.cross_entropy, (x, target), losses[0], grads, of=0.75)[1][0, 2] == 0
        close(lossless.row_statistics(make(x), make(target)).nll, losses)
    assert np.isnan(theirs(F.cross_entropy, x, target)[0])
    x, y = np.array([[-INF] * 3, [0.0, 1.0, 2.0]]), np.array([-100, 2])  # a row of nothing, ignored
    losses, grads = exact(x[1:], y[1:])
    gives(make, lossless.cross_entropy, (x, y), losses[0], [[0, 0, 0], *grads])
    assert np.all(np.isnan(theirs(F.cross_entropy, x, y)[1][0]))


def test_pytorch_31829_entropy_of_masked_classes(make):
    """The entropy of tokens masked with -inf is NaN, as is its gradient: pytorch#31829, trl#7221, PR#7251, PR#7252."""
    x, certain = np.array([[0.0, 1.0, -INF]]), np.array([[65504, -65504]], np.float16)
    p = [1 / (1 + math.e), math.e / (1 + math.e)]
    h = math.log1p(math.e) - p[1]  # log sum_j exp(x_j) - sum_j p_j x_j
    for entropy in (lambda x: lossless.info.entropy(x, kind="logits"), lambda x: lossless.row_statistics(x).entropy):
        close(entropy(make(x)), [h])
        close(entropy(make(np.array([[0.0, 0.0, -INF], [0.0, -INF, -INF]], np.float32))), [math.log(2), 0])
        assert entropy(make(certain)) == 0
        close(theirs(entropy, x)[1], [[-p[0] * (math.log(p[0]) + h), -p[1] * (math.log(p[1]) + h), 0]], of=0.5)
    loss, grad = theirs(lambda x: -(x.log_softmax(1).exp() * x.log_softmax(1)).sum(1), x)
    assert np.isnan([*loss, *grad[0]]).all()


def test_pytorch_89558_divergence_at_zero_targets(make):
    """A target probability of 0 makes KL or its gradient NaN: pytorch#89558, optax PR#1786."""
    x, t = np.array([0.5, 1.0, 2.0, -INF]), np.array([0.0, 0.4, 0.6, 0.0])
    log_q, log_t = scipy.special.log_softmax(x), np.array([-INF, math.log(0.4), math.log(0.6), -INF])
    expected = math.fsum(t[j] * (math.log(t[j]) - log_q[j]) for j in (1, 2))
    for target, options in ((t, {}), (log_t, {"log_target": True})):
        loss, grad = value_and_grad(lossless.kl_div, make(log_q), make(target), reduction="sum", **options)
        close(loss, expected, ulp=8, of=1)
        close(grad, -t)
        assert np.isnan(theirs(F.kl_div, log_q, target, reduction="sum", **options)[0])
    close(lossless.info.kl_divergence(make(t), make(x), q_kind="logits"), expected, ulp=8, of=1)
    _, grad = theirs(lambda q: lossless.info.kl_divergence(as_torch(t), q, q_kind="logits"), x)
    close(grad, scipy.special.softmax(x) - t, of=0.6)
    log_p = torch.tensor([0.3, 0.7], dtype=torch.float64).log()
    for kl_div, at_0 in ((lossless.kl_div, -INF), (F.kl_div, math.nan)):  # t log t has slope -inf at 0
        _, grad = theirs(lambda t, f=kl_div: f(log_p, t, reduction="sum"), np.array([1.0, 0.0]))
        close(grad, [1 - math.log(0.3), at_0])


def test_pytorch_45112_root_mean_square_of_no_error(make):
    """The gradient of sqrt(MSE) is NaN once all is right, so users add 1e-6: pytorch#45112, keras#1172, tabnet#314."""
    x = np.array([1.0, 2.0, 3.0])
    gives(make, lossless.rmse_loss, (x, x), 0, [0, 0, 0])
    assert np.all(np.isnan(theirs(lambda x: F.mse_loss(x, x.detach()).sqrt(), x)[1]))
    small, slopes = 5e-9 / math.sqrt(2), [0.3 * math.sqrt(2), 0.4 * math.sqrt(2)]
    gives(make, lossless.rmse_loss, (np.array([3e-9, 4e-9]), np.zeros(2)), small, slopes)


def test_optax_1346_focal_gradients_of_extreme_logits(make):
    """Focal loss has NaN gradients where logits are extreme and gamma below 2: optax PR#1346, #1267, kornia#918."""
    x = np.array([-100.0, -100, 100, 100, 1000, -1000, 18, 40], np.float32)
    t = np.array([0.0, 1, 0, 1, 1, 0, 1, 1], np.float32)
    side, zeros = 2 * t - 1, np.zeros(len(x), np.int64)
    pairs = np.stack([x * side, np.zeros_like(x)], axis=1)
    for gamma in (0.0, 0.5, 1.0, 1.5, 2.0):
        losses, grads = exact_binary(x, t, gamma)
        gives(make, lossless.sigmoid_focal_loss, (x, t), losses, grads, ulp=8, alpha=-1, gamma=gamma)
        grads = np.stack([side * grads, -side * grads], axis=1)
        gives(make, lossless.focal_loss, (pairs, zeros), losses, grads, ulp=8, gamma=gamma, reduction="none")
    _, grad = theirs(lambda x, t: (x.sigmoid() - t).abs() ** 0.5 * -F.logsigmoid(x * (2 * t - 1)), x, t)
    assert np.isnan(grad).sum() >= 4


def test_pytorch_29429_half_precision_mean_of_many_rows(make):
    """The mean of 70,000 float16 losses is NaN or inf: pytorch#29429, #61523."""
    draw = np.random.default_rng(0)
    x, y, each = draw.normal(size=(70_000, 11)).astype(np.float16), draw.integers(11, size=70_000), np.arange(70_000)
    log_p = scipy.special.log_softmax(x.astype(np.float64), axis=1)
    half = log_p.astype(np.float16)
    gives(make, lossless.nll_loss, (half, y), -half[each, y].mean(dtype=float), np.eye(11)[y] / -70_000, ulp=0.51)
    close(lossless.cross_entropy(make(x), make(y)), -log_p[each, y].mean(), ulp=0.51)
    assert torch.isnan(F.nll_loss(as_torch(half), as_torch(y)))
    assert torch.isnan(F.cross_entropy(as_torch(x), as_torch(y)))


@needs_kernels
@pytest.mark.slow
@pytest.mark.parametrize("layout", ["rows", "images"])
def test_pytorch_111484_more_than_2_to_the_32_logits(layout):
    """Losses beyond element 2^32 are wrong, or memory faults: pytorch#111484, #85786, #90793, #190139."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    if free < 10:  # the gradient takes 8; pages of logits that are all 0 take nothing
        pytest.skip(f"needs 10 GiB of free memory, found {free:.1f}")
    rows, classes, last = 86_000, 50_000, np.arange(85_990, 86_000)
    y, score = np.arange(rows) % classes, np.maximum(np.arange(rows) - 85_989.0, 0)
    shape, at = (rows, classes), (last, y[last])
    if layout == "images":
        shape, at = (2, classes, rows // 2), (1, y[last], last - rows // 2)
    x, y = np.zeros(shape, np.float16), y.reshape(shape[:1] + shape[2:])
    x[at], total = score[last], classes - 1 + np.exp(score)
    assert x.size > 2**32
    leaf = as_torch(x).requires_grad_()
    loss = lossless.cross_entropy(leaf, as_torch(y), reduction="none")
    for found in (loss, lossless.cross_entropy(x, y, reduction="none")):
        close(found, (np.log(total) - score).reshape(y.shape), ulp=0.51)
    (grad,) = torch.autograd.grad(loss, leaf, torch.ones_like(loss))
    close(grad.numpy()[at], (1 - classes) / total[last], ulp=0.51)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint8", "uint16", "uint32"])
def test_pytorch_45540_labels_of_any_integer_dtype(make, dtype):
    """Labels must be int64, which takes 8 times the memory of a mask: pytorch#45540, #1842."""
    x, y = np.random.default_rng(0).normal(size=(2, 4, 3, 3)), (np.arange(18) % 4).reshape(2, 3, 3).astype(dtype)
    y[0, 0, 0] = 100
    losses, grads = exact(np.moveaxis(x, 1, -1).reshape(18, 4)[1:], y.reshape(18)[1:])
    grads = np.moveaxis(np.vstack([np.zeros(4), grads / 17]).reshape(2, 3, 3, 4), -1, 1)
    gives(make, lossless.cross_entropy, (x, y), losses.mean(), grads, ulp=5, ignore_index=100)
    with pytest.raises(RuntimeError, match=r"expected .* Long"):
        theirs(F.cross_entropy, x, y, ignore_index=100)


def test_scipy_12553_nothing_is_normalized_silently(make):
    """Entropy divides by the sum of what it is given, asked or not: scipy#12553, #23064."""
    part, normalized = np.array([0.1, 0.2]), math.log(3) - 2 / 3 * math.log(2)
    close(lossless.info.entropy(make(part)), -0.1 * math.log(0.1) - 0.2 * math.log(0.2))
    for entropy in (lossless.info.entropy(make(part), normalize=True), scipy.stats.entropy(part)):
        close(entropy, normalized)
    p, q = np.array([2.0, 8.0]), np.array([1.0, 9.0])
    for measure, arrays in ((lossless.info.entropy, (p,)), (lossless.info.kl_divergence, (p, q))):
        with pytest.raises(ValueError, match=r"p holds values from 2 to 8, .*\n.*normalize=True for counts"):
            measure(*map(make, arrays))
        assert measure(*map(make, arrays), normalize=True) == pytest.approx(scipy.stats.entropy(*arrays), rel=1e-14)


@pytest.mark.filterwarnings("ignore:Labels passed were")
def test_scikit_learn_24515_columns_keep_their_order(make, tmp_path):
    """Columns are taken in the order of sorted labels, so being right costs 36.04: sklearn#24515, #30910."""
    names, p = np.array(["dog", "cat"]), np.eye(2)
    assert sklearn.metrics.log_loss(names, p, labels=names) == pytest.approx(36.04, abs=0.01)
    np.savez(tmp_path / "p.npz", probs=p, label=names, classes=names)
    found = lossless.evaluate(tmp_path / "p.npz")
    assert (found.nll, found.accuracy, found.source.class_names) == (0, 1, ("dog", "cat"))
    assert lossless.sparse_categorical_cross_entropy(make(p), make(np.array([0, 1]))) == 0


def test_torchmetrics_1604_logits_stay_logits(tmp_path):
    """Whether scores are logits is guessed batch by batch: torchmetrics#1604, #2195, #2329, #3269."""
    x, y = 3 * np.random.default_rng(0).normal(size=(600, 3)), np.random.default_rng(1).integers(3, size=600)
    x[200:400] = np.random.default_rng(2).uniform(size=(200, 3))
    nll = -scipy.special.log_softmax(x, axis=1)[np.arange(600), y]
    for part in (slice(0, 600), slice(200, 400)):
        np.savez(tmp_path / "p.npz", logits=x[part], label=y[part])
        found = lossless.evaluate(tmp_path / "p.npz")
        assert found.nll == pytest.approx(nll[part].mean(), rel=1e-13)
        assert (found.accuracy, found.source.kind) == (np.mean(x[part].argmax(axis=1) == y[part]), "logits")
    np.savez(tmp_path / "p.npz", scores=x[part], label=y[part])
    with pytest.raises(ValueError, match="Say what it holds: --logits scores or --probs scores"):
        lossless.evaluate(tmp_path / "p.npz")
    guessed = -np.log(x[part] / x[part].sum(axis=1, keepdims=True))[np.arange(200), y[part]]
    assert abs(guessed.mean() - nll[part].mean()) > 0.2


def test_pytorch_65329_weighted_means(make):
    """A mean divides by weights for labels, by rows for one-hot: pytorch#65329, #25571, #50528, #8062, #104776."""
    x, y, w = np.array([[0.2, 0.3, 0.5], [0.5, 0.2, 0.3]]), np.array([2, 1]), np.array([2.0, 4.0, 6.0])
    weighted = w[y] * exact(x, y)[0]
    means = {"weights": weighted.sum() / 10, "count": weighted.mean(), "batch": weighted.mean()}
    for target, implied in ((y, "weights"), (np.eye(3)[y], "count")):
        for name, expected in means.items():
            close(lossless.cross_entropy(make(x), make(target), make(w), denominator=name), expected)
        close(lossless.cross_entropy(make(x), make(target), make(w)), means[implied])
        assert theirs(F.cross_entropy, x, target, w)[0] == pytest.approx(means[implied], rel=1e-14)
    losses, grads = exact(x[:1], y[:1])
    for options, factor in (({}, 1), ({"denominator": "batch"}, 6), ({"denominator": "count"}, 6)):
        gives(make, lossless.cross_entropy, (x[:1], y[:1], w), factor * losses[0], factor * grads, ulp=5, **options)
    assert theirs(F.cross_entropy, x[:1], y[:1], w)[0] == pytest.approx(losses[0], rel=1e-14)
    x, y, w = np.array([[-100.0, 100.0], [-100.0, 100.0]]), np.array([0, 1]), np.array([20.0, 10.0])
    assert lossless.cross_entropy(make(x), make(y), make(w), denominator="batch") == 2000


def test_pytorch_70348_all_rows_ignored(make):
    """The mean is NaN where every label is ignored, and should be 0: pytorch#70348, #116349, #75181."""
    x, y, t, nothing = np.ones((5, 10)), np.full(5, -100), np.full((5, 10), -1.0), np.zeros((5, 10))
    for options in ({"denominator": "batch"}, {"denominator": 32}, {"reduction": "sum"}):
        gives(make, lossless.cross_entropy, (x, y), 0, nothing, **options)
        gives(make, lossless.binary_cross_entropy_with_logits, (x, t), 0, nothing, ignore_index=-1, **options)
    gives(make, lossless.cross_entropy, (x, y), math.nan, nothing)  # if nothing is said, as in PyTorch
    assert np.isnan(theirs(F.cross_entropy, x, y)[0])


def test_transformers_34191_micro_batches_add_up(make):
    """Means of micro-batches are not the batch's: transformers PR#34191, #35203, lightning#20350, PR#21386."""
    x, y = 2 * np.random.default_rng(0).normal(size=(3, 8, 5)), np.random.default_rng(1).integers(5, size=(3, 8))
    y[0, 2:] = y[1, 5:] = -100
    counted, expected = y != -100, np.zeros((3, 8, 5))
    losses, grads = exact(x[counted], y[counted])
    expected[counted] = grads / counted.sum()
    options = {"denominator": int(counted.sum())}
    parts = [value_and_grad(lossless.cross_entropy, make(x[i]), make(y[i]), **options) for i in range(3)]
    close(sum(loss for loss, _ in parts), losses.mean())
    close(np.stack([grad for _, grad in parts]), expected, ulp=5)
    assert abs(np.mean([theirs(F.cross_entropy, x[i], y[i])[0] for i in range(3)]) - losses.mean()) > 0.1


def test_pytorch_141177_one_hot_targets_cost_what_labels_do(make):
    """Probabilities as targets take another path than labels, a slower one: pytorch#141177."""
    x, y = 4 * np.random.default_rng(0).normal(size=(20, 9)), np.random.default_rng(1).integers(9, size=20)
    for target in (y, np.eye(9)[y]):
        gives(make, lossless.cross_entropy, (x, target), *exact(x, y), ulp=2, reduction="none")


def test_pytorch_141177_the_class_dimension_does_not_matter(make):
    """Over a dimension that is not the last, log_softmax is another algorithm: pytorch PR#64726."""
    x = np.random.default_rng(0).normal(size=(3, 50, 5, 7)).astype(np.float32)
    y, last = make(np.random.default_rng(1).integers(50, size=(3, 5, 7))), make(np.moveaxis(x, 1, -1).copy())
    found = array(lossless.log_softmax(make(x), 1))
    close(found, scipy.special.log_softmax(x.astype(np.float64), axis=1))
    assert np.array_equal(found, np.moveaxis(array(lossless.log_softmax(last, -1)), -1, 1))
    first = value_and_grad(lossless.cross_entropy, make(x), y, reduction="none")
    loss, grad = value_and_grad(lossless.cross_entropy, last, y, reduction="none", dim=-1)
    assert all(map(np.array_equal, first, (loss, np.moveaxis(grad, -1, 1))))


# VmHWM and not ru_maxrss, which a child process inherits from the one that started it
_MEMORY = r"""
import re, torch, lossless, torch.nn.functional as F
x, y = torch.zeros(50_000, 1024), torch.zeros(50_000, dtype=torch.long)
with torch.no_grad():
    for loss, rows in ((lossless, 8), (F, 8), (lossless, 50_000), (F, 50_000)):
        loss.cross_entropy(x[:rows], y[:rows])
        print(re.search(r"VmHWM:\s+(\d+) kB", open("/proc/self/status").read())[1])
"""


@needs_kernels
def test_pytorch_141177_memory_of_the_logits():
    """Only to be evaluated, a loss takes the memory of the logits once more: pytorch#124480."""
    done = subprocess.run([sys.executable, "-c", _MEMORY], check=True, capture_output=True, text=True)
    before, ours, theirs = map(int, done.stdout.split()[1:])
    size = 50_000 * 1024 * 4 / 1024
    assert ours - before < size / 10
    assert theirs - ours > size / 2


def test_pytorch_29754_the_class_dimension_is_an_option(make):
    """Classes must be dimension 1, and (B, T, C) with T = C is wrong without a word: pytorch#29754, #77256."""
    for time in (5, 3):
        x, y = np.random.default_rng(0).normal(size=(4, time, 3)), np.random.default_rng(1).integers(3, size=(4, time))
        losses, grads = exact(x.reshape(-1, 3), y.reshape(-1))
        gives(make, lossless.cross_entropy, (x, y), losses.mean(), grads.reshape(x.shape) / y.size, ulp=5, dim=-1)
    assert theirs(F.cross_entropy, x, y)[0] != pytest.approx(losses.mean(), rel=0.01)


def test_pytorch_91545_label_smoothing_of_yes_and_no(make):
    """Binary cross-entropy has no label smoothing: pytorch#91545."""
    x, t = np.array([2.0, -1.0, 30.0]), np.array([1.0, 0.0, 1.0])
    options, expected = {"label_smoothing": 0.2, "reduction": "none"}, exact_binary(x, 0.8 * t + 0.1)
    gives(make, lossless.binary_cross_entropy_with_logits, (x, t), *expected, of=0.9, **options)
    expected = [-0.9 * math.log(a) - 0.1 * math.log(b) for a, b in ((0.9, 1 - 0.9), (1 - 0.2, 0.2))]
    close(lossless.binary_cross_entropy(make(np.array([0.9, 0.2])), make(t[:2]), **options), expected)
    with pytest.raises(TypeError, match="label_smoothing"):
        F.binary_cross_entropy_with_logits(as_torch(x), as_torch(t), label_smoothing=0.2)


def test_vision_3250_focal_loss_of_softmax(make):
    """Focal loss is for sigmoids alone, not for classes that exclude each other: vision#3250, #8008."""
    x, y = 3 * np.random.default_rng(0).normal(size=(2, 4, 3, 3)), np.random.default_rng(1).integers(4, size=(2, 3, 3))
    for gamma in (0.5, 1.0, 2.0):
        losses, grads = exact(np.moveaxis(x, 1, -1).reshape(-1, 4), y.reshape(-1), gamma)
        grads = np.moveaxis(grads.reshape(2, 3, 3, 4), -1, 1)
        gives(make, lossless.focal_loss, (x, y), losses.reshape(y.shape), grads, 8, gamma=gamma, reduction="none")


def test_monai_8601_alpha_of_each_class(make):
    """Alpha of a focal loss is one number, where each class needs its own: MONAI#8601."""
    x, y, alpha = np.random.default_rng(0).normal(size=(6, 3)), np.arange(6) % 3, np.array([0.1, 0.3, 0.6])
    losses, grads = exact(x, y, 2)
    grads = alpha[y][:, None] * grads / 6
    gives(make, lossless.focal_loss, (x, y), (alpha[y] * losses).mean(), grads, ulp=9, alpha=make(alpha))


def test_pytorch_1319_weights_of_samples(make):
    """Losses weigh classes, not instances: pytorch#1319, #104776."""
    x, y, s = np.random.default_rng(0).normal(size=(4, 3)), np.array([0, 2, 1, 1]), np.array([1.0, 0.5, 0.0, 2.0])
    losses, grads = exact(x, y)
    expected = (s * losses).sum() / 3.5, s[:, None] * grads / 3.5
    gives(make, lossless.cross_entropy, (x, y), *expected, sample_weight=make(s))
    _, grad = theirs(lambda s: lossless.cross_entropy(as_torch(x), as_torch(y), sample_weight=s, reduction="sum"), s)
    close(grad, losses)
    t, weight = np.eye(3)[y], np.repeat(s[:, None], 3, axis=1)
    losses, grads = (weight * v.reshape(4, 3) for v in exact_binary(x.ravel(), t.ravel()))
    gives(make, lossless.binary_cross_entropy_with_logits, (x, t), losses.mean(), grads / 12, sample_weight=make(s))
    expected = (weight * (x - t) ** 2).sum() / 10.5, 2 * weight * (x - t) / 10.5
    gives(make, lossless.mse_loss, (x, t), *expected, ulp=5, weight=make(weight))


# ---------------------------------------------------------------- what is refused, or warned of


def test_pytorch_66076_label_out_of_range():
    """ "An out-of-range label kills the process, with a stack trace of something else." #5916, #21825, #89369."""
    x, y = torch.randn(4, 3), torch.tensor([1, 2, 3, 1])
    for a, b in ((x, y), (x.numpy(), y.numpy())):
        with pytest.raises(IndexError, match=r"(?s)target\[2\] is 3, but input has 3 classes.*1 of 4.*subtract 1"):
            lossless.cross_entropy(a, b)
        with pytest.raises(IndexError, match=r"(?s)target\[0\] is 255.*2 of 4.*pass ignore_index=255"):
            lossless.nll_loss(a, b * 0 + 255 * (b == 1))
    assert lossless.cross_entropy(x, y - 1).isfinite()  # the process is well


def test_pytorch_135546_compiled_code_checks_labels():
    """ "Compiled, a bad target is silently accepted." #193757, keras#23664."""
    x, y = torch.randn(4, 3), torch.tensor([1, 2, 3, 1])
    compiled = torch.compile(lambda x, y: lossless.cross_entropy(x, y), backend="eager")
    if _kernels.native is None:
        assert compiled(x, y).isnan()
    else:
        with pytest.raises(IndexError, match="Target 3 is out of bounds"):
            compiled(x, y)


def test_pytorch_137188_one_hot_integers():
    """ "Expected floating point type for target with class probabilities, got Long" helps nobody. PR#145444."""
    x, y = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    with pytest.raises(RuntimeError, match=r"(?s)got Long.*If it is one-hot.*argmax over the classes"):
        lossless.cross_entropy(x, F.one_hot(y, 3))
    one_hot = lossless.categorical_cross_entropy(x, F.one_hot(y, 3), from_logits=True)
    torch.testing.assert_close(one_hot, lossless.cross_entropy(x, y))


def test_pytorch_25174_weights_of_classes_and_their_shapes():
    """ "pos_weight of (C,) fails, or hits the wrong dimension." #5157, #27936, #82496, #65702."""
    x, t, w = torch.randn(2, 3, 4, 4), torch.rand(2, 3, 4, 4), torch.tensor([1.0, 2.0, 3.0])
    with pytest.raises(RuntimeError, match=r"(?s)pos_weight has shape \[3\].*pos_weight.reshape\(3, 1, 1\)"):
        lossless.binary_cross_entropy_with_logits(x, t, pos_weight=w)
    fixed = lossless.binary_cross_entropy_with_logits(x, t, pos_weight=w.reshape(3, 1, 1), reduction="none")
    by_hand = -(w[:, None, None] * t * F.logsigmoid(x) + (1 - t) * F.logsigmoid(-x))
    torch.testing.assert_close(fixed, by_hand)
    x, t = x.transpose(1, 2), t.transpose(1, 2)
    with pytest.warns(MisuseWarning, match=r"pos_weight has shape \[4\] and input \[2, 4, 3, 4\]"):
        lossless.binary_cross_entropy_with_logits(x, t, pos_weight=torch.ones(4))
    with pytest.raises(RuntimeError, match="defined either for all 3 classes or no classes"):
        lossless.cross_entropy(torch.randn(4, 3), torch.tensor([0, 1, 2, 1]), weight=torch.ones(4))


def test_pytorch_55902_softmax_before_cross_entropy():
    """ "Warn me that my model ends in a softmax." MobileNetV2-pytorch#5, Huggingface_Toturials#6."""
    model, y = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Softmax(1)), torch.randint(0, 3, (32,))
    x = torch.randn(32, 5)
    with pytest.warns(MisuseWarning, match="input is the output of a softmax"):
        lossless.nn.CrossEntropyLoss()(model(x), y)
    with torch.no_grad(), pytest.warns(MisuseWarning, match="16 rows looked at lie in .0, 1. and sum to 1"):
        lossless.nn.CrossEntropyLoss()(model(x), y)
    model[1] = torch.nn.LogSoftmax(1)  # which changes nothing, and is no mistake
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss = lossless.nn.CrossEntropyLoss()(model(x), y)
    torch.testing.assert_close(loss, lossless.cross_entropy(model[0](x), y))


def test_pytorch_10033_probabilities_in_nll_loss():
    """ "My loss is negative." e2e-model-learning#11."""
    x, y = torch.randn(32, 3), torch.randint(0, 3, (32,))
    with pytest.warns(MisuseWarning, match="nll_loss takes logarithms of probabilities"):
        assert lossless.nll_loss(x.softmax(1), y) < 0
    (finding,) = lossless.diagnose(x, y, loss="nll_loss")
    assert (finding.name, finding.severity) == ("scores-in-nll-loss", "hint")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_pytorch_16045_broadcast_of_a_column():
    """ "(N, 1) against (N,) trains on the mean, silently." #19699, keras#14627, tensorflow#30040."""
    x, t = torch.arange(3.0)[:, None], torch.arange(3.0)
    with pytest.warns(lossless.errors.LosslessWarning, match=r"(?s)target size.*3 and 3 numbers make 9 pairs"):
        assert lossless.mse_loss(x, t) == F.mse_loss(x, t) == 12 / 9
    with pytest.raises(ValueError, match=r"input has shape \[3, 1\] and target \[3\], expected the same"):
        lossless.rmse_loss(x, t)


@pytest.mark.filterwarnings("ignore:reduction")
def test_pytorch_2259_arguments_and_mean_of_kl_div():
    """ "KL is negative; KL is too small." #6622, PR#14457, #57459, PR#67443, deit#61, LD#74."""
    p, q = torch.tensor([[0.5, 0.5]] * 8), torch.tensor([[0.9, 0.1]] * 8)
    truth = 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1)
    with pytest.warns(MisuseWarning, match="was given probabilities"):
        assert lossless.kl_div(q, p, reduction="batchmean") < 0
    with pytest.warns(MisuseWarning, match="no logarithm of a probability is"):
        lossless.kl_div(q.log() + 3, p, reduction="batchmean")
    with pytest.warns(MisuseWarning, match="log_target is False"):
        lossless.kl_div(q.log(), p.log(), reduction="batchmean")
    with pytest.warns(lossless.errors.LosslessWarning, match="expected 'batchmean'"):
        mean = lossless.kl_div(q.log(), p)
    right = lossless.kl_div(q.log(), p, reduction="batchmean")
    assert right.item() == pytest.approx(truth, rel=1e-6)
    assert mean.item() == pytest.approx(truth / 2, rel=1e-6)
    assert lossless.info.kl_divergence(p, q)[0].item() == pytest.approx(truth, rel=1e-6)


def test_keras_4744_probabilities_that_do_not_sum_to_one():
    """ "The loss of unnormalised rows looks fine": ours says so; scipy#12553 is the same with entropies."""
    p = np.full((32, 4), 0.2)
    with pytest.warns(MisuseWarning, match=r"input\[0\] sums to 0.8"):
        lossless.sparse_categorical_cross_entropy(p, np.zeros(32, int))


def test_scikit_learn_24515_swapped_arguments():
    """ "y_true comes first, here and not there"."""
    x, y = np.random.default_rng(0).normal(size=(4, 3)), np.array([0, 1, 2, 0])
    with pytest.raises(TypeError, match=r"they seem to be swapped: the model's output is the first argument"):
        lossless.cross_entropy(y, x)
