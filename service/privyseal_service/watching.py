"""Whether files have changed: looked at by what they are now, since that works on every kind of file system."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

LOOK_EVERY_S = 1.0

Look: TypeAlias = "tuple[tuple[str, int, int, int] | None, ...]"


def look(paths: Iterable[Path]) -> Look:
    """What distinguishes the files from what they were: size, time and number of each; a link counts as its target, a
    folder as the names in it."""
    return tuple(_of(path) for path in paths)


def _of(path: Path) -> tuple[str, int, int, int] | None:
    try:
        found = path.stat()
        names = "\0".join(sorted(child.name for child in path.iterdir())) if path.is_dir() else ""
    except OSError:
        return None
    return names, found.st_ino, found.st_size, found.st_mtime_ns


class Watch:
    """Tells a change of some files once, and only when they have come to rest: two looks in a row were alike."""

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths = tuple(paths)
        self._known = look(self.paths)
        self._last = self._known

    def changed(self) -> bool:
        """Whether the files are other than when it was last said; looks at them, which may take a while."""
        now = look(self.paths)
        at_rest, self._last = now == self._last, now
        if not at_rest or now == self._known:
            return False
        self._known = now
        return True
