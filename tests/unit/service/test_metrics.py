"""Counting calls, adding processes up, and the page that Prometheus reads."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

import pytest
from pydantic import ValidationError

from privyseal_service.config.metrics import MetricsConfig
from privyseal_service.domain.decisions import Decision, Outcome
from privyseal_service.domain.errors import Code
from privyseal_service.runtime.messages import MalformedEventError, Measurements, decode_event, encode_event
from privyseal_service.telemetry.metrics import (
    KNOWN,
    METRICS,
    RELOAD_FAILURES,
    Counters,
    Kind,
    Numbers,
    is_series,
    sum_numbers,
    without_gauges,
)
from privyseal_service.telemetry.prometheus import MetricsServer, render
from tests.support.checkout import CHECKOUT
from tests.support.prometheus import samples

ANSWERED = Decision(
    request_id="id",
    caller="dns:a",
    peer="ipv4:1",
    operation="sign-checksum",
    key="app",
    scheme="capgo-v3",
    grant="farm",
    outcome=Outcome.ANSWERED,
    code=Code.OK,
    signatures=5,
    queued_s=0.02,
    store_s=40.0,
)
DENIED = ANSWERED._replace(
    key="whatever the caller wrote", outcome=Outcome.DENIED, code=Code.PERMISSION_DENIED, reason="NO_GRANT",
    signatures=0,
)  # fmt: skip


def counted(*decisions: Decision) -> Numbers:
    counters = Counters()
    for decision in decisions:
        counters.count_call(decision)
    return counters.snapshot()


def test_calls_are_counted_by_what_became_of_them() -> None:
    shown = samples(render(counted(ANSWERED, ANSWERED, DENIED), names=True))
    assert shown["privyseal_calls_total{code=OK,operation=sign-checksum}"] == 2
    assert shown["privyseal_calls_total{code=PERMISSION_DENIED,operation=sign-checksum}"] == 1
    assert shown["privyseal_refusals_total{reason=NO_GRANT}"] == 1
    assert shown["privyseal_results_total{key=app}"] == 10
    queue = "privyseal_queue_seconds"
    assert [shown[f"{queue}_bucket{{le={le},operation=sign-checksum}}"] for le in ("0.01", "0.025", "+Inf")] == [
        0,
        2,
        2,
    ]
    assert shown[f"{queue}_count{{operation=sign-checksum}}"] == 2
    assert shown[f"{queue}_sum{{operation=sign-checksum}}"] == pytest.approx(0.04)
    assert shown["privyseal_store_seconds_bucket{le=30.0,operation=sign-checksum}"] == 0


def test_nothing_that_a_caller_writes_is_a_label() -> None:
    text = render(counted(ANSWERED, DENIED), names=True)
    assert b"whatever" not in text
    assert b"dns:a" not in text


def test_names_are_left_out_unless_they_are_asked_for() -> None:
    numbers = {
        **counted(ANSWERED, ANSWERED._replace(key="other")), ("keys", "app", "serving"): 2.0,
        ("keys", "other", "serving"): 1.0, ("keys", "third", "frozen"): 2.0, ("audit_sink_waiting", "https://x"): 3.0,
    }  # fmt: skip
    shown = samples(render(numbers, names=False))
    assert shown["privyseal_results_total{}"] == 10
    assert (shown["privyseal_keys{state=serving}"], shown["privyseal_keys{state=frozen}"]) == (3, 2)
    assert shown["privyseal_audit_sink_waiting{}"] == 3
    assert not [name for name in shown if "app" in name or "https" in name]
    assert samples(render(numbers, names=True))["privyseal_keys{key=app,state=serving}"] == 2


def test_processes_add_up_and_counts_outlive_them() -> None:
    numbers = {**counted(ANSWERED), ("ready",): 1.0}
    total = sum_numbers([without_gauges(numbers), numbers, {("ready",): 1.0}])
    assert total["calls", "sign-checksum", "OK"] == 2
    assert total["ready",] == 2


def test_every_metric_says_what_it_is() -> None:
    text = render({}, names=True).decode()
    for metric in METRICS.values():
        assert f"# HELP privyseal_{metric.name}" in text
        assert metric.help.endswith(".")


def test_a_first_rise_can_be_seen() -> None:
    shown = samples(render({RELOAD_FAILURES: 1.0}, names=False))
    assert shown["privyseal_reloads_total{result=failed}"] == 1
    assert shown["privyseal_tls_reloads_total{result=failed}"] == shown["privyseal_worker_ends_total{}"] == 0
    assert all(map(is_series, KNOWN))


def test_every_metric_is_in_the_operators_table() -> None:
    table = (CHECKOUT / "docs" / "operations.md").read_text()
    for name, metric in METRICS.items():
        assert f"`{name}_total`" in table if metric.kind is Kind.COUNTER else f"`{name}`" in table, name


@pytest.mark.parametrize(
    "numbers",
    [
        {("none",): 1.0},
        {("calls", "sign-checksum"): 1.0},
        {("calls", "sign-checksum", "OK", "more"): 1.0},
        {("queue_seconds", "sign-checksum", "0.007"): 1.0},
        {("ready",): -1.0},
        {("ready",): float("nan")},
        {("ready",): 1e30},
        {("results", "k" * 501): 1.0},
    ],
)
def test_a_worker_cannot_say_what_is_no_number_of_ours(numbers: dict[tuple[str, ...], float]) -> None:
    with pytest.raises(MalformedEventError):
        decode_event(encode_event(Measurements(numbers)))


@pytest.mark.parametrize("said", [{"numbers": 1}, {"numbers": [1]}, {"numbers": [[]]}, {"numbers": [["ready", True]]}])
def test_words_of_no_known_form(said: dict[str, Any]) -> None:
    with pytest.raises(MalformedEventError):
        decode_event(json.dumps(said).encode())


def test_numbers_there_and_back() -> None:
    numbers = {**counted(ANSWERED, DENIED), ("keys", "app", "serving"): 1.0}
    assert decode_event(encode_event(Measurements(numbers))) == Measurements(numbers)
    assert all(map(is_series, numbers))


@pytest.mark.parametrize("address", ["0.0.0.0:9464", "[::]:9464", "10.0.0.1:9464", "localhost:9464"])
def test_an_address_that_others_reach_must_be_meant(address: str) -> None:
    with pytest.raises(ValidationError, match="remote = true"):
        MetricsConfig(address=address)
    MetricsConfig(address=address, remote=True)


def test_an_address_that_is_no_place_for_a_page() -> None:
    with pytest.raises(ValidationError, match="over TCP"):
        MetricsConfig(address="unix:/run/metrics")


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
