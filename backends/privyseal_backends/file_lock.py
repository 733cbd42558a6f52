"""Exclusive locks on files (flock). A lock ends when its descriptor is closed, or with the process."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path


def try_lock(descriptor: int) -> bool:
    """Lock an open file; return False when another descriptor has the lock. Raises OSError."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def lock(descriptor: int, timeout_s: float, *, retry_every_s: float = 0.005) -> bool:
    """Lock an open file, with retries until the timeout; return whether it is locked. Raises OSError."""
    until_s = time.monotonic() + timeout_s
    while not try_lock(descriptor):
        if time.monotonic() >= until_s:
            return False
        time.sleep(retry_every_s)
    return True


def unlock(descriptor: int) -> None:
    """Unlock an open file and leave it open. Raises OSError."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def open_locked(path: Path, timeout_s: float = 0.0) -> int | None:
    """Open a lock file (made with mode 0600) and lock it. Returns its descriptor, or None when another has the lock
    until the timeout. Raises OSError."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        locked = lock(descriptor, timeout_s)
    except BaseException:
        os.close(descriptor)
        raise
    if locked:
        return descriptor
    os.close(descriptor)
    return None


@contextlib.contextmanager
def holding_lock(path: Path) -> Iterator[bool]:
    """Try to hold a lock file for as long as the block runs; yield whether it is held. Raises OSError."""
    descriptor = open_locked(path)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)
