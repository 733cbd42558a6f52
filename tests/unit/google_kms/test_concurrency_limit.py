"""The bounded number of calls in flight: order, deadlines, and cancellation at the worst moment."""

import asyncio
import math
import time

import pytest

from privyseal_backends.google_kms.concurrency_limit import ConcurrencyLimit
from privyseal_backends.interface import DeadlineError


def soon(seconds=0.05):
    return time.monotonic() + seconds


def test_a_place_is_taken_and_given_back():
    async def run():
        slots = ConcurrencyLimit(1)
        await slots.acquire(soon())
        with pytest.raises(DeadlineError):
            await slots.acquire(soon(0.01))
        slots.release()
        await slots.acquire(soon())

    asyncio.run(run())


def test_a_deadline_that_has_passed_takes_no_place():
    async def run():
        slots = ConcurrencyLimit(1)
        with pytest.raises(DeadlineError):
            await slots.acquire(time.monotonic() - 1)
        await slots.acquire(soon())

    asyncio.run(run())


def test_an_infinite_deadline_waits():
    async def run():
        slots = ConcurrencyLimit(1)
        await slots.acquire(math.inf)
        waiting = asyncio.ensure_future(slots.acquire(math.inf))
        await asyncio.sleep(0)
        slots.release()
        await waiting

    asyncio.run(run())


def test_first_come_first_served():
    async def run():
        slots, order = ConcurrencyLimit(1), []
        await slots.acquire(soon(5))

        async def take(number):
            await slots.acquire(soon(5))
            order.append(number)
            slots.release()

        tasks = [asyncio.ensure_future(take(number)) for number in range(5)]
        await asyncio.sleep(0)
        slots.release()
        await asyncio.gather(*tasks)
        return order

    assert asyncio.run(run()) == [0, 1, 2, 3, 4]


def test_a_newcomer_does_not_pass_those_who_wait():
    async def run():
        slots = ConcurrencyLimit(1)
        await slots.acquire(soon(5))
        waiting = asyncio.ensure_future(slots.acquire(soon(5)))
        await asyncio.sleep(0)
        slots.release()  # the place is the waiting one's now, though it has not run yet
        with pytest.raises(DeadlineError):
            await slots.acquire(soon(0.01))
        await waiting

    asyncio.run(run())


def test_a_place_given_to_a_cancelled_task_goes_on_to_the_next():
    async def run():
        slots = ConcurrencyLimit(1)
        await slots.acquire(soon(5))
        first = asyncio.ensure_future(slots.acquire(soon(5)))
        second = asyncio.ensure_future(slots.acquire(soon(5)))
        await asyncio.sleep(0)
        slots.release()
        first.cancel()  # after the place was granted, before the task could know
        await second
        with pytest.raises(asyncio.CancelledError):
            await first

    asyncio.run(run())


def test_who_gave_up_is_passed_over():
    async def run():
        slots = ConcurrencyLimit(1)
        await slots.acquire(soon(5))
        late = asyncio.ensure_future(slots.acquire(soon(0.01)))
        cancelled = asyncio.ensure_future(slots.acquire(soon(5)))
        patient = asyncio.ensure_future(slots.acquire(soon(5)))
        await asyncio.sleep(0)
        cancelled.cancel()
        with pytest.raises(DeadlineError):
            await late
        slots.release()
        await patient
        slots.release()
        await slots.acquire(soon())

    asyncio.run(run())
