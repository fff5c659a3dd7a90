"""Information measures: of probabilities, logits and log-probabilities, in any base."""

import itertools

import ml_dtypes
import mpmath
import numpy as np
import pytest
import scipy.spatial.distance
import scipy.special
import torch

import lossless
from lossless.errors import DimensionError, LogitsDtypeError, ParameterError, ShapeError, UnsupportedArrayError
from lossless.info import cross_entropy, entropy, js_divergence, k3, kl_divergence, perplexity

pytestmark = pytest.mark.usefixtures("path")


def tensor(a):
    return torch.tensor(a, dtype=torch.float64)


BOTH = [tensor, np.array]


@pytest.mark.parametrize("make", BOTH, ids=["torch", "numpy"])
def test_a_coin_is_one_bit_and_a_die_log2_of_six(make):
    assert entropy(make([0.5, 0.5]), base=2).item() == 1
    assert entropy(make(np.full(6, 1 / 6)), base=2).item() == np.log2(6)
    assert entropy(make([1.0, 0.0]), base=2).item() == 0
    assert entropy(make([3.0, 3.0]), kind="logits", base=2).item() == 1
    assert entropy(make([7.0, 7.0]), normalize=True, base=2).item() == 1


@pytest.mark.parametrize("make", BOTH, ids=["torch", "numpy"])
@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("keepdim", [False, True])
def test_every_kind_and_dimension(make, dim, keepdim):
    x = np.random.default_rng(0).normal(size=(3, 4, 5))
    p = torch.tensor(x).softmax(dim)
    expected = -(p * p.log()).sum(dim, keepdim=keepdim)
    for kind, array in (("logits", x), ("probs", p.numpy()), ("log_probs", p.log().numpy())):
        for base, unit in ((None, 1), (2, np.log(2)), (10, np.log(10))):
            h = entropy(make(array), dim=dim, base=base, kind=kind, keepdim=keepdim)
            assert h.shape == expected.shape
            np.testing.assert_allclose(h, expected / unit, rtol=1e-13)
    np.testing.assert_allclose(entropy(make(3 * p.numpy()), dim=dim, normalize=True, keepdim=keepdim), expected)
    shifted = make((p.log() + 2).numpy())
    np.testing.assert_allclose(entropy(shifted, dim=dim, kind="log_probs", normalize=True, keepdim=keepdim), expected)


@pytest.mark.parametrize("counts", [[1e20, 1.0], [1.0, 1e-12, 3e-15], [5.0, 0.0, 5.0], [1e300, 1e300]])
def test_counts_keep_their_small_shares(counts):
    with mpmath.workprec(300):
        whole = mpmath.fsum(counts)
        true = float(-mpmath.fsum(c / whole * mpmath.log(c / whole) for c in map(mpmath.mpf, counts) if c))
    for make in BOTH:
        assert entropy(make(counts), normalize=True).item() == pytest.approx(true, rel=1e-15)


@pytest.mark.parametrize("make", BOTH, ids=["torch", "numpy"])
def test_impossible_outcomes_change_nothing(make):
    assert entropy(make([0.5, 0.5, 0.0])).item() == np.log(2)
    assert entropy(make([0.0, 0.0, -np.inf]), kind="logits").item() == np.log(2)
    assert entropy(make([np.log(0.5), np.log(0.5), -np.inf]), kind="log_probs").item() == pytest.approx(np.log(2))
    h = entropy(make([[1.0, 0.0], [np.nan, 0.0]]))
    assert h[0] == 0
    assert not np.signbit(float(h[0]))
    assert np.isnan(float(h[1]))


def test_the_derivative_at_probability_zero_is_infinite():
    p = torch.tensor([0.5, 0.5, 0.0], requires_grad=True)
    (grad,) = torch.autograd.grad(entropy(p), p)
    assert grad.tolist() == pytest.approx([np.log(2) - 1, np.log(2) - 1, np.inf], rel=1e-6)


@pytest.mark.parametrize("make", BOTH, ids=["torch", "numpy"])
def test_what_is_no_distribution_is_refused(make):
    with pytest.raises(ParameterError, match=r"values from -1 to 2, .*\n.*kind='logits'"):
        entropy(make([2.0, -1.0]))
    with pytest.raises(ParameterError, match="values from 0 to 3"):
        entropy(make([3.0, 0.0]))
    with pytest.raises(ParameterError, match="values from -1 to 3"):
        entropy(make([3.0, -1.0]), normalize=True)
    with pytest.raises(ParameterError, match="kind got 'prob'"):
        entropy(make([1.0]), kind="prob")
    for base in (0, 1, -2, np.nan):
        with pytest.raises(ParameterError, match="base got"):
            entropy(make([1.0]), base=base)


def test_the_dtype_stays():
    for dtype in ("float16", "float32", "float64"):
        p = np.full(4, 0.25, dtype)
        assert entropy(p, base=2).dtype == dtype
        assert entropy(torch.from_numpy(p)).dtype is getattr(torch, dtype)


# ---- two distributions

MEASURES = [cross_entropy, kl_divergence, js_divergence]
measures = pytest.mark.parametrize("measure", MEASURES, ids=lambda f: f.__name__)
frameworks = pytest.mark.parametrize("make", BOTH, ids=["torch", "numpy"])
INF, NAN = np.inf, np.nan


def truth(measure, p, q):
    """The definition along the last axis, for SciPy to compute."""
    if measure is cross_entropy:
        return scipy.special.entr(p).sum(-1) + scipy.special.rel_entr(p, q).sum(-1)
    if measure is kl_divergence:
        return scipy.special.kl_div(p, q).sum(-1)
    return scipy.spatial.distance.jensenshannon(p, q, axis=-1) ** 2


def pair(*shape, seed=0):
    """Two distributions along the last axis and the same in every kind."""
    x, y = np.random.default_rng([seed, *shape]).normal(size=(2, *shape))
    p, q = scipy.special.softmax(x, -1), scipy.special.softmax(y, -1)
    return {"logits": (x, y), "probs": (p, q), "log_probs": (np.log(p), np.log(q))}


@frameworks
@measures
@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("keepdim", [False, True])
def test_every_kind_dimension_and_base(measure, make, dim, keepdim):
    kinds = pair(3, 4, 5)
    expected = truth(measure, *kinds["probs"])
    expected = np.expand_dims(expected, dim) if keepdim else expected
    for kind, arrays in kinds.items():
        a, b = (make(np.ascontiguousarray(np.moveaxis(v, -1, dim))) for v in arrays)
        for base, unit in ((None, 1), (2, np.log(2)), (10, np.log(10))):
            found = measure(a, b, dim=dim, base=base, kind=kind, keepdim=keepdim)
            assert found.shape == expected.shape
            np.testing.assert_allclose(found, expected / unit, rtol=1e-12)


@frameworks
@measures
def test_kinds_may_be_mixed(measure, make):
    kinds = pair(4, 5)
    expected = truth(measure, *kinds["probs"])
    for (p_kind, (a, _)), (q_kind, (_, b)) in itertools.product(kinds.items(), kinds.items()):
        np.testing.assert_allclose(measure(make(a), make(b), p_kind=p_kind, q_kind=q_kind), expected, rtol=1e-12)
        np.testing.assert_allclose(measure(make(a), make(b), kind=p_kind, q_kind=q_kind), expected, rtol=1e-12)
        np.testing.assert_allclose(
            measure(make(a), make(b), p_kind=p_kind, q_kind=q_kind, normalize=True), expected, rtol=1e-12
        )


@frameworks
@measures
def test_counts_and_their_logarithms(measure, make):
    a, b = np.random.default_rng(1).integers(0, 50, size=(2, 6, 5)).astype(float)
    a[:, 0] = b[:, 0] = 0
    b += a > 0
    expected = truth(measure, a / a.sum(-1, keepdims=True), b / b.sum(-1, keepdims=True))
    with np.errstate(divide="ignore"):
        log_a, log_b = np.log(a), np.log(b)
    for p, q, options in (
        (a, b, {}),
        (log_a, log_b, {"kind": "log_probs"}),
        (a, log_b, {"q_kind": "logits"}),
        (log_a + 3, b, {"p_kind": "log_probs"}),
    ):
        np.testing.assert_allclose(measure(make(p), make(q), normalize=True, **options), expected, rtol=1e-12)


def in_many_digits(measure, p, q):
    """Of exact probabilities that add up to 1."""
    m = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    if measure is js_divergence:
        return (in_many_digits(kl_divergence, p, m) + in_many_digits(kl_divergence, q, m)) / 2
    if measure is kl_divergence:
        return mpmath.fsum(a * mpmath.log(a / b) for a, b in zip(p, q, strict=True) if a)
    return -mpmath.fsum(a * mpmath.log(b) for a, b in zip(p, q, strict=True) if a)


@frameworks
@pytest.mark.parametrize("measure", [kl_divergence, js_divergence], ids=lambda f: f.__name__)
@pytest.mark.parametrize("step", [1e-1, 1e-4, 1e-8, 1e-12])
@pytest.mark.parametrize("gap", [0, 20, 700])
def test_divergences_of_nearly_equal_logits_keep_their_digits(measure, make, step, gap):
    x, d = np.random.default_rng(3).normal(size=(2, 4, 6))
    x[:, 2] += gap
    y = x + step * d
    found = np.asarray(measure(make(x), make(y), kind="logits"))
    with mpmath.workprec(4000):
        for r in range(4):
            p, q = ([mpmath.exp(float(v)) for v in row] for row in (x[r], y[r]))
            p, q = ([v / mpmath.fsum(row) for v in row] for row in (p, q))
            true = float(in_many_digits(measure, p, q))
            assert found[r] == pytest.approx(true, rel=8 * 2.0**-52, abs=0)


@frameworks
@pytest.mark.parametrize("measure", [kl_divergence, js_divergence], ids=lambda f: f.__name__)
def test_divergences_of_nearly_equal_counts_keep_their_digits(measure, make):
    for a, b in (
        ([1e6, 2e6, 5.0], [1e6, 2e6 + 1, 5.0]),
        ([1e6, 2e6, 5.0], [3e6, 6e6, 16.0]),
        ([2.0**40, 1.0, 1.0], [2.0**40, 1.0, 1.0 + 2.0**-40]),
        ([1e300, 1e290, 1e-200], [1.0, 1.1e-10, 1e-300]),
        ([1e-300, 1e-305], [2e-300, 3e-305]),
    ):
        with mpmath.workprec(4000):
            p, q = ([mpmath.mpf(v) / mpmath.fsum(row) for v in row] for row in (a, b))
            true = float(in_many_digits(measure, p, q))
        assert measure(make(a), make(b), normalize=True).item() == pytest.approx(true, rel=8 * 2.0**-52, abs=0)


@frameworks
def test_divergence_that_the_usual_formula_makes_negative(make):
    """Of float32 probabilities an ulp apart, whose sums are not exactly 1."""
    p = scipy.special.softmax(np.random.default_rng(4).normal(size=(50, 10)), -1).astype(np.float32)
    q = np.nextafter(p, np.float32(1))
    q[:, 0] = p[:, 0]
    assert (p * np.log(p / q)).sum(-1).min() < 0
    p64, q64 = p.astype(np.float64), q.astype(np.float64)
    true = (p64 * ((q64 - p64) / p64) ** 2 / 2).sum(-1)  # to first order in (q - p) / p = 1e-7
    found = np.asarray(
        kl_divergence(torch.from_numpy(p), torch.from_numpy(q)) if make is tensor else kl_divergence(p, q)
    )
    np.testing.assert_allclose(found, true, rtol=2e-6)


@frameworks
def test_cross_entropy_is_entropy_and_divergence(make):
    kinds = pair(7, 9)
    for kind, (a, b) in kinds.items():
        a, b = make(a), make(b)
        total = entropy(a, kind=kind, base=2) + kl_divergence(a, b, kind=kind, base=2)
        np.testing.assert_allclose(cross_entropy(a, b, kind=kind, base=2), total, rtol=1e-14)
        np.testing.assert_allclose(cross_entropy(a, a, kind=kind), entropy(a, kind=kind), rtol=1e-14)


@frameworks
@measures
def test_distributions_with_zeros(measure, make):
    p = make([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5], [NAN, 0.5, 0.25, 0.25], [0.5, 0.5, 0.0, 0.0]])
    q = make([[0.25, 0.5, 0.25, 0.0], [0.5, 0.5, 0.0, 0.0], [0.25] * 4, [0.5, 0.5, 0.0, 0.0]])
    expected = {
        cross_entropy: [1.5 * np.log(2), INF, NAN, np.log(2)],
        kl_divergence: [0.5 * np.log(2), INF, NAN, 0.0],
        js_divergence: [truth(js_divergence, *(np.asarray(v)[0] for v in (p, q))), np.log(2), NAN, 0.0],
    }[measure]
    logs = {"kind": "log_probs"}, {"kind": "logits"}, {"p_kind": "logits", "q_kind": "log_probs"}
    for a, b, options in ((p, q, {}), (8 * p, 4 * q, {"normalize": True}), *((p, q, o) for o in logs)):
        if options and "normalize" not in options:
            with np.errstate(divide="ignore"):
                a, b = (make(np.log(np.asarray(v)).tolist()) for v in (a, b))
        found = measure(a, b, **options)
        np.testing.assert_allclose(found, expected, rtol=1e-14, atol=1e-30)
        assert not np.any(np.signbit(np.asarray(found)))


@frameworks
@measures
def test_logits_without_a_limit(measure, make):
    x = make([[0.0, INF, 1.0], [-INF] * 3, [INF, INF, 0.0], [NAN, 0.0, 0.0], [0.0, 1.0, 2.0]])
    y = make([[0.0, INF, 5.0], [0.0] * 3, [0.0] * 3, [0.0] * 3, [0.0, 1.0, 2.0]])
    found = np.asarray(measure(x, y, kind="logits"))
    assert found[0] == 0
    assert np.isnan(found[1:4]).all()
    assert np.isfinite(found[4])
    assert np.isnan(np.asarray(measure(y, x, kind="logits"))[1:4]).all()


@measures
def test_masked_logits_get_no_gradient(measure):
    x, y = (torch.tensor(v, requires_grad=True) for v in ([[0.0, -INF, 1.0]], [[1.0, -INF, 0.5]]))
    for g in torch.autograd.grad(measure(x, y, kind="logits").sum(), (x, y), create_graph=True):
        assert g.isfinite().all()
        assert g[0, 1] == 0
        second = torch.autograd.grad((g * torch.tensor([1.0, 2.0, 3.0])).sum(), (x, y))
        assert all(h.isfinite().all() for h in second)


def test_gradients_at_zero_are_the_limits():
    p, q = (torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in ([0.5, 0.5, 0.0], [0.0, 0.75, 0.25]))

    def slopes(measure, **options):
        return [g.tolist() for g in torch.autograd.grad(measure(p, q, **options), (p, q))]

    assert slopes(cross_entropy) == [[INF, -np.log(0.75), -np.log(0.25)], [-INF, -0.5 / 0.75, 0.0]]
    over_p, over_q = slopes(kl_divergence)
    assert over_p == [INF, pytest.approx(np.log(0.5 / 0.75)), -INF]
    assert over_q == [-INF, pytest.approx(1 - 0.5 / 0.75), 1.0]
    over_p, over_q = slopes(js_divergence)
    assert over_p == [pytest.approx(np.log(2) / 2), pytest.approx(np.log(0.5 / 0.625) / 2), -INF]
    assert over_q == [-INF, pytest.approx(np.log(0.75 / 0.625) / 2), pytest.approx(np.log(2) / 2)]
    g = torch.autograd.grad(kl_divergence(torch.stack([p, p]), torch.stack([q, q])), p, torch.tensor([0.0, 0.0]))
    assert g[0].tolist() == [0, 0, 0]  # nothing flows back, and 0 * inf is 0


@frameworks
def test_perplexity_is_exp_of_entropy(make):
    kinds = pair(3, 4, 5)
    expected = np.exp(scipy.special.entr(kinds["probs"][0]).sum(-1))
    for kind, (a, _) in kinds.items():
        np.testing.assert_allclose(perplexity(make(a), kind=kind), expected, rtol=1e-14)
        moved = make(np.moveaxis(a, -1, 0))
        assert perplexity(moved, dim=0, kind=kind, keepdim=True).shape == (1, 3, 4)
        np.testing.assert_allclose(perplexity(moved, dim=0, kind=kind, keepdim=True)[0], expected, rtol=1e-14)
    np.testing.assert_allclose(perplexity(make(7 * kinds["probs"][0]), normalize=True), expected, rtol=1e-14)
    for classes in (1, 2, 3, 1000):
        assert perplexity(make(np.zeros(classes)), kind="logits").item() == classes
        assert perplexity(make(np.full(classes, 5.0)), normalize=True).item() == classes


@frameworks
def test_k3_is_the_divergence_on_average(make):
    p, q = pair(6)["probs"]
    draws = k3(make(np.log(p)), make(np.log(q)))
    assert (draws * make(p)).sum().item() == pytest.approx(float(scipy.special.rel_entr(p, q).sum()), rel=1e-14)
    assert k3(make([0.0, -INF, -1.0, -INF]), make([-1.0, -1.0, -INF, -INF])).tolist() == [np.exp(-1), INF, INF, 0]
    assert np.isnan(np.asarray(k3(make([NAN, 0.0]), make([0.0, NAN])))).all()
    assert k3(make(-3.0), make(-2.0)).item() == pytest.approx(np.e - 2, rel=1e-15)


def test_k3_gradient_in_every_range():
    d = torch.tensor([-800.0, -3.0, -1e-9, 0.0, 1e-9, 0.5, 30.0, 800.0], dtype=torch.float64)
    logp, logq = torch.zeros_like(d).requires_grad_(), d.clone().requires_grad_()
    over_p, over_q = torch.autograd.grad(k3(logp, logq).sum(), (logp, logq))
    torch.testing.assert_close(over_q, torch.expm1(d), rtol=1e-15, atol=0)
    torch.testing.assert_close(over_p, -torch.expm1(d), rtol=1e-15, atol=0)


@measures
def test_dtypes_promote(measure):
    p = scipy.special.softmax(np.random.default_rng(5).normal(size=(4, 4)), -1)
    wide = measure(p, p[::-1].copy())
    dtypes = {name: np.dtype(name) for name in ("float16", "float32", "float64")}
    dtypes["bfloat16"] = np.dtype(ml_dtypes.bfloat16)
    for a, b in itertools.product(dtypes, dtypes):
        expected = str(torch.promote_types(getattr(torch, a), getattr(torch, b))).removeprefix("torch.")
        found = measure(p.astype(dtypes[a]), p[::-1].astype(dtypes[b]))
        assert found.dtype.name == expected
        tensors = (torch.from_numpy(v).to(getattr(torch, d)) for v, d in ((p, a), (p[::-1].copy(), b)))
        other = measure(*tensors)
        assert other.dtype is getattr(torch, expected)
        np.testing.assert_allclose(found.astype(float), wide, rtol=0.1)
        np.testing.assert_allclose(other.double(), wide, rtol=0.1)


@measures
def test_what_is_no_pair_of_distributions_is_refused(measure):
    name = measure.__name__
    half = np.array([0.5, 0.5])
    for make in BOTH:
        p = make(half.tolist())
        with pytest.raises(ShapeError, match=rf"{name}: p has shape \[2\] and q has shape \[1, 2\], expected the same"):
            measure(p, p[None])
        with pytest.raises(ParameterError, match=rf"{name}: q holds values from -1 to 0.5, .*\n.*normalize=True"):
            measure(p, make([0.5, -1.0]))
        with pytest.raises(ParameterError, match=r"p holds values from 0\.5 to 1\.5"):
            measure(make([1.5, 0.5]), p)
        with pytest.raises(ParameterError, match="q holds values from -1 to 3"):
            measure(p, make([3.0, -1.0]), normalize=True)
        with pytest.raises(ParameterError, match="q holds"):
            measure(p, 3 * p, p_kind="logits")
        with pytest.raises(ParameterError, match="kind got 'logit', expected"):
            measure(p, p, kind="logit")
        with pytest.raises(ParameterError, match="q_kind got 'prob', expected"):
            measure(p, p, q_kind="prob")
        with pytest.raises(ParameterError, match="base got"):
            measure(p, p, base=1)
        with pytest.raises(DimensionError):
            measure(p, p, dim=1)
        with pytest.raises(ShapeError, match="no classes"):
            measure(p[:0], p[:0])
        assert measure(p[None][:0], p[None][:0]).shape == (0,)
    with pytest.raises(LogitsDtypeError, match="q has dtype int64"):
        measure(half, np.array([1, 0]))
    with pytest.raises(UnsupportedArrayError, match=r"p is a torch.Tensor and q is a numpy.ndarray"):
        measure(torch.from_numpy(half), half)


def test_k3_refuses_shapes_that_differ():
    with pytest.raises(ShapeError, match=r"k3: logp has shape \[2\] and logq has shape \[1\], expected the same"):
        k3(np.zeros(2), np.zeros(1))
    with pytest.raises(LogitsDtypeError, match="logp has dtype int64"):
        k3(np.array([1]), np.zeros(1))


def test_perplexity_refuses_what_entropy_does():
    with pytest.raises(ParameterError, match=r"perplexity: p holds values from -1 to 2, .*\n.*kind='logits'"):
        perplexity(np.array([2.0, -1.0]))
    with pytest.raises(ParameterError, match="kind got 'prob'"):
        perplexity(np.array([1.0]), kind="prob")


@pytest.mark.parametrize("measure", [cross_entropy, kl_divergence, js_divergence], ids=lambda f: f.__name__)
def test_under_transforms_and_compilers(measure):
    """Probabilities that nobody may look at are not checked, and the numbers are the same."""
    kinds = pair(4, 5)
    for kind, arrays in kinds.items():
        p, q = map(torch.from_numpy, arrays)
        expected = measure(p, q, kind=kind)
        torch.testing.assert_close(torch.func.vmap(lambda a, b, k=kind: measure(a, b, kind=k))(p, q), expected)
        torch.compiler.reset()
        compiled = torch.compile(lambda a, b, k=kind: measure(a, b, kind=k), backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(p, q), expected)
        slope = torch.func.grad(lambda a, q=q, k=kind: measure(a, q, kind=k).sum())(p)
        leaf = p.clone().requires_grad_()
        torch.testing.assert_close(slope, torch.autograd.grad(measure(leaf, q, kind=kind).sum(), leaf)[0])
        _, tangent = torch.func.jvp(lambda a, q=q, k=kind: measure(a, q, kind=k), (p,), (q,))
        torch.testing.assert_close(tangent, (slope * q).sum(-1))


def test_the_first_argument_is_what_is_true():
    """KL is not symmetric; classification's cross-entropy has the truth second, this one first."""
    p, q = np.array([1.0, 0.0]), np.array([0.75, 0.25])
    assert kl_divergence(p, q) == pytest.approx(np.log(4 / 3))
    assert kl_divergence(q, p) == INF
    loss = lossless.cross_entropy(np.log(q)[None], p[None])
    assert cross_entropy(p, np.log(q), q_kind="logits") == pytest.approx(loss, rel=1e-15)
