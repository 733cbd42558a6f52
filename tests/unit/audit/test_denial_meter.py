"""Denials in a flood: the first are recorded one by one, the rest is counted, and no denial is lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privyseal_service.audit.denial_meter import OTHERS, DenialMeter
from tests.support.audit.helpers import SOURCE, encode

KIND = "sign-checksum PERMISSION_DENIED"


def test_a_burst_is_recorded_one_by_one_and_the_rest_counted():
    meter = DenialMeter(rate=1, burst=3, window_s=1)
    admitted = [meter.admit("dns:a", KIND, now_s=10 + i / 100, time_us=i) for i in range(10)]
    assert admitted == [True] * 3 + [False] * 7
    assert meter.due(now_s=10.5, time_us=50) == []
    (summary,) = meter.due(now_s=11.2, time_us=120)
    assert (summary.caller, summary.count, summary.first_us, summary.last_us) == ("dns:a", 7, 3, 9)
    assert summary.counts == {KIND: 7}
    assert meter.due(now_s=99, time_us=0) == []


def test_a_slow_caller_is_never_counted():
    meter = DenialMeter(rate=2, burst=1)
    assert all(meter.admit("dns:a", KIND, now_s=i * 0.5, time_us=0) for i in range(50))
    assert meter.flush(now_s=100, time_us=0) == []


def test_one_callers_flood_does_not_hide_anothers_denial():
    meter = DenialMeter(rate=1, burst=1)
    for _ in range(1_000):
        meter.admit("dns:loud", KIND, now_s=5, time_us=1)
    assert meter.admit("dns:quiet", KIND, now_s=5, time_us=1)


def test_memory_is_bounded_and_room_is_made_again():
    meter = DenialMeter(rate=1, burst=1, callers=10)
    for i in range(100):
        meter.admit(f"dns:{i}", KIND, now_s=5, time_us=i)
    assert len(meter._buckets) == 11
    (summary,) = meter.flush(now_s=5, time_us=7)
    assert (summary.caller, summary.count) == (OTHERS, 89)
    assert meter.due(now_s=50, time_us=8) == []
    assert meter._buckets == {}


def test_kinds_are_bounded_and_their_sum_holds():
    meter = DenialMeter(rate=1, burst=1)
    for i in range(41):
        meter.admit("dns:a", f"operation-{i} PERMISSION_DENIED", now_s=5, time_us=i)
    (summary,) = meter.flush(now_s=6, time_us=100)
    assert len(summary.counts) == 16
    assert summary.count == sum(summary.counts.values()) == 40
    assert encode(summary, SOURCE, 1)


def test_a_clock_that_goes_back_gives_no_credit():
    meter = DenialMeter(rate=1, burst=1)
    assert meter.admit("dns:a", KIND, now_s=100, time_us=0)
    assert not meter.admit("dns:a", KIND, now_s=1, time_us=0)
    assert not meter.admit("dns:a", KIND, now_s=100.5, time_us=0)


calls = st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from("xyz"), st.integers(0, 900), st.booleans()))


@given(calls, st.floats(0.5, 5), st.integers(1, 4), st.integers(1, 5))
def test_every_denial_is_in_a_record_or_in_a_summary(denials, rate, burst, callers):
    meter = DenialMeter(rate=rate, burst=burst, window_s=0.5, callers=callers)
    now_ms = 0
    admitted = counted = 0
    for caller, kind, pause_ms, written in denials:
        now_ms += pause_ms
        admitted += meter.admit(caller, kind, now_s=now_ms / 1000, time_us=now_ms)
        summaries = meter.due(now_s=now_ms / 1000, time_us=now_ms)
        if written:
            counted += sum(summary.count for summary in summaries)
        else:
            meter.restore(summaries)
    last = meter.flush(now_s=now_ms / 1000, time_us=now_ms)
    assert admitted + counted + sum(summary.count for summary in last) == len(denials)
    assert all(summary.first_us <= summary.last_us for summary in last)


@pytest.mark.parametrize("options", [{"rate": 0}, {"burst": 0}, {"window_s": 0}, {"callers": 0}])
def test_settings_that_would_drop_denials_are_refused(options):
    with pytest.raises(ValueError):
        DenialMeter(**options)
