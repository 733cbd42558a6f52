"""What this process has of one token, and how it gets it back: the ladder from a lost login to a lost module.

Signing threads tell what they met; a thread that lives as long as something is broken mends it, with growing pauses and
jitter. What heals what is the table of `errors.Fault`. docs/recovery.md tells an operator the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pkcs11
from pkcs11.exceptions import PKCS11Error

from privyseal_backends.backoff import Backoff, jittered
from privyseal_backends.interface import BackendError, IntegrityError, LostError, OperatorError, UnavailableError
from privyseal_backends.pkcs11.address import KeyAddress
from privyseal_backends.pkcs11.errors import Fault, Meaning, backend_error, meaning
from privyseal_backends.pkcs11.module import LOOK_FOR_HANGS_EVERY_S, Module
from privyseal_backends.pkcs11.settings import Settings
from privyseal_backends.pkcs11.token import TokenLogin, find_token, login_on
from privyseal_backends.pkcs11.token_key import TokenKey, find_again

_log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 1.0
"""A token that is back is found within that and the time that finding takes."""
_SLOW_PAUSE_S = 15.0
"""Between looks at what only a person mends."""
_NEW_PROCESS_PAUSE_S = 0.5
"""A new process is the better cure, so it is given this head start."""
_NEW_PROCESS_S = 3.0
"""How long a call waits in a process that is about to be replaced: by then its caller is better off trying again."""
_STEADY_S = 30.0
"""After so long without a loss, the next one is the first of its kind again."""
_DOUBTS = 3
_FAILURES, _FAILING_S = 3, 5.0
_RANDOM_BITS = 64
_CLOSED = ("module", "the key store was closed", "open the key again")


class _Cause(enum.Enum):
    """Why the token does not serve."""

    LOST = "lost"
    HANGS = "hangs"
    BLOCKED = "blocked"
    REFUSED = "refused"


@dataclass(frozen=True)
class TokenLease:
    """What sessions and handles are good for: one start of the module, one login, one token object."""

    token: pkcs11.Token
    generation: int
    login: TokenLogin
    epoch: int

    @property
    def current(self) -> bool:
        """Whether the login is still the last one."""
        return self.epoch == self.login.epoch


@dataclass
class _Observer:
    loop: asyncio.AbstractEventLoop
    key: TokenKey
    tell: Callable[[BackendError | None], None]
    told: tuple[type[BackendError], str] | None


class TokenConnection:
    """One token as one store has it. Safe to use from any thread; takes its own lock last.

    With `new_process` a loss is for a new process to mend: nothing that may be in use is begun anew in this one.
    """

    def __init__(
        self, module: Module, hold: TokenLease, uri: KeyAddress, settings: Settings, *, new_process: bool
    ) -> None:
        self.module = module
        self._uri = uri
        self._settings = settings
        self._new_process = new_process
        self._lock = threading.Condition(threading.Lock())
        self._hold = hold
        self._generation = self._tried_generation = hold.generation
        self._keys: list[TokenKey] = []
        self._problem: BackendError | None = None
        self._cause: _Cause | None = None
        self._key_problems: dict[TokenKey, BackendError] = {}
        self._observers: list[_Observer] = []
        self._on_hang: Callable[[BackendError], None] = lambda _: None
        self._healer: threading.Thread | None = None
        self._closed = False
        self._tries = 0
        self._next_try_s = 0.0
        self._lost_s = 0.0
        self._suspect = False
        self._doubts = 0
        self._failures = 0
        self._failing_since_s = 0.0
        module.join(self)

    # --- for keys and their callers ---

    def adopt(self, key: TokenKey) -> None:
        """Keep this key found."""
        with self._lock:
            self._keys.append(key)

    def observe(self, key: TokenKey, tell: Callable[[BackendError | None], None]) -> None:
        """See `interface.Observed.observe`."""
        with self._lock:
            problem = self._problem_of(key)
            self._observers.append(_Observer(asyncio.get_running_loop(), key, tell, _gist(problem)))
        tell(problem)

    def forget(self, key: TokenKey) -> None:
        """See `interface.Observed.forget`."""
        with self._lock:
            self._keys = [each for each in self._keys if each is not key]
            self._observers = [each for each in self._observers if each.key is not key]
            self._key_problems = {each: problem for each, problem in self._key_problems.items() if each is not key}
            self._lock.notify_all()

    def refusal(self, key: TokenKey) -> BackendError | None:
        """Why a call with the key need not be queued now; None when it may be served, or may wait."""
        if self._problem is None and not self._key_problems:
            return None
        with self._lock:
            problem = self._problem_of(key)
            return None if problem is None or self._may_wait(problem) else problem

    def on_hang(self, fail: Callable[[BackendError], None]) -> None:
        """Have `fail` called with the error for whatever waits for the token or is inside, when a call hangs there."""
        self._on_hang = fail

    @property
    def waits(self) -> bool:
        """Whether calls may wait for a token that is away."""
        return self._settings.wait_for_token

    @property
    def hung(self) -> bool:
        """Whether a call hangs inside the module, so that there is nothing to wait for."""
        return self._cause is _Cause.HANGS

    def close(self) -> None:
        """Mend nothing more, and let nobody wait."""
        with self._lock:
            self._closed = True
            self._observers.clear()
            self._lock.notify_all()
        self.module.part(self)

    # --- for signing threads ---

    def hold(self, key: TokenKey, deadline_s: float) -> TokenLease:
        """What to open sessions on. Raises `BackendError` while the token or the key is not there; waits for it where
        the settings say so."""
        if self._problem is None and not self._key_problems:
            return self._fresh_hold()
        give_up_s = deadline_s
        if self._new_process:
            give_up_s = min(deadline_s, time.monotonic() + _NEW_PROCESS_S)
        with self._lock:
            while (problem := self._problem_of(key)) is not None:
                now_s = time.monotonic()
                if not self._may_wait(problem) or max(now_s, self._next_try_s) >= give_up_s:
                    raise problem
                self._lock.wait(give_up_s - now_s)
        return self._fresh_hold()

    def _fresh_hold(self) -> TokenLease:
        hold = self._hold
        if hold.current:
            return hold
        # Another store of this process shares the login, and has logged in again.
        with self._lock:
            self._hold = TokenLease(hold.token, hold.generation, hold.login, hold.login.epoch)
            return self._hold

    def is_current(self, hold: TokenLease) -> bool:
        """Whether what was met under a hold still says something of the token."""
        return hold is self._hold and hold.current

    def stands(self, hold: TokenLease) -> bool:
        """The same, once nobody is in the middle of a login: from the logout before it on, no key can be found and no
        handle works, and that is no loss."""
        if self.is_current(hold):
            hold.login.wait()
        return self.is_current(hold)

    def succeeded(self) -> None:
        """The token did what it was asked: whatever was doubtful is not."""
        if self._suspect:
            with self._lock:
                self._suspect = False
                self._tries = self._doubts = self._failures = 0

    def log_in_again(self, hold: TokenLease) -> None:
        """The token has logged this process out. Raises `BackendError`: a lost token, or a PIN that is refused now."""
        _log.warning("the token %r has logged this process out; logging in again", hold.token.label)
        try:
            with self.module.call(self._settings.open_timeout_s):
                hold.login.again(hold.epoch, self._settings)
        except OperatorError as error:
            self._block(error)
            raise
        except UnavailableError as error:
            raise self.lost(hold, error) from None

    def lost(self, hold: TokenLease, error: BackendError) -> BackendError:
        """The token does not serve any more; it is mended in the background. The error for the caller."""
        with self._lock:
            if not self.is_current(hold) or self._problem is not None:
                return self._problem or UnavailableError(error.part, error.message, error.remedy, retry_after_s=0.1)
            now_s = time.monotonic()
            if now_s - self._lost_s > _STEADY_S:
                self._tries = 0
            self._lost_s = now_s
            self._suspect = True
            kind = LostError if self._new_process else UnavailableError
            lost = kind(error.part, error.message, error.remedy)
            self._break(_Cause.LOST, lost)
            self._mend()
            problem = self._worded(lost)
        _log.error("the token %r is lost: %s", hold.token.label, error)
        return problem

    def key_gone(self, hold: TokenLease, key: TokenKey, error: BackendError) -> BackendError:
        """One key is not there any more. Where the token still shows another, it is that key alone; otherwise the token
        is lost: some show no objects then rather than an error (SoftHSM does). The error for the caller."""
        problems: dict[TokenKey, BackendError] = {}
        if key not in self._keys:
            return error  # it is used no more, and whoever said so may have deleted it
        if len(self._keys) > 1:
            with contextlib.suppress(BackendError, PKCS11Error), self.module.call(self._settings.hang_after_s):
                problems = self._find_keys(hold.login)
        with self._lock:
            if self._problem is None and problems and len(problems) < len(self._keys):
                self._found(problems)
                return self._problem_of(key) or UnavailableError(error.part, error.message, retry_after_s=0.1)
        return self.lost(hold, error)

    def key_differs(self, key: TokenKey, error: IntegrityError) -> BackendError:
        """Another key is in the place of this one. The error for the caller."""
        with self._lock:
            self._found({**self._key_problems, key: error})
            return self._problem_of(key) or error

    def blocked(self, error: OperatorError) -> None:
        """The token answered something that only a person mends: it is not asked again before the next start."""
        self._block(error, refused=True)

    def doubted(self, hold: TokenLease, what: Meaning) -> bool:
        """A failure whose reason the module does not tell. Whether it was one too many: then the token is lost."""
        with self._lock:
            self._suspect = True
            self._doubts += 1
            if self._doubts < _DOUBTS:
                return False
            self._doubts = 0
        self.lost(hold, backend_error(what, "again and again"))
        return True

    def failed(self, hold: TokenLease, what: Meaning) -> bool:
        """An operation for which the token had no room, after all its attempts. Whether that is a lost token's way to
        say so: when nothing else comes any more."""
        with self._lock:
            now_s = time.monotonic()
            self._suspect = True
            if not self._failures:
                self._failing_since_s = now_s
            self._failures += 1
            if self._failures < _FAILURES or now_s - self._failing_since_s < _FAILING_S:
                return False
            self._failures = 0
        self.lost(hold, backend_error(what, "for some time, whatever it was asked"))
        return True

    def pause(self, seconds: float) -> None:
        """Wait, outside of the module; ends early when the store is closed."""
        with self._lock:
            self._lock.wait_for(lambda: self._closed, seconds)

    # --- what the module tells and asks ---

    @property
    def well(self) -> bool:
        """See `module.ModuleListener`."""
        return self._problem is None

    def renewed(self) -> None:
        """See `module.ModuleListener`."""
        with self._lock:
            self._generation = self.module.generation
            if self._closed or self._cause is _Cause.REFUSED:
                return
        with self._failing_softly():
            self._rebuild()

    def hangs(self) -> None:
        """See `module.ModuleListener`."""
        with self._lock:
            if self._closed or self._cause is _Cause.HANGS:
                return
            message = f"a call into {self.module.path} does not come back"
            error = LostError("module", message, "it is left to a new process; look at the module's own log")
            self._break(_Cause.HANGS, error)
            self._mend()
        _log.error("%s", error)
        self._on_hang(error)

    # --- mending ---

    def _break(self, cause: _Cause, problem: BackendError) -> None:
        self._cause, self._problem = cause, problem
        self._tell()

    def _block(self, error: OperatorError, *, refused: bool = False) -> None:
        """Wait for a person. A PIN that was refused waits for the next start; what the token says of its count of wrong
        PINs, or a PIN that cannot be read, is looked at again."""
        with self._lock:
            if self._closed or self._cause is _Cause.REFUSED:
                return
            cause = _Cause.REFUSED if refused or self._is_refusal(error) else _Cause.BLOCKED
            news = self._problem is None or self._problem.message != error.message
            self._break(cause, OperatorError(error.part, error.message, error.remedy))
            self._mend()
        if news:
            _log.error("the token %r serves no more until somebody acts: %s", self._hold.token.label, error)

    def _is_refusal(self, error: OperatorError) -> bool:
        return any(error.message == refusal.message for refusal in self.module.refusals.values())

    def _mend(self) -> None:
        """Have somebody at work on it."""
        self._set_next_try()
        self._lock.notify_all()
        if self._healer is None and not self._closed:
            self._healer = threading.Thread(target=self._heal, name="privyseal-heal", daemon=True)
            self._healer.start()

    def _heal(self) -> None:
        while self._wait_for_next_try():
            with self._failing_softly(looking=self._problem is None):
                self._try()
            with self._lock:
                self._tries += 1
                self._set_next_try()

    def _wait_for_next_try(self) -> bool:
        """Whether there is something left to try."""
        with self._lock:
            while not self._closed and self._cause is not _Cause.REFUSED and (self._problem or self._key_problems):
                wait_s = self._next_try_s - time.monotonic()
                if wait_s <= 0:
                    return True
                self._lock.wait(wait_s)
            self._healer = None
            return False

    def _set_next_try(self) -> None:
        longest_s = _LONGEST_PAUSE_S if self._problem is not None else _SLOW_PAUSE_S
        if self._cause is _Cause.BLOCKED:
            pause_s = _SLOW_PAUSE_S
        elif self._cause is _Cause.HANGS:
            pause_s = LOOK_FOR_HANGS_EVERY_S
        elif self._tries == 0:
            pause_s = _NEW_PROCESS_PAUSE_S if self._new_process else 0.0
        else:
            pause_s = Backoff(_FIRST_PAUSE_S, longest_s).most_s(self._tries)
        self._next_try_s = time.monotonic() + jittered(pause_s)

    def _try(self) -> None:
        """One step to mend what is broken. Raises `BackendError` and `PKCS11Error` when it did not help."""
        if self._cause is _Cause.HANGS and self.module.overdue:
            return
        if self._cause is not _Cause.LOST or self._new_process or not self._may_renew():
            self._rebuild()
            return
        if self._tried_generation != self._generation:
            self._tried_generation = self._generation
            return  # somebody else began the module anew since the last try, and this token was looked for then
        settings = self._settings
        if not self.module.renew(self._generation, idle_s=settings.hang_after_s, start_s=settings.open_timeout_s):
            _log.warning("calls are still inside %s, so it is not begun anew yet", self.module.path)
        self._tried_generation = self._generation

    def _may_renew(self) -> bool:
        """Beginning a module anew logs its other tokens out for a moment: where these are well, it is done rarely."""
        return not self.module.others_well(self) or self.module.bears_another_start

    @contextlib.contextmanager
    def _failing_softly(self, *, looking: bool = False) -> Iterator[None]:
        """Around a step of mending: what it meets is the problem from then on; where it was only `looking` for a key on
        a token that serves, not before it has met that a few times."""
        try:
            yield
        except (PKCS11Error, BackendError) as error:
            self._meet(error, looking=looking)
        except Exception as error:  # noqa: BLE001 - a thread that died would mend nothing any more
            _log.error("mending the token ended in %s", type(error).__name__)
            self._still_lost(UnavailableError("token", "mending it ended in an unexpected error", "read the log"))

    def _meet(self, error: PKCS11Error | BackendError, *, looking: bool) -> None:
        if isinstance(error, OperatorError) and (error.part == "PIN" or self._is_refusal(error)):
            self._block(error)
            return
        if looking:
            with self._lock:
                self._suspect = True
                self._doubts += 1
                if self._problem is None and self._doubts < _DOUBTS:
                    return
        if isinstance(error, PKCS11Error):
            error = backend_error(error, "to be found again")
        self._still_lost(error)  # an operator's error too: it was there once, so it is away and not misconfigured

    def _still_lost(self, error: BackendError) -> None:
        with self._lock:
            if self._closed or self._cause is _Cause.REFUSED:
                return
            cause = _Cause.HANGS if self._cause is _Cause.HANGS and self.module.overdue else _Cause.LOST
            kind = LostError if self._new_process or cause is _Cause.HANGS else UnavailableError
            news = self._problem is None or self._problem.message != error.message
            self._break(cause, kind(error.part, error.message, error.remedy))
            self._mend()
        if news:
            _log.warning("the token %r is not there yet: %s", self._hold.token.label, error)

    def _rebuild(self) -> None:
        """Find the token, log in, and find every key again. Raises `BackendError` and `PKCS11Error`."""
        with self.module.call(self._settings.open_timeout_s):
            generation = self.module.generation
            token = find_token(self.module, self._uri)
            login = login_on(self.module, token)
            problems = self._find_keys(login)
            hold = TokenLease(token, generation, login, login.epoch)
        with self._lock:
            if self._keys and all(isinstance(problems.get(key), UnavailableError) for key in self._keys):
                raise problems[self._keys[0]]
            was_broken = self._problem is not None
            if was_broken or hold != self._hold:
                self._hold = hold
            self._problem = self._cause = None
            self._found(problems)
        if was_broken:
            _log.warning("the token %r is back", token.label)

    def _found(self, problems: dict[TokenKey, BackendError]) -> None:
        """All keys were looked for, and these were not found."""
        self._key_problems = {key: problem for key, problem in problems.items() if key in self._keys}
        self._tell()
        self._lock.notify_all()
        if self._key_problems:
            self._mend()

    def _find_keys(self, login: TokenLogin) -> dict[TokenKey, BackendError]:
        """Find every key on the login session, and ask the device itself for something: a search alone may be answered
        from a local database. What keeps single keys from being found."""
        with login.session(self._uri.pin_source, self._settings) as session:
            try:
                return self._look(session)
            except PKCS11Error as error:
                if meaning(error).fault not in (Fault.STALE_HANDLE, Fault.LOGIN_LOST):
                    raise
                login.again(login.epoch, self._settings)
        with login.session(self._uri.pin_source, self._settings) as session:
            return self._look(session)

    def _look(self, session: pkcs11.Session) -> dict[TokenKey, BackendError]:
        problems: dict[TokenKey, BackendError] = {}
        for key in tuple(self._keys):
            problem = _look_for(session, key)
            if problem is not None:
                problems[key] = problem
        try:
            session.generate_random(_RANDOM_BITS)
        except PKCS11Error as error:
            if meaning(error).fault is not Fault.CALLER:  # a token may have no generator
                raise
        return problems

    # --- what is told ---

    def _problem_of(self, key: TokenKey) -> BackendError | None:
        problem = self._problem or self._key_problems.get(key)
        return None if problem is None else self._worded(problem)

    def _worded(self, problem: BackendError) -> BackendError:
        """The problem for one more caller: an error is raised once, and says when to come again."""
        if self._closed:
            return UnavailableError(*_CLOSED)
        told = type(problem)(problem.part, problem.message, problem.remedy)
        if isinstance(told, UnavailableError):
            told.retry_after_s = min(_LONGEST_PAUSE_S, max(0.1, self._next_try_s - time.monotonic() + 0.05))
        return told

    def _may_wait(self, problem: BackendError) -> bool:
        return (
            self.waits
            and not self._closed
            and isinstance(problem, UnavailableError)
            and self._cause is not _Cause.HANGS
        )

    def _tell(self) -> None:
        for observer in self._observers:
            problem = self._problem_of(observer.key)
            if _gist(problem) != observer.told:
                observer.told = _gist(problem)
                # A loop that is closed has nobody who would want to know.
                with contextlib.suppress(RuntimeError):
                    observer.loop.call_soon_threadsafe(observer.tell, problem)


def _gist(problem: BackendError | None) -> tuple[type[BackendError], str] | None:
    return None if problem is None else (type(problem), problem.message)


def _look_for(session: pkcs11.Session, key: TokenKey) -> BackendError | None:
    """Why the key is not found; None when it is. Raises `PKCS11Error`."""
    try:
        find_again(session, key)
    except OperatorError as error:
        return UnavailableError(error.part, f"the key is gone: {error.message}", error.remedy)
    except IntegrityError as error:
        return error
    return None
