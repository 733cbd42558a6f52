"""The health detail: what is wrong, in sentences, for whoever runs the service and for nobody who calls it.

It is one JSON object, told over a socket in `server.state_folder` that the service's own user alone may open (mode
0600), so it may name keys and say what a key store said. Nothing is read from whoever connects.
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

from privyseal_service.system.escaping import shown

Detail: TypeAlias = "dict[str, Any]"

SOCKET = "status"
"""The socket's name in the state folder."""

_ANSWER_S = 5.0
_MOST_BYTES = 8 << 20


class StatusError(Exception):
    """There is no health detail to be had. The text is a sentence."""


class StatusSocket:
    """Tells the health detail to whoever opens the socket. `start` and `close` it on one event loop."""

    def __init__(self, folder: Path, detail: Callable[[], Detail]) -> None:
        self._path = folder / SOCKET
        self._detail = detail
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._talks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen, in place of an earlier service that used this folder. Raises OSError."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        made_at = self._path.with_name(f".{SOCKET}.{os.getpid()}")
        made_at.unlink(missing_ok=True)
        made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.bind(str(made_at))
            made_at.chmod(0o600)
            self._inode = made_at.stat().st_ino
            made_at.replace(self._path)
            self._server = await asyncio.start_unix_server(self._accept, sock=made)
        except OSError:
            made.close()
            made_at.unlink(missing_ok=True)
            raise

    def _accept(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.create_task(self._tell(writer))
        self._talks.add(talk)
        talk.add_done_callback(self._talks.discard)

    async def _tell(self, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(OSError, asyncio.TimeoutError):
                writer.write(json.dumps(self._detail()).encode())
                await asyncio.wait_for(writer.drain(), _ANSWER_S)
        finally:
            writer.close()

    def close(self) -> None:
        """Listen no more, and take the socket away unless another service has put its own there."""
        if self._server is None:
            return
        self._server.close()
        for talk in self._talks:
            talk.cancel()
        with suppress(OSError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()


def ask(folder: Path) -> Detail:
    """What the service that uses this state folder says of itself. Raises StatusError."""
    path = folder / SOCKET
    body = b""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
            asking.settimeout(_ANSWER_S)
            asking.connect(str(path))
            while part := asking.recv(1 << 16):
                body += part
                if len(body) > _MOST_BYTES:
                    raise StatusError(f"{path} says more than a service would")
        found: Detail = json.loads(body)
    except PermissionError:
        raise StatusError(f"{path} is for the service's own user; run this as that user, or as root") from None
    except (FileNotFoundError, ConnectionRefusedError):
        raise StatusError(f"no service runs with the state folder {folder}") from None
    except (OSError, ValueError) as error:
        raise StatusError(f"the service at {path} does not answer: {error}") from None
    return found


def lines(detail: Detail) -> list[str]:
    """The health detail for a person. What an issuer's server or a sink answered may be among it."""
    configuration = detail["configuration"]
    found = [
        f"{'ready' if detail['ready'] else 'NOT READY'}: version {detail['version']}, process {detail['pid']}",
        f"configuration of {configuration['read']}: {configuration['keys']} keys, {configuration['grants']} grants",
    ]
    for worker in detail["workers"]:
        states = " ".join(f"{name}={state}" for name, state in worker["keys"].items())
        found.append(f"worker {worker['number']}, process {worker['pid']}: {worker['state']}; {states or 'no keys'}")
    found += [
        f"checkpoints to {sink['name']}: {sink['waiting']} wait, {sink['behind_s']:.0f} s behind"
        for sink in detail["sinks"]
    ]
    found += [f"problem: {about}: {sentence}" for about, sentence in problems(detail)]
    return list(map(shown, found))


def problems(detail: Detail) -> list[tuple[str, str]]:
    """All that is wrong, each once: what several workers say alike is one."""
    said: list[tuple[str, str]] = [*detail["problems"].items()]
    for worker in detail["workers"]:
        said += worker["problems"].items()
    return list(dict.fromkeys(said))


def keys_in(numbers: Mapping[tuple[str, ...], float]) -> dict[str, str]:
    """Each key's state in one worker, from that worker's numbers."""
    return {series[1]: series[2] for series in numbers if series[0] == "keys"}
