"""The records of a long batch, written while the rest is being signed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from operator import itemgetter

from privyseal.transparency.receipts import Receipt
from privyseal_backends.interface import (
    BackendError,
    IntegrityError,
    Signature,
    SigningResult,
)
from privyseal_service.domain import errors
from privyseal_service.domain.decisions import Decision, Item, Recorder, Trail
from privyseal_service.domain.errors import ServiceError
from privyseal_service.keys.served_key import ServedKey

_LOG = logging.getLogger(__name__)

_RECORDED_TOGETHER = 64
"""Inputs of a long batch that are put on record together: as few as are lost when the process is killed."""


class Parts:
    """Puts a long batch on record as it is signed, some inputs at a time, so that what a key made has its record even
    where the batch is cut short. A batch that comes as one is recorded as any other call. `recorded` is whether all
    that was added is on record."""

    def __init__(self, trail: Trail, served: ServedKey, recorder: Recorder) -> None:
        self._trail = trail
        self._served = served
        self._recorder = recorder
        self._known: dict[str, ServiceError] = {}
        self._told: dict[int, Sequence[bytes | ServiceError]] = {}
        self._waiting: list[Decision] = []
        self.recorded = False
        self._tasks: list[tuple[Sequence[Item], asyncio.Future[Sequence[Receipt]]]] = []

    def add(self, start: int, results: Sequence[SigningResult | ServiceError]) -> None:
        """Results of the batch, from the place `start` on."""
        self._told[start] = caller_results(self._trail, self._served, results, self._known)
        self._waiting.append(self._trail.part(start, self._told[start], results))
        if sum(len(part.items) for part in self._waiting) >= _RECORDED_TOGETHER:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            items = tuple(item for part in self._waiting for item in part.items)
            whole = self._waiting[0]._replace(items=items)
            # A task of its own: whoever waits for it may go away.
            self._tasks.append((whole.items, asyncio.ensure_future(self._recorder.record_part(whole))))
            self._waiting = []

    async def settle(self) -> None:
        """Wait until all that was added is on record, or is known not to be."""
        self._flush()
        if self._tasks:
            done, _ = await asyncio.wait([task for _, task in self._tasks])
            self.recorded = not [task for task in done if task.exception()]

    async def receipts(self) -> Sequence[Receipt]:
        """A receipt for each input, in order, when all are on record; none where nothing was added. Raises ServiceError
        for one that is not."""
        await self.settle()
        if not self._tasks:
            return ()
        found: list[tuple[int, Receipt]] = []
        for items, task in self._tasks:
            found += zip((item.place or 0 for item in items), task.result(), strict=False)
        return [receipt for _, receipt in sorted(found, key=itemgetter(0))]

    def told(self, results: Sequence[SigningResult | ServiceError]) -> tuple[bytes | ServiceError, ...]:
        """All results as the caller is told of them."""
        if not self._told:
            return caller_results(self._trail, self._served, results, self._known)
        return tuple(each for start in sorted(self._told) for each in self._told[start])


def caller_results(
    trail: Trail,
    served: ServedKey,
    results: Sequence[SigningResult | ServiceError],
    known: dict[str, ServiceError],
) -> tuple[bytes | ServiceError, ...]:
    """Results as the caller is told of them. What befell many parts of a batch alike is one line in the log, and
    `known` from then on."""
    told: list[bytes | ServiceError] = []
    for result in results:
        if isinstance(result, Signature):
            told.append(result.value)
        elif isinstance(result, ServiceError):
            told.append(result)
        else:
            kind = f"{type(result).__name__}: {result}"
            if kind not in known:
                known[kind] = caller_error(trail, served, result)
            told.append(known[kind])
    return tuple(told)


def caller_error(trail: Trail, served: ServedKey, error: BackendError) -> ServiceError:
    """What the caller is told of a backend's error; the log has all of it."""
    level = logging.ERROR if isinstance(error, IntegrityError) else logging.WARNING
    _LOG.log(level, "request %s, key %r: %s: %s", trail.request_id, served.name, type(error).__name__, error)
    return errors.from_backend(error, served.name, trail.request_id)
