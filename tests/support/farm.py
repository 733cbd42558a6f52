"""A service with software keys, one for every purpose, and clients that may use them."""

from __future__ import annotations

import copy
import functools
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from privyseal.v1 import signing_pb2 as pb
from privyseal.v1.keys_pb2_grpc import KeyServiceStub
from privyseal.v1.signing_pb2_grpc import SigningServiceStub
from privyseal_backends.interface import Purpose
from tests.fakes.software_store import SoftwareStore
from tests.support.pki import CA
from tests.support.service import GRPC_SERVERS, RunningService, secure_channel

BUILD = "spiffe://example/build/ci"
CHECKSUM = hashlib.sha256(b"zip").digest()
SIGN = pb.SignChecksumRequest(key="capgo", checksum=CHECKSUM, scheme=pb.SIGNATURE_SCHEME_CAPGO_V3)


@pytest.fixture(scope="session")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="session")
def ca() -> CA:
    return CA()


@dataclass
class Farm:
    """A running service, its store, and a channel of a caller that is granted all."""

    running: RunningService
    store: SoftwareStore
    ca: CA
    channel: grpc.Channel

    @property
    def signing(self) -> SigningServiceStub:
        return SigningServiceStub(self.channel)

    @property
    def keys(self) -> KeyServiceStub:
        return KeyServiceStub(self.channel)

    def channel_of(self, *, uris: list[str] | None = None, dns: list[str] | None = None) -> grpc.Channel:
        return secure_channel(self.running.address(), self.ca, self.ca.issue(uris=uris or [], dns=dns or []))


def farm_config(ca: CA, folder: Path) -> dict[str, Any]:
    """A configuration with a key for each purpose, `capgo`, `signer` and `opener`; BUILD may do all with them."""
    certificate, key = ca.server().write(folder, "server")
    schemes = {
        "capgo": ["capgo", "capgo-v2", "capgo-v3"],
        "signer": ["rsassa-pkcs1-v1_5-sha256", "rsassa-pss-sha256"],
        "opener": ["rsaes-oaep-sha256", "rsaes-oaep-sha1"],
    }
    return {
        "server": {"open_wait_s": 2.0, "default_deadline_s": 2000.0},
        "listeners": [
            {
                "address": "127.0.0.1:0",
                "auth": "mtls",
                "certificate": str(certificate),
                "certificate_key": str(key),
                "client_cas": [
                    {"file": str(ca.write(folder)), "names": ["spiffe://example/**", "dns:*.build.example"]}
                ],
            }
        ],
        "keys": [{"name": name, "uri": f"software:{name}", "schemes": listed} for name, listed in schemes.items()],
        "grants": [
            {
                "name": "build farm",
                "callers": [BUILD],
                "keys": list(schemes),
                "operations": ["wrap-session-key", "sign-checksum", "unwrap-session-key"],
            },
            {
                "name": "one key",
                "callers": ["dns:one.build.example"],
                "keys": ["capgo"],
                "operations": ["sign-checksum"],
                "schemes": ["capgo-v3"],
                "priority": 20,
            },
        ],
    }


@functools.cache
def key_for(name: str) -> rsa.RSAPrivateKey:
    """A key of the tests' own, made once: no two purposes share one."""
    return rsa.generate_private_key(65537, 2048)


def farm_store(rsa_key: rsa.RSAPrivateKey) -> SoftwareStore:
    store = SoftwareStore()
    store.add("capgo", rsa_key, Purpose.TYPE1)
    store.add("signer", key_for("signer"), Purpose.SIGNATURES)
    store.add("opener", key_for("opener"), Purpose.DECRYPTION)
    return store


@pytest.fixture(scope="session", params=GRPC_SERVERS)
def session_farm(
    request: pytest.FixtureRequest, ca: CA, rsa_key: rsa.RSAPrivateKey, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Farm]:
    folder = tmp_path_factory.mktemp("farm")
    store = farm_store(rsa_key)
    with RunningService(farm_config(ca, folder), store.backends, grpc_server=request.param) as running:
        client = ca.issue(uris=[BUILD])
        with secure_channel(running.address(), ca, client) as channel:
            yield Farm(running, store, ca, channel)


@pytest.fixture
def farm(session_farm: Farm) -> Iterator[Farm]:
    """The farm, with whatever a test changes of its store and recorder put back."""
    yield session_farm
    session_farm.store.faults.__init__()  # type: ignore[misc]
    session_farm.running.decisions.failure = None


def batch(size: int) -> pb.BatchSignChecksumsRequest:
    return pb.BatchSignChecksumsRequest(key="capgo", checksums=[CHECKSUM] * size, scheme=pb.SIGNATURE_SCHEME_CAPGO_V3)


def limited(config: dict[str, Any], **limits: object) -> dict[str, Any]:
    changed = copy.deepcopy(config)
    changed["grants"][0].update(limits)
    return changed


def frozen(config: dict[str, Any]) -> dict[str, Any]:
    changed = copy.deepcopy(config)
    changed["keys"][0]["state"] = "frozen"
    return changed


def eventually(call: Callable[[], Any]) -> Any:
    """As a client would: again when the answer says that it may help."""
    end_s = time.monotonic() + 30
    while True:
        with suppress(grpc.RpcError):
            return call()
        assert time.monotonic() < end_s, "it never answered"
        time.sleep(0.02)
