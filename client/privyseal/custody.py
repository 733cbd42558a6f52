"""The custody report that a security team files: where each key lives, what is known of it, and what rests on it."""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from privyseal.errors import FileUnusableError
from privyseal.model import Custody, Key, KeyState, PublicKey
from privyseal.verification import public_key_of

if TYPE_CHECKING:
    from pathlib import Path

    from privyseal.configuration import Connection

GRANTS_NOTE = (
    "These are the grants of the caller who asked. The service shows nobody the grants of others: who else may use a"
    " key is in the service's configuration, under [[grants]]."
)

_PLACES: tuple[tuple[tuple[str, str], ...], ...] = (
    (
        ("token", "token.label"),
        ("serial", "token.serial"),
        ("manufacturer", "token.manufacturer"),
        ("model", "token.model"),
        ("firmware", "token.firmware"),
        ("module", "module.path"),
    ),
    (("AWS KMS key", "Arn"), ("CloudHSM cluster", "CloudHsmClusterId"), ("endpoint", "endpoint.url")),
    (("Google Cloud KMS key version", "name"), ("protection level", "protection level")),
)
"""What each kind of key store reports of a place: words, and the evidence's name. The first name marks the kind."""


@dataclass(frozen=True)
class KeyReport:
    """One key. `lives_in` is a phrase made of the evidence; `granted` are the schemes that the key is enrolled for and
    that the caller may use. `public_key` and `custody` are None, and the texts empty, while the service has not opened
    the key since it started."""

    name: str
    state: KeyState
    lives_in: str
    key_version: str
    algorithm: str
    public_key: PublicKey | None
    custody: Custody | None
    granted: tuple[str, ...]


@dataclass(frozen=True)
class CustodyReport:
    """All keys that a caller may use, as the service at `server` reported them at `made_at` (RFC 3339, UTC).

    `asked_as` is what the caller showed of itself. `note` states how far `granted` goes.
    """

    made_at: str
    server: str
    asked_as: str
    note: str
    keys: tuple[KeyReport, ...]

    @property
    def silent(self) -> tuple[str, ...]:
        """The names of the keys of which nothing is known yet."""
        return tuple(key.name for key in self.keys if key.custody is None)


def custody_report(keys: Iterable[Key], connection: Connection, now: datetime.datetime) -> CustodyReport:
    """The report on `keys` at `now` (aware). The fingerprints are computed again from the public keys: raises
    NotVerifiedError where the service shows another one, and FileUnusableError for a certificate that cannot be read.
    """
    return CustodyReport(
        made_at=now.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        server=connection.server,
        asked_as=asked_as(connection),
        note=GRANTS_NOTE,
        keys=tuple(_key_report(key) for key in keys),
    )


def _key_report(key: Key) -> KeyReport:
    if key.public_key is not None:
        public_key_of(key)
    evidence = {each.name: each.value for each in key.custody.evidence} if key.custody else {}
    return KeyReport(
        name=key.name,
        state=key.state,
        lives_in=place(evidence) or key.key_version,
        key_version=key.key_version,
        algorithm=f"RSA-{key.public_key.modulus_bits}" if key.public_key else "",
        public_key=key.public_key,
        custody=key.custody,
        granted=tuple(scheme.value for scheme in (*key.wrap_schemes, *key.signature_schemes)),
    )


def place(evidence: Mapping[str, str]) -> str:
    """Where a key lives, in words made of the evidence; empty where that is of no known form."""
    for parts in _PLACES:
        if parts[0][1] in evidence:
            return ", ".join(f"{words} {evidence[name]}" for words, name in parts if evidence.get(name))
    return ""


def asked_as(connection: Connection) -> str:
    """What a caller shows of itself: the names in its certificate, or that it is a bearer token. What the service makes
    of it is in the service's configuration."""
    if connection.cert is not None:
        return f"the certificate of {', '.join(_names(connection.cert))}"
    if connection.token or connection.token_file or connection.token_command:
        return "a bearer token"
    return "nobody in particular: the connection proves no identity"


def _names(certificate: Path) -> list[str]:
    from cryptography import x509  # noqa: PLC0415 - the SDK's other users need none of it

    try:
        parsed = x509.load_pem_x509_certificates(certificate.read_bytes())[0]
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return [parsed.subject.rfc4514_string() or "no name"]
    except (OSError, ValueError) as error:
        raise FileUnusableError(
            f"{certificate}: cannot be read as a certificate", remedy="pass the client certificate in PEM"
        ) from error
    found = names.get_values_for_type(x509.UniformResourceIdentifier)
    return [*found, *(f"dns:{name}" for name in names.get_values_for_type(x509.DNSName))] or ["no name"]
