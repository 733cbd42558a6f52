"""When a worker that ended is started again, and when a silent worker counts as hung. No I/O; clocks are passed in."""

from __future__ import annotations

from privyseal_backends.backoff import Backoff

BACKOFF = Backoff(0.2, 30.0, jitter=0.25)
HEALTHY_AFTER_S = 10.0


class RestartDelays:
    """The delays before one worker's restarts: none after the first failure, then those of `BACKOFF`.

    A worker that served for `HEALTHY_AFTER_S` resets the count. A slow start does not: on a busy machine a worker may
    take longer than that only to fail.
    """

    def __init__(self) -> None:
        self._failures = 0

    def after(self, served_s: float) -> float:
        """Return the seconds to wait before the next start, after a worker that served for `served_s` seconds."""
        if served_s >= HEALTHY_AFTER_S:
            self._failures = 0
        self._failures += 1
        return BACKOFF.delay_s(self._failures - 1) if self._failures > 1 else 0.0


class HangDetector:
    """Detects a worker that sends no reports. Check it regularly: when the checks themselves come late, the machine or
    this process stood still, and the worker gets that time too."""

    def __init__(self, now_s: float, first_report_s: float) -> None:
        self._checked_s = now_s
        self._deadline_s = now_s + first_report_s

    def reported(self, now_s: float, hang_after_s: float) -> None:
        """Record that a report came; the next one is due within `hang_after_s`."""
        self._deadline_s = now_s + hang_after_s

    def is_hung(self, now_s: float, check_every_s: float) -> bool:
        """Return whether the report is overdue."""
        late_s = now_s - self._checked_s - 2 * check_every_s
        self._checked_s = now_s
        if late_s > 0:
            self._deadline_s += late_s
        return now_s > self._deadline_s
