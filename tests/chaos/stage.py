"""A real `privyseal-server` on a token with injected faults, a process manager for it, and the resources it uses."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from privyseal import Client
from tests.support.clock import WallClock
from tests.support.processes import children
from tests.support.programs import CAPGO_SCHEMES, VECTORS, clean_environment, configuration, write_pki
from tests.support.shim import FaultShim
from tests.support.softhsm import SoftHsmToken, import_rsa_key, make_token

PROGRAM = Path(sys.executable).parent / "privyseal-server"
START_S = 60.0
_PEM = VECTORS / "capgo-v3" / "private.pem"


@dataclass(frozen=True)
class Held:
    """The resources that the service's processes use together."""

    memory_mib: float
    descriptors: int
    sessions: int
    threads: int
    processes: int

    def __str__(self) -> str:
        return (
            f"{self.memory_mib:.0f} MiB, {self.descriptors} descriptors, {self.sessions} sessions, "
            f"{self.threads} threads, {self.processes} processes"
        )


def free_port() -> int:
    """Return a free loopback port outside the ephemeral range, so that it is still free when a service is restarted."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(lowest // 2, lowest)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Program:
    """`privyseal-server serve`, restarted whenever it ends, as systemd or a container runtime does."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._folder = folder
        self._environment = {**clean_environment(), **environment}
        self._ending = threading.Event()
        self._serving = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self.codes: list[int] = []
        """Its exit codes, in order."""

    def __enter__(self) -> Program:
        self._thread.start()
        if not self._serving.wait(START_S):
            self.__exit__()
            raise RuntimeError(f"privyseal-server did not start: {self.log[-3000:]}")
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(40)
            except subprocess.TimeoutExpired:
                process.kill()
        self._thread.join()

    def _keep(self) -> None:
        with (self._folder / "server.log").open("a") as log:
            while not self._ending.is_set():
                self._process = process = subprocess.Popen(
                    [PROGRAM, "serve", "--config", self._folder / "server.toml"],
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
                assert process.stdout is not None
                if process.stdout.readline().startswith("listening"):
                    self._serving.set()
                code = process.wait()
                process.stdout.close()
                self._serving.clear()
                self.codes.append(code)
                self._ending.wait(0.1)

    @property
    def log(self) -> str:
        """Its standard error."""
        return (self._folder / "server.log").read_text()

    @property
    def pid(self) -> int:
        """The process that was started last."""
        assert self._process is not None
        return self._process.pid

    @property
    def workers(self) -> list[int]:
        """Its living children, oldest first."""
        return children(self.pid)

    def hang_up(self) -> None:
        """Send SIGHUP, so that it reloads its configuration."""
        os.kill(self.pid, signal.SIGHUP)

    @property
    def processes(self) -> list[int]:
        """The main process and its workers."""
        return [self.pid, *self.workers]


def descriptors(pid: int) -> int:
    """Count the open files of a process. Only root may do so for the service, whose processes are not dumpable."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def held(pids: Iterable[int], shim: FaultShim | None) -> Held:
    """Measure the resources of these processes."""
    memory, open_files, threads, processes = 0, 0, 0, 0
    for pid in pids:
        with contextlib.suppress(OSError):
            status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            memory += int(status.get("VmRSS", "0 kB").split()[0])
            threads += int(status.get("Threads", "0"))
            processes += 1
            open_files += descriptors(pid)
    sessions = sum(shim.sessions.get(pid, 0) for pid in pids) if shim is not None else 0
    return Held(memory / 1024, open_files, sessions, threads, processes)


class Stage:
    """A service whose key `capgo-v3` is in a SoftHSM token behind the fault shim; a context manager."""

    def __init__(self, folder: Path, *, workers: int, settings: str = "", server: str = "", keys: str = "") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.ended_s: float | None = None
        """When the cause of a scenario ended, if that was before the end of the scenario."""
        self.trail = Trail(folder)
        self.number_of_workers = workers
        self.token: SoftHsmToken = make_token(folder / "hsm", "chaos")
        import_rsa_key(self.token, "capgo-v3", _PEM)
        self.shim = FaultShim.build(folder, self.token.module_path)
        self.address = f"127.0.0.1:{free_port()}"
        write_pki(folder)
        text = configuration(
            {"demo": (self.token.uri("capgo-v3", module_path=self.shim.path), CAPGO_SCHEMES)},
            extra=f"[stores.pkcs11]\nsessions = 4\n{settings}\n{keys}",
        ).replace("127.0.0.1:0", self.address)
        self.clock = WallClock.build(folder)
        (folder / "server.toml").write_text(f"[server]\nworkers = {workers}\n{server}\n{text}")
        self.program = Program(folder, {**self.token.environment, **self.clock.environment})

    def __enter__(self) -> Stage:
        self.program.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.shim.clear()
        self.clock.jump(0)
        self.program.__exit__()

    @property
    def public_key(self) -> RSAPublicKey:
        """The key's public half."""
        return public_key(_PEM)

    def client(self, timeout_s: float = 10.0) -> Client:
        """An SDK client, as a build has it."""
        return connect(self.folder, self.address, timeout_s)

    def held(self) -> Held:
        """Measure the resources of the service's processes."""
        return held(self.program.processes, self.shim)


def public_key(pem: Path) -> RSAPublicKey:
    """The public half of a private key's file."""
    key = load_pem_private_key(pem.read_bytes(), None).public_key()
    assert isinstance(key, RSAPublicKey)
    return key


def connect(folder: Path, address: str, timeout_s: float = 10.0) -> Client:
    """An SDK client with the certificate in the folder."""
    return Client(
        address,
        ca=folder / "ca.pem",
        cert=folder / "client.pem",
        cert_key=folder / "client-key.pem",
        timeout_s=timeout_s,
    )


_READS = 20


class Trail:
    """Reads only what was appended to the audit trail since the last read, so that a run of hours stays cheap."""

    def __init__(self, folder: Path) -> None:
        self._segments = folder / "audit" / "segments"
        self._read: dict[Path, int] = {}
        self._reads: deque[set[str]] = deque(maxlen=_READS)

    def recorded(self) -> set[str]:
        """Return the SHA-256, in hex, of every result that the last reads found: a client reports the first part of a
        batch only after the rest, which may take until its deadline."""
        new: set[str] = set()
        for file in self._segments.glob("*/*.jsonl"):
            with file.open("rb") as lines:
                lines.seek(self._read.get(file, 0))
                for line in lines:
                    if not line.endswith(b"\n"):
                        break  # it is still being written, or its worker was killed
                    self._read[file] = self._read.get(file, 0) + len(line)
                    with contextlib.suppress(ValueError):  # the end of a worker that was killed may be torn
                        new.update(_results(json.loads(line)))
        self._reads.append(new)
        return set().union(*self._reads)


def _results(record: Mapping[str, object]) -> Iterator[str]:
    for name in ("signature_sha256", "wrapped_key_sha256"):
        value = record.get(name)
        if isinstance(value, str):
            yield value
