"""When workers are started again, and when they count as hung."""

from __future__ import annotations

from privyseal_service.runtime.restarts import HangDetector, RestartDelays


def test_delays_grow_until_a_worker_has_served_for_a_while() -> None:
    for delays in (RestartDelays() for _ in range(20)):
        waits = [delays.after(0.1) for _ in range(40)]
        assert waits[0] == 0.0
        assert all(0.75 * most <= wait <= most for wait, most in zip(waits[1:5], (0.2, 0.4, 0.8, 1.6), strict=True))
        assert 0.75 * 30.0 <= waits[-1] <= 30.0
        assert delays.after(60.0) == 0.0
        assert delays.after(0.1) <= 0.2


def test_jitter_makes_no_later_delay_shorter() -> None:
    delays = RestartDelays()
    waits = [delays.after(0.1) for _ in range(8)]
    assert waits == sorted(waits)


def test_silence_is_a_hang() -> None:
    detector = HangDetector(0.0, first_report_s=30.0)
    detector.reported(0.5, 2.0)
    assert [detector.is_hung(now, 0.5) for now in (1.0, 1.5, 2.0, 2.5, 3.0)] == [False] * 4 + [True]


def test_no_worker_counts_as_hung_after_the_supervisor_stood_still() -> None:
    detector = HangDetector(0.0, first_report_s=30.0)
    detector.reported(0.5, 2.0)
    assert not detector.is_hung(1.0, 0.5)
    assert not detector.is_hung(100.0, 0.5)  # it was stopped, and has not read what the worker said since
    detector.reported(100.1, 2.0)
    assert not detector.is_hung(101.0, 0.5)
    assert not detector.is_hung(102.0, 0.5)
    assert detector.is_hung(103.0, 0.5)
