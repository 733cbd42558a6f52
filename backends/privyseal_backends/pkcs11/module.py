"""A PKCS#11 module of this process: who uses it, which calls are inside it, and its new start."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Hashable
from types import TracebackType
from typing import TypeVar, cast

from pkcs11.exceptions import PKCS11Error

from privyseal_backends.backoff import Backoff
from privyseal_backends.interface import BackendError, OperatorError, UnavailableError
from privyseal_backends.pkcs11.address import KeyAddress
from privyseal_backends.pkcs11.binding import CodeError, ThreadSafeLib, load_entry, meaning_of
from privyseal_backends.pkcs11.errors import Fault, meaning_of_code
from privyseal_backends.pkcs11.module_listener import Attachment, ModuleListener
from privyseal_backends.pkcs11.process_lock import turn

_log = logging.getLogger(__name__)

_CKR_ALREADY_INITIALIZED = 0x191
_START_ATTEMPTS = 4
_START_BACKOFF = Backoff(0.05, 0.2)

LOOK_FOR_HANGS_EVERY_S = 0.25
CALL_LIMIT_S = 30.0
"""Seconds that a call may be inside a module where its caller has no limit of its own."""
_SHORTEST_STEADY_S, _LONGEST_STEADY_S, _STEADY_TIMES = 1.0, 15.0, 50.0


T = TypeVar("T", bound=Attachment)


class _Call:
    """A stay inside a module; see `Module.call`. A class, since a generator would cost each signature 2 µs."""

    __slots__ = ("_module", "limit_s", "until_s")

    def __init__(self, module: Module, limit_s: float) -> None:
        self._module = module
        self.limit_s = limit_s
        self.until_s = 0.0

    def __enter__(self) -> None:
        self._module.enter(self)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._module.leave(self)


class Module:
    """A module of this process: who uses it, and which calls are inside it.

    Made only by `ModuleRegistry`. Safe to use from any thread. Whoever takes another lock inside the module takes it
    after `call`.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.refusals: dict[Hashable, OperatorError] = {}
        """What a token answered to a login that is not to be tried again, by what names the token."""
        self.latched: tuple[tuple[KeyAddress, OperatorError], ...] = ()
        """What tokens, by a URI that names them, answered to a login of another process."""
        self._pid = os.getpid()
        self._users = 0
        self._calls: set[_Call] = set()
        self._lock = threading.Lock()
        self._state = threading.Condition(self._lock)
        self._waiting_for_idle = 0
        self._ended = threading.Event()
        """Set when no tenant is left."""
        self._opening = threading.Lock()
        self._lib: ThreadSafeLib | None = None
        self._reserved: str | None = None
        self._attached: dict[Hashable, Attachment] = {}
        self._listeners: set[ModuleListener] = set()
        self._running = False
        self._starter: int | None = None
        self._start_until_s: float | None = None
        self._generation = 0
        self._begun_s = 0.0
        self._took_s = 0.0
        self._turn: threading.Lock | None = None

    @property
    def lib(self) -> ThreadSafeLib:
        """The module as python-pkcs11 sees it, initialised."""
        if self._lib is None or not self._running:
            raise UnavailableError("module", f"{self.path} is not initialised", "open the key again")
        return self._lib

    @property
    def forked(self) -> bool:
        """Whether this process was forked after the module was loaded."""
        return os.getpid() != self._pid

    def check_process(self) -> None:
        """Raise `OperatorError` in a process forked after the module was loaded: its state is its parent's."""
        if self.forked:
            raise OperatorError(
                "module",
                f"{self.path} was loaded before this process was forked and cannot be used in it",
                "start workers by spawn or exec, not by fork",
            )

    def call(self, limit_s: float = CALL_LIMIT_S) -> contextlib.AbstractContextManager[None]:
        """Around everything that calls into the module: counts the call in, refuses it after a fork or the end. After
        `limit_s` seconds inside it counts as hanging. One thread may enter it again and again."""
        return _Call(self, limit_s)

    def enter(self, call: _Call) -> None:
        """Let a call in, when nobody begins the module anew. Raises `BackendError`."""
        self.check_process()
        starting = self._starter is not None and self._starter == threading.get_ident()
        turn = None if starting else self._turn
        if turn is not None:
            turn.acquire()
        with self._lock:
            if self._starter is not None and not starting:
                self._state.wait_for(lambda: self._starter is None)
            if self._running:
                call.until_s = time.monotonic() + call.limit_s
                self._calls.add(call)
                return
        if turn is not None:
            turn.release()
        raise UnavailableError("module", f"{self.path} is closed", "open the key again")

    def leave(self, call: _Call) -> None:
        """The call is out again."""
        with self._lock:
            self._calls.remove(call)
            if self._waiting_for_idle and not self._calls:
                self._state.notify_all()
        if self._turn is not None and self._starter != threading.get_ident():
            self._turn.release()

    def _wait_until_idle(self, timeout_s: float) -> bool:
        """Wait, with the lock, until no call is inside; False when one stayed."""
        self._waiting_for_idle += 1
        try:
            return self._state.wait_for(lambda: not self._calls, timeout_s)
        finally:
            self._waiting_for_idle -= 1

    @property
    def overdue(self) -> bool:
        """Whether a call is inside for longer than it may be."""
        now_s = time.monotonic()
        start_until_s = self._start_until_s
        if start_until_s is not None and start_until_s < now_s:
            return True
        with self._state:
            return any(call.until_s < now_s for call in self._calls)

    def acquire(self, reserved: str | None) -> None:
        """Count a user in; the first one initialises the module, with the vendor's string. Raises `BackendError`."""
        self.check_process()
        with self._opening:
            if not self._running:
                self._reserved = reserved
                self._start()
            elif reserved != self._reserved:
                raise OperatorError(
                    "module", f"{self.path} was initialised with another init string", "use one in a process"
                )
            self._users += 1

    @property
    def generation(self) -> int:
        """How often the module was initialised."""
        return self._generation

    def refresh(self, generation: int, timeout_s: float) -> None:
        """Finalise and initialise the module of that generation, while nothing on it is in use, so that it looks at its
        tokens anew. Does nothing when somebody did so already, is logged in, or is inside for `timeout_s`."""
        with self._opening:
            if generation != self._generation or not self._running or self._in_use():
                return
            if not self._close_gate(timeout_s):
                return
            if self._in_use():
                with self._state:
                    self._open_gate()
                return
            self._begin_anew(timeout_s)

    def reinitialize(self, generation: int, *, idle_s: float, start_s: float) -> bool:
        """Begin the module of that generation anew, in place: wait `idle_s` at most until no call is inside, finalise,
        initialise, and tell every tenant, before anybody else is let in. When that takes longer than `start_s`, it
        counts as hanging.

        Returns False when a call stayed inside: nothing was done then. Does nothing when somebody did so already.
        Raises `BackendError` when the module does not initialise; it is tried again by the next `reinitialize`.
        """
        with self._opening:
            if generation != self._generation or not self._users:
                return True
            if not self._close_gate(idle_s):
                return False
            self._begin_anew(start_s)
            return True

    def _in_use(self) -> bool:
        with self._state:
            return any(each.in_use for each in self._attached.values())

    def _close_gate(self, idle_s: float) -> bool:
        """Let nobody else in, and wait until nobody is inside; False when somebody stayed, and the gate is open."""
        with self._state:
            self._starter = threading.get_ident()
            if self._wait_until_idle(idle_s):
                return True
            self._open_gate()
            return False

    def _open_gate(self) -> None:
        self._starter = None
        self._state.notify_all()

    def _begin_anew(self, start_s: float) -> None:
        """Finalise and initialise behind a closed gate, and open it."""
        since_s = time.monotonic()
        try:
            was_running, self._running = self._running, False
            attached, self._attached = self._attached, {}
            self._start_until_s = time.monotonic() + start_s
            for each in attached.values():
                each.forget()
            if was_running:
                self._finalize()
            try:
                self._start()
            finally:
                self._start_until_s = None
                for listener in tuple(self._listeners):
                    listener.reinitialized()
        finally:
            self._start_until_s = None
            self._took_s = time.monotonic() - since_s
            with self._state:
                self._open_gate()

    def subscribe(self, listener: ModuleListener) -> None:
        """Tell a tenant from now on what becomes of the module."""
        with self._state:
            first = not self._listeners
            self._listeners = self._listeners | {listener}
            if first:
                self._ended = threading.Event()
        if first:
            threading.Thread(
                target=self._watch_for_hangs, args=(self._ended,), name="privyseal-watch", daemon=True
            ).start()

    def unsubscribe(self, listener: ModuleListener) -> None:
        """Tell the tenant nothing more."""
        with self._state:
            self._listeners = self._listeners - {listener}
            if not self._listeners:
                self._ended.set()

    def others_healthy(self, listener: ModuleListener) -> bool:
        """Whether another tenant would be disturbed when the module is begun anew."""
        return any(other.healthy for other in self._listeners if other is not listener)

    @property
    def bears_another_start(self) -> bool:
        """Whether it may be begun anew for the sake of one token while others are well: these stand still meanwhile, so
        it is done ever so often that they lose a fiftieth of their time."""
        pause_s = min(_LONGEST_STEADY_S, max(_SHORTEST_STEADY_S, _STEADY_TIMES * self._took_s))
        return time.monotonic() - self._begun_s >= pause_s

    def _watch_for_hangs(self, ended: threading.Event) -> None:
        # Not on the condition of the calls: each of them would wake it.
        while not ended.wait(LOOK_FOR_HANGS_EVERY_S):
            if self.overdue:
                for listener in tuple(self._listeners):
                    listener.call_hangs()

    def attach(self, key: Hashable, make: Callable[[], T]) -> T:
        """What hangs on the module under `key`, made at the first time, closed before the module is finalised."""
        with self._state:
            if key not in self._attached:
                self._attached[key] = make()
            return cast("T", self._attached[key])

    def latch(self, uri: KeyAddress, error: OperatorError) -> None:
        """Let nobody log in to the token of `uri` any more."""
        with self._state:
            self.latched = (*self.latched, (uri, error))

    def release(self, timeout_s: float) -> bool:
        """Count a user out; the last one waits up to `timeout_s` seconds for calls to come out, then finalises.

        Returns False when a call stayed inside: then the module was left as it is, since finalising it would crash.
        """
        if self.forked:
            return True  # its state is the parent's
        with self._opening:
            self._users -= 1
            return self._users > 0 or self._stop(timeout_s)

    def _start(self) -> None:
        for attempt in range(1, _START_ATTEMPTS + 1):
            try:
                # Several processes that initialise SoftHSM at one moment trip over each other.
                with turn(self.path):
                    self._initialize()
                break
            except (CodeError, PKCS11Error) as error:
                failure = self._start_error(error)
                # Other programs take no turns; a bit later it succeeds.
                if attempt == _START_ATTEMPTS or isinstance(failure, OperatorError):
                    raise failure from None
                time.sleep(_START_BACKOFF.delay_s(attempt))
        if self._lib is not None and self._lib.one_at_a_time:
            _log.warning("%s cannot lock: one call at a time will be inside it", self.path)
            self._turn = self._turn or threading.Lock()
        with self._state:
            self._running = True
            self._generation += 1
            self._begun_s = time.monotonic()

    def _initialize(self) -> None:
        if self._lib is not None:
            self._lib.reserved = self._reserved
            self._lib.initialize()
            return
        entry = load_entry(self.path)
        if entry.private_lists and self._reserved is not None:
            raise OperatorError(
                "module", f"{self.path} belongs to p11-kit and takes no init string", "remove it from `init_strings`"
            )
        self._lib = ThreadSafeLib(self.path, entry, self._reserved)

    def _start_error(self, error: CodeError | PKCS11Error) -> BackendError:
        what = meaning_of(error)
        message = f"{self.path} answered {what.name} when asked to initialise"
        if what.name == meaning_of_code(_CKR_ALREADY_INITIALIZED).name:
            return OperatorError(
                "module",
                f"{message}: something else in this process uses it, and nobody knows whether for threads",
                "let nothing but the service use the module",
            )
        if what.fault in (Fault.CALLER, Fault.OPERATOR):
            return OperatorError("module", message, "read the module's documentation on its init string")
        return UnavailableError("module", message, "check the module's own configuration and its log")

    def _stop(self, timeout_s: float) -> bool:
        with self._state:
            if not self._wait_until_idle(timeout_s):
                _log.warning(
                    "%d call(s) are still inside %s, which was left initialised: end the process to free it",
                    len(self._calls),
                    self.path,
                )
                return False
            was_running, self._running = self._running, False
            attached, self._attached = self._attached, {}
        self.refusals.clear()
        self.latched = ()
        if was_running:
            for each in attached.values():
                self._close(each)
            self._finalize()
        return True

    def _finalize(self) -> None:
        try:
            if self._lib is not None:
                self._lib.finalize()
        except (CodeError, PKCS11Error) as error:
            _log.warning("%s would not finalise: %s", self.path, error)

    def _close(self, attached: Attachment) -> None:
        try:
            attached.close()
        except (CodeError, PKCS11Error) as error:
            _log.warning("%s answered %s when asked to log out", self.path, meaning_of(error).name)
