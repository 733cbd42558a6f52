"""The records of a long batch, written while the rest of it is being signed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from operator import itemgetter

from privyseal.transparency.receipts import Receipt
from privyseal_backends.interface import BackendError, IntegrityError, Signature, SigningResult
from privyseal_service.domain import errors
from privyseal_service.domain.decisions import Decision, DecisionBuilder, Item, Recorder
from privyseal_service.domain.errors import ServiceError
from privyseal_service.keys.served_key import ServedKey

_LOG = logging.getLogger(__name__)

_RECORDED_TOGETHER = 64
"""Inputs of a long batch that are recorded together. At most this many records are lost when the process is killed."""


class BatchRecorder:
    """Records a long batch as it is signed, some inputs at a time, so that each use of the key has its record even when
    the batch is cut short. A batch whose results come all at once is recorded as other calls are. `recorded` is whether
    every result that was added is on record."""

    def __init__(self, builder: DecisionBuilder, served: ServedKey, recorder: Recorder) -> None:
        self._builder = builder
        self._served = served
        self._recorder = recorder
        self._errors: dict[str, ServiceError] = {}
        self._responses: dict[int, Sequence[bytes | ServiceError]] = {}
        self._unrecorded: list[Decision] = []
        self.recorded = False
        self._tasks: list[tuple[Sequence[Item], asyncio.Future[Sequence[Receipt]]]] = []

    def add(self, start: int, results: Sequence[SigningResult | ServiceError]) -> None:
        """Add results of the batch, from the index `start` on."""
        self._responses[start] = caller_results(self._builder, self._served, results, self._errors)
        self._unrecorded.append(self._builder.build_part(start, self._responses[start], results))
        if sum(len(part.items) for part in self._unrecorded) >= _RECORDED_TOGETHER:
            self._flush()

    def _flush(self) -> None:
        if self._unrecorded:
            items = tuple(item for part in self._unrecorded for item in part.items)
            whole = self._unrecorded[0]._replace(items=items)
            # A task of its own, since the task that waits for it may be cancelled.
            self._tasks.append((whole.items, asyncio.ensure_future(self._recorder.record_part(whole))))
            self._unrecorded = []

    async def settle(self) -> None:
        """Wait until every result that was added is on record, or its recording has failed."""
        self._flush()
        if self._tasks:
            done, _ = await asyncio.wait([task for _, task in self._tasks])
            self.recorded = not [task for task in done if task.exception()]

    async def receipts(self) -> Sequence[Receipt]:
        """Return a receipt for each input, in order; none where nothing was added. Raises ServiceError when a record is
        not on disk."""
        await self.settle()
        if not self._tasks:
            return ()
        found: list[tuple[int, Receipt]] = []
        for items, task in self._tasks:
            found += zip((item.place or 0 for item in items), task.result(), strict=False)
        return [receipt for _, receipt in sorted(found, key=itemgetter(0))]

    def responses(self, results: Sequence[SigningResult | ServiceError]) -> tuple[bytes | ServiceError, ...]:
        """Return all results in the form that the caller gets."""
        if not self._responses:
            return caller_results(self._builder, self._served, results, self._errors)
        return tuple(each for start in sorted(self._responses) for each in self._responses[start])


def caller_results(
    builder: DecisionBuilder,
    served: ServedKey,
    results: Sequence[SigningResult | ServiceError],
    known: dict[str, ServiceError],
) -> tuple[bytes | ServiceError, ...]:
    """Return results in the form that the caller gets. An error that many inputs share is logged once, and kept in
    `known` from then on."""
    found: list[bytes | ServiceError] = []
    for result in results:
        if isinstance(result, Signature):
            found.append(result.value)
        elif isinstance(result, ServiceError):
            found.append(result)
        else:
            kind = f"{type(result).__name__}: {result}"
            if kind not in known:
                known[kind] = caller_error(builder, served, result)
            found.append(known[kind])
    return tuple(found)


def caller_error(builder: DecisionBuilder, served: ServedKey, error: BackendError) -> ServiceError:
    """Return the error that the caller gets for a backend's error; the log has the backend's own text."""
    level = logging.ERROR if isinstance(error, IntegrityError) else logging.WARNING
    _LOG.log(level, "request %s, key %r: %s: %s", builder.request_id, served.name, type(error).__name__, error)
    return errors.from_backend(error, served.name, builder.request_id)
