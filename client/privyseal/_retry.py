"""Which failed calls are retried and when: until the call's deadline, with growing pauses and jitter.

gRPC itself retries a call that the network lost, five times in some two seconds. This is for failures that last longer:
a key store that recovers, a service that restarts, a full queue. Signing twice does no harm.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence

from privyseal.errors import Code, ServiceError

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 1.0
_FIRST_PAUSE_WHEN_BUSY_S, _LONGEST_PAUSE_WHEN_BUSY_S = 0.5, 8.0
"""For an overloaded service, which an early retry would only load more."""


class RetryPolicy:
    """The retries of one call. `known` is whether the service has ever answered this client: if not, its address may be
    wrong, which the user should learn soon."""

    def __init__(self, timeout_s: float, *, known: bool) -> None:
        self._deadline_s = time.monotonic() + timeout_s
        self._known = known
        self._attempts = 0
        self._retried: ServiceError | None = None

    @property
    def remaining_s(self) -> float:
        """The seconds that are left for an attempt, never 0, so that gRPC itself reports the end of the deadline."""
        return max(self._deadline_s - time.monotonic(), 0.001)

    def final_error(self, error: ServiceError) -> ServiceError:
        """Return the error of a call that ends with this one. At the end of the deadline, that is the last error that
        was retried, since it has the cause."""
        return self._retried if error.code is Code.DEADLINE_EXCEEDED and self._retried is not None else error

    def pause_s(self, error: ServiceError) -> float | None:
        """Return the seconds to wait before the next attempt; None where it would not help, or no time is left."""
        if not self._is_retried(error):
            return None
        self._retried = error
        return self._pause(error.details.retry_after_s or 0.0, busy=error.code is Code.RESOURCE_EXHAUSTED)

    def pause_of_parts_s(self, errors: Iterable[object]) -> float | None:
        """Return the same for checksums of a batch that failed with errors to retry; these have no details."""
        busy = any(isinstance(each, ServiceError) and each.code is Code.RESOURCE_EXHAUSTED for each in errors)
        return self._pause(0.0, busy=busy)

    def _pause(self, asked_s: float, *, busy: bool) -> float | None:
        first_s = _FIRST_PAUSE_WHEN_BUSY_S if busy else _FIRST_PAUSE_S
        longest_s = _LONGEST_PAUSE_WHEN_BUSY_S if busy else _LONGEST_PAUSE_S
        own_s = min(longest_s, first_s * 2.0 ** min(self._attempts, 16))
        self._attempts += 1
        wait_s = max(asked_s, max(asked_s, own_s) * random.uniform(0.75, 1.25))  # noqa: S311 - spreads the load
        return wait_s if wait_s < self._deadline_s - time.monotonic() else None

    def _is_retried(self, error: ServiceError) -> bool:
        if error.details.retry_after_s is not None:
            return error.code in {Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED}
        return error.code is Code.UNAVAILABLE and self._known


def retryable(results: Sequence[object]) -> list[int]:
    """Return the indexes of the checksums of a batch that were not signed, and whose errors are retried."""
    codes = {Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED}
    return [place for place, each in enumerate(results) if isinstance(each, ServiceError) and each.code in codes]
