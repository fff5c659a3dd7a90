"""Measure this machine's speed: every function against what is installed (PyTorch eager and compiled, JAX with optax,
SciPy, scikit-learn), as ratios in one run, with peak memory and the errors of both. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lossless._bench.harness import Spec
    from lossless._bench.tables import Bench

    from ._console import Output

SUMMARY = "every function's time, memory and error, ours beside the installed peers'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to measure, how long, and where to write it."""
    add = parser.add_argument
    add("--function", action="append", default=[], metavar="NAME", help="only this one (repeatable)")
    add("--shape", action="append", default=[], metavar="NxC", help="this shape, as 1024x32000 (repeatable)")
    add("--dtype", action="append", default=[], metavar="NAME", help="this format (repeatable; default: float32)")
    add("--threads", action="append", default=[], type=int, metavar="T", help="so many threads (repeatable)")
    add("--peer", action="append", default=[], metavar="NAME", help="only this peer (repeatable)")
    add("--no-peers", action="store_true", help="measure lossless alone, beside a copy of the logits")
    add("--all", action="store_true", help="every function, shape, format, and one thread as well as all")
    add("--seconds", type=float, default=1.5, metavar="S", help="time for a cell (default: 1.5)")
    add("--repeat", type=int, default=1, metavar="K", help="measure everything K times and take medians (default: 1)")
    add("--quick", action="store_true", help="times alone: no peak memory, no errors")
    add("--scaling", action="store_true", help="how time grows from 10^6 to 10^8 elements, in place of the table")
    add("--json", metavar="FILE", help="write every figure as JSON; - for standard output")
    add("--markdown", metavar="FILE", help="write the tables as a page")
    add("--chart", metavar="FILE", help="write an HTML page of time per element against rows and classes")


def run(args: argparse.Namespace) -> None:
    """Measure, print the tables, write the files."""
    from lossless._bench import libraries, shapes, tables
    from lossless._bench.harness import measure
    from lossless._evaluate.strict_json import dumps
    from lossless._files import write_text

    from ._console import Output, progress
    from ._files import UsageError, check_outputs

    if not args.seconds > 0:
        raise UsageError(f"--seconds got {args.seconds:g}, expected more than 0")
    if args.repeat < 1:
        raise UsageError(f"--repeat got {args.repeat}, expected at least 1")
    outputs = {"--json": None if args.json == "-" else args.json, "--markdown": args.markdown, "--chart": args.chart}
    check_outputs(outputs, [])
    if args.scaling and args.shape:
        raise UsageError("--shape and --scaling exclude each other: the shapes of --scaling are its own")
    if args.chart is not None:
        from lossless._bench import chart
    table = [] if args.scaling else list(_table(args))
    scaling = list(_sweeps(args, shapes.SCALING)) if args.scaling else []
    curves = list(_sweeps(args, shapes.CURVES)) if args.chart is not None else []
    peers = _peers(args)
    if not table and not scaling:
        raise UsageError("nothing to measure: NumPy has no bfloat16")
    machine = libraries.versions()
    with progress("Measuring") as report:
        cells = measure([*table, *scaling, *curves], peers, args.seconds, args.repeat, not args.quick, report)
    after = len(table) + len(scaling)
    bench = tables.Bench(
        machine, args.seconds, args.repeat, cells[: len(table)], cells[len(table) : after], cells[after:]
    )
    if args.json == "-":
        print(dumps(bench.to_json()), end="")
    else:
        _print(Output(), bench)
    if args.json not in (None, "-"):
        write_text(args.json, dumps(bench.to_json()))
    if args.markdown is not None:
        write_text(args.markdown, tables.page(bench))
    if args.chart is not None:
        write_text(args.chart, chart.page(bench))


def _table(args: argparse.Namespace) -> Iterator[Spec]:
    """The cells that are asked for, in the order of the rows."""
    from lossless._bench import shapes
    from lossless._bench.harness import Spec

    chosen = _shapes(args) or list(shapes.ALL if args.all else shapes.USUAL)
    for threads, dtype, function in _settings(args):
        yield from (Spec(function, shape, dtype, threads) for shape in chosen)


def _sweeps(args: argparse.Namespace, sweeps: dict[str, tuple[tuple[int, ...], ...]]) -> Iterator[Spec]:
    from lossless._bench.harness import Spec

    for threads, dtype, function in _settings(args):
        for name, shapes in sweeps.items():
            yield from (Spec(function, shape, dtype, threads, name) for shape in shapes)


def _settings(args: argparse.Namespace) -> list[tuple[int, str, str]]:
    """Threads, format and function of all cells."""
    from lossless._bench.functions import FUNCTIONS, ITEM_BYTES, USUAL
    from lossless._bench.threads import every
    from lossless.errors import MissingTorchError

    from ._files import UsageError

    _check("--function", args.function, FUNCTIONS)
    _check("--dtype", args.dtype, ITEM_BYTES)
    for count in args.threads:
        if count < 1:
            raise UsageError(f"--threads got {count}, expected at least 1")
    functions = args.function or list(FUNCTIONS if args.all else USUAL)
    dtypes = args.dtype or (list(ITEM_BYTES) if args.all else ["float32"])
    threads = args.threads or ([1, every()] if args.all else [every()])
    if not all(FUNCTIONS[name].numpy for name in functions) and find_spec("torch") is None:
        raise MissingTorchError
    return [
        (count, dtype, function)
        for count in dict.fromkeys(threads)
        for dtype in dict.fromkeys(dtypes)
        for function in dict.fromkeys(functions)
        if not (FUNCTIONS[function].numpy and dtype == "bfloat16")  # which NumPy has not
    ]


def _shapes(args: argparse.Namespace) -> list[tuple[int, ...]]:
    from lossless._bench import shapes

    from ._files import UsageError

    found = []
    for text in args.shape:
        shape = shapes.parse(text)
        if shape is None:
            raise UsageError(
                f"--shape got {text}, expected N x C, as 1024x32000, or with more dimensions, as 8x21x64x64"
            )
        found.append(shape)
    return list(dict.fromkeys(found))


def _peers(args: argparse.Namespace) -> list[str]:
    """The names in tables of the peers to ask."""
    from lossless._bench.libraries import PEERS

    from ._files import UsageError

    _check("--peer", args.peer, PEERS)
    if args.no_peers and args.peer:
        raise UsageError("--peer and --no-peers exclude each other")
    if args.no_peers:
        return []
    for name in args.peer:
        if not PEERS[name].installed():
            raise UsageError(f"--peer got {name}, which needs {' and '.join(PEERS[name].packages)}: not installed")
    chosen = [name for name, peer in PEERS.items() if (name in args.peer or not args.peer) and peer.installed()]
    return [PEERS[name].name for name in chosen]


def _check(flag: str, given: list[str], known: Collection[str]) -> None:
    from ._files import UsageError

    for name in given:
        if name not in known:
            raise UsageError(f"{flag} got {name}, expected one of {', '.join(known)}")


def _print(output: Output, bench: Bench) -> None:
    from lossless._bench import tables
    from lossless._bench.harness import SLOW

    output.table(("", ""), list(bench.machine.items()))
    for table in tables.tables(bench):
        output.heading(table.title)
        output.table(table.columns, table.rows, numeric=[i >= table.names for i in range(len(table.columns))])
    if tables.means(bench.table) and not tables.slow_cells(bench.table):
        output.text()
        output.text(f"No cell is below {SLOW} of a peer's speed.")
