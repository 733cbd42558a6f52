"""A rate limit for each caller, for what no grant limits."""

from __future__ import annotations

from privyseal_backends.token_bucket import TokenBucket

_MOST_CALLERS = 1_000
_OTHERS = "(others)"


class CallerBuckets:
    """A token bucket for each caller. Beyond a thousand callers at a time, the others share one bucket.

    It reads no clock: each `now_s` is a reading of one monotonic clock. For one thread at a time.
    """

    def __init__(self, *, per_s: float, at_once: float) -> None:
        self._per_s, self._at_once = per_s, at_once
        self._buckets: dict[str, TokenBucket] = {}

    def wait_s(self, caller: str, now_s: float) -> float:
        """Count a request of the caller and return 0, or return the seconds until one is allowed and count nothing."""
        if caller not in self._buckets and len(self._buckets) >= _MOST_CALLERS:
            self._buckets = {name: each for name, each in self._buckets.items() if not each.is_full(now_s)}
        name = caller if caller in self._buckets or len(self._buckets) < _MOST_CALLERS else _OTHERS
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = TokenBucket(self._per_s, self._at_once)
        return bucket.try_take(now_s)
