"""Patterns over text that is made of parts: exact, or with `*` for one whole part and `**` at the end for the rest.

Parts are what stands between slashes and colons. Nothing is ever decoded or folded: two texts are the same when all
their characters are. So that a reader cannot be fooled either, a text that looks like another one, or that somebody
could decode into another one, matches nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MOST_CHARACTERS = 256
"""The longest text that a pattern selects; the audit trail keeps as much."""

_SEPARATOR = re.compile(r"([/:])")
# Printable ASCII without * and \; spaces inside alone; of percent-encodings %3A alone, as GitHub writes a colon.
_PLAIN = re.compile(r"(?:[!-$&-)+-\[\]-~]|%3A|(?<=[^ ]) (?=[^ ]))+")
_ONE_PART = "[^/:]+"


class PatternError(ValueError):
    """Not a pattern; the text says what is wrong with it."""


def is_plain(text: str) -> bool:
    """Whether a text is one that patterns select: 1 to 256 printable ASCII characters, no `*`, no backslash, no space
    at an end or beside another, no percent-encoding but %3A."""
    return len(text) <= MOST_CHARACTERS and _PLAIN.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class PathPattern:
    """Selects texts: `refs/tags/*` those with exactly one part more, `refs/heads/**` those with one or more."""

    text: str
    _regex: re.Pattern[str] | None

    @classmethod
    def parse(cls, text: str) -> PathPattern:
        """The pattern that `text` writes. Raises PatternError."""
        pieces = _SEPARATOR.split(text)
        last = len(pieces) - 1
        if any("*" in piece and piece != "*" and not (piece == "**" and i == last) for i, piece in enumerate(pieces)):
            raise PatternError("* stands for one whole part between slashes or colons, ** for the rest at the end")
        if not is_plain(text.replace("*", "x")):
            raise PatternError(
                f"must be 1 to {MOST_CHARACTERS} printable ASCII characters, without backslashes, without spaces side "
                "by side or at an end, and without percent-encodings (%3A alone may be)"
            )
        return cls(text, re.compile("".join(map(_regex_of, pieces))) if "*" in text else None)

    def matches(self, text: str) -> bool:
        """Whether the pattern selects the text."""
        if self._regex is None:
            return text == self.text
        return is_plain(text) and self._regex.fullmatch(text) is not None


def _regex_of(piece: str) -> str:
    if piece == "**":
        return f"{_ONE_PART}(?:[/:]{_ONE_PART})*"
    return _ONE_PART if piece == "*" else re.escape(piece)
