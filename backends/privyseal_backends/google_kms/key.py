"""Open keys of Google Cloud KMS: one that signs, and one that decrypts."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import Protocol

from privyseal_backends.google_kms import answers
from privyseal_backends.google_kms.credentials import Connection
from privyseal_backends.google_kms.errors import Verb, wrong_ciphertext
from privyseal_backends.google_kms.executor import Answer
from privyseal_backends.google_kms.facts import KeyFacts
from privyseal_backends.interface import (
    BackendError,
    CallerError,
    KeyDescription,
    Mechanism,
    Plaintext,
    Signature,
    SigningInput,
    SigningResult,
    UnavailableError,
)


class Use(Protocol):
    """What keeps a store open while a key is used."""

    def begin(self) -> None:
        """Raises `UnavailableError` once the store is closed."""

    def end(self) -> None:
        """The use is over."""


def store_closed() -> UnavailableError:
    """What a key gives once its store is closed."""
    return UnavailableError("store", "the connection to Cloud KMS was closed", "open the key again")


class GoogleKmsKey:
    """A key version that signs, or has no use at all: then every input is refused with the reason."""

    def __init__(
        self, connection: Connection, use: Use, facts: KeyFacts, description: KeyDescription, concurrency: int
    ) -> None:
        self._connection = connection
        self._use = use
        self._facts = facts
        self._description = description
        self._concurrency = concurrency

    @property
    def description(self) -> KeyDescription:
        """What the key is; read once, when it was opened."""
        return self._description

    async def sign(self, inputs: Sequence[SigningInput], deadline_s: float) -> Sequence[SigningResult]:
        """Sign each input in a call of its own, several at once; see `Key`. A group that was begun is finished even
        when the store closes meanwhile."""
        arrived_s = time.monotonic()
        try:
            self._use.begin()
        except UnavailableError:
            return [store_closed() for _ in inputs]
        try:
            if len(inputs) == 1:
                return [await self._sign_one(inputs[0], deadline_s, arrived_s)]
            return await self._sign_group(inputs, deadline_s, arrived_s)
        finally:
            self._use.end()

    async def _sign_group(
        self, inputs: Sequence[SigningInput], deadline_s: float, arrived_s: float
    ) -> Sequence[SigningResult]:
        results: dict[int, SigningResult] = {}
        queue = iter(enumerate(inputs))

        async def work() -> None:
            await self._sign_all(queue, results, deadline_s, arrived_s)

        workers = [asyncio.ensure_future(work()) for _ in range(min(self._concurrency, len(inputs)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        return [results[index] for index in range(len(inputs))]

    async def _sign_all(
        self,
        queue: Iterator[tuple[int, SigningInput]],
        results: dict[int, SigningResult],
        deadline_s: float,
        arrived_s: float,
    ) -> None:
        for index, signing_input in queue:
            results[index] = await self._sign_one(signing_input, deadline_s, arrived_s)

    async def _sign_one(self, signing_input: SigningInput, deadline_s: float, arrived_s: float) -> SigningResult:
        mechanism = signing_input.mechanism
        if mechanism not in self._description.mechanisms:
            return self._refuse(mechanism)
        waited_s = time.monotonic() - arrived_s
        try:
            answer = await self._request_signature(signing_input, deadline_s)
        except BackendError as error:
            return error
        return Signature(answer.value, queued_s=waited_s + answer.queued_s, store_s=answer.store_s)

    async def _request_signature(self, signing_input: SigningInput, deadline_s: float) -> Answer[bytes]:
        request = answers.sign_request(self._facts.name, signing_input)
        client = self._connection.client
        return await self._connection.caller.call(
            Verb.SIGN_RAW if signing_input.mechanism is Mechanism.TYPE1 else Verb.SIGN,
            lambda timeout_s: client.asymmetric_sign(request, retry=None, timeout=timeout_s),
            answers.signature(self._facts, self._description.public_key, signing_input),
            deadline_s,
        )

    def _refuse(self, mechanism: Mechanism) -> CallerError:
        return CallerError("mechanism", self._description.refusals[mechanism])


class GoogleKmsDecryptionKey(GoogleKmsKey):
    """A key version that decrypts."""

    async def decrypt(self, ciphertext: bytes, mechanism: Mechanism, deadline_s: float) -> Plaintext:
        """Decrypt; see `Decrypter`. A ciphertext of another length than the modulus never leaves this process."""
        if mechanism not in self._description.mechanisms:
            raise (
                self._refuse(mechanism)
                if mechanism in self._description.refusals
                else CallerError("mechanism", f"{mechanism.value} does not decrypt")
            )
        if len(ciphertext) != self._description.public_key.modulus_bytes:
            raise wrong_ciphertext()
        request = answers.decrypt_request(self._facts.name, ciphertext)
        client = self._connection.client
        self._use.begin()
        try:
            answer = await self._connection.caller.call(
                Verb.DECRYPT,
                lambda timeout_s: client.asymmetric_decrypt(request, retry=None, timeout=timeout_s),
                answers.plaintext(self._facts),
                deadline_s,
            )
        finally:
            self._use.end()
        return Plaintext(answer.value, queued_s=answer.queued_s, store_s=answer.store_s)
