"""The table of troubles, read when the first of them is met."""

from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

Level = Literal["error", "warning", "hint", "answer"]


class Trouble(NamedTuple):
    """A row of the table; its comments say what the columns mean."""

    name: str
    level: Level
    symptom: str
    cause: str
    fix: str
    issues: tuple[str, ...]


@cache
def troubles() -> dict[str, Trouble]:
    """By name, in the order of the table."""
    import tomllib

    table = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
    return {name: Trouble(name, **{**row, "issues": tuple(row["issues"])}) for name, row in table.items()}
