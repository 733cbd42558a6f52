"""The `[[issuers]]` tables: whose tokens are accepted, and for how long."""

from __future__ import annotations

from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from privyseal_service.config.fields import Live, Model, PathField, Texts, unique
from privyseal_service.domain.names import check_issuer
from privyseal_service.domain.patterns import PathPattern, PatternError

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""The algorithms of tokens' signatures (RFC 7518, RFC 8037): only asymmetric ones, since with a shared secret a public
key could be used as the secret."""

MOST_CLAIMS = 12
"""How many claims of a token are kept: as many as a record of the audit trail has."""

RESERVED_CLAIMS = frozenset({"issuer", "subject", "certificate", "authority", "serial"})
"""Names that a record uses for other parts of the caller's proof."""

_LOOPBACK = frozenset({"127.0.0.1", "::1"})


class IssuerConfig(Model):
    """An issuer of tokens.

    `issuer` is the `iss` of its tokens, exactly; one of `audiences` must be in their `aud`. Its keys are in
    `jwks_file`, which is read again when it changes, or at `jwks_url`, fetched every `refresh_s`; `jwks_ca_file` has
    the CAs to trust there, by default the system's. While that server does not answer, the last keys are used for
    `offline_grace_s`.

    A token is accepted while `exp` and `nbf` allow it, and for at most `max_age_s` after its `iat`; clocks may differ
    by `clock_skew_s`. A token must have all `required_claims`, each with a value that matches one of its patterns.
    `claims` are the claims that are recorded and that grants may require.
    """

    issuer: Live[str]
    audiences: Live[
        Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1), AfterValidator(unique)]
    ]
    algorithms: Live[Annotated[tuple[Algorithm, ...], Field(min_length=1), AfterValidator(unique)]] = ("RS256",)
    jwks_file: Live[PathField | None] = None
    jwks_url: Live[str | None] = None
    jwks_ca_file: Live[PathField | None] = None
    refresh_s: Live[Annotated[float, Field(ge=60, le=86_400, allow_inf_nan=False)]] = 900.0
    offline_grace_s: Live[Annotated[float, Field(ge=0, le=30 * 86_400, allow_inf_nan=False)]] = 86_400.0
    clock_skew_s: Live[Annotated[float, Field(ge=0, le=300, allow_inf_nan=False)]] = 30.0
    max_age_s: Live[Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]] = 3600.0
    required_claims: Live[dict[str, Texts]] = Field(default_factory=dict)
    claims: Live[Annotated[tuple[str, ...], Field(max_length=MOST_CLAIMS), AfterValidator(unique)]] = ()

    @field_validator("issuer")
    @classmethod
    def _check_issuer(cls, issuer: str) -> str:
        check_issuer(issuer)
        return issuer

    @field_validator("jwks_url")
    @classmethod
    def _check_url(cls, url: str | None) -> str | None:
        if url is not None:
            _check_url(url)
        return url

    @field_validator("claims")
    @classmethod
    def _check_claims(cls, claims: tuple[str, ...]) -> tuple[str, ...]:
        for name in claims:
            if not name or len(name) > 64 or not name.isprintable() or name in RESERVED_CLAIMS:
                raise ValueError(
                    "each must be the name of a claim, at most 64 characters, other than "
                    f"{', '.join(sorted(RESERVED_CLAIMS))}"
                )
        return claims

    @field_validator("required_claims")
    @classmethod
    def _check_required(cls, required: dict[str, Texts]) -> dict[str, Texts]:
        for name, values in required.items():
            _patterns(name, values)
        return required

    @model_validator(mode="after")
    def _check_source(self) -> IssuerConfig:
        if (self.jwks_file is None) == (self.jwks_url is None):
            raise ValueError("an issuer needs either jwks_file or jwks_url")
        if self.jwks_ca_file is not None and not (self.jwks_url or "").startswith("https:"):
            raise ValueError("jwks_ca_file needs a jwks_url with https")
        return self

    def required(self) -> dict[str, tuple[PathPattern, ...]]:
        """Return the required claims, each with its patterns."""
        return {name: _patterns(name, values) for name, values in self.required_claims.items()}


def _patterns(name: str, values: Texts) -> tuple[PathPattern, ...]:
    try:
        return tuple(map(PathPattern.parse, (values,) if isinstance(values, str) else values))
    except PatternError as error:
        raise ValueError(f"{name}: {error}") from None


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise ValueError("must be https; http is for 127.0.0.1 and [::1] only")
    if not parts.hostname or parts.username or parts.fragment or port == 0 or not url.isascii() or " " in url:
        raise ValueError("must be https://HOST[:PORT]/PATH")
