"""Evaluate saved predictions: loss, accuracy, entropy and calibration, per class, and the most surprising rows."""

from __future__ import annotations

import argparse
import io
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lossless._evaluate import Evaluation

    from ._console import Output

SUMMARY = "loss, accuracy and calibration of saved predictions"
_CLASS_ROWS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The files, how to read them, and where the results go."""
    parser.add_argument("files", metavar="FILE", nargs="+", help="Parquet or NPZ; several files are taken together")
    scores = parser.add_mutually_exclusive_group()
    column = "NAME", "of a column of lists, of a 2-d array, or the prefix of one column per class"
    scores.add_argument("--logits", metavar=column[0], help=f"the scores are logits: name {column[1]}")
    scores.add_argument("--probs", metavar=column[0], help="the scores are probabilities")
    scores.add_argument("--log-probs", metavar=column[0], help="the scores are log-probabilities")
    parser.add_argument("--label", metavar="COL", help="the column of true classes, 0..C-1 or class names")
    parser.add_argument(
        "--ignore-index", metavar="N", type=int, default=-100, help="leave out rows with this label (default: -100)"
    )
    parser.add_argument(
        "--surprising", metavar="N", type=_count, default=20, help="keep the N rows of largest loss (default: 20)"
    )
    parser.add_argument("--out", metavar="PAGE", help="write a self-contained HTML page")
    parser.add_argument("--json", metavar="FILE", help="write all figures, unrounded, as JSON; - is stdout")
    parser.add_argument(
        "--workers", metavar="N", type=_positive, help="threads (default: one per processor, at most 8)"
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


def run(args: argparse.Namespace) -> None:
    """Evaluate the files and show, write or print the figures."""
    from lossless._evaluate import evaluate

    from ._console import Output, progress
    from ._files import UsageError, check_outputs, write_text

    if args.out == "-":
        raise UsageError("--out got -, expected a file: a page is not for a terminal (--json - is)")
    if args.out is not None:
        from lossless._report import build_page, render
    to_stdout = args.json == "-"
    check_outputs({"--json": None if to_stdout else args.json, "--out": args.out}, args.files)
    with progress("rows") as bar:
        evaluation = evaluate(
            args.files,
            logits=args.logits,
            probs=args.probs,
            log_probs=args.log_probs,
            label=args.label,
            ignore_index=args.ignore_index,
            surprising=args.surprising,
            workers=args.workers,
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


def show(evaluation: Evaluation, output: Output) -> None:
    """The tables of the terminal."""
    from ._console import figure, share

    e, source = evaluation, evaluation.source
    output.heading(", ".join(source.files))
    output.text(
        f"{e.rows} of {source.rows} rows, {source.classes} classes; column '{source.scores}' read as {source.kind} "
        f"({source.kind_reason}), labels from '{source.label}'"
    )
    for note in e.notes:
        output.text(f"note: {note}")
    output.heading("figures")
    output.table(
        ("", "value", ""),
        [
            ("nll", figure(e.nll), "nats, mean -log p of the true class (the cross-entropy loss)"),
            ("bits", figure(e.bits), "the same in bits"),
            ("perplexity", figure(e.perplexity), "exp(nll)"),
            ("accuracy", figure(e.accuracy), "largest score is the true class"),
            ("confidence", figure(e.confidence), "mean probability of the predicted class"),
            ("calibration error", figure(e.calibration_error), "expected |accuracy - confidence|, 15 bins"),
            ("brier", figure(e.brier), "squared error of the probabilities, summed over classes (0..2)"),
            ("entropy", figure(e.entropy), "nats, mean over rows"),
        ],
    )
    _show_classes(e, output)
    if e.surprising:
        output.heading("most surprising rows")
        several = len(source.files) > 1
        output.table(
            ("row", "label", "predicted", "loss", "confidence", *(["file"] if several else []), ""),
            [
                (
                    str(r.row),
                    source.class_name(r.label),
                    source.class_name(r.predicted),
                    figure(r.nll),
                    share(r.confidence),
                    *([r.file] if several else []),
                    " | ".join(r.details.values())[:60],
                )
                for r in e.surprising[:10]
            ],
            left=3,
        )


def _show_classes(e: Evaluation, output: Output) -> None:
    """scikit-learn's classification report with the mean loss; the worst classes where there are many."""
    from ._console import figure, share

    some = len(e.classes) > _CLASS_ROWS
    output.heading(f"classes: the {_CLASS_ROWS} of lowest F1 of {len(e.classes)}" if some else "classes")
    rows = [
        (
            e.source.class_name(c.index),
            share(c.precision),
            share(c.recall),
            share(c.f1),
            str(c.support),
            str(c.predicted),
            figure(c.nll),
        )
        for c in (e.worst_classes()[:_CLASS_ROWS] if some else e.classes)
    ]
    averages = [
        (f"{name} average", share(a.precision), share(a.recall), share(a.f1), str(e.rows), "", figure(a.nll))
        for name, a in (("macro", e.macro), ("weighted", e.weighted))
    ]
    output.table(("class", "precision", "recall", "f1-score", "support", "predicted", "mean loss"), rows + averages)
