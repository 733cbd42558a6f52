"""Ask AWS KMS, when a key is opened, whether the credentials may use it: by DryRun, which signs and decrypts nothing.

What is asked about could be answered without harm: the digest is 32 zero bytes, for which nobody knows a message, and
the ciphertext 16 zero bytes encrypted here. An endpoint that knows no DryRun (an emulator) answers it, and the answer
is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.hashes import SHA256

from privyseal_backends.aws_kms.capability import ALGORITHMS
from privyseal_backends.interface import Mechanism, OperatorError, PublicKey

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

    from privyseal_backends.aws_kms.executor import Executor

_DIGEST = bytes(32)
_SESSION_KEY = bytes(16)


async def probe(
    lane: Executor, arn: str, public_key: PublicKey, mechanisms: Collection[Mechanism], deadline_s: float
) -> Mapping[Mechanism, str]:
    """A sentence for each of the mechanisms that the credentials may not use; a policy may allow some and not others.

    Raises `OperatorError` when they may use none, and `BackendError` as any call does.
    """
    ordered = list(mechanisms)
    calls = (lane.call(_dry_run(arn, public_key, mechanism), arn, deadline_s) for mechanism in ordered)
    answers = await asyncio.gather(*calls, return_exceptions=True)
    refused: dict[Mechanism, str] = {}
    for mechanism, answer in zip(ordered, answers, strict=True):
        if isinstance(answer, OperatorError) and answer.part == "permission":
            refused[mechanism] = f"{answer.message} with {ALGORITHMS[mechanism]}; {answer.remedy}"
        elif isinstance(answer, BaseException):
            raise answer
        if len(refused) == len(ordered):
            raise answer  # type: ignore[misc]
    return refused


def _dry_run(arn: str, public_key: PublicKey, mechanism: Mechanism) -> Callable[[KMSClient], None]:
    algorithm = ALGORITHMS[mechanism]

    def run(client: KMSClient) -> None:
        try:
            if mechanism is Mechanism.OAEP_SHA256:
                oaep = padding.OAEP(mgf=padding.MGF1(SHA256()), algorithm=SHA256(), label=None)
                ciphertext = public_key.key.encrypt(_SESSION_KEY, oaep)
                client.decrypt(
                    KeyId=arn,
                    CiphertextBlob=ciphertext,
                    EncryptionAlgorithm=algorithm,  # type: ignore[arg-type]  # the stubs want literals
                    DryRun=True,
                )
            else:
                client.sign(
                    KeyId=arn,
                    Message=_DIGEST,
                    MessageType="DIGEST",
                    SigningAlgorithm=algorithm,  # type: ignore[arg-type]  # the stubs want literals
                    DryRun=True,
                )
        except ClientError as error:
            if error.response.get("Error", {}).get("Code") != "DryRunOperationException":
                raise

    return run
