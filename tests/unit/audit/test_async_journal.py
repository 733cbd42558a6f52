"""The journal from asyncio: calls are grouped, answered after their sync, and refused while records are not safe."""

from __future__ import annotations

import asyncio
import threading

import pytest

from privyseal_service.audit.async_journal import AsyncJournal
from privyseal_service.audit.errors import AuditUnavailableError
from privyseal_service.audit.journal import Journal
from tests.support.audit.helpers import SOURCE, FaultyFiles, decision, fail_on, no_fault
from tests.unit.audit.test_journal import assert_on_record, lines_of


class Gate:
    """Holds every sync until it is opened."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self, verb: str, _name: str) -> int | None:
        if verb == "sync":
            self.reached.set()
            assert self.open.wait(30)
        return None


async def reached(gate: Gate) -> None:
    assert await asyncio.get_running_loop().run_in_executor(None, gate.reached.wait, 30)


def with_front(root, steps, **options):
    files = FaultyFiles()
    journal = Journal(root, SOURCE, files=files)

    async def run():
        front = AsyncJournal(journal, **options)
        try:
            return await steps(front, files)
        finally:
            files.fault = no_fault
            await front.close()
            await front.close()

    try:
        return asyncio.run(run())
    finally:
        journal.close()


def test_calls_that_wait_together_share_a_sync_and_a_wake_up(tmp_path):
    async def steps(front, files):
        files.fault = gate = Gate()
        calls = [asyncio.ensure_future(front.append([decision(0)]))]
        await reached(gate)
        files.diary.clear()
        calls += [asyncio.ensure_future(front.append([decision(i), decision(i)])) for i in range(1, 30)]
        await asyncio.sleep(0)
        woken = []
        front._loop.call_soon_threadsafe, inner = (
            lambda *args: (woken.append(args[0].__name__), inner(*args))[1],
            front._loop.call_soon_threadsafe,
        )
        gate.open.set()
        written = await asyncio.gather(*calls)
        front._loop.call_soon_threadsafe = inner
        assert [verb for verb, _ in files.diary] == ["write", "sync"]
        assert woken == ["_answer", "_answer"]
        return written

    written = with_front(tmp_path, steps)
    assert [len(one) for one in written] == [1] + [2] * 29
    assert_on_record(tmp_path, [one for call in written for one in call])
    assert [one.number for call in written for one in call] == list(range(2, 61))


def test_the_loop_goes_on_while_the_disk_is_slow(tmp_path):
    async def steps(front, files):
        files.fault = gate = Gate()
        call = asyncio.ensure_future(front.append([decision(1)]))
        await reached(gate)
        ticks = 0
        while ticks < 100:
            await asyncio.sleep(0)
            ticks += 1
        assert not call.done()
        gate.open.set()
        await call

    with_front(tmp_path, steps)


def test_a_failed_sync_fails_every_call_of_its_group_and_the_next(tmp_path):
    async def steps(front, files):
        files.fault = gate = Gate()
        first = asyncio.ensure_future(front.append([decision(0)]))
        await reached(gate)
        group = [asyncio.ensure_future(front.append([decision(i)])) for i in range(1, 5)]
        await asyncio.sleep(0)

        files.fault = fail_on("sync")
        gate.open.set()
        assert await first
        results = await asyncio.gather(*group, return_exceptions=True)
        assert all(isinstance(result, AuditUnavailableError) for result in results)
        assert len({id(result) for result in results}) == 4
        files.diary.clear()
        with pytest.raises(AuditUnavailableError):
            await front.append([decision(9)])
        assert not [entry for entry in files.diary if entry[0] == "write" and entry[1] == "0000000001.jsonl"]
        assert front.failure is not None
        files.fault = no_fault
        while front.failure is not None:
            await asyncio.sleep(0.01)
        return await front.append([decision(10)])

    assert_on_record(tmp_path, with_front(tmp_path, steps))


def test_a_cancelled_call_is_still_recorded(tmp_path):
    async def steps(front, files):
        files.fault = gate = Gate()
        first = asyncio.ensure_future(front.append([decision(0)]))
        await reached(gate)
        second = asyncio.ensure_future(front.append([decision(1)]))
        await asyncio.sleep(0)
        second.cancel()
        gate.open.set()
        await first
        third = await front.append([decision(2)])
        assert third[0].number == 4

    with_front(tmp_path, steps)


def test_a_record_that_cannot_be_encoded_fails_its_own_call_alone(tmp_path):
    async def steps(front, files):
        files.fault = gate = Gate()
        first = asyncio.ensure_future(front.append([decision(0)]))
        await reached(gate)
        calls = [asyncio.ensure_future(front.append([decision(i, time_us=i << 70)])) for i in range(2)]
        calls.append(asyncio.ensure_future(front.append([decision(3)])))
        await asyncio.sleep(0)
        gate.open.set()
        await first
        return await asyncio.gather(*calls, return_exceptions=True)

    good, bad, other = with_front(tmp_path, steps)
    assert isinstance(bad, ValueError)
    assert_on_record(tmp_path, good + other)


def test_too_many_that_wait_are_refused(tmp_path):
    async def steps(front, files):
        files.fault = gate = Gate()
        calls = [asyncio.ensure_future(front.append([decision(i)])) for i in range(3)]
        await reached(gate)
        with pytest.raises(AuditUnavailableError, match="3 audit records wait"):
            await front.append([decision(9)])
        gate.open.set()
        await asyncio.gather(*calls)
        await front.append([decision(10)])

    with_front(tmp_path, steps, max_waiting_records=3)


def test_a_closed_front_refuses(tmp_path):
    journal = Journal(tmp_path, SOURCE)

    async def run():
        front = AsyncJournal(journal)
        await front.close()
        with pytest.raises(AuditUnavailableError, match="closed"):
            await front.append([decision()])

    asyncio.run(run())
    journal.close()


def test_a_loop_that_ended_first_does_no_harm(tmp_path):
    files = FaultyFiles()
    journal = Journal(tmp_path, SOURCE, files=files)
    files.fault = gate = Gate()

    async def run():
        front = AsyncJournal(journal)
        call = asyncio.ensure_future(front.append([decision(1)]))
        await reached(gate)
        call.cancel()
        return front

    front = asyncio.run(run())
    gate.open.set()
    front._calls.put(None)
    front._thread.join()
    journal.close()
    assert len(lines_of(tmp_path)) == 3


def test_a_thread_and_the_front_may_use_one_journal(tmp_path):
    async def steps(front, files):
        direct = []
        thread = threading.Thread(
            target=lambda: direct.extend(front._journal.append([decision(i)])[0] for i in range(200))
        )
        thread.start()
        written = [
            one for call in await asyncio.gather(*[front.append([decision(i)]) for i in range(200)]) for one in call
        ]
        await asyncio.get_running_loop().run_in_executor(None, thread.join)
        return written + direct

    written = with_front(tmp_path, steps)
    assert sorted(one.number for one in written) == list(range(2, 402))
    assert_on_record(tmp_path, written[::40])
