"""The `[[grants]]` tables, of the configuration or of a file of grants."""

from __future__ import annotations

import datetime
import re
import zoneinfo
from typing import Annotated, Any

from pydantic import AfterValidator, Field, PrivateAttr, field_validator, model_validator

from privyseal_service.config.fields import KeyName, Live, Model, PatternField, SchemeField, Texts, by_value, unique
from privyseal_service.domain.grants import CONTEXT_FIELDS, ClaimRule, Counted, Grant, Rate
from privyseal_service.domain.operation_names import GRANTABLE, Operation
from privyseal_service.domain.patterns import PathPattern, PatternError
from privyseal_service.domain.time_window import DAYS, Hours

_RATE = re.compile(r"([1-9][0-9]{0,8})\s*/\s*(?:([1-9][0-9]{0,4})\s*)?(second|minute|hour|day)s?")
_UNIT_S = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}

_OperationField = Annotated[
    Operation, by_value({o.value: o for o in (*GRANTABLE, Operation.LIST_RECORDS)}, "an operation")
]
_Day = Annotated[str, by_value({day: day for day in DAYS}, "a day")]
_ContextField = Annotated[str, by_value({name: name for name in CONTEXT_FIELDS}, "a field of the context")]


class HoursConfig(Model):
    """When a grant is valid: days, hours as `08:00-18:00`, and an IANA time zone."""

    days: Live[Annotated[tuple[_Day, ...], Field(min_length=1)]] = DAYS
    hours: Live[str] = "00:00-24:00"
    timezone: Live[str] = "UTC"

    @model_validator(mode="after")
    def _check(self) -> HoursConfig:
        self.parsed()
        return self

    def parsed(self) -> Hours:
        """Return the window in the form that is compared with a clock. Raises ValueError."""
        return Hours.parse(frozenset(self.days), self.hours, _zone(self.timezone), self.timezone)


def _zone(name: str) -> datetime.tzinfo:
    if name == "UTC":
        return datetime.UTC
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(
            "timezone must be an IANA time zone such as Europe/Berlin; if it is one, install tzdata on this machine"
        ) from None


class GrantConfig(Model):
    """A grant as the file has it; see `domain.grants.Grant`. A grant of `list-records` has no other operation and no
    keys."""

    name: Live[Annotated[str, Field(min_length=1, max_length=128)]]
    callers: Live[Annotated[tuple[PatternField, ...], Field(min_length=1)]]
    keys: Live[tuple[KeyName, ...]] = ()
    operations: Live[Annotated[tuple[_OperationField, ...], Field(min_length=1)]]
    schemes: Live[Annotated[tuple[SchemeField, ...], Field(min_length=1)] | None] = None
    claims: Live[dict[str, Texts]] = Field(default_factory=dict)
    window: Live[HoursConfig | None] = None
    context: Live[Annotated[tuple[_ContextField, ...], AfterValidator(unique)]] = ()
    rate: Live[str | None] = None
    daily_quota: Live[Annotated[int, Field(ge=1, le=1_000_000_000)] | None] = None
    counted: Live[Annotated[Counted, by_value({c.value: c for c in Counted}, "one of")]] = Counted.GRANT
    priority: Live[Annotated[int, Field(ge=-100, le=100)]] = 0
    _origin: str = PrivateAttr(default="")

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not name.isprintable():
            raise ValueError("must have printable characters only")
        return name

    @field_validator("claims")
    @classmethod
    def _check_claims(cls, claims: dict[str, Texts]) -> dict[str, Texts]:
        for name, values in claims.items():
            _claim_rule(name, values)
        return claims

    @field_validator("rate")
    @classmethod
    def _check_rate(cls, text: str | None) -> str | None:
        if text is not None:
            _rate(text)
        return text

    @model_validator(mode="after")
    def _check_keys(self) -> GrantConfig:
        if Operation.LIST_RECORDS in self.operations:
            if len(self.operations) > 1 or self.keys or self.schemes:
                raise ValueError(
                    "list-records reads the audit trail, not a key; give it a separate grant, without keys and schemes"
                )
            if self.context or self.rate or self.daily_quota:
                raise ValueError("list-records has no context and is not counted; remove context, rate and daily_quota")
        elif not self.keys:
            raise ValueError("keys must not be empty")
        return self

    @model_validator(mode="after")
    def _check_oidc(self) -> GrantConfig:
        if self.claims and not all(pattern.is_oidc for pattern in self.callers):
            raise ValueError("claims need callers that are all oidc:ISSUER:SUBJECT, since only tokens have claims")
        return self

    @property
    def origin(self) -> str:
        """The file that it was read from: `file` of the validation context, by default an empty string."""
        return self._origin

    def model_post_init(self, context: dict[str, Any] | None, /) -> None:
        """Keep the name of the file."""
        self._origin = (context or {}).get("file", "")

    def grant(self) -> Grant:
        """Return the grant in the form that decides."""
        return Grant(
            self.name,
            self.callers,
            frozenset(self.keys),
            frozenset(self.operations),
            None if self.schemes is None else frozenset(self.schemes),
            tuple(_claim_rule(name, values) for name, values in self.claims.items()),
            self.window.parsed() if self.window else None,
            self.context,
            _rate(self.rate) if self.rate else None,
            self.daily_quota,
            self.counted,
            self.priority,
            self._origin,
        )


def _claim_rule(name: str, values: Texts) -> ClaimRule:
    texts = (values,) if isinstance(values, str) else values
    try:
        return ClaimRule(name, tuple(map(PathPattern.parse, texts)))
    except PatternError as error:
        raise ValueError(f"{name}: {error}") from None


def _rate(text: str) -> Rate:
    match = _RATE.fullmatch(text)
    if not match:
        raise ValueError(
            "must be written as 100/second, 6000/minute or 500/5 minutes; units are second, minute, hour and day"
        )
    window_s = int(match[2] or 1) * _UNIT_S[match[3]]
    if window_s > 366 * 86_400:
        raise ValueError("must have a window of at most 366 days")
    return Rate(int(match[1]), window_s, text)
