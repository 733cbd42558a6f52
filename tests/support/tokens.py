"""An issuer of tokens for tests: its keys, its JWK set, a server of that, and tokens that are right or wrong."""

from __future__ import annotations

import base64
import functools
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

ISSUER = "https://ci.example"
AUDIENCE = "privyseal"
SUBJECT = "repo:octo-org/app:ref:refs/heads/main"

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@functools.cache
def rsa_key(name: str = "a", bits: int = 2048) -> rsa.RSAPrivateKey:
    """A key, made once for each name."""
    return rsa.generate_private_key(65537, bits)


def jwk(key: Key, kid: str, **more: object) -> dict[str, object]:
    """The public part, as a JWK set has it."""
    public = key.public_key()
    if isinstance(public, rsa.RSAPublicKey):
        said = RSAAlgorithm.to_jwk(public, as_dict=True)
    elif isinstance(public, ec.EllipticCurvePublicKey):
        said = ECAlgorithm.to_jwk(public, as_dict=True)
    else:
        said = OKPAlgorithm.to_jwk(public, as_dict=True)
    return {**said, "kid": kid, **more}


def key_set(*jwks: Mapping[str, object]) -> bytes:
    """A JWK set."""
    return json.dumps({"keys": list(jwks)}).encode()


def claims(**changes: object) -> dict[str, object]:
    """The claims of a token that is right; a change to None takes one away."""
    now = int(time.time())
    said: dict[str, object] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": SUBJECT,
        "iat": now - 5,
        "nbf": now - 5,
        "exp": now + 300,
        "jti": "1f9c",
        "repository": "octo-org/app",
        "ref": "refs/heads/main",
        "environment": "production",
    }
    said.update(changes)
    return {name: value for name, value in said.items() if value is not None}


def token(
    key: Key | None = None,
    *,
    kid: str | None = "a",
    algorithm: str = "RS256",
    header: Mapping[str, object] | None = None,
    **changes: object,
) -> str:
    """A signed token."""
    headers = {**({"kid": kid} if kid is not None else {}), **(header or {})}
    return jwt.encode(claims(**changes), key or rsa_key(), algorithm, headers=headers)


def unsigned(header: Mapping[str, object], signature: bytes = b"", **changes: object) -> str:
    """A token with any header and any signature."""
    parts = (json.dumps(header).encode(), json.dumps(claims(**changes)).encode(), signature)
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts)


def issuer_settings(jwks_file: Path | str, **more: object) -> dict[str, Any]:
    """The issuer, as the configuration has it."""
    return {
        "issuer": ISSUER,
        "audiences": [AUDIENCE],
        "jwks_file": str(jwks_file),
        "claims": ["repository", "ref", "environment"],
        **more,
    }


class JwksServer:
    """Serves a JWK set over HTTP on this machine; what it does with a request can be changed while it runs."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.asked = 0
        self.behaviour: Callable[[BaseHTTPRequestHandler], None] = self.answer
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                outer.behaviour(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.ended = threading.Event()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/keys"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """The set."""
        request.send_response(200)
        request.send_header("Content-Length", str(len(self.body)))
        request.end_headers()
        request.wfile.write(self.body)

    def refuse(self, request: BaseHTTPRequestHandler) -> None:
        """No set."""
        request.send_error(503)

    def hang(self, _: BaseHTTPRequestHandler) -> None:
        """Nothing, ever."""
        self.ended.wait(60)

    def drip(self, request: BaseHTTPRequestHandler) -> None:
        """A byte now and then, so that no timeout of a single read helps."""
        request.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
        with suppress(OSError):
            while not self.ended.wait(0.02):
                request.wfile.write(b"x")

    @contextmanager
    def running(self) -> Iterator[JwksServer]:
        """Serve until the block ends."""
        thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield self
        finally:
            self.ended.set()
            self._server.shutdown()
            thread.join()
            self._server.server_close()


def bearer(shown: str) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {shown}")]
