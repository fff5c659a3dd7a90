"""The functions that PyTorch does things to: ours, the same made of PyTorch's, and the inputs to differentiate over."""

import functools

import numpy as np
import torch
import torch.nn.functional as F

import lossless


def numbers(*shape, seed=0):
    return torch.tensor(np.random.default_rng([seed, *shape]).normal(size=shape))


X, V = numbers(4, 3), numbers(4, 3, seed=1)
Y = torch.tensor([0, 2, 1, 1])
ONE_HOT = torch.eye(3, dtype=torch.float64)[Y]
T, W, P = numbers(4, 3, seed=2).sigmoid(), numbers(3, seed=3).exp(), numbers(3, seed=4).exp()
S, BITS = numbers(4, seed=5).exp(), torch.tensor([[1.0, 0, 1], [0, 0, 1], [1, 1, 0], [0, 1, 0]], dtype=torch.float64)
IMAGE, PIXELS = numbers(2, 3, 2), torch.tensor([[0, 2], [1, -100]])


def statistics(x, target=None, **options):
    return tuple(a for a in lossless.row_statistics(x, target, **options) if a is not None and a.is_floating_point())


def by_torch(x, target=None, prior=None, kept=None):
    """What `statistics` gives, as PyTorch computes it."""
    log_p = x.log_softmax(-1)
    kept = 1.0 if kept is None else kept
    nll = None if target is None else -(target * log_p).sum(-1) * kept
    lse, entropy = x.logsumexp(-1) * kept, -(log_p.exp() * log_p).sum(-1) * kept
    return (nll, lse, entropy) if prior is None else (nll, lse, entropy, -(prior * log_p).sum(-1) * kept)


def focal(cost):
    return (1 - (-cost).exp()) ** 1.5 * cost


def torchvisions_focal_loss(x, t, alpha=0.25, gamma=2):
    p = x.sigmoid()
    loss = F.binary_cross_entropy_with_logits(x, t, reduction="none") * (p * (1 - t) + (1 - p) * t) ** gamma
    return loss if alpha < 0 else (alpha * t + (1 - alpha) * (1 - t)) * loss


def divergence(p, log_p, log_q, dim=-1):
    return (p * (log_p - log_q) - p + log_q.exp()).sum(dim)


# name: (ours, PyTorch's, differentiated inputs)
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
    "cross_entropy, weight": (
        lambda x, w: lossless.cross_entropy(x, Y, w, label_smoothing=0.1),
        lambda x, w: -(w * (0.9 * ONE_HOT + 0.1 / 3) * x.log_softmax(1)).sum() / w[Y].sum(),
        (X, W),
    ),
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
    "row_statistics": (
        lambda x: statistics(x, Y, prior=P, ignore_index=2),
        lambda x: by_torch(x, ONE_HOT, P, Y != 2),
        (X,),
    ),
    "row_statistics, all": (lambda x, t, p: statistics(x, t, prior=p), lambda x, t, p: by_torch(x, t, p), (X, T, P)),
    "row_statistics, prior": (
        lambda x, p: statistics(x, Y, prior=p, ignore_index=2),
        lambda x, p: by_torch(x, ONE_HOT, p, Y != 2),
        (X, P),
    ),
    "row_statistics, no target": (statistics, lambda x: by_torch(x)[1:], (X,)),
    "row_statistics, temperature": (
        lambda x, p: statistics(x, Y, prior=p, temperature=1.3),
        lambda x, p: by_torch(x / 1.3, ONE_HOT, p),
        (X, P),
    ),
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
    "rmse_loss, dim": (
        lambda x: lossless.rmse_loss(x, V, dim=0),
        lambda x: ((x - V) ** 2).mean(0).sqrt().mean(),
        (X,),
    ),
    "entropy": (
        lambda x: lossless.info.entropy(x, kind="logits", base=2),
        lambda x: torch.special.entr(x.softmax(-1)).sum(-1) / np.log(2),
        (X,),
    ),
    "entropy, probs": (lossless.info.entropy, lambda p: torch.special.entr(p).sum(-1), (T,)),
    "entropy, counts": (
        lambda x: lossless.info.entropy(x, normalize=True),
        lambda x: torch.special.entr(x / x.sum(-1, keepdim=True)).sum(-1),
        (T,),
    ),
    "entropy, log_probs": (
        lambda x: lossless.info.entropy(x, kind="log_probs"),
        lambda x: -(x.exp() * x).sum(-1),
        (X,),
    ),
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


def flat(result):
    """All numbers of a result, in one dimension."""
    return torch.cat([a.reshape(-1) for a in (result if isinstance(result, tuple) else (result,))])


def scalar(function):
    """The sum of all that it returns, as a function to differentiate."""
    return lambda *inputs: flat(function(*inputs)).sum()


def leaves(inputs):
    return tuple(a.clone().requires_grad_() for a in inputs)


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
