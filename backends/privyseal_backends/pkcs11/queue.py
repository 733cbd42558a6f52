"""The queue between the event loop and a token's signing threads: batches in, groups out, one wake-up back.

The lever is fewer wake-ups: a thread takes up to a group of inputs at once, of as many callers as there are, and
answers all of them by one `call_soon_threadsafe`. A long batch gives way after each group, so that a caller with one
input does not wait behind two thousand.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from privyseal_backends.interface import BackendError, DeadlineError, Mechanism, Plaintext, Signature, SigningInput
from privyseal_backends.pkcs11.token_key import TokenKey


@dataclass(frozen=True)
class Decryption:
    """What `Decrypter.decrypt` asks of a token."""

    mechanism: Mechanism
    ciphertext: bytes = field(repr=False)


Operation: TypeAlias = SigningInput | Decryption
Result: TypeAlias = Signature | Plaintext | BackendError


class Batch:
    """One caller's operations with one key, and the results that they came to.

    The event loop makes it and settles it; a signing thread only reads it. `taken` belongs to the queue's lock.
    """

    def __init__(self, key: TokenKey, operations: Sequence[Operation], deadline_s: float) -> None:
        self.key = key
        self.operations = operations
        self.deadline_s = deadline_s
        self.queued_s = time.monotonic()
        self.taken = 0
        self.abandoned = False
        self._results: list[Result | None] = [None] * len(operations)
        self._missing = len(operations)
        self._loop = asyncio.get_running_loop()
        self._done: asyncio.Future[None] = self._loop.create_future()

    async def results(self) -> list[Result]:
        """The results in order, once all are there or the deadline has come: what is missing then is DeadlineError.

        When the task is cancelled, what no thread has begun is never begun.
        """
        timer = self._loop.call_later(max(0.0, self.deadline_s - time.monotonic()), self._finish)
        try:
            await self._done
        finally:
            self.abandoned = True
            timer.cancel()
        return [deadline_passed() if result is None else result for result in self._results]

    def settle(self, index: int, result: Result) -> None:
        """Take the result of one operation, the first that comes; on the event loop."""
        if self._results[index] is not None:
            return
        self._results[index] = result
        self._missing -= 1
        if not self._missing:
            self._finish()

    def send(self, answers: Sequence[Answer]) -> None:
        """Bring answers, of this batch or of others, to the event loop by one wake-up; from any thread."""
        try:
            self._loop.call_soon_threadsafe(_settle, answers)
        except RuntimeError:
            # The loop is closed: nobody waits for these any more.
            self.abandoned = True

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that waits for it."""
        return self._loop

    def _finish(self) -> None:
        if not self._done.done():
            self._done.set_result(None)


Task: TypeAlias = tuple[Batch, int]
"""One operation: a batch and the place in it."""

Answer: TypeAlias = tuple[Batch, int, Result]
"""The result of one operation."""


def deadline_passed() -> DeadlineError:
    """The error of an operation that was not done in time."""
    return DeadlineError("token", "the deadline passed before the token had answered", "allow more time, or try later")


def _settle(answers: Sequence[Answer]) -> None:
    for batch, index, result in answers:
        batch.settle(index, result)


def send(answers: Sequence[Answer]) -> None:
    """Bring answers to the event loops that wait for them, one wake-up for each loop (nearly always there is one)."""
    by_loop: dict[asyncio.AbstractEventLoop, list[Answer]] = {}
    for answer in answers:
        by_loop.setdefault(answer[0].loop, []).append(answer)
    for some in by_loop.values():
        some[0][0].send(some)


class WorkQueue:
    """Batches that wait for the signing threads of one token."""

    def __init__(self) -> None:
        self._batches: deque[Batch] = deque()
        self._returned: deque[Task] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._closed = False

    def put(self, batch: Batch) -> bool:
        """Add a batch that is not empty. False when the queue is closed."""
        with self._changed:
            if self._closed:
                return False
            self._batches.append(batch)
            self._changed.notify()
            return True

    def take(self, limit: int) -> list[Task] | None:
        """Wait for work and take up to `limit` operations; None when the queue is closed and empty."""
        with self._changed:
            while not self._batches and not self._returned:
                if self._closed:
                    return None
                self._changed.wait()
            tasks = self._take(limit)
            if self._batches or self._returned:
                self._changed.notify()
            return tasks

    def give_back(self, tasks: Sequence[Task]) -> None:
        """Operations that were taken and not begun, for another thread."""
        with self._changed:
            self._returned.extend(tasks)
            self._changed.notify()

    def take_all(self) -> list[Task]:
        """Whatever waits, without waiting for more."""
        with self._changed:
            return self._take(sys.maxsize)

    def _take(self, limit: int) -> list[Task]:
        tasks: list[Task] = []
        while self._returned and len(tasks) < limit:
            tasks.append(self._returned.popleft())
        while self._batches and len(tasks) < limit:
            self._take_from(self._batches.popleft(), limit, tasks)
        return tasks

    def _take_from(self, batch: Batch, limit: int, tasks: list[Task]) -> None:
        if batch.abandoned:
            return
        end = min(len(batch.operations), batch.taken + limit - len(tasks))
        tasks.extend((batch, index) for index in range(batch.taken, end))
        batch.taken = end
        if end < len(batch.operations):
            self._batches.append(batch)

    def close(self) -> None:
        """Take no more; the threads finish what is there."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
