"""Metrics as Prometheus reads them."""

from __future__ import annotations

import http.client

from prometheus_client.parser import text_string_to_metric_families

from tests.support.serving import Serving


def samples(text: bytes) -> dict[str, float]:
    """What a Prometheus would make of a page."""
    found = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def metrics_address(serving: Serving) -> str:
    assert serving.process.stdout is not None
    words = serving.process.stdout.readline().split()
    assert words[:2] == ["listening", "metrics"]
    return words[2]


def scraped(address: str) -> dict[str, float]:
    connection = http.client.HTTPConnection(address, timeout=20)
    connection.request("GET", "/metrics")
    answer = connection.getresponse()
    assert (answer.status, answer.getheader("Content-Type")) == (200, "text/plain; version=0.0.4; charset=utf-8")
    found = samples(answer.read())
    connection.close()
    return found
