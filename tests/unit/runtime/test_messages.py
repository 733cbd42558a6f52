"""Commands and events between the supervisor and its workers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from privyseal_service.config.loading import parse_config
from privyseal_service.keys.pin_lockout import RefusedPin
from privyseal_service.runtime.messages import (
    Drain,
    Event,
    MalformedEventError,
    Measurements,
    PinsRefused,
    PrepareResult,
    Report,
    Start,
    StartFailed,
    decode_event,
    encode_command,
    encode_event,
    read_command,
    read_start,
)
from privyseal_service.system.pipes import PipeWriter, open_pipe_reader

REFUSED = RefusedPin(
    "pkcs11:token=t;object=a?module-path=/m.so&pin-source=file:/p", "the token 't' refused the PIN", "correct"
)


def report(**changes: object) -> bytes:
    """A report as a worker sends it, with changes."""
    fields = {"state": "open", "unhealthy": [], "refused_pins": [], "lost": False, "issues": {}} | changes
    return json.dumps(fields).encode()


@pytest.mark.parametrize(
    "event",
    [
        Report("serving", frozenset({"b", "a"}), (REFUSED,), lost=True, issues={"key 'b'": "it is away"}),
        Report("opening"),
        StartFailed("key 'x': no", 3),
        PrepareResult(7),
        PrepareResult(7, "key 'x': no"),
        Measurements(
            {
                ("calls", "sign-checksum", "OK"): 3.0,
                ("queue_seconds", "sign-checksum", "0.025"): 1.0,
                ("store_seconds", "sign-checksum", "sum"): 40.0,
                ("keys", "app", "serving"): 1.0,
            }
        ),
    ],
)
def test_an_event_is_one_line_and_comes_back_whole(event: Event) -> None:
    line = encode_event(event)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert decode_event(line) == event


def test_a_long_report_is_cut() -> None:
    event = Report("open", issues={f"{n} {'x' * 1000}": "y" * 1000 for n in range(1000)})
    found = decode_event(encode_event(event))
    assert isinstance(found, Report)
    assert len(found.issues) == 200
    assert {len(text) for pair in found.issues.items() for text in pair} == {500}
    assert decode_event(report()) == Report("open")


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        report(state="dancing"),
        report(unhealthy=[1]),
        report(refused_pins=[["a"]]),
        report(refused_pins=[["a", "b", 3]]),
        report(issues=[]),
        report(issues={"a": 7}),
        b'{"state": "serving", "unhealthy": [], "refused_pins": []}',
        b'{"change":"7","refusal":""}',
        b'{"change":true,"refusal":""}',
        b'{"change":7}',
        b'{"change":7,"refusal":7}',
        b'{"failed":"x","code":0}',
        b'{"failed":"x","code":[]}',
        b'{"failed":1,"code":1}',
        b'{"numbers": 1}',
        b'{"numbers": [1]}',
        b'{"numbers": [[]]}',
        b'{"numbers": [["ready", true]]}',
        b"\xff",
        pytest.param(b"[" * 100_000, id="nested lists"),
        pytest.param(b'{"failed":' * 100_000, id="nested objects"),
        encode_command(Drain()),
    ],
)
def test_a_malformed_event_is_refused(line: bytes) -> None:
    with pytest.raises(MalformedEventError):
        decode_event(line)


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
def test_a_number_of_no_known_metric_is_refused(numbers: dict[tuple[str, ...], float]) -> None:
    with pytest.raises(MalformedEventError):
        decode_event(encode_event(Measurements(numbers)))


async def test_commands_over_a_pipe() -> None:
    config: dict[str, Any] = {
        "listeners": [{"address": "127.0.0.1:0", "auth": "none"}],
        "keys": [{"name": "demo", "uri": "software:demo", "schemes": ["capgo"]}],
    }
    start = Start(
        "1", 0, parse_config(config, "server.toml", Path("/nonexistent")), strict=True, refused_pins=(REFUSED,)
    )
    reading, writing = os.pipe()
    writer = await PipeWriter.open(writing)
    for command in (start, PinsRefused((REFUSED,)), Drain()):
        writer.send(encode_command(command))
    writer.close()
    await writer.wait_closed()
    assert read_start(reading) == start
    reader = await open_pipe_reader(reading, 1024)
    assert [await read_command(reader) for _ in range(3)] == [PinsRefused((REFUSED,)), Drain(), None]


def test_a_supervisor_that_is_gone() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    with pytest.raises(EOFError):
        read_start(reading)
    os.close(reading)


async def test_writing_to_a_reader_that_is_gone_is_no_error() -> None:
    reading, writing = os.pipe()
    writer = await PipeWriter.open(writing)
    os.close(reading)
    writer.send(b"one")
    await writer.wait_closed()
    writer.send(b"two")
