"""What an operator can read of the running service: metrics for a monitoring system, health detail for a person."""

from __future__ import annotations

import datetime
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privyseal import __version__
from privyseal_service.telemetry.metrics import Numbers, Series
from privyseal_service.telemetry.status_socket import Detail, StatusSocket, key_states

if TYPE_CHECKING:
    from privyseal_service.audit.sequencer_thread import RunningSequencer
    from privyseal_service.config.root import Config
    from privyseal_service.runtime.reload import Reloader
    from privyseal_service.telemetry.prometheus import MetricsServer

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerStatus:
    """The state, numbers and active issues (by subject) of one process that serves calls."""

    number: int
    pid: int
    state: str
    numbers: Numbers
    issues: Mapping[str, str]


class StatusServers:
    """The metrics page, where there is a `[metrics]` table, and the status socket, where there is a state folder. Call
    `start` and `close` on one event loop."""

    def __init__(self, config: Config, numbers: Callable[[], Numbers], detail: Callable[[], Detail]) -> None:
        self._config = config
        self._numbers = numbers
        folder = config.server.state_folder
        self._socket = StatusSocket(folder, detail) if folder is not None else None
        self._metrics: MetricsServer | None = None

    async def start(self) -> list[str]:
        """Listen, and return a line for each address to announce. Raises ListenError for the address of metrics."""
        if self._socket is not None:
            try:
                await self._socket.start()
            except OSError as error:
                _LOG.error("`privyseal-server health` will not be answered: %s", error)
        if self._config.metrics is None:
            return []
        from privyseal_service.telemetry.prometheus import MetricsServer  # noqa: PLC0415 - most starts do not need it

        metrics = MetricsServer(self._config.metrics, self._numbers, share_port=self._config.server.share_port)
        address = await metrics.start()
        self._metrics = metrics
        return [f"listening metrics {address}"]

    def close(self) -> None:
        """Stop listening. Safe before `start`."""
        if self._socket is not None:
            self._socket.close()
        if self._metrics is not None:
            self._metrics.close()


def status_detail(
    reloader: Reloader, workers: Sequence[WorkerStatus], sequencer: RunningSequencer | None, issues: Mapping[str, str]
) -> Detail:
    """Return the health detail of a service with these workers, as the status socket sends it."""
    read = datetime.datetime.fromtimestamp(reloader.read_s, datetime.UTC)
    sinks = sequencer.sinks() if sequencer is not None else []
    return {
        "version": __version__,
        "pid": os.getpid(),
        "ready": any(worker.numbers.get(("ready",)) for worker in workers),
        "configuration": {
            "read": read.isoformat(timespec="seconds"),
            "keys": len(reloader.config.keys),
            "grants": len(reloader.config.grants),
        },
        "workers": [
            {
                "number": worker.number,
                "pid": worker.pid,
                "state": worker.state,
                "keys": key_states(worker.numbers),
                "problems": dict(worker.issues),
            }
            for worker in workers
        ],
        "sinks": [{"name": each.name, "waiting": each.waiting, "behind_s": each.behind_s} for each in sinks],
        "problems": {**issues, **_audit_issues(sequencer)},
    }


def audit_numbers(sequencer: RunningSequencer | None) -> Numbers:
    """Return the numbers of the audit trail, in the process that sequences it."""
    if sequencer is None:
        return {}
    numbers: dict[Series, float] = {("audit_tree_grows",): float(sequencer.problem is None)}
    for sink in sequencer.sinks():
        numbers["audit_sink_waiting", sink.name] = float(sink.waiting)
        numbers["audit_sink_failing", sink.name] = float(sink.problem is not None)
    return numbers


def _audit_issues(sequencer: RunningSequencer | None) -> dict[str, str]:
    if sequencer is None:
        return {}
    found = {f"checkpoints to {sink.name}": sink.problem for sink in sequencer.sinks() if sink.problem is not None}
    if sequencer.problem is not None:
        found["audit tree"] = f"it does not grow: {sequencer.problem}"
    return found
