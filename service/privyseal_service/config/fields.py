"""What the models of the tables share: their base class, the marks for a reload, and types of fields."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, ValidationInfo

from privyseal_service.domain.names import CallerPattern
from privyseal_service.domain.operations import Scheme, SignatureScheme, WrapScheme

_T = TypeVar("_T")

_KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Model(BaseModel):
    """A table. Unknown settings and wrong types are errors; an instance never changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)


@dataclass(frozen=True)
class ReloadMark:
    """How a reload treats a setting: `needs_restart` is called with the old and the new value, which differ.

    `word` is what docs/configuration.md writes. The mark of a table, or of a list of tables, is for the table that
    appears or disappears and for the list that gets longer or shorter; otherwise the marks of its fields count.
    """

    word: str
    needs_restart: Callable[[object, object], bool]


LIVE = ReloadMark("live", lambda _old, _new: False)
"""A reload puts the new value into effect."""

RESTART = ReloadMark("restart", lambda _old, _new: True)
"""The value is read at the start only."""

Live: TypeAlias = Annotated[_T, LIVE]
Restart: TypeAlias = Annotated[_T, RESTART]


def folder_of(info: ValidationInfo) -> Path:
    """Return the folder that relative paths are relative to: `folder` of the validation context, by default none."""
    folder = (info.context or {}).get("folder", Path())
    assert isinstance(folder, Path)
    return folder


def _resolve(path: Path, info: ValidationInfo) -> Path:
    return folder_of(info) / path


def by_value(members: dict[str, Any], what: str) -> PlainValidator:
    """Return the validator of a field that is written as one of the names in `members`."""

    def convert(value: object) -> object:
        if isinstance(value, str) and value in members:
            return members[value]
        raise ValueError(f"must be {what}: {', '.join(members)}")

    return PlainValidator(convert)


def _pattern(value: object) -> CallerPattern:
    if not isinstance(value, str):
        raise ValueError("must be a string")
    return CallerPattern.parse(value)


def _texts(value: object) -> str | tuple[str, ...]:
    if isinstance(value, str):
        return value
    if not isinstance(value, (list, tuple)) or not value or not all(isinstance(each, str) for each in value):
        raise ValueError("must be a string, or a list of at least one string")
    return tuple(value)


def _key_name(name: str) -> str:
    if not _KEY_NAME.fullmatch(name):
        raise ValueError("must be letters, digits, dots, - and _, beginning with a letter or digit, at most 128")
    return name


def unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the values. Raises ValueError where one is there twice."""
    if len(set(values)) != len(values):
        raise ValueError("must not have a value twice")
    return values


PathField = Annotated[Path, AfterValidator(_resolve)]
"""A path; a relative one is relative to the folder of the configuration."""

SchemeField = Annotated[Scheme, by_value({s.value: s for s in (*WrapScheme, *SignatureScheme)}, "a scheme")]
PatternField = Annotated[CallerPattern, PlainValidator(_pattern)]
Texts = Annotated[str | tuple[str, ...], PlainValidator(_texts)]
"""One string, or a list of at least one."""

Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]
KeyName = Annotated[str, AfterValidator(_key_name)]
