"""Who may do what; everything else is denied. A grant allows a call when it names the caller, key, operation and scheme
and its other conditions hold: claims, context, time. Its rate and quota are checked last, in `limits`.
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
"""The fields of a request's context that a grant can require."""


@dataclass(frozen=True, slots=True)
class ClaimRule:
    """A required claim, with a value that one of the patterns selects."""

    claim: str
    patterns: tuple[PathPattern, ...]

    def holds(self, claims: Mapping[str, str]) -> bool:
        """Return whether the claims fulfil the rule."""
        value = claims.get(self.claim)
        return value is not None and any(pattern.matches(value) for pattern in self.patterns)


class Counted(enum.Enum):
    """What a rate and a quota are counted for."""

    GRANT = "grant"
    """All callers of the grant together."""
    CALLER = "caller"
    """Each caller separately."""


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `amount` inputs (session keys, checksums) in every window of `window_s` seconds; `text` as configured."""

    amount: int
    window_s: int
    text: str


class Obstacle(enum.Enum):
    """Why a grant that names caller, key, operation and scheme does not allow a call."""

    HOURS = "hours"
    CONTEXT = "context"


@dataclass(frozen=True, slots=True)
class Grant:
    """These callers may do these operations with these keys. `schemes` None means every scheme of the key.

    A grant of `list-records` has no keys: it applies to the records of the whole replica. The caller's token must
    fulfil all `claims`. `context` names the fields of a request's context that must not be empty. The grant applies
    only during `hours`. `rate` and `daily_quota` (inputs a day, UTC) limit it. `priority` orders the queue at a key
    store, see `weight`. `origin` is the file that it was read from.
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
        """Whether it has no conditions besides caller, key, operation and scheme."""
        return self.hours is None and not self.context

    @property
    def weight(self) -> float:
        """The caller's relative share of a busy key store: 1 at priority 0, doubled by each ten more."""
        return float(2 ** (self.priority / 10))

    @property
    def counts(self) -> bool:
        """Whether it has a rate or a quota."""
        return self.rate is not None or self.daily_quota is not None

    def names_caller(self, caller: str, claims: Claims = ()) -> bool:
        """Return whether the grant names this caller with these claims."""
        if not any(pattern.matches(caller) for pattern in self.callers):
            return False
        known = dict(claims) if self.claims else {}
        return all(rule.holds(known) for rule in self.claims)

    def allows(self, operation: Operation, scheme: Scheme) -> bool:
        """Return whether the grant names the operation and the scheme."""
        return operation in self.operations and (self.schemes is None or scheme in self.schemes)

    def obstacle(self, context: object, now_s: float) -> Obstacle | None:
        """Return what keeps the grant from allowing a request with this context (its fields are attributes) now."""
        if self.hours is not None and not self.hours.hold(now_s):
            return Obstacle.HOURS
        if not all(getattr(context, name) for name in self.context):
            return Obstacle.CONTEXT
        return None


def allowing(grants: Iterable[Grant], operation: Operation, scheme: Scheme) -> Grant | None:
    """Return the first grant that names the operation and the scheme."""
    return next((grant for grant in grants if grant.allows(operation, scheme)), None)


class Grants:
    """All grants of a configuration. Immutable: a reload makes a new object."""

    _MOST_CACHED = 4096

    def __init__(self, grants: Sequence[Grant]) -> None:
        self._grants = tuple(grants)
        self._by_caller: dict[tuple[str, Claims], dict[str, tuple[Grant, ...]]] = {}

    def of_caller(self, caller: str, claims: Claims = ()) -> dict[str, tuple[Grant, ...]]:
        """Return the keys that the caller has a grant on, sorted by name, each with the grants that name caller and
        key, in the configuration's order."""
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
        """Return the first grant that allows the caller to read the records of the audit trail now."""
        mine = (grant for grant in self._grants if Operation.LIST_RECORDS in grant.operations)
        return next(
            (g for g in mine if g.names_caller(caller, claims) and (g.hours is None or g.hours.hold(now_s))), None
        )
