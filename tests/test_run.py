"""`lossless run`: a script sees what `python script.py` would show it, but for its losses."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import zipfile

import pytest

pytest.importorskip("torch")

from lossless.cli import main

LOST = 2.06115369216775e-09
LOSS = """
import torch
import torch.nn.functional as F
print(F.cross_entropy(torch.tensor([[20.0, 0.0]]), torch.tensor([0])).item())
"""
SURROUNDINGS = """
'''A docstring.'''
import os, sys, __main__
print(sys.argv, sys.path[0], __name__, __file__, __package__, type(__loader__).__name__, __doc__)
print(__spec__ and (__spec__.name, __spec__.origin))
print(sorted(vars(__main__)), __builtins__, __annotations__, sys.modules["__main__"] is __main__)
print(sys._getframe().f_code.co_filename, sys._getframe().f_code.co_flags, sys.stdout.errors, sys.stderr.errors)
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to be in, with a script in a folder of it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "src").mkdir()

    def write(text, name="src/train.py"):
        (tmp_path / name).write_text(textwrap.dedent(text))
        return name

    return write


def python(*arguments, **options):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, **options)


def lossless(*arguments, **options):
    return python("-m", "lossless", "run", *arguments, **options)


def test_losses_are_ours_and_stdout_is_the_scripts(here):
    done = lossless(here(LOSS))
    assert (done.returncode, done.stdout) == (0, f"{LOST}\n")
    words = " ".join(done.stderr.split())
    assert words.startswith("lossless run: 1 call of 1 function went to lossless routed to lossless")
    assert words.endswith("1 torch.nn.functional.cross_entropy src/train.py:4 <module>")
    assert python(here(LOSS)).stdout == "0.0\n"


def test_options_before_the_script_are_ours_and_those_after_it_its_own(here):
    script = here(
        "import sys, torch; print(sys.argv[1:]); torch.ones(2, 2).softmax(1).mean(); torch.logsumexp(torch.ones(2), 0)"
    )
    done = lossless(
        "--also", "softmax", "--skip=logsumexp", "--json", "account.json", script, "--also", "x", "-m", "--", "-h"
    )
    assert (done.returncode, done.stdout) == (0, "['--also', 'x', '-m', '--', '-h']\n")
    with open("account.json") as file:
        calls = json.load(file)["calls"]
    assert [(c["function"], c["calls"], c["routed"], c["reason"]) for c in calls] == [
        ("torch.Tensor.softmax", 1, True, ""),
        ("torch.logsumexp", 1, False, "you asked for PyTorch's"),
    ]
    assert {(c["file"], c["line"], c["within"], c["traces"]) for c in calls} == {
        (os.path.abspath(script), 1, "<module>", 0)
    }
    done = lossless("--quiet", script, "--quiet")
    assert (done.stdout, done.stderr) == ("['--quiet']\n", "")


@pytest.mark.parametrize("form", ["file", "link", "folder", "zip", "module", "package"])
def test_the_script_sees_what_python_shows_it(here, form, tmp_path):
    script = here(SURROUNDINGS)
    arguments = [script]
    if form == "link":
        os.symlink("src/train.py", "link.py")
        arguments = ["link.py"]
    elif form == "folder":
        here(SURROUNDINGS, "src/__main__.py")
        arguments = ["src"]
    elif form == "zip":
        with zipfile.ZipFile("app.pyz", "w") as archive:
            archive.writestr("__main__.py", textwrap.dedent(SURROUNDINGS))
        arguments = ["app.pyz"]
    elif form == "module":
        arguments = ["-m", "src.train"]
    elif form == "package":
        here("print(__name__)", "src/__init__.py")
        here(SURROUNDINGS, "src/__main__.py")
        arguments = ["-m", "src"]
    theirs = python(*arguments, "--lr", "3")
    ours = lossless("--quiet", *arguments, "--lr", "3")
    assert theirs.returncode == 0
    assert theirs.stdout.count("\n") >= 3
    assert (ours.stdout, ours.stderr) == (theirs.stdout, theirs.stderr)


@pytest.mark.parametrize(
    "ending",
    [
        "raise SystemExit",
        "sys.exit(7)",
        "sys.exit('goodbye')",
        "def f():\n    raise KeyError('x')\nf()",
        "raise ModuleNotFoundError('no numpy', name='rich')",
        "raise OSError(2, 'No such file', 'x')",
        "try:\n    1 / 0\nexcept ZeroDivisionError as error:\n    raise MemoryError from error",
        "sys.excepthook = lambda kind, error, trace: print('mine', kind, trace.tb_lineno)\nraise KeyError",
        "import lossless\nlossless.cross_entropy(1, 2)",
        "import signal\nos.kill(os.getpid(), signal.SIGINT)\nimport time\ntime.sleep(9)",
        "os.kill(os.getpid(), 15)",
        "def f(:\n",
        "import atexit\natexit.register(print, 'at exit')\nraise ValueError",
    ],
)
def test_endings_are_pythons(here, ending):
    script = here(f"import os, sys\nprint('begun', flush=True)\n{ending}")
    theirs, ours = python(script), lossless("--quiet", script)
    assert (ours.returncode, ours.stdout) == (theirs.returncode, theirs.stdout)
    if "lossless" not in ending:
        assert ours.stderr == theirs.stderr
    else:
        assert ours.stderr.splitlines()[:3] == theirs.stderr.splitlines()[:3]


def test_what_runs_at_exit_is_routed_and_counted(here):
    at_exit = f"{LOSS}\nimport atexit\natexit.register(lambda: print(F.mse_loss(torch.ones(2), torch.zeros(2)).item()))"
    done = lossless(here(f"{at_exit}\nraise SystemExit(3)"))
    assert (done.returncode, done.stdout) == (3, f"{LOST}\n1.0\n")
    assert "2 calls of 2 functions" in done.stderr


def test_children_by_fork_are_routed_and_print_nothing(here):
    done = lossless(
        here(f"""
        import os, sys
        {LOSS.replace(chr(10), chr(10) + "        ")}
        sys.stdout.flush()
        child = os.fork()
        if child:
            os.waitpid(child, 0)
        else:
            print(F.cross_entropy(torch.tensor([[20.0, 0.0]]), torch.tensor([0])).item())
        """)
    )
    assert done.stdout == f"{LOST}\n{LOST}\n"
    assert done.stderr.count("lossless run:") == 1


WORKERS = f"""
import sys
import multiprocessing
{LOSS}
def work(number, text):
    for _ in range(number):
        loss = F.cross_entropy(torch.tensor([[20.0, 0.0]]), torch.tensor([0]))
    print(text, loss.item(), flush=True)
if __name__ == "__main__":
    context = multiprocessing.get_context(sys.argv[1])
    for number in (2, 3):
        process = context.Process(target=work, args=(number, "child"))
        process.start()
        process.join()
        assert process.exitcode == 0
"""


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_processes_of_multiprocessing_are_routed_and_counted(here, method, tmp_path):
    done = lossless("--json", "a.json", here(WORKERS), method, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.startswith("child")] == [f"child {LOST}"] * 2
    assert done.stderr.count("lossless run:") == 1
    assert "2 of the processes that it started among them" in done.stderr
    with open("a.json") as file:
        calls = {c["within"]: c["calls"] for c in json.load(file)["calls"]}
    assert calls == {"<module>": 1 if method == "fork" else 3, "work": 5}  # a new process runs the module once more
    assert not list(tmp_path.glob("lossless-run-*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.py"], "lossless run: nowhere.py: No such file"),
        (["--json", "nowhere/a.json", "src/train.py"], "--json got nowhere/a.json, expected a file in a folder"),
        (["--json", "src/train.py", "src/train.py"], "is an input and would be overwritten"),
        (["--json", "-", "src/train.py"], "stdout belongs to the script"),
        (["--also", "huber", "src/train.py"], "also got 'huber', expected one of cross_entropy,"),
    ],
)
def test_misuse_ends_with_2_and_one_line(here, arguments, message, capsys, monkeypatch):
    here(LOSS)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert main(["run", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_no_script_is_misuse(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["run"])
    assert ended.value.code == 2
    assert "SCRIPT" in capsys.readouterr().err


def test_without_pytorch_the_error_says_so(here):
    here(LOSS)
    program = "import sys; sys.modules['torch'] = None; from lossless.cli import main; sys.exit(main(sys.argv[1:]))"
    done = python("-c", program, "run", "src/train.py")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("lossless run: this needs PyTorch, which is not installed")


def test_interrupted_as_python_is(here):
    handled = "import os, signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    done = lossless(here(handled + "os.kill(os.getpid(), signal.SIGINT)\ntime.sleep(9)"))
    assert done.returncode == -signal.SIGINT
    assert "no call of a loss was seen" in done.stderr
