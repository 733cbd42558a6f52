"""The metrics page answers requests for it, and nothing else."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from privyseal_service.config.metrics import MetricsConfig
from privyseal_service.telemetry.prometheus import MetricsServer


async def answer(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def test_only_requests_for_the_page_are_answered_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privyseal_service.telemetry.prometheus._TIMEOUT_S", 0.3)
    server = MetricsServer(MetricsConfig(address="127.0.0.1:0"), lambda: {("ready",): 1.0}, share_port=False)
    port = int((await server.start()).rpartition(":")[2])
    requests = [
        b"GET /metrics HTTP/1.1\r\n\r\n",
        b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
        b"junk\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\n",
        b"x" * 100_000,
    ]
    try:
        # Connections that send nothing hold all places until their time is up.
        silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(40)]
        assert await answer(port, requests[0]) == b""
        for reader, writer in silent:
            with suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
        answers = [await answer(port, request) for request in requests]
    finally:
        server.close()
    assert b"\r\n\r\n# HELP privyseal_info" in answers[0]
    assert [each.partition(b"\r\n")[0] for each in answers] == [
        b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK", b"HTTP/1.1 404 Not Found", b"HTTP/1.1 405 Method Not Allowed",
        b"HTTP/1.1 400 Bad Request", b"", b"",
    ]  # fmt: skip
    assert answers[1].endswith(b"\r\n\r\n")
