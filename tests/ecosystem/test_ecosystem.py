"""Training steps of transformers, Lightning, timm and torchvision, not changed by a letter, under `lossless run`.

Run by `make test-ecosystem`, which installs them. Each script prints its losses: they are those of `python script.py`
to 1e-6, and the account names every call that the interpreter's profiler saw in the plain run, where it was and how
often.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SCRIPTS = sorted((HERE / "scripts").glob("*.py"))
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(HERE / "environment"),
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
LEFT = {
    "torch.nn.functional.softmax",
    "torch.softmax",
    "torch.Tensor.softmax",
    "torch.nn.functional.binary_cross_entropy",
}
# (function, the end of its file's path) that each script reaches; what is left to PyTorch begins with "-".
EXPECTED = {
    "transformers_causal": {
        "cross_entropy transformers/loss/loss_utils.py",
        "-softmax transformers/models/gpt2/modeling_gpt2.py",
    },
    "transformers_classification": {
        "cross_entropy transformers/models/bert/modeling_bert.py",
        "mse_loss transformers/models/bert/modeling_bert.py",
        "binary_cross_entropy_with_logits transformers/models/bert/modeling_bert.py",
    },
    "transformers_trainer": {"log_softmax transformers/trainer_pt_utils.py"},
    "lightning_fit": {
        "cross_entropy ecosystem/scripts/lightning_fit.py",
        "mse_loss ecosystem/scripts/lightning_fit.py",
    },
    "timm_losses": {
        "cross_entropy ecosystem/scripts/timm_losses.py",
        "log_softmax timm/loss/cross_entropy.py",
        "binary_cross_entropy_with_logits timm/loss/binary_cross_entropy.py",
        "kl_div timm/loss/jsd.py",
        "-softmax timm/loss/jsd.py",
    },
    "torchvision_focal": {"sigmoid_focal_loss ecosystem/scripts/torchvision_focal.py"},
}


def run(*arguments, **variables):
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=600, env={**ENVIRONMENT, **variables}
    )
    assert done.returncode == 0, done.stderr
    return done


def losses(output):
    return [float(line.split()[1]) for line in output.splitlines()]


def test_every_script_is_expected():
    assert {script.stem for script in SCRIPTS} == set(EXPECTED)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_script_trains_on_our_losses_as_it_is(script, tmp_path):
    plain = run(script, ECOSYSTEM_CALLS=str(tmp_path / "seen.json"))
    ours = run("-m", "lossless", "run", "--json", str(tmp_path / "account.json"), script)
    assert len(losses(ours.stdout)) >= 3
    assert losses(ours.stdout) == pytest.approx(losses(plain.stdout), rel=1e-6, abs=0)

    calls = json.loads((tmp_path / "account.json").read_text())["calls"]
    seen = {
        (function, file, line): number
        for function, file, line, number in json.loads((tmp_path / "seen.json").read_text())
    }
    assert {(c["function"], c["file"], c["line"]): c["calls"] for c in calls} == seen
    assert {c["function"] for c in calls if not c["routed"]} <= LEFT
    assert {c["function"] for c in calls if c["routed"]}.isdisjoint(LEFT)

    reached = {f"{'' if c['routed'] else '-'}{c['function'].rpartition('.')[2]} {c['file']}" for c in calls}
    wanted = EXPECTED[script.stem]
    for place in wanted:
        function, file = place.split()
        assert any(r.startswith(f"{function} ") and r.endswith(file) for r in reached), place
    assert len(reached) == len(wanted)
    summary = ours.stderr[ours.stderr.index("lossless run:") :]
    for call in calls:
        assert any(
            line.split()[:2] == [str(call["calls"]), call["function"]] and f":{call['line']} " in line
            for line in summary.splitlines()
        ), call
