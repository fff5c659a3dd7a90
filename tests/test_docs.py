"""The pages of docs/ run: every example prints what it says."""

import doctest
from pathlib import Path

import pytest

PAGES = sorted((Path(__file__).parent.parent / "docs").glob("*.md"))
TABLES = ("accuracy", "performance", "transforms", "troubleshooting")
PAGES = [page for page in PAGES if page.stem not in TABLES]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_examples(page):
    pytest.importorskip("torch")
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    result = doctest.testfile(str(page), module_relative=False, optionflags=flags)
    assert result.attempted > 0
    assert result.failed == 0


def test_there_are_pages():
    assert {page.stem for page in PAGES} >= {"scores-to-losses", "special-values", "switching"}
