"""One listener: its gRPC server, its certificate as in the files now, and how its callers are identified.

Each listener has its own gRPC server: a handler cannot learn over which port a call came, and each listener identifies
its callers in its own way.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from privyseal_service.api.handlers import Handlers
from privyseal_service.api.server import Server, log_call
from privyseal_service.api.server_choice import ServerType
from privyseal_service.api.tls import TlsError, TlsMaterial, load_tls, tls_files
from privyseal_service.domain.caller import DeniedCertificates, Identifier, InsecureIdentifier
from privyseal_service.identity.certificates import CertificateIdentifier
from privyseal_service.system.file_watch import FileWatch
from privyseal_service.system.sockets import ListenError
from privyseal_service.telemetry.metrics import TLS_RELOAD_FAILURES, TLS_RELOADS

if TYPE_CHECKING:
    from privyseal_service.api.audit_queries import AuditCalls
    from privyseal_service.config.listeners import ListenerConfig
    from privyseal_service.config.server import ServerConfig
    from privyseal_service.identity.tokens import Issuer
    from privyseal_service.signing.call_path import CallPath
    from privyseal_service.telemetry.active_issues import ActiveIssues

_LOG = logging.getLogger(__name__)

MOST_REQUEST_BYTES = 128 * 1024
"""2,000 checksums are 68 kB, and a context is at most 8 kB."""


@dataclass(frozen=True)
class Trust:
    """What all listeners identify callers by, besides their own CAs."""

    denied: DeniedCertificates
    issuers: tuple[Issuer, ...]


class Listener:
    """One address that is served. Files that change and cannot be used leave the old ones in effect.

    The event loop owns it; gRPC's own threads read only the certificate for the next handshake.
    """

    def __init__(self, config: ListenerConfig, tls: TlsMaterial | None, trust: Trust, issues: ActiveIssues) -> None:
        self.config = config
        self.address = config.address
        self._tls = tls
        self._trust = trust
        self._issues = issues
        self._about = f"listener {config.address}"
        self._watch = _watch(config, tls)
        self._material = _for_handshakes(tls) if tls else None
        self._taken = self._material
        self._handlers: Handlers
        self.server: Server

    def build(
        self, server_type: ServerType, server_config: ServerConfig, path: CallPath, audit: AuditCalls | None
    ) -> None:
        """Create the server, and bind it to its address. Raises ListenError."""
        if self._tls is None:
            _LOG.warning(
                "THE LISTENER AT %s HAS NO TLS AND NO AUTHENTICATION: every process of this machine is "
                "local:insecure to it; use it only for development",
                self.config.address,
            )
        around = log_call if _LOG.isEnabledFor(logging.DEBUG) else None
        self.server = server_type.make(_options(server_config), around)
        oidc = self.config.auth == "oidc"
        self._handlers = Handlers(path, self._identifier(), server_config.default_deadline_s, audit, reads_header=oidc)
        self.server.add_generic_rpc_handlers(self._handlers.generic_handlers())
        self.address = self._bind(self.config.address)

    def _identifier(self) -> Identifier:
        match self.config.auth:
            case "mtls":
                assert self._tls is not None  # the configuration requires its files
                return CertificateIdentifier(
                    self._tls.authorities,
                    allow_common_name=self.config.allow_common_name,
                    denied=self._trust.denied,
                )
            case "oidc":
                assert self._tls is not None  # as above: a token is never taken without TLS
                from privyseal_service.identity.tokens import TokenIdentifier  # noqa: PLC0415 - a fifth of all imports

                return TokenIdentifier(self._trust.issuers)
            case "none":
                return InsecureIdentifier()

    def _bind(self, address: str) -> str:
        try:
            if self._material is None:
                port = self.server.add_insecure_port(address)
            else:
                credentials = grpc.dynamic_ssl_server_credentials(
                    self._material,
                    self._fresh,  # type: ignore[arg-type]  # None means: unchanged
                    require_client_authentication=self.config.auth == "mtls",
                )
                port = self.server.add_secure_port(address, credentials)
        except RuntimeError:
            raise ListenError.at(address) from None
        if address.startswith("unix:"):
            return address
        return f"{address.rpartition(':')[0]}:{port}"

    def _fresh(self) -> grpc.ServerCertificateConfiguration | None:
        """Return new material for handshakes, or None. gRPC calls it for each handshake, on its own thread."""
        now = self._material
        if now is self._taken:
            return None
        self._taken = now
        return now

    def look(self) -> TlsMaterial | None:
        """Return the material of files that have changed and can be used. It reads files: not for the event loop."""
        if not self._watch.changed():
            return None
        try:
            return load_tls(self.config)
        except TlsError as error:
            self._issues.set(self._about, f"{error}; the old material stays in effect", TLS_RELOAD_FAILURES)
            return None

    def take(self, tls: TlsMaterial) -> None:
        """Use new material: no connection is dropped, and a removed CA proves nothing from the next call on."""
        self._tls = tls
        self._material = _for_handshakes(tls)
        self._handlers.identifier = self._identifier()
        self._issues.counters.add(TLS_RELOADS)
        self._issues.clear(self._about)
        _LOG.info("%s uses a certificate that is valid until %s", self._about, f"{tls.not_after:%Y-%m-%d}")

    def adopt(self, config: ListenerConfig, tls: TlsMaterial | None, trust: Trust) -> None:
        """Use another configuration, with the same address and `auth`. `tls` None leaves the material as it is."""
        if tls_files(config) != self._watch.paths:
            self._watch = _watch(config, tls)
        changed = config != self.config or trust != self._trust
        self.config, self._trust = config, trust
        if tls is not None and tls != self._tls:
            self.take(tls)
        elif changed:
            self._handlers.identifier = self._identifier()


def _for_handshakes(tls: TlsMaterial) -> grpc.ServerCertificateConfiguration:
    pairs = [(tls.private_key, tls.certificate_chain)]
    return grpc.ssl_server_certificate_configuration(pairs, root_certificates=tls.roots or None)


def _watch(config: ListenerConfig, tls: TlsMaterial | None) -> FileWatch:
    return FileWatch(tls_files(config), tls.seen if tls else None)


def _options(config: ServerConfig) -> list[tuple[str, int]]:
    """Return the limits on what peers can make the process hold or do (names: grpc/impl/channel_arg_names.h)."""
    return [
        ("grpc.max_receive_message_length", MOST_REQUEST_BYTES),
        ("grpc.max_metadata_size", 16 * 1024),
        ("grpc.max_concurrent_streams", config.max_concurrent_streams),
        ("grpc.max_allowed_incoming_connections", config.max_connections),
        ("grpc.server_handshake_timeout_ms", int(config.handshake_timeout_s * 1000)),
        ("grpc.max_connection_idle_ms", int(config.max_connection_idle_s * 1000)),
        ("grpc.max_connection_age_ms", int(config.max_connection_age_s * 1000)),
        ("grpc.max_connection_age_grace_ms", int(config.default_deadline_s * 1000)),
        ("grpc.http2.min_ping_interval_without_data_ms", 30_000),
        ("grpc.http2.max_ping_strikes", 2),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.so_reuseport", int(config.share_port)),
    ]
