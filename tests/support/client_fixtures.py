"""Fixtures of the client's tests: vectors, servers on loopback, and the real program in a clean environment."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from tests.fakes.signing_server import signing_server
from tests.support.capgo_vectors import VECTOR_V2, VECTOR_V3, Vector
from tests.support.client_program import Program, ProgramHere
from tests.support.pki import CA


@pytest.fixture(params=[VECTOR_V2, VECTOR_V3], ids=["v2", "v3"])
def vector(request) -> Vector:
    return request.param


@pytest.fixture
def server():
    """A server without TLS, with the key of the V3 vector."""
    with signing_server(VECTOR_V3.private_pem) as running:
        yield running


@dataclass(frozen=True)
class Pki:
    """Files of a CA, a server and a client."""

    folder: Path
    ca: Path
    cert: Path
    cert_key: Path
    server_credentials: grpc.ServerCredentials
    mutual_credentials: grpc.ServerCredentials

    def flags(self) -> list[str]:
        return ["--ca", str(self.ca), "--cert", str(self.cert), "--cert-key", str(self.cert_key)]


@pytest.fixture(scope="session")
def pki(tmp_path_factory) -> Pki:
    folder = tmp_path_factory.mktemp("pki")
    authority = CA()
    served = authority.server()
    pair = [(served.key_pem, served.chain_pem)]
    cert, cert_key = authority.issue(dns=["build.example"]).write(folder, "client")
    return Pki(
        folder,
        authority.write(folder),
        cert,
        cert_key,
        grpc.ssl_server_credentials(pair),
        grpc.ssl_server_credentials(pair, authority.pem, require_client_auth=True),
    )


@pytest.fixture
def mutual_server(pki):
    """A server that wants a client certificate."""
    with signing_server(VECTOR_V3.private_pem, credentials=pki.mutual_credentials) as running:
        yield running


@pytest.fixture
def tls_server(pki):
    """A server with TLS that asks for no client certificate, as for tokens."""
    with signing_server(VECTOR_V3.private_pem, credentials=pki.server_credentials) as running:
        yield running


@pytest.fixture
def program(tmp_path) -> Program:
    return Program(tmp_path)


@pytest.fixture
def program_here(tmp_path) -> ProgramHere:
    return ProgramHere(tmp_path)


@pytest.fixture
def bundle(tmp_path) -> Path:
    """The zip of the V3 vector, in the program's folder."""
    path = tmp_path / "bundle.zip"
    path.write_bytes(VECTOR_V3.bundle.read_bytes())
    return path
