"""The decision on a call, allowed or not: what was asked, by whom, what was decided and what came of it."""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple, Protocol

from privyseal.transparency.receipts import Receipt
from privyseal_backends.interface import KeyDescription, Plaintext, Signature
from privyseal_service.domain.caller import Caller, Proof
from privyseal_service.domain.errors import Code, ServiceError
from privyseal_service.domain.operation_names import Operation
from privyseal_service.domain.requests import NO_CONTEXT, Context, SignChecksums, SigningRequest, UnwrapSessionKey

NO_PROOF = Proof("none")

MOST_KEY_CHARACTERS = 128
"""Characters of a key's name that are recorded; no key has a longer name."""


class Outcome(enum.Enum):
    """What became of a call."""

    ANSWERED = "answered"
    """It was done, and its answer left after its record was on disk."""
    DENIED = "denied"
    """Identity, grant, limit or a frozen key stood against it; the key was not used."""
    REFUSED = "refused"
    """The request does not fit an operation or the key; the key was not used."""
    FAILED = "failed"
    """It was allowed, and the key store or the service failed; no result left."""
    CANCELLED = "cancelled"
    """The caller went away or its deadline passed. The key may have been used; no result left."""


class Item(NamedTuple):
    """One input of a call and its result: a checksum, or a session key to wrap or unwrap.

    `checksum` is what was to be signed, as the caller sent it. `signature_sha256` and `wrapped_key_sha256`, 32 bytes
    each, are the SHA-256 of what the key made or, for an unwrapping, of what it was given; nothing is ever derived from
    a session key. `failure` is why an input of a batch has no result. Times are in seconds. `place` is the input's
    index in its batch, None outside a batch.
    """

    checksum: bytes | None = None
    signature_sha256: bytes | None = None
    wrapped_key_sha256: bytes | None = None
    failure: ServiceError | None = None
    store_request_id: str = ""
    queued_s: float | None = None
    store_s: float | None = None
    place: int | None = None


class Decision(NamedTuple):
    """One call: who made it, how it was proven and from where; what was asked; what was decided, why, and what it took.

    `call_id` is the caller's own name for the call, the same in each of its attempts: recorded, never believed.
    `caller` is empty where no name was proven. `key` is as the caller wrote it until a grant names it. `grant` is the
    name of the grant that allowed the call, empty where none did. `batch` is the number of checksums of a batch, 0 for
    other calls. `signatures` counts the results that left: signatures, wrapped and unwrapped keys. `store_request_id`
    is the store's own name for the call; a batch has those of its chunks, separated by spaces. `queued_s` and
    `store_s` are the longest wait and the longest time in the store, in seconds. `items_recorded` is whether each item
    of a long batch is on record already (`Recorder.record_part`).
    """

    request_id: str
    peer: str
    operation: str
    outcome: Outcome
    code: Code
    reason: str = ""
    call_id: str = ""
    caller: str = ""
    proof: Proof = NO_PROOF
    key: str = ""
    key_version: str = ""
    key_fingerprint: str = ""
    scheme: str = ""
    context: Context = NO_CONTEXT
    grant: str = ""
    batch: int = 0
    signatures: int = 0
    store_request_id: str = ""
    queued_s: float = 0.0
    store_s: float = 0.0
    items: tuple[Item, ...] = ()
    items_recorded: bool = False

    def __repr__(self) -> str:
        """Without the items: what was to be signed does not belong in a log."""
        return f"Decision({', '.join(f'{n}={v!r}' for n, v in self._asdict().items() if n != 'items')})"


@dataclass(slots=True, kw_only=True)
class DecisionBuilder:
    """What is known of a call so far. A Decision can be built at any point, however far the call came."""

    request_id: str
    peer: str
    operation: Operation
    call_id: str = ""
    caller: str = ""
    proof: Proof = NO_PROOF
    key: str = ""
    key_version: str = ""
    key_fingerprint: str = ""
    scheme: str = ""
    context: Context = NO_CONTEXT
    grant: str = ""
    batch: int = 0
    signatures: int = 0
    store_request_id: str = ""
    queued_s: float = 0.0
    store_s: float = 0.0
    failure: ServiceError | None = None
    checksums: tuple[bytes, ...] = ()
    wrapped_key_sha256: bytes | None = None
    results: Sequence[object] = field(default=(), repr=False)
    responses: Sequence[bytes | ServiceError] = field(default=(), repr=False)
    items_recorded: bool = False
    receipts: Sequence[Receipt] = ()

    def set_caller(self, caller: Caller) -> None:
        """Set the name that the caller proved."""
        self.caller, self.proof = caller.name, caller.proof

    def set_request(self, request: SigningRequest) -> None:
        """Set what was asked."""
        self.key, self.scheme, self.context = request.key, request.scheme.value, request.context
        match request:
            case SignChecksums():
                self.checksums, self.batch = request.checksums, len(request.checksums) if request.batch else 0
            case UnwrapSessionKey():
                self.wrapped_key_sha256 = sha256(request.wrapped_key).digest()

    def set_key(self, description: KeyDescription) -> None:
        """Set the key that is used."""
        self.key_version, self.key_fingerprint = description.key_version, description.public_key.fingerprint

    def set_wrapped_key(self, wrapped_key: bytes) -> None:
        """Set the result of a wrapping, with the public key or by a signature."""
        self.wrapped_key_sha256 = sha256(wrapped_key).digest()

    def set_response(self, responses: Sequence[bytes | ServiceError]) -> None:
        """Set what the caller is answered for each input: a signature or wrapped key, or why there is none."""
        if self.checksums:
            self.responses = responses
        elif isinstance(responses[0], bytes):
            self.set_wrapped_key(responses[0])

    def set_results(self, results: Sequence[object]) -> None:
        """Set what the key store returned: signatures, plaintexts or errors."""
        self.results = results
        done = [result for result in results if isinstance(result, (Signature, Plaintext))]
        self.signatures = len(done)
        if len(done) == 1:
            only = done[0]
            self.store_request_id, self.queued_s, self.store_s = only.request_id, only.queued_s, only.store_s
        elif done:
            # Lists, since generators take twice as long, and this runs for every signature.
            self.store_request_id = " ".join(dict.fromkeys([result.request_id for result in done if result.request_id]))
            self.queued_s = max([result.queued_s for result in done])
            self.store_s = max([result.store_s for result in done])

    def build(self, outcome: Outcome, code: Code, reason: str = "") -> Decision:
        """Return the decision, with how the call ended."""
        return self._build(outcome, code, reason, () if self.items_recorded else self._items())

    def build_answered(self) -> Decision:
        """Return the decision of a call that is answered; a batch without a single signature has failed."""
        if self.failure is not None and not self.signatures:
            return self.build_failed(self.failure)
        return self.build(Outcome.ANSWERED, Code.OK)

    def build_failed(self, failure: ServiceError) -> Decision:
        """Return the decision of a call that ends with an error."""
        return self.build(outcome_of(failure), failure.code, failure.reason)

    def build_part(self, start: int, responses: Sequence[bytes | ServiceError], results: Sequence[object]) -> Decision:
        """Return the decision on the inputs of a batch from the index `start` on, while the rest is being signed."""
        checksums = self.checksums[start : start + len(responses)]
        items = tuple(
            _signed_item(*each, place)
            for place, each in enumerate(zip(checksums, responses, results, strict=True), start)
        )
        return self._build(Outcome.ANSWERED, Code.OK, "", items)

    def _build(self, outcome: Outcome, code: Code, reason: str, items: tuple[Item, ...]) -> Decision:
        return Decision(
            request_id=self.request_id,
            peer=self.peer,
            operation=self.operation.value,
            outcome=outcome,
            code=code,
            reason=reason,
            call_id=self.call_id,
            caller=self.caller,
            proof=self.proof,
            key=self.key[:MOST_KEY_CHARACTERS],
            key_version=self.key_version,
            key_fingerprint=self.key_fingerprint,
            scheme=self.scheme,
            context=self.context,
            grant=self.grant,
            batch=self.batch,
            signatures=self.signatures,
            store_request_id=self.store_request_id,
            queued_s=self.queued_s,
            store_s=self.store_s,
            items=items,
            items_recorded=self.items_recorded,
        )

    def _items(self) -> tuple[Item, ...]:
        """Return each input with its result, as far as that is known."""
        if self.responses:
            if not self.batch:
                return (_signed_item(self.checksums[0], self.responses[0], self.results[0], None),)
            each = zip(self.checksums, self.responses, self.results, range(self.batch), strict=True)
            return tuple([_signed_item(*one) for one in each])
        if self.batch or not (self.checksums or self.wrapped_key_sha256):
            return ()
        checksum = self.checksums[0] if self.checksums else None
        times = _store_times(self.results[0] if self.results else None)
        return (Item(checksum, None, self.wrapped_key_sha256, None, *times),)


def _store_times(result: object) -> tuple[str, float | None, float | None]:
    """Return the store's own name for the call, and the seconds in its queue and in the store."""
    if isinstance(result, (Signature, Plaintext)):
        return result.request_id, result.queued_s, result.store_s
    return "", None, None


def _signed_item(checksum: bytes, response: bytes | ServiceError, result: object, place: int | None) -> Item:
    if isinstance(response, ServiceError):
        return Item(checksum, failure=response, place=place)
    return Item(checksum, sha256(response).digest(), None, None, *_store_times(result), place)


def outcome_of(failure: ServiceError) -> Outcome:
    """Return the outcome of a call that ends with this error."""
    if failure.reason == "LIMIT_REACHED":
        return Outcome.DENIED
    return _OUTCOMES.get(failure.code, Outcome.FAILED)


_OUTCOMES = {
    Code.UNAUTHENTICATED: Outcome.DENIED,
    Code.PERMISSION_DENIED: Outcome.DENIED,
    Code.INVALID_ARGUMENT: Outcome.REFUSED,
    Code.FAILED_PRECONDITION: Outcome.REFUSED,
    Code.NOT_FOUND: Outcome.REFUSED,
}


class Recorder(Protocol):
    """Where decisions are recorded. Used on one event loop, between `start` and `close`."""

    async def start(self, on_change: Callable[[bool], None]) -> None:
        """Prepare. `on_change` is called on the loop with False when decisions cannot be recorded any more, and with
        True when they can be again."""

    async def close(self) -> None:
        """Finish what is being recorded. Safe to call twice, and before `start`."""

    def require_ready(self) -> None:
        """Raise ServiceError when a decision cannot be recorded now: then no key store may be called. It is cheap, and
        is called right before each use of a key."""

    async def record(self, decision: Decision) -> Sequence[Receipt]:
        """Record a decision. It is awaited before the answer leaves: an error that it raises becomes the answer, and
        nothing else leaves. A ServiceError reaches the caller unchanged, anything else as INTERNAL.

        Returns a receipt without proof for each item; nothing where the recorder makes no receipts.
        """

    async def record_part(self, decision: Decision) -> Sequence[Receipt]:
        """Record some items of a long batch when they are signed and before the others are, so that a batch that is cut
        short leaves a record of each use of its key. Raises as `record` does, which is still called at the end.

        Returns a receipt for each item.
        """
