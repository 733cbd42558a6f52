"""The settings `[stores.awskms]`, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from privyseal_backends.aws_kms.address import COUNTS, FIELDS, FLAGS, NUMBERS, Connection
from privyseal_backends.interface import OperatorError


@dataclass(frozen=True)
class Settings:
    """`[stores.awskms]`. Times are in seconds.

    `region`, `endpoint`, `sts_endpoint`, `profile`, `role` and `fips` are what a key's URI does not say (`defaults`).
    `connections` (1 to 512) is how many calls are in flight to one endpoint with one identity, and `group_connections`
    how many of them one group of inputs may take. `connect_timeout_s` and `read_timeout_s` (0.05 to 60) bound one
    attempt, `open_timeout_s` (0.05 to 600) the opening of a key. `quota_per_s` is the most Sign and Decrypt calls a
    second that the service's processes make together for one account in one Region, an equal part each; without it
    there is no limit. `probe` asks AWS KMS when a key is opened whether the credentials may use it.
    """

    defaults: Connection = field(default_factory=Connection)
    connections: int = 32
    group_connections: int = 8
    connect_timeout_s: float = 1.0
    read_timeout_s: float = 3.0
    open_timeout_s: float = 10.0
    quota_per_s: float | None = None
    probe: bool = True


def _refuse_setting(name: str, wanted: str) -> NoReturn:
    raise OperatorError("settings", f"{name} in [stores.awskms] {wanted}", "mend it, or leave it out")


def parse_settings(settings: Mapping[str, object]) -> Settings:
    """Read `[stores.awskms]`. Raises `OperatorError` for an unknown or an unfit setting."""
    defaults: dict[str, str | bool] = {}
    own: dict[str, float | int | bool] = {}
    for name, value in settings.items():
        if name in FLAGS:
            if not isinstance(value, bool):
                _refuse_setting(name, "is not true or false")
            (defaults if name in FIELDS else own)[name] = value
        elif name in FIELDS:
            fault = FIELDS[name](value) if isinstance(value, str) else "is not a text"
            if fault:
                _refuse_setting(name, fault)
            defaults[name] = str(value)
        elif name in NUMBERS or name in COUNTS:
            own[name] = _number(name, value)
        else:
            known = ", ".join(sorted({*FIELDS, *FLAGS, *NUMBERS, *COUNTS}))
            raise OperatorError("settings", f"[stores.awskms] does not know {name!r}", f"known are {known}")
    return Settings(Connection(**defaults), **own)  # type: ignore[arg-type]  # each was checked above


def _number(name: str, value: object) -> float | int:
    least, most = NUMBERS.get(name) or COUNTS[name]
    whole = name in COUNTS
    wanted = f"is not a {'whole ' if whole else ''}number from {least:g} to {most:g}"
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        _refuse_setting(name, wanted)
    if not least <= value <= most:
        _refuse_setting(name, wanted)
    return value
