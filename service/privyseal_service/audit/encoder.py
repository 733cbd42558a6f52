"""Encodes records as lines of JSON, for one worker."""

from __future__ import annotations

import orjson

from privyseal_service.audit.record import DECISION, MAX_LINE_BYTES, Call, Decision, Record, format_time
from privyseal_service.domain.replica import Source


class Encoder:
    """Makes the lines of one worker's records. For one thread at a time.

    It keeps what the records of the last call have alike, since those of a batch come one after the other.
    """

    def __init__(self, source: Source) -> None:
        self._source = source.json
        self._call: Call | None = None
        self._opening = b""
        self._middle: dict[str, object] = {}

    def line(self, record: Record, number: int) -> bytes:
        """The record's line without its newline: fields in a fixed order, at most `MAX_LINE_BYTES` bytes of UTF-8.

        `number` counts the worker's records from 1, without a gap, over all its segments.
        Raises ValueError for a digest of another length, and for a record that is longer still, which the bounds rule
        out.
        """
        if isinstance(record, Decision):
            if record.call is not self._call:
                self._open(record.call)
            opening, body = self._opening, record.to_json(self._middle)
        else:
            opening, body = self._head(record.time_us, record.kind), record.to_json()
        rest = b"," + orjson.dumps(body)[1:] if body else b"}"
        line = b'{"v":1,"n":%d%b%b' % (number, opening, rest)
        if len(line) > MAX_LINE_BYTES:
            raise ValueError(f"a record of {len(line)} bytes is longer than {MAX_LINE_BYTES}")
        return line

    def _head(self, time_us: int, kind: str) -> bytes:
        return f',"time":"{format_time(time_us)}",{self._source},"kind":"{kind}"'.encode()

    def _open(self, call: Call) -> None:
        self._call = None
        self._opening = self._head(call.time_us, DECISION) + b"," + orjson.dumps(call.opening())[1:-1]
        self._middle = call.middle()
        self._call = call
