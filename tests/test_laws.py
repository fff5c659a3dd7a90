"""Laws that hold whatever the numbers are, on inputs that Hypothesis looks for (the same ones in every run)."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import lossless
from lossless._accuracy.promises import LAWS
from lossless._kernels import native

reproducible = settings(derandomize=True, deadline=None, max_examples=120, database=None)

# Any finite logits of a width that neither overflows a difference nor hides the tail; sizes around a vector of 16.
VALUES = st.floats(-300, 300, width=32) | st.sampled_from([0.0, -0.0, 20.0, -20.0, 88.0, 1e-30, 5e-324])
CLASSES = st.integers(1, 12) | st.sampled_from([15, 16, 17, 31, 32, 33, 64, 129])


@st.composite
def batches(draw, dtype=None, values=VALUES, least=1):
    """Logits (N, C) in float32 or float64, and labels."""
    dtype = draw(st.sampled_from([np.float32, np.float64])) if dtype is None else dtype
    rows, classes = draw(st.integers(1, 4)), max(least, draw(CLASSES))
    x = draw(hnp.arrays(np.float64, (rows, classes), elements=values)).astype(dtype)
    y = draw(hnp.arrays(np.int64, rows, elements=st.integers(0, classes - 1)))
    return x, y


def gradient(x, target, **options) -> np.ndarray:
    leaf = torch.from_numpy(np.array(x)).requires_grad_()
    loss = lossless.cross_entropy(leaf, torch.from_numpy(np.array(target)), reduction="sum", **options)
    return torch.autograd.grad(loss, leaf)[0].numpy()


def ulps_apart(a, b) -> float:
    """The largest difference of two arrays of one format, in ulp of the larger number."""
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    if a.size == 0:
        return 0.0
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        apart = np.abs(a - b) / np.spacing(np.maximum(np.abs(a), np.abs(b)))
    return float(np.max(np.where(same, 0, apart)))


def same_bits(a, b) -> bool:
    return np.asarray(a).tobytes() == np.asarray(b).tobytes()


@reproducible
@given(batches(), st.integers(-20, 20))
def test_a_power_of_two_as_temperature(batch, exponent):
    """Where it divides without rounding, it changes no bit but the exponent of a gradient."""
    x, y = batch
    temperature = 2.0**exponent
    assume(np.array_equal(x, x * x.dtype.type(temperature) / x.dtype.type(temperature)))
    scaled = x * x.dtype.type(temperature)
    for function in (lossless.softmax, lossless.log_softmax):
        assert same_bits(function(scaled, 1, temperature=temperature), function(x, 1))
    of, plain = lossless.row_statistics(scaled, y, temperature=temperature), lossless.row_statistics(x, y)
    assert all(same_bits(a, b) for a, b in zip(of, plain, strict=True) if b is not None)
    tiny = np.finfo(x.dtype).tiny * 2.0**40
    one, other = gradient(scaled, y, temperature=temperature), gradient(x, y)
    np.testing.assert_array_equal(
        np.where(np.abs(other) > tiny, one * x.dtype.type(temperature), 0), np.where(np.abs(other) > tiny, other, 0)
    )


# Quarters up to 64 can be moved by any quarter up to 1024 without rounding, in float32 and float64.
QUARTERS = st.integers(-256, 256).map(lambda n: n / 4)


@reproducible
@given(batches(values=QUARTERS), st.integers(-4096, 4096).map(lambda n: n / 4))
def test_a_shift_of_all_logits_changes_nothing(batch, c):
    x, y = batch
    moved = (x + x.dtype.type(c)).astype(x.dtype)
    assert np.array_equal(moved.astype(np.float64) - c, x)
    for function in (lossless.softmax, lossless.log_softmax):
        assert ulps_apart(function(moved), function(x)) <= LAWS["shift"]
    loss = lossless.cross_entropy(x, y, reduction="none")
    assert ulps_apart(lossless.cross_entropy(moved, y, reduction="none"), loss) <= LAWS["shift"]
    assert ulps_apart(gradient(moved, y), gradient(x, y)) <= LAWS["shift"]
    assert (
        ulps_apart(lossless.info.entropy(moved, kind="logits"), lossless.info.entropy(x, kind="logits"))
        <= LAWS["shift"]
    )


@reproducible
@given(batches(), st.randoms(use_true_random=False))
def test_the_order_of_the_classes_does_not_matter(batch, random):
    x, y = batch
    order = np.array(random.sample(range(x.shape[1]), x.shape[1]))
    shuffled, label = np.ascontiguousarray(x[:, order]), np.argsort(order)[y]
    limit = LAWS["permutation"]
    assert ulps_apart(lossless.softmax(shuffled), lossless.softmax(x)[:, order]) <= limit
    assert ulps_apart(lossless.log_softmax(shuffled), lossless.log_softmax(x)[:, order]) <= limit
    assert ulps_apart(gradient(shuffled, label), gradient(x, y)[:, order]) <= limit
    ours, theirs = lossless.row_statistics(x, y), lossless.row_statistics(shuffled, label)
    assert ulps_apart(theirs.nll, ours.nll) <= limit
    assert ulps_apart(theirs.entropy, ours.entropy) <= limit
    # lse crosses zero: an ulp of the largest logit is what a different order of summation can cost there.
    scale = np.spacing(np.maximum(np.abs(x.max(axis=1)), np.abs(ours.lse)))
    assert np.all(np.abs(theirs.lse - ours.lse) <= limit * scale)


@reproducible
@given(batches(), st.integers(1, 40))
def test_classes_of_probability_zero_change_nothing(batch, more):
    x, y = batch
    wide = np.concatenate([x, np.full((len(x), more), -np.inf, x.dtype)], axis=1)
    limit = LAWS["masked_classes"]
    probabilities, slope = lossless.softmax(wide), gradient(wide, y)
    assert ulps_apart(probabilities[:, : x.shape[1]], lossless.softmax(x)) <= limit
    assert same_bits(probabilities[:, x.shape[1] :], np.zeros((len(x), more), x.dtype))
    assert ulps_apart(slope[:, : x.shape[1]], gradient(x, y)) <= limit
    assert same_bits(slope[:, x.shape[1] :], np.zeros((len(x), more), x.dtype))
    nll = lossless.cross_entropy(x, y, reduction="none")
    assert ulps_apart(lossless.cross_entropy(wide, y, reduction="none"), nll) <= limit


@reproducible
@given(batches())
def test_the_gradient_of_a_row_sums_to_zero(batch):
    x, y = batch
    least = float(np.finfo(x.dtype).smallest_subnormal)
    limit = LAWS["zero_sum"][x.dtype.name]
    for row in gradient(x, y).tolist():
        assert abs(math.fsum(row)) <= limit * math.fsum(map(abs, row)) + least * len(row)


@reproducible
@given(batches())
def test_cross_entropy_is_never_negative(batch):
    x, y = batch
    loss = np.asarray(lossless.cross_entropy(x, y, reduction="none"))
    assert np.all(loss >= 0)
    assert not np.any(np.signbit(loss))
    assert np.all(np.asarray(lossless.log_softmax(x)) <= 0)
    statistics = lossless.row_statistics(x, y)
    assert not np.any(np.signbit(statistics.nll))


@reproducible
@given(batches())
def test_probabilities_are_probabilities(batch):
    x, _ = batch
    p = np.asarray(lossless.softmax(x))
    assert np.all((p >= 0) & (p <= 1))
    for row in p.astype(np.float64).tolist():
        assert abs(math.fsum(row) - 1) <= 4 * float(np.finfo(x.dtype).epsneg)


@reproducible
@given(batches())
def test_an_index_is_a_one_hot_target(batch):
    x, y = batch
    t = np.zeros_like(x)
    t[np.arange(len(x)), y] = 1
    limit = LAWS["index_is_one_hot"]
    index = lossless.cross_entropy(x, y, reduction="none")
    assert ulps_apart(lossless.cross_entropy(x, t, reduction="none"), index) <= limit
    assert ulps_apart(gradient(x, t), gradient(x, y)) <= limit
    composed = lossless.nll_loss(lossless.log_softmax(x, 1), y, reduction="none")
    assert ulps_apart(composed, index) <= limit
    assert ulps_apart(lossless.row_statistics(x, y).nll, index) <= limit
    assert ulps_apart(lossless.row_statistics(x, t).nll, index) <= limit


@reproducible
@given(batches(values=st.floats(-300, 300, width=32) | st.just(-math.inf)))
def test_entropy_lies_between_zero_and_log_c(batch):
    x, _ = batch
    assume(np.all(np.isfinite(x).any(axis=1)))
    entropy = np.asarray(lossless.info.entropy(x, kind="logits"))
    most = x.dtype.type(math.log(x.shape[1]))
    assert np.all(entropy >= 0)
    assert not np.any(np.signbit(entropy))
    assert np.all(entropy <= most + np.spacing(most))


@reproducible
@given(hnp.arrays(np.float32, 9, elements=st.floats(-200, 200, width=32)), st.sampled_from([np.float32, np.float64]))
def test_binary_cross_entropy_is_symmetric_and_is_cross_entropy_of_two_classes(x, dtype):
    x = x.astype(dtype)
    ones, zeros = np.ones_like(x), np.zeros_like(x)
    binary = lossless.value_and_grad(lossless.binary_cross_entropy_with_logits)
    (right, slope), (wrong, other) = binary(x, ones, reduction="none"), binary(-x, zeros, reduction="none")
    assert same_bits(right, wrong)
    assert np.array_equal(slope, -other)  # a slope below every denormal is 0 of either sign
    two = np.stack([zeros, x], axis=1)
    loss = lossless.cross_entropy(two, np.ones(len(x), np.int64), reduction="none")
    assert ulps_apart(right, loss) <= LAWS["binary_is_two_classes"]
    assert ulps_apart(slope, gradient(two, np.ones(len(x), np.int64))[:, 1]) <= LAWS["binary_is_two_classes"]


@reproducible
@given(batches())
def test_every_class_twice_is_one_bit_more(batch):
    x, y = batch
    twice = np.concatenate([x, x], axis=1)
    limit = LAWS["permutation"]
    bit = x.dtype.type(math.log(2))
    assert ulps_apart(lossless.softmax(twice)[:, : x.shape[1]], lossless.softmax(x) / 2) <= limit
    for measure, options in ((lossless.cross_entropy, {"reduction": "none"}), (lossless.info.entropy, None)):
        once, both = (measure(a, kind="logits") if options is None else measure(a, y, **options) for a in (x, twice))
        assert ulps_apart(both, (once + bit).astype(x.dtype)) <= limit


@reproducible
@given(batches())
def test_numpy_and_torch_agree(batch):
    """To the bit where one kernel serves both; the reference path takes exp and log from the framework."""
    x, y = batch
    tensor, label = torch.from_numpy(x), torch.from_numpy(y)
    limit = 0 if native is not None else LAWS["frameworks"]
    for function in (lossless.softmax, lossless.log_softmax):
        assert ulps_apart(function(x, 1), function(tensor, 1).numpy()) <= limit
    for reduction in ("none", "sum", "mean"):
        ours = lossless.cross_entropy(x, y, reduction=reduction)
        assert ulps_apart(lossless.cross_entropy(tensor, label, reduction=reduction).numpy(), ours) <= limit


@reproducible
@given(batches())
def test_a_row_does_not_see_its_neighbours(batch):
    x, y = batch
    for function in (lossless.softmax, lossless.log_softmax):
        together = np.asarray(function(x))
        for r in range(len(x)):
            assert same_bits(function(x[r : r + 1])[0], together[r])
    losses = lossless.cross_entropy(x, y, reduction="none")
    for r in range(len(x)):
        assert same_bits(lossless.cross_entropy(x[r : r + 1], y[r : r + 1], reduction="none")[0], losses[r])


@reproducible
@given(batches(), st.data())
def test_divergences_are_never_negative_and_zero_for_equal_distributions(batch, data):
    """Gibbs; the other distribution is near or far, and equal but for a constant of the logits."""
    x, _ = batch
    factor = data.draw(st.sampled_from([0.0, 1e-12, 1e-6, 1e-3, 1.0]))
    step = data.draw(hnp.arrays(np.float64, x.shape, elements=st.floats(-50, 50, width=32)))
    y = (x + factor * step).astype(x.dtype)
    p, q = lossless.softmax(x), lossless.softmax(y)
    log_p, log_q = lossless.log_softmax(x), lossless.log_softmax(y)
    counts = np.ldexp(p, 3), np.ldexp(q, -5)
    for name in ("kl_divergence", "js_divergence"):
        measure = getattr(lossless.info, name)
        for a, b, options in (
            (x, y, {"kind": "logits"}),
            (p, q, {}),
            (log_p, log_q, {"kind": "log_probs"}),
            (*counts, {"normalize": True}),
            (p, y, {"q_kind": "logits"}),
            (log_p, q, {"p_kind": "log_probs"}),
        ):
            found = np.asarray(measure(a, b, **options))
            assert np.all(found >= 0)
            assert not np.any(np.signbit(found))
            if factor == 0.0 and "p_kind" not in options and "q_kind" not in options and "normalize" not in options:
                assert np.all(found == 0)
        equal = np.asarray(measure(p, p)), np.asarray(measure(counts[0], np.ldexp(p, 9), normalize=True))
        assert np.all(equal[0] == 0)
        assert np.all(equal[1] == 0)
        assert np.all(np.asarray(measure(log_p, log_p, kind="log_probs")) == 0)
    assert np.all(np.asarray(lossless.info.js_divergence(x, y, kind="logits")) <= np.log(2).astype(x.dtype))


@reproducible
@given(batches(values=QUARTERS), st.integers(-4096, 4096).map(lambda n: n / 4))
def test_a_shift_of_all_logits_is_no_divergence(batch, c):
    x, _ = batch
    moved = (x + x.dtype.type(c)).astype(x.dtype)
    assert np.all(np.asarray(lossless.info.kl_divergence(x, moved, kind="logits")) == 0)
    assert np.all(np.asarray(lossless.info.js_divergence(x, moved, kind="logits")) == 0)


@reproducible
@given(batches(), batches())
def test_js_divergence_is_symmetric(batch, other):
    x, _ = batch
    y = np.resize(other[0], x.shape).astype(x.dtype)
    there, back = (lossless.info.js_divergence(a, b, kind="logits") for a, b in ((x, y), (y, x)))
    assert ulps_apart(there, back) <= 8


@reproducible
@given(hnp.arrays(np.float64, 9, elements=st.floats(-30, 0)), hnp.arrays(np.float64, 9, elements=st.floats(-30, 0)))
def test_k3_is_never_negative(logp, logq):
    for a, b in ((logp, logq), (logp, logp + 1e-9 * logq), (logp.astype(np.float32), logq.astype(np.float32))):
        found = lossless.info.k3(a, b)
        assert np.all(found >= 0)
        assert not np.any(np.signbit(found))
        apart = np.abs(a.astype(np.float64) - b)
        assert np.all(found[apart == 0] == 0)
        assert np.all(found[apart > 1e-20] > 0)  # the square of less is less than any number of float32


@reproducible
@given(batches(dtype=np.float64, values=st.floats(-30, 30, width=32)), st.sampled_from(["mean", "max", None]))
def test_softmax_undoes_inverse_softmax(batch, center):
    x, _ = batch
    p = lossless.softmax(x)
    np.testing.assert_allclose(lossless.softmax(lossless.inverse_softmax(p, center=center)), p, rtol=1e-14)
