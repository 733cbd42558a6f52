"""Whether files have changed: looked at by what they are now, since that works on every kind of file system."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

LOOK_EVERY_S = 1.0

Seen: TypeAlias = "tuple[str, int, int, int] | None"


def look(path: Path) -> Seen:
    """What distinguishes a file from what it was: number, size and time; a link counts as its target, a folder as the
    names in it. Whoever reads a file looks first: what changes while it is read is then a change."""
    try:
        found = path.stat()
        names = "\0".join(sorted(child.name for child in path.iterdir())) if path.is_dir() else ""
    except OSError:
        return None
    return names, found.st_ino, found.st_size, found.st_mtime_ns


class Watch:
    """Tells a change of some files once, and only when they have come to rest: two looks in a row were alike. `seen` is
    what they were when they were read; left out, what they are now."""

    def __init__(self, paths: Iterable[Path], seen: tuple[Seen, ...] | None = None) -> None:
        self.paths = tuple(paths)
        self._known = tuple(map(look, self.paths)) if seen is None else seen
        self._last = self._known
        self.at_rest = True
        """Whether the last two looks were alike."""

    def changed(self) -> bool:
        """Whether the files are other than when it was last said; looks at them, which may take a while."""
        now = tuple(map(look, self.paths))
        self.at_rest, self._last = now == self._last, now
        if not self.at_rest or now == self._known:
            return False
        self._known = now
        return True
