"""The metrics page answers its requests, and nothing else."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from privyseal_service.config.metrics import MetricsConfig
from privyseal_service.telemetry.prometheus import MetricsServer


async def asked(port: int, request: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    try:
        return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


def test_what_is_no_question_for_metrics_is_not_answered_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privyseal_service.telemetry.prometheus._TIMEOUT_S", 0.3)

    async def talk() -> list[bytes]:
        shown = MetricsServer(MetricsConfig(address="127.0.0.1:0"), lambda: {("ready",): 1.0}, share_port=False)
        port = int((await shown.start()).rpartition(":")[2])
        try:
            silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(40)]
            requests = [
                b"GET /metrics HTTP/1.1\r\n\r\n",
                b"HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n",
                b"GET / HTTP/1.1\r\n\r\n",
                b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc",
                b"junk\r\n\r\n",
                b"GET /metrics HTTP/1.1\r\n",
                b"x" * 100_000,
            ]
            # Those that say nothing hold the places for a while, and no longer.
            assert await asked(port, requests[0]) == b""
            for reader, writer in silent:
                with suppress(ConnectionError):
                    assert await reader.read() == b""
                writer.close()
            return [await asked(port, request) for request in requests]
        finally:
            shown.close()

    answers = asyncio.run(talk())
    assert b"\r\n\r\n# HELP privyseal_info" in answers[0]
    assert [answer.partition(b"\r\n")[0] for answer in answers] == [
        b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK", b"HTTP/1.1 404 Not Found", b"HTTP/1.1 405 Method Not Allowed",
        b"HTTP/1.1 400 Bad Request", b"", b"",
    ]  # fmt: skip
    assert answers[1].endswith(b"\r\n\r\n")
