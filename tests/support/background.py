"""Work that goes on, on threads of its own, for as long as a block lasts."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import TypeVar

B = TypeVar("B", bound="Background")


class Background:
    """A context manager; what it runs ends soon after `ending` is set."""

    def __init__(self, works: Iterable[Callable[[], None]]) -> None:
        self.ending = threading.Event()
        self._threads = [threading.Thread(target=work, daemon=True) for work in works]

    def __enter__(self: B) -> B:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        for thread in self._threads:
            thread.join(60)
