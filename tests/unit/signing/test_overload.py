"""The queue before a key store under more than the store can do, second by second in a time of its own."""

from __future__ import annotations

import asyncio
import random
import selectors
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from privyseal_backends.interface import DeadlineError, Key, Mechanism, Signature, SigningInput, SigningResult
from privyseal_service.domain.errors import Code, ServiceError
from privyseal_service.signing.scheduler import QueueRequest, Scheduler

SESSIONS, LATENCY_S = 4, 0.02
INPUT = SigningInput(Mechanism.TYPE1, bytes(16))
CAPACITY_PER_S = SESSIONS / LATENCY_S


class _NoWait(selectors.DefaultSelector):
    """Looks at once, and lets the loop's time pass instead."""

    now_s = 1000.0

    def select(self, timeout: float | None = None) -> list[Any]:
        ready = super().select(0)
        if not ready and timeout:
            self.now_s += timeout
        return ready


def run(main: Callable[[], Coroutine[Any, Any, None]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Run it in a time that passes only while everybody waits; `time.monotonic` tells that time."""
    selector = _NoWait()
    loop = asyncio.SelectorEventLoop(selector)
    monkeypatch.setattr(loop, "time", lambda: selector.now_s)
    monkeypatch.setattr(time, "monotonic", lambda: selector.now_s)
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


@dataclass
class Load:
    """Callers of a store with four sessions, each of which takes 20 ms; the queue lets twice as many in."""

    scheduler: Scheduler
    sessions: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(SESSIONS))
    took_s: dict[str, list[float]] = field(default_factory=dict)
    refused: list[ServiceError] = field(default_factory=list)
    late: int = 0

    @property
    def parallel_inputs(self) -> int:
        return SESSIONS

    def usable(self) -> Key:
        return self  # type: ignore[return-value]

    async def sign(self, inputs: Sequence[SigningInput], _deadline_s: float) -> Sequence[SigningResult]:
        async with self.sessions:
            await asyncio.sleep(LATENCY_S)
        return [Signature(each.data) for each in inputs]

    async def call(self, caller: str, deadline_s: float, weight: float = 1.0) -> None:
        since_s = time.monotonic()
        try:
            await self.scheduler.sign(self, [INPUT], QueueRequest(caller, "demo", since_s + deadline_s, weight))
        except ServiceError as error:
            self.refused.append(error)
            assert time.monotonic() == since_s  # at once
        except DeadlineError:
            self.late += 1
        else:
            self.took_s.setdefault(caller, []).append(time.monotonic() - since_s)

    async def offer(self, per_s: float, seconds: float, deadline_s: float, rng: random.Random) -> None:
        """Calls of ten callers that begin at random moments, whether others were answered or not."""
        calls, end_s = [], time.monotonic() + seconds
        while time.monotonic() < end_s:
            calls.append(asyncio.ensure_future(self.call(f"caller-{rng.randrange(10)}", deadline_s)))
            await asyncio.sleep(rng.expovariate(per_s))
        await asyncio.gather(*calls)


def load() -> Load:
    return Load(Scheduler(clock=time.monotonic))


@pytest.mark.parametrize("times", [1.5, 3.0])
def test_goodput_holds_and_waits_are_bounded(times: float, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        offered = load()
        await offered.offer(times * CAPACITY_PER_S, 10, 0.5, random.Random(1))
        took_s = sorted(each for some in offered.took_s.values() for each in some)
        good = [each for each in took_s if each <= 0.5]
        assert len(good) > 0.9 * CAPACITY_PER_S * 10
        assert took_s[int(0.99 * len(took_s))] <= 0.5
        assert offered.late <= 0.05 * len(good)  # those that came before anything could be measured
        assert {error.code for error in offered.refused} == {Code.RESOURCE_EXHAUSTED}
        assert all(error.retry_after_s and error.retry_after_s >= 0.1 for error in offered.refused)

    run(main, monkeypatch)


def test_a_farm_with_a_thousand_in_flight_costs_another_caller_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone a call takes 20 ms. Beside the farm it waits for what is inside already, and for one turn of the farm."""

    async def main() -> None:
        shared = load()
        farm = [asyncio.ensure_future(shared.call("farm", 60.0)) for _ in range(1000)]
        await asyncio.sleep(0.1)
        for _ in range(40):
            await shared.call("small", 60.0)
        assert max(shared.took_s["small"]) <= 5 * LATENCY_S
        assert len(shared.took_s["farm"]) > 100
        await asyncio.gather(*farm)
        assert len(shared.took_s["farm"]) == 1000
        assert shared.refused == []

    run(main, monkeypatch)


def test_priorities_of_grants_share_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two farms that always have work: one of weight 4, one of weight 1."""

    async def main() -> None:
        shared = load()
        farms = [
            asyncio.ensure_future(shared.call(caller, 60.0, weight))
            for caller, weight in (("release", 4.0), ("nightly", 1.0))
            for _ in range(500)
        ]
        await asyncio.sleep(2.0)
        done = {caller: len(took_s) for caller, took_s in shared.took_s.items()}
        assert 3.5 <= done["release"] / done["nightly"] <= 4.5
        for each in farms:
            each.cancel()
        await asyncio.gather(*farms, return_exceptions=True)

    run(main, monkeypatch)
