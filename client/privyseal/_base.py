"""What the blocking and the asynchronous client have in common: all but the waiting."""

from __future__ import annotations

import abc
import itertools
import os
import secrets
from pathlib import Path
from typing import Any, TypeVar

from privyseal import _channel, configuration
from privyseal._calls import Call
from privyseal._failures import service_error
from privyseal._retry import RetryPolicy
from privyseal._tokens import token_source
from privyseal.configuration import Connection
from privyseal.errors import ConfigurationError, InputError, NotFoundError, PrivysealError, ServiceError
from privyseal.model import RequestContext
from privyseal.v1 import audit_pb2_grpc, keys_pb2_grpc, signing_pb2_grpc

C = TypeVar("C", bound="BaseClient")

DEFAULT_TIMEOUT_S = 20.0
"""How long a call may take, retries included, by default."""

LONGEST_TIMEOUT_S = 86_400.0
"""A day; far above it gRPC takes a deadline for one that has passed."""

PROVE_S = 10.0
"""How long to ask for a proof: a record is in the tree within a second, where all is well."""

PROVE_FIRST_S, PROVE_EVERY_S = 0.3, 0.25
"""When the proof is asked for first, and how often after that: the sequencer merges twice a second."""

PROVE_AT_ONCE = 8
"""How many proofs are asked for at a time."""

CALL_ID = "privyseal-call-id"
"""The metadata under which a call has a name of the client's own, the same in each attempt: 32 hex characters."""

Metadata = tuple[tuple[str, str], ...]


class BaseClient(abc.ABC):
    """Settings, defaults and stubs. A subclass opens the channel and makes the calls."""

    def __init__(
        self,
        server: str,
        *,
        key: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        cert: str | os.PathLike[str] | None = None,
        cert_key: str | os.PathLike[str] | None = None,
        token: str | None = None,
        token_file: str | os.PathLike[str] | None = None,
        token_command: str | None = None,
        insecure: bool = False,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        context: RequestContext | None = None,
        channels: int = 1,
    ) -> None:
        layer = configuration.Layer(
            origin="the arguments",
            server=server,
            ca=_path(ca),
            cert=_path(cert),
            cert_key=_path(cert_key),
            token=token,
            token_file=_path(token_file),
            token_command=token_command,
            insecure=insecure,
        )
        connection = configuration.merge((layer,)).require_connection()
        self._configure(connection, key=key, timeout_s=timeout_s, context=context, channels=channels)

    @classmethod
    def from_environment(
        cls: type[C],
        *,
        key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        context: RequestContext | None = None,
        channels: int = 1,
    ) -> C:
        """A client from the PRIVYSEAL_ variables and the configuration files, as the `privyseal` command has it."""
        settings = configuration.load(configuration.Layer(origin="the arguments", key=key))
        return cls.from_connection(
            settings.require_connection(), key=settings.key, timeout_s=timeout_s, context=context, channels=channels
        )

    @classmethod
    def from_connection(
        cls: type[C],
        connection: Connection,
        *,
        key: str | None = None,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        context: RequestContext | None = None,
        channels: int = 1,
    ) -> C:
        """A client from settings that were already merged."""
        client = cls.__new__(cls)
        client._configure(  # noqa: SLF001 - its own class
            connection, key=key, timeout_s=timeout_s, context=context, channels=channels
        )
        return client

    def _configure(
        self,
        connection: Connection,
        *,
        key: str | None,
        timeout_s: float,
        context: RequestContext | None,
        channels: int,
    ) -> None:
        self._connection = connection
        self._default_key = key
        self._default_context = context
        self._default_timeout_s = _checked_timeout(timeout_s)
        self._token = token_source(connection)
        self._process = os.getpid()
        plan = _channel.plan(connection)
        self._channels = [self._open_channel(plan) for _ in range(_checked_channels(channels))]
        self._stubs = [_stubs(channel) for channel in self._channels]
        self._turns = itertools.count()
        self._free = self._queue()
        for channel in range(len(self._channels)):
            self._free.put_nowait(channel)
        self._known = False

    @abc.abstractmethod
    def _open_channel(self, plan: _channel.ChannelPlan) -> Any:
        """Open a channel, which has a connection of its own."""

    @abc.abstractmethod
    def _queue(self) -> Any:
        """A queue to wait at for a channel that carries no part of a batch."""

    def __repr__(self) -> str:
        return f"{type(self).__module__}.{type(self).__name__}({self._connection.server!r})"

    def _method(self, call: Call[Any], channel: int | None = None) -> Any:
        """The method over this channel, or over the one whose turn it is."""
        if os.getpid() != self._process:
            raise PrivysealError("this client was made before a fork", remedy="make a new one in the new process")
        service, _, name = call.method.partition("/")
        # The channels take turns; next() of a count is safe among threads.
        stubs = self._stubs[next(self._turns) % len(self._stubs) if channel is None else channel]
        return getattr(stubs[service], name)

    def _retries(self, timeout_s: float | None) -> RetryPolicy:
        return RetryPolicy(self._timeout_s(timeout_s), known=self._known)

    def _met(self, error: Any) -> ServiceError:
        """Map what grpc raised to the caller's exception."""
        failure = service_error(error, self._connection)
        self._known = self._known or bool(failure.request_id)
        return failure

    def _timeout_s(self, timeout_s: float | None) -> float:
        return self._default_timeout_s if timeout_s is None else _checked_timeout(timeout_s)

    def _wait_s(self, wait_s: float | None) -> float:
        """How long to ask for a proof."""
        return min(PROVE_S, self._default_timeout_s) if wait_s is None else wait_s

    def _key(self, key: str | None) -> str:
        """The name to send; the empty one means the only key that the caller may use."""
        return _checked_text("the key's name", (self._default_key if key is None else key) or "")

    def _context(self, context: RequestContext | None) -> RequestContext | None:
        context = self._default_context if context is None else context
        for name, value in vars(context).items() if context is not None else ():
            _checked_text(f"the context's {name}", value)
        return context


def may_come(error: ServiceError) -> bool:
    """Whether a proof that was not given may be given in a moment: the record is not in the tree yet, or a replica
    answered that keeps another log or cannot read its own."""
    return isinstance(error, NotFoundError) or error.details.reason in {"ANOTHER_LOG", "LOG_UNREADABLE"}


def bearer(token: str) -> Metadata:
    """The metadata that carries a token."""
    return (("authorization", f"Bearer {token}"),)


def call_id() -> Metadata:
    """The metadata that ties the records of a call to each other, however often it is tried."""
    return ((CALL_ID, secrets.token_hex(16)),)


def _stubs(channel: Any) -> dict[str, Any]:
    return {
        "SigningService": signing_pb2_grpc.SigningServiceStub(channel),
        "KeyService": keys_pb2_grpc.KeyServiceStub(channel),
        "AuditService": audit_pb2_grpc.AuditServiceStub(channel),
    }


def _checked_channels(channels: int) -> int:
    if not 1 <= channels <= _channel.MOST_CHANNELS:
        raise ConfigurationError(f"a client cannot have {channels} channels", remedy="give 1 to 64")
    return channels


def _checked_timeout(timeout_s: float) -> float:
    if not 0 < timeout_s <= LONGEST_TIMEOUT_S:
        raise ConfigurationError(f"a timeout cannot be {timeout_s} s", remedy="give seconds above zero, a day at most")
    return timeout_s


def _checked_text(what: str, text: str) -> str:
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise InputError(f"{what} is not UTF-8", remedy="write it in UTF-8")
    return text


def _path(path: str | os.PathLike[str] | None) -> Path | None:
    return None if path is None else Path(path)
