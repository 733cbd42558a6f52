"""Delays double up to a limit; jitter takes a part of them away."""

from __future__ import annotations

from privyseal_backends.backoff import Backoff, jittered


def test_delays_double_up_to_the_longest() -> None:
    backoff = Backoff(0.05, 2.0)
    failures = (1, 2, 3, 6, 7, 100_000)
    assert [backoff.delay_s(each) for each in failures] == [0.05, 0.1, 0.2, 1.6, 2.0, 2.0]


def test_jitter_takes_at_most_its_part_away() -> None:
    backoff = Backoff(1.0, 8.0, jitter=0.25)
    assert all(3.0 <= backoff.delay_s(3) <= 4.0 for _ in range(1_000))
    assert len({backoff.delay_s(3) for _ in range(10)}) > 1
    assert backoff.most_s(3) == 4.0


def test_full_jitter_draws_from_the_whole_delay() -> None:
    drawn = [jittered(1.0, 1.0) for _ in range(1_000)]
    assert 0.0 <= min(drawn) < 0.2
    assert 0.8 < max(drawn) <= 1.0
