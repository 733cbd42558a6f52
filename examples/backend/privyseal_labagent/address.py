"""Where a key is, and the settings: read strictly, without any I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields

from privyseal_backends.interface import CallerError, OperatorError

_URI = re.compile(r"labagent:(?P<socket>/[^?#]+)\?key=(?P<key>[A-Za-z0-9._-]{1,64})")


@dataclass(frozen=True)
class KeyAddress:
    """The agent's socket, and the key's name there."""

    socket: str
    key: str


@dataclass(frozen=True)
class Settings:
    """`[stores.labagent]`: how many connections to one agent (each carries one request at a time), and how many seconds
    opening a key may take."""

    connections: int = 4
    open_timeout_s: float = 5.0


def parse_uri(uri: str) -> KeyAddress:
    """Read a key's URI. Raises `CallerError`: nothing but another URI can mend it."""
    match = _URI.fullmatch(uri)
    if match is None:
        raise CallerError(
            "URI", "it does not name a key of an agent", "write labagent:/path/of/the.sock?key=NAME, and nothing more"
        )
    return KeyAddress(match["socket"], match["key"])


def parse_settings(settings: Mapping[str, object]) -> Settings:
    """Read the settings. Raises `OperatorError` for one that is not known or does not fit: a setting that is misspelt
    must not be passed over."""
    known = {field.name for field in fields(Settings)}
    for name, value in settings.items():
        if name not in known:
            raise OperatorError(
                "settings", f"[stores.labagent] has no setting {name}", f"it has {', '.join(sorted(known))}"
            )
        whole = name == "connections"
        if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not 0 < value <= 300:
            raise OperatorError("settings", f"{name} of [stores.labagent] is unfit", "write a number up to 300")
    return Settings(**settings)  # type: ignore[arg-type]  # each was checked above
