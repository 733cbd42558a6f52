"""Whose credentials, which Region, which endpoint, which quota."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import boto3
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from privyseal_backends.aws_kms.key import AwsKmsDecryptionKey
from privyseal_backends.interface import (
    BusyError,
    Key,
    Mechanism,
    OperatorError,
    Signature,
    SigningInput,
    UnavailableError,
)
from tests.fakes.fault_proxy import Answer, Cut, FaultProxy, throttled
from tests.integration.aws_kms.helpers import in_s, opened, uri, with_key
from tests.support.aws_environment import SECRET
from tests.support.ministack import ACCOUNT, REGION, Ministack

PKCS1 = SigningInput(Mechanism.PKCS1_V1_5_SHA256, bytes(32))
ROLE = f"arn:aws:iam::{ACCOUNT}:role/signer"
OAEP = padding.OAEP(mgf=padding.MGF1(SHA256()), algorithm=SHA256(), label=None)


async def sign_one(key: Key) -> Signature:
    (result,) = await key.sign([PKCS1], in_s())
    assert isinstance(result, Signature)
    return result


def access_key(proxy: FaultProxy, operation: str) -> str:
    """The access key id that the last call of an operation was signed with."""
    return proxy.calls(operation)[-1].headers["Authorization"].partition("Credential=")[2].partition("/")[0]


@pytest.fixture
def role(ministack: Ministack) -> str:
    """A role that the emulator knows."""
    iam = boto3.client(
        "iam",
        region_name=REGION,
        endpoint_url=ministack.endpoint,
        aws_access_key_id=ACCOUNT,
        aws_secret_access_key="an administrator's",
    )
    policy = (
        '{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":{"AWS":"*"},"Action":"sts:AssumeRole"}]}'
    )
    try:
        iam.create_role(RoleName="signer", AssumeRolePolicyDocument=policy)
    except iam.exceptions.EntityAlreadyExistsException:
        return ROLE
    return ROLE


def test_the_ordinary_chain_signs_the_requests(proxy: FaultProxy, signing_key: str) -> None:
    with_key(uri(signing_key, proxy.endpoint), sign_one)
    assert access_key(proxy, "Sign") == ACCOUNT
    assert f"/{REGION}/kms/" in proxy.calls("Sign")[-1].headers["Authorization"]


def test_a_profile(proxy: FaultProxy, ministack: Ministack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    other = "444455556666"
    arn = ministack.kms(account=other).create_key(KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["Arn"]
    Path(os.environ["AWS_SHARED_CREDENTIALS_FILE"]).write_text(
        f"[the farm]\naws_access_key_id = {other}\naws_secret_access_key = {SECRET}\n"
    )
    with_key(uri(arn, proxy.endpoint, profile="the farm"), sign_one)
    assert access_key(proxy, "Sign") == other
    with_key(uri(arn, proxy.endpoint), sign_one, profile="the farm")


def test_a_role_is_assumed_and_nothing_else_is_used(proxy: FaultProxy, signing_key: str, role: str) -> None:
    async def use(key: Key) -> None:
        await sign_one(key)
        await sign_one(key)

    with_key(uri(signing_key, proxy.endpoint, sts_endpoint=proxy.endpoint, role=role), use)
    (assumed,) = proxy.calls("AssumeRole")
    assert assumed.parameters["RoleArn"] == role
    assert assumed.parameters["RoleSessionName"] == "privyseal"
    assert access_key(proxy, "AssumeRole") == ACCOUNT
    for operation in ("DescribeKey", "GetPublicKey", "Sign"):
        assert access_key(proxy, operation).startswith("ASIA")
        assert proxy.calls(operation)[-1].headers["X-Amz-Security-Token"]


@pytest.mark.parametrize("code", ["AccessDenied", "ExpiredToken", "InvalidClientTokenId"])
def test_a_refused_role_falls_back_on_nothing(proxy: FaultProxy, signing_key: str, code: str) -> None:
    proxy.queue("AssumeRole", Answer(403, code, f"AWS's own words, {SECRET}"))
    with pytest.raises(OperatorError, match=code) as caught:
        with_key(uri(signing_key, proxy.endpoint, sts_endpoint=proxy.endpoint, role=ROLE), sign_one)
    assert caught.value.part == "credentials"
    assert SECRET not in str(caught.value)
    assert [call.operation for call in proxy.calls()] == ["AssumeRole"]


def test_sts_is_tried_again(proxy: FaultProxy, signing_key: str, role: str) -> None:
    proxy.queue("AssumeRole", Answer(400, "Throttling"), Answer(503, "ServiceUnavailable"), Cut())
    with_key(uri(signing_key, proxy.endpoint, sts_endpoint=proxy.endpoint, role=role), sign_one)
    assert len(proxy.calls("AssumeRole")) == 4


def test_without_credentials(proxy: FaultProxy, signing_key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(OperatorError, match="no AWS credentials"):
        with_key(uri(signing_key, proxy.endpoint), sign_one)
    with pytest.raises(OperatorError, match="no AWS credentials"):
        with_key(uri(signing_key, proxy.endpoint, sts_endpoint=proxy.endpoint, role=ROLE), sign_one)
    assert not proxy.calls()


def test_half_of_the_credentials(proxy: FaultProxy, signing_key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(OperatorError, match="credentials could not be had"):
        with_key(uri(signing_key, proxy.endpoint), sign_one)


def test_a_profile_that_is_not_there(proxy: FaultProxy, signing_key: str) -> None:
    with pytest.raises(OperatorError, match="configuration cannot be used"):
        with_key(uri(signing_key, proxy.endpoint, profile="nobody"), sign_one)


def test_a_profile_that_asks_for_a_second_factor(proxy: FaultProxy, signing_key: str) -> None:
    Path(os.environ["AWS_CONFIG_FILE"]).write_text(
        f"[profile person]\nrole_arn = {ROLE}\nsource_profile = default\nmfa_serial = arn:aws:iam::{ACCOUNT}:mfa/me\n"
    )
    with pytest.raises(OperatorError, match="second factor"):
        with_key(uri(signing_key, proxy.endpoint, profile="person"), sign_one)
    assert not proxy.calls()


def test_the_region_of_the_aws_configuration(
    ministack: Ministack, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    ministack.create_key(alias="somewhere")
    without = f"awskms:///alias/somewhere?endpoint={proxy.endpoint}"
    with pytest.raises(OperatorError, match="no AWS Region"):
        with_key(without, sign_one)
    with_key(without, sign_one, region=REGION)
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    with_key(without, sign_one)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-north-1")
    with pytest.raises(OperatorError, match="has no key"):
        with_key(without, sign_one)


def test_fips_with_an_endpoint_that_is_not_is_refused(proxy: FaultProxy, signing_key: str) -> None:
    with pytest.raises(OperatorError, match="not a FIPS one"):
        with_key(uri(signing_key, proxy.endpoint, fips="true"), sign_one)
    assert not proxy.calls()


@pytest.fixture
def untrusted_endpoint(tmp_path: Path) -> Iterator[str]:
    """An https endpoint with a certificate that nobody trusts."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, SHA256())
    )
    pem = tmp_path / "untrusted.pem"
    pem.write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()) + certificate.public_bytes(Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    server = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    server.daemon_threads = True
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]  # refused handshakes are what we want
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"https://localhost:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_certificate_that_is_not_trusted(untrusted_endpoint: str, signing_key: str) -> None:
    with pytest.raises(OperatorError, match="certificate is not one that this machine trusts"):
        with_key(uri(signing_key, untrusted_endpoint), sign_one)


def test_plain_http_where_tls_is_meant_is_unavailable(proxy: FaultProxy, signing_key: str) -> None:
    with pytest.raises(UnavailableError):
        with_key(uri(signing_key, proxy.endpoint.replace("http:", "https:")), sign_one, open_timeout_s=0.5)


class Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(0)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(f"{record.name} {logging.Formatter().format(record)}")


@pytest.fixture
def records() -> Iterator[Records]:
    """Every record that is logged, down to DEBUG."""
    handler, root = Records(), logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield handler
    root.setLevel(level)
    root.removeHandler(handler)


def test_no_secret_reaches_a_log_however_much_is_logged(
    proxy: FaultProxy, decryption_key: str, role: str, records: Records
) -> None:
    session_key = bytes(range(16))
    secrets: set[str] = {SECRET, "AAECAwQFBgcICQoLDA0ODw==", repr(session_key)}
    proxy.queue("Decrypt", throttled(), Answer(400, "InvalidSignatureException"))

    async def use(key: Key) -> None:
        assert isinstance(key, AwsKmsDecryptionKey)
        wrapped = key.description.public_key.key.encrypt(session_key, OAEP)
        with pytest.raises(OperatorError) as caught:
            await key.decrypt(wrapped, Mechanism.OAEP_SHA256, in_s())
        opened_key = await key.decrypt(wrapped, Mechanism.OAEP_SHA256, in_s())
        logging.getLogger("test").debug("%r %r %s %r", key, key.description, caught.value, opened_key)

    with_key(uri(decryption_key, proxy.endpoint, sts_endpoint=proxy.endpoint, role=role), use)
    secrets |= {call.headers["X-Amz-Security-Token"] for call in proxy.calls("Decrypt")}
    assert len(secrets) == 4
    everything = "\n".join(records.texts)
    assert "urllib3" in everything  # the records are those of boto3's calls
    for secret in secrets:
        assert secret not in everything


def test_a_quota_is_shared_by_all_keys_of_an_account_in_a_region(
    ministack: Ministack, proxy: FaultProxy, signing_key: str
) -> None:
    second = ministack.create_key()
    elsewhere = ministack.kms(region="eu-central-1").create_key(KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY")
    where = {"sts_endpoint": proxy.endpoint}

    async def run() -> None:
        async with opened(quota_per_s=0.1, probe=False) as store:
            first = await store.open_key(uri(signing_key, proxy.endpoint, **where))
            same = await store.open_key(uri(second, proxy.endpoint, **where))
            other = await store.open_key(uri(elsewhere["KeyMetadata"]["Arn"], proxy.endpoint, **where))
            assert isinstance((await first.sign([PKCS1], in_s(5.0)))[0], Signature)
            for key in (first, same):
                (refused,) = await key.sign([PKCS1], in_s(1.0))
                assert isinstance(refused, BusyError)
                assert refused.part == "quota"
                assert 1.0 <= refused.retry_after_s <= 10.0
            assert len(proxy.calls("Sign")) == 1
            assert isinstance((await other.sign([PKCS1], in_s(5.0)))[0], Signature)

    asyncio.run(run())
    assert len(proxy.calls("GetCallerIdentity")) == 2  # one for each connection


def test_a_quota_makes_calls_wait_within_the_deadline(proxy: FaultProxy, signing_key: str) -> None:
    async def use(key: Key) -> None:
        results = await key.sign([PKCS1] * 4, in_s())
        assert all(isinstance(result, Signature) for result in results)
        assert sum(result.queued_s + result.store_s for result in results if isinstance(result, Signature)) >= 0.29

    with_key(uri(signing_key, proxy.endpoint, sts_endpoint=proxy.endpoint), use, quota_per_s=10, group_connections=1)


def test_a_retry_counts_against_the_quota(proxy: FaultProxy, signing_key: str) -> None:
    proxy.queue("Sign", throttled())

    async def use(key: Key) -> None:
        (result,) = await key.sign([PKCS1], in_s(1.0))
        assert isinstance(result, BusyError)

    with_key(uri(signing_key, proxy.endpoint, sts_endpoint=proxy.endpoint), use, quota_per_s=0.5)
    assert len(proxy.calls("Sign")) == 1


def test_a_role_tells_whose_quota_it_is(proxy: FaultProxy, signing_key: str, role: str) -> None:
    with_key(uri(signing_key, proxy.endpoint, sts_endpoint=proxy.endpoint, role=role), sign_one, quota_per_s=100)
    assert not proxy.calls("GetCallerIdentity")
