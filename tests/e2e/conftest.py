"""One real service for the run, with the vectors' keys in a SoftHSM token."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.programs import RealService, serving_vectors


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealService]:
    with serving_vectors(tmp_path_factory.mktemp("service")) as (running, _):
        yield running
