"""Runs a module's services on gRPC's core and on grpc.aio: import `grpc_server` into the module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.service import GRPC_SERVER, GRPC_SERVERS


@pytest.fixture(params=GRPC_SERVERS, scope="module", autouse=True)
def grpc_server(request: pytest.FixtureRequest) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(GRPC_SERVER, request.param)
        yield request.param
