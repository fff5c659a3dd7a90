"""The shapes that are measured: (N, C), or more dimensions with the classes in dimension 1."""

from __future__ import annotations

import math

Shape = tuple[int, ...]

USUAL: tuple[Shape, ...] = (
    (64, 10),
    (65536, 10),
    (16384, 100),
    (8192, 1000),
    (1024, 32000),
    (256, 128256),
)
ALL: tuple[Shape, ...] = (*USUAL, (8, 21, 512, 512), (16, 1_000_000))

# For slopes: 10^6 to 10^8 elements in steps of half a decade; {what grows: shapes}.
_SIZES = tuple(round(10 ** (6 + k / 2)) for k in range(5))
SCALING: dict[str, tuple[Shape, ...]] = {
    "N at C = 1000": tuple((size // 1000, 1000) for size in _SIZES),
    "C at N = 100": tuple((100, size // 100) for size in _SIZES),
}

# For the chart: the same number of elements in rows of every length, and rows of one length in every number.
CURVES: dict[str, tuple[Shape, ...]] = {
    "C at N C = 4,000,000": tuple((4_000_000 // c, c) for c in (10, 100, 1000, 10_000, 100_000, 1_000_000)),
    "N at C = 1000": tuple((n, 1000) for n in (1, 10, 100, 1000, 10_000)),
}


def parse(text: str) -> Shape | None:
    """The shape that "1024x32000" names, or None."""
    sizes = text.split("x")
    if len(sizes) < 2 or not all(size.isascii() and size.isdigit() and int(size) for size in sizes):
        return None
    return tuple(int(size) for size in sizes)


def name(shape: Shape) -> str:
    """As `parse` reads it."""
    return "x".join(map(str, shape))


def rows(shape: Shape) -> int:
    """How many rows of logits there are."""
    return math.prod(shape) // shape[1]
