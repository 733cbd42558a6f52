"""What was decided on each call, allowed or not, and where that is told."""

from __future__ import annotations

import dataclasses
import enum
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from privyseal_backends.interface import Plaintext, Signature
from privyseal_service.errors import Code, ServiceError
from privyseal_service.grants import Operation
from privyseal_service.identity import Caller, Proof
from privyseal_service.requests import NO_CONTEXT, Context, SigningRequest

_LOG = logging.getLogger("privyseal.decision")

NO_PROOF = Proof("none")

MOST_KEY_CHARACTERS = 128
"""Characters of a key's name that are recorded; no key has a longer one."""


class Outcome(enum.Enum):
    """What became of a call."""

    ANSWERED = "answered"
    DENIED = "denied"
    """The caller proved no name, or has no grant."""
    REFUSED = "refused"
    """The request is not one that the key serves."""
    FAILED = "failed"
    """The call was allowed, and the key store or the service did not do it."""
    CANCELLED = "cancelled"
    """The caller went away, or its deadline passed, before there was an answer; the store may have done the work."""


@dataclass(frozen=True, slots=True)
class Decision:
    """One call: who, how proven and from where; what was asked; what was decided, why, and what it took.

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

    def identified(self, caller: Caller) -> None:
        """The caller proved its name."""
        self.caller, self.proof = caller.name, caller.proof

    def asked(self, request: SigningRequest) -> None:
        """The request was read."""
        self.key, self.scheme, self.context = request.key, request.scheme.value, request.context

    def took(self, results: Sequence[object]) -> None:
        """The key store answered, with signatures, plaintexts or errors."""
        done = [result for result in results if isinstance(result, (Signature, Plaintext))]
        self.signatures = len(done)
        if done:
            self.store_request_id = " ".join(dict.fromkeys(result.request_id for result in done if result.request_id))
            self.queued_s = max(result.queued_s for result in done)
            self.store_s = max(result.store_s for result in done)

    def decision(self, outcome: Outcome, code: Code, reason: str = "") -> Decision:
        """How the call ended."""
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
        )

    def answered(self) -> Decision:
        """The decision of a call that is answered; a batch without a single signature failed."""
        if self.failure is not None and not self.signatures:
            return self.refused(self.failure)
        return self.decision(Outcome.ANSWERED, Code.OK)

    def refused(self, failure: ServiceError) -> Decision:
        """The decision of a call that ends with an error."""
        return self.decision(_OUTCOMES.get(failure.code, Outcome.FAILED), failure.code, failure.reason)


_OUTCOMES = {
    Code.UNAUTHENTICATED: Outcome.DENIED,
    Code.PERMISSION_DENIED: Outcome.DENIED,
    Code.INVALID_ARGUMENT: Outcome.REFUSED,
    Code.FAILED_PRECONDITION: Outcome.REFUSED,
}


class Recorder(Protocol):
    """Where decisions go."""

    async def record(self, decision: Decision) -> None:
        """Record one. It is awaited before the answer leaves: what it raises becomes the answer, and nothing else
        leaves. A ServiceError reaches the caller as it is, anything else as INTERNAL."""


class LogRecorder:
    """Tells the log: one line for each decision."""

    async def record(self, decision: Decision) -> None:
        """Write the line."""
        if _LOG.isEnabledFor(logging.INFO):
            # Made by hand, since looking for the calling line costs more than all the rest of the record.
            message, extra = decision.outcome.value, {"fields": fields(decision)}
            _LOG.handle(_LOG.makeRecord(_LOG.name, logging.INFO, __file__, 0, message, (), None, extra=extra))


def fields(decision: Decision) -> dict[str, object]:
    """A decision as a flat mapping for a structured line; what is empty is left out."""
    found: dict[str, object] = {}
    for name in _NAMES:
        value = getattr(decision, name)
        if value or name == "caller":
            found[name] = value
    found["proof"] = {"method": decision.proof.method, **decision.proof.details}
    found["outcome"], found["code"] = decision.outcome.value, decision.code.name
    context = {name: value for name, value in dataclasses.asdict(decision.context).items() if value}
    if context:
        found["context"] = context
    return found


_NAMES = tuple(f.name for f in dataclasses.fields(Decision) if f.name not in {"proof", "context", "outcome", "code"})
