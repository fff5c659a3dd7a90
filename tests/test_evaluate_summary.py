"""An evaluation in a terminal and in a notebook: short, whatever its size, and nothing from data in charge."""

import html.parser

import numpy as np
import pytest

import lossless

HOSTILE = "<img src=x onerror=alert(1)>\u202e\x1b[31m"


class Cells(html.parser.HTMLParser):
    """The cells of a page's tables, and the elements it has."""

    def __init__(self, page):
        super().__init__()
        self.cells, self.tags = [], set()
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.cells.append("")

    def handle_data(self, data):
        self.cells[-1] += data


@pytest.fixture
def evaluation(tmp_path):
    random = np.random.default_rng(2)
    probs = random.dirichlet(np.ones(500), 2000)
    labels = probs.argmax(1)
    labels[:10] = -100
    path = tmp_path / f"{HOSTILE}.npz"
    np.savez(path, logits=probs, label=labels, class_names=np.array([f"{HOSTILE}{i}" for i in range(500)]))
    return lossless.evaluate(path, logits="logits")


def test_in_a_terminal_it_is_short(evaluation):
    said = repr(evaluation)
    assert str(evaluation) == said
    lines = said.split("\n")
    assert len(lines) < 15
    assert "1990 of 2000 rows, 500 classes" in lines[0]
    words = {line.split()[0]: line.split()[1] for line in lines[1:7]}
    assert words["nll"] == f"{evaluation.nll:.6g}"
    assert list(words) == ["nll", "accuracy", "calibration_error", "confidence", "brier", "entropy"]
    assert "  warning: softmax-before-loss" in lines
    assert any("10 rows have the ignored label" in line for line in lines)
    assert not {"\x1b", "\u202e"} & set(said)


def test_in_a_notebook_it_is_a_table(evaluation):
    page = evaluation._repr_html_()
    found = Cells(page)
    assert found.tags <= {"p", "b", "table", "tr", "th", "td"}
    assert not {"\x1b", "\u202e"} & set(page)
    assert "color" not in page  # the notebook has its own, light or dark
    for value in (f"{evaluation.brier:.6g}", "softmax-before-loss", evaluation.findings[0].fix):
        assert value in found.cells
    assert len(page) < 10_000
