"""What is promised (`bounds.toml`), and whether a result keeps it."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lossless import _kernels

from .oracle import Truth
from .ulp import errors

BOUNDS: dict[str, Any] = tomllib.loads((Path(__file__).parent / "bounds.toml").read_text())


class Verdict(NamedTuple):
    """The worst error of normal results in ulp, that of tiny ones in smallest denormals, and what is over its bound."""

    normal: float
    tiny: float
    complaint: str


def judge(function: str, quantity: str, dtype: str, computed: np.ndarray, truth: Truth) -> Verdict:
    """Hold results against the truth and the promise; no complaint where all are within bounds."""
    promise = BOUNDS[function][quantity]
    unit = truth.unit if promise.get("unit") == "larger term" else None
    found = errors(computed, truth.value, dtype, unit)
    normal, tiny = found.worst()
    bound = promise[dtype]
    if _kernels.native is None:
        bound = max(bound, BOUNDS["without_kernels"].get(quantity, {}).get(dtype, 0.0))
    least = BOUNDS["tiny"].get(function, {}).get(quantity, {}).get(dtype, BOUNDS["tiny"]["every"])
    limit = np.where(found.tiny, np.maximum(least, 0.5 + bound * found.share), bound)
    if np.all(found.ulp <= limit):
        return Verdict(normal, tiny, "")
    excess = np.where(np.isnan(found.ulp), np.inf, found.ulp / limit)
    where = np.unravel_index(int(np.argmax(excess)), excess.shape)
    unit_name = promise.get("unit", "result")
    if unit is not None:
        unit_name = f"{unit_name} {float(unit.to_float64()[where])!r}"
    return Verdict(
        normal,
        tiny,
        f"{function}.{quantity} {dtype} at {tuple(map(int, where))}: computed {float(computed[where])!r}, "
        f"true {float(truth.value.to_float64()[where])!r}, {float(found.ulp[where]):.6g} ulp of the {unit_name}, "
        f"bound {float(limit[where])}; {int(np.sum(~(found.ulp <= limit)))} of {limit.size} over",
    )
