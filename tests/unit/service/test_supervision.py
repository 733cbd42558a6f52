"""What a supervisor is made of: ports, latches, words, delays, cores, and the rule for who listens."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from privyseal_backends.interface import Key, OperatorError, UnavailableError
from privyseal_service.config.loading import parse_config
from privyseal_service.config.root import Config
from privyseal_service.domain.key_uris import same_token
from privyseal_service.keys.keyring import KeyringError
from privyseal_service.keys.pin_lockout import Latch, Latches
from privyseal_service.runtime.messages import (
    Drain,
    Event,
    Latched,
    MalformedEventError,
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
from privyseal_service.runtime.restarts import HangDetector, RestartDelays
from privyseal_service.runtime.start_errors import start_error
from privyseal_service.runtime.supervisor import may_listen
from privyseal_service.runtime.worker_config import worker_count
from privyseal_service.runtime.worker_process import WorkerProcess
from privyseal_service.system.cpus import core_count
from privyseal_service.system.exit_codes import REFUSED, UNAVAILABLE, USAGE, StartError
from privyseal_service.system.pipes import PipeWriter, open_pipe_reader
from privyseal_service.system.sockets import ListenError, reserve

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


class TestPorts:
    def test_a_free_port_is_held_for_those_that_share_it(self) -> None:
        held = reserve("127.0.0.1:0", share=False)
        port = int(held.address.removeprefix("127.0.0.1:"))
        with socket.socket() as worker:
            worker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            worker.bind(("127.0.0.1", port))
            worker.listen()
            with pytest.raises(ListenError, match="is it taken"):
                reserve(held.address, share=False)
            reserve(held.address, share=True).release()
        held.release()
        reserve(held.address, share=False).release()

    def test_nobody_is_brought_to_a_port_that_is_only_held(self) -> None:
        held = reserve("127.0.0.1:0", share=False)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", int(held.address.rpartition(":")[2])))
        held.release()

    @pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "localhost:0"])
    def test_every_address_that_is_meant_is_held(self, address: str) -> None:
        held = reserve(address, share=False)
        number = int(held.address.rpartition(":")[2])
        assert held.address == f"{address.rpartition(':')[0]}:{number}"
        assert {each.getsockname()[1] for each in held.sockets} == {number}
        with socket.socket() as another, pytest.raises(OSError, match="in use"):
            another.bind(("127.0.0.1", number))
        held.release()

    def test_a_unix_socket_needs_no_port(self) -> None:
        assert reserve("unix:/s", share=False).address == "unix:/s"

    @pytest.mark.parametrize("address", ["192.0.2.1:0", "no-such-host.invalid:1"])
    def test_an_address_that_cannot_be_had(self, address: str) -> None:
        with pytest.raises(ListenError, match="cannot listen at"):
            reserve(address, share=False)


class TestLatches:
    @pytest.mark.parametrize(
        ("one", "other", "same"),
        [
            ("pkcs11:token=t;object=a?module-path=/m", "pkcs11:object=b;token=t?module-path=/m", True),
            ("pkcs11:token=t;object=a?module-path=/m", "pkcs11:token=u;object=a?module-path=/m", False),
            ("pkcs11:token=t;object=a?module-path=/m", "pkcs11:token=t;object=a?module-path=/n", False),
            ("pkcs11:token=a%20b?module-path=/m", "pkcs11:token=a b?module-path=/m", True),
            ("pkcs11:token=t?module-path=/m", "pkcs11:serial=1?module-path=/m", True),  # it may be
            ("awskms:///a", "awskms:///b", False),
            ("software:a", "software:a", True),
        ],
    )
    def test_whether_a_token_is_the_same(self, one: str, other: str, same: bool) -> None:
        assert same_token(one, other) is same_token(other, one) is same

    def test_a_refused_pin_is_told_once_and_no_store_is_asked_again(self) -> None:
        asked: list[str] = []
        told: list[Latch] = []

        class Refusing:
            async def open_key(self, uri: str, fingerprint: str | None = None) -> Key:
                asked.append(uri)
                raise OperatorError("PIN", LATCH.message, LATCH.remedy)

            async def close(self) -> None:
                asked.append("close")

        latches = Latches(tell=told.append)
        store = latches.guard(lambda scheme: lambda settings: Refusing())("pkcs11")({})

        async def use() -> None:
            for uri in (LATCH.uri, LATCH.uri.replace("object=a", "object=b")):
                with pytest.raises(OperatorError, match="refused the PIN"):
                    await store.open_key(uri)
            await store.close()

        asyncio.run(use())
        assert asked == [LATCH.uri, "close"]
        assert told == list(latches.all) == [LATCH]

    def test_other_failures_latch_nothing(self) -> None:
        latches = Latches()
        latches.note(LATCH.uri, OperatorError("object", "there is none", "make it"))
        latches.note(LATCH.uri, UnavailableError("PIN", "it is away"))
        assert latches.refusal(LATCH.uri) is None
        assert latches.add(LATCH)
        assert not latches.add(LATCH)
        assert str(latches.refusal(LATCH.uri)) == "PIN: the token 't' refused the PIN; correct"


def report(**changes: object) -> bytes:
    """A report as a worker says it, with changes."""
    return json.dumps(
        {"state": "open", "unhealthy": [], "latches": [], "lost": False, "issues": {}, **changes}
    ).encode()


class TestWords:
    def test_a_worker_that_says_much_is_cut_short(self) -> None:
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
    def test_there_and_back(self, word: Event) -> None:
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
    def test_what_is_none(self, line: bytes) -> None:
        with pytest.raises(MalformedEventError):
            decode_event(line)

    def test_orders_over_a_pipe(self) -> None:
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

    def test_a_supervisor_that_is_gone(self) -> None:
        reading, writing = os.pipe()
        os.close(writing)
        with pytest.raises(EOFError):
            read_start(reading)
        os.close(reading)

    def test_an_ear_that_is_gone_is_no_error(self) -> None:
        async def speak() -> None:
            reading, writing = os.pipe()
            writer = await PipeWriter.open(writing)
            os.close(reading)
            writer.send(b"one")
            await writer.wait_closed()
            writer.send(b"two")

        asyncio.run(speak())


class TestRestarts:
    def test_delays_grow_and_are_forgotten_after_a_while(self) -> None:
        for delays in (RestartDelays() for _ in range(20)):
            waits = [delays.after(0.1) for _ in range(40)]
            assert waits[0] == 0.0
            assert all(0.75 * most < wait <= most for wait, most in zip(waits[1:5], (0.2, 0.4, 0.8, 1.6), strict=True))
            assert 0.75 * 30.0 < waits[-1] <= 30.0
            assert delays.after(60.0) == 0.0
            assert delays.after(0.1) <= 0.2

    def test_jitter_never_makes_a_later_delay_the_shorter(self) -> None:
        delays = RestartDelays()
        waits = [delays.after(0.1) for _ in range(8)]
        assert waits == sorted(waits)

    def test_silence_is_a_hang(self) -> None:
        watch = HangDetector(0.0, first_report_s=30.0)
        watch.reported(0.5, 2.0)
        assert [watch.is_hung(now, 0.5) for now in (1.0, 1.5, 2.0, 2.5, 3.0)] == [False] * 4 + [True]

    def test_a_supervisor_that_stood_still_blames_nobody(self) -> None:
        watch = HangDetector(0.0, first_report_s=30.0)
        watch.reported(0.5, 2.0)
        assert not watch.is_hung(1.0, 0.5)
        assert not watch.is_hung(100.0, 0.5)  # it was stopped, and has not read what the worker said since
        watch.reported(100.1, 2.0)
        assert not watch.is_hung(101.0, 0.5)
        assert not watch.is_hung(102.0, 0.5)
        assert watch.is_hung(103.0, 0.5)


class TestWhoListens:
    def test_a_worker_that_serves_no_less_than_the_others(self) -> None:
        none: frozenset[str] = frozenset()
        a, b = frozenset({"a"}), frozenset({"b"})
        assert may_listen(none, [none, a])
        assert may_listen(a, [])
        assert may_listen(a, [a | b])
        assert not may_listen(a, [none])
        assert not may_listen(a, [a, b])


class TestNumbers:
    def test_workers(self) -> None:
        assert [worker_count(config(number)) for number in (0, 1, 7)] == [0, 1, 7]
        assert worker_count(config()) == core_count() >= 1
        assert worker_count(config(4, "unix:/s")) == 1
        assert worker_count(config(0, "unix:/s")) == 0

    @pytest.mark.parametrize(
        ("own", "limits", "cores"),
        [
            ("0::/a.slice/b.service\n", {"a.slice/b.service": "50000 100000"}, 1),
            ("0::/a.slice/b.service\n", {"a.slice": "100000 100000", "a.slice/b.service": "max 100000"}, 1),
            ("0::/\n", {"": "100 100"}, 1),
            ("0::/\n", {"": "nonsense"}, None),
            ("0::/../../x\n", {"": "max 100000"}, None),
            ("1:cpu:/old\n", {}, None),
        ],
    )
    def test_cores_of_a_container(self, tmp_path: Path, own: str, limits: dict[str, str], cores: int | None) -> None:
        groups = tmp_path / "cgroup"
        groups.mkdir()
        for name, text in limits.items():
            (groups / name).mkdir(parents=True, exist_ok=True)
            (groups / name / "cpu.max").write_text(text)
        (tmp_path / "own").write_text(own)
        assert core_count(groups, tmp_path / "own") == (cores or core_count(groups, tmp_path / "none"))

    @pytest.mark.parametrize(
        ("code", "words"),
        [(3, "ended with exit code 3"), (-9, "was ended by SIGKILL"), (-40, "was ended by signal 40")],
    )
    def test_how_a_worker_ended(self, code: int, words: str) -> None:
        assert WorkerProcess(0, Mock()).describe_end(code) == words

    def test_exit_codes(self) -> None:
        away = KeyringError("demo", UnavailableError("network", "it is away"))
        refused = KeyringError("demo", OperatorError("PIN", "it was refused"))
        assert [start_error(error).code for error in (away, refused, ListenError("x"))] == [UNAVAILABLE, REFUSED, USAGE]
        assert str(start_error(ZeroDivisionError("x"))) == "internal error, ZeroDivisionError: x"
        same = StartError("x", 3)
        assert start_error(same) is same
