"""Reading the configuration again."""

from __future__ import annotations

import asyncio
import copy
from pathlib import Path
from typing import Any

import pytest

from privyseal.v1.signing_pb2_grpc import SigningServiceStub
from privyseal_backends.backoff import Backoff
from privyseal_service.config.errors import ConfigError
from privyseal_service.config.loading import parse_config
from privyseal_service.config.root import Config
from privyseal_service.identity.jwks_sources import SourceError
from privyseal_service.runtime.reload import Reloader, UnusableError, check
from privyseal_service.system.file_watch import FileWatch
from privyseal_service.telemetry.active_issues import ActiveIssues
from privyseal_service.telemetry.metrics import RELOAD_FAILURES, RELOADS, Counters
from tests.support.farm import SIGN
from tests.support.refusals import refused
from tests.support.service import RunningService


class Reading:
    """A reloader over a configuration that a test changes."""

    def __init__(self, running: RunningService, config: dict[str, Any]) -> None:
        self.data: dict[str, Any] | Exception = config
        self.issues = ActiveIssues(Counters())
        first = parse_config(config, "server.toml", Path("/nonexistent"))
        self.reloader = Reloader(self.load, first, running.service.reload, self.issues)

    def load(self) -> Config:
        if isinstance(self.data, Exception):
            raise self.data
        return parse_config(self.data, "server.toml", Path("/nonexistent"))


def test_a_bad_configuration_changes_nothing(
    running: RunningService, config: dict[str, Any], signing: SigningServiceStub, caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:  # fmt: skip
    reading = Reading(running, config)
    (tmp_path / "bad.pem").write_text("junk")
    moved = copy.deepcopy(config)
    moved["listeners"][0]["address"] = "127.0.0.1:7"
    no_ca = copy.deepcopy(config)
    no_ca["listeners"][0]["client_cas"][0]["file"] = str(tmp_path / "bad.pem")
    no_ca["grants"] = []
    bad: list[dict[str, Any] | Exception] = [
        {**config, "grants": [{**config["grants"][0], "keys": ["none"]}]}, moved, no_ca, ConfigError("x: is not TOML"),
        ZeroDivisionError("a defect"),
    ]  # fmt: skip
    for number, data in enumerate(bad, 1):
        reading.data = data
        assert running.run(reading.reloader.reload()) is False
        assert reading.issues.counters.snapshot() == {RELOAD_FAILURES: number}
        assert "stays as it was" in reading.issues.current["configuration"]
        assert signing.SignChecksum(SIGN, timeout=10).signature
    assert "the configuration stays as it was" in caplog.text
    reading.data = {**config, "grants": []}
    assert running.run(reading.reloader.reload()) is True
    assert (reading.issues.current, reading.issues.counters.snapshot()[RELOADS]) == ({}, 1)
    assert refused(lambda: signing.SignChecksum(SIGN, timeout=10)).reason == "NO_GRANT"


def test_a_refused_change_is_retried_where_files_are_watched(
    running: RunningService, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What refused it may have been away for a moment, and no file of the configuration changes when it is back."""
    monkeypatch.setattr("privyseal_service.runtime.reload.CHECK_EVERY_S", 0.01)
    monkeypatch.setattr("privyseal_service.runtime.reload.BACKOFF", Backoff(0.01, 0.01))
    watched = {**config, "server": {**config["server"], "watch": True}}
    reading = Reading(running, watched)
    reading.data = ConfigError("the folder of grants cannot be read")
    counted = reading.issues.counters

    async def heal() -> None:
        assert not await reading.reloader.reload()
        assert "is retried from time to time: the folder" in reading.issues.current["configuration"]
        watching = asyncio.create_task(reading.reloader.keep_watching())
        while counted.snapshot()[RELOAD_FAILURES] < 3:
            await asyncio.sleep(0.01)
        reading.data = {**watched, "grants": []}
        while reading.issues.current:
            await asyncio.sleep(0.01)
        watching.cancel()

    running.run(heal())
    assert counted.snapshot()[RELOADS] == 1


def test_a_change_that_needs_a_restart_is_not_retried(
    running: RunningService, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = []

    def look(watch: FileWatch) -> bool:
        looks.append(watch)
        return False

    monkeypatch.setattr("privyseal_service.runtime.reload.CHECK_EVERY_S", 0.0)
    monkeypatch.setattr("privyseal_service.runtime.reload.BACKOFF", Backoff(0.0, 0.0))
    monkeypatch.setattr(FileWatch, "changed", look)
    watched = {**config, "server": {**config["server"], "watch": True}}
    reading = Reading(running, watched)
    reading.data = copy.deepcopy(watched)
    reading.data["listeners"][0]["address"] = "127.0.0.1:7"

    async def wait() -> None:
        assert not await reading.reloader.reload()
        watching = asyncio.create_task(reading.reloader.keep_watching())
        while len(looks) < 5:
            await asyncio.sleep(0.01)
        watching.cancel()

    running.run(wait())
    assert reading.issues.counters.snapshot() == {RELOAD_FAILURES: 1}
    assert "retried" not in reading.issues.current["configuration"]


def test_issuers_files_are_checked_before(oidc: dict[str, Any], tmp_path: Path) -> None:
    good = parse_config(oidc, "server.toml", Path("/nonexistent"))
    check(good, good)
    (tmp_path / "jwks.json").write_text("{}")
    with pytest.raises(UnusableError) as caught:
        check(good, good)
    assert isinstance(caught.value.__cause__, SourceError)
