"""When a call is made again after an answer that says that it may go well in a moment: until its deadline, with jitter.

gRPC itself repeats a call that the network lost, five times in some two seconds. This is for what lasts longer: a key
store that is being mended, a service that is started again, a queue that is full. Signing twice does no harm.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterable, Sequence

from privyseal.errors import Code, ServiceError

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 1.0
_FIRST_PAUSE_WHEN_BUSY_S, _LONGEST_PAUSE_WHEN_BUSY_S = 0.5, 8.0
"""Too much was asked of the service, so asking again soon would be more of that."""


class Patience:
    """The patience of one call. `known` is whether the service has ever answered this client: one that never did may be
    at another address altogether, which whoever waits is to hear soon."""

    def __init__(self, timeout_s: float, *, known: bool) -> None:
        self._deadline_s = time.monotonic() + timeout_s
        self._known = known
        self._attempts = 0
        self._met: ServiceError | None = None

    @property
    def remaining_s(self) -> float:
        """Seconds that are left for an attempt: never none, so that gRPC says itself when time is up."""
        return max(self._deadline_s - time.monotonic(), 0.001)

    def last_word(self, error: ServiceError) -> ServiceError:
        """What to tell of a call that ends with this error: why it was not served before its time was up, where that is
        known, and not that it was up."""
        return self._met if error.code is Code.DEADLINE_EXCEEDED and self._met is not None else error

    def pause_s(self, error: ServiceError) -> float | None:
        """Seconds to wait before the next attempt; None where none would help, or none is left."""
        if not self._may_pass(error):
            return None
        self._met = error
        return self._pause(error.details.retry_after_s or 0.0, busy=error.code is Code.RESOURCE_EXHAUSTED)

    def pause_of_parts_s(self, errors: Iterable[object]) -> float | None:
        """The same for checksums of a batch that met errors which may pass: these come without details."""
        busy = any(isinstance(each, ServiceError) and each.code is Code.RESOURCE_EXHAUSTED for each in errors)
        return self._pause(0.0, busy=busy)

    def _pause(self, told_s: float, *, busy: bool) -> float | None:
        first_s = _FIRST_PAUSE_WHEN_BUSY_S if busy else _FIRST_PAUSE_S
        longest_s = _LONGEST_PAUSE_WHEN_BUSY_S if busy else _LONGEST_PAUSE_S
        own_s = min(longest_s, first_s * 2.0 ** min(self._attempts, 16))
        self._attempts += 1
        wait_s = max(told_s, max(told_s, own_s) * random.uniform(0.75, 1.25))  # noqa: S311 - spreads the load
        return wait_s if wait_s < self._deadline_s - time.monotonic() else None

    def _may_pass(self, error: ServiceError) -> bool:
        if error.details.retry_after_s is not None:
            return error.code in {Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED}
        return error.code is Code.UNAVAILABLE and self._known


def passing(results: Sequence[object]) -> list[int]:
    """The places of those checksums of a batch that were not signed and may be in a moment."""
    codes = {Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED}
    return [place for place, each in enumerate(results) if isinstance(each, ServiceError) and each.code in codes]
