"""A worker process: serves what the supervisor hands it, says how it is, and never outlives the supervisor."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from typing import TYPE_CHECKING

from privyseal import __version__
from privyseal_service.keys.pin_lockout import Latches
from privyseal_service.runtime.messages import (
    MOST_REPORT_BYTES,
    Abort,
    Commit,
    Drain,
    Failed,
    Latched,
    Listen,
    Measured,
    Order,
    Prepare,
    Ready,
    Report,
    Speaker,
    Start,
    Trouble,
    Word,
    encode_word,
    read_order,
    read_start,
    reader_over,
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

if TYPE_CHECKING:
    from collections.abc import Callable

    from privyseal_backends.interface import KeyStore, Metered, OpenStore
    from privyseal_service.runtime.service import Prepared, Service

_LOG = logging.getLogger(__name__)

REPORT_EVERY_S = 1.0
_ORPHANED = 70


def main() -> None:
    """The process. Arguments: the descriptors to take orders from and to report to, the supervisor's process id."""
    harden()
    limit_malloc_arenas()
    orders, words, supervisor = map(int, sys.argv[1:4])
    if not die_with_parent(supervisor):
        sys.exit(_ORPHANED)
    # A terminal's Ctrl-C and hang-up reach every process of its group; the supervisor alone decides what they mean.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        start = read_start(orders)
    except EOFError:
        sys.exit(_ORPHANED)
    configure_grpc()
    if start.core is not None:
        pin_to_core(start.core)
    worker = _Worker(start)
    try:
        code = run_service(worker.run(orders, words))
    except OSError as error:  # no descriptors are left, or no memory
        sys.stderr.write(f"worker {start.number} cannot run: {error.strerror or error}\n")
        code = REFUSED
    if code == RESTART_REQUIRED:
        exit_immediately(code)
    sys.exit(code)


class _Siblings:
    """Tells key stores what it means for them that their process is one of several workers."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._metered: list[Metered] = []

    def telling(self, backends: Callable[[str], OpenStore]) -> Callable[[str], OpenStore]:
        """The same backends, whose stores are told."""

        def told(scheme: str) -> OpenStore:
            open_store = backends(scheme)
            return lambda settings: self._told(open_store(settings))

        return told

    def _told(self, store: KeyStore) -> KeyStore:
        from privyseal_backends.interface import Computing, Metered, ProcessBound  # noqa: PLC0415

        if isinstance(store, ProcessBound):
            store.prefer_new_process()
        if isinstance(store, Computing):
            store.use_cores(max(1, core_count() // self._workers))
        if isinstance(store, Metered):
            store.share_quota(self._workers)
            self._metered.append(store)
        return store

    def number(self, workers: int) -> None:
        """There are so many workers from now on."""
        self._workers = workers
        for store in self._metered:
            store.share_quota(workers)


class _Worker:
    """What a worker has: its service, and the supervisor's ear."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._latches = Latches(start.latches, tell=lambda _: self._report())
        self._siblings = _Siblings(start.workers)
        self._state = "opening"
        self._listen = asyncio.Event()
        self._stopping = asyncio.Event()
        self._service: Service | None = None
        self._troubles: dict[str, str] = {}
        self._made = asyncio.Event()
        self._preparing: dict[int, asyncio.Task[None]] = {}
        self._committed: set[int] = set()
        self._prepared: dict[int, tuple[Prepared, int]] = {}
        self._called_off: set[int] = set()
        self._speaker: Speaker

    async def run(self, orders: int, words: int) -> int:
        """Serve until told to end; the exit code."""
        from privyseal_service.telemetry import logs  # noqa: PLC0415 - after the supervisor is known to be there

        logs.configure(self._start.config.log, worker=self._start.number)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stopping.set)
        self._speaker = await Speaker.over(words)
        reader = await reader_over(orders, MOST_REPORT_BYTES)
        tasks = [asyncio.create_task(self._obey(reader)), asyncio.create_task(self._keep_reporting())]
        try:
            await self._serve()
        except StartError as error:
            self._say(Failed(str(error), error.code))
            return error.code
        except Exception:  # noqa: BLE001 - the supervisor starts another one; what happened is in the log
            _LOG.exception("the worker failed in a way that it should not")
            return REFUSED
        finally:
            for task in tasks:
                task.cancel()
            self._measure()
            self._speaker.close()
            await self._speaker.closed()
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
        from privyseal_service.runtime import service  # noqa: PLC0415

        backends = self._latches.guard(self._siblings.telling(backend))
        self._service = service.Service(self._start.config, backends=backends, changed=self._report)
        self._made.set()
        for about, sentence in self._troubles.items():
            self._service.trouble(about, sentence)
        try:
            await service.run(self._service, self._open_and_listen(self._service), self._stopping, self._started)
        except Exception as error:
            if self._state != "serving":
                raise start_error(error) from error
            raise

    async def _open_and_listen(self, service: Service) -> None:
        await service.open(strict=self._start.strict)
        self._enter("open")
        await self._listen.wait()
        while self._preparing:  # what was decided meanwhile holds for its first call
            await asyncio.wait(list(self._preparing.values()))
        await service.listen()

    async def _started(self) -> None:
        self._enter("serving")
        await self._stopping.wait()
        self._enter("draining")

    async def _obey(self, reader: asyncio.StreamReader) -> None:
        while (order := await read_order(reader)) is not None:
            await self._carry_out(order)
        self._stopping.set()

    async def _carry_out(self, order: Order) -> None:
        match order:
            case Listen():
                self._listen.set()
            case Drain():
                self._stopping.set()
            case Latched():
                for latch in order.latches:
                    self._latches.add(latch)
            case Prepare() | Commit() | Abort():
                await self._go_on_with(order)
            case Trouble():
                self._troubles[order.about] = order.sentence
                if self._service is not None:
                    self._service.trouble(order.about, order.sentence)
            case Start():
                raise AssertionError("a worker starts once")

    async def _go_on_with(self, order: Prepare | Commit | Abort) -> None:
        match order:
            case Prepare():
                # Orders that come meanwhile are not to wait for it.
                task = asyncio.create_task(self._prepare(order))
                self._preparing[order.change] = task
                task.add_done_callback(lambda _: self._preparing.pop(order.change))
            case Commit() if self._makes_ready(order.change):
                self._committed.add(order.change)  # it is taken up as soon as that is possible
            case Commit():
                self._commit(order.change)
            case Abort():
                await self._abort(order.change)

    def _makes_ready(self, change: int) -> bool:
        task = self._preparing.get(change)
        return task is not None and not task.done()

    async def _prepare(self, order: Prepare) -> None:
        """Make ready, unless it is called off meanwhile; whatever stands against it is said, and nothing changes."""
        await self._made.wait()
        assert self._service is not None  # it is made
        refusal = ""
        try:
            prepared = await self._service.prepare(order.config)
        except UnusableError as error:
            refusal = str(error)
        except Exception as error:  # noqa: BLE001 - the worker goes on as it was, and says so
            _LOG.exception("this worker could not make ready for the configuration")
            refusal = f"it could not be taken up: {error}"
        else:
            if order.change in self._called_off:
                await prepared.discard()
                return
            self._prepared[order.change] = prepared, order.workers
        self._say(Ready(order.change, refusal))
        if order.change in self._committed:
            self._commit(order.change, refusal)

    def _commit(self, change: int, refusal: str = "") -> None:
        made_ready = self._prepared.pop(change, None)
        if refusal:
            _LOG.error("this worker cannot serve the configuration that the others serve, and ends: %s", refusal)
            self._stopping.set()
        if made_ready is None or self._service is None:
            return
        prepared, workers = made_ready
        self._siblings.number(workers)
        try:
            self._service.take(prepared)
        except Exception:  # noqa: BLE001 - it may serve neither the old nor the new: another one takes its place
            _LOG.exception("this worker could not take up the configuration, and ends")
            self._stopping.set()

    async def _abort(self, change: int) -> None:
        self._called_off.add(change)
        made_ready = self._prepared.pop(change, None)
        if made_ready is not None:
            await made_ready[0].discard()

    async def _keep_reporting(self) -> None:
        while True:
            self._report()
            self._measure()
            await asyncio.sleep(REPORT_EVERY_S)

    def _measure(self) -> None:
        if self._service is not None:
            self._say(Measured(self._service.numbers()))

    def _enter(self, state: str) -> None:
        self._state = state
        self._measure()  # first, so that whoever is told that it serves reads that it is ready, too
        self._report()

    def _report(self) -> None:
        ailing = self._service.ailing if self._service is not None else frozenset()
        wrong = self._service.wrong if self._service is not None else {}
        self._say(Report(self._state, ailing, self._latches.all, self._lost, wrong))

    def _say(self, word: Word) -> None:
        self._speaker.say(encode_word(word))
