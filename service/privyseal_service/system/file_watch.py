"""Detection of changed files, by polling: that works on every kind of file system."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

CHECK_EVERY_S = 1.0

FileState: TypeAlias = "tuple[str, int, int, int] | None"
"""The names in a folder (empty for a file), inode, size and time of modification; None where there is nothing."""


def file_state(path: Path) -> FileState:
    """Return what distinguishes a file from its earlier states. A link counts as its target.

    Take the state before the file is read: a change during the reading is then detected.
    """
    try:
        found = path.stat()
        names = "\0".join(sorted(child.name for child in path.iterdir())) if path.is_dir() else ""
    except OSError:
        return None
    return names, found.st_ino, found.st_size, found.st_mtime_ns


class FileWatch:
    """Reports each change of some files once, when they are at rest: two checks in a row found the same states.

    `known` are the states at which the files were read; by default those of now.
    """

    def __init__(self, paths: Iterable[Path], known: tuple[FileState, ...] | None = None) -> None:
        self.paths = tuple(paths)
        self._known = tuple(map(file_state, self.paths)) if known is None else known
        self._last = self._known
        self.at_rest = True
        """Whether the last two checks found the same states."""

    def changed(self) -> bool:
        """Check the files, which may block; return whether they are at rest in other states than reported before."""
        now = tuple(map(file_state, self.paths))
        self.at_rest, self._last = now == self._last, now
        if not self.at_rest or now == self._known:
            return False
        self._known = now
        return True
