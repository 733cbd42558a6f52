"""What a channel to the service is made of: its address, its options, its TLS; the same for both clients."""

from __future__ import annotations

import ipaddress
import json
import os
import ssl
from dataclasses import dataclass
from pathlib import Path

import grpc

from privyseal._files import read_small
from privyseal._version import __version__
from privyseal.configuration import Connection
from privyseal.errors import ConfigurationError

SERVICE_CONFIG = {
    "methodConfig": [
        {
            "name": [{"service": f"privyseal.v1.{name}"} for name in ("SigningService", "KeyService", "AuditService")],
            # No other code means that the same call may succeed in a moment. CANCELLED that the caller did not cause is
            # what a server of gRPC answers to some calls while it stops in order (github.com/grpc/grpc/issues/41785);
            # a call that its caller cancels is over, and never tried again. Five is gRPC's most.
            "retryPolicy": {
                "maxAttempts": 5,
                "initialBackoff": "0.1s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE", "CANCELLED"],
            },
        }
    ]
}

ROUND_ROBIN = "dns:///"
"""Before HOST:PORT: calls go round all addresses that the name has."""

MOST_CHANNELS = 64

_SYSTEM_ROOTS = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


@dataclass(frozen=True)
class ChannelPlan:
    """What `secure_channel` takes, of grpc and of grpc.aio alike; `credentials` is None for a channel without TLS."""

    target: str
    credentials: grpc.ChannelCredentials | None
    options: tuple[tuple[str, str | int], ...]


def plan(connection: Connection) -> ChannelPlan:
    """Read the certificates and check the address. Raises ConfigurationError and FileUnusableError."""
    host = _host(connection.server)
    loopback = _is_loopback(host)
    if connection.insecure:
        _check_insecure(connection, loopback=loopback)
    return ChannelPlan(
        target=connection.server,
        credentials=None if connection.insecure else _credentials(connection),
        options=_options(loopback=loopback, round_robin=connection.server.startswith(ROUND_ROBIN)),
    )


def _options(*, loopback: bool, round_robin: bool) -> tuple[tuple[str, str | int], ...]:
    balancing: dict[str, object] = {"loadBalancingConfig": [{"round_robin": {}}]} if round_robin else {}
    options: list[tuple[str, str | int]] = [
        ("grpc.service_config", json.dumps({**SERVICE_CONFIG, **balancing})),
        ("grpc.primary_user_agent", f"privyseal/{__version__}"),
        # A client has a connection of its own, so that closing it closes the connection.
        ("grpc.use_local_subchannel_pool", 1),
        # A retry is of use only when it can open a new connection; the default waits a second before it tries.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
    ]
    if loopback:
        # Build machines often name a proxy for everything; it cannot reach this machine's own loopback.
        options.append(("grpc.enable_http_proxy", 0))
    return tuple(options)


def _host(server: str) -> str:
    """The host of HOST:PORT or dns:///HOST:PORT, without the brackets of an IPv6 address. Raises ConfigurationError."""
    host, colon, port = server.removeprefix(ROUND_ROBIN).rpartition(":")
    numbered = port.isascii() and port.isdecimal() and 0 < int(port[:6]) < 65536
    unfit = "/" in host or (":" in host and not host.startswith("[")) or not server.isprintable()
    if not colon or not host or not numbered or unfit:
        raise ConfigurationError(f"{server!r} is not an address of a signing service", remedy="write HOST:PORT")
    return host.strip("[]")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _check_insecure(connection: Connection, *, loopback: bool) -> None:
    if not loopback:
        raise ConfigurationError(
            f"a connection to {connection.server} without TLS is refused", remedy="that is for loopback only; use TLS"
        )
    if connection.ca or connection.cert or connection.cert_key:
        raise ConfigurationError(
            "certificates are of no use on a connection without TLS", remedy="drop them, or drop --insecure and http://"
        )
    if connection.token or connection.token_file or connection.token_command:
        raise ConfigurationError("a token is sent over TLS only", remedy="drop --insecure and http://")


def _credentials(connection: Connection) -> grpc.ChannelCredentials:
    roots = _pem(connection.ca, "certificate") if connection.ca else _system_roots()
    if connection.cert is None or connection.cert_key is None:
        return grpc.ssl_channel_credentials(root_certificates=roots)
    certificate = _pem(connection.cert, "certificate")
    private_key = _pem(connection.cert_key, "private key")
    _check_pair(connection.cert, connection.cert_key)
    return grpc.ssl_channel_credentials(root_certificates=roots, private_key=private_key, certificate_chain=certificate)


def _pem(path: Path, what: str) -> bytes:
    data = read_small(path)
    if f"{what.upper()}-----".encode() not in data:
        raise ConfigurationError(f"{path} holds no {what} in PEM", remedy="check which file belongs where")
    return data


def _check_pair(cert: Path, cert_key: Path) -> None:
    """Raise ConfigurationError unless the key belongs to the certificate: gRPC would only fail to connect."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(cert, cert_key, password=_no_password)
    except _PasswordWantedError:
        raise ConfigurationError(f"{cert_key} is encrypted", remedy="give a private key without a password") from None
    except ssl.SSLError:
        raise ConfigurationError(
            f"{cert} and {cert_key} are not a certificate and its private key", remedy="check that they belong together"
        ) from None


class _PasswordWantedError(Exception):
    pass


def _no_password() -> str:
    raise _PasswordWantedError


def _system_roots() -> bytes | None:
    """The system's trusted certificates; None lets gRPC use those that it brings, where the system has no such file."""
    named = os.environ.get(ssl.get_default_verify_paths().openssl_cafile_env)
    if named:
        return _pem(Path(named), "certificate")
    candidates = (ssl.get_default_verify_paths().openssl_cafile, *_SYSTEM_ROOTS)
    found = next((Path(path) for path in candidates if Path(path).is_file()), None)
    return found.read_bytes() if found else None
