"""One served key: its state, its store's key, and the time of the next attempt to open it."""

from __future__ import annotations

import asyncio
import enum
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from privyseal_backends.interface import (
    BackendError,
    BusyError,
    Key,
    Observed,
    OperatorError,
    ProcessRestartRequired,
    UnavailableError,
)
from privyseal_service.domain import errors

if TYPE_CHECKING:
    from privyseal_service.config.keys import KeyConfig


_LOG = logging.getLogger(__name__)

FIRST_RETRY_S = 0.5


class KeyState(enum.Enum):
    """Whether a key can be used now."""

    SERVING = "serving"
    UNAVAILABLE = "unavailable"
    BLOCKED = "blocked"
    FROZEN = "frozen"


def close_key(key: Key | None) -> None:
    """Stop observing a key that is not used any more."""
    if isinstance(key, Observed):
        key.forget()


_ERROR_HOLDS_S = {KeyState.UNAVAILABLE: 5.0, KeyState.BLOCKED: 30.0}
"""How long the error of a call decides the state of a key that does not observe its store. Then the key counts as
serving again: a load balancer that checks readiness would otherwise send no call that could show it."""


class ServedKey:
    """One key of the configuration, open or not. `changed` is called at every change of its state."""

    def __init__(self, config: KeyConfig, changed: Callable[[], None] = lambda: None) -> None:
        self.name = config.name
        self.config = config
        self.schemes = frozenset(config.schemes)
        self.frozen = config.state == "frozen"
        self._state = KeyState.UNAVAILABLE
        self.problem: BackendError | None = None
        self.tried = asyncio.Event()
        self.next_try_s = time.monotonic() + FIRST_RETRY_S
        self._changed = changed
        self._key: Key | None = None
        self._observed = False
        self._closed = False
        self._recovery: asyncio.TimerHandle | None = None

    @property
    def lost(self) -> bool:
        """Whether only a new process can reach its store again."""
        return isinstance(self.problem, ProcessRestartRequired)

    @property
    def state(self) -> KeyState:
        """Its state as callers see it: a frozen key is FROZEN, whatever its store reports."""
        return KeyState.FROZEN if self.frozen else self._state

    @property
    def serves(self) -> bool:
        """Whether its store can use it now, frozen or not."""
        return self._state is KeyState.SERVING

    @property
    def blocked(self) -> bool:
        """Whether only an operator can help, frozen or not."""
        return self._state is KeyState.BLOCKED

    @property
    def key(self) -> Key | None:
        """The open key; None until it is opened for the first time."""
        return self._key

    def opened(self, key: Key) -> None:
        """Serve with this open key."""
        self._key = key
        self._enter(None)
        self._observed = isinstance(key, Observed)
        if isinstance(key, Observed):
            key.observe(lambda problem: self._on_report(key, problem))

    def failed(self, problem: BackendError, *, heals: bool | None = None) -> None:
        """Record that the key could not be opened; `heals`: whether it is retried."""
        self._enter(problem, heals=may_heal(problem) if heals is None else heals)

    def _on_report(self, key: Key, problem: BackendError | None) -> None:
        """Apply the state that an observed key reports: a problem, or None when it serves."""
        if key is not self._key or self._closed:
            return  # the key was replaced or closed
        if problem is not None and (self.problem is None or type(problem) is not type(self.problem)):
            level = logging.WARNING if may_heal(problem) else logging.ERROR
            _LOG.log(level, "key %r does not serve: %s", self.name, problem)
        elif problem is None and self.problem is not None:
            _LOG.warning("key %r serves again", self.name)
        self._enter(problem, heals=problem is None or may_heal(problem))

    def _enter(self, problem: BackendError | None, *, heals: bool = True) -> None:
        self.problem = problem
        if problem is None:
            self._state = KeyState.SERVING
        else:
            self._state = KeyState.UNAVAILABLE if heals else KeyState.BLOCKED
        self._changed()

    def shut(self, problem: BackendError) -> None:
        """Close the open key, which does not fit its configuration any more."""
        self._hold_error_for(None)
        close_key(self._key)
        self._key = None
        self.failed(problem)

    def usable(self) -> Key:
        """Return the open key. Raises ServiceError: frozen, UNAVAILABLE with a delay, or blocked."""
        if self.frozen:
            raise errors.frozen(self.name)
        if self._key is None:
            if self.blocked:
                raise errors.blocked(self.name)
            raise errors.away(self.name, max(0.1, self.next_try_s - time.monotonic()))
        return self._key

    def note(self, answer: object) -> None:
        """Derive the key's state from an answer of its store: a signature, a plaintext or an error."""
        if self._observed or self._closed or self._key is None:
            return  # it reports its state itself, or is not used any more
        match answer:
            case UnavailableError() | OperatorError():
                self._enter(answer, heals=isinstance(answer, UnavailableError))
                self._hold_error_for(_ERROR_HOLDS_S[self._state])
            case BackendError():
                pass  # busy, a deadline, a caller's fault: these do not concern the key
            case _:
                if not self.serves:
                    self._hold_error_for(None)
                    self._enter(None)

    def _hold_error_for(self, seconds: float | None) -> None:
        if self._recovery is not None:
            self._recovery.cancel()
        self._recovery = None if seconds is None else asyncio.get_running_loop().call_later(seconds, self._enter, None)

    def close(self) -> None:
        """Stop serving a key that was removed from the configuration. Calls that have begun are not interrupted."""
        self._changed = lambda: None
        self._closed = True
        self._hold_error_for(None)
        close_key(self._key)


def may_heal(error: BackendError) -> bool:
    """Whether retrying can succeed without an operator."""
    return isinstance(error, (UnavailableError, BusyError))
