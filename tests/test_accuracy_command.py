"""`lossless accuracy`: what it measures, what it says, and that it notices."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

import lossless
from lossless import _kernels
from lossless._accuracy import promises, regimes, tables
from lossless._accuracy.certificate import Cell, measure
from lossless._accuracy.peers import NotOffered, Offer, pytorch, pytorch_in_float64, scipy
from lossless.cli import main

PAGE = Path(__file__).parents[1] / "docs" / "accuracy.md"


@pytest.fixture(scope="module")
def certificate():
    return measure(1, 1, ["logsumexp", "log_softmax", "mse_loss"], ["float32", "bfloat16"])


def test_ours_is_within_the_promise_and_the_peers_are_measured_on_the_same_rows(certificate):
    assert certificate.broken == []
    assert certificate.libraries == ["lossless", "PyTorch", "PyTorch f64", "SciPy"]
    for dtype in ("float32", "bfloat16"):
        worst = certificate.worst(dtype)
        for what in certificate.quantities(dtype):
            ours = worst["lossless", *what]
            assert 0.3 < ours.ulp <= promises.promise(*what, dtype).ulp
            assert worst["PyTorch", *what].rows == ours.rows > 0
    assert {f for f, _ in certificate.quantities("float32")} == {"logsumexp", "log_softmax", "mse_loss"}


def test_what_peers_lose_is_called_lost(certificate):
    def shown(library, quantity, dtype, regime):
        key = (library, "log_softmax", quantity, dtype, regime)
        return tables.figure(certificate.cells[key], dtype)

    assert shown("PyTorch", "value", "float32", "gap-17") == "lost"
    assert shown("PyTorch", "gradient", "float32", "gap-17") == "lost"
    assert shown("SciPy", "value", "float32", "gap-17") == "lost"
    assert float(shown("PyTorch f64", "value", "float32", "gap-17")) < 2
    assert shown("PyTorch f64", "value", "float32", "gap-80") == "lost"
    assert float(shown("PyTorch", "value", "float32", "typical-10")) < 20
    assert ("SciPy", "log_softmax", "gradient", "float32", "gap-17") not in certificate.cells


def test_figures():
    def shown(ulp, dtype="float32"):
        return tables.figure(Cell(1, ulp, 0.0, "case"), dtype)

    assert [shown(v) for v in (0.5, 99.99, 123.4, 56789.0)] == ["0.50", "99.99", "123", "5.7e+04"]
    assert shown(2.0**22) == shown(float("inf")) == "lost"
    assert shown(2.0**22, "float64") == "4.2e+06"
    assert tables.figure(Cell(), "float32") == ""


def test_a_seed_draws_the_same_numbers_and_another_one_others(certificate):
    again = measure(1, 1, ["log_softmax"], ["float32"], peers=False)
    other = measure(1, 2, ["log_softmax"], ["float32"], peers=False)
    assert regimes.SEED == 0
    for key, cell in again.cells.items():
        assert (cell.ulp, cell.worst) == (certificate.cells[key].ulp, certificate.cells[key].worst)
    assert [c.ulp for c in other.cells.values()] != [c.ulp for c in again.cells.values()]


def test_rounds_go_on_until_there_are_rows_enough_and_long_rows_come_once():
    found = measure(700, 5, ["logsumexp"], ["bfloat16"], peers=False)
    assert found.rounds == -(-700 // (found.rows // found.rounds))
    assert found.rows >= 700
    found = measure(1000, 5, ["softmax"], ["float16"], peers=False)
    assert found.rounds > 1
    assert 0 < found.long_rows <= 100
    assert any(key.regime == regimes.ENORMOUS for key in found.cells)


def test_a_lost_digit_breaks_the_promise_and_the_command_says_so(monkeypatch, capsys, tmp_path):
    honest = lossless.log_softmax

    def careless(x, dim=-1, **options):
        return torch.log_softmax(x, dim) if isinstance(x, torch.Tensor) else honest(x, dim, **options)

    monkeypatch.setattr(lossless, "log_softmax", careless)
    target = tmp_path / "found.json"
    asked = ["--function", "log_softmax", "--dtype", "bfloat16", "--rows", "1", "--seed", "3", "--no-peers"]
    assert main(["accuracy", *asked, "--json", str(target)]) == 1
    out = capsys.readouterr().out
    assert re.search(r"log_softmax/label/gap-\d+@3: log_softmax.value bfloat16 at .* bound 0.51", out)
    found = json.loads(target.read_text())
    assert len(found["broken"]) == len([line for line in out.splitlines() if "@3: " in line]) > 0
    assert {r["library"] for r in found["results"]} == {"lossless"}


def test_the_command(capsys, tmp_path):
    page = tmp_path / "page.md"
    asked = ["accuracy", "--function", "logit", "--dtype", "float32", "--rows", "1"]
    assert main([*asked, "--json", "-", "--markdown", str(page)]) == 0
    out = capsys.readouterr().out
    found = json.loads(out)
    assert found["broken"] == []
    assert found["elements"] > 0
    assert found["promises"]["logit.value"]["float32"] == 4.0
    seed = found["seed"]
    assert f"from seed {seed} in 1 rounds" in page.read_text()
    assert main([*asked, "--seed", str(seed)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^logit +value +\S+ +\d+ +4 +0\.\d\d ", out, re.M)
    assert f"elements from seed {seed}, 1 rounds: 0 over promise" in out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--function", "softmaxx"], "--function got softmaxx, expected one of softmax,"),
        (["--dtype", "float8"], "--dtype got float8, expected one of float32,"),
        (["--rows", "0"], "--rows got 0, expected at least 1"),
        (["--seed", "-1"], "--seed got -1, expected a number from 0"),
        (["--json", "no/such/folder.json"], "--json got no/such/folder.json, expected a file in a folder"),
    ],
)
def test_misuse_is_named(given, message, capsys):
    assert main(["accuracy", *given]) == 2
    assert message in capsys.readouterr().err


def test_a_peer_says_what_it_does_not_have():
    offer = Offer(double=lambda x, *, times=2: x * times, inner=Offer(one=lambda: 1))
    assert offer.double(3, times=3) == 9
    assert offer.inner.one() == 1
    for call in (lambda: offer.triple, lambda: offer.double(3, factor=1), lambda: offer.inner.two):
        with pytest.raises(NotOffered):
            call()
    x, y = torch.tensor([[3.0, 0.0]]), torch.tensor([0])
    assert pytorch().api.cross_entropy(x, y) == torch.nn.functional.cross_entropy(x, y)
    wide = pytorch_in_float64().api.cross_entropy(x, y)
    assert wide.dtype == torch.float32
    assert wide == torch.nn.functional.cross_entropy(x.double(), y).float()
    with pytest.raises(NotOffered):
        pytorch().api.cross_entropy(x, y, z_loss=1.0)
    with pytest.raises(NotOffered):
        _ = scipy().api.cross_entropy


@pytest.mark.skipif(_kernels.native is None, reason="the page was measured, and promises, with kernels")
def test_the_documented_page_covers_every_promise_and_keeps_it():
    """The page is written by the command; a function added since, or a figure over its promise, shows here."""
    text = PAGE.read_text()
    for dtype in regimes.DTYPES:
        section = text.split(f"## {dtype}\n")[1].split("\n## ")[0]
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.strip().splitlines()]
        columns, rows = rows[0], rows[2:]
        shown = {(r[0], r[1]): dict(zip(columns, r, strict=True)) for r in rows}
        expected = {(f, q) for f, quantities in promises.FUNCTIONS.items() for q in quantities}
        assert set(shown) == expected - {(f, q) for f, q in expected if q == "second_derivative"}
        for (function, quantity), row in shown.items():
            assert float(row["promise"].strip("*")) == promises.promise(function, quantity, dtype).ulp
            assert float(row["lossless"]) <= float(row["promise"].strip("*"))
    for what, bounds, why in promises.exceptions(expected - {w for w in expected if w[1] == "second_derivative"}):
        assert f"| {what} | {bounds} | {why} |" in text
