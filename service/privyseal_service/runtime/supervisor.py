"""The supervisor: holds the ports, starts the workers one after another, and replaces those that die or hang.

It serves no call itself and opens no key. What comes to it from outside is one line of each request for metrics, where
they are switched on, and from its workers words of a known form. What a worker learns of a token's PIN it keeps over
restarts.
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
from privyseal_service.keys.pin_lockout import Latches
from privyseal_service.runtime.messages import (
    Abort,
    Commit,
    Latched,
    Listen,
    Prepare,
    Start,
    Trouble,
)
from privyseal_service.runtime.reload import CONFIGURATION, Reloader, UnusableError
from privyseal_service.runtime.restarts import RestartDelays
from privyseal_service.runtime.start_errors import start_error
from privyseal_service.runtime.status import StatusServers, WorkerStatus, audit_numbers, status_detail
from privyseal_service.runtime.worker_process import Worker, spawn, until_serving, wait_ended
from privyseal_service.system.asyncio_tools import wait_for_first
from privyseal_service.system.cpus import core_count, usable_cores
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

_LOOK_EVERY_S = 0.5
_SPAWN_AGAIN_S = 1.0
_CLOSE_S = 25.0
"""What a worker may take beyond the configured times to close its key stores; one that hangs takes longest."""


def worker_count(config: Config) -> int:
    """How many workers the configuration means; 0 is to serve without any. A Unix socket is served by one."""
    if config.server.workers == 0:
        return 0
    if all(listener.address.startswith("unix:") for listener in config.listeners):
        return 1
    return config.server.workers or core_count()


def may_listen(ailing: frozenset[str], others: Iterable[frozenset[str]]) -> bool:
    """Whether a worker with keys that do not serve should take calls: only where no other worker, each given by its own
    such keys, serves one of them better."""
    return all(ailing <= theirs for theirs in others)


class Supervisor:
    """Runs the workers of a configuration until SIGTERM or SIGINT.

    `announce` gets a line for each listener once the first worker accepts calls. `load` reads the configuration again
    at SIGHUP; it raises ConfigError. `sequencer` is looked at for the status.
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
        self._past: Numbers = {}
        self._status = StatusServers(config, self._numbers, self._detail)
        self._metrics: list[str] = []
        self._announce = announce
        self._wanted = worker_count(config)
        self._latches = Latches()
        self._reservations: list[Reservation] = []
        self._workers: dict[int, Worker] = {}
        self._keepers: dict[int, asyncio.Task[None]] = {}
        self._farewells: set[asyncio.Task[None]] = set()
        self._one_at_a_time = asyncio.Lock()
        self._change = 0
        self._serving = asyncio.Event()
        self._stopping = asyncio.Event()
        self._failure: StartError | None = None
        self._issues = ActiveIssues(Counters(), self._tell_of_problems)
        self._reloader = Reloader(load, config, self._take, self._issues)

    async def run(self) -> None:
        """Serve. Raises StartError when the first worker cannot."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        loop.add_signal_handler(signal.SIGHUP, self._reloader.reload_soon)
        looking = [
            asyncio.create_task(self._look_for_hangs()),
            asyncio.create_task(self._reloader.keep_watching()),
        ]
        try:
            self._reserve()
            await self._start_status()
            self._keepers[0] = asyncio.create_task(self._keep(0))
            await wait_for_first(self._serving.wait(), self._stopping.wait())
            if self._failure is not None:
                raise self._failure
            if not self._stopping.is_set():
                self._say_listening()
                self._resize()
            await self._stopping.wait()
            if self._serving.is_set():
                notify("STOPPING=1")
                _LOG.info("stopping: calls in flight have %g s to finish", self._config.server.shutdown_grace_s)
        finally:
            await self._end()
            self._status.close()
            for task in looking:
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

    def _say_listening(self) -> None:
        for listener, held in zip(self._config.listeners, self._reservations, strict=True):
            self._announce(f"listening {listener.auth} {held.address}")
        for line in self._metrics:
            self._announce(line)
        notify("READY=1")

    async def _keep(self, number: int) -> None:
        """Keep one worker running, until there is to be none of its number."""
        delays = RestartDelays()
        successor: tuple[Worker, asyncio.Task[int]] | None = None
        while successor is not None or self._is_wanted(number):
            try:
                started = successor or await self._start(number)
                if started is None:
                    continue
                worker, ending = started
                successor = await self._succeeded(worker, ending, delays)
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
            delay_s = delays.after(worker.lived_s)
            self._issues.counters.add(WORKER_ENDS)
            _LOG.error("worker %d %s; it is started again in %.1f s", number, wait_ended(worker.failure, code), delay_s)
            await wait_for_first(asyncio.sleep(delay_s), self._stopping.wait())

    def _is_wanted(self, number: int) -> bool:
        """Whether there is to be a worker of that number."""
        return number < self._wanted and not self._stopping.is_set()

    async def _succeeded(
        self, worker: Worker, ending: asyncio.Task[int], delays: RestartDelays
    ) -> tuple[Worker, asyncio.Task[int]] | None:
        """Wait until another worker has taken over from one to which a key store is lost, and let that one go; None
        when it ends, or is to end, by itself. Until then it says that the store is away, and may find it again."""
        lived_s: float | None = None
        while True:
            await wait_for_first(asyncio.wait([ending]), worker.until(lambda: worker.report.lost))
            if ending.done() or worker.leaving or self._stopping.is_set():
                return None
            delay_s = delays.after(worker.lived_s if lived_s is None else lived_s)
            _LOG.error("worker %d has lost a key store; another one takes over in %.1f s", worker.number, delay_s)
            mended = worker.until(lambda: not worker.report.lost)
            await wait_for_first(asyncio.wait([ending]), self._stopping.wait(), mended, asyncio.sleep(delay_s))
            if not worker.report.lost or ending.done() or worker.leaving or self._stopping.is_set():
                continue
            started = await self._start(worker.number)
            if started is None:
                continue
            new, new_ending = started
            await until_serving(new)
            if not new.ended:
                worker.leave()
                farewell = asyncio.create_task(self._see_off(worker, ending))
                self._farewells.add(farewell)
                farewell.add_done_callback(self._farewells.discard)
                return new, new_ending
            self._workers.pop(new.process.pid, None)
            lived_s = new.lived_s
            _LOG.error("worker %d %s, so the one before stays", new.number, wait_ended(new.failure, await new_ending))

    async def _see_off(self, worker: Worker, ending: asyncio.Task[int]) -> None:
        """Wait for the end of a worker that was replaced."""
        code = await ending
        self._workers.pop(worker.process.pid, None)
        _LOG.info("worker %d, which was replaced, %s", worker.number, wait_ended(worker.failure, code))

    async def _start(self, number: int) -> tuple[Worker, asyncio.Task[int]] | None:
        """Start a worker, and wait until its keys are open: key stores may not bear several starts at once. None when
        it is one too many by the time that its turn has come."""
        async with self._one_at_a_time:
            if not self._is_wanted(number):
                return None
            worker = await self._spawn(number)
            self._workers[worker.process.pid] = worker
            worker.say(self._first_order(number))
            self._tell_worker(worker)
            if not self._is_wanted(number):
                worker.leave()
            ending = asyncio.create_task(worker.hear(self._heard))
            ending.add_done_callback(lambda _: self._keep_counts_of(worker))
            await worker.until_open()
            return worker, ending

    def _keep_counts_of(self, worker: Worker) -> None:
        """What a worker counted outlives it, so that no count ever falls."""
        self._past = sum_numbers([self._past, without_gauges(worker.numbers)])
        worker.numbers = {}

    def _numbers(self) -> Numbers:
        """What was counted by all workers and here, and how all are now."""
        workers = list(self._workers.values())
        states = Counter(each.report.state for each in workers)
        here: dict[Series, float] = {("workers", state): float(number) for state, number in states.items()}
        here["problems",] = float(len(self._issues.current))
        counts = self._issues.counters.snapshot()
        return sum_numbers(
            [self._past, counts, here, audit_numbers(self._sequencer), *(each.numbers for each in workers)]
        )

    def _detail(self) -> Detail:
        workers = [
            WorkerStatus(each.number, each.process.pid, each.report.state, each.numbers, each.report.problems)
            for each in sorted(self._workers.values(), key=lambda each: each.number)
        ]
        return status_detail(self._reloader, workers, self._sequencer, self._issues.current)

    async def _spawn(self, number: int) -> Worker:
        """Start a worker's process, as soon as the system lets us: when descriptors or memory are used up, that is
        tried again. Raises StartError where the service does not serve, or is to stop."""
        while True:
            try:
                return await spawn(number)
            except OSError as error:
                sentence = f"worker {number} cannot be started: {error.strerror or error}"
                if not self._serving.is_set() or self._stopping.is_set():
                    raise StartError(sentence, INTERNAL_ERROR) from None
                _LOG.error("%s; it is tried again", sentence)
            await asyncio.sleep(_SPAWN_AGAIN_S)

    def _first_order(self, number: int) -> Start:
        strict = not self._serving.is_set()
        config = self._for_worker(self._config, number)
        cores = usable_cores()
        core = cores[number % len(cores)] if config.server.pin_workers else None
        return Start(__version__, number, config, strict, self._latches.all, core, worker_count(self._config))

    def _for_worker(self, config: Config, number: int) -> Config:
        """The configuration as one worker serves it: on the ports that are held here, and a Unix socket by the first
        worker alone, since the file is the last one's that listened."""
        listeners = tuple(
            listener.model_copy(update={"address": held.address})
            for listener, held in zip(config.listeners, self._reservations, strict=True)
            if number == 0 or not listener.address.startswith("unix:")
        )
        server = config.server.model_copy(update={"share_port": True})
        return config.model_copy(update={"server": server, "listeners": listeners})

    def _heard(self, worker: Worker) -> None:
        worker.watch.heard(time.monotonic(), self._config.server.hang_after_s)
        new = tuple(latch for latch in worker.report.latches if self._latches.add(latch))
        if new:
            for other in self._workers.values():
                other.say(Latched(new))
        for each in self._workers.values():
            if each.report.state == "open" and not each.told_to_listen and self._may_listen(each):
                each.told_to_listen = True
                each.say(Listen())
        if worker.serving:
            self._serving.set()

    def _may_listen(self, worker: Worker) -> bool:
        others = [other.report.ailing for other in self._workers.values() if other.serving and not other.leaving]
        return may_listen(worker.report.ailing, others)

    def _fail(self, worker: Worker, code: int) -> None:
        """The first worker ended before it served: so does the service."""
        told = worker.failure
        if told is None and not self._stopping.is_set():
            self._failure = StartError(
                f"the first worker {wait_ended(worker.failure, code)} before it could serve", INTERNAL_ERROR
            )
        elif told is not None:
            self._failure = StartError(told.message, told.code)
        self._stopping.set()

    async def _look_for_hangs(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_EVERY_S)
            for worker in self._workers.values():
                if worker.watch.hangs(time.monotonic(), _LOOK_EVERY_S) and worker.process.returncode is None:
                    _LOG.error("worker %d says nothing any more and is ended", worker.number)
                    worker.kill()

    async def _take(self, config: Config) -> None:
        """Have every worker make ready for a configuration that was read, and only when all have, go on with it: when
        one cannot, none does. One that still opens its keys takes it up before it listens. Raises UnusableError."""
        await wait_for_first(self._serving.wait(), self._stopping.wait())
        self._change += 1
        change, asked = self._change, list[Worker]()
        try:
            while (worker := self._next_to_ask(asked)) is not None:
                # One after another: a token that refuses a PIN must not be tried by all of them.
                asked.append(worker)
                await self._make_ready(worker, change, config)
        except BaseException:
            for worker in asked:
                worker.say(Abort(change))
            raise
        self._config = config
        for worker in self._workers.values():
            if worker not in asked:
                worker.say(self._prepare(worker, change, config))
            worker.say(Commit(change))
        if not self._stopping.is_set():
            self._resize()

    def _next_to_ask(self, asked: list[Worker]) -> Worker | None:
        """A worker that may take calls and has not been asked to make ready; those that are to end come last."""
        left = [each for each in self._workers.values() if each.report.state != "opening" and each not in asked]
        return min(left, key=lambda each: each.leaving, default=None)

    def _prepare(self, worker: Worker, change: int, config: Config) -> Prepare:
        return Prepare(change, self._for_worker(config, worker.number), worker_count(config))

    async def _make_ready(self, worker: Worker, change: int, config: Config) -> None:
        """Raises UnusableError where the worker cannot. What one that is about to end says does not matter."""
        refusal = await worker.prepare(self._prepare(worker, change, config))
        if refusal and not worker.leaving:
            raise UnusableError(refusal)

    def _tell_of_problems(self) -> None:
        """Let every worker's health know what is wrong here."""
        for worker in self._workers.values():
            self._tell_worker(worker)

    def _tell_worker(self, worker: Worker) -> None:
        worker.say(Trouble(CONFIGURATION, self._issues.current.get(CONFIGURATION, "")))

    def _resize(self) -> None:
        """Start the workers that are missing, and let those end that are too many."""
        self._wanted = worker_count(self._config)
        for number in range(self._wanted):
            if number not in self._keepers or self._keepers[number].done():
                self._keepers[number] = asyncio.create_task(self._keep(number))
        for worker in self._workers.values():
            if worker.number >= self._wanted:
                worker.leave()

    async def _end(self) -> None:
        """Drain every worker, end those that do not, and give the ports back."""
        self._stopping.set()
        for worker in self._workers.values():
            worker.leave()
        server = self._config.server
        if self._keepers:
            patience_s = server.drain_wait_s + server.shutdown_grace_s + _CLOSE_S
            _, late = await asyncio.wait([*self._keepers.values(), *self._farewells], timeout=patience_s)
            for worker in self._workers.values():
                _LOG.error("worker %d did not end in %g s and is ended", worker.number, patience_s)
                worker.kill()
            if late:
                await asyncio.wait(late)
        for held in self._reservations:
            held.release()


async def supervise(
    config: Config,
    *,
    announce: Callable[[str], None],
    load: Callable[[], Config],
    sequencer: RunningSequencer | None = None,
) -> None:
    """Serve by workers until SIGTERM or SIGINT; see `Supervisor`. Raises StartError when the service cannot start."""
    await Supervisor(config, announce=announce, load=load, sequencer=sequencer).run()
