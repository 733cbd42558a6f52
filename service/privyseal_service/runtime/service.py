"""The service in one process: it opens the keys, listens, applies changes, and stops in order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server

from privyseal_backends.registry import backend
from privyseal_service.api.audit_queries import AuditCalls
from privyseal_service.api.handlers import AUDIT_SERVICE, KEY_SERVICE, SIGNING_SERVICE
from privyseal_service.api.health import HEALTH_SERVICE, Health
from privyseal_service.api.listener import Listener, Trust
from privyseal_service.api.reflection import Reflection
from privyseal_service.api.server_choice import choose_server
from privyseal_service.api.tls import TlsError, TlsMaterial, load_tls
from privyseal_service.audit.recorder import AuditRecorder
from privyseal_service.domain.decisions import Recorder
from privyseal_service.domain.grants import Grants
from privyseal_service.keys.keyring import Keyring, KeyringError, PreparedKeys
from privyseal_service.keys.served_key import KeyState
from privyseal_service.keys.stores import Stores
from privyseal_service.limits.limiter import Limiter, LimitsError, NoLimiter, make_limiter
from privyseal_service.runtime.reload import UnusableError
from privyseal_service.signing.call_path import CallPath
from privyseal_service.system.file_watch import CHECK_EVERY_S
from privyseal_service.telemetry.active_issues import ActiveIssues
from privyseal_service.telemetry.decision_log import LogRecorder
from privyseal_service.telemetry.metrics import Counters, Series

if TYPE_CHECKING:
    from privyseal_backends.interface import OpenStore
    from privyseal_service.config.root import Config
    from privyseal_service.identity.jwks_sources import KeySource

_LOG = logging.getLogger(__name__)

_MIN_DRAIN_S = 0.05
"""The least time before a stop: gRPC cancels a call that has arrived and has no handler yet
(github.com/grpc/grpc/issues/41785)."""

_LOST_GRACE_S = 2.0
"""How long calls in flight have to finish in a process that has lost a key store."""

_SETTLE_S = 5.0
"""How long calls that a stop ended may take to be recorded."""

_HEALTHY = frozenset({KeyState.SERVING, KeyState.FROZEN})


@dataclass(frozen=True)
class Prepared:
    """Another configuration with everything that serving it needs. Either `Service.apply` it, or `discard` it."""

    config: Config
    tls: Sequence[TlsMaterial | None]
    limiter: Limiter
    sources: Mapping[str, KeySource]
    keys: PreparedKeys
    undo: AsyncExitStack

    async def discard(self) -> None:
        """Close what was opened only for this configuration."""
        await self.undo.aclose()


class Service:
    """The whole service: `start`, then `stop`; it cannot be started again. `on_change` is called when a key's state
    changes."""

    def __init__(
        self,
        config: Config,
        *,
        backends: Callable[[str], OpenStore] = backend,
        recorder: Recorder | None = None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self.issues = ActiveIssues(Counters(), self._on_issue_change)
        self._keyring = Keyring(config.keys, Stores(config.stores, backends))
        audit = config.audit if config.audit and config.audit.enabled else None
        self._recorder = recorder or (AuditRecorder(audit) if audit else LogRecorder())
        self._path = CallPath(_grants(config), self._keyring, self._recorder, counters=self.issues.counters)
        self._audit = AuditCalls(audit, self._path) if audit else None
        services = [SIGNING_SERVICE, KEY_SERVICE, *([AUDIT_SERVICE] if audit else [])]
        self._health = Health(services, frozenset([SIGNING_SERVICE]))
        self._lost = asyncio.Event()
        self._on_change = on_change
        self._keyring.on_change(self._keys_changed)
        self._reflection = Reflection([*services, HEALTH_SERVICE])
        self._sources: dict[str, KeySource] = {}
        self._limiters: list[Limiter] = []
        self._tls: list[TlsMaterial | None] = []
        self._listeners: list[Listener] = []
        self._external_issues: dict[str, str] = {}
        self._opened = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._config

    @property
    def addresses(self) -> list[tuple[str, str]]:
        """The `auth` and the address (with the real port) of each listener, once it is started."""
        return [(listener.config.auth, listener.address) for listener in self._listeners]

    async def start(self) -> None:
        """Open the keys, then accept calls. Raises TlsError, SourceError, LimitsError, KeyringError, ListenError."""
        await self.open()
        await self.listen()

    async def open(self, *, strict: bool = True) -> None:
        """Read the listeners' certificates and the issuers' keys, start the limiter and the recorder, and open the
        keys. Raises TlsError, SourceError, LimitsError, AuditUnavailableError, KeyringError; see `Keyring.open`."""
        config, self._loop = self._config, asyncio.get_running_loop()
        self._tls = _load_all(config)
        self._sources = self._sources_for(config)
        self._limiters = [self._make_limiter(config)]
        self._path.adopt(_grants(config), self._limiters[0])
        await self._recorder.start(self._health.records)
        waits = [asyncio.to_thread(each.wait, config.server.open_wait_s) for each in self._sources.values()]
        await asyncio.gather(self._keyring.open(config.server.open_wait_s, strict=strict), *waits)
        self._opened.set()

    def _make_limiter(self, config: Config) -> Limiter:
        counts = any(grant.rate or grant.daily_quota for grant in config.grants)
        return make_limiter(config.limits, config.server.state_folder, counts=counts, issues=self.issues)

    def _keys_changed(self) -> None:
        self._health.keys(self._keyring.serves)
        if self._keyring.lost is not None:
            self._lost.set()
        else:
            self._lost.clear()
        self._on_change()

    @property
    def lost(self) -> asyncio.Event:
        """Set while a key store is lost to this process, so that a new process should replace it."""
        return self._lost

    @property
    def unhealthy(self) -> frozenset[str]:
        """The keys that do not serve now, and should."""
        return frozenset(key.name for key in self._keyring.keys.values() if key.state not in _HEALTHY)

    @property
    def active_issues(self) -> dict[str, str]:
        """The active issues of this process, in sentences by subject, with one for each unhealthy key."""
        found = dict(self.issues.current)
        if not self._health.recording:
            found["audit trail"] = "decisions cannot be recorded, so no call is answered; the log has the reason"
        for key in self._keyring.keys.values():
            if key.state not in _HEALTHY:
                found[f"key {key.name!r}"] = f"it is {key.state.value}: {key.problem or 'it is being opened'}"
        return found

    def numbers(self) -> dict[Series, float]:
        """Return the counters and gauges of this process."""
        found = {**self.issues.counters.snapshot(), **self._path.numbers()}
        found["ready",] = float(self._health.ready)
        found["audit_writable",] = float(self._health.recording)
        found["problems",] = float(len(self.active_issues))
        for key in self._keyring.keys.values():
            found["keys", key.name, key.state.value] = 1.0
        return found

    async def listen(self) -> None:
        """Accept calls. Raises ListenError."""
        trust = self._trust(self._config)
        server_type = choose_server(self._config.server.grpc)
        _LOG.info("%s", server_type.reason)
        for config, material in zip(self._config.listeners, self._tls, strict=True):
            listener = Listener(config, material, trust, self.issues)
            listener.build(server_type, self._config.server, self._path, self._audit)
            add_HealthServicer_to_server(self._health, listener.server)  # type: ignore[arg-type]  # it asks for no more
            add_ServerReflectionServicer_to_server(self._reflection, listener.server)  # type: ignore[no-untyped-call]
            self._listeners.append(listener)
        for made in self._listeners:
            await made.server.start()
        self._watching = asyncio.create_task(self._watch_files(), name="watch files")
        self._health.serve()

    def _trust(self, config: Config) -> Trust:
        if not config.issuers:
            return Trust(config.identity.denied(), ())
        from privyseal_service.identity.tokens import Issuer  # noqa: PLC0415 - a fifth of all imports

        issuers = tuple(Issuer(issuer, self._sources[issuer.issuer]) for issuer in config.issuers)
        return Trust(config.identity.denied(), issuers)

    async def _watch_files(self) -> None:
        """Apply changes of listeners' and issuers' files, and log calls that were only counted."""
        while True:
            await asyncio.sleep(CHECK_EVERY_S)
            self._path.identity_failures.sum_up()
            await self.reload_files()

    async def reload_files(self) -> None:
        """Check the files of listeners and issuers once, and apply what has changed."""
        for listener in self._listeners:
            with _logging_errors(listener.address):
                fresh = await asyncio.to_thread(listener.look)
                if fresh is not None:
                    listener.take(fresh)
        for name, each in list(self._sources.items()):
            with _logging_errors(name):
                await asyncio.to_thread(each.look)

    async def reload(self, config: Config) -> None:
        """Change to another configuration: `prepare`, then `apply`. Raises UnusableError, and nothing has changed
        then."""
        self.apply(await self.prepare(config))

    async def prepare(self, config: Config) -> Prepared:
        """Do every part of a change that can fail, and change nothing yet: read files, open and check the keys that are
        new or changed (`Keyring.prepare`). Waits until `open` is done. Raises UnusableError."""
        from privyseal_service.identity.jwks_sources import SourceError  # noqa: PLC0415 - a start needs none of it

        await self._opened.wait()
        try:
            return await self._prepare(config)
        except (TlsError, LimitsError, SourceError, KeyringError) as error:
            raise UnusableError(str(error)) from error

    async def _prepare(self, config: Config) -> Prepared:
        async with AsyncExitStack() as undo:
            tls = await asyncio.to_thread(_load_all, config)
            limiter = await asyncio.to_thread(self._limiter_for, config)
            if limiter not in self._limiters:
                undo.push_async_callback(limiter.close)
            sources = await asyncio.to_thread(self._sources_for, config)
            for name, each in sources.items():
                if self._sources.get(name) is not each:
                    undo.callback(each.close)
            keys = await self._keyring.prepare(config.keys, config.server.open_wait_s)
            undo.callback(keys.close)
            return Prepared(config, tls, limiter, sources, keys, undo.pop_all())

    def apply(self, prepared: Prepared) -> None:
        """Apply a change: keys, grants, issuers, limits, denied certificates and the listeners' files, in one step of
        the event loop. Nothing here can fail.

        Calls in flight finish under the grants with which they began; a frozen key is frozen for them too.
        """
        config = prepared.config
        gone = [each for name, each in self._sources.items() if prepared.sources.get(name) is not each]
        self._sources = dict(prepared.sources)
        if prepared.limiter not in self._limiters:
            self._limiters.append(prepared.limiter)
        self._keyring.adopt(prepared.keys)
        self._path.adopt(_grants(config), prepared.limiter)
        self._tls = list(prepared.tls)
        trust = self._trust(config)
        for listener, listener_config, tls in zip(self._listeners, config.listeners, prepared.tls, strict=False):
            listener.adopt(listener_config, tls, trust)
        self._config = config
        for each in gone:
            each.close()

    def _limiter_for(self, config: Config) -> Limiter:
        """Return the limiter for another configuration. Earlier limiters stay open, for calls in flight."""
        current = self._limiters[-1]
        if config.limits == self._config.limits and not isinstance(current, NoLimiter):
            return current
        return self._make_limiter(config)

    def _sources_for(self, config: Config) -> dict[str, KeySource]:
        """Return the sources of issuers' keys by the issuers' names; new sources are started. Raises SourceError."""
        if not config.issuers:
            return {}
        from privyseal_service.identity.jwks_sources import source  # noqa: PLC0415 - as above

        found: dict[str, KeySource] = {}
        started: list[KeySource] = []
        try:
            for issuer in config.issuers:
                known = self._sources.get(issuer.issuer)
                if known is None or known.config != issuer:
                    known = source(issuer, self.issues, config.server.state_folder)
                    known.start()
                    started.append(known)
                found[issuer.issuer] = known
        except BaseException:
            for each in started:
                each.close()
            raise
        return found

    def set_external_issue(self, subject: str, sentence: str) -> None:
        """Show an issue of another process in the health detail; with an empty sentence, clear it."""
        self._external_issues = {**self._external_issues, subject: sentence}
        self._update_health()

    def _on_issue_change(self) -> None:
        """Update health, from any thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._update_health)

    def _update_health(self) -> None:
        external = {subject: sentence for subject, sentence in self._external_issues.items() if sentence}
        self._health.problems = {**external, **self.issues.current}

    async def drain(self) -> None:
        """Report NOT_SERVING, wait for load balancers to react, then `stop`. It is short when it is cancelled, and
        where a key store is lost: calls in flight can hardly finish then."""
        self._health.stop()
        try:
            if self._listeners:
                await asyncio.sleep(max(_MIN_DRAIN_S, 0.0 if self._lost.is_set() else self._config.server.drain_wait_s))
        finally:
            grace_s = self._config.server.shutdown_grace_s
            await self.stop(min(_LOST_GRACE_S, grace_s) if self._lost.is_set() else grace_s)

    async def stop(self, grace_s: float) -> None:
        """Report NOT_SERVING, accept no more calls, give calls in flight `grace_s` to finish, and close the recorder
        and the key stores."""
        self._health.stop()
        self._reflection.stop()
        if self._watching is not None:
            self._watching.cancel()
        await asyncio.gather(*(listener.server.stop(grace_s) for listener in self._listeners))
        await self._path.settle(_SETTLE_S)
        self._path.identity_failures.sum_up()
        await self._recorder.close()
        if self._audit is not None:
            self._audit.close()
        for each in self._sources.values():
            each.close()
        for limiter in self._limiters:
            await limiter.close()
        self._limiters = []
        await self._keyring.close()


@contextmanager
def _logging_errors(subject: str) -> Iterator[None]:
    """Log any error: the other files, and these later, must still be checked."""
    try:
        yield
    except Exception:  # noqa: BLE001 - as above
        _LOG.exception("%s: its files could not be checked because of an internal error", subject)


def _load_all(config: Config) -> list[TlsMaterial | None]:
    """Read the files of the listeners. Raises TlsError."""
    return [None if listener.auth == "none" else load_tls(listener) for listener in config.listeners]


def _grants(config: Config) -> Grants:
    return Grants([grant.grant() for grant in config.grants])


async def run_until_stopped(
    service: Service, start: Awaitable[None], stopping: asyncio.Event, serve: Callable[[], Awaitable[None]]
) -> None:
    """Await `start`, then `serve`, and drain the service when that is done or fails. The start is cancelled when
    `stopping` is set before it is done."""
    starting = asyncio.ensure_future(start)
    waiting = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait((starting, waiting), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            await serve()
    finally:
        waiting.cancel()
        starting.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await starting
        await service.drain()
