"""What others wrote, for a terminal: no escape sequence of theirs, no line that they made up. Pure."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text as it is where it is printable ASCII; else with all that is not escaped, as Python writes it."""
    return text if text.isascii() and text.isprintable() else text.encode("unicode_escape").decode()


def shown(text: str) -> str:
    """The text with each character that is not printable, in whatever script, escaped."""
    return text if text.isprintable() else "".join(c if c.isprintable() else printable(c) for c in text)
