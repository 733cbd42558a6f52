"""A token's signing threads: each has a session of its own, works in small groups, and verifies before it answers.

A failed operation fails only its own input. After any error but a busy token's the session is thrown away, since some
tokens leave the operation active in it. What can be mended on the spot is, once for each operation and within its
deadline: a stale handle, a lost login, a busy moment. What cannot is told to the token's link (`healing`).
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from typing import TypeAlias

import pkcs11
from pkcs11.exceptions import PKCS11Error

from privyseal_backends.backoff import Backoff
from privyseal_backends.interface import (
    BackendError,
    BusyError,
    IntegrityError,
    OperatorError,
    Plaintext,
    Signature,
    SigningInput,
    UnavailableError,
)
from privyseal_backends.pkcs11.errors import Fault, Meaning, backend_error, meaning
from privyseal_backends.pkcs11.objects import MAPPER
from privyseal_backends.pkcs11.queue import (
    Batch,
    Decryption,
    Operation,
    Result,
    Task,
    WorkQueue,
    deadline_passed,
    send,
)
from privyseal_backends.pkcs11.settings import Settings
from privyseal_backends.pkcs11.token_connection import TokenConnection
from privyseal_backends.pkcs11.token_key import TokenKey, decrypt, find_again, sign
from privyseal_backends.pkcs11.token_state import TokenLease
from privyseal_backends.verification import verify

_log = logging.getLogger(__name__)

_HOLD_S = 0.02
"""How long answers of a group wait for the rest of it, so that a slow token's first answer does not wait for all."""
_BUSY_TRIES = 5
_BUSY_BACKOFF = Backoff(0.02, 0.32, jitter=0.5)
_BUSY_RETRY_S = 0.25
_MOST_ATTEMPTS = 12
_NO_ROOM, _REST_S = "CKR_SESSION_COUNT", 1.0
_FAILED = "CKR_FUNCTION_FAILED"
"""A busy CloudHSM's answer, and that of other tokens to whatever went wrong."""


_Done: TypeAlias = tuple[Batch, int, bytes | BackendError, float, float]
"""An operation, what came of it, and the times when it began and ended."""


_Met: TypeAlias = defaultdict[Fault, int]
"""What went wrong in the attempts at one operation, and how often."""


class _NoRoomError(Exception):
    """The token has no session left for this thread, and others have one."""


class _GoneError(Exception):
    """The token shows a key no more that it had."""

    def __init__(self, cause: OperatorError) -> None:
        super().__init__(cause.message)
        self.error = UnavailableError("token", f"the key is gone: {cause.message}", cause.remedy)


class Executor:
    """The threads of one token, with the queue before them. Daemons: one that hangs in a module must not keep the
    process from ending."""

    def __init__(self, connection: TokenConnection, settings: Settings, *, threads: int) -> None:
        self.connection = connection
        self.group = settings.group
        self.read_write = settings.read_write
        self.hang_after_s = settings.hang_after_s
        self.queue = WorkQueue()
        self._workers = [_Worker(self) for _ in range(threads)]
        self._threads = [
            threading.Thread(target=worker.run, name=f"privyseal-sign-{number}", daemon=True)
            for number, worker in enumerate(self._workers)
        ]
        connection.on_hang(self.fail)
        for thread in self._threads:
            thread.start()

    @property
    def parallel_inputs(self) -> int:
        """How many operations the threads take up at once."""
        return len(self._threads) * self.group

    @property
    def have_session(self) -> bool:
        """Whether any thread has a session."""
        return any(worker.has_session for worker in self._workers)

    def put(self, batch: Batch) -> bool:
        """Queue a batch; False when the threads have been told to end."""
        return self.queue.put(batch)

    def fail(self, error: BackendError) -> None:
        """Answer whatever is queued or in hand: who has it may never come back."""
        tasks = self.queue.take_all()
        for worker in self._workers:
            tasks.extend(worker.in_hand)
        send([(batch, index, error) for batch, index in tasks if not batch.abandoned])

    def close(self) -> None:
        """Tell the threads to finish what is queued and end."""
        self.queue.close()

    def join(self, until_s: float) -> bool:
        """Wait for the threads until a reading of `time.monotonic()`; False when one is still at work."""
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)


class _Worker:
    """What one signing thread has: a session, and each key's handle on it, good under one lease on the token."""

    def __init__(self, owner: Executor) -> None:
        self._owner = owner
        self._connection = owner.connection
        self._lease: TokenLease | None = None
        self._session: pkcs11.Session | None = None
        self._handles: dict[TokenKey, pkcs11.PrivateKey] = {}
        self._in_hand: Sequence[Task] = ()
        self._inside = owner.connection.module.call(owner.hang_after_s)

    @property
    def has_session(self) -> bool:
        """Whether it can work."""
        return self._session is not None

    @property
    def in_hand(self) -> Sequence[Task]:
        """What it has taken up and not answered; looked at from another thread."""
        return self._in_hand

    def run(self) -> None:
        """Work until the queue is closed and empty."""
        while (tasks := self._owner.queue.take(self._owner.group)) is not None:
            self._work(tasks)
            tasks.clear()  # a session key among the inputs is not kept until the next one comes
        self._discard_session()

    def _work(self, tasks: list[Task]) -> None:
        """Perform a group, then check and answer all of it: between two operations, which empty the processor's caches,
        stands no more than has to."""
        self._in_hand = tasks
        done: list[_Done] = []
        held_since_s = time.monotonic()
        for place, (batch, index) in enumerate(tasks):
            if batch.abandoned:
                continue
            began_s = time.monotonic()
            try:
                outcome = self._perform(batch, index)
            except _NoRoomError:
                self._deliver(done)
                self._make_room(tasks[place:])
                return
            ended_s = time.monotonic()
            done.append((batch, index, outcome, began_s, ended_s))
            if ended_s - held_since_s > _HOLD_S:
                self._deliver(done)
                self._in_hand = tasks[place + 1 :]
                done, held_since_s = [], time.monotonic()
        self._deliver(done)
        self._in_hand = ()

    def _make_room(self, rest: Sequence[Task]) -> None:
        """Leave what is in hand to threads that have a session, and rest for a while."""
        self._in_hand = ()
        self._owner.queue.give_back(rest)
        _log.warning("the token has no session left for another thread; lower `sessions` of [stores.pkcs11]")
        self._connection.pause(_REST_S)

    def _deliver(self, done: Sequence[_Done]) -> None:
        if done:
            send([(each[0], each[1], self._checked(each)) for each in done])

    def _checked(self, done: _Done) -> Result:
        """The result of an operation: a signature only when it verifies."""
        batch, index, outcome, began_s, ended_s = done
        if isinstance(outcome, BackendError):
            return outcome
        operation = batch.operations[index]
        queued_s, store_s = began_s - batch.queued_s, ended_s - began_s
        if isinstance(operation, Decryption):
            return Plaintext(outcome, queued_s=queued_s, store_s=store_s)
        try:
            verify(batch.key.public_key, operation, outcome)
        except IntegrityError as error:
            self._discard_session()
            return error
        except Exception as error:  # noqa: BLE001 - as in `_perform`
            return self._unexpected(error)
        return Signature(outcome, queued_s=queued_s, store_s=store_s)

    def _perform(self, batch: Batch, index: int) -> bytes | BackendError:
        """What the token answered to one operation, not verified yet."""
        try:
            return self._attempts(batch, index)
        except IntegrityError as error:
            self._discard_session()
            return error
        except BackendError as error:
            return error
        except _NoRoomError:
            raise
        except Exception as error:  # noqa: BLE001 - a thread that died would leave every later caller waiting
            return self._unexpected(error)

    def _unexpected(self, error: Exception) -> UnavailableError:
        self._forget_session()
        _log.error("an operation on a token ended in %s", type(error).__name__)
        return UnavailableError("token", "an operation ended in an unexpected error", "read the service's log")

    def _attempts(self, batch: Batch, index: int) -> bytes:
        """The operation's result, after as many attempts as can help. Raises `BackendError`."""
        met: _Met = defaultdict(int)
        overtaken = 0
        while True:
            if time.monotonic() >= batch.deadline_s:
                raise deadline_passed()
            lease = self._connection.lease(batch.key, batch.deadline_s)
            try:
                value = self._once(lease, batch.key, batch.operations[index])
            except PKCS11Error as error:
                self._meet(meaning(error), met, lease, batch, index)
            except _GoneError as gone:
                if not self._connection.is_settled(lease) and overtaken < _MOST_ATTEMPTS:
                    overtaken += 1
                    continue
                met[Fault.TOKEN_LOST] += 1
                self._wait_or_raise(self._connection.key_gone(lease, batch.key, gone.error), met)
            else:
                self._connection.note_success()
                return value

    def _once(self, lease: TokenLease, key: TokenKey, operation: Operation) -> bytes:
        with self._inside:
            if lease is not self._lease:
                self._adopt(lease)
            try:
                handle = self._handle(key)
                if isinstance(operation, SigningInput):
                    return sign(handle, operation, key.public_key.modulus_bytes)
                return decrypt(
                    handle, operation.ciphertext, operation.mechanism, key.public_key, lambda: self._fresh(key)
                )
            except PKCS11Error as error:
                if meaning(error).fault is not Fault.BUSY:
                    self._close_session()
                raise

    def _meet(self, what: Meaning, met: _Met, lease: TokenLease, batch: Batch, index: int) -> None:
        """Do what helps against a failed attempt and return for another one, or raise the `BackendError` that it is."""
        verb = _verb(batch.operations[index])
        met[what.fault] += 1
        if what.fault is not Fault.STALE_HANDLE:
            met[Fault.STALE_HANDLE] = 0  # twice is twice in a row: a busy token may have left its operation active
        if not self._connection.is_settled(lease) and sum(met.values()) < _MOST_ATTEMPTS:
            return  # somebody else has met it too, and has mended it since
        times = met[what.fault]
        match what.fault:
            case Fault.STALE_HANDLE if times > 1:
                met[Fault.TOKEN_LOST] += 1
                self._wait_or_raise(self._connection.lost(lease, _twice(what, verb)), met)
            case Fault.LOGIN_LOST if times == 1:
                self._connection.log_in_again(lease)
            case Fault.LOGIN_LOST | Fault.TOKEN_LOST:
                met[Fault.TOKEN_LOST] += what.fault is Fault.LOGIN_LOST
                self._wait_or_raise(self._connection.lost(lease, backend_error(what, verb)), met)
            case Fault.DOUBTFUL if self._connection.doubt(lease, what) or times > 1:
                raise backend_error(what, verb)
            case Fault.BUSY:
                self._rest(what, times, lease, batch, verb)
            case Fault.CALLER | Fault.OPERATOR:
                raise self._answer(what, verb)

    def _wait_or_raise(self, error: BackendError, met: _Met) -> None:
        """Return for an attempt once the token is back, the first time and where calls may wait for that."""
        if met[Fault.TOKEN_LOST] > 1 or not self._connection.waits:
            raise error
        met[Fault.STALE_HANDLE] = met[Fault.LOGIN_LOST] = 0

    def _answer(self, what: Meaning, verb: str) -> BackendError:
        """The error for an answer that no attempt would change."""
        error = backend_error(what, verb)
        if isinstance(error, OperatorError) and error.part == "PIN":
            self._connection.block(error)
        return error

    def _rest(self, what: Meaning, times: int, lease: TokenLease, batch: Batch, verb: str) -> None:
        """Give a busy token a moment. Raises `BackendError` when that was not enough, or there is no time for it."""
        if what.name == _NO_ROOM and not self.has_session and self._owner.have_session:
            raise _NoRoomError
        pause_s = _BUSY_BACKOFF.delay_s(times)
        if times < _BUSY_TRIES and time.monotonic() + pause_s < batch.deadline_s:
            self._connection.pause(pause_s)
            return
        if what.name == _FAILED:
            self._connection.note_failure(lease, what)
        raise BusyError(what.part, backend_error(what, verb).message, what.remedy, retry_after_s=_BUSY_RETRY_S)

    def _adopt(self, lease: TokenLease) -> None:
        """Work under another lease. What was opened before the module was begun anew is not even closed: handles begin
        again at low numbers, so it could be somebody else's by now."""
        if self._lease is not None and self._lease.generation == lease.generation:
            self._close_session()
        else:
            self._forget_session()
        self._lease = lease

    def _fresh(self, key: TokenKey) -> pkcs11.PrivateKey:
        """The key's handle on a new session."""
        self._close_session()
        return self._handle(key)

    def _handle(self, key: TokenKey) -> pkcs11.PrivateKey:
        handle = self._handles.get(key)
        if handle is None:
            assert self._lease is not None
            if self._session is None:
                self._session = self._lease.token.open(rw=self._owner.read_write, attribute_mapper=MAPPER)
            try:
                handle = self._handles[key] = find_again(self._session, key)
            except OperatorError as error:
                raise _GoneError(error) from None
            except IntegrityError as error:
                raise self._connection.key_differs(key, error) from None
        return handle

    def _discard_session(self) -> None:
        """Close the session, from outside of the module."""
        if self._session is not None:
            with contextlib.suppress(BackendError), self._inside:
                lease = self._lease
                if lease is not None and lease.generation == self._connection.module.generation:
                    self._close_session()
        self._forget_session()

    def _close_session(self) -> None:
        """Close the session, from inside of the module."""
        session = self._forget_session()
        if session is not None:
            # It may be gone on the token's side already, and then there is nothing to close.
            with contextlib.suppress(PKCS11Error):
                session.close()

    def _forget_session(self) -> pkcs11.Session | None:
        session, self._session = self._session, None
        self._handles.clear()
        return session


def _verb(operation: Operation) -> str:
    return "to sign" if isinstance(operation, SigningInput) else "to decrypt"


def _twice(what: Meaning, verb: str) -> UnavailableError:
    """What was a stale handle at first is a lost token now."""
    return UnavailableError(
        "token", f"the token answered {what.name} twice when asked {verb}", "check that the token is there"
    )
