"""Terminal output: rich tables on a terminal, plain aligned text when piped (or without rich)."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from lossless._evaluate.text import printable

Progress = Callable[[int, int], None]


def figure(value: float) -> str:
    """A number to read: six significant digits; the JSON output has them all."""
    return "-" if value != value else f"{value:.6g}"


class Output:
    """What a command prints, on stdout unless told otherwise."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stdout if stream is None else stream
        self._rich: Any = None
        if self._stream.isatty() and os.environ.get("TERM") != "dumb":
            try:
                from rich.console import Console
            except ModuleNotFoundError:
                return
            self._rich = Console(file=self._stream, highlight=False)  # follows NO_COLOR

    def text(self, line: str = "") -> None:
        """A line of text."""
        if self._rich is not None:
            self._rich.print(printable(line), markup=False)
        else:
            print(printable(line), file=self._stream)

    def heading(self, line: str) -> None:
        """A line that opens a part."""
        if self._rich is not None:
            self._rich.print()
            self._rich.print(printable(line), style="bold", markup=False)
        else:
            print(f"\n{printable(line)}", file=self._stream)

    def table(
        self, columns: Sequence[str], rows: Sequence[Sequence[str]], *, numeric: Sequence[bool] | None = None
    ) -> None:
        """A table whose `numeric` columns are set right; by default all but the first and those without a name."""
        if numeric is None:
            numeric = [i > 0 and name != "" for i, name in enumerate(columns)]
        cells = [[printable(cell) for cell in row] for row in rows]
        if self._rich is not None:
            from rich.box import SIMPLE_HEAD
            from rich.table import Table
            from rich.text import Text

            table = Table(box=SIMPLE_HEAD, pad_edge=False, show_header=any(columns))
            for name, right in zip(columns, numeric, strict=True):
                table.add_column(
                    Text(printable(name)), justify="right" if right else "left", no_wrap=right, overflow="fold"
                )
            for row in cells:
                table.add_row(*(Text(cell) for cell in row))
            self._rich.print(table)
            return
        if any(columns):
            cells.insert(0, [printable(name) for name in columns])
        widths = [max((len(row[i]) for row in cells), default=0) for i in range(len(columns))]
        for row in cells:
            aligned = (c.rjust(w) if right else c.ljust(w) for c, w, right in zip(row, widths, numeric, strict=True))
            print("  ".join(aligned).rstrip(), file=self._stream)


@contextmanager
def progress(what: str) -> Iterator[Progress | None]:
    """A progress bar on stderr while the block runs, if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar
    except ModuleNotFoundError:
        yield None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
