"""The blocking client."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

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
    from privyseal.sealing import SealedBundle
    from privyseal.transparency.receipts import Receipt

T = TypeVar("T")


class Client(BaseClient):
    """A connection to the signing service, or several. Many threads may use one; after a fork, make a new one.

        with Client("signing.example:443", ca="ca.pem", cert="build.pem", cert_key="build-key.pem") as client:
            signed = client.sign_checksum(checksum, scheme=SignatureScheme.CAPGO_V3, key="app")

    `server` is HOST:PORT, or dns:///HOST:PORT to go round all addresses that the host has. `channels` is the number of
    connections: calls and the parts of a batch go over all of them, since one connection always reaches the same worker
    of a service. `ca` is a PEM file of the certificates that the service's may be signed with; without it, the
    system's. The caller proves itself by `cert` and `cert_key`, PEM files, or by one of `token`, `token_file` (read
    again for every call) and `token_command` (a program that prints a token). `insecure` is without TLS, to loopback
    alone. `key` and `context` are used by every call that names none; `timeout_s` bounds each call in seconds, its
    retries included. UNAVAILABLE, CANCELLED that the caller did not cause, and RESOURCE_EXHAUSTED with a delay are
    retried until then, with jitter and no sooner than the service allows; a service that never answered, for two
    seconds.

    A scheme is a member of its enum or that member's value, such as "capgo-v3"; InputError names those that there are.

    A call takes a sixth to a quarter less CPU time with GRPC_EXPERIMENTS=-event_engine_client in the environment before
    gRPC is imported: the thread that waits for an answer then waits for the connection too, and nobody has to wake it.

    Making a client reads the files and raises ConfigurationError or FileUnusableError; it does not connect. Every call
    raises a class of `privyseal.errors.ServiceError`.
    """

    def _open_channel(self, plan: ChannelPlan) -> grpc.Channel:
        if plan.credentials is None:
            return grpc.insecure_channel(plan.target, options=plan.options)
        return grpc.secure_channel(plan.target, plan.credentials, options=plan.options)

    def _queue(self) -> queue.SimpleQueue[int]:
        return queue.SimpleQueue()

    def close(self) -> None:
        """Close every connection; calls under way end with InterruptedCallError."""
        for channel in self._channels:
            channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def wrap_session_key(
        self,
        session_key: bytes,
        *,
        scheme: WrapScheme | str,
        key: str | None = None,
        context: RequestContext | None = None,
        timeout_s: float | None = None,
    ) -> WrappedKey:
        """Wrap a session key: 16 bytes for CAPGO; 16, 24 or 32 for RSAES."""
        return self._run(
            _calls.wrap_session_key(session_key, scheme, self._key(key), self._context(context)), timeout_s
        )

    def sign_checksum(
        self,
        checksum: bytes,
        *,
        scheme: SignatureScheme | str,
        key: str | None = None,
        context: RequestContext | None = None,
        timeout_s: float | None = None,
    ) -> SignedChecksum:
        """Sign a SHA-256, 32 bytes."""
        return self._run(_calls.sign_checksum(checksum, scheme, self._key(key), self._context(context)), timeout_s)

    def batch_sign_checksums(
        self,
        checksums: Sequence[bytes],
        *,
        scheme: SignatureScheme | str,
        key: str | None = None,
        context: RequestContext | None = None,
        timeout_s: float | None = None,
    ) -> BatchResults:
        """Sign any number of checksums, 32 bytes each, with one key. Returns a signature or an error for each in order.

        More than 2,000 go in several calls inside one `timeout_s`: one after another over a single channel, else in
        parts. A channel carries one part of all the client's batches at a time, and the next goes over whichever is
        free first. When one of these calls fails as a whole, its error is raised and no results are returned. Single
        checksums that met UNAVAILABLE or RESOURCE_EXHAUSTED are sent again, as long as there is time.
        """
        retries = RetryPolicy(self._timeout_s(timeout_s), known=True)

        def sign(some: Sequence[bytes]) -> BatchResults:
            return self._batch(some, scheme, self._key(key), self._context(context), retries)

        results = sign(checksums)
        while again := retryable(results):
            pause_s = retries.pause_of_parts_s(results)
            if pause_s is None:
                break
            time.sleep(pause_s)
            try:
                fresh = sign([checksums[place] for place in again])
            except ServiceError:
                break  # what was signed is worth more than this error
            for place, result in zip(again, fresh, strict=True):
                results[place] = result
        return results

    def _batch(
        self,
        checksums: Sequence[bytes],
        scheme: SignatureScheme | str,
        key: str,
        context: RequestContext | None,
        retries: RetryPolicy,
    ) -> BatchResults:
        channels = len(self._channels)
        calls = _calls.batch_sign_checksums(checksums, scheme, key, context, channels)

        def run(call: Call[BatchResults]) -> BatchResults:
            try:
                channel = self._free.get(timeout=retries.remaining_s)
            except queue.Empty:  # other batches have them all: gRPC reports the deadline
                return self._run(call, retries.remaining_s)
            try:
                return self._run(call, retries.remaining_s, channel)
            finally:
                self._free.put(channel)

        if len(calls) <= 1:
            return _calls.joined(self._run(call, retries.remaining_s) for call in calls)
        if channels == 1:
            return _calls.joined(map(run, calls))
        with ThreadPoolExecutor(min(channels, len(calls)), thread_name_prefix="privyseal-batch") as threads:
            return _calls.joined(threads.map(run, calls))

    def unwrap_session_key(
        self,
        wrapped_key: bytes,
        *,
        scheme: WrapScheme | str,
        key: str | None = None,
        context: RequestContext | None = None,
        timeout_s: float | None = None,
    ) -> SessionKey:
        """Recover a session key that was wrapped for a decryption key; `wrapped_key` is as long as the modulus."""
        return self._run(
            _calls.unwrap_session_key(wrapped_key, scheme, self._key(key), self._context(context)), timeout_s
        )

    def list_keys(self, *, timeout_s: float | None = None) -> list[Key]:
        """The keys that the caller may use, sorted by name."""
        return self._run(_calls.list_keys(), timeout_s)

    def get_key(self, name: str | None = None, *, timeout_s: float | None = None) -> Key:
        """One key, with its public key and custody."""
        return self._run(_calls.get_key(self._key(name)), timeout_s)

    def prove(self, receipt: Receipt, *, wait_s: float | None = None, timeout_s: float | None = None) -> Receipt:
        """The receipt with its proof, which is there within a second of the answer.

        It is asked for again until `wait_s` have passed (by default 10, or the client's `timeout_s` where that is
        less); then NotFoundError is raised. The proof is held against the receipt; whether the log's key signed the
        checkpoint is for `privyseal.transparency.receipts.check`.
        """
        return self.prove_all([receipt], wait_s=wait_s, timeout_s=timeout_s)[0]

    def prove_all(
        self, receipts: Sequence[Receipt], *, wait_s: float | None = None, timeout_s: float | None = None
    ) -> list[Receipt]:
        """The receipts with their proofs, in order, as `prove` has them, some at a time; those that have a proof
        already stay as they are. The first that does not come is raised."""
        missing = sum(receipt.proven is None for receipt in receipts)
        if not missing:
            return list(receipts)
        deadline_s = time.monotonic() + self._wait_s(wait_s)
        time.sleep(PROVE_FIRST_S)

        def proven(receipt: Receipt) -> Receipt:
            while receipt.proven is None:
                try:
                    return self._run(_calls.prove(receipt), timeout_s)
                except ServiceError as error:
                    if not may_come(error) or time.monotonic() + PROVE_EVERY_S > deadline_s:
                        raise
                time.sleep(PROVE_EVERY_S)
            return receipt

        if missing == 1:
            return list(map(proven, receipts))
        with ThreadPoolExecutor(min(PROVE_AT_ONCE, missing), thread_name_prefix="privyseal-prove") as threads:
            return list(threads.map(proven, receipts))

    def get_checkpoint(self, *, timeout_s: float | None = None) -> str:
        """The newest checkpoint of the audit trail of the replica that answers: a C2SP signed note."""
        return self._run(_calls.get_checkpoint(), timeout_s)

    def seal_bundle(
        self,
        path: str | os.PathLike[str],
        *,
        scheme: SignatureScheme | str = SignatureScheme.CAPGO_V3,
        key: str | None = None,
        output: str | os.PathLike[str] | None = None,
        context: RequestContext | None = None,
        progress: Callable[[int], None] | None = None,
        require_receipts: bool = False,
    ) -> SealedBundle:
        """Seal the zip at `path` into `output`: see `privyseal.sealing.seal_bundle`."""
        from privyseal.sealing import seal_bundle  # noqa: PLC0415 - a client that only signs needs no cipher

        return seal_bundle(
            lambda: self,
            Path(path),
            scheme=_calls.scheme_of(SignatureScheme, scheme),
            key=key,
            output=None if output is None else Path(output),
            context=context,
            progress=progress,
            require_receipts=require_receipts,
        )

    def _run(self, call: Call[T], timeout_s: float | None, channel: int | None = None) -> T:
        retries, name = self._retries(timeout_s), call_id()
        while True:
            try:
                answer, info = self._method(call, channel).with_call(
                    call.request, timeout=retries.remaining_s, metadata=(*name, *self._metadata())
                )
            except grpc.RpcError as error:
                failure = self._met(error)
                pause_s = retries.pause_s(failure)
                if pause_s is None:
                    raise retries.final_error(failure) from error
                channel = None
                time.sleep(pause_s)
            except ValueError as error:
                raise closed(error) from error
            else:
                self._known = True
                return call.decode(answer, request_id(info.trailing_metadata()))

    def _metadata(self) -> Metadata:
        return bearer(self._token()) if self._token is not None else ()


def closed(error: Any) -> PrivysealError:
    """What grpc's ValueError of a closed channel means."""
    return PrivysealError(f"the client is closed ({error})", remedy="make a new one")
