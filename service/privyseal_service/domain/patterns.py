"""Patterns for text in parts: exact, or with `*` for one whole part and `**` at the end for the rest.

Parts stand between slashes and colons. Text is never decoded or case-folded: two texts are equal when all their
characters are. To protect readers, text that looks like another text, or could be decoded into one, matches nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MOST_CHARACTERS = 256
"""The longest text that a pattern selects; the audit trail records as many characters."""

_SEPARATOR = re.compile(r"([/:])")
# Printable ASCII without * and \; single spaces inside; the only percent-encoding is %3A, GitHub's form of a colon.
_PLAIN = re.compile(r"(?:[!-$&-)+-\[\]-~]|%3A|(?<=[^ ]) (?=[^ ]))+")
_ONE_PART = "[^/:]+"


class PatternError(ValueError):
    """A text that is not a pattern. The message states the rule."""


def is_plain(text: str) -> bool:
    """Return whether patterns can select a text: 1 to 256 printable ASCII characters, no `*`, no backslash, no space at
    an end or next to another, no percent-encoding except %3A."""
    return len(text) <= MOST_CHARACTERS and _PLAIN.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class PathPattern:
    """Selects texts: `refs/tags/*` those with exactly one more part, `refs/heads/**` those with one or more."""

    text: str
    _regex: re.Pattern[str] | None

    @classmethod
    def parse(cls, text: str) -> PathPattern:
        """Parse a pattern. Raises PatternError."""
        pieces = _SEPARATOR.split(text)
        last = len(pieces) - 1
        if any("*" in piece and piece != "*" and not (piece == "**" and i == last) for i, piece in enumerate(pieces)):
            raise PatternError("* stands for one whole part between slashes or colons, ** for the rest at the end")
        if not is_plain(text.replace("*", "x")):
            raise PatternError(
                f"must be 1 to {MOST_CHARACTERS} printable ASCII characters, without backslashes, without spaces "
                "next to each other or at an end, and without percent-encodings except %3A"
            )
        return cls(text, re.compile("".join(map(_regex_of, pieces))) if "*" in text else None)

    def matches(self, text: str) -> bool:
        """Return whether the pattern selects the text."""
        if self._regex is None:
            return text == self.text
        return is_plain(text) and self._regex.fullmatch(text) is not None


def _regex_of(piece: str) -> str:
    if piece == "**":
        return f"{_ONE_PART}(?:[/:]{_ONE_PART})*"
    return _ONE_PART if piece == "*" else re.escape(piece)
