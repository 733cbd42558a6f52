"""Commands and events between the supervisor and its workers."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import pytest

from privyseal_service.config.loading import parse_config
from privyseal_service.config.root import Config
from privyseal_service.keys.pin_lockout import Latch
from privyseal_service.runtime.messages import (
    Drain,
    Event,
    Latched,
    MalformedEventError,
    Measurements,
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
from privyseal_service.telemetry.metrics import (
    is_series,
)

LATCH = Latch(
    "pkcs11:token=t;object=a?module-path=/m.so&pin-source=file:/p", "the token 't' refused the PIN", "correct"
)


def config(workers: int | None = None, address: str = "127.0.0.1:0") -> Config:
    data: dict[str, Any] = {
        "listeners": [{"address": address, "auth": "none"}],
        "keys": [{"name": "demo", "uri": "software:demo", "schemes": ["capgo"]}],
    }
    if workers is not None:
        data["server"] = {"workers": workers}
    return parse_config(data, "server.toml", Path("/nonexistent"))


def report(**changes: object) -> bytes:
    """A report as a worker says it, with changes."""
    return json.dumps(
        {"state": "open", "unhealthy": [], "latches": [], "lost": False, "issues": {}, **changes}
    ).encode()


def test_a_worker_that_says_much_is_cut_short() -> None:
    word = Report("open", issues={f"{n} {'x' * 1000}": "y" * 1000 for n in range(1000)})
    found = decode_event(encode_event(word))
    assert isinstance(found, Report)
    assert len(found.issues) == 200
    assert {len(text) for pair in found.issues.items() for text in pair} == {500}
    assert decode_event(report()) == Report("open")


@pytest.mark.parametrize(
    "word",
    [
        Report("serving", frozenset({"b", "a"}), (LATCH,), lost=True, issues={"key 'b'": "it is away"}),
        Report("opening"),
        StartFailed("key 'x': no", 3),
        PrepareResult(7),
        PrepareResult(7, "key 'x': no"),
    ],
)
def test_there_and_back(word: Event) -> None:
    line = encode_event(word)
    assert line.endswith(b"\n")
    assert decode_event(line) == word


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
        report(latches=[["a"]]),
        report(latches=[["a", "b", 3]]),
        report(issues=[]),
        report(issues={"a": 7}),
        b'{"change":"7","refusal":""}',
        b'{"change":true,"refusal":""}',
        b'{"change":7}',
        b'{"change":7,"refusal":7}',
        b'{"failed":"x","code":0}',
        b'{"failed":"x","code":[]}',
        b'{"failed":1,"code":1}',
        b"\xff",
        pytest.param(b"[" * 100_000, id="nested lists"),
        pytest.param(b'{"failed":' * 100_000, id="nested objects"),
        encode_command(Drain()),
    ],
)
def test_what_is_none(line: bytes) -> None:
    with pytest.raises(MalformedEventError):
        decode_event(line)


def test_orders_over_a_pipe() -> None:
    start = Start("1", 0, config(), strict=True, latches=(LATCH,))
    reading, writing = os.pipe()

    async def speak() -> None:
        writer = await PipeWriter.open(writing)
        for order in (start, Latched((LATCH,)), Drain()):
            writer.send(encode_command(order))
        writer.close()
        await writer.wait_closed()

    asyncio.run(speak())
    assert read_start(reading) == start

    async def hear() -> list[object]:
        reader = await open_pipe_reader(reading, 1024)
        return [await read_command(reader) for _ in range(3)]

    assert asyncio.run(hear()) == [Latched((LATCH,)), Drain(), None]


def test_a_supervisor_that_is_gone() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    with pytest.raises(EOFError):
        read_start(reading)
    os.close(reading)


def test_an_ear_that_is_gone_is_no_error() -> None:
    async def speak() -> None:
        reading, writing = os.pipe()
        writer = await PipeWriter.open(writing)
        os.close(reading)
        writer.send(b"one")
        await writer.wait_closed()
        writer.send(b"two")

    asyncio.run(speak())


URI = "pkcs11:token=a;object=k?module-path=/m.so"


@pytest.mark.parametrize(
    "word",
    [
        Report("serving"),
        Report("open", frozenset({"a", "b"}), (Latch(URI, "m", "r"),), lost=True),
        StartFailed("a sentence", 2),
    ],
)
def test_a_workers_word_comes_over_whole(word: Report | StartFailed) -> None:
    line = encode_event(word)
    assert line.endswith(b"\n")
    assert decode_event(line) == word


@pytest.mark.parametrize(
    "line", [b"", b"[]", b"{}", b'{"state": "serving", "unhealthy": [], "latches": []}', b'{"failed": 1, "code": 2}']
)
def test_another_form_is_refused(line: bytes) -> None:
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
def test_a_worker_cannot_say_what_is_no_number_of_ours(numbers: dict[tuple[str, ...], float]) -> None:
    with pytest.raises(MalformedEventError):
        decode_event(encode_event(Measurements(numbers)))


@pytest.mark.parametrize("said", [{"numbers": 1}, {"numbers": [1]}, {"numbers": [[]]}, {"numbers": [["ready", True]]}])
def test_words_of_no_known_form(said: dict[str, Any]) -> None:
    with pytest.raises(MalformedEventError):
        decode_event(json.dumps(said).encode())


def test_numbers_there_and_back() -> None:
    numbers = {
        ("calls", "sign-checksum", "OK"): 3.0,
        ("queue_seconds", "sign-checksum", "0.025"): 1.0,
        ("store_seconds", "sign-checksum", "sum"): 40.0,
        ("keys", "app", "serving"): 1.0,
    }
    assert decode_event(encode_event(Measurements(numbers))) == Measurements(numbers)
    assert all(map(is_series, numbers))
