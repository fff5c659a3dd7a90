"""The error of a computed number in units in the last place of the *true* number.

    error = |computed - true| / ulp(unit),   unit = true, or the larger of two terms whose difference is the result

The true number comes from `oracle.py` as an `Exact`: about 106 bits and an unbounded exponent, so the error of a
float64 is itself known to 2^-50 ulp and no true value is too small to be told from zero. In this metric a correctly
rounded result has an error of at most 0.5. The cases that a relative error leaves open are decided here:

- NaN agrees with NaN only (error 0), infinity with the same infinity only; every other mix is an infinite error.
- A true value too large for the format agrees with infinity; just below that, infinity counts as the next number
  of the grid after the largest finite one.
- Below the smallest normal number the unit stops shrinking: it is the smallest denormal, so the error is absolute
  there. Such errors are kept apart (`Errors.tiny`), because another promise holds for them.
- A true zero is below the smallest normal: a computed 0.0 or -0.0 has error 0, the smallest denormal error 1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from flint import arb, ctx


class Format(NamedTuple):
    """A binary floating-point format; exponents are those of frexp, where a number is m * 2^e with 1/2 <= m < 1."""

    precision: int
    least: int  # exponent of the smallest normal number
    greatest: int  # exponent of the largest finite number


FORMATS = {
    "float16": Format(11, -13, 16),
    "bfloat16": Format(8, -125, 128),
    "float32": Format(24, -125, 128),
    "float64": Format(53, -1021, 1024),
}


@dataclasses.dataclass(frozen=True)
class Exact:
    """An array of true numbers, (high + low) * 2^exponent with 1/2 <= |high| < 1, or high in {0, inf, nan}."""

    high: np.ndarray
    low: np.ndarray
    exponent: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        return self.high.shape

    def _map(self, function: Any) -> Exact:
        return Exact(function(self.high), function(self.low), function(self.exponent))

    def __getitem__(self, index: Any) -> Exact:
        return self._map(lambda a: np.asarray(a[index]))

    def reshape(self, *shape: Any) -> Exact:
        return self._map(lambda a: a.reshape(*shape))

    def transpose(self, *axes: Any) -> Exact:
        return self._map(lambda a: a.transpose(*axes))

    def to_float64(self) -> np.ndarray:
        """The nearest float64, for messages."""
        with np.errstate(over="ignore", under="ignore"):
            nearest: np.ndarray = np.ldexp(self.high, self.exponent)
        return nearest


def exact(values: Iterable[Any], shape: Any = None) -> Exact:
    """Pack float, int, Fraction, mpmath.mpf or flint.arb (its midpoint) numbers into an `Exact`."""
    values = list(values)
    if len(values) > 1000 and all(isinstance(v, arb) for v in values):
        return _exact_in_bulk(values, shape)
    triples = [_split(v) for v in values]
    high, low, exponent = zip(*triples, strict=True) if triples else ((), (), ())
    shape = (len(triples),) if shape is None else shape
    return Exact(
        np.array(high, np.float64).reshape(shape),
        np.array(low, np.float64).reshape(shape),
        np.array(exponent, np.int32).reshape(shape),
    )


def _exact_in_bulk(values: list[arb], shape: Any) -> Exact:
    """The same as two float64 each, twenty times faster; what does not fit them is left to `_split`."""
    with ctx.workprec(256):
        high = [float(v) for v in values]
        low = [float(v - h) for v, h in zip(values, high, strict=True)]
    high, exponent = np.frexp(np.array(high))
    low = np.ldexp(np.array(low), -exponent)
    for i in np.flatnonzero((np.abs(exponent) > 900) | ~np.isfinite(high) | (high == 0)).tolist():
        high[i], low[i], exponent[i] = _split(values[i])
    shape = (len(values),) if shape is None else shape
    return Exact(high.reshape(shape), low.reshape(shape), exponent.astype(np.int32).reshape(shape))


def _split(value: Any) -> tuple[float, float, int]:
    """One number as (high, low, exponent); nothing is lost before bit 106, and no intermediate rounds."""
    if isinstance(value, arb):
        mantissa, shift = (int(part) for part in value.mid().man_exp())
    elif hasattr(value, "man_exp"):  # mpmath.mpf
        if not value.man and value != 0:
            return float(value), 0.0, 0
        sign, mantissa, shift, _ = value._mpf_
        mantissa = -int(mantissa) if sign else int(mantissa)
    elif isinstance(value, Fraction):
        # A quotient to 160 bits, truncated: an error far below the last bit kept.
        shift = value.numerator.bit_length() - value.denominator.bit_length() - 160
        scaled = value / Fraction(2) ** shift
        mantissa = scaled.numerator // scaled.denominator
    else:
        value = float(value) if not isinstance(value, int) else value
        if isinstance(value, float) and not math.isfinite(value):
            return value, 0.0, 0
        mantissa, denominator = value.as_integer_ratio()
        shift = 1 - denominator.bit_length()
    if mantissa == 0:
        return 0.0, 0.0, 0
    excess = abs(mantissa).bit_length() - 106
    if excess > 0:
        mantissa >>= excess
        shift += excess
    bits = abs(mantissa).bit_length()
    if bits <= 53:
        return math.ldexp(mantissa, -bits), 0.0, shift + bits
    high = mantissa >> (bits - 53)  # floors, so the low part is never negative and both parts are exact
    low = mantissa - (high << (bits - 53))
    return math.ldexp(high, -53), math.ldexp(low, -bits), shift + bits


class Errors(NamedTuple):
    """Errors in ulp; where the ulp is the smallest denormal; the number whose ulp it is, over the smallest normal."""

    ulp: np.ndarray
    tiny: np.ndarray
    share: np.ndarray

    def worst(self) -> tuple[float, float]:
        """The largest error among the normal results, and among the tiny ones (0 where there are none)."""
        return (
            float(np.max(self.ulp, initial=0.0, where=~self.tiny)),
            float(np.max(self.ulp, initial=0.0, where=self.tiny)),
        )


def errors(computed: np.ndarray, true: Exact, dtype: str, unit: Exact | None = None) -> Errors:
    """Errors of `computed` (values of format `dtype`, in any wider array) in ulp of `true` or max(|unit|, |true|)."""
    form = FORMATS[dtype]
    actual = np.asarray(computed).astype(np.float64)
    if actual.shape != true.shape:
        raise ValueError(f"errors: computed has shape {actual.shape}, the true values {true.shape}")
    with np.errstate(all="ignore"):
        finite = np.isfinite(true.high)
        exponent = np.where(true.high == 0, form.least, true.exponent)
        unit_exponent = (
            exponent if unit is None else np.maximum(exponent, np.where(unit.high == 0, -(2**20), unit.exponent))
        )
        tiny = finite & ((unit_exponent < form.least) | ((true.high == 0) & (unit_exponent <= form.least)))
        unit_exponent = np.maximum(unit_exponent, form.least)
        # Both numbers over 2^base: the true one is then below 1, and the subtraction is exact when they are close.
        base = np.maximum(exponent, unit_exponent)
        scaled = np.ldexp(actual, -base)
        next_after_largest = np.copysign(np.ldexp(1.0, form.greatest - base), actual)
        scaled = np.where(np.isinf(actual), next_after_largest, scaled)
        difference = (scaled - np.ldexp(true.high, exponent - base)) - np.ldexp(true.low, exponent - base)
        ulp = np.ldexp(np.abs(difference), form.precision + base - unit_exponent)

        overflown = finite & (exponent > form.greatest)
        ulp = np.where(
            overflown, np.where(np.isinf(actual) & (np.sign(actual) == np.sign(true.high)), 0.0, np.inf), ulp
        )
        infinite = np.isinf(true.high)
        ulp = np.where(infinite, np.where(actual == true.high, 0.0, np.inf), ulp)
        nan = np.isnan(true.high)
        ulp = np.where(nan | np.isnan(actual), np.where(nan & np.isnan(actual), 0.0, np.inf), ulp)
        share = np.ldexp(np.abs(true.high), true.exponent - form.least + 1)
        if unit is not None:
            share = np.maximum(share, np.ldexp(np.abs(unit.high), unit.exponent - form.least + 1))
    return Errors(ulp, tiny & ~overflown, np.minimum(share, 1.0))
