"""The asynchronous client: `privyseal.aio.Client`, the calls of `privyseal.Client`, to be awaited."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

import grpc
from grpc import aio

from privyseal import _calls
from privyseal._base import (
    PROVE_AT_ONCE,
    PROVE_EVERY_S,
    PROVE_FIRST_S,
    BaseClient,
    Metadata,
    bearer,
    call_id,
    may_come,
)
from privyseal._calls import BatchResults, Call
from privyseal._channel import ChannelPlan
from privyseal._failures import request_id
from privyseal._retry import RetryPolicy, retryable
from privyseal.errors import PrivysealError, ServiceError
from privyseal.model import Key, RequestContext, SessionKey, SignatureScheme, SignedChecksum, WrappedKey, WrapScheme

if TYPE_CHECKING:
    from privyseal.transparency.receipts import Receipt

T = TypeVar("T")


class Client(BaseClient):
    """A connection to the signing service for one event loop. Many tasks may use it.

        async with Client("signing.example:443", ca="ca.pem", cert="build.pem", cert_key="build-key.pem") as client:
            signed = await client.sign_checksum(checksum, scheme=SignatureScheme.CAPGO_V3, key="app")

    Make it while the loop runs. Its arguments, deadlines, retries and errors are those of `privyseal.Client`.
    """

    def _open_channel(self, plan: ChannelPlan) -> aio.Channel:
        if plan.credentials is None:
            return aio.insecure_channel(plan.target, options=plan.options)
        return aio.secure_channel(plan.target, plan.credentials, options=plan.options)

    def _queue(self) -> asyncio.Queue[int]:
        return asyncio.Queue()

    async def close(self) -> None:
        """Close every connection; calls under way are cancelled."""
        for channel in self._channels:
            await channel.close()

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def wrap_session_key(
        self,
        session_key: bytes,
        *,
        scheme: WrapScheme | str,
        key: str | None = None,
        context: RequestContext | None = None,
        timeout_s: float | None = None,
    ) -> WrappedKey:
        """Wrap a session key: 16 bytes for CAPGO; 16, 24 or 32 for RSAES."""
        return await self._run(
            _calls.wrap_session_key(session_key, scheme, self._key(key), self._context(context)), timeout_s
        )

    async def sign_checksum(
        self,
        checksum: bytes,
        *,
        scheme: SignatureScheme | str,
        key: str | None = None,
        context: RequestContext | None = None,
        timeout_s: float | None = None,
    ) -> SignedChecksum:
        """Sign a SHA-256, 32 bytes."""
        return await self._run(
            _calls.sign_checksum(checksum, scheme, self._key(key), self._context(context)), timeout_s
        )

    async def batch_sign_checksums(
        self,
        checksums: Sequence[bytes],
        *,
        scheme: SignatureScheme | str,
        key: str | None = None,
        context: RequestContext | None = None,
        timeout_s: float | None = None,
    ) -> BatchResults:
        """Sign any number of checksums: see `privyseal.Client.batch_sign_checksums`."""
        retries = RetryPolicy(self._timeout_s(timeout_s), known=True)

        async def sign(some: Sequence[bytes]) -> BatchResults:
            return await self._batch(some, scheme, self._key(key), self._context(context), retries)

        results = await sign(checksums)
        while again := retryable(results):
            pause_s = retries.pause_of_parts_s(results)
            if pause_s is None:
                break
            await asyncio.sleep(pause_s)
            try:
                fresh = await sign([checksums[place] for place in again])
            except ServiceError:
                break  # what was signed is worth more than this error
            for place, result in zip(again, fresh, strict=True):
                results[place] = result
        return results

    async def _batch(
        self,
        checksums: Sequence[bytes],
        scheme: SignatureScheme | str,
        key: str,
        context: RequestContext | None,
        retries: RetryPolicy,
    ) -> BatchResults:
        calls = _calls.batch_sign_checksums(checksums, scheme, key, context, len(self._channels))
        if len(calls) <= 1:
            return _calls.joined([await self._run(call, retries.remaining_s) for call in calls])

        async def run(call: Call[BatchResults]) -> BatchResults:
            taken = asyncio.ensure_future(self._free.get())
            try:
                await asyncio.wait([taken], timeout=retries.remaining_s)
                # Without one, other batches have them all: gRPC reports the deadline.
                channel = taken.result() if taken.done() else None
                return await self._run(call, retries.remaining_s, channel)
            finally:
                if not taken.cancel():
                    self._free.put_nowait(taken.result())

        parts = [asyncio.ensure_future(run(call)) for call in calls]
        try:
            return _calls.joined(await asyncio.gather(*parts))
        finally:
            for part in parts:
                part.cancel()

    async def unwrap_session_key(
        self,
        wrapped_key: bytes,
        *,
        scheme: WrapScheme | str,
        key: str | None = None,
        context: RequestContext | None = None,
        timeout_s: float | None = None,
    ) -> SessionKey:
        """Recover a session key that was wrapped for a decryption key; `wrapped_key` is as long as the modulus."""
        return await self._run(
            _calls.unwrap_session_key(wrapped_key, scheme, self._key(key), self._context(context)), timeout_s
        )

    async def list_keys(self, *, timeout_s: float | None = None) -> list[Key]:
        """The keys that the caller may use, sorted by name."""
        return await self._run(_calls.list_keys(), timeout_s)

    async def get_key(self, name: str | None = None, *, timeout_s: float | None = None) -> Key:
        """One key, with its public key and custody."""
        return await self._run(_calls.get_key(self._key(name)), timeout_s)

    async def prove(self, receipt: Receipt, *, wait_s: float | None = None, timeout_s: float | None = None) -> Receipt:
        """The receipt with its proof: see `privyseal.Client.prove`."""
        return (await self.prove_all([receipt], wait_s=wait_s, timeout_s=timeout_s))[0]

    async def prove_all(
        self, receipts: Sequence[Receipt], *, wait_s: float | None = None, timeout_s: float | None = None
    ) -> list[Receipt]:
        """The receipts with their proofs: see `privyseal.Client.prove_all`."""
        if all(receipt.proven is not None for receipt in receipts):
            return list(receipts)
        deadline_s = time.monotonic() + self._wait_s(wait_s)
        await asyncio.sleep(PROVE_FIRST_S)
        turns = asyncio.Semaphore(PROVE_AT_ONCE)

        async def proven(receipt: Receipt) -> Receipt:
            async with turns:
                while receipt.proven is None:
                    try:
                        return await self._run(_calls.prove(receipt), timeout_s)
                    except ServiceError as error:
                        if not may_come(error) or time.monotonic() + PROVE_EVERY_S > deadline_s:
                            raise
                    await asyncio.sleep(PROVE_EVERY_S)
                return receipt

        pending = [asyncio.ensure_future(proven(receipt)) for receipt in receipts]
        try:
            return await asyncio.gather(*pending)
        finally:
            for each in pending:
                each.cancel()

    async def get_checkpoint(self, *, timeout_s: float | None = None) -> str:
        """The newest checkpoint: see `privyseal.Client.get_checkpoint`."""
        return await self._run(_calls.get_checkpoint(), timeout_s)

    async def _run(self, call: Call[T], timeout_s: float | None, channel: int | None = None) -> T:
        retries, name = self._retries(timeout_s), call_id()
        while True:
            metadata = (*name, *await self._metadata())
            try:
                pending = self._method(call, channel)(call.request, timeout=retries.remaining_s, metadata=metadata)
                answer = await pending
                trailing = await pending.trailing_metadata()
            except grpc.RpcError as error:
                failure = self._met(error)
                pause_s = retries.pause_s(failure)
                if pause_s is None:
                    raise retries.final_error(failure) from error
                channel = None
                await asyncio.sleep(pause_s)
            except aio.UsageError as error:
                raise PrivysealError(f"the client is closed ({error})", remedy="make a new one") from error
            else:
                self._known = True
                return call.decode(answer, request_id(trailing))

    async def _metadata(self) -> Metadata:
        if self._token is None:
            return ()
        return bearer(await asyncio.to_thread(self._token) if self._token.blocks else self._token())
