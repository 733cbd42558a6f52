"""A stop finishes the calls in flight."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from privyseal.v1.signing_pb2_grpc import SigningServiceStub
from tests.fakes.software_store import SoftwareStore
from tests.support.farm import SIGN
from tests.support.grpc_servers import grpc_server  # noqa: F401 - an autouse fixture
from tests.support.service import RunningService

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


def test_a_stop_finishes_what_is_in_flight(
    running: RunningService, store: SoftwareStore, channel: grpc.Channel
) -> None:
    begun = threading.Event()
    store.faults.delay_s = 0.4
    store.faults.fail = lambda _: begun.set()  # type: ignore[func-returns-value]
    signing = SigningServiceStub(channel)
    watch = HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=30)
    assert next(watch).status == SERVING
    call = signing.SignChecksum.future(SIGN, timeout=30)
    assert begun.wait(10)
    running.run(running.service.stop(20))
    assert len(call.result().signature) == 256
    assert next(watch).status == NOT_SERVING
    assert store.calls.closed == 1
    with pytest.raises(grpc.RpcError) as caught:
        signing.SignChecksum(SIGN, timeout=10)
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_open_streams_do_not_hold_the_stop(running: RunningService, channel: grpc.Channel) -> None:
    """Watches of health and streams of reflection are ended; were they not, the stop would take the whole grace."""
    watches = [HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=300) for _ in range(3)]
    assert [next(watch).status for watch in watches] == [SERVING] * 3
    end = threading.Event()

    def questions() -> Iterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        end.wait()

    stream = ServerReflectionStub(channel).ServerReflectionInfo(questions(), timeout=300)  # type: ignore[no-untyped-call]
    next(stream)
    try:
        running.run(running.service.stop(3600))
    finally:
        end.set()
    assert [[answer.status for answer in watch] for watch in watches] == [[NOT_SERVING]] * 3


def test_a_stop_waits_no_longer_than_its_grace(
    running: RunningService, store: SoftwareStore, channel: grpc.Channel
) -> None:
    begun = threading.Event()
    store.faults.delay_s = 3600
    store.faults.fail = lambda _: begun.set()  # type: ignore[func-returns-value]
    call = SigningServiceStub(channel).SignChecksum.future(SIGN, timeout=5000)
    assert begun.wait(10)
    running.run(running.service.stop(0.05))
    with pytest.raises(grpc.RpcError):
        call.result()
    assert running.decisions.last.outcome.value == "cancelled"


def test_a_stop_twice(running: RunningService, store: SoftwareStore) -> None:
    running.run(running.service.stop(1))
    running.run(running.service.stop(1))
    assert store.calls.closed == 1
