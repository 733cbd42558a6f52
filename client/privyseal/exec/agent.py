"""The signing agent: a Unix socket through which the hooked node processes ask for an RSA operation.

A request is a line of JSON, `{"data": BASE64, "cli": VERSION or null}`; the answer is `{"signature": BASE64}` or
`{"error": SENTENCE}`. The agent, not the hook, decides which typed operation the data means, and forwards nothing else.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import socketserver
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeAlias

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from privyseal import capgo
from privyseal.errors import PrivysealError
from privyseal.model import SignatureScheme

_MAX_REQUEST_BYTES = 4096
_V2_CHECKSUM = re.compile("[0-9a-f]{64}")


class Signer(Protocol):
    """Where the agent's operations are done. Both raise PrivysealError, and are called from several threads."""

    def wrap_session_key(self, session_key: bytes) -> bytes:
        """The wrapped key, 256 bytes, of a session key of 16 bytes."""

    def sign_checksum(self, scheme: SignatureScheme, checksum: bytes) -> bytes:
        """The signature, 256 bytes, of a checksum of 32 bytes by CAPGO_V2 or CAPGO_V3."""


class RefusedError(PrivysealError):
    """The agent does not forward such a request."""


@dataclass(frozen=True)
class WrapSessionKey:
    """A session key, 16 bytes, to be wrapped: a secret, which stays out of the repr."""

    session_key: bytes = field(repr=False)


@dataclass(frozen=True)
class SignChecksum:
    """A checksum, 32 bytes, to be signed by a scheme of Capgo."""

    scheme: SignatureScheme
    checksum: bytes


Operation: TypeAlias = WrapSessionKey | SignChecksum


def operation_for(data: bytes) -> Operation:
    """The one typed operation that a type-1 block over `data` can mean in Capgo's protocol.

    16 bytes are a session key, 32 the checksum of V3, 48 that of V2, whose base64 is the checksum in lower-case hex.
    Raises RefusedError for everything else: a DigestInfo of 51 bytes would be a signature that other systems accept.
    """
    if len(data) == capgo.SESSION_KEY_BYTES:
        return WrapSessionKey(data)
    if len(data) == capgo.CHECKSUM_BYTES:
        return SignChecksum(SignatureScheme.CAPGO_V3, data)
    text = base64.b64encode(data).decode()
    if _V2_CHECKSUM.fullmatch(text):
        return SignChecksum(SignatureScheme.CAPGO_V2, bytes.fromhex(text))
    raise RefusedError(
        f"{len(data)} bytes are neither a session key nor a SHA-256 checksum of Capgo, so they were not signed",
        remedy="give `bundle encrypt` the SHA-256 that `bundle zip --json` prints",
    )


class Agent:
    """Answers on the socket at `path` while the context lasts: mode 0600, and the caller's folder keeps others out.

    Every block that the signer returns is opened with `public_key` before it is handed on. `approve` is called with the
    Capgo CLI's version (None where there is none) at the first request of each, and may raise PrivysealError to refuse.
    `signed` and `failed` count what became of the requests.
    """

    def __init__(
        self, path: Path, signer: Signer, public_key: RSAPublicKey, approve: Callable[[str | None], None]
    ) -> None:
        self._path = path
        self._signer = signer
        self._public_key = public_key
        self._approve = approve
        self._approved: set[str | None] = set()
        self._lock = threading.Lock()
        self.signed = 0
        self.failed = 0

    def __enter__(self) -> Agent:
        self._server = _Server(str(self._path), _Handler)
        self._server.agent = self
        self._path.chmod(0o600)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def answer(self, line: bytes) -> bytes:
        """The answer to one line, without its newline."""
        try:
            signature = self._sign(line)
        except PrivysealError as error:
            self._count(signed=False)
            return json.dumps({"error": str(error)}).encode()
        except Exception as error:  # noqa: BLE001 - the child gets an error without details, whatever failed
            self._count(signed=False)
            return json.dumps({"error": f"the signing agent failed ({type(error).__name__})"}).encode()
        self._count(signed=True)
        return json.dumps({"signature": base64.b64encode(signature).decode()}).encode()

    def _sign(self, line: bytes) -> bytes:
        data, version = _read_request(line)
        with self._lock:
            if version not in self._approved:
                self._approve(version)
                self._approved.add(version)
        match operation_for(data):
            case WrapSessionKey(session_key):
                block = self._signer.wrap_session_key(session_key)
            case SignChecksum(scheme, checksum):
                block = self._signer.sign_checksum(scheme, checksum)
        if capgo.recover(self._public_key, block) != data:
            raise RefusedError(
                "the service answered with a signature that does not verify with the app's public key",
                remedy="check whether the key at the service was changed, then run the command again",
            )
        return block

    def _count(self, *, signed: bool) -> None:
        with self._lock:
            if signed:
                self.signed += 1
            else:
                self.failed += 1


def _read_request(line: bytes) -> tuple[bytes, str | None]:
    try:
        request = json.loads(line)
        data, version = base64.b64decode(request["data"], validate=True), request["cli"]
    except (ValueError, KeyError, TypeError, binascii.Error):
        raise RefusedError("the request to the signing agent is not one of `privyseal exec`'s hook") from None
    if version is not None and not isinstance(version, str):
        raise RefusedError("the request to the signing agent is not one of `privyseal exec`'s hook")
    return data, version


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    block_on_close = False
    agent: Agent

    def handle_error(self, request: object, client_address: object) -> None:
        """A child that went away in the middle of an answer is no news."""


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        """One connection: a thread of a node process, one question at a time."""
        while line := self.rfile.readline(_MAX_REQUEST_BYTES):
            self.wfile.write(self.server.agent.answer(line) + b"\n")
