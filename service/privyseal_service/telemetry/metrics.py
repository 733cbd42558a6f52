"""Metrics: their names, and counters of this process. No metrics library is used here.

A series is a metric's name and the values of its labels. The values come from fixed lists or from the configuration,
not from callers, so that callers cannot create series. Numbers of several processes are added up.
"""

from __future__ import annotations

import enum
import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from privyseal_service.domain.decisions import Decision

Series: TypeAlias = "tuple[str, ...]"
Numbers: TypeAlias = "Mapping[Series, float]"


class Kind(enum.Enum):
    """How a metric changes, and whether its value outlives its process."""

    COUNTER = "counter"
    HISTOGRAM = "histogram"
    GAUGE = "gauge"
    """A value of now, which ends with its process."""


@dataclass(frozen=True)
class Metric:
    """A metric and the names of its labels. A histogram has one label more, the last: the bucket's name, or `SUM`."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


SUM = "sum"
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BUCKET_NAMES = (*map(str, BUCKETS_S), "+Inf")

METRICS: Mapping[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("calls", Kind.COUNTER, "Calls that ended, by what was asked and the gRPC code.", ("operation", "code")),
        Metric("refusals", Kind.COUNTER, "Calls that ended with an error, by the reason in it.", ("reason",)),
        Metric("results", Kind.COUNTER, "Signatures, wrapped and unwrapped keys that left.", ("key",)),
        Metric("queue_seconds", Kind.HISTOGRAM, "Time that calls waited for the key store.", ("operation",)),
        Metric("store_seconds", Kind.HISTOGRAM, "Time that calls were in the key store.", ("operation",)),
        Metric("limits", Kind.COUNTER, "Decisions of rates and quotas on calls.", ("outcome",)),
        Metric("reloads", Kind.COUNTER, "Readings of the configuration.", ("result",)),
        Metric("tls_reloads", Kind.COUNTER, "Changes of listeners' files, counted in each worker.", ("result",)),
        Metric("issuer_refreshes", Kind.COUNTER, "Readings of issuers' keys, counted in each worker.", ("result",)),
        Metric("worker_ends", Kind.COUNTER, "Workers that ended without a request."),
        Metric("workers", Kind.GAUGE, "Workers, by how they are.", ("state",)),
        Metric("ready", Kind.GAUGE, "Workers that are ready: they listen, can record, and a key serves."),
        Metric("keys", Kind.GAUGE, "Keys by state, counted in each worker.", ("key", "state")),
        Metric("queue_inputs", Kind.GAUGE, "Inputs that wait for a key store, and that are in it.", ("place",)),
        Metric("calls_in_flight", Kind.GAUGE, "Calls that have begun and not ended."),
        Metric("audit_writable", Kind.GAUGE, "Workers that can put decisions on record."),
        Metric("audit_tree_grows", Kind.GAUGE, "Whether the sequencer takes up what is on record: 1 or 0."),
        Metric("audit_sink_waiting", Kind.GAUGE, "Checkpoints that wait to leave the host.", ("sink",)),
        Metric("audit_sink_failing", Kind.GAUGE, "Places for checkpoints that did not take the last one.", ("sink",)),
        Metric("problems", Kind.GAUGE, "Things that are wrong and do not stop the service; see the health detail."),
    )
}

RELOADS: Series = ("reloads", "ok")
RELOAD_FAILURES: Series = ("reloads", "failed")
TLS_RELOADS: Series = ("tls_reloads", "ok")
TLS_RELOAD_FAILURES: Series = ("tls_reloads", "failed")
ISSUER_REFRESHES: Series = ("issuer_refreshes", "ok")
ISSUER_FAILURES: Series = ("issuer_refreshes", "failed")
WITHIN_LIMITS: Series = ("limits", "allowed")
OVER_LIMITS: Series = ("limits", "exceeded")
COUNTING_FAILURES: Series = ("limits", "not-counted")
"""Calls that could not be counted; whether they are allowed is a setting."""
WORKER_ENDS: Series = ("worker_ends",)

KNOWN: Numbers = dict.fromkeys(
    (
        *(RELOADS, RELOAD_FAILURES, TLS_RELOADS, TLS_RELOAD_FAILURES, ISSUER_REFRESHES, ISSUER_FAILURES),
        *(WITHIN_LIMITS, OVER_LIMITS, COUNTING_FAILURES, WORKER_ENDS),
    ),
    0.0,
)
"""Counters that the page shows from the start, so that an alert on an increase sees the first one."""


class Counters:
    """Counters of this process, which only grow. Safe to use from any thread."""

    def __init__(self) -> None:
        self._counts: defaultdict[Series, float] = defaultdict(float)
        self._lock = threading.Lock()

    def add(self, series: Series, amount: float = 1) -> None:
        """Add to a counter."""
        with self._lock:
            self._counts[series] += amount

    def count_call(self, decision: Decision) -> None:
        """Count a call that ended, and the times that its results took."""
        operation, counts = decision.operation, self._counts
        with self._lock:
            counts["calls", operation, decision.code.name] += 1
            if decision.reason:
                counts["refusals", decision.reason] += 1
            if decision.signatures:
                counts["results", decision.key] += decision.signatures
                _observe(counts, "queue_seconds", operation, decision.queued_s)
                _observe(counts, "store_seconds", operation, decision.store_s)

    def snapshot(self) -> dict[Series, float]:
        """Return all counters."""
        with self._lock:
            return dict(self._counts)


def _observe(counts: defaultdict[Series, float], name: str, label: str, seconds: float) -> None:
    counts[name, label, BUCKET_NAMES[bisect_left(BUCKETS_S, seconds)]] += 1
    counts[name, label, SUM] += seconds


def sum_numbers(parts: Iterable[Numbers]) -> dict[Series, float]:
    """Add up the numbers of several processes."""
    total: defaultdict[Series, float] = defaultdict(float)
    for numbers in parts:
        for series, value in numbers.items():
            total[series] += value
    return dict(total)


def without_gauges(numbers: Numbers) -> dict[Series, float]:
    """Return the numbers that outlive their process: counters and histograms."""
    return {series: value for series, value in numbers.items() if METRICS[series[0]].kind is not Kind.GAUGE}


def is_series(series: Series) -> bool:
    """Return whether there is such a metric, with so many labels, and such a bucket."""
    metric = METRICS.get(series[0]) if series else None
    if metric is None:
        return False
    if metric.kind is Kind.HISTOGRAM:
        return len(series) == len(metric.labels) + 2 and series[-1] in (*BUCKET_NAMES, SUM)
    return len(series) == len(metric.labels) + 1
