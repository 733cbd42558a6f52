"""Watches of health."""

from __future__ import annotations

import asyncio

from grpc_health.v1 import health_pb2

from privyseal_service.api.health import Health


def test_a_watch_hears_of_a_stop_that_comes_while_it_is_answered() -> None:
    async def watch() -> list[int]:
        health = Health(["a"])
        health.serve()
        answers = health.Watch(health_pb2.HealthCheckRequest(service="a"), None)
        heard = [(await answers.__anext__()).status]
        health.stop()  # the answer is on its way still
        return [*heard, *[answer.status async for answer in answers]]

    serving = health_pb2.HealthCheckResponse.SERVING
    assert asyncio.run(watch()) == [serving, health_pb2.HealthCheckResponse.NOT_SERVING]
