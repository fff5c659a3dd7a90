"""Two models side by side: figures, intervals and counts against SciPy and by hand, whatever the cuts of the files."""

import itertools
import json
import math
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import special, stats

import lossless
from lossless.cli import main
from lossless.errors import EvaluationError, ParameterError

ROWS, CLASSES = 700, 5
RANDOM = np.random.default_rng(5)
LABELS = RANDOM.integers(0, CLASSES, ROWS)
A = RANDOM.normal(size=(ROWS, CLASSES)) + 1.5 * np.eye(CLASSES)[LABELS]
B = 1.5 * A + RANDOM.normal(size=(ROWS, CLASSES)) + 0.5 * np.eye(CLASSES)[LABELS]


def numbers(scores, labels):
    """What each row has, by SciPy's softmax."""
    log_p = special.log_softmax(scores, axis=1)
    p = np.exp(log_p)
    rows = np.arange(len(labels))
    return {
        "nll": -log_p[rows, labels],
        "accuracy": (scores.argmax(1) == labels).astype(float),
        "confidence": p.max(1),
        "brier": ((p - np.eye(p.shape[1])[labels]) ** 2).sum(1),
        "entropy": stats.entropy(p, axis=1),
    }


def save(path, scores, labels, **members):
    np.savez(path, logits=scores, label=labels, **members)
    return path


@pytest.fixture
def files(tmp_path):
    return save(tmp_path / "a.npz", A, LABELS), save(tmp_path / "b.npz", B, LABELS)


def test_figures_and_intervals_are_those_of_scipy(files):
    c = lossless.compare(*files)
    assert c.rows == ROWS
    ours, theirs = numbers(A, LABELS), numbers(B, LABELS)
    for name, a in ours.items():
        b, f = theirs[name], c.figures[name]
        assert f.a == pytest.approx(a.mean(), rel=1e-12)
        assert f.b == pytest.approx(b.mean(), rel=1e-12)
        d = b - a
        assert f.difference == pytest.approx(d.mean(), rel=1e-9)
        paired = stats.ttest_rel(b, a)
        error = d.mean() / paired.statistic
        low, high = stats.norm.interval(0.95, loc=d.mean(), scale=error)
        assert (f.low, f.high) == pytest.approx((low, high), rel=1e-9)
    both = [lossless.evaluate(path) for path in files]
    assert [c.a.to_dict(), c.b.to_dict()] == [e.to_dict() for e in both]
    for name, f in c.figures.items():
        assert (f.a, f.b) == tuple(getattr(e, name) for e in both), name
    error = c.figures["calibration_error"]
    assert error.difference == error.b - error.a
    assert math.isnan(error.low)


def test_rows_by_who_is_right(files):
    c = lossless.compare(*files)
    right_a, right_b = A.argmax(1) == LABELS, B.argmax(1) == LABELS
    assert (c.both_right, c.only_a, c.only_b, c.both_wrong) == (
        (right_a & right_b).sum(),
        (right_a & ~right_b).sum(),
        (~right_a & right_b).sum(),
        (~right_a & ~right_b).sum(),
    )
    k, n = min(c.only_a, c.only_b), c.only_a + c.only_b
    assert c.p_value == pytest.approx(2 * stats.binom.cdf(k, n, 0.5) - stats.binom.pmf(k, n, 0.5), rel=1e-9)


def test_the_mid_p_value_by_counting_every_outcome():
    from lossless._evaluate.paired import mid_p

    for only_a, only_b in itertools.product(range(8), repeat=2):
        n, k = only_a + only_b, min(only_a, only_b)
        heads = [sum(flips) for flips in itertools.product((0, 1), repeat=n)]
        p = Fraction(2 * sum(h < k for h in heads) + sum(h == k for h in heads), 2**n)
        assert mid_p(only_a, only_b) == pytest.approx(float(min(p, 1)), rel=1e-9)
    for only_a, only_b in ((0, 3000), (49_000, 50_000), (500_000, 500_000), (7, 10**6)):
        n, k = only_a + only_b, min(only_a, only_b)
        expected = 2 * stats.binom.cdf(k, n, 0.5) - stats.binom.pmf(k, n, 0.5)
        assert mid_p(only_a, only_b) == pytest.approx(expected, rel=1e-7, abs=1e-300)


def test_the_rows_that_differ_most(files):
    c = lossless.compare(*files, surprising=7)
    a, b = numbers(A, LABELS)["nll"], numbers(B, LABELS)["nll"]
    expected = np.argsort(-np.abs(b - a), kind="stable")[:7]
    assert [r.row_a for r in c.different] == [r.row_b for r in c.different] == expected.tolist()
    first = c.different[0]
    assert (first.label, first.predicted_a, first.predicted_b) == (
        LABELS[expected[0]],
        A[expected[0]].argmax(),
        B[expected[0]].argmax(),
    )
    assert (first.nll_a, first.nll_b) == pytest.approx((a[expected[0]], b[expected[0]]))
    assert first.file_a == str(files[0])


def parquet(folder, scores, labels, cuts, group):
    folder.mkdir()
    for i, (low, high) in enumerate(itertools.pairwise([0, *cuts, len(labels)])):
        table = pa.table({"logits": list(scores[low:high]), "label": labels[low:high]})
        pq.write_table(table, folder / f"part-{i}.parquet", row_group_size=group)
    return folder


def test_the_same_bits_however_the_files_are_cut(files, tmp_path):
    whole = lossless.compare(*files)
    a = parquet(tmp_path / "a", A, LABELS, [100, 101, 350], 37)
    b = parquet(tmp_path / "b", B, LABELS, [333], 64)
    for workers in (1, 3):
        cut = lossless.compare(a, b, workers=workers)
        assert repr(cut.scalars()) == repr(whole.scalars())  # nan and all
        ours, theirs = ([(r.label, r.nll_a, r.nll_b) for r in c.different] for c in (cut, whole))
        assert ours == theirs
    starts = {"part-0": 0, "part-1": 100, "part-2": 101, "part-3": 350}
    for here, there in zip(cut.different, whole.different, strict=True):
        part = here.file_a.rpartition("/")[2].removesuffix(".parquet")
        assert starts[part] + here.row_a == there.row_a
        assert (333 if "part-1" in here.file_b else 0) + here.row_b == there.row_b


def test_blocks_smaller_than_a_batch(files, monkeypatch):
    from lossless._evaluate.tasks import multiclass

    whole = lossless.compare(*files)
    steps = itertools.cycle([3, 7])
    monkeypatch.setattr(multiclass, "block_rows", lambda classes: next(steps))
    assert repr(lossless.compare(*files).scalars()) == repr(whole.scalars())


def test_rows_that_one_of_them_lacks_are_left_out(tmp_path):
    a, b = A.copy(), B.copy()
    a[3], b[700 - 1], b[40:90] = np.nan, np.nan, np.nan
    labels = LABELS.copy()
    labels[10] = -100
    c = lossless.compare(save(tmp_path / "a.npz", a, labels), save(tmp_path / "b.npz", b, LABELS))
    kept = np.ones(ROWS, bool)
    kept[[3, 10, 699, *range(40, 90)]] = False
    assert c.rows == kept.sum()
    assert c.figures["nll"].a == pytest.approx(numbers(A[kept], LABELS[kept])["nll"].mean(), rel=1e-12)
    assert c.notes == (
        "51 rows that only A has scores and labels for are not compared",
        "2 rows that only B has scores and labels for are not compared",
    )


def test_other_orders_of_the_classes(files, tmp_path):
    order = [3, 0, 4, 1, 2]
    names = np.array(["ape", "bee", "cat", "dog", "eel"])
    a = save(tmp_path / "named.npz", A, LABELS, class_names=names)
    b = save(tmp_path / "other.npz", B[:, order], np.argsort(order)[LABELS], class_names=names[order])
    c, plain = lossless.compare(a, b), lossless.compare(*files)
    for name in ("nll", "accuracy"):
        assert c.figures[name].difference == pytest.approx(plain.figures[name].difference, rel=1e-12)
    assert (c.only_a, c.only_b) == (plain.only_a, plain.only_b)
    assert [(r.label, r.predicted_b) for r in c.different] == [(r.label, r.predicted_b) for r in plain.different]


def test_classes_that_are_numbers_in_another_order(files, tmp_path):
    """As scikit-learn's models have them: each label is a value of `classes`."""
    order = [3, 0, 4, 1, 2]
    a = save(tmp_path / "numbers.npz", A, LABELS, classes=np.arange(CLASSES))
    b = save(tmp_path / "permuted.npz", B[:, order], LABELS, classes=np.array(order))
    plain = lossless.compare(*files)
    for one, other in ((a, b), (files[0], b)):
        c, back = lossless.compare(one, other), lossless.compare(other, one)
        for name in ("nll", "accuracy"):
            assert c.figures[name].difference == pytest.approx(plain.figures[name].difference, rel=1e-12)
            assert back.figures[name].difference == -c.figures[name].difference
        assert [(r.label, r.predicted_b) for r in c.different] == [(r.label, r.predicted_b) for r in plain.different]
        assert [order[r.label] for r in back.different] == [r.label for r in plain.different]


def test_labels_in_a_file_of_their_own(files, tmp_path):
    key = RANDOM.permutation(ROWS)
    np.savez(tmp_path / "truth.npz", label=LABELS, id=key)
    for name, scores, order in (("a", A, np.argsort(key)), ("b", B, np.argsort(key))):
        np.savez(tmp_path / f"{name}-scores.npz", logits=scores[order], id=key[order])
    scores = [tmp_path / f"{name}-scores.npz" for name in "ab"]
    c = lossless.compare(*scores, targets=tmp_path / "truth.npz", on="id")
    assert repr(c.scalars()) == repr(lossless.compare(*files).scalars())


def test_rows_in_another_order_are_never_paired(files, tmp_path, monkeypatch):
    """All labels are the same, so that nothing but the key tells one row from another."""
    np.savez(tmp_path / "truth.npz", label=np.zeros(ROWS, int), id=np.arange(ROWS) + 5)
    truth = {"label": np.array(["0"]).repeat(ROWS), "id": np.array([f"r{i}" for i in range(ROWS)])}
    pq.write_table(pa.table(truth), tmp_path / "texts.parquet")
    order = np.arange(ROWS)
    order[[7, 9]] = 9, 7
    for name, scores, rows in (("a", A, np.arange(ROWS)), ("b", B, order)):
        np.savez(tmp_path / f"{name}.npz", logits=scores[rows], id=rows + 5)
        pq.write_table(pa.table({"logits": list(scores[rows]), "id": truth["id"][rows]}), tmp_path / f"{name}.parquet")
    monkeypatch.chdir(tmp_path)  # long paths are cut in messages
    message = r"^b\.{}: row 7 has the 'id' '{}', and row 7 of a\.{} has the 'id' '{}': expected the same rows in the"
    with pytest.raises(EvaluationError, match=message.format("npz", 14, "npz", 12) + ".* Sort both by 'id'"):
        lossless.compare("a.npz", "b.npz", targets="truth.npz", on="id")
    options = {"targets": "texts.parquet", "on": "id", "class_names": list("01234")}
    with pytest.raises(EvaluationError, match=message.format("parquet", "r9", "parquet", "r7")):
        lossless.compare("a.parquet", "b.parquet", **options)
    same = lossless.compare("b.parquet", "b.parquet", **options)
    assert same.figures["nll"].difference == 0.0


@pytest.mark.parametrize("own", [True, False])
def test_rows_of_other_numbers_of_processes(tmp_path, own):
    torch = pytest.importorskip("torch")
    np.save(tmp_path / "labels.npy", np.zeros(8, int))
    for world in (1, 2):
        (tmp_path / str(world)).mkdir()
        for rank in range(world):
            rows = np.arange(rank, 8, world)
            batch = {"logits": torch.tensor(A[rows]), **({"label": torch.zeros(len(rows)).long()} if own else {})}
            torch.save([batch], tmp_path / str(world) / f"predictions_{rank}.pt")
            torch.save([[rows.tolist()]], tmp_path / str(world) / f"batch_indices_{rank}.pt")
    options = {} if own else {"targets": tmp_path / "labels.npy", "logits": "logits"}
    message = r"predictions_0\.pt: row 1 is row 2 of the data set, and row 1 of .* is row 1 of the data"
    with pytest.raises(EvaluationError, match=message + ".* Save both with the same number of processes"):
        lossless.compare(tmp_path / "1", tmp_path / "2", **options)
    assert lossless.compare(tmp_path / "2", tmp_path / "2", **options).rows == 8


def test_options_are_checked(files):
    with pytest.raises(ParameterError, match="surprising got -1"):
        lossless.compare(*files, surprising=-1)
    with pytest.raises(ParameterError, match="workers got 0"):
        lossless.compare(*files, workers=0)
    with pytest.raises(ParameterError, match="task got 'ranking', expected one of 'multiclass'"):
        lossless.compare(*files, task="ranking")
    with pytest.raises(EvaluationError, match="--by names 'group', expected a column"):
        lossless.compare(*files, by="group")
    with pytest.raises(ParameterError, match="ignore_index got 'x', expected a whole number or None"):
        lossless.compare(*files, ignore_index="x")
    with pytest.raises(TypeError, match=r"^compare\(\) got an unexpected keyword argument 'labels'"):
        lossless.compare(*files, labels="label")


def test_infinite_losses(tmp_path):
    p = np.full((4, 2), 0.5)
    q = np.array([[0.0, 1.0], [0.5, 0.5], [0.5, 0.5], [0.2, 0.8]])
    a, b = tmp_path / "a.npz", tmp_path / "b.npz"
    np.savez(a, probs=p, label=[0, 0, 1, 1])
    np.savez(b, probs=q, label=[0, 0, 1, 1])
    f = lossless.compare(a, b).figures["nll"]
    assert (f.b, f.difference) == (math.inf, math.inf)
    assert math.isnan(f.low)
    assert lossless.compare(b, a).figures["nll"].difference == -math.inf
    same = lossless.compare(b, b)
    assert math.isnan(same.figures["nll"].difference)
    assert same.figures["brier"].difference == same.figures["brier"].low == same.figures["brier"].high == 0.0
    assert same.different == ()
    assert same.p_value == 1.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": np.where(np.arange(ROWS) >= 5, (LABELS + 1) % CLASSES, LABELS)}, "row 5 has label '{other}', and"),
        ({"scores": B[:-1], "labels": LABELS[:-1]}, "b.npz: 699 rows, and 700 in"),
        ({"scores": np.hstack([B, B[:, :1]])}, "b.npz: 6 classes, and 5 in"),
        ({"class_names": np.array(["a", "b", "c", "d", "f"])}, "lacks the classes 'e'"),
    ],
)
def test_inputs_that_do_not_belong_together(tmp_path, change, message, capsys):
    a = save(tmp_path / "a.npz", A, LABELS, class_names=np.array(list("abcde")))
    change = {"scores": B, "labels": LABELS, "class_names": np.array(list("abcde"))} | change
    if change["scores"].shape[1] == 6:
        change["class_names"] = np.array(list("abcdef"))
    b = save(tmp_path / "b.npz", **change)
    message = message.format(other="abcde"[(LABELS[5] + 1) % CLASSES])
    with pytest.raises(EvaluationError) as error:
        lossless.compare(a, b)
    assert message in str(error.value)
    assert main(["evaluate", str(a), "--compare", str(b)]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""


def test_the_command(files, tmp_path, capsys):
    a, b = map(str, files)
    page, data = tmp_path / "page.html", tmp_path / "figures.json"
    assert main(["evaluate", a, "--compare", b, "--out", str(page), "--json", str(data)]) == 0
    said = capsys.readouterr().out
    c = lossless.compare(a, b)
    found = json.loads(data.read_text())
    assert found == c.to_dict()
    assert found["schema"] == "lossless.comparison/1"
    assert found["b"] == lossless.evaluate(b).to_dict()
    for text in (f"{c.figures['nll'].difference:+.6g}", f"p = {c.p_value:.3g}", f"A: {a}", f"B: {b}"):
        assert text in said
    html = page.read_text("utf-8")
    assert f"{c.figures['brier'].difference:+.6g}" in html
    assert html.count('<script type="application/json">') == 1
    assert "rows that differ most" in said
    assert main(["evaluate", a, "--compare", b, "--surprising", "0"]) == 0
    assert "rows that differ most" not in capsys.readouterr().out
    assert main(["evaluate", a, "--compare", b, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == found
    assert main(["evaluate", a, "--compare", b, "--out", b]) == 2
    assert "is an input and would be overwritten" in capsys.readouterr().err


def test_in_a_terminal_and_a_notebook(files):
    c = lossless.compare(*files)
    assert f"{c.figures['nll'].difference:+.6g}" in repr(c)
    assert len(repr(c).split("\n")) < 15
    page = c._repr_html_()
    assert f'<td style="text-align: right">{c.figures["nll"].difference:+.6g}</td>' in page
    assert c.scalars()["nll_difference"] == c.figures["nll"].difference
    assert c.scalars()["only_b"] == c.only_b


def test_progress_goes_to_its_end(files):
    seen = []
    lossless.compare(*files, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (3 * ROWS, 3 * ROWS)
    assert seen == sorted(seen)


def test_findings_say_whose_they_are(tmp_path):
    probs = special.softmax(A, axis=1)
    a, b = save(tmp_path / "a.npz", A, LABELS), save(tmp_path / "b.npz", probs, LABELS)
    c = lossless.compare(a, b, logits="logits")
    assert ("softmax-before-loss", "B: ") in [(f.name, f.evidence[:3]) for f in c.findings]
    assert all(finding.evidence[:3] in ("A: ", "B: ") for finding in c.findings)
