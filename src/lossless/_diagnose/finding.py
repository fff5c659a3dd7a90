"""A trouble found in a call, with what was seen of it; and how it is shown."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from .troubles import troubles

Severity = Literal["error", "warning", "hint"]
_RANK = {"error": 0, "warning": 1, "hint": 2}

PAGE = "docs/troubleshooting.md"
SILENCE = "Nothing found, which is no proof that nothing is wrong."


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or most likely is, with a batch and its loss."""

    name: str
    "Of the trouble; its place in docs/troubleshooting.md."
    severity: Severity
    '"error": the loss refuses it. "warning": near-certain. "hint": worth a look.'
    evidence: str
    "What was seen: numbers, the first row, how many."
    cause: str
    fix: str

    def sentence(self) -> str:
        """All of it in a line."""
        return f"{self.severity}: {self.name}: {self.evidence}. {self.cause} {self.fix}"

    def __str__(self) -> str:
        evidence = self.evidence.replace("\n", "\n         ")
        return f"{self.severity}: {self.name}\n  seen:  {evidence}\n  cause: {self.cause}\n  fix:   {self.fix}"


def found(name: str, function: str, evidence: str, *, refused: bool = False) -> Finding:
    """The trouble of this name, met in a call of `function`, or the reason why that was refused."""
    trouble = troubles()[name]
    severity: Severity = "error" if refused else "hint" if trouble.level == "answer" else trouble.level
    return Finding(
        name, severity, evidence, trouble.cause.format(function=function), trouble.fix.format(function=function)
    )


class Findings(list[Finding]):
    """A list of findings, gravest first, that reads well in a terminal and in a notebook."""

    def __init__(self, findings: Iterable[Finding], subject: str) -> None:
        super().__init__(sorted(findings, key=lambda f: _RANK[f.severity]))
        self.subject = subject
        "What was looked at: the loss and the size of the batch."

    def __repr__(self) -> str:
        return "\n\n".join([self.subject, *(map(str, self) if self else [SILENCE])])

    def _repr_html_(self) -> str:
        from .notebook import heading, table

        head = heading(self.subject)
        if not self:
            return f"{head}<p>{SILENCE}</p>"
        columns = ("severity", "name", "evidence", "cause", "fix")
        return head + table(("", "what", "seen", "cause", "fix"), ([getattr(f, c) for c in columns] for f in self))
