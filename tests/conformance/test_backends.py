"""Every backend by itself."""

from __future__ import annotations

import pytest

from tests.conformance.adapters import Direct
from tests.conformance.backend_cases import *  # noqa: F403 - the cases are this module's tests
from tests.conformance.cases import *  # noqa: F403
from tests.conformance.stores import StoreUnderTest


@pytest.fixture
def face(store: StoreUnderTest) -> Direct:
    return Direct(store)


@pytest.fixture
def own_face(store: StoreUnderTest) -> Direct:
    return Direct(store)
