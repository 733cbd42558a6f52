"""The SHA-256 of files and of folders of files, read in pieces, however large they are."""

from __future__ import annotations

import os
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

from privyseal._files import FileState, open_input, reading
from privyseal.errors import FileUnusableError, InputError

_PIECE_BYTES = 1 << 20


def file_digest(path: Path) -> bytes:
    """The SHA-256 of a regular file, 32 bytes. Raises FileUnusableError, and InputError when it changes meanwhile: what
    would be signed then is a file that nobody has."""
    digest, buffer = sha256(), memoryview(bytearray(_PIECE_BYTES))
    with open_input(path) as file, reading(path):
        before = FileState.of(os.fstat(file.fileno()))
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
        if FileState.of(os.fstat(file.fileno())) != before:
            raise InputError(f"{path} changed while it was read", remedy="wait until it is written, then sign it again")
    return digest.digest()


def folder_digests(folder: Path, wanted: Callable[[str], bool] = lambda _: True) -> dict[str, bytes]:
    """The SHA-256 of each file in a folder and below it that is `wanted`, by its path from the folder's parent, with
    slashes: `CodePush/assets/a.png`.

    A link counts as what it leads to, as it does for tools that pack the folder; that has to be inside the folder.
    Raises FileUnusableError, and InputError for a link that leads elsewhere or back to a folder above it, and for a
    name that is not Unicode.
    """
    root = Path(os.path.abspath(folder))  # noqa: PTH100 - a link keeps its own name, which `resolve` would replace
    if not root.is_dir():
        if root.exists():
            raise FileUnusableError(f"{folder} is not a folder", remedy="name a folder")
        raise FileUnusableError(f"{folder}: no such folder", remedy="check the path")
    with reading(root):
        real_root = root.resolve(strict=True)
    digests: dict[str, bytes] = {}

    def add(inside: Path, name: str, above: frozenset[Path]) -> None:
        with reading(inside):
            real, entries = inside.resolve(strict=True), sorted(inside.iterdir())
        if real in above:
            raise InputError(f"{inside} is a link to a folder above it", remedy="take it out of the folder")
        for entry in entries:
            full = f"{name}/{entry.name}"
            _check_entry(entry, real_root)
            if entry.is_dir():
                add(entry, full, above | {real})
            elif wanted(full):
                digests[full] = file_digest(entry)

    add(root, root.name, frozenset())
    return digests


def _check_entry(entry: Path, root: Path) -> None:
    if any("\ud800" <= character <= "\udfff" for character in entry.name):
        raise InputError(f"{entry.parent} has a file whose name is not Unicode", remedy="rename it")
    if not entry.is_symlink():
        return
    try:
        real = entry.resolve(strict=True)
    except (OSError, RuntimeError):  # Python before 3.13 raises RuntimeError for links in a circle
        raise InputError(f"{entry} is a link that leads nowhere", remedy="take it out of the folder") from None
    if not real.is_relative_to(root):
        raise InputError(f"{entry} is a link that leads out of the folder", remedy="put a copy in its place")
