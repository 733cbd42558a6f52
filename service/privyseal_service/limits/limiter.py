"""Whether a grant's rate and quota hold: asked right before a key is used, with what the call costs.

Rates are counted in sliding windows, quotas by the day (UTC), both by the `limits` library: in a file that all workers
map, or in a Redis. Neither stalls the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from limits import RateLimitItemPerSecond
from limits.errors import ConfigurationError, StorageError
from limits.strategies import FixedWindowRateLimiter, SlidingWindowCounterRateLimiter

from privyseal_service.domain.grants import Counted, Grant
from privyseal_service.limits.shared_counters import ContendedError, CountersError, FileCounters
from privyseal_service.limits.sliding_window import Window, room_after_s
from privyseal_service.telemetry.metrics import COUNTING_FAILURES

if TYPE_CHECKING:
    from limits.aio.storage import RedisStorage

    from privyseal_service.config.limits import LimitsConfig
    from privyseal_service.telemetry.active_issues import ActiveIssues

_LOG = logging.getLogger(__name__)

_ABOUT = "limits"
_DAY_S = 86_400
_RECOVERED_AFTER_S = 60.0
"""How long counting in the file must succeed before the issue is cleared: a full table still counts some callers."""
_PAUSE_S = 1.0
"""How long no request is sent to a Redis that did not answer."""


class LimitsError(Exception):
    """Rates and quotas cannot be counted as configured, so the service cannot start. The text is a sentence."""


class UncountedError(Exception):
    """Rates and quotas cannot be counted now. The text is a sentence."""


@dataclass(frozen=True)
class Exceeded:
    """A limit that a call would exceed, in words, and when there is room for it. `ever`: whether there will be."""

    limit: str
    retry_after_s: float
    ever: bool


class Limiter(Protocol):
    """Counts what grants allow."""

    async def count(self, grant: Grant, caller: str, cost: int) -> Exceeded | None:
        """Count `cost` inputs; return None, or the limit that they would exceed, with nothing counted. Raises
        UncountedError."""

    async def close(self) -> None:
        """Stop counting."""


class NoLimiter:
    """The limiter of a configuration in which nothing is counted."""

    async def count(self, grant: Grant, caller: str, cost: int) -> Exceeded | None:  # noqa: ARG002 - the protocol's
        """Raise UncountedError: no grant of this configuration has a limit."""
        raise UncountedError("there is no place to count in")

    async def close(self) -> None:
        """Do nothing."""


class _Item(RateLimitItemPerSecond):
    """An amount in a window of seconds. Its name contains neither, so counts continue when they change."""

    def key_for(self, *identifiers: bytes | str | int | float) -> str:
        """Return the name of the count."""
        return "\0".join(map(str, identifiers))


def _names(kind: str, grant: Grant, caller: str, *more: str) -> tuple[str, ...]:
    return (kind, grant.name, caller if grant.counted is Counted.CALLER else "", *more)


def _quota(grant: Grant, caller: str, now_s: float) -> tuple[str, ...]:
    return _names("day", grant, caller, time.strftime("%Y-%m-%d", time.gmtime(now_s)))


def _over_quota(grant: Grant, cost: int, now_s: float) -> Exceeded:
    quota = grant.daily_quota or 0
    return Exceeded(f"{quota} a day", _DAY_S - now_s % _DAY_S, cost <= quota)


def _over_rate(grant: Grant, cost: int, window: Window) -> Exceeded:
    assert grant.rate is not None  # called only with a rate
    rate = grant.rate
    wait_s = room_after_s(window, rate.amount, rate.window_s, cost)
    return Exceeded(rate.text, max(0.05, wait_s), cost <= rate.amount)


class FileLimiter:
    """Counts in a file of the state folder that all workers share. Raises LimitsError."""

    def __init__(self, folder: Path, issues: ActiveIssues, *, clock: Callable[[], float] = time.time) -> None:
        file = folder / "limits"
        self._clock = clock
        self._issues = issues
        try:
            self._quick = _Counting(FileCounters(file, clock=clock), clock)
            self._patient = _Counting(FileCounters(file, patient=True, clock=clock), clock)
        except CountersError as error:
            raise LimitsError(str(error)) from None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="limits")
        self._failed_s: float | None = None

    async def count(self, grant: Grant, caller: str, cost: int) -> Exceeded | None:
        """See `Limiter.count`. Takes microseconds on the event loop; while the file is locked, a thread waits."""
        try:
            try:
                exceeded = self._quick.count(grant, caller, cost)
            except ContendedError:
                loop = asyncio.get_running_loop()
                exceeded = await loop.run_in_executor(self._thread, self._patient.count, grant, caller, cost)
        except (CountersError, ContendedError) as error:
            self._failed_s = time.monotonic()
            self._issues.set(_ABOUT, str(error) or "the file of counts is busy", COUNTING_FAILURES)
            raise UncountedError(str(error)) from error
        if self._failed_s is not None and time.monotonic() - self._failed_s >= _RECOVERED_AFTER_S:
            self._failed_s = None
            self._issues.clear(_ABOUT)
        return exceeded

    async def close(self) -> None:
        """Stop counting."""
        self._thread.shutdown()
        self._quick.storage.close()
        self._patient.storage.close()


class _Counting:
    """Both kinds of limit over one storage."""

    def __init__(self, storage: FileCounters, clock: Callable[[], float]) -> None:
        self.storage = storage
        self._clock = clock
        self._sliding = SlidingWindowCounterRateLimiter(storage)
        self._fixed = FixedWindowRateLimiter(storage)

    def count(self, grant: Grant, caller: str, cost: int) -> Exceeded | None:
        now_s = self._clock()
        if grant.daily_quota is not None:
            item, names = _Item(grant.daily_quota, _DAY_S), _quota(grant, caller, now_s)
            if not self._fixed.test(item, *names, cost=cost):
                return _over_quota(grant, cost, now_s)
        if grant.rate is not None:
            rate, rate_names = _Item(grant.rate.amount, grant.rate.window_s), _names("rate", grant, caller)
            if not self._sliding.hit(rate, *rate_names, cost=cost):
                found = self.storage.get_sliding_window(rate.key_for(*rate_names), grant.rate.window_s)
                return _over_rate(grant, cost, Window(found[0], found[2], found[3] - grant.rate.window_s))
        # Looked at again: another worker may have been as quick.
        if grant.daily_quota is not None and not self._fixed.hit(item, *names, cost=cost):
            return _over_quota(grant, cost, now_s)
        return None


class RedisLimiter:
    """Counts in a Redis that replicas share. While it is unavailable, calls are refused or, where so configured,
    allowed and not counted. Raises LimitsError."""

    def __init__(self, config: LimitsConfig, issues: ActiveIssues, *, clock: Callable[[], float] = time.time) -> None:
        self._config = config
        self._issues = issues
        self._clock = clock
        self._paused_until_s = 0.0
        self._storage = _redis(config)
        from limits.aio import strategies  # noqa: PLC0415 - with what only Redis needs

        self._sliding = strategies.SlidingWindowCounterRateLimiter(self._storage)
        self._fixed = strategies.FixedWindowRateLimiter(self._storage)

    async def count(self, grant: Grant, caller: str, cost: int) -> Exceeded | None:
        """See `Limiter.count`. Takes one to three round trips."""
        if time.monotonic() >= self._paused_until_s:
            try:
                exceeded = await asyncio.wait_for(self._count(grant, caller, cost), self._config.timeout_s)
            except (TimeoutError, StorageError, OSError) as error:
                self._paused_until_s = time.monotonic() + _PAUSE_S
                then = "are allowed uncounted" if self._allows else "are refused"
                # The error's own text may contain the address of the Redis and its user's name.
                reason = f"the Redis for rates and quotas does not answer ({type(error).__name__}): calls {then}"
                self._issues.set(_ABOUT, reason, COUNTING_FAILURES)
            else:
                self._issues.clear(_ABOUT)
                return exceeded
        if self._allows:
            return None
        raise UncountedError("the Redis for rates and quotas does not answer")

    async def answers(self) -> bool:
        """Whether the Redis answers and accepts the password, within `timeout_s`."""
        try:
            return await asyncio.wait_for(self._storage.check(), self._config.timeout_s)
        except (TimeoutError, StorageError, OSError):
            return False

    @property
    def _allows(self) -> bool:
        return self._config.when_away == "allow"

    async def _count(self, grant: Grant, caller: str, cost: int) -> Exceeded | None:
        now_s = self._clock()
        if grant.daily_quota is not None:
            item, names = _Item(grant.daily_quota, _DAY_S), _quota(grant, caller, now_s)
            if not await self._fixed.test(item, *names, cost=cost):
                return _over_quota(grant, cost, now_s)
        if grant.rate is not None:
            rate, rate_names = _Item(grant.rate.amount, grant.rate.window_s), _names("rate", grant, caller)
            if not await self._sliding.hit(rate, *rate_names, cost=cost):
                found = await self._storage.get_sliding_window(rate.key_for(*rate_names), grant.rate.window_s)
                return _over_rate(grant, cost, Window(found[0], found[2], found[3] - grant.rate.window_s))
        if grant.daily_quota is not None and not await self._fixed.hit(item, *names, cost=cost):
            return _over_quota(grant, cost, now_s)
        return None

    async def close(self) -> None:
        """Close the connections."""
        client: Any = getattr(self._storage.bridge, "storage", None)
        if client is not None:
            await client.aclose()


def _redis(config: LimitsConfig) -> RedisStorage:
    from limits.aio.storage import RedisStorage  # noqa: PLC0415 - only where replicas count together

    options: dict[str, Any] = {
        "socket_timeout": config.timeout_s,
        "socket_connect_timeout": config.timeout_s,
        "key_prefix": config.prefix,
    }
    if (config.storage or "").startswith("rediss:"):
        # Before release 6, the client accepted any name in the certificate.
        options["ssl_check_hostname"] = True
    if config.ca_file is not None:
        options["ssl_ca_certs"] = str(config.ca_file)
    try:
        if config.password_file is not None:
            options["password"] = config.password_file.read_text().strip()
        return RedisStorage(f"async+{config.storage}", wrap_exceptions=True, implementation="redispy", **options)
    except OSError as error:
        raise LimitsError(f"{config.password_file} cannot be read: {error.strerror}") from None
    except ConfigurationError:
        raise LimitsError(
            "limits.storage names a Redis, and its client is not installed: pip install 'privyseal[redis]'"
        ) from None


def make_limiter(config: LimitsConfig, state_folder: Path | None, *, counts: bool, issues: ActiveIssues) -> Limiter:
    """Return the configured limiter. `counts`: whether any grant has a rate or a quota. Raises LimitsError."""
    if config.storage is not None:
        return RedisLimiter(config, issues)
    if state_folder is not None and counts:
        return FileLimiter(state_folder, issues)
    return NoLimiter()
