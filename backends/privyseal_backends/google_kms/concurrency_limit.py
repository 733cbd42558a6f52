"""A bounded number of calls in flight, waited for no longer than the caller's deadline."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from privyseal_backends.interface import DeadlineError


def deadline_passed() -> DeadlineError:
    """What a caller gets whose time is up."""
    return DeadlineError(
        "deadline", "the caller's deadline passed before Cloud KMS answered", "allow the call more time"
    )


class ConcurrencyLimit:
    """First come, first served.

    `asyncio.Semaphore` inside `asyncio.wait_for` loses a place, or a cancellation, when a place and the deadline come
    at once (Python 3.10 and 3.11), so the waiting is spelled out here.
    """

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: deque[asyncio.Future[bool]] = deque()

    async def acquire(self, deadline_s: float) -> None:
        """Take a place. Raises `DeadlineError` when none became free in time."""
        remaining_s = deadline_s - time.monotonic()
        if remaining_s <= 0:
            raise deadline_passed()
        if self._free:  # then nobody waits: a place that comes free goes to whoever waits first
            self._free -= 1
            return
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[bool] = loop.create_future()
        self._waiting.append(turn)
        # A deadline may be infinite; the timer may not.
        timer = loop.call_later(min(remaining_s, 86_400.0), _expire, turn)
        try:
            granted = await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled() and turn.result():
                self.release()
            raise
        finally:
            timer.cancel()
        if not granted:
            raise deadline_passed()

    def release(self) -> None:
        """Give a place back, to whoever has waited longest."""
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(True)
                return
        self._free += 1


def _expire(turn: asyncio.Future[bool]) -> None:
    if not turn.done():
        turn.set_result(False)
