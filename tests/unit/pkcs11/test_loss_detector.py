"""The states of a token: every event in every state, and what is counted before a token is lost."""

from __future__ import annotations

import pytest

from privyseal_backends.interface import UnavailableError
from privyseal_backends.pkcs11.loss_detector import NEXT_STATE, Event, LossDetector, State

PROBLEM = UnavailableError("token", "it does not answer")
ENTERED_BY = {
    State.SERVING: Event.FOUND,
    State.LOST: Event.LOSS,
    State.HANGS: Event.HANG,
    State.BLOCKED: Event.BLOCK,
    State.REFUSED: Event.REFUSAL,
}


def in_state(state: State) -> LossDetector:
    detector = LossDetector(new_process=False)
    assert detector.enter(ENTERED_BY[state], PROBLEM)
    assert detector.state is state
    return detector


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("state", State)
def test_the_table_has_every_event_in_every_state(state: State, event: Event) -> None:
    detector = in_state(state)
    expected = NEXT_STATE[state].get(event)

    assert detector.enter(event, PROBLEM) is (expected is not None)
    assert detector.state is (expected or state)
    assert (detector.problem is None) is (detector.state is State.SERVING)


@pytest.mark.parametrize("event", [Event.LOSS, Event.BLOCK, Event.FOUND, Event.REFUSAL])
def test_a_refused_pin_is_final(event: Event) -> None:
    assert not in_state(State.REFUSED).enter(event, PROBLEM)


def test_three_doubts_in_a_row_are_a_loss_and_a_success_clears_them() -> None:
    detector = LossDetector(new_process=False)
    assert [detector.note_doubt() for _ in range(3)] == [False, False, True]
    assert not detector.note_doubt()
    assert detector.suspect
    detector.note_success()
    assert not detector.suspect
    assert [detector.note_doubt() for _ in range(3)] == [False, False, True]


def test_failures_are_a_loss_after_three_and_some_time() -> None:
    detector = LossDetector(new_process=False)
    assert [detector.note_failure(now_s) for now_s in (0.0, 1.0, 2.0, 4.9, 5.0)] == [False] * 4 + [True]


def test_a_search_on_a_token_that_serves_counts_after_three_times() -> None:
    assert in_state(State.LOST).note_failed_search()
    detector = LossDetector(new_process=False)
    assert [detector.note_failed_search() for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize(
    ("state", "new_process", "tries", "pause_s"),
    [
        (State.LOST, False, 0, 0.0),
        (State.LOST, True, 0, 0.5),
        (State.LOST, False, 1, 0.1),
        (State.LOST, False, 2, 0.2),
        (State.LOST, False, 9, 1.0),
        (State.SERVING, False, 9, 15.0),  # one of its keys is gone
        (State.BLOCKED, False, 0, 15.0),
        (State.HANGS, False, 3, 0.25),
    ],
)
def test_pauses(state: State, new_process: bool, tries: int, pause_s: float) -> None:
    detector = LossDetector(new_process=new_process)
    detector.enter(ENTERED_BY[state], PROBLEM)
    detector.tries = tries
    assert detector.pause_s() == pytest.approx(pause_s)


def test_the_tries_begin_anew_after_a_steady_time() -> None:
    detector = LossDetector(new_process=False)
    detector.note_loss(100.0)
    detector.tries = 5
    detector.note_loss(110.0)
    assert detector.tries == 5
    detector.note_loss(141.0)
    assert detector.tries == 0
