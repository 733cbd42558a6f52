"""A connection to Cloud KMS: credentials, channel and Google's asynchronous client, made inside the running loop."""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import google.auth
import google.auth.exceptions
import grpc
from google.auth import aws, identity_pool
from google.auth.credentials import Credentials
from google.auth.transport.grpc import AuthMetadataPlugin
from google.auth.transport.requests import Request
from google.cloud.kms_v1 import KeyManagementServiceAsyncClient
from google.cloud.kms_v1.services.key_management_service.transports import grpc_asyncio
from google.oauth2 import service_account

from privyseal_backends.google_kms.address import DEFAULT_HOST, Endpoint
from privyseal_backends.google_kms.concurrency_limit import ConcurrencyLimit
from privyseal_backends.google_kms.executor import Executor
from privyseal_backends.interface import OperatorError, UnavailableError
from privyseal_backends.quota import Quota

SCOPE = "https://www.googleapis.com/auth/cloudkms"

# What Google's library raises for files that are missing, no JSON, or JSON of another shape.
_UNFIT = (OSError, ValueError, KeyError, TypeError, AttributeError, google.auth.exceptions.GoogleAuthError)

_TOKEN_TIMEOUT_S = 10.0

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.service_config_disable_resolution", 1),  # retries are ours, not a DNS record's
    # gRPC's own pause between dials grows to two minutes, which a store that came back would stay away for.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_receive_message_length", 1 << 22),
)


@dataclass(frozen=True)
class Connection:
    """One channel, with the client and the bounded caller on it."""

    client: KeyManagementServiceAsyncClient
    caller: Executor
    channel: grpc.aio.Channel

    async def close(self) -> None:
        """Close the channel; a call that is still on it is cancelled."""
        await self.channel.close()


def _drop(_: logging.LogRecord) -> bool:
    return False


def _keep_out_of_logs() -> None:
    """Google's transport logs whole requests and answers at DEBUG: session keys, plaintexts. No level may show them."""
    logging.getLogger(grpc_asyncio.__name__).addFilter(_drop)


def _unfit_file(file: str, remedy: str) -> OperatorError:
    return OperatorError("credentials", f"the credentials file {file!r} cannot be used", remedy)


def _from_file(file: str) -> Credentials:
    """A service account's key, or workload identity federation without a program to run: no file of another kind is
    loaded, since some make Google's library run what they name. Blocking. Raises BackendError."""
    remedy = "name a readable JSON file of type service_account or external_account"
    try:
        info = json.loads(Path(file).read_bytes())
        kind, source = info.get("type"), info.get("credential_source") or {}
        if kind == "service_account":
            return service_account.Credentials.from_service_account_info(info, scopes=[SCOPE])  # type: ignore[no-untyped-call, no-any-return]
        if kind == "external_account" and "environment_id" in source:
            return aws.Credentials.from_info(info, scopes=[SCOPE])  # type: ignore[no-untyped-call, no-any-return]
        if kind == "external_account" and "executable" not in source:
            return identity_pool.Credentials.from_info(info, scopes=[SCOPE])  # type: ignore[no-untyped-call, no-any-return]
    except _UNFIT:
        raise _unfit_file(file, remedy) from None
    raise _unfit_file(file, remedy)


def _default() -> Credentials:
    """Blocking: reads files, and asks the machine's metadata server. Raises BackendError."""
    try:
        credentials, _ = google.auth.default(scopes=[SCOPE])
    except _UNFIT:
        raise OperatorError(
            "credentials",
            "there are no application default credentials that can be used",
            "set credentials_file of gcpkms, or the variable GOOGLE_APPLICATION_CREDENTIALS",
        ) from None
    return credentials


def _load_credentials(file: str | None) -> Credentials:
    """Blocking: ends with a first access token. Raises BackendError, never with what the token's issuer said, which may
    quote it."""
    credentials = _from_file(file) if file else _default()
    if hasattr(credentials, "with_always_use_jwt_access"):
        # A service account signs its own tokens: no token endpoint is needed.
        credentials = credentials.with_always_use_jwt_access(True)  # noqa: FBT003
    try:
        credentials.refresh(partial(Request(), timeout=_TOKEN_TIMEOUT_S))  # type: ignore[no-untyped-call]
    except _UNFIT as error:
        if isinstance(error, google.auth.exceptions.TransportError) or getattr(error, "retryable", False):
            raise UnavailableError(
                "credentials",
                "no access token for Google could be had: the token's issuer does not answer",
                "check the network to it",
            ) from None
        raise OperatorError(
            "credentials", "Google gives no access token for the credentials", "see that the account and key are in use"
        ) from None
    return credentials


async def _channel(endpoint: Endpoint, credentials_file: str | None) -> grpc.aio.Channel:
    if endpoint.plaintext:
        # Only loopback. No credentials: a token never travels in the clear. No proxy either.
        return grpc.aio.insecure_channel(endpoint.target, options=[*_OPTIONS, ("grpc.enable_http_proxy", 0)])
    credentials = await asyncio.to_thread(_load_credentials, credentials_file)
    plugin = AuthMetadataPlugin(credentials, Request(), default_host=DEFAULT_HOST)  # type: ignore[no-untyped-call]
    tokens = grpc.metadata_call_credentials(plugin)
    both = grpc.composite_channel_credentials(grpc.ssl_channel_credentials(), tokens)
    return grpc.aio.secure_channel(endpoint.target, both, options=list(_OPTIONS))


async def connect(
    endpoint: Endpoint,
    credentials_file: str | None,
    concurrency: int,
    attempt_timeout_s: float,
    bucket: Quota | None = None,
) -> Connection:
    """Make a connection; the channel dials when it is first used. Raises BackendError for unfit credentials."""
    _keep_out_of_logs()
    channel = await _channel(endpoint, credentials_file)
    transport = grpc_asyncio.KeyManagementServiceGrpcAsyncIOTransport(channel=channel, host=endpoint.target)
    client = KeyManagementServiceAsyncClient(transport=transport)
    return Connection(client, Executor(ConcurrencyLimit(concurrency), attempt_timeout_s, bucket), channel)
