"""Part (b): a pretrained language classifier on real text, and what plain floating point loses of its losses."""

from __future__ import annotations

import gettext
import json
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import django
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from lossless._evaluate.rows import ScoredRows
from lossless._report import Figure, Panel

from .._console import Progress

MIN_CHARACTERS = 20
_ROW_GROUP = 4096
_WRITER = "written_by"  # in the schema metadata
# Django names a locale by language, script and country (pt_BR, sr_Latn, zh_Hans); the model has one class per
# language: its zh, pt, sr, es, ar and en cover those variants (it was trained with Serbian in both scripts, and its
# Cantonese and Wu are languages of their own). Norwegian Bokmål, Django's nb, is its class no; nn is a class.
_LANGUAGE = {"nb": "no"}


@dataclass(frozen=True)
class Texts:
    """Translated strings with the index of their language in `languages`."""

    texts: tuple[str, ...]
    labels: tuple[int, ...]
    languages: tuple[str, ...]  # the classes of the model, in score order
    unknown: Counter[str] = field(default_factory=Counter)  # strings by locale whose language the model lacks

    def summary(self) -> str:
        """What was read and what was left out."""
        return (
            f"{len(self.texts)} translated strings of at least {MIN_CHARACTERS} characters from Django's catalogues "
            f"in {len(set(self.labels))} languages; {sum(self.unknown.values())} strings in {len(self.unknown)} "
            f"languages that the model does not know were left out ({', '.join(sorted(self.unknown))})."
        )

    def facts(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "strings": len(self.texts),
            "languages": len(set(self.labels)),
            "classes": len(self.languages),
            "left_out": dict(sorted(self.unknown.items())),
        }


@cache
def _model() -> LanguageIdentifier:
    return LanguageIdentifier.from_model_file(MODEL_FILE)


def collect(*, every: int = 1) -> Texts:
    """Every translation once per language; untranslated ones, which are English, only under English.

    `every` = k keeps each k-th string.
    """
    languages = tuple(_model().labels)
    index = {language: i for i, language in enumerate(languages)}
    unknown: Counter[str] = Counter()
    found: dict[tuple[str, int], None] = {}  # in order of reading, each once
    for path in sorted(Path(django.__file__).parent.rglob("locale/*/LC_MESSAGES/*.mo")):
        locale = path.parts[-3]
        language = locale.partition("_")[0]
        language = _LANGUAGE.get(language, language)
        for source, text in _catalogue(path):
            if len(text) < MIN_CHARACTERS or (text == source and language != "en"):
                continue
            if language in index:
                found[text, index[language]] = None
            else:
                unknown[locale] += 1
    kept = list(found)[::every]
    return Texts(tuple(t for t, _ in kept), tuple(i for _, i in kept), languages, unknown)


def _catalogue(path: Path) -> list[tuple[str, str]]:
    """(English, translation) of a compiled catalogue, plural forms one by one, without its header."""
    with path.open("rb") as stream:
        # gettext offers look-up only; this dictionary is what it looks up in.
        catalogue: dict[Any, str] = vars(gettext.GNUTranslations(stream))["_catalog"]
    sources = ((key[0] if isinstance(key, tuple) else key, text) for key, text in catalogue.items())
    return [(source, text) for source, text in sources if source]


def score(texts: Texts, path: Path, *, written_by: str, progress: Progress | None = None) -> None:
    """Write the model's scores (logits) with label and text; class names go into the schema."""
    model, classes = _model(), len(texts.languages)
    schema = pa.schema(
        {"logits": pa.list_(pa.float32(), classes), "label": pa.int64(), "text": pa.string()},
        metadata={"class_names": json.dumps(texts.languages), _WRITER: written_by},
    )
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for start in range(0, len(texts.texts), _ROW_GROUP):
            group = texts.texts[start : start + _ROW_GROUP]
            ranked = (dict(model.rank(text)) for text in group)
            logits = np.array([[scores[name] for name in texts.languages] for scores in ranked], np.float32)
            columns = [
                pa.FixedSizeListArray.from_arrays(pa.array(logits.ravel()), classes),
                pa.array(texts.labels[start : start + _ROW_GROUP]),
                pa.array(group),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            if progress is not None:
                progress(start + len(group), len(texts.texts))


def writer_of(path: Path) -> str | None:
    """The `written_by` of a file by `score`; None for any other file."""
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (pa.ArrowException, OSError, ValueError):
        return None
    writer: bytes | None = metadata.get(_WRITER.encode())
    return None if writer is None else writer.decode("utf-8", "replace")


class Lost:
    """A metric: rows whose loss plain -log(softmax(x)) returns as 0 or infinity although it is neither."""

    def __init__(self) -> None:
        self.rows = 0
        self.zero = {"float32": 0, "float64": 0}
        self.infinite = {"float32": 0, "float64": 0}

    def update(self, rows: ScoredRows) -> None:
        """Compute the losses as one would by hand, the maximum subtracted, in either precision."""
        self.rows += len(rows)
        at = np.arange(len(rows))
        for precision in self.zero:
            x = rows.logits.astype(precision)
            e = np.exp(x - x.max(axis=1, keepdims=True))
            with np.errstate(divide="ignore"):
                naive = -np.log((e / e.sum(axis=1, keepdims=True))[at, rows.label])
            self.zero[precision] += int(np.count_nonzero((naive == 0) & (rows.nll > 0)))
            self.infinite[precision] += int(np.count_nonzero(np.isinf(naive) & np.isfinite(rows.nll)))

    def merge(self, other: Lost) -> None:
        """Join the rows that follow."""
        self.rows += other.rows
        for precision in self.zero:
            self.zero[precision] += other.zero[precision]
            self.infinite[precision] += other.infinite[precision]

    def result(self) -> Lost:
        """The counts."""
        return self

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return {"rows": self.rows, "zero": self.zero, "infinite": self.infinite}

    def sentences(self) -> list[str]:
        """The counts in words."""
        return [
            f"{precision}: {zero} of {self.rows} losses ({zero / self.rows:.1%}) come out as exactly 0 and "
            f"{self.infinite[precision]} as infinite; none of them is."
            for precision, zero in self.zero.items()
        ]

    def panel(self) -> Panel:
        """For the page."""
        return Panel(
            "What −log(softmax(x)) loses here",
            "The same losses computed by hand, the largest score subtracted first as every textbook says. A loss that "
            "comes out as 0 has gradient 0, and the row is invisible to training and to evaluation.",
            figures=tuple(
                Figure(
                    f"{what} in {precision}", f"{counts[precision]:,}", f"of {self.rows:,} rows; the truth is neither"
                )
                for precision in self.zero
                for what, counts in (("Exactly 0", self.zero), ("Infinite", self.infinite))
            ),
        )
