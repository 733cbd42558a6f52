"""Encodes records as lines of JSON. A decision of the domain goes into its line as it is."""

from __future__ import annotations

import orjson

from privyseal_service.audit.record import (
    DECISION,
    LONG,
    MAX_LINE_BYTES,
    MEDIUM,
    NAME_LENGTH,
    SHORT,
    DecisionRecord,
    Record,
    clip,
    format_time,
)
from privyseal_service.domain.caller import Proof
from privyseal_service.domain.decisions import Decision, Item, outcome_of
from privyseal_service.domain.errors import ServiceError
from privyseal_service.domain.replica import Source
from privyseal_service.domain.requests import CONTEXT_FIELDS, NO_CONTEXT, Context

MAX_CLAIMS = 12
"""Claims of a token that a record keeps, in the order in which the identity has them."""

_DIGEST_BYTES = 32
_MOST_CALLERS = 4_096
_NO_ITEM = Item()


class Encoder:
    """Encodes one worker's records. For one thread at a time.

    It keeps the JSON that consecutive records share, since the items of a call come one after the other, and the JSON
    of callers, which live as long as their connections.
    """

    def __init__(self, source: Source) -> None:
        self._source = source.json
        self._callers: dict[int, tuple[Proof, str, orjson.Fragment]] = {}
        self._shared: tuple[int, Decision, ServiceError | None] | None = None
        self._opening = b""
        self._middle: dict[str, object] = {}

    def line(self, record: Record, number: int) -> bytes:
        """Return the record's line without its newline: fields in a fixed order, at most `MAX_LINE_BYTES` bytes of
        UTF-8. `number` counts the worker's records from 1, without a gap, over all its segments.

        Raises ValueError for a digest of another length, and for a longer record, which the bounds rule out.
        """
        if isinstance(record, DecisionRecord):
            item = record.item or _NO_ITEM
            shared = self._shared
            if (
                shared is None
                or shared[1] is not record.decision
                or shared[2] is not item.failure
                or shared[0] != record.time_us
            ):
                self._share(record.time_us, record.decision, item.failure)
            opening, body = self._opening, self._item(item)
        else:
            opening, body = self._head(record.time_us, record.kind), record.to_json()
        rest = b"," + orjson.dumps(body)[1:] if body else b"}"
        line = b'{"v":1,"n":%d%b%b' % (number, opening, rest)
        if len(line) > MAX_LINE_BYTES:
            raise ValueError(f"a record of {len(line)} bytes is longer than {MAX_LINE_BYTES}")
        return line

    def _head(self, time_us: int, kind: str) -> bytes:
        return f',"time":"{format_time(time_us)}",{self._source},"kind":"{kind}"'.encode()

    def _share(self, time_us: int, decision: Decision, failure: ServiceError | None) -> None:
        """Encode the fields that the records of one decision, or of its items that failed alike, have in common."""
        self._shared = None
        outcome, code, reason = decision.outcome, decision.code, decision.reason
        if failure is not None:
            outcome, code, reason = outcome_of(failure), failure.code, failure.reason
        body: dict[str, object] = {
            "request_id": clip(decision.request_id, SHORT),
            "caller": self._caller(decision.caller, decision.proof),
            "peer": clip(decision.peer, MEDIUM),
            "operation": clip(decision.operation, SHORT),
            "outcome": outcome.value,
            "code": code.name,
        }
        for name, text, limit in (
            ("call_id", decision.call_id, SHORT),
            ("reason", reason, LONG),
            ("key", decision.key, NAME_LENGTH),
            ("key_version", decision.key_version, LONG),
            ("key_fingerprint", decision.key_fingerprint, SHORT),
            ("scheme", decision.scheme, SHORT),
            ("grant", decision.grant, NAME_LENGTH),
        ):
            if text:
                body[name] = clip(text, limit)
        self._opening = self._head(time_us, DECISION) + b"," + orjson.dumps(body)[1:-1]
        self._middle = {}
        if decision.batch:
            self._middle["batch"] = decision.batch
        if decision.context is not NO_CONTEXT and (context := _context(decision.context)):
            self._middle["context"] = orjson.Fragment(orjson.dumps(context))
        self._shared = time_us, decision, failure

    def _item(self, item: Item) -> dict[str, object]:
        """Return the fields of one item, around those that its call shares. Raises ValueError for a wrong digest."""
        body: dict[str, object] = {}
        if item.store_request_id:
            body["store_request_id"] = clip(item.store_request_id, MEDIUM)
        if item.checksum is not None:
            body["checksum"] = _digest("checksum", item.checksum)
        if item.signature_sha256 is not None:
            body["signature_sha256"] = _digest("signature_sha256", item.signature_sha256)
        if item.wrapped_key_sha256 is not None:
            body["wrapped_key_sha256"] = _digest("wrapped_key_sha256", item.wrapped_key_sha256)
        if item.place is not None:
            body["item"] = item.place
        body.update(self._middle)
        if item.queued_s is not None:
            body["queue_s"] = round(item.queued_s * 1e6) / 1e6
        if item.store_s is not None:
            body["store_s"] = round(item.store_s * 1e6) / 1e6
        return body

    def _caller(self, name: str, proof: Proof) -> orjson.Fragment:
        """Return the caller's JSON, kept by the proof's id: the id stays unique because the proof is kept too."""
        known = self._callers.get(id(proof))
        if known is not None and known[1] == name:
            return known[2]
        if len(self._callers) >= _MOST_CALLERS:
            self._callers.clear()
        body: dict[str, object] = {"name": clip(name, LONG)}
        proven = _proof(proof)
        if proven:
            body["proof"] = proven
        fragment = orjson.Fragment(orjson.dumps(body))
        self._callers[id(proof)] = (proof, name, fragment)
        return fragment


def _proof(proof: Proof) -> dict[str, object] | None:
    """Return how a caller was proven: by a certificate, or by a token with the first claims that mattered."""
    details = dict(proof.details)
    if "certificate" in details:
        return {"type": "certificate", "fingerprint": clip(details["certificate"], SHORT)}
    if "issuer" in details:
        issuer, subject = details.pop("issuer"), details.pop("subject", "")
        return {
            "type": "token",
            "issuer": clip(issuer, NAME_LENGTH),
            "subject": clip(subject, NAME_LENGTH),
            "claims": {
                clip(name, SHORT): clip(value, NAME_LENGTH) for name, value in list(details.items())[:MAX_CLAIMS]
            },
        }
    return None


def _context(context: Context) -> dict[str, str]:
    return {name: clip(value, LONG) for name in CONTEXT_FIELDS if (value := getattr(context, name))}


def _digest(name: str, value: bytes) -> str:
    if len(value) != _DIGEST_BYTES:
        raise ValueError(f"{name} must be the 32 bytes of a SHA-256, not {len(value)}")
    return value.hex()
