"""The names that a release's files may have: those that every device writes, and no two that one takes for the same."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator

LONGEST_BYTES = 190
"""Of a file's own name, without its folders: devices keep a delta's file as `SHA256_NAME`, of at most 255 bytes."""

COMPRESSED_SUFFIX = ".br"
"""What a device takes off a name in a manifest, once, when it ends so; it then decompresses the body."""


def problem(name: str) -> str | None:
    """What is wrong with a file's name, its path in the bundle with slashes, as the end of a sentence; None if nothing.

    Devices refuse what leads out of the bundle: an absolute path, `..`, a backslash, NUL.
    """
    if not name or name.startswith("/"):
        return "is not a relative path"
    if any(part in {"", ".", ".."} for part in name.split("/")):
        return "has a part that is empty, . or .."
    if "\\" in name:
        return "has a backslash, which devices refuse"
    if any(unicodedata.category(character) == "Cs" for character in name):
        return "is not UTF-8"
    if any(unicodedata.category(character) == "Cc" for character in name):
        return "has a control character"
    return None


def is_too_long(name: str) -> bool:
    """Whether a device fails to keep a delta's file of this name."""
    return len(name.rpartition("/")[2].encode()) > LONGEST_BYTES


def clash(names: Iterable[str]) -> tuple[str, str] | None:
    """Two names that are one to a device whose file system knows no case or composes accents, or of which one is a
    folder of the other; None when there are none."""
    files: dict[str, str] = {}
    for name in names:
        folded = _folded(name)
        if folded in files:
            return files[folded], name
        files[folded] = name
    for name in files.values():
        for folder in _folders(_folded(name)):
            if folder in files:
                return files[folder], name
    return None


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _folders(name: str) -> Iterator[str]:
    """The folders that a file is in: a/b and a of a/b/c."""
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name
