"""Predictions as tools write them and people save them, every figure against scikit-learn, SciPy or brute force.

Boosted trees by LightGBM, trained on the data sets that scikit-learn ships; timm's inference, Hugging Face's trainer,
lm-eval's samples, and Lightning's writers.
"""

import csv
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
from sklearn import metrics
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine

from lossless import evaluate
from lossless.errors import EvaluationError

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(12)


def near(value, rel=1e-12):
    return pytest.approx(np.asarray(value).tolist(), rel=rel, abs=1e-300)


def check_classes(e, scores, y, rel=1e-12):
    """All figures of rows of one class, from logits or log-probabilities."""
    log_p = scipy.special.log_softmax(np.asarray(scores, np.float64), axis=1)
    p, classes, rows = np.exp(log_p), np.arange(log_p.shape[1]), len(y)
    guess, nll = log_p.argmax(1), -log_p[np.arange(rows), y]
    right, confidence = guess == y, p.max(1)
    assert (e.rows, e.source.classes) == (rows, len(classes))
    assert e.nll == near(nll.mean(), rel)
    assert e.nll == pytest.approx(metrics.log_loss(y, p, labels=classes), rel=max(rel, 1e-9))  # which clips
    assert (e.bits, e.perplexity) == (near(nll.mean() / math.log(2), rel), near(math.exp(nll.mean()), rel))
    assert e.focal == near(np.mean((1 - np.exp(-nll)) ** 2 * nll), rel)
    assert e.brier == near(((p - np.eye(len(classes))[y]) ** 2).sum(1).mean(), rel)
    assert e.entropy == near(scipy.stats.entropy(p, axis=1).mean(), rel)
    assert e.confidence == near(confidence.mean(), rel)
    assert e.accuracy == metrics.accuracy_score(y, guess)
    for k in range(1, min(len(classes), 10) + 1):
        ahead = np.argsort(-log_p, axis=1, kind="stable")[:, :k]
        assert e.top_k_accuracy(k) == (ahead == y[:, None]).any(1).mean()
    bins = np.ceil(confidence * 15).astype(int)
    gaps = {b: abs(right[bins == b].mean() - confidence[bins == b].mean()) for b in set(bins)}
    assert e.calibration_error == near(sum((bins == b).mean() * gap for b, gap in gaps.items()), max(rel, 1e-9))
    assert e.max_calibration_error == near(max(gaps.values()), max(rel, 1e-9))
    if 0 < right.sum() < rows:
        first, *others = np.sort(log_p, axis=1).T[::-1]
        odds = first - scipy.special.logsumexp(others, axis=0)  # which tell apart what rounds to 1
        assert e.confidence_auroc == near(metrics.roc_auc_score(right, odds), 1e-9)
    assert np.array(e.confusion_matrix).tolist() == metrics.confusion_matrix(y, guess, labels=classes).tolist()
    precision, recall, f1, support = metrics.precision_recall_fscore_support(y, guess, labels=classes, zero_division=0)
    assert [c.support for c in e.classes] == support.tolist()
    assert [c.recall for c in e.classes] == near(recall)
    assert [c.f1 for c in e.classes] == near(f1)
    assert [c.precision if c.predicted else 0.0 for c in e.classes] == near(precision)
    for average in ("macro", "weighted"):
        ours = getattr(e, average)
        theirs = metrics.precision_recall_fscore_support(y, guess, average=average, zero_division=0)
        assert (ours.precision, ours.recall, ours.f1) == tuple(near(value) for value in theirs[:3])
    best = scipy.optimize.minimize_scalar(
        lambda t: -scipy.special.log_softmax(log_p / np.exp(t), axis=1)[np.arange(rows), y].mean(), bounds=(-3, 5)
    )
    assert e.temperature.nll == pytest.approx(best.fun, rel=1e-6)
    worst = [row.nll for row in e.surprising]
    assert worst == near(np.sort(nll)[::-1][: len(worst)], rel)


def check_two_classes(e, odds, y):
    """The figures of class 1."""
    check_classes(e, np.stack([np.zeros(len(y)), odds], axis=1), y)
    assert e.positive.auroc == near(metrics.roc_auc_score(y, odds))
    assert e.positive.average_precision == near(metrics.average_precision_score(y, odds))
    precision, recall, _ = metrics.precision_recall_curve(y, odds)
    assert e.positive.best_f1.f1 == near((2 * precision * recall / np.maximum(precision + recall, 1e-300)).max())


def check_quantities(e, guess, y):
    assert e.source.task == "regression"
    assert e.rows == len(y)
    assert e.mse == near(metrics.mean_squared_error(y, guess))
    assert e.rmse == near(metrics.root_mean_squared_error(y, guess))
    assert e.mae == near(metrics.mean_absolute_error(y, guess))
    assert e.r2 == near(metrics.r2_score(y, guess))
    assert e.explained_variance == near(metrics.explained_variance_score(y, guess))
    assert e.largest_error == near(metrics.max_error(y, guess))
    assert e.median_absolute_error == near(np.sort(np.abs(y - guess))[(len(y) - 1) // 2])
    assert e.bias == near(np.mean(guess - y), 1e-9)
    assert [row.row for row in e.surprising] == np.argsort(-((guess - y) ** 2), kind="stable")[:20].tolist()


# ---------------------------------------------------------------- boosted trees


def boosted(load, model, **options):
    """A fitted model, and the half of the rows that it has not seen."""
    try:
        import lightgbm
    except (ImportError, OSError) as error:  # the latter without the system's OpenMP
        pytest.skip(f"no LightGBM: {error}")
    x, y = load(return_X_y=True)
    make = getattr(lightgbm, model)
    return make(n_estimators=12, num_leaves=7, verbose=-1, n_jobs=1, **options).fit(x[::2], y[::2]), x[1::2], y[1::2]


@pytest.fixture(scope="module")
def digits():
    return boosted(load_digits, "LGBMClassifier")


@pytest.fixture(scope="module")
def cancer():
    return boosted(load_breast_cancer, "LGBMClassifier")


@pytest.fixture(scope="module")
def diabetes():
    return boosted(load_diabetes, "LGBMRegressor")


def test_margins_and_probabilities_of_ten_classes(tmp_path, digits):
    model, x, y = digits
    margins, p = model.predict(x, raw_score=True), model.predict_proba(x)
    np.savez(tmp_path / "margins.npz", logits=margins, label=y)
    check_classes(evaluate(tmp_path / "margins.npz"), margins, y)
    np.savez(tmp_path / "p.npz", probs=p, y_true=y, classes=model.classes_)
    check_classes(evaluate(tmp_path / "p.npz"), np.log(p), y)
    columns = {f"prob_{c}": p[:, c] for c in model.classes_} | {"id": np.arange(len(y)), "label": y}
    pq.write_table(pa.table(columns), tmp_path / "p.parquet", row_group_size=100)
    check_classes(evaluate(tmp_path / "p.parquet"), np.log(p), y)
    np.save(tmp_path / "p.npy", p.astype(np.float32))
    np.save(tmp_path / "y_test.npy", y)
    check_classes(
        evaluate(tmp_path / "p.npy", probs="p", targets=tmp_path / "y_test.npy"), np.log(np.float32(p).astype(float)), y
    )


def test_columns_that_are_called_after_text_labels(tmp_path):
    wine = load_wine()
    names = np.array(["barolo", "grignolino", "barbera"])  # a model sorts them
    model, x, y = boosted(lambda return_X_y: (wine.data, names[wine.target]), "LGBMClassifier")
    p = model.predict_proba(x)
    table = pa.table({f"prob_{name}": p[:, i] for i, name in enumerate(model.classes_)} | {"label": y.tolist()})
    pacsv.write_csv(table, tmp_path / "wine.csv")
    e = evaluate(tmp_path / "wine.csv")
    assert e.source.class_names == ("barbera", "barolo", "grignolino")
    check_classes(e, np.log(p), np.searchsorted(model.classes_, y))


def test_log_odds_and_probabilities_of_two_classes(tmp_path, cancer):
    model, x, y = cancer
    margins, p = model.predict(x, raw_score=True), model.predict_proba(x)
    np.savez(tmp_path / "margins.npz", logits=margins, label=y)
    check_two_classes(evaluate(tmp_path / "margins.npz"), margins, y)
    np.savez(tmp_path / "both.npz", probs=p, label=y)
    odds = np.log(p[:, 1]) - np.log(p[:, 0])
    check_two_classes(evaluate(tmp_path / "both.npz", task="binary"), odds, y)
    pacsv.write_csv(pa.table({"id": np.arange(len(y)), "prob": p[:, 1], "target": y}), tmp_path / "p.csv")
    check_two_classes(evaluate(tmp_path / "p.csv"), np.log(p[:, 1]) - np.log1p(-p[:, 1]), y)


def test_predicted_quantities(tmp_path, diabetes):
    model, x, y = diabetes
    guess = model.predict(x)
    pacsv.write_csv(pa.table({"y_true": y, "y_pred": guess}), tmp_path / "p.csv")
    check_quantities(evaluate(tmp_path / "p.csv", predictions="y_pred"), guess, y)
    pq.write_table(pa.table({"prediction": guess, "target": y}), tmp_path / "p.parquet", row_group_size=50)
    check_quantities(evaluate(tmp_path / "p.parquet"), guess, y)


# ---------------------------------------------------------------- timm

CLASSES = 12
FILES = [f"val/n{i % 7:08d}/{i}.JPEG" for i in range(60)]
LOGITS = (3 * RNG.normal(size=(60, CLASSES))).astype(np.float32)
PROBS = scipy.special.softmax(LOGITS, axis=1)
LABELS = (LOGITS / 1.5 + RNG.gumbel(size=LOGITS.shape)).argmax(1)  # a model that is too sure
NAMED = [f"n{i:08d}" for i in PROBS.argmax(1)]  # what timm calls label is its prediction
PANDAS = {"index_columns": ["filename"], "columns": [], "pandas_version": "3.0.0"}


def write_csv(path, scores):
    """pandas writes the arrays of a column as NumPy prints them: in float32, over several lines."""
    with open(path, "w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["filename", "prob", "label"])
        rows.writerows(zip(FILES, map(str, scores), NAMED, strict=True))


def write_separate(path, scores):
    columns = {"filename": FILES, "label": NAMED} | {f"prob_{j}": scores[:, j] for j in range(scores.shape[1])}
    pacsv.write_csv(pa.table(columns), path)


def write_parquet(path, scores):
    """With --results-format parquet the file name is pandas's index, which comes last."""
    table = pa.table({"prob": list(scores), "label": NAMED, "filename": FILES})
    pq.write_table(table.replace_schema_metadata({"pandas": json.dumps(PANDAS)}), path)


def write_records(path, scores):
    """With json-records; pandas writes 10 decimal places, and escapes slashes."""
    rows = [
        {"filename": name, "prob": [round(float(x), 10) for x in row], "label": label}
        for name, row, label in zip(FILES, scores, NAMED, strict=True)
    ]
    path.write_text("".join(json.dumps(row, separators=(",", ":")).replace("/", "\\/") + "\n" for row in rows))


TIMM = {"csv": write_csv, "separate": write_separate, "parquet": write_parquet, "json-records": write_records}


@pytest.fixture
def truth(tmp_path):
    """True classes by file, in another order."""
    order = RNG.permutation(len(FILES))
    path = tmp_path / "truth.csv"
    path.write_text("filename,label\n" + "".join(f"{FILES[i]},{LABELS[i]}\n" for i in order))
    return path


@pytest.mark.parametrize("form", TIMM)
def test_what_inference_by_timm_writes(tmp_path, truth, form):
    path = tmp_path / "results"
    TIMM[form](path, PROBS)
    e = evaluate(path, targets=truth, on="filename")
    assert e.source.kind == "probs"
    if form == "csv":
        stored = np.array([np.fromstring(str(row).strip("[]"), sep=" ") for row in PROBS])
    elif form == "separate":
        with open(path, newline="") as stream:
            stored = np.array([[float(row[f"prob_{j}"]) for j in range(CLASSES)] for row in csv.DictReader(stream)])
    else:
        stored = np.round(PROBS.astype(np.float64), 10) if form == "json-records" else PROBS.astype(np.float64)
    check_classes(e, np.log(stored), LABELS)
    assert e.nll == pytest.approx(-scipy.special.log_softmax(LOGITS, axis=1)[np.arange(60), LABELS].mean(), rel=1e-5)
    worst = e.surprising[0]
    assert worst.details == {"filename": FILES[worst.row], "label": NAMED[worst.row]}
    with pytest.raises(EvaluationError, match="timm"):
        evaluate(path)


def test_the_five_largest_scores_of_timm_are_refused(tmp_path, truth):
    for form in TIMM:
        TIMM[form](tmp_path / "results", np.sort(PROBS, axis=1)[:, :-6:-1])
        with pytest.raises(EvaluationError, match="falls from left to right, as the k largest scores do"):
            evaluate(tmp_path / "results", targets=truth, on="filename")


@pytest.mark.parametrize("text", ['{\n    "val\\/1.JPEG":{\n        "prob":[0.1,0.9]}}', '{\n    "columns":["prob"]}'])
def test_objects_over_several_lines_are_refused(tmp_path, text):
    """json and json-split of timm, which are pandas's index and split."""
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(
        EvaluationError, match=r"line 1 is no JSON but the beginning of .* orient='records', lines=True"
    ):
        evaluate(tmp_path / "results.json")


def test_the_summary_of_a_validation_is_no_prediction(tmp_path):
    """validate.py --results-file writes one row a model."""
    (tmp_path / "results.csv").write_text("model,top1,top1_err,top5,top5_err\nresnet50,80.1,19.9,95.1,4.9\n")
    with pytest.raises(EvaluationError, match="found no column named like a true label"):
        evaluate(tmp_path / "results.csv")


# ---------------------------------------------------------------- Hugging Face


def test_what_a_trainer_predicts(tmp_path):
    found = {"predictions": LOGITS, "label_ids": LABELS, "metrics": np.array({"test_loss": 1.0}, dtype=object)}
    np.savez(tmp_path / "output.npz", **found)  # **output._asdict()
    e = evaluate(tmp_path / "output.npz")
    assert (e.source.task, e.source.kind, e.source.label) == ("multiclass", "logits", "label_ids")
    check_classes(e, LOGITS, LABELS)
    np.save(tmp_path / "predictions.npy", LOGITS)
    np.save(tmp_path / "label_ids.npy", LABELS)
    assert evaluate(tmp_path / "predictions.npy", targets=tmp_path / "label_ids.npy").scalars() == e.scalars()
    np.savez(tmp_path / "two.npz", predictions=LOGITS[:, :2], label_ids=LABELS % 2)
    check_two_classes(
        evaluate(tmp_path / "two.npz", task="binary"), LOGITS[:, 1].astype(float) - LOGITS[:, 0], LABELS % 2
    )
    quantities = {"predictions": LOGITS[:, :1], "label_ids": LOGITS[:, 1] / 2}
    np.savez(tmp_path / "one.npz", **quantities)
    check_quantities(evaluate(tmp_path / "one.npz"), LOGITS[:, 0].astype(float), quantities["label_ids"].astype(float))


def test_a_data_set_with_its_logits(tmp_path):
    """dataset.add_column("logits", list(predictions)).to_parquet(...): lists beside the features."""
    names = [f"class {i}" for i in range(CLASSES)]
    feature = {"names": names, "_type": "ClassLabel"}
    features = {"label": feature, "text": {"dtype": "string", "_type": "Value"}}
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    columns = {"text": FILES, "label": LABELS, "logits": pa.array(LOGITS.tolist(), pa.list_(pa.float32()))}
    pq.write_table(pa.table(columns).replace_schema_metadata(metadata), tmp_path / "p.parquet", row_group_size=25)
    e = evaluate(tmp_path / "p.parquet")
    assert e.source.class_names == tuple(names)
    assert e.surprising[0].details == {"text": FILES[e.surprising[0].row]}
    check_classes(e, LOGITS, LABELS)


def test_the_logits_of_tokens_are_refused(tmp_path):
    np.savez(tmp_path / "p.npz", predictions=np.zeros((9, 7, 5)), label_ids=np.zeros((9, 7), int))
    with pytest.raises(EvaluationError, match=r"'predictions' holds float64 of shape \(9, 7, 5\), expected floats"):
        evaluate(tmp_path / "p.npz")


# ---------------------------------------------------------------- lm-eval


def test_whole_samples_of_lm_eval(tmp_path):
    """Records as --log_samples writes them for a task of multiple choice: four choices, and three in some rows."""
    rows = []
    for i in range(60):
        likelihoods = [round(float(x) - 30, 6) for x in LOGITS[i, : 3 if i % 5 == 0 else 4]]
        pairs = [[str(x), str(x == max(likelihoods))] for x in likelihoods]
        target = int(LABELS[i]) % len(pairs)
        rows.append(
            {
                "doc_id": i,
                "doc": {"question": f"Which of {i}?", "choices": list("ABCD"), "gold": target},
                "target": str(target),
                "arguments": {f"gen_args_{j}": {"arg_0": "Q: ... A:", "arg_1": f" {c}"} for j, c in enumerate("ABCD")},
                "resps": [[pair] for pair in pairs],
                "filtered_resps": pairs,
                "filter": "none",
                "metrics": ["acc", "acc_norm"],
                "doc_hash": f"{i:064x}",
                "prompt_hash": f"{i:064x}",
                "target_hash": f"{target:064x}",
                "acc": float(np.argmax(likelihoods) == target),
                "acc_norm": 0.0,
            }
        )
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    e = evaluate(tmp_path / "samples.jsonl")
    scores = np.full((60, 4), -np.inf)
    for i, row in enumerate(rows):
        scores[i, : len(row["filtered_resps"])] = [float(x) for x, _ in row["filtered_resps"]]
    with np.errstate(invalid="ignore"):
        log_p = scipy.special.log_softmax(scores, axis=1)
    nll = -log_p[np.arange(60), [int(row["target"]) for row in rows]]
    assert e.nll == near(nll.mean())
    assert e.accuracy == np.mean([row["acc"] for row in rows])
    assert e.entropy == near(scipy.stats.entropy(np.exp(log_p), axis=1).mean())
    assert any("rows have 3 to 4 choices" in note for note in e.notes)


# ---------------------------------------------------------------- Lightning


def write_ranks(folder, ranks, rows=60, form=lambda rows: torch.tensor(LOGITS[rows]), indices=True):
    """As the example of BasePredictionWriter saves them at the end of an epoch: a list of batches for each process, and
    the rows of the data set in lists of data loaders and batches. DistributedSampler repeats the first rows at the end.
    """
    folder.mkdir(exist_ok=True)
    padded = [*range(rows), *range(-rows % ranks)]
    for rank in range(ranks):
        mine = padded[rank::ranks]
        batches = [mine[i : i + 4] for i in range(0, len(mine), 4)]
        torch.save([form(batch) for batch in batches], folder / f"predictions_{rank}.pt")
        if indices:
            torch.save([batches], folder / f"batch_indices_{rank}.pt")
    return folder


@pytest.mark.parametrize("ranks", [1, 3, 7, 11])  # of 60 rows, which 7 and 11 do not divide
def test_predictions_of_several_processes(tmp_path, ranks):
    folder = write_ranks(tmp_path / "out", ranks)
    np.save(tmp_path / "labels.npy", LABELS)
    for asked in (folder, f"{folder}/*.pt", f"{folder}/predictions_*.pt"):
        e = evaluate(asked, targets=tmp_path / "labels.npy")
        check_classes(e, LOGITS, LABELS)
        nll = -scipy.special.log_softmax(LOGITS.astype(float), axis=1)[np.arange(60), LABELS]
        assert [int(row.details["batch_indices"]) for row in e.surprising] == np.argsort(-nll)[:20].tolist()
        assert e.source.rows == 60
        repeated = [note for note in e.notes if "sampler" in note]
        assert repeated == [f"{-60 % ranks} rows that a sampler gave to several processes are read once"] * (
            60 % ranks > 0
        )
    both = write_ranks(
        tmp_path / "own", ranks, form=lambda r: {"logits": torch.tensor(LOGITS[r]), "label": torch.tensor(LABELS[r])}
    )
    check_classes(evaluate(both), LOGITS, LABELS)


def test_predictions_of_processes_in_a_store(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    folder = write_ranks(tmp_path / "out", 7)
    np.save(tmp_path / "labels.npy", LABELS)
    fs = fsspec.filesystem("memory")
    for path in folder.iterdir():
        fs.pipe_file(f"/ranks/{path.name}", path.read_bytes())
    check_classes(evaluate("memory://ranks", targets=tmp_path / "labels.npy"), LOGITS, LABELS)
    fs.rm("/ranks", recursive=True)


def test_rows_without_labels_and_labels_without_rows(tmp_path):
    folder = write_ranks(tmp_path / "out", 3)
    np.save(tmp_path / "labels.npy", LABELS[:50])
    e = evaluate(folder, targets=tmp_path / "labels.npy")
    assert (e.rows, e.left_out["unmatched"]) == (50, 10)
    check_classes(e, LOGITS[:50], LABELS[:50])
    np.save(tmp_path / "labels.npy", np.tile(LABELS, 2))
    e = evaluate(folder, targets=tmp_path / "labels.npy")
    check_classes(e, LOGITS, LABELS)
    assert any("at least 60 of the 120 targets have no scores" in note for note in e.notes)


def test_indices_that_do_not_fit(tmp_path):
    np.save(tmp_path / "labels.npy", LABELS)

    def refused(message):
        with pytest.raises(EvaluationError, match=message):
            evaluate(tmp_path / "out", targets=tmp_path / "labels.npy")

    folder = write_ranks(tmp_path / "out", 2)
    torch.save([[[0, 1, 2]]], folder / "batch_indices_1.pt")
    refused(
        r"predictions_1\.pt: batch_indices beside it has 3 numbers of rows, expected one for each row of predictions"
    )
    for found in ("text", [[[[0]]]], [[["0"]]], {"rows": 1}, [[[2**70]]]):
        torch.save(found, folder / "batch_indices_1.pt")
        refused(r"predictions_1\.pt: beside it, batch_indices_1\.pt: holds no numbers of rows in lists of batches")
    (folder / "batch_indices_1.pt").write_bytes(b"text")
    refused(r"predictions_1\.pt: beside it, batch_indices_1\.pt: cannot be read by torch\.load")
    (folder / "batch_indices_1.pt").unlink()
    refused(r"predictions_1\.pt: (lacks the columns of|has no batch_indices beside it)")
    (folder / "batch_indices_0.pt").rename(folder / "batch_indices_1.pt")
    refused(r"predictions_0\.pt: has no batch_indices beside it, as other files have: expected all or none")


def test_one_process_without_indices(tmp_path):
    """Lightning saves empty lists where it does not know the sampler: the rows are in the order of the data set."""
    np.save(tmp_path / "labels.npy", LABELS)
    folder = write_ranks(tmp_path / "out", 1)
    torch.save([[]], folder / "batch_indices_0.pt")
    e = evaluate(folder, targets=tmp_path / "labels.npy")
    check_classes(e, LOGITS, LABELS)
    assert any("joined by the order of the rows" in note for note in e.notes)
