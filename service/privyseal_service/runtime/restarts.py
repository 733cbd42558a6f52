"""When a worker that ended is started again, and when one that is silent counts as hung: pure rules over a clock."""

from __future__ import annotations

import random
from collections.abc import Callable

FIRST_DELAY_S = 0.2
LONGEST_DELAY_S = 30.0
HEALTHY_AFTER_S = 10.0


class Backoff:
    """The delays before restarts: none after a worker that served for a while, then growing, each with some jitter."""

    def __init__(self, jitter: Callable[[], float] = random.random) -> None:
        self._failures = 0
        self._jitter = jitter

    def after(self, lived_s: float) -> float:
        """Seconds to wait before the next start, after a worker that lived so long."""
        if lived_s >= HEALTHY_AFTER_S:
            self._failures = 0
        self._failures += 1
        if self._failures == 1:
            return 0.0
        delay_s: float = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(self._failures - 2, 10))
        return delay_s * (0.75 + 0.25 * self._jitter())


class HangWatch:
    """Tells a worker that says nothing. Looked at regularly: when the looks themselves come late, the whole machine or
    this process stood still, and the worker is not to blame."""

    def __init__(self, now_s: float, first_word_s: float) -> None:
        self._last_look_s = now_s
        self._until_s = now_s + first_word_s

    def heard(self, now_s: float, hang_after_s: float) -> None:
        """The worker said something."""
        self._until_s = now_s + hang_after_s

    def hangs(self, now_s: float, look_every_s: float) -> bool:
        """Whether it has been silent for too long by now."""
        late_s = now_s - self._last_look_s - 2 * look_every_s
        self._last_look_s = now_s
        if late_s > 0:
            self._until_s += late_s
        return now_s > self._until_s
