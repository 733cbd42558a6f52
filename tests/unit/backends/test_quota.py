"""The token bucket, without a clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from privyseal_backends.interface import BusyError
from privyseal_backends.quota import Quota


def test_a_burst_goes_at_once_and_the_rest_in_order() -> None:
    bucket = Quota(20.0)
    waits = [bucket.reserve(100.0, 200.0) for _ in range(5)]
    assert waits == pytest.approx([0.0, 0.0, 0.05, 0.1, 0.15])


def test_it_fills_with_time_and_never_above_its_size() -> None:
    bucket = Quota(20.0)
    for _ in range(2):
        bucket.reserve(0.0, 10.0)
    assert bucket.reserve(0.05, 10.0) == pytest.approx(0.0)
    assert [bucket.reserve(1000.0, 2000.0) for _ in range(3)] == pytest.approx([0.0, 0.0, 0.05])


def test_a_wait_beyond_the_deadline_is_refused_at_once_and_costs_nothing() -> None:
    bucket = Quota(2.0)
    assert bucket.reserve(0.0, 10.0) == 0.0
    for _ in range(3):
        with pytest.raises(BusyError) as caught:
            bucket.reserve(0.0, 0.5)
        assert caught.value.retry_after_s == pytest.approx(0.5)
    assert bucket.reserve(0.0, 0.6) == pytest.approx(0.5)


def test_a_part_for_each_of_several_processes() -> None:
    bucket = Quota(20.0)
    bucket.share(4)
    assert [bucket.reserve(0.0, 10.0) for _ in range(3)] == pytest.approx([0.0, 0.2, 0.4])
    bucket.share(1)
    assert bucket.reserve(0.0, 10.0) == pytest.approx(0.15)


@given(
    rate_per_s=st.floats(0.5, 2000.0),
    gaps_s=st.lists(st.floats(0.0, 0.3), min_size=1, max_size=200),
    patience_s=st.floats(0.0, 2.0),
)
def test_no_span_of_time_sees_more_than_the_rate_and_the_burst(
    rate_per_s: float, gaps_s: list[float], patience_s: float
) -> None:
    bucket, now_s, goes_at_s = Quota(rate_per_s), 0.0, []
    for gap_s in gaps_s:
        now_s += gap_s
        try:
            goes_at_s.append(now_s + bucket.reserve(now_s, now_s + patience_s))
        except BusyError:
            continue
        assert goes_at_s[-1] <= now_s + patience_s
    assert goes_at_s == sorted(goes_at_s)
    burst = max(1.0, rate_per_s / 10)
    for first, begun_s in enumerate(goes_at_s):
        for last in range(first, len(goes_at_s)):
            assert last - first + 1 <= rate_per_s * (goes_at_s[last] - begun_s) + burst + 1e-6
