"""Puts the service's decisions on disk before their answers leave."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from privyseal.transparency.receipts import Receipt
from privyseal_service.audit.async_journal import AuditFront
from privyseal_service.audit.denial_meter import DenialMeter
from privyseal_service.audit.errors import AuditUnavailableError
from privyseal_service.audit.journal import Journal, open_journal
from privyseal_service.audit.record import (
    NO_CONTEXT,
    Call,
    Caller,
    Certificate,
    Context,
    Decision,
    DenialSummary,
    Outcome,
    Proof,
    Record,
    Token,
)
from privyseal_service.domain import decisions, errors
from privyseal_service.domain.errors import Code, ServiceError
from privyseal_service.domain.requests import NO_CONTEXT as NOTHING_SAID
from privyseal_service.telemetry import decision_log

if TYPE_CHECKING:
    from privyseal_service.audit.journal import Written
    from privyseal_service.config.audit import AuditConfig
    from privyseal_service.domain.caller import Proof as ServiceProof
    from privyseal_service.domain.requests import Context as ServiceContext

_LOG = logging.getLogger(__name__)

RETRY_AFTER_S = 1.0
"""When a caller may try again: the journal looks for a way to go on as often."""

SUMMARY_EVERY_S = 1.0

_CHUNK = 250
"""Records of a batch that share a write: others get in between."""

_MOST_CALLERS = 4_096
_OUTCOMES = {outcome: Outcome(outcome.value) for outcome in decisions.Outcome}
_COUNTED = {decisions.Outcome.DENIED, decisions.Outcome.REFUSED}
"""What may come in a flood: no key was used, so nobody waits for its record but its caller."""


class AuditRecorder:
    """Implements decisions.Recorder on a journal. `start` it on the loop that uses it, and `close` it there."""

    def __init__(self, config: AuditConfig, *, open_with: Callable[..., Journal] = open_journal) -> None:
        self._config = config
        self._open_with = open_with
        self._callers: dict[int, tuple[ServiceProof, Caller]] = {}
        self._meter = DenialMeter(rate=config.denials_per_s, burst=config.denials_at_once, window_s=SUMMARY_EVERY_S)
        self._journal: Journal
        self._front: AuditFront
        self._summing: asyncio.Task[None] | None = None

    async def start(self, tell: Callable[[bool], None]) -> None:
        """Open this worker's journal. `tell` hears, on the loop, whenever records cannot be written any more (False)
        and can again (True).

        Raises AuditUnavailableError when the folder cannot be used; a disk that is merely full is only told.
        """
        loop = asyncio.get_running_loop()

        def changed(failure: AuditUnavailableError | None) -> None:
            if failure is None:
                _LOG.warning("audit records can be written again: the service serves")
            else:
                _LOG.error("no answer leaves until audit records can be written again: %s", failure)
            with contextlib.suppress(RuntimeError):  # a loop that is closed serves nobody
                loop.call_soon_threadsafe(tell, failure is None)

        self._journal = await asyncio.to_thread(
            self._open_with,
            self._config.root,
            self._config.replica_name,
            rotate_bytes=self._config.segment_mib << 20,
            on_change=changed,
        )
        self._front = AuditFront(self._journal)
        self._summing = asyncio.create_task(self._keep_summing(), name="sum denials")

    async def close(self) -> None:
        """Write what was counted, then the journal's last record. Safe to call twice, and before `start`."""
        if self._summing is None:
            return
        self._summing.cancel()
        await asyncio.gather(self._summing, return_exceptions=True)
        await self._sum(self._meter.flush)
        await self._front.close()
        await asyncio.to_thread(self._journal.close)

    def require_ready(self) -> None:
        """Raise ServiceError (AUDIT_UNAVAILABLE) while records cannot be written."""
        if self._journal.failure is not None:
            raise errors.audit_unavailable(RETRY_AFTER_S)

    async def record(self, decision: decisions.Decision) -> Sequence[Receipt]:
        """Put a decision on disk: a record for each item of it. A denial that is one too many is counted instead.

        Returns a receipt for each item. Raises ServiceError (AUDIT_UNAVAILABLE) when the records are not safe.
        """
        time_us = time.time_ns() // 1000
        if decision.outcome is not decisions.Outcome.ANSWERED:
            if _comes_in_floods(decision) and not self._admits(decision, time_us):
                self.require_ready()
                return ()
            decision_log.log(decision)
        if decision.items_recorded:
            return ()
        return await self._put_down(self._records(decision, time_us))

    async def record_part(self, decision: decisions.Decision) -> Sequence[Receipt]:
        """Put a part of a batch on disk: a record for each item of it. Raises ServiceError as `record` does."""
        return await self._put_down(self._records(decision, time.time_ns() // 1000))

    async def _put_down(self, records: Sequence[Record]) -> Sequence[Receipt]:
        try:
            if len(records) <= _CHUNK:
                written = await self._front.append(records)
            else:
                # Not to be cut short by a caller that goes away: the key was used for all of it.
                written = await asyncio.shield(asyncio.ensure_future(self._append_in_chunks(records)))
        except AuditUnavailableError as error:
            raise errors.audit_unavailable(RETRY_AFTER_S) from error
        log = self._config.log
        return [Receipt(log, *one) for one in written]

    async def _append_in_chunks(self, records: Sequence[Record]) -> list[Written]:
        written: list[Written] = []
        for start in range(0, len(records), _CHUNK):
            written += await self._front.append(records[start : start + _CHUNK])
        return written

    def _admits(self, decision: decisions.Decision, time_us: int) -> bool:
        kind = f"{decision.operation} {decision.code.name}"
        return self._meter.admit(decision.caller, kind, now_s=time.monotonic(), time_us=time_us)

    async def _keep_summing(self) -> None:
        while True:
            await asyncio.sleep(SUMMARY_EVERY_S)
            await self._sum(self._meter.due)

    async def _sum(self, ask: Callable[..., list[DenialSummary]]) -> None:
        """Write the summaries that the meter gives; those that cannot be written come again."""
        summaries = ask(now_s=time.monotonic(), time_us=time.time_ns() // 1000)
        if not summaries:
            return
        try:
            await self._front.append(summaries)
        except AuditUnavailableError:
            self._meter.restore(summaries)

    def _records(self, decision: decisions.Decision, time_us: int) -> list[Record]:
        """The records of a decision: one for each of its items, or one where it has none."""
        call = self._call(decision, time_us)
        calls: dict[ServiceError, Call] = {}
        if not decision.items:
            return [Decision(call)]
        answered, unwrapping = decision.outcome is decisions.Outcome.ANSWERED, decision.operation == _UNWRAP
        records: list[Record] = []
        for place, item in enumerate(decision.items):
            checksum, signature, wrapped, failure, store_request_id, queued_s, store_s, said_place = item
            if checksum is not None and len(checksum) != _DIGEST_BYTES:
                checksum = None
            own = call
            if failure is not None:
                # What befell many items alike is one object.
                own = calls.get(failure) or calls.setdefault(failure, _failed(call, failure))
            if not answered or failure is not None:
                signature, wrapped = None, wrapped if unwrapping else None
            number = (place if said_place is None else said_place) if decision.batch else None
            records.append(Decision(own, checksum, signature, wrapped, number, store_request_id, queued_s, store_s))
        return records

    def _call(self, decision: decisions.Decision, time_us: int) -> Call:
        """What the records of a decision have alike."""
        return Call(
            time_us,
            decision.request_id,
            self._caller(decision.caller, decision.proof),
            decision.peer,
            decision.operation,
            _OUTCOMES[decision.outcome],
            decision.code.name,
            decision.reason,
            decision.key,
            decision.key_version,
            decision.key_fingerprint,
            decision.scheme,
            decision.grant,
            decision.call_id,
            decision.batch,
            _context(decision.context),
        )

    def _caller(self, name: str, proof: ServiceProof) -> Caller:
        """The caller as records have it. Kept by the proof, which lives as long as an identity, since its JSON is worth
        keeping; the proof that is held beside it keeps its id from being another's."""
        known = self._callers.get(id(proof))
        if known is not None and known[0] is proof and known[1].name == name:
            return known[1]
        if len(self._callers) >= _MOST_CALLERS:
            self._callers.clear()
        caller = Caller(name, _proof(proof))
        self._callers[id(proof)] = (proof, caller)
        return caller


_DIGEST_BYTES = 32
_UNWRAP = "unwrap-session-key"


def _failed(call: Call, failure: ServiceError) -> Call:
    """What the record of an item says that has failed in a call that went on."""
    outcome = _OUTCOMES[decisions.outcome_of(failure)]
    return call._replace(outcome=outcome, code=failure.code.name, reason=failure.reason)


def _proof(proof: ServiceProof) -> Proof | None:
    """How a caller was proven, as records have it."""
    details = dict(proof.details)
    if "certificate" in details:
        return Certificate(details["certificate"])
    if "issuer" in details:
        issuer, subject = details.pop("issuer"), details.pop("subject", "")
        return Token(issuer, subject, tuple(details.items()))
    return None


def _context(said: ServiceContext) -> Context:
    if said is NOTHING_SAID:
        return NO_CONTEXT
    return Context(said.app_id, said.bundle_version, said.source_revision, said.build_url)


def _comes_in_floods(decision: decisions.Decision) -> bool:
    """Whether a decision may be counted: it was a denial, or a call that was refused since too much was asked for. To
    write each of these would take the time of those that can be served."""
    if decision.outcome in _COUNTED:
        return True
    return decision.code is Code.RESOURCE_EXHAUSTED and not decision.signatures and len(decision.items) <= 1
