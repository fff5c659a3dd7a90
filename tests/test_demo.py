"""The demo in small: fewer epochs and every 60th text, everything else as users run it."""

import contextlib
import io
import json

import pytest

for package in ("torch", "sklearn", "py3langid", "django", "pyarrow", "altair", "vl_convert"):
    pytest.importorskip(package)

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402

import lossless  # noqa: E402
from lossless.cli import main  # noqa: E402
from lossless.cli.demo import languages  # noqa: E402

EVERY = 60


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["demo", "--out-dir", str(folder), "--epochs", "6", "--every", str(EVERY)]) == 0
    return folder, printed.getvalue(), json.loads((folder / "results.json").read_text("utf-8"))


def test_losses_fall_and_models_beat_no_model(demo):
    _, _, results = demo
    digits, diabetes = results["training"]["digits"], results["training"]["diabetes"]
    for training in (digits, diabetes):
        losses = [e["train"] for e in training["epochs"]]
        assert len(losses) == 6
        assert losses[-1] < 0.8 * losses[0]
    assert digits["epochs"][-1]["measured"] > 0.9 > digits["baseline"]
    assert diabetes["epochs"][-1]["measured"] < 65 < diabetes["baseline"]


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
    assert "lossless.mse_loss" in page


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
