"""A folder that appears under its name whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from privyseal._files import reason
from privyseal.errors import FileUnusableError, WriteError


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of writing `path` into WriteError."""
    try:
        yield
    except OSError as error:
        remedy = "free some room" if error.errno in {errno.ENOSPC, errno.EDQUOT} else "check the folder"
        raise WriteError(f"{path} cannot be written ({reason(error)})", remedy=remedy) from None


class AtomicFolder:
    """A folder `target` that appears with all that is in it, at `publish`, or not at all.

    A context manager: leaving it without `publish` leaves nothing behind, nor the parents that it made. Until then all
    is in `path`, a hidden folder beside `target`, which only a killed process leaves. `target` must not exist, or be
    empty.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f".privyseal-{os.urandom(8).hex()}.partial")
        self._made: list[Path] = []
        self._published = False

    def __enter__(self) -> AtomicFolder:
        self._check_target()
        with writing(self.target):
            for parent in reversed([p for p in self.target.parents if not p.exists()]):
                parent.mkdir()
                self._made.append(parent)
            self.path.mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._published:
            return
        shutil.rmtree(self.path, ignore_errors=True)
        for parent in reversed(self._made):
            with contextlib.suppress(OSError):
                parent.rmdir()

    def publish(self) -> None:
        """Sync all that was written and give the folder its name. Raises WriteError."""
        with writing(self.target):
            for folder, _, files in os.walk(self.path):
                for name in files:
                    _sync(Path(folder, name))
                _sync(Path(folder))
            self._check_target()
            self.path.rename(self.target)
            self._published = True
            _sync(self.target.parent)

    def _check_target(self) -> None:
        """An empty folder is replaced in the step that names this one; anything else is somebody's."""
        with writing(self.target):
            if self.target.is_symlink() or (self.target.exists() and not _is_empty(self.target)):
                raise FileUnusableError(f"{self.target} exists already", remedy="name another folder, or remove it")


def _is_empty(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
