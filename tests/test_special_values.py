"""The tables of docs/special-values.md, line by line: each is a test here, with every function that it concerns.

A line yields cases: a call, and what its value and gradient must be. Every case runs in NumPy and torch; gradients are
those of autograd, and of `value_and_grad` for losses in NumPy. Expected numbers come from the definitions, with p known
in closed form. `test_edges.py` goes deeper into softmax and cross-entropy: widths, layouts, neighbours.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import lossless
from lossless import info
from lossless._accuracy import regimes
from lossless._accuracy.libraries import OURS, View

PAGE = Path(__file__).parent.parent / "docs" / "special-values.md"
INF, NAN = math.inf, math.nan
TOLERANCE = {"float64": 1e-14, "float32": 1e-6, "float16": 2.0**-10, "bfloat16": 2.0**-8}
LOSSES = [getattr(lossless, name) for name in dir(lossless.losses) if hasattr(lossless, name)]


class Case(NamedTuple):
    """function(*arrays, **options), whose value and gradient over arrays[over] are known; None: not looked at."""

    function: Callable[..., Any]
    arrays: tuple[Any, ...]
    value: Any
    gradient: Any = None
    options: dict[str, Any] = {}  # noqa: RUF012  (never changed)
    over: int = 0
    cotangent: Any = None
    beside: tuple[Any, ...] | None = None  # ordinary arrays for a row before and a row after this one

    def __str__(self):
        name = getattr(self.function, "__name__", self.function)
        options = [f"{key}={value!r}" for key, value in self.options.items()]
        return f"{name}({', '.join([str(np.asarray(a).tolist()) for a in self.arrays] + options)})"


LINES: dict[str, Callable[[str], Iterator[Case]]] = {}


def line(situation: str):
    """The line of the tables that begins so."""

    def add(cases):
        assert situation not in LINES
        LINES[situation] = cases
        return cases

    return add


# ---- how a case runs


def run(case: Case, dtype: str, framework: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Value and gradient (None where there is no way to ask), as float64."""
    view = View(OURS[framework])

    def place(array):
        array = np.asarray(array)
        return view(array.astype(np.int64) if array.dtype.kind == "i" else regimes.rounded(array, dtype))

    arrays = [place(a) for a in case.arrays]
    options = {k: place(v) if isinstance(v, list | np.ndarray) else v for k, v in case.options.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)  # an answer of the policy is no accident to warn of
        if framework == "torch":
            leaf = arrays[case.over].requires_grad_()
            value = case.function(*arrays, **options)
            if not value.requires_grad:
                return wide(value, dtype), None
            cotangent = torch.ones_like(value) if case.cotangent is None else place(case.cotangent)
            return wide(value, dtype), wide(torch.autograd.grad(value, leaf, cotangent)[0], dtype)
        if case.function in LOSSES and case.over == 0:
            value, grad = lossless.value_and_grad(case.function)(*arrays, **options)
            return wide(value, dtype), wide(grad, dtype)
        return wide(case.function(*arrays, **options), dtype), None


def wide(result: Any, dtype: str) -> np.ndarray:
    assert str(result.dtype).removeprefix("torch.") in (dtype, "bool")
    if isinstance(result, torch.Tensor):
        return result.detach().double().numpy()
    return np.asarray(result).astype(np.float64)


def differs(found: np.ndarray, expected: Any, dtype: str) -> str:
    """What is wrong, or nothing: NaN, infinities and zeros are exact, other numbers right to rounding."""
    if isinstance(expected, str):
        assert expected == "not finite"
        return f"found {found.tolist()}, expected nothing finite" if np.any(np.isfinite(found)) else ""
    expected = np.array(expected, np.float64)
    if dtype == "float16":
        with np.errstate(over="ignore"):
            expected = np.where(np.abs(expected) > 1e5, expected.astype(np.float16), expected)
    with np.errstate(invalid="ignore"):
        same = found.shape == expected.shape and np.all(
            (found == expected)
            | (np.abs(found - expected) <= TOLERANCE[dtype] * np.abs(expected))
            | (np.isnan(found) & np.isnan(expected))
        )
    return "" if same else f"found {found.tolist()}, expected {expected.tolist()}"


def between(case: Case) -> Case:
    """The case as a row between two ordinary rows."""
    cotangent = None if case.cotangent is None else [ORDINARY_TRUTH, case.cotangent, ORDINARY_TRUTH]
    arrays = tuple(np.stack([o, a, o]) for a, o in zip(case.arrays, case.beside, strict=True))
    return case._replace(arrays=arrays, cotangent=cotangent)


def complaints(case: Case, dtype: str, framework: str) -> Iterator[str]:
    value, grad = run(case if case.beside is None else between(case), dtype, framework)
    if case.beside is not None:
        for name, rows in (("values", value), ("gradients", grad)):
            if rows is not None and not (np.all(np.isfinite(rows[0])) and np.array_equal(rows[0], rows[2])):
                yield f"the rows beside it have {name} {rows[[0, 2]].tolist()}"
        value, grad = value[1], None if grad is None else grad[1]
    if case.value is not None and (wrong := differs(value, case.value, dtype)):
        yield f"value: {wrong}"
    if case.function in (*LOSSES, info.entropy) and np.any(np.signbit(value[value == 0])):
        yield "value: -0.0"
    if case.gradient is not None and grad is not None and (wrong := differs(grad, case.gradient, dtype)):
        yield f"gradient: {wrong}"


# ---- scores of classes

ORDINARY, ORDINARY_TRUTH = [1.0, 0.0, 2.0], [1.0, 0.0, 0.0]
E = math.e
P01 = [1 / (1 + E), E / (1 + E)]  # softmax of [0, 1]
NONE = {"reduction": "none"}


def of(function: Callable[..., Any], name: str, pick: Callable[[Any], Any]) -> Callable[..., Any]:
    """A part of what a function returns, under a name for messages."""

    def part(*arrays, **options):
        return pick(function(*arrays, **options))

    part.__name__ = f"{function.__name__}.{name}"
    return part


NLL, LSE, ENTROPY, PRIOR, CORRECT = (
    of(lossless.row_statistics, name, lambda s, name=name: getattr(s, name)) for name in lossless.RowStatistics._fields
)


def nll_of_log_softmax(x, y):
    return lossless.nll_loss(lossless.log_softmax(x, 1), y, reduction="none")


def entropy_of(p: np.ndarray) -> float:
    with np.errstate(divide="ignore", invalid="ignore"):
        return 0.0 - float(np.sum(np.where(p == 0, 0, p * np.log(p))))


def on_scores(x: list[float], y: int, p: list[float], lse: float) -> Iterator[Case]:
    """Every function of the scores x and label y, where softmax(x) = p is known, by its formula."""
    p, truth = np.array(p, np.float64), np.eye(len(p))[y]
    with np.errstate(divide="ignore", invalid="ignore"):
        log_p = np.log(p)
        spread = np.where(p == 0, 0, p * (0.0 - log_p - entropy_of(p)))  # of the entropy, over the scores
    nll, slope, entropy = 0.0 - log_p[y], p - truth, entropy_of(p)

    def row(function, value, gradient, *rest, **options):
        ordinary = [ORDINARY, *([0 if np.ndim(r) == 0 else ORDINARY_TRUTH] for r in rest)]
        ordinary = tuple(o if isinstance(o, list) and len(o) > 1 else o[0] for o in ordinary)
        cotangent = options.pop("cotangent", None)
        return Case(function, (x, *rest), value, gradient, options, cotangent=cotangent, beside=ordinary)

    yield row(lossless.softmax, p, p[y] * (truth - p), cotangent=truth)
    yield row(lossless.log_softmax, log_p, truth - p, cotangent=truth)
    yield row(lossless.logsumexp, lse, p)
    yield row(nll_of_log_softmax, nll, slope, y)
    for target in (y, truth):
        yield row(lossless.cross_entropy, nll, slope, target, **NONE)
        for gamma in (0.5, 2.0):
            value, factor = nll, 1.0  # at p_y = 0
            if p[y] != 0:
                q = 1 - p[y]
                value = q**gamma * nll
                factor = 0.0 if q == 0 else q**gamma + gamma * q ** (gamma - 1) * nll * p[y]
            yield row(lossless.focal_loss, value, factor * slope, target, gamma=gamma, **NONE)
        yield row(NLL, nll, slope, target)
        yield row(LSE, lse, p, target)
        yield row(ENTROPY, entropy, spread, target)
    yield row(lossless.sparse_categorical_cross_entropy, nll, slope, y, from_logits=True, **NONE)
    yield row(lossless.categorical_cross_entropy, nll, slope, truth, from_logits=True, **NONE)
    yield row(PRIOR, nll, slope, prior=truth)
    yield row(info.entropy, entropy, spread, kind="logits")
    yield row(info.perplexity, math.exp(entropy), math.exp(entropy) * spread, kind="logits")


@line("NaN in a row")
def nan_in_a_row(dtype):
    for x, y in (([0, NAN, 1], 0), ([-INF, NAN, 1], 1), ([NAN, INF, 0], 1)):
        yield from on_scores(x, y, [NAN] * 3, NAN)
        yield Case(CORRECT, ([x], [y]), [False])


@line("a class at -inf")
def a_class_at_minus_inf(dtype):
    yield from on_scores([0, 1, -INF], 0, [*P01, 0], math.log(1 + E))
    yield from on_scores([-INF, 1, 0], 1, [0, *reversed(P01)], math.log(1 + E))
    for classes in (17, 40):  # beyond one vector of 16
        x = np.where(np.arange(classes) % 2 == 0, 0.0, -INF)
        p = np.where(x == 0, 1 / np.count_nonzero(x == 0), 0)
        yield Case(lossless.cross_entropy, ([x], [2]), [-math.log(p[0])], [p - np.eye(classes)[2]], NONE)


@line("the label at -inf")
def the_label_at_minus_inf(dtype):
    yield from on_scores([0, 1, -INF], 2, [*P01, 0], math.log(1 + E))
    yield from on_scores([-INF, 3, -INF], 0, [0, 1, 0], 3)


def soft_losses(x, target, value, slope) -> Iterator[Case]:
    beside = (ORDINARY, ORDINARY_TRUTH)
    yield Case(lossless.cross_entropy, (x, target), value, slope, NONE, beside=beside)
    yield Case(
        lossless.categorical_cross_entropy, (x, target), value, slope, {**NONE, "from_logits": True}, beside=beside
    )
    yield Case(lossless.focal_loss, (x, target), value, slope, {**NONE, "gamma": 0.0}, beside=beside)
    yield Case(NLL, (x, target), value, slope, beside=beside)


@line("a zero target on a class at -inf")
def a_zero_target_on_a_class_at_minus_inf(dtype):
    slope = [P01[0] - 0.25, P01[1] - 0.75, 0]
    value = -0.25 * math.log(P01[0]) - 0.75 * math.log(P01[1])
    yield from soft_losses([0, 1, -INF], [0.25, 0.75, 0], value, slope)
    yield Case(PRIOR, ([[0, 1, -INF]],), [value], [slope], {"prior": [0.25, 0.75, 0.0]})
    curve = [q * q * -math.log(p) for p, q in (P01, P01[::-1])]
    yield Case(
        lossless.focal_loss, ([[0, 1, -INF]], [[0.25, 0.75, 0]]), [0.25 * curve[0] + 0.75 * curve[1]], None, NONE
    )
    weights = {**NONE, "weight": [1.0, 1.0, 0.0], "label_smoothing": 0.5}  # smoothed onto it, and weighed out again
    value = (0.5 + 0.5 / 3) * -math.log(P01[0]) + 0.5 / 3 * -math.log(P01[1])
    yield Case(lossless.cross_entropy, ([[0, 1, -INF]], [0]), [value], None, weights)


@line("a positive target on a class at -inf")
def a_positive_target_on_a_class_at_minus_inf(dtype):
    p = np.array([*P01, 0])
    yield from soft_losses([0, 1, -INF], [0.25, 0.5, 0.25], INF, p - [0.25, 0.5, 0.25])
    yield Case(PRIOR, ([[0, 1, -INF]],), [INF], [p - [0.25, 0.5, 0.25]], {"prior": [0.25, 0.5, 0.25]})
    smoothed = np.array([0.5 + 0.5 / 3, 0.5 / 3, 0.5 / 3])
    for target in ([0], [[1.0, 0, 0]]):
        options = {**NONE, "label_smoothing": 0.5}
        yield Case(lossless.cross_entropy, ([[0, 1, -INF]], target), [INF], [p - smoothed], options)
    options = {**NONE, "label_smoothing": 0.5, "from_logits": True}
    yield Case(lossless.categorical_cross_entropy, ([[0, 1, -INF]], [[1.0, 0, 0]]), [INF], [p - smoothed], options)


@line("all classes but one at -inf")
def all_classes_but_one_at_minus_inf(dtype):
    yield from on_scores([-INF, 3, -INF], 1, [0, 1, 0], 3)


@line("all classes at -inf")
def all_classes_at_minus_inf(dtype):
    yield from on_scores([-INF] * 3, 1, [NAN] * 3, -INF)


@line("a lone +inf at the label")
def a_lone_inf_at_the_label(dtype):
    yield from on_scores([0, INF, 5], 1, [0, 1, 0], INF)
    yield from on_scores([-INF, INF, -INF], 1, [0, 1, 0], INF)


@line("a lone +inf elsewhere")
def a_lone_inf_elsewhere(dtype):
    yield from on_scores([0, INF, 5], 0, [0, 1, 0], INF)
    yield from on_scores([-INF, INF, 5], 0, [0, 1, 0], INF)


@line("two classes at +inf")
def two_classes_at_inf(dtype):
    for y in (0, 2):
        yield from on_scores([INF, INF, 0], y, [NAN] * 3, INF)


@line("a single class")
def a_single_class(dtype):
    x, y = [[5.0], [-1e4], [INF], [-INF], [NAN]], [0] * 5
    p, zeros = [[1], [1], [1], [NAN], [NAN]], np.array([[0], [0], [0], [NAN], [NAN]])
    yield Case(lossless.softmax, (x,), p, zeros)
    yield Case(lossless.log_softmax, (x,), zeros, zeros)
    yield Case(lossless.logsumexp, (x,), [5, -1e4, INF, -INF, NAN], p)
    for function in (lossless.cross_entropy, lossless.focal_loss):
        for target in (y, np.ones((5, 1))):
            yield Case(function, (x, target), zeros[:, 0], zeros, NONE)
    for part in (NLL, ENTROPY):
        yield Case(part, (x, y), zeros[:, 0], zeros)
    options = {**NONE, "from_logits": True}
    yield Case(lossless.sparse_categorical_cross_entropy, (x, y), zeros[:, 0], zeros, options)
    yield Case(lossless.categorical_cross_entropy, (x, np.ones((5, 1))), zeros[:, 0], zeros, options)


@line("z_loss beside a lone +inf")
def z_loss_beside_a_lone_inf(dtype):
    for y in (0, 1):
        for x in ([0, INF, 5], [-INF, INF, -INF]):
            yield Case(lossless.cross_entropy, ([x], [y]), [INF], "not finite", {**NONE, "z_loss": 0.5})
    yield Case(lossless.cross_entropy, ([[INF, INF]], [0]), [NAN], [[NAN, NAN]], {**NONE, "z_loss": 0.5})


# ---- rows and weights

BINARY = (lossless.binary_cross_entropy, lossless.binary_cross_entropy_with_logits)
BY_LABEL = (
    (lossless.nll_loss, {}),
    (lossless.cross_entropy, {}),
    (lossless.focal_loss, {}),
    (lossless.sparse_categorical_cross_entropy, {}),
    (lossless.sparse_categorical_cross_entropy, {"from_logits": True}),
)
BY_ARRAY = (
    (lossless.cross_entropy, {}),
    (lossless.focal_loss, {}),
    (lossless.categorical_cross_entropy, {}),
    (lossless.categorical_cross_entropy, {"from_logits": True}),
    *((function, {}) for function in BINARY),
    (lossless.sigmoid_focal_loss, {}),
    (lossless.mse_loss, {}),
)


def ignoring(function) -> dict[str, Any]:
    return {"ignore_class": -7} if function is lossless.sparse_categorical_cross_entropy else {"ignore_index": -7}


@line("no rows")
def no_rows(dtype):
    x = np.zeros((0, 3))
    for reduction, value in (("mean", NAN), ("sum", 0), ("none", [])):
        for function, options in BY_LABEL:
            yield Case(function, (x, np.zeros(0, np.int64)), value, x, {**options, "reduction": reduction})
        for function, options in BY_ARRAY:
            per_row = not (function in BINARY or function in (lossless.sigmoid_focal_loss, lossless.mse_loss))
            nothing = value if reduction != "none" or per_row else x
            yield Case(function, (x, x), nothing, x, {**options, "reduction": reduction})
    for reduction, value in (("batchmean", NAN), ("sum", 0), ("none", x)):
        yield Case(lossless.kl_div, (x, x), value, x, {"reduction": reduction})
    yield Case(lossless.rmse_loss, (x, x), NAN, x)
    for function in (lossless.softmax, lossless.log_softmax):
        yield Case(function, (x,), x, x)
    for function in (lossless.sigmoid, lossless.logsigmoid, lossless.logit, lossless.inverse_softmax):
        yield Case(function, (x,), x, x)
    for function in (lossless.logsumexp, info.entropy, info.perplexity):
        yield Case(function, (x,), [], x)
    for function in (info.cross_entropy, info.kl_divergence, info.js_divergence):
        yield Case(function, (x, x), [], x)


@line("only ignored rows")
def only_ignored_rows(dtype):
    x, zeros = [[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]], np.zeros((2, 3))
    for reduction, value in (("mean", NAN), ("sum", 0), ("none", [0, 0])):
        for function, options in BY_LABEL:
            yield Case(function, (x, [-7, -7]), value, zeros, {**options, **ignoring(function), "reduction": reduction})
        for function in BINARY:
            value = zeros if reduction == "none" else value
            yield Case(function, (x, zeros - 7), value, zeros, {"ignore_index": -7, "reduction": reduction})
    for denominator, value in (("weights", NAN), ("count", NAN), ("batch", 0), ("positives", 0), (4.0, 0)):
        options = {"denominator": denominator, "ignore_index": -7}
        for function in (lossless.cross_entropy, lossless.focal_loss):
            if function is lossless.focal_loss or denominator != "positives":
                yield Case(function, (x, [-7, -7]), value, zeros, options)
        for function in BINARY:
            yield Case(function, (x, zeros - 7), value, zeros, options)


@line("an ignored row")
def an_ignored_row(dtype):
    for bad in ([NAN, INF, -INF], [NAN] * 3, [-INF] * 3, [INF, INF, 0]):
        x, y = [[0.25, 0.25, 0.5], bad, [0.25, 0.25, 0.5]], [0, -7, 0]
        for function, options in BY_LABEL:
            plain, _ = run(Case(function, (x[:1], [0]), None, None, {**options, "reduction": "none"}), dtype, "torch")
            _, slope = run(Case(function, (x[:1], [0]), None, None, {**options, "reduction": "sum"}), dtype, "torch")
            ignore = {**options, **ignoring(function)}
            slopes = np.concatenate([slope, np.zeros((1, 3)), slope])
            yield Case(function, (x, y), [plain[0], 0, plain[0]], slopes, {**ignore, "reduction": "none"})
            yield Case(function, (x, y), plain[0], slopes / 2, ignore)
            if function in (lossless.cross_entropy, lossless.focal_loss):
                weights = {"sample_weight": [1.0, NAN, 1.0]}
                yield Case(function, (x, y), plain[0], slopes / 2, {**ignore, **weights})
                yield Case(function, (x, y), plain[0] / 1.5, slopes / 3, {**ignore, **weights, "denominator": "batch"})
        for part in (NLL, LSE, ENTROPY):
            found, slopes = run(Case(part, (x, y), None, None, {"ignore_index": -7}), dtype, "torch")
            assert found[0] == found[2] != 0
            yield Case(part, (x, y), [found[0], 0, found[0]], [slopes[0], [0, 0, 0], slopes[0]], {"ignore_index": -7})
    for function in BINARY:
        x, t = [0.5, NAN, INF, -INF, -3.0], [1.0, -7, -7, -7, -7]
        value = math.log(2) if function is lossless.binary_cross_entropy else math.log1p(math.exp(-0.5))
        slope = -2 if function is lossless.binary_cross_entropy else -1 / (1 + math.exp(0.5))
        options = {"ignore_index": -7, "sample_weight": [1.0, NAN, INF, 1.0, 1.0]}
        yield Case(function, (x, t), value, [slope, 0, 0, 0, 0], options)
        yield Case(function, (x, t), [value, 0, 0, 0, 0], [slope, 0, 0, 0, 0], {**options, "reduction": "none"})


@line("NaN in one row of many")
def nan_in_one_row_of_many(dtype):
    for reduction in ("mean", "sum"):
        for function, options in BY_LABEL:
            if function is not lossless.nll_loss:
                x = [[0.25, 0.25, 0.5], [NAN, 0, 1], [0.25, 0.25, 0.5]]
                yield from reaches(function, (x, [0, 0, 0]), NAN, {**options, "reduction": reduction}, dtype)
        for function, options in BY_ARRAY:
            if function is not lossless.binary_cross_entropy:
                x, t = [[0.25, 0.25, 0.5], [NAN, NAN, NAN], [0.25, 0.25, 0.5]], [[1.0, 0, 0]] * 3
                yield from reaches(function, (x, t), NAN, {**options, "reduction": reduction}, dtype)


def reaches(function, arrays, value, options, dtype) -> Iterator[Case]:
    """The middle row decides the value, and the gradients of the others are as without it."""
    _, slopes = run(Case(function, tuple([a[0], a[0], a[2]] for a in arrays), None, None, options), dtype, "torch")
    _, found = run(Case(function, arrays, None, None, options), dtype, "torch")
    slopes[1] = NAN if math.isnan(value) else found[1]
    if function is lossless.sparse_categorical_cross_entropy and not options.get("from_logits"):
        slopes[1] = found[1]  # it reads the label's probability alone
    yield Case(function, arrays, value, slopes, options)


@line("an infinite loss in one row of many")
def an_infinite_loss_in_one_row_of_many(dtype):
    x = [[1.0, 0, 2], [0, 1, -INF], [1.0, 0, 2]]
    for reduction in ("mean", "sum"):
        for function in (lossless.cross_entropy, lossless.focal_loss):
            for target in ([0, 2, 0], [[1.0, 0, 0], [0, 0, 1.0], [1.0, 0, 0]]):
                for case in reaches(function, (x, target), INF, {"reduction": reduction}, dtype):
                    assert np.all(np.isfinite(case.gradient))
                    yield case
        for case in reaches(
            lossless.binary_cross_entropy_with_logits,
            ([0.0, INF, 1.0], [0.0, 0.0, 1.0]),
            INF,
            {"reduction": reduction},
            dtype,
        ):
            assert np.all(np.isfinite(case.gradient))
            yield case


@line("a weight of 0 on an infinite loss")
def a_weight_of_0_on_an_infinite_loss(dtype):
    x, zeros = [[-INF, 1.0, 2.0]], np.zeros((1, 3))
    for function in (lossless.cross_entropy, lossless.focal_loss):
        for weight in ({"weight": [0.0, 1.0, 1.0]}, {"sample_weight": [0.0]}):
            yield Case(function, (x, [0]), [NAN], zeros, {**NONE, **weight})
            yield Case(function, (x, [0]), NAN, zeros, {"reduction": "sum", **weight})
        yield Case(function, (x, [[1.0, 0, 0]]), [0], zeros, {**NONE, "weight": [0.0, 1.0, 1.0]})
        yield Case(function, (x, [[1.0, 0, 0]]), [NAN], zeros, {**NONE, "sample_weight": [0.0]})
    yield Case(lossless.mse_loss, ([INF, 1.0], [1.0, 0.0]), [0, 2], [0, 4], {**NONE, "weight": [0.0, 2.0]})
    yield Case(lossless.nll_loss, ([[-INF, -1.0, -2.0]], [0]), [NAN], zeros, {**NONE, "weight": [0.0, 1.0, 1.0]})
    for weight in ("weight", "sample_weight"):
        yield Case(BINARY[1], ([INF, -INF], [0.0, 1.0]), [0, 0], [0, 0], {**NONE, weight: [0.0, 0.0]})
        yield Case(BINARY[0], ([1.0, 0.0], [0.0, 1.0]), [0, 0], [0, 0], {**NONE, weight: [0.0, 0.0], "clamp": None})
    yield Case(BINARY[1], ([-INF], [1.0]), [0], [0], {**NONE, "pos_weight": [0.0]})


@line("a weight of 0 on NaN")
def a_weight_of_0_on_nan(dtype):
    x, t = [[NAN, 1.0, 2.0]], [[1.0, 0, 0]]
    for function in (lossless.cross_entropy, lossless.focal_loss):
        for target in ([0], t):
            for weight in ({"weight": [0.0, 1.0, 1.0]}, {"sample_weight": [0.0]}):
                yield Case(function, (x, target), [NAN], [[NAN] * 3], {**NONE, **weight})
    for weight in ("weight", "sample_weight", "pos_weight"):
        yield Case(BINARY[1], ([NAN], [1.0]), [NAN], [NAN], {**NONE, weight: [0.0]})
    yield Case(lossless.mse_loss, ([NAN], [1.0]), [NAN], [NAN], {**NONE, "weight": [0.0]})


# ---- probabilities


def huge(dtype: str, value: float) -> float:
    """1e12 and its like, as the format holds it."""
    return math.copysign(INF, value) if dtype == "float16" and value else value


@line("p = 0 under a positive target t")
def p_0_under_a_positive_target(dtype):
    p, ordinary = [0.0, 0.5, 0.5], [0.5, 0.25, 0.25]
    beside = (ordinary, ORDINARY_TRUTH)
    yield Case(lossless.categorical_cross_entropy, (p, [1.0, 0, 0]), INF, [-INF, 0, 0], NONE, beside=beside)
    yield Case(lossless.categorical_cross_entropy, (p, [0.5, 0.5, 0]), INF, [-INF, -1, 0], NONE, beside=beside)
    yield Case(lossless.sparse_categorical_cross_entropy, (p, 0), INF, [-INF, 0, 0], NONE, beside=(ordinary, 0))
    clamped = [huge(dtype, -1e12), huge(dtype, -0.5e12)]
    yield Case(lossless.binary_cross_entropy, ([0.0, 0.0], [1.0, 0.5]), [100, 50], clamped, NONE)
    exact = {**NONE, "clamp": None}
    yield Case(lossless.binary_cross_entropy, ([0.0, 0.0], [1.0, 0.5]), [INF, INF], [-INF, -INF], exact)


@line("p = 0 under a target of 0")
def p_0_under_a_target_of_0(dtype):
    p = [[0.0, 0.5, 0.5]]
    value, slope = [math.log(2)], [[0, -0.5, -1.5]]
    yield Case(lossless.categorical_cross_entropy, (p, [[0, 0.25, 0.75]]), value, slope, NONE)
    yield Case(lossless.sparse_categorical_cross_entropy, (p, [2]), value, [[0, 0, -2]], NONE)
    yield Case(lossless.binary_cross_entropy, ([0.0], [0.0]), [0], [0], NONE)
    yield Case(lossless.binary_cross_entropy, ([0.0], [0.0]), [0], [1], {**NONE, "clamp": None})


@line("p = 1 under a target of 1")
def p_1_under_a_target_of_1(dtype):
    p = [[0.0, 1.0, 0.0]]
    yield Case(lossless.categorical_cross_entropy, (p, [[0, 1, 0]]), [0], [[0, -1, 0]], NONE)
    yield Case(lossless.categorical_cross_entropy, (p, [[0, 1.0, 0]]), [0], [[0, -1, 0]], NONE)
    yield Case(lossless.sparse_categorical_cross_entropy, (p, [1]), [0], [[0, -1, 0]], NONE)
    yield Case(lossless.binary_cross_entropy, ([1.0], [1.0]), [0], [0], NONE)
    yield Case(lossless.binary_cross_entropy, ([1.0], [1.0]), [0], [-1], {**NONE, "clamp": None})


@line("p = 1 under a target t below 1")
def p_1_under_a_target_below_1(dtype):
    clamped = [huge(dtype, 1e12), huge(dtype, 0.5e12)]
    yield Case(lossless.binary_cross_entropy, ([1.0, 1.0], [0.0, 0.5]), [100, 50], clamped, NONE)
    exact = {**NONE, "clamp": None}
    yield Case(lossless.binary_cross_entropy, ([1.0, 1.0], [0.0, 0.5]), [INF, INF], [INF, INF], exact)


def refuses(function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns 1 for a call that raises ParameterError."""

    def call(x, *arrays, **options):
        try:
            result = function(x, *arrays, **options)
        except lossless.errors.ParameterError:
            return np.ones(1, x.dtype) if isinstance(x, np.ndarray) else torch.ones(1, dtype=x.dtype)
        raise AssertionError(f"answers {result}")

    call.__name__ = f"refused: {function.__name__}"
    return call


@line("NaN among probabilities")
def nan_among_probabilities(dtype):
    ordinary = [0.5, 0.25, 0.25]
    categorical, sparse = lossless.categorical_cross_entropy, lossless.sparse_categorical_cross_entropy
    beside = (ordinary, ORDINARY_TRUTH)
    yield Case(categorical, ([NAN, 0.5, 0.25], [1.0, 0, 0]), NAN, [NAN, 0, 0], NONE, beside=beside)
    yield Case(categorical, ([0.5, NAN, 0.25], [1.0, 0, 0]), NAN, [-2, NAN, 0], NONE, beside=beside)
    yield Case(sparse, ([NAN, 0.5, 0.25], 0), NAN, [NAN, 0, 0], NONE, beside=(ordinary, 0))
    yield Case(sparse, ([0.5, NAN, 0.25], 0), math.log(2), [-2, 0, 0], NONE, beside=(ordinary, 0))
    yield Case(lossless.nll_loss, ([-0.5, NAN, -2], 0), 0.5, [-1, 0, 0], NONE, beside=(ORDINARY, 0))
    yield Case(lossless.nll_loss, ([NAN, -1, -2], 0), NAN, [-1, 0, 0], NONE, beside=(ORDINARY, 0))
    yield Case(lossless.logit, ([NAN, 0.5],), [NAN, 0], [NAN, 4])
    yield Case(lossless.logit, ([NAN, 0.5],), [NAN, 0], [NAN, 4], {"eps": 0.25})
    for center in ("mean", "max"):
        yield Case(
            lossless.inverse_softmax, ([NAN, 0.5, 0.5],), [NAN] * 3, None, {"center": center}, beside=(ordinary,)
        )
    yield Case(lossless.inverse_softmax, ([NAN, 0.5, 1.0],), [NAN, -math.log(2), 0], None, {"center": None})
    for clamp in ("torch", None):
        yield Case(refuses(lossless.binary_cross_entropy), ([NAN, 0.5], [1.0, 0.0]), [1], None, {"clamp": clamp})
        yield Case(refuses(lossless.binary_cross_entropy), ([0.25, 0.5], [NAN, 0.0]), [1], None, {"clamp": clamp})


@line("a probability outside 0 to 1")
def a_probability_outside_0_to_1(dtype):
    for bad in (-0.25, 1.25, INF, -INF):
        row = [[bad, 0.5, 0.5]]
        yield Case(refuses(lossless.categorical_cross_entropy), (row, [[1.0, 0, 0]]), [1])
        yield Case(refuses(lossless.sparse_categorical_cross_entropy), (row, [1]), [1])
        yield Case(refuses(lossless.binary_cross_entropy), (row, [[1.0, 0, 0]]), [1])
        for function in (info.entropy, info.perplexity):
            yield Case(refuses(function), (row,), [1])
        for function in (info.cross_entropy, info.kl_divergence, info.js_divergence):
            yield Case(refuses(function), (row, [[0.5, 0.25, 0.25]]), [1])
            yield Case(refuses(function), ([[0.5, 0.25, 0.25]], row), [1])
        beside_nan = [*row, [NAN, 0.5, 0.5]]  # which hides nothing
        yield Case(refuses(lossless.categorical_cross_entropy), (beside_nan, [[1.0, 0, 0]] * 2), [1])
        yield Case(refuses(lossless.sparse_categorical_cross_entropy), (beside_nan, [1, 1]), [1])
        yield Case(refuses(lossless.binary_cross_entropy), (beside_nan, [[1.0, 0, 0]] * 2), [1])
        yield Case(refuses(info.entropy), (beside_nan,), [1])
        yield Case(refuses(info.kl_divergence), (beside_nan, [[0.5, 0.25, 0.25]] * 2), [1])
        yield Case(lossless.logit, ([bad],), [NAN], [NAN])
        end = math.copysign(math.log(3), bad - 0.5)
        yield Case(lossless.logit, ([bad],), [end], [0], {"eps": 0.25})


@line("logit of 0 and 1")
def logit_of_0_and_1(dtype):
    yield Case(lossless.logit, ([0.0, 1.0, -0.0],), [-INF, INF, -INF], [INF, INF, INF])
    yield Case(lossless.logit, ([0.0, 1.0],), [-math.log(3), math.log(3)], [0, 0], {"eps": 0.25})


@line("inverse_softmax of a probability of 0")
def inverse_softmax_of_a_probability_of_0(dtype):
    p, half = [0.25, 0.0, 0.5], math.log(2) / 2
    values = {"mean": [-half, -INF, half], "max": [-2 * half, -INF, 0], None: [-4 * half, -INF, -2 * half]}
    slopes = {"mean": [2, 0, -1], "max": [4, 0, -2], None: [4, 0, 0]}
    for center, value in values.items():
        options, beside = {"center": center}, ([0.5, 0.25, 0.25],)
        yield Case(lossless.inverse_softmax, (p,), value, slopes[center], options, 0, [1, 0, 0], beside)
        flowing = [-0.0, INF, -0.0]
        yield Case(lossless.inverse_softmax, (p,), value, flowing, options, 0, [0, 1, 0], beside)
    yield Case(
        lossless.inverse_softmax, ([0.0, 1.0, 0.0],), [-INF, 0, -INF], [0, 0, 0], {}, 0, [0, 1, 0], ([0.5, 0.25, 0.25],)
    )


@line("inverse_softmax of nothing but 0")
def inverse_softmax_of_nothing_but_0(dtype):
    for center, value in (("mean", NAN), ("max", NAN), (None, -INF)):
        yield Case(
            lossless.inverse_softmax, ([0.0] * 3,), [value] * 3, None, {"center": center}, beside=([0.5, 0.25, 0.25],)
        )


# ---- yes-or-no scores


@line("NaN in an element")
def nan_in_an_element(dtype):
    x, t = [NAN, 0.0], [1.0, 1.0]
    yield Case(lossless.sigmoid, (x,), [NAN, 0.5], [NAN, 0.25])
    yield Case(lossless.logsigmoid, (x,), [NAN, -math.log(2)], [NAN, 0.5])
    for arrays in ((x, t), ([0.5, 0.0], [NAN, 1.0])):
        yield Case(BINARY[1], arrays, [NAN, math.log(2)], [NAN, -0.5], NONE)
        value, slope = math.log(2) / 16, -0.25 * (0.5**3 + 2 * 0.5 * 0.25 * math.log(2))
        yield Case(lossless.sigmoid_focal_loss, arrays, [NAN, value], [NAN, slope])


@line("an infinite score on the right side")
def an_infinite_score_on_the_right_side(dtype):
    x, t, zeros = [INF, -INF], [1.0, 0.0], [0, 0]
    yield Case(lossless.sigmoid, (x,), [1, 0], zeros)
    yield Case(lossless.logsigmoid, ([INF],), [0], [0])
    for options in ({}, {"pos_weight": [2.0, 2.0]}, {"weight": [3.0, 3.0]}):
        yield Case(BINARY[1], (x, t), zeros, zeros, {**NONE, **options})
    for alpha in (0.25, -1):
        for gamma in (0.0, 0.5, 1.0, 2.0):
            yield Case(lossless.sigmoid_focal_loss, (x, t), zeros, zeros, {"alpha": alpha, "gamma": gamma})


@line("an infinite score on the wrong side")
def an_infinite_score_on_the_wrong_side(dtype):
    x, t, endless = [INF, -INF], [0.0, 1.0], [INF, INF]
    yield Case(lossless.logsigmoid, ([-INF],), [-INF], [1])
    yield Case(BINARY[1], (x, t), endless, [1, -1], NONE)
    yield Case(BINARY[1], (x, t), endless, [1, -2], {**NONE, "pos_weight": [2.0, 2.0]})
    for gamma in (0.0, 0.5, 1.0, 2.0):
        yield Case(lossless.sigmoid_focal_loss, (x, t), endless, [0.75, -0.25], {"gamma": gamma})
        yield Case(lossless.sigmoid_focal_loss, (x, t), endless, [1, -1], {"alpha": -1, "gamma": gamma})


@line("an infinite score under a target between")
def an_infinite_score_under_a_target_between(dtype):
    x, t, endless = [INF, -INF], [0.25, 0.25], [INF, INF]
    yield Case(BINARY[1], (x, t), endless, [0.75, -0.25], NONE)
    smoothed = {**NONE, "label_smoothing": 0.5}
    yield Case(BINARY[1], (x, [1.0, 0.0]), endless, [0.25, -0.25], smoothed)
    yield Case(lossless.sigmoid_focal_loss, (x, t), endless, [0.75 * 0.75**2, -0.25 * 0.25**2], {"alpha": -1})


# ---- predictions


@line("NaN in a prediction or its truth")
def nan_in_a_prediction_or_its_truth(dtype):
    for arrays in (([NAN, 3.0], [1.0, 1.0]), ([1.0, 3.0], [NAN, 1.0])):
        yield Case(lossless.mse_loss, arrays, [NAN, 4], [NAN, 4], NONE)
        yield Case(lossless.rmse_loss, arrays, NAN, [NAN, NAN])
    x = [[NAN, 1.0], [3.0, 1.0]]
    slopes = [[NAN, NAN], [math.sqrt(0.5), 0]]
    yield Case(lossless.rmse_loss, (x, np.ones((2, 2))), [NAN, math.sqrt(2)], slopes, {**NONE, "dim": 1})


@line("an infinite difference")
def an_infinite_difference(dtype):
    for x, t, slope in ((INF, 1.0, INF), (-INF, 1.0, -INF), (1.0, INF, -INF), (INF, -INF, INF)):
        yield Case(lossless.mse_loss, ([x, 3.0], [t, 1.0]), [INF, 4], [slope, 4], NONE)
        yield Case(lossless.rmse_loss, ([x, 3.0], [t, 1.0]), INF, [NAN, 0])


@line("inf less inf")
def inf_less_inf(dtype):
    for x in (INF, -INF):
        yield Case(lossless.mse_loss, ([x, 3.0], [x, 1.0]), [NAN, 4], [NAN, 4], NONE)
        yield Case(lossless.rmse_loss, ([x, 3.0], [x, 1.0]), NAN, [NAN, NAN])


@line("no difference at all")
def no_difference_at_all(dtype):
    x = [[1.0, -0.5], [1e-3, 0.0]]
    yield Case(lossless.mse_loss, (x, x), 0, np.zeros((2, 2)))
    yield Case(lossless.rmse_loss, (x, x), 0, np.zeros((2, 2)))
    yield Case(lossless.rmse_loss, (x, x), [0, 0], np.zeros((2, 2)), {**NONE, "dim": 1})


# ---- distributions

LOG2 = math.log(2)
DIVERGENCES = (info.cross_entropy, info.kl_divergence, info.js_divergence)
FAIR = [0.5, 0.5]


def given(p: list[float], kind: str) -> list[float]:
    """Probabilities, or their logarithms, or logits."""
    if kind == "probs":
        return p
    with np.errstate(divide="ignore"):
        return (np.log(p) + (1 if kind == "logits" else 0)).tolist()


@line("an outcome of probability 0")
def an_outcome_of_probability_0(dtype):
    yield Case(info.entropy, ([0.5, 0.0, 0.5],), LOG2, [LOG2 - 1, INF, LOG2 - 1], beside=([0.25, 0.25, 0.5],))
    yield Case(info.entropy, ([[0.5, 0.0, 0.5]],), [1], None, {"base": 2})
    yield Case(info.perplexity, ([0.5, 0.0, 0.5],), 2, None, beside=([0.25, 0.25, 0.5],))
    for kind, x in (("logits", [1.0, -INF, 1.0]), ("log_probs", [-LOG2, -INF, -LOG2])):
        slopes = np.zeros((1, 3)) if kind == "logits" else None
        yield Case(info.entropy, ([x],), [LOG2], slopes, {"kind": kind})
        yield Case(info.perplexity, ([x],), [2], slopes, {"kind": kind})


@line("a certain outcome")
def a_certain_outcome(dtype):
    for x, kind in (([0, -INF, -INF], "logits"), ([0, -INF, -INF], "log_probs"), ([1, 0, 0], "probs")):
        yield Case(info.entropy, ([[float(v) for v in x]],), [0], None, {"kind": kind})
        yield Case(info.perplexity, ([[float(v) for v in x]],), [1], None, {"kind": kind})
    yield Case(info.entropy, ([[0.0, -INF, -INF]],), [0], [[0, 0, 0]], {"kind": "logits"})
    yield Case(info.perplexity, ([[0.0, -INF, -INF]],), [1], [[0, 0, 0]], {"kind": "logits"})


def of_two(function, p, q, value, over_p=None, over_q=None, kinds=("probs", "log_probs", "logits")) -> Iterator[Case]:
    """value in every kind; gradients for probabilities."""
    for kind in kinds:
        arrays, beside = (given(p, kind), given(q, kind)), (given(FAIR, kind), given([0.25, 0.75], kind))
        for over, gradient in ((0, over_p), (1, over_q)):
            gradient = gradient if kind == "probs" else None
            yield Case(function, arrays, value, gradient, {"kind": kind}, over, beside=beside)


@line("q is 0 where p is not")
def q_is_0_where_p_is_not(dtype):
    p, q = FAIR, [0.0, 1.0]
    yield from of_two(info.cross_entropy, p, q, INF, [INF, 0], [-INF, -0.5])
    yield from of_two(info.kl_divergence, p, q, INF, [INF, -LOG2], [-INF, 0.5])
    # p / 2 log 2 of the first class, and (p log(4 p / 3) + q log(4 q / 3)) / 2 of the second, with p + q = 3/2
    js = LOG2 / 4 + (0.5 * math.log(2 / 3) + math.log(4 / 3)) / 2
    yield from of_two(info.js_divergence, p, q, js)
    yield Case(lossless.kl_div, ([-INF, -1.0], [0.5, 0.5]), [INF, 0.5 - LOG2 / 2], [-0.5, -0.5], NONE)
    yield Case(lossless.kl_div, ([-INF, -1.0], [0.0, 0.0]), [INF, 1], [-1, -1], {**NONE, "log_target": True})
    yield Case(info.k3, ([-1.0], [-INF]), [INF])


@line("p is 0 where q is not")
def p_is_0_where_q_is_not(dtype):
    p, q = [0.0, 1.0], FAIR
    yield from of_two(info.cross_entropy, p, q, LOG2, [LOG2, LOG2], [0, -2])
    yield from of_two(info.kl_divergence, p, q, LOG2, None, [1, -1])
    js = LOG2 / 4 + (math.log(4 / 3) + 0.5 * math.log(2 / 3)) / 2
    yield from of_two(info.js_divergence, p, q, js)
    # Beside probabilities that do not add up, q shows: sum p log(p / q) - p + q.
    yield Case(info.kl_divergence, ([[0.0, 0.5]], [[0.25, 0.5]]), [0.25])
    yield Case(info.kl_divergence, ([[-INF, 1.0]], [[1.0, 1.0]]), None, [[0.5, -0.5]], {"kind": "logits"}, 1)
    yield Case(lossless.kl_div, ([-1.0, -2.0], [0.0, 1.0]), [0, 2], [0, -1], NONE)
    yield Case(lossless.kl_div, ([-1.0, -2.0], [-INF, 0.0]), [0, 2], [0, -1], {**NONE, "log_target": True})
    yield Case(info.k3, ([-INF], [-1.0]), [INF])


@line("p and q are both 0")
def p_and_q_are_both_0(dtype):
    p, q = [0.5, 0.5, 0.0], [0.25, 0.75, 0.0]
    m = [0.375, 0.625]
    cross = -(math.log(0.25) + math.log(0.75)) / 2
    kl = cross - LOG2
    js = sum(a / 2 * math.log(a / c) + b / 2 * math.log(b / c) for a, b, c in zip(p, q, m, strict=False))
    masks = ([0.0, 0.0, -INF], [1.0, 1.0, -INF])
    for function, value in zip(DIVERGENCES, (cross, kl, js), strict=True):
        yield Case(function, (p, q), value, beside=([0.25, 0.25, 0.5], [0.5, 0.25, 0.25]))
        for over in (0, 1):
            zeros = [[0, 0, 0]]
            yield Case(function, ([masks[0]], [masks[1]]), None, zeros, {"kind": "logits"}, over)
    yield Case(lossless.kl_div, ([-INF], [0.0]), [0], [0], NONE)
    yield Case(lossless.kl_div, ([-INF], [-INF]), [0], [0], {**NONE, "log_target": True})


@line("equal distributions")
def equal_distributions(dtype):
    for p in ([0.3, 0.6, 0.1], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]):
        for kind in ("probs", "log_probs", "logits"):
            x = given(p, kind)
            for function in (info.kl_divergence, info.js_divergence):
                for over in (0, 1):
                    slopes = [[0, 0, 0]] if kind == "logits" else None
                    yield Case(function, ([x], [x]), [0], slopes, {"kind": kind}, over)
    yield Case(info.k3, ([-0.3, -7.0], [-0.3, -7.0]), [0, 0], [0, 0])


@line("disjoint distributions")
def disjoint_distributions(dtype):
    yield from of_two(info.kl_divergence, [1.0, 0.0], [0.0, 1.0], INF)
    yield from of_two(info.js_divergence, [1.0, 0.0], [0.0, 1.0], LOG2)


@line("NaN in a distribution")
def nan_in_a_distribution(dtype):
    for kind in ("probs", "log_probs", "logits"):
        ordinary = given([0.25, 0.25, 0.5], kind)
        for x in ([NAN, *ordinary[1:]], [ordinary[0], NAN, given([0.0], kind)[0]]):
            for function in (info.entropy, info.perplexity):
                yield Case(function, (x,), NAN, None, {"kind": kind}, beside=(ordinary,))
            for function in DIVERGENCES:
                for arrays, over in (((x, ordinary), 0), ((ordinary, x), 0), ((ordinary, x), 1)):
                    yield Case(function, arrays, NAN, None, {"kind": kind}, over, beside=(ordinary, ordinary))
    yield Case(info.k3, ([NAN, -1.0, -1.0], [-1.0, NAN, -1.0]), [NAN, NAN, 0], [NAN, NAN, 0])
    yield Case(lossless.kl_div, ([NAN, -1.0, 0.0], [0.5, NAN, 1.0]), [NAN, NAN, 0], [-0.5, NAN, -1], NONE)


@line("a zero target of kl_div")
def a_zero_target_of_kl_div(dtype):
    x = [0.0, -1.0, -INF, NAN]
    yield Case(lossless.kl_div, (x, np.zeros(4)), [0, 0, 0, NAN], [0, 0, 0, 0], NONE)
    yield Case(lossless.kl_div, (x, np.full(4, -INF)), [0, 0, 0, NAN], [0, 0, 0, 0], {**NONE, "log_target": True})


@line("the same infinity twice in k3")
def the_same_infinity_twice_in_k3(dtype):
    yield Case(info.k3, ([-INF, -1.0], [-INF, -1.0]), [0, 0], [0, 0])


# ---- the tests


@pytest.mark.usefixtures("path")
@pytest.mark.parametrize("dtype", regimes.DTYPES)
@pytest.mark.parametrize("situation", LINES)
def test_line(situation, dtype, path):
    if path == "reference" and dtype in ("float16", "bfloat16"):
        pytest.skip("computed as float32 is there")
    cases = list(LINES[situation](dtype))
    assert cases
    wrong = []
    for case in cases:
        for framework in ("torch",) if case.over else ("numpy", "torch"):  # NumPy has no gradient over the second
            try:
                wrong += [f"{case} in {framework}: {what}" for what in complaints(case, dtype, framework)]
            except Exception as error:
                wrong.append(f"{case} in {framework}: {error!r}")
    assert not wrong, "\n".join(wrong)


def test_every_line_of_the_tables_has_a_test():
    lines = re.findall(r"^\| (.*?) \|", PAGE.read_text(), re.MULTILINE)
    situations = [text for text in lines if text != "situation"]
    assert situations == list(LINES)
