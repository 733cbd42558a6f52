"""Many callers, deadlines in the queue, cancellation, and closing while calls are in flight."""

from __future__ import annotations

import asyncio
import time

import pytest

from privyseal_backends.interface import DeadlineError, Mechanism, Signature, UnavailableError
from privyseal_backends.verification import verify
from tests.fakes.google_kms import Hang, Hold
from tests.integration.google_kms.support import OAEP, PKCS1, digest, opened, run, store, uri, within

SIGN = "AsymmetricSign"


async def until(condition, seconds=10.0):
    """Wait for another thread to come to a point."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        await asyncio.sleep(0.01)


def test_32_callers_at_once(fake):
    async def sign():
        async with opened(fake) as key:
            groups = [[digest() for _ in range(1 + number % 3)] for number in range(32)]
            answers = await asyncio.gather(*(key.sign(group, within(30)) for group in groups))
            return key.description.public_key, groups, answers

    public_key, groups, answers = run(sign())
    for group, results in zip(groups, answers, strict=True):
        for signing_input, result in zip(group, results, strict=True):
            assert isinstance(result, Signature)
            verify(public_key, signing_input, result.value)
    assert len(fake.calls) == sum(map(len, groups))


def test_no_more_calls_at_once_than_the_setting_allows(fake):
    async def sign():
        async with opened(fake, concurrency=3) as key:
            hold = Hold()
            fake.queue(SIGN, hold, times=3)
            tasks = [asyncio.ensure_future(key.sign([digest() for _ in range(4)], within(30))) for _ in range(4)]
            await until(lambda: len(fake.calls) == 3)
            await asyncio.sleep(0.1)
            inside = len(fake.calls)
            hold.gate.set()
            return inside, await asyncio.gather(*tasks)

    inside, answers = run(sign())
    assert inside == 3
    assert fake.peak <= 3
    assert all(isinstance(result, Signature) for results in answers for result in results)


def test_two_keys_share_the_bound(fake):
    names = [fake.add(PKCS1), fake.add(PKCS1)]

    async def sign():
        async with store(concurrency=2) as made:
            keys = [await made.open_key(uri(fake, name)) for name in names]
            hold = Hold()
            fake.queue(SIGN, hold, times=2)
            tasks = [asyncio.ensure_future(key.sign([digest()] * 3, within(30))) for key in keys]
            await until(lambda: fake.calls.count(SIGN) == 2)
            await asyncio.sleep(0.1)
            inside = fake.calls.count(SIGN)
            hold.gate.set()
            await asyncio.gather(*tasks)
            return inside

    assert run(sign()) == 2


class TestDeadlines:
    def test_a_deadline_that_has_passed_begins_nothing(self, fake):
        async def sign():
            async with opened(fake) as key:
                return await key.sign([digest(), digest()], time.monotonic() - 1)

        assert [type(result) for result in run(sign())] == [DeadlineError, DeadlineError]
        assert fake.calls == []

    def test_a_decryption_too(self, fake):
        async def decrypt():
            async with opened(fake, OAEP) as key:
                await key.decrypt(bytes(256), Mechanism.OAEP_SHA256, time.monotonic() - 1)

        with pytest.raises(DeadlineError):
            run(decrypt())
        assert fake.calls == []

    def test_an_input_whose_turn_does_not_come_in_time_is_never_begun(self, fake):
        async def sign():
            async with opened(fake, concurrency=1) as key:
                hold = Hold()
                fake.queue(SIGN, hold)
                patient = asyncio.ensure_future(key.sign([digest()], within(30)))
                await until(lambda: len(fake.calls) == 1)
                late = await key.sign([digest()], within(0.1))
                hold.gate.set()
                return late, await patient

        [late], [patient] = run(sign())
        assert isinstance(late, DeadlineError)
        assert isinstance(patient, Signature)
        assert len(fake.calls) == 1

    def test_part_of_a_group_may_be_late(self, fake):
        async def sign():
            async with opened(fake, concurrency=1) as key:
                fake.queue(SIGN, Hang())
                return await key.sign([digest() for _ in range(3)], within(0.3))

        assert [type(result) for result in run(sign())] == [DeadlineError] * 3
        assert len(fake.calls) == 1


class TestCancellation:
    def test_inputs_that_were_not_begun_are_never_begun(self, fake):
        async def sign():
            async with opened(fake, concurrency=2) as key:
                hold = Hold()
                fake.queue(SIGN, hold, times=2)
                task = asyncio.ensure_future(key.sign([digest() for _ in range(10)], within(30)))  # noqa: RUF006
                await until(lambda: len(fake.calls) == 2)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                hold.gate.set()
                [after] = await key.sign([digest()], within(10))
                return after

        assert isinstance(run(sign()), Signature)
        assert len(fake.calls) == 3

    def test_a_single_input_gives_its_place_back(self, fake):
        async def sign():
            async with opened(fake, concurrency=1) as key:
                for _ in range(3):
                    fake.queue(SIGN, Hang())
                    before = len(fake.calls)
                    task = asyncio.ensure_future(key.sign([digest()], within(30)))
                    await until(lambda before=before: len(fake.calls) == before + 1)
                    task.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await task
                return await key.sign([digest()], within(10))

        assert isinstance(run(sign())[0], Signature)

    def test_opening_can_be_cancelled_and_done_again(self, fake):
        name = fake.add(PKCS1)

        async def look():
            async with store() as made:
                fake.queue("GetCryptoKeyVersion", Hang())
                task = asyncio.ensure_future(made.open_key(uri(fake, name)))
                await until(lambda: fake.calls)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                return (await made.open_key(uri(fake, name))).description.key_version

        assert run(look()) == name


class TestClose:
    def test_what_is_in_flight_is_finished_first(self, fake):
        async def sign():
            async with opened(fake, concurrency=2) as key:
                hold = Hold()
                fake.queue(SIGN, hold, times=2)
                group = asyncio.ensure_future(key.sign([digest() for _ in range(4)], within(30)))  # noqa: RUF006
                await until(lambda: len(fake.calls) == 2)
                closing = asyncio.ensure_future(key._use.close())
                await asyncio.sleep(0.05)
                assert not closing.done()
                hold.gate.set()
                await closing
                return await group

        assert all(isinstance(result, Signature) for result in run(sign()))
        assert len(fake.calls) == 4

    def test_a_key_is_dead_after_it(self, fake):
        async def sign():
            async with opened(fake) as key, opened(fake, OAEP) as decrypter:
                await key._use.close()
                await decrypter._use.close()
                calls = len(fake.calls)
                with pytest.raises(UnavailableError):
                    await decrypter.decrypt(bytes(256), Mechanism.OAEP_SHA256, within(5))
                results = await key.sign([digest(), digest()], within(5))
                assert len(fake.calls) == calls
                return results

        assert [type(result) for result in run(sign())] == [UnavailableError] * 2

    def test_nothing_opens_after_it(self, fake):
        name = fake.add(PKCS1)

        async def look():
            async with store() as made:
                await made.close()
                await made.close()
                await made.open_key(uri(fake, name))

        with pytest.raises(UnavailableError, match="closed"):
            run(look())

    def test_a_store_that_never_opened_anything_closes(self):
        async def look():
            async with store():
                pass

        run(look())
