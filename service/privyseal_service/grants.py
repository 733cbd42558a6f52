"""Who may do what: deny by default. A call is allowed when one grant names its caller, key, operation and scheme."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from privyseal_service.callers import CallerPattern
from privyseal_service.operations import Scheme


class Operation(enum.Enum):
    """What a call asks for. Grants name the first four; who has any grant on a key may see it, and whoever has a name
    may ask the audit trail for proofs."""

    WRAP_SESSION_KEY = "wrap-session-key"
    SIGN_CHECKSUM = "sign-checksum"
    UNWRAP_SESSION_KEY = "unwrap-session-key"
    LIST_RECORDS = "list-records"
    LIST_KEYS = "list-keys"
    GET_KEY = "get-key"
    GET_CHECKPOINT = "get-checkpoint"
    GET_INCLUSION_PROOF = "get-inclusion-proof"
    GET_CONSISTENCY_PROOF = "get-consistency-proof"


GRANTABLE = (Operation.WRAP_SESSION_KEY, Operation.SIGN_CHECKSUM, Operation.UNWRAP_SESSION_KEY)
"""The operations on a key that a grant can name; batches are `sign-checksum`."""


@dataclass(frozen=True, slots=True)
class Grant:
    """These callers may do these operations with these keys. `schemes` None means all that a key is enrolled for.

    A grant of `list-records` has no keys: it is about the records of the whole replica.
    """

    name: str
    callers: tuple[CallerPattern, ...]
    keys: frozenset[str]
    operations: frozenset[Operation]
    schemes: frozenset[Scheme] | None = None

    def names_caller(self, caller: str) -> bool:
        """Whether the grant is for the caller of this name."""
        return any(pattern.matches(caller) for pattern in self.callers)

    def allows(self, operation: Operation, scheme: Scheme) -> bool:
        """Whether the grant is for the operation and the scheme."""
        return operation in self.operations and (self.schemes is None or scheme in self.schemes)


def allowing(grants: Iterable[Grant], operation: Operation, scheme: Scheme) -> Grant | None:
    """The first of the grants that is for the operation and the scheme."""
    return next((grant for grant in grants if grant.allows(operation, scheme)), None)


class Grants:
    """All grants of a configuration. Never changes: a reload makes another."""

    _MOST_CACHED = 4096

    def __init__(self, grants: Sequence[Grant]) -> None:
        self._grants = tuple(grants)
        self._by_caller: dict[str, dict[str, tuple[Grant, ...]]] = {}

    def of_caller(self, caller: str) -> dict[str, tuple[Grant, ...]]:
        """The keys that the caller has any grant on, by name in order, and the grants that name caller and key, in the
        configuration's order."""
        known = self._by_caller.get(caller)
        if known is None:
            mine = [grant for grant in self._grants if grant.names_caller(caller)]
            names = sorted({key for grant in mine for key in grant.keys})
            known = {name: tuple(grant for grant in mine if name in grant.keys) for name in names}
            if len(self._by_caller) >= self._MOST_CACHED:
                self._by_caller.clear()
            self._by_caller[caller] = known
        return known

    def listing_records(self, caller: str) -> Grant | None:
        """The first grant that lets the caller read the records of the audit trail."""
        mine = (grant for grant in self._grants if grant.names_caller(caller))
        return next((grant for grant in mine if Operation.LIST_RECORDS in grant.operations), None)
