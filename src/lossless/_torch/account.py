"""Which functions were called from where: counted by the call, cheaply, for as long as the process lives.

Whoever wants the calls of a while subtracts the totals at its beginning from those at its end.
"""

import os
import sys
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch
from torch._guards import TracingContext

GO_BETWEENS: set[str] = set()
"""Files whose functions call on behalf of somebody else."""


class Call(NamedTuple):
    """The calls of one function from one line."""

    function: str
    """PyTorch's name, such as "torch.nn.functional.cross_entropy"."""
    file: str
    line: int
    within: str
    """The function that the line is in."""
    calls: int
    """Made by Python."""
    traces: int
    """Times a compiler has read the line; what it makes of it then runs uncounted."""
    routed: bool
    reason: str
    """Why it was not routed, or nothing."""


@dataclass(slots=True)
class _Entry:
    function: str
    reason: str
    code: CodeType | None = None
    instruction: int = 0
    place: tuple[str, int, str] = ("", 0, "")
    calls: int = 0
    traces: int = 0

    def where(self) -> tuple[str, int, str]:
        """(file, line, function)."""
        if self.code is None:
            return self.place
        lines = (line for start, end, line in self.code.co_lines() if start <= self.instruction < end)
        return self.code.co_filename, next(lines, None) or self.code.co_firstlineno, self.code.co_qualname


_entries: dict[Any, _Entry] = {}
_lock = threading.RLock()
_HOME = os.path.dirname(torch.__file__) + os.sep
_torchs_own: dict[int, tuple[bool, CodeType]] = {}
"""id of a code object: (whether it is a part of PyTorch, itself, so that the id stays taken)."""


def _renew_lock() -> None:
    """In a forked child: another thread of the parent may have held it."""
    global _lock
    _lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_lock)


def _is_torchs(frame: FrameType) -> bool:
    """Whether it runs a part of PyTorch, or of us in its place."""
    code = frame.f_code
    known = _torchs_own.get(id(code))
    if known is None:
        name = str(frame.f_globals.get("__name__"))
        own = name == "torch" or name.startswith("torch.") or code.co_filename in GO_BETWEENS
        known = _torchs_own[id(code)] = own, code
    return known[0]


def count(function: str, frame: FrameType, reason: str = "") -> None:
    """One call from `frame`, or rather from the first frame below it that is not PyTorch's."""
    caller: FrameType | None = frame
    while caller is not None and _is_torchs(caller):
        caller = caller.f_back
    caller = caller or frame
    key = function, id(caller.f_code), caller.f_lasti, not reason
    with _lock:
        entry = _entries.get(key)
        if entry is None:
            entry = _entries[key] = _Entry(function, reason, caller.f_code, caller.f_lasti)
        entry.calls += 1


def count_trace(function: str, reason: str = "") -> None:
    """One reading of a call by a compiler; evaluated while it reads, and nothing of it is in what it compiles."""
    place = _traced_place()
    if place is None:
        return
    key = function, place, not reason
    with _lock:
        entry = _entries.get(key)
        if entry is None:
            entry = _entries[key] = _Entry(function, reason, place=place)
        entry.traces += 1


count_trace._dynamo_marked_constant = True  # type: ignore[attr-defined]  # as torch.compiler.assume_constant_result


def _traced_place() -> tuple[str, int, str] | None:
    """(file, line, function) that a compiler is reading, or running in order to read it; None if it has read it before.

    It is the innermost line that is not PyTorch's.
    """
    stack = TracingContext.extract_stack() if TracingContext.try_get() is not None else []
    if frames := [f for f in stack if f.filename not in GO_BETWEENS]:
        f = next((f for f in reversed(frames) if not f.filename.startswith(_HOME)), frames[-1])
        return f.filename, f.lineno or 0, f.name
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and _is_torchs(frame):
        if frame.f_globals["__name__"] == "torch.fx.interpreter":
            return None
        frame = frame.f_back
    return None if frame is None else (frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_qualname)


# ---------------------------------------------------------------- what is shown of it


def totals() -> dict[Any, tuple[int, int]]:
    """Everything so far: (calls, traces) of each key."""
    with _lock:
        return {key: (entry.calls, entry.traces) for key, entry in _entries.items()}


def since(baseline: Mapping[Any, tuple[int, int]]) -> dict[Any, tuple[int, int]]:
    """What was called since `totals` gave `baseline`."""
    return {
        key: (calls - before[0], traces - before[1])
        for key, (calls, traces) in totals().items()
        if (before := baseline.get(key, (0, 0))) != (calls, traces)
    }


def calls(counts: Mapping[Any, tuple[int, int]]) -> list[Call]:
    """Those of a while, {key of `totals`: (calls, traces)}."""
    entries = ((_entries[key], *pair) for key, pair in counts.items())
    return merged(Call(e.function, *e.where(), made, traces, not e.reason, e.reason) for e, made, traces in entries)


def merged(calls: Iterable[Call]) -> list[Call]:
    """One for each line: routed first, then by file and line."""
    found: dict[Call, Call] = {}
    for call in calls:
        place = call._replace(calls=0, traces=0)
        before = found.get(place, place)
        found[place] = call._replace(calls=before.calls + call.calls, traces=before.traces + call.traces)
    return sorted(found.values(), key=lambda call: (not call.routed, call.file, call.line, call.function))


COLUMNS = ("calls", "function", "line", "in")


def rows(calls: Sequence[Call]) -> list[tuple[str, ...]]:
    """A table with COLUMNS."""
    return [(_number(c), c.function, f"{_short(c.file)}:{c.line}", c.within) for c in calls]


def summary(calls: Sequence[Call]) -> tuple[str, list[tuple[str, list[tuple[str, ...]]]]]:
    """(a sentence, tables with their headings)."""
    routed = [c for c in calls if c.routed]
    functions = len({c.function for c in routed})
    made, traces = sum(c.calls for c in routed), sum(c.traces for c in routed)
    sentence = f"{_plural(made, 'call')} of {_plural(functions, 'function')} went to lossless"
    if traces:
        sentence += f", {_plural(traces, 'call')} into compiled code"
    if not calls:
        sentence = "no call of a loss was seen"
    tables = [("routed to lossless", rows(routed))] if routed else []
    for reason in dict.fromkeys(c.reason for c in calls if not c.routed):
        tables.append((f"left to PyTorch: {reason}", rows([c for c in calls if c.reason == reason])))
    return sentence, tables


def text(calls: Sequence[Call]) -> str:
    """The summary as plain text."""
    sentence, tables = summary(calls)
    lines = [sentence]
    for heading, cells in tables:
        lines += ["", heading]
        widths = [max(len(row[i]) for row in cells) for i in range(len(COLUMNS))]
        for number, *others in cells:
            padded = (cell.ljust(width) for cell, width in zip(others, widths[1:], strict=True))
            lines.append("  ".join(["", number.rjust(widths[0]), *padded]).rstrip())
    return "\n".join(lines)


def _number(call: Call) -> str:
    parts = [str(call.calls)] if call.calls else []
    return " + ".join([*parts, "compiled"] if call.traces else parts)


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _short(file: str) -> str:
    """A path to read: from the folder one is in, or from that of the installed packages."""
    for folder in (os.getcwd(), *sorted(sys.path, key=len, reverse=True)):
        if folder and file.startswith(folder + os.sep):
            return file[len(folder) + 1 :]
    return file
