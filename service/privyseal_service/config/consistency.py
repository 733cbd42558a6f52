"""What must be true of a configuration between its tables: pure functions, and a sentence for what is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from privyseal_service.config.grants import GrantConfig
    from privyseal_service.config.issuers import IssuerConfig
    from privyseal_service.config.tables import Config
    from privyseal_service.domain.names import CallerPattern


class MismatchError(Exception):
    """Grants that do not fit the rest of the configuration. The text is a sentence, `file` where it stands."""

    def __init__(self, file: str, message: str) -> None:
        super().__init__(message)
        self.file = file


def check_issuers(config: Config) -> None:
    """Raise ValueError for issuers that nobody listens for, for listeners without, and for two whose callers could have
    one name."""
    listening = any(listener.auth == "oidc" for listener in config.listeners)
    if listening and not config.issuers:
        raise ValueError('issuers: a listener with auth = "oidc" needs an issuer whose tokens it takes')
    if config.issuers and not listening:
        raise ValueError('issuers: there is no listener with auth = "oidc" that takes their tokens')
    names = [issuer.issuer for issuer in config.issuers]
    for place, name in enumerate(names):
        if name in names[:place]:
            raise ValueError(f"issuers[{place}].issuer: two are the same")
        # oidc:ISSUER:SUBJECT must be one caller alone, and a subject may have colons in it.
        if any(other != name and other.startswith(f"{name}:") for other in names):
            raise ValueError(
                f"issuers[{place}].issuer: another issuer's name begins with this one and a colon, so that one caller's"
                " name could be another's"
            )


def check_grants(config: Config) -> None:
    """Raise MismatchError for grants of one name, and for what a grant names that is not there."""
    twice = Counter(grant.name for grant in config.grants)
    for place, grant in _placed(config.grants):
        if twice[grant.name] > 1:
            others = sorted({other.origin for other in config.grants if other.name == grant.name} - {grant.origin})
            where = f" (the other in {others[0]})" if others else ""
            raise MismatchError(grant.origin, f"grants: two have the name {grant.name!r}{where}")
        for problem in _problems(config, grant):
            raise MismatchError(grant.origin, f"grants[{place}].{problem}")


def _placed(grants: tuple[GrantConfig, ...]) -> Iterator[tuple[int, GrantConfig]]:
    """Each grant with its place in its own file."""
    places: Counter[str] = Counter()
    for grant in grants:
        yield places[grant.origin], grant
        places[grant.origin] += 1


def _problems(config: Config, grant: GrantConfig) -> Iterator[str]:
    known = {key.name for key in config.keys}
    for name in grant.keys:
        if name not in known:
            yield f"keys: there is no key named {name!r}"
    for pattern in grant.callers:
        if pattern.is_oidc:
            yield from _oidc_problems(config, grant, pattern)
    counted = grant.rate is not None or grant.daily_quota is not None
    if counted and config.server.state_folder is None and config.limits.storage is None:
        yield (
            f"{'rate' if grant.rate else 'daily_quota'}: must be counted somewhere: set server.state_folder, or "
            "limits.storage where replicas count together"
        )


def _oidc_problems(config: Config, grant: GrantConfig, pattern: CallerPattern) -> Iterator[str]:
    found = _issuer_of(config, pattern)
    if found is None:
        yield f"callers: {pattern.text!r} is of none of the issuers in [[issuers]]"
        return
    issuer, subject = found
    if subject in {"*", "**"} and not grant.claims:
        yield f"callers: {pattern.text!r} is everybody who has a token of this issuer; add claims"
    for claim in grant.claims:
        if claim not in issuer.claims:
            yield f"claims: {claim} is none of the claims that issuer {issuer.issuer} keeps; add it to its claims"


def _issuer_of(config: Config, pattern: CallerPattern) -> tuple[IssuerConfig, str] | None:
    """The issuer whose tokens a pattern is about, with what it says of their subject."""
    for issuer in config.issuers:
        subject = pattern.subject_of(issuer.issuer)
        if subject:
            return issuer, subject
    return None
