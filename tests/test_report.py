"""The page: what it says is tested as data; of the drawing, that nothing from data gets out of its place."""

import html.parser
import itertools
import json
import re
import sys

import numpy as np
import pytest

import lossless

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

from lossless._evaluate.text import printable
from lossless._report import Curve, Figure, Panel, Series, Table, build_comparison_page, build_page
from lossless._report.data import Losses
from lossless._report.page import render
from lossless.errors import MissingExtraError, ParameterError

RNG = np.random.default_rng(4)


def evaluation(path, scores, labels, **members):
    np.savez(path, logits=scores, label=labels, **members)
    return lossless.evaluate(path)


@pytest.fixture(scope="module")
def ordinary(tmp_path_factory):
    labels = RNG.integers(0, 4, 300)
    scores = RNG.normal(size=(300, 4)) * 2
    scores[np.arange(300), labels] += 2
    return evaluation(tmp_path_factory.mktemp("report") / "p.npz", scores, labels)


class Reader(html.parser.HTMLParser):
    """Elements, attributes and text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text, self.inside = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.inside.append(tag)

    def handle_endtag(self, tag):
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data):
        if not {"script", "style"} & set(self.inside):
            self.text.append(data)


def specifications(page):
    found = re.findall(r'<script type="application/json">(.*?)</script>', page, re.DOTALL)
    return [json.loads(text) for text in found]


def chart(page, kind):
    return next(c for panel in page.panels for c in panel.charts if isinstance(c, kind))


def table(page, title):
    return next(t for panel in page.panels for t in panel.tables if t.title == title)


def test_data_of_the_page(ordinary):
    page = build_page(ordinary)
    figures = {f.name: f.value for f in page.figures}
    assert figures["NLL"] == f"{ordinary.nll:.6g}"
    assert figures["Accuracy"] == f"{ordinary.accuracy:.6g}"
    assert page.title == ordinary.source.files[0]
    assert sum(b.count for b in chart(page, Losses).bins) == 300
    classes = table(page, "Classes")
    assert [row[0] for row in classes.rows] == ["0", "1", "2", "3"]
    assert [row[-1] for row in classes.footer] == [f"{ordinary.macro.nll:.6g}", f"{ordinary.nll:.6g}"]
    assert [int(row[0]) for row in table(page, "Most surprising rows").rows] == [r.row for r in ordinary.surprising]
    assert all(len(row) == len(classes.columns) == len(classes.numeric) for row in classes.rows)


def test_bars_cover_the_losses_without_gaps(ordinary, tmp_path):
    spread = np.array([[g, 0.0] for g in np.linspace(0, 700, 500)])  # from log 2 down to 1e-304
    for e in (ordinary, evaluation(tmp_path / "p.npz", spread, np.arange(500) % 2)):
        bars = chart(build_page(e), Losses).bins
        assert sum(b.count for b in bars) == e.rows
        assert all(a.high == pytest.approx(b.low) for a, b in itertools.pairwise(bars))
        assert all(b.low < b.high for b in bars)
    assert bars[0].below_float32
    assert not bars[-1].below_float32
    assert "lie below" in chart(build_page(e), Losses).caption


def test_many_classes_start_with_the_worst_and_stop(tmp_path):
    scores = RNG.normal(size=(3000, 700))
    e = evaluation(tmp_path / "p.npz", scores, np.arange(3000) % 600)
    classes = table(build_page(e), "Classes")
    assert len(classes.rows) == 500
    f1 = [float(row[3]) for row in classes.rows]
    assert f1 == sorted(f1)
    assert "500 of" in classes.caption
    assert len(e.classes) > 600


def test_the_page_stands_alone(ordinary):
    page = render(build_page(ordinary))
    assert len(page.encode()) < 2_000_000
    reader = Reader(page)
    assert not {"link", "img", "iframe", "object", "base"} & set(reader.tags)
    assert not [v for k, v in reader.attributes if k in ("src", "href")]
    assert not [k for k, _ in reader.attributes if k.startswith("on")]
    policy = next(v for k, v in reader.attributes if k == "content" and "default-src" in v)
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
    assert policy.count("sha256-") == 2
    assert len(specifications(page)) == 4
    assert "prefers-color-scheme: dark" in page


def test_pages_are_the_same_bytes_for_the_same_figures(ordinary):
    assert render(build_page(ordinary)) == render(build_page(ordinary))


def test_findings_stand_apart_from_notes(tmp_path):
    probs = np.random.default_rng(4).dirichlet(np.ones(4), 400)
    np.savez(tmp_path / "p.npz", logits=probs, label=np.r_[-100, probs.argmax(1)[1:]])
    e = lossless.evaluate(tmp_path / "p.npz", logits="logits")
    page = build_page(e)
    assert [f.name for f in page.findings] == ["softmax-before-loss", "label-is-prediction"]
    assert page.notes == e.notes
    assert page.notes
    said = " ".join(Reader(render(page)).text)
    for text in (*page.notes, page.findings[0].evidence, page.findings[0].cause, page.findings[0].fix):
        assert text in said


HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    "\"'><b>{{7*7}}{% x %}",
    "<!--\u2028\u202e\x07-->",
]


def test_nothing_from_data_becomes_markup(tmp_path):
    labels = RNG.integers(0, 4, 60)
    path = tmp_path / "<script>alert(3)<\\script>.npz"
    text = np.array(["</td><script>alert(4)</script>"] * 60)
    e = evaluation(path, RNG.normal(size=(60, 4)), labels, class_names=np.array(HOSTILE), note=text)
    curve = Curve(HOSTILE[0], HOSTILE[1], HOSTILE[0], HOSTILE[1], (Series(HOSTILE[0], ((1, 2.0), (2, 1.0))),))
    table = Table(HOSTILE[0], HOSTILE[1], (HOSTILE[2], HOSTILE[3]), (False, True), (tuple(HOSTILE[:2]),), ())
    panel = Panel(
        HOSTILE[0],
        HOSTILE[1],
        (Figure(HOSTILE[0], HOSTILE[1], HOSTILE[2]),),
        (curve,),
        points=tuple(HOSTILE),
        tables=(table,),
    )
    page = render(build_page(e, panels=[panel]))
    plain = Reader(render(build_page(e)))
    reader = Reader(page)
    # as many scripts as there are charts and code; no element that only data would make
    assert reader.tags.count("script") == plain.tags.count("script") + 1 == len(specifications(page)) + 2
    assert "img" not in reader.tags
    assert reader.tags.count("b") == len(e.findings)  # "Fix:"
    said = " ".join(reader.text)
    for name in (*HOSTILE, "</td><script>alert(4)</script>", str(path)):
        assert printable(name) in said
    assert not {"\u2028", "\u202e", "\x07"} & set(said)
    series = specifications(page)[2]
    assert HOSTILE[0] in json.dumps(series, ensure_ascii=False)


def test_a_panel_has_points_tables_and_curves_of_many_lines(ordinary):
    series = tuple(Series(f"loss {i}", ((1, 1.0 + i), (2, 0.5 + i))) for i in range(9))
    compared = Table("Compared", "All of them.", ("loss", "nll"), (False, True), (("a", "0.25"), ("b", "")))
    curve = Curve("Learning", "", "epoch", "loss", series)
    page = render(
        build_page(ordinary, panels=[Panel("Added", "", points=("One point.",), tables=(compared,), charts=(curve,))])
    )
    assert "<li>One point.</li>" in page
    assert '<td>a</td><td class="number">0.25</td>' in page
    tags = Reader(page).tags
    assert tags.count("table") == 4  # and the confusions, the surprising rows, and the classes
    assert tags.count("section") == 6
    encoding = specifications(page)[2]["encoding"]
    looks = [
        (encoding["color"]["scale"]["range"][i], tuple(encoding["strokeDash"]["scale"]["range"][i])) for i in range(9)
    ]
    assert encoding["color"]["scale"]["domain"] == [s.name for s in series]
    assert len(set(looks)) == 9  # no two lines look the same


def test_figures_that_are_no_numbers(tmp_path):
    np.savez(tmp_path / "p.npz", probs=np.array([[1.0, 0, 0], [1, 0, 0], [0.9, 0.05, 0.05]]), label=[0, 1, 2])
    e = lossless.evaluate(tmp_path / "p.npz")
    page = build_page(e)
    assert page.figures[0].value == "inf"
    assert table(page, "Classes").rows[1][1] == "-"
    assert chart(page, Losses).bins[-1].label == "1e+03 or more"
    assert [finding.name for finding in page.findings] == ["zero-probability"]
    assert len(specifications(render(page))) == 4


def test_pages_are_saved(ordinary, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old")
    assert lossless.save_page(ordinary, path) is None
    assert path.read_text("utf-8") == render(build_page(ordinary))
    labels = np.arange(30) % 3
    for name, scale in (("a", 1), ("b", 2)):
        np.savez(tmp_path / f"{name}.npz", logits=3 * scale * np.eye(3)[labels], label=labels)
    comparison = lossless.compare(tmp_path / "a.npz", tmp_path / "b.npz")
    lossless.save_page(comparison, str(path))
    assert path.read_text("utf-8") == render(build_comparison_page(comparison))
    with pytest.raises(ParameterError, match=r"^save_page: result got Evaluator, expected an Evaluation or a Comp"):
        lossless.save_page(lossless.Evaluator(), path)
    with pytest.raises(OSError, match="report"):
        lossless.save_page(ordinary, tmp_path / "nowhere" / "report.html")
    monkeypatch.delitem(sys.modules, "lossless._report.page")
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(MissingExtraError, match=r"needs altair, which is not installed: pip install 'lossless\[eval"):
        lossless.save_page(comparison, tmp_path / "other.html")
    assert not (tmp_path / "other.html").exists()
