"""A token bucket: a rate, and a burst above it."""

from __future__ import annotations


class TokenBucket:
    """`rate_per_s` tokens come each second until there are `capacity`; a new bucket is full.

    It reads no clock: each `now_s` is a reading of one monotonic clock, and a reading below an earlier one adds
    nothing. For one thread at a time.
    """

    __slots__ = ("_capacity", "_filled_at_s", "_rate_per_s", "_tokens")

    def __init__(self, rate_per_s: float, capacity: float) -> None:
        self._rate_per_s, self._capacity = rate_per_s, capacity
        self._tokens = capacity
        self._filled_at_s: float | None = None

    def change(self, rate_per_s: float, capacity: float) -> None:
        """Continue with another rate and capacity; tokens above the capacity are lost."""
        self._rate_per_s, self._capacity = rate_per_s, capacity
        self._tokens = min(capacity, self._tokens)

    def wait_s(self, now_s: float) -> float:
        """Return the seconds until there is a token; 0 when there is one now."""
        self._fill(now_s)
        return max(0.0, (1.0 - self._tokens) / self._rate_per_s)

    def take(self) -> None:
        """Take one token, even one that is still to come: a later `wait_s` is longer by its share."""
        self._tokens -= 1.0

    def try_take(self, now_s: float) -> float:
        """Take a token and return 0, or take none and return the seconds until there is one."""
        wait_s = self.wait_s(now_s)
        if not wait_s:
            self.take()
        return wait_s

    def is_full(self, now_s: float) -> bool:
        """Return whether the bucket is as full as a new one."""
        self._fill(now_s)
        return self._tokens >= self._capacity

    def _fill(self, now_s: float) -> None:
        filled_at_s = now_s if self._filled_at_s is None else self._filled_at_s
        self._tokens = min(self._capacity, self._tokens + max(0.0, now_s - filled_at_s) * self._rate_per_s)
        self._filled_at_s = max(now_s, filled_at_s)
