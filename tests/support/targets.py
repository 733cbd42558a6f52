"""The service that attacks are made on, and calls to it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from privyseal.v1 import signing_pb2 as pb
from privyseal.v1.signing_pb2_grpc import SigningServiceStub
from tests.fakes.software_store import SoftwareStore
from tests.support.farm import BUILD, farm_config
from tests.support.pki import CA, Issued
from tests.support.service import RunningService, secure_channel
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


SIGN = pb.SignChecksumRequest(
    key="capgo", checksum=hashlib.sha256(b"zip").digest(), scheme=pb.SIGNATURE_SCHEME_CAPGO_V3
)


def code(call: Callable[[], object]) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert isinstance(caught.value, grpc.Call)
    return str(caught.value.code().name)


def shown(text: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {text}")]
