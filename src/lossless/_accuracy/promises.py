"""What is promised (`bounds.toml`), and whether a result keeps it."""

from __future__ import annotations

import tomllib
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lossless import _kernels

from .oracle import Truth
from .ulp import errors

_FILE: dict[str, Any] = tomllib.loads((Path(__file__).parent / "bounds.toml").read_text())
GENERAL, WITHOUT_KERNELS, LAWS = (_FILE.pop(name) for name in ("general", "without_kernels", "laws"))
FUNCTIONS: dict[str, dict[str, dict[str, Any]]] = _FILE


class Promise(NamedTuple):
    """At most so many ulp, of the larger of two terms or of the result; of tiny results, so many smallest denormals."""

    ulp: float
    tiny: float
    of_larger_term: bool


def promise(function: str, quantity: str, dtype: str) -> Promise:
    """The promise for one quantity of a function ("value", "gradient", ...) in a format, on the path in use."""
    entry = FUNCTIONS[function][quantity]
    half = dtype in ("float16", "bfloat16")
    bound = entry.get(dtype, GENERAL["half"] if half else entry.get("ulp", GENERAL["ulp"]))
    if _kernels.native is None:
        bound = max(bound, WITHOUT_KERNELS.get(quantity, {}).get(dtype, 0.0))
    tiny = bound if half else entry.get(dtype + "_tiny", GENERAL["tiny"])
    return Promise(bound, tiny, entry.get("unit") == "larger term")


def exceptions(measured: Container[tuple[str, str]] | None = None) -> Iterator[tuple[str, str, str]]:
    """What promises less than the general bounds, of what was measured: function and quantity, bounds, reason."""
    for function, quantities in {**FUNCTIONS, "without kernels": WITHOUT_KERNELS}.items():
        for quantity, entry in quantities.items():
            if "why" in entry and (measured is None or function not in FUNCTIONS or (function, quantity) in measured):
                bounds = (f"{key.replace('_tiny', ' denormals')} {v:g}" for key, v in entry.items() if "float" in key)
                yield f"{function} {quantity}", ", ".join(bounds), entry["why"]


class Verdict(NamedTuple):
    """The worst error of normal results in ulp, that of tiny ones in smallest denormals, and what is over its bound."""

    normal: float
    tiny: float
    complaint: str


def judge(function: str, quantity: str, dtype: str, computed: np.ndarray, truth: Truth) -> Verdict:
    """Hold results against the truth and the promise; no complaint where all are within bounds."""
    bound, tiny, of_larger_term = promise(function, quantity, dtype)
    unit = truth.unit if of_larger_term else None
    found = errors(computed, truth.value, dtype, unit)
    # What has `bound` ulp of error just above the smallest normal number has as many smallest denormals just below, and
    # half of one for the rounding; a half-precision bound is that rounding already.
    spread = bound * found.share if bound > 1.0 else 0.0
    limit = np.where(found.tiny, np.maximum(tiny, 0.5 + spread), bound)
    if np.all(found.ulp <= limit):
        return Verdict(*found.worst(), "")
    excess = np.where(np.isnan(found.ulp), np.inf, found.ulp / limit)
    where = np.unravel_index(int(np.argmax(excess)), excess.shape)
    unit_name = "result" if unit is None else f"larger term {float(unit.to_float64()[where])!r}"
    return Verdict(
        *found.worst(),
        f"{function}.{quantity} {dtype} at {tuple(map(int, where))}: computed {float(computed[where])!r}, "
        f"true {float(truth.value.to_float64()[where])!r}, {float(found.ulp[where]):.6g} ulp of the {unit_name}, "
        f"bound {float(limit[where])}; {int(np.sum(~(found.ulp <= limit)))} of {limit.size} over",
    )
