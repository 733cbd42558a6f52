"""Reads the files of a release once, on its own thread, into the zip and the bodies of a delta."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from hashlib import sha256
from io import FileIO
from typing import TYPE_CHECKING

from privyseal._cipher import StoppedError
from privyseal._files import FileState, open_input, reading
from privyseal.errors import InputError
from privyseal.private_keys import LARGEST_KEY_FILE_BYTES, is_private_key
from privyseal.release.archive import SealedArchive
from privyseal.release.bodies import Bodies, Feed
from privyseal.release.folder import FolderFile

if TYPE_CHECKING:
    pass

CHUNK_BYTES = 1 << 18
"""What is read at a time; small, since nothing stops in the middle of a chunk, and compressing is slow."""


class Counter:
    """Turns the bytes that several threads have done into a percentage."""

    def __init__(self, total_bytes: int, progress: Callable[[int], None] | None) -> None:
        self._total_bytes = max(total_bytes, 1)
        self._progress = progress
        self._done_bytes = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Count bytes that are done."""
        with self._lock:
            self._done_bytes += count
            if self._progress is not None:
                self._progress(100 * self._done_bytes // self._total_bytes)


class Reader:
    """Reads every file once, on a thread of its own, into the zip and, for a delta, the bodies: a context manager."""

    def __init__(self, files: list[FolderFile], archive: SealedArchive, bodies: Bodies | None, count: Counter) -> None:
        self.checksum = b""
        self._files = files
        self._archive = archive
        self._bodies = bodies
        self._count = count
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="privyseal-read")
        self._future: Future[list[bytes]] | None = None

    def __enter__(self) -> Reader:
        self._future = self._pool.submit(self._read_all)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        if self._bodies is not None:
            self._bodies.stop()
        self._pool.shutdown()

    def digests(self) -> list[bytes]:
        """Wait until all is read; the SHA-256 of every file that is not empty. `checksum` is then that of the zip."""
        assert self._future is not None
        try:
            return self._future.result()
        except StoppedError:
            # What stopped the reading is of more use than that it stopped.
            failure = self._bodies.failure() if self._bodies is not None else None
            if failure is None:
                raise
            raise failure from None

    def _read_all(self) -> list[bytes]:
        digests = [self._read(file) for file in self._files]
        self.checksum = self._archive.finish()
        return [digest for file, digest in zip(self._files, digests, strict=True) if file.state.size_bytes]

    def _read(self, file: FolderFile) -> bytes:
        with ExitStack() as stack:
            source = stack.enter_context(open_input(file.path))
            stack.enter_context(reading(file.path))
            _check_unchanged(file, source)
            feed = None
            if self._bodies is not None and file.state.size_bytes:
                feed = stack.enter_context(self._bodies.feeding(file))
            digest = self._copy(file, source, feed)
            _check_unchanged(file, source)
            if feed is not None:
                feed.end(digest)
            return digest

    def _copy(self, file: FolderFile, source: FileIO, feed: Feed | None) -> bytes:
        digest = sha256()
        with self._archive.adding(file.name, file.state.size_bytes) as entry:
            while chunk := source.read(CHUNK_BYTES):
                if self._stop.is_set():
                    raise StoppedError
                if file.state.size_bytes <= LARGEST_KEY_FILE_BYTES:
                    _check_no_private_key(file, chunk)
                digest.update(chunk)
                entry.write(chunk)
                if feed is not None:
                    feed.add(chunk)
                self._count.add(len(chunk))
        return digest.digest()


def _check_unchanged(file: FolderFile, source: FileIO) -> None:
    """What was listed is what is read, from its first byte to its last; a link that was put there meanwhile is not."""
    if FileState.of(os.fstat(source.fileno())) != file.state:
        raise InputError(
            f"{file.path} changed while the folder was sealed",
            remedy="wait until the build is done, then seal it again",
        )


def _check_no_private_key(file: FolderFile, data: bytes) -> None:
    if is_private_key(data):
        raise InputError(
            f"{file.path} holds a private key, which everybody who has the app could read",
            remedy="take it out of the folder",
        )
