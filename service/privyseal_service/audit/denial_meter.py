"""Denials that come faster than they are worth writing one by one: counted per caller, never dropped. No I/O."""

from __future__ import annotations

from collections import Counter

from privyseal_backends.token_bucket import TokenBucket
from privyseal_service.audit.record import DenialSummary

OTHERS = "(others)"
"""Stands for the callers of a summary beyond the number that is counted separately."""

_KINDS = 15


class _Bucket(TokenBucket):
    """A caller's token bucket, and what was counted since its last summary."""

    def __init__(self, rate_per_s: float, capacity: float) -> None:
        super().__init__(rate_per_s, capacity)
        self.counts: Counter[str] = Counter()
        self.first_us = self.last_us = 0


class DenialMeter:
    """Decides for each denial whether it gets a record of its own; the rest becomes summaries.

    A caller has `rate` records a second and `burst` at once. At most `callers` are counted separately at a time; the
    others share one budget and one summary under the name `OTHERS`. Asking `due` every `window_s` seconds, and `flush`
    at the end, gets summaries whose counts, with the denials that were let through, are all denials. Clocks are passed
    in: `now_s` runs on, `time_us` is the record's time (microseconds since 1970). For one thread at a time.
    """

    def __init__(self, *, rate: float = 10.0, burst: float = 20.0, window_s: float = 1.0, callers: int = 1_000) -> None:
        if rate <= 0 or burst < 1 or window_s <= 0 or callers < 1:
            raise ValueError("rate and window must be above 0, burst and callers at least 1")
        self._rate, self._burst, self._window_s, self._callers = rate, burst, window_s, callers
        self._buckets: dict[str, _Bucket] = {}
        self._next_s: float | None = None

    def admit(self, caller: str, kind: str, *, now_s: float, time_us: int) -> bool:
        """Whether a denial is to be recorded by itself; otherwise it has been counted.

        `kind` is its operation and code, as `sign-checksum PERMISSION_DENIED`.
        """
        bucket = self._bucket(caller)
        if not bucket.try_take(now_s):
            return True
        if not bucket.counts:
            bucket.first_us = time_us
        bucket.last_us = time_us
        bucket.counts[kind if kind in bucket.counts or len(bucket.counts) < _KINDS else OTHERS] += 1
        if self._next_s is None:
            self._next_s = now_s + self._window_s
        return False

    def due(self, *, now_s: float, time_us: int) -> list[DenialSummary]:
        """The summaries to be written now: all that was counted, once a window has passed since the first of it."""
        if self._next_s is None or now_s < self._next_s:
            self._forget(now_s)
            return []
        return self.flush(now_s=now_s, time_us=time_us)

    def flush(self, *, now_s: float, time_us: int) -> list[DenialSummary]:
        """The summaries of all that was counted, whatever the time."""
        self._next_s = None
        summaries = []
        for caller, bucket in self._buckets.items():
            if bucket.counts:
                total = sum(bucket.counts.values())
                counts = dict(bucket.counts)
                summaries.append(DenialSummary(time_us, caller, total, bucket.first_us, bucket.last_us, counts))
                bucket.counts = Counter()
        self._forget(now_s)
        return summaries

    def _forget(self, now_s: float) -> None:
        """Drop the buckets that know nothing that a new one would not."""
        for caller, bucket in list(self._buckets.items()):
            if not bucket.counts and bucket.is_full(now_s):
                del self._buckets[caller]

    def restore(self, summaries: list[DenialSummary]) -> None:
        """Take back summaries that could not be written; they come again with the next ones."""
        for summary in summaries:
            bucket = self._bucket(summary.caller)
            bucket.first_us = min(summary.first_us, bucket.first_us) if bucket.counts else summary.first_us
            bucket.last_us = max(summary.last_us, bucket.last_us)
            for kind, count in summary.counts.items():
                bucket.counts[kind if kind in bucket.counts or len(bucket.counts) < _KINDS else OTHERS] += count
        if summaries and self._next_s is None:
            self._next_s = 0.0

    def _bucket(self, caller: str) -> _Bucket:
        name = caller if caller in self._buckets or len(self._buckets) < self._callers else OTHERS
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = _Bucket(self._rate, self._burst)
        return bucket
