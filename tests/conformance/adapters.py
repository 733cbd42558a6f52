"""The two faces of a key store: the backend itself in this process, and the service as its callers see it.

Both are asked the same things in the same words, so one suite of cases runs on both. What fails raises `Failure`, whose
`kind` is the same on either face; each face checks the form of its own errors before that: the backend's sentences, the
service's codes and details.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, TypeVar

import grpc
from google.rpc import code_pb2, error_details_pb2
from grpc_status.rpc_status import from_call

from privyseal.v1 import keys_pb2, signing_pb2
from privyseal.v1.keys_pb2_grpc import KeyServiceStub
from privyseal.v1.signing_pb2_grpc import SigningServiceStub
from privyseal_backends.interface import (
    BackendError,
    BusyError,
    CallerError,
    DeadlineError,
    Decrypter,
    Export,
    IntegrityError,
    Key,
    KeyStore,
    OperatorError,
    Origin,
    Protection,
    Signature,
    UnavailableError,
)
from privyseal_backends.registry import backend
from privyseal_service.domain.operations import (
    MECHANISMS,
    InputError,
    Scheme,
    SignatureScheme,
    WrapScheme,
    checksum_to_sign,
    session_key_to_sign,
)
from tests.conformance.samples import SCHEMES, UNWRAPPING
from tests.conformance.stores import KeyUnderTest, Kind, StoreUnderTest
from tests.support.programs import RealService, configuration, serving, write_pki

PLENTY_S = 30.0
"""A deadline that only a hang would miss."""
SHORT_S = 0.7
"""A deadline for what is to miss it, or to fail by then."""

_T = TypeVar("_T")


class Failure(Exception):  # noqa: N818 - it is a value too
    """An operation that failed; `said` is all that its caller was told."""

    def __init__(self, kind: Kind, said: str) -> None:
        super().__init__(f"{kind.name}: {said}")
        self.kind = kind
        self.said = said


@dataclass(frozen=True)
class Shown:
    """A key as the face shows it."""

    key_version: str
    spki_pem: str
    pkcs1_pem: str
    fingerprint: str
    capgo_key_id: str
    custody: tuple[Protection, Origin, Export]
    reasons: tuple[str, ...]
    evidence: Mapping[str, str]


class Face(Protocol):
    """What the cases ask of either face."""

    store: StoreUnderTest

    def can(self, key: KeyUnderTest) -> frozenset[Scheme]:
        """What the key has to do on this face."""

    async def use(self, key: KeyUnderTest, scheme: Scheme, data: bytes, within_s: float = PLENTY_S) -> bytes:
        """Wrap, sign or, with a scheme of RSAES, unwrap. Raises `Failure`."""

    async def use_all(
        self, key: KeyUnderTest, scheme: Scheme, data: Sequence[bytes], within_s: float = PLENTY_S
    ) -> list[bytes | Failure]:
        """The same for a group, in order."""

    async def show(self, key: KeyUnderTest) -> Shown:
        """The key's public half and its custody."""

    async def cancelled(self) -> None:
        """Wait until a call that was cancelled here is known to be so where it is served."""

    async def stop(self) -> None:
        """Close the store, or end the program."""

    def meaning(self, kind: Kind, scheme: Scheme) -> Kind:
        """What a failure of that kind in the store is to whoever asked for `scheme` on this face."""


class Direct:
    """The backend in this process. A context manager: inside it, every key is open."""

    def __init__(self, store: StoreUnderTest, **settings: object) -> None:
        self.store = store
        self._settings = {**store.settings, **settings}
        self._open: dict[str, Key] = {}
        self._stack = contextlib.ExitStack()
        self.key_store: KeyStore

    async def __aenter__(self) -> Direct:
        self._stack.enter_context(self.store.in_this_process())
        self.key_store = backend(self.store.scheme)(self._settings)
        try:
            await self._open_keys()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _open_keys(self) -> None:
        """All at once, and the first of them twice."""
        keys = (*self.store.keys, self.store.keys[0])
        for key, opened in zip(
            keys, await asyncio.gather(*(self.key_store.open_key(k.uri) for k in keys)), strict=True
        ):
            self._open[key.name] = opened

    async def __aexit__(self, *_: object) -> None:
        self.store.clear()
        await self.key_store.close()
        self._stack.close()

    def key(self, key: KeyUnderTest) -> Key:
        """The key, open."""
        return self._open[key.name]

    def can(self, key: KeyUnderTest) -> frozenset[Scheme]:
        return frozenset(scheme for scheme in SCHEMES if MECHANISMS[scheme] in key.can)

    async def use(self, key: KeyUnderTest, scheme: Scheme, data: bytes, within_s: float = PLENTY_S) -> bytes:
        (result,) = await self.use_all(key, scheme, [data], within_s)
        if isinstance(result, Failure):
            raise result
        return result

    async def use_all(
        self, key: KeyUnderTest, scheme: Scheme, data: Sequence[bytes], within_s: float = PLENTY_S
    ) -> list[bytes | Failure]:
        opened = self.key(key)
        deadline_s = time.monotonic() + within_s
        if scheme in UNWRAPPING:
            return list(await asyncio.gather(*(self._decrypt(opened, scheme, each, deadline_s) for each in data)))
        try:
            inputs = [
                checksum_to_sign(scheme, each) if isinstance(scheme, SignatureScheme) else session_key_to_sign(each)
                for each in data
            ]
        except InputError as error:
            return [Failure(Kind.INPUT, str(error))] * len(data)
        results = await opened.sign(inputs, deadline_s)
        assert len(results) == len(inputs)
        return [self._failed(each) if isinstance(each, BackendError) else _value(each) for each in results]

    async def _decrypt(self, opened: Key, scheme: Scheme, data: bytes, deadline_s: float) -> bytes | Failure:
        if not isinstance(opened, Decrypter):
            refusal = opened.description.refusals[MECHANISMS[scheme]]
            return Failure(Kind.CALLER, refusal)
        try:
            return (await opened.decrypt(data, MECHANISMS[scheme], deadline_s)).value
        except BackendError as error:
            return self._failed(error)

    def _failed(self, error: BackendError) -> Failure:
        return Failure(check_error(error, self.store), str(error))

    async def show(self, key: KeyUnderTest) -> Shown:
        description = self.key(key).description
        custody, public_key = description.custody, description.public_key
        return Shown(
            description.key_version,
            public_key.spki_pem,
            public_key.pkcs1_pem,
            public_key.fingerprint,
            public_key.capgo_key_id,
            (custody.protection, custody.origin, custody.export),
            (*custody.protection_reasons, *custody.origin_reasons, *custody.export_reasons),
            {evidence.name: evidence.value for evidence in custody.evidence},
        )

    async def cancelled(self) -> None:
        """Nothing is between the caller and the backend."""

    async def stop(self) -> None:
        await self.key_store.close()

    def meaning(self, kind: Kind, scheme: Scheme) -> Kind:
        return kind


def _value(result: object) -> bytes:
    assert isinstance(result, Signature)
    return result.value


_KINDS: Mapping[type[BackendError], Kind] = {
    CallerError: Kind.CALLER,
    BusyError: Kind.BUSY,
    UnavailableError: Kind.UNAVAILABLE,
    OperatorError: Kind.OPERATOR,
    IntegrityError: Kind.INTEGRITY,
    DeadlineError: Kind.DEADLINE,
}


def check_error(error: BackendError, store: StoreUnderTest) -> Kind:
    """Its kind, once its form was found good: clauses that a program puts into one sentence, and no secret."""
    assert error.part
    for words in (error.message, error.remedy):
        assert words == " ".join(words.split())
        assert not words.endswith((".", ";"))
    assert error.message
    for secret in store.secrets:
        assert secret not in f"{error!s} {error!r}"
    if isinstance(error, (BusyError, UnavailableError)):
        assert 0 < error.retry_after_s < 60
    if isinstance(error, CallerError) and error.part == "ciphertext":
        return Kind.INPUT
    return _KINDS[type(error)]


WRAP_SCHEMES = {scheme: getattr(signing_pb2, f"WRAP_SCHEME_{scheme.name}") for scheme in WrapScheme}
SIGNATURE_SCHEMES = {scheme: getattr(signing_pb2, f"SIGNATURE_SCHEME_{scheme.name}") for scheme in SignatureScheme}

_REASONS: Mapping[tuple[int, str], Kind] = {
    (code_pb2.INVALID_ARGUMENT, "INVALID_REQUEST"): Kind.INPUT,
    (code_pb2.FAILED_PRECONDITION, "KEY_CANNOT"): Kind.CALLER,
    (code_pb2.FAILED_PRECONDITION, "KEY_BLOCKED"): Kind.OPERATOR,
    (code_pb2.RESOURCE_EXHAUSTED, "KEY_STORE_BUSY"): Kind.BUSY,
    (code_pb2.UNAVAILABLE, "KEY_STORE_AWAY"): Kind.UNAVAILABLE,
    (code_pb2.INTERNAL, "INTERNAL"): Kind.INTEGRITY,
    (code_pb2.DEADLINE_EXCEEDED, "DEADLINE"): Kind.DEADLINE,
}
_DETAILS = {
    Kind.INPUT: {"BadRequest", "ErrorInfo"},
    Kind.BUSY: {"ErrorInfo", "RetryInfo"},
    Kind.UNAVAILABLE: {"ErrorInfo", "RetryInfo"},
}
_BATCH_CODES = {code: kind for (code, _), kind in _REASONS.items() if code != code_pb2.FAILED_PRECONDITION}


class Service:
    """The program `privyseal-server` in a process of its own, asked over mutual TLS. A context manager.

    `running` is one that others use too; without it, a program of its own is started.
    """

    def __init__(self, store: StoreUnderTest, running: RealService) -> None:
        self.store = store
        self._running = running
        self._channel: grpc.aio.Channel
        self._signing: Any
        self._keys: Any

    async def __aenter__(self) -> Service:
        folder = self._running.folder
        credentials = grpc.ssl_channel_credentials(
            *((folder / name).read_bytes() for name in ("ca.pem", "client-key.pem", "client.pem"))
        )
        options = [("grpc.use_local_subchannel_pool", 1)]
        self._channel = grpc.aio.secure_channel(self._running.address, credentials, options)
        self._signing, self._keys = SigningServiceStub(self._channel), KeyServiceStub(self._channel)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.store.clear()
        await self._channel.close()

    def can(self, key: KeyUnderTest) -> frozenset[Scheme]:
        return frozenset(key.schemes)

    async def use(self, key: KeyUnderTest, scheme: Scheme, data: bytes, within_s: float = PLENTY_S) -> bytes:
        if scheme in UNWRAPPING:
            unwrap = signing_pb2.UnwrapSessionKeyRequest(key=key.name, wrapped_key=data, scheme=WRAP_SCHEMES[scheme])
            answer = await self._call(self._signing.UnwrapSessionKey(unwrap, timeout=_timeout(within_s)))
            self._check_version(answer)
            return bytes(answer.session_key)
        if isinstance(scheme, WrapScheme):
            wrap = signing_pb2.WrapSessionKeyRequest(key=key.name, session_key=data, scheme=WRAP_SCHEMES[scheme])
            answer = await self._call(self._signing.WrapSessionKey(wrap, timeout=_timeout(within_s)))
            self._check_version(answer)
            return bytes(answer.wrapped_key)
        sign = signing_pb2.SignChecksumRequest(key=key.name, checksum=data, scheme=SIGNATURE_SCHEMES[scheme])
        answer = await self._call(self._signing.SignChecksum(sign, timeout=_timeout(within_s)))
        self._check_version(answer)
        return bytes(answer.signature)

    async def use_all(
        self, key: KeyUnderTest, scheme: Scheme, data: Sequence[bytes], within_s: float = PLENTY_S
    ) -> list[bytes | Failure]:
        if isinstance(scheme, WrapScheme):
            return list(await asyncio.gather(*(self._use(key, scheme, each, within_s) for each in data)))
        batch = signing_pb2.BatchSignChecksumsRequest(key=key.name, checksums=data, scheme=SIGNATURE_SCHEMES[scheme])
        try:
            answer = await self._call(self._signing.BatchSignChecksums(batch, timeout=_timeout(within_s)))
        except Failure as failed:
            return [failed] * len(data)
        assert len(answer.results) == len(data)
        return [self._part(each) for each in answer.results]

    async def _use(self, key: KeyUnderTest, scheme: Scheme, data: bytes, within_s: float) -> bytes | Failure:
        try:
            return await self.use(key, scheme, data, within_s)
        except Failure as failed:
            return failed

    def _part(self, result: signing_pb2.BatchResult) -> bytes | Failure:
        if result.WhichOneof("result") == "signature":
            return bytes(result.signature)
        self._check_words(result.error.message)
        blocked = Kind.OPERATOR if "blocked" in result.error.message else Kind.CALLER
        return Failure(_BATCH_CODES.get(result.error.code, blocked), result.error.message)

    async def _call(self, call: grpc.aio.UnaryUnaryCall[Any, _T]) -> _T:
        try:
            answer = await call
        except grpc.aio.AioRpcError as error:
            raise self._failed(error) from None
        assert dict(await call.trailing_metadata())["privyseal-request-id"]
        return answer

    def _failed(self, error: grpc.aio.AioRpcError) -> Failure:
        """The failure, once its code, its details and its words were found good."""
        # The SDK's helper wants a synchronous call's metadata, pairs; these are pairs too.
        metadata = dict(error.trailing_metadata() or ())
        said = str(error.details())
        if "privyseal-request-id" not in metadata:
            assert error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED), said
            return Failure(Kind.GONE, said)
        status = from_call(_Pairs(error))  # type: ignore[arg-type]
        assert status is not None
        details = {detail.TypeName().rpartition(".")[2]: detail for detail in status.details}
        info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
        assert details["ErrorInfo"].Unpack(info)
        assert info.domain == "privyseal"
        kind = _REASONS[status.code, info.reason]
        assert set(details) == _DETAILS.get(kind, {"ErrorInfo"})
        if "RetryInfo" in details:
            assert details["RetryInfo"].Unpack(retry)
            assert 0 < retry.retry_delay.ToMilliseconds() < 60_000
        self._check_words(f"{said} {status}")
        return Failure(kind, said)

    def _check_words(self, said: str) -> None:
        """Nothing of the key store reaches a caller."""
        for word in (*self.store.secrets, *self.store.places):
            assert word not in said

    def _check_version(self, answer: Any) -> None:
        assert answer.key_version

    async def show(self, key: KeyUnderTest) -> Shown:
        request = keys_pb2.GetKeyRequest(name=key.name)
        answer = await self._call(self._keys.GetKey(request, timeout=PLENTY_S))
        shown, custody = answer.key, answer.key.custody
        return Shown(
            shown.key_version,
            shown.public_key.spki_pem,
            shown.public_key.pkcs1_pem,
            shown.public_key.fingerprint,
            shown.public_key.capgo_key_id,
            (
                Protection[keys_pb2.Protection.Name(custody.protection).removeprefix("PROTECTION_")],
                Origin[keys_pb2.Origin.Name(custody.origin).removeprefix("ORIGIN_")],
                Export[keys_pb2.Export.Name(custody.export).removeprefix("EXPORT_")],
            ),
            (*custody.protection_reasons, *custody.origin_reasons, *custody.export_reasons),
            {evidence.name: evidence.value for evidence in custody.evidence},
        )

    async def state(self, key: KeyUnderTest) -> str:
        """The key's state as GetKey tells it: `SERVING`, `UNAVAILABLE`, `BLOCKED`."""
        answer = await self._call(self._keys.GetKey(keys_pb2.GetKeyRequest(name=key.name), timeout=PLENTY_S))
        return keys_pb2.KeyState.Name(answer.key.state).removeprefix("KEY_STATE_")

    async def call(self, method: str, request: Any) -> Any:
        """Call a method of SigningService as it is."""
        return await self._call(getattr(self._signing, method)(request, timeout=PLENTY_S))

    async def cancelled(self) -> None:
        """The service puts every call on record, a cancelled one too."""
        while "cancelled" not in self._running.log.read_text():
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        assert await asyncio.to_thread(self._running.stop) == 0

    def meaning(self, kind: Kind, scheme: Scheme) -> Kind:
        """Whatever a store refuses of an unwrapping is one answer: more would tell what was wrong with it."""
        return Kind.INPUT if kind is Kind.CALLER and scheme in UNWRAPPING else kind


class _Pairs:
    """An asynchronous call's error in the form that `from_call` reads."""

    def __init__(self, error: grpc.aio.AioRpcError) -> None:
        self._error = error

    def trailing_metadata(self) -> tuple[tuple[str, bytes | str], ...]:
        return tuple(self._error.trailing_metadata() or ())

    def code(self) -> grpc.StatusCode:
        return self._error.code()

    def details(self) -> str | None:
        return self._error.details()


def _timeout(within_s: float) -> float | None:
    """No deadline of the caller's where time is short: its own client would give up together with the service, whose
    answer would be lost. The service has a deadline for such calls."""
    return None if within_s <= SHORT_S else within_s


@contextlib.contextmanager
def program(store: StoreUnderTest, folder: Path, **settings: object) -> Iterator[RealService]:
    """A service with all keys of the store. Its log is read at the end: there is no secret in it."""
    write_pki(folder)
    keys = {key.name: (key.uri, [scheme.value for scheme in key.schemes]) for key in store.keys}
    server = f"[server]\ndefault_deadline_s = {SHORT_S}\nshutdown_grace_s = 20.0\n"
    config = configuration(keys, extra=server + store_table(store, **settings))
    with store.in_this_process(), serving(folder, config) as running:
        yield running
    log = running.log.read_text()
    for secret in store.secrets:
        assert secret not in log


def store_table(store: StoreUnderTest, **settings: object) -> str:
    """The store's settings, and more, as the configuration has them."""
    lines = [f"{name} = {_toml(value)}" for name, value in {**store.settings, **settings}.items()]
    return "\n".join([f"[stores.{store.scheme}]", *lines, ""])


def _toml(value: object) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f'"{name}" = {_toml(each)}' for name, each in value.items()) + " }"
    return f'"{value}"' if isinstance(value, str) else str(value).lower()
