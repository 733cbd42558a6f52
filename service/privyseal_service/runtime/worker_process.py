"""One worker process as its supervisor sees it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from privyseal_service.runtime.messages import (
    MOST_REPORT_BYTES,
    Drain,
    Failed,
    Measured,
    Order,
    Prepare,
    Ready,
    Report,
    ReportError,
    Speaker,
    decode_word,
    encode_order,
    reader_over,
)
from privyseal_service.runtime.restarts import HangWatch
from privyseal_service.system.asyncio_tools import wait_for_first
from privyseal_service.telemetry.metrics import Numbers

if TYPE_CHECKING:
    pass


_LOG = logging.getLogger(__name__)

_FIRST_REPORT_S = 30.0
"""How long a worker may take to import what it needs; a busy machine takes its time."""


_PREPARE_S = 30.0
"""How long a worker may take to make ready for another configuration, beyond what it waits for key stores."""


# The working folder must not be where the worker's own modules are looked for.
_BOOT = "import sys\nif sys.path[0] == '': del sys.path[0]\nfrom privyseal_service.runtime.worker import main\nmain()"


class Worker:
    """One worker process, as the supervisor sees it."""

    def __init__(self, number: int, process: asyncio.subprocess.Process) -> None:
        self.number = number
        self.process = process
        self.report = Report("opening")
        self.failure: Failed | None = None
        self.ready = Ready(0)
        self.numbers: Numbers = {}
        self.told_to_listen = False
        self.leaving = False
        self.watch = HangWatch(time.monotonic(), _FIRST_REPORT_S)
        self._started_s = time.monotonic()
        self._changed = asyncio.Event()
        self._reader: asyncio.StreamReader
        self._speaker: Speaker

    async def connect(self, orders: int, words: int) -> None:
        """Take the supervisor's ends of the pipes."""
        self._speaker = await Speaker.over(orders)
        self._reader = await reader_over(words, MOST_REPORT_BYTES)

    async def hear(self, heard: Callable[[Worker], None]) -> int:
        """Take in what the worker says until it ends; its exit code, or the signal's number below zero."""
        try:
            while line := await self._reader.readline():
                match decode_word(line):
                    case Failed() as failure:
                        self.failure = failure
                    case Measured() as measured:
                        self.numbers = measured.numbers
                    case Ready() as ready:
                        self.ready = ready
                        self._tell()
                    case Report() as report:
                        self.report = report
                        heard(self)
                        self._tell()
        except (ReportError, ValueError) as error:
            _LOG.error("worker %d is ended: %s", self.number, error)
            self.kill()
        finally:
            self._speaker.close()
        code = await self.process.wait()
        self.report = Report("ended")
        self._tell()
        return code

    async def prepare(self, order: Prepare) -> str:
        """Have it make ready for a change; why it cannot, in a sentence. One that ends meanwhile need not: the next one
        begins under what is decided."""
        patience_s = order.config.server.open_wait_s + _PREPARE_S
        self.say(order)
        await wait_for_first(
            self.until(lambda: self.ended or self.ready.change == order.change), asyncio.sleep(patience_s)
        )
        if self.ended:
            return ""
        if self.ready.change != order.change:
            return f"worker {self.number} did not make ready for it within {patience_s:g} s"
        return self.ready.refusal

    async def until_open(self) -> None:
        """Wait until its keys are open, or it has ended."""
        await self.until(lambda: self.report.state != "opening")

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait for something that its reports, or its end, make true."""
        while not true():
            await self._changed.wait()

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def say(self, order: Order) -> None:
        """Tell the worker to do something; one that is gone hears nothing."""
        self._speaker.say(encode_order(order))

    def leave(self) -> None:
        """Have the worker finish what it has and end, for good."""
        self.leaving = True
        self.say(Drain())

    def kill(self) -> None:
        """End the process, now."""
        with suppress(ProcessLookupError):
            self.process.kill()

    @property
    def lived_s(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._started_s

    @property
    def serving(self) -> bool:
        """Whether it takes calls."""
        return self.report.state == "serving"

    @property
    def ended(self) -> bool:
        """Whether it is gone."""
        return self.report.state == "ended"


async def spawn(number: int) -> Worker:
    """Start a worker's process. It is run as a new program: a fork of this one could not use a key store's module."""
    with ExitStack() as theirs, ExitStack() as ours:
        their_orders, orders = os.pipe()
        theirs.callback(os.close, their_orders)
        ours.callback(os.close, orders)
        words, their_words = os.pipe()
        theirs.callback(os.close, their_words)
        ours.callback(os.close, words)
        arguments = (their_orders, their_words, os.getpid(), f"privyseal-server worker {number}")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", _BOOT, *map(str, arguments)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            pass_fds=(their_orders, their_words),
        )
        ours.pop_all()
    worker = Worker(number, process)
    await worker.connect(orders, words)
    return worker


async def until_serving(worker: Worker) -> None:
    """Wait until the worker serves or has ended."""
    await worker.until(lambda: worker.serving or worker.ended)


def wait_ended(failure: Failed | None, code: int) -> str:
    """How a worker ended, in words: what it said of it, or its exit code (the signal's number below zero)."""
    if failure is not None:
        return f"could not start ({failure.message})"
    if code < 0:
        known = -code in {each.value for each in signal.Signals}  # the real-time ones between two ends have no names
        return f"was ended by {signal.Signals(-code).name if known else f'signal {-code}'}"
    return f"ended with exit code {code}"
