"""A connection to Cloud KMS: credentials, channel and Google's asynchronous client, made inside the running loop."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass

import google.auth
import google.auth.exceptions
import grpc
from google.auth.credentials import Credentials
from google.auth.transport.grpc import AuthMetadataPlugin
from google.auth.transport.requests import Request
from google.cloud.kms_v1 import KeyManagementServiceAsyncClient
from google.cloud.kms_v1.services.key_management_service.transports import grpc_asyncio

from privyseal_backends.google_kms.address import DEFAULT_HOST, Endpoint
from privyseal_backends.google_kms.calls import Caller
from privyseal_backends.google_kms.slots import Slots
from privyseal_backends.interface import BackendError, OperatorError, UnavailableError

SCOPE = "https://www.googleapis.com/auth/cloudkms"

_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.service_config_disable_resolution", 1),  # retries are ours, not a DNS record's
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.max_receive_message_length", 1 << 22),
)


@dataclass(frozen=True)
class Connection:
    """One channel, with the client and the bounded caller on it."""

    client: KeyManagementServiceAsyncClient
    caller: Caller
    channel: grpc.aio.Channel

    async def close(self) -> None:
        """Close the channel; a call that is still on it is cancelled."""
        await self.channel.close()


def _drop(_: logging.LogRecord) -> bool:
    return False


def _keep_out_of_logs() -> None:
    """Google's transport logs whole requests and answers at DEBUG: session keys, plaintexts. No level may show them."""
    logging.getLogger(grpc_asyncio.__name__).addFilter(_drop)


def _credentials_error(error: google.auth.exceptions.GoogleAuthError, file: str | None) -> BackendError:
    """Never with the error's own text: it quotes what the token's issuer answered."""
    where = f"the credentials file {file!r}" if file else "the application default credentials"
    if isinstance(error, google.auth.exceptions.TransportError) or getattr(error, "retryable", False):
        return UnavailableError(
            "credentials",
            f"no access token could be had with {where}: the token's issuer does not answer",
            "check the network to it",
        )
    if isinstance(error, google.auth.exceptions.DefaultCredentialsError):
        message = f"{where} cannot be used" if file else "there are no application default credentials"
        remedy = "set credentials_file of gcpkms to a readable JSON file of credentials, or the variable"
        return OperatorError("credentials", message, f"{remedy} GOOGLE_APPLICATION_CREDENTIALS")
    return OperatorError(
        "credentials", f"Google gives no access token for {where}", "see that the account and its key are in use"
    )


def _load_credentials(file: str | None) -> Credentials:
    """Blocking: reads files, and asks for a first access token. Raises BackendError."""
    try:
        if file:
            loaded = google.auth.load_credentials_from_file(file, scopes=[SCOPE])  # type: ignore[no-untyped-call]
        else:
            loaded = google.auth.default(scopes=[SCOPE])
        credentials: Credentials = loaded[0]
        if hasattr(credentials, "with_always_use_jwt_access"):
            # A service account signs its own tokens: no token endpoint is needed.
            credentials = credentials.with_always_use_jwt_access(True)  # noqa: FBT003
        credentials.refresh(Request())  # type: ignore[no-untyped-call]
    except google.auth.exceptions.GoogleAuthError as error:
        raise _credentials_error(error, file) from None
    except (OSError, ValueError):
        raise OperatorError(
            "credentials", f"the credentials file {file!r} cannot be read", "set credentials_file to a readable one"
        ) from None
    return credentials


async def _channel(endpoint: Endpoint, credentials_file: str | None) -> grpc.aio.Channel:
    if endpoint.plaintext:
        # Loopback alone. No credentials: a token never travels in the clear. No proxy either.
        return grpc.aio.insecure_channel(endpoint.target, options=[*_OPTIONS, ("grpc.enable_http_proxy", 0)])
    credentials = await asyncio.to_thread(_load_credentials, credentials_file)
    plugin = AuthMetadataPlugin(credentials, Request(), default_host=DEFAULT_HOST)  # type: ignore[no-untyped-call]
    tokens = grpc.metadata_call_credentials(plugin)
    both = grpc.composite_channel_credentials(grpc.ssl_channel_credentials(), tokens)
    return grpc.aio.secure_channel(endpoint.target, both, options=list(_OPTIONS))


async def connect(
    endpoint: Endpoint, credentials_file: str | None, concurrency: int, attempt_timeout_s: float
) -> Connection:
    """Make a connection; the channel dials when it is first used. Raises BackendError for unfit credentials."""
    _keep_out_of_logs()
    channel = await _channel(endpoint, credentials_file)
    transport = grpc_asyncio.KeyManagementServiceGrpcAsyncIOTransport(channel=channel, host=endpoint.target)
    client = KeyManagementServiceAsyncClient(transport=transport)
    return Connection(client, Caller(Slots(concurrency), attempt_timeout_s), channel)
