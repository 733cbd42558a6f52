"""The settings of `[stores.pkcs11]`, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType

from privyseal_backends.interface import OperatorError


@dataclass(frozen=True)
class Settings:
    """How the backend uses modules and tokens. Every setting is optional."""

    sessions: int = 4
    """The most sessions on one token for signing, beside the one that holds the login: 1 to 256."""
    threads: int | None = None
    """Signing threads for one token, each with a session of its own: 1 to `sessions`. Left out, it is `sessions`;
    for a token known to be software, which works on the service's own cores, no more than those of this process."""
    group: int = 16
    """How many inputs a signing thread takes at once and answers by one wake-up: 1 to 256."""
    read_write: bool = False
    """Open sessions read-write; AWS CloudHSM wants it."""
    init_strings: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """What to pass to a module in C_Initialize, by the module's absolute path, as NSS's
    `configdir='sql:…' …`."""
    try_low_pin_count: bool = False
    """Log in although the token says that the last login failed. Left out, the backend refuses: a service that starts
    again and again with a wrong PIN would lock the token."""
    open_timeout_s: float = 30.0
    """Seconds until a module that does not answer while a key is opened counts as unavailable."""
    create_timeout_s: float = 300.0
    """The same while a key is made; small devices take minutes for an RSA key."""
    close_timeout_s: float = 10.0
    """Seconds that `close` waits for calls inside a module."""
    hang_after_s: float = 5.0
    """Seconds that a signature, a decryption or a search may take inside the module before it counts as hanging, which
    nothing but a new process mends. Raise it above what a slow device, or an HSM cluster that fails over, may take."""
    wait_for_token: bool = False
    """While a token is being found again, let calls wait for it until their deadline. Left out, they are answered at
    once that it is away, and when to come again."""


def _integer(low: int, high: int) -> Callable[[object], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _seconds(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= 3600


def _boolean(value: object) -> bool:
    return isinstance(value, bool)


def _by_file(value: object) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(path, str) and path.startswith("/") and isinstance(text, str) and text
        for path, text in value.items()
    )


_CHECKS: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "sessions": (_integer(1, 256), "a whole number from 1 to 256"),
    "threads": (_integer(1, 256), "a whole number from 1 to 256"),
    "group": (_integer(1, 256), "a whole number from 1 to 256"),
    "read_write": (_boolean, "true or false"),
    "init_strings": (_by_file, 'a table by absolute path, { "/path/module.so" = "…" }'),
    "try_low_pin_count": (_boolean, "true or false"),
    "open_timeout_s": (_seconds, "a number of seconds up to 3600"),
    "create_timeout_s": (_seconds, "a number of seconds up to 3600"),
    "close_timeout_s": (_seconds, "a number of seconds up to 3600"),
    "hang_after_s": (_seconds, "a number of seconds up to 3600"),
    "wait_for_token": (_boolean, "true or false"),
}


def parse_settings(settings: Mapping[str, object]) -> Settings:
    """Check the settings. Raises `OperatorError` for one that is unknown or unfit."""
    for name, value in settings.items():
        if name not in _CHECKS:
            known = ", ".join(each.name for each in fields(Settings))
            raise OperatorError("settings", f"[stores.pkcs11] has no setting {name}", f"it has {known}")
        check, wanted = _CHECKS[name]
        if not check(value):
            raise OperatorError("settings", f"{name} of [stores.pkcs11] is unfit", f"write {wanted}")
    parsed = Settings(**settings)  # type: ignore[arg-type]  # each value was checked above
    if parsed.threads is not None and parsed.threads > parsed.sessions:
        raise OperatorError(
            "settings", "threads of [stores.pkcs11] is more than sessions", "each thread has a session: raise sessions"
        )
    return parsed
