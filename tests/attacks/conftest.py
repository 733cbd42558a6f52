"""A service with a listener of certificates and one of tokens, and a store that counts every use of a key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from privyseal.v1.signing_pb2_grpc import SigningServiceStub
from tests.fakes.software_store import SoftwareStore
from tests.support.farm import BUILD, farm_config, farm_store
from tests.support.pki import CA, Issued
from tests.support.service import GRPC_SERVERS, RunningService, secure_channel
from tests.support.tokens import ISSUER, issuer_settings, jwk, key_set, rsa_key

PIPELINE = f"oidc:{ISSUER}:repo:octo-org/app:ref:refs/heads/*"


@dataclass
class Target:
    """The service under attack."""

    running: RunningService
    store: SoftwareStore
    ca: CA
    folder: Path

    def signing(self, shown: Issued | None) -> SigningServiceStub:
        """Over a connection of its own, with this certificate."""
        return SigningServiceStub(secure_channel(self.running.address(0), self.ca, shown))

    def build(self) -> SigningServiceStub:
        """As a caller that is granted all."""
        return self.signing(self.ca.issue(uris=[BUILD]))

    def pipeline(self) -> SigningServiceStub:
        """At the listener of tokens."""
        return SigningServiceStub(
            grpc.secure_channel(self.running.address(1), grpc.ssl_channel_credentials(self.ca.pem))
        )


def config(ca: CA, folder: Path) -> dict[str, Any]:
    (folder / "jwks.json").write_bytes(key_set(jwk(rsa_key(), "a")))
    data = farm_config(ca, folder)
    tls = {name: data["listeners"][0][name] for name in ("certificate", "certificate_key")}
    data["listeners"].append({"address": "127.0.0.1:0", "auth": "oidc", **tls})
    data["issuers"] = [issuer_settings(folder / "jwks.json")]
    data["grants"].append(
        {"name": "pipeline", "callers": [PIPELINE], "keys": ["capgo"], "operations": ["sign-checksum"]}
    )
    return data


@pytest.fixture(scope="session")
def target_ca() -> CA:
    return CA()


@pytest.fixture(scope="module", params=GRPC_SERVERS)
def target(request: pytest.FixtureRequest, target_ca: CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("target")
    store = farm_store(rsa.generate_private_key(65537, 2048))
    with RunningService(config(target_ca, folder), store.backends, grpc_server=request.param) as running:
        yield Target(running, store, target_ca, folder)


@pytest.fixture(autouse=True)
def _nothing_reached_a_key(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever is tried here: no key is used for it, unless the test says that it may be (the marker is its name)."""
    if "target" not in request.fixturenames or "while" in request.node.name:
        yield
        return
    store = request.getfixturevalue("target").store
    before = store.calls.private
    yield
    assert store.calls.private == before
