"""Every path that a secret takes, with both programs at the level of most words; then every byte that they wrote."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from privyseal import capgo
from privyseal.v1 import signing_pb2 as pb
from privyseal.v1.signing_pb2_grpc import SigningServiceStub
from privyseal_service.audit.keys import make_key
from tests.support.processes import until
from tests.support.prometheus import metrics_address, scraped
from tests.support.serving import CALLER, Place, Serving, pem
from tests.support.softhsm import SoftHsmToken, make_token
from tests.support.token_keys import key_of, material

CLIENT = str(Path(sys.executable).parent / "privyseal")
SESSION_KEY = bytes.fromhex("a1b2c3d4e5f60718293a4b5c6d7e8f90")
WRONG_PIN = "a-pin-that-is-wrong-0815"
HEAD = """
[log]
level = "debug"
[server]
workers = 2
state_folder = "state"
[metrics]
address = "127.0.0.1:0"
names = true
"""
AUDIT = '[audit]\nfolder = "audit"\nlog = "audit.test.example/replica-1"\nkey = "audit.key"\n'
GRANTS = f"""
[[grants]]
name = "all"
callers = ["{CALLER}"]
keys = ["demo", "opener", "moved"]
operations = ["wrap-session-key", "sign-checksum", "unwrap-session-key"]
"""
SECRET_FILES = {"audit.key", "moved.pem", "wrong-pin"}


def configure(place: Place, token: SoftHsmToken) -> None:
    keys = [
        key_of(place, token),
        key_of(place, token, "opener", '"rsaes-oaep-sha1"'),
        key_of(place, token, "moved") + 'custody = { origin = "imported" }\n',
    ]
    place.configure("".join(keys), head=HEAD, audit=AUDIT, grants=GRANTS)


def call_all(serving: Serving) -> None:
    """Each operation, and what is refused of it."""
    oaep, type1 = pb.WRAP_SCHEME_RSAES_OAEP_SHA1, pb.WRAP_SCHEME_CAPGO
    scheme, checksum = pb.SIGNATURE_SCHEME_CAPGO_V3, hashlib.sha256(b"zip").digest()
    with serving.channel() as channel:
        signing = SigningServiceStub(channel)

        def wrap(key: str, session_key: bytes, scheme: pb.WrapScheme.ValueType) -> bytes:
            request = pb.WrapSessionKeyRequest(key=key, session_key=session_key, scheme=scheme)
            return signing.WrapSessionKey(request, timeout=20).wrapped_key

        wrapped = wrap("opener", SESSION_KEY, oaep)
        request = pb.UnwrapSessionKeyRequest(key="opener", wrapped_key=wrapped, scheme=oaep)
        assert signing.UnwrapSessionKey(request, timeout=20).session_key == SESSION_KEY
        for key in ("demo", "moved"):
            wrap(key, SESSION_KEY, type1)
        signing.SignChecksum(pb.SignChecksumRequest(key="demo", checksum=checksum, scheme=scheme), timeout=20)
        batch = pb.BatchSignChecksumsRequest(key="demo", checksums=[checksum] * 100, scheme=scheme)
        signing.BatchSignChecksums(batch, timeout=20)
        for key, session_key, wrong in (
            ("demo", SESSION_KEY + b"!", type1),
            ("opener", SESSION_KEY, type1),
            ("demo", SESSION_KEY, oaep),
            ("none", SESSION_KEY, type1),
        ):
            with suppress(grpc.RpcError):
                wrap(key, session_key, wrong)
        with suppress(grpc.RpcError):
            signing.SignChecksum(pb.SignChecksumRequest(key="demo", checksum=SESSION_KEY, scheme=scheme), timeout=20)
        with suppress(grpc.RpcError):
            request = pb.UnwrapSessionKeyRequest(key="opener", wrapped_key=wrapped[::-1], scheme=oaep)
            signing.UnwrapSessionKey(request, timeout=20)


def seal(serving: Serving) -> subprocess.CompletedProcess[str]:
    """What a build does, with its receipts."""
    folder = serving.place.folder / "build"
    folder.mkdir()
    serving.place.ca.write(folder)
    serving.place.ca.issue(dns=[CALLER.removeprefix("dns:")]).write(folder, "client")
    with zipfile.ZipFile(folder / "app.zip", "w") as made:
        made.writestr("index.html", "<html></html>")
    tls = ("--ca", "ca.pem", "--cert", "client.pem", "--cert-key", "client-key.pem", "--server", serving.address)
    words = ("bundle", "encrypt", "app.zip", "--key", "demo", "--format", "capgo-v3", "--json", "--receipt", "receipts")
    done = subprocess.run(
        [CLIENT, *words, *tls],
        cwd=folder,
        env={name: value for name, value in os.environ.items() if not name.startswith("PRIVYSEAL_")},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


def forms(secret: bytes) -> Iterator[bytes]:
    """A secret in the forms that text gives it, and as it is."""
    yield from (secret, secret.hex().encode(), secret.hex().upper().encode(), secret.hex(":").encode())
    yield from (base64.b64encode(secret).rstrip(b"="), base64.urlsafe_b64encode(secret).rstrip(b"="))
    yield from (repr(secret)[2:-1].encode(), str(list(secret)).encode())


def test_no_secret_is_in_any_output(place: Place, private_key: rsa.RSAPrivateKey) -> None:
    token = make_token(place.folder / "hsm", "ota")
    place.environment |= token.environment
    make_key("audit.test.example/replica-1", place.folder / "audit.key")
    configure(place, token)
    config = ("--config", str(place.config))
    (place.folder / "moved.pem").write_bytes(pem(private_key))
    created = place.run("key", "create", *config, "demo")
    outputs = [created, place.run("key", "create", *config, "opener")]
    outputs.append(place.run("key", "import", str(place.folder / "moved.pem"), *config, "moved"))
    assert [done.returncode for done in outputs] == [0, 0, 0], outputs
    outputs.append(place.run("check", *config, "--json"))
    good = place.config.read_text()
    with place.serving() as serving:
        address = metrics_address(serving)
        call_all(serving)
        sealed = seal(serving)
        place.config.write_text(good.replace("object=demo", "object=none"))
        serving.process.send_signal(signal.SIGHUP)
        until(lambda: "stays as it was" in serving.log)
        outputs += [sealed, place.run("health", *config, "--json"), place.run("health", *config)]
        read = json.dumps(list(scraped(address)))
        assert serving.stop() == 0
    (place.folder / "wrong-pin").write_text(WRONG_PIN)
    pin_source = good[good.index("pin-source=") : good.index('"', good.index("pin-source="))]
    place.config.write_text(good.replace(pin_source, "pin-source=file:wrong-pin"))
    refused = place.run("serve", *config)
    assert "PIN" in refused.stderr
    outputs += [refused, place.run("audit", "export", str(place.folder / "audit"))]

    public_key = load_pem_public_key(created.stdout.encode())
    assert isinstance(public_key, rsa.RSAPublicKey)
    wrapped_key = base64.b64decode(json.loads(sealed.stdout)["ivSessionKey"].partition(":")[2])
    secrets = [*forms(SESSION_KEY), *forms(capgo.recover_session_key(public_key, wrapped_key))]
    secrets += [token.pin.encode(), WRONG_PIN.encode(), *(line.encode() for line in material(private_key))]
    secrets += [(place.folder / "audit.key").read_bytes().strip()]

    written = [
        file
        for file in place.folder.rglob("*")
        if file.is_file() and "hsm" not in file.parts and file.name not in SECRET_FILES and "-key" not in file.name
    ]
    assert {"log", "receipts", "checkpoint"} <= {file.name for file in written}
    said = [done.stdout + done.stderr for done in outputs]
    haystack = "".join([*said, read]).encode() + b"".join(file.read_bytes() for file in written)
    assert haystack.count(b"key_version") > 100
    assert b"privyseal_keys" in haystack
    assert not [secret for secret in secrets if secret in haystack]
