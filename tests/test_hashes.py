"""One hash of the bits of every function that the kernels serve, over the shipped problems: the same on every machine.

`hashes.toml` has two for each function and format: of what goes in, and of the values and gradients that come out, on
every instruction set, from NumPy and from PyTorch. `make record` writes it anew, when bits change on purpose.

What uses exp, log or a sum of NumPy's or PyTorch's has no hash: those bits are the framework's to change.
"""

import dataclasses
import hashlib
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lossless._accuracy import problems, regimes
from lossless._accuracy.libraries import OURS, View
from lossless._kernels import native

pytestmark = pytest.mark.skipif(native is None, reason="no kernels: the bits of the reference are the framework's")

FILE = Path(__file__).with_name("hashes.toml")
RECORD = bool(os.environ.get("LOSSLESS_RECORD"))

SERVED = re.compile(
    r"(log_)?softmax/(label|random)/|logsumexp/|nll_of_log_softmax/|nll_loss/none/|row_statistics/|entropy/logits"
    r"|cross_entropy/(?!.*(sharp|flat|gradient|samples|mean-over))|(sparse_)?categorical_cross_entropy/logits/"
    r"|binary_cross_entropy_with_logits/(none|sum|mean|weights)/|mse_loss/"
)


def served(dtype: str) -> list[str]:
    """The cases of which every bit is made by a kernel, or by operations that round the same everywhere."""
    return [name for name in problems.cases(dtype) if SERVED.match(name)]


FUNCTIONS = list(dict.fromkeys(name.split("/")[0] for name in served("float32")))


@dataclasses.dataclass(frozen=True)
class Hashing(View):
    """Hashes the arrays that it hands out, without the last 24 bits of float64.

    Some problems are made with NumPy's exp, log and pow, whose last bit differs from machine to machine.
    """

    hash: Any = dataclasses.field(default_factory=hashlib.sha256)

    def __call__(self, array: np.ndarray | None) -> Any:
        if array is not None:
            if array.dtype == np.float64:
                array = np.asarray((array.view(np.uint64) + np.uint64(1 << 23)) >> 24 << 24).view(np.float64)
            self.hash.update(array.tobytes())
        return super().__call__(array)


def bits(arrays: list[np.ndarray]) -> bytes:
    assert not any(np.isnan(a).any() for a in arrays), "a NaN has no bits to promise"
    return b"".join(a.tobytes() for a in arrays)


def run(case: problems.Problem, view: View) -> tuple[bytes, bytes]:
    """Values and gradient as float64, which holds every format exactly; of NumPy's arrays the values alone."""
    framework, values = view.library.framework, []

    def call(x: Any) -> dict[str, Any]:
        outputs = case.call(x, view)
        values.extend(map(framework.numbers, outputs.values()))
        return outputs

    x = case.input(view)
    if not framework.differentiates:
        call(x)
        return bits(values), b""
    g = case.g and {name: case.upstream(array, view) for name, array in case.g.items()}
    gradient = framework.numbers(framework.vjp(call, x, g))
    return bits(values), bits([gradient])


def hashes(function: str, dtype: str, isa: str) -> dict[str, str]:
    native.use_isa(isa)
    view, results = Hashing(OURS["torch"]), hashlib.sha256()
    for name in served(dtype):
        if name.split("/")[0] == function:
            case = problems.problem(name, dtype)
            values, gradient = run(case, view)
            assert run(case, Hashing(OURS["numpy"]))[0] == values, f"{name}: NumPy and PyTorch differ on {isa}"
            results.update(values + gradient)
    return {"inputs": view.hash.hexdigest()[:16], "results": results.hexdigest()[:16]}


@pytest.fixture(scope="module")
def recorded():
    table = tomllib.loads(FILE.read_text()) if FILE.exists() else {}
    isa = native.isa()
    yield table
    native.use_isa(isa)
    if RECORD:
        lines = ["# Written by `make record`, checked by test_hashes.py."]
        for function in FUNCTIONS:
            lines += ["", f"[{function}]"]
            for dtype, found in table[function].items():
                lines.append(f'{dtype} = {{ inputs = "{found["inputs"]}", results = "{found["results"]}" }}')
        FILE.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("dtype", regimes.DTYPES)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_bits_are_the_recorded_ones(function, dtype, recorded):
    found = {isa: hashes(function, dtype, isa) for isa in native.available_isas()}
    if RECORD:
        recorded.setdefault(function, {})[dtype] = next(iter(found.values()))
    expected = recorded[function][dtype]
    inputs = next(iter(found.values()))["inputs"]
    if inputs != expected["inputs"]:
        pytest.skip(f"{function}, {dtype}: this machine's inputs hash to {inputs}, not {expected['inputs']}")
    changed = [isa for isa in found if found[isa] != expected]
    assert not changed, (
        f"the bits of {function} in {dtype} changed on {', '.join(changed)}: "
        "if on purpose, run `make record` and say so in CHANGELOG.md"
    )


def test_every_hash_is_checked(recorded):
    assert {function: set(table) for function, table in recorded.items()} == {
        function: set(regimes.DTYPES) for function in FUNCTIONS
    }
