"""One token as keys and signing threads use it: they get a lease on it, and report what they met."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable

from pkcs11.exceptions import PKCS11Error

from privyseal_backends.interface import (
    BackendError,
    IntegrityError,
    OperatorError,
    ProcessRestartRequired,
    UnavailableError,
)
from privyseal_backends.pkcs11.address import KeyAddress
from privyseal_backends.pkcs11.errors import Meaning, backend_error
from privyseal_backends.pkcs11.healing import Healer
from privyseal_backends.pkcs11.loss_detector import Event, State
from privyseal_backends.pkcs11.module import Module
from privyseal_backends.pkcs11.settings import Settings
from privyseal_backends.pkcs11.token_key import TokenKey
from privyseal_backends.pkcs11.token_state import TokenLease, TokenState

_log = logging.getLogger(__name__)

_NEW_PROCESS_S = 3.0
"""How long a call waits in a process that is about to be replaced: after that its caller does better to retry."""


class TokenConnection:
    """One token as one store has it (a `module.ModuleListener`). Safe to use from any thread; takes its own lock last.

    With `new_process` a loss is for a new process to mend: nothing that may be in use is begun anew in this one.
    """

    def __init__(
        self, module: Module, lease: TokenLease, address: KeyAddress, settings: Settings, *, new_process: bool
    ) -> None:
        self.module = module
        self._settings = settings
        self._state = TokenState(module, lease, address, settings, new_process=new_process)
        self._healer = Healer(self._state, self)
        self._on_hang: Callable[[BackendError], None] = lambda _: None
        module.subscribe(self)

    # --- for keys and their callers ---

    def add_key(self, key: TokenKey) -> None:
        """Keep this key found."""
        with self._state.lock:
            self._state.keys.append(key)

    def observe(self, key: TokenKey, on_change: Callable[[BackendError | None], None]) -> None:
        """Observe a key; see `interface.Observed.observe`."""
        with self._state.lock:
            problem = self._state.problem_of(key)
            self._state.observers.add(key, on_change, problem)
        on_change(problem)

    def forget(self, key: TokenKey) -> None:
        """Forget a key; see `interface.Observed.forget`."""
        with self._state.lock:
            self._state.forget(key)

    def refusal(self, key: TokenKey) -> BackendError | None:
        """Return why a call with the key need not be queued now; None when it may be served, or may wait."""
        if self._state.serves:
            return None
        with self._state.lock:
            problem = self._state.problem_of(key)
            return None if problem is None or self._state.may_wait(problem) else problem

    def on_hang(self, fail: Callable[[BackendError], None]) -> None:
        """Have `fail` called with the error for every call that waits for the token or is inside, when one hangs."""
        self._on_hang = fail

    @property
    def waits(self) -> bool:
        """Whether calls may wait for a token that is unavailable."""
        return self._settings.wait_for_token

    @property
    def hangs(self) -> bool:
        """Whether a call hangs inside the module, so that there is nothing to wait for."""
        return self._state.detector.state is State.HANGS

    def close(self) -> None:
        """Mend nothing more, and let no call wait."""
        with self._state.lock:
            self._state.closed = True
            self._state.observers.clear()
            self._state.lock.notify_all()
        self.module.unsubscribe(self)

    # --- for signing threads ---

    def lease(self, key: TokenKey, deadline_s: float) -> TokenLease:
        """Return what to open sessions on. Raises `BackendError` while the token or the key is unavailable; waits for
        it where the settings say so."""
        state = self._state
        if state.serves:
            return self._fresh_lease()
        give_up_s = deadline_s
        if state.new_process:
            give_up_s = min(deadline_s, time.monotonic() + _NEW_PROCESS_S)
        with state.lock:
            while (problem := state.problem_of(key)) is not None:
                now_s = time.monotonic()
                if not state.may_wait(problem) or max(now_s, state.next_try_s) >= give_up_s:
                    raise problem
                state.lock.wait(give_up_s - now_s)
        return self._fresh_lease()

    def _fresh_lease(self) -> TokenLease:
        lease = self._state.lease
        if lease.current:
            return lease
        # Another store of this process shares the login, and has logged in again.
        with self._state.lock:
            self._state.lease = TokenLease(lease.token, lease.generation, lease.login, lease.login.epoch)
            return self._state.lease

    def is_current(self, lease: TokenLease) -> bool:
        """Return whether what was met under a lease still says something of the token."""
        return lease is self._state.lease and lease.current

    def is_settled(self, lease: TokenLease) -> bool:
        """Return the same, once no login is in progress: from the logout before it on, no key can be found and no
        handle works, and that is no loss."""
        if self.is_current(lease):
            lease.login.wait()
        return self.is_current(lease)

    def note_success(self) -> None:
        """The token did what it was asked: nothing is doubtful any more."""
        if self._state.detector.suspect:
            with self._state.lock:
                self._state.detector.note_success()

    def log_in_again(self, lease: TokenLease) -> None:
        """The token has logged this process out. Raises `BackendError`: a lost token, or a PIN that is refused now."""
        _log.warning("the token %r has logged this process out; logging in again", lease.token.label)
        try:
            with self.module.call(self._settings.open_timeout_s):
                lease.login.again(lease.epoch, self._settings)
        except OperatorError as error:
            self._healer.block(error)
            raise
        except UnavailableError as error:
            raise self.lost(lease, error) from None

    def lost(self, lease: TokenLease, error: BackendError) -> BackendError:
        """The token does not serve any more, and is mended in the background. Returns the error for the caller."""
        state = self._state
        with state.lock:
            if not self.is_current(lease) or state.detector.problem is not None:
                return state.detector.problem or UnavailableError(
                    error.part, error.message, error.remedy, retry_after_s=0.1
                )
            state.detector.note_loss(time.monotonic())
            problem = state.lost(error)
            if state.enter(Event.LOSS, problem):
                self._healer.begin()
            for_caller = state.error(problem)
        _log.error("the token %r is lost: %s", lease.token.label, error)
        return for_caller

    def key_gone(self, lease: TokenLease, key: TokenKey, error: BackendError) -> BackendError:
        """One key is not there any more. If the token still shows another one, only that key is gone. Otherwise the
        token is lost: some show no objects then, and no error (SoftHSM does). Returns the error for the caller."""
        state = self._state
        if key not in state.keys:
            return error  # it is not used any more, and may have been deleted
        problems: dict[TokenKey, BackendError] = {}
        if len(state.keys) > 1:
            with contextlib.suppress(BackendError, PKCS11Error), self.module.call(self._settings.hang_after_s):
                problems = self._healer.find_keys(lease.login)
        with state.lock:
            if state.detector.problem is None and problems and len(problems) < len(state.keys):
                self._set_key_problems(problems)
                return state.problem_of(key) or UnavailableError(error.part, error.message, retry_after_s=0.1)
        return self.lost(lease, error)

    def key_differs(self, key: TokenKey, error: IntegrityError) -> BackendError:
        """Another key has the place of this one. Returns the error for the caller."""
        with self._state.lock:
            self._set_key_problems({**self._state.key_problems, key: error})
            return self._state.problem_of(key) or error

    def _set_key_problems(self, problems: dict[TokenKey, BackendError]) -> None:
        self._state.set_key_problems(problems)
        if self._state.key_problems:
            self._healer.begin()

    def block(self, error: OperatorError) -> None:
        """The token answered something that only a person mends: it is not used again before the next start."""
        self._healer.block(error, refused=True)

    def doubt(self, lease: TokenLease, what: Meaning) -> bool:
        """Note a failure whose reason the module does not give; return whether the token is lost by that."""
        with self._state.lock:
            if not self._state.detector.note_doubt():
                return False
        self.lost(lease, backend_error(what, "again and again"))
        return True

    def note_failure(self, lease: TokenLease, what: Meaning) -> None:
        """Note an operation for which the token had no room after all its attempts: when nothing else comes any more,
        that is how a lost token answers."""
        with self._state.lock:
            if not self._state.detector.note_failure(time.monotonic()):
                return
        self.lost(lease, backend_error(what, "for some time, whatever it was asked"))

    def pause(self, seconds: float) -> None:
        """Wait, outside of the module; it ends early when the store is closed."""
        with self._state.lock:
            self._state.lock.wait_for(lambda: self._state.closed, seconds)

    # --- for the module (`module.ModuleListener`) ---

    @property
    def healthy(self) -> bool:
        """Whether the token serves."""
        return self._state.detector.problem is None

    def reinitialized(self) -> None:
        """Find everything again: all sessions, handles and logins are void."""
        self._healer.rebuild_after_start()

    def call_hangs(self) -> None:
        """Fail what waits, and leave the token to a new process."""
        state = self._state
        message = f"a call into {self.module.path} does not come back"
        error = ProcessRestartRequired("module", message, "it is left to a new process; look at the module's own log")
        with state.lock:
            if state.closed or state.detector.state is State.HANGS:
                return
            state.enter(Event.HANG, error)
            self._healer.begin()
        _log.error("%s", error)
        self._on_hang(error)
