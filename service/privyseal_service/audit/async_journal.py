"""The journal from asyncio: calls that wait together share one write and one sync, and hear of it in one wake-up."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from privyseal_service.audit.errors import AuditUnavailableError
from privyseal_service.audit.journal import Journal, Written
from privyseal_service.audit.record import Record

_GROUP_RECORDS = 1_024
_MAX_WAITING_RECORDS = 8_192


class _Call(NamedTuple):
    records: Sequence[Record]
    future: asyncio.Future[list[Written]]


class _Answer(NamedTuple):
    call: _Call
    written: list[Written] | None
    error: Exception | None


class AsyncJournal:
    """Appends to a journal without blocking the event loop that made it; a thread of its own waits for the disk.

    Make, use and close it on one running loop. The journal stays the caller's to close, and other threads may append to
    it meanwhile.
    """

    def __init__(self, journal: Journal, *, max_waiting_records: int = _MAX_WAITING_RECORDS) -> None:
        self._journal = journal
        self._max_waiting = max_waiting_records
        self._loop = asyncio.get_running_loop()
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._waiting = 0
        self._closed = False
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._serve, name="audit-front", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> AuditUnavailableError | None:
        """Why records cannot be written now; None when they can. Look before a key store is asked."""
        return self._journal.failure

    async def append(self, records: Sequence[Record]) -> list[Written]:
        """Put records on disk and return where each is once they are synced.

        Raises AuditUnavailableError when that failed or too many records wait already, ValueError for a record that
        cannot be. A task that is cancelled while it waits does not take its records back.
        """
        if self._closed:
            raise AuditUnavailableError("the audit journal is closed")
        if (failure := self._journal.failure) is not None:
            raise failure.again()
        if self._waiting + len(records) > self._max_waiting:
            raise AuditUnavailableError(f"{self._waiting} audit records wait for the disk already")
        self._waiting += len(records)
        call = _Call(records, self._loop.create_future())
        self._calls.put(call)
        return await call.future

    async def close(self) -> None:
        """Finish what waits, then end the thread. Safe to call twice."""
        if not self._closed:
            self._closed = True
            self._calls.put(None)
        await self._ended.wait()

    def _serve(self) -> None:
        """The thread: take what waits, write it as one, answer all of it at once."""
        while True:
            group, more = self._next_group()
            if group:
                answers = self._write(group)
                self._tell(self._answer, answers)
            if not more:
                self._tell(self._ended.set)
                return

    def _tell(self, callback: Callable[..., None], *arguments: object) -> None:
        """Have the loop call back. When it is closed already, nobody waits any more."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback, *arguments)

    def _next_group(self) -> tuple[list[_Call], bool]:
        """Wait for a call and take those behind it, up to some number of records; False after the last."""
        group: list[_Call] = []
        records = 0
        item = self._calls.get()
        while item is not None:
            group.append(item)
            records += len(item.records)
            if records >= _GROUP_RECORDS:
                return group, True
            try:
                item = self._calls.get_nowait()
            except queue.Empty:
                return group, True
        return group, False

    def _write(self, group: list[_Call]) -> list[_Answer]:
        """Write a group by one append; when a record of it cannot be encoded, call by call, so that only it fails."""
        try:
            written = self._journal.append([record for call in group for record in call.records])
        except AuditUnavailableError as error:
            return [_Answer(call, None, error.again()) for call in group]
        except Exception as error:  # noqa: BLE001  # it reaches the caller whose record it was
            if len(group) == 1:
                return [_Answer(group[0], None, error)]
            return [answer for call in group for answer in self._write([call])]
        answers, start = [], 0
        for call in group:
            end = start + len(call.records)
            answers.append(_Answer(call, written[start:end], None))
            start = end
        return answers

    def _answer(self, answers: list[_Answer]) -> None:
        """On the loop: wake every call of a group."""
        for answer in answers:
            self._waiting -= len(answer.call.records)
            future = answer.call.future
            if future.done():  # its task was cancelled
                continue
            if answer.error is not None:
                future.set_exception(answer.error)
            else:
                assert answer.written is not None  # one of the two is set
                future.set_result(answer.written)
