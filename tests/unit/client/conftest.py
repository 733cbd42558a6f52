"""What the client's tests share: the vectors, servers on loopback, and the real program in a clean environment."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import grpc
import pytest

from privyseal import cli
from privyseal.model import SignatureScheme
from tests.fakes.signing_server import SigningServer, signing_server
from tests.support.pki import CA

VECTORS = Path(__file__).parents[2] / "vectors"
PROGRAM = Path(sys.executable).with_name("privyseal")
DEFAULT_SIGNALS = "for number in (signal.SIGINT, signal.SIGTERM): signal.signal(number, signal.SIG_DFL)"
"""For `Program.start_after`: whoever runs the tests may ignore them, as a shell's job in the background does."""


@dataclass(frozen=True)
class Vector:
    """What the published Capgo CLI made of a zip with a throw-away key."""

    folder: Path
    scheme: SignatureScheme
    facts: dict[str, str]

    @property
    def bundle(self) -> Path:
        return self.folder / "bundle.zip"

    @property
    def encrypted(self) -> Path:
        return self.folder / "bundle.zip_encrypted.zip"

    @property
    def public_pem(self) -> Path:
        return self.folder / "public.pem"

    @property
    def private_pem(self) -> bytes:
        return (self.folder / "private.pem").read_bytes()

    @property
    def iv_session_key(self) -> str:
        return self.facts["ivSessionKey"]

    @property
    def checksum(self) -> str:
        return self.facts["checksum_field"]

    def hex(self, name: str) -> bytes:
        return bytes.fromhex(self.facts[name])


def _vector(name: str) -> Vector:
    folder = VECTORS / name
    return Vector(folder, SignatureScheme(name), json.loads((folder / "vector.json").read_text()))


VECTOR_V2, VECTOR_V3 = _vector("capgo-v2"), _vector("capgo-v3")


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


class Program:
    """The real `privyseal`, in a folder of its own, with nothing of the environment but what a test gives."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder / "home"),
            "LANG": "C.UTF-8",
            "TERM": "xterm",
            # Coverage and such of the test run itself.
            **{name: value for name, value in os.environ.items() if name.startswith("COVERAGE")},
        }

    def use(self, server: SigningServer) -> None:
        """Point the program at a server without TLS."""
        self.environ["PRIVYSEAL_SERVER"] = f"http://{server.address}"

    def start(self, *arguments: object, **options: object) -> subprocess.Popen[bytes]:
        settings = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen([str(PROGRAM), *map(str, arguments)], cwd=self.folder, env=self.environ, **settings)

    def run(self, *arguments: object, **options: object) -> Result:
        process = self.start(*arguments, **options)
        out, err = process.communicate(timeout=200)
        return Result(process.returncode, (out or b"").decode(), (err or b"").decode())

    def run_after(self, prelude: str, *arguments: object, **options: object) -> Result:
        """Run the program in a process that first does `prelude` in Python, such as setting a limit."""
        process = self.start_after(prelude, *arguments, **options)
        out, err = process.communicate(timeout=200)
        return Result(process.returncode, (out or b"").decode(), (err or b"").decode())

    def start_after(self, prelude: str, *arguments: object, **options: object) -> subprocess.Popen[bytes]:
        # No preexec_fn: it would run Python between fork and exec in a process that has gRPC's threads.
        code = f"import os, resource, signal, sys\n{prelude}\nos.execv(sys.argv[1], sys.argv[1:])"
        settings = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        return subprocess.Popen(
            [sys.executable, "-c", code, str(PROGRAM), *map(str, arguments)],
            cwd=self.folder,
            env=self.environ,
            **settings,
        )

    def files(self) -> set[str]:
        """All names in the folder, hidden ones too."""
        return {path.name for path in self.folder.iterdir()}


class ProgramHere(Program):
    """The program's code in this process, for the tests whose time would go into starting another."""

    def run(self, *arguments: object) -> Result:
        out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
        before = Path.cwd()
        os.chdir(self.folder)
        try:
            with (
                mock.patch.dict(os.environ, self.environ, clear=True),
                contextlib.redirect_stdout(out),
                contextlib.redirect_stderr(err),
            ):
                code = cli._run([str(argument) for argument in arguments])
        finally:
            os.chdir(before)
        out.flush()
        return Result(code, out.buffer.getvalue().decode(), err.getvalue())


@dataclass(frozen=True)
class Result:
    """What a run of the program did."""

    code: int
    out: str
    err: str

    def sentence(self) -> str:
        """The one error line on stderr, after the warnings that may stand before it."""
        lines = [line for line in self.err.splitlines() if not line.startswith("Warning:")]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        assert lines[0].startswith("Error: "), self.err
        return lines[0]


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


def flip(text: str, index: int) -> str:
    """Base64 text with one bit of one byte of what it means changed."""
    data = bytearray(base64.b64decode(text))
    data[index] ^= 1
    return base64.b64encode(bytes(data)).decode()
