"""The pages of docs/ run: every example prints what it says."""

import doctest
import re
from pathlib import Path

import pytest

from lossless._diagnose.troubles import troubles

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
    assert {page.stem for page in PAGES} >= {"evaluating", "scores-to-losses", "special-values", "switching"}


def test_the_guide_names_every_finding_with_its_severity():
    page = next(page for page in PAGES if page.stem == "evaluating").read_text("utf-8")
    table = page.partition("| finding |")[2].partition("\n\n")[0]
    told = {}
    for row in table.split("\n")[2:]:
        names, severities, _ = (cell.strip() for cell in row.split("|")[1:-1])
        names, severities = re.findall(r"`([^`]*)`", names), severities.split(", ")
        told |= dict(zip(names, severities * (len(names) if len(severities) == 1 else 1), strict=True))
    assert told == {trouble.name: trouble.level for trouble in troubles().values() if "files" in trouble.found_in}


def test_the_guide_names_every_option():
    import argparse

    from lossless.cli import evaluate

    page = next(page for page in PAGES if page.stem == "evaluating").read_text("utf-8")
    parser = argparse.ArgumentParser(add_help=False)
    evaluate.add_arguments(parser)
    options = {option for action in parser._actions for option in action.option_strings}
    assert options
    assert {option for option in options if f"{option} " not in page and f"{option}`" not in page} == set()
