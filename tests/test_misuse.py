"""Misuse: what is found of it, by `diagnose` and by warnings; and what must not be."""

import ast
import inspect
import os
import random
import re
import subprocess
import sys
import warnings
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import get_args

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.functional_tensor import FunctionalTensorMode
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.common_modules import module_db
from torch.utils._python_dispatch import TorchDispatchMode

import lossless
from lossless import _kernels, nn
from lossless._diagnose import watch
from lossless._diagnose.page import render
from lossless._diagnose.troubles import Level, troubles
from lossless.errors import LosslessError, LosslessWarning, MisuseWarning, ParameterError

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def forgetful(monkeypatch):
    """Nothing that other tests have called was seen, and the checks are those of a new user; the same every time."""
    watch.forget()
    watch._chance.seed(0)
    monkeypatch.setattr(watch, "level", "cheap")
    yield
    watch.forget()


def seen(call):
    """The troubles that a call warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    texts = [str(w.message) for w in caught if issubclass(w.category, MisuseWarning)]
    return [re.search(r"troubleshooting.md#([\w-]+)", text)[1] for text in texts]


def seen_first(call):
    """The troubles that a line warns of which was never there before."""
    watch.forget()
    return seen(call)


def names(findings):
    return [finding.name for finding in findings]


BF16 = ml_dtypes.bfloat16
RNG = np.random.default_rng(7)
X = RNG.normal(size=(64, 10)).astype(np.float32)  # 64: more rows than a look takes
Y = RNG.integers(0, 10, 64)
P = lossless.softmax(X)
T = lossless.softmax(RNG.normal(size=(64, 10)).astype(np.float32))
YES = (RNG.random((64, 10)) < 0.3).astype(np.float32)
ONE_HOT = np.eye(10, dtype=np.float32)[Y]


def changed(a, where, value):
    a = a.copy()
    a[where] = value
    return a


# trouble: (loss, input, target, options, what the evidence says) that show it; every one of the table is here
MISUSE = {
    "softmax-before-loss": [
        ("cross_entropy", P, Y, {}, r"sum to 1; input\[0\] is 0\.\d+, "),
        ("cross_entropy", P, T, {}, "sum to 1"),
        ("focal_loss", P, Y, {}, "sum to 1"),
        ("sparse_categorical_cross_entropy", P, Y, {"from_logits": True}, "sum to 1"),
        ("categorical_cross_entropy", P, ONE_HOT, {"from_logits": True}, "sum to 1"),
        ("cross_entropy", np.ascontiguousarray(P.reshape(4, 16, 10).swapaxes(1, 2)), Y.reshape(4, 16), {}, "sum to 1"),
        ("cross_entropy", P.astype(np.float16), Y, {}, "sum to 1"),
    ],
    "probabilities-in-nll-loss": [("nll_loss", P, Y, {}, "sum to 1")],
    "scores-in-nll-loss": [("nll_loss", X, Y, {}, "exp of the rows sums to")],
    "sigmoid-before-loss": [],  # seen in graphs alone, see below
    "probabilities-in-logits-loss": [
        ("binary_cross_entropy_with_logits", lossless.sigmoid(X), YES, {}, r"lie in \[0\.\d+, 0\.\d+\], none is 0"),
    ],
    "saturated-probabilities": [
        ("binary_cross_entropy", (X > 0).astype(np.float32), YES, {}, "exactly 0 or 1 are 640 of 640|1024 of"),
    ],
    "unnormalised-probabilities": [
        ("categorical_cross_entropy", P / 2, ONE_HOT, {}, r"input\[0\] sums to 0\.5; as in 64 of 64|16 of 16"),
        ("sparse_categorical_cross_entropy", lossless.sigmoid(X), Y, {}, "sums to"),
    ],
    "saturated-input": [
        ("cross_entropy", np.eye(10, dtype=np.float32)[Y] * 300, Y, {}, "leads by 300"),
        ("binary_cross_entropy_with_logits", np.sign(X) * 99, YES, {}, "at least 99 away from 0"),
    ],
    "constant-input": [
        ("cross_entropy", np.tile(X[:1], (64, 1)), Y, {}, "all 64 rows|all 16 rows"),
        ("binary_cross_entropy_with_logits", X * 0 + 3, YES, {}, "are 3, though"),
    ],
    "non-finite-input": [
        ("cross_entropy", changed(X, (17, 3), np.nan), Y, {}, r"input\[17\] holds nan for class 3; as in 1 of 64 rows"),
        ("cross_entropy", changed(X, (17, 3), np.inf), Y, {}, r"input\[17\] holds inf for class 3"),
        ("cross_entropy", changed(X, 17, -np.inf), Y, {}, r"input\[17\] is -inf throughout"),
        (
            "binary_cross_entropy_with_logits",
            changed(X, (17, 3), np.nan),
            YES,
            {},
            r"input\[17, 3\] is nan; as in 1 of",
        ),
        ("sigmoid_focal_loss", changed(X, (17, 3), np.nan), YES, {"reduction": "sum"}, r"inputs\[17, 3\] is nan"),
        ("mse_loss", changed(X, (17, 3), np.inf), X, {}, r"input\[17, 3\] is inf"),
        ("cross_entropy", changed(X.astype(np.float16), (1, 2), np.inf), Y, {}, "float16 ends at 65504"),
    ],
    "non-finite-target": [
        ("cross_entropy", X, changed(T, (5, 1), np.nan), {}, r"target\[5\] holds nan; as in 1 of 64"),
        ("mse_loss", X, changed(X, (5, 1), np.nan), {}, r"target\[5, 1\] holds nan"),
    ],
    "impossible-label": [
        ("cross_entropy", changed(X, (5, Y[5]), -np.inf), Y, {}, rf"input\[5\] is -inf for class {Y[5]}, the target"),
    ],
    "label-out-of-range": [("cross_entropy", X, Y + 1, {}, r"(?s)out of bounds.*1-based")],
    "label-in-compiled-code": [],  # tests/test_torch_operators.py
    "label-dtype": [],
    "one-hot-integers": [("cross_entropy", X, ONE_HOT.astype(int), {}, "Expected floating point type")],
    "float-labels": [
        ("cross_entropy", X, Y.astype(np.float32), {}, r"target\.long\(\)"),
    ],
    "shape-mismatch": [("cross_entropy", X, Y[:, None], {}, r"reshape\(\(64,\)\)")],
    "input-dtype": [("cross_entropy", Y[:, None] * np.ones((1, 3), int), Y, {}, "has dtype int64")],
    "swapped-arguments": [
        ("cross_entropy", Y, X, {}, "seem to be swapped"),
        ("binary_cross_entropy", YES.astype(int), P, {}, "seem to be swapped"),
    ],
    "refused": [("cross_entropy", X, Y, {"label_smoothing": 2.0}, "between 0.0 and 1.0")],
    "not-a-distribution": [
        ("cross_entropy", X, 2 * T, {}, r"target\[0\] .*as in"),
        ("cross_entropy", X, T - 0.5, {}, r"target\[0\] holds -0\.\d+"),
    ],
    "multi-hot-target": [("cross_entropy", X, np.maximum(ONE_HOT, YES), {}, r"marks \d classes")],
    "target-outside-unit": [
        ("binary_cross_entropy_with_logits", X, 255 * T, {}, "of 640 numbers are outside"),
        ("sigmoid_focal_loss", X, 1 - 2 * YES, {"reduction": "mean"}, "all of them -1"),
        ("binary_cross_entropy_with_logits", X, changed(YES, (0, 0), 1e10), {}, "all of them 1e.10"),
        ("binary_cross_entropy_with_logits", X, np.resize(np.arange(256.0, dtype=np.float32), X.shape), {}, "0 to 255"),
    ],
    "class-ids-in-binary-loss": [
        ("binary_cross_entropy_with_logits", X[:, 0], Y.astype(np.float32), {}, "0 to 9; .*without a gap"),
    ],
    "one-class": [("cross_entropy", X[:, :1], 0 * Y, {}, r"input has shape \[64, 1\]: one class in dimension 1")],
    "classes-last": [
        (
            "cross_entropy",
            X[:49, :7].reshape(7, 7, 7),
            Y[:49].reshape(7, 7) % 7,
            {},
            "dimension 1 holds the classes, as in PyTorch, or dimension 2",
        ),
    ],
    "broadcast": [
        (
            "mse_loss",
            X[:, :1],
            X[:, 0],
            {},
            r"input has shape \[64, 1\] and target \[64\]: 64 and 64 numbers make 4096",
        ),
        ("kl_div", np.log(P), T[0], {"reduction": "sum"}, "make 640 pairs"),
    ],
    "one-label": [("cross_entropy", X, 0 * Y, {}, "all 64 labels are 0")],
    "kl-of-probabilities": [("kl_div", P, T, {"reduction": "batchmean"}, "sum to 1")],
    "kl-of-scores": [("kl_div", X, T, {"reduction": "batchmean"}, "of 640 numbers are positive")],
    "kl-target-of-logs": [("kl_div", np.log(P), np.log(T), {"reduction": "batchmean"}, "target holds -")],
    "kl-log-target-of-probabilities": [
        ("kl_div", np.log(P), T, {"reduction": "batchmean", "log_target": True}, "log_target=True, and all"),
    ],
    "kl-not-normalised": [
        ("kl_div", np.log(P) - 1, T, {"reduction": "sum"}, r"exp\(input\) sums to 0\.3679"),
        ("kl_div", np.log(P), T / 2, {"reduction": "sum"}, "target sums to 0.5"),
    ],
    "kl-swapped": [("kl_div", P, np.log(T), {"reduction": "sum"}, "and the exponentials of those of target")],
    "kl-target-of-scores": [("kl_div", np.log(P), X, {"reduction": "sum"}, "target holds -")],
    "kl-mean": [("kl_div", np.log(P), T, {}, "expected 'batchmean'")],
    "class-weight-shape": [("cross_entropy", X, Y, {"weight": np.ones(9)}, r"must have shape \[10\]")],
    "elementwise-shape": [
        ("binary_cross_entropy_with_logits", X[:, :1], YES[:, 0], {}, r"target.reshape\(\(64, 1\)\)"),
        ("binary_cross_entropy", P, YES[:7], {}, "nothing is broadcast"),
    ],
    "integer-target": [
        ("binary_cross_entropy_with_logits", X, YES.astype(int), {}, "convert it to float32"),
        ("binary_cross_entropy", P, YES.astype(bool), {}, "convert it to float32"),
    ],
    "weight-shape": [
        ("binary_cross_entropy_with_logits", X, YES, {"weight": np.ones(64)}, "every row is `sample_weight`"),
        (
            *("binary_cross_entropy_with_logits", X.reshape(4, 10, 4, 4), YES.reshape(4, 10, 4, 4)),
            *({"pos_weight": np.ones(10)}, r"pos_weight\.reshape\(10, 1, 1\)"),
        ),
    ],
    "pos-weight-dimension": [
        (
            *("binary_cross_entropy_with_logits", X.reshape(4, 8, 20)[..., :8], YES.reshape(4, 8, 20)[..., :8]),
            *({"pos_weight": np.ones(8, np.float32)}, r"pos_weight has shape \[8\] and input \[4, 8, 8\]"),
        ),
    ],
    "negative-smoothing": [("cross_entropy", X, Y, {"label_smoothing": -0.1}, "label_smoothing is -0.1")],
    "logits-to-probabilities-loss": [
        ("binary_cross_entropy", X, YES, {}, r"binary_cross_entropy_with_logits"),
        ("sparse_categorical_cross_entropy", X, Y, {}, "from_logits=True"),
    ],
    "all-ignored": [
        ("cross_entropy", X, 0 * Y - 100, {}, "all 64 targets are -100"),
        ("nll_loss", np.log(P), 0 * Y + 3, {"ignore_index": 3}, "all 64 targets are 3"),
        ("cross_entropy", X[:0], Y[:0], {}, r"input has shape \[0, 10\]: no elements"),
    ],
}
CASES = [(name, *case) for name, cases in MISUSE.items() for case in cases]
IDS = [f"{name}-{i}" for name, cases in MISUSE.items() for i in range(len(cases))]
ORDER = {"error": 0, "warning": 1, "hint": 2}

FINE = {
    "scores": ("cross_entropy", X, Y, {}),
    "log-probabilities": ("cross_entropy", np.log(P), Y, {}),
    "masked scores": ("cross_entropy", changed(X, (slice(None), 0), -np.inf), np.maximum(Y, 1), {}),
    "soft targets": ("cross_entropy", X, T, {}),
    "some rows ignored": ("cross_entropy", X, changed(Y, slice(0, 63), -100), {}),
    "all rows ignored on purpose": ("cross_entropy", X, 0 * Y - 100, {"denominator": "batch"}),
    "ignored rows of NaN": ("cross_entropy", changed(X, 3, np.nan), changed(Y, 3, -100), {}),
    "zeros at the first step": ("cross_entropy", 0 * X, Y, {}),
    "a dimension that is given": ("cross_entropy", X[:49, :7].reshape(7, 7, 7), Y[:49].reshape(7, 7) % 7, {"dim": 1}),
    "log-likelihood": ("nll_loss", np.log(P), Y, {}),
    "yes or no": ("binary_cross_entropy_with_logits", X, YES, {}),
    "shares": ("binary_cross_entropy_with_logits", X, T, {}),
    "elements left out": ("binary_cross_entropy_with_logits", X, changed(YES, (0, 0), -1), {"ignore_index": -1}),
    "rectified scores": ("binary_cross_entropy_with_logits", np.maximum(X, 0), YES, {}),
    "probabilities": ("binary_cross_entropy", P, YES, {}),
    "one-hot": ("categorical_cross_entropy", P, ONE_HOT.astype(int), {}),
    "regression": ("mse_loss", X, X + 1, {}),
    "root": ("rmse_loss", X, X + 1, {}),
    "divergence": ("kl_div", np.log(P), T, {"reduction": "batchmean"}),
    "divergence of logs": ("kl_div", np.log(P), np.log(T), {"reduction": "batchmean", "log_target": True}),
    "statistics": ("row_statistics", X, Y, {}),
    "divergence of sequences": ("kl_div", np.log(P).reshape(8, 8, 10), T.reshape(8, 8, 10), {"reduction": "batchmean"}),
    "divergence of images": (
        *("kl_div", np.log(P).reshape(4, 16, 10).swapaxes(1, 2), T.reshape(4, 16, 10).swapaxes(1, 2)),
        {"reduction": "batchmean"},
    ),
    "divergence under a mask": (
        *("kl_div", changed(np.log(P), (slice(None), 3), -np.inf), changed(T, (slice(None), 3), 0.0) / 0.9 * 0.9),
        {"reduction": "sum"},
    ),
    "targets of half precision": ("cross_entropy", X, T.astype(BF16).astype(np.float32), {}),
    "targets of padding": ("cross_entropy", X, changed(T, slice(40, 64), 0.0), {}),
    "marks that a weight leaves out": (
        *("binary_cross_entropy_with_logits", X, changed(YES, (slice(None), 0), -1)),
        {"weight": changed(YES * 0 + 1, (slice(None), 0), 0)},
    ),
    "marks that a mask leaves out": (
        *("binary_cross_entropy_with_logits", X, changed(YES, (slice(None), 0), -1)),
        {"reduction": "none"},
    ),
    "probabilities under a mask": ("binary_cross_entropy", changed(P, slice(0, 60), 0.0), 0 * YES, {}),
}
HINTED = {"divergence under a mask", "zeros at the first step"}
"""Of which `diagnose` has something to say."""


def given(framework, *arrays, **options):
    if framework == "numpy":
        return arrays, options
    to = torch.from_numpy
    return [to(np.asarray(a)) for a in arrays], {
        k: to(v) if isinstance(v, np.ndarray) else v for k, v in options.items()
    }


@pytest.mark.parametrize("framework", ["torch", "numpy"])
@pytest.mark.parametrize(("name", "loss", "x", "t", "options", "evidence"), CASES, ids=IDS)
def test_misuse_is_diagnosed(framework, name, loss, x, t, options, evidence, path):
    (x, t), options = given(framework, x, t, **options)
    before = [np.array(x), np.array(t)]
    findings = lossless.diagnose(x, t, loss=partial(getattr(lossless, loss), **options))
    finding = next(f for f in findings if f.name == name)
    assert finding.severity == troubles()[name].level
    assert re.search(evidence, finding.evidence)
    assert finding.cause
    assert finding.fix
    assert "{" not in finding.fix
    assert [f.severity for f in findings] == sorted((f.severity for f in findings), key=ORDER.get)
    for a, b in zip((x, t), before, strict=True):
        np.testing.assert_array_equal(np.array(a), b)


@pytest.mark.parametrize("framework", ["torch", "numpy"])
@pytest.mark.parametrize(("name", "loss", "x", "t", "options", "evidence"), CASES, ids=IDS)
def test_misuse_is_warned_of(framework, name, loss, x, t, options, evidence):
    level = troubles()[name].level
    (x, t), options = given(framework, x, t, **options)

    def call():
        getattr(lossless, loss)(x, t, **options)

    if level == "error":
        with pytest.raises(LosslessError, match=evidence):
            call()
    elif name in ("broadcast", "kl-mean"):  # with PyTorch's words, at every call
        with pytest.warns(LosslessWarning, match=evidence):
            call()
    elif level == "warning" and name != "constant-input":
        with pytest.warns(MisuseWarning, match=f"(?s)^{loss}: .*Cause: .*Fix: .*#{name};"):
            call()
    else:
        assert name not in seen(call)


@pytest.mark.parametrize("framework", ["torch", "numpy"])
@pytest.mark.parametrize("name", FINE)
def test_nothing_is_said_of_what_is_fine(framework, name, path):
    loss, x, t, options = FINE[name]
    (x, t), options = given(framework, x, t, **options)

    def call():
        getattr(lossless, loss)(x, t, **options)

    for watch.level in ("cheap", "full"):
        for _ in range(3):
            assert not seen(call) or (watch.level == "full" and name in HINTED)
    if loss != "row_statistics" and name not in HINTED:
        assert lossless.diagnose(x, t, loss=partial(getattr(lossless, loss), **options)) == []


def test_every_trouble_is_tested_and_complete():
    of_calls = {t.name for t in troubles().values() if t.level != "answer" and "calls" in t.found_in}
    assert set(MISUSE) == of_calls | {"label-dtype"}
    for trouble in troubles().values():
        assert trouble.level in get_args(Level)
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", trouble.name)
        for text in (trouble.symptom, trouble.cause, trouble.fix):
            assert text.endswith((".", ")")), text
            text.format(function="f")


# ---------------------------------------------------------------- what made the input


def test_what_made_a_tensor_is_seen_through_views_and_casts():
    x, y, yes = torch.from_numpy(X).requires_grad_(), torch.from_numpy(Y), torch.from_numpy(YES)
    made = [
        torch.softmax(x, 1),
        F.softmax(x, dim=1).reshape(64, 10, 1).squeeze(2).double(),
        nn.Softmax(1)(x).t().t(),
        lossless.softmax(x),
        lossless.softmax(x, temperature=2.0),
        torch.sigmoid(x),
        lossless.sigmoid(x),
        torch.softmax(x, 1)[:, :7],
    ]
    for p in made:
        assert seen_first(lambda p=p: lossless.cross_entropy(p, y % 7)) == ["softmax-before-loss"]
    for p in (torch.sigmoid(x), lossless.sigmoid(x).view(640), torch.sigmoid(x.half()).float()):
        for loss in (lossless.binary_cross_entropy_with_logits, lossless.sigmoid_focal_loss):
            assert seen_first(lambda p=p, loss=loss: loss(p, yes.view_as(p))) == ["sigmoid-before-loss"]
    assert seen_first(lambda: lossless.nll_loss(x.softmax(1), y)) == ["probabilities-in-nll-loss"]
    assert seen_first(lambda: lossless.kl_div(x.softmax(1), yes, reduction="sum")) == ["kl-of-probabilities"]
    harmless = [torch.log_softmax(x, 1), lossless.log_softmax(x), 10 * torch.sigmoid(x), torch.softmax(x, 1).log(), x]
    for z in harmless:
        assert not seen_first(lambda z=z: lossless.cross_entropy(z, y))
        assert not seen_first(lambda z=z: lossless.binary_cross_entropy_with_logits(z, yes))


def parameter(*shape, value=1.0):
    return torch.full(shape, value, requires_grad=True)


def half(*shape):
    return parameter(*shape, value=300.0).half()


MADE = {
    "log of zero": (lambda: torch.log(torch.relu(parameter(64, 10, value=-1.0))) * 0, "Log, of numbers down to 0"),
    "division by zero": (lambda: parameter(64, 10) / (parameter(64, 1) - 1), "Div, by 64 zeros"),
    "root of a negative number": (lambda: (parameter(64, 10) - 3).sqrt(), "Sqrt, of 0 or of negative numbers"),
    "exponential": (lambda: (1e3 * parameter(64, 10)).exp(), "Exp, whose result is more than float32 holds"),
    "weights": (lambda: torch.ones(64, 3) @ parameter(3, 10, value=torch.nan), r"a leaf of shape \[3, 10\] holds NaN"),
    "data": (lambda: torch.full((64, 3), torch.inf) @ parameter(3, 10), "what Mm is given .* holds infinities"),
    "product": (lambda: (half(64, 10) * half(64, 10)).float(), "Mul, of numbers up to 300 and 300: more than float16"),
    "matrix product": (
        lambda: (half(64, 3) @ half(3, 10)).float(),
        "Mm, of numbers up to 300 and 300: more than float16",
    ),
    "a power that is fine": (
        lambda: (parameter(64, 10, value=-2.0).pow(2) * 1e3).exp() * 0,
        "Exp, whose result is more than float32 holds",
    ),
    "a power": (lambda: (parameter(64, 10) - 2).pow(0.5), "Pow, of numbers from -1 to -1 to the power of 0.5"),
    "attention to nothing": (
        lambda: torch.softmax(parameter(64, 10) - torch.inf, 1) @ parameter(10, 10),
        "Softmax, of a row of nothing but -inf",
    ),
}


@pytest.mark.parametrize("name", MADE)
def test_a_nan_is_traced_to_what_made_it(name):
    make, evidence = MADE[name]
    x = make()
    assert not x.isfinite().all()
    y = torch.from_numpy(Y)
    (finding,) = [f for f in lossless.diagnose(x, y, loss="cross_entropy") if f.name == "non-finite-input"]
    assert re.search(f"What made it: (no operation: )?{evidence}", finding.evidence), finding.evidence
    x.sum().backward()  # what was saved for it is still there
    assert "What made it" not in str(lossless.diagnose(x, y, loss="cross_entropy")) or "leaf" in evidence


def test_a_graph_is_walked_without_recursion():
    x = parameter(64, 10)
    for _ in range(5000):  # deeper than Python recurses
        x = x + 1
    assert names(lossless.diagnose(x * torch.nan, torch.from_numpy(Y))) == ["non-finite-input"]


def test_what_a_graph_does_not_show_is_not_guessed():
    for make in (lambda x: torch.acos(x + 1), lambda x: torch.cumsum(x * 1e38, 0).cumsum(0)):
        (finding,) = lossless.diagnose(make(parameter(64, 10)), torch.from_numpy(Y), loss="cross_entropy")
        assert "weights" not in finding.evidence


def test_sparse_graphs():
    z = torch.sparse.mm(torch.eye(64).to_sparse(), torch.randn(64, 5) @ parameter(5, 3)) / 0
    assert seen(lambda: lossless.cross_entropy(z, torch.from_numpy(Y % 3))) == ["non-finite-input"]
    assert "Div" not in str(lossless.diagnose(z, torch.from_numpy(Y % 3)))  # by a number, which is not saved


# ---------------------------------------------------------------- saved tensors are their owner's


def test_saved_tensors_that_hooks_guard_are_left_alone():
    store, y = {}, torch.from_numpy(Y)

    def pack(t):
        store[len(store)] = t
        return len(store) - 1

    with torch.autograd.graph.saved_tensors_hooks(pack, store.pop):  # each can be had once
        x = torch.log(torch.relu(parameter(64, 10) - 2)) * parameter(64, 10)
        loss = lossless.cross_entropy(x, y)
    assert names(lossless.diagnose(x, y)) == ["non-finite-input"]
    loss.backward()


def test_checkpoints_are_not_run_again():
    runs = []

    def model(x):
        runs.append(1)
        return torch.log(torch.relu(x - 2)) * 2

    x, y = torch.utils.checkpoint.checkpoint(model, parameter(64, 10), use_reentrant=False), torch.from_numpy(Y)
    loss = lossless.cross_entropy(x, y)
    lossless.diagnose(x, y)
    assert len(runs) == 1
    loss.backward()
    assert len(runs) == 2


class Log(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.operations = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.operations.append(func)
        return func(*args, **(kwargs or {}))


def test_modes_see_no_other_operations():
    x, y = torch.from_numpy(P), torch.from_numpy(Y)
    logs = []
    for watch.level in ("off", "cheap", "full"):
        with Log() as log:
            lossless.cross_entropy(x, y)
        logs.append(log.operations)
    assert logs[0] == logs[1] == logs[2]
    with FunctionalTensorMode():
        assert not seen(lambda: lossless.cross_entropy(x, y))


def test_all_rows_at_once_blame_the_model():
    (finding,) = lossless.diagnose(X * np.nan, Y)
    assert "weights of the model" in finding.evidence


@pytest.mark.skipif(_kernels.native is None, reason="kernels tell at once that a loss is not finite")
@pytest.mark.parametrize("framework", ["torch", "numpy"])
def test_a_lone_nan_is_found_whenever_it_comes(framework):
    (x, bad, y), _ = given(framework, np.tile(X, (20, 1)), np.tile(X, (20, 1)), np.tile(Y, 20))
    bad[1234, 5] = np.nan

    def call(x):
        return seen(lambda: lossless.cross_entropy(x, y))

    assert not any(call(x) for _ in range(50))
    with pytest.warns(MisuseWarning, match=r"input\[1234\] holds nan for class 5; as in 1 of 1280 rows"):
        lossless.cross_entropy(bad, y)


# ---------------------------------------------------------------- when


def test_once_for_each_line():
    def one():
        return lossless.cross_entropy(P * np.float32(RNG.uniform(0.9999, 1.0001)), Y)

    def other():
        return lossless.cross_entropy(P, Y)

    assert [seen(one) for _ in range(10)] == [["softmax-before-loss"]] + 9 * [[]]
    assert [seen(other) for _ in range(10)] == [["softmax-before-loss"]] + 9 * [[]]


def test_lines_that_share_a_function_take_turns():
    """A module calls for many lines; what is wrong with one of three is seen, sooner or later."""
    x = torch.from_numpy(X)
    y, step = torch.from_numpy(Y), iter(range(10**6))
    scores = [x, torch.from_numpy(P)]

    def criterion(x):
        return lossless.cross_entropy(x, y)

    for _ in range(50):
        assert not seen(lambda: criterion(x))
    assert any(seen(lambda: criterion(scores[next(step) % 2])) for _ in range(10**5))


def test_cells_of_a_notebook_are_lines_of_their_own():
    """Their code is thrown away, and its address used again."""

    def run(cell, x):
        exec(
            compile("cross_entropy(x, y)", f"<cell {cell}>", "exec"),
            {"cross_entropy": lossless.cross_entropy, "x": x, "y": Y},
        )

    for _ in range(300):
        assert not seen(lambda: run(1, X))
    for cell in range(2, 52):
        assert seen(lambda cell=cell: run(cell, P)) == ["softmax-before-loss"]


def test_modules_are_told_apart_by_the_line_that_calls():
    x, y, p = torch.from_numpy(X), torch.from_numpy(Y), torch.from_numpy(P)
    criterion, other = nn.CrossEntropyLoss(), nn.CrossEntropyLoss()
    for _ in range(1000):
        nn.MSELoss()(x, x)
        criterion(x, y)
    assert seen(lambda: other(p, y)) == ["softmax-before-loss"]


def test_sequences_of_another_length_show_where_the_classes_are():
    def tag(length):
        x = X.reshape(-1)[: 2 * 7 * length].reshape(2, 7, length)
        return seen(lambda: lossless.cross_entropy(x, Y[: 2 * length].reshape(2, length) % 7))

    def tag_ambiguous():
        return tag(7)

    assert tag_ambiguous() == ["classes-last"]
    watch.forget()
    assert not tag(5)
    assert not tag(7)


def test_a_script_keeps_its_random_numbers():
    random.seed(5)
    expected = [random.random() for _ in range(3)]
    random.seed(5)
    drawn = []
    for _ in range(3):
        for _ in range(50):
            lossless.cross_entropy(X, Y)
        drawn.append(random.random())
    assert drawn == expected


def test_deep_in_a_stack():
    def deep(n):
        return deep(n - 1) if n else lossless.cross_entropy(torch.from_numpy(X) * torch.nan, torch.from_numpy(Y))

    room = sys.getrecursionlimit() - len(inspect.stack()) - 80
    assert seen(lambda: deep(room)) == ["non-finite-input"]


def test_looks_grow_rare(monkeypatch):
    looks, count = [], 0
    monkeypatch.setattr("lossless.losses.look", lambda *a, **k: looks.append(count))
    for count in range(1, 2001):  # noqa: B007 - the lambda reads it
        lossless.cross_entropy(X, Y)
    assert looks[:4] == [1, 2, 3, 4]
    assert 8 <= len(looks) <= 16
    assert all(b > 1.9 * a for a, b in pairwise(looks[3:]))


def test_a_constant_output_is_warned_of_once_training_has_changed_it():
    def step(x):
        return seen(lambda: lossless.cross_entropy(x, Y))

    flat = np.tile(X[:1], (64, 1))
    assert not any(step(0 * X) for _ in range(300))  # accumulation, or evaluation, before the first step
    assert not any(step(flat) for _ in range(3))
    watch.forget()
    assert not step(flat)
    assert step(flat + RNG.normal(size=10).astype(np.float32)) == ["constant-input"]


def test_a_mistake_of_a_rule_does_not_end_a_training_run(monkeypatch):
    monkeypatch.setattr(watch, "examine", lambda case: 1 / 0)
    with pytest.warns(LosslessWarning, match=r"the search for misuse failed, the loss did not: ZeroDivisionError"):
        assert lossless.cross_entropy(X, Y) > 0


def test_levels():
    watch.level = "off"
    assert not seen(lambda: lossless.cross_entropy(P, Y))
    assert not seen(lambda: lossless.cross_entropy(X * np.nan, Y))
    assert names(lossless.diagnose(P, Y)) == ["softmax-before-loss"]  # who asks is answered
    watch.level = "full"
    rare = np.concatenate([np.tile(X, (50, 1)), X[:1]])
    rare[3001] = np.nan
    y = np.concatenate([np.tile(Y, 50), Y[:1]])
    assert seen(lambda: lossless.row_statistics(rare, y)) == ["non-finite-input"]
    assert seen(lambda: lossless.nll_loss(X, Y)) == ["scores-in-nll-loss"]  # a hint


def test_the_level_is_read_from_the_environment():
    code = "import lossless, numpy as np; lossless.cross_entropy(np.full((4, 2), 0.5), np.zeros(4, int)); print(1)"
    for level, told in (("cheap", True), ("full", True), ("off", False)):
        run = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "LOSSLESS_CHECKS": level}, capture_output=True, text=True
        )
        assert run.stdout == "1\n"
        assert ("MisuseWarning" in run.stderr) == told
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "LOSSLESS_CHECKS": "some"}, capture_output=True, text=True
    )
    assert "LOSSLESS_CHECKS is 'some', expected 'off', 'cheap' or 'full'" in run.stderr


def test_the_line_that_is_named_is_the_callers():
    x, y = torch.from_numpy(P), torch.from_numpy(Y)
    calls = [
        lambda: lossless.cross_entropy(x, y),
        lambda: nn.CrossEntropyLoss()(x, y),
        lambda: lossless.value_and_grad(lossless.cross_entropy)(P, Y),
    ]
    for call in calls:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        assert [(w.filename, w.lineno) for w in caught] == [(__file__, call.__code__.co_firstlineno)]
    with warnings.catch_warnings(record=True) as caught, lossless.patch_torch():
        warnings.simplefilter("always")
        torch.nn.CrossEntropyLoss()(x, y)
    assert [w.filename for w in caught] == [__file__]


def test_an_error_of_the_filter_is_raised_once():
    def call():
        return lossless.cross_entropy(P, Y)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(MisuseWarning):
            call()
        assert call() == pytest.approx(F.cross_entropy(torch.from_numpy(P), torch.from_numpy(Y)).item())


# ---------------------------------------------------------------- transforms, compilers, devices


def test_transforms_see_shapes_alone():
    p, y = torch.from_numpy(P), torch.from_numpy(Y)
    batched = torch.func.vmap(lambda x, y: lossless.cross_entropy(x, y))
    assert not seen_first(lambda: batched(p.view(8, 8, 10), y.view(8, 8)))
    assert not seen_first(lambda: torch.func.grad(lambda x: lossless.cross_entropy(x, y))(p))
    assert seen_first(lambda: batched(p.view(8, 8, 10)[..., :1], 0 * y.view(8, 8))) == ["one-class"]
    assert not seen_first(lambda: torch.func.jvp(lambda x: lossless.cross_entropy(x, y), (p,), (p,)))


def test_compilers_hear_nothing():
    p, y = torch.from_numpy(P), torch.from_numpy(Y)
    compiled = torch.compile(lambda x, y: lossless.cross_entropy(x, y), backend="eager", fullgraph=True)
    assert not seen_first(lambda: compiled(p, y))
    assert not seen_first(lambda: compiled(p[:, :1], 0 * y))

    class Loss(torch.nn.Module):
        def forward(self, x, y):
            return lossless.cross_entropy(x, y)

    assert not seen_first(lambda: torch.export.export(Loss(), (p, y)))


def test_tensors_without_numbers_show_their_shape():
    x, y = torch.zeros(64, 1, device="meta"), torch.zeros(64, dtype=torch.long, device="meta")
    assert seen_first(lambda: lossless.cross_entropy(x, y)) == ["one-class"]
    assert names(lossless.diagnose(x, y, loss="cross_entropy")) == ["one-class"]


@pytest.mark.filterwarnings("ignore:size_average", "ignore:reduction")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_pytorchs_own_samples_are_called_fine(dtype, path):
    ours = {*lossless.diagnosis.MODULES.values()}
    alarms, count = [], 0
    for op in op_db:
        name = op.name.removeprefix("nn.functional.")
        if name not in ours or dtype not in op.supported_dtypes("cpu"):
            continue
        for sample in op.sample_inputs("cpu", dtype, requires_grad=False):
            count += 1
            call = partial(getattr(lossless, name), sample.input, *sample.args, **sample.kwargs)
            alarms += [(name, a) for a in seen_first(call)]
    for info in module_db:
        name = info.name.removeprefix("nn.")
        if name not in lossless.diagnosis.MODULES:
            continue
        for given in info.module_inputs_func(info, "cpu", dtype, False, True):
            a, b = given.constructor_input, given.forward_input
            if name == "KLDivLoss" and any(t.isnan().any() for t in b.args):  # logarithms of negative numbers
                continue
            count += 1
            alarms += [
                (name, x) for x in seen_first(lambda a=a, b=b, n=name: getattr(nn, n)(*a.args, **a.kwargs)(*b.args))
            ]
    assert count > 250
    assert alarms == []


# ---------------------------------------------------------------- diagnose


def test_a_loss_has_many_names():
    x, y = torch.from_numpy(P), torch.from_numpy(Y)
    for loss in (
        *("cross_entropy", "CrossEntropyLoss", F.cross_entropy, lossless.cross_entropy, torch.nn.CrossEntropyLoss),
        *(torch.nn.CrossEntropyLoss(), nn.CrossEntropyLoss(), partial(F.cross_entropy, label_smoothing=0.1), None),
    ):
        assert names(lossless.diagnose(x, y, loss=loss)) == ["softmax-before-loss"]
    for loss in (torch.nn.CrossEntropyLoss(ignore_index=3), partial(partial(F.cross_entropy, ignore_index=3))):
        assert names(lossless.diagnose(torch.from_numpy(X), y * 0 + 3, loss=loss)) == ["all-ignored"]

    class Mine(torch.nn.BCEWithLogitsLoss):
        pass

    findings = lossless.diagnose(torch.from_numpy(X), torch.from_numpy(255 * T), loss=Mine(pos_weight=torch.ones(10)))
    assert names(findings) == ["target-outside-unit"]
    for loss in ("hinge", torch.nn.L1Loss(), print, 3, partial(F.cross_entropy, x)):
        with pytest.raises(ParameterError, match="diagnose: loss "):
            lossless.diagnose(x, y, loss=loss)


GUESSES = [
    (X, Y, "cross_entropy"),
    (X, Y.astype(np.float32), "cross_entropy"),
    (X, Y[:, None], "cross_entropy"),
    (X, T, "cross_entropy"),
    (X, ONE_HOT.astype(int), "cross_entropy"),
    (P, ONE_HOT.astype(int), "categorical_cross_entropy"),
    (X, YES, "binary_cross_entropy_with_logits"),
    (P, YES, "binary_cross_entropy"),
    (X[:, 0], YES[:, 0], "binary_cross_entropy_with_logits"),
    (X[:, 0], X[:, 1], "mse_loss"),
    (X[:, :1], X[:, 1], "mse_loss"),
    (X, None, "row_statistics"),
    (Y, X, "cross_entropy"),
    (X.reshape(8, 8, 10), Y.reshape(8, 8), "cross_entropy"),
    (X[:0], Y[:0], "cross_entropy"),
    (np.float32(1.0), np.float32(0.0), "binary_cross_entropy_with_logits"),
]


@pytest.mark.parametrize(("x", "t", "loss"), GUESSES)
def test_a_guess_by_the_target(x, t, loss):
    assert repr(lossless.diagnose(x, t)).startswith(f"as {loss} (a guess), input ")


def test_what_the_rules_see_of_a_call_that_is_refused():
    assert names(lossless.diagnose(P, Y + 1)) == ["label-out-of-range", "softmax-before-loss"]
    yes = torch.from_numpy(Y % 2)
    assert names(lossless.diagnose(torch.from_numpy(X[:, :1]), yes)) == ["label-out-of-range", "one-class"]
    assert names(lossless.diagnose(X * np.nan, Y[:3], loss="cross_entropy")) == ["shape-mismatch", "non-finite-input"]


def test_other_errors_are_findings_too():
    mixed = lossless.diagnose(
        torch.from_numpy(X), torch.zeros(64, dtype=torch.long, device="meta"), loss="cross_entropy"
    )
    assert [(f.name, f.severity) for f in mixed] == [("refused", "error")]
    refused = lossless.diagnose(P, 2 * T - 1, loss="binary_cross_entropy")
    assert [(f.name, f.severity) for f in refused] == [("target-outside-unit", "error")]


def test_losses_of_other_libraries_are_not_taken_for_ours():
    class FocalLoss(torch.nn.Module):  # with a sigmoid, say
        pass

    FocalLoss.__module__ = "monai.losses"
    with pytest.raises(ParameterError, match="expected None or a loss of this library"):
        lossless.diagnose(X, Y, loss=FocalLoss())


def test_a_mix_of_frameworks_is_a_finding():
    (finding,) = lossless.diagnose(torch.from_numpy(X), Y)
    assert (finding.name, finding.severity) == ("refused", "error")
    assert "numpy.ndarray" in finding.evidence
    with pytest.raises(TypeError, match="input is None"):
        lossless.diagnose(None)


def test_findings_read_well():
    findings = lossless.diagnose(X, Y + 1)
    assert isinstance(findings, list)
    assert repr(findings).startswith(
        "as cross_entropy (a guess), input [64, 10] and target [64]\n\nerror: label-out-of-range\n"
    )
    assert "  fix:   Labels count from 0" in str(findings[0])
    page = findings._repr_html_()
    assert page.count("<tr>") == 2
    assert "Labels count from 0" in page
    hostile = lossless.diagnose(X, Y, loss=partial(lossless.cross_entropy, reduction="<script>"))
    assert "<script>" not in hostile._repr_html_()
    assert "Nothing found, which is no proof" in repr(lossless.diagnose(X, Y))
    assert "Nothing found, which is no proof" in lossless.diagnose(X, Y)._repr_html_()


def test_asking_leaves_no_trace():
    x = torch.from_numpy(X).requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        p = x.softmax(1)
        p.retain_grad()
        lossless.diagnose(p, torch.from_numpy(Y))
        lossless.diagnose(np.log(P), T, loss="kl_div")
    p.sum().backward()
    assert torch.equal(p.grad, torch.ones_like(p))
    assert seen(lambda: lossless.cross_entropy(x.softmax(1), torch.from_numpy(Y))) == ["softmax-before-loss"]


# ---------------------------------------------------------------- false alarms and silence, by chance


@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_random_scores_raise_no_alarm(classes):
    watch.level = "cheap"
    rng = np.random.default_rng(classes)
    for _ in range(200 if classes < 1000 else 20):
        watch.forget()
        x = rng.normal(size=(32, classes)).astype(np.float32)
        y = rng.integers(0, classes, 32)
        for scores in (x, np.maximum(x, 0), x / 10, np.abs(x)):
            assert not seen(lambda scores=scores, y=y: lossless.cross_entropy(scores, y))
            yes = rng.random((32, classes))
            assert not seen(lambda scores=scores, yes=yes: lossless.binary_cross_entropy_with_logits(scores, yes))


# ---------------------------------------------------------------- the page


def test_the_page_is_made_of_the_table():
    assert (ROOT / "docs" / "troubleshooting.md").read_text() == render()


def test_every_issue_has_a_test_named_after_it():
    """One issue of each trouble that names some, at least, is the name of a test."""
    tests = set()
    for path in ROOT.glob("tests/test_*.py"):
        tests |= {n.name for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.FunctionDef)}
    stems = {re.sub(r"\W", "_", issue).lower() for trouble in troubles().values() for issue in trouble.issues}
    named = {stem for stem in stems if any(test.startswith(f"test_{stem}_") for test in tests)}
    for trouble in troubles().values():
        if trouble.issues:
            assert named & {re.sub(r"\W", "_", issue).lower() for issue in trouble.issues}, trouble.name
