"""docs/evaluation-json.md names every field of the JSON, of every task, and no other."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

import lossless

PAGE = (Path(__file__).parent.parent / "docs" / "evaluation-json.md").read_text("utf-8")
ROWS = 120
# Objects whose names are not fields, and what the page calls them.
NAMED = {
    "intervals": "<figure>",
    "bounds": "<figure>",
    "slices.slices.figures": "<figure>",
    "surprising.details": "<column>",
    "error_quantiles": "<share>",
    "figures": "<figure>",
    "classes.figures": "<figure>",
    "outputs.figures": "<figure>",
}


def documented(*titles):
    """{path: what its row says of its values} of the tables below these headings."""
    found = {}
    for part in re.split(r"\n(?=##)", PAGE):
        if part.partition("\n")[0].lstrip("# ") in titles:
            for row in re.findall(r"^\| `.*", part, flags=re.MULTILINE):
                fields, _, values = (cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1])
                for path in re.findall(r"`([^`]*)`", fields):
                    assert path not in found, path
                    found[path] = values
    return found


def paths(value, path=""):
    """The paths of all fields: those of objects in a list are theirs, whatever their number."""
    if isinstance(value, list):
        return set().union(*(paths(item, path) for item in value)) or {path}
    if not isinstance(value, dict):
        return {path}
    names = ((NAMED.get(path, name), item) for name, item in value.items())
    return set().union(*(paths(item, f"{path}.{name}".lstrip(".")) for name, item in names))


def save(folder, name, **arrays):
    """A file with slices, details and a row that cannot be scored."""
    scores = next(iter(arrays.values()))
    scores[3] = np.nan
    path = folder / f"{name}.npz"
    np.savez(path, **arrays, group=np.arange(ROWS) % 3, id=np.arange(ROWS))
    return path


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory):
    folder, random = tmp_path_factory.mktemp("json"), np.random.default_rng(3)
    labels, truth = random.integers(0, 4, ROWS), random.normal(size=(ROWS, 2))
    logits = random.normal(size=(ROWS, 4)) + np.eye(4)[labels]
    marks = random.random((ROWS, 4)) < 0.4
    np.savez(folder / "truth.npz", label=labels[:-1], id=np.arange(ROWS - 1))
    of = {
        "multiclass": [save(folder, "multiclass", logits=logits, label=labels)],
        "binary": [save(folder, "binary", logits=logits[:, 0], label=(labels == 0).astype(int))],
        "multilabel": [save(folder, "multilabel", logits=logits.copy(), labels=marks.astype(int))],
        "regression": [save(folder, "regression", predictions=truth + logits[:, :2] / 9, target=truth)],
    }
    found = {task: lossless.evaluate(*files, by="group") for task, files in of.items()}
    joined = lossless.evaluate(of["multiclass"][0], targets=folder / "truth.npz", on="id", by="group")
    return {**found, "joined": joined}


SECTIONS = {
    "multiclass": "Multiclass and binary",
    "binary": "Multiclass and binary",
    "multilabel": "Multilabel",
    "regression": "Regression",
}


def test_every_field_of_the_json_is_documented(evaluations):
    seen = {title: set() for title in SECTIONS.values()}
    for task, e in evaluations.items():
        assert e.source.task == ("multiclass" if task == "joined" else task)
        assert e.findings
        assert e.slices
        seen[SECTIONS[e.source.task]] |= paths(e.to_dict())
    joined = {"left_out.unmatched"}
    assert joined < paths(evaluations["joined"].to_dict())
    for title, found in seen.items():
        page = documented("Every task", title)
        assert found - set(page) == set(), title
        assert set(page) - found - joined == set(), title


@pytest.mark.parametrize(
    ("task", "title"),
    [
        ("multiclass", "Comparison of classes"),
        ("binary", "Comparison of classes"),
        ("multilabel", "Comparison of several labels"),
        ("regression", "Comparison of quantities"),
    ],
)
def test_every_field_of_a_comparison_is_documented(evaluations, tmp_path, task, title):
    path = evaluations[task].source.files[0]
    scores, *others = np.load(path).items()
    other = tmp_path / "other.npz"
    np.savez(other, **{scores[0]: 2 * scores[1]}, **dict(others))
    c = lossless.compare(path, other)
    assert paths({**c.to_dict(), "a": 0, "b": 0}) == set(documented("lossless.comparison/1", title))
    assert json.loads(c.to_json()) == c.to_dict()


def test_intervals_and_bounds_are_documented(evaluations):
    seen = {title: (set(), set()) for title in SECTIONS.values()}
    for e in evaluations.values():
        for kind, found in zip((e.intervals, e.bounds), seen[SECTIONS[e.source.task]], strict=True):
            found |= set(kind)
    for title, found in seen.items():
        page = documented(title)
        for word, names in zip(("interval", "bound"), found, strict=True):
            assert {path for path, values in page.items() if re.search(rf"\b{word}\b", values)} == names, title
