"""One call to Cloud KMS with everything around it: a place in flight, attempts inside the deadline, checked answers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.api_core.exceptions import GoogleAPICallError

from privyseal_backends.backoff import Backoff, jittered
from privyseal_backends.google_kms.concurrency_limit import ConcurrencyLimit, deadline_passed
from privyseal_backends.google_kms.errors import Again, Failure, Verb, failure
from privyseal_backends.interface import BackendError, BusyError, DeadlineError, IntegrityError
from privyseal_backends.quota import Quota

Message = TypeVar("Message")
Checked = TypeVar("Checked")

_BACKOFF = Backoff(0.05, 5.0)
_FEW_TIMES = 3
_PAUSE_AFTER_UNTRUTH_S = 0.05
_SHORTEST_ATTEMPT_S = 0.02
_METERED = frozenset({Verb.SIGN, Verb.SIGN_RAW, Verb.DECRYPT})


@dataclass
class _Clock:
    """Where the time of one call went, in seconds."""

    queued_s: float = 0.0
    store_s: float = 0.0


@dataclass(frozen=True)
class Answer(Generic[Checked]):
    """A checked answer, and the seconds spent waiting here and in Cloud KMS, all attempts together."""

    value: Checked
    queued_s: float
    store_s: float


class Executor:
    """Makes calls for one connection: at most as many at once as it has slots, each attempt bounded."""

    def __init__(self, slots: ConcurrencyLimit, attempt_timeout_s: float, bucket: Quota | None = None) -> None:
        self._slots = slots
        self._attempt_timeout_s = attempt_timeout_s
        self._bucket = bucket

    def share_quota(self, processes: int) -> None:
        """See `privyseal_backends.interface.Metered`."""
        if self._bucket is not None:
            self._bucket.share(processes)

    async def call(
        self,
        verb: Verb,
        send: Callable[[float], Awaitable[Message]],
        check: Callable[[Message], Checked],
        deadline_s: float,
    ) -> Answer[Checked]:
        """Send until an answer passes `check`, which raises `IntegrityError` on one that is not true.

        `send` gets its timeout in seconds. Attempts are apart by full jitter (a random part of a pause that doubles)
        and never run past the deadline; when there is no room for another, what was met last is raised, and
        `DeadlineError` only when nothing else was met.
        """
        clock = _Clock()
        untrue = 0
        attempt = 0
        told: BackendError | None = None  # says more than that time ran out
        while True:
            try:
                if verb in _METERED:
                    await self._wait_for_quota(deadline_s, clock)
                value = check(await self._attempt(send, deadline_s, clock))
            except BusyError as error:
                raise told or error from None
            except DeadlineError as error:
                raise told or error from None
            except GoogleAPICallError as error:
                met = failure(verb, error)
            except IntegrityError as error:
                met = Failure(error, Again.A_FEW_TIMES)
            else:
                return Answer(value, clock.queued_s, clock.store_s)
            if not isinstance(met.error, DeadlineError):
                told = met.error
            untrue += met.again is Again.A_FEW_TIMES
            attempt += 1
            if not await self._pause(met, attempt, untrue, deadline_s):
                raise told or met.error

    async def _wait_for_quota(self, deadline_s: float, clock: _Clock) -> None:
        if self._bucket is not None:
            wait_s = self._bucket.reserve(time.monotonic(), deadline_s)
            clock.queued_s += wait_s
            await asyncio.sleep(wait_s)

    async def _attempt(self, send: Callable[[float], Awaitable[Message]], deadline_s: float, clock: _Clock) -> Message:
        waited_from_s = time.monotonic()
        await self._slots.acquire(deadline_s)
        began_s = time.monotonic()
        clock.queued_s += began_s - waited_from_s
        try:
            remaining_s = deadline_s - began_s
            if remaining_s <= 0:
                raise deadline_passed()
            return await send(min(remaining_s, self._attempt_timeout_s))
        finally:
            clock.store_s += time.monotonic() - began_s
            self._slots.release()

    async def _pause(self, met: Failure, attempt: int, untrue: int, deadline_s: float) -> bool:
        """Wait before the next attempt; False, without waiting, when there is to be none."""
        if met.again is Again.NEVER or untrue > _FEW_TIMES:
            return False
        room_s = deadline_s - time.monotonic() - met.pause_s - _SHORTEST_ATTEMPT_S
        if room_s <= 0:
            return False
        longest_s = _PAUSE_AFTER_UNTRUTH_S
        if met.again is Again.UNTIL_THE_DEADLINE:
            longest_s = _BACKOFF.most_s(attempt)
        await asyncio.sleep(met.pause_s + jittered(min(longest_s, room_s), 1.0))
        return True
