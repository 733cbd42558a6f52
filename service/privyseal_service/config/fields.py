"""What the tables of the configuration share: their base, and fields for the values that they write alike."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator

from privyseal_service.domain.names import CallerPattern
from privyseal_service.domain.operations import Scheme, SignatureScheme, WrapScheme

KEY_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"


class Model(BaseModel):
    """A table: an unknown setting and a wrong type are errors, and nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)


def by_value(members: dict[str, Any], what: str) -> PlainValidator:
    """A field that is written as one of the names."""

    def convert(value: object) -> object:
        if isinstance(value, str) and value in members:
            return members[value]
        raise ValueError(f"must be {what}: {', '.join(members)}")

    return PlainValidator(convert)


def _pattern(value: object) -> CallerPattern:
    if not isinstance(value, str):
        raise ValueError("must be a string")
    return CallerPattern.parse(value)


def unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """The values, none of them twice. Raises ValueError."""
    if len(set(values)) != len(values):
        raise ValueError("must not name one thing twice")
    return values


SchemeField = Annotated[Scheme, by_value({s.value: s for s in (*WrapScheme, *SignatureScheme)}, "a scheme")]
PatternField = Annotated[CallerPattern, PlainValidator(_pattern)]
Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]
KeyName = Annotated[str, Field(pattern=f"^{KEY_NAME}$")]
