"""A worker process: it serves the configuration that the supervisor sends, reports its state, and ends with it."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from typing import TYPE_CHECKING

from privyseal import __version__
from privyseal_service.keys.pin_lockout import PinLockout
from privyseal_service.runtime.messages import (
    MAX_EVENT_BYTES,
    Abort,
    Command,
    Commit,
    Drain,
    Event,
    ExternalIssue,
    Listen,
    Measurements,
    PinsRefused,
    Prepare,
    PrepareResult,
    Report,
    Start,
    StartFailed,
    encode_event,
    read_command,
    read_start,
)
from privyseal_service.runtime.reload import UnusableError
from privyseal_service.runtime.start_errors import start_error
from privyseal_service.system.cpus import core_count
from privyseal_service.system.exit_codes import REFUSED, RESTART_REQUIRED, StartError
from privyseal_service.system.hardening import (
    configure_grpc,
    die_with_parent,
    exit_immediately,
    harden,
    limit_malloc_arenas,
    pin_to_core,
    run_service,
)
from privyseal_service.system.pipes import PipeWriter, open_pipe_reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from privyseal_backends.interface import KeyStore, Metered, OpenStore
    from privyseal_service.runtime.service import Prepared, Service

_LOG = logging.getLogger(__name__)

REPORT_EVERY_S = 1.0
_ORPHANED = 70


def main() -> None:
    """Run the worker process. Arguments: the descriptors of the command and the event pipe, the supervisor's process
    id."""
    harden()
    limit_malloc_arenas()
    commands, events, supervisor = map(int, sys.argv[1:4])
    if not die_with_parent(supervisor):
        sys.exit(_ORPHANED)
    # A terminal sends Ctrl-C and hang-up to the whole process group; only the supervisor acts on them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        start = read_start(commands)
    except EOFError:
        sys.exit(_ORPHANED)
    configure_grpc()
    if start.core is not None:
        pin_to_core(start.core)
    worker = _Worker(start)
    try:
        code = run_service(worker.run(commands, events))
    except OSError as error:  # no descriptors are left, or no memory
        sys.stderr.write(f"worker {start.number} cannot run: {error.strerror or error}\n")
        code = REFUSED
    if code == RESTART_REQUIRED:
        exit_immediately(code)
    sys.exit(code)


class _SharedStores:
    """Configures key stores for a process that is one of several workers."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._metered: list[Metered] = []

    def wrap(self, backends: Callable[[str], OpenStore]) -> Callable[[str], OpenStore]:
        """Return the backends, with every store that they open configured."""

        def wrapped(scheme: str) -> OpenStore:
            open_store = backends(scheme)
            return lambda settings: self._configured(open_store(settings))

        return wrapped

    def _configured(self, store: KeyStore) -> KeyStore:
        from privyseal_backends.interface import Computing, Metered, ProcessBound  # noqa: PLC0415
        from privyseal_backends.wrappers import capability  # noqa: PLC0415

        if (bound := capability(store, ProcessBound)) is not None:
            bound.prefer_new_process()
        if (computing := capability(store, Computing)) is not None:
            computing.use_cores(max(1, core_count() // self._workers))
        if (metered := capability(store, Metered)) is not None:
            metered.share_quota(self._workers)
            self._metered.append(metered)
        return store

    def set_workers(self, workers: int) -> None:
        """Share the quotas among another number of workers."""
        self._workers = workers
        for store in self._metered:
            store.share_quota(workers)


class _Worker:
    """A worker's service, and its messages from and to the supervisor."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._lockout = PinLockout(start.refused_pins, on_refusal=lambda _: self._send_report())
        self._stores = _SharedStores(start.workers)
        self._state = "opening"
        self._listen = asyncio.Event()
        self._stopping = asyncio.Event()
        self._service: Service | None = None
        self._service_made = asyncio.Event()
        self._external_issues: dict[str, str] = {}
        self._preparing: dict[int, asyncio.Task[None]] = {}
        self._prepared: dict[int, tuple[Prepared, int]] = {}
        self._committed: set[int] = set()
        self._aborted: set[int] = set()
        self._writer: PipeWriter

    async def run(self, commands: int, events: int) -> int:
        """Serve until the supervisor, or SIGTERM, ends it; return the exit code."""
        from privyseal_service.telemetry import logs  # noqa: PLC0415 - the supervisor waits for the first command read

        logs.configure(self._start.config.log, worker=self._start.number)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stopping.set)
        self._writer = await PipeWriter.open(events)
        reader = await open_pipe_reader(commands, MAX_EVENT_BYTES)
        tasks = [asyncio.create_task(self._read_commands(reader)), asyncio.create_task(self._keep_reporting())]
        try:
            await self._serve()
        except StartError as error:
            self._send(StartFailed(str(error), error.code))
            return error.code
        except Exception:  # noqa: BLE001 - the supervisor starts another worker; the log has the error
            _LOG.exception("the worker ends because of an internal error")
            return REFUSED
        finally:
            for task in tasks:
                task.cancel()
            self._send_measurements()
            self._writer.close()
            await self._writer.wait_closed()
        return RESTART_REQUIRED if self._lost else 0

    @property
    def _lost(self) -> bool:
        return self._service is not None and self._service.lost.is_set()

    async def _serve(self) -> None:
        if self._start.version != __version__:
            message = (
                f"the program was replaced by version {__version__} under the running service; restart the service"
            )
            raise StartError(message, REFUSED)
        from privyseal_backends.registry import backend  # noqa: PLC0415
        from privyseal_service.runtime.service import Service, run_until_stopped  # noqa: PLC0415

        backends = self._lockout.guard(self._stores.wrap(backend))
        self._service = Service(self._start.config, backends=backends, on_change=self._send_report)
        self._service_made.set()
        for subject, sentence in self._external_issues.items():
            self._service.set_external_issue(subject, sentence)
        starting = self._open_and_listen(self._service)
        try:
            await run_until_stopped(self._service, starting, self._stopping, self._serve_until_stopped)
        except Exception as error:
            if self._state != "serving":
                raise start_error(error) from error
            raise

    async def _open_and_listen(self, service: Service) -> None:
        await service.open(strict=self._start.strict)
        self._enter("open")
        await self._listen.wait()
        while self._preparing:  # a change that was committed meanwhile is in force for the first call
            await asyncio.wait(list(self._preparing.values()))
        await service.listen()

    async def _serve_until_stopped(self) -> None:
        self._enter("serving")
        await self._stopping.wait()
        self._enter("draining")

    async def _read_commands(self, reader: asyncio.StreamReader) -> None:
        while (command := await read_command(reader)) is not None:
            await self._execute(command)
        self._stopping.set()

    async def _execute(self, command: Command) -> None:
        match command:
            case Listen():
                self._listen.set()
            case Drain():
                self._stopping.set()
            case PinsRefused():
                for refused in command.refused_pins:
                    self._lockout.add(refused)
            case Prepare() | Commit() | Abort():
                await self._change_config(command)
            case ExternalIssue():
                self._external_issues[command.subject] = command.sentence
                if self._service is not None:
                    self._service.set_external_issue(command.subject, command.sentence)
            case Start():
                raise AssertionError("a worker starts once")

    async def _change_config(self, command: Prepare | Commit | Abort) -> None:
        match command:
            case Prepare():
                # A task, so that commands which come meanwhile do not wait.
                task = asyncio.create_task(self._prepare(command))
                self._preparing[command.change] = task
                task.add_done_callback(lambda _: self._preparing.pop(command.change))
            case Commit() if self._is_preparing(command.change):
                self._committed.add(command.change)  # committed as soon as it is prepared
            case Commit():
                self._commit(command.change)
            case Abort():
                await self._abort(command.change)

    def _is_preparing(self, change: int) -> bool:
        task = self._preparing.get(change)
        return task is not None and not task.done()

    async def _prepare(self, command: Prepare) -> None:
        """Prepare a change, and send the result; nothing is kept of one that is aborted meanwhile."""
        await self._service_made.wait()
        assert self._service is not None  # it is made
        refusal = ""
        try:
            prepared = await self._service.prepare(command.config)
        except UnusableError as error:
            refusal = str(error)
        except Exception as error:  # noqa: BLE001 - the worker keeps its configuration, and sends the refusal
            _LOG.exception("this worker could not prepare the configuration because of an internal error")
            refusal = f"it could not be prepared: {error}"
        else:
            if command.change in self._aborted:
                await prepared.discard()
                return
            self._prepared[command.change] = prepared, command.workers
        self._send(PrepareResult(command.change, refusal))
        if command.change in self._committed:
            self._commit(command.change, refusal)

    def _commit(self, change: int, refusal: str = "") -> None:
        found = self._prepared.pop(change, None)
        if refusal:
            _LOG.error("this worker cannot serve the configuration that the others serve, and ends: %s", refusal)
            self._stopping.set()
        if found is None or self._service is None:
            return
        prepared, workers = found
        self._stores.set_workers(workers)
        try:
            self._service.apply(prepared)
        except Exception:  # noqa: BLE001 - it may serve neither configuration; the supervisor replaces it
            _LOG.exception("this worker could not apply the configuration because of an internal error, and ends")
            self._stopping.set()

    async def _abort(self, change: int) -> None:
        self._aborted.add(change)
        found = self._prepared.pop(change, None)
        if found is not None:
            await found[0].discard()

    async def _keep_reporting(self) -> None:
        while True:
            self._send_report()
            self._send_measurements()
            await asyncio.sleep(REPORT_EVERY_S)

    def _enter(self, state: str) -> None:
        self._state = state
        self._send_measurements()  # first: whoever sees the new state also sees `ready`
        self._send_report()

    def _send_report(self) -> None:
        unhealthy = self._service.unhealthy if self._service is not None else frozenset()
        issues = self._service.active_issues if self._service is not None else {}
        self._send(Report(self._state, unhealthy, self._lockout.refused, self._lost, issues))

    def _send_measurements(self) -> None:
        if self._service is not None:
            self._send(Measurements(self._service.numbers()))

    def _send(self, event: Event) -> None:
        self._writer.send(encode_event(event))
