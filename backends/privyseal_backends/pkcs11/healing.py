"""Gets a token back, from a lost login to a lost module, on a thread that lives as long as something is broken.

Its pauses grow, with jitter. Which answer of a module means what is the table of `errors.Fault`; docs/recovery.md
explains the same to an operator.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator

import pkcs11
from pkcs11.exceptions import PKCS11Error

from privyseal_backends.interface import (
    BackendError,
    IntegrityError,
    OperatorError,
    ProcessRestartRequired,
    UnavailableError,
)
from privyseal_backends.pkcs11.errors import Fault, backend_error, meaning
from privyseal_backends.pkcs11.loss_detector import Event, State
from privyseal_backends.pkcs11.module_listener import ModuleListener
from privyseal_backends.pkcs11.token import TokenLogin, find_token, login_on
from privyseal_backends.pkcs11.token_key import TokenKey, find_again
from privyseal_backends.pkcs11.token_state import TokenLease, TokenState

_log = logging.getLogger(__name__)

_RANDOM_BITS = 64


class Healer:
    """Mends one token. Safe to use from any thread; it takes the state's lock."""

    def __init__(self, state: TokenState, listener: ModuleListener) -> None:
        self._state = state
        self._listener = listener
        self._thread: threading.Thread | None = None
        self._tried_generation = state.generation

    def begin(self) -> None:
        """Have the thread at work. Needs the state's lock."""
        self._state.set_next_try()
        if self._thread is None and not self._state.closed:
            self._thread = threading.Thread(target=self._heal, name="privyseal-heal", daemon=True)
            self._thread.start()

    def block(self, error: OperatorError, *, refused: bool = False) -> None:
        """Wait for a person. A PIN that was refused waits for the next start; a low count of PIN tries, or a PIN that
        cannot be read, is looked at again."""
        state = self._state
        event = Event.REFUSAL if refused or self._is_refusal(error) else Event.BLOCK
        with state.lock:
            before = state.detector.problem
            if not state.enter(event, OperatorError(error.part, error.message, error.remedy)):
                return
            self.begin()
        if before is None or before.message != error.message:
            _log.error("the token %r is blocked until an operator acts: %s", state.lease.token.label, error)

    def rebuild_after_start(self) -> None:
        """The module was begun anew: find everything again, unless the token refused its PIN."""
        state = self._state
        with state.lock:
            state.generation = state.module.generation
            if state.closed or state.detector.state is State.REFUSED:
                return
        with self._keeping_errors():
            self._rebuild()

    def find_keys(self, login: TokenLogin) -> dict[TokenKey, BackendError]:
        """Find every key on the login session, and ask the device itself for something, since a search may be answered
        from a local database. Returns what keeps single keys from being found. Raises `PKCS11Error`."""
        return login.run(self._search, self._state.address.pin_source, self._state.settings)

    def _search(self, session: pkcs11.Session) -> dict[TokenKey, BackendError]:
        found = {key: _problem_with(session, key) for key in tuple(self._state.keys)}
        try:
            session.generate_random(_RANDOM_BITS)
        except PKCS11Error as error:
            if meaning(error).fault is not Fault.CALLER:  # a token may have no generator
                raise
        return {key: problem for key, problem in found.items() if problem is not None}

    def _is_refusal(self, error: OperatorError) -> bool:
        return any(error.message == refusal.message for refusal in self._state.module.refusals.values())

    # --- the thread ---

    def _heal(self) -> None:
        state = self._state
        while self._wait_for_next_try():
            with self._keeping_errors(searching=state.detector.problem is None):
                self._try()
            with state.lock:
                state.detector.tries += 1
                state.set_next_try()

    def _wait_for_next_try(self) -> bool:
        """Return whether there is something left to try."""
        state = self._state
        with state.lock:
            while not state.closed and state.detector.state is not State.REFUSED and not state.serves:
                wait_s = state.next_try_s - time.monotonic()
                if wait_s <= 0:
                    return True
                state.lock.wait(wait_s)
            self._thread = None
            return False

    def _try(self) -> None:
        """Take one step to mend what is broken. Raises `BackendError` and `PKCS11Error` when it did not help."""
        state = self._state
        if state.detector.state is State.HANGS and state.module.overdue:
            return
        if state.detector.state is not State.LOST or state.new_process or not self._may_reinitialize():
            self._rebuild()
            return
        if self._tried_generation != state.generation:
            self._tried_generation = state.generation
            return  # the module was begun anew since the last try, and this token was looked for then
        settings = state.settings
        if not state.module.reinitialize(
            state.generation, idle_s=settings.hang_after_s, start_s=settings.open_timeout_s
        ):
            _log.warning("calls are still inside %s, so it is not begun anew yet", state.module.path)
        self._tried_generation = state.generation

    def _may_reinitialize(self) -> bool:
        """A new start of the module logs its other tokens out for a moment, so it is rare while these are healthy."""
        module = self._state.module
        return not module.others_healthy(self._listener) or module.bears_another_start

    @contextlib.contextmanager
    def _keeping_errors(self, *, searching: bool = False) -> Iterator[None]:
        """Around a step of mending: its error is the problem from then on. Where it was only `searching` for a key on a
        token that serves, it is one only after some times."""
        try:
            yield
        except (PKCS11Error, BackendError) as error:
            self._keep(error, searching=searching)
        except Exception as error:  # noqa: BLE001 - without its thread nothing would be mended any more
            _log.error("mending the token ended in %s", type(error).__name__)
            self._still_lost(UnavailableError("token", "mending it ended in an unexpected error", "read the log"))

    def _keep(self, error: PKCS11Error | BackendError, *, searching: bool) -> None:
        if isinstance(error, OperatorError) and (error.part == "PIN" or self._is_refusal(error)):
            self.block(error)
            return
        if searching:
            with self._state.lock:
                if not self._state.detector.note_failed_search():
                    return
        if isinstance(error, PKCS11Error):
            error = backend_error(error, "to be found again")
        self._still_lost(error)  # an operator's error too: the token was there once, so it is not misconfigured

    def _still_lost(self, error: BackendError) -> None:
        state = self._state
        with state.lock:
            before = state.detector.problem
            hangs = state.detector.state is State.HANGS and state.module.overdue
            problem = state.lost(error)
            if hangs:
                problem = ProcessRestartRequired(error.part, error.message, error.remedy)
            if not state.enter(Event.HANG if hangs else Event.LOSS, problem):
                return
            self.begin()
        if before is None or before.message != error.message:
            _log.warning("the token %r is still unavailable: %s", state.lease.token.label, error)

    def _rebuild(self) -> None:
        """Find the token, log in, and find every key again. Raises `BackendError` and `PKCS11Error`."""
        state = self._state
        with state.module.call(state.settings.open_timeout_s):
            generation = state.module.generation
            token = find_token(state.module, state.address)
            login = login_on(state.module, token)
            problems = self.find_keys(login)
            lease = TokenLease(token, generation, login, login.epoch)
        with state.lock:
            if state.keys and all(isinstance(problems.get(key), UnavailableError) for key in state.keys):
                raise problems[state.keys[0]]
            was_broken = state.detector.problem is not None
            if not state.detector.enter(Event.FOUND):
                return
            if was_broken or lease != state.lease:
                state.lease = lease
            state.set_key_problems(problems)
            if state.key_problems:
                self.begin()
        if was_broken:
            _log.warning("the token %r is back", token.label)


def _problem_with(session: pkcs11.Session, key: TokenKey) -> BackendError | None:
    """Return why the key is not found; None when it is. Raises `PKCS11Error`."""
    try:
        find_again(session, key)
    except OperatorError as error:
        return UnavailableError(error.part, f"the key is gone: {error.message}", error.remedy)
    except IntegrityError as error:
        return error
    return None
