"""The use of a key, once a call is allowed: typed operation, scheduler, key store, and what is learned of the key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from privyseal_backends.interface import BackendError, CallerError, Key, SigningInput, SigningResult
from privyseal_service.domain import errors
from privyseal_service.domain.decisions import DecisionBuilder, Recorder
from privyseal_service.domain.errors import ServiceError, Violation
from privyseal_service.domain.operations import (
    MECHANISMS,
    InputError,
    check_session_key,
    check_unwrapped,
    checksum_to_sign,
    encrypt_session_key,
)
from privyseal_service.domain.requests import SignChecksums, UnwrapSessionKey, WrapSessionKey
from privyseal_service.keys.served_key import ServedKey
from privyseal_service.signing.batch_records import BatchRecorder, caller_error, caller_results
from privyseal_service.signing.calls import Answer
from privyseal_service.signing.scheduler import QueueRequest, Scheduler

MOST_CHECKSUMS = 2000
"""Checksums in one batch, so that requests fit gRPC's retry buffer and answers its message limit."""


class GuardedKey(NamedTuple):
    """A key that is looked at again right before each call of its store: a call that waited for its turn must not use a
    key that was frozen or lost meanwhile, or sign when decisions cannot be recorded any more."""

    served: ServedKey
    recorder: Recorder

    def usable(self) -> Key:
        """Return the key. Raises ServiceError when it must not be used now."""
        self.recorder.require_ready()
        return self.served.usable()


class KeyUse:
    """One allowed call on one key. The key and the recorder are looked at again right before each call of its store."""

    def __init__(self, builder: DecisionBuilder, served: ServedKey, scheduler: Scheduler, recorder: Recorder) -> None:
        self._builder = builder
        self._served = served
        self._scheduler = scheduler
        self._recorder = recorder
        self._guarded = GuardedKey(served, recorder)

    def open(self) -> Key:
        """Return the key, and record which it is. Raises ServiceError where it cannot be used now."""
        key = self._served.usable()
        self._builder.set_key(key.description)
        return key

    async def sign(self, inputs: Sequence[SigningInput], turn: QueueRequest) -> Answer:
        """Sign one input; its error is the call's."""
        self.open()
        results: Sequence[SigningResult | ServiceError]
        try:
            results = await self._scheduler.sign(self._guarded, inputs, turn)
        except BackendError as error:
            results = [error]
        self._note(inputs, results)
        self._builder.set_results(results)
        responses = caller_results(self._builder, self._served, results, {})
        self._builder.set_response(responses)
        if isinstance(responses[0], ServiceError):
            raise responses[0]
        return Answer(self._builder.key_version, responses)

    async def sign_batch(self, inputs: Sequence[SigningInput], turn: QueueRequest) -> Answer:
        """Sign each input of a batch; each has a result or an error of its own."""
        self.open()
        builder, batch = self._builder, BatchRecorder(self._builder, self._served, self._recorder)
        results: Sequence[SigningResult | ServiceError]
        try:
            results = await self._scheduler.sign(self._guarded, inputs, turn, batch.add)
        except BackendError as error:
            results = [error] * len(inputs)
        except BaseException:
            await batch.settle()
            raise
        self._note(inputs, results)
        builder.receipts = await batch.receipts()
        builder.set_results(results)
        responses = batch.responses(results)
        builder.set_response(responses)
        builder.items_recorded = batch.recorded
        if isinstance(responses[0], ServiceError):
            builder.failure = responses[0]
        return Answer(builder.key_version, responses)

    def check_wrapped_key(self, request: UnwrapSessionKey) -> None:
        """Raise InputError for a wrapped key that is not as long as the modulus."""
        size = self.open().description.public_key.modulus_bytes
        if len(request.wrapped_key) != size:
            raise InputError("wrapped_key", f"must be {size} bytes for this key, not {len(request.wrapped_key)}")

    async def unwrap(self, request: UnwrapSessionKey, turn: QueueRequest) -> Answer:
        """Decrypt a wrapped session key."""
        # One sentence for every fault of it: which check failed would help to forge one.
        unfit = InputError("wrapped_key", "is not a session key that was wrapped for this key with this scheme")
        served = self._served
        try:
            plaintext = await self._scheduler.decrypt(
                self._guarded, request.wrapped_key, MECHANISMS[request.scheme], turn
            )
        except CallerError:
            raise unfit from None
        except BackendError as error:
            served.note(error)
            raise caller_error(self._builder, served, error) from error
        served.note(plaintext)
        if not check_unwrapped(request.scheme, plaintext.value):
            raise unfit
        self._builder.set_results([plaintext])
        return Answer(self._builder.key_version, (plaintext.value,))

    def wrap(self, request: WrapSessionKey) -> Answer:
        """Wrap a session key with RSAES-OAEP. It needs only the public key, so the key store is not called."""
        check_session_key(request.scheme, request.session_key)
        wrapped = encrypt_session_key(request.scheme, request.session_key, self.open().description.public_key)
        self._builder.signatures = 1
        self._builder.set_wrapped_key(wrapped)
        return Answer(self._builder.key_version, (wrapped,))

    def _note(self, inputs: Sequence[SigningInput], results: Sequence[SigningResult | ServiceError]) -> None:
        """Update the key's state by the last result."""
        if len(results) != len(inputs):
            raise RuntimeError(f"key {self._served.name!r} answered {len(inputs)} inputs with {len(results)} results")
        if not isinstance(results[-1], ServiceError):
            self._served.note(results[-1])


def signing_inputs(request: SignChecksums) -> list[SigningInput]:
    """Return the typed operation on each checksum. Raises InputError, or ServiceError that names each unfit one: one
    unfit checksum refuses the whole call."""
    if not request.batch:
        return [checksum_to_sign(request.scheme, request.checksums[0])]
    if not 1 <= len(request.checksums) <= MOST_CHECKSUMS:
        raise InputError("checksums", f"must hold 1 to {MOST_CHECKSUMS} checksums, not {len(request.checksums)}")
    try:
        return [checksum_to_sign(request.scheme, checksum) for checksum in request.checksums]
    except InputError:
        raise errors.invalid(list(_violations(request))) from None


def _violations(request: SignChecksums) -> Iterator[Violation]:
    for place, checksum in enumerate(request.checksums):
        try:
            checksum_to_sign(request.scheme, checksum)
        except InputError as error:
            yield Violation(f"checksums[{place}]", str(error))
