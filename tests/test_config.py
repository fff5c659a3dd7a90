"""What is in use: `show_config`, threads, the forced reference path, and a light import."""

import os
import subprocess
import sys

import pytest

import lossless
from lossless import _config, _kernels


def run(code, **environment):
    """What a fresh interpreter prints."""
    result = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, check=True, capture_output=True, text=True
    )
    return result.stdout


def test_show_config(capsys):
    lossless.show_config()
    shown = capsys.readouterr().out
    assert f"threads        {lossless.get_num_threads()}" in shown
    assert ("compiled kernels, " if _kernels.native else "reference (") in shown


def test_the_reference_path_on_request():
    code = (
        "import numpy as np, lossless; lossless.show_config();"
        "print(lossless.cross_entropy(np.array([[20., 0.]], np.float32), np.array([0])))"
    )
    shown = run(code, LOSSLESS_ISA="reference")
    assert "cpu path       reference (LOSSLESS_ISA=reference)" in shown
    assert shown.endswith("2.0611537e-09\n")


def test_no_kernels_is_said(monkeypatch):
    monkeypatch.setattr(_kernels, "native", None)
    monkeypatch.setattr(_kernels, "why", "no compiler")
    assert _config.config()["cpu path"] == "reference (no compiler)"
    assert lossless.get_num_threads() == 1
    lossless.set_num_threads(3)
    assert lossless.get_num_threads() == 1


@pytest.mark.skipif(_kernels.native is None, reason="threads are the kernels' own")
def test_threads():
    code = "import lossless; lossless.set_num_threads(3); print(lossless.get_num_threads())"
    assert run(code) == "3\n"


def test_importing_loads_few_modules_and_no_framework():
    code = (
        "import sys, numpy; before = set(sys.modules); import lossless;"
        "assert not {'torch', 'scipy', 'pyarrow', 'rich'} & set(sys.modules), sys.modules;"
        "print(len(set(sys.modules) - before))"
    )
    assert int(run(code)) < 90


def test_public_names_are_what_all_says():
    for name in lossless.__all__:
        assert getattr(lossless, name)
