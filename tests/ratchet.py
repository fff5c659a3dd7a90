"""What a result of the shipped problems is held to: the promise, and 1.25 times the largest error on record.

`recorded.toml` has the largest error in ulp for each function, quantity, format and kind of regime, on the kernels.
`make record` writes what the tests find; a number that grew needs a reason in CHANGELOG. The kernels give the same bits
everywhere (`hashes.toml`). What float64 results on the reference path are made of (exp, log) rounds otherwise on
another machine, and the worst meets another regime: the gradient of `perplexity` is off by 2.8 ulp on an AMD EPYC where
an Intel Xeon has 1.7, and 3.1 elsewhere. Half an ulp is left for that, and the largest of all regimes.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from lossless import _kernels
from lossless._accuracy.problems import problem
from lossless._accuracy.promises import Verdict

FILE = Path(__file__).parent / "recorded.toml"
RECORDED: dict[str, dict[str, float]] = tomllib.loads(FILE.read_text()) if FILE.exists() else {}
RECORDING = bool(os.environ.get("LOSSLESS_RECORD"))
RATCHET = 1.25
if RECORDING and "PYTEST_XDIST_WORKER" in os.environ:
    raise RuntimeError("records are made by one process (`make record`): each of several knows a part of the errors")
found: dict[str, dict[str, float]] = {}


def hold(name: str, dtype: str, quantity: str, verdict: Verdict) -> None:
    """Fail where a result breaks the promise, or is clearly worse than on record."""
    assert not verdict.complaint, verdict.complaint
    key, kind = f"{problem(name, dtype).function}.{quantity}.{dtype}", name.rsplit("/", 1)[1].partition("-")[0]
    if RECORDING:
        kinds = found.setdefault(key, {})
        kinds[kind] = max(verdict.normal, kinds.get(kind, 0.0))
    elif _kernels.native is not None:
        record = RECORDED[key][kind]
        limit = RATCHET * record
        if dtype == "float64":
            limit = max(limit, record + 0.5, *RECORDED[key].values())
        assert verdict.normal <= limit, (
            f"{key}: {verdict.normal:.3f} ulp in regime {kind}, recorded {record}: more than {RATCHET} times worse"
        )


def write() -> None:
    """Replace the records by what was found."""
    lines = ["# Written by `make record`; ulp, rounded up. Larger numbers than before are a loss of accuracy."]
    rounded_up = {key: {kind: ulp + 0.0005 for kind, ulp in kinds.items()} for key, kinds in found.items()}
    for key, kinds in sorted({**RECORDED, **rounded_up}.items()):  # what a part of the tests did not find stays
        merged = {**RECORDED.get(key, {}), **kinds}
        text = ", ".join(f'"{kind}" = {ulp:.3f}' for kind, ulp in sorted(merged.items()))
        lines.append(f'"{key}" = {{ {text} }}')
    FILE.write_text("\n".join(lines) + "\n")
