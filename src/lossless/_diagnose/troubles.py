"""The table of troubles, read when the first of them is met."""

from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

Level = Literal["error", "warning", "hint", "answer"]


class Trouble(NamedTuple):
    """A row of the table; its comments say what the columns mean."""

    name: str
    level: Level
    symptom: str
    cause: str
    fix: str
    issues: tuple[str, ...]
    found_in: tuple[str, ...] = ("calls",)


@cache
def troubles() -> dict[str, Trouble]:
    """By name, in the order of the table."""
    import tomllib

    table = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
    return {name: Trouble(name, **{k: _frozen(v) for k, v in row.items()}) for name, row in table.items()}


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
