"""A token bucket that keeps one process under its share of a quota of requests a second."""

from __future__ import annotations

from privyseal_backends.interface import BusyError


class TokenBucket:
    """`rate_per_s` tokens come each second; a tenth of a second's worth (at least one) may be saved up.

    So any span of `t` seconds sees at most `rate_per_s * t` requests and a tenth of `rate_per_s` more. It reads no
    clock: times are readings of `time.monotonic()` that the caller gives.
    """

    def __init__(self, rate_per_s: float) -> None:
        self._quota_per_s = rate_per_s
        self._rate_per_s = rate_per_s
        self._capacity = max(1.0, rate_per_s / 10)
        self._tokens = self._capacity
        self._filled_at_s: float | None = None

    def share(self, processes: int) -> None:
        """Go on with an equal part of the rate, among so many processes that have one each."""
        self._rate_per_s = self._quota_per_s / max(1, processes)
        self._capacity = max(1.0, self._rate_per_s / 10)
        self._tokens = min(self._capacity, self._tokens)

    def reserve(self, now_s: float, deadline_s: float) -> float:
        """Take a token, and return the seconds to wait until it is there; callers are served in order.

        Raises `BusyError` at once, and takes none, when it would come at the deadline or later.
        """
        if self._filled_at_s is not None:
            gained = (now_s - self._filled_at_s) * self._rate_per_s
            self._tokens = min(self._capacity, self._tokens + gained)
        self._filled_at_s = now_s
        wait_s = max(0.0, (1.0 - self._tokens) / self._rate_per_s)
        if wait_s and now_s + wait_s >= deadline_s:
            raise BusyError(
                "quota",
                "the configured quota of requests is used up until after the deadline",
                "ask again later, or raise quota_per_s with the key store's own quota",
                retry_after_s=wait_s,
            )
        self._tokens -= 1.0
        return wait_s
