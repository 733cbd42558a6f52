"""When a worker that ended is started again, and when one that is silent counts as hung: pure rules over a clock."""

from __future__ import annotations

from privyseal_backends.backoff import Backoff

BACKOFF = Backoff(0.2, 30.0, jitter=0.25)
HEALTHY_AFTER_S = 10.0


class RestartDelays:
    """The delays before one worker's restarts: none after the first failure, then those of `BACKOFF`. A worker that
    served for `HEALTHY_AFTER_S` starts the count again."""

    def __init__(self) -> None:
        self._failures = 0

    def after(self, lived_s: float) -> float:
        """Return the seconds to wait before the next start, after a worker that lived for `lived_s` seconds."""
        if lived_s >= HEALTHY_AFTER_S:
            self._failures = 0
        self._failures += 1
        return BACKOFF.delay_s(self._failures - 1) if self._failures > 1 else 0.0


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
