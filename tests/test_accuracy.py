"""Every value of every function, in every regime, in NumPy and torch, in ulp of the oracle's truth."""

from __future__ import annotations

import pytest

import regimes
from subjects import BOUNDS, View, cases, forget, judge, problem, run_gradient, run_values, true_gradient, true_values

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
    check_values(name, dtype, View(torch=framework == "torch"))


@pytest.mark.parametrize("framework", ["numpy", "torch"])
@pytest.mark.parametrize(("name", "dtype"), MIDDLE)
def test_values_with_the_classes_in_the_middle(name, dtype, framework):
    check_values(name, dtype, View(torch=framework == "torch", middle=True))


@pytest.mark.slow  # a minute each
@pytest.mark.parametrize("seed", range(1, 11))
def test_fresh_numbers(seed, monkeypatch):
    """Every value and gradient once more, on numbers that nobody has looked at."""
    monkeypatch.setattr(regimes, "SEED", seed)
    forget()
    complaints = []
    for name, dtype in (case.values for case in CASES):
        case, view = problem(name, dtype), View(torch=True)
        for quantity, found in run_values(name, dtype, view).items():
            complaints.append(judge(case.function, quantity, dtype, found, true_values(name, dtype)[quantity])[2])
        if case.gradient is not None:
            truth = true_gradient(name, dtype)
            complaints.append(
                judge(case.function, case.gradient_name, dtype, run_gradient(name, dtype, view), truth)[2]
            )
    forget()
    assert not any(complaints), "\n".join(filter(None, complaints))


def test_every_promise_is_tested():
    tested = {name.split("/")[0] for name in cases("float32")}
    assert tested == set(BOUNDS) - {"tiny", "laws", "without_kernels"}
    for function in tested:
        for quantity, promise in BOUNDS[function].items():
            assert set(regimes.DTYPES) <= set(promise), f"{function}.{quantity} lacks a format"
