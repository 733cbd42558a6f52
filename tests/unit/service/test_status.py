"""The health detail and its socket."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

import pytest

from privyseal_service.config.errors import ConfigError
from privyseal_service.config.loading import state_folder_of
from privyseal_service.runtime.preflight import Finding
from privyseal_service.telemetry.status_socket import (
    SOCKET,
    StatusError,
    StatusSocket,
    active_issues,
    format_lines,
    read_status,
)

WORKER = {"number": 0, "pid": 7, "state": "serving", "keys": {"app": "serving"}, "problems": {"key 'b'": "away\x1b[2J"}}
DETAIL: dict[str, Any] = {
    "version": "1", "pid": 6, "ready": False, "configuration": {"read": "then", "keys": 1, "grants": 2},
    "workers": [WORKER, {**WORKER, "number": 1}], "sinks": [{"name": "file x", "waiting": 1, "behind_s": 2.5}],
    "problems": {"configuration": "it stays as it was"},
}  # fmt: skip

SAID = "its keys […] cannot be fetched: \x1b[2J\nready: all is well"
SHOWN = "its keys […] cannot be fetched: \\x1b[2J\\nready: all is well"


def test_for_a_person() -> None:
    assert format_lines(DETAIL) == [
        "NOT READY: version 1, process 6",
        "configuration of then: 1 keys, 2 grants",
        "worker 0, process 7: serving; app=serving",
        "worker 1, process 7: serving; app=serving",
        "checkpoints to file x: 1 wait, 2 s behind",
        "problem: configuration: it stays as it was",
        "problem: key 'b': away\\x1b[2J",
    ]
    assert len(active_issues(DETAIL)) == 2  # what both workers say is one


def test_the_newer_service_has_the_socket_and_the_older_one_leaves_it(tmp_path: Path) -> None:
    folder = tmp_path / "state"

    async def main() -> None:
        older, newer = (StatusSocket(folder, lambda n=n: {"service": n}) for n in (1, 2))  # type: ignore[misc]
        await older.start()
        assert await asyncio.to_thread(read_status, folder) == {"service": 1}
        await newer.start()
        assert stat.S_IMODE((folder / SOCKET).stat().st_mode) == 0o600
        older.close()
        assert await asyncio.to_thread(read_status, folder) == {"service": 2}
        newer.close()
        assert not list(folder.iterdir())

    asyncio.run(main())
    with pytest.raises(StatusError, match="no service runs with the state folder"):
        read_status(folder)


def test_a_folder_whose_path_is_too_long_for_a_socket(tmp_path: Path) -> None:
    async def main() -> None:
        socket = StatusSocket(tmp_path / ("x" * 120), dict)
        with pytest.raises(OSError, match="too long"):
            await socket.start()
        socket.close()

    asyncio.run(main())


@pytest.mark.parametrize("text", ["", "[server]\nworkers = 1\n", "server = 7\n", "[server]\nstate_folder = 7\n"])
def test_a_configuration_that_names_no_state_folder(tmp_path: Path, text: str) -> None:
    file = tmp_path / "server.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"server\.state_folder: "):
        state_folder_of(file)


def test_whatever_else_is_wrong_with_it(tmp_path: Path) -> None:
    file = tmp_path / "server.toml"
    file.write_text('grants = 7\n[server]\nstate_folder = "state"\nworkrs = 1\n')
    assert state_folder_of(file) == tmp_path / "state"


def test_what_a_server_answered_reaches_no_terminal_as_it_came() -> None:
    detail = {
        "ready": True,
        "version": "1",
        "pid": 1,
        "configuration": {"read": "2026-05-28", "keys": 1, "grants": 1},
        "workers": [],
        "sinks": [],
        "problems": {"issuer https://i.example": SAID},
    }
    assert format_lines(detail)[-1] == f"problem: issuer https://i.example: {SHOWN}"
    finding = Finding("issuer", "https://i.example", part="issuer", message=SAID)
    assert finding.line() == f"FAIL  issuer https://i.example: issuer: {SHOWN}"
