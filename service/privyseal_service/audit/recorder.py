"""Records the service's decisions on disk before their answers leave."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from privyseal.transparency.receipts import Receipt
from privyseal_service.audit.async_journal import AsyncJournal
from privyseal_service.audit.denial_meter import DenialMeter
from privyseal_service.audit.errors import AuditUnavailableError
from privyseal_service.audit.journal import Journal, open_journal
from privyseal_service.audit.record import DecisionRecord, DenialSummary, Record
from privyseal_service.domain import errors
from privyseal_service.domain.decisions import Decision, Item, Outcome
from privyseal_service.domain.errors import Code
from privyseal_service.domain.operation_names import Operation
from privyseal_service.telemetry import decision_log

if TYPE_CHECKING:
    from privyseal_service.audit.journal import Written
    from privyseal_service.config.audit import AuditConfig

_LOG = logging.getLogger(__name__)

RETRY_AFTER_S = 1.0
"""When a caller may retry; the journal looks for a way to continue as often."""

SUMMARY_EVERY_S = 1.0

_CHUNK = 250
"""Records of a batch that share a write, so that other calls get in between."""

_DIGEST_BYTES = 32
_UNWRAP = Operation.UNWRAP_SESSION_KEY.value
_COUNTED = {Outcome.DENIED, Outcome.REFUSED}
"""Outcomes that may come in floods: no key was used, so only the caller waits for the record."""


class AuditRecorder:
    """Records decisions in a journal on disk (implements domain.decisions.Recorder).

    `start` it on the event loop that uses it, and `close` it there.
    """

    def __init__(self, config: AuditConfig, *, open_with: Callable[..., Journal] = open_journal) -> None:
        self._config = config
        self._open_with = open_with
        self._meter = DenialMeter(rate=config.denials_per_s, burst=config.denials_at_once, window_s=SUMMARY_EVERY_S)
        self._journal: Journal
        self._async_journal: AsyncJournal
        self._summaries_task: asyncio.Task[None] | None = None

    async def start(self, on_change: Callable[[bool], None]) -> None:
        """Open this worker's journal. `on_change` is called on the loop with False when records cannot be written any
        more, and with True when they can be again.

        Raises AuditUnavailableError when the folder cannot be used; a full disk is only reported by `on_change`.
        """
        loop = asyncio.get_running_loop()

        def changed(failure: AuditUnavailableError | None) -> None:
            if failure is None:
                _LOG.warning("audit records can be written again: the service answers calls")
            else:
                _LOG.error("no call is answered until audit records can be written again: %s", failure)
            with contextlib.suppress(RuntimeError):  # the loop is closed: no call is served
                loop.call_soon_threadsafe(on_change, failure is None)

        self._journal = await asyncio.to_thread(
            self._open_with,
            self._config.root,
            self._config.replica_name,
            rotate_bytes=self._config.segment_mib << 20,
            on_change=changed,
        )
        self._async_journal = AsyncJournal(self._journal)
        self._summaries_task = asyncio.create_task(self._write_summaries(), name="summarise denials")

    async def close(self) -> None:
        """Write the last summaries, then the journal's last record. Safe to call twice, and before `start`."""
        if self._summaries_task is None:
            return
        self._summaries_task.cancel()
        await asyncio.gather(self._summaries_task, return_exceptions=True)
        await self._append_summaries(self._meter.flush)
        await self._async_journal.close()
        await asyncio.to_thread(self._journal.close)

    def require_ready(self) -> None:
        """Raise ServiceError (AUDIT_UNAVAILABLE) while records cannot be written."""
        if self._journal.failure is not None:
            raise errors.audit_unavailable(RETRY_AFTER_S)

    async def record(self, decision: Decision) -> Sequence[Receipt]:
        """Write a record for each item of the decision to disk. A denial above its caller's rate is only counted.

        Returns a receipt for each record. Raises ServiceError (AUDIT_UNAVAILABLE) when the records are not on disk.
        """
        time_us = time.time_ns() // 1000
        if decision.outcome is not Outcome.ANSWERED:
            if _comes_in_floods(decision) and not self._admits(decision, time_us):
                self.require_ready()
                return ()
            decision_log.log(decision)
        if decision.items_recorded:
            return ()
        return await self._append(_records(decision, time_us))

    async def record_part(self, decision: Decision) -> Sequence[Receipt]:
        """Write a record for each item of a part of a batch to disk. Raises ServiceError as `record` does."""
        return await self._append(_records(decision, time.time_ns() // 1000))

    async def _append(self, records: Sequence[Record]) -> Sequence[Receipt]:
        try:
            if len(records) <= _CHUNK:
                written = await self._async_journal.append(records)
            else:
                # A caller that goes away must not cut this short: the key was used for all of it.
                written = await asyncio.shield(asyncio.ensure_future(self._append_in_chunks(records)))
        except AuditUnavailableError as error:
            raise errors.audit_unavailable(RETRY_AFTER_S) from error
        log = self._config.log
        return [Receipt(log, *one) for one in written]

    async def _append_in_chunks(self, records: Sequence[Record]) -> list[Written]:
        written: list[Written] = []
        for start in range(0, len(records), _CHUNK):
            written += await self._async_journal.append(records[start : start + _CHUNK])
        return written

    def _admits(self, decision: Decision, time_us: int) -> bool:
        kind = f"{decision.operation} {decision.code.name}"
        return self._meter.admit(decision.caller, kind, now_s=time.monotonic(), time_us=time_us)

    async def _write_summaries(self) -> None:
        while True:
            await asyncio.sleep(SUMMARY_EVERY_S)
            await self._append_summaries(self._meter.due)

    async def _append_summaries(self, take: Callable[..., list[DenialSummary]]) -> None:
        """Write the meter's summaries; give back those that cannot be written, for the next time."""
        summaries = take(now_s=time.monotonic(), time_us=time.time_ns() // 1000)
        if not summaries:
            return
        try:
            await self._async_journal.append(summaries)
        except AuditUnavailableError:
            self._meter.restore(summaries)


def _records(decision: Decision, time_us: int) -> list[Record]:
    """Return the records of a decision: one for each of its items, or one where it has none."""
    if not decision.items:
        return [DecisionRecord(time_us, decision)]
    return [DecisionRecord(time_us, decision, _recordable(decision, item, i)) for i, item in enumerate(decision.items)]


def _recordable(decision: Decision, item: Item, index: int) -> Item:
    """Return the item with only what its record may hold: digests of 32 bytes, and no result that did not leave."""
    checksum = item.checksum
    if checksum is not None and len(checksum) != _DIGEST_BYTES:
        item = item._replace(checksum=None)
    if decision.outcome is not Outcome.ANSWERED or item.failure is not None:
        wrapped = item.wrapped_key_sha256 if decision.operation == _UNWRAP else None
        item = item._replace(signature_sha256=None, wrapped_key_sha256=wrapped)
    if decision.batch and item.place is None:
        item = item._replace(place=index)
    return item


def _comes_in_floods(decision: Decision) -> bool:
    """Return whether a decision may be counted in place of a record: a denial, or a call that was refused since too
    much was asked for. Writing each of these would take the time of the calls that can be served."""
    if decision.outcome in _COUNTED:
        return True
    return decision.code is Code.RESOURCE_EXHAUSTED and not decision.signatures and len(decision.items) <= 1
