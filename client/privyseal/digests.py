"""The SHA-256 of files and of folders of files, read in pieces, however large they are."""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from privyseal._files import open_input, reading
from privyseal.errors import FileUnusableError, InputError

_PIECE_BYTES = 1 << 20


def file_digest(path: Path) -> bytes:
    """The SHA-256 of a regular file, 32 bytes. Raises FileUnusableError."""
    digest, buffer = sha256(), memoryview(bytearray(_PIECE_BYTES))
    with open_input(path) as file, reading(path):
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
    return digest.digest()


def folder_digests(folder: Path, wanted: Callable[[str], bool] = lambda _: True) -> dict[str, bytes]:
    """The SHA-256 of each file in a folder and below it that is `wanted`, by its path from the folder's parent, with
    slashes: `CodePush/assets/a.png`.

    Links are followed, as tools that pack the folder do. Raises FileUnusableError, and InputError for a link that leads
    back to a folder above it and for a name that is not Unicode.
    """
    root = Path(os.path.abspath(folder))  # noqa: PTH100 - a link keeps its own name, which `resolve` would replace
    if not root.is_dir():
        if root.exists():
            raise FileUnusableError(f"{folder} is not a folder", remedy="name a folder")
        raise FileUnusableError(f"{folder}: no such folder", remedy="check the path")
    digests: dict[str, bytes] = {}
    _add(root, root.name, frozenset(), wanted, digests)
    return digests


def _add(
    folder: Path, name: str, above: frozenset[Path], wanted: Callable[[str], bool], digests: dict[str, bytes]
) -> None:
    with reading(folder):
        real, entries = folder.resolve(strict=True), sorted(folder.iterdir())
    if real in above:
        raise InputError(f"{folder} is a link to a folder above it", remedy="remove the link")
    for entry in entries:
        full = f"{name}/{entry.name}"
        if any("\ud800" <= character <= "\udfff" for character in entry.name):
            raise InputError(f"{folder} has a file whose name is not Unicode", remedy="rename it")
        if entry.is_dir():
            _add(entry, full, above | {real}, wanted, digests)
        elif wanted(full):
            digests[full] = file_digest(entry)
