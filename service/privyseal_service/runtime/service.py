"""The service in one process: opens the keys, listens, takes up what changes, and stops in order."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
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
from privyseal_service.api.tls import TlsError, TlsMaterial, load_tls
from privyseal_service.audit.recorder import AuditRecorder
from privyseal_service.domain.decisions import Recorder
from privyseal_service.domain.grants import Grants
from privyseal_service.keys.keyring import Keyring, KeyringError, PreparedKeys
from privyseal_service.keys.served_key import KeyState
from privyseal_service.keys.stores import Stores
from privyseal_service.limits.limiter import Limiter, LimitsError, NoLimiter, make_limiter
from privyseal_service.runtime.reload import Reloader, UnusableError
from privyseal_service.runtime.status import StatusServers, WorkerStatus, audit_numbers, status_detail
from privyseal_service.signing.call_path import CallPath
from privyseal_service.system.asyncio_tools import wait_for_first
from privyseal_service.system.exit_codes import RESTART_REQUIRED
from privyseal_service.system.file_watch import LOOK_EVERY_S
from privyseal_service.system.systemd import notify
from privyseal_service.telemetry.active_issues import ActiveIssues
from privyseal_service.telemetry.decision_log import LogRecorder
from privyseal_service.telemetry.metrics import Counters, Numbers, Series, sum_numbers

if TYPE_CHECKING:
    from privyseal_backends.interface import OpenStore
    from privyseal_service.audit.sequencer_thread import RunningSequencer
    from privyseal_service.config.root import Config
    from privyseal_service.identity.jwks_sources import KeySource
    from privyseal_service.telemetry.status_socket import Detail

_LOG = logging.getLogger(__name__)

_TAKE_IN_S = 0.05
"""How long a stop waits at least: gRPC cancels a call that came in and that no handler was given yet
(github.com/grpc/grpc/issues/41785)."""


_LOST_GRACE_S = 2.0

_SETTLE_S = 5.0
"""How long calls that were ended by a stop may take to be put on record."""

_WELL = frozenset({KeyState.SERVING, KeyState.FROZEN})


@dataclass(frozen=True)
class Prepared:
    """Another configuration, with all that serving it takes; either `Service.take` it, or `discard` it."""

    config: Config
    tls: Sequence[TlsMaterial | None]
    limiter: Limiter
    sources: Mapping[str, KeySource]
    keys: PreparedKeys
    undo: AsyncExitStack

    async def discard(self) -> None:
        """Close what was opened for it and is not used."""
        await self.undo.aclose()


class Service:
    """The whole service: `start`, then `stop`. Never started twice. `changed` hears when a key's state changes."""

    def __init__(
        self,
        config: Config,
        *,
        backends: Callable[[str], OpenStore] = backend,
        recorder: Recorder | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self._config = config
        self.issues = ActiveIssues(Counters(), self._tell_health)
        self._keyring = Keyring(config.keys, Stores(config.stores, backends))
        audit = config.audit if config.audit and config.audit.enabled else None
        self._recorder = recorder or (AuditRecorder(audit) if audit else LogRecorder())
        self._path = CallPath(_grants(config), self._keyring, self._recorder, counters=self.issues.counters)
        self._audit = AuditCalls(audit, self._path) if audit else None
        services = [SIGNING_SERVICE, KEY_SERVICE, *([AUDIT_SERVICE] if audit else [])]
        self._health = Health(services, frozenset([SIGNING_SERVICE]))
        self._lost = asyncio.Event()
        self._changed = changed
        self._keyring.on_change(self._keys_changed)
        self._reflection = Reflection([*services, HEALTH_SERVICE])
        self._sources: dict[str, KeySource] = {}
        self._limiters: list[Limiter] = []
        self._tls: list[TlsMaterial | None] = []
        self._listeners: list[Listener] = []
        self._troubles: dict[str, str] = {}
        self._opened = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def config(self) -> Config:
        """What it serves."""
        return self._config

    @property
    def addresses(self) -> list[tuple[str, str]]:
        """The `auth` and the address (with the real port) of each listener, once started."""
        return [(listener.config.auth, listener.address) for listener in self._listeners]

    async def start(self) -> None:
        """Open the keys, then accept calls. Raises TlsError, SourceError, LimitsError, KeyringError, ListenError."""
        await self.open()
        await self.listen()

    async def open(self, *, strict: bool = True) -> None:
        """Read the listeners' certificates and the issuers' keys, make ready to count and to record, and open the keys.
        Raises TlsError, SourceError, LimitsError, AuditUnavailableError, KeyringError; see `Keyring.open`."""
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
        self._changed()

    @property
    def lost(self) -> asyncio.Event:
        """Set while a key store is lost to this process, so that a new process should take its place."""
        return self._lost

    @property
    def ailing(self) -> frozenset[str]:
        """The keys that do not serve now, and should."""
        return frozenset(key.name for key in self._keyring.keys.values() if key.state not in _WELL)

    @property
    def wrong(self) -> dict[str, str]:
        """What is wrong in this process, in sentences by what they are about; keys that do not serve are among it."""
        found = dict(self.issues.current)
        if not self._health.recording:
            found["audit trail"] = "decisions cannot be put on record, so nothing is answered; the log says why"
        for key in self._keyring.keys.values():
            if key.state not in _WELL:
                found[f"key {key.name!r}"] = f"it is {key.state.value}: {key.problem or 'it is being opened'}"
        return found

    def numbers(self) -> dict[Series, float]:
        """What was counted in this process, and how it is now."""
        found = {**self.issues.counters.snapshot(), **self._path.numbers()}
        found["ready",] = float(self._health.ready)
        found["audit_writable",] = float(self._health.recording)
        found["problems",] = float(len(self.wrong))
        for key in self._keyring.keys.values():
            found["keys", key.name, key.state.value] = 1.0
        return found

    async def listen(self) -> None:
        """Accept calls. Raises ListenError."""
        trust = self._trust(self._config)
        for config, material in zip(self._config.listeners, self._tls, strict=True):
            listener = Listener(config, material, trust, self.issues)
            listener.build(self._config.server, self._path, self._audit)
            add_HealthServicer_to_server(self._health, listener.server)  # type: ignore[arg-type]  # it asks for no more
            add_ServerReflectionServicer_to_server(self._reflection, listener.server)  # type: ignore[no-untyped-call]
            self._listeners.append(listener)
        for made in self._listeners:
            await made.server.start()
        self._looking = asyncio.create_task(self._keep_looking(), name="look at files")
        self._health.serve()

    def _trust(self, config: Config) -> Trust:
        if not config.issuers:
            return Trust(config.identity.denied(), ())
        from privyseal_service.identity.tokens import Issuer  # noqa: PLC0415 - a fifth of all imports

        issuers = tuple(Issuer(issuer, self._sources[issuer.issuer]) for issuer in config.issuers)
        return Trust(config.identity.denied(), issuers)

    async def _keep_looking(self) -> None:
        """Take up what changes of the files of listeners and issuers, and tell of calls that were only counted."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            self._path.identity_failures.sum_up()
            await self.look()

    async def look(self) -> None:
        """Look at the files of listeners and issuers once."""
        for listener in self._listeners:
            with _whatever_befalls(listener.address):
                fresh = await asyncio.to_thread(listener.look)
                if fresh is not None:
                    listener.take(fresh)
        for name, each in list(self._sources.items()):
            with _whatever_befalls(name):
                await asyncio.to_thread(each.look)

    async def reload(self, config: Config) -> None:
        """Go on with another configuration: `prepare`, then `take`. Raises UnusableError, and then nothing has
        changed."""
        self.take(await self.prepare(config))

    async def prepare(self, config: Config) -> Prepared:
        """Do all of a change of the configuration that can fail, and change nothing yet: read files, open and check the
        keys that are new or changed (`Keyring.prepare`). While the service opens, right after that. Raises
        UnusableError."""
        from privyseal_service.identity.jwks_sources import SourceError  # noqa: PLC0415 - a start needs none of it

        await self._opened.wait()
        try:
            return await self._prepare(config)
        except (TlsError, LimitsError, SourceError, KeyringError) as error:
            raise UnusableError(str(error)) from None

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
            undo.callback(keys.let_go)
            return Prepared(config, tls, limiter, sources, keys, undo.pop_all())

    def take(self, prepared: Prepared) -> None:
        """The moment of a change: keys, grants, issuers, limits, denied certificates and the listeners' files, all at
        once. Nothing is awaited here, and nothing is left that could fail.

        Calls in flight finish under the grants that they began with; a frozen key is frozen for them too.
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
        """What counts for another configuration. What counted until now stays, since calls in flight may need it."""
        now = self._limiters[-1]
        if config.limits == self._config.limits and not isinstance(now, NoLimiter):
            return now
        return self._make_limiter(config)

    def _sources_for(self, config: Config) -> dict[str, KeySource]:
        """Where issuers' keys come from, by the issuers' names; begun where they are new. Raises SourceError."""
        if not config.issuers:
            return {}
        from privyseal_service.identity.jwks_sources import source  # noqa: PLC0415 - as above

        found: dict[str, KeySource] = {}
        begun: list[KeySource] = []
        try:
            for issuer in config.issuers:
                known = self._sources.get(issuer.issuer)
                if known is None or known.config != issuer:
                    known = source(issuer, self.issues, config.server.state_folder)
                    known.start()
                    begun.append(known)
                found[issuer.issuer] = known
        except BaseException:
            for each in begun:
                each.close()
            raise
        return found

    def trouble(self, about: str, sentence: str) -> None:
        """Another process says that something is wrong (or, with an empty sentence, is not): for health's detail."""
        self._troubles = {**self._troubles, about: sentence}
        self._take_problems()

    def _tell_health(self) -> None:
        """From any thread: what is wrong has changed."""
        if self._loop is not None:
            with suppress(RuntimeError):  # a loop that is closed serves nobody
                self._loop.call_soon_threadsafe(self._take_problems)

    def _take_problems(self) -> None:
        said = {about: sentence for about, sentence in self._troubles.items() if sentence}
        self._health.problems = {**said, **self.issues.current}

    async def drain(self) -> None:
        """Say NOT_SERVING, wait for balancers to notice, then `stop`. Cut short when it is cancelled, and where the
        process is lost: what it has in flight, it can hardly finish."""
        self._health.stop()
        try:
            if self._listeners:
                await asyncio.sleep(max(_TAKE_IN_S, 0.0 if self._lost.is_set() else self._config.server.drain_wait_s))
        finally:
            grace_s = self._config.server.shutdown_grace_s
            await self.stop(min(_LOST_GRACE_S, grace_s) if self._lost.is_set() else grace_s)

    async def stop(self, grace_s: float) -> None:
        """Say NOT_SERVING, accept no more, let calls in flight finish for `grace_s`, close the record and the key
        stores."""
        self._health.stop()
        self._reflection.stop()
        if self._looking is not None:
            self._looking.cancel()
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
def _whatever_befalls(about: str) -> Iterator[None]:
    """Go on looking at the files of others, and at these again: nobody else does."""
    try:
        yield
    except Exception:  # noqa: BLE001 - as above
        _LOG.exception("%s: looking at its files failed in a way that it should not", about)


def _load_all(config: Config) -> list[TlsMaterial | None]:
    """The files of the listeners. Raises TlsError."""
    return [None if listener.auth == "none" else load_tls(listener) for listener in config.listeners]


def _grants(config: Config) -> Grants:
    return Grants([grant.grant() for grant in config.grants])


async def serve(
    config: Config,
    *,
    announce: Callable[[str], None],
    load: Callable[[], Config],
    sequencer: RunningSequencer | None = None,
) -> int:
    """Serve in this process until SIGTERM or SIGINT; `announce` gets a line for each listener once it accepts calls,
    and `load` reads the configuration again at SIGHUP. `sequencer` is for the status. Returns 0, or RESTART_REQUIRED
    when a key store was lost to this process: it should end immediately then, and be started again.

    Raises TlsError, SourceError, LimitsError, KeyringError, ListenError when the service cannot start.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    service = Service(config)
    reloader = Reloader(load, config, service.reload, service.issues)
    loop.add_signal_handler(signal.SIGHUP, reloader.reload_soon)

    def numbers() -> Numbers:
        return sum_numbers([service.numbers(), audit_numbers(sequencer)])

    def told() -> Detail:
        state = WorkerStatus(0, os.getpid(), "serving", service.numbers(), {})
        return status_detail(reloader, [state], sequencer, service.wrong)

    status = StatusServers(config, numbers, told)

    async def start() -> None:
        metrics.extend(await status.start())
        await service.start()

    metrics: list[str] = []

    async def started() -> None:
        for auth, address in service.addresses:
            announce(f"listening {auth} {address}")
        for line in metrics:
            announce(line)
        notify("READY=1")
        watching = asyncio.create_task(reloader.keep_watching())
        try:
            await wait_for_first(stopping.wait(), service.lost.wait())
        finally:
            watching.cancel()
        notify("STOPPING=1")
        if stopping.is_set():
            _LOG.info("stopping: calls in flight have %g s to finish", service.config.server.shutdown_grace_s)
        else:
            _LOG.critical(
                "a key store is lost to this process, which ends with exit code %d: start it again", RESTART_REQUIRED
            )

    try:
        await run(service, start(), stopping, started)
    finally:
        status.close()
    _LOG.info("stopped")
    return RESTART_REQUIRED if service.lost.is_set() and not stopping.is_set() else 0


async def run(
    service: Service, start: Awaitable[None], stopping: asyncio.Event, started: Callable[[], Awaitable[None]]
) -> None:
    """Start the service, go on with `started`, and drain the service when that is done or fails. When `stopping` is set
    before the start is over, the start is given up."""
    starting = asyncio.ensure_future(start)
    waiting = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait((starting, waiting), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            await started()
    finally:
        waiting.cancel()
        starting.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await starting
        await service.drain()
