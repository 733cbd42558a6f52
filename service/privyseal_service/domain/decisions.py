"""What was decided on each call, allowed or not, and where that is told."""

from __future__ import annotations

import enum
import logging
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

_LOG = logging.getLogger("privyseal.decision")

NO_PROOF = Proof("none")

MOST_KEY_CHARACTERS = 128
"""Characters of a key's name that are recorded; no key has a longer one."""


class Outcome(enum.Enum):
    """What became of a call."""

    ANSWERED = "answered"
    DENIED = "denied"
    """The caller proved no name, has no grant, or another rule stands against it."""
    REFUSED = "refused"
    """The request is not one that the key serves."""
    FAILED = "failed"
    """The call was allowed, and the key store or the service did not do it."""
    CANCELLED = "cancelled"
    """The caller went away, or its deadline passed, before there was an answer; the store may have done the work."""


class Item(NamedTuple):
    """One thing that a key was asked for, and what became of it: a checksum, or a session key to wrap or unwrap.

    `checksum` is what was to be signed, as the caller sent it. `signature_sha256` and `wrapped_key_sha256`, 32 bytes,
    are the SHA-256 of what a key made or, for an unwrapping, was given; nothing is ever derived from a session key.
    `failure` is why there is no result, where a batch has results of its own. Times are in seconds. `place` is where it
    stands in its batch.
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
    """One call: who, how proven and from where; what was asked; what was decided, why, and what it took.

    `call_id` is the caller's own name for the call, the same in each of its attempts: never believed, only recorded.
    `caller` is empty where no name was proven, `key` is as the caller wrote it until a grant names it. `grant` is the
    name of the grant that allowed the call, empty where none did. `signatures` counts what left: signatures, wrapped
    and unwrapped keys. `store_request_id` is the store's own name for the call; a batch has those of its parts, with
    spaces between. `queued_s` and `store_s` are the longest wait and the longest time in the store of the parts, in
    seconds.
    """

    request_id: str
    caller: str
    proof: Proof
    peer: str
    operation: str
    key: str
    key_version: str
    scheme: str
    context: Context
    grant: str
    outcome: Outcome
    code: Code
    reason: str = ""
    signatures: int = 0
    store_request_id: str = ""
    queued_s: float = 0.0
    store_s: float = 0.0
    key_fingerprint: str = ""
    batch: int = 0
    items: tuple[Item, ...] = ()
    items_recorded: bool = False
    """Whether each item of a long batch is on record already, with what became of it (`Recorder.record_part`)."""
    call_id: str = ""

    def __repr__(self) -> str:
        """Without the items: what was to be signed is no business of a log."""
        return f"Decision({', '.join(f'{n}={v!r}' for n, v in self._asdict().items() if n != 'items')})"


@dataclass(slots=True)
class Trail:
    """What is known of a call so far; a Decision is made of it, however far the call came."""

    request_id: str
    peer: str
    operation: Operation
    caller: str = ""
    proof: Proof = NO_PROOF
    key: str = ""
    key_version: str = ""
    scheme: str = ""
    context: Context = NO_CONTEXT
    grant: str = ""
    failure: ServiceError | None = None
    signatures: int = 0
    store_request_id: str = ""
    queued_s: float = 0.0
    store_s: float = 0.0
    key_fingerprint: str = ""
    batch: int = 0
    checksums: tuple[bytes, ...] = ()
    wrapped_key_sha256: bytes | None = None
    results: Sequence[object] = field(default=(), repr=False)
    told: Sequence[bytes | ServiceError] = field(default=(), repr=False)
    items_recorded: bool = False
    receipts: Sequence[Receipt] = ()
    call_id: str = ""

    def identified(self, caller: Caller) -> None:
        """The caller proved its name."""
        self.caller, self.proof = caller.name, caller.proof

    def asked(self, request: SigningRequest) -> None:
        """The request was read."""
        self.key, self.scheme, self.context = request.key, request.scheme.value, request.context
        match request:
            case SignChecksums():
                self.checksums, self.batch = request.checksums, len(request.checksums) if request.batch else 0
            case UnwrapSessionKey():
                self.wrapped_key_sha256 = sha256(request.wrapped_key).digest()

    def opened(self, description: KeyDescription) -> None:
        """The key was found open."""
        self.key_version, self.key_fingerprint = description.key_version, description.public_key.fingerprint

    def wrapped(self, wrapped_key: bytes) -> None:
        """A session key was wrapped, with the public key or by a signature."""
        self.wrapped_key_sha256 = sha256(wrapped_key).digest()

    def gave(self, told: Sequence[bytes | ServiceError]) -> None:
        """What the caller is told of each signature or wrapped key: itself, or why there is none."""
        if self.checksums:
            self.told = told
        elif isinstance(told[0], bytes):
            self.wrapped(told[0])

    def took(self, results: Sequence[object]) -> None:
        """The key store answered, with signatures, plaintexts or errors."""
        self.results = results
        done = [result for result in results if isinstance(result, (Signature, Plaintext))]
        self.signatures = len(done)
        if len(done) == 1:
            only = done[0]
            self.store_request_id, self.queued_s, self.store_s = only.request_id, only.queued_s, only.store_s
        elif done:
            # Lists, since generators take twice as long, and this is done for every signature.
            self.store_request_id = " ".join(dict.fromkeys([result.request_id for result in done if result.request_id]))
            self.queued_s = max([result.queued_s for result in done])
            self.store_s = max([result.store_s for result in done])

    def decision(self, outcome: Outcome, code: Code, reason: str = "") -> Decision:
        """How the call ended."""
        return self._decision(outcome, code, reason, () if self.items_recorded else self._items())

    def _decision(self, outcome: Outcome, code: Code, reason: str, items: tuple[Item, ...]) -> Decision:
        return Decision(
            self.request_id,
            self.caller,
            self.proof,
            self.peer,
            self.operation.value,
            self.key[:MOST_KEY_CHARACTERS],
            self.key_version,
            self.scheme,
            self.context,
            self.grant,
            outcome,
            code,
            reason,
            self.signatures,
            self.store_request_id,
            self.queued_s,
            self.store_s,
            self.key_fingerprint,
            self.batch,
            items,
            self.items_recorded,
            self.call_id,
        )

    def part(self, start: int, told: Sequence[bytes | ServiceError], results: Sequence[object]) -> Decision:
        """What became of the inputs of a batch from the place `start` on, while the rest is still being signed."""
        checksums = self.checksums[start : start + len(told)]
        items = tuple(
            _signed(*each, place) for place, each in enumerate(zip(checksums, told, results, strict=True), start)
        )
        return self._decision(Outcome.ANSWERED, Code.OK, "", items)

    def _items(self) -> tuple[Item, ...]:
        """What the key was asked for, each with what became of it as far as that is known."""
        if self.told:
            if not self.batch:
                return (_signed(self.checksums[0], self.told[0], self.results[0], None),)
            each = zip(self.checksums, self.told, self.results, range(self.batch), strict=True)
            return tuple([_signed(*one) for one in each])
        if self.batch or not (self.checksums or self.wrapped_key_sha256):
            return ()
        asked = self.checksums[0] if self.checksums else None
        timed = _timed(self.results[0] if self.results else None)
        return (Item(asked, None, self.wrapped_key_sha256, None, *timed),)

    def answered(self) -> Decision:
        """The decision of a call that is answered; a batch without a single signature failed."""
        if self.failure is not None and not self.signatures:
            return self.refused(self.failure)
        return self.decision(Outcome.ANSWERED, Code.OK)

    def refused(self, failure: ServiceError) -> Decision:
        """The decision of a call that ends with an error."""
        return self.decision(outcome_of(failure), failure.code, failure.reason)


def _timed(result: object) -> tuple[str, float | None, float | None]:
    """What the store said of one result: its own name for the call, seconds in its queue and in itself."""
    if isinstance(result, (Signature, Plaintext)):
        return result.request_id, result.queued_s, result.store_s
    return "", None, None


def _signed(checksum: bytes, told: bytes | ServiceError, result: object, place: int | None) -> Item:
    if isinstance(told, ServiceError):
        return Item(checksum, failure=told, place=place)
    return Item(checksum, sha256(told).digest(), None, None, *_timed(result), place)


def outcome_of(failure: ServiceError) -> Outcome:
    """What became of a call that ends with this error."""
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
    """Where decisions go. Used on one event loop, between `start` and `close`."""

    async def start(self, tell: Callable[[bool], None]) -> None:
        """Make ready. `tell` hears, on the loop, when decisions cannot be recorded any more (False) and can again."""

    async def close(self) -> None:
        """Finish what is being recorded. Safe to call twice, and before `start`."""

    def require_ready(self) -> None:
        """Raise ServiceError when a decision could not be recorded now: then no key store is asked. It costs nothing,
        and is looked at right before a key is used."""

    async def record(self, decision: Decision) -> Sequence[Receipt]:
        """Record one. It is awaited before the answer leaves: what it raises becomes the answer, and nothing else
        leaves. A ServiceError reaches the caller as it is, anything else as INTERNAL.

        Returns where the record of each item is, as a receipt without proof; nothing where there are no receipts.
        """

    async def record_part(self, decision: Decision) -> Sequence[Receipt]:
        """Record the items of a decision on a long batch, as they are signed and before the others are: a batch that is
        cut short has used the key for them. It raises what `record` does, and `record` is still called at the end.

        Returns a receipt for each item.
        """
