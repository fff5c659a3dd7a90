"""What the rules of `lossless._diagnose` may see of NumPy arrays."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossless._check import is_compiling as is_compiling

Array = NDArray[Any]


def is_traced() -> bool:
    return False


def readable(*arrays: Array) -> bool:
    return True


def take(a: Array, dim: int | None, rows: NDArray[np.intp] | None) -> Array:
    if dim is not None:
        a = np.moveaxis(a, dim, -1)
    lead = a.shape if dim is None else a.shape[:-1]
    if rows is not None:
        out = a[np.unravel_index(rows, lead)] if lead else a[None]
    else:
        out = a.reshape(-1, *a.shape[len(lead) :])
    return out if out.dtype.kind in "iub" else out.astype(np.float64)


def bad_rows(a: Array, dim: int | None) -> NDArray[np.intp]:
    peaks = a if dim is None else a.max(dim)
    return np.flatnonzero(~np.isfinite(peaks))


def made_by(a: Array) -> str | None:
    return None


def origin(a: Array) -> str | None:
    return None
