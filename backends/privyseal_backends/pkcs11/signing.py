"""A token's signing threads: each has a session of its own, works in small groups, and verifies before it answers.

A failed operation fails its own input alone. After any error the session is thrown away, since some tokens leave the
operation active in it. Handles that went stale are found again once, with the fingerprint checked again.

What a lost token needs beyond that (finalise, initialise, log in) is not done here: its operations end in
`UnavailableError`, and `Fault.TOKEN_LOST` and `Fault.LOGIN_LOST` mark the places.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time

import pkcs11
from pkcs11.exceptions import PKCS11Error

from privyseal_backends.interface import (
    BackendError,
    IntegrityError,
    OperatorError,
    Plaintext,
    Signature,
    SigningInput,
    UnavailableError,
)
from privyseal_backends.pkcs11.errors import Fault, backend_error, meaning
from privyseal_backends.pkcs11.key import TokenKey, decrypt, find_again, sign
from privyseal_backends.pkcs11.module import Module
from privyseal_backends.pkcs11.objects import MAPPER
from privyseal_backends.pkcs11.queue import (
    Answer,
    Batch,
    Decryption,
    Operation,
    Result,
    Task,
    WorkQueue,
    deadline_passed,
    send,
)
from privyseal_backends.verification import verify

_log = logging.getLogger(__name__)

_HOLD_S = 0.02
"""How long answers of a group wait for the rest of it, so that a slow token's first answer does not wait for all."""


class SigningThreads:
    """The threads of one token, with the queue before them. Daemons: one that hangs in a module must not keep the
    process from ending."""

    def __init__(self, module: Module, token: pkcs11.Token, *, threads: int, group: int, read_write: bool) -> None:
        self.module = module
        self.token = token
        self.group = group
        self.read_write = read_write
        self.queue = WorkQueue()
        self._threads = [
            threading.Thread(target=_Worker(self).run, name=f"privyseal-sign-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def parallel_inputs(self) -> int:
        """How many operations the threads take up at once."""
        return len(self._threads) * self.group

    def put(self, batch: Batch) -> bool:
        """Queue a batch; False when the threads have been told to end."""
        return self.queue.put(batch)

    def close(self) -> None:
        """Tell the threads to finish what is queued and end."""
        self.queue.close()

    def join(self, until_s: float) -> bool:
        """Wait for the threads until a reading of `time.monotonic()`; False when one is still at work."""
        for thread in self._threads:
            thread.join(max(0.0, until_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)


class _Worker:
    """What one signing thread has: a session, and each key's handle on it."""

    def __init__(self, owner: SigningThreads) -> None:
        self._owner = owner
        self._session: pkcs11.Session | None = None
        self._handles: dict[TokenKey, pkcs11.PrivateKey] = {}

    def run(self) -> None:
        """Work until the queue is closed and empty."""
        while (tasks := self._owner.queue.take(self._owner.group)) is not None:
            self._work(tasks)
        with contextlib.suppress(BackendError), self._owner.module.call():
            self._discard_session()

    def _work(self, tasks: list[Task]) -> None:
        answers: list[Answer] = []
        held_since = time.monotonic()
        try:
            with self._owner.module.call():
                for batch, index in tasks:
                    if batch.abandoned:
                        continue
                    answers.append((batch, index, self._perform(batch, index)))
                    if time.monotonic() - held_since > _HOLD_S:
                        send(answers)
                        answers, held_since = [], time.monotonic()
        except BackendError as error:  # the module was closed, or this process forked: nothing of the group was begun
            answers = [(batch, index, error) for batch, index in tasks]
        if answers:
            send(answers)

    def _perform(self, batch: Batch, index: int) -> Result:
        started = time.monotonic()
        if started >= batch.deadline_s:
            return deadline_passed()
        try:
            value = self._attempts(batch.key, batch.operations[index])
            ended = time.monotonic()
            queued_s, store_s = started - batch.queued_s, ended - started
            operation = batch.operations[index]
            if isinstance(operation, Decryption):
                return Plaintext(value, queued_s=queued_s, store_s=store_s)
            verify(batch.key.public_key, operation, value)
            return Signature(value, queued_s=queued_s, store_s=store_s)
        except IntegrityError as error:
            self._discard_session()
            return error
        except BackendError as error:
            return error
        except Exception as error:  # noqa: BLE001 - a thread that died would leave every later caller waiting
            self._forget_session()
            _log.error("an operation on the token %r ended in %s", self._owner.token.label, type(error).__name__)
            return UnavailableError("token", "an operation ended in an unexpected error", "read the service's log")

    def _attempts(self, key: TokenKey, operation: Operation) -> bytes:
        try:
            return self._once(key, operation)
        except PKCS11Error as error:
            self._discard_session()
            if meaning(error).fault is not Fault.STALE_HANDLE:
                raise backend_error(error, _verb(operation)) from None
        try:
            return self._once(key, operation)
        except PKCS11Error as error:
            self._discard_session()
            raise _lost(error, operation) from None

    def _once(self, key: TokenKey, operation: Operation) -> bytes:
        handle = self._handle(key)
        if isinstance(operation, SigningInput):
            return sign(handle, operation, key.public_key.modulus_bytes)
        return decrypt(handle, operation.ciphertext, operation.mechanism, key.public_key, lambda: self._fresh(key))

    def _fresh(self, key: TokenKey) -> pkcs11.PrivateKey:
        """The key's handle on a new session."""
        self._discard_session()
        return self._handle(key)

    def _handle(self, key: TokenKey) -> pkcs11.PrivateKey:
        handle = self._handles.get(key)
        if handle is None:
            if self._session is None:
                self._session = self._owner.token.open(rw=self._owner.read_write, attribute_mapper=MAPPER)
            try:
                handle = self._handles[key] = find_again(self._session, key)
            except OperatorError as error:
                # It was there once. A token that went away shows no objects rather than an error (SoftHSM does).
                raise UnavailableError("token", f"the key is gone: {error.message}", error.remedy) from None
        return handle

    def _discard_session(self) -> None:
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


def _lost(error: PKCS11Error, operation: Operation) -> BackendError:
    """The second failure in a row: what was a stale handle before is a lost token now."""
    what = meaning(error)
    if what.fault is not Fault.STALE_HANDLE:
        return backend_error(what, _verb(operation))
    return UnavailableError(
        "token", f"the token answered {what.name} twice when asked {_verb(operation)}", "check that the token is there"
    )
