"""A running service for tests: in this process on a loop of its own thread, with key stores that the test gives it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import grpc

from privyseal.transparency.receipts import Receipt
from privyseal_backends.interface import OpenStore
from privyseal_service.config.loading import parse_config
from privyseal_service.domain.decisions import Decision
from privyseal_service.runtime.service import Service
from tests.support.pki import CA, Issued

_T = TypeVar("_T")

GRPC_SERVERS = ("core", "aio")
GRPC_SERVER = "PRIVYSEAL_TEST_GRPC"
"""The environment variable with `server.grpc` for the services of tests that do not set it."""


class Decisions:
    """A recorder that keeps what it is told, and fails when told to."""

    def __init__(self) -> None:
        self.kept: list[Decision] = []
        self.parts: list[Decision] = []
        self.failure: Exception | None = None

    async def start(self, tell: Callable[[bool], None]) -> None:
        """Nothing to make ready."""

    async def close(self) -> None:
        """Nothing to finish."""

    def require_ready(self) -> None:
        """Always ready, so that a failure is met after the key store has answered."""

    async def record(self, decision: Decision) -> Sequence[Receipt]:
        self.kept.append(decision)
        if self.failure is not None:
            raise self.failure
        return ()

    async def record_part(self, decision: Decision) -> Sequence[Receipt]:
        self.parts.append(decision)
        if self.failure is not None:
            raise self.failure
        return ()

    @property
    def last(self) -> Decision:
        return self.kept[-1]


class RunningService:
    """A service from its configuration (as TOML gives it), started and stopped by `with`."""

    def __init__(
        self,
        data: Mapping[str, Any],
        backends: Callable[[str], OpenStore],
        *,
        folder: Path = Path("/nonexistent"),
        grpc_server: str | None = None,
    ) -> None:
        server = {"grpc": grpc_server or os.environ.get(GRPC_SERVER, "auto"), **data.get("server", {})}
        self._config = parse_config({**data, "server": server}, "server.toml", folder)
        self._backends = backends
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="service")
        self.decisions = Decisions()
        self.service: Service

    def __enter__(self) -> RunningService:
        self._thread.start()
        try:
            self.run(self._start())
        except BaseException:
            self._end()
            raise
        return self

    async def _start(self) -> None:
        self.service = Service(self._config, backends=self._backends, recorder=self.decisions)
        try:
            await self.service.start()
        except BaseException:
            await self.service.stop(0)
            raise

    def __exit__(self, *_: object) -> None:
        try:
            self.run(self.service.stop(5))
        finally:
            self._end()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, coroutine: Any) -> Any:
        """Run a coroutine on the service's loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(30)

    def reload(self, data: Mapping[str, Any]) -> None:
        """Change to another configuration, as TOML gives it."""
        self.run(self.service.reload(parse_config(dict(data), "server.toml", Path("/nonexistent"))))

    def reload_files(self) -> None:
        """Apply changed files: at the second check they are at rest."""
        for _ in range(2):
            self.run(self.service.reload_files())

    def address(self, listener: int = 0) -> str:
        """The address of a listener."""
        return self.service.addresses[listener][1]


def secure_channel(address: str, ca: CA, client: Issued | None) -> grpc.Channel:
    """A channel that shows the client's certificate."""
    credentials = grpc.ssl_channel_credentials(
        ca.pem, client.key_pem if client else None, client.chain_pem if client else None
    )
    # A connection of its own for each channel: another client's would be another caller.
    return grpc.secure_channel(address, credentials, options=[("grpc.use_local_subchannel_pool", 1)])


def entry_point(folder: Path, name: str, target: str) -> dict[str, str]:
    """An environment in which the backend `target` (module:function) serves the URI scheme `name`, as if a package that
    brings it were installed; for programs that a test starts."""
    info = folder / f"privyseal_test_{name}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: privyseal-test-{name}\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[privyseal.backends]\n{name} = {target}\n")
    root = Path(__file__).resolve().parents[2]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), str(root)])}
