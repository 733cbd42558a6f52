"""Run blocking work on its own thread, and wait for it on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from privyseal_backends.interface import ProcessRestartRequired

T = TypeVar("T")


class Abandoned:
    """A flag for work on a thread: its caller does not wait any more."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Set the flag."""
        self._event.set()

    def __bool__(self) -> bool:
        return self._event.is_set()


async def on_thread(work: Callable[[Abandoned], T], doing: str, timeout_s: float) -> T:
    """Return what `work` returns, or raise what it raises. Raises `ProcessRestartRequired` when it takes longer than
    `timeout_s` seconds: the thread may hang in the module, or wait for a thread that does.

    The thread is a daemon and not one of a pool: a module that hangs must neither occupy a place in the pool forever
    nor keep the process from ending. `work` gets a flag that is set when its caller does not wait any more.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    abandoned = Abandoned()

    def run() -> None:
        try:
            answer = work(abandoned)
        except BaseException as error:  # noqa: BLE001 - the caller gets it
            _tell(loop, done, error=error)
        else:
            _tell(loop, done, answer=answer)

    threading.Thread(target=run, name=f"privyseal-{doing.partition(' ')[0]}", daemon=True).start()
    try:
        return await asyncio.wait_for(done, timeout_s)
    except TimeoutError:
        raise ProcessRestartRequired(
            "module", f"it did not answer within {timeout_s:g} s when asked to {doing}", "check the module's own log"
        ) from None
    finally:
        abandoned.set()


def _tell(
    loop: asyncio.AbstractEventLoop,
    done: asyncio.Future[T],
    *,
    answer: T | None = None,
    error: BaseException | None = None,
) -> None:
    def settle() -> None:
        if done.done():
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(answer)  # type: ignore[arg-type]  # None is an answer of a T that is None

    with contextlib.suppress(RuntimeError):  # the loop is closed
        loop.call_soon_threadsafe(settle)
