"""Open keys of AWS KMS: one that signs, and one that decrypts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING

from privyseal_backends.aws_kms.answers import answer_bytes, check_answer, request_id
from privyseal_backends.aws_kms.capability import ALGORITHMS
from privyseal_backends.aws_kms.errors import BAD_CIPHERTEXT
from privyseal_backends.aws_kms.executor import Executor, Timed
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
from privyseal_backends.verification import verify

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient


class AwsKmsKey:
    """An open signing key, pinned by its ARN: an alias that is moved later does not move it."""

    def __init__(self, lane: Executor, description: KeyDescription, group_connections: int) -> None:
        self._lane = lane
        self._description = description
        self._group_connections = group_connections

    @property
    def description(self) -> KeyDescription:
        """What the key is; its `key_version` is the key ARN."""
        return self._description

    async def sign(self, inputs: Sequence[SigningInput], deadline_s: float) -> Sequence[SigningResult]:
        """See `privyseal_backends.interface.Key.sign`. The inputs go out side by side, a few at a time."""
        results: dict[int, SigningResult] = {}
        waiting = iter(enumerate(inputs))

        async def take_turns() -> None:
            for index, signing_input in waiting:
                results[index] = await self._sign_one(signing_input, deadline_s)

        try:
            with self._lane.in_flight():
                turns = min(len(inputs), self._group_connections)
                await asyncio.gather(*(take_turns() for _ in range(turns)))
        except UnavailableError as closed:
            return [closed] * len(inputs)
        return [results[index] for index in range(len(inputs))]

    async def _sign_one(self, signing_input: SigningInput, deadline_s: float) -> SigningResult:
        try:
            self._check_mechanism(signing_input.mechanism)
            signed = await self._lane.call(
                lambda client: self._sign(client, signing_input),
                self._description.key_version,
                deadline_s,
                metered=True,
            )
        except BackendError as error:
            return error
        value, request = signed.value
        return Signature(value, request, signed.queued_s, signed.store_s)

    def _check_mechanism(self, mechanism: Mechanism) -> None:
        if mechanism not in self._description.mechanisms:
            raise CallerError(
                "mechanism", f"the key does not do {mechanism.value}", self._description.refusals[mechanism]
            )

    def _sign(self, client: KMSClient, signing_input: SigningInput) -> tuple[bytes, str]:
        arn, algorithm = self._description.key_version, ALGORITHMS[signing_input.mechanism]
        answer = client.sign(
            KeyId=arn,
            Message=signing_input.data,
            MessageType="DIGEST",
            SigningAlgorithm=algorithm,  # type: ignore[arg-type]  # the stubs want literals
        )
        check_answer(answer, {"KeyId": arn, "SigningAlgorithm": algorithm})
        signature = answer_bytes(answer, "Signature")
        verify(self._description.public_key, signing_input, signature)
        return signature, request_id(answer)


class AwsKmsDecryptionKey(AwsKmsKey):
    """An open decryption key, pinned by its ARN. It signs nothing: every input of `sign` gives `CallerError`."""

    async def decrypt(self, ciphertext: bytes, mechanism: Mechanism, deadline_s: float) -> Plaintext:
        """See `privyseal_backends.interface.Decrypter.decrypt`."""
        with self._lane.in_flight():
            self._check_mechanism(mechanism)
            if len(ciphertext) != self._description.public_key.modulus_bytes:
                raise CallerError(*BAD_CIPHERTEXT)
            opened: Timed[tuple[bytes, str]] = await self._lane.call(
                lambda client: self._decrypt(client, ciphertext, mechanism),
                self._description.key_version,
                deadline_s,
                metered=True,
            )
        value, request = opened.value
        return Plaintext(value, request, opened.queued_s, opened.store_s)

    def _decrypt(self, client: KMSClient, ciphertext: bytes, mechanism: Mechanism) -> tuple[bytes, str]:
        arn, algorithm = self._description.key_version, ALGORITHMS[mechanism]
        answer = client.decrypt(
            KeyId=arn,
            CiphertextBlob=ciphertext,
            EncryptionAlgorithm=algorithm,  # type: ignore[arg-type]  # the stubs want literals
        )
        check_answer(answer, {"KeyId": arn, "EncryptionAlgorithm": algorithm})
        return answer_bytes(answer, "Plaintext"), request_id(answer)
