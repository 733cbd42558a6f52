"""Files in and out: inputs that are what they should be, outputs that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import TracebackType

from privyseal.errors import FileUnusableError, InputError, WriteError

SMALL_FILE_BYTES = 1 << 20
"""More than any key, certificate bundle or configuration has."""


@dataclass(frozen=True)
class FileState:
    """What of a file changes when somebody writes it or puts another in its place."""

    device: int
    inode: int
    size_bytes: int
    modified_ns: int

    @classmethod
    def of(cls, found: os.stat_result) -> FileState:
        """The state in a stat result."""
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def reason(error: OSError) -> str:
    """The system's message, without its number and path."""
    return error.strerror or type(error).__name__


def _unusable(path: Path, error: OSError) -> FileUnusableError:
    if isinstance(error, FileNotFoundError):
        return FileUnusableError(f"{path}: no such file", remedy="check the path")
    if isinstance(error, IsADirectoryError):
        return FileUnusableError(f"{path} is a folder", remedy="name a file")
    return FileUnusableError(f"{path} cannot be read ({reason(error)})", remedy="check the path and its permissions")


def open_input(path: Path) -> FileIO:
    """Open a regular file to be read in large pieces. Raises FileUnusableError."""
    try:
        # Without O_NONBLOCK a named pipe would block here until somebody writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _unusable(path, error) from None
    try:
        _check_regular(path, os.fstat(descriptor).st_mode)
        return FileIO(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _check_regular(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise FileUnusableError(f"{path} is a folder", remedy="name a file")
    if not stat.S_ISREG(mode):
        raise FileUnusableError(f"{path} is not a regular file", remedy="name a file on disk")


def check_distinct(source: FileIO, output: Path) -> None:
    """Raise FileUnusableError when `output` is the file that is being read."""
    with contextlib.suppress(OSError):  # whatever else is wrong with `output` is found when it is written
        if os.path.samestat(os.fstat(source.fileno()), output.stat()):
            raise FileUnusableError(f"{output} is the input itself", remedy="name another output")


def check_apart(output: Path, others: Iterable[Path]) -> None:
    """Raise FileUnusableError when `output` is one of the other files that the same command reads or writes."""
    for other in others:
        same = os.path.realpath(output) == os.path.realpath(other)
        with contextlib.suppress(OSError):  # one that is not there yet
            same = same or output.samefile(other)
        if same:
            raise FileUnusableError(f"{output} is named for two things", remedy="name another file for one of them")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an error of reading `path` into FileUnusableError."""
    try:
        yield
    except OSError as error:
        raise _unusable(path, error) from None


def read_small(path: Path, most_bytes: int = SMALL_FILE_BYTES) -> bytes:
    """Read a key, a certificate or a configuration: a file or a pipe. Raises FileUnusableError and InputError."""
    with reading(path), path.open("rb") as file:
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise InputError(f"{path} is larger than any file of its kind", remedy="check the path")
    return data


def write_all(file: FileIO, data: memoryview | bytes) -> None:
    """Write all of `data`: an unbuffered file may take it in parts."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


class AtomicOutput:
    """A file that appears under its name whole, at `publish`, or not at all.

    A context manager: leaving it without `publish` leaves nothing behind. What is written has no name until then where
    the system can do that (Linux), so not even a killed process leaves a part; elsewhere it is a hidden file in the
    same folder. An existing file stays as it is until `publish` replaces it, in one step.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # The file that a symbolic link names is the one to replace, as when it is written in place.
        self._target = Path(os.path.realpath(path))
        self._partial: Path | None = None
        self._file: FileIO | None = None

    @property
    def file(self) -> FileIO:
        """The file to write to. Errors of writing are to be raised through `writing`."""
        if self._file is None:
            raise ValueError("the output is not open")
        return self._file

    def __enter__(self) -> AtomicOutput:
        with self.writing():
            self._check_target()
            self._file = FileIO(self._open(), "wb")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            # Everything that mattered was synced by `publish`; what is discarded here need not be written.
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
        if self._partial is not None:
            with contextlib.suppress(OSError):
                self._partial.unlink()
            self._partial = None

    def sync(self) -> None:
        """Have what was written on disk, so that `publish` takes no time. Raises WriteError."""
        with self.writing():
            os.fsync(self.file.fileno())

    def publish(self) -> None:
        """Sync what was written and give it its name. Raises WriteError."""
        self.sync()
        with self.writing():
            if self._partial is None:
                self._partial = self._hidden_name()
                self._link(self._partial)
            self._partial.replace(self._target)
            self._partial = None
            self._sync_folder()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Turn an error of writing into WriteError."""
        try:
            yield
        except FileNotFoundError:
            raise FileUnusableError(f"{self.path}: no such folder to write to", remedy="make it first") from None
        except OSError as error:
            remedy = "free some room" if error.errno in {errno.ENOSPC, errno.EDQUOT} else "check the folder"
            raise WriteError(f"{self.path} cannot be written ({reason(error)})", remedy=remedy) from None

    def _check_target(self) -> None:
        try:
            mode = self._target.stat().st_mode
        except FileNotFoundError:
            return
        _check_regular(self.path, mode)

    def _open(self) -> int:
        nameless: int | None = getattr(os, "O_TMPFILE", None)
        if nameless is not None and Path("/proc/self/fd").is_dir():
            try:
                return os.open(self._target.parent, nameless | os.O_WRONLY | os.O_CLOEXEC, 0o666)
            except OSError as error:
                # A file system without nameless files answers one of these.
                if error.errno not in {errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL}:
                    raise
        self._partial = self._hidden_name()
        return os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)

    def _hidden_name(self) -> Path:
        return self._target.with_name(f".privyseal-{os.urandom(8).hex()}.partial")

    def _link(self, name: Path) -> None:
        folder = os.open(self._target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # Only with a folder's descriptor does Python call linkat, and only linkat follows /proc's link to the file.
            os.link(f"/proc/self/fd/{self.file.fileno()}", name.name, src_dir_fd=folder, dst_dir_fd=folder)
        finally:
            os.close(folder)

    def _sync_folder(self) -> None:
        folder = os.open(self._target.parent, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
