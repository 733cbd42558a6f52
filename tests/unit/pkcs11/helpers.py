"""What the tests of the PKCS#11 backend share."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from privyseal_backends.interface import (
    BackendError,
    Key,
    Mechanism,
    Signature,
    SigningInput,
    SigningResult,
    UnavailableError,
)
from privyseal_backends.pkcs11.store import Pkcs11Store, open_store

VECTORS = Path(__file__).parents[2] / "vectors"


@contextlib.asynccontextmanager
async def opened(**settings: object) -> AsyncIterator[Pkcs11Store]:
    """A store that is closed again, whatever happens."""
    store = open_store(settings)
    try:
        yield store
    finally:
        await store.close()


def in_time() -> float:
    """A deadline that only a hang would miss."""
    return time.monotonic() + 60


def type1(number: int = 1) -> list[SigningInput]:
    """`number` different inputs."""
    return [SigningInput(Mechanism.TYPE1, index.to_bytes(32, "big")) for index in range(number)]


def kinds(results: Sequence[SigningResult]) -> list[str]:
    """What became of each input, by the name of its type."""
    return [type(result).__name__ for result in results]


def values(results: Sequence[SigningResult]) -> list[bytes]:
    """The signatures; raises the first error among the results."""
    for result in results:
        if isinstance(result, BackendError):
            raise result
    return [result.value for result in results if isinstance(result, Signature)]


async def until_it_signs(key: Key) -> bytes:
    """Sign until it goes well, as a caller does who was told to come again; the signature."""
    while True:
        (result,) = await key.sign(type1(), in_time())
        if isinstance(result, Signature):
            return result.value
        assert isinstance(result, UnavailableError), result
        assert 0.1 <= result.retry_after_s <= 2
        await asyncio.sleep(0.01)


async def until(condition: Callable[[], bool]) -> None:
    """Give the event loop to others until `condition` holds."""
    while not condition():
        await asyncio.sleep(0.002)
