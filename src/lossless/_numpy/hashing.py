"""Fair choices that depend on the rows alone."""

import numpy as np
from numpy.typing import NDArray


def mixed(number: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A hash of 64 bits, the same for no two numbers: splitmix64 (Steele et al. 2014, doi:10.1145/2660193.2660195)."""
    h = number * np.uint64(0x9E3779B97F4A7C15)
    h ^= h >> np.uint64(30)
    h *= np.uint64(0xBF58476D1CE4E5B9)
    h ^= h >> np.uint64(27)
    h *= np.uint64(0x94D049BB133111EB)
    h ^= h >> np.uint64(31)
    return h
