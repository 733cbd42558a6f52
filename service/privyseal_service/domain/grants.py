"""Who may do what: deny by default. A call is allowed when one grant names its caller, key, operation and scheme, and
all that the grant asks for beside that holds: claims, context, time. What it counts is looked at last, elsewhere.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from privyseal_service.domain.names import CallerPattern
from privyseal_service.domain.operation_names import Claims, Operation
from privyseal_service.domain.operations import Scheme
from privyseal_service.domain.patterns import PathPattern
from privyseal_service.domain.time_window import Hours

CONTEXT_FIELDS = ("app_id", "bundle_version", "source_revision", "build_url")
"""What of a request's context a grant can ask for."""


@dataclass(frozen=True, slots=True)
class ClaimRule:
    """A claim that must be there, with a value that one of the patterns selects."""

    claim: str
    patterns: tuple[PathPattern, ...]

    def holds(self, claims: Mapping[str, str]) -> bool:
        """Whether the claims have it."""
        value = claims.get(self.claim)
        return value is not None and any(pattern.matches(value) for pattern in self.patterns)


class Counted(enum.Enum):
    """What a rate and a quota are counted for."""

    GRANT = "grant"
    """All callers of the grant together."""
    CALLER = "caller"
    """Each caller by itself."""


@dataclass(frozen=True, slots=True)
class Rate:
    """So many inputs (session keys, checksums) in every window of so many seconds; `text` as it was written."""

    amount: int
    window_s: int
    text: str


class Obstacle(enum.Enum):
    """Why a grant that names caller, key, operation and scheme does not allow a call all the same."""

    HOURS = "hours"
    CONTEXT = "context"


@dataclass(frozen=True, slots=True)
class Grant:
    """These callers may do these operations with these keys. `schemes` None means all that a key is enrolled for.

    A grant of `list-records` has no keys: it is about the records of the whole replica. `claims` must all hold of the
    caller's token, `context` names the fields of a request's context that must not be empty, `hours` is when the grant
    holds. `rate` and `daily_quota` (inputs a day, UTC) are what it counts. `priority` is for the queue at a key store:
    see `weight`. `origin` is the file that it was read from.
    """

    name: str
    callers: tuple[CallerPattern, ...]
    keys: frozenset[str]
    operations: frozenset[Operation]
    schemes: frozenset[Scheme] | None = None
    claims: tuple[ClaimRule, ...] = ()
    hours: Hours | None = None
    context: tuple[str, ...] = ()
    rate: Rate | None = None
    daily_quota: int | None = None
    counted: Counted = Counted.GRANT
    priority: int = 0
    origin: str = ""

    @property
    def plain(self) -> bool:
        """Whether it asks for nothing beside caller, key, operation and scheme."""
        return self.hours is None and not self.context

    @property
    def weight(self) -> float:
        """The share of a busy key store that a caller has under it, against 1 at priority 0: ten more doubles it."""
        return float(2 ** (self.priority / 10))

    @property
    def counts(self) -> bool:
        """Whether it allows only so much."""
        return self.rate is not None or self.daily_quota is not None

    def names_caller(self, caller: str, claims: Claims = ()) -> bool:
        """Whether the grant is for the caller of this name, with these claims."""
        if not any(pattern.matches(caller) for pattern in self.callers):
            return False
        known = dict(claims) if self.claims else {}
        return all(rule.holds(known) for rule in self.claims)

    def allows(self, operation: Operation, scheme: Scheme) -> bool:
        """Whether the grant is for the operation and the scheme."""
        return operation in self.operations and (self.schemes is None or scheme in self.schemes)

    def obstacle(self, context: object, now_s: float) -> Obstacle | None:
        """What stands against it, of a request with this context (whose fields are attributes) at this time."""
        if self.hours is not None and not self.hours.hold(now_s):
            return Obstacle.HOURS
        if not all(getattr(context, name) for name in self.context):
            return Obstacle.CONTEXT
        return None


def allowing(grants: Iterable[Grant], operation: Operation, scheme: Scheme) -> Grant | None:
    """The first of the grants that is for the operation and the scheme."""
    return next((grant for grant in grants if grant.allows(operation, scheme)), None)


class Grants:
    """All grants of a configuration. Never changes: a reload makes another."""

    _MOST_CACHED = 4096

    def __init__(self, grants: Sequence[Grant]) -> None:
        self._grants = tuple(grants)
        self._by_caller: dict[tuple[str, Claims], dict[str, tuple[Grant, ...]]] = {}

    def of_caller(self, caller: str, claims: Claims = ()) -> dict[str, tuple[Grant, ...]]:
        """The keys that the caller has any grant on, by name in order, and the grants that name caller and key, in the
        configuration's order."""
        known = self._by_caller.get((caller, claims))
        if known is None:
            mine = [grant for grant in self._grants if grant.names_caller(caller, claims)]
            names = sorted({key for grant in mine for key in grant.keys})
            known = {name: tuple(grant for grant in mine if name in grant.keys) for name in names}
            if len(self._by_caller) >= self._MOST_CACHED:
                self._by_caller.clear()
            self._by_caller[caller, claims] = known
        return known

    def listing_records(self, caller: str, claims: Claims = (), now_s: float = 0.0) -> Grant | None:
        """The first grant that lets the caller read the records of the audit trail at this time."""
        mine = (grant for grant in self._grants if Operation.LIST_RECORDS in grant.operations)
        return next(
            (g for g in mine if g.names_caller(caller, claims) and (g.hours is None or g.hours.hold(now_s))), None
        )
