"""The child process: what it finds in its environment, and how its signals, exit code and terminal pass through."""

from __future__ import annotations

import os
import resource
import select
import shlex
import shutil
import signal
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from privyseal.errors import PrivysealError
from privyseal.exec.words import FOREIGN_RUNTIMES

PLACEHOLDER = Path(__file__).parent / "placeholder.pem"
"""Junk between the markers of a private key: whoever signs with it without the hook gets an error."""

CANNOT_RUN, NOT_FOUND = 126, 127
"""Exit codes of a command that cannot be run and of one that does not exist, as env has them."""

_HOOK = Path(__file__).parent / "hook.mjs"
_LONGEST_SOCKET_PATH_BYTES = 100  # of 104 on macOS and 108 on Linux
_HOOK_GRACE_S = 10.0

_FORWARDED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
_FROM_TERMINAL = (signal.SIGINT, signal.SIGQUIT)
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)

_SHIM = """#!/bin/sh
# {name} does not load the signing hook of `privyseal exec`: the Capgo CLI is not to sign under it.
case "$*" in
*capgo* | *--bun*)
  echo "privyseal exec: {name} cannot run the Capgo CLI here, it would sign with a local key; run it with node" >&2
  exit {code} ;;
esac
exec {real} "$@"
"""


class SpawnError(PrivysealError):
    """The command could not be started; `exit_code` is 126 or 127."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def without_token(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for other people's code, which has no need of PRIVYSEAL_TOKEN, nor of the silence that our own
    command asks of gRPC."""
    ours = {("GRPC_VERBOSITY", "NONE")}
    return {name: value for name, value in environ.items() if name != "PRIVYSEAL_TOKEN" and (name, value) not in ours}


@contextmanager
def private_folder() -> Iterator[Path]:
    """A folder of mode 0700, whose name is short enough for a socket in it; gone afterwards."""
    base = tempfile.gettempdir()
    if len(os.fsencode(base)) > _LONGEST_SOCKET_PATH_BYTES - len("/privyseal-12345678/agent"):
        base = "/tmp"  # noqa: S108 - mkdtemp makes a folder that nobody else can enter
    folder = Path(tempfile.mkdtemp(prefix="privyseal-", dir=base))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def environment(base: Mapping[str, str], folder: Path, socket_path: Path, timeout_s: float) -> dict[str, str]:
    """What the child finds: the hook behind the NODE_OPTIONS that were there, the socket, the placeholder's path, and a
    PATH on which Bun and Deno refuse the Capgo CLI."""
    result = without_token(base)
    result["NODE_OPTIONS"] = f"{base.get('NODE_OPTIONS', '')} --import {_HOOK.as_uri()}".strip()
    result["PRIVYSEAL_AGENT_SOCKET"] = str(socket_path)
    result["PRIVYSEAL_AGENT_TIMEOUT_MS"] = str(round((timeout_s + _HOOK_GRACE_S) * 1000))
    result["PRIVYSEAL_PLACEHOLDER_KEY"] = str(PLACEHOLDER)
    if _write_shims(folder / "bin", base.get("PATH", os.defpath)):
        result["PATH"] = f"{folder / 'bin'}{os.pathsep}{base.get('PATH', os.defpath)}"
    return result


def _write_shims(folder: Path, search_path: str) -> bool:
    """Stand before the Bun and Deno that are installed; whether there were any."""
    found = {name: real for name in sorted(FOREIGN_RUNTIMES) if (real := shutil.which(name, path=search_path))}
    if found:
        folder.mkdir()
    for name, real in found.items():
        shim = folder / name
        shim.write_text(_SHIM.format(name=name, real=shlex.quote(str(Path(real).absolute())), code=CANNOT_RUN))
        shim.chmod(stat.S_IRWXU)
    return bool(found)


class Signals:
    """The signals that this process was sent: forwarded to the child once there is one, else kept."""

    def __init__(self, wakened: int) -> None:
        self._wakened = wakened  # a pipe that every signal writes to
        self._child: int | None = None
        self.kept: signal.Signals | None = None

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """A signal came. Those of the terminal's keys reach the child by themselves."""
        if self._child is None:
            self.kept = signal.Signals(number)
        elif not (number in _FROM_TERMINAL and _in_foreground()):
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(self._child, number)

    def wait(self, child: int) -> int:
        """Forward to the child until it ends; its wait status."""
        self._child = child
        if self.kept is not None:  # it came while the child was being started
            self.receive(self.kept, None)
        # Not a blocking waitpid: a signal just before it, or one that another thread took, would find no one awake.
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
            select.select([self._wakened], [], [])
            os.read(self._wakened, 4096)
        self._child = None
        return ended[1]


@contextmanager
def signals() -> Iterator[Signals]:
    """Receive the signals that a child is to have, instead of ending by them."""
    wakened, waken = os.pipe()
    os.set_blocking(waken, False)
    received = Signals(wakened)
    before = {number: signal.getsignal(number) for number in (*_FORWARDED, signal.SIGCHLD)}
    before_waken = signal.set_wakeup_fd(waken, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, _nothing)
    for number in _FORWARDED:
        if before[number] is not signal.SIG_IGN:  # as after nohup: the child inherits it
            signal.signal(number, received.receive)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before_waken)
        os.close(waken)
        os.close(wakened)


def _nothing(_number: int, _frame: FrameType | None) -> None:
    """A handler, so that the end of a child wakes this process."""


def _in_foreground() -> bool:
    """Whether this process group is the one that the terminal sends its keys' signals to."""
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    finally:
        os.close(terminal)


def run(words: Sequence[str], env: Mapping[str, str], received: Signals) -> int:
    """Run a command to its end with this process's streams and terminal; its wait status. Raises SpawnError."""
    if received.kept is not None:
        return int(received.kept)
    sys.stdout.flush()
    try:
        # posix_spawn, since threads of gRPC are up: nothing of Python runs between fork and exec.
        process = os.posix_spawnp(words[0], list(words), dict(env), setsigdef=_IGNORED_BY_PYTHON)
    except FileNotFoundError:
        raise SpawnError(f"the command {words[0]!r} was not found", NOT_FOUND) from None
    except OSError as error:
        raise SpawnError(f"the command {words[0]!r} cannot be run: {error.strerror}", CANNOT_RUN) from None
    return received.wait(process)


def end_as(status: int) -> int:
    """The exit code of a wait status. When a signal ended the child, it ends this process too, so that whoever started
    it sees the same."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # the child dumped its core, if any
        if number not in {signal.SIGKILL, signal.SIGSTOP}:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
        return 128 + number
    return os.waitstatus_to_exitcode(status)
