"""Run what blocks on a thread of its own, and wait for it from the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

from privyseal_backends.interface import LostError

T = TypeVar("T")


class Abandoned:
    """Tells work on a thread that nobody waits for it any more."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Nobody waits any more."""
        self._event.set()

    def __bool__(self) -> bool:
        return self._event.is_set()


async def on_thread(work: Callable[[Abandoned], T], doing: str, timeout_s: float) -> T:
    """What `work` returns or raises. Raises `LostError` when it is not done within `timeout_s` seconds: the thread may
    hang in the module, or wait for one that does.

    The thread is a daemon and not of an executor's pool: a module that hangs must neither take a place in the pool for
    ever nor keep the process from ending. `work` is told when nobody waits for it.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()
    abandoned = Abandoned()

    def run() -> None:
        try:
            answer = work(abandoned)
        except BaseException as error:  # noqa: BLE001 - it goes on to the caller
            _tell(loop, done, error=error)
        else:
            _tell(loop, done, answer=answer)

    threading.Thread(target=run, name=f"privyseal-{doing.partition(' ')[0]}", daemon=True).start()
    try:
        return await asyncio.wait_for(done, timeout_s)
    except TimeoutError:
        raise LostError(
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

    # A closed loop has nobody waiting in it.
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(settle)
