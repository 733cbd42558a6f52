"""Whose turn it is: fair shares, bounds, deadlines, chunks, and nothing left behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from privyseal_backends.interface import (
    DeadlineError,
    Key,
    KeyDescription,
    Mechanism,
    Signature,
    SigningInput,
    SigningResult,
)
from privyseal_backends.registry import store_uris
from privyseal_service.domain import errors
from privyseal_service.domain.errors import Code, ServiceError
from privyseal_service.signing.scheduler import QueueRequest, Scheduler, Schedulers


def inputs(number: int) -> list[SigningInput]:
    return [SigningInput(Mechanism.TYPE1, place.to_bytes(16, "big")) for place in range(number)]


class Store:
    """A key whose signatures come when the test lets them: each call waits in `pending`."""

    def __init__(self, parallel: int = 2) -> None:
        self.parallel_inputs = parallel
        self.description: KeyDescription
        self.pending: list[tuple[Sequence[SigningInput], asyncio.Future[None]]] = []
        self.most_inside = 0
        self.problem: ServiceError | None = None

    @property
    def inside(self) -> int:
        return sum(len(some) for some, _ in self.pending)

    def usable(self) -> Key:
        if self.problem is not None:
            raise self.problem
        return self  # type: ignore[return-value]

    async def sign(self, some: Sequence[SigningInput], deadline_s: float) -> Sequence[SigningResult]:
        entry = (some, asyncio.get_running_loop().create_future())
        self.pending.append(entry)
        self.most_inside = max(self.most_inside, self.inside)
        try:
            await entry[1]
        finally:
            self.pending.remove(entry)
        return [Signature(each.data) for each in some]

    def answer(self, number: int = 1) -> None:
        for _, future in self.pending[:number]:
            future.set_result(None)


def turn(caller: str = "a", within_s: float = 3600.0, weight: float = 1.0) -> QueueRequest:
    return QueueRequest(caller, "demo", time.monotonic() + within_s, weight)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


class Calls:
    """Calls of a test, and the order in which they were answered."""

    def __init__(self, scheduler: Scheduler, store: Store) -> None:
        self.scheduler = scheduler
        self.store = store
        self.answered: list[str] = []

    def start(self, caller: str, number: int = 1, *, name: str = "", **more: float) -> asyncio.Task[Sequence[object]]:
        async def call() -> Sequence[object]:
            results = await self.scheduler.sign(self.store, inputs(number), turn(caller, **more))
            self.answered.append(name or caller)
            return results

        return asyncio.ensure_future(call())

    async def serve_all(self) -> None:
        await settle()
        while self.store.pending:
            self.store.answer()
            await settle()


@pytest.fixture
def started() -> Callable[..., Calls]:
    def make(parallel: int = 2, **more: Any) -> Calls:
        return Calls(Scheduler(**more), Store(parallel))

    return make


async def learn(calls: Calls) -> None:
    """One call, so that the scheduler knows how much the store takes."""
    task = calls.start("a", name="first")
    await calls.serve_all()
    assert await task
    calls.answered.clear()


async def test_no_more_is_inside_than_the_store_takes(started: Callable[..., Calls]) -> None:
    calls = started(parallel=3)
    await learn(calls)
    tasks = [calls.start("a") for _ in range(20)]
    await settle()
    assert calls.store.inside == 6  # what it works on, and as much again
    await calls.serve_all()
    assert calls.store.most_inside == 6
    assert [len(await task) for task in tasks] == [1] * 20
    assert calls.store.inside == 0


async def test_a_caller_with_one_call_does_not_wait_behind_a_thousand(started: Callable[..., Calls]) -> None:
    calls = started(parallel=1)
    await learn(calls)
    for _ in range(1000):
        calls.start("farm")
    await settle()
    calls.start("small")
    await settle()
    for _ in range(4):
        calls.store.answer()
        await settle()
    assert "small" in calls.answered
    await calls.serve_all()
    assert len(calls.answered) == 1001


async def test_shares_follow_the_weights(started: Callable[..., Calls]) -> None:
    calls = started(parallel=1)
    await learn(calls)
    for _ in range(100):
        calls.start("light", weight=1.0)
        calls.start("heavy", weight=4.0)
    await settle()
    for _ in range(100):
        calls.store.answer()
        await settle()
    assert 78 <= calls.answered.count("heavy") <= 82
    await calls.serve_all()
    assert len(calls.answered) == 200


async def test_single_calls_get_in_between_the_chunks_of_a_batch(started: Callable[..., Calls]) -> None:
    calls = started(parallel=4)
    await learn(calls)
    batch = calls.start("a", 100, name="batch")
    await settle()
    assert {len(some) for some, _ in calls.store.pending} == {4}
    calls.start("a", name="single of the same caller")
    calls.start("b", name="single of another caller")
    await settle()
    for _ in range(5):
        calls.store.answer()
        await settle()
    assert set(calls.answered) == {"single of the same caller", "single of another caller"}
    await calls.serve_all()
    assert [result.value for result in await batch] == [each.data for each in inputs(100)]  # type: ignore[attr-defined]


async def test_a_store_that_bounds_its_groups_by_itself_gets_one_of_a_batch_at_a_time(
    started: Callable[..., Calls],
) -> None:
    calls = started()
    del calls.store.parallel_inputs
    batch = calls.start("a", 100)
    single = calls.start("a", name="single")
    await settle()
    assert sorted(len(some) for some, _ in calls.store.pending) == [1, 32]
    await calls.serve_all()
    assert calls.store.most_inside == 33
    assert [result.value for result in await batch] == [each.data for each in inputs(100)]  # type: ignore[attr-defined]
    assert await single


async def test_a_key_is_looked_at_before_each_chunk(started: Callable[..., Calls]) -> None:
    calls = started(parallel=2)
    await learn(calls)
    batch = calls.start("a", 10)
    await settle()
    single = calls.start("a")
    await settle()
    calls.store.problem = errors.blocked("demo")
    await calls.serve_all()
    results = await batch
    assert [type(result) for result in results] == [Signature] * 4 + [ServiceError] * 6
    with pytest.raises(ServiceError, match="blocked"):
        await single
    with pytest.raises(ServiceError, match="blocked"):
        await calls.start("a", 3)
    calls.store.problem = None
    await learn(calls)


async def test_cancelled_calls_leave(started: Callable[..., Calls]) -> None:
    calls = started(parallel=1)
    await learn(calls)
    tasks = [calls.start("a") for _ in range(6)] + [calls.start("b", 8)]
    await settle()
    for task in tasks[1:]:
        task.cancel()
    await settle()
    assert calls.store.inside == 1
    later = calls.start("c", name="later")
    await calls.serve_all()
    assert await tasks[0]
    assert await later
    assert calls.answered == ["a", "later"]
    await learn(calls)
    assert calls.store.inside == 0


async def test_cancelled_at_the_moment_of_its_turn(started: Callable[..., Calls]) -> None:
    calls = started(parallel=1)
    await learn(calls)
    first = [calls.start("a") for _ in range(2)]
    await settle()
    second = calls.start("a")
    await settle()
    calls.store.answer()
    await asyncio.sleep(0)  # the turn is given, and not yet taken
    second.cancel()
    await settle()
    assert second.cancelled()
    await calls.serve_all()
    assert all(await asyncio.gather(*first))
    tasks = [calls.start("a") for _ in range(2)]  # both places are free again
    await settle()
    assert calls.store.inside == 2
    await calls.serve_all()
    assert all(await asyncio.gather(*tasks))


async def test_a_turn_that_does_not_come_in_time(started: Callable[..., Calls]) -> None:
    calls = started(parallel=1)
    await learn(calls)
    inside = [calls.start("a") for _ in range(2)]
    await settle()
    with pytest.raises(DeadlineError, match="turn"):
        await calls.start("b", within_s=0.05)
    results = await calls.start("b", 3, within_s=0.05)
    assert [type(result) for result in results] == [DeadlineError] * 3
    await calls.serve_all()
    assert all(await asyncio.gather(*inside))


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


async def test_what_cannot_be_served_in_time_is_refused_at_once(started: Callable[..., Calls]) -> None:
    clock = Clock()
    calls = started(parallel=1, clock=clock)

    def ask(caller: str, within_s: float) -> Awaitable[Sequence[object]]:
        return asyncio.ensure_future(
            calls.scheduler.sign(calls.store, inputs(1), QueueRequest(caller, "demo", clock.now_s + within_s))
        )

    waiting = [ask("a", 60.0) for _ in range(42)]
    await settle()
    for _ in range(20):  # ten a second
        clock.now_s += 0.1
        calls.store.answer()
        await settle()
    with pytest.raises(ServiceError) as caught:
        await ask("a", 1.0)  # 22 are ahead of it
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert caught.value.retry_after_s == pytest.approx(3.6, abs=0.1)
    soon = ask("b", 1.0)  # a caller of its own has half of the store
    await calls.serve_all()
    assert await soon
    assert all(await asyncio.gather(*waiting))


async def test_a_store_that_fell_silent_is_not_counted_on(started: Callable[..., Calls]) -> None:
    clock = Clock()
    calls = started(parallel=1, clock=clock)

    def ask(within_s: float) -> Awaitable[Sequence[object]]:
        return asyncio.ensure_future(
            calls.scheduler.sign(calls.store, inputs(1), QueueRequest("a", "demo", clock.now_s + within_s))
        )

    waiting = [ask(60.0) for _ in range(10)]
    await settle()
    clock.now_s += 20.0
    with pytest.raises(ServiceError):
        await ask(10.0)
    await calls.serve_all()
    assert all(await asyncio.gather(*waiting))


async def test_the_queue_is_bounded_and_its_places_are_shared(started: Callable[..., Calls]) -> None:
    calls = started(parallel=1, most_waiting=10)
    await learn(calls)
    waiting = [calls.start("farm") for _ in range(12)]
    await settle()
    with pytest.raises(ServiceError) as caught:
        await calls.start("farm")
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    others = [calls.start("other") for _ in range(5)]
    await settle()
    with pytest.raises(ServiceError):
        await calls.start("other")
    await calls.serve_all()
    assert all(await asyncio.gather(*waiting, *others))


def test_a_store_has_one_scheduler() -> None:
    module = "?module-path=/usr/lib/m.so&pin-source=file:"
    schedulers = Schedulers()
    one = schedulers.of(f"pkcs11:token=t;object=a{module}p1")
    assert schedulers.of(f"pkcs11:object=b;token=t{module}p2") is one
    assert schedulers.of(f"pkcs11:token=u;object=a{module}p1") is not one
    assert store_uris("awskms").store_name("awskms:///a") == store_uris("awskms").store_name("awskms:///b") == "awskms"
