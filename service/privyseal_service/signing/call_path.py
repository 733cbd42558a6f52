"""The path of every call: identity ▸ grant ▸ typed operation ▸ key store, and one Decision whatever happens.

Nothing else in the service lets a call reach a key. `CallPath._use_key` is the path; the rest of the module are its
steps, in the order in which they are taken.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from privyseal.transparency.receipts import Receipt
from privyseal_backends.interface import (
    BackendError,
    CallerError,
    Decrypter,
    Key,
    Plaintext,
    SigningInput,
    SigningResult,
)
from privyseal_service.domain import errors
from privyseal_service.domain.caller import Caller, Identifier, IdentityError, Peer
from privyseal_service.domain.decisions import Decision, Outcome, Recorder, Trail
from privyseal_service.domain.errors import Code, ServiceError, Violation
from privyseal_service.domain.grants import Grant, Grants
from privyseal_service.domain.operation_names import Operation
from privyseal_service.domain.operations import (
    MECHANISMS,
    InputError,
    WrapScheme,
    check_session_key,
    check_unwrapped,
    checksum_to_sign,
    encrypt_session_key,
    session_key_to_sign,
)
from privyseal_service.domain.requests import SignChecksums, SigningRequest, UnwrapSessionKey, WrapSessionKey
from privyseal_service.keys.keyring import Keyring
from privyseal_service.keys.served_key import ServedKey
from privyseal_service.limits.limiter import Limiter, NoLimiter, UncountedError
from privyseal_service.signing.authorization import VisibleKey, name_list, require_able, require_allowed, visible
from privyseal_service.signing.batch_records import Parts, caller_error, caller_results
from privyseal_service.signing.identity_failures import UnprovenCallers
from privyseal_service.signing.scheduler import Claim, Schedulers
from privyseal_service.system.caller_buckets import CallerBuckets
from privyseal_service.telemetry.metrics import OVER_LIMITS, WITHIN_LIMITS, Counters, Numbers

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")

MOST_CHECKSUMS = 2000
"""Checksums in one batch, so that requests fit gRPC's retry buffer and answers its message limit."""


QUESTIONS_PER_S, QUESTIONS_AT_ONCE = 10.0, 20.0
"""What a caller without any grant may ask in each worker."""


UNCOUNTED_RETRY_S = 1.0
"""When a caller may try again whose call could not be counted."""


class Arrival(NamedTuple):
    """A call as it came in: from whom over which listener, under which request id, and by when (`time.monotonic()`).
    `call_id` is the caller's own name for it, the same however often it is tried; empty where there is none."""

    peer: Peer
    identifier: Identifier
    request_id: str
    deadline_s: float
    call_id: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a key gave: for each input the bytes or, in a batch, why there are none."""

    key_version: str
    results: tuple[bytes | ServiceError, ...] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Asking:
    """Who asks the audit trail, and whether it may list all records."""

    caller: str
    lists: bool


class CallPath:
    """Takes every call from its arrival to its answer."""

    def __init__(
        self,
        grants: Grants,
        keyring: Keyring,
        recorder: Recorder,
        *,
        limiter: Limiter | None = None,
        counters: Counters | None = None,
    ) -> None:
        self._grants = grants
        self._keyring = keyring
        self._recorder = recorder
        self._limiter = limiter or NoLimiter()
        self._counters = counters or Counters()
        self._schedulers = Schedulers()
        self._strangers = CallerBuckets(per_s=QUESTIONS_PER_S, at_once=QUESTIONS_AT_ONCE)
        self.unproven = UnprovenCallers()
        self._under_way = 0
        self._settled = asyncio.Event()

    def adopt(self, grants: Grants, limiter: Limiter) -> None:
        """Decide on later calls by these grants; those in flight go on under the ones that they began with."""
        self._grants = grants
        self._limiter = limiter

    def numbers(self) -> Numbers:
        """How much is in flight now."""
        schedulers = list(self._schedulers.all)
        return {
            ("calls_in_flight",): float(self._under_way),
            ("queue_inputs", "waiting"): float(sum(each.waiting for each in schedulers)),
            ("queue_inputs", "in-store"): float(sum(each.in_store for each in schedulers)),
        }

    async def settle(self, wait_s: float) -> None:
        """Wait until every call that has begun is on record, for so many seconds at most. Called when no more begin."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._none_under_way(), wait_s)

    async def _none_under_way(self) -> None:
        while self._under_way:
            self._settled.clear()
            await self._settled.wait()

    def use_key(
        self, arrival: Arrival, operation: Operation, read: Callable[[], SigningRequest]
    ) -> Coroutine[None, None, tuple[Answer, Sequence[Receipt]]]:
        """Wrap, sign or unwrap. `read` gives the request, or raises InputError or ServiceError. The receipts say for
        each result where its record is; there are none without an audit trail. Raises ServiceError."""
        trail = Trail(arrival.request_id, arrival.peer.address, operation, call_id=arrival.call_id)
        return self._decided(trail, self._use_key(arrival, trail, read))

    async def show_keys(self, arrival: Arrival, operation: Operation, read: Callable[[], str]) -> list[VisibleKey]:
        """The keys that the caller may use (LIST_KEYS), or the one that `read` names. Raises ServiceError."""
        trail = Trail(arrival.request_id, arrival.peer.address, operation, call_id=arrival.call_id)
        return (await self._decided(trail, self._show_keys(arrival, trail, read)))[0]

    async def read_log(self, arrival: Arrival, operation: Operation, ask: Callable[[Asking], Awaitable[_T]]) -> _T:
        """Ask the audit trail, once the caller is known. Raises ServiceError, as `ask` may, or InputError."""
        trail = Trail(arrival.request_id, arrival.peer.address, operation, call_id=arrival.call_id)
        return (await self._decided(trail, self._read_log(arrival, trail, ask)))[0]

    async def _decided(self, trail: Trail, steps: Coroutine[None, None, _T]) -> tuple[_T, Sequence[Receipt]]:
        """Take the steps, record the decision, and only then let the answer or the error out."""
        self._under_way += 1
        try:
            try:
                answer = await steps
            except ServiceError as error:
                failure = error
            except InputError as error:
                failure = errors.invalid([Violation(error.field, str(error))])
            except asyncio.CancelledError:
                with suppress(ServiceError):  # nobody waits for an answer, and nothing leaves
                    await self._record(trail.decision(Outcome.CANCELLED, Code.CANCELLED))
                raise
            except Exception:  # noqa: BLE001 - the caller learns no more than that, and it is on record
                _LOG.exception("request %s failed in a way that it should not", trail.request_id)
                failure = errors.internal(trail.request_id)
            else:
                return answer, await self._record(trail.answered()) or trail.receipts
            await self._record(trail.refused(failure))
            raise failure
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._settled.set()

    async def _record(self, decision: Decision) -> Sequence[Receipt]:
        """Put a decision on record, and count it as it ends: where the record fails, so does the call."""
        try:
            receipts = await self._recorder.record(decision)
        except ServiceError as error:
            self._counters.count_call(decision._replace(code=error.code, reason=error.reason, signatures=0))
            raise
        self._counters.count_call(decision)
        return receipts

    async def _use_key(self, arrival: Arrival, trail: Trail, read: Callable[[], SigningRequest]) -> Answer:
        caller = self._identify(arrival, trail)
        request = read()
        trail.asked(request)
        served, grants = self._granted(trail, caller, request.key, "key")
        require_able(served, grants, request)
        grants = require_allowed(grants, request)
        trail.grant = grants[0].name
        self._recorder.require_ready()
        match request:
            case SignChecksums():
                inputs = _checksums_to_sign(request)
                grant = await self._count(trail, served, grants, len(inputs))
                claim = Claim(caller.name, served.name, arrival.deadline_s, grant.weight)
                return await (self._sign_batch if request.batch else self._sign)(trail, served, inputs, claim)
            case WrapSessionKey(scheme=WrapScheme.CAPGO):
                inputs = [session_key_to_sign(request.session_key)]
                grant = await self._count(trail, served, grants, 1)
                claim = Claim(caller.name, served.name, arrival.deadline_s, grant.weight)
                return await self._sign(trail, served, inputs, claim)
            case WrapSessionKey():
                check_session_key(request.scheme, request.session_key)
                await self._count(trail, served, grants, 1)
                return _encrypt(trail, served, request)
            case UnwrapSessionKey():
                _check_wrapped_key(trail, served, request)
                grant = await self._count(trail, served, grants, 1)
                claim = Claim(caller.name, served.name, arrival.deadline_s, grant.weight)
                return await self._decrypt(trail, served, request, claim)

    async def _count(self, trail: Trail, served: ServedKey, grants: Sequence[Grant], cost: int) -> Grant:
        """Count a call for the first of the grants that has room for it, and return that grant. Raises ServiceError
        where none has, or where the key cannot be used: what is refused anyway costs nobody anything."""
        if not grants[0].counts:
            return grants[0]
        limiter, reached = self._limiter, list[ServiceError]()
        served.usable()
        for grant in grants:
            trail.grant = grant.name
            if not grant.counts:
                return grant
            try:
                exceeded = await limiter.count(grant, trail.caller, cost)
            except UncountedError:
                raise errors.uncounted(UNCOUNTED_RETRY_S) from None
            self._counters.add(WITHIN_LIMITS if exceeded is None else OVER_LIMITS)
            if exceeded is None:
                return grant
            reached.append(errors.limited(exceeded.limit, exceeded.retry_after_s, ever=exceeded.ever))
        trail.grant = ""
        raise min(reached, key=lambda error: error.retry_after_s or 0.0)

    def _usable(self, served: ServedKey) -> Key:
        """The key, looked at right before its store is called: what waited for a turn must not slip through when the
        key was taken away meanwhile, or decisions cannot be put on record any more. Raises ServiceError."""
        self._recorder.require_ready()
        return served.usable()

    async def _sign(self, trail: Trail, served: ServedKey, inputs: Sequence[SigningInput], claim: Claim) -> Answer:
        """Have one input signed; its error is the call's."""
        _open(trail, served)
        scheduler = self._schedulers.of(served.config.uri)
        results: Sequence[SigningResult | ServiceError]
        try:
            results = await scheduler.sign(lambda: self._usable(served), inputs, claim)
        except BackendError as error:
            results = [error]
        _note(served, inputs, results)
        trail.took(results)
        told = caller_results(trail, served, results, {})
        trail.gave(told)
        if isinstance(told[0], ServiceError):
            raise told[0]
        return Answer(trail.key_version, told)

    async def _sign_batch(
        self, trail: Trail, served: ServedKey, inputs: Sequence[SigningInput], claim: Claim
    ) -> Answer:
        _open(trail, served)
        scheduler, parts = self._schedulers.of(served.config.uri), Parts(trail, served, self._recorder)
        results: Sequence[SigningResult | ServiceError]
        try:
            results = await scheduler.sign(lambda: self._usable(served), inputs, claim, parts.add)
        except BackendError as error:
            results = [error] * len(inputs)
        except BaseException:
            await parts.settle()
            raise
        _note(served, inputs, results)
        trail.receipts = await parts.receipts()
        trail.took(results)
        told = parts.told(results)
        trail.gave(told)
        trail.items_recorded = parts.recorded
        if isinstance(told[0], ServiceError):
            trail.failure = told[0]
        return Answer(trail.key_version, told)

    async def _decrypt(self, trail: Trail, served: ServedKey, request: UnwrapSessionKey, claim: Claim) -> Answer:
        # One sentence for whatever is wrong with it: which check failed would help to forge one.
        unfit = InputError("wrapped_key", "is no session key that was wrapped for this key with this scheme")
        scheduler = self._schedulers.of(served.config.uri)
        try:
            plaintext = await scheduler.run(
                lambda: _decryption(self._usable(served), served.name, request, claim.deadline_s), 1, claim
            )
        except CallerError:
            raise unfit from None
        except BackendError as error:
            served.note(error)
            raise caller_error(trail, served, error) from error
        served.note(plaintext)
        if not check_unwrapped(request.scheme, plaintext.value):
            raise unfit
        trail.took([plaintext])
        return Answer(trail.key_version, (plaintext.value,))

    async def _read_log(self, arrival: Arrival, trail: Trail, ask: Callable[[Asking], Awaitable[_T]]) -> _T:
        caller = self._identify(arrival, trail)
        grant = self._grants.listing_records(caller.name, caller.claims, time.time())
        if grant is not None:
            trail.grant = grant.name
        else:
            self._require_known(caller)
        return await ask(Asking(caller.name, grant is not None))

    async def _show_keys(self, arrival: Arrival, trail: Trail, read: Callable[[], str]) -> list[VisibleKey]:
        caller = self._identify(arrival, trail)
        name = trail.key = read()
        if trail.operation is Operation.LIST_KEYS:
            self._require_known(caller)
            granted = self._grants.of_caller(caller.name, caller.claims)
            return [visible(self._keyring.keys[key], grants) for key, grants in granted.items()]
        return [visible(*self._granted(trail, caller, name, "name"))]

    def _identify(self, arrival: Arrival, trail: Trail) -> Caller:
        try:
            caller = arrival.identifier.identify(arrival.peer)
        except IdentityError as error:
            if error.proof:
                trail.proof = error.proof
            self.unproven.tell(arrival.request_id, arrival.peer.address, error)
            raise errors.unauthenticated() from error
        trail.identified(caller)
        return caller

    def _require_known(self, caller: Caller) -> None:
        """Raise ServiceError for a caller without any grant that asks too much: what it is answered is on record too,
        a full disk stops signing, and nothing else bounds that."""
        if not self._grants.of_caller(caller.name, caller.claims):
            wait_s = self._strangers.wait_s(caller.name, time.monotonic())
            if wait_s:
                raise errors.asked_too_much(QUESTIONS_PER_S, wait_s)

    def _granted(self, trail: Trail, caller: Caller, name: str, field_name: str) -> tuple[ServedKey, Sequence[Grant]]:
        """The key that is meant, and the grants that name it and the caller: at least one."""
        granted = self._grants.of_caller(caller.name, caller.claims)
        if not name:
            if len(granted) > 1:
                raise InputError(field_name, f"must name one of the keys that you may use: {name_list(list(granted))}")
            name = next(iter(granted), "")
        grants = granted.get(name)
        if grants is None:
            raise errors.permission_denied()
        trail.key = name
        return self._keyring.keys[name], grants


def _checksums_to_sign(request: SignChecksums) -> list[SigningInput]:
    """The typed operation on each checksum; one that is unfit refuses the whole call."""
    if not request.batch:
        return [checksum_to_sign(request.scheme, request.checksums[0])]
    if not 1 <= len(request.checksums) <= MOST_CHECKSUMS:
        raise InputError("checksums", f"must hold 1 to {MOST_CHECKSUMS} checksums, not {len(request.checksums)}")
    try:
        return [checksum_to_sign(request.scheme, checksum) for checksum in request.checksums]
    except InputError:
        raise errors.invalid(list(_violations(request))) from None


def _violations(request: SignChecksums) -> Iterator[Violation]:
    """Every checksum that is unfit, and not the first alone."""
    for place, checksum in enumerate(request.checksums):
        try:
            checksum_to_sign(request.scheme, checksum)
        except InputError as error:
            yield Violation(f"checksums[{place}]", str(error))


def _open(trail: Trail, served: ServedKey) -> Key:
    """The key itself, looked at right before it is used. Raises ServiceError where it cannot be used now."""
    key = served.usable()
    trail.opened(key.description)
    return key


def _note(served: ServedKey, inputs: Sequence[SigningInput], results: Sequence[SigningResult | ServiceError]) -> None:
    """Learn of the key from what came of its inputs."""
    if len(results) != len(inputs):
        raise RuntimeError(f"key {served.name!r} answered {len(inputs)} inputs with {len(results)} results")
    if not isinstance(results[-1], ServiceError):
        served.note(results[-1])


def _check_wrapped_key(trail: Trail, served: ServedKey, request: UnwrapSessionKey) -> None:
    """Raise InputError for a wrapped key that is not as long as the modulus."""
    size = _open(trail, served).description.public_key.modulus_bytes
    if len(request.wrapped_key) != size:
        raise InputError("wrapped_key", f"must be {size} bytes for this key, not {len(request.wrapped_key)}")


def _encrypt(trail: Trail, served: ServedKey, request: WrapSessionKey) -> Answer:
    """RSAES needs the public key alone: the key store is not asked."""
    public_key = _open(trail, served).description.public_key
    wrapped = encrypt_session_key(request.scheme, request.session_key, public_key)
    trail.signatures = 1
    trail.wrapped(wrapped)
    return Answer(trail.key_version, (wrapped,))


async def _decryption(key: Key, name: str, request: UnwrapSessionKey, deadline_s: float) -> Plaintext:
    """What the key, looked at right before it is used, makes of a wrapped key of the right length."""
    if not isinstance(key, Decrypter):
        raise errors.cannot(name, f"key {name!r} is in a key store that does not decrypt", ())
    return await key.decrypt(request.wrapped_key, MECHANISMS[request.scheme], deadline_s)
