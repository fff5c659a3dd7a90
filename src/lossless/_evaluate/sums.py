"""Sums that lose nothing: the reason why no figure depends on batches, workers or merge order."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from lossless import _kernels

_LIMB_BITS = 32
_LIMB = 2.0**_LIMB_BITS
_LARGE = 2.0**31  # from here on integer parts leave the int64 limbs and go to Python integers
_BLOCK = 1 << 21  # 2^21 limbs below 2^31 add up to at most 2^52: exact in float64
_FULL = 1 << 61  # what a limb behind the point holds after a merge: two of them fit, and 2^30 rows in between
_FEW = 1 << 10  # numbers that are added here where the kernel stops
_LEVELS, _ROOM = 6, 1 << 10  # limbs to begin with, for numbers down to 1e-30; and of all groups together


class ExactSum:
    """Exact sums of non-negative float64 numbers, one sum per group.

    A number is cut into its integer part and 32-bit limbs behind the point, v = sum_k q_k 2^(-32 k) with
    |q_k| <= 2^31; the cuts are exact (`rint` and a subtraction that cannot round), and limbs are added as
    integers. Integer addition is associative, so any order, split or merge gives the same bits, and the mean is
    the true mean of the numbers rounded once. Ordinary losses have three or four limbs: about 11 ns a number, and a
    tenth of that in a kernel, which stops at numbers from 2^31 on and at those that need more limbs than there are.
    """

    def __init__(self, groups: int = 1) -> None:
        self.groups = groups
        self._limbs = np.zeros((max(min(_LEVELS, _ROOM // groups), 1), groups), np.int64)
        self._large: dict[int, int] = {}
        self.infinite = np.zeros(groups, np.int64)

    def add(self, values: NDArray[np.float64], group: NDArray[np.int64] | None = None) -> None:
        """Add (n,) numbers >= 0 (inf is counted, not added), number i to sum group[i]."""
        native = _kernels.native
        values, group = np.ascontiguousarray(values), None if group is None else np.ascontiguousarray(group)
        while len(values):
            added = 0 if native is None else native.add_exactly(self._limbs, self.groups, values, group)
            if not added:
                added = _BLOCK if native is None else _FEW
                self._add_block(values[:added], None if group is None else group[:added])
            values, group = values[added:], None if group is None else group[added:]

    def _add_block(self, values: NDArray[np.float64], group: NDArray[np.int64] | None) -> None:
        # `not <=` also catches NaN, which callers leave out beforehand.
        if not values.max(initial=0.0) <= _LARGE or not values.min(initial=0.0) >= 0.0:
            values = self._set_large_aside(values, group)
        rest = values
        level = 0
        while True:
            limb = np.rint(rest)
            self._add_limb(level, limb, group)
            rest = rest - limb
            if not rest.any():
                return
            rest *= _LIMB
            level += 1

    def _add_limb(self, level: int, limb: NDArray[np.float64], group: NDArray[np.int64] | None) -> None:
        self._have(level + 1)
        if group is None:
            self._limbs[level][0] += int(limb.sum())
        else:
            np.add.at(self._limbs[level], group, limb.astype(np.int64))

    def _set_large_aside(self, values: NDArray[np.float64], group: NDArray[np.int64] | None) -> NDArray[np.float64]:
        """Move infinite numbers and integer parts from 2^31 on out of `values`; what is left is below 2^31."""
        if np.isnan(values).any() or (values < 0.0).any():
            raise ValueError("ExactSum adds numbers >= 0; leave NaN out and count it")
        values = values.copy()
        for i in np.flatnonzero(values >= _LARGE).tolist():
            home = 0 if group is None else int(group[i])
            if np.isinf(values[i]):
                self.infinite[home] += 1
                values[i] = 0.0
            else:
                whole = int(values[i])
                self._large[home] = self._large.get(home, 0) + whole
                values[i] -= float(whole)  # exact: the fraction of a float64
        return values

    def merge(self, other: ExactSum) -> None:
        """Add the sums of `other` to this one."""
        self._have(len(other._limbs))
        self._limbs[: len(other._limbs)] += other._limbs
        for home, whole in other._large.items():
            self._large[home] = self._large.get(home, 0) + whole
        self.infinite += other.infinite
        if np.abs(self._limbs).max() >= _FULL:  # however many rows a run has
            self._carry()

    def _carry(self) -> None:
        """Leave less than 2^32 in all limbs but the first."""
        for level in range(len(self._limbs) - 1, 0, -1):
            carry = self._limbs[level] >> _LIMB_BITS
            self._limbs[level] -= carry << _LIMB_BITS
            self._limbs[level - 1] += carry

    def _have(self, levels: int) -> None:
        """Make room for so many limbs."""
        more = levels - len(self._limbs)
        if more > 0:
            self._limbs = np.concatenate([self._limbs, np.zeros((more, self.groups), np.int64)])

    def divided_by(self, divisor: int, group: int = 0, *, finite: bool = False) -> float:
        """Sum of `group` / divisor, correctly rounded; nan for 0 / 0. `finite` leaves infinite numbers out."""
        if self.infinite[group] and not finite:
            return float("inf")
        if divisor == 0:
            return float("nan")
        total, bits = self._scaled(group)
        try:
            return total / (divisor << bits)  # Python rounds the quotient of integers correctly
        except OverflowError:  # a sum beyond 1.8e308
            return float("inf")

    def exactly(self, group: int = 0) -> Fraction:
        """The sum of the finite numbers of `group`, unrounded."""
        total, bits = self._scaled(group)
        return Fraction(total, 1 << bits)

    def _scaled(self, group: int) -> tuple[int, int]:
        """The sum of the finite numbers of `group` times 2^bits, and the bits."""
        scale = len(self._limbs) - 1
        total = self._large.get(group, 0) << (_LIMB_BITS * scale)
        for level, limb in enumerate(self._limbs):
            total += int(limb[group]) << (_LIMB_BITS * (scale - level))
        return total, _LIMB_BITS * scale

    def total(self, group: int = 0) -> float:
        """The sum of `group`, correctly rounded."""
        return self.divided_by(1, group)


class SignedSum:
    """Exact sums of float64 numbers of either sign, one sum per group."""

    def __init__(self, groups: int = 1) -> None:
        self.positive, self.negative = ExactSum(groups), ExactSum(groups)

    def add(self, values: NDArray[np.float64], group: NDArray[np.int64] | None = None) -> None:
        """Add (n,) finite numbers, number i to sum group[i]."""
        self.positive.add(np.maximum(values, 0.0), group)
        self.negative.add(np.maximum(-values, 0.0), group)

    def merge(self, other: SignedSum) -> None:
        """Add the sums of `other` to this one."""
        self.positive.merge(other.positive)
        self.negative.merge(other.negative)

    def exactly(self, group: int = 0) -> Fraction:
        """The sum of the finite numbers of `group`, unrounded."""
        return self.positive.exactly(group) - self.negative.exactly(group)

    def divided_by(self, divisor: int, group: int = 0) -> float:
        """Sum of `group` / divisor, correctly rounded; infinite if it has infinite numbers, which have one sign."""
        total = self.exactly(group)
        if self.overflows(group):
            return math.inf if self.positive.infinite[group] else -math.inf
        try:
            return float(total / divisor)
        except OverflowError:
            return math.inf if total > 0 else -math.inf

    def overflows(self, group: int = 0) -> bool:
        """Whether `group` has infinite numbers."""
        return bool(self.positive.infinite[group] or self.negative.infinite[group])


class SquareSum(SignedSum):
    """Exact sums of squares, one sum per group: a variance loses nothing where the mean is many times larger."""

    _SPLIT = 2.0**27 + 1.0  # Veltkamp: cuts a float64 into two halves of 26 bits
    _FAR = 2.0**500  # beyond, the halves could overflow: there the squares are summed as rounded

    def add(self, values: NDArray[np.float64], group: NDArray[np.int64] | None = None) -> None:
        """Add the squares of (n,) numbers; those that overflow count as infinite.

        A square is its rounded value and what rounding left, by Dekker 1971 (doi:10.1007/BF01397083).
        """
        with np.errstate(over="ignore"):
            self.positive.add(np.square(values), group)
        near = np.where(np.abs(values) < self._FAR, values, 0.0)
        scaled = near * self._SPLIT
        top = scaled - (scaled - near)
        rest = near - top
        super().add(((top * top - np.square(near)) + 2.0 * (top * rest)) + rest * rest, group)
