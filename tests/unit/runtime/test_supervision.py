"""Which worker listens, how many there are, and exit codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from privyseal_backends.interface import OperatorError, UnavailableError
from privyseal_service.config.loading import parse_config
from privyseal_service.config.root import Config
from privyseal_service.keys.keyring import KeyringError
from privyseal_service.runtime.start_errors import start_error
from privyseal_service.runtime.supervisor import may_listen
from privyseal_service.runtime.worker_config import worker_count
from privyseal_service.system.cpus import core_count
from privyseal_service.system.exit_codes import INTERNAL_ERROR, REFUSED, UNAVAILABLE, USAGE, StartError
from privyseal_service.system.sockets import ListenError


def config(workers: int | None = None, address: str = "127.0.0.1:0") -> Config:
    data: dict[str, Any] = {
        "listeners": [{"address": address, "auth": "none"}],
        "keys": [{"name": "demo", "uri": "software:demo", "schemes": ["capgo"]}],
    }
    if workers is not None:
        data["server"] = {"workers": workers}
    return parse_config(data, "server.toml", Path("/nonexistent"))


def test_a_worker_listens_unless_another_one_serves_more_keys() -> None:
    none: frozenset[str] = frozenset()
    a, b = frozenset({"a"}), frozenset({"b"})
    assert may_listen(none, [none, a])
    assert may_listen(a, [])
    assert may_listen(a, [a | b])
    assert not may_listen(a, [none])
    assert not may_listen(a, [a, b])


def test_workers() -> None:
    assert [worker_count(config(number)) for number in (0, 1, 7)] == [0, 1, 7]
    assert worker_count(config()) == core_count() >= 1
    assert worker_count(config(4, "unix:/s")) == 1
    assert worker_count(config(0, "unix:/s")) == 0


def test_exit_codes() -> None:
    away = KeyringError("demo", UnavailableError("network", "it is away"))
    refused = KeyringError("demo", OperatorError("PIN", "it was refused"))
    assert [start_error(error).code for error in (away, refused, ListenError("x"))] == [UNAVAILABLE, REFUSED, USAGE]
    assert start_error(ZeroDivisionError("x")).code == INTERNAL_ERROR
    same = StartError("x", 3)
    assert start_error(same) is same
