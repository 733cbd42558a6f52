"""Some at once for each caller, then so many a second, and no caller has another's."""

from __future__ import annotations

import pytest

from privyseal_service.system.caller_buckets import CallerBuckets


def test_some_at_once_then_so_many_a_second() -> None:
    buckets = CallerBuckets(per_s=10.0, at_once=20.0)
    assert [buckets.wait_s("a", 100.0) for _ in range(20)] == [0.0] * 20
    assert buckets.wait_s("a", 100.0) == pytest.approx(1 / 10)
    assert buckets.wait_s("b", 100.0) == 0.0
    answered = sum(buckets.wait_s("a", 100.0 + n / 100) == 0.0 for n in range(1, 501))
    assert answered in range(49, 52)


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    buckets = CallerBuckets(per_s=10.0, at_once=20.0)
    while not buckets.wait_s("a", 100.0):
        pass
    assert buckets.wait_s("a", 90.0)


def test_more_callers_than_are_told_apart_share_one_bucket_until_others_are_full_again() -> None:
    buckets = CallerBuckets(per_s=10.0, at_once=20.0)
    for n in range(1000):
        assert buckets.wait_s(f"caller {n}", 100.0) == 0.0
    waits = [buckets.wait_s(f"late {n}", 100.0) for n in range(50)]
    assert 0 < sum(not wait for wait in waits) <= 20
    assert [buckets.wait_s(f"later {n}", 110.0) for n in range(50)] == [0.0] * 50
