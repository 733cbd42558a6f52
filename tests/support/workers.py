"""A `privyseal-server` with workers, and clients that sign without a pause."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Iterator

from privyseal import Client, SignatureScheme
from tests.support.background import Background
from tests.support.processes import children, listeners_at, until
from tests.support.serving import KEY, Place, Serving

CHECKSUM = hashlib.sha256(b"zip").digest()


def configure(place: Place, *, delay_s: float = 0.0, **server: object) -> None:
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
    """Builds that sign all the time, each over a connection of its own; `errors` has what they met.

    They pause for a moment between signatures, so that the machine has time left to start workers.
    """

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
                time.sleep(0.02)

    def go_on(self, signatures: int = 20) -> None:
        """Wait for so many more signatures."""
        wanted = self.signed + signatures
        until(lambda: self.signed >= wanted or bool(self.errors))


def workers(serving: Serving) -> list[int]:
    """The process ids of the workers, in the order in which they were started."""
    return children(serving.process.pid)


@contextlib.contextmanager
def all_listening(serving: Serving, number: int = 2) -> Iterator[list[int]]:
    """Wait until so many workers take calls; their process ids."""
    until(lambda: len(listeners(serving)) == number)
    yield workers(serving)


def listeners(serving: Serving) -> list[str]:
    """The inodes of the sockets that listen at the service's address."""
    return listeners_at(serving.address)
