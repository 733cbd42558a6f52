"""How often each caller may do what no grant limits: a token bucket for each. No I/O."""

from __future__ import annotations

_MOST_CALLERS = 1_000
_OTHERS = "(others)"


class CallerBuckets:
    """So many at once for each caller, and so many a second; beyond a thousand callers at a time, the others share one.

    Clocks are passed in: `now_s` runs on. For one thread.
    """

    def __init__(self, *, per_s: float, at_once: float) -> None:
        self._per_s, self._at_once = per_s, at_once
        self._left: dict[str, tuple[float, float]] = {}

    def wait_s(self, caller: str, now_s: float) -> float:
        """Count one; 0 where it may be done, else the seconds until one may be."""
        if caller not in self._left and len(self._left) >= _MOST_CALLERS:
            self._forget(now_s)
        name = caller if caller in self._left or len(self._left) < _MOST_CALLERS else _OTHERS
        left = self._now(name, now_s)
        may = left >= 1
        self._left[name] = (left - may, now_s)
        return 0.0 if may else (1 - left) / self._per_s

    def _now(self, name: str, now_s: float) -> float:
        left, since_s = self._left.get(name, (self._at_once, now_s))
        return min(self._at_once, left + max(0.0, now_s - since_s) * self._per_s)

    def _forget(self, now_s: float) -> None:
        """Drop the buckets that are full again."""
        self._left = {name: each for name, each in self._left.items() if self._now(name, now_s) < self._at_once}
