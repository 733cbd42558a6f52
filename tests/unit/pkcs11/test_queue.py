"""The queue before the signing threads: groups, fairness, deadlines, cancellation."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import cast

import pytest

from privyseal_backends.interface import Signature
from privyseal_backends.pkcs11.queue import Batch, Task, WorkQueue, send
from privyseal_backends.pkcs11.token_key import TokenKey
from tests.unit.pkcs11.helpers import in_time, kinds, type1

KEY = cast("TokenKey", object())


def batch(number: int, deadline_s: float | None = None) -> Batch:
    return Batch(KEY, type1(number), in_time() if deadline_s is None else deadline_s)


def sizes(tasks: list[Task] | None, *batches: Batch) -> list[int]:
    """How many of the tasks belong to each of the batches."""
    return [sum(task[0] is each for task in tasks or ()) for each in batches]


def test_a_group_is_filled_from_several_batches() -> None:
    async def take() -> None:
        queue, one, two = WorkQueue(), batch(1), batch(2)
        queue.put(one)
        queue.put(two)
        assert queue.take(16) == [(one, 0), (two, 0), (two, 1)]

    asyncio.run(take())


def test_a_long_batch_gives_way_after_each_group() -> None:
    async def take() -> None:
        queue, long, short = WorkQueue(), batch(40), batch(1)
        queue.put(long)
        queue.put(short)
        assert sizes(queue.take(16), long, short) == [16, 0]
        assert sizes(queue.take(16), long, short) == [15, 1]
        assert sizes(queue.take(16), long, short) == [9, 0]

    asyncio.run(take())


def test_two_long_batches_take_turns() -> None:
    async def take() -> None:
        queue, first, second = WorkQueue(), batch(32), batch(32)
        queue.put(first)
        queue.put(second)
        taken = [sizes(queue.take(16), first, second) for _ in range(4)]
        assert taken == [[16, 0], [0, 16], [16, 0], [0, 16]]

    asyncio.run(take())


def test_a_closed_queue_gives_what_it_has_and_takes_no_more() -> None:
    async def take() -> None:
        queue, one = WorkQueue(), batch(1)
        assert queue.put(one)
        queue.close()
        assert not queue.put(batch(1))
        assert queue.take(16) == [(one, 0)]
        assert queue.take(16) is None

    asyncio.run(take())


def test_a_waiting_thread_is_woken_by_work_and_by_the_end() -> None:
    async def wake() -> list[int]:
        queue, got = WorkQueue(), []

        def work() -> None:
            while (tasks := queue.take(16)) is not None:
                got.append(len(tasks))
                send([(each, index, Signature(b"")) for each, index in tasks])

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for number in (1, 2, 40):
            waiting = batch(number)
            queue.put(waiting)
            assert kinds(await waiting.results()) == ["Signature"] * number
        queue.close()
        for thread in threads:
            thread.join()
        return got

    assert sum(asyncio.run(wake())) == 43


def test_what_is_missing_at_the_deadline_is_a_deadline_error() -> None:
    async def wait() -> list[str]:
        late = batch(3, time.monotonic() + 0.02)
        late.settle(1, Signature(b"x"))
        return kinds(await late.results())

    assert asyncio.run(wait()) == ["DeadlineError", "Signature", "DeadlineError"]


def test_a_deadline_that_has_passed_begins_nothing() -> None:
    async def wait() -> list[Task] | None:
        queue, late = WorkQueue(), batch(2, time.monotonic() - 1)
        queue.put(late)
        assert kinds(await late.results()) == ["DeadlineError"] * 2
        queue.close()
        return queue.take(16)

    assert asyncio.run(wait()) in ([], None)


def test_a_cancelled_batch_is_not_begun() -> None:
    async def cancel() -> None:
        queue, cancelled = WorkQueue(), batch(40)
        queue.put(cancelled)
        waiting = asyncio.create_task(cancelled.results())
        await asyncio.sleep(0)
        assert sizes(queue.take(16), cancelled) == [16]
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        after = batch(1)
        queue.put(after)
        assert queue.take(16) == [(after, 0)]

    asyncio.run(cancel())


def test_results_for_a_closed_loop_are_dropped() -> None:
    async def make() -> Batch:
        return batch(1)

    orphan = asyncio.run(make())
    send([(orphan, 0, Signature(b""))])
    assert orphan.abandoned
