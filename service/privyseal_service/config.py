"""The service's configuration: one TOML file, checked whole before anything is done with it.

Whatever is wrong with it is one sentence that names the field, or the line where the file is not TOML. Values never
appear in these sentences, since a key's URI may be among them.
"""

from __future__ import annotations

import difflib
import ipaddress
import json
import re
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    PlainValidator,
    ValidationError,
    field_validator,
    model_validator,
)

from privyseal_backends.interface import PURPOSES, CallerError, Export, Origin, Protection
from privyseal_backends.registry import uri_scheme
from privyseal_service.audit.settings import AuditConfig
from privyseal_service.callers import CallerPattern
from privyseal_service.grants import GRANTABLE, Grant, Operation
from privyseal_service.identity import DeniedCertificates
from privyseal_service.key_uris import resolve_paths
from privyseal_service.operations import MECHANISMS, Scheme, SignatureScheme, WrapScheme

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

KEY_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


class ConfigError(Exception):
    """The configuration cannot be used. The text is one sentence that names the file and the field or line."""


def _by_value(members: dict[str, Any], what: str) -> PlainValidator:
    def convert(value: object) -> object:
        if isinstance(value, str) and value in members:
            return members[value]
        raise ValueError(f"must be {what}: {', '.join(members)}")

    return PlainValidator(convert)


def _worded(members: type[Protection | Origin | Export]) -> dict[str, Any]:
    return {member.name.lower().replace("_", "-"): member for member in members}


def _pattern(value: object) -> CallerPattern:
    if not isinstance(value, str):
        raise ValueError("must be a string")
    return CallerPattern.parse(value)


_SchemeField = Annotated[Scheme, _by_value({s.value: s for s in (*WrapScheme, *SignatureScheme)}, "a scheme")]
_OperationField = Annotated[
    Operation, _by_value({o.value: o for o in (*GRANTABLE, Operation.LIST_RECORDS)}, "an operation")
]
_PatternField = Annotated[CallerPattern, PlainValidator(_pattern)]
_Seconds = Annotated[float, Field(gt=0, le=86400, allow_inf_nan=False)]
_KeyName = Annotated[str, Field(pattern=f"^{KEY_NAME}$")]


def _unique(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(set(values)) != len(values):
        raise ValueError("must not name one thing twice")
    return values


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)


class ServerConfig(_Model):
    """Limits of the process and of its listeners; times in seconds.

    `default_deadline_s` is for calls that come without a deadline. `open_wait_s` is how long the start waits for key
    stores before it serves without them. `max_connection_age_s` bounds how long a connection outlives a CA that was
    taken away; a call in flight may finish after it.

    `workers` is the number of worker processes: left out, one for each core; 0 serves in the process that the command
    line started. With `share_port`, another service of the same user may listen at the same addresses, as a new release
    does that takes over from an old one. At a stop, health says NOT_SERVING for `drain_wait_s`, so that balancers can
    turn away, and then calls in flight have `shutdown_grace_s`. A worker that says nothing for `hang_after_s` is
    replaced.
    """

    workers: Annotated[int, Field(ge=0, le=256)] | None = None
    share_port: bool = False
    drain_wait_s: Annotated[float, Field(ge=0, le=86400, allow_inf_nan=False)] = 0.0
    hang_after_s: Annotated[float, Field(ge=2, le=3600, allow_inf_nan=False)] = 5.0
    shutdown_grace_s: _Seconds = 10.0
    default_deadline_s: _Seconds = 30.0
    open_wait_s: _Seconds = 5.0
    handshake_timeout_s: _Seconds = 10.0
    max_connection_age_s: _Seconds = 600.0
    max_connection_idle_s: _Seconds = 300.0
    max_concurrent_streams: Annotated[int, Field(ge=1, le=100_000)] = 256


class ClientCAConfig(_Model):
    """A client CA and the names that it may vouch for."""

    file: Path
    names: Annotated[tuple[_PatternField, ...], Field(min_length=1)]


class ListenerConfig(_Model):
    """One address, and how its callers prove who they are."""

    address: str
    auth: Literal["mtls", "none"]
    certificate: Path | None = None
    certificate_key: Path | None = None
    client_cas: tuple[ClientCAConfig, ...] = ()
    allow_common_name: bool = False

    @field_validator("address")
    @classmethod
    def _check_address(cls, address: str) -> str:
        if not address.startswith("unix:"):
            split_address(address)
        elif len(address) == len("unix:") or address.startswith("unix://"):
            raise ValueError("must be unix: and the path of a socket")
        return address

    @model_validator(mode="after")
    def _check_auth(self) -> ListenerConfig:
        tls = {"certificate": self.certificate, "certificate_key": self.certificate_key, "client_cas": self.client_cas}
        if self.auth == "mtls":
            missing = [name for name, value in tls.items() if not value]
            if missing:
                raise ValueError(f'a listener with auth = "mtls" needs {" and ".join(missing)}')
        else:
            unused = [name for name, value in tls.items() if value]
            if unused:
                raise ValueError(f'a listener with auth = "none" has no TLS: take away {" and ".join(unused)}')
            if not is_local(self.address):
                raise ValueError(
                    'a listener with auth = "none" must be at an address of this machine alone '
                    '(127.0.0.0/8, [::1] or unix:PATH); anywhere else use auth = "mtls"'
                )
        return self


def split_address(address: str) -> tuple[str, int]:
    """Host (without brackets) and port of HOST:PORT. Raises ValueError."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})", address)
    if not match or int(match[2]) > 65535:
        raise ValueError("must be HOST:PORT, [IPV6]:PORT or unix:PATH")
    return match[1].strip("[]"), int(match[2])


def is_local(address: str) -> bool:
    """Whether only this machine can reach the address: a literal in 127.0.0.0/8, ::1 or a Unix socket. A host name is
    not: what it means is not ours to say."""
    if address.startswith("unix:"):
        return True
    try:
        ip = ipaddress.ip_address(split_address(address)[0])
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv4Address):
        return ip in ipaddress.IPv4Network("127.0.0.0/8")
    return ip == ipaddress.IPv6Address("::1")


class IdentityConfig(_Model):
    """Certificates that prove nothing any more, as `sha256:HEX` (of the DER) or `serial:HEX`, colons allowed."""

    denied_certificates: tuple[str, ...] = ()

    @field_validator("denied_certificates")
    @classmethod
    def _check(cls, values: tuple[str, ...]) -> tuple[str, ...]:
        normal = tuple(
            kind + colon + rest.replace(":", "").lower() for kind, colon, rest in (v.partition(":") for v in values)
        )
        for value in normal:
            if not re.fullmatch(r"sha256:[0-9a-f]{64}|serial:[0-9a-f]{1,40}", value):
                raise ValueError("must each be sha256: and 64 hex digits, or serial: and hex digits")
        return normal

    def denied(self) -> DeniedCertificates:
        """The same, to look up."""
        parts = [value.split(":") for value in self.denied_certificates]
        return DeniedCertificates(
            frozenset(rest for kind, rest in parts if kind == "sha256"),
            frozenset(int(rest, 16) for kind, rest in parts if kind == "serial"),
        )


class LogConfig(_Model):
    """How the log on standard error is written."""

    format: Literal["console", "json"] = "console"
    level: Literal["debug", "info", "warning", "error"] = "info"


class CustodyBar(_Model):
    """The least that a key must have on each finding; a key below it is not served."""

    protection: Annotated[Protection, _by_value(_worded(Protection), "one of")] = Protection.UNKNOWN
    origin: Annotated[Origin, _by_value(_worded(Origin), "one of")] = Origin.UNKNOWN
    export: Annotated[Export, _by_value(_worded(Export), "one of")] = Export.POSSIBLE_ONCE


class KeyConfig(_Model):
    """A key: where it is, what it is enrolled for, and what must be true of it.

    With `required`, a key store that is away stops the start.
    """

    name: _KeyName
    uri: Annotated[str, Field(min_length=1)]
    schemes: Annotated[tuple[_SchemeField, ...], Field(min_length=1), AfterValidator(_unique)]
    fingerprint: str | None = None
    custody: CustodyBar = CustodyBar()
    required: bool = False

    @field_validator("uri")
    @classmethod
    def _check_uri(cls, uri: str) -> str:
        try:
            uri_scheme(uri)
        except CallerError as error:
            raise ValueError(f"{error.message}; {error.remedy}") from None
        return uri

    @field_validator("fingerprint")
    @classmethod
    def _check_fingerprint(cls, value: str | None) -> str | None:
        if value is not None and not _FINGERPRINT.fullmatch(value):
            raise ValueError("must be the 64 lower-case hex digits that `privyseal-server check` prints")
        return value

    @field_validator("schemes")
    @classmethod
    def _one_purpose(cls, schemes: tuple[Scheme, ...]) -> tuple[Scheme, ...]:
        by_purpose = {PURPOSES[MECHANISMS[scheme]]: scheme.value for scheme in reversed(schemes)}
        if len(by_purpose) > 1:
            raise ValueError(
                f"{' and '.join(sorted(by_purpose.values()))} need a key each, since one key must not give a block of "
                "bytes two meanings; make a second key"
            )
        return schemes


class GrantConfig(_Model):
    """A grant as it is written; see `grants.Grant`. One of `list-records` is for nothing else, and names no keys."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    callers: Annotated[tuple[_PatternField, ...], Field(min_length=1)]
    keys: tuple[_KeyName, ...] = ()
    operations: Annotated[tuple[_OperationField, ...], Field(min_length=1)]
    schemes: Annotated[tuple[_SchemeField, ...], Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _check_keys(self) -> GrantConfig:
        if Operation.LIST_RECORDS in self.operations:
            if len(self.operations) > 1 or self.keys or self.schemes:
                raise ValueError(
                    "list-records is about the audit trail, not about a key: give it a grant of its own, without keys "
                    "and schemes"
                )
        elif not self.keys:
            raise ValueError("keys: must not be empty")
        return self

    def grant(self) -> Grant:
        """The same, to decide with."""
        schemes = None if self.schemes is None else frozenset(self.schemes)
        return Grant(self.name, self.callers, frozenset(self.keys), frozenset(self.operations), schemes)


class Config(_Model):
    """The whole configuration."""

    server: ServerConfig = ServerConfig()
    log: LogConfig = LogConfig()
    identity: IdentityConfig = IdentityConfig()
    audit: AuditConfig | None = None
    listeners: Annotated[tuple[ListenerConfig, ...], Field(min_length=1)]
    stores: dict[str, dict[str, JsonValue]] = {}
    keys: Annotated[tuple[KeyConfig, ...], Field(min_length=1)]
    grants: tuple[GrantConfig, ...] = ()

    @model_validator(mode="after")
    def _check_names(self) -> Config:
        for what, names in (("keys", [k.name for k in self.keys]), ("grants", [g.name for g in self.grants])):
            twice = [name for name, times in Counter(names).items() if times > 1]
            if twice:
                raise ValueError(f"{what}: two have the name {twice[0]!r}")
        used = {uri_scheme(key.uri) for key in self.keys}
        for scheme in self.stores:
            if scheme not in used:
                raise ValueError(
                    f"stores.{scheme}: no key is in this key store; those of the keys are {', '.join(used)}"
                )
        known = {key.name for key in self.keys}
        for place, grant in enumerate(self.grants):
            for name in grant.keys:
                if name not in known:
                    raise ValueError(f"grants[{place}].keys: there is no key named {name!r}")
        return self

    def key(self, name: str) -> KeyConfig:
        """The key of this name. Raises ConfigError, naming those that there are."""
        for key in self.keys:
            if key.name == name:
                return key
        raise ConfigError(f"the configuration has no key {name!r}; it has {', '.join(key.name for key in self.keys)}")


def load_config(file: Path) -> Config:
    """Read and check the configuration; relative paths in it are relative to its folder. Raises ConfigError."""
    try:
        text = file.read_bytes().decode()
    except FileNotFoundError:
        raise ConfigError(f"{file}: there is no such file; name the configuration with --config") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: is not UTF-8, so it is not TOML") from None
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: is not TOML: {error}") from None
    return parse_config(data, str(file), file.absolute().parent)


def parse_config(data: dict[str, Any], name: str, folder: Path) -> Config:
    """Check a configuration that was read from the file `name` in `folder`. Raises ConfigError."""
    try:
        # From JSON, strict means what TOML means: a list is a tuple, but no string is a number.
        config = Config.model_validate_json(json.dumps(data, default=_refuse))
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(f"{name}: {_sentence(problems[0])}{more}") from None
    except TypeError as error:
        raise ConfigError(f"{name}: {error}") from None
    return _absolute(config, folder)


def _refuse(value: object) -> object:
    raise TypeError(f"a {type(value).__name__} is no value of any setting; write it as a string or a number")


def _sentence(problem: ErrorDetails) -> str:
    where = ""
    for part in problem["loc"]:
        where += f"[{part}]" if isinstance(part, int) else f".{part}" if where else str(part)
    match problem["type"]:
        case "extra_forbidden":
            meant = difflib.get_close_matches(str(problem["loc"][-1]), _settings(problem["loc"][:-1]), n=1)
            return f"{where}: there is no such setting" + (f"; did you mean {meant[0]}?" if meant else "")
        case "missing":
            return f"{where}: is missing"
        case "too_short":
            return f"{where}: must not be empty"
        case "string_pattern_mismatch":
            return f"{where}: must be letters, digits, dots, - and _, beginning with a letter or digit, at most 128"
        case "value_error":
            said = str(problem["ctx"]["error"])
        case _:
            said = problem["msg"][0].lower() + problem["msg"][1:]
    return f"{where}: {said}" if where else said


def _settings(loc: tuple[int | str, ...]) -> list[str]:
    """The names of the settings that there are at a place, as far as the models tell."""
    model: Any = Config
    for part in loc:
        if isinstance(part, str):
            model = _NESTED.get(part, model)
    return list(model.model_fields)


_NESTED: dict[str, type[BaseModel]] = {
    "server": ServerConfig,
    "log": LogConfig,
    "identity": IdentityConfig,
    "audit": AuditConfig,
    "listeners": ListenerConfig,
    "client_cas": ClientCAConfig,
    "keys": KeyConfig,
    "custody": CustodyBar,
    "grants": GrantConfig,
}


def _absolute(config: Config, folder: Path) -> Config:
    """The configuration with every relative path made absolute."""
    listeners = []
    for listener in config.listeners:
        cas = tuple(ca.model_copy(update={"file": folder / ca.file}) for ca in listener.client_cas)
        update: dict[str, Any] = {"client_cas": cas}
        for name in ("certificate", "certificate_key"):
            path = getattr(listener, name)
            update[name] = folder / path if path else None
        if listener.address.startswith("unix:"):
            update["address"] = f"unix:{folder / listener.address.removeprefix('unix:')}"
        listeners.append(listener.model_copy(update=update))
    keys = tuple(key.model_copy(update={"uri": resolve_paths(key.uri, folder)}) for key in config.keys)
    audit = config.audit.within(folder) if config.audit else None
    return config.model_copy(update={"listeners": tuple(listeners), "keys": keys, "audit": audit})
