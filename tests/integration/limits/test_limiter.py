"""Rates and quotas of grants: counted by what a call costs, together, and refused when they cannot be counted."""

from __future__ import annotations

import asyncio
import dataclasses
import fcntl
import os
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from privyseal_service.config.limits import LimitsConfig
from privyseal_service.domain.grants import Counted, Grant, Rate
from privyseal_service.limits.limiter import (
    FileLimiter,
    Limiter,
    LimitsError,
    NoLimiter,
    RedisLimiter,
    UncountedError,
    make_limiter,
)
from privyseal_service.runtime.preflight import check_limits
from privyseal_service.telemetry.active_issues import ActiveIssues
from privyseal_service.telemetry.metrics import Counters
from tests.fakes.redis_server import FakeRedis
from tests.support.pki import CA, SERVER

GRANT = Grant("g", (), frozenset(), frozenset())
FAR = Rate(10, 86_400, "10/day")
"""A rate whose window a test does not see the end of, unless it runs at midnight: then half of it is free at most."""


def grant(**more: object) -> Grant:
    return dataclasses.replace(GRANT, **more)  # type: ignore[arg-type]


@pytest.fixture
def issues() -> ActiveIssues:
    return ActiveIssues(Counters())


@pytest.fixture
def redis() -> Iterator[FakeRedis]:
    with FakeRedis().running() as running:
        yield running


@pytest.fixture(params=["file", "redis"])
def run(
    request: pytest.FixtureRequest, tmp_path: Path, redis: FakeRedis, issues: ActiveIssues
) -> Callable[[Callable[[Limiter], Awaitable[None]]], None]:
    """Runs a coroutine with a limiter of each kind."""

    async def with_limiter(work: Callable[[Limiter], Awaitable[None]]) -> None:
        limiter: Limiter
        if request.param == "file":
            limiter = FileLimiter(tmp_path, issues, clock=lambda: 1_000_000_000.0 + time.monotonic() % 1)
        else:
            limiter = RedisLimiter(LimitsConfig(storage=redis.url, timeout_s=5.0), issues)
        try:
            await work(limiter)
        finally:
            await limiter.close()

    return lambda work: asyncio.run(with_limiter(work))


Run = Callable[[Callable[[Limiter], Awaitable[None]]], None]


def test_a_batch_counts_its_size(run: Run) -> None:
    async def work(limiter: Limiter) -> None:
        limited = grant(rate=FAR)
        assert await limiter.count(limited, "a", 7) is None
        over = await limiter.count(limited, "a", 4)
        assert over is not None
        assert (over.limit, over.ever) == ("10/day", True)
        assert over.retry_after_s > 60
        # What was refused cost nothing.
        assert await limiter.count(limited, "a", 3) is None
        over = await limiter.count(limited, "a", 11)
        assert over is not None
        assert not over.ever

    run(work)


def test_a_quota_is_of_the_day(run: Run) -> None:
    async def work(limiter: Limiter) -> None:
        limited = grant(daily_quota=5)
        assert await limiter.count(limited, "a", 4) is None
        over = await limiter.count(limited, "b", 2)
        assert over is not None
        assert over.limit == "5 a day"
        assert 0 < over.retry_after_s <= 86_400
        assert await limiter.count(limited, "b", 1) is None

    run(work)


def test_what_a_quota_refuses_does_not_use_up_the_rate(run: Run) -> None:
    async def work(limiter: Limiter) -> None:
        both = grant(rate=FAR, daily_quota=6)
        assert await limiter.count(both, "a", 6) is None
        for _ in range(5):
            assert await limiter.count(both, "a", 1) is not None
        assert await limiter.count(grant(rate=FAR), "a", 4) is None

    run(work)


def test_callers_are_counted_together_or_each_alone(run: Run) -> None:
    async def work(limiter: Limiter) -> None:
        alone = grant(daily_quota=2, counted=Counted.CALLER)
        assert [await limiter.count(alone, name, 2) for name in ("a", "b")] == [None, None]
        assert await limiter.count(alone, "a", 1) is not None
        other = grant(name="other", daily_quota=2)
        assert await limiter.count(other, "a", 2) is None

    run(work)


def test_a_limit_that_is_raised_goes_on_counting(run: Run) -> None:
    async def work(limiter: Limiter) -> None:
        assert await limiter.count(grant(daily_quota=5), "a", 5) is None
        assert await limiter.count(grant(daily_quota=7), "a", 3) is not None
        assert await limiter.count(grant(daily_quota=7), "a", 2) is None

    run(work)


def test_two_limiters_count_together(tmp_path: Path, issues: ActiveIssues) -> None:
    async def work() -> None:
        one, two = FileLimiter(tmp_path, issues), FileLimiter(tmp_path, issues)
        assert await one.count(grant(daily_quota=5), "a", 3) is None
        assert await two.count(grant(daily_quota=5), "a", 3) is not None
        await one.close()
        await two.close()

    asyncio.run(work())


def test_the_loop_goes_on_while_somebody_holds_the_file(tmp_path: Path, issues: ActiveIssues) -> None:
    async def work() -> None:
        limiter = FileLimiter(tmp_path, issues)
        holder = os.open(tmp_path / "limits", os.O_RDWR)
        fcntl.flock(holder, fcntl.LOCK_EX)
        counting = asyncio.create_task(limiter.count(grant(daily_quota=5), "a", 3))
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert not counting.done()
        os.close(holder)
        assert await counting is None
        await limiter.close()

    asyncio.run(work())


def test_a_file_that_nobody_lets_go_of(tmp_path: Path, issues: ActiveIssues, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("privyseal_service.limits.shared_counters._PATIENCE_S", 0.05)

    async def work() -> None:
        limiter = FileLimiter(tmp_path, issues)
        holder = os.open(tmp_path / "limits", os.O_RDWR)
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(UncountedError):
            await limiter.count(grant(daily_quota=5), "a", 3)
        os.close(holder)
        assert await limiter.count(grant(daily_quota=5), "a", 1) is None
        assert "limits" in issues.current, "it succeeded for a moment only"
        monkeypatch.setattr("privyseal_service.limits.limiter._RECOVERED_AFTER_S", 0.0)
        assert await limiter.count(grant(daily_quota=5), "a", 1) is None
        await limiter.close()

    asyncio.run(work())
    assert issues.current == {}
    assert issues.counters.snapshot()["limits", "not-counted"] == 1


@pytest.mark.parametrize("fault", ["away", "silent"])
def test_a_redis_that_is_away(redis: FakeRedis, issues: ActiveIssues, fault: str) -> None:
    async def work() -> None:
        closed = RedisLimiter(LimitsConfig(storage=redis.url, timeout_s=0.2), issues)
        opened = RedisLimiter(LimitsConfig(storage=redis.url, timeout_s=0.2, when_away="allow"), issues)
        limited = grant(daily_quota=2)
        assert await closed.count(limited, "a", 1) is None
        redis.stop() if fault == "away" else redis.silent.set()
        for _ in range(50):
            with pytest.raises(UncountedError):
                await closed.count(limited, "a", 1)
            assert await opened.count(limited, "a", 100) is None
        # It was asked once by each, and then left alone for a while.
        assert issues.counters.snapshot()["limits", "not-counted"] == 2
        assert "does not answer" in issues.current["limits"]
        redis.start() if fault == "away" else redis.silent.clear()
        closed._paused_until_s = opened._paused_until_s = 0.0
        assert await closed.count(limited, "a", 1) is None
        assert await opened.count(limited, "a", 1) is not None
        assert issues.current == {}
        await closed.close()
        await opened.close()

    asyncio.run(work())


def test_check_asks_the_redis(redis: FakeRedis, tmp_path: Path) -> None:
    def check(**more: object) -> list[tuple[str, str]]:
        found = asyncio.run(check_limits(LimitsConfig(storage=redis.url, timeout_s=5.0, **more)))  # type: ignore[arg-type]
        return [(finding.part, finding.line()) for finding in found]

    assert asyncio.run(check_limits(LimitsConfig())) == []
    assert check()[0][0] == ""
    redis.password = "correct-horse"
    ((part, line),) = check()
    assert (part, "refuses the password; check its address" in line) == ("network", True)
    ((part, line),) = check(when_away="allow")
    assert (part, "calls are allowed uncounted" in line) == ("", True)
    ((part, line),) = check(password_file=tmp_path / "none")
    assert (part, "cannot be read" in line) == ("limits", True)
    (tmp_path / "password").write_text("correct-horse\n")
    assert check(password_file=tmp_path / "password")[0][0] == ""


def test_a_password_from_a_file(redis: FakeRedis, issues: ActiveIssues, tmp_path: Path) -> None:
    redis.password = "correct-horse"
    (tmp_path / "right").write_text("correct-horse\n")
    (tmp_path / "wrong").write_text("battery\n")

    async def work() -> None:
        right = RedisLimiter(LimitsConfig(storage=redis.url, password_file=tmp_path / "right"), issues)
        assert await right.count(grant(daily_quota=2), "a", 1) is None
        wrong = RedisLimiter(LimitsConfig(storage=redis.url, password_file=tmp_path / "wrong"), issues)
        with pytest.raises(UncountedError):
            await wrong.count(grant(daily_quota=2), "a", 1)
        await right.close()
        await wrong.close()

    asyncio.run(work())
    assert "battery" not in str(issues.current)
    with pytest.raises(LimitsError, match="cannot be read"):
        RedisLimiter(LimitsConfig(storage=redis.url, password_file=tmp_path / "none"), issues)


@pytest.mark.parametrize("name", ["127.0.0.1", "127.0.0.2"])
def test_a_redis_with_tls_is_the_one_that_was_meant(
    redis: FakeRedis, issues: ActiveIssues, tmp_path: Path, name: str
) -> None:
    """Else any certificate of the CA would do, and counts would be somebody else's to make up."""
    ca = CA()
    issued = ca.issue(ips=[name], usages=(SERVER,))
    redis.stop()
    redis.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    redis.tls.load_cert_chain(*issued.write(tmp_path, "redis"))
    redis.start()

    async def work() -> None:
        limiter = RedisLimiter(LimitsConfig(storage=redis.url, ca_file=ca.write(tmp_path), timeout_s=5.0), issues)
        try:
            assert await limiter.count(grant(daily_quota=2), "a", 1) is None
        finally:
            await limiter.close()

    if name in redis.url:
        asyncio.run(work())
    else:
        with pytest.raises(UncountedError):
            asyncio.run(work())


def test_where_it_is_counted(tmp_path: Path, issues: ActiveIssues) -> None:
    assert isinstance(make_limiter(LimitsConfig(), None, counts=False, issues=issues), NoLimiter)
    assert isinstance(make_limiter(LimitsConfig(), tmp_path, counts=False, issues=issues), NoLimiter)
    (tmp_path / "limits").write_text("mine")
    with pytest.raises(LimitsError):
        make_limiter(LimitsConfig(), tmp_path, counts=True, issues=issues)
    with pytest.raises(UncountedError):
        asyncio.run(NoLimiter().count(grant(daily_quota=2), "a", 1))
