"""Counting calls, adding up processes, and the page that Prometheus reads."""

from __future__ import annotations

import pytest

from privyseal_service.domain.decisions import Decision, Outcome
from privyseal_service.domain.errors import Code
from privyseal_service.telemetry.metrics import (
    KNOWN,
    METRICS,
    RELOAD_FAILURES,
    Counters,
    Kind,
    Numbers,
    is_series,
    sum_numbers,
    without_gauges,
)
from privyseal_service.telemetry.prometheus import render
from tests.support.checkout import CHECKOUT
from tests.support.prometheus import samples

ANSWERED = Decision(
    request_id="id",
    caller="dns:a",
    peer="ipv4:1",
    operation="sign-checksum",
    key="app",
    scheme="capgo-v3",
    grant="farm",
    outcome=Outcome.ANSWERED,
    code=Code.OK,
    signatures=5,
    queued_s=0.02,
    store_s=40.0,
)
DENIED = ANSWERED._replace(
    key="whatever the caller wrote", outcome=Outcome.DENIED, code=Code.PERMISSION_DENIED, reason="NO_GRANT",
    signatures=0,
)  # fmt: skip


def counted(*decisions: Decision) -> Numbers:
    counters = Counters()
    for decision in decisions:
        counters.count_call(decision)
    return counters.snapshot()


def test_calls_are_counted_by_what_became_of_them() -> None:
    shown = samples(render(counted(ANSWERED, ANSWERED, DENIED), names=True))
    assert shown["privyseal_calls_total{code=OK,operation=sign-checksum}"] == 2
    assert shown["privyseal_calls_total{code=PERMISSION_DENIED,operation=sign-checksum}"] == 1
    assert shown["privyseal_refusals_total{reason=NO_GRANT}"] == 1
    assert shown["privyseal_results_total{key=app}"] == 10
    queue = "privyseal_queue_seconds"
    assert [shown[f"{queue}_bucket{{le={le},operation=sign-checksum}}"] for le in ("0.01", "0.025", "+Inf")] == [
        0,
        2,
        2,
    ]
    assert shown[f"{queue}_count{{operation=sign-checksum}}"] == 2
    assert shown[f"{queue}_sum{{operation=sign-checksum}}"] == pytest.approx(0.04)
    assert shown["privyseal_store_seconds_bucket{le=30.0,operation=sign-checksum}"] == 0


def test_nothing_that_a_caller_writes_is_a_label() -> None:
    text = render(counted(ANSWERED, DENIED), names=True)
    assert b"whatever" not in text
    assert b"dns:a" not in text


def test_names_are_left_out_unless_they_are_asked_for() -> None:
    numbers = {
        **counted(ANSWERED, ANSWERED._replace(key="other")), ("keys", "app", "serving"): 2.0,
        ("keys", "other", "serving"): 1.0, ("keys", "third", "frozen"): 2.0, ("audit_sink_waiting", "https://x"): 3.0,
    }  # fmt: skip
    shown = samples(render(numbers, names=False))
    assert shown["privyseal_results_total{}"] == 10
    assert (shown["privyseal_keys{state=serving}"], shown["privyseal_keys{state=frozen}"]) == (3, 2)
    assert shown["privyseal_audit_sink_waiting{}"] == 3
    assert not [name for name in shown if "app" in name or "https" in name]
    assert samples(render(numbers, names=True))["privyseal_keys{key=app,state=serving}"] == 2


def test_processes_add_up_and_counts_outlive_them() -> None:
    numbers = {**counted(ANSWERED), ("ready",): 1.0}
    total = sum_numbers([without_gauges(numbers), numbers, {("ready",): 1.0}])
    assert total["calls", "sign-checksum", "OK"] == 2
    assert total["ready",] == 2


def test_every_metric_says_what_it_is() -> None:
    text = render({}, names=True).decode()
    for metric in METRICS.values():
        assert f"# HELP privyseal_{metric.name}" in text
        assert metric.help.endswith(".")


def test_a_first_rise_can_be_seen() -> None:
    shown = samples(render({RELOAD_FAILURES: 1.0}, names=False))
    assert shown["privyseal_reloads_total{result=failed}"] == 1
    assert shown["privyseal_tls_reloads_total{result=failed}"] == shown["privyseal_worker_ends_total{}"] == 0
    assert all(map(is_series, KNOWN))


def test_every_metric_is_in_the_operators_table() -> None:
    table = (CHECKOUT / "docs" / "operations.md").read_text()
    for name, metric in METRICS.items():
        assert f"`{name}_total`" in table if metric.kind is Kind.COUNTER else f"`{name}`" in table, name
