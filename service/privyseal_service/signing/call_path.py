"""The path of every call: identity ▸ grant ▸ typed operation ▸ key store, and one decision on record in every case.

No other code of the service lets a call reach a key. `CallPath._use_key` is the path; its steps follow in the order in
which they are taken.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from typing import TypeVar

from privyseal.transparency.receipts import Receipt
from privyseal_service.domain import errors
from privyseal_service.domain.caller import Caller, IdentityError
from privyseal_service.domain.decisions import Decision, DecisionBuilder, Outcome, Recorder
from privyseal_service.domain.errors import Code, ServiceError, Violation
from privyseal_service.domain.grants import Grant, Grants
from privyseal_service.domain.operation_names import Operation
from privyseal_service.domain.operations import InputError, WrapScheme, check_session_key, session_key_to_sign
from privyseal_service.domain.requests import SignChecksums, SigningRequest, UnwrapSessionKey, WrapSessionKey
from privyseal_service.keys.keyring import Keyring
from privyseal_service.keys.served_key import ServedKey
from privyseal_service.limits.limiter import Limiter, NoLimiter, UncountedError
from privyseal_service.signing.authorization import VisibleKey, name_list, require_able, require_allowed, visible
from privyseal_service.signing.calls import Answer, IncomingCall, LogAccess, Parsed
from privyseal_service.signing.identity_failures import IdentityFailures
from privyseal_service.signing.key_use import KeyUse, signing_inputs
from privyseal_service.signing.scheduler import QueueRequest, Schedulers
from privyseal_service.system.caller_buckets import CallerBuckets
from privyseal_service.telemetry.metrics import OVER_LIMITS, WITHIN_LIMITS, Counters, Numbers

_LOG = logging.getLogger(__name__)
_T = TypeVar("_T")
_Query = TypeVar("_Query")

UNGRANTED_PER_S, UNGRANTED_BURST = 10.0, 20.0
"""Calls that a caller without any grant may make in each worker."""

UNCOUNTED_RETRY_S = 1.0
"""When a caller may retry whose call could not be counted."""


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
        self._ungranted = CallerBuckets(per_s=UNGRANTED_PER_S, at_once=UNGRANTED_BURST)
        self.identity_failures = IdentityFailures()
        self._in_flight = 0
        self._settled = asyncio.Event()

    def adopt(self, grants: Grants, limiter: Limiter) -> None:
        """Decide on later calls by these grants; calls in flight continue under those that they began with."""
        self._grants = grants
        self._limiter = limiter

    def numbers(self) -> Numbers:
        """Return how much is in flight now."""
        schedulers = list(self._schedulers.all)
        return {
            ("calls_in_flight",): float(self._in_flight),
            ("queue_inputs", "waiting"): float(sum(each.waiting for each in schedulers)),
            ("queue_inputs", "in-store"): float(sum(each.in_store for each in schedulers)),
        }

    async def settle(self, wait_s: float) -> None:
        """Wait at most so many seconds until every call that began is on record. Called when no more begin."""
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._none_in_flight(), wait_s)

    async def _none_in_flight(self) -> None:
        while self._in_flight:
            self._settled.clear()
            await self._settled.wait()

    def use_key(
        self, call: IncomingCall, operation: Operation, request: Parsed[SigningRequest]
    ) -> Coroutine[None, None, tuple[Answer, Sequence[Receipt]]]:
        """Wrap, sign or unwrap. Returns the answer, and for each result the receipt of its record; there are no
        receipts without an audit trail. Raises ServiceError."""
        builder = _builder(call, operation)
        return self._decided(builder, self._use_key(call, builder, request))

    async def show_keys(self, call: IncomingCall, operation: Operation, name: Parsed[str]) -> list[VisibleKey]:
        """Return the keys that the caller may use (LIST_KEYS), or the one that is named. Raises ServiceError."""
        builder = _builder(call, operation)
        return (await self._decided(builder, self._show_keys(call, builder, name)))[0]

    async def read_log(
        self,
        call: IncomingCall,
        operation: Operation,
        query: Parsed[_Query],
        answer: Callable[[LogAccess, _Query], Awaitable[_T]],
    ) -> _T:
        """Answer a query of the audit trail, once the caller is identified. Raises ServiceError; `answer` may also
        raise InputError."""
        builder = _builder(call, operation)
        return (await self._decided(builder, self._read_log(call, builder, query, answer)))[0]

    async def _decided(
        self, builder: DecisionBuilder, steps: Coroutine[None, None, _T]
    ) -> tuple[_T, Sequence[Receipt]]:
        """Take the steps, record the decision, and only then let the answer or the error leave."""
        self._in_flight += 1
        try:
            try:
                answer = await steps
            except ServiceError as error:
                failure = error
            except InputError as error:
                failure = errors.invalid([Violation(error.field, str(error))])
            except asyncio.CancelledError:
                with suppress(ServiceError):  # no caller waits for an answer, and none leaves
                    await self._record(builder.build(Outcome.CANCELLED, Code.CANCELLED))
                raise
            except Exception:  # noqa: BLE001 - the caller learns only the request id, and the decision is on record
                _LOG.exception("internal error in request %s", builder.request_id)
                failure = errors.internal(builder.request_id)
            else:
                return answer, await self._record(builder.build_answered()) or builder.receipts
            await self._record(builder.build_failed(failure))
            raise failure
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self._settled.set()

    async def _record(self, decision: Decision) -> Sequence[Receipt]:
        """Record a decision, and count it as it ends: where recording fails, so does the call."""
        try:
            receipts = await self._recorder.record(decision)
        except ServiceError as error:
            self._counters.count_call(decision._replace(code=error.code, reason=error.reason, signatures=0))
            raise
        self._counters.count_call(decision)
        return receipts

    async def _use_key(self, call: IncomingCall, builder: DecisionBuilder, request: Parsed[SigningRequest]) -> Answer:
        caller = self._identify(call, builder)
        if isinstance(request, (InputError, ServiceError)):
            raise request
        builder.set_request(request)
        served, grants = self._granted(builder, caller, request.key, "key")
        require_able(served, grants, request)
        grants = require_allowed(grants, request)
        builder.grant = grants[0].name
        self._recorder.require_ready()
        use = KeyUse(builder, served, self._schedulers.of(served.config.uri), self._recorder)
        match request:
            case SignChecksums():
                inputs = signing_inputs(request)
                turn = await self._count(call, builder, served, grants, len(inputs))
                return await (use.sign_batch if request.batch else use.sign)(inputs, turn)
            case WrapSessionKey(scheme=WrapScheme.CAPGO):
                inputs = [session_key_to_sign(request.session_key)]
                return await use.sign(inputs, await self._count(call, builder, served, grants, 1))
            case WrapSessionKey():
                check_session_key(request.scheme, request.session_key)
                await self._count(call, builder, served, grants, 1)
                return use.wrap(request)
            case UnwrapSessionKey():
                use.check_wrapped_key(request)
                return await use.unwrap(request, await self._count(call, builder, served, grants, 1))

    async def _count(
        self, call: IncomingCall, builder: DecisionBuilder, served: ServedKey, grants: Sequence[Grant], cost: int
    ) -> QueueRequest:
        """Count a call under the first of the grants that has room for it, and return its place in the queue. Raises
        ServiceError where none has, or where the key cannot be used: a call that is refused anyway is not counted."""
        grant = grants[0] if not grants[0].counts else await self._count_first(builder, served, grants, cost)
        return QueueRequest(builder.caller, served.name, call.deadline_s, grant.weight)

    async def _count_first(
        self, builder: DecisionBuilder, served: ServedKey, grants: Sequence[Grant], cost: int
    ) -> Grant:
        limiter, reached = self._limiter, list[ServiceError]()
        served.usable()
        for grant in grants:
            builder.grant = grant.name
            if not grant.counts:
                return grant
            try:
                exceeded = await limiter.count(grant, builder.caller, cost)
            except UncountedError:
                raise errors.uncounted(UNCOUNTED_RETRY_S) from None
            self._counters.add(WITHIN_LIMITS if exceeded is None else OVER_LIMITS)
            if exceeded is None:
                return grant
            reached.append(errors.limited(exceeded.limit, exceeded.retry_after_s, ever=exceeded.ever))
        builder.grant = ""
        raise min(reached, key=lambda error: error.retry_after_s or 0.0)

    async def _read_log(
        self,
        call: IncomingCall,
        builder: DecisionBuilder,
        query: Parsed[_Query],
        answer: Callable[[LogAccess, _Query], Awaitable[_T]],
    ) -> _T:
        caller = self._identify(call, builder)
        grant = self._grants.listing_records(caller.name, caller.claims, time.time())
        if grant is not None:
            builder.grant = grant.name
        else:
            self._limit_ungranted(caller)
        if isinstance(query, (InputError, ServiceError)):
            raise query
        return await answer(LogAccess(caller.name, grant is not None), query)

    async def _show_keys(self, call: IncomingCall, builder: DecisionBuilder, name: Parsed[str]) -> list[VisibleKey]:
        caller = self._identify(call, builder)
        if isinstance(name, (InputError, ServiceError)):
            raise name
        builder.key = name
        if builder.operation is Operation.LIST_KEYS:
            self._limit_ungranted(caller)
            granted = self._grants.of_caller(caller.name, caller.claims)
            return [visible(self._keyring.keys[key], grants) for key, grants in granted.items()]
        return [visible(*self._granted(builder, caller, name, "name"))]

    def _identify(self, call: IncomingCall, builder: DecisionBuilder) -> Caller:
        try:
            caller = call.identifier.identify(call.peer)
        except IdentityError as error:
            if error.proof:
                builder.proof = error.proof
            self.identity_failures.report(call.request_id, call.peer.address, error)
            raise errors.unauthenticated() from error
        builder.set_caller(caller)
        return caller

    def _limit_ungranted(self, caller: Caller) -> None:
        """Raise ServiceError for a caller without any grant that calls too often: each answer to it is a record too, a
        full disk stops signing, and no grant limits it."""
        if not self._grants.of_caller(caller.name, caller.claims):
            wait_s = self._ungranted.wait_s(caller.name, time.monotonic())
            if wait_s:
                raise errors.asked_too_much(UNGRANTED_PER_S, wait_s)

    def _granted(
        self, builder: DecisionBuilder, caller: Caller, name: str, field_name: str
    ) -> tuple[ServedKey, Sequence[Grant]]:
        """Return the key that is meant, and the grants that name it and the caller: at least one."""
        granted = self._grants.of_caller(caller.name, caller.claims)
        if not name:
            if len(granted) > 1:
                raise InputError(field_name, f"must name one of the keys that you may use: {name_list(list(granted))}")
            name = next(iter(granted), "")
        grants = granted.get(name)
        if grants is None:
            raise errors.permission_denied()
        builder.key = name
        return self._keyring.keys[name], grants


def _builder(call: IncomingCall, operation: Operation) -> DecisionBuilder:
    return DecisionBuilder(
        request_id=call.request_id, peer=call.peer.address, operation=operation, call_id=call.call_id
    )
