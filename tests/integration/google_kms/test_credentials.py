"""Credentials: which are used, where they go, where they never go, and what is said when they do not serve."""

from __future__ import annotations

import base64
import ipaddress
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import google.auth
import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from google.auth.exceptions import RefreshError, TransportError

from privyseal_backends.google_kms.store import open_store
from privyseal_backends.interface import OperatorError, UnavailableError
from tests.fakes.google_kms import FakeKms
from tests.fakes.google_kms.hsm import rsa_key
from tests.integration.google_kms.support import RAW, run, uri

NAME = "projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/1"
ACCOUNT = "signer@privyseal-test.iam.gserviceaccount.com"
OPEN = """
import asyncio, sys
from privyseal_backends.google_kms.store import open_store

async def main():
    store = open_store({"credentials_file": sys.argv[2]} if sys.argv[2] else {})
    key = await store.open_key(sys.argv[1])
    print(key.description.key_version)
    await store.close()

asyncio.run(main())
"""


def pem(key):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


@pytest.fixture
def account(tmp_path):
    """A service account's key file."""
    file = tmp_path / "account.json"
    content = {
        "type": "service_account",
        "client_email": ACCOUNT,
        "private_key_id": "1",
        "private_key": pem(rsa_key(2048, 80)).decode(),
        "token_uri": "http://127.0.0.1:9/token",  # nobody listens: the account signs its own tokens
    }
    file.write_text(json.dumps(content))
    return file


@pytest.fixture
def tls(tmp_path):
    """A certificate for loopback, and the file of its issuer."""
    key = rsa_key(2048, 81)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "loopback")])
    began = datetime.now(UTC) - timedelta(days=1)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, began, began + timedelta(days=9))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, SHA256())
    )
    file = tmp_path / "ca.pem"
    file.write_bytes(certificate.public_bytes(Encoding.PEM))
    return grpc.ssl_server_credentials([(pem(key), file.read_bytes())]), file


def open_in_a_process(key_uri, credentials_file, **environment):
    """gRPC reads its roots once a process, so this needs one of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GOOGLE_", "GRPC_"))}
    return subprocess.run(
        [sys.executable, "-c", OPEN, key_uri, credentials_file],
        capture_output=True,
        text=True,
        timeout=200,
        env={**kept, **environment},
    )


def claims(authorization):
    kind, _, token = authorization.partition(" ")
    assert kind == "Bearer"
    body = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))


@pytest.mark.parametrize("how", ["setting", "URI", "application default"])
def test_an_account_signs_its_own_tokens_and_asks_for_one_scope(account, tls, how):
    server_credentials, ca = tls
    fake = FakeKms()
    fake.start(tls=server_credentials)
    try:
        name = fake.add(RAW)
        key_uri = f"gcpkms://{name}?endpoint=https://localhost:{fake.port}"
        environment = {"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(ca)}
        file = ""
        if how == "setting":
            file = str(account)
        elif how == "URI":
            key_uri += f"&credentials=file:{account}"
        else:
            environment["GOOGLE_APPLICATION_CREDENTIALS"] = str(account)
        done = open_in_a_process(key_uri, file, **environment)
        assert (done.returncode, done.stdout) == (0, f"{name}\n"), done.stderr
    finally:
        fake.stop()
    said = claims(fake.metadata[0]["authorization"])
    assert said["iss"] == said["sub"] == ACCOUNT
    assert said["scope"] == "https://www.googleapis.com/auth/cloudkms"


def test_a_server_that_is_not_googles_gets_no_token(account, tls):
    server_credentials, _ = tls
    fake = FakeKms()
    fake.start(tls=server_credentials)
    try:
        key_uri = f"gcpkms://{fake.add(RAW)}?endpoint=https://localhost:{fake.port}"
        script = OPEN.replace("open_store({", 'open_store({"open_timeout_s": 0.5, ')
        done = subprocess.run(
            [sys.executable, "-c", script, key_uri, str(account)], capture_output=True, text=True, timeout=200
        )
    finally:
        fake.stop()
    assert "UnavailableError" in done.stderr
    assert fake.calls == []


def test_no_token_travels_in_the_clear(fake, account, monkeypatch):
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(account))

    async def look():
        made = open_store({"credentials_file": str(account)})
        await made.open_key(uri(fake, fake.add(RAW)))
        await made.close()

    run(look())
    assert fake.metadata
    assert all("authorization" not in metadata for metadata in fake.metadata)


def test_a_proxy_of_the_environment_is_not_used_on_loopback(fake, monkeypatch):
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)

    async def look():
        made = open_store({"open_timeout_s": 5})
        await made.open_key(uri(fake, fake.add(RAW)))
        await made.close()

    run(look())


def open_with(**settings):
    async def look():
        made = open_store({"open_timeout_s": 20, **settings})
        try:
            await made.open_key(f"gcpkms://{NAME}")
        finally:
            await made.close()

    run(look())


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"not json, but SECRET-IN-FILE",
        b"\xff\xfe\x00SECRET-IN-FILE",
        b'{"type": "SECRET-IN-FILE"}',
        b'{"type": "service_account", "private_key": "SECRET-IN-FILE"}',
        b'{"type": "service_account", "client_email": "a@b", "token_uri": "t", "private_key": "SECRET-IN-FILE"}',
        b"[]",
        b'{"type": "authorized_user", "refresh_token": "SECRET-IN-FILE"}',
        b'{"type": "external_account", "credential_source": {"executable": {"command": "SECRET-IN-FILE"}}}',
    ],
    ids=[
        "missing",
        "empty",
        "no JSON",
        "no text",
        "unknown type",
        "incomplete",
        "no key",
        "a list",
        "a person",
        "a program",
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_never_quoted(tmp_path, content):
    file = tmp_path / "account.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(OperatorError) as met:
        open_with(credentials_file=str(file))
    assert str(file) in met.value.message
    assert met.value.part == "credentials"
    assert "SECRET-IN-FILE" not in f"{met.value} {met.value!r}"
    assert met.value.__cause__ is None


def test_a_federation_that_is_not_whole_is_the_operators_to_correct(tmp_path):
    file = tmp_path / "federation.json"
    file.write_text('{"type": "external_account", "credential_source": {"file": "SECRET-IN-FILE"}}')
    with pytest.raises(OperatorError) as met:
        open_with(credentials_file=str(file))
    assert "SECRET-IN-FILE" not in str(met.value)


def test_no_credentials_at_all(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    with pytest.raises(OperatorError, match="application default credentials") as met:
        open_with()
    assert "GOOGLE_APPLICATION_CREDENTIALS" in met.value.remedy


class Refusing:
    """Credentials whose token's issuer does what a test says."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def refresh(self, _: object) -> None:
        raise self.error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TransportError("no route to issuer, token ya29.SECRET"), UnavailableError),
        (RefreshError("issuer down, token ya29.SECRET", retryable=True), UnavailableError),
        (RefreshError("invalid_grant, token ya29.SECRET"), OperatorError),
    ],
)
def test_a_token_that_cannot_be_had(monkeypatch, error, kind):
    monkeypatch.setattr(google.auth, "default", lambda **_: (Refusing(error), "project"))
    with pytest.raises(kind) as met:
        open_with()
    assert met.value.part == "credentials"
    assert "SECRET" not in f"{met.value} {met.value!r}"


def test_credentials_that_failed_once_are_tried_again(fake, monkeypatch, account):
    """A failed connection is not kept."""
    tries = iter([TransportError("away"), RefreshError("revoked")])
    monkeypatch.setattr(google.auth, "default", lambda **_: (Refusing(next(tries)), "project"))

    async def look():
        made = open_store({})
        with pytest.raises(UnavailableError):
            await made.open_key(f"gcpkms://{NAME}")
        with pytest.raises(OperatorError):
            await made.open_key(f"gcpkms://{NAME}")
        await made.close()

    run(look())
