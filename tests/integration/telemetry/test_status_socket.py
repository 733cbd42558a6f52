"""The status socket."""

from __future__ import annotations

import asyncio
import errno
import stat
from pathlib import Path

import pytest

from privyseal_service.telemetry.status_socket import SOCKET, StatusError, StatusSocket, read_status


async def test_a_newer_service_replaces_the_socket_and_the_older_one_leaves_it(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    older, newer = (StatusSocket(folder, lambda n=n: {"service": n}) for n in (1, 2))  # type: ignore[misc]
    await older.start()
    assert await asyncio.to_thread(read_status, folder) == {"service": 1}
    await newer.start()
    assert stat.S_IMODE((folder / SOCKET).stat().st_mode) == 0o600
    older.close()
    assert await asyncio.to_thread(read_status, folder) == {"service": 2}
    newer.close()
    assert not list(folder.iterdir())
    with pytest.raises(StatusError):
        read_status(folder)


async def test_a_folder_whose_path_is_too_long_for_a_socket(tmp_path: Path) -> None:
    socket = StatusSocket(tmp_path / ("x" * 120), dict)
    with pytest.raises(OSError) as caught:
        await socket.start()
    assert caught.value.errno in (None, errno.ENAMETOOLONG)
    socket.close()
