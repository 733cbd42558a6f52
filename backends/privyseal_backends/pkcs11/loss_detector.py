"""Decides from what operations on a token met whether it is lost, and when it is tried again. Pure: it reads no clock.

`NEXT_STATE` is the whole of it for events that say so themselves; failures without a clear reason are counted.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

from privyseal_backends.backoff import Backoff
from privyseal_backends.interface import BackendError

LONGEST_PAUSE_S = 1.0
"""A token that is back is found within this time and the time that the search takes."""
_FIRST_PAUSE_S = 0.1
_SLOW_PAUSE_S = 15.0
"""Between tries at what only a person mends."""
_NEW_PROCESS_PAUSE_S = 0.5
"""A new process is the better cure, so it gets this head start."""
_HANG_PAUSE_S = 0.25
_STEADY_S = 30.0
"""After this time without a loss, the next loss counts as the first again."""
_DOUBTS = 3
_FAILURES, _FAILING_S = 3, 5.0


class State(enum.Enum):
    """Whether a token serves, and why not."""

    SERVING = "serving"
    LOST = "lost"
    """It does not answer, or has lost its state: it is looked for."""
    HANGS = "hangs"
    """A call hangs inside the module: only a new process is sure to help."""
    BLOCKED = "blocked"
    """A person has to act; it is looked at again."""
    REFUSED = "refused"
    """It refused its PIN: it is not tried again before the next start."""


class Event(enum.Enum):
    """What was learned of a token."""

    LOSS = "loss"
    HANG = "hang"
    BLOCK = "block"
    REFUSAL = "refusal"
    FOUND = "found"


_S, _E = State, Event
_OPEN = {_E.LOSS: _S.LOST, _E.HANG: _S.HANGS, _E.BLOCK: _S.BLOCKED, _E.REFUSAL: _S.REFUSED, _E.FOUND: _S.SERVING}
NEXT_STATE: Mapping[State, Mapping[Event, State]] = MappingProxyType(
    {
        State.SERVING: _OPEN,
        State.LOST: _OPEN,
        State.HANGS: _OPEN,
        State.BLOCKED: _OPEN,
        State.REFUSED: {Event.HANG: State.HANGS},
    }
)
"""The state after an event. An event that a state does not name changes nothing."""


class LossDetector:
    """What is known of one token's state. For one thread at a time.

    `problem` is the error for callers; None while the token serves.
    """

    def __init__(self, *, new_process: bool) -> None:
        self._new_process = new_process
        self.state = State.SERVING
        self.problem: BackendError | None = None
        self.tries = 0
        self._lost_s = 0.0
        self._suspect = False
        self._doubts = 0
        self._failures = 0
        self._failing_since_s = 0.0

    def enter(self, event: Event, problem: BackendError | None = None) -> bool:
        """Take an event with its error; return whether the state allows it."""
        state = NEXT_STATE[self.state].get(event)
        if state is None:
            return False
        self.state, self.problem = state, None if state is State.SERVING else problem
        return True

    def note_loss(self, now_s: float) -> None:
        """Note that the token was lost: its tries begin anew when it had served for some time."""
        if now_s - self._lost_s > _STEADY_S:
            self.tries = 0
        self._lost_s = now_s
        self._suspect = True

    @property
    def suspect(self) -> bool:
        """Whether something was counted against the token that a success clears."""
        return self._suspect

    def note_success(self) -> None:
        """Note that the token did what it was asked: nothing is doubtful any more."""
        self._suspect = False
        self.tries = self._doubts = self._failures = 0

    def note_doubt(self) -> bool:
        """Note a failure whose reason the module does not give; return whether it was one too many in a row."""
        self._suspect = True
        self._doubts += 1
        if self._doubts < _DOUBTS:
            return False
        self._doubts = 0
        return True

    def note_failed_search(self) -> bool:
        """Note that a key was not found on a token that serves; return whether that counts against the token."""
        self._suspect = True
        self._doubts += 1
        return self.problem is not None or self._doubts >= _DOUBTS

    def note_failure(self, now_s: float) -> bool:
        """Note an operation for which the token had no room after all its attempts; return whether nothing else has
        come for so long that the token is lost."""
        self._suspect = True
        if not self._failures:
            self._failing_since_s = now_s
        self._failures += 1
        if self._failures < _FAILURES or now_s - self._failing_since_s < _FAILING_S:
            return False
        self._failures = 0
        return True

    def pause_s(self) -> float:
        """Return the pause before the next try, in seconds, without jitter."""
        if self.state is State.BLOCKED:
            return _SLOW_PAUSE_S
        if self.state is State.HANGS:
            return _HANG_PAUSE_S
        if self.tries == 0:
            return _NEW_PROCESS_PAUSE_S if self._new_process else 0.0
        return Backoff(_FIRST_PAUSE_S, LONGEST_PAUSE_S if self.problem else _SLOW_PAUSE_S).most_s(self.tries)
