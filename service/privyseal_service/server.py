"""The service in one process: opens the keys, listens, and stops in order.

Each listener is a gRPC server of its own, since gRPC does not tell a handler over which port a call came, and every
listener has its own way to learn who calls.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server
from grpc_reflection.v1alpha.reflection_pb2_grpc import add_ServerReflectionServicer_to_server

from privyseal_backends.registry import backend
from privyseal_service.audit.calls import AuditCalls
from privyseal_service.audit.recorder import AuditRecorder
from privyseal_service.config import ConfigError
from privyseal_service.decisions import LogRecorder, Recorder
from privyseal_service.exits import LOST
from privyseal_service.grants import Grants
from privyseal_service.handlers import AUDIT_SERVICE, KEY_SERVICE, SIGNING_SERVICE, Handlers
from privyseal_service.health import HEALTH_SERVICE, Health
from privyseal_service.identity import CertificateIdentifier, Identifier, InsecureIdentifier
from privyseal_service.keyring import Keyring, KeyState, Stores
from privyseal_service.ports import ListenError
from privyseal_service.reflection import Reflection
from privyseal_service.signing import CallPath
from privyseal_service.systemd import notify
from privyseal_service.tls import TlsMaterial, load_tls
from privyseal_service.waiting import first_of

if TYPE_CHECKING:
    from privyseal_backends.interface import OpenStore
    from privyseal_service.config import Config, ListenerConfig, ServerConfig

_LOG = logging.getLogger(__name__)

MOST_REQUEST_BYTES = 128 * 1024
"""2,000 checksums are 68 kB, and a context 8 kB at most."""

_TAKE_IN_S = 0.05
"""How long a stop waits at least: gRPC cancels a call that came in and that no handler was given yet
(github.com/grpc/grpc/issues/41785)."""


_LOST_GRACE_S = 2.0

_SETTLE_S = 5.0
"""How long calls that were ended by a stop may take to be put on record."""


@dataclass(frozen=True)
class _Listener:
    config: ListenerConfig
    server: grpc.aio.Server
    address: str


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
        self._keyring = Keyring(config.keys, Stores(config.stores, backends))
        grants = Grants([grant.grant() for grant in config.grants])
        audit = config.audit if config.audit and config.audit.enabled else None
        self._recorder = recorder or (AuditRecorder(audit) if audit else LogRecorder())
        self._path = CallPath(grants, self._keyring, self._recorder)
        self._audit = AuditCalls(audit, self._path) if audit else None
        services = [SIGNING_SERVICE, KEY_SERVICE, *([AUDIT_SERVICE] if audit else [])]
        self._health = Health(services, frozenset([SIGNING_SERVICE]))
        self._lost = asyncio.Event()
        self._changed = changed
        self._keyring.on_change(self._keys_changed)
        self._reflection = Reflection([*services, HEALTH_SERVICE])
        self._tls: list[TlsMaterial | None] = []
        self._listeners: list[_Listener] = []

    @property
    def config(self) -> Config:
        """What it serves."""
        return self._config

    @property
    def addresses(self) -> list[tuple[str, str]]:
        """The `auth` and the address (with the real port) of each listener, once started."""
        return [(listener.config.auth, listener.address) for listener in self._listeners]

    async def start(self) -> None:
        """Open the keys, then accept calls. Raises TlsError, KeyringError, ListenError."""
        await self.open()
        await self.listen()

    async def open(self, *, strict: bool = True) -> None:
        """Read the listeners' certificates, make ready to record, and open the keys. Raises TlsError,
        AuditUnavailableError, KeyringError; see `Keyring.open`."""
        self._tls = [load_tls(listener) if listener.auth == "mtls" else None for listener in self._config.listeners]
        await self._recorder.start(self._health.records)
        await self._keyring.open(self._config.server.open_wait_s, strict=strict)

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
        """The keys that do not serve now."""
        return frozenset(key.name for key in self._keyring.keys.values() if key.state is not KeyState.SERVING)

    async def listen(self) -> None:
        """Accept calls. Raises ListenError."""
        for listener, material in zip(self._config.listeners, self._tls, strict=True):
            self._listeners.append(self._listener(listener, material))
        for made in self._listeners:
            await made.server.start()
        self._health.serve()

    def _listener(self, config: ListenerConfig, tls: TlsMaterial | None) -> _Listener:
        identifier: Identifier
        if tls is None:
            identifier = InsecureIdentifier()
            _LOG.warning(
                "THE LISTENER AT %s HAS NO TLS AND ASKS NOBODY WHO THEY ARE: every process of this machine is "
                "local:insecure to it; use it for development alone",
                config.address,
            )
        else:
            denied = self._config.identity.denied()
            identifier = CertificateIdentifier(
                tls.authorities, allow_common_name=config.allow_common_name, denied=denied
            )
        server = grpc.aio.server(options=_options(self._config.server))
        handlers = Handlers(self._path, identifier, self._config.server.default_deadline_s, self._audit)
        server.add_generic_rpc_handlers(handlers.generic_handlers())
        add_HealthServicer_to_server(self._health, server)
        add_ServerReflectionServicer_to_server(self._reflection, server)  # type: ignore[no-untyped-call]
        return _Listener(config, server, _bind(server, config.address, tls))

    async def reload(self, config: Config) -> None:
        """Go on with another configuration, which was checked: the times that a stop takes follow it."""
        self._config = config

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
        await asyncio.gather(*(listener.server.stop(grace_s) for listener in self._listeners))
        await self._path.settle(_SETTLE_S)
        await self._recorder.close()
        if self._audit is not None:
            self._audit.close()
        await self._keyring.close()


def _bind(server: grpc.aio.Server, address: str, tls: TlsMaterial | None) -> str:
    try:
        if tls is None:
            port = server.add_insecure_port(address)
        else:
            credentials = grpc.ssl_server_credentials(
                [(tls.private_key, tls.certificate_chain)], root_certificates=tls.roots, require_client_auth=True
            )
            port = server.add_secure_port(address, credentials)
    except RuntimeError:
        raise ListenError.at(address) from None
    if address.startswith("unix:"):
        return address
    return f"{address.rpartition(':')[0]}:{port}"


def _options(config: ServerConfig) -> list[tuple[str, int]]:
    """Limits on what peers can make the process hold or do (names: grpc/impl/channel_arg_names.h)."""
    return [
        ("grpc.max_receive_message_length", MOST_REQUEST_BYTES),
        ("grpc.max_metadata_size", 16 * 1024),
        ("grpc.max_concurrent_streams", config.max_concurrent_streams),
        ("grpc.server_handshake_timeout_ms", int(config.handshake_timeout_s * 1000)),
        ("grpc.max_connection_idle_ms", int(config.max_connection_idle_s * 1000)),
        ("grpc.max_connection_age_ms", int(config.max_connection_age_s * 1000)),
        ("grpc.max_connection_age_grace_ms", int(config.default_deadline_s * 1000)),
        ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.so_reuseport", int(config.share_port)),
    ]


async def serve(config: Config, *, announce: Callable[[str], None], load: Callable[[], Config]) -> int:
    """Serve in this process until SIGTERM or SIGINT; `announce` gets a line for each listener once it accepts calls,
    and `load` reads the configuration again at SIGHUP. Returns 0, or LOST when a key store was lost to this process:
    then it should end without further ado, and be started again.

    Raises TlsError, KeyringError, ListenError when the service cannot start.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    service = Service(config)
    reloads: set[asyncio.Task[None]] = set()
    loop.add_signal_handler(signal.SIGHUP, lambda: reloads.add(asyncio.create_task(_reload(service, load))))

    async def started() -> None:
        for auth, address in service.addresses:
            announce(f"listening {auth} {address}")
        notify("READY=1")
        await first_of(stopping.wait(), service.lost.wait())
        notify("STOPPING=1")
        if stopping.is_set():
            _LOG.info("stopping: calls in flight have %g s to finish", config.server.shutdown_grace_s)
        else:
            _LOG.critical("a key store is lost to this process, which ends with exit code %d: start it again", LOST)

    await run(service, service.start(), stopping, started)
    _LOG.info("stopped")
    return LOST if service.lost.is_set() and not stopping.is_set() else 0


async def _reload(service: Service, load: Callable[[], Config]) -> None:
    """Read the configuration again; one that cannot be used changes nothing."""
    try:
        config = await asyncio.to_thread(load)
    except ConfigError as error:
        _LOG.error("the configuration stays as it was: %s", error)
        return
    if config.audit != service.config.audit:
        _LOG.error("the configuration stays as it was: a change of [audit] needs a restart of the service")
        return
    await service.reload(config)


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
