"""The table of troubles, read when the first of them is met."""

import tomllib
from functools import cache
from importlib.resources import files
from typing import Literal, NamedTuple, get_args

Level = Literal["error", "warning", "hint", "answer"]
LEVELS = get_args(Level)


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
    table = tomllib.loads(files(__package__).joinpath("troubles.toml").read_text("utf-8"))
    return {name: Trouble(name, **{**row, "issues": tuple(row["issues"])}) for name, row in table.items()}
