"""Text from others, escaped for a terminal or a log: no escape sequences, no forged lines."""

from __future__ import annotations


def escape_non_ascii(text: str) -> str:
    """Return the text if it is printable ASCII; otherwise all of it in Python's escapes."""
    return text if text.isascii() and text.isprintable() else text.encode("unicode_escape").decode()


def escape_unprintable(text: str) -> str:
    """Return the text with only the unprintable characters escaped; letters of every script stay."""
    return text if text.isprintable() else "".join(c if c.isprintable() else escape_non_ascii(c) for c in text)
