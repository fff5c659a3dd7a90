"""Train on small real data with these losses, then evaluate a pretrained model's predictions; offline, in seconds.

(a) The losses compared: a classifier on scikit-learn's digits with each classification loss, and with focal loss where
half of the digits are rare; a regressor on its diabetes data with mse_loss and rmse_loss. (b) py3langid, a language
classifier, on the translations that ship with Django: scores, labels and texts go to predictions.parquet, which is
evaluated as `lossless evaluate` would. Writes report.html and results.json. Files of these names that another program
wrote are not overwritten.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .._console import Output
    from .comparison import Comparison
    from .languages import Lost

SUMMARY = "the whole of it on real input: train, score, evaluate, report"
SCHEMA = "lossless.demo/2"  # of results.json; version 1 had one run of one loss for each data set
GENERATOR = "lossless demo"  # in report.html and predictions.parquet
NO_TORCH = "training is skipped, because PyTorch is not installed: pip install torch"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the results go."""
    parser.add_argument("--out-dir", metavar="DIR", default=".", help="folder for the results (default: here)")
    # A smaller demo for tests; the figures in the documentation are those of the defaults.
    parser.add_argument("--epochs", type=int, default=20, help=argparse.SUPPRESS)
    parser.add_argument("--every", type=int, default=1, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> None:
    """Train, score, evaluate, and write what came out."""
    from lossless import __version__
    from lossless._evaluate.evaluation import evaluate_plan
    from lossless._evaluate.plan import make_plan
    from lossless._evaluate.roles import Request
    from lossless._evaluate.strict_json import dumps
    from lossless._files import replacing, write_text
    from lossless._report import build_page
    from lossless._report.page import render

    from .._console import Output, progress
    from ..evaluate import show
    from . import comparison, languages

    output = Output()
    folder = Path(args.out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    predictions, report, results = (folder / n for n in ("predictions.parquet", "report.html", "results.json"))
    _refuse_to_overwrite(predictions, report, results)

    output.heading("(a) training with lossless")
    compared = _train(args.epochs, output)

    output.heading("(b) a pretrained model's predictions")
    texts = languages.collect(every=args.every)
    with progress("texts") as bar, replacing(predictions) as part:
        languages.score(texts, part, written_by=GENERATOR, progress=bar)
    output.text(texts.summary())
    output.text(f"Their scores by py3langid, the true languages and the texts are saved in {predictions}.")
    plan = make_plan([predictions], Request())
    with progress("rows") as bar:
        evaluation, extra = evaluate_plan(plan, extra={"lost": languages.Lost}, progress=bar)
    lost: Lost = extra["lost"]
    show(evaluation, output)
    output.heading("what -log(softmax(x)) loses on these rows")
    for sentence in lost.sentences():
        output.text(sentence)

    page = build_page(
        evaluation,
        title="lossless demo",
        panels=[*([comparison.panel(compared)] if compared else []), lost.panel()],
        generator=GENERATOR,
    )
    write_text(report, render(page))
    found = {
        "schema": SCHEMA,
        "lossless": __version__,
        "training": {c.name: c for c in compared} if compared else NO_TORCH,
        "languages": texts.facts(),
        "lost": lost.facts(),
        "evaluation": evaluation.to_dict(),
    }
    write_text(results, dumps(found))
    output.text()
    output.text(f"Look at {report} in a browser; every figure, unrounded, is in {results}.")


def _refuse_to_overwrite(predictions: Path, report: Path, results: Path) -> None:
    """The names are ordinary ones: a file that is not an earlier demo's is somebody's work."""
    from lossless.errors import EvaluationError

    from .languages import writer_of

    def start(path: Path) -> str:
        with path.open(encoding="utf-8", errors="replace") as stream:
            return stream.read(4096)

    own: tuple[tuple[Path, Callable[[Path], bool]], ...] = (
        (predictions, lambda path: writer_of(path) == GENERATOR),
        (report, lambda path: f'<meta name="generator" content="{GENERATOR}">' in start(path)),
        (results, lambda path: re.match(r'{\s*"schema": "lossless\.demo/\d+"', start(path)) is not None),
    )
    for path, ours in own:
        if path.exists() and not (path.is_file() and ours(path)):
            raise EvaluationError(
                f"{path}: exists and was not written by the demo, which would overwrite it; name another folder by "
                "--out-dir"
            )


def _train(epochs: int, output: Output) -> Sequence[Comparison]:
    if find_spec("torch") is None:
        output.text(NO_TORCH)
        return ()
    from .._console import progress
    from . import comparison, training

    with progress("runs") as bar:
        compared = training.compare(epochs, progress=bar)
    output.text(comparison.method(compared))
    for verdict in comparison.verdicts(compared):
        output.text()
        output.text(verdict)
    table = comparison.table(compared)
    output.text()
    # A terminal is narrower than the page: the data are headings there, and what a loss is goes unsaid.
    (_, name, _, *measures), rows = table.columns, []
    for i, (data, loss, _, *figures) in enumerate(table.rows):
        if i == 0 or data != table.rows[i - 1][0]:
            rows.append([f"{data}:", *("" for _ in figures)])
        rows.append([loss, *figures])
    output.table([name, *measures], rows)
    output.text(table.caption)
    return compared
