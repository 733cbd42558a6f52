"""A place whose key is in a store that keeps a diary."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.support.service import entry_point
from tests.support.serving import CALLER, Place, pem, place, private_key, session_ca  # noqa: F401 - fixtures among them
from tests.support.workers import configure


@pytest.fixture
def farm(place: Place, private_key: rsa.RSAPrivateKey) -> Place:  # noqa: F811
    """A place whose key `demo` is in the diary store, with a client's certificate in it."""
    (place.folder / "demo.pem").write_bytes(pem(private_key))
    place.environment = entry_point(place.folder, "software", "tests.integration.workers.store:open_store")
    place.ca.issue(dns=[CALLER.removeprefix("dns:")]).write(place.folder, "client")
    configure(place, workers=2)
    return place
