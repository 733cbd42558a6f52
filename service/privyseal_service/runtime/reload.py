"""Reload of the configuration: it is read and checked whole, then applied; one that is refused changes nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from privyseal_backends.backoff import Backoff
from privyseal_service.config.changes import needs_restart
from privyseal_service.system.file_watch import CHECK_EVERY_S, FileWatch
from privyseal_service.telemetry.metrics import RELOAD_FAILURES, RELOADS

if TYPE_CHECKING:
    from privyseal_service.config.root import Config
    from privyseal_service.telemetry.active_issues import ActiveIssues

_LOG = logging.getLogger(__name__)

BACKOFF = Backoff(2.0, 60.0)

CONFIGURATION = "configuration"
"""The subject of issues with the configuration."""


class UnusableError(Exception):
    """The configuration cannot be applied to the running service. The text is a sentence, and `__cause__` the error of
    the part that refused it. `retry` is whether it may be usable later without a change of its files: something that it
    names may be unavailable only now."""

    def __init__(self, sentence: str, *, retry: bool = True) -> None:
        super().__init__(sentence)
        self.retry = retry


def check(old: Config, new: Config) -> None:
    """Check all that needs no key store: which changes need a restart, and every file that the configuration names.
    Reads files. Raises UnusableError."""
    from privyseal_service.api.tls import TlsError, load_tls  # noqa: PLC0415 - a start needs none of these
    from privyseal_service.identity.jwks_sources import SourceError, read_key_file  # noqa: PLC0415

    names = needs_restart(old, new)
    if names:
        raise UnusableError(f"a change of {', '.join(names)} needs a restart of the service", retry=False)
    try:
        for listener in new.listeners:
            if listener.auth != "none":
                load_tls(listener)
        for issuer in new.issuers:
            if issuer.jwks_file is not None:
                read_key_file(issuer)
    except (TlsError, SourceError) as error:
        raise UnusableError(str(error)) from error


class Reloader:
    """Reads the configuration on request, checks it and passes it to `apply`, one change after another.

    With `server.watch`, it also reloads when a file of the configuration has changed, and retries a refused change,
    with growing delays, while it may become usable. `load` raises ConfigError, `apply` UnusableError.
    """

    def __init__(
        self,
        load: Callable[[], Config],
        config: Config,
        apply: Callable[[Config], Awaitable[None]],
        issues: ActiveIssues,
    ) -> None:
        self._load = load
        self._config = config
        self.read_s = time.time()
        self._apply = apply
        self._issues = issues
        self._lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[bool]] = set()
        self._failures = 0
        self._retry_at_s: float | None = None

    @property
    def config(self) -> Config:
        """The configuration in force; it was read at `read_s`, seconds since 1970."""
        return self._config

    def reload_soon(self) -> None:
        """Reload in a task of its own."""
        task = asyncio.create_task(self.reload())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def reload(self) -> bool:
        """Read, check and apply the configuration; return whether it is in force now. A refused one becomes an active
        issue and is counted."""
        from privyseal_service.config.errors import ConfigError  # noqa: PLC0415 - it is imported by now

        async with self._lock:
            try:
                config = await asyncio.to_thread(self._load)
                await asyncio.to_thread(check, self._config, config)
                await self._apply(config)
            except (ConfigError, UnusableError) as error:
                self._fail(str(error), retry=not isinstance(error, UnusableError) or error.retry)
                return False
            except Exception as error:  # noqa: BLE001 - the service keeps its configuration after any error
                _LOG.exception("the configuration could not be applied because of an internal error")
                self._fail(f"it could not be applied: {error}")
                return False
            self._config, self.read_s = config, time.time()
            self._retry_at_s, self._failures = None, 0
            self._issues.counters.add(RELOADS)
            self._issues.clear(CONFIGURATION)
            _LOG.info("the configuration was reloaded: %d keys, %d grants", len(config.keys), len(config.grants))
            return True

    def _fail(self, sentence: str, *, retry: bool = True) -> None:
        prefix, self._retry_at_s = "the configuration stays as it was", None
        if retry and self._config.server.watch:
            self._failures += 1
            self._retry_at_s = time.monotonic() + BACKOFF.delay_s(self._failures)
            prefix += ", and the change is retried from time to time"
        self._issues.set(CONFIGURATION, f"{prefix}: {sentence}", RELOAD_FAILURES)

    async def keep_watching(self) -> None:
        """While `server.watch` is set, reload whenever the files are at rest in a new state, and when a retry is due.
        Runs until it is cancelled."""
        watched, watch = self._config, FileWatch(self._config.files, self._config.seen)
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            if watched is not self._config:
                watched, watch = self._config, FileWatch(self._config.files, self._config.seen)
            if not self._config.server.watch:
                continue
            if await asyncio.to_thread(watch.changed):
                self._failures = 0
                await self.reload()
            elif watch.at_rest and self._retry_at_s is not None and time.monotonic() >= self._retry_at_s:
                await self.reload()
