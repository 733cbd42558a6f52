"""One record of the audit trail and its one line of JSON. `record.schema.json` beside this file is the schema."""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from privyseal_service.domain.decisions import Decision, Item

MAX_LINE_BYTES = 65_535
"""What an entry of a C2SP entry bundle can hold. The bounds below keep every record under it."""

DECISION = "decision"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SHORT, MEDIUM, NAME_LENGTH, LONG = 64, 128, 256, 512
"""Bounds of texts in a record, in characters."""

HEAD = re.compile(
    rb'\{"v":1,"n":(?P<n>[1-9][0-9]{0,18}),"time":"(?P<time>[0-9T:.-]{26})Z",'
    rb'"replica":"(?P<replica>[A-Za-z0-9._-]{1,64})","worker":"(?P<worker>[A-Za-z0-9._-]{1,64})",'
    rb'"kind":"(?P<kind>[a-z]{1,16})"[,}]'
)
"""The beginning of every line. The sequencer and `audit verify` read it without parsing the rest."""


def clip(text: str, limit: int) -> str:
    """Bound a text to `limit` characters, marking the cut, and make it encodable as UTF-8."""
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return text if text.isascii() else text.encode(errors="replace").decode()


class DecisionRecord(NamedTuple):
    """The record of a decision, or of one item of it where it has items. `time_us` is microseconds since 1970."""

    time_us: int
    decision: Decision
    item: Item | None = None

    @property
    def kind(self) -> str:
        """The kind of the record."""
        return DECISION


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
            "caller": {"name": clip(self.caller, LONG)},
            "count": self.count,
            "first": format_time(self.first_us),
            "last": format_time(self.last_us),
            "counts": {clip(name, MEDIUM): number for name, number in list(self.counts.items())[:16]},
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


Record: TypeAlias = DecisionRecord | DenialSummary | SegmentStart | Stop


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
