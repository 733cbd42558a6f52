"""A token bucket gives a burst, then its rate. Quota and rate limits are tested where they are used."""

from __future__ import annotations

import pytest

from privyseal_backends.token_bucket import TokenBucket


def test_a_new_bucket_is_full_and_is_full_again_later() -> None:
    bucket = TokenBucket(10.0, 2.0)
    assert bucket.is_full(100.0)
    assert [bucket.try_take(100.0) for _ in range(3)] == [0.0, 0.0, pytest.approx(0.1)]
    assert not bucket.is_full(100.1)
    assert bucket.is_full(100.2)


def test_what_was_taken_ahead_is_paid_back_first() -> None:
    bucket = TokenBucket(10.0, 1.0)
    for _ in range(3):
        bucket.take()
    assert bucket.wait_s(0.0) == pytest.approx(0.3)
    assert bucket.wait_s(0.3) == pytest.approx(0.0)


def test_a_reading_of_the_clock_below_the_last_one_adds_nothing() -> None:
    bucket = TokenBucket(10.0, 1.0)
    assert bucket.try_take(100.0) == 0.0
    assert bucket.wait_s(90.0) == pytest.approx(0.1)
    assert bucket.wait_s(100.0) == pytest.approx(0.1)


def test_another_rate_and_capacity() -> None:
    bucket = TokenBucket(10.0, 5.0)
    bucket.change(1.0, 2.0)
    assert [bucket.try_take(0.0) for _ in range(3)] == [0.0, 0.0, pytest.approx(1.0)]
