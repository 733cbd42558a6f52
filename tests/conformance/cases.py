"""The cases that hold on either face of every key store: the backend itself, and the service in front of it.

A test module imports them and defines the fixtures `face`, an asynchronous context manager that can be entered once,
and `own_face`, one whose store the case may close. What a store cannot do is asserted as refused: nothing is skipped.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from hashlib import sha256
from typing import Any, TypeAlias

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from privyseal_service.domain.operations import Scheme, SignatureScheme, WrapScheme
from tests.conformance.adapters import PLENTY_S, SHORT_S, Face, Failure
from tests.conformance.samples import SCHEMES, UNWRAPPING, Sample, sample, wrapped
from tests.conformance.stores import Fault, KeyUnderTest, Kind

AnyFace: TypeAlias = AbstractAsyncContextManager[Face]


def run(face: AnyFace, case: Callable[[Face], Coroutine[Any, Any, None]]) -> None:
    """Run a case to its end, and never for ever."""

    async def bounded() -> None:
        async with face as entered:
            await asyncio.wait_for(case(entered), 100)

    asyncio.run(bounded())


def some_scheme(face: Face, key: KeyUnderTest) -> Scheme:
    """A scheme of the key, one that a batch can have where there is one."""
    able = face.can(key)
    return next((scheme for scheme in SignatureScheme if scheme in able), None) or min(able, key=SCHEMES.index)


async def until(condition: Callable[[], bool]) -> None:
    """Give the event loop to others until `condition` holds."""
    while not condition():
        await asyncio.sleep(0.005)


async def works(face: Face, key: KeyUnderTest) -> None:
    """The key serves again, at the latest when what heals by itself has healed."""
    asked = sample(some_scheme(face, key), key.public_key)
    (result,) = await face.use_all(key, asked.scheme, [asked.data])
    while isinstance(result, Failure) and result.kind in (Kind.UNAVAILABLE, Kind.BUSY):
        await asyncio.sleep(0.05)  # the case's own timeout ends this
        (result,) = await face.use_all(key, asked.scheme, [asked.data])
    assert isinstance(result, bytes), result
    asked.check(result)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.value)
def test_a_scheme_is_made_by_the_keys_that_have_it_and_refused_by_the_others(face: AnyFace, scheme: Scheme) -> None:
    async def case(face: Face) -> None:
        for key in face.store.keys:
            asked = sample(scheme, key.public_key)
            if scheme in face.can(key):
                asked.check(await face.use(key, scheme, asked.data))
                continue
            before = face.store.private_calls()
            with pytest.raises(Failure) as caught:
                await face.use(key, scheme, asked.data)
            assert caught.value.kind is Kind.CALLER
            assert face.store.private_calls() == before

    run(face, case)


def test_known_answers_are_given_byte_by_byte(face: AnyFace) -> None:
    """Where no key can be brought into the store, there are none; `backend_cases` shows that it takes none."""

    async def case(face: Face) -> None:
        known = [(key, answer) for key in face.store.keys for answer in key.known]
        assert bool(known) is not face.store.takes_no_key
        for key, answer in known:
            assert await face.use(key, answer.scheme, answer.data) == answer.output

    run(face, case)


@pytest.mark.parametrize("size", [16, 24, 32])
def test_every_size_of_session_key_is_unwrapped(face: AnyFace, size: int) -> None:
    async def case(face: Face) -> None:
        for key in face.store.keys:
            for scheme in set(UNWRAPPING) & face.can(key):
                asked = sample(scheme, key.public_key, size)
                asked.check(await face.use(key, scheme, asked.data))
        assert any(face.can(key) & set(UNWRAPPING) for key in face.store.keys)

    run(face, case)


def test_an_input_of_another_length_never_reaches_the_store(face: AnyFace) -> None:
    """A DigestInfo of 51 bytes above all, which would make a type-1 block an RSASSA signature."""

    async def refused_calls(face: Face, key: KeyUnderTest, scheme: Scheme) -> int:
        before = face.store.private_calls()
        for length in _unfit_lengths(scheme, key):
            with pytest.raises(Failure) as caught:
                await face.use(key, scheme, bytes(length))
            assert caught.value.kind is Kind.INPUT, (scheme, length)
        return face.store.private_calls() - before

    async def case(face: Face) -> None:
        for key in face.store.keys:
            for scheme in face.can(key):
                # What an earlier case gave up may come to the store late; what is refused here would, each time.
                counts = [await refused_calls(face, key, scheme)]
                while counts[-1] and len(counts) < 5:
                    counts.append(await refused_calls(face, key, scheme))
                assert counts[-1] == 0, (scheme, counts)

    run(face, case)


def _unfit_lengths(scheme: Scheme, key: KeyUnderTest) -> list[int]:
    size = key.public_key.key_size // 8
    fit = size if scheme in UNWRAPPING else 16 if scheme is WrapScheme.CAPGO else 32
    return [length for length in (0, 1, 15, 16, 17, 31, 32, 33, 48, 51, size - 1, size, size + 1) if length != fit]


def test_a_wrapped_key_that_was_not_made_for_the_key_says_nothing_more(face: AnyFace) -> None:
    async def case(face: Face) -> None:
        unwrapping = [(key, scheme) for key in face.store.keys for scheme in UNWRAPPING if scheme in face.can(key)]
        assert unwrapping
        for key, scheme in unwrapping:
            said = set()
            for each in _unfit_wrapped_keys(key, scheme):
                with pytest.raises(Failure) as caught:
                    await face.use(key, scheme, each)
                assert caught.value.kind is Kind.INPUT
                said.add(caught.value.said)
            assert len(said) == 1
            await works(face, key)

    run(face, case)


def _unfit_wrapped_keys(key: KeyUnderTest, scheme: Scheme) -> list[bytes]:
    (other,) = set(UNWRAPPING) - {scheme}
    size = key.public_key.key_size // 8
    return [
        wrapped(other, key.public_key, bytes(16)),  # another hash
        bytes(size),
        b"\xff" * size,  # above the modulus
        (key.public_key.public_numbers().n - 1).to_bytes(size, "big"),
        b"\0" + os.urandom(size - 1),
    ]


def test_a_group_is_answered_in_its_order(face: AnyFace) -> None:
    async def case(face: Face) -> None:
        for key in face.store.keys:
            scheme = some_scheme(face, key)
            group = [sample(scheme, key.public_key) for _ in range(24)]
            results = await face.use_all(key, scheme, [each.data for each in group])
            for each, result in zip(group, results, strict=True):
                assert isinstance(result, bytes)
                each.check(result)

    run(face, case)


def test_32_callers_at_once(face: AnyFace) -> None:
    """Each with a key of the store in turn, each with inputs of its own, one or some at a time."""

    async def case(face: Face) -> None:
        async def one(number: int) -> None:
            key = face.store.keys[number % len(face.store.keys)]
            scheme = some_scheme(face, key)
            asked = [sample(scheme, key.public_key) for _ in range(1 + number % 4)]
            results = await face.use_all(key, scheme, [each.data for each in asked])
            for each, result in zip(asked, results, strict=True):
                assert isinstance(result, bytes)
                each.check(result)

        await asyncio.gather(*(one(number) for number in range(32)))

    run(face, case)


KINDS = {
    Fault.AWAY: Kind.UNAVAILABLE,
    Fault.BUSY: Kind.BUSY,
    Fault.CORRUPTED: Kind.INTEGRITY,
    Fault.HANGS: Kind.DEADLINE,
}


@pytest.mark.parametrize("fault", Fault, ids=lambda fault: fault.value)
def test_each_fault_is_told_as_what_it_is_and_passes(face: AnyFace, fault: Fault) -> None:
    async def case(face: Face) -> None:
        store = face.store
        # What a plaintext should be nobody knows, so one that is wrong by a bit cannot be told from a right one.
        for key in [store.signer] if fault is Fault.CORRUPTED else store.one_of_each:
            asked = sample(some_scheme(face, key), key.public_key)
            await works(face, key)
            with store.failing(fault):
                kind = await _kind_of_failure(face, key, asked, fault)
            assert kind is face.meaning(KINDS.get(fault, store.refused), asked.scheme)
            await works(face, key)

    run(face, case)


async def _kind_of_failure(face: Face, key: KeyUnderTest, asked: Sample, fault: Fault) -> Kind:
    """The first failure that tells of the fault: the deadline may come in the middle of an attempt, and is then told
    as what it is."""
    for _ in range(5):
        with pytest.raises(Failure) as caught:
            await face.use(key, asked.scheme, asked.data, SHORT_S)
        if caught.value.kind is not Kind.DEADLINE or fault is Fault.HANGS:
            break
    return caught.value.kind


def test_a_group_in_a_store_that_hangs_has_a_result_for_each_at_its_deadline(face: AnyFace) -> None:
    async def case(face: Face) -> None:
        key = face.store.signer
        scheme = some_scheme(face, key)
        with face.store.failing(Fault.HANGS):
            results = await face.use_all(key, scheme, [sample(scheme, key.public_key).data for _ in range(40)], SHORT_S)
        assert [each.kind for each in results if isinstance(each, Failure)] == [Kind.DEADLINE] * 40
        await works(face, key)

    run(face, case)


def test_what_was_not_begun_when_its_caller_left_is_never_begun(own_face: AnyFace) -> None:
    """Of 200 inputs no more are begun than the store takes at once."""

    async def case(face: Face) -> None:
        store, key = face.store, face.store.signer
        scheme = some_scheme(face, key)
        await works(face, key)
        before = store.private_calls()
        with store.failing(Fault.HANGS):
            group = [sample(scheme, key.public_key).data for _ in range(200)]
            task = asyncio.ensure_future(face.use_all(key, scheme, group))
            await until(lambda: store.private_calls() > before)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await face.cancelled()
        await works(face, key)
        assert before + 1 < store.private_calls() <= before + store.at_once + 1

    run(own_face, case)


def test_the_public_key_and_its_names_are_those_of_the_key(face: AnyFace) -> None:
    async def case(face: Face) -> None:
        versions = set()
        for key in face.store.keys:
            shown = await face.show(key)
            spki = key.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            pkcs1 = key.public_key.public_bytes(Encoding.PEM, PublicFormat.PKCS1).decode()
            assert shown.fingerprint == sha256(spki).hexdigest()
            assert shown.pkcs1_pem == pkcs1
            assert shown.capgo_key_id == pkcs1.split("\n")[1][:20]
            assert shown.spki_pem.startswith("-----BEGIN PUBLIC KEY-----\n")
            assert shown.spki_pem.endswith("\n")
            versions.add(shown.key_version)
        assert len(versions) == len(face.store.keys)
        assert "" not in versions

    run(face, case)


def test_custody_is_what_the_store_tells_with_reasons_and_evidence(face: AnyFace) -> None:
    async def case(face: Face) -> None:
        for key in face.store.keys:
            shown = await face.show(key)
            assert shown.custody == key.custody
            assert len(shown.reasons) >= 3
            assert all(reason.strip() and reason == " ".join(reason.split()) for reason in shown.reasons)
            values = "\n".join(shown.evidence.values())
            assert shown.evidence
            for word in key.place:
                assert word in values
            for secret in face.store.secrets:
                assert secret not in f"{shown}"

    run(face, case)


def test_closing_while_busy_settles_every_call(own_face: AnyFace) -> None:
    async def case(face: Face) -> None:
        key = face.store.signer
        scheme = some_scheme(face, key)
        await works(face, key)
        before = face.store.private_calls()
        with face.store.failing(Fault.HANGS):
            asked = [[sample(scheme, key.public_key) for _ in range(3)] for _ in range(8)]
            calls = [asyncio.ensure_future(face.use_all(key, scheme, [e.data for e in each])) for each in asked]
            await until(lambda: face.store.private_calls() > before)
            stopping = asyncio.ensure_future(face.stop())
            await asyncio.sleep(0.05)
        for samples, results in zip(asked, await asyncio.gather(*calls), strict=True):
            for each, result in zip(samples, results, strict=True):
                if isinstance(result, Failure):
                    assert result.kind in (Kind.UNAVAILABLE, Kind.GONE)
                else:
                    each.check(result)
        await asyncio.wait_for(stopping, PLENTY_S)
        with pytest.raises(Failure) as caught:
            await face.use(key, scheme, asked[0][0].data)
        assert caught.value.kind in (Kind.UNAVAILABLE, Kind.GONE)

    run(own_face, case)
