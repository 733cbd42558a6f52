"""File operations for durable data, behind a protocol so that tests can make them fail, and atomic writes on them."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

FILE_MODE = 0o600
FOLDER_MODE = 0o700


class Files(Protocol):
    """Writes to a file system. Every method raises OSError and is safe to call from any one thread at a time."""

    def create(self, path: Path) -> int:
        """Create a file that does not exist (mode 0600) and return a descriptor that only appends."""

    def write(self, descriptor: int, data: bytes) -> None:
        """Write all of `data`. After an error any part of it may have been written."""

    def sync(self, descriptor: int) -> None:
        """Return once what was written is on the device (fdatasync). After an error the file's content is unknown."""

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""

    def sync_folder(self, folder: Path) -> None:
        """Return once the names in `folder` are on the device."""

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file within its folder in one step, in place of a file that has the name already."""

    def remove(self, path: Path) -> None:
        """Remove a file."""


class SystemFiles:
    """The operating system's files."""

    def create(self, path: Path) -> int:
        """Create a file that does not exist."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        return os.open(path, flags, FILE_MODE)

    def write(self, descriptor: int, data: bytes) -> None:
        """Write all of `data`."""
        written = os.write(descriptor, data)
        while written < len(data):
            written += os.write(descriptor, data[written:])

    def sync(self, descriptor: int) -> None:
        """Sync data, and the metadata that reading it back needs."""
        os.fdatasync(descriptor)

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""
        os.close(descriptor)

    def sync_folder(self, folder: Path) -> None:
        """Sync a folder's names."""
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def rename(self, source: Path, target: Path) -> None:
        """Rename a file."""
        source.rename(target)

    def remove(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()


@contextlib.contextmanager
def atomic_writer(path: Path, files: Files | None = None, *, shared: bool = False) -> Iterator[Callable[[bytes], None]]:
    """Yield a function that writes to a temporary file, which is renamed to `path` when the block ends without error.

    A reader of `path` finds the old content or all of the new. The data is on the device then; the name is once the
    caller has synced the folder. The temporary name is fixed, so that a later write replaces what a crash left; where
    `shared`, several processes may write the file, and each has a temporary name of its own. An OSError names `path`.
    """
    files = files or SystemFiles()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp" if shared else f".{path.name}.tmp")
    try:
        try:
            descriptor = files.create(temporary)
        except FileExistsError:
            files.remove(temporary)
            descriptor = files.create(temporary)
        try:
            yield lambda data: files.write(descriptor, data)
            files.sync(descriptor)
        finally:
            files.close(descriptor)
        files.rename(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            files.remove(temporary)
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename = str(path)
        raise


def write_atomically(path: Path, data: bytes, files: Files | None = None, *, shared: bool = False) -> None:
    """Write `data` to `path` whole or not at all; see `atomic_writer`. Raises OSError."""
    with atomic_writer(path, files, shared=shared) as write:
        write(data)


def make_folder(files: Files, folder: Path) -> None:
    """Make `folder` and those above it that are missing (mode 0700), each on the device when this returns.

    Raises OSError, among it PermissionError when others may write to a folder that was there already.
    """
    try:
        mode = folder.stat().st_mode
    except FileNotFoundError:
        mode = 0
    if stat.S_ISDIR(mode):
        if mode & 0o022:
            raise PermissionError(f"{folder} is writable by others; take that away with chmod go-w")
        return
    if not folder.parent.is_dir():
        make_folder(files, folder.parent)
    folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
    files.sync_folder(folder.parent)
