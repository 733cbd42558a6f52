"""The stores of the suite, one after another: pytest orders the cases by store, so that each starts once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.stores import STORES, StoreUnderTest

pytest.register_assert_rewrite(
    *(f"tests.conformance.{name}" for name in ("cases", "backend_cases", "adapters", "samples"))
)


@pytest.fixture(scope="session", params=STORES)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreUnderTest]:
    with STORES[request.param](tmp_path_factory.mktemp(request.param)) as running:
        yield running
