"""Other makers' modules pass the conformance suite, as far as each goes."""

from __future__ import annotations

import asyncio
import time

import pytest

from privyseal_backends.interface import Signature, SigningInput
from privyseal_backends.registry import backend
from tests.conformance.adapters import Direct
from tests.conformance.backend_cases import *  # noqa: F403 - the cases are this module's tests
from tests.conformance.cases import *  # noqa: F403
from tests.conformance.stores import SIGNING, StoreUnderTest
from tests.modules.stores import without_shim


@pytest.fixture
def face(store: StoreUnderTest) -> Direct:
    return Direct(store)


@pytest.fixture
def own_face(store: StoreUnderTest) -> Direct:
    return Direct(store)


def test_it_signs_without_the_shim_as_well(store: StoreUnderTest) -> None:
    """Eight callers on the module itself."""
    key = store.signer
    mechanism = min(key.can & SIGNING, key=lambda each: each.value)

    async def sign() -> None:
        key_store = backend("pkcs11")(store.settings)
        try:
            opened = await key_store.open_key(without_shim(key.uri))
            assert opened.description.public_key.key.public_numbers() == key.public_key.public_numbers()
            asked = [[SigningInput(mechanism, bytes([caller]) * 32)] * 10 for caller in range(8)]
            answers = await asyncio.gather(*(opened.sign(each, time.monotonic() + 60) for each in asked))
            assert {type(result) for each in answers for result in each} == {Signature}
        finally:
            await key_store.close()

    with store.in_this_process():
        asyncio.run(sign())
