"""A certificate as tables: by function in a format, by regime for a function; and the page of the documentation."""

from __future__ import annotations

from collections.abc import Sequence

from lossless._evaluate.tables import Table, section

from . import promises, regimes
from .certificate import Cell, Certificate, Key
from .ulp import FORMATS

# The page shows by regime what a reader knows from training: (function, quantity).
BY_REGIME = (
    ("cross_entropy", "value"),
    ("cross_entropy", "gradient"),
    ("binary_cross_entropy_with_logits", "gradient"),
    ("entropy", "value"),
    ("kl_divergence", "value"),
)


def figure(cell: Cell, dtype: str) -> str:
    """An error in ulp; "lost" where no digit is right, as when 0 or NaN stands for an ordinary number."""
    if not cell.worst:
        return ""
    if cell.ulp >= 2.0 ** (FORMATS[dtype].precision - 2):
        return "lost"
    return f"{cell.ulp:.2f}" if cell.ulp < 99.995 else f"{cell.ulp:.0f}" if cell.ulp < 1e4 else f"{cell.ulp:.1e}"


def by_function(certificate: Certificate, dtype: str) -> Table:
    """The worst error of every quantity over all regimes, ours beside the promise and the peers."""
    ours, *peers = certificate.libraries
    worst, rows = certificate.worst(dtype), []
    for function, quantity in certificate.quantities(dtype):
        mine = worst[ours, function, quantity]
        theirs = (figure(worst.get((peer, function, quantity), Cell()), dtype) for peer in peers)
        where = mine.worst.partition("@")[0]
        bound, _, of_larger_term = promises.promise(function, quantity, dtype)
        promised = f"{bound:g}{'*' * of_larger_term}"
        rows.append([function, quantity, where, str(mine.rows), promised, figure(mine, dtype), *theirs])
    columns = ["function", "quantity", "worst at", "rows", "promise", ours, *peers]
    return Table(dtype, columns, rows, names=3)


def by_regime(certificate: Certificate, function: str, quantity: str, dtype: str) -> Table:
    """The worst error in each regime."""
    known = [key.regime for key in certificate.cells if key[1:4] == (function, quantity, dtype)]
    libraries = certificate.libraries
    rows = []
    for regime in dict.fromkeys(known):
        keys = (Key(name, function, quantity, dtype, regime) for name in libraries)
        cells = [certificate.cells.get(key, Cell()) for key in keys]
        rows.append([regime, str(cells[0].rows), *(figure(cell, dtype) for cell in cells)])
    return Table(f"{function}, {quantity}, {dtype}", ["regime", "rows", *libraries], rows, names=1)


def exceptions(certificate: Certificate) -> Table:
    """What is promised less, of what was measured, and why."""
    dtypes = {key.dtype for key in certificate.cells}
    measured = {what for dtype in dtypes for what in certificate.quantities(dtype)}
    rows = [list(row) for row in promises.exceptions(measured)]
    return Table("Promised less", ["what", "bound", "why"], rows, names=3)


def page(certificate: Certificate, dtypes: Sequence[str] = regimes.DTYPES) -> str:
    """The documentation page, in Markdown."""
    machine = ", ".join(f"{name} {value}" for name, value in certificate.machine.items())
    broken = len(certificate.broken)
    parts = [
        "# Accuracy, measured",
        "The largest error found, in units in the last place of the true number (of the larger of two terms "
        "where the result is a difference that crosses zero: a promise with a star): 0.5 is exact rounding, "
        "and `lost` means that no digit is right, as when 0 or NaN stands for an ordinary number. Truth comes "
        "from ball arithmetic (Arb) on the same inputs; PyTorch's and optax's gradients are their own. An "
        "empty cell: the library has no such function, or not with the options of these cases, or no "
        "gradients. Losses and divergences that a library lacks are computed by the line that scripts write: "
        "focal loss, sigmoid focal loss (torchvision's formula), RMSE and k3 for PyTorch; entropy and RMSE "
        "for JAX; entropy and KL of logits through softmax for SciPy. Every problem is asked for values and "
        "gradients, and rows are counted each time a function is asked about them.",
        f"{certificate.rows:,} rows (of which {certificate.long_rows} have 131,072 classes or more) and "
        f"{certificate.elements:,} elements, drawn from seed {certificate.seed} in {certificate.rounds} rounds; "
        f"{broken or 'no'} result{'s' if broken != 1 else ''} over the promise. Measured on: {machine}.",
        "This page is written by `lossless accuracy --rows 100000 --markdown docs/accuracy.md`; `make accuracy` draws "
        "other numbers every time. The columns are what that environment had installed (`pip install jax optax` adds "
        "the last).",
        *(section(by_function(certificate, dtype)) for dtype in dtypes),
        section(exceptions(certificate)),
        "# By regime, float32",
        "The names are those of `src/lossless/_accuracy/regimes.py`: gap-20 is a label that leads by 20, wide-100 are "
        "100 logits of standard deviation 25, offset-1e8 has that added to every logit, right-1 a binary target of 1 "
        "predicted with certainty, 1e-4 two distributions that differ by so much.",
        *(section(by_regime(certificate, *what, "float32")) for what in BY_REGIME),
    ]
    return "\n\n".join(parts) + "\n"
