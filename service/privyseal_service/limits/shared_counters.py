"""Counts in a file that all workers of a replica map: a storage for the `limits` library.

Each count is one slot of a table, found by a digest of its name: counting takes a lock and writes some bytes, and the
lock's are the only system calls. The lock is the file's (flock), so it ends with the process that holds it. Counts are
kept over a restart.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import struct
import threading
import time
from collections.abc import Callable
from math import floor
from pathlib import Path

from limits.storage import Storage
from limits.storage.base import SlidingWindowCounterSupport

from privyseal_backends.file_lock import lock, try_lock, unlock
from privyseal_service.limits.sliding_window import Window

_MAGIC = b"privyseal counts 1\n"
_HEADER_BYTES = 64
_SLOT = struct.Struct("<16sdQQd")  # digest, end of the window, counts in it and in the one before, dead from
_SLOT_BYTES = 64
_FREE = bytes(16)
SLOTS = 16_384
_MAX_PROBES = 64
_TRIES = 40
_PATIENCE_S = 1.0


class CountersError(Exception):
    """The file cannot be used for counting. The text is a sentence."""


class ContendedError(Exception):
    """Another process or thread holds the lock at this moment."""


class FileCounters(Storage, SlidingWindowCounterSupport):
    """The counts in one file. `patient`: whether a call waits for the lock, up to a second, or raises ContendedError
    immediately, for an event loop. Raises CountersError for a file that cannot be used."""

    STORAGE_SCHEME = None

    def __init__(
        self, file: Path, *, patient: bool = False, slots: int = SLOTS, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__()
        self._clock = clock
        self._slots = slots
        self._descriptor = _open(file, slots)
        self._lock = _Lock(self._descriptor, patient=patient)
        try:
            self._map = mmap.mmap(self._descriptor, _HEADER_BYTES + slots * _SLOT_BYTES)
        except (OSError, ValueError) as error:
            os.close(self._descriptor)
            raise CountersError(f"{file} cannot be mapped: {error}") from None

    def close(self) -> None:
        """Close the file."""
        self._map.close()
        os.close(self._descriptor)

    @property
    def base_exceptions(self) -> type[Exception] | tuple[type[Exception], ...]:
        """The exceptions that this storage raises."""
        return CountersError

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Add to a count, and return it."""
        with self._lock:
            at, (digest, end_s, count, _, _) = self._find(key)
            if not count:
                end_s = self._clock() + expiry
            self._write(at, digest, (count + amount, 0), end_s=end_s, dead_s=end_s)
            return count + amount

    def get(self, key: str) -> int:
        """Return a count."""
        with self._lock:
            return self._find(key)[1][2]

    def get_expiry(self, key: str) -> float:
        """Return when a count expires, in seconds since 1970."""
        with self._lock:
            _, (_, end_s, count, _, _) = self._find(key)
            return end_s if count else self._clock()

    def clear(self, key: str) -> None:
        """Clear a count."""
        with self._lock:
            at, (digest, _, _, _, _) = self._find(key)
            self._write(at, digest, (0, 0), end_s=0.0, dead_s=0.0)

    def check(self) -> bool:
        """Return whether the file is open."""
        return not self._map.closed

    def reset(self) -> int | None:
        """Clear all counts."""
        with self._lock:
            self._map[_HEADER_BYTES:] = bytes(len(self._map) - _HEADER_BYTES)
        return None

    def acquire_sliding_window_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Add to a count if it stays within the limit; return whether it does."""
        if amount > limit:
            return False
        with self._lock:
            at, digest, window, end_s = self._slide(key, expiry)
            if floor(window.held(expiry)) + amount > limit:
                return False
            counts = (window.current + amount, window.previous)
            self._write(at, digest, counts, end_s=end_s, dead_s=end_s + expiry)
            return True

    def get_sliding_window(self, key: str, expiry: int) -> tuple[int, float, int, float]:
        """Return the count of the previous window and the seconds that it still weighs, and the same of this one."""
        with self._lock:
            _, _, window, _ = self._slide(key, expiry)
        return window.previous, window.left_s if window.previous else 0.0, window.current, window.left_s + expiry

    def clear_sliding_window(self, key: str, expiry: int) -> None:
        """Clear the counts of both windows."""
        with self._lock:
            at, digest, _, end_s = self._slide(key, expiry)
            self._write(at, digest, (0, 0), end_s=end_s, dead_s=0.0)

    def _slide(self, key: str, expiry: int) -> tuple[int, bytes, Window, float]:
        """Return the slot, its digest, its windows as they are now, and the end of this window."""
        at, (digest, end_s, current, previous, _) = self._find(key)
        now_s = self._clock()
        this_end_s = (now_s // expiry + 1) * expiry
        # An end far from now is old, of a window of another length, or of a clock that was wrong.
        if not this_end_s - 1.5 * expiry < end_s < this_end_s + 1.5 * expiry:
            previous, current = 0, 0
        elif end_s < this_end_s - 0.5 * expiry:
            previous, current = current, 0
        return at, digest, Window(previous, current, this_end_s - now_s), this_end_s

    def _find(self, key: str) -> tuple[int, tuple[bytes, float, int, int, float]]:
        """Return the offset and content of a key's slot: its live one, else a free one. Raises CountersError when none
        is free. The caller holds the lock."""
        digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
        now_s = self._clock()
        free = -1
        start = int.from_bytes(digest[:4], "little")
        for probe in range(_MAX_PROBES):
            at = _HEADER_BYTES + (start + probe) % self._slots * _SLOT_BYTES
            slot = _SLOT.unpack_from(self._map, at)
            if slot[0] == digest and now_s < slot[4]:
                return at, slot
            if free < 0 and not now_s < slot[4]:
                free = at
            if slot[0] == _FREE:
                break
        if free < 0:
            raise CountersError("the file of counts is full: too many callers are counted separately")
        return free, (digest, 0.0, 0, 0, 0.0)

    def _write(self, at: int, digest: bytes, counts: tuple[int, int], *, end_s: float, dead_s: float) -> None:
        _SLOT.pack_into(self._map, at, digest, end_s, *counts, dead_s)


class _Lock:
    """The lock on a file of counts, for threads and processes. Entering raises ContendedError; a patient one waits, and
    raises CountersError after `_PATIENCE_S`."""

    def __init__(self, descriptor: int, *, patient: bool) -> None:
        self._descriptor = descriptor
        self._patient = patient
        self._threads = threading.Lock()

    def __enter__(self) -> None:
        if not self._threads.acquire(timeout=_PATIENCE_S if self._patient else 0):
            raise ContendedError
        try:
            self._lock_file()
        except BaseException:
            self._threads.release()
            raise

    def __exit__(self, *_: object) -> None:
        unlock(self._descriptor)
        self._threads.release()

    def _lock_file(self) -> None:
        try:
            if self._patient:
                if not lock(self._descriptor, _PATIENCE_S, retry_every_s=0.0005):
                    raise CountersError("another process keeps the file of counts locked")
                return
            for _ in range(_TRIES):
                if try_lock(self._descriptor):
                    return
                os.sched_yield()
        except OSError as error:
            raise CountersError(f"the file of counts cannot be locked: {error.strerror}") from None
        raise ContendedError


def _open(file: Path, slots: int) -> int:
    """Open the file, and create it where there is none. Raises CountersError."""
    size = _HEADER_BYTES + slots * _SLOT_BYTES
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise CountersError(f"{file} cannot be used: {error.strerror}") from None
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            # Its owner could change the counts, or truncate it, which ends this process at a read (SIGBUS).
            raise PermissionError(errno.EPERM, "it is another user's")
        if not lock(descriptor, _PATIENCE_S):
            raise BlockingIOError(errno.EAGAIN, "another process keeps it locked")
        if os.fstat(descriptor).st_size == 0:
            # Allocated in full: a disk that is full later must not end the process at a write (SIGBUS).
            os.posix_fallocate(descriptor, 0, size)
            os.pwrite(descriptor, _MAGIC.ljust(_HEADER_BYTES, b"\0"), 0)
        fits = os.fstat(descriptor).st_size == size and os.pread(descriptor, len(_MAGIC), 0) == _MAGIC
        unlock(descriptor)
    except OSError as error:
        os.close(descriptor)
        raise CountersError(f"{file} cannot be used: {error.strerror}") from None
    if not fits:
        os.close(descriptor)
        raise CountersError(f"{file} is not a file of counts; remove it, and counting starts from zero")
    return descriptor
