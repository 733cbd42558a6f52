"""What comes into the path of a call, and what leaves it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias, TypeVar

from privyseal_service.domain.caller import Identifier, Peer
from privyseal_service.domain.errors import ServiceError
from privyseal_service.domain.operations import InputError

_T = TypeVar("_T")

Parsed: TypeAlias = _T | InputError | ServiceError
"""A request, or why it could not be read. The caller is identified first; only then does it learn of the error."""


class IncomingCall(NamedTuple):
    """A call as it came in: from whom over which listener, its request id, and its deadline (`time.monotonic()`).
    `call_id` is the caller's own name for it, the same in each of its attempts; empty where there is none."""

    peer: Peer
    identifier: Identifier
    request_id: str
    deadline_s: float
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """The results of a call: for each input the bytes or, in a batch, why there are none."""

    key_version: str
    results: tuple[bytes | ServiceError, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class LogAccess:
    """Who reads the audit trail, and whether it may list all records."""

    caller: str
    may_list: bool
