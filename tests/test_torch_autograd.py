"""What PyTorch does with a function: graphs, higher derivatives, transforms, compilers, modes. Right, or an error."""

import functools
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import func
from torch.autograd import forward_ad, gradcheck, gradgradcheck
from torch.func import grad, jacfwd, jacrev
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

import lossless

on_both_paths = pytest.mark.usefixtures("path")


def numbers(*shape, seed=0):
    return torch.tensor(np.random.default_rng([seed, *shape]).normal(size=shape))


X, V = numbers(4, 3), numbers(4, 3, seed=1)
Y = torch.tensor([0, 2, 1, 1])
T, W, P = numbers(4, 3, seed=2).sigmoid(), numbers(3, seed=3).exp(), numbers(3, seed=4).exp()
S = numbers(4, seed=5).exp()
S, BITS = numbers(4, seed=5).exp(), torch.tensor([[1.0, 0, 1], [0, 0, 1], [1, 1, 0], [0, 1, 0]], dtype=torch.float64)
IMAGE, PIXELS = numbers(2, 3, 2), torch.tensor([[0, 2], [1, -100]])


def statistics(x, target=None, **options):
    return tuple(a for a in lossless.row_statistics(x, target, **options) if a is not None and a.is_floating_point())


def focal(cost):
    return (1 - (-cost).exp()) ** 1.5 * cost


def torchvisions_focal_loss(x, t, alpha=0.25, gamma=2):
    p = x.sigmoid()
    loss = F.binary_cross_entropy_with_logits(x, t, reduction="none") * (p * (1 - t) + (1 - p) * t) ** gamma
    return loss if alpha < 0 else (alpha * t + (1 - alpha) * (1 - t)) * loss


def divergence(p, log_p, log_q, dim=-1):
    return (p * (log_p - log_q) - p + log_q.exp()).sum(dim)


# name: (ours, PyTorch's or None, differentiated inputs)
FUNCTIONS = {
    "softmax": (lossless.softmax, functools.partial(torch.softmax, dim=-1), (X,)),
    "softmax, dim 0": (lambda x: lossless.softmax(x, 0), lambda x: x.softmax(0), (X,)),
    "softmax, temperature": (lambda x: lossless.softmax(x, temperature=0.7), lambda x: (x / 0.7).softmax(-1), (X,)),
    "log_softmax": (lossless.log_softmax, functools.partial(torch.log_softmax, dim=-1), (X,)),
    "log_softmax, dim 0": (lambda x: lossless.log_softmax(x, 0), lambda x: x.log_softmax(0), (X,)),
    "logsumexp": (lossless.logsumexp, lambda x: x.logsumexp(-1), (X,)),
    "logsumexp, all": (lambda x: lossless.logsumexp(x, (0, 1)), lambda x: x.logsumexp((0, 1)), (X,)),
    "cross_entropy": (lambda x: lossless.cross_entropy(x, Y), lambda x: F.cross_entropy(x, Y), (X,)),
    "cross_entropy, none": (
        lambda x: lossless.cross_entropy(x, Y, reduction="none"),
        lambda x: F.cross_entropy(x, Y, reduction="none"),
        (X,),
    ),
    "cross_entropy, options": (
        lambda x: lossless.cross_entropy(x, Y, W, ignore_index=2, label_smoothing=0.1),
        lambda x: F.cross_entropy(x, Y, W, ignore_index=2, label_smoothing=0.1),
        (X,),
    ),
    "cross_entropy, image": (
        lambda x: lossless.cross_entropy(x, PIXELS, label_smoothing=0.1),
        lambda x: F.cross_entropy(x, PIXELS, label_smoothing=0.1),
        (IMAGE,),
    ),
    "cross_entropy, weight": (lambda x, w: lossless.cross_entropy(x, Y, w, label_smoothing=0.1), None, (X, W)),
    "cross_entropy, soft": (
        lambda x: lossless.cross_entropy(x, T, W, label_smoothing=0.1),
        lambda x: F.cross_entropy(x, T, W, label_smoothing=0.1),
        (X,),
    ),
    "cross_entropy, soft, all": (
        lambda x, t, w: lossless.cross_entropy(x, t, w, label_smoothing=0.1, reduction="sum"),
        lambda x, t, w: F.cross_entropy(x, t, w, label_smoothing=0.1, reduction="sum"),
        (X, T, W),
    ),
    "cross_entropy, z-loss and sample weights": (
        lambda x, s: lossless.cross_entropy(x, Y, sample_weight=s, z_loss=0.1, denominator="batch"),
        lambda x, s: (s * (F.cross_entropy(x, Y, reduction="none") + 0.1 * x.logsumexp(1) ** 2)).mean(),
        (X, S),
    ),
    "cross_entropy, temperature": (
        lambda x, d: lossless.cross_entropy(x, Y, W, temperature=0.7, denominator=d),
        lambda x, d: F.cross_entropy(x / 0.7, Y, W, reduction="sum") / d,
        (X, S.sum()),
    ),
    "focal_loss": (
        lambda x, s: lossless.focal_loss(x, Y, gamma=1.5, alpha=P, sample_weight=s, dim=-1, denominator="count"),
        lambda x, s: (P[Y] * s * focal(F.cross_entropy(x, Y, reduction="none"))).mean(),
        (X, S),
    ),
    "focal_loss, soft": (
        lambda x, t: lossless.focal_loss(x, t, gamma=1.5, weight=W, reduction="none"),
        lambda x, t: (t * W * focal(-x.log_softmax(1))).sum(1),
        (X, T),
    ),
    "categorical_cross_entropy": (
        lambda p, t: lossless.categorical_cross_entropy(p, t.sigmoid(), label_smoothing=0.1),
        lambda p, t: -((0.9 * t.sigmoid() + 0.1 / 3) * p.log()).sum(1).mean(),
        (T, V),
    ),
    "sparse_categorical_cross_entropy": (
        lambda p: lossless.sparse_categorical_cross_entropy(p, Y, ignore_class=2),
        lambda p: F.nll_loss(p.log(), Y, ignore_index=2),
        (T,),
    ),
    "nll_loss": (lambda x: lossless.nll_loss(x, Y, W), lambda x: F.nll_loss(x, Y, W), (X,)),
    "nll_loss of log_softmax": (
        lambda x: lossless.nll_loss(lossless.log_softmax(x, 1), Y),
        lambda x: F.cross_entropy(x, Y),
        (X,),
    ),
    "row_statistics": (lambda x: statistics(x, Y, prior=P, ignore_index=2), None, (X,)),
    "row_statistics, all": (lambda x, t, p: statistics(x, t, prior=p), None, (X, T, P)),
    "row_statistics, prior": (lambda x, p: statistics(x, Y, prior=p, ignore_index=2), None, (X, P)),
    "row_statistics, no target": (statistics, None, (X,)),
    "row_statistics, temperature": (lambda x, p: statistics(x, Y, prior=p, temperature=1.3), None, (X, P)),
    "binary_cross_entropy_with_logits": (
        lambda x: lossless.binary_cross_entropy_with_logits(x, T, W, pos_weight=P),
        lambda x: F.binary_cross_entropy_with_logits(x, T, W, pos_weight=P),
        (X,),
    ),
    "binary_cross_entropy_with_logits, target": (
        lambda x, t: lossless.binary_cross_entropy_with_logits(x, t, reduction="none"),
        lambda x, t: F.binary_cross_entropy_with_logits(x, t, reduction="none"),
        (X, T),
    ),
    "binary_cross_entropy_with_logits, options": (
        lambda x, t, s: lossless.binary_cross_entropy_with_logits(
            x, t, W, pos_weight=P, label_smoothing=0.1, ignore_index=1, sample_weight=s, denominator="weights"
        ),
        lambda x, t, s: (
            (
                s[:, None] * F.binary_cross_entropy_with_logits(x, 0.9 * t + 0.05, W, pos_weight=P, reduction="none")
            ).sum()
            / (s[:, None] * W * (P * t + 1 - t)).sum()
        ),
        (X, T, S),
    ),
    "binary_cross_entropy": (
        lambda x: lossless.binary_cross_entropy(x.sigmoid(), T, W),
        lambda x: F.binary_cross_entropy_with_logits(x, T, W),
        (X,),
    ),
    "binary_cross_entropy, target": (
        lambda x, t: lossless.binary_cross_entropy(x.sigmoid(), t, clamp=None, label_smoothing=0.2, reduction="none"),
        lambda x, t: F.binary_cross_entropy_with_logits(x, 0.8 * t + 0.1, reduction="none"),
        (X, T),
    ),
    "sigmoid_focal_loss": (
        lambda x, t: lossless.sigmoid_focal_loss(x, t, gamma=1.5),
        lambda x, t: torchvisions_focal_loss(x, t, gamma=1.5),
        (X, T),
    ),
    "sigmoid_focal_loss, no alpha": (
        lambda x: lossless.sigmoid_focal_loss(x, BITS, -1, 0.5, "mean"),
        lambda x: torchvisions_focal_loss(x, BITS, -1, 0.5).mean(),
        (X,),
    ),
    "kl_div": (
        lambda x, t: lossless.kl_div(x.log_softmax(1), t, reduction="batchmean"),
        lambda x, t: (t * (t.log() - x.log_softmax(1))).sum() / 4,
        (X, T),
    ),
    "kl_div, log_target": (
        lambda x, t: lossless.kl_div(x, t, reduction="none", log_target=True),
        lambda x, t: t.exp() * (t - x),
        (X, V),
    ),
    "sigmoid": (lossless.sigmoid, torch.sigmoid, (X,)),
    "logsigmoid": (lossless.logsigmoid, F.logsigmoid, (X,)),
    "logit": (lambda x: lossless.logit(x.sigmoid(), 0.1), lambda x: torch.logit(x.sigmoid(), 0.1), (X,)),
    "mse_loss": (lossless.mse_loss, lambda x, t: ((x - t) ** 2).mean(), (X, V)),  # PyTorch's has no jvp of grad
    "mse_loss, weight": (
        lambda x: lossless.mse_loss(x, V, weight=T, reduction="none"),
        lambda x: F.mse_loss(x, V, weight=T, reduction="none"),
        (X,),
    ),
    "rmse_loss": (lossless.rmse_loss, lambda x, t: ((x - t) ** 2).mean().sqrt(), (X, V)),
    "rmse_loss, dim": (lambda x: lossless.rmse_loss(x, V, dim=0), None, (X,)),
    "entropy": (lambda x: lossless.info.entropy(x, kind="logits", base=2), None, (X,)),
    "entropy, probs": (lossless.info.entropy, lambda p: torch.special.entr(p).sum(-1), (T,)),
    "entropy, counts": (lambda x: lossless.info.entropy(x, normalize=True), None, (T,)),
    "entropy, log_probs": (lambda x: lossless.info.entropy(x, kind="log_probs"), None, (X,)),
    "perplexity": (
        lambda x: lossless.info.perplexity(x, kind="logits"),
        lambda x: torch.special.entr(x.softmax(-1)).sum(-1).exp(),
        (X,),
    ),
    "perplexity, counts": (
        lambda x: lossless.info.perplexity(x, normalize=True),
        lambda x: torch.special.entr(x / x.sum(-1, keepdim=True)).sum(-1).exp(),
        (T,),
    ),
    "perplexity, probs": (lossless.info.perplexity, lambda p: torch.special.entr(p).sum(-1).exp(), (T,)),
    "perplexity, log_probs": (
        lambda x: lossless.info.perplexity(x, kind="log_probs"),
        lambda x: (-x.exp() * x).sum(-1).exp(),
        (X,),
    ),
    "info.cross_entropy": (
        lambda x, y: lossless.info.cross_entropy(x, y, kind="logits", base=2),
        lambda x, y: -(x.softmax(-1) * y.log_softmax(-1)).sum(-1) / np.log(2),
        (X, V),
    ),
    "info.cross_entropy, probs and logits": (
        lambda p, y: lossless.info.cross_entropy(p, y, q_kind="logits"),
        lambda p, y: -(p * y.log_softmax(-1)).sum(-1),
        (T, V),
    ),
    "info.cross_entropy, probs and counts": (
        lambda p, y: lossless.info.cross_entropy(p.log(), y, p_kind="logits", normalize=True),
        lambda p, y: -(p / p.sum(-1, keepdim=True) * (y / y.sum(-1, keepdim=True)).log()).sum(-1),
        (T, V.exp()),
    ),
    "kl_divergence": (lossless.info.kl_divergence, lambda p, q: divergence(p, p.log(), q.log()), (T, V.sigmoid())),
    "kl_divergence, logits": (
        lambda x, y: lossless.info.kl_divergence(x, y, kind="logits", dim=0),
        lambda x, y: divergence(x.softmax(0), x.log_softmax(0), y.log_softmax(0), 0),
        (X, V),
    ),
    "kl_divergence, log_probs": (
        lambda x, y: lossless.info.kl_divergence(x, y, kind="log_probs", keepdim=True),
        lambda x, y: divergence(x.exp(), x, y)[:, None],
        (X, V),
    ),
    "kl_divergence, counts": (
        lambda x, y: lossless.info.kl_divergence(x, y, normalize=True),
        lambda x, y: lossless.info.kl_divergence(x.log(), y.log(), kind="logits"),
        (T, V.exp()),
    ),
    "kl_divergence, probs and logits": (
        lambda p, y: lossless.info.kl_divergence(p, y, q_kind="logits"),
        lambda p, y: divergence(p, p.log(), y.log_softmax(-1)),
        (T, V),
    ),
    "js_divergence": (
        lossless.info.js_divergence,
        lambda p, q: (divergence(p, p.log(), ((p + q) / 2).log()) + divergence(q, q.log(), ((p + q) / 2).log())) / 2,
        (T, V.sigmoid()),
    ),
    "js_divergence, logits": (
        lambda x, y: lossless.info.js_divergence(x, y, kind="logits"),
        lambda x, y: lossless.info.js_divergence(x.softmax(-1), y.softmax(-1)),
        (X, V),
    ),
    "js_divergence, counts and log_probs": (
        lambda x, y: lossless.info.js_divergence(x, y, q_kind="log_probs", normalize=True),
        lambda x, y: lossless.info.js_divergence(x / x.sum(-1, keepdim=True), y.softmax(-1)),
        (T, V),
    ),
    "k3": (lossless.info.k3, lambda a, b: (b - a).exp() - 1 - (b - a), (X, V)),
    "inverse_softmax": (lossless.inverse_softmax, lambda p: p.log() - p.log().mean(-1, keepdim=True), (T,)),
    "inverse_softmax, max": (
        lambda p: lossless.inverse_softmax(p, 0, center="max"),
        lambda p: p.log() - p.log().amax(0),
        (T,),
    ),
    "inverse_softmax, None": (lambda p: lossless.inverse_softmax(p, center=None), torch.log, (T,)),
}
COMPARED = [name for name, (_, theirs, _) in FUNCTIONS.items() if theirs]


def leaves(inputs):
    return tuple(a.clone().requires_grad_() for a in inputs)


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


# ---- derivatives


@on_both_paths
@pytest.mark.parametrize("name", FUNCTIONS)
def test_first_derivatives(name):
    function, _, inputs = FUNCTIONS[name]
    assert gradcheck(function, leaves(inputs), check_forward_ad=True, check_batched_grad=True)


@on_both_paths
@pytest.mark.parametrize("name", FUNCTIONS)
def test_second_derivatives(name):
    function, _, inputs = FUNCTIONS[name]
    assert gradgradcheck(function, leaves(inputs), check_fwd_over_rev=True, check_rev_over_rev=True)


@on_both_paths
@pytest.mark.parametrize("name", COMPARED)
def test_three_derivatives_agree_with_pytorch(name):
    ours, theirs, inputs = FUNCTIONS[name]
    chains = []
    for function in (ours, theirs):
        x, *others = leaves(inputs)
        values = [function(x.sin() / 2 + 0.5, *others)]
        for _ in range(3):
            (g,) = torch.autograd.grad((values[-1] * values[-1].detach().cos()).sum(), x, create_graph=True)
            values.append(g)
        chains.append(values)
    for a, b in zip(*chains, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


@on_both_paths
def test_the_second_derivative_is_accurate_where_the_first_is_tiny():
    x = torch.tensor([[20.0, 0.0]], requires_grad=True)
    (g,) = torch.autograd.grad(lossless.cross_entropy(x, torch.tensor([0])), x, create_graph=True)
    (h,) = torch.autograd.grad(g[0, 0], x)
    tail = np.exp(np.float64(-20))
    np.testing.assert_allclose(h, [[tail / (1 + tail) ** 2, -tail / (1 + tail) ** 2]], rtol=1e-7)


# ---- graphs


@on_both_paths
@pytest.mark.parametrize("name", COMPARED)
def test_a_graph_may_be_kept_or_not(name):
    function, _, inputs = FUNCTIONS[name]
    x, *others = leaves(inputs)
    loss = function(x, *others).sum()
    first = torch.autograd.grad(loss, x, retain_graph=True)[0]
    second = torch.autograd.grad(loss, x)[0]
    assert torch.equal(first, second)
    if name not in ("mse_loss", "rmse_loss"):  # PyTorch's own nodes may keep nothing that is freed
        with pytest.raises(RuntimeError, match="second time"):
            torch.autograd.grad(loss, x)


@on_both_paths
def test_gradients_arrive_from_above_and_go_on_below():
    z = X.clone().requires_grad_()
    for ours, theirs, target in (
        (lossless.cross_entropy, F.cross_entropy, Y),
        (lossless.cross_entropy, F.cross_entropy, T),
        (lossless.binary_cross_entropy_with_logits, F.binary_cross_entropy_with_logits, T),
        (lossless.mse_loss, F.mse_loss, T),
    ):
        a, b = ((loss(z.tanh().t().contiguous().t() * 3, target) ** 2 * 5).sum() for loss in (ours, theirs))
        same(torch.autograd.grad(a, z)[0], torch.autograd.grad(b, z)[0])


@on_both_paths
def test_an_expanded_gradient():
    x = X.clone().requires_grad_()
    loss = lossless.cross_entropy(x, Y, reduction="none")
    (g,) = torch.autograd.grad(loss, x, torch.tensor(2.0, dtype=torch.float64).expand(4))
    same(g, 2 * torch.autograd.grad(F.cross_entropy(x, Y, reduction="sum"), x)[0])


@on_both_paths
def test_inputs_changed_after_the_call_are_noticed():
    x = X.clone().requires_grad_()
    z = x * 1
    loss = lossless.cross_entropy(z, Y)
    z.detach().add_(1)
    z.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@on_both_paths
def test_no_graph_where_none_is_wanted():
    x = X.clone().requires_grad_()
    with torch.no_grad():
        assert not lossless.cross_entropy(x, Y).requires_grad
    with torch.inference_mode():
        assert lossless.cross_entropy(x, Y).is_inference()
    assert not lossless.cross_entropy(X, Y).requires_grad
    assert lossless.cross_entropy(torch.nn.Parameter(X), Y).requires_grad


@on_both_paths
def test_gradients_are_batched_on_request():
    x = X.clone().requires_grad_()
    for ours, theirs in ((lossless.cross_entropy, F.cross_entropy), (lossless.mse_loss, F.mse_loss)):
        target = Y if ours is lossless.cross_entropy else V
        g = numbers(5, *theirs(x, target, reduction="none").shape)
        a, b = (
            torch.autograd.grad(f(x, target, reduction="none"), x, g, is_grads_batched=True)[0] for f in (ours, theirs)
        )
        same(a, b)
    jacobian = torch.autograd.functional.jacobian(lossless.softmax, X, vectorize=True)
    same(jacobian, torch.autograd.functional.jacobian(lambda x: x.softmax(-1), X))


@on_both_paths
def test_checkpoints_and_hooks():
    x = X.clone().requires_grad_()
    expected = torch.autograd.grad(F.cross_entropy(x * 2, Y), x)[0]
    for reentrant in (False, True):
        loss = checkpoint(lambda x: lossless.cross_entropy(x * 2, Y), x, use_reentrant=reentrant)
        same(torch.autograd.grad(loss, x)[0] if not reentrant else _backward(loss, x), expected)
    with torch.autograd.graph.save_on_cpu():
        same(torch.autograd.grad(lossless.cross_entropy(x * 2, Y), x)[0], expected)


def _backward(loss, x):
    x.grad = None
    loss.backward()
    return x.grad


# ---- torch.func


TRANSFORMS = {
    "grad": lambda f, x: func.grad(f)(x),
    "grad and value": lambda f, x: func.grad_and_value(f)(x),
    "vmap": lambda f, x: func.vmap(f)(torch.stack([x, x / 2])),
    "vmap of grad": lambda f, x: func.vmap(func.grad(f))(torch.stack([x, x / 2])),
    "jvp": lambda f, x: func.jvp(f, (x,), (x.cos(),)),
    "vjp": lambda f, x: func.vjp(f, x)[1](torch.tensor(2.0, dtype=torch.float64)),
    "jacrev": lambda f, x: func.jacrev(f)(x),
    "jacfwd": lambda f, x: func.jacfwd(f)(x),
    "hessian": lambda f, x: func.hessian(f)(x),
    "forward over reverse": lambda f, x: func.jvp(func.grad(f), (x,), (x.cos(),)),
    "reverse over forward": lambda f, x: func.grad(lambda x: func.jvp(f, (x,), (x.cos(),))[1])(x),
    "linearize": lambda f, x: func.linearize(f, x)[1](x.cos()),
}


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("name", COMPARED)
@pytest.mark.filterwarnings("ignore:Attempted to insert a get_attr Node:UserWarning")
def test_transforms(name, transform):
    ours, theirs, (x, *others) = FUNCTIONS[name]
    a, b = (TRANSFORMS[transform](lambda x, f=f: f(x, *others).sum(), x) for f in (ours, theirs))
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_per_sample_losses():
    ours = func.vmap(lossless.cross_entropy)(X, Y)
    same(ours, F.cross_entropy(X, Y, reduction="none"))
    same(func.vmap(lambda x, y: lossless.row_statistics(x, y).nll)(X, Y), ours)


def test_a_label_that_cannot_be_looked_at_gives_nan():
    y = torch.tensor([0, 3, 1, -1])
    loss = func.vmap(lossless.cross_entropy)(X, y)
    assert loss.isnan().tolist() == [False, True, False, True]
    assert func.vmap(lossless.nll_loss)(X, y).isnan().tolist() == [False, True, False, True]
    g = func.vmap(func.grad(lossless.cross_entropy))(X, y)
    assert g.isnan().all(1).tolist() == [False, True, False, True]


def test_functionalize_refuses():
    with pytest.raises(RuntimeError, match="Functionalize rule"):
        func.functionalize(lossless.softmax)(X)


def test_dual_numbers():
    with forward_ad.dual_level():
        x = forward_ad.make_dual(X, V)
        for ours, theirs in (
            (lossless.cross_entropy(x, Y), F.cross_entropy(x, Y)),
            (lossless.log_softmax(x), x.log_softmax(-1)),
            (lossless.mse_loss(x, T), F.mse_loss(x, T)),
            (lossless.rmse_loss(x, T), F.mse_loss(x, T).sqrt()),
        ):
            same(forward_ad.unpack_dual(ours).tangent, forward_ad.unpack_dual(theirs).tangent)


# ---- compilers and tracers


@pytest.mark.parametrize("name", [n for n in COMPARED if n != "linearize"])
def test_compile(name):
    ours, theirs, inputs = FUNCTIONS[name]
    torch.compiler.reset()
    x, *others = leaves(inputs)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Dynamo detected", UserWarning)
        value = torch.compile(ours, backend="aot_eager", fullgraph=True)(x, *others)
    same(value, theirs(x, *others))
    g = torch.linspace(1, 2, value.numel(), dtype=torch.float64).reshape(value.shape)
    for a, b in zip(
        torch.autograd.grad(value, (x, *others), g),
        torch.autograd.grad(theirs(x, *others), (x, *others), g),
        strict=True,
    ):
        same(a, b)


def test_compile_keeps_the_digits_and_takes_any_size():
    torch.compiler.reset()
    loss = torch.compile(lossless.cross_entropy, backend="aot_eager", fullgraph=True, dynamic=True)
    for rows in (1, 3, 5):
        x = torch.tensor([[20.0, 0.0]] * rows, requires_grad=True)
        value = loss(x, torch.zeros(rows, dtype=torch.long))
        assert value.item() == np.float32(2.0611537e-09)
        (g,) = torch.autograd.grad(value * rows, x)
        assert g.tolist() == [[-np.float32(2.0611537e-09), np.float32(2.0611537e-09)]] * rows


def test_the_first_call_of_a_process_may_be_compiled():
    code = (
        "import torch, lossless\n"
        "f = torch.compile(lossless.cross_entropy, backend='eager', fullgraph=True)\n"
        "assert f(torch.tensor([[20.0, 0.0]]), torch.tensor([0])).item() == 2.06115369216775e-09"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_compiled_bad_labels_give_nan():
    torch.compiler.reset()
    loss = torch.compile(lossless.cross_entropy, backend="aot_eager", fullgraph=True)
    assert loss(X, Y + 5).isnan()
    assert torch.compile(lossless.nll_loss, backend="aot_eager", fullgraph=True)(X, Y + 5).isnan()


def test_export():
    class Model(torch.nn.Module):
        def forward(self, x, y):
            return lossless.cross_entropy(x, y)

    program = torch.export.export(Model(), (X, Y))
    same(program.module()(V, Y), F.cross_entropy(V, Y))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_jit_trace_records_the_operations_or_refuses():
    try:
        traced = torch.jit.trace(lambda x: lossless.softmax(x), (X,))
    except RuntimeError:
        return
    same(traced(V), V.softmax(-1))


def test_make_fx_records_the_operations():
    graph = torch.fx.experimental.proxy_tensor.make_fx(lambda x: lossless.cross_entropy(x, Y))(X)
    same(graph(V), F.cross_entropy(V, Y))


# ---- modes and kinds of tensor


@on_both_paths
def test_dispatch_modes_see_operations():
    with FlopCounterMode(display=False):
        same(lossless.cross_entropy(X, Y), F.cross_entropy(X, Y))


@on_both_paths
def test_a_default_device_changes_nothing():
    with torch.device("meta"):
        loss = lossless.cross_entropy(X.clone().requires_grad_(), Y)
    assert loss.device.type == "cpu"


@on_both_paths
def test_subclasses_stay_themselves():
    class Labelled(torch.Tensor):
        pass

    x = X.as_subclass(Labelled)
    loss = lossless.cross_entropy(x, Y)
    assert type(loss) is Labelled
    same(loss.as_subclass(torch.Tensor), F.cross_entropy(X, Y))


@on_both_paths
def test_training_on_several_threads_at_once():
    from concurrent.futures import ThreadPoolExecutor

    def step(seed):
        x = numbers(50, 7, seed=seed).requires_grad_()
        y = torch.arange(50) % 7
        return torch.autograd.grad(lossless.cross_entropy(x, y), x)[0], torch.autograd.grad(F.cross_entropy(x, y), x)[0]

    with ThreadPoolExecutor(4) as pool:
        for a, b in pool.map(step, range(20)):
            same(a, b)


@on_both_paths
def test_large_outputs():
    x = numbers(1100, 1000).float().requires_grad_()  # past the size that asks for huge pages
    y = torch.arange(1100) % 1000
    (a,) = torch.autograd.grad(lossless.cross_entropy(x, y), x)
    (b,) = torch.autograd.grad(F.cross_entropy(x.double(), y), x)
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-12)


def test_numpy_alone_never_imports_torch():
    code = (
        "import sys, numpy as np, lossless\n"
        "lossless.cross_entropy(np.zeros((2, 3)), [0, 1]); lossless.show_config()\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    "second",
    [
        lambda f: jacfwd(jacfwd(f)),
        lambda f: jacfwd(jacrev(f)),
        lambda f: jacrev(jacfwd(f)),
        lambda f: jacfwd(jacrev(jacfwd(f))),
    ],
    ids=["forward-forward", "forward-reverse", "reverse-forward", "three"],
)
@pytest.mark.parametrize("name", ["cross_entropy", "softmax", "log_softmax", "logsumexp"])
def test_nested_forward_mode_is_never_silently_zero(name, second):
    x, y = torch.randn(3, 4, dtype=torch.float64), torch.tensor([0, 1, 3])
    functions = {
        "cross_entropy": lambda library: lambda a: library.cross_entropy(a, y),
        "softmax": lambda library: lambda a: library.softmax(a, 1).square().sum(),
        "log_softmax": lambda library: lambda a: library.log_softmax(a, 1).square().sum(),
        "logsumexp": lambda library: lambda a: library.logsumexp(a, 1).square().sum(),
    }
    theirs = torch if name == "logsumexp" else F
    torch.testing.assert_close(second(functions[name](lossless))(x), second(functions[name](theirs))(x))


def test_a_bad_label_is_found_wherever_its_numbers_are_there():
    x, bad = torch.randn(4, 3), torch.tensor([0, 1, 2, 7])
    with FlopCounterMode(display=False), pytest.raises(IndexError, match="Target 7 is out of bounds"):
        lossless.cross_entropy(x, bad)
    with pytest.raises(IndexError, match="Target 7 is out of bounds"):
        grad(lambda a: lossless.cross_entropy(a, bad))(x)


def test_mse_weight_divides_as_given_before_it_broadcasts():
    x, t, w = torch.randn(4, 1), torch.randn(4, 3), torch.rand(4, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.testing.assert_close(lossless.mse_loss(x, t, weight=w), F.mse_loss(x, t, weight=w))


@pytest.mark.parametrize(
    "name",
    [
        "binary_cross_entropy",
        "sigmoid_focal_loss",
        "kl_div",
        "kl_div, log_target",
        "mse_loss",
        "focal_loss, soft",
    ],
)
def test_compile_without_gradients(name):
    function, _, inputs = FUNCTIONS[name]
    same(torch.compile(function, backend="eager", fullgraph=True)(*inputs), function(*inputs))


def test_warnings_are_left_out_of_compiled_code():
    log_p = X.log_softmax(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled = torch.compile(lossless.kl_div, backend="eager", fullgraph=True)(log_p, T)
    with pytest.warns(lossless.errors.LosslessWarning, match="mean"):
        same(compiled, lossless.kl_div(log_p, T))
