"""A worker process, as the supervisor sees it: its start, its end, and the messages to and from it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

from privyseal_service.runtime.messages import (
    MAX_EVENT_BYTES,
    Command,
    Drain,
    MalformedEventError,
    Measurements,
    Prepare,
    PrepareResult,
    Report,
    StartFailed,
    decode_event,
    encode_command,
)
from privyseal_service.runtime.restarts import HangDetector
from privyseal_service.system.asyncio_tools import wait_for_first
from privyseal_service.system.pipes import PipeWriter, open_pipe_reader
from privyseal_service.telemetry.metrics import Numbers

_LOG = logging.getLogger(__name__)

_FIRST_REPORT_S = 30.0
"""How long a worker may take to import its modules, on a busy machine."""

_PREPARE_S = 30.0
"""How long a worker may take to prepare another configuration, in addition to `server.open_wait_s`."""

# Modules must not be imported from the working folder.
_BOOT = "import sys\nif sys.path[0] == '': del sys.path[0]\nfrom privyseal_service.runtime.worker import main\nmain()"


class WorkerProcess:
    """One worker process. `report`, `numbers` and `start_failure` are its latest events."""

    def __init__(self, number: int, process: asyncio.subprocess.Process) -> None:
        self.number = number
        self.process = process
        self.report = Report("opening")
        self.start_failure: StartFailed | None = None
        self.numbers: Numbers = {}
        self.listen_sent = False
        self.leaving = False
        self.hang_detector = HangDetector(time.monotonic(), _FIRST_REPORT_S)
        self._prepare_result = PrepareResult(0)
        self._serving_since_s: float | None = None
        self._changed = asyncio.Event()
        self._reader: asyncio.StreamReader
        self._writer: PipeWriter

    async def connect(self, commands: int, events: int) -> None:
        """Open the supervisor's ends of the pipes, by their descriptors."""
        self._writer = await PipeWriter.open(commands)
        self._reader = await open_pipe_reader(events, MAX_EVENT_BYTES)

    async def read_events(self, on_report: Callable[[WorkerProcess], None]) -> int:
        """Read the worker's events until it ends; return its exit code, or the signal's number below zero. A worker
        that sends a malformed event is killed."""
        try:
            while line := await self._reader.readline():
                match decode_event(line):
                    case StartFailed() as failure:
                        self.start_failure = failure
                    case Measurements() as measurements:
                        self.numbers = measurements.numbers
                    case PrepareResult() as result:
                        self._prepare_result = result
                        self._notify()
                    case Report() as report:
                        self.report = report
                        if report.state == "serving" and self._serving_since_s is None:
                            self._serving_since_s = time.monotonic()
                        on_report(self)
                        self._notify()
        except (MalformedEventError, ValueError) as error:
            _LOG.error("worker %d is ended: %s", self.number, error)
            self.kill()
        finally:
            self._writer.close()
        code = await self.process.wait()
        self.report = Report("ended")
        self._notify()
        return code

    async def prepare(self, command: Prepare) -> str:
        """Have the worker prepare a change, and return why it cannot, as a sentence, or nothing. A worker that ends
        meanwhile refuses nothing: its successor starts with the configuration in force."""
        timeout_s = command.config.server.open_wait_s + _PREPARE_S
        self.send(command)
        answered = self.until(lambda: self.ended or self._prepare_result.change == command.change)
        await wait_for_first(answered, asyncio.sleep(timeout_s))
        if self.ended:
            return ""
        if self._prepare_result.change != command.change:
            return f"worker {self.number} did not prepare it within {timeout_s:g} s"
        return self._prepare_result.refusal

    async def until_open(self) -> None:
        """Wait until the worker's keys are open, or it has ended."""
        await self.until(lambda: self.report.state != "opening")

    async def until_serving(self) -> None:
        """Wait until the worker serves, or has ended."""
        await self.until(lambda: self.serving or self.ended)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until an event of the worker, or its end, makes the condition true."""
        while not condition():
            await self._changed.wait()

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def send(self, command: Command) -> None:
        """Send a command; nothing is sent to a worker that is gone."""
        self._writer.send(encode_command(command))

    def leave(self) -> None:
        """Have the worker drain and end; it is not started again."""
        self.leaving = True
        self.send(Drain())

    def kill(self) -> None:
        """Kill the process."""
        with suppress(ProcessLookupError):
            self.process.kill()

    @property
    def served_s(self) -> float:
        """Seconds since it first served; 0 if it never did."""
        return 0.0 if self._serving_since_s is None else time.monotonic() - self._serving_since_s

    @property
    def serving(self) -> bool:
        """Whether it accepts calls."""
        return self.report.state == "serving"

    @property
    def ended(self) -> bool:
        """Whether the process has ended."""
        return self.report.state == "ended"

    def describe_end(self, code: int) -> str:
        """Return how the worker ended, in words: its own message, its signal (a code below zero) or its exit code."""
        if self.start_failure is not None:
            return f"could not start ({self.start_failure.message})"
        if code < 0:
            known = -code in {each.value for each in signal.Signals}  # most of the real-time signals have no names
            return f"was ended by {signal.Signals(-code).name if known else f'signal {-code}'}"
        return f"ended with exit code {code}"


async def spawn(number: int) -> WorkerProcess:
    """Start a worker's process, as a new program: a fork could not use a PKCS#11 module. Raises OSError."""
    with ExitStack() as theirs, ExitStack() as ours:
        their_commands, commands = os.pipe()
        theirs.callback(os.close, their_commands)
        ours.callback(os.close, commands)
        events, their_events = os.pipe()
        theirs.callback(os.close, their_events)
        ours.callback(os.close, events)
        arguments = (their_commands, their_events, os.getpid(), f"privyseal-server worker {number}")
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", _BOOT, *map(str, arguments)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            pass_fds=(their_commands, their_events),
        )
        ours.pop_all()
    worker = WorkerProcess(number, process)
    await worker.connect(commands, events)
    return worker
