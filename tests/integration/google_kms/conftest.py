"""The backend against the fake Cloud KMS, over real gRPC."""

from collections.abc import Iterator

import pytest

from tests.fakes.google_kms import FakeKms


@pytest.fixture
def fake() -> Iterator[FakeKms]:
    with FakeKms() as server:
        yield server
