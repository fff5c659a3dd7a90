"""Evaluate saved predictions: loss, accuracy, entropy and calibration, per class, and the most surprising rows."""

from __future__ import annotations

import argparse
import io
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from concurrent.futures import Executor

    from lossless._evaluate import Evaluation
    from lossless._evaluate.intervals import Interval

    from ._console import Output

SUMMARY = "loss, accuracy and calibration of saved predictions"
_CLASS_ROWS, _CONFUSED_ROWS, _SURPRISING_ROWS = 20, 10, 10
_CELL = 60  # characters of a cell; texts of the data may be long


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files, how to read them, and where the results go."""
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="+",
        help="Parquet, Arrow or Feather, CSV, TSV or JSON lines (also .gz), NPZ, NPY, safetensors, .pt; a pattern or a "
        "directory stands for its files, and several files are taken together",
    )
    scores = parser.add_mutually_exclusive_group()
    column = "NAME", "of a column of lists, of a 2-d array, or the prefix of one column per class"
    scores.add_argument("--logits", metavar=column[0], help=f"the scores are logits: name {column[1]}")
    scores.add_argument("--probs", metavar=column[0], help="the scores are probabilities")
    scores.add_argument("--log-probs", metavar=column[0], help="the scores are log-probabilities")
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
        "--ignore-index", metavar="N", type=int, default=-100, help="leave out rows with this label (default: -100)"
    )
    parser.add_argument(
        "--surprising", metavar="N", type=_count, default=20, help="keep the N rows of largest loss (default: 20)"
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
    from lossless._evaluate import evaluate
    from lossless._evaluate.inputs import find_files

    from ._console import Output, progress
    from ._files import UsageError, check_outputs, write_text

    if args.out == "-":
        raise UsageError("--out got -, expected a file: a page is not for a terminal (--json - is)")
    if args.out is not None:
        from lossless._report import build_page
        from lossless._report.page import render
    to_stdout = args.json == "-"
    if args.address is not None and args.engine != "dask":
        raise UsageError(f"--address names a Dask scheduler, and --engine is {args.engine}: add --engine dask")
    inputs = find_files(args.files)[0] + ([] if args.targets is None else [args.targets])
    check_outputs({"--json": None if to_stdout else args.json, "--out": args.out}, inputs)
    with _engine(args) as executor, progress("rows") as bar:
        evaluation = evaluate(
            args.files,
            logits=args.logits,
            probs=args.probs,
            log_probs=args.log_probs,
            label=args.label,
            targets=args.targets,
            on=args.on,
            by=args.by,
            ignore_index=args.ignore_index,
            surprising=args.surprising,
            workers=args.workers,
            executor=executor,
            progress=bar,
        )
    # Files first: whoever reads stdout may leave at any line.
    if args.json is not None and not to_stdout:
        write_text(args.json, evaluation.to_json())
    if args.out is not None:
        write_text(args.out, render(build_page(evaluation)))
    if to_stdout:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(encoding="utf-8")  # JSON is UTF-8 whatever the terminal speaks
        print(evaluation.to_json(), end="")
    else:
        show(evaluation, Output())
    failed = evaluation.failed(args.fail_on)
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
    from lossless._report import class_table, confused_table, interval_text, slice_table, surprising_table

    from ._console import figure

    e, source = evaluation, evaluation.source
    output.heading(", ".join(source.files))
    output.text(
        f"{e.rows} of {source.rows} rows, {source.classes} classes; column '{source.scores}' read as {source.kind} "
        f"({source.kind_reason}), labels from '{source.label}'"
    )
    for note in e.notes:
        output.text(f"note: {note}")
    for finding in e.findings:
        output.text(finding.sentence())
    output.heading("figures")
    output.table(
        ("", "value", "95 % interval", ""),
        numeric=(False, True, False, False),
        rows=[
            (name, figure(value), interval_text(interval), meaning) for name, value, interval, meaning in _figures(e)
        ],
    )
    for table in (
        *(slice_table(slicing, _CLASS_ROWS) for slicing in e.slices),
        class_table(e, _CLASS_ROWS),
        confused_table(e, _CONFUSED_ROWS),
        surprising_table(e, _SURPRISING_ROWS),
    ):
        if table is not None:
            output.heading(table.title.lower())
            output.text(table.caption)
            cells = [[cell[:_CELL] for cell in row] for row in (*table.rows, *table.footer)]
            output.table(table.columns, cells, numeric=table.numeric)


def _figures(e: Evaluation) -> list[tuple[str, float, Interval | None, str]]:
    """The name, the value, the interval and the meaning of every figure."""
    from ._console import figure

    i, best = e.intervals, e.temperature
    top_5 = ("top-5 accuracy", e.top_5_accuracy, i["top_5_accuracy"], "the true class is among the 5 largest scores")
    adaptive = f"the same in bins of equally many rows{_bound(e, 'adaptive_calibration_error')}"
    gain = (
        f"would make nll {figure(best.nll)} of {figure(best.nll_before)} and calibration error "
        f"{figure(best.calibration_error)} of {figure(best.calibration_error_before)}, on {best.rows} rows"
    )
    return [
        ("nll", e.nll, i["nll"], "nats, mean -log p of the true class (the cross-entropy loss)"),
        ("bits", e.bits, i["bits"], "the same in bits"),
        ("perplexity", e.perplexity, i["perplexity"], "exp(nll)"),
        ("focal", e.focal, i["focal"], "focal loss of gamma 2, mean (1 - p)^2 (-log p)"),
        ("brier", e.brier, i["brier"], "squared error of the probabilities, summed over classes (0..2)"),
        ("accuracy", e.accuracy, i["accuracy"], "largest score is the true class"),
        *([top_5] if e.source.classes > 5 else []),
        ("confidence", e.confidence, i["confidence"], "mean probability of the predicted class"),
        ("entropy", e.entropy, i["entropy"], "nats, mean over rows"),
        ("calibration error", e.calibration_error, None, "expected |accuracy - confidence|, 15 bins"),
        ("- adaptive", e.adaptive_calibration_error, None, adaptive),
        ("- largest", e.max_calibration_error, None, "of the 15 bins"),
        ("auroc", e.auroc, i["auroc"], f"a right prediction is surer than a wrong one{_bound(e, 'auroc')}"),
        ("aurc", e.aurc, None, f"error rate of the surest rows, mean over their share{_bound(e, 'aurc')}"),
        ("best temperature", best.temperature, best.interval, gain),
    ]


def _bound(e: Evaluation, field: str) -> str:
    """How far a ranked figure may be off."""
    return f"; exact to {e.bounds[field]:.1g}" if e.bounds[field] > 0 else ""
