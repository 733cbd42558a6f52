"""Which replica and worker writes a record."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Source:
    """Which worker of which replica writes: two names of 1 to 64 letters, digits, dots, hyphens and underscores."""

    replica: str
    worker: str

    def __post_init__(self) -> None:
        for name in (self.replica, self.worker):
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a name of letters, digits, dots, hyphens and underscores (1 to 64)")

    @cached_property
    def json(self) -> str:
        """The source as in the head of a record."""
        return f'"replica":"{self.replica}","worker":"{self.worker}"'
