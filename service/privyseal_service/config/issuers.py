"""The `[[issuers]]` of the configuration, as they are written: whose tokens count, and for how long."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, field_validator, model_validator

from privyseal_service.config.fields import Model, unique
from privyseal_service.domain.names import check_issuer
from privyseal_service.domain.patterns import PathPattern, PatternError

Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
"""What a token may be signed with (RFC 7518, RFC 8037): asymmetric alone, since a shared secret could be a public
key."""

MOST_CLAIMS = 12
"""The claims of a token that are kept: as many as a record of the audit trail has."""

RESERVED_CLAIMS = frozenset({"issuer", "subject", "certificate", "authority", "serial"})
"""Names that a proof uses for something else."""

_LOOPBACK = frozenset({"127.0.0.1", "::1"})
_Texts = str | Annotated[tuple[str, ...], Field(min_length=1)]


class IssuerConfig(Model):
    """An issuer of tokens.

    `issuer` is the `iss` of its tokens, word for word; one of `audiences` must be in their `aud`. Its keys come from
    `jwks_file`, which is read again when it changes, or from `jwks_url`, fetched every `refresh_s`, whose server may
    have a certificate of the CAs in `jwks_ca_file` (else of the system's). When it does not answer, the keys that were
    fetched last count for `offline_grace_s`.

    A token counts while `exp` and `nbf` allow it, and for at most `max_age_s` from its `iat`; clocks may differ by
    `clock_skew_s`. `required_claims` must all be there, each with a value that a pattern selects. `claims` are those
    that matter: kept in the record, and there for grants to ask for.
    """

    issuer: str
    audiences: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1), AfterValidator(unique)]
    algorithms: Annotated[tuple[Algorithm, ...], Field(min_length=1), AfterValidator(unique)] = ("RS256",)
    jwks_file: Path | None = None
    jwks_url: str | None = None
    jwks_ca_file: Path | None = None
    refresh_s: Annotated[float, Field(ge=60, le=86_400, allow_inf_nan=False)] = 900.0
    offline_grace_s: Annotated[float, Field(ge=0, le=30 * 86_400, allow_inf_nan=False)] = 86_400.0
    clock_skew_s: Annotated[float, Field(ge=0, le=300, allow_inf_nan=False)] = 30.0
    max_age_s: Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)] = 3600.0
    required_claims: dict[str, _Texts] = Field(default_factory=dict)
    claims: Annotated[tuple[str, ...], Field(max_length=MOST_CLAIMS), AfterValidator(unique)] = ()

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
                    f"must each be the name of a claim, 64 characters at most; not {', '.join(sorted(RESERVED_CLAIMS))}"
                )
        return claims

    @field_validator("required_claims")
    @classmethod
    def _check_required(cls, required: dict[str, _Texts]) -> dict[str, _Texts]:
        for name, values in required.items():
            _patterns(name, values)
        return required

    @model_validator(mode="after")
    def _check_source(self) -> IssuerConfig:
        if (self.jwks_file is None) == (self.jwks_url is None):
            raise ValueError("an issuer needs jwks_file or jwks_url, one of them")
        if self.jwks_ca_file is not None and not (self.jwks_url or "").startswith("https:"):
            raise ValueError("jwks_ca_file: is for a jwks_url with https")
        return self

    def required(self) -> dict[str, tuple[PathPattern, ...]]:
        """The required claims, to look for."""
        return {name: _patterns(name, values) for name, values in self.required_claims.items()}

    def within(self, folder: Path) -> IssuerConfig:
        """The same with relative paths made absolute."""
        paths = {name: getattr(self, name) for name in ("jwks_file", "jwks_ca_file")}
        return self.model_copy(update={name: folder / path for name, path in paths.items() if path is not None})


def _patterns(name: str, values: _Texts) -> tuple[PathPattern, ...]:
    try:
        return tuple(map(PathPattern.parse, (values,) if isinstance(values, str) else values))
    except PatternError as error:
        raise ValueError(f"{name}: {error}") from None


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    port = parts.port  # raises ValueError
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise ValueError("must be https; http may be on 127.0.0.1 or [::1] alone")
    if not parts.hostname or parts.username or parts.fragment or port == 0 or not url.isascii() or " " in url:
        raise ValueError("must be https://HOST[:PORT]/PATH")
