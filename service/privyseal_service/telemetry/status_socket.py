"""The status socket: the health detail, as one JSON object for the operator.

The socket is in `server.state_folder` and only the service's own user can open it (mode 0600), so the detail may name
keys and repeat what a key store answered. Nothing is read from a connection.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from privyseal_service.system.escaping import escape_unprintable

Detail: TypeAlias = "dict[str, Any]"
"""Which parts it has: `privyseal_service.runtime.status.status_detail`."""

SOCKET = "status"
"""The socket's name in the state folder."""

_ANSWER_S = 5.0
_MAX_BYTES = 8 << 20


class StatusError(Exception):
    """The health detail cannot be read. The text is a sentence."""


class StatusSocket:
    """Sends the health detail to each connection. Call `start` and `close` on one event loop."""

    def __init__(self, folder: Path, detail: Callable[[], Detail]) -> None:
        self._path = folder / SOCKET
        self._detail = detail
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen, in place of an earlier service that used this folder. Raises OSError."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{SOCKET}.{os.getpid()}")
        temporary.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind(str(temporary))
            temporary.chmod(0o600)
            self._inode = temporary.stat().st_ino
            temporary.replace(self._path)
            self._server = await asyncio.start_unix_server(self._accept, sock=listening)
        except OSError:
            listening.close()
            temporary.unlink(missing_ok=True)
            raise

    def _accept(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.create_task(self._send(writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _send(self, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, asyncio.TimeoutError):
                writer.write(json.dumps(self._detail()).encode())
                await asyncio.wait_for(writer.drain(), _ANSWER_S)
        finally:
            writer.close()

    def close(self) -> None:
        """Stop listening, and remove the socket unless another service has replaced it."""
        if self._server is None:
            return
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        with suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()


def read_status(folder: Path) -> Detail:
    """Return the health detail of the service that uses this state folder. Raises StatusError."""
    path = folder / SOCKET
    body = b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_ANSWER_S)
            connection.connect(str(path))
            while part := connection.recv(1 << 16):
                body += part
                if len(body) > _MAX_BYTES:
                    raise StatusError(f"{path} sends more than a service would")
        found: Detail = json.loads(body)
    except PermissionError:
        raise StatusError(f"{path} is for the service's own user; run this as that user, or as root") from None
    except (FileNotFoundError, ConnectionRefusedError):
        raise StatusError(f"no service runs with the state folder {folder}") from None
    except (OSError, ValueError) as error:
        raise StatusError(f"the service at {path} does not answer: {error}") from None
    return found


def format_lines(detail: Detail) -> list[str]:
    """Format the health detail for a person, escaped: it may repeat what an issuer's server or a sink answered."""
    configuration = detail["configuration"]
    lines = [
        f"{'ready' if detail['ready'] else 'NOT READY'}: version {detail['version']}, process {detail['pid']}",
        f"configuration of {configuration['read']}: {configuration['keys']} keys, {configuration['grants']} grants",
    ]
    for worker in detail["workers"]:
        states = " ".join(f"{name}={state}" for name, state in worker["keys"].items())
        lines.append(f"worker {worker['number']}, process {worker['pid']}: {worker['state']}; {states or 'no keys'}")
    lines += [
        f"checkpoints to {sink['name']}: {sink['waiting']} wait, {sink['behind_s']:.0f} s behind"
        for sink in detail["sinks"]
    ]
    lines += [f"problem: {subject}: {sentence}" for subject, sentence in active_issues(detail)]
    return list(map(escape_unprintable, lines))


def active_issues(detail: Detail) -> list[tuple[str, str]]:
    """Return all active issues as pairs of subject and sentence; one that several workers report is there once."""
    issues: list[tuple[str, str]] = [*detail["problems"].items()]
    for worker in detail["workers"]:
        issues += worker["problems"].items()
    return list(dict.fromkeys(issues))


def key_states(numbers: Mapping[tuple[str, ...], float]) -> dict[str, str]:
    """Return each key's state in one worker, from that worker's numbers."""
    return {series[1]: series[2] for series in numbers if series[0] == "keys"}
