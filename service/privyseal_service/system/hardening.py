"""The process around every command: private files, no core dumps with PINs in them, and no orphans."""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Coroutine

_T = TypeVar("_T")

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_M_ARENA_MAX = -8


def harden() -> None:
    """Files of this process are private to its user, and its memory (PINs among it) is never written out."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_DUMPABLE, 0, "forbid core dumps")


def keep_memory_together() -> None:
    """Have glibc's malloc make no more arenas than there are cores (mallopt(3)). By default it makes up to eight for
    each, and threads that come and go leave their freed memory in all of them: what a service holds grows for hours."""
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - as below

        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none, and no arenas either
        if mallopt is not None:
            mallopt(_M_ARENA_MAX, max(2, len(os.sched_getaffinity(0))))


def end_at_once(code: int) -> NoReturn:
    """End this process although a thread of it is inside a library and does not come out: an orderly end would run the
    library's own end under that thread."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def set_up_grpc() -> None:
    """Tell gRPC's core, before it is first used, what it reads from the environment; what is set there already stays.

    It says nothing by itself on standard error: that would be in none of the forms that [log] offers. And the thread
    that waits for a server's calls waits for its connections too, in place of the threads of an "event engine" that
    would wake it: 0.05 ms of CPU time and two wake-ups a call less.
    A core that does not know that name goes on as it is.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")


def run_service(work: Coroutine[Any, Any, _T]) -> _T:
    """Run the work of a process that serves calls on uvloop, which is kept from opening an io_uring unless the
    environment says otherwise; docs/decisions/0008-uvloop.md says why."""
    os.environ.setdefault("UV_USE_IO_URING", "0")
    import uvloop  # noqa: PLC0415 - of no use to other commands

    return uvloop.run(work)


def die_with(parent: int) -> bool:
    """Have the kernel end this process when its parent ends, however that comes. False when the parent, whose process
    id is given, is gone already.

    The kernel means the thread that started this process (prctl(2)): start it from the main one.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, "follow the end of the parent")
    return os.getppid() == parent


def keep_to(core: int) -> None:
    """Have the scheduler keep this process, and every thread that it starts from now on, on one core, and give it
    longer turns (sched(7), SCHED_BATCH): either alone was no gain. Where the system has neither, nothing changes."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, {core})
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _prctl(option: int, argument: int, doing: str) -> None:
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - costs some milliseconds, and only here

        if ctypes.CDLL(None, use_errno=True).prctl(option, argument, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), f"cannot {doing}")
