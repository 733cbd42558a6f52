"""The few file operations that the audit trail's safety rests on, behind a protocol so that tests make them fail."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Protocol

FILE_MODE = 0o600
FOLDER_MODE = 0o700


class Files(Protocol):
    """Writing to a file system. Every method raises OSError and is safe to call from any one thread at a time."""

    def create(self, path: Path) -> int:
        """Create a file that does not exist (mode 0600) and return a descriptor that only appends."""

    def write(self, descriptor: int, data: bytes) -> None:
        """Write all of `data`. After an error any part of it may have been written."""

    def sync(self, descriptor: int) -> None:
        """Return once what was written is on the device (fdatasync). After an error the file proves nothing."""

    def close(self, descriptor: int) -> None:
        """Close a descriptor."""

    def sync_folder(self, folder: Path) -> None:
        """Return once the names in `folder` are on the device."""

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name in the same folder, replacing what had it, in one step."""

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


def write_whole(files: Files, path: Path, data: bytes) -> None:
    """Put `data` at `path` so that a reader finds the old content or all of the new, whatever happens meanwhile.

    The data is on the device when this returns; the name is once the caller has synced the folder. The temporary name
    is fixed, since each file of the audit trail has one writer: a left-over from a crash is replaced.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        descriptor = files.create(temporary)
    except FileExistsError:
        files.remove(temporary)
        descriptor = files.create(temporary)
    try:
        files.write(descriptor, data)
        files.sync(descriptor)
    finally:
        files.close(descriptor)
    files.rename(temporary, path)


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
