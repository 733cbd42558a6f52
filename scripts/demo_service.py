"""The demo's token, certificates and configuration under .demo/, and the service that runs on them.

.demo/service/  what a security team has: the token, its PIN, the server's certificate, the configuration, the audit
                trail with its key, and the checkpoints that leave the host
.demo/ca/       the development CA
.demo/build/    what a build machine has: the CA's certificate, a client certificate, the audit trail's public key
"""

from __future__ import annotations

import ctypes
import datetime
import fcntl
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import dev_pki
from cryptography import x509

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

CHECKOUT = Path(__file__).resolve().parent.parent
DEMO = CHECKOUT / ".demo"
SERVICE, CA, BUILD = DEMO / "service", DEMO / "ca", DEMO / "build"
COMPLETE = SERVICE / "complete"
CONFIG = SERVICE / "server.toml"
PUBLIC = SERVICE / "public.pem"
KEY_NAME = "demo"
TOKEN = "privyseal-demo"  # noqa: S105 - a token's label
CALLER = "build.demo.example"
LOG = "audit.demo.example/replica-1"
LOG_KEY = BUILD / "audit.vkey"
START_S = 30.0

CONFIGURATION = """\
# Made by scripts/demo_service.py. deploy/server.example.toml explains each setting.

[audit]
folder = "audit"
log = "{log}"
key = "audit.key"
sinks = [{{ kind = "file", path = "checkpoints" }}]

[[listeners]]
address = "127.0.0.1:0"
auth = "mtls"
certificate = "server.pem"
certificate_key = "server-key.pem"
client_cas = [{{ file = "ca.pem", names = ["dns:*.demo.example"] }}]

[[keys]]
name = "{key}"
uri = "{uri}"
schemes = ["capgo", "capgo-v2", "capgo-v3"]
custody = {{ protection = "software", origin = "generated-inside", export = "never-possible" }}

[[grants]]
name = "build machine of the demo"
callers = ["dns:{caller}"]
keys = ["{key}"]
operations = ["wrap-session-key", "sign-checksum"]
"""


class DemoError(Exception):
    """What stopped the demo: one sentence."""


def program(name: str) -> str:
    """The path of one of the two programs, as it was installed beside this Python."""
    return str(Path(sys.executable).parent / name)


class Interruption:
    """Ctrl-C, SIGTERM and (but under nohup) SIGHUP end this process in one way, so that what it started is stopped.

    The first of them raises KeyboardInterrupt wherever the process is; those that follow are for a process that is
    already stopping. The end of the parent (make) counts as a SIGTERM.
    """

    def __init__(self) -> None:
        self.came = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._stop)
        die_with_parent()

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        if not self.came:
            self.came = True
            raise KeyboardInterrupt


def die_with_parent() -> None:
    """Get SIGTERM when the parent process ends (prctl(2), PR_SET_PDEATHSIG), so that nothing outlives a killed make."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)


@contextmanager
def lock(name: str, mode: int, waiting: str = "") -> Iterator[int]:
    """Hold a lock of this checkout's demo; `waiting` is said when another run holds it."""
    DEMO.mkdir(mode=0o700, exist_ok=True)
    with (DEMO / name).open("w") as file:
        try:
            fcntl.flock(file, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting:
                print(waiting, file=sys.stderr, flush=True)
            fcntl.flock(file, mode)
        yield file.fileno()


def run(*command: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program to its end. Raises DemoError with what it wrote on stderr when it fails."""
    done = subprocess.run(
        command, cwd=DEMO, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise DemoError(f"{Path(command[0]).name} failed with exit code {done.returncode}: {done.stderr.strip()}")
    return done


# --- what the service needs ----------------------------------------------------------------------------------------


def service_environment() -> dict[str, str]:
    """Where SoftHSM finds its tokens. The rest is the caller's own environment, less PRIVYSEAL_* meant for clients."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PRIVYSEAL_")}
    return {**kept, "SOFTHSM2_CONF": str(SERVICE / "softhsm2.conf")}


def softhsm_module() -> str:
    """SoftHSM's PKCS#11 module, as scripts/setup found it. Raises DemoError without it."""
    module = os.environ.get("PRIVYSEAL_SOFTHSM_MODULE")
    if not module:
        raise DemoError("PRIVYSEAL_SOFTHSM_MODULE is not set; start this with make, or with scripts/setup --")
    return module


def key_uri() -> str:
    """The demo key's URI (RFC 7512); the PIN's file is relative to the configuration."""
    module = quote(softhsm_module(), safe="/")
    return f"pkcs11:token={TOKEN};object={KEY_NAME}?module-path={module}&pin-source=file:pin.txt"


def clear() -> None:
    """Take away the token, the certificates and the configuration of an earlier run."""
    COMPLETE.unlink(missing_ok=True)
    for folder in (SERVICE, CA, BUILD):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(mode=0o700)


def write_softhsm_configuration() -> None:
    """SoftHSM's own configuration; it wants absolute paths, so a checkout that moved needs it anew."""
    (SERVICE / "softhsm2.conf").write_text(
        f"directories.tokendir = {SERVICE / 'tokens'}\nobjectstore.backend = file\nlog.level = ERROR\n"
    )


def make_token() -> None:
    """A token, and its PIN in a file of the service's own."""
    (SERVICE / "tokens").mkdir(mode=0o700)
    write_softhsm_configuration()
    script = str(CHECKOUT / "scripts" / "make_token.py")
    environment = {**service_environment(), "PRIVYSEAL_SOFTHSM_MODULE": softhsm_module()}
    run(sys.executable, script, TOKEN, str(SERVICE / "pin.txt"), environment=environment)


def make_certificates() -> None:
    """A development CA, the service's certificate and the build machine's."""
    ca = dev_pki.development_ca()
    ca.write(CA / "ca.pem", CA / "ca-key.pem")
    dev_pki.server(ca).write(SERVICE / "server.pem", SERVICE / "server-key.pem")
    dev_pki.client(ca, CALLER).write(BUILD / "client.pem", BUILD / "client-key.pem")
    for folder in (SERVICE, BUILD):
        shutil.copy(CA / "ca.pem", folder / "ca.pem")


def write_configuration() -> None:
    """The service's configuration."""
    CONFIG.write_text(CONFIGURATION.format(log=LOG, key=KEY_NAME, uri=key_uri(), caller=CALLER))


def make_audit_key() -> None:
    """The key that signs the audit trail's checkpoints; its public half goes to the build machine."""
    made = run(program("privyseal-server"), "audit", "keygen", LOG, "--output", str(SERVICE / "audit.key"))
    LOG_KEY.write_text(made.stdout)


def make_key() -> str:
    """An RSA-2048 key, generated inside the token; its public key goes beside the configuration, as PKCS#1 PEM. The
    result is what privyseal-server says of it."""
    create = [program("privyseal-server"), "key", "create", "--config", str(CONFIG.relative_to(DEMO)), KEY_NAME]
    made = run(*create, environment=service_environment())
    PUBLIC.write_text(made.stdout)
    return made.stderr.strip()


def make_all() -> None:
    """Everything that the service needs, anew."""
    clear()
    make_token()
    make_certificates()
    write_configuration()
    make_audit_key()
    make_key()
    COMPLETE.touch()


def is_complete() -> bool:
    """Whether an earlier run made all of it, and its certificates will hold for another day."""
    if not COMPLETE.is_file() or not LOG_KEY.is_file():
        return False
    certificate = x509.load_pem_x509_certificate((SERVICE / "server.pem").read_bytes())
    left = certificate.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    return left > datetime.timedelta(days=1)


def refresh() -> None:
    """Write again what depends on where this checkout and SoftHSM are."""
    write_softhsm_configuration()
    write_configuration()


# --- the service -----------------------------------------------------------------------------------------------------


def client_environment(address: str) -> dict[str, str]:
    """What `privyseal` needs to reach the service as the demo's build machine, in the order to print it."""
    return {
        "PRIVYSEAL_CA": str(BUILD / "ca.pem"),
        "PRIVYSEAL_CERT": str(BUILD / "client.pem"),
        "PRIVYSEAL_CERT_KEY": str(BUILD / "client-key.pem"),
        "PRIVYSEAL_KEY": KEY_NAME,
        "PRIVYSEAL_SERVER": address,
    }


@dataclass(frozen=True)
class Service:
    """A running privyseal-server, the address that it listens on, and where its log is."""

    process: subprocess.Popen[str]
    address: str
    log: Path


@contextmanager
def service(log_name: str) -> Iterator[Service]:
    """Start privyseal-server, wait until it accepts calls, and stop it at the end, whatever ends it."""
    path = SERVICE / log_name
    with path.open("w") as log:
        process = subprocess.Popen(
            [program("privyseal-server"), "serve", "--config", str(CONFIG)],
            cwd=DEMO,
            env=service_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - before any thread of ours
        )
        try:
            yield Service(process, _listening(process, path), path)
        finally:
            stop(process)


def _listening(process: subprocess.Popen[str], log: Path) -> str:
    """The address in the service's `listening mtls HOST:PORT`. Raises DemoError when it ends or says nothing."""
    alarm = threading.Timer(START_S, process.terminate)
    alarm.start()
    try:
        assert process.stdout is not None
        for line in process.stdout:
            words = line.split()
            if words[:2] == ["listening", "mtls"]:
                return words[2]
    finally:
        alarm.cancel()
    process.wait()
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
    raise DemoError(f"privyseal-server did not start:\n{tail}")


def wait(process: subprocess.Popen[str]) -> int:
    """Wait for as long as the service runs; its exit code.

    It looks again and again: no one would be woken by a signal that comes just before a waitpid(2) that blocks.
    """
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=1.0)


def stop(process: subprocess.Popen[str], patience_s: float = 15.0) -> int:
    """Ask the service to stop, insist when it does not, and return its exit code."""
    process.terminate()
    try:
        return process.wait(patience_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()
