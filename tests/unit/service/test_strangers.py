"""Callers without a grant: some questions, and no flood of records."""

from __future__ import annotations

import pytest

from privyseal_service.strangers import QUESTIONS_AT_ONCE, QUESTIONS_PER_S, Strangers


def test_some_at_once_then_so_many_a_second() -> None:
    strangers = Strangers()
    assert [strangers.wait_s("a", 100.0) for _ in range(int(QUESTIONS_AT_ONCE))] == [0.0] * int(QUESTIONS_AT_ONCE)
    assert strangers.wait_s("a", 100.0) == pytest.approx(1 / QUESTIONS_PER_S)
    assert strangers.wait_s("b", 100.0) == 0.0
    answered = sum(strangers.wait_s("a", 100.0 + n / 100) == 0.0 for n in range(1, 501))
    assert answered in range(49, 52)


def test_a_clock_that_stands_still_or_goes_back_gives_nothing() -> None:
    strangers = Strangers()
    while not strangers.wait_s("a", 100.0):
        pass
    assert strangers.wait_s("a", 90.0)


def test_more_callers_than_are_told_apart_share_one_bucket_until_others_are_full_again() -> None:
    strangers = Strangers()
    for n in range(1000):
        assert strangers.wait_s(f"caller {n}", 100.0) == 0.0
    waits = [strangers.wait_s(f"late {n}", 100.0) for n in range(50)]
    assert 0 < sum(not wait for wait in waits) <= QUESTIONS_AT_ONCE
    assert [strangers.wait_s(f"later {n}", 110.0) for n in range(50)] == [0.0] * 50
