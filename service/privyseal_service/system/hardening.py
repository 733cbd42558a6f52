"""Settings of the process: private files, no core dumps, no orphans, memory, and the event loop."""

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
    """Make this process's new files private to its user, and forbid core dumps: its memory contains PINs."""
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_DUMPABLE, 0, "forbid core dumps")


def limit_malloc_arenas() -> None:
    """Limit glibc's malloc to as many arenas as there are cores (mallopt(3)).

    By default it makes up to eight for each core, and threads that come and go leave freed memory in all of them: the
    memory of a service grows for hours.
    """
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - as below

        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has neither mallopt nor arenas
        if mallopt is not None:
            mallopt(_M_ARENA_MAX, max(2, len(os.sched_getaffinity(0))))


def exit_immediately(code: int) -> NoReturn:
    """End this process while a thread of it hangs inside a library: an orderly end would run the library's own cleanup
    under that thread."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def configure_grpc() -> None:
    """Set what gRPC's core reads from the environment, before its first use. Variables that are set already stay.

    The core writes nothing to standard error, since its lines have none of the formats of `[log]`. The thread that
    waits for a server's calls also waits for its connections, instead of the threads of an "event engine" that would
    wake it: 0.05 ms of CPU time and two wake-ups less for each call. A core that does not know the name ignores it.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_listener")


def run_service(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a coroutine on uvloop, which opens no io_uring unless the environment asks for it; the reasons are in
    docs/decisions/0008-uvloop.md."""
    os.environ.setdefault("UV_USE_IO_URING", "0")
    import uvloop  # noqa: PLC0415 - other commands do not need it

    return uvloop.run(work)


def die_with_parent(parent: int) -> bool:
    """Have the kernel kill this process when its parent ends. Returns False when the parent, whose process id is given,
    has ended already.

    The kernel watches the thread that started this process (prctl(2)), so start it from the main thread.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, "follow the end of the parent")
    return os.getppid() == parent


def pin_to_core(core: int) -> None:
    """Pin this process, and every thread that it starts later, to one core, with longer time slices (sched(7),
    SCHED_BATCH); only one of the two was no gain. Does nothing where the system has neither."""
    if sys.platform == "linux":
        os.sched_setaffinity(0, {core})
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _prctl(option: int, argument: int, purpose: str) -> None:
    if sys.platform == "linux":
        import ctypes  # noqa: PLC0415 - takes some milliseconds, and is needed only here

        if ctypes.CDLL(None, use_errno=True).prctl(option, argument, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), f"cannot {purpose}")
