"""Checks whether a configuration would serve, without serving it: each key, each listener, each issuer, the Redis for
rates, and the audit trail. All are checked, whatever fails."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from privyseal_backends.interface import BackendError, KeyDescription, UnavailableError
from privyseal_backends.registry import backend
from privyseal_service.api.tls import TlsError, load_tls
from privyseal_service.keys.enrollment import MisfitError, check_enrollment, check_one_purpose, worded
from privyseal_service.keys.stores import Stores
from privyseal_service.system.escaping import escape_unprintable

if TYPE_CHECKING:
    from privyseal_backends.interface import OpenStore
    from privyseal_service.config.audit import AuditConfig
    from privyseal_service.config.issuers import IssuerConfig
    from privyseal_service.config.keys import KeyConfig
    from privyseal_service.config.limits import LimitsConfig
    from privyseal_service.config.listeners import ListenerConfig
    from privyseal_service.config.root import Config

OPEN_S = 15.0
"""How long a key store may take to open a key."""

_RENEW = datetime.timedelta(days=14)


@dataclass(frozen=True)
class Finding:
    """The result for one key, listener, issuer, the Redis for rates, or the audit trail: whether it would serve, the
    facts about it, and, where it would not, which part failed and the remedy.

    `part` is one or two words: "module", "token", "PIN", "object", "attribute", "mechanism", "custody", "network",
    "certificate", "key", "CA", "issuer", "limits"; of the audit trail "audit", "folder", "key", "log", "sink". `notes`
    are sentences on what would serve and needs attention.
    """

    kind: str
    name: str
    facts: dict[str, str | int | list[str]] = field(default_factory=dict)
    part: str = ""
    message: str = ""
    remedy: str = ""
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether it would serve."""
        return not self.part

    def line(self) -> str:
        """Format the finding for a person: a line, and one more for each note. It is escaped: it may repeat what an
        issuer's server answered."""
        facts = ", ".join(f"{name.replace('_', ' ')} {_text(value)}" for name, value in self.facts.items())
        problem = "" if self.ok else f"{self.part}: {self.message}" + (f"; {self.remedy}" if self.remedy else "")
        text = "; ".join(part for part in (problem, facts) if part)
        notes = "".join(f"\n        note: {escape_unprintable(note)}" for note in self.notes)
        return f"{'ok  ' if self.ok else 'FAIL'}  {self.kind} {self.name}: {escape_unprintable(text)}{notes}"

    def json(self) -> dict[str, object]:
        """Return the finding for a program; `part`, `message` and `remedy` are empty where it would serve."""
        problem = {"part": self.part, "message": self.message, "remedy": self.remedy}
        return {"name": self.name, "ok": self.ok, **self.facts, **problem, "notes": list(self.notes)}


def _text(value: str | int | list[str]) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


async def check(config: Config, backends: Callable[[str], OpenStore] = backend) -> list[Finding]:
    """Check everything; keys and issuers are checked concurrently."""
    stores = Stores(config.stores, backends)
    granted = {key for grant in config.grants for key in grant.keys}
    try:
        keys = await asyncio.gather(*(_check_key(key, stores, granted=key.name in granted) for key in config.keys))
    finally:
        await stores.close()
    listeners = [_check_listener(listener) for listener in config.listeners]
    issuers = await asyncio.gather(*(asyncio.to_thread(_check_issuer, issuer) for issuer in config.issuers))
    limits = await check_limits(config.limits)
    return [*listeners, *issuers, *_check_purposes(config, keys), *limits, check_audit(config.audit)]


def _check_purposes(config: Config, found: Sequence[Finding]) -> Iterator[Finding]:
    """Return the findings, where one RSA key for two purposes has failed."""
    pairs = list(zip(config.keys, found, strict=True))
    known = [(key, str(finding.facts["fingerprint"])) for key, finding in pairs if finding.ok]
    for key, finding in pairs:
        yield _check_purpose(key, finding, known) if finding.ok else finding


def _check_purpose(config: KeyConfig, finding: Finding, known: Sequence[tuple[KeyConfig, str]]) -> Finding:
    try:
        check_one_purpose(config, str(finding.facts["fingerprint"]), known)
    except MisfitError as error:
        return replace(finding, part=error.part, message=error.message, remedy=error.remedy)
    return finding


def as_json(findings: Sequence[Finding]) -> dict[str, object]:
    """Return all findings for a program."""
    kinds = {f"{kind}s": [f.json() for f in findings if f.kind == kind] for kind in ("listener", "issuer", "key")}
    single = {f.kind: f.json() for f in findings if f.kind in {"limits", "audit"}}
    return {"ok": all(finding.ok for finding in findings), **kinds, **single}


async def _check_key(config: KeyConfig, stores: Stores, *, granted: bool) -> Finding:
    notes = () if granted else ("no grant names this key, so nobody may use it",)
    facts: dict[str, str | int | list[str]] = {}
    try:
        opening = stores.store(config.uri).open_key(config.uri, config.fingerprint)
        key = await asyncio.wait_for(opening, OPEN_S)
        facts = _facts(config, key.description)
        check_enrollment(config, key.description)
    except BackendError as error:
        return Finding("key", config.name, facts, error.part, error.message, error.remedy, notes)
    except TimeoutError:
        silent = UnavailableError("network", f"the key store did not answer within {OPEN_S:g} s", "check its health")
        return Finding("key", config.name, facts, silent.part, silent.message, silent.remedy, notes)
    return Finding("key", config.name, facts, notes=notes)


def _facts(config: KeyConfig, description: KeyDescription) -> dict[str, str | int | list[str]]:
    custody = description.custody
    return {
        "fingerprint": description.public_key.fingerprint,
        "key_version": description.key_version,
        "modulus_bits": description.public_key.modulus_bits,
        "schemes": [scheme.value for scheme in config.schemes],
        "protection": worded(custody.protection),
        "origin": worded(custody.origin),
        "export": worded(custody.export),
    }


async def check_limits(config: LimitsConfig) -> list[Finding]:
    """Check the Redis that counts rates and quotas, where there is one. Nothing is counted."""
    if config.storage is None:
        return []
    from privyseal_service.limits.limiter import LimitsError, RedisLimiter  # noqa: PLC0415 - only with a Redis
    from privyseal_service.telemetry.active_issues import ActiveIssues  # noqa: PLC0415
    from privyseal_service.telemetry.metrics import Counters  # noqa: PLC0415

    parts = urlsplit(config.storage)
    name = f"{parts.hostname}:{parts.port or 6379}"  # without the user's name, which may be in the URL
    try:
        limiter = RedisLimiter(config, ActiveIssues(Counters()))
    except LimitsError as error:
        return [Finding("limits", name, {}, "limits", str(error))]
    try:
        answers = await limiter.answers()
    finally:
        await limiter.close()
    if answers:
        return [Finding("limits", name, {"when_away": config.when_away})]
    sentence = f"the Redis for rates and quotas does not answer within {config.timeout_s:g} s, or refuses the password"
    if config.when_away == "allow":
        return [Finding("limits", name, {"when_away": "allow"}, notes=(f"{sentence}: calls are allowed uncounted",))]
    return [Finding("limits", name, {}, "network", sentence, "check its address, its password and the network")]


def check_audit(config: AuditConfig | None) -> Finding:
    """Check the audit trail's folder, key, log and sinks. Nothing is written."""
    if config is None:
        remedy = "add one, with a key that `privyseal-server audit keygen` makes"
        return Finding("audit", "trail", part="audit", message="there is no [audit] table", remedy=remedy)
    if not config.enabled:
        note = "signatures are recorded only in the service's log; use this for development only"
        return Finding("audit", "trail", {"enabled": "false"}, notes=(note,))
    from privyseal_service.audit.preflight import ProblemError, inspect  # noqa: PLC0415 - imports HTTPS, for its sinks

    try:
        facts, notes = inspect(config)
    except ProblemError as error:
        return Finding("audit", config.log, {}, error.part, str(error), error.remedy)
    return Finding("audit", config.log, facts, notes=tuple(notes))


def _check_issuer(config: IssuerConfig) -> Finding:
    from privyseal_service.identity.jwks import KeySetError, parse_key_set  # noqa: PLC0415 - only with issuers
    from privyseal_service.identity.jwks_sources import SourceError, fetch, read_key_file  # noqa: PLC0415

    where = config.jwks_url or str(config.jwks_file)
    try:
        if config.jwks_url is not None:
            keys = parse_key_set(fetch(config.jwks_url, config.jwks_ca_file), config.algorithms)
        else:
            keys = read_key_file(config)
    except (SourceError, KeySetError) as error:
        sentence = str(error) if isinstance(error, SourceError) else f"what {where} answers {error}"
        remedy = "check the address and the network" if config.jwks_url else "write the issuer's JWK set there"
        return Finding("issuer", config.issuer, {"keys_from": where}, "issuer", sentence, remedy)
    return Finding("issuer", config.issuer, {"keys_from": where, "keys": len(keys.keys)}, notes=keys.notes)


def _check_listener(config: ListenerConfig) -> Finding:
    if config.auth == "none":
        note = "it has no TLS and does not authenticate callers; use it for development only"
        return Finding("listener", config.address, {"auth": config.auth}, notes=(note,))
    try:
        tls = load_tls(config)
    except TlsError as error:
        return Finding("listener", config.address, {"auth": config.auth}, error.part, error.message, error.remedy)
    facts: dict[str, str | int | list[str]] = {
        "auth": config.auth,
        "certificate_until": f"{tls.not_after:%Y-%m-%d}",
        "client_cas": len(tls.authorities),
    }
    return Finding("listener", config.address, facts, notes=tuple(_listener_notes(config, tls.not_after)))


def _listener_notes(config: ListenerConfig, not_after: datetime.datetime) -> Iterator[str]:
    remaining = not_after - datetime.datetime.now(datetime.UTC)
    if remaining < _RENEW:
        yield f"its certificate expires in {remaining.days} days; renew it"
    if config.certificate_key and config.certificate_key.stat().st_mode & 0o077:
        yield f"others can read {config.certificate_key}; chmod 600 it"
