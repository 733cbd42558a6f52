"""Metrics for Prometheus: the numbers of all processes as one page, over HTTP, on an address of its own.

Whoever asks is told numbers and nothing else, and is hardly listened to: one line of a request is looked at, of a few
connections at a time, for a few seconds. It runs where no call is served, beside the audit key, so it does no more.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from privyseal import __version__
from privyseal_service.system.addresses import split_address
from privyseal_service.system.sockets import ListenError
from privyseal_service.telemetry.metrics import BUCKET_NAMES, KNOWN, METRICS, SUM, Kind, Metric, Numbers, Series, add_up

if TYPE_CHECKING:
    from prometheus_client import Metric as Family

    from privyseal_service.config.metrics import MetricsConfig

_PREFIX = "privyseal_"
_NAMES = frozenset({"key", "sink"})
"""Labels whose values are names of the configuration."""

_MOST_REQUEST_BYTES = 8 * 1024
_MOST_AT_ONCE = 16
_PATIENCE_S = 5.0
_FRESH_S = 1.0
"""How long a page is shown again: a worker says its numbers no more often."""

_REQUEST = re.compile(rb"([A-Z]{1,16}) (\S{1,2048}) HTTP/1\.[01]\r\n")
_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def page(numbers: Numbers, *, names: bool) -> bytes:
    """The numbers in Prometheus' text format, 0.0.4. Without `names`, keys and places are summed up and not named."""
    # Only where somebody asks: a start without metrics does not wait for it.
    from prometheus_client import generate_latest  # noqa: PLC0415
    from prometheus_client.registry import Collector  # noqa: PLC0415

    class Page(Collector):
        def collect(self) -> Iterator[Family]:
            return _families(add_up([KNOWN, numbers]), names=names)

    return generate_latest(Page())


def _families(numbers: Numbers, *, names: bool) -> Iterator[Family]:
    by_metric: dict[str, dict[Series, float]] = defaultdict(dict)
    for series, value in numbers.items():
        by_metric[series[0]][series[1:]] = value
    yield _family(Metric("info", Kind.GAUGE, "The version that runs.", ("version",)), {(__version__,): 1.0}, names=True)
    for metric in METRICS.values():
        yield _family(metric, by_metric[metric.name], names=names)


def _family(metric: Metric, numbers: Numbers, *, names: bool) -> Family:
    from prometheus_client.core import (  # noqa: PLC0415 - as above
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
    )

    labels = [label for label in metric.labels if names or label not in _NAMES]
    values = _without_names(metric, numbers) if len(labels) < len(metric.labels) else numbers
    name = _PREFIX + metric.name
    if metric.kind is Kind.HISTOGRAM:
        histogram = HistogramMetricFamily(name, metric.help, labels=labels)
        for each in dict.fromkeys(series[:-1] for series in values):
            histogram.add_metric(each, _buckets(values, each), values.get((*each, SUM), 0.0))
        return histogram
    family = (CounterMetricFamily if metric.kind is Kind.COUNTER else GaugeMetricFamily)(
        name, metric.help, labels=labels
    )
    for each, value in values.items():
        family.add_metric(each, value)
    return family


def _without_names(metric: Metric, numbers: Numbers) -> Numbers:
    """The numbers of a metric without the labels that name something, summed up."""
    kept = [place for place, label in enumerate(metric.labels) if label not in _NAMES]
    return add_up({tuple(series[place] for place in kept): value} for series, value in numbers.items())


def _buckets(values: Numbers, labels: Series) -> list[tuple[str, float]]:
    """The buckets of a histogram, each with all that are below it, as Prometheus wants them."""
    found, total = list[tuple[str, float]](), 0.0
    for name in BUCKET_NAMES:
        total += values.get((*labels, name), 0.0)
        found.append((name, total))
    return found


class MetricsPage:
    """Shows the numbers at HTTP://ADDRESS/metrics. `start` and `close` it on one event loop."""

    def __init__(self, config: MetricsConfig, numbers: Callable[[], Numbers], *, share_port: bool) -> None:
        self._config = config
        self._numbers = numbers
        self._share_port = share_port
        self._shown: tuple[float, bytes] = (float("-inf"), b"")
        self._talks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    async def start(self) -> str:
        """Listen; the address, with the real port. Raises ListenError."""
        host, port = split_address(self._config.address)
        try:
            self._server = await asyncio.start_server(
                self._accept, host, port, limit=_MOST_REQUEST_BYTES, reuse_port=self._share_port
            )
        except OSError:
            raise ListenError.at(self._config.address) from None
        return f"{self._config.address.rpartition(':')[0]}:{self._server.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        """Listen no more."""
        self._server.close()
        for talk in self._talks:
            talk.cancel()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._talks) >= _MOST_AT_ONCE:
            writer.close()
            return
        talk = asyncio.create_task(self._answer(reader, writer))
        self._talks.add(talk)
        talk.add_done_callback(self._talks.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # Who says nothing or too much is not answered.
            with suppress(OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                await asyncio.wait_for(self._converse(reader, writer), _PATIENCE_S)
        finally:
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        asked = _REQUEST.match(head)
        if asked is None:
            status, body = "400 Bad Request", b""
        elif asked[1] not in {b"GET", b"HEAD"}:
            status, body = "405 Method Not Allowed", b""
        elif asked[2] != b"/metrics":
            status, body = "404 Not Found", b""
        else:
            status, body = "200 OK", self._page()
        said = f"HTTP/1.1 {status}\r\nContent-Type: {_TYPE}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(said.encode() + (b"" if asked and asked[1] == b"HEAD" else body))
        await writer.drain()

    def _page(self) -> bytes:
        since_s, shown = self._shown
        if time.monotonic() - since_s >= _FRESH_S:
            shown = page(self._numbers(), names=self._config.names)
            self._shown = (time.monotonic(), shown)
        return shown
