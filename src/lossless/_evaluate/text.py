"""Text from data, made fit to be encoded, shown and read."""

from __future__ import annotations

import re
from collections.abc import Sequence

_VALUE, _ITEMS = 80, 20  # characters of a value, and items of a list, that a message shows
# Control characters, line separators, the marks that turn the direction of the text around them, and lone surrogates.
_UNFIT = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def safe(text: str) -> str:
    """Text that can be encoded: a lone surrogate, as an undecodable file name has, is written as its escape."""
    return text.encode("utf-8", "backslashreplace").decode()


def printable(text: str) -> str:
    """Text that stays in its place on a terminal or page: no escape sequences, line breaks or turned directions."""
    return _UNFIT.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def shown(value: object) -> str:
    """A value, name or path from data inside a message."""
    text = printable(str(value))
    return text if len(text) <= _VALUE else text[:_VALUE] + "…"


def quoted(names: Sequence[str]) -> str:
    """Names inside a message."""
    return enumerated([f"'{shown(name)}'" for name in names])


def enumerated(items: Sequence[str]) -> str:
    """The first items of a list, and how many more there are."""
    more = f" and {len(items) - _ITEMS} more" if len(items) > _ITEMS else ""
    return ", ".join(items[:_ITEMS]) + more
