"""The `[[keys]]` tables: where each key is, what it is enrolled for, and what must be true of it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from privyseal_backends.interface import PURPOSES, CallerError, Export, Origin, Protection
from privyseal_backends.registry import store_uris, uri_scheme
from privyseal_service.config.fields import KeyName, Live, Model, SchemeField, by_value, folder_of, unique
from privyseal_service.domain.operations import MECHANISMS, Scheme

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


def _names(members: type[Protection | Origin | Export]) -> dict[str, Any]:
    return {member.name.lower().replace("_", "-"): member for member in members}


class MinimumCustody(Model):
    """The minimum of each custody finding; a key below it is not served."""

    protection: Live[Annotated[Protection, by_value(_names(Protection), "one of")]] = Protection.UNKNOWN
    origin: Live[Annotated[Origin, by_value(_names(Origin), "one of")]] = Origin.UNKNOWN
    export: Live[Annotated[Export, by_value(_names(Export), "one of")]] = Export.POSSIBLE_ONCE


class KeyConfig(Model):
    """A key: where it is, what it is enrolled for, and what must be true of it.

    With `required`, the start fails while the key store is unavailable. `state = "frozen"` stops every use of the key
    as soon as the configuration is read again.
    """

    name: Live[KeyName]
    uri: Live[Annotated[str, Field(min_length=1)]]
    schemes: Live[Annotated[tuple[SchemeField, ...], Field(min_length=1), AfterValidator(unique)]]
    fingerprint: Live[str | None] = None
    custody: Live[MinimumCustody] = MinimumCustody()
    required: Live[bool] = False
    state: Live[Literal["serving", "frozen"]] = "serving"

    @field_validator("uri")
    @classmethod
    def _check_uri(cls, uri: str, info: ValidationInfo) -> str:
        try:
            uri_scheme(uri)
        except CallerError as error:
            raise ValueError(f"{error.message}; {error.remedy}") from None
        return store_uris(uri).resolve_paths(uri, folder_of(info))

    @field_validator("fingerprint")
    @classmethod
    def _check_fingerprint(cls, value: str | None) -> str | None:
        if value is not None and not _FINGERPRINT.fullmatch(value):
            raise ValueError("must be the 64 lower-case hex digits that `privyseal-server check` prints")
        return value

    @field_validator("schemes")
    @classmethod
    def _check_one_purpose(cls, schemes: tuple[Scheme, ...]) -> tuple[Scheme, ...]:
        by_purpose = {PURPOSES[MECHANISMS[scheme]]: scheme.value for scheme in reversed(schemes)}
        if len(by_purpose) > 1:
            raise ValueError(
                f"{' and '.join(sorted(by_purpose.values()))} need separate keys, since a block signed or decrypted by "
                "one key must have one meaning; make a second key"
            )
        return schemes
