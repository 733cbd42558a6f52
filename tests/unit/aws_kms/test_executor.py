"""Timeouts and waits of calls, without AWS."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from typing import cast
from unittest.mock import Mock

import pytest

from privyseal_backends.aws_kms.address import Connection
from privyseal_backends.aws_kms.credentials import Clients, make_clients
from privyseal_backends.aws_kms.executor import Executor, attempt_s
from privyseal_backends.aws_kms.settings import Settings
from privyseal_backends.interface import BusyError, DeadlineError, OperatorError, UnavailableError
from privyseal_backends.registry import backend


def test_another_attempt_after_throttling_needs_as_long_as_the_last_answer() -> None:
    busy, away = BusyError("quota", "throttled"), UnavailableError("network", "away")
    assert [attempt_s(took_s, busy) for took_s in (0.001, 0.02, 0.15)] == [0.02, 0.02, 0.15]
    assert [attempt_s(took_s, away) for took_s in (0.001, 3.0)] == [0.02, 0.02]


def test_throttling_reaches_the_caller_before_the_deadline_does() -> None:
    async def run() -> None:
        lane = Executor(Connection(region="eu-west-1"), Settings(), lambda *_: None)
        lane._clients = Clients(((1.0, Mock()),), "eu-west-1", "", "")

        def throttled_slowly(_: object) -> None:
            time.sleep(0.6)
            raise BusyError("quota", "throttled")

        with pytest.raises(BusyError) as caught:
            await lane.call(throttled_slowly, "key", time.monotonic() + 1.15)
        assert caught.value.retry_after_s >= 0.1
        await lane.close()

    asyncio.run(run())


def test_at_the_deadline_the_caller_hears_of_the_throttling_before_it() -> None:
    async def run() -> None:
        lane = Executor(Connection(region="eu-west-1"), Settings(), lambda *_: None)
        lane._clients = Clients(((1.0, Mock()),), "eu-west-1", "", "")
        slow, asked = threading.Event(), [0]

        def throttled_then_slow(_: object) -> None:
            asked[0] += 1
            if asked[0] > 1:
                slow.wait(20)
            raise BusyError("quota", "throttled")

        with pytest.raises(BusyError, match="throttled"):
            await lane.call(throttled_then_slow, "key", time.monotonic() + 0.5)
        slow.set()
        await lane.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("remaining_s", "chosen"), [(0.01, 0), (0.5, 0), (0.51, 1), (1.0, 1), (2.9, 2), (3.0, 2), (60.0, 2)]
)
def test_no_attempt_is_cut_short_and_no_thread_waits_longer_than_it_must(remaining_s: float, chosen: int) -> None:
    tiers = tuple((timeout_s, Mock()) for timeout_s in (0.5, 1.0, 3.0))
    assert Clients(tiers, "eu-west-1", "", "").for_remaining(remaining_s) is tiers[chosen][1]


def test_clients_make_one_attempt_with_the_configured_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "7")
    settings = Settings(connections=5, connect_timeout_s=1.0, read_timeout_s=9.0)
    clients = make_clients(Connection(region="eu-west-1"), settings)
    assert clients.endpoint == "https://kms.eu-west-1.amazonaws.com"
    assert clients.account == ""
    assert [timeout_s for timeout_s, _ in clients.tiers] == [1.0, 3.0, 9.0]
    for timeout_s, client in clients.tiers:
        config = client.meta.config
        assert config.read_timeout == timeout_s
        assert config.connect_timeout == 1.0
        assert config.max_pool_connections == 5
        assert config.retries == {"total_max_attempts": 1, "mode": "standard"}


def test_fips_endpoints() -> None:
    fips = make_clients(Connection(region="us-east-1", fips=True), Settings())
    assert fips.endpoint == "https://kms-fips.us-east-1.amazonaws.com"
    named = Connection(region="us-east-1", endpoint="https://vpce-1-2.kms-fips.us-east-1.vpce.amazonaws.com", fips=True)
    assert make_clients(named, Settings()).endpoint == named.endpoint
    with pytest.raises(OperatorError, match="not a FIPS one"):
        make_clients(
            Connection(region="us-east-1", endpoint="https://kms.us-east-1.amazonaws.com", fips=True), Settings()
        )


def test_an_endpoint_of_the_aws_configuration_is_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "http://kms.example")
    with pytest.raises(OperatorError, match="plain http"):
        make_clients(Connection(region="us-east-1"), Settings())


def test_a_deadline_that_passed_begins_nothing() -> None:
    async def run() -> None:
        lane = Executor(Connection(region="eu-west-1"), Settings(), lambda *_: None)
        client = Mock()
        lane._clients = Clients(((1.0, client),), "eu-west-1", "", "")
        with pytest.raises(DeadlineError):
            await lane.call(lambda each: cast("None", each.sign()), "key", time.monotonic(), metered=True)
        client.sign.assert_not_called()
        await lane.close()

    asyncio.run(run())


def test_the_registry_loads_boto3_for_an_awskms_key_alone() -> None:
    program = (
        "import sys, privyseal_backends.registry as registry\n"
        "assert 'boto3' not in sys.modules and 'botocore' not in sys.modules\n"
        "registry.backend('awskms')\n"
        "assert 'boto3' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert backend("awskms").__module__ == "privyseal_backends.aws_kms.store"
