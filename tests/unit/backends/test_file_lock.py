"""One descriptor has the lock of a file, until it is closed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from privyseal_backends.file_lock import holding_lock, lock, open_locked, try_lock, unlock


def test_a_lock_is_held_once(tmp_path: Path) -> None:
    with holding_lock(tmp_path / "lock") as held:
        assert held
        with holding_lock(tmp_path / "lock") as again:
            assert not again
    with holding_lock(tmp_path / "lock") as held:
        assert held


def test_a_lock_file_is_private(tmp_path: Path) -> None:
    descriptor = open_locked(tmp_path / "lock")
    assert descriptor is not None
    assert os.fstat(descriptor).st_mode & 0o777 == 0o600
    os.close(descriptor)


def test_waiting_ends_with_the_timeout_or_the_lock(tmp_path: Path) -> None:
    first, second = (os.open(tmp_path / "lock", os.O_RDWR | os.O_CREAT, 0o600) for _ in range(2))
    assert try_lock(first)
    assert not lock(second, 0.02)
    unlock(first)
    assert lock(second, 0.0)
    os.close(first)
    os.close(second)


def test_a_descriptor_that_cannot_be_locked() -> None:
    with pytest.raises(OSError) as caught:
        try_lock(1_000_000)
    assert caught.value.errno == errno.EBADF
