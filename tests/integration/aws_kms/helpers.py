"""What the tests of the AWS KMS backend share."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar
from urllib.parse import quote

from privyseal_backends.aws_kms.key import AwsKmsKey
from privyseal_backends.aws_kms.store import AwsKmsStore, open_store
from tests.support.ministack import REGION

T = TypeVar("T")


def uri(key: str, endpoint: str, **fields: str) -> str:
    """The URI of a key behind an endpoint."""
    if not key.startswith("arn:"):
        fields.setdefault("region", REGION)
    fields.setdefault("endpoint", endpoint)
    query = "&".join(f"{name}={quote(value, safe='')}" for name, value in fields.items())
    return f"awskms:///{key}?{query}"


def in_s(seconds: float = 20.0) -> float:
    """A deadline."""
    return time.monotonic() + seconds


@contextlib.asynccontextmanager
async def opened(**settings: object) -> AsyncIterator[AwsKmsStore]:
    """A store, closed at the end."""
    store = open_store(settings)
    try:
        yield store
    finally:
        await store.close()


def with_key(key_uri: str, use: Callable[[AwsKmsKey], Awaitable[T]], **settings: object) -> T:
    """Open a key in a store of its own, use it, close the store; without the probe, unless the settings say so."""

    async def run() -> T:
        async with opened(**{"probe": False, **settings}) as store:
            return await use(await store.open_key(key_uri))

    return asyncio.run(run())
