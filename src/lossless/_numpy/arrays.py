"""What counts as a NumPy array: anything that holds numbers and belongs to no other framework."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossless.errors import ShapeError, UnsupportedArrayError


def to_array(function: str, name: str, value: Any) -> NDArray[Any]:
    """Any array-like of numbers as an ndarray in native byte order; never a copy of a fit array."""
    if isinstance(value, np.ma.MaskedArray):
        raise UnsupportedArrayError(
            f"{function}: {name} is a masked array, whose mask would be lost: fill it, and mark labels to leave out "
            "with ignore_index"
        )
    if not isinstance(value, np.ndarray | np.generic) and hasattr(value, "__dlpack__"):
        raise UnsupportedArrayError(
            f"{function}: {name} is a {type(value).__module__}.{type(value).__qualname__}; "
            "supported are NumPy arrays, lists of numbers and torch tensors"
        )
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ShapeError(
            f"{function}: {name} is no array: its rows differ in length, expected a rectangle of numbers\n"
            f"NumPy says: {error}"
        ) from None
    if array.dtype.hasobject:
        raise UnsupportedArrayError(
            f"{function}: {name} is an array of Python objects (dtype {array.dtype}), expected numbers: "
            f"build it with a numeric dtype, e.g. np.array({name}, dtype=np.float32)"
        )
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
