"""Watches of health."""

from __future__ import annotations

from grpc_health.v1 import health_pb2

from privyseal_service.api.health import Health

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def test_a_watch_sees_a_stop_that_comes_while_it_is_answered() -> None:
    health = Health(["a"])
    health.serve()
    answers = health.Watch(health_pb2.HealthCheckRequest(service="a"), None)
    first = (await answers.__anext__()).status
    health.stop()  # while the first answer is on its way
    assert [first, *[answer.status async for answer in answers]] == [SERVING, NOT_SERVING]
