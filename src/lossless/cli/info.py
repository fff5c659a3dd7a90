"""Show versions, the path that computes, its instruction set and the number of threads."""

from __future__ import annotations

import argparse

SUMMARY = "versions, compute path and threads"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No arguments."""


def run(args: argparse.Namespace) -> None:
    """Print the configuration; PyTorch is looked up, not imported."""
    from lossless._config import config

    from ._console import Output

    output = Output()
    settings = config()
    output.table(("", ""), list(settings.items()))
    if settings["cpu path"].startswith("reference"):
        output.text()
        output.text(
            "No native kernel was built: every function runs on the reference path, with the same accuracy but slower. "
            "Install a C++20 compiler and install lossless again."
        )
