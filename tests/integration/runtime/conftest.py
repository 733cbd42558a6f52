# ruff: noqa: F811 - fixtures that are imported, and used by others
"""A service with software keys in this process, and callers of it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from privyseal.v1.signing_pb2_grpc import SigningServiceStub
from tests.fakes.software_store import SoftwareStore
from tests.support import tokens
from tests.support.farm import BUILD, ca, farm, farm_config, farm_store, rsa_key, session_farm  # noqa: F401 - fixtures
from tests.support.pki import CA, Issued
from tests.support.service import RunningService, secure_channel
from tests.support.serving import place, private_key, session_ca, software  # noqa: F401 - fixtures
from tests.support.tokens import ISSUER, issuer_settings, jwk, key_set


@pytest.fixture
def store(rsa_key: rsa.RSAPrivateKey) -> SoftwareStore:
    return farm_store(rsa_key)


@pytest.fixture
def config(ca: CA, tmp_path: Path) -> dict[str, Any]:
    data = farm_config(ca, tmp_path)
    data["server"]["state_folder"] = str(tmp_path / "state")
    return data


@pytest.fixture
def running(config: dict[str, Any], store: SoftwareStore) -> Iterator[RunningService]:
    with RunningService(config, store.backends) as running:
        yield running


@pytest.fixture
def client(ca: CA) -> Issued:
    return ca.issue(uris=[BUILD])


@pytest.fixture
def signing(running: RunningService, ca: CA, client: Issued) -> Iterator[SigningServiceStub]:
    with secure_channel(running.address(), ca, client) as channel:
        yield SigningServiceStub(channel)


@pytest.fixture
def oidc(config: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    (tmp_path / "jwks.json").write_bytes(key_set(jwk(tokens.rsa_key(), "a")))
    changed = copy.deepcopy(config)
    tls = {name: changed["listeners"][0][name] for name in ("certificate", "certificate_key")}
    changed["listeners"].append({"address": "127.0.0.1:0", "auth": "oidc", **tls})
    changed["issuers"] = [issuer_settings(tmp_path / "jwks.json")]
    changed["grants"].append(
        {
            "name": "pipeline",
            "callers": [f"oidc:{ISSUER}:repo:octo-org/app:ref:refs/heads/**"],
            "claims": {"environment": "production"},
            "keys": ["capgo"],
            "operations": ["sign-checksum"],
        }
    )
    return changed


@pytest.fixture
def oidc_running(oidc: dict[str, Any], store: SoftwareStore) -> Iterator[RunningService]:
    with RunningService(oidc, store.backends) as running:
        yield running


@pytest.fixture
def pipeline(oidc_running: RunningService, ca: CA) -> Iterator[SigningServiceStub]:
    credentials = grpc.ssl_channel_credentials(ca.pem)
    with grpc.secure_channel(oidc_running.address(1), credentials) as channel:
        yield SigningServiceStub(channel)


@pytest.fixture
def channel(running: RunningService, ca: CA) -> Iterator[grpc.Channel]:
    with secure_channel(running.address(), ca, ca.issue(uris=[BUILD])) as channel:
        yield channel
