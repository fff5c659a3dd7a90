"""A sample of rows that any order of updates and merges gives alike: those whose hash is least."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lossless._numpy.hashing import mixed

_FILE_SHIFT = np.uint64(40)  # row numbers stay below 2^40
_ALL = np.uint64(2**64 - 1)
_SPARE = 8  # times as many rows as the sample holds


Part = dict[str, NDArray[Any]]  # rows by the names of their numbers


class RowSample:
    """Some numbers of the `size` rows whose hash of (file, row) is least; all rows, if there are no more.

    Of an input of so many `rows`, those of a large hash are passed over from the start. Where most rows turn out not to
    count, fewer than `size` are left, chosen as fairly.
    """

    def __init__(self, size: int, fields: Sequence[str], rows: int) -> None:
        self.size, self.fields = size, tuple(fields)
        self._parts: list[Part] = []
        self._rows = 0
        few = _SPARE * size / max(rows, 1)  # the share of the rows that is looked at
        self._bound = _ALL if few >= 1 else np.uint64(few * 2.0**64)  # no row of a larger hash is wanted

    def update(self, rows: Any) -> None:
        """Read a batch."""
        place = (np.uint64(rows.file) << _FILE_SHIFT) | rows.row.astype(np.uint64)
        wanted = np.flatnonzero(mixed(place) <= self._bound)
        if len(wanted):
            self._add(
                {"place": place[wanted], **{name: getattr(rows, name).take(wanted, axis=0) for name in self.fields}}
            )

    def merge(self, other: RowSample) -> None:
        """Join the sample of other rows."""
        for part in other._parts:
            self._add(_some(part, np.flatnonzero(mixed(part["place"]) <= self._bound)))

    def shift(self, rows: int) -> None:
        """Add to all row numbers; a sample that has left rows out was chosen by its own, and keeps them."""
        if self._bound == _ALL:
            self._parts = [{**part, "place": part["place"] + np.uint64(rows)} for part in self._parts]

    def rows(self) -> Part:
        """The numbers by name, in the order of the hashes; empty if there were no rows."""
        self._trim()
        if not self._parts:
            return {}
        every = {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}
        order = np.argsort(mixed(every["place"]), kind="stable")
        return {name: values.take(order, axis=0) for name, values in every.items()}

    def _add(self, part: Part) -> None:
        self._parts.append(part)
        self._rows += len(part["place"])
        if self._rows >= 2 * self.size:
            self._trim()

    def _trim(self) -> None:
        """Drop the rows that are not among the first `size`; no two have the same hash."""
        if self._rows <= self.size:
            return
        hashes = [mixed(part["place"]) for part in self._parts]
        self._bound = np.partition(np.concatenate(hashes), self.size - 1)[self.size - 1]
        kept = [np.flatnonzero(h <= self._bound) for h in hashes]
        self._parts = [_some(part, keep) for part, keep in zip(self._parts, kept, strict=True) if len(keep)]
        self._rows = self.size

    def __getstate__(self) -> dict[str, Any]:
        self._trim()
        return vars(self)


def _some(part: Part, keep: NDArray[np.int64]) -> Part:
    """The rows of these numbers."""
    return (
        part if len(keep) == len(part["place"]) else {name: values.take(keep, axis=0) for name, values in part.items()}
    )
