"""What a verification finds: findings and the report."""

from __future__ import annotations

from dataclasses import dataclass, field

from privyseal.transparency.checkpoint import Checkpoint

MAX_FINDINGS = 20
"""After so many the rest is not looked for; the first is what matters."""


@dataclass(frozen=True)
class Finding:
    """Something that is not as it was written: where, for a person, and what."""

    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.message}"


@dataclass(frozen=True)
class Anchor:
    """A checkpoint whose signature holds, and where it was found."""

    place: str
    checkpoint: Checkpoint


@dataclass
class Report:
    """What was read and what was found. `findings` are in the order of the log; empty means that all of it holds.

    `unmerged` records are in segments and not yet in the tree; `notes` are worth knowing and no fault.
    """

    records: int = 0
    size_bytes: int = 0
    checkpoint: Checkpoint | None = None
    anchors: int = 0
    unmerged: int = 0
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.findings

    def find(self, place: str, message: str) -> None:
        """Add a finding, if it is not one too many."""
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(place, message))
