"""The cases that hold for every backend by itself, beside those of `cases`: what interface.py promises to the service.

A test module imports them and defines the fixture `store`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from privyseal_backends.interface import (
    PURPOSES,
    BackendError,
    CallerError,
    DeadlineError,
    Decrypter,
    Export,
    IntegrityError,
    Key,
    KeyCreator,
    KeyStore,
    Mechanism,
    OperatorError,
    Origin,
    Purpose,
    Signature,
    SigningInput,
    UnavailableError,
)
from privyseal_backends.registry import backend
from tests.conformance.adapters import PLENTY_S, SHORT_S, Direct, check_error
from tests.conformance.cases import until, works
from tests.conformance.stores import SIGNING, Fault, KeyUnderTest, Kind, StoreUnderTest

DECRYPTING = frozenset(Mechanism) - SIGNING


def run(store: StoreUnderTest, case: Callable[[Direct], Coroutine[Any, Any, None]]) -> None:
    """Run a case on the store, with every key open."""

    async def bounded() -> None:
        async with Direct(store) as direct:
            await asyncio.wait_for(case(direct), 100)

    asyncio.run(bounded())


def with_a_store(store: StoreUnderTest, case: Callable[[KeyStore], Coroutine[Any, Any, None]], **more: object) -> None:
    """Run a case on a store in which no key is open yet."""

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[KeyStore]:
        with store.in_this_process():
            key_store = backend(store.scheme)({**store.settings, **more})
            try:
                yield key_store
            finally:
                store.clear()
                await key_store.close()

    async def bounded() -> None:
        async with opened() as key_store:
            await asyncio.wait_for(case(key_store), 100)

    asyncio.run(bounded())


def deadline_s(seconds: float = PLENTY_S) -> float:
    return time.monotonic() + seconds


def inputs(mechanism: Mechanism, number: int = 1) -> list[SigningInput]:
    return [SigningInput(mechanism, index.to_bytes(32, "big")) for index in range(number)]


def some(able: frozenset[Mechanism]) -> Mechanism:
    """One of them, always the same."""
    return min(able, key=lambda each: each.value)


def test_a_key_is_what_the_interface_says(store: StoreUnderTest) -> None:
    async def case(direct: Direct) -> None:
        assert isinstance(direct.key_store, KeyStore)
        for each in store.keys:
            key = direct.key(each)
            assert isinstance(key, Key)
            assert isinstance(key, Decrypter) or not key.description.mechanisms & DECRYPTING
            assert key.description == key.description
            assert key.description.public_key.modulus_bits == each.public_key.key_size

    run(store, case)


def test_a_key_can_do_this_and_says_why_not_that(store: StoreUnderTest) -> None:
    async def case(direct: Direct) -> None:
        for each in store.keys:
            description = direct.key(each).description
            assert description.mechanisms == each.can
            assert set(description.refusals) == set(Mechanism) - each.can
            for sentence in description.refusals.values():
                assert sentence == " ".join(sentence.split())
                assert len(sentence) > 20
                # Why not, and what would work: the one is not told without the other.
                assert any(sign in sentence for sign in (";", ",", ":")), sentence

    run(store, case)


def test_no_key_both_signs_and_decrypts(store: StoreUnderTest) -> None:
    async def case(direct: Direct) -> None:
        for each in store.keys:
            purposes = {PURPOSES[mechanism] for mechanism in direct.key(each).description.mechanisms}
            assert purposes
            assert Purpose.DECRYPTION not in purposes or len(purposes) == 1

    run(store, case)


def test_what_a_key_cannot_do_is_refused_among_others_without_a_call(store: StoreUnderTest) -> None:
    async def case(direct: Direct) -> None:
        for each in store.keys:
            key, able = direct.key(each), each.can & SIGNING
            unable = sorted(SIGNING - able, key=lambda mechanism: mechanism.value)
            group = [inputs(mechanism)[0] for mechanism in (*unable, *able, *unable)]
            before = store.private_calls()
            results = await key.sign(group, deadline_s())
            assert store.private_calls() == before + len(able)
            for one, result in zip(group, results, strict=True):
                assert type(result) is (Signature if one.mechanism in able else CallerError)
                if isinstance(result, BackendError):
                    assert check_error(result, store) is Kind.CALLER

    run(store, case)


def test_a_key_that_decrypts_refuses_the_mechanisms_that_it_has_not(store: StoreUnderTest) -> None:
    async def case(direct: Direct) -> None:
        decrypting = [each for each in store.keys if each.can & DECRYPTING]
        assert decrypting
        for each in decrypting:
            key, size = direct.key(each), each.public_key.key_size // 8
            assert isinstance(key, Decrypter)
            before = store.private_calls()
            for mechanism in set(Mechanism) - each.can:
                with pytest.raises(CallerError) as caught:
                    await key.decrypt(bytes(size), mechanism, deadline_s())
                assert check_error(caught.value, store) is Kind.CALLER
            assert store.private_calls() == before

    run(store, case)


def test_no_input_is_no_call(store: StoreUnderTest) -> None:
    async def case(direct: Direct) -> None:
        before = store.private_calls()
        for each in store.keys:
            assert list(await direct.key(each).sign([], deadline_s())) == []
        assert store.private_calls() == before

    run(store, case)


def test_a_result_tells_where_the_time_went(store: StoreUnderTest) -> None:
    async def case(direct: Direct) -> None:
        key = direct.key(store.signer)
        for result in await key.sign(inputs(some(store.signer.can & SIGNING), 4), deadline_s()):
            assert isinstance(result, Signature)
            assert result.store_s > 0
            assert result.queued_s >= 0
            assert len(result.value) == key.description.public_key.modulus_bytes

    run(store, case)


def test_a_deadline_that_has_passed_begins_nothing(store: StoreUnderTest) -> None:
    async def case(direct: Direct) -> None:
        before = store.private_calls()
        for each in store.keys:
            key = direct.key(each)
            if each.can & SIGNING:
                results = await key.sign(inputs(some(each.can & SIGNING), 3), deadline_s(-1))
                assert [type(result) for result in results] == [DeadlineError] * 3
            else:
                assert isinstance(key, Decrypter)
                with pytest.raises(DeadlineError):
                    await key.decrypt(bytes(each.public_key.key_size // 8), some(each.can), deadline_s(-1))
        assert store.private_calls() == before

    run(store, case)


def test_a_store_that_hangs_does_not_block_the_loop(store: StoreUnderTest) -> None:
    async def case(direct: Direct) -> None:
        key, mechanism = direct.key(store.signer), some(store.signer.can & SIGNING)
        await works(direct, store.signer)
        before = store.private_calls()
        with store.failing(Fault.HANGS):
            hanging = asyncio.ensure_future(key.sign(inputs(mechanism), deadline_s()))
            await until(lambda: store.private_calls() > before)
            (late,) = await key.sign(inputs(mechanism), deadline_s(0.2))
            assert isinstance(late, DeadlineError)
            assert not hanging.done()
        assert isinstance((await hanging)[0], Signature)

    run(store, case)


def test_a_pinned_key_is_opened_and_another_one_is_not(store: StoreUnderTest) -> None:
    async def case(key_store: KeyStore) -> None:
        first, second = store.keys[:2]
        fingerprint = (await key_store.open_key(first.uri)).description.public_key.fingerprint
        await key_store.open_key(first.uri, fingerprint)
        for other in (second.uri, first.uri):
            with pytest.raises(IntegrityError) as caught:
                await key_store.open_key(other, fingerprint if other is second.uri else "0" * 64)
            check_error(caught.value, store)
            assert caught.value.remedy

    with_a_store(store, case)


def test_what_names_no_key_is_refused_without_a_call(store: StoreUnderTest) -> None:
    async def case(key_store: KeyStore) -> None:
        before = store.private_calls()
        for uri in (*store.malformed, f"no-{store.keys[0].uri}"):
            with pytest.raises(CallerError) as caught:
                await key_store.open_key(uri)
            check_error(caught.value, store)
        assert store.private_calls() == before
        assert store.malformed

    with_a_store(store, case)


def test_a_key_that_is_not_there_needs_a_person(store: StoreUnderTest) -> None:
    async def case(key_store: KeyStore) -> None:
        with pytest.raises(OperatorError) as caught:
            await key_store.open_key(store.absent)
        check_error(caught.value, store)
        assert caught.value.remedy

    with_a_store(store, case)


def test_a_setting_that_is_not_known_needs_a_person(store: StoreUnderTest) -> None:
    for wrong in ({"colour": "red"}, {name: object() for name in list(store.impatient)[:1]}):
        with store.in_this_process(), pytest.raises(OperatorError) as caught:
            backend(store.scheme)({**store.settings, **wrong})
        check_error(caught.value, store)


def test_a_store_that_is_away_opens_its_keys_when_it_is_back(store: StoreUnderTest) -> None:
    async def case(key_store: KeyStore) -> None:
        with store.failing(Fault.AWAY), pytest.raises(UnavailableError) as caught:
            await key_store.open_key(store.signer.uri)
        check_error(caught.value, store)
        key = await _open_again(key_store, store.signer)
        (result,) = await key.sign(inputs(some(store.signer.can & SIGNING)), deadline_s())
        assert isinstance(result, Signature)

    with_a_store(store, case, **store.impatient)


async def _open_again(key_store: KeyStore, each: KeyUnderTest) -> Key:
    while True:
        with contextlib.suppress(UnavailableError):  # the case's own timeout ends this
            return await key_store.open_key(each.uri)
        await asyncio.sleep(0.05)


def test_a_closed_store_is_closed_for_good(store: StoreUnderTest) -> None:
    async def case(direct: Direct) -> None:
        await direct.key_store.close()
        await direct.key_store.close()
        before = store.private_calls()
        for each in store.keys:
            key = direct.key(each)
            if each.can & SIGNING:
                results = await key.sign(inputs(some(each.can & SIGNING), 2), deadline_s())
                assert [type(result) for result in results] == [UnavailableError] * 2
            else:
                assert isinstance(key, Decrypter)
                with pytest.raises(UnavailableError):
                    await key.decrypt(bytes(each.public_key.key_size // 8), some(each.can), deadline_s())
            with pytest.raises(UnavailableError):
                await direct.key_store.open_key(each.uri)
        assert store.private_calls() == before

    run(store, case)


def test_closing_a_store_in_which_nothing_was_opened(store: StoreUnderTest) -> None:
    async def case(key_store: KeyStore) -> None:
        await key_store.close()
        with pytest.raises(UnavailableError):
            await key_store.open_key(store.signer.uri)

    with_a_store(store, case)


def test_closing_while_the_store_hangs_ends_with_the_last_deadline(store: StoreUnderTest) -> None:
    async def case(direct: Direct) -> None:
        key, mechanism = direct.key(store.signer), some(store.signer.can & SIGNING)
        await works(direct, store.signer)
        before = store.private_calls()
        with store.failing(Fault.HANGS):
            calls = [asyncio.ensure_future(key.sign(inputs(mechanism, 2), deadline_s(SHORT_S))) for _ in range(4)]
            await until(lambda: store.private_calls() > before)
            closing = asyncio.ensure_future(direct.key_store.close())
            results = [result for each in await asyncio.gather(*calls) for result in each]
            assert {type(result) for result in results} <= {DeadlineError, UnavailableError}
            assert len(results) == 8
        await asyncio.wait_for(closing, PLENTY_S)

    run(store, case)


def test_a_group_larger_than_any_queue(store: StoreUnderTest) -> None:
    async def case(direct: Direct) -> None:
        key = direct.key(store.signer)
        group = inputs(some(store.signer.can & SIGNING), 300)
        results = await key.sign(group, deadline_s())
        assert [type(result) for result in results] == [Signature] * 300

    run(store, case)


def test_a_key_is_made_once_or_not_at_all(store: StoreUnderTest) -> None:
    async def case(key_store: KeyStore) -> None:
        if not store.new:
            assert not isinstance(key_store, KeyCreator)
            return
        assert isinstance(key_store, KeyCreator)
        made = await key_store.create_key(store.new, Purpose.DECRYPTION)
        custody = made.description.custody
        assert custody.origin in (Origin.GENERATED_INSIDE, Origin.UNKNOWN)
        assert custody.export is not Export.POSSIBLE
        assert isinstance(made, Decrypter)
        with pytest.raises(OperatorError) as caught:
            await key_store.create_key(store.new, Purpose.DECRYPTION)
        check_error(caught.value, store)
        found = await key_store.open_key(store.new)
        assert found.description.public_key.fingerprint == made.description.public_key.fingerprint

    with_a_store(store, case)


def test_a_key_is_brought_in_or_refused_whole(store: StoreUnderTest) -> None:
    """What is brought in shows its origin, and not twice under one name; what is refused leaves nothing behind."""

    async def case(key_store: KeyStore) -> None:
        if not isinstance(key_store, KeyCreator):
            assert not store.new
            return
        der = rsa.generate_private_key(65537, 2048).private_bytes(
            Encoding.DER, PrivateFormat.TraditionalOpenSSL, NoEncryption()
        )
        uri = store.new.replace("object=new", "object=brought")
        if store.takes_no_key:
            with pytest.raises(BackendError) as caught:
                await key_store.import_key(uri, der)
            check_error(caught.value, store)
            with pytest.raises(OperatorError):
                await key_store.open_key(uri)
            return
        brought = await key_store.import_key(uri, der)
        assert brought.description.custody.origin is not Origin.GENERATED_INSIDE
        assert brought.description.custody.export is not Export.NEVER_POSSIBLE
        with pytest.raises(OperatorError):
            await key_store.import_key(uri, der)

    with_a_store(store, case)
