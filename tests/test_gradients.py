"""Gradients through autograd: against the oracle in every regime, and first and second derivatives by differences.

gradcheck's tolerance of 1e-5 cannot see a lost tail; it is here to catch a wrong formula where the oracle has none
(derivatives by targets and weights). Second derivatives by x have `test_second_derivatives.py`.
"""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import lossless
from lossless._accuracy import regimes
from lossless._accuracy.libraries import OURS, View
from lossless._accuracy.problems import cases, problem, run_gradient, true_gradient
from lossless._accuracy.promises import judge
from ratchet import hold
from test_accuracy import has_middle_layout

CASES = [
    pytest.param(name, dtype, id=f"{dtype}/{name}")
    for dtype in regimes.DTYPES
    for name in cases(dtype)
    if problem(name, dtype).gradient is not None
]
MIDDLE = [case for case in CASES if has_middle_layout(case.values[0]) and problem(*case.values).x.shape[0] % 2 == 0]


def check_gradient(name: str, dtype: str, view: View) -> None:
    case, truth = problem(name, dtype), true_gradient(name, dtype)
    verdict = judge(case.function, case.gradient_name, dtype, run_gradient(name, dtype, view), truth)
    hold(name, dtype, case.gradient_name, verdict)


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_gradients(name, dtype):
    check_gradient(name, dtype, View(OURS["torch"]))


@pytest.mark.parametrize(("name", "dtype"), MIDDLE)
def test_gradients_with_the_classes_in_the_middle(name, dtype):
    check_gradient(name, dtype, View(OURS["torch"], middle=True))


# ---- differences ---------------------------------------------------------------------------------------------------


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(regimes.rng("gradcheck", str(shape), str(seed)).normal(size=shape)).requires_grad_()


def simplex(*shape: int) -> torch.Tensor:
    return torch.softmax(draw(*shape, seed=7).detach(), 1).requires_grad_()


def other_simplex(*shape: int) -> torch.Tensor:
    return torch.softmax(draw(*shape, seed=8).detach(), 1).requires_grad_()


LABELS = torch.tensor([1, 0, 3, 2, 1])
IGNORED = torch.tensor([1, -100, 3, 2, -100])
WEIGHT = torch.tensor([0.5, 3.0, 0.01, 20.0], dtype=torch.float64)
BITS = torch.tensor([[1.0, 0.0, 1.0, 0.25]] * 5, dtype=torch.float64)
PIXELS = torch.tensor([[[1, 0, 3]], [[2, 2, -100]]])

SMOOTH = {
    "softmax": (lambda x: lossless.softmax(x, 1), (draw(5, 4),)),
    "softmax, classes first": (lambda x: lossless.softmax(x, 0), (draw(5, 4),)),
    "log_softmax": (lambda x: lossless.log_softmax(x, 1), (draw(5, 4),)),
    "log_softmax, classes in the middle": (lambda x: lossless.log_softmax(x, 1), (draw(2, 4, 3),)),
    "logsumexp": (lambda x: lossless.logsumexp(x, 1), (draw(5, 4),)),
    "logsumexp over two dimensions": (lambda x: lossless.logsumexp(x, (0, 2)), (draw(2, 4, 3),)),
    "nll_loss": (lambda x: lossless.nll_loss(x, IGNORED, WEIGHT), (draw(5, 4),)),
    "nll_loss of log_softmax": (lambda x: lossless.nll_loss(lossless.log_softmax(x, 1), LABELS), (draw(5, 4),)),
    "cross_entropy": (lambda x: lossless.cross_entropy(x, LABELS), (draw(5, 4),)),
    "cross_entropy, none": (lambda x: lossless.cross_entropy(x, LABELS, reduction="none"), (draw(5, 4),)),
    "cross_entropy, sum": (lambda x: lossless.cross_entropy(x, IGNORED, reduction="sum"), (draw(5, 4),)),
    "cross_entropy, weights": (lambda x: lossless.cross_entropy(x, IGNORED, WEIGHT), (draw(5, 4),)),
    "cross_entropy, smoothing": (lambda x: lossless.cross_entropy(x, IGNORED, label_smoothing=0.1), (draw(5, 4),)),
    "cross_entropy, weights and smoothing": (
        lambda x: lossless.cross_entropy(x, IGNORED, WEIGHT, label_smoothing=0.1),
        (draw(5, 4),),
    ),
    "cross_entropy, pixels": (lambda x: lossless.cross_entropy(x, PIXELS), (draw(2, 4, 1, 3),)),
    "cross_entropy, unbatched": (lambda x: lossless.cross_entropy(x, torch.tensor(2)), (draw(4),)),
    "cross_entropy, soft": (lambda x, t: lossless.cross_entropy(x, t), (draw(5, 4), simplex(5, 4))),
    "cross_entropy, soft, weights and smoothing": (
        lambda x, t: lossless.cross_entropy(x, t, WEIGHT, label_smoothing=0.1),
        (draw(5, 4), simplex(5, 4)),
    ),
    "cross_entropy, soft, none": (
        lambda x: lossless.cross_entropy(x, simplex(5, 4).detach(), reduction="none"),
        (draw(5, 4),),
    ),
    "binary_cross_entropy_with_logits": (
        lambda x: lossless.binary_cross_entropy_with_logits(x, BITS),
        (draw(5, 4),),
    ),
    "binary_cross_entropy_with_logits, weights": (
        lambda x, t: lossless.binary_cross_entropy_with_logits(x, t, BITS + 1, pos_weight=WEIGHT, reduction="none"),
        (draw(5, 4), simplex(5, 4)),
    ),
    "binary_cross_entropy_with_logits, options": (
        lambda x, t, s, v: lossless.binary_cross_entropy_with_logits(
            x, t, pos_weight=v, label_smoothing=0.1, sample_weight=s, denominator="weights"
        ),
        (draw(5, 4), simplex(5, 4), draw(5).detach().exp().requires_grad_(), draw(4).detach().exp().requires_grad_()),
    ),
    "binary_cross_entropy_with_logits, ignored": (
        lambda x, w: lossless.binary_cross_entropy_with_logits(x, BITS, w, ignore_index=1),
        (draw(5, 4), draw(5, 4, seed=2)),
    ),
    "binary_cross_entropy": (
        lambda p, t, s: lossless.binary_cross_entropy(p, t, WEIGHT, sample_weight=s),
        (simplex(5, 4), draw(5, 4).detach().sigmoid().requires_grad_(), draw(5)),
    ),
    "binary_cross_entropy, exact": (
        lambda p, t: lossless.binary_cross_entropy(p, t, clamp=None, reduction="none"),
        (simplex(5, 4), draw(5, 4).detach().sigmoid().requires_grad_()),
    ),
    "binary_cross_entropy, exact, smoothing": (
        lambda p, t: lossless.binary_cross_entropy(p, t, clamp=None, label_smoothing=0.2, denominator="positives"),
        (simplex(5, 4), draw(5, 4).detach().sigmoid().requires_grad_()),
    ),
    "sigmoid_focal_loss": (
        lambda x, t: lossless.sigmoid_focal_loss(x, t),
        (draw(5, 4), draw(5, 4, seed=1).detach().sigmoid().requires_grad_()),
    ),
    "sigmoid_focal_loss, no alpha": (
        lambda x, t: lossless.sigmoid_focal_loss(x, t, -1, 0.5, "mean"),
        (draw(5, 4), draw(5, 4, seed=1).detach().sigmoid().requires_grad_()),
    ),
    "sigmoid_focal_loss, gamma 0": (lambda x: lossless.sigmoid_focal_loss(x, BITS, 0.75, 0, "sum"), (draw(5, 4),)),
    "kl_div": (lambda x, t: lossless.kl_div(x, t, reduction="batchmean"), (draw(5, 4), simplex(5, 4))),
    "kl_div, log_target": (
        lambda x, t: lossless.kl_div(x, t, reduction="none", log_target=True),
        (draw(5, 4), draw(5, 4, seed=1)),
    ),
    "sigmoid": (lossless.sigmoid, (draw(5, 4),)),
    "logsigmoid": (lossless.logsigmoid, (draw(5, 4),)),
    "logit": (lossless.logit, (simplex(5, 4),)),
    "logit, eps": (lambda p: lossless.logit(p, 0.2), (simplex(5, 4),)),
    "mse_loss": (lambda x, t: lossless.mse_loss(x, t), (draw(5, 4), draw(5, 4, seed=1))),
    "mse_loss, none": (lambda x, t: lossless.mse_loss(x, t, reduction="none"), (draw(5, 4), draw(5, 4, seed=1))),
    "rmse_loss": (lambda x, t: lossless.rmse_loss(x, t), (draw(5, 4), draw(5, 4, seed=1))),
    "entropy of logits": (lambda x: lossless.info.entropy(x, kind="logits"), (draw(5, 4),)),
    "entropy of log_probs": (lambda x: lossless.info.entropy(x, kind="log_probs"), (draw(5, 4),)),
    "entropy of probs": (lambda x: lossless.info.entropy(x, base=2), (simplex(5, 4),)),
    "entropy of counts": (lambda x: lossless.info.entropy(7 * x, normalize=True), (simplex(5, 4),)),
    "perplexity": (lambda x: lossless.info.perplexity(x, kind="logits"), (draw(5, 4),)),
    "perplexity of counts": (lambda x: lossless.info.perplexity(7 * x, normalize=True), (simplex(5, 4),)),
    **{
        f"{name} of {kinds}": (
            lambda x, y, name=name, options=options: getattr(lossless.info, name)(x, y, **options),
            (p, q),
        )
        for name in ("cross_entropy", "kl_divergence", "js_divergence")
        for kinds, options, p, q in (
            ("probs", {"base": 2}, simplex(5, 4), other_simplex(5, 4)),
            ("logits", {"kind": "logits"}, draw(5, 4), draw(5, 4, seed=1)),
            ("log_probs", {"kind": "log_probs", "dim": 0}, draw(5, 4), draw(5, 4, seed=1)),
            ("counts", {"normalize": True}, simplex(5, 4), other_simplex(5, 4)),
            ("probs and logits", {"q_kind": "logits"}, simplex(5, 4), draw(5, 4)),
            ("logits and log_probs", {"p_kind": "logits", "q_kind": "log_probs"}, draw(5, 4), draw(5, 4, seed=1)),
            ("log-counts and counts", {"p_kind": "log_probs", "normalize": True}, draw(5, 4), other_simplex(5, 4)),
        )
    },
    "k3": (lossless.info.k3, (draw(5, 4), draw(5, 4, seed=1))),
    "inverse_softmax": (lossless.inverse_softmax, (simplex(5, 4),)),
    "inverse_softmax, max": (lambda p: lossless.inverse_softmax(p, 0, center="max"), (simplex(5, 4),)),
    "row_statistics": (
        lambda x: lossless.row_statistics(x, IGNORED, prior=WEIGHT, ignore_index=-100)[:4],
        (draw(5, 4),),
    ),
    "row_statistics, no target": (lambda x: lossless.row_statistics(x)[1:3], (draw(5, 4),)),
    "row_statistics, soft": (lambda x: lossless.row_statistics(x, simplex(5, 4).detach())[:3], (draw(5, 4),)),
    "row_statistics, classes in the middle": (
        lambda x: lossless.row_statistics(x, PIXELS[:, 0] % 4, dim=1)[:3],
        (draw(2, 4, 3),),
    ),
    "a link of one's own": (
        lambda x: (lambda s: ((-torch.expm1(-s.nll)) ** 2 * s.nll + 1e-1 * s.lse**2 + s.entropy).mean())(
            lossless.row_statistics(x, LABELS)
        ),
        (draw(5, 4),),
    ),
}


@pytest.mark.parametrize("case", SMOOTH)
def test_first_and_second_derivatives_by_differences(case):
    function, inputs = SMOOTH[case]
    assert gradcheck(function, inputs)
    assert gradgradcheck(function, inputs)


def test_second_derivatives_of_the_module():
    module = lossless.nn.CrossEntropyLoss(weight=WEIGHT, label_smoothing=0.1)
    assert gradcheck(lambda x: module(x, LABELS), (draw(5, 4),))
    assert gradgradcheck(lambda x: module(x, LABELS), (draw(5, 4),))
