"""The real program, with the software store behind its entry point or with a SoftHSM token."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from privyseal.v1 import signing_pb2 as pb
from privyseal.v1.signing_pb2_grpc import SigningServiceStub
from tests.support.pki import CA
from tests.support.processes import until
from tests.support.service import entry_point, secure_channel

PROGRAM = str(Path(sys.executable).parent / "privyseal-server")
CALLER = "dns:a.build.example"
SIGN = pb.SignChecksumRequest(checksum=hashlib.sha256(b"zip").digest(), scheme=pb.SIGNATURE_SCHEME_CAPGO_V3)
NO_AUDIT = "[audit]\nenabled = false\n"


@dataclass
class Place:
    """A folder with certificates and a configuration, and the environment of programs that use it."""

    folder: Path
    ca: CA
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))

    @property
    def config(self) -> Path:
        return self.folder / "server.toml"

    def configure(self, keys: str, *, head: str = "", grants: str | None = None, audit: str = NO_AUDIT) -> None:
        """Write the configuration: `head`, `audit`, a mutual-TLS listener, `keys`, and a grant of all to CALLER on
        `demo`."""
        listener = (
            '[[listeners]]\naddress = "127.0.0.1:0"\nauth = "mtls"\n'
            'certificate = "server.pem"\ncertificate_key = "server-key.pem"\n'
            'client_cas = [{ file = "ca.pem", names = ["dns:*.build.example"] }]\n'
        )
        grant = (
            f'[[grants]]\nname = "all"\ncallers = ["{CALLER}"]\nkeys = ["demo"]\n'
            'operations = ["wrap-session-key", "sign-checksum", "unwrap-session-key"]\n'
        )
        self.config.write_text("\n".join([head, audit, listener, keys, grant if grants is None else grants]))

    def run(self, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        """Run the program to its end, from another folder."""
        return subprocess.run(
            [PROGRAM, *arguments],
            env=self.environment | more,
            cwd="/",
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )

    @contextmanager
    def serving(self, **more: str) -> Iterator[Serving]:
        """Start `serve`, wait until it listens, and end it."""
        process = subprocess.Popen(
            [PROGRAM, "serve", "--config", str(self.config)],
            env=self.environment | more,
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=(self.folder / "log").open("w"),
            text=True,
        )
        try:
            assert process.stdout is not None
            words = process.stdout.readline().split()
            assert words[:2] == ["listening", "mtls"], (self.folder / "log").read_text()
            yield Serving(process, words[2], self)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


@dataclass
class Serving:
    """A running program."""

    process: subprocess.Popen[str]
    address: str
    place: Place

    def channel(self) -> grpc.Channel:
        """A channel of CALLER."""
        ca = self.place.ca
        return secure_channel(self.address, ca, ca.issue(dns=[CALLER.removeprefix("dns:")]))

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send the signal; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(200)

    @property
    def log(self) -> str:
        return (self.place.folder / "log").read_text()


@pytest.fixture(scope="session")
def session_ca() -> CA:
    return CA()


@pytest.fixture
def place(tmp_path: Path, session_ca: CA) -> Place:
    session_ca.write(tmp_path)
    session_ca.server().write(tmp_path, "server")
    return Place(tmp_path, session_ca)


@pytest.fixture(scope="session")
def private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def pem(private_key: rsa.RSAPrivateKey, form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    return private_key.private_bytes(Encoding.PEM, form, NoEncryption())


KEY = '[[keys]]\nname = "demo"\nuri = "software:demo"\nschemes = ["capgo", "capgo-v2", "capgo-v3"]\n'


@pytest.fixture
def software(place: Place, private_key: rsa.RSAPrivateKey) -> Place:
    """A place whose key `demo` is in the software store; faults go into the settings, or come with files."""
    (place.folder / "demo.pem").write_bytes(pem(private_key))
    place.environment = entry_point(place.folder, "software", "tests.fakes.software_store:open_store")
    configure_software(place)
    return place


def configure_software(place: Place, *, key: str = KEY, head: str = "", **settings: object) -> None:
    """Configure the software store; `settings` are faults by name."""
    lines = [f"{name} = {_toml(value)}" for name, value in settings.items()]
    store = "\n".join(["[stores.software]", f'keys = {{ demo = "{place.folder}/demo.pem" }}', *lines])
    place.configure(key, head=f"{head}\n{store}")


def _toml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)


def head(workers: int, **more: object) -> str:
    lines = [f"{name} = {json.dumps(value)}" for name, value in more.items()]
    return "\n".join(["[server]", f"workers = {workers}", *lines])


def sentence(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The one sentence that a failed command said."""
    assert (done.returncode, done.stdout) == (code, ""), done.stderr
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("privyseal-server: ")
    return line


def outcome(serving: Serving) -> str:
    """What a call over a connection of its own ends with: one that any of the workers may take."""
    with serving.channel() as channel:
        call = SigningServiceStub(channel).SignChecksum.future(SIGN, timeout=20)
        call.exception()
        return str(call.code().name)


def settled(serving: Serving, wanted: str) -> None:
    """Wait until whichever worker is asked says so."""
    until(lambda: all(outcome(serving) == wanted for _ in range(6)))
