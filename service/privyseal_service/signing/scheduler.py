"""A bounded queue with fair shares between callers, in front of every use of a key store.

Only as much work is inside a store as keeps it busy; the rest waits here, where it can still be ordered, refused and
cancelled. Callers take turns by the work that they have had, each by its weight (start-time fair queuing, Goyal, Vin
and Cheng, 1996), and so do a caller's own calls. A batch goes in chunks, so that calls with a single input get in
between. A call that cannot be served by its deadline, at the measured rate, is refused immediately.
"""

from __future__ import annotations

import asyncio
import heapq
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from privyseal_backends.interface import (
    BackendError,
    DeadlineError,
    Decrypter,
    Key,
    Mechanism,
    Parallel,
    Plaintext,
    Signature,
    SigningInput,
    SigningResult,
)
from privyseal_backends.registry import store_uris
from privyseal_service.domain import errors
from privyseal_service.domain.errors import ServiceError

MOST_CHUNK = 32
"""Inputs of a batch that go to the store together, at most."""

DEFAULT_PARALLEL = 32
"""Inputs that a store works on at once, where it does not state a number."""

MOST_WAITING = 8192
"""The most inputs that wait; callers share the places as they share the store."""

_CAUTION = 2.0
"""How much longer than measured a wait is assumed to be. Otherwise overload fills the queue with calls that are served
exactly at their deadline, and any delay on the way back makes that work useless."""

_LONGEST_RETRY_S = 30.0
_WINDOW_S = 0.1
_SILENCE_S = 1.0


class QueueRequest(NamedTuple):
    """Who wants a turn, for which key (by its name), until when (`time.monotonic()`), and with what weight."""

    caller: str
    key: str
    deadline_s: float
    weight: float = 1.0


class UsableKey(Protocol):
    """A key that is looked at again right before each call of its store."""

    def usable(self) -> Key:
        """Return the key. Raises ServiceError when it must not be used now."""


class _Waiter:
    """One turn that is waited for. `came` is done when the turn came, or will not come."""

    __slots__ = ("came", "inputs")

    def __init__(self, came: asyncio.Future[None], inputs: int) -> None:
        self.came = came
        self.inputs = inputs


@dataclass(slots=True, eq=False)
class _Flow:
    """What one caller waits for: its calls, each with its turns, and the virtual time at which it is next."""

    caller: str
    weight: float
    next_s: float
    calls: deque[deque[_Waiter]] = field(default_factory=deque)
    waiting: int = 0

    def pop(self) -> _Waiter | None:
        """The next turn that is still wanted; the calls take turns."""
        while self.calls:
            call = self.calls.popleft()
            while call:
                waiter = call.popleft()
                if not waiter.came.done():
                    if call:
                        self.calls.append(call)
                    return waiter
        return None


class _Rate:
    """How many inputs a second the store does while more wait for it; 0 while that is not known."""

    def __init__(self) -> None:
        self._per_s = 0.0
        self._since_s = 0.0
        self._done = 0

    def begin(self, now_s: float) -> None:
        """From now on something waits."""
        self._since_s, self._done = now_s, 0

    def count(self, done: int, now_s: float, *, enough: int) -> None:
        """The store did so many inputs while something waited."""
        self._done += done
        elapsed_s = now_s - self._since_s
        if elapsed_s >= _WINDOW_S and self._done >= enough:
            measured = self._done / elapsed_s
            self._per_s = 0.5 * (self._per_s + measured) if self._per_s else measured
            self.begin(now_s)

    def per_s(self, in_store: int, now_s: float) -> float:
        """The rate to count on: what was measured, and less for a store that has fallen silent since."""
        silent_s = now_s - self._since_s
        if silent_s < _SILENCE_S:
            return self._per_s
        seen = (self._done + in_store) / silent_s
        return min(self._per_s, seen) if self._per_s else seen


class Scheduler:
    """Gives turns at one key store, on one event loop."""

    def __init__(self, *, most_waiting: int = MOST_WAITING, clock: Callable[[], float] = time.monotonic) -> None:
        self._most_waiting = most_waiting
        self._clock = clock
        self._limit = 2 * DEFAULT_PARALLEL
        self._chunk_inputs = MOST_CHUNK
        self._side_by_side = False
        self._fitted_to: Key | None = None
        self._in_store = 0
        self._waiting = 0
        self._flows: dict[str, _Flow] = {}
        self._order: list[tuple[float, int, _Flow]] = []
        self._ticket = 0
        self._now_s = 0.0
        self._rate = _Rate()

    @property
    def waiting(self) -> int:
        """Inputs that wait for their turn."""
        return self._waiting

    @property
    def in_store(self) -> int:
        """Inputs that were handed to the store and have no answer yet."""
        return self._in_store

    async def sign(
        self,
        key: UsableKey,
        inputs: Sequence[SigningInput],
        turn: QueueRequest,
        on_results: Callable[[int, Sequence[SigningResult | ServiceError]], None] = lambda _, __: None,
    ) -> Sequence[SigningResult | ServiceError]:
        """Sign each input with the key when its turn comes. What keeps the key from being used is the result of the
        chunk that met it, or raised where there is one chunk. Where there are several, `on_results` is called with the
        start index and the results of each chunk as soon as it is done.

        Raises ServiceError for a call that is refused, and DeadlineError when a single chunk's turn did not come.
        """
        if len(inputs) > 1:
            self._fit(key.usable())
        if len(inputs) <= self._chunk_inputs:
            waited_s = 0.0 if self._step_in(len(inputs)) else await self._line(len(inputs), turn)
            return await self._sign(key, inputs, turn, waited_s)
        self._admit(len(inputs), turn)
        call: deque[_Waiter] = deque()
        size = self._chunk_inputs

        async def sign_chunk(start: int) -> Sequence[SigningResult | ServiceError]:
            results = await self._chunk(call, key, inputs[start : start + size], turn)
            on_results(start, results)
            return results

        starts = range(0, len(inputs), size)
        if not self._side_by_side:
            return [result for start in starts for result in await sign_chunk(start)]
        tasks = [asyncio.ensure_future(sign_chunk(start)) for start in starts]
        try:
            return [result for results in await asyncio.gather(*tasks) for result in results]
        finally:
            for task in tasks:
                task.cancel()

    async def decrypt(self, key: UsableKey, ciphertext: bytes, mechanism: Mechanism, turn: QueueRequest) -> Plaintext:
        """Decrypt a ciphertext, as long as the modulus, when its turn comes. Raises ServiceError when it is refused or
        the store does not decrypt, DeadlineError when its turn did not come in time, and the backend's errors."""
        if not self._step_in(1):
            await self._line(1, turn)
        done = 0
        try:
            usable = key.usable()
            if not isinstance(usable, Decrypter):
                raise errors.cannot(turn.key, f"key {turn.key!r} is in a key store that does not decrypt", ())
            plaintext = await usable.decrypt(ciphertext, mechanism, turn.deadline_s)
            done = 1
        finally:
            self._leave(1, done)
        return plaintext

    def _step_in(self, inputs: int) -> bool:
        """Take a turn at once, where nobody waits for one and there is room for it."""
        if self._waiting or self._in_store + inputs > self._limit:
            return False
        self._in_store += inputs
        return True

    async def _line(self, inputs: int, turn: QueueRequest) -> float:
        """Wait for the turn of a call by itself; the seconds that it took."""
        self._admit(inputs, turn)
        return await self._turn(deque(), inputs, turn)

    async def _sign(
        self, key: UsableKey, inputs: Sequence[SigningInput], turn: QueueRequest, waited_s: float
    ) -> Sequence[SigningResult]:
        """Use a turn that came after so many seconds."""
        done = 0
        try:
            usable = key.usable()
            if usable is not self._fitted_to:
                self._fit(usable)
            results = await usable.sign(inputs, turn.deadline_s)
            done = len(inputs)
        finally:
            self._leave(len(inputs), done)
        return _waited(results, waited_s) if waited_s else results

    async def _chunk(
        self, call: deque[_Waiter], key: UsableKey, inputs: Sequence[SigningInput], turn: QueueRequest
    ) -> Sequence[SigningResult | ServiceError]:
        """Sign a chunk of a batch; an error is the result of each of its inputs."""
        try:
            waited_s = await self._turn(call, len(inputs), turn)
        except DeadlineError as error:
            return [error] * len(inputs)
        try:
            return await self._sign(key, inputs, turn, waited_s)
        except (ServiceError, BackendError) as error:  # a store should return its errors, but may raise them
            return [error] * len(inputs)

    def _fit(self, key: Key) -> None:
        """Let so much into the store that what it takes up next is there when it has done with what it works on."""
        self._fitted_to = key
        parallel = key.parallel_inputs if isinstance(key, Parallel) else DEFAULT_PARALLEL
        # A store that states no limit bounds each group by itself: a batch must not come as several at once.
        self._side_by_side = isinstance(key, Parallel)
        self._limit = 2 * parallel
        self._chunk_inputs = min(MOST_CHUNK, parallel)

    def _admit(self, inputs: int, turn: QueueRequest) -> None:
        """Raise ServiceError for a call that has no place in the queue, or that would wait until after its deadline."""
        flow = self._flows.get(turn.caller)
        mine = flow.waiting if flow is not None else 0
        others = sum(other.weight for other in self._flows.values() if other is not flow and other.waiting)
        share = turn.weight / (turn.weight + others)
        now_s = self._clock()
        rate = self._rate.per_s(self._in_store, now_s) if self._waiting else 0.0
        ahead = self._in_store + min(self._waiting + inputs, (mine + inputs) / share)
        wait_s = ahead / rate if rate else 0.0
        late_s = now_s + _CAUTION * wait_s - turn.deadline_s
        if mine and mine + inputs > self._most_waiting * share:
            raise errors.too_busy(turn.key, min(_LONGEST_RETRY_S, max(0.1, wait_s)))
        if late_s > 0 and wait_s:
            raise errors.too_busy(turn.key, min(_LONGEST_RETRY_S, max(0.1, late_s)))

    async def _turn(self, call: deque[_Waiter], inputs: int, turn: QueueRequest) -> float:
        """Wait for a turn among those of a call; then the inputs count as being in the store. The seconds waited."""
        since_s = self._clock()
        loop = asyncio.get_running_loop()
        waiter = _Waiter(loop.create_future(), inputs)
        flow = self._line_up(call, waiter, turn)
        timer = loop.call_later(max(0.0, turn.deadline_s - since_s), _expire, waiter)
        try:
            self._give_turns()
            await waiter.came
        except BaseException:
            # Cancelled or out of time; the turn may have come at the same moment.
            if waiter.inputs:
                waiter.came.cancel()
                self._gone(flow, waiter)
            else:
                self._leave(inputs, 0)
            raise
        finally:
            timer.cancel()
        return self._clock() - since_s

    def _line_up(self, call: deque[_Waiter], waiter: _Waiter, turn: QueueRequest) -> _Flow:
        flow = self._flows.get(turn.caller)
        if flow is None:
            flow = self._flows[turn.caller] = _Flow(turn.caller, turn.weight, self._now_s)
            self._enter(flow)
        flow.weight = turn.weight
        if not call:
            flow.calls.append(call)
        call.append(waiter)
        flow.waiting += waiter.inputs
        if not self._waiting:
            self._rate.begin(self._clock())
        self._waiting += waiter.inputs
        return flow

    def _enter(self, flow: _Flow) -> None:
        self._ticket += 1
        heapq.heappush(self._order, (flow.next_s, self._ticket, flow))

    def _gone(self, flow: _Flow, waiter: _Waiter) -> None:
        """A turn that is not waited for any more: out of the counts now, out of its line when it is met there."""
        flow.waiting -= waiter.inputs
        self._waiting -= waiter.inputs
        waiter.inputs = 0

    def _give_turns(self) -> None:
        while self._order and self._in_store < self._limit:
            self._now_s, _, flow = heapq.heappop(self._order)
            waiter = flow.pop()
            if waiter is None:
                del self._flows[flow.caller]
                continue
            inputs = waiter.inputs
            self._gone(flow, waiter)
            self._in_store += inputs
            flow.next_s = self._now_s + inputs / flow.weight
            self._enter(flow)
            waiter.came.set_result(None)

    def _leave(self, inputs: int, done: int) -> None:
        self._in_store -= inputs
        if self._waiting:
            self._rate.count(done, self._clock(), enough=self._limit)
            self._give_turns()


def _waited(results: Sequence[SigningResult], waited_s: float) -> list[SigningResult]:
    """The results, with the time that they waited here among the time that they were queued."""
    return [
        Signature(each.value, each.request_id, each.queued_s + waited_s, each.store_s)
        if isinstance(each, Signature)
        else each
        for each in results
    ]


def _expire(waiter: _Waiter) -> None:
    if not waiter.came.done():
        late = DeadlineError("queue", "the deadline passed before the call's turn had come", "allow more time")
        waiter.came.set_exception(late)


class Schedulers:
    """One scheduler for each key store."""

    def __init__(self) -> None:
        self._by_store: dict[str, Scheduler] = {}
        self._by_uri: dict[str, Scheduler] = {}

    @property
    def all(self) -> Iterable[Scheduler]:
        """Those that there are."""
        return self._by_store.values()

    def of(self, uri: str) -> Scheduler:
        """The scheduler of the store that a key's URI names."""
        known = self._by_uri.get(uri)
        if known is None:
            known = self._by_uri[uri] = self._by_store.setdefault(store_uris(uri).store_name(uri), Scheduler())
        return known
