"""The fake itself. What it does not implement it refuses, naming the field: a test never passes by what is ignored.

Behaviour after Google's reference of `google.cloud.kms.v1` and the guides on signing, decrypting and data integrity.
"""

from __future__ import annotations

import re
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Collection, Iterator
from concurrent import futures
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import google_crc32c
import grpc
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import NoDigestInfo, Prehashed
from cryptography.hazmat.primitives.hashes import SHA1, SHA256, SHA512, Hash, HashAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from google.cloud.kms_v1 import types
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.unknown_fields import UnknownFieldSet
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from tests.fakes.google_kms.faults import Alter, Fault, Hang, Hold, Refuse
from tests.fakes.google_kms.hsm import hsm, rsa_key

RING = "projects/privyseal-test/locations/europe-west6/keyRings/ring"
SERVICE = "google.cloud.kms.v1.KeyManagementService"

_RING = re.compile(r"projects/[^/]+/locations/[^/]+/keyRings/[A-Za-z0-9_-]{1,63}")
_KEY = re.compile(_RING.pattern + r"/cryptoKeys/[A-Za-z0-9_-]{1,63}")
_VERSION = re.compile(_KEY.pattern + r"/cryptoKeyVersions/\d+")
_ALGORITHM = re.compile(
    r"RSA_(?P<kind>SIGN_RAW_PKCS1|SIGN_PKCS1|SIGN_PSS|DECRYPT_OAEP)_(?P<bits>\d{4})(?:_(?P<hash>SHA1|SHA256|SHA512))?"
)
_HASHES: dict[str, type[HashAlgorithm]] = {"SHA1": SHA1, "SHA256": SHA256, "SHA512": SHA512}

State = types.CryptoKeyVersion.CryptoKeyVersionState
Algorithm = types.CryptoKeyVersion.CryptoKeyVersionAlgorithm
Level = types.ProtectionLevel
Purpose = types.CryptoKey.CryptoKeyPurpose


class _RefusedError(Exception):
    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def _invalid(message: str) -> _RefusedError:
    return _RefusedError(grpc.StatusCode.INVALID_ARGUMENT, message)


def _precondition(message: str) -> _RefusedError:
    return _RefusedError(grpc.StatusCode.FAILED_PRECONDITION, message)


def _set_fields(message: Message, prefix: str = "") -> Iterator[str]:
    """Every field that is set, as a path; of a message with fields set, those fields."""
    if len(UnknownFieldSet(message)):
        yield prefix + "(unknown)"
    for descriptor, value in message.ListFields():
        path = prefix + descriptor.name
        if isinstance(value, Message) and not descriptor.message_type.full_name.startswith("google.protobuf."):
            yield from _set_fields(value, path + ".")
        else:
            yield path


def _only(request: Any, allowed: Collection[str]) -> None:
    for path in _set_fields(type(request).pb(request)):
        if path not in allowed:
            raise _invalid(f"the fake does not implement the field {path}")


def _check_crc32c(what: str, data: bytes, checksum: int | None) -> None:
    if checksum is not None and checksum != crc32c(data):
        raise _invalid(f"The checksum in field {what}_crc32c did not match the data in field {what}.")


def crc32c(data: bytes) -> int:
    return int(google_crc32c.value(data))


@dataclass
class _Version:
    message: types.CryptoKeyVersion
    key: rsa.RSAPrivateKey

    @property
    def algorithm(self) -> re.Match[str]:
        match = _ALGORITHM.fullmatch(self.message.algorithm.name)
        assert match
        return match

    @property
    def hash(self) -> HashAlgorithm:
        return _HASHES[self.algorithm["hash"]]()


class FakeKms:
    """A server on a free loopback port; a context manager.

    `calls` has the name of every method called, in order; `requests` and `metadata` what came with each; `peak` is the
    largest number of calls that were inside at once.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.requests: list[Any] = []
        self.metadata: list[dict[str, str]] = []
        self.peak = 0
        self._inside = 0
        self._lock = threading.Lock()
        self._faults: dict[str, deque[Fault]] = defaultdict(deque)
        self._keys: dict[str, types.CryptoKey] = {}
        self._versions: dict[str, _Version] = {}
        self._indices: dict[int, int] = defaultdict(int)
        self._server: grpc.Server | None = None
        self.port = 0

    # A test's own side.

    def __enter__(self) -> FakeKms:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, port: int = 0, tls: grpc.ServerCredentials | None = None) -> None:
        """Listen; on `port` again after a stop, where a test needs that."""
        server = grpc.server(futures.ThreadPoolExecutor(max_workers=64), options=[("grpc.so_reuseport", 0)])
        handlers = {name: self._handler(name) for name in _METHODS}
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        address = f"127.0.0.1:{port}"
        self.port = server.add_secure_port(address, tls) if tls else server.add_insecure_port(address)
        server.start()
        self._server = server

    def stop(self) -> None:
        """Cut every connection."""
        if self._server is not None:
            self._server.stop(grace=None).wait()
            self._server = None

    @property
    def endpoint(self) -> str:
        """For `endpoint` in a URI or in the settings."""
        return f"http://127.0.0.1:{self.port}"

    def queue(self, method: str, *faults: Fault, times: int = 1) -> None:
        """Spoil the next calls of `method`, one fault each."""
        assert method in _METHODS
        with self._lock:
            self._faults[method].extend([*faults] * times)

    def forget_faults(self) -> None:
        """Spoil no more calls."""
        with self._lock:
            self._faults.clear()

    def add(
        self,
        algorithm: str,
        level: str = "SOFTWARE",
        *,
        key_id: str | None = None,
        private_key: rsa.RSAPrivateKey | None = None,
    ) -> str:
        """Make an enabled key version, of `private_key` where it is given, and return its name."""
        key_id = key_id or f"{algorithm.lower()}-{len(self._keys)}"
        key = types.CryptoKey(
            name=f"{RING}/cryptoKeys/{key_id}",
            version_template=types.CryptoKeyVersionTemplate(
                algorithm=Algorithm[algorithm], protection_level=Level[level]
            ),
        )
        self._keys[key.name] = key
        return self._new_version(key, private_key).message.name

    def version(self, name: str) -> types.CryptoKeyVersion:
        """The version's message, for a test to change."""
        return self._versions[name].message

    def private_key(self, name: str) -> rsa.RSAPrivateKey:
        """The key itself."""
        return self._versions[name].key

    def replace_key(self, name: str) -> None:
        """Put another key under the same name."""
        version = self._versions[name]
        version.key = self._next_key(int(version.algorithm["bits"]))

    # Keys.

    def _next_key(self, bits: int) -> rsa.RSAPrivateKey:
        self._indices[bits] += 1
        return rsa_key(bits, self._indices[bits])

    def _new_version(self, key: types.CryptoKey, private_key: rsa.RSAPrivateKey | None = None) -> _Version:
        template = key.version_template
        match = _ALGORITHM.fullmatch(template.algorithm.name)
        number = 1 + sum(name.startswith(f"{key.name}/") for name in self._versions)
        now = datetime.now(UTC)
        message = types.CryptoKeyVersion(
            name=f"{key.name}/cryptoKeyVersions/{number}",
            state=State.ENABLED,
            protection_level=template.protection_level or Level.SOFTWARE,
            algorithm=template.algorithm,
            create_time=now,
            generate_time=now,
        )
        private = private_key or self._next_key(int(match["bits"]) if match else 2048)
        if message.protection_level == Level.HSM:
            message.attestation = self.attestation(message.name, private)
        version = _Version(message, private)
        self._versions[message.name] = version
        return version

    def attestation(self, name: str, key: rsa.RSAPrivateKey, **changes: Any) -> types.KeyOperationAttestation:
        """What the fake's HSM says of a key; `changes` go to `Hsm.attest`."""
        device = hsm()
        return types.KeyOperationAttestation(
            format=types.KeyOperationAttestation.AttestationFormat.CAVIUM_V2_COMPRESSED,
            content=device.attest(name, key.public_key(), **changes),
            cert_chains=types.KeyOperationAttestation.CertificateChains(
                cavium_certs=device.manufacturer_chain,
                google_card_certs=device.owner_card_chain,
                google_partition_certs=device.owner_partition_chain,
            ),
        )

    def _find(self, name: str) -> _Version:
        if not _VERSION.fullmatch(name):
            raise _invalid(f"the name {name!r} is malformed")
        version = self._versions.get(name)
        if version is None:
            raise _RefusedError(grpc.StatusCode.NOT_FOUND, f"CryptoKeyVersion {name} not found.")
        return version

    def _find_enabled(self, name: str) -> _Version:
        version = self._find(name)
        if version.message.state != State.ENABLED:
            state = version.message.state.name
            raise _precondition(f"{name} is not enabled, current state is: {state}.")
        return version

    # The plumbing of calls.

    def _handler(self, name: str) -> grpc.RpcMethodHandler:
        request_type, answer_type, handle = _METHODS[name]

        def serve(request: Any, context: grpc.ServicerContext) -> Any:
            with self._lock:
                self.calls.append(name)
                self.requests.append(request)
                self.metadata.append({item.key: str(item.value) for item in context.invocation_metadata()})
                self._inside += 1
                self.peak = max(self.peak, self._inside)
                fault = self._faults[name].popleft() if self._faults[name] else None
            try:
                return self._serve(handle, request, context, fault)
            finally:
                with self._lock:
                    self._inside -= 1

        return grpc.unary_unary_rpc_method_handler(
            serve, request_deserializer=request_type.deserialize, response_serializer=answer_type.serialize
        )

    def _serve(
        self,
        handle: Callable[[FakeKms, Any], Any],
        request: Any,
        context: grpc.ServicerContext,
        fault: Fault | None,
    ) -> Any:
        match fault:
            case Refuse():
                _refuse(context, fault)
            case Hang():
                gone = threading.Event()
                if context.add_callback(gone.set):
                    gone.wait()
                context.abort(grpc.StatusCode.CANCELLED, "the caller is gone")
            case Hold(gate):
                gate.wait()
        try:
            with self._lock:
                answer = handle(self, request)
        except _RefusedError as error:
            context.abort(error.code, str(error))
        if isinstance(fault, Alter):
            answer = type(answer).deserialize(type(answer).serialize(answer))
            fault.change(answer)
        return answer

    # The methods.

    def _get_version(self, request: types.GetCryptoKeyVersionRequest) -> types.CryptoKeyVersion:
        _only(request, {"name"})
        return self._find(request.name).message

    def _get_public_key(self, request: types.GetPublicKeyRequest) -> types.PublicKey:
        _only(request, {"name"})
        version = self._find_enabled(request.name)
        pem = version.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        return types.PublicKey(
            pem=pem.decode(),
            algorithm=version.message.algorithm,
            pem_crc32c=crc32c(pem),
            name=version.message.name,
            protection_level=version.message.protection_level,
        )

    def _sign(self, request: types.AsymmetricSignRequest) -> types.AsymmetricSignResponse:
        _only(
            request,
            {
                "name",
                "data",
                "data_crc32c",
                "digest",
                "digest.sha256",
                "digest.sha384",
                "digest.sha512",
                "digest_crc32c",
            },
        )
        version = self._find_enabled(request.name)
        if not version.algorithm["kind"].startswith("SIGN"):
            raise _precondition(f"{version.message.algorithm.name} may not be used for signing")
        signature = version.key.sign(*_to_be_signed(version, request))
        return types.AsymmetricSignResponse(
            signature=signature,
            signature_crc32c=crc32c(signature),
            verified_digest_crc32c=request.digest_crc32c is not None,
            verified_data_crc32c=request.data_crc32c is not None,
            name=version.message.name,
            protection_level=version.message.protection_level,
        )

    def _decrypt(self, request: types.AsymmetricDecryptRequest) -> types.AsymmetricDecryptResponse:
        _only(request, {"name", "ciphertext", "ciphertext_crc32c"})
        version = self._find_enabled(request.name)
        if not version.algorithm["kind"].startswith("DECRYPT"):
            raise _precondition(f"{version.message.algorithm.name} may not be used for decryption")
        _check_crc32c("ciphertext", request.ciphertext, request.ciphertext_crc32c)
        oaep = padding.OAEP(padding.MGF1(version.hash), version.hash, None)
        try:
            plaintext = version.key.decrypt(request.ciphertext, oaep)
        except ValueError:
            raise _invalid("Decryption failed: the ciphertext is invalid.") from None
        return types.AsymmetricDecryptResponse(
            plaintext=plaintext,
            plaintext_crc32c=crc32c(plaintext),
            verified_ciphertext_crc32c=request.ciphertext_crc32c is not None,
            protection_level=version.message.protection_level,
        )

    def _create_key(self, request: types.CreateCryptoKeyRequest) -> types.CryptoKey:
        template = "crypto_key.version_template."
        allowed = {
            "parent",
            "crypto_key_id",
            "crypto_key.purpose",
            template + "algorithm",
            template + "protection_level",
        }
        _only(request, allowed)
        name = f"{request.parent}/cryptoKeys/{request.crypto_key_id}"
        if not _KEY.fullmatch(name):
            raise _invalid("the parent or the crypto_key_id is malformed")
        if name in self._keys:
            raise _RefusedError(grpc.StatusCode.ALREADY_EXISTS, f"CryptoKey {name} already exists.")
        algorithm = _ALGORITHM.fullmatch(request.crypto_key.version_template.algorithm.name)
        if algorithm is None:
            raise _invalid("the fake does not implement the value of crypto_key.version_template.algorithm")
        wanted = Purpose.ASYMMETRIC_SIGN if algorithm["kind"].startswith("SIGN") else Purpose.ASYMMETRIC_DECRYPT
        if request.crypto_key.purpose != wanted:
            raise _invalid("the algorithm does not fit crypto_key.purpose")
        key = types.CryptoKey(request.crypto_key)
        key.name = name
        self._keys[name] = key
        self._new_version(key)
        return key

    def _create_version(self, request: types.CreateCryptoKeyVersionRequest) -> types.CryptoKeyVersion:
        _only(request, {"parent"})
        key = self._keys.get(request.parent)
        if key is None:
            raise _RefusedError(grpc.StatusCode.NOT_FOUND, f"CryptoKey {request.parent} not found.")
        answer = types.CryptoKeyVersion(self._new_version(key).message)
        answer.state = State.PENDING_GENERATION  # as the service says first; the fake is ready by the next call
        return answer

    def _update_version(self, request: types.UpdateCryptoKeyVersionRequest) -> types.CryptoKeyVersion:
        if list(request.update_mask.paths) != ["state"]:
            raise _invalid("update_mask: the fake implements the path state alone")
        version = self._find(request.crypto_key_version.name)
        wanted = request.crypto_key_version.state
        if wanted not in (State.ENABLED, State.DISABLED):
            raise _invalid("crypto_key_version.state: it can be set to ENABLED or DISABLED")
        if version.message.state not in (State.ENABLED, State.DISABLED):
            raise _precondition(f"the state is {version.message.state.name}")
        version.message.state = wanted
        return version.message

    def _destroy_version(self, request: types.DestroyCryptoKeyVersionRequest) -> types.CryptoKeyVersion:
        _only(request, {"name"})
        version = self._find(request.name)
        if version.message.state not in (State.ENABLED, State.DISABLED):
            raise _precondition(f"the state is {version.message.state.name}")
        version.message.state = State.DESTROY_SCHEDULED
        version.message.destroy_time = datetime.now(UTC)
        return version.message


def _to_be_signed(version: _Version, request: types.AsymmetricSignRequest) -> tuple[bytes, Any, Any]:
    has_digest = "digest" in request
    if has_digest and request.data:
        raise _invalid("only one of digest and data can be set")
    if version.algorithm["kind"] == "SIGN_RAW_PKCS1":
        if not request.data:
            raise _invalid("data must be set for a raw key, and digest must not")
        if len(request.data) > version.key.key_size // 8 - 11:
            raise _invalid("data is too long for the key")
        _check_crc32c("data", request.data, request.data_crc32c)
        return request.data, padding.PKCS1v15(), NoDigestInfo()
    if request.data:
        _check_crc32c("data", request.data, request.data_crc32c)
        hasher = Hash(version.hash)
        hasher.update(request.data)
        digest = hasher.finalize()
    else:
        digest = getattr(request.digest, version.algorithm["hash"].lower()) if has_digest else b""
        if len(digest) != version.hash.digest_size:
            raise _invalid(f"digest must be the {version.hash.digest_size} bytes of a {version.algorithm['hash']}")
        _check_crc32c("digest", digest, request.digest_crc32c)
    if version.algorithm["kind"] == "SIGN_PSS":
        return digest, padding.PSS(padding.MGF1(version.hash), version.hash.digest_size), Prehashed(version.hash)
    return digest, padding.PKCS1v15(), Prehashed(version.hash)


def _refuse(context: grpc.ServicerContext, fault: Refuse) -> None:
    status = Status(code=fault.code.value[0], message=fault.message)
    if fault.retry_delay_s is not None:
        delay = Duration()
        delay.FromMilliseconds(int(fault.retry_delay_s * 1000))
        detail = AnyMessage()
        detail.Pack(RetryInfo(retry_delay=delay))
        status.details.append(detail)
    context.abort_with_status(rpc_status.to_status(status))


_METHODS: dict[str, tuple[Any, Any, Callable[[FakeKms, Any], Any]]] = {
    "GetCryptoKeyVersion": (types.GetCryptoKeyVersionRequest, types.CryptoKeyVersion, FakeKms._get_version),
    "GetPublicKey": (types.GetPublicKeyRequest, types.PublicKey, FakeKms._get_public_key),
    "AsymmetricSign": (types.AsymmetricSignRequest, types.AsymmetricSignResponse, FakeKms._sign),
    "AsymmetricDecrypt": (types.AsymmetricDecryptRequest, types.AsymmetricDecryptResponse, FakeKms._decrypt),
    "CreateCryptoKey": (types.CreateCryptoKeyRequest, types.CryptoKey, FakeKms._create_key),
    "CreateCryptoKeyVersion": (
        types.CreateCryptoKeyVersionRequest,
        types.CryptoKeyVersion,
        FakeKms._create_version,
    ),
    "UpdateCryptoKeyVersion": (
        types.UpdateCryptoKeyVersionRequest,
        types.CryptoKeyVersion,
        FakeKms._update_version,
    ),
    "DestroyCryptoKeyVersion": (
        types.DestroyCryptoKeyVersionRequest,
        types.CryptoKeyVersion,
        FakeKms._destroy_version,
    ),
}
