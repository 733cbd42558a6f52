"""The two real programs: a `privyseal-server` with keys in a SoftHSM token, and `privyseal` as a build job runs it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from privyseal import Client
from privyseal_service.audit.keys import make_key
from tests.support.pki import CA
from tests.support.softhsm import SoftHsmToken, import_rsa_key, make_token

VECTORS = Path(__file__).parent.parent / "vectors"
CAPGO_SCHEMES = ("capgo", "capgo-v2", "capgo-v3")
CALLER = "dns:build.test.example"
AUDIT_LOG = "audit.test.example/replica-1"
_PROGRAMS = Path(sys.executable).parent


def clean_environment() -> dict[str, str]:
    """This process's environment without what would configure a client."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PRIVYSEAL_")}


@dataclass(frozen=True)
class RealService:
    """A `privyseal-server` that runs in a process of its own."""

    process: subprocess.Popen[str]
    address: str
    folder: Path
    config: Path
    log: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a build job has in its environment."""
        return {
            **clean_environment(),
            "PRIVYSEAL_SERVER": self.address,
            "PRIVYSEAL_CA": str(self.folder / "ca.pem"),
            "PRIVYSEAL_CERT": str(self.folder / "client.pem"),
            "PRIVYSEAL_CERT_KEY": str(self.folder / "client-key.pem"),
        }

    def client(self, *, timeout_s: float = 20.0) -> Client:
        """An SDK client with the build job's certificate."""
        return Client(
            self.address,
            ca=self.folder / "ca.pem",
            cert=self.folder / "client.pem",
            cert_key=self.folder / "client-key.pem",
            timeout_s=timeout_s,
        )

    def privyseal(
        self, *arguments: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run the client program."""
        return subprocess.run(
            [_PROGRAMS / "privyseal", *map(str, arguments)],
            env={**self.environment, **(env or {})},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=200,
        )

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(200)


def privyseal_server(*arguments: str | Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the server program to its end."""
    return subprocess.run(
        [_PROGRAMS / "privyseal-server", *map(str, arguments)],
        env={**clean_environment(), **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=200,
    )


def write_pki(folder: Path) -> None:
    """A CA, a server's and a client's certificate, and the audit trail's key, as files."""
    ca = CA()
    ca.write(folder)
    ca.server().write(folder, "server")
    ca.issue(dns=[CALLER.removeprefix("dns:")]).write(folder, "client")
    (folder / "audit.vkey").write_text(f"{make_key(AUDIT_LOG, folder / 'audit.key')}\n")


def configuration(keys: Mapping[str, tuple[str, Sequence[str]]], *, extra: str = "") -> str:
    """A configuration with one mutual TLS listener and an audit trail; `keys` maps a name to a URI and its schemes."""
    tables = [
        "[audit]",
        'folder = "audit"',
        f'log = "{AUDIT_LOG}"',
        'key = "audit.key"',
        "[[listeners]]",
        'address = "127.0.0.1:0"',
        'auth = "mtls"',
        'certificate = "server.pem"',
        'certificate_key = "server-key.pem"',
        f'client_cas = [{{ file = "ca.pem", names = ["{CALLER}"] }}]',
        "[[grants]]",
        'name = "build job"',
        f'callers = ["{CALLER}"]',
        f"keys = {list(keys)}",
        'operations = ["wrap-session-key", "sign-checksum", "unwrap-session-key"]',
    ]
    for name, (uri, schemes) in keys.items():
        tables += ["[[keys]]", f'name = "{name}"', f'uri = "{uri}"', f"schemes = {list(schemes)}"]
    return "\n".join([*tables, extra, ""])


@contextlib.contextmanager
def serving(folder: Path, config_text: str, env: Mapping[str, str] | None = None) -> Iterator[RealService]:
    """Start the server with a configuration in `folder` (which has the certificates), and stop it at the end."""
    config, log = folder / "server.toml", folder / "server.log"
    config.write_text(config_text)
    with log.open("w") as log_file:
        process = subprocess.Popen(
            [_PROGRAMS / "privyseal-server", "serve", "--config", config],
            env={**clean_environment(), **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log_file,
            text=True,
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline().split()
        if line[:1] != ["listening"]:
            raise RuntimeError(f"privyseal-server did not start: {log.read_text()}")
        yield RealService(process, line[2], folder, config, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(200)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if process.stdout is not None:
            process.stdout.close()


@contextlib.contextmanager
def serving_vectors(folder: Path) -> Iterator[tuple[RealService, SoftHsmToken]]:
    """A service whose keys `capgo-v2` and `capgo-v3` are those of tests/vectors, imported into a token."""
    token = make_token(folder / "hsm", "vectors")
    keys = {}
    for name in ("capgo-v2", "capgo-v3"):
        import_rsa_key(token, name, VECTORS / name / "private.pem", id=name.encode().hex())
        keys[name] = (token.uri(name), CAPGO_SCHEMES)
    write_pki(folder)
    with serving(folder, configuration(keys), token.environment) as service:
        yield service, token
