"""What this process knows of one token: its lease, its keys, what is wrong with it, and who wants to know.

`token_connection` serves keys and signing threads from it, `healing` mends it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

import pkcs11

from privyseal_backends.backoff import jittered
from privyseal_backends.interface import BackendError, ProcessRestartRequired, UnavailableError
from privyseal_backends.pkcs11.address import KeyAddress
from privyseal_backends.pkcs11.loss_detector import LONGEST_PAUSE_S, Event, LossDetector, State
from privyseal_backends.pkcs11.module import Module
from privyseal_backends.pkcs11.observers import Observers
from privyseal_backends.pkcs11.settings import Settings
from privyseal_backends.pkcs11.token import TokenLogin
from privyseal_backends.pkcs11.token_key import TokenKey

_CLOSED = ("module", "the key store was closed", "open the key again")


@dataclass(frozen=True)
class TokenLease:
    """What sessions and handles are valid for: one start of the module, one login, one token object."""

    token: pkcs11.Token
    generation: int
    login: TokenLogin
    epoch: int

    @property
    def current(self) -> bool:
        """Whether the login is still the last one."""
        return self.epoch == self.login.epoch


class TokenState:
    """One token as one store has it. Every method needs `lock`, but `serves` and `lease`, which read one value.

    With `new_process` a loss is for a new process to mend: nothing that may be in use is begun anew in this one.
    """

    def __init__(
        self, module: Module, lease: TokenLease, address: KeyAddress, settings: Settings, *, new_process: bool
    ) -> None:
        self.module = module
        self.address = address
        self.settings = settings
        self.new_process = new_process
        self.lock = threading.Condition(threading.Lock())
        self.lease = lease
        self.generation = lease.generation
        self.keys: list[TokenKey] = []
        self.key_problems: dict[TokenKey, BackendError] = {}
        self.detector = LossDetector(new_process=new_process)
        self.observers = Observers()
        self.closed = False
        self.next_try_s = 0.0

    @property
    def serves(self) -> bool:
        """Whether the token and all its keys serve."""
        return self.detector.problem is None and not self.key_problems

    def forget(self, key: TokenKey) -> None:
        """The key is not used any more."""
        self.keys = [each for each in self.keys if each is not key]
        self.observers.remove(key)
        self.key_problems = {each: problem for each, problem in self.key_problems.items() if each is not key}
        self.lock.notify_all()

    def problem_of(self, key: TokenKey) -> BackendError | None:
        """Return the error for a caller of the key; None while it serves."""
        problem = self.detector.problem or self.key_problems.get(key)
        return None if problem is None else self.error(problem)

    def error(self, problem: BackendError) -> BackendError:
        """Return a problem as the error for one more caller: each error is raised once, and says when to retry."""
        if self.closed:
            return UnavailableError(*_CLOSED)
        error = type(problem)(problem.part, problem.message, problem.remedy)
        if isinstance(error, UnavailableError):
            error.retry_after_s = min(LONGEST_PAUSE_S, max(0.1, self.next_try_s - time.monotonic() + 0.05))
        return error

    def may_wait(self, problem: BackendError) -> bool:
        """Return whether a call may wait until the problem is mended."""
        return (
            self.settings.wait_for_token
            and not self.closed
            and isinstance(problem, UnavailableError)
            and self.detector.state is not State.HANGS
        )

    def lost(self, error: BackendError) -> UnavailableError:
        """Return an error as that of a lost token."""
        kind = ProcessRestartRequired if self.new_process else UnavailableError
        return kind(error.part, error.message, error.remedy)

    def enter(self, event: Event, problem: BackendError) -> bool:
        """Take an event, and tell the observers; return whether the state allows it."""
        if self.closed or not self.detector.enter(event, problem):
            return False
        self.observers.notify(self.problem_of)
        return True

    def set_next_try(self) -> None:
        """Decide when it is tried next, and wake whoever waits."""
        self.next_try_s = time.monotonic() + jittered(self.detector.pause_s())
        self.lock.notify_all()

    def set_key_problems(self, problems: Mapping[TokenKey, BackendError]) -> None:
        """All keys were looked for, and these were not found."""
        self.key_problems = {key: problem for key, problem in problems.items() if key in self.keys}
        self.observers.notify(self.problem_of)
        self.lock.notify_all()
