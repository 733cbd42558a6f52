"""A service with a listener of certificates and one of tokens, and a store that counts every use of a key."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.farm import farm_store
from tests.support.pki import CA
from tests.support.service import GRPC_SERVERS, RunningService
from tests.support.targets import Target, config


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
