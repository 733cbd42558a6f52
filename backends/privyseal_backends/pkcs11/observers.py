"""Those who want to know of a token's keys, each on its own event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from privyseal_backends.interface import BackendError
from privyseal_backends.pkcs11.token_key import TokenKey


@dataclass
class _Observer:
    loop: asyncio.AbstractEventLoop
    key: TokenKey
    on_change: Callable[[BackendError | None], None]
    last: tuple[type[BackendError], str] | None


class Observers:
    """Calls observers back when what callers of their key meet has changed. For one thread at a time."""

    def __init__(self) -> None:
        self._observers: list[_Observer] = []

    def add(
        self, key: TokenKey, on_change: Callable[[BackendError | None], None], problem: BackendError | None
    ) -> None:
        """Add an observer of a key, on the running event loop; it knows the problem already."""
        self._observers.append(_Observer(asyncio.get_running_loop(), key, on_change, _gist(problem)))

    def remove(self, key: TokenKey) -> None:
        """Remove the observers of a key."""
        self._observers = [each for each in self._observers if each.key is not key]

    def clear(self) -> None:
        """Remove all observers."""
        self._observers.clear()

    def notify(self, problem_of: Callable[[TokenKey], BackendError | None]) -> None:
        """Call back those whose key's problem is another one than the last."""
        for observer in self._observers:
            problem = problem_of(observer.key)
            if _gist(problem) != observer.last:
                observer.last = _gist(problem)
                with contextlib.suppress(RuntimeError):  # its loop is closed
                    observer.loop.call_soon_threadsafe(observer.on_change, problem)


def _gist(problem: BackendError | None) -> tuple[type[BackendError], str] | None:
    return None if problem is None else (type(problem), problem.message)
