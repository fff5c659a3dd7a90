"""Every value of every function, in every regime, in NumPy and torch, in ulp of the oracle's truth."""

from __future__ import annotations

import pytest

from lossless._accuracy import regimes
from lossless._accuracy.libraries import OURS, View
from lossless._accuracy.problems import cases, problem, run_values, true_values
from lossless._accuracy.promises import FUNCTIONS, GENERAL, judge
from ratchet import hold

CASES = [pytest.param(name, dtype, id=f"{dtype}/{name}") for dtype in regimes.DTYPES for name in cases(dtype)]

# The rows of a batch, laid out with the classes in the middle: the kernels reach them with a stride there.
MIDDLE_REGIMES = ("typical-100", "wide-100", "gap-20", "mixed", "offset-1e4", "masked-half", "near-uniform-1e-3")
MIDDLE_FUNCTIONS = (
    "softmax",
    "log_softmax",
    "logsumexp",
    "nll_of_log_softmax",
    "cross_entropy",
    "cross_entropy_smoothed",
    "row_statistics",
)


def has_middle_layout(name: str) -> bool:
    function, variant, regime = name.split("/")
    chosen = regime in MIDDLE_REGIMES or regime.startswith("size-")
    return chosen and (function in MIDDLE_FUNCTIONS or name.startswith("entropy/logits/")) and "mean" not in variant


MIDDLE = [case for case in CASES if has_middle_layout(case.values[0]) and problem(*case.values).x.shape[0] % 2 == 0]


def check_values(name: str, dtype: str, view: View) -> None:
    found = run_values(name, dtype, view)
    truth = true_values(name, dtype)
    for quantity, value in found.items():
        hold(name, dtype, quantity, judge(problem(name, dtype).function, quantity, dtype, value, truth[quantity]))


@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_values(name, dtype, framework):
    check_values(name, dtype, View(OURS[framework]))


@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize(("name", "dtype"), MIDDLE)
def test_values_with_the_classes_in_the_middle(name, dtype, framework):
    check_values(name, dtype, View(OURS[framework], middle=True))


def test_every_promise_is_tested():
    assert {name.split("/")[0] for name in cases("float32")} == set(FUNCTIONS)


PRODUCTS = {"focal_loss", "focal_loss_gamma_5", "sigmoid_focal_loss", "kl_divergence", "js_divergence"}


def test_a_promise_that_is_less_than_the_general_one_has_a_reason():
    for function, quantities in FUNCTIONS.items():
        for quantity, entry in quantities.items():
            assert set(entry) <= {"ulp", "float32", "float64", "float64_tiny", "unit", "why"}
            assert entry.get("ulp", 4.0) == (GENERAL["products"] if function in PRODUCTS else GENERAL["ulp"])
            less = set(entry) & {"float32", "float64", "float64_tiny"}
            assert bool(less) == ("why" in entry), f"{function}.{quantity}"
