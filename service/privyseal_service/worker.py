"""A worker process: serves what the supervisor hands it, says how it is, and never outlives the supervisor."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from typing import TYPE_CHECKING

from privyseal import __version__
from privyseal_service.control import (
    MOST_REPORT_BYTES,
    Drain,
    Failed,
    Latched,
    Listen,
    Order,
    Reload,
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
from privyseal_service.exits import LOST, REFUSED, StartError, start_error
from privyseal_service.latches import Latches
from privyseal_service.metrics import RELOAD_FAILURES, RELOADS
from privyseal_service.process import die_with, end_at_once, harden, keep_to, set_up_grpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from privyseal_backends.interface import KeyStore, Metered, OpenStore
    from privyseal_service.config import Config
    from privyseal_service.server import Service

_LOG = logging.getLogger(__name__)

REPORT_EVERY_S = 1.0
_ORPHANED = 70


def main() -> None:
    """The process. Arguments: the descriptors to take orders from and to report to, the supervisor's process id."""
    harden()
    orders, words, supervisor = map(int, sys.argv[1:4])
    if not die_with(supervisor):
        sys.exit(_ORPHANED)
    # A terminal's Ctrl-C and hang-up reach every process of its group; the supervisor alone decides what they mean.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        start = read_start(orders)
    except EOFError:
        sys.exit(_ORPHANED)
    set_up_grpc()
    if start.core is not None:
        keep_to(start.core)
    worker = _Worker(start)
    try:
        code = asyncio.run(worker.run(orders, words))
    except OSError as error:  # no descriptors are left, or no memory
        sys.stderr.write(f"worker {start.number} cannot run: {error.strerror or error}\n")
        code = REFUSED
    if code == LOST:
        end_at_once(code)
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
        from privyseal_backends.interface import Metered, ProcessBound  # noqa: PLC0415

        if isinstance(store, ProcessBound):
            store.prefer_new_process()
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
        self._reloads: set[asyncio.Task[None]] = set()
        self._speaker: Speaker

    async def run(self, orders: int, words: int) -> int:
        """Serve until told to end; the exit code."""
        from privyseal_service import logs  # noqa: PLC0415 - after the supervisor is known to be there

        logs.set_up(self._start.config.log, worker=self._start.number)
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
            self._speaker.close()
            await self._speaker.closed()
        return LOST if self._lost else 0

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
        from privyseal_service import server  # noqa: PLC0415

        backends = self._latches.guard(self._siblings.telling(backend))
        self._service = server.Service(self._start.config, backends=backends, changed=self._report)
        for about, sentence in self._troubles.items():
            self._service.trouble(about, sentence)
        try:
            await server.run(self._service, self._open_and_listen(self._service), self._stopping, self._started)
        except Exception as error:
            if self._state != "serving":
                raise start_error(error) from error
            raise

    async def _open_and_listen(self, service: Service) -> None:
        await service.open(strict=self._start.strict)
        self._enter("open")
        await self._listen.wait()
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
            case Reload():
                self._siblings.number(order.workers)
                # Orders that come meanwhile are not to wait for it.
                task = asyncio.create_task(self._reload(order.config))
                self._reloads.add(task)
                task.add_done_callback(self._reloads.discard)
            case Trouble():
                self._troubles[order.about] = order.sentence
                if self._service is not None:
                    self._service.trouble(order.about, order.sentence)
            case Start():
                raise AssertionError("a worker starts once")

    async def _reload(self, config: Config) -> None:
        """What the supervisor checked can still fail here, as when a file changed meanwhile: then nothing changes."""
        if self._service is None:
            return
        try:
            await self._service.reload(config)
        except Exception as error:  # noqa: BLE001 - the worker goes on as it was, and says so
            _LOG.exception("this worker could not take up the configuration")
            self._service.problems.arise("this worker", f"its configuration is older: {error}", RELOAD_FAILURES)
        else:
            self._service.problems.counters.add(RELOADS)
            self._service.problems.pass_over("this worker")

    async def _keep_reporting(self) -> None:
        while True:
            self._report()
            await asyncio.sleep(REPORT_EVERY_S)

    def _enter(self, state: str) -> None:
        self._state = state
        self._report()

    def _report(self) -> None:
        ailing = self._service.ailing if self._service is not None else frozenset()
        self._say(Report(self._state, ailing, self._latches.all, self._lost))

    def _say(self, word: Word) -> None:
        self._speaker.say(encode_word(word))
