"""One record of the audit trail and its one line of JSON. `record.schema.json` beside this file is the schema."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache
from typing import NamedTuple, TypeAlias

import orjson

MAX_LINE_BYTES = 65_535
"""What an entry of a C2SP entry bundle can hold. The bounds below keep every record under it."""

MAX_CLAIMS = 12
"""Claims of a token that a record keeps; the caller chooses those that mattered."""

DECISION = "decision"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SHORT, _NAME_LENGTH, _MEDIUM, _LONG = 64, 256, 128, 512

HEAD = re.compile(
    rb'\{"v":1,"n":(?P<n>[1-9][0-9]{0,18}),"time":"(?P<time>[0-9T:.-]{26})Z",'
    rb'"replica":"(?P<replica>[A-Za-z0-9._-]{1,64})","worker":"(?P<worker>[A-Za-z0-9._-]{1,64})",'
    rb'"kind":"(?P<kind>[a-z]{1,16})"[,}]'
)
"""The beginning of every line. The sequencer and `audit verify` read it without parsing the rest."""


class Outcome(enum.Enum):
    """What became of a call."""

    ANSWERED = "answered"
    """It was done, and its answer left after this record was on disk."""
    DENIED = "denied"
    """Identity, grant, quota or a frozen key stood against it; the key was not touched."""
    REFUSED = "refused"
    """The request is none that an operation or the key serves; the key was not touched."""
    FAILED = "failed"
    """It was allowed, and the key store or the service did not do it; no result left."""
    CANCELLED = "cancelled"
    """The caller had gone, or its deadline had passed. The key may have been used; no result left."""


def _clip(text: str, limit: int) -> str:
    """Bound a text to `limit` characters, marking the cut, and make it encodable as UTF-8."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return text if text.isascii() else text.encode(errors="replace").decode()


def _digest(name: str, value: bytes) -> str:
    if len(value) != 32:
        raise ValueError(f"{name} must be the 32 bytes of a SHA-256, not {len(value)}")
    return value.hex()


@dataclass(frozen=True)
class Certificate:
    """A caller proven by a client certificate. `fingerprint` is the lower-case hex SHA-256 of its DER."""

    fingerprint: str

    def to_json(self) -> dict[str, object]:
        """Its form in a record."""
        return {"type": "certificate", "fingerprint": _clip(self.fingerprint, _SHORT)}


@dataclass(frozen=True)
class Token:
    """A caller proven by an OIDC token: `issuer`, `subject`, and the claims that mattered (the first 12 are kept)."""

    issuer: str
    subject: str
    claims: tuple[tuple[str, str], ...] = ()

    def to_json(self) -> dict[str, object]:
        """Its form in a record."""
        return {
            "type": "token",
            "issuer": _clip(self.issuer, _NAME_LENGTH),
            "subject": _clip(self.subject, _NAME_LENGTH),
            "claims": {_clip(name, _SHORT): _clip(value, _NAME_LENGTH) for name, value in self.claims[:MAX_CLAIMS]},
        }


Proof: TypeAlias = Certificate | Token


@dataclass(frozen=True)
class Caller:
    """Who called: a name as `dns:build.example`, empty when nobody was proven, and how it was proven.

    Keep one for as long as an identity lives: its JSON is made once.
    """

    name: str
    proof: Proof | None = None

    @cached_property
    def json(self) -> orjson.Fragment:
        """Its form in a record."""
        body: dict[str, object] = {"name": _clip(self.name, _LONG)}
        if self.proof is not None:
            body["proof"] = self.proof.to_json()
        return orjson.Fragment(orjson.dumps(body))


class Context(NamedTuple):
    """What a request said it was for; as in privyseal.v1.RequestContext."""

    app_id: str = ""
    bundle_version: str = ""
    source_revision: str = ""
    build_url: str = ""

    def to_json(self) -> dict[str, object]:
        """Its form in a record: the fields that are set."""
        return {name: _clip(value, _LONG) for name, value in zip(self._fields, self, strict=True) if value}


NO_CONTEXT = Context()


class Call(NamedTuple):
    """What the records of one call have alike: who called, what for, and how it ended.

    `time_us` is microseconds since 1970. Texts are cut at the schema's bounds, since what a caller sends must not keep
    its own denial off the record. `batch` is the number of checksums in a batch (0: none).
    """

    time_us: int
    request_id: str
    caller: Caller
    peer: str
    operation: str
    outcome: Outcome
    code: str
    reason: str = ""
    key: str = ""
    key_version: str = ""
    key_fingerprint: str = ""
    scheme: str = ""
    grant: str = ""
    call_id: str = ""
    batch: int = 0
    context: Context = NO_CONTEXT

    def opening(self) -> dict[str, object]:
        """The fields of a record that come before those of a decision's own; what is not known is left out."""
        body: dict[str, object] = {
            "request_id": _clip(self.request_id, _SHORT),
            "caller": self.caller.json,
            "peer": _clip(self.peer, _MEDIUM),
            "operation": _clip(self.operation, _SHORT),
            "outcome": self.outcome.value,
            "code": _clip(self.code, _SHORT),
        }
        for name, text, limit in (
            ("call_id", self.call_id, _SHORT),
            ("reason", self.reason, _LONG),
            ("key", self.key, _NAME_LENGTH),
            ("key_version", self.key_version, _LONG),
            ("key_fingerprint", self.key_fingerprint, _SHORT),
            ("scheme", self.scheme, _SHORT),
            ("grant", self.grant, _NAME_LENGTH),
        ):
            if text:
                body[name] = _clip(text, limit)
        return body

    def middle(self) -> dict[str, object]:
        """The fields that stand between a decision's place in its batch and its times."""
        body: dict[str, object] = {}
        if self.batch:
            body["batch"] = self.batch
        if self.context is not NO_CONTEXT and (context := self.context.to_json()):
            body["context"] = orjson.Fragment(orjson.dumps(context))
        return body


class Decision(NamedTuple):
    """A decision of the service on one call, or on one checksum of a batch.

    There is no field for a session key: `checksum` is the public SHA-256 that was signed, `wrapped_key_sha256` the
    SHA-256 of a wrapped key and `signature_sha256` that of a signature, each exactly 32 bytes or None: a record with
    any other is not encoded. `item` is the place in the batch; times are seconds.
    """

    call: Call
    checksum: bytes | None = None
    signature_sha256: bytes | None = None
    wrapped_key_sha256: bytes | None = None
    item: int | None = None
    store_request_id: str = ""
    queue_s: float | None = None
    store_s: float | None = None

    @property
    def kind(self) -> str:
        """What the record is."""
        return DECISION

    @property
    def time_us(self) -> int:
        """When its call was decided."""
        return self.call.time_us

    def to_json(self, middle: Mapping[str, object]) -> dict[str, object]:
        """The fields of its own, around the `middle` of its call. Raises ValueError for a digest that is none."""
        body: dict[str, object] = {}
        if self.store_request_id:
            body["store_request_id"] = _clip(self.store_request_id, _MEDIUM)
        if self.checksum is not None:
            body["checksum"] = _digest("checksum", self.checksum)
        if self.signature_sha256 is not None:
            body["signature_sha256"] = _digest("signature_sha256", self.signature_sha256)
        if self.wrapped_key_sha256 is not None:
            body["wrapped_key_sha256"] = _digest("wrapped_key_sha256", self.wrapped_key_sha256)
        if self.item is not None:
            body["item"] = self.item
        body.update(middle)
        if self.queue_s is not None:
            body["queue_s"] = round(self.queue_s * 1e6) / 1e6
        if self.store_s is not None:
            body["store_s"] = round(self.store_s * 1e6) / 1e6
        return body


@dataclass(frozen=True)
class DenialSummary:
    """Denials of one caller that came faster than they are written one by one: how many, of what, from when to when.

    `counts` maps an operation and a code, as `sign-checksum PERMISSION_DENIED`, to a number (the first 16 are kept; the
    sum is `count` whatever is cut).
    """

    time_us: int
    caller: str
    count: int
    first_us: int
    last_us: int
    counts: Mapping[str, int]

    kind = "denials"

    def to_json(self) -> dict[str, object]:
        """Its form in a record, without the head."""
        return {
            "caller": {"name": _clip(self.caller, _LONG)},
            "count": self.count,
            "first": format_time(self.first_us),
            "last": format_time(self.last_us),
            "counts": {_clip(name, _MEDIUM): number for name, number in list(self.counts.items())[:16]},
        }


class EndReason(enum.Enum):
    """Why a segment ended."""

    ROTATED = "rotated"
    """It had reached its size."""
    STOPPED = "stopped"
    """The worker stopped in order; a `stop` record is its last."""
    CRASHED = "crashed"
    """The worker ended without a word; a torn last line is set aside."""
    WRITE_FAILED = "write-failed"
    """A write failed; what came after the last synced record is set aside."""
    SYNC_FAILED = "sync-failed"
    """A sync failed; what came after the last synced record is set aside."""


@dataclass(frozen=True)
class SegmentEnd:
    """How a worker's earlier segment ended.

    The first `size_bytes` bytes, `records` lines with the SHA-256 `sha256` (hex), are on record. `verified` says
    whether reading them back gave the same; None where nothing had failed and they were not read. The `set_aside_bytes`
    after them are not records: no answer ever left for them.
    """

    segment: int
    reason: EndReason
    size_bytes: int
    records: int
    sha256: str
    verified: bool | None = None
    set_aside_bytes: int = 0
    set_aside_sha256: str = ""

    def to_json(self) -> dict[str, object]:
        """Its form in a record."""
        body: dict[str, object] = {
            "segment": self.segment,
            "reason": self.reason.value,
            "size_bytes": self.size_bytes,
            "records": self.records,
            "sha256": self.sha256,
        }
        if self.verified is not None:
            body["verified"] = self.verified
        if self.set_aside_bytes:
            body["set_aside_bytes"] = self.set_aside_bytes
            body["set_aside_sha256"] = self.set_aside_sha256
        return body

    @staticmethod
    def from_json(body: Mapping[str, object]) -> SegmentEnd:
        """The inverse of `to_json`. Raises KeyError, TypeError or ValueError on anything else."""
        size_bytes, records = body["size_bytes"], body["records"]
        segment, set_aside_bytes = body["segment"], body.get("set_aside_bytes", 0)
        verified = body.get("verified")
        for number in (segment, size_bytes, records, set_aside_bytes):
            if type(number) is not int or number < 0:
                raise ValueError("a size or number of a segment's end is not a whole number")
        if verified is not None and not isinstance(verified, bool):
            raise ValueError("verified is not true or false")
        return SegmentEnd(
            segment=segment,  # type: ignore[arg-type]  # checked above
            reason=EndReason(body["reason"]),
            size_bytes=size_bytes,  # type: ignore[arg-type]
            records=records,  # type: ignore[arg-type]
            sha256=str(body["sha256"]),
            verified=verified,
            set_aside_bytes=set_aside_bytes,  # type: ignore[arg-type]
            set_aside_sha256=str(body.get("set_aside_sha256", "")),
        )


@dataclass(frozen=True)
class SegmentStart:
    """The first record of a segment: its number, and how the worker's segments before it ended (at most 16)."""

    time_us: int
    segment: int
    ended: tuple[SegmentEnd, ...]

    kind = "segment"

    def to_json(self) -> dict[str, object]:
        """Its form in a record, without the head."""
        return {"segment": self.segment, "ended": [end.to_json() for end in self.ended]}


@dataclass(frozen=True)
class Stop:
    """The last record of a worker that stops in order."""

    time_us: int

    kind = "stop"

    def to_json(self) -> dict[str, object]:
        """Its form in a record, without the head."""
        return {}


Record: TypeAlias = Decision | DenialSummary | SegmentStart | Stop


@lru_cache(maxsize=8)
def _format_second(second: int) -> str:
    """A second since 1970 in UTC, as `2026-01-31T23:59:59`. Raises ValueError."""
    try:
        return (_EPOCH + timedelta(seconds=second)).isoformat()[:19]
    except OverflowError:
        raise ValueError(f"{second} seconds since 1970 is no time of a record") from None


def format_time(time_us: int) -> str:
    """Microseconds since 1970 as RFC 3339 in UTC, always 27 characters, so that text order is time order.
    Raises ValueError outside the years 1 to 9999."""
    second, microsecond = divmod(time_us, 1_000_000)
    return f"{_format_second(second)}.{microsecond:06d}Z"


def parse_time(text: str) -> int:
    """The inverse of `format_time`. Raises ValueError."""
    moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1)
