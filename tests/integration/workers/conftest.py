"""A `privyseal-server` with workers, a client that never stops, and what /proc says of the processes."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from privyseal import Client, SignatureScheme
from tests.integration.service.conftest import (  # noqa: F401 - fixtures among them
    CALLER,
    KEY,
    Place,
    Serving,
    pem,
    place,
    private_key,
    session_ca,
)
from tests.support.background import Background
from tests.support.service import entry_point

CHECKSUM = hashlib.sha256(b"zip").digest()


@pytest.fixture
def farm(place: Place, private_key: rsa.RSAPrivateKey) -> Place:  # noqa: F811
    """A place whose key `demo` is in the diary store, with a client's certificate in it."""
    (place.folder / "demo.pem").write_bytes(pem(private_key))
    place.environment = entry_point(place.folder, "software", "tests.integration.workers.store:open_store")
    place.ca.issue(dns=[CALLER.removeprefix("dns:")]).write(place.folder, "client")
    configure(place, workers=2)
    return place


def configure(place: Place, *, delay_s: float = 0.0, **server: object) -> None:  # noqa: F811
    """Write the configuration with these settings of [server]."""
    lines = [f"{name} = {str(value).lower() if isinstance(value, bool) else value}" for name, value in server.items()]
    folder = place.folder
    store = f'[stores.software]\nfolder = "{folder}"\ndelay_s = {delay_s}\nkeys = {{ demo = "{folder}/demo.pem" }}'
    place.configure(KEY, head="\n".join(["[server]", *lines, store]))


def sdk(serving: Serving, **more: object) -> Client:
    """A client of the SDK, as a build has it."""
    folder = serving.place.folder
    return Client(
        serving.address,
        ca=folder / "ca.pem",
        cert=folder / "client.pem",
        cert_key=folder / "client-key.pem",
        **more,  # type: ignore[arg-type]
    )


def sign(client: Client) -> None:
    """One signature that must be there."""
    assert len(client.sign_checksum(CHECKSUM, scheme=SignatureScheme.CAPGO_V3).signature) == 256


class Builds(Background):
    """Builds that sign without a pause, each over a connection of its own; what they met is in `errors`."""

    def __init__(self, serving: Serving, number: int = 4) -> None:
        self.signed = 0
        self.errors: list[Exception] = []
        self._serving = serving
        super().__init__([self._run] * number)

    def _run(self) -> None:
        with sdk(self._serving) as client:
            while not self.ending.is_set():
                try:
                    sign(client)
                    self.signed += 1
                except Exception as error:
                    self.errors.append(error)
                    time.sleep(0.01)

    def go_on(self, signatures: int = 20) -> None:
        """Wait for so many more signatures."""
        wanted = self.signed + signatures
        until(lambda: self.signed >= wanted or bool(self.errors))


def until(true: Callable[[], object], patience_s: float = 90.0) -> None:
    """Wait for something to become true."""
    end_s = time.monotonic() + patience_s
    while not true():
        assert time.monotonic() < end_s, "it did not become true"
        time.sleep(0.02)


def stat(pid: int | str) -> list[str]:
    """The fields of /proc/PID/stat from the state on (proc(5)); empty when there is no such process."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def workers(serving: Serving) -> list[int]:
    """The process ids of the workers, in the order in which they were started."""
    return children(serving.process.pid)


def children(parent: int) -> list[int]:
    """The living children of a process, oldest first: the ids of new processes may be lower."""
    pids = [int(each.name) for each in Path("/proc").iterdir() if each.name.isdecimal()]
    found = [(pid, stat(pid)) for pid in pids]
    living = [(int(fields[19]), pid) for pid, fields in found if fields[1:2] == [str(parent)] and fields[0] != "Z"]
    return [pid for _, pid in sorted(living)]


def lives(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    return stat(pid)[:1] not in ([], ["Z"])


def reaped(pid: int) -> bool:
    """Whether its parent has seen the end of a process. Until then a thread of it may still hold its sockets open,
    though it counts as a zombie already."""
    return not stat(pid)


@contextlib.contextmanager
def all_listening(serving: Serving, number: int = 2) -> Iterator[list[int]]:
    """Wait until so many workers take calls; their process ids."""
    until(lambda: len(listeners(serving)) == number)
    yield workers(serving)


def listeners(serving: Serving) -> list[str]:
    """The inodes of the sockets that listen at the service's address."""
    return listeners_at(serving.address)


def listeners_at(address: str) -> list[str]:
    """The inodes of the sockets that listen at an address."""
    port = int(address.rpartition(":")[2])
    tables = (Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6"))
    rows = [line.split() for table in tables for line in table]
    return [row[9] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"]
