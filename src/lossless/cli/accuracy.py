"""Measure this machine's accuracy: the largest error of every function against a high-precision oracle, in ulp, ours
beside PyTorch's, SciPy's and optax's where they are installed. Exit code 1: a result is over what is promised.
"""

from __future__ import annotations

import argparse
import secrets
import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lossless._accuracy.certificate import Certificate

    from ._console import Output

SUMMARY = "the largest error of every function, ours beside the installed peers'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to measure, how long, and where to write it."""
    parser.add_argument(
        "--rows",
        type=int,
        default=10_000,
        metavar="N",
        help="check at least so many rows, in whole rounds (default: 10,000)",
    )
    parser.add_argument("--seed", type=int, metavar="S", help="draw the numbers of that run (default: fresh ones)")
    parser.add_argument("--function", action="append", default=[], metavar="NAME", help="only this one (repeatable)")
    parser.add_argument("--dtype", action="append", default=[], metavar="NAME", help="only this format (repeatable)")
    parser.add_argument("--no-peers", action="store_true", help="measure lossless alone")
    parser.add_argument("--json", metavar="FILE", help="write every figure as JSON; - for standard output")
    parser.add_argument("--markdown", metavar="FILE", help="write the documentation page")


def run(args: argparse.Namespace) -> int:
    """Measure, print the tables, write the files."""
    from lossless._accuracy import promises, regimes, tables
    from lossless._accuracy.certificate import measure
    from lossless._evaluate.strict_json import dumps
    from lossless._files import write_text

    from ._console import Output, progress
    from ._files import UsageError, check_outputs

    for flag, given, known in (
        ("--function", args.function, promises.FUNCTIONS),
        ("--dtype", args.dtype, regimes.DTYPES),
    ):
        for name in given:
            if name not in known:
                raise UsageError(f"{flag} got {name}, expected one of {', '.join(known)}")
    if args.rows < 1:
        raise UsageError(f"--rows got {args.rows}, expected at least 1")
    if args.seed is not None and args.seed < 0:
        raise UsageError(f"--seed got {args.seed}, expected a number from 0")
    check_outputs({"--json": None if args.json == "-" else args.json, "--markdown": args.markdown}, [])
    seed = secrets.randbelow(2**31) if args.seed is None else args.seed
    dtypes = list(dict.fromkeys(args.dtype)) or list(regimes.DTYPES)
    with progress("Comparing with the oracle") as report:
        certificate = measure(args.rows, seed, args.function, dtypes, not args.no_peers, report)
    if args.json == "-":
        print(dumps(certificate.to_json()), end="")
    else:
        _print(Output(), certificate, dtypes)
    if args.json not in (None, "-"):
        write_text(args.json, dumps(certificate.to_json()))
    if args.markdown is not None:
        write_text(args.markdown, tables.page(certificate, dtypes))
    return 1 if certificate.broken else 0


def _print(output: Output, certificate: Certificate, dtypes: Sequence[str]) -> None:
    from lossless._accuracy import tables

    narrow = sys.stdout.isatty() and shutil.get_terminal_size().columns < 150
    output.table(("", ""), list(certificate.machine.items()))
    if "torch" not in certificate.machine:
        output.text("Gradients are measured through PyTorch, which is not installed: values only.")
    for dtype in dtypes:
        table = tables.by_function(certificate, dtype)
        output.heading(f"{table.title}: largest error in ulp (lost: no digit is right; *: of the larger of two terms)")
        # A narrow terminal has no room for where the worst was found, and in how many rows.
        shown = [i for i, name in enumerate(table.columns) if not (narrow and name in ("worst at", "rows"))]
        columns, rows = [table.columns[i] for i in shown], [[row[i] for i in shown] for row in table.rows]
        output.table(columns, rows, numeric=[i >= table.names for i in shown])
    table = tables.exceptions(certificate)
    output.heading(table.title)
    output.table(table.columns, table.rows, numeric=[False] * len(table.columns))
    output.text()
    output.text(
        f"{certificate.rows:,} rows ({certificate.long_rows} of 131,072 classes or more) and {certificate.elements:,} "
        f"elements from seed {certificate.seed}, {certificate.rounds} rounds: {len(certificate.broken)} over promise"
    )
    for complaint in certificate.broken:
        output.text(complaint)
