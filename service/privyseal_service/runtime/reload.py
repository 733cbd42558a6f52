"""Takes up a changed configuration: read and checked whole, then handed on; one that cannot be used changes nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from privyseal_backends.backoff import Backoff
from privyseal_service.config.changes import needs_restart
from privyseal_service.system.file_watch import LOOK_EVERY_S, Watch
from privyseal_service.telemetry.metrics import RELOAD_FAILURES, RELOADS

if TYPE_CHECKING:
    from privyseal_service.config.root import Config
    from privyseal_service.telemetry.active_issues import ActiveIssues

_LOG = logging.getLogger(__name__)

BACKOFF = Backoff(2.0, 60.0)

CONFIGURATION = "configuration"
"""What problems with the configuration are about."""


class UnusableError(Exception):
    """The configuration cannot be taken up while the service runs. The text is a sentence. Where it `heals`, that may
    be for now: something that it names is away."""

    def __init__(self, sentence: str, *, heals: bool = True) -> None:
        super().__init__(sentence)
        self.heals = heals


def check(old: Config, new: Config) -> None:
    """Look at all that can be looked at without a key store: what needs a restart, and every file that the
    configuration names. It reads files. Raises UnusableError."""
    from privyseal_service.api.tls import TlsError, load_tls  # noqa: PLC0415
    from privyseal_service.identity.jwks_sources import SourceError, read_key_file  # noqa: PLC0415 - a start needs none of it

    names = needs_restart(old, new)
    if names:
        raise UnusableError(f"a change of {', '.join(names)} needs a restart of the service", heals=False)
    try:
        for listener in new.listeners:
            if listener.auth != "none":
                load_tls(listener)
        for issuer in new.issuers:
            if issuer.jwks_file is not None:
                read_key_file(issuer)
    except (TlsError, SourceError) as error:
        raise UnusableError(str(error)) from None


class Reloader:
    """Reads the configuration when it is told to and hands it to `take`; with `server.watch` also when a file of it has
    changed, and again, with growing pauses, while what was refused may heal. `load` raises ConfigError. Changes are
    taken up one after another."""

    def __init__(
        self,
        load: Callable[[], Config],
        config: Config,
        take: Callable[[Config], Awaitable[None]],
        issues: ActiveIssues,
    ) -> None:
        self._load = load
        self._config = config
        self.read_s = time.time()
        self._take = take
        self._issues = issues
        self._one_at_a_time = asyncio.Lock()
        self._tasks: set[asyncio.Task[bool]] = set()
        self._failures = 0
        self._again_s: float | None = None

    @property
    def config(self) -> Config:
        """The configuration that is in force; it was read at `read_s`, seconds since 1970."""
        return self._config

    def reload_soon(self) -> None:
        """Reload, in a task of its own."""
        task = asyncio.create_task(self.reload())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def reload(self) -> bool:
        """Read, check and hand on; whether that went well. What did not is in the log, in a count, and in health."""
        from privyseal_service.config.errors import ConfigError  # noqa: PLC0415 - it is imported by now

        async with self._one_at_a_time:
            try:
                config = await asyncio.to_thread(self._load)
                await asyncio.to_thread(check, self._config, config)
                await self._take(config)
            except (ConfigError, UnusableError) as error:
                self._fail(str(error), heals=not isinstance(error, UnusableError) or error.heals)
                return False
            except Exception as error:  # noqa: BLE001 - whatever it is, the service goes on as it was
                _LOG.exception("taking up the configuration failed in a way that it should not")
                self._fail(f"it could not be taken up: {error}")
                return False
            self._config, self.read_s = config, time.time()
            self._again_s, self._failures = None, 0
            self._issues.counters.add(RELOADS)
            self._issues.clear(CONFIGURATION)
            _LOG.info("the configuration was read again: %d keys, %d grants", len(config.keys), len(config.grants))
            return True

    def _fail(self, sentence: str, *, heals: bool = True) -> None:
        stays, self._again_s = "the configuration stays as it was", None
        if heals and self._config.server.watch:
            self._failures += 1
            self._again_s = time.monotonic() + BACKOFF.delay_s(self._failures)
            stays += ", and the change is tried again from time to time"
        self._issues.set(CONFIGURATION, f"{stays}: {sentence}", RELOAD_FAILURES)

    async def keep_watching(self) -> None:
        """Reload whenever the files come to rest in another form, and when a change is to be tried again, for as
        long as the configuration says so."""
        watched, watch = self._config, Watch(self._config.files, self._config.seen)
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            if watched is not self._config:
                watched, watch = self._config, Watch(self._config.files, self._config.seen)
            if not self._config.server.watch:
                continue
            if await asyncio.to_thread(watch.changed):
                self._failures = 0
                await self.reload()
            elif watch.at_rest and self._again_s is not None and time.monotonic() >= self._again_s:
                await self.reload()
