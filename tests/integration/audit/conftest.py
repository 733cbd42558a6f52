"""The real program with an audit trail, its key in the software store, and what is found in the trail afterwards."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from privyseal import Client
from privyseal.transparency.checkpoint import VerifierKey
from privyseal_service.audit.keys import make_key
from privyseal_service.audit.layout import Layout, segment_numbers, segment_path
from privyseal_service.audit.log_reader import LogReader
from tests.support.pki import CA
from tests.support.service import entry_point
from tests.support.serving import CALLER, Place, Serving, pem

LOG = "audit.test.example/replica-1"
AUDIT = f'[audit]\nfolder = "audit"\nlog = "{LOG}"\nkey = "audit.key"\n'
AUDITOR = "dns:auditor.build.example"
KEYS = """
[[keys]]
name = "demo"
uri = "software:demo"
schemes = ["capgo", "capgo-v2", "capgo-v3"]
"""
GRANTS = f"""
[[grants]]
name = "farm"
callers = ["{CALLER}"]
keys = ["demo"]
operations = ["wrap-session-key", "sign-checksum"]
schemes = ["capgo", "capgo-v3"]

[[grants]]
name = "auditors"
callers = ["{AUDITOR}"]
operations = ["list-records"]
"""
CLIENT = str(Path(sys.executable).parent / "privyseal")


@dataclass
class Farm:
    """A place whose service keeps an audit trail, and build machines by name."""

    place: Place
    log_key: VerifierKey

    @property
    def folder(self) -> Path:
        return self.place.folder

    @property
    def audit(self) -> Path:
        return self.folder / "audit"

    @property
    def vkey(self) -> Path:
        return self.folder / "audit.vkey"

    def configure(self, *, audit: str = "", server: str = "workers = 1", store: str = "") -> None:
        """Write the configuration; `audit`, `server` and `store` go into those tables."""
        head = f'[server]\n{server}\n[stores.software]\nkeys = {{ demo = "{self.folder}/demo.pem" }}\n{store}'
        self.place.configure(KEYS, head=head, grants=GRANTS, audit=f"{AUDIT}{audit}")

    @contextmanager
    def serving(self, **more: str) -> Iterator[Serving]:
        with self.place.serving(**more) as serving:
            yield serving

    def certificate(self, caller: str) -> tuple[Path, Path]:
        """The files of a caller's certificate and key."""
        name = caller.removeprefix("dns:")
        certificate, key = self.folder / f"{name}.pem", self.folder / f"{name}-key.pem"
        if not certificate.exists():
            self.place.ca.issue(dns=[name]).write(self.folder, name)
        return certificate, key

    def client(self, serving: Serving, caller: str = CALLER, **more: object) -> Client:
        certificate, key = self.certificate(caller)
        ca = self.folder / "ca.pem"
        return Client(serving.address, ca=ca, cert=certificate, cert_key=key, **more)  # type: ignore[arg-type]

    @property
    def build(self) -> Path:
        """Where a build runs: not where the service's configuration is."""
        return self.folder / "build"

    def privyseal(self, serving: Serving | None, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        """Run the client program in the build's folder, as CALLER; without a service, without its address."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PRIVYSEAL_")}
        certificate, key = self.certificate(CALLER)
        said = {
            "PRIVYSEAL_CA": f"{self.folder}/ca.pem",
            "PRIVYSEAL_CERT": str(certificate),
            "PRIVYSEAL_CERT_KEY": str(key),
        }
        if serving is not None:
            said["PRIVYSEAL_SERVER"] = serving.address
        return subprocess.run(
            [CLIENT, *map(str, arguments)],
            cwd=self.build,
            env=kept | said | more,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=200,
        )

    def server(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run the server program to its end."""
        return self.place.run(*map(str, arguments))

    def verify(self, *more: object) -> subprocess.CompletedProcess[str]:
        return self.server("audit", "verify", self.audit, "--public-key", self.vkey, *more)

    def lines(self) -> list[bytes]:
        """Every record in the segments."""
        layout = Layout(self.audit)
        return [
            line
            for worker in layout.workers()
            for number in segment_numbers(layout.worker(worker))
            for line in segment_path(layout.worker(worker), number).read_bytes().split(b"\n")
            if line
        ]

    def records(self) -> list[dict[str, object]]:
        """Every record in the tree, in order."""
        reader = LogReader(self.audit)
        found, _ = reader.records(0, reader.checkpoint()[1].size)
        return [json.loads(line) for _, line in found]


@pytest.fixture(scope="session")
def audit_ca() -> CA:
    return CA()


@pytest.fixture(scope="session")
def audit_private_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def make_farm(folder: Path, ca: CA, private_key: rsa.RSAPrivateKey) -> Farm:
    """A folder with all that a service with an audit trail needs."""
    ca.write(folder)
    ca.server().write(folder, "server")
    (folder / "demo.pem").write_bytes(pem(private_key))
    log_key = make_key(LOG, folder / "audit.key")
    (folder / "audit.vkey").write_text(f"{log_key}\n")
    (folder / "build").mkdir()
    place = Place(folder, ca, entry_point(folder, "software", "tests.fakes.software_store:open_store"))
    farm = Farm(place, log_key)
    farm.configure()
    return farm


@pytest.fixture
def farm(tmp_path: Path, audit_ca: CA, audit_private_key: rsa.RSAPrivateKey) -> Farm:
    return make_farm(tmp_path, audit_ca, audit_private_key)
