"""What the supervisor and a worker say to each other, over two pipes that nobody else holds.

A worker is exposed to the network and the supervisor is not, so the supervisor takes nothing from it but short lines of
JSON of a known form. What a worker is told is pickled, since it comes from the process that started it. The
configuration travels this way: it is read and checked once, and nothing of it is in a command line or an environment.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

from privyseal_service.keys.pin_lockout import Latch
from privyseal_service.system.exit_codes import INTERNAL_ERROR, REFUSED, UNAVAILABLE, USAGE
from privyseal_service.telemetry.metrics import Numbers, Series, is_series

if TYPE_CHECKING:
    from privyseal_service.config.root import Config

_LENGTH = struct.Struct("!I")
MOST_REPORT_BYTES = 4 << 20
"""The longest line that the supervisor reads."""
MOST_SERIES = 10_000
"""Series that a worker tells; the states of keys are the last of them."""
_MOST_PROBLEMS = 200
_MOST_CHARACTERS = 500


@dataclass(frozen=True)
class Start:
    """The first word: what to serve, as which worker of which version.

    The configuration's listeners have the ports that the supervisor holds, and only those that this worker serves. A
    `strict` worker ends when a key cannot serve as configured; any other serves without that key. It is one of
    `workers`, which share what quotas the key stores have.
    """

    version: str
    number: int
    config: Config
    strict: bool
    latches: tuple[Latch, ...]
    core: int | None = None
    workers: int = 1


@dataclass(frozen=True)
class Listen:
    """Accept calls: the keys are open, as far as they will be."""


@dataclass(frozen=True)
class Drain:
    """Say NOT_SERVING, finish what is in flight, end."""


@dataclass(frozen=True)
class Latched:
    """Another worker's token refused its PIN."""

    latches: tuple[Latch, ...]


@dataclass(frozen=True)
class Prepare:
    """Make ready to go on with another configuration, as one of `workers`, and say `Ready`: nothing changes yet."""

    change: int
    config: Config
    workers: int = 1


@dataclass(frozen=True)
class Commit:
    """Go on with what was made ready."""

    change: int


@dataclass(frozen=True)
class Abort:
    """Drop what was, or is being, made ready."""

    change: int


@dataclass(frozen=True)
class Trouble:
    """Something is wrong outside the worker, or (an empty sentence) is not any more: for health's detail."""

    about: str
    sentence: str


Order: TypeAlias = Start | Listen | Drain | Latched | Prepare | Commit | Abort | Trouble


@dataclass(frozen=True)
class Report:
    """How a worker is: said once a second, and whenever it changes.

    `state` is "opening", "open" (ready to listen), "serving" or "draining". `ailing` names the keys that do not serve.
    `lost` is whether a key store is lost to this process, so that a new one should take its place. `problems` are
    sentences by what they are about.
    """

    state: str
    ailing: frozenset[str] = frozenset()
    latches: tuple[Latch, ...] = ()
    lost: bool = False
    problems: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measured:
    """What a worker has counted so far, and how it is: said once a second, and at its end."""

    numbers: Numbers


@dataclass(frozen=True)
class Failed:
    """A worker cannot start: the sentence, and the exit code that it means for the service."""

    message: str
    code: int


@dataclass(frozen=True)
class Ready:
    """A worker has made ready for a change; or, where `refusal` is a sentence, it cannot be."""

    change: int
    refusal: str = ""


Word: TypeAlias = Report | Measured | Failed | Ready


class ReportError(Exception):
    """What a worker said has no known form."""


def encode_order(order: Order) -> bytes:
    """A length and the pickled order."""
    body = pickle.dumps(order)
    return _LENGTH.pack(len(body)) + body


async def read_order(reader: asyncio.StreamReader) -> Order | None:
    """The next order; None when the supervisor is gone."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        return _order(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def read_start(orders: int) -> Start:
    """The first order, read before there is an event loop. Raises EOFError when the supervisor is gone."""
    (length,) = _LENGTH.unpack(_receive(orders, _LENGTH.size))
    order = _order(_receive(orders, length))
    if not isinstance(order, Start):
        raise EOFError
    return order


def _order(body: bytes) -> Order:
    order: Order = pickle.loads(body)  # noqa: S301 - from the parent process, over a pipe of its own
    return order


def _receive(orders: int, length: int) -> bytes:
    body = b""
    while len(body) < length:
        part = os.read(orders, length - len(body))
        if not part:
            raise EOFError
        body += part
    return body


def encode_word(word: Word) -> bytes:
    """One line of JSON."""
    match word:
        case Report():
            latches = [[latch.uri, latch.message, latch.remedy] for latch in word.latches]
            problems = islice(word.problems.items(), _MOST_PROBLEMS)
            said: dict[str, Any] = {
                "state": word.state,
                "ailing": sorted(word.ailing),
                "latches": latches,
                "lost": word.lost,
                "problems": {about[:_MOST_CHARACTERS]: said[:_MOST_CHARACTERS] for about, said in problems},
            }
        case Measured():
            said = {"numbers": [[*series, value] for series, value in islice(word.numbers.items(), MOST_SERIES)]}
        case Failed():
            said = {"failed": word.message, "code": word.code}
        case Ready():
            said = {"change": word.change, "refusal": word.refusal}
    return json.dumps(said).encode() + b"\n"


_STATES = ("opening", "open", "serving", "draining")


def decode_word(line: bytes) -> Word:
    """What a worker said. Raises ReportError."""
    try:
        said = json.loads(line)
        if "failed" in said:
            return Failed(_text(said["failed"]), _code(said["code"]))
        if "change" in said:
            return Ready(_whole(said["change"]), _text(said["refusal"]))
        if "numbers" in said:
            return Measured(dict(map(_number, said["numbers"][:MOST_SERIES])))
        latches = tuple(Latch(*map(_text, latch)) for latch in said["latches"])
        problems = {_text(about): _text(sentence) for about, sentence in said["problems"].items()}
        if said["state"] not in _STATES:
            raise ReportError("no such state")
        return Report(said["state"], frozenset(map(_text, said["ailing"])), latches, said["lost"] is True, problems)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise ReportError(f"a worker's report has no known form ({type(error).__name__})") from None


def _number(said: list[object]) -> tuple[Series, float]:
    """A series with its value: of a known metric, and a number."""
    series, value = tuple(map(_text, said[:-1])), said[-1]
    if not is_series(series) or isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError
    if not 0 <= value < 1e18 or any(len(label) > _MOST_CHARACTERS for label in series):
        raise ValueError
    return series, value


def _whole(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError
    return value


def _code(value: object) -> int:
    if value not in (REFUSED, USAGE, UNAVAILABLE, INTERNAL_ERROR):
        raise ValueError
    return int(str(value))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


class Speaker(asyncio.Protocol):
    """The writing end of a pipe: what is said to an end that is gone is lost, and that is no error."""

    def __init__(self) -> None:
        self._closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.WriteTransport

    @classmethod
    async def over(cls, descriptor: int) -> Speaker:
        """Speak over a pipe, whose descriptor it takes."""
        pipe = os.fdopen(descriptor, "wb", buffering=0)
        transport, speaker = await asyncio.get_running_loop().connect_write_pipe(cls, pipe)
        speaker._transport = transport  # noqa: SLF001 - its own class
        return speaker

    def say(self, message: bytes) -> None:
        """Send it as soon as the pipe takes it."""
        if not self._transport.is_closing():
            self._transport.write(message)

    def close(self) -> None:
        """Send what is not sent yet, then close."""
        self._transport.close()

    async def closed(self) -> None:
        """Wait until all is sent, or the other end is gone."""
        await self._closed

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the library's signature
        """The pipe is closed."""
        if not self._closed.done():
            self._closed.set_result(None)


async def reader_over(descriptor: int, limit: int) -> asyncio.StreamReader:
    """Read from a pipe, whose descriptor it takes; lines of at most `limit` bytes."""
    reader = asyncio.StreamReader(limit=limit)
    pipe = os.fdopen(descriptor, "rb", buffering=0)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), pipe)
    return reader
