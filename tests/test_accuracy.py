"""Every value of every function, in every regime, in NumPy and torch, in ulp of the oracle's truth."""

from __future__ import annotations

import pytest

from lossless._accuracy import regimes
from lossless._accuracy.libraries import OURS, View
from lossless._accuracy.problems import cases, problem, run_values, true_values
from lossless._accuracy.promises import BOUNDS, judge

CASES = [pytest.param(name, dtype, id=f"{dtype}/{name}") for dtype in regimes.DTYPES for name in cases(dtype)]

# The rows of a batch, laid out with the classes in the middle: the kernels reach them with a stride there.
MIDDLE_REGIMES = ("typical-100", "wide-100", "gap-20", "mixed", "offset-1e4", "masked-half", "near-uniform-1e-3")
MIDDLE_FUNCTIONS = ("softmax", "log_softmax", "logsumexp", "nll_of_log_softmax", "cross_entropy", "row_statistics")


def has_middle_layout(name: str) -> bool:
    function, variant, regime = name.split("/")
    chosen = regime in MIDDLE_REGIMES or regime.startswith("size-")
    return chosen and (function in MIDDLE_FUNCTIONS or name.startswith("entropy/logits/")) and "mean" not in variant


MIDDLE = [case for case in CASES if has_middle_layout(case.values[0]) and problem(*case.values).x.shape[0] % 2 == 0]


def check_values(name: str, dtype: str, view: View) -> None:
    found = run_values(name, dtype, view)
    truth = true_values(name, dtype)
    complaints = [judge(problem(name, dtype).function, q, dtype, found[q], truth[q])[2] for q in truth]
    assert not any(complaints), "\n".join(filter(None, complaints))


@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_values(name, dtype, framework):
    check_values(name, dtype, View(OURS[framework]))


@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize(("name", "dtype"), MIDDLE)
def test_values_with_the_classes_in_the_middle(name, dtype, framework):
    check_values(name, dtype, View(OURS[framework], middle=True))


def test_every_promise_is_tested():
    tested = {name.split("/")[0] for name in cases("float32")}
    assert tested == set(BOUNDS) - {"tiny", "laws", "without_kernels"}
    for function in tested:
        for quantity, promise in BOUNDS[function].items():
            assert set(regimes.DTYPES) <= set(promise), f"{function}.{quantity} lacks a format"
