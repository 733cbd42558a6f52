"""The share of a key store's request quota that one process may use."""

from __future__ import annotations

from privyseal_backends.interface import BusyError
from privyseal_backends.token_bucket import TokenBucket


class Quota:
    """`rate_per_s` requests a second, and a burst of a tenth of a second's worth (at least one).

    So any span of `t` seconds sees at most `rate_per_s * t` requests and a tenth of `rate_per_s` more. It reads no
    clock: times are readings of `time.monotonic()`.
    """

    def __init__(self, rate_per_s: float) -> None:
        self._rate_per_s = rate_per_s
        self._bucket = TokenBucket(rate_per_s, _burst(rate_per_s))

    def share(self, processes: int) -> None:
        """Continue with an equal part of the rate, one of `processes` that have a quota each."""
        rate_per_s = self._rate_per_s / max(1, processes)
        self._bucket.change(rate_per_s, _burst(rate_per_s))

    def reserve(self, now_s: float, deadline_s: float) -> float:
        """Reserve one request, and return the seconds to wait before it is sent; callers are served in order.

        Raises `BusyError` immediately, and reserves nothing, when the wait would last until the deadline or longer.
        """
        wait_s = self._bucket.wait_s(now_s)
        if wait_s and now_s + wait_s >= deadline_s:
            raise BusyError(
                "quota",
                "the configured quota of requests is used up until after the deadline",
                "ask again later, or raise quota_per_s with the key store's own quota",
                retry_after_s=wait_s,
            )
        self._bucket.take()
        return wait_s


def _burst(rate_per_s: float) -> float:
    return max(1.0, rate_per_s / 10)
