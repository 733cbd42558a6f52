"""What the backend's tests share: a store on the fake, inputs, and a coroutine's run."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from privyseal_backends.google_kms.key import GoogleKmsKey
from privyseal_backends.google_kms.store import GoogleKmsStore, open_store
from privyseal_backends.interface import Mechanism, SigningInput
from tests.fakes.google_kms import FakeKms

RAW, PKCS1, PSS = "RSA_SIGN_RAW_PKCS1_2048", "RSA_SIGN_PKCS1_2048_SHA256", "RSA_SIGN_PSS_2048_SHA256"
OAEP, OAEP_SHA1 = "RSA_DECRYPT_OAEP_2048_SHA256", "RSA_DECRYPT_OAEP_2048_SHA1"

Value = TypeVar("Value")


def run(awaitable: Awaitable[Value]) -> Value:
    """Run to the end, and never for ever."""

    async def bounded() -> Value:
        return await asyncio.wait_for(awaitable, 60)

    return asyncio.run(bounded())


def within(seconds: float) -> float:
    """A deadline."""
    return time.monotonic() + seconds


def uri(fake: FakeKms, name: str) -> str:
    """A key's URI on the fake."""
    return f"gcpkms://{name}?endpoint={fake.endpoint}"


def digest(mechanism: Mechanism = Mechanism.PKCS1_V1_5_SHA256) -> SigningInput:
    """Something to sign, never the same."""
    return SigningInput(mechanism, os.urandom(32))


@asynccontextmanager
async def store(**settings: Any) -> AsyncIterator[GoogleKmsStore]:
    """A store that is closed in the end."""
    made = open_store({"attempt_timeout_s": 5, **settings})
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def opened(
    fake: FakeKms, algorithm: str = PKCS1, level: str = "SOFTWARE", **settings: Any
) -> AsyncIterator[GoogleKmsKey]:
    """A new key of the fake, open. The calls that opening made are forgotten."""
    name = fake.add(algorithm, level)
    async with store(**settings) as made:
        key = await made.open_key(uri(fake, name))
        fake.calls.clear()
        yield key
