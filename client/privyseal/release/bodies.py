"""The bodies of a delta: each file compressed where that helps, encrypted, and named by what is in it.

The files are read elsewhere, once. Their chunks wait here until a thread works on them, and only so many bytes may
wait: that, and a fixed number of threads, bounds the memory.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from privyseal._cipher import StoppedError
from privyseal.release.brotli import Brotli, Compressor
from privyseal.release.encrypted import EncryptedFile
from privyseal.release.folder import FolderFile
from privyseal.release.names import COMPRESSED_SUFFIX
from privyseal.release.staging import writing
from privyseal.sealing import BundleSecrets

WAITING_BYTES = 32 << 20
"""How much that was read may wait for a thread."""

FEWEST_BYTES = 8192
LEAST_GAIN_BYTES = 11
"""The Capgo CLI compresses files of 8,192 bytes and more, and keeps what is more than ten bytes shorter."""

_QUALITY, _WINDOW_BITS = 11, 22
"""What node's zlib, and with it the CLI, compresses with."""

_NARROW_WINDOW_BITS = 16
"""With the usual window, a short stream may begin as two forms of stream do that devices unpack by a short cut. None of
8,192 bytes and more does; for less, this window begins differently."""


@dataclass(frozen=True)
class Body:
    """A file of the delta: its SHA-256 (32 bytes), whether its body is compressed, and the body's file and size."""

    file: FolderFile
    digest: bytes
    compressed: bool
    object_name: str
    size_bytes: int

    @property
    def manifest_name(self) -> str:
        """The name in the manifest: a device takes the suffix off again."""
        return self.file.name + COMPRESSED_SUFFIX if self.compressed else self.file.name


class Feed:
    """The chunks of one file on their way from the thread that reads to the one that works on them."""

    def __init__(self, budget: _Budget) -> None:
        self._budget = budget
        self._chunks: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._digest: bytes | None = None

    def add(self, chunk: bytes) -> None:
        """Hand over the next chunk; waits while too much is waiting. Raises StoppedError."""
        self._budget.take(len(chunk))
        self._chunks.put(chunk)

    def end(self, digest: bytes | None) -> None:
        """The file is whole, and this is its SHA-256; None when it will never be."""
        self._digest = digest
        self._chunks.put(None)

    def chunks(self) -> Iterator[bytes]:
        """The chunks, each counted as done when the next one is asked for."""
        while (chunk := self._chunks.get()) is not None:
            yield chunk
            self._budget.give(len(chunk))

    def digest(self) -> bytes:
        """The file's SHA-256, once all chunks are there. Raises StoppedError for a file that was given up."""
        if self._digest is None:
            raise StoppedError
        return self._digest


class _Budget:
    """How many bytes may wait."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._waiting_bytes = 0
        self._stopped = False
        self._changed = threading.Condition()

    def take(self, count: int) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: self._stopped or not self._waiting_bytes or self._waiting_bytes + count <= self._limit_bytes
            )
            if self._stopped:
                raise StoppedError
            self._waiting_bytes += count

    def give(self, count: int) -> None:
        with self._changed:
            self._waiting_bytes -= count
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


class Bodies:
    """Makes the bodies, in `folder`, on `workers` threads. A context manager; when one body fails, all stop."""

    def __init__(
        self,
        folder: Path,
        secrets: BundleSecrets,
        brotli: Brotli,
        *,
        workers: int,
        progress: Callable[[int], None],
        waiting_bytes: int = WAITING_BYTES,
    ) -> None:
        self._folder = folder
        self._secrets = secrets
        self._brotli = brotli
        self._progress = progress
        self._budget = _Budget(waiting_bytes)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="privyseal-body")
        self._futures: list[Future[Body]] = []

    def __enter__(self) -> Bodies:
        with writing(self._folder):
            self._folder.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._pool.shutdown(cancel_futures=True)

    @contextmanager
    def feeding(self, file: FolderFile) -> Iterator[Feed]:
        """Begin a file, whose chunks and end go into the feed. Raises StoppedError."""
        feed = Feed(self._budget)
        self._futures.append(self._pool.submit(self._work, len(self._futures), file, feed))
        try:
            yield feed
        except BaseException:
            feed.end(None)
            raise

    def results(self) -> list[Body]:
        """Wait for all bodies, in the order in which they were begun. Raises the first failure."""
        return [future.result() for future in self._futures]

    def failure(self) -> BaseException | None:
        """What went wrong with a body so far, other than that all was stopped."""
        errors = (future.exception() for future in self._futures if future.done() and not future.cancelled())
        return next((error for error in errors if error is not None and not isinstance(error, StoppedError)), None)

    def stop(self) -> None:
        """Let nothing more be begun."""
        self._budget.stop()

    def _work(self, number: int, file: FolderFile, feed: Feed) -> Body:
        try:
            return self._make(number, file, feed)
        except BaseException:
            self.stop()
            raise

    def _make(self, number: int, file: FolderFile, feed: Feed) -> Body:
        """Write the body as it is and compressed, side by side, and keep the one that the rule selects."""
        with ExitStack() as stack:
            plain = stack.enter_context(EncryptedFile(self._folder / f"{number}.plain", self._secrets))
            compressed = None
            if file.state.size_bytes >= FEWEST_BYTES or _must_be_compressed(file.name):
                small = stack.enter_context(EncryptedFile(self._folder / f"{number}.compressed", self._secrets))
                compressed = _CompressedFile(small, self._compressor(file))
            for chunk in feed.chunks():
                plain.write(chunk)
                if compressed is not None:
                    compressed.write(chunk)
                self._progress(len(chunk))
            digest = feed.digest()
            plain.finish()
            if compressed is None:
                return self._keep(file, digest, plain, compressed=False)
            compressed.finish()
            gain_bytes = plain.plain_bytes - compressed.sealed.plain_bytes
            if gain_bytes >= LEAST_GAIN_BYTES or _must_be_compressed(file.name):
                _remove(plain)
                return self._keep(file, digest, compressed.sealed, compressed=True)
            _remove(compressed.sealed)
            return self._keep(file, digest, plain, compressed=False)

    def _compressor(self, file: FolderFile) -> Compressor:
        window_bits = _WINDOW_BITS if file.state.size_bytes >= FEWEST_BYTES else _NARROW_WINDOW_BITS
        return self._brotli.Compressor(quality=_QUALITY, lgwin=window_bits)

    def _keep(self, file: FolderFile, digest: bytes, sealed: EncryptedFile, *, compressed: bool) -> Body:
        """Name the body by its content. No `.br` at the end: web servers and clients take that for an encoding."""
        name = f"{digest.hex()}-br" if compressed else digest.hex()
        with writing(sealed.path):
            sealed.path.rename(self._folder / name)  # over the same bytes, where two files have the same content
        return Body(file, digest, compressed, name, sealed.size_bytes)


def _remove(sealed: EncryptedFile) -> None:
    with writing(sealed.path):
        sealed.path.unlink()


def _must_be_compressed(name: str) -> bool:
    """A file that is itself named so: a device would decompress it and take the suffix off unless there are two."""
    return name.endswith(COMPRESSED_SUFFIX)


class _CompressedFile:
    """An encrypted file whose content is compressed as it is written."""

    def __init__(self, sealed: EncryptedFile, compressor: Compressor) -> None:
        self.sealed = sealed
        self._compressor = compressor

    def write(self, data: bytes) -> None:
        self.sealed.write(self._compressor.process(data))

    def finish(self) -> None:
        self.sealed.write(self._compressor.finish())
        self.sealed.finish()
