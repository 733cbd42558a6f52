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
from privyseal_service.telemetry.status_socket import Detail, StatusSocket, keys_in

if TYPE_CHECKING:
    from privyseal_service.audit.sequencer_thread import RunningSequencer
    from privyseal_service.config.root import Config
    from privyseal_service.runtime.reload import Reloader
    from privyseal_service.telemetry.prometheus import MetricsPage

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class WorkerState:
    """One process that serves: how it is, its numbers, and what is wrong with it, by what that is about."""

    number: int
    pid: int
    state: str
    numbers: Numbers
    problems: Mapping[str, str]


class Readouts:
    """The metrics page, where `[metrics]` asks for one, and the socket with the health detail, where there is a state
    folder. `start` and `close` them on one event loop."""

    def __init__(self, config: Config, numbers: Callable[[], Numbers], detail: Callable[[], Detail]) -> None:
        self._config = config
        self._numbers = numbers
        folder = config.server.state_folder
        self._socket = StatusSocket(folder, detail) if folder is not None else None
        self._page: MetricsPage | None = None

    async def start(self) -> list[str]:
        """Listen; a line for each address. Raises ListenError where metrics cannot be shown as configured."""
        if self._socket is not None:
            try:
                await self._socket.start()
            except OSError as error:
                _LOG.error("`privyseal-server health` will not be answered: %s", error)
        if self._config.metrics is None:
            return []
        from privyseal_service.telemetry.prometheus import MetricsPage  # noqa: PLC0415 - most starts need none of it

        page = MetricsPage(self._config.metrics, self._numbers, share_port=self._config.server.share_port)
        address = await page.start()
        self._page = page
        return [f"listening metrics {address}"]

    def close(self) -> None:
        """Listen no more. Safe before `start`."""
        if self._socket is not None:
            self._socket.close()
        if self._page is not None:
            self._page.close()


def detail(
    reloader: Reloader, workers: Sequence[WorkerState], sequencer: RunningSequencer | None, problems: Mapping[str, str]
) -> Detail:
    """The health detail of a service with these workers; see `status`."""
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
                "keys": keys_in(worker.numbers),
                "problems": dict(worker.problems),
            }
            for worker in workers
        ],
        "sinks": [{"name": each.name, "waiting": each.waiting, "behind_s": each.behind_s} for each in sinks],
        "problems": {**problems, **_audit_problems(sequencer)},
    }


def audit_numbers(sequencer: RunningSequencer | None) -> Numbers:
    """What is measured of the audit trail where it is sequenced."""
    if sequencer is None:
        return {}
    numbers: dict[Series, float] = {("audit_tree_grows",): float(sequencer.problem is None)}
    for sink in sequencer.sinks():
        numbers["audit_sink_waiting", sink.name] = float(sink.waiting)
        numbers["audit_sink_failing", sink.name] = float(sink.problem is not None)
    return numbers


def _audit_problems(sequencer: RunningSequencer | None) -> dict[str, str]:
    if sequencer is None:
        return {}
    found = {f"checkpoints to {sink.name}": sink.problem for sink in sequencer.sinks() if sink.problem is not None}
    if sequencer.problem is not None:
        found["audit tree"] = f"it does not grow: {sequencer.problem}"
    return found
