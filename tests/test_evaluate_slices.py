"""Slices: the figures of the rows of each value are those of a file of these rows alone, whatever the cuts."""

import dataclasses
import json
import math
import pickle

import numpy as np
import pytest
import scipy.special
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss, mean_absolute_error, mean_squared_error

import lossless
import lossless._evaluate.readers as readers
import lossless._evaluate.rows as rows
import lossless._evaluate.slices as slices
from lossless._evaluate.engine import begin, make_jobs
from lossless._evaluate.plan import make_plan
from lossless._evaluate.roles import Request
from lossless._report import build_page, build_tables
from lossless._report.slices import slice_tables
from lossless.cli import main
from lossless.errors import EvaluationError

pa = pytest.importorskip("pyarrow")
csv = pytest.importorskip("pyarrow.csv")
feather = pytest.importorskip("pyarrow.feather")
pq = pytest.importorskip("pyarrow.parquet")

ROWS, CLASSES = 700, 4
RNG = np.random.default_rng(11)
X = RNG.normal(size=(ROWS, CLASSES)) * 2
P = scipy.special.softmax(X, axis=1)
Y = (P.cumsum(axis=1) > RNG.random((ROWS, 1))).argmax(axis=1)
COUNTRY = RNG.choice(["de", "fr", "日本", "<b>it</b>"], ROWS)
YEAR = RNG.integers(2000, 2003, ROWS)
NIGHT = RNG.random(ROWS) < 0.3
NONE = np.arange(ROWS) % 9 == 0


def with_none(values):
    return [None if none else value for value, none in zip(values.tolist(), NONE, strict=True)]


def table(**columns):
    scores = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), CLASSES)
    return pa.table({"logits": scores, "label": Y, **columns})


def by_value(e, column):
    (found,) = (s for s in e.slices if s.column == column)
    assert sum(s.rows for s in found.slices) == e.rows
    return {s.value: s for s in found.slices}


def check(found, values, labels=Y):
    """Every slice against scikit-learn, and bit for bit against an evaluation of its rows."""
    assert set(found) == set(values)
    for value, here in found.items():
        where = np.array([v == value for v in values])
        assert here.rows == where.sum()
        assert here.figures["nll"] == pytest.approx(log_loss(labels[where], P[where], labels=range(CLASSES)), rel=1e-12)
        assert here.figures["accuracy"] == accuracy_score(labels[where], X[where].argmax(1))
        assert here.figures["confidence"] == pytest.approx(P[where].max(1).mean(), rel=1e-12)


COLUMNS = {"country": COUNTRY, "year": YEAR, "night": NIGHT}


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "csv", "jsonl", "npz", "pt"])
def test_agrees_with_scikit_learn_in_every_format(tmp_path, suffix):
    path = tmp_path / f"p.{suffix}"
    columns = dict(COLUMNS)
    if suffix == "parquet":
        pq.write_table(table(**columns), path, row_group_size=100)
    elif suffix == "arrow":
        feather.write_feather(table(**columns), path)
    elif suffix == "csv":
        wide = {f"logit_{j}": X[:, j] for j in range(CLASSES)}
        csv.write_csv(pa.table({**wide, "label": Y, **columns}), path)
    elif suffix == "jsonl":
        lines = [
            {"logits": x, "label": y, "country": c, "year": t, "night": n}
            for x, y, c, t, n in zip(*(a.tolist() for a in (X, Y, COUNTRY, YEAR, NIGHT)), strict=True)
        ]
        path.write_text("\n".join(map(json.dumps, lines)))
    elif suffix == "npz":
        np.savez(path, logits=X, label=Y, **columns)
    else:
        del columns["country"]  # tensors are numbers
        torch.save(
            {"logits": torch.tensor(X), "label": torch.tensor(Y), **{k: torch.tensor(v) for k, v in columns.items()}},
            path,
        )
    e = lossless.evaluate(path, by=list(columns))
    assert [s.column for s in e.slices] == list(columns)
    for name, values in columns.items():
        check(by_value(e, name), values.tolist())
    assert all(isinstance(value, bool) for value in by_value(e, "night"))


def test_figures_are_those_of_a_file_of_the_rows_alone(tmp_path):
    pq.write_table(table(country=COUNTRY), tmp_path / "p.parquet", row_group_size=64)
    for value, here in by_value(lossless.evaluate(tmp_path / "p.parquet", by="country"), "country").items():
        np.savez(tmp_path / "alone.npz", logits=X[value == COUNTRY], label=Y[value == COUNTRY])
        alone = lossless.evaluate(tmp_path / "alone.npz")
        assert here.figures == {name: getattr(alone, name) for name in here.figures}


def test_rows_without_a_value_are_a_slice(tmp_path):
    columns = {name: pa.array(with_none(values)) for name, values in COLUMNS.items()}
    pq.write_table(table(**columns), tmp_path / "p.parquet")
    e = lossless.evaluate(tmp_path / "p.parquet", by=["country", "year", "night"])
    assert e.rows == ROWS
    for name, values in COLUMNS.items():
        found = by_value(e, name)
        check(found, with_none(values))
        assert found[None].name == "(missing)"
    as_floats = np.where(NONE, np.nan, YEAR)
    np.savez(tmp_path / "p.npz", logits=X, label=Y, year=as_floats)
    check(by_value(lossless.evaluate(tmp_path / "p.npz", by="year"), "year"), with_none(YEAR))


def test_rows_that_are_left_out_are_in_no_slice(tmp_path):
    x, y = X.copy(), Y.copy()
    x[5] = np.nan
    y[8] = -100
    np.savez(tmp_path / "p.npz", logits=x, label=y, country=COUNTRY)
    e = lossless.evaluate(tmp_path / "p.npz", by="country")
    assert e.rows == ROWS - 2
    found = by_value(e, "country")
    assert sum(COUNTRY[5] == COUNTRY) - found[COUNTRY[5]].rows == 1 + (COUNTRY[5] == COUNTRY[8])


@pytest.mark.parametrize("on", [None, "id"])
def test_targets_in_a_file_of_their_own(tmp_path, on):
    order = np.arange(ROWS) if on is None else RNG.permutation(ROWS)
    np.savez(tmp_path / "p.npz", logits=X, country=COUNTRY, id=np.arange(ROWS))
    pq.write_table(pa.table({"label": Y[order], "id": order}), tmp_path / "t.parquet")
    e = lossless.evaluate(tmp_path / "p.npz", targets=tmp_path / "t.parquet", on=on, by="country")
    check(by_value(e, "country"), COUNTRY.tolist())


@pytest.mark.parametrize("on", [None, "id", "name"])
@pytest.mark.parametrize("suffix", ["npz", "csv"])
def test_columns_that_only_the_targets_have(tmp_path, on, suffix):
    order = np.arange(ROWS) if on is None else RNG.permutation(ROWS)
    ids = np.arange(ROWS)
    names = np.array([f"r{i}" for i in ids])
    halves = np.array_split(ids, 3)
    for i, part in enumerate(halves):
        scores = pa.FixedSizeListArray.from_arrays(pa.array(X[part].ravel()), CLASSES)
        columns = {"logits": scores, "id": ids[part], "name": names[part], "night": NIGHT[part]}
        pq.write_table(pa.table(columns), tmp_path / f"p{i}.parquet", row_group_size=50)
    path = tmp_path / f"t.{suffix}"
    truth = {"label": Y[order], "id": ids[order], "name": names[order], "country": COUNTRY[order], "year": YEAR[order]}
    if suffix == "npz":
        np.savez(path, **truth)
    else:
        csv.write_csv(pa.table({**truth, "year": pa.array(with_none(YEAR))[: len(order)].take(pa.array(order))}), path)
    files = [tmp_path / f"p{i}.parquet" for i in range(3)]
    e = lossless.evaluate(files, targets=path, on=on, by=["country", "night", "year"], workers=2)
    assert [s.column for s in e.slices] == ["country", "night", "year"]
    check(by_value(e, "country"), COUNTRY.tolist())
    check(by_value(e, "night"), NIGHT.tolist())
    check(by_value(e, "year"), YEAR.tolist() if suffix == "npz" else with_none(YEAR))
    c = lossless.compare(files, files, targets=path, on=on, by="country")
    assert c.b.slices == lossless.evaluate(files, targets=path, on=on, by="country").slices == (e.slices[0],)


def test_rows_without_targets_are_in_no_slice(tmp_path):
    np.savez(tmp_path / "p.npz", logits=X, id=np.arange(ROWS))
    np.savez(tmp_path / "t.npz", label=Y[100:], country=COUNTRY[100:], id=np.arange(100, ROWS))
    e = lossless.evaluate(tmp_path / "p.npz", targets=tmp_path / "t.npz", on="id", by="country")
    assert {s.value: s.rows for s in e.slices[0].slices} == {v: (COUNTRY[100:] == v).sum() for v in set(COUNTRY[100:])}
    np.savez(tmp_path / "none.npz", label=Y[:0], country=COUNTRY[:0], id=np.arange(0))
    with pytest.raises(EvaluationError, match="700 rows have a key that is not among the targets"):
        lossless.evaluate(tmp_path / "p.npz", targets=tmp_path / "none.npz", on="id", by="country")


def test_columns_of_the_targets_that_are_no_slices(tmp_path):
    np.savez(tmp_path / "p.npz", logits=X)
    np.savez(tmp_path / "t.npz", label=Y, share=RNG.random(ROWS), few=COUNTRY[:-1])
    for name, parts in (
        ("place", ["p.npz: --by names 'place'", "or the targets. Columns: logits", "Of the targets: label ("]),
        ("share", ["t.npz: slice column 'share' holds 0.", "at row 0, expected whole numbers"]),
        ("few", ["t.npz: 'few' has 699 values for 700 labels, expected one for each"]),
    ):
        with pytest.raises(EvaluationError) as error:
            lossless.evaluate(tmp_path / "p.npz", targets=tmp_path / "t.npz", by=name)
        for part in parts:
            assert part in str(error.value)


def test_the_key_and_the_label_may_be_slices(tmp_path):
    np.savez(tmp_path / "p.npz", logits=X, key=np.arange(ROWS))
    np.savez(tmp_path / "t.npz", label=Y, key=np.arange(ROWS))
    e = lossless.evaluate(tmp_path / "p.npz", targets=tmp_path / "t.npz", on="key", by="key")
    assert all(s.rows == 1 for s in e.slices[0].slices)
    for suffix in ("npz", "parquet", "csv"):
        path = tmp_path / f"q.{suffix}"
        if suffix == "npz":
            np.savez(path, logits=X, label=Y)
        elif suffix == "parquet":
            pq.write_table(table(), path)
        else:
            csv.write_csv(pa.table({**{f"logit_{j}": X[:, j] for j in range(CLASSES)}, "label": Y}), path)
        e = lossless.evaluate(path, by="label")
        assert {s.value: s.figures["accuracy"] for s in e.slices[0].slices} == {c.index: c.recall for c in e.classes}
        assert {s.value: s.figures["nll"] for s in e.slices[0].slices} == {c.index: c.nll for c in e.classes}


def test_same_bits_for_any_cuts(tmp_path, monkeypatch):
    path = tmp_path / "p.parquet"
    columns = {name: pa.array(with_none(values)) for name, values in COLUMNS.items()}

    def run(group, workers):
        pq.write_table(table(**columns), path, row_group_size=group)
        return lossless.evaluate(path, by=list(columns), workers=workers).to_dict()

    whole = run(1000, 1)
    assert run(64, 2) == whole
    monkeypatch.setattr(readers, "_BATCH_SCORES", 70)
    monkeypatch.setattr(rows, "_BLOCK_SCORES", 29)
    assert run(101, 3) == whole
    monkeypatch.setattr(slices, "_WAITING_ROWS", 13)
    assert run(97, 2) == whole


def test_slices_travel_between_processes(tmp_path, monkeypatch):
    path = tmp_path / "p.parquet"
    pq.write_table(table(country=with_none(COUNTRY), year=YEAR), path, row_group_size=100)
    expected = lossless.evaluate(path, by=["country", "year"]).slices
    plan = make_plan([path], Request(), by=["country", "year"])
    for waiting in (1, 1 << 17):  # sorted before they travel, and after
        monkeypatch.setattr(slices, "_WAITING_ROWS", waiting)
        total = begin(plan)
        for job in make_jobs(plan, {}):
            total.merge(pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(job)).run())))
        assert total.slices.result() == expected


def test_the_largest_loss_comes_first(tmp_path):
    p = P.copy()
    p[(COUNTRY == "fr") & (np.arange(ROWS) % 2 == 0)] = np.eye(CLASSES)[0]
    np.savez(tmp_path / "p.npz", probs=p, label=np.maximum(Y, 1), country=COUNTRY)
    found = lossless.evaluate(tmp_path / "p.npz", by="country").slices[0].slices
    assert found[0].value == "fr"
    assert found[0].figures["nll"] == math.inf
    assert [s.figures["nll"] for s in found] == sorted((s.figures["nll"] for s in found), reverse=True)


# ---------------------------------------------------------------- worse than the rest


def planted(tmp_path, share, values, size=6000, seed=0):
    """Calibrated predictions, of which a share has a random label where the value is 0."""
    gen = np.random.default_rng(seed)
    x = gen.normal(size=(size, CLASSES)) * 3
    p = scipy.special.softmax(x, axis=1)
    y = (p.cumsum(axis=1) > gen.random((size, 1))).argmax(axis=1)
    group = gen.integers(0, values, size)
    wrong = (group == 0) & (gen.random(size) < share)
    y[wrong] = gen.integers(0, CLASSES, wrong.sum())
    np.savez(tmp_path / "p.npz", logits=x, label=y, group=group)
    return lossless.evaluate(tmp_path / "p.npz", by="group")


@pytest.mark.parametrize("values", [2, 10, 50])
def test_a_slice_that_is_worse_is_said(tmp_path, values):
    e = planted(tmp_path, 0.6, values)
    assert [s.value for s in e.slices[0].slices if s.worse] == [0]
    (finding,) = e.failed("weak-slice")
    worst = e.slices[0].slices[0]
    assert f"where 'group' is '0' ({worst.rows} rows) nll is {worst.figures['nll']:.6g} and " in finding.evidence
    assert f"accuracy is {worst.figures['accuracy']:.6g}" in finding.evidence


def test_chance_is_not_said(tmp_path):
    said = [
        (seed, values)
        for seed in range(6)
        for values in (2, 20, 500)
        if planted(tmp_path, 0.0, values, 3000, seed).failed("weak-slice")
    ]
    assert len(said) <= 1  # of 18, at a level of 1 in 100


def test_a_few_wrong_rows_are_no_weak_slice(tmp_path):
    # 20 rows, 2 wrong, where 1 in 100 is wrong elsewhere: z is 4, and chance does it once in 60 such slices
    group = (np.arange(ROWS) < 20).astype(int)
    y = X.argmax(1)
    wrong = (np.arange(ROWS) % 100 == 50) | (np.arange(ROWS) < 2)
    np.savez(tmp_path / "p.npz", logits=X, label=np.where(wrong, (y + 1) % CLASSES, y), group=group)
    e = lossless.evaluate(tmp_path / "p.npz", by="group")
    assert by_value(e, "group")[1].figures["accuracy"] == 0.9
    assert not e.failed("weak-slice")


# ---------------------------------------------------------------- other tasks


def test_slices_of_other_tasks(tmp_path):
    marks = RNG.random((ROWS, CLASSES)) < scipy.special.expit(X)
    marks[COUNTRY == "fr"] = RNG.random((sum(COUNTRY == "fr"), CLASSES)) < 0.5
    np.savez(tmp_path / "l.npz", logits=X, label=marks.astype(int), country=COUNTRY)
    e = lossless.evaluate(tmp_path / "l.npz", task="multilabel", by="country")
    for value, here in by_value(e, "country").items():
        where = value == COUNTRY
        p = scipy.special.expit(X[where])
        assert here.figures["bce"] == pytest.approx(log_loss(marks[where].ravel(), p.ravel()), rel=1e-12)
        assert here.figures["brier"] == pytest.approx(np.square(p - marks[where]).mean(), rel=1e-12)
        assert here.figures["exact_match"] == accuracy_score(marks[where], p > 0.5)
        assert here.figures["sample_f1"] == pytest.approx(
            f1_score(marks[where], p > 0.5, average="samples", zero_division=0), rel=1e-12
        )
    assert [s.value for s in e.slices[0].slices if s.worse] == ["fr"]
    assert "where 'country' is 'fr'" in e.failed("weak-slice")[0].evidence
    assert slice_tables(e, 9)[0].columns[:3] == ("country", "rows", "bce")
    assert slice_tables(e, 9)[0] in build_tables(e, classes=9, few=9)
    assert slice_tables(e, 500)[0] in [table for panel in build_page(e).panels for table in panel.tables]

    target = RNG.normal(size=ROWS)
    predicted = target + RNG.normal(size=ROWS) * np.where(YEAR == 2001, 2.0, 0.5)
    np.savez(tmp_path / "r.npz", predictions=predicted, label=target, year=YEAR)
    e = lossless.evaluate(tmp_path / "r.npz", predictions="predictions", by="year")
    for value, here in by_value(e, "year").items():
        where = value == YEAR
        assert here.figures["mse"] == pytest.approx(mean_squared_error(target[where], predicted[where]), rel=1e-12)
        assert here.figures["mae"] == pytest.approx(mean_absolute_error(target[where], predicted[where]), rel=1e-12)
    assert [s.value for s in e.slices[0].slices if s.worse] == [2001]
    assert "where 'year' is '2001'" in e.failed("weak-slice")[0].evidence
    assert slice_tables(e, 9)[0] in build_tables(e, classes=9, few=9)
    assert slice_tables(e, 500)[0] in [table for panel in build_page(e).panels for table in panel.tables]


# ---------------------------------------------------------------- errors and outputs


def refused(path, by, *parts):
    with pytest.raises(EvaluationError) as error:
        lossless.evaluate(path, by=by)
    for part in parts:
        assert part in str(error.value)


def test_columns_that_are_none(tmp_path):
    path = tmp_path / "p.parquet"
    values = pa.array([[1.0]] * ROWS)
    pq.write_table(
        table(share=RNG.random(ROWS), id=np.arange(ROWS) + 1000, text=list(map(str, range(ROWS))), v=values), path
    )
    for name in ("nowhere\x1b[2J", "logits", "v"):
        refused(path, name, "p.parquet: --by names '", "beside the scores. Columns: logits (")
    refused(path, ["id", "share"], "slice column 'share' holds 0.", "at row 0, expected whole numbers")
    assert len(lossless.evaluate(path, by="id").slices[0].slices) == ROWS
    twice = pa.table([X[:, 0], X[:, 1], Y, Y, Y], names=["prob_0", "prob_1", "label", "a", "a"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    with pytest.raises(EvaluationError, match="two columns are called 'a'"):
        lossless.evaluate(tmp_path / "twice.parquet", logits="prob", by="a")


@pytest.mark.parametrize("group", [50, 10_000])
def test_too_many_values(tmp_path, monkeypatch, group):
    pq.write_table(table(text=list(map(str, range(ROWS)))), tmp_path / "p.parquet", row_group_size=group)
    monkeypatch.setattr(slices.Slices.__init__, "__defaults__", (100,))
    refused(tmp_path / "p.parquet", "text", "--by text: the column holds more than 100 different values", "groups them")
    monkeypatch.setattr(slices.Slices.__init__, "__defaults__", (ROWS,))
    assert len(lossless.evaluate(tmp_path / "p.parquet", by="text").slices[0].slices) == ROWS


def test_a_file_that_lacks_the_column(tmp_path):
    np.savez(tmp_path / "a.npz", logits=X, label=Y, country=COUNTRY)
    np.savez(tmp_path / "b.npz", logits=X, label=Y)
    with pytest.raises(EvaluationError, match=r"b\.npz: lacks the columns of .*'country'"):
        lossless.evaluate([tmp_path / "a.npz", tmp_path / "b.npz"], by="country")


def test_booleans_and_numbers_are_no_slices_of_one_column(tmp_path):
    np.savez(tmp_path / "a.npz", logits=X, label=Y, group=NIGHT)
    np.savez(tmp_path / "b.npz", logits=X, label=Y, group=YEAR)
    with pytest.raises(EvaluationError, match=r"b\.npz: differs from .*a\.npz in .* the label or slice"):
        lossless.evaluate([tmp_path / "a.npz", tmp_path / "b.npz"], by="group")


def test_outputs(tmp_path, capsys):
    path, out = str(tmp_path / "p.parquet"), tmp_path / "e.html"
    names = np.array(["x\x1b[2J", "<script>", "ok"])[np.arange(ROWS) % 3]
    pq.write_table(table(**{"<i>country": names, "night": with_none(NIGHT)}), path)
    assert main(["evaluate", path, "--by", "<i>country", "--by", "night", "--out", str(out)]) == 0
    text, page = capsys.readouterr().out, out.read_text()
    e = lossless.evaluate(path, by=["<i>country", "night"])
    for slicing in e.slices:
        for s in slicing.slices:
            assert f"{s.rows}" in text
            assert f"{s.figures['nll']:.6g}" in text
            assert f"{s.figures['nll']:.6g}" in page
    assert "x\\x1b[2J" in text
    assert "\x1b" not in text + page
    assert "&lt;script&gt;" in page
    assert "<i>" not in page
    assert "(missing)" in page
    assert [t.columns[0] for panel in build_page(e).panels for t in panel.tables if t.title == "Slices"] == [
        "<i>country",
        "night",
    ]
    assert e.scalars() == lossless.evaluate(path).scalars()
    listed = json.loads(e.to_json())["slices"]
    assert [s["column"] for s in listed] == ["<i>country", "night"]
    assert listed[0]["slices"][0] == dataclasses.asdict(e.slices[0].slices[0])
    assert {s["value"] for s in listed[1]["slices"]} == {None, True, False}
    assert lossless.evaluate(path).slices == ()
    assert "2 of 3 slices are listed" in slice_tables(e, 2)[0].caption
