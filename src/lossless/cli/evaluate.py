"""Evaluate saved predictions: loss, accuracy, entropy and calibration, per class, and the most surprising rows."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from lossless._evaluate import Comparison, Evaluation
    from lossless._report import Table

    from ._console import Output

SUMMARY = "loss, accuracy and calibration of saved predictions"
_CLASS_ROWS, _FEW_ROWS = 20, 10
_CELL = 64  # characters of a cell; texts of the data may be long


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files, how to read them, and where the results go."""
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="Parquet, Arrow or Feather, CSV, TSV or JSON lines (also .gz), NPZ, NPY, safetensors, .pt; a pattern or a "
        "directory stands for its files, and several files are taken together; also on a store: s3://, gs://, https://",
    )
    scores = parser.add_mutually_exclusive_group()
    column = "NAME", "of a column of lists, of a 2-d array, or the prefix of one column per class"
    scores.add_argument("--logits", metavar=column[0], help=f"the scores are logits: name {column[1]}")
    scores.add_argument("--probs", metavar=column[0], help="the scores are probabilities")
    scores.add_argument("--log-probs", metavar=column[0], help="the scores are log-probabilities")
    scores.add_argument("--predictions", metavar="NAME", help="the scores are predictions of a quantity")
    parser.add_argument(
        "--task",
        choices=("multiclass", "binary", "multilabel", "regression"),
        help="what the scores are for (default: by the columns and their values)",
    )
    parser.add_argument("--label", metavar="COL", help="the column of true classes, 0..C-1 or class names")
    parser.add_argument("--targets", metavar="FILE", help="the file with the true classes, if it is another one")
    parser.add_argument(
        "--on", metavar="COL", help="join the targets by this column (default: by the order of the rows)"
    )
    parser.add_argument(
        "--by",
        metavar="COL",
        action="append",
        default=[],
        help="figures of the rows of each value of this column, too; may be given several times",
    )
    parser.add_argument(
        "--class-names", metavar="A,B,...", type=_names, help="names of the classes in the order of the scores"
    )
    parser.add_argument(
        "--ignore-index",
        metavar="N",
        type=int,
        default=-100,
        help="leave out rows with this label, or of several labels the classes with this mark (default: -100)",
    )
    parser.add_argument(
        "--surprising", metavar="N", type=_count, default=20, help="keep the N rows of largest loss (default: 20)"
    )
    parser.add_argument(
        "--compare",
        metavar="FILE",
        nargs="+",
        help="another model's scores of the same rows in the same order: both side by side, with paired intervals",
    )
    parser.add_argument("--out", metavar="PAGE", help="write a self-contained HTML page")
    parser.add_argument("--json", metavar="FILE", help="write all figures, unrounded, as JSON; - is stdout")
    parser.add_argument(
        "--fail-on",
        metavar="NAME",
        type=_findings,
        action="extend",
        default=[],
        help="exit with 2 if this is found: names of findings (docs/troubleshooting.md), or error, warning, hint or "
        "any for those of a severity and graver ones; with commas between several",
    )
    parser.add_argument(
        "--engine",
        choices=("threads", "dask"),
        default="threads",
        help="what runs the parts of the files: threads (default), or the worker processes of Dask; same figures",
    )
    parser.add_argument(
        "--address", metavar="ADDRESS", help="with dask, a scheduler that runs (default: workers are started here)"
    )
    parser.add_argument(
        "--workers",
        metavar="N",
        type=_positive,
        help="threads, or processes that are started (default: one per processor, at most 8); with --address, how many "
        "parts its workers run at once (default: 32)",
    )


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"got {text}, expected 0 or more")
    return number


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"got {text}, expected 1 or more")
    return number


def _names(text: str) -> list[str]:
    """Names with commas between them, which quotation marks may hold together."""
    return [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [])]


def _findings(text: str) -> list[str]:
    from lossless._evaluate.findings import check_names
    from lossless.errors import ParameterError

    names = [name.strip() for name in text.split(",")]
    try:
        check_names(names)
    except ParameterError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return names


def run(args: argparse.Namespace) -> int:
    """Evaluate the files and show, write or print the figures; 2 if there is what should not be found."""
    from lossless._evaluate import Comparison, compare, evaluate
    from lossless._evaluate.inputs import find_files
    from lossless._evaluate.stores import is_url, plain
    from lossless._files import write_text
    from lossless._report import renderer, save_page

    from ._console import Output, progress
    from ._files import UsageError, check_outputs

    if args.out == "-":
        raise UsageError("--out got -, expected a file: a page is not for a terminal (--json - is)")
    if args.out is not None:
        renderer()  # tells before the work what is not installed
    to_stdout = args.json == "-"
    if args.address is not None and args.engine != "dask":
        raise UsageError(f"--address names a Dask scheduler, and --engine is {args.engine}: add --engine dask")
    given = map(plain, [*args.files, *(args.compare or [])])
    inputs = find_files([path for path in given if not is_url(path)])[0]
    inputs += [] if args.targets is None else [plain(args.targets)]
    check_outputs({"--json": None if to_stdout else args.json, "--out": args.out}, [str(path) for path in inputs])
    with _engine(args) as executor, progress("rows") as bar:
        options = {
            "logits": args.logits,
            "probs": args.probs,
            "log_probs": args.log_probs,
            "predictions": args.predictions,
            "label": args.label,
            "task": args.task,
            "targets": args.targets,
            "on": args.on,
            "by": args.by,
            "class_names": args.class_names,
            "ignore_index": args.ignore_index,
            "surprising": args.surprising,
            "workers": args.workers,
            "executor": executor,
            "progress": bar,
        }
        result = (
            evaluate(args.files, **options) if args.compare is None else compare(args.files, args.compare, **options)
        )
    # Files first: whoever reads stdout may leave at any line.
    if args.json is not None and not to_stdout:
        write_text(args.json, result.to_json())
    if args.out is not None:
        save_page(result, args.out)
    if to_stdout:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # JSON is UTF-8 whatever the terminal speaks
        print(result.to_json(), end="")
    elif isinstance(result, Comparison):
        show_comparison(result, Output())
    else:
        show(result, Output())
    failed = result.failed(args.fail_on)
    if failed:
        sys.stdout.flush()
        print(f"lossless evaluate: found {', '.join(finding.name for finding in failed)}", file=sys.stderr)
    return 2 if failed else 0


def _engine(args: argparse.Namespace) -> AbstractContextManager[Executor | None]:
    """What runs the parts; None for threads."""
    if args.engine == "threads":
        return nullcontext()
    from lossless._evaluate.cluster import DaskExecutor

    return DaskExecutor(args.address, args.workers)


def show(evaluation: Evaluation, output: Output) -> None:
    """The tables of the terminal."""
    from lossless._report import build_tables, exactness, interval_text

    from ._console import figure

    e, source = evaluation, evaluation.source
    output.heading(", ".join(source.files))
    output.text(
        f"{e.rows} of {source.rows} rows, {source.width()}: {source.task} ({source.task_reason}); column "
        f"'{source.scores}' read as {source.kind} ({source.kind_reason}), labels from '{source.label}'"
    )
    _show_remarks(e, output)
    output.heading("figures")
    output.table(
        ("", "value", "95 % interval", ""),
        numeric=(False, True, False, False),
        rows=[
            (
                f.title.lower(),
                figure(f.value),
                interval_text(f.interval),
                f.meaning + exactness(f),
            )
            for f in e.figures()
        ],
    )
    for table in build_tables(e, classes=_CLASS_ROWS, few=_FEW_ROWS):
        _show_table(table, output)


def show_comparison(comparison: Comparison, output: Output) -> None:
    """The tables of the terminal, of two models side by side."""
    from lossless._report import build_comparison_tables

    c = comparison
    for name, e in (("A", c.a), ("B", c.b)):
        output.heading(f"{name}: {', '.join(e.source.files)}")
        output.text(f"{e.rows} of {e.source.rows} rows; column '{e.source.scores}' read as {e.source.kind}")
        for note in e.notes:
            output.text(f"note: {note}")
    output.text(f"{c.rows} rows are compared")
    _show_remarks(c, output)
    for table in build_comparison_tables(c, parts=_CLASS_ROWS, few=_FEW_ROWS):
        _show_table(table, output)


def _show_remarks(result: Evaluation | Comparison, output: Output) -> None:
    for note in result.notes:
        output.text(f"note: {note}")
    for finding in result.findings:
        output.text(finding.sentence())


def _show_table(table: Table, output: Output) -> None:
    output.heading(table.title.lower())
    output.text(table.caption)
    cells = [[cell[:_CELL] for cell in row] for row in (*table.rows, *table.footer)]
    output.table(table.columns, cells, numeric=table.numeric)
