"""What goes wrong on the way to AWS KMS, made by the fault proxy in front of the emulator."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.hashes import SHA256

from privyseal_backends.aws_kms.key import AwsKmsDecryptionKey
from privyseal_backends.interface import (
    BackendError,
    BusyError,
    CallerError,
    DeadlineError,
    IntegrityError,
    Key,
    Mechanism,
    OperatorError,
    Signature,
    SigningInput,
    SigningResult,
    UnavailableError,
)
from tests.fakes.fault_proxy import Answer, Cut, Delay, Fault, FaultProxy, Hang, Junk, Rewrite, throttled
from tests.integration.aws_kms.helpers import in_s, opened, uri, with_key

DIGEST = sha256(b"a bundle").digest()
PKCS1 = SigningInput(Mechanism.PKCS1_V1_5_SHA256, DIGEST)
PSS = SigningInput(Mechanism.PSS_SHA256, DIGEST)
OTHER_ARN = "arn:aws:kms:eu-west-1:111122223333:key/00000000-0000-0000-0000-000000000000"

PASSING: list[Fault] = [
    throttled(),
    Answer(500, "KMSInternalException"),
    Answer(503, "DependencyTimeoutException"),
    Answer(500, "KeyUnavailableException"),
    Answer(502, "BadGateway"),
    Junk(503),
    Junk(),
    Junk(200, b"", "application/x-amz-json-1.1"),
    Cut(),
    Cut(in_answer=True),
]


def short(value: object) -> str:
    """A fault's name in a test's name."""
    return value.code if isinstance(value, Answer) else getattr(value, "__name__", type(value).__name__)


LASTING: list[tuple[str, type[BackendError]]] = [
    ("DisabledException", OperatorError),
    ("KMSInvalidStateException", OperatorError),
    ("NotFoundException", OperatorError),
    ("AccessDeniedException", OperatorError),
    ("ExpiredTokenException", OperatorError),
    ("UnrecognizedClientException", OperatorError),
    ("InvalidKeyUsageException", CallerError),
    ("ValidationException", CallerError),
]


def sign(
    proxy: FaultProxy, key: str, *inputs: SigningInput, seconds: float = 20.0, **settings: object
) -> Sequence[SigningResult]:
    return with_key(uri(key, proxy.endpoint), lambda opened_key: opened_key.sign(inputs, in_s(seconds)), **settings)


@pytest.mark.parametrize("fault", PASSING, ids=short)
def test_what_passes_is_tried_again(proxy: FaultProxy, signing_key: str, fault: Fault) -> None:
    proxy.queue("Sign", fault)
    (result,) = sign(proxy, signing_key, PKCS1)
    assert isinstance(result, Signature)
    assert len(proxy.calls("Sign")) == 2


@pytest.mark.parametrize("fault", PASSING, ids=short)
def test_what_passes_while_a_key_is_opened_is_tried_again(proxy: FaultProxy, signing_key: str, fault: Fault) -> None:
    proxy.queue("DescribeKey", fault)
    proxy.queue("GetPublicKey", fault)
    (result,) = sign(proxy, signing_key, PKCS1)
    assert isinstance(result, Signature)


@pytest.mark.parametrize(("code", "kind"), LASTING)
def test_what_lasts_is_asked_once(proxy: FaultProxy, signing_key: str, code: str, kind: type[BackendError]) -> None:
    proxy.queue("Sign", Answer(400, code, "AWS's own words"))
    (result,) = sign(proxy, signing_key, PKCS1)
    assert type(result) is kind
    assert f"proxy-{code}" in str(result)
    assert "AWS's own words" not in str(result)
    assert len(proxy.calls("Sign")) == 1


def test_throttling_that_outlasts_the_deadline_is_busy(proxy: FaultProxy, signing_key: str) -> None:
    proxy.queue("Sign", *[throttled()] * 1000)
    (result,) = sign(proxy, signing_key, PKCS1, seconds=2.0)
    assert isinstance(result, BusyError)
    assert result.retry_after_s > 0
    assert len(proxy.calls("Sign")) > 1


def test_errors_that_outlast_the_deadline_are_unavailable(proxy: FaultProxy, signing_key: str) -> None:
    proxy.queue("Sign", *[Answer(500, "KMSInternalException")] * 1000)
    (result,) = sign(proxy, signing_key, PKCS1, seconds=1.0)
    assert isinstance(result, UnavailableError)
    assert len(proxy.calls("Sign")) > 1


def test_a_hang_is_given_up_at_the_deadline(proxy: FaultProxy, signing_key: str) -> None:
    hang = Hang()
    proxy.queue("Sign", hang)

    async def use(key: Key) -> None:
        (result,) = await key.sign([PKCS1], in_s(1.0))
        assert isinstance(result, DeadlineError)
        assert hang.arrived.is_set()
        assert not hang.let_go.is_set()
        (next_result,) = await key.sign([PKCS1], in_s())
        assert isinstance(next_result, Signature)
        hang.let_go.set()

    with_key(uri(signing_key, proxy.endpoint), use)


def test_a_hang_that_the_deadline_outlasts_is_tried_again(proxy: FaultProxy, signing_key: str) -> None:
    hang = Hang()
    proxy.queue("Sign", hang)
    (result,) = sign(proxy, signing_key, PKCS1, read_timeout_s=0.3)
    assert isinstance(result, Signature)
    assert not hang.let_go.is_set()
    assert result.store_s > 0.25  # the attempt that hung counts


def test_a_slow_answer_within_the_deadline_is_waited_for(proxy: FaultProxy, signing_key: str) -> None:
    # Timeouts below the remaining time would cut it short.
    proxy.queue("Sign", Delay(0.5))
    (result,) = sign(proxy, signing_key, PKCS1, seconds=10.0, read_timeout_s=6.0)
    assert isinstance(result, Signature)
    assert len(proxy.calls("Sign")) == 1


def test_work_that_had_not_begun_by_the_deadline_is_not_begun(proxy: FaultProxy, signing_key: str) -> None:
    hang = Hang()
    proxy.queue("Sign", hang)

    async def use(key: Key) -> None:
        first = asyncio.ensure_future(key.sign([PKCS1], in_s()))
        await until(hang.arrived)
        (second,) = await key.sign([PSS], in_s(0.2))
        assert isinstance(second, DeadlineError)
        hang.let_go.set()
        assert isinstance((await first)[0], Signature)

    with_key(uri(signing_key, proxy.endpoint), use, connections=1)
    assert [call.parameters["SigningAlgorithm"] for call in proxy.calls("Sign")] == ["RSASSA_PKCS1_V1_5_SHA_256"]


async def until(event: threading.Event) -> None:
    while not event.is_set():
        await asyncio.sleep(0.005)


def test_a_cancelled_group_begins_nothing_more(proxy: FaultProxy, signing_key: str) -> None:
    hang = Hang()
    proxy.queue("Sign", hang)

    async def run() -> None:
        async with opened(probe=False, group_connections=1) as store:
            key = await store.open_key(uri(signing_key, proxy.endpoint))
            group = asyncio.ensure_future(key.sign([PKCS1] * 20, in_s()))
            await until(hang.arrived)
            group.cancel()
            with pytest.raises(asyncio.CancelledError):
                await group
            hang.let_go.set()
        assert len(proxy.calls("Sign")) == 1

    asyncio.run(run())


def test_close_lets_what_is_in_flight_finish(proxy: FaultProxy, signing_key: str) -> None:
    hang = Hang()
    proxy.queue("Sign", hang)

    async def run() -> None:
        async with opened(probe=False, group_connections=1) as store:
            key = await store.open_key(uri(signing_key, proxy.endpoint))
            group = asyncio.ensure_future(key.sign([PKCS1] * 3, in_s()))
            await until(hang.arrived)
            closing = asyncio.ensure_future(store.close())
            await asyncio.sleep(0.05)
            assert not closing.done()
            (late,) = await key.sign([PKCS1], in_s())
            assert isinstance(late, UnavailableError)
            hang.let_go.set()
            assert [type(result) for result in await group] == [Signature] * 3
            await closing

    asyncio.run(run())


def test_one_bad_input_fails_alone(proxy: FaultProxy, signing_key: str) -> None:
    proxy.queue("Sign", Answer(400, "AccessDeniedException"), throttled(), Cut())
    results = sign(proxy, signing_key, *[PKCS1] * 8)
    assert sum(isinstance(result, Signature) for result in results) == 7
    assert sum(isinstance(result, OperatorError) for result in results) == 1


def test_a_group_at_its_deadline_has_a_result_for_each_input(proxy: FaultProxy, signing_key: str) -> None:
    proxy.queue("Sign", *[Hang() for _ in range(8)])
    results = sign(proxy, signing_key, *[PKCS1] * 50, seconds=0.3, group_connections=8, read_timeout_s=0.5)
    assert [type(result) for result in results] == [DeadlineError] * 50
    assert len(proxy.calls("Sign")) <= 8


def changed(**fields: object) -> Rewrite:
    """The answer with these fields; None takes one away."""

    def change(answer: dict[str, Any]) -> Mapping[str, Any]:
        return {name: value for name, value in {**answer, **fields}.items() if value is not None}

    return Rewrite(change)


def broken(answer: dict[str, Any]) -> dict[str, Any]:
    signature = answer["Signature"]
    return {**answer, "Signature": ("B" if signature[0] == "A" else "A") + signature[1:]}


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (changed(KeyId=OTHER_ARN), "another KeyId"),
        (changed(KeyId="alias/app"), "another KeyId"),
        (changed(KeyId=None), "another KeyId"),
        (changed(SigningAlgorithm="RSASSA_PSS_SHA_256"), "another SigningAlgorithm"),
        (Junk(200, b'{"KeyId": 1}', "application/x-amz-json-1.1"), "another KeyId"),
        (Junk(200, b'{"Signature": "A"}', "application/x-amz-json-1.1"), "not known"),
        (changed(SigningAlgorithm=None), "another SigningAlgorithm"),
        (changed(Signature=None), "no Signature"),
        (changed(Signature=""), "does not verify"),
        (changed(Signature="AAAA"), "does not verify"),
        (Rewrite(broken), "does not verify"),
    ],
)
def test_a_signature_that_is_not_true_is_dropped(proxy: FaultProxy, signing_key: str, fault: Fault, words: str) -> None:
    proxy.queue("Sign", fault)
    (result,) = sign(proxy, signing_key, PKCS1)
    assert isinstance(result, IntegrityError)
    assert words in result.message
    assert len(proxy.calls("Sign")) == 1


def described(**fields: object) -> Rewrite:
    return Rewrite(lambda answer: {"KeyMetadata": {**answer["KeyMetadata"], **fields}})


@pytest.mark.parametrize(
    ("operation", "fault", "words"),
    [
        ("DescribeKey", described(Arn=OTHER_ARN), "described another key"),
        ("DescribeKey", described(Arn=""), "described another key"),
        ("DescribeKey", described(KeySpec="RSA_4096"), "another KeySpec"),
        ("DescribeKey", Rewrite(lambda _: {"KeyMetadata": {}}), "described another key"),
        ("DescribeKey", Junk(200, b"[]", "application/x-amz-json-1.1"), "not known"),
        ("GetPublicKey", changed(KeyId=OTHER_ARN), "another KeyId"),
        ("GetPublicKey", changed(KeyUsage="ENCRYPT_DECRYPT"), "another KeyUsage"),
        ("GetPublicKey", changed(PublicKey="AAAA"), "is not one"),
        ("GetPublicKey", changed(PublicKey=None), "no PublicKey"),
    ],
)
def test_a_key_that_is_not_described_truly_is_not_opened(
    proxy: FaultProxy, signing_key: str, operation: str, fault: Fault, words: str
) -> None:
    proxy.queue(operation, fault)
    with pytest.raises(IntegrityError, match=words):
        sign(proxy, signing_key, PKCS1)
    assert not proxy.calls("Sign")


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (changed(KeyId=OTHER_ARN), IntegrityError),
        (changed(EncryptionAlgorithm="RSAES_OAEP_SHA_1"), IntegrityError),
        (changed(Plaintext=None), IntegrityError),
        (Answer(400, "AccessDeniedException"), OperatorError),
        (Answer(400, "IncorrectKeyException"), CallerError),
        (Hang(), DeadlineError),
    ],
    ids=short,
)
def test_decryption_that_fails(proxy: FaultProxy, decryption_key: str, fault: Fault, kind: type[BackendError]) -> None:
    proxy.queue("Decrypt", fault)

    async def use(key: Key) -> None:
        assert isinstance(key, AwsKmsDecryptionKey)
        wrapped = key.description.public_key.key.encrypt(bytes(16), OAEP)
        with pytest.raises(BackendError) as caught:
            await key.decrypt(wrapped, Mechanism.OAEP_SHA256, in_s(0.5 if kind is DeadlineError else 20.0))
        assert type(caught.value) is kind
        again = await key.decrypt(wrapped, Mechanism.OAEP_SHA256, in_s())
        assert again.value == bytes(16)

    with_key(uri(decryption_key, proxy.endpoint), use, read_timeout_s=1.0)


OAEP = padding.OAEP(mgf=padding.MGF1(SHA256()), algorithm=SHA256(), label=None)
PROBED: list[tuple[list[Fault], set[Mechanism]]] = [
    ([Answer(412, "DryRunOperationException")] * 2, {PKCS1.mechanism, PSS.mechanism}),
    ([Answer(400, "AccessDeniedException"), Answer(412, "DryRunOperationException")], {PSS.mechanism}),
    ([throttled(), throttled(), *[Answer(412, "DryRunOperationException")] * 2], {PKCS1.mechanism, PSS.mechanism}),
]


@pytest.mark.parametrize(("faults", "left"), PROBED)
def test_the_probe_learns_what_the_credentials_may_do(
    proxy: FaultProxy, signing_key: str, faults: list[Fault], left: set[Mechanism]
) -> None:
    proxy.queue("Sign", *faults)

    async def use(key: Key) -> None:
        asked = [call.parameters["SigningAlgorithm"] for call in proxy.calls("Sign")]
        refused = [
            mechanism for mechanism in (PKCS1.mechanism, PSS.mechanism) if mechanism not in key.description.mechanisms
        ]
        assert len(key.description.mechanisms) == len(left)
        for mechanism in refused:
            assert "may not call Sign" in key.description.refusals[mechanism]
            assert asked[0] in key.description.refusals[mechanism]
        assert all(call.parameters["DryRun"] is True for call in proxy.calls("Sign"))

    with_key(uri(signing_key, proxy.endpoint), use, probe=True)


@pytest.mark.parametrize(
    ("faults", "kind", "words", "open_timeout_s"),
    [
        ([Answer(400, "AccessDeniedException")] * 2, OperatorError, "may not call Sign", 20.0),
        ([Answer(400, "DisabledException")] * 2, OperatorError, "is disabled", 20.0),
        ([throttled()] * 1000, BusyError, "throttles", 2.0),
    ],
)
def test_a_key_that_the_probe_cannot_use_is_not_opened(
    proxy: FaultProxy,
    signing_key: str,
    faults: list[Fault],
    kind: type[BackendError],
    words: str,
    open_timeout_s: float,
) -> None:
    proxy.queue("Sign", *faults)
    with pytest.raises(kind, match=words):
        sign(proxy, signing_key, PKCS1, probe=True, open_timeout_s=open_timeout_s)


@pytest.mark.parametrize("operation", ["DescribeKey", "GetPublicKey"])
def test_a_key_without_permission_is_not_opened(proxy: FaultProxy, signing_key: str, operation: str) -> None:
    proxy.queue(operation, Answer(400, "AccessDeniedException"))
    with pytest.raises(OperatorError, match=f"kms:{operation}"):
        sign(proxy, signing_key, PKCS1)


def test_a_store_that_is_away_is_unavailable_and_opens_when_it_is_back(proxy: FaultProxy, signing_key: str) -> None:
    async def run() -> None:
        async with opened(probe=False, open_timeout_s=0.3) as store:
            proxy.queue("DescribeKey", *[Cut()] * 1000)
            with pytest.raises(UnavailableError):
                await store.open_key(uri(signing_key, proxy.endpoint))
            proxy.clear()
            # More than one: a late try of the opening before may take the first.
            proxy.queue("DescribeKey", *[Hang()] * 10)
            with pytest.raises(UnavailableError, match="did not answer in time"):
                await store.open_key(uri(signing_key, proxy.endpoint))
            proxy.clear()
        async with opened(probe=False) as store:
            key = await store.open_key(uri(signing_key, proxy.endpoint))
            assert isinstance((await key.sign([PKCS1], in_s()))[0], Signature)

    asyncio.run(run())


def test_an_endpoint_that_nobody_serves_is_unavailable(signing_key: str, unused_endpoint: str) -> None:
    async def run() -> None:
        async with opened(open_timeout_s=0.5) as store:
            with pytest.raises(UnavailableError):
                await store.open_key(uri(signing_key, unused_endpoint))

    asyncio.run(run())
