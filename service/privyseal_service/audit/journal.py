"""A worker's journal: records are appended to segment files and synced before anyone is answered."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from privyseal.transparency.merkle import leaf_hash
from privyseal_backends.backoff import Backoff
from privyseal_backends.file_lock import open_locked
from privyseal_service.audit.encoder import Encoder
from privyseal_service.audit.errors import AuditUnavailableError, WorkerBusyError
from privyseal_service.audit.layout import (
    Layout,
    Synced,
    pack_synced,
    read_fresh,
    read_settled,
    segment_numbers,
    segment_path,
    survey,
)
from privyseal_service.audit.record import EndReason, Record, SegmentEnd, SegmentStart, Stop
from privyseal_service.domain.replica import Source
from privyseal_service.system.files import FILE_MODE, Files, SystemFiles, make_folder

if TYPE_CHECKING:
    from hashlib import _Hash

ROTATE_BYTES = 64 << 20
"""The size at which a segment is followed by the next."""

_BACKOFF = Backoff(0.1, 1.0)
_LOCK_PATIENCE_S = 5.0
_ENDS_KEPT = 16
_MOST_WORKERS = 256


class Written(NamedTuple):
    """A record that is safely on disk, as in a receipt: `leaf_hash`, 32 bytes, is RFC 6962's hash of the line without
    its newline; then where it stands, the worker, its segment and the byte at which the line begins, and its number."""

    leaf_hash: bytes
    worker: str
    segment: int
    offset: int
    number: int


@dataclass
class _Segment:
    """The segment that is being written. `size_bytes`, `records` and `digest` count what is synced."""

    number: int
    path: Path
    descriptor: int
    size_bytes: int = 0
    records: int = 0
    digest: _Hash = field(default_factory=sha256)


@dataclass
class _Waiter:
    """One call of `append`, waiting for its group to be on disk."""

    records: Sequence[Record]
    written: list[Written] | None = None
    error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.written is not None or self.error is not None


StateListener = Callable[["AuditUnavailableError | None"], None]


def _ignore(_: AuditUnavailableError | None) -> None:
    """The default listener."""


class Journal:
    """Appends records to the segments of one worker of one replica.

    `append` may be called from many threads; calls that wait together share one write and one fdatasync. The folder is
    locked: two writers of one name never meet; who comes second waits `lock_patience_s` and gets WorkerBusyError.

    When a write or a sync fails, all calls of that group raise AuditUnavailableError, and so does every later call at
    once and without touching the disk, until a thread in the background has got a record safely into a new segment. The
    failed file is never written or synced again. `on_change` is called from whichever thread noticed, with the error
    or, when records are safe again, with None; it must return at once and not call the journal.

    Raises AuditUnavailableError when the folder cannot be made, locked or read; a disk that is merely full makes a
    journal that is unavailable and heals by itself.
    """

    def __init__(
        self,
        root: Path,
        source: Source,
        *,
        rotate_bytes: int = ROTATE_BYTES,
        files: Files | None = None,
        clock_ns: Callable[[], int] = time.time_ns,
        on_change: StateListener = _ignore,
        lock_patience_s: float = _LOCK_PATIENCE_S,
    ) -> None:
        self._worker, self._encoder = source.worker, Encoder(source)
        self._folder = Layout(root).worker(source.worker)
        self._rotate_bytes = rotate_bytes
        self._files = files if files is not None else SystemFiles()
        self._clock_ns = clock_ns
        self._on_change = on_change
        self._writer = threading.Lock()
        self._waiting_lock = threading.Lock()
        self._waiting: list[_Waiter] = []
        self._segment: _Segment | None = None
        self._ended: list[SegmentEnd] = []
        self._failure: AuditUnavailableError | None = None
        self._stop = threading.Event()
        self._healer: threading.Thread | None = None
        self._number = self._last_segment = 0
        self._lock: int | None = None
        self._marker: int | None = None
        try:
            make_folder(self._files, self._folder)
            self._lock = self._take_lock(lock_patience_s)
            self._marker = os.open(self._folder / "synced", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE)
            self._recover()
        except OSError as error:
            self._give_back()
            raise AuditUnavailableError(f"the audit folder {self._folder} cannot be used: {error}") from error
        with self._writer:
            try:
                self._begin_segment()
            except OSError as error:
                self._fail(error, EndReason.WRITE_FAILED)

    @property
    def failure(self) -> AuditUnavailableError | None:
        """Why records cannot be written now; None when they can."""
        return self._failure

    def append(self, records: Sequence[Record]) -> list[Written]:
        """Put records on disk, in order, and return where each is once a sync after its write has succeeded.

        Blocks. Raises AuditUnavailableError when that failed; then nothing that depends on the records may leave.
        Raises what encoding a record raises (ValueError for a wrong value), for this call only.
        """
        waiter = _Waiter(records)
        with self._waiting_lock:
            self._waiting.append(waiter)
        with self._writer:
            if not waiter.done:
                with self._waiting_lock:
                    group, self._waiting = self._waiting, []
                self._commit(group)
        if waiter.error is not None:
            raise waiter.error
        assert waiter.written is not None  # the group that it was in has set one of the two
        return waiter.written

    def close(self) -> None:
        """Write a last record, where that is possible, and give the folder back. Safe to call twice."""
        self._stop.set()
        if self._healer is not None:
            self._healer.join()
        with self._writer:
            if self._lock is None:
                return
            if self._failure is None:
                final = _Waiter([Stop(self._now_us())])
                self._commit([final])
            self._failure = AuditUnavailableError("the audit journal is closed")
            if self._segment is not None:
                self._close_quietly(self._segment.descriptor)
                self._segment = None
            self._give_back()

    def _give_back(self) -> None:
        """Close the marker, then the lock."""
        for descriptor in (self._marker, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._marker = self._lock = None

    def _now_us(self) -> int:
        return self._clock_ns() // 1000

    def _take_lock(self, patience_s: float) -> int:
        """The sequencer holds the lock for a moment when it looks at what a dead worker left: wait for it."""
        descriptor = open_locked(self._folder / "lock", patience_s)
        if descriptor is None:
            raise WorkerBusyError(f"another process writes to {self._folder}; give each worker its own name")
        return descriptor

    def _recover(self) -> None:
        """Learn from the last segment where to go on; set aside what a crash left after its last whole record."""
        numbers = segment_numbers(self._folder)
        self._last_segment = numbers[-1] if numbers else 0
        for segment in reversed(numbers):
            end, number = survey(segment, read_settled(segment_path(self._folder, segment)))
            self._ended.insert(0, end)
            if number:
                self._number = number
                return

    def _commit(self, group: list[_Waiter]) -> None:
        """Write and sync a group's records, and set what each of its calls returns or raises. Holds the writer lock."""
        if self._failure is not None:
            self._refuse(group, self._failure)
            return
        reason = EndReason.WRITE_FAILED
        try:
            segment = self._segment
            if segment is None or segment.size_bytes >= self._rotate_bytes:
                segment = self._begin_segment()
            lines, written = self._encode(group, segment)
            if lines:
                data = b"\n".join([*lines, b""])
                self._files.write(segment.descriptor, data)
                reason = EndReason.SYNC_FAILED
                self._files.sync(segment.descriptor)
                self._count(segment, data, len(lines))
        except OSError as error:
            self._refuse(group, self._fail(error, reason))
            return
        except BaseException:  # interrupted midway: what the file holds is unknown
            self._refuse(group, self._fail(OSError("interrupted"), reason))
            raise
        for waiter, results in written:
            waiter.written = results

    def _encode(
        self, group: list[_Waiter], segment: _Segment
    ) -> tuple[list[bytes], list[tuple[_Waiter, list[Written]]]]:
        """The lines of a group, and what each call gets once they are on disk. A record that cannot be encoded fails
        its own call alone."""
        lines: list[bytes] = []
        written: list[tuple[_Waiter, list[Written]]] = []
        offset, number = segment.size_bytes, self._number + 1
        for waiter in group:
            try:
                encoded = [self._encoder.line(record, at) for at, record in enumerate(waiter.records, number)]
            except Exception as error:  # noqa: BLE001  # it is raised again in the thread of its own call
                waiter.error = error
                continue
            results = []
            for line in encoded:
                results.append(Written(leaf_hash(line), self._worker, segment.number, offset, number))
                number += 1
                offset += len(line) + 1
            lines += encoded
            written.append((waiter, results))
        return lines, written

    def _count(self, segment: _Segment, data: bytes, records: int) -> None:
        """Take note that `data` is on disk, and let the sequencer know."""
        segment.size_bytes += len(data)
        segment.records += records
        segment.digest.update(data)
        self._number += records
        assert self._marker is not None  # it is open for as long as the lock is held
        marker = pack_synced(Synced(segment.number, segment.size_bytes))
        # A marker that cannot be written delays the tree until the next one; the records themselves are safe.
        with contextlib.suppress(OSError):
            os.pwrite(self._marker, marker, 0)

    def _begin_segment(self) -> _Segment:
        """Close the segment, if any, and begin the next: its first record, that record's sync and the folder's.

        Raises OSError; then there is no segment, and nothing of the new one counts.
        """
        if self._segment is not None:
            self._end_segment(EndReason.ROTATED)
        number = self._last_segment + 1
        path = segment_path(self._folder, number)
        descriptor = self._files.create(path)
        self._last_segment = number
        self._segment = segment = _Segment(number, path, descriptor)
        start = SegmentStart(self._now_us(), number, tuple(self._ended[-_ENDS_KEPT:]))
        line = self._encoder.line(start, self._number + 1) + b"\n"
        self._files.write(descriptor, line)
        self._files.sync(descriptor)
        self._files.sync_folder(self._folder)
        self._count(segment, line, 1)
        self._ended = []
        return segment

    def _end_segment(self, reason: EndReason) -> SegmentEnd:
        """Stop using the segment; what it holds up to its last sync is on record."""
        segment = self._segment
        assert segment is not None  # both callers have looked
        self._segment = None
        end = SegmentEnd(segment.number, reason, segment.size_bytes, segment.records, segment.digest.hexdigest())
        self._ended.append(end)
        self._close_quietly(segment.descriptor)
        return end

    def _close_quietly(self, descriptor: int) -> None:
        """Close a file whose content is decided already: an error can change nothing."""
        with contextlib.suppress(OSError):
            self._files.close(descriptor)

    @staticmethod
    def _refuse(group: list[_Waiter], error: AuditUnavailableError) -> None:
        for waiter in group:
            waiter.error = error.again()

    def _fail(self, error: OSError, reason: EndReason) -> AuditUnavailableError:
        """Never trust the segment again, and have a thread look for a way to go on. Holds the writer lock."""
        where = self._segment.path if self._segment is not None else self._folder
        self._failure = failure = AuditUnavailableError(f"the audit record could not be put on disk ({where}: {error})")
        if self._segment is not None:
            self._abandon_segment(reason)
        self._healer = threading.Thread(target=self._heal, name="audit-heal", daemon=True)
        self._healer.start()
        self._on_change(failure)
        return failure

    def _abandon_segment(self, reason: EndReason) -> None:
        """Close a segment after a failure. One of which no record counts is removed, so that a full disk does not fill
        with names; when that fails too, it stays, and counts for nothing."""
        assert self._segment is not None  # both callers have looked
        path, empty = self._segment.path, not self._segment.size_bytes
        self._end_segment(reason)
        if empty:
            with contextlib.suppress(OSError):
                self._files.remove(path)
                self._ended.pop()

    def _heal(self) -> None:
        """Try to begin a new segment, again and again, until a record is safely in it."""
        for failures in itertools.count(1):
            if self._stop.wait(_BACKOFF.delay_s(failures)):
                return
            with self._writer:
                try:
                    self._ended = [self._read_back(end) for end in self._ended]
                    self._begin_segment()
                except OSError:
                    if self._segment is not None:
                        self._abandon_segment(EndReason.WRITE_FAILED)
                    continue
                self._failure = None
                self._on_change(None)
            return

    def _read_back(self, end: SegmentEnd) -> SegmentEnd:
        """Read a segment that failed, once, and return whether its synced part is what was written. Raises OSError only
        where another try may help."""
        if end.verified is not None or end.reason not in (EndReason.WRITE_FAILED, EndReason.SYNC_FAILED):
            return end
        try:
            data = read_fresh(segment_path(self._folder, end.segment))
        except OSError:
            return replace(end, verified=False)
        tail = data[end.size_bytes :]
        return replace(
            end,
            verified=sha256(data[: end.size_bytes]).hexdigest() == end.sha256,
            set_aside_bytes=len(tail),
            set_aside_sha256=sha256(tail).hexdigest() if tail else "",
        )


def open_journal(root: Path, replica: str, **options: Any) -> Journal:
    """A journal under the first free name of w0, w1, …: for workers that come and go, also beside those of a release
    that is being replaced, without leaving a folder for each. `options` are those of Journal, whose errors it raises.
    """
    for number in range(_MOST_WORKERS):
        with contextlib.suppress(WorkerBusyError):
            return Journal(root, Source(replica, f"w{number}"), lock_patience_s=0.0, **options)
    raise WorkerBusyError(f"{_MOST_WORKERS} workers write to {root} already")
