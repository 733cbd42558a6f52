"""Metrics for Prometheus: the numbers of all processes as one page, over HTTP, on an address of its own.

The server runs in the supervisor, beside the audit key, so it does little: it reads the first line of a request, serves
a few connections at a time, each for a few seconds, and answers only numbers.
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
from privyseal_service.telemetry.metrics import (
    BUCKET_NAMES,
    KNOWN,
    METRICS,
    SUM,
    Kind,
    Metric,
    Numbers,
    Series,
    sum_numbers,
)

if TYPE_CHECKING:
    from prometheus_client import Metric as Family

    from privyseal_service.config.metrics import MetricsConfig

_PREFIX = "privyseal_"
_NAMES = frozenset({"key", "sink"})
"""Labels whose values are names of the configuration."""

_MAX_REQUEST_BYTES = 8 * 1024
_MAX_CONNECTIONS = 16
_TIMEOUT_S = 5.0
_CACHE_S = 1.0
"""How long a page is reused: workers report their numbers no more often."""

_REQUEST = re.compile(rb"([A-Z]{1,16}) (\S{1,2048}) HTTP/1\.[01]\r\n")
_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(numbers: Numbers, *, names: bool) -> bytes:
    """Render the numbers in Prometheus' text format, 0.0.4. Without `names`, series that differ only in the name of a
    key or a sink are added up."""
    # Imported only when a page is rendered: a start does not wait for it.
    from prometheus_client import generate_latest  # noqa: PLC0415
    from prometheus_client.registry import Collector  # noqa: PLC0415

    class Page(Collector):
        def collect(self) -> Iterator[Family]:
            return _families(sum_numbers([KNOWN, numbers]), names=names)

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
    """Drop the labels whose values are names, and add up the series that are equal then."""
    kept = [place for place, label in enumerate(metric.labels) if label not in _NAMES]
    return sum_numbers({tuple(series[place] for place in kept): value} for series, value in numbers.items())


def _buckets(values: Numbers, labels: Series) -> list[tuple[str, float]]:
    """Return the cumulative buckets of a histogram."""
    found, total = list[tuple[str, float]](), 0.0
    for name in BUCKET_NAMES:
        total += values.get((*labels, name), 0.0)
        found.append((name, total))
    return found


class MetricsServer:
    """Serves the numbers at http://ADDRESS/metrics. Call `start` and `close` on one event loop."""

    def __init__(self, config: MetricsConfig, numbers: Callable[[], Numbers], *, share_port: bool) -> None:
        self._config = config
        self._numbers = numbers
        self._share_port = share_port
        self._cached: tuple[float, bytes] = (float("-inf"), b"")
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    async def start(self) -> str:
        """Listen, and return the address with the real port. Raises ListenError."""
        host, port = split_address(self._config.address)
        try:
            self._server = await asyncio.start_server(
                self._accept, host, port, limit=_MAX_REQUEST_BYTES, reuse_port=self._share_port
            )
        except OSError:
            raise ListenError.at(self._config.address) from None
        return f"{self._config.address.rpartition(':')[0]}:{self._server.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        """Stop listening, and close the connections."""
        self._server.close()
        for connection in self._connections:
            connection.cancel()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._connections) >= _MAX_CONNECTIONS:
            writer.close()
            return
        connection = asyncio.create_task(self._answer(reader, writer))
        self._connections.add(connection)
        connection.add_done_callback(self._connections.discard)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            # A client that sends nothing in time, or too much, gets no answer.
            with suppress(OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                await asyncio.wait_for(self._respond(reader, writer), _TIMEOUT_S)
        finally:
            writer.close()

    async def _respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = _REQUEST.match(await reader.readuntil(b"\r\n\r\n"))
        if request is None:
            status, body = "400 Bad Request", b""
        elif request[1] not in {b"GET", b"HEAD"}:
            status, body = "405 Method Not Allowed", b""
        elif request[2] != b"/metrics":
            status, body = "404 Not Found", b""
        else:
            status, body = "200 OK", self._page()
        response = (
            f"HTTP/1.1 {status}\r\nContent-Type: {_TYPE}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        writer.write(response.encode() + (b"" if request and request[1] == b"HEAD" else body))
        await writer.drain()

    def _page(self) -> bytes:
        rendered_s, body = self._cached
        if time.monotonic() - rendered_s >= _CACHE_S:
            body = render(self._numbers(), names=self._config.names)
            self._cached = (time.monotonic(), body)
        return body
