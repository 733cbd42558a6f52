"""How often a caller without any grant may ask what needs none: each answer is a record, and a full disk stops signing.
No I/O."""

from __future__ import annotations

QUESTIONS_PER_S = 10.0
QUESTIONS_AT_ONCE = 20.0
_MOST_CALLERS = 1_000
_OTHERS = "(others)"


class Strangers:
    """A token bucket for each caller without a grant; beyond a thousand of them at a time, the others share one.

    Clocks are passed in: `now_s` runs on. For one thread.
    """

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}

    def wait_s(self, caller: str, now_s: float) -> float:
        """Count a question; 0 where it may be answered, else the seconds until one may be."""
        if caller not in self._left and len(self._left) >= _MOST_CALLERS:
            self._forget(now_s)
        name = caller if caller in self._left or len(self._left) < _MOST_CALLERS else _OTHERS
        left = self._now(name, now_s)
        may = left >= 1
        self._left[name] = (left - may, now_s)
        return 0.0 if may else (1 - left) / QUESTIONS_PER_S

    def _now(self, name: str, now_s: float) -> float:
        left, since_s = self._left.get(name, (QUESTIONS_AT_ONCE, now_s))
        return min(QUESTIONS_AT_ONCE, left + max(0.0, now_s - since_s) * QUESTIONS_PER_S)

    def _forget(self, now_s: float) -> None:
        """Drop the buckets that are full again."""
        self._left = {name: each for name, each in self._left.items() if self._now(name, now_s) < QUESTIONS_AT_ONCE}
