"""Messages between the supervisor and a worker: commands to the worker, events from it, over two private pipes.

A worker is exposed to the network and the supervisor is not, so the supervisor accepts only short lines of JSON of a
known form. Commands are pickled, since a worker trusts the process that started it. The configuration is sent as a
command: it is read and checked once, and no part of it is in a command line or an environment variable.
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

from privyseal_service.keys.pin_lockout import RefusedPin
from privyseal_service.system.exit_codes import INTERNAL_ERROR, REFUSED, UNAVAILABLE, USAGE
from privyseal_service.telemetry.metrics import Numbers, Series, is_series

if TYPE_CHECKING:
    from privyseal_service.config.root import Config

_LENGTH = struct.Struct("!I")
MAX_EVENT_BYTES = 4 << 20
"""The longest line that the supervisor reads."""
MAX_SERIES = 10_000
"""The most series in one event; the states of keys are the last of them."""
_MAX_ISSUES = 200
_MAX_CHARACTERS = 500


@dataclass(frozen=True)
class Start:
    """The first command: the configuration to serve, and the number and version of the worker.

    The configuration's listeners have the ports that the supervisor holds, and only those that this worker serves. A
    `strict` worker ends when a key cannot serve as configured; any other serves without that key. It is one of
    `workers`, which share the request quotas of the key stores. `core` is the core to pin the process to.
    """

    version: str
    number: int
    config: Config
    strict: bool
    refused_pins: tuple[RefusedPin, ...]
    core: int | None = None
    workers: int = 1


@dataclass(frozen=True)
class Listen:
    """Accept calls."""


@dataclass(frozen=True)
class Drain:
    """Report NOT_SERVING, finish the calls in flight, end."""


@dataclass(frozen=True)
class PinsRefused:
    """Add PINs that tokens refused in another worker."""

    refused_pins: tuple[RefusedPin, ...]


@dataclass(frozen=True)
class Prepare:
    """Prepare another configuration, as one of `workers`, and answer with `PrepareResult`. Nothing changes yet."""

    change: int
    config: Config
    workers: int = 1


@dataclass(frozen=True)
class Commit:
    """Serve the configuration that was prepared."""

    change: int


@dataclass(frozen=True)
class Abort:
    """Discard the configuration that was, or is being, prepared."""

    change: int


@dataclass(frozen=True)
class ExternalIssue:
    """Show an issue of the supervisor in the health detail; with an empty sentence, clear it."""

    subject: str
    sentence: str


Command: TypeAlias = Start | Listen | Drain | PinsRefused | Prepare | Commit | Abort | ExternalIssue


@dataclass(frozen=True)
class Report:
    """The state of a worker, sent once a second and after each change.

    `state` is "opening", "open" (ready to listen), "serving" or "draining". `unhealthy` names the keys that do not
    serve and should. `lost` is whether a key store is lost to this process, so that a new process should replace it.
    `issues` are sentences by subject.
    """

    state: str
    unhealthy: frozenset[str] = frozenset()
    refused_pins: tuple[RefusedPin, ...] = ()
    lost: bool = False
    issues: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurements:
    """A worker's numbers, sent once a second and at its end."""

    numbers: Numbers


@dataclass(frozen=True)
class StartFailed:
    """The worker cannot start: a sentence, and the exit code that it means for the service."""

    message: str
    code: int


@dataclass(frozen=True)
class PrepareResult:
    """The worker has prepared a change; or, where `refusal` is a sentence, it cannot."""

    change: int
    refusal: str = ""


Event: TypeAlias = Report | Measurements | StartFailed | PrepareResult


class MalformedEventError(Exception):
    """A worker sent an event of no known form."""


def encode_command(command: Command) -> bytes:
    """Encode a command as its length and its pickle."""
    body = pickle.dumps(command)
    return _LENGTH.pack(len(body)) + body


async def read_command(reader: asyncio.StreamReader) -> Command | None:
    """Read the next command; None when the supervisor is gone."""
    try:
        (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
        return _decode_command(await reader.readexactly(length))
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def read_start(descriptor: int) -> Start:
    """Read the first command, before there is an event loop. Raises EOFError when the supervisor is gone."""
    (length,) = _LENGTH.unpack(_read_exactly(descriptor, _LENGTH.size))
    command = _decode_command(_read_exactly(descriptor, length))
    if not isinstance(command, Start):
        raise EOFError
    return command


def _decode_command(body: bytes) -> Command:
    command: Command = pickle.loads(body)  # noqa: S301 - from the parent process, over a private pipe
    return command


def _read_exactly(descriptor: int, length: int) -> bytes:
    body = b""
    while len(body) < length:
        part = os.read(descriptor, length - len(body))
        if not part:
            raise EOFError
        body += part
    return body


def encode_event(event: Event) -> bytes:
    """Encode an event as one line of JSON, cut to the limits that the supervisor accepts."""
    match event:
        case Report():
            issues = islice(event.issues.items(), _MAX_ISSUES)
            fields: dict[str, Any] = {
                "state": event.state,
                "unhealthy": sorted(event.unhealthy),
                "refused_pins": [[refused.uri, refused.message, refused.remedy] for refused in event.refused_pins],
                "lost": event.lost,
                "issues": {subject[:_MAX_CHARACTERS]: sentence[:_MAX_CHARACTERS] for subject, sentence in issues},
            }
        case Measurements():
            fields = {"numbers": [[*series, value] for series, value in islice(event.numbers.items(), MAX_SERIES)]}
        case StartFailed():
            fields = {"failed": event.message, "code": event.code}
        case PrepareResult():
            fields = {"change": event.change, "refusal": event.refusal}
    return json.dumps(fields).encode() + b"\n"


def decode_event(line: bytes) -> Event:
    """Decode a line from a worker. Raises MalformedEventError."""
    try:
        fields = json.loads(line)
        if "failed" in fields:
            return StartFailed(_text(fields["failed"]), _code(fields["code"]))
        if "change" in fields:
            return PrepareResult(_whole(fields["change"]), _text(fields["refusal"]))
        if "numbers" in fields:
            return Measurements(dict(map(_number, fields["numbers"][:MAX_SERIES])))
        unhealthy = frozenset(map(_text, fields["unhealthy"]))
        refused_pins = tuple(RefusedPin(*map(_text, refused)) for refused in fields["refused_pins"])
        issues = {_text(subject): _text(sentence) for subject, sentence in fields["issues"].items()}
        return Report(_state(fields["state"]), unhealthy, refused_pins, fields["lost"] is True, issues)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise MalformedEventError(f"it sent an event of no known form ({type(error).__name__})") from None


def _state(value: object) -> str:
    if value not in ("opening", "open", "serving", "draining"):
        raise ValueError
    return str(value)


def _number(row: list[object]) -> tuple[Series, float]:
    """Return a series and its value, checked: a known metric, short labels, and a number."""
    series, value = tuple(map(_text, row[:-1])), row[-1]
    if not is_series(series) or isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError
    if not 0 <= value < 1e18 or any(len(label) > _MAX_CHARACTERS for label in series):
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
