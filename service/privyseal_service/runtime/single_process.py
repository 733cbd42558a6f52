"""Serving without workers: the service in the process of the command line."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING

from privyseal_service.runtime.reload import Reloader
from privyseal_service.runtime.service import Service, run_until_stopped
from privyseal_service.runtime.status import StatusServers, WorkerStatus, audit_numbers, status_detail
from privyseal_service.system.asyncio_tools import wait_for_first
from privyseal_service.system.exit_codes import RESTART_REQUIRED
from privyseal_service.system.systemd import notify
from privyseal_service.telemetry.metrics import Numbers, sum_numbers

if TYPE_CHECKING:
    from privyseal_service.audit.sequencer_thread import RunningSequencer
    from privyseal_service.config.root import Config
    from privyseal_service.telemetry.status_socket import Detail

_LOG = logging.getLogger(__name__)


async def serve(
    config: Config,
    *,
    announce: Callable[[str], None],
    load: Callable[[], Config],
    sequencer: RunningSequencer | None = None,
) -> int:
    """Serve in this process until SIGTERM or SIGINT; return 0, or RESTART_REQUIRED when a key store is lost to this
    process: it should end immediately then, and be started again.

    `announce` is called with a line for each listener once it accepts calls. `load` reads the configuration again at
    SIGHUP. The status includes the state of `sequencer`. Raises TlsError, SourceError, LimitsError, KeyringError,
    ListenError when the service cannot start.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    service = Service(config)
    reloader = Reloader(load, config, service.reload, service.issues)
    loop.add_signal_handler(signal.SIGHUP, reloader.reload_soon)

    def numbers() -> Numbers:
        return sum_numbers([service.numbers(), audit_numbers(sequencer)])

    def detail() -> Detail:
        process = WorkerStatus(0, os.getpid(), "serving", service.numbers(), {})
        return status_detail(reloader, [process], sequencer, service.active_issues)

    status = StatusServers(config, numbers, detail)
    metrics: list[str] = []

    async def start() -> None:
        metrics.extend(await status.start())
        await service.start()

    async def serve_until_stopped() -> None:
        for auth, address in service.addresses:
            announce(f"listening {auth} {address}")
        for line in metrics:
            announce(line)
        notify("READY=1")
        watching = asyncio.create_task(reloader.keep_watching())
        try:
            await wait_for_first(stopping.wait(), service.lost.wait())
        finally:
            watching.cancel()
        notify("STOPPING=1")
        if stopping.is_set():
            _LOG.info("stopping: calls in flight have %g s to finish", service.config.server.shutdown_grace_s)
        else:
            _LOG.critical(
                "a key store is lost to this process, which ends with exit code %d: start it again", RESTART_REQUIRED
            )

    try:
        await run_until_stopped(service, start(), stopping, serve_until_stopped)
    finally:
        status.close()
    _LOG.info("stopped")
    return RESTART_REQUIRED if service.lost.is_set() and not stopping.is_set() else 0
