"""The demo in small: few epochs and every 60th text, everything else as users run it."""

import contextlib
import io
import json
import operator

import pytest

for package in ("torch", "sklearn", "py3langid", "django", "pyarrow", "altair", "vl_convert"):
    pytest.importorskip(package)

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

import lossless  # noqa: E402
from lossless.cli import main  # noqa: E402
from lossless.cli.demo import comparison, languages, training  # noqa: E402
from lossless.cli.demo.comparison import Comparison, Measures, Run, Trained, mean  # noqa: E402

EPOCHS, EVERY = 6, 60


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["demo", "--out-dir", str(folder), "--epochs", str(EPOCHS), "--every", str(EVERY)]) == 0
    return folder, printed.getvalue(), json.loads((folder / "results.json").read_text("utf-8"))


def trained(results):
    """Name of the data -> name of the loss -> its runs."""
    return {name: {t["loss"]: t for t in c["losses"]} for name, c in results["training"].items()}


def test_every_loss_of_the_library_is_trained_with(demo):
    _, _, results = demo
    names = {loss.partition("(")[0] for losses in trained(results).values() for loss in losses}
    assert names == {
        n for n in lossless.__all__ if getattr(getattr(lossless, n), "__module__", None) == "lossless.losses"
    }


def test_losses_fall_and_models_beat_no_model(demo):
    _, _, results = demo
    assert results["schema"] == "lossless.demo/2"
    for losses in trained(results).values():
        for loss in losses.values():
            for run in loss["runs"]:
                train = [e["train"] for e in run["epochs"]]
                assert train[-1] < train[0]
    digits, rare, diabetes = trained(results).values()
    epochs = [len(losses.popitem()[1]["runs"][0]["epochs"]) for losses in trained(results).values()]
    assert epochs == [EPOCHS, EPOCHS * 2, round(EPOCHS * 22 / 5)]  # as many steps: 22, 11 and 5 batches an epoch
    assert min(t["mean"]["accuracy"] for t in digits.values()) > 0.8
    assert min(t["mean"]["macro_recall"] for t in rare.values()) > 0.4
    assert max(t["mean"]["rmse"] for t in diabetes.values()) < 65  # 77 without a model


def test_losses_that_are_one_function_train_alike(demo):
    _, _, results = demo
    digits = trained(results)["digits"]
    for same in (
        ("cross_entropy", "nll_loss", "categorical_cross_entropy", "sparse_categorical_cross_entropy"),
        ("cross_entropy(label_smoothing=0.1)", "kl_div"),
        ("binary_cross_entropy_with_logits", "binary_cross_entropy"),
    ):
        for name in same[1:]:
            for figure, value in digits[name]["mean"].items():
                other = digits[same[0]]["mean"][figure]
                assert value is other is None or value == pytest.approx(other, rel=1e-4)
    assert digits["focal_loss"]["mean"]["nll"] != pytest.approx(digits["cross_entropy"]["mean"]["nll"], rel=0.01)


def test_figures_are_means_over_the_runs(demo):
    _, _, results = demo
    for losses in trained(results).values():
        for loss in losses.values():
            assert [run["seed"] for run in loss["runs"]] == [0, 1, 2]
            for name, value in loss["mean"].items():
                each = [run["measures"][name] for run in loss["runs"]]
                assert value == (None if None in each else pytest.approx(np.mean(each), rel=1e-12))
            last = [run["epochs"][-1]["held_out"] for run in loss["runs"]]
            measured = "nll" if loss["mean"]["rmse"] is None else "rmse"
            assert last == [run["measures"][measured] for run in loss["runs"]]


def test_training_is_the_same_every_time():
    task = training.rare_digits()
    first, second = (training._fit(task, task.losses[-1].call, 0, 2) for _ in range(2))
    assert first == second


def test_the_rare_digits_are_rare_where_they_are_learned_only():
    whole, rare = training.digits(), training.rare_digits()
    assert (whole.held_out == rare.held_out).all()
    support = np.bincount(rare.y[rare.train], minlength=10)
    before = np.bincount(whole.y[whole.train], minlength=10)
    assert (support[:5] == before[:5]).all()
    assert (support[5:] == -(-before[5:] // 30)).all()
    assert not set(rare.train) & set(rare.held_out)


def made_up(figures):
    """A comparison with one run a seed; `figures` by loss, one a run."""
    return Comparison(
        "made up",
        "Made up.",
        100,
        tuple(
            Trained(loss, "", mean(measures), tuple(Run(i, m, ()) for i, m in enumerate(measures)))
            for loss, values in figures.items()
            for measures in [[Measures(rmse=v) for v in values]]
        ),
    )


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ((1.0, 2.0), (1.5, 2.5), "a 1.5000, b 2.0000; a was better in every run"),
        ((1.0, 2.0), (0.5, 1.0), "a 1.5000, b 0.7500; b was better in every run"),
        ((1.0, 2.0), (0.5, 2.5), "a 1.5000, b 1.5000; neither was better in every run (a in 1 of 2, b in 1)"),
        ((1.0, 2.0), (1.0, 2.0), "a 1.5000, b 1.5000; neither was better in every run (a in 0 of 2, b in 0)"),
    ],
)
def test_a_loss_is_called_better_if_it_won_every_run(a, b, verdict):
    assert comparison._duel(made_up({"a": a, "b": b}), "a", "b", "rmse", operator.lt) == verdict


def test_one_table_and_one_plot(demo):
    folder, printed, results = demo
    page = (folder / "report.html").read_text("utf-8")
    assert page.count("<h2>Losses compared</h2>") == 1
    rows = []
    for name, losses in trained(results).items():
        rows.append([f"{name}:"])
        for loss, t in losses.items():
            figures = [f"{v:.{2 if m == 'rmse' else 4}f}" for m, v in t["mean"].items() if v is not None]
            rows.append([loss, *figures])
            assert f"<td>{name}</td><td>{loss}</td>" in page
            assert all(f'<td class="number">{figure}</td>' in page for figure in figures)
    assert len(rows) == 16 + 3
    lines = printed.splitlines()
    first = lines.index("digits:")
    assert [line.split() for line in lines[first : first + len(rows)]] == [" ".join(row).split() for row in rows]
    plot = json.loads(page.split('<script type="application/json">')[3].partition("</script>")[0])
    (values,) = plot["datasets"].values() if "datasets" in plot else [plot["data"]["values"]]
    lines = {v["name"].replace("\n= ", " = ") for v in values}
    assert sorted(name for line in lines for name in line.split(" = ")) == sorted(trained(results)["digits"])
    assert "cross_entropy(label_smoothing=0.1) = kl_div" in lines
    assert len(values) == EPOCHS * len(lines)


def test_predictions_are_evaluated_as_the_command_would(demo):
    folder, _, results = demo
    e = lossless.evaluate(folder / "predictions.parquet")
    assert results["evaluation"] == json.loads(e.to_json())
    assert e.rows == results["languages"]["strings"]
    # far from chance, and over-confident
    assert 0.8 < e.accuracy < e.confidence
    assert e.source.classes == 140


def test_what_floating_point_loses(demo):
    folder, _, results = demo
    lost = results["lost"]
    table = pq.read_table(folder / "predictions.parquet")
    x = np.stack(table["logits"].to_numpy()).astype(np.float32)
    y = table["label"].to_numpy()
    e = np.exp(x - x.max(1, keepdims=True))
    with np.errstate(divide="ignore"):
        naive = -np.log((e / e.sum(1, keepdims=True))[np.arange(len(y)), y])
    exact = lossless.row_statistics(x.astype(np.float64), y).nll
    assert lost["zero"]["float32"] == np.sum((naive == 0) & (exact > 0))
    assert lost["zero"]["float32"] > 0.5 * lost["rows"]
    assert 0 < lost["zero"]["float64"] < lost["zero"]["float32"]


def test_it_ends_by_naming_its_results(demo):
    folder, printed, _ = demo
    last = printed.strip().splitlines()[-1]
    assert str(folder / "report.html") in last
    assert str(folder / "results.json") in last
    page = (folder / "report.html").read_text("utf-8")
    assert page.count('<script type="application/json">') == 4


def test_texts_and_their_languages():
    texts = languages.collect(every=EVERY)
    names = texts.languages
    assert len(names) == len(set(names)) == 140
    assert all(len(t) >= languages.MIN_CHARACTERS for t in texts.texts)
    assert len(set(zip(texts.texts, texts.labels, strict=True))) == len(texts.texts)
    # languages of Django that the model has no class for, counted and named
    assert set(texts.unknown) == {"ast", "ckb", "dsb", "hsb", "ia", "io", "os", "udm"}
    held = {names[i] for i in texts.labels}
    assert {"zh", "pt", "sr", "no", "nn", "es", "en"} <= held
    assert "nb" not in names


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("predictions.parquet", None),
        ("predictions.parquet", b"PAR1 damaged"),
        ("results.json", b'{"accuracy": 0.5}'),
        ("results.json", b'{"schema": "lossless.evaluation/1"}'),
        ("report.html", b"<!DOCTYPE html><p>mine"),
    ],
)
def test_files_of_others_are_not_overwritten(tmp_path, name, content, capsys):
    path = tmp_path / name
    if content is None:
        pq.write_table(pa.table({"label": [0, 1]}), path)
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    assert main(["demo", "--out-dir", str(tmp_path), "--epochs", "1", "--every", "400"]) == 2
    err = capsys.readouterr().err
    assert str(path) in err
    assert "--out-dir" in err
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_its_own_files_are(demo, monkeypatch):
    folder, _, results = demo
    monkeypatch.setattr("lossless.cli.demo.find_spec", lambda name: None)
    kept = {name: (folder / name).read_bytes() for name in ("predictions.parquet", "results.json", "report.html")}
    try:
        assert main(["demo", "--out-dir", str(folder), "--every", "400"]) == 0
        assert json.loads((folder / "results.json").read_text("utf-8"))["evaluation"]["rows"] < results["lost"]["rows"]
        (folder / "results.json").write_text(
            '{"schema": "lossless.demo/1", "training": {}}', "utf-8"
        )  # of a version ago
        assert main(["demo", "--out-dir", str(folder), "--every", "400"]) == 0
    finally:
        for name, content in kept.items():
            (folder / name).write_bytes(content)


def test_without_torch_training_is_skipped_and_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("lossless.cli.demo.find_spec", lambda name: None)
    assert main(["demo", "--out-dir", str(tmp_path / "new"), "--every", "400"]) == 0
    assert "PyTorch is not installed: pip install torch" in capsys.readouterr().out
    results = json.loads((tmp_path / "new" / "results.json").read_text("utf-8"))
    assert "pip install torch" in results["training"]
    assert results["evaluation"]["rows"] > 30
