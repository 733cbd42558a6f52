"""A signing service for tests of the client: the real API over real gRPC, with a software key, that fails on cue.

It is not the service: it has no grants and no audit. What it shares with it is the wire: requests and answers of
privyseal.v1, google.rpc details, `privyseal-request-id` in the trailing metadata, mutual TLS.
"""

from __future__ import annotations

import base64
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import grpc
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo, Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from privyseal.v1 import keys_pb2, keys_pb2_grpc, signing_pb2, signing_pb2_grpc


@dataclass
class Fault:
    """What one call meets instead of an answer. `details` are google.rpc messages; `delay_s` comes first, and is all
    that happens when there is no code."""

    code: grpc.StatusCode | None = None
    message: str = "as the test wanted"
    details: tuple[Any, ...] = ()
    delay_s: float = 0.0


@dataclass
class SeenCall:
    """A call that reached the server."""

    method: str
    request: Any
    metadata: dict[str, str]
    remaining_s: float
    peer: str


@dataclass
class SigningServer:
    """The state of a running server: its address, its key, the calls that it saw, the faults that it will make."""

    key: rsa.RSAPrivateKey
    name: str = "demo"
    address: str = ""
    calls: list[SeenCall] = field(default_factory=list)
    corrupt: set[str] = field(default_factory=set)
    """Methods whose answers are changed in one bit."""
    public_key: rsa.RSAPublicKey | None = None
    """Shown instead of the key's own."""
    pkcs1_pem: str = ""
    """Shown as the PKCS#1 form instead of the shown key's."""
    show_public_key: bool = True
    hidden: bool = False
    """Whether ListKeys leaves the key out."""
    schemes: tuple[signing_pb2.WrapScheme.ValueType, ...] = (signing_pb2.WRAP_SCHEME_CAPGO,)
    evidence: tuple[str, str] = ("CKA_SENSITIVE", "false")
    batch_errors: dict[int, tuple[int, str]] = field(default_factory=dict)
    """Index of a checksum in a batch: the code and message of its error."""
    batch_lost: int = 0
    """How many results of a batch are left out, from the end."""
    faults: dict[str, deque[Fault]] = field(default_factory=dict)
    stopping: threading.Event = field(default_factory=threading.Event)
    """Set at the end, so that no delay outlives the server."""
    before: Callable[[str], None] = lambda method: None
    """Called with the method's name before each answer."""

    def fail(self, method: str, *faults: Fault) -> None:
        """The next calls of a method meet these."""
        self.faults.setdefault(method, deque()).extend(faults)

    def wait_for(self, method: str) -> None:
        """Wait until a call of the method has come."""
        deadline_s = time.monotonic() + 30
        while method not in self.methods():
            assert time.monotonic() < deadline_s, f"no call of {method} came"
            time.sleep(0.01)

    def methods(self) -> list[str]:
        return [call.method for call in self.calls]

    def type1(self, data: bytes) -> bytes:
        return self.key.sign(data, padding.PKCS1v15(), NoDigestInfo())

    def answer(self, method: str, request: Any, context: grpc.ServicerContext, make: Callable[[], Any]) -> Any:
        number = len(self.calls)
        metadata = {str(k): str(v) for k, v in context.invocation_metadata()}
        self.calls.append(SeenCall(method, request, metadata, context.time_remaining() or 0.0, context.peer()))
        context.set_trailing_metadata((("privyseal-request-id", f"request-{number}"),))
        self.before(method)
        queue = self.faults.get(method)
        if queue:
            self._meet(queue.popleft(), context, f"request-{number}")
        return make()

    def _meet(self, fault: Fault, context: grpc.ServicerContext, request_id: str) -> None:
        self.stopping.wait(fault.delay_s)
        if fault.code is None:
            return
        packed = []
        for detail in fault.details:
            holder = any_pb2.Any()
            holder.Pack(detail)
            packed.append(holder)
        status = rpc_status.to_status(
            status_pb2.Status(code=fault.code.value[0], message=fault.message, details=packed)
        )
        context.set_trailing_metadata((("privyseal-request-id", request_id), *status.trailing_metadata))
        context.set_code(status.code)
        context.set_details(status.details)
        raise _AbortedError

    def changed(self, method: str, value: bytes) -> bytes:
        return value[:-1] + bytes([value[-1] ^ 1]) if method in self.corrupt else value


class _AbortedError(Exception):
    pass


def bad_request(field_name: str, description: str) -> error_details_pb2.BadRequest:
    violation = error_details_pb2.BadRequest.FieldViolation(field=field_name, description=description)
    return error_details_pb2.BadRequest(field_violations=[violation])


def retry_info(seconds: float) -> error_details_pb2.RetryInfo:
    delay = duration_pb2.Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))
    return error_details_pb2.RetryInfo(retry_delay=delay)


def error_info(reason: str, **metadata: str) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reason, domain="privyseal", metadata=metadata)


def _aborting(function: Callable[..., Any]) -> Callable[..., Any]:
    """A handler that meets a fault answers with the status that it set and an empty message."""

    def handler(self: Any, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return function(self, request, context)
        except _AbortedError:
            return None

    return handler


class _Signing(signing_pb2_grpc.SigningServiceServicer):
    def __init__(self, state: SigningServer) -> None:
        self.state = state

    @_aborting
    def WrapSessionKey(self, request, context):
        def make():
            wrapped = self.state.type1(request.session_key)
            return signing_pb2.WrapSessionKeyResponse(
                wrapped_key=self.state.changed("WrapSessionKey", wrapped), key_version="01"
            )

        return self.state.answer("WrapSessionKey", request, context, make)

    @_aborting
    def SignChecksum(self, request, context):
        def make():
            signature = self._sign(request.scheme, request.checksum)
            return signing_pb2.SignChecksumResponse(
                signature=self.state.changed("SignChecksum", signature), key_version="01"
            )

        return self.state.answer("SignChecksum", request, context, make)

    @_aborting
    def BatchSignChecksums(self, request, context):
        def result(index, checksum):
            if index in self.state.batch_errors:
                code, message = self.state.batch_errors[index]
                return signing_pb2.BatchResult(error=signing_pb2.BatchError(code=code, message=message))
            signature = self._sign(request.scheme, checksum)
            return signing_pb2.BatchResult(signature=self.state.changed("BatchSignChecksums", signature))

        def make():
            results = [result(index, checksum) for index, checksum in enumerate(request.checksums)]
            kept = results[: len(results) - self.state.batch_lost]
            return signing_pb2.BatchSignChecksumsResponse(results=kept, key_version="01")

        return self.state.answer("BatchSignChecksums", request, context, make)

    @_aborting
    def UnwrapSessionKey(self, request, context):
        def make():
            oaep = padding.OAEP(mgf=padding.MGF1(SHA256()), algorithm=SHA256(), label=None)
            session_key = self.state.key.decrypt(request.wrapped_key, oaep)
            return signing_pb2.UnwrapSessionKeyResponse(session_key=session_key, key_version="01")

        return self.state.answer("UnwrapSessionKey", request, context, make)

    def _sign(self, scheme, checksum):
        if scheme == signing_pb2.SIGNATURE_SCHEME_CAPGO_V2:
            return self.state.type1(base64.b64decode(checksum.hex()))
        if scheme == signing_pb2.SIGNATURE_SCHEME_CAPGO_V3:
            return self.state.type1(checksum)
        if scheme == signing_pb2.SIGNATURE_SCHEME_RSASSA_PSS_SHA256:
            pss = padding.PSS(mgf=padding.MGF1(SHA256()), salt_length=32)
            return self.state.key.sign(checksum, pss, Prehashed(SHA256()))
        return self.state.key.sign(checksum, padding.PKCS1v15(), Prehashed(SHA256()))


class _Keys(keys_pb2_grpc.KeyServiceServicer):
    def __init__(self, state: SigningServer) -> None:
        self.state = state

    @_aborting
    def ListKeys(self, request, context):
        def make():
            return keys_pb2.ListKeysResponse(keys=[] if self.state.hidden else [described(self.state)])

        return self.state.answer("ListKeys", request, context, make)

    @_aborting
    def GetKey(self, request, context):
        if request.name not in {"", self.state.name}:
            self.state.fail("GetKey", Fault(grpc.StatusCode.PERMISSION_DENIED, "no such key, or no grant for it"))
        return self.state.answer("GetKey", request, context, lambda: keys_pb2.GetKeyResponse(key=described(self.state)))


def described(state: SigningServer) -> keys_pb2.Key:
    """What GetKey answers."""
    public = state.public_key or state.key.public_key()
    pkcs1 = public.public_bytes(Encoding.PEM, PublicFormat.PKCS1).decode()
    spki_der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    key = keys_pb2.Key(
        name=state.name,
        wrap_schemes=state.schemes,
        signature_schemes=[signing_pb2.SIGNATURE_SCHEME_CAPGO_V2, signing_pb2.SIGNATURE_SCHEME_CAPGO_V3],
        state=keys_pb2.KEY_STATE_SERVING,
    )
    if state.show_public_key:
        key.key_version = "01"
        key.public_key.CopyFrom(
            keys_pb2.PublicKey(
                spki_pem=public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
                pkcs1_pem=state.pkcs1_pem or pkcs1,
                fingerprint=sha256(spki_der).hexdigest(),
                capgo_key_id="".join(pkcs1.splitlines()[1:-1])[:20],
                modulus_bits=public.key_size,
            )
        )
        key.custody.CopyFrom(
            keys_pb2.Custody(
                protection=keys_pb2.PROTECTION_SOFTWARE,
                protection_reasons=["the key is in the memory of a test"],
                origin=keys_pb2.ORIGIN_IMPORTED,
                origin_reasons=["it was read from a file"],
                export=keys_pb2.EXPORT_POSSIBLE,
                export_reasons=["anybody can read the file"],
                evidence=[keys_pb2.Evidence(name=state.evidence[0], value=state.evidence[1])],
            )
        )
    return key


@functools.cache
def _load(private_key_pem: bytes) -> rsa.RSAPrivateKey:
    """The key; checking its primes takes a tenth of a second, once."""
    key = load_pem_private_key(private_key_pem, None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


@contextmanager
def signing_server(
    private_key_pem: bytes, *, credentials: grpc.ServerCredentials | None = None, host: str = "127.0.0.1", port: int = 0
) -> Iterator[SigningServer]:
    """Run a server with this key on a free port of loopback: with TLS when there are credentials, else without."""
    state = SigningServer(_load(private_key_pem))
    pool = ThreadPoolExecutor(16)
    server = grpc.server(pool, options=(("grpc.so_reuseport", 0),))
    signing_pb2_grpc.add_SigningServiceServicer_to_server(_Signing(state), server)
    keys_pb2_grpc.add_KeyServiceServicer_to_server(_Keys(state), server)
    address = f"{host}:{port}"
    bound = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    state.address = f"{host}:{bound}"
    server.start()
    try:
        yield state
    finally:
        state.stopping.set()
        server.stop(None).wait()
        pool.shutdown()
