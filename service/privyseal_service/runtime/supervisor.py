"""The supervisor: reserves the ports, starts the workers one after another, and replaces those that die or hang.

It serves no calls and opens no keys. Its only input from the network is the first line of each request for metrics,
where they are switched on; from its workers it accepts only events of a known form. PINs that a token refused in one
worker are kept for all later workers.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from privyseal import __version__
from privyseal_service.keys.pin_lockout import PinLockout
from privyseal_service.runtime.messages import ExternalIssue, Listen, PinsRefused, Start
from privyseal_service.runtime.reload import CONFIGURATION, Reloader
from privyseal_service.runtime.restarts import RestartDelays
from privyseal_service.runtime.rollout import Rollout
from privyseal_service.runtime.start_errors import start_error
from privyseal_service.runtime.status import StatusServers, WorkerStatus, audit_numbers, status_detail
from privyseal_service.runtime.worker_config import config_for_worker, worker_count
from privyseal_service.runtime.worker_process import WorkerProcess, spawn
from privyseal_service.system.asyncio_tools import wait_for_first
from privyseal_service.system.cpus import usable_cores
from privyseal_service.system.exit_codes import INTERNAL_ERROR, StartError
from privyseal_service.system.sockets import ListenError, Reservation, reserve
from privyseal_service.system.systemd import notify
from privyseal_service.telemetry.active_issues import ActiveIssues
from privyseal_service.telemetry.metrics import WORKER_ENDS, Counters, Numbers, Series, sum_numbers, without_gauges

if TYPE_CHECKING:
    from privyseal_service.audit.sequencer_thread import RunningSequencer
    from privyseal_service.config.root import Config
    from privyseal_service.telemetry.status_socket import Detail

_LOG = logging.getLogger(__name__)

_CHECK_FOR_HANGS_EVERY_S = 0.5
_RETRY_SPAWN_EVERY_S = 1.0
_CLOSE_S = 25.0
"""How long a worker may take to close its key stores, in addition to the configured times; a hung store takes all."""


def may_listen(unhealthy: frozenset[str], others: Iterable[frozenset[str]]) -> bool:
    """Return whether a worker with these unhealthy keys should accept calls: not where another worker, each given by
    its own unhealthy keys, serves one of them."""
    return all(unhealthy <= theirs for theirs in others)


class Supervisor:
    """Runs the workers of a configuration until SIGTERM or SIGINT.

    `announce` is called with a line for each listener once the first worker accepts calls. `load` reads the
    configuration again at SIGHUP; it raises ConfigError. The status includes the state of `sequencer`.
    """

    def __init__(
        self,
        config: Config,
        *,
        announce: Callable[[str], None],
        load: Callable[[], Config],
        sequencer: RunningSequencer | None = None,
    ) -> None:
        self._config = config
        self._sequencer = sequencer
        self._ended_numbers: Numbers = {}
        self._status = StatusServers(config, self._numbers, self._detail)
        self._metrics: list[str] = []
        self._announce = announce
        self._target = worker_count(config)
        self._lockout = PinLockout()
        self._reservations: list[Reservation] = []
        self._workers: dict[int, WorkerProcess] = {}
        self._slots: dict[int, asyncio.Task[None]] = {}
        self._replaced: set[asyncio.Task[None]] = set()
        self._start_lock = asyncio.Lock()
        self._change = 0
        self._serving = asyncio.Event()
        self._stopping = asyncio.Event()
        self._failure: StartError | None = None
        self._issues = ActiveIssues(Counters(), self._send_issue_to_all)
        self._reloader = Reloader(load, config, self._apply, self._issues)

    async def run(self) -> None:
        """Serve until a signal. Raises StartError when the first worker cannot start."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._reloader.reload_soon)
        watching = [
            asyncio.create_task(self._check_for_hangs()),
            asyncio.create_task(self._reloader.keep_watching()),
        ]
        try:
            self._reserve()
            await self._start_status()
            self._slots[0] = asyncio.create_task(self._run_slot(0))
            await wait_for_first(self._serving.wait(), self._stopping.wait())
            if self._failure is not None:
                raise self._failure
            if not self._stopping.is_set():
                self._announce_listening()
                self._resize()
            await self._stopping.wait()
            if self._serving.is_set():
                notify("STOPPING=1")
                _LOG.info("stopping: calls in flight have %g s to finish", self._config.server.shutdown_grace_s)
        finally:
            await self._end()
            self._status.close()
            for task in watching:
                task.cancel()
        _LOG.info("stopped")

    def _reserve(self) -> None:
        try:
            for listener in self._config.listeners:
                self._reservations.append(reserve(listener.address, share=self._config.server.share_port))
        except ListenError as error:
            raise start_error(error) from None

    async def _start_status(self) -> None:
        try:
            self._metrics = await self._status.start()
        except ListenError as error:
            raise start_error(error) from None

    def _announce_listening(self) -> None:
        for listener, reservation in zip(self._config.listeners, self._reservations, strict=True):
            self._announce(f"listening {listener.auth} {reservation.address}")
        for line in self._metrics:
            self._announce(line)
        notify("READY=1")

    async def _run_slot(self, number: int) -> None:
        """Keep one worker running, with restarts and replacements, as long as there should be one of this number."""
        delays = RestartDelays()
        successor: tuple[WorkerProcess, asyncio.Task[int]] | None = None
        while successor is not None or self._is_wanted(number):
            try:
                started = successor or await self._start(number)
                if started is None:
                    continue
                worker, ending = started
                successor = await self._replace_if_lost(worker, ending, delays)
            except StartError as error:
                self._failure = None if self._serving.is_set() else error
                self._stopping.set()
                return
            if successor is not None:
                continue
            code = await ending
            self._workers.pop(worker.process.pid, None)
            if not self._serving.is_set():
                self._fail(worker, code)
                return
            if worker.leaving or self._stopping.is_set():
                continue
            delay_s = delays.after(worker.served_s)
            self._issues.counters.add(WORKER_ENDS)
            _LOG.error("worker %d %s; it is started again in %.1f s", number, worker.describe_end(code), delay_s)
            await wait_for_first(asyncio.sleep(delay_s), self._stopping.wait())

    def _is_wanted(self, number: int) -> bool:
        """Whether there should be a worker of this number."""
        return number < self._target and not self._stopping.is_set()

    async def _replace_if_lost(
        self, worker: WorkerProcess, ending: asyncio.Task[int], delays: RestartDelays
    ) -> tuple[WorkerProcess, asyncio.Task[int]] | None:
        """Return the worker that replaced this one, and the task that waits for its end; None when this one ends, or is
        to end, without a successor.

        A worker that lost a key store serves on, reports the store as unavailable and may recover it, until its
        successor serves.
        """
        served_s: float | None = None
        while True:
            await wait_for_first(asyncio.wait([ending]), worker.until(lambda: worker.report.lost))
            if ending.done() or worker.leaving or self._stopping.is_set():
                return None
            delay_s = delays.after(worker.served_s if served_s is None else served_s)
            _LOG.error("worker %d has lost a key store; it is replaced in %.1f s", worker.number, delay_s)
            recovered = worker.until(lambda: not worker.report.lost)
            await wait_for_first(asyncio.wait([ending]), self._stopping.wait(), recovered, asyncio.sleep(delay_s))
            if not worker.report.lost or ending.done() or worker.leaving or self._stopping.is_set():
                continue
            started = await self._start(worker.number)
            if started is None:
                continue
            new, new_ending = started
            await new.until_serving()
            if not new.ended:
                worker.leave()
                waiting = asyncio.create_task(self._wait_for_replaced(worker, ending))
                self._replaced.add(waiting)
                waiting.add_done_callback(self._replaced.discard)
                return new, new_ending
            self._workers.pop(new.process.pid, None)
            served_s = new.served_s
            _LOG.error("worker %d %s, so the worker before it stays", new.number, new.describe_end(await new_ending))

    async def _wait_for_replaced(self, worker: WorkerProcess, ending: asyncio.Task[int]) -> None:
        """Wait for the end of a worker that was replaced."""
        code = await ending
        self._workers.pop(worker.process.pid, None)
        _LOG.info("worker %d, which was replaced, %s", worker.number, worker.describe_end(code))

    async def _start(self, number: int) -> tuple[WorkerProcess, asyncio.Task[int]] | None:
        """Start a worker and wait until its keys are open; return it and the task that waits for its end. None when
        there should be no worker of this number any more.

        One worker starts at a time: some key stores fail when several processes open them together.
        """
        async with self._start_lock:
            if not self._is_wanted(number):
                return None
            worker = await self._spawn(number)
            self._workers[worker.process.pid] = worker
            worker.send(self._start_command(number))
            self._send_issue(worker)
            if not self._is_wanted(number):
                worker.leave()
            ending = asyncio.create_task(worker.read_events(self._on_report))
            ending.add_done_callback(lambda _: self._keep_counters_of(worker))
            await worker.until_open()
            return worker, ending

    def _keep_counters_of(self, worker: WorkerProcess) -> None:
        """Keep the counters of a worker that ended, so that the totals never decrease."""
        self._ended_numbers = sum_numbers([self._ended_numbers, without_gauges(worker.numbers)])
        worker.numbers = {}

    def _numbers(self) -> Numbers:
        """Return the numbers of all workers, of those that ended, and of this process."""
        workers = list(self._workers.values())
        states = Counter(each.report.state for each in workers)
        here: dict[Series, float] = {("workers", state): float(number) for state, number in states.items()}
        here["problems",] = float(len(self._issues.current))
        counts = self._issues.counters.snapshot()
        return sum_numbers(
            [self._ended_numbers, counts, here, audit_numbers(self._sequencer), *(each.numbers for each in workers)]
        )

    def _detail(self) -> Detail:
        workers = [
            WorkerStatus(each.number, each.process.pid, each.report.state, each.numbers, each.report.issues)
            for each in sorted(self._workers.values(), key=lambda each: each.number)
        ]
        return status_detail(self._reloader, workers, self._sequencer, self._issues.current)

    async def _spawn(self, number: int) -> WorkerProcess:
        """Start a worker's process, with retries while the system has no descriptors or no memory for it. Raises
        StartError where the service does not serve yet, or is stopping.
        """
        while True:
            try:
                return await spawn(number)
            except OSError as error:
                sentence = f"worker {number} cannot be started: {error.strerror or error}"
                if not self._serving.is_set() or self._stopping.is_set():
                    raise StartError(sentence, INTERNAL_ERROR) from None
                _LOG.error("%s; the start is retried", sentence)
            await asyncio.sleep(_RETRY_SPAWN_EVERY_S)

    def _start_command(self, number: int) -> Start:
        strict = not self._serving.is_set()
        config = self._config_for(self._config, number)
        cores = usable_cores()
        core = cores[number % len(cores)] if config.server.pin_workers else None
        return Start(__version__, number, config, strict, self._lockout.refused, core, worker_count(self._config))

    def _config_for(self, config: Config, number: int) -> Config:
        return config_for_worker(config, [each.address for each in self._reservations], number)

    def _on_report(self, worker: WorkerProcess) -> None:
        worker.hang_detector.reported(time.monotonic(), self._config.server.hang_after_s)
        new = tuple(refused for refused in worker.report.refused_pins if self._lockout.add(refused))
        if new:
            for other in self._workers.values():
                other.send(PinsRefused(new))
        for each in self._workers.values():
            if each.report.state == "open" and not each.listen_sent and self._may_listen(each):
                each.listen_sent = True
                each.send(Listen())
        if worker.serving:
            self._serving.set()

    def _may_listen(self, worker: WorkerProcess) -> bool:
        others = [other.report.unhealthy for other in self._workers.values() if other.serving and not other.leaving]
        return may_listen(worker.report.unhealthy, others)

    def _fail(self, worker: WorkerProcess, code: int) -> None:
        """End the service, whose first worker ended before it served."""
        failure = worker.start_failure
        if failure is not None:
            self._failure = StartError(failure.message, failure.code)
        elif not self._stopping.is_set():
            sentence = f"the first worker {worker.describe_end(code)} before it could serve"
            self._failure = StartError(sentence, INTERNAL_ERROR)
        self._stopping.set()

    async def _check_for_hangs(self) -> None:
        while True:
            await asyncio.sleep(_CHECK_FOR_HANGS_EVERY_S)
            for worker in self._workers.values():
                hung = worker.hang_detector.is_hung(time.monotonic(), _CHECK_FOR_HANGS_EVERY_S)
                if hung and worker.process.returncode is None:
                    _LOG.error("worker %d sends no reports any more and is ended", worker.number)
                    worker.kill()

    async def _apply(self, config: Config) -> None:
        """Put a configuration that was read into effect in all workers, or in none. Raises UnusableError."""
        await wait_for_first(self._serving.wait(), self._stopping.wait())
        self._change += 1
        rollout = Rollout(self._change, config, self._workers, self._config_for)
        await rollout.prepare()
        self._config = config
        rollout.commit()
        if not self._stopping.is_set():
            self._resize()

    def _send_issue_to_all(self) -> None:
        """Send the state of the configuration to all workers, for their health detail."""
        for worker in self._workers.values():
            self._send_issue(worker)

    def _send_issue(self, worker: WorkerProcess) -> None:
        worker.send(ExternalIssue(CONFIGURATION, self._issues.current.get(CONFIGURATION, "")))

    def _resize(self) -> None:
        """Start the workers that are missing, and have those leave that are too many."""
        self._target = worker_count(self._config)
        for number in range(self._target):
            if number not in self._slots or self._slots[number].done():
                self._slots[number] = asyncio.create_task(self._run_slot(number))
        for worker in self._workers.values():
            if worker.number >= self._target:
                worker.leave()

    async def _end(self) -> None:
        """Drain every worker, kill those that do not end in time, and release the ports."""
        self._stopping.set()
        for worker in self._workers.values():
            worker.leave()
        server = self._config.server
        if self._slots:
            timeout_s = server.drain_wait_s + server.shutdown_grace_s + _CLOSE_S
            _, late = await asyncio.wait([*self._slots.values(), *self._replaced], timeout=timeout_s)
            for worker in self._workers.values():
                _LOG.error("worker %d did not end in %g s and is ended", worker.number, timeout_s)
                worker.kill()
            if late:
                await asyncio.wait(late)
        for reservation in self._reservations:
            reservation.release()


async def supervise(
    config: Config,
    *,
    announce: Callable[[str], None],
    load: Callable[[], Config],
    sequencer: RunningSequencer | None = None,
) -> None:
    """Serve with workers until SIGTERM or SIGINT; see `Supervisor`. Raises StartError when the service cannot start."""
    await Supervisor(config, announce=announce, load=load, sequencer=sequencer).run()
