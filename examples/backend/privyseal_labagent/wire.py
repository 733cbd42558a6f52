"""The conversation with the agent: one line of JSON each way, over a few connections that are used again.

Every way in which it can fail ends here in one of the errors of `privyseal_backends.interface`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from privyseal_backends.interface import (
    BackendError,
    BusyError,
    CallerError,
    DeadlineError,
    IntegrityError,
    OperatorError,
    UnavailableError,
)

T = TypeVar("T")
_Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def unfit_ciphertext() -> CallerError:
    """One error for every ciphertext that does not open: what is wrong with it would help an attacker alone."""
    return CallerError("ciphertext", "it was not made for this key and scheme", "wrap it with the key's public key")


def _refusal(answer: dict[str, Any]) -> BackendError:
    """What an answer other than a value means. The agent's own words are not passed on: they are not ours to vouch
    for."""
    match answer.get("error"):
        case "busy":
            return BusyError("agent", "it has too much to do", retry_after_s=0.2)
        case "refused":
            return OperatorError(
                "permission", "the agent serves the user who started it alone", "run the service as that user"
            )
        case "unknown-key":
            return OperatorError(
                "key", "the agent has no key of that name", "start the agent with the key, or correct the URI"
            )
        case "unfit":
            return unfit_ciphertext()
        case _:
            return IntegrityError("answer", "the agent's answer has no known form", "use the agent of this package")


class Agent:
    """An agent at a socket: at most `connections` requests in flight at a time."""

    def __init__(self, socket: str, connections: int) -> None:
        self._socket = socket
        self._slots = asyncio.Semaphore(connections)
        self._idle: list[_Connection] = []

    async def ask(self, request: dict[str, str], deadline_s: float) -> dict[str, Any]:
        """The answer to a request. Raises BackendError; at the deadline, a reading of `time.monotonic()`, it gives up.
        When its task is cancelled the connection is dropped: an answer that comes later would be taken for another's.
        """
        return await _within(deadline_s, self._ask_in_turn(request, deadline_s))

    async def _ask_in_turn(self, request: dict[str, str], deadline_s: float) -> dict[str, Any]:
        async with self._slots:
            if time.monotonic() >= deadline_s:
                raise _late()  # its turn came too late: what was not begun by the deadline is not begun
            used_before = bool(self._idle)
            try:
                return await self._ask_once(request)
            except UnavailableError:
                # A connection that lay idle may be one to an agent that has been started again since. Signing twice
                # does no harm, so this is worth one new connection.
                if not used_before:
                    raise
            self.close()
            return await self._ask_once(request)

    async def _ask_once(self, request: dict[str, str]) -> dict[str, Any]:
        connection: _Connection | None = None
        try:
            connection = self._idle.pop() if self._idle else await asyncio.open_unix_connection(self._socket)
            reader, writer = connection
            writer.write(json.dumps(request).encode() + b"\n")
            await writer.drain()
            line = await reader.readline()
            if not line.endswith(b"\n"):
                raise ConnectionError("cut")
        except (OSError, ValueError):  # ValueError: a line without an end
            _drop(connection)
            raise UnavailableError(
                "agent", f"no agent answers at {self._socket}", "start it, and check the path of its socket"
            ) from None
        except BaseException:  # cancelled
            _drop(connection)
            raise
        self._idle.append(connection)
        return _parsed(line)

    def close(self) -> None:
        """Close every idle connection."""
        while self._idle:
            _drop(self._idle.pop())


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise _refusal({})
    if "error" in answer:
        raise _refusal(answer)
    return answer


def field(answer: dict[str, Any], name: str) -> bytes:
    """A field of an answer that is bytes in hex. Raises `IntegrityError`."""
    try:
        return bytes.fromhex(answer[name])
    except (KeyError, TypeError, ValueError):
        raise _refusal({}) from None


def _drop(connection: _Connection | None) -> None:
    if connection is not None:
        connection[1].close()


async def _within(deadline_s: float, work: Coroutine[Any, Any, T]) -> T:
    """Not `asyncio.wait_for`: before Python 3.12 it can lose a cancellation that comes together with the result."""
    remaining_s = deadline_s - time.monotonic()
    if remaining_s <= 0:
        work.close()
        raise _late()
    task = asyncio.ensure_future(work)
    try:
        await asyncio.wait({task}, timeout=remaining_s)
        if task.done():
            return task.result()
        raise _late()
    finally:
        task.cancel()


def _late() -> DeadlineError:
    return DeadlineError("agent", "the deadline passed before the agent had answered", "allow more time, or try later")
