"""The way to one endpoint with one identity: threads, attempts, deadlines and the quota."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from privyseal_backends.aws_kms.credentials import Clients, make_clients
from privyseal_backends.aws_kms.errors import classify
from privyseal_backends.backoff import Backoff
from privyseal_backends.interface import BackendError, BusyError, DeadlineError, UnavailableError
from privyseal_backends.quota import Quota

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

    from privyseal_backends.aws_kms.address import Connection
    from privyseal_backends.aws_kms.settings import Settings

T = TypeVar("T")

BACKOFF = Backoff(0.05, 2.0, jitter=1.0)
_SHORTEST_ATTEMPT_S = 0.02


def attempt_s(outcome_s: float, error: BackendError) -> float:
    """What of the deadline has to be left for another attempt to be worth its request, in seconds.

    After a refusal for too many requests, which is an answer, it is the time that this answer took: the error, with its
    delay, then reaches the caller in time, and not the deadline in its place. The time of an attempt that failed
    otherwise, by a timeout above all, tells nothing of the next one.
    """
    return max(_SHORTEST_ATTEMPT_S, outcome_s if isinstance(error, BusyError) else 0.0)


def deadline_passed() -> DeadlineError:
    """The error at a deadline."""
    return DeadlineError("AWS KMS", "the caller's deadline passed before AWS KMS had answered", "allow more time")


@dataclass(frozen=True)
class Timed(Generic[T]):
    """A result, the seconds that AWS took for it over all attempts, and the seconds spent waiting beside that."""

    value: T
    queued_s: float
    store_s: float


@dataclass(frozen=True)
class _Outcome(Generic[T]):
    """What became of one attempt in its thread. An error is a value here: raised, it would drag boto3's along."""

    value: T | None
    error: BackendError | None
    store_s: float


class Executor:
    """Calls to AWS KMS over one connection: `settings.connections` threads, each with one call in flight.

    A thread whose caller gave up at its deadline goes on until its socket's timeout; its answer is dropped.
    """

    def __init__(
        self, connection: Connection, settings: Settings, bucket_of: Callable[[str, str], Quota | None]
    ) -> None:
        self._connection = connection
        self._settings = settings
        self._bucket_of = bucket_of
        self._bucket: Quota | None = None
        self._clients: Clients | None = None
        self._starting = asyncio.Lock()
        self._threads = ThreadPoolExecutor(settings.connections, thread_name_prefix="privyseal-awskms")
        self._running: set[Future[Any]] = set()
        self._closing = False
        self._verbs = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        """Around each verb: `close` waits for it, and none begins after that."""
        if self._closing:
            raise UnavailableError("AWS KMS", "the key store was closed", "open it again")
        self._verbs += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._verbs -= 1
            if not self._verbs:
                self._idle.set()

    async def start(self, deadline_s: float) -> Clients:
        """Make the clients, once. Raises `BackendError`; after a failure the next start tries again."""
        async with self._starting:
            if self._clients is None:
                made = await self._retry(
                    lambda _: make_clients(self._connection, self._settings), "", deadline_s, metered=False
                )
                self._clients = made.value
                self._bucket = self._bucket_of(made.value.account, made.value.region)
            return self._clients

    async def call(
        self, run: Callable[[KMSClient], T], key: str, deadline_s: float, *, metered: bool = False
    ) -> Timed[T]:
        """Run `run` in a thread, again and again with full jitter while that may help and the deadline allows.

        `key` is the key's name for errors, `metered` calls count against the quota. `run` checks its answer itself and
        raises `IntegrityError`. Raises `BackendError`.
        """
        clients = self._clients
        if clients is None:
            raise AssertionError("the executor was not started")
        return await self._retry(
            lambda remaining_s: run(clients.for_remaining(remaining_s)), key, deadline_s, metered=metered
        )

    async def _retry(self, run: Callable[[float], T], key: str, deadline_s: float, *, metered: bool) -> Timed[T]:
        begun_s, store_s = time.monotonic(), 0.0
        met: BackendError | None = None
        for failures in itertools.count(1):
            if metered:
                await self._wait_for_quota(deadline_s)
            try:
                outcome = await self._attempt(run, key, deadline_s)
            except DeadlineError as late:
                raise met or late from None  # why it was not served before its time was up tells more than that it was
            store_s += outcome.store_s
            if outcome.error is None:
                queued_s = max(0.0, time.monotonic() - begun_s - store_s)
                return Timed(outcome.value, queued_s, store_s)  # type: ignore[arg-type]  # run gave it
            if not isinstance(outcome.error, (BusyError, UnavailableError)):
                raise outcome.error
            outcome.error.retry_after_s = max(outcome.error.retry_after_s, BACKOFF.most_s(failures))
            wait_s = BACKOFF.delay_s(failures)
            if time.monotonic() + wait_s + attempt_s(outcome.store_s, outcome.error) >= deadline_s:
                raise outcome.error
            met = outcome.error
            await asyncio.sleep(wait_s)
        raise AssertionError("count() ends never")

    async def _wait_for_quota(self, deadline_s: float) -> None:
        if self._bucket is not None:
            now_s = time.monotonic()
            if now_s >= deadline_s:
                raise deadline_passed()
            await asyncio.sleep(self._bucket.reserve(now_s, deadline_s))

    async def _attempt(self, run: Callable[[float], T], key: str, deadline_s: float) -> _Outcome[T]:
        """One attempt in a thread; at the deadline it is given up, and never begun when no thread was free by then."""
        remaining_s = deadline_s - time.monotonic()
        if remaining_s <= 0:
            raise deadline_passed()
        thread = self._threads.submit(_in_thread, run, key, deadline_s)
        self._running.add(thread)
        thread.add_done_callback(self._running.discard)
        waiting = asyncio.wrap_future(thread)
        try:
            # Not wait_for: before Python 3.12 it can lose a cancellation that comes together with the result.
            await asyncio.wait({waiting}, timeout=remaining_s)
            if not waiting.done():
                raise deadline_passed()
            outcome = waiting.result()
            if isinstance(outcome.error, UnavailableError) and time.monotonic() >= deadline_s:
                raise deadline_passed()  # its socket gave up right after the deadline, and this was late to look
            return outcome
        finally:
            waiting.cancel()

    async def close(self) -> None:
        """Let the verbs in flight finish, then wait for threads whose callers left, as long as a socket may wait."""
        self._closing = True
        await self._idle.wait()
        left = [asyncio.wrap_future(thread) for thread in tuple(self._running)]
        if left:
            longest_s = self._settings.connect_timeout_s + self._settings.read_timeout_s
            await asyncio.wait(left, timeout=longest_s)
            for waiting in left:
                waiting.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._clients is not None:
            self._clients.close()


def _in_thread(run: Callable[[float], T], key: str, deadline_s: float) -> _Outcome[T]:
    begun_s = time.monotonic()
    if begun_s >= deadline_s:
        return _Outcome(None, deadline_passed(), 0.0)
    try:
        value = run(deadline_s - begun_s)
    except Exception as raised:  # noqa: BLE001 - boto3 raises nearly anything, and one call must not fail its group
        error = classify(raised, key)
    else:
        return _Outcome(value, None, time.monotonic() - begun_s)
    return _Outcome(None, error, time.monotonic() - begun_s)
