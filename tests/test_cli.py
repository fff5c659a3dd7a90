"""The command line: what is printed where, exit codes, and what is never imported."""

import json
import os
import pty
import re
import subprocess
import sys

import numpy as np
import pytest

import lossless
from lossless._evaluate.text import printable
from lossless._files import write_text
from lossless._report import interval_text
from lossless.cli import COMMANDS, main
from lossless.cli._console import figure
from lossless.errors import ParameterError

RNG = np.random.default_rng(3)
SCORES = RNG.normal(size=(200, 4)).astype(np.float32)
LABELS = RNG.integers(0, 4, 200)


@pytest.fixture
def predictions(tmp_path):
    path = tmp_path / "predictions.npz"
    np.savez(path, logits=SCORES, label=LABELS)
    return str(path)


def strict(text):
    """Parse JSON as RFC 8259 has it."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_every_command_has_help(capsys):
    for command in COMMANDS:
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0
        assert f"lossless {command}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments", [[], ["evaluat"], ["evaluate"], ["evaluate", "a", "--workers", "0"], ["info", "x"]]
)
def test_misuse_of_the_command_ends_with_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: lossless" in capsys.readouterr().err


def test_evaluate_prints_tables(predictions, capsys):
    assert main(["evaluate", predictions]) == 0
    out, err = capsys.readouterr()
    e = lossless.evaluate(predictions)
    assert err == ""
    assert "\x1b" not in out
    interval = re.escape(interval_text(e.intervals["nll"]))
    assert re.search(rf"^nll +{re.escape(figure(e.nll))}  {interval} +nats", out, re.MULTILINE)
    assert "read as logits (by its name), labels from 'label'" in out
    for title in ("accuracy", "calibration error", "precision", "macro average", "confusions", "most surprising rows"):
        assert title in out


def test_json_on_stdout_is_nothing_but_json(predictions, capsys):
    assert main(["evaluate", predictions, "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    found, e = strict(out), lossless.evaluate(predictions)
    assert found == strict(e.to_json())
    assert found["schema"] == "lossless.evaluation/1"
    # unrounded: the text gives the same float64 back
    assert found["nll"] == e.nll
    assert found["source"]["kind"] == "logits"
    assert [b["count"] for b in found["reliability"]] == [b.count for b in e.reliability]


def test_class_names_of_text_labels(tmp_path, capsys):
    (tmp_path / "p.csv").write_text("prob,label\n0.25,no\n0.75,yes\n0.5,no\n")
    assert main(["evaluate", str(tmp_path / "p.csv")]) == 2
    assert "--class-names" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path / "p.csv"), "--class-names", 'no,"yes"', "--json", "-"]) == 0
    e = json.loads(capsys.readouterr().out)
    assert e["source"]["class_names"] == ["no", "yes"]
    assert (e["source"]["task"], e["accuracy"]) == ("binary", 1.0)


def test_json_and_page_files(predictions, tmp_path, capsys):
    outputs = [str(tmp_path / "e.json"), str(tmp_path / "e.html")]
    assert main(["evaluate", predictions, "--json", outputs[0], "--out", outputs[1], "--surprising", "3"]) == 0
    assert "macro average" in capsys.readouterr().out
    assert len(strict((tmp_path / "e.json").read_text())["surprising"]) == 3
    assert (tmp_path / "e.html").read_text().startswith("<!DOCTYPE html>")


def test_a_closed_pipe_loses_no_file(predictions, tmp_path):
    read, write = os.pipe()
    os.close(read)
    files = [tmp_path / "e.json", tmp_path / "e.html"]
    command = [sys.executable, "-m", "lossless", "evaluate", predictions, "--json", files[0], "--out", files[1]]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
    assert strict(files[0].read_text())["rows"] == 200
    assert files[1].read_text().rstrip().endswith("</html>")


def test_results_are_whole_or_not_there(tmp_path, monkeypatch):
    path, link = tmp_path / "e.json", tmp_path / "link"
    path.write_text("old")
    path.chmod(0o640)
    link.symlink_to(path)
    write_text(link, "new")
    assert (path.read_text(), link.is_symlink(), path.stat().st_mode & 0o777) == ("new", True, 0o640)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left") as error:
        write_text(path, "half")
    assert error.value.filename == str(path)
    assert path.read_text() == "new"
    assert {p.name for p in tmp_path.iterdir()} == {"e.json", "link"}
    write_text("/dev/null", "what cannot be replaced is written")


def test_results_that_cannot_be_written_are_told_of(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "e.json", tmp_path / ("n" * 300), tmp_path / "none" / "e.json"):
        with pytest.raises(OSError, match=r"Not a directory|File name too long|No such file") as error:
            write_text(path, "text")
        assert error.value.filename == str(path)
        assert error.value.__context__ is None or error.value.__suppress_context__
    long = tmp_path / ("ü" * 120 + ".json")  # 245 bytes
    write_text(long, "text")
    write_text(os.fsencode(tmp_path / "bytes"), "text")
    assert long.read_text() == (tmp_path / "bytes").read_text() == "text"
    for path in (None, 3):
        with pytest.raises(ParameterError, match=f"got {path} for a file to write, expected a path"):
            write_text(path, "text")


def test_numbers_that_json_lacks(tmp_path, capsys):
    # label 1 has probability 0; class 2 is never predicted, so its precision is undefined
    np.savez(tmp_path / "p.npz", probs=np.array([[1.0, 0, 0], [1, 0, 0], [0.9, 0.05, 0.05]]), label=[0, 1, 2])
    assert main(["evaluate", str(tmp_path / "p.npz"), "--json", "-"]) == 0
    found = strict(capsys.readouterr().out)
    assert found["nll"] == "Infinity"
    assert found["classes"][2]["precision"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.npz"], "missing.npz: No such file"),
        (["{path}", "--label", "truth"], "--label names 'truth'"),
        (["{path}", "--probs", "logits"], "no probability"),
        (["{path}", "--json", "nowhere/e.json"], "--json got nowhere/e.json, expected a file in a folder that exists"),
        (["{path}", "--out", "{path}"], "is an input and would be overwritten"),
        (["{path}", "--out", "-"], "--out got -, expected a file"),
        (["{path}", "--out", "e.x", "--json", "./e.x"], "--json and --out both got e.x, expected two files"),
    ],
)
def test_misuse_of_a_file_ends_with_2_and_one_line(predictions, arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["evaluate", *(a.format(path=predictions) for a in arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lossless evaluate: ")
    assert message in err
    assert err.count("\n") == 1


def test_several_score_flags_are_misuse(predictions, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", predictions, "--logits", "a", "--probs", "b"])
    assert ended.value.code == 2


def test_text_from_data_is_harmless_to_a_terminal(tmp_path, capsys):
    names = np.array(["\x1b[31mred", "two\nlines", "bell\x07", "猫"])
    np.savez(tmp_path / "p.npz", logits=SCORES, label=LABELS, class_names=names)
    assert main(["evaluate", str(tmp_path / "p.npz")]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\x07" not in out
    assert "\\x1b[31mred" in out
    assert "two\\nlines" in out
    assert "猫" in out
    assert printable("a\tb") == "a\\tb"


def test_missing_extra_names_the_remedy(tmp_path, monkeypatch, capsys):
    (tmp_path / "p.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    for module in [m for m in sys.modules if m.startswith(("pyarrow.", "lossless._evaluate.readers.parquet"))]:
        monkeypatch.delitem(sys.modules, module)
    assert main(["evaluate", str(tmp_path / "p.parquet")]) == 2
    assert "pip install 'lossless[evaluate]'" in capsys.readouterr().err


def test_page_without_its_packages(predictions, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "altair", None)
    for module in [m for m in sys.modules if m.startswith("lossless._report")]:
        monkeypatch.delitem(sys.modules, module)
    assert main(["evaluate", predictions, "--out", str(tmp_path / "e.html")]) == 2
    assert "this needs altair, which is not installed: pip install 'lossless[evaluate]'" in capsys.readouterr().err


def test_info(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for name in ("python", "numpy", "cpu path", "threads"):
        assert name in out


def test_info_says_when_no_kernel_was_built(monkeypatch, capsys):
    monkeypatch.setattr("lossless._kernels.native", None)
    monkeypatch.setattr("lossless._kernels.why", "no compiler was found")
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    assert "reference (no compiler was found)" in out
    assert "No native kernel was built" in out


def run(*arguments, **options):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=60, **options)


def test_no_command_but_the_demo_imports_torch_or_readers_it_does_not_need(predictions):
    program = (
        "import sys; from lossless.cli import main; main(sys.argv[1:]);"
        "heavy = {'torch', 'pyarrow', 'altair', 'rich', 'jinja2', 'sklearn'};"
        "print(*sorted(heavy & set(sys.modules)), file=sys.stderr)"
    )
    for arguments in (["info"], ["evaluate", predictions]):
        done = run("-c", program, *arguments)
        assert (done.returncode, done.stderr.strip()) == (0, "")


def test_module_runs_and_a_closed_pipe_is_quiet(predictions):
    done = run("-m", "lossless", "evaluate", "missing.npz")
    assert done.returncode == 2
    program = f"{sys.executable} -m lossless evaluate '{predictions}' --json - | head -c 1"
    piped = subprocess.run(["bash", "-c", program], capture_output=True, text=True, timeout=60)
    assert (piped.stdout, piped.stderr) == ("{", "")


@pytest.mark.parametrize("no_color", [False, True])
def test_on_a_terminal_tables_are_rich_and_follow_no_color(predictions, no_color):
    pytest.importorskip("rich")
    environment = {k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "FORCE_COLOR")}
    environment |= {"TERM": "xterm-256color", "COLUMNS": "120"} | ({"NO_COLOR": "1"} if no_color else {})
    leader, follower = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "lossless", "evaluate", predictions], stdout=follower, stderr=follower, env=environment
    )
    os.close(follower)
    shown = b""
    try:
        while part := os.read(leader, 65536):
            shown += part
    except OSError:  # the other end has closed
        pass
    assert child.wait(timeout=60) == 0
    os.close(leader)
    assert "─" in shown.decode()
    assert b"\x1b[3" not in shown if no_color else b"\x1b[1m" in shown
