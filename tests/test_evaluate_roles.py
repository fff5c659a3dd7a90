"""Which column is what: found by name and type, or an error that names the flag; never a guess that could be wrong."""

import json

import numpy as np
import pytest
import scipy.special

from lossless._evaluate import evaluate
from lossless._evaluate.roles import kind_by_name
from lossless._evaluate.rows import Kind
from lossless._report import build_page
from lossless.errors import LosslessError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

RNG = np.random.default_rng(2)
SCORES = RNG.normal(size=(40, 3)) * 2
LABELS = RNG.integers(0, 3, 40)
PROBS = scipy.special.softmax(SCORES, axis=1)


@pytest.fixture
def table(tmp_path):
    """Write columns and evaluate them."""

    def run(columns, metadata=None, **options):
        arrays = {
            name: pa.FixedSizeListArray.from_arrays(pa.array(v.ravel()), v.shape[1]) if np.ndim(v) == 2 else pa.array(v)
            for name, v in columns.items()
        }
        path = tmp_path / "p.parquet"
        pq.write_table(pa.table(arrays).replace_schema_metadata(metadata), path)
        return evaluate(path, **options)

    return run


def refused(run, columns, *parts, **options):
    with pytest.raises(LosslessError) as error:
        run(columns, **options)
    for part in ("p.parquet: ", *parts):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("logits", Kind.LOGITS),
        ("Logit", Kind.LOGITS),
        ("logits_resnet50", Kind.LOGITS),
        ("model.logits", Kind.LOGITS),
        ("probs", Kind.PROBS),
        ("pred_probs", Kind.PROBS),
        ("predict_proba", Kind.PROBS),
        ("probabilities", Kind.PROBS),
        ("log_probs", Kind.LOG_PROBS),
        ("logprobs", Kind.LOG_PROBS),
        ("token_logprobs", Kind.LOG_PROBS),
        ("token_log_probs", Kind.LOG_PROBS),
        ("log_probs_resnet", Kind.LOG_PROBS),
        ("predict_log_proba", Kind.LOG_PROBS),
        ("scores", None),
        ("embedding", None),
    ],
)
def test_what_a_name_promises(name, kind):
    assert kind_by_name(name) is kind


@pytest.mark.parametrize(
    "name",
    [
        "label",
        "labels",
        "target",
        "y",
        "y_true",
        "true_label",
        "ground_truth",
        "gt",
        "y_test",
        "label_ids",
        "correct_label",
    ],
)
def test_names_of_the_truth(table, name):
    assert table({"logits": SCORES, name: LABELS}).source.label == name


@pytest.mark.parametrize("name", ["pred", "prediction", "predicted", "y_pred", "y_hat", "pred_label", "argmax", "top1"])
def test_a_predicted_label_is_never_taken_for_the_truth(table, name):
    refused(table, {"logits": SCORES, name: SCORES.argmax(1)}, "no column named like a true label", "--label", name)
    # and beside a truth it does not matter
    assert table({name: SCORES.argmax(1), "logits": SCORES, "label": LABELS}).source.label == "label"


def test_two_truths_are_one_too_many(table):
    columns = {"logits": SCORES, "label": LABELS, "y_true": (LABELS + 1) % 3}
    refused(table, columns, "several columns", "'label', 'y_true'", "--label")
    assert table(columns, label="y_true").source.label == "y_true"


def test_the_label_that_timm_writes_is_its_prediction(table):
    columns = {"filename": [f"{i}.jpg" for i in range(40)], "label": SCORES.argmax(1), "prob": PROBS}
    refused(table, columns, "timm", "prediction", "--label")
    assert table(columns, label="label").accuracy == 1.0


def test_a_label_that_always_agrees_is_doubted(table):
    e = table({"logits": SCORES, "label": SCORES.argmax(1)})
    assert "'label' may hold predictions" in e.failed("label-is-prediction")[0].evidence
    assert not table({"logits": SCORES, "label": LABELS}).failed("label-is-prediction")


def test_what_the_rules_see_is_found(table):
    e = table({"logits": PROBS, "label": LABELS}, logits="logits")
    (finding,) = e.findings
    assert (finding.name, finding.severity) == ("softmax-before-loss", "warning")
    assert f"all {len(PROBS)} rows of 'logits' lie in [0, 1] and sum to 1, as --probs would" in finding.evidence
    assert e.to_dict()["findings"][0]["name"] == "softmax-before-loss"
    assert build_page(e).findings == (finding,)
    constant = np.tile(SCORES[:1], (len(SCORES), 1))
    assert [f.name for f in table({"logits": constant, "label": LABELS}).findings] == ["constant-input"]
    order = np.argsort(LABELS)  # a file may be sorted by its labels
    for columns in ({"logits": SCORES, "label": LABELS}, {"prob": PROBS[order], "label": LABELS[order]}):
        assert {f.name for f in table(columns).findings} <= {"over-confident"}  # these labels are random


def test_text_labels_need_names(table):
    names = np.array(["cat", "dog", "owl"])
    columns = {"logits": SCORES, "label": names[LABELS]}
    refused(table, columns, "holds text", "class_names", "prediction")
    expected = table({"logits": SCORES, "label": LABELS}).scalars()
    assert table(columns, class_names=["cat", "dog", "owl"]).scalars() == expected
    assert table(columns, {"class_names": json.dumps(names.tolist())}).scalars() == expected
    refused(table, columns, "'dog' at row", "none of the 3 class names", class_names=["cat", "dig", "owl"])
    refused(table, columns, "2 class names", class_names=["cat", "dog"])


def test_score_columns_by_name(table):
    e = table({"embedding": RNG.normal(size=(40, 8)), "logits": SCORES, "label": LABELS})
    assert (e.source.scores, e.source.classes) == ("logits", 3)
    refused(table, {"embedding": SCORES, "label": LABELS}, "no column named like scores", "--logits", "embedding")
    refused(table, {"logits": SCORES, "probs": PROBS, "label": LABELS}, "several columns", "'logits', 'probs'")
    assert table({"logits": SCORES, "probs": PROBS, "label": LABELS}, probs="probs").source.kind == "probs"
    assert table({"embedding": SCORES, "label": LABELS}, logits="embedding").source.kind_reason == "by --logits"


def test_columns_that_do_not_exist(table):
    columns = {"logits": SCORES, "label": LABELS, "name": ["x"] * 40}
    refused(table, columns, "--probs names 'p'", "logits (fixed_size_list", probs="p")
    refused(table, columns, "--label names 'logits'", label="logits")
    refused(table, columns, "--label names 'truth'", label="truth")
    with pytest.raises(LosslessError, match="one of --logits, --probs, --log-probs and --predictions"):
        table(columns, logits="logits", probs="logits")


def test_integer_scores_are_no_scores(table):
    refused(
        table,
        {"logits": np.rint(SCORES).astype(int), "label": LABELS},
        "no column named like scores",
        "'logits' holds fixed_size_list<element: int64>[3], expected float",
    )


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("logits", SCORES.astype(complex), "'logits' holds complex128 of shape (40, 3), expected float"),
        ("logits", np.zeros((40, 3), object), "'logits' holds object of shape (40, 3), pickled"),
        ("logits", SCORES.reshape(20, 2, 3), "'logits' holds float64 of shape (20, 2, 3), expected float"),
        ("prob", PROBS[:, 0], "'prob' has one score per row, and 'label' holds "),
        ("label", np.array(1), "'label' holds int64 of shape (), expected one integer"),
        ("label", LABELS.astype(complex), "'label' holds complex128 of shape (40,), expected one integer"),
    ],
)
def test_columns_of_a_type_that_cannot_be_used_are_said_to_be(tmp_path, name, values, message):
    arrays = {"label": LABELS, name: values} if name != "label" else {"scores": SCORES, name: values}
    np.savez(tmp_path / "p.npz", **arrays)
    flag = {"label": name} if name == "label" else {"logits": name}
    for options in ({}, flag):
        with pytest.raises(LosslessError) as error:
            evaluate(tmp_path / "p.npz", **options)
        assert message in str(error.value)


def test_whether_the_model_was_right_is_not_the_truth(table):
    right = SCORES.argmax(1) == LABELS
    assert table({"logits": SCORES, "label": LABELS, "correct": right}).source.label == "label"
    refused(table, {"logits": SCORES, "correct": right}, "no column named like a true label", "correct (bool)")
    refused(table, {"logits": SCORES, "label": right}, "holds booleans", "3 classes", "--label")
    assert table({"logits": SCORES[:, :2], "label": LABELS > 0}).rows == 40


def test_columns_called_by_their_numbers(table):
    wide = np.hstack([PROBS] * 4) / 4
    labels = LABELS
    numbered = {str(j): wide[:, j] for j in range(12)}
    e = table({**numbered, "label": labels})
    assert (e.source.scores, e.source.classes, e.source.kind) == ("0..11", 12, "probs")
    assert "sum to 1" in e.source.kind_reason
    assert e.nll == pytest.approx(table({"probs": wide, "label": labels}).nll, rel=1e-14)
    # a name is a better reason than a number
    assert table({**numbered, "logits": SCORES, "label": labels}).source.scores == "logits"
    ten = {f"logit_{j}": wide[:, j] for j in range(12)}
    assert table({**ten, "label": labels}, probs="logit").source.classes == 12


@pytest.mark.parametrize(("prefix", "said"), [("logit_", "'logit'"), ("", "'1..3'")])
def test_columns_numbered_from_one(table, prefix, said):
    columns = {f"{prefix}{j + 1}": SCORES[:, j] for j in range(3)}
    refused(table, {**columns, "label": LABELS}, f"The columns {said} are numbered from 1, expected from 0")


def test_a_float_label_that_is_nan_is_missing(table, tmp_path):
    labels = LABELS.astype(float)
    labels[7] = np.nan
    assert table({"logits": SCORES, "label": labels}).left_out["missing"] == 1
    np.savez(tmp_path / "p.npz", logits=SCORES, label=labels)
    assert evaluate(tmp_path / "p.npz").left_out["missing"] == 1


def test_labels_beyond_int64_are_reported_as_they_are(table):
    labels = LABELS.astype(np.uint64)
    labels[5] = 2**64 - 3
    refused(table, {"logits": SCORES, "label": labels}, "holds 18446744073709551613 at row 5")


def test_messages_stay_short_and_in_place(table):
    columns = {f"column {j}": LABELS for j in range(50)}
    refused(table, columns, "and 30 more")
    with pytest.raises(LosslessError) as error:
        table({"logits": SCORES, "label": ["\x1b[2J" + "long " * 1000] * 40}, class_names=["a", "b", "\u202ec"])
    assert len(str(error.value)) < 600
    assert "\x1b" not in str(error.value)
    assert "\u202e" not in str(error.value)


@pytest.mark.parametrize(("option", "value"), [("surprising", -1), ("workers", -1), ("workers", 0)])
def test_numbers_out_of_range(table, option, value):
    with pytest.raises(ValueError, match=f"{option} got {value}, expected") as error:
        table({"logits": SCORES, "label": LABELS}, **{option: value})
    assert isinstance(error.value, LosslessError)


def test_too_many_classes_are_refused_before_they_are_read(table, monkeypatch):
    monkeypatch.setattr("lossless._evaluate.plan.MOST_CLASSES", 2)
    monkeypatch.setattr("lossless._evaluate.plan._sample", lambda *_: pytest.fail("read"))
    refused(table, {"logits": SCORES, "label": LABELS}, "has 3 scores per row, expected at most 2")


def test_one_score_is_no_distribution(table):
    columns = {"score_0": SCORES[:, 0], "label": LABELS}
    refused(table, columns, "no column named like scores")


# ---------------------------------------------------------------- logits, log-probabilities or probabilities


@pytest.mark.parametrize(
    ("values", "kind"),
    [(SCORES, "logits"), (PROBS, "probs"), (np.log(PROBS), "log-probs"), (-np.abs(SCORES), "logits")],
)
def test_scores_without_a_promise_are_judged_by_their_values(table, values, kind):
    e = table({"scores": values, "label": LABELS})
    assert e.source.kind == kind
    assert e.source.kind_reason != "by its name"


def test_names_and_values_that_disagree(table):
    refused(table, {"logits": PROBS, "label": LABELS}, "named like logits", "sum to 1", "--probs logits")
    refused(table, {"probs": SCORES, "label": LABELS}, "named like probabilities", "run from -", "--logits probs")
    refused(table, {"log_probs": SCORES, "label": LABELS}, "named like log-probabilities", "at most 0")
    refused(table, {"probs": PROBS / 2, "label": LABELS}, "do not sum to 1", "0.5")
    refused(table, {"scores": PROBS / 2, "label": LABELS}, "do not sum to 1", "--logits scores or --probs scores")


def test_a_flag_decides(table):
    assert table({"logits": PROBS, "label": LABELS}, probs="logits").nll < 10
    as_logits = table({"logits": PROBS, "label": LABELS}, logits="logits")
    assert as_logits.nll == pytest.approx(-scipy.special.log_softmax(PROBS, 1)[np.arange(40), LABELS].mean())
    halved = table({"probs": PROBS / 2, "label": LABELS}, probs="probs")
    assert halved.nll == pytest.approx(table({"probs": PROBS, "label": LABELS}).nll)
    assert "40 rows of probs do not sum to 1" in halved.failed("unnormalised-rows")[0].evidence


def test_rows_off_the_sum_behind_the_sample_are_counted(table):
    p = np.tile(PROBS, (40, 1))
    p[1500] *= 0.9
    e = table({"probs": p, "label": np.tile(LABELS, 40)})
    (off,) = e.failed("unnormalised-rows")
    assert "1 rows of probs do not sum to 1" in off.evidence
    assert "row 1500" in off.evidence


def test_a_negative_probability_behind_the_sample(table):
    p = np.tile(PROBS, (40, 1))
    p[1500, 2] = -0.25
    refused(table, {"probs": p, "label": np.tile(LABELS, 40)}, "row 1500 holds -0.25 for class 2")


def test_top_k_scores_are_not_all_scores(table):
    ranked = -np.sort(-PROBS, axis=1)
    refused(table, {"probs": ranked, "label": LABELS}, "falls from left to right", "class order")
    refused(table, {**{f"prob_{j}": ranked[:, j] for j in range(3)}, "label": LABELS}, "falls from left to right")
    assert table({"probs": ranked, "label": LABELS}, probs="probs").source.kind == "probs"
    # a model that always gives the same answer is no ranking
    assert table({"probs": np.tile([[0.5, 0.3, 0.2]], (40, 1)), "label": LABELS}).source.kind == "probs"


# ---------------------------------------------------------------- labels outside the classes


def test_labels_from_one_are_said_to_be(table):
    refused(
        table,
        {"logits": SCORES, "label": LABELS + 1},
        "runs from 1 to 3, expected 0..2",
        f"{np.sum(LABELS == 2)} of 40 rows",
        f"first 3 at row {np.flatnonzero(LABELS == 2)[0]}.",
        "look 1-based: subtract 1",
    )


def test_labels_outside_in_every_partition(tmp_path):
    labels = np.tile(LABELS, 50)
    labels[[700, 1900]] = 7
    column = pa.FixedSizeListArray.from_arrays(pa.array(np.tile(SCORES, (50, 1)).ravel()), 3)
    pq.write_table(pa.table({"logits": column, "label": labels}), tmp_path / "p.parquet", row_group_size=100)
    for workers in (1, 2):
        with pytest.raises(LosslessError, match=r"p\.parquet: .* 2 of 2000 rows are outside, first 7 at row 700\."):
            evaluate(tmp_path / "p.parquet", workers=workers)


def test_other_labels_outside(table):
    one_more = np.append(LABELS[:-1], 3)
    refused(table, {"logits": SCORES, "label": one_more}, "runs from 0 to 3", "one class more than 'logits'")
    marked = np.append(LABELS[:-1], -1)
    refused(table, {"logits": SCORES, "label": marked}, "first -1 at row 39", "--ignore-index=-1")
    assert table({"logits": SCORES, "label": marked}, ignore_index=-1).rows == 39
    marked[-1] = -100
    assert table({"logits": SCORES, "label": marked}).left_out["ignored"] == 1
    refused(table, {"logits": SCORES, "label": marked}, "first -100 at row 39", ignore_index=None)
    huge = np.append(LABELS[:-1], 2**63 - 1)
    refused(table, {"logits": SCORES, "label": huge}, "number the classes of the scores from 0")


def test_labels_that_are_no_labels(table, tmp_path):
    refused(table, {"logits": SCORES, "label": LABELS + 0.5}, "at row 0", "expected whole numbers")
    refused(table, {"logits": SCORES, "label": np.full(40, np.inf)}, "holds inf at row 0")
    refused(table, {"logits": SCORES, "label": np.eye(3, dtype=int)[LABELS]}, "marks one class", "argmax")
    np.savez(tmp_path / "one_hot.npz", logits=SCORES, label=np.eye(3, dtype=int)[LABELS])
    with pytest.raises(LosslessError, match=r"each row of 'label' marks one class.*argmax"):
        evaluate(tmp_path / "one_hot.npz")
