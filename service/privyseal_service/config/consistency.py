"""What must hold between the tables of a configuration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence, Set
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from privyseal_service.config.grants import GrantConfig
    from privyseal_service.config.issuers import IssuerConfig
    from privyseal_service.config.listeners import ListenerConfig
    from privyseal_service.domain.names import CallerPattern


class MismatchError(Exception):
    """Grants that do not fit the rest of the configuration. The text is a sentence, `file` the grants' file."""

    def __init__(self, file: str, message: str) -> None:
        super().__init__(message)
        self.file = file


def check_issuers(listeners: Sequence[ListenerConfig], issuers: Sequence[IssuerConfig]) -> None:
    """Raise ValueError for issuers without a listener, a listener without issuers, and issuers whose callers could have
    the same name."""
    listening = any(listener.auth == "oidc" for listener in listeners)
    if listening and not issuers:
        raise ValueError('issuers: a listener with auth = "oidc" needs an issuer')
    if issuers and not listening:
        raise ValueError('issuers: there is no listener with auth = "oidc"; add one, or remove the issuers')
    names = [issuer.issuer for issuer in issuers]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise ValueError(f"issuers[{place}].issuer: is the same as issuers[{names.index(name)}].issuer")
        # oidc:ISSUER:SUBJECT must name one caller only, and a subject may have colons in it.
        other = next((i for i, longer in enumerate(names) if longer.startswith(f"{name}:")), None)
        if other is not None:
            raise ValueError(
                f"issuers[{place}].issuer: issuers[{other}].issuer begins with it and a colon, so that callers of the "
                "two could have the same name"
            )


def check_grants(
    grants: Sequence[GrantConfig], keys: Set[str], issuers: Sequence[IssuerConfig], *, counts: bool
) -> None:
    """Raise MismatchError for two grants of one name, and for a grant that needs what the configuration does not have:
    a key, an issuer, a claim, or with a rate or quota a place for the counts (`counts`)."""
    places = _places(grants)
    first: dict[str, tuple[str, str]] = {}
    for grant, place in zip(grants, places, strict=True):
        other, file = first.setdefault(grant.name, (place, grant.origin))
        if (other, file) != (place, grant.origin):
            where = other if file == grant.origin else f"{other} in {file}"
            raise MismatchError(grant.origin, f"{place}.name: is the name of {where} too")
    for grant, place in zip(grants, places, strict=True):
        for problem in _problems(grant, keys, issuers, counts=counts):
            raise MismatchError(grant.origin, f"{place}.{problem}")


def _places(grants: Sequence[GrantConfig]) -> list[str]:
    """Return the place of each grant in its own file: `grants[1]`."""
    counted: Counter[str] = Counter()
    found = []
    for grant in grants:
        found.append(f"grants[{counted[grant.origin]}]")
        counted[grant.origin] += 1
    return found


def _problems(grant: GrantConfig, keys: Set[str], issuers: Sequence[IssuerConfig], *, counts: bool) -> Iterator[str]:
    for number, name in enumerate(grant.keys):
        if name not in keys:
            yield f"keys[{number}]: there is no key of this name"
    for number, pattern in enumerate(grant.callers):
        if pattern.is_oidc:
            yield from _oidc_problems(f"callers[{number}]", pattern, grant, issuers)
    if not counts and (grant.rate is not None or grant.daily_quota is not None):
        yield (
            f"{'rate' if grant.rate else 'daily_quota'}: there is no place to count in; set server.state_folder, or "
            "limits.storage for replicas that count together"
        )


def _oidc_problems(
    place: str, pattern: CallerPattern, grant: GrantConfig, issuers: Sequence[IssuerConfig]
) -> Iterator[str]:
    found = _issuer_of(pattern, issuers)
    if found is None:
        yield f"{place}: none of [[issuers]] has this issuer"
        return
    issuer, subject = found
    if subject in {"*", "**"} and not grant.claims:
        yield f"{place}: allows every token of the issuer; add claims"
    for claim in grant.claims:
        if claim not in issuer.claims:
            yield f"claims.{claim}: the issuer does not keep this claim; add it to claims in [[issuers]]"


def _issuer_of(pattern: CallerPattern, issuers: Sequence[IssuerConfig]) -> tuple[IssuerConfig, str] | None:
    """Return the issuer of a caller's pattern, and the pattern of the subject."""
    for issuer in issuers:
        subject = pattern.subject_of(issuer.issuer)
        if subject:
            return issuer, subject
    return None
